"""The functions of libtorch by which gradients are read without a Python object for each; found when torch is imported.

fastlr is not compiled against torch: where a function is missing, or says something else than torch's Python methods,
gradients are read as Python objects, which costs more.
"""
from __future__ import annotations

import ctypes
import importlib
from pathlib import Path

import torch

from .._engine.instruction_set import one_build
from .._engine.torch_grad import use_grad
from .._engine.torch_native import use_native
from .._engine.torch_tensors import use_torch

for part in ("torch_clipping", "torch_grad", "torch_native", "torch_plan", "torch_tensors", "torch_watch",
             "written_ranges"):
    one_build(f"fastlr._engine.{part}", importlib.import_module(f"fastlr._engine.{part}").build_id)

C = "aoti_torch_"
FUNCTIONS = {
    "grad": ("c10", "_ZNK3c1010TensorImpl4gradEv"), "new_handle": ("torch_cpu", f"{C}new_tensor_handle"),
    "delete_handle": ("torch_cpu", f"{C}delete_tensor_object"), "dim": ("torch_cpu", f"{C}get_dim"),
    "sizes": ("torch_cpu", f"{C}get_sizes"), "strides": ("torch_cpu", f"{C}get_strides"),
    "dtype": ("torch_cpu", f"{C}get_dtype"), "device": ("torch_cpu", f"{C}get_device_type"),
    "layout": ("torch_cpu", f"{C}get_layout"), "data": ("torch_cpu", f"{C}get_data_ptr"),
}
CODES = {"cpu": "device_type_cpu", "strided": "layout_strided", **{
    name: f"dtype_{name}" for name in ("float32", "float64", "float16", "bfloat16")}}
OTHER_NAMES = {"dtype_float16": "dtype_half"}


def found() -> tuple[dict[str, int], dict[str, int]]:
    """The addresses of the functions, and torch's numbers; empty if one is missing."""
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
        codes = {}
        for name, symbol in CODES.items():
            library = libraries["torch_cpu"]
            function = getattr(library, C + symbol, None) or getattr(library, C + OTHER_NAMES.get(symbol, symbol))
            codes[name] = int(function())
    except (AttributeError, OSError):
        return {}, {}
    return addresses, codes


def samples() -> list[torch.nn.Parameter]:
    """Parameters of several types and shapes, some with gradients."""
    made = []
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for shape in ((3,), (2, 4), (1,)):
            for has_grad in (True, False):
                param = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
                param.grad = torch.zeros(shape, dtype=dtype) if has_grad else None
                made.append(param)
    return made


def begin(exchange: bool = True, native: bool = True) -> bool:
    """Learn how tensors of this torch are read; whether gradients are, without Python objects."""
    use_torch(torch.Tensor, torch.nn.Parameter, exchange)
    use_grad(torch.Tensor)
    addresses, codes = found() if native else ({}, {})
    return use_native(addresses, codes, samples(), torch.Tensor.__basicsize__)
