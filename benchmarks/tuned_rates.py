"""What `fastlr.tune_lr` finds beside a grid of 40 rates, and its cost: python benchmarks/tuned_rates.py [--help].

Networks learn scikit-learn's small sets of real data; the score is the accuracy (higher is better) or the loss (lower
is better) on rows that are not trained on, the mean over seeds of weights and order. The full budget is 270 updates. A
rate is found if its score is within 1 % of the best on the grid, which stands on the same range.
"""
from __future__ import annotations

import argparse
import math
import os
from typing import Any, NamedTuple

import numpy as np
from rate_problems import Problem, Training

import fastlr

LOW, HIGH, POINTS, BUDGET = 1e-5, 10.0, 40, 270


class Task(NamedTuple):
    data: str
    network: str
    optimizer: str
    score: str          # "accuracy" or "loss"


TASKS = tuple(Task(*triple, score) for score in ("accuracy", "loss") for triple in (
    ("digits", "32-relu", "sgd"), ("digits", "64-32-tanh", "adamw"), ("wine", "16-sigmoid", "momentum"),
    ("wine", "32-relu", "adam"), ("breast_cancer", "32-tanh", "rmsprop"), ("breast_cancer", "16-sigmoid", "adagrad"),
    ("iris", "32-tanh", "adam"), ("diabetes", "64-32-relu", "sgd")))


class Train:
    """One task as `tune_lr` wants it; it can be sent to another process."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, lr: float, budget: int, seed: int) -> float:
        one = Training(Problem(*self.task[:3]), lr, seed)
        with np.errstate(all="ignore"):
            if not all(map(math.isfinite, one.steps(seed + 10, budget))):
                return math.nan
            return one.model.accuracy(*one.valid) if self.task.score == "accuracy" else one.model.loss(one.valid)

    @property
    def mode(self) -> Any:
        return "max" if self.task.score == "accuracy" else "min"


def on_grid(train: Train, seeds: int) -> dict[float, float]:
    """The mean score of each rate of the grid; NaN where a seed diverged."""
    return {float(lr): float(np.mean([train(float(lr), BUDGET, seed) for seed in range(seeds)]))
            for lr in np.geomspace(LOW, HIGH, POINTS)}


def within_one_percent(found: float, best: float, mode: str) -> bool:
    return found >= 0.99 * best if mode == "max" else found <= 1.01 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="of each rate, in the search and on the grid; default: 3")
    seeds = parser.parse_args().seeds
    fastlr.set_num_threads(1)
    print(f"{'data':14}{'network':12}{'optimizer':10}{'score':9}{'lr':>9}{'found':>9}{'grid lr':>9}{'best':>9}   cost")
    hits: dict[str, list[bool]] = {"accuracy": [], "loss": []}
    for task in TASKS:
        train = Train(task)
        scores = {lr: score for lr, score in on_grid(train, seeds).items() if math.isfinite(score)}
        best = (max if train.mode == "max" else min)(scores, key=scores.__getitem__)
        found = fastlr.tune_lr(train, LOW, HIGH, budget=BUDGET, mode=train.mode, seeds=seeds)
        hits[task.score].append(within_one_percent(found.score, scores[best], train.mode))
        print(f"{task.data:14}{task.network:12}{task.optimizer:10}{task.score:9}{found.lr:9.2g}{found.score:9.4f}"
              f"{best:9.2g}{scores[best]:9.4f}{found.cost / (POINTS * BUDGET * seeds):7.1%}"
              f"{'' if hits[task.score][-1] else ' *'}", flush=True)
    for score, within in hits.items():
        print(f"{score}: within 1 % on {sum(within)} of {len(within)}")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
