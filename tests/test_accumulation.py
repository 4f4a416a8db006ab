"""Gradients folded into the moments as they come, without a buffer."""
import re

import ml_dtypes
import numpy as np
import pytest
from registry import OPTIMIZERS, arrays, bits, every_dtype, snapshot

import fastlr
from fastlr import schedules

LARGE = 40_000
SHAPES = [(3, 4), (), (0,), (700,), (LARGE,)]
FOLDING = [cls for cls in OPTIMIZERS if cls.accumulation is not None]
every_folding = pytest.mark.parametrize("cls", FOLDING, ids=lambda cls: cls.__name__)


def micro(dtype, t, k):
    return arrays(dtype, SHAPES, 100 * t + k)


@every_folding
@every_dtype
def test_moments_take_the_sum_of_gradients_and_the_sum_of_squares(cls, dtype):
    n = 4
    params = arrays(dtype, SHAPES)
    params[0] = np.asfortranarray(params[0])
    opt = cls(params, lr=0.1)
    h = {name: getattr(opt, name) for name in cls.hypers}
    m = [np.zeros(shape, np.longdouble) for shape in SHAPES]
    v = [np.zeros(shape, np.longdouble) for shape in SHAPES]
    for t in range(3):
        grads = [micro(dtype, t, k) for k in range(n)]
        before = snapshot(opt, params)
        for k in range(n - 1):
            opt.accumulate(grads[k], grad_scale=n)
        assert snapshot(opt, params)[0] == before[0]
        assert opt.t == t
        opt.step(grads[-1], grad_scale=n)
        for i in range(len(SHAPES)):
            parts = [g[i].astype(np.longdouble) / n for g in grads]
            if "beta1" in h:
                m[i] = h["beta1"] * m[i] + (1 - h["beta1"]) * sum(parts)
                v[i] = h["beta2"] * v[i] + (1 - h["beta2"]) * sum(part**2 for part in parts)
            else:
                m[i] = h["momentum"] * m[i] + (1 - h["dampening"] * (t > 0)) * sum(parts)
    # about two roundings for each of the four parts of three steps, of the largest that was added
    some = 3 * 2 * n * np.finfo(dtype).eps / 2
    for i, slots in enumerate(opt.state.values()):
        np.testing.assert_allclose(slots["m"], m[i].astype(float), rtol=some, atol=3 * some)
        if "v" in slots:
            np.testing.assert_allclose(slots["v"], v[i].astype(float), rtol=3 * some)


def test_momentum_accumulates_the_gradient_itself():
    p, q = np.zeros(500), np.zeros(500)
    opt, other = fastlr.Momentum([p], lr=0.1, momentum=0.9, dampening=0.25), fastlr.Momentum([q], lr=0.1, dampening=0.25)
    for t in range(4):
        parts = [arrays(np.float64, [(500,)], 10 * t + k) for k in range(3)]
        opt.accumulate(parts[0])
        opt.accumulate(parts[1])
        opt.step(parts[2])
        other.step([sum(part[0] for part in parts)])
    np.testing.assert_allclose(p, q, rtol=1e-12, atol=1e-14)


@every_folding
def test_coupled_decay_is_added_once_by_the_step(cls):
    """The first moment is that of a step with the sum, which adds weight_decay * p once."""
    start, *parts = arrays(np.float64, [(500,)] * 4)
    moments = []
    for given in (parts, [sum(parts)]):
        opt = cls([start.copy()], weight_decay=0.5, decay="coupled")
        for g in given[:-1]:
            opt.accumulate([g])
        opt.step([given[-1]])
        moments.append(opt.state["0"]["m"])
    np.testing.assert_allclose(*moments, rtol=1e-12, atol=1e-14)


def test_each_part_is_rounded_by_random_bits_of_its_own():
    opt = fastlr.Momentum([np.zeros(LARGE, np.float32)], momentum=0.5, state_dtype="bfloat16", rounding="stochastic")
    g = np.full(LARGE, 0.5 + 2.0**-10, np.float32)
    found = []
    for _ in range(2):                 # (each adds g / momentum)
        opt.accumulate([g])
        found.append((np.asarray(opt.state["0"]["m"]).astype(np.uint32) << 16).view(np.float32))
    # 1 + 2**-9 is a quarter of the way to the next bfloat16; then, of those rounded down, 2 + 2**-9 an eighth of it
    down = found[0] == 1
    assert np.unique(found[0]).tolist() == [1, 1 + 2.0**-7] and np.unique(found[1][down]).tolist() == [2, 2 + 2.0**-6]
    for share, exact in (((~down).mean(), 1 / 4), ((found[1][down] > 2).mean(), 1 / 8)):
        assert share == pytest.approx(exact, abs=6 * np.sqrt(exact * (1 - exact) / LARGE))


@every_folding
@pytest.mark.parametrize("keywords", [{}, {"state_dtype": "bfloat16", "rounding": "stochastic"}, {"state_dtype": "int8"}],
                         ids=["plain", "bfloat16", "int8"])
def test_the_same_bits_for_any_threads_layout_and_resume(cls, keywords, tmp_path):
    def steps(threads, laid, stop=None, clip=None):
        fastlr.set_num_threads(threads)
        p = laid(arrays(np.float32, [(211, 401)])[0])
        make = lambda: cls({"w": p}, lr=schedules.linear(0.1, steps=5), clip_value=clip, **keywords)  # noqa: E731
        opt = make()
        for t in range(3):
            for k in range(3):
                if (t, k) == stop:
                    fastlr.save(tmp_path / "run", opt)
                    opt = make()
                    p[...] = 0
                    fastlr.load(tmp_path / "run", opt)
                g = {"w": laid(arrays(np.float32, [(211, 401)], 10 * t + k)[0])}
                (opt.step if k == 2 else opt.accumulate)(g, grad_scale=3.0)
        return bits([p]) + bits(opt.state["w"].values())
    wanted = steps(1, np.ascontiguousarray)
    assert steps(3, np.ascontiguousarray, (1, 1)) == wanted
    assert steps(2, np.ascontiguousarray, (1, 2)) == wanted
    assert steps(2, np.asfortranarray)[0] == wanted[0]
    assert steps(1, np.ascontiguousarray, clip=1e9) == wanted


def test_16_bit_gradients_bound_zeroed_missing_and_not_finite():
    p, g = np.zeros(300, np.float32), np.ones(300, ml_dtypes.bfloat16)
    opt = fastlr.AdamW([p, p.copy()], grads=[g, None], nonfinite="skip")
    opt.accumulate(zero_grads=True)
    assert (g.astype(float) == 0).all()
    assert opt.state["0"]["m"][0] == pytest.approx(0.1 / 0.9)
    assert (opt.state["1"]["m"] == 0).all()
    before = snapshot(opt, [p])
    opt.accumulate([np.full(300, np.inf, np.float32), None])
    assert (snapshot(opt, [p]), opt.skipped) == (before, 1)
    raising = fastlr.AdamW([p], nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"grads\[0\]: holds NaN or infinity at t = 0; nothing was changed"):
        raising.accumulate([np.full(300, np.nan, np.float32)])


@pytest.mark.parametrize(("opt", "error", "says"), [
    (lambda p: fastlr.SGD(p), TypeError, "SGD: accumulate needs a rule that sees gradients through its moments alone ("),
    (lambda p: fastlr.RMSprop(p), TypeError, "RMSprop: accumulate needs a rule"),
    (lambda p: fastlr.AdamW(p, clip_norm=1.0), ValueError, "AdamW: accumulate cannot do clip_norm, as the norm is known only"),
    (lambda p: fastlr.AdamW(p, clip_adaptive=1.0), ValueError, "AdamW: accumulate cannot do clip_adaptive"),
    (lambda p: fastlr.AdamW(p, beta1=0.0), ValueError, "AdamW: accumulate needs decays above 0"),
])
def test_what_cannot_accumulate_says_so_and_changes_nothing(opt, error, says):
    p = np.ones(5)
    made = opt(p)
    before = snapshot(made, [p])
    with pytest.raises(error, match=re.escape(says)):
        made.accumulate(np.ones(5))
    assert snapshot(made, [p]) == before


def test_bad_gradients_are_refused_as_in_a_step():
    p = np.ones(5)
    opt = fastlr.AdamW({"w": p})
    before = snapshot(opt, [p])
    for grads, scale, says in (({"w": np.ones(4)}, 1.0, "like the parameter"), ({"w": p}, 1.0, "shares memory"),
                               ({"w": np.ones(5)}, 0.0, "grad_scale must be positive"), ({}, 1.0, "expected 1 gradients, got 0")):
        with pytest.raises(ValueError, match=says):
            opt.accumulate(grads, grad_scale=scale)
    assert snapshot(opt, [p]) == before


def test_what_needs_gradients_is_named():
    with pytest.raises(TypeError, match=re.escape("Momentum: accumulate() needs gradients: pass them, or bind them with "
                                                  "grads= in the constructor")):
        fastlr.Momentum(np.ones(3)).accumulate()
    with pytest.raises(TypeError, match=re.escape("Momentum: step() needs gradients")):
        fastlr.Momentum(np.ones(3)).step()


def test_a_tensor_whose_last_gradient_is_missing_is_refused():
    """Its moments, which were divided by their decays, would stay so."""
    p = {"table": np.zeros((4, 2)), "w": np.zeros(2)}
    g = {"table": np.ones((4, 2)), "w": np.ones(2)}
    opt = fastlr.Adam(p)
    opt.accumulate({"table": g["table"], "w": None}, grad_scale=2)
    before = snapshot(opt, list(p.values()))
    with pytest.raises(ValueError, match=r"grads\['table'\]: expected a gradient, as some were accumulated in its moments"):
        opt.step({"table": None, "w": g["w"]}, grad_scale=2)
    with pytest.raises(ValueError, match="gradients were accumulated in the moments of all rows since the latest step"):
        opt.step_rows("table", [1], np.ones((1, 2)))
    opt.add_group({"late": np.ones(1)})
    with pytest.raises(ValueError, match="expected a gradient, as some were accumulated"):
        opt.step([{"table": None, "w": g["w"]}, {"late": np.ones(1)}])
    assert snapshot(opt, list(p.values()))[0] == before[0] and opt.t == 0
    opt.step([{"table": g["table"], "w": None}, {"late": None}], grad_scale=2)
    opt.step([{"table": None, "w": g["w"]}, {"late": None}])
    opt.step_rows("table", [1], np.ones((1, 2)))
    assert opt.t == 2
    parts = fastlr.Partition(p, {"w": fastlr.SGD, "table": fastlr.Adam})
    parts["table"].accumulate({"table": g["table"]})
    with pytest.raises(ValueError, match="expected a gradient, as some were accumulated"):
        parts.step({"table": None, "w": g["w"]})
    assert parts.t == parts["w"].t == 0            # (no part is ahead of another)


def test_a_group_that_comes_between_parts_changes_nothing_of_them():
    p, q = (np.ones(4, np.float32) for _ in range(2))
    opt = fastlr.Momentum({"p": p}, nonfinite="skip")
    opt.step({"p": np.full(4, np.nan, np.float32)})
    opt.accumulate({"p": np.ones(4, np.float32)})
    before = opt.state_dict()["state"]["p"]["m"]
    opt.add_group({"q": q})
    assert (opt.state_dict()["folded"], opt.skipped, opt.t) == (1, 1, 0)
    np.testing.assert_array_equal(opt.state["p"]["m"], before)
    opt.step([{"p": np.ones(4, np.float32)}, {"q": None}])
    assert "folded" not in opt.state_dict()
