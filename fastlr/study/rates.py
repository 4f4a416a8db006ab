"""The learning rate of a run: a constant, or a constant times a schedule that is written as text."""

from __future__ import annotations

import re

import numpy as np

from ..schedules import Schedule
from ..schedules.expression import parse


def rate(lr: float, schedule: str | None, updates: int) -> float | Schedule:
    """`lr` itself, or `lr` times the schedule of an expression, in which `updates` is the length of the run.

    >>> rate(0.1, "cosine(1, steps=updates)", 100)
    cosine(lr=1.0, steps=100, final=0.0, end='hold') * 0.1

    Raises `ValueError` for an expression that is no schedule, or whose rates during the run are negative or not
    finite.
    """
    if schedule is None:
        return lr
    made = parse(re.sub(r"\bupdates\b", str(updates), schedule)) * lr
    rates = made(np.arange(updates))
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(f"study: the schedule {schedule!r} gives a rate that is negative or not finite")
    return made
