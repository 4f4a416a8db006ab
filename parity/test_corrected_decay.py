"""Corrected weight decay beside pytorch_optimizer's AdamC: 200 float64 steps along a schedule."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")
peers = pytest.importorskip("pytorch_optimizer")

from registry import arrays  # noqa: E402

import fastlr  # noqa: E402
from fastlr import schedules  # noqa: E402

SHAPES = [(5, 7), (11,)]
STEPS, SAME = 200, 1e-10


class AdamC(peers.AdamC):
    """Theirs adds 1e-15 inside the root, and epsilon before that is corrected for its start."""

    def apply_ams_bound(self, ams_bound, exp_avg_sq, max_exp_avg_sq, eps):
        group = self.param_groups[0]
        return exp_avg_sq.sqrt().add_(eps * (1 - group["betas"][1] ** group["step"]) ** 0.5)


def theirs(schedule, peak, normalized, decay):
    params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in arrays(np.float64, SHAPES)]
    opt = AdamC([{"params": [p], "normalized": chosen} for p, chosen in zip(params, normalized, strict=True)], lr=peak,
                betas=(0.8, 0.9), eps=1e-3, weight_decay=decay, foreach=False)
    for t in range(STEPS):
        for p, g in zip(params, arrays(np.float64, SHAPES, seed=t + 1), strict=True):
            p.grad = torch.from_numpy(g.copy())
        for group in opt.param_groups:
            group["lr"] = schedule(t)
        opt.step()
    return np.concatenate([p.detach().numpy().ravel() for p in params])


def ours(lr, mode, each=None, **keywords):
    params = arrays(np.float64, SHAPES)
    opt = fastlr.AdamW({"a": params[0], "b": params[1]}, lr=lr, beta1=0.8, beta2=0.9, eps=1e-3, decay=mode, **keywords)
    for t in range(STEPS):
        if each is not None:
            opt.lr = each(t)
        opt.step(dict(zip("ab", arrays(np.float64, SHAPES, seed=t + 1), strict=True)))
    return np.concatenate([p.ravel() for p in params])


def apart(x, y):
    return np.abs(x - y).max() / np.abs(y).max()


def test_corrected_decay_is_that_of_pytorch_optimizers_adamc():
    schedule = schedules.cosine(0.1, steps=150, final=1e-3).warmup(50)
    other = theirs(schedule, 0.1, (True, True), 0.3)
    assert apart(ours(schedule, "corrected", weight_decay=0.3), other) < SAME
    assert apart(ours(schedule, "decoupled", weight_decay=0.3), other) > 1e-2


def test_the_papers_own_recipe_corrects_what_a_normalisation_follows_and_decouples_the_rest():
    schedule = schedules.cosine(0.1, steps=STEPS)
    other = theirs(schedule, 0.1, (True, False), 0.3)
    assert apart(ours(schedule, {"a": "corrected"}, weight_decay=0.3), other) < SAME
    assert apart(ours(schedule, "corrected", weight_decay=0.3), other) > 1e-2


def test_rates_that_are_set_by_hand_are_corrected_by_the_largest_so_far():
    schedule = schedules.cosine(0.1, steps=STEPS)
    other = theirs(schedule, 0.1, (True, True), 0.3)
    assert apart(ours(0.1, "corrected", schedule, weight_decay=0.3), other) < SAME
    warmed = schedule.warmup(50)
    other = theirs(warmed, 0.1, (True, True), 0.3)
    assert apart(ours(0.0, "corrected", warmed, weight_decay=0.3, lr_max=0.1), other) < SAME
    assert apart(ours(warmed, "corrected", weight_decay=0.3), other) < SAME
