"""L-BFGS beside torch's: the same points where both mean the same, and the defects that are not copied."""
import numpy as np
import pytest
from problems import PROBLEMS

import fastlr

torch = pytest.importorskip("torch")

STEPS = 6


def torch_trail(problem, line_search, lr, scale=1.0, history=10, **keywords):
    """Where torch stands after each step, and how many iterations and evaluations that took."""
    p = torch.tensor(problem.start, requires_grad=True)
    opt = torch.optim.LBFGS([p], lr=lr, line_search_fn=line_search, history_size=history, **keywords)

    def closure():
        value, gradient = problem.loss_and_grad(p.detach().numpy())
        p.grad = torch.tensor(scale * gradient)
        return torch.tensor(scale * value, dtype=torch.float64)

    trail = []
    for _ in range(STEPS):
        opt.step(closure)
        state = opt.state[p]
        trail.append((p.detach().numpy().copy(), state["n_iter"], state["func_evals"]))
    return trail


def fastlr_trail(problem, line_search, lr, scale=1.0, **keywords):
    p = problem.start.copy()
    opt = fastlr.LBFGS(p, lr=lr, line_search=line_search, **keywords)

    def closure():
        value, gradient = problem.loss_and_grad(p)
        return scale * value, scale * gradient

    trail = []
    for _ in range(STEPS):
        opt.step(closure)
        trail.append((p.copy(), opt.t, opt.evaluations))
    return trail


@pytest.mark.parametrize("lines", ["strong_wolfe", None])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_same_points_as_torch(name, lines):
    """To 1e-10 of the way in 24 iterations, each of which magnifies what was rounded otherwise (measured: 5e-13)."""
    problem = PROBLEMS[name]
    lr = 1.0 if lines else problem.rate
    keywords = {"max_iter": 4, "tolerance_change": 1e-12}
    theirs = torch_trail(problem, lines, lr, **keywords)
    ours = fastlr_trail(problem, "wolfe" if lines else None, lr, **keywords)
    way = np.abs(theirs[-1][0] - problem.start).max()
    for (p, t, evaluations), (q, n_iter, func_evals) in zip(ours, theirs, strict=True):
        assert np.abs(p - q).max() <= 1e-10 * way
        assert (t, evaluations) == (n_iter, func_evals)


def test_histories_that_are_full_agree():
    problem = PROBLEMS["breast cancer"]
    keywords = {"max_iter": 4, "tolerance_change": 1e-12, "history": 3}
    theirs = torch_trail(problem, "strong_wolfe", 1.0, **keywords)
    ours = fastlr_trail(problem, "wolfe", 1.0, **keywords)
    assert np.abs(ours[-1][0] - theirs[-1][0]).max() <= 1e-10 * np.abs(theirs[-1][0]).max()
    assert np.abs(ours[-1][0] - fastlr_trail(problem, "wolfe", 1.0, **keywords | {"history": 4})[-1][0]).max() > 1e-6


def test_the_guard_does_not_depend_on_the_unit_of_the_loss_as_that_of_torch_does():
    """With s'y > 1e-10, a loss in units of 1e-12 leaves nothing but the gradient's direction."""
    problem = PROBLEMS["scaled quadratic"]
    keywords = {"lr": 1.0, "scale": 1e-12, "tolerance_grad": 0.0, "tolerance_change": 0.0, "max_iter": 50}
    theirs = torch_trail(problem, "strong_wolfe", **keywords)[-1][0]
    ours = fastlr_trail(problem, "wolfe", **keywords)[-1][0]
    assert problem.loss_and_grad(ours)[0] < 1e-3 * problem.loss_and_grad(theirs)[0]


def test_a_loss_that_is_not_a_number_loses_torch_and_not_fastlr():
    """log(x) - x beyond its domain: torch's first trial lands there and never returns."""
    def loss_and_grad(x):
        with np.errstate(all="ignore"):
            return float(np.sum(x - np.log(x))), 1 - 1 / x

    problem = type(PROBLEMS["rosenbrock"])(loss_and_grad, np.array([40.0, 0.01]), 1.0)
    assert not np.allclose(torch_trail(problem, "strong_wolfe", 1000.0)[-1][0], 1)
    assert np.allclose(fastlr_trail(problem, "wolfe", 1000.0)[-1][0], 1, atol=1e-5)
