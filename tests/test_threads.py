"""fastlr among threads, forks and exits: right bits or a clear error, and a host left as it was."""
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from registry import arrays, bits, snapshot

import fastlr
from fastlr._engine import thread_pool
from fastlr._engine.threads import from_environment, group_limits, usable_cores

MIN_THREADED = 32768                   # a step over fewer elements is done by the calling thread alone
SIZES = (1000, MIN_THREADED - 1, MIN_THREADED, 3 * MIN_THREADED + 5)
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(autouse=True)
def eager_switches():
    """Let Python change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*tasks):
    """Call all at the same time, each in a thread of its own; their results."""
    results, failures = [None] * len(tasks), []
    start = threading.Barrier(len(tasks))

    def call(k, task):
        start.wait()
        try:
            results[k] = task()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=call, args=(k, task)) for k, task in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]
    return results


def trained(size, seed, steps=25, cls=fastlr.AdamW):
    """The bits after some steps."""
    p, g = arrays(np.float32, [size, size], seed)
    opt = cls([p], lr=0.01)
    for _ in range(steps):
        opt.step([g])
    return bits([p, *opt.state["0"].values()])


class Counter:
    """A tensor that each step moves by exactly 1."""

    def __init__(self, size, dtype=np.float64):
        self.p, self.g = np.zeros(size, dtype), np.full(size, -1, dtype)
        self.opt = fastlr.SGD([self.p], lr=1.0)

    def step(self, times=1):
        for _ in range(times):
            self.opt.step([self.g])

    def is_at(self, count):
        return self.opt.t == count and bool((self.p == count).all())


# Several threads

@pytest.mark.parametrize("size", SIZES)
def test_optimizers_in_several_threads_give_the_serial_bits(size):
    fastlr.set_num_threads(1)
    want = [trained(size, seed) for seed in range(4)]
    fastlr.set_num_threads(3)
    for _ in range(6):
        assert at_once(*(lambda seed=seed: trained(size, seed) for seed in range(4))) == want


@pytest.mark.parametrize("threads", range(2, 9))
def test_no_chunk_is_lost_or_done_twice(threads):
    fastlr.set_num_threads(threads)
    counter = Counter(200_000, np.float32)
    counter.step(2000)
    assert counter.is_at(2000)


def test_no_chunk_is_lost_or_done_twice_while_two_callers_share_the_pool():
    fastlr.set_num_threads(4)
    counters = [Counter(size) for size in (200_000, 70_000, 33_000)]
    at_once(*(lambda counter=counter: counter.step(1000) for counter in counters))
    assert all(counter.is_at(1000) for counter in counters)


@pytest.mark.parametrize("size", SIZES)
def test_one_optimizer_in_several_threads_steps_or_refuses(size):
    fastlr.set_num_threads(3)
    counter = Counter(size)

    def step_many():
        done = 0
        for _ in range(200):
            try:
                counter.step()
                done += 1
            except RuntimeError as error:
                assert str(error) == "SGD: this optimizer is already stepping"
        return done

    assert counter.is_at(sum(at_once(step_many, step_many, step_many)))


def test_nothing_changes_an_optimizer_that_steps():
    inside, go_on = threading.Event(), threading.Event()

    def waiting(t):
        inside.set()
        assert go_on.wait(60)
        return 1.0

    p, g = np.zeros(4), -np.ones(4)
    opt = fastlr.SGD([p], lr=waiting)
    saved = opt.state_dict()
    stepping = threading.Thread(target=opt.step, args=([g],))
    stepping.start()
    assert inside.wait(60)
    for change in (lambda: opt.step([g]), lambda: opt.bind([g]), lambda: opt.add_group([np.zeros(2)]),
                   lambda: opt.load_state_dict(saved | {"t": 7})):
        with pytest.raises(RuntimeError, match="SGD: this optimizer is already stepping"):
            change()
    go_on.set()
    stepping.join(60)
    assert (p == 1).all()
    assert (opt.t, len(opt.groups)) == (1, 1)
    opt.add_group([np.zeros(2)])
    assert len(opt.groups) == 2


@pytest.mark.parametrize("action", ["step", "bind", "add_group", "load_state_dict"])
def test_a_schedule_cannot_step_its_own_optimizer(action):
    p, g = np.zeros(4), np.ones(4)

    def schedule(t):
        argument = {"step": [g], "bind": [g], "add_group": [g], "load_state_dict": saved}[action]
        getattr(opt, action)(argument)
        return 1.0

    opt = fastlr.Momentum([p], lr=schedule)
    saved = opt.state_dict()
    before = snapshot(opt, [p])
    for _ in range(3):
        with pytest.raises(RuntimeError, match="Momentum: this optimizer is already stepping"):
            opt.step([g])
        assert snapshot(opt, [p]) == before
    opt.lr = 1.0
    opt.step([g])
    assert (p == -1).all()


def test_a_schedule_sets_no_hyper_parameter_of_the_step_that_evaluates_it():
    def schedule(t):
        with pytest.raises(RuntimeError, match="set weight_decay between steps"):
            opt.weight_decay = lambda t: 0.5
        opt.lr = 0.25

    p = np.zeros(4)
    opt = fastlr.SGD([p], lr=schedule)
    before = snapshot(opt, [p])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="SGD: a schedule is giving its value; set lr between steps"):
            opt.step([np.ones(4)])
        assert snapshot(opt, [p]) == before
    opt.lr = 0.25
    opt.step([np.ones(4)])
    assert (p == -0.25).all()


def test_the_number_of_threads_changes_under_running_steps():
    fastlr.set_num_threads(1)
    want = [trained(3 * MIN_THREADED, seed) for seed in range(2)]
    done = threading.Event()

    def change():
        k = 0
        while not done.is_set():
            fastlr.set_num_threads(1 + k % 6)
            k += 1

    def train(seed):
        try:
            return [trained(3 * MIN_THREADED, seed) for _ in range(5)]
        finally:
            done.set()

    results = at_once(change, lambda: train(0), lambda: train(1))
    assert results[1:] == [[want[0]] * 5, [want[1]] * 5]


def test_gradients_that_another_thread_changes_are_taken_or_refused():
    shapes = [(4,)] * 20
    params, grads = arrays(np.float64, shapes), arrays(np.float64, shapes, seed=1)
    opt = fastlr.SGD(params, lr=0.0)
    given, done = list(grads), threading.Event()

    def mutate():
        while not done.is_set():
            given.clear()
            given.extend(grads)
            given[3] = None
            given.append(np.zeros(9))
            given.pop()
            given[3] = np.zeros(4)

    def step():
        taken = 0
        try:
            for _ in range(3000):
                try:
                    opt.step(given)
                    taken += 1
                except ValueError as error:
                    assert re.search(r"expected (20 gradients|float64 \(4,\))", str(error))
        finally:
            done.set()
        return taken

    assert at_once(mutate, step)[1] == opt.t


class Shrinking(list):
    """A list that is as long as asked for only until it is copied."""

    def __iter__(self):
        return iter(list(range(0)))


def test_a_list_that_is_not_as_long_as_it_says_is_refused():
    p = np.zeros(3)
    opt = fastlr.SGD([p, np.zeros(3)])
    with pytest.raises(ValueError, match="SGD: expected 2 gradients, got 0"):
        opt._plan.step([], 1.0, False)
    with pytest.raises(ValueError, match="expected 2 gradients"):
        opt.step(Shrinking([np.ones(3), np.ones(3)]))
    with pytest.raises(ValueError, match="expected 2 gradients"):
        opt._plan.bind([np.ones(3)] * 3)
    assert (p == 0).all()


@pytest.mark.parametrize("refused", [
    lambda opt: opt.step([np.ones(3)]),
    lambda opt: opt.step([np.ones((4, 1))]),
    lambda opt: opt.step(["no array"]),
    lambda opt: opt.step([np.ones(4)], grad_scale=0.0),
    lambda opt: opt.step(),
    lambda opt: opt.bind([np.ones(3)]),
    lambda opt: opt.step([np.broadcast_to(np.ones(1), 4)], zero_grads=True),
])
def test_a_refused_step_is_over(refused):
    counter = Counter(4)
    for k in range(3):
        with pytest.raises((TypeError, ValueError)):
            refused(counter.opt)
        counter.step()
        assert counter.is_at(k + 1)


def test_a_schedule_that_fails_leaves_the_optimizer_free():
    counter = Counter(4)

    def failing(t):
        raise KeyboardInterrupt

    counter.opt.lr = failing
    with pytest.raises(KeyboardInterrupt):
        counter.step()
    counter.opt.lr = 1.0
    counter.step()
    assert counter.is_at(1)


# Starting helpers

def test_a_thread_that_cannot_be_started_is_done_without(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    before = thread_pool.running()
    fastlr.set_num_threads(before + 4)
    counter = Counter(10 * MIN_THREADED)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        counter.step(3)
    assert counter.is_at(3)
    assert thread_pool.running() == before
    counter.step()
    assert counter.is_at(4)
    assert thread_pool.running() == before + 3


def test_a_start_that_is_interrupted_can_be_made_again(monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    before = thread_pool.running()
    fastlr.set_num_threads(before + 3)
    counter = Counter(10 * MIN_THREADED)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            counter.step()
    assert counter.is_at(0)
    counter.step(20)
    assert counter.is_at(20)
    assert thread_pool.running() == before + 2


@pytest.mark.parametrize("n", [0, -1, 1.0, "2", None, True, 2.5, np.float64(2)])
def test_a_number_of_threads_is_a_positive_integer(n):
    before = fastlr.get_num_threads()
    says = f"set_num_threads: expected a positive integer, got {n!r}"
    with pytest.raises(ValueError, match=re.escape(says)):
        fastlr.set_num_threads(n)
    assert fastlr.get_num_threads() == before


@pytest.mark.parametrize("n", [1, 3, np.int32(5), 10**6, 2**31, 2**70])
def test_any_positive_integer_is_a_number_of_threads(n):
    fastlr.set_num_threads(n)
    assert fastlr.get_num_threads() == n
    assert type(fastlr.get_num_threads()) is int


# Processes of their own

PREAMBLE = """
import os, signal, sys, threading, time, warnings
import numpy as np, fastlr
from fastlr._engine import thread_pool
if hasattr(signal, "alarm"):
    signal.alarm(50)

class Counter:
    def __init__(self, size=200_000):
        self.p, self.g = np.zeros(size), -np.ones(size)
        self.opt = fastlr.SGD([self.p], lr=1.0)
    def step(self, times=1):
        for _ in range(times):
            self.opt.step([self.g])
    def is_at(self, count):
        return self.opt.t == count and bool((self.p == count).all())
"""


@pytest.fixture
def script(environment, tmp_path):
    """Run a program in a process of its own, which must end well and in silence; what it printed."""
    def run(code, ok=True, **variables):
        path = tmp_path / "program.py"
        path.write_text(PREAMBLE + code)
        clean = {name: value for name, value in environment.items() if not name.endswith("_NUM_THREADS")}
        done = subprocess.run([sys.executable, str(path)], env=clean | variables, capture_output=True,
                              text=True, timeout=60)
        if ok:
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout
        assert done.returncode == 1
        return done.stderr
    return run


SHOW = "print(fastlr.get_num_threads(), thread_pool.running())\n"


# At import, in a process of its own: one of each kind.
@pytest.mark.parametrize(("variables", "threads"), [
    ({}, usable_cores()),
    ({"FASTLR_NUM_THREADS": "99999999999999999999"}, 99999999999999999999),
    ({"OMP_NUM_THREADS": "5", "FASTLR_NUM_THREADS": "2"}, 2),
])
def test_the_environment_says_how_many_threads(script, variables, threads):
    assert script(SHOW, **variables) == f"{threads} 0\n"


def test_a_malformed_number_of_threads_ends_the_import(script):
    error = script(SHOW, ok=False, FASTLR_NUM_THREADS="0")
    assert "ImportError: FASTLR_NUM_THREADS: expected a positive integer, got '0'" in error


@pytest.fixture
def variables(monkeypatch):
    """Set these of the environment, and no others that ask for threads."""
    def only(asked):
        for name in ("FASTLR_NUM_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in asked.items():
            monkeypatch.setenv(name, value)
    return only


@pytest.mark.parametrize(("asked", "threads"), [
    ({}, usable_cores()),
    ({"FASTLR_NUM_THREADS": "3"}, 3),
    ({"FASTLR_NUM_THREADS": " 3 "}, 3),
    ({"FASTLR_NUM_THREADS": ""}, usable_cores()),
    ({"FASTLR_NUM_THREADS": "99999999999999999999"}, 99999999999999999999),
    ({"OMP_NUM_THREADS": "5"}, 5),
    ({"OMP_NUM_THREADS": "5,2"}, 5),
    ({"OMP_NUM_THREADS": "many"}, usable_cores()),
    ({"OMP_NUM_THREADS": "0"}, usable_cores()),
    ({"OMP_NUM_THREADS": "5", "FASTLR_NUM_THREADS": "2"}, 2),
])
def test_the_environment_is_read_as_openmp_reads_it(variables, asked, threads):
    variables(asked)
    assert from_environment() == threads


@pytest.mark.parametrize(("groups", "files", "limits"), [
    ("0::/\n", {}, []),
    ("0::/\n", {"cpu.max": "max 100000\n"}, []),
    ("0::/\n", {"cpu.max": "350000 100000\n"}, [3]),
    ("0::/\n", {"cpu.max": "50000 100000\n"}, [1]),
    ("0::/user/job\n", {"user/cpu.max": "400000 100000\n", "user/job/cpu.max": "max 100000\n"}, [4]),
    ("0::/user/job\n", {"user/cpu.max": "400000 100000\n", "user/job/cpu.max": "200000 100000\n"}, [2, 4]),
    ("0::/../other\n", {"cpu.max": "600000 100000\n"}, [6]),
    ("0::/not/visible\n", {"cpu.max": "not a number\n"}, []),
    ("5:cpuset:/a\n4:cpu,cpuacct:/a/b\n1:name=systemd:/\n", {
        "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, [2]),
    ("4:cpuacct,cpu:/hidden\n", {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "50000\n"}, [6]),
    ("4:memory:/a\n", {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "50000\n"}, []),
    (None, {"cpu.max": "350000 100000\n"}, []),
])
def test_a_container_limits_the_usable_cores(tmp_path, groups, files, limits):
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if groups is not None:
        (tmp_path / "cgroup").write_text(groups)
    assert list(group_limits(str(tmp_path / "cgroup"), str(tmp_path / "mounted"))) == limits


def test_limits_of_control_groups_are_obeyed(monkeypatch):
    for limits, cores in (([], None), ([1], 1), ([10**6, 1], 1)):
        monkeypatch.setattr("fastlr._engine.threads.group_limits", lambda limits=limits: iter(limits))
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert usable_cores() == (cores or available)


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "two", "²"])
def test_a_malformed_number_of_threads_is_a_clear_error(variables, asked):
    variables({"FASTLR_NUM_THREADS": asked})
    with pytest.raises(ImportError, match=re.escape(f"FASTLR_NUM_THREADS: expected a positive integer, got {asked!r}")):
        from_environment()


def test_no_thread_is_started_before_the_first_large_step(script):
    out = script("""
def tasks():
    folder = "/proc/self/task"
    return len(os.listdir(folder)) if os.path.isdir(folder) else threading.active_count()
fastlr.set_num_threads(4)
before = tasks()
Counter(32_767).step(10)
fastlr.kernels.sgd(np.zeros(32_767), np.zeros(32_767), t=1, lr=0.1)
print(tasks() - before, thread_pool.running())
Counter(32_768).step()
print(tasks() - before, thread_pool.running(), sorted(t.name for t in threading.enumerate() if t.daemon))
fastlr.set_num_threads(2)
Counter().step(10)
print(tasks() - before, thread_pool.running())
""")
    assert out == "0 0\n3 3 ['fastlr-0', 'fastlr-1', 'fastlr-2']\n3 3\n"


def test_threads_that_come_at_once_start_each_helper_once(script):
    out = script("""
sys.setswitchinterval(1e-6)
fastlr.set_num_threads(6)
counters = [Counter() for _ in range(8)]
start = threading.Barrier(8)
def work(counter):
    start.wait()
    counter.step(50)
threads = [threading.Thread(target=work, args=(counter,)) for counter in counters]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
names = [thread.name for thread in threading.enumerate() if thread.name.startswith("fastlr-")]
print(all(counter.is_at(50) for counter in counters), thread_pool.running(), len(names), len(set(names)))
""")
    assert out == "True 5 5 5\n"


FORK = """
def in_child(work):
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            os._exit(0 if work() else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
fastlr.set_num_threads(4)
"""


@FORKS
def test_a_forked_child_steps_with_threads_of_its_own(script):
    out = script(FORK + """
counter = Counter()
counter.step(10)
def work():
    if thread_pool.running() != 0:
        return False
    counter.step(200)
    return counter.is_at(210) and thread_pool.running() == 3
print(in_child(work))
print(in_child(lambda: work() and in_child(lambda: thread_pool.running() == 0 and not counter.step(5)) == 0))
counter.step(10)
print(counter.is_at(20), thread_pool.running())
""")
    assert out == "0\n0\nTrue 3\n"


@FORKS
def test_a_fork_waits_for_kernels_that_another_thread_loads(script):
    """Else the child waits for ever for the lock of an import that nobody there ends."""
    out = script(FORK + """
from fastlr._engine import instruction_set
begun, loaded = threading.Event(), []
real = instruction_set.found
def slow(name):
    begun.set()
    time.sleep(0.3)
    loaded.append(name)
    return real(name)
instruction_set.found = slow
thread = threading.Thread(target=instruction_set.load, args=("fastlr._kernels.norms",))
thread.start()
begun.wait()
print(in_child(lambda: loaded == ["fastlr._kernels.norms"]))
thread.join()
""")
    assert out == "0\n"


@FORKS
def test_a_fork_amid_the_steps_of_another_thread(script):
    out = script(FORK + """
sys.setswitchinterval(1e-6)
done = threading.Event()
def stepping():
    other = Counter()
    while not done.is_set():
        other.step()
thread = threading.Thread(target=stepping)
thread.start()
def work():
    counter = Counter()
    counter.step(20)
    return counter.is_at(20) and thread_pool.running() == 3
codes = [in_child(work) for _ in range(30)]
done.set()
thread.join()
print(set(codes))
""")
    assert out == "{0}\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(script, method):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    out = script(f"""
import multiprocessing
def work(k):
    fastlr.set_num_threads(3)
    counter = Counter()
    counter.step(k)
    return counter.is_at(k)
if __name__ == "__main__":
    fastlr.set_num_threads(3)
    Counter().step(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with multiprocessing.get_context({method!r}).Pool(2) as processes:
            print(processes.map(work, [1, 20, 50, 7]))
    Counter().step(5)
""")
    assert out == "[True, True, True, True]\n"


@pytest.mark.parametrize("code", [
    "Counter().step(5)",
    """
def forever():
    counter = Counter()
    while True:
        counter.step()
for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
""",
    """
counter = Counter()
def later():
    time.sleep(0.2)
    counter.step(50)
    print(counter.is_at(50))
threading.Thread(target=later).start()
""",
    """
import atexit
counter = Counter()
@atexit.register
def last():
    counter.step(50)
    print(counter.is_at(50))
counter.opt.step([counter.g])
counter.opt.load_state_dict(counter.opt.state_dict() | {"t": 0})
counter.p[:] = 0
""",
    """
class Last:
    def __init__(self):
        self.counter = Counter()
    def __del__(self):
        self.counter.step(3)
last = Last()
last.counter.step(2)
""",
    "Counter().step(5); threading.Thread(target=lambda: (time.sleep(0.1), os._exit(0))).start()",
], ids=["idle pool", "daemon threads", "a thread that outlives main", "at exit", "a last step", "_exit"])
def test_a_process_with_a_pool_ends(script, code):
    for _ in range(2):
        out = script("fastlr.set_num_threads(4)\n" + code)
        assert out in ("", "True\n")


def test_a_process_with_a_pool_ends_on_ctrl_c(script):
    out = script("""
fastlr.set_num_threads(4)
signal.signal(signal.SIGINT, signal.default_int_handler)       # (a shell may have it ignored)
counter = Counter()
threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT)).start()
try:
    while True:
        counter.step()
except KeyboardInterrupt:
    print(counter.is_at(counter.opt.t))
""")
    assert out == "True\n"


# The host

def test_the_host_keeps_signal_handlers_and_random_states():
    def state():
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        name, keys, *rest = np.random.get_state()  # noqa: NPY002  (the host's legacy state is what must stay)
        return handlers, random.getstate(), (name, keys.tobytes(), *rest), sys.getswitchinterval()

    fastlr.set_num_threads(3)
    before = state()
    Counter(10 * MIN_THREADED).step(10)
    Counter(10).step(10)
    assert state() == before


MODES = {"as ever": 0x1f80, "to zero": 0x7f80, "flushing": 0x9fc0, "upwards, flushing": 0xdfc0}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the modes are x86-64's")
@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
@pytest.mark.parametrize("size", [100, 5 * MIN_THREADED])
def test_the_host_keeps_its_floating_point_mode_and_the_bits_do_not_depend_on_it(stranger, mode, size):
    extension = stranger.extension
    fastlr.set_num_threads(3)
    # (hyper-parameters whose scalars are exact: those are computed once, in the caller's own mode)
    p, g = arrays(np.float32, [size, size])
    want = p.copy()
    fastlr.Momentum([want], lr=0.5, momentum=0.5).step([g])
    usual = extension.floating_point_mode()
    modes = []
    extension.set_floating_point_mode(mode)
    try:
        opt = fastlr.Momentum([p], lr=0.5, momentum=0.5)
        opt.step([g])
        fastlr.kernels.sgd(np.zeros(size), np.zeros(size), t=1, lr=0.5)
        modes.append(extension.floating_point_mode())
    finally:
        extension.set_floating_point_mode(usual)
    at_once(lambda: modes.append(extension.floating_point_mode()))
    assert modes == [mode, usual]
    assert bits([p]) == bits([want])


def test_another_thread_keeps_subnormal_numbers_while_one_steps():
    fastlr.set_num_threads(3)
    tiny, done = np.full(1000, 1e-40, np.float32), threading.Event()

    def watch():
        seen = True
        while not done.is_set():
            seen = seen and bool((tiny * np.float32(0.5) != 0).all())
        return seen

    def step():
        try:
            Counter(5 * MIN_THREADED).step(300)
            return bool((tiny * np.float32(0.5) != 0).all())
        finally:
            done.set()

    assert at_once(watch, step) == [True, True]


def test_a_step_lets_other_python_threads_run():
    fastlr.set_num_threads(2)
    counter, ticks, done = Counter(2_000_000), [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    started = len(ticks)
    counter.step(20)
    during = len(ticks) - started
    done.set()
    thread.join()
    assert during > 0
