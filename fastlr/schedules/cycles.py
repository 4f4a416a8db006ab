"""Cycles: a shape that repeats between two rates, with an amplitude that may shrink.

Those that rise first (triangular, sine, cosine_wave) begin at the lower rate; with `.shift(-steps)` they
begin at the upper one. Those that restart (saw, sine_saw, cosine_restarts) fall from the upper rate and jump
back to it.

The amplitude, the distance from the rate that does not change, is multiplied by

    amplitude_factor ** cycle * update_factor ** t

The names with a 2 halve it with every cycle, those with _exp shrink it at every update: the same curves, as
the literature calls them.
"""
from __future__ import annotations

from math import log, pi
from typing import Any

from fastlr._engine.compiled_schedule import CompiledSchedule

from .base import Curve, Schedule
from .declaration import positive, rate, share, within
from .formulas import amplitude, half_sine_squared, mixed, power


class triangular(Curve, example="triangular(0.1, peak=1, up=10, down=20)"):
    """Rises on a straight line and falls on another, again and again.

        eta_t = lr + (peak - lr) * w * a          w = x / up, then (up + down - x) / down
        x = t mod (up + down)
        a = amplitude_factor ** floor(t / (up + down)) * update_factor ** t

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: the rate at t = up.
        up: updates of a rise.
        down: updates of a fall; None: as many.
        amplitude_factor: of the amplitude, per cycle, in [0, 1].
        update_factor: of the amplitude, per update, in [0, 1].

    >>> schedules.triangular(0.0, peak=1.0, up=2, down=4)(range(8)).tolist()
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.5]

    Source: Smith 2017, https://arxiv.org/abs/1506.01186. Is torch CyclicLR(mode="triangular",
    step_size_up=up, step_size_down=down), LRBench TRI, and its DTRI by `.shift(-up)`.
    """

    lr: float = rate()
    peak: float = rate()
    up: int = positive()
    down: int | None = positive(default=None)
    amplitude_factor: float = share(default=1.0)
    update_factor: float = share(default=1.0)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        cycle = xp.floor(t / (h.up + h.down))
        x = t - cycle * (h.up + h.down)
        w = xp.minimum(x / h.up, (h.up + h.down - x) / h.down)
        return mixed(h.peak, h.lr, w * amplitude(h, xp, cycle, t))

    def _numbers(self) -> dict[str, Any]:
        return {**super()._numbers(), "down": self.up if self.down is None else self.down}


class triangular2(Schedule, example="triangular2(0.1, peak=1, up=12)"):
    """Triangles, each half as high as the last.

        eta_t = lr + (peak - lr) * w / 2 ** cycle          as `triangular`

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: the rate at t = up.
        up: updates of a rise.
        down: updates of a fall; None: as many.

    >>> schedules.triangular2(0.0, peak=1.0, up=2)(range(8)).tolist()
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]

    Source: Smith 2017, https://arxiv.org/abs/1506.01186. Is torch CyclicLR(mode="triangular2").
    """

    lr: float = rate()
    peak: float = rate()
    up: int = positive()
    down: int | None = positive(default=None)

    def _compiled(self) -> CompiledSchedule:
        return triangular(self.lr, self.peak, self.up, self.down, amplitude_factor=0.5)


class triangular_exp(Schedule, example="triangular_exp(0.1, peak=1, up=12, factor=0.98)"):
    """Triangles whose height shrinks at every update.

        eta_t = lr + (peak - lr) * w * factor ** t          as `triangular`

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: what the rate at t = up would be without the factor.
        up: updates of a rise.
        factor: per update, in [0, 1].
        down: updates of a fall; None: as many.

    >>> schedules.triangular_exp(0.0, peak=1.0, up=2, factor=0.5)(range(5)).tolist()
    [0.0, 0.25, 0.25, 0.0625, 0.0]

    Source: Smith 2017, https://arxiv.org/abs/1506.01186. Is torch CyclicLR(mode="exp_range", gamma=factor).
    LRBench DTRIEXP, which begins at its top, is `triangular_exp(lr, lr + (peak - lr) / factor ** up,
    ...).shift(-up)`.
    """

    lr: float = rate()
    peak: float = rate()
    up: int = positive()
    factor: float = share()
    down: int | None = positive(default=None)

    def _compiled(self) -> CompiledSchedule:
        return triangular(self.lr, self.peak, self.up, self.down, update_factor=self.factor)


class sine(Curve, example="sine(0.1, peak=1, steps=12)"):
    """Rises and falls as the upper half of a sine: a kink at the bottom, round at the top.

        eta_t = lr + (peak - lr) * |sin(pi * t / (2 * steps))| * a
        a = amplitude_factor ** floor(t / (2 * steps)) * update_factor ** t

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: the rate at t = steps.
        steps: updates of a rise, and of a fall.
        amplitude_factor: of the amplitude, per cycle of 2 * steps, in [0, 1].
        update_factor: of the amplitude, per update, in [0, 1].

    >>> schedules.sine(0.0, peak=1.0, steps=2)(range(6)).round(4).tolist()
    [0.0, 0.7071, 1.0, 0.7071, 0.0, 0.7071]

    Is LRBench SIN, and its DSIN by `.shift(-steps)`: Wu et al. 2019, https://arxiv.org/abs/1908.06477.
    """

    lr: float = rate()
    peak: float = rate()
    steps: int = positive()
    amplitude_factor: float = share(default=1.0)
    update_factor: float = share(default=1.0)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        cycle = xp.floor(t / (2 * h.steps))
        w = xp.sin(pi / 2 * (t / h.steps - 2 * cycle))
        return mixed(h.peak, h.lr, w * amplitude(h, xp, cycle, t))


class sine2(Schedule, example="sine2(0.1, peak=1, steps=12)"):
    """Half sines, each half as high as the last: `sine` with amplitude_factor=0.5.

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: the rate at t = steps.
        steps: updates of a rise, and of a fall.

    >>> schedules.sine2(0.0, peak=1.0, steps=2)([2, 6, 10]).tolist()
    [1.0, 0.5, 0.25]

    Is LRBench SIN2, and its DSIN2 by `.shift(-steps)`.
    """

    lr: float = rate()
    peak: float = rate()
    steps: int = positive()

    def _compiled(self) -> CompiledSchedule:
        return sine(self.lr, self.peak, self.steps, amplitude_factor=0.5)


class sine_exp(Schedule, example="sine_exp(0.1, peak=1, steps=12, factor=0.98)"):
    """Half sines whose height shrinks at every update: `sine` with update_factor=factor.

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: what the rate at t = steps would be without the factor.
        steps: updates of a rise, and of a fall.
        factor: per update, in [0, 1].

    >>> schedules.sine_exp(0.0, peak=1.0, steps=1, factor=0.5)(range(6)).round(6).tolist()
    [0.0, 0.5, 0.0, 0.125, 0.0, 0.03125]

    Is LRBench SINEXP.
    """

    lr: float = rate()
    peak: float = rate()
    steps: int = positive()
    factor: float = share()

    def _compiled(self) -> CompiledSchedule:
        return sine(self.lr, self.peak, self.steps, update_factor=self.factor)


class cosine_wave(Curve, example="cosine_wave(0.1, peak=1, steps=12)"):
    """Rises and falls as a cosine, round at the bottom and at the top.

        eta_t = lr + (peak - lr) * (1 - cos(pi * t / steps)) / 2 * a
        a = amplitude_factor ** floor(t / (2 * steps)) * update_factor ** t

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: the rate at t = steps.
        steps: updates of a rise, and of a fall.
        amplitude_factor: of the amplitude, per cycle of 2 * steps, in [0, 1].
        update_factor: of the amplitude, per update, in [0, 1].

    >>> schedules.cosine_wave(0.0, peak=1.0, steps=2)(range(6)).round(4).tolist()
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]

    Is LRBench UPCOS, and its COS by `.shift(-steps)`, which is also torch CosineAnnealingLR(T_max=steps,
    eta_min=lr) as it goes on after T_max.
    """

    lr: float = rate()
    peak: float = rate()
    steps: int = positive()
    amplitude_factor: float = share(default=1.0)
    update_factor: float = share(default=1.0)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        cycle = xp.floor(t / (2 * h.steps))
        w = half_sine_squared(xp, t / h.steps - 2 * cycle)
        return mixed(h.peak, h.lr, w * amplitude(h, xp, cycle, t))


class cosine_wave2(Schedule, example="cosine_wave2(0.1, peak=1, steps=12)"):
    """Waves, each half as high as the last: `cosine_wave` with amplitude_factor=0.5.

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: the rate at t = steps.
        steps: updates of a rise, and of a fall.

    >>> schedules.cosine_wave2(0.0, peak=1.0, steps=2)([2, 6, 10]).tolist()
    [1.0, 0.5, 0.25]

    Is LRBench UPCOS2, and its COS2 by `.shift(-steps)`.
    """

    lr: float = rate()
    peak: float = rate()
    steps: int = positive()

    def _compiled(self) -> CompiledSchedule:
        return cosine_wave(self.lr, self.peak, self.steps, amplitude_factor=0.5)


class cosine_wave_exp(Schedule, example="cosine_wave_exp(0.1, peak=1, steps=12, factor=0.98)"):
    """Waves whose height shrinks at every update: `cosine_wave` with update_factor=factor.

    Args:
        lr: the rate at t = 0, and at the end of each cycle.
        peak: what the rate at t = steps would be without the factor.
        steps: updates of a rise, and of a fall.
        factor: per update, in [0, 1].

    >>> schedules.cosine_wave_exp(0.0, peak=1.0, steps=1, factor=0.5)(range(6)).round(6).tolist()
    [0.0, 0.5, 0.0, 0.125, 0.0, 0.03125]

    Is LRBench UPCOSEXP.
    """

    lr: float = rate()
    peak: float = rate()
    steps: int = positive()
    factor: float = share()

    def _compiled(self) -> CompiledSchedule:
        return cosine_wave(self.lr, self.peak, self.steps, update_factor=self.factor)


class saw(Curve, example="saw(1, steps=24, final=0.1)"):
    """Falls on a straight line and jumps back, again and again.

        eta_t = final + (lr - final) * (1 - x / steps) * a          x = t mod steps
        a = amplitude_factor ** floor(t / steps) * update_factor ** t

    Args:
        lr: the rate at t = 0, and after each jump.
        steps: updates between two jumps.
        final: the rate that is approached, and not reached.
        amplitude_factor: of the amplitude, per cycle, in [0, 1].
        update_factor: of the amplitude, per update, in [0, 1].

    >>> schedules.saw(1.0, steps=4)(range(6)).round(4).tolist()
    [1.0, 0.75, 0.5, 0.25, 1.0, 0.75]

    Is LRBench RSW (Wu et al. 2019, https://arxiv.org/abs/1908.06477), which however gives `final` at the
    jumps themselves, t = 0 included.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    amplitude_factor: float = share(default=1.0)
    update_factor: float = share(default=1.0)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        cycle = xp.floor(t / h.steps)
        return mixed(h.lr, h.final, (1 - (t / h.steps - cycle)) * amplitude(h, xp, cycle, t))


class saw2(Schedule, example="saw2(1, steps=24, final=0.1)"):
    """Teeth, each half as high as the last: `saw` with amplitude_factor=0.5.

    Args:
        lr: the rate at t = 0.
        steps: updates between two jumps.
        final: the rate that is approached, and not reached.

    >>> schedules.saw2(1.0, steps=4)([0, 4, 8]).tolist()
    [1.0, 0.5, 0.25]

    Is LRBench RSW2, but at the jumps, where that gives `final`.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)

    def _compiled(self) -> CompiledSchedule:
        return saw(self.lr, self.steps, self.final, amplitude_factor=0.5)


class saw_exp(Schedule, example="saw_exp(1, steps=24, factor=0.98)"):
    """Teeth whose height shrinks at every update: `saw` with update_factor=factor.

    Args:
        lr: the rate at t = 0.
        steps: updates between two jumps.
        factor: per update, in [0, 1].
        final: the rate that is approached, and not reached.

    >>> schedules.saw_exp(1.0, steps=2, factor=0.5)([0, 2, 4]).tolist()
    [1.0, 0.25, 0.0625]

    Is LRBench RSWEXP, but at the jumps, where that gives `final`.
    """

    lr: float = rate()
    steps: int = positive()
    factor: float = share()
    final: float = rate(default=0.0)

    def _compiled(self) -> CompiledSchedule:
        return saw(self.lr, self.steps, self.final, update_factor=self.factor)


class sine_saw(Curve, example="sine_saw(1, steps=24, final=0.1)"):
    """Falls as a quarter of a sine and jumps back, again and again.

        eta_t = final + (lr - final) * sin(pi / 2 * (1 - x / steps)) * a          x = t mod steps
        a = amplitude_factor ** floor(t / steps) * update_factor ** t

    Args:
        lr: the rate at t = 0, and after each jump.
        steps: updates between two jumps.
        final: the rate that is approached, and not reached.
        amplitude_factor: of the amplitude, per cycle, in [0, 1].
        update_factor: of the amplitude, per update, in [0, 1].

    >>> schedules.sine_saw(1.0, steps=4)(range(6)).round(4).tolist()
    [1.0, 0.9239, 0.7071, 0.3827, 1.0, 0.9239]

    Is LRBench SINRSW (Wu et al. 2019, https://arxiv.org/abs/1908.06477), which however gives `final` at the
    jumps themselves, t = 0 included.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    amplitude_factor: float = share(default=1.0)
    update_factor: float = share(default=1.0)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        cycle = xp.floor(t / h.steps)
        w = xp.sin(pi / 2 * (1 - (t / h.steps - cycle)))
        return mixed(h.lr, h.final, w * amplitude(h, xp, cycle, t))


class sine_saw2(Schedule, example="sine_saw2(1, steps=24, final=0.1)"):
    """Teeth, each half as high as the last: `sine_saw` with amplitude_factor=0.5.

    Args:
        lr: the rate at t = 0.
        steps: updates between two jumps.
        final: the rate that is approached, and not reached.

    >>> schedules.sine_saw2(1.0, steps=4)([0, 4, 8]).tolist()
    [1.0, 0.5, 0.25]

    Is LRBench SINRSW2, but at the jumps, where that gives `final`.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)

    def _compiled(self) -> CompiledSchedule:
        return sine_saw(self.lr, self.steps, self.final, amplitude_factor=0.5)


class sine_saw_exp(Schedule, example="sine_saw_exp(1, steps=24, factor=0.98)"):
    """Teeth whose height shrinks at every update: `sine_saw` with update_factor=factor.

    Args:
        lr: the rate at t = 0.
        steps: updates between two jumps.
        factor: per update, in [0, 1].
        final: the rate that is approached, and not reached.

    >>> schedules.sine_saw_exp(1.0, steps=2, factor=0.5)([0, 2, 4]).tolist()
    [1.0, 0.25, 0.0625]

    Is LRBench SINRSWEXP, but at the jumps, where that gives `final`.
    """

    lr: float = rate()
    steps: int = positive()
    factor: float = share()
    final: float = rate(default=0.0)

    def _compiled(self) -> CompiledSchedule:
        return sine_saw(self.lr, self.steps, self.final, update_factor=self.factor)


class cosine_restarts(Curve, example="cosine_restarts(1, 14, cycle_factor=2, amplitude_factor=0.8)"):
    """Falls as half a period of the cosine and jumps back, again and again: SGDR.

        eta_t = final + (lr - final) * (1 + cos(pi * x / n)) / 2 * a          x = t - begin of the cycle
        n = steps * cycle_factor ** cycle
        a = amplitude_factor ** cycle * update_factor ** t

    Args:
        lr: the rate at t = 0.
        steps: updates of the first cycle.
        final: the rate that is approached, and not reached.
        cycle_factor: how much longer each cycle is than the last, in [1, 1000).
        amplitude_factor: of the amplitude, per cycle, in [0, 1].
        update_factor: of the amplitude, per update, in [0, 1].

    >>> schedules.cosine_restarts(1.0, steps=2, cycle_factor=2.0)(range(8)).round(4).tolist()
    [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 1.0, 0.9619]

    Source: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983. Is torch
    CosineAnnealingWarmRestarts(T_0=steps, T_mult=cycle_factor, eta_min=final) and Keras
    CosineDecayRestarts(t_mul=cycle_factor, m_mul=amplitude_factor, alpha=final / lr). Differs from timm
    CosineLRScheduler(cycle_decay=...) where final > 0: that shrinks lr, not lr - final. LRBench COSRSW gives
    `final` at the jumps themselves.
    """

    lr: float = rate()
    steps: int = positive()
    final: float = rate(default=0.0)
    cycle_factor: float = within(1, 1000, default=1.0)
    amplitude_factor: float = share(default=1.0)
    update_factor: float = share(default=1.0)

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        if h.cycle_factor == 1:
            cycle = xp.floor(t / h.steps)
            p = t / h.steps - cycle
        else:
            # (a millionth of the first cycle later, so that a logarithm that errs at a boundary gives the later cycle)
            cycle = xp.floor(xp.log1p((t + 1e-6 * h.steps) / h.steps * (h.cycle_factor - 1)) / log(h.cycle_factor))
            n = h.steps * power(xp, h.cycle_factor, cycle)
            p = xp.clip((t - (n - h.steps) / (h.cycle_factor - 1)) / n, 0, 1)
        return mixed(h.lr, h.final, half_sine_squared(xp, 1 - p) * amplitude(h, xp, cycle, t))
