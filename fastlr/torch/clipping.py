"""`clip_grad_norm_`, as `torch.nn.utils.clip_grad_norm_`: in one pass over many small gradients."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .._engine.torch_clipping import clip_gradients
from .._engine.torch_native import count_writes

#: Elements from which on torch's own is as fast: it uses threads.
MANY = 1 << 18


@torch.no_grad()
def clip_grad_norm_(parameters: torch.Tensor | Iterable[torch.Tensor], max_norm: float, norm_type: float = 2.0,
                    error_if_nonfinite: bool = False, foreach: bool | None = None) -> torch.Tensor:
    r"""Scale all gradients down together where their norm is above `max_norm`, in place; returns the norm.

    .. math:: g \leftarrow g \min\left(1, \frac{c}{\lVert g \rVert + 10^{-6}}\right)

    Euclidean norms of contiguous float32 and float64 gradients on the CPU, of up to 262,144 elements in all, are
    measured here, summed in double; everything else is torch's ``clip_grad_norm_``, with its arguments and errors. An
    optimizer with ``clip_norm=`` does the same in its step without writing to the gradients.

    >>> import torch, fastlr.torch
    >>> p = torch.nn.Parameter(torch.zeros(2))
    >>> p.grad = torch.tensor([3.0, 4.0])
    >>> fastlr.torch.clip_grad_norm_([p], 1.0), p.grad
    (tensor(5.), tensor([0.6000, 0.8000]))
    """
    params = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    if float(norm_type) == 2.0 and not error_if_nonfinite:
        found: Any = clip_gradients(params, float(max_norm), MANY)
        if found is not None:
            norm, written, double = found
            if written:
                count_writes(written)
            return torch.tensor(norm, dtype=torch.float64 if double else torch.float32)
    return torch.nn.utils.clip_grad_norm_(params, max_norm, norm_type, error_if_nonfinite, foreach)
