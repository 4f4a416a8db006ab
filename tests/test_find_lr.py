"""The range test: its rules against independent references, what it restores, and what noise, NaN and divergence do."""
import dataclasses
import itertools
import json
import math
import random
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

import fastlr
from fastlr import schedules
from fastlr.tuning import range_test, suggestions
from fastlr.tuning.batches import Batches

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

RATES = np.geomspace(1e-7, 10, 100)


# rules


def u_curve(noise=0.0, seed=0):
    """A fall that is steepest at 2e-3, a least loss near 0.2, and a blow-up."""
    u = np.log10(RATES)
    clean = 2.3 - 2 / (1 + np.exp(-3 * (u - np.log10(2e-3)))) + np.exp(4 * (u - np.log10(0.9)))
    return clean + noise * np.random.default_rng(seed).standard_normal(len(u))


def longest_falling(losses):
    """Length and end of the longest strictly falling subsequence, by trying all pairs the slow way round."""
    best = [1] * len(losses)
    for i in range(len(losses)):
        for j in range(i):
            if losses[j] > losses[i] and best[j] + 1 > best[i]:
                best[i] = best[j] + 1
    end = max(range(len(losses)), key=lambda i: best[i])      # the first of equals
    return best[end], end


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_the_valley_is_in_the_middle_of_the_longest_falling_run(noise):
    losses = u_curve(noise)
    length, end = longest_falling(losses.tolist())
    third = length / 3
    assert suggestions.valley(RATES, losses) == RATES[end - length + int(third) + int(third / 2)]


def test_rules_find_what_the_curve_was_made_of():
    losses = u_curve()
    assert 1.6e-3 < suggestions.steepest(RATES, losses) < 2.4e-3
    assert suggestions.minimum(RATES, losses) == pytest.approx(RATES[losses.argmin()] / 10)
    assert suggestions.middle(RATES, losses) == pytest.approx(
        math.sqrt(suggestions.valley(RATES, losses) * RATES[losses.argmin()]))
    slope = [losses[1] - losses[0], *((losses[2:] - losses[:-2]) / 2), losses[-1] - losses[-2]]
    right = 99
    while right - 15 >= 0 and abs(slope[right] - slope[right - 15]) > 0.005:
        right -= 1
    assert suggestions.slide(RATES, losses) == RATES[right + 1 - 15]


def test_slopes_are_taken_by_the_logarithm_of_the_rate():
    """By the rate itself they are largest where rates are smallest, three decades below (Lightning from 2.5.3 on)."""
    losses = u_curve(noise=0.02)
    by_rate = RATES[np.argmin(np.gradient(losses, RATES))]
    assert by_rate < 1e-5
    assert suggestions.steepest(RATES, suggestions.smoothed(losses, 0.9)) > 2e-4


def test_the_first_tenth_and_the_last_five_points_are_not_seen():
    losses = u_curve()
    losses[3] = -100.0
    losses[60:] = np.nan
    losses[58] = -100.0
    assert suggestions.suggest(RATES, losses)["minimum"] == pytest.approx(RATES[54] / 10)
    short = suggestions.suggest(RATES, np.where(np.arange(100) < 4, losses, np.nan))
    assert short["minimum"] == pytest.approx(RATES[3] / 10)


def test_the_mean_is_debiased():
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(2, 7))
    got = suggestions.smoothed(losses, 0.9, 5.0)
    for row, mean in zip(losses, got, strict=True):
        seen = [5.0, *row]
        for i in range(1, 8):
            weights = [0.9 ** (i - j) for j in range(i + 1)]
            assert mean[i - 1] == pytest.approx(np.dot(weights, seen[:i + 1]) / sum(weights), rel=1e-14)
    assert suggestions.smoothed([3.0, 3.0, np.nan, 3.0], 0.98)[:2] == pytest.approx([3, 3])
    assert np.isnan(suggestions.smoothed([3.0, 3.0, np.nan, 3.0], 0.98)[2:]).all()


# the sweep


class Quadratic:
    """The mean of curvatures * w**2 / 2 over rows whose target moves the minimum: noise, if `noise`."""

    def __init__(self, noise=0.0, dtype=np.float64, offset=0.0):
        self.w = np.ones(4, dtype)
        self.curvatures = np.array([0.5, 1.0, 2.0, 4.0])
        self.noise, self.offset, self.calls = noise, offset, 0
        self.batches = np.random.default_rng(0).standard_normal((30, 4)) * noise

    def loss_and_grad(self, batch):
        self.calls += 1
        d = self.w - batch
        gradient = (self.curvatures * d).astype(self.w.dtype if self.w.dtype != np.float16 else np.float32)
        return float(self.curvatures @ (d * d)) / 2 + self.offset, gradient


def test_the_rate_is_stable_and_lies_in_its_bracket():
    problem = Quadratic()
    found = fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, problem.batches)
    assert 0.1 < found.lr < 2 / 4                # gradient descent on curvature 4 diverges from 2 / 4 on
    assert found.diverged_at > 2 / 4
    assert found.bracket[0] < found.lr < found.bracket[1] < found.diverged_at
    assert found.notes == []


def test_the_loss_beside_a_rate_is_the_one_after_the_step_at_it():
    problem = Quadratic()
    found = fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, problem.batches, trial_steps=0)
    w, seen = np.ones(4), []
    for lr in found.lrs[np.isfinite(found.losses)]:
        w = w - lr * problem.curvatures * w
        seen.append(problem.curvatures @ (w * w) / 2)
    assert found.before == problem.curvatures.sum() / 2
    assert found.losses[np.isfinite(found.losses)] == pytest.approx(seen, rel=1e-12)
    assert found.lr == found.suggestions["middle"]
    assert found.trials == []


@pytest.mark.parametrize("offset", [-100.0, 0.0, 100.0])
def test_a_loss_may_be_negative(offset):
    problem = Quadratic(noise=0.1, offset=offset)
    found = fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, problem.batches)
    assert 0.02 < found.lr < 2 / 4
    assert found.diverged_at < 10


def optimizers():
    yield lambda p: fastlr.SGD(p, lr=0.1)
    yield lambda p: fastlr.AdamW(p, lr=schedules.cosine(0.1, steps=50).warmup(5), weight_decay=lambda t: 0.01 / (1 + t))
    yield lambda p: fastlr.Momentum(p, lr=fastlr.Plateau(schedules.constant(0.1)), ema_decay=0.9, clip_norm=1.0)
    yield lambda p: fastlr.Adam([{"params": {"a": p["a"]}, "lr": 0.2}, {"params": {"b": p["b"]}, "lr": 0.02}],
                                state_dtype="bfloat16", rounding="stochastic")
    yield lambda p: fastlr.RMSpropCenteredMomentum(p, lr=0.1, nonfinite="skip", lr_scale={"b": 0.5})
    yield lambda p: fastlr.Adam(p, lr=0.1, clip_zscore=2.0, clip_zscore_warmup=4, master=None, shadow="bfloat16")


class Split:
    """Parameters in bfloat16, whose other halves are state."""

    @staticmethod
    def made():
        import ml_dtypes

        w = {"a": np.linspace(-1, 1, 12).astype(ml_dtypes.bfloat16).reshape(4, 3), "b": np.ones(3, ml_dtypes.bfloat16)}
        return w, fastlr.AdamW(w, lr=0.01, master="split", ema_decay=0.9)


def everything(opt, params):
    plain = opt.state_dict()
    state = {(name, slot): array.tobytes() for name, slots in plain.pop("state").items()
             for slot, array in slots.items()}
    values = [{name: id(value) if callable(value) else value for name, value in group._values.items()}
              for group in opt.groups]
    shadow = {name: array.tobytes() for name, array in opt.shadow.items()}
    seen = opt.t, opt.skipped, opt.grad_norm, repr(opt), [id(value) for value in vars(opt).values()]
    return plain, state, values, seen, shadow, {name: p.tobytes() for name, p in params.items()}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("make", list(optimizers()))
@pytest.mark.parametrize("fails_at", [None, 1, 40, 300, "interrupt"])
def test_all_is_restored_bit_for_bit_also_after_an_exception(make, dtype, fails_at):
    rng = np.random.default_rng(1)
    params = {"a": rng.normal(size=(3, 2)).astype(dtype), "b": rng.normal(size=5).astype(dtype)}
    statistics = np.zeros(2)
    opt = make(params)
    calls = -100

    def loss_and_grad(batch):
        nonlocal calls
        calls += 1
        statistics[:] += batch
        if fails_at == "interrupt" and calls == 60:
            raise KeyboardInterrupt
        if calls == fails_at:
            raise RuntimeError("no more data")
        wide = {name: p.astype(np.float64) for name, p in params.items()}
        loss = sum(float(((p - batch) ** 2).sum()) for p in wide.values())
        grads = {name: (2 * (p - batch)).astype("float64" if dtype == "float64" else "float32")
                 for name, p in wide.items()}
        return loss, [{"a": grads["a"]}, {"b": grads["b"]}] if len(opt.groups) == 2 else grads

    for _ in range(3):
        opt.step(loss_and_grad(0.5)[1])
    calls, statistics[:] = 0, 7
    for array in opt.shadow.values():
        array[...] = 1                   # (not what a cast would make of the parameter)
    before = everything(opt, params)
    if fails_at is None:
        fastlr.find_lr(opt, loss_and_grad, [0.1, 0.2, 0.3], repeats=2, trial_steps=10, also_restore=[statistics])
    else:
        with pytest.raises(KeyboardInterrupt if fails_at == "interrupt" else RuntimeError):
            fastlr.find_lr(opt, loss_and_grad, [0.1, 0.2, 0.3], repeats=9, trial_steps=40, also_restore=[statistics])
    assert everything(opt, params) == before
    assert statistics.tolist() == [7, 7]


@pytest.mark.parametrize("name", [*fastlr.list_optimizers(), "lookahead", "centralized", "split"])
def test_every_optimizer_goes_on_as_if_nothing_had_been(name):
    def made():
        if name == "split":
            pytest.importorskip("ml_dtypes")
            return Split.made()
        w = {"a": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
        kind = {"lookahead": "adam", "centralized": "momentum"}.get(name, name)
        opt = fastlr.create_optimizer(kind, w, lr=0.01)
        wrap = {"lookahead": fastlr.Lookahead, "centralized": fastlr.GradientCentralization}.get(name, lambda opt: opt)
        return w, wrap(opt)

    def loss_and_grad_of(w):
        def loss_and_grad(batch):
            wide = {k: p.astype(np.float32) for k, p in w.items()}
            return sum(float((p * p).sum()) for p in wide.values()), {k: 2 * p for k, p in wide.items()}
        return loss_and_grad

    twins = [made(), made()]
    needs_loss = name in fastlr.list_optimizers() and type(twins[0][1]).needs_loss
    for k in range(8):
        for number, (w, opt) in enumerate(twins):
            if k == 4 and number == 0:
                fastlr.find_lr(opt, loss_and_grad_of(w), [0], trial_steps=10)
            loss, grads = loss_and_grad_of(w)(0)
            beside = {"loss": loss} if needs_loss else {"curvature": grads} if name == "sophia" and k == 0 else {}
            opt.step(grads, **beside)
    (w, opt), (expected, twin) = twins
    assert {k: p.tobytes() for k, p in w.items()} == {k: p.tobytes() for k, p in expected.items()}
    assert repr(opt.state_dict()) == repr(twin.state_dict())


def test_rules_that_need_the_loss_are_given_the_one_of_their_gradients():
    problem, seen = Quadratic(noise=0.2), []
    opt = fastlr.MoMo(problem.w)
    step = opt.step

    def noted(grads, *, loss):
        d = grads / problem.curvatures
        assert loss == pytest.approx(problem.curvatures @ (d * d) / 2)
        seen.append(loss)
        step(grads, loss=loss)

    opt.step = noted
    found = fastlr.find_lr(opt, problem.loss_and_grad, problem.batches, trial_steps=10)
    assert len(seen) == found.updates > 100


def test_a_longer_trial_continues_a_shorter_one():
    """The same batches in the same order for all; where a trial goes on, it sees those that follow."""
    seen = []

    def loss_and_grad(batch):
        seen.append(batch)
        return float(w @ w), 2 * w

    w = np.ones(2)
    found = fastlr.find_lr(fastlr.SGD(w), loss_and_grad, itertools.count(), trial_steps=40)
    at = swept = len(seen) - sum(trial["new"] for trial in found.trials)
    for trial in found.trials:
        begins = trial["updates"] - trial["new"]
        assert seen[at:at + trial["new"]] == list(range(swept + begins, swept + trial["updates"]))
        at += trial["new"]
    assert {(trial["updates"], trial["new"]) for trial in found.trials} == {(7, 7), (20, 13), (40, 20)}
    assert found.updates == swept - 1 + sum(trial["new"] for trial in found.trials)


class Dropout:
    """A quadratic whose gradients depend on a generator and on a running mean, as those of dropout and normalization."""

    def __init__(self):
        self.w = np.ones(6, np.float32)
        self.rng, self.mean = np.random.default_rng(5), np.zeros(1)

    def loss_and_grad(self, batch):
        kept = self.rng.random(6) < 0.8
        self.mean *= 0.9
        self.mean += float(self.w.mean())
        d = (self.w - np.float32(batch)) * kept + np.float32(0.01) * np.float32(self.mean[0]) + random.random() * 0
        return float(d @ d), (2 * d * kept * np.geomspace(0.1, 1, 6)).astype(np.float32)


@pytest.mark.parametrize("name", ["adamw", "momentum", "lookahead", "muon", "adafactor", "schedulefreeadamw"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_continued_trial_has_the_bits_of_one_that_was_begun_anew(name, repeats):
    found = []
    for copy_bytes in (2**20, 0):
        problem = Dropout()
        kind = "adam" if name == "lookahead" else name
        opt = fastlr.create_optimizer(kind, problem.w.reshape(2, 3) if name == "muon" else problem.w, lr=0.1)
        if name == "lookahead":
            opt = fastlr.Lookahead(opt)

        def loss_and_grad(batch, problem=problem):
            loss, grads = problem.loss_and_grad(batch)
            return loss, grads.reshape(2, 3) if name == "muon" else grads

        found.append(fastlr.find_lr(opt, loss_and_grad, [0.1, -0.1, 0.2], trial_steps=40, repeats=repeats,
                                    also_restore=[problem.rng, problem.mean], copy_bytes=copy_bytes))
    continued, anew = found
    assert [(t["lr"], t["updates"], t["loss"]) for t in anew.trials] == [
        (t["lr"], t["updates"], t["loss"]) for t in continued.trials]
    assert all(t["new"] == repeats * t["updates"] for t in anew.trials if t["loss"] < math.inf)
    assert continued.updates < anew.updates
    assert any("trials were begun anew, as a copy of parameters and state needs" in note for note in anew.notes)
    assert not any("begun anew" in note for note in continued.notes)


def test_copies_of_trials_need_no_more_memory_than_told(monkeypatch):
    from fastlr.tuning import trials

    alive, most = [], {}

    class Copy:
        def __init__(self, restore):
            self.restore = restore
            alive.append(weakref.ref(self))

        def __call__(self):
            self.restore()

    real = trials.Start.snapshot

    def snapshot(start):
        copied = Copy(real(start))
        most["copies"] = max(most["copies"], sum(ref() is not None for ref in alive))
        return copied

    monkeypatch.setattr(trials.Start, "snapshot", snapshot)
    for fit, repeats in ((5, 1), (3, 1), (1, 1), (0, 1), (2, 2)):
        most["copies"] = 0
        problem = Quadratic(noise=0.1)
        opt = fastlr.Adam(problem.w)
        opt.step(np.zeros(4))
        fastlr.find_lr(opt, problem.loss_and_grad, problem.batches, trial_steps=20, repeats=repeats,
                       copy_bytes=(trials.bytes_of(opt) + 1) * fit * repeats)
        assert most["copies"] <= (fit + 1) * repeats               # (one more while the worst is given up)
        assert (most["copies"] > 0) == (fit > 0)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("more", [0, 17, 300])
@pytest.mark.parametrize("copy_bytes", [0, 2**20])
def test_a_budget_is_kept(repeats, more, copy_bytes):
    problem = Quadratic(noise=0.1)
    budget = repeats * 141 + more
    found = fastlr.find_lr(fastlr.Adam(problem.w), problem.loss_and_grad, problem.batches, repeats=repeats,
                           budget=budget, copy_bytes=copy_bytes)
    assert found.updates <= budget and found.lr == found.suggestions["trials"]
    assert problem.calls <= budget + repeats                       # (a sweep looks once before its first step)
    assert ("budget did not suffice for the longest trials" in found.notes) == (copy_bytes == 0)


def test_progress_is_told():
    problem, told = Quadratic(noise=0.1), []
    found = fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, problem.batches, on_trial=told.append)
    assert told == found.trials and len(told) >= 14


def test_what_everybody_shares_is_restored():
    problem = Quadratic(noise=0.1)

    def loss_and_grad(batch):
        np.random.rand()                    # noqa: NPY002
        random.random()
        return problem.loss_and_grad(batch)

    np.random.seed(3)                       # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()      # noqa: NPY002
    fastlr.find_lr(fastlr.SGD(problem.w), loss_and_grad, problem.batches)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before      # noqa: NPY002


@pytest.mark.parametrize("loss", [1.0, 0.0, -3.0])
def test_a_loss_that_no_rate_changes_is_told(loss):
    w = np.ones(3)
    found = fastlr.find_lr(fastlr.SGD(w), lambda batch: (loss, np.zeros(3)), [0])
    assert found.notes == ["the loss never fell by more than its noise: look at the gradients, raise lr_max, "
                           "or take more steps or repeats",
                           "every rate gave the same loss: does loss_and_grad read the parameters that opt updates?"]
    assert found.bracket[0] < found.lr < found.bracket[1]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "lion", "adagrad"])
@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("trial_steps", [0, 30])
def test_the_rate_lies_in_its_bracket(optimizer, validated, trial_steps):
    for noise in (0.0, 0.1, 0.5):
        problem = Quadratic(noise=noise)
        validation = (lambda w=problem.w: float(w @ w)) if validated else None
        found = fastlr.find_lr(fastlr.create_optimizer(optimizer, problem.w), problem.loss_and_grad, problem.batches,
                               trial_steps=trial_steps, validation=validation)
        low, high = found.bracket
        assert low <= found.lr <= high and (low < found.lr < high or not trial_steps)


def test_groups_keep_the_ratio_of_their_rates():
    params = [np.ones(2), np.ones(2), np.ones(2)]
    opt = fastlr.SGD([{"params": params[0], "lr": schedules.constant(0.3).warmup(100)},
                      {"params": params[1], "lr": 0.03}, {"params": params[2], "lr": 0.0}])
    seen = []

    def loss_and_grad(batch):
        seen.append([group.lr for group in opt.groups])
        return float(sum((p * p).sum() for p in params)), [2 * p for p in params]

    found = fastlr.find_lr(opt, loss_and_grad, [0], trial_steps=10)
    assert found.ratios == pytest.approx([1, 0.1, 0])
    assert found.lrs[0] == 1e-7
    assert seen[1] == pytest.approx([1e-7, 1e-8, 0])
    assert all(b == pytest.approx(0.1 * a) and c == 0 for a, b, c in seen[1:])
    zero = fastlr.SGD(np.ones(2), lr=0.0)
    assert fastlr.find_lr(zero, lambda batch: (1.0, np.zeros(2)), [0], trial_steps=0).ratios == [1.0]


def test_a_bad_batch_is_passed_over_and_three_in_a_row_are_divergence():
    def found(bad):
        problem = Quadratic(noise=0.1)
        opt = fastlr.SGD(problem.w)

        def loss_and_grad(batch):
            loss, grads = problem.loss_and_grad(batch)
            return (math.nan, grads * math.nan) if problem.calls in bad else (loss, grads)
        return fastlr.find_lr(opt, loss_and_grad, problem.batches, trial_steps=0)

    assert found({20, 21, 40}).diverged_at == pytest.approx(found(set()).diverged_at, rel=0.5)
    assert found({1, 2}).diverged_at > 0.1
    at = found({41, 42, 43}).diverged_at         # call 41 is the one after step 40
    assert at == pytest.approx(RATES[39])


def test_a_loss_that_is_never_finite_is_refused_with_everything_as_it_was():
    w = np.ones(2)
    with pytest.raises(ValueError, match="find_lr: the loss must be finite before the first step, got nan on 3 batch"):
        fastlr.find_lr(fastlr.SGD(w), lambda batch: (math.nan, w * math.nan), [0])
    assert w.tolist() == [1, 1]


def test_overflow_and_a_raising_optimizer_are_divergence():
    w = np.ones(2)

    def overflows(batch):
        return math.exp(abs(w[0]) * 10), np.array([1e3, 0.0])

    found = fastlr.find_lr(fastlr.SGD(w), overflows, [0], trial_steps=10, divergence=1e300)
    assert 0.001 < found.diverged_at < 1
    assert any(trial["loss"] == math.inf for trial in found.trials) or found.lr < found.diverged_at
    problem = Quadratic()
    opt = fastlr.SGD(problem.w, nonfinite="raise")
    assert fastlr.find_lr(opt, problem.loss_and_grad, [0.0], divergence=1e300, lr_max=1e20).diverged_at > 0.5
    assert problem.w.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("returned, got", [(1.0, "float"), ((1.0,), "tuple"), (None, "NoneType")])
def test_a_function_without_gradients_is_refused_with_everything_as_it_was(returned, got):
    w = np.ones(2)
    with pytest.raises(TypeError, match=f"find_lr: loss_and_grad must return the loss and the gradients, got {got}"):
        fastlr.find_lr(fastlr.SGD(w), lambda batch: returned, [0])
    assert w.tolist() == [1, 1]


def test_too_high_a_start_is_told():
    problem = Quadratic()
    with pytest.raises(ValueError, match="find_lr: the loss diverged at the rate .*: lower lr_min, which is 100"):
        fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, [0.0], lr_min=100, lr_max=1e4)
    assert problem.w.tolist() == [1, 1, 1, 1]


def test_the_bracket_begins_where_a_tenth_of_the_fall_is_done_for_good():
    """Whatever the noise before it; and there only, where the loss was above it at no rate, is lr_min too high."""
    fall = np.r_[np.full(50, 2.0), np.linspace(2, 1, 40), np.linspace(1.2, 9, 10)]
    fall[7] = 1.5                          # one lucky batch
    found = range_test.RangeTest(RATES, [range_test.Sweep(2.0, fall, None, 100)], 0.0, [1.0])
    assert fall[int(np.flatnonzero(found.bracket[0] == RATES)[0])] == pytest.approx(1.9, abs=0.03)
    assert found.bracket == (RATES[54], RATES[89])
    assert found.notes == []
    early = range_test.RangeTest(RATES, [range_test.Sweep(2.0, fall - 0.5, None, 100)], 0.0, [1.0])
    assert early.notes == ["the loss was falling at the lowest rate already, 1e-07: lower lr_min"]


def test_a_sweep_ends_where_the_middle_repeat_broke():
    losses = np.linspace(2, 1, 100)
    sweeps = []
    for stop in (40, 60, 90):
        broken = losses.copy()
        broken[stop:] = np.nan
        sweeps.append(range_test.Sweep(2.0, broken, stop, stop + 1))
    found = range_test.RangeTest(RATES, sweeps, 0.0, [1.0])
    assert found.diverged_at == RATES[60]
    assert np.isfinite(found.losses).sum() == 60
    whole = range_test.Sweep(2.0, losses, None, 100)
    assert range_test.RangeTest(RATES, [sweeps[0], whole, whole], 0.0, [1.0]).diverged_at is None


def test_doubts_are_told():
    problem = Quadratic()
    low = fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, [0.0], lr_max=1e-3, trial_steps=0)
    assert low.notes == ["the loss was still falling at the highest rate, 0.001: raise lr_max"]
    rng = np.random.default_rng(0)
    noise = fastlr.find_lr(fastlr.SGD(problem.w), lambda batch: (2 + rng.normal(), np.zeros(4)), [0], trial_steps=0)
    assert "never fell by more than its noise" in noise.notes[0]


@pytest.mark.parametrize("seed", range(12))
def test_noise_with_heavy_tails_is_not_taken_for_too_high_a_start(seed):
    w, rng = np.ones(3), np.random.default_rng(seed)
    found = fastlr.find_lr(fastlr.SGD(w), lambda batch: (float(rng.chisquare(1)) ** 2, np.zeros(3)), [0])
    assert found.diverged_at is None or found.diverged_at >= found.lrs[3]
    assert w.tolist() == [1, 1, 1]


def test_repeats_give_a_band_and_a_spread():
    problem = Quadratic(noise=0.5)
    opt = fastlr.Adam(problem.w)
    found = fastlr.find_lr(opt, problem.loss_and_grad, problem.batches, repeats=5, trial_steps=10)
    assert found.runs.shape == (5, 100)
    inside = np.isfinite(found.high) & np.isfinite(found.smoothed)
    assert (found.low <= found.smoothed)[inside].all()
    assert (found.smoothed <= found.high)[inside].all()
    assert (found.low < found.high)[inside].all()
    for name in suggestions.RULES:
        low, high = found.spread[name]
        assert low <= high
    again = fastlr.find_lr(opt, problem.loss_and_grad, problem.batches, repeats=5, trial_steps=10)
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())


def test_batches_are_begun_again():
    class Loader:
        begun = 0

        def __iter__(self):
            Loader.begun += 1
            yield from "abc"

    for batches in ("abc", Loader(), iter("abc"), (letter for letter in "abc")):
        assert "".join(itertools.islice(Batches(batches, 2**20), 8)) == "abcabcab"
    assert Loader.begun >= 3
    for nothing in ([], iter([])):
        w = np.ones(2)
        with pytest.raises(ValueError, match="find_lr: batches must not be empty"):
            fastlr.find_lr(fastlr.SGD(w), lambda batch: (1.0, np.ones(2)), nothing)


def test_trials_are_of_fixed_rates_from_the_same_start():
    problem = Quadratic(noise=0.3)
    found = fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, iter(problem.batches), trial_steps=20)
    swept = int(np.isfinite(found.losses).sum()) + 1
    batches = list(itertools.islice(Batches(problem.batches, 2**20), swept + 1, swept + 21))
    assert len(found.trials) >= 14
    longest = [trial for trial in found.trials if trial["updates"] == 20]
    for trial in longest:
        w, losses = np.ones(4), []
        for batch in batches:
            d = w - batch
            losses.append(problem.curvatures @ (d * d) / 2)
            w = w - trial["lr"] * problem.curvatures * d
        assert trial["loss"] == pytest.approx(np.mean(losses[13:]), rel=1e-9)
    assert found.lr == min(longest, key=lambda trial: trial["loss"])["lr"] == found.suggestions["trials"]


def test_trials_may_be_compared_by_what_they_are_not_trained_on():
    """The training loss falls fastest at rates near 2 / 4; what is validated wants w to stay near 0.9."""
    problem, looked = Quadratic(noise=0.1), []

    def validation():
        looked.append(problem.w.copy())
        return float(((problem.w - 0.9) ** 2).sum())

    given = fastlr.SGD(problem.w), problem.loss_and_grad, problem.batches
    found = fastlr.find_lr(*given, trial_steps=50, validation=validation)
    blind = fastlr.find_lr(*given, trial_steps=50)
    assert found.lr < 0.05 < blind.lr
    longest = [trial for trial in found.trials if trial["updates"] == 50]
    short = [trial for trial in found.trials if trial["updates"] == 9]
    last = sorted(float(((w - 0.9) ** 2).sum()) for w in looked[-7:])       # after updates 28, 32, ..., 48, and 50
    assert min(trial["new"] for trial in longest) == 25 and {trial["new"] for trial in short} == {9}
    assert longest[-1]["loss"] <= np.mean(last[:3])
    assert short[0]["loss"] == min(float(((w - 0.9) ** 2).sum()) for w in looked[1:4])       # after 4, 8 and 9
    assert problem.w.tolist() == [1] * 4

    lost = fastlr.find_lr(*given, trial_steps=50, validation=lambda: math.nan)
    assert lost.notes == ["every trial diverged: lower lr_min"]
    some = iter([1.0, *[math.nan, 1.0, 3.0] * 1000])
    assert fastlr.find_lr(*given, trial_steps=50, validation=lambda: next(some)).trials[0]["loss"] in (1.0, math.inf)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"validation": 0.3}, TypeError, r"validation must be callable as validation\(\) -> loss, got 0.3"),
    ({"lr_min": 0}, ValueError, "0 < lr_min < lr_max"),
    ({"lr_min": 1, "lr_max": 0.1}, ValueError, "lr_min=1, lr_max=0.1"),
    ({"lr_max": math.nan}, ValueError, "lr_max=nan"),
    ({"steps": 9}, ValueError, "steps must be at least 10, got 9"),
    ({"steps": 10.0}, TypeError, "steps must be an integer, got 10.0"),
    ({"repeats": 0}, ValueError, "repeats must be at least 1, got 0"),
    ({"trial_steps": 5}, ValueError, "trial_steps must be 0 or at least 10, got 5"),
    ({"budget": 140}, ValueError, "budget must be at least 141 updates for 100 steps and 1 repeats, got 140: give fewer"),
    ({"budget": 1e3}, TypeError, "budget must be an integer, the most updates in all, or None, got 1000.0"),
    ({"copy_bytes": -1}, ValueError, "copy_bytes must be a number of bytes, got -1"),
    ({"smoothing": 1.0}, ValueError, r"smoothing must be in \[0, 1\), got 1.0"),
    ({"divergence": 1.0}, ValueError, "divergence must be above 1, got 1.0"),
    ({"opt": 3}, TypeError, "opt must be a fastlr optimizer whose step takes gradients, got int"),
    ({"opt": fastlr.LBFGS(np.ones(4))}, TypeError, "whose step takes gradients, got LBFGS"),
    ({"opt": fastlr.SAM(fastlr.SGD(np.ones(4)))}, TypeError, "whose step takes gradients, got SAM"),
])
def test_wrong_arguments_are_refused_before_anything_runs(change, error, message):
    problem = Quadratic()
    arguments = {"opt": fastlr.SGD(problem.w), "loss_and_grad": problem.loss_and_grad, "batches": [0.0]} | change
    with pytest.raises(error, match=f"find_lr: .*{message}"):
        fastlr.find_lr(**arguments)
    assert problem.calls == 0


def test_it_is_drawn_and_told():
    from matplotlib.figure import Figure

    problem = Quadratic(noise=0.3)
    found = fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, problem.batches, repeats=3, trial_steps=10)
    axes = found.plot(Figure().add_subplot())
    assert axes.get_xscale() == "log"
    assert {"smoothed", "3 repeats", "trials", f"lr {found.lr:.2g}"} <= set(axes.get_legend_handles_labels()[1])
    axes.figure.canvas.draw()
    assert repr(found).startswith(f"RangeTest(lr={found.lr:.3g}; steepest=")


def test_suggested_rates_train_well_on_real_data():
    """Five of the thirty tables of benchmarks/suggested_rates.py, one a data set, for less than two of 13 rates cost."""
    import suggested_rates as bench
    from rate_problems import tables

    hits = []
    for problem in tables("choose")[::6]:
        found = bench.found(problem)
        losses = bench.judged(problem, found.lr)
        hits.append(losses[0] <= 1.1 * min(bench.judged(problem, lr)[0] for lr in bench.GRID[4:]))
        assert found.updates <= 650
    assert sum(hits) >= 4


def test_gradients_of_the_benchmarks_models_are_those_of_differences():
    from rate_problems import gradient_error, others

    assert max(map(gradient_error, others("develop"))) < 1e-7


# What `loss_and_grad` changes beside the parameters


class Normalization:
    """Has a state, as a module of torch."""

    def __init__(self):
        self.mean = np.zeros(2)

    def state_dict(self):
        return {"mean": self.mean}                     # (the array itself, as torch does)

    def load_state_dict(self, d):
        self.mean = d["mean"]


@dataclasses.dataclass
class Record:
    seen: int
    last: np.ndarray


def touched():
    """One of each kind, how it changes, and what it shows."""
    array, rng, legacy, python = np.zeros(2), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
    module, record, counts, rows = Normalization(), Record(0, np.zeros(1)), {"n": 0, "mean": np.zeros(2)}, [[1.0]]

    def change():
        array[:] += 1
        module.mean += 1
        record.seen, record.last = record.seen + 1, record.last + 1
        counts["n"], counts["mean"] = counts["n"] + 1, counts["mean"] + 1      # (another array)
        rows.append([2.0])
        return rng.random(), legacy.rand(), python.random()

    def shown():
        return (array.tolist(), rng.bit_generator.state, str(legacy.get_state()), python.getstate(), module.mean.tolist(),
                record.seen, record.last.tolist(), counts["n"], counts["mean"].tolist(), list(rows))
    return (array, rng, legacy, python, module, record, counts, rows), change, shown


@pytest.mark.parametrize("shape", [
    list, tuple, iter, lambda all_: {"a": all_[:3], "b": [{"c": all_[3:]}]}, lambda all_: (one for one in all_),
], ids=["list", "tuple", "iterator", "nested", "generator"])
def test_all_that_is_named_is_restored_in_any_structure(shape):
    kept, change, shown = touched()
    change()
    before = shown()
    problem = Quadratic()
    starts = []

    def loss_and_grad(batch):
        starts.append(shown() == before)
        change()
        return problem.loss_and_grad(batch)

    found = fastlr.find_lr(fastlr.SGD(problem.w), loss_and_grad, [0.0], trial_steps=10, also_restore=shape(kept))
    assert shown() == before
    assert sum(starts) == 1 + len({trial["lr"] for trial in found.trials})      # (also before each trial)


@pytest.mark.parametrize("one", range(8))
def test_a_thing_may_be_named_by_itself(one):
    kept, change, shown = touched()
    before = shown()
    problem = Quadratic()

    def loss_and_grad(batch):
        change()
        return problem.loss_and_grad(batch)

    fastlr.find_lr(fastlr.SGD(problem.w), loss_and_grad, [0.0], trial_steps=0, also_restore=kept[one])
    same = [a == b for a, b in zip(shown(), before, strict=True)]
    own = [[0], [1], [2], [3], [4], [5, 6], [7, 8], [9]][one]
    assert [k for k, unchanged in enumerate(same) if unchanged] == own


@pytest.mark.parametrize(("what", "message"), [
    (3, r"also_restore: a int cannot be restored, as it cannot change"),
    ([np.zeros(2), 0.5], r"also_restore\[1\]: a float cannot be restored"),
    ({"a": [object()]}, r"also_restore\['a'\]\[0\]: cannot restore a object; pass arrays, random generators"),
    ({1, 2}, "cannot restore a set"),
    (np.broadcast_to(np.zeros(1), 3), "must be writable to be restored"),
])
def test_what_cannot_be_restored_is_refused_before_anything_runs(what, message):
    problem = Quadratic()
    with pytest.raises(TypeError, match=f"^find_lr: .*{message}"):
        fastlr.find_lr(fastlr.SGD(problem.w), problem.loss_and_grad, [0.0], also_restore=what)
    assert problem.calls == 0


# Batches that are used again


def reusing(values, ends=True):
    """A loader that writes each batch into the memory of the last."""
    buffer = np.empty(4)
    while True:
        for value in values:
            buffer[:] = value
            yield buffer
        if ends:
            return


class Loader:
    """Starts again, with the same memory."""

    def __iter__(self):
        return reusing([0.0, 0.1, 0.2])


@pytest.mark.parametrize("batches", [
    lambda: reusing([0.0, 0.1, 0.2]), lambda: reusing([0.0, 0.1, 0.2], ends=False), Loader,
    lambda: iter([np.full(4, x) for x in (0.0, 0.1, 0.2)]), lambda: [np.full(4, x) for x in (0.0, 0.1, 0.2)],
], ids=["ends", "endless", "loader", "iterator", "list"])
def test_every_batch_is_seen_whatever_the_loader_does_with_its_memory(batches):
    problem, seen = Quadratic(), []

    def loss_and_grad(batch):
        seen.append(float(batch[0]))
        return problem.loss_and_grad(batch)

    found = fastlr.find_lr(fastlr.SGD(problem.w), loss_and_grad, batches(), trial_steps=12)
    swept = len(seen) - sum(trial["new"] for trial in found.trials)
    assert seen[:swept] == ([0.0, 0.1, 0.2] * swept)[:swept]
    order = ([0.0, 0.1, 0.2] * 50)[swept:swept + 12]
    at = swept
    for trial in found.trials:
        assert seen[at:at + trial["new"]] == order[trial["updates"] - trial["new"]:trial["updates"]]
        at += trial["new"]
    assert not any("copies" in note for note in found.notes)


def test_copies_of_batches_need_no_more_memory_than_told():
    problem = Quadratic()
    alive = []

    class Batch:
        nbytes = 1000

        def __init__(self, k):
            self.k = k

        def __deepcopy__(self, memo):
            alive.append(weakref.ref(copied := Batch(self.k)))
            most[0] = max(most[0], sum(ref() is not None for ref in alive))
            return copied

    most, seen = [0], []

    def loss_and_grad(batch):
        seen.append(batch.k)
        return problem.loss_and_grad(0.0)

    endless = (Batch(k) for k in itertools.count())
    found = fastlr.find_lr(fastlr.SGD(problem.w), loss_and_grad, endless, repeats=2, trial_steps=20, batch_bytes=16_000)
    assert most[0] <= 17                                       # (and the batch that is copied)
    assert found.notes[-1] == "trials repeat 4 batches, not 20, as copies of more need over batch_bytes / 2"
    assert len(set(seen[-10:])) == 4
    most[0] = 0
    fastlr.find_lr(fastlr.SGD(problem.w), loss_and_grad, (Batch(k) for k in range(30)), trial_steps=20, batch_bytes=10)
    assert most[0] <= 4


def test_a_batch_that_cannot_be_copied_is_refused_where_it_would_be_used_again():
    problem = Quadratic()
    batches = [threading.Lock() for _ in range(3)]
    opt = fastlr.SGD(problem.w)
    with pytest.raises(TypeError, match=r"a batch of type lock cannot be copied .*; pass a list of batches"):
        fastlr.find_lr(opt, lambda batch: problem.loss_and_grad(0.0), iter(batches))
    fastlr.find_lr(opt, lambda batch: problem.loss_and_grad(0.0), batches)
    with pytest.raises(ValueError, match="batch_bytes must be a number of bytes, got -1"):
        fastlr.find_lr(opt, problem.loss_and_grad, [0.0], batch_bytes=-1)
