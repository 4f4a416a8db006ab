"""Weight decay corrected by the learning rate's share of its largest value (AdamC), and decay chosen by parameter."""
import numpy as np
import pytest
from registry import arrays, bits, every_optimizer

import fastlr
from fastlr import schedules


def stepped(cls, steps=6, each=None, **keywords):
    p, = arrays(np.float64, [(6, 5)])
    opt = cls([p], **keywords)
    for t in range(steps):
        if each is not None:
            opt.lr = each(t)
        opt.step(arrays(np.float64, [(6, 5)], seed=t + 1))
    return p, opt


SCHEDULE = schedules.cosine(0.25, steps=10).warmup(2)


@every_optimizer
def test_it_is_decoupled_decay_of_a_schedule_of_its_own(cls):
    """gamma**2 / gamma_max: what decoupled decay is where weight_decay itself follows lr."""
    decays = SCHEDULE * (0.125 / 0.25)
    one, _ = stepped(cls, lr=SCHEDULE, weight_decay=0.125, decay="corrected")
    two, _ = stepped(cls, lr=SCHEDULE, weight_decay=decays, decay="decoupled")
    plain, _ = stepped(cls, lr=SCHEDULE, weight_decay=0.125, decay="decoupled")
    assert np.abs(one - two).max() <= 1e-13 * np.abs(two).max()
    assert bits([one]) != bits([plain])


@every_optimizer
def test_with_a_constant_rate_it_is_decoupled_decay_bit_for_bit(cls):
    one, _ = stepped(cls, lr=0.25, weight_decay=0.125, decay="corrected")
    two, _ = stepped(cls, lr=0.25, weight_decay=0.125, decay="decoupled")
    assert bits([one]) == bits([two])


def test_the_largest_rate_is_found_given_or_kept():
    wanted, _ = stepped(fastlr.SGD, lr=SCHEDULE, weight_decay=0.125, decay="corrected")
    for keywords in ({"lr": SCHEDULE, "lr_max": 0.25}, {"lr": fastlr.Plateau(SCHEDULE)},
                     {"lr": lambda t: SCHEDULE(t), "lr_max": 0.25},
                     {"lr": schedules.cosine(0.25, steps=10, end="error").warmup(2)}):
        got, _ = stepped(fastlr.SGD, weight_decay=0.125, decay="corrected", **keywords)
        assert bits([got]) == bits([wanted])
    # by hand: the largest so far, which in a warm-up is the latest
    falling = schedules.linear(0.25, steps=10)
    wanted, _ = stepped(fastlr.SGD, lr=falling, weight_decay=0.125, decay="corrected")
    got, opt = stepped(fastlr.SGD, lr=0.25, each=falling, weight_decay=0.125, decay="corrected")
    assert bits([got]) == bits([wanted])
    assert opt.state_dict()["lr_max"] == [0.25]


def test_each_group_has_its_own():
    p, q = arrays(np.float64, [(3,), (3,)])
    one, two = p.copy(), q.copy()
    g, h = arrays(np.float64, [(3,), (3,)], seed=1)
    low = SCHEDULE * 0.5
    opt = fastlr.SGD([{"params": [p]}, {"params": [q], "lr": low}], lr=SCHEDULE, weight_decay=0.25, decay="corrected")
    other = fastlr.SGD([{"params": [one]}, {"params": [two], "lr": lambda t: low(t), "lr_max": 0.125}], lr=SCHEDULE,
                       weight_decay=0.25, decay="corrected")
    for _ in range(5):
        opt.step([[g], [h]])
        other.step([[g], [h]])
    assert bits([p, q]) == bits([one, two])
    assert other.state_dict()["lr_max"] == [0.25, 0.125]


def test_a_learning_rate_factor_cancels():
    p, g = arrays(np.float64, [(4,)] * 2)
    q = p.copy()
    one = fastlr.SGD({"p": p}, lr=SCHEDULE, weight_decay=0.25, decay="corrected", lr_scale={"p": 0.5})
    two = fastlr.SGD({"p": q}, lr=SCHEDULE * 0.5, weight_decay=0.25, decay="corrected")
    for _ in range(5):
        one.step({"p": g})
        two.step({"p": g})
    assert bits([p]) == bits([q])


@every_optimizer
def test_decay_may_be_chosen_by_parameter(cls):
    if cls.shared or cls.needs_loss:                   # (tensors that move together)
        return
    modes = {"a": "coupled", "b": "independent", "c": "corrected", "d": None}
    params = dict(zip(modes, arrays(np.float64, [(4, 3)] * 4), strict=True))
    grads = dict(zip(modes, arrays(np.float64, [(4, 3)] * 4, seed=1), strict=True))
    alone = {name: p.copy() for name, p in params.items()}
    keywords = {"lr": SCHEDULE, "weight_decay": 0.125}
    opts = [cls({name: alone[name]}, decay=mode, **keywords) for name, mode in modes.items()]
    for decay in (modes, list(modes.values()), lambda name, array: modes[name]):
        together = {name: p.copy() for name, p in params.items()}
        opt = cls(together, decay=decay, **keywords)
        for _ in range(4):
            opt.step(grads)
            if decay is modes:
                for one, name in zip(opts, modes, strict=True):
                    one.step({name: grads[name]})
        assert bits(together.values()) == bits(alone.values())


def test_rows_are_corrected_as_steps_are():
    a, = arrays(np.float64, [(6, 3)])
    b = a.copy()
    one, two = (fastlr.SGD({"t": x}, lr=SCHEDULE, weight_decay=0.25, decay="corrected") for x in (a, b))
    for t in range(4):
        g, = arrays(np.float64, [(6, 3)], seed=t + 1)
        one.step({"t": g})
        two.step_rows("t", np.arange(6), g)
    assert bits([a]) == bits([b])


def test_it_resumes_with_the_largest_rate_there_was(tmp_path):
    by_hand = schedules.linear(0.25, steps=12)
    p, opt = stepped(fastlr.AdamW, 6, by_hand, lr=0.25, weight_decay=0.125, decay="corrected")
    fastlr.save(tmp_path / "run", opt)
    q = p.copy()
    other = fastlr.AdamW([q], decay="corrected")
    fastlr.load(tmp_path / "run", other)
    for t in range(6, 12):
        for one in (opt, other):
            one.lr = by_hand(t)
            one.step(arrays(np.float64, [(6, 5)], seed=t + 1))
    assert bits([p]) == bits([q])
    state = opt.state_dict()
    for wrong in ([1.0, 2.0], [-1.0], ["x"], 3):
        with pytest.raises(ValueError, match="lr_max must have a finite number >= 0 or None for each group"):
            other.load_state_dict(state | {"lr_max": wrong})


def test_groups_that_are_added_keep_it():
    p, q = arrays(np.float64, [(3,), (3,)])
    opt = fastlr.SGD([p], lr=0.5, weight_decay=0.25, decay="corrected")
    opt.lr = 0.125
    opt.add_group([q], lr=0.25)
    assert opt.state_dict()["lr_max"] == [0.5, 0.25]
    before = p.copy()
    opt.step([[np.zeros(3)], [np.zeros(3)]])
    assert np.allclose(p, before * (1 - 0.125**2 / 0.5 * 0.25), rtol=1e-15)


@pytest.mark.parametrize(("keywords", "error", "says"), [
    ({"lr": lambda t: 0.1}, ValueError, "SGD: decay='corrected': the largest value of lr is not known, as it is a function "
                                        "of your own; give lr_max"),
    ({"lr": 0.2, "lr_max": 0.1}, ValueError, "SGD: decay='corrected': lr must be at most lr_max = 0.1, got 0.2"),
    ({"lr_max": 0.0}, ValueError, "SGD: lr_max must be positive and finite, got 0.0"),
    ({"lr_max": np.inf}, ValueError, "SGD: lr_max must be positive and finite, got inf"),
    ({"lr_max": "0.1"}, TypeError, "SGD: lr_max must be a number, got '0.1'"),
    ({"lr_max": 0.1, "decay": "decoupled"}, ValueError, "SGD: lr_max is what decay='corrected' goes by, and no parameter "
                                                        "of the group has that"),
    ({"decay": "correct"}, ValueError, "decay must be 'coupled', 'decoupled', 'independent' or 'corrected', got 'correct'; "
                                       "did you mean 'corrected'?"),
    ({"decay": {"x": "corrected"}}, ValueError, "SGD: decay names no parameter: 'x'"),
    ({"decay": [1]}, ValueError, "or 'corrected', got 1"),
])
def test_what_cannot_be_corrected_is_refused(keywords, error, says):
    with pytest.raises(error) as found:
        fastlr.SGD([np.ones(3)], **{"decay": "corrected"} | keywords)
    assert says in str(found.value)


def test_a_rate_above_the_largest_is_refused_and_changes_nothing():
    p = np.ones(3)
    opt = fastlr.SGD([p], lr=schedules.linear(0.1, steps=5, final=0.5), weight_decay=0.1, decay="corrected", lr_max=0.25)
    with pytest.raises(ValueError, match=r"SGD: decay='corrected': lr is 0.26 at t = 2, above lr_max = 0.25; give the "
                                         r"largest as lr_max"):
        for _ in range(5):
            before = p.copy()
            opt.step([np.ones(3)])
    assert opt.t == 2
    assert bits([p]) == bits([before])
    with pytest.raises(ValueError, match="lr must be at most lr_max = 0.25, got 0.3"):
        opt.lr = 0.3
    opt.lr = 0.2
    opt.step([np.ones(3)])
