"""fastlr for PyTorch: a `torch.optim.Optimizer` for every optimizer of fastlr, `fastlr.torch.AdamW` and so on.

Torch's own signature, messages, state and dictionaries where torch has the class; fastlr's keywords otherwise. See
docs/torch.md. Torch is imported by this module alone, and fastlr is not compiled against it.
"""
from __future__ import annotations

from typing import Any

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("fastlr.torch needs PyTorch: pip install torch") from None

from torch.optim import LBFGS as LBFGS

from .interface import begin

begin()

from .classes import class_of, names  # noqa: E402
from .clipping import clip_grad_norm_ as clip_grad_norm_  # noqa: E402
from .offloading import offload as offload  # noqa: E402
from .optimizer import Optimizer as Optimizer  # noqa: E402
from .tuning import find_lr as find_lr  # noqa: E402
from .tuning import tune_lr as tune_lr  # noqa: E402


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'fastlr.torch' has no attribute {name!r}")
    return class_of(name)


def __dir__() -> list[str]:
    return sorted({"LBFGS", "Optimizer", "clip_grad_norm_", "find_lr", "offload", "tune_lr", *names()})
