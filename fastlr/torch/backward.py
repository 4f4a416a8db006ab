"""Steps inside the backward pass: each parameter moves when its gradient is complete, which is then freed."""
from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .arguments import rule_of

ALL_GRADIENTS = ("clip_norm", "clip_zscore")


def needs_all_gradients(opt: Any) -> str | None:
    """The option, or the rule, by which a step needs all gradients first; None if each parameter may move alone."""
    for name in ALL_GRADIENTS:
        if opt._common.get(name) is not None:
            return f"{name}={opt._common[name]!r}"
    if opt._common.get("nonfinite", "propagate") != "propagate":
        return f"nonfinite={opt._common['nonfinite']!r}"
    for group in opt.param_groups:
        cls = rule_of(opt._peer, opt._rule_class, group).cls
        if cls.shared or cls.needs_loss or cls.needs_curvature:
            return f"the rule {cls.__name__}"
    return None


def step_in_backward(opt: Any, params: Sequence[torch.Tensor] | None = None) -> None:
    """Let each parameter (by default all of the optimizer) move when its gradient is complete.

    ValueError where a step needs all gradients first: by an option, or by the rule.
    """
    refused = needs_all_gradients(opt)
    if refused is not None:
        raise ValueError(f"{type(opt).__name__}: in_backward=True moves each parameter when its own gradient is there, "
                         f"and {refused} needs all gradients first; leave one of them out")
    handles = opt.__dict__.setdefault("_handles", {})
    opt._checked = False
    for param in (p for group in opt.param_groups for p in group["params"]) if params is None else params:
        if param.requires_grad and id(param) not in handles:
            handles[id(param)] = param.register_post_accumulate_grad_hook(hook_of(weakref.ref(opt)))


def hook_of(reference: weakref.ReferenceType[Any]) -> Callable[[torch.Tensor], None]:
    """A hook that moves the parameter it is called with, and frees its gradient."""
    def hook(param: torch.Tensor) -> None:
        opt = reference()
        if opt is not None:
            opt._move_one(param)

    return hook
