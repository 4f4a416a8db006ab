"""Learning-rate schedules: stateless functions of t, the number of updates made, evaluated in C.

>>> s = schedules.cosine(1e-3, steps=10_000).warmup(500)
>>> s(0), s(250), s(500)
(0.0, 0.0005, 0.001)
"""
from .base import Schedule
from .composition import *
from .cycles import *
from .endless import *
from .finite import *
from .layers import layerwise
from .phases import *
from .registry import REGISTRY, create_schedule, from_dict, list_schedules

__all__ = ["Schedule", "create_schedule", "from_dict", "layerwise", "list_schedules", *sorted(REGISTRY)]
__all__ += ["from_torch", "parse"]     # noqa: F405  (imported at the first use, as their modules import others)


def __getattr__(name: str) -> object:
    if name == "from_torch":
        from .interchange import from_torch

        return from_torch
    if name == "parse":
        from .expression import parse

        return parse
    if name.startswith("_"):
        raise AttributeError(f"module 'fastlr.schedules' has no attribute {name!r}")
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), __all__, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; list_schedules() has the names of all"
    raise AttributeError(f"module 'fastlr.schedules' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return __all__
