"""What training changes, saved before trials and restored after them: model, optimizer, gradients, generators."""
from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch

from .binding import Binding
from .offloading import Offloaded
from .optimizer import Optimizer

Restore = Callable[[], None]


def saved(model: torch.nn.Module, opt: torch.optim.Optimizer, *loaders: Any) -> Restore:
    """Save all that training changes; return the function that restores it, bit for bit, which may be called often.

    Tensors stay the same objects in the same memory, and so do the dictionaries that hold them.
    """
    actions: list[Restore] = []
    seen: dict[int, Any] = {}
    for module in model.modules():
        save(module._parameters, actions, seen)
        save(module._buffers, actions, seen)
        actions.append(partial(setattr, module, "training", module.training))
        if type(module).get_extra_state is not torch.nn.Module.get_extra_state:
            actions.append(loading(module.set_extra_state, module.get_extra_state()))
    for param in trained(model, opt):
        save(param, actions, seen)
        actions.append(partial(setattr, param, "grad", param.grad))
    save_optimizer(opt, actions, seen)
    for get, put in generators(loaders):
        actions.append(loading(put, get()))

    def restore() -> None:
        with torch.no_grad():
            for action in actions:
                action()

    return restore


def trained(model: torch.nn.Module, opt: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The parameters of a model and of an optimizer, each once."""
    params = [*model.parameters(), *(param for group in opt.param_groups for param in group["params"])]
    return list({id(param): param for param in params}.values())


def save(x: Any, actions: list[Restore], seen: dict[int, Any]) -> None:
    """Append the functions that restore tensors, and the containers that hold them."""
    if id(x) in seen:
        return
    seen[id(x)] = x
    if isinstance(x, torch.Tensor):
        actions.append(partial(x.detach().copy_, x.detach().clone()))
    elif isinstance(x, dict | list | deque):
        for value in x.values() if isinstance(x, dict) else x:
            save(value, actions, seen)
        actions.append(refilling(x))
    elif isinstance(x, tuple):
        for value in x:
            save(value, actions, seen)


def refilling(x: Any) -> Restore:
    """A function that gives a container the entries that it has now, in their order."""
    fill, entries = (x.update, dict(x)) if isinstance(x, dict) else (x.extend, list(x))

    def restore() -> None:
        x.clear()
        fill(entries)

    return restore


def loading(load: Callable[[Any], object], state: Any) -> Restore:
    """A function that loads a state, each time a copy of it."""
    state = deepcopy(state)

    def restore() -> None:
        load(deepcopy(state))

    return restore


def save_optimizer(opt: torch.optim.Optimizer, actions: list[Restore], seen: dict[int, Any]) -> None:
    """The same for an optimizer: its groups, its state, and numbers that it keeps as attributes."""
    own = vars(opt)
    if isinstance(opt, Optimizer):
        opt._require_all_updates("what training changes")
    for group in opt.param_groups:
        save(group, actions, seen)
    save(opt.param_groups, actions, seen)
    save(own["state"], actions, seen)          # (of fastlr's, without showing it to anybody)
    numbers = {name: value for name, value in own.items() if isinstance(value, bool | int | float | str | None)}

    def restore_numbers() -> None:
        for name in [name for name in own if name not in names]:
            del own[name]
        own.update(numbers)

    names = set(own)
    actions.append(restore_numbers)
    if isinstance(opt, Optimizer):
        actions.append(rebinding(opt))
    if isinstance(opt, Offloaded) and opt._inner is not None:
        for member in opt._members.values():
            save(member.mirror, actions, seen)
            actions.append(partial(setattr, member, "version", -1))        # (to compare it with the parameter)
        save_optimizer(opt._inner, actions, seen)


def rebinding(opt: Optimizer) -> Restore:
    """A function that binds an optimizer of fastlr's anew, with the counts and norms that it has now.

    (The memory of state that began in a trial belongs to the binding of that trial.)
    """
    binding = opt._binding
    if binding is None:
        return partial(setattr, opt, "_binding", None)
    steps, remembered = binding.steps(), binding.remembered()

    def restore() -> None:
        opt._binding = Binding(opt, steps)
        opt._binding.remember(remembered)

    return restore


def generators(loaders: Iterable[Any]) -> Iterator[tuple[Callable[[], Any], Callable[[Any], object]]]:
    """How to get and to set the state of each generator: Python's, NumPy's and torch's own, and those of loaders."""
    yield random.getstate, random.setstate
    yield np.random.get_state, np.random.set_state
    yield torch.get_rng_state, torch.set_rng_state
    if torch.cuda.is_initialized():
        yield torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
    samplers = [*loaders]
    for loader in loaders:
        batches = getattr(loader, "batch_sampler", None)
        samplers += [getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
    found = {id(each.generator): each.generator for each in samplers
             if isinstance(getattr(each, "generator", None), torch.Generator)}
    for generator in found.values():
        yield generator.get_state, generator.set_state


# Batches

def moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: moved(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(value, device) for value in batch)
    return batch
