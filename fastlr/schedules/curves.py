"""The curves: one class per function of curves.pxd, in the same order. The class body is the signature.

In all of them t counts optimizer updates, 0 being the first; rates are finite and >= 0. A wrong argument is a
ValueError, one of the wrong type a TypeError: `cosine: steps must be a positive integer, got 0`.
"""
from __future__ import annotations

from math import inf
from typing import Literal

from .base import Curve
from .declaration import above, flag, one_of, positive, rate, within

End = Literal["hold", "error"]


class constant(Curve):
    """The same rate for ever.

        eta_t = lr

    Args:
        lr: the rate.

    >>> schedules.constant(0.1)(1000)
    0.1

    Differs from torch ConstantLR, which multiplies by a factor for some first steps.
    """

    lr: float = rate()


class exponential(Curve):
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


class geometric(Curve):
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


class step_decay(Curve):
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


class step_based(Curve):
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


class inverse_time(Curve):
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


class linear(Curve):
    """Moves on a straight line.

        eta_t = lr + (final - lr) * t / steps          t < steps; then final

    Args:
        lr: the rate at t = 0.
        steps: updates until `final`.
        final: the rate at t = steps, and after it.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.linear(1.0, steps=4)(range(6)).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]

    Is optax linear_schedule, Keras PolynomialDecay(power=1). Differs from torch LinearLR, which takes
    factors of the optimizer's rate, may not start at 0 nor rise above it.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    end: End = one_of("hold", "error", default="hold")


class log_linear(Curve):
    """Moves on a straight line of the rate's logarithm, from one rate to another.

        eta_t = lr * (final / lr) ** (t / steps)          t < steps; then final

    Args:
        lr: the rate at t = 0, > 0.
        steps: updates until `final`.
        final: the rate at t = steps, and after it, > 0.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.log_linear(1.0, steps=2, final=0.01)(range(4)).round(6).tolist()
    [1.0, 0.1, 0.01, 0.01]

    Source: the sweep of fast.ai's SchedExp and learning-rate finder. Is `geometric(lr, factor=(final / lr)
    ** (1 / steps))` until t = steps.
    """

    lr: float = above(0)
    steps: int = positive()
    final: float = above(0)
    end: End = one_of("hold", "error", default="hold")


class cosine(Curve):
    """Falls as half a period of the cosine: slowly, fast, slowly.

        eta_t = final + (lr - final) * (1 + cos(pi * t / steps)) / 2          t < steps; then final

    Args:
        lr: the rate at t = 0.
        steps: updates until `final`.
        final: the rate at t = steps, and after it.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.cosine(1.0, steps=4)(range(6)).round(4).tolist()
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]

    Source: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts. Is optax
    cosine_decay_schedule(alpha=final / lr) and Keras CosineDecay. Differs from torch CosineAnnealingLR,
    which climbs again after T_max.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    end: End = one_of("hold", "error", default="hold")


class time_based(Curve):
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
