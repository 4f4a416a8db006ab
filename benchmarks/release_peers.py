"""What `release.py` measures beside fastlr, under the same names: torch, optax, NumPy, a loop in C, and the roof.

`workloads(peer)` has the workloads of one of them. Each is measured in a process of its own, on one thread.

- torch: its class of the same rule with `fused=True`, where the class has that on a CPU, else as it is by default
- optax: a jitted update with donated arrays
- NumPy: AdamW by NumPy's functions, without a temporary array
- C: AdamW as a C programmer would write it (peer.c, compiled with -march=native)
- roof: a loop in C that moves the same bytes as a step, with next to no arithmetic
"""
from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from peers import TORCH, bytes_only, c_restrict, numpy_loop

Call = Callable[[], object]
Make = Callable[[], Call]

PEERS = ("torch", "optax", "NumPy", "C", "roof")
MANY, CACHED, MEMORY = 500, 16_384, 64_000_000          # as in release_workloads.py

#: optax's function for each rule; what it is called with beside the rate.
OPTAX: dict[str, tuple[str, dict[str, Any]]] = {
    "adabelief": ("adabelief", {}), "adadelta": ("adadelta", {}), "adafactor": ("adafactor", {}),
    "adagrad": ("adagrad", {}), "adam": ("adam", {}), "adamax": ("adamax", {}), "adamw": ("adamw", {}),
    "adan": ("adan", {}), "amsgrad": ("amsgrad", {}), "fromage": ("fromage", {}), "lamb": ("lamb", {}),
    "lars": ("lars", {}), "lion": ("lion", {}), "momentum": ("sgd", {"momentum": 0.9}), "nadam": ("nadam", {}),
    "nadamw": ("nadamw", {}), "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}), "novograd": ("novograd", {}),
    "radam": ("radam", {}), "rmsprop": ("rmsprop", {}), "rprop": ("rprop", {}), "sgd": ("sgd", {}),
    "signsgd": ("sign_sgd", {}), "sm3": ("sm3", {}), "yogi": ("yogi", {}),
}


def numbers(count: int, shape: tuple[int, ...], dtype: str, seed: int) -> list[Any]:
    block = np.random.default_rng(seed).standard_normal(65_536).astype(dtype)
    return [np.resize(np.roll(block, k), shape) for k in range(count)]


def torch_step(rule: str, count: int, shape: tuple[int, ...], dtype: str) -> Call:
    import torch

    torch.set_num_threads(1)
    name, keywords = TORCH[rule]
    tensors = [torch.nn.Parameter(torch.from_numpy(a)) for a in numbers(count, shape, dtype, 1)]
    for tensor, g in zip(tensors, numbers(count, shape, dtype, 2), strict=True):
        tensor.grad = torch.from_numpy(g)
    for variant in ({"fused": True}, {}):
        try:
            opt = getattr(torch.optim, name)(tensors, lr=1e-6, **keywords, **variant)
            opt.step()
        except (TypeError, RuntimeError):
            continue
        return opt.step
    raise ImportError(f"this torch has no {name}")


def optax_step(rule: str, count: int, shape: tuple[int, ...], dtype: str) -> Call:
    import jax
    import optax

    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    name, keywords = OPTAX[rule]
    made = getattr(optax, name)(1e-6, **keywords)

    def update(p: Any, state: Any, g: Any) -> Any:
        moves, state = made.update(g, state, p)
        return optax.apply_updates(p, moves), state

    jitted = jax.jit(update, donate_argnums=(0, 1))
    g = jax.device_put(numbers(count, shape, dtype, 2))
    now = [jax.device_put(numbers(count, shape, dtype, 1))]
    now.append(made.init(now[0]))

    def step() -> None:
        now[:] = jitted(now[0], now[1], g)
        jax.block_until_ready(now)

    return step


def of_adamw(make: Callable[..., Call], count: int, shape: tuple[int, ...], dtype: str) -> Call:
    return make(numbers(count, shape, dtype, 1), numbers(count, shape, dtype, 2), 1)


def roof(moved: int, count: int, shape: tuple[int, ...], dtype: str) -> Call:
    """Reads the gradient, reads and writes the parameter and the state: bytes as floats, whatever they hold."""
    words = int(np.prod(shape)) * np.dtype(dtype).itemsize // 4
    return bytes_only([numbers(count, (words,), "float32", seed) for seed in range(1, moved + 2)], 1)


def sizes(rule: str) -> dict[str, tuple[int, tuple[int, ...], str]]:
    found: dict[str, tuple[int, tuple[int, ...], str]] = {f"small/{rule}": (MANY, (8, 8), "float32")}
    for dtype in ("float32", "float64"):
        found[f"cache/{rule} {dtype}"] = (1, (CACHED,), dtype)
        found[f"memory/{rule} {dtype}"] = (1, (MEMORY // np.dtype(dtype).itemsize,), dtype)
    return found


def workloads(peer: str) -> dict[str, Make]:
    """The workloads of one peer; ImportError where it is not installed, OSError where there is no C compiler."""
    found: dict[str, Make] = {}
    if peer == "torch":
        import torch  # noqa: F401

        for rule in TORCH:
            for name, size in ({} if rule in ("muon", "adafactor") else sizes(rule)).items():
                found[name] = partial(torch_step, rule, *size)
        for count in (1, MANY):
            found[f"call/{count} x 64 passed"] = partial(torch_step, "adamw", count, (64,), "float32")
    elif peer == "optax":
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
        import optax

        for rule, (function, _) in OPTAX.items():
            if hasattr(optax, function):
                for name, size in sizes(rule).items():      # (500 arrays take minutes to compile)
                    if "float64" not in name and not name.startswith("small/"):
                        found[name] = partial(optax_step, rule, *size)
        found["call/1 x 64 passed"] = partial(optax_step, "adamw", 1, (64,), "float32")
    elif peer in ("NumPy", "C"):
        make = {"NumPy": numpy_loop, "C": c_restrict}[peer]
        for name, size in {**sizes("adamw"), "call/1 x 64 passed": (1, (64,), "float32"),
                           "call/500 x 64 passed": (MANY, (64,), "float32")}.items():
            if peer == "NumPy" or "float64" not in name:
                found[name] = partial(of_adamw, make, *size)
    elif peer == "roof":
        from release_workloads import facts

        for rule, slots in facts()["state arrays"].items():
            for name, size in sizes(rule).items():
                if slots <= 4 and not name.startswith("small/"):
                    found[name] = partial(roof, slots + 1, *size)
    else:
        raise ValueError(f"there is no peer {peer!r}")
    return found
