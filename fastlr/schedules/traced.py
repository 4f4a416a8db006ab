"""Schedules for frameworks that trace: evaluated with the functions of `jax.numpy` or `keras.ops` alone.

A traced schedule differs from the compiled one by the rounding errors of its number type: in float32 the time itself
has 24 bits, so a rate is accurate to about t / steps * 2**-24 of the whole range; parity/test_schedules_optax.py says
how far, schedule by schedule.
"""
from __future__ import annotations

from collections.abc import Callable
from math import nan
from types import SimpleNamespace
from typing import Any

from fastlr._engine.compiled_schedule import CURVE_FIELDS, CompiledSchedule

from .registry import REGISTRY


def noise(xp: Any, t: Any, first: float, second: float) -> Any:
    """The hash of compiled_schedule.pyx, for t < 2**32."""
    word, bits = words(xp)

    def mix(x: Any, word: Callable[[int], Any] = word, bits: Callable[[Any], Any] = bits) -> Any:
        x = bits((x ^ (x >> 16)) * word(0x85EBCA6B))
        x = bits((x ^ (x >> 13)) * word(0xC2B2AE35))
        return x ^ (x >> 16)

    def plain(x: int) -> int:
        hashed: int = mix(x, int, lambda y: y % 2**32)
        return hashed

    before = plain(plain(plain((int(first) + 0x9E3779B9) % 2**32) ^ int(second)))
    x = mix(as_words(xp, xp.floor(t)) ^ word(before))
    return as_floats(xp, x) / 2147483648.0 - 1


def words(xp: Any) -> tuple[Callable[[int], Any], Callable[[Any], Any]]:
    """Two functions: a 32-bit integer of a framework, and the lowest 32 bits of a product."""
    if hasattr(xp, "uint32"):
        return xp.uint32, lambda x: x
    if word_type() == "int64":             # (its products wrap only in bits that are cut off)
        return int, lambda x: x & 0xFFFFFFFF
    import numpy as np

    return lambda x: xp.convert_to_tensor(np.uint32(x)), lambda x: x


def word_type() -> str:
    """The type for 32-bit integers in Keras: torch has no arithmetic in uint32, jax no integers of 64 bits."""
    import keras

    return "int64" if keras.backend.backend() in ("torch", "numpy") else "uint32"


def as_words(xp: Any, t: Any) -> Any:
    return t.astype(xp.uint32) if hasattr(xp, "uint32") else xp.cast(t, word_type())


def as_floats(xp: Any, x: Any) -> Any:
    return x if hasattr(xp, "uint32") else xp.cast(x, "float32")


def traced(schedule: CompiledSchedule, xp: Any) -> Callable[[Any], Any]:
    """The schedule as a function of t that calls the functions of `xp` alone."""
    nodes = schedule._nodes()
    numbers = {i: SimpleNamespace(**dict(zip(CURVE_FIELDS[curve], h, strict=False)))
               for i, (kind, _, _, curve, h) in enumerate(nodes) if kind == "curve"}

    def at(i: int, t: Any) -> Any:
        kind, left, right, curve, h = nodes[i]
        if kind == "curve":
            return REGISTRY[curve]._formula(numbers[i], xp, t)
        if kind == "scale":
            return h[0] * at(left, t)
        if kind == "product":
            return at(left, t) * at(right, t)
        if kind == "clip":
            return xp.clip(at(left, t), h[0], h[1])
        if kind == "noise":
            return at(left, t) * (1 + h[0] * noise(xp, t, h[1], h[2]))
        if kind == "limit":
            return xp.where(t > h[0], nan, at(left, t))
        if kind == "branch":
            return xp.where(t < h[0], at(left, t), at(right, t))
        if kind == "shift":
            return at(left, xp.maximum(t - h[0], 0))
        if kind == "every":
            return at(left, xp.floor(t / h[0]))
        if kind == "k_decay":
            return at(left, h[0] * (t / h[0]) ** h[1])
        raise NotImplementedError(kind)

    return lambda t: at(0, t)
