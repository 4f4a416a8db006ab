"""What libtorch offers to read gradients without a Python object for each; found when torch is imported.

fastlr is not compiled against torch: where something is missing, or differs from what Python says, gradients are read
as Python objects, which costs more.
"""
from __future__ import annotations

import ctypes
import importlib
import math
from pathlib import Path
from typing import Any

import torch

from .._engine.instruction_set import one_build
from .._engine.torch_grad import use_grad
from .._engine.torch_native import STORAGE_BYTES, use_native
from .._engine.torch_tensors import use_torch

for part in ("torch_clipping", "torch_grad", "torch_native", "torch_plan", "torch_tensors", "torch_watch",
             "written_ranges"):
    one_build(f"fastlr._engine.{part}", importlib.import_module(f"fastlr._engine.{part}").build_id)

C = "aoti_torch_"
FUNCTIONS = {"grad": ("c10", "_ZNK3c1010TensorImpl4gradEv"), "assign": ("torch_cpu", f"{C}assign_tensors"),
             "new_handle": ("torch_cpu", f"{C}new_uninitialized_tensor"),
             "delete_handle": ("torch_cpu", f"{C}delete_tensor_object")}
DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.bfloat16: "bfloat16"}
increment_version = getattr(torch._C, "_increment_version", torch.autograd.graph.increment_version)


def found() -> tuple[dict[str, int], dict[torch.dtype, int]]:
    """The addresses of functions, and torch's numbers of types; empty if one is missing."""
    folder = Path(torch.__file__).parent / "lib"
    libraries = {}
    for name in ("c10", "torch_cpu"):
        path = next((path for path in (folder / f"lib{name}.so", folder / f"lib{name}.dylib") if path.exists()), None)
        if path is None:
            return {}, {}
        libraries[name] = ctypes.CDLL(str(path))
    try:
        addresses = {name: ctypes.cast(getattr(libraries[library], symbol), ctypes.c_void_p).value or 0
                     for name, (library, symbol) in FUNCTIONS.items()}
        codes = {dtype: int(getattr(libraries["torch_cpu"], f"{C}dtype_{name}")()) for dtype, name in DTYPES.items()}
    except (AttributeError, OSError):
        return {}, {}
    return addresses, codes


def keys_of(tensor: torch.Tensor) -> int:
    """A tensor's dispatch keys: 64 bits that say its device, layout, and what else is special about it."""
    return int(torch._C._dispatch_keys(tensor).raw_repr())


def said_of(tensor: torch.Tensor, codes: dict[torch.dtype, int], owned: bool = True) -> dict[str, Any]:
    """What Python says of a tensor; `owned`: whether torch allocated its memory."""
    storage = tensor.untyped_storage()
    return {"impl": tensor._cdata, "keys": keys_of(tensor), "dtype": codes[tensor.dtype], "shape": tuple(tensor.shape),
            "strides": tensor.stride(), "first": tensor.storage_offset(), "storage": storage._cdata,
            "data": storage.data_ptr(), "version": tensor._version, "leaf": tensor.requires_grad, "owned": owned,
            "grad": tensor.grad._cdata if tensor.grad is not None else None, "detached": tensor.detach(),
            "other": tensor.data}


def samples(codes: dict[torch.dtype, int]) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Tensors of several types, shapes, storages and versions, some with gradients, and what Python says of them."""
    made: list[tuple[torch.Tensor, bool]] = []
    for dtype in codes:
        for shape in ((3,), (2, 4), (1,), (5, 2, 7), (2, 3, 4, 5), (2, 1, 3, 1, 4)):
            for has_grad in (True, False):
                size, first = math.prod(shape), len(made) % 5
                memory = torch.zeros(first + size, dtype=dtype, device="cpu")[first:]
                param: torch.Tensor = torch.nn.Parameter(memory.view(shape))
                if len(made) % 3 == 1:             # (a view of a tensor that autograd follows)
                    param = memory.view(shape).requires_grad_()
                if len(shape) == 3:
                    param = torch.nn.Parameter(memory.view(shape).transpose(0, 2))
                param.grad = torch.zeros_like(param) if has_grad else None
                made.append((param, True))
                made.append((torch.zeros(shape, dtype=dtype, device="cpu"), True))
        made.append((torch.frombuffer(bytearray(64), dtype=dtype)[1:], False))
    for k, (tensor, _) in enumerate(made):
        for _ in range(1 + k % 7):
            increment_version([tensor])
    return [(tensor, said_of(tensor, codes, owned)) for tensor, owned in made]


Special = tuple[torch.Tensor, int, int | None, bytes]


def special() -> list[Special]:
    """Tensors that are not read as they are, with their keys, and where those do not tell, what storage had before."""
    made = [torch._neg_view(torch.zeros(2, device="cpu")), torch.zeros(2, device="cpu").to_sparse(),
            torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64, device="cpu").conj(),
            torch._efficientzerotensor(2, device="cpu")]
    with torch.inference_mode():
        made.append(torch.zeros(2, device="cpu"))
    found: list[Special] = [(tensor, keys_of(tensor), None, b"") for tensor in made]
    for change in (torch._lazy_clone, torch._C._set_throw_on_mutable_data_ptr,
                   torch._C._set_warn_deprecated_on_mutable_data_ptr):
        tensor = torch.zeros(2, device="cpu")
        storage = tensor.untyped_storage()._cdata
        before = ctypes.string_at(storage, STORAGE_BYTES)
        change(tensor)
        found.append((tensor, keys_of(tensor), storage, before))
    return found


def begin(exchange: bool = True, native: bool = True) -> bool:
    """Learn how tensors of this torch are read; whether gradients are, without Python objects."""
    use_torch(torch.Tensor, torch.nn.Parameter, exchange)
    use_grad(torch.Tensor)
    addresses, codes = found() if native else ({}, {})
    said: list[tuple[torch.Tensor, dict[str, Any]]] = []
    unlike: list[Special] = []
    if addresses:
        try:
            with torch.inference_mode(False), torch.no_grad():
                said, unlike = samples(codes), special()
        except (AttributeError, NotImplementedError, RuntimeError):    # (a torch that has not all of this)
            addresses = {}
    return use_native(addresses, said, unlike, torch.Tensor.__basicsize__, increment_version)
