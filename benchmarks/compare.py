"""fastlr beside its peers, in one run on one machine: python benchmarks/compare.py [--help].

Rounds are interleaved (every peer once, then every peer again), so that a noisy minute hits all of them;
figures are medians, with the smallest and the largest round. Each sample follows an untimed step of the same
peer, which brings back its data and lets the threads of the peer before go to sleep. A missing peer is named
and left out.
"""
from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import peers

import fastlr
from fastlr._engine.instruction_set import isa
from fastlr.optimizers.base import REGISTRY

FASTLR = ("fastlr bound", "fastlr passed")
CORES = fastlr.get_num_threads()        # what it takes by itself: the usable cores, or FASTLR_NUM_THREADS


@dataclass(frozen=True)
class Bar:
    """What the project set itself: how many times as fast as another at least, or microseconds at most."""

    text: str
    ours: str
    theirs: str = ""
    least: float = 0.0
    most: float = 0.0

    def judge(self, medians: dict[str, float]) -> str:
        if self.ours not in medians or (self.theirs and self.theirs not in medians):
            return f"bar  {self.text}: not measured"
        if self.theirs:
            figure = medians[self.theirs] / medians[self.ours]
            return judged(self.text, f"{figure:.3g}x", figure >= self.least)
        return judged(self.text, of(medians[self.ours]).strip(), medians[self.ours] * 1e6 <= self.most)


def judged(text: str, reached: str, met: bool) -> str:
    return f"bar  {text}: reached {reached} {'(met)' if met else '(MISSED)'}"


@dataclass(frozen=True)
class Workload:
    """`count` tensors of `shape`; threads = 0 is all cores."""

    name: str
    count: int
    shape: tuple[int, ...]
    threads: int
    bars: tuple[Bar, ...] = ()
    roof: bool = False


WORKLOADS = (
    Workload("1x64", 1, (64,), 1, (
        Bar("one step() of 64 elements, bound, <= 1 us", "fastlr bound", most=1),
        Bar("one step() of 64 elements, passed, <= 1 us", "fastlr passed", most=1))),
    Workload("500x64", 500, (64,), 1, (
        Bar("bound >= 100x torch fused", "fastlr bound", "torch fused", 100),
        Bar("passed >= 50x torch fused", "fastlr passed", "torch fused", 50))),
    Workload("500x1024", 500, (1024,), 0),
    Workload("100x16384", 100, (16384,), 0),
    Workload("1x200000", 1, (200_000,), 1, (
        Bar(">= 2x torch fused on one thread", "fastlr bound", "torch fused", 2),
        Bar(">= 0.95x hand-written C", "fastlr bound", "C restrict", 0.95)), roof=True),
    Workload("1x40000000", 1, (40_000_000,), 0, (
        Bar(">= 1x torch fused", "fastlr bound", "torch fused", 1),
        Bar(">= 0.93 of the roof", "fastlr bound", "roof", 0.93)), roof=True),
)


# Measuring


def race(steps: dict[str, Callable[[], object]], rounds: int, sample: float,
         patience: float = 60.0) -> dict[str, list[float]]:
    """Seconds per call in each round, for each step; a sample takes about `sample` seconds.

    At least three rounds, but none begins after `patience` seconds.
    """
    calls = {}
    for name, step in steps.items():
        for _ in range(3):
            step()
        n, took = 1, seconds(step, 1)
        while took < sample / 4:
            n *= 4
            took = seconds(step, n)
        calls[name] = max(1, round(n * sample / took))
    begin = perf_counter()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for done in range(rounds):
        if done >= 3 and perf_counter() - begin > patience:
            break
        for name, step in steps.items():
            step()
            times[name].append(seconds(step, calls[name]) / calls[name])
    return times


def seconds(step: Callable[[], object], calls: int) -> float:
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = perf_counter()
        for _ in range(calls):
            step()
        return perf_counter() - start
    finally:
        if collecting:
            gc.enable()


def ready(makers: dict[str, Callable[[], Callable[[], object]]]) -> dict[str, Callable[[], object]]:
    """The steps of those peers that can be made here."""
    steps = {}
    for name, make in makers.items():
        try:
            steps[name] = make()
        except ImportError as error:
            print(f"     {name}: left out, {error.name or error} is not installed")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"     {name}: left out, no C compiler ({error})")
    return steps


def use_threads(threads: int) -> int:
    threads = threads or CORES
    fastlr.set_num_threads(threads)
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads)
    return threads


def of(median: float) -> str:
    for unit, scale in (("s ", 1.0), ("ms", 1e3), ("us", 1e6)):
        if median * scale >= 1:
            return f"{median * scale:8.2f} {unit}"
    return f"{median * 1e9:8.1f} ns"


def table(times: dict[str, list[float]], elements: int, traffic: int) -> dict[str, float]:
    """Print a row per peer; the medians. `traffic` is bytes per element."""
    medians = {name: statistics.median(rounds) for name, rounds in times.items()}
    print(f"     {'':14s} {'median':>11s} {'min':>11s} {'max':>11s} {'ns/elem':>9s} {'GB/s':>7s} "
          f"{'/bound':>8s} {'/passed':>8s}" + ("   of roof" if "roof" in medians else ""))
    for name, median in medians.items():
        ratios = [f"{median / medians[own]:7.2f}x" if own in medians else " " * 8 for own in FASTLR]
        row = [f"{name:14s}", of(median), of(min(times[name])), of(max(times[name])),
               f"{median / elements * 1e9:9.3f}", f"{traffic * elements / median / 1e9:7.1f}", *ratios]
        share = f" {100 * medians['roof'] / median:7.1f} %" if "roof" in medians else ""
        print("    ", *row, share)
    return medians


def measure(work: Workload, rounds: int, sample: float) -> dict[str, Any]:
    """One workload: every peer."""
    threads = use_threads(work.threads)
    elements = work.count * int(np.prod(work.shape))
    print(f"\n{work.name}: AdamW, float32, {work.count} x {work.shape[0]:,}, threads = {threads}")

    def maker(name: str) -> Callable[[], Callable[[], object]]:
        return lambda: peers.PEERS[name](peers.numbers(work.count, work.shape, 1),
                                         peers.numbers(work.count, work.shape, 2), threads)

    steps = ready({name: maker(name) for name in peers.PEERS if name != "roof" or work.roof})
    times = race(steps, rounds, sample)
    medians = table(times, elements, 28)
    for bar in work.bars:
        print("    ", bar.judge(medians))
    return {"threads": threads, "elements": elements, "seconds": times,
            "bars": [bar.judge(medians) for bar in work.bars]}


# Every optimizer


def torch_variants(rule: str, params: peers.Arrays, grads: peers.Arrays) -> dict[str, Callable[[], object]]:
    """torch's class of a rule, in each of its variants for the CPU."""
    import torch

    steps = {}
    name, keywords = peers.TORCH.get(rule, ("", {}))
    for variant in ({"fused": True}, {"foreach": True}, {}):
        try:
            tensors = peers.torch_params(params, grads)
            fitting = [p for p in tensors if rule != "muon" or p.ndim == 2]
            optimizer = getattr(torch.optim, name)(fitting, lr=peers.LR, **keywords, **variant)
            optimizer.step()
        except (AttributeError, TypeError, RuntimeError):
            continue
        left = [p for p in tensors if p.ndim != 2] if rule == "muon" else []       # what torch's Muon refuses
        others = [torch.optim.AdamW(left, lr=peers.LR, fused=True)] if left else []
        steps["torch " + (next(iter(variant)) if variant else "default")] = partial(all_of, [optimizer, *others])
    return steps


def all_of(optimizers: list[Any]) -> None:
    for optimizer in optimizers:
        optimizer.step()


# 30 million elements: an embedding, and eight layers of width 512.
TRANSFORMER = [(9000, 512), *[(1536, 512), (1536,), (512, 512), (512,), (2048, 512), (2048,), (512, 2048), (512,),
                              (512,), (512,), (512,), (512,)] * 8, (512,), (512,)]


#: Which take minutes for a step of that many elements: only where they are asked for by name.
SLOW = ("shampoo", "soap")
PATIENCE = 6.0                         # seconds for the rounds of one rule


@dataclass(frozen=True)
class Table:
    """Every optimizer over `shapes`; how many times as fast as torch's it should be where that has no fused one."""

    name: str
    shapes: list[tuple[int, ...]]
    threads: int
    least: float
    least_muon: float


TABLES = (Table("500x64", [(8, 8)] * 500, 1, 50, 50), Table("transformer", TRANSFORMER, 0, 3, 1))


def stepping(rule: str, params: peers.Arrays, grads: peers.Arrays) -> tuple[fastlr.Optimizer, Callable[[], object]]:
    """An optimizer, and one of its steps."""
    opt = fastlr.create_optimizer(rule, params, lr=peers.LR, grads=grads)
    if rule == "sophia":
        opt.step(curvature=[g * g for g in grads])
    return opt, partial(opt.step, loss=1.0) if opt.needs_loss else opt.step


def measure_table(table: Table, pattern: str, rounds: int, sample: float) -> dict[str, Any]:
    """Each optimizer beside torch's class of the same rule, its fastest variant."""
    results: dict[str, Any] = {}
    threads = use_threads(table.threads)
    elements = sum(math.prod(shape) for shape in table.shapes)
    print(f"\n{table.name}: every optimizer, float32, {len(table.shapes)} tensors of {elements:,} elements, "
          f"threads = {threads}")
    print(" " * 34, f"fastlr {'ns/elem':>9s} {'torch':>11s} {'variant':8s} torch / fastlr")
    first, grads = peers.shaped(table.shapes, 1), peers.shaped(table.shapes, 2)
    ratios: dict[str, float] = {}
    for rule in fastlr.list_optimizers(pattern):
        if rule in SLOW and elements > 1e6 and rule != pattern:
            print(f"     {rule:24s} left out, a step takes minutes (--optimizers {rule})")
            continue
        params = [p.copy() for p in first]
        steps = {"fastlr": stepping(rule, params, grads)[1]}
        try:
            steps |= torch_variants(rule, params, grads)
        except ImportError:
            pass
        times = race(steps, rounds, sample, PATIENCE)
        medians = {name: statistics.median(x) for name, x in times.items()}
        own = medians.pop("fastlr")
        best = min(medians, key=medians.__getitem__, default="")
        print(f"     {rule:24s} {of(own)} {own / elements * 1e9:9.3f}",
              f"{of(medians[best])} {best[6:]:8s} {medians[best] / own:.2f}x" if best else "   no class",
              flush=True)
        if best and "torch fused" not in medians:
            ratios[rule] = medians[best] / own
        results[f"{rule} {table.name}"] = {"threads": threads, "seconds": times}
    muon = {rule: ratios.pop(rule) for rule in ("muon",) if rule in ratios}
    for text, least, found in ((f"torch's without a fused one: >= {table.least:g}x", table.least, ratios),
                               (f"Muon: >= {table.least_muon:g}x", table.least_muon, muon)):
        if found:
            worst = min(found, key=found.__getitem__)
            bar = judged(text, f"{found[worst]:.3g}x ({worst})", found[worst] >= least)
            results.setdefault(f"{table.name} bars", []).append(bar)
            print("    ", bar)
    return results


def in_turns(first: Callable[[], object], second: Callable[[], object], pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of single calls of two steps in turn, begun and ended by the second, so that each has two beside it."""
    for step in (first, second, first):
        step()
    around, times = [seconds(second, 1)], []
    for _ in range(pairs):
        times.append(seconds(first, 1))
        around.append(seconds(second, 1))
    return times, around


def in_cache(rule: str, samples: int = 400, elements: int = 16_384) -> float:
    """Seconds an element on one thread, the least of many short samples: what arithmetic takes, or the caches."""
    p, g = peers.numbers(2, (elements,), 1)
    _, step = stepping(rule, [p], [g])
    fastlr.set_num_threads(1)
    step()
    return min(seconds(step, 1) for _ in range(samples)) / elements


def measure_roofs(pattern: str, pairs: int, elements: int = 40_000_000, least: float = 0.8) -> dict[str, Any]:
    """Each elementwise rule beside a loop in C that moves its bytes, over the same arrays.

    Steps of both take turns, and each of the rule's is compared with the mean of the roof's before and after it; the
    median of these ratios leaves out what a neighbour's minute does to one of them. What binds is arithmetic, where a
    thread's share takes longer in cache than the roof does, else memory.
    """
    results: dict[str, Any] = {}
    threads = use_threads(0)
    print(f"\nroof: every elementwise rule, float32, {elements:,} elements, threads = {threads}; "
          "in cache on one, 16,384")
    print(" " * 34, f"fastlr {'ns/elem':>9s} {'bytes':>6s} {'GB/s':>7s} {'roof':>11s}   of roof    in cache  binds")
    p, g = peers.numbers(2, (elements,), 1)
    shares: dict[str, float] = {}
    computing = []
    for rule in fastlr.list_optimizers(pattern):
        if REGISTRY[rule].kind != "elementwise" or REGISTRY[rule].reduces:
            continue
        cached = in_cache(rule)
        fastlr.set_num_threads(threads)
        opt, step = stepping(rule, [p], [g])
        # (ASGD's mean lies still before t0, a million updates away)
        slots = [opt.state["0"][slot] for slot in opt.slots if opt.state["0"].get("averaging", 1)]
        steps = ready({"roof": lambda slots=slots: peers.bytes_only([[g], [p], *[[x] for x in slots]], threads)})
        times, around = in_turns(step, steps.get("roof", step), pairs)
        own, roof, moved = statistics.median(times), statistics.median(around), 4 * (3 + 2 * len(slots))
        row = f"{rule:24s} {of(own)} {own / elements * 1e9:9.3f} {moved:6d} {moved * elements / own / 1e9:7.1f}"
        if steps:
            share = statistics.median((x + y) / 2 / t for x, t, y in zip(around, times, around[1:], strict=False))
            shares[rule] = share
            computing += [rule] if cached / threads > roof / elements else []
            row += f" {of(roof)} {100 * share:7.1f} % {cached * 1e9:8.3f} ns  " \
                   + ("arithmetic" if rule in computing else "memory")
        print("    ", row, flush=True)
        results[f"{rule} roof"] = {"threads": threads, "seconds": {"fastlr": times, "roof": around},
                                   "in cache, one thread, an element": cached}
        if not np.isfinite(p[:1000]).all():
            p[...] = g
    low = [f"{rule} {share:.2f}{' (arithmetic)' if rule in computing else ''}"
           for rule, share in sorted(shares.items(), key=lambda x: x[1]) if share < least]
    if shares:
        bar = judged(f"every elementwise rule >= {least} of its roof, unless arithmetic binds",
                     f"{min(shares.values()):.2f}" + (f" ({', '.join(low)})" if low else ""),
                     all(name.endswith("(arithmetic)") for name in low))
        results["roof bars"] = [bar]
        print("    ", bar)
    return results


# Schedules and import


def measure_schedules(rounds: int, sample: float) -> dict[str, Any]:
    """One value, a million values; torch's scheduler for one."""
    print("\nschedules: cosine over a million updates")
    value = fastlr.schedules.cosine(1e-3, steps=1_000_000)
    instants = np.arange(1_000_000)
    steps: dict[str, Callable[[], object]] = {
        "fastlr s(t)": partial(value, 5000), "fastlr s(1e6)": partial(value, instants)}
    try:
        import torch

        warnings.filterwarnings("ignore", "Detected call of")
        inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
        steps["torch step()"] = torch.optim.lr_scheduler.CosineAnnealingLR(inner, 1_000_000).step
    except ImportError:
        print("     torch step(): left out, torch is not installed")
    times = race(steps, rounds, sample)
    medians = {name: statistics.median(x) for name, x in times.items()}
    for name, median in medians.items():
        print(f"     {name:14s} {of(median)} {of(min(times[name]))} {of(max(times[name]))}")
    bars = (Bar("one value <= 0.2 us", "fastlr s(t)", most=0.2),
            Bar("a million values <= 20 ms", "fastlr s(1e6)", most=20_000))
    for bar in bars:
        print("    ", bar.judge(medians))
    return {"seconds": times, "bars": [bar.judge(medians) for bar in bars]}


def measure_import(rounds: int) -> dict[str, Any]:
    """`import fastlr` beside `import numpy`, each in a fresh process."""
    times: dict[str, list[float]] = {"numpy": [], "fastlr": []}
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}       # an installed package has its bytecode
    for _ in range(rounds + 1):
        for name, found in times.items():
            code = f"from time import perf_counter as now; a = now(); import {name}; print(now() - a)"
            found.append(float(subprocess.check_output([sys.executable, "-P", "-c", code], env=environment)))
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}   # (the first warms up)
    more, least = medians["fastlr"] - medians["numpy"], min(times["fastlr"]) - min(times["numpy"])
    bar = judged("import fastlr <= NumPy + 30 ms", f"+ {more * 1e3:.1f} ms (by minima + {least * 1e3:.1f} ms)",
                 more <= 0.03)
    print(f"\nimport, median and min of {rounds}")
    for name, median in medians.items():
        print(f"     {name:14s} {of(median)} {of(min(times[name]))}")
    print("    ", bar)
    return {"seconds": times, "bars": [bar]}


# The run


def header() -> dict[str, Any]:
    found = {}
    for package in ("fastlr-core", "numpy", "torch", "jax", "optax"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    facts = {"cpu": cpu, "cores": CORES, "load": round(os.getloadavg()[0], 2), "isa": isa,
             "python": platform.python_version(), **found, "cflags": " ".join(peers.CFLAGS)}
    print("\n".join(f"{name:12s} {value}" for name, value in facts.items()))
    print("threads      the same for fastlr, torch and C; jax takes all cores, NumPy one")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 10 ms samples, not 11 of 50 ms")
    parser.add_argument("--rounds", type=int, help="how often each peer is measured")
    parser.add_argument("--workload", metavar="NAME", help=f"one (or a pattern) of: "
                        f"{', '.join(w.name for w in WORKLOADS)}, schedules, import, none")
    parser.add_argument("--optimizers", metavar="PATTERN", nargs="?", const="*",
                        help="also every optimizer (or those of a pattern) beside torch's")
    parser.add_argument("--tables", metavar="PATTERN", default="*",
                        help="which tables of optimizers: 500x64, transformer, roof")
    parser.add_argument("--json", metavar="FILE", help="write every round's figure")
    chosen = parser.parse_args()
    rounds = chosen.rounds or (3 if chosen.quick else 11)
    sample = 0.01 if chosen.quick else 0.05
    wanted = chosen.workload or "*"
    results: dict[str, Any] = {"machine": header(), "workloads": {}}
    found = results["workloads"]
    for work in WORKLOADS:
        if fnmatch(work.name, wanted):
            found[work.name] = measure(work, rounds, sample)
    if fnmatch("schedules", wanted):
        found["schedules"] = measure_schedules(rounds, sample)
    if fnmatch("import", wanted):
        found["import"] = measure_import(3 if chosen.quick else 15)
    if chosen.optimizers:
        for kind in TABLES:
            if fnmatch(kind.name, chosen.tables):
                found |= measure_table(kind, chosen.optimizers, rounds, sample)
        if fnmatch("roof", chosen.tables):
            found |= measure_roofs(chosen.optimizers, chosen.rounds or (9 if chosen.quick else 25))
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
