"""Trials of `tune_lr` run here or by an executor, whatever happens to them: an exception, a timeout, a dead process."""

from __future__ import annotations

import faulthandler
import math
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from .tuned import Status, Values

if TYPE_CHECKING:
    from concurrent.futures import Executor

Train = Callable[..., float]

ALARM_INTERVAL = 1.0        # seconds from one alarm to the next
GRACE = 1.0                 # seconds after a timeout until a process that no alarm stops is ended
CLUSTER_START = 30.0        # seconds that a cluster may need until its first trial starts
MOST_TIMEOUT = threading.TIMEOUT_MAX / 4

Outcome = tuple[Status, float, float, str]   # status, score, seconds, reason


class Request(NamedTuple):
    """The arguments of `train` in a trial."""

    lr: float
    budget: float
    seed: int
    also: Values = ()


class TrialTimeout(BaseException):
    """Ends a trial that takes too long; not an Exception, so that a `train` that catches those does not catch it."""


def run_trial(train: Train, lr: float, budget: float, seed: int, also: Values = (), timeout: float | None = None,
              end_process: bool = False) -> Outcome:
    """Run one trial, in the process where this is called; return an exception as text, as some cannot be pickled."""
    start = perf_counter()
    try:
        score = limited(lambda: float(train(lr, budget, seed, **dict(also))), timeout, end_process)
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

    def run(self, train: Train, requests: list[Request]) -> Iterable[Outcome]:
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

    def run_alone(self, train: Train, arguments: Request) -> Outcome:
        """Run one trial alone, in a new executor."""
        future, start = self.submit(train, arguments), perf_counter()
        finished = self.wait_for(future, [future])
        outcome = self.outcome(future) if finished else None
        if outcome is None:
            self.renew(wait=finished)
            late = self.timeout is not None and perf_counter() - start >= self.timeout
            return "failed", math.nan, math.nan, timeout_text(self.timeout) if late else "the process that ran it died"
        return outcome

    def submit(self, train: Train, arguments: Request) -> Any:
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

    def give_up(self, train: Train, requests: list[Request], futures: list[Any],
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
