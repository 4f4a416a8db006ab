"""How well do the rates that `fastlr.find_lr` suggests train? python benchmarks/suggested_rates.py [--help].

30 triples of data, network and optimizer: scikit-learn's five small sets of real data, each with six optimizers, the
networks taken in turn from six. A network is trained for 200 updates of 32 rows, at each of 13 rates from 1e-5 to 10
(two a decade), and at each suggestion; every figure is the mean over three orders of the rows. A suggestion hits if
its loss is at most 1.1 times the least on the grid. Three losses are told, because they differ:

    end    of the whole training split after the last update
    late   of the training batches, mean over the last half of the updates, as a log of the training shows it
    valid  of rows that are not trained on, the least seen at every 20th update

The rule "validated" is `find_lr` given the loss of the rows that are not trained on. "again" is no rule but the best
rate of the grid on three other orders: what chance leaves to be hit.

`find_lr` sees other orders of the rows than those it is judged on. How it works (the spacing of the trials, their
lengths, how many go on, which losses they compare, the rule without trials) was chosen on 36 other triples, of made
data: `--development` shows those.
"""
from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

import fastlr
from fastlr.study.networks import Network

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop", "adagrad")
NETWORKS = ("32-relu", "64-32-tanh", "16-sigmoid", "64-32-relu", "32-tanh", "48-24-sigmoid")
GRID = np.geomspace(1e-5, 10, 13)
UPDATES, ROWS, ORDERS, OTHERS = 200, 32, (1, 2, 3), (4, 5, 6)
MEASURES = ("end", "late", "valid")
STUDY = (0.001, 0.01, 0.05, 0.1)       # the rates of `fastlr study`


class Triple(NamedTuple):
    data: str
    network: str
    optimizer: str


def judged_on() -> tuple[dict[str, Any], list[Triple]]:
    """The 30 triples, and their data."""
    from sklearn import datasets

    data = {name: getattr(datasets, f"load_{name}")(return_X_y=True)
            for name in ("digits", "wine", "breast_cancer", "iris", "diabetes")}
    x, y = data["diabetes"]
    data["diabetes"] = x, np.searchsorted(np.quantile(y, [1 / 3, 2 / 3]), y)      # low, middle, high
    triples = [Triple(name, NETWORKS[(i + j) % 6], optimizer)
               for i, name in enumerate(data) for j, optimizer in enumerate(OPTIMIZERS)]
    return data, triples


def developed_on() -> tuple[dict[str, Any], list[Triple]]:
    """Six made problems with six optimizers."""
    from sklearn import datasets as made

    rng = np.random.default_rng(4)
    turn, arm = rng.uniform(0.3, 3, 900), rng.integers(0, 3, 900)
    angle = turn * 2 + arm * 2 * np.pi / 3
    x = rng.normal(size=(1500, 30))
    taught = np.tanh(x @ rng.normal(size=(30, 20)) / 5) @ rng.normal(size=(20, 8)) + rng.normal(0, 0.3, (1500, 8))
    data = {
        "mixture": made.make_classification(1000, 20, n_informative=8, n_classes=5, random_state=1, flip_y=0.05),
        "moons": made.make_moons(600, noise=0.2, random_state=2),
        "shells": made.make_gaussian_quantiles(n_samples=800, n_features=10, n_classes=3, random_state=3),
        "spirals": (np.c_[turn * np.cos(angle), turn * np.sin(angle)] + rng.normal(0, 0.1, (900, 2)), arm),
        "teacher": (x, taught.argmax(axis=1)),
        "blobs": made.make_blobs(300, n_features=6, centers=4, cluster_std=4.0, random_state=5),
    }
    networks = ("32-relu", "48-48-tanh", "24-sigmoid", "32-32-relu", "24-tanh", "32-32-sigmoid")
    return data, [Triple(name, networks[(i + j) % 6], optimizer)
                  for i, name in enumerate(data) for j, optimizer in enumerate(OPTIMIZERS)]


class Problem:
    """One triple: a fresh network each time, and batches in an order of the rows."""

    def __init__(self, triple: Triple, data: tuple[Any, Any]) -> None:
        self.triple = triple
        x, y = data
        rows = np.random.default_rng(0).permutation(len(y))
        x, y = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-12)).astype(np.float32)[rows], y.astype(np.int64)[rows]
        cut = 3 * len(y) // 4
        self.train, self.valid = (x[:cut], y[:cut]), (x[cut:], y[cut:])
        *widths, self.activation = triple.network.split("-")
        self.layers = (x.shape[1], *map(int, widths), int(y.max()) + 1)

    def start(self, lr: float, seed: int = 0) -> tuple[Network, Any]:
        network = Network(self.layers, self.activation, seed=seed)
        return network, fastlr.create_optimizer(self.triple.optimizer, network.params, grads=network.grads, lr=lr)

    def batches(self, order: int) -> Iterator[tuple[Any, Any]]:
        (x, y), rng = self.train, np.random.default_rng((order, 1))
        while True:
            rows = rng.permutation(len(y))
            for end in range(ROWS, len(y) + 1, ROWS):
                yield x[rows[end - ROWS:end]], y[rows[end - ROWS:end]]

    def losses(self, lr: float, orders: tuple[int, ...] = ORDERS) -> tuple[float, ...]:
        """What training at a rate leads to: the three measures, means over the orders."""
        return tuple(np.mean([self.trained(lr, order) for order in orders], axis=0))

    def trained(self, lr: float, order: int) -> tuple[float, ...]:
        network, opt = self.start(lr)
        seen, valid = [], [network.loss(self.valid)]
        with np.errstate(all="ignore"):
            for batch in islice(self.batches(order), UPDATES):
                seen.append(network.loss_and_grad(batch)[0])
                if not math.isfinite(seen[-1]):
                    return (math.inf,) * 3
                opt.step()
                if len(seen) % 20 == 0:
                    valid.append(network.loss(self.valid))
            end = network.loss(self.train)
        late = sum(seen[UPDATES // 2:]) / (UPDATES - UPDATES // 2)
        return end if math.isfinite(end) else math.inf, late, float(np.nanmin(valid))

    def found(self, validated: bool = False) -> Any:
        network, opt = self.start(1e-3)
        return fastlr.find_lr(opt, lambda batch: (network.loss_and_grad(batch)[0], None), self.batches(100),
                              validation=(lambda: network.loss(self.valid)) if validated else None)


class Outcome(NamedTuple):
    """One triple: the losses on the grid and on the study's four rates, and those of each suggestion."""

    triple: Triple
    grid: Any
    study: Any
    suggested: dict[str, tuple[float, tuple[float, ...]]]
    updates: int

    def hit(self, rule: str, measure: int, grid: Any) -> bool:
        """Whether the loss at a suggestion is within a tenth of the least on a grid."""
        return self.suggested[rule][1][measure] <= 1.1 * float(grid[:, measure].min())


def measure(problem: Problem) -> Outcome:
    fastlr.set_num_threads(1)
    result = problem.found()
    grid = np.array([problem.losses(lr) for lr in GRID])
    study = np.array([problem.losses(lr) for lr in STUDY])
    rates = {**result.suggestions, "trials": result.lr, "validated": problem.found(validated=True).lr}
    tried = {name: (lr, problem.losses(lr)) for name, lr in rates.items()}
    again = np.array([problem.losses(lr, OTHERS) for lr in GRID]).argmin(axis=0)
    tried["again"] = math.nan, tuple(float(grid[best, k]) for k, best in enumerate(again))
    return Outcome(problem.triple, grid, study, tried, result.updates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--development", action="store_true", help="the triples that the rules were chosen on")
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: 1")
    parser.add_argument("--least", type=float, default=0.0, metavar="SHARE", help="exit status 1 below it at the end")
    arguments = parser.parse_args()
    data, triples = developed_on() if arguments.development else judged_on()
    problems = [Problem(triple, data[triple.data]) for triple in triples]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        outcomes = list(pool.map(measure, problems))
    print(f"{'data':14}{'network':15}{'optimizer':10}{'lr':>9}{'grid':>9}  loss at the end, at lr and on the grid")
    for outcome in outcomes:
        lr, losses = outcome.suggested["trials"]
        best = int(outcome.grid[:, 0].argmin())
        print(f"{outcome.triple.data:14}{outcome.triple.network:15}{outcome.triple.optimizer:10}{lr:9.2g}"
              f"{GRID[best]:9.2g}  {losses[0]:9.3g}{outcome.grid[best, 0]:9.3g}"
              f"{'' if outcome.hit('trials', 0, outcome.grid) else ' *'}")
    print(f"\nhits of {len(outcomes)} by loss, beside the 13 rates of the grid, and beside the study's four rates")
    print(f"{'rule':10}" + "".join(f"{name:>14}" for name in MEASURES))
    for rule in outcomes[0].suggested:
        shares = [[np.mean([one.hit(rule, k, grid) for one, grid in zip(outcomes, grids, strict=True)])
                   for grids in ([one.grid for one in outcomes], [one.study for one in outcomes])] for k in range(3)]
        print(f"{rule:10}" + "".join(f"{100 * fine:7.0f}%{100 * coarse:5.0f}%" for fine, coarse in shares))
    print(f"\nfind_lr took {np.mean([one.updates for one in outcomes]):.0f} updates on average, "
          f"the grid {len(GRID) * UPDATES} an order")
    if np.mean([one.hit("trials", 0, one.grid) for one in outcomes]) < arguments.least:
        sys.exit(f"suggested_rates: fewer than {arguments.least:.0%} of the triples")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
