"""Attributes of optimizers and groups: what can be read and set between steps, and what is refused."""
import copy
import pickle
import re

import numpy as np
import pytest
from registry import arrays, bits, every_optimizer, other_value, snapshot

import fastlr

SETTINGS = {"clip_value": 0.5, "clip_norm": 0.7, "clip_tensor_norm": 0.3, "clip_zscore": 2.0}


@every_optimizer
@pytest.mark.parametrize("name", ["clip_value", "clip_norm"])
def test_a_stage_set_between_steps_is_one_given_to_the_constructor(cls, name):
    results = []
    for late in (False, True):
        params, grads = arrays(np.float64, [(3, 4), (5,)]), arrays(np.float64, [(3, 4), (5,)], 1)
        opt = cls(params) if late else cls(params, **{name: SETTINGS[name]})
        opt.step([None, None])
        if late:
            setattr(opt, name, SETTINGS[name])
        assert getattr(opt, name) == SETTINGS[name]
        for _ in range(2):
            opt.step([100 * g for g in grads])
        results.append((bits(params), opt.grad_norm, opt.t))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_a_stage_keeps_all_else(name):
    params = [np.ones(3), np.ones((2, 2))]
    opt = fastlr.AdamW([{"params": params[:1], "lr": fastlr.schedules.linear(0.1, steps=9)}, {"params": params[1:]}],
                       grads=[[np.ones(3)], [np.ones((2, 2))]], nonfinite="skip", ema_decay=0.5)
    opt.step()
    opt.step([[None], [np.ones((2, 2))]])
    opt.step([[np.full(3, np.nan)], [None]])
    before = snapshot(opt, params), opt.skipped, opt.state_dict()["missed"], opt.groups[0].lr
    setattr(opt, name, SETTINGS[name])
    assert (snapshot(opt, params), opt.skipped, opt.state_dict()["missed"], opt.groups[0].lr) == before
    opt.step()                         # (the bound gradients are)
    setattr(opt, name, None)
    assert getattr(opt, name) is None and opt.t == 3


def test_the_decay_of_a_running_mean_can_be_set_where_one_is_kept():
    p = np.zeros(2)
    opt = fastlr.SGD(p, lr=1.0, ema_decay=0.5)
    opt.ema_decay = 0.0
    opt.step(np.ones(2))
    assert opt.ema["0"].tolist() == [-1, -1]
    for wrong, there in ((None, opt), (0.5, fastlr.SGD(np.zeros(2)))):
        with pytest.raises(AttributeError, match="whether a running mean is kept is for the constructor"):
            there.ema_decay = wrong


def test_a_norm_is_not_bounded_between_accumulate_and_step():
    opt = fastlr.Adam(np.zeros(2))
    opt.accumulate(np.ones(2))
    with pytest.raises(ValueError, match="Adam: clip_norm cannot be set between accumulate and step"):
        opt.clip_norm = 1.0
    opt.clip_value = 1.0
    opt.step(np.ones(2))
    opt.clip_norm = 1.0


def test_a_value_out_of_bounds_changes_nothing():
    opt = fastlr.SGD(np.zeros(2), clip_norm=1.0)
    with pytest.raises(ValueError, match="SGD: clip_norm must be positive and finite, got -1.0"):
        opt.clip_norm = -1.0
    assert opt.clip_norm == 1.0


def test_a_schedule_that_sets_a_stage_while_it_gives_its_value_is_refused():
    opt = fastlr.SGD(np.zeros(2))

    def meddling(t):
        opt.clip_norm = 1.0
        return 0.1

    opt.lr = meddling
    with pytest.raises(RuntimeError, match="already stepping"):
        opt.step(np.ones(2))
    opt.lr = 0.1
    opt.step(np.ones(2))


@pytest.mark.parametrize(("name", "says"), [
    ("learning_rate", "SGD: has no 'learning_rate' to set; did you mean 'lr'?"),
    ("weight_deca", "SGD: has no 'weight_deca' to set; did you mean 'weight_decay'?"),
    ("beta1", "SGD: has no 'beta1' to set"),
    ("param_groups", "SGD: has no 'param_groups' to set; did you mean 'groups'?"),
    ("anything", "SGD: has no 'anything' to set"),
    *((name, f"SGD: {name} is for the constructor, it cannot be set later")
      for name in ("decay_mask", "lr_scale", "seed", "rounding", "nonfinite", "maximize", "state_dtype", "decay",
                   "clip_adaptive", "lr_max", "grads")),
    ("kind", "SGD: kind is of the class, it cannot be set"),
    *((name, f"SGD: {name} can be read alone, it cannot be set")
      for name in ("t", "state", "groups", "convention", "skipped", "grad_norm", "master")),
])
def test_what_would_do_nothing_is_refused(name, says):
    opt = fastlr.SGD(np.zeros(3), lr=1.0)
    with pytest.raises(AttributeError, match=re.escape(says)):
        setattr(opt, name, 0.5)
    assert name not in vars(opt)


@every_optimizer
def test_no_hyper_parameter_of_another_optimizer_is_taken(cls):
    opt = cls(np.zeros((2, 2)))
    for name in {name for other in fastlr.optimizers.base.REGISTRY.values() for name in other.hypers} - set(cls.hypers):
        with pytest.raises(AttributeError, match=f"{cls.__name__}: has no '{name}' to set"):
            setattr(opt, name, 0.5)


@every_optimizer
def test_options_and_initial_states_are_read_and_not_set(cls):
    opt = cls(np.zeros((2, 2)))
    for name, declared in (cls.options | cls.initial_states).items():
        assert getattr(opt, name) == declared.default
        with pytest.raises(AttributeError, match=f"{cls.__name__}: {name} is for the constructor"):
            setattr(opt, name, declared.default)


# Groups

def test_a_rate_that_one_group_refuses_changes_none():
    opt = fastlr.AdamW([{"params": [np.ones(2)], "lr_max": 1.0}, {"params": [np.ones(2)], "lr_max": 0.1}], lr=0.05,
                       decay="corrected", weight_decay=0.1)
    before = snapshot(opt, [])
    with pytest.raises(ValueError, match="lr must be at most lr_max = 0.1, got 0.5"):
        opt.lr = 0.5
    assert snapshot(opt, []) == before and [group.lr for group in opt.groups] == [0.05, 0.05]
    opt.lr = 0.1
    assert [group.lr for group in opt.groups] == [0.1, 0.1]


def test_groups_name_what_is_meant():
    opt = fastlr.AdamW(np.zeros(2))
    group = opt.groups[0]
    with pytest.raises(AttributeError, match=r"AdamW: a group has no 'learning_rate'; did you mean 'lr'\?"):
        group.learning_rate = 0.1
    with pytest.raises(AttributeError, match="AdamW: a group has no 'clip_norm'"):
        group.clip_norm = 0.1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda copied: copied.__name__)
def test_groups_are_not_copied(copied):
    opt = fastlr.AdamW(np.zeros(2))
    with pytest.raises(TypeError, match="AdamW: a group cannot be copied or pickled, as it is part of its optimizer"):
        copied(opt.groups[0])


# Kernels

@pytest.mark.parametrize("name", fastlr.kernels.__all__)
def test_functions_of_kernels_are_pickled_by_name(name):
    function = getattr(fastlr.kernels, name)
    assert pickle.loads(pickle.dumps(function)) is function and copy.copy(function) is function


# What is saved beside the state

OPTIONS = [{"clip_norm": 1.0}, {"clip_value": 0.5}, {"clip_tensor_norm": 0.5}, {"clip_zscore": 2.0},
           {"clip_adaptive": 0.1}, {"maximize": True}, {"nonfinite": "skip"}, {"lr_scale": 0.5},
           {"lr_scale": {"w": np.array([1.0, 2.0])}}, {"decay_mask": [False]}, {"decay": "decoupled"},
           {"rounding": "stochastic"}, {"rounding": "stochastic", "seed": 3}]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_a_loaded_optimizer_steps_as_the_saved_one_or_is_refused(options, tmp_path):
    def fresh(**given):
        return fastlr.SGD({"w": np.ones(2)}, lr=1.0, weight_decay=0.5, **given)

    opt = fresh(**options)
    opt.step({"w": np.array([3.0, 4.0])})
    fastlr.save(tmp_path / "run", opt)
    same = fresh(**options)
    fastlr.load(tmp_path / "run", same)
    assert snapshot(same, []) == snapshot(opt, [])
    name = next(iter(options))
    for there, here in ((opt, fresh()), (fresh(), fresh(**options))):
        before = snapshot(here, [])
        with pytest.raises(ValueError, match=f"SGD.load_state_dict: saved with {name} = .*would step otherwise"):
            here.load_state_dict(there.state_dict())
        assert snapshot(here, []) == before
        here.load_state_dict(there.state_dict(), strict=False)
        assert here.t == there.t


@every_optimizer
def test_options_of_a_class_are_compared_too(cls):
    for name, option in cls.options.items():
        others = [x for x in (*option.choices, 3) if x != option.default and isinstance(x, bool | int | str)]
        for other in others:
            try:
                opt = cls(np.ones((2, 2)), **{name: other})
            except (TypeError, ValueError):
                continue
            with pytest.raises(ValueError, match=rf"saved with {name} = |load_state_dict"):
                cls(np.ones((2, 2))).load_state_dict(opt.state_dict())
            cls(np.ones((2, 2)), **{name: other}).load_state_dict(opt.state_dict())


def test_a_state_of_version_0_1_0_has_no_options_and_loads():
    opt = fastlr.SGD(np.ones(2), clip_norm=1.0)
    state = fastlr.SGD(np.ones(2)).state_dict()
    del state["options"]
    opt.load_state_dict(state)
    with pytest.raises(ValueError, match="options must be a mapping, got 5"):
        opt.load_state_dict(state | {"options": 5})


def test_nan_among_the_numbers_of_all_tensors_is_saved(tmp_path):
    opt, other = fastlr.Prodigy(np.ones(3)), fastlr.Prodigy(np.ones(3))
    opt.step(np.array([np.nan, 1.0, 1.0]))
    fastlr.save(tmp_path / "run", opt)
    fastlr.load(tmp_path / "run", other)
    np.testing.assert_array_equal(opt._shared, other._shared)
    assert np.isnan(opt._shared).any()


@every_optimizer
def test_every_hyper_parameter_is_set_for_all_groups_or_none(cls):
    opt = cls([{"params": [np.zeros((2, 2))]}, {"params": [np.zeros((3, 2))]}])
    for name, hyper in cls.hypers.items():
        setattr(opt, name, other_value(hyper))
        assert [getattr(group, name) for group in opt.groups] == [other_value(hyper)] * 2


@pytest.mark.parametrize("resize", [lambda a: a.resize(a.size // 2, refcheck=False),
                                    lambda a: a.resize(1000 * a.size, refcheck=False)])
def test_memory_that_an_optimizer_uses_is_not_given_away(resize):
    """NumPy refuses to resize an array that is weakly referenced; a step would write where it was."""
    p, g, base, shadow = np.ones(8, np.float32), np.ones(8, np.float32), np.ones(16, np.float32), np.ones(8, np.float16)
    free = np.ones(8)
    resize(free)
    assert free.size != 8                                        # (so it is not refused for another reason)
    opt = fastlr.SGD([p], lr=1.0, grads=[g], shadow=[shadow])
    view = fastlr.SGD(base[::2], lr=1.0)
    ema = fastlr.EMA([base[1::2]])
    for array in (p, g, base, shadow):
        with pytest.raises(ValueError, match="cannot resize"):
            resize(array)
    opt.step()
    view.step(np.ones(8, np.float32))
    ema.update()
    assert p.tolist() == [0] * 8
    assert base.tolist() == [0, 1] * 8
    del opt, view, ema


def test_gradients_that_are_bound_in_place_of_equal_ones_are_not_given_away():
    before, now = np.ones(1, np.float32), np.ones(1, np.float32)
    opt = fastlr.SGD([np.ones(1, np.float32)], lr=1.0, grads=[before])
    opt.bind([now])
    with pytest.raises(ValueError, match="cannot resize"):
        now.resize(100_000, refcheck=False)


def test_the_number_of_skipped_steps_is_saved(tmp_path):
    def fresh(p):
        return fastlr.SGD([p], lr=1.0, nonfinite="skip")

    p, q = np.ones(2), np.ones(2)
    opt, other = fresh(p), fresh(q)
    assert "skipped" not in opt.state_dict()
    opt.step([np.array([np.nan, 1])])
    opt.step([np.ones(2)])
    fastlr.save(tmp_path / "c", opt)
    fastlr.load(tmp_path / "c", other)
    assert (other.skipped, other.t) == (1, 1)
    old = opt.state_dict()
    del old["skipped"]                       # (as version 0.1.0 saved it)
    other.load_state_dict(old)
    assert other.skipped == 0
    with pytest.raises(ValueError, match="skipped must be a count from 0 to"):
        other.load_state_dict(old | {"skipped": -1})


def test_a_slot_that_is_set_is_written_and_the_state_keeps_its_arrays():
    p, q = np.ones(3, np.float32), np.ones(3, np.float32)
    opt, twin = fastlr.Adam([p]), fastlr.Adam([q])
    for each in (opt, twin):
        each.step([np.ones(3, np.float32)])
    m = opt.state["0"]["m"]
    opt.state["0"]["m"] = np.array([1.0, 2.0, 3.0])
    twin.state["0"]["m"][...] = [1.0, 2.0, 3.0]
    assert opt.state["0"]["m"] is m
    opt.state["0"]["v"] = 0.5
    twin.state["0"]["v"][...] = 0.5
    for each in (opt, twin):
        each.step([np.ones(3, np.float32)])
    assert bits([p]) == bits([q])
    with pytest.raises(KeyError, match="state: there is no 'mm'; did you mean 'm'"):
        opt.state["0"]["mm"] = 1.0
    for wrong in (np.ones(2), "text", np.ones((3, 1))):
        with pytest.raises(ValueError, match=r"state: 'm': expected float32 \(3,\), got "):
            opt.state["0"]["m"] = wrong
    before = snapshot(opt, [p])
    for change in (lambda: opt.state.update({"0": {}}), lambda: opt.state.pop("0"), lambda: opt.state["0"].clear(),
                   lambda: opt.state["0"].update(m=1), lambda: opt.state["0"].__delitem__("m"),
                   lambda: opt.state.__setitem__("0", 5), lambda: opt.state.setdefault("1", 5)):
        with pytest.raises(TypeError, match="what there is cannot be changed; write into the arrays"):
            change()
    assert snapshot(opt, [p]) == before
    assert type(pickle.loads(pickle.dumps(opt.state))["0"]) is dict
    assert type(copy.deepcopy(opt.state)) is dict


def test_a_slot_of_16_bits_takes_numbers_and_one_of_8_bits_its_codes():
    opt = fastlr.Momentum([np.ones(4096, np.float32)], state_dtype="bfloat16")
    opt.state["0"]["m"] = np.full(4096, 1.5)
    assert (np.asarray(opt.state["0"]["m"]) == 0x3fc0).all()
    opt = fastlr.Momentum([np.ones(4096, np.float32)], state_dtype="int8")
    with pytest.raises(ValueError, match=r"expected int8 \(4096,\), got float64 \(4096,\)"):
        opt.state["0"]["m"] = np.full(4096, 1.5)
    opt.state["0"]["m"] = np.ones(4096, np.int8)
    assert (opt.state["0"]["m"] == 1).all()


def test_means_and_copies_are_written_where_they_are_set():
    p = np.ones(3, np.float32)
    opt = fastlr.SGD([p], lr=1.0, ema_decay=0.5, shadow="float16")
    opt.ema["0"] = 3.0
    opt.shadow["0"] = 7.0
    assert (opt.state["0"]["ema"].tolist(), opt.shadow["0"].tolist()) == ([3, 3, 3], [7, 7, 7])
    opt.step([np.ones(3, np.float32)])
    assert opt.ema["0"].tolist() == [1.5, 1.5, 1.5]


def test_results_have_no_attributes_but_their_own():
    p = np.ones(2)
    found = fastlr.find_lr(fastlr.SGD(p, lr=0.1), lambda batch: (float(p @ p), 2 * p), [1], steps=10, trial_steps=10)
    tuned = fastlr.tune_lr(lambda lr, budget, seed: lr, 1e-3, 1.0, budget=2)
    line = fastlr.line_search(lambda x: (float(x @ x), 2 * x), p, -p)
    for result in (found, tuned):
        with pytest.raises(AttributeError, match="has no 'brackets'; did you mean 'bracket'"):
            result.brackets = 1.0
        assert copy.deepcopy(result).lr == result.lr
    for result in (line, fastlr.diagnose([1.0] * 99)[0]):
        with pytest.raises(AttributeError):
            result.step = 1.0
