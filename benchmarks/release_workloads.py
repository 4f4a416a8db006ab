"""The workloads of `release.py` and `gate.py`, by fastlr's public interface alone: what a call does is known of each.

The first part of a name is its group (`release_page.py` says what each is). A call does `amount` of `unit`, and moves
at least `bytes`, where memory can bind it.
"""
from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ab_workloads import (
    LARGE,
    PLENTY,
    RATE,
    STAGES,
    STORED,
    adamw,
    adamw_bound,
    construct,
    normal,
    one_step,
    sees_matrices,
    upper_halves,
)

import fastlr
from fastlr import schedules

Call = Callable[[], object]

CACHED = 16_384
MEMORY = 64_000_000                   # bytes of a tensor
MANY, TENSOR = 500, (8, 8)
TABLE, GIVEN = (20_000, 32), 2_000      # (gradients of 256 kB: as large arrays, they begin at the same place in a page)
# A layer of width 256, with an embedding: 1.3 million elements.
LAYER = [(2000, 256), (768, 256), (768,), (256, 256), (256,), (1024, 256), (1024,), (256, 1024), (256,), (256,), (256,)]
MATRICES = {"one matrix": [(128, 96)], "a layer": LAYER}
NEED_EIGENVECTORS = ("shampoo", "soap")        # (of 2000 x 2000: LAPACK's time)


class Workload:
    """What makes a call; and once it is made, what the call does."""

    def __init__(self, make: Callable[[], Call | tuple[Call, float]], amount: float, unit: str) -> None:
        self.make = make
        self.facts: dict[str, Any] = {"amount": amount, "unit": unit}

    def __call__(self) -> Call:
        made = self.make()
        if isinstance(made, tuple):
            made, self.facts["bytes"] = made
        return made


def tiled(elements: int, seed: int, dtype: str) -> Any:
    """Normal random numbers that repeat: a large array in little time."""
    return np.resize(normal([(65_536,)], seed, dtype)[0], elements)


def least_bytes(opt: Any, params: list[Any]) -> float:
    """What a step must move: a gradient read, a parameter and its state read and written."""
    state = sum(array.nbytes for slots in opt.state.values() for array in slots.values())
    return 3.0 * sum(p.nbytes for p in params) + 2.0 * state


def stepped(rule: str, params: list[Any], grads: list[Any], **keywords: Any) -> tuple[Call, float]:
    opt = fastlr.create_optimizer(rule, params, lr=RATE, grads=grads, **keywords)
    return one_step(opt, grads), least_bytes(opt, params)


def over_one(rule: str, elements: int, dtype: str) -> tuple[Call, float]:
    return stepped(rule, [tiled(elements, 1, dtype)], [tiled(elements, 2, dtype)])


def over(rule: str, shapes: list[tuple[int, ...]], dtype: str = "float32") -> Call:
    return stepped(rule, normal(shapes, 1, dtype), normal(shapes, 2, dtype))[0]


def by_rows(rule: str) -> Call:
    table, = normal([TABLE], 1)
    grads, = normal([(GIVEN, TABLE[1])], 2)
    opt = fastlr.create_optimizer(rule, {"table": table}, lr=RATE)
    return partial(opt.step_rows, "table", np.random.default_rng(3).integers(0, len(table), GIVEN), grads)


def every_rule() -> Iterator[tuple[str, Workload]]:
    for rule in fastlr.list_optimizers():
        for dtype in ("float32", "float64"):
            if sees_matrices(rule):
                for what, shapes in MATRICES.items():
                    if what == "one matrix" or rule not in NEED_EIGENVECTORS:
                        elements = sum(int(np.prod(shape)) for shape in shapes)
                        yield f"matrix/{rule} {dtype}, {what}", Workload(
                            partial(over, rule, shapes, dtype), elements, "elements")
                continue
            yield f"cache/{rule} {dtype}", Workload(partial(over_one, rule, CACHED, dtype), CACHED, "elements")
            elements = MEMORY // np.dtype(dtype).itemsize
            yield f"memory/{rule} {dtype}", Workload(partial(over_one, rule, elements, dtype), elements, "elements")
        yield f"small/{rule}", Workload(partial(over, rule, [TENSOR] * MANY), MANY, "tensors")
        yield f"rows/{rule}", Workload(partial(by_rows, rule), GIVEN, "rows")


# Calls, through each interface


def bound(count: int) -> Call:
    opt, grads = adamw([(64,)] * count)
    opt.bind(grads)
    return opt.step


def passed(count: int, like: Callable[[Any], Any] = np.asarray) -> Call:
    params, grads = ([like(a) for a in normal([(64,)] * count, seed)] for seed in (1, 2))
    opt = fastlr.AdamW(params, lr=RATE)
    return partial(opt.step, grads)


def torch_tensors(count: int) -> Call:
    import torch

    return passed(count, torch.from_numpy)


def through_c(count: int, calls: int) -> Call:
    """The interface in C alone: a loop in C calls it; Python is left once for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "c_interface.so")
        source = str(Path(__file__).with_name("c_interface.c"))
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", f"-I{fastlr.get_include()}", source, "-o", out], check=True)
        library = ctypes.CDLL(out)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    api = pointer(fastlr._C_API, b"fastlr._C_API")
    arrays = [*normal([(64,)] * count, 1), *normal([(64,)] * count, 2), *(np.zeros(64, "f") for _ in range(2 * count))]
    table = np.array([a.ctypes.data for a in arrays], np.uintp)
    library.steps.argtypes = [ctypes.c_void_p, ctypes.c_char_p, *[ctypes.c_long] * 3, ctypes.c_void_p]

    def call(alive: Any = (arrays, table)) -> None:
        if error := library.steps(api, b"adamw", calls, count, 64, table.ctypes.data):
            raise RuntimeError(f"step: error {error}")

    return call


def calls() -> Iterator[tuple[str, Workload]]:
    for count in (1, MANY):
        for how, make, times in (
                ("bound", bound, 1), ("passed", passed, 1), ("torch tensors passed", torch_tensors, 1),
                ("kernels function", one_by_one, 1),
                ("C interface", partial(through_c, calls=1000 // count), 1000 // count)):
            yield f"call/{count} x 64 {how}", Workload(partial(make, count), count * times, "tensors")
    yield f"call/{MANY} x 64 passed, lr a schedule", Workload(lambda: partial(adamw([(64,)] * MANY, lr=schedules.cosine(
        RATE, steps=1_000_000).warmup(500))[0].step, normal([(64,)] * MANY, 2)), MANY, "tensors")
    yield f"call/{MANY} x 64 bind", Workload(lambda: partial(
        adamw([(64,)] * MANY)[0].bind, normal([(64,)] * MANY, 2)), MANY, "tensors")


def one_by_one(count: int) -> Call:
    """The function that keeps nothing, once a tensor."""
    arrays = [normal([(64,)] * 4, seed) for seed in range(count)]
    operands = [(p, g, np.zeros_like(m), np.zeros_like(v)) for p, g, m, v in arrays]
    move = fastlr.kernels.adamw

    def call() -> None:
        for each in operands:
            move(*each, t=10, lr=RATE)

    return call


# Storage, stages, schedules, constructors


def stored(rule: str, elements: int, dtype: str, keywords: dict[str, Any]) -> tuple[Call, float]:
    p, g = (tiled(elements, seed, "float32") for seed in (1, 2))
    if dtype == "bfloat16":
        (p,), (g,) = upper_halves([p]), upper_halves([g])
        keywords = {**keywords, "dtype": "bfloat16"}
    else:
        p, g = p.astype(dtype), g.astype(dtype)
    return stepped(rule, [p], [g], **keywords)


def storage() -> Iterator[tuple[str, Workload]]:
    for what, (dtype, keywords) in {"float32": ("float32", {}), **STORED}.items():
        for rule in ("adamw", "nadam"):
            for where, elements in (("cache", 65_536), ("memory", 8 * LARGE)):
                if where == "cache" or rule == "adamw":
                    yield f"storage/{rule} {what}, {where}", Workload(
                        partial(stored, rule, elements, dtype, keywords), elements, "elements")


def stages() -> Iterator[tuple[str, Workload]]:
    elements = sum(int(np.prod(shape)) for shape in PLENTY)
    for what, keywords in STAGES.items():
        yield f"stage/{what}", Workload(lambda keywords=keywords: adamw_bound(**keywords).step, elements, "elements")
    yield "stage/grad_scale and zero_grads", Workload(
        lambda: partial(adamw_bound().step, grad_scale=2.0, zero_grads=True), elements, "elements")


def every_schedule() -> Iterator[tuple[str, Workload]]:
    from fastlr.schedules.gallery import EXAMPLES

    for name, example in EXAMPLES.items():
        schedule = example[0] if isinstance(example, tuple) else example       # (0.1.0 kept its last update beside it)
        yield f"schedule/{name}, one", Workload(lambda s=schedule: partial(s, 50), 1, "values")
        yield f"schedule/{name}, 10,000", Workload(
            lambda s=schedule: partial(s, np.linspace(0, 99, 10_000)), 10_000, "values")


def constructors() -> Iterator[tuple[str, Workload]]:
    for rule, count in (("adamw", 1), ("adamw", MANY), ("muon", 50)):
        yield f"construct/{rule}, {count} tensors of 8 x 8", Workload(
            partial(construct, rule, count, TENSOR), count, "tensors")


def workloads() -> dict[str, Workload]:
    """Every workload of this build. A group that it lacks altogether is left out."""
    found: dict[str, Workload] = {}
    for group in (calls, every_rule, storage, stages, every_schedule, constructors):
        try:
            found.update(group())
        except (ImportError, AttributeError):
            continue
    return found


def facts() -> dict[str, Any]:
    """Bytes of state for each float32 parameter, of 40 x 25; arrays of state as large as the parameter."""
    state: dict[str, float] = {}
    arrays: dict[str, int] = {}
    for rule in fastlr.list_optimizers():
        p = np.zeros((40, 25), np.float32)
        found = list(fastlr.create_optimizer(rule, [p]).state["0"].values())
        state[rule] = sum(array.nbytes for array in found) / p.size
        arrays[rule] = sum(array.shape == p.shape for array in found)
    return {"state bytes": state, "state arrays": arrays}
