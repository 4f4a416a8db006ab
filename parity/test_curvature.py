"""Sophia beside pytorch_optimizer and optax, fed with the same estimates: 200 float64 steps."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from registry import arrays  # noqa: E402

import fastlr  # noqa: E402

SHAPES = [(13,), (2, 3), (), (1,)]
STEPS, EVERY, SAME = 200, 7, 1e-10
real_step = fastlr.Sophia.step.__wrapped__


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    monkeypatch.setattr(fastlr.Sophia, "step", real_step)


def gradients(t):
    return arrays(np.float64, SHAPES, seed=100 + t)


def estimates(t, positive=False):
    """Those that come with update t, or None."""
    if t % EVERY:
        return None
    found = [np.array(2 + 4 * h) for h in arrays(np.float64, SHAPES, seed=1000 + t)]
    return [np.array(np.abs(h) + 0.1) for h in found] if positive else found


def flat(params):
    return np.concatenate([np.asarray(p).ravel() for p in params])


def our_trail(curvature, **hyper):
    params = arrays(np.float64, SHAPES)
    opt, trail = fastlr.Sophia(params, **hyper), []
    for t in range(STEPS):
        opt.step(gradients(t), curvature=curvature(t))
        trail.append(flat(params))
    return trail


def torch_trail(positive=False, **hyper):
    peer = pytest.importorskip("pytorch_optimizer")
    params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in map(np.array, arrays(np.float64, SHAPES))]
    opt, trail = peer.SophiaH(params, update_period=10**9, **hyper), []
    for t in range(STEPS):
        for p, g in zip(params, gradients(t), strict=True):
            p.grad = torch.from_numpy(np.array(g))
        given = estimates(t, positive)
        opt.step(hessian=None if given is None else [torch.from_numpy(h) for h in given])
        trail.append(flat([p.detach().numpy() for p in params]))
    return trail


def optax_trail(update_interval, **hyper):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    with jax.enable_x64(True):
        handed = optax.GradientTransformationExtraArgs(
            lambda params: (), lambda updates, state, params=None, *, estimate, **_: (estimate, state))
        rule = optax.contrib.sophia(update_interval=update_interval, hessian_diagonal_fn=handed, **hyper)
        params = [jax.numpy.asarray(p) for p in arrays(np.float64, SHAPES)]
        state, trail = rule.init(params), []

        @jax.jit
        def step(grads, state, params, estimate):
            updates, state = rule.update(grads, state, params, estimate=estimate)
            return optax.apply_updates(params, updates), state

        for t in range(STEPS):
            given = estimates(t) or [np.zeros(shape) for shape in SHAPES]
            params, state = step([jax.numpy.asarray(g) for g in gradients(t)], state, params,
                                 [jax.numpy.asarray(h) for h in given])
            trail.append(flat(params))
    return trail


def apart(ours, theirs):
    return max(np.abs(x - y).max() / np.abs(y).max() for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sophia_is_that_of_pytorch_optimizer(decay, foreach):
    """The paper's first version, which clips the step at rho, and not the ratio at 1."""
    rho, lr = 0.2, 0.05
    theirs = torch_trail(lr=lr, p=rho, betas=(0.9, 0.8), eps=1e-2, weight_decay=decay, foreach=foreach)
    alike = {"lr": lr * rho, "rho": rho, "beta1": 0.9, "beta2": 0.8, "eps": 1e-2 * rho, "weight_decay": decay / rho}
    ours = our_trail(estimates, **alike)
    assert apart(ours, theirs) < SAME
    for changed in ({"lr": 0.02}, {"rho": 0.25}, {"beta1": 0.85}, {"beta2": 0.9}, {"eps": 0.2}):     # each weighs
        assert apart(our_trail(estimates, **alike | changed), theirs) > 1e-4


def test_sophia_is_by_its_convention_optaxs_given_each_estimate_a_step_later():
    theirs = optax_trail(EVERY, learning_rate=0.05, b1=0.9, b2=0.8, eps=0.05, gamma=0.2, weight_decay=0.3)
    ours = our_trail(lambda t: [np.zeros(shape) for shape in SHAPES] if t == 0 else estimates(t - 1),
                     convention="optax", lr=0.05, beta1=0.9, beta2=0.8, eps=0.05, rho=0.2, weight_decay=0.3)
    # (its first mean of zeros is zero; the next counts as if it were the first)
    assert apart(ours, theirs) < SAME


def test_the_authors_sophia_is_the_papers_where_curvatures_are_positive_and_epsilon_is_nothing():
    theirs = torch_trail(positive=True, lr=0.05, p=0.2, betas=(0.9, 0.8), eps=0.0)
    ours = our_trail(lambda t: estimates(t, positive=True), convention="authors", lr=0.01, rho=0.2, beta1=0.9, beta2=0.8,
                     eps=0.0, weight_decay=0.0)
    assert apart(ours, theirs) < SAME
    alike = {"lr": 0.01, "rho": 0.2, "eps": 0.05}
    assert apart(our_trail(estimates, convention="authors", **alike), our_trail(estimates, **alike)) > 1e-4
