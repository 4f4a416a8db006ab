"""Dynamic loss scaling: as large a factor as small gradients need and large ones bear."""
from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

LARGEST = 2.0**126                     # (whose inverse is the smallest float32 that is not flushed to zero)
SMALLEST = float(np.finfo(np.float32).tiny)


class LossScale:
    """A factor for the loss that grows while gradients stay finite and shrinks when they do not.

    Multiply the loss by `scale.value` before the gradients are taken, then give the scale to the step, which divides
    them by it, leaves everything as it is if one is not finite, and moves the scale:

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
    smallest normal float32, where torch's reaches zero, and never grows beyond 2**126, whose inverse that is.
    Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740.

    Parameters
    ----------
    init
        The first scale.
    growth
        What multiplies it after `interval` steps in a row whose gradients were finite: more than 1.
    backoff
        What multiplies it when a gradient is not: in (0, 1).
    interval
        How many steps.

    Raises
    ------
    TypeError, ValueError
        If one of them is not as it must be; from `step` if the optimizer has not ``nonfinite="skip"``.
    """

    __slots__ = ("backoff", "growth", "interval", "streak", "value")
    value: float
    growth: float
    backoff: float
    interval: int
    streak: int

    def __init__(self, init: float = 2.0**16, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000) -> None:
        self._become({"value": init, "growth": growth, "backoff": backoff, "interval": interval, "streak": 0},
                     {"value": "init"}, "LossScale")

    def update(self, overflow: bool) -> None:
        """Move the scale after a step; `overflow` says whether one of its gradients was not finite.

        For several optimizers under one scale: give each step `scale.value`, and then this what came of them together.
        """
        if overflow:
            self.value, self.streak = max(float(np.float32(self.value * self.backoff)), SMALLEST), 0
            return
        self.streak += 1
        if self.streak >= self.interval:
            larger = self.value * self.growth
            if larger <= LARGEST:
                self.value = float(np.float32(larger))
            self.streak = 0

    def state_dict(self) -> dict[str, Any]:
        """All that the coming scales depend on, as plain values."""
        return {name: getattr(self, name) for name in ("value", "growth", "backoff", "interval", "streak")}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Become what `state_dict` described; everything is checked first."""
        who = "LossScale.load_state_dict"
        if not isinstance(d, Mapping) or d.keys() != set(self.__slots__):
            raise ValueError(f"{who}: expected the entries {', '.join(sorted(self.__slots__))}, got {d!r}")
        self._become(d, {}, who)

    def _become(self, new: Mapping[str, Any], spoken: Mapping[str, str], who: str) -> None:
        checked: dict[str, Any] = {}
        for name, low, behind in (("value", SMALLEST, inf), ("growth", 1.0, inf), ("backoff", 0.0, 1.0)):
            value = new[name]
            if isinstance(value, bool | str) or not hasattr(value, "__float__"):
                raise TypeError(f"{who}: {spoken.get(name, name)} must be a number, got {value!r}")
            checked[name] = x = float(value)
            if not low <= x < behind or (x == low and name != "value") or (name == "value" and x > LARGEST):
                room = f"a positive float32, from {SMALLEST:.3g} on" if name == "value" else f"in ({low:g}, {behind:g})"
                raise ValueError(f"{who}: {spoken.get(name, name)} must be {room}, got {value!r}")
        checked["value"] = float(np.float32(checked["value"]))
        for name, least in (("interval", 1), ("streak", 0)):
            value = new[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{who}: {name} must be an integer of at least {least}, got {value!r}")
            checked[name] = value
        for name, value in checked.items():
            setattr(self, name, value)

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return (f"LossScale({self.value:g}; growth={self.growth:g}, backoff={self.backoff:g}, "
                f"interval={self.interval}, streak={self.streak})")
