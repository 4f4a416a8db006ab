"""Each convention beside the library that it is named after, 200 steps in float64: formulas, and defaults.

Theirs are told what is changed from our convention's defaults alone, in their own words: so their defaults are compared
as well.
"""
import functools
import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
rmsprop_tf = pytest.importorskip("timm.optim.rmsprop_tf")
adopt = pytest.importorskip("timm.optim.adopt")
jax.config.update("jax_enable_x64", True)

from registry import CONVENTIONS, everything_changed  # noqa: E402
from trajectories.apart import SAME, apart, flat  # noqa: E402

import fastlr  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
SHAPES = ((5,), (2, 3), (3, 2, 2), (1,))
STEPS = 200
RATE = 0.02
RATES = RATE * (1 + np.arange(STEPS) % 7) / 4


@pytest.fixture(autouse=True)
def numbers_in_double():
    torch.set_default_dtype(torch.float64)
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    torch.set_default_dtype(torch.float32)


def numbers():
    """Parameters, and the gradients of every step stacked, over four magnitudes."""
    rng = np.random.default_rng(5)
    return [rng.normal(size=shape) for shape in SHAPES], \
        [rng.normal(size=(STEPS, *shape)) * 10.0 ** rng.uniform(-3, 1, size=(STEPS, *shape)) for shape in SHAPES]


def ours(cls, convention, hyper, rates=None):
    params, gradients = numbers()
    opt = cls(params, convention=convention, **hyper)
    if rates is not None:
        opt.lr = lambda t: float(rates[t])
    trail = [flat(params)]
    for t in range(STEPS):
        opt.step([g[t] for g in gradients])
        trail.append(flat(params))
    return trail


# Their optimizers, each made by a function of the changed hyper-parameters in their words

def of_optax(make, changed, rates=None):
    params, gradients = numbers()
    trail = in_one_loop(make, rates is not None)(changed, params, gradients, rates)
    return [flat(params), *(flat(x[t] for x in trail) for t in range(STEPS))]


@functools.cache
def in_one_loop(make, scheduled):
    def run(changed, params, gradients, rates):
        transformation = make(changed | ({"learning_rate": lambda count: rates[count]} if scheduled else {}))

        def step(carry, g):
            p, state = carry
            updates, state = transformation.update(g, state, p)
            p = optax.apply_updates(p, updates)
            return (p, state), p

        return jax.lax.scan(step, (params, transformation.init(params)), gradients)[1]
    return jax.jit(run)


def of_keras(make, changed, rates=None):
    params, gradients = numbers()
    variables = [keras.Variable(p) for p in params]
    optimizer = make(changed)
    trail = [flat(params)]
    for t in range(STEPS):
        if rates is not None:
            optimizer.learning_rate = float(rates[t])
        optimizer.apply([keras.ops.convert_to_tensor(g[t]) for g in gradients], variables)
        trail.append(flat([keras.ops.convert_to_numpy(v.value) for v in variables]))
    return trail


def of_torch(make, changed, rates=None):
    params, gradients = numbers()
    variables = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    optimizer = make(variables, changed)
    trail = [flat(params)]
    for t in range(STEPS):
        if rates is not None:
            optimizer.param_groups[0]["lr"] = float(rates[t])
        for p, g in zip(variables, gradients, strict=True):
            p.grad = torch.tensor(g[t])
        optimizer.step()
        trail.append(flat([p.detach().numpy() for p in variables]))
    return trail


def coupled(make):
    """Of optax, with the decay of L2 before it."""
    def made(h):
        h = dict(h)
        decay = h.pop("weight_decay", 0.0)
        return optax.chain(optax.add_decayed_weights(decay), make(h))
    return made


def radamw(h):
    h = dict(h)
    decay, rate = h.pop("weight_decay", 0.01), h.pop("learning_rate")
    return optax.chain(optax.scale_by_radam(**h), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(rate))


def adan(h):
    """Its two epsilons are one here."""
    return optax.adan(**h, **({"eps_root": h["eps"]} if "eps" in h else {}))


OPTAX_WORDS = {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "beta3": "b3", "alpha": "decay",
               "step_min": "min_step_size", "step_max": "max_step_size"}
OPTAX = {
    ("SGD", "optax"): coupled(lambda h: optax.sgd(**h)),
    ("Momentum", "optax"): coupled(lambda h: optax.sgd(**{"momentum": 0.9} | h)),
    ("Nesterov", "optax"): coupled(lambda h: optax.sgd(**{"momentum": 0.9} | h, nesterov=True)),
    ("Rprop", "optax"): coupled(lambda h: optax.rprop(**h)),
    ("AdaGrad", "optax"): coupled(lambda h: optax.adagrad(**h)),
    ("AdaDelta", "optax"): lambda h: optax.adadelta(**h),
    ("RMSprop", "optax"): coupled(lambda h: optax.rmsprop(**h)),
    ("RMSpropCentered", "optax"): coupled(lambda h: optax.rmsprop(**h, centered=True)),
    ("RMSpropMomentum", "optax"): coupled(lambda h: optax.rmsprop(**{"momentum": 0.9} | h)),
    ("RMSpropCenteredMomentum", "optax"): coupled(lambda h: optax.rmsprop(**{"momentum": 0.9} | h, centered=True)),
    ("Adam", "optax"): coupled(lambda h: optax.adam(**h)),
    ("AdamW", "optax"): lambda h: optax.adamw(**h),
    ("AMSGrad", "optax"): coupled(lambda h: optax.amsgrad(**h)),
    ("AMSGrad", "paper"): coupled(lambda h: optax.amsgrad(**h, bias_correction_mu=False, bias_correction_nu=False)),
    ("NAdam", "optax"): coupled(lambda h: optax.nadam(**h)),
    ("NAdamW", "optax"): lambda h: optax.nadamw(**h),
    ("RAdam", "optax"): coupled(lambda h: optax.radam(**h)),
    ("RAdamW", "optax"): radamw,
    ("AdaMax", "optax"): coupled(lambda h: optax.adamax(**h)),
    ("Adan", "optax"): adan,
    ("LAMB", "optax"): lambda h: optax.lamb(**h),
    ("Lion", "optax"): lambda h: optax.lion(**h),
    ("NovoGrad", "optax"): lambda h: optax.novograd(**h),
}
KERAS_WORDS = {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon", "alpha": "rho"}
K = keras.optimizers
KERAS = {
    ("SGD", "keras"): lambda h: K.SGD(**h),
    ("Momentum", "keras"): lambda h: K.SGD(**{"momentum": 0.9} | h),
    ("Nesterov", "keras"): lambda h: K.SGD(**{"momentum": 0.9} | h, nesterov=True),
    ("AdaGrad", "keras"): lambda h: K.Adagrad(**h),
    ("AdaDelta", "keras"): lambda h: K.Adadelta(**h),
    ("RMSprop", "keras"): lambda h: K.RMSprop(**h),
    ("RMSpropCentered", "keras"): lambda h: K.RMSprop(**h, centered=True),
    ("RMSpropMomentum", "keras"): lambda h: K.RMSprop(**{"momentum": 0.9} | h),
    ("RMSpropCenteredMomentum", "keras"): lambda h: K.RMSprop(**{"momentum": 0.9} | h, centered=True),
    ("Adam", "keras"): lambda h: K.Adam(**h),
    ("AdamW", "keras"): lambda h: K.AdamW(**h),
    ("AMSGrad", "keras"): lambda h: K.Adam(**h, amsgrad=True),
    ("NAdam", "keras"): lambda h: K.Nadam(**h),
    ("AdaMax", "keras"): lambda h: K.Adamax(**h),
    ("LAMB", "keras"): lambda h: K.Lamb(**h),
    ("Lion", "keras"): lambda h: K.Lion(**h),
}


def with_betas(h):
    """torch's pair of them."""
    h = dict(h)
    return h | {"betas": (h.pop("beta1"), h.pop("beta2"))} if "beta1" in h else h


def clipped(h):
    h = with_betas(h)
    exponent = h.pop("clip_exponent", None)
    return h if exponent is None else h | {"clip_lambda": lambda step: step**exponent}


TORCH_WORDS = {"clip_exponent": "clip_exp"}
TIMM = {
    ("RMSprop", "timm"): lambda p, h: rmsprop_tf.RMSpropTF(p, **h),
    ("RMSpropCentered", "timm"): lambda p, h: rmsprop_tf.RMSpropTF(p, **h, centered=True),
    ("RMSpropMomentum", "timm"): lambda p, h: rmsprop_tf.RMSpropTF(p, **{"momentum": 0.9} | h),
    ("RMSpropCenteredMomentum", "timm"): lambda p, h: rmsprop_tf.RMSpropTF(p, **{"momentum": 0.9} | h, centered=True),
    ("ADOPT", "timm"): lambda p, h: adopt.Adopt(p, **with_betas(h)),
}
PYTORCH_OPTIMIZER = {
    ("LAMB", "pytorch-optimizer"): lambda p, h: pytorch_optimizer.Lamb(p, **with_betas(h)),
    ("ADOPT", "pytorch-optimizer"): lambda p, h: pytorch_optimizer.ADOPT(p, **clipped(h)),
}
PEERS = {
    **{row: (of_optax, make, OPTAX_WORDS) for row, make in OPTAX.items()},
    **{row: (of_keras, make, KERAS_WORDS) for row, make in KERAS.items()},
    **{row: (of_torch, make, TORCH_WORDS) for row, make in TIMM.items()},
    **{row: (of_torch, make, {}) for row, make in PYTORCH_OPTIMIZER.items()},
}
# Compared in other files: rules for whole matrices, without a rate, and their like.
ELSEWHERE = {("CautiousAdamW", "timm"), ("CautiousLion", "timm"), ("MARS", "pytorch-optimizer"),
             ("DAdaptAdam", "optax"), ("Prodigy", "optax"), ("Sophia", "authors"), ("Sophia", "optax")}

# What theirs has not.
LACKS = {
    ("Momentum", None): {"dampening"}, ("AdaGrad", None): {"lr_decay"}, ("NAdam", None): {"momentum_decay"},
    ("NAdamW", None): {"momentum_decay"},
    # (no such keyword: both begin at 0 in optax' alone, at 1 in timm's)
    **{(name, whose): {"initial_scale"} for name in ("RMSprop", "RMSpropCentered", "RMSpropMomentum",
                                                      "RMSpropCenteredMomentum") for whose in ("keras", "timm")},
}

# Others than `everything_changed` has: below beta2 = 0.6, RAdam never rectifies.
TELLING = {"RAdam": {"beta2": 0.9}, "RAdamW": {"beta2": 0.9}}

every_peer = pytest.mark.parametrize("row", PEERS, ids="-".join)


def changes(cls, convention):
    name = cls.__name__
    lacks = LACKS.get((name, None), set()) | LACKS.get((name, convention), set())
    return {key: value for key, value in everything_changed(cls).items() if key not in lacks} | TELLING.get(name, {})


def compared(row, changed, rates=None):
    name, convention = row
    cls = getattr(fastlr, name)
    run, make, words = PEERS[row]
    theirs = {words.get(key, key): value for key, value in changed.items()}
    if run is of_optax and "learning_rate" not in theirs:
        theirs["learning_rate"] = cls.hypers["lr"].default
    if name.endswith("W") and run is of_optax and "weight_decay" not in theirs:
        theirs |= {} if cls.conventions[convention].defaults.get("weight_decay") else {"weight_decay": 0.01}
    return apart(ours(cls, convention, changed, rates), run(make, theirs, rates))


@every_peer
def test_the_same_200_steps_by_their_defaults(row):
    assert compared(row, {}) <= SAME


@every_peer
def test_the_same_200_steps_with_everything_changed(row):
    assert compared(row, changes(getattr(fastlr, row[0]), row[1])) <= SAME


@pytest.mark.parametrize("row", [row for row in PEERS if row[0] != "Rprop"], ids="-".join)
def test_a_rate_that_changes_acts_alike(row):
    assert compared(row, {"lr": RATE}, RATES) <= SAME


def test_every_convention_is_compared():
    assert {(cls.__name__, name) for cls, name in CONVENTIONS} - ELSEWHERE == PEERS.keys()


# What each of them would be without its name

@pytest.mark.parametrize("row", [(cls.__name__, name) for cls, name in CONVENTIONS if (cls.__name__, name) in PEERS
                                 and cls.conventions[name].rule != cls._default_rule], ids="-".join)
def test_by_the_default_convention_it_is_not_the_same(row):
    name, convention = row
    cls = getattr(fastlr, name)
    run, make, words = PEERS[row]
    changed = changes(cls, convention)
    theirs = run(make, {words.get(key, key): value for key, value in changed.items()},
                 RATES if name != "Rprop" else None)
    decay = cls.conventions[convention].decay or cls.decay_mode
    params, gradients = numbers()
    opt = cls(params, decay=decay, **changed)
    if name != "Rprop":
        opt.lr = lambda t: float(RATES[t])
    trail = [flat(params)]
    for t in range(STEPS):
        opt.step([g[t] for g in gradients])
        trail.append(flat(params))
    assert apart(trail, theirs) > 1e-6


def test_optax_adan_has_two_epsilons_that_are_one_here():
    hyper = {"lr": RATE, "eps": 1e-3}
    mine = ours(fastlr.Adan, "optax", hyper)
    assert apart(mine, of_optax(lambda h: optax.adan(RATE, eps=1e-3, eps_root=1e-3), {})) <= SAME
    assert apart(mine, of_optax(lambda h: optax.adan(RATE, eps=1e-3, eps_root=0.0), {})) > 1e-6


def test_adam_of_optax_with_an_epsilon_in_the_root_is_no_convention():
    # (it is for derivatives through a step; at its default, 0, it is ours)
    mine = ours(fastlr.Adam, "optax", {"lr": RATE})
    assert apart(mine, of_optax(lambda h: optax.adam(RATE, eps_root=0.0), {})) <= SAME
    assert apart(mine, of_optax(lambda h: optax.adam(RATE, eps_root=1e-2), {})) > 1e-3
