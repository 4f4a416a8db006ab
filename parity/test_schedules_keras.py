"""Keras's schedules against ours, and ours as Keras schedules. (KERAS_BACKEND=torch or jax)"""
import numpy as np
import pytest

keras = pytest.importorskip("keras")

from fastlr import Plateau, schedules as s  # noqa: E402, I001
from fastlr.schedules.registry import REGISTRY  # noqa: E402
from fastlr.schedules.gallery import EXAMPLES, UPDATES  # noqa: E402

# of its torch backend: with NumPy 2, and at a first gradient
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
EDGES = [0, 1, 2, 5, 9, 10, 11, 29, 30, 31, 59, 60, 61, 99, 100, 1000]
peers = keras.optimizers.schedules

SAME = {
    "ExponentialDecay": (peers.ExponentialDecay(0.1, 10, 0.5), s.geometric(0.1, 0.5**0.1)),
    "ExponentialDecay staircase": (peers.ExponentialDecay(0.1, 10, 0.5, staircase=True), s.step_decay(0.1, 10, 0.5)),
    "InverseTimeDecay": (peers.InverseTimeDecay(0.1, 10, 0.5), s.inverse_time(0.1, 0.5, 10)),
    "InverseTimeDecay staircase": (peers.InverseTimeDecay(0.1, 10, 0.5, staircase=True),
                                   s.inverse_time(0.1, 0.5, 10, staircase=True)),
    "PiecewiseConstantDecay": (peers.PiecewiseConstantDecay([10, 30], [0.1, 0.05, 0.01]),
                               s.piecewise_constant([0.1, 0.05, 0.01], [11, 31])),
    "PolynomialDecay": (peers.PolynomialDecay(0.1, 30, 0.02, 2.5), s.polynomial(0.1, 30, 2.5, 0.02)),
    "PolynomialDecay cycle": (peers.PolynomialDecay(0.1, 30, 0.02, 2.0, cycle=True),
                              s.polynomial(0.1, 30, 2.0, 0.02, cycle=True)),
    "CosineDecay": (peers.CosineDecay(0.1, 30, alpha=0.2), s.cosine(0.1, 30, 0.02)),
    "CosineDecay warmup": (peers.CosineDecay(0.01, 30, alpha=0.2, warmup_target=0.1, warmup_steps=10),
                           s.cosine(0.1, 30, 0.02).warmup(10, start=0.01)),
    "CosineDecayRestarts": (peers.CosineDecayRestarts(0.1, 10, alpha=0.1),
                            s.cosine_restarts(0.1, 10, 0.01, cycle_factor=2)),
    "CosineDecayRestarts shrinking": (peers.CosineDecayRestarts(0.1, 10, t_mul=1.0, m_mul=0.8, alpha=0.1),
                                      s.cosine_restarts(0.1, 10, 0.01, amplitude_factor=0.8)),
}


@pytest.mark.parametrize("name", SAME)
def test_keras_gives_our_rates(name):
    """Keras computes in float32: 24 bits, a few roundings, and a cosine of up to 31 radians."""
    theirs, ours = SAME[name]
    for t in EDGES:
        if "Restarts" in name and t in (10, 30, 60, 100, 1000):
            continue                   # its float32 logarithm is on either side of these boundaries
        assert float(theirs(t)) == pytest.approx(ours(t), rel=3e-6, abs=2e-8), t


def test_every_keras_schedule_is_compared():
    there = {name for name, x in vars(peers).items() if isinstance(x, type)} - {"LearningRateSchedule"}
    assert there == {name.split()[0] for name in SAME}


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_to_keras(name):
    schedule, last = EXAMPLES[name], UPDATES
    theirs = schedule.to_keras()
    for t in (0, 1, 2, 7, 25, 50, last, 3 * last):
        assert float(theirs(t)) == pytest.approx(schedule(t), rel=1e-5, abs=3e-6 * schedule(np.arange(last)).max()), t


def test_noise_is_the_same_hash():
    schedule = s.constant(1.0).noise(0.5, seed=2**40 + 7)
    theirs = schedule.to_keras()
    for t in (0, 1, 2, 1000, 2**24 - 1):
        assert float(theirs(t)) == pytest.approx(schedule(t), rel=1e-6)


def test_is_saved_and_loaded_with_its_optimizer():
    opt = keras.optimizers.SGD(s.cosine(0.1, 30).warmup(5).to_keras())
    again = keras.optimizers.deserialize(keras.optimizers.serialize(opt))
    assert again._learning_rate.schedule == s.cosine(0.1, 30).warmup(5)


def test_can_be_pickled():
    import pickle

    again = pickle.loads(pickle.dumps(s.cosine(0.1, 30).to_keras()))
    assert again.schedule == s.cosine(0.1, 30) and float(again(15)) == pytest.approx(0.05)


def updates(schedule, accumulate, n):
    """The rates of n updates of `accumulate` batches each, read off a weight with gradient 1."""
    w = keras.Variable([0.0])
    opt = keras.optimizers.SGD(schedule, gradient_accumulation_steps=accumulate)
    opt.build([w])
    rates = []
    for _ in range(n):
        before = float(w[0])
        for _ in range(accumulate):
            opt.apply([keras.ops.ones((1,))])
        rates.append(before - float(w[0]))
    return rates


def test_accumulated_batches_are_one_update():
    """Keras counts batches: with 5 accumulated, its own linear decay over 10 updates is over after two."""
    theirs = updates(peers.PolynomialDecay(1.0, 10, 0.0), 5, 4)
    assert theirs == pytest.approx([0.6, 0.1, 0, 0], abs=1e-6)
    ours = updates(s.linear(1.0, steps=10).every(5).to_keras(), 5, 4)
    assert ours == pytest.approx([1.0, 0.9, 0.8, 0.7], abs=1e-6)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("cooldown", [0, 1, 2, 3])
def test_plateau_by_kerass_convention(mode, patience, cooldown):
    theirs = keras.callbacks.ReduceLROnPlateau("m", 0.5, patience, cooldown=cooldown, mode=mode, min_delta=1e-4)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    theirs.set_model(model)
    theirs.on_train_begin()
    ours = Plateau(1.0, 0.5, patience, cooldown=cooldown, mode=mode, threshold_mode="absolute", convention="keras")
    metrics = np.random.default_rng(patience).choice([1.0, 0.9, 0.8, 0.5], size=25)
    for epoch, metric in enumerate(metrics):
        theirs.on_epoch_end(epoch, {"m": metric})
        ours.observe(metric)
        assert ours(0) == float(model.optimizer.learning_rate)
