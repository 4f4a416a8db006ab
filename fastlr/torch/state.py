"""State under torch's names, as tensors over the memory that a step writes."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .._engine.arrays import BFloat16
from .._engine.tensors import Tensor
from .._engine.torch_tensors import array_over
from ..optimizers.binding import BoundParameters
from ..optimizers.peer_names import TORCH


def torch_name(cls: str, slot: str) -> str:
    """What torch calls a slot; its scales, where it has 8 bits, are named after it."""
    names = TORCH.get(cls, {})
    if slot.endswith("_scale") and slot[:-6] in names:
        return f"{names[slot[:-6]]}_scale"
    return names.get(slot, slot)


def tensor_over(array: Any) -> torch.Tensor:
    """A tensor of torch over the memory of an array."""
    if isinstance(array, BFloat16):
        return torch.from_numpy(np.asarray(array).view(np.ndarray).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.asarray(array))


def in_torch_shape(slot: str, tensor: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """A slot as torch has it: complex or a DTensor where the parameter is one, factors as columns and rows."""
    if param.is_complex() and tensor.shape[-1:] == (2,) and tensor.dtype in (torch.float32, torch.float64):
        tensor = torch.view_as_complex(tensor)
    local = getattr(param, "_local_tensor", None)
    if local is not None:
        return tensor if tensor.shape != local.shape else type(param).from_local(
            tensor, param.device_mesh, param.placements, run_check=False, shape=param.shape, stride=param.stride())
    if slot == "row_var" and tensor.numel() * param.shape[-1] == param.numel():
        return tensor.view(*param.shape[:-1], 1)
    if slot == "col_var" and tensor.numel() * param.shape[-2] == param.numel():
        return tensor.view(*param.shape[:-2], 1, param.shape[-1])
    return tensor


def exposed(inner: BoundParameters, cls: str, tensor: Tensor, param: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state of one tensor by torch's names."""
    state = {}
    for slot, array in tensor.state_by_name(inner._kept, inner.memory).items():
        name = torch_name(cls, slot)
        state[name] = in_torch_shape(name, tensor_over(array), param)
    for k, name in enumerate(inner.shared):
        state[name] = tensor_over(inner._shared[k:k + 1].reshape(()))
    return state


def local_part(tensor: Any) -> Any:
    """The part of a DTensor that is in this process; any other tensor itself."""
    return getattr(tensor, "_local_tensor", tensor)


def real(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of complex numbers as one of real ones, two for each."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def adopt(inner: BoundParameters, cls: str, tensor: Tensor, given: Mapping[str, Any], label: str) -> list[str]:
    """Take on a tensor's state: memory that fits is used itself, else its values are copied.

    Returns the entries whose own memory is used. ValueError where values cannot be taken.
    """
    used = []
    arrays = tensor.state_by_name(inner._kept, inner.memory)
    for slot, array in arrays.items():
        name = torch_name(cls, slot)
        value = given.get(name)
        if value is None:
            continue
        source = real(local_part(value).detach()) if isinstance(value, torch.Tensor) else torch.as_tensor(value)
        if slot in inner._kept and inner._kept.index(slot) < len(tensor.state) and fits(source, array):
            tensor.state[inner._kept.index(slot)] = array_over(source)
            used.append(name)
            continue
        into = tensor_over(array)
        coded = (into.dtype in (torch.int8, torch.uint8)) != (source.dtype in (torch.int8, torch.uint8))
        if coded or source.numel() != into.numel():
            raise ValueError(f"{label}: {name}: expected {str(into.dtype).removeprefix('torch.')} {tuple(into.shape)}, "
                             f"got {str(source.dtype).removeprefix('torch.')} {tuple(source.shape)}"
                             + ("; give the optimizer the state_dtype with which this was saved" if coded else ""))
        into.copy_(source.reshape(into.shape))
    for k, name in enumerate(inner.shared):
        if name in given:
            inner._shared[k] = float(given[name])
    return used


def fits(source: torch.Tensor, array: Any) -> bool:
    """Whether a tensor's own memory can hold a slot, as the array does."""
    if source.layout != torch.strided or source.device.type != "cpu" or source.numel() == 0:
        return False
    into = tensor_over(array)
    alike = source.dtype == into.dtype and source.shape == into.shape and source.stride() == into.stride()
    return bool(alike and source.data_ptr() % source.element_size() == 0)


# What torch keeps of ASGD and this does not

def completed(cls: str, given: Mapping[str, Any], group: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state that was given, with what follows from the rest of it."""
    if cls == "ASGD" and "ax" in given and "averaging" not in given:
        return {**given, "averaging": float(float(given["step"]) - group["t0"] > 1)}
    return given


def as_in_torch(cls: str, state: dict[str, Any], param: torch.Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """A state as torch's class has it: ASGD's rate and share of the next step, and its mean where none is kept yet."""
    if cls != "ASGD" or "averaging" not in state:
        return state
    step, lr = float(state["step"]), float(group["lr"])
    state = dict(state)
    if not float(state["averaging"]):
        state["ax"] = param.detach().clone()
    state["eta"] = torch.tensor(lr / (1 + group["lambd"] * lr * step) ** group["alpha"], dtype=state["step"].dtype)
    state["mu"] = torch.tensor(1 / max(1.0, step - group["t0"]), dtype=state["step"].dtype)
    return state
