"""The scale of a loss: grows while gradients are finite, shrinks when they are not, resumes exactly."""
import copy
import json
import re

import numpy as np
import pytest
from registry import arrays, bits, every_optimizer, snapshot

import fastlr

BAD = {3, 4, 11, 12, 13, 29}


def trained(cls, steps, opt=None, params=None, scale=None, first=0):
    """Parameters, optimizer and scale after some steps, of which those in BAD overflow."""
    if opt is None:
        params = arrays(np.float32, [(30,), (5, 5)])
        opt, scale = cls(params, nonfinite="skip"), fastlr.LossScale(init=8.0, growth=4.0, backoff=0.25, interval=3)
    for t in range(first, steps):
        grads = [g * np.float32(scale.value) for g in arrays(np.float32, [(30,), (5, 5)], t)]
        if t in BAD:
            grads[t % 2].flat[t % 5] = np.inf if t % 3 else np.nan
        opt.step(grads, grad_scale=scale)
    return params, opt, scale


@every_optimizer
def test_a_power_of_two_does_not_show_and_bad_steps_are_left_out(cls):
    params, opt, scale = trained(cls, 40)
    others = arrays(np.float32, [(30,), (5, 5)])
    other = cls(others)
    for t in range(40):
        if t not in BAD:
            other.step(arrays(np.float32, [(30,), (5, 5)], t))
    assert bits(params) == bits(others)
    assert (opt.t, opt.skipped) == (34, 6)
    assert scale.value == 8.0 * 4.0 ** (1 + 0 + 2 + 5 + 3) * 0.25**6


def test_resume_is_exact_at_every_step():
    params, opt, scale = trained(fastlr.AdamW, 40)
    want = snapshot(opt, params), scale.state_dict()
    for k in range(0, 40, 3):
        before, half, there = trained(fastlr.AdamW, k)
        saved, state = half.state_dict(), json.loads(json.dumps(there.state_dict()))
        resumed = [p.copy() for p in before]
        other = fastlr.AdamW(resumed, nonfinite="skip")
        other.load_state_dict(saved)
        here = fastlr.LossScale()
        here.load_state_dict(state)
        trained(fastlr.AdamW, 40, other, resumed, here, k)
        assert (snapshot(other, resumed), here.state_dict()) == want


def test_the_scale_stays_a_positive_finite_float32():
    scale = fastlr.LossScale(init=1.0, interval=1)
    for _ in range(200):
        scale.update(overflow=True)
    assert scale.value == 2.0**-126
    for _ in range(300):
        scale.update(overflow=False)
    assert scale.value == 2.0**126           # the inverse of its double is flushed to zero in float32
    p = np.zeros(2, np.float32)
    fastlr.SGD(p, lr=1.0, nonfinite="skip").step(np.full(2, 2.0**126, np.float32), grad_scale=scale)
    assert p.tolist() == [-1, -1]
    odd = fastlr.LossScale(init=3.0, growth=1.1, interval=1)
    want = np.float32(3)
    for _ in range(50):
        odd.update(overflow=False)
        want = np.float32(float(want) * 1.1)
    assert odd.value == float(odd) == want


def test_it_grows_after_good_steps_in_a_row():
    scale = fastlr.LossScale(init=8.0, interval=3)
    seen = []
    for overflow in (False, False, True, False, False, True, False, False, False, False, False, False):
        scale.update(overflow)
        seen.append((scale.value, scale.streak))
    assert seen == [(8, 1), (8, 2), (4, 0), (4, 1), (4, 2), (2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (4, 2), (8, 0)]


def test_several_optimizers_share_a_scale():
    scale = fastlr.LossScale(init=4.0, interval=1)
    p, q = np.ones(2, np.float32), np.ones(2, np.float32)
    pair = [fastlr.SGD(p, lr=1.0, nonfinite="skip"), fastlr.SGD(q, lr=1.0, nonfinite="skip")]
    pair[0].step(np.full(2, 4, np.float32), grad_scale=scale.value)
    pair[1].step(np.full(2, np.nan, np.float32), grad_scale=scale.value)
    scale.update(overflow=any(opt.skipped for opt in pair))
    assert (scale.value, p.tolist(), q.tolist()) == (2.0, [0.0, 0.0], [1.0, 1.0])
    assert repr(scale) == "LossScale(2; growth=2, backoff=0.5, interval=1, streak=0)"


@pytest.mark.parametrize(("keywords", "error", "says"), [
    ({"init": 0.0}, ValueError, "LossScale: init must be in [1.18e-38, 8.51e+37], got 0.0"),
    ({"init": -1}, ValueError, "LossScale: init must be in [1.18e-38, 8.51e+37], got -1"),
    ({"init": 1e39}, ValueError, "LossScale: init must be in [1.18e-38, 8.51e+37], got 1e+39"),
    ({"init": float("nan")}, ValueError, "LossScale: init must be in [1.18e-38, 8.51e+37], got nan"),
    ({"init": "1"}, TypeError, "LossScale: init must be a number, got '1'"),
    ({"growth": 1.0}, ValueError, "LossScale: growth must be in (1, inf), got 1.0"),
    ({"backoff": 1.0}, ValueError, "LossScale: backoff must be in (0, 1), got 1.0"),
    ({"backoff": 0.0}, ValueError, "LossScale: backoff must be in (0, 1), got 0.0"),
    ({"interval": 0}, ValueError, "LossScale: interval must be an integer of at least 1, got 0"),
    ({"interval": 2.0}, ValueError, "LossScale: interval must be an integer of at least 1, got 2.0"),
])
def test_what_is_no_scale_is_refused(keywords, error, says):
    with pytest.raises(error, match=re.escape(says)):
        fastlr.LossScale(**keywords)


@pytest.mark.parametrize("cls", [fastlr.LossScale, type("Mine", (fastlr.LossScale,), {})])
def test_what_is_set_is_checked(cls):
    scale = cls(init=4.0)
    before = scale.state_dict()
    for name, value, error, says in [
        ("value", 0.0, ValueError, "value must be in [1.18e-38, 8.51e+37], got 0.0"),
        ("growth", 0.5, ValueError, "growth must be in (1, inf), got 0.5"),
        ("backoff", "half", TypeError, "backoff must be a number, got 'half'"),
        ("interval", 0, ValueError, "interval must be an integer of at least 1, got 0"),
        ("streak", -1, ValueError, "streak must be an integer of at least 0, got -1"),
        ("intervall", 5, AttributeError, "has no 'intervall'; did you mean 'interval'?"),
    ]:
        with pytest.raises(error, match=re.escape(f"{cls.__name__}{'' if error is AttributeError else ':'} {says}")):
            setattr(scale, name, value)
    assert scale.state_dict() == before
    scale.value, scale.interval, scale.growth = 3, 1, 4
    scale.update(overflow=False)
    assert scale.state_dict() == {"value": 12.0, "growth": 4.0, "backoff": 0.5, "interval": 1, "streak": 0}
    copied = copy.deepcopy(scale)
    assert copied.state_dict() == scale.state_dict()


def test_a_subclass_of_loss_scale_may_have_attributes_of_its_own():
    class Logged(fastlr.LossScale):
        def __init__(self, **keywords):
            super().__init__(**keywords)
            self.log = []

        def update(self, overflow):
            self.log.append(overflow)
            super().update(overflow)

    scale = Logged(init=8.0)
    fastlr.SGD(np.ones(2), nonfinite="skip").step(np.array([np.inf, 0]), grad_scale=scale)
    assert (scale.log, scale.value) == ([True], 4.0)
    with pytest.raises(AttributeError, match="LossScale has no 'logg'"):
        fastlr.LossScale().logg = []


def test_a_refused_state_or_step_changes_nothing():
    scale = fastlr.LossScale(init=4.0)
    before = scale.state_dict()
    for change in ({"value": -1.0}, {"streak": -1}, {"growth": 0.5}, {"interval": None}):
        with pytest.raises(ValueError, match=r"LossScale\.load_state_dict: "):
            scale.load_state_dict(before | change)
    with pytest.raises(ValueError, match="expected the entries backoff, growth, interval, streak, value, got "):
        scale.load_state_dict({"value": 1.0})
    p = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="SGD: a LossScale needs nonfinite='skip', got 'propagate'; give it to the constr"):
        fastlr.SGD(p).step(np.ones(2, np.float32), grad_scale=scale)
    with pytest.raises(ValueError, match="like the parameter"):
        fastlr.SGD(p, nonfinite="skip").step(np.ones(3, np.float32), grad_scale=scale)
    assert (scale.state_dict(), p.tolist()) == (before, [1.0, 1.0])
