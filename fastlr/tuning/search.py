"""A learning rate by its validation score: successive halving, then refinement; one more value beside it by a model."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import progress
from .journal import Journal
from .proposals import Axis, Point, first_points, next_points
from .tuned import Mode, Trial, Tuned
from .workers import MOST_TIMEOUT, Request, Train, Workers, can_use_alarms

if TYPE_CHECKING:
    from concurrent.futures import Executor

POINTS = 13
COST = 6.0               # full trainings


def tune_lr(
    train: Train,
    low: float,
    high: float,
    *,
    budget: float,
    also: Mapping[str, tuple[float, float]] | None = None,
    mode: Mode = "min",
    points: int | None = None,
    eta: int = 3,
    rungs: int = 4,
    finalists: int | None = None,
    refine: int = 1,
    seeds: int | Iterable[int] = 1,
    timeout: float | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    on_trial: Callable[[Trial], object] | None = None,
    journal: str | os.PathLike[str] | None = None,
    verbose: bool | None = None,
) -> Tuned:
    r"""Find the rate with the best validation score, at a seventh of the cost of a grid of 40 rates.

    `points` rates from `low` to `high`, evenly spaced by their logarithm, are trained with a small budget; the best
    1 / eta of them with eta times as much; and so on up to the full budget, with which `finalists` are trained
    (successive halving, Jamieson & Talwalkar 2016, arXiv:1502.07943; one bracket of Hyperband, Li et al. 2018,
    arXiv:1603.06560):

    .. math:: b_k = B / \eta^{K - 1 - k}, \qquad n_k = \max(\lfloor n_0 / \eta^k \rfloor, F + 1), \qquad
              n_{K - 1} = F.

    Then, `refine` times, two more rates are tried, halfway between the best rate and its neighbors. Budgets below the
    full one take the first seed alone. With the defaults and one seed that costs 13/27 + 4/9 + 3/3 + 2 + 2 = 5.9 full
    trainings; with three, 5.8 full trainings of three seeds each.

    Parameters
    ----------
    train
        ``train(lr, budget, seed) -> score`` trains from the beginning and returns a score on other data. It must depend
        on its arguments only. With processes it must be importable, as a function of a module is. With `also` it is
        called as ``train(lr, budget, seed, weight_decay=...)``.
    low, high
        The range of rates.
    budget
        The full budget, in epochs, updates, or any unit of `train`. An integer budget is divided into integers.
    also
        A value that is searched with the rate: its name and range, as ``{"weight_decay": (1e-5, 1e-1)}`` or
        ``{"warmup": (0.0, 0.3)}``, a share of the budget. By its logarithm, or evenly if the range begins at 0. As the
        best rate differs from value to value, both are searched at once: what is tried after the first round is where a
        Gaussian process through all scores, with an offset for every budget, is lowest ("max": highest), its deviation
        subtracted (Srinivas et al. 2010, arXiv:0912.3995). By default all costs twice as much.
    mode
        "min" if a lower score is better (a loss), "max" if a higher one is (an accuracy).
    points, eta, rungs, finalists, refine
        As above; `points` None for 13, with `also` for 26; `finalists` None for as many as keep the cost of all at 6
        full trainings, with `also` at 12, and at least one. Equal budgets, which a small integer may give, are one
        rung.
    seeds
        How many seeds (0, 1, ...), or which. The score of a rate is the mean over them; it has none if one diverged.
        Smaller budgets take the first alone.
    timeout
        The most seconds that one trial may take from its start; None for no limit. One that takes longer is "failed".
        In the main thread of a process (without an executor, in a process pool, under MPI) an alarm raises an exception
        in `train`, also in a call that waits. Code that handles no alarm, as a loop in C, is ended together with its
        process if that belongs to a `ProcessPoolExecutor`. A thread cannot be ended: with a thread pool, and on Dask,
        such a trial counts as failed when no other one has finished for `timeout` and 2 seconds (on a cluster, 30 more
        if none ever has). It keeps running: its thread does no other work, Dask loses what is queued behind it, and
        Python waits for the thread when it exits. Trials that had not started are submitted again if `executor` is a
        function that makes another one.
    executor
        Where trials run: None for this thread, one after another; any `concurrent.futures.Executor`: threads,
        processes, Dask's ``client.get_executor()``, ``mpi4py.futures.MPIPoolExecutor()``; or a function that makes one,
        which `tune_lr` then shuts down. The trials of a round run at the same time.
    on_trial
        Called with each `Trial` of a round, in order, when it is done: to show progress, or to save results.
    journal
        A file to which each trial is written when it is done, one JSON object a line. A search that was killed goes on
        where it was: trials with a score that are in the file already, of the same rate, budget and seed, are not run
        again. So give each `train` a file of its own.
    verbose
        None for a table of the best trials, updated in place, if stderr is a terminal, and nothing elsewhere; True for
        the table, or lines where there is no terminal; False for nothing.

    Returns a `Tuned`; the same for the same `train`, whatever the executor and the order in which trials finish.

    A trial that raises (also SystemExit or an asyncio.CancelledError), or whose score is not finite, is recorded with
    its reason; the others continue. Only KeyboardInterrupt stops the search. Where a process dies (out of memory,
    SIGKILL) and breaks its pool, as with `ProcessPoolExecutor`, the trials that the pool held are run again one at a
    time in a new pool, which shows which one it was. Under MPI, one process that dies ends all.

    Raises
    ------
    TypeError, ValueError
        Before anything is run.
    RuntimeError
        If no trial had a score; the message has the first reason.

    Differs from Optuna and Ray Tune: the number of trials is given, not a time, and trials begin anew with each budget,
    so that `train` needs no callback.

    >>> import math, fastlr
    >>> def train(lr, budget, seed):
    ...     return (math.log10(lr) + 2) ** 2 + 1 / budget
    >>> found = fastlr.tune_lr(train, 1e-6, 1.0, budget=27)
    >>> 0.008 < found.lr < 0.0125, len(found.trials), round(found.cost / 27, 1)
    (True, 24, 5.9)
    >>> def train(lr, budget, seed, weight_decay):
    ...     return 1 + (math.log10(lr) + 2) ** 2 + (math.log10(weight_decay) + math.log10(lr) + 5) ** 2 / 4
    >>> found = fastlr.tune_lr(train, 1e-6, 1.0, budget=27, also={"weight_decay": (1e-5, 1e-1)})
    >>> 0.005 < found.params["lr"] < 0.02, 1e-4 < found.params["weight_decay"] < 1e-2
    (True, True)
    """
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else list(seeds)  # type: ignore[arg-type]
    axes = axes_of(low, high, also)
    points = POINTS * len(axes) if points is None else points
    check(train, low, high, budget, mode, points, eta, rungs, 1 if finalists is None else finalists, refine, seeds,
          timeout, executor)
    budgets = sorted({divided(budget, eta ** (rungs - 1 - k)) for k in range(rungs)})
    shares = [size / budget for size in budgets]
    if finalists is None:
        finalists = affordable(points, eta, shares, refine, len(seeds), COST * len(axes))
    counts = planned_counts(points, eta, len(budgets), finalists)
    show = progress.shown(verbose, mode, budget, cost_of(counts, shares, refine, len(seeds)) * len(seeds))
    search = Search(train, axes, points, mode, seeds, [told for told in (show, on_trial) if told is not None],
                    None if journal is None else Journal(journal))
    try:
        with Workers(executor, timeout) as workers:
            for_one, for_two = (search.halved, search.halfway), (search.guided, search.guided)
            following, refined = for_two if axes[1:] else for_one
            search.run(workers, first_points(axes, points), budgets[0], all_seeds=len(budgets) == 1)
            for count, size in zip(counts[1:], budgets[1:], strict=True):
                following(workers, count, size, size == budget)
            for _ in range(refine if search.best() is not None else 0):
                refined(workers, 2, budgets[-1], True)
    finally:
        if show is not None:
            show.close()
    best = search.best()
    if best is None:
        lost = [trial.reason for trial in search.trials if trial.status != "done"]
        at_full = " at the full budget" if any(trial.status == "done" for trial in search.trials) else ""
        raise RuntimeError(f"tune_lr: no trial had a score{at_full}; "
                           f"{len(lost)} failed or diverged, the first with: {lost[0]}")
    values = search.values(best)
    lr = values.pop("lr")
    worse = {trial.lr for trial in search.trials} - {lr}
    score = search.scores[-1][best]
    return Tuned(
        lr=lr, score=score if mode == "min" else -score, mode=mode, budget=budget, trials=search.trials, also=values,
        bracket=(max((rate for rate in worse if rate < lr), default=low),
                 min((rate for rate in worse if rate > lr), default=high)))


def axes_of(low: float, high: float, also: Any) -> list[Axis]:
    """The ranges; TypeError or ValueError for what is not one more name with a range."""
    axes = [Axis("lr", low, high)]
    if also is None:
        return axes
    if not isinstance(also, Mapping) or len(also) != 1:
        raise TypeError(f"tune_lr: also must have one name and its range, as {{'weight_decay': (1e-5, 1e-1)}}, got "
                        f"{also!r}")
    (name, limits), = also.items()
    if not isinstance(name, str) or name in ("lr", "budget", "seed"):
        raise ValueError(f"tune_lr: also must name an argument of train other than lr, budget and seed, got {name!r}")
    try:
        least, most = map(float, limits)
    except (TypeError, ValueError):
        raise TypeError(f"tune_lr: also[{name!r}] must be its least and its highest value, got {limits!r}") from None
    if not 0 <= least < most < math.inf:
        raise ValueError(f"tune_lr: also[{name!r}]: 0 <= low < high < infinity must hold, got {limits!r}")
    return [*axes, Axis(name, least, most)]


def check(train: Any, low: float, high: float, budget: float, mode: str, points: int, eta: int, rungs: int,
          finalists: int, refine: int, seeds: Sequence[Any], timeout: float | None, executor: Any) -> None:
    if not callable(train):
        raise TypeError(f"tune_lr: train must be callable as train(lr, budget, seed), got {train!r}")
    if not 0 < low < high < math.inf:
        raise ValueError(f"tune_lr: 0 < low < high < infinity must hold, got low={low}, high={high}")
    if not 0 < budget < math.inf:
        raise ValueError(f"tune_lr: budget must be positive and finite, got {budget}")
    if mode not in ("min", "max"):
        raise ValueError(f"tune_lr: mode must be 'min' (a lower score is better) or 'max', got {mode!r}")
    for name, count, least in (("points", points, 3), ("eta", eta, 2), ("rungs", rungs, 1),
                               ("finalists", finalists, 1), ("refine", refine, 0)):
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"tune_lr: {name} must be an integer, got {count!r}")
        if count < least:
            raise ValueError(f"tune_lr: {name} must be at least {least}, got {count}")
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise ValueError(f"tune_lr: seeds must be a count from 1 up, or integers, got {seeds!r}")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        raise TypeError(f"tune_lr: timeout must be seconds or None, got {timeout!r}")
    if timeout is not None and not 0 < timeout < MOST_TIMEOUT:
        raise ValueError(f"tune_lr: timeout must be seconds above 0, or None for any time, got {timeout}")
    if timeout is not None and executor is None and not can_use_alarms():
        raise ValueError("tune_lr: timeout needs an executor here: without one, only the main thread can end a trial")
    if not (executor is None or hasattr(executor, "submit") or callable(executor)):
        raise TypeError(f"tune_lr: executor must be a concurrent.futures.Executor, a function that makes one, or "
                        f"None, got {type(executor).__name__}")


def divided(budget: float, by: int) -> float:
    """A fraction of the budget; of an integer at least 1."""
    return max(round(budget / by), 1) if isinstance(budget, int) else budget / by


def planned_counts(points: int, eta: int, rungs: int, finalists: int) -> list[int]:
    """How many points have each budget."""
    if rungs == 1:
        return [points]
    return [points, *(max(points // eta**k, finalists + 1) for k in range(1, rungs - 1)), finalists]


def cost_of(counts: list[int], shares: list[float], refine: int, seeds: int) -> float:
    """Of all trials, in full trainings of all seeds; `shares` are those of the full budget."""
    before = sum(count * share for count, share in zip(counts[:-1], shares[:-1], strict=True))
    return before / seeds + counts[-1] + 2 * refine


def affordable(points: int, eta: int, shares: list[float], refine: int, seeds: int, most: float) -> int:
    """The most finalists that keep the cost below `most`; one at least."""
    fitting = [count for count in range(2, points + 1)
               if cost_of(planned_counts(points, eta, len(shares), count), shares, refine, seeds) <= most]
    return max(fitting, default=1)


class Search:
    """The trials up to now, and the scores of points by budget: lower is better here, and infinity stands for none."""

    def __init__(self, train: Train, axes: list[Axis], points: int, mode: Mode, seeds: list[int],
                 told: list[Callable[[Trial], object]], journal: Journal | None) -> None:
        self.train, self.axes, self.seeds, self.told, self.journal = train, axes, seeds, told, journal
        self.sign = 1.0 if mode == "min" else -1.0
        self.trials: list[Trial] = []
        self.scores: list[dict[Point, float]] = [{}]
        self.round, self.budget = -1, 0.0
        self.spacing = axes[0].width / (points - 1)

    def values(self, point: Point) -> dict[str, float]:
        return {axis.name: axis.value(at) for axis, at in zip(self.axes, point, strict=True)}

    def run(self, workers: Workers, points: list[Point], budget: float, all_seeds: bool = True,
            again: bool = False) -> None:
        """Run one round, of the first seed alone or of all."""
        self.round += not again
        self.budget = budget
        requests = {}
        for point in points:
            values = self.values(point)
            lr = values.pop("lr")
            requests[point] = [Request(lr, budget, seed, tuple(values.items()))
                               for seed in (self.seeds if all_seeds else self.seeds[:1])]
        known = {} if self.journal is None else self.journal.known
        unknown = [one for some in requests.values() for one in some if one not in known]
        outcomes = iter(workers.run(self.train, unknown))
        for point, some in requests.items():
            scores = []
            for request in some:
                lr, _, seed, also = request
                trial = Trial(lr, budget, seed, self.round, *(known.get(request) or next(outcomes)), also=dict(also))
                self.trials.append(trial)
                if self.journal is not None and request not in known:
                    self.journal.write(trial)
                if trial.status != "failed":
                    scores.append(self.sign * trial.score)
                for told in self.told:
                    told(trial)
            has_score = scores and all(map(math.isfinite, scores))
            self.scores[-1][point] = sum(scores) / len(scores) if has_score else math.inf
        next(outcomes, None)                                   # (ends what runs them)

    def halved(self, workers: Workers, count: int, budget: float, all_seeds: bool) -> None:
        """Run the best of the budget before; where none of them has a score, the next ones, one after another."""
        order: list[Point] = []
        seen: set[Point] = set()
        for scores in reversed(self.scores):
            ranked = sorted(scores.keys() - seen, key=lambda point, scores=scores: (scores[point], point))  # type: ignore[misc]
            order += [point for point in ranked if math.isfinite(scores[point])]
            seen |= scores.keys()
        if not order:
            return
        self.scores.append({})
        self.run(workers, order[:count], budget, all_seeds)
        for point in order[count:]:
            if self.best() is not None:
                break
            self.run(workers, [point], budget, all_seeds, again=True)

    def halfway(self, workers: Workers, count: int, budget: float, all_seeds: bool) -> None:
        """Run two rates beside the best: halfway to its neighbors, or to where they would be."""
        known = sorted(self.scores[-1])
        best = self.best()
        assert best is not None
        width, (at,) = self.axes[0].width, best
        self.spacing /= 2
        k = known.index(best)
        below, above = (known[max(k - 1, 0)][0], known[min(k + 1, len(known) - 1)][0])
        least = at - self.spacing if below == at else max(at - self.spacing, below)
        most = at + self.spacing if above == at else min(at + self.spacing, above)
        sides = [(min(max(side, 0.0), width),) for side in (least, most)]
        self.run(workers, [side for side in sides if min(abs(side[0] - one[0]) for one in known) > 1e-6], budget)

    def guided(self, workers: Workers, count: int, budget: float, all_seeds: bool) -> None:
        """Run points that the model proposes, with the full budget one after another."""
        if not any(math.isfinite(score) for of_budget in self.scores for score in of_budget.values()):
            return
        if budget > self.budget:
            self.scores.append({})
        at_once = 1 if all_seeds else count
        for _ in range(count // at_once):
            self.run(workers, next_points(self.axes, self.scores, at_once), budget, all_seeds)

    def rank(self, point: Point) -> tuple[float, Point]:
        """Best first, of equals the lowest rate."""
        return self.scores[-1][point], point

    def best(self) -> Point | None:
        """The best point at the largest budget; None if none has a score."""
        point = min(self.scores[-1], key=self.rank, default=None)
        return None if point is None or math.isinf(self.scores[-1][point]) else point
