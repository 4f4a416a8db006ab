"""Classes derived from optimizers: without a rule of their own they have their parent's."""
import re

import numpy as np
import pytest
from registry import arrays, bits, every_optimizer, snapshot

import fastlr
from fastlr.optimizers.base import REGISTRY
from fastlr.optimizers.declaration import Convention, Hyper, within


@every_optimizer
def test_a_subclass_is_its_parent(cls):
    class Own(cls):
        pass

    names = fastlr.list_optimizers()
    assert "own" not in REGISTRY and "own" not in names
    for name in ("hypers", "slots", "memory", "shared", "conventions", "decay_mode", "accumulation", "_fields"):
        assert getattr(Own, name) == getattr(cls, name), name
    params, others = arrays(np.float32, [(3, 4), (5,)]), arrays(np.float32, [(3, 4), (5,)])
    opt, parent = Own(params, convention=next(reversed(cls.conventions), None)), \
        cls(others, convention=next(reversed(cls.conventions), None))
    for t in range(3):
        grads = arrays(np.float32, [(3, 4), (5,)], t)
        opt.step(grads)
        parent.step(grads)
    assert bits(params) == bits(others)
    assert repr(opt).startswith("Own(")


@every_optimizer
def test_a_state_names_the_class_that_stands_for_the_rule(cls, tmp_path):
    class Own(cls):
        pass

    opt, parent, other = Own(np.ones((2, 2))), cls(np.ones((2, 2))), Own(np.ones((2, 2)))
    opt.step(np.ones((2, 2)))
    assert opt.state_dict()["optimizer"] == cls.__name__
    fastlr.save(tmp_path / "own", opt)
    fastlr.load(tmp_path / "own", parent)
    other.load_state_dict(parent.state_dict())
    assert snapshot(opt, [])[1:] == snapshot(parent, [])[1:] == snapshot(other, [])[1:]
    assert type(fastlr.create_optimizer(opt.state_dict()["optimizer"], np.ones(2))) is cls


def test_a_subclass_may_have_other_defaults_decay_and_attributes():
    class Mine(fastlr.Adam, decay="decoupled"):
        lr: Hyper = within(0.5)
        calls = 0

        def __init__(self, *given, **more):
            self.history = []
            super().__init__(*given, **more)

        def step(self, *given, **more):
            self.calls += 1
            self.history.append(self.t)
            super().step(*given, **more)

    class Theirs(Mine):
        pass

    for cls in (Mine, Theirs):
        opt = cls(np.ones(2), weight_decay=0.1)
        opt.step(np.ones(2))
        assert (opt.lr, opt._decay, opt.calls, opt.history) == (0.5, "decoupled", 1, [0])
        for name in ("learning_rate", "beta_1", "momentum", "decay_mask"):
            with pytest.raises(AttributeError, match=cls.__name__):
                setattr(opt, name, 1)
    assert fastlr.Adam.lr == 1e-3 and fastlr.Adam.decay_mode == "coupled"


def statement(base, body=None, **keywords):
    return lambda: type("Own", (base,), body or {}, **keywords)


@pytest.mark.parametrize(("make", "says"), [
    (statement(fastlr.Optimizer), "Own: stands for no rule; name it with rule="),
    (statement(fastlr.Adam, {"lr": 0.5}), "Own: lr = 0.5 in the class body would hide what lr declares; write lr = within(0.5)"),
    (statement(fastlr.Adam, {"gamma": within(0.5)}), "Own: declares 'gamma', which its rule Adam does not have"),
    (statement(fastlr.Adam, {"beta3": within(0.5)}), "Own: declares 'beta3', which its rule Adam does not have; did you mean 'beta"),
    (statement(fastlr.Optimizer, rule="Momentum"),
     "Own: its rule Momentum has a hyper-parameter 'momentum' that the class does not declare; "
     "add momentum: Hyper = within(default, low, high)"),
    (statement(fastlr.Adam, conventions={"a": "Adam", "b": Convention("SGD")}),
     "Own, convention 'b': the rule SGD has other hyper-parameters or state than Adam"),
    (statement(fastlr.Adam, conventions={"a": Convention("Adam", epsilon=1.0)}),
     "Own, convention 'a': a default of 'epsilon', which the class does not have; did you mean 'eps'?"),
])
def test_a_class_that_does_not_fit_its_rule_is_refused(make, says):
    before = dict(REGISTRY)
    with pytest.raises(TypeError, match=re.escape(says)):
        make()
    assert before == REGISTRY


def test_a_name_of_fastlr_is_not_taken_over():
    with pytest.raises(TypeError, match="Adam: fastlr has an optimizer of this name; choose another"):
        type("Adam", (fastlr.Adam,), {}, rule="Adam")
    assert REGISTRY["adam"] is fastlr.Adam

    class Adam(fastlr.Adam):           # (without a rule of its own it is no optimizer of the registry)
        pass
    assert REGISTRY["adam"] is fastlr.Adam and Adam(np.ones(1)).lr == 1e-3
