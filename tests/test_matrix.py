"""Rules that see whole matrices: against the paper's notation, in every layout, and what peers get wrong."""
import ctypes
import hashlib
from pathlib import Path
from weakref import WeakMethod

import numpy as np
import pytest
import reference_matrix as reference
from registry import (
    BITWISE,
    BY_ROWS,
    MATRIX,
    arrays,
    bits,
    every_decay,
    every_matrix,
    full,
    other_value,
    snapshot,
)

import fastlr
from fastlr._engine.instruction_set import kernels
from fastlr._matrix.matrix_rule import MatrixRule, matrix_rule
from fastlr._matrix.matrix_step import MatrixStep
from fastlr.optimizers.spectral import COEFFICIENTS, adjusted, orthogonalized

OWN = [cls for cls in MATRIX if cls in BITWISE]
every_own = pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.__name__)
every_with_fallback = pytest.mark.parametrize("cls", [cls for cls in MATRIX if cls not in OWN],
                                         ids=lambda cls: cls.__name__)
SHAPES = [(5, 7), (1, 4), (6, 1), (11,), (1,), (130, 33), (40, 300)]
LARGE = [(300, 40), (70, 5000), (20_000,), (9, 4, 130), (2, 9000)]                 # several blocks each


def paper(cls, theta, g, t, memory, hyper):
    """One step of the reference, with the optimizer's own decay mode left out."""
    hyper = dict(hyper)
    hyper.pop("weight_decay")
    if cls is fastlr.Muon:
        rows, cols = g.shape if g.ndim == 2 else (1, 1)
        hyper |= {"coefficients": COEFFICIENTS["original"] * 5, "scale": 0.2 * max(rows, cols) ** 0.5}
    return getattr(reference, cls.__name__)(theta, g, t, memory, **hyper)


def apart(x, y):
    """The largest difference, relative to the largest element."""
    return np.abs(x - y).max(initial=0) / max(np.abs(y).max(initial=0), 1e-300)


def of_two_axes(shape):
    return shape if len(shape) < 2 else (shape[0], int(np.prod(shape[1:])))


def follows(cls, dtype, shapes, hyper, steps=12, given=None):
    """How far parameters get from the paper's in some steps."""
    params = arrays(dtype, shapes)
    want = [p.astype(np.float64) if cls is fastlr.SM3 else p.astype(np.float64).reshape(of_two_axes(p.shape))
            for p in params]
    memories = [{} for _ in params]
    opt = cls(params, weight_decay=0.0, **hyper)
    for t in range(1, steps + 1):
        grads = arrays(dtype, shapes, seed=t)
        opt.step(grads)
        want = [paper(cls, w, g.astype(np.float64).reshape(w.shape), t, memory,
                      full(cls, hyper | {"weight_decay": 0.0}) | (given or {}))
                for w, g, memory in zip(want, grads, memories, strict=True)]
    return max(apart(p.astype(np.float64).ravel(), w.ravel()) for p, w in zip(params, want, strict=True))


# Against the paper

# Shampoo's roots are of matrices whose rank the first steps leave short: eigenvalues of epsilon, whose rounding the
# power -1/4 raises. Muon's polynomial has a slope of 3.4**5 at small singular values.
SAME = {fastlr.Muon: 1e-10, fastlr.Shampoo: 1e-8, fastlr.SOAP: 1e-8}


# (bases of what the first gradient leaves undetermined are anybody's: SOAP is given square matrices)
OF_RULE = {fastlr.SOAP: [(5, 5), (9, 9), (11,)], fastlr.Shampoo: [(5, 7), (1, 4), (6, 1), (11,), (20, 30)]}


@every_matrix
def test_float64_steps_are_the_papers(cls):
    assert follows(cls, np.float64, OF_RULE.get(cls, SHAPES), {"lr": 0.01}) < SAME.get(cls, 1e-13)


@every_matrix
def test_every_hyper_parameter_enters_as_in_the_paper(cls):
    for name, bound in cls.hypers.items():
        if name != "weight_decay":
            value = 0.03 if "eps" in name else other_value(bound)
            assert follows(cls, np.float64, [(6, 6), (11,)], {"lr": 0.01} | {name: value}, steps=5) < SAME.get(cls, 1e-13)


@every_own
def test_large_tensors_are_the_papers(cls):
    assert follows(cls, np.float64, LARGE, {"lr": 0.01}, steps=3) < 1e-12


@every_matrix
def test_float32_steps_are_the_papers_to_float32s_precision(cls):
    shapes = [(9, 9), (11,)] if cls in (fastlr.Shampoo, fastlr.SOAP) else SHAPES
    bound = {fastlr.Shampoo: 2e-2, fastlr.SOAP: 2e-2, fastlr.Muon: 1e-4}
    hyper = {"lr": 0.01} | ({"matrix_eps": 0.1} if cls is fastlr.Shampoo else {})
    assert follows(cls, np.float32, shapes, hyper, steps=6) < bound.get(cls, 2e-6)


@every_matrix
@every_decay
def test_decay_is_around_the_rule(cls, decay):
    p, g = arrays(np.float64, [(6, 6)] * 2)
    q = p.copy()
    opt = cls([p], lr=0.01, weight_decay=0.3, decay=decay, **{"lr_max": 0.04} if decay == "corrected" else {})
    memory, hyper = {}, full(cls, {"lr": 0.01})
    shrink = 0.3 * {"coupled": 0, "decoupled": 0.01, "independent": 1, "corrected": 0.01**2 / 0.04}[decay]
    for t in range(1, 5):
        opt.step([g])
        if decay == "coupled":
            q = paper(cls, q, g + 0.3 * q, t, memory, hyper)
        elif cls is fastlr.Adafactor:              # (its step is relative to the parameter as it was)
            q = paper(cls, q, g, t, memory, hyper) - shrink * q
        elif cls in PROJECTED:                     # (what is left of decay depends on the projection)
            q = paper(cls, q, g, t, memory, hyper | {"shrink": shrink})
        else:
            q = paper(cls, q * (1 - shrink), g, t, memory, hyper)
    assert apart(p, q) < SAME.get(cls, 1e-13)


# Projections: of gradients at right angles to every row, to the whole alone, to neither

PROJECTED = (fastlr.AdamP, fastlr.SGDP)
every_projected = pytest.mark.parametrize("cls", PROJECTED, ids=lambda cls: cls.__name__)


def across(g, p, by):
    """The gradient less its part along the parameter's rows, or along all of it."""
    if by == "neither":
        return g + p
    flat, of = (g.reshape(1, -1), p.reshape(1, -1)) if by == "whole" else (g.reshape(len(g), -1), p.reshape(len(p), -1))
    left = flat - of * ((flat * of).sum(axis=1) / (of * of).sum(axis=1))[:, None]
    return left.reshape(g.shape)


@every_projected
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("by", ["rows", "whole", "neither"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 5), (1, 9), (40, 300), (3, 9000)], ids=str)
def test_projections_are_the_papers(cls, nesterov, by, shape):
    changed = {"lr": 0.02, "eps": 0.03, "wd_ratio": 0.4}
    p, = arrays(np.float64, [shape])
    q, memory = p.copy(), {}
    opt = cls([p], weight_decay=0.5, nesterov=nesterov, **changed)
    for t in range(1, 7):
        g = across(arrays(np.float64, [shape], seed=t)[0], p, by)
        opt.step([g])
        q = paper(cls, q, g, t, memory, full(cls, changed) | {"nesterov": nesterov, "shrink": 0.02 * 0.5})
    assert apart(p, q) < 1e-13


@every_projected
def test_a_projected_step_keeps_the_length_of_each_row_and_a_plain_one_does_not(cls):
    p, = arrays(np.float64, [(6, 50)])
    q = p.copy()
    lengths = np.linalg.norm(p, axis=1)
    one, two = cls([p], lr=1e-4), cls([q], lr=1e-4, delta=0.0)
    for t in range(20):
        g = across(arrays(np.float64, [(6, 50)], seed=t + 1)[0], p, "rows")
        one.step([g])
        two.step([g])
    moved, plain = (np.abs(np.linalg.norm(x, axis=1) - lengths).max() for x in (p, q))
    assert moved < 0.2 * plain                     # (of second order in the step; the plain one follows its momentum)


@every_projected
def test_the_largest_cosine_decides_for_all_rows(cls):
    """One row that is not at right angles, of 200: no row is projected, in whichever block it is."""
    for row in (0, 57, 199):
        p, = arrays(np.float64, [(200, 1000)])
        g = across(arrays(np.float64, [(200, 1000)], seed=1)[0], p, "rows")
        g[row] += p[row]
        q = p.copy()
        cls([p], lr=0.1).step([g])
        cls([q], lr=0.1, delta=0.0).step([g])
        assert bits([p]) == bits([q])


@every_projected
def test_a_parameter_or_a_gradient_of_zeros(cls):
    for p, g in ((np.zeros((3, 4)), np.ones((3, 4))), (np.ones((3, 4)), np.zeros((3, 4)))):
        for eps in (1e-8, 0.0) if cls is fastlr.SGDP else (1e-8,):
            x = p.copy()
            cls([x], lr=0.1, eps=eps).step([g])
            assert apart(x, p - 0.1 * g) < 1e-7


@every_projected
def test_vectors_are_not_projected(cls):
    p, = arrays(np.float64, [(50,)])
    g = across(arrays(np.float64, [(50,)], seed=1)[0], p, "whole")
    q = p.copy()
    cls([p], lr=0.1, delta=100.0, weight_decay=0.1).step([g])
    cls([q], lr=0.1, delta=0.0, weight_decay=0.1).step([g])
    assert bits([p]) == bits([q])


def test_coupled_decay_of_projected_rules_is_a_gradient():
    """pytorch_optimizer's adds it to a gradient that has been used already, and nothing decays."""
    for cls in PROJECTED:
        p, g = arrays(np.float64, [(5, 7)] * 2)
        q = p.copy()
        cls([p], lr=0.1, weight_decay=0.3, decay="coupled").step([g])
        cls([q], lr=0.1).step([g + 0.3 * q])
        assert apart(p, q) < 1e-14


def test_an_eigenvalue_that_rounding_made_negative_is_zero():
    p, g = np.zeros((40, 2), np.float32), arrays(np.float32, [(40, 2)])[0] * 1000       # (rank 2 of 40)
    opt = fastlr.Shampoo([p], lr=0.1)
    for _ in range(3):
        opt.step([g])
    assert all(np.linalg.eigvalsh(opt.state["0"]["L"])[k] < 0 for k in (0, 1))
    assert np.abs(opt.state["0"]["PL"]).max() < 1e-6**-0.25 * 1.01
    assert np.abs(p).max() < 10


def test_shampoo_and_soap_renew_when_told():
    for cls in (fastlr.Shampoo, fastlr.SOAP):
        assert follows_with(cls, {"every": 3}) < 1e-8
        assert follows_with(cls, {"every": 3}, {"every": 2}) > 1e-6


def follows_with(cls, choice, other=None):
    p, *grads = arrays(np.float64, [(6, 6)] * 9)
    want, memory = p.copy(), {}
    opt = cls([p], lr=0.01, weight_decay=0.0, **choice)
    for t, g in enumerate(grads, 1):
        opt.step([g])
        want = paper(cls, want, g, t, memory, full(cls, {"lr": 0.01}) | (other or choice))
    return apart(p, want)


def test_a_side_that_is_too_long_is_left_as_it_is():
    for cls in (fastlr.Shampoo, fastlr.SOAP):
        p, g = arrays(np.float64, [(4, 9)] * 2)
        opt = cls([p], largest=4)
        for _ in range(3):
            opt.step([g])
        assert {"L"} == {"L", "R"} & opt.state["0"].keys()
        assert np.isfinite(p).all()
    p, g = arrays(np.float64, [(4, 9)] * 2)
    want = p - 0.1 * reference.power(g @ g.T + 1e-6 * np.eye(4), -0.5) @ g
    fastlr.Shampoo([p], lr=0.1, largest=4).step([g])
    assert apart(p, want) < 1e-10


# Steps that fail half-way

def failing(monkeypatch, where, name, error, after):
    """Let a function raise at its `after`-th call."""
    real, calls = getattr(where, name), []

    def fails(*arguments, **keywords):
        calls.append(name)
        if len(calls) == after:
            raise error
        return real(*arguments, **keywords)

    monkeypatch.setattr(where, name, fails)
    return calls


@pytest.mark.parametrize(("cls", "where", "name", "after", "error"), [
    (fastlr.Muon, fastlr.optimizers.spectral, "orthogonalized", 2, KeyboardInterrupt()),
    (fastlr.Muon, fastlr.optimizers.spectral, "orthogonalized", 2, MemoryError()),
    (fastlr.Shampoo, np.linalg, "eigh", 3, np.linalg.LinAlgError("no convergence")),
    (fastlr.SOAP, np.linalg, "eigh", 3, KeyboardInterrupt()),
    (fastlr.SOAP, np.linalg, "qr", 4, MemoryError()),
], ids=lambda value: getattr(value, "__name__", None) or repr(value))
def test_a_step_that_fails_half_way_changes_nothing(monkeypatch, cls, where, name, after, error):
    """The second matrix fails: what comes before it, and what is small, has not moved. The next step goes on."""
    shapes = [(70, 66), (6, 5), (11,), (66, 90)]
    params = arrays(np.float32, shapes)
    keywords = {"lr": 0.01, "clip_zscore": 2.0, "clip_zscore_warmup": 2, "ema_decay": 0.9}
    keywords |= {"every": 1} if cls is fastlr.SOAP else {}
    opt = cls(params, **keywords)
    again = [p.copy() for p in params]
    other = cls(again, **keywords)
    warm = 1 if name == "qr" else 0
    for t in range(4):
        grads = arrays(np.float32, shapes, seed=t)
        if t == warm:
            before = snapshot(opt, params), opt.norms, opt.grad_norm
            with monkeypatch.context() as patched:
                calls = failing(patched, where, name, error, after)
                with pytest.raises(type(error)):
                    opt.step([g.copy() for g in grads], zero_grads=True)
                assert len(calls) == after
            assert (snapshot(opt, params), opt.norms, opt.grad_norm) == before
        opt.step(grads)
        other.step(grads)
    assert all(apart(p, q) < 1e-4 for p, q in zip(params, again, strict=True))       # (BLAS: not bit for bit)


@every_with_fallback
def test_numpys_warnings_are_not_raised_half_way(cls):
    """An infinite gradient is propagated, as by every rule, whatever NumPy is told to do of it."""
    shapes = [(70, 80), (4, 3), (90, 70)]
    params, grads = arrays(np.float32, shapes), arrays(np.float32, shapes, seed=1)
    grads[2][0, 0] = np.inf
    opt = cls(params)
    with np.errstate(all="raise"):
        for _ in range(2):
            opt.step(grads)
    assert np.isnan(params[2]).any()
    assert np.isfinite(params[0]).all()


# Small matrices of Muon's, which fastlr iterates on without NumPy

SMALL = [(8, 8), (1, 9), (9, 1), (3, 40), (40, 3), (17, 16), (16, 33), (30, 59), (64, 64), (2, 3, 5)]


@pytest.mark.parametrize("shape", [*SMALL, (3, 1000), (65, 64), (300, 20)], ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 5e-4), (np.float64, 1e-10)])
def test_muons_step_is_its_polynomial_of_singular_values(shape, dtype, bound):
    p, g = arrays(dtype, [shape] * 2)
    flat = g.astype(np.float64).reshape(of_two_axes(shape))
    for name, chosen in COEFFICIENTS.items():
        want = reference.polynomial_of_singular_values(flat / np.linalg.norm(flat), of_each_step(chosen, 6))
        q = np.zeros_like(p)
        fastlr.Muon([q], lr=1.0, adjust="none", weight_decay=0.0, coefficients=name, steps=6).step([g])
        assert apart(-q.astype(np.float64).reshape(flat.shape), want) < bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_bit_of_small_matrices_depends_on_threads_other_tensors_or_layout(dtype):
    shapes = SMALL * 8
    results = set()
    for threads in (1, 2, 3):
        fastlr.set_num_threads(threads)
        params = arrays(dtype, shapes)
        opt = fastlr.Muon(params)
        for t in range(3):
            opt.step(arrays(dtype, shapes, seed=t))
        results.add(b"".join(bits(params)))
    assert len(results) == 1
    for laid in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=0)[::2]):
        alone = [laid(p) for p in arrays(dtype, shapes)]
        for k, p in enumerate(alone):
            opt = fastlr.Muon([p])
            for t in range(3):
                opt.step([laid(arrays(dtype, shapes, seed=t)[k])])
        assert b"".join(np.ascontiguousarray(p).tobytes() for p in alone) in results


def digest():
    found = b""
    for dtype in (np.float32, np.float64):
        params = arrays(dtype, SMALL)
        opt = fastlr.Muon(params, steps=3)
        for t in range(3):
            opt.step(arrays(dtype, SMALL, seed=t))
        found += b"".join(bits(params))
    return hashlib.sha256(found).hexdigest()


def test_no_bit_of_small_matrices_depends_on_the_instruction_set(digests):
    assert len(digests["test_matrix"]) == 1


# Muon's iteration

def of_each_step(chosen, steps):
    return [chosen[min(k, len(chosen) - 1)] for k in range(steps)]


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5), (1, 9), (9, 1), (30, 59)], ids=str)
@pytest.mark.parametrize("name", COEFFICIENTS)
def test_the_iteration_is_its_polynomial_of_singular_values(shape, name):
    x, = arrays(np.float64, [shape])
    x /= np.linalg.norm(x)
    given = of_each_step(COEFFICIENTS[name], 7)
    want = reference.polynomial_of_singular_values(x, given)
    assert apart(orthogonalized(x.copy(), given), want) < 1e-9
    assert apart(orthogonalized(x.astype(np.float32), given), want) < 2e-3


def test_what_the_presets_do_to_singular_values():
    x, = arrays(np.float64, [(30, 40)])
    x /= np.linalg.norm(x)
    low, high = zip(*((s.min(), s.max()) for s in (np.linalg.svd(orthogonalized(x.copy(), of_each_step(c, 5)), compute_uv=False)
                                                   for c in COEFFICIENTS.values())), strict=True)
    found = dict(zip(COEFFICIENTS, zip(low, high, strict=True), strict=True))
    assert 0.6 < found["original"][0] < 0.8 < 1.1 < found["original"][1] < 1.2         # (near one, on purpose not at it)
    assert 0.95 < found["quintic"][0] < found["quintic"][1] < 1.05
    assert 0.85 < found["polar_express"][0] < found["polar_express"][1] < 1.15
    assert apart(orthogonalized(x.copy(), COEFFICIENTS["exact"] * 40), np.linalg.svd(x, full_matrices=False)[0]
                 @ np.linalg.svd(x, full_matrices=False)[2]) < 1e-12


@pytest.mark.parametrize(("adjust", "want"), [("match_rms_adamw", 0.2 * 8**0.5), ("original", 2.0), ("spectral", 2.0),
                                              ("none", 1.0)])
def test_adjustments(adjust, want):
    assert adjusted(adjust, 8, 2) == pytest.approx(want)
    assert adjusted("original", 2, 8) == 1
    one, two = np.zeros((8, 2)), np.zeros((8, 2))
    g, = arrays(np.float64, [(8, 2)])
    fastlr.Muon([one], lr=0.1, adjust=adjust).step([g])
    fastlr.Muon([two], lr=0.1, adjust="none").step([g])
    assert apart(one, two * want) < 1e-14


def test_tensors_of_more_axes_are_matrices_of_the_first():
    for cls in (fastlr.Muon, fastlr.Shampoo, fastlr.SOAP, fastlr.Adafactor, fastlr.CAME):
        p, g = arrays(np.float64, [(4, 3, 2)] * 2)
        q = p.reshape(4, 6).copy()
        one, two = cls([p]), cls([q])
        for _ in range(3):
            one.step([g])
            two.step([g.reshape(4, 6)])
        assert bits([p]) == bits([q])


# What falls back

@every_with_fallback
def test_what_is_no_matrix_is_moved_by_adamw(cls):
    p, g = arrays(np.float64, [(7,)] * 2)
    q = p.copy()
    hyper = {name: getattr(cls, name) for name in ("beta1", "beta2", "eps")}
    one = cls([p], lr=0.05, weight_decay=0.1, fallback_scale=0.5, decay="decoupled")
    two = fastlr.AdamW([q], lr=0.025, weight_decay=0.1, **hyper)
    for _ in range(4):
        one.step([g])
        two.step([g])
    assert apart(p, q) < 1e-15


@every_with_fallback
def test_a_matrix_may_be_sent_to_the_fallback(cls):
    a, b, ga, gb = arrays(np.float64, [(3, 4)] * 4)
    opt = cls({"embedding": a, "w": b}, fallback={"embedding": True})
    opt.step({"embedding": ga, "w": gb})
    assert sorted(opt.state["embedding"]) == ["m", "v"]
    assert sorted(opt.state["w"]) != ["m", "v"]


@every_with_fallback
def test_without_a_fallback_a_vector_is_refused(cls):
    with pytest.raises(ValueError, match=rf"{cls.__name__}: parameter 'b' has 1 dimension, {cls.__name__} needs 2 or "
                                         r"more; pass fallback='adamw' to update it with AdamW"):
        cls({"w": np.zeros((2, 2)), "b": np.zeros(3)}, fallback=None)
    cls({"w": np.zeros((2, 2))}, fallback=None)


# What is chosen once

@pytest.mark.parametrize(("make", "says"), [
    (lambda p: fastlr.Muon(p, adjust="orignal"), "Muon: adjust must be one of 'match_rms_adamw', 'original', 'spectral', "
                                                 "'none', got 'orignal'; did you mean 'original'?"),
    (lambda p: fastlr.Muon(p, coefficients="cubic"), "Muon: coefficients must be one of 'original', 'quintic', "
                                                     "'polar_express', 'exact', or triples (a, b, c), got 'cubic'"),
    (lambda p: fastlr.Muon(p, coefficients=[(1.0, 2.0)]), "or triples (a, b, c), got [(1.0, 2.0)]"),
    (lambda p: fastlr.Muon(p, steps=0), "Muon: steps must be a positive integer, got 0"),
    (lambda p: fastlr.Muon(p, steps=True), "Muon: steps must be a positive integer, got True"),
    (lambda p: fastlr.Muon(p, nesterov="yes"), "Muon: nesterov must be one of True, False, got 'yes'"),
    (lambda p: fastlr.Muon(p, fallback="sgd"), "Muon: fallback must be 'adamw', None, or say which parameters AdamW "
                                               "moves, got 'sgd'"),
    (lambda p: fastlr.Adafactor(p, convention="jax"), "Adafactor: convention must be 'paper', 'torch', 'optax', "
                                                      "got 'jax'"),
    (lambda p: fastlr.Shampoo(p, every=1.5), "Shampoo: every must be a positive integer, got 1.5"),
    (lambda p: fastlr.AdamMini(p, blocks=5), "AdamMini: blocks of '0' must be a count that divides its 12 elements, got 5"),
    (lambda p: fastlr.AdamMini(p, blocks={"x": 2}), "AdamMini: blocks names no parameter: 'x'"),
    (lambda p: fastlr.SOAP(p, state_dtype="int8"), "SOAP: state_dtype must be 'float32' or 'float64', as sums over rows "
                                                   "and columns need, got 'int8'"),
    (lambda p: fastlr.Muon(p, fallback={"x": True}), "Muon: fallback names no parameter: 'x'"),
])
def test_a_wrong_choice_is_refused(make, says):
    with pytest.raises(ValueError) as error:
        make([np.zeros((3, 4))])
    assert says in str(error.value)


def test_a_choice_is_for_the_constructor():
    opt = fastlr.Muon([np.zeros((3, 4))], steps=3, coefficients=(2.0, -1.5, 0.5))
    assert (opt.steps, opt.coefficients, opt.nesterov) == (3, [(2.0, -1.5, 0.5)], True)
    with pytest.raises(AttributeError, match="Muon: steps is for the constructor, it cannot be set later"):
        opt.steps = 4


def test_sm3_keeps_no_mean_it_was_not_made_for():
    opt = fastlr.SM3([np.zeros((3, 4))], momentum=0.0)
    assert list(opt.state["0"]) == ["mu0", "mu1"]
    with pytest.raises(ValueError, match="SM3: this one was made with momentum=0 and keeps no mean"):
        opt.momentum = 0.9
    assert opt.momentum == 0


@pytest.mark.parametrize("cls", [cls for cls in MATRIX if cls not in BY_ROWS], ids=lambda cls: cls.__name__)
def test_rows_alone_are_refused(cls):
    with pytest.raises(TypeError, match=f"{cls.__name__}: step_rows is for elementwise rules"):
        cls({"w": np.zeros((4, 3))}).step_rows("w", np.array([1]), np.ones((1, 3)))


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (3, 4), (2, 3, 4)], ids=str)
def test_a_row_of_adagrad_is_an_index_of_the_first_axis(shape):
    p, *grads = arrays(np.float64, [shape] * 4)
    p = np.array(p)
    want, memory = p.copy(), {"s": 0.25}
    opt = fastlr.RowwiseAdaGrad([p], lr=0.1, initial_accumulator_value=0.25)
    assert opt.state["0"]["s"].shape == (shape[:1] or (1,))
    for t, g in enumerate(grads, 1):
        opt.step([np.array(g)])
        want = reference.RowwiseAdaGrad(want, np.array(g), t, memory, lr=0.1, lr_decay=0.0, eps=1e-10)
    assert apart(p, want) < 1e-14
    np.testing.assert_allclose(opt.state["0"]["s"], memory["s"], rtol=1e-14)
    if shape in ((3,), (4, 1)):                    # (rows of one element: AdaGrad)
        q = arrays(np.float64, [shape])[0]
        plain = fastlr.AdaGrad([q], lr=0.1, initial_accumulator_value=0.25)
        for g in grads:
            plain.step([g])
        assert apart(p, q) < 1e-14


def test_blocks_of_adam_mini():
    p, g = arrays(np.float64, [(6, 4)] * 2)
    for blocks in (1, 2, 24):
        x, memory = p.copy(), {}
        opt = fastlr.AdamMini({"q": x}, blocks={"q": blocks}, weight_decay=0.0)
        opt.step({"q": g})
        want = reference.AdamMini(p, g, 1, memory, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, blocks=blocks)
        assert apart(x, want) < 1e-15
        assert opt.state["q"]["v"].shape == (blocks,)


# Rules and their tables

def with_rule(rule):
    """A driver of one tensor by a rule that AdamMini's class does not know."""
    opt = fastlr.AdamMini([np.zeros((3, 4))])
    return MatrixStep(kernels.tensor_ops, opt._tensors, [rule], opt._fields, WeakMethod(opt._update), {})


def changed(rule, **fields):
    return MatrixRule(**{field: getattr(rule, field) for field in rule.__slots__} | fields)


def changed_table(rule, place, value):
    """A rule whose table has another number as one of its first C integers."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    new = ctypes.pythonapi.PyCapsule_New
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    address = get(rule.table, b"fastlr.matrix_rule")
    size = ctypes.cast(address, ctypes.POINTER(ctypes.c_size_t))[1]            # (behind the version)
    assert 100 < size < 1000
    table = ctypes.create_string_buffer(size)
    ctypes.memmove(table, address, size)
    ctypes.cast(table, ctypes.POINTER(ctypes.c_int))[place] = value
    return table, changed(rule, table=new(ctypes.addressof(table), b"fastlr.matrix_rule", None))


def test_a_rule_that_does_not_fit_is_refused():
    rule = matrix_rule("fastlr._matrix.adam_mini:adam_mini")
    with_rule(rule)
    with pytest.raises(ImportError, match=r"adam_mini:adam_mini names 2 settings and 2 slots, its table has 3 and 2"):
        with_rule(changed(rule, settings=rule.settings[1:]))
    with pytest.raises(TypeError, match=r"adam_mini:adam_mini reads 'rate', which is neither a hyper-parameter nor an "
                                        r"option of its optimizer"):
        with_rule(changed(rule, settings=(*rule.settings[1:], "rate")))
    table, other = changed_table(rule, 0, 77)
    with pytest.raises(ImportError, match=r"adam_mini:adam_mini has a table of version 77, expected \d+; build its module anew"):
        with_rule(other)
    del table


def test_the_driver_knows_no_rule_by_name():
    folder = Path(fastlr.__file__).parent / "_matrix"
    driver = folder / "matrix_step.pyx"
    if not driver.exists():
        pytest.skip("no sources beside the package")
    text = driver.read_text().lower()
    names = {path.stem for path in folder.glob("*.pyx")} - {"matrix_step"} | {cls.__name__.lower() for cls in MATRIX}
    assert len(names) > 10
    assert [name for name in names if name in text] == []


# Bits

@every_own
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_bit_depends_on_threads(cls, dtype):
    results = set()
    for threads in (1, 2, 3):
        fastlr.set_num_threads(threads)
        params = arrays(dtype, LARGE + SHAPES)
        opt = cls(params, ema_decay=0.5)
        for t in range(2):
            opt.step(arrays(dtype, LARGE + SHAPES, seed=t + 1))
        slots = [array for slots in opt.state.values() for array in slots.values()]
        results.add(b"".join(bits(params) + bits(slots)))
    assert len(results) == 1


@every_own
def test_tensors_do_not_know_each_other(cls):
    together, grads = arrays(np.float32, SHAPES + LARGE), arrays(np.float32, SHAPES + LARGE, seed=1)
    alone = [p.copy() for p in together]
    cls(together).step(grads)
    for p, g in zip(alone, grads, strict=True):
        cls([p]).step([g])
    assert bits(together) == bits(alone)


@every_own
@pytest.mark.parametrize("shape", [(70, 90), (9000,), (3, 4, 600)], ids=str)
@pytest.mark.parametrize("laid", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=0)[::2], lambda a: a[::-1].copy()[::-1]])
def test_no_bit_depends_on_layout(cls, shape, laid):
    p, *grads = arrays(np.float32, [shape] * 4)
    q = laid(p.copy())
    one, two = cls([p]), cls([q])
    for g in grads:
        one.step([g])
        two.step([laid(g)])
    assert bits([p]) == bits([q])
    assert bits(one.state["0"].values()) == bits(two.state["0"].values())


@every_own
@pytest.mark.parametrize("shape", [(20, 30), (130, 170)], ids=str)
def test_a_preprocessed_gradient_is_the_gradient_preprocessed_by_hand(cls, shape):
    p, *grads = arrays(np.float32, [shape] * 4)
    q = p.copy()
    one, two = cls([p], clip_value=1.0, maximize=True), cls([q])
    for g in grads:
        one.step([g], grad_scale=4.0)
        two.step([np.clip(-(g * np.float32(0.25)), np.float32(-1), np.float32(1))])
    assert bits([p]) == bits([q])


@every_matrix
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_parameters_move_as_their_float32_copies(cls, dtype):
    values, g = arrays(np.float32, [(20, 20)] * 2)
    if dtype == "float16":
        p = values.astype(np.float16)
        wide, stored = p.astype(np.float32), lambda x: x.astype(np.float16)
        given = {}
    else:
        p = (values.view(np.uint32) >> 16).astype(np.uint16)
        wide = (p.astype(np.uint32) << 16).view(np.float32)
        given = {"dtype": "bfloat16"}

        def stored(x):
            u = x.view(np.uint32)
            return ((u + 0x7fff + (u >> 16 & 1)) >> 16).astype(np.uint16)
    cls([p], **given).step([g])
    cls([wide]).step([g])
    if cls in OWN:
        assert bits([p]) == bits([stored(wide)])
    else:                              # (BLAS may round otherwise at another address)
        moved = (p.astype(np.uint32) << 16).view(np.float32) if given else p.astype(np.float32)
        assert apart(moved, wide) < 2**-8


@every_matrix
def test_a_learning_rate_per_element_scales_what_it_moves(cls):
    p, g = arrays(np.float64, [(5, 4)] * 2)
    factors = np.abs(arrays(np.float64, [(5, 4)], seed=7)[0])
    q = p.copy()
    one, two = cls([p], lr=0.01, weight_decay=0.0, lr_scale=[factors]), cls([q], lr=0.01, weight_decay=0.0)
    before = p.copy()
    for _ in range(2):                 # (SOAP's first moves nothing)
        before[...], q[...] = p, p
        one.step([g])
        two.step([g])
    assert apart(p - before, (q - before) * factors) < 1e-12


@every_matrix
def test_zero_grads_and_skipped_steps(cls):
    p, g = arrays(np.float32, [(5, 4)] * 2)
    opt = cls([p], nonfinite="skip")
    given = g.copy()
    opt.step([given], zero_grads=True)
    assert not given.any()
    before = snapshot(opt, [p])
    bad = g.copy()
    bad[2, 3] = np.nan
    opt.step([bad])
    assert snapshot(opt, [p]) == before
    assert opt.skipped == 1


@every_matrix
def test_a_refused_step_changes_nothing(cls):
    params, grads = arrays(np.float32, [(5, 4), (3,)]), arrays(np.float32, [(5, 4), (4,)])
    opt = cls(params)
    before = snapshot(opt, params)
    with pytest.raises(ValueError, match=r"grads\[1\]: expected float32 \(3,\)"):
        opt.step(grads)
    assert snapshot(opt, params) == before
    slot = next(iter(opt.state["1"].values()))
    if slot.shape == (3,) and slot.dtype == np.float32:
        with pytest.raises(ValueError, match="shares memory with parameter '1' or its state"):
            opt.step([grads[0], slot])
    assert snapshot(opt, params) == before


@every_matrix
def test_nan_and_infinity_are_propagated_without_an_error(cls):
    for bad in (np.nan, np.inf):
        p, g = arrays(np.float64, [(5, 4)] * 2)
        g[1, 2] = bad
        opt = cls([p])
        with np.errstate(all="ignore"):
            for _ in range(3):
                opt.step([g])
        assert not np.isfinite(p).all()


@every_matrix
def test_it_resumes_exactly_from_a_file(cls, tmp_path):
    params = arrays(np.float32, [(12, 9), (6,)])
    opt = cls(params, lr=fastlr.schedules.cosine(0.01, steps=20))
    grads = [arrays(np.float32, [(12, 9), (6,)], seed=t) for t in range(25)]
    for g in grads[:12]:
        opt.step(g)
    fastlr.save(tmp_path / "run", opt)
    again = [p.copy() for p in params]
    other = cls(again)
    fastlr.load(tmp_path / "run", other)
    for g in grads[12:]:
        opt.step(g)
        other.step(g)
    assert bits(params) == bits(again)
    assert snapshot(opt, params)[1:3] == snapshot(other, again)[1:3]


def test_a_new_group_leaves_the_state_of_the_others():
    p, q, g = arrays(np.float64, [(4, 3)] * 3)
    alone = p.copy()
    opt, other = fastlr.Adafactor([p]), fastlr.Adafactor([alone])
    opt.step([g])
    opt.add_group([q], lr=0.5)
    opt.step([[g], [g]])
    for _ in range(2):
        other.step([g])
    assert bits([p]) == bits([alone])


# Squares that overflow or vanish in float64, and quotients of zeros

SCALES = [2.0**-700, 2.0**-560, 2.0**-300, 2.0**300, 2.0**560, 2.0**700]       # (of 2**560, a square is no double)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(8, 8), (70, 90)], ids=str)
@pytest.mark.parametrize("convention", ["torch", "optax"])
def test_muons_norm_is_that_of_gradients_of_any_size(scale, shape, convention):
    p, g = arrays(np.float64, [shape] * 2)
    q = p.copy()
    keywords = {"lr": 0.1, "norm_eps": 0.0, "weight_decay": 0.0, "convention": convention}
    one, two = fastlr.Muon([p], **keywords), fastlr.Muon([q], **keywords)
    for _ in range(3):
        one.step([g])
        two.step([g * scale])
    assert apart(q, p) < 1e-12


def test_muons_norm_may_be_no_double_itself():
    p, q = np.zeros((6, 6)), np.zeros((6, 6))
    g = np.full((6, 6), 1e308) * np.where(arrays(np.float64, [(6, 6)])[0] > 0, 1, -1)
    fastlr.Muon([p], lr=0.1).step([g])
    fastlr.Muon([q], lr=0.1).step([g / 1e308])
    assert np.isfinite(p).all()
    assert apart(p, q) < 1e-12


def test_muons_epsilon_bounds_a_norm_that_vanishes():
    p, g = arrays(np.float64, [(6, 6)] * 2)
    q = p.copy()
    fastlr.Muon([p], lr=0.1, weight_decay=0.0).step([g * 2.0**-700])
    assert apart(p, q) < 1e-100                    # (1e-210 / 1e-7)
    fastlr.Muon([p], lr=0.1, weight_decay=0.0, norm_eps=2.0**-700).step([g * 2.0**-700])
    fastlr.Muon([q], lr=0.1, weight_decay=0.0, norm_eps=1.0).step([g])
    assert apart(p, q) < 1e-12


# Powers of two of the gradient and of the parameter. (AdamP's second moment holds no larger gradients.)
SIZES = [(fastlr.AdamP, 0, 600), (fastlr.AdamP, 0, -600), (fastlr.SGDP, 600, 0), (fastlr.SGDP, 0, 600), (fastlr.SGDP, -600, 0),
         (fastlr.SGDP, 0, -600), (fastlr.SGDP, 560, 560), (fastlr.SGDP, -560, -560)]


@pytest.mark.parametrize("by", ["rows", "whole", "neither"])
@pytest.mark.parametrize(("cls", "of_g", "of_p"), SIZES)
def test_projections_are_right_for_gradients_and_parameters_of_any_size(cls, of_g, of_p, by):
    """The update is as large as SGDP's gradient, and of AdamP's own size: a learning rate makes up for both."""
    p, = arrays(np.float64, [(6, 50)])
    q = p * 2.0**of_p
    lr = 2.0 ** (-10 + of_p - (of_g if cls is fastlr.SGDP else 0))
    one, two = (cls([x], lr=rate, eps=0.0, weight_decay=0.0) for x, rate in ((p, 2.0**-10), (q, lr)))
    for t in range(4):
        g = across(arrays(np.float64, [(6, 50)], seed=t + 1)[0], p, by)
        one.step([g])
        two.step([g * 2.0**of_g])
    assert apart(q / 2.0**of_p, p) < 1e-12


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(8, 8), (70, 90), (50,), (9000,)], ids=str)
def test_adafactors_step_is_relative_to_parameters_of_any_size(scale, shape):
    p, g = arrays(np.float64, [shape] * 2)
    q = p * scale
    one, two = fastlr.Adafactor([p], eps2=0.0), fastlr.Adafactor([q], eps2=0.0)
    for _ in range(3):
        one.step([g])
        two.step([g])
    assert apart(q / scale, p) < 1e-12


NO_EPSILON = dict.fromkeys(("eps", "eps1", "eps2", "norm_eps", "matrix_eps"), 0.0)


@every_matrix
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 4), (70, 80), (6,)], ids=str)
def test_without_an_epsilon_no_gradient_moves_nothing(cls, dtype, shape):
    p, = arrays(dtype, [shape])
    before = p.copy()
    opt = cls([p], weight_decay=0.0, **{name: value for name, value in NO_EPSILON.items() if name in cls.hypers})
    for _ in range(3):
        opt.step([np.zeros(shape, dtype)])
    assert bits([p]) == bits([before])


@every_own
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_an_epsilon_a_row_without_a_gradient_does_not_stop_the_others(cls, dtype):
    p, *grads = arrays(dtype, [(6, 5)] * 4)
    before = p.copy()
    opt = cls([p], weight_decay=0.0, **{name: value for name, value in NO_EPSILON.items() if name in cls.hypers})
    for g in grads:
        g[2] = 0
        opt.step([g])
    assert np.isfinite(p).all()
    assert bits([p[2]]) == bits([before[2]])
    assert (p[[0, 1, 3, 4, 5]] != before[[0, 1, 3, 4, 5]]).any(axis=1).all()


# What peers get wrong (found in their sources)

def test_a_factored_state_takes_rows_and_columns_only():
    shape = (1000, 700)
    for cls, most in ((fastlr.Adafactor, 1700), (lambda p: fastlr.SM3(p, momentum=0.0), 1700)):
        opt = cls([np.zeros(shape, np.float32)])       # (Keras' Adafactor keeps all squares besides)
        assert sum(array.size for array in opt.state["0"].values()) == most
    opt = fastlr.AdamMini([np.zeros(shape, np.float32)])
    assert opt.state["0"]["v"].size == 1000
    opt = fastlr.RowwiseAdaGrad([np.zeros(shape, np.float32)])
    assert [slot.nbytes for slot in opt.state["0"].values()] == [4 * 1000]


def test_the_machine_epsilon_is_that_of_each_tensor():
    """torch.optim.Adafactor takes the first tensor's for all."""
    g = np.full((3, 2), 1e-20)
    for first in (np.float16, np.float32, np.float64):
        p = np.ones((3, 2))
        fastlr.Adafactor([np.ones((3, 2), first), p], convention="torch", eps1=0.0, lr=1.0) \
            .step([np.ones((3, 2), first), g])
        alone = np.ones((3, 2))
        fastlr.Adafactor([alone], convention="torch", eps1=0.0, lr=1.0).step([g])
        assert bits([p]) == bits([alone])


def test_small_gradients_are_not_lost_in_float32():
    """Squares of 1e-25 are no float32: sums of rows and columns are of doubles."""
    p = np.ones((4, 3), np.float32)
    fastlr.Adafactor([p], eps1=0.0).step([np.full((4, 3), 1e-25, np.float32)])
    assert (p == np.float32(0.99)).all()


def test_no_tensor_is_passed_over_and_none_need_a_name():
    """Adam-mini's peers go by names such as 'q_proj.weight', and move what is renamed by another rule."""
    p, q = arrays(np.float64, [(4, 4)])[0], arrays(np.float64, [(4, 4)])[0]
    g, = arrays(np.float64, [(4, 4)], seed=1)
    fastlr.AdamMini({"q_proj.weight": p}).step({"q_proj.weight": g})
    fastlr.AdamMini({"anything": q}).step({"anything": g})
    assert bits([p]) == bits([q])


def test_soap_keeps_float64_in_its_decomposition():
    """Its peers decompose in float32, which leaves bases that are orthogonal to 1e-7."""
    p, *grads = arrays(np.float64, [(6, 5)] * 13)
    opt = fastlr.SOAP([p], every=2)
    for g in grads:
        opt.step([g])
    for basis in (opt.state["0"]["QL"], opt.state["0"]["QR"]):
        assert np.abs(basis.T @ basis - np.eye(len(basis))).max() < 1e-14


def test_muon_iterates_in_the_precision_of_its_parameters():
    """torch's bfloat16 leaves two digits of the update."""
    p, g = arrays(np.float32, [(20, 30)] * 2)
    want = reference.polynomial_of_singular_values(g.astype(np.float64) / np.linalg.norm(g), COEFFICIENTS["original"] * 5)
    before = p.astype(np.float64)
    fastlr.Muon([p], lr=1.0, adjust="none", weight_decay=0.0).step([g])
    assert apart(before - p, want) < 1e-4


# Going downhill

@every_matrix
def test_a_badly_scaled_quadratic(cls):
    """A sum of squares whose curvatures span four decades, by row and by column."""
    rng = np.random.default_rng(0)
    curvature = np.outer(np.logspace(-1, 1, 8), np.logspace(-1, 1, 6))
    w = rng.normal(size=(8, 6))
    lr = {"Adafactor": 0.05, "CAME": 0.01, "SM3": 0.3, "RowwiseAdaGrad": 1.0, "Shampoo": 1.0,
          "SGDP": 0.02}.get(cls.__name__, 0.03)
    opt = cls([w], lr=fastlr.schedules.linear(lr, steps=1500), weight_decay=0.0)
    first = 0.5 * (curvature * (w - 1) ** 2).sum()     # (a minimum that is not 0: Adafactor's steps are relative to w)
    for _ in range(1500):
        opt.step([curvature * (w - 1)])
    assert 0.5 * (curvature * (w - 1) ** 2).sum() < 1e-3 * first


@every_matrix
def test_rosenbrocks_valley(cls):
    """Rosenbrock's function of each pair of a matrix' columns; its minimum is 1 everywhere."""
    w = np.tile([-1.2, 1.0], (3, 2))
    lr = {"Adafactor": 0.02, "CAME": 0.002, "SGDP": 2e-4}.get(cls.__name__, 0.02)
    lr = {"SM3": 2.0, "RowwiseAdaGrad": 0.5, "Shampoo": 1.0}.get(cls.__name__, fastlr.schedules.linear(lr, steps=4000))
    opt = cls([w], lr=lr, weight_decay=0.0)
    for _ in range(4000):
        x, y = w[:, ::2], w[:, 1::2]
        g = np.empty_like(w)
        g[:, ::2], g[:, 1::2] = -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)
        opt.step([g])
    x, y = w[:, ::2], w[:, 1::2]
    assert ((1 - x) ** 2 + 100 * (y - x**2) ** 2).max() < 1e-2


@every_matrix
def test_logistic_regression_on_real_data(cls):
    """Breast-cancer data, two classes as a softmax of a matrix of weights and a vector of biases."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    truth = np.eye(2)[y]
    w, b = np.zeros((2, 30)), np.zeros(2)
    lr = {"Adafactor": 0.3, "CAME": 0.01, "SM3": 0.3, "Shampoo": 0.3}.get(cls.__name__, 0.03)
    opt = cls({"w": w, "b": b}, lr=fastlr.schedules.linear(lr, steps=300), weight_decay=0.0)
    for _ in range(300):
        scores = x @ w.T + b
        chance = np.exp(scores - scores.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        loss = -np.log((chance * truth).sum(axis=1)).mean()
        off = (chance - truth) / len(x)
        opt.step({"w": off.T @ x, "b": off.sum(axis=0)})
    assert loss < 0.08
