"""What happens around the rule, held to torch's own."""
import numpy as np
import pytest
import torch

import fastlr


@pytest.mark.parametrize("keywords", [{}, {"growth": 1.7, "backoff": 0.3, "interval": 3, "init": 1000.0}])
def test_loss_scale_is_grad_scaler(keywords):
    scale = fastlr.LossScale(**({"interval": 7} | keywords))
    p = torch.nn.Parameter(torch.zeros(4))
    twin = torch.optim.SGD([p], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale.value, growth_factor=scale.growth,
                                  backoff_factor=scale.backoff, growth_interval=scale.interval)
    q = np.zeros(4, np.float32)
    opt = fastlr.SGD(q, lr=0.1, nonfinite="skip")
    rng = np.random.default_rng(0)
    for t in range(300):
        g = rng.normal(size=4).astype(np.float32)
        if rng.random() < 0.05 or 100 <= t < 110:
            g[t % 4] = rng.choice([np.inf, -np.inf, np.nan])
        assert scaler.get_scale() == scale.value
        p.grad = torch.tensor(g) * scaler.scale(torch.ones(()))
        opt.step(p.grad.numpy().copy(), grad_scale=scale)
        scaler.step(twin)
        scaler.update()
        assert scaler._get_growth_tracker() == scale.streak
    np.testing.assert_allclose(q, p.detach().numpy(), rtol=1e-5, atol=1e-6)


SHAPES = [(7, 30), (30, 7), (5,), (8, 3, 3, 4)]


def pairs(seed=0):
    rng = np.random.default_rng(seed)
    return ([rng.normal(size=s).astype(np.float32) for s in SHAPES],
            [(rng.normal(size=s) * rng.choice([1e-3, 1.0], s[:1] + (1,) * (len(s) - 1))).astype(np.float32) for s in SHAPES])


def test_adaptive_clipping_is_optax():
    optax = pytest.importorskip("optax")
    params, grads = pairs()
    rule = optax.adaptive_grad_clip(0.05, eps=1e-2)
    left, _ = rule.update(grads, rule.init(params), params)
    moved = [p.copy() for p in params]
    fastlr.SGD(moved, lr=1.0, clip_adaptive=0.05, clip_adaptive_eps=1e-2, clip_adaptive_axis=-1).step(grads)
    for p, q, g in zip(params, moved, left, strict=True):
        np.testing.assert_allclose(p - q, g, rtol=2e-5, atol=3e-7)


def test_adaptive_clipping_is_timms():
    agc = pytest.importorskip("timm.utils.agc")
    params, grads = pairs()
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(g)
    agc.adaptive_clip_grad(tensors, clip_factor=0.05, eps=1e-2)
    moved = [p.copy() for p in params]
    fastlr.SGD(moved, lr=1.0, clip_adaptive=0.05, clip_adaptive_eps=1e-2).step(grads)
    for p, q, tensor in zip(params, moved, tensors, strict=True):
        np.testing.assert_allclose(p - q, tensor.grad.numpy(), rtol=2e-5, atol=3e-7)
