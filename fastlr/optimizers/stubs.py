"""Typed constructors, made from the declarations: `python -m fastlr.optimizers.stubs` in the project's folder.

It writes `fastlr/optimizers/__init__.pyi`, by which type checkers and editors know the keywords of every optimizer, and
`fastlr/kernels.pyi`; and `fastlr/kernels.pxd`, functions that Cython cimports. A test holds them to the declarations.
"""
from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from .. import kernels, optimizers
from .base import REGISTRY
from .rule_class import RuleClass

WIDTH = 120
NOTE = "# Made by `python -m fastlr.optimizers.stubs` from the declarations; do not edit.\n"
KERNELS = '''from inspect import Signature
from typing import Any

__all__: list[str]

def is_elementwise(rule: Any) -> bool: ...

class Kernel:
    """One rule over one tensor: p, g and the state; then t, lr and the hyper-parameters by keyword."""

    __name__: str
    @property
    def __signature__(self) -> Signature: ...
    def __call__(self, p: Any, g: Any, /, *slots: Any, t: int, lr: float, **hyper: float) -> None: ...

'''
TYPED = '''"""The functions of elementwise rules for Cython: one update of one tensor by typed memoryviews, no GIL.

    from fastlr.kernels cimport adamw
    error = adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay)

First the parameter, its gradient and the state in the order of the class's slots: contiguous, of one length, all float
or all double; a rule that remembers numbers of the tensor as a whole takes them last, as doubles. Then t (1 at first
and all hyper-parameters, in the order of the class. What is returned is FASTLR_OK or another `fastlr_error` of
c_api.pxd: then nothing was written. The bits are those of the optimizer of that name. The first call of a function, and
the first one with a large tensor, take the GIL for a moment: to load the rule, and to start threads. Compile with the
folder of `fastlr.get_include()`.
"""
from libc.stdint cimport int64_t
from fastlr.c_api cimport FASTLR_BAD_SIZE, FASTLR_OK, fastlr_rule
from fastlr.rules.element cimport real

cdef int step_typed(const fastlr_rule** rule, const char* name, bint is_double, int64_t t, double lr,
                    const double* hyper, int64_t n, void* p, const void* g, void** slots) noexcept nogil

# What each function has found by its name.'''


def written(annotation: Any) -> str:
    """A type as it is written."""
    if annotation is inspect.Parameter.empty or annotation is Any:
        return "Any"
    if annotation == optimizers.Hyper:
        return "Hyper"
    if isinstance(annotation, str):
        return annotation
    if annotation is NoneType:
        return "None"
    if type(annotation) is type:
        return annotation.__name__
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(written(member) for member in get_args(annotation))
    return str(annotation).replace("typing.", "").replace("collections.abc.", "").replace("'", '"')


def own_keywords(cls: type[RuleClass]) -> list[str]:
    """The parameters that the class declares, as they are written."""
    parameters = inspect.signature(cls).parameters
    own = [*cls.hypers, *cls.initial_states, *cls.options]
    return [f"{name}: {written(parameters[name].annotation)} = {parameters[name].default!r}".replace("'", '"')
            for name in own if name != "lr"]


def constructor(cls: type[RuleClass]) -> Iterator[str]:
    """The lines of a class."""
    bases = [f"_{cls.__module__.rpartition('.')[2]}.{cls.__name__}"]
    bases += [base.__name__ for base in cls.__bases__ if base in REGISTRY.values()]
    yield f"class {cls.__name__}({', '.join(bases)}):"
    given = ["self", "params: Any", f"lr: Hyper = {cls.hypers['lr'].default!r}", "*", *own_keywords(cls),
             "**common: Unpack[_Common]"]
    if given[4] == "**common: Unpack[_Common]":        # (a star needs a name behind it)
        del given[3]
    line = f"    def __init__({', '.join(given)}) -> None: ..."
    if len(line) <= WIDTH:
        yield line
        return
    yield "    def __init__("
    line = "       "
    for parameter in given:
        parts = [parameter] if 8 + len(parameter) < WIDTH else parameter.replace(" | ", "\n| ").splitlines()
        parts[-1] += ","
        for part in parts:
            if len(line) + len(part) + 1 > WIDTH:
                yield line
                line = "       "
            line += f" {part}"
    yield line.removesuffix(",") if line.endswith("_Common],") else line
    yield "    ) -> None: ..."


def optimizers_stub() -> str:
    """`fastlr/optimizers/__init__.pyi`."""
    classes = {cls.__name__: cls for cls in REGISTRY.values() if cls.__module__.startswith("fastlr.")}
    modules = sorted({cls.__module__.rpartition(".")[2] for cls in classes.values()})
    others = [(module_of(name), name) for name in optimizers.__all__ if name not in classes]
    others += [(module, name) for name, module in optimizers.LATER.items()]
    common = [p for name, p in inspect.signature(optimizers.SGD).parameters.items()
              if name not in ("params", "lr", "weight_decay")]
    lines = [NOTE, "from collections.abc import Callable, Mapping, Sequence",
             "from typing import Any, Literal, TypedDict, Unpack", ""]
    lines += [f"from . import {module} as _{module}" for module in modules]
    others.sort(key=lambda entry: (entry[0], not entry[1].isupper(), entry[1]))          # (as ruff sorts imports)
    lines += [f"from .{module} import {name} as {name}" for module, name in others]
    lines += ["", "__all__ = [", *(f'    "{name}",' for name in optimizers.__all__), "]", "LATER: dict[str, str]", "",
              "class _Common(TypedDict, total=False):"]
    lines += [f"    {p.name}: {written(p.annotation)}".replace("'", '"') for p in common]
    for cls in classes.values():
        lines += ["", *constructor(cls)]
    return "\n".join(lines) + "\n"


def module_of(name: str) -> str:
    """The module of this package that a name comes from."""
    if name in ("Hyper", "within"):
        return "declaration"
    return str(getattr(optimizers, name).__module__).rpartition(".")[2]


def kernels_stub() -> str:
    """`fastlr/kernels.pyi`."""
    return NOTE + KERNELS + "".join(f"{name}: Kernel\n" for name in kernels.__all__)


def wrapped(begin: str, items: list[str], end: str, indent: str) -> Iterator[str]:
    """A call or an argument list, over as many lines as it needs."""
    line = begin
    for k, item in enumerate(items):
        item += end if k == len(items) - 1 else ","
        if len(line) + len(item) + 1 > WIDTH:
            yield line
            line = indent + item
        else:
            line += item if line.endswith(("(", "[")) else f" {item}"
    yield line


def typed_function(name: str, cls: type[RuleClass]) -> Iterator[str]:
    """The lines of the function that updates one tensor by typed memoryviews."""
    hypers = [hyper for hyper in cls.hypers if hyper != "lr"]
    arrays = [*cls.slots, "memory"] if cls.memory else list(cls.slots)
    given = ["real[::1] p", "const real[::1] g", *(f"real[::1] {slot}" for slot in cls.slots)]
    given += ["double[::1] memory"] * bool(cls.memory) + ["int64_t t", *(f"double {hyper}" for hyper in cls.hypers)]
    begin = f"cdef inline int {name}("
    yield from wrapped(begin, given, ") noexcept nogil:", " " * len(begin))
    yield from wrapped(f"    cdef double[{max(len(hypers), 1)}] hyper = [", hypers or ["0"], "]", " " * 8)
    yield f"    cdef void* slots[{max(len(arrays), 1)}]"
    sizes = [f"{array}.shape[0] != p.shape[0]" for array in ("g", *cls.slots)]
    sizes += [f"memory.shape[0] != {len(cls.memory)}"] * bool(cls.memory)
    yield from alternatives(sizes)
    yield "        return FASTLR_BAD_SIZE"
    yield "    if p.shape[0] == 0:"
    yield "        return FASTLR_OK"
    if not arrays:
        yield "    slots[0] = NULL"
    for k, array in enumerate(arrays):
        yield f"    slots[{k}] = &{array}[0]"
    yield from wrapped(f"    return step_typed(&{name}_rule,", [
        f'"{name}"', "sizeof(real) == sizeof(double)", "t", "lr", "hyper", "p.shape[0]", "&p[0]", "&g[0]", "slots"],
        ")", " " * 22)


def alternatives(conditions: list[str]) -> Iterator[str]:
    """An `if` of one of some conditions, over as many lines as it needs."""
    line = f"    if {conditions[0]}"
    for condition in conditions[1:]:
        if len(line) + len(condition) + 8 > WIDTH:
            yield line + " \\"
            line = f"            or {condition}"
        else:
            line += f" or {condition}"
    yield line + ":"


def kernels_declarations() -> str:
    """`fastlr/kernels.pxd`."""
    lines = ["# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False", NOTE + TYPED]
    lines += [f"cdef const fastlr_rule* {name}_rule" for name in kernels.__all__]
    for name in kernels.__all__:
        lines += ["", *typed_function(name, REGISTRY[name])]
    return "\n".join(lines) + "\n"


STUBS = {"optimizers/__init__.pyi": optimizers_stub, "kernels.pyi": kernels_stub, "kernels.pxd": kernels_declarations}

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "fastlr")
    for name, stub in STUBS.items():
        (folder / name).write_text(stub(), encoding="utf-8")
