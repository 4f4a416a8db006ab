"""Saving objects of any kind before a trial, and restoring them after it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np

from .._engine.arrays import as_array
from .._engine.tensor_versions import is_torch_tensor, mark_written
from .._engine.tensors import is_array

Restore = Callable[[], None]

CONSTANTS = (int, float, complex, str, bytes, type(None), np.generic)
#: Pairs of methods that return a state and set it: of NumPy's old generators, of torch's, and of `random`.
STATES = (("get_state", "set_state"), ("getstate", "setstate"))


def saved(what: Any, name: str) -> Restore:
    """Save an object, and everything in it; return the function that restores it, which may be called often.

    Restored are arrays (NumPy, buffer protocol, DLPack), random generators, objects with `state_dict` and
    `load_state_dict`, and mappings, sequences and dataclasses, with their entries. TypeError for anything else.
    """
    entries = list(what) if isinstance(what, Iterator) else what
    refuse_constant(entries, name)
    if isinstance(entries, list | tuple):
        for k, entry in enumerate(entries):
            refuse_constant(entry, f"{name}[{k}]")
    actions: list[Restore] = []
    save(entries, name, actions, {})

    def restore() -> None:
        for action in actions:
            action()

    return restore


def refuse_constant(x: Any, name: str) -> None:
    if isinstance(x, CONSTANTS):
        raise TypeError(f"{name}: a {type(x).__name__} cannot be restored, as it cannot change: a variable is bound to "
                        f"another one; keep it in a mapping or an array, and pass that")


def save(x: Any, name: str, actions: list[Restore], seen: dict[int, Any]) -> None:
    """Append the functions that restore x and its entries."""
    if isinstance(x, CONSTANTS) or id(x) in seen:
        return
    seen[id(x)] = x
    if hasattr(x, "state_dict") and hasattr(x, "load_state_dict"):
        actions.append(loading(x.load_state_dict, x.state_dict()))
    elif isinstance(x, np.random.Generator):
        save(x.bit_generator, name, actions, seen)
    elif isinstance(x, np.random.BitGenerator):
        actions.append(loading(partial(setattr, x, "state"), x.state))
    elif (methods := next((m for m in STATES if all(callable(getattr(x, each, None)) for each in m)), None)):
        actions.append(loading(getattr(x, methods[1]), getattr(x, methods[0])()))
    elif is_array(x):
        array = as_array(x, name)
        if not array.flags.writeable:
            raise TypeError(f"{name}: must be writable to be restored, got a read-only array")
        actions.append(partial(np.copyto, array, array.copy()))
        if is_torch_tensor(x):
            actions.append(partial(mark_written, [x]))
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        values = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
        for field, value in values.items():
            save(value, f"{name}.{field}", actions, seen)
        if not x.__dataclass_params__.frozen:           # type: ignore[attr-defined]
            actions.extend(partial(setattr, x, field, value) for field, value in values.items())
    elif isinstance(x, Mapping):
        for key, value in x.items():
            save(value, f"{name}[{key!r}]", actions, seen)
        if isinstance(x, MutableMapping):
            actions.append(refilling(x, x.update, dict(x)))
    elif isinstance(x, Sequence):
        for k, value in enumerate(x):
            save(value, f"{name}[{k}]", actions, seen)
        if isinstance(x, MutableSequence):
            actions.append(refilling(x, x.extend, list(x)))
    else:
        raise TypeError(f"{name}: cannot restore a {type(x).__name__}; pass arrays, random generators, objects with "
                        f"state_dict and load_state_dict, or mappings, sequences and dataclasses of them")


def loading(load: Callable[[Any], object], state: Any) -> Restore:
    """A function that loads a state, each time a copy of it, as the object may keep what it loads and change it."""
    state = deepcopy(state)

    def restore() -> None:
        load(deepcopy(state))

    return restore


def refilling(x: Any, fill: Callable[[Any], object], entries: Any) -> Restore:
    """A function that gives a container its entries back."""
    def restore() -> None:
        x.clear()
        fill(entries)

    return restore


def random_state() -> Restore:
    """Save the generators that Python and NumPy share among all who ask for none of their own."""
    python, numpy = random.getstate(), np.random.get_state()      # noqa: NPY002

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)     # noqa: NPY002

    return restore
