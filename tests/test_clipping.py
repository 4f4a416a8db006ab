"""Clipping that adapts: to the norms of the past."""
import json
import math
import re

import numpy as np
import pytest
from registry import arrays, bits, every_optimizer, snapshot

import fastlr

SHAPES = [(3, 4), (), (700,), (40_000,)]


# By the norms of past steps

def zclip(norms, z, alpha, warmup):
    """What is left of each norm (arXiv:2504.02507, algorithm 1), and the mean and variance after all."""
    first, mean, variance, left = [], 0.0, 0.0, []
    for norm in norms:
        if len(first) < warmup:
            first.append(norm)
            mean = math.fsum(first) / len(first)
            variance = math.fsum((x - mean) ** 2 for x in first) / len(first)
            left.append(norm)
            continue
        score = (norm - mean) / (math.sqrt(variance) + 1e-6)
        kept = mean + z**2 / score * math.sqrt(variance) if score > z else norm
        mean = alpha * mean + (1 - alpha) * kept
        variance = alpha * variance + (1 - alpha) * (kept - mean) ** 2
        left.append(kept)
    return left, mean, variance


def spiky(steps, seed=0):
    """Norms with spikes."""
    norms = np.random.default_rng(seed).lognormal(0, 0.3, steps)
    norms[34::9] *= 40
    return norms


@pytest.mark.parametrize(("z", "alpha", "warmup"), [(2.5, 0.97, 25), (1.0, 0.5, 1), (2.0, 0.9, 5)])
def test_a_norm_that_stands_out_is_brought_back_as_the_paper_says(z, alpha, warmup):
    norms = spiky(80)
    p = np.zeros(1)
    opt = fastlr.SGD(p, lr=1.0, clip_zscore=z, clip_zscore_alpha=alpha, clip_zscore_warmup=warmup)
    moved = []
    for norm in norms:
        before = p[0]
        opt.step(np.array([-norm]))
        assert opt.grad_norm == norm
        moved.append(p[0] - before)
    want, mean, variance = zclip(norms, z, alpha, warmup)
    assert min(np.divide(want, norms)) < 0.1
    # (clipping is by threshold / (norm + 1e-6), as for clip_norm; and p's own rounding)
    np.testing.assert_allclose(moved, want, rtol=2e-6, atol=1e-13)
    assert opt.norms["count"] == warmup
    assert opt.norms["mean"] == pytest.approx(mean, rel=1e-12)
    assert opt.norms["variance"] == pytest.approx(variance, rel=1e-11)


@every_optimizer
def test_zscore_clipping_is_scaling_by_hand(cls):
    params = arrays(np.float32, SHAPES)
    others = [p.copy() for p in params]
    opt, other = cls(params, clip_zscore=2.0, clip_zscore_warmup=3), cls(others)
    clipped = 0
    for t, factor in enumerate([1, 1.5, 1, 1, 50, 1, 1.2]):
        grads = [g * np.float32(factor) for g in arrays(np.float32, SHAPES, t)]
        known = dict(opt.norms)
        opt.step(grads)
        left = 1.0
        if known["count"] == 3:
            z = (opt.grad_norm - known["mean"]) / (math.sqrt(known["variance"]) + 1e-6)
            if z > 2.0:
                left = (known["mean"] + 2.0 * math.sqrt(known["variance"]) / (z / 2.0)) / (opt.grad_norm + 1e-6)
                clipped += 1
        other.step([g * np.float32(left) for g in grads])
    assert clipped == 1
    assert bits(params) == bits(others)


def test_clip_norm_bounds_what_the_zscore_leaves():
    p = np.zeros(1)
    opt = fastlr.SGD(p, lr=1.0, clip_zscore=1.0, clip_zscore_warmup=2, clip_norm=1.5)
    for g, want in ((1.0, 1.0), (2.0, 1.5), (100.0, 1.5)):
        before = p[0]
        opt.step(np.array([-g]))
        assert p[0] - before == pytest.approx(want, rel=2e-6)


def test_norms_that_are_not_finite_are_not_remembered():
    p = np.zeros(2)
    opt = fastlr.SGD(p, lr=1.0, clip_zscore=2.0, clip_zscore_warmup=2)
    opt.step(np.array([3.0, 4.0]))
    opt.step(np.array([1e300, 1e300]))           # finite, but their squares are not
    assert opt.norms == {"count": 1, "mean": 5.0, "variance": 0.0}
    opt.step(np.array([6.0, 8.0]))
    assert opt.norms == {"count": 2, "mean": 7.5, "variance": 6.25}
    opt.step(np.array([np.nan, 1.0]))
    assert opt.norms == {"count": 2, "mean": 7.5, "variance": 6.25}
    assert np.isnan(p[0])
    assert np.isfinite(p[1])
    skipping = fastlr.SGD(np.zeros(2), clip_zscore=2.0, nonfinite="skip")
    skipping.step(np.array([np.inf, 1.0]))
    assert (skipping.norms["count"], skipping.skipped) == (0, 1)


@pytest.mark.parametrize("way", ["dict", "file"])
def test_norms_are_saved_and_resumed_exactly(way, tmp_path):
    def fresh():
        p = np.zeros(9)
        return fastlr.Momentum({"w": p}, clip_zscore=2.0, clip_zscore_warmup=10), p

    def steps(opt, first, last):
        for t in range(first, last):
            opt.step({"w": np.full(9, spiky(60)[t] / 3)})

    opt, p = fresh()
    steps(opt, 0, 60)
    want = snapshot(opt, [p]), opt.norms
    for k in (0, 5, 10, 43):
        opt, p = fresh()
        steps(opt, 0, k)
        other, q = fresh()
        if way == "file":
            fastlr.save(tmp_path / "run", opt)
            fastlr.load(tmp_path / "run", other)
        else:
            q[...] = p
            state = opt.state_dict()
            arrays_of = state.pop("state")
            other.load_state_dict(json.loads(json.dumps(state)) | {"state": arrays_of})
        assert other.norms == opt.norms
        steps(other, k, 60)
        assert (snapshot(other, [q]), other.norms) == want


def test_norms_grow_with_groups():
    opt = fastlr.SGD([np.zeros(2)], clip_zscore=2.0)
    opt.step([np.array([3.0, 4.0])])
    opt.add_group([np.zeros(3)])
    assert opt.norms == {"count": 1, "mean": 5.0, "variance": 0.0}


@pytest.mark.parametrize(("change", "says"), [
    ({"norms": None}, "SGD.load_state_dict: norms: expected a mapping, got NoneType"),
    ({"norms": {"count": 1, "mean": 1.0}}, "SGD.load_state_dict: norms: no entry 'variance'"),
    ({"norms": {"count": -1, "mean": 1.0, "variance": 0.0}}, "SGD.load_state_dict: norms['count'] must be a count"),
    ({"norms": {"count": 1, "mean": float("nan"), "variance": 0.0}}, "norms['mean'] must be finite and >= 0, got nan"),
    ({"norms": {"count": 1, "mean": 1.0, "variance": -1.0}}, "norms['variance'] must be finite and >= 0, got -1.0"),
    ({"norms": {"count": 1, "mean": "1", "variance": 1.0}}, "norms['mean'] must be finite and >= 0, got '1'"),
])
def test_norms_that_do_not_fit_are_refused_and_nothing_changes(change, says):
    p = np.zeros(3)
    opt = fastlr.SGD({"w": p}, clip_zscore=2.0)
    opt.step({"w": np.ones(3)})
    before = snapshot(opt, [p]), opt.norms
    with pytest.raises(ValueError, match=re.escape(says)):
        opt.load_state_dict(opt.state_dict() | {"t": 7} | change)
    assert (snapshot(opt, [p]), opt.norms) == before
    plain = fastlr.SGD({"w": p})
    with pytest.raises(ValueError, match="entry 'norms' is of an optimizer with clip_zscore, which this has not"):
        plain.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="no entry 'norms', which clip_zscore needs"):
        opt.load_state_dict(plain.state_dict())
    with pytest.raises(AttributeError, match="SGD: no norms are remembered; give clip_zscore"):
        _ = plain.norms


@pytest.mark.parametrize(("keywords", "error", "says"), [
    ({"clip_zscore": 0.0}, ValueError, "SGD: clip_zscore must be positive and finite, got 0.0"),
    ({"clip_zscore": "2"}, TypeError, "SGD: clip_zscore must be a number, got '2'"),
    ({"clip_zscore": True}, TypeError, "SGD: clip_zscore must be a number, got True"),
    ({"clip_zscore_alpha": 1.0}, ValueError, "SGD: clip_zscore_alpha must be in [0, 1), got 1.0"),
    ({"clip_zscore_warmup": 0}, ValueError, "SGD: clip_zscore_warmup must be an integer in [1, 2**31), got 0"),
    ({"clip_zscore_warmup": 2.5}, ValueError, "SGD: clip_zscore_warmup must be an integer in [1, 2**31), got 2.5"),
    ({"clip_zscor": 2.5}, TypeError, "SGD: unknown keyword 'clip_zscor'; did you mean 'clip_zscore'?"),
])
def test_wrong_options_are_refused(keywords, error, says):
    with pytest.raises(error, match=re.escape(says)):
        fastlr.SGD(np.zeros(2), **keywords)
