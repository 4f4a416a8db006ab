"""Schedules made of schedules. Each is a schedule like any other."""
from __future__ import annotations

from collections.abc import Sequence
from math import inf
from numbers import Real
from typing import Literal

from fastlr._engine import compiled_schedule
from fastlr._engine.compiled_schedule import CompiledSchedule

from .base import Schedule
from .declaration import (
    above,
    boundaries,
    flag,
    integer,
    natural,
    nested,
    one_of,
    positive,
    rate,
    seed,
    several_schedules,
    share,
    within,
)
from .finite import cosine, linear, log_linear

RISES: dict[str, type[Schedule]] = {"linear": linear, "exponential": log_linear, "cosine": cosine}


class Wrapping(Schedule, abstract=True):
    """A schedule that changes one other, and is written as a method of it."""

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in list(self._shown().items())[1:])
        return f"{_operand(self._values[0], scale, product)}.{type(self).__name__}({given})"


def _operand(s: Schedule, *in_brackets: type[Schedule]) -> str:
    """The repr of a part, in brackets if it is one of these classes."""
    return f"({s!r})" if isinstance(s, in_brackets) else repr(s)


class join(Schedule, example="linear(1, steps=40).then(cosine(0.6, steps=50), at=40)"):
    """One schedule after the other, each counting from its own 0.

        eta_t = schedules[i](t - at[i - 1])          at[i - 1] <= t < at[i]

    Args:
        schedules: one or more.
        at: the updates at which the next one begins; strictly increasing, positive, one fewer.

    >>> s = schedules.join([schedules.constant(0.1), schedules.linear(0.1, steps=2)], at=[2])
    >>> s(range(6)).tolist()
    [0.1, 0.1, 0.1, 0.05, 0.0, 0.0]

    Is torch SequentialLR(milestones=at) and optax join_schedules(boundaries=at).
    """

    schedules: Sequence[Schedule] = several_schedules()
    at: Sequence[int] = boundaries()

    def _compiled(self) -> CompiledSchedule:
        if len(self.at) != len(self.schedules) - 1:
            counts = f"{len(self.at)} for {len(self.schedules)}"
            raise ValueError(f"join: at must have one entry fewer than schedules, got {counts}")
        return compiled_schedule.join(self.schedules, self.at)

    def then(self, other: Schedule, at: int) -> Schedule:
        """As of any schedule; but a join followed by one more is one longer join, not a nested one."""
        if self.at and isinstance(at, Real) and not at > self.at[-1]:
            return super().then(other, at)
        return join((*self.schedules, other), (*self.at, at))

    def __repr__(self) -> str:
        return f"join({list(self.schedules)!r}, at={list(self.at)!r})"


class warmup(Wrapping, example="cosine(1, steps=80).warmup(15)"):
    """Rises to a schedule's first rate, then follows it. Written `s.warmup(steps)`.

        linear         start + (s(0) - start) * t / steps
        cosine         start + (s(0) - start) * (1 - cos(pi * t / steps)) / 2
        exponential    start * (s(0) / start) ** (t / steps)          t < steps; then s(t - steps)

    Args:
        schedule: s.
        steps: updates of the rise: the whole is that much longer than s. 0: no rise.
        start: the rate at t = 0 (a rate, not a factor); for "exponential", > 0, and s(0) too.
        kind: "linear", "exponential" or "cosine".
        count_from_one: t + 1 in place of t in the rise: the first update has a rate above `start`, and the last one
            of the rise already has s(0).

    >>> schedules.linear(1.0, steps=2).warmup(4)(range(8)).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0]
    >>> schedules.linear(1.0, steps=2).warmup(4, count_from_one=True)(range(8)).tolist()
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0, 0.0]

    Source: Goyal et al. 2017, https://arxiv.org/abs/1706.02677 ("gradual warmup"). Is Keras
    CosineDecay(warmup_steps=steps, decay_steps=...), whose decay_steps do not count the warmup. Differs
    from optax warmup_cosine_decay_schedule, whose decay_steps do: `cosine(peak, steps=decay_steps -
    warmup_steps).warmup(warmup_steps)`.
    """

    schedule: Schedule = nested()
    steps: int = natural()
    start: float = rate(default=0.0)
    kind: Literal["linear", "exponential", "cosine"] = one_of(*RISES, default="linear")
    count_from_one: bool = flag(default=False, shown_by_default=False)

    def _compiled(self) -> CompiledSchedule:
        if self.steps == 0:
            return self.schedule
        peak = self.schedule(0)
        if self.kind == "exponential":
            for what, x in (("start", self.start), ("the schedule's first rate", peak)):
                if not x > 0:
                    raise ValueError(f"warmup: {what} must be > 0 for kind='exponential', got {x}")
        rise: Schedule = RISES[self.kind](self.start, steps=self.steps, final=peak)
        if self.count_from_one:
            rise = rise.shift(-1)
        return compiled_schedule.join([rise, self.schedule], [self.steps])


class shift(Wrapping, example="linear(1, steps=50).shift(25)"):
    """A schedule n updates later, its first rate held until then. Written `s.shift(n)`.

        eta_t = s(max(t - n, 0))

    Args:
        schedule: s.
        n: updates; negative to skip the first -n of them.

    >>> schedules.linear(1.0, steps=2).shift(2)(range(6)).tolist()
    [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    schedule: Schedule = nested()
    n: int = integer()

    def _compiled(self) -> CompiledSchedule:
        return compiled_schedule.shift(self.schedule, self.n)


class every(Wrapping, example="cosine(1, steps=9).every(10)"):
    """A schedule whose rates each hold for k updates. Written `s.every(k)`.

        eta_t = s(floor(t / k))

    so that a schedule in epochs serves updates, or one in updates serves accumulated batches.

    Args:
        schedule: s.
        k: updates per unit of its time.

    >>> schedules.linear(1.0, steps=2).every(2)(range(6)).tolist()
    [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    """

    schedule: Schedule = nested()
    k: int = positive()

    def _compiled(self) -> CompiledSchedule:
        return compiled_schedule.every(self.schedule, self.k)


class k_decay(Wrapping, example="cosine(1, steps=90).k_decay(90, k=2)"):
    """A schedule whose time runs slowly at first and fast towards its end. Written `s.k_decay(steps, k)`.

        eta_t = s(steps * (t / steps) ** k)

    so that the first and the last rate stay what they are.

    Args:
        schedule: s.
        steps: its length, in updates.
        k: > 0; 1 changes nothing, 1.5 to 3 are usual; below 1 the time runs fast at first.

    >>> schedules.linear(1.0, steps=4).k_decay(4, k=2)(range(6)).tolist()
    [1.0, 0.9375, 0.75, 0.4375, 0.0, 0.0]

    Source: Zhang & Li 2020, https://arxiv.org/abs/2004.05909. Is timm's `k_decay=k` of its cosine and
    polynomial schedulers.
    """

    schedule: Schedule = nested()
    steps: int = positive()
    k: float = above(0)

    def _compiled(self) -> CompiledSchedule:
        return compiled_schedule.k_decay(self.schedule, self.steps, self.k)


class noise(Wrapping, example="cosine(1, steps=90).noise(0.3)"):
    """A schedule times a random factor at each update. Written `s.noise(amount, seed)`.

        eta_t = s(t) * (1 + amount * u)          u uniform in [-1, 1), a hash of (seed, floor(t))

    A pure function of t like all others: the same seed gives the same rates in any order, after any resume,
    on any machine, and no generator of random numbers is touched.

    Args:
        schedule: s.
        amount: the largest relative change, in [0, 1].
        seed: an integer; another one gives other rates.

    >>> s = schedules.constant(1.0).noise(0.5, seed=3)
    >>> s(range(4)).round(3).tolist()
    [1.271, 1.207, 0.565, 1.422]

    Is timm's `noise_pct=amount` with uniform noise; only over a part of the time, as its `noise_range_t`:
    `s.then(s.shift(-n).noise(amount), at=n)`.
    """

    schedule: Schedule = nested()
    amount: float = share()
    seed: int = seed(default=0)

    def _compiled(self) -> CompiledSchedule:
        return compiled_schedule.noise(self.schedule, self.amount, self.seed)


class clip(Wrapping, example="cosine(1, steps=90).clip(0.2, 0.8)"):
    """A schedule kept between two rates. Written `s.clip(lo, hi)`.

        eta_t = min(max(s(t), lo), hi)

    Args:
        schedule: s.
        lo: the lowest rate.
        hi: the highest, >= lo.

    >>> schedules.linear(1.0, steps=4).clip(0.3, 0.6)(range(6)).tolist()
    [0.6, 0.6, 0.5, 0.3, 0.3, 0.3]
    """

    schedule: Schedule = nested()
    lo: float = rate()
    hi: float = rate()

    def _compiled(self) -> CompiledSchedule:
        if self.lo > self.hi:
            raise ValueError(f"clip: lo must be <= hi, got lo={self.lo}, hi={self.hi}")
        return compiled_schedule.clip(self.schedule, self.lo, self.hi)


class scale(Schedule, example="0.5 * linear(1, steps=90)"):
    """A schedule times a number. Written `s * 0.5` or `0.5 * s`.

        eta_t = factor * s(t)

    Args:
        schedule: s.
        factor: finite, >= 0.

    >>> (schedules.linear(1.0, steps=2) * 0.5)(range(4)).tolist()
    [0.5, 0.25, 0.0, 0.0]
    """

    schedule: Schedule = nested()
    factor: float = within(0, inf)

    def _compiled(self) -> CompiledSchedule:
        return compiled_schedule.scale(self.schedule, self.factor)

    def __repr__(self) -> str:
        return f"{self.schedule!r} * {self.factor!r}"


class product(Schedule, example="cosine(1, steps=90) * sine(0.5, 1, steps=6)"):
    """Two schedules multiplied. Written `s * r`.

        eta_t = s(t) * r(t)

    Args:
        left: s.
        right: r.

    >>> (schedules.linear(1.0, steps=2) * schedules.constant(0.5))(range(4)).tolist()
    [0.5, 0.25, 0.0, 0.0]

    Is torch ChainedScheduler of schedulers that multiply.
    """

    left: Schedule = nested()
    right: Schedule = nested()

    def _compiled(self) -> CompiledSchedule:
        return compiled_schedule.product(self.left, self.right)

    def __repr__(self) -> str:
        return f"{self.left!r} * {_operand(self.right, scale, product)}"
