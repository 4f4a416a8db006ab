"""Clipping that adapts: to the norms of the past, and to those of the parameters."""
import json
import math
import re

import numpy as np
import pytest
from registry import BITWISE, arrays, bits, every_dtype, every_matrix, every_optimizer, every_rule, snapshot

import fastlr

SHAPES = [(3, 4), (), (700,), (40_000,)]


# The norm

@every_dtype
@pytest.mark.parametrize("clip_value", [None, 0.7])
@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-12, 1e12])
def test_the_norm_is_that_of_scaled_and_clipped_gradients(dtype, clip_value, scale):
    shapes = [(3, 5), (17,), (33_000,), ()]
    params, grads = arrays(dtype, shapes), [g * dtype(scale) for g in arrays(dtype, shapes, 1)]
    opt = fastlr.SGD(params, clip_norm=1e30, clip_value=clip_value)
    opt.step(grads, grad_scale=scale)
    given = np.concatenate([(g * dtype(1 / scale)).astype(np.float64).ravel() for g in grads])
    if clip_value is not None:
        given = given.clip(-float(dtype(clip_value)), float(dtype(clip_value)))
    # (2048 additions in a lane of a piece, each of 2**-53 at most; a root halves what they lose)
    assert opt.grad_norm == pytest.approx(np.linalg.norm(given), rel=2e-13)


SCALED = [2.0**700, 2.0**400, 2.0**-400, 2.0**-700]      # squares of the first and last overflow and vanish in double


@pytest.mark.parametrize("factor", SCALED)
@pytest.mark.parametrize("grad_scale", [1.0, 2.0**100, 2.0**-100])
def test_a_norm_is_exact_where_squares_overflow_or_vanish(factor, grad_scale):
    """A power of two times the gradients is one times their norm, bit for bit."""
    params, grads = arrays(np.float64, SHAPES), arrays(np.float64, SHAPES, 1)
    params.append(np.ones(5, np.float32))
    none = np.zeros(5, np.float32)
    opt = fastlr.SGD(params, lr=0.0, clip_norm=1.0, nonfinite="raise")
    opt.step([*grads, none])
    norm = opt.grad_norm
    opt.step([*(g * factor for g in grads), none], grad_scale=grad_scale)
    assert opt.grad_norm == norm * factor / grad_scale


@pytest.mark.parametrize("keyword", ["clip_norm", "clip_tensor_norm"])
def test_finite_gradients_with_a_large_norm_are_clipped(keyword):
    for size, unit in ((2, 1e200), (70_000, 1e200), (2, 2e307)):
        p, g = np.zeros(size), np.zeros(size)
        g[[0, -1]] = 3 * unit, 4 * unit
        opt = fastlr.SGD(p, lr=1.0, nonfinite="raise", **{keyword: 1.0})
        opt.step(g)
        np.testing.assert_allclose(p[[0, -1]], [-0.6, -0.8], rtol=1e-12)
        assert opt.grad_norm == pytest.approx(5 * unit, rel=1e-15)


def test_each_tensor_is_clipped_by_its_own_norm_beside_one_whose_squares_overflow():
    params = [np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2, np.float32)]
    grads = [np.array([3e200, -4e200]), np.array([30.0, 40.0]), np.array([3e-200, 0]), np.array([30, 40], np.float32)]
    fastlr.SGD(params, lr=1.0, clip_tensor_norm=1.0).step(grads)
    alone = [np.zeros_like(p) for p in params]
    for p, g in zip(alone[1:], grads[1:], strict=True):
        fastlr.SGD([p], lr=1.0, clip_tensor_norm=1.0).step([g])
    assert bits(params[1:]) == bits(alone[1:])
    np.testing.assert_allclose(params[0], [-0.6, 0.8], rtol=1e-12)


def test_a_sum_over_tensors_that_overflows_is_no_infinite_norm():
    params, grads = [np.zeros(1) for _ in range(40)], [np.full(1, 1.2e154) for _ in range(40)]
    opt = fastlr.SGD(params, lr=1.0, clip_norm=1.0)
    opt.step(grads)
    assert opt.grad_norm == pytest.approx(1.2e154 * 40**0.5, rel=1e-14)
    np.testing.assert_allclose(np.concatenate(params), -(40**-0.5), rtol=1e-12)


def test_a_tiny_norm_is_measured():
    p = np.zeros(2)
    opt = fastlr.SGD(p, lr=1.0, clip_norm=1e-210)
    opt.step(np.array([3e-200, 4e-200]))
    assert opt.grad_norm == pytest.approx(5e-200, rel=1e-15)
    opt.step(np.zeros(2))
    assert opt.grad_norm == 0


def test_rows_with_a_large_norm_are_clipped():
    table = np.zeros((4, 2))
    opt = fastlr.SGD({"table": table}, lr=1.0, clip_tensor_norm=1.0, nonfinite="raise")
    for unit in (1e200, 2e307):
        table[...] = 0
        opt.step_rows("table", [1, 3, 1], unit * np.array([[1.0, 0], [0, 4], [2, 0]]))
        np.testing.assert_allclose(table, [[0, 0], [-0.6, 0], [0, 0], [0, -0.8]], rtol=1e-12)
        assert opt.grad_norm == pytest.approx(5 * unit, rel=1e-15)


def test_a_norm_whose_square_overflows_is_none_of_the_past_norms():
    p = np.zeros(1)
    opt = fastlr.SGD(p, lr=1.0, clip_zscore=2.0, clip_zscore_warmup=2)
    for g in (1e200, 1.0, 1.5):
        opt.step(np.array([g]))
    assert opt.norms["count"] == 2
    p[:] = 0
    opt.step(np.array([1e200]))
    assert -10 < p[0] < 0


@every_dtype
@pytest.mark.parametrize("clip_value", [None, 0.7])
def test_the_norm_has_the_same_bits_for_any_threads_and_layout(dtype, clip_value):
    shapes, norms = [(70, 900), (300, 7), (5, 3, 401)], set()
    grads = arrays(dtype, shapes, 1)
    for threads in (1, 2, 5):
        for laid in (np.ascontiguousarray, np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2]):
            for params in (arrays(dtype, shapes), [np.asfortranarray(p) for p in arrays(dtype, shapes)]):
                fastlr.set_num_threads(threads)
                opt = fastlr.SGD(params, clip_norm=1e30, clip_value=clip_value)
                opt.step([laid(g) for g in grads], grad_scale=3.0)
                norms.add(opt.grad_norm)
    assert len(norms) == 1


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clip_value", [None, 0.7])
@pytest.mark.parametrize("where", [0, 15, 16, 256, 32_767, 32_768, 40_000])
@every_dtype
def test_what_is_not_finite_is_found_anywhere(dtype, where, clip_value, odd):
    params, grads = arrays(dtype, [(5,), (40_001,)]), arrays(dtype, [(5,), (40_001,)], 1)
    grads[1][where] = odd
    for policy in ("skip", "raise"):
        opt = fastlr.SGD(params, nonfinite=policy, clip_value=clip_value)
        before = snapshot(opt, params)
        if policy == "skip":
            opt.step(grads)
            assert opt.skipped == 1
        else:
            with pytest.raises(FloatingPointError, match=re.escape("grads[1]: holds NaN or infinity at t = 0")):
                opt.step(grads)
        assert snapshot(opt, params) == before


def test_squares_that_float32_cannot_hold_are_added():
    for size in (1e30, 1e-30):
        p, g = np.zeros(1000, np.float32), np.full(1000, size, np.float32)
        opt = fastlr.SGD([p], lr=1.0, clip_norm=1.0, nonfinite="raise")
        opt.step([g])
        assert opt.grad_norm == pytest.approx(float(np.float32(size)) * 1000**0.5, rel=1e-13)
        # (three roundings of 2**-24)
        assert np.linalg.norm(p.astype(np.float64)) == pytest.approx(min(1.0, opt.grad_norm), rel=3 * 2**-24 + 1e-6)


def test_a_tensors_norm_is_bounded_after_that_of_all():
    params, grads = [np.zeros(2), np.zeros(2)], [np.array([3.0, 4.0]), np.array([0.0, 12.0])]
    fastlr.SGD(params, lr=1.0, clip_norm=6.5, clip_tensor_norm=3.0).step(grads)       # (5, 12: 13 in all, half of it left)
    # (1e-6 is added to the norms)
    np.testing.assert_allclose(params, [[-1.5, -2.0], [0.0, -3.0]], rtol=1e-6)


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


def test_norms_that_are_not_finite_do_not_change_the_means():
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
    with pytest.raises(ValueError, match="saved with clip_zscore = 2.0, this optimizer has None, and would step"):
        plain.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="saved with clip_zscore = None, this optimizer has 2.0, and would step"):
        opt.load_state_dict(plain.state_dict())
    with pytest.raises(AttributeError, match="SGD: no norms are remembered; give clip_zscore"):
        _ = plain.norms


# By the norms of the parameters

# (above 32768 elements units are measured in several items: long ones in slices, short ones many to an item)
UNITS = [(7, 300), (40, 3), (2, 33_000), (200, 180), (300, 1), (1, 300), (8, 3, 5, 5), (4, 5, 6), (32_801,), (), (0, 3), (3, 0)]


def agc(p, g, clip, eps, axis):
    """What is left of a gradient (arXiv:2102.06171, equation 3), in its own precision, factors in double."""
    others = tuple(k for k in range(p.ndim) if p.ndim < 2 or k != axis % p.ndim)
    most, norm = (np.sqrt(np.sum(np.square(x, dtype=np.float64), axis=others, keepdims=True)) for x in (p, g))
    most = clip * np.maximum(most, eps)
    return g * np.where(norm < most, 1, most / np.maximum(norm, 1e-6)).astype(g.dtype)


@every_matrix
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("laid", [np.asarray, np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2]])
def test_adaptive_clipping_where_a_matrix_moves(cls, axis, laid):
    """Units are those of the parameter as it was given; what is coupled to the gradient is not clipped."""
    shapes = [(20, 30), (7, 3, 4), (90, 110), (11,)]
    params = [laid(np.array(p * np.float32(0.1))) for p in arrays(np.float32, shapes)]
    by_hand = [p.copy() for p in params]
    keywords = {"weight_decay": 0.1, "decay": "coupled"}
    opt = cls(params, clip_adaptive=0.5, clip_adaptive_eps=0.02, clip_adaptive_axis=axis, **keywords)
    other = cls(by_hand, **keywords)
    for t in range(3):
        grads = [g * np.float32(0.05) for g in arrays(np.float32, shapes, seed=t + 1)]
        clipped = [agc(p, g, 0.5, 0.02, axis) for p, g in zip(by_hand, grads, strict=True)]
        assert any((a != b).any() for a, b in zip(clipped, grads, strict=True))
        assert any((a == b).any() for a, b in zip(clipped, grads, strict=True))
        opt.step([laid(g) for g in grads])
        other.step(clipped)
    for p, q in zip(params, by_hand, strict=True):
        if cls in BITWISE:
            assert np.ascontiguousarray(p).tobytes() == np.ascontiguousarray(q).tobytes()
        else:                          # (BLAS may round otherwise at another address)
            assert np.abs(p - q).max() < 1e-4 * np.abs(q).max()


@every_rule
@every_dtype
@pytest.mark.parametrize("axis", [0, -1])
def test_adaptive_clipping_is_scaling_each_unit_by_hand(cls, dtype, axis):
    params = [np.array(p * dtype(0.1)) for p in arrays(dtype, UNITS)]
    params[0][3], params[1][:, 1] = 0, 0                      # (what has no norm has eps)
    others = [p.copy() for p in params]
    opt = cls(params, clip_adaptive=0.5, clip_adaptive_eps=0.02, clip_adaptive_axis=axis, weight_decay=0.1)
    other = cls(others, weight_decay=0.1)
    for t in range(3):
        grads = [np.array(g * dtype(0.1 if k % 2 else 0.01)) for k, g in enumerate(arrays(dtype, UNITS, t + 5))]
        left = [agc(p, g, 0.5, 0.02, axis) for p, g in zip(others, grads, strict=True)]
        assert {bool((a == b).all()) for a, b in zip(left, grads, strict=True)} == {True, False}
        opt.step([np.array(g * dtype(8)) for g in grads], grad_scale=8.0)
        other.step([np.array(g) for g in left])
        assert opt.grad_norm == pytest.approx(math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in left)), rel=1e-6)
        if dtype is np.float32:                   # (the factors' last places in double do not show)
            assert bits(params) == bits(others)
        for p, q in zip(params, others, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)


@every_dtype
@pytest.mark.parametrize("axis", [0, -1])
def test_values_are_clipped_before_units(dtype, axis):
    p, g = arrays(dtype, [(40, 30)] * 2)
    q = p.copy()
    g[3], g[:, 4] = g[3] * 100, g[:, 4] * 100
    fastlr.SGD([p], lr=1.0, clip_value=1.5, clip_adaptive=0.4, clip_adaptive_axis=axis).step([g])
    left = agc(q, g.clip(-1.5, 1.5), 0.4, 1e-3, axis)
    assert not np.array_equal(left, g.clip(-1.5, 1.5))
    np.testing.assert_allclose(p, q - left, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6)


@every_dtype
@pytest.mark.parametrize("axis", [0, -1])
def test_the_norm_is_clipped_after_units(dtype, axis):
    p, g = arrays(dtype, [(40, 30)] * 2)
    q = p.copy()
    opt = fastlr.SGD([p], lr=1.0, clip_adaptive=0.4, clip_adaptive_axis=axis, clip_norm=1.0)
    opt.step([g])
    left = agc(q, g, 0.4, 1e-3, axis)
    norm = math.sqrt(float(np.sum(np.square(left, dtype=np.float64))))
    assert norm > 5 and not np.array_equal(left, g) and opt.grad_norm == pytest.approx(norm, rel=1e-6)
    np.testing.assert_allclose(p, q - left / dtype(norm + 1e-6), rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6)


@every_dtype
@pytest.mark.parametrize("axis", [0, -1])
def test_adaptive_clipping_has_the_same_bits_for_any_threads_layout_and_copy(dtype, axis):
    def steps(threads, laid, given, copy):
        fastlr.set_num_threads(threads)
        params = [laid(p) if p.ndim else p for p in arrays(dtype, UNITS)]
        opt = fastlr.Momentum(params, clip_adaptive=0.01, clip_adaptive_axis=axis, clip_norm=3.0, shadow=copy)
        for t in range(2):
            opt.step([given(g) if g.ndim else g for g in arrays(dtype, UNITS, t)])
        return bits(params), opt.grad_norm

    wanted = steps(1, np.ascontiguousarray, np.ascontiguousarray, None)
    twice = lambda a: np.repeat(a, 2, axis=-1)[..., ::2]  # noqa: E731
    assert steps(3, np.ascontiguousarray, np.asfortranarray, None) == wanted
    assert steps(2, np.asfortranarray, twice, "float16") == wanted
    assert steps(2, twice, np.ascontiguousarray, None) == wanted


@every_dtype
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_units_measured_as_they_move_are_units_measured_before(dtype, axis, scale):
    """Small tensors are measured in place unless something else needs to know, as a check of all gradients does."""
    shapes = [*UNITS, (40, 700), (700, 40), (9, 9, 9), (300, 300)]
    found = []
    for nonfinite in ("propagate", "skip"):
        params = arrays(dtype, shapes)
        opt = fastlr.AdamW(params, clip_adaptive=0.01, clip_adaptive_axis=axis, nonfinite=nonfinite)
        for t in range(2):
            opt.step([None if k == 1 else g for k, g in enumerate(arrays(dtype, shapes, t + 1))], grad_scale=scale)
        found.append((bits(params), opt.grad_norm))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-14)      # (units' squares are added in another order)


@every_dtype
@pytest.mark.parametrize("clip_value", [None, 0.5])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_adaptive_clipping_finds_what_is_not_finite(odd, clip_value, dtype):
    for shape in ((300, 5), (5, 300)):
        for axis in (0, -1):
            p, g = np.ones(shape, dtype), np.ones(shape, dtype)
            g[2, 3] = odd
            opt = fastlr.SGD({"w": p}, clip_adaptive=0.1, clip_adaptive_axis=axis, clip_value=clip_value,
                             nonfinite="raise")
            with pytest.raises(FloatingPointError, match=re.escape("grads['w']: holds NaN or infinity at t = 0")):
                opt.step({"w": g})
            assert (p == 1).all()
            opt = fastlr.SGD({"w": p}, clip_adaptive=0.1, clip_adaptive_axis=axis, clip_value=clip_value,
                             nonfinite="skip")
            opt.step({"w": g})
            assert (opt.skipped, (p == 1).all()) == (1, True)


def test_adaptive_clipping_leaves_out_what_has_no_gradient_and_refuses_rows():
    p, q = np.ones((3, 4)), np.ones((3, 4))
    opt = fastlr.SGD({"p": p, "q": q}, lr=1.0, clip_adaptive=0.5)
    opt.step({"p": None, "q": np.full((3, 4), 2.0)})
    assert (p == 1).all()
    np.testing.assert_allclose(q, 0.5, rtol=1e-15)
    with pytest.raises(ValueError, match="clip_adaptive measures whole parameters; use clip_tensor_norm, or clip before"):
        opt.step_rows("p", [0], np.ones((1, 4)))


@pytest.mark.parametrize(("keywords", "error", "says"), [
    ({"clip_adaptive": 0.0}, ValueError, "SGD: clip_adaptive must be positive and finite, got 0.0"),
    ({"clip_adaptive": 0.1, "clip_adaptive_eps": 0.0}, ValueError, "SGD: clip_adaptive_eps must be positive and finite"),
    ({"clip_adaptive": 0.1, "clip_adaptive_axis": 1}, ValueError, "SGD: clip_adaptive_axis must be 0 or -1, got 1"),
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
