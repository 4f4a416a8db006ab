"""Rules from function pointers: what is taken, what is refused in words, and that what is pointed to stays."""
import ctypes
import gc
import itertools
import re

import numpy as np
import pytest

import fastlr
from fastlr.optimizers.base import REGISTRY

VOID, SIZE = ctypes.c_void_p, ctypes.c_ssize_t
STEP = ctypes.CFUNCTYPE(None, VOID, VOID, VOID, VOID, VOID, SIZE)
COUNTER = itertools.count()


def added(amount):
    """A step that adds a number to each parameter, as a ctypes function that nobody else keeps."""
    @STEP
    def step(hyper, now, p, g, slots, size):
        np.ctypeslib.as_array(ctypes.cast(p, ctypes.POINTER(ctypes.c_double)), (size,))[...] += amount
    return step


def class_of(rule, **body):
    return type(f"ByPointer{next(COUNTER)}", (fastlr.Optimizer,), body, rule=rule)


@pytest.fixture(autouse=True)
def same_registry():
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def moved(cls):
    p = np.zeros(3)
    cls([p]).step([np.ones(3)])
    return p.tolist()


def test_functions_stay_though_nobody_else_keeps_them():
    classes = [class_of(fastlr.rule_from_pointers("added", step_float64=added(k), step_float32=None)) for k in range(20)]
    gc.collect()
    assert [moved(cls)[0] for cls in classes] == list(range(20))


def test_a_function_is_an_address_a_ctypes_function_or_has_an_address():
    class Compiled:
        address = ctypes.cast(function := added(2.0), VOID).value

    for given in (Compiled.function, Compiled.address, Compiled()):
        rule = fastlr.rule_from_pointers("added", step_float64=given, step_float32=None)
        assert moved(class_of(rule)) == [2, 2, 2]


def test_a_class_of_the_name_of_another_replaces_its_functions():
    first, second = (fastlr.rule_from_pointers("added", step_float64=added(k), step_float32=None) for k in (1.0, 2.0))
    for rule, result in ((first, 1.0), (second, 2.0)):
        type("Replaced", (fastlr.Optimizer,), {}, rule=rule)
        p = np.zeros(2)
        fastlr.kernels.replaced(p, np.zeros(2), t=1, lr=0.1)
        assert p.tolist() == [result, result]


GOOD = {"slots": ("m",), "hypers": ("rate",), "step_float32": 4096, "step_float64": 4096}
WRONG = [
    ({"step_float32": 0}, ValueError, "step_float32 must not be NULL, got 0"),
    ({"step_float64": STEP()}, ValueError, "step_float64 must not be NULL, got 0"),
    ({"scalars": -1}, ValueError, "scalars must not be NULL, got -1"),
    ({"scalars": 2**64}, ValueError, "scalars must not be NULL, got"),
    ({"scalars": True}, TypeError, "scalars must be an address, a ctypes function or an object with an address, got bool"),
    ({"finish": len}, TypeError, "finish must be an address, a ctypes function or an object with an address, got builtin"),
    ({"step_float32": None, "step_float64": None}, ValueError, "needs step_float32 or step_float64"),
    ({"slots": "abcde"}, TypeError, "slots must be a sequence of names, got 'abcde'; write ('abcde',)"),
    ({"slots": tuple("abcde")}, ValueError, "has 5 slots, at most 4 are possible"),
    ({"hypers": tuple("abcdefghijklm")}, ValueError, "has 13 hypers, at most 12 are possible"),
    ({"sums": tuple("abcde")}, ValueError, "has 5 sums, at most 4 are possible"),
    ({"memory": tuple("abcdefghi")}, ValueError, "has 9 memory, at most 8 are possible"),
    ({"shared": tuple("abcdefghi")}, ValueError, "has 9 shared, at most 8 are possible"),
    ({"slots": ("m", "m")}, ValueError, "slots must be different identifiers, got ('m', 'm')"),
    ({"hypers": ("a b",)}, ValueError, "hypers must be different identifiers, got ('a b',)"),
    ({"hypers": (1,)}, ValueError, "hypers must be different identifiers, got (1,)"),
    ({"nonnegative": ("v",)}, ValueError, "nonnegative names no slot: 'v'; slots are ('m',)"),
    ({"position": ("rate",)}, ValueError, "position names no slot: 'rate'"),
    ({"sums": ("a",)}, ValueError, "needs both sums and terms_float32, or neither"),
    ({"terms_float64": 4096}, ValueError, "needs both sums and terms_float64, or neither"),
    ({"sums": ("a",), "terms_float32": 4096}, ValueError, "needs both sums and terms_float64, or neither"),
    ({"updates_state_while_reducing": True}, ValueError, "updates_state_while_reducing is for a rule with sums"),
]


@pytest.mark.parametrize(("wrong", "error", "says"), WRONG)
def test_what_is_no_rule_is_refused_in_words(wrong, error, says):
    with pytest.raises(error, match="^" + re.escape("rule_from_pointers('nothing'): " + says)):
        fastlr.rule_from_pointers("nothing", **(GOOD | wrong))
    fastlr.rule_from_pointers("nothing", **GOOD)


@pytest.mark.parametrize(("hypers", "body", "says"), [
    (("rate",), {}, "its rule nothing has a hyper-parameter 'rate' that the class does not declare"),
    ((), {"rate": fastlr.within(0.5)}, "declares 'rate', which its rule nothing does not have"),
    (("lr",), {}, "its rule nothing has a hyper-parameter 'lr', which every optimizer has; leave it out of the rule"),
])
def test_a_class_whose_fields_are_not_the_rules_is_refused(hypers, body, says):
    rule = fastlr.rule_from_pointers("nothing", step_float32=4096, hypers=hypers)
    with pytest.raises(TypeError, match=says):
        class_of(rule, **body)
