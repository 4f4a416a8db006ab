"""A whole step in one pass beside the same in torch: python benchmarks/stages.py [elements].

Unscale, clip by the global norm, AdamW, a running mean of the parameters, a bfloat16 copy, zeroed gradients: float32,
30 million elements, all cores. torch does it as its users would, with the fused AdamW and with the default one. Rounds
are interleaved; figures are medians; the roof reads and writes the bytes that one pass must, and does nothing else.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import peers
from compare import Bar, race, ready, table, use_threads

import fastlr

SCALE, CLIP, KEEP = 1024.0, 1.0, 0.999
BARS = (Bar(">= 1.5x torch with its fused AdamW", "fastlr bound", "torch fused", 1.5),
        Bar(">= 2.5x torch with its default AdamW", "fastlr bound", "torch default", 2.5))


def ours(params: peers.Arrays, grads: peers.Arrays, zero: bool) -> Callable[[], object]:
    opt = fastlr.AdamW(params, peers.LR, weight_decay=peers.DECAY, grads=grads, clip_norm=CLIP, ema_decay=KEEP,
                       shadow="bfloat16")
    return lambda: opt.step(grad_scale=SCALE, zero_grads=zero)


def torchs(params: peers.Arrays, grads: peers.Arrays, **variant: bool) -> Callable[[], object]:
    import torch

    tensors = peers.torch_params(params, grads)
    gradients = [tensor.grad for tensor in tensors]
    opt = torch.optim.AdamW(tensors, peers.LR, weight_decay=peers.DECAY, **variant)
    means = [tensor.detach().clone() for tensor in tensors]
    copies = [tensor.detach().to(torch.bfloat16) for tensor in tensors]

    def step() -> None:
        with torch.no_grad():
            torch._foreach_mul_(gradients, 1 / SCALE)
            torch.nn.utils.clip_grad_norm_(tensors, CLIP)
            opt.step()
            torch._foreach_lerp_(means, tensors, 1 - KEEP)
            torch._foreach_copy_(copies, tensors)
            torch._foreach_zero_(gradients)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("elements", nargs="?", type=int, default=30_000_000, help="default: 30 million")
    elements = parser.parse_args().elements
    threads = use_threads(0)
    print(f"unscale, clip, AdamW, running mean, copy, zero: float32, {elements:,} elements, threads = {threads}")
    arrays = (peers.numbers(1, (elements,), 1), peers.numbers(1, (elements,), 2))

    def maker(make: Callable[..., Callable[[], object]], **keywords: bool) -> Callable[[], Callable[[], object]]:
        return lambda: make(*([x.copy() for x in each] for each in arrays), **keywords)

    steps = ready({
        "fastlr bound": maker(ours, zero=True),
        "torch fused": maker(torchs, fused=True),
        "torch default": maker(torchs, foreach=False),
        "roof": maker(partial(peers.roof, threads=threads)),
    })
    # (a pass to measure the gradient 4, then 28 as without stages, 8 for the mean, 2 for the copy, 4 for the zeros)
    times = race(steps, rounds=9, sample=0.1)
    if "roof" in times:          # (it moves 28 bytes an element)
        times["roof"] = [took * 46 / 28 for took in times["roof"]]
    medians = table(times, elements, 46)
    for bar in BARS:
        print("    ", bar.judge(medians))
    if not np.isfinite(arrays[0][0]).all():
        raise SystemExit("the numbers are not")


if __name__ == "__main__":
    main()
