"""The functions that Cython cimports from `fastlr.kernels`: the bits of the optimizers, by typed memoryviews."""
import json
import re
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from registry import ELEMENTWISE, arrays, bits, every_dtype, every_elementwise, full, operands, other_value

import fastlr

ERRORS = json.loads(Path(__file__).with_name("c_api.json").read_text())["enums"]["fastlr_error"]
LARGE = 70_001                         # elements that two threads share

SETUP = """
import gc
from Cython.Build import cythonize
from setuptools import Extension, setup
import fastlr
gc.disable()                           # (Cython takes half of the time)
setup(name="typed", ext_modules=cythonize([Extension("typed", ["typed.pyx"], include_dirs=[fastlr.get_include()],
                                                     extra_compile_args=["-O0"])]))
"""


def functions(cls):
    """Python functions of a rule's typed one, which they call `steps` times without the GIL: one for each precision.

    AdamW has one that is fused, which Cython compiles for both and chooses between when it is called: that takes longer.
    """
    name = cls.__name__.lower()
    return "".join(re.sub(r"\breal\b", ctype, function(cls, name + suffix)) for ctype, suffix in (
        [("real", "")] if cls is fastlr.AdamW else [("float", "_float32"), ("double", "_float64")]))


def function(cls, own):
    name = cls.__name__.lower()
    slots = [*cls.slots, *["memory"] * bool(cls.memory)]
    given = ["real[::1] p", "const real[::1] g", *(f"real[::1] {slot}" for slot in cls.slots),
             *["double[::1] memory"] * bool(cls.memory), "int64_t t", "int64_t steps",
             *(f"double {hyper}" for hyper in cls.hypers)]
    passed = ["p", "g", *slots, "t + k", *cls.hypers]
    return f"""
def {own}({', '.join(given)}):
    cdef int64_t k
    cdef int error = 0
    with nogil:
        for k in range(steps):
            if error == 0:
                error = kernels.{name}({', '.join(passed)})
    return error
"""


@pytest.fixture(scope="module")
def typed(tmp_path_factory, environment):
    """A module with all of them, built as a user would."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "setup.py").write_text(SETUP)
    (folder / "typed.pyx").write_text("# cython: language_level=3\nfrom libc.stdint cimport int64_t\n"
                                      "from fastlr cimport kernels\nfrom fastlr.rules.element cimport real\n"
                                      + "".join(map(functions, ELEMENTWISE)))
    done = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "-i"], cwd=folder, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    module = import_module("typed")

    def call(cls, p, *arguments):
        name = cls.__name__.lower()
        return getattr(module, name if cls is fastlr.AdamW else f"{name}_{p.dtype}")(p, *arguments)
    yield call
    sys.path.remove(str(folder))


@every_elementwise
@every_dtype
@pytest.mark.parametrize("size", [1, 1003, LARGE])
def test_the_bits_are_those_of_the_optimizer(typed, cls, dtype, size):
    hyper = {name: other_value(bound) for name, bound in cls.hypers.items()}
    (p, g), q = arrays(dtype, [size, size]), arrays(dtype, [size])[0]
    opt = cls([q], **hyper)
    slots = operands(opt)
    for _ in range(3):
        opt.step([g])
    assert typed(cls, p, g, *slots, 1, 3, *full(cls, hyper).values()) == 0
    assert bits([p, *slots]) == bits([q, *operands(opt)])


@every_elementwise
def test_wrong_arrays_are_refused_and_nothing_is_written(typed, cls):
    p, g = arrays(np.float64, [9, 9])
    slots = operands(cls([p.copy()]))
    call, values = partial(typed, cls), full(cls, {}).values()
    before = bits([p, *slots])
    for k in range(1, len(slots) + 2):
        wrong = [g, *slots]
        wrong[k - 1] = np.zeros(len(wrong[k - 1]) - 1)
        assert call(p, *wrong, 1, 1, *values) == ERRORS["FASTLR_BAD_SIZE"]
    assert call(p, p, *slots, 1, 1, *values) == ERRORS["FASTLR_OVERLAP"]
    assert call(p, g, *slots, 0, 1, *values) == ERRORS["FASTLR_BAD_T"]
    assert call(p, g, *slots, 1, 1, -1.0, *list(values)[1:]) == ERRORS["FASTLR_BAD_HYPER"]
    assert bits([p, *slots]) == before
    assert call(p, None, *slots, 1, 1, *values) == ERRORS["FASTLR_BAD_SIZE"]
    assert bits([p, *slots]) == before


def test_no_elements_are_no_step(typed):
    assert typed(fastlr.Adam, *(np.zeros(0) for _ in range(4)), 1, 1, *full(fastlr.Adam, {}).values()) == 0
    assert typed(fastlr.NAdam, *(np.zeros(0) for _ in range(4)), np.zeros(1), 1, 1, *full(fastlr.NAdam, {}).values()) == 0


def test_a_gradient_may_be_read_only(typed):
    p, g, q = (np.ones(5) for _ in range(3))
    g.flags.writeable = False
    fastlr.SGD([q], lr=0.1).step([g])
    assert typed(fastlr.SGD, p, g, 1, 1, 0.1, 0.0) == 0
    assert bits([p]) == bits([q])
