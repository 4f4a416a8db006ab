"""Steps over 10,000 rows of a 1,000,000 x 64 float32 table, beside torch's sparse optimizers: one run, interleaved.

    python benchmarks/rows.py [rows of the table]
    python benchmarks/rows.py --catch-up [rows of the table]

The second compares steps over 1,000 rows with `catch_up_rows` to those without and to whole steps: at 1,000 and 4,000
updates, of rows that were touched uniformly since the first, and what `catch_up()` of all rows takes then.

needs torch, else it shows fastlr alone. "uniform" indices hardly repeat, "skewed" ones (Zipf, exponent 1.1, as words
and users come) do. torch is given its gradient as a sparse tensor of the same indices and values, made beforehand.
Before its timed steps each takes a rest and an untimed one, so that the threads of the other have gone to sleep.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastlr

ROUNDS, BATCHES, GIVEN, WIDTH = 15, 8, 10_000, 64
BAR = 10.0
REST = 0.05                          # seconds
TOUCHED, UPDATES = 1_000, (1_000, 4_000)
CATCHING_UP: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}), ("AdaGrad", {}), ("Momentum", {}), ("Adam", {}), ("AdamW", {}), ("AMSGrad", {})]

Batch = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

#: ours: (torch's, whether there is a bar)
PEERS = {"Adam": ("SparseAdam", True), "AdaGrad": ("Adagrad", True), "SGD": ("SGD", False), "RMSprop": (None, False),
         "Momentum": (None, False), "RowwiseAdaGrad": ("Adagrad", False)}


def batches(length: int, skewed: bool) -> list[Batch]:
    random = np.random.default_rng(1)
    found = []
    for _ in range(BATCHES):
        rows = random.zipf(1.1, GIVEN) * 48271 % length if skewed else random.integers(0, length, GIVEN)
        found.append((rows, random.standard_normal((GIVEN, WIDTH), dtype=np.float32)))
    return found


def table(length: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((length, WIDTH), dtype=np.float32)


def fastlr_steps(name: str, length: int, given: list[Batch]) -> Callable[[int], object]:
    step = getattr(fastlr, name)({"table": table(length)}, lr=1e-3).step_rows
    return lambda k: step("table", *given[k])


def torch_steps(name: str, length: int, given: list[Batch]) -> Callable[[int], object]:
    import torch

    torch.sparse.check_sparse_tensor_invariants.disable()
    p = torch.nn.Parameter(torch.from_numpy(table(length)))
    opt = getattr(torch.optim, name)([p], lr=1e-3)
    grads = [torch.sparse_coo_tensor(torch.from_numpy(rows)[None], torch.from_numpy(g), p.shape) for rows, g in given]

    def step(k: int) -> None:
        p.grad = grads[k]
        opt.step()

    return step


def timed(call: Callable[..., object], *arguments: Any) -> float:
    begin = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begin


def catch_up(length: int) -> None:
    """Steps of rows that catch up, beside those of rows that do not, and whole steps."""
    print(f"{length:,} x {WIDTH} float32, {TOUCHED:,} rows a step, {fastlr.get_num_threads()} threads")
    random = np.random.default_rng(1)
    grads = random.standard_normal((TOUCHED, WIDTH), dtype=np.float32)
    whole = {"table": np.zeros((length, WIDTH), np.float32)}

    def rows() -> Any:                             # (others in each step)
        return random.integers(0, length, TOUCHED)

    for name, hyper in CATCHING_UP:
        cls = getattr(fastlr, name)
        dense, lazy = (cls({"table": table(length)}, lr=1e-3, **hyper) for _ in range(2))
        opt = cls({"table": table(length)}, lr=1e-3, catch_up_rows=1 << 20, **hyper)
        dense.step(whole)                          # (which touches the pages of the state)
        times = {"whole": statistics.median(timed(dense.step, whole) for _ in range(5))}
        times["lazy"] = statistics.median(timed(lazy.step_rows, "table", rows(), grads) for _ in range(100))
        for until in UPDATES:
            while opt.t < until:
                opt.step_rows("table", rows(), grads)
            times[f"catching up after {until:,}"] = statistics.median(
                timed(opt.step_rows, "table", rows(), grads) for _ in range(BATCHES))
        times["catch_up()"] = timed(opt.catch_up)
        print(f"  {name:10s}" + ",  ".join(f"{what} {took * 1e3:.3f} ms" for what, took in times.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--catch-up", action="store_true", help="rows that catch up, beside whole steps")
    parser.add_argument("length", nargs="?", type=int, default=1_000_000, metavar="rows", help="default: a million")
    arguments = parser.parse_args()
    length = arguments.length
    if arguments.catch_up:
        catch_up(length)
        return
    print(f"{length:,} x {WIDTH} float32, {GIVEN:,} rows a step, {fastlr.get_num_threads()} threads")
    for kind in ("uniform", "skewed"):
        given = batches(length, kind == "skewed")
        distinct = statistics.mean(np.unique(rows).size for rows, _ in given)
        print(f"{kind}: {distinct:,.0f} different rows a step")
        for ours, (theirs, barred) in PEERS.items():
            steps = {"fastlr": fastlr_steps(ours, length, given)}
            try:
                steps |= {"torch": torch_steps(theirs, length, given)} if theirs else {}
            except ImportError as error:
                print(f"  (no torch: {error})")
            times: dict[str, list[float]] = {name: [] for name in steps}
            for r in range(ROUNDS + 1):
                for name, step in steps.items():
                    time.sleep(REST)               # (torch's threads spin for a while after its step)
                    step(BATCHES - 1)
                    for k in range(BATCHES):
                        begin = time.perf_counter()
                        step(k)
                        if r:                      # (the first round touches the pages of the state)
                            times[name].append(time.perf_counter() - begin)
            medians = {name: statistics.median(found) for name, found in times.items()}
            line = f"  {ours:10s} {medians['fastlr'] * 1e3:8.3f} ms (min {min(times['fastlr']) * 1e3:.3f})"
            if "torch" in times:
                ratio = medians["torch"] / medians["fastlr"]
                line += f"   torch {theirs:10s} {medians['torch'] * 1e3:8.2f} ms (min {min(times['torch']) * 1e3:.2f})"
                line += f"   {ratio:5.1f}x"
                line += f"  bar {BAR:g}x {'met' if ratio >= BAR else 'MISSED'}" if barred else ""
            print(line, flush=True)


if __name__ == "__main__":
    main()
