"""Wrappers beside torch's, optax' and pytorch-optimizer's own, in float64."""
import logging

import numpy as np
import pytest

import fastlr

torch = pytest.importorskip("torch")
STEPS = 40
SHAPES = ((3, 4), (5,), (2, 3, 2))


def numbers(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in SHAPES]


def tensors():
    return [torch.tensor(x, requires_grad=True) for x in numbers(0)]


def give(params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.tensor(g)


def same(ours, theirs, rtol=1e-13):
    for p, q in zip(ours, theirs, strict=True):
        q = q.detach().numpy() if hasattr(q, "detach") else np.asarray(q)
        assert np.abs(p - q).max() <= rtol * max(1, np.abs(q).max())


def test_lookahead_is_that_of_pytorch_optimizer():
    other = pytest.importorskip("pytorch_optimizer")
    ours, theirs = numbers(0), tensors()
    look = fastlr.Lookahead(fastlr.Adam(ours, lr=0.1), k=4, alpha=0.3)
    that = other.Lookahead(torch.optim.Adam(theirs, lr=0.1), k=4, alpha=0.3)
    for step in range(STEPS):
        look.step(numbers(step + 1))
        give(theirs, numbers(step + 1))
        that.step()
        same(ours, theirs)


def test_lookahead_is_that_of_optax():
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    ours = numbers(0)
    look = fastlr.Lookahead(fastlr.Adam(ours, lr=0.1), k=4, alpha=0.3)
    that = optax.lookahead(optax.adam(0.1), sync_period=4, slow_step_size=0.3)
    params = optax.LookaheadParams.init_synced([jax.numpy.asarray(x) for x in numbers(0)])
    state = that.init(params)
    update = jax.jit(that.update)
    for step in range(STEPS):
        look.step(numbers(step + 1))
        updates, state = update([jax.numpy.asarray(g) for g in numbers(step + 1)], state, params)
        params = optax.apply_updates(params, updates)
        same(ours, params.fast)
        same(look.slow.values(), params.slow)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_is_that_of_pytorch_optimizer(adaptive):
    """To what float32 leaves of the norm, in which pytorch-optimizer adds it up for float64 parameters too."""
    other = pytest.importorskip("pytorch_optimizer")
    ours, theirs = numbers(0), tensors()
    sam = fastlr.SAM(fastlr.Momentum(ours, lr=0.1), rho=0.2, adaptive=adaptive)
    that = other.SAM(theirs, torch.optim.SGD, rho=0.2, adaptive=adaptive, lr=0.1, momentum=0.9)
    for step in range(STEPS):
        first, second = numbers(2 * step + 1), numbers(2 * step + 2)
        sam.ascend(first)
        give(theirs, first)
        that.first_step(zero_grad=True)
        same(ours, theirs, rtol=1e-7)
        sam.step(second)
        give(theirs, second)
        that.second_step(zero_grad=True)
        same(ours, theirs)


def test_sam_is_that_of_optax():
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    contrib = pytest.importorskip("optax.contrib")
    jax.config.update("jax_enable_x64", True)
    ours = numbers(0)
    sam = fastlr.SAM(fastlr.Momentum(ours, lr=0.1), rho=0.2)
    that = contrib.sam(optax.sgd(0.1, momentum=0.9), optax.chain(contrib.normalize(), optax.sgd(0.2)))
    params = [jax.numpy.asarray(x) for x in numbers(0)]
    state = that.init(params)
    update = jax.jit(that.update)
    for step in range(2 * STEPS):
        g = numbers(step + 1)
        (sam.step if step % 2 else sam.ascend)(g)
        updates, state = update([jax.numpy.asarray(x) for x in g], state, params)
        params = optax.apply_updates(params, updates)
        same(ours, params)


@pytest.mark.parametrize("kind", ["EMA", "SWA"])
def test_means_are_those_of_torch(kind):
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = torch.nn.ParameterList(tensors())
    ours = numbers(0)
    that = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9) if kind == "EMA" else None)
    mean = None
    for step in range(STEPS):
        for p, q, g in zip(ours, model, numbers(step + 1), strict=True):
            p += g
            q.data += torch.tensor(g)
        if mean is None:               # (torch begins at the values of its first update)
            mean = fastlr.EMA(ours, decay=0.9, warmup=False) if kind == "EMA" else fastlr.SWA(ours)
        mean.update()
        that.update_parameters(model)
        same(mean.params.values(), that.module)


@pytest.mark.parametrize("convolutions", [False, True])
def test_centralisation_is_that_of_pytorch_optimizer_and_of_optax(convolutions):
    other = pytest.importorskip("pytorch_optimizer.optimizer.gradient_centralization")
    optax = pytest.importorskip("optax")
    shapes = ((3, 4), (5,), (2, 3, 2), (2, 3, 4, 5))
    rng = np.random.default_rng(0)
    given = [rng.normal(size=shape) for shape in shapes]
    p = [np.zeros(shape) for shape in shapes]
    fastlr.GradientCentralization(fastlr.SGD(p, lr=1.0), min_dims=4 if convolutions else 2).step(given)
    theirs = [torch.tensor(g) for g in given]
    for g in theirs:
        other.centralize_gradient(g, gc_conv_only=convolutions)
    same([-x for x in p], theirs)
    if not convolutions:
        updates, _ = optax.centralize().update(given, optax.EmptyState())
        same([-x for x in p], updates, rtol=1e-13)
