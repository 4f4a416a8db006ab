"""Curves that reach `final` at t = steps: one class per function of curves.pxd. The class body is the signature.

In all of them t counts optimizer updates, 0 being the first; rates are finite and >= 0. A wrong argument is a
ValueError, one of the wrong type a TypeError: `cosine: steps must be a positive integer, got 0`.
"""
from __future__ import annotations

from typing import Any, Literal

from fastlr._engine.compiled_schedule import CompiledSchedule

from .base import Curve
from .declaration import above, flag, number, one_of, positive, rate, within
from .formulas import half_sine_squared, logistic, mixed, power

End = Literal["hold", "error"]


class linear(Curve, example="linear(1, steps=90)"):
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

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        p = xp.minimum(t / h.steps, 1)
        return h.lr * (1 - p) + h.final * p


class log_linear(Curve, example="log_linear(0.01, steps=90, final=1)"):
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

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return h.lr * power(xp, h.final / h.lr, xp.minimum(t / h.steps, 1))


class cosine(Curve, example="cosine(1, steps=90)"):
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

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return mixed(h.lr, h.final, half_sine_squared(xp, 1 - xp.minimum(t / h.steps, 1)))


class cosine_power(Curve, example="cosine_power(1, steps=90)"):
    """Falls as a power of the cosine: between `cosine` and an exponential decay.

        eta_t = final + (lr - final) * (order ** c - 1) / (order - 1)          t < steps; then final
        c = (1 + cos(pi * t / steps)) / 2

    Args:
        lr: the rate at t = 0.
        steps: updates until `final`.
        final: the rate at t = steps, and after it.
        order: in [1, 1000); 1 is `cosine`, and the larger it is, the sooner the rate falls.
        end: "hold" keeps the final rate; "error" makes t > steps a ValueError.

    >>> schedules.cosine_power(1.0, steps=4)(range(6)).round(4).tolist()
    [1.0, 0.682, 0.2403, 0.0446, 0.0, 0.0]

    Source: Hundt, Jain & Hager 2019 ("cosine power annealing"), https://arxiv.org/abs/1903.09900. Differs from the
    authors' program, whose epochs count from 1 and whose first and last rates are scaled to lr and final.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    order: float = within(1, 1000, default=10.0)
    end: End = one_of("hold", "error", default="hold")

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        c = half_sine_squared(xp, 1 - xp.minimum(t / h.steps, 1))
        return mixed(h.lr, h.final, c if h.order == 1 else (power(xp, h.order, c) - 1) / (h.order - 1))


class polynomial(Curve, example="polynomial(1, steps=90, power=3)"):
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

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        n = h.steps * xp.maximum(xp.ceil(t / h.steps), 1) if h.cycle else h.steps
        return mixed(h.lr, h.final, (1 - xp.minimum(t / n, 1)) ** h.power)

    def _compiled(self) -> CompiledSchedule:
        if self.cycle and self.end == "error":
            raise ValueError("polynomial: with cycle=True there is no end: end must be 'hold', got 'error'")
        return super()._compiled()


class one_minus_sqrt(Curve, example="one_minus_sqrt(1, steps=90)"):
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

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        return mixed(h.lr, h.final, 1 - xp.sqrt(xp.minimum(t / h.steps, 1)))


class one_minus_square(Curve, example="one_minus_square(1, steps=90)"):
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

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        p = xp.minimum(t / h.steps, 1)
        return mixed(h.lr, h.final, (1 - p) * (1 + p))


class rex(Curve, example="rex(1, steps=90)"):
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

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        p = xp.minimum(t / h.steps, 1)
        return mixed(h.lr, h.final, (1 - p) / (1 - p / 2))


class tanh(Curve, example="tanh(1, steps=90)"):
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

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        p = t / h.steps
        w = logistic(xp, 2 * (h.lower * (1 - p) + h.upper * p))
        return xp.where(p < 1, mixed(h.lr, h.final, w), h.final)
