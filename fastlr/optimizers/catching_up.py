"""Tables whose rows catch up: what `step_rows` leaves out of the other rows is done before somebody needs them."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import ref

import numpy as np

from .._engine.row_journal import RowJournal
from .._engine.rows import catch_up as catch_up_tensor
from .._engine.tensors import Array, Tensor, per_tensor
from .declaration import nearest
from .structure import FrozenStructure, Structure

LIMIT = 4096           # updates that a row may be behind; they take 500 bytes each
MAX_LIMIT = 2**31 - 1


def set_journals(opt: Any, tensors: list[Tensor]) -> None:
    """Let the rows of those tensors catch up for which `catch_up_rows` says so; TypeError or ValueError if some cannot.
    """
    owner, fades = type(opt).__name__, opt.fades
    slot = -2 if fades is None else -1 if not fades else opt.slots.index(fades)
    for tensor, given in zip(tensors, per_tensor(opt._catch_up_rows, tensors, owner, "catch_up_rows"), strict=True):
        limit = checked_limit(given, owner)
        if not limit or tensor.journal is not None:
            continue
        if opt.kind != "elementwise" or opt.reduces or opt.depends_on_param:
            raise TypeError(f"{owner}: catch_up_rows: a step of this rule depends on more than an element's gradient, "
                            f"and rows cannot be stepped; leave it out")
        apart = "constraint" if tensor.constraint is not None else "shadow" if tensor.shadow is not None else \
            "master" if tensor.low_bits is not None else ""
        if apart:
            raise ValueError(f"{owner}: catch_up_rows of {tensor.name!r}: needs a parameter without {apart}=, which is "
                             f"for whole steps; leave one of them out")
        shape = tensor.array.shape
        if shape:
            tensor.journal = RowJournal(shape[0], tensor.array.size // max(shape[0], 1), limit, slot)


def checked_limit(given: Any, owner: str) -> int:
    """How many updates a row may be behind, 0 where rows do not catch up."""
    if given is None or isinstance(given, bool):
        return LIMIT if given else 0
    if not isinstance(given, int):
        raise TypeError(f"{owner}: catch_up_rows must be True, False or a number of updates, got {given!r}")
    if not 0 < given <= MAX_LIMIT:
        raise ValueError(f"{owner}: catch_up_rows must be in [1, {MAX_LIMIT}], got {given}")
    return given


def catch_up(opt: Any, which: Iterable[int] | None = None) -> None:
    """Let all rows of these tensors, by their index, have all updates."""
    plan = opt._plan
    for i in range(plan.count) if which is None else which:
        if plan.tensors[i].journal is not None:
            plan.refuse_replaced()
            catch_up_tensor(plan, i)


def catch_up_rows(opt: Any, name: str, rows: Any) -> None:
    """Let some rows of a tensor have all updates."""
    plan, who = opt._plan, f"{type(opt).__name__}: catch_up({name!r})"
    i = next((k for k, tensor in enumerate(plan.tensors) if tensor.name == name), None)
    if i is None:
        raise ValueError(f"{who}: no parameter of this name"
                         f"{nearest(str(name), [tensor.name for tensor in plan.tensors])}")
    rows = checked_rows(rows, plan.tensors[i], who)
    if plan.tensors[i].journal is not None:
        plan.refuse_replaced()
        catch_up_tensor(plan, i, rows)


def checked_rows(rows: Any, tensor: Tensor, who: str) -> Array:
    """Rows in one dimension; TypeError or ValueError unless they are integers within a tensor."""
    found = np.asarray(rows).reshape(-1)
    length = tensor.array.shape[0] if tensor.array.ndim else 0
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"{who}: rows must be integers, got {found.dtype}")
    if found.size and not (found.min() >= 0 and found.max() < length):
        raise ValueError(f"{who}: rows must be in [0, {length}), got {found.min()} to {found.max()}")
    return found.astype(np.int64)


def refuse_behind(opt: Any, what: str) -> None:
    """RuntimeError if rows have not had all updates."""
    for tensor in opt._plan.tensors:
        missed = 0 if tensor.journal is None else tensor.journal.behind()
        if missed:
            raise RuntimeError(f"{type(opt).__name__}: {what}: rows of {tensor.name!r} are up to {missed} updates "
                               f"behind; call catch_up() first, before parameters or state are read")


def refuse_bound(opt: Any, grads: list[Any]) -> None:
    """ValueError for gradient buffers of tables whose rows catch up: a step would not see that it needs all rows."""
    for tensor, gradient in zip(opt._plan.tensors, grads, strict=True):
        if gradient is not None and tensor.journal is not None:
            raise ValueError(f"{type(opt).__name__}: the rows of {tensor.name!r} catch up, and its gradient cannot be "
                             f"bound; bind None, and give it to step_rows or step")


class CatchingUpStructure(FrozenStructure):
    """A structure some of whose parameters need all of their rows before a gradient moves them.

    (The optimizer holds this, so this refers to it weakly.)
    """

    __slots__ = ("reference",)

    def __init__(self, structure: Structure, opt: Any) -> None:
        super().__init__(structure, structure.labels if isinstance(structure, FrozenStructure) else {})
        self.reference = ref(opt)

    def arranged(self, grads: Any, owner: str, label: str = "grads") -> list[Any]:
        """Gradients in the order of the tensors, whose rows have had all updates by then."""
        ordered = super().arranged(grads, owner, label)
        catch_up(self.reference(), [k for k, gradient in enumerate(ordered) if gradient is not None])
        return ordered
