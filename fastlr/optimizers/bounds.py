"""Bounds of parameters as one vector: for quasi-Newton steps within a box."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._engine.tensors import Array, Tensor
from .declaration import nearest


class Bounds:
    """The least and the largest value of each element of all parameters."""

    __slots__ = ("high", "low")

    def __init__(self, low: Array, high: Array) -> None:
        self.low, self.high = low, high

    def project(self, x: Array) -> Array:
        """The nearest vector within the bounds; NaN stays."""
        return np.minimum(np.maximum(x, self.low), self.high)

    def blocked(self, x: Array, g: Array) -> Array:
        """Which elements are at a bound that the negative gradient leads across."""
        return ((x <= self.low) & (g > 0)) | ((x >= self.high) & (g < 0))


def read_bounds(given: Any, tensors: Sequence[Tensor], dtype: Any, who: str) -> Bounds | None:
    """The bounds of all parameters; ValueError or TypeError unless they are some."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        names = [tensor.name for tensor in tensors]
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"{who}: bounds name no parameter: {unknown[0]!r}{nearest(str(unknown[0]), names)}")
        pairs = [given.get(name) for name in names]
    else:
        pairs = [given] * len(tensors)
    lows, highs = [], []
    for tensor, pair in zip(tensors, pairs, strict=True):
        pair = (None, None) if pair is None else pair
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{who}: bounds of {tensor.name!r} must be a pair (low, high), got {pair!r}")
        low, high = (bound(end, default, tensor, who) for end, default in zip(pair, (-np.inf, np.inf), strict=True))
        if not (low <= high).all():
            raise ValueError(f"{who}: bounds of {tensor.name!r}: low must be at most high, and neither NaN")
        if (low == np.inf).any() or (high == -np.inf).any():
            raise ValueError(f"{who}: bounds of {tensor.name!r}: no finite {tensor.array.dtype} lies within them")
        lows.append(low.reshape(-1))
        highs.append(high.reshape(-1))
    return Bounds(*(np.concatenate(ends).astype(dtype) if ends else np.zeros(0, dtype) for ends in (lows, highs)))


def bound(end: Any, default: float, tensor: Tensor, who: str) -> Array:
    """One end of an interval, in the parameter's dtype and shape."""
    try:
        with np.errstate(over="ignore"):
            numbers = np.asarray(default if end is None else end, dtype=np.float64).astype(tensor.array.dtype)
        return np.broadcast_to(numbers, tensor.array.shape)
    except (TypeError, ValueError):
        raise ValueError(f"{who}: bounds of {tensor.name!r} must be numbers or arrays of shape {tensor.array.shape}, "
                         f"got {end!r}") from None
