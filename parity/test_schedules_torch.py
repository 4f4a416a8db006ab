"""Every torch scheduler, stepped as torch steps it, against the schedule that `from_torch` makes of it."""
import copy
import math
import pickle
import random
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.optim import lr_scheduler as peers  # noqa: E402
from torch.optim.swa_utils import SWALR  # noqa: E402

from fastlr import Plateau, schedules  # noqa: E402
from fastlr.schedules.interchange import FROM_TORCH, from_torch  # noqa: E402

BASE = 0.3


def optimizer(lr=BASE):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)


def stepped(make, n, lr=BASE):
    """The rates that torch uses at its first n steps."""
    opt = optimizer(lr)
    scheduler = make(opt)
    rates = []
    for _ in range(n):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return rates


def ulps(got, want):
    return max(abs(g - w) / math.ulp(w) if w else abs(g) for g, w in zip(got, want, strict=True))


def chain(*makes):
    return lambda o: peers.ChainedScheduler([make(o) for make in makes], optimizer=o)


def sequence(*makes, at):
    return lambda o: peers.SequentialLR(o, [make(o) for make in makes], milestones=at)


# What is compared is torch's recursion of up to 300 roundings against one formula: relative to the largest rate, as the
# recursion keeps an absolute error; 1e-13 is 300 roundings at worst.
SAME = {
    "StepLR": lambda o: peers.StepLR(o, 7, 0.3),
    "MultiStepLR": lambda o: peers.MultiStepLR(o, [3, 9, 9, 40], 0.3),
    "MultiStepLR at 0": lambda o: peers.MultiStepLR(o, [0, 9], 0.3),
    "ConstantLR": lambda o: peers.ConstantLR(o),
    "LinearLR": lambda o: peers.LinearLR(o, 0.25, 0.75, 11),
    "ExponentialLR": lambda o: peers.ExponentialLR(o, 0.97),
    "PolynomialLR": lambda o: peers.PolynomialLR(o, 30, 2.5),
    "CosineAnnealingLR": lambda o: peers.CosineAnnealingLR(o, 17, 0.02),
    "CosineAnnealingLR above": lambda o: peers.CosineAnnealingLR(o, 17, 0.5),
    "CosineAnnealingWarmRestarts": lambda o: peers.CosineAnnealingWarmRestarts(o, 10, 1, 0.02),
    "CosineAnnealingWarmRestarts x3": lambda o: peers.CosineAnnealingWarmRestarts(o, 3, 3, 0.02),
    "CyclicLR": lambda o: peers.CyclicLR(o, 0.1, 0.9, 7, 5),
    "CyclicLR 2": lambda o: peers.CyclicLR(o, 0.1, 0.9, 7, mode="triangular2"),
    "CyclicLR exp": lambda o: peers.CyclicLR(o, 0.1, 0.9, 7, mode="exp_range", gamma=0.99),
    "OneCycleLR": lambda o: peers.OneCycleLR(o, 0.9, total_steps=300),
    "OneCycleLR linear": lambda o: peers.OneCycleLR(o, 0.9, total_steps=300, anneal_strategy="linear"),
    "OneCycleLR 3": lambda o: peers.OneCycleLR(o, 0.9, total_steps=300, three_phase=True, pct_start=0.4),
    "SequentialLR": sequence(
        lambda o: peers.LinearLR(o, 0.1, 1.0, 8), lambda o: peers.CosineAnnealingLR(o, 40, 0.01),
        lambda o: peers.ExponentialLR(o, 0.9), at=[8, 60]),
    "SequentialLR restarts": sequence(
        lambda o: peers.ConstantLR(o, 0.5, 4), lambda o: peers.CosineAnnealingWarmRestarts(o, 6, 2), at=[5]),
    "ChainedScheduler": chain(
        lambda o: peers.LinearLR(o, 0.1, 1.0, 8), lambda o: peers.ExponentialLR(o, 0.98),
        lambda o: peers.CosineAnnealingLR(o, 500)),
    "ChainedScheduler that overwrites": chain(
        lambda o: peers.LinearLR(o, 0.1, 1.0, 8), lambda o: peers.CosineAnnealingWarmRestarts(o, 9)),
    "ConstantLR of no length": lambda o: peers.ConstantLR(o, 0.25, 0),
    "LinearLR of no length": lambda o: peers.LinearLR(o, 0.25, 0.75, 0),
    "PolynomialLR of no length": lambda o: peers.PolynomialLR(o, 0),
    "SequentialLR that skips its first": sequence(
        lambda o: peers.ConstantLR(o, 0.5, 4), lambda o: peers.ExponentialLR(o, 0.9), at=[0]),
    "SequentialLR from a factor of no length": sequence(
        lambda o: peers.ConstantLR(o, 0.5, 0), lambda o: peers.ExponentialLR(o, 0.9), at=[5]),
    "ChainedScheduler with lengths of zero": chain(
        lambda o: peers.ConstantLR(o, 0.5, 0), lambda o: peers.LinearLR(o, 0.25, 1.0, 0),
        lambda o: peers.PolynomialLR(o, 0), lambda o: peers.ExponentialLR(o, 0.98)),
    "OneCycleLR of few steps": lambda o: peers.OneCycleLR(o, 0.9, total_steps=3, pct_start=0.3),
    "SWALR": lambda o: SWALR(o, 0.05, anneal_epochs=10),
    "SWALR of no length": lambda o: SWALR(o, 0.05, anneal_epochs=0),
    "SWALR linear": lambda o: SWALR(o, 0.05, anneal_epochs=10, anneal_strategy="linear"),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_torch_gives_torchs_rates(name):
    n = 3 if "few" in name else 300
    want = stepped(SAME[name], n)
    schedule = from_torch(SAME[name](optimizer()))
    got = schedule(range(n))
    assert np.abs(got - want).max() <= 1e-13 * max(want), (schedule, np.abs(got - want).argmax())
    assert schedules.from_dict(schedule.to_dict()) == schedule


def test_every_torch_scheduler_is_converted_or_refused_by_name():
    there = {name for name, x in vars(peers).items() if isinstance(x, type) and issubclass(x, peers.LRScheduler)}
    refused = {"LRScheduler", "_LRScheduler", "LambdaLR", "MultiplicativeLR", "ReduceLROnPlateau"}
    assert there - refused == set(FROM_TORCH) - {"SWALR"}


@pytest.mark.filterwarnings("ignore:Detected call:UserWarning")    # (of torch, as it makes one composite inside another)
@pytest.mark.parametrize("make, cure", [
    (lambda o: peers.LambdaLR(o, lambda t: 0.5), "LambdaLR has no closed form: give the optimizer the function"),
    (lambda o: peers.MultiplicativeLR(o, lambda t: 0.5), "MultiplicativeLR has no closed form: write its product"),
    (lambda o: peers.ReduceLROnPlateau(o), r"ReduceLROnPlateau has no closed form: use fastlr.Plateau"),
    (lambda o: peers.CyclicLR(o, 0.1, 1.0, 5, scale_fn=lambda x: 1.0), "CyclicLR with a scale_fn of its own"),
    (chain(lambda o: peers.CosineAnnealingLR(o, 9, 0.1), lambda o: peers.ExponentialLR(o, 0.9)),
     "CosineAnnealingLR in a ChainedScheduler depends"),
    (chain(lambda o: peers.CosineAnnealingWarmRestarts(o, 9), lambda o: peers.StepLR(o, 10_000)),
     "StepLR after CosineAnnealingWarmRestarts in a ChainedScheduler changes single rates only"),
    (lambda o: peers.ConstantLR(o, 0.0, 5), "ConstantLR with factor=0 divides by zero in torch"),
    (lambda o: peers.StepLR(o, 0), "StepLR with step_size=0 divides by zero in torch"),
    (lambda o: peers.CosineAnnealingLR(o, 0), "CosineAnnealingLR with T_max=0 divides by zero in torch"),
    (sequence(sequence(lambda o: peers.ConstantLR(o, 0.2, 10), lambda o: peers.ConstantLR(o, 0.5, 10), at=[2]), at=[]),
     r"SequentialLR in a SequentialLR depends .* make it of its parts"),
    (sequence(lambda o: peers.ExponentialLR(o, 0.9), chain(lambda o: peers.ExponentialLR(o, 0.9)), at=[5]),
     "ChainedScheduler in a SequentialLR depends"),
    (chain(chain(lambda o: peers.ExponentialLR(o, 0.9))), "ChainedScheduler in a ChainedScheduler depends"),
    (chain(sequence(lambda o: peers.ExponentialLR(o, 0.9), at=[])), "SequentialLR in a ChainedScheduler depends"),
    (sequence(lambda o: peers.ExponentialLR(o, 0.9), lambda o: peers.ConstantLR(o, 0.5, 0), at=[5]),
     "ConstantLR with total_iters=0 in a SequentialLR depends on its place: leave it out"),
    (lambda o: type("Own", (peers.LRScheduler,), {"get_lr": lambda self: [0.1]})(o), "Own has no closed form"),
])
def test_what_has_no_closed_form_is_refused_with_the_cure(make, cure):
    with pytest.raises(TypeError, match=cure):
        from_torch(make(optimizer()))


def followed(make, n=60):
    """The largest error of the schedule of a torch scheduler, or None where it is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            want = stepped(make, n)
        except (NotImplementedError, ZeroDivisionError):       # (torch has no rates either)
            return None
        try:
            schedule = from_torch(make(optimizer()))
        except TypeError as error:
            assert str(error).startswith("from_torch: ")
            return None
    got = []
    for t in range(n):
        try:
            got.append(schedule(t))
        except ValueError as error:                            # (a cosine in a ChainedScheduler, after its T_max)
            assert "past the end" in str(error) and t > 0
            break
    return np.abs(np.array(got) - want[:len(got)]).max()


def drawn(draw, depth=0):
    """A scheduler of any kind with any numbers, or a composite of such."""
    n, pick = draw.randrange(10), draw.choice
    simple = [
        lambda o: peers.ConstantLR(o, f, n), lambda o: peers.LinearLR(o, max(f, 0.1), g, n),
        lambda o: peers.PolynomialLR(o, n, power), lambda o: peers.ExponentialLR(o, g),
        lambda o: peers.StepLR(o, n + 1, 0.5), lambda o: peers.MultiStepLR(o, milestones, 0.5),
        lambda o: peers.CosineAnnealingLR(o, n + 1, low), lambda o: peers.CosineAnnealingWarmRestarts(o, n + 1, mult),
    ]
    f, g, power, low, mult = pick([0.25, 0.5, 1.0]), draw.uniform(0.7, 1), pick([1.0, 2.0]), pick([0, 0.01]), pick([1, 2])
    milestones = [draw.randrange(10) for _ in range(draw.randrange(4))]
    if draw.random() < (0.2 if depth == 0 else 0.7) or depth == 2:
        return pick(simple)
    parts = [drawn(draw, depth + 1) for _ in range(draw.randrange(1, 4))]
    return chain(*parts) if draw.random() < 0.5 else sequence(*parts, at=sorted(draw.sample(range(20), len(parts) - 1)))


def test_a_cosine_in_a_chain_has_no_rate_after_its_end():
    """torch adds where the cosine is 0, so that later rates forget what the others did before."""
    make = chain(lambda o: peers.ConstantLR(o, 0.25, 20), lambda o: peers.CosineAnnealingLR(o, 10))
    schedule = from_torch(make(optimizer()))
    assert schedule(range(11)) == pytest.approx(stepped(make, 11), abs=1e-15)
    assert stepped(make, 30)[15] == pytest.approx(4 * 0.25 * BASE / 2)             # without the 0.25
    with pytest.raises(ValueError, match="t=11 is past the end"):
        schedule(11)
    alone = chain(lambda o: peers.CosineAnnealingLR(o, 10, 0.01))
    assert from_torch(alone(optimizer()))(range(60)) == pytest.approx(stepped(alone, 60), abs=1e-14)
    scheduler = make(optimizer())
    for _ in range(15):
        scheduler.optimizer.step()
        scheduler.step()
    with pytest.raises(TypeError, match="ChainedScheduler is at step 15, where it has no closed form"):
        from_torch(scheduler)


def test_any_composition_is_exact_or_refused():
    errors = [followed(drawn(random.Random(seed))) for seed in range(600)]
    assert [(seed, error) for seed, error in enumerate(errors) if error is not None and error > 1e-12] == []
    assert 200 < sum(error is None for error in errors) < 450


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestSteppedByHand:
    def stepped(self, scheduler, n=3):
        for _ in range(n):
            scheduler.optimizer.step()
            scheduler.step()
        return scheduler

    def test_a_scheduler_that_was_stepped_is_the_same_function(self):
        for name, make in SAME.items():
            if "few" not in name:
                assert from_torch(self.stepped(make(optimizer()))) == from_torch(make(optimizer())), name

    def test_a_rate_that_was_set_is_refused(self):
        scheduler = self.stepped(peers.StepLR(optimizer(), 7, 0.3))
        scheduler.optimizer.param_groups[0]["lr"] = 0.01
        with pytest.raises(TypeError, match="StepLR is at step 3, where its rate is 0.3, but the optimizer's is 0.01: "
                                            "one of them was set by hand"):
            from_torch(scheduler)

    def test_a_count_that_was_set_is_refused(self):
        scheduler = self.stepped(peers.ExponentialLR(optimizer(), 0.9))
        scheduler.last_epoch = 40
        with pytest.raises(TypeError, match="ExponentialLR is at step 40"):
            from_torch(scheduler)

    def test_a_part_that_was_stepped_alone_is_refused(self):
        for make, message in ((SAME["SequentialLR"], "LinearLR, part 0 of a SequentialLR at step 3, must have made 3 steps"),
                              (SAME["ChainedScheduler"], "the parts of a ChainedScheduler must have made as many steps")):
            scheduler = self.stepped(make(optimizer()))
            scheduler._schedulers[0].step()
            with pytest.raises(TypeError, match=message):
                from_torch(scheduler)
        scheduler = self.stepped(SAME["SequentialLR"](optimizer()))
        scheduler._schedulers[2].step()
        with pytest.raises(TypeError, match="ExponentialLR, part 2 of a SequentialLR at step 3, must have made -1 steps"):
            from_torch(scheduler)

    def test_a_step_to_a_part_of_an_epoch_is_refused(self):
        scheduler = peers.CosineAnnealingWarmRestarts(optimizer(), 10)
        scheduler.step(3.5)
        with pytest.raises(TypeError, match="CosineAnnealingWarmRestarts is at step 3"):
            from_torch(scheduler)


# Formula against formula, where torch has one: within 2 ulp of the largest rate, from 0 to far beyond the end.
CLOSED = {
    "StepLR": 2, "MultiStepLR": 2, "ConstantLR": 2, "LinearLR": 2, "ExponentialLR": 2, "PolynomialLR": 8,
    "CosineAnnealingLR": 2,
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_at_the_edges(name):
    scheduler = SAME[name](optimizer())
    schedule = from_torch(scheduler)
    for t in (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17, 18, 29, 30, 31, 34, 100, 10**6):
        scheduler.last_epoch = t
        want = scheduler._get_closed_form_lr()[0]
        # (torch's cosine of a large multiple of pi has lost what its argument's rounding cost it)
        slack = math.pi * t / 17 * 2**-53 * 4 if name == "CosineAnnealingLR" else 0
        assert abs(schedule(t) - want) <= CLOSED[name] * math.ulp(BASE) + slack, t


def test_the_momentum_of_one_cycle():
    for options in ({}, {"three_phase": True}, {"anneal_strategy": "linear"}):
        opt = optimizer()
        scheduler = peers.OneCycleLR(opt, 0.9, total_steps=50, **options)
        twin = from_torch(scheduler).momentum()
        for t in range(50):
            assert twin(t) == pytest.approx(opt.param_groups[0]["momentum"], rel=1e-15)
            opt.step()
            if t < 49:
                scheduler.step()


# The other way round

def test_to_torch_sets_the_rate_before_the_first_step_and_after_each():
    schedule = schedules.cosine(0.7, steps=20).warmup(5)
    opt = optimizer()
    scheduler = schedule.to_torch(opt)
    for t in range(40):
        assert opt.param_groups[0]["lr"] == schedule(t) == scheduler.get_last_lr()[0]
        opt.step()
        scheduler.step()


def test_to_torch_keeps_the_scale_of_a_group():
    a, b = (torch.zeros(1, requires_grad=True) for _ in range(2))
    opt = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr_scale": 0.25}], lr=1.0)
    schedules.linear(0.8, steps=4).to_torch(opt)
    assert [group["lr"] for group in opt.param_groups] == [0.8, 0.2]


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW])
def test_to_torch_sets_the_momentum_as_one_cycle_does(cls):
    def made():
        keywords = {"momentum": 0.5} if cls is torch.optim.SGD else {}
        return cls([torch.zeros(1, requires_grad=True)], lr=0.1, **keywords)

    def momentum(opt):
        group = opt.param_groups[0]
        return group["betas"][0] if "betas" in group else group["momentum"]

    opt, mine = made(), made()
    theirs = peers.OneCycleLR(opt, 0.7, total_steps=30)
    ours = schedules.one_cycle(0.7, steps=30)
    ours = ours.to_torch(mine, momentum=ours.momentum())
    for t in range(29):
        if t == 11:
            saved, mine = ours.state_dict(), made()
            ours = schedules.constant(1.0).to_torch(mine)
            ours.load_state_dict(saved)
        assert mine.param_groups[0]["lr"] == pytest.approx(opt.param_groups[0]["lr"], rel=1e-14, abs=1e-18)
        assert momentum(mine) == pytest.approx(momentum(opt), rel=1e-14)
        opt.step(), mine.step()
        theirs.step(), ours.step()


@pytest.mark.parametrize("how", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
@pytest.mark.filterwarnings("ignore:Seems like:UserWarning")       # (of any scheduler that torch's own pickling restored)
def test_to_torch_can_be_pickled(how):
    cycle = schedules.one_cycle(0.7, steps=30)
    scheduler = cycle.to_torch(optimizer(), momentum=cycle.momentum())
    for _ in range(5):
        scheduler.optimizer.step()
        scheduler.step()
    again = how(scheduler)
    assert again.optimizer is not scheduler.optimizer and type(again) is type(scheduler)
    for t in range(5, 30):
        group = again.optimizer.param_groups[0]
        assert group["lr"] == cycle(t) == again.get_last_lr()[0] and group["momentum"] == cycle.momentum()(t)
        again.optimizer.step()
        again.step()
    assert scheduler.last_epoch == 5 and scheduler.optimizer.param_groups[0]["lr"] == cycle(5)
    assert again.state_dict() == {**scheduler.state_dict(), "last_epoch": 30}


def test_to_torch_refuses_a_momentum_that_nobody_has():
    opt = torch.optim.Adagrad([torch.zeros(1, requires_grad=True)])
    with pytest.raises(ValueError, match="to_torch: momentum is given, but group 0 of Adagrad has neither"):
        schedules.constant(1.0).to_torch(opt, momentum=schedules.constant(0.9))


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
def test_resume_in_any_order(order):
    """torch's own schedulers resume at lr * factor for ever if the optimizer is loaded before they are made."""
    schedule = schedules.linear(0.01, steps=5, final=0.1)
    opt = optimizer()
    scheduler = schedule.to_torch(opt)
    for _ in range(3):
        opt.step()
        scheduler.step()
    saved = opt.state_dict(), scheduler.state_dict()
    again = optimizer(123.0)
    if order == "optimizer first":
        again.load_state_dict(saved[0])
        resumed = schedules.constant(9.0).to_torch(again)
        resumed.load_state_dict(saved[1])
    else:
        resumed = schedules.constant(9.0).to_torch(again)
        resumed.load_state_dict(saved[1])
        again.load_state_dict(saved[0])
    for t in range(3, 12):
        assert again.param_groups[0]["lr"] == schedule(t)
        again.step()
        resumed.step()


def test_the_defect_that_resuming_has_in_torch():
    opt = optimizer()
    scheduler = peers.LinearLR(opt, 0.1, total_iters=3)
    for _ in range(10):
        opt.step()
        scheduler.step()
    saved, sched_state = opt.state_dict(), scheduler.state_dict()
    again = optimizer()
    again.load_state_dict(saved)
    resumed = peers.LinearLR(again, 0.1, total_iters=3)
    resumed.load_state_dict(sched_state)
    assert again.param_groups[0]["lr"] == pytest.approx(0.1 * BASE)          # torch: should be BASE
    ours = optimizer()
    ours.load_state_dict(saved)
    resumed = from_torch(scheduler).to_torch(ours)
    resumed.load_state_dict({"last_epoch": 10, "schedule": from_torch(scheduler).to_dict()})
    assert ours.param_groups[0]["lr"] == BASE


def test_a_rate_set_by_hand_is_not_absorbed():
    """torch's recursion scales every later rate by it; a function of t cannot."""
    opt, mine = optimizer(), optimizer()
    theirs, ours = peers.CosineAnnealingLR(opt, 20), schedules.cosine(BASE, 20).to_torch(mine)
    for t in range(10):
        if t == 5:
            opt.param_groups[0]["lr"] = mine.param_groups[0]["lr"] = 0.01
        opt.step(), mine.step()
        theirs.step(), ours.step()
    assert mine.param_groups[0]["lr"] == schedules.cosine(BASE, 20)(10)
    assert opt.param_groups[0]["lr"] < 0.1 * schedules.cosine(BASE, 20)(10)


def test_the_ends_that_climb_in_torch_hold_here():
    cosine = stepped(lambda o: peers.CosineAnnealingLR(o, 10), 16)
    assert cosine[15] > cosine[10] and schedules.cosine(BASE, 10)([10, 15, 10**9]).tolist() == [0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opt = optimizer()
        one = peers.OneCycleLR(opt, 0.9, total_steps=10)
        rates = []
        for _ in range(10):
            opt.step()
            one.step()
            rates.append(opt.param_groups[0]["lr"])
    assert rates[-1] > 100 * rates[-2]                                        # one step too many
    held = schedules.one_cycle(0.9, 10)
    assert held(10) == held(9) == held(10**9) == pytest.approx(rates[-2], rel=1e-15)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 1, 2, 3])
@pytest.mark.parametrize("cooldown", [0, 1, 2])
def test_plateau_by_torchs_convention(mode, patience, cooldown):
    random = np.random.default_rng(patience)
    for _ in range(5):
        opt = optimizer(1.0)
        theirs = peers.ReduceLROnPlateau(opt, mode, 0.5, patience, cooldown=cooldown, eps=0, min_lr=0.01)
        ours = Plateau(1.0, 0.5, patience, cooldown=cooldown, mode=mode, min_scale=0.01)
        for metric in random.choice([1.0, 0.9, 0.8, 0.5], size=40):
            theirs.step(metric)
            ours.observe(metric)
            assert ours(0) == opt.param_groups[0]["lr"]


def test_at_least_twenty_times_as_fast_as_a_torch_step():
    import timeit

    opt = optimizer()
    scheduler, schedule = peers.CosineAnnealingLR(opt, 1000), schedules.cosine(BASE, 1000)
    opt.step()
    theirs = min(timeit.repeat(scheduler.step, number=2000, repeat=5))
    ours = min(timeit.repeat("s(7)", globals={"s": schedule}, number=2000, repeat=5))
    assert theirs > 20 * ours
