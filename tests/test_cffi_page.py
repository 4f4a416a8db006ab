"""docs/cffi.md: its files run in an empty folder, declare what the header has, and have the bits of Python."""
from pathlib import Path

import numpy as np
import pytest
from registry import bits
from test_docs import beside_files_of

import fastlr
from fastlr import schedules

pytest.importorskip("cffi")

PAGE = Path(__file__).parent.parent / "docs" / "cffi.md"


@pytest.fixture
def run(tmp_path, environment):
    return beside_files_of(PAGE, {"fastlr_cffi.py", "program.py"}, tmp_path, environment)


def test_the_program_has_the_bits_of_python(run):
    printed, hexadecimal = run("import program as p\nprint(p.w.tobytes().hex(), p.b.tobytes().hex())").splitlines()
    w, b = np.zeros((2, 3)), np.zeros(2)
    opt = fastlr.AdamW({"w": w, "b": b}, lr=schedules.cosine(0.2, steps=200), clip_norm=1.0, weight_decay=0.0)
    for _ in range(200):
        opt.step({"w": w - [1.0, 2.0, 3.0], "b": b + 0.5})
    assert printed == "200 [1. 2. 3.] [-0.5 -0.5] True"
    assert hexadecimal.split() == [part.hex() for part in bits([w, b])]


def test_all_of_the_header_is_declared(run):
    printed = run("from fastlr_cffi import ffi, lr, names\n"
                  "print(ffi.sizeof('fastlr_api') == lr.struct_size, names.FASTLR_BAD_STRUCT, lr.abi_version, "
                  "ffi.string(lr.version).decode(), ffi.sizeof('fastlr_tensor'), ffi.sizeof('fastlr_step_scalars'))")
    assert printed == f"True 16 1 {fastlr.__version__} 64 120\n"


SGD = """
import numpy as np
from fastlr_cffi import check, ffi, lr, made, names
plan, w = lr.plan_new(b"sgd"), np.ones(3)
shape, given = ffi.new("int64_t[]", [3]), ffi.new("const void *[]", [ffi.from_buffer(w)])
"""


@pytest.mark.parametrize(("code", "error"), [
    ("check(plan, lr.plan_build(plan))", "no tensors; call plan_add"),
    ("check(plan, lr.plan_step(plan, given, ffi.NULL))", "plan_step: call plan_build first"),
    ("check(plan, lr.plan_add(plan, made('fastlr_tensor', ndim=1, shape=shape)))", "plan_add: dtype must be"),
    ("check(plan, lr.plan_add(plan, ffi.NULL))", "plan_add: tensor must not be NULL"),
    ("check(plan, lr.plan_add(plan, made('fastlr_tensor', dtype=names.FASTLR_FLOAT64, ndim=1, shape=shape, "
     "data=ffi.from_buffer(w))))\ncheck(plan, lr.plan_build(plan))\ncheck(plan, lr.plan_step(plan, given, ffi.NULL))",
     "gradient 0 shares memory with a parameter or its state"),
    ("lr.plan_free(plan)\ncheck(plan, lr.plan_free(plan))", "this plan was freed, or never was one"),
])
def test_what_is_wrong_is_an_error_in_words(run, code, error):
    assert error in run(SGD + code, fails=True)
