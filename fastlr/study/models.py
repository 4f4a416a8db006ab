"""What a study trains: a network of `networks`, or a model of torch that a function of the user's makes.

A network is named by its widths and its activation, "64-32-10-relu", a model by the function that makes it,
"module:function". Torch is imported when a model is made, not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import fastlr

from .data import Dataset
from .model_names import find_model, is_model, told
from .networks import Array, Batch, Network, parse_network

if TYPE_CHECKING:
    from ..schedules import Schedule
    from .torch_models import TorchModel


class Steps(Protocol):
    """An optimizer that is bound to a network: `t` updates are done; `needs_loss`: its step is given the loss."""

    t: int
    needs_loss: bool

    def step(self, *, loss: float | None = None) -> Any: ...


@contextmanager
def built(network: str, seed: int, data: Dataset) -> Iterator[Network | TorchModel]:
    """In this with block, a network or a model with the first weights of `seed`.

    What a model draws from torch's generator in the block, its first weights and its dropout, is that of `seed`; after
    it the generator is as it was before.
    """
    if not is_model(network):
        layers, activation = parse_network(network)
        yield Network(layers, activation, seed=seed, regression=data.regression)
        return
    try:
        from . import torch_models
    except ImportError as error:
        raise ImportError(f"study: {network}: a model needs PyTorch: pip install torch") from error
    make = find_model(network)
    with torch_models.seeded(seed):
        yield torch_models.TorchModel(make, network, data)


def optimizer_of(net: Network | TorchModel, name: str, lr: float | Schedule, **hyper: float) -> Steps:
    """The optimizer of a name over a network or a model, with its own defaults but for the rate and `hyper`."""
    if isinstance(net, Network):
        made: Steps = fastlr.create_optimizer(name, net.params, grads=net.grads, lr=lr, **hyper)
        return made
    return net.optimizer(name, lr, **hyper)


def check_model(network: str, optimizers: Iterable[str], batch_size: int, data: Dataset) -> int:
    """Try a model with each optimizer: an update by one batch. Returns the number of its weights.

    Raises `ValueError`, one line, for what cannot be trained on these data.
    """
    weights = 0
    batch: Batch = tuple(part[:batch_size] for part in data.train)  # type: ignore[assignment]
    for optimizer in dict.fromkeys(optimizers):
        with built(network, 0, data) as net:
            assert not isinstance(net, Network)
            net.check(data.train[0][:2], data.outputs)
            weights = sum(p.numel() for p in net.weights)
            try:
                steps = optimizer_of(net, optimizer, 1e-6)
                loss, _ = net.loss_and_grad(batch)
                take_step(steps, loss)
            except Exception as error:
                raise ValueError(f"study: {network} cannot be trained by {optimizer} in batches of {batch_size}: "
                                 f"{told(error)}") from error
    return weights


def take_step(opt: Steps, loss: float) -> None:
    """A step with the bound gradients; the loss is passed to rules that need it."""
    if opt.needs_loss:
        opt.step(loss=loss)
    else:
        opt.step()


def bytes_of(net: Network | TorchModel, opt: Any) -> dict[str, int]:
    """The sizes of parameters, gradients and the optimizer's state."""
    if not isinstance(net, Network):
        return net.bytes_of(opt)
    arrays: dict[str, list[Array]] = {
        "parameters": list(net.params.values()),
        "gradients": list(net.grads.values()),
        "state": [slot for slots in opt.state.values() for slot in slots.values()],
    }
    return {name: sum(array.nbytes for array in of) for name, of in arrays.items()}
