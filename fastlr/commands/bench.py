"""`fastlr bench`: the speed of steps and schedules on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any

from . import Refusal, at_least_one, print_json, progress

LINE = "Measure steps and schedules on this machine, the speed of memory, and torch if it is installed."
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop", "adagrad")
TORCH = {"sgd": ("SGD", {}), "momentum": ("SGD", {"momentum": 0.9}), "adam": ("Adam", {}), "adamw": ("AdamW", {}),
         "rmsprop": ("RMSprop", {}), "adagrad": ("Adagrad", {})}
SIZES = (("1 x 64", 1, 64), ("500 x 64", 500, 64), ("1 x 100,000", 1, 100_000), ("1 x 4,000,000", 1, 4_000_000))
ROUNDS, SAMPLE = 5, 0.01          # rounds, interleaved; seconds per sample


def declare(options: argparse.ArgumentParser) -> None:
    options.add_argument("--optimizers", default=",".join(OPTIMIZERS), metavar="NAMES",
                         help=f"separated by commas, * matches any text; default: {','.join(OPTIMIZERS)}")
    options.add_argument("--rounds", type=at_least_one, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print a table, or JSON of seconds."""
    import fastlr

    from ..optimizers.declaration import nearest

    names, known = [], fastlr.list_optimizers()
    for pattern in arguments.optimizers.lower().split(","):
        matching = [name for name in known if fnmatchcase(name, pattern)]
        if not matching:
            cure = nearest(pattern, known) or "; fastlr.list_optimizers() names them"
            raise Refusal(f"fastlr bench: no optimizer is called {pattern!r}{cure}", 2)
        names += [name for name in matching if name not in names]
    wanted = [(name, *size) for size in SIZES for name in names]
    steps = []
    for k, (name, size, count, elements) in enumerate(wanted, start=1):
        progress(f"{k} of {len(wanted)}: {name}, {size}")
        steps.append(row(name, size, count, elements, arguments.rounds))
    progress("copies and schedules")
    copied = copy_speed(arguments.rounds)
    evaluated = schedules(arguments.rounds)
    progress("")
    document = {"threads": fastlr.get_num_threads(), "copy_bytes_per_second": copied, "steps": steps,
                "schedules": evaluated}
    if arguments.json:
        print_json(document)
        return 0
    threads = fastlr.get_num_threads()
    print(f"one step of float32 parameters, gradients bound, {threads} thread{'s' * (threads > 1)}; "
          f"median of {arguments.rounds} round{'s' * (arguments.rounds > 1)}")
    print(f"{'tensors':15}{'optimizer':18}{'fastlr':>11}{'GB/s':>8}"
          + (f"{'torch, fused where it is':>26}" if any(step["torch"] for step in steps) else ""))
    for step in steps:
        theirs = f"{time_text(step['torch'])} ({step['torch'] / step['seconds']:.3g}x)" if step["torch"] else ""
        print(f"{step['tensors']:15}{step['optimizer']:18}{time_text(step['seconds']):>11}"
              f"{step['bytes'] / step['seconds'] / 1e9:8.1f}{theirs:>26}")
    if any(step["torch"] for step in steps):
        print("(while other programs run, torch's threads wait for each other, and it slows down more than fastlr)")
    print(f"copying 64 MB moves {copied / 1e9:.1f} GB/s (read and written); steps in a cache may be faster")
    for name, one in evaluated.items():
        print(f"{name}: {time_text(one['one'])} a value, {time_text(one['million'])} a million")
    return 0


def row(name: str, size: str, count: int, elements: int, rounds: int) -> dict[str, Any]:
    """One optimizer at one size: the medians, in seconds, and the bytes that a step reads and writes."""
    import numpy as np

    import fastlr

    def arrays() -> list[Any]:
        rng = np.random.default_rng(0)
        return [rng.standard_normal(elements, np.float32) for _ in range(count)]

    opt: Any = fastlr.create_optimizer(name, arrays(), lr=1e-6)
    opt.bind(arrays())
    if opt.needs_curvature:
        opt.step(curvature=arrays())
    calls: list[Callable[[], object]] = [partial(opt.step, loss=1.0) if opt.needs_loss else opt.step]
    of_torch = torch_step(name, arrays)
    times = interleaved(calls + ([of_torch] if of_torch else []), rounds)
    slots = sum(array.nbytes for state in opt.state.values() for array in state.values())
    moved = 3 * 4 * count * elements + 2 * slots
    return {"tensors": size, "optimizer": name, "seconds": times[0], "bytes": moved,
            "torch": times[1] if of_torch else None}


def torch_step(name: str, arrays: Callable[[], list[Any]]) -> Callable[[], object] | None:
    """One step of torch's class of the same rule; None where there is none."""
    if name not in TORCH or find_spec("torch") is None:
        return None
    import torch

    import fastlr

    torch.set_num_threads(fastlr.get_num_threads())
    kind, more = TORCH[name]
    params = [torch.from_numpy(array).requires_grad_() for array in arrays()]
    for param, gradient in zip(params, arrays(), strict=True):
        param.grad = torch.from_numpy(gradient)
    make: Any = getattr(torch.optim, kind)
    try:
        opt = make(params, lr=1e-6, fused=True, **more)
        opt.step()
    except (TypeError, RuntimeError):
        opt = make(params, lr=1e-6, **more)
    step: Callable[[], object] = opt.step
    return step


def copy_speed(rounds: int) -> float:
    """The bytes per second that a copy reads and writes."""
    import numpy as np

    source, target = np.ones(8_000_000), np.zeros(8_000_000)
    return 2 * source.nbytes / interleaved([lambda: np.copyto(target, source)], rounds)[0]


def schedules(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds for one value, and for a million."""
    import numpy as np

    from .. import schedules as s

    t = np.arange(1_000_000)
    chosen = {"constant": s.constant(1e-3), "cosine with warmup": s.cosine(1e-3, steps=1_000_000).warmup(500)}
    measured = {}
    for name, schedule in chosen.items():
        one, many = interleaved([lambda schedule=schedule: schedule(1000),              # type: ignore[misc]
                          lambda schedule=schedule: schedule(t)], rounds)        # type: ignore[misc]
        measured[name] = {"one": one, "million": many}
    return measured


def interleaved(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds per call; the calls are measured in turn, round after round."""
    counts = []
    for call in calls:
        for _ in range(3):
            call()
        start = perf_counter()
        call()
        counts.append(max(1, round(SAMPLE / max(perf_counter() - start, 1e-7))))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, count, seen in zip(calls, counts, times, strict=True):
            start = perf_counter()
            for _ in range(count):
                call()
            seen.append((perf_counter() - start) / count)
    return [median(seen) for seen in times]


def time_text(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
