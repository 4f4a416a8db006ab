"""What binds Muon: python benchmarks/muon.py [--threads 2] [--rounds 5].

A step over the matrices of compare.py's transformer: fastlr's, torch's (which iterates in bfloat16), torch's with its
iteration in float32; and what NumPy's and torch's products of 512 x 512 by 512 x 2048 reach. Rounds are interleaved;
figures are the least. Give NumPy's BLAS as many threads by OPENBLAS_NUM_THREADS.
"""
from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from time import perf_counter

import peers
import torch
from compare import TRANSFORMER

import fastlr

SHAPES = [shape for shape in TRANSFORMER if len(shape) == 2]


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """torch's iteration without its cast."""
    cast = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = torch.Tensor.clone
    try:
        yield
    finally:
        torch.Tensor.bfloat16 = cast


def least(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    found = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds + 1):                            # (the first warms up)
        for name, step in steps.items():
            start = perf_counter()
            step()
            found[name] = min(found[name], perf_counter() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=fastlr.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    fastlr.set_num_threads(chosen.threads)
    params, grads = peers.shaped(SHAPES, 1), peers.shaped(SHAPES, 2)
    theirs = torch.optim.Muon(peers.torch_params(params, grads), lr=peers.LR)

    def torch_in_float32() -> None:
        with in_float32():
            theirs.step()

    steps = {"fastlr": fastlr.Muon(params, lr=peers.LR, grads=grads).step, "torch": theirs.step,
             "torch, float32": torch_in_float32}
    found = least(steps, chosen.rounds)
    for name, seconds in found.items():
        print(f"{name:16s} {seconds * 1e3:9.1f} ms   torch's / fastlr's {seconds / found['fastlr']:.2f}")

    a, b = peers.shaped([(512, 512), (512, 2048)], 3)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    u, v = x.bfloat16(), y.bfloat16()
    products = {"NumPy float32": lambda: a @ b, "torch float32": lambda: x @ y, "torch bfloat16": lambda: u @ v}
    for name, seconds in least(products, 20 * chosen.rounds).items():
        print(f"{name:16s} {2 * 512 * 512 * 2048 / seconds / 1e9:9.0f} GFLOP/s")


if __name__ == "__main__":
    main()
