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
    assert said(grad_norm__b=0.0, grad_norm__c=0.0) == {}
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


def test_steps_that_are_always_clipped():
    found = said(clipped__w=0.95, clipped__v=0.95)["clipped"]
    assert "all tensors are clipped in nearly every step" in found.advice
    assert "of w are clipped" in said(clipped__w=0.95, clipped__v=0.5)["clipped"].advice


@pytest.mark.parametrize("values", [[np.nan] * N, [1.0] * 3])
def test_too_few_numbers_say_nothing(values):
    assert [f.kind for f in fastlr.diagnose({"loss": LOSS, "update_ratio/w": values, "clipped/w": values})
            if f.kind in tensors.KINDS] == []
