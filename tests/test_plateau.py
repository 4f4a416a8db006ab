"""The factor that a metric lowers: when, by which convention, and resumed exactly as a part of an optimizer."""
import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastlr
from fastlr import Plateau, schedules

FLAT = [1.0] * 12


def reductions(metrics, **options):
    """At which observations (1-based) the scale falls."""
    plateau = Plateau(1.0, **{"factor": 0.5, **options})
    return [i for i, metric in enumerate(metrics, 1) if plateau.observe(metric)]


@pytest.mark.parametrize("convention, at", [("torch", [4, 7, 10]), ("optax", [3, 5, 7, 9, 11]), ("keras", [3, 5, 7, 9, 11])])
def test_patience_has_two_meanings_each_by_its_name(convention, at):
    assert reductions(FLAT, patience=2, convention=convention) == at


@pytest.mark.parametrize("convention, at", [("torch", [4, 9]), ("optax", [3, 7, 11]), ("keras", [3, 6, 9, 12])])
def test_cooldown(convention, at):
    assert reductions(FLAT, patience=2, cooldown=2, convention=convention) == at


def test_an_improvement_starts_the_count_again():
    assert reductions([1, 1, 0.9, 0.9, 0.9, 0.8, 0.8], patience=1) == [5]
    assert reductions([1, 1, 1.1, 1.2, 1.2, 1.2], patience=1, mode="max") == [6]


def test_threshold():
    slow = [1 - 0.001 * k for k in range(10)]
    assert reductions(slow, patience=3) == []
    assert reductions(slow, patience=3, threshold=0.1) == [5, 9]
    assert reductions([100, 99.95, 99.9, 99.85], patience=2, threshold=0.3, threshold_mode="absolute") == [4]


def test_negative_metrics_improve_downwards_too():
    """In torch `metric < best * (1 - threshold)` calls -1.00005 better than -1 and -0.99995 as well."""
    falling = [-1 - k for k in range(8)]
    assert reductions(falling, patience=1) == []
    assert reductions([-1.0, -0.99995, -0.9999, -0.9998], patience=1) == [3]


def test_what_is_not_finite_is_no_improvement():
    assert reductions([1.0, float("nan"), float("-inf"), float("inf")], patience=1) == [3]
    assert reductions([float("nan")] * 4, patience=1) == [2, 4]


def test_accumulation_is_the_same_of_means():
    metrics = [1.0, 3.0, 0.5, 3.5, 2.0, 2.0, 4.0, 0.0, 1.0, 2.0, 1.0, 2.0]      # means 2, 2, 2, 2, 1.5, 1.5
    assert reductions(metrics, patience=1, accumulation_size=2) == [6]
    assert reductions(metrics, patience=0, accumulation_size=2) == [4, 6, 8, 12]
    assert reductions(metrics, patience=1, accumulation_size=1) == reductions(metrics, patience=1) != [6]
    assert reductions([5.0, 1.0] * 6, patience=1, mode="max", accumulation_size=2) == [6, 10]


def test_accumulation_of_what_is_not_finite_is_no_improvement():
    plateau = Plateau(1.0, 0.5, patience=0, accumulation_size=3)
    assert [plateau.observe(m) for m in [1, 1, 1]] == [False] * 3
    for metric in (float("nan"), float("-inf"), 0.0):
        json.dumps(plateau.state_dict(), allow_nan=False)
        last = plateau.observe(metric)
    assert last and plateau.scale == 0.5 and plateau.best == 1
    assert [plateau.observe(m) for m in [0.5, 0.5, 0.5]] == [False] * 3 and plateau.best == 0.5


def test_smoothing_is_that_of_the_mean():
    metrics, mean, scales = [0.5, 0.4, 0.9, 0.2, float("nan"), 0.3, float("inf"), 0.1], None, []
    plateau, twin = Plateau(1.0, 0.5, patience=1, smoothing=0.75), Plateau(1.0, 0.5, patience=1)
    for metric in metrics:
        if np.isfinite(metric):
            mean = metric if mean is None else 0.75 * mean + 0.25 * metric
        assert plateau.observe(metric) == twin.observe(mean if np.isfinite(metric) else metric)
        assert plateau.smoothed == pytest.approx(mean, rel=1e-14) and plateau.best == pytest.approx(twin.best, rel=1e-14)
        scales.append(plateau.scale)
    assert scales[-1] < 1
    assert reductions(FLAT, patience=2, smoothing=0.0) == reductions(FLAT, patience=2, smoothing=0.9)


def test_one_low_value_by_chance_is_not_the_best_for_long():
    losses = [0.5, 0.45, 0.13, *np.linspace(0.36, 0.19, 30)]
    assert reductions(losses, factor=0.2, patience=5) != []
    assert reductions(losses, factor=0.2, patience=5, smoothing=0.9) == []
    assert reductions([-x for x in losses], factor=0.2, patience=5, smoothing=0.9, mode="max") == []


def test_smoothing_is_of_the_means_of_accumulated_metrics():
    metrics = [1.0, 3.0, 0.5, 3.5, 2.0, 2.0, 4.0, 0.0, 1.0, 2.0, 1.0, 2.0]
    means = [2.0, 2.0, 2.0, 2.0, 1.5, 1.5]
    ours = reductions(metrics, patience=1, accumulation_size=2, smoothing=0.5)
    assert ours == [2 * k for k in reductions(means, patience=1, smoothing=0.5)] != []


def test_a_state_of_before_smoothing_is_loaded():
    plateau = Plateau(0.1, 0.5, patience=0)
    plateau.observe(1), plateau.observe(2)
    old = {k: v for k, v in plateau.state_dict().items() if k not in ("smoothing", "smoothed")}
    again = Plateau(0.1, smoothing=0.9)
    again.load_state_dict(old)
    assert again.scale == 0.5 and again.smoothing == 0


def test_settings_can_be_set_and_are_checked():
    plateau = Plateau(1.0, 0.5, patience=5)
    plateau.patience, plateau.factor, plateau.mode = 0, 0.25, "max"
    assert [plateau.observe(m) for m in (1.0, 1.0)] == [False, True] and plateau.scale == 0.25
    with pytest.raises(ValueError, match=r"Plateau: factor must be in \[0, 1\), got 2"):
        plateau.factor = 2
    assert plateau.factor == 0.25 and pickle.loads(pickle.dumps(plateau)).state_dict() == plateau.state_dict()


@pytest.mark.parametrize("name, near", [("patiense", "patience"), ("min_lr", "mode|min_scale|smoothed"), ("smothing", "smoothing")])
def test_an_attribute_that_does_nothing_is_refused_with_the_nearest_name(name, near):
    plateau = Plateau(1.0)
    with pytest.raises(AttributeError, match=rf"Plateau: unknown attribute '{name}' \(did you mean '({near})'\?\)"):
        setattr(plateau, name, 3)
    with pytest.raises(AttributeError, match=f"Plateau: unknown attribute '{name}'"):
        getattr(plateau, name)

    class Mine(Plateau):
        pass

    mine = Mine(1.0)
    mine.note = "a subclass may have its own"
    assert mine.note and mine.observe(1.0) is False


def test_min_scale():
    plateau = Plateau(1.0, 0.1, patience=0, min_scale=0.05)
    assert [plateau.observe(m) for m in [1, 1, 1, 1]] == [False, True, True, False]
    assert plateau.scale == 0.05


def test_plateau_times_warmup_times_cosine():
    inner = schedules.cosine(0.1, steps=100).warmup(10) * 0.5
    plateau = Plateau(Plateau(inner, 0.5, patience=0), 0.1, patience=0)
    assert plateau(20) == inner(20) and (plateau(np.arange(50)) == inner(np.arange(50))).all()
    plateau.observe(1), plateau.observe(1)
    plateau.schedule.observe(1), plateau.schedule.observe(1)
    assert plateau(20) == inner(20) * 0.5 * 0.1


def test_of_a_function_and_of_a_number():
    assert Plateau(lambda t: 1 / (1 + t))(3) == 0.25 and Plateau(0.5)(3) == 0.5


def plateau_of(kind):
    inner = {"schedule": schedules.cosine(0.1, 40).warmup(4), "function": lambda t: 0.1 / (1 + t),
             "plateau": Plateau(schedules.linear(0.1, 40), 0.7, patience=1)}[kind]
    return Plateau(inner, 0.5, patience=1, cooldown=1, mode="max", accumulation_size=2 if kind == "schedule" else 1,
                   smoothing=0.5 if kind == "function" else 0.0)


@pytest.mark.parametrize("kind", ["schedule", "function", "plateau"])
@settings(max_examples=30, deadline=None)
@given(metrics=st.lists(st.sampled_from([1.0, 0.5, 2.0, 3.0]), min_size=8, max_size=20), k=st.integers(0, 8))
def test_the_state_determines_all_later_rates(kind, metrics, k):
    one, two = plateau_of(kind), plateau_of(kind)
    for metric in metrics[:k]:
        one.observe(metric)
    state = json.loads(json.dumps(one.state_dict(), allow_nan=False))
    two.load_state_dict(state)
    copied = copy.deepcopy(one)
    for t, metric in enumerate(metrics[k:]):
        assert one.observe(metric) == two.observe(metric) == copied.observe(metric)
        assert one(t) == two(t) == copied(t)
    assert one.state_dict() == two.state_dict()


def test_pickle_and_repr():
    plateau = Plateau(schedules.constant(0.1), 0.5, patience=0)
    plateau.observe(1), plateau.observe(2)
    again = pickle.loads(pickle.dumps(plateau))
    assert again.state_dict() == plateau.state_dict()
    assert repr(again) == "Plateau(constant(lr=0.1), factor=0.5, patience=0; scale=0.5)"


def trained(opt, plateau, losses, p):
    for loss in losses:
        opt.step([np.full(3, 0.5) * np.sign(p)])
        plateau.observe(loss)


LOSSES = [1, 0.9, 0.9, 0.9, 0.9, 0.8, 0.9, 0.9, 0.9, 0.9]


@pytest.mark.parametrize("kind", ["schedule", "function", "plateau"])
def test_an_optimizer_resumes_exactly(kind):
    def start():
        p, plateau = np.array([1.0, -2.0, 3.0]), plateau_of(kind)
        return p, plateau, fastlr.AdamW([p], lr=plateau)
    p, plateau, opt = start()
    trained(opt, plateau, LOSSES[:5], p)
    saved, at = opt.state_dict(), p.copy()
    trained(opt, plateau, LOSSES[5:], p)
    q, fresh, again = start()
    q[:] = at
    again.load_state_dict(saved)
    assert again.lr is fresh                   # the one that observes
    trained(again, fresh, LOSSES[5:], q)
    assert p.tobytes() == q.tobytes() and fresh.scale == plateau.scale < 1


def test_a_checkpoint_keeps_it(tmp_path):
    p, plateau = np.ones(3), plateau_of("plateau")
    opt = fastlr.AdamW([p], lr=plateau)
    trained(opt, plateau, LOSSES, p)
    fastlr.save(tmp_path / "it", opt)
    q, fresh = np.ones(3), plateau_of("plateau")
    again = fastlr.AdamW([q], lr=fresh)
    fastlr.load(tmp_path / "it", again)
    assert fresh.state_dict() == plateau.state_dict() and fresh.scale < 1 and p.tobytes() == q.tobytes()


def test_loading_what_does_not_fit_changes_nothing():
    p, plateau = np.ones(2), plateau_of("schedule")
    opt = fastlr.SGD([p], lr=plateau)
    plateau.observe(1), plateau.observe(1), plateau.observe(1)
    opt.step([p.copy()])
    before, saved = plateau.state_dict(), opt.state_dict()
    saved["groups"][0]["lr"]["state"]["scale"] = -1
    with pytest.raises(ValueError, match=r"Plateau.load_state_dict: scale must be a finite number >= 0, got -1"):
        opt.load_state_dict(saved)
    assert plateau.state_dict() == before and opt.t == 1
    other = opt.state_dict()
    other["groups"][0]["lr"]["state"]["scale"] = 0.25          # this would do; what comes after it does not
    other["state"] = {"1": {}}
    with pytest.raises(ValueError, match=r"state: no entry '0'|state: unknown entry"):
        opt.load_state_dict(other)
    assert plateau.state_dict() == before
    momentum = fastlr.Momentum([p], lr=plateau)
    other = momentum.state_dict()
    other["groups"][0]["lr"]["state"]["scale"] = 0.25
    slot = next(iter(other["state"]["0"]))
    other["state"]["0"][slot] = np.zeros(7)
    with pytest.raises(ValueError, match=r"expected float64 \(2,\), got float64 \(7,\)"):
        momentum.load_state_dict(other)
    assert plateau.state_dict() == before
    for lr in (0.1, schedules.constant(0.1), lambda t: 0.1):
        with pytest.raises(ValueError, match=r"lr was a function \(Plateau\), which is not saved; set opt.lr to it"):
            fastlr.SGD([p], lr=lr).load_state_dict(opt.state_dict())


@pytest.mark.parametrize("change, message", [
    ({"scale": float("nan")}, "scale must be a finite number >= 0, got nan"),
    ({"bad": -1}, "bad must be a finite number >= 0, got -1"),
    ({"cooling": 1.5}, "cooling must be a finite number >= 0, got 1.5"),
    ({"best": "x"}, "best must be a finite number or None, got 'x'"),
    ({"patience": -1}, "patience must be an integer >= 0, got -1"),
    ({"total": float("inf")}, "total must be a finite number or None, got inf"),
    ({"smoothed": float("nan")}, "smoothed must be a finite number or None, got nan"),
    ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
    ({"count": 1}, "count must be < accumulation_size, got 1"),
    ({"count": -1}, "count must be a finite number >= 0, got -1"),
    ({"more": 1}, r"differs in \['more'\]"),
    ({"schedule": {"name": "cosin"}}, "unknown schedule 'cosin'"),
    ({"schedule": {"callable": "f"}}, "the schedule was not saved"),
])
def test_an_invalid_state_is_refused(change, message):
    plateau = Plateau(schedules.constant(0.1))
    before = plateau.state_dict()
    with pytest.raises(ValueError, match=message):
        plateau.load_state_dict({**before, **change})
    assert plateau.state_dict() == before


@pytest.mark.parametrize("arguments, message", [
    ({"factor": 1.0}, r"Plateau: factor must be in \[0, 1\), got 1.0"),
    ({"accumulation_size": 0}, "Plateau: accumulation_size must be a positive integer, got 0"),
    ({"patience": 0.5}, "Plateau: patience must be an integer >= 0, got 0.5"),
    ({"mode": "auto"}, "Plateau: mode must be 'min' or 'max', got 'auto'"),
    ({"convention": "jax"}, "Plateau: convention must be 'torch' or 'optax' or 'keras', got 'jax'"),
])
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        Plateau(1.0, **arguments)


# A window of metrics, and values of a History

def test_a_window_compares_means_of_the_last_metrics():
    metrics = np.random.default_rng(0).normal(size=40) + np.linspace(3, 0, 40)
    windowed = fastlr.Plateau(1.0, factor=0.5, patience=2, window=4)
    plain = fastlr.Plateau(1.0, factor=0.5, patience=2)
    for k, metric in enumerate(metrics):
        windowed.observe(metric)
        plain.observe(sum(metrics[max(0, k - 3):k + 1].tolist()) / min(k + 1, 4))
        assert windowed.scale == plain.scale and windowed.best == pytest.approx(plain.best, rel=1e-14)
    assert windowed.scale < 1 and windowed.recent == metrics[-4:].tolist()
    windowed.observe(np.nan)
    assert windowed.recent == metrics[-4:].tolist()


def test_a_window_is_resumed_exactly_and_older_states_have_none():
    first = fastlr.Plateau(1.0, factor=0.5, patience=0, window=3, smoothing=0.5, cooldown=1)
    for metric in (3.0, 2.0, 2.5, 2.0):
        first.observe(metric)
    again = fastlr.Plateau(1.0)
    again.load_state_dict(first.state_dict())
    copied = pickle.loads(pickle.dumps(first))
    for metric in (2.2, 1.9, 3.0, 3.0, 3.0):
        assert first.observe(metric) == again.observe(metric) == copied.observe(metric)
    assert first.state_dict() == again.state_dict() == copied.state_dict()
    old = {name: value for name, value in fastlr.Plateau(1.0).state_dict().items() if name not in ("window", "recent")}
    again.load_state_dict(old)
    assert again.window == 1 and again.recent == []
    for recent in ([1.0, 2.0], ["a"], [float("inf")], 3):
        with pytest.raises(ValueError, match="recent must list at most 1 finite numbers"):
            again.load_state_dict({**old, "window": 1, "recent": recent})
    with pytest.raises(ValueError, match="window must be a positive integer, got 0"):
        fastlr.Plateau(1.0, window=0)


def test_it_follows_a_history():
    history, plateau = fastlr.History(), fastlr.Plateau(1.0, factor=0.5, patience=0)
    opt = fastlr.SGD(np.ones(1), lr=plateau)
    follower = plateau.follow(history, "val/loss")
    history.record({"val/loss": 1.0}, loss=5.0)
    history.record(loss=9.0)
    history.record({"val/loss": 2.0})
    assert plateau.scale == 0.5 and opt.current["lr"] == 0.5
    history.unfollow(follower)
    history.record({"val/loss": 3.0})
    assert plateau.scale == 0.5
    with pytest.raises(TypeError, match="name must be text, got 3"):
        plateau.follow(history, 3)


def test_what_is_no_number_is_no_metric_and_changes_nothing():
    plateau = fastlr.Plateau(0.1, accumulation_size=2)
    before = plateau.state_dict()
    for metric in (None, "0.5 nats", np.zeros(2)):
        with pytest.raises(TypeError, match="^Plateau.observe: metric must be a number, got "):
            plateau.observe(metric)
    assert plateau.state_dict() == before
