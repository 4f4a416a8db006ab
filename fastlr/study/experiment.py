"""Training of one network at one learning rate: the experiment that a study repeats.

A `Cell` defines an experiment completely, `train` runs one, `run` a whole grid. The same cell gives the same bits on
one machine, except for times: the seed determines the initial weights and the order of the batches, and nothing else is
random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import fastlr

from ..optimizers.base import REGISTRY
from ..optimizers.declaration import nearest
from .data import Dataset, digits
from .model_names import Make, check_name, given, is_model
from .models import built, check_model, optimizer_of, take_step
from .networks import Array, Batch, Network, parse_network
from .rates import rate

if TYPE_CHECKING:
    from .torch_models import TorchModel

LEARNING_RATES = (0.001, 0.01, 0.1, 1.0, 3.0)  # from too low to too high for most networks
LEARNED = 0.99  # of the baseline's training loss: a network that ends above has learned nothing
SLACK = 1.01  # times its first loss: a model of torch that ends above has diverged
CONSTANT = 0.01  # nats, or deviations of a target: outputs that differ less between rows do not depend on them
MOST_ROWS = 0.9  # that have such outputs, where a network has collapsed: a few rows may still reach a unit
NETWORKS = ("64-32-10-relu", "64-64-32-10-relu", "64-32-10-tanh", "64-32-32-32-10-tanh", "64-128-10-sigmoid")


@dataclass(frozen=True)
class Cell:
    """One experiment: everything that determines its outcome, except the data.

    `network` is its widths and its activation, "64-32-10-relu", or "module:function": a function without arguments that
    returns a new torch.nn.Module, which fastlr.torch's optimizers train. `optimizer` is a name of
    `fastlr.list_optimizers()`, used with its own defaults; those of fastlr.torch are torch's where torch has the class.
    The rate is multiplied by `schedule`, an expression like "cosine(1, steps=updates)", in which `updates` is the
    length of the run; None: it is constant. An incomplete last batch of an epoch is left out, so every update averages
    `batch_size` rows. The run has converged at the first update at which the training loss per row (nats, or the
    squared error of a regression in variances of the target), averaged over one epoch of updates, is at most
    `target_loss`. `momentum` is that of an optimizer which has one, None its default.

    Raises `ValueError` for settings that cannot be run.
    """

    network: str = NETWORKS[0]
    lr: float = 0.1
    seed: int = 0
    optimizer: str = "sgd"
    epochs: int = 80
    batch_size: int = 32
    target_loss: float = 0.2
    schedule: str | None = None
    momentum: float | None = None

    def __post_init__(self) -> None:
        check_name(self.network)
        check_rate(self.lr)
        if not self.target_loss > 0:
            raise ValueError(f"study: the target loss must be positive, got {self.target_loss}")
        for name, low in (("seed", 0), ("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"study: {name} must be at least {low}, got {getattr(self, name)}")
        known = fastlr.list_optimizers()
        if self.optimizer not in known:
            cure = nearest(self.optimizer, known) or "; fastlr.list_optimizers() names them"
            raise ValueError(f"study: no optimizer is called {self.optimizer!r}{cure}")
        if REGISTRY[self.optimizer].needs_curvature:
            raise ValueError(f"study: {self.optimizer!r} needs estimates of the curvature, which the study's networks "
                             f"do not give; choose another")
        if self.momentum is not None:
            if "momentum" not in REGISTRY[self.optimizer].hypers:
                raise ValueError(f"study: {self.optimizer!r} has no momentum to set; 'momentum' and 'nesterov' have")
            if not 0 <= self.momentum < 1:
                raise ValueError(f"study: momentum must be in [0, 1), got {self.momentum}")

    @property
    def hyper(self) -> dict[str, float]:
        """Hyper-parameters of the optimizer, beside the rate, that are not its defaults."""
        return {} if self.momentum is None else {"momentum": self.momentum}

    def __str__(self) -> str:
        by = "" if self.optimizer == "sgd" else f" {self.optimizer}"
        more = "" if self.momentum is None else f" momentum {self.momentum:g}"
        return f"{self.network}{by} lr {self.lr:g}{more} seed {self.seed}"

    def execute(self, data: Dataset) -> Result:
        return train(self, data)


@dataclass(frozen=True)
class Result:
    """The outcome of one cell. Losses are nats per row, accuracies fractions in [0, 1], times seconds.

    In a regression losses are squared errors in variances of the target in the training split, and accuracies are None;
    each `r2` is the share of the baseline's loss that is gone, 1 - loss / `Dataset.baseline`, and None for classes.

    `followed` is the schedule of the learning rate. `updates` took `train_seconds` of wall time: batches, gradients
    and steps, without any evaluation; the target was reached after `seconds_to_target` of them. Both that and
    `updates_to_target` are None where it was not reached. Losses and accuracies are those of a whole split after the
    last update; `curve` has them before the first epoch and after each. A run has `diverged` if a loss was not finite,
    which ends it and leaves losses and accuracies None, or if the final training loss was above the initial one (of a
    model of torch: by 1 %, and above the initial one in training mode, too, as batch normalization has seen no batch
    then): saturated units can keep a loss finite at any rate. It has `learned` if its final training loss is below that
    of the baseline by 1 % at least. It has `collapsed` if it has not, and either had done so after an earlier epoch or
    gives nearly the same outputs for all rows: then a rate that was too high has cost it its units.
    """

    cell: Cell
    followed: str
    diverged: bool
    updates: int
    updates_to_target: int | None
    train_seconds: float
    seconds_to_target: float | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    test_loss: float | None = None
    train_accuracy: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    curve: dict[str, list[float | None]] | None = None
    learned: bool = False
    collapsed: bool = False
    train_r2: float | None = None
    validation_r2: float | None = None
    test_r2: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A mapping of numbers, texts and None, without NaN and infinities, for any JSON reader.

        The times, which differ between machines and runs, are under "machine"; the seed determines all else.
        """
        own = {name: value for name, value in vars(self).items() if name != "cell"}
        machine = {name: own.pop(name) for name in ("train_seconds", "seconds_to_target")}
        return asdict(self.cell) | own | {"machine": machine}

    def __str__(self) -> str:
        if self.diverged or self.collapsed:
            outcome = "diverged" if self.diverged else "collapsed"
        elif self.test_accuracy is None:
            outcome = f"R2 {self.test_r2:.3f}"
        else:
            outcome = f"{100 * self.test_accuracy:.1f} %"
        return f"{self.cell}: {outcome}"


def grid(
    lrs: Iterable[float] = LEARNING_RATES,
    networks: Iterable[str] = NETWORKS,
    seeds: Iterable[int] = (0, 1),
    **common: Any,
) -> list[Cell]:
    """Every network at every rate, seed after seed, so that an interrupted study has no empty table cells.

    `common` are arguments of every `Cell`: optimizer, epochs, batch_size, target_loss, schedule, momentum.
    """
    lrs, networks, seeds = dict.fromkeys(lrs), dict.fromkeys(networks), dict.fromkeys(seeds)
    return [Cell(network, lr, seed, **common) for seed in seeds for network in networks for lr in lrs]


def run(
    cells: Sequence[Cell] | None = None,
    data: Dataset | None = None,
    progress: Callable[[Result], object] | None = None,
    model: Make | None = None,
) -> list[Result]:
    """Train each cell in turn (the default `grid()` on `digits()` if not given) and return their results.

    `progress(result)` is called after each cell. `model`, a function without arguments that returns a new
    torch.nn.Module, takes the place of all networks: cells that differ in nothing else are trained once. It takes
    (n, features) float32 and returns (n, classes) scores before the softmax, (n, 1) numbers in a regression.

        results = study.run(study.grid(lrs=[0.01, 0.1], optimizer="adam"), model=lambda: torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)))

    Raises `ValueError` for a network or a model that does not fit the data, before the first cell is trained.
    """
    cells = grid() if cells is None else cells
    data = digits() if data is None else data
    if model is not None:
        with given(model) as name:
            return run(list(dict.fromkeys(replace(cell, network=name) for cell in cells)), data, progress)
    for cell in cells:
        check_fit(cell, data)
    for network, batch_size in dict.fromkeys((cell.network, cell.batch_size) for cell in cells):
        if is_model(network):
            check_model(network, (cell.optimizer for cell in cells), batch_size, data)
    results = []
    for cell in cells:
        results.append(train(cell, data))
        if progress is not None:
            progress(results[-1])
    return results


def train(cell: Cell, data: Dataset) -> Result:
    """Run one cell.

    Raises `ValueError` for a network that does not fit the data. NumPy's floating-point warnings are disabled here,
    as divergence is a result.
    """
    check_fit(cell, data)
    with built(cell.network, cell.seed, data) as net:
        return train_network(net, cell, data)


def train_network(net: Network | TorchModel, cell: Cell, data: Dataset) -> Result:
    epoch = len(data.train[1]) // cell.batch_size
    lr = rate(cell.lr, cell.schedule, epoch * cell.epochs)
    opt = optimizer_of(net, cell.optimizer, lr, **cell.hyper)
    inspect = inspector(net, data)
    losses: list[float] = []
    clock: list[float] = []  # seconds of training after each update
    with np.errstate(all="ignore"):
        seen = [inspect()]
        began = seen[0]["train_loss"]
        if not isinstance(net, Network):
            began = SLACK * max(began, net.first_loss(data.train))
        before, start = 0.0, perf_counter()
        for batch in batches(data.train, cell):
            loss, _ = net.loss_and_grad(batch)
            losses.append(loss)
            if not math.isfinite(loss):
                break
            take_step(opt, loss)
            clock.append(before + perf_counter() - start)
            if len(clock) % epoch == 0:
                before = clock[-1]
                seen.append(inspect())
                start = perf_counter()
    last = seen[-1] if math.isfinite(losses[-1]) else {}
    finite = bool(last) and all(map(math.isfinite, last.values()))
    diverged = not (finite and last["train_loss"] <= began)
    chance = LEARNED * data.baseline["train_loss"]
    learned = not diverged and last["train_loss"] < chance
    collapsed = not diverged and not learned and (
        any(values["train_loss"] < chance for values in seen[1:]) or outputs_are_constant(net, data.train[0]))
    reached = updates_to_target(losses, epoch, cell.target_loss)
    return Result(
        cell=cell,
        followed=f"constant({cell.lr!r})" if cell.schedule is None else str(lr),
        diverged=diverged,
        updates=opt.t,
        updates_to_target=reached,
        train_seconds=clock[-1] if clock else 0.0,
        seconds_to_target=None if reached is None else clock[reached - 1],
        curve={name: [finite_or_none(values[name]) for values in seen] for name in seen[0]},
        learned=learned,
        collapsed=collapsed,
        **(last if finite else {}),
    )


def outputs_are_constant(net: Network | TorchModel, x: Array) -> bool:
    """Whether nearly all rows get the same outputs, as by a network whose units are dead or saturated."""
    outputs = net.logits(x)
    apart = np.abs(outputs - np.median(outputs, axis=0)).max(axis=1)
    return bool(np.quantile(apart, MOST_ROWS) < CONSTANT)


def inspector(net: Network | TorchModel, data: Dataset) -> Callable[[], dict[str, float]]:
    """A function that returns the losses and accuracies (or R2) of the three splits, in one pass over all rows."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    x = np.concatenate([x for x, _ in splits.values()])
    y = np.concatenate([y for _, y in splits.values()])
    ends = np.cumsum([len(y) for _, y in splits.values()])[:-1]
    baseline = data.baseline

    def inspect() -> dict[str, float]:
        logits: Array = net.logits(x)
        losses = np.split(net.row_losses(logits, y), ends)
        means = {f"{name}_loss": float(part.mean()) for name, part in zip(splits, losses, strict=True)}
        if data.regression:
            return means | {f"{name}_r2": 1 - means[f"{name}_loss"] / baseline[f"{name}_loss"] for name in splits}
        right = np.split(logits.argmax(axis=1) == y, ends)
        return means | {f"{name}_accuracy": float(part.mean()) for name, part in zip(splits, right, strict=True)}

    return inspect


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def batches(split: Batch, cell: Cell) -> Iterator[Batch]:
    """The training batches of a cell: a fresh shuffle each epoch, the incomplete last batch left out."""
    x, y = split
    # (another stream than `default_rng(seed)`, from which the weights are drawn)
    rng = np.random.default_rng((cell.seed, 1))
    for _ in range(cell.epochs):
        order = rng.permutation(len(y))
        x_shuffled, y_shuffled = x[order], y[order]
        for end in range(cell.batch_size, len(y) + 1, cell.batch_size):
            rows = slice(end - cell.batch_size, end)
            yield x_shuffled[rows], y_shuffled[rows]


def updates_to_target(losses: Sequence[float], window: int, target: float) -> int | None:
    """The number of updates after which the mean of the latest `window` losses is first at most `target`.

    None if it never is, or if there are fewer than `window` losses, or for windows with a loss that is not
    finite.
    """
    if len(losses) < window:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        reached = sliding_window_view(np.asarray(losses, float), window).mean(axis=1) <= target
    return window + int(reached.argmax()) if reached.any() else None


def check_rate(lr: float) -> None:
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"study: a learning rate must be positive and finite, got {lr}")


def check_fit(cell: Cell, data: Dataset) -> None:
    """Raise `ValueError` unless the widths of input and output, the batch and the schedule fit the data."""
    y = data.train[1]
    if not is_model(cell.network):
        (inputs, *_, outputs), _ = parse_network(cell.network)
        if (inputs, outputs) != (data.features, data.outputs):
            learns = "a number to predict" if data.regression else f"{len(data.classes)} classes"
            raise ValueError(
                f"study: {data.name} has {data.features} features and {learns}, "
                f"so a network must start with {data.features} and end with {data.outputs}; got {cell.network}"
            )
    if cell.batch_size > len(y):
        raise ValueError(f"study: batch_size must be at most {len(y)}, the training rows, got {cell.batch_size}")
    rate(cell.lr, cell.schedule, len(y) // cell.batch_size * cell.epochs)
