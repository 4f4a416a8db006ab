"""Dynamic loss scaling: the largest factor at which gradients stay finite."""
from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

LARGEST = 2.0**126                     # (whose inverse is the smallest float32 that is not flushed to zero)
SMALLEST = float(np.finfo(np.float32).tiny)


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
                     {"value": "init"}, "LossScale")

    def update(self, overflow: bool) -> None:
        """Update the scale after a step; `overflow` says whether one of its gradients was not finite.

        For several optimizers with one scale: pass `scale.value` to each step, then call this once for all of them.
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
        """All that later scales depend on, as plain values."""
        return {name: getattr(self, name) for name in ("value", "growth", "backoff", "interval", "streak")}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned; everything is checked before the first write."""
        who = "LossScale.load_state_dict"
        if not isinstance(d, Mapping) or d.keys() != set(self.__slots__):
            raise ValueError(f"{who}: expected the entries {', '.join(sorted(self.__slots__))}, got {d!r}")
        self._assign(d, {}, who)

    def _assign(self, new: Mapping[str, Any], names: Mapping[str, str], who: str) -> None:
        checked: dict[str, Any] = {}
        for name, low, high in (("value", SMALLEST, inf), ("growth", 1.0, inf), ("backoff", 0.0, 1.0)):
            value = new[name]
            if isinstance(value, bool | str) or not hasattr(value, "__float__"):
                raise TypeError(f"{who}: {names.get(name, name)} must be a number, got {value!r}")
            checked[name] = x = float(value)
            if not low <= x < high or (x == low and name != "value") or (name == "value" and x > LARGEST):
                bounds = f"a positive float32, from {SMALLEST:.3g} on" if name == "value" else f"in ({low:g}, {high:g})"
                raise ValueError(f"{who}: {names.get(name, name)} must be {bounds}, got {value!r}")
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
