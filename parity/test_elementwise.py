"""Elementwise rules that torch lacks against pytorch_optimizer, schedulefree and optax, 200 steps in float64."""
import contextlib
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
schedulefree = pytest.importorskip("schedulefree")

from registry import full, other_value  # noqa: E402
from trajectories.apart import SAME, apart, flat  # noqa: E402

import fastlr  # noqa: E402

STEPS = 200
SHAPES = ((5,), (2, 3), (), (1,))


@pytest.fixture(autouse=True)
def scalars_in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def numbers(zeros=False, size=1.0, seed=0):
    """Parameters, and the gradients of each step, over four magnitudes around `size`."""
    rng = np.random.default_rng(seed)
    params = [np.zeros(shape) if zeros else np.array(rng.normal(size=shape)) for shape in SHAPES]
    return params, [[np.array(size * rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 1, size=shape)) for shape in SHAPES]
                    for _ in range(STEPS)]


def ours(cls, hyper, zeros=False, size=1.0, **keywords):
    """Parameters before and after each step."""
    params, gradients = numbers(zeros, size)
    opt = cls(params, **hyper, **keywords)
    trail = [flat(params)]
    for grads in gradients:
        opt.step(grads)
        trail.append(flat(params))
    return trail, opt


def theirs(make, zeros=False, size=1.0):
    """The same with an optimizer of torch's kind."""
    params, gradients = numbers(zeros, size)
    params = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    opt = make(params)
    if hasattr(opt, "train"):
        opt.train()
    trail = [flat([p.detach().numpy() for p in params])]
    for grads in gradients:
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opt.step()
        trail.append(flat([p.detach().numpy() for p in params]))
    return trail, opt, params


def adam(h):
    return {"lr": h["lr"], "betas": (h["beta1"], h["beta2"]), "eps": h["eps"], "weight_decay": h["weight_decay"]}


# Ours, and pytorch_optimizer's given all hyper-parameters of ours.
PO = pytorch_optimizer
TWINS = {
    "Lion": lambda h: lambda p: PO.Lion(p, lr=h["lr"], betas=(h["beta1"], h["beta2"]), weight_decay=h["weight_decay"]),
    "AdaBelief": lambda h: lambda p: PO.AdaBelief(p, **adam(h), weight_decouple=True, rectify=False),
    "Yogi": lambda h: lambda p: PO.Yogi(p, **adam(h), weight_decouple=False,
                                        initial_accumulator=h["initial_accumulator_value"]),
    "Grams": lambda h: lambda p: PO.Grams(p, **adam(h)),
    "AdaBound": lambda h: lambda p: PO.AdaBound(p, **adam(h), final_lr=h["final_scale"] * h["lr"], gamma=h["gamma"],
                                                weight_decouple=False),
    "MADGRAD": lambda h: lambda p: PO.MADGRAD(p, lr=h["lr"], momentum=h["momentum"], eps=h["eps"],
                                              weight_decay=h["weight_decay"]),
    "ScheduleFreeSGD": lambda h: lambda p: schedulefree.SGDScheduleFree(
        p, lr=h["lr"], momentum=h["momentum"], weight_decay=h["weight_decay"], warmup_steps=h["warmup_steps"],
        r=h["r"], weight_lr_power=h["weight_lr_power"]),
    "ScheduleFreeAdamW": lambda h: lambda p: schedulefree.AdamWScheduleFree(
        p, **adam(h), warmup_steps=h["warmup_steps"], r=h["r"], weight_lr_power=h["weight_lr_power"]),
    "ScheduleFreeRAdam": lambda h: lambda p: schedulefree.RAdamScheduleFree(
        p, **adam(h), r=h["r"], weight_lr_power=h["weight_lr_power"]),
    "AdEMAMix": lambda h: lambda p: PO.AdEMAMix(
        p, lr=h["lr"], betas=(h["beta1"], h["beta2"], h["beta3"]), eps=h["eps"], weight_decay=h["weight_decay"],
        weight_decouple=True, alpha=h["alpha"], t_alpha_beta3=h["alpha_warmup"] or None),
}
OTHER = {"final_scale": 3.0, "gamma": 0.02, "warmup_steps": 30.0, "r": 1.5, "eps": 0.03, "alpha_warmup": 50.0}
STARTS = {"Yogi": {"initial_momentum": 1e-6, "initial_accumulator_value": 1e-6}}


def changes(name):
    cls = getattr(fastlr, name)
    other = {hyper: OTHER.get(hyper, other_value(bound)) for hyper, bound in cls.hypers.items()}
    yield "as declared", {}
    if name == "AdEMAMix":             # (they have one warm-up for both)
        other["beta3_warmup"] = other.pop("alpha_warmup")
        other |= {"alpha_warmup": other["beta3_warmup"]}
    else:
        yield from ((hyper, {hyper: value}) for hyper, value in other.items())
    yield "everything", other


@pytest.mark.parametrize(("name", "hyper"), [pytest.param(name, hyper, id=f"{name}-{what}")
                                             for name in TWINS for what, hyper in changes(name)])
def test_the_same_200_steps(name, hyper):
    cls = getattr(fastlr, name)
    hyper = hyper | STARTS.get(name, {})
    # (their AdaBound adds 1e-15 to v: gradients beside which that is nothing)
    size = 1e3 if name == "AdaBound" else 1.0
    mine, _ = ours(cls, hyper, size=size)
    assert apart(mine, theirs(TWINS[name](full(cls, hyper)), size=size)[0]) <= SAME


# Schedule-free: what is used in the end

@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW", "ScheduleFreeRAdam"])
def test_the_mean_is_what_theirs_is_after_eval(name):
    cls = getattr(fastlr, name)
    _, mine = ours(cls, {"lr": 0.05})
    _, opt, params = theirs(TWINS[name](full(cls, {"lr": 0.05})))
    opt.eval()
    assert apart([flat(list(mine.averaged.values()))], [flat([p.detach().numpy() for p in params])]) <= SAME


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_schedule_free_as_optax(name):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    hyper = {"lr": 0.05, "weight_decay": 0.1} if name == "ScheduleFreeAdamW" else {"lr": 0.05}
    _, mine = ours(getattr(fastlr, name), hyper)
    params, gradients = numbers()
    make = optax.contrib.schedule_free_sgd if name == "ScheduleFreeSGD" else optax.contrib.schedule_free_adamw
    rule = make(0.05, weight_decay=hyper.get("weight_decay", 0.0))
    state, step = rule.init(params), jax.jit(rule.update)
    for grads in gradients:
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
    averaged = optax.contrib.schedule_free_eval_params(state, params)
    assert apart([flat(list(mine.averaged.values()))], [flat([np.asarray(x) for x in averaged])]) <= SAME


def test_keras_weighs_a_warm_up_as_much_as_what_follows():
    # (features of theirs: weight 1 / t; ours is the largest rate's square, so that the steps of a warm-up fade)
    _, opt = ours(fastlr.ScheduleFreeSGD, {"lr": 0.1, "warmup_steps": 100})
    weights = np.minimum(np.arange(1, STEPS + 1) / 100, 1) ** 2 * 0.1**2
    assert float(opt.state["0"]["weight_sum"]) == pytest.approx(weights.sum(), rel=1e-12)


# Where peers differ

def test_adopt_is_optax_and_pytorch_optimizer_clips_an_update_late():
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    mine, _ = ours(fastlr.ADOPT, {"lr": 0.05})
    params, gradients = numbers()
    rule = optax.contrib.adopt(0.05, b1=0.9, b2=0.9999, eps=1e-6)
    state, step, trail = rule.init(params), jax.jit(rule.update), [flat(params)]
    for grads in gradients:
        updates, state = step(grads, state, params)
        params = [np.asarray(p) for p in optax.apply_updates(params, updates)]
        trail.append(flat(params))
    assert apart(mine, trail) <= SAME
    late, *_ = theirs(lambda p: PO.ADOPT(p, lr=0.05, clip_lambda=lambda t: (t - 1) ** 0.25))
    assert apart(mine, late) <= SAME
    default, *_ = theirs(lambda p: PO.ADOPT(p, lr=0.05))
    assert apart(mine, default) > 1e-3


def test_ftrl_from_zero_is_theirs_with_everything_changed():
    hyper = {"lr": 0.05, "beta": 0.3, "l1": 0.7, "l2": 0.2}
    mine, _ = ours(fastlr.FTRL, hyper, zeros=True)
    other, *_ = theirs(lambda p: PO.FTRL(p, lr=0.05, beta=0.3, lambda_1=0.7, lambda_2=0.2), zeros=True)
    assert apart(mine, other) <= SAME
    assert any((x == 0).any() for x in mine[1:])


def test_ftrl_from_anywhere_is_theirs_without_a_pull_to_zero():
    mine, _ = ours(fastlr.FTRL, {"lr": 0.05})
    assert apart(mine, theirs(lambda p: PO.FTRL(p, lr=0.05))[0]) <= SAME


def test_diffgrad_is_theirs_without_epsilon():
    # (which they add beside the uncorrected root, and 1e-15 below it)
    hyper = {"lr": 0.05, "eps": 0.0, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1}
    mine, _ = ours(fastlr.DiffGrad, hyper, decay="decoupled", size=1e3)
    assert apart(mine, theirs(lambda p: PO.DiffGrad(p, **adam(hyper), weight_decouple=True), size=1e3)[0]) <= SAME
    gentle, _ = ours(fastlr.DiffGrad, hyper, decay="decoupled")
    assert apart(gentle, theirs(lambda p: PO.DiffGrad(p, **adam(hyper), weight_decouple=True))[0]) <= 1e-6


def test_pytorch_optimizer_changes_the_callers_gradient_and_fastlr_does_not():
    p, g = torch.nn.Parameter(torch.ones(3)), torch.ones(3)
    p.grad = g.clone()
    with contextlib.suppress(Exception):
        PO.Lion([p], lr=0.1, weight_decay=0.5, weight_decouple=False, foreach=False).step()
    q, mine = np.ones(3), np.ones(3)
    for cls in (fastlr.Lion, fastlr.AdaBelief, fastlr.Yogi, fastlr.ScheduleFreeAdamW, fastlr.ADOPT):
        cls([q], weight_decay=0.5, decay="coupled").step([mine])
        assert (mine == 1).all()
