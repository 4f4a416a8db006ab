"""A learning rate by its validation score: successive halving of log-spaced rates, then refinement near the best."""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..optimizers.declaration import KnownAttributes

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from matplotlib.axes import Axes

Train = Callable[[float, Any, int], float]
Mode = Literal["min", "max"]
Status = Literal["done", "diverged", "failed"]

ALARM_INTERVAL = 1.0        # seconds from one alarm to the next
GRACE = 1.0                 # seconds after a timeout until a process that no alarm stops is ended
CLUSTER_START = 30.0        # seconds that a cluster may need until its first trial starts
MOST_TIMEOUT = threading.TIMEOUT_MAX / 4


@dataclass(frozen=True)
class Trial:
    """One call of `train`: its arguments, and its score, or the reason why it has none.

    `status` is "done", "diverged" (the score is not finite) or "failed" (an exception, or a worker that died).
    `seconds` is wall time where it ran, NaN if it never returned. `round` counts the rungs, then refinements.
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
class Tuned(KnownAttributes):
    """What `tune_lr` found.

    `lr` is the best rate at the full budget and `score` its mean over the seeds; `bracket` are the nearest rates on
    either side that were tried and were not better, or an end of the range. `cost` is the sum of the budgets of all
    trials, also of failed ones; `seconds` is the sum of their times where known. `trials` are in the order in which
    they were submitted, which does not depend on the order in which they finished.
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
        """All trials as text, one line each."""
        lines = [f"{'round':>5} {'lr':>10} {'budget':>8} {'seed':>6} {'score':>12} {'seconds':>8}  status"]
        lines += [f"{t.round:5} {t.lr:10.4g} {t.budget:8g} {t.seed:6} {t.score:12.6g} {t.seconds:8.3g}  {t.status}"
                  + (f": {t.reason}" if t.reason else "") for t in self.trials]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All attributes as plain data, which JSON can hold except for infinities and NaN."""
        return {"lr": self.lr, "score": self.score, "bracket": list(self.bracket), "mode": self.mode,
                "budget": self.budget, "cost": self.cost, "seconds": self.seconds,
                "trials": [asdict(trial) for trial in self.trials]}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw scores by rate, a color per budget; return the matplotlib Axes. Needs `pip install fastlr-core[lab]`."""
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
    journal: str | os.PathLike[str] | None = None,
) -> Tuned:
    r"""Find the rate with the best validation score, at a fraction of the cost of a grid.

    `points` rates from `low` to `high`, evenly spaced by their logarithm, are trained with a small budget; the best
    1 / eta of them with eta times as much; and so on up to the full budget (successive halving, Jamieson & Talwalkar
    2016, arXiv:1502.07943; one bracket of Hyperband, Li et al. 2018, arXiv:1603.06560):

    .. math:: b_k = B / \eta^{K - 1 - k}, \qquad n_k = \lceil n_0 / \eta^k \rceil, \qquad k = 0, ..., K - 1.

    Then, `refine` times, two more rates are tried, halfway between the best rate and its neighbors. With the defaults
    that costs 13/9 + 5/3 + 2 + 4 = 9.1 full trainings.

    Parameters
    ----------
    train
        ``train(lr, budget, seed) -> score`` trains from the beginning and returns a score on other data. It must depend
        on its arguments only. With processes it must be importable, as a function of a module is.
    low, high
        The range of rates.
    budget
        The full budget, in epochs, updates, or any unit of `train`. An integer budget is divided into integers.
    mode
        "min" if a lower score is better (a loss), "max" if a higher one is (an accuracy).
    points, eta, rungs, refine
        As above. Equal budgets, which a small integer may give, are one rung.
    seeds
        How many seeds (0, 1, ...), or which. The score of a rate is the mean over them; it has none if one diverged.
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

    >>> import math, fastlr
    >>> def train(lr, budget, seed):
    ...     return (math.log10(lr) + 2) ** 2 + 1 / budget
    >>> found = fastlr.tune_lr(train, 1e-6, 1.0, budget=27)
    >>> 0.008 < found.lr < 0.0125, len(found.trials), round(found.cost / 27, 1)
    (True, 24, 9.1)
    """
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else list(seeds)  # type: ignore[arg-type]
    check(train, low, high, budget, mode, points, eta, rungs, refine, seeds, timeout, executor)
    search = Search(train, budget, mode, seeds, on_trial, None if journal is None else Journal(journal))
    rates = [float(rate) for rate in np.geomspace(low, high, points)]
    spacing = rates[1] / rates[0]
    budgets = sorted({divided(budget, eta ** (rungs - 1 - k)) for k in range(rungs)})
    with Workers(executor, timeout) as workers:
        order, scored = rates, rates
        for k, size in enumerate(budgets):
            count = max(math.ceil(points / eta**k), 1)
            scored = search.run(workers, order[:count], size)
            while not scored and count < len(order):         # (all of them failed: try the next one)
                scored = search.run(workers, order[count:count + 1], size, again=True)
                count += 1
            order = scored + order[count:]
        for _ in range(refine if scored else 0):
            known = sorted(search.scores[budgets[-1]])
            best = search.best()
            k = known.index(best)
            spacing = math.sqrt(spacing)
            below, above = known[max(k - 1, 0)], known[min(k + 1, len(known) - 1)]
            sides = [max(best / spacing, below * 1.0001), min(best * spacing, above / 1.0001)]
            if below == best:
                sides[0] = max(best / spacing, low)
            if above == best:
                sides[1] = min(best * spacing, high)
            search.run(workers, [rate for rate in sides if rate not in known], budgets[-1])
    lost = [trial.reason for trial in search.trials if trial.status != "done"]
    if not scored:
        raise RuntimeError(f"tune_lr: no trial had a score; {len(lost)} failed or diverged, the first with: {lost[0]}")
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


class Search:
    """The trials up to now, and the scores of rates by budget."""

    def __init__(self, train: Train, budget: float, mode: Mode, seeds: list[int],
                 on_trial: Callable[[Trial], object] | None, journal: Journal | None = None) -> None:
        self.train, self.mode, self.seeds, self.on_trial, self.journal = train, mode, seeds, on_trial, journal
        self.trials: list[Trial] = []
        self.scores: dict[float, dict[float, float]] = {}      # budget -> rate -> score
        self.round = -1

    def run(self, workers: Workers, rates: list[float], budget: float, again: bool = False) -> list[float]:
        """Run one round; return the rates that have a score, the best first."""
        self.round += not again
        requests = [(lr, budget, seed) for lr in rates for seed in self.seeds]
        found: dict[float, list[float]] = {lr: [] for lr in rates}
        known = {} if self.journal is None else self.journal.known
        outcomes = iter(workers.run(self.train, [request for request in requests if request not in known]))
        for request in requests:
            lr, _, seed = request
            trial = Trial(lr, budget, seed, self.round, *(known.get(request) or next(outcomes)))
            self.trials.append(trial)
            if self.journal is not None and request not in known:
                self.journal.write(trial)
            if trial.status != "failed":
                found[lr].append(trial.score)
            if self.on_trial is not None:
                self.on_trial(trial)
        next(outcomes, None)                                   # (ends what runs them)
        scores = self.scores.setdefault(budget, {})
        for lr, values in found.items():
            if values and all(map(math.isfinite, values)):
                scores[lr] = sum(values) / len(values)
        return sorted((lr for lr in rates if lr in scores), key=lambda lr: self.key(scores, lr))

    def key(self, scores: dict[float, float], lr: float) -> tuple[float, float]:
        """What sorts rates from best to worst; of equal scores the lower rate is first."""
        return (scores[lr] if self.mode == "min" else -scores[lr]), lr

    def best(self) -> float:
        """The best rate at the largest budget."""
        scores = self.scores[max(self.scores)]
        return min(scores, key=lambda lr: self.key(scores, lr))


Outcome = tuple[Status, float, float, str]   # status, score, seconds, reason


class Journal:
    """The trials of a search in a file, a line each: written when they are done, and read when it begins anew."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.known: dict[tuple[float, float, int], Outcome] = {}
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]              # (a kill may have torn the last line)
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                trial = Trial(**entry | {"score": float(entry["score"]), "seconds": float(entry["seconds"])})
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"tune_lr: journal {self.path.name}: line {number}: expected a trial as tune_lr "
                                 f"writes it, got {line[:40].decode(errors='replace')!r}; give another file") from error
            if trial.status == "done":
                self.known[trial.lr, trial.budget, trial.seed] = "done", trial.score, trial.seconds, ""
        if whole != data:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def write(self, trial: Trial) -> None:
        entry = asdict(trial) | {"score": str(trial.score), "seconds": str(trial.seconds)}   # (JSON has no NaN)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


class TrialTimeout(BaseException):
    """Ends a trial that takes too long; not an Exception, so that a `train` that catches those does not catch it."""


def run_trial(train: Train, lr: float, budget: float, seed: int, timeout: float | None = None,
              end_process: bool = False) -> Outcome:
    """Run one trial, in the process where this is called; return an exception as text, as some cannot be pickled."""
    start = perf_counter()
    try:
        score = limited(lambda: float(train(lr, budget, seed)), timeout, end_process)
    except TrialTimeout:
        return "failed", math.nan, perf_counter() - start, timeout_text(timeout)
    except KeyboardInterrupt:
        raise
    except BaseException as error:         # also sys.exit() and cancellation
        return "failed", math.nan, perf_counter() - start, error_text(error)
    seconds = perf_counter() - start
    if not math.isfinite(score):
        return "diverged", score, seconds, f"the score is {score}"
    return "done", score, seconds, ""


def limited(call: Callable[[], float], timeout: float | None, end_process: bool) -> float:
    """The result of a call; where alarms work, `TrialTimeout` is raised in it after `timeout` seconds."""
    if timeout is None or not can_use_alarms():
        return call()
    return with_alarm(call, timeout, end_process)


def can_use_alarms() -> bool:
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")


def with_alarm(call: Callable[[], float], timeout: float, end_process: bool) -> float:
    """The result of a call in which `TrialTimeout` is raised after `timeout` seconds, and every second thereafter.

    With `end_process`, the process ends if the call still runs `GRACE` seconds after the timeout.
    """
    def ring(number: int, frame: object) -> None:
        raise TrialTimeout

    start = perf_counter()
    handler = signal.signal(signal.SIGALRM, ring)
    other_timer = signal.setitimer(signal.ITIMER_REAL, timeout, ALARM_INTERVAL)
    try:
        if end_process:      # (a thread that needs no GIL; it writes the traceback to stderr)
            faulthandler.dump_traceback_later(timeout + GRACE, exit=True, file=2)
        return call()
    finally:
        while True:
            try:        # (the alarm may ring here; the next try has `ALARM_INTERVAL` seconds)
                signal.setitimer(signal.ITIMER_REAL, 0)
                if end_process:
                    faulthandler.cancel_dump_traceback_later()
                signal.signal(signal.SIGALRM, handler)
                break
            except TrialTimeout:
                continue
        if other_timer[0]:   # the timer of the host, less the time that has passed
            signal.setitimer(signal.ITIMER_REAL, max(other_timer[0] - (perf_counter() - start), 1e-6), other_timer[1])


def timeout_text(timeout: float | None) -> str:
    return f"TimeoutError: no score within {timeout:g} s"


def error_text(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


class Workers:
    """An executor that is replaced when it breaks or when its trials never end; or none: trials run in this thread."""

    def __init__(self, executor: Any, timeout: float | None) -> None:
        self.executor: Executor | None = None
        self.make: Callable[[], Executor] | None = None
        if isinstance(executor, type) or (executor is not None and not hasattr(executor, "submit")):
            self.make = executor
            self.executor = executor()
        else:
            self.executor = executor
        self.owned = self.make is not None
        self.timeout = timeout
        self.any_done = False                # whether any trial has finished

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.owned and self.executor is not None:
            self.executor.shutdown(cancel_futures=True)

    def run(self, train: Train, requests: list[tuple[float, float, int]]) -> Iterable[Outcome]:
        """The outcome of each trial, in order."""
        if self.executor is None:
            for arguments in requests:
                yield run_trial(train, *arguments, timeout=self.timeout)
            return
        futures = [self.submit(train, arguments) for arguments in requests]
        lost: dict[int, Outcome] = {}
        broken = False
        try:
            for k, arguments in enumerate(requests):
                while k not in lost and not self.wait_for(futures[k], futures):
                    self.give_up(train, requests, futures, lost)
                outcome = lost.get(k) or self.outcome(futures[k])
                if outcome is None:                      # (the executor broke, perhaps by this trial)
                    if not broken:
                        self.renew()
                    broken = True
                    outcome = self.run_alone(train, arguments)
                yield outcome
        finally:
            for future in futures:
                if future is not None:
                    future.cancel()

    def run_alone(self, train: Train, arguments: tuple[float, float, int]) -> Outcome:
        """Run one trial alone, in a new executor."""
        future, start = self.submit(train, arguments), perf_counter()
        finished = self.wait_for(future, [future])
        outcome = self.outcome(future) if finished else None
        if outcome is None:
            self.renew(wait=finished)
            late = self.timeout is not None and perf_counter() - start >= self.timeout
            return "failed", math.nan, math.nan, timeout_text(self.timeout) if late else "the process that ran it died"
        return outcome

    def submit(self, train: Train, arguments: tuple[float, float, int]) -> Any:
        """Submit a trial: its future, or None if the executor is broken already."""
        from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

        assert self.executor is not None
        more = () if self.timeout is None else (self.timeout, isinstance(self.executor, ProcessPoolExecutor))
        try:
            return self.executor.submit(run_trial, train, *arguments, *more)
        except BrokenExecutor:
            return None

    def wait_for(self, future: Any, futures: Sequence[Any]) -> bool:
        """Wait for a trial; False if neither it nor another one finished in the time that any of them may take."""
        from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait

        if self.timeout is None or future is None or isinstance(self.executor, ProcessPoolExecutor):
            return True                  # (its processes end trials that take too long, or themselves)
        pending = {one for one in futures if one is not None and not one.done()}
        self.any_done |= len(pending) < sum(one is not None for one in futures)
        while not future.done():
            start = 0.0 if self.any_done or isinstance(self.executor, ThreadPoolExecutor) else CLUSTER_START
            done, pending = wait(pending, self.timeout + 2 * GRACE + start, FIRST_COMPLETED)
            if not done:
                return False
            self.any_done = True
        return True

    def give_up(self, train: Train, requests: list[tuple[float, float, int]], futures: list[Any],
                lost: dict[int, Outcome]) -> None:
        """Stop waiting for running trials; submit those that have not started to a new executor, if one can be made."""
        not_started = []
        for k, future in enumerate(futures):
            if future is None or future.done():
                continue
            if future.cancel():
                not_started.append(k)
            else:
                lost[k] = "failed", math.nan, math.nan, timeout_text(self.timeout)
        if not lost.keys() & {k for k, future in enumerate(futures) if future is not None}:
            # (one at least counts as failed, so that the loop ends)
            lost[not_started.pop(0)] = "failed", math.nan, math.nan, timeout_text(self.timeout)
        for k in lost:
            futures[k] = None
        if self.make is not None:
            self.renew(wait=False)
        for k in not_started:
            if self.make is not None:
                futures[k] = self.submit(train, requests[k])
            else:
                lost[k] = "failed", math.nan, math.nan, "no worker was free: all run trials that never end"

    def outcome(self, future: Any) -> Outcome | None:
        """The outcome of a trial; None if its executor broke."""
        from concurrent.futures import BrokenExecutor

        if future is None:
            return None
        try:
            outcome: Outcome = future.result()
        except BrokenExecutor:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException as error:       # (it could not be pickled, its worker was lost, or it was cancelled)
            return "failed", math.nan, math.nan, error_text(error)
        return outcome

    def renew(self, wait: bool = True) -> None:
        """Replace the executor by a new one like it."""
        from concurrent.futures import ProcessPoolExecutor

        broken = self.executor
        if self.make is None:
            if not isinstance(broken, ProcessPoolExecutor):
                raise RuntimeError(f"tune_lr: the executor ({type(broken).__name__}) broke; pass a function that makes "
                                   f"executors, and a new one replaces it")
            defaults: dict[str, Any] = {"max_workers": None, "mp_context": None, "initializer": None, "initargs": ()}
            settings = {name: getattr(broken, f"_{name}", default) for name, default in defaults.items()}
            self.make = lambda: ProcessPoolExecutor(**settings)
        if self.owned and broken is not None:
            broken.shutdown(wait=wait, cancel_futures=True)
        self.executor, self.owned = self.make(), True
