"""The callback for Keras: what it records is what Keras did, and a plateau lowers its rate or stops it."""
import re
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import fastlr  # noqa: E402
from fastlr import callbacks  # noqa: E402

# of its torch backend: with NumPy 2, and at a first gradient
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Losses(keras.callbacks.Callback):
    """The losses of all rows before each epoch, by evaluation, and the rates."""

    def __init__(self):
        super().__init__()
        self.means, self.rates = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.means.append(logs["loss"])
        self.rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


def model(lr=0.05):
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
    made.compile(optimizer=keras.optimizers.SGD(lr), loss="mse")
    return made


def rows(n=40):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 4)).astype(np.float32)
    return x, x.sum(axis=1, keepdims=True)


def fit(made, callback, epochs=3, batch_size=8, **more):
    peer = Losses()
    made.fit(*rows(), epochs=epochs, batch_size=batch_size, verbose=0, shuffle=False, callbacks=[callback, peer], **more)
    return peer


def test_the_loss_of_each_batch_is_recorded_and_not_the_mean_so_far():
    """Means in float32, of a few numbers near 1: a batch's loss is right to some 1e-6."""
    x, y = rows()
    alone = model()
    expected = []
    for _ in range(3):
        for k in range(0, 40, 8):
            expected.append(float(np.asarray(alone.train_on_batch(x[k:k + 8], y[k:k + 8]))))
            alone.reset_metrics()
    history = fastlr.History()
    peer = fit(model(), callbacks.keras_callback(history), validation_data=rows(16))
    np.testing.assert_allclose(history["loss"], expected, rtol=2e-5)
    np.testing.assert_allclose(history["loss"].reshape(3, 5).mean(axis=1), peer.means, rtol=1e-6)
    assert history.t("loss").tolist() == list(range(1, 16))
    assert history.t("val_loss").tolist() == [5, 10, 15]
    np.testing.assert_allclose(history["lr"], 0.05, rtol=1e-7)


def test_the_rate_of_a_schedule_is_that_of_the_update():
    schedule = fastlr.schedules.linear(0.1, steps=20)
    history = fastlr.History()
    fit(model(schedule.to_keras()), callbacks.keras_callback(history), epochs=2)
    np.testing.assert_allclose(history["lr"], schedule(np.arange(10)), rtol=1e-6)


def test_a_plateau_lowers_the_rate_of_keras_and_stops_it():
    """No loss is lower than the first by 1e9, so that every validation after it is a reduction."""
    plateau = fastlr.Plateau(1.0, factor=0.5, patience=0, threshold=1e9, threshold_mode="absolute")
    callback = callbacks.keras_callback(plateau=plateau, stop=3)
    peer = fit(model(0.08), callback, epochs=9, validation_data=rows(16))
    assert len(peer.means) == 4
    np.testing.assert_allclose(peer.rates, [0.08, 0.04, 0.02, 0.02], rtol=1e-6)
    np.testing.assert_allclose(callback.history["lr"].reshape(4, 5)[:, 0], [0.08, 0.08, 0.04, 0.02], rtol=1e-6)


def test_training_that_goes_on_goes_on_in_the_history():
    made, history = model(), fastlr.History()
    fit(made, callbacks.keras_callback(history), epochs=1)
    fit(made, callbacks.keras_callback(history), epochs=1)
    assert history.t("loss").tolist() == list(range(1, 11))


def test_a_rate_that_no_plateau_can_lower_and_a_metric_that_is_not_there():
    with pytest.raises(ValueError, match="keras_callback: the optimizer's rate is a schedule, which a plateau cannot lower"):
        fit(model(fastlr.schedules.linear(0.1, steps=20).to_keras()),
            callbacks.keras_callback(plateau=fastlr.Plateau(1.0)))
    with pytest.raises(ValueError, match=r"keras_callback: 'val_loss' is not in the logs, but loss; give fit\(validation_"):
        fit(model(), callbacks.keras_callback(plateau=fastlr.Plateau(1.0)))


def test_the_example_of_the_page_runs():
    """docs/callbacks.md"""
    page = (Path(__file__).parents[1] / "docs" / "callbacks.md").read_text()
    (block,) = re.findall(r"```python\n(import keras\n.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(compile(block, "callbacks.md", "exec"), names)
    assert names["callback"].history.t("loss").tolist() == list(range(1, 41))
    assert names["callback"].history.t("val_loss").tolist() == [8, 16, 24, 32, 40]
