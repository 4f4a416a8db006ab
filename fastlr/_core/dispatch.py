"""Which door of `_kernels` this process goes through: the widest that the CPU can, or what FASTLR_ISA says."""
from __future__ import annotations

import importlib
import os
from importlib.util import find_spec

from .cpu import supports

LEVELS = ("baseline", "v3", "v4")


def choose(asked: str) -> str:
    """The instruction set to run, given what was asked for ("" for the widest)."""
    built = [level for level in LEVELS if find_spec(f"fastlr._kernels.{level}")]
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
door = importlib.import_module(f"fastlr._kernels.{isa}")


def one_build(module: str, layout: str) -> None:
    """ImportError unless a module was built from the same declarations as the door: structs would differ, and crash."""
    if layout != door.layout:
        raise ImportError(f"fastlr was built in parts that do not fit together: {module} is of another build than "
                          f"{door.__name__}; build all of it anew")


for part in ("arrays", "instant", "matrix", "plan", "compiled_schedule"):
    one_build(f"fastlr._core.{part}", importlib.import_module(f"fastlr._core.{part}").layout)
