"""Every optimizer: a class per rule, with its formula, its source and its bounded defaults.

Nothing here knows bytes, threads or instruction sets. A new optimizer is a rule in `fastlr/rules/*.pxd`, a class here
and a reference formula in the tests; lists, tests and tables follow. Modules import those before them alone:
`declaration` and `rule_lookup`, `rule_class`, `structure` and `groups`, `stages`, `binding`, `state`, `base`, then one
module for each family of rules. What goes around optimizers is in the modules that `LATER` names, imported when used.
"""
from typing import Any

from . import (
    adaptive,
    curvature,
    factored,
    gradient_descent,
    learning_rate_free,
    moments,
    projected,
    reducing,
    schedule_free,
    sign,
    spectral,
)
from .base import Optimizer
from .declaration import Hyper, within
from .groups import Group
from .loss_scale import LossScale
from .registry import create_optimizer, list_optimizers
from .rule_class import REGISTRY

#: The modules of rules, by family. Each class in them is a name of this package.
FAMILIES = (adaptive, curvature, factored, gradient_descent, learning_rate_free, moments, projected, reducing,
            schedule_free, sign, spectral)

globals().update({cls.__name__: cls for cls in REGISTRY.values()})         # (`__init__.pyi` has them written out)

__all__ = [
    "Group", "Hyper", "LossScale", "Optimizer", "create_optimizer", "list_optimizers", "within",
    *(cls.__name__ for cls in REGISTRY.values()),
]

LATER = {
    "EMA": "averages", "SWA": "averages", "WeightAverage": "averages",
    "LineSearch": "linesearch", "line_search": "linesearch",
    "LBFGS": "quasi_newton",
    "GradientCentralization": "wrappers", "Lookahead": "wrappers",
    "GradientAccumulation": "accumulation", "SAM": "sharpness", "Partition": "partition",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module 'fastlr.optimizers' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"fastlr.optimizers.{LATER[name]}"), name)
