"""How an optimizer's class body declares its hyper-parameters."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from numbers import Real
from typing import Any

Hyper = float | Callable[[int], float]


class Bounded:
    """A hyper-parameter in [low, high): read and set on the optimizer for all groups, on a group for that one."""

    __slots__ = ("default", "high", "low", "name")

    def __init__(self, default: float, low: float, high: float) -> None:
        self.default, self.low, self.high = default, low, high
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self.default
        first, *rest = (getattr(group, self.name) for group in optimizer.groups)
        if any(value is not first and value != first for value in rest):
            raise ValueError(f"{owner.__name__}: {self.name} differs between groups; read opt.groups[i].{self.name}")
        return first

    def __set__(self, optimizer: Any, value: Hyper) -> None:
        value = self.checked(value, type(optimizer).__name__)
        for group in optimizer.groups:
            setattr(group, self.name, value)

    def checked(self, value: Any, who: str) -> Hyper:
        """The value as a float, or the schedule that gives it; ValueError out of bounds, TypeError if neither."""
        if callable(value):
            schedule: Callable[[int], float] = value
            return schedule
        if isinstance(value, bool) or not (isinstance(value, Real) or hasattr(value, "__float__")) \
                or isinstance(value, str):
            raise TypeError(f"{who}: {self.name} must be a number or a schedule, got {value!r}")
        number = float(value)
        if not self.low <= number < self.high:
            raise ValueError(f"{who}: {self.name} must be in [{self.low:g}, {self.high:g}), got {value}")
        return number


class Start(Bounded):
    """What a slot holds before the first update: a number in [low, high), for the constructor only."""

    __slots__ = ("slot",)

    def __init__(self, slot: str, default: float, low: float, high: float) -> None:
        super().__init__(default, low, high)
        self.slot = slot


def within(default: float, low: float = 0.0, high: float = inf) -> Any:
    """Declare a hyper-parameter with a default, required to lie in [low, high)."""
    return Bounded(default, low, high)


def start(slot: str, default: float, low: float = 0.0, high: float = inf) -> Any:
    """Declare the value with which a slot begins."""
    return Start(slot, default, low, high)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the closest known name, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
