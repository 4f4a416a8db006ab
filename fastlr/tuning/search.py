"""A learning rate by its validation score: log-spaced rates, halved as their training grows, refined round the best."""

from __future__ import annotations

import faulthandler
import math
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from matplotlib.axes import Axes

Train = Callable[[float, Any, int], float]
Mode = Literal["min", "max"]
Status = Literal["done", "diverged", "failed"]

AGAIN, GRACE = 1.0, 1.0     # seconds from one alarm to the next, and to the end of a process that does not heed any
START = 30.0                # seconds that a cluster may take until its first trial begins
LONGEST = threading.TIMEOUT_MAX / 4


@dataclass(frozen=True)
class Trial:
    """One call of `train`: what it was asked, and its score, or why it has none.

    `status` is "done", "diverged" (the score is not finite) or "failed" (an exception, or a worker that died).
    `seconds` is wall time where it ran, NaN if nobody came back to tell. `round` counts the rungs, then refinements.
    """

    lr: float
    budget: float
    seed: int
    round: int
    status: Status
    score: float
    seconds: float
    reason: str = ""


@dataclass
class Tuned:
    """What `tune_lr` found.

    `lr` is the best rate at the full budget and `score` its mean over the seeds; `bracket` are the nearest rates on
    either side that were tried and were not better, or an end of the range. `cost` is the sum of all budgets asked
    for, failed trials among them; `seconds` that of the times reported back. `trials` are in the order in which they
    were decided on, which does not depend on who was faster.
    """

    lr: float
    score: float
    bracket: tuple[float, float]
    mode: Mode
    budget: float
    trials: list[Trial] = field(repr=False)

    @property
    def cost(self) -> float:
        return sum(trial.budget for trial in self.trials)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials if math.isfinite(trial.seconds))

    def table(self) -> str:
        """All trials, a line each."""
        lines = [f"{'round':>5} {'lr':>10} {'budget':>8} {'seed':>6} {'score':>12} {'seconds':>8}  status"]
        lines += [f"{t.round:5} {t.lr:10.4g} {t.budget:8g} {t.seed:6} {t.score:12.6g} {t.seconds:8.3g}  {t.status}"
                  + (f": {t.reason}" if t.reason else "") for t in self.trials]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, ready for JSON but for infinities and NaN."""
        return {"lr": self.lr, "score": self.score, "bracket": list(self.bracket), "mode": self.mode,
                "budget": self.budget, "cost": self.cost, "seconds": self.seconds,
                "trials": [asdict(trial) for trial in self.trials]}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw scores by rate, a colour for each budget; the matplotlib Axes. Needs `pip install fastlr-core[lab]`."""
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots()[1]
        ax.set_xscale("log")
        for k, budget in enumerate(sorted({trial.budget for trial in self.trials})):
            done = sorted((t.lr, t.score) for t in self.trials if t.budget == budget and t.status == "done")
            if done:
                ax.plot(*zip(*done, strict=True), "o-", color=f"C{k}", markersize=4, linewidth=0.8,
                        label=f"budget {budget:g}")
        lost = [t.lr for t in self.trials if t.status != "done"]
        if lost:
            ax.plot(lost, [0.02] * len(lost), "x", color="C3", transform=ax.get_xaxis_transform(),
                    label="diverged or failed")
        ax.axvspan(*self.bracket, color="0.5", alpha=0.1)
        ax.axvline(self.lr, color="C3", linewidth=0.8, label=f"lr {self.lr:.3g}")
        ax.set_xlabel("learning rate")
        ax.set_ylabel(f"validation score ({'lower' if self.mode == 'min' else 'higher'} is better)")
        ax.legend(fontsize=8)
        return ax


def tune_lr(
    train: Train,
    low: float,
    high: float,
    *,
    budget: float,
    mode: Mode = "min",
    points: int = 13,
    eta: int = 3,
    rungs: int = 3,
    refine: int = 2,
    seeds: int | Iterable[int] = 1,
    timeout: float | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    on_trial: Callable[[Trial], object] | None = None,
) -> Tuned:
    r"""Find the rate with the best validation score, at a fraction of a grid's cost.

    `points` rates from `low` to `high`, evenly spaced by their logarithm, are trained with a small budget; the best
    1 / eta of them with eta times as much; and so on to the full one (successive halving, Jamieson & Talwalkar 2016,
    arXiv:1502.07943; one bracket of Hyperband, Li et al. 2018, arXiv:1603.06560):

    .. math:: b_k = B / \eta^{K - 1 - k}, \qquad n_k = \lceil n_0 / \eta^k \rceil, \qquad k = 0, ..., K - 1.

    Then `refine` times the best rate at the full budget is tried half as far from its neighbours, on both sides. With
    the defaults that costs 13/9 + 5/3 + 2 + 4 = 9.1 full trainings.

    Parameters
    ----------
    train
        ``train(lr, budget, seed) -> score``, from the beginning, in one call: on data that it does not train on. It
        shall depend on its arguments alone. With processes it must be importable, as a function of a module is.
    low, high
        The range of rates.
    budget
        The full budget, in epochs, updates, or what `train` takes it for. An integer stays one when it is divided.
    mode
        "min" if a lower score is better (a loss), "max" if a higher one is (an accuracy).
    points, eta, rungs, refine
        As above. Equal budgets, as they come of a small integer, are one rung.
    seeds
        How many seeds (0, 1, ...), or which. The score of a rate is the mean over them; if one diverged, it has none.
    timeout
        The most seconds that one trial may take, counted from when it begins; None for any. One that takes longer is
        "failed". In the main thread of a process (without an executor, in a process pool, under MPI) an alarm ends
        `train` with an exception, also in a call that waits; what does not heed it, as a loop in C, ends with its
        process where that belongs to a `ProcessPoolExecutor`. A thread cannot be ended: with a thread pool, and on
        Dask, nobody waits for such a trial any more when no other one has come back for `timeout` and 2 seconds (on a
        cluster, 30 more if none ever has). But it runs on: its thread does no other work, what Dask has put behind it
        is lost with it, and Python waits for the thread at its end. Trials that had not begun go on if `executor` is a
        function that makes another one.
    executor
        Where trials run: None is here, one after another; any `concurrent.futures.Executor`: threads, processes,
        Dask's ``client.get_executor()``, ``mpi4py.futures.MPIPoolExecutor()``; or a function that makes one, which
        `tune_lr` then shuts down. A round's trials run at the same time.
    on_trial
        Called with each `Trial` of a round, in order, as it comes back: for progress, and to keep what was done when
        interrupted.

    Returns a `Tuned`; the same for the same `train`, whatever executor, whoever is faster.

    A trial that raises, or whose score is not finite, is recorded with its reason, and costs only itself. Where a
    process dies (out of memory, SIGKILL) and takes its pool along, as `ProcessPoolExecutor`'s do, the trials it held
    are run again one at a time in a new pool, until it shows which one it was. MPI ends all its processes with one.

    Raises
    ------
    TypeError, ValueError
        Before anything is run.
    RuntimeError
        If no trial had a score; it tells the first reason.

    >>> import math, fastlr
    >>> def train(lr, budget, seed):
    ...     return (math.log10(lr) + 2) ** 2 + 1 / budget
    >>> found = fastlr.tune_lr(train, 1e-6, 1.0, budget=27)
    >>> 0.008 < found.lr < 0.0125, len(found.trials), round(found.cost / 27, 1)
    (True, 24, 9.1)
    """
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else list(seeds)  # type: ignore[arg-type]
    check(train, low, high, budget, mode, points, eta, rungs, refine, seeds, timeout, executor)
    search = Search(train, budget, mode, seeds, on_trial)
    rates = [float(rate) for rate in np.geomspace(low, high, points)]
    spacing = rates[1] / rates[0]
    budgets = sorted({divided(budget, eta ** (rungs - 1 - k)) for k in range(rungs)})
    with Workers(executor, timeout) as workers:
        order, scored = rates, rates
        for k, size in enumerate(budgets):
            count = max(math.ceil(points / eta**k), 1)
            scored = search.run(workers, order[:count], size)
            while not scored and count < len(order):         # (all of them were lost: who is next?)
                scored = search.run(workers, order[count:count + 1], size, again=True)
                count += 1
            order = scored + order[count:]
        for _ in range(refine if scored else 0):
            known = sorted(search.scores[budgets[-1]])
            best = search.best()
            at = known.index(best)
            spacing = math.sqrt(spacing)
            below, above = known[max(at - 1, 0)], known[min(at + 1, len(known) - 1)]
            sides = [max(best / spacing, below * 1.0001), min(best * spacing, above / 1.0001)]
            if below == best:
                sides[0] = max(best / spacing, low)
            if above == best:
                sides[1] = min(best * spacing, high)
            search.run(workers, [rate for rate in sides if rate not in known], budgets[-1])
    lost = [trial.reason for trial in search.trials if trial.status != "done"]
    if not scored:
        raise RuntimeError(f"tune_lr: no trial had a score; {len(lost)} were lost, the first to this: {lost[0]}")
    lr = search.best()
    worse = sorted({trial.lr for trial in search.trials} - {lr})
    return Tuned(
        lr=lr, score=search.scores[budgets[-1]][lr], mode=mode, budget=budget, trials=search.trials,
        bracket=(max((rate for rate in worse if rate < lr), default=low),
                 min((rate for rate in worse if rate > lr), default=high)))


def check(train: Any, low: float, high: float, budget: float, mode: str, points: int, eta: int, rungs: int,
          refine: int, seeds: Sequence[Any], timeout: float | None, executor: Any) -> None:
    if not callable(train):
        raise TypeError(f"tune_lr: train must be callable as train(lr, budget, seed), got {train!r}")
    if not 0 < low < high < math.inf:
        raise ValueError(f"tune_lr: 0 < low < high < infinity must hold, got low={low}, high={high}")
    if not 0 < budget < math.inf:
        raise ValueError(f"tune_lr: budget must be positive and finite, got {budget}")
    if mode not in ("min", "max"):
        raise ValueError(f"tune_lr: mode must be 'min' (a lower score is better) or 'max', got {mode!r}")
    for name, count, least in (("points", points, 3), ("eta", eta, 2), ("rungs", rungs, 1), ("refine", refine, 0)):
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"tune_lr: {name} must be an integer, got {count!r}")
        if count < least:
            raise ValueError(f"tune_lr: {name} must be at least {least}, got {count}")
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise ValueError(f"tune_lr: seeds must be a count from 1 up, or integers, got {seeds!r}")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        raise TypeError(f"tune_lr: timeout must be seconds or None, got {timeout!r}")
    if timeout is not None and not 0 < timeout < LONGEST:
        raise ValueError(f"tune_lr: timeout must be seconds above 0, or None for any time, got {timeout}")
    if timeout is not None and executor is None and not alarms_reach():
        raise ValueError("tune_lr: timeout needs an executor here: without one only a main thread can end a trial")
    if not (executor is None or hasattr(executor, "submit") or callable(executor)):
        raise TypeError(f"tune_lr: executor must be a concurrent.futures.Executor, a function that makes one, or "
                        f"None, got {type(executor).__name__}")


def divided(budget: float, by: int) -> float:
    """A share of the budget, at least 1 if it counts something."""
    return max(round(budget / by), 1) if isinstance(budget, int) else budget / by


class Search:
    """The trials so far, and the scores of rates by budget."""

    def __init__(self, train: Train, budget: float, mode: Mode, seeds: list[int],
                 on_trial: Callable[[Trial], object] | None) -> None:
        self.train, self.mode, self.seeds, self.on_trial = train, mode, seeds, on_trial
        self.trials: list[Trial] = []
        self.scores: dict[float, dict[float, float]] = {}      # budget -> rate -> score
        self.round = -1

    def run(self, workers: Workers, rates: list[float], budget: float, again: bool = False) -> list[float]:
        """One round; the rates that have a score, the best first."""
        self.round += not again
        asked = [(lr, budget, seed) for lr in rates for seed in self.seeds]
        found: dict[float, list[float]] = {lr: [] for lr in rates}
        for (lr, _, seed), outcome in zip(asked, workers.run(self.train, asked), strict=True):
            trial = Trial(lr, budget, seed, self.round, *outcome)
            self.trials.append(trial)
            if trial.status != "failed":
                found[lr].append(trial.score)
            if self.on_trial is not None:
                self.on_trial(trial)
        scores = self.scores.setdefault(budget, {})
        for lr, values in found.items():
            if values and all(map(math.isfinite, values)):
                scores[lr] = sum(values) / len(values)
        return sorted((lr for lr in rates if lr in scores), key=lambda lr: self.key(scores, lr))

    def key(self, scores: dict[float, float], lr: float) -> tuple[float, float]:
        """The less the better; of equals the lower rate."""
        return (scores[lr] if self.mode == "min" else -scores[lr]), lr

    def best(self) -> float:
        """The best rate at the largest budget."""
        scores = self.scores[max(self.scores)]
        return min(scores, key=lambda lr: self.key(scores, lr))


Outcome = tuple[Status, float, float, str]   # status, score, seconds, reason


class Overdue(BaseException):
    """Ends a trial that takes too long; no Exception, so that a `train` that catches those does not catch it."""


def attempt(train: Train, lr: float, budget: float, seed: int, timeout: float | None = None,
            deadly: bool = False) -> Outcome:
    """One trial, where it runs; an exception becomes its reason, as not every exception can travel."""
    start = perf_counter()
    try:
        score = limited(lambda: float(train(lr, budget, seed)), timeout, deadly)
    except Overdue:
        return "failed", math.nan, perf_counter() - start, too_long(timeout)
    except Exception as error:
        return "failed", math.nan, perf_counter() - start, told(error)
    seconds = perf_counter() - start
    if not math.isfinite(score):
        return "diverged", score, seconds, f"the score is {score}"
    return "done", score, seconds, ""


def limited(call: Callable[[], float], timeout: float | None, deadly: bool) -> float:
    """The result of a call; where an alarm can reach it, `Overdue` is raised in it after so many seconds."""
    if timeout is None or not alarms_reach():
        return call()
    return alarmed(call, timeout, deadly)


def alarms_reach() -> bool:
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")


def alarmed(call: Callable[[], float], timeout: float, deadly: bool) -> float:
    """Again every `AGAIN` seconds while it goes on; if `deadly`, the process ends that does not heed it."""
    def ring(number: int, frame: object) -> None:
        raise Overdue

    start = perf_counter()
    before = signal.signal(signal.SIGALRM, ring)
    others = signal.setitimer(signal.ITIMER_REAL, timeout, AGAIN)
    try:
        if deadly:      # (a thread that needs no GIL; it says on stderr where the process stands)
            faulthandler.dump_traceback_later(timeout + GRACE, exit=True, file=2)
        return call()
    finally:
        while True:
            try:        # (it may ring in here; next time it has `AGAIN` seconds)
                signal.setitimer(signal.ITIMER_REAL, 0)
                if deadly:
                    faulthandler.cancel_dump_traceback_later()
                signal.signal(signal.SIGALRM, before)
                break
            except Overdue:
                continue
        if others[0]:   # the host's own alarm, which has gone on meanwhile
            signal.setitimer(signal.ITIMER_REAL, max(others[0] - (perf_counter() - start), 1e-6), others[1])


def too_long(timeout: float | None) -> str:
    return f"TimeoutError: no score within {timeout:g} s"


def told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


class Workers:
    """An executor that outlives the death of its processes, and trials that never end; or none, and trials run here."""

    def __init__(self, executor: Any, timeout: float | None) -> None:
        self.executor: Executor | None = None
        self.make: Callable[[], Executor] | None = None
        if isinstance(executor, type) or (executor is not None and not hasattr(executor, "submit")):
            self.make = executor
            self.executor = executor()
        else:
            self.executor = executor
        self.own = self.make is not None
        self.timeout = timeout
        self.answered = False                # whether any trial has come back

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.own and self.executor is not None:
            self.executor.shutdown(cancel_futures=True)

    def run(self, train: Train, asked: list[tuple[float, float, int]]) -> Iterable[Outcome]:
        """The outcome of each, in order."""
        if self.executor is None:
            for arguments in asked:
                yield attempt(train, *arguments, timeout=self.timeout)
            return
        waiting = [self.submitted(train, arguments) for arguments in asked]
        lost: dict[int, Outcome] = {}
        broken = False
        try:
            for k, arguments in enumerate(asked):
                while k not in lost and not self.patient(waiting[k], waiting):
                    self.give_up(train, asked, waiting, lost)
                outcome = lost.get(k) or self.outcome(waiting[k])
                if outcome is None:                      # (the executor broke: was it this one?)
                    if not broken:
                        self.renew()
                    broken = True
                    outcome = self.alone(train, arguments)
                yield outcome
        finally:
            for future in waiting:
                if future is not None:
                    future.cancel()

    def alone(self, train: Train, arguments: tuple[float, float, int]) -> Outcome:
        """A trial with nobody beside it, in an executor that is new."""
        future, start = self.submitted(train, arguments), perf_counter()
        patient = self.patient(future, [future])
        outcome = self.outcome(future) if patient else None
        if outcome is None:
            self.renew(wait=patient)
            late = self.timeout is not None and perf_counter() - start >= self.timeout
            return "failed", math.nan, math.nan, too_long(self.timeout) if late else "the process that ran it died"
        return outcome

    def submitted(self, train: Train, arguments: tuple[float, float, int]) -> Any:
        """A future, or None if the executor is broken already."""
        from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

        assert self.executor is not None
        more = () if self.timeout is None else (self.timeout, isinstance(self.executor, ProcessPoolExecutor))
        try:
            return self.executor.submit(attempt, train, *arguments, *more)
        except BrokenExecutor:
            return None

    def patient(self, future: Any, waiting: Sequence[Any]) -> bool:
        """Wait for a trial; False if neither it nor another one came back in longer than any may take."""
        from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait

        if self.timeout is None or future is None or isinstance(self.executor, ProcessPoolExecutor):
            return True                  # (whose processes end what takes too long, or themselves)
        pending = {one for one in waiting if one is not None and not one.done()}
        self.answered |= len(pending) < sum(one is not None for one in waiting)
        while not future.done():
            begins = 0.0 if self.answered or isinstance(self.executor, ThreadPoolExecutor) else START
            done, pending = wait(pending, self.timeout + 2 * GRACE + begins, FIRST_COMPLETED)
            if not done:
                return False
            self.answered = True
        return True

    def give_up(self, train: Train, asked: list[tuple[float, float, int]], waiting: list[Any],
                lost: dict[int, Outcome]) -> None:
        """No longer wait for what is running; what has not begun goes to a new executor, if one can be made."""
        unbegun = []
        for k, future in enumerate(waiting):
            if future is None or future.done():
                continue
            if future.cancel():
                unbegun.append(k)
            else:
                lost[k] = "failed", math.nan, math.nan, too_long(self.timeout)
        if not lost.keys() & {k for k, future in enumerate(waiting) if future is not None}:
            lost[unbegun.pop(0)] = "failed", math.nan, math.nan, too_long(self.timeout)   # (so it ends in any case)
        for k in lost:
            waiting[k] = None
        if self.make is not None:
            self.renew(wait=False)
        for k in unbegun:
            if self.make is not None:
                waiting[k] = self.submitted(train, asked[k])
            else:
                lost[k] = "failed", math.nan, math.nan, "no worker was free: they are busy with trials that never end"

    def outcome(self, future: Any) -> Outcome | None:
        """What became of a trial; None if its executor broke."""
        from concurrent.futures import BrokenExecutor

        if future is None:
            return None
        try:
            outcome: Outcome = future.result()
        except BrokenExecutor:
            return None
        except Exception as error:           # (it could not be sent, or its worker was lost)
            return "failed", math.nan, math.nan, told(error)
        return outcome

    def renew(self, wait: bool = True) -> None:
        """A new executor like the broken one."""
        from concurrent.futures import ProcessPoolExecutor

        broken = self.executor
        if self.make is None:
            if not isinstance(broken, ProcessPoolExecutor):
                raise RuntimeError(f"tune_lr: the executor ({type(broken).__name__}) broke; give a function that makes "
                                   f"one, and a new one takes its place")
            defaults: dict[str, Any] = {"max_workers": None, "mp_context": None, "initializer": None, "initargs": ()}
            settings = {name: getattr(broken, f"_{name}", default) for name, default in defaults.items()}
            self.make = lambda: ProcessPoolExecutor(**settings)
        if self.own and broken is not None:
            broken.shutdown(wait=wait, cancel_futures=True)
        self.executor, self.own = self.make(), True
