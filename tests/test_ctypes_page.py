"""docs/ctypes.md: its files run in an empty folder, and have the bits of Python."""
from pathlib import Path

import numpy as np
import pytest
from registry import bits
from test_docs import beside_files_of

import fastlr
from fastlr import schedules
from fastlr.constraints import nonnegative

PAGE = Path(__file__).parent.parent / "docs" / "ctypes.md"


@pytest.fixture
def run(tmp_path, environment):
    return beside_files_of(PAGE, {"fastlr_plans.py", "program.py"}, tmp_path, environment)


def test_the_program_has_the_bits_of_python(run):
    printed, hexadecimal = run("import program\nprint(bytes(program.w).hex(), bytes(program.b).hex())").splitlines()
    w, b = np.zeros(3), np.zeros(())
    opt = fastlr.AdamW([w, b], lr=schedules.cosine(0.2, steps=200).warmup(10), weight_decay=0.0, constraint=nonnegative())
    for _ in range(210):
        opt.step([w - [1.0, 2.0, -3.0], b - 0.5])
    assert printed == "[1.0, 2.0, 0.0] 0.5"
    assert hexadecimal.split() == [part.hex() for part in bits([w, b])]


PLAN = "from fastlr_plans import Plan, c_double, table\nimport ctypes\nw, g = (c_double * 3)(), (c_double * 3)(1, 1, 1)\n"


@pytest.mark.parametrize(("code", "error"), [
    ("Plan('adamv')", "ValueError: plan_new: no optimizer 'adamv'; did you mean 'adam"),
    ("p = Plan('adamw', lrate=1)\np.add(w, 3)\np.build()", "unknown keyword 'lrate'"),
    ("p = Plan('sgd')\np.add(w, 3)\np.step(g)", "plan_step: call plan_build first"),
    ("p = Plan('sgd')\np.add(w, 3)\np.build()\np.step(w)", "gradient 0 shares memory with a parameter or its state"),
    ("p = Plan('sgd')\np.add(w, 3)\np.build()\np.set('lr', -1)", "lr must be in [0, inf), got -1"),
    ("p = Plan('sgd')\np.add(w, 3)\np.build()\np.free()\np.step(g)", "this plan was freed, or never was one"),
])
def test_what_is_wrong_is_an_error_in_words(run, code, error):
    assert error in run(PLAN + code, fails=True)


def test_numbers_are_set_and_a_tensor_without_a_gradient_stays(run):
    code = "p = Plan('sgd', lr=1)\np.add(w, 3)\np.add(g, 3)\np.build()\np.set('lr', 0.5)\np.step((c_double * 3)(2, 4, 6), None)\n"
    assert run(PLAN + code + "print(list(w), list(g))") == "[-1.0, -2.0, -3.0] [1.0, 1.0, 1.0]\n"


def test_an_older_fastlr_is_refused(run):
    text = run("import ctypes, fastlr\n"
               "get = ctypes.pythonapi.PyCapsule_GetPointer\n"
               "get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]\n"
               "table = (ctypes.c_char * 400)()\n"
               "ctypes.memmove(table, get(fastlr._C_API, b'fastlr._C_API'), 16)\n"
               "ctypes.cast(table, ctypes.POINTER(ctypes.c_uint32))[1] = 64\n"
               "new = ctypes.pythonapi.PyCapsule_New\n"
               "new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]\n"
               "fastlr._C_API = new(ctypes.addressof(table), b'fastlr._C_API', None)\n"
               "import fastlr_plans", fails=True)
    assert f"ImportError: fastlr {fastlr.__version__} lacks entries that are named here; install a newer one" in text
