"""What `fastlr.tune_lr` finds beside a grid of 40 rates, and others at equal cost: python benchmarks/tuned_rates.py

Networks learn small tables (`rate_problems.py`); the score is the accuracy (higher is better) or the loss (lower is
better) on rows that are not trained on, the mean over seeds of weights and order. A full training is 270 updates at a
constant rate. A rate is found if its score is within 1 % of the best on the grid, which stands on the same range.

    tune_lr            with its defaults
    grid of k, random  as many full trainings as tune_lr costs: rates evenly spaced, or drawn (20 times, the mean)
    ASHA               rates drawn, stopped after 10, 30 or 90 updates unless among the best third there (Li et al.
                       2018, arXiv:1810.05934); trials go on where they were, and cost what they add
    Optuna             its default sampler, full trainings
    Optuna, halving    the same, trials ended by its successive halving, which go on as with ASHA

Three sets share no data: `--set develop`, on which the search was thought of, `choose` (the default), on which its
numbers were chosen, and `report`, which had no part in either. `--two` searches the rate and the weight decay of AdamW
by the loss, from 1e-3 to 10, beside a grid of 13 x 7. `--report` needs `pip install statsmodels palmerpenguins
pillow`; the rows of Optuna are there where it is installed.
"""
from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rate_problems import SETS, Problem, Training, tables

import fastlr

LOW, HIGH, POINTS, BUDGET = 1e-5, 10.0, 40, 270
DECAYS = (1e-3, 10.0)
RUNGS = (10, 30, 90, 270)
DRAWS = 20


class Task(NamedTuple):
    problem: Problem
    score: str          # "accuracy" or "loss"


def tasks(which: str) -> list[Task]:
    """Every third of a set's tables, by either score: 24, 20 and 20."""
    return [Task(problem, score) for score in ("accuracy", "loss") for problem in tables(which)[::3]]


class Train:
    """One task as `tune_lr` wants it; it can be sent to another process."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, lr: float, budget: int, seed: int, weight_decay: float | None = None) -> float:
        one = Training(self.task.problem, lr, seed)
        if weight_decay is not None:
            one.opt.weight_decay = weight_decay
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


# Others. Each returns its best score at the full budget, lower is better; `score` is of a rate after so many updates

Score = Callable[[float, int], float]


def asha(score: Score, most: float, seed: int = 0) -> float:
    """Asynchronous successive halving with one worker, for as many updates as `most`."""
    rng = np.random.default_rng(seed)
    rungs: list[dict[float, float]] = [{} for _ in RUNGS]
    promoted: list[set[float]] = [set() for _ in RUNGS]
    spent = 0.0
    while True:
        for k in range(len(RUNGS) - 2, -1, -1):
            best = sorted(rungs[k], key=rungs[k].__getitem__)[: len(rungs[k]) // 3]
            waiting = [lr for lr in best if lr not in promoted[k]]
            if waiting:
                lr, to = waiting[0], k + 1
                promoted[k].add(lr)
                break
        else:
            lr, to = float(np.exp(rng.uniform(math.log(LOW), math.log(HIGH)))), 0
        spent += RUNGS[to] - (RUNGS[to - 1] if to else 0)
        if spent > most:
            return min(rungs[-1].values(), default=math.inf)
        rungs[to][lr] = score(lr, RUNGS[to])


def of_optuna(score: Score, most: float, halving: bool) -> float:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = (optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=3) if halving
              else optuna.pruners.NopPruner())
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    spent, best = 0.0, math.inf
    while True:
        trial = study.ask()
        lr, state = trial.suggest_float("lr", LOW, HIGH, log=True), optuna.trial.TrialState.COMPLETE
        for before, updates in zip((0, *RUNGS[:-1]), RUNGS, strict=True):
            spent += updates - before
            if spent > most:
                return best
            reached = score(lr, updates)
            if updates == RUNGS[-1]:
                best = min(best, reached)
            if halving:
                trial.report(min(reached, 1e30), updates)
                if updates < RUNGS[-1] and trial.should_prune():
                    state = optuna.trial.TrialState.PRUNED
                    break
        study.tell(trial, min(reached, 1e30) if state is optuna.trial.TrialState.COMPLETE else None, state)


def others(score: Score, on_the_grid: list[float], most: float) -> dict[str, list[float]]:
    """The scores that others reach at that cost, in one or several draws."""
    count = int(most // BUDGET)
    rng = np.random.default_rng(0)
    found = {
        "grid of k": [min(score(float(lr), BUDGET) for lr in np.geomspace(LOW, HIGH, count))],
        "random": [min(rng.choice(on_the_grid, count, replace=False)) for _ in range(DRAWS)],
        "ASHA": [asha(score, most, seed) for seed in range(3)],
    }
    try:
        found |= {"Optuna": [of_optuna(score, most, False)], "Optuna, halving": [of_optuna(score, most, True)]}
    except ImportError:
        pass
    return found


def two(which: str, seeds: int) -> None:
    """The rate and the weight decay of AdamW."""
    print(f"{'data':14}{'network':16}{'lr':>9}{'decay':>9}{'found':>9}{'grid lr':>9}{'decay':>9}{'best':>9}   cost")
    hits = []
    for problem in tables(which):
        if problem.optimizer != "adamw":
            continue
        train = Train(Task(problem, "loss"))
        grid = {(float(lr), float(decay)): float(np.mean([train(float(lr), BUDGET, seed, float(decay))
                                                          for seed in range(seeds)]))
                for lr in np.geomspace(LOW, HIGH, 13) for decay in np.geomspace(*DECAYS, 7)}
        best = min((at for at, score in grid.items() if math.isfinite(score)), key=grid.__getitem__)
        found = fastlr.tune_lr(train, LOW, HIGH, budget=BUDGET, seeds=seeds, also={"weight_decay": DECAYS},
                               verbose=False)
        hits.append(within_one_percent(found.score, grid[best], "min"))
        print(f"{problem.data:14}{problem.model:16}{found.lr:9.2g}{found.also['weight_decay']:9.2g}{found.score:9.4f}"
              f"{best[0]:9.2g}{best[1]:9.2g}{grid[best]:9.4f}{found.cost / (len(grid) * BUDGET * seeds):7.1%}"
              f"{'' if hits[-1] else ' *'}", flush=True)
    print(f"\nwithin 1 % of the best of 91 on {sum(hits)} of {len(hits)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=SETS, default="choose", help="default: choose")
    parser.add_argument("--report", action="store_true", help="the set that had no part in choosing: --set report")
    parser.add_argument("--seeds", type=int, default=3, help="of each rate, in the search and on the grid; default: 3")
    parser.add_argument("--quick", action="store_true", help="tune_lr and the grid alone")
    parser.add_argument("--two", action="store_true", help="the rate and the weight decay of AdamW beside a grid")
    arguments = parser.parse_args()
    seeds, which = arguments.seeds, "report" if arguments.report else arguments.set
    fastlr.set_num_threads(1)
    if arguments.two:
        two(which, seeds)
        return
    print(f"{'data':14}{'network':16}{'optimizer':10}{'score':9}{'lr':>9}{'found':>9}{'grid lr':>9}{'best':>9}   cost")
    hits: dict[str, dict[str, list[float]]] = {}
    for task in tasks(which):
        train, sign = Train(task), -1 if task.score == "accuracy" else 1
        scores = on_grid(train, seeds)
        best = sign * min(sign * score for score in scores.values() if math.isfinite(score))
        found = fastlr.tune_lr(train, LOW, HIGH, budget=BUDGET, mode=train.mode, seeds=seeds, verbose=False)
        known: dict[tuple[float, int], float] = {}

        def score(lr: float, updates: int, train: Train = train, sign: int = sign, known: Any = known) -> float:
            if (lr, updates) not in known:
                mean = sign * float(np.mean([train(lr, updates, seed) for seed in range(seeds)]))
                known[lr, updates] = mean if math.isfinite(mean) else math.inf
            return known[lr, updates]

        reached = {"tune_lr": [sign * found.score]}
        if not arguments.quick:
            plain = [sign * one if math.isfinite(one) else math.inf for one in scores.values()]
            reached |= others(score, plain, found.cost / seeds)
        for name, several in reached.items():
            share = float(np.mean([within_one_percent(sign * one, best, train.mode) for one in several]))
            hits.setdefault(name, {}).setdefault(task.score, []).append(share)
        costs = hits.setdefault("cost", {}).setdefault("share", [])
        costs.append(found.cost / (POINTS * BUDGET * seeds))
        at = next(lr for lr, one in scores.items() if one == best)
        data, network, optimizer = task.problem[:3]
        print(f"{data:14}{network:16}{optimizer:10}{task.score:9}{found.lr:9.2g}{found.score:9.4f}{at:9.2g}{best:9.4f}"
              f"{costs[-1]:7.1%}{'' if hits['tune_lr'][task.score][-1] else ' *'}", flush=True)
    print(f"\nwithin 1 % of the best of {POINTS} rates, at {np.mean(hits.pop('cost')['share']):.1%} of the cost of all")
    for name, of_scores in hits.items():
        print(f"{name:18}" + "".join(f"{kind:>10} {sum(some):5.1f} of {len(some)}" for kind, some in of_scores.items()))


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
