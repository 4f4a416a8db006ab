"""Products and bases of matrices by torch: in its threads, and for Muon in bfloat16, as torch's own makes them."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

#: Rows from which on a symmetric product is made by halves, three quarters of the work or less. (On one core of an
#: EPYC, 768 by 3072 in float32 take 59 ms instead of 75, an update of Muon of 1024 by 4096 takes 480 instead of 571.)
BY_HALVES = {torch.float32: 256, torch.float64: 256, torch.bfloat16: 512}


def add_gram(sums: torch.Tensor, x: torch.Tensor, keep: float = 1.0, share: float = 1.0) -> torch.Tensor:
    """sums <- keep sums + share x x^T, of symmetric sums."""
    half = len(x) // 2
    if len(x) < BY_HALVES[x.dtype]:
        return sums.addmm_(x, x.T, beta=keep, alpha=share)
    add_gram(sums[:half, :half], x[:half], keep, share)
    add_gram(sums[half:, half:], x[half:], keep, share)
    below = sums[half:, :half].addmm_(x[half:], x[:half].T, beta=keep, alpha=share)
    sums[:half, half:] = below.T
    return sums


def matrix_over(array: Any) -> torch.Tensor:
    """A tensor over the memory of a matrix, which is not to be written where the array may not be."""
    if not array.flags.writeable:      # (torch has no such tensors, and warns of one)
        interface = {**array.__array_interface__, "data": (array.ctypes.data, False)}
        array = np.asarray(SimpleNamespace(__array_interface__=interface))
    return torch.from_numpy(array)


class BFloat16Products:
    """A Muon whose iteration runs in bfloat16."""

    _steps: list[tuple[float, float, float]]

    def _update(self, update: Any, into: Any) -> None:
        x = torch.from_numpy(update).bfloat16()
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for a, b, c in self._steps:
            gram = add_gram(x.new_empty(len(x), len(x)), x, 0.0)
            x = torch.addmm(x, add_gram(gram.clone(), gram, b, c), x, beta=a)
        torch.from_numpy(into).copy_(x.T if tall else x)


class TorchProducts:
    """Products and QR decompositions in the precision of the rule.

    (On one core of an EPYC, products take up to 1.2 times as long as NumPy's, a QR decomposition in float32 half as
    long, and SOAP as long in all; of eigenvectors NumPy's take 0.9 times as long as torch's, and are used here, too.)
    """

    def _product(self, a: Any, b: Any) -> Any:
        return (matrix_over(a) @ matrix_over(b)).numpy()

    def _gram_added(self, sums: Any, x: Any, keep: float = 1.0, share: float = 1.0) -> Any:
        return add_gram(matrix_over(sums).clone(), matrix_over(x), keep, share).numpy()

    def _orthonormal(self, x: Any) -> Any:
        return torch.linalg.qr(matrix_over(x))[0].numpy()
