"""`diagnose` on real training runs whose labels are facts, and on made curves for what each rule must and must not see.

The real runs are every fourth setting of ``benchmarks/diagnosis.py`` (all of them: run that), each a data set, a model,
an optimizer and a batch size, trained at 15 rates from 1e-6 to 10. The labels do not come from the history that
`diagnose` sees. With s, e the loss of the whole training split before the first and after the last updates, b the least
e over the rates, and what happens when the run is continued after its end:

    diverging     not finite, or e > 1.02 s, or it was above 3 s and e > 0.9 s
    oscillating   the whole split's loss rises in more than a fifth of the later updates, and either a tenth of the rate
                  brings it below 0.8 of what the same rate does in as many further updates, or a lower rate gained more
                  than 1.4 times as much
    overfitting   the validation loss is above 1.1 times its least, the training loss below what it was then
    too slow      less than half of what the best rate gained, and the best rate is higher
    plateaued     half as many updates more at the same rate gain less than 2 %
    healthy       the rest

Runs between two labels have none. wine, iris and diabetes had no part in choosing the thresholds.
"""
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fastlr
from fastlr.monitor.diagnosis import KINDS, THRESHOLDS

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

N = 240
T = np.arange(N)


@pytest.fixture(scope="module")
def verdicts():
    pytest.importorskip("sklearn")
    import diagnosis

    return diagnosis.judged(diagnosis.cases(diagnosis.SETTINGS[3::4]))


def test_it_is_right_on_nine_of_ten_real_runs(verdicts):
    from diagnosis import confusion, share

    labels = Counter(one.case.label for one in verdicts)
    assert sum(labels[kind] for kind in KINDS) >= 60 and all(labels[kind] >= 5 for kind in KINDS)
    assert share(verdicts) >= 0.9, confusion(verdicts)
    moving = [one for one in verdicts if one.case.label != "too slow"]       # the largest class, and the easiest
    assert share(moving) >= 0.8, confusion(verdicts)
    for kind in KINDS:
        assert share([one for one in verdicts if one.case.label == kind]) >= 0.5, confusion(verdicts)


def test_it_is_right_on_data_that_it_was_not_made_on(verdicts):
    from diagnosis import HELD_OUT, confusion, share

    held_out = [one for one in verdicts if one.case.setting.data in HELD_OUT]
    assert len([one for one in held_out if one.case.label]) >= 60
    assert share(held_out) >= 0.85, confusion(held_out)


def test_the_advised_rate_ends_lower(verdicts):
    from diagnosis import helped

    better, advised = helped(verdicts)
    assert advised >= 60 and better / advised >= 0.85


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


@pytest.mark.parametrize("kind", KINDS)
def test_made_curves(kind):
    history = history_of(kind)
    assert said(history) == kind
    if kind != "oscillating":
        assert said({**history, "loss": noisy(history["loss"], 0.02)}) == kind


@pytest.mark.parametrize("kind", KINDS)
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
    """A rate that does nothing, seen through the noise of small batches: too slow, whatever the noise does."""
    kinds = Counter(said(noisy(np.ones(N), deviation, seed)) for deviation in (0.01, 0.1, 0.3) for seed in range(30))
    assert kinds["diverging"] + kinds["oscillating"] <= 2 and kinds["too slow"] >= 80, kinds


def test_there_is_a_finding_for_any_numbers():
    """Zeros, subnormals, the largest floats, NaN and infinities in any order: a finding, and no warning."""
    rng = np.random.default_rng(0)
    pool = np.array([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e-300, 2.5])
    for trial in range(600):
        losses = rng.choice(pool[rng.integers(0, len(pool), trial % 5 + 1)], int(rng.integers(20, 70)))
        history = {"loss": losses, "val_loss": losses[::3], "lr": losses, "grad_norm": losses[::-1]}
        for finding in fastlr.diagnose(history):
            assert finding.kind in KINDS and finding.factor > 0 and finding.advice in str(finding)


def test_several_findings_come_most_serious_first():
    swinging = {"loss": CURVES["oscillating"], "val_loss": (0.8**T + 0.3 + 0.002 * T)[::5]}
    assert [one.kind for one in fastlr.diagnose(swinging)] == ["oscillating", "overfitting"]


def test_advice_is_in_numbers_where_the_rate_is_known():
    losses = CURVES["too slow"]
    plain, = fastlr.diagnose(losses)
    assert plain.factor > 1 and plain.advice.endswith(f"raise the rate, to {plain.factor:g} times what it is.")
    known, = fastlr.diagnose({"loss": losses, "lr": np.full(N, 1e-5)})
    assert known.advice.endswith(f"raise the rate, from 1e-05 to {1e-5 * known.factor:.3g}.")
    decayed, = fastlr.diagnose({"loss": losses, "lr": 0.1 * 0.97**T})
    assert f"the whole schedule, from 0.1 to {0.1 * decayed.factor:.3g}" in decayed.advice
    assert str(known).startswith("too slow: ") and "share gained" in str(known)


def test_a_plateau_with_noise_is_advised_a_lower_rate_and_one_without_none():
    noiseless, = fastlr.diagnose(CURVES["plateaued"])
    at_noise, = fastlr.diagnose(noisy(CURVES["plateaued"], 0.05))
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
