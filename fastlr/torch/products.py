"""Muon's products by torch's matrix multiplication, in bfloat16, as torch's own Muon makes them."""
from __future__ import annotations

from typing import Any

import torch


class TorchProducts:
    """A Muon whose iteration runs in bfloat16, and in torch."""

    _steps: list[tuple[float, float, float]]

    def _update(self, update: Any, into: Any) -> None:
        x = torch.from_numpy(update).bfloat16()
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for a, b, c in self._steps:
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        torch.from_numpy(into).copy_(x.T if tall else x)
