"""Gradient descent with the whole training split as one batch, and the memory of a training run."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import asdict, dataclass
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .data import Dataset
from .experiment import LEARNED, Cell, batches, outputs_are_constant
from .model_names import is_model
from .models import built, bytes_of, optimizer_of, take_step
from .networks import Network

if TYPE_CHECKING:
    from .torch_models import TorchModel


@dataclass(frozen=True)
class Descent:
    """One experiment: gradient descent on the whole training split until the gradient's norm is small.

    The norm is Euclidean, over all weights and biases; the target is the fraction `target_norm` of the first one, and a
    training loss of at most `most_loss` (None: the network has learned anything, see `experiment.Result`), as the
    gradient of dead units is small too. After `limit` updates it counts as not reached.
    """

    network: str
    lr: float
    seed: int = 0
    target_norm: float = 0.1
    limit: int = 500
    most_loss: float | None = None

    def __str__(self) -> str:
        return f"{self.network} whole-split lr {self.lr:g} seed {self.seed}"

    def execute(self, data: Dataset) -> DescentResult:
        return descend(self, data)


@dataclass(frozen=True)
class DescentResult:
    """`updates` and `seconds` of wall time until the target, None if not reached; the norm before each update.

    `collapsed`: the network has learned nothing, and gives nearly the same outputs for all rows.
    """

    task: Descent
    updates: int | None
    seconds: float | None
    norm: float | None
    train_loss: float | None
    norms: tuple[float | None, ...]
    collapsed: bool = False

    def to_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("updates", "norm", "train_loss", "collapsed")}
        return asdict(self.task) | own | {"norms": list(self.norms), "machine": {"seconds": self.seconds}}

    def __str__(self) -> str:
        missed = "collapsed" if self.collapsed else "not reached"
        return f"{self.task}: {missed if self.updates is None else f'{self.updates} updates'}"


def descend(task: Descent, data: Dataset) -> DescentResult:
    """Run gradient descent; record the norm of every gradient."""
    with built(task.network, task.seed, data) as net:
        return descend_network(net, task, data)


def descend_network(net: Network | TorchModel, task: Descent, data: Dataset) -> DescentResult:
    opt = optimizer_of(net, "sgd", task.lr)
    norms: list[float] = []
    loss, chance = math.inf, LEARNED * data.baseline["train_loss"]
    enough = chance if task.most_loss is None else min(chance, task.most_loss)
    with np.errstate(all="ignore"):
        start = perf_counter()
        while True:
            loss, _ = net.loss_and_grad(data.train)
            norms.append(net.grad_norm())
            reached = norms[-1] <= task.target_norm * norms[0] and loss <= enough
            if reached or norms[-1] == 0 or not math.isfinite(norms[-1] + loss) or opt.t == task.limit:
                break
            opt.step()
        seconds = perf_counter() - start
        collapsed = math.isfinite(norms[-1] + loss) and not loss < chance and outputs_are_constant(net, data.train[0])
    return DescentResult(
        task,
        updates=opt.t if reached else None,
        seconds=seconds if reached else None,
        norm=norms[-1] if math.isfinite(norms[-1]) else None,
        train_loss=loss if math.isfinite(loss) else None,
        norms=tuple(norm if math.isfinite(norm) else None for norm in norms),
        collapsed=collapsed,
    )


@dataclass(frozen=True)
class Memory:
    """One experiment: the memory that training of a network by an optimizer needs."""

    network: str
    lr: float
    optimizer: str
    batch_size: int = 32

    def __str__(self) -> str:
        return f"{self.network} {self.optimizer} lr {self.lr:g} memory"

    def execute(self, data: Dataset) -> MemoryUse:
        return measure_memory(self, data)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of parameters, gradients and optimizer state, and the peak of allocated memory in ten updates.

    The first three are the sizes of the arrays. `peak` is measured by Python's tracemalloc, to which NumPy reports,
    over all that is allocated from the construction of the network on, including Python's own objects. Torch does not
    report to it: the peak of a model is None.
    """

    task: Memory
    parameters: int
    gradients: int
    state: int
    peak: int | None

    def to_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("parameters", "gradients", "state")}
        return asdict(self.task) | own | {"machine": {"peak": self.peak}}

    def __str__(self) -> str:
        return f"{self.task}: {self.state:,} bytes of state"


def measure_memory(task: Memory, data: Dataset) -> MemoryUse:
    """Measure the memory of ten updates."""
    cell = Cell(task.network, task.lr, 0, task.optimizer, epochs=10, batch_size=task.batch_size)

    def train_briefly() -> tuple[Network | TorchModel, Any]:
        with built(task.network, 0, data) as net:
            opt = optimizer_of(net, task.optimizer, task.lr)
            for batch in islice(batches(data.train, cell), 10):
                loss, _ = net.loss_and_grad(batch)
                if not math.isfinite(loss):
                    break
                take_step(opt, loss)
            return net, opt

    if is_model(task.network):  # (torch's memory is not traced)
        return MemoryUse(task, **bytes_of(*train_briefly()), peak=None)
    with np.errstate(all="ignore"):
        train_briefly()  # (what is allocated once and stays allocated: imports, caches)
        traced = tracemalloc.is_tracing()
        tracemalloc.start()
        try:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            net, opt = train_briefly()
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            if not traced:
                tracemalloc.stop()
    return MemoryUse(task, **bytes_of(net, opt), peak=peak)
