"""Plateaus as schedulers of torch, and the recorder of a loop of torch."""
import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch

import fastlr
import fastlr.torch
from fastlr import callbacks, schedules


def parameters():
    return [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]


def optimizer(lr=0.5, cls=torch.optim.SGD):
    first, second = parameters()
    return cls([{"params": [first]}, {"params": [second], "lr_scale": 0.5}], lr=lr)


METRICS = [3.0, 2.0, 2.0, 2.0, 2.5, 1.0, 1.0, float("nan"), 1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("options", [{"patience": 0}, {"patience": 1, "cooldown": 1}, {"patience": 2, "threshold": 0.5},
                                     {"patience": 1, "mode": "max"}])
def test_step_with_a_metric_is_torchs_reduce_on_plateau(options):
    """A factor of a half is exact in both."""
    ours, theirs = torch.optim.SGD(parameters(), lr=0.3), torch.optim.SGD(parameters(), lr=0.3)
    plateau = fastlr.Plateau(0.3, factor=0.5, **options)
    scheduler = plateau.to_torch(ours)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, factor=0.5, **{"threshold_mode": "rel", **options})
    seen = []
    for metric in METRICS:
        ours.step()
        scheduler.step(metric)
        peer.step(metric)
        seen.append(ours.param_groups[0]["lr"])
        assert seen[-1] == theirs.param_groups[0]["lr"]
    assert len(set(seen)) > 2
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)


def test_a_plateau_in_torch_follows_its_schedule_by_update_and_its_metrics_when_they_come():
    opt = optimizer()
    schedule = schedules.linear(1.0, steps=8)
    plateau = fastlr.Plateau(schedule, factor=0.25, patience=0)
    scheduler = plateau.to_torch(opt)
    scale = 1.0
    for t in range(8):
        for group, times in zip(opt.param_groups, (1.0, 0.5), strict=True):
            assert group["lr"] == schedule(t) * scale * times
        if t in (2, 4, 5):                             # (the first is the best, and the others are none)
            assert scheduler.observe(torch.tensor(1.0, requires_grad=True)) == (t > 2)
            scale *= 0.25 if t > 2 else 1.0
            assert [group["lr"] for group in opt.param_groups] == [schedule(t) * scale, schedule(t) * scale * 0.5]
            assert scheduler.get_last_lr() == [group["lr"] for group in opt.param_groups]
        opt.step()
        scheduler.step()
    assert plateau.scale == 0.0625


@pytest.mark.parametrize("how", [lambda pair: pickle.loads(pickle.dumps(pair)), deepcopy])
def test_a_plateau_in_torch_is_saved_and_copied_with_its_observations(how):
    def run(scheduler, opt, metrics):
        rates = []
        for metric in metrics:
            opt.step()
            scheduler.step(metric)
            rates.append(opt.param_groups[0]["lr"])
        return rates

    opt = optimizer()
    scheduler = fastlr.Plateau(schedules.cosine(1.0, steps=20), factor=0.5, patience=1).to_torch(opt)
    run(scheduler, opt, METRICS[:5])
    opt_copy, copied = how((opt, scheduler))
    assert copied.optimizer is opt_copy
    other = optimizer(lr=9.0)
    loaded = fastlr.Plateau(schedules.constant(7.0)).to_torch(other)
    loaded.load_state_dict(deepcopy(scheduler.state_dict()))
    assert other.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
    expected = run(scheduler, opt, METRICS[5:])
    assert run(copied, opt_copy, METRICS[5:]) == expected == run(loaded, other, METRICS[5:])


def test_a_rate_that_is_a_tensor_stays_the_same_tensor():
    rate = torch.tensor(0.5)
    opt = torch.optim.SGD(parameters(), lr=rate)
    scheduler = fastlr.Plateau(0.5, factor=0.5, patience=0).to_torch(opt)
    scheduler.observe(1.0)
    scheduler.observe(1.0)
    assert opt.param_groups[0]["lr"] is rate and rate == 0.25


def test_an_optimizer_that_is_given_a_plateau_says_what_to_do():
    with pytest.raises(TypeError, match=r"AdamW: lr must be a number.* got the schedule Plateau; .*\.to_torch\(optimizer\)"):
        fastlr.torch.AdamW(parameters(), lr=fastlr.Plateau(0.1))


# the recorder of a loop


@pytest.mark.parametrize("cls", [torch.optim.AdamW, fastlr.torch.AdamW, torch.optim.SGD])
def test_a_loop_is_recorded_by_update(cls):
    opt = optimizer(cls=cls)
    recorder = callbacks.torch_loop(opt)
    for t in range(6):
        for group in opt.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        opt.step()
        recorder.update(torch.tensor(1.0 / (t + 1), requires_grad=True), accuracy=0.5)
        if t % 3 == 2:
            assert recorder.validation(torch.tensor(2.0 + t)) is False
    history = recorder.history
    np.testing.assert_array_equal(history["loss"], (1 / (torch.arange(6) + 1)).numpy())
    np.testing.assert_array_equal(history.t("loss"), np.arange(1, 7))
    np.testing.assert_array_equal(history["lr"], np.full(6, 0.5))
    assert (history["accuracy"] == 0.5).all()
    assert (history["val_loss"].tolist(), history.t("val_loss").tolist()) == ([4.0, 7.0], [3, 6])


def test_a_plateau_lowers_the_rates_of_a_loop_and_stops_it():
    opt = optimizer()
    recorder = callbacks.torch_loop(opt, plateau=fastlr.Plateau(1.0, factor=0.5, patience=0), stop=3)
    rates, stops = [], []
    for loss in (1.0, 1.0, 0.5, 0.5, 0.5, 0.1, 0.1):
        recorder.update(loss)
        stops.append(recorder.validation(loss))
        rates.append([group["lr"] for group in opt.param_groups])
    assert [rate for rate, _ in rates] == [0.5, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    assert stops == [False, False, False, False, True, True, True]
    assert recorder.reductions == 3 and recorder.stopped


def test_a_stop_at_the_first_reduction_lowers_nothing():
    opt = optimizer()
    recorder = callbacks.torch_loop(opt, plateau=fastlr.Plateau(1.0, patience=1), stop=1)
    assert [recorder.validation(loss) for loss in (1.0, 1.0, 1.0)] == [False, False, True]
    assert opt.param_groups[0]["lr"] == 0.5


def test_a_scheduler_of_the_plateau_sets_the_rates_of_a_loop():
    opt = optimizer()
    scheduler = fastlr.Plateau(schedules.linear(1.0, steps=10), factor=0.5, patience=0).to_torch(opt)
    recorder = callbacks.torch_loop(opt, plateau=scheduler)
    for t, loss in enumerate((1.0, 1.0, 0.5)):
        opt.step()
        recorder.update(loss)
        recorder.validation(loss)
        scheduler.step()
        scale = 1.0 if t == 0 else 0.5
        assert [group["lr"] for group in opt.param_groups] == [(1 - (t + 1) / 10) * scale, (1 - (t + 1) / 10) * scale / 2]
    assert recorder.history["lr"].tolist() == [1.0, 0.9, 0.4]


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"optimizer": fastlr.SGD(np.ones(2))}, TypeError, "torch_loop: optimizer must be one of torch, got SGD"),
    ({"history": []}, TypeError, "torch_loop: history must be a History, got list"),
    ({"plateau": 0.5}, TypeError, r"torch_loop: plateau must be a fastlr\.Plateau, got float"),
    ({"stop": 2}, ValueError, r"torch_loop: stop counts the reductions of a plateau; give plateau=fastlr\.Plateau"),
    ({"stop": 0, "plateau": fastlr.Plateau(1.0)}, ValueError, "torch_loop: stop must be a number of reductions from 1 up, got 0"),
    ({"stop": True, "plateau": fastlr.Plateau(1.0)}, ValueError, "torch_loop: stop must be a number of reductions .* got True"),
])
def test_what_is_no_recorder(arguments, error, message):
    with pytest.raises(error, match=message):
        callbacks.torch_loop(**{"optimizer": optimizer(), **arguments})


def test_a_framework_that_is_missing_is_told_with_the_cure(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "keras", None)
    callbacks.keras_class.cache_clear()
    with pytest.raises(ImportError, match="^keras_callback: needs Keras, which is missing; pip install keras$"):
        callbacks.keras_callback()
