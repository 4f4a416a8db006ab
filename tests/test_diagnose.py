"""`diagnose` on real training runs with labels by what gains, and on made curves for what it must and must not say.

The real runs are a few problems of ``benchmarks/diagnosis.py`` (all of them: run that), each trained at 13 rates from
1e-5 to 10 in two orders of the rows. A run's label is the direction of the grid's best rate where that gains more than a
tenth of what is possible, else "leave".
"""
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fastlr
from fastlr.monitor import tensors
from fastlr.monitor.diagnosis import KINDS, THRESHOLDS, direction
from fastlr.monitor.measured import FEWEST_VALIDATIONS, measure, measure_validation
from fastlr.monitor.points import CARDS

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

N = 240
T = np.arange(N)


@pytest.fixture(scope="module")
def logs():
    pytest.importorskip("sklearn")
    import diagnosis
    from rate_problems import Problem, tables

    language = [Problem("manual", "embed8-32-relu", "adam", 32, 200), Problem("manual", "rnn16-relu", "sgd", 32, 200)]
    return [log for problem in tables("choose")[3::8] + language for run in diagnosis.runs(problem)
            for log in diagnosis.logs(run)]


def test_it_is_right_on_four_of_five_real_runs(logs):
    """Of all runs of the set that had no part in the points: see README."""
    from diagnosis import judged, shares

    assert len(logs) >= 200 and {log.kind for log in logs} == {"batch", "tenth", "mean"}
    right, opposite, better = shares(judged(logs, rate=True))
    assert right >= 0.75 and opposite <= 0.02 and better >= 0.85


def test_without_the_rate_it_is_rather_not_sure_than_wrong(logs):
    from diagnosis import judged, shares

    verdicts = judged(logs, rate=False)
    right, opposite, better = shares(verdicts)
    assert right >= 0.6 and opposite <= 0.04 and better >= 0.8
    without_both = judged(logs, rate=False, validation=False)
    right, opposite, better = shares(without_both)
    assert right >= 0.6 and opposite <= 0.04 and better >= 0.8
    assert sum(one.kind == "not sure" for one in without_both) >= 5


def test_the_bench_fits_the_points_that_are_there():
    """The file of points has a bin more than edges, for every statistic that is measured."""
    import diagnosis

    statistics = measure(CURVES["healthy"], CURVES["healthy"][::10]).points_of
    assert CARDS.keys() == {(rate, validation) for rate in (True, False) for validation in (True, False)}
    for (rate, validation), card in CARDS.items():
        names = (*diagnosis.STATISTICS, *(diagnosis.OF_VALIDATION if validation else ()), *(("rate",) if rate else ()))
        assert tuple(card.statistics) == names and set(names) <= {*statistics, "rate"}
        assert all(len(points) == len(edges) + 1 and sorted(edges) == list(edges)
                   for edges, points in card.statistics.values())
    assert sum(direction(measure(CURVES["healthy"]), 1e-3).values()) == pytest.approx(1)


def test_statistics_of_a_validation_loss():
    falling = np.array([4.0, 2.0, 1.5, 1.25, 1.0, 1.25, 1.0, 1.0])
    found = measure_validation(falling)
    assert found["validation end"] == pytest.approx(math.log(1 / 4)) and found["validation half"] == 1 / 7
    assert found["validation late drop"] == 0
    rough = (0.5 + 0.25) / 2
    assert found["validation noise"] == pytest.approx(math.log(rough / 1.0625 + 1e-5))
    assert found["validation noise of gain"] == pytest.approx(math.log(rough / 3 + 1e-5))
    assert measure_validation(8 * falling) == found
    assert measure_validation(np.insert(falling, [2, 5], [math.nan, math.inf])) == found
    assert measure_validation(falling[:FEWEST_VALIDATIONS - 1]) == {}
    assert all(map(math.isfinite, measure_validation(np.zeros(10)).values()))
    assert all(map(math.isfinite, measure_validation(-falling).values()))
    assert all(map(math.isfinite, measure_validation(falling * 1e307).values()))


def test_a_validation_loss_of_every_update_has_the_noise_of_its_batches():
    """Its means are compared: 30 times as many values with as much more noise have about as much of it."""
    rng = np.random.default_rng(0)
    few = 1 + np.exp(-np.arange(21) / 3) + 0.02 * rng.standard_normal(21)
    many = 1 + np.exp(-np.arange(601) / 90) + 0.02 * math.sqrt(30) * rng.standard_normal(601)
    assert abs(measure_validation(few)["validation noise"] - measure_validation(many)["validation noise"]) < 0.7


# made curves


def noisy(curve, deviation, seed=0):
    return curve * np.exp(deviation * np.random.default_rng(seed).standard_normal(len(curve)))


CURVES = {
    "diverging": 2.0 * 1.05**T,
    "oscillating": 0.2 + 0.8 * 0.9**T + 0.15 * np.sin(T),
    "overfitting": 0.97**T + 0.01,
    "too slow": 2.0 * 0.9999**T,
    "plateaued": 0.5 + 0.9**T,
    "healthy": 3.0 * (T + 1.0) ** -0.8,
}


def history_of(kind):
    found = {"loss": CURVES[kind]}
    if kind == "overfitting":
        found["val_loss"] = (0.97**T + 0.3 + 0.001 * T)[::5]
    return found


def said(history):
    return fastlr.diagnose(history)[0].kind


@pytest.mark.parametrize("kind", CURVES)
def test_made_curves(kind):
    history = history_of(kind)
    assert said(history) == kind
    if kind != "plateaued":                # (noise may be what holds it: not sure)
        assert said({**history, "loss": noisy(history["loss"], 0.02)}) == kind


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("unit", [2.0**-40, 2.0**30])
def test_the_unit_of_the_loss_does_not_matter(kind, unit):
    """A power of two changes no digit: the findings are the same but for what carries the unit."""
    plain = fastlr.diagnose(history_of(kind))
    scaled = fastlr.diagnose({name: values * unit for name, values in history_of(kind).items()})
    assert [(one.kind, one.factor, one.advice) for one in scaled] == [(one.kind, one.factor, one.advice) for one in plain]
    for one, other in zip(plain, scaled, strict=True):
        assert {k: v for k, v in one.evidence.items() if k != "first loss"} == pytest.approx(
            {k: v for k, v in other.evidence.items() if k != "first loss"}, rel=1e-12)


@pytest.mark.parametrize("kind", ["too slow", "plateaued", "healthy"])
@pytest.mark.parametrize("wild", [math.nan, math.inf, None])
def test_one_outlier_does_not_matter(kind, wild):
    losses = CURVES[kind].copy()
    losses[100] = 2 * losses[100] if wild is None else wild
    assert said(losses) == kind


def test_a_loss_that_is_not_finite_at_the_end_diverges():
    losses = CURVES["healthy"].copy()
    losses[-3:] = math.nan
    assert said(losses) == "diverging"
    assert fastlr.diagnose([1.0, *[math.nan] * 30])[0].evidence["first loss"] == 1.0
    assert said([math.nan] * 30) == "diverging"


@pytest.mark.parametrize("n", [20, 60, 2000, 100_000])
def test_the_length_does_not_matter(n):
    t = np.linspace(0, N, n)
    assert said(2.0 * 0.9999**t) == "too slow" and said(0.5 + 0.9**t) == "plateaued" and said(2.0 * 1.05**t) == "diverging"


def test_losses_below_0():
    assert said(-100 + 50 * 0.97**T) == "healthy"
    assert said(-100 + 1.05**T) == "diverging"
    assert said(np.zeros(50)) in KINDS


def test_noise_alone_is_not_a_finding_against_the_rate():
    """A rate that does nothing, seen through the noise of small batches: too slow, or not sure."""
    kinds = Counter(said(noisy(np.ones(N), deviation, seed)) for deviation in (0.01, 0.1, 0.3) for seed in range(30))
    assert kinds["diverging"] + kinds["oscillating"] <= 2 and kinds["too slow"] >= 70 and kinds["not sure"] <= 20, kinds


def test_there_is_a_finding_for_any_numbers():
    """Zeros, subnormals, the largest floats, NaN and infinities in any order: a finding, and no warning."""
    rng = np.random.default_rng(0)
    pool = np.array([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e-300, 2.5])
    for trial in range(600):
        losses = rng.choice(pool[rng.integers(0, len(pool), trial % 5 + 1)], int(rng.integers(20, 70)))
        history = {"loss": losses, "val_loss": losses[::3], "lr": losses, "grad_norm": losses[::-1]}
        for finding in fastlr.diagnose(history):
            assert finding.kind in (*KINDS, *tensors.KINDS) and finding.factor > 0 and finding.advice in str(finding)


@pytest.mark.parametrize("name", ["lr", "val_loss", "grad_norm", "grad_norm/w", "update_ratio/w"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 1e308])
def test_series_of_one_value_are_no_fault(name, value):
    for losses in (np.ones(N), CURVES["healthy"], np.r_[np.ones(N), math.nan]):
        found = fastlr.diagnose({"loss": losses, name: np.full(N, value)})
        assert all(finding.kind != "overfitting" for finding in found)


def test_a_rate_of_0_is_told():
    found, = fastlr.diagnose({"loss": np.ones(N), "lr": np.zeros(N)})
    assert found.kind == "unmoved" and "the rate is 0 all along" in found.advice


def test_several_findings_come_most_serious_first():
    swinging = {"loss": CURVES["oscillating"], "val_loss": (0.8**T + 0.3 + 0.002 * T + 0.15 * np.sin(T))[::5]}
    assert [one.kind for one in fastlr.diagnose(swinging)] == ["oscillating", "overfitting"]


def test_the_validation_loss_tells_noise_of_batches_from_swings_of_the_weights():
    """The same losses at a noise floor; the validation loss is smooth, or as uneven as they are."""
    losses = 0.5 + 0.9**T + 0.2 * np.random.default_rng(0).standard_normal(N)
    smooth = (0.5 + 0.9**T)[::12]
    uneven = smooth + 0.2 * np.random.default_rng(1).standard_normal(len(smooth))
    for rate in (None, 0.3):
        of_batches, of_weights = (direction(measure(losses, validation), rate) for validation in (smooth, uneven))
        assert of_batches["lower"] < 0.5 * of_weights["lower"] and of_batches["lower"] < of_batches["leave"]


def test_advice_is_in_numbers_where_the_rate_is_known():
    losses = CURVES["too slow"]
    plain, = fastlr.diagnose(losses)
    assert plain.factor > 1 and plain.advice.endswith(f"raise the rate, to {plain.factor:g} times what it is.")
    known, = fastlr.diagnose({"loss": losses, "lr": np.full(N, 1e-5)})
    assert known.advice.endswith(f"raise the rate, from 1e-05 to {1e-5 * known.factor:.3g}.")
    decayed, = fastlr.diagnose({"loss": losses, "lr": 0.1 * 0.97**T})
    assert f"the whole schedule, from 0.1 to {0.1 * decayed.factor:.3g}" in decayed.advice
    assert str(known).startswith("too slow: ") and "share gained" in str(known)


def test_a_plateau_with_noise_is_advised_a_lower_rate_where_it_is_high_and_one_without_none():
    noiseless, = fastlr.diagnose(CURVES["plateaued"])
    at_noise, = fastlr.diagnose({"loss": noisy(CURVES["plateaued"], 0.05), "lr": np.full(N, 3.0)})
    assert "stuck at the noise floor of this rate: lower the rate, from 3 to 0.9; begin anew with it" in at_noise.advice
    ended, = fastlr.diagnose({"loss": noisy(CURVES["plateaued"], 0.05), "lr": 0.1 * 0.9**T})
    assert (noiseless.factor, at_noise.factor, ended.factor) == (1.0, 0.3, 1.0)


@pytest.mark.parametrize(("gained", "factor"), [(0.005, 30.0), (0.1, 10.0), (0.3, 3.0)])
def test_the_less_was_gained_the_more_the_rate_is_raised(gained, factor):
    found = fastlr.diagnose(1 - gained * np.arange(400) / 400)[0]
    assert (found.kind, found.factor) == ("too slow", factor)


def test_a_shorter_validation_series_is_spread_over_the_whole_run():
    """Least at the fifth of 20, which is a fourth of the way through 400 updates; the training loss falls all along."""
    validation = [1.0, 0.8, 0.6, 0.5, 0.4, *np.linspace(0.42, 0.9, 15)]
    found = fastlr.diagnose({"loss": 1 / (1 + np.arange(400) / 20), "val_loss": validation})
    (overfit,) = [finding for finding in found if finding.kind == "overfitting"]
    assert overfit.evidence["least at t"] == pytest.approx(80, abs=20)
    assert 0.1 < overfit.evidence["training now over then"] < 0.35


def test_histories_mappings_and_sequences_say_the_same():
    history = fastlr.History()
    for t in range(N):
        history.record(loss=CURVES["overfitting"][t])
        if t % 5 == 0:
            history.record(val_loss=history_of("overfitting")["val_loss"][t // 5], grad_norm=0.99**t)
    ours, theirs = fastlr.diagnose(history)[0], fastlr.diagnose(history_of("overfitting"))[0]
    assert ours.kind == theirs.kind == "overfitting"
    assert ours.evidence["validation now over least"] == theirs.evidence["validation now over least"]
    assert ours.evidence["gradient norm now over start"] < 0.2
    renamed = {"train": CURVES["overfitting"], "valid": history_of("overfitting")["val_loss"]}
    assert fastlr.diagnose(renamed, loss="train", validation="valid")[0].kind == "overfitting"
    assert said(CURVES["plateaued"].tolist()) == "plateaued"


# The kinds of fault that were found in use: inputs on which an earlier version was wrong


def test_collapse_after_an_early_gain_is_never_advice_to_raise():
    """Units that died at a high rate: a gain, a jump, and then nothing; and the same without a jump."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        t = np.arange(400)
        gained = np.where(t < 30, 2.3 - 0.03 * t, 1.4) + 0.02 * rng.standard_normal(400)
        jumped = np.where(t < 8, 2.3 - 0.1 * t, 2.3) + 0.05 * rng.standard_normal(400)
        jumped[8:16] += 4
        for losses in (gained, jumped):
            for lr in (None, 0.01, 0.1, 3.0):
                found, = fastlr.diagnose({"loss": losses} if lr is None else {"loss": losses, "lr": np.full(400, lr)})
                assert found.factor <= 1
        found, = fastlr.diagnose(jumped)
        assert found.kind == "collapsed" and found.factor == 0.1 and "begin anew" in found.advice


@pytest.mark.parametrize("lr", [None, 0.03, 1.0])
@pytest.mark.parametrize("n", [100, 600, 3000])
def test_a_gain_that_is_lost_again_is_not_a_rate_that_is_too_low(n, lr):
    """A tenth of the run gains a third of the loss; a jump, and the loss of chance for good."""
    t = np.arange(n)
    for seed in range(20):
        losses = np.where(t < n // 10, 2.3 - 7.5 * t / n, 2.303) + 0.04 * np.random.default_rng(seed).standard_normal(n)
        losses[n // 10:n // 10 + n // 50] += 1.5
        found, = fastlr.diagnose({"loss": losses} if lr is None else {"loss": losses, "lr": np.full(n, lr)})
        assert found.factor <= 1


def test_a_clear_gain_that_stopped_for_good_is_no_low_rate():
    """Of a loss of 6 only 0.2 is gained, which is 60 standard errors, in the first tenth."""
    raised = 0
    for seed in range(40):
        losses = 6 + 0.2 * np.exp(-np.arange(800) / 60) + 0.02 * np.random.default_rng(seed).standard_normal(800)
        raised += fastlr.diagnose({"loss": losses, "lr": np.full(800, 1e-2)})[0].factor > 1
    assert raised <= 5


@pytest.mark.parametrize(("tails", "n", "most"), [
    (lambda rng, n: rng.chisquare(4, n) / 4, 1000, 2), (lambda rng, n: rng.chisquare(4, n) / 4, 200, 6),
    (lambda rng, n: rng.chisquare(2, n) / 2, 1000, 3), (lambda rng, n: 1 + rng.pareto(2.5, n), 1000, 15),
    (lambda rng, n: np.exp(rng.normal(-0.5, 1, n)), 1000, 15)], ids=["chi 4", "short", "chi 2", "Pareto", "lognormal"])
def test_heavy_tails_are_neither_divergence_nor_swings(tails, n, most):
    kinds = Counter(said(0.5 ** (np.arange(n) / n) * tails(np.random.default_rng(seed), n)) for seed in range(300))
    assert kinds["diverging"] + kinds["oscillating"] + kinds["collapsed"] <= most, kinds


def test_a_run_that_blows_up_at_once_is_not_done():
    """The first loss, not the mean of the first ones, tells that what is left is no small part of the start's."""
    losses = np.r_[2.3, np.geomspace(1e3, 1e6, 8), np.geomspace(1e6, 2.5, 60), 2.5 + 0.1 * np.sin(np.arange(200))]
    for history in ({"loss": losses}, {"loss": losses, "lr": np.full(len(losses), 1.0)}):
        assert "little is left to gain" not in fastlr.diagnose(history)[0].advice
    assert "little is left to gain" in fastlr.diagnose(np.r_[2.3, 2.0, 1.5, np.geomspace(1, 1e-4, 60), [1e-4] * 60])[0].advice


def test_a_validation_loss_that_begins_late_is_seen_to_do_so():
    """Its first value is below the start of the training loss: by that much it had fallen before."""
    late = np.array([1.0, 0.9, 0.8, 0.75, 0.7, 0.7, 0.7])
    found, alone = measure_validation(late, 2.0), measure_validation(late)
    assert found["validation began"] == pytest.approx(math.log(0.5)) and alone["validation began"] == 0
    assert found["validation end of start"] == pytest.approx(math.log(0.35)) and alone["validation end of start"] < -0.3
    assert found["validation late share"] == pytest.approx(0.05 / 1.3)
    assert measure_validation(4 * late, 8.0) == found
    for start in (0.0, math.inf, math.nan, -1.0):
        assert measure_validation(late, start) == alone


@pytest.mark.parametrize("losses", [
    [1.0] * 40, [0.0] * 40, [-2.5] * 100, np.round(2.3026 - 1e-4 * np.arange(200) / 200, 3), 2.3 + 1e-12 * np.arange(50),
])
def test_a_loss_that_never_moved_needs_a_higher_rate_or_a_look_at_the_gradients(losses):
    found, = fastlr.diagnose(losses)
    assert (found.kind, found.factor) == ("unmoved", 10.0)
    assert "look at the gradients" in found.advice


def test_a_loss_that_cannot_reach_0_is_judged_by_what_it_gained():
    """Of a loss of 1.45 only 0.15 can be gained: 5 % of the logarithm is half of the story."""
    raised = 0
    for seed in range(20):
        noise = 0.05 * np.random.default_rng(seed).standard_normal(400)
        falling, = fastlr.diagnose({"loss": 1.3 + 0.15 * np.exp(-np.arange(400) / 2000) + noise, "lr": [1e-4] * 400})
        assert (falling.kind, falling.factor > 1) == ("too slow", True)
        done, = fastlr.diagnose({"loss": 1.3 + 0.15 * np.exp(-np.arange(400) / 20) + noise, "lr": [0.1] * 400})
        raised += done.factor > 1
    assert raised <= 2


def test_means_by_epoch_say_what_batches_say():
    noise = 0.3 * np.random.default_rng(0).standard_normal(3000)
    losses = 2.3 * np.exp(-np.arange(3000) / 30_000) + noise
    lr = {"lr": np.full(3000, 1e-4)}
    batches, = fastlr.diagnose({"loss": losses} | lr)
    epochs, = fastlr.diagnose({"loss": losses.reshape(30, 100).mean(axis=1), "lr": [1e-4] * 30})
    assert batches.kind == epochs.kind == "too slow"


def test_a_validation_loss_that_blows_up_comes_of_the_rate():
    validation = np.r_[np.linspace(1, 0.8, 5), np.geomspace(1, 4e6, 15)]
    found, = fastlr.diagnose({"loss": 2 * 0.99**T, "val_loss": validation})
    assert (found.kind, found.factor) == ("diverging", 0.1) and "validation loss" in found.advice


def test_a_schedule_that_dropped_too_early_is_not_told_to_stop():
    rng = np.random.default_rng(0)
    t = np.arange(400)
    losses = np.where(t < 80, 2 * 0.99**t, 2 * 0.99**80 * (1 - 1e-4 * (t - 80))) + 0.01 * rng.standard_normal(400)
    found, = fastlr.diagnose({"loss": losses, "lr": np.where(t < 80, 0.1, 1e-4)})
    assert (found.kind, found.factor) == ("decayed too early", pytest.approx(1000))
    assert "at t=80" in found.advice and "keep the rate at 0.1 for longer" in found.advice
    done = np.where(t < 200, 0.5 + 1.5 * 0.95**t, 0.4) + 0.01 * rng.standard_normal(400)
    found, = fastlr.diagnose({"loss": done, "lr": np.where(t < 200, 0.1, 1e-4)})
    assert found.kind != "decayed too early"


@pytest.mark.parametrize("norm", [np.zeros(400), np.r_[np.ones(40), np.full(360, 1e-6)]])
@pytest.mark.parametrize("name", ["grad_norm", "grad_norm/fc1.weight"])
def test_gradients_that_are_gone_are_not_the_rate(name, norm):
    losses = 2.3 + 0.02 * np.random.default_rng(0).standard_normal(400)
    found, = fastlr.diagnose({"loss": losses, name: norm})
    assert (found.kind, found.factor) == ("no gradient", 1.0)
    assert ("fc1.weight" in found.advice) == ("/" in name)
    converged, = fastlr.diagnose({"loss": 0.95**T, name: 0.95**T})
    assert converged.kind != "no gradient"


@pytest.mark.parametrize("losses", [[1.0, 0.9, 5.0, math.nan], [math.inf], [1.0, math.nan, math.nan]])
def test_a_short_run_that_is_no_longer_finite_is_told(losses):
    found, = fastlr.diagnose(losses)
    assert (found.kind, found.factor) == ("diverging", 0.1)


def test_not_sure_offers_two_short_trials():
    found, = fastlr.diagnose(noisy(CURVES["plateaued"], 0.02))
    assert (found.kind, found.factor) == ("not sure", 1.0)
    assert "a third of the rate and three times it" in found.advice and "find_lr" in found.advice


@pytest.mark.parametrize("history, error, words", [
    ([1.0] * 19, ValueError, "diagnose: needs 20 losses at least, got 19"),
    ({"acc": [1.0] * 30}, ValueError, "no losses called 'loss' in the history, which has acc; pass loss=NAME"),
    (fastlr.History(), ValueError, "no losses called 'loss' in the history, which has nothing"),
    (3.0, TypeError, "expected a History, a mapping of names to numbers, or losses, got float"),
    ({"loss": ["a"] * 30}, TypeError, "or losses, got 'loss': list"),
    (np.ones((30, 2)), TypeError, "got ndarray"),
])
def test_bad_histories(history, error, words):
    with pytest.raises(error, match=words):
        fastlr.diagnose(history)


def test_every_threshold_has_its_reason_and_its_use():
    source = Path(sys.modules["fastlr.monitor.diagnosis"].__file__).read_text()
    for name, threshold in THRESHOLDS.items():
        assert math.isfinite(threshold.value) and len(threshold.reason) > 20 and f'limit("{name}")' in source
