"""L-BFGS: minima that others find too, pairs that are refused, and steps that are resumed, refused and undone."""
import copy
from itertools import pairwise

import numpy as np
import pytest
from problems import PROBLEMS, rosenbrock
from scipy.optimize import minimize

import fastlr
from fastlr.optimizers.quasi_newton import curvature

SEARCHES = ["wolfe", "armijo", None]


def closure_of(problem, p):
    return lambda: problem.loss_and_grad(p)


def made(name, line_search="wolfe", **keywords):
    problem = PROBLEMS[name]
    p = problem.start.copy()
    return p, fastlr.LBFGS(p, lr=1.0 if line_search else problem.rate, line_search=line_search, **keywords), \
        closure_of(problem, p)


@pytest.mark.parametrize("line_search", SEARCHES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_minimum_is_the_one_that_scipy_finds(name, line_search):
    problem = PROBLEMS[name]
    p, opt, closure = made(name, line_search, max_iter=300, tolerance_change=1e-15)
    for _ in range(3):
        opt.step(closure)
    assert np.abs(problem.loss_and_grad(p)[1]).max() <= 1e-5
    if (name, line_search) == ("rosenbrock", None):
        assert problem.loss_and_grad(p)[0] == pytest.approx(3.986579, abs=1e-6)      # (its other minimum)
        return
    theirs = minimize(problem.loss_and_grad, problem.start, jac=True, method="L-BFGS-B",
                      options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-9})
    assert problem.loss_and_grad(p)[0] <= theirs.fun + 1e-10
    assert np.abs(p - theirs.x).max() <= 1e-3


def test_a_badly_scaled_quadratic_takes_few_evaluations():
    """Seven variables, the condition 1e6: the gradient's own direction would take millions."""
    p, opt, closure = made("scaled quadratic", max_iter=200)
    opt.step(closure)
    assert PROBLEMS["scaled quadratic"].loss_and_grad(p)[0] < 1e-8
    assert opt.evaluations < 150


class Hilltop:
    """Where it begins its curvature is negative, so that s'y is."""

    start = np.array([0.3, -0.4])

    @staticmethod
    def loss_and_grad(x):
        return float(np.cos(x).sum()), -np.sin(x)


def unguarded(opt):
    opt._epsilon = -np.inf
    return opt


def test_pairs_of_negative_curvature_are_refused_and_would_turn_the_direction_uphill():
    """Two plain steps from where the curvature is negative."""
    def direction_after_two(opt, p):
        for _ in range(2):
            opt.step(closure_of(Hilltop, p))
        g = Hilltop.loss_and_grad(p)[1]
        opt._store_pair(g)
        return opt._held, float(opt._direction(g) @ g)

    p, q = Hilltop.start.copy(), Hilltop.start.copy()
    held, slope = direction_after_two(fastlr.LBFGS(p, lr=0.02, line_search=None, max_iter=1), p)
    assert (held, slope < 0) == (0, True)
    # the same without the guard: negative curves would make of them a direction uphill
    held, slope = direction_after_two(unguarded(fastlr.LBFGS(q, lr=0.02, line_search=None, max_iter=1)), q)
    assert held > 0 and slope > 0


@pytest.mark.parametrize("line_search", ["wolfe", "armijo"])
def test_a_nonconvex_function_falls_at_every_step(line_search):
    p = Hilltop.start.copy()
    opt = fastlr.LBFGS(p, line_search=line_search, max_iter=1)
    losses = [opt.step(closure_of(Hilltop, p)) for _ in range(30)]
    assert all(after <= before for before, after in pairwise(losses))
    assert losses[-1] == pytest.approx(-2, abs=1e-9)


def test_a_direction_uphill_is_dropped_for_the_gradient():
    _, opt, closure = made("rosenbrock", max_iter=3)
    opt.step(closure)
    opt._curves = [-c for c in opt._curves]            # (as no guard lets them be)
    opt._scale = -opt._scale
    opt._length = 0.0
    before = closure()[0]
    opt.step(closure)
    assert closure()[0] < before


@pytest.mark.parametrize("line_search", SEARCHES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_form_of_the_parameters_does_not_matter(dtype, line_search):
    """One array, or the same ten numbers in pieces of every form and layout: the same bits."""
    start = PROBLEMS["rosenbrock"].start.astype(dtype)

    def run(params, gather, spread):
        opt = fastlr.LBFGS(params, lr=0.3, line_search=line_search, max_iter=7)
        for _ in range(3):
            opt.step(lambda: (rosenbrock(gather().astype(np.float64))[0],
                              spread(rosenbrock(gather().astype(np.float64))[1].astype(dtype))))
        return gather().tobytes(), opt.t

    one = start.copy()
    expected = run(one, lambda: one, lambda g: g)
    wide = np.zeros((6, 4), dtype)
    pieces = {"a": wide[::3, 1::2].T, "b": np.empty((), dtype), "c": np.empty((5, 1), dtype, order="F")}
    assert not pieces["a"].flags.c_contiguous

    def spread(x):
        return {"a": x[:4].reshape(2, 2), "b": x[4], "c": x[5:].reshape(5, 1)}

    for form in (dict, lambda d: list(d.values())):
        for name, values in spread(start).items():
            pieces[name][...] = values
        got = run(form(pieces), lambda: np.concatenate([pieces[n].reshape(-1) for n in "abc"]),
                  lambda g, form=form: form({n: np.asarray(x) for n, x in spread(g).items()}))
        assert got == expected


def test_none_is_a_gradient_of_zero():
    p, q = np.ones(2), np.ones(3)
    fastlr.LBFGS([p, q]).step(lambda: (float(p @ p), [2 * p, None]))
    assert np.abs(p).max() < 1e-6 and (q == 1).all()


def test_lr_may_be_a_schedule_of_iterations():
    seen = []

    def lr(t):
        seen.append(t)
        return 0.0 if t == 0 else 0.1

    p = np.ones(2)
    opt = fastlr.LBFGS(p, lr=lr, line_search=None, max_iter=3)
    opt.step(lambda: (float(p @ p), 2 * p))
    assert (p == 1).all() and opt.reason == "lr is 0" and opt.t == 1
    opt.step(lambda: (float(p @ p), 2 * p))
    assert seen[:3] == [0, 1, 2] and opt.t >= 2
    opt.lr = 0.25
    assert opt.lr == 0.25


# Resuming

def steps(opt, closure, n):
    return [opt.step(closure) for _ in range(n)]


@pytest.mark.parametrize("through", ["state_dict", "file", "file without parameters"])
@pytest.mark.parametrize("line_search", SEARCHES)
@pytest.mark.parametrize("k", [0, 1, 4])
def test_resumed_is_uninterrupted_bit_for_bit(k, line_search, through, tmp_path):
    """Four steps of three iterations fill the history of five and go round."""
    p, opt, closure = made("rosenbrock", line_search, history=5, max_iter=3)
    steps(opt, closure, 7)

    q, first, closure = made("rosenbrock", line_search, history=5, max_iter=3)
    steps(first, closure, k)
    r, second, closure = made("rosenbrock", line_search, history=5, max_iter=3)
    second.lr = 7.0
    if through == "state_dict":
        d = copy.deepcopy(first.state_dict())
        steps(first, lambda: closure_of(PROBLEMS["rosenbrock"], q)(), 1)      # what was saved are copies
        r[...] = q_at(k, line_search)
        second.load_state_dict(d)
    else:
        whole = through == "file"
        fastlr.save(tmp_path / "x", first, params=whole)
        if not whole:
            r[...] = q
        fastlr.load(tmp_path / "x", second)
    steps(second, closure, 7 - k)
    assert r.tobytes() == p.tobytes()
    assert (second.t, second.evaluations, second.lr) == (opt.t, opt.evaluations, opt.lr)


def q_at(k, line_search):
    q, opt, closure = made("rosenbrock", line_search, history=5, max_iter=3)
    steps(opt, closure, k)
    return q


def test_state_is_by_name_and_shape():
    p = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float64)}
    opt = fastlr.LBFGS(p, history=4, max_iter=1)
    assert {slot: array.shape for slot, array in opt.state["w"].items()} == {
        "d": (2, 3), "g": (2, 3), "s": (4, 2, 3), "y": (4, 2, 3)}
    opt.step(lambda: (float((p["w"] ** 2).sum() + p["b"] @ p["b"]), {"w": 2 * p["w"], "b": 2 * p["b"]}))
    assert (opt.state["b"]["g"] == 2).all()
    assert "LBFGS(line_search='wolfe', history=4; 2 tensors, 9 elements, 720 bytes of state, t=" in repr(opt)
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(opt)




STATES = {
    "held": (lambda d: d.update(held=11), "held must be a count up to 10, got 11"),
    "newest": (lambda d: d.update(newest=-1), "newest must be a count"),
    "bool": (lambda d: d.update(t=True), "t must be a count"),
    "curves": (lambda d: d.update(curves=[1.0]), "curves must be a list of 10 numbers, as many as history"),
    "nan": (lambda d: d.update(scale=float("nan")), "must be finite numbers >= 0, got nan"),
    "zero": (lambda d: d.update(held=10, curves=[0.0] * 10), "the curves of the .* kept pairs must be positive"),
    "lr": (lambda d: d.update(lr=-1.0), r"lr must be in \[0, inf\), got -1.0"),
    "function": (lambda d: d.update(lr={"callable": "f"}), r"lr was a function \(f\), which is not saved"),
    "entry": (lambda d: d.pop("held"), "no entry 'held'"),
    "unknown": (lambda d: d.update(hold=1), "unknown entry 'hold'; did you mean 'held'"),
    "format": (lambda d: d.update(format=9), "expected format 1, got 9"),
    "class": (lambda d: d.update(optimizer="Adam"), "this is the state of Adam; load it into an object of that class"),
    "shape": (lambda d: d["state"]["0"].update(s=np.zeros(3)), r"state\['0'\]\['s'\]: expected float64 \(10, 2\), got"),
    "name": (lambda d: d["state"].update(b={}), "unknown entry 'b'"),
}


@pytest.mark.parametrize("what", STATES)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(what):
    change, message = STATES[what]
    p = np.ones(2)
    opt = fastlr.LBFGS(p)
    opt.step(lambda: (float(p @ p), 2 * p))
    before = opt.state_dict()
    d = copy.deepcopy(before)
    d["t"] = 77
    change(d)
    with pytest.raises(ValueError, match=rf"^LBFGS.*: .*{message}"):
        opt.load_state_dict(d)
    assert repr(opt.state_dict()) == repr(before)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    p = np.ones(2)
    fastlr.save(tmp_path / "adam", fastlr.Adam(p))
    with pytest.raises(fastlr.CheckpointError, match="this is the state of 'Adam', got an optimizer of class LBFGS"):
        fastlr.load(tmp_path / "adam", fastlr.LBFGS(p))
    fastlr.save(tmp_path / "lbfgs", fastlr.LBFGS(p, history=3))
    with pytest.raises(fastlr.CheckpointError, match=r"expected F64 \(10, 2\) as in this LBFGS, got F64 \(3, 2\)"):
        fastlr.load(tmp_path / "lbfgs", fastlr.LBFGS(p))


# What goes wrong

class Stop(Exception):
    pass


@pytest.mark.parametrize("line_search", SEARCHES)
@pytest.mark.parametrize("after", [0, 1, 2, 5, 9])
def test_a_closure_that_raises_leaves_a_completed_iteration_and_the_rest_can_go_on(after, line_search):
    p, opt, closure = made("rosenbrock", line_search)
    calls = 0
    positions = [p.copy()]

    def raising():
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stop
        return closure()

    with pytest.raises(Stop):
        opt.step(raising)
    q, again, closure = made("rosenbrock", line_search, max_iter=1)
    for _ in range(opt.t):
        again.step(closure_of(PROBLEMS["rosenbrock"], q))
        positions.append(q.copy())
    assert (p == positions[-1]).all()
    p_loss = PROBLEMS["rosenbrock"].loss_and_grad(p)[0]
    opt.step(closure_of(PROBLEMS["rosenbrock"], p))
    assert PROBLEMS["rosenbrock"].loss_and_grad(p)[0] < p_loss


def test_a_loss_that_is_not_finite_to_begin_with_changes_nothing():
    p = np.ones(2)
    opt = fastlr.LBFGS(p)
    for loss, g in ((np.nan, 2 * p), (1.0, np.array([np.inf, 0]))):
        with pytest.raises(FloatingPointError, match=r"^LBFGS: the loss and its gradient must be finite at the given parameters"):
            opt.step(lambda loss=loss, g=g: (loss, g))
    assert (p == 1).all() and (opt.t, opt.evaluations) == (0, 0)


@pytest.mark.parametrize("line_search", SEARCHES)
def test_trials_beyond_the_domain_do_no_harm(line_search):
    p = np.array([40.0, 0.01])

    def closure():
        with np.errstate(all="ignore"):
            return float(np.sum(p - np.log(p))), 1 - 1 / p

    opt = fastlr.LBFGS(p, lr=1000.0, line_search=line_search)
    for _ in range(20):
        opt.step(closure)
        assert np.isfinite(p).all() and (p > 0).all()
    if line_search:
        assert np.allclose(p, 1, atol=5e-3)
    else:
        assert opt.reason == "the loss or its gradient is not finite after the step"


def test_products_that_vanish_in_a_step_are_no_errors_of_the_host():
    p = np.ones(2)
    opt = fastlr.LBFGS(p, line_search=None, tolerance_grad=0, tolerance_change=0)
    with np.errstate(all="raise"):
        opt.step(lambda: (1.0, np.full(2, 1e-170)))
    assert opt.t == opt.max_iter


def test_the_host_keeps_its_floating_point_errors_inside_the_closure():
    p = np.ones(2)

    def closure():
        with pytest.raises(FloatingPointError):
            np.array([1e308]) * 10
        return float(p @ p), 2 * p

    with np.errstate(all="raise"):
        fastlr.LBFGS(p).step(closure)


def test_a_step_inside_a_step_is_refused():
    p = np.ones(2)
    opt = fastlr.LBFGS(p)

    def closure():
        with pytest.raises(RuntimeError, match="stepping already"):
            opt.step(closure)
        with pytest.raises(RuntimeError, match=r"LBFGS\.state_dict: this optimizer is stepping"):
            opt.state_dict()
        return float(p @ p), 2 * p

    opt.step(closure)


ERRORS = {
    "history": ({"history": 0}, ValueError, "history must be an integer >= 1, got 0"),
    "max_iter": ({"max_iter": 1.5}, ValueError, "max_iter must be an integer >= 1, got 1.5"),
    "max_eval": ({"max_eval": -1}, ValueError, "max_eval must be an integer >= 1, got -1"),
    "tolerance_grad": ({"tolerance_grad": -1.0}, ValueError, "tolerance_grad must be finite and >= 0, got -1.0"),
    "tolerance_change": ({"tolerance_change": np.nan}, ValueError, "tolerance_change must be finite and >= 0, got nan"),
    "line_search": ({"line_search": "strong_wolfe"}, ValueError, "line_search must be 'wolfe', 'armijo' or None, got"),
    "c1": ({"c1": 0.95}, ValueError, "0 < c1 < c2 < 1"),
    "lr": ({"lr": "fast"}, TypeError, "lr must be a number or a schedule, got 'fast'"),
    "negative lr": ({"lr": -0.1}, ValueError, r"lr must be in \[0, inf\), got -0.1"),
    "groups": ({"params": [{"params": np.ones(2)}]}, TypeError, "takes parameters, not groups"),
    "float16": ({"params": np.ones(2, np.float16)}, TypeError, "expected float32 or float64, got float16"),
    "integers": ({"params": np.ones(2, int)}, TypeError, "got int64"),
    "read-only": ({"params": np.broadcast_to(1.0, 3)}, ValueError, "must be writable"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_arguments_say_what_must_hold(what):
    given, error, message = ERRORS[what]
    with pytest.raises(error, match=rf"^LBFGS: .*{message}"):
        fastlr.LBFGS(**{"params": np.ones(2)} | given)


def test_shared_memory_is_refused():
    p = np.ones(4)
    with pytest.raises(ValueError, match="parameter '0' and parameter '1' share memory"):
        fastlr.LBFGS([p, p[1:]])


CLOSURES = {
    "none": (lambda p: None, TypeError, r"LBFGS: the closure must return \(loss, grads\), it returned NoneType"),
    "loss alone": (lambda p: 1.0, TypeError, "it returned float"),
    "no number": (lambda p: ("x", 2 * p), TypeError, "the closure must return a number as its value, got str"),
    "shape": (lambda p: (1.0, np.ones(3)), ValueError, r"grads: expected float64 \(2,\) like the parameter, got float64"),
    "dtype": (lambda p: (1.0, np.ones(2, np.float32)), ValueError, r"got float32 \(2,\)"),
}


@pytest.mark.parametrize("what", CLOSURES)
def test_closures_that_return_something_else(what):
    closure, error, message = CLOSURES[what]
    p = np.ones(2)
    opt = fastlr.LBFGS(p)
    with pytest.raises(error, match=message):
        opt.step(lambda: closure(p))
    assert (p == 1).all() and opt.t == 0
    with pytest.raises(TypeError, match=r"step needs a closure that returns \(loss, grads\), got ndarray"):
        opt.step(p)


@pytest.mark.parametrize(("dtype", "tiny", "change"), [(np.float64, 1e-150, 1e-163), (np.float32, 1e-19, 1e-24)])
def test_a_change_of_the_gradient_whose_square_vanishes_is_a_pair(dtype, tiny, change):
    """Was: division by y.y, which had underflowed to zero."""
    p = np.zeros(1, dtype)
    opt = fastlr.LBFGS(p, lr=1 / tiny, line_search=None, max_iter=2, tolerance_grad=0, tolerance_change=0)
    for _ in range(2):
        opt.step(lambda: (float(tiny * p[0]), (tiny - change * p).astype(dtype) * dtype(1)))
    assert np.isfinite(p).all()
    concave = opt.state_dict()["held"]
    p[...] = 0
    opt = fastlr.LBFGS(p, lr=1 / tiny, line_search=None, max_iter=2, tolerance_grad=0, tolerance_change=0)
    opt.step(lambda: (float(tiny * p[0]), (tiny + change * p).astype(dtype)))
    opt.step(lambda: (float(tiny * p[0]), (tiny + change * p).astype(dtype)))
    d = opt.state_dict()
    assert concave == 0 and d["held"] == 1 and d["scale"] == pytest.approx(1 / change, rel=0.1)


def test_curvature_is_that_of_scaled_vectors():
    y, s = np.array([3.0, 4.0]), np.array([1.0, 2.0])
    assert curvature(y, s) == (11.0, 11 / 25)
    with np.errstate(over="ignore", under="ignore"):       # (as in a step)
        assert curvature(y * 1e-200, s) == pytest.approx((11e-200, 11e200 / 25), rel=1e-14)
        assert curvature(y * 1e200, s * 1e100) == pytest.approx((11e300, 11e-100 / 25), rel=1e-14)
    assert curvature(y * 0, s) == (0, 0) and curvature(-y, s) == (-11, -11 / 25)
