"""Random trials (`random_trials.py`): none fails, whatever the instruction set, and one that should fail does."""
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import random_trials
import trials_programs
import trials_runs

import fastlr

TRIALS, SEED = 2000, 0
AT_ONCE = 2


def test_random_trials_agree_with_the_reference_and_with_themselves(environment):
    each = TRIALS // AT_ONCE
    with ThreadPoolExecutor(AT_ONCE) as threads:
        made = list(threads.map(lambda k: random_trials.trials(SEED, k * each, each, environment), range(AT_ONCE)))
    failures = [text for texts, _ in made for text in texts]
    assert not failures, "\n".join(failures)


def test_random_trials_have_the_same_bits_with_every_instruction_set(environment):
    found = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for failures, digests in threads.map(lambda isa: random_trials.trials(
                SEED + 1, 0, 150, environment | {"FASTLR_ISA": isa}, digest=True), supported(environment)):
            assert not failures, "\n".join(failures)
            found.append(digests)
    assert len(found[0]) == 150
    for other in found[1:]:
        assert [k for k in other if other[k] != found[0][k]] == []


def supported(environment):
    """The instruction sets that can be chosen here: fastlr refuses to be imported with another."""
    return [isa for isa in ("baseline", "v3", "v4") if subprocess.run(
        [sys.executable, "-c", "import fastlr"], env=environment | {"FASTLR_ISA": isa}, capture_output=True).returncode == 0]


def test_a_trial_is_the_same_each_time():
    for k in range(50):
        assert repr(trials_programs.make(3, k)) == repr(trials_programs.make(3, k))
        assert trials_programs.make(3, k) != trials_programs.make(4, k)


def test_every_optimizer_and_every_event_is_tried():
    made = [trials_programs.make(SEED, k) for k in range(TRIALS)]
    assert {trial["cls"] for trial in made} == set(trials_programs.CLASSES)
    assert {event["kind"] for trial in made for event in trial["events"]} == {
        "step", "rows", "accumulate", "set", "join", "refuse", "interrupt", "rewind"}
    assert {form for trial in made for form in random_trials.forms(trial)} == {"threads", "layout", "resume", "alone", "rows"}


TAMPERED = {
    "a parameter that is off": lambda opt, arrays: arrays[0].__imul__(1.001),
    "a state that is off": lambda opt, arrays: opt.state["0"]["m"].__iadd__(0.01),
    "a rate that is off": lambda opt, arrays: setattr(opt, "lr", 0.2),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_is_wrong_is_found(what, monkeypatch):
    trial = {"seed": 0, "number": 0, "cls": "AdamW", "convention": None, "options": {}, "forms": {}, "wrapper": None,
             "hyper": {"lr": 0.1}, "structure": "list",
             "tensors": [{"name": "0", "shape": (40, 30), "dtype": "float32", "layout": "plain", "group": 0}],
             "events": [{"kind": "step", "key": k, "size": 1.0} for k in (1, 2)]}
    assert random_trials.attempt(trial)[0] is None
    real = fastlr.AdamW.step

    def step(self, grads, **keywords):
        if self.t == 1 and what.startswith("a rate"):
            TAMPERED[what](self, None)
        real(self, grads, **keywords)
        if self.t == 2 and not what.startswith("a rate"):
            TAMPERED[what](self, list(ARRAYS.values()))

    made, ARRAYS = trials_runs.Run.made, {}

    def making(self):
        made(self)
        ARRAYS.update(self.arrays)

    monkeypatch.setattr(trials_runs.Run, "made", making)
    monkeypatch.setattr(fastlr.AdamW, "step", step)
    says, _ = random_trials.attempt(trial)
    assert says is not None and "and should be" in says


def test_a_crash_is_a_failure_of_the_trial_that_ran(environment):
    failures, _ = random_trials.trials(0, 5, 3, environment | {"RANDOM_TRIALS_CRASH": "6"})
    assert len(failures) == 1
    assert failures[0].startswith("CRASHED --seed 0 --only 6: status -")
