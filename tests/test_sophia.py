"""Sophia: what estimates of the curvature do, how they are stored, staged and refused."""
import numpy as np
import pytest
import reference
from problems import PROBLEMS
from registry import arrays, bits, snapshot

import fastlr

# (the registry lets it step without, for tests that are of all optimizers)
REAL = {name: getattr(fastlr.Sophia, name).__wrapped__ for name in ("step", "step_rows")}


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    for name, real in REAL.items():
        monkeypatch.setattr(fastlr.Sophia, name, real)


SHAPES = [(5,), (2, 3), (), (70, 130), (40_000,)]
HYPER = {"lr": 0.03, "beta1": 0.8, "beta2": 0.9, "rho": 0.4, "eps": 0.03, "weight_decay": 0.1}


def estimates(shapes, t, dtype=np.float64):
    """Of both signs, as Hutchinson's are."""
    return [1 + 3 * h for h in arrays(dtype, shapes, seed=500 + t)]


def paper(theta, m, h, g, estimate, convention, t):
    """Algorithm 3, and what the others do otherwise."""
    o = dict(HYPER)
    theta = theta - o["lr"] * o.pop("weight_decay") * theta
    h = h if estimate is None else o["beta2"] * h + (1 - o["beta2"]) * estimate
    if convention == "paper":
        return reference.Sophia(theta, g, t, m, h, **o)
    m = o["beta1"] * m + (1 - o["beta1"]) * g
    if convention == "authors":
        ratio = np.minimum(np.abs(m) / (o["rho"] * np.maximum(h, 0) + o["eps"]), 1)
        return theta - o["lr"] * np.sign(m) * ratio, m, h
    u = m / (1 - o["beta1"] ** t) / np.maximum(o["rho"] * h, o["eps"])
    return theta - o["lr"] * np.clip(u, -1, 1), m, h


@pytest.mark.parametrize("convention", fastlr.Sophia.conventions)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_estimates_move_h_before_the_step_and_else_it_stays(convention, dtype):
    params = arrays(dtype, SHAPES)
    wanted = [(p.astype(np.float64), 0 * p.astype(np.float64), 0 * p.astype(np.float64)) for p in params]
    opt = fastlr.Sophia(params, convention=convention, **HYPER)
    for t in range(1, 12):
        grads = arrays(dtype, SHAPES, seed=t)
        given = estimates(SHAPES, t, dtype) if t % 3 == 1 else [None] * len(SHAPES)
        opt.step(grads, curvature=given if t % 3 == 1 else None)
        wanted = [paper(*want, g.astype(np.float64), None if e is None else e.astype(np.float64), convention, t)
                  for want, g, e in zip(wanted, grads, given, strict=True)]
    # (roundings of 11 steps; where a ratio crosses 1, of that ratio)
    for k, (p, want) in enumerate(zip(params, wanted, strict=True)):
        for got, exact in zip((p, opt.state[str(k)]["m"], opt.state[str(k)]["h"]), want, strict=True):
            assert np.abs(got - exact).max() <= 100 * np.finfo(dtype).eps * max(1, np.abs(exact).max())


def test_an_estimate_may_be_of_some_parameters():
    a, b, ga, gb = arrays(np.float64, [(4,), (3, 2)] * 2)
    opt = fastlr.Sophia({"a": a, "b": b}, beta2=0.5)
    grads = {"a": ga, "b": gb}
    opt.step(grads, curvature={"a": np.ones(4), "b": np.ones((3, 2))})
    opt.step(grads, curvature={"a": None, "b": np.full((3, 2), 5.0)})
    assert (opt.state["a"]["h"] == 0.5).all()
    assert (opt.state["b"]["h"] == 2.75).all()
    opt.step({"a": None, "b": gb}, curvature={"a": np.ones(4), "b": None})      # (not of one that has no gradient)
    assert (opt.state["a"]["h"] == 0.5).all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("laid", [np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: np.repeat(a, 2, axis=0)[::2]])
def test_no_bit_depends_on_threads_or_on_the_layout_of_estimates(threads, laid):
    shape = (300, 170)
    p, g = arrays(np.float32, [shape] * 2)
    q, = [laid(p.copy())]
    one, two = fastlr.Sophia([p], **HYPER), fastlr.Sophia([q], **HYPER)
    before = fastlr.get_num_threads()
    for t in range(3):
        e, = estimates([shape], t, np.float32)
        fastlr.set_num_threads(1)
        one.step([g], curvature=[e])
        fastlr.set_num_threads(threads)
        two.step([g], curvature=[laid(e)])
    fastlr.set_num_threads(before)
    assert bits([p, *one.state["0"].values()]) == bits([q, *two.state["0"].values()])


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_h_stays_as_it_is_stored_until_the_next_estimate(stored, rounding):
    p, g = arrays(np.float32, [(8000,)] * 2)
    opt = fastlr.Sophia([p], state_dtype=stored, rounding=rounding)
    opt.step([g], curvature=[estimates([(8000,)], 0, np.float32)[0]])
    before = bits([array for name, array in opt.state["0"].items() if name[0] == "h"])
    for _ in range(30):
        opt.step([g])
    assert bits([array for name, array in opt.state["0"].items() if name[0] == "h"]) == before


def test_estimates_are_neither_scaled_nor_clipped_nor_decayed():
    p, g, e = np.ones(4), np.ones(4), np.full(4, 8.0)
    opt = fastlr.Sophia(p, beta2=0.5, decay="coupled", weight_decay=0.5, clip_value=0.1, clip_norm=0.1, maximize=True)
    opt.step(g, grad_scale=4.0, curvature=e)
    assert (opt.state["0"]["h"] == 4).all()
    assert (e == 8).all()


def test_16_bit_parameters_take_float32_estimates():
    p = np.ones(6, np.float16)
    opt = fastlr.Sophia(p, beta2=0.5)
    opt.step(np.ones(6, np.float16), curvature=np.full(6, 3.0, np.float32))
    assert (opt.state["0"]["h"] == 1.5).all()


# Refused

def test_the_first_gradient_needs_an_estimate():
    a, b = np.ones(3), np.ones(3)
    opt = fastlr.Sophia({"a": a, "b": b})
    before = snapshot(opt, [a, b])
    for curvature in (None, {"a": np.ones(3), "b": None}):
        with pytest.raises(ValueError, match=r"Sophia: '[ab]' has its first gradient in this step, and its curvature was "
                                             r"never estimated; give step\(grads, curvature=...\)"):
            opt.step({"a": np.ones(3), "b": np.ones(3)}, curvature=curvature)
        assert snapshot(opt, [a, b]) == before
    opt.step({"a": np.ones(3), "b": None}, curvature={"a": np.ones(3), "b": None})
    opt.step({"a": np.ones(3), "b": None})
    with pytest.raises(ValueError, match="'b' has its first gradient"):
        opt.step({"a": np.ones(3), "b": np.ones(3)})
    opt.step({"a": np.ones(3), "b": np.ones(3)}, curvature={"a": None, "b": np.ones(3)})
    assert opt.t == 3


@pytest.mark.parametrize(("curvature", "error", "says"), [
    ({"a": np.ones(3)}, ValueError, "Sophia: curvature: no entry 'b'"),
    ({"a": np.ones(3), "b": np.ones(2), "c": np.ones(2)}, ValueError, "Sophia: curvature: unknown entry 'c'"),
    ([np.ones(3), np.ones(2)], TypeError, "Sophia: curvature: expected a mapping by parameter name, got list"),
    ({"a": np.ones(3), "b": np.ones(3)}, ValueError, r"curvature\['b'\]: expected float64 \(2,\) like the parameter, got "
                                                     r"float64 \(3,\)"),
    ({"a": np.ones(3, np.float32), "b": np.ones(2)}, ValueError, r"curvature\['a'\]: expected float64 \(3,\)"),
    ({"a": np.array([1, np.nan, 1]), "b": np.ones(2)}, FloatingPointError, r"curvature\['a'\]: holds NaN or infinity at "
                                                                           r"t = 1; nothing was changed"),
    ({"a": np.ones(3), "b": np.array([np.inf, 1])}, FloatingPointError, r"curvature\['b'\]: holds NaN or infinity"),
])
def test_wrong_estimates_are_refused_and_change_nothing(curvature, error, says):
    params = {"a": np.ones(3), "b": np.ones(2)}
    opt = fastlr.Sophia(params)
    good = {"a": np.ones(3), "b": np.ones(2)}
    opt.step(good, curvature=good)
    before = snapshot(opt, params.values())
    with pytest.raises(error, match=says):
        opt.step(good, curvature=curvature)
    assert snapshot(opt, params.values()) == before
    with pytest.raises(ValueError, match=r"curvature\['a'\]: shares memory with parameter 'a' or its state"):
        opt.step(good, curvature={"a": opt.state["a"]["h"], "b": None})
    with pytest.raises(ValueError, match=r"grads\['a'\]: expected"):
        opt.step(good | {"a": np.ones(4)}, curvature=good)
    assert snapshot(opt, params.values()) == before


def test_a_skipped_step_leaves_h_too():
    p, g = np.ones(3), np.ones(3)
    opt = fastlr.Sophia(p, nonfinite="skip")
    opt.step(g, curvature=g)
    before = snapshot(opt, [p])
    bad = np.array([1, np.nan, 1])
    opt.step(bad, curvature=g)
    opt.step(g, curvature=bad)
    assert snapshot(opt, [p]) == before
    assert opt.skipped == 2
    scale = fastlr.LossScale(4.0)
    opt.step(4 * g, grad_scale=scale, curvature=g)
    assert (opt.t, scale.value) == (2, 4.0)


def test_rows_move_once_there_is_an_estimate():
    table = np.ones((5, 2))
    opt = fastlr.Sophia({"table": table}, lr=0.1, rho=1.0, beta2=0.0, weight_decay=0.0)
    with pytest.raises(ValueError, match="Sophia: the curvature of 'table' was never estimated"):
        opt.step_rows("table", np.array([1]), np.ones((1, 2)))
    opt.step({"table": np.zeros((5, 2))}, curvature={"table": np.full((5, 2), 0.1)})
    opt.step_rows("table", np.array([1]), np.full((1, 2), 2.0))
    assert (table[[0, 2, 3, 4]] == 1).all()
    assert np.allclose(table[1], 1 - 0.1 * min(0.035 * 2 / 0.1, 1))


# Around it

def test_it_resumes_between_estimates(tmp_path):
    params = arrays(np.float32, [(12, 9), (6,)])
    opt = fastlr.Sophia(params, **HYPER)

    def go(opt, begin, end):
        for t in range(begin, end):
            opt.step(arrays(np.float32, [(12, 9), (6,)], seed=t),
                     curvature=estimates([(12, 9), (6,)], t, np.float32) if t % 4 == 0 else None)

    go(opt, 0, 6)
    fastlr.save(tmp_path / "run", opt)
    again = [p.copy() for p in params]
    other = fastlr.Sophia(again)
    fastlr.load(tmp_path / "run", other)
    go(opt, 6, 15)
    go(other, 6, 15)
    assert bits(params) == bits(again)


def test_wrappers_hand_an_estimate_on():
    p, q = np.ones(3), np.ones(3)
    plain, wrapped = fastlr.Sophia(q), fastlr.Lookahead(fastlr.Sophia(p), k=50)
    for opt in (plain, wrapped):
        opt.step(np.ones(3), curvature=np.full(3, 2.0))
        opt.step(np.ones(3))
    assert bits([p]) == bits([q])


@pytest.mark.parametrize("name", PROBLEMS)
def test_converges_with_hutchinsons_estimate(name):
    """By difference quotients of the gradient, every ten updates; steps shrink to nothing over the run."""
    problem, rng = PROBLEMS[name], np.random.default_rng(0)
    x = problem.start.copy()
    opt = fastlr.Sophia([x], lr=fastlr.schedules.linear(0.05, steps=1500), rho=1.0, beta2=0.9, weight_decay=0.0)
    first, _ = problem.loss_and_grad(x)
    for t in range(1500):
        curvature = None
        if t % 10 == 0:
            u = rng.choice([-1.0, 1.0], size=x.shape)
            further, nearer = (problem.loss_and_grad(x + s * u)[1] for s in (1e-4, -1e-4))
            curvature = [u * (further - nearer) / 2e-4]
        opt.step([problem.loss_and_grad(x)[1]], curvature=curvature)
    assert problem.loss_and_grad(x)[0] < (0.15 if name == "breast cancer" else 1e-2) * first


def test_an_estimate_of_a_tensor_that_the_step_skips_is_not_read():
    a, b = np.ones(3), np.ones(2)
    opt = fastlr.Sophia({"a": a, "b": b}, beta2=0.5, nonfinite="raise")
    opt.step({"a": np.ones(3), "b": None}, curvature={"a": np.ones(3), "b": np.full(2, np.nan)})
    assert opt.state["b"]["h"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="'b' has its first gradient in this step, and its curvature was never"):
        opt.step({"a": np.ones(3), "b": np.ones(2)})
    opt.step({"a": np.ones(3), "b": np.ones(2)}, curvature={"a": None, "b": np.ones(2)})
    before = opt.state["a"]["h"].copy(), opt.state["b"]["h"].copy()
    opt.step({"a": None, "b": np.ones(2)}, curvature={"a": np.full(3, 5.0), "b": np.full(2, 5.0)})
    assert opt.state["a"]["h"].tolist() == before[0].tolist()
    assert opt.state["b"]["h"].tolist() == (0.5 * before[1] + 2.5).tolist()
