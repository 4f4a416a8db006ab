"""fastlr inside other people's programs: Cython that cimports its rules, C through its header, ctypes."""
import ctypes
import gc
import inspect
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest
from registry import ELEMENTWISE, arrays, bits, every_dtype, every_elementwise, full, operands, other_value

import fastlr
from fastlr import schedules
from fastlr._engine.compiled_schedule import CompiledSchedule

HEADER = Path(fastlr.get_include()) / "fastlr" / "fastlr.h"
FROZEN = json.loads(Path(__file__).with_name("c_api.json").read_text())
DTYPE = {np.float32: 0x0220, np.float64: 0x0240}
LARGE = 3 * 32768 + 17                 # elements that several threads share


def declared(header):
    """The structs (fields in order) and enums (values by name) of a header."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.S)
    structs = {
        name: [" ".join(field.split()) for field in body.split(";") if field.strip()]
        for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \w+;", text, flags=re.S)
    }
    enums = {
        name: {entry.split("=")[0].strip(): int(entry.split("=")[1], 0) for entry in body.split(",")}
        for name, body in re.findall(r"enum (\w+) \{(.*?)\};", text, flags=re.S)
    }
    version = int(re.search(r"FASTLR_ABI_VERSION (\d+)u", text)[1])
    return {"version": version, "structs": structs, "enums": enums}


def keeps(now, frozen):
    """Whether what was frozen stands where it stood, with nothing before or between."""
    structs, enums = now["structs"], now["enums"]
    return (
        now["version"] == frozen["version"]
        and all(structs.get(name, [])[:len(fields)] == fields for name, fields in frozen["structs"].items())
        and all(values.items() <= enums.get(name, {}).items() for name, values in frozen["enums"].items())
    )


# The table stays as it is

def test_the_table_only_grows():
    assert keeps(declared(HEADER.read_text()), FROZEN), "tests/c_api.json is what others compiled"
    assert set(FROZEN["structs"]) == {
        "fastlr_api", "fastlr_rule", "fastlr_step_scalars", "fastlr_tensor", "fastlr_step_options", "fastlr_array",
        "fastlr_plan_info"}
    assert len(FROZEN["structs"]["fastlr_api"]) >= 28


@pytest.mark.parametrize(("old", "new", "allowed"), [
    ("} fastlr_api;", "    int (*more)(void);\n} fastlr_api;", True),
    ("} fastlr_rule;", "    double more;\n} fastlr_rule;", True),
    ("FASTLR_BAD_STRUCT = 16 ", "FASTLR_BAD_STRUCT = 16,\n    FASTLR_MORE = 17 ", True),
    ("} fastlr_tensor;", "    double more;\n} fastlr_tensor;", True),
    ("    const char *version;", "    int more;\n    const char *version;", False),
    ("    int (*start_threads)(void);", "", False),
    ("int64_t t, double lr", "double lr, int64_t t", False),
    ("    int slots;", "    int64_t slots;", False),
    ("    double grad_scale; ", "    float grad_scale; ", False),
    ("FASTLR_OVERLAP = 7", "FASTLR_OVERLAP = 9", False),
    ("FASTLR_ABI_VERSION 1u", "FASTLR_ABI_VERSION 2u", False),
])
def test_appending_is_all_that_the_frozen_table_allows(old, new, allowed):
    header = HEADER.read_text()
    assert header.count(old) == 1
    assert keeps(declared(header.replace(old, new)), FROZEN) is allowed


@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c++", "c++11")])
def test_the_header_is_plain_c_and_cpp_without_python(tmp_path, compiler, language, standard):
    if language == "c++" and shutil.which("c++"):
        compiler = ["c++"]
    source = tmp_path / "include.c"
    source.write_text("#include <fastlr/fastlr.h>\n#include <fastlr/fastlr.h>\n"
                      "int size(void);\nint size(void) { return (int)sizeof(fastlr_api); }\n")
    flags = ["-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    done = subprocess.run([*compiler, *flags, f"-I{fastlr.get_include()}", str(source)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


IMPORTS = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <fastlr/fastlr.h>
PyObject *import(void);
PyObject *import(void)
{
    const fastlr_api *api = fastlr_import();
    return api == NULL ? NULL : PyLong_FromUnsignedLong(api->struct_size);
}
"""


def test_a_table_that_is_not_the_headers_is_refused(tmp_path, compiler, monkeypatch):
    (tmp_path / "imports.c").write_text(IMPORTS)
    done = subprocess.run([*compiler, "-shared", "-fPIC", "-Wall", "-Werror", f"-I{fastlr.get_include()}",
                           f"-I{sysconfig.get_path('include')}", "-o", "imports.so", "imports.c"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = ctypes.PyDLL(str(tmp_path / "imports.so"))["import"]
    own.restype, own.argtypes = ctypes.py_object, []
    size = own()
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    table = ctypes.create_string_buffer(size)
    ctypes.memmove(table, address(fastlr._C_API, b"fastlr._C_API"), size)
    numbers = ctypes.cast(table, ctypes.POINTER(ctypes.c_uint32))
    monkeypatch.setattr(fastlr, "_C_API", capsule(ctypes.addressof(table), b"fastlr._C_API", None))
    numbers[1] = size + 80                 # (of a newer fastlr, whose table has more entries)
    assert own() == size + 80
    for version, bytes_ in ((1, size - 8), (2, size), (0, size)):
        numbers[0], numbers[1] = version, bytes_
        with pytest.raises(ImportError, match=f"fastlr {fastlr.__version__} has table {version} of {bytes_} bytes, this module "
                                              f"was compiled for table 1 of {size} bytes: compile it again, or install"):
            own()
    monkeypatch.setattr(fastlr, "_C_API", None)
    with pytest.raises(AttributeError, match="fastlr._C_API"):
        own()


# Cython: a loop of one's own

@every_dtype
def test_a_loop_of_ones_own_gives_the_optimizers_bits(stranger, dtype):
    p, m, v = arrays(dtype, [1003])[0], np.zeros(1003, dtype), np.zeros(1003, dtype)
    gradients = np.stack(arrays(dtype, [1003] * 20, seed=1))
    q = p.copy()
    opt = fastlr.AdamW([q], lr=0.01, weight_decay=0.1)
    for g in gradients:
        opt.step([g])
    stranger.loop.train(p, gradients, m, v, 0.01, 0.9, 0.999, 1e-8, 0.1)
    assert bits([p, m, v]) == bits([q, *operands(opt)])


# C: the table

def test_the_table_says_what_it_is(stranger):
    version, size, release = stranger.extension.table()
    assert version == FROZEN["version"]
    assert size == 8 + (len(FROZEN["structs"]["fastlr_api"]) - 2) * ctypes.sizeof(ctypes.c_void_p)
    assert release == fastlr.__version__


@every_elementwise
def test_a_rule_says_what_its_class_declares(stranger, cls):
    name, slots, starts, hypers = stranger.extension.describe(cls.__name__.lower())
    assert name == cls.__name__.lower()
    assert tuple(slots) == cls.slots
    opt = cls([np.ones(1)])
    assert starts == [float(opt.state["0"][slot][0]) for slot in cls.slots]
    assert {row[0]: row[1:] for row in hypers} == {
        name: (bound.default, bound.low, bound.high) for name, bound in cls.hypers.items() if name != "lr"}


def test_there_is_no_other_rule(stranger):
    assert stranger.extension.describe("Adam") is None
    assert stranger.extension.describe("adamx") is None
    assert stranger.extension.describe("") is None


@every_elementwise
@every_dtype
def test_steps_in_a_foreign_thread_give_the_optimizers_bits(stranger, cls, dtype):
    fastlr.set_num_threads(3)
    assert stranger.extension.start_threads() == 2
    hyper = {name: other_value(bound) for name, bound in cls.hypers.items()}
    rule = stranger.extension.describe(cls.__name__.lower())
    values = np.array([hyper[row[0]] for row in rule[3]])
    for size in (1, 777, LARGE):
        (p, g), q = arrays(dtype, [size, size]), arrays(dtype, [size])[0]
        opt = cls([q], **hyper)
        slots = operands(opt)
        for _ in range(5):
            opt.step([g])
        for t, steps in ((1, 2), (3, 3)):
            assert stranger.extension.steps(
                rule[0], DTYPE[dtype], t, steps, hyper["lr"], values, (p, g, *slots)) == 0
        assert bits([p, *slots]) == bits([q, *operands(opt)]), size


@every_elementwise
def test_no_hyper_parameters_are_the_defaults(stranger, cls):
    (p, g), q = arrays(np.float64, [9, 9]), arrays(np.float64, [9])[0]
    opt = cls([q])
    slots = operands(opt)
    opt.step([g])
    lr = full(cls, {})["lr"]
    assert stranger.extension.steps(cls.__name__.lower(), 0x0240, 1, 1, lr, None, (p, g, *slots)) == 0
    assert bits([p, *slots]) == bits([q, *operands(opt)])


def refused():
    """Calls of adam's step() that must fail: what differs from a good call, and the error."""
    n = 8
    memory = np.zeros(4 * n + 1)
    shifted = memory.view(np.uint8)[4:4 + 8 * n].view(np.float64)
    good = [np.ones(n) for _ in range(4)]
    return [
        ({"name": "nothing"}, "NO_RULE"), ({"dtype": 0}, "BAD_DTYPE"), ({"dtype": 0x0210}, "BAD_DTYPE"),
        ({"t": 0}, "BAD_T"), ({"t": -1}, "BAD_T"), ({"t": 2**62}, "BAD_T"),
        *(({"lr": lr}, "BAD_HYPER") for lr in (-1.0, nan, inf)),
        *(({"hyper": np.array(h)}, "BAD_HYPER") for h in ([0, 1, 0.9, 0], [0, -1, 0.9, 0], [0, nan, 0.9, 0])),
        ({"arrays": (*good[:3], shifted)}, "BAD_POINTER"), ({"arrays": (shifted, *good[1:])}, "BAD_POINTER"),
        ({"arrays": (good[0], good[0], *good[2:])}, "OVERLAP"), ({"arrays": (*good[:3], good[2])}, "OVERLAP"),
        ({"arrays": (memory[:n], memory[n - 1:2 * n - 1], *good[2:])}, "OVERLAP"),
    ]


@pytest.mark.parametrize(("wrong", "error"), refused())
def test_a_wrong_call_is_refused_and_writes_nothing(stranger, wrong, error):
    call = {"name": "adam", "dtype": 0x0240, "t": 1, "steps": 1, "lr": 0.1, "hyper": None,
            "arrays": tuple(np.ones(8) for _ in range(4))} | wrong
    before = bits(call["arrays"])
    code = stranger.extension.steps(*call.values())
    assert code == FROZEN["enums"]["fastlr_error"][f"FASTLR_{error}"]
    assert bits(call["arrays"]) == before


def test_every_error_has_its_words(stranger):
    codes = FROZEN["enums"]["fastlr_error"].values()
    words = [stranger.extension.message(code) for code in codes]
    assert len(set(words)) == len(words)
    assert "unknown error" not in words
    assert stranger.extension.message(99) == stranger.extension.message(-1) == "unknown error"
    assert stranger.extension.message(0) == "done"


def test_schedules_give_their_rates_to_c(stranger):
    s = (schedules.cosine(1e-3, steps=50).warmup(10) * 0.5).every(2)
    assert stranger.extension.rates(s, 150) == s(np.arange(150)).tolist()
    ends = schedules.linear(1.0, steps=3, end="error")
    rates = stranger.extension.rates(ends, 6)
    assert rates[:4] == [ends(t) for t in range(4)]
    assert all(isnan(rate) for rate in rates[4:])
    with pytest.raises(TypeError, match=r"expected a schedule of fastlr\.schedules, got 0\.1"):
        stranger.extension.rates(0.1, 3)


@pytest.mark.parametrize(("field", "change", "accepted"), [
    ("struct_size", 0, True), ("struct_size", 8, True), ("struct_size", -8, False), ("abi_version", 1, False),
])
def test_an_imported_table_has_all_that_was_compiled_for(stranger, monkeypatch, field, change, accepted):
    table = Table.from_buffer_copy(reach())
    setattr(table, field, getattr(table, field) + change)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    monkeypatch.setattr(fastlr, "_C_API", new(ctypes.addressof(table), b"fastlr._C_API", None))
    if accepted:
        stranger.extension.import_again()
    else:
        with pytest.raises(ImportError, match="compile it again, or install a newer fastlr"):
            stranger.extension.import_again()


def test_a_package_without_a_table_is_not_mistaken_for_one(stranger, monkeypatch):
    monkeypatch.delattr(fastlr, "_C_API", raising=False)
    monkeypatch.delitem(fastlr._LATER, "_C_API")
    with pytest.raises(AttributeError, match="_C_API"):
        stranger.extension.import_again()


# ctypes: no compiler at all

class Rule(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("slots", ctypes.c_int), ("hypers", ctypes.c_int),
                ("slot_names", ctypes.POINTER(ctypes.c_char_p)), ("hyper_names", ctypes.POINTER(ctypes.c_char_p))]


def function(result, *arguments):
    return ctypes.CFUNCTYPE(result, *arguments)              # (releases the GIL around each call)


class Table(ctypes.Structure):
    _fields_ = [
        ("abi_version", ctypes.c_uint32),
        ("struct_size", ctypes.c_uint32),
        ("version", ctypes.c_char_p),
        ("rule", function(ctypes.POINTER(Rule), ctypes.c_char_p)),
        ("step", function(ctypes.c_int, ctypes.POINTER(Rule), ctypes.c_int, ctypes.c_int64, ctypes.c_double,
                          ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 3)),
        ("message", function(ctypes.c_char_p, ctypes.c_int)),
        ("start_threads", ctypes.PYFUNCTYPE(ctypes.c_int)),
        ("schedule", ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)),
        ("rate", function(ctypes.c_double, ctypes.c_void_p, ctypes.c_double)),
    ]


def reach():
    """The table in the capsule."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return Table.from_address(get(fastlr._C_API, b"fastlr._C_API"))


@every_elementwise
@every_dtype
def test_ctypes_steps_through_the_capsule(cls, dtype):
    table = reach()
    rule = table.rule(cls.__name__.lower().encode())
    (p, g), q = arrays(dtype, [LARGE, LARGE]), arrays(dtype, [LARGE])[0]
    opt = cls([q], lr=0.05)
    slots = operands(opt)
    assert [rule.contents.slot_names[k].decode() for k in range(rule.contents.slots)] == list(cls.slots)
    pointers = (ctypes.c_void_p * 5)(*(slot.ctypes.data for slot in slots))
    given = (LARGE, p.ctypes.data, g.ctypes.data, pointers)
    for t in (1, 2):
        opt.step([g])
        assert table.step(rule, DTYPE[dtype], t, 0.05, None, *given) == 0
    assert bits([p, *slots]) == bits([q, *operands(opt)])


def test_what_only_a_pointer_can_be_wrong():
    table = reach()
    errors = FROZEN["enums"]["fastlr_error"]
    p, g = arrays(np.float64, [5, 5])
    adam, sgd = table.rule(b"adam"), table.rule(b"sgd")
    before = bits([p])

    def step(rule, n, p, g, slots):
        return table.step(rule, 0x0240, 1, 0.1, None, n, p, g, slots)

    assert not table.rule(None)
    assert step(adam, 5, p.ctypes.data, g.ctypes.data, None) == errors["FASTLR_BAD_POINTER"]
    assert step(sgd, 5, None, g.ctypes.data, None) == errors["FASTLR_BAD_POINTER"]
    assert step(sgd, 5, p.ctypes.data, None, None) == errors["FASTLR_BAD_POINTER"]
    assert step(sgd, -1, p.ctypes.data, g.ctypes.data, None) == errors["FASTLR_BAD_SIZE"]
    assert step(sgd, 2**61, p.ctypes.data, g.ctypes.data, None) == errors["FASTLR_BAD_SIZE"]
    assert bits([p]) == before
    assert step(adam, 0, None, None, None) == 0              # no element, no pointer needed
    assert step(sgd, 5, p.ctypes.data, g.ctypes.data, None) == 0
    assert bits([p]) != before


def test_ctypes_evaluates_a_schedule():
    table = reach()
    s = schedules.cosine(1e-3, steps=10)
    borrowed = table.schedule(s)
    gc.collect()
    assert [table.rate(borrowed, t) for t in range(12)] == s(np.arange(12)).tolist()
    assert isnan(table.rate(borrowed, -1))
    assert isnan(table.rate(borrowed, nan))
    assert isnan(table.rate(None, 1))
    for none in (lambda t: 0.1, CompiledSchedule()):
        with pytest.raises(TypeError, match="expected a schedule"):
            table.schedule(none)


def test_every_elementwise_rule_is_in_the_table():
    table = reach()
    assert [cls for cls in ELEMENTWISE if not table.rule(cls.__name__.lower().encode())] == []


@every_elementwise
def test_hyper_parameters_have_one_order_everywhere(cls):
    name = cls.__name__.lower()
    rule = reach().rule(name.encode()).contents
    in_c = [rule.hyper_names[k].decode() for k in range(rule.hypers)]
    in_class = [key for key in inspect.signature(cls).parameters if key in cls.hypers]
    in_kernels = [key for key in getattr(fastlr.kernels, name).__signature__.parameters if key in cls.hypers]
    assert ["lr", *in_c] == in_kernels == in_class


def test_importing_the_table_imports_fastlr(stranger, environment):
    code = "import sys; sys.path.append(sys.argv[1]); import own_extension; " \
           "print('fastlr' in sys.modules, own_extension.table()[0])"
    done = subprocess.run([sys.executable, "-c", code, str(Path(stranger.extension.__file__).parent)], env=environment,
                          capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["True", str(FROZEN["version"])], "")
