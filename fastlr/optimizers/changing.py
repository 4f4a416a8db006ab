"""What changes between steps: parameters that are frozen, groups that are dropped, means in the parameters' place."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .._engine.tensor_versions import mark_written
from .._engine.tensors import Array, Tensor, bfloat16_bits, values
from .binding import OF_GROUPS
from .declaration import nearest
from .groups import Group
from .slots import State
from .structure import Container, Structure

if TYPE_CHECKING:
    from .binding import BoundParameters

PER_TENSOR = ("_catch_up_rows", "_constraint", "_decay", "_decay_mask", "_lr_scale", "_shadow", "_state_dtype")


# Frozen parameters

def chosen(opt: BoundParameters, what: Sequence[Any], call: str) -> frozenset[str]:
    """The names that patterns and groups mean; ValueError for a pattern that matches none."""
    names = [tensor.name for tensor in opt._plan.tensors]
    found: set[str] = set()
    for each in what:
        if isinstance(each, Group):
            if each not in opt.groups:
                raise ValueError(f"{type(opt).__name__}: {call}: this group is of another optimizer")
            found.update(each.params)
        elif isinstance(each, str):
            matching = [name for name in names if fnmatchcase(name, each)]
            if not matching:
                raise ValueError(f"{type(opt).__name__}: {call}: {each!r} matches no parameter{nearest(each, names)}")
            found.update(matching)
        else:
            raise TypeError(f"{type(opt).__name__}: {call}: expected names, patterns or groups, got "
                            f"{type(each).__name__}")
    return frozenset(found)


# Groups that are dropped

class Dropped:
    """In place of the optimizer of a group that it dropped."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> Dropped:     # (as the reference to an optimizer)
        return self

    @property
    def _plan(self) -> NoReturn:
        raise RuntimeError(f"{self.name}: this group was dropped")

    def _set_hyper(self, *_: Any) -> NoReturn:
        raise RuntimeError(f"{self.name}: this group was dropped")


def drop_group(opt: BoundParameters, group: Group | int) -> None:
    """Let a group go, with its state: see `Optimizer.drop_group`."""
    opt._require_own_values()
    opt._refuse_as_part("drop_group")
    opt._require_all_updates("drop_group")
    who, groups, before = type(opt).__name__, opt.groups, opt._plan
    if isinstance(group, bool) or not isinstance(group, int | Group):
        raise TypeError(f"{who}: drop_group: expected a group or its index, got {group!r}")
    if isinstance(group, int):
        if not -len(groups) <= group < len(groups):
            raise ValueError(f"{who}: drop_group: there are {len(groups)} groups, got {group}")
        group = groups[group]
    if group not in groups:
        raise ValueError(f"{who}: drop_group: this group is of another optimizer, or was dropped")
    if len(groups) == 1:
        raise ValueError(f"{who}: drop_group: this is the only group; delete the optimizer instead")
    if before.accumulated:
        raise ValueError(f"{who}: drop_group: gradients were accumulated; take the step first")
    index, tensors = group._index, before.tensors
    kept = [k for k, tensor in enumerate(tensors) if tensor.group != index]
    dropped = {tensor.name for tensor in tensors if tensor.group == index}
    snapshots = [(tensors[k], tensors[k].snapshot()) for k in kept]
    indices = [other._index for other in groups]
    present = {name: value for name, value in vars(opt).items() if name in (*OF_GROUPS, *PER_TENSOR)}

    def leave() -> None:
        try:
            take_out(opt, index, kept, dropped)
            skipped = before.read_skipped_steps()
            plan = opt._planned([tensors[k] for k in kept], opt.groups, opt._stages)
            for other in opt.groups:
                plan.set_peak(other._index, other._lr_max or 0.0)
            plan.set_clock(before.t, [skipped[k] for k in kept])
            plan.skipped, plan.norms = before.skipped, before.norms
            plan.take_measured(before, kept, True)
            if opt._bound is not None:
                plan.bind_arrays([None if tensors[k].name in opt._frozen else array
                                  for k, array in zip(kept, opt._bound, strict=True)])
            opt._plan = plan
            opt._set_frozen(opt._frozen)
        except BaseException:
            opt._plan = before
            for other, k in zip(groups, indices, strict=True):
                object.__setattr__(other, "_index", k)
            vars(opt).update(present)
            for tensor, snapshot in snapshots:
                tensor.restore(snapshot)
            opt._watch()
            raise

    before.retire(leave)
    object.__setattr__(group, "_owner", Dropped(who))


def take_out(opt: BoundParameters, index: int, kept: list[int], dropped: set[str]) -> None:
    """Take a group out of all that an optimizer knows, but for its plan."""
    tensors, structure = opt._plan.tensors, opt._structure
    for name in PER_TENSOR:
        given = getattr(opt, name)
        if isinstance(given, Mapping):
            setattr(opt, name, {key: value for key, value in given.items() if key not in dropped})
        elif isinstance(given, Sequence) and not isinstance(given, str):
            setattr(opt, name, [given[k] for k in kept])
    if hasattr(opt, "_matrix_rules"):
        opt._matrix_rules = [opt._matrix_rules[k] for k in kept]
    gone = set(map(id, containers(structure.parts[index])))
    opt._structure = Structure(True, tuple(part for k, part in enumerate(structure.parts) if k != index),
                               tuple(each for each in structure.watched if id(each) not in gone))
    opt._groups = tuple(group for group in opt.groups if group._index != index)
    for k, group in enumerate(opt._groups):
        object.__setattr__(group, "_index", k)
    for k in kept:
        tensors[k].group -= tensors[k].group > index
        tensors[k].prefix = opt._structure.prefix(tensors[k].group)
    opt._state = State({name: slots for name, slots in opt._state.items() if name not in dropped})
    opt._bound = None if opt._bound is None else [opt._bound[k] for k in kept]
    opt._frozen = opt._frozen - dropped


def containers(part: Container | None) -> Iterator[Container]:
    """A container, and those in it."""
    if part is not None:
        yield part
        for child in part.children:
            yield from containers(child)


# Means in the parameters' place

class SwappedOut:
    """What keeps an optimizer from stepping while its parameters hold their means."""

    def __init__(self, who: str) -> None:
        self.who = who

    def replaced(self) -> NoReturn:
        raise RuntimeError(f"{self.who}: the parameters hold the means; leave the with block of swapped() first")


@contextmanager
def swapped(opt: BoundParameters, means: Mapping[str, Any]) -> Iterator[None]:
    """See `Optimizer.swapped`."""
    opt._plan.refuse_replaced()
    opt._require_all_updates("swapped")
    tensors = opt._plan.tensors
    before = [np.asarray(tensor.array).copy() for tensor in tensors]
    watched = opt._plan.watched

    def restore() -> None:
        for tensor, array in zip(tensors, before, strict=True):
            np.asarray(tensor.array)[...] = array
        written(opt, tensors)
        opt._plan.watched, opt._swapped_out = watched, False

    try:
        try:
            opt._plan.watched, opt._swapped_out = (SwappedOut(type(opt).__name__),), True
            for tensor in tensors:
                put_numbers(tensor, means[tensor.name])
            written(opt, tensors)
            yield
        finally:
            restore()
    finally:
        restore()                          # (in case that an interrupt stopped the first call)


def put_numbers(tensor: Tensor, numbers: Array) -> None:
    """Set a parameter, rounded to nearest."""
    with np.errstate(over="ignore"):
        if values(tensor.array) is tensor.array or tensor.array.dtype == np.float16:
            tensor.array[...] = numbers
        else:
            np.asarray(tensor.array).view(np.uint16)[...] = bfloat16_bits(numbers)


def written(opt: BoundParameters, tensors: Sequence[Tensor]) -> None:
    opt.cast()
    mark_written([tensor.source for tensor in tensors if tensor.source is not None])
