"""The formulas of curves.pxd once more, for frameworks that trace: the same expressions in `jax.numpy` or `keras.ops`.

A curve is a function of (xp, t, its numbers), xp being the module that computes; what may enter here: no branch on t.
A traced schedule differs from the compiled one by the roundings of its number type: in float32 the time itself has 24
bits, so a rate is good to about t / steps * 2**-24 of the whole range; see the test that says how far, curve by curve.
"""
from __future__ import annotations

from collections.abc import Callable
from math import inf, log, nan, pi
from typing import Any

from fastlr._engine.program import Program

from .base import REGISTRY, Curve

Formula = Callable[..., Any]


def constant(xp: Any, t: Any, lr: float) -> Any:
    return lr + 0 * t


def exponential(xp: Any, t: Any, lr: float, decay: float) -> Any:
    return lr * xp.exp(-decay * t)


def geometric(xp: Any, t: Any, lr: float, factor: float) -> Any:
    return lr * power(xp, factor, t)


def step_decay(xp: Any, t: Any, lr: float, every: float, factor: float) -> Any:
    return lr * power(xp, factor, xp.floor(t / every))


def step_based(xp: Any, t: Any, lr: float, drop: float, every: float) -> Any:
    return lr * power(xp, drop, xp.floor((1 + t) / every))


def inverse_time(xp: Any, t: Any, lr: float, decay: float, every: float, staircase: float) -> Any:
    return lr / (1 + decay * (xp.floor(t / every) if staircase else t / every))


def inverse_sqrt(xp: Any, t: Any, lr: float, timescale: float) -> Any:
    return lr / xp.sqrt(1 + t / timescale)


def inverse_power(xp: Any, t: Any, lr: float, decay: float, exponent: float) -> Any:
    return lr * (1 + decay * t) ** -exponent


def noam(xp: Any, t: Any, d_model: float, warmup_steps: float, factor: float) -> Any:
    n = t + 1
    return factor / d_model**0.5 * xp.minimum(1 / xp.sqrt(n), n / warmup_steps**1.5)


def sigmoid(xp: Any, t: Any, lr: float, slope: float, middle: float) -> Any:
    return lr * logistic(xp, slope * (middle - t))


def linear(xp: Any, t: Any, lr: float, steps: float, final: float) -> Any:
    p = xp.minimum(t / steps, 1)
    return lr * (1 - p) + final * p


def log_linear(xp: Any, t: Any, lr: float, steps: float, final: float) -> Any:
    return lr * power(xp, final / lr, xp.minimum(t / steps, 1))


def polynomial(xp: Any, t: Any, lr: float, steps: float, exponent: float, final: float, cycle: float) -> Any:
    n = steps * xp.maximum(xp.ceil(t / steps), 1) if cycle else steps
    return mixed(lr, final, (1 - xp.minimum(t / n, 1)) ** exponent)


def one_minus_sqrt(xp: Any, t: Any, lr: float, steps: float, final: float) -> Any:
    return mixed(lr, final, 1 - xp.sqrt(xp.minimum(t / steps, 1)))


def one_minus_square(xp: Any, t: Any, lr: float, steps: float, final: float) -> Any:
    p = xp.minimum(t / steps, 1)
    return mixed(lr, final, (1 - p) * (1 + p))


def rex(xp: Any, t: Any, lr: float, steps: float, final: float) -> Any:
    p = xp.minimum(t / steps, 1)
    return mixed(lr, final, (1 - p) / (1 - p / 2))


def tanh(xp: Any, t: Any, lr: float, steps: float, final: float, lower: float, upper: float) -> Any:
    p = t / steps
    w = logistic(xp, 2 * (lower * (1 - p) + upper * p))
    return xp.where(p < 1, mixed(lr, final, w), final)


def cosine(xp: Any, t: Any, lr: float, steps: float, final: float) -> Any:
    return mixed(lr, final, half_sine_squared(xp, 1 - xp.minimum(t / steps, 1)))


def time_based(xp: Any, t: Any, lr: float, decay: float) -> Any:
    """As curves.pxd has it: sixteen factors, then Stirling."""
    n = xp.floor(t)
    x = 1 / decay if decay > 0 else inf
    if x > 1e30:
        return lr + 0 * t
    head = 1 + 0 * n
    for k in range(1, 16):
        head = head * xp.where(k < n, 1 + decay * k, 1)
    short = n <= 16
    rest = n if x >= 16 else xp.maximum(n - 16, 0)
    begin = x if x >= 16 else x + 16
    skipped = 0 if x >= 16 else rest * xp.log1p(16 * decay + 0 * n)
    u = xp.maximum(rest, 1) / begin
    s = u / (2 + u)
    y = s * s
    tail = sum(y**k / (2 * k + 1) for k in range(1, 17))
    logarithm = xp.log1p(u)
    mean = xp.where(u > 1, (1 + 1 / u) * logarithm - 1, s + (1 + s) * tail)
    total = skipped + rest * mean - logarithm / 2 + (stirling(begin + rest) - stirling(begin))
    long = xp.exp(-total) if x >= 16 else xp.exp(-total) / head
    return lr * xp.where(short, 1 / head, long)


def triangular(
    xp: Any, t: Any, lr: float, peak: float, up: float, down: float, per_cycle: float, per_update: float
) -> Any:
    cycle = xp.floor(t / (up + down))
    x = t - cycle * (up + down)
    w = xp.minimum(x / up, (up + down - x) / down)
    return mixed(peak, lr, w * amplitude(xp, per_cycle, cycle, per_update, t))


def sine(xp: Any, t: Any, lr: float, peak: float, steps: float, per_cycle: float, per_update: float) -> Any:
    cycle = xp.floor(t / (2 * steps))
    w = xp.sin(pi / 2 * (t / steps - 2 * cycle))
    return mixed(peak, lr, w * amplitude(xp, per_cycle, cycle, per_update, t))


def cosine_wave(
    xp: Any, t: Any, lr: float, peak: float, steps: float, per_cycle: float, per_update: float
) -> Any:
    cycle = xp.floor(t / (2 * steps))
    w = half_sine_squared(xp, t / steps - 2 * cycle)
    return mixed(peak, lr, w * amplitude(xp, per_cycle, cycle, per_update, t))


def saw(xp: Any, t: Any, lr: float, steps: float, final: float, per_cycle: float, per_update: float) -> Any:
    cycle = xp.floor(t / steps)
    return mixed(lr, final, (1 - (t / steps - cycle)) * amplitude(xp, per_cycle, cycle, per_update, t))


def sine_saw(xp: Any, t: Any, lr: float, steps: float, final: float, per_cycle: float, per_update: float) -> Any:
    cycle = xp.floor(t / steps)
    w = xp.sin(pi / 2 * (1 - (t / steps - cycle)))
    return mixed(lr, final, w * amplitude(xp, per_cycle, cycle, per_update, t))


def cosine_restarts(
    xp: Any, t: Any, lr: float, steps: float, final: float, longer: float, per_cycle: float, per_update: float
) -> Any:
    if longer == 1:
        cycle = xp.floor(t / steps)
        p = t / steps - cycle
    else:
        # (half a cycle's millionth later, so that a logarithm that errs at a boundary errs to the right side)
        cycle = xp.floor(xp.log1p((t + 1e-6 * steps) / steps * (longer - 1)) / log(longer))
        n = steps * power(xp, longer, cycle)
        p = xp.clip((t - (n - steps) / (longer - 1)) / n, 0, 1)
    return mixed(lr, final, half_sine_squared(xp, 1 - p) * amplitude(xp, per_cycle, cycle, per_update, t))


# what they share

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


def amplitude(xp: Any, per_cycle: float, cycle: Any, per_update: float, t: Any) -> Any:
    a = 1 if per_cycle == 1 else power(xp, per_cycle, cycle)
    return a if per_update == 1 else a * power(xp, per_update, t)


def stirling(x: Any) -> Any:
    r = 1 / x
    y = r * r
    return r * (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188))))


def noise(xp: Any, t: Any, first: float, second: float) -> Any:
    """The hash of program.pyx, for t < 2**32."""
    word, bits = words(xp)

    def stir(x: Any, word: Callable[[int], Any] = word, bits: Callable[[Any], Any] = bits) -> Any:
        x = bits((x ^ (x >> 16)) * word(0x85EBCA6B))
        x = bits((x ^ (x >> 13)) * word(0xC2B2AE35))
        return x ^ (x >> 16)

    def plain(x: int) -> int:
        stirred: int = stir(x, int, lambda y: y % 2**32)
        return stirred

    before = plain(plain(plain((int(first) + 0x9E3779B9) % 2**32) ^ int(second)))
    x = stir(as_words(xp, xp.floor(t)) ^ word(before))
    return as_floats(xp, x) / 2147483648.0 - 1


def words(xp: Any) -> tuple[Callable[[int], Any], Callable[[Any], Any]]:
    """How numbers of 32 bits are written in a framework, and what keeps a product to its lowest 32."""
    if hasattr(xp, "uint32"):
        return xp.uint32, lambda x: x
    if word_type() == "int64":             # (whose products wrap in the bits that are cut off)
        return int, lambda x: x & 0xFFFFFFFF
    import numpy as np

    return lambda x: xp.convert_to_tensor(np.uint32(x)), lambda x: x


def word_type() -> str:
    """What Keras computes with 32 bits in: torch lacks arithmetic in uint32, jax integers of 64 bits."""
    import keras

    return "int64" if keras.backend.backend() in ("torch", "numpy") else "uint32"


def as_words(xp: Any, t: Any) -> Any:
    return t.astype(xp.uint32) if hasattr(xp, "uint32") else xp.cast(t, word_type())


def as_floats(xp: Any, x: Any) -> Any:
    return x if hasattr(xp, "uint32") else xp.cast(x, "float32")


def traced(schedule: Program, xp: Any) -> Callable[[Any], Any]:
    """The schedule as a function of t that computes with the functions of `xp` alone."""
    parts = schedule._parts()
    formulas: dict[str, tuple[Formula, int]] = {}
    for name, cls in REGISTRY.items():
        if issubclass(cls, Curve):
            size = sum(field.in_struct for field in cls._fields.values())
            formulas[cls._struct()] = globals()[name], size

    def at(i: int, t: Any) -> Any:
        kind, left, right, struct, h = parts[i]
        if kind == "curve":
            formula, size = formulas[struct]
            return formula(xp, t, *h[:size])
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
