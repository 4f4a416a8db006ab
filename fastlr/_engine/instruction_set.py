"""Which instruction set's kernels this process runs: the widest that the CPU has, or what FASTLR_ISA says.

A kernel module holds one variant per instruction set in one file: `x` is the plainest, `x_v3` and `x_v4` are the same
source compiled for x86-64-v3 and -v4. `load` returns the one to run.
"""
from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from threading import RLock
from typing import Any

from ..rules.signatures import BUILD_ID, VARIANTS
from .cpu import supports

LEVELS = ("baseline", "v3", "v4")


def choose(asked: str) -> str:
    """The instruction set to run, given what was asked for ("" for the widest)."""
    built = ("baseline", *VARIANTS)
    if not asked:
        return max((level for level in built if supports(level)), key=LEVELS.index)
    if asked not in LEVELS:
        raise ImportError(f"FASTLR_ISA: expected one of {', '.join(LEVELS)}, got {asked!r}")
    if asked not in built:
        raise ImportError(f"FASTLR_ISA: {asked} was not built for this platform; built: {', '.join(built)}")
    if not supports(asked):
        raise ImportError(f"FASTLR_ISA: this CPU lacks {asked}; unset FASTLR_ISA to use what it has")
    return asked


isa = choose(os.environ.get("FASTLR_ISA", ""))


def one_build(module: str, build_id: str) -> None:
    """ImportError unless a module was built from the declarations of this package: structs would differ, and crash."""
    if build_id != BUILD_ID:
        raise ImportError(f"fastlr was built in parts that do not fit together: {module} is of another build than "
                          f"fastlr.rules.signatures; build all of it anew")


#: Held while kernels are loaded, and by a thread that forks: the locks of an import that another thread has begun would
#: stay locked in the child for ever.
loading = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=loading.acquire, after_in_parent=loading.release, after_in_child=loading.release)


def load(name: str) -> Any:
    """The variant of a kernel module for this process; the widest that was compiled, where that one was not."""
    with loading:
        return found(name)


def found(name: str) -> Any:
    """The same, while nobody else loads one."""
    for level in LEVELS[LEVELS.index(isa):0:-1]:
        variant = f"{name}_{level}"
        if variant in sys.modules:
            return sys.modules[variant]
        spec = find_spec(name)
        if spec is None or not isinstance(spec.loader, ExtensionFileLoader):
            break
        loader = ExtensionFileLoader(variant, spec.loader.path)
        try:
            module = module_from_spec(spec_from_loader(variant, loader))      # type: ignore[arg-type]
        except ImportError:                    # (not compiled for this instruction set)
            continue
        loader.exec_module(module)
        sys.modules[variant] = module
        return module
    return importlib.import_module(name)


class Kernels:
    """The capsules of fastlr's kernel modules, by name; each module is loaded when it is first needed."""

    MODULES = {"step_task": "step", "terms_task": "step", "norms": "step", "accumulate_task": "step",
               "finish_task": "step", "constrain": "step", "tensor_ops": "step",
               "measure_task": "norms", "unit_norms_task": "norms", "unit_factor": "norms", "unit_squares": "norms",
               "step_rows_task": "rows", "measure_rows_task": "rows", "catch_up_task": "rows"}

    def __getattr__(self, name: str) -> Any:
        if name not in self.MODULES:
            raise AttributeError(name)
        module = load(f"fastlr._kernels.{self.MODULES[name]}")
        one_build(module.__name__, module.build_id)
        setattr(self, name, getattr(module, name))
        return getattr(self, name)


kernels = Kernels()

for part in ("arrays", "clipping", "curvature", "gradients", "layout", "plan", "compiled_schedule", "row_index",
             "row_journal", "step_scalars", "unit_norms"):
    one_build(f"fastlr._engine.{part}", importlib.import_module(f"fastlr._engine.{part}").build_id)
one_build("fastlr._matrix.matrix_step", importlib.import_module("fastlr._matrix.matrix_step").build_id)
