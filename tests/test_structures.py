"""Nested parameters: their names, gradients of the same structure, and entries that were replaced."""
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from registry import bits, snapshot

import fastlr


@dataclass
class Dense:
    w: Any
    b: Any


class Pair(NamedTuple):
    first: Any
    second: Any


def model(fill=np.zeros):
    """Every kind of container, one in another."""
    return {"layers": [Dense(fill((3, 2)), fill(2)), {"deep": Pair(fill(4), (fill(()), fill((0, 2))))}],
            "head": {"w": fill((2, 1)), 7: fill(1)}}


def leaves(x):
    """The arrays of a structure in the order of its entries."""
    if isinstance(x, np.ndarray):
        return [x]
    entries = x.values() if isinstance(x, dict) else vars(x).values() if isinstance(x, Dense) else x
    return [leaf for entry in entries for leaf in leaves(entry)]


NAMES = ["layers/0/w", "layers/0/b", "layers/1/deep/first", "layers/1/deep/second/0", "layers/1/deep/second/1",
         "head/w", "head/7"]


def test_names_are_the_keys_that_lead_to_an_array():
    opt = fastlr.Momentum(model())
    assert list(opt.state) == NAMES
    assert [group.params for group in opt.groups] == [NAMES]


def test_a_structure_steps_as_the_list_of_its_arrays():
    nested, flat = model(), leaves(model())
    one, other = fastlr.AdamW(nested, lr=0.1), fastlr.AdamW(flat, lr=0.1)
    for t in range(3):
        grads = model(lambda shape, t=t: np.random.default_rng(t).normal(size=shape))
        one.step(grads)
        other.step(leaves(grads))
    assert bits(leaves(nested)) == bits(flat)


def test_gradients_come_bound_in_groups_and_accumulated_alike():
    def fresh():
        return [{"params": model()}, {"params": [np.zeros(2), [np.zeros(3)]], "lr": 0.5}]

    grads = [model(np.ones), [np.ones(2), [np.ones(3)]]]
    passed, bound, summed = fresh(), fresh(), fresh()
    opt = fastlr.Adam(passed)
    opt.step(grads)
    fastlr.Adam(bound, grads=grads).step()
    accumulation = fastlr.GradientAccumulation(fastlr.Adam(summed))
    for _ in range(2):
        accumulation.add(grads)
    accumulation.step()
    first, *others = [bits([leaf for group in params for leaf in leaves(group["params"])])
                      for params in (passed, bound, summed)]
    assert all(other == first for other in others)
    assert opt.groups[1].params == ["7", "8/0"]


def test_none_skips_an_array_and_all_that_a_container_holds():
    params = model()
    grads = model(np.ones)
    grads["layers"] = None
    grads["head"]["w"] = None
    fastlr.SGD(params, lr=1.0).step(grads)
    moved = [bool((leaf == -1).all()) for leaf in leaves(params) if leaf.size]
    assert moved == [False, False, False, False, False, True]


def test_fields_may_come_by_name_as_mappings():
    params = Dense(np.zeros(2), Pair(np.zeros(3), np.zeros(1)))
    opt = fastlr.SGD(params, lr=1.0)
    opt.step({"w": np.ones(2), "b": {"first": np.ones(3), "second": np.ones(1)}})
    opt.step(Dense(np.ones(2), Pair(np.ones(3), np.ones(1))))
    assert params.w.tolist() == [-2, -2] and params.b.second.tolist() == [-2]


def test_keys_of_any_type_name_parameters():
    params = {0: np.ones(2), (1, 2): np.ones(1)}
    opt = fastlr.SGD(params, lr=1.0)
    assert list(opt.state) == ["0", "(1, 2)"]
    opt.step({0: np.ones(2), (1, 2): np.ones(1)})
    assert params[0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="SGD: two parameters are named '0'"):
        fastlr.SGD({0: np.ones(2), "0": np.ones(2)})
    with pytest.raises(ValueError, match="SGD: two parameters are named 'a/b'"):
        fastlr.SGD({"a": {"b": np.ones(2)}, "a/b": np.ones(2)})


def circular():
    params = {"a": np.zeros(2)}
    params["self"] = [params]
    return params


@pytest.mark.parametrize(("params", "error", "says"), [
    (lambda: {"a": {"b": 3.0}}, TypeError, "SGD: params['a/b']: expected an array"),
    (lambda: Dense(np.zeros(2), "text"), TypeError, "SGD: params['b']: expected an array"),
    (lambda: [[np.zeros(2)], None], TypeError, "SGD: params[1]: expected an array"),
    (circular, ValueError, "params: self/0 holds itself"),
])
def test_what_is_no_array_is_refused_by_its_name(params, error, says):
    with pytest.raises(error, match=re.escape(says)):
        fastlr.SGD(params())


@pytest.mark.parametrize(("change", "error", "says"), [
    (lambda g: g["head"].pop("w"), ValueError, "AdamW: grads['head']: no entry 'w'"),
    (lambda g: g["head"].update(v=1), ValueError, "AdamW: grads['head']: unknown entry 'v'"),
    (lambda g: g["layers"].pop(), ValueError, "AdamW: grads['layers']: expected 2 gradients"),
    (lambda g: g["layers"].__setitem__(0, Pair(1, 2)), TypeError,
     "AdamW: grads['layers'][0]: expected a Dense or a mapping with its fields, got Pair, which has no 'w'"),
    (lambda g: setattr(g["layers"][0], "w", np.ones(3)), ValueError,
     "grads['layers'][0]['w']: expected float64 (3, 2) like the parameter, got float64 (3,)"),
    (lambda g: g.update(head=[np.ones((2, 1)), np.ones(1)]), TypeError,
     "AdamW: grads['head']: expected a mapping by parameter name, got list"),
])
def test_gradients_of_another_structure_are_refused_and_nothing_changes(change, error, says):
    params = model()
    opt = fastlr.AdamW(params)
    opt.step(model(np.ones))
    before = snapshot(opt, leaves(params))
    grads = model(np.ones)
    change(grads)
    with pytest.raises(error, match=re.escape(says)):
        opt.step(grads)
    assert snapshot(opt, leaves(params)) == before


# Replaced entries

def replace_in_mapping(params):
    params["head"]["w"] = params["head"]["w"] + 1


def replace_field(params):
    params["layers"][0].b = np.zeros(2)


def replace_container(params):
    params["head"] = dict(params["head"], w=np.zeros((2, 1)))


@pytest.mark.parametrize(("replace", "key"), [(replace_in_mapping, "w"), (replace_field, "b"),
                                              (replace_container, "head")])
@pytest.mark.parametrize("call", [
    lambda opt: opt.step(model(np.ones)), lambda opt: opt.step(),
    lambda opt: opt.step(model(np.ones), grad_scale=fastlr.LossScale()),
    lambda opt: opt.accumulate(model(np.ones)), lambda opt: opt.step_rows("head/w", [0], np.ones((1, 1)))],
    ids=["step", "bound", "scaled", "accumulate", "rows"])
def test_a_replaced_parameter_is_noticed_and_nothing_changes(replace, key, call):
    params = model()
    opt = fastlr.Adam(params, grads=model(np.ones), nonfinite="skip")
    kept = leaves(params)
    replace(params)
    before = snapshot(opt, kept)
    with pytest.raises(RuntimeError, match=re.escape(f"Adam: params['{key}'] was replaced by another array since")):
        call(opt)
    assert snapshot(opt, kept) == before


@pytest.mark.parametrize("size", [1, 2])
def test_an_equal_array_in_its_place_is_noticed_too(size):
    params = {"w": np.zeros(size), "b": np.zeros(2)}
    opt = fastlr.SGD(params)
    params["w"] = params["w"].copy()
    with pytest.raises(RuntimeError, match="was replaced"):
        opt.step({"w": np.ones(size), "b": np.ones(2)})


def test_other_changes_of_a_mapping_are_no_replacement():
    params = {"a": np.zeros(2), "b": np.zeros(3)}
    opt = fastlr.SGD(params, lr=1.0)
    params["a"][...] = 5
    params["c"] = np.zeros(1)
    first = params.pop("a")
    opt.step({"a": np.ones(2), "b": np.ones(3)})
    params["a"] = first                # (in another order now)
    opt.step({"a": np.ones(2), "b": np.ones(3)})
    assert first.tolist() == [3, 3] and opt.t == 2


def test_the_advice_works():
    params = {"w": np.zeros(3)}
    opt = fastlr.SGD(params, lr=1.0)
    params["w"][...] = params["w"] + 1
    opt.step({"w": np.ones(3)})
    assert params["w"].tolist() == [0, 0, 0]
