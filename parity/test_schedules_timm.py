"""timm's schedulers against ours: its closed forms `_get_lr(t)`, and where its defaults differ."""
import math

import pytest

torch = pytest.importorskip("torch")

peers = pytest.importorskip("timm.scheduler")

from fastlr import schedules as s  # noqa: E402

LR = 0.3
EDGES = [0, 1, 2, 3, 9, 10, 11, 29, 30, 31, 39, 40, 41, 100, 10**9]


def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)


SAME = {
    "cosine": (lambda o: peers.CosineLRScheduler(o, 30, lr_min=0.02), s.cosine(LR, 30, 0.02)),
    "cosine warmed up": (lambda o: peers.CosineLRScheduler(o, 30, lr_min=0.02, warmup_t=10, warmup_prefix=True),
                         s.cosine(LR, 30, 0.02).warmup(10)),
    "cosine k": (lambda o: peers.CosineLRScheduler(o, 30, lr_min=0.02, k_decay=1.5),
                 s.cosine(LR, 30, 0.02).k_decay(30, 1.5)),
    "restarts": (lambda o: peers.CosineLRScheduler(o, 10, cycle_decay=0.5, cycle_limit=10**6),
                 s.cosine_restarts(LR, 10, amplitude_factor=0.5)),
    "longer restarts": (lambda o: peers.CosineLRScheduler(o, 10, cycle_mul=3.0, cycle_limit=10**6),
                        s.cosine_restarts(LR, 10, cycle_factor=3.0)),
    "poly": (lambda o: peers.PolyLRScheduler(o, 30, power=2.0, lr_min=0.02), s.polynomial(LR, 30, 2.0, 0.02)),
    "poly k": (lambda o: peers.PolyLRScheduler(o, 30, power=1.0, lr_min=0.02, k_decay=2.0),
               s.linear(LR, 30, 0.02).k_decay(30, 2.0)),
    "tanh": (lambda o: peers.TanhLRScheduler(o, 30, lr_min=0.02), s.tanh(LR, 30, 0.02)),
    "step": (lambda o: peers.StepLRScheduler(o, 10, decay_rate=0.5), s.step_decay(LR, 10, 0.5)),
}


@pytest.mark.parametrize("name", SAME)
def test_timm_gives_our_rates(name):
    """Within 8 ulp of the base rate; k-decay bends the time by pow, and timm's cosine has an argument that grows."""
    make, ours = SAME[name]
    theirs = make(optimizer())
    for t in EDGES:
        if t == 10**9 and name == "longer restarts":
            continue                   # its cycle's begin, a sum of powers, is only good to an update there
        assert abs(theirs._get_lr(t)[0] - ours(t)) <= 8 * math.ulp(LR), t


def test_multi_step_is_an_epoch_early_in_timm():
    theirs = peers.MultiStepLRScheduler(optimizer(), [3], decay_rate=0.1)
    rates = [theirs._get_lr(t)[0] for t in range(5)]
    assert rates == pytest.approx([LR, LR, 0.1 * LR, 0.1 * LR, 0.1 * LR])
    assert s.piecewise_constant([LR, 0.1 * LR], at=[3])(range(5)) == pytest.approx([LR, LR, LR, 0.1 * LR, 0.1 * LR])


def test_the_peak_that_timms_default_never_reaches():
    theirs = peers.CosineLRScheduler(optimizer(), 10, warmup_t=5)
    assert max(theirs._get_lr(t)[0] for t in range(15)) < 0.9 * LR
    assert s.cosine(LR, 10).warmup(5)(range(15)).max() == LR


@pytest.mark.parametrize("shape, options", [
    ("linear", {"decay_fn": "linear"}),
    ("cosine", {"decay_fn": "cosine"}),
    ("1-sqrt", {"decay_fn": "1-sqrt"}),
    ("square", {"decay_fn": "power", "decay_power": 2.0}),
])
def test_wsd(shape, options):
    theirs = peers.WSDLRScheduler(optimizer(), 50, 20, lr_min=0.02, warmup_t=10, **options)
    ours = s.wsd(LR, 10, 30, 20, 0.02, shape)
    for t in [*range(0, 65, 3), 9, 10, 11, 40, 59, 60, 61, 10**9]:
        assert abs(theirs._get_lr(t)[0] - ours(t)) <= 4 * math.ulp(LR), t


def test_rsqrt_with_warmup():
    theirs = peers.WSDLRScheduler(optimizer(), 500, 1, stable_fn="rsqrt", warmup_t=10)
    ours = s.inverse_sqrt(LR, timescale=10).warmup(10)
    for t in (0, 5, 9, 10, 11, 100, 400):
        assert abs(theirs._get_lr(t)[0] - ours(t)) <= 4 * math.ulp(LR), t
