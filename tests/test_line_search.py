"""Line search: the conditions hold, the sequence is that of the book, and nothing odd gets through."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROBLEMS, rosenbrock
from scipy.optimize import line_search as scipy_line_search

import fastlr

C1, C2 = 1e-4, 0.9


def armijo_holds(f, x, d, found, c1=C1):
    value, gradient = f(x)
    return found.value <= value + c1 * found.step * (gradient @ d)


def wolfe_holds(f, x, d, found, c1=C1, c2=C2):
    return armijo_holds(f, x, d, found, c1) and abs(f(found.x)[1] @ d) <= c2 * abs(f(x)[1] @ d)


def counted(f):
    def counting(x):
        counting.calls += 1
        return f(x)

    counting.calls = 0
    return counting


@pytest.mark.parametrize("kind", ["armijo", "wolfe"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_conditions_hold_along_steepest_descent(name, kind):
    f, x = counted(PROBLEMS[name].loss_and_grad), PROBLEMS[name].start
    d = -f(x)[1]
    f.calls = 0
    found = fastlr.line_search(f, x, d, kind)
    assert found.success and found.reason.endswith("hold" + "s" * (kind == "armijo"))
    assert (wolfe_holds if kind == "wolfe" else armijo_holds)(PROBLEMS[name].loss_and_grad, x, d, found)
    assert f.calls == found.evaluations
    assert (found.x == x + found.step * d).all()
    value, gradient = PROBLEMS[name].loss_and_grad(found.x)
    assert (found.value, found.gradient.tolist()) == (value, gradient.tolist())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-6, 6), st.sampled_from([0.1, 0.5, 0.9]))
def test_strong_wolfe_holds_for_any_direction_downhill_and_any_first_trial(seed, magnitude, c2):
    """30 evaluations: six decades either way take 7 to bridge, and the zoom a few more."""
    rng = np.random.default_rng(seed)
    x, d = rng.normal(size=4), rng.normal(size=4)
    d *= -np.sign(rosenbrock(x)[1] @ d)
    found = fastlr.line_search(rosenbrock, x, d, "wolfe", step=10.0**magnitude, c2=c2, max_evaluations=60)
    assert found.success
    assert wolfe_holds(rosenbrock, x, d, found, c2=c2)


def test_armijo_shortens_by_the_factor_until_it_is_satisfied():
    x, d = PROBLEMS["rosenbrock"].start, -rosenbrock(PROBLEMS["rosenbrock"].start)[1]
    found = fastlr.line_search(rosenbrock, x, d, step=3.0, shrink=0.3)
    k = found.evaluations - 2          # (of them one at x, and one at the first trial)
    assert k > 3 and found.step == pytest.approx(3.0 * 0.3**k, rel=1e-15)
    longer = x + found.step / 0.3 * d
    assert rosenbrock(longer)[0] > rosenbrock(x)[0] - C1 * found.step / 0.3 * (d @ d)


def test_armijo_without_a_gradient_needs_a_quadratic_decrease():
    x, d = np.array([1.0, 1.0]), np.array([-3.0, -3.0])
    found = fastlr.line_search(lambda x: x @ x, x, d, c1=0.1)
    assert (found.step, found.gradient, found.success) == (0.5, None, True)
    # x'x = 2 at 0, 8 at 1, 0.5 at 1/2; with c1 = 0.4 the bound there is 2 - 0.4 * 18 / 4 = 0.2
    assert fastlr.line_search(lambda x: x @ x, x, d, c1=0.4).step == 0.25
    assert not fastlr.line_search(lambda x: x @ x, x, np.zeros(2)).success


def test_wolfe_goes_as_far_as_needed_where_armijo_stops_at_the_first():
    x, d = np.full(3, 100.0), np.full(3, -1e-4)

    def f(x):
        return float(x @ x), 2 * x

    assert fastlr.line_search(f, x, d).step == 1
    found = fastlr.line_search(f, x, d, "wolfe", c2=0.1)
    assert 0.9e6 <= found.step <= 1.1e6


def test_wolfe_finds_what_scipy_finds_where_the_first_trial_is_good():
    x = PROBLEMS["breast cancer"].start
    f = PROBLEMS["breast cancer"].loss_and_grad
    d = -f(x)[1]
    theirs = scipy_line_search(lambda x: f(x)[0], lambda x: f(x)[1], x, d, c1=C1, c2=C2)
    found = fastlr.line_search(f, x, d, "wolfe")
    assert (found.step, found.value) == (theirs[0], theirs[3])


@pytest.mark.parametrize("c2", [0.01, 0.001])
def test_a_strict_search_ends_where_that_of_scipy_does(c2):
    """Both at the minimum along the line, to c2 of the slope: the Newton step from there is the bound."""
    x = PROBLEMS["rosenbrock"].start
    d = -1e-3 * rosenbrock(x)[1]
    theirs = scipy_line_search(lambda x: rosenbrock(x)[0], lambda x: rosenbrock(x)[1], x, d, c1=C1, c2=c2, maxiter=50)
    found = fastlr.line_search(rosenbrock, x, d, "wolfe", c2=c2, max_evaluations=50)
    assert found.success
    assert found.step == pytest.approx(theirs[0], rel=4 * c2)


@pytest.mark.parametrize("kind", ["armijo", "wolfe"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_what_is_not_finite_is_too_far(kind, bad, where):
    """-log(x) + x ends at 0; it is undefined beyond."""
    def f(x):
        if x[0] <= 0:
            return (bad, np.zeros(1)) if where == "value" else (-1e9, np.full(1, bad))
        return float(x[0] - np.log(x[0])), 1 - 1 / x

    x, d = np.array([5.0]), np.array([-1.0])
    for step in (6.0, 1e3, 1e6):
        found = fastlr.line_search(f, x, d, kind, step=step)
        assert found.success and found.x[0] > 0 and np.isfinite(found.value)
        assert (wolfe_holds if kind == "wolfe" else armijo_holds)(f, x, d, found)


def test_a_function_that_falls_forever_ends_at_the_last_evaluation():
    found = fastlr.line_search(lambda x: (float(-x[0]), np.array([-1.0])), np.zeros(1), np.ones(1), "wolfe",
                               max_evaluations=7)
    assert not found.success and "7 evaluations" in found.reason
    assert found.evaluations == 8 and found.value == -found.step < -1e4


def test_a_kink_ends_with_the_lowest_point_and_says_so():
    """|x| has no point where the slope is small."""
    found = fastlr.line_search(lambda x: (float(abs(x[0])), np.sign(x)), np.array([1.0]), np.array([-1.0]), "wolfe",
                               step=3.0, c2=0.5, max_evaluations=200, tolerance=1e-6)
    assert not found.success and "bracket" in found.reason
    assert abs(found.x[0]) < 1e-5


def test_no_step_at_all_leaves_x():
    for kind in ("armijo", "wolfe"):
        found = fastlr.line_search(lambda x: (float(x[0]), -np.ones(1)), np.zeros(1), np.ones(1), kind,
                                   max_evaluations=9)
        assert not found.success and found.step == 0 and found.x[0] == 0 and found.value == 0
        assert found.evaluations == 10


@pytest.mark.parametrize("kind", ["armijo", "wolfe"])
@pytest.mark.parametrize("d", [[1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
def test_a_direction_that_is_not_downhill_is_a_result(kind, d):
    x = np.ones(2)
    found = fastlr.line_search(lambda x: (float(x @ x), 2 * x), x, np.array(d), kind)
    assert (found.success, found.step, found.evaluations) == (False, 0, 1)
    assert found.reason == "the direction is no direction of descent"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_dtype_stay_and_nothing_is_written(dtype):
    x, d = np.ones((2, 3), dtype), np.full((2, 3), -4.0, dtype)

    def f(x):
        assert x.dtype == dtype and x.shape == (2, 3)
        value = float((x * x).sum())
        gradient = 2 * x
        x[...] = np.nan                # (it is ours to spoil)
        return value, gradient

    x.flags.writeable = d.flags.writeable = False
    for kind in ("armijo", "wolfe"):
        found = fastlr.line_search(f, x, d, kind)
        assert found.success and found.x.dtype == found.gradient.dtype == dtype and found.x.shape == (2, 3)
        assert (found.x == x + dtype(found.step) * d).all()


def test_integers_and_lists_are_taken_as_float64():
    found = fastlr.line_search(lambda x: (float(x @ x), 2 * x), [3, 4], [-6, -8], "wolfe")
    assert found.x.dtype == np.float64 and found.step == 0.5


def test_a_gradient_buffer_that_f_uses_again_does_no_harm():
    buffer = np.empty(4)

    def f(x):
        value, buffer[...] = rosenbrock(x)
        return value, buffer

    x = np.array([-1.2, 1.0, -1.2, 1.0])
    d = -rosenbrock(x)[1]
    ours, fresh = fastlr.line_search(f, x, d, "wolfe"), fastlr.line_search(rosenbrock, x, d, "wolfe")
    assert (ours.step, ours.value, ours.gradient.tolist()) == (fresh.step, fresh.value, fresh.gradient.tolist())


def square(x):
    return float(x @ x), 2 * x


ERRORS = {
    "kind": ({"kind": "goldstein"}, ValueError, "kind must be 'armijo' or 'wolfe', got 'goldstein'"),
    "f": ({"f": 3}, TypeError, "f must be a function of x, got int"),
    "c1": ({"c1": 0.0}, ValueError, "c1 and c2 must satisfy 0 < c1 < c2 < 1, got c1=0.0"),
    "c2": ({"c2": 1e-5}, ValueError, "0 < c1 < c2 < 1"),
    "step": ({"step": -1.0}, ValueError, "step must be positive and finite, got -1.0"),
    "nan step": ({"step": np.nan}, ValueError, "step must be positive and finite, got nan"),
    "shrink": ({"shrink": 1.0}, ValueError, r"shrink must be in \(0, 1\), got 1.0"),
    "evaluations": ({"max_evaluations": 0}, ValueError, "max_evaluations must be an integer >= 1, got 0"),
    "shape": ({"direction": np.ones(3)}, ValueError, r"direction must have the shape of x, \(2,\), got \(3,\)"),
    "nan": ({"x": np.array([1.0, np.nan])}, ValueError, "x must be finite"),
    "inf": ({"direction": np.array([1.0, np.inf])}, ValueError, "direction must be finite"),
    "text": ({"x": "abc"}, TypeError, "x: expected an array"),
    "complex": ({"x": np.ones(2, complex)}, TypeError, "x must hold real numbers, got complex128"),
    "value": ({"f": lambda x: (np.nan, 2 * x)}, ValueError, "must be finite at x, where the value is nan"),
    "gradient": ({"f": lambda x: (1.0, np.inf * x)}, ValueError, "must be finite at x"),
    "no gradient": ({"f": lambda x: 1.0, "kind": "wolfe"}, TypeError, r"kind='wolfe' needs f to return \(value, gr"),
    "three": ({"f": lambda x: (1.0, x, x)}, TypeError, "it returned 3 things"),
    "gradient's shape": ({"f": lambda x: (1.0, np.ones(5))}, ValueError, r"the gradient must have the shape of x"),
    "no number": ({"f": lambda x: (None, x)}, TypeError, "f must return a number as its value, got NoneType"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_say_what_must_hold(what):
    given, error, message = ERRORS[what]
    arguments = {"f": square, "x": np.ones(2), "direction": -np.ones(2)} | given
    with pytest.raises(error, match=rf"^line_search: .*{message}"):
        fastlr.line_search(**arguments)
