"""AdamW as each peer takes a step: from parameters and gradients (float32) to a function that is one update.

Each maker returns a function of no argument, and ImportError (or OSError) if what it needs is not installed.
Every peer owns its arrays, in the memory that its own users would have.
"""
from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LR, BETA1, BETA2, EPS, DECAY = 1e-4, 0.9, 0.999, 1e-8, 1e-2
CFLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-march=native"]

Arrays = list[np.ndarray[Any, Any]]
Step = Callable[[], object]

#: torch's class of each rule, with what makes it that rule.
TORCH = {
    "adadelta": ("Adadelta", {}),
    "adafactor": ("Adafactor", {}),
    "adagrad": ("Adagrad", {}),
    "adam": ("Adam", {}),
    "adamax": ("Adamax", {}),
    "adamw": ("AdamW", {}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "asgd": ("ASGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "muon": ("Muon", {}),
    "nadam": ("NAdam", {}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "radam": ("RAdam", {}),
    "rmsprop": ("RMSprop", {}),
    "rmspropcentered": ("RMSprop", {"centered": True}),
    "rmspropcenteredmomentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "rmspropmomentum": ("RMSprop", {"momentum": 0.9}),
    "rprop": ("Rprop", {}),
    "sgd": ("SGD", {}),
}


def numbers(count: int, shape: tuple[int, ...], seed: int) -> Arrays:
    """Normal random arrays: no zero, no subnormal, every page touched."""
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape, dtype=np.float32) for _ in range(count)]


def shaped(shapes: list[tuple[int, ...]], seed: int) -> Arrays:
    """The same, of several shapes."""
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape, dtype=np.float32) for shape in shapes]


def fastlr_bound(params: Arrays, grads: Arrays, threads: int) -> Step:
    import fastlr

    return fastlr.AdamW(params, LR, beta1=BETA1, beta2=BETA2, eps=EPS, weight_decay=DECAY, grads=grads).step


def fastlr_passed(params: Arrays, grads: Arrays, threads: int) -> Step:
    import fastlr

    step = fastlr.AdamW(params, LR, beta1=BETA1, beta2=BETA2, eps=EPS, weight_decay=DECAY).step
    return lambda: step(grads)


def torch_params(params: Arrays, grads: Arrays) -> list[Any]:
    import torch

    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(g)
    return tensors


def torch_fused(params: Arrays, grads: Arrays, threads: int, **variant: bool) -> Step:
    import torch

    tensors = torch_params(params, grads)
    return torch.optim.AdamW(tensors, LR, (BETA1, BETA2), EPS, DECAY, **variant or {"fused": True}).step


def torch_default(params: Arrays, grads: Arrays, threads: int) -> Step:
    return torch_fused(params, grads, threads, foreach=False)


def optax_jit(params: Arrays, grads: Arrays, threads: int) -> Step:
    import jax
    import optax

    rule = optax.adamw(LR, BETA1, BETA2, EPS, weight_decay=DECAY)

    def update(p: Any, state: Any, g: Any) -> Any:
        moves, state = rule.update(g, state, p)
        return optax.apply_updates(p, moves), state

    jitted = jax.jit(update, donate_argnums=(0, 1))
    g = jax.device_put(grads)
    now = [jax.device_put(params)]
    now.append(rule.init(now[0]))

    def step() -> None:
        now[:] = jitted(now[0], now[1], g)
        jax.block_until_ready(now)

    return step


def numpy_loop(params: Arrays, grads: Arrays, threads: int) -> Step:
    m, v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    scratch, t = np.ones_like(params[0]), 0

    def step() -> None:
        nonlocal t
        t += 1
        rate, debias = LR / (1 - BETA1**t), 1 / (1 - BETA2**t) ** 0.5
        for p, g, mi, vi in zip(params, grads, m, v, strict=True):
            np.multiply(mi, BETA1, out=mi)
            np.add(mi, np.multiply(g, 1 - BETA1, out=scratch), out=mi)
            np.multiply(vi, BETA2, out=vi)
            np.multiply(g, g, out=scratch)
            np.add(vi, np.multiply(scratch, 1 - BETA2, out=scratch), out=vi)
            np.multiply(np.sqrt(vi, out=scratch), debias, out=scratch)
            np.divide(mi, np.add(scratch, EPS, out=scratch), out=scratch)
            np.multiply(p, 1 - LR * DECAY, out=p)
            np.subtract(p, np.multiply(scratch, rate, out=scratch), out=p)

    return step


library: list[ctypes.CDLL] = []


def compiled() -> ctypes.CDLL:
    """peer.c, compiled once for this machine."""
    if not library:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "peer.so")
            source = str(Path(__file__).with_name("peer.c"))
            flags = [*CFLAGS, "-shared", "-fPIC", "-pthread"]
            subprocess.run(["cc", *flags, source, "-o", out, "-lm"], check=True)
            library.append(ctypes.CDLL(out))
        kinds = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_int]
        library[0].stream.argtypes = [*kinds, ctypes.c_int]
        library[0].adamw.argtypes = [*kinds, ctypes.c_long, *[ctypes.c_double] * 5]
    return library[0]


def c_arguments(arrays: list[Arrays], threads: int) -> tuple[Any, ...]:
    """What keeps the tables alive, and what C is given: gradients first, then what is written."""
    tables = [np.array([x.ctypes.data for x in of_one], np.uintp) for of_one in arrays]
    table = np.array([t.ctypes.data for t in tables], np.uintp)
    return (table, tables, arrays), (len(arrays[0]), arrays[0][0].size, table.ctypes.data, threads)


def moments(params: Arrays) -> list[Arrays]:
    return [[np.zeros_like(p) for p in params] for _ in range(2)]


def c_restrict(params: Arrays, grads: Arrays, threads: int) -> Step:
    adamw, (alive, fixed), t = compiled().adamw, c_arguments([grads, params, *moments(params)], threads), 0

    def step(alive: Any = alive) -> None:
        nonlocal t
        t += 1
        adamw(*fixed, t, LR, BETA1, BETA2, EPS, DECAY)

    return step


def bytes_only(arrays: list[Arrays], threads: int) -> Step:
    """Reads the first arrays, reads and writes the others, and leaves their values."""
    stream, (alive, fixed) = compiled().stream, c_arguments(arrays, threads)
    return lambda alive=alive: stream(*fixed, len(arrays) - 1)


def roof(params: Arrays, grads: Arrays, threads: int) -> Step:
    return bytes_only([grads, params, *moments(params)], threads)


#: In the order of the rounds.
PEERS: dict[str, Callable[[Arrays, Arrays, int], Step]] = {
    "fastlr bound": fastlr_bound,
    "fastlr passed": fastlr_passed,
    "torch fused": torch_fused,
    "torch default": torch_default,
    "optax jit": optax_jit,
    "numpy loop": numpy_loop,
    "C restrict": c_restrict,
    "roof": roof,
}
