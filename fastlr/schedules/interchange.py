"""Schedules to and from other frameworks, none of which is imported before it is asked for."""
from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Schedule, from_dict
from .composition import join
from .curves import constant, cosine, geometric, linear, polynomial, step_decay
from .cycles import cosine_restarts, cosine_wave, triangular
from .phases import one_cycle, piecewise_constant
from .traced import traced

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


def to_torch(schedule: Schedule, optimizer: Optimizer, last_epoch: int = -1,
             momentum: Schedule | None = None) -> LRScheduler:
    """A torch scheduler that sets the rate of every group to the schedule's, absolutely, at every `step()`.

    A group with an entry "lr_scale" gets that multiple of it, as in timm. What was in `lr` before does not matter, nor
    in which order optimizer and scheduler are loaded: the rate is a function of the count of steps alone.

    `momentum`, another schedule as ``one_cycle(...).momentum()``, sets each group's "momentum", or the first of its
    "betas", as torch's OneCycleLR and CyclicLR do with cycle_momentum=True; a ValueError if a group has neither.
    """
    from torch.optim.lr_scheduler import LRScheduler

    if momentum is not None:
        for k, group in enumerate(optimizer.param_groups):
            if "betas" not in group and "momentum" not in group:
                raise ValueError(f"to_torch: momentum is given, but group {k} of {type(optimizer).__name__} has "
                                 f"neither momentum nor betas; leave it out")

    class Scheduled(LRScheduler):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
            super().__init__(optimizer, last_epoch)

        def get_lr(self) -> Any:
            rate = schedule(max(self.last_epoch, 0))
            self._set_momentum()
            return [rate * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

        _get_closed_form_lr = get_lr

        def _set_momentum(self) -> None:
            if momentum is not None:
                value = float(momentum(max(self.last_epoch, 0)))
                for group in self.optimizer.param_groups:
                    if "betas" in group:
                        group["betas"] = (value, *group["betas"][1:])
                    else:
                        group["momentum"] = value

        def state_dict(self) -> dict[str, Any]:
            saved: dict[str, Any] = {"last_epoch": self.last_epoch, "schedule": schedule.to_dict()}
            return saved | ({"momentum": momentum.to_dict()} if momentum is not None else {})

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            nonlocal schedule, momentum
            schedule = from_dict(state_dict["schedule"])
            momentum = from_dict(state_dict["momentum"]) if "momentum" in state_dict else None
            self.last_epoch = state_dict["last_epoch"]
            self._step_count = self.last_epoch + 1
            self._last_lr = self.get_lr()
            for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                group["lr"] = rate

    return Scheduled()


def to_optax(schedule: Schedule) -> Callable[[Any], Any]:
    """An optax schedule: a function of the count, traceable under jit, vmap and grad.

    It computes with the same formulas in jax's own number type. In float32 the count itself has 24 bits: a rate differs
    from the schedule's by about 1e-6 of the largest one. A negative count is not refused, and where a part with
    end="error" is over, the rate is NaN: nothing can raise under jit.
    """
    from jax import numpy

    function = traced(schedule, numpy)

    def rate(count: Any) -> Any:
        return function(numpy.asarray(count, dtype=float))

    return rate


def to_keras(schedule: Schedule) -> Any:
    """A Keras LearningRateSchedule, saved and loaded with the model.

    Keras counts batches, not updates: with `gradient_accumulation_steps=k` give it `schedule.every(k).to_keras()`.
    """
    import keras

    return keras_class(keras)(schedule.to_dict())


def keras_class(keras: Any, made: dict[str, Any] = {}) -> Any:  # noqa: B006  (what remembers the one class)
    if "class" not in made:

        @keras.saving.register_keras_serializable(package="fastlr")
        class Scheduled(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc, unused-ignore]
            def __init__(self, schedule: dict[str, Any]) -> None:
                super().__init__()
                self.schedule = from_dict(schedule)
                self._function = traced(self.schedule, keras.ops)

            def __call__(self, step: Any) -> Any:
                return self._function(keras.ops.cast(step, keras.config.floatx()))

            def get_config(self) -> dict[str, Any]:
                return {"schedule": self.schedule.to_dict()}

        made["class"] = Scheduled
    return made["class"]


def from_torch(scheduler: LRScheduler, group: int = 0) -> Schedule:
    """The schedule that a torch scheduler follows, as a function of the count of its steps since it was made.

    Exact for every scheduler of torch.optim, one rate of `group` after the other; also beyond the end, where
    CosineAnnealingLR climbs again (`cosine` does not) but for OneCycleLR, which is held where torch raises.
    A scheduler that calls a Python function, or waits for a metric, has no closed form: a TypeError says what to use.

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        from_torch(torch.optim.lr_scheduler.StepLR(optimizer, step_size=30))
        step_decay(lr=0.1, every=30, factor=0.1)
    """
    factor = FROM_TORCH.get(type(scheduler).__name__)
    if factor is None or not type(scheduler).__module__.startswith("torch.optim"):
        name = type(scheduler).__name__
        cure = CURES.get(name, "write it with the curves of fastlr.schedules")
        raise TypeError(f"from_torch: {name} has no closed form: {cure}")
    made: Schedule = factor(scheduler, group)
    return made


def _base(s: Any, group: int) -> float:
    return float(s.base_lrs[group])


def _multi_step(s: Any, g: int) -> Schedule:
    at = sorted(t for t in s.milestones if t > 0)
    drops = np.cumsum([s.milestones[t] for t in at]).tolist()
    now = s.milestones.get(0, 0)
    return piecewise_constant([_base(s, g) * s.gamma ** (now + k) for k in [0, *drops]], at)


def _constant(s: Any, g: int) -> Schedule:
    if s.total_iters == 0:
        return constant(_base(s, g))
    return piecewise_constant([_base(s, g) * s.factor, _base(s, g)], [s.total_iters])


def _linear(s: Any, g: int) -> Schedule:
    final = _base(s, g) * s.end_factor
    return linear(_base(s, g) * s.start_factor, s.total_iters, final) if s.total_iters else constant(final)


def _cosine_annealing(s: Any, g: int) -> Schedule:
    # (a cosine_wave rises first; half a period later it is at its top)
    return cosine_wave(float(s.eta_min), peak=_base(s, g), steps=s.T_max).shift(-s.T_max)


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
    pieces = [from_torch(part, g) for part in s._schedulers]
    begins = list(s._milestones)
    while begins and begins[0] == 0:               # milestones=[0] skips the first one
        pieces, begins = pieces[1:], begins[1:]
    return join(pieces, begins)


def _chained(s: Any, g: int) -> Schedule:
    base, factors = 1.0, []
    for part in s._schedulers:
        name, schedule = type(part).__name__, from_torch(part, g)
        if name in OVERWRITING:                    # it does not look at the rate it finds
            base, factors = 1.0, [schedule]
            continue
        if (name == "CosineAnnealingLR" and part.eta_min != 0) or name in ("SequentialLR", "SWALR"):
            raise TypeError(f"from_torch: {name} in a ChainedScheduler depends on what the others did: "
                            "multiply schedules instead, `s * r`")
        base = _base(part, g)
        factors.append(schedule * (1 / base) if factors else schedule)
    return reduce(mul, factors)


OVERWRITING = ("CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR")
FROM_TORCH: dict[str, Callable[[Any, int], Schedule]] = {
    "StepLR": lambda s, g: step_decay(_base(s, g), s.step_size, s.gamma),
    "MultiStepLR": _multi_step,
    "ConstantLR": _constant,
    "LinearLR": _linear,
    "ExponentialLR": lambda s, g: geometric(_base(s, g), s.gamma),
    "PolynomialLR": lambda s, g: polynomial(_base(s, g), s.total_iters, s.power),
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
