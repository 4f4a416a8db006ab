"""`diagnose` on measurements of single tensors: what it names, and what it must not."""
import numpy as np
import pytest

import fastlr
from fastlr.monitor import tensors

N = 60
LOSS = 0.97 ** np.arange(N) + 0.1


def said(**series):
    """The kinds about tensors, with their advice."""
    named = {name.replace("__", "/"): np.broadcast_to(values, N) for name, values in series.items()}
    return {finding.kind: finding for finding in fastlr.diagnose({"loss": LOSS, **named}) if finding.kind in tensors.KINDS}


def test_nothing_is_said_without_measurements_or_of_usual_ones():
    assert said() == {} and said(grad_norm=1.0) == {}
    usual = said(grad_norm__w=1.0, grad_norm__b=0.01, update_norm__w=1e-2, update_norm__b=1e-3, update_ratio__w=1e-3,
                 update_ratio__b=0.5, clipped__w=0.2, clipped__b=0.2)
    assert usual == {}                             # (a bias near 0 moves far for its size)


def test_large_updates_of_some_and_of_all():
    some = said(update_norm__w=1.0, update_norm__v=0.01, update_norm__u=0.01, update_ratio__w=0.3, update_ratio__v=1e-3,
                update_ratio__u=2e-3)["large updates"]
    assert some.factor == 1 and "of w," in some.advice and "lr_scale={'w': 0.1}" in some.advice
    assert some.evidence == {"update over norm of w": 0.3}
    every = said(update_norm__w=1.0, update_norm__v=1.0, update_ratio__w=0.3, update_ratio__v=0.5)["large updates"]
    assert every.factor == 0.1 and "of v, w," in every.advice


def test_early_updates_are_no_matter():
    falling = np.where(np.arange(N) < 30, 0.5, 1e-3)
    assert said(update_norm__w=falling, update_ratio__w=falling) == {}


def test_vanishing_gradients_are_named():
    found = said(grad_norm__a=1e-9, grad_norm__b=0.0, grad_norm__c=1.0, grad_norm__d=0.1)["vanishing gradients"]
    assert "of a, b are nearly 0" in found.advice and found.evidence["gradient norm of a over the largest"] == 1e-9
    assert "of b are 0 beside" in said(grad_norm__b=0.0, grad_norm__c=1.0)["vanishing gradients"].advice
    assert "of b, c are 0, and no others" in said(grad_norm__b=0.0, grad_norm__c=0.0)["vanishing gradients"].advice
    assert "before gradients are set to 0 (zero_grad)" in said(grad_norm=0.0)["vanishing gradients"].advice
    many = {f"grad_norm__{k}": 0.0 for k in range(9)}
    assert "0, 1, 2, 3, 4 and 4 more are 0" in said(**many, grad_norm__c=1.0)["vanishing gradients"].advice


def test_updates_that_16_bits_lose():
    p = {"w": np.ones(8, np.float16), "v": np.ones(8, np.float32)}
    opt = fastlr.SGD(p, lr=1e-5)
    opt.measure()
    history = fastlr.History()
    for k in range(N):
        opt.step({"w": np.ones(8, np.float16), "v": np.ones(8, np.float32)})
        history.record(loss=LOSS[k], opt=opt)
    found = {finding.kind: finding for finding in fastlr.diagnose(history)}["lost updates"]
    assert found.advice.startswith("w does not move") and "master='split'" in found.advice
    assert said(grad_norm__w=1.0, update_norm__w=0.0, lr=0.0) == {}


@pytest.mark.parametrize("what", ["update_norm__w", "update_ratio__w"])
def test_a_tensor_that_does_not_move(what):
    """16 bits lose its updates where there is a gradient; where none was recorded it may be frozen."""
    assert "not move, though the gradients" in said(**{what: 0.0, "grad_norm__w": 1.0})["lost updates"].advice
    assert "record the gradients' norms, too" in said(**{what: 0.0})["lost updates"].advice
    assert "lost updates" not in said(**{what: 0.0, "grad_norm__w": 0.0, "grad_norm__v": 1.0})


def test_steps_that_are_always_clipped():
    found = said(clipped__w=0.95, clipped__v=0.95)["clipped"]
    assert "all tensors are clipped in nearly every step" in found.advice
    assert "of w are clipped" in said(clipped__w=0.95, clipped__v=0.5)["clipped"].advice


@pytest.mark.parametrize("name", ["update_ratio/w", "clipped/w", "grad_norm/w"])
def test_too_few_numbers_say_nothing(name):
    assert [f.kind for f in fastlr.diagnose({"loss": LOSS, name: [1.0] * 3}) if f.kind in tensors.KINDS] == []


# What is not finite

T = np.arange(N)
CURES = {"grad_norm": "nonfinite='skip'", "update_norm": "raise eps", "update_ratio": "check that the weights are finite",
         "clipped": "measure it anew"}


@pytest.mark.parametrize("what", CURES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("begin", [0, 50, N - 1])
def test_what_is_not_finite_is_told_first_with_its_cure(what, value, begin):
    healthy = {"loss": 3.0 * (T + 1.0) ** -0.8}
    assert [finding.kind for finding in fastlr.diagnose(healthy)] == ["healthy"]
    series = {f"{what}/{name}": np.full(N, 1e-3) for name in "vw"}
    series[f"{what}/w"] = np.where(begin <= T, value, 1e-3)
    first, *others = fastlr.diagnose(healthy | series)
    assert first.kind == "not finite" and " w is " in first.advice and f"from t={begin} on" in first.advice
    cure = "Weights need a random start" if (what, value) == ("update_ratio", np.inf) else CURES[what]
    assert cure in first.advice and list(first.evidence.values()) == [begin]
    assert all(finding.kind not in ("healthy", "not finite") for finding in others)


def test_of_what_is_not_finite_the_cause_is_told():
    """A gradient that is NaN makes the update and the ratio NaN: one finding."""
    bad = np.where(T < 50, 1.0, np.nan)
    found = [finding for finding in fastlr.diagnose({"loss": LOSS} | {f"{what}/w": bad for what in CURES})
             if finding.kind == "not finite"]
    assert len(found) == 1 and "gradient norm of w" in found[0].advice
    found = [finding for finding in fastlr.diagnose({"loss": LOSS, "grad_norm/v": bad, "update_ratio/w": bad})
             if finding.kind == "not finite"]
    assert ["norm of v" in found[0].advice, "ratio of w" in found[1].advice] == [True, True]


def test_tensors_are_named_in_the_order_in_which_they_were_lost():
    losses = np.r_[LOSS[:50], [np.nan] * 10]
    first, second = fastlr.diagnose({"loss": losses, "grad_norm/a": np.where(T < 40, 1.0, np.nan),
                                     "grad_norm/b": np.where(T < 30, 1.0, np.nan)})
    assert first.kind == "diverging" and second.kind == "not finite"
    assert "gradient norm of b, a is NaN or infinite from t=30 on" in second.advice


def test_norms_that_grew_before_ask_for_a_lower_rate():
    grew = np.where(T < 50, 2.0 ** T, np.inf)
    assert said(grad_norm__w=grew)["not finite"].factor == 0.1
    assert "clip_norm=1.0" in said(grad_norm__w=grew)["not finite"].advice
    assert said(grad_norm__w=np.where(T < 50, 1.0, np.inf))["not finite"].factor == 1


@pytest.mark.parametrize("values", [
    np.where(T % 2, 1e-3, np.nan), np.where(T % 2, np.nan, 1e-3), np.where(T % 20, np.nan, 1e-3),
    np.where(T == 0, np.inf, 1e-3), np.where(T == 30, np.inf, 1e-3), np.where((T > 10) & (T < 30), np.nan, 1e-3)])
def test_steps_without_a_measurement_are_no_finding(values):
    """Every second step alone is measured, or every twentieth; a bias begins at 0; a scale of the loss was too high."""
    assert said(update_ratio__w=values) == {}


def test_infinities_that_come_often_are_told():
    assert "infinite from t=0" in said(update_ratio__w=np.where(T % 3, 1e-3, np.inf))["not finite"].advice


def test_the_norm_of_all_gradients_and_the_validation_loss():
    assert "gradient norm of all tensors" in said(grad_norm=np.where(T < 40, 1.0, np.nan))["not finite"].advice
    both = {"grad_norm": np.where(T < 40, 1.0, np.nan), "grad_norm__w": np.where(T < 40, 1.0, np.nan)}
    assert "gradient norm of w is NaN" in said(**both, grad_norm__v=1.0)["not finite"].advice
    assert "validation loss of all rows is NaN" in said(val_loss=np.nan)["not finite"].advice
    renamed = fastlr.diagnose({"loss": LOSS, "valid": np.full(N, np.nan)}, validation="valid")
    assert renamed[0].kind == "not finite"


def test_a_real_run_whose_weights_are_lost():
    """A gradient of infinity makes AdamW's weights NaN."""
    p = {"w": np.ones(8), "v": np.ones(8)}
    opt = fastlr.AdamW(p, lr=1e-2)
    opt.measure()
    history = fastlr.History()
    with np.errstate(all="ignore"):
        for k in range(N):
            opt.step({"w": np.full(8, np.inf if k == 40 else 1.0), "v": np.ones(8)})
            history.record(loss=LOSS[k], opt=opt)
    first = fastlr.diagnose(history)[0]
    assert first.kind == "not finite" and "of w is" in first.advice and "of v" not in first.advice
