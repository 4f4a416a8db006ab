"""Is `fastlr.diagnose` right about real training runs? python benchmarks/diagnosis.py --report

A problem of `rate_problems.py` is trained at each of 13 rates from 1e-5 to 10 (two a decade), in two orders of the
rows. With s the loss of the whole training split before the first update, e that after the last (mean of the orders)
and b the least e of the 13 rates, a run's label is

    lower, raise   (e - b) / (s - b) > 0.1, and the rate of b is lower, or higher: a tenth of what is possible is lost
    leave          otherwise

`diagnose` sees what logs of the first order would hold, each beside the rate and, again, without it, and all of that
without the validation loss:

    batch     the loss of every batch
    tenth     that of every tenth batch
    mean      means over ten updates
    epoch     the log of a scikit-learn network by epochs (`MLPClassifier.loss_curve_`)

and the loss of rows that are not trained on, at every tenth or twentieth of the run. Told are the share of runs whose
direction is right (a factor above, below, or of 1), the share that is told the opposite, and in how many of the runs
where another rate is advised, and is on the grid, that rate ends lower. "Not sure" counts as "leave".

The points of `fastlr.monitor.points` and the thresholds are fitted to the sets `develop` and `choose` (`--fit` writes
the file; `--cross` tells how they do on data that are left out of a fit); `report` had no part in them.
"""
from __future__ import annotations

import argparse
import math
import os
import sys
import textwrap
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rate_problems import SETS, Problem, Training, others, splits, tables

import fastlr
from fastlr.monitor import diagnosis, points
from fastlr.monitor.measured import measure

RATES = np.geomspace(1e-5, 10, 13)
LOGS = ("batch", "tenth", "mean", "epoch")
BY_EPOCH = {"develop": ("mixture", "moons", "blobs", "coins", "ordered", "categories", "textures"),
            "choose": ("wine", "breast_cancer", "iris", "diabetes"),
            "report": ("anes96", "penguins", "modechoice", "star98", "patches", "fair")}
DIRECTIONS = ("lower", "leave", "raise")
STATISTICS = ("end", "peak", "peak in noise", "late share", "noise", "noise of gain", "noise late", "nine tenths",
              "half", "gain", "fall", "turning")
OF_VALIDATION = ("validation end", "validation half", "validation late drop", "validation noise",
                 "validation noise of gain", "validation began", "validation end of start", "validation noise of start",
                 "validation late share")
RATE_EDGES = np.arange(-4.75, 1, 0.5)                    # between the rates of the grid
BINS = 24                # quantiles that may be edges
ROUNDS, STEP = 150, 0.06
FEWEST_OF_BIN, PENALTY = 30.0, 5.0
WEIGHTS = (2 / 3, 1 / 3)  # of a log whose validation loss is there from the start on, or from after a part on


class Run(NamedTuple):
    """One rate of a problem."""

    problem: str
    k: int                   # of the rates
    start: float
    ends: Any                # of every rate
    losses: Any              # of each batch, up to the first that is not finite
    validation: Any

    @property
    def label(self) -> int:
        """-1, 0, 1 as in DIRECTIONS."""
        best = int(np.nanargmin(self.ends))
        e, b = self.ends[self.k], self.ends[best]
        possible = self.start - b
        if not math.isfinite(e) or e > 10 * self.start:
            return -1
        if possible <= 0 or (e - b) / possible <= 0.1:
            return 0
        return int(np.sign(best - self.k))


@dataclass(frozen=True, eq=False)
class Log:
    """What a log of a run holds."""

    run: Run
    kind: str
    losses: Any

    def history(self, rate: bool, validation: bool = True) -> dict[str, Any]:
        found = {"loss": self.losses} | ({"val_loss": self.run.validation} if validation else {})
        return found | ({"lr": np.full(len(self.losses), RATES[self.run.k])} if rate else {})

    @cached_property
    @np.errstate(all="ignore")
    def statistics(self) -> list[dict[str, float]]:
        """With the validation loss from the start on, and from after a part of the run on, as by epochs."""
        rate = {"rate": math.log10(RATES[self.run.k])}
        return [measure(self.losses, self.run.validation[first:]).points_of | rate for first in (0, 1)]


@np.errstate(all="ignore")
def runs(problem: Problem) -> list[Run]:
    """Every rate of a problem."""
    fastlr.set_num_threads(1)
    ends, start, logged = [], math.nan, []
    every = max(problem.updates // (10 if problem.updates < 400 else 20), 1)
    for lr in RATES:
        both = []
        for order in (1, 2):
            one = Training(problem, float(lr))
            start = one.model.loss(one.train)
            losses, validation = [], [one.model.loss(one.valid)]
            for loss in one.steps(order, problem.updates):
                losses.append(loss)
                if len(losses) % every == 0:
                    validation.append(one.model.loss(one.valid))
            end = one.model.loss(one.train)
            both.append(end if math.isfinite(end) else math.inf)
            if order == 1:
                logged.append((np.array(losses), np.array(validation)))
        ends.append(sum(both) / 2)
    return [Run(str(problem), k, start, np.array(ends), *logged[k]) for k in range(len(RATES))]


def runs_by_epoch(name: str, solver: str) -> list[Run]:
    """Those of a network of scikit-learn, 60 epochs."""
    import warnings

    from sklearn.neural_network import MLPClassifier

    (x, y), _ = splits(name)
    curves = []
    for lr in RATES:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            network = MLPClassifier((32,), solver=solver, learning_rate_init=float(lr), max_iter=60, batch_size=32,
                                    alpha=0, tol=0, n_iter_no_change=1000, random_state=0)
            try:
                network.fit(x, y)
                curves.append(np.array(network.loss_curve_, np.float64))
            except ValueError:                           # (its weights are not finite)
                curves.append(np.array([*getattr(network, "loss_curve_", [1.0]), math.nan], np.float64))
    ends = [float(curve[-3:].mean()) if len(curve) == 60 and np.isfinite(curve).all() else math.inf for curve in curves]
    counts = np.bincount(y) / len(y)
    start = max(curves[0][0], -float(counts[counts > 0] @ np.log(counts[counts > 0])))
    return [Run(f"{name}, MLPClassifier, {solver}", k, start, np.array(ends), curve, np.empty(0))
            for k, curve in enumerate(curves)]


def logs(run: Run) -> list[Log]:
    losses, finite = run.losses, bool(np.isfinite(run.losses).all())
    if "MLPClassifier" in run.problem:
        return [Log(run, "epoch", losses)]
    found = [Log(run, "batch", losses)]
    count = len(losses) // 10
    if count >= diagnosis.FEWEST or not finite:
        means = np.array([part.mean() for part in np.split(losses[:10 * count], count)]) if count else np.empty(0)
        found.append(Log(run, "mean", means if finite else np.append(means, math.nan)))
        found.append(Log(run, "tenth", losses[::10] if finite else np.append(losses[::10], math.nan)))
    return found


class Judged(NamedTuple):
    log: Log
    rate: bool               # whether the log has it
    kind: str
    factor: float

    @property
    def direction(self) -> int:
        return int(np.sign(round(math.log10(self.factor), 6)))

    @property
    def better(self) -> bool | None:
        """Whether the advised rate ends lower; None if none is advised, or it is not on the grid."""
        run, there = self.log.run, self.log.run.k + round(2 * math.log10(self.factor))
        if not self.direction or not 0 <= there < len(RATES):
            return None
        end, here = float(run.ends[there]), float(run.ends[run.k])
        return math.isfinite(end) and (end < here or not math.isfinite(here))


def judged(found: list[Log], rate: bool, validation: bool = True) -> list[Judged]:
    verdicts = [fastlr.diagnose(log.history(rate, validation))[0] for log in found]
    return [Judged(log, rate, verdict.kind, verdict.factor) for log, verdict in zip(found, verdicts, strict=True)]


def shares(some: list[Judged]) -> tuple[float, float, float]:
    """Right, opposite, better."""
    right = np.mean([one.direction == one.log.run.label for one in some])
    opposite = np.mean([one.direction * one.log.run.label < 0 for one in some])
    advised = [one.better for one in some if one.better is not None]
    return float(right), float(opposite), float(np.mean(advised)) if advised else math.nan


# Fitting of the points

def fitted(found: list[Log], rate: bool, validation: bool) -> points.Card:
    """Points by boosting: time and again, one edge of one statistic that lowers the log-loss most (Friedman 2001,
    Annals of Statistics 29(5)). A card is the sum of all: a step function of each statistic.
    """
    rows, labels, weights = [], [], []
    for log in found:
        for row, weight in zip(log.statistics, WEIGHTS if validation else (1.0,), strict=False):
            if not validation or OF_VALIDATION[0] in row:
                rows.append(row)
                labels.append(log.run.label + 1)
                weights.append(weight)
    shares = np.linspace(0, 1, BINS + 1)[1:-1]
    names = (*STATISTICS, *(OF_VALIDATION if validation else ()), *(("rate",) if rate else ()))
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    edges = {name: RATE_EDGES if name == "rate" else np.unique(np.quantile(column, shares).round(2))
             for name, column in columns.items()}
    bins = {name: np.searchsorted(edges[name], column, side="right") for name, column in columns.items()}
    base, steps = boosted(bins, {name: len(cuts) for name, cuts in edges.items()}, np.array(labels), np.array(weights))
    statistics = {}
    for name, cuts in edges.items():
        of_bins = (steps[name] - steps[name][:, 1:2])[:, [0, 2]].round(2)
        new = np.flatnonzero((of_bins[1:] != of_bins[:-1]).any(axis=1))
        statistics[name] = tuple(map(float, cuts[new])), tuple(map(tuple, (of_bins[[0, *(new + 1)]] + 0.0).tolist()))
    return points.Card((round(float(base[0] - base[1]), 2), round(float(base[2] - base[1]), 2)), statistics)


def boosted(bins: dict[str, Any], edges: dict[str, int], labels: Any, weights: Any) -> tuple[Any, dict[str, Any]]:
    """The log-odds of three classes: their base, and what each bin of each statistic adds."""
    hot = np.eye(3)[labels]
    base = np.log(weights @ hot / weights.sum())
    scores = np.tile(base, (len(labels), 1))
    steps = {name: np.zeros((count + 1, 3)) for name, count in edges.items()}
    names = [name for name, count in edges.items() if count]

    def below(name: str, values: Any) -> Any:
        """Sums over the rows below each edge."""
        return np.cumsum(np.bincount(bins[name], values, minlength=edges[name] + 1))[:-1]

    rows = {name: below(name, weights) for name in names}
    for _ in range(ROUNDS):
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        for k in range(3):
            slope, bend = weights * (hot[:, k] - odds[:, k]), weights * odds[:, k] * (1 - odds[:, k])
            best, chosen = -1.0, (names[0], 0, 0.0, 0.0)
            for name in names:
                g, h = below(name, slope), below(name, bend)
                left, right = g / (h + PENALTY), (slope.sum() - g) / (bend.sum() - h + PENALTY)
                gain = left * g + right * (slope.sum() - g)
                gain[np.minimum(rows[name], weights.sum() - rows[name]) < FEWEST_OF_BIN] = -1.0
                at = int(gain.argmax())
                if gain[at] > best:
                    best, chosen = float(gain[at]), (name, at, float(left[at]), float(right[at]))
            name, at, left_step, right_step = chosen
            steps[name][: at + 1, k] += STEP * left_step
            steps[name][at + 1:, k] += STEP * right_step
            scores[:, k] += STEP * np.where(bins[name] <= at, left_step, right_step)
    return base, steps


def cards(found: list[Log]) -> dict[tuple[bool, bool], points.Card]:
    """Those of logs with and without the rate, with and without a validation loss."""
    return {(rate, validation): fitted(to_fit(found), rate, validation)
            for rate in (True, False) for validation in (True, False)}


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent=" " * 12, subsequent_indent=" " * 13, break_long_words=False)


def written(card: points.Card) -> str:
    lines = [f"Card({card.base}, {{"]
    for name, (cuts, of_bins) in card.statistics.items():
        lines += [f'        "{name}": ({cuts},', *wrapped(f"{of_bins}),")]
    return "\n".join([*lines, "    })"])


def to_fit(found: list[Log]) -> list[Log]:
    return [log for log in found if len(log.losses) >= diagnosis.FEWEST and np.isfinite(log.losses).all()]


def fit(found: list[Log]) -> None:
    """Write `fastlr/monitor/points.py`."""
    path = Path(points.__file__)
    head = path.read_text().split("\nCARDS: ")[0]
    lines = [f"    {key}: {written(card)}," for key, card in cards(found).items()]
    path.write_text("\n".join([head, "CARDS: dict[tuple[bool, bool], Card] = {", *lines, "}", ""]))


def data_of(log: Log) -> str:
    return log.run.problem.split(",")[0].split("-")[0]


def crossed(found: list[Log], validation: bool = True, folds: int = 7) -> list[Judged]:
    """Verdicts on each seventh of the data sets by points that were fitted to the others."""
    names = sorted({data_of(log) for log in found})
    own = diagnosis.CARDS
    verdicts = []
    for fold in range(folds):
        left_out = set(names[fold::folds])
        diagnosis.CARDS = cards([log for log in found if data_of(log) not in left_out])
        for rate in (True, False):
            verdicts += judged([log for log in found if data_of(log) in left_out], rate, validation)
    diagnosis.CARDS = own
    return verdicts


def of_one(one: Problem | tuple[str, str]) -> list[Run]:
    return runs(one) if isinstance(one, Problem) else runs_by_epoch(*one)


def all_runs(which: str, jobs: int) -> list[Run]:
    networks = [(name, solver) for name in BY_EPOCH[which] for solver in ("sgd", "adam")]
    problems = [*tables(which), *others(which), *networks]
    found: list[Run] = []
    with ProcessPoolExecutor(jobs) as pool:
        for k, some in enumerate(pool.map(of_one, problems), start=1):
            found += some
            if sys.stderr.isatty():
                print(f"\r{which}: {k} of {len(problems)} problems ", end="", file=sys.stderr, flush=True)
    return found


def told(verdicts: list[Judged], kinds: bool = True) -> None:
    print(f"{'log':8}{'rate':9}{'runs':>6}{'right':>8}{'opposite':>10}{'better':>8}{'of':>6}")
    for rate in (True, False):
        for kind in (*LOGS, "all"):
            some = [one for one in verdicts if one.rate == rate and kind in (one.log.kind, "all")]
            if not some:
                continue
            right, opposite, better = shares(some)
            count = sum(one.better is not None for one in some)
            print(f"{kind:8}{'known' if rate else 'unknown':9}{len(some):6}{right:8.1%}{opposite:10.1%}{better:8.1%}"
                  f"{count:6}")
    for rate in (True, False) if kinds else ():
        print(f"\nverdicts, the rate {'known' if rate else 'unknown'}:"
              f"{'':14}{'should be: ' + '   '.join(DIRECTIONS):>32}{'better':>10}")
        for kind in diagnosis.KINDS:
            some = [one for one in verdicts if one.rate == rate and one.kind == kind]
            counts = Counter(one.log.run.label for one in some)
            better = [one.better for one in some if one.better is not None]
            if some:
                print(f"  {kind:44}" + "".join(f"{counts[label]:8}" for label in (-1, 0, 1))
                      + (f"{np.mean(better):10.0%}" if better else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=SETS, default="choose", help="default: choose")
    parser.add_argument("--report", action="store_true", help="the set that had no part in choosing: --set report")
    parser.add_argument("--fit", action="store_true", help="write fastlr/monitor/points.py from develop and choose")
    parser.add_argument("--cross", action="store_true", help="both of these, each data set by points fitted without it")
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: 1")
    parser.add_argument("--wrong", action="store_true", help="list the runs that were told the opposite")
    parser.add_argument("--least", type=float, nargs=2, default=(0.0, 1.0), metavar=("RIGHT", "OPPOSITE"),
                        help="exit status 1 if fewer are right, or more are told the opposite, where the rate is known")
    arguments = parser.parse_args()
    which = ("report",) if arguments.report else (arguments.set,)
    if arguments.fit or arguments.cross:
        which = ("develop", "choose")
    found = [log for each in which for run in all_runs(each, arguments.jobs) for log in logs(run)]
    if arguments.fit:
        fit(found)
        return

    def all_judged(validation: bool = True) -> list[Judged]:
        return (crossed(found, validation) if arguments.cross else
                judged(found, True, validation) + judged(found, False, validation))

    verdicts = all_judged()
    print(f"\n{' and '.join(which)}: {len({log.run.problem for log in found})} problems, "
          f"{len({(log.run.problem, log.run.k) for log in found})} runs, {len(found)} logs\n")
    told(verdicts)
    print("\nThe same logs without the validation loss:\n")
    told(all_judged(validation=False), kinds=False)
    if arguments.wrong:
        print()
        for one in verdicts:
            if one.direction * one.log.run.label < 0:
                print(f"{one.kind}, factor {one.factor:g}, should be {DIRECTIONS[one.log.run.label + 1]}: "
                      f"{one.log.run.problem}, lr {RATES[one.log.run.k]:.2g}, {one.log.kind}, rate {one.rate}")
    right, opposite, _ = shares([one for one in verdicts if one.rate])
    if right < arguments.least[0] or opposite > arguments.least[1]:
        sys.exit("diagnosis: fewer right, or more told the opposite, than --least asks for")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
