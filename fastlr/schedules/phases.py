"""Schedules in phases that have a name of their own in the literature, joined from the curves."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from fastlr._engine import compiled_schedule
from fastlr._engine.compiled_schedule import CompiledSchedule

from .base import Schedule
from .composition import join
from .declaration import above, boundaries, flag, natural, number, one_of, positive, rate, several_rates, within
from .endless import constant, inverse_power
from .finite import cosine, linear, log_linear, one_minus_sqrt, one_minus_square

FALLS: dict[str, type[Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "1-sqrt": one_minus_sqrt,
    "square": one_minus_square,
    "exponential": log_linear,
}
Shape = Literal["linear", "cosine", "1-sqrt", "square", "exponential"]


def through(points: Sequence[tuple[float, float]], shape: str) -> CompiledSchedule:
    """The curve through these (t, rate), by linear or cosine pieces; the times need not be whole.

    A piece that takes no time, or would end before it begins, is left out; a piece may begin before t = 0.
    """
    pairs = [(begin, end) for begin, end in pairwise(points) if end[0] > begin[0]]
    if not pairs:
        return constant(points[-1][1])
    pieces = [compiled_schedule.curve(shape, {"lr": low, "steps": end - begin, "final": high})
              for (begin, low), (end, high) in pairs]
    if pairs[0][0][0] != 0:
        pieces[0] = compiled_schedule.shift(pieces[0], pairs[0][0][0])
    return compiled_schedule.join(pieces, [begin for (begin, _), _ in pairs[1:]])


class piecewise_constant(Schedule, example="piecewise_constant([1, 0.3, 0.6], at=[30, 60])"):
    """One rate after the other.

        eta_t = values[i]          at[i - 1] <= t < at[i]

    Args:
        values: one or more rates.
        at: the updates at which the next one begins; strictly increasing, positive, one fewer.

    >>> schedules.piecewise_constant([1.0, 0.1, 0.01], at=[2, 4])(range(6)).tolist()
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]

    Is optax piecewise_constant_schedule (which takes factors) and torch MultiStepLR(milestones=at). Differs
    from Keras PiecewiseConstantDecay, which changes one update later: at=[b + 1 for b in boundaries].
    """

    values: Sequence[float] = several_rates()
    at: Sequence[int] = boundaries()

    def _compiled(self) -> CompiledSchedule:
        if len(self.at) != len(self.values) - 1:
            counts = f"{len(self.at)} for {len(self.values)}"
            raise ValueError(f"piecewise_constant: at must have one entry fewer than values, got {counts}")
        return join([constant(value) for value in self.values], self.at)


class piecewise_linear(Schedule, example="piecewise_linear([0, 1, 0.2, 0], at=[20, 60, 90])"):
    """Straight lines from rate to rate.

        eta_0 = values[0],   eta_{at[i]} = values[i + 1],   straight between, and the last rate for ever

    Args:
        values: two or more rates.
        at: the updates at which the second and all later ones are reached; strictly increasing, positive.

    >>> schedules.piecewise_linear([0.0, 1.0, 0.0], at=[2, 6])(range(8)).tolist()
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]

    Is ignite PiecewiseLinear and optax piecewise_interpolate_schedule("linear", ...), which takes factors.
    optax linear_onecycle_schedule is `piecewise_linear([peak / div, peak, peak / div, peak / div / final_div],
    at=[int(pct_start * n), int(pct_final * n), n])`.
    """

    values: Sequence[float] = several_rates()
    at: Sequence[int] = boundaries()

    def _compiled(self) -> CompiledSchedule:
        if len(self.at) != len(self.values) - 1 or not self.at:
            counts = f"{len(self.at)} for {len(self.values)}"
            raise ValueError(f"piecewise_linear: at must have one entry fewer than values, and one, got {counts}")
        return through(list(zip((0, *self.at), self.values, strict=True)), "linear")


class wsd(Schedule, example="wsd(1, 10, 50, 30, shape='1-sqrt')"):
    """Warmup, stable, decay: rises, stays, falls.

        linear from 0 to lr, for warmup_steps
        lr, for stable_steps
        final + (lr - final) * w(p), for decay_steps;   p from 0 to 1;   then final

        w(p): linear 1 - p;   cosine (1 + cos(pi p)) / 2;   1-sqrt 1 - sqrt(p);   square 1 - p ** 2
        exponential: lr * (final / lr) ** p, which needs final > 0

    Args:
        lr: the rate that is held.
        warmup_steps: updates of the rise, may be 0.
        stable_steps: updates at lr, may be 0; make it longer at will, the rates before do not change.
        decay_steps: updates of the fall; 0: none, lr is held for ever.
        final: the rate after the fall.
        shape: "linear", "cosine", "1-sqrt", "square" or "exponential".

    >>> schedules.wsd(1.0, warmup_steps=2, stable_steps=3, decay_steps=4)(range(10)).tolist()
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    Source: Hu et al. 2024, https://arxiv.org/abs/2404.06395; the shapes: Hägele et al. 2024,
    https://arxiv.org/abs/2405.18392. Differs from pytorch_optimizer get_wsd_schedule, which in some shapes
    falls to 0 and then jumps to its min_lr_ratio: here every shape ends at `final`, without a jump.
    """

    lr: float = rate()
    warmup_steps: int = natural()
    stable_steps: int = natural()
    decay_steps: int = natural()
    final: float = rate(default=0.0)
    shape: Shape = one_of(*FALLS, default="linear")

    def _compiled(self) -> CompiledSchedule:
        whole: Schedule = constant(self.lr)
        if self.decay_steps:
            if self.shape == "exponential" and not (self.lr > 0 and self.final > 0):
                got = f"lr={self.lr}, final={self.final}"
                raise ValueError(f"wsd: lr and final must be > 0 for shape='exponential', got {got}")
            fall: Schedule = FALLS[self.shape](self.lr, steps=self.decay_steps, final=self.final)
            whole = whole.then(fall, at=self.stable_steps) if self.stable_steps else fall
        return whole.warmup(self.warmup_steps) if self.warmup_steps else whole


class knee(Schedule, example="knee(1, explore_steps=50, exploit_steps=40)"):
    """Stays at a high rate, then falls on a straight line: explore, then exploit.

        linear from 0 to lr, for warmup_steps;   lr, for explore_steps;   linear to final, for exploit_steps

    Args:
        lr: the rate of the exploration.
        explore_steps: updates at lr, may be 0.
        exploit_steps: updates of the fall; 0: none, lr is held for ever.
        warmup_steps: updates of the rise before.
        final: the rate after the fall.

    >>> schedules.knee(1.0, explore_steps=2, exploit_steps=4)(range(8)).tolist()
    [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]

    Source: Iyer et al. 2023 ("wide-minima density hypothesis and the explore-exploit learning rate
    schedule"), https://arxiv.org/abs/2003.03977. Is `wsd` with shape="linear".
    """

    lr: float = rate()
    explore_steps: int = natural()
    exploit_steps: int = natural()
    warmup_steps: int = natural(default=0)
    final: float = rate(default=0.0)

    def _compiled(self) -> CompiledSchedule:
        return wsd(self.lr, self.warmup_steps, self.explore_steps, self.exploit_steps, self.final)


class robbins_monro(Schedule, example="robbins_monro(1, power=0.75, timescale=4)"):
    """Falls so that its sum diverges and the sum of its squares does not: what stochastic approximation
    needs.

        eta_t = lr * (1 + t / timescale) ** -power          0.5 < power <= 1

    Args:
        lr: the rate at t = 0.
        power: in (0.5, 1].
        timescale: updates before the fall is felt, > 0.

    >>> schedules.robbins_monro(1.0, power=0.75, timescale=2)([0, 30, 510]).tolist()
    [1.0, 0.125, 0.015625]

    Source: Robbins & Monro 1951, https://doi.org/10.1214/aoms/1177729586. Without the bounds of the power it
    is `inverse_power(lr, decay=1 / timescale, power=power)`.
    """

    lr: float = rate()
    power: float = number(default=1.0)
    timescale: float = above(0, default=1.0)

    def _compiled(self) -> CompiledSchedule:
        if not 0.5 < self.power <= 1:
            raise ValueError(f"robbins_monro: power must be in (0.5, 1], got {self.power}; for others: inverse_power")
        if 1 / self.timescale == float("inf"):
            raise ValueError(f"robbins_monro: timescale must be at least 1e-307, got {self.timescale}")
        return inverse_power(self.lr, decay=1 / self.timescale, power=self.power)


class range_test(Schedule, example="range_test(0.01, final=1, steps=90)"):
    """Sweeps the rates that a learning-rate range test tries: `steps` of them, the lowest and the highest
    included.

        eta_t = lr * (final / lr) ** (t / (steps - 1))          kind="exponential"
        eta_t = lr + (final - lr) * t / (steps - 1)             kind="linear"

    Args:
        lr: the rate of the first update, > 0.
        final: the rate of the last one, t = steps - 1, and after it, > 0.
        steps: updates, two or more.
        kind: "exponential" or "linear".

    >>> schedules.range_test(1e-3, final=10.0, steps=5)(range(6)).round(6).tolist()
    [0.001, 0.01, 0.1, 1.0, 10.0, 10.0]

    Source: Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3. Is `log_linear` or `linear` of steps -
    1 updates: those count the updates until the end, this one the rates that are tried. Differs from
    DeepSpeed LRRangeTest, which never uses its lowest rate.
    """

    lr: float = above(0, default=1e-7)
    final: float = above(0, default=10.0)
    steps: int = positive(default=100)
    kind: Literal["exponential", "linear"] = one_of("exponential", "linear", default="exponential")

    def _compiled(self) -> CompiledSchedule:
        if self.steps < 2:
            raise ValueError(f"range_test: steps must be 2 or more, got {self.steps}")
        return (log_linear if self.kind == "exponential" else linear)(self.lr, self.steps - 1, self.final)


def phase_ends(schedule: Any) -> list[float]:
    """The times at which the phases of a one-cycle end; ValueError if one ended after the last update.

    One that ends before the first update (a few steps, or pct_start=0) is left out, as torch leaves it out.
    """
    n, rise, who = schedule.steps, schedule.pct_start, type(schedule).__name__
    if schedule.convention == "torch":
        ends = [rise * n - 1, n - 1] if not schedule.three_phase else [rise * n - 1, 2 * rise * n - 2, n - 1]
    else:
        ends = [int(rise * n), n] if not schedule.three_phase else [int(rise * n), 2 * int(rise * n), n]
    if any(end > 0 and end >= after for end, after in pairwise(ends)):
        raise ValueError(f"{who}: every phase must take some time; with steps={n}, pct_start={rise}, "
                         f"three_phase={schedule.three_phase} they end at t={ends}")
    return ends


class one_cycle(Schedule, example="one_cycle(1, steps=90)"):
    """Rises from a low rate to a high one, then falls far below the first.

        lr / div_factor -> lr -> lr / div_factor / final_div_factor
        lr / div_factor -> lr -> lr / div_factor -> lr / div_factor / final_div_factor       with three_phase

    The phases end at t = pct_start * steps - 1, with three also at 2 * pct_start * steps - 2, and at steps -
    1 (convention="torch"), or at int(pct_start * steps), twice that, and steps ("optax"). Then the last rate
    holds.

    Args:
        lr: the highest rate.
        steps: updates in all.
        pct_start: the part of them that is spent rising, in [0, 1).
        div_factor: how much lower the first rate is, > 0.
        final_div_factor: how much lower the last is than the first, > 0.
        shape: of the pieces, "cosine" or "linear".
        three_phase: whether it falls to the first rate in the time of the rise, and further in the time left.
        convention: "torch" or "optax".

    >>> s = schedules.one_cycle(1.0, steps=11, pct_start=0.5, shape="linear")
    >>> s([0, 4, 5, 10, 11, 1000]).round(6).tolist()
    [0.04, 0.893333, 0.909091, 4e-06, 4e-06, 4e-06]

    Source: Smith & Topin 2018, https://arxiv.org/abs/1708.07120. Is torch OneCycleLR, but after its end,
    where that climbs once more and then raises; with convention="optax" it is cosine_onecycle_schedule.
    `momentum()` is the other half.
    """

    lr: float = rate()
    steps: int = positive()
    pct_start: float = within(0, 1, default=0.3)
    div_factor: float = above(0, default=25.0)
    final_div_factor: float = above(0, default=1e4)
    shape: Literal["cosine", "linear"] = one_of("cosine", "linear", default="cosine")
    three_phase: bool = flag(default=False)
    convention: Literal["torch", "optax"] = one_of("torch", "optax", default="torch")

    def _compiled(self) -> CompiledSchedule:
        first = self.lr / self.div_factor
        rates = [first, self.lr, first / self.final_div_factor]
        if self.three_phase:
            rates.insert(2, first)
        return through(list(zip([0, *phase_ends(self)], rates, strict=True)), self.shape)

    def momentum(self, high: float = 0.95, low: float = 0.85) -> Schedule:
        """The momentum that goes with it: low where the rate is high.

        >>> rate = schedules.one_cycle(0.1, steps=100)
        >>> rate.momentum()([0, 29, 99]).tolist()
        [0.95, 0.85, 0.95]
        """
        return one_cycle_momentum(
            self.steps, high, low, self.pct_start, self.shape, self.three_phase, self.convention)


class one_cycle_momentum(Schedule, example="one_cycle(1, steps=90).momentum()"):
    """Falls while the rate of a `one_cycle` rises, and rises while it falls. Written `s.momentum()`.

        high -> low -> high

    Args:
        steps: updates in all.
        high: the momentum at both ends.
        low: the momentum where the rate is highest.
        pct_start: the part of the updates that is spent falling, in [0, 1).
        shape: of the pieces, "cosine" or "linear".
        three_phase: as for `one_cycle`: in the third phase it stays high.
        convention: "torch" or "optax", as for `one_cycle`.

    >>> schedules.one_cycle_momentum(11, pct_start=0.5, shape="linear")([0, 4.5, 10]).tolist()
    [0.95, 0.85, 0.95]

    Source: Smith 2018, https://arxiv.org/abs/1803.09820. Is torch OneCycleLR(cycle_momentum=True), with
    max_momentum=high, base_momentum=low.
    """

    steps: int = positive()
    high: float = within(0, 1, default=0.95)
    low: float = within(0, 1, default=0.85)
    pct_start: float = within(0, 1, default=0.3)
    shape: Literal["cosine", "linear"] = one_of("cosine", "linear", default="cosine")
    three_phase: bool = flag(default=False)
    convention: Literal["torch", "optax"] = one_of("torch", "optax", default="torch")

    def _compiled(self) -> CompiledSchedule:
        ends = phase_ends(self)
        values = [self.high, self.low] + [self.high] * (len(ends) - 1)
        return through(list(zip([0, *ends], values, strict=True)), self.shape)
