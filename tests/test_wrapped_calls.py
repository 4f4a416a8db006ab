"""Calls that reach the optimizer through a wrapper, or past it: done right, or refused in words."""
import numpy as np
import pytest
from registry import REGISTRY, arrays, bits

import fastlr

SHAPES = ((3, 4), (5,))


def gradients(step):
    return arrays(np.float64, SHAPES, seed=20 + step)


def test_lookahead_counts_the_steps_that_add_takes():
    ours, theirs = arrays(np.float64, SHAPES), arrays(np.float64, SHAPES)
    around = fastlr.Lookahead(fastlr.GradientAccumulation(fastlr.Adam(ours), k=2), k=2, alpha=0.3)
    inside = fastlr.GradientAccumulation(fastlr.Lookahead(fastlr.Adam(theirs), k=2, alpha=0.3), k=2)
    stepped = [around.add(gradients(k)) for k in range(9)]
    assert stepped == [inside.add(gradients(k)) for k in range(9)]
    assert around.t == 4 and bits(ours) == bits(theirs)
    assert bits(around.slow.values()) == bits(inside.inner.slow.values())


def centered(grads):
    return [g - g.mean(1, keepdims=True) if g.ndim == 2 else g for g in grads]


def test_accumulate_gets_centered_gradients():
    ours, theirs = arrays(np.float64, SHAPES), arrays(np.float64, SHAPES)
    opt, plain = fastlr.GradientCentralization(fastlr.AdamW(ours)), fastlr.AdamW(theirs)
    opt.accumulate(gradients(0), grad_scale=2)
    opt.step(gradients(1), grad_scale=2)
    plain.accumulate(centered(gradients(0)), grad_scale=2)
    plain.step(centered(gradients(1)), grad_scale=2)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-12)
    with pytest.raises(TypeError, match="needs the gradients as an argument"):
        opt.accumulate()
    with pytest.raises(ValueError, match="zero the gradients yourself"):
        opt.accumulate(gradients(0), zero_grads=True)


def test_batches_are_centered_before_they_are_added():
    ours, theirs = arrays(np.float64, SHAPES), arrays(np.float64, SHAPES)
    around = fastlr.GradientCentralization(fastlr.GradientAccumulation(fastlr.SGD(ours, lr=1.0)))
    inside = fastlr.GradientAccumulation(fastlr.GradientCentralization(fastlr.SGD(theirs, lr=1.0)))
    for opt in (around, inside):
        assert opt.add(gradients(0), count=3) is False
        opt.add(gradients(1))
        opt.step()
    assert around.t == 1
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-12)
    with pytest.raises(TypeError, match=r"takes no gradients; pass them to add\(grads\)"):
        around.step(gradients(0))


def test_sam_takes_parts_only_where_they_belong():
    p, q = np.ones(3), np.ones(3)
    sam = fastlr.SAM(fastlr.Momentum(p, lr=0.1))
    with pytest.raises(TypeError, match="SAM: cannot add up the gradients of batches; average them first"):
        sam.add(np.ones(3))
    with pytest.raises(RuntimeError, match=r"accumulate\(grads\) takes gradients at the perturbed parameters; call ascend"):
        sam.accumulate(np.ones(3))
    sam.ascend(np.ones(3))
    sam.accumulate(np.ones(3), grad_scale=2)
    sam.step(np.full(3, 3.0), grad_scale=2)
    fastlr.Momentum(q, lr=0.1).step(np.full(3, 2.0))
    np.testing.assert_allclose(p, q, rtol=1e-15)


@pytest.mark.parametrize("outer", [fastlr.SAM, fastlr.GradientAccumulation])
@pytest.mark.parametrize("between", [lambda opt: opt, fastlr.Lookahead, fastlr.GradientCentralization])
def test_what_gives_gradients_to_a_step_cannot_wrap_accumulation(outer, between):
    inner = between(fastlr.GradientAccumulation(fastlr.SGD(np.ones(2))))
    with pytest.raises(TypeError, match=f"^{outer.__name__}: cannot wrap GradientAccumulation, whose step takes no grad"):
        outer(inner)


def test_a_parameter_that_is_frozen_between_batches_is_told_of():
    p = {"a": np.zeros(1), "b": np.zeros(1)}
    opt = fastlr.GradientAccumulation(fastlr.SGD(p, lr=1.0), k=2)
    opt.add({"a": np.ones(1), "b": np.ones(1)})
    opt.freeze("a")
    with pytest.raises(ValueError, match=r"'a' was frozen after a gradient of it was added; call unfreeze\('a'\) before"):
        opt.add({"a": None, "b": np.ones(1)})
    assert opt.batches == 2 and not p["b"].any()
    opt.unfreeze("a")
    opt.step()
    assert p["a"] == -0.5 and p["b"] == -1


def test_accumulation_refuses_accumulate():
    acc = fastlr.GradientAccumulation(fastlr.AdamW(np.ones(2)))
    with pytest.raises(TypeError, match=r"use add\(grads\), which adds up gradients"):
        acc.accumulate(np.ones(2))
    acc.add(np.ones(2))
    with pytest.raises(ValueError, match="zero_grads has no effect"):
        acc.step(zero_grads=True)


def test_a_group_added_to_the_wrapped_optimizer_is_a_group_of_the_wrapper():
    def run(add):
        p, q = np.ones(3), np.full((2, 2), 2.0)
        opt = fastlr.GradientAccumulation(fastlr.Lookahead(fastlr.GradientCentralization(fastlr.Adam([p])), k=2), k=2)
        g = [np.arange(3.0)], [np.arange(4.0).reshape(2, 2)]
        for _ in range(3):
            opt.add(g[0])
        add(opt, [q])
        for _ in range(5):
            opt.add(list(g))
        return bits([p, q]), repr(opt.state_dict())

    assert run(lambda opt, q: opt.inner.inner.inner.add_group(q)) == run(lambda opt, q: opt.add_group(q))


def test_what_was_added_to_the_wrapped_optimizer_is_saved(tmp_path):
    p, q = np.ones(3), np.ones(2)
    opt = fastlr.Lookahead(fastlr.SGD([p]))
    opt.inner.add_group([q])
    fastlr.save(tmp_path / "run", opt)
    assert sorted(opt.slow) == ["0", "1"]
    with pytest.raises(RuntimeError, match=r"EMA\.swapped: the optimizer has other parameters than those of which this has means"):
        ema = fastlr.EMA(opt)
        opt.inner.add_group([np.ones(1)])
        ema.swapped().__enter__()


# Loss scales and losses

@pytest.mark.parametrize("k", [None, 2])
def test_a_loss_scale_divides_the_mean_and_moves_once_a_step(k):
    p = np.ones(2, np.float32)
    scale = fastlr.LossScale(init=1024.0, interval=2)
    acc = fastlr.GradientAccumulation(fastlr.SGD(p, lr=0.5, nonfinite="skip"), k=k)

    def batches(*values):
        for value in values:
            acc.add(np.full(2, value * scale.value, np.float32), **({} if k is None else {"grad_scale": scale}))
        if k is None:
            acc.step(grad_scale=scale)

    batches(1.0, 3.0)
    assert p.tolist() == [0, 0] and (scale.value, scale.streak) == (1024, 1)
    batches(1.0, np.inf)
    assert p.tolist() == [0, 0] and (scale.value, acc.batches, acc.skipped) == (512, 0, 1)
    batches(2.0, 2.0)
    assert p.tolist() == [-1, -1]
    acc.k = None
    acc.add(np.full(2, 4, np.float32))
    acc.step(grad_scale=2.0)
    assert p.tolist() == [-2, -2]


def test_a_loss_scale_that_the_optimizer_cannot_heed_is_refused():
    acc = fastlr.GradientAccumulation(fastlr.SGD(np.ones(2)))
    acc.add(np.ones(2))
    scale = fastlr.LossScale(init=4.0)
    with pytest.raises(ValueError, match="a LossScale needs nonfinite='skip'"):
        acc.step(grad_scale=scale)
    assert (acc.batches, scale.value) == (1, 4.0)


def test_a_subclass_of_loss_scale_is_a_loss_scale():
    class Mine(fastlr.LossScale):
        pass

    for cls, keywords in ((fastlr.SGD, {}), (fastlr.PolyakSGD, {"loss": 1.0})):
        scale = Mine(init=1024.0)
        cls(np.ones(2), nonfinite="skip").step(np.array([np.inf, 1.0]), grad_scale=scale, **keywords)
        assert scale.value == 512


def test_a_step_has_the_mean_loss_of_its_batches():
    p, q = np.ones(3), np.ones(3)
    acc = fastlr.GradientAccumulation(fastlr.PolyakSGD(p), k=2)
    assert not acc.add(np.ones(3), count=3, loss=2.0)
    state = acc.state_dict()
    acc.load_state_dict(state)
    with pytest.raises(ValueError, match="loss must be given with every batch of a step or with none"):
        acc.add(np.ones(3))
    assert acc.add(np.full(3, 5.0), count=1, loss=6.0)
    fastlr.PolyakSGD(q).step(np.full(3, 2.0), loss=3.0)
    np.testing.assert_allclose(p, q, rtol=1e-15)
    with pytest.raises(TypeError, match="a step of SGD takes no loss; leave it out"):
        fastlr.GradientAccumulation(fastlr.SGD(p)).add(np.ones(3), loss=1.0)


# Attributes

@pytest.mark.parametrize(("make", "name", "message"), [
    (lambda opt: fastlr.Lookahead(opt), "alhpa", r"Lookahead has no 'alhpa', nor has Adam; did you mean 'alpha'\?"),
    (lambda opt: fastlr.GradientAccumulation(fastlr.Lookahead(opt)), "beta_1", "did you mean 'beta1'"),
    (lambda opt: fastlr.SAM(opt), "roh", "did you mean 'rho'"),
    (lambda opt: fastlr.EMA(opt), "decya", r"EMA has no 'decya'; did you mean 'decay'\?"),
    (lambda opt: fastlr.LBFGS(np.ones(2)), "max_iters", r"LBFGS has no 'max_iters'; did you mean 'max_iter'\?"),
])
def test_an_attribute_that_does_nothing_is_refused_with_the_nearest_name(make, name, message):
    with pytest.raises(AttributeError, match=message):
        setattr(make(fastlr.Adam(np.ones(2))), name, 1)


def test_settings_of_lbfgs_are_checked_when_they_are_set():
    opt = fastlr.LBFGS(np.ones(2))
    opt.max_iter, opt.line_search, opt.tolerance_grad = 3, None, 0
    for name, bad, message in (("max_iter", 0, "LBFGS: max_iter must be an integer >= 1, got 0"), ("c2", 1.5, "c2 must be in"),
                               ("line_search", "x", "line_search must be 'wolfe'"), ("tolerance_grad", -1, ">= 0, got -1")):
        with pytest.raises(ValueError, match=message):
            setattr(opt, name, bad)
    with pytest.raises(AttributeError):
        opt.history = 5


# Large and small gradients

@pytest.mark.parametrize("size", [1e200, 1e-200])
@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_moves_by_rho_whatever_the_size_of_the_gradient(size, adaptive):
    p = np.ones(2)
    sam = fastlr.SAM(fastlr.SGD(p), rho=1.0, adaptive=adaptive)
    g = np.array([3.0, 4.0]) * size
    sam.ascend(g)
    np.testing.assert_allclose(p, [1.6, 1.8] if size > 1 else [1, 1], rtol=1e-15)    # (1e-12 is added to the norm)


def test_the_norm_neither_overflows_nor_vanishes():
    from fastlr.optimizers.sharpness import norm_of
    for size in (1e300, 1e-300):
        assert norm_of([np.ones(2)], [np.array([3.0, 4.0]) * size], 0.0, False) == pytest.approx(5 * size, rel=1e-15)
    assert norm_of([np.ones(2)], [np.zeros(2)], 0.0, False) == 0 == norm_of([], [], 0.0, False)
    assert np.isnan(norm_of([np.ones(2)], [np.array([np.nan, 1e300])], 0.0, False))
    assert norm_of([np.ones(2)], [np.array([np.inf, 1.0])], 0.0, True) == np.inf


@pytest.mark.parametrize("wrapper", [fastlr.SAM, fastlr.Lookahead, fastlr.GradientAccumulation,
                                     fastlr.GradientCentralization])
def test_a_wrapper_says_which_names_of_the_wrapped_it_hides(wrapper):
    """Its own is read and set by that name; the other by `inner`, which its docstring says, family by family."""
    own = {name for name in dir(wrapper) if not name.startswith("_")}
    for cls in REGISTRY.values():
        for name in own & (cls.hypers.keys() | cls.options.keys() | cls.initial_states.keys()):
            family = {"RMSpropCentered": "RMSprop", "RMSpropMomentum": "RMSprop",
                      "RMSpropCenteredMomentum": "RMSprop"}.get(cls.__name__, cls.__name__)
            assert f".inner.{name}``" in wrapper.__doc__
            assert family in wrapper.__doc__, (cls, name)
            opt = wrapper(cls(np.ones(3)))
            before = getattr(opt.inner, name)
            setattr(opt, name, 0.625)
            assert (getattr(opt, name), getattr(opt.inner, name)) == (0.625, before)
            opt.inner.lr = 0.5
            assert opt.lr == 0.5
