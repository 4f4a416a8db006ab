"""Schedules from torch schedulers: exact, or refused with what to write instead. torch itself is not imported here."""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import reduce
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Schedule
from .composition import join
from .cycles import cosine_restarts, cosine_wave, triangular
from .endless import constant, geometric, step_decay
from .finite import cosine, linear, polynomial
from .phases import one_cycle, piecewise_constant

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler


def from_torch(scheduler: LRScheduler, group: int = 0) -> Schedule:
    """The schedule that a torch scheduler follows, as a function of the count of its steps, its `last_epoch`.

    Exact for every scheduler of torch.optim, one rate of `group` after the other; also beyond the end, where
    CosineAnnealingLR climbs again (`cosine` does not) but for OneCycleLR, which is held where torch raises, and for
    CosineAnnealingLR in a ChainedScheduler, where a t after its T_max is a ValueError.
    A TypeError says what to use for what has no closed form: a scheduler that calls a Python function, or waits for a
    metric; a composite inside another; one whose rate is not what its steps give, as after `optimizer.param_groups[0]
    ["lr"] = x` or a step of one part alone.

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        from_torch(torch.optim.lr_scheduler.StepLR(optimizer, step_size=30))
        step_decay(lr=0.1, every=30, factor=0.1)
    """
    made = _converted(scheduler, group)
    _check_rate(scheduler, made, group)
    return made


def _converted(scheduler: Any, group: int) -> Schedule:
    name = type(scheduler).__name__
    factor = FROM_TORCH.get(name)
    if factor is None or not type(scheduler).__module__.startswith("torch.optim"):
        cure = CURES.get(name, "write it with the curves of fastlr.schedules")
        raise TypeError(f"from_torch: {name} has no closed form: {cure}")
    made: Schedule = factor(scheduler, group)
    return made


def _check_rate(scheduler: Any, made: Schedule, group: int) -> None:
    """TypeError if the optimizer's rate is not that of the scheduler's steps."""
    name, t = type(scheduler).__name__, _steps(scheduler)
    if name == "OneCycleLR" and t >= scheduler.total_steps:
        return                         # (after its end, where it climbs once more)
    rate = float(scheduler.optimizer.param_groups[group]["lr"])
    try:
        due = made(t)
    except ValueError as error:
        raise TypeError(f"from_torch: {name} is at step {t}, where it has no closed form: {error}") from None
    # (torch's recursion drifts by 5e-11 in 1e5 steps)
    if not abs(rate - due) <= 1e-9 * max(abs(rate), due, _base(scheduler, group)):
        raise TypeError(f"from_torch: {name} is at step {t}, where its rate is {due:.6g}, but the optimizer's is "
                        f"{rate:.6g}: one of them was set by hand; convert a scheduler that was only stepped")


def _steps(scheduler: Any) -> int:
    """The steps made; TypeError if the parts of a composite disagree."""
    name = type(scheduler).__name__
    if name == "ChainedScheduler":
        counts = {part.last_epoch for part in scheduler._schedulers}
        if len(counts) > 1:
            raise TypeError(f"from_torch: the parts of a ChainedScheduler must have made as many steps, got "
                            f"{sorted(counts)}; step the ChainedScheduler alone")
        return int(counts.pop())
    t = int(scheduler.last_epoch)
    if name == "SequentialLR":
        ends, now = [*scheduler._milestones, t + 1], bisect_right(scheduler._milestones, t)
        begins = [0, *scheduler._milestones]
        for k, part in enumerate(scheduler._schedulers):
            due = -1 if k > now else min(ends[k], t + 1) - 1 - begins[k]
            if part.last_epoch != due:
                raise TypeError(f"from_torch: {type(part).__name__}, part {k} of a SequentialLR at step {t}, must have "
                                f"made {due} steps, got {part.last_epoch}; step the SequentialLR alone")
    return t


def _base(s: Any, group: int) -> float:
    """The rate that a scheduler starts from; of a composite, its first part's."""
    return float(s.base_lrs[group]) if hasattr(s, "base_lrs") else _base(s._schedulers[0], group)


def _step(s: Any, g: int) -> Schedule:
    return step_decay(_base(s, g), _length(s, "step_size"), s.gamma)


def _length(s: Any, keyword: str) -> int:
    """A length by which torch divides."""
    value: int = getattr(s, keyword)
    if value == 0:
        raise TypeError(f"from_torch: {type(s).__name__} with {keyword}=0 divides by zero in torch, at its first step: "
                        f"{keyword} must be a positive integer")
    return value


def _multi_step(s: Any, g: int) -> Schedule:
    at = sorted(t for t in s.milestones if t > 0)
    drops = np.cumsum([s.milestones[t] for t in at]).tolist()
    now = s.milestones.get(0, 0)
    return piecewise_constant([_base(s, g) * s.gamma ** (now + k) for k in [0, *drops]], at)


def _constant(s: Any, g: int) -> Schedule:
    if s.total_iters == 0:             # torch applies the factor at step 0, and takes it back at a later step 0 only
        return constant(_base(s, g) * s.factor)
    if s.factor == 0:
        raise TypeError("from_torch: ConstantLR with factor=0 divides by zero in torch, after total_iters steps: "
                        "use `constant(0).then(schedule, at=total_iters)`")
    return piecewise_constant([_base(s, g) * s.factor, _base(s, g)], [s.total_iters])


def _linear(s: Any, g: int) -> Schedule:
    first = _base(s, g) * s.start_factor
    if s.total_iters == 0:             # torch applies start_factor at step 0, and no later step changes the rate
        return constant(first)
    return linear(first, s.total_iters, _base(s, g) * s.end_factor)


def _polynomial(s: Any, g: int) -> Schedule:
    return polynomial(_base(s, g), s.total_iters, s.power) if s.total_iters else constant(_base(s, g))


def _cosine_annealing(s: Any, g: int) -> Schedule:
    # (a cosine_wave rises first; half a period later it is at its peak)
    return cosine_wave(float(s.eta_min), peak=_base(s, g), steps=_length(s, "T_max")).shift(-s.T_max)


def _restarts(s: Any, g: int) -> Schedule:
    return cosine_restarts(_base(s, g), s.T_0, float(s.eta_min), cycle_factor=s.T_mult)


def _cyclic(s: Any, g: int) -> Schedule:
    up = s.total_size * s.step_ratio
    down = s.total_size - up
    if s._scale_fn_custom is not None or abs(up - round(up)) > 1e-9 * up:
        raise TypeError("from_torch: CyclicLR with a scale_fn of its own or with parts of steps has no closed form: "
                        "use `triangular` with amplitude_factor or update_factor")
    halving = 0.5 if s.mode == "triangular2" else 1.0
    shrinking = s.gamma if s.mode == "exp_range" else 1.0
    return triangular(_base(s, g), float(s.max_lrs[g]), round(up), round(down), halving, shrinking)


def _one_cycle(s: Any, g: int) -> Schedule:
    group, first = s.optimizer.param_groups[g], s._schedule_phases[0]["end_step"]
    shape: Any = "cosine" if s._anneal_func_type == "cos" else "linear"
    return one_cycle(
        group["max_lr"], s.total_steps, pct_start=(first + 1) / s.total_steps, shape=shape,
        div_factor=group["max_lr"] / group["initial_lr"], final_div_factor=group["initial_lr"] / group["min_lr"],
        three_phase=len(s._schedule_phases) == 3,
    )


def _swa(s: Any, g: int) -> Schedule:
    shape = cosine if s._anneal_strategy == "cos" else linear
    if s.anneal_epochs == 0:
        return constant(float(s.optimizer.param_groups[g]["swa_lr"]))
    return shape(_base(s, g), s.anneal_epochs, float(s.optimizer.param_groups[g]["swa_lr"]))


def _sequential(s: Any, g: int) -> Schedule:
    skipped = bisect_right(s._milestones, 0)       # milestones=[0] skips the first one
    for k, part in enumerate(s._schedulers):
        name = type(part).__name__
        if name in COMPOSITES or name == "SWALR":
            raise TypeError(f"from_torch: {name} in a SequentialLR depends on when it was made: "
                            "make it of its parts, `s.then(r, at=n)` or `s * r`")
        if k > skipped and getattr(part, "total_iters", 1) == 0:
            raise TypeError(f"from_torch: {name} with total_iters=0 in a SequentialLR depends on its place: "
                            "leave it out")
    return join([_converted(part, g) for part in s._schedulers[skipped:]], s._milestones[skipped:])


def _chained(s: Any, g: int) -> Schedule:
    if len(s._schedulers) == 1 and type(s._schedulers[0]).__name__ not in COMPOSITES:
        return _converted(s._schedulers[0], g)
    factors: list[Schedule] = []
    before = ""
    for part in s._schedulers:
        name = type(part).__name__
        if name in (*COMPOSITES, "SWALR") or (name == "CosineAnnealingLR" and part.eta_min != 0):
            raise TypeError(f"from_torch: {name} in a ChainedScheduler depends on what the others did: "
                            "multiply schedules instead, `s * r`")
        if before and name not in OVERWRITING:     # (what it multiplies is overwritten at the next step)
            raise TypeError(f"from_torch: {name} after {before} in a ChainedScheduler changes single rates only: "
                            "leave it out, or multiply schedules, `s * r`")
        schedule = _converted(part, g)
        if name in OVERWRITING:                    # it does not read the rate of the others
            before, factors = name, [schedule]
            continue
        if name == "CosineAnnealingLR":            # after T_max torch adds to a rate of 0, without the others' factors
            schedule = cosine(_base(part, g), part.T_max, end="error")
        base = _base(part, g)
        factors.append(schedule if not factors else constant(0.0) if base == 0 else schedule * (1 / base))
    return reduce(mul, factors)


COMPOSITES = ("SequentialLR", "ChainedScheduler")
OVERWRITING = ("CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR")
FROM_TORCH: dict[str, Callable[[Any, int], Schedule]] = {
    "StepLR": _step,
    "MultiStepLR": _multi_step,
    "ConstantLR": _constant,
    "LinearLR": _linear,
    "ExponentialLR": lambda s, g: geometric(_base(s, g), s.gamma),
    "PolynomialLR": _polynomial,
    "CosineAnnealingLR": _cosine_annealing,
    "CosineAnnealingWarmRestarts": _restarts,
    "CyclicLR": _cyclic,
    "OneCycleLR": _one_cycle,
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
    "SWALR": _swa,
}
CURES = {
    "LambdaLR": "give the optimizer the function itself, `lr=lambda t: base * f(t)`",
    "MultiplicativeLR": "write its product as a schedule, `geometric` if the factor is constant",
    "ReduceLROnPlateau": "use fastlr.Plateau(schedule, factor, patience, convention='torch')",
}
