"""Steps of `fastlr.torch` beside torch's own, in one run: `python benchmarks/torch_steps.py`.

Each round takes one optimizer after the other, for some steps in a row, as training does: the caches have what that one
model needs. Before each step, a backward pass makes fresh gradients after `zero_grad(set_to_none=True)`. Timed is what
the row says. Shown are medians over all rounds, and the median of the rounds' ratios.
"""
import argparse
import json
import statistics
import time

import torch

import fastlr
import fastlr.torch

POLICY = [(64, 8), (64,), (64, 64), (64,), (4, 64), (4,)] * 2          # actor and critic of a small control task
IN_A_ROW = 6
TRANSFORMER = [(1000, 1000)] * 40
MATRICES = [(768, 768)] * 16 + [(768, 3072)] * 5 + [(3072, 768)] * 4   # 30 million, of a transformer


def clipped(opt, params, own):
    """What is timed behind the backward pass: gradients clipped by their norm, and the step."""
    def run():
        if not own:
            torch.nn.utils.clip_grad_norm_(params, 0.5)
        opt.step()

    return run


def contestants(shapes, clip, of_matrices):
    """The same parameters for each: its name, its parameters, what is timed before and behind the backward pass."""
    kinds = {"fastlr": (fastlr.torch.AdamW, {"clip_norm": 0.5} if clip else {}),
             "torch fused": (torch.optim.AdamW, {"fused": True}), "torch": (torch.optim.AdamW, {})}
    if of_matrices:
        kinds = {"fastlr": (fastlr.torch.Muon, {}), "torch": (torch.optim.Muon, {})}
    for name, (cls, keywords) in kinds.items():
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape) * 0.1) for shape in shapes]
        opt = cls(params, lr=1e-3, **keywords)
        yield name, params, opt, clipped(opt, params, name == "fastlr") if clip else opt.step


def measure(shapes, clip, rounds, of_matrices=False):
    """Seconds of each contestant, by round: the median of its steps in a row but the first."""
    made = list(contestants(shapes, clip, of_matrices))
    pulls = [torch.randn(shape) * 1e-2 for shape in shapes]
    times = {name: [] for name, *_ in made}
    for turn in range(rounds + 1):
        for name, params, opt, step in made:
            taken = []
            for _ in range(IN_A_ROW):
                begun = time.perf_counter()
                opt.zero_grad(set_to_none=True)
                zero = time.perf_counter() - begun
                torch.autograd.backward([(param * pull).sum() for param, pull in zip(params, pulls, strict=True)])
                begun = time.perf_counter()
                step()
                took = time.perf_counter() - begun
                taken.append(took + zero if clip else took)
            if turn:                   # (state is made in the first)
                times[name].append(statistics.median(taken[1:]))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=fastlr.get_num_threads())
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    fastlr.set_num_threads(given.threads)
    torch.set_num_threads(given.threads)
    cases = {"500 tensors of 64, step": ([(64,)] * 500, False, given.rounds),
             "policy network of 12 tensors, zero + clip + step": (POLICY, True, 3 * given.rounds),
             "40 tensors of a million, step": (TRANSFORMER, False, max(5, given.rounds // 5)),
             "Muon, 25 matrices of 30 million, step": (MATRICES, False, max(3, given.rounds // 8), True)}
    rows = {}
    for name, case in cases.items():
        times = measure(*case)
        row = {who: statistics.median(took) * 1e6 for who, took in times.items()}
        for who in [who for who in times if who != "fastlr"]:
            row[f"{who} / fastlr"] = statistics.median(
                theirs / ours for theirs, ours in zip(times[who], times["fastlr"], strict=True))
        rows[name] = row
    if given.json:
        print(json.dumps({"torch": torch.__version__, "threads": given.threads, "rows": rows}, indent=1))
        return
    print(f"AdamW and Muon, torch {torch.__version__}, {given.threads} threads, microseconds")
    print("| | fastlr.torch | torch, fused | torch | fused / fastlr | torch / fastlr |\n|---|---|---|---|---|---|")
    columns = {"fastlr": ",.0f", "torch fused": ",.0f", "torch": ",.0f", "torch fused / fastlr": ".2f",
               "torch / fastlr": ".2f"}
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(format(row[column], form) if column in row else "" for column, form in
                                          columns.items()) + " |")


if __name__ == "__main__":
    main()
