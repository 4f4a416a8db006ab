"""What happens to a gradient before its rule, and to a parameter after it, in the same pass over memory."""
import itertools
import math
import re

import numpy as np
import pytest
from registry import arrays, bits, every_dtype, every_optimizer, snapshot

import fastlr
from fastlr import schedules

SHAPES = [(3, 4), (), (0,), (700,), (40_000,)]


def pairs(dtype, seed=0):
    return arrays(dtype, SHAPES, seed), arrays(dtype, SHAPES, seed + 100)


def exact_norm(grads):
    return math.sqrt(math.fsum(float(x) * float(x) for g in grads for x in np.ravel(g)))


# Clipping by norm

@every_dtype
def test_the_norm_is_the_norm(dtype):
    params, grads = pairs(dtype)
    opt = fastlr.SGD(params, clip_norm=1e9)
    assert opt.grad_norm is None
    opt.step([g * 4 for g in grads], grad_scale=4.0)
    # sixteen lanes of at most 2,500 sums each, in double
    assert opt.grad_norm == pytest.approx(exact_norm(grads), rel=2500 * 2.0**-53, abs=0)


@every_dtype
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("laid", [np.ascontiguousarray, np.asfortranarray, lambda a: np.repeat(a[..., None], 2, -1)[..., 0]],
                         ids=["rows", "columns", "strided"])
def test_the_norm_has_the_same_bits_for_any_threads_and_layout(dtype, threads, laid):
    shapes = [(211, 401), (33, 7)]
    grads = arrays(dtype, shapes)
    wanted = fastlr.SGD(arrays(dtype, shapes), clip_norm=1.0)
    fastlr.set_num_threads(1)
    wanted.step(grads)
    fastlr.set_num_threads(threads)
    for where in (laid, np.ascontiguousarray):
        opt = fastlr.SGD([where(p) if p.ndim else p for p in arrays(dtype, shapes)], clip_norm=1.0)
        opt.step([laid(g) for g in grads])
        assert opt.grad_norm.hex() == wanted.grad_norm.hex()


@every_optimizer
@every_dtype
def test_clipping_by_norm_is_scaling_by_hand(cls, dtype):
    params, grads = pairs(dtype)
    others = [p.copy() for p in params]
    opt, other = cls(params, clip_norm=2.0, weight_decay=0.1), cls(others, weight_decay=0.1)
    for factor in (1.0, 1e-3, 30.0):
        given = [g * dtype(factor) for g in grads]
        opt.step(given)
        left = dtype(min(1.0, 2.0 / (opt.grad_norm + 1e-6)))
        assert (left == 1) == (factor == 1e-3)
        other.step([g * left for g in given])
    assert bits(params) == bits(others)


def test_clipping_each_tensor_by_its_own_norm():
    params, grads = pairs(np.float64)
    others = [p.copy() for p in params]
    opt = fastlr.SGD(params, clip_tensor_norm=0.5)
    opt.step(grads)
    fastlr.SGD(others).step([g * np.float64(min(1.0, 0.5 / (exact_norm([g]) + 1e-6))) for g in grads])
    # (the kernel's norm is a sum in another order than fsum's)
    for p, other in zip(params, others, strict=True):
        np.testing.assert_allclose(p, other, rtol=1e-13, atol=1e-15)
    assert opt.grad_norm == pytest.approx(exact_norm(grads), rel=1e-12)


def test_values_are_clipped_before_the_norm_is_taken():
    p, g = np.zeros(3), np.array([100.0, -100.0, 0.5])
    opt = fastlr.SGD(p, lr=1.0, clip_value=1.0, clip_norm=0.75)
    opt.step(g)
    assert opt.grad_norm == pytest.approx(1.5, rel=1e-15)
    np.testing.assert_allclose(p, np.array([-1.0, 1.0, -0.5]) * 0.75 / (1.5 + 1e-6), rtol=1e-15)


# What is not finite

ODD = [np.nan, np.inf, -np.inf]


@every_optimizer
def test_a_skipped_step_leaves_everything(cls):
    params, grads = pairs(np.float32)
    opt = cls(params, nonfinite="skip", lr=schedules.linear(0.1, steps=9), clip_value=1.0, ema_decay=0.5)
    opt.step(grads)
    before = snapshot(opt, params)
    for skipped, (odd, where) in enumerate(itertools.product(ODD, [0, 255, 256, 39_999]), 1):
        bad = [*grads[:4], grads[4].copy()]
        bad[4][where] = odd
        opt.step(bad)
        assert (opt.skipped, opt.t) == (skipped, 1), (odd, where)
    assert snapshot(opt, params) == before
    bad = [g.copy() for g in bad]
    opt.step(bad, zero_grads=True)
    assert snapshot(opt, params) == before
    assert all((g == 0).all() for g in bad)
    opt.step(grads)
    assert (opt.skipped, opt.t) == (13, 2)


@pytest.mark.parametrize("odd", ODD, ids=str)
@every_dtype
def test_raising_names_the_gradient_and_changes_nothing(odd, dtype):
    params, grads = pairs(dtype)
    opt = fastlr.AdamW({f"p{k}": p for k, p in enumerate(params)}, nonfinite="raise")
    grads[3][17] = odd
    before = snapshot(opt, params)
    with pytest.raises(FloatingPointError,
                       match=re.escape("grads['p3']: holds NaN or infinity at t = 0; nothing was changed")):
        opt.step({f"p{k}": g for k, g in enumerate(grads)})
    assert snapshot(opt, params) == before


def test_propagating_is_the_default_and_stays_in_its_element():
    p = np.ones(1000, np.float32)
    g = np.ones(1000, np.float32)
    g[500] = np.nan
    fastlr.AdamW(p).step(g)
    assert np.isnan(p[500])
    assert np.isfinite(np.delete(p, 500)).all()


def test_large_finite_gradients_are_finite():
    p = np.zeros(3)
    opt = fastlr.SGD(p, lr=1.0, nonfinite="raise")
    opt.step(np.full(3, 1e200))        # their squares are not
    assert (p == -1e200).all()


def test_a_skipped_sum_does_not_depend_on_signs():
    g = np.ones(64, np.float32)
    g[3], g[19] = np.inf, -np.inf      # of the same lane
    opt = fastlr.SGD(np.zeros(64, np.float32), nonfinite="skip")
    opt.step(g)
    assert opt.skipped == 1


# A running mean of the parameters

@every_optimizer
@every_dtype
def test_ema_follows_its_formula(cls, dtype):
    params, grads = pairs(dtype)
    params[0] = np.asfortranarray(params[0])
    opt = cls(params, ema_decay=0.75)
    want = [p.copy() for p in params]
    for p, ema in zip(params, opt.ema.values(), strict=True):
        assert (ema == p).all()
        assert not np.shares_memory(ema, p)
    for _ in range(4):
        opt.step(grads)
        want = [dtype(0.75) * w + dtype(0.25) * p for w, p in zip(want, params, strict=True)]
    assert bits(opt.ema.values()) == bits(want)
    plain, _ = pairs(dtype)
    other = cls(plain)
    for _ in range(4):
        other.step(grads)
    assert bits(params) == bits(plain)


def test_ema_is_saved_and_grows_with_groups(tmp_path):
    def fresh():
        params, _ = pairs(np.float32)
        opt = fastlr.AdamW(params[:3], ema_decay=0.9)
        opt.step(grads[:3])
        opt.add_group(params[3:])
        return opt, params
    _, grads = pairs(np.float32)
    given = [grads[:3], grads[3:]]
    opt, params = fresh()
    opt.step(given)
    fastlr.save(tmp_path / "ema", opt)
    opt.step(given)
    other, others = fresh()
    fastlr.load(tmp_path / "ema", other)
    other.step(given)
    assert snapshot(other, others) == snapshot(opt, params)
    assert set(opt.ema) == {"0", "1", "2", "3", "4"}
    with pytest.raises(AttributeError, match="AdamW: no running mean is kept; give ema_decay"):
        _ = fastlr.AdamW(np.zeros(2)).ema
    with pytest.raises(ValueError, match="saved with ema_decay = None, this optimizer has 0.5"):
        fastlr.AdamW(np.zeros(2), ema_decay=0.5).load_state_dict(fastlr.AdamW(np.zeros(2)).state_dict())


# All at once

@every_dtype
def test_one_pass_is_the_stages_one_after_another(dtype):
    params, grads = pairs(dtype)
    others = [p.copy() for p in params]
    opt = fastlr.AdamW(params, lr=0.1, weight_decay=0.1, clip_value=1.0, clip_norm=2.0, ema_decay=0.5, nonfinite="skip")
    other = fastlr.AdamW(others, lr=0.1, weight_decay=0.1)
    ema = [p.copy() for p in params]
    for t in range(3):
        scaled = [np.array(g * dtype(8 * (t + 1))) for g in grads]
        by_hand = [np.clip(g * dtype(1 / 8), -1, 1) for g in scaled]
        opt.step(scaled, grad_scale=8.0, zero_grads=True)
        left = dtype(min(1.0, 2.0 / (opt.grad_norm + 1e-6)))
        other.step([g * left for g in by_hand])
        ema = [dtype(0.5) * e + dtype(0.5) * p for e, p in zip(ema, others, strict=True)]
        assert all((g == 0).all() for g in scaled)
    assert bits(params) == bits(others)
    assert bits(opt.ema.values()) == bits(ema)


@pytest.mark.parametrize(("keywords", "says"), [
    ({"clip_norm": 0.0}, "SGD: clip_norm must be positive and finite, got 0.0"),
    ({"clip_norm": float("nan")}, "SGD: clip_norm must be positive and finite, got nan"),
    ({"clip_tensor_norm": -1.0}, "SGD: clip_tensor_norm must be positive and finite, got -1.0"),
    ({"nonfinite": "ignore"}, "SGD: nonfinite must be 'propagate', 'skip' or 'raise', got 'ignore'"),
    ({"ema_decay": 1.0}, "SGD: ema_decay must be in [0, 1), got 1.0"),
    ({"ema_decay": -0.1}, "SGD: ema_decay must be in [0, 1), got -0.1"),
])
def test_wrong_options_are_refused(keywords, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        fastlr.SGD(np.zeros(2), **keywords)
