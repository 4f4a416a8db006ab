"""State in the caller's own memory: arrays that take the place of those that an optimizer allocated."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._engine.arrays import BFloat16, as_array, stored_as
from .._engine.shared_memory import find_shared
from .._engine.tensors import Array, Tensor
from .declaration import nearest
from .slots import Slots, State

if TYPE_CHECKING:
    from .binding import BoundParameters


def place_state(opt: BoundParameters, arrays: Mapping[str, Mapping[str, Any]], take: bool) -> None:
    """See `Optimizer.place_state`."""
    opt._require_all_updates("place_state")
    plan = opt._plan
    placed = fitting(opt, arrays)

    def change() -> None:
        before = [(tensor, tensor.snapshot(), list(tensor.state)) for tensor in plan.tensors]
        try:
            for tensor, slot, array in placed:
                if not take:
                    array[...] = tensor.state_by_name(opt._kept, opt.memory)[slot]
                tensor.place(opt._kept, slot, array)
            state = State({tensor.name: Slots(tensor.state_by_name(opt._kept, opt.memory)) for tensor in plan.tensors})
            opt._plan_again(opt._stages)
            opt._state = state
        except BaseException:
            for tensor, snapshot, slots in before:
                tensor.restore(snapshot)
                tensor.state[:] = slots
            raise

    plan.retire(change)


def fitting(opt: BoundParameters, arrays: Mapping[str, Mapping[str, Any]]) -> list[tuple[Tensor, str, Array]]:
    """Tensor, slot and array of all that is to be placed; ValueError or TypeError if something cannot be."""
    owner, tensors = type(opt).__name__, {tensor.name: tensor for tensor in opt._plan.tensors}
    placed = []
    for name, slots in arrays.items():
        if name not in tensors:
            raise ValueError(f"{owner}: place_state: no parameter {name!r}{nearest(str(name), tensors)}")
        for slot, given in slots.items():
            label = f"{owner}: place_state: {slot!r} of {name!r}"
            known = [*opt._kept, *tensors[name].matrices]
            if slot not in known:
                raise ValueError(f"{label}: there is no such slot of arrays{nearest(str(slot), known)}")
            present = tensors[name].state_by_name(opt._kept, opt.memory)[slot]
            placed.append((tensors[name], slot, fitting_array(label, present, given, f"[{name!r}][{slot!r}]")))
    written = [array for tensor in opt._plan.tensors for array in tensor.written()]
    found = find_shared([*written, *(array for *_, array in placed)])
    if found is not None:
        tensor, slot, _ = placed[max(found) - len(written)]
        raise ValueError(f"{owner}: place_state: the memory for {slot!r} of {tensor.name!r} is also that of a "
                         f"parameter or another slot; give each memory of its own")
    return placed


def fitting_array(label: str, present: Array, given: Any, where: str) -> Array:
    """An array that can take the place of the present one."""
    array = as_array(given, label, True)
    if array.dtype == np.uint16 and isinstance(present, BFloat16):
        array = array.view(BFloat16)
    wanted, got = (stored_as(x) or x.dtype for x in (present, array))
    if wanted != got or array.shape != present.shape:
        raise ValueError(f"{label}: expected {wanted} {present.shape}, got {got} {array.shape}")
    if not (array.flags.writeable and array.flags.aligned) or (array.size > 1 and array.strides != present.strides):
        raise ValueError(f"{label}: expected a writable, aligned array of strides {present.strides}, got "
                         f"{array.strides}; make it like np.empty_like(opt.state{where})")
    return array
