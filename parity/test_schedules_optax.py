"""optax's schedules against ours, and ours as optax schedules under jit."""
import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

from fastlr import Plateau, schedules as s  # noqa: E402, I001
from fastlr.schedules.registry import REGISTRY  # noqa: E402
from fastlr.schedules.gallery import EXAMPLES, UPDATES  # noqa: E402

EDGES = [0, 1, 2, 9, 10, 11, 29, 30, 31, 49, 50, 51, 99, 100, 101, 1000, 10**9]

SAME = {
    "constant": (optax.constant_schedule(0.1), s.constant(0.1)),
    "linear": (optax.linear_schedule(0.1, 0.02, 30), s.linear(0.1, 30, 0.02)),
    "polynomial": (optax.polynomial_schedule(0.1, 0.02, 2.5, 30), s.polynomial(0.1, 30, 2.5, 0.02)),
    "polynomial later": (optax.polynomial_schedule(0.1, 0.0, 2, 30, 20), s.polynomial(0.1, 30, 2.0).shift(20)),
    "exponential": (optax.exponential_decay(0.1, 10, 0.5), s.geometric(0.1, 0.5**0.1)),
    "staircase": (optax.exponential_decay(0.1, 10, 0.5, staircase=True), s.step_decay(0.1, 10, 0.5)),
    "exponential to an end": (optax.exponential_decay(0.1, 10, 0.5, end_value=0.01),
                              s.geometric(0.1, 0.5**0.1).clip(0.01, 1)),
    "cosine": (optax.cosine_decay_schedule(0.1, 30, alpha=0.2), s.cosine(0.1, 30, 0.02)),
    "piecewise constant": (optax.piecewise_constant_schedule(0.1, {10: 0.5, 30: 0.1}),
                           s.piecewise_constant([0.1, 0.05, 0.005], [10, 30])),
    "piecewise linear": (optax.piecewise_interpolate_schedule("linear", 0.1, {10: 2.0, 30: 0.1}),
                         s.piecewise_linear([0.1, 0.2, 0.02], [10, 30])),
    "warmup constant": (optax.warmup_constant_schedule(0.0, 0.1, 10), s.constant(0.1).warmup(10)),
    "warmup cosine": (optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 50, 0.01),
                      s.cosine(0.1, 40, 0.01).warmup(10)),
    "warmup exponential": (optax.warmup_exponential_decay_schedule(0.01, 0.1, 10, 20, 0.5),
                           s.geometric(0.1, 0.5 ** (1 / 20)).warmup(10, start=0.01)),
    "one cycle": (optax.cosine_onecycle_schedule(100, 0.1), s.one_cycle(0.1, 100, convention="optax")),
    "linear one cycle": (optax.linear_onecycle_schedule(100, 0.1),
                         s.piecewise_linear([0.1 / 25, 0.1, 0.1 / 25, 0.1 / 25 / 1e4], [30, 85, 100])),
    "restarts": (optax.sgdr_schedule([
        {"init_value": 0.0, "peak_value": p, "warmup_steps": 5, "decay_steps": 30, "end_value": 0.0}
        for p in (0.1, 0.05)]), s.cosine(0.1, 25).warmup(5).then(s.cosine(0.05, 25).warmup(5), at=30)),
    "join": (optax.join_schedules([optax.constant_schedule(0.1), optax.linear_schedule(0.2, 0.1, 20)], [30]),
             s.constant(0.1).then(s.linear(0.2, 20, 0.1), at=30)),
}


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", SAME)
def test_optax_gives_our_rates(name, double):
    """In float64. optax writes init - end + end and 1 - cos: a few ulp of the largest rate, 0.2."""
    theirs, ours = SAME[name]
    for t in EDGES:
        assert abs(float(theirs(jax.numpy.asarray(t))) - ours(t)) <= 4 * 2.8e-17 + 1e-15 * ours(t), t


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_to_optax_in_double_is_the_schedule(name, double):
    """exp(t log factor) stands for pow, whose argument's rounding costs t |log factor| ulp; elsewhere a few ulp."""
    schedule, last = EXAMPLES[name], UPDATES
    t = np.arange(2 * last)
    rates = jax.vmap(jax.jit(schedule.to_optax()))(t)
    assert np.abs(rates - schedule(t)).max() <= 1e-12 * schedule(t).max()


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_to_optax_in_float32(name):
    """Times have 24 bits and rates too: where a rate jumps, the jump may come a rounding early or late (none does)."""
    schedule, last = EXAMPLES[name], UPDATES
    t = np.arange(2 * last)
    with jax.enable_x64(False):        # (other tests of this folder switch it on)
        rates = jax.vmap(jax.jit(schedule.to_optax()))(t)
    assert rates.dtype == np.float32
    assert np.abs(rates - schedule(t)).max() <= 3e-6 * schedule(t).max()


def test_to_optax_in_an_optimizer_and_its_gradient():
    schedule = s.cosine(0.1, 100).warmup(10)
    opt = optax.sgd(schedule.to_optax())
    state = opt.init({"w": jax.numpy.ones(2)})
    for t in range(15):
        updates, state = jax.jit(opt.update)({"w": jax.numpy.ones(2)}, state)
        assert float(updates["w"][0]) == pytest.approx(-schedule(t), rel=1e-6, abs=1e-9)
    slope = jax.grad(lambda t: schedule.to_optax()(t))(5.0)
    assert float(slope) == pytest.approx(0.01, rel=1e-5)


def test_a_part_that_ends_is_nan_under_jit():
    assert np.isnan(s.linear(0.1, 5, end="error").to_optax()(6))


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_plateau_by_optaxs_convention(patience, cooldown, size):
    random = np.random.default_rng(patience)
    theirs = optax.contrib.reduce_on_plateau(
        factor=0.5, patience=patience, cooldown=cooldown, rtol=1e-3, accumulation_size=size,
    )
    ours = Plateau(1.0, 0.5, patience, 1e-3, cooldown, convention="optax", accumulation_size=size)
    state = theirs.init({})
    update = jax.jit(lambda state, metric: theirs.update({}, state, value=metric)[1])      # (else compiled at every call)
    for metric in random.choice([1.0, 0.9, 0.8, 0.5], size=30 * size):
        state = update(state, metric)
        ours.observe(metric)
        assert ours(0) == float(state.scale)
