"""Curves without an end: one class per function of curves.pxd. The class body is the signature.

In all of them t counts optimizer updates, 0 being the first; rates are finite and >= 0. A wrong argument is a
ValueError, one of the wrong type a TypeError: `cosine: steps must be a positive integer, got 0`.
"""
from __future__ import annotations

from math import inf
from typing import Any

from .base import Curve
from .declaration import above, flag, number, positive, rate, within
from .formulas import logistic, power, stirling


class constant(Curve, example="constant(0.8)"):
    """The same rate for ever.

        eta_t = lr

    Args:
        lr: the rate.

    >>> schedules.constant(0.1)(1000)
    0.1

    Differs from torch ConstantLR, which multiplies by a factor for some first steps.
    """

    lr: float = rate()

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr + 0 * t


class exponential(Curve, example="exponential(1, decay=0.04)"):
    """Falls by the same proportion at every update.

        eta_t = lr * exp(-decay * t)

    Args:
        lr: the rate at t = 0.
        decay: per update, >= 0.

    >>> schedules.exponential(0.1, decay=0.5)([0, 1, 2]).round(4).tolist()
    [0.1, 0.0607, 0.0368]

    Differs from torch ExponentialLR, optax exponential_decay and Keras ExponentialDecay, which take the
    factor itself: that is `geometric(lr, factor=exp(-decay))`.
    """

    lr: float = rate()
    decay: float = within(0, inf)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr * xp.exp(-h.decay * t)


class geometric(Curve, example="geometric(1, factor=0.97)"):
    """Multiplied by the same factor at every update.

        eta_t = lr * factor ** t

    Args:
        lr: the rate at t = 0.
        factor: per update, >= 0; above 1 the rate grows, and once it is no finite number, asking for it is
            a ValueError (`.clip(0, highest)` prevents that).

    >>> schedules.geometric(0.1, factor=0.5)([0, 1, 2]).tolist()
    [0.1, 0.05, 0.025]

    Is torch ExponentialLR(gamma=factor). optax exponential_decay and Keras ExponentialDecay with
    `decay_rate` r and `decay_steps` T are `geometric(lr, factor=r ** (1 / T))`.
    """

    lr: float = rate()
    factor: float = within(0, inf)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr * power(xp, h.factor, t)


class step_decay(Curve, example="step_decay(1, every=25, factor=0.5)"):
    """Multiplied by a factor after every so many updates.

        eta_t = lr * factor ** floor(t / every)

    Args:
        lr: the rate of the first `every` updates.
        every: updates between two drops (the attribute is `interval`: `every` is a method).
        factor: of each drop, >= 0.

    >>> schedules.step_decay(1.0, every=2, factor=0.5)(range(6)).tolist()
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    Is torch StepLR(step_size=every, gamma=factor), and optax exponential_decay and Keras ExponentialDecay
    with staircase=True.
    """

    lr: float = rate()
    interval: int = positive(alias="every")
    factor: float = within(0, inf, default=0.1)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr * power(xp, h.factor, xp.floor(t / h.every))


class step_based(Curve, example="step_based(1, drop=0.5, every=25)"):
    """Multiplied by a factor after every so many updates, the first time one update early.

        eta_n = lr * drop ** floor((1 + n) / every)

    Args:
        lr: the rate before the first drop.
        drop: the factor of each drop, >= 0.
        every: updates between two drops (the attribute is `interval`: `every` is a method).

    >>> schedules.step_based(1.0, drop=0.5, every=2)(range(6)).tolist()
    [1.0, 0.5, 0.5, 0.25, 0.25, 0.125]

    Source: the textbook formula, "step-based decay", with its 1 + n. Differs from torch StepLR, optax and
    Keras, which drop one update later: that is `step_decay`.
    """

    lr: float = rate()
    drop: float = within(0, inf)
    interval: int = positive(alias="every")

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr * power(xp, h.drop, xp.floor((1 + t) / h.every))


class inverse_time(Curve, example="inverse_time(1, decay=0.1)"):
    """Falls as one over the time.

        eta_t = lr / (1 + decay * t / every)          with staircase: floor(t / every)

    Args:
        lr: the rate at t = 0.
        decay: >= 0, per `every` updates.
        every: the unit of time, in updates (the attribute is `interval`: `every` is a method).
        staircase: whether the rate changes only at multiples of `every`.

    >>> schedules.inverse_time(1.0, decay=1.0)([0, 1, 3]).tolist()
    [1.0, 0.5, 0.25]

    Source: Robbins & Monro 1951, doi:10.1214/aoms/1177729586, for the rate 1/t. Is Keras
    InverseTimeDecay(decay_steps=every, decay_rate=decay). Differs from `time_based`, which divides the
    *last rate*, not the first.
    """

    lr: float = rate()
    decay: float = within(0, inf)
    interval: int = positive(alias="every", default=1)
    staircase: bool = flag(default=False)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr / (1 + h.decay * (xp.floor(t / h.every) if h.staircase else t / h.every))


class inverse_sqrt(Curve, example="inverse_sqrt(1, timescale=4)"):
    """Falls as one over the square root of the time.

        eta_t = lr / sqrt(1 + t / timescale)

    Args:
        lr: the rate at t = 0.
        timescale: updates after which the rate has fallen to lr / sqrt(2), > 0.

    >>> schedules.inverse_sqrt(1.0, timescale=100)([0, 300, 9900]).tolist()
    [1.0, 0.5, 0.1]

    Source: the "rsqrt" of Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, and of T5. With a warmup of
    as many updates, `inverse_sqrt(lr, timescale=n).warmup(n)`, it is fairseq's inverse_sqrt and transformers'
    get_inverse_sqrt_schedule.
    """

    lr: float = rate()
    timescale: float = above(0)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr / xp.sqrt(1 + t / h.timescale)


class inverse_power(Curve, example="inverse_power(1, decay=0.1, power=2)"):
    """Falls as a power of the time.

        eta_t = lr * (1 + decay * t) ** -power

    Args:
        lr: the rate at t = 0.
        decay: per update, >= 0.
        power: >= 0.

    >>> schedules.inverse_power(1.0, decay=0.5, power=2.0)([0, 2, 6]).tolist()
    [1.0, 0.25, 0.0625]

    Is the "inv" policy of Caffe and LRBench. `inverse_time` is power 1, `inverse_sqrt` power 1/2,
    `robbins_monro` what lies between.
    """

    lr: float = rate()
    decay: float = within(0, inf)
    power: float = within(0, inf)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr * (1 + h.decay * t) ** -h.power


class noam(Curve, example="noam(512, warmup_steps=20)"):
    """Rises on a straight line, then falls as one over the square root of the time, its height set by the
    model.

        eta_t = factor * d_model ** -0.5 * min(n ** -0.5, n * warmup_steps ** -1.5)          n = t + 1

    Args:
        d_model: the width of the model, > 0.
        warmup_steps: the n at which it is highest.
        factor: of all rates, >= 0.

    >>> schedules.noam(d_model=100, warmup_steps=4)([0, 3, 15]).tolist()
    [0.0125, 0.05, 0.025]

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 3, whose step_num is n: the first
    update has n = 1, so that its rate is not 0.
    """

    d_model: float = above(0)
    warmup_steps: int = positive()
    factor: float = within(0, inf, default=1.0)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        n = t + 1
        return h.factor / h.d_model**0.5 * xp.minimum(1 / xp.sqrt(n), n / h.warmup_steps**1.5)


class sigmoid(Curve, example="sigmoid(1, slope=-0.12, middle=50)"):
    """Moves from nothing to a rate, or back, on the logistic curve.

        eta_t = lr / (1 + exp(-slope * (t - middle)))

    Args:
        lr: the rate that is approached, before the middle if slope < 0, after it if slope > 0.
        slope: per update; negative to fall.
        middle: the t of half the rate.

    >>> schedules.sigmoid(1.0, slope=-0.1, middle=50)([0, 50, 100]).round(4).tolist()
    [0.9933, 0.5, 0.0067]

    Is the "sigmoid" policy of Caffe and LRBench. `tanh` has the same form, of a given length.
    """

    lr: float = rate()
    slope: float = number()
    middle: float = number()

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr * logistic(xp, h.slope * (h.middle - t))


class time_based(Curve, example="time_based(1, decay=0.001)"):
    """Each rate is the last one divided by a little more.

        eta_{n+1} = eta_n / (1 + decay * n),   eta_0 = lr

    that is lr over the product of 1 + decay * k for all k < n: it falls faster than any exponential.
    Computed in constant time, relative error below 1e-12. Between two updates the rate of the first one
    holds.

    Args:
        lr: the rate at t = 0, and at t = 1.
        decay: >= 0.

    >>> schedules.time_based(1.0, decay=1.0)(range(5)).round(6).tolist()
    [1.0, 1.0, 0.5, 0.166667, 0.041667]

    Source: the textbook recursion, "time-based decay", read literally. Differs from what Keras, Caffe and
    others call by this name, lr / (1 + decay * n): that is `inverse_time`.
    """

    lr: float = rate()
    decay: float = within(0, inf)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        """As in curves.pxd: sixteen factors, then Stirling's series."""
        n = xp.floor(t)
        x = 1 / h.decay if h.decay > 0 else inf
        if x > 1e30:
            return h.lr + 0 * t
        head = 1 + 0 * n
        for k in range(1, 16):
            head = head * xp.where(k < n, 1 + h.decay * k, 1)
        short = n <= 16
        rest = n if x >= 16 else xp.maximum(n - 16, 0)
        begin = x if x >= 16 else x + 16
        skipped = 0 if x >= 16 else rest * xp.log1p(16 * h.decay + 0 * n)
        u = xp.maximum(rest, 1) / begin
        s = u / (2 + u)
        y = s * s
        tail = sum(y**k / (2 * k + 1) for k in range(1, 17))
        logarithm = xp.log1p(u)
        mean = xp.where(u > 1, (1 + 1 / u) * logarithm - 1, s + (1 + s) * tail)
        total = skipped + rest * mean - logarithm / 2 + (stirling(begin + rest) - stirling(begin))
        long = xp.exp(-total) if x >= 16 else xp.exp(-total) / head
        return h.lr * xp.where(short, 1 / head, long)
