"""Schedules to torch, optax and Keras; each library is imported when it is first used.

Their classes derive from a class of the framework, so they are made at the first use: `ScheduledLR` and `PlateauLR` for
torch and `ScheduledRate` for Keras are attributes of this module from then on, and can be pickled by their names.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastlr._engine.compiled_schedule import CompiledSchedule

from .registry import from_dict
from .traced import traced

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


def to_torch(schedule: CompiledSchedule, optimizer: Optimizer, last_epoch: int = -1,
             momentum: CompiledSchedule | None = None) -> LRScheduler:
    """A torch scheduler that sets the rate of every group to the schedule's, absolutely, at every `step()`.

    A group with an entry "lr_scale" gets that multiple of it, as in timm. What was in `lr` before does not matter, nor
    in which order optimizer and scheduler are loaded: the rate is a function of the count of steps alone. It can be
    pickled and copied, together with its optimizer.

    `momentum`, another schedule as ``one_cycle(...).momentum()``, sets each group's "momentum", or the first of its
    "betas", as torch's OneCycleLR and CyclicLR do with cycle_momentum=True; a ValueError if a group has neither.
    """
    require_torch(optimizer)
    if momentum is not None:
        for k, group in enumerate(optimizer.param_groups):
            if "betas" not in group and "momentum" not in group:
                raise ValueError(f"to_torch: momentum is given, but group {k} of {type(optimizer).__name__} has "
                                 f"neither momentum nor betas; leave it out")
    made: LRScheduler = class_of_framework("ScheduledLR")(optimizer, schedule, momentum, last_epoch)
    return made


def require_torch(optimizer: Any) -> None:
    if not hasattr(optimizer, "param_groups"):
        cure = "; give its lr the schedule itself: opt.lr = schedule" if hasattr(optimizer, "groups") else ""
        raise TypeError(f"to_torch: optimizer must be one of torch or fastlr.torch, got {type(optimizer).__name__}"
                        f"{cure}")


def plateau_to_torch(plateau: Any, optimizer: Optimizer, last_epoch: int = -1) -> Any:
    """A torch scheduler that sets the rate of every group to the plateau's. See `Plateau.to_torch`."""
    require_torch(optimizer)
    return class_of_framework("PlateauLR")(optimizer, plateau, None, last_epoch)


def to_optax(schedule: CompiledSchedule) -> Callable[[Any], Any]:
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


def to_keras(schedule: Any) -> Any:
    """A Keras LearningRateSchedule, saved and loaded with the model.

    Keras counts batches, not updates: with `gradient_accumulation_steps=k` give it `schedule.every(k).to_keras()`.
    """
    return class_of_framework("ScheduledRate")(schedule.to_dict())


def torch_class() -> type:
    from torch.optim.lr_scheduler import LRScheduler

    class ScheduledLR(LRScheduler):  # type: ignore[misc, unused-ignore]
        """A schedule of fastlr as a scheduler of torch."""

        def __init__(self, optimizer: Any, schedule: Any, momentum: Any, last_epoch: int) -> None:
            self.schedule, self.momentum = schedule, momentum
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
            super().__init__(optimizer, last_epoch)

        def get_lr(self) -> Any:
            t = max(self.last_epoch, 0)
            rate = self.schedule(t)
            if self.momentum is not None:
                value = float(self.momentum(t))
                for group in self.optimizer.param_groups:
                    if "betas" in group:
                        group["betas"] = (value, *group["betas"][1:])
                    else:
                        group["momentum"] = value
            return [rate * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

        _get_closed_form_lr = get_lr

        def state_dict(self) -> dict[str, Any]:
            saved: dict[str, Any] = {"last_epoch": self.last_epoch, "schedule": self.schedule.to_dict()}
            return saved | ({"momentum": self.momentum.to_dict()} if self.momentum is not None else {})

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.schedule = from_dict(state_dict["schedule"])
            self.momentum = from_dict(state_dict["momentum"]) if "momentum" in state_dict else None
            self.last_epoch = state_dict["last_epoch"]
            self._step_count = self.last_epoch + 1
            self._last_lr = self.get_lr()
            for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                group["lr"] = rate

    return ScheduledLR


def plain_number(value: Any) -> float:
    """A number, also of a tensor that autograd follows."""
    return float(value.item() if hasattr(value, "item") else value)


def plateau_class() -> type:
    base = class_of_framework("ScheduledLR")

    class PlateauLR(base):  # type: ignore[misc, valid-type, unused-ignore]
        """A `Plateau` as a scheduler of torch."""

        @property
        def plateau(self) -> Any:
            return self.schedule

        def observe(self, metric: Any) -> bool:
            """Count a metric, and set the rates of this t at once if the scale was lowered; whether it was."""
            lowered: bool = self.plateau.observe(plain_number(metric))
            if lowered:
                self.set_rates()
            return lowered

        def step(self, metric: Any = None) -> None:
            """Count an update, after a metric where one is given, as torch's ReduceLROnPlateau takes it."""
            if metric is not None:
                self.plateau.observe(plain_number(metric))
            super().step()

        def set_rates(self) -> None:
            """Set the rates of this t, by the plateau's scale as it is."""
            self._last_lr = self.get_lr()
            for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                if isinstance(group["lr"], float | int):
                    group["lr"] = rate
                else:
                    group["lr"].fill_(rate)      # (a tensor, which a compiled step reads)

        def state_dict(self) -> dict[str, Any]:
            return {"last_epoch": self.last_epoch, "plateau": self.plateau.state_dict()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.plateau.load_state_dict(state_dict["plateau"])
            self.last_epoch = state_dict["last_epoch"]
            self._step_count = self.last_epoch + 1
            self.set_rates()

    return PlateauLR


def keras_class() -> type:
    import keras

    class ScheduledRate(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc, unused-ignore]
        """A schedule of fastlr as a schedule of Keras."""

        def __init__(self, schedule: dict[str, Any]) -> None:
            super().__init__()
            self.schedule = from_dict(schedule)
            self._function = traced(self.schedule, keras.ops)

        def __call__(self, step: Any) -> Any:
            return self._function(keras.ops.cast(step, keras.config.floatx()))

        def get_config(self) -> dict[str, Any]:
            return {"schedule": self.schedule.to_dict()}

        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), (self.schedule.to_dict(),)

    # (the name under which models were saved)
    registered: type = keras.saving.register_keras_serializable(package="fastlr", name="Scheduled")(ScheduledRate)
    return registered


MAKERS: dict[str, Callable[[], type]] = {"ScheduledLR": torch_class, "PlateauLR": plateau_class,
                                         "ScheduledRate": keras_class}


def class_of_framework(name: str) -> Any:
    """A class of this module that derives from a framework's, made once."""
    if name not in globals():
        made = MAKERS[name]()
        made.__qualname__ = name       # so that pickle finds it here
        globals()[name] = made
    return globals()[name]


def __getattr__(name: str) -> Any:
    if name in MAKERS:
        return class_of_framework(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
