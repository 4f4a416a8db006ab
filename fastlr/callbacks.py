"""Callbacks that record a `History` and act on a `Plateau`: for loops of torch, for Keras and for Lightning.

    recorder = callbacks.torch_loop(opt, history)
    model.fit(x, y, callbacks=[callbacks.keras_callback(history)])
    Trainer(callbacks=[callbacks.lightning_callback(history)])

Each framework is imported when its function is called. See docs/callbacks.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from .monitor.history import History
from .schedules.plateau import Plateau

__all__ = ["keras_callback", "lightning_callback", "torch_loop"]

Lower = Callable[[float], None]


class Recorder:
    """What all callbacks have: a history, and a plateau whose reductions lower the rate or stop the training."""

    def __init__(self, owner: str, history: History | None, plateau: Any, stop: int | None) -> None:
        if history is not None and not isinstance(history, History):
            raise TypeError(f"{owner}: history must be a History, got {type(history).__name__}")
        self.scheduler = plateau if isinstance(getattr(plateau, "plateau", None), Plateau) else None
        plateau = plateau if self.scheduler is None else self.scheduler.plateau
        if plateau is not None and not isinstance(plateau, Plateau):
            raise TypeError(f"{owner}: plateau must be a fastlr.Plateau, got {type(plateau).__name__}")
        if stop is not None and (isinstance(stop, bool) or not isinstance(stop, int) or stop < 1):
            raise ValueError(f"{owner}: stop must be a number of reductions from 1 up, got {stop!r}")
        if stop is not None and plateau is None:
            raise ValueError(f"{owner}: stop counts the reductions of a plateau; give plateau=fastlr.Plateau(1.0, ...)")
        self.owner, self.history = owner, History() if history is None else history
        self.plateau, self.stop, self.reductions = plateau, stop, 0

    @property
    def lowers(self) -> bool:
        """Whether a reduction may lower the rate."""
        return self.plateau is not None and self.stop != 1

    @property
    def stopped(self) -> bool:
        """Whether the plateau has been reduced as often as `stop` says."""
        return self.stop is not None and self.reductions >= self.stop

    def observe(self, value: float, lower: Lower) -> bool:
        """Show the plateau a metric; `lower` gets the factor of a reduction that does not stop the training."""
        if self.plateau is None or self.stopped:
            return self.stopped
        before = self.plateau.scale
        if self.plateau.observe(value):
            self.reductions += 1
            if not self.stopped:
                lower(self.plateau.scale / before)
        return self.stopped

    def observe_logged(self, logged: Mapping[str, Any], monitor: str, logs: str, cure: str, lower: Lower) -> bool:
        """Show the plateau what was logged by the name `monitor`; ValueError with a cure where it is not there."""
        if self.plateau is None:
            return False
        if monitor not in logged:
            raise ValueError(f"{self.owner}: {monitor!r} is not {logs}, but {', '.join(logged) or 'nothing'}; {cure}, "
                             "or give monitor=")
        return self.observe(float(logged[monitor]), lower)

    def state_dict(self) -> dict[str, Any]:
        plateau = None if self.plateau is None else self.plateau.state_dict()
        return {"plateau": plateau, "reductions": self.reductions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.plateau is not None and state["plateau"] is not None:
            self.plateau.load_state_dict(state["plateau"])
        self.reductions = int(state["reductions"])


# torch


class TorchLoop(Recorder):
    """See `torch_loop`."""

    def __init__(self, optimizer: Any, history: History | None, plateau: Any, stop: int | None) -> None:
        super().__init__("torch_loop", history, plateau, stop)
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"torch_loop: optimizer must be one of torch, got {type(optimizer).__name__}")
        self.optimizer = optimizer

    def update(self, loss: Any, **more: Any) -> None:
        """Record the loss of an update, the rate that it had, and other numbers; call it after `optimizer.step()`."""
        self.history.record({"loss": loss, **more}, opt=self.optimizer)

    def validation(self, loss: Any, **more: Any) -> bool:
        """Record a validation loss as `val_loss`, and show it to the plateau; whether the training is to stop."""
        self.history.record({"val_loss": loss, **more})
        return self.observe(float(self.history["val_loss"][-1]), self.lower)

    def lower(self, factor: float) -> None:
        if self.scheduler is not None:
            self.scheduler.set_rates()
        else:
            lower_groups([self.optimizer], factor)


def lower_groups(optimizers: Any, factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor


def torch_loop(
    optimizer: Any, history: History | None = None, *, plateau: Any = None, stop: int | None = None
) -> TorchLoop:
    """A recorder for a loop of torch: ``recorder.update(loss)`` after each step, ``recorder.validation(loss)`` now and
    then, which is true when the training is to stop.

    Args:
        optimizer: of torch, or of `fastlr.torch`.
        history: the `History` that records ``loss`` and ``lr`` of each update and ``val_loss``; default: a new one,
            ``recorder.history``.
        plateau: a `Plateau` that observes each validation loss; the rate of every group is multiplied by its factor
            when it is reduced. Where a scheduler sets the rates, give the one that ``plateau.to_torch(optimizer)``
            returns. Default: the rate is left alone.
        stop: the training is to stop at this many reductions of the plateau; 1 stops at the first and lowers nothing.

    A plateau that is reduced for the fourth time ends this training (docs/callbacks.md has one that runs)::

        recorder = fastlr.callbacks.torch_loop(opt, plateau=fastlr.Plateau(1.0, factor=0.5, patience=3), stop=4)
        for epoch in range(100):
            for x, y in loader:
                opt.zero_grad()
                loss = loss_fn(model(x), y)
                loss.backward()
                opt.step()
                recorder.update(loss)
            if recorder.validation(loss_of(model, validation)):
                break
    """
    return TorchLoop(optimizer, history, plateau, stop)


# Keras


def keras_callback(
    history: History | None = None, *, plateau: Plateau | None = None, stop: int | None = None,
    monitor: str = "val_loss",
) -> Any:
    """A `keras.callbacks.Callback` that records every batch, and what is validated after an epoch.

    Keras tells callbacks the mean loss of the epoch so far; the loss of each batch is computed from the means before
    and after it, as if all batches had the same size (that of a smaller last one is drawn towards the mean). The update
    t is the optimizer's count of iterations.

    Args:
        history: the `History` that records ``loss`` and ``lr`` of each batch and every ``val_`` metric; default: a new
            one, ``callback.history``.
        plateau: a `Plateau` that observes `monitor` after each epoch; the optimizer's rate is multiplied by its factor
            when it is reduced. A rate that is a schedule cannot be: `ValueError` when the training begins.
        stop: the training stops at this many reductions of the plateau; 1 stops at the first and lowers nothing.
        monitor: a name of Keras' logs.

    Differs from Keras' ReduceLROnPlateau and EarlyStopping: both by one plateau, and at each batch the loss of that
    batch is recorded.
    """
    try:
        made = keras_class()
    except ModuleNotFoundError as error:
        if error.name != "keras":
            raise
        raise ImportError("keras_callback: needs Keras, which is missing; pip install keras") from None
    return made(Recorder("keras_callback", history, plateau, stop), monitor)


@cache
def keras_class() -> type:
    import keras

    class KerasRecorder(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
        """See `keras_callback`."""

        def __init__(self, recorder: Recorder, monitor: str) -> None:
            super().__init__()
            self.recorder, self.monitor, self.history = recorder, monitor, recorder.history
            self.t, self.seen, self.mean = 0, 0, 0.0

        def on_train_begin(self, logs: Any = None) -> None:
            if self.recorder.lowers and self.scheduled() is not None:
                raise ValueError("keras_callback: the optimizer's rate is a schedule, which a plateau cannot lower; "
                                 "give the optimizer a number, or stop=1")
            self.t = int(self.model.optimizer.iterations)
            if self.history.latest > self.t:
                self.history.rewind(self.t + 1)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.seen, self.mean = 0, 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            count = batch + 1 - self.seen       # (several where steps_per_execution is)
            row = {"lr": self.rate(self.t + count - 1)}
            if logs and "loss" in logs:
                mean = float(logs["loss"])
                row["loss"] = ((batch + 1) * mean - self.seen * self.mean) / count
                self.mean = mean
            self.t, self.seen = self.t + count, batch + 1
            self.history.record(row, t=self.t)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs = logs or {}
            row = {name: float(value) for name, value in logs.items() if name.startswith("val_")}
            if row:
                self.history.record(row, t=self.t)
            if self.recorder.observe_logged(logs, self.monitor, "in the logs", "give fit(validation_data=...)",
                                            self.lower):
                self.model.stop_training = True

        def lower(self, factor: float) -> None:
            self.model.optimizer.learning_rate = self.rate(self.t) * factor

        def scheduled(self) -> Any:
            """The optimizer's schedule, None if its rate is a number."""
            rate = getattr(self.model.optimizer, "_learning_rate", None)
            return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None

        def rate(self, t: int) -> float:
            schedule = self.scheduled()
            if schedule is not None:
                return float(keras.ops.convert_to_numpy(schedule(t)))
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()     # (its variables are elsewhere while it trains)
            return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    return KerasRecorder


# Lightning


def lightning_callback(
    history: History | None = None, *, plateau: Plateau | None = None, stop: int | None = None,
    monitor: str = "val_loss",
) -> Any:
    """A Lightning `Callback` that records every update, and what is validated.

    The update t is the trainer's `global_step`. With accumulated gradients the loss of an update is the mean of its
    batches. The callback's state is saved with Lightning's checkpoints; training that goes on from one forgets what was
    recorded after it.

    Args:
        history: the `History` that records ``loss`` and ``lr`` of each update (``lr.1``, ... of further groups), and
            every logged metric whose name begins with "val"; default: a new one, ``callback.history``.
        plateau: a `Plateau` that observes `monitor` after each validation; the rate of every group is multiplied by its
            factor when it is reduced. Where `configure_optimizers` returns schedulers, that must be
            ``plateau.to_torch(optimizer)`` of this plateau: `ValueError` when the training begins.
        stop: the training stops at this many reductions of the plateau; 1 stops at the first and lowers nothing.
        monitor: a name that the module logs.

    Works with `lightning` and `pytorch_lightning`: the one that is imported already, else the one that is installed.
    """
    return lightning_class(lightning_package())(Recorder("lightning_callback", history, plateau, stop), monitor)


def lightning_package() -> str:
    known = ("lightning.pytorch", "pytorch_lightning")
    imported = [name for name in known if name in sys.modules]
    if imported:
        return imported[0]
    from importlib.util import find_spec

    installed = [name for name in known if find_spec(name.partition(".")[0]) is not None]
    if not installed:
        raise ImportError("lightning_callback: needs Lightning, which is missing; pip install lightning")
    return installed[0]


@cache
def lightning_class(package: str) -> type:
    from importlib import import_module

    framework: Any = import_module(package)

    class LightningRecorder(framework.Callback):  # type: ignore[misc, unused-ignore]
        """See `lightning_callback`."""

        def __init__(self, recorder: Recorder, monitor: str) -> None:
            self.recorder, self.monitor, self.history = recorder, monitor, recorder.history
            self.rates: dict[str, float] = {}
            self.losses: list[float] = []
            self.resumed = False

        def state_dict(self) -> dict[str, Any]:
            return self.recorder.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.recorder.load_state_dict(state_dict)
            self.resumed = True

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if self.resumed and self.history.latest > trainer.global_step:
                self.history.rewind(trainer.global_step + 1)
            others = [config.scheduler for config in trainer.lr_scheduler_configs]
            if self.recorder.lowers and others and not self.drives(others):
                raise ValueError(f"lightning_callback: {type(others[0]).__name__} sets the rate, so the plateau cannot "
                                 "lower it; return plateau.to_torch(optimizer) from configure_optimizers instead, or "
                                 "give stop=1")

        def drives(self, schedulers: list[Any]) -> bool:
            """Whether a scheduler of this plateau sets the rates."""
            return any(getattr(one, "plateau", None) is self.recorder.plateau for one in schedulers)

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            groups = (group for one in trainer.optimizers for group in one.param_groups)
            self.rates = {f"lr.{k}" if k else "lr": float(group["lr"]) for k, group in enumerate(groups)}

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            if loss is not None:                 # (which Lightning has divided)
                self.losses.append(float(loss) * trainer.accumulate_grad_batches)
            if self.rates:
                mean = {"loss": sum(self.losses) / len(self.losses)} if self.losses else {}
                self.history.record({**mean, **self.rates}, t=trainer.global_step)
                self.rates, self.losses = {}, []

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.sanity_checking:
                return
            logged = trainer.callback_metrics
            row = {name: float(value) for name, value in logged.items()
                   if name.startswith("val") or name == self.monitor}
            if row:
                self.history.record(row, t=trainer.global_step)

            def lower(factor: float) -> None:
                schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
                if self.drives(schedulers):
                    for one in schedulers:
                        if getattr(one, "plateau", None) is self.recorder.plateau:
                            one.set_rates()
                else:
                    lower_groups(trainer.optimizers, factor)

            if self.recorder.observe_logged(logged, self.monitor, "logged", "log it in validation_step", lower):
                trainer.should_stop = True

    return LightningRecorder
