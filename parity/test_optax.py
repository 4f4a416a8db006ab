"""Against optax in float64: equal where the conventions are, elsewhere different as documented."""
import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jax.config.update("jax_enable_x64", True)

from registry import REGISTRY, full, other_value  # noqa: E402
from trajectories.apart import SAME, apart, flat  # noqa: E402

import fastlr  # noqa: E402
from fastlr import schedules  # noqa: E402

STEPS = 200
LR = 0.05
SHAPES = ((5,), (2, 3), (), (1,), (0,))


def numbers(seed=0):
    """Parameters, and the gradients of every step stacked, over four magnitudes."""
    rng = np.random.default_rng(seed)
    return ([np.array(rng.normal(size=shape)) for shape in SHAPES],
            [np.array(rng.normal(size=(STEPS, *shape)) * 10.0 ** rng.uniform(-3, 1, size=(STEPS, *shape)))
             for shape in SHAPES])


def optax_trail(make, *arguments):
    """Parameters before and after each of the steps of `make(*arguments)`, numbers or trees of them."""
    params, gradients = numbers()
    trail = in_one_loop(make)(arguments, params, gradients)
    assert all(x.dtype == np.float64 for x in trail)
    return [flat(params), *(flat(x[t] for x in trail) for t in range(STEPS))]


@functools.cache
def in_one_loop(make):
    """All steps compiled at once, for any values of the arguments (compiling is what takes the time)."""
    def run(arguments, params, gradients):
        transformation = make(*arguments)

        def step(carry, g):
            p, state = carry
            updates, state = transformation.update(g, state, p)
            p = optax.apply_updates(p, updates)
            return (p, state), p

        return jax.lax.scan(step, (params, transformation.init(params)), gradients)[1]
    return jax.jit(run)


def fastlr_trail(cls, hyper, **keywords):
    params, gradients = numbers()
    opt = cls(params, **hyper, **keywords)
    trail = [flat(params)]
    for t in range(STEPS):
        opt.step([g[t, ...] for g in gradients])
        trail.append(flat(params))
    return trail


# Ours, and theirs given all hyper-parameters of ours: where both mean the same. `lr` may be a schedule.
SAMES = {
    "sgd": (fastlr.SGD, lambda h: optax.sgd(h["lr"])),
    "signsgd": (fastlr.SignSGD, lambda h: optax.sign_sgd(h["lr"])),
    "signum": (fastlr.Signum, lambda h: optax.signum(h["lr"], beta=h["momentum"])),
    "momentum": (fastlr.Momentum, lambda h: optax.sgd(h["lr"], momentum=h["momentum"])),
    "nesterov": (fastlr.Nesterov, lambda h: optax.sgd(h["lr"], momentum=h["momentum"], nesterov=True)),
    "adadelta": (fastlr.AdaDelta, lambda h: optax.adadelta(h["lr"], rho=h["rho"], eps=h["eps"])),
    "rmsprop": (fastlr.RMSprop, lambda h: optax.rmsprop(
        h["lr"], decay=h["alpha"], eps=h["eps"], eps_in_sqrt=False)),
    "rmspropcentered": (fastlr.RMSpropCentered, lambda h: optax.rmsprop(
        h["lr"], decay=h["alpha"], eps=h["eps"], eps_in_sqrt=False, centered=True)),
    "rmspropmomentum": (fastlr.RMSpropMomentum, lambda h: optax.rmsprop(
        h["lr"], decay=h["alpha"], eps=h["eps"], eps_in_sqrt=False, momentum=h["momentum"])),
    "rmspropcenteredmomentum": (fastlr.RMSpropCenteredMomentum, lambda h: optax.rmsprop(
        h["lr"], decay=h["alpha"], eps=h["eps"], eps_in_sqrt=False, centered=True, momentum=h["momentum"])),
    "adam": (fastlr.Adam, lambda h: optax.adam(h["lr"], b1=h["beta1"], b2=h["beta2"], eps=h["eps"])),
    "adamw": (fastlr.AdamW, lambda h: optax.adamw(
        h["lr"], b1=h["beta1"], b2=h["beta2"], eps=h["eps"], weight_decay=h["weight_decay"])),
    "lamb": (fastlr.LAMB, lambda h: optax.lamb(
        h["lr"], b1=h["beta1"], b2=h["beta2"], eps=h["eps"], weight_decay=h["weight_decay"])),
    "novograd": (fastlr.NovoGrad, lambda h: optax.novograd(
        h["lr"], b1=h["beta1"], b2=h["beta2"], eps=h["eps"], weight_decay=h["weight_decay"])),
    "fromage": (fastlr.Fromage, lambda h: optax.fromage(h["lr"])),
}
# Those that differ, shown below; adagrad is the same without an epsilon.
DIFFERENT = {"adagrad", "amsgrad"}
LR_IN_VELOCITY = {"rmspropmomentum", "rmspropcenteredmomentum"}     # there; the same while lr is constant

# In the words of optax, weight decay is another transformation before the optimizer: these have their own.
OWN_DECAY = {"adamw", "lamb", "novograd"}

every_same = pytest.mark.parametrize("name", SAMES)


def changes(name):
    cls = SAMES[name][0]
    yield "as declared", {}
    for hyper, bound in cls.hypers.items():
        if hyper not in ("dampening",):            # which optax does not have
            yield hyper, {hyper: other_value(bound)}
    yield "everything", {hyper: 0.03 if hyper == "eps" else other_value(bound)
                         for hyper, bound in cls.hypers.items() if hyper != "dampening"}


@functools.cache
def of_optax(name):
    """A function of all hyper-parameters that makes theirs."""
    make = SAMES[name][1]
    if name in OWN_DECAY:
        return make
    return lambda h: optax.chain(optax.add_decayed_weights(h["weight_decay"]), make(h))


def test_every_comparison_is_of_the_registry():
    assert SAMES.keys() | DIFFERENT <= REGISTRY.keys()


@pytest.mark.parametrize(("name", "hyper"), [pytest.param(name, hyper, id=f"{name}-{what}")
                                             for name in SAMES for what, hyper in changes(name)])
def test_the_same_200_steps(name, hyper):
    cls = SAMES[name][0]
    assert apart(fastlr_trail(cls, hyper), optax_trail(of_optax(name), full(cls, hyper))) <= SAME


def both_with_a_schedule(name):
    theirs = optax.warmup_cosine_decay_schedule(0.0, LR, 20, STEPS, end_value=LR / 10)
    ours = schedules.cosine(LR, steps=STEPS - 20, final=LR / 10).warmup(20)

    def make(hyper):
        # (optax counts in int32, which jax divides in float32: rates would be wrong in the eighth digit)
        return of_optax(name)(hyper | {"lr": lambda count: theirs(count.astype("int64"))})

    cls = SAMES[name][0]
    hyper = {key: value for key, value in full(cls, {}).items() if key != "lr"}
    return apart(fastlr_trail(cls, {"lr": ours}), optax_trail(make, hyper))


@every_same
def test_a_schedule_is_followed_alike_unless_the_rate_is_in_the_velocity(name):
    if name in LR_IN_VELOCITY:
        assert both_with_a_schedule(name) > 1e-2
    else:
        assert both_with_a_schedule(name) <= SAME


# Where conventions differ

def test_adagrad_is_the_same_without_epsilon_only():
    # theirs is inside the root
    def adagrad(eps):
        return optax.adagrad(LR, initial_accumulator_value=0.1, eps=eps)

    def gap(eps):
        ours = fastlr_trail(fastlr.AdaGrad, {"lr": LR, "eps": eps, "initial_accumulator_value": 0.1})
        return apart(ours, optax_trail(adagrad, eps))

    assert gap(0.0) <= SAME
    assert gap(1e-2) > 1e-3


def test_rmsprop_of_optax_has_epsilon_in_the_root_unless_told():
    ours = fastlr_trail(fastlr.RMSprop, {"lr": LR, "alpha": 0.9, "eps": 1e-2})
    assert apart(ours, optax_trail(lambda: optax.rmsprop(LR, decay=0.9, eps=1e-2))) > 1e-3


def test_amsgrad_of_optax_corrects_before_the_maximum():
    hyper = {"lr": LR, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6}
    ours = fastlr_trail(fastlr.AMSGrad, hyper)
    theirs = optax_trail(lambda: optax.amsgrad(LR, b1=0.8, b2=0.99, eps=1e-6))
    assert apart(ours, theirs) > 1e-2
    # and that is all: with the maximum of the corrected mean square, this is optax
    params, gradients = numbers()
    assert apart([flat(params), *amsgrad_of_the_corrected(params, gradients, **hyper)], theirs) <= SAME


def amsgrad_of_the_corrected(params, gradients, lr, beta1, beta2, eps):
    p, m, v, largest = flat(params), 0.0, 0.0, 0.0
    for t in range(1, STEPS + 1):
        g = flat(stack[t - 1, ...] for stack in gradients)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        largest = np.maximum(largest, v / (1 - beta2**t))
        p = p - lr * m / (1 - beta1**t) / (np.sqrt(largest) + eps)
        yield p


def test_adamw_of_optax_has_another_default_decay():
    theirs = optax_trail(lambda: optax.adamw(1e-3))
    assert apart(fastlr_trail(fastlr.AdamW, {}), theirs) > 1e-6
    assert apart(fastlr_trail(fastlr.AdamW, {"weight_decay": 1e-4}), theirs) <= SAME


def test_lars_of_optax_is_coupled():
    hyper = {"lr": LR, "momentum": 0.8, "trust_coefficient": 0.02, "eps": 1e-3, "weight_decay": 0.1}
    theirs = optax_trail(lambda: optax.lars(LR, 0.1, trust_coefficient=0.02, eps=1e-3, momentum=0.8))
    assert apart(fastlr_trail(fastlr.LARS, hyper, decay="coupled"), theirs) <= SAME
    assert apart(fastlr_trail(fastlr.LARS, hyper), theirs) > 1e-6


def test_adadelta_of_optax_climbs_without_a_rate():
    assert apart(fastlr_trail(fastlr.AdaDelta, {}, maximize=True), optax_trail(optax.adadelta)) <= SAME


# Schedules: within 2 ulp of the largest rate (each formula subtracts from it, and rounds twice or thrice)

SCHEDULES = {
    "cosine": (schedules.cosine(LR, steps=100, final=LR / 50),
               lambda: optax.cosine_decay_schedule(LR, 100, alpha=1 / 50)),
    "cosine to 0": (schedules.cosine(LR, steps=100), lambda: optax.cosine_decay_schedule(LR, 100)),
    "linear down": (schedules.linear(LR, steps=70, final=LR / 9),
                    lambda: optax.linear_schedule(LR, LR / 9, 70)),
    "linear up": (schedules.linear(0.0, steps=70, final=LR), lambda: optax.linear_schedule(0.0, LR, 70)),
    "geometric": (schedules.geometric(LR, factor=0.5 ** (1 / 8)),
                  lambda: optax.exponential_decay(LR, 8, 0.5)),
    "step_decay": (schedules.step_decay(LR, every=8, factor=0.5),
                   lambda: optax.exponential_decay(LR, 8, 0.5, staircase=True)),
    "join": (schedules.join([schedules.linear(LR / 3, steps=20, final=LR), schedules.constant(LR),
                             schedules.cosine(LR, steps=40)], at=[20, 60]),
             lambda: optax.join_schedules([optax.linear_schedule(LR / 3, LR, 20), optax.constant_schedule(LR),
                                           optax.cosine_decay_schedule(LR, 40)], [20, 60])),
    "warmup": (schedules.constant(LR).warmup(30, start=LR / 7),
               lambda: optax.warmup_constant_schedule(LR / 7, LR, 30)),
    "warmup then cosine": (schedules.cosine(LR, steps=90, final=LR / 10).warmup(30),
                           lambda: optax.warmup_cosine_decay_schedule(0.0, LR, 30, 120, end_value=LR / 10)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_optax_within_2_ulp(name):
    ours, theirs = SCHEDULES[name]
    t = np.arange(150)
    expected = np.array([float(theirs()(int(n))) for n in t])
    assert (abs(ours(t) - expected) <= 2 * np.spacing(LR)).all()


# jax arrays in our hands

def test_gradients_may_be_jax_arrays():
    p = np.ones(3)
    fastlr.SGD([p], lr=0.5).step([jax.numpy.ones(3, dtype="float64")])
    assert (p == 0.5).all()


def test_a_jax_array_as_a_parameter_is_a_clear_error():
    with pytest.raises(ValueError, match=r"^SGD: params\[0\]: must be writable, got a read-only array"):
        fastlr.SGD([jax.numpy.ones(3, dtype="float64")])
