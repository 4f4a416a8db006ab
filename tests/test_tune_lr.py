"""The search by validation score: what it finds at which cost, wherever trials run and whatever happens to them."""
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cluster_trials
import numpy as np
import pytest

import fastlr
from fastlr.tuning import progress, workers

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "benchmarks"))


def plain(found):
    """All that does not depend on a clock."""
    return [found.lr, found.score, found.bracket, [(t.lr, t.budget, t.seed, t.round, t.status, t.score, t.reason)
                                                   for t in found.trials]]


def test_rungs_are_halved_and_the_best_is_refined():
    found = fastlr.tune_lr(cluster_trials.smooth, 1e-5, 10, budget=27)
    by_round = [[t for t in found.trials if t.round == k] for k in range(5)]
    assert [len(trials) for trials in by_round] == [13, 4, 3, 2, 2]
    assert [{t.budget for t in trials} for trials in by_round] == [{1}, {3}, {9}, {27}, {27}]
    assert [t.lr for t in by_round[0]] == pytest.approx(np.geomspace(1e-5, 10, 13))
    for before, after in pairwise(by_round[:4]):
        kept = sorted(before, key=lambda t: t.score)[:len(after)]
        assert [t.lr for t in kept] == [t.lr for t in after]
    best = min((t for t in found.trials if t.budget == 27), key=lambda t: t.score)
    assert (found.lr, found.score) == (best.lr, best.score)
    assert found.cost == 13 + 4 * 3 + 3 * 9 + 4 * 27 <= 0.15 * 40 * 27
    assert abs(math.log10(found.lr / 0.02)) < 0.1
    low, high = found.bracket
    assert low < found.lr < high
    tried = sorted({t.lr for t in found.trials})
    assert tried.index(high) - tried.index(low) == 2
    assert all(t.seconds >= 0 for t in found.trials)
    assert found.seconds == sum(t.seconds for t in found.trials)


def test_no_rate_is_tried_twice_with_a_budget():
    for train in (cluster_trials.smooth, lambda *asked: 1.0, lambda lr, budget, seed: lr):
        found = fastlr.tune_lr(train, 1e-5, 10, budget=27, refine=4)
        assert len({(t.lr, t.budget) for t in found.trials}) == len(found.trials)


@pytest.mark.parametrize("at", [1e-5, 10.0])
def test_the_range_is_never_left(at):
    found = fastlr.tune_lr(lambda lr, budget, seed: abs(math.log(lr / at)), 1e-5, 10, budget=9)
    assert all(1e-5 * 0.999999 <= t.lr <= 10.000001 for t in found.trials)
    assert found.lr == pytest.approx(at)


def test_higher_is_better_if_said_so():
    up = fastlr.tune_lr(lambda *asked: -cluster_trials.smooth(*asked), 1e-5, 10, budget=27, mode="max")
    down = fastlr.tune_lr(cluster_trials.smooth, 1e-5, 10, budget=27)
    assert (up.lr, up.score, up.bracket) == (down.lr, -down.score, down.bracket)


def test_scores_are_means_over_seeds():
    asked = []

    def train(lr, budget, seed):
        asked.append(seed)
        return cluster_trials.smooth(lr, budget, 0) + {3: -1.0, 8: 2.0}[seed]

    found = fastlr.tune_lr(train, 1e-5, 10, budget=27, seeds=[3, 8], finalists=2)
    once = fastlr.tune_lr(cluster_trials.smooth, 1e-5, 10, budget=27, finalists=2)
    assert asked == [3] * (13 + 4 + 3) + [3, 8] * 4                    # (smaller budgets take the first alone)
    assert found.score == pytest.approx(cluster_trials.smooth(found.lr, 27, 0) + 0.5)
    assert found.cost == once.cost + 4 * 27
    assert found.score == pytest.approx(np.mean([t.score for t in found.trials if t.lr == found.lr and t.budget == 27]))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_cost_is_at_most_six_full_trainings(seeds):
    assert 4.9 < fastlr.tune_lr(cluster_trials.smooth, 1e-5, 10, budget=270, seeds=seeds).cost / (270 * seeds) <= 6


def test_a_small_budget_is_divided_into_whole_ones():
    budgets = []
    fastlr.tune_lr(lambda lr, budget, seed: budgets.append(budget) or lr, 1e-3, 1, budget=2, refine=0)
    assert sorted(set(budgets)) == [1, 2]
    assert all(type(budget) is int for budget in budgets)
    shares = fastlr.tune_lr(cluster_trials.smooth, 1e-3, 1, budget=1.0, refine=0)
    assert {t.budget for t in shares.trials} == {1 / 27, 1 / 9, 1 / 3, 1.0}


class Shuffled(Executor):
    """Runs what it is given when somebody asks for the first result: in an order of its own."""

    def __init__(self, order):
        self.waiting, self.order = [], order

    def submit(self, call, *arguments):
        executor = self

        class Lazy(Future):
            def result(self, timeout=None):
                for future, call, arguments in sorted(executor.waiting, key=executor.order):
                    future.set_result(call(*arguments))
                executor.waiting.clear()
                return super().result(timeout)

        future = Lazy()
        self.waiting.append((future, call, arguments))
        return future


def test_the_order_of_completion_does_not_matter():
    here = fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27, seeds=2)
    for order in (lambda entry: -entry[2][1], lambda entry: hash(entry[2])):
        assert plain(fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27, seeds=2,
                                    executor=Shuffled(order))) == plain(here)

    def slow_when_low(lr, budget, seed):
        time.sleep(0.002 * max(0, -math.log10(lr)))
        return cluster_trials.troubled(lr, budget, seed)

    with ThreadPoolExecutor(4) as threads:
        assert plain(fastlr.tune_lr(slow_when_low, 1e-5, 10, budget=27, seeds=2, executor=threads)) == plain(here)


def test_a_lost_trial_costs_only_itself():
    found = fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27)
    first = [t for t in found.trials if t.round == 0]
    assert [t.status for t in first] == ["failed"] * 2 + ["done"] * 8 + ["diverged"] * 3
    assert first[0].reason == "ZeroDivisionError: nothing at 1e-05"
    assert math.isnan(first[0].score)
    assert first[-1].reason == "the score is inf"
    assert abs(math.log10(found.lr / 0.02)) < 0.1
    assert found.cost == sum(t.budget for t in found.trials)


@pytest.mark.parametrize("make", [None, ThreadPoolExecutor, ProcessPoolExecutor], ids=["here", "threads", "processes"])
def test_exit_and_cancellation_cost_only_their_trial(make):
    found = fastlr.tune_lr(cluster_trials.leaving, 1e-3, 10, budget=3, points=9, rungs=1, refine=0,
                           executor=make and (lambda: pool() if make is ProcessPoolExecutor else make(2)))
    failed = [t.reason for t in found.trials if t.status == "failed"]
    assert len(failed) == 6 and set(failed) == {"GeneratorExit: left", "CancelledError:", "SystemExit: 3"}
    assert found.lr == pytest.approx(0.01, rel=0.01)


def test_a_seed_that_crashed_is_left_out_and_one_that_diverged_speaks():
    def train(lr, budget, seed):
        if seed == 1 and lr > 0.05:
            return math.nan
        if seed == 2:
            raise OSError("disk full")
        return -math.log(lr)

    found = fastlr.tune_lr(train, 1e-4, 1, budget=9, seeds=3, finalists=8)
    assert 0.01 < found.lr <= 0.05
    assert {t.reason for t in found.trials if t.seed == 2} == {"OSError: disk full"}
    assert any(t.status == "diverged" for t in found.trials)


def test_who_is_next_where_all_survivors_are_lost():
    def train(lr, budget, seed):
        return math.nan if budget == 9 and lr > 1e-2 else -lr

    found = fastlr.tune_lr(train, 1e-4, 1, budget=9, refine=0)
    assert found.lr <= 1e-2
    assert found.trials[-1].budget == 9


def test_nothing_but_losses_is_an_error_that_tells_the_first():
    with pytest.raises(RuntimeError, match="tune_lr: no trial had a score; 13 failed or diverged, the first with: KeyError: 3"):
        fastlr.tune_lr(lambda lr, budget, seed: {}[3], 1e-4, 1, budget=9)


def test_an_interrupt_comes_through_and_finished_trials_were_told():
    told = []

    def train(lr, budget, seed):
        if len(told) == 4:
            raise KeyboardInterrupt
        return lr

    with pytest.raises(KeyboardInterrupt):
        fastlr.tune_lr(train, 1e-4, 1, budget=9, on_trial=told.append)
    assert [t.status for t in told] == ["done"] * 4


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"train": 3}, TypeError, r"train must be callable as train\(lr, budget, seed\), got 3"),
    ({"low": 0}, ValueError, "0 < low < high < infinity must hold, got low=0"),
    ({"high": math.inf}, ValueError, "high=inf"),
    ({"budget": 0}, ValueError, "budget must be positive and finite, got 0"),
    ({"mode": "lower"}, ValueError, "mode must be 'min' .* or 'max', got 'lower'"),
    ({"points": 2}, ValueError, "points must be at least 3, got 2"),
    ({"eta": 1}, ValueError, "eta must be at least 2, got 1"),
    ({"rungs": 1.5}, TypeError, "rungs must be an integer, got 1.5"),
    ({"finalists": 0}, ValueError, "finalists must be at least 1, got 0"),
    ({"refine": None}, TypeError, "refine must be an integer, got None"),
    ({"seeds": 0}, ValueError, "seeds must be a count from 1 up, or integers"),
    ({"timeout": "1 s"}, TypeError, "timeout must be seconds or None, got '1 s'"),
    ({"timeout": 0}, ValueError, "timeout must be seconds above 0, or None for any time, got 0"),
    ({"timeout": math.nan}, ValueError, "timeout must be seconds above 0, or None for any time, got nan"),
    ({"executor": 2}, TypeError, "executor must be a concurrent.futures.Executor, .* got int"),
])
def test_wrong_arguments_are_refused_before_anything_runs(change, error, message):
    calls = []
    arguments = {"train": lambda *asked: calls.append(asked), "low": 1e-3, "high": 1, "budget": 9} | change
    with pytest.raises(error, match=f"tune_lr: .*{message}"):
        fastlr.tune_lr(arguments.pop("train"), arguments.pop("low"), arguments.pop("high"), **arguments)
    assert not calls


def test_it_is_told_and_drawn():
    from matplotlib.figure import Figure

    found = fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27)
    assert found.table().count("\n") == len(found.trials)
    assert "failed: ZeroDivisionError: nothing at 1e-05" in found.table()
    document = found.to_dict()
    assert document["cost"] == found.cost
    assert document["trials"][0]["status"] == "failed"
    axes = found.plot(Figure().add_subplot())
    assert {"budget 3", "budget 9", "budget 27", "diverged or failed"} <= set(axes.get_legend_handles_labels()[1])
    axes.figure.canvas.draw()


# trials that hang


def hanging_above(limit, wait):
    """The bowl, but higher rates wait for what does not come."""
    def train(lr, budget, seed):
        while lr > limit:
            try:
                wait()
            except Exception:
                pass
        return cluster_trials.smooth(lr, budget, seed)
    return train


def test_a_trial_that_hangs_costs_only_itself_and_the_host_keeps_its_alarm():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    own = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 60, 7)
    try:
        found = fastlr.tune_lr(hanging_above(1, lambda: time.sleep(60)), 1e-4, 10, budget=9, points=6, refine=1, timeout=0.05)
        left, again = signal.getitimer(signal.ITIMER_REAL)
        assert signal.getsignal(signal.SIGALRM) is own
        assert 50 < left < 60 and again == 7 and not rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    same = fastlr.tune_lr(lambda *asked: math.nan if asked[0] > 1 else cluster_trials.smooth(*asked), 1e-4, 10, budget=9,
                          points=6, refine=1)
    assert (found.lr, found.score) == (same.lr, same.score)
    late = [t for t in found.trials if t.status != "done"]
    assert {t.lr for t in late} == {t.lr for t in found.trials if t.lr > 1} != set()
    assert {(t.status, t.reason) for t in late} == {("failed", "TimeoutError: no score within 0.05 s")}
    assert all(0.05 <= t.seconds < 5 for t in late)


def test_time_enough_changes_nothing():
    def train(lr, budget, seed):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 500
        return cluster_trials.troubled(lr, budget, seed)

    assert plain(fastlr.tune_lr(train, 1e-5, 10, budget=27, timeout=1000)) == plain(
        fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27))
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@pytest.mark.parametrize(("hanging", "made"), [(1, False), (2, False), (2, True)])
def test_threads_that_hang_are_given_up(hanging, made, monkeypatch):
    """Of a pool of two, one hangs and the other does the rest; or both do, and only a new pool can do the rest."""
    monkeypatch.setattr(workers, "GRACE", 0.05)
    released, pools = threading.Event(), []

    def train(lr, budget, seed):
        if lr < 5e-5 * 10**hanging:
            released.wait(60)
            return math.nan
        return cluster_trials.smooth(lr, budget, seed)

    def make():
        pools.append(ThreadPoolExecutor(2))
        return pools[-1]

    def tune():
        return fastlr.tune_lr(train, 1e-4, 10, budget=9, points=6, refine=0, timeout=0.2, executor=make if made else make())

    late = ["TimeoutError: no score within 0.2 s"] * hanging
    try:
        if hanging == 2 and not made:
            with pytest.raises(RuntimeError, match="no trial had a score; .* the first with: TimeoutError: no score"):
                tune()
        else:
            found = tune()
            assert [t.reason for t in found.trials] == late + [""] * (len(found.trials) - hanging)
            here = fastlr.tune_lr(lambda *asked: math.nan if asked[0] < 5e-5 * 10**hanging else cluster_trials.smooth(*asked),
                                  1e-4, 10, budget=9, points=6, refine=0)
            assert (found.lr, found.score) == (here.lr, here.score)
            assert len(pools) == 1 + made
    finally:
        released.set()
        for pool in pools:
            pool.shutdown()


def test_an_executor_that_says_it_can_cancel_everything_does_not_loop(monkeypatch):
    """Each time that nothing comes back, one trial at least is lost."""
    monkeypatch.setattr(workers, "GRACE", 0.01)
    monkeypatch.setattr(workers, "CLUSTER_START", 0.01)

    class Never(Executor):
        def submit(self, *_):
            return Future()

    with pytest.raises(RuntimeError, match="13 failed or diverged, the first with: TimeoutError: no score within 0.01 s"):
        fastlr.tune_lr(cluster_trials.smooth, 1e-4, 10, budget=9, refine=0, rungs=1, timeout=0.01, executor=Never)


def test_a_cluster_may_take_its_time_to_begin(monkeypatch):
    """Longer than any trial may take: its first answer is waited for, then each is expected in time."""
    monkeypatch.setattr(workers, "GRACE", 0.05)
    first = threading.Event()

    class Slow(Executor):
        def __init__(self):
            self.pool = ThreadPoolExecutor(2)

        def submit(self, *call):
            return self.pool.submit(self.late, *call)

        def late(self, call, *arguments):
            if not first.is_set():
                time.sleep(1.6)
                first.set()
            return call(*arguments)

        def shutdown(self, wait=True, *, cancel_futures=False):
            self.pool.shutdown()

    slow = fastlr.tune_lr(cluster_trials.smooth, 1e-3, 1, budget=9, points=4, timeout=1.0, executor=Slow)
    assert plain(slow) == plain(fastlr.tune_lr(cluster_trials.smooth, 1e-3, 1, budget=9, points=4))
    assert {t.status for t in slow.trials} == {"done"}


def test_a_class_of_executors_makes_one():
    here = fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27)
    assert plain(fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27, executor=ThreadPoolExecutor)) == plain(here)


def test_a_limit_that_nobody_can_keep_is_refused():
    with ThreadPoolExecutor(1) as thread, pytest.raises(ValueError, match="timeout needs an executor here"):
        thread.submit(fastlr.tune_lr, cluster_trials.smooth, 1e-4, 10, budget=9, timeout=1).result()


def test_equal_scores_are_the_lower_rates_and_a_bracket_ends_with_the_range():
    found = fastlr.tune_lr(lambda lr, budget, seed: 1.0, 1e-3, 1, budget=9, points=4, rungs=1, refine=0)
    assert (found.lr, found.bracket[0]) == (1e-3, 1e-3)
    up = fastlr.tune_lr(lambda lr, budget, seed: lr, 1e-3, 1, budget=9, points=4, mode="max")
    assert (up.lr, up.bracket[1]) == (1.0, 1.0)


# processes


def pool():
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


def test_a_dead_process_costs_only_its_trial(environment, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    here = fastlr.tune_lr(lambda *asked: math.nan if 0.5 < asked[0] < 2 else cluster_trials.smooth(*asked),
                          1e-5, 10, budget=27, points=7)
    with pool() as broken:
        for executor in (pool, broken):
            found = fastlr.tune_lr(cluster_trials.deadly, 1e-5, 10, budget=27, points=7, executor=executor)
            assert [(t.lr, t.budget) for t in found.trials] == [(t.lr, t.budget) for t in here.trials]
            assert found.lr == here.lr
            dead = [t for t in found.trials if t.status == "failed"]
            assert [t.reason for t in dead] == ["the process that ran it died"] * len(dead)
            assert {t.lr for t in dead} == {t.lr for t in here.trials if t.status == "diverged"} != set()
        with pytest.raises(BrokenExecutor):
            broken.submit(print)


def test_a_killed_process_costs_its_trial_if_it_was_that_ones_fault_and_else_nothing(environment, monkeypatch, tmp_path):
    """Real SIGKILLs, as when memory runs out."""
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    asked = {"low": 1e-4, "high": 10, "budget": 9, "points": 6, "refine": 0, "rungs": 2}
    here = fastlr.tune_lr(cluster_trials.smooth, **asked)
    found = fastlr.tune_lr(cluster_trials.KilledOnce(tmp_path), **asked, executor=pool)
    assert (tmp_path / "killed").exists()
    assert plain(found) == plain(here)
    found = fastlr.tune_lr(cluster_trials.killed, **asked, executor=pool)
    assert [(t.lr, t.status, t.reason) for t in found.trials if t.status != "done"] == [
        (pytest.approx(1), "failed", "the process that ran it died")]
    here = fastlr.tune_lr(lambda *asked: math.nan if 0.5 < asked[0] < 2 else cluster_trials.smooth(*asked), **asked)
    assert (found.lr, found.score) == (here.lr, here.score)


def test_a_trial_that_hangs_in_a_process_costs_only_itself(environment, monkeypatch, tmp_path, capfd):
    """One heeds an alarm and its process goes on; the other does not, and its process is ended."""
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    found = fastlr.tune_lr(cluster_trials.Hanging(tmp_path), 1e-3, 1, budget=9, points=4, refine=0, rungs=1, timeout=0.5,
                           executor=pool)
    assert [(t.status, t.reason) for t in found.trials] == [("done", "")] * 3 + [
        ("failed", "TimeoutError: no score within 0.5 s")]
    assert len(list(tmp_path.iterdir())) <= 2
    assert capfd.readouterr().err == ""
    found = fastlr.tune_lr(cluster_trials.Hanging(tmp_path), 1e-2, 10, budget=9, points=4, refine=0, rungs=1, timeout=0.5,
                           executor=pool)
    assert [(t.status, t.reason) for t in found.trials] == [("done", "")] * 2 + [
        ("failed", "TimeoutError: no score within 0.5 s")] * 2
    assert "cluster_trials.py" in capfd.readouterr().err      # where it hung


def test_what_cannot_be_sent_to_a_process_is_told(environment, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    says = ("no trial had a score; 13 failed or diverged, the first with: "
            ".*Can't (pickle|get) local object '.*<lambda>'")      # (Python 3.13 says "get", where others say "pickle")
    with pytest.raises(RuntimeError, match=says):
        fastlr.tune_lr(lambda lr, budget, seed: lr, 1e-5, 10, budget=27, executor=pool)


# clusters


def needs(what):
    """Skip where something is not installed; where everything must be, as in .ci/run, fail."""
    if os.environ.get("FASTLR_STRICT") == "1":
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


def run_elsewhere(command, environment, folder, **more):
    # (first what a script's own folder may take the place of)
    path = os.pathsep.join([str(HERE), environment["PYTHONPATH"]])
    done = subprocess.run([*command, str(folder)], env={**environment, "PYTHONPATH": path, **more}, cwd=folder.parent,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def expected(tmp_path):
    """What is found without any executor, and an empty folder."""
    folder = tmp_path / "pids"
    folder.mkdir()
    found = json.loads(json.dumps(cluster_trials.tuned(None, folder)))
    for path in folder.iterdir():
        path.unlink()
    return found, folder


def as_found(document):
    """NaN equals NaN here."""
    return repr([document[key] for key in ("lr", "score", "trials")])


def test_on_a_dask_cluster(expected, environment):
    try:
        import distributed  # noqa: F401
    except ImportError:
        needs("dask[distributed]")
    here, folder = expected
    there = run_elsewhere([sys.executable, str(HERE / "cluster_trials.py"), "dask"], environment, folder)
    assert as_found(there) == as_found(here)
    assert there["own"] not in there["pids"]
    assert len(there["pids"]) == 2


def test_under_mpiexec(expected, environment, tmp_path):
    """The wheel of mpi4py looks for libmpi.so.12, the name in MPICH's common ABI; Debian calls it libmpich.so.12."""
    from importlib.util import find_spec

    if shutil.which("mpiexec") is None:
        needs("mpiexec (Debian: mpich)")
    if find_spec("mpi4py") is None:
        needs("mpi4py")
    libraries = tmp_path / "lib"
    libraries.mkdir()
    for library in Path("/usr/lib").glob("*/libmpich.so.12"):
        (libraries / "libmpi.so.12").symlink_to(library)
    found = os.pathsep.join([os.environ.get("LD_LIBRARY_PATH", ""), str(libraries)]).strip(os.pathsep)
    here, folder = expected
    command = ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py.futures", str(HERE / "cluster_trials.py"), "mpi"]
    there = run_elsewhere(command, environment, folder, LD_LIBRARY_PATH=found)
    assert as_found(there) == as_found(here)
    assert there["own"] not in there["pids"]
    assert len(there["pids"]) == 2


# real problems


@pytest.mark.parametrize("k", [12, 14, 18])
def test_it_finds_the_rate_of_a_grid_at_a_seventh_of_its_cost(k):
    """Three of the tasks of benchmarks/tuned_rates.py, by their validation loss: wine, breast cancer, diabetes."""
    import tuned_rates as bench

    train = bench.Train(bench.tasks("choose")[k])
    best = np.nanmin(list(bench.on_grid(train, 3).values()))
    found = fastlr.tune_lr(train, bench.LOW, bench.HIGH, budget=bench.BUDGET, mode=train.mode, seeds=3)
    assert bench.within_one_percent(found.score, best, train.mode)
    assert found.cost <= 0.15 * bench.POINTS * bench.BUDGET * 3


# Two values


def bowl(lr, budget, seed, weight_decay):
    """The best rate differs from decay to decay; all is least at 0.02 and 1e-3."""
    x, y = math.log10(lr / 0.02), math.log10(weight_decay / 1e-3)
    return 1 + (x + 0.3 * y) ** 2 + 0.3 * y**2 + 0.1 / budget


def test_a_second_value_is_found_with_the_rate():
    found = fastlr.tune_lr(bowl, 1e-5, 10, budget=81, also={"weight_decay": (1e-6, 1.0)})
    assert abs(math.log10(found.lr / 0.02)) < 0.2 and abs(math.log10(found.params["weight_decay"] / 1e-3)) < 0.5
    assert found.score < 1.06
    assert found.params == {"lr": found.lr, "weight_decay": found.also["weight_decay"]}
    assert found.cost / 81 <= 12
    assert all(1e-5 <= t.lr <= 10 and 1e-6 <= t.also["weight_decay"] <= 1 for t in found.trials)
    assert len({t.also["weight_decay"] for t in found.trials if t.round == 0}) == 26
    assert all(t.params == {"lr": t.lr} | t.also for t in found.trials)
    assert " weight_decay " in found.table() and found.to_dict()["params"] == found.params


def test_a_value_that_may_be_0_is_searched_evenly():
    def train(lr, budget, seed, warmup):
        return 1 + math.log10(lr / 0.1) ** 2 + 4 * (warmup - 0.1) ** 2

    found = fastlr.tune_lr(train, 1e-4, 10, budget=9, also={"warmup": (0.0, 0.5)})
    assert abs(found.params["warmup"] - 0.1) < 0.15 and abs(math.log10(found.lr / 0.1)) < 0.2
    first = sorted(t.also["warmup"] for t in found.trials if t.round == 0)
    assert max(after - before for before, after in pairwise([0.0, *first, 0.5])) < 0.05


def test_two_values_on_an_executor_from_a_journal_and_drawn(tmp_path):
    from matplotlib.figure import Figure

    given = {"budget": 9, "also": {"weight_decay": (1e-6, 1.0)}}
    here = fastlr.tune_lr(bowl, 1e-5, 10, **given, journal=tmp_path / "trials.jsonl")
    assert plain(fastlr.tune_lr(bowl, 1e-5, 10, **given, executor=lambda: ThreadPoolExecutor(3))) == plain(here)

    def never(lr, budget, seed, weight_decay):
        raise AssertionError

    assert plain(fastlr.tune_lr(never, 1e-5, 10, **given, journal=tmp_path / "trials.jsonl")) == plain(here)
    axes = here.plot(Figure().add_subplot())
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("learning rate", "weight_decay", "log")
    axes.figure.canvas.draw()


@pytest.mark.parametrize(("also", "error", "message"), [
    ({"weight_decay": (1e-5, 1e-1), "warmup": (0, 1)}, TypeError, "also must have one name and its range"),
    ({}, TypeError, "also must have one name and its range"),
    (["weight_decay"], TypeError, "also must have one name and its range"),
    ({"lr": (1e-5, 1)}, ValueError, "also must name an argument of train other than lr, budget and seed, got 'lr'"),
    ({"momentum": 0.9}, TypeError, r"also\['momentum'\] must be its least and its highest value, got 0.9"),
    ({"momentum": (0.9, 0.5)}, ValueError, r"also\['momentum'\]: 0 <= low < high < infinity must hold, got \(0.9, 0.5\)"),
])
def test_what_cannot_be_searched_beside_the_rate_is_refused(also, error, message):
    with pytest.raises(error, match=f"tune_lr: {message}"):
        fastlr.tune_lr(bowl, 1e-5, 10, budget=9, also=also)


# What is shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_screen(text):
    """What a terminal shows after cursor movements up and erasures."""
    lines = [""]
    for part in re.split(r"(\x1b\[\d*[FJ]|\n)", text):
        if part.startswith("\x1b[") and part.endswith("F"):
            del lines[len(lines) - 1 - int(part[2:-1]):]
            lines.append("")
        elif part == "\n":
            lines.append("")
        elif not part.startswith("\x1b"):
            lines[-1] += part
    return lines


def test_a_table_is_updated_in_place_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "REFRESH", 0.0)
    found = fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27)
    lines = on_screen(sys.stderr.getvalue())
    lost = sum(t.status != "done" for t in found.trials)
    assert re.fullmatch(rf"tune_lr: 24 trials, 5.9 of about 5.9 full trainings, \d s, {lost} without a score", lines[0])
    assert lines[1].split() == ["lr", "budget", "seed", "score"]
    assert lines[2].split()[:2] == [f"{found.lr:.4g}", "27"] and len(lines) == 7 and not lines[-1]
    assert sys.stderr.getvalue().count("\x1b[") > 24
    monkeypatch.setenv("COLUMNS", "40")
    sys.stderr.truncate(0)
    fastlr.tune_lr(cluster_trials.smooth, 1e-5, 10, budget=27)
    assert max(map(len, on_screen(sys.stderr.getvalue()))) < 40


def test_elsewhere_nothing_is_shown_unless_asked_for(capfd, monkeypatch):
    fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27)
    fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27, verbose=False)
    assert capfd.readouterr() == ("", "")
    found = fastlr.tune_lr(cluster_trials.troubled, 1e-5, 10, budget=27, verbose=True)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(found.trials)
    assert lines[0] == ("tune_lr: trial 1, round 0: lr 1e-05, budget 1, seed 0: failed: ZeroDivisionError: nothing at 1e-05")
    assert lines[5].startswith("tune_lr: trial 6, round 0: lr 0.003162, budget 1, seed 0: score ")
    monkeypatch.setattr(sys, "stderr", None)               # (as under pythonw)
    fastlr.tune_lr(cluster_trials.smooth, 1e-5, 10, budget=27, verbose=True)


# A search that was killed


KILLED = """
import math, os, sys, fastlr
calls = 0
def train(lr, budget, seed):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return (math.log10(lr) + 2) ** 2 + 1 / budget + seed / 1000
found = fastlr.tune_lr(train, 1e-6, 1.0, budget=27, seeds=2, journal=sys.argv[1])
print(calls, repr(found.lr), repr(found.score), len(found.trials), found.cost)
"""


def test_a_killed_search_goes_on_where_it_was(tmp_path):
    def run(path, kill_at):
        return subprocess.run([sys.executable, "-c", KILLED, str(path), str(kill_at)], capture_output=True, text=True)

    whole = run(tmp_path / "whole.jsonl", -1).stdout.split()
    assert whole[0] == "28" == whole[3]
    for kill_at in (1, 12, 26):
        path = tmp_path / f"{kill_at}.jsonl"
        assert run(path, kill_at).returncode == -9
        with path.open("a") as file:
            file.write('{"lr": 0.1, "budg')                    # a torn line
        again = run(path, -1).stdout.split()
        assert again[0] == str(28 - (kill_at - 1)) and again[1:] == whole[1:]
        assert run(path, -1).stdout.split() == ["0", *whole[1:]]


def test_a_journal_repeats_what_failed_and_refuses_what_it_did_not_write(tmp_path):
    path = tmp_path / "trials.jsonl"
    broken = [True]

    def train(lr, budget, seed):
        if broken[0] and lr > 0.1:
            raise RuntimeError("no memory")
        return math.nan if lr < 1e-5 else abs(math.log10(lr) + 1)

    first = fastlr.tune_lr(train, 1e-6, 1.0, budget=9, journal=path)
    broken[0] = False
    again = fastlr.tune_lr(train, 1e-6, 1.0, budget=9, journal=path)
    assert any(trial.status == "failed" for trial in first.trials)
    assert not any(trial.status == "failed" for trial in again.trials)
    assert any(trial.status == "diverged" for trial in again.trials)
    path.write_text("lr,score\n")
    with pytest.raises(ValueError, match=r"tune_lr: journal trials.jsonl: line 1: expected a trial .* give another file"):
        fastlr.tune_lr(train, 1e-6, 1.0, budget=9, journal=path)
