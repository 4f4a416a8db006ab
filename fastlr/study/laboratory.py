"""A whole study: its experiments, and how one process or several run them.

There are seven kinds of experiments. `grid`: every network at every rate and seed. `ladder`: one architecture with each
activation, or a model of torch as it is, at eleven rates from 1e-4 to 10, because claims about "too low" and "too high"
need both ends. `decay`: the
same at some of these rates, decaying. `strategies`: constant, decaying and adaptive rates. `descent`: gradient descent
on the whole training split. `escape`: landscapes. `memory`: bytes. An outcome depends on its task and the data alone,
not on the process, nor on earlier tasks. Further kinds are the sweeps of `sweeps`, for which a study is asked.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from itertools import pairwise, zip_longest
from typing import Any, Protocol

import fastlr

from ..optimizers.base import REGISTRY
from ..optimizers.declaration import nearest
from .data import Dataset
from .descent import Descent, Memory
from .experiment import LEARNING_RATES, NETWORKS, Cell, check_fit, check_rate, grid, train
from .landscapes import LANDSCAPES, Escape
from .model_names import is_model
from .models import check_model
from .networks import ACTIVATIONS, parse_network
from .sweeps import Sweep, experiment, sweep, sweep_names

LADDER = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
DECAYING = LADDER[2:-1]  # rates of `decay`: those at which a held rate may be the best
DECAY = "cosine(1, steps=updates)"
PILOT_RATES = (0.01, 0.1, 1.0)
GAIN = 0.9  # of a pilot's gain on the baseline: the default target
__all__ = ["BrokenExecutor", "Settings", "run_tasks", "default_networks", "pilot_target", "plan", "settings_for"]

MOST_KILLED = 3  # experiments whose process was killed twice: then the study stops
EXPERIMENTS = ("grid", "ladder", "decay", "strategies", "descent", "escape", "memory")


class Outcome(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class Task(Protocol):
    """One experiment, defined completely: comparable, picklable, with a text of one line."""

    def execute(self, data: Dataset) -> Outcome: ...


@dataclass(frozen=True)
class Settings:
    """The settings of a study; `QUICK` are those of --quick, with fewer seeds and epochs."""

    lrs: tuple[float, ...] = LEARNING_RATES
    networks: tuple[str, ...] = NETWORKS
    seeds: int = 5
    epochs: int = 80
    optimizer: str = "sgd"
    schedule: str | None = None
    batch_size: int = 32
    target_loss: float = 0.2
    target_norm: float = 0.1  # of the first gradient's norm
    ladder_epochs: int = 30
    ladder_seeds: int = 3  # of ladder and decay
    further_seeds: int = 3  # of strategies
    descent_seeds: int = 3
    limit: int = 500  # updates of descent
    starts: int = 2000  # of each landscape
    steps: int = 2000  # of each start
    quick: bool = False
    sweeps: tuple[str, ...] = ()  # of `sweeps.NAMES`


QUICK: dict[str, Any] = {
    "seeds": 2,
    "epochs": 20,
    "ladder_epochs": 10,
    "ladder_seeds": 3,  # (fewer could decide no claim)
    "further_seeds": 2,
    "descent_seeds": 1,
    "limit": 350,
    "starts": 1000,
    "steps": 1000,
    "quick": True,
}


def default_networks(data: Dataset) -> tuple[str, ...]:
    """The five networks, with the widths of input and output that the data need."""
    made = []
    for text in NETWORKS:
        widths, activation = parse_network(text)
        made.append("-".join(map(str, (data.features, *widths[1:-1], data.outputs))) + f"-{activation}")
    return tuple(made)


def settings_for(data: Dataset, quick: bool = False, model: str | None = None, **given: Any) -> Settings:
    """The settings that are given, for the rest defaults that fit the data, or the values of `QUICK`.

    `model` names a model of torch, which comes before the given networks, or instead of the default ones. Raises
    `ValueError` for settings that there are not.
    """
    settings = Settings(networks=default_networks(data), batch_size=min(32, len(data.train[1])))
    if quick:
        settings = replace(settings, **QUICK)
    known = [field.name for field in fields(Settings) if field.name != "quick"]
    for name in given:
        if name not in known:
            cure = nearest(name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"study: no setting is called {name!r}{cure}")
    for name in ("lrs", "networks", "sweeps"):
        if name in given:
            given[name] = tuple(given[name])
    given["sweeps"] = sweep_names(given.get("sweeps", ()))
    if model is not None:
        if not is_model(model):
            raise ValueError(f"study: a model must be MODULE:FUNCTION, like nets:small, got {model!r}")
        given["networks"] = (model, *given.get("networks", ()))
        # (as many runs of one network, in the ladder, as else of three activations)
        settings = replace(settings, ladder_seeds=len(ACTIVATIONS) * settings.ladder_seeds)
    settings = replace(settings, **given)
    return replace(
        settings,
        ladder_seeds=min(settings.ladder_seeds, settings.seeds) if "seeds" in given else settings.ladder_seeds,
        further_seeds=min(settings.further_seeds, settings.seeds),
        descent_seeds=min(settings.descent_seeds, settings.seeds),
        ladder_epochs=min(settings.ladder_epochs, settings.epochs),
    )


def pilot_target(settings: Settings, data: Dataset) -> float:
    """A training loss that these data allow: 0.9 of the way from the baseline's to the lowest of three short trainings.

    They train the first network at rates 0.01, 0.1 and 1, or the settings' own where there are fewer than three, with
    seed 0, for as many epochs as the ladder. The target has two digits.
    """
    baseline = data.baseline["train_loss"]
    lrs = PILOT_RATES if len(settings.lrs) >= len(PILOT_RATES) else settings.lrs
    least = baseline
    for lr in lrs:
        cell = Cell(settings.networks[0], lr, 0, settings.optimizer, settings.ladder_epochs, settings.batch_size)
        least = min(least, train(cell, data).train_loss or math.inf)
    return float(f"{baseline - GAIN * (baseline - least):.2g}") if least < baseline else float(f"{0.5 * baseline:.2g}")


def strategies(settings: Settings, updates: int) -> dict[str, tuple[str, str | None]]:
    """Strategies for the rate of each update: name -> optimizer, schedule. The first is that of `grid`."""
    own = settings.optimizer
    quarter = max(1, updates // 4)
    named: dict[str, tuple[str, str | None]] = {
        f"{own}, {settings.schedule or 'held'}": (own, settings.schedule),
        f"{own}, halved 3 times": (own, f"step_decay(1, factor=0.5, every={quarter})"),
        f"{own}, exponential to 5 %": (own, f"exponential(1, decay=3/{updates})"),
        f"{own}, cosine to 0": (own, f"cosine(1, steps={updates})"),
    }
    return named | {name: (name, None) for name in ("adagrad", "rmsprop", "adam") if name != own}


def independent(optimizer: str) -> bool:
    """Whether a rule updates each element by its own gradients alone, so that one array can hold many descents."""
    rule = REGISTRY[optimizer]
    return rule.kind == "elementwise" and not (rule.reduces or rule.shared or rule.needs_loss)


def parameters(network: str) -> int:
    """The number of weights and biases of a network."""
    widths, _ = parse_network(network)
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))


def activations_of(network: str) -> list[str]:
    """The same widths with every activation; a model of torch, whose activation cannot be exchanged, as it is."""
    if is_model(network):
        return [network]
    widths = network.rpartition("-")[0]
    return [f"{widths}-{activation}" for activation in ACTIVATIONS]


def of_different_activations(networks: Sequence[str], count: int) -> list[str]:
    """`count` of the networks, with different activations as far as possible."""
    firsts = list({text.rpartition("-")[2]: text for text in reversed(networks)}.values())[::-1]
    chosen = dict.fromkeys([*firsts, *networks])
    return [text for text in networks if text in list(chosen)[:count]]


def plan(settings: Settings, data: Dataset) -> dict[str, list[Task]]:
    """The tasks of every experiment, seed after seed, so that an interrupted study has no empty table cells.

    Raises `ValueError` for settings that cannot be run.
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
    steep = {"epochs": settings.ladder_epochs, **common}
    ladder = grid(LADDER, activations_of(first), range(settings.ladder_seeds), **steep)
    decay = grid(DECAYING, activations_of(first), range(settings.ladder_seeds), schedule=DECAY, **steep)
    other_strategies = list(strategies(settings, updates).values())[1:]
    with_strategies = [
        Cell(first, lr, seed, optimizer, settings.epochs, settings.batch_size, settings.target_loss, schedule)
        for seed in further
        for optimizer, schedule in other_strategies
        for lr in lrs
    ]
    halfway = (data.baseline["train_loss"] + settings.target_loss) / 2
    descents = [
        Descent(network, lr, seed, settings.target_norm, settings.limit, halfway)
        for seed in range(settings.descent_seeds)
        for network in of_different_activations(networks, 3)
        for lr in lrs
    ]
    escaping = settings.optimizer if independent(settings.optimizer) else "sgd"
    escapes = [
        Escape(name, lr, settings.starts, settings.steps, optimizer=escaping, schedule=settings.schedule)
        for name in LANDSCAPES
        for lr in lrs
    ]
    optimizers = tuple(dict.fromkeys(("sgd", "momentum", "adam", settings.optimizer)))
    trained_by = [*optimizers, *(optimizer for optimizer, _ in other_strategies)]
    weights = {
        network: check_model(network, trained_by, settings.batch_size, data) if is_model(network)
        else parameters(network) for network in networks
    }
    by_size = sorted(networks, key=lambda network: weights[network])
    memory = [
        Memory(network, lr, optimizer, settings.batch_size)
        for network in dict.fromkeys((by_size[0], by_size[-1]))
        for optimizer in optimizers
        for lr in lrs
    ]
    made: tuple[Sequence[Task], ...] = (cells, ladder, decay, with_strategies, descents, escapes, memory)
    planned: dict[str, list[Task]] = {name: list(tasks) for name, tasks in zip(EXPERIMENTS, made, strict=True)}
    for name, chosen in sweeps_of(settings, data).items():
        swept = [
            Cell(**({"network": first, "seed": seed, **steep, "lr": lr} | row | column))
            for seed in further
            for row in chosen["rows"].values()
            for column in chosen["columns"].values()
            for lr in ([column["lr"]] if "lr" in column else swept_rates(settings))
        ]
        for cell in swept:
            check_fit(cell, data)
        planned[experiment(name)] = list(swept)
    return planned


def swept_rates(settings: Settings) -> tuple[float, ...]:
    """The rates of sweeps: those that were given, or the rates of `decay`."""
    return DECAYING if settings.lrs == LEARNING_RATES else tuple(dict.fromkeys(settings.lrs))


def sweeps_of(settings: Settings, data: Dataset) -> dict[str, Sweep]:
    """What each sweep of a study varies, by its name."""
    rows = len(data.train[1])
    updates = rows // settings.batch_size * settings.ladder_epochs
    return {name: sweep(name, swept_rates(settings), settings.optimizer, updates, rows)
            for name in dict.fromkeys(settings.sweeps)}


def run_tasks(
    tasks: dict[str, list[Task]], data: Dataset, jobs: int, note: Callable[[str, int, Outcome], None]
) -> list[tuple[str, int]]:
    """Run all tasks in `jobs` processes; `note(experiment, index, outcome)` is called for each that is done.

    BLAS and fastlr use one thread in each process, so that neither the times nor the bits depend on the number of
    cores. `KeyboardInterrupt` stops the tasks that run; outcomes that were noted are kept.

    If a process is killed (for instance when memory runs out), the tasks that it may have run are run again, one at a
    time, each in a new process. A task whose process is killed again is left out, and returned. Raises
    `BrokenExecutor` when there are `MOST_KILLED` of these: then the tasks are not the reason.
    """
    # the first seeds of every experiment come first: an interrupted study then has some runs of each
    queue = [
        (name, k)
        for row in zip_longest(*([(name, k) for k in range(len(tasks[name]))] for name in tasks))
        for name, k in filter(None, row)
    ]
    if jobs == 1:
        with single_threaded():
            for name, k in queue:
                note(name, k, tasks[name][k].execute(data))
        return []
    missing: list[tuple[str, int]] = []
    waiting = deque(queue)
    while waiting:
        for lost in run_in_processes(waiting, tasks, data, jobs, note):
            missing += run_in_processes(deque([lost]), tasks, data, 1, note)
            if len(missing) == MOST_KILLED:
                raise BrokenExecutor(f"{MOST_KILLED} experiments were killed twice")
    return missing


def run_in_processes(
    waiting: deque[tuple[str, int]],
    tasks: dict[str, list[Task]],
    data: Dataset,
    jobs: int,
    note: Callable[[str, int, Outcome], None],
) -> list[tuple[str, int]]:
    """Run tasks from the queue in new processes, until it is empty or a process is killed.

    Returns the tasks that were submitted and not done.
    """
    before = set(multiprocessing.active_children())
    with_torch = any(is_model(getattr(task, "network", "")) for of in tasks.values() for task in of)
    # spawned, not forked: this process may have threads, as those of BLAS
    executor = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), start_worker, (data, with_torch))
    submitted: dict[Future[Outcome], tuple[str, int]] = {}
    lost: list[tuple[str, int]] = []
    try:
        while (waiting and not lost) or submitted:
            with interrupts_blocked():  # (workers inherit this: only this process handles interrupts)
                # (for each process one task that runs and one that waits)
                while waiting and not lost and len(submitted) < 2 * jobs:
                    name, k = waiting.popleft()
                    try:
                        submitted[executor.submit(run_task, tasks[name][k])] = name, k
                    except BrokenExecutor:  # a process was killed since the last result
                        lost.append((name, k))
            for done in wait(submitted, return_when=FIRST_COMPLETED).done:
                name, k = submitted.pop(done)
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
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_threaded(with_torch: bool = False) -> Iterator[None]:
    """In this with block, BLAS and fastlr use one thread; and torch, where it is needed or imported already."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,import-not-found,unused-ignore]

    before = fastlr.get_num_threads()
    fastlr.set_num_threads(1)
    try:
        with threadpool_limits(1), torch_limit(with_torch):
            yield
    finally:
        fastlr.set_num_threads(before)


def torch_limit(with_torch: bool) -> AbstractContextManager[None]:
    if with_torch or "torch" in sys.modules:
        with suppress(ImportError):  # (who needs it will say so)
            from .torch_models import one_thread

            return one_thread()
    return nullcontext()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """In this with block, interrupts are delayed to its end; processes that it starts never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def one_interrupt() -> Iterator[None]:
    """In this with block, the first interrupt raises `KeyboardInterrupt`; later ones are ignored, also after it.

    So results can be written after an interrupt, and the exit status is that of the command, not of a signal.
    """
    if threading.current_thread() is not threading.main_thread():  # (only there can a handler be set)
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


_worker_state: list[Any] = []  # of a worker process: the data, and the context that limits threads


def start_worker(data: Dataset, with_torch: bool) -> None:
    one_thread = single_threaded(with_torch)
    one_thread.__enter__()
    _worker_state[:] = data, one_thread


def run_task(task: Task) -> Outcome:
    return task.execute(_worker_state[0])
