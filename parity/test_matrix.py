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


class Doubled:
    """torch, in which what is called float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class Named(torch.nn.Module):
    """Parameters under names of a transformer's, by which the peer chooses blocks."""

    def __init__(self, params, names):
        super().__init__()
        for name, p in zip(names, params, strict=True):
            inner = torch.nn.Module()
            inner.weight = p
            self.add_module(name, inner)


@pytest.mark.parametrize("names", [("a", "b", "c"), ("q_proj", "k_proj", "c"), ("a", "wq", "norm")], ids="-".join)
def test_adam_mini_is_that_of_pytorch_optimizer_once_that_computes_in_float64(monkeypatch, names):
    """Its state and its gradients are float32 whatever the parameter is: here the name torch.float32 stands for float64.

    By name, a query's or key's projection has a block for each head, and a norm does not decay; all else is one block.
    """
    module = pytest.importorskip("pytorch_optimizer.optimizer.adam_mini")
    shapes, heads = [(8, 8), (8, 8), (11,)], 4
    before = torch.get_default_dtype()
    monkeypatch.setattr(module, "torch", Doubled())
    torch.set_default_dtype(torch.float64)
    try:
        theirs = torch_trail(lambda params: module.AdamMini(
            Named(params, names), lr=1e-2, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, num_embeds=8, num_heads=heads),
            shapes)
    finally:
        torch.set_default_dtype(before)
    ours = our_trail(fastlr.AdamMini, shapes, lr=1e-2, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.1,
                     blocks=[heads if name in ("q_proj", "k_proj", "wq") else 1 for name in names],
                     decay_mask=[name != "norm" for name in names])
    assert apart(ours, theirs) < SAME


# Projections: gradients at right angles to every row (for which the parameter is remembered), to the whole, or to neither

SIDES = ("rows", "whole", "neither")
FOUR_AXES = [(5, 7), (6, 2, 3, 3), (1, 9), (11,)]


def across(g, p, by):
    """The gradient less its part along the parameter's rows, or along all of it."""
    if by == "neither" or g.ndim < 2:
        return g
    flat, of = (g.reshape(1, -1), p.reshape(1, -1)) if by == "whole" else (g.reshape(len(g), -1), p.reshape(len(p), -1))
    return (flat - of * ((flat * of).sum(axis=1) / (of * of).sum(axis=1))[:, None]).reshape(g.shape)


def both_trails(ours, make):
    """Ours and theirs, where each step's gradients are at right angles to our parameters in a way of their own."""
    mine = arrays(np.float64, FOUR_AXES)
    there = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in mine]
    ours, theirs = ours(mine), make(there)
    trails = [], []
    for t in range(STEPS):
        given = [across(g, p, SIDES[t % 3]) for p, g in zip(mine, gradients(FOUR_AXES, t), strict=True)]
        ours.step(given)
        for p, g in zip(there, given, strict=True):
            p.grad = torch.from_numpy(g.copy())
        theirs.step()
        for trail, params in zip(trails, (mine, [p.detach().numpy() for p in there]), strict=True):
            trail.append(np.concatenate([p.ravel() for p in params]))
    return trails


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", ["decoupled", "independent"])
def test_sgdp_is_that_of_pytorch_optimizer_and_timm(nesterov, decay, foreach):
    peer = pytest.importorskip("pytorch_optimizer")
    alike = {"lr": 0.01, "momentum": 0.8, "dampening": 0.1, "delta": 0.2, "wd_ratio": 0.3, "nesterov": nesterov,
             "weight_decay": 0.1 if decay == "decoupled" else 1e-3, "eps": 1e-3}
    assert apart(*both_trails(lambda params: fastlr.SGDP(params, decay=decay, **alike), lambda params: peer.SGDP(
        params, fixed_decay=decay == "independent", foreach=foreach, **alike))) < SAME
    if decay == "decoupled":
        timm = pytest.importorskip("timm.optim.sgdp")
        assert apart(*both_trails(lambda params: fastlr.SGDP(params, **alike),
                                  lambda params: timm.SGDP(params, **alike))) < SAME
        assert apart(*both_trails(lambda params: fastlr.SGDP(params, **alike | {"delta": 0.0}),
                                  lambda params: timm.SGDP(params, **alike))) > 1e-3


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_adamp_is_that_of_timm_and_by_its_convention_of_pytorch_optimizer(nesterov, foreach):
    peer = pytest.importorskip("pytorch_optimizer")
    timm = pytest.importorskip("timm.optim.adamp")
    ours = {"lr": 0.01, "beta1": 0.8, "beta2": 0.9, "delta": 0.2, "wd_ratio": 0.3, "nesterov": nesterov,
            "weight_decay": 0.1, "eps": 1e-3}
    theirs = {k: v for k, v in ours.items() if "beta" not in k} | {"betas": (0.8, 0.9)}
    paper = both_trails(lambda params: fastlr.AdamP(params, **ours), lambda params: timm.AdamP(params, **theirs))
    assert apart(*paper) < SAME
    other = both_trails(lambda params: fastlr.AdamP(params, convention="pytorch-optimizer", **ours),
                        lambda params: peer.AdamP(params, foreach=foreach, **theirs))
    assert apart(*other) < SAME
    assert apart(paper[0], other[0]) > 1e-4
