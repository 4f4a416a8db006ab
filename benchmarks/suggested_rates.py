"""How well do the rates train that `fastlr.find_lr` and others suggest? python benchmarks/suggested_rates.py --report

A problem of `rate_problems.py` is trained at each of 13 rates from 1e-5 to 10 (two a decade), and at each suggestion;
every figure is the mean over several orders of the rows. A suggestion hits if its loss is at most 1.1 times the least
on the grid. Three losses are told, because they differ:

    end    of the whole training split after the last update
    late   of the training batches, mean over the last half of the updates, as a log of the training shows it
    valid  of rows that are not trained on, the least seen at every tenth of the run

Who suggests sees another order of the rows than those it is judged on. Beside each the updates that it took:

    find_lr            as it is by default; "validated": given the loss of the rows that are not trained on
    sweep: ...         the rules of the sweep alone, on fastlr's losses; fastai's own sweep, Lightning's and
                       torch-lr-finder's as those make them, each with its rule
    grid of k          k rates from 1e-5 to 10, each trained for the whole run, the least late loss
    random, k          the same with k rates that are evenly spread at random, mean over 20 draws
    halving of 25      four rates a decade: 8 updates, the best 8 to 24, the best 4 to 64, the best 2 to 128
    Optuna             its default sampler, trials ended early by its successive halving, for as many updates as find_lr
                       takes (where Optuna is installed)
    again              no rule but the best of the grid on other orders: what chance leaves to be hit

Three sets share no data: `--set develop`, `--set choose` (the default) and `--report`. How `find_lr` works was thought
of on the first, its numbers were chosen on both of those, and the third was looked at when they were fixed.
"""
from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from rate_problems import SETS, Problem, Training, others, tables

import fastlr
from fastlr.tuning.batches import Batches
from fastlr.tuning.range_test import Sweep, sweep
from fastlr.tuning.suggestions import smoothed, suggest

FINE = np.geomspace(1e-5, 10, 25)
GRID = FINE[::2]
SEARCH, ORDERS, OTHERS = 100, (1, 2, 3), (4, 5, 6)      # orders of the rows to search on, to judge by, and for chance
MEASURES = ("end", "late", "valid")
DRAWS = 20


class Run(NamedTuple):
    """One training at a constant rate: the loss of each batch, and the three measures."""

    losses: Any
    measures: tuple[float, ...]


def trained(problem: Problem, lr: float, order: int) -> Run:
    one, every = Training(problem, lr), max(problem.updates // 10, 1)
    losses, valid = [], [one.model.loss(one.valid)]
    with np.errstate(all="ignore"):
        for loss in one.steps(order, problem.updates):
            losses.append(loss)
            if len(losses) % every == 0:
                valid.append(one.model.loss(one.valid))
        end = one.model.loss(one.train)
    seen = np.full(problem.updates, np.nan)
    seen[:len(losses)] = losses
    late = float(seen[problem.updates // 2:].mean())
    if not (math.isfinite(end) and math.isfinite(late)):
        return Run(seen, (math.inf,) * 3)
    return Run(seen, (end, late, float(np.nanmin(valid))))


def judged(problem: Problem, lr: float, orders: tuple[int, ...] = ORDERS) -> Any:
    """What training at a rate leads to: the three measures, means over the orders."""
    return np.mean([trained(problem, lr, order).measures for order in orders], axis=0)


def found(problem: Problem, validated: bool = False, **options: Any) -> Any:
    """What `find_lr` says."""
    one = Training(problem)
    validation = (lambda: one.model.loss(one.valid)) if validated else None
    return fastlr.find_lr(one.opt, lambda batch: (one.model.loss_and_grad(batch)[0], None), one.batches(SEARCH),
                          validation=validation, **options)


# Others' rules

def their_sweep(problem: Problem, low: float, high: float, threshold: float,
                mean: Callable[[list[float]], float]) -> Any:
    """A sweep of 100 rates as in other libraries: rates, and means of the losses *before* the steps at them."""
    one = Training(problem)
    rates, losses, means = np.geomspace(low, high, 100), [], []
    for lr, batch in zip(rates, one.batches(SEARCH), strict=False):
        losses.append(one.model.loss_and_grad(batch)[0])
        means.append(mean(losses))
        if not math.isfinite(losses[-1]) or means[-1] > threshold * min(means):
            break
        one.opt.lr = float(lr)
        one.opt.step()
    n = len(means) - (not math.isfinite(means[-1]))
    return rates[:n], np.array(means[:n])


def ends_cut(rates: Any, means: Any, first: int, last: int) -> tuple[Any, Any]:
    cut = slice(None) if len(rates) < first + last + 5 else slice(first, len(rates) - last)
    return rates[cut], means[cut]


def debiased(losses: list[float]) -> float:
    return float(smoothed(losses[-400:], 0.98)[-1])


def of_fastai(problem: Problem) -> tuple[float, int]:
    """fastai.callback.schedule: LRFinder and `valley`, its default."""
    rates, means = their_sweep(problem, 1e-7, 10, 4, debiased)
    first, last = len(rates) // 10, 5
    rates, means = ends_cut(rates, means, first, last)
    return suggest_all(rates, means)["valley"], len(rates) + first + last


def of_lightning(problem: Problem) -> tuple[float, int]:
    """lightning.pytorch.tuner.lr_finder: 1e-8 to 1, the steepest fall by the rate without the first 10 and the last."""
    rates, means = their_sweep(problem, 1e-8, 1, 4, debiased)
    made = len(rates)
    rates, means = ends_cut(rates, means, 10, 1)
    return float(rates[np.gradient(means, rates).argmin()]), made


def of_torch_lr_finder(problem: Problem) -> tuple[float, int]:
    """torch_lr_finder.LRFinder: means with 0.05 of the latest loss; the steepest fall by index, 10 and 5 skipped."""
    kept: list[float] = []

    def mean(losses: list[float]) -> float:
        kept.append(losses[-1] if not kept else 0.05 * losses[-1] + 0.95 * kept[-1])
        return kept[-1]

    rates, means = their_sweep(problem, 1e-7, 10, 5, mean)
    made = len(rates)
    rates, means = ends_cut(rates, means, 10, 5)
    return float(rates[np.gradient(means).argmin()]), made


def suggest_all(rates: Any, means: Any) -> dict[str, float]:
    from fastlr.tuning.suggestions import RULES

    return {name: rule(rates, means) for name, rule in RULES.items()}


def best_of(runs: Sequence[Run], among: Iterable[int]) -> int:
    """The index with the least late loss."""
    return min(among, key=lambda k: (runs[k].measures[1], k))


def halving(runs: Sequence[Run]) -> tuple[int, int]:
    """Plain successive halving of 25 rates: the index that is left, and the updates."""
    alive, done, cost = list(range(len(runs))), 0, 0
    for updates, kept in ((8, 8), (24, 4), (64, 2), (128, 1)):
        updates = min(updates, len(runs[0].losses))
        cost += len(alive) * (updates - done)
        score = {k: float(np.nan_to_num(runs[k].losses[updates // 2:updates].mean(), nan=np.inf)) for k in alive}
        alive, done = sorted(alive, key=lambda k: (score[k], k))[:kept], updates
    return alive[0], cost


def of_optuna(problem: Problem, budget: int) -> tuple[float, int] | None:
    """Optuna for a number of updates: trials of up to 128, the mean of the later half."""
    try:
        import optuna
    except ImportError:
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0),
                                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=8, reduction_factor=3))
    made = 0
    while made < budget:
        trial = study.ask()
        one = Training(problem, trial.suggest_float("lr", 1e-5, 10, log=True))
        losses: list[float] = []
        for loss in one.steps(SEARCH, min(128, budget - made)):
            losses.append(loss)
            score = float(np.mean(losses[len(losses) // 2:]))
            if len(losses) in (8, 24, 72):
                trial.report(score if math.isfinite(score) else 1e30, len(losses))
                if trial.should_prune():
                    break
        made += len(losses)
        ended = len(losses) >= 128 and math.isfinite(losses[-1])
        study.tell(trial, score if ended else None,
                   optuna.trial.TrialState.COMPLETE if ended else optuna.trial.TrialState.PRUNED)
    done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    return (study.best_params["lr"], made) if done else (math.nan, made)


class Outcome(NamedTuple):
    """One problem: the measures on the grid, and rate, measures and updates of each suggestion."""

    problem: Problem
    grid: Any
    suggested: dict[str, tuple[float, Any, float]]

    def hit(self, rule: str) -> Any:
        """Whether the losses at a suggestion are within a tenth of the least on the grid; of draws, how many."""
        losses = np.atleast_2d(self.suggested[rule][1])
        return (losses <= 1.1 * self.grid.min(axis=0)).mean(axis=0)


@np.errstate(all="ignore")
def measured(problem: Problem, peers: bool = True) -> Outcome:
    fastlr.set_num_threads(1)

    @cache
    def at(lr: float) -> Any:
        return judged(problem, lr)

    T = problem.updates
    result, validated = found(problem), found(problem, validated=True)
    grid = np.array([at(float(lr)) for lr in GRID])
    suggested: dict[str, tuple[float, Any, float]] = {
        "find_lr": (result.lr, at(result.lr), result.updates),
        "validated": (validated.lr, at(validated.lr), validated.updates)}
    if peers:
        one = Training(problem)
        swept: Sweep = sweep(one.opt, lambda batch: (one.model.loss_and_grad(batch)[0], None),
                             Batches(one.batches(SEARCH), 2**30), np.geomspace(1e-7, 10, 100), [1.0], 0.9, 8.0)
        rules = suggest(np.geomspace(1e-7, 10, 100), smoothed(swept.losses, 0.9, swept.before))
        for name, lr in rules.items():
            suggested[f"sweep: {name}"] = lr, at(lr), swept.updates
        for name, rule in (("fastai", of_fastai), ("Lightning", of_lightning), ("torch-lr-finder", of_torch_lr_finder)):
            lr, made = rule(problem)
            suggested[f"sweep: {name}"] = lr, at(lr), made
        runs = [trained(problem, float(lr), SEARCH) for lr in FINE]
        fine = np.array([at(float(lr)) for lr in FINE])
        for size in (3, 4, 5, 7, 13, 25):
            k = best_of(runs, np.linspace(0, 24, size).round().astype(int).tolist())
            suggested[f"grid of {size}"] = FINE[k], fine[k], size * T
        for size in (3, 5, 7, 13):
            rng = np.random.default_rng(size)
            drawn = [best_of(runs, rng.integers(0, 25, size).tolist()) for _ in range(DRAWS)]
            suggested[f"random, {size}"] = math.nan, fine[drawn], size * T
        k, made = halving(runs)
        suggested["halving of 25"] = FINE[k], fine[k], made
        if (tried := of_optuna(problem, result.updates)) is not None:
            lr, made = tried
            suggested["Optuna"] = lr, at(lr) if math.isfinite(lr) else np.full(3, np.inf), made
    again = np.array([judged(problem, float(lr), OTHERS) for lr in GRID]).argmin(axis=0)
    suggested["again"] = math.nan, np.array([grid[best, k] for k, best in enumerate(again)]), 0
    return Outcome(problem, grid, suggested)


def report(outcomes: list[Outcome]) -> None:
    print(f"{'problem':58}{'lr':>9}{'grid':>9}  loss at the end, at lr and on the grid; * misses")
    for one in outcomes:
        lr, losses, _ = one.suggested["find_lr"]
        best = int(one.grid[:, 0].argmin())
        missed = " ".join(name for name, hit in zip(MEASURES, one.hit("find_lr"), strict=True) if not hit)
        print(f"{one.problem!s:58}{lr:9.2g}{GRID[best]:9.2g}  {losses[0]:9.3g}{one.grid[best, 0]:9.3g}"
              f"{' * ' + missed if missed else ''}")
    print(f"\nhits of {len(outcomes)}, and the updates that each rule takes, on average")
    print(f"{'rule':24}{'updates':>9}" + "".join(f"{name:>8}" for name in MEASURES))
    rules = sorted(outcomes[0].suggested, key=lambda rule: rule != "find_lr" and rule != "validated")
    for rule in rules:
        rates = sum(one.hit(rule) for one in outcomes)
        cost = np.mean([one.suggested[rule][2] for one in outcomes])
        print(f"{rule:24}{cost:9.0f}" + "".join(f"{hits:8.3g}" for hits in rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=SETS, default="choose", help="default: choose")
    parser.add_argument("--report", action="store_true", help="the set that had no part in choosing: --set report")
    parser.add_argument("--kind", choices=("tables", "others", "both"), default="both",
                        help="classifiers of tables, other problems, or both; default: both")
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: 1")
    parser.add_argument("--quick", action="store_true", help="find_lr and the grid alone")
    parser.add_argument("--least", type=int, nargs=2, metavar=("END", "LATE"), default=(0, 0),
                        help="exit status 1 if find_lr hits fewer of the tables")
    arguments = parser.parse_args()
    which = "report" if arguments.report else arguments.set
    below = False
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for kind, problems in (("tables", tables(which)), ("others", others(which))):
            if arguments.kind not in (kind, "both"):
                continue
            outcomes = []
            for k, outcome in zip(count(1), pool.map(measured, problems, [not arguments.quick] * len(problems))):
                outcomes.append(outcome)
                if sys.stderr.isatty():
                    print(f"\r{which}, {kind}: {k} of {len(problems)} ", end="", file=sys.stderr, flush=True)
            print(f"\n{which}, {kind}\n")
            report(outcomes)
            hits = sum(one.hit("find_lr") for one in outcomes)
            below |= kind == "tables" and (hits[0] < arguments.least[0] or hits[1] < arguments.least[1])
    if below:
        sys.exit(f"suggested_rates: find_lr hits fewer than {arguments.least[0]} and {arguments.least[1]}")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
