"""Learning-rate schedules: pure functions of t, the number of updates made, evaluated in C.

>>> s = schedules.cosine(1e-3, steps=10_000).warmup(500)
>>> s(0), s(250), s(500)
(0.0, 0.0005, 0.001)
"""
from .base import REGISTRY, Schedule, create_schedule, from_dict, list_schedules
from .composition import *  # noqa: F403
from .curves import *  # noqa: F403
from .cycles import *  # noqa: F403
from .phases import *  # noqa: F403

__all__ = ["Schedule", "create_schedule", "from_dict", "list_schedules", *sorted(REGISTRY)]


def __dir__() -> list[str]:
    return __all__
