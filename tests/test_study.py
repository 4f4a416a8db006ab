"""The study: the gradient is the loss's, a seed decides every bit, and a result is what happened."""

import io
import json
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import fastlr
from fastlr import study
from fastlr.study import laboratory, landscapes
from fastlr.study.descent import Descent, Memory, descend, measure_memory
from fastlr.study.experiment import updates_to_target
from fastlr.study.networks import ACTIVATIONS, log_softmax

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


@pytest.fixture(scope="module")
def data():
    return study.digits()


def some_batch(n, inputs, classes, dtype=np.float32):
    rng = np.random.default_rng(7)
    return rng.standard_normal((n, inputs)).astype(dtype), rng.integers(classes, size=n)


# the network


@every_activation
def test_the_gradient_is_that_of_the_loss(activation):
    """Central differences in float64: truncation is h**2 = 1e-12, rounding 1e-16 / h = 1e-10."""
    net = study.Network((5, 7, 4, 3), activation, seed=1, dtype=np.float64)
    batch = some_batch(6, 5, 3, np.float64)
    net.loss_and_grad(batch)
    h = 1e-6
    for name, p in net.params.items():
        numeric = np.empty_like(p)
        for i in np.ndindex(p.shape):
            kept = p[i]
            p[i] = kept + h
            above = net.loss(batch)
            p[i] = kept - h
            below = net.loss(batch)
            p[i] = kept
            numeric[i] = (above - below) / (2 * h)
        np.testing.assert_allclose(net.grads[name], numeric, rtol=1e-6, atol=1e-9, err_msg=name)


@every_activation
def test_the_gradient_of_a_regression_is_that_of_its_squared_error(activation):
    net = study.Network((5, 7, 1), activation, seed=1, dtype=np.float64, regression=True)
    x, _ = some_batch(6, 5, 3, np.float64)
    batch = x, np.random.default_rng(8).standard_normal(6)
    loss, _ = net.loss_and_grad(batch)
    assert loss == net.loss(batch) == pytest.approx(((net.predict(x) - batch[1]) ** 2).mean())
    h = 1e-6
    for name, p in net.params.items():
        for i in np.ndindex(p.shape):
            kept = p[i]
            p[i] = kept + h
            above = net.loss(batch)
            p[i] = kept - h
            numeric, p[i] = (above - net.loss(batch)) / (2 * h), kept
            assert net.grads[name][i] == pytest.approx(numeric, rel=1e-6, abs=1e-8), (name, i)


@every_activation
def test_loss_and_grad_reports_the_loss_and_writes_into_the_same_buffers(activation):
    net = study.Network((5, 7, 3), activation)
    before = {name: g.__array_interface__["data"] for name, g in net.grads.items()}
    batch = some_batch(6, 5, 3)
    loss, grads = net.loss_and_grad(batch)
    assert loss == net.loss(batch)
    assert grads is net.grads
    assert {name: g.__array_interface__["data"] for name, g in grads.items()} == before
    assert {g.dtype for g in grads.values()} == {np.dtype("float32")}
    assert {name: g.shape for name, g in grads.items()} == {name: p.shape for name, p in net.params.items()}


def test_log_softmax_is_exact_where_exponentials_overflow():
    z = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]])
    np.testing.assert_array_equal(log_softmax(z)[0], [0.0, -1e4, -2e4])
    np.testing.assert_allclose(log_softmax(z)[1], -np.log(3.0), rtol=1e-15)


def test_predictions_and_accuracy():
    net = study.Network((2, 2), seed=0)
    net.params["fc1.weight"][:] = np.eye(2)
    x = np.array([[1, 0], [0, 1], [3, 2], [1, 4]], np.float32)
    np.testing.assert_array_equal(net.predict(x), [0, 1, 0, 1])
    assert net.accuracy(x, np.array([0, 1, 0, 0])) == 0.75


@every_activation
def test_a_seed_decides_the_first_weights(activation):
    first, again, other = (study.Network((8, 4, 2), activation, seed=s) for s in (3, 3, 4))
    for name, p in first.params.items():
        np.testing.assert_array_equal(p, again.params[name])
        assert name.endswith("bias") or (p != other.params[name]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": (64,)}, r"Network: layers must be two or more widths of at least 1, got \(64,\)"),
        ({"layers": (64, 0, 10)}, r"Network: layers must be two or more widths of at least 1, got \(64, 0, 10\)"),
        ({"regression": True}, "Network: a regression has one output, so the last width must be 1, got 10"),
        ({"activation": "rely"}, "Network: activation must be one of relu, tanh, sigmoid, got 'rely'"),
    ],
)
def test_what_is_no_network(arguments, message):
    with pytest.raises(ValueError, match=message):
        study.Network(**arguments)


def test_bound_gradients_give_the_bits_of_passed_ones():
    """The two calls of an optimizer: buffers bound once, or arrays passed to each step."""
    bound, passed = study.Network(seed=5), study.Network(seed=5)
    by_binding = fastlr.SGD(bound.params, grads=bound.grads, lr=0.1)
    by_passing = fastlr.SGD(passed.params, lr=0.1)
    batch = some_batch(32, 64, 10)
    start = {name: p.copy() for name, p in bound.params.items()}
    for _ in range(20):
        bound.loss_and_grad(batch)
        by_binding.step()
        _, grads = passed.loss_and_grad(batch)
        by_passing.step({name: g.copy() for name, g in grads.items()})
    for name, p in bound.params.items():
        np.testing.assert_array_equal(p, passed.params[name], err_msg=name)
        assert (p != start[name]).any()


# the data


def test_digits_are_split_evenly_and_without_overlap(data):
    splits = data.train, data.validation, data.test
    assert sum(len(y) for _, y in splits) == 1797
    for (x, y), share in zip(splits, (0.6, 0.2, 0.2), strict=True):
        assert x.shape == (len(y), 64)
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert abs(len(y) - share * 1797) < 10  # each of the ten classes rounds by less than one image
        assert np.ptp(np.bincount(y, minlength=10)) <= 6  # classes have 174 to 183 images in all
    images = [set(map(bytes, x)) for x, _ in splits]
    assert not (images[0] & images[1] or images[0] & images[2] or images[1] & images[2])


def test_digits_are_scaled_by_the_training_images_alone(data):
    x = data.train[0].astype(np.float64)
    assert abs(x.mean()) < 1e-6  # float32 holds a pixel to 6e-8
    assert abs(x.std() - 1) < 1e-6
    assert abs(data.test[0].mean()) > 1e-4             # (scaled by itself, it would be 0 to 1e-6 as the mean above)
    for x, _ in (data.train, data.validation, data.test):
        pixels = x.astype(np.float64) * data.scale + data.mean
        np.testing.assert_allclose(pixels, np.rint(pixels), rtol=0, atol=2**-24 * data.scale)  # half an ulp of x below 2
        assert (np.rint(pixels).min(), np.rint(pixels).max()) == (0, 16)


def test_digits_are_the_same_for_the_same_seed_and_cannot_be_written(data):
    np.testing.assert_array_equal(data.train[0], study.digits(seed=0).train[0])
    assert (data.train[0] != study.digits(seed=1).train[0]).any()
    with pytest.raises(ValueError, match="read-only"):
        data.train[0][0] = 0


def test_digits_refuse_shares_without_a_test():
    with pytest.raises(ValueError, match=r"digits: shares must be positive and leave some for the test"):
        study.digits(shares=(0.8, 0.2))


def test_digits_name_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'fastlr-core\[lab\]'"):
        study.digits()


# the experiment


def outcome(result):
    """All that a seed decides."""
    return {name: value for name, value in result.to_dict().items() if name != "machine"}


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_cell_is_reproducible_to_the_bit(data, optimizer):
    cell = study.Cell(lr=0.01, optimizer=optimizer, epochs=3)
    first, again = study.train(cell, data), study.train(cell, data)
    assert outcome(first) == outcome(again)
    other = outcome(study.train(study.Cell(lr=0.01, optimizer=optimizer, epochs=3, seed=1), data))
    assert other["train_loss"] != first.train_loss


def test_a_cell_learns_and_says_when(data):
    """Ten classes: chance is 10 %, and a loss of ln 10 = 2.3 nats; 0.5 nats is far below both."""
    result = study.train(study.Cell(lr=0.1, epochs=10, target_loss=0.5), data)
    updates_per_epoch = len(data.train[1]) // 32
    assert not result.diverged
    assert result.updates == 10 * updates_per_epoch
    assert updates_per_epoch <= result.updates_to_target < result.updates
    assert result.train_loss < 0.5
    assert result.test_accuracy > 0.85
    assert result.train_seconds > 0
    assert study.train(study.Cell(lr=0.1, epochs=10, target_loss=1e-9), data).updates_to_target is None


def test_a_diverging_rate_is_reported_as_diverged(data):
    result = study.train(study.Cell(network="64-64-32-10-relu", lr=1e30, epochs=3), data)
    assert result.diverged
    assert result.updates < 3 * (len(data.train[1]) // 32)
    assert result.train_loss is result.test_accuracy is result.updates_to_target is None
    json.dumps(result.to_dict(), allow_nan=False)


@every_activation
def test_a_rate_that_saturates_its_units_has_diverged_though_its_loss_is_finite(data, activation):
    result = study.train(study.Cell(network=f"64-16-10-{activation}", lr=1e20, epochs=2), data)
    assert result.diverged
    assert result.train_loss is None or result.train_loss > 3  # a fresh network guesses: ln 10 = 2.3 nats


def test_a_network_whose_units_die_has_collapsed(data):
    """At rate 3 rectifiers die, and all rows get the same output; the loss is that of guessing by frequencies."""
    result = study.train(study.Cell(lr=3.0, epochs=10), data)
    assert result.collapsed and not result.diverged and not result.learned
    assert result.train_loss == pytest.approx(data.baseline["train_loss"], rel=0.05)
    assert str(result).endswith(": collapsed")


def test_a_network_that_forgets_has_collapsed(data):
    """A rate that grows a hundredfold: it has learned after an epoch, and has not in the end."""
    rising = "constant(1).then(constant(300), at=66)"
    result = study.train(study.Cell(lr=0.1, epochs=6, schedule=rising), data)
    assert min(result.curve["train_loss"]) < 1 and (result.collapsed or result.diverged) and not result.learned


@every_activation
def test_a_rate_too_small_to_learn_has_not_diverged(data, activation):
    result = study.train(study.Cell(network=f"64-16-10-{activation}", lr=1e-6, epochs=1), data)
    assert not result.diverged and not result.collapsed and not result.learned
    assert result.updates_to_target is None


@pytest.mark.parametrize("optimizer", [name for name in fastlr.list_optimizers() if name != "sophia"])
def test_every_optimizer_trains_and_escapes_by_itself_or_not_at_all(data, optimizer):
    """In an array of many starts each must move as it would alone; where a rule cannot do that, another one descends."""
    settings = replace(laboratory.Settings(**laboratory.QUICK), networks=("64-8-10-relu",), lrs=(0.01,), seeds=1, epochs=1,
                       further_seeds=1, optimizer=optimizer)
    planned = laboratory.plan(settings, data)
    assert planned["grid"][0].execute(data).updates == 33
    memory = [task for task in planned["memory"] if task.optimizer == optimizer]
    assert memory[0].execute(data).state >= 0
    chosen = planned["escape"][0].optimizer
    assert chosen in (optimizer, "sgd")
    rng = np.random.default_rng(0)
    x, slopes = rng.standard_normal((8, 2)), rng.standard_normal((3, 8, 2))

    def moved(rows):
        """The rows after three steps; None if the rule needs more than gradients."""
        own = x[rows].copy()
        opt = fastlr.create_optimizer(optimizer, own, lr=0.01)
        for slope in slopes if not opt.needs_loss else ():
            opt.step(slope[rows].copy())
        return None if opt.needs_loss else own

    together, alone = moved(slice(None)), [moved(slice(k, k + 1)) for k in range(8)]
    independent = together is not None and (together == np.concatenate(alone)).all()
    assert independent or chosen == "sgd"
    assert chosen == {"adam": "adam", "lion": "lion", "schedulefreesgd": "schedulefreesgd", "lamb": "sgd", "momo": "sgd",
                      "prodigy": "sgd", "muon": "sgd"}.get(optimizer, chosen)


def test_a_schedule_drives_the_rate(data):
    held = study.train(study.Cell(lr=0.05, epochs=2), data)
    by = {text: study.train(study.Cell(lr=0.05, epochs=2, schedule=text), data)
          for text in ("constant(1)", "constant(0.5)", "linear(1, steps=updates)", f"linear(1, steps={held.updates})")}
    assert by["constant(1)"].train_loss == held.train_loss
    assert by["constant(0.5)"].train_loss == study.train(study.Cell(lr=0.025, epochs=2), data).train_loss
    assert by["linear(1, steps=updates)"].train_loss == by[f"linear(1, steps={held.updates})"].train_loss
    assert by["linear(1, steps=updates)"].train_loss not in (held.train_loss, by["constant(0.5)"].train_loss)


@pytest.mark.parametrize(("text", "message"), [
    ("cosine(1", "expression: '\\(' was never closed"),
    ("__import__('os')", "expression: .*__import__"),
    ("constant(0) * -1", "study: the schedule .* negative or not finite|-1"),
])
def test_a_schedule_that_is_none_is_refused_before_training(data, text, message):
    with pytest.raises(ValueError, match=message):
        study.run([study.Cell(epochs=1), study.Cell(epochs=1, schedule=text)], data,
                  progress=lambda _: pytest.fail("trained"))


def test_the_curve_ends_where_the_result_does(data):
    """Every epoch is one entry after the first; a network that learns nothing of a split cannot hide in its curve."""
    result = study.train(study.Cell(lr=0.1, epochs=4, target_loss=1.0), data)
    assert {len(series) for series in result.curve.values()} == {5}
    for name, series in result.curve.items():
        assert series[-1] == getattr(result, name)
    net = study.Network(seed=0)
    assert result.curve["train_loss"][0] == pytest.approx(net.loss(data.train), rel=1e-6)
    assert result.curve["test_accuracy"][0] == net.accuracy(*data.test)
    assert 0 < result.seconds_to_target <= result.train_seconds


def test_updates_to_target_is_the_first_full_window_at_or_below_it():
    rng = np.random.default_rng(0)
    losses = list(np.exp(-0.02 * np.arange(200)) + 0.1 * rng.random(200))
    for target in (0.9, 0.5, 0.3, 0.08):
        plain = (k for k in range(10, 201) if np.mean(losses[k - 10 : k]) <= target)
        assert updates_to_target(losses, 10, target) == next(plain, None)
    assert updates_to_target([0.0] * 9, 10, 1.0) is None
    assert updates_to_target([1.0, float("nan"), 1.0], 2, 2.0) is None


def test_a_grid_is_every_combination_once_seed_after_seed():
    cells = study.grid(lrs=[0.1, 0.2, 0.1], networks=study.NETWORKS[:2], seeds=range(2), epochs=3)
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert len(set(cells)) == 8
    assert {cell.epochs for cell in cells} == {3}
    assert len(study.grid()) == 5 * 5 * 2


def test_progress_is_called_after_each_cell(data):
    seen = []
    results = study.run(study.grid(lrs=[0.1], seeds=[0], epochs=1), data, progress=seen.append)
    assert seen == results
    assert [result.cell.network for result in results] == list(study.NETWORKS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": 0.0}, "study: a learning rate must be positive and finite, got 0.0"),
        ({"lr": float("nan")}, "study: a learning rate must be positive and finite, got nan"),
        ({"epochs": 0}, "study: epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "study: batch_size must be at least 1, got 0"),
        ({"seed": -1}, "study: seed must be at least 0, got -1"),
        ({"target_loss": 0.0}, "study: the target loss must be positive, got 0.0"),
        ({"optimizer": "momentun"}, "study: no optimizer is called 'momentun'; did you mean 'momentum'"),
        ({"optimizer": "sophia"}, "study: 'sophia' needs estimates of the curvature, which the study's networks do not"),
        ({"network": "64-x-10-relu"}, "like 64-32-10-relu; got '64-x-10-relu'"),
        ({"network": "64-relu"}, "like 64-32-10-relu; got '64-relu'"),
        ({"network": "64-10-rely"}, "study: a network is its widths and one of relu, tanh, sigmoid"),
    ],
)
def test_what_is_no_cell(wrong, message):
    with pytest.raises(ValueError, match=message):
        study.Cell(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "32-10-relu"}, "digits has 64 features and 10 classes, so .* got 32-10-relu"),
        ({"network": "64-9-relu"}, "must start with 64 and end with 10; got 64-9-relu"),
        ({"batch_size": 1079}, "study: batch_size must be at most 1078, the training rows, got 1079"),
    ],
)
def test_a_cell_that_does_not_fit_is_refused_before_any_is_trained(data, wrong, message):
    with pytest.raises(ValueError, match=message):
        cells = [study.Cell(epochs=1), study.Cell(**wrong)]
        study.run(cells, data, progress=lambda _: pytest.fail("trained"))


# landscapes


@pytest.mark.parametrize("name", study.LANDSCAPES)
def test_a_landscape_is_what_it_says(name):
    """Slopes against central differences; minima against all of a lattice, and against their curvature."""
    land = study.LANDSCAPES[name]
    rng = np.random.default_rng(3)
    p = rng.uniform(land.view[::2], land.view[1::2], (50, 2))
    h = 1e-6
    for axis in np.eye(2):
        numeric = (land.height(p + h * axis) - land.height(p - h * axis)) / (2 * h)
        np.testing.assert_allclose((land.slope(p) * axis).sum(-1), numeric, rtol=1e-6, atol=1e-6)
    lattice = np.stack(np.meshgrid(np.linspace(-6, 6, 1201), np.linspace(-6, 6, 1201)), -1)
    best = land.height(np.array(land.best))
    assert np.ptp(best) < 1e-9
    assert best.max() <= land.height(lattice).min() + 1e-9
    start = np.array(land.start)
    assert land.height(start) > best.max() + 1e-3
    for minimum in (start, *map(np.array, land.best)):
        assert np.abs(land.slope(minimum)).max() < 1e-6
        hessian = np.array([(land.slope(minimum + h * e) - land.slope(minimum - h * e)) / (2 * h) for e in np.eye(2)])
        assert np.linalg.eigvalsh(hessian).min() > 0
        if minimum is start:
            assert np.linalg.eigvalsh(hessian).max() == pytest.approx(land.curvature, rel=1e-6)


def test_without_noise_nobody_escapes_and_with_it_a_seed_decides():
    still = study.escape(study.Escape("double-well", 0.1, starts=20, steps=200, noise=0.0))
    assert (still.escaped, still.found, still.lost) == (0.0, 0.0, 0.0)
    task = study.Escape("rastrigin", 0.05, starts=300, steps=300)
    first, again = study.escape(task), study.escape(task)
    assert first == again
    assert 0 < first.escaped < 1 and first.found <= first.escaped
    assert study.escape(replace(task, seed=1)).points != first.points
    # a start is a row: of fewer of them each does what it did among more, where the noise is the same
    quiet = replace(task, noise=0.0)
    assert study.escape(replace(quiet, starts=2)).points == study.escape(quiet).points[:2]


def test_escaped_is_whoever_is_not_back_where_it_began_and_found_whoever_is_at_a_best_place():
    """Of Rastrigin the minima are a unit apart: the nearest one, too, is another basin."""
    task = study.Escape("rastrigin", 0.02, starts=400, steps=150)
    found = study.escape(task)
    land = study.LANDSCAPES["rastrigin"]
    rng, x = np.random.default_rng((0, 2)), np.repeat(np.array(land.start)[None], 400, axis=0)
    for _ in range(150):
        x -= 0.02 * (land.slope(x) / land.curvature + 2.0 * rng.standard_normal(x.shape))
    for _ in range(600):
        x -= 0.2 * np.clip(land.slope(x) / land.curvature, -1, 1)
    steps = np.rint(x / 0.994958637652)
    home = (steps == 1).all(axis=1)
    assert 0.05 < found.escaped < 0.95
    assert found.escaped == (~home).mean()
    assert found.found == (steps == 0).all(axis=1).mean()


def test_what_is_lost_has_neither_escaped_nor_been_found():
    lost = study.escape(study.Escape("six-hump", 100.0, starts=50, steps=50))
    assert (lost.escaped, lost.found, lost.lost) == (0.0, 0.0, 1.0)
    assert set(lost.points) == {None}
    json.dumps(lost.to_dict(), allow_nan=False)


def test_a_path_is_where_a_start_was_after_so_many_updates():
    """A shorter escape with the same noise ends where the longer one came by."""
    task = study.Escape("six-hump", 0.05, starts=8, steps=300)
    found, times = study.escape(task), landscapes.frames(300)
    assert (times[0], times[-1], len(times)) == (0, 300, landscapes.FRAMES + 1)
    assert sorted(times) == times
    assert len(found.paths) == landscapes.FOLLOWED and {len(path) for path in found.paths} == {len(times)}
    assert {path[0] for path in found.paths} == {tuple(round(x, 3) for x in study.LANDSCAPES["six-hump"].start)}
    for k in (7, 20, 41, len(times) - 1):
        short = study.escape(replace(task, steps=times[k]))
        for path, point in zip(found.paths, short.points, strict=False):
            assert path[k] == tuple(round(x, 3) for x in point)


def test_a_path_ends_where_numbers_are_no_longer_finite():
    lost = study.escape(study.Escape("six-hump", 100.0, starts=8, steps=50))
    assert all(1 < len(path) < 20 for path in lost.paths)
    json.dumps(lost.to_dict(), allow_nan=False)


# descent, memory


def test_descent_stops_at_the_first_gradient_that_is_small_enough(data):
    """Against the same descent by NumPy alone; float32 may round otherwise, so within one update."""
    task = Descent("64-16-10-tanh", 0.1, target_norm=0.3)
    result = descend(task, data)
    net = study.Network((64, 16, 10), "tanh")
    updates = 0
    net.loss_and_grad(data.train)

    def norm():
        return np.sqrt(sum((g.astype(float) ** 2).sum() for g in net.grads.values()))

    first = norm()
    while norm() > 0.3 * first:
        for name, p in net.params.items():
            p -= np.float32(0.1) * net.grads[name]
        net.loss_and_grad(data.train)
        updates += 1
    assert abs(result.updates - updates) <= 1
    assert result.norms[0] == pytest.approx(first, rel=1e-5)
    assert result.norm == result.norms[-1] <= 0.3 * result.norms[0] < min(result.norms[:-1])
    assert len(result.norms) == result.updates + 1
    again = descend(replace(task, most_loss=result.train_loss / 2), data)               # (a small norm is not enough)
    assert again.updates > result.updates and again.train_loss <= result.train_loss / 2
    short = descend(replace(task, limit=3), data)
    assert (short.updates, short.seconds, len(short.norms)) == (None, None, 4)
    dead = descend(Descent("64-32-10-relu", 10.0, limit=40), data)                     # (its norm is 0, nearly)
    assert dead.collapsed and dead.updates is None and dead.norm < 0.1 * dead.norms[0] and str(dead).endswith("collapsed")
    lost = descend(replace(task, lr=1e30, network="64-16-16-10-relu"), data)
    assert lost.updates is None
    json.dumps(lost.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("optimizer", "slots"), [("sgd", 0), ("momentum", 1), ("adam", 2)])
def test_memory_depends_on_the_optimizer_and_not_on_the_rate(data, optimizer, slots):
    held = [measure_memory(Memory("64-32-10-relu", lr, optimizer), data) for lr in (1e-3, 0.1)]
    size = 4 * (64 * 32 + 32 + 32 * 10 + 10)
    for one in held:
        assert (one.parameters, one.gradients, one.state) == (size, size, slots * size)
        assert one.peak > (2 + slots) * size
    assert not tracemalloc.is_tracing()


# data


def test_diabetes_is_a_regression_whose_baseline_is_the_mean(data):
    diabetes = study.load("diabetes")
    assert (diabetes.regression, diabetes.features, diabetes.outputs, diabetes.target[0]) == (
        True, 10, 1, pytest.approx(150, abs=10))
    result = study.train(study.Cell("10-8-1-tanh", 0.03, epochs=20, target_loss=0.6), diabetes)
    assert result.learned and not result.diverged and not result.collapsed
    assert result.test_accuracy is None and 0.3 < result.test_r2 < 0.7       # (of a linear model: 0.45 to 0.55)
    assert result.test_r2 == pytest.approx(1 - result.test_loss / diabetes.baseline["test_loss"])
    assert 0 < result.updates_to_target < result.updates
    assert not data.regression
    counts = np.bincount(data.train[1]) / len(data.train[1])
    assert data.baseline["test_loss"] == pytest.approx(-np.log(counts)[data.test[1]].mean())
    assert data.majority == (data.test[1] == counts.argmax()).mean()
    with pytest.raises(ValueError, match="diabetes has 10 features and a number to predict, so .* end with 1; got 10-8-2"):
        study.run([study.Cell("10-8-2-tanh")], diabetes)


@pytest.mark.parametrize(("name", "features", "classes", "rows"), [("wine", 13, 3, 178), ("breast_cancer", 30, 2, 569)])
def test_the_other_data_sets_are_split_and_scaled_by_feature(name, features, classes, rows):
    data = study.load(name)
    assert (data.features, len(data.classes)) == (features, classes)
    assert sum(len(y) for _, y in (data.train, data.validation, data.test)) == rows
    np.testing.assert_allclose(data.train[0].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train[0].std(axis=0), 1, atol=1e-5)
    assert all(set(range(classes)) == set(y) for _, y in (data.train, data.validation, data.test))


CLEAN = "\n".join(f"{k % 7}.5,{k % 3},{'ab'[k % 2]}" for k in range(20))


@pytest.mark.parametrize(("text", "classes"), [
    (CLEAN, ("a", "b")),
    ("\ufeffwide;long;kind\r\n" + CLEAN.replace(",", ";").replace("\n", "\r\n"), ("a", "b")),
    ("label,u,v\n" + "\n".join(f"{k % 2}.0,{k},{-k}" for k in range(20)), ("0", "1")),
    ("u\tv\n" + "\n".join(f"{k}e-3\t{10 * (k % 2)}" for k in range(20)) + "\n\n", ("0", "10")),
])
def test_a_csv_file_is_read_with_or_without_names(tmp_path, text, classes):
    path = tmp_path / "some.csv"
    path.write_bytes(text.encode())
    data = study.load(str(path))
    assert data.classes == classes
    assert sum(len(y) for _, y in (data.train, data.validation, data.test)) == 20


def test_a_csv_and_an_npz_file_of_the_same_rows_are_the_same_data(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)) * 50, np.arange(30) % 3
    np.savetxt(tmp_path / "a.csv", np.column_stack([x, y]), delimiter=",", fmt="%.17g")
    np.savez(tmp_path / "a.npz", X=x.reshape(30, 2, 2), y=y)
    csv, npz = study.load(str(tmp_path / "a.csv")), study.load(str(tmp_path / "a.npz"))
    for ours, theirs in zip(csv.train + csv.test, npz.train + npz.test, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    original = csv.train[0] * csv.scale + csv.mean
    rounding = np.abs(csv.train[0]).max() * csv.scale * 2**-24          # half an ulp of the largest, in float32
    for row in original:
        assert (np.abs(x - row) <= rounding).all(axis=1).sum() == 1


def test_text_and_missing_values_of_a_table_become_numbers(tmp_path):
    """A column for each text, the training mean for a missing number, no rows without a label; and it is told."""
    rng = np.random.default_rng(0)
    rows = [f"{k},{rng.normal():.3f},{['red', 'blue', 'NA'][k % 3]},name {k},{['yes', 'no'][k % 2]}" for k in range(60)]
    rows[4] = "4,,red,name 4,yes"
    rows[7] = "7,1.5,blue,name 7,"
    rows[9] = "9,1.5,blue,name 9,maybe"
    path = tmp_path / "some.csv"
    path.write_text("\n".join(["id,size,color,who,answer", *rows]))
    data = study.load(str(path))
    assert data.classes == ("no", "yes") and data.features == 4          # (size, and three colors)
    assert sum(len(y) for _, y in (data.train, data.validation, data.test)) == 58
    assert data.notes == (
        "1 rows without 'answer' are left out", "'id' is left out: it numbers the rows",
        "'size': 1 missing values have the mean of the training rows",
        "'color' is text: a column of 0 and 1 for each of its 3 values",
        "'who' is left out: it is text with 59 different values",
        "1 classes of fewer than 5 rows are left out, 1 rows in all")
    every = np.concatenate([x for x, _ in (data.train, data.validation, data.test)])
    assert (every[:, 0] == 0).sum() == 1                                 # the mean, scaled
    np.testing.assert_allclose(data.train[0].mean(axis=0), 0, atol=0.1)
    assert all(len(np.unique(every[:, k])) == 2 for k in (1, 2, 3))


def test_a_target_is_named_and_a_number_is_predicted_as_one(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("\n".join(["price,size,kind", *(f"{k * 1.25},{k % 7},{'ab'[k % 2]}" for k in range(60))]))
    prices = study.load(str(path), target="price")
    assert prices.classes == () and prices.regression and prices.features == 3 and prices.outputs == 1
    assert prices.notes[-1] == "the target is a number with 60 different values: a regression"
    assert [len(y) for _, y in (prices.train, prices.validation, prices.test)] == [36, 12, 12]
    assert prices.train[1].dtype == np.float32
    assert abs(prices.train[1].mean()) < 1e-6 and abs(prices.train[1].std() - 1) < 1e-6
    mean, spread = prices.target
    every = np.sort(np.concatenate([y for _, y in (prices.train, prices.validation, prices.test)]) * spread + mean)
    # (float32 of what is at most 2 spreads of 22 from the mean, each rounded by 6e-8 of itself)
    np.testing.assert_allclose(every, 1.25 * np.arange(60), atol=5e-6)
    assert prices.baseline["train_loss"] == pytest.approx(1)
    assert "test_accuracy" not in prices.baseline
    assert study.load(str(path)).classes == ("a", "b")
    with pytest.raises(ValueError, match=r"no column is called 'prise'; did you mean 'price'\?"):
        study.load(str(path), target="prise")


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


TWENTY = np.arange(20.0)[:, None]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.csv", b"", "a.csv: needs rows of features and a label"),
    ("a.csv", b"x,label\n", "a.csv: needs rows of features and a label"),
    ("a.csv", b"1\n2\n", "a.csv: needs rows of features and a label"),
    ("a.csv", b"1,2,a\n1,b\n", "a.csv: row 2: expected 3 entries, got 2"),
    ("a.csv", b"u,v,label\n1,2,a\n1,,b\n", "a.csv: 2 classes in 2 rows; each class needs 5 rows at least"),
    ("a.csv", b"u,label\n" + b"".join(b",%d\n" % (k % 2) for k in range(20)), "no column is left to learn 'label' from; 'u'"),
    ("a.csv", b"id,label\n" + b"".join(b"%d,%d\n" % (k, k % 2) for k in range(20)), "'id' is left out: it numbers the rows"),
    ("a.csv", b"1,2\n" * 20, "a.csv: labels must be of two classes at least, got 1"),
    ("a.csv", b"".join(b"1,a%d\n" % k for k in range(20)), "a.csv: 20 classes in 20 rows; each class needs 5 rows"),
    ("a.csv", b"1,a\n" * 20 + b"1,b\n", "a.csv: class 'b' has 1 rows; each class needs 5 at least"),
    ("a.csv", b"1e300,a\n" * 9 + b"1e-300,b\n" * 8 + b"-1e308,a\n" * 9, "a.csv: numbers too large"),
    ("a.csv", b"\xff\xfe\x00", "a.csv: not a text file of separated values"),
    ("a.npz", b"not a zip file", "a.npz: not a readable .npz file"),
    ("a.npz", npz(x=TWENTY, y=np.arange(20) % 2)[:-60], "a.npz: not a readable .npz file"),
    ("a.npz", npz(u=TWENTY), "a.npz: must hold x and y .*, has u"),
    ("a.npz", npz(x=TWENTY, y=np.arange(19)), r"a.npz: expected x \(n, ...\) and y \(n,\), got \(20, 1\) and \(19,\)"),
    ("a.npz", npz(x=TWENTY.astype(str), y=np.arange(20) % 2), "a.npz: x must be numbers, got <U32"),
    ("a.npz", npz(x=np.where(TWENTY == 3, np.nan, TWENTY), y=np.arange(20) % 2), "a.npz: row 4: a value is missing"),
    ("a.npz", npz(x=np.array([{}] * 20), y=np.arange(20)), "a.npz: not a readable .npz file"),
    ("a.txt", b"1,2", "data: one of digits, wine, breast_cancer, diabetes, or a .csv or .npz file, got '.*a.txt'"),
    ("a.csv", b"size,ID\n" + b"".join(b"1,%d\n" % k for k in range(40)), "a.csv: the target 'ID' numbers the rows; choose"),
    ("a.csv", b"".join(b"%d,7.5\n" % k for k in range(40)), "two classes at least, got 1: '7.5' in every row; choose another"),
    ("a.csv", b"".join(b"%d,%d.5\n" % (k % 3, k) for k in range(19)), "a.csv: a regression needs 20 rows at least, got 19"),
    ("a.csv", b"".join(b"%d,%de300\n" % (k % 3, k * k) for k in range(40)), "numbers of the target too large"),
])
def test_a_file_that_nothing_can_be_learned_from_says_why_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        study.load(str(path))
    assert "\n" not in str(raised.value)


def test_a_model_without_torch_names_what_is_missing(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"study: nets:small: a model needs PyTorch: pip install torch"):
        study.run(study.grid([0.1], ["nets:small"]), data)
    assert "fastlr.torch" not in sys.modules or "torch" in dir(sys.modules["fastlr.torch"])
