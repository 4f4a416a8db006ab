"""What the `_formula`s of several curves share: the functions of curves.pxd for frameworks that trace.

`xp` is the module that computes: jax.numpy, keras.ops or numpy.
"""
from __future__ import annotations

from math import log, pi
from typing import Any


def mixed(high: float, low: float, w: Any) -> Any:
    return high * w + low * (1 - w)


def half_sine_squared(xp: Any, p: Any) -> Any:
    return xp.sin(pi / 2 * p) ** 2


def logistic(xp: Any, x: Any) -> Any:
    return 1 / (1 + xp.exp(xp.minimum(x, 80.0)))         # beyond, the exponential overflows in float32


def power(xp: Any, base: float, exponent: Any) -> Any:
    """base ** exponent for a base that is a plain number."""
    if base == 0:
        return xp.where(exponent > 0, 0.0, 1.0)
    return xp.exp(exponent * log(base))


def amplitude(h: Any, xp: Any, cycle: Any, t: Any) -> Any:
    """amplitude_factor ** cycle * update_factor ** t"""
    a = 1 if h.amplitude_factor == 1 else power(xp, h.amplitude_factor, cycle)
    return a if h.update_factor == 1 else a * power(xp, h.update_factor, t)


def stirling(x: Any) -> Any:
    r = 1 / x
    y = r * r
    return r * (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188))))
