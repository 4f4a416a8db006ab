"""Constraints: each step ends where the step without one, projected, ends; in every layout, storage and stage."""
import math

import numpy as np
import pytest
import registry  # noqa: F401  (it gives steps the loss or the curvature that some rules need)
from registry import every_optimizer

import fastlr
from fastlr import constraints
from fastlr.constraints import box, max_norm, nonnegative, simplex, unit_norm


def rows_of(p, axis):
    return p.reshape(len(p), -1) if axis == 0 and p.ndim > 1 else p.reshape(1, -1)


def projected(p, constraint):
    """The nearest point, in float64."""
    x = np.float64(p)
    if constraint.kind == "box":
        return np.clip(x, constraint.low, constraint.high)
    rows = rows_of(x, constraint.axis)
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    if constraint.kind == "max_norm":
        return (rows * np.minimum(1, constraint.high / norms)).reshape(p.shape)
    if constraint.kind == "unit_norm":
        return (rows * constraint.high / norms).reshape(p.shape)
    return np.stack([on_simplex(row, constraint.high) for row in rows]).reshape(p.shape)


def on_simplex(row, total):
    """By sorting: Held, Wolfe & Crowder 1974."""
    u = np.sort(row)[::-1]
    above = (np.cumsum(u) - total) / np.arange(1, len(u) + 1)
    count = np.nonzero(u > above)[0][-1] + 1
    tau = (math.fsum(u[:count]) - total) / count
    return np.maximum(row - tau, 0)


EVERY = [box(-0.5, 0.4), nonnegative(), max_norm(1.5), unit_norm(), simplex(), simplex(2.5), max_norm(3.0, axis=None),
         unit_norm(axis=None, norm=2.0), simplex(axis=None)]
every_constraint = pytest.mark.parametrize("constraint", EVERY, ids=repr)
SHAPES = {"w": (7, 300), "cube": (3, 5, 4), "vector": (40,), "long": (2, 40_001), "one": (1, 1)}


def normal(seed, shapes=SHAPES, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


@every_constraint
@pytest.mark.parametrize(("dtype", "state"), [(np.float32, "float32"), (np.float32, "float64"), (np.float64, "float64")])
@pytest.mark.parametrize("measured", [False, True])
def test_a_step_ends_at_the_projection(constraint, dtype, state, measured):
    params, plain = normal(0, dtype=dtype), normal(0, dtype=dtype)
    opt = fastlr.AdamW(params, lr=0.1, constraint=constraint, state_dtype=state)
    other = fastlr.AdamW(plain, lr=0.1, state_dtype=state)
    opt.measure(measured)
    tolerance = 2e-6 if dtype == np.float32 else 1e-14
    for k in range(4):
        grads = normal(10 + k, dtype=dtype)
        opt.step(grads)
        other.step(grads)
        for name, p in plain.items():
            p[...] = projected(p, constraint)
            np.testing.assert_allclose(params[name], p, rtol=0, atol=tolerance * max(1, np.abs(p).max()))
            p[...] = params[name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 20.0, 1e4])
@pytest.mark.parametrize("shape", [(200, 1), (150, 7), (40, 333), (3, 5000), (1, 70_000)], ids=str)
def test_a_simplex_from_near_and_far(shape, scale, dtype):
    """Rows of many kinds: about the simplex or far from it, all negative, with equal elements, one that is large."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=shape) * scale
    rows[::5] = rng.dirichlet(np.ones(shape[1]), len(rows[::5])) + rows[::5] * 0.01 / shape[1]
    rows[1::5] -= 3 * scale
    rows[2::5] = scale
    rows[3::5, 0] += 10 * scale
    p = rows.astype(dtype)
    fastlr.SGD(p, lr=0.0, constraint=simplex(2.0)).step(np.zeros_like(p))
    unit = np.finfo(dtype).eps * (np.abs(rows).max(axis=1, keepdims=True) + 2.0)
    expected = projected(rows.astype(dtype), simplex(2.0))
    assert (np.abs(p - expected) <= 2 * unit).all() and (p >= 0).all()
    again = p.copy()
    fastlr.SGD(again, lr=0.0, constraint=simplex(2.0)).step(np.zeros_like(p))
    assert (np.abs(again - p) <= 2 * unit).all()


@pytest.mark.parametrize("width", [1, 7, 32, 64, 65, 128, 129, 200, 1000, 2048, 2049, 5000, 40_000])
@pytest.mark.parametrize("constraint", [box(-0.4, 0.3), max_norm(1.0), max_norm(40.0), unit_norm(), simplex()], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_constrained_between_steps_of_the_next_have_the_bits_of_rows_constrained_after(constraint, width, dtype):
    """Whatever the rows' places in cache lines, and with what each step is followed by."""
    shapes = {"w": (max(5, 4000 // width), width)}
    found = {}
    for how in ("after", "between", "moved", "mean", "measured", "strided"):
        p = normal(0, shapes, dtype)
        if how == "moved":
            room = np.empty(p["w"].size + 3, dtype)
            room[3:] = p["w"].ravel()
            p = {"w": room[3:].reshape(p["w"].shape)}
        if how == "strided":
            p = {"w": np.repeat(p["w"], 2, axis=1)[:, ::2]}
        opt = fastlr.Adam(p, lr=0.1, constraint=None if how == "after" else constraint, ema_decay=0.5 if how == "mean" else None)
        after = fastlr.SGD(p, constraint=constraint)
        opt.measure(how == "measured")
        for k in range(3):
            opt.step(normal(k, shapes, dtype))
            if how == "after":
                after.constrain()
        found[how] = np.ascontiguousarray(p["w"]).tobytes()
    assert [how for how in found if found[how] != found["after"]] == []


@every_optimizer
def test_every_optimizer_can_be_constrained(cls):
    shapes = {"w": (6, 4), "table": (5, 4)}
    params, plain = normal(0, shapes), normal(0, shapes)
    opt = cls(params, lr=0.1, constraint={"w": unit_norm(), "table": box(-0.2, 0.3)}, ema_decay=0.5)
    other = cls(plain, lr=0.1)
    for k in range(3):
        grads = normal(20 + k, shapes)
        means = {name: x.copy() for name, x in opt.ema.items()}
        opt.step(grads)
        other.step(grads)
        if cls.shared or "x" in cls.slots:         # (whose later steps depend on where the parameter was left)
            assert np.abs(params["table"]).max() <= 0.3
            continue
        plain["w"][...], plain["table"][...] = projected(plain["w"], unit_norm()), projected(plain["table"], box(-0.2, 0.3))
        for name in shapes:
            np.testing.assert_allclose(params[name], plain[name], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(opt.ema[name], 0.5 * means[name] + 0.5 * params[name], rtol=1e-12)
            plain[name][...] = params[name]


@pytest.mark.parametrize("options", [
    {}, {"clip_norm": 0.1}, {"clip_tensor_norm": 0.1, "maximize": True}, {"clip_adaptive": 0.1}, {"clip_value": 0.2},
    {"clip_adaptive": 0.1, "clip_norm": 5.0}, {"lr_scale": 0.5}, {"ema_decay": 0.9}, {"shadow": "bfloat16"},
    {"state_dtype": "bfloat16"}, {"state_dtype": "int8"}, {"nonfinite": "skip"}, {"weight_decay": 0.1, "decay": "coupled"}],
    ids=repr)
def test_a_constraint_that_holds_changes_no_bit(options):
    for constraint in (box(-1e9, 1e9), max_norm(1e9), max_norm(1e9, axis=None)):
        arrays = []
        for given in (None, constraint):
            params = normal(0, {"w": (64, 77), "long": (3, 33_333), "v": (5000,)}, np.float32)
            opt = fastlr.Adam(params, lr=0.1, constraint=given, **options)
            for k in range(3):
                opt.step(normal(30 + k, {"w": (64, 77), "long": (3, 33_333), "v": (5000,)}, np.float32))
            arrays.append([p.tobytes() for p in params.values()] + [
                x.tobytes() for slots in opt.state.values() for x in slots.values()]
                + [x.tobytes() for x in (opt.shadow.values() if "shadow" in options else ())])
        assert arrays[0] == arrays[1]


@every_constraint
def test_threads_and_layouts_change_no_bit(constraint):
    if constraint.axis is None and constraint.kind != "box":
        shapes = {"w": (70, 1000)}
    else:
        shapes = {"w": (70, 1000), "small": (5, 6)}
    found = set()
    before = fastlr.get_num_threads()
    for threads, strided in ((1, False), (2, False), (2, True)):
        fastlr.set_num_threads(threads)
        params = normal(0, shapes, np.float32)
        if strided:
            params = {name: np.repeat(p, 2, axis=1)[:, ::2] for name, p in params.items()}
        opt = fastlr.SGD(params, lr=0.3, constraint=constraint)
        for k in range(2):
            opt.step(normal(40 + k, shapes, np.float32))
        found.add(b"".join(np.ascontiguousarray(p).tobytes() for p in params.values()))
    fastlr.set_num_threads(before)
    assert len(found) == 1


def test_columns_are_rows_of_the_transposed_view():
    w = np.random.default_rng(0).normal(size=(20, 3))
    fastlr.SGD({"w": w.T}, lr=0.1, constraint=unit_norm()).step({"w": np.ones((3, 20))})
    np.testing.assert_allclose(np.sqrt((w**2).sum(axis=0)), 1, rtol=1e-14)


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "split"])
def test_bounds_hold_in_16_bits(stored):
    w = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    if stored == "float16":
        p, options = w.astype(np.float16), {}
    else:
        p, options = (w.view(np.uint32) >> 16).astype(np.uint16), {"dtype": "bfloat16"}
    options |= {"master": "split"} if stored == "split" else {"rounding": "stochastic"}
    opt = fastlr.Adam({"w": p}, lr=0.5, constraint=box(-0.1, 0.3), shadow="float16" if stored == "split" else None, **options)
    for k in range(3):
        opt.step({"w": np.random.default_rng(k).normal(size=3000).astype(np.float32)})
        x = opt.master["w"]
        bound = np.float32(0.3) if stored == "split" else constraints.rounded(0.3, stored)
        assert x.max() == bound and x.min() == (np.float32(-0.1) if stored == "split" else constraints.rounded(-0.1, stored))
        if stored == "split":
            assert opt.shadow["w"].tobytes() == x.astype(np.float16).tobytes()


def test_norms_that_overflow_or_vanish_and_what_is_not_finite():
    p = {"large": np.array([[3e200, 4e200], [3e-200, 4e-200], [0.0, 0.0]])}
    opt = fastlr.SGD(p, lr=0.0, constraint=unit_norm())
    opt.step({"large": np.zeros((3, 2))})
    np.testing.assert_allclose(p["large"], [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-15)
    q = np.array([np.nan, 5.0, -np.inf])
    fastlr.SGD(q, lr=0.0, constraint=box(0, 1)).step(np.zeros(3))
    assert np.isnan(q[0]) and q[1:].tolist() == [1, 0]
    r = np.array([[np.inf, 1.0], [np.nan, 1.0], [-np.inf, 0.2], [-np.inf, -np.inf]])
    fastlr.SGD(r, lr=0.0, constraint=simplex()).step(np.zeros((4, 2)))
    assert np.isnan(r[[0, 1, 3]]).all() and r[2].tolist() == [0, 1]
    small = np.array([[3e-25, 4e-25], [3e25, 4e25], [0.0, 0.0]], np.float32)
    fastlr.SGD(small, lr=0.0, constraint=unit_norm()).step(np.zeros((3, 2), np.float32))
    np.testing.assert_allclose(small, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "value", "constraint", "expected"), [
    (np.float32, 2e-38, unit_norm(norm=10.0), 10.0),        # the factor is beyond float32
    (np.float32, 1e38, max_norm(1.0), 1.0),                 # ... below its normal numbers
    (np.float32, 1e37, max_norm(1e-30), 1e-30),
    (np.float64, 3e-308, unit_norm(norm=1e300), 1e300),
    (np.float64, 1.7e308, unit_norm(norm=10.0), 10.0),      # the norm is beyond float64
    (np.float64, 1.7e308, max_norm(1.7e308), 1.7e308),
    (np.float64, 1.7e308, max_norm(1e-300), 1e-300),
])
def test_factors_and_norms_that_no_number_of_the_dtype_is(dtype, value, constraint, expected):
    p = np.array([[value, 0, -value, value, value], [0, 0, 0, 0, 0]], dtype)
    fastlr.SGD(p, lr=0.0, constraint=constraint).constrain()
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(p[0], np.array([1, 0, -1, 1, 1]) * (expected / 2), rtol=4 * np.finfo(dtype).eps)
    assert p[1].tolist() == [0] * 5


@pytest.mark.parametrize(("dtype", "row", "total", "expected"), [
    (np.float64, [1e308, 1e308, 1e308], 1.0, [1 / 3] * 3),              # sums that overflow
    (np.float64, [1.7e308, 1.7e308, 0.0], 1e300, [5e299, 5e299, 0]),
    (np.float64, [1.7e308, 1.7e308, -1.7e308], 1.7e308, [8.5e307, 8.5e307, 0]),
    (np.float64, [1.7e308] * 5, 1.5e308, [3e307] * 5),
    (np.float64, [1e280] + [0.0] * 1999, 1e308, [5e304] * 2000),
    (np.float32, [3e38] * 40, 3e38, [7.5e36] * 40),
    (np.float32, [1e20] + [0.0] * 1999, 1e38, [5e34] * 2000),
    (np.float32, [1e8, 1e8, 1e8], 1.0, [1 / 3] * 3),                    # 1 is less than a unit in their last place
    (np.float32, [1e8, 1e8 - 8, 1e8], 1.0, [0.5, 0, 0.5]),
    (np.float32, [1e8 - 8, 1e8], 20.0, [6, 14]),
    (np.float64, [1e17, 1e17 - 16, -1e17], 20.0, [18, 2, 0]),
    (np.float32, [-1e8, -1e8, -1e8 - 8], 1.0, [0.5, 0.5, 0]),
    (np.float64, [-1e308, -1e308, -1e308], 1.0, [1 / 3] * 3),
    (np.float64, [3.0], 2.0, [2.0]),
    (np.float64, [1e308], 2.0, [2.0]),
    (np.float64, [-1e308], 2.0, [2.0]),
    (np.float32, [0.0], 2.0, [2.0]),
    (np.float64, [0.0] * 4, 2.0, [0.5] * 4),
    (np.float64, [5e-324] * 4, 2.0, [0.5] * 4),
    (np.float32, [1e-45, 2e-45], 1.0, [0.5, 0.5]),
    (np.float64, [1e-300, 0.0], 1e-290, [5e-291 + 5e-301, 5e-291 - 5e-301]),
    (np.float64, [0.25] * 4, 1.0, [0.25] * 4),
    (np.float64, [-np.inf, 0.2, 0.1], 1.0, [0, 0.55, 0.45]),
])
@pytest.mark.parametrize("long", [False, True])
def test_a_simplex_whose_sum_is_small_or_large_beside_the_elements(dtype, row, total, expected, long):
    p = np.array(row, dtype)
    if long:                                        # (zeros do not count: they are below, or all that is above is)
        p = np.concatenate([p, np.full(3000, -np.inf, dtype)])
    p = np.stack([p, p, p])
    fastlr.SGD(p, lr=0.0, constraint=simplex(total)).constrain()
    tolerance = 4 * np.finfo(dtype).eps
    for one in p:
        np.testing.assert_allclose(np.float64(one[:len(row)]), expected, rtol=tolerance, atol=tolerance * total)
        assert (one[len(row):] == 0).all()
        assert abs(math.fsum(np.float64(one) / total) - 1) <= tolerance


@pytest.mark.parametrize("wrong", [np.inf, np.nan])
@pytest.mark.parametrize("width", [1, 5, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_with_nan_or_infinity_becomes_nan_and_no_other_row(wrong, width, dtype):
    p = np.ones((4, width), dtype)
    p[1, width // 2], p[3] = wrong, -np.inf
    fastlr.SGD(p, lr=0.0, constraint=simplex()).constrain()
    assert np.isnan(p[1::2]).all() and not np.isnan(p[::2]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(300, 64), (40, 1000), (3, 70_000)], ids=str)
def test_after_many_steps_rows_still_have_their_sums_and_norms(dtype, shape):
    """Sums within two units in the last place, and a unit for every hundred elements; norms within two."""
    unit = np.finfo(dtype).eps
    p = {"simplex": np.random.default_rng(0).dirichlet(np.ones(shape[1]), shape[0]).astype(dtype)}
    p |= {name: np.random.default_rng(1).normal(size=shape).astype(dtype) for name in ("unit", "most")}
    opt = fastlr.Adam(p, lr=0.1 / shape[1], constraint={"simplex": simplex(), "unit": unit_norm(), "most": max_norm(2.0)})
    for k in range(5):
        rng = np.random.default_rng(k)
        opt.step({name: rng.normal(size=shape).astype(dtype) for name in p})
        assert (p["simplex"] >= 0).all()
        assert max(abs(math.fsum(row) - 1) for row in np.float64(p["simplex"])) <= 2 * unit
        norms = [math.sqrt(math.fsum(x * x for x in row)) for row in np.float64(p["unit"])]
        assert max(abs(norm - 1) for norm in norms) <= (6 if dtype == np.float32 else 2) * unit
        norms = [math.sqrt(math.fsum(x * x for x in row)) for row in np.float64(p["most"])]
        assert max(norms) <= 2 * (1 + (6 if dtype == np.float32 else 2) * unit)


def test_rows_of_a_table_are_constrained_as_they_move():
    rng = np.random.default_rng(0)
    for constraint in (max_norm(1.0), box(-0.5, 0.5), unit_norm(), simplex()):
        table, plain, rows = rng.normal(size=(50, 8)), None, np.array([3, 7, 3, 20])
        plain, g = table.copy(), rng.normal(size=(4, 8))
        fastlr.SGD({"t": table}, lr=0.1, constraint=constraint).step_rows("t", rows, g)
        fastlr.SGD({"t": plain}, lr=0.1).step_rows("t", rows, g)
        moved = np.unique(rows)
        plain[moved] = projected(plain[moved], constraint)
        np.testing.assert_allclose(table, plain, atol=1e-15)
    opt = fastlr.SGD({"t": table}, constraint=max_norm(1.0), ema_decay=0.9)
    with pytest.raises(ValueError, match="a running mean of a constrained parameter needs whole steps"):
        opt.step_rows("t", rows, g)
    with pytest.raises(ValueError, match="a constraint over more than a row needs whole steps"):
        fastlr.SGD({"t": table}, constraint=max_norm(1.0, axis=None)).step_rows("t", rows, g)


def test_a_parameter_without_a_gradient_stays_and_constrain_brings_all_in():
    p = {"a": np.full(3, 5.0), "b": np.full(3, 5.0)}
    opt = fastlr.SGD(p, lr=1.0, constraint=box(0, 1), shadow="float16")
    opt.step({"a": np.zeros(3), "b": None})
    assert p["a"].tolist() == [1, 1, 1] and p["b"].tolist() == [5, 5, 5]
    opt.constrain()
    assert p["b"].tolist() == [1, 1, 1] and opt.shadow["b"].tolist() == [1, 1, 1] and opt.t == 1


def test_groups_added_later_resume_and_options(tmp_path):
    def made(seed):
        p = normal(seed, {"a": (4, 6), "b": (5, 3)})
        opt = fastlr.Adam({"a": p["a"]}, lr=0.1, constraint=lambda name, array: unit_norm() if name == "a" else box(0, 1))
        opt.add_group({"b": p["b"]})
        return p, opt

    (p, opt), (q, other) = made(0), made(1)
    steps = [[{"a": g["a"]}, {"b": g["b"]}] for g in (normal(k, {"a": (4, 6), "b": (5, 3)}) for k in range(5))]
    for g in steps[:3]:
        opt.step(g)
    fastlr.save(tmp_path / "run", opt)
    fastlr.load(tmp_path / "run", other)
    for g in steps[3:]:
        opt.step(g)
        other.step(g)
    assert [x.tobytes() for x in p.values()] == [x.tobytes() for x in q.values()]
    free = fastlr.Adam([{"params": {"a": p["a"]}}, {"params": {"b": p["b"]}}])
    with pytest.raises(fastlr.CheckpointError, match="saved with constraint = "):
        fastlr.load(tmp_path / "run", free)


@pytest.mark.parametrize("wrapper", [lambda opt: fastlr.Lookahead(opt, k=2), fastlr.GradientCentralization])
def test_wrappers(wrapper):
    p = normal(0, {"w": (4, 6)})
    opt = wrapper(fastlr.SGD(p, lr=0.5, constraint=box(-0.25, 0.25)))
    for k in range(4):
        opt.step(normal(k, {"w": (4, 6)}))
        assert np.abs(p["w"]).max() <= (0.25 if isinstance(opt, fastlr.GradientCentralization) or k % 2 == 0 else 3)


def test_it_is_as_optax_keeps_parameters_nonnegative():
    """optax.keep_params_nonnegative: where p + u < 0, u = -p."""
    p = np.abs(np.random.default_rng(0).normal(size=100))
    q = p.copy()
    opt = fastlr.SGD(p, lr=0.7, constraint=nonnegative())
    for k in range(5):
        g = np.random.default_rng(k).normal(size=100)
        opt.step(g)
        u = -0.7 * g
        q = q + np.where(q + u < 0, -q, u)
        assert p.tobytes() == q.tobytes()


@pytest.mark.parametrize(("make", "error", "reason"), [
    (lambda: box(1, 0), ValueError, "box: low must be at most high, got 1.0 and 0.0"),
    (lambda: box("a"), TypeError, "box: low must be a number, got 'a'"),
    (lambda: box(float("nan")), ValueError, "box: low must not be NaN"),
    (lambda: box(np.inf), ValueError, "a finite number must lie between"),
    (lambda: max_norm(0), ValueError, "max_norm: limit must be positive and finite, got 0.0"),
    (lambda: unit_norm(axis=1), ValueError, "unit_norm: axis must be 0 .rows. or None"),
    (lambda: simplex(-1), ValueError, "simplex: total must be positive"),
    (lambda: fastlr.SGD(np.zeros(1), constraint="nonneg"), TypeError, "SGD: constraint of '0': must be one of fastlr.constr"),
    (lambda: fastlr.SGD({"w": np.zeros(1)}, constraint={"v": box(0)}), ValueError, "constraint names no parameter: 'v'"),
    (lambda: fastlr.SGD(np.zeros(4, np.float16), constraint=simplex()), ValueError,
     "simplex needs float32 or float64, as norms and sums of float16 are only rough"),
    (lambda: fastlr.SGD(np.zeros(4, np.float32), constraint=unit_norm(norm=1e39)), ValueError,
     "unit_norm.axis=0, norm=1e.39. is beyond float32"),
    (lambda: fastlr.SGD(np.zeros(4, np.float32), constraint=simplex(1e-38)), ValueError,
     "simplex.1e-38, axis=0. is below the normal numbers of float32, from 1.17549e-38 on, which steps take for 0"),
    (lambda: fastlr.SGD(np.zeros(4), constraint=unit_norm(norm=1e-310)), ValueError, "below the normal numbers of float64"),
    (lambda: fastlr.SGD(np.zeros(4, np.uint16), dtype="bfloat16", constraint=box(1.001, 1.002)), ValueError,
     r"no bfloat16 lies in \[1.001, 1.002\]"),
    (lambda: fastlr.SGD(np.zeros(4, np.float16), constraint=box(1e6, 2e6)), ValueError, "no float16 lies in"),
])
def test_what_a_dtype_cannot_hold_is_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()
