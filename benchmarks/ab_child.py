"""A process that `ab.py` and `release.py` measure with: it answers requests, a line of JSON each, until there are none.

    python ab_child.py PAIR [MODULE [ARGUMENT]]   requests come on the standard input, answers go to the standard output
    python ab_child.py --count NAMES [MODULE]     under callgrind: every workload between two calls of ctermid
                                                  (`ab_counts.py`)

MODULE, `ab_workloads` unless given, has a function `workloads([ARGUMENT])`: what makes the call of each workload.
"""
from __future__ import annotations

import gc
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from itertools import repeat
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

Call = Callable[[], object]

CALIBRATED = 5e-4            # seconds: the shortest time from which calls are counted
PERIOD = 10                  # some rules do more every ten steps, so ten calls stand together where they are short
SHORT = 0.02                 # seconds that ten such calls may take


def about() -> dict[str, Any]:
    """Which build this is."""
    import numpy as np

    import fastlr

    folder = Path(fastlr.__file__).parent
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    try:
        version = distribution("fastlr-core").version
    except PackageNotFoundError:
        version = "?"
    return {"folder": str(folder), "version": version, "size": size, "python": platform.python_version(),
            "numpy": np.__version__, "threads": fastlr.get_num_threads()}


def run(call: Call, calls: int, now: Callable[[], float]) -> float:
    begin = now()
    for _ in repeat(None, calls):
        call()
    return now() - begin


class Measuring:
    """The workload at hand."""

    def __init__(self, module: str = "ab_workloads", *arguments: str) -> None:
        self.module = import_module(module)
        self.workloads = self.module.workloads(*arguments)
        # With one thread a process's own time leaves out what others take of the core; with more it would add threads.
        self.now = process_time if os.environ["FASTLR_NUM_THREADS"] == "1" else perf_counter
        self.call: Call = gc.collect
        self.calls = 1

    def list(self) -> list[str]:
        return list(self.workloads)

    def facts(self) -> dict[str, Any]:
        """What the module of the workloads knows of this build without timing, as bytes of state."""
        found: dict[str, Any] = self.module.facts()
        return found

    def make(self, name: str) -> dict[str, Any]:
        """Make a workload, warm it up, and say how long a call takes; and what a call does, where that is known."""
        self.call = gc.collect                          # (what was before is freed)
        gc.collect()
        try:
            self.call = self.workloads[name]()
            for _ in range(3):
                self.call()
        except Exception as error:
            return {"lacks": f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"}
        calls, took = 1, run(self.call, 1, self.now)
        while took < CALIBRATED:
            calls *= 4
            took = run(self.call, calls, self.now)
        return {"seconds": took / calls} | getattr(self.workloads[name], "facts", {})

    def sample(self, calls: int, batches: int) -> float:
        """Seconds a call, in the shortest of some batches: what an interrupt lengthens is left out."""
        gc.disable()
        try:
            return min(run(self.call, calls, self.now) for _ in range(batches)) / calls
        finally:
            gc.enable()


def batched(seconds: float, sample: float) -> tuple[int, int]:
    """(calls a batch, batches) of a sample that takes about so long; `seconds` is of the slower build's call."""
    calls = max(1, math.ceil(sample / 5 / seconds))
    if PERIOD * seconds < SHORT:
        calls = math.ceil(calls / PERIOD) * PERIOD
    return calls, max(2, min(5, round(sample / (calls * seconds))))


def answer(pair: int, *module: str) -> None:
    """Requests, until there are none. What anything else prints goes to the error output.

    Objects of random sizes, the same in both processes of a pair, move what comes after them: where it lies should not
    be the same in every pair.
    """
    random = Random(pair)
    _kept = [bytes(random.randrange(500)) for _ in range(1000)]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if cores and os.environ["FASTLR_NUM_THREADS"] == "1":
        os.sched_setaffinity(0, cores[-1:])             # (both builds on one core, so that both have the same one)
    measuring = Measuring(*module)
    known: dict[str, Callable[..., Any]] = {"about": about, "list": measuring.list, "facts": measuring.facts,
                                            "make": measuring.make, "sample": measuring.sample}
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps(known[what](*arguments)), file=replies, flush=True)


QUICK = 0.8                  # seconds under callgrind, of the processor: 20 million instructions, about


def count(names: list[str], module: str = "ab_workloads") -> None:
    """Run workloads between marks; say on the output which enclose what: process, index of the first, name, calls.

    Each workload has a process of its own, forked from one that has imported all: what others leave in memory and in
    the interpreter's caches moved a call of 3,000 instructions by 90.
    """
    marks = 0

    def between(name: str, call: Call | None, times: int) -> None:
        nonlocal marks
        gc.disable()
        os.ctermid()
        if call is None:
            for _ in repeat(None, times):
                pass
        else:
            for _ in repeat(None, times):
                call()
        os.ctermid()
        gc.enable()
        print(json.dumps([os.getpid(), marks, name, times]), flush=True)
        marks += 2

    def alone(name: str) -> None:
        call = made[name]()
        begin = process_time()
        call()
        quick = process_time() - begin < QUICK
        for _ in range(2 * PERIOD if quick else 0):         # (Python specialises a function in its first calls)
            call()
        between(name, call, PERIOD if quick else 1)

    import numpy  # noqa: F401

    for times in (PERIOD, 1):                    # (the loop and the marks themselves)
        between("", None, times)
    if "import/fastlr after numpy" in names:
        between("import/fastlr after numpy", lambda: __import__("fastlr"), 1)
    made = import_module(module).workloads()
    marks = 0                                    # (callgrind numbers the dumps of a forked process from 1 again)
    os.ctermid()                                 # (nor does its first dump hold what was counted before)
    for name in names:
        if name in made:
            if not (child := os.fork()):
                try:
                    alone(name)
                except Exception:
                    pass
                finally:
                    os._exit(0)
            os.waitpid(child, 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--count"]:
        count(json.loads(sys.argv[2]), *sys.argv[3:])
    elif sys.argv[1:] and sys.argv[1].isdigit():
        answer(int(sys.argv[1]), *sys.argv[2:])
    else:
        print(f"usage: {Path(__file__).name} [PAIR | --count NAMES] [MODULE [ARGUMENT]]\n\n{__doc__}")
        sys.exit(0 if "--help" in sys.argv else 2)
