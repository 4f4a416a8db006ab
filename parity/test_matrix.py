"""Rules that see whole matrices beside other people's, 200 float64 steps: each under the convention that is named."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from registry import arrays  # noqa: E402

import fastlr  # noqa: E402

SHAPES = [(5, 7), (6, 6), (11,)]
SQUARE = [(6, 6), (9, 9)]
STEPS = 200
SAME = 1e-10


def apart(ours, theirs):
    """The largest difference of two trails, relative to the largest element."""
    return max(np.abs(x - y).max() / np.abs(y).max() for x, y in zip(ours, theirs, strict=True))


def gradients(shapes, t):
    return arrays(np.float64, shapes, seed=100 + t)


def our_trail(cls, shapes, **keywords):
    params = arrays(np.float64, shapes)
    opt = cls({f"p{k}": p for k, p in enumerate(params)}, **keywords)
    trail = []
    for t in range(STEPS):
        opt.step({f"p{k}": g for k, g in enumerate(gradients(shapes, t))})
        trail.append(np.concatenate([p.ravel() for p in params]))
    return trail


def torch_trail(make, shapes):
    params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in arrays(np.float64, shapes)]
    opt = make(params)
    trail = []
    for t in range(STEPS):
        for p, g in zip(params, gradients(shapes, t), strict=True):
            p.grad = torch.from_numpy(g.copy())
        opt.step()
        trail.append(np.concatenate([p.detach().numpy().ravel() for p in params]))
    return trail


def optax_trail(make, shapes):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    with jax.enable_x64(True):
        params = [jax.numpy.asarray(p) for p in arrays(np.float64, shapes)]
        rule = make(optax)
        state, trail = rule.init(params), []

        @jax.jit
        def step(grads, state, params):
            updates, state = rule.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        for t in range(STEPS):
            params, state = step([jax.numpy.asarray(g) for g in gradients(shapes, t)], state, params)
            trail.append(np.concatenate([np.asarray(p).ravel() for p in params]))
    return trail


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("hyper", [{}, {"lr": 0.3, "beta2_decay": 0.5, "eps2": 0.1, "clip": 1.7, "weight_decay": 0.1}],
                         ids=["plain", "changed"])
def test_adafactor_is_torchs(foreach, hyper):
    full = {"lr": 0.01, "beta2_decay": 0.8, "eps1": 1e-3, "eps2": 1e-3, "clip": 1.0, "weight_decay": 0.0} | hyper
    ours = our_trail(fastlr.Adafactor, [*SHAPES, (2, 3, 4)], convention="torch", **full)
    theirs = torch_trail(lambda params: torch.optim.Adafactor(
        params, lr=full["lr"], beta2_decay=-full["beta2_decay"], eps=(full["eps1"], full["eps2"]), d=full["clip"],
        weight_decay=full["weight_decay"], foreach=foreach), [*SHAPES, (2, 3, 4)])
    assert apart(ours, theirs) < SAME


def test_adafactor_is_optaxs():
    """optax takes t**-0.8 in float32 even where all else is float64, which is what is left between the two."""
    ours = our_trail(fastlr.Adafactor, SHAPES, convention="optax", lr=0.01, weight_decay=0.01, decay="independent")
    theirs = optax_trail(lambda optax: optax.adafactor(0.01, min_dim_size_to_factor=1, weight_decay_rate=0.01), SHAPES)
    assert apart(ours, theirs) < 1e-6


@pytest.mark.parametrize("foreach", [False, True])
def test_came_is_that_of_pytorch_optimizer(foreach):
    peer = pytest.importorskip("pytorch_optimizer")
    ours = our_trail(fastlr.CAME, SHAPES, lr=1e-3, weight_decay=0.1)
    theirs = torch_trail(lambda params: peer.CAME(params, lr=1e-3, weight_decay=0.1, foreach=foreach), SHAPES)
    assert apart(ours, theirs) < SAME


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sm3_is_that_of_pytorch_optimizer(momentum):
    peer = pytest.importorskip("pytorch_optimizer")
    shapes = [*SHAPES, (2, 3, 4)]
    ours = our_trail(fastlr.SM3, shapes, lr=0.1, momentum=momentum)
    theirs = torch_trail(lambda params: peer.SM3(params, lr=0.1, momentum=momentum, foreach=False), shapes)
    assert apart(ours, theirs) < SAME


def test_sm3_is_optaxs():
    ours = our_trail(fastlr.SM3, SHAPES, lr=0.1, eps=1e-8)
    assert apart(ours, optax_trail(lambda optax: optax.sm3(0.1), SHAPES)) < SAME


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_is_optaxs_of_the_transpose(nesterov, adjust):
    optax = pytest.importorskip("optax")
    shapes = [(5, 7), (7, 5), (6, 6)]
    ours = our_trail(fastlr.Muon, shapes, convention="optax", lr=0.01, norm_eps=1e-8, adjust=adjust, nesterov=nesterov)
    turned = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0)
    theirs = optax_trail(lambda optax: optax.contrib.muon(
        0.01, weight_decay=0.1, nesterov=nesterov, muon_weight_dimension_numbers=[turned] * 3,
        consistent_rms=0.2 if adjust == "match_rms_adamw" else None), shapes)
    assert apart(ours, theirs) < SAME


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_is_torchs_once_that_iterates_in_float64(monkeypatch, nesterov, adjust):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    shapes = [(5, 7), (7, 5), (6, 6)]
    ours = our_trail(fastlr.Muon, shapes, lr=0.01, adjust=adjust, nesterov=nesterov)
    theirs = torch_trail(lambda params: torch.optim.Muon(params, lr=0.01, adjust_lr_fn=adjust, nesterov=nesterov), shapes)
    assert apart(ours, theirs) < SAME


def test_shampoo_is_that_of_pytorch_optimizer():
    peer = pytest.importorskip("pytorch_optimizer")
    ours = our_trail(fastlr.Shampoo, SQUARE, lr=0.01)
    assert apart(ours, torch_trail(lambda params: peer.Shampoo(params, lr=0.01), SQUARE)) < SAME


def test_soap_is_that_of_pytorch_optimizer_up_to_its_float32_decomposition():
    peer = pytest.importorskip("pytorch_optimizer")
    for every, most in ((1000, SAME), (10, 1e-3)):
        ours = our_trail(fastlr.SOAP, SQUARE, lr=0.01, weight_decay=0.0, every=every)
        theirs = torch_trail(lambda params, every=every: peer.SOAP(
            params, lr=0.01, weight_decay=0.0, precondition_frequency=every), SQUARE)
        assert apart(ours, theirs) < most


def test_adam_mini_is_that_of_pytorch_optimizer():
    """One block a tensor, as it does with what it does not know by name. Its state is float32 whatever the parameter."""
    peer = pytest.importorskip("pytorch_optimizer")

    class Model(torch.nn.Module):
        def __init__(self, params):
            super().__init__()
            self.held = torch.nn.ParameterList(params)

    ours = our_trail(fastlr.AdamMini, SHAPES, lr=1e-3, weight_decay=0.1, blocks=1)
    theirs = torch_trail(lambda params: peer.AdamMini(
        Model(params), lr=1e-3, weight_decay=0.1, num_embeds=32, num_heads=4), SHAPES)
    assert apart(ours, theirs) < 2e-7
