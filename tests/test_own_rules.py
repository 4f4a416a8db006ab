"""Class statements that name a rule of another module: what they take from it, and what is refused in words."""
import ctypes
import itertools
import re
import sys

import numpy as np
import pytest
from registry import arrays, bits, snapshot

import fastlr
from fastlr._engine.instruction_set import load
from fastlr.optimizers.base import REGISTRY
from fastlr.optimizers.declaration import Convention, within

COUNTER = itertools.count()
NAME = b"fastlr.rule"                  # (a capsule does not copy it)


def rules_of(family="_moments"):
    return load(f"fastlr.rules.{family}").RULES


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of another project; `module(text)` writes its `_rules` and gives the name of that."""
    monkeypatch.syspath_prepend(tmp_path)

    def module(text):
        name = f"others{next(COUNTER)}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "_rules.py").write_text(f"from fastlr._engine.instruction_set import load\n{text}\n")
        return f"{name}._rules"

    before = dict(REGISTRY)
    yield module
    REGISTRY.clear()
    REGISTRY.update(before)
    for name in [name for name in sys.modules if name.startswith("others")]:
        del sys.modules[name]


HYPERS = {"beta1": within(0.9, 0, 1), "beta2": within(0.999, 0, 1), "eps": within(1e-8)}
TWINS = "RULES = {'Twin': load('fastlr.rules._moments').RULES['Adam'], " \
        "'TwinHat': load('fastlr.rules._moments').RULES['AdamHat']}"


def statement(name="Twin", body=HYPERS, base=fastlr.Optimizer, **keywords):
    return type(name, (base,), dict(body), **keywords)


@pytest.mark.parametrize("name", ["Twin", "Another"])
def test_a_class_has_all_of_a_rule_elsewhere(package, name, tmp_path):
    module = package(TWINS)
    cls = statement(name, rule=module if name == "Twin" else f"{module}:Twin",
                    conventions={"torch": "Twin", "keras": Convention("TwinHat", "decoupled", eps=1e-7)})
    assert fastlr.list_optimizers(name) == [name.lower()]
    assert (cls.slots, list(cls.hypers)) == (("m", "v"), ["lr", "beta1", "beta2", "eps", "weight_decay"])
    for convention, options in itertools.product(("torch", "keras"), ({}, {"state_dtype": "int8", "clip_norm": 1.0})):
        params, others = arrays(np.float32, [(5000,), (3, 4)]), arrays(np.float32, [(5000,), (3, 4)])
        opt = fastlr.create_optimizer(name, params, convention=convention, **options)
        adam = fastlr.Adam(others, convention=convention, **options)
        for t in range(3):
            for each in (opt, adam):
                each.step(arrays(np.float32, [(5000,), (3, 4)], t))
        assert bits(params) == bits(others)
    fastlr.save(tmp_path / "run", opt)
    again = cls(arrays(np.float32, [(5000,), (3, 4)]), convention=convention, **options)
    fastlr.load(tmp_path / "run", again)
    assert snapshot(again, []) == snapshot(opt, [])
    p, q, m, v = np.ones(3), np.ones(3), *np.zeros((2, 3))
    getattr(fastlr.kernels, name.lower())(p, np.ones(3), m, v, t=1, lr=0.1)
    fastlr.Adam(q, lr=0.1).step(np.ones(3))
    assert bits([p]) == bits([q]) and name.lower() not in fastlr.kernels.__all__


def test_a_module_of_rules_is_imported_at_the_class_statement(package):
    module = package("import nowhere_to_be_found")
    with pytest.raises(ImportError, match=re.escape(f"Twin: rule={module!r} cannot be imported: No module named")):
        statement(rule=module)
    with pytest.raises(ImportError, match=r"Twin: rule='not\.there' cannot be imported"):
        statement(rule="not.there")


def test_fastlrs_own_rules_are_loaded_when_an_optimizer_is_made(environment):
    import subprocess

    code = """
import sys, numpy as np, fastlr
def loaded(): return sorted(name for name in sys.modules if name.startswith("fastlr.rules._"))
print(loaded())
fastlr.Lion(np.ones(2))
print([name for name in loaded() if not name.endswith(("_v3", "_v4"))])
fastlr.kernels.sgd
print([name for name in loaded() if not name.endswith(("_v3", "_v4"))])
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    assert first == "[]" and "_moments" not in second + third
    assert "_sign" in second and "_gradient_descent" not in second and "_gradient_descent" in third


@pytest.mark.parametrize(("text", "keywords", "error", "says"), [
    ("", {}, TypeError, "Twin: rule='{module}': the module has no RULES; build it with fastlr.build.rules_extension"),
    ("RULES = {'Twim': None}", {}, TypeError,
     "Twin: rule='{module}': it has no rule 'Twin'; did you mean 'Twim'?; name one of 'Twim' as rule='{module}:Name'"),
    ("RULES = {'Twin': (1, {})}", {}, ImportError,
     "Twin: rule 'Twin' of {module}: this fastlr cannot read its description, which another version wrote"),
    ("RULES = {'Twin': 5}", {}, ImportError, "rule 'Twin' of {module}: this fastlr cannot read its description"),
    (TWINS + "\nRULES['Twin'] = (1, RULES['Twin'][1])", {}, ImportError,
     "Twin: rule 'Twin' of {module}: expected a capsule named 'fastlr.rule', got 1"),
    (TWINS + "\nRULES['Twin'] = (RULES['Twin'][0], RULES['Twin'][1] | {'slots': ('m',)})", {}, ImportError,
     "rule 'Twin' of {module}: its table says"),
    (TWINS, {"body": {}}, TypeError, "Twin: its rule Twin has a hyper-parameter 'beta1' that the class does not declare"),
    (TWINS, {"body": HYPERS | {"beta3": within(0.5)}}, TypeError, "Twin: declares 'beta3', which its rule Twin does not have"),
    (TWINS, {"conventions": {"a": "Twin", "b": "Nowhere"}}, TypeError, "Twin: fastlr has no rule 'Nowhere'"),
    (TWINS, {"conventions": {"a": "Twin", "b": "SGD"}}, TypeError,
     "Twin, convention 'b': the rule SGD has other hyper-parameters or state than Twin"),
])
def test_what_does_not_fit_is_refused_at_the_class_statement(package, text, keywords, error, says):
    module, before = package(text), dict(REGISTRY)
    with pytest.raises(error, match=re.escape(says.format(module=module))):
        statement(rule=module, **keywords)
    assert before == REGISTRY


def test_a_table_of_another_version_is_refused(package):
    """The first number of a table is its version; this one belongs to the test alone."""
    table = ctypes.create_string_buffer(512)
    ctypes.cast(table, ctypes.POINTER(ctypes.c_uint32))[0] = 99
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    module = package(TWINS)
    __import__(module)
    rules = sys.modules[module].RULES
    rules["Twin"] = new(ctypes.addressof(table), NAME, None), rules["Twin"][1]
    with pytest.raises(ImportError, match=r"Twin: rule 'Twin' of .*: its table is of version 99 .*build it again"):
        statement(rule=module)


@pytest.mark.parametrize(("rule", "says"), [
    (5, "Twin: rule must be the name of a rule, a module of rules, or what rule_from_pointers made, got 5"),
    ("Momentun", "Twin: fastlr has no rule 'Momentun'; did you mean 'Momentum'?; name one of your own by its module, rule='mypkg._rules'"),
])
def test_a_name_that_is_no_rule_is_refused(rule, says):
    with pytest.raises(TypeError, match=re.escape(says)):
        statement(rule=rule)


STEP = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, ctypes.c_ssize_t)


@STEP
def halve(hyper, now, p, g, slots, size):
    """p <- p / 2, whatever the gradient."""
    x = np.ctypeslib.as_array(ctypes.cast(p, ctypes.POINTER(ctypes.c_double)), (size,))
    x *= 0.5


def test_a_rule_of_pointers_moves_parameters_of_its_precision():
    from fastlr.rules.pointers import rule_from_pointers

    before = dict(REGISTRY)
    cls = statement("Halve", {}, rule=rule_from_pointers("halve", step_float32=None, step_float64=halve))
    try:
        p = np.full(3, 8.0)
        opt = cls({"w": p})
        opt.step({"w": np.ones(3)})
        assert p.tolist() == [4, 4, 4]
        with pytest.raises(TypeError, match=r"Halve: params\['w'\]: its rule halve computes in float64 alone"):
            cls({"w": np.ones(3, np.float32)})
        q = np.full(3, 8.0, np.float32)
        cls([q], state_dtype="float64").step([np.ones(3, np.float32)])
        assert q.tolist() == [4, 4, 4]
    finally:
        REGISTRY.clear()
        REGISTRY.update(before)
