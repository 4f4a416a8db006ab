"""A model of torch in a study: what `networks.Network` is for the networks of NumPy, with fastlr.torch's optimizers.

Torch is imported by this module alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

import fastlr.torch

from ..optimizers.base import REGISTRY
from ..schedules import Schedule
from .data import Dataset
from .model_names import told
from .networks import Array, Batch, row_losses


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """In this with block, torch's generator of the CPU draws what `seed` decides; after it, it goes on as before."""
    generator = torch.random.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """In this with block, torch uses one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchModel:
    """A module under softmax cross-entropy, or a squared error, on rows of a `Dataset`.

    `make` takes no argument and returns a new module, which takes (n, features) float32 and returns (n, classes) scores
    before the softmax, or (n, 1) in a regression. It is in training mode for gradients, in evaluation mode for
    `logits`.

    Raises `ValueError` where `make` fails, returns no module, one without weights to train, or one that it has returned
    before: a training would go on where another one ended.
    """

    def __init__(self, make: Callable[[], Any], name: str, data: Dataset) -> None:
        if isinstance(make, torch.nn.Module):
            raise ValueError(f"study: {name} is a module, of which all trainings would change the same weights; give a "
                             f"function that makes a new one, like lambda: torch.nn.Sequential(...)")
        try:
            module = make()
        except Exception as error:
            raise ValueError(f"study: {name}() fails: {told(error)}") from error
        if not isinstance(module, torch.nn.Module):
            raise ValueError(f"study: {name}() must return a torch.nn.Module, got {type(module).__name__}")
        self.module, self.name, self.regression = module, name, data.regression
        self.weights = [p for p in module.parameters() if p.requires_grad]
        if not self.weights:
            raise ValueError(f"study: {name}() returns a model without weights to train")
        if any(getattr(p, "_in_a_study", False) for p in self.weights):
            raise ValueError(f"study: {name}() returns weights that it has returned before, so that a training would "
                             f"go on where another one ended; make the layers inside the function")
        for p in self.weights:
            p._in_a_study = True

    def check(self, x: Array, outputs: int) -> None:
        """Raise `ValueError` unless the model maps rows of features to rows of as many outputs."""
        try:
            with torch.no_grad():
                made = self.module.eval()(tensor(x))
        except Exception as error:
            raise ValueError(f"study: {self.name} fails on {x.shape[0]} rows of {x.shape[1]} features: "
                             f"{told(error)}") from error
        shape = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        if shape != (len(x), outputs):
            what = ("the number that is predicted" if self.regression
                    else "the score of each class before the softmax")
            raise ValueError(f"study: {self.name} must return ({len(x)}, {outputs}) for {len(x)} rows, {what}; "
                             f"got {shape}")

    def loss_and_grad(self, batch: Batch) -> tuple[float, list[torch.Tensor | None]]:
        """The mean loss of a batch, and its gradient, which is each weight's `grad`."""
        x, y = map(tensor, batch)
        outputs = self.module.train()(x)
        self.module.zero_grad(set_to_none=False)
        loss = (torch.nn.functional.mse_loss(outputs[:, 0], y) if self.regression
                else torch.nn.functional.cross_entropy(outputs, y))
        loss.backward()
        return float(loss.detach()), [p.grad for p in self.weights]

    def first_loss(self, batch: Batch) -> float:
        """The mean loss of a batch in training mode, of a copy: nothing of this model or of torch's generator changes.

        Before the first update it is a fairer beginning than the loss in evaluation mode, for which batch
        normalization has seen no batch yet.
        """
        before = torch.random.default_generator.get_state()
        try:
            with torch.no_grad():
                outputs = copy.deepcopy(self.module).train()(tensor(batch[0])).numpy()
        finally:
            torch.random.default_generator.set_state(before)
        return float(self.row_losses(outputs, batch[1]).mean())

    def grad_norm(self) -> float:
        """The Euclidean norm of the latest gradient, over all weights."""
        return math.sqrt(sum(float(torch.linalg.vector_norm(p.grad.double()) ** 2)
                             for p in self.weights if p.grad is not None))

    def logits(self, x: Array) -> Array:
        """The outputs for each row of x."""
        with torch.no_grad():
            made: Array = self.module.eval()(tensor(x)).numpy()
        return made

    def row_losses(self, outputs: Array, y: Array) -> Array:
        return row_losses(outputs, y, self.regression)

    def optimizer(self, name: str, lr: float | Schedule, **hyper: float) -> TorchSteps:
        return TorchSteps(self.weights, name, lr, **hyper)

    def bytes_of(self, opt: TorchSteps) -> dict[str, int]:
        """The sizes of weights, gradients and the optimizer's state."""
        tensors: dict[str, list[Any]] = {
            "parameters": self.weights,
            "gradients": [p.grad for p in self.weights],
            "state": [entry for slots in opt.opt.state.values() for entry in slots.values()],
        }
        return {name: sum(t.nbytes for t in of if isinstance(t, torch.Tensor)) for name, of in tensors.items()}


class TorchSteps:
    """An optimizer of fastlr.torch over weights; a schedule sets the rate of each update."""

    def __init__(self, weights: list[Any], name: str, lr: float | Schedule, **hyper: float) -> None:
        rule = REGISTRY[name]
        self.schedule = lr if isinstance(lr, Schedule) else None
        first = float(lr(0)) if isinstance(lr, Schedule) else lr
        self.opt = getattr(fastlr.torch, rule.__name__)(weights, lr=first, **hyper)
        self.needs_loss, self.t = rule.needs_loss, 0

    def step(self, *, loss: float | None = None) -> None:
        if self.schedule is not None:
            lr = float(self.schedule(self.t))
            for group in self.opt.param_groups:
                group["lr"] = lr
        if self.needs_loss:
            self.opt.step(loss=loss)
        else:
            self.opt.step()
        self.t += 1


def tensor(array: Array) -> torch.Tensor:
    """A tensor of the array's memory, or of a copy where that cannot be written."""
    return torch.from_numpy(array if array.flags.writeable else np.array(array))
