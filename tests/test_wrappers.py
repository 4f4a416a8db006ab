"""Wrappers and means of weights: their formulas, whatever holds the parameters; resuming, refusing, undoing."""
import copy

import ml_dtypes
import numpy as np
import pytest
from registry import arrays, bits, every_optimizer

import fastlr
from fastlr._engine.foreach import foreach
from fastlr.optimizers.resumable import flattened

SHAPES = ((3, 4), (5,), (), (2, 3, 2), (0,))
RNG = np.random.default_rng(0)


def forms(dtype=np.float64):
    """The same numbers in every form and layout, with the structure that gradients then have."""
    values = arrays(dtype, SHAPES)
    names = "abcde"
    yield "sequence", [v.copy() for v in values], list
    yield "mapping", dict(zip(names, (v.copy() for v in values), strict=True)), lambda g: dict(zip(names, g, strict=True))
    yield "groups", [{"params": [v.copy() for v in values[:2]]}, {"params": {n: v.copy() for n, v in zip(names[2:], values[2:], strict=True)}}], \
        lambda g: [g[:2], dict(zip(names[2:], g[2:], strict=True))]
    yield "Fortran order", [np.array(v, order="F") for v in values], list
    strided = [np.zeros([2 * n for n in v.shape], dtype)[(..., *(slice(None, None, 2) for _ in v.shape))] for v in values]
    for s, v in zip(strided, values, strict=True):
        s[...] = v
    yield "strided", strided, list


every_form = pytest.mark.parametrize("form", ["sequence", "mapping", "groups", "Fortran order", "strided"])


def of_form(form, dtype=np.float64):
    return next((params, shape) for name, params, shape in forms(dtype) if name == form)


def listed(params):
    if isinstance(params, dict):
        return list(params.values())
    return [p for part in params for p in (listed(part["params"]) if isinstance(part, dict) else [part])]


def gradients(step, dtype=np.float64):
    return arrays(dtype, SHAPES, seed=100 + step)


# Lookahead

@every_form
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lookahead_is_its_formula(form, dtype):
    params, shape = of_form(form, dtype)
    opt = fastlr.Lookahead(fastlr.Adam(params, lr=0.1), k=3, alpha=dtype(0.3))
    ours = listed(params)
    fast = [p.copy() for p in ours]
    plain = fastlr.Adam(fast, lr=0.1)
    slow = [p.copy() for p in ours]
    for step in range(8):
        opt.step(shape(gradients(step, dtype)))
        plain.step(gradients(step, dtype))
        if step % 3 == 2:
            for k, (s, f) in enumerate(zip(slow, fast, strict=True)):
                slow[k] = np.asarray(s + dtype(0.3) * (f - s), dtype)
                f[...] = slow[k]
        assert bits(ours) == bits(fast)
    assert bits(opt.slow.values()) == bits(slow)
    assert opt.t == 8


def test_lookahead_does_not_count_a_step_that_was_skipped():
    p = np.ones(2)
    opt = fastlr.Lookahead(fastlr.SGD(p, lr=1.0, nonfinite="skip"), k=2, alpha=0.5)
    opt.step(np.ones(2))
    opt.step(np.full(2, np.nan))
    assert p.tolist() == [0, 0]
    opt.step(np.ones(2))
    assert p.tolist() == [0, 0] and opt.skipped == 1       # halfway from 1 to -1


def test_lookahead_goes_around_lbfgs_too():
    p = np.ones(2)
    opt = fastlr.Lookahead(fastlr.LBFGS(p), k=1, alpha=0.5)
    opt.step(lambda: (float(p @ p), 2 * p))
    assert np.abs(p - 0.5).max() < 1e-6


# SAM

@every_form
@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_is_its_formula_and_returns_to_the_bit(form, adaptive):
    """To 4 ulp of the step: the norm is a sum of 29 squares."""
    params, shape = of_form(form)
    ours = listed(params)
    sam = fastlr.SAM(fastlr.Momentum(params, lr=0.1), rho=0.3, adaptive=adaptive, eta=0.01 * adaptive)
    there = [p.copy() for p in ours]
    plain = fastlr.Momentum(there, lr=0.1)
    for step in range(3):
        before, g = [p.copy() for p in ours], gradients(step)
        sizes = [np.abs(p) + 0.01 if adaptive else np.ones_like(p) for p in before]
        norm = np.sqrt(sum(((t * x) ** 2).sum() for t, x in zip(sizes, g, strict=True)))
        sam.ascend(shape(g))
        assert sam.ascended
        for p, b, t, x in zip(ours, before, sizes, g, strict=True):
            assert np.allclose(p - b, 0.3 * t**2 * x / (norm + 1e-12), rtol=1e-13, atol=1e-15)
        sam.retreat()
        assert bits(ours) == bits(before) and not sam.ascended
        sam.ascend(shape(g))
        second = gradients(50 + step)
        sam.step(shape(second))
        plain.step(second)
        assert bits(ours) == bits(there)


def test_sam_leaves_a_tensor_without_a_gradient():
    p, q = np.ones(2), np.ones(2)
    sam = fastlr.SAM(fastlr.SGD([p, q], lr=1.0), rho=1.0)
    sam.ascend([np.array([3.0, 4.0]), None])
    assert np.allclose(p, [1.6, 1.8]) and (q == 1).all()
    sam.step([None, np.ones(2)])
    assert (p == 1).all() and (q == 0).all()


def test_sam_whose_step_is_refused_stays_uphill():
    p = np.ones(2)
    sam = fastlr.SAM(fastlr.SGD(p, lr=1.0, nonfinite="raise"))
    sam.ascend(np.ones(2))
    uphill = p.copy()
    for bad, error in ((np.ones(3), ValueError), (np.full(2, np.nan), FloatingPointError), (None, TypeError)):
        with pytest.raises(error):
            sam.step(bad)
        assert (p == uphill).all() and sam.ascended and sam.t == 0
    sam.retreat()
    assert (p == 1).all()


def test_sam_goes_nowhere_good_from_a_gradient_that_is_not_finite_and_returns():
    p = np.ones(2, np.float32)
    sam = fastlr.SAM(fastlr.SGD(p, lr=1.0, nonfinite="skip"))
    sam.ascend(np.array([np.nan, 1], np.float32))
    sam.step(np.array([np.nan, 1], np.float32))
    assert (p == 1).all() and sam.skipped == 1


def test_sam_says_what_to_call_first(tmp_path):
    p = np.ones(2)
    sam = fastlr.SAM(fastlr.SGD(p))
    with pytest.raises(RuntimeError, match=r"call ascend\(grads\) first"):
        sam.step(np.ones(2))
    sam.ascend(np.ones(2))
    with pytest.raises(RuntimeError, match=r"perturbed already; call step\(grads\) or retreat\(\) first"):
        sam.ascend(np.ones(2))
    for act in (sam.state_dict, lambda: fastlr.save(tmp_path / "x", sam), lambda: sam.load_state_dict({})):
        with pytest.raises(RuntimeError, match=r"^SAM\.\w+: the parameters are perturbed"):
            act()
    assert not (tmp_path / "x").exists()


# Accumulation

@every_form
@pytest.mark.parametrize("counts", [(4, 4, 4), (1, 7, 4), (5, 0.5, 6.5)])
def test_accumulated_parts_are_one_big_batch(form, counts):
    """To 2 ulp a part of the largest term."""
    params, shape = of_form(form)
    ours = listed(params)
    acc = fastlr.GradientAccumulation(fastlr.SGD(params, lr=1.0), k=3)
    before = [p.copy() for p in ours]
    parts = [gradients(k) for k in range(3)]
    assert [acc.add(shape(g), n) for g, n in zip(parts, counts, strict=True)] == [False, False, True]
    for k, p in enumerate(ours):
        mean = sum(np.longdouble(n) * g[k] for g, n in zip(parts, counts, strict=True)) / sum(counts)
        largest = max(abs(g[k]).max(initial=0) for g in parts) + abs(before[k]).max(initial=0)
        assert (abs(p - (before[k] - mean)) <= 6 * np.spacing(largest)).all()
    assert (acc.t, acc.batches, acc.count) == (1, 0, 0)


def test_schedules_count_updates_and_not_batches():
    p = np.zeros(1)
    seen = []
    acc = fastlr.GradientAccumulation(fastlr.SGD(p, lr=lambda t: seen.append(t) or 1.0), k=2)
    for _ in range(6):
        acc.add(np.ones(1))
    assert seen == [0, 1, 2] and p[0] == -3


def test_none_is_zero_in_one_batch_and_skips_the_tensor_in_all():
    p, q, r = (np.zeros(1) for _ in range(3))
    acc = fastlr.GradientAccumulation(fastlr.Momentum([p, q, r], lr=1.0), k=2)
    for _ in range(2):                       # (what the first round left in the sums is gone in the second)
        acc.add([np.full(1, 8.0), np.full(1, 2.0), None])
        acc.add([np.full(1, 8.0), None, None])
        acc.inner.lr = 0.0
    assert (p[0], q[0], r[0]) == (-8, -1, 0)
    assert acc.state["2"]["m"][0] == 0 and acc.inner._plan.read_skipped_steps() == [0, 0, 2]


def test_without_k_the_caller_steps_or_drops():
    p = np.zeros(1)
    acc = fastlr.GradientAccumulation(fastlr.SGD(p, lr=1.0))
    with pytest.raises(RuntimeError, match=r"nothing was added since the latest step; call add\(grads\) first"):
        acc.step()
    acc.add(np.ones(1))
    acc.reset()
    acc.add(np.full(1, 3.0), 2)
    acc.step()
    assert p[0] == -3


def test_a_step_that_raises_keeps_what_was_added():
    p = np.zeros(1)
    acc = fastlr.GradientAccumulation(fastlr.SGD(p, lr=1.0, nonfinite="raise"), k=1)
    with pytest.raises(FloatingPointError):
        acc.add(np.full(1, np.nan))
    assert (acc.batches, p[0], acc.t) == (1, 0, 0)
    with pytest.raises(ValueError, match=r"grads: expected float64 \(1,\) like the parameter, got float64 \(2,\)"):
        acc.add(np.ones(2))
    assert acc.batches == 1


# Centralisation

@every_form
@pytest.mark.parametrize(("min_dims", "axis"), [(2, 0), (2, -1), (3, 1)])
def test_centralised_gradients_have_rows_of_mean_zero(form, min_dims, axis):
    params, shape = of_form(form)
    ours = listed(params)
    before = [p.copy() for p in ours]
    opt = fastlr.GradientCentralization(fastlr.SGD(params, lr=1.0), min_dims=min_dims, axis=axis)
    for _ in range(2):                 # (the second time in the memory of the first)
        for p, b in zip(ours, before, strict=True):
            p[...] = b
        g = gradients(0)
        kept = bits(g)
        opt.step(shape(g), grad_scale=0.5)
        assert bits(g) == kept
        for p, b, x in zip(ours, before, g, strict=True):
            if x.ndim >= min_dims:
                x = x - x.mean(tuple(a for a in range(x.ndim) if a != axis % x.ndim), keepdims=True)
            assert np.allclose(p, b - 2 * x, rtol=0, atol=8 * np.spacing(10.0))


# Means

def test_ema_is_its_formula_with_and_without_warmup():
    for warmup in (True, False):
        p = arrays(np.float64, SHAPES)
        ema = fastlr.EMA(p, decay=0.5, warmup=warmup)
        mean = [x.copy() for x in p]
        for t in range(12):
            for k, x in enumerate(p):
                x += gradients(t)[k]
                d = min(0.5, (1 + t) / (10 + t)) if warmup else 0.5
                mean[k] = d * mean[k] + (1 - d) * x
            ema.update()
            assert all(np.allclose(m, e, rtol=1e-14) for m, e in zip(mean, ema.params.values(), strict=True))
        assert ema.t == 12


@pytest.mark.parametrize(("start", "every"), [(0, 1), (2, 3), (5, 2)])
def test_swa_is_the_mean_of_those_that_count(start, every):
    p = arrays(np.float64, SHAPES)
    swa = fastlr.SWA(p, start=start, every=every)
    taken = []
    for t in range(12):
        for x, g in zip(p, gradients(t), strict=True):
            x += g
        due = t >= start and (t - start) % every == 0
        if due:
            taken.append([x.copy() for x in p])
        if not taken:
            with pytest.raises(RuntimeError, match="no update counted yet"):
                _ = swa.params
        assert swa.update() is due
        if len(taken) == 1 and due:
            assert bits(swa.params.values()) == bits(p)
    for k, mean in enumerate(swa.params.values()):
        assert np.allclose(mean, np.mean([x[k] for x in taken], axis=0), rtol=1e-13, atol=1e-15)
    assert swa.averaged == len(taken)


@every_form
def test_means_are_swapped_in_and_out_also_after_an_exception(form):
    params, _ = of_form(form)
    opt = fastlr.SGD(params)
    ema = fastlr.EMA(opt, decay=0.5)
    ours = listed(params)
    for p in ours:
        p += 1
    ema.update()
    before, means = bits(ours), bits(ema.params.values())
    with pytest.raises(KeyError), ema.swapped():
        assert bits(ours) == means != before
        for act in (ema.update, ema.state_dict, ema.swapped().__enter__):
            with pytest.raises(RuntimeError, match=r"^EMA\.\w+: the parameters hold the means"):
                act()
        for p in ours:
            p[...] = 7
        raise KeyError
    assert bits(ours) == before and bits(ema.params.values()) == means
    ema.update()


def test_means_cannot_be_written_to_and_are_by_the_optimizers_names():
    opt = fastlr.SGD({"w": np.ones(2)})
    ema = fastlr.EMA(opt)
    with pytest.raises(ValueError, match="read-only"):
        ema.params["w"][0] = 1
    opt.add_group({"b": np.ones(1)})
    with pytest.raises(RuntimeError, match="make a new EMA after add_group"):
        ema.update()


# 16 bits

SIXTEEN = {"float16": np.float16, "ml_dtypes": ml_dtypes.bfloat16, "uint16": np.uint16}


def sixteen(kind, values):
    """Values as 16-bit parameters, and how to read them."""
    if kind == "uint16":
        p = values.astype(ml_dtypes.bfloat16).view(np.uint16)
        return p, {"dtype": "bfloat16"}, lambda: p.view(ml_dtypes.bfloat16).astype(np.float32)
    p = values.astype(SIXTEEN[kind])
    return p, {}, lambda: p.astype(np.float32)


@pytest.mark.parametrize("kind", SIXTEEN)
def test_16_bit_parameters_are_rounded_to_nearest(kind):
    narrow = np.float16 if kind == "float16" else ml_dtypes.bfloat16
    start = RNG.normal(size=40).astype(np.float32)
    g = RNG.normal(size=40).astype(np.float32)
    p, keywords, read = sixteen(kind, start)
    first = read()
    sam = fastlr.SAM(fastlr.SGD(p, lr=0.5, **keywords), rho=0.1)
    sam.ascend(g)
    scale = np.float32(0.1 / (np.sqrt((g.astype(np.float64) ** 2).sum()) + 1e-12))
    assert (read() == (first + scale * g).astype(narrow).astype(np.float32)).all()
    sam.retreat()
    assert (read() == first).all()
    opt = fastlr.Lookahead(fastlr.SGD(p, lr=0.5, **keywords), k=1, alpha=0.3)
    ema = fastlr.EMA(opt, decay=0.75, warmup=False)
    opt.step(g)
    fast = (first - np.float32(0.5) * g).astype(narrow).astype(np.float32)
    slow = first + np.float32(0.3) * (fast - first)
    assert opt.slow["0"].dtype == np.float32 and (opt.slow["0"] == slow).all()
    now = slow.astype(narrow).astype(np.float32)
    assert (read() == now).all()
    ema.update()
    mean = first + np.float32(0.25) * (now - first)
    assert (ema.params["0"] == mean).all()
    with ema.swapped():
        assert (read() == mean.astype(narrow).astype(np.float32)).all()
    assert (read() == now).all()


def test_copies_in_16_bits_follow():
    """What the forward pass reads is the shadow."""
    p = np.ones(8, np.float32)
    shadow = np.zeros(8, np.uint16)
    opt = fastlr.SGD(p, lr=0.5, shadow=[shadow])
    sam = fastlr.SAM(opt, rho=1.0)

    def copied():
        return shadow.view(ml_dtypes.bfloat16).astype(np.float32)

    def narrowed():
        return p.astype(ml_dtypes.bfloat16).astype(np.float32)

    sam.ascend(np.ones(8, np.float32))
    assert (copied() == narrowed()).all() and (p > 1).all()
    sam.retreat()
    assert (copied() == narrowed()).all()
    ema = fastlr.EMA(opt)
    p += 1
    opt.cast()
    with ema.swapped():
        assert (copied() == 1).all()
    assert (copied() == 2).all()
    look = fastlr.Lookahead(opt, k=1)
    look.step(np.ones(8, np.float32))
    assert (copied() == narrowed()).all()


# Resuming

def wrapped(kind, params):
    adam = fastlr.Adam(params, lr=fastlr.schedules.cosine(0.1, steps=9))
    return {
        "Lookahead": lambda: fastlr.Lookahead(adam, k=3, alpha=0.25),
        "SAM": lambda: fastlr.SAM(adam, rho=0.2, adaptive=True),
        "GradientAccumulation": lambda: fastlr.GradientAccumulation(adam, k=3),
        "GradientCentralization": lambda: fastlr.GradientCentralization(adam),
        "three": lambda: fastlr.GradientAccumulation(fastlr.Lookahead(fastlr.GradientCentralization(adam), k=2), k=2),
        "EMA": lambda: fastlr.EMA(adam, decay=0.8),
        "SWA": lambda: fastlr.SWA(adam, start=2, every=2),
    }[kind]()


WRAPPED = ["Lookahead", "SAM", "GradientAccumulation", "GradientCentralization", "three", "EMA", "SWA"]


def advance(kind, wrapper, params, step):
    g = gradients(step)
    if kind == "SAM":
        wrapper.ascend(g)
        wrapper.step(gradients(60 + step))
    elif kind in ("GradientAccumulation", "three"):
        wrapper.add(g, count=1 + step % 3)
    elif kind in ("EMA", "SWA"):
        for p, x in zip(params, g, strict=True):
            p += x
        wrapper.update()
    else:
        wrapper.step(g)


@pytest.mark.parametrize("through", ["state_dict", "file"])
@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_resumed_is_uninterrupted_bit_for_bit(kind, k, through, tmp_path):
    ours = arrays(np.float64, SHAPES)
    whole = wrapped(kind, ours)
    for step in range(9):
        advance(kind, whole, ours, step)

    first = arrays(np.float64, SHAPES)
    begun = wrapped(kind, first)
    for step in range(k):
        advance(kind, begun, first, step)
    second = arrays(np.float64, SHAPES, seed=9)
    resumed = wrapped(kind, second)
    for step in range(2):
        advance(kind, resumed, second, 30 + step)
    if through == "file":
        fastlr.save(tmp_path / "x", begun)
        fastlr.load(tmp_path / "x", resumed)
    else:
        d = begun.state_dict()
        for p, q in zip(second, first, strict=True):
            p[...] = q
        advance(kind, begun, first, 77)            # (what was saved are copies)
        resumed.load_state_dict(d)
    for step in range(k, 9):
        advance(kind, resumed, second, step)
    assert bits(second) == bits(ours)
    assert repr(resumed) == repr(whole)
    assert bits([a for slots in resumed._arrays().values() for a in slots.values()]) == \
        bits([a for slots in whole._arrays().values() for a in slots.values()])


STATES = {
    "Lookahead": ({"k": 0}, "k must be an integer >= 1, got 0"),
    "SAM": ({"rho": "x"}, "rho must be positive"),
    "GradientAccumulation": ({"given": ["z"]}, "given must list names of parameters"),
    "GradientCentralization": ({"axis": 1}, "expected min_dims=2 and axis=0"),
    "EMA": ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
    "SWA": ({"averaged": 9}, "averaged must be at most t, got 9 of 2"),
    "three": ({"inner": {"optimizer": "SGD"}}, "this is the state of SGD"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(kind, tmp_path):
    params = arrays(np.float64, SHAPES)
    wrapper = wrapped(kind, params)
    for step in range(2):
        advance(kind, wrapper, params, step)
    before = wrapper.state_dict()
    changes, message = STATES[kind]
    for bad, why in ((changes, message), ({"format": 2}, "expected format 1"), ({"optimizer": "Adam"}, "of Adam"),
                     ({"state": {"zz": {}}}, "entry")):
        d = copy.deepcopy(before)
        for array in (a for slots in d["state"].values() for a in slots.values()):
            array[...] = 5
        with pytest.raises((ValueError, TypeError), match=why):
            wrapper.load_state_dict(d | bad)
        assert repr(wrapper.state_dict()) == repr(before)
    if wrapper.inner is not None:      # what is inside is refused before what is around it changes
        d = copy.deepcopy(before)
        d["inner"]["optimizer"] = "Nobody"
        with pytest.raises(ValueError, match="this is the state of Nobody"):
            wrapper.load_state_dict(d)
        assert repr(wrapper.state_dict()) == repr(before)
        fastlr.save(tmp_path / "x", wrapper.inner)
        with pytest.raises(fastlr.CheckpointError, match="this is the state of"):
            fastlr.load(tmp_path / "x", wrapper)
        fastlr.save(tmp_path / "x", wrapper)
        with pytest.raises(fastlr.CheckpointError, match="this is the state of"):
            fastlr.load(tmp_path / "x", wrapper.inner)
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(wrapper)


# What is passed through

@every_optimizer
def test_every_optimizer_can_be_wrapped(cls):
    p, q = arrays(np.float64, SHAPES[:2]), arrays(np.float64, SHAPES[:2])
    opt = fastlr.GradientAccumulation(fastlr.Lookahead(cls(p), k=100), k=1)
    plain = cls(q)
    for step in range(3):
        opt.add(gradients(step)[:2])
        plain.step(gradients(step)[:2])
    assert bits(p) == bits(q)


def test_what_a_wrapper_has_not_is_the_optimizers():
    p = np.ones(2)
    adam = fastlr.Adam([p], lr=0.1)
    opt = fastlr.GradientCentralization(fastlr.Lookahead(adam))
    opt.lr = 0.5
    opt.groups[0].beta1 = 0.8
    opt.k = 9
    assert (adam.lr, opt.beta1, opt.inner.k, opt.t, opt.skipped) == (0.5, 0.8, 9, 0, 0)
    assert opt.state is adam.state and "slow" in dir(opt) and "step" in dir(opt)
    assert repr(opt) == f"GradientCentralization(Lookahead(k=9, alpha=0.5, {adam!r}))"
    for name in ("moment", "_plan"):
        with pytest.raises(AttributeError, match=rf"has no (attribute )?'{name}'"):
            getattr(opt, name)
    with pytest.raises(AttributeError, match="GradientCentralization has no 'rate'|Lookahead has no 'rate'"):
        opt.rate = 1
    opt.add_group([np.ones(3)])
    assert opt.slow["1"].tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="updates whole tensors, not rows"):
        opt.step_rows("0", [0], np.ones((1, 2)))


OPT = fastlr.SGD(np.ones((2, 2)))
ERRORS = {
    "array": (lambda: fastlr.Lookahead(np.ones(2)), TypeError, "Lookahead: needs a fastlr optimizer that steps with gr"),
    "lbfgs": (lambda: fastlr.SAM(fastlr.LBFGS(np.ones(2))), TypeError, "SAM: needs a fastlr optimizer"),
    "sam": (lambda: fastlr.Lookahead(fastlr.SAM(OPT)), TypeError, "SAM must be the outermost"),
    "master": (lambda: fastlr.Lookahead(fastlr.SGD(np.ones(2, ml_dtypes.bfloat16), master="split")), ValueError,
               "master='split' keeps half of each weight"),
    "k": (lambda: fastlr.Lookahead(OPT, k=0), ValueError, "Lookahead: k must be an integer >= 1, got 0"),
    "alpha": (lambda: fastlr.Lookahead(OPT, alpha=1.5), ValueError, r"alpha must be in \(0, 1\], got 1.5"),
    "rho": (lambda: fastlr.SAM(OPT, rho=0.0), ValueError, "SAM: rho must be positive and finite, got 0.0"),
    "rho text": (lambda: fastlr.SAM(OPT, rho="x"), TypeError, "SAM: rho must be positive and finite, got 'x'"),
    "eta": (lambda: fastlr.SAM(OPT, eta=-1.0), ValueError, "eta must be finite and >= 0, got -1.0"),
    "count": (lambda: fastlr.GradientAccumulation(OPT).add(np.ones((2, 2)), 0), ValueError, "count must be positive"),
    "grads": (lambda: fastlr.GradientAccumulation(OPT).add(None), TypeError, "needs the gradients as an argument"),
    "zero": (lambda: fastlr.GradientCentralization(OPT).step(np.ones((2, 2)), zero_grads=True), ValueError, "zero the gr"),
    "axis": (lambda: fastlr.GradientCentralization(OPT, axis=2), ValueError, "axis 2 is none of the 2 axes of '0'"),
    "axis text": (lambda: fastlr.GradientCentralization(OPT, axis="in"), TypeError, "axis must be an integer, got 'in'"),
    "min_dims": (lambda: fastlr.GradientCentralization(OPT, min_dims=1), ValueError, "min_dims must be an integer >= 2"),
    "decay": (lambda: fastlr.EMA(OPT, decay=1.0), ValueError, r"EMA: decay must be in \[0, 1\), got 1.0"),
    "start": (lambda: fastlr.SWA(OPT, start=-1), ValueError, "SWA: start must be an integer >= 0, got -1"),
    "every": (lambda: fastlr.SWA(OPT, every=0), ValueError, "SWA: every must be an integer >= 1, got 0"),
    "groups": (lambda: fastlr.EMA([{"params": np.ones(2)}]), TypeError, "EMA: takes parameters, not groups"),
    "dtype": (lambda: fastlr.EMA(OPT, dtype="bfloat16"), TypeError, "leave dtype out"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_say_what_must_hold(what):
    make, error, message = ERRORS[what]
    with pytest.raises(error, match=message):
        make()


# The pass

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operation", ["copy", "scale", "add_scaled", "lerp", "lerp_both", "swap", "ascend", "sum_squares", "center_rows"])
def test_a_pass_has_the_same_bits_for_any_threads_and_is_its_formula(operation, dtype):
    sizes = (100_003, 7, 32_768 * 2, 0, 1)
    results = []
    for threads in (1, 2, 5):
        fastlr.set_num_threads(threads)
        a, b, c = (arrays(dtype, [(n,) for n in sizes], seed) for seed in (1, 2, 3))
        columns = [1009 if n == 100_003 else max(n, 1) for n in sizes]
        if operation == "center_rows":
            a, b = [x[:len(x) // m * m] for x, m in zip(a, columns, strict=True)], [x[:len(x) // m * m] for x, m in zip(b, columns, strict=True)]
        total = foreach(operation, a, b, c, weight=0.3, eta=0.1, adaptive=True, columns=columns)
        results.append((bits(a), bits(b), bits(c), total))
    assert results[0] == results[1] == results[2]
    w, e, x, y = dtype(0.3), dtype(0.1), arrays(dtype, [(n,) for n in sizes], 1)[0], arrays(dtype, [(n,) for n in sizes], 2)[0]
    if operation == "sum_squares":
        expected = sum(((abs(p.astype(float)) + 0.1) ** 2 * q.astype(float) ** 2).sum() for p, q in zip(a, b, strict=True))
        assert total == pytest.approx(expected, rel=1e-13)
    elif operation == "center_rows":
        rows = y[:len(a[0])].reshape(-1, 1009)
        assert np.allclose(a[0].reshape(-1, 1009), rows - rows.mean(1, dtype=float, keepdims=True), atol=4 * np.finfo(dtype).eps)
    else:
        expected = {"lerp": x + w * (y - x), "lerp_both": x + w * (y - x), "scale": w * y, "add_scaled": x + w * y, "swap": y,
                    "copy": y, "ascend": x + w * ((abs(x) + e) * (abs(x) + e) * y)}[operation]
        assert (a[0] == expected).all()
        assert (b[0] == {"lerp_both": expected, "swap": x}.get(operation, y)).all()
        assert operation != "ascend" or (c[0] == x).all()


def test_flattened_copies_only_what_it_must():
    x = np.zeros((4, 6), np.float32)
    assert np.shares_memory(flattened(x), x)
    for other in (x.T, x[::2], x.astype(np.float16), np.zeros(25, "u1")[1:].view(np.float32)):
        assert not np.shares_memory(flattened(other), other) and flattened(other).dtype == np.float32
