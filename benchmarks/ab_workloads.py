"""The workloads of `ab.py`: by fastlr's public interface alone, so that they run on builds of different insides.

Lists of rules come from `fastlr.list_optimizers()`, of schedules from fastlr's own examples. What a build lacks raises,
and is named and left out.
"""
from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

import fastlr
from fastlr import schedules

Call = Callable[..., object]
Make = Callable[[], Call]

RATE = 1e-6                                   # so small that parameters stay what they are
LARGE = 2_000_000
CACHE, SMALL, MATRICES = [(64, 64)] * 4, [(8, 8)] * 100, [(128, 96), (96,)]


def normal(shapes: list[tuple[int, ...]], seed: int, dtype: str = "float32") -> list[Any]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


def upper_halves(arrays: list[Any]) -> list[Any]:
    """float32 as bfloat16 bits, cut off."""
    return [(np.ascontiguousarray(a).view(np.uint32) >> 16).astype(np.uint16) for a in arrays]


def one_step(opt: Any, grads: list[Any]) -> Call:
    """A step with bound gradients, after a first one with what the rule says it needs: a loss or a curvature."""
    try:
        opt.step()
        return opt.step
    except (TypeError, ValueError) as error:
        if "loss=" in str(error):
            step = partial(opt.step, loss=1.0)
            step()
            return step
        if "curvature=" not in str(error):
            raise
    opt.step(curvature=[g * g for g in grads])
    return opt.step


def stepping(rule: str, shapes: list[tuple[int, ...]], dtype: str = "float32", **keywords: Any) -> Call:
    params, grads = normal(shapes, 1, dtype), normal(shapes, 2, dtype)
    return one_step(fastlr.create_optimizer(rule, params, lr=RATE, grads=grads, **keywords), grads)


def sees_matrices(rule: str) -> bool:
    """Whether a rule is one of whole matrices, as far as its class says so."""
    cls = type(fastlr.create_optimizer(rule, np.zeros((2, 2), np.float32)))
    return getattr(cls, "kind", "matrix") == "matrix"


def by_rule() -> Iterator[tuple[str, Make]]:
    """Every optimizer: in cache, over many small tensors, by rows, accumulating; some over a large array."""
    for rule in fastlr.list_optimizers():
        yield f"cache/{rule}", partial(stepping, rule, CACHE)
        yield f"small/{rule}", partial(stepping, rule, SMALL)
        yield f"rows/{rule}", partial(by_rows, rule)
        yield f"accumulate/{rule}", partial(accumulating, rule)
        if sees_matrices(rule):
            yield f"medium/{rule}", partial(stepping, rule, MATRICES)
        elif rule == "adamw" or crc32(rule.encode()) % 5 == 0:      # (by its name: another rule changes no choice)
            yield f"large/{rule}", partial(stepping, rule, [(LARGE,)])
        if hasattr(fastlr.kernels, rule):
            yield f"kernel/{rule} 64", partial(functional, rule, 64)
    yield "kernel/adamw 100,000", partial(functional, "adamw", 100_000)


def by_rows(rule: str) -> Call:
    random = np.random.default_rng(3)
    table, = normal([(20_000, 32)], 1)
    grads, = normal([(1_000, 32)], 2)
    opt = fastlr.create_optimizer(rule, {"table": table}, lr=RATE)
    rows = random.integers(0, len(table), len(grads))
    return partial(opt.step_rows, "table", rows, grads)


def accumulating(rule: str) -> Call:
    params, grads = normal([(8, 8)] * 100, 1), normal([(8, 8)] * 100, 2)
    opt = fastlr.create_optimizer(rule, params, lr=RATE, grads=grads)
    step = one_step(opt, grads)

    def call() -> None:
        opt.accumulate(grad_scale=2.0)
        step(grad_scale=2.0)

    return call


def functional(rule: str, size: int) -> Call:
    p, g = normal([(size,)] * 2, 1)
    state = [np.array(x) for x in fastlr.create_optimizer(rule, p.copy()).state["0"].values()]
    slots, numbers = [x for x in state if x.shape == p.shape], [float(x) for x in state if x.shape != p.shape]
    move = getattr(fastlr.kernels, rule)
    needed = [x for x in inspect.signature(move).parameters.values() if x.kind is x.POSITIONAL_ONLY]
    operands = [p, g, *slots, *([np.array(numbers)] if len(needed) > 2 + len(slots) else [])]
    return partial(move, *operands, t=10, lr=RATE)


def adamw(shapes: list[tuple[int, ...]], **keywords: Any) -> tuple[Any, list[Any]]:
    """An AdamW after some steps, and its gradients."""
    params, grads = normal(shapes, 1), normal(shapes, 2)
    opt = fastlr.AdamW(params, **{"lr": RATE, **keywords})
    for _ in range(3):
        opt.step(grads)
    return opt, grads


def passed(count: int) -> Call:
    opt, grads = adamw([(64,)] * count)
    return partial(opt.step, grads)


def named() -> Call:
    params, grads = (dict(zip(map(str, range(500)), normal([(64,)] * 500, seed), strict=True)) for seed in (1, 2))
    return partial(fastlr.AdamW(params, lr=RATE).step, grads)


def in_groups() -> Call:
    arrays = normal([(64,)] * 500, 1)
    opt = fastlr.AdamW([{"params": arrays[50 * k:50 * k + 50], "lr": RATE / (k + 1)} for k in range(10)])
    grads = normal([(64,)] * 500, 2)
    return partial(opt.step, [grads[50 * k:50 * k + 50] for k in range(10)])


def half_of_them() -> Call:
    opt, grads = adamw([(64,)] * 500)
    return partial(opt.step, [g if k % 2 else None for k, g in enumerate(grads)])


def per_call() -> Iterator[tuple[str, Make]]:
    """What a step costs beside its arithmetic."""
    yield "call/1 x 64 bound", partial(stepping, "adamw", [(64,)])
    yield "call/1 x 64 passed", partial(passed, 1)
    yield "call/500 x 64 bound", partial(stepping, "adamw", [(64,)] * 500)
    yield "call/500 x 64 passed", partial(passed, 500)
    yield "call/500 x 64 passed by name", named
    yield "call/500 x 64 in 10 groups", in_groups
    yield "call/500 x 64, half of them None", half_of_them
    yield "call/500 x 64, lr a schedule", lambda: partial(adamw([(64,)] * 500, lr=schedules.cosine(
        RATE, steps=1_000_000).warmup(500))[0].step, normal([(64,)] * 500, 2))
    yield "call/500 x 64, bind", lambda: partial(adamw([(64,)] * 500)[0].bind, normal([(64,)] * 500, 2))
    for count, shape in ((500, (8, 8)), (1, (8, 8))):
        yield f"construct/adamw {count} tensors", partial(construct, "adamw", count, shape)
    yield "construct/muon 50 tensors", partial(construct, "muon", 50, (16, 16))


def construct(rule: str, count: int, shape: tuple[int, ...]) -> Call:
    return partial(fastlr.create_optimizer, rule, normal([shape] * count, 1))


STORED = {
    "float64": ("float64", {}),
    "float16": ("float16", {}),
    "bfloat16 states": ("float32", {"state_dtype": "bfloat16"}),
    "float16 states": ("float32", {"state_dtype": "float16"}),
    "int8 states": ("float32", {"state_dtype": "int8"}),
    "all bfloat16, stochastic": ("bfloat16", {"state_dtype": "bfloat16", "rounding": "stochastic"}),
    "bfloat16, int8 states": ("bfloat16", {"state_dtype": "int8", "rounding": "stochastic"}),
    "split master": ("bfloat16", {"master": "split"}),
    "split master, int8 states": ("bfloat16", {"master": "split", "state_dtype": "int8"}),
}


def stored(rule: str, dtype: str, keywords: dict[str, Any]) -> Call:
    arrays = [normal([(65_536,)], seed) for seed in (1, 2)]
    if dtype == "bfloat16":
        params, grads = (upper_halves(each) for each in arrays)
        keywords = {**keywords, "dtype": "bfloat16"}
    else:
        params, grads = ([a.astype(dtype) for a in each] for each in arrays)
    return one_step(fastlr.create_optimizer(rule, params, lr=RATE, grads=grads, **keywords), grads)


def storage() -> Iterator[tuple[str, Make]]:
    """AdamW has a loop of its own for what is stored in fewer bytes; another rule shows the loop of all others."""
    for what, (dtype, keywords) in STORED.items():
        for rule in ("adamw", "nadam"):
            yield f"storage/{rule} {what}", partial(stored, rule, dtype, keywords)


PLENTY = [(32, 32)] * 64
STAGES: dict[str, dict[str, Any]] = {
    "none": {}, "clip_value": {"clip_value": 1.0}, "clip_norm": {"clip_norm": 1.0},
    "clip_tensor_norm": {"clip_tensor_norm": 1.0}, "clip_adaptive": {"clip_adaptive": 0.01},
    "clip_adaptive columns": {"clip_adaptive": 0.01, "clip_adaptive_axis": -1}, "clip_zscore": {"clip_zscore": 2.5},
    "ema_decay": {"ema_decay": 0.999}, "shadow": {"shadow": "bfloat16"}, "nonfinite": {"nonfinite": "skip"},
    "coupled decay": {"decay": "coupled"}, "corrected decay": {"decay": "corrected"},
    "lr_scale": {"lr_scale": 0.5}, "all": {"clip_norm": 1.0, "ema_decay": 0.999, "shadow": "bfloat16"},
}


def stages() -> Iterator[tuple[str, Make]]:
    for what, keywords in STAGES.items():
        yield f"stage/{what}", lambda keywords=keywords: adamw_bound(**keywords).step
    yield "stage/lr_scale array", lambda: adamw_bound(lr_scale=[np.full(shape, 0.5) for shape in PLENTY]).step
    yield "stage/grad_scale and zero_grads", lambda: partial(adamw_bound().step, grad_scale=2.0, zero_grads=True)


def adamw_bound(**keywords: Any) -> Any:
    opt, grads = adamw(PLENTY, **keywords)
    opt.bind(grads)
    return opt


def laid_out(parameter: Callable[[Any], Any], gradient: Callable[[Any], Any]) -> Call:
    params, grads = normal(CACHE, 1), normal(CACHE, 2)
    opt = fastlr.AdamW([parameter(p) for p in params], lr=RATE, grads=[gradient(g) for g in grads])
    opt.step()
    return opt.step


def layouts() -> Iterator[tuple[str, Make]]:
    """Parameters and gradients of other strides than C's."""
    def as_is(a: Any) -> Any:
        return a

    def strided(a: Any) -> Any:
        return a.repeat(2, axis=1)[:, ::2]

    yield "layout/strided gradient", partial(laid_out, as_is, strided)
    yield "layout/strided parameter", partial(laid_out, strided, as_is)
    yield "layout/transposed parameter", partial(laid_out, np.transpose, as_is)
    yield "layout/both transposed", partial(laid_out, np.transpose, np.transpose)
    yield "layout/transposed parameter, ema", lambda: partial(
        fastlr.AdamW([p.T for p in normal(CACHE, 1)], lr=RATE, ema_decay=0.9).step, normal(CACHE, 2))


def every_schedule() -> Iterator[tuple[str, Make]]:
    from fastlr.schedules.gallery import EXAMPLES

    for name, example in EXAMPLES.items():
        schedule = example[0] if isinstance(example, tuple) else example       # (0.1.0 kept its last update beside it)
        yield f"schedule/one {name}", partial(partial, schedule, 50)
        yield f"schedule/10,000 {name}", partial(partial, schedule, np.linspace(0, 99, 10_000))
    value = schedules.cosine(1e-3, steps=1_000_000).warmup(500)
    yield "schedule/a million, cosine and warm-up", partial(partial, value, np.arange(1_000_000))
    yield "schedule/make cosine and warm-up", lambda: lambda: schedules.cosine(1e-3, steps=1000).warmup(500)


def saving(what: str) -> Call:
    opt, _ = adamw([(32, 32)] * 100)
    if what == "state_dict":
        return opt.state_dict
    if what == "load_state_dict":
        return partial(opt.load_state_dict, opt.state_dict())
    folder = Path(tempfile.mkdtemp(prefix="fastlr-ab-"))
    path = folder / "checkpoint.safetensors"
    fastlr.save(path, opt)
    call = partial(getattr(fastlr, what), path, opt)
    weakref.finalize(call, shutil.rmtree, folder, True)
    return call


def states() -> Iterator[tuple[str, Make]]:
    for what in ("state_dict", "load_state_dict", "save", "load"):
        yield f"state/{what} 100 tensors", partial(saving, what)


def wrapped(what: str) -> Call:
    shapes = [(64, 64)] * 10
    params, grads = normal(shapes, 1), normal(shapes, 2)
    opt = fastlr.SGD(params, lr=RATE)
    if what == "SAM":
        sam = fastlr.SAM(opt)

        def both() -> None:
            sam.ascend(grads)
            sam.step(grads)

        return both
    if what == "GradientAccumulation":
        return partial(fastlr.GradientAccumulation(opt).add, grads)
    if what in ("EMA", "SWA"):
        return getattr(fastlr, what)(opt).update
    return partial(getattr(fastlr, what)(opt).step, grads)


def quasi_newton() -> Call:
    p, curvature = np.ones(1000), np.logspace(-3, 3, 1000)

    def closure() -> tuple[float, Any]:
        g = curvature * p
        return 0.5 * float(g @ p), g

    opt = fastlr.LBFGS(p, tolerance_grad=0.0, tolerance_change=0.0, max_iter=2)

    def call() -> None:
        p[...] = 1.0
        opt.step(closure)

    return call


def around() -> Iterator[tuple[str, Make]]:
    """What goes around a step."""
    for what in ("Lookahead", "SAM", "GradientAccumulation", "EMA", "SWA", "GradientCentralization"):
        yield f"wrapper/{what}", partial(wrapped, what)
    yield "wrapper/LBFGS", quasi_newton


def workloads() -> dict[str, Make]:
    """Every workload: its name, and what makes its call. A group that a build lacks altogether is left out."""
    found: dict[str, Make] = {}
    for group in (per_call, by_rule, storage, stages, layouts, every_schedule, states, around):
        try:
            found.update(group())
        except (ImportError, AttributeError) as error:
            found[f"{group.__name__}/all"] = partial(refuse, error)
    return found


def refuse(error: Exception) -> Call:
    raise error
