"""State by name: exact resume at every step, all or nothing, no aliasing."""
import copy
import json
import re

import numpy as np
import pytest
from registry import arrays, bits, every_dtype, every_optimizer, full, other_value, snapshot

import fastlr
from fastlr import schedules

SHAPES = [(3, 4), (), (0,), (17,)]
STEPS = 8


def fresh(cls, dtype, **keywords):
    params = arrays(dtype, SHAPES)
    params[0] = np.asfortranarray(params[0])
    return cls({f"p{k}": p for k, p in enumerate(params)}, **keywords), params


def gradients(dtype, t):
    """Gradients of step t; some tensors have none at some steps."""
    return {f"p{k}": None if (t + k) % 4 == 0 else g for k, g in enumerate(arrays(dtype, SHAPES, 10 + t))}


@every_optimizer
@every_dtype
def test_resume_is_exact_at_every_step(cls, dtype):
    hyper = {name: other_value(bound) for name, bound in cls.hypers.items()}
    hyper["lr"] = schedules.cosine(0.1, steps=5).warmup(2)
    opt, params = fresh(cls, dtype, **hyper)
    saved = [(opt.state_dict(), [p.copy() for p in params])]
    for t in range(STEPS):
        opt.step(gradients(dtype, t))
        saved.append((opt.state_dict(), [p.copy() for p in params]))
    want = snapshot(opt, params)
    for k, (state, values) in enumerate(saved):
        resumed, again = fresh(cls, dtype)
        for p, value in zip(again, values, strict=True):
            p[...] = value
        resumed.load_state_dict(state)
        assert resumed.t == k
        for t in range(k, STEPS):
            resumed.step(gradients(dtype, t))
        assert snapshot(resumed, again) == want


@every_optimizer
def test_a_state_dict_is_a_copy_and_loading_copies(cls):
    opt, _ = fresh(cls, np.float32)
    opt.step(gradients(np.float32, 1))
    state = opt.state_dict()
    before = copy.deepcopy(state)
    opt.step(gradients(np.float32, 2))
    same(state, before)
    other, params = fresh(cls, np.float32)
    other.load_state_dict(state)
    taken = snapshot(other, params)
    for slots in state["state"].values():
        for array in slots.values():
            array += 1
    assert snapshot(other, params) == taken


def same(a, b):
    """Equality of nested plain data with arrays."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b


def test_all_but_the_arrays_is_json():
    opt = fastlr.AdamW([{"params": {"a": np.zeros(2)}, "lr": schedules.linear(0.1, steps=3)},
                        {"params": [np.zeros(3)], "beta1": lambda t: 0.5}], lr=0.1)
    opt.step([{"a": None}, [np.ones(3)]])
    state = opt.state_dict()
    state.pop("state")
    assert json.loads(json.dumps(state)) == state
    assert state["missed"] == {"a": 1}
    assert state["groups"][0]["lr"] == schedules.linear(0.1, steps=3).to_dict()
    assert state["groups"][1]["beta1"] == {"callable": "test_all_but_the_arrays_is_json.<locals>.<lambda>"}


def test_a_function_is_not_saved_but_kept():
    def halving(t):
        return 0.5 ** t
    p, q = np.ones(2), np.ones(2)
    opt = fastlr.SGD(p, lr=halving)
    opt.step(np.ones(2))
    state = opt.state_dict()
    with pytest.raises(ValueError, match=r"SGD\.load_state_dict: lr was a function \(.*halving\), which is not saved; set opt.lr"):
        fastlr.SGD(q).load_state_dict(state)
    other = fastlr.SGD(q, lr=halving)
    q[...] = p
    other.load_state_dict(state)
    for each in (opt, other):
        each.step(np.ones(2))
    assert (p == q).all()


def edited(path, value):
    """A function that changes one entry of a state_dict; DELETE removes it."""
    def change(state):
        where = state
        for key in path[:-1]:
            where = where[key]
        if value is DELETE:
            del where[path[-1]]
        else:
            where[path[-1]] = value
    return change


DELETE = object()


@pytest.mark.parametrize(("change", "says"), [
    (edited(["format"], 2), "AdamW.load_state_dict: expected format 1, got 2"),
    (edited(["format"], DELETE), "AdamW.load_state_dict: no entry 'format'"),
    (edited(["state"], DELETE), "AdamW.load_state_dict: no entry 'state'"),
    (edited(["optimizer"], "Adam"), "AdamW.load_state_dict: this is the state of Adam, load it into one"),
    (edited(["t"], -1), "AdamW.load_state_dict: t must be a count from 0 to "),
    (edited(["t"], 1.0), "got 1.0"),
    (edited(["t"], 2**70), "t must be a count"),
    (edited(["missed"], {"p0": "1"}), "missed['p0'] must be a count from -4611686018427387897 to 6, got '1'"),
    (edited(["missed"], {"p0": 7}), "to 6, got 7"),
    (edited(["missed"], {"p0": 6 - 2**62}), "missed['p0'] must be a count from "),
    (edited(["missed"], {"q": 1}), "missed must map names of parameters to counts, got {'q': 1}"),
    (edited(["missed"], [1]), "missed must map names of parameters to counts, got [1]"),
    (edited(["groups"], []), "AdamW.load_state_dict: expected 1 groups, got 0"),
    (edited(["groups"], 5), "AdamW.load_state_dict: groups must be a sequence, got 5"),
    (edited(["groups", 0, "lr"], DELETE), "AdamW.load_state_dict: groups[0]: no entry 'lr'"),
    (edited(["groups", 0, "alpha"], 1.0), "AdamW.load_state_dict: groups[0]: unknown entry 'alpha'"),
    (edited(["groups", 0, "beta1"], 1.5), "AdamW: beta1 must be in [0, 1), got 1.5"),
    (edited(["groups", 0, "lr"], {"schedule": "nonsense"}), "nonsense"),
    (edited(["groups", 0, "params"], ["p0"]), "groups[0]: expected the parameters ['p0', 'p1', 'p2', 'p3'], got ['p0']"),
    (edited(["state", "p0"], DELETE), "AdamW.load_state_dict: state: no entry 'p0'"),
    (edited(["state", "p4"], {}), "AdamW.load_state_dict: state: unknown entry 'p4'"),
    (edited(["state", "p0"], None), "AdamW.load_state_dict: state['p0']: expected a mapping, got NoneType"),
    (edited(["state", "p3", "v"], DELETE), "AdamW.load_state_dict: state['p3']: no entry 'v'"),
    (edited(["state", "p3", "w"], np.zeros(17)), "AdamW.load_state_dict: state['p3']: unknown entry 'w'"),
    (edited(["state", "p3", "v"], np.zeros(16)), "state['p3']['v']: expected float64 (17,), got float64 (16,)"),
    (edited(["state", "p3", "v"], np.zeros(17, np.float32)), "state['p3']['v']: expected float64 (17,), got float32 (17,)"),
])
def test_what_does_not_fit_is_refused_and_nothing_changes(change, says):
    opt, params = fresh(fastlr.AdamW, np.float64)
    opt.step(gradients(np.float64, 1))
    state = opt.state_dict()
    state["t"] += 5
    for slots in state["state"].values():
        for array in slots.values():
            array += 1
    change(state)
    before = snapshot(opt, params)
    with pytest.raises(ValueError, match=re.escape(says)):
        opt.load_state_dict(state)
    assert snapshot(opt, params) == before


def test_hyper_parameters_come_back_exactly():
    value = 0.1 + 2**-55
    opt = fastlr.AdamW(np.zeros(2), lr=value, eps=5e-324)
    other = fastlr.AdamW(np.zeros(2))
    other.load_state_dict(opt.state_dict())
    assert (other.lr, other.eps) == (value, 5e-324)
    assert full(fastlr.AdamW, {"lr": value, "eps": 5e-324}) == {name: getattr(other, name) for name in fastlr.AdamW.hypers}


def test_bits_of_loaded_state_include_signed_zeros_and_nan():
    opt = fastlr.Momentum(np.zeros(4))
    odd = np.array([-0.0, np.nan, np.inf, 5e-324])
    opt.state["0"]["m"][...] = odd
    other = fastlr.Momentum(np.zeros(4))
    other.load_state_dict(opt.state_dict())
    assert bits([other.state["0"]["m"]]) == bits([odd])
