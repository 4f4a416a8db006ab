"""`find_lr` and `tune_lr` for a model, an optimizer, a loss and a loader of torch; all that they change is restored."""
from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..optimizers.state import completed
from ..tuning import range_test, search
from ..tuning.batches import size_of
from ..tuning.range_test import RangeTest, rate_ratios
from ..tuning.restoring import saved as saved_others
from ..tuning.trials import MOST_NONFINITE, set_rates, take_step
from ..tuning.tuned import Mode, Tuned
from .classes import WithLoss
from .saving import Restore, moved, saved, trained

Loss = Callable[..., Any]


class RateOfGroup:
    """The rate of a group of torch, as `lr` of a group of fastlr."""

    __slots__ = ("own",)

    def __init__(self, own: dict[str, Any]) -> None:
        self.own = own

    @property
    def lr(self) -> float:
        return float(self.own["lr"])

    @lr.setter
    def lr(self, lr: float) -> None:
        if isinstance(self.own["lr"], torch.Tensor):
            self.own["lr"].fill_(lr)
        else:
            self.own["lr"] = lr


class Training:
    """A model, its optimizer and loss, as what `fastlr.find_lr` needs of an optimizer and of `loss_and_grad`."""

    t = 0                              # (schedulers of torch are not asked for rates ahead)
    begin_anew: Restore
    others: Any = ()

    def __init__(self, who: str, model: torch.nn.Module, opt: torch.optim.Optimizer, loss_fn: Loss | None,
                 loader: Any, validation: Any = None) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"{who}: model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(opt, torch.optim.Optimizer):
            raise TypeError(f"{who}: optimizer must be a torch.optim.Optimizer, as those of torch.optim and "
                            f"fastlr.torch, got {type(opt).__name__}")
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"{who}: loss_fn must be callable as loss_fn(output, target), or None where the model "
                            f"returns the loss, got {loss_fn!r}")
        closure = inspect.signature(type(opt).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise TypeError(f"{who}: {type(opt).__name__} computes the loss several times in a step; give an optimizer "
                            f"whose step takes no closure")
        if getattr(opt, "in_backward", False):
            raise TypeError(f"{who}: in_backward=True moves parameters before the loss is known to be finite; give the "
                            f"optimizer without it, the rate is the same")
        self.who, self.model, self.opt, self.loss_fn = who, model, opt, loss_fn
        self.loaders = (loader, validation)
        self.groups = [RateOfGroup(group) for group in opt.param_groups]
        self.needs_loss = isinstance(opt, WithLoss)
        self.params = trained(model, opt)
        lazy = [param for param in (*self.params, *model.buffers()) if torch.nn.parameter.is_lazy(param)]
        if lazy:
            raise TypeError(f"{who}: the model has parameters without a shape; pass one batch through it first")
        self.device = self.params[0].device if self.params else torch.device("cpu")

    def state_dict(self) -> dict[str, Any]:
        d: dict[str, Any] = self.opt.state_dict()
        return d

    @contextmanager
    def restored(self, also_restore: Any) -> Iterator[None]:
        """Train in training mode; everything is restored at the end."""
        self.others = list(also_restore) if isinstance(also_restore, Iterator) else also_restore
        others = saved_others(self.others, f"{self.who}: also_restore")
        own = saved(self.model, self.opt, *self.loaders)

        def write() -> None:
            own()
            others()

        def begin_anew() -> None:
            completed(write)
            self.model.train()

        self.begin_anew = begin_anew
        try:
            self.model.train()
            yield
        finally:
            completed(write)

    def saved(self) -> Restore:
        """The function that restores everything for another trial."""
        return self.begin_anew

    def snapshot(self) -> Restore:
        """The function that restores everything as it is now."""
        others = saved_others(self.others, f"{self.who}: also_restore")
        own = saved(self.model, self.opt, *self.loaders)

        def restore() -> None:
            own()
            others()

        return restore

    def bytes(self) -> int:
        """What a copy of model and state needs; the state twice, as a trial's tensors are kept beside their copy."""
        def total(tensors: Iterable[torch.Tensor]) -> int:
            return sum(each.numel() * each.element_size() for each in tensors)

        state = (value for of_param in vars(self.opt)["state"].values() for value in of_param.values())
        return (total([*self.params, *self.model.buffers()]) + size_of(self.others)
                + 2 * total(value for value in state if isinstance(value, torch.Tensor)))

    def loss_and_grad(self, batch: Any) -> tuple[float, None]:
        """The loss of a batch, with gradients at the parameters."""
        for param in self.params:
            param.grad = None          # (a gradient that was there before is not written to)
        with torch.enable_grad():
            loss = self.loss(batch)
            number = float(loss.detach())
            if math.isfinite(number):
                loss.backward()
        return number, None

    def loss(self, batch: Any, score_fn: Loss | None = None) -> torch.Tensor:
        """The loss of a batch; TypeError unless it is one number."""
        batch = moved(batch, self.device)
        loss_fn = self.loss_fn if score_fn is None else score_fn
        if isinstance(batch, Mapping):
            output, target = self.model(**batch), batch
        elif isinstance(batch, list | tuple) and len(batch) > 1:
            output, target = self.model(*batch[:-1]), batch[-1]
        else:
            target = batch[0] if isinstance(batch, list | tuple) else batch
            output = self.model(target)
        if loss_fn is None:
            loss = output["loss"] if isinstance(output, Mapping) else getattr(output, "loss", output)
        else:
            loss = loss_fn(output, target)
        if not isinstance(loss, torch.Tensor):
            loss = torch.as_tensor(loss)
        if loss.numel() != 1:
            raise TypeError(f"{self.who}: the loss must be one number, got shape {tuple(loss.shape)}; "
                            + ("give a loss_fn" if loss_fn is None else "let loss_fn return its mean"))
        return loss.reshape(())

    def step(self, grads: None, loss: float | None = None) -> None:
        """One update by the gradients of the latest `loss_and_grad`."""
        if loss is None:
            self.opt.step()
        else:
            self.opt.step(loss=loss)

    def validated(self, batches: Iterable[Any], score_fn: Loss | None = None) -> float:
        """The mean loss, or score, of other data by the model in evaluation mode, weighted by the sizes of batches."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        total = weight = 0.0
        try:
            with torch.no_grad():
                for batch in batches:
                    size = samples_in(batch)
                    total, weight = total + size * float(self.loss(batch, score_fn)), weight + size
        finally:
            for module, mode in modes:
                module.training = mode
        if not weight:
            raise ValueError(f"{self.who}: validation must not be empty")
        return total / weight


def samples_in(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor that has one; else 1."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    return samples_in(batch[0]) if isinstance(batch, list | tuple) and len(batch) else 1


def reiterable(who: str, name: str, batches: Any) -> None:
    """TypeError for an iterator, which ends for good."""
    if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        raise TypeError(f"{who}: {name} must be a DataLoader, a list of batches or any other iterable that can be "
                        f"started again, got {type(batches).__name__}")


def find_lr(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss | None,
    loader: Iterable[Any],
    lr_min: float = 1e-7,
    lr_max: float = 10.0,
    steps: int = 100,
    repeats: int = 1,
    *,
    trial_steps: int = range_test.TRIAL_STEPS,
    smoothing: float = 0.9,
    divergence: float = 8.0,
    validation: Iterable[Any] | None = None,
    also_restore: Any = (),
    batch_bytes: int = range_test.BATCH_BYTES,
    copy_bytes: int = range_test.COPY_BYTES,
    budget: int | None = None,
    on_trial: Callable[[dict[str, Any]], object] | None = None,
) -> RangeTest:
    """Find a learning rate for a model of torch; model, optimizer and generators are as before, bit for bit.

    This is `fastlr.find_lr`, with what torch's users have: a sweep over rising rates until the loss diverges, then
    trials with constant rates; see there for the method and for what the result has.

    Parameters
    ----------
    model
        The model; it trains in training mode (``model.train()``), and has its modes again afterwards.
    optimizer
        Any optimizer of `torch.optim`, of `fastlr.torch` or from elsewhere, whose step takes no closure. Its groups
        keep the ratios of their rates. A scheduler is not stepped.
    loss_fn
        ``loss_fn(output, target)``, one number. None where the model returns the loss, or an object with `.loss`.
    loader
        A `DataLoader`, a list of batches or any other iterable. A batch of several entries is inputs and a target,
        ``loss_fn(model(*batch[:-1]), batch[-1])``; of one, ``loss_fn(model(x), x)``; a mapping,
        ``loss_fn(model(**batch), batch)``. It is moved to the device of the model's first parameter.
    validation
        Batches of other data, in such a loader: trials are then compared by the mean loss of these, in evaluation mode.
    also_restore
        What else a batch changes: see `fastlr.find_lr`.
    lr_min, lr_max, steps, repeats, trial_steps, smoothing, divergence, batch_bytes, copy_bytes, budget, on_trial
        See `fastlr.find_lr`.

    Returns a `RangeTest`. Restored, also after an exception: parameters and buffers (running statistics of a batch
    normalization), the extra state of modules, gradients, the optimizer's groups, state and counts, training modes, the
    generators of Python, NumPy and torch (which dropout and loaders use), and those of both loaders. They keep their
    memory: tensors are the same objects as before.

    Raises
    ------
    TypeError, ValueError
        As `fastlr.find_lr`; TypeError also for a loss that is not one number, for an optimizer that needs a closure
        (LBFGS), for ``in_backward=True`` and for a model that has not seen a batch yet (lazy modules).

    >>> import torch, fastlr.torch
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(3, 1)
    >>> x = torch.randn(64, 3); y = x @ torch.tensor([[1.0], [2.0], [3.0]])
    >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16, shuffle=True)
    >>> opt = torch.optim.SGD(model.parameters(), lr=1e-3)
    >>> found = fastlr.torch.find_lr(model, opt, torch.nn.functional.mse_loss, loader)
    >>> 0.05 < found.lr < 1, opt.param_groups[0]["lr"]
    (True, 0.001)

    Differs from torch-lr-finder, Lightning and fastai: the rate is one that was tried, all is restored (those restore
    the model and the optimizer alone), and the loss of a rate is that after the step.
    """
    training = Training("find_lr", model, optimizer, loss_fn, loader, validation)
    if validation is not None:
        reiterable("find_lr", "validation", validation)
    with training.restored(also_restore):
        return range_test.find_lr(
            training, training.loss_and_grad, loader, lr_min, lr_max, steps, repeats, trial_steps=trial_steps,
            smoothing=smoothing, divergence=divergence, batch_bytes=batch_bytes, copy_bytes=copy_bytes, budget=budget,
            on_trial=on_trial,
            validation=None if validation is None else lambda: training.validated(validation))


def tune_lr(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss | None,
    loader: Iterable[Any],
    validation: Iterable[Any],
    low: float,
    high: float,
    *,
    budget: int,
    score_fn: Loss | None = None,
    also: Mapping[str, tuple[float, float]] | None = None,
    mode: Mode = "min",
    also_restore: Any = (),
    **options: Any,
) -> Tuned:
    """Find the rate with the best validation score for a model of torch; everything is restored, as by `find_lr`.

    This is `fastlr.tune_lr`; each trial trains from the present parameters and state, with a constant rate.

    Parameters
    ----------
    model, optimizer, loss_fn, loader, also_restore
        As in `find_lr`; `loader` must be one that can be started again.
    validation
        Batches of other data, in such a loader.
    low, high
        The range of rates; with several groups, those of the highest group.
    budget
        Updates of a full trial.
    score_fn
        ``score_fn(output, target)`` of a batch, one number; a trial's score is the mean over `validation`, weighted
        by the sizes of batches, in evaluation mode. None for `loss_fn`.
    also
        What is searched with the rate, as in `fastlr.tune_lr`: ``{"weight_decay": (1e-5, 1e-1)}``, a number that every
        group of the optimizer has, or ``{"warmup": (0.0, 0.3)}``, the share of a trial's updates in which the rate
        rises linearly.
    mode
        "min" if a lower score is better, "max" if a higher one is.
    options
        `points`, `eta`, `rungs`, `refine`, `seeds`, `timeout`, `on_trial`, `journal` and `verbose` of `fastlr.tune_lr`.
        A trial begins with ``torch.manual_seed(seed)``. Trials run one after another, as there is one model.

    Returns a `Tuned`.

    >>> import torch, fastlr.torch
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(3, 1)
    >>> x = torch.randn(64, 3); y = x @ torch.tensor([[1.0], [2.0], [3.0]])
    >>> opt = torch.optim.SGD(model.parameters(), lr=1e-3)
    >>> found = fastlr.torch.tune_lr(model, opt, torch.nn.functional.mse_loss, [(x[:32], y[:32])], [(x[32:], y[32:])],
    ...                              1e-4, 1.0, budget=30)
    >>> 0.1 < found.lr < 1, opt.param_groups[0]["lr"]
    (True, 0.001)
    """
    training = Training("tune_lr", model, optimizer, loss_fn, loader, validation)
    reiterable("tune_lr", "loader", loader)
    reiterable("tune_lr", "validation", validation)
    if isinstance(budget, bool) or not isinstance(budget, int):
        raise TypeError(f"tune_lr: budget must be an integer, the updates of a full trial, got {budget!r}")
    if "executor" in options:
        raise TypeError("tune_lr: trials of one model run one after another: leave executor out, or call "
                        "fastlr.tune_lr with a function that makes a model")
    for name in also or ():
        if name != "warmup" and not all(type(group.get(name)) in (int, float) for group in optimizer.param_groups):
            known = [known for known, value in optimizer.param_groups[0].items() if type(value) in (int, float)]
            raise ValueError(f"tune_lr: also must name 'warmup' or a number that every group of "
                             f"{type(optimizer).__name__} has ({', '.join(sorted(set(known) - {'lr'}))}), got {name!r}")
    ratios = rate_ratios(training)
    with training.restored(also_restore):
        def train(lr: float, updates: float, seed: int, warmup: float = 0.0, **values: float) -> float:
            training.begin_anew()
            torch.manual_seed(seed)
            for group in optimizer.param_groups:
                group.update(values)
            rising = warmup * updates
            nonfinite = done = 0
            while done < updates:
                before = done
                for batch in loader:
                    if done <= rising + 1:
                        set_rates(training, lr * min((done + 1) / (rising + 1), 1.0), ratios)
                    loss, grads = training.loss_and_grad(batch)
                    done, nonfinite = done + 1, 0 if math.isfinite(loss) else nonfinite + 1
                    if not nonfinite:
                        take_step(training, loss, grads)
                    if nonfinite == MOST_NONFINITE:
                        return math.nan
                    if done >= updates:
                        break
                if done == before:
                    raise ValueError("tune_lr: loader must not be empty")
            return training.validated(validation, score_fn)

        return search.tune_lr(train, low, high, budget=budget, also=also, mode=mode, **options)
