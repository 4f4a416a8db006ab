"""Rules that sum over a tensor, against pytorch-optimizer, timm and optax in float64."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trajectories.apart import apart, flat  # noqa: E402

import fastlr  # noqa: E402

STEPS = 200
ENOUGH = 1e-10
SHAPES = ((3, 4), (5, 2), (2, 2, 3))
VECTORS = ((7,), (12,), (1,))


def peers(name):
    return pytest.importorskip(name)


@pytest.fixture(autouse=True)
def scalars_in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def problem(shapes, seed=0):
    """Parameters, and the gradients of every step, over three magnitudes."""
    rng = np.random.default_rng(seed)
    return ([rng.normal(size=shape) for shape in shapes],
            [[rng.normal(size=shape) * 10.0 ** rng.uniform(-2, 1) for shape in shapes] for _ in range(STEPS)])


def ours(cls, shapes, **hyper):
    params, gradients = problem(shapes)
    opt = cls(params, **hyper)
    trail = [flat(params)]
    for given in gradients:
        opt.step(given)
        trail.append(flat(params))
    return trail


def theirs(make, shapes):
    values, gradients = problem(shapes)
    params = [torch.tensor(value, requires_grad=True) for value in values]
    opt = make(params)
    trail = [flat(values)]
    for given in gradients:
        for p, g in zip(params, given, strict=True):
            p.grad = torch.tensor(g)
        opt.step()
        trail.append(flat(p.detach().numpy() for p in params))
    return trail


def same(ours, theirs):
    return apart(ours, theirs) <= ENOUGH


def test_fromage_of_pytorch_optimizer():
    p = peers("pytorch_optimizer")
    assert same(ours(fastlr.Fromage, SHAPES, lr=0.03), theirs(lambda x: p.Fromage(x, lr=0.03, p_bound=None), SHAPES))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_of_pytorch_optimizer_and_timm(decay):
    p = peers("pytorch_optimizer")
    hyper = {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.02, "weight_decay": decay}
    assert same(ours(fastlr.LARS, SHAPES, **hyper), theirs(lambda x: p.LARS(x, **hyper), SHAPES))
    t = peers("timm.optim.lars")
    assert same(ours(fastlr.LARS, VECTORS, **hyper, eps=1e-3), theirs(lambda x: t.Lars(
        x, 0.5, 0.8, weight_decay=decay, trust_coeff=0.02, eps=1e-3, always_adapt=True), VECTORS))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_larc_of_timm(decay):
    t = peers("timm.optim.lars")
    hyper = {"momentum": 0.8, "weight_decay": decay, "eps": 1e-3}
    for lr in (0.01, 0.001):                           # (the first is above most tensors' own rates)
        assert same(ours(fastlr.LARC, SHAPES, lr=lr, **hyper), theirs(lambda x, lr=lr: t.Lars(
            x, lr, trust_coeff=0.02, trust_clip=True, always_adapt=True, **hyper), SHAPES))
    bound = ours(fastlr.LARC, SHAPES, lr=0.01, **hyper), ours(fastlr.Momentum, SHAPES, lr=0.01, momentum=0.8)
    assert not same(*bound)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_novograd_of_pytorch_optimizer(decay):
    p = peers("pytorch_optimizer")
    assert same(ours(fastlr.NovoGrad, SHAPES, lr=0.03, weight_decay=decay, eps=1e-3),
                theirs(lambda x: p.NovoGrad(x, lr=0.03, weight_decay=decay, eps=1e-3), SHAPES))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_stable_adamw_of_pytorch_optimizer(decay):
    p = peers("pytorch_optimizer")
    hyper = {"lr": 0.03, "weight_decay": decay, "eps": 1e-3}
    assert same(ours(fastlr.StableAdamW, SHAPES, **hyper),
                theirs(lambda x: p.StableAdamW(x, kahan_sum=False, **hyper), SHAPES))
    # gradients that jump do slow it down
    assert not same(ours(fastlr.StableAdamW, SHAPES, **hyper), ours(fastlr.AdamW, SHAPES, beta2=0.99, **hyper))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_cautious_lion_of_both(decay):
    hyper = {"lr": 0.03, "weight_decay": decay}
    p = peers("pytorch_optimizer")
    counted = ours(fastlr.CautiousLion, SHAPES, **hyper)
    assert same(counted, theirs(lambda x: p.Lion(x, cautious=True, **hyper), SHAPES))
    t = peers("timm.optim.lion")
    mean = ours(fastlr.CautiousLion, SHAPES, convention="timm", **hyper)
    assert same(mean, theirs(lambda x: t.Lion(x, caution=True, betas=(0.9, 0.99), **hyper), SHAPES))
    assert not same(counted, mean)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_cautious_adamw_of_both(decay):
    hyper = {"lr": 0.03, "weight_decay": decay}
    p = peers("pytorch_optimizer")
    # (theirs has epsilon beside the uncorrected root; vectors are not projected)
    assert same(ours(fastlr.CautiousAdamW, VECTORS, eps=0.0, **hyper),
                theirs(lambda x: p.AdamP(x, cautious=True, eps=0.0, **hyper), VECTORS))
    t = peers("timm.optim.adamw")
    mean = ours(fastlr.CautiousAdamW, SHAPES, convention="timm", eps=1e-3, **hyper)
    assert same(mean, theirs(lambda x: t.AdamWLegacy(x, caution=True, eps=1e-3, **hyper), SHAPES))
    assert not same(ours(fastlr.CautiousAdamW, SHAPES, eps=1e-3, **hyper), mean)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_mars_of_both(decay, monkeypatch):
    p = peers("pytorch_optimizer")
    hyper = {"lr": 0.03, "weight_decay": decay}
    # (an epsilon of 1e-15 that no argument turns off is inside the root there: without it)
    monkeypatch.setattr(p.MARS, "apply_ams_bound", staticmethod(lambda ams, v, vmax, eps: v.sqrt()))
    assert same(ours(fastlr.MARS, SHAPES, convention="pytorch-optimizer", eps=0.0, **hyper),
                theirs(lambda x: p.MARS(x, eps=0.0, optimize_1d=True, foreach=False, **hyper), SHAPES))
    t = peers("timm.optim.mars")
    plain = ours(fastlr.MARS, SHAPES, eps=0.03, **hyper)
    assert same(plain, theirs(lambda x: t.Mars(x, betas=(0.95, 0.99), eps=0.03, optimize_1d=True, **hyper), SHAPES))
    assert not same(ours(fastlr.MARS, SHAPES, eps=0.0, **hyper), ours(fastlr.MARS, SHAPES, convention="pytorch-optimizer", eps=0.0, **hyper))
