"""Dynamic loss scaling: the largest factor at which gradients stay finite."""
from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from .declaration import nearest

LARGEST = 2.0**126                     # (whose inverse is the smallest float32 that is not flushed to zero)
SMALLEST = float(np.finfo(np.float32).tiny)
NUMBERS = ("value", "growth", "backoff", "interval", "streak")
NO_OTHER_NAMES: Mapping[str, str] = {}


class LossScale:
    """A factor for the loss that grows while gradients are finite and decreases when they are not.

    Multiply the loss by `scale.value` before the gradients are computed, then pass the scale to the step, which divides
    the gradients by it, changes nothing if one of them is not finite, and updates the scale:

    >>> import numpy as np, fastlr
    >>> scale = fastlr.LossScale(init=1024.0, interval=2)
    >>> p = np.ones(2, np.float32)
    >>> opt = fastlr.SGD(p, lr=0.5, nonfinite="skip")
    >>> for g in ([1.0, 1.0], [np.inf, 1.0], [1.0, 1.0], [1.0, 1.0]):
    ...     opt.step(np.float32(g) * np.float32(scale.value), grad_scale=scale)
    ...     print(scale.value, opt.t)
    1024.0 1
    512.0 1
    512.0 2
    1024.0 3

    The sequence of scales is that of ``torch.amp.GradScaler`` (a float32 at each step), but it never falls below the
    smallest normal float32, where torch's reaches zero, and never exceeds 2**126, the inverse of that.
    Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740.

    Parameters
    ----------
    init
        The first scale.
    growth
        Its factor after `interval` steps in a row with finite gradients: more than 1.
    backoff
        Its factor after a step with a gradient that is not finite: in (0, 1).
    interval
        How many steps.

        All of these, and `value` and `streak` (the steps since it changed), can be set.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range; from `step` if the optimizer was made without ``nonfinite="skip"``.
    """

    __slots__ = ("backoff", "growth", "interval", "streak", "value")
    value: float
    growth: float
    backoff: float
    interval: int
    streak: int

    def __init__(self, init: float = 2.0**16, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000) -> None:
        self._assign({"value": init, "growth": growth, "backoff": backoff, "interval": interval, "streak": 0},
                     "LossScale", {"value": "init"})

    def update(self, overflow: bool) -> None:
        """Update the scale after a step; `overflow` says whether one of its gradients was not finite.

        For several optimizers with one scale: pass `scale.value` to each step, then call this once for all of them.
        """
        value, streak = self.value, 0
        if overflow:
            value = max(float(np.float32(value * self.backoff)), SMALLEST)
        elif self.streak + 1 < self.interval:
            streak = self.streak + 1
        elif value * self.growth <= LARGEST:
            value = float(np.float32(value * self.growth))
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "streak", streak)

    def state_dict(self) -> dict[str, Any]:
        """All that later scales depend on, as plain values."""
        return {name: getattr(self, name) for name in NUMBERS}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned; everything is checked before the first write."""
        who = "LossScale.load_state_dict"
        if not isinstance(d, Mapping) or d.keys() != set(NUMBERS):
            raise ValueError(f"{who}: expected the entries {', '.join(sorted(NUMBERS))}, got {d!r}")
        self._assign(d, who)

    def _assign(self, new: Mapping[str, Any], who: str, names: Mapping[str, str] = NO_OTHER_NAMES) -> None:
        values = {name: checked(name, new[name], f"{who}: {names.get(name, name)}") for name in NUMBERS}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set one of its numbers, which is checked; AttributeError for what would do nothing."""
        who = type(self).__name__
        if name in NUMBERS:
            value = checked(name, value, f"{who}: {name}")
        elif not name.startswith("_") and not hasattr(type(self), name):
            hint = nearest(name, NUMBERS)
            if hint or type(self) is LossScale:            # (a subclass may have attributes of its own)
                raise AttributeError(f"{who} has no {name!r}{hint}")
        object.__setattr__(self, name, value)

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return (f"LossScale({self.value:g}; growth={self.growth:g}, backoff={self.backoff:g}, "
                f"interval={self.interval}, streak={self.streak})")


def checked(name: str, value: Any, who: str) -> float | int:
    """One of the numbers of a LossScale; TypeError or ValueError if it is none."""
    if name in ("interval", "streak"):
        least = int(name == "interval")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{who} must be an integer of at least {least}, got {value!r}")
        return value
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{who} must be a number, got {value!r}")
    x = float(value)
    if name == "value":
        if not SMALLEST <= x <= LARGEST:
            raise ValueError(f"{who} must be in [{SMALLEST:.3g}, {LARGEST:.3g}], got {value!r}")
        return float(np.float32(x))
    low, high = (1.0, inf) if name == "growth" else (0.0, 1.0)
    if not low < x < high:
        raise ValueError(f"{who} must be in ({low:g}, {high:g}), got {value!r}")
    return x
