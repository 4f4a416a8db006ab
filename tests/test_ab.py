"""What benchmarks/ab.py makes of ratios, on made-up ones: nothing is timed here."""
import gc
import json
import os
import statistics
import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest

import fastlr

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def around(*medians, noise=0.001, rounds=5):
    """An attempt for each median: rounds evenly around it."""
    return [[median + noise * (k - rounds // 2) for k in range(rounds)] for median in medians]


def judged(*medians, threshold=0.03, **shape):
    from ab_verdict import verdict

    return verdict(around(*medians, **shape), threshold)


@pytest.mark.parametrize(("medians", "said"), [
    ((1.0, 1.001, 0.999), "same"),
    ((1.029, 1.02, 1.0), "same"),
    ((0.9, 0.95, 1.0), "same"),                     # not slower, but not sure to be faster
    ((0.9, 0.91, 0.92), "faster"),
    ((1.1, 1.1, 1.1, 1.1, 1.1), "SLOWER"),
    ((1.031, 1.2, 1.04, 1.05, 1.5), "SLOWER"),
    ((1.1, 1.1, 1.1, 1.1, 1.02), "unsure (spread)"),
    ((1.0, 1.0, 1.05), "unsure (spread)"),
])
def test_verdicts(medians, said):
    assert judged(*medians) == said


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
def test_few_pairs_of_processes_say_nothing_however_many_rounds(ratio):
    assert judged(ratio, rounds=1001) == judged(ratio, ratio, rounds=1001) == "unsure (spread)"


def test_slower_needs_more_pairs_than_the_rest():
    from ab_verdict import LEAST, LEAST_SLOWER

    assert LEAST < LEAST_SLOWER
    for pairs in range(1, LEAST_SLOWER):
        assert judged(*[1.1] * pairs) == "unsure (spread)"
    assert judged(*[1.1] * LEAST_SLOWER) == "SLOWER"
    assert [judged(*[0.8] * pairs) for pairs in (LEAST - 1, LEAST)] == ["unsure (spread)", "faster"]


def test_the_threshold_decides():
    medians = (1.04,) * 5
    assert judged(*medians, threshold=0.03) == "SLOWER"
    assert judged(*medians, threshold=0.05) == "same"
    assert judged(*[0.96] * 3, threshold=0.03) == "faster"
    assert judged(*[0.96] * 3, threshold=0.05) == "same"


def test_one_bad_pair_among_many_changes_no_verdict():
    assert judged(*[1.0] * 9, 1.5, 0.5) == "same"
    assert judged(*[1.1] * 9, 0.5, 1.5) == "SLOWER"


def test_one_bad_round_does_not_move_an_attempt():
    from ab_verdict import summarise

    found = summarise([[1.0, 1.0, 1.0, 9.0, 0.1], [1.0, 1.0, 1.0], [1.0]])
    assert (found.ratio, found.low, found.high, found.attempts) == (1.0, 1.0, 1.0, 3)


def test_what_looks_slower_is_measured_again_until_the_verdict_may_say_so():
    from ab_verdict import LEAST_SLOWER, suspect

    assert suspect(around(1.1), 0.03) and suspect(around(1.1, 1.2), 0.03)
    assert not suspect(around(1.1, 1.0), 0.03)
    assert not suspect(around(0.9), 0.03)
    assert not suspect(around(*[1.1] * LEAST_SLOWER), 0.03)


@pytest.mark.parametrize("n", range(1, 41))
def test_bounds_of_the_median_hold_it_with_95_percent(n):
    """Exactly: over all arrangements of n values above or below the median."""
    from ab_verdict import interval

    low, high = interval(range(n))
    k = low + 1
    assert high == n - k and k >= 1 and (n == 1 or low < high)
    outside = 2 * sum(comb(n, j) for j in range(k)) / 2**n
    assert outside <= 0.05 or k == 1
    assert n < 6 or outside <= 0.05
    assert 2 * sum(comb(n, j) for j in range(k + 1)) / 2**n > 0.05 or k >= n // 2       # and no narrower ones do


def test_bounds_do_not_depend_on_the_order():
    from ab_verdict import interval

    assert interval([5, 1, 4, 2, 3, 6]) == (1, 6)
    assert interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 8)


def test_quartiles_are_those_of_the_attempts():
    from ab_verdict import summarise

    medians = [1.0, 1.1, 1.2, 1.3, 1.4]
    found = summarise(around(*medians))
    assert (found.lower_quartile, found.ratio, found.upper_quartile) == pytest.approx((1.1, 1.2, 1.3))
    assert found.ratio == statistics.median(medians)


def test_no_attempt_is_an_error():
    from ab_verdict import summarise

    with pytest.raises(ValueError, match="at least one attempt is needed, got none"):
        summarise([])


@pytest.mark.parametrize(("old", "new", "said"), [
    (1000, 1030, "same"), (1000, 1031, "SLOWER"), (1000, 970, "same"), (1000, 969, "faster"), (1000, 1000, "same")])
def test_counts_decide_at_once(old, new, said):
    from ab_verdict import verdict_of_counts

    assert verdict_of_counts(old, new, 0.03) == said


def test_counts_decide_only_what_times_leave_unsure():
    from ab import Result

    slower = Result("x", old=[[1.0] * 5] * 5, new=[[1.1] * 5] * 5, counts=(10.0, 10.0))
    unsure = Result("x", old=[[1.0] * 5], new=[[1.1] * 5], counts=(10.0, 10.0))
    uncounted = Result("x", old=[[1.0] * 5], new=[[1.1] * 5])
    counted = Result("x", counts=(10.0, 11.0))
    assert [r.verdict(0.03) for r in (slower, unsure, uncounted, counted)] == \
        ["SLOWER", "same", "unsure (spread)", "SLOWER"]


@pytest.mark.parametrize("first", [0, 1])
def test_a_steady_drift_cancels_in_a_round(first):
    """Each sample takes longer than the one before; the builds are alike."""
    from ab import ROUNDS, rounds_of

    asked = []

    def sample(which):
        asked.append(which)
        return 1.0 + 0.125 * len(asked)

    old, new = rounds_of(sample, first)
    assert old == new and len(old) == ROUNDS
    assert asked == [first, 1 - first, 1 - first, first] * ROUNDS


def test_a_slower_build_shows_in_every_round():
    from ab import rounds_of

    old, new = rounds_of(lambda which: 1.25 if which else 1.0, 1)
    assert [n / o for o, n in zip(old, new, strict=True)] == [1.25] * len(old)


@pytest.mark.parametrize("seconds", [1e-8, 1e-7, 3e-6, 1e-4, 1e-3, 1e-2, 1.0])
def test_a_sample_takes_about_as_long_as_given(seconds):
    from ab_child import PERIOD, SHORT, batched

    calls, batches = batched(seconds, 4e-3)
    assert calls >= 1 and 2 <= batches <= 5
    if PERIOD * seconds < SHORT:
        assert calls % PERIOD == 0                # (what happens every tenth step happens equally often in each)
        assert calls * batches * seconds < 2 * SHORT + 4e-3
    else:
        assert calls == 1


def test_a_build_is_named_by_a_python_a_wheel_or_a_source(tmp_path):
    from ab_environments import prepared

    assert os.path.samefile(prepared(sys.executable, "old", tmp_path).python, sys.executable)
    text = tmp_path / "text"
    text.write_text("")
    for wrong in (text, tmp_path, tmp_path / "missing.whl"):
        with pytest.raises(SystemExit, match="new must be a Python executable, a wheel or a source folder, got"):
            prepared(str(wrong), "new", tmp_path)


def test_paths_of_both_environments_are_equally_long(tmp_path):
    from ab_environments import prepared

    made = []
    for label, folder in (("old", "a"), ("new", "a-longer-one")):
        python = tmp_path / folder / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        (tmp_path / folder / "pyvenv.cfg").write_text("")
        made.append(prepared(str(python), label, tmp_path).python)
    assert len({len(str(python)) for python in made}) == 1
    assert [os.path.realpath(python.parents[1]) for python in made] == \
        [os.path.realpath(tmp_path / folder) for folder in ("a", "a-longer-one")]


def test_both_processes_have_the_same_surroundings(monkeypatch):
    from ab_environments import pinned

    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("FASTLR_NUM_THREADS", "7")
    monkeypatch.setenv("FASTLR_ISA", "v3")
    made = pinned(2)
    assert "PYTHONPATH" not in made and made["PYTHONHASHSEED"] == "0" and made["FASTLR_ISA"] == "v3"
    assert {made[name] for name in ("FASTLR_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")} == {"2"}


def test_every_optimizer_and_schedule_has_workloads_that_are_named_once():
    from ab_workloads import workloads

    names = list(workloads())
    cls_of = {rule: type(fastlr.create_optimizer(rule, np.ones((2, 2)))) for rule in fastlr.list_optimizers()}
    assert len(names) == len(set(names))
    for rule in fastlr.list_optimizers():
        assert {f"cache/{rule}", f"small/{rule}"} <= {*names}
        assert (f"medium/{rule}" in names) == (cls_of[rule].kind == "matrix")
    assert {f"schedule/one {name}" for name in fastlr.schedules.list_schedules()} <= {*names}
    assert 8 <= sum(name.startswith("large/") for name in names) <= 25


@pytest.mark.parametrize("name", ["call/1 x 64 bound", "cache/adamw", "cache/momo", "cache/sophia", "medium/muon",
                                  "rows/adam", "accumulate/adamw", "kernel/nadam 64", "kernel/schedulefreesgd 64",
                                  "storage/adamw bfloat16, int8 states", "stage/all", "layout/both transposed",
                                  "schedule/one cosine", "state/load 100 tensors", "wrapper/SAM", "wrapper/LBFGS"])
def test_a_workload_can_be_called_again_and_again(name):
    from ab_workloads import workloads

    call = workloads()[name]()
    for _ in range(12):
        call()


def test_what_a_build_lacks_is_named_with_its_reason(monkeypatch):
    import ab_child
    import ab_workloads

    def gone():
        raise AttributeError("module 'fastlr' has no attribute 'NewRule'")

    monkeypatch.setattr(ab_workloads, "workloads", lambda: {"cache/newrule": gone})
    monkeypatch.setenv("FASTLR_NUM_THREADS", "1")
    measuring = ab_child.Measuring()
    assert measuring.list() == ["cache/newrule"]
    assert measuring.make("cache/newrule") == {"lacks": "AttributeError: module 'fastlr' has no attribute 'NewRule'"}


def test_a_sample_is_the_shortest_batch_and_gives_back_the_collector(monkeypatch):
    import ab_child
    import ab_workloads

    called = []
    monkeypatch.setattr(ab_workloads, "workloads", lambda: {"cache/a": lambda: lambda: called.append(gc.isenabled())})
    monkeypatch.setenv("FASTLR_NUM_THREADS", "1")
    measuring = ab_child.Measuring()
    assert "seconds" in measuring.make("cache/a")
    called.clear()
    monkeypatch.setattr(measuring, "now", iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0]).__next__)
    assert measuring.sample(10, 3) == 0.2
    assert called == [False] * 30 and gc.isenabled()


def test_left_out_says_which_build_lacks_what():
    from ab import NO_TIME, Result, left_out

    lacking = [Result("cache/one", lacks={"new": "not listed"}),
               Result("rows/a", lacks={"old": "TypeError", "new": "TypeError"}),
               Result("rows/b", lacks={"old": "TypeError", "new": "TypeError"}),
               Result("cache/late", lacks={"old": NO_TIME, "new": NO_TIME})]
    assert list(left_out(lacking)) == ["left out: cache/one: new: not listed",
                                       "left out, as neither build has it: rows/ a, b",
                                       f"not measured, {NO_TIME}: cache/ late"]


def test_a_document_of_a_run(tmp_path, monkeypatch, capsys):
    """The whole program with processes that are made up: one workload the same, one slower, one that new lacks."""
    import ab

    made = {"old": {"cache/a": 1e-3, "cache/b": 1e-3, "cache/c": 1e-3}, "new": {"cache/a": 1e-3, "cache/b": 2e-3}}

    class Child:
        def __init__(self, build, threads, number):
            self.label, self.at = build.label, ""

        def ask(self, what, *arguments):
            if what == "about":
                return {"folder": self.label, "size": 100, "threads": 1}
            if what == "list":
                return list(made[self.label])
            if what == "make":
                self.at = arguments[0]
                return {"seconds": made[self.label][self.at]}
            return made[self.label][self.at]

        def end(self):
            pass

    monkeypatch.setattr(ab, "Child", Child)
    monkeypatch.setattr(sys, "argv", ["ab.py", sys.executable, sys.executable, "--only", "cache/*", "--no-counts",
                                      "--json", str(tmp_path / "found.json")])
    assert ab.main() == 1
    shown = capsys.readouterr().out
    assert "3 %: 0 faster, 1 same, 0 unsure (spread), 1 SLOWER" in shown
    assert "SLOWER: cache/b\n" in shown and "left out: cache/c: new: not listed" in shown
    found = {each["name"]: each for each in json.loads((tmp_path / "found.json").read_text())["workloads"]}
    assert found["cache/a"]["verdict"] == "same" and found["cache/b"]["verdict"] == "SLOWER"
    assert found["cache/b"]["summary"]["ratio"] == 2.0 and found["cache/c"]["lacks"] == {"new": "not listed"}
    made["new"]["cache/b"] = 1e-3
    assert ab.main() == 0


def test_a_process_that_ends_is_an_error_that_names_the_workload():
    """A build that crashes in a workload is not passed over."""
    from ab import Child, Lost
    from ab_environments import Build

    child = Child(Build("new", Path("/bin/false")), 1)
    with pytest.raises(Lost, match="the process of new ended with 1 in make cache/adamw"):
        child.ask("make", "cache/adamw")
    assert child.process.stdin.closed and child.process.stdout.closed
