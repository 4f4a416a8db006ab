"""Norms of float64 that decide how far a tensor moves are right where squares overflow or vanish, and elsewhere as before.

Adaptive clipping, whose norms are of units, and the rules that compare norms of a tensor. Powers of two do not round, so
what is as large by a power of two moves as far by it, bit for bit.
"""
import numpy as np
import pytest

import fastlr

FACTORS = [2.0**600, 2.0**-600, 2.0**900, 2.0**-900]
SIZES = [(7,), (6, 5), (3, 40_000), (300, 200)]


def normal(shape, seed):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def near(x, y, tolerance=1e-12):
    """(sums of up to 120,000 squares, which are added one after another where they are scaled)"""
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * abs(y).max())


def step(cls, p, g, steps=1, **options):
    p = p.copy()
    opt = cls([p], **options)
    for _ in range(steps):
        opt.step([g])
    return p, opt


# Rules that compare norms: a tensor that is as large by a factor, and its gradient, move as far by that factor.

RATIOS = {
    "LARS": {"cls": fastlr.LARS, "momentum": 0.5, "trust_coefficient": 0.1, "weight_decay": 0.0},
    "LARS with decay": {"cls": fastlr.LARS, "momentum": 0.5, "trust_coefficient": 0.1, "weight_decay": 0.25},
    "LARC": {"cls": fastlr.LARC, "lr": 0.5, "trust_coefficient": 0.1, "eps": 0.0, "weight_decay": 0.25},
    "Fromage": {"cls": fastlr.Fromage, "lr": 0.25},
}


@pytest.mark.parametrize("rule", RATIOS)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", SIZES)
def test_what_is_larger_by_a_factor_moves_as_far_by_it(rule, factor, size):
    options = dict(RATIOS[rule])
    cls, p, g = options.pop("cls"), normal(size, 1), normal(size, 2)
    plain, _ = step(cls, p, g, 3, **options)
    scaled, _ = step(cls, p * factor, g * factor, 3, **options)
    near(scaled / factor, plain)
    # (the size of the gradient alone does not matter, as long as its ratio to the parameter is a number)
    if "decay" not in rule and rule != "LARC":
        ratio = factor**0.5
        one_sided, _ = step(cls, p * ratio, g / ratio, 3, **options)
        near(one_sided / ratio, plain)


@pytest.mark.parametrize("convention", fastlr.LAMB.conventions)
@pytest.mark.parametrize("factor", FACTORS)
def test_lamb_moves_a_tensor_in_proportion_to_its_norm(convention, factor):
    if convention == "pytorch-optimizer" and factor > 1:
        pytest.skip("its ratio is bounded by 10")
    p, g = normal((300, 200), 1), normal((300, 200), 2)
    options = {"lr": 0.25, "weight_decay": 0.0, "convention": convention}
    plain, _ = step(fastlr.LAMB, p, g, 2, **options)
    large = 1.0
    if convention == "pytorch-optimizer":
        p, large = p / 1024, 1024.0               # (a norm below 10)
        plain, _ = step(fastlr.LAMB, p, g, 2, **options)
    scaled, _ = step(fastlr.LAMB, p * factor, g, 2, **options)
    near(scaled / factor * large, plain * large)


@pytest.mark.parametrize("convention", fastlr.MARS.conventions)
def test_mars_normalises_a_corrected_gradient_of_any_size(convention):
    g = normal((40_000,), 3)
    for factor in (2.0**600, 2.0**900):
        states = [step(fastlr.MARS, np.zeros(g.shape), g * scale, lr=0.1, convention=convention)[1].state["0"]["m"]
                  for scale in (1, factor)]
        assert np.linalg.norm(states[0]) == pytest.approx(0.05 if convention == "timm" else 0.1, rel=0.6)
        near(states[1], states[0])


@pytest.mark.parametrize("rule", ["LARS", "Fromage"])
def test_a_layout_and_threads_do_not_matter_where_squares_overflow(rule):
    options = dict(RATIOS[rule])
    cls, p, g = options.pop("cls"), normal((300, 200), 1) * 2.0**600, normal((300, 200), 2) * 2.0**700
    found = set()
    for threads in (1, 2):
        fastlr.set_num_threads(threads)
        for layout in (np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2]):
            placed = layout(p.copy())
            cls([placed], **options).step([layout(g)])
            found.add(np.ascontiguousarray(placed).tobytes())
    assert len(found) == 1


# Adaptive clipping

def clipped(p, g, axis, clip, eps):
    """The gradient that adaptive clipping leaves, in extended precision."""
    p, g = p.astype(np.longdouble), g.astype(np.longdouble)
    axes = None if g.ndim < 2 else tuple(k for k in range(g.ndim) if k != axis % g.ndim)
    norms = [np.sqrt((x * x).sum(axis=axes, keepdims=True)) for x in (p, g)]
    return g * np.minimum(1, clip * np.maximum(norms[0], eps) / np.maximum(norms[1], 1e-6))


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("more", [{}, {"nonfinite": "raise"}, {"clip_norm": 1e250}, {"clip_tensor_norm": 1e300}],
                         ids=["alone", "measured", "clip_norm", "clip_tensor_norm"])
@pytest.mark.parametrize(("of_p", "of_g", "eps"), [(1.0, 1e200, 1e-3), (1e200, 1e200, 1e-3), (1e200, 1.0, 1e-3),
                                                   (1e-200, 1.0, 1e-290), (1e200, 1e205, 1e-3), (1.0, 1.0, 1e-3)])
def test_units_are_clipped_whatever_their_size(axis, size, more, of_p, of_g, eps):
    p, g = normal(size, 4) * of_p, normal(size, 5) * of_g
    g.reshape(-1)[:2] *= 1e-9                      # (some units are left as they are)
    options = {"clip_adaptive": 0.01, "clip_adaptive_axis": axis, "clip_adaptive_eps": eps, **more}
    want = clipped(p, g, axis, 0.01, eps)
    q, opt = step(fastlr.SGD, p, g, lr=1.0, **options)
    left = np.sqrt((want * want).sum())
    np.testing.assert_allclose(q, (p - want).astype(float), rtol=1e-11, atol=1e-11 * float(abs(want).max()))
    assert opt.grad_norm == pytest.approx(float(left), rel=1e-10)


def test_units_of_several_tensors_whose_squares_overflow_together():
    params, grads = [np.full(1, 1e156) for _ in range(40)], [np.full(1, 1e200) for _ in range(40)]
    for more in ({}, {"nonfinite": "raise"}):
        opt = fastlr.SGD(params, lr=0.0, clip_adaptive=0.01, **more)
        opt.step(grads)
        assert opt.grad_norm == pytest.approx(1e154 * 40**0.5, rel=1e-12)


def test_gradients_that_are_not_finite_are_still_found():
    for bad in (np.nan, np.inf):
        g = np.full((4, 5), 1e200)
        g[2, 3] = bad
        with pytest.raises(FloatingPointError, match="holds NaN or infinity"):
            fastlr.SGD([np.ones((4, 5))], clip_adaptive=0.1, nonfinite="raise").step([g])
        p = np.ones((4, 5))
        opt = fastlr.SGD([p], clip_adaptive=0.1, nonfinite="skip")
        opt.step([g])
        assert (opt.skipped, (p == 1).all()) == (1, True)
