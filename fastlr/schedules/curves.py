"""The curves: one class per function of curves.pxd, in the same order. The class body is the signature.

In all of them t counts optimizer updates, 0 being the first; rates are finite and >= 0. A wrong argument is a
ValueError, one of the wrong type a TypeError: `cosine: steps must be a positive integer, got 0`.
"""
from __future__ import annotations

from math import inf
from typing import Literal

from fastlr._engine.program import Program

from .base import Curve
from .declaration import above, flag, number, one_of, positive, rate, within

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


class inverse_sqrt(Curve):
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


class inverse_power(Curve):
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


class noam(Curve):
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


class sigmoid(Curve):
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


class polynomial(Curve):
    """Falls as a power of the time that is left.

        eta_t = final + (lr - final) * (1 - t / steps) ** power          t < steps; then final

    Args:
        lr: the rate at t = 0.
        steps: updates until `final`.
        power: > 0; 1 is `linear`.
        final: the rate at t = steps, and after it.
        cycle: after the end, start again, twice as slow: `steps` becomes its smallest multiple not below t.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.polynomial(1.0, steps=4, power=2.0)(range(6)).tolist()
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    >>> schedules.polynomial(1.0, steps=2, power=1.0, cycle=True)(range(6)).tolist()
    [1.0, 0.5, 0.0, 0.25, 0.0, 0.16666666666666666]

    Is Keras PolynomialDecay (whose power defaults to 1) and optax polynomial_schedule; torch PolynomialLR
    with final=0, timm PolyLRScheduler.
    """

    lr: float = rate()
    steps: int = positive()
    power: float = above(0)
    final: float = rate(default=0.0)
    cycle: bool = flag(default=False)
    end: End = one_of("hold", "error", default="hold")

    def _program(self) -> Program:
        if self.cycle and self.end == "error":
            raise ValueError("polynomial: with cycle=True there is no end: end must be 'hold', got 'error'")
        return super()._program()


class one_minus_sqrt(Curve):
    """Falls fast at first, then as one minus the square root of the time.

        eta_t = final + (lr - final) * (1 - sqrt(t / steps))          t < steps; then final

    Args:
        lr: the rate at t = 0.
        steps: updates until `final`.
        final: the rate at t = steps, and after it.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.one_minus_sqrt(1.0, steps=4)(range(6)).round(4).tolist()
    [1.0, 0.5, 0.2929, 0.134, 0.0, 0.0]

    Source: Hägele et al. 2024, https://arxiv.org/abs/2405.18392, as the decay of `wsd(shape="1-sqrt")`.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    end: End = one_of("hold", "error", default="hold")


class one_minus_square(Curve):
    """Falls slowly at first, then as one minus the square of the time.

        eta_t = final + (lr - final) * (1 - (t / steps) ** 2)          t < steps; then final

    Args:
        lr: the rate at t = 0.
        steps: updates until `final`.
        final: the rate at t = steps, and after it.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.one_minus_square(1.0, steps=4)(range(6)).tolist()
    [1.0, 0.9375, 0.75, 0.4375, 0.0, 0.0]

    Source: Hägele et al. 2024, https://arxiv.org/abs/2405.18392, as the decay of `wsd(shape="square")`. Is
    `linear(lr, steps=n).k_decay(n, 2)`.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    end: End = one_of("hold", "error", default="hold")


class rex(Curve):
    """Falls as a reflected exponential: nearly straight, then steeply.

        eta_t = final + (lr - final) * (1 - p) / (1 - p / 2)          p = t / steps < 1; then final

    Args:
        lr: the rate at t = 0.
        steps: updates until `final`.
        final: the rate at t = steps, and after it.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.rex(1.0, steps=4)(range(6)).round(4).tolist()
    [1.0, 0.8571, 0.6667, 0.4, 0.0, 0.0]

    Source: Chen, Wolfe & Kyrillidis 2021, https://arxiv.org/abs/2107.04197.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    end: End = one_of("hold", "error", default="hold")


class tanh(Curve):
    """Falls as a hyperbolic tangent: flat, steep, flat.

        eta_t = final + (lr - final) * (1 - tanh(x)) / 2          p = t / steps < 1; then final
        x = lower * (1 - p) + upper * p

    Args:
        lr: the rate at t = 0.
        steps: updates until `final`.
        final: the rate at t = steps, and after it.
        lower: where on the tangent the fall begins, as a multiple of its width.
        upper: where it ends.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.tanh(1.0, steps=4)(range(6)).round(4).tolist()
    [1.0, 0.9999, 0.982, 0.2689, 0.0, 0.0]

    Source: Hsueh et al. 2019, https://arxiv.org/abs/1806.01593. Is timm TanhLRScheduler(lb=lower, ub=upper).
    The first rate is short of lr by a part in exp(-2 * lower), and the rate just before the end is still lr /
    (1 + exp(2 * upper)), 0.25 % by default.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    lower: float = number(default=-7.0)
    upper: float = number(default=3.0)
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
