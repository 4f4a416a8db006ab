"""A whole study: which experiments it is made of, and how they are carried out, by one process or several.

The experiments are six. `grid`: every network at every rate, every seed. `ladder`: one architecture under each
activation, over eleven rates from 1e-4 to 10, because claims about "too low" and "too high" need both ends.
`strategies`: held, decaying and adaptive rates. `descent`: whole-split gradient descent. `escape`: landscapes.
`memory`: bytes. An outcome depends on its task and the data alone, never on the process, nor on what ran before.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol

import fastlr

from ..optimizers.base import REGISTRY
from .data import Dataset
from .descent import Descent, Memory
from .experiment import LEARNING_RATES, NETWORKS, Cell, check_fit, check_rate, grid, parse_network
from .landscapes import LANDSCAPES, Escape
from .networks import ACTIVATIONS, Network

LADDER = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
__all__ = ["BrokenExecutor", "Settings", "conduct", "default_networks", "plan"]

LOST = 3  # experiments whose process was killed twice, before a study gives up
EXPERIMENTS = ("grid", "ladder", "strategies", "descent", "escape", "memory")


class Outcome(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class Task(Protocol):
    """One experiment, stated completely: comparable, picklable, with a text of one line."""

    def carry_out(self, data: Dataset) -> Outcome: ...


@dataclass(frozen=True)
class Settings:
    """What a study is asked to do; `quick` has fewer seeds and epochs, and one size for all else."""

    lrs: tuple[float, ...] = LEARNING_RATES
    networks: tuple[str, ...] = NETWORKS
    seeds: int = 5
    epochs: int = 80
    optimizer: str = "sgd"
    schedule: str | None = None
    batch_size: int = 32
    target_loss: float = 0.2
    target_norm: float = 0.1
    ladder_epochs: int = 30
    further_seeds: int = 3  # of ladder and strategies
    descent_seeds: int = 3
    limit: int = 500  # updates of descent
    starts: int = 2000  # of each landscape
    steps: int = 2000  # of each start
    quick: bool = False


QUICK: dict[str, Any] = {
    "seeds": 2,
    "epochs": 20,
    "ladder_epochs": 10,
    "further_seeds": 2,
    "descent_seeds": 1,
    "limit": 350,
    "starts": 1000,
    "steps": 1000,
    "quick": True,
}


def default_networks(data: Dataset) -> tuple[str, ...]:
    """The five networks, their ends made to fit the data."""
    made = []
    for text in NETWORKS:
        widths, activation = parse_network(text)
        made.append("-".join(map(str, (data.features, *widths[1:-1], len(data.classes)))) + f"-{activation}")
    return tuple(made)


def strategies(settings: Settings, updates: int) -> dict[str, tuple[str, str | None]]:
    """Ways to choose the rate of each update: name -> optimizer, schedule. The first is the one of `grid`."""
    own = settings.optimizer
    quarter = max(1, updates // 4)
    ways: dict[str, tuple[str, str | None]] = {
        f"{own}, {settings.schedule or 'held'}": (own, settings.schedule),
        f"{own}, halved 3 times": (own, f"step_decay(1, factor=0.5, every={quarter})"),
        f"{own}, exponential to 5 %": (own, f"exponential(1, decay=3/{updates})"),
        f"{own}, cosine to 0": (own, f"cosine(1, steps={updates})"),
    }
    return ways | {name: (name, None) for name in ("adagrad", "rmsprop", "adam") if name != own}


def independent(optimizer: str) -> bool:
    """Whether a rule moves each element by its own gradients alone, so that many descents can share one array."""
    rule = REGISTRY[optimizer]
    return rule.kind == "elementwise" and not (rule.reduces or rule.shared or rule.needs_loss)


def activations_of(network: str) -> list[str]:
    """The same widths under every activation."""
    widths = network.rpartition("-")[0]
    return [f"{widths}-{activation}" for activation in ACTIVATIONS]


def varied(networks: Sequence[str], count: int) -> list[str]:
    """`count` of the networks, of different activations as far as there are."""
    firsts = list({text.rpartition("-")[2]: text for text in reversed(networks)}.values())[::-1]
    chosen = dict.fromkeys([*firsts, *networks])
    return [text for text in networks if text in list(chosen)[:count]]


def plan(settings: Settings, data: Dataset) -> dict[str, list[Task]]:
    """The tasks of every experiment, seed after seed, so that a study cut short still has whole tables.

    Raises `ValueError` for what cannot be run, before anything is.
    """
    for lr in settings.lrs:
        check_rate(lr)
    common = {"optimizer": settings.optimizer, "batch_size": settings.batch_size, "target_loss": settings.target_loss}
    lrs = tuple(dict.fromkeys(settings.lrs))
    networks = tuple(dict.fromkeys(settings.networks))
    cells = grid(lrs, networks, range(settings.seeds), epochs=settings.epochs, schedule=settings.schedule, **common)
    for cell in cells:
        check_fit(cell, data)
    updates = len(data.train[1]) // settings.batch_size * settings.epochs
    further = range(settings.further_seeds)
    first = networks[0]
    ladder = grid(LADDER, activations_of(first), further, epochs=settings.ladder_epochs, **common)
    other_ways = list(strategies(settings, updates).values())[1:]
    ways = [
        Cell(first, lr, seed, optimizer, settings.epochs, settings.batch_size, settings.target_loss, schedule)
        for seed in further
        for optimizer, schedule in other_ways
        for lr in lrs
    ]
    descents = [
        Descent(network, lr, seed, settings.target_norm, settings.limit)
        for seed in range(settings.descent_seeds)
        for network in varied(networks, 3)
        for lr in lrs
    ]
    escaping = settings.optimizer if independent(settings.optimizer) else "sgd"
    escapes = [
        Escape(name, lr, settings.starts, settings.steps, optimizer=escaping, schedule=settings.schedule)
        for name in LANDSCAPES
        for lr in lrs
    ]
    by_size = sorted(networks, key=lambda text: sum(p.size for p in Network(*parse_network(text)).params.values()))
    memory = [
        Memory(network, lr, optimizer, settings.batch_size)
        for network in dict.fromkeys((by_size[0], by_size[-1]))
        for optimizer in dict.fromkeys(("sgd", "momentum", "adam", settings.optimizer))
        for lr in lrs
    ]
    made: tuple[Sequence[Task], ...] = (cells, ladder, ways, descents, escapes, memory)
    return {name: list(tasks) for name, tasks in zip(EXPERIMENTS, made, strict=True)}


def conduct(
    tasks: dict[str, list[Task]], data: Dataset, jobs: int, note: Callable[[str, int, Outcome], None]
) -> list[tuple[str, int]]:
    """Carry out all tasks by `jobs` processes; `note(experiment, index, outcome)` is told of each that is done.

    BLAS and fastlr use one thread in each process, so that neither the times nor the bits depend on how many there
    are. `KeyboardInterrupt` stops what is running; what was noted stands.

    A process that is killed (by a system that has run out of memory, for one) costs no experiment: those it may have
    been at are carried out again, one at a time, each in a fresh process. One that loses this process too is left out,
    and returned. Raises `BrokenExecutor` when `LOST` are: then it is not the experiment's fault.
    """
    # the first seeds of every experiment first: a study cut short has something of each
    queue = [
        (name, k)
        for row in zip_longest(*([(name, k) for k in range(len(tasks[name]))] for name in tasks))
        for name, k in filter(None, row)
    ]
    if jobs == 1:
        with single_threaded():
            for name, k in queue:
                note(name, k, tasks[name][k].carry_out(data))
        return []
    missing: list[tuple[str, int]] = []
    waiting = deque(queue)
    while waiting:
        for lost in shared_out(waiting, tasks, data, jobs, note):
            missing += shared_out(deque([lost]), tasks, data, 1, note)
            if len(missing) == LOST:
                raise BrokenExecutor(f"{LOST} experiments were killed twice")
    return missing


def shared_out(
    waiting: deque[tuple[str, int]],
    tasks: dict[str, list[Task]],
    data: Dataset,
    jobs: int,
    note: Callable[[str, int, Outcome], None],
) -> list[tuple[str, int]]:
    """Take tasks from the queue and carry them out by fresh processes, until it is empty or one of them is killed.

    Returns those that were given out and did not come back.
    """
    before = set(multiprocessing.active_children())
    # spawned, not forked: whoever calls may have threads, a BLAS pool among them
    executor = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), begin_work, (data,))
    given: dict[Future[Outcome], tuple[str, int]] = {}
    lost: list[tuple[str, int]] = []
    try:
        while (waiting and not lost) or given:
            with interrupts_held_back():  # a worker starts with it blocked: an interrupt is this process's business
                while waiting and not lost and len(given) < 2 * jobs:  # (one at work, one in hand for each)
                    name, k = waiting.popleft()
                    try:
                        given[executor.submit(work, tasks[name][k])] = name, k
                    except BrokenExecutor:  # killed since the last came back
                        lost.append((name, k))
            for done in wait(given, return_when=FIRST_COMPLETED).done:
                name, k = given.pop(done)
                try:
                    outcome = done.result()
                except BrokenExecutor:
                    lost.append((name, k))
                else:
                    note(name, k, outcome)
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
        raise
    executor.shutdown()
    return lost


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for BLAS and for fastlr, then as many as before."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,import-not-found,unused-ignore]

    before = fastlr.get_num_threads()
    fastlr.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        fastlr.set_num_threads(before)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """An interrupt that comes now comes at the end instead, and never to a process that is started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """The first interrupt raises `KeyboardInterrupt`; those after it do nothing, while what is finished is written.

    Nor do they later: the process is then on its way out, and says so by its exit status rather than by a signal's.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return

    def first(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, before)


_at_work: list[Any] = []  # of a worker: the data, and what keeps it single-threaded


def begin_work(data: Dataset) -> None:
    quiet = single_threaded()
    quiet.__enter__()
    _at_work[:] = data, quiet


def work(task: Task) -> Outcome:
    return task.carry_out(_at_work[0])
