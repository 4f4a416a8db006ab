"""Optimizers by their names."""
from __future__ import annotations

import fnmatch
from typing import Any

from .base import REGISTRY
from .declaration import nearest


def list_optimizers(pattern: str = "*") -> list[str]:
    """The names of all optimizers that match a shell pattern, in lower case.

    `LBFGS` is not among them, as its step takes no gradients but a closure; `create_optimizer` makes it all the same.

    >>> import fastlr
    >>> fastlr.list_optimizers("nadam*")
    ['nadam', 'nadamw']
    """
    return sorted(fnmatch.filter(REGISTRY, pattern.lower()))


def by_closure() -> dict[str, Any]:
    """Those whose step computes the gradients itself, by a closure; imported when they are asked for."""
    from .quasi_newton import LBFGS
    return {"lbfgs": LBFGS}


def create_optimizer(name: str, params: Any, **hyper: Any) -> Any:
    """An optimizer by its name (of any case), with the class's own arguments.

    >>> import numpy as np, fastlr
    >>> type(fastlr.create_optimizer("adamw", np.zeros(3), lr=0.1)).__name__
    'AdamW'
    """
    known: dict[str, Any] = REGISTRY if str(name).lower() in REGISTRY else REGISTRY | by_closure()
    if not isinstance(name, str) or name.lower() not in known:
        raise ValueError(f"create_optimizer: no optimizer {name!r}{nearest(str(name).lower(), known)}")
    return known[name.lower()](params, **hyper)
