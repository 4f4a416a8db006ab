"""L-BFGS within bounds: it ends where scipy's L-BFGS-B ends, never leaves the box, and resumes exactly."""
import numpy as np
import pytest

import fastlr


def rosenbrock(x):
    x = np.asarray(x, float)
    a, b = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    g = np.zeros_like(x)
    g[:-1] += -400 * x[:-1] * a - 2 * b
    g[1:] += 200 * a
    return float((100 * a**2 + b**2).sum()), g


def quadratic(seed, n=30):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, n))
    h, c = a @ a.T / n + 0.1 * np.eye(n), rng.normal(size=n) * 2
    return lambda x: (float(0.5 * x @ h @ x - c @ x), h @ x - c)


@pytest.mark.parametrize(("f", "low", "high"), [
    (rosenbrock, -0.5, 0.8), (rosenbrock, -2, 0.0), (quadratic(1), 0, np.inf), (quadratic(2), -0.3, 0.2),
    (quadratic(3), None, 0.1), (quadratic(4), np.linspace(-1, 0, 30), np.linspace(0, 1, 30))])
def test_it_ends_where_scipy_ends(f, low, high):
    optimize = pytest.importorskip("scipy.optimize")
    n = 4 if f is rosenbrock else 30
    x, inside = np.full(n, 3.0), []

    def closure():
        inside.append(x.copy())
        return f(x)

    opt = fastlr.LBFGS(x, bounds=(low, high), max_iter=500, tolerance_change=0.0, tolerance_grad=1e-9)
    opt.step(closure)
    least, most = (np.broadcast_to(default if end is None else end, n) for end, default in
                   ((low, -np.inf), (high, np.inf)))
    assert all(((least <= each) & (each <= most)).all() for each in inside)
    found = optimize.minimize(f, np.clip(np.full(n, 3.0), least, most), jac=True, method="L-BFGS-B",
                              bounds=list(zip(least, most, strict=True)), options={"gtol": 1e-10, "ftol": 1e-16})
    assert f(x)[0] == pytest.approx(found.fun, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(x, found.x, atol=1e-5)


def test_without_an_active_bound_it_finds_the_minimum_and_counts_alike():
    x = np.array([-1.2, 1.0])
    opt = fastlr.LBFGS(x, bounds={"0": (-5, 5)}, max_iter=200, tolerance_change=0.0)
    opt.step(lambda: rosenbrock(x))
    np.testing.assert_allclose(x, 1.0, atol=1e-5)
    assert opt.reason and opt.t <= 60


@pytest.mark.parametrize("kind", ["wolfe", "armijo", None])
def test_bounds_of_some_parameters_and_exact_resume(kind):
    def made():
        p = {"a": np.full(3, 2.0), "b": np.full(2, 2.0, np.float32)}
        opt = fastlr.LBFGS(p, lr=0.1 if kind is None else 1.0, line_search=kind, max_iter=3, bounds={"b": (0.5, None)})
        c = np.array([1.0, -2.0, 0.3])

        def closure():
            a, b = p["a"] - c, p["b"] - np.float32(0.1)
            return float((a**4).sum() + (b**2).sum()), {"a": 4 * a**3, "b": 2 * b}
        return p, opt, closure

    p, opt, closure = made()
    q, other, again = made()
    for k in range(6):
        opt.step(closure)
        if k == 2:
            for name in p:
                q[name][...] = p[name]
            other.load_state_dict(opt.state_dict())
        elif k > 2:
            other.step(again)
    assert [a.tobytes() for a in p.values()] == [a.tobytes() for a in q.values()]
    assert (p["b"] >= 0.5).all() and (kind is None or (p["b"] == 0.5).all())


def test_a_closure_that_raises_leaves_the_latest_point():
    x, calls = np.full(2, 0.5), []

    def closure():
        calls.append(x.copy())
        if len(calls) == 3:
            raise RuntimeError("stop")
        return rosenbrock(x)

    opt = fastlr.LBFGS(x, bounds=(0, 1))
    with pytest.raises(RuntimeError, match="stop"):
        opt.step(closure)
    assert ((x >= 0) & (x <= 1)).all() and np.isfinite(x).all()


@pytest.mark.parametrize(("bounds", "error", "reason"), [
    ((1, 0), ValueError, "bounds of '0': low must be at most high"),
    ((float("nan"), 0), ValueError, "low must be at most high, and neither NaN"),
    ((0, 1, 2), TypeError, r"bounds of '0' must be a pair \(low, high\)"),
    ({"x": (0, 1)}, ValueError, "bounds name no parameter: 'x'"),
    ((np.zeros(3), 1), ValueError, r"must be numbers or arrays of shape \(2,\)"),
    (("a", 1), ValueError, "must be numbers"),
    ((1e300, None), ValueError, "no finite float32 lies within"),
])
def test_bad_bounds_are_refused(bounds, error, reason):
    with pytest.raises(error, match=reason):
        fastlr.LBFGS(np.zeros(2, np.float32), bounds=bounds)
