"""fastlr for JAX: steps inside `jax.jit` on the CPU, in the memory of donated arrays, for every elementwise rule.

`fastlr.jax.AdamW(1e-3)` has `init` and `update`, as a transformation of optax, and `step`, which writes the parameters
themselves. See docs/jax.md. JAX is imported by this folder alone, and fastlr is not compiled against it.
"""
from __future__ import annotations

from typing import Any

try:
    import jax.ffi  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jax.ffi"):
        raise
    raise ImportError("fastlr.jax needs JAX 0.5 or later: pip install -U jax") from None

from .optimizer import Optimizer as Optimizer
from .optimizer import State as State
from .optimizer import class_of, names


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'fastlr.jax' has no attribute {name!r}")
    return class_of(name)


def __dir__() -> list[str]:
    return sorted({"Optimizer", "State", *names()})
