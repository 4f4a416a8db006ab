"""The state of optimizers from and to torch and optax: by name, both ways, bit for bit; neither is imported.

Hyper-parameters are not part of it: give both sides the same.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ._engine.arrays import BFloat16, as_array
from ._engine.stored_numbers import decoded
from ._engine.tensors import Array, is_array
from .optimizers.base import Optimizer
from .optimizers.declaration import nearest
from .optimizers.groups import name_of
from .optimizers.peer_names import OPTAX, TORCH
from .optimizers.structure import opened

__all__ = ["from_optax", "from_torch", "to_optax", "to_torch"]

States = dict[str, dict[str, Array]]           # by parameter and slot


# torch

def from_torch(opt: Optimizer, state: Mapping[str, Any], *, names: Sequence[str] | None = None) -> None:
    """Load what `state_dict()` of torch's optimizer of the same rule returned.

    Parameters
    ----------
    opt
        The optimizer that takes the state on: all of it, or nothing if some does not fit.
    state
        torch's dictionary. A parameter that has no state there has had no update.
    names
        The names of torch's parameters here, in torch's order. By default the "param_names" that torch saved, or the
        order of the parameters.

    Raises
    ------
    TypeError, ValueError
        For a rule that torch does not have, names or shapes that do not fit, or a slot that is missing.

    >>> import numpy as np, fastlr
    >>> torchs = {"state": {0: {"step": np.float32(3), "momentum_buffer": np.full(2, 0.5)}},
    ...           "param_groups": [{"params": [0], "lr": 0.1, "param_names": ["w"]}]}
    >>> opt = fastlr.Momentum({"w": np.zeros(2)})
    >>> fastlr.interchange.from_torch(opt, torchs)
    >>> opt.t, opt.state["w"]["m"]
    (3, array([0.5, 0.5]))
    """
    who = "from_torch"
    slots = slots_of(opt, TORCH, who, "torch")
    order = names_of(opt, state, names, who)
    given: States = {}
    steps: dict[str, int] = {}
    for index, name in order.items():
        theirs = state["state"].get(index, {})
        if not theirs:
            steps[name] = 0
            continue
        missing = [other for slot, other in slots.items() if slot in opt.state[name] and other not in theirs]
        if missing:
            raise ValueError(f"{who}: state[{index}] ({name!r}) has no {missing[0]!r}, which {type(opt).__name__} needs"
                             f"{nearest(missing[0], map(str, theirs))}")
        given[name] = {slot: numbers(theirs[other], f"{who}: {other}") for slot, other in slots.items()
                       if slot in opt.state[name]}
        steps[name] = int(float(theirs["step"])) if "step" in theirs else -1
    # (SGD's state does not count: it has had an update)
    latest = max(steps.values(), default=0)
    known = max(latest, int(any(count < 0 for count in steps.values())))
    take_on(opt, given, {name: known if count < 0 else count for name, count in steps.items()}, who)


def to_torch(opt: Optimizer, like: Mapping[str, Any], *, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The state in the form of torch's `state_dict()`, for its `load_state_dict`: tensors, as copies.

    Parameters
    ----------
    opt
        The optimizer whose state it is.
    like
        ``state_dict()`` of the torch optimizer that will load it, whose groups are kept.
    names
        As in `from_torch`.
    """
    who = "to_torch"
    torch = sys.modules.get("torch")
    if torch is None:
        raise TypeError(f"{who}: import torch first, whose tensors this makes")
    slots = slots_of(opt, TORCH, who, "torch")
    opt._require_all_updates(who)
    order = names_of(opt, like, names, who)
    counts = updates(opt)
    made: dict[Any, dict[str, Any]] = {}
    for index, name in order.items():
        if counts[name] or type(opt).__name__ == "AdaGrad":    # (whose state torch makes with the optimizer)
            state = as_numbers(opt, name)
            made[index] = {other: torch.from_numpy(state[slot].copy())
                           for slot, other in slots.items() if slot in state}
            if type(opt).__name__ not in WITHOUT_STEP:
                made[index]["step"] = torch.tensor(float(counts[name]))
    return {**like, "state": made}


#: Rules whose state does not count updates in torch.
WITHOUT_STEP = ("SGD", "Momentum", "Nesterov", "Muon")


def names_of(opt: Optimizer, state: Mapping[str, Any], names: Sequence[str] | None, who: str) -> dict[Any, str]:
    """Our names by torch's indices."""
    if not isinstance(state, Mapping) or not {"state", "param_groups"} <= state.keys():
        raise TypeError(f"{who}: expected what state_dict() of a torch optimizer returns, with 'state' and "
                        f"'param_groups'")
    groups = state["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    if names is None and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    own = [tensor.name for tensor in opt._plan.tensors]
    names = own if names is None else list(names)
    if len(indices) != len(names):
        raise ValueError(f"{who}: torch has {len(indices)} parameters, got {len(names)} names")
    unknown = [name for name in names if name not in own]
    if unknown:
        raise ValueError(f"{who}: no parameter {unknown[0]!r}{nearest(str(unknown[0]), own)}; give names=")
    absent = [name for name in own if name not in names]
    if absent or len(set(names)) != len(names):
        what = f"{absent[0]!r} is not among torch's parameters" if absent else "a name comes twice"
        raise ValueError(f"{who}: {what}; give names=")
    return dict(zip(indices, names, strict=True))


# optax

def from_optax(opt: Optimizer, state: Any) -> None:
    """Load the state of the optax transformation of the same rule, whatever it is chained with.

    Its trees (``mu``, ``nu``, ``trace``, ...) have the names of the parameters as mappings and sequences have them
    here: "layers/0/w". All of it is taken on, or nothing if some does not fit.

    Raises
    ------
    TypeError, ValueError
        For a rule that optax does not have, a state without its trees, and names or shapes that do not fit.
    """
    who = "from_optax"
    slots = slots_of(opt, OPTAX, who, "optax")
    given: States = {name: {} for name in opt.state}
    count: int | None = None
    for field, tree in fields_of(state):
        if field == "count":
            number = int(np.asarray(numbers(tree, who)).reshape(-1)[0])
            count = number if count is None else max(count, number)
        for slot, other in slots.items():
            if field == other:
                take_tree(tree, slot, given, opt, who)
    for name, found in given.items():
        for slot in opt.state[name]:
            if slot in slots and slot not in found:
                raise ValueError(f"{who}: there is no {slots[slot]!r} in this state, which {type(opt).__name__} needs")
    moved = int(any(array.any() for found in given.values() for array in found.values()))
    take_on(opt, given, dict.fromkeys(opt.state, moved if count is None else count), who)


def to_optax(opt: Optimizer, like: Any) -> Any:
    """The state in the form of an optax state: ``like``, as ``tx.init(params)`` returned it, with NumPy arrays of ours.

    ValueError where a rule's trees are not in it, or parameters have had different numbers of updates.
    """
    who = "to_optax"
    slots = slots_of(opt, OPTAX, who, "optax")
    opt._require_all_updates(who)
    counts = set(updates(opt).values())
    if len(counts) > 1:
        raise ValueError(f"{who}: parameters have had {min(counts)} to {max(counts)} updates, and optax counts one for "
                         f"all")
    state = {name: as_numbers(opt, name) for name in opt.state}
    used: set[str] = set()

    def rebuilt(x: Any) -> Any:
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            new = {}
            for field in x._fields:
                slot = next((slot for slot, other in slots.items() if other == field), None)
                value = getattr(x, field)
                if field == "count":
                    new[field] = np.asarray(counts.copy().pop() if counts else 0, np.asarray(value).dtype)
                elif slot is not None and not is_array(value):
                    used.add(slot)
                    new[field] = with_leaves(value, {name: slots_[slot] for name, slots_ in state.items()}, who)
                else:
                    new[field] = rebuilt(value)
            return type(x)(**new)
        if isinstance(x, tuple | list):
            return type(x)(rebuilt(entry) for entry in x)
        return {key: rebuilt(value) for key, value in x.items()} if isinstance(x, dict) else x

    made = rebuilt(like)
    absent = [other for slot, other in slots.items() if slot not in used and any(slot in s for s in state.values())]
    if absent:
        raise ValueError(f"{who}: there is no {absent[0]!r} in this state, which {type(opt).__name__} has")
    return made


def fields_of(state: Any) -> Iterator[tuple[str, Any]]:
    """The fields of all named tuples in a state, with what they hold."""
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        for field in state._fields:
            value = getattr(state, field)
            yield field, value
            yield from fields_of(value)
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from fields_of(value)
    elif isinstance(state, tuple | list):
        for value in state:
            yield from fields_of(value)


def take_tree(tree: Any, slot: str, given: States, opt: Optimizer, who: str) -> None:
    """The arrays of one tree, by the names of the parameters."""
    _, arrays, _ = opened(tree, who)
    for path, array in arrays:
        name = name_of(path, 0)
        if name not in given:
            raise ValueError(f"{who}: no parameter {name!r}{nearest(name, given)}")
        given[name][slot] = numbers(array, f"{who}: {name!r}")


def with_leaves(tree: Any, arrays: Mapping[str, Array], who: str, path: tuple[Any, ...] = ()) -> Any:
    """A tree of the same structure with these arrays."""
    if isinstance(tree, Mapping):
        return {key: with_leaves(value, arrays, who, (*path, key)) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(with_leaves(getattr(tree, key), arrays, who, (*path, key)) for key in tree._fields))
    if isinstance(tree, tuple | list):
        return type(tree)(with_leaves(value, arrays, who, (*path, k)) for k, value in enumerate(tree))
    name = name_of(path, 0)
    if name not in arrays:
        raise ValueError(f"{who}: no parameter {name!r}{nearest(name, arrays)}")
    if np.shape(tree) != arrays[name].shape:
        raise ValueError(f"{who}: {name!r}: expected shape {np.shape(tree)}, got {arrays[name].shape}")
    return arrays[name].copy()


# Both

def slots_of(opt: Any, table: Mapping[str, Mapping[str, str]], who: str, peer: str) -> dict[str, str]:
    """The peer's names of an optimizer's slots; TypeError if it has none of that rule."""
    if not isinstance(opt, Optimizer):
        raise TypeError(f"{who}: opt must be a fastlr optimizer, got {type(opt).__name__}; give what is wrapped")
    rule = opt._saved_as
    if rule not in table:
        raise TypeError(f"{who}: {rule} has no state in {peer} that is known here (known: {', '.join(table)})")
    # (torch has the numbers of a whole tensor under the same names)
    return {**table[rule], **({name: name for name in opt.memory} if peer == "torch" else {})}


def numbers(x: Any, who: str) -> Array:
    """An array, tensor or number of any framework as NumPy's."""
    return as_array(x, who) if is_array(x) else np.asarray(x)


def as_numbers(opt: Optimizer, name: str) -> dict[str, Array]:
    """The slots of a parameter as float arrays."""
    slots = opt.state[name]
    return {slot: decoded(array, slots.get(f"{slot}_scale")) for slot, array in slots.items()
            if not (slot.endswith("_scale") and slot[:-6] in slots)}


def updates(opt: Optimizer) -> dict[str, int]:
    """How many updates each parameter has had."""
    skipped = opt._plan.read_skipped_steps()
    return {tensor.name: opt.t - steps for tensor, steps in zip(opt._plan.tensors, skipped, strict=True)}


def take_on(opt: Optimizer, given: States, counts: Mapping[str, int], who: str) -> None:
    """Load these slots and counts, by the optimizer's own check of a state."""
    d = opt.state_dict()
    for name, found in given.items():
        for slot, array in found.items():
            own = d["state"][name][slot]
            if array.size != own.size or (array.shape != own.shape and array.squeeze().shape != own.squeeze().shape):
                raise ValueError(f"{who}: {name!r}: {slot!r}: expected shape {own.shape}, got {array.shape}")
            if own.dtype != array.dtype and (own.dtype.kind != "f" or isinstance(own, BFloat16)):
                raise ValueError(f"{who}: {name!r}: {slot!r}: cannot become {own.dtype}; make this optimizer with "
                                 f"state_dtype='float32', and change the dtype by load_state_dict(..., strict=False)")
            d["state"][name][slot] = array.reshape(own.shape).astype(own.dtype)
    t = max(counts.values(), default=0)
    d |= {"t": t, "missed": {name: t - count for name, count in counts.items() if t > count}}
    opt.load_state_dict(d)
