"""Learning-rate schedules: pure functions of t, the number of updates made, evaluated in C.

>>> s = schedules.cosine(1e-3, steps=10_000).warmup(500)
>>> s(0), s(250), s(500)
(0.0, 0.0005, 0.001)
"""
from .base import REGISTRY, Schedule, create_schedule, from_dict, list_schedules
from .composition import *
from .curves import *
from .cycles import *
from .layers import layerwise
from .phases import *

__all__ = ["Schedule", "create_schedule", "from_dict", "layerwise", "list_schedules", *sorted(REGISTRY)]
__all__ += ["from_torch", "parse"]     # noqa: F405  (below: what they need is imported when they are asked for)


def __getattr__(name: str) -> object:
    if name == "from_torch":
        from .interchange import from_torch

        return from_torch
    if name == "parse":
        from .expression import parse

        return parse
    raise AttributeError(f"module 'fastlr.schedules' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
