"""Rules of other packages, in Cython, in C by pointers and by numba: all that fastlr's own rules have, bit for bit."""
import ctypes
import functools
import hashlib
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from registry import arrays, bits, operands
from test_embedding import DTYPE, HEADER, declared, reach

import fastlr
from fastlr import schedules
from fastlr.build import compile_flags
from fastlr.build_rules import MAX_SCALARS, STRUCT, members
from fastlr.optimizers.base import REGISTRY

HERE = Path(__file__).parent
LARGE = 70_001                         # elements that two threads share
SHAPES = [(LARGE,), (13, 37), (), (0,)]
NAMES = ("a", "b", "c", "d")

# By the name of each class of theirs, ours that has the same formula.
TWINS = {"HeavyBall": fastlr.Momentum, "Layerwise": fastlr.LARS, "HeavyBallInC": fastlr.Momentum,
         "LayerwiseInC": fastlr.LARS, "HeavyBallInNumba": fastlr.Momentum}
MODULES = {"HeavyBall": "mypkg", "Layerwise": "mypkg", "HeavyBallInC": "c_optimizers", "LayerwiseInC": "c_optimizers",
           "HeavyBallInNumba": "numba_optimizers"}
every_twin = pytest.mark.parametrize("name", TWINS)
every_elementwise_twin = pytest.mark.parametrize("name", [name for name, cls in TWINS.items() if not cls.reduces])


@pytest.fixture(scope="session")
def stranger_pointers(tmp_path_factory, compiler):
    """The folder of tests/stranger_pointers, whose C is compiled into a library as a user would."""
    folder = tmp_path_factory.mktemp("stranger_pointers") / "project"
    shutil.copytree(HERE / "stranger_pointers", folder)
    command = [*compiler, *compile_flags(), "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
               f"-I{fastlr.get_include()}", "rules.c", "-o", "librules.so", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def others(stranger_rules, stranger_pointers):
    """Where their modules can be imported; what they register is forgotten, as other tests count that."""
    before, folders = dict(REGISTRY), [str(stranger_rules), str(stranger_pointers)]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.fixture
def theirs(others, name):
    if "Numba" in name:
        pytest.importorskip("numba")
    return getattr(importlib.import_module(MODULES[name]), name)


@pytest.fixture
def ours(name):
    return TWINS[name]


def precisions(name):
    return (np.float32,) if "Numba" in name else (np.float32, np.float64)


# How arrays are stored, what stands before and after the rule, and how memory is laid out

PARAMETERS = {
    "float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16,
    "split": ml_dtypes.bfloat16, "shadow": np.float32,
}
BESIDE = {"split": {"master": "split"}, "shadow": {"shadow": "bfloat16"}}
STORAGES = {
    "as computed": {}, "float64": {"state_dtype": "float64"}, "float16": {"state_dtype": "float16"},
    "bfloat16": {"state_dtype": "bfloat16"}, "int8": {"state_dtype": "int8"},
    "stochastic": {"state_dtype": "bfloat16", "rounding": "stochastic", "seed": 7},
}
STAGES = {
    "plain": {}, "clip_value": {"clip_value": 0.5}, "clip_norm": {"clip_norm": 1.0},
    "clip_tensor_norm": {"clip_tensor_norm": 1.0}, "clip_adaptive": {"clip_adaptive": 0.1},
    "maximize": {"maximize": True}, "ema": {"ema_decay": 0.9}, "nonfinite": {"nonfinite": "skip"},
    "coupled": {"decay": "coupled", "weight_decay": 0.1}, "decoupled": {"decay": "decoupled", "weight_decay": 0.1},
    "independent": {"decay": "independent", "weight_decay": 0.01},
    "corrected": {"decay": "corrected", "weight_decay": 0.1, "lr_max": 0.2},
    "mask": {"decay": "decoupled", "weight_decay": 0.1, "decay_mask": lambda name, array: name == "a"},
    "factor": {"lr_scale": {"a": 0.5, "b": 2.0}},
    "factors": {"lr_scale": {"b": np.linspace(0.5, 2, 13 * 37).reshape(13, 37)}},
    "schedules": {"lr": schedules.cosine(0.1, steps=20).warmup(3), "momentum": lambda t: 0.5 + 0.01 * t},
    "all": {"clip_value": 2.0, "clip_norm": 50.0, "maximize": True, "ema_decay": 0.5, "nonfinite": "skip",
            "decay": "decoupled", "weight_decay": 0.1, "lr": schedules.exponential(0.1, 0.1)},
}
LAYOUTS = {"rows": np.ascontiguousarray, "columns": np.asfortranarray,
           "strided": lambda array: np.repeat(array[..., None], 2, -1)[..., 0]}


def laid(values, dtype, layout):
    """These numbers as a parameter or a gradient."""
    array = values.astype(dtype)
    return LAYOUTS[layout](array) if array.ndim else array


def started(cls, kind, layout="rows", **keywords):
    """Parameters, and an optimizer of them."""
    params = {name: laid(array, PARAMETERS[kind], layout)
              for name, array in zip(NAMES, arrays(np.float64, SHAPES), strict=True)}
    return params, cls(params, **({"lr": 0.1} | BESIDE.get(kind, {}) | keywords))


def gradients(kind, t, layout="rows", bad=False):
    """Those of step t; one of the second step is infinite if it is to be a bad one."""
    dtype = np.float64 if kind == "float64" else np.float32
    grads = {name: laid(array, dtype, layout) for name, array in zip(NAMES, arrays(np.float64, SHAPES, 10 + t), strict=True)}
    if bad and t == 1:
        grads["b"][3, 5] = np.inf
    return grads


def left(opt, params):
    """All that steps have left: a digest of all arrays, and the numbers."""
    kept = [params, *opt.state.values(), *(getattr(opt, what, {}) for what in ("ema", "shadow", "master"))]
    digest = hashlib.blake2b(b"".join(each for mapping in kept for each in bits(mapping.values())))
    return digest.hexdigest(), opt.t, opt.skipped, opt.grad_norm


def trained(cls, kind, stage, storage, layout="rows", threads=1):
    """All that three steps leave, or in which words they are refused."""
    fastlr.set_num_threads(threads)
    try:
        params, opt = started(cls, kind, layout, **STORAGES[storage], **STAGES[stage])
        for t in range(3):
            opt.step(gradients(kind, t, layout, stage in ("nonfinite", "all")), grad_scale=2.0)
    except (TypeError, ValueError) as error:
        return str(error).replace(cls.__name__, "")
    return left(opt, params)


known = functools.lru_cache(maxsize=None)(trained)


@every_twin
@pytest.mark.parametrize("kind", PARAMETERS)
def test_all_storages_and_stages_give_the_bits_of_fastlrs_own_rule(theirs, ours, name, kind):
    if PARAMETERS[kind] == np.float64 and np.float64 not in precisions(name):
        return
    turns = itertools.cycle([("columns", 2), ("strided", 2), ("rows", 1)])
    refused = 0
    for storage, stage in itertools.product(STORAGES, STAGES):
        if storage == "float64" and np.float64 not in precisions(name):
            continue
        want = known(ours, kind, stage, storage)
        assert trained(theirs, kind, stage, storage, *next(turns)) == want, (storage, stage)
        refused += isinstance(want, str)
    assert refused <= len(STORAGES) * (1 + (kind == "split") * 2), want


@every_twin
@pytest.mark.parametrize("way", ["dict", "file"])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_run_that_is_resumed_goes_on_bit_for_bit(theirs, name, way, storage, tmp_path):
    kind, stages = "bfloat16" if storage == "stochastic" else "float32", STAGES["all"] | STORAGES[storage]
    if storage == "float64" and np.float64 not in precisions(name):
        return
    params, whole = started(theirs, kind, **stages)
    for t in range(4):
        whole.step(gradients(kind, t))
    others, opt = started(theirs, kind, **stages)
    for t in range(2):
        opt.step(gradients(kind, t))
    again = {key: p.copy() for key, p in others.items()}
    resumed = theirs(again, **({"lr": 0.1} | stages))
    if way == "dict":
        resumed.load_state_dict(opt.state_dict())
    else:
        fastlr.save(tmp_path / "run", opt)
        for p in again.values():
            p[...] = 0
        fastlr.load(tmp_path / "run", resumed)
    for t in (2, 3):
        resumed.step(gradients(kind, t))
    assert left(resumed, again) == left(whole, params)


@every_elementwise_twin
@pytest.mark.parametrize("storage", ["as computed", "bfloat16", "int8", "stochastic"])
def test_rows_and_accumulated_gradients_move_as_fastlrs_own(theirs, ours, name, storage):
    found = []
    rows, grads = np.array([7, 3, 7, 12, 0]), arrays(np.float32, [(5, 64)], 3)[0]
    for cls in (theirs, ours):
        p, = arrays(np.float32, [(40, 64)])
        opt = cls({"table": p}, lr=0.1, **STORAGES[storage])
        for _ in range(3):
            opt.step_rows("table", rows, grads)
        if theirs.accumulation is not None:
            opt.accumulate({"table": arrays(np.float32, [(40, 64)], 4)[0]}, grad_scale=2)
        opt.step({"table": arrays(np.float32, [(40, 64)], 5)[0]}, grad_scale=2)
        found.append(left(opt, {"table": p}))
    assert found[0] == found[1]


@every_elementwise_twin
def test_the_functional_and_the_c_interface_have_the_rule(theirs, ours, name):
    kernel = getattr(fastlr.kernels, name.lower())
    assert name.lower() not in fastlr.kernels.__all__
    table = reach()
    rule = table.rule(name.lower().encode())
    assert [rule.contents.slot_names[k].decode() for k in range(rule.contents.slots)] == ["m"]
    for dtype in (np.float32, np.float64):
        p, q, r, g = (x.copy() for x in [*arrays(dtype, [(LARGE,)]) * 3, *arrays(dtype, [(LARGE,)], 1)])
        if dtype not in precisions(name):
            with pytest.raises(TypeError, match=f"{name.lower()}: p: the rule computes in float32 alone"):
                kernel(p, g, np.zeros_like(p), t=1, lr=0.1)
            pointers = (ctypes.c_void_p * 1)(g.ctypes.data)
            assert table.step(rule, DTYPE[dtype], 1, 0.1, None, LARGE, p.ctypes.data, g.ctypes.data, pointers) == 2
            continue
        opt = ours([r], lr=0.1, momentum=0.5)
        m, n = np.zeros_like(p), np.zeros_like(p)
        hyper = (ctypes.c_double * rule.contents.hypers)()
        for k in range(rule.contents.hypers):
            hyper[k] = 0.0
        hyper[[field for field in theirs.hypers if field != "lr"].index("momentum")] = 0.5
        for t in (1, 2):
            opt.step([g])
            kernel(p, g, m, t=t, lr=0.1, momentum=0.5)
            slots = (ctypes.c_void_p * 1)(n.ctypes.data)
            assert table.step(rule, DTYPE[dtype], t, 0.1, ctypes.addressof(hyper), LARGE, q.ctypes.data,
                              g.ctypes.data, slots) == 0
        assert bits([p, m]) == bits([q, n]) == bits([r, *operands(opt)])


@every_twin
def test_a_class_of_theirs_is_one_of_the_registry(theirs, ours, name):
    assert fastlr.list_optimizers(f"{name}*")[0] == name.lower()
    opt = fastlr.create_optimizer(name.lower(), [np.ones(3, np.float32)], lr=0.5)
    assert type(opt) is theirs and repr(opt).startswith(f"{name}(lr=0.5; ")
    assert (theirs.slots, theirs.reduces, theirs.depends_on_param) == (ours.slots, ours.reduces, ours.depends_on_param)
    assert list(theirs.hypers) == list(ours.hypers)


def heavyball_by_hand(p, grads, lr, momentum, dampening):
    """The paper's formula in the precision of p, by NumPy."""
    kind, m = p.dtype.type, np.zeros_like(p)
    for t, g in enumerate(grads):
        m = kind(momentum) * m + kind(1 - dampening * (t > 0)) * g
        p = p - kind(lr) * m
    return p, m


def layerwise_by_hand(p, grads, lr, momentum, trust):
    """Likewise, of at most 256 elements: sums in sixteen lanes, in doubles."""
    def norm(x):
        lanes = np.zeros(16)
        for part in (x.astype(np.float64)**2).reshape(-1, 16):
            lanes = lanes + part
        while lanes.size > 4:
            lanes = lanes[:lanes.size // 2] + lanes[lanes.size // 2:]
        return np.sqrt((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]))
    kind, m = p.dtype.type, np.zeros_like(p)
    for g in grads:
        m = kind(momentum) * m + kind(lr * (trust * norm(p) / norm(g))) * g
        p = p - m
    return p, m


@every_twin
def test_the_formula_is_that_of_numpy_bit_for_bit(theirs, name):
    for dtype in precisions(name):
        p, = arrays(dtype, [(240,)])
        grads = [arrays(dtype, [(240,)], 1 + t)[0] for t in range(5)]
        if theirs.reduces:
            want = layerwise_by_hand(p, grads, 0.1, 0.9, 0.02)
            opt = theirs([p], lr=0.1, momentum=0.9, trust_coefficient=0.02)
        else:
            want = heavyball_by_hand(p, grads, 0.1, 0.9, 0.25)
            opt = theirs([p], lr=0.1, momentum=0.9, dampening=0.25)
        for g in grads:
            opt.step([g])
        assert bits([p, opt.state["0"]["m"]]) == bits(want)


def test_the_header_declares_the_scalars_that_rules_have(stranger_pointers):
    library = ctypes.CDLL(str(stranger_pointers / "librules.so"))
    text = (Path(fastlr.__file__).parent / "rules" / "scalars.pxd").read_text()
    fields = [name for _, name in members(next(m[2] for m in STRUCT.finditer(text) if m[1] == "StepScalars"))]
    declared_fields = [field.split()[-1] for field in declared(HEADER.read_text())["structs"]["fastlr_step_scalars"]]
    assert declared_fields == [*fields[:-1], "own[FASTLR_OWN_SCALARS]"] and fields[-1] == "own"
    assert library.own_scalars() == MAX_SCALARS
    assert library.step_scalars_size() == 8 * (len(fields) - 1 + MAX_SCALARS)


@every_twin
def test_a_precision_without_a_step_is_refused_at_construction(theirs, name):
    if precisions(name) == (np.float32,):
        with pytest.raises(TypeError, match=rf"{name}: params\['w'\]: its rule heavyball computes in float32 alone"):
            theirs({"w": np.ones(3)})
        theirs({"w": np.ones(3, np.float16)}).step({"w": np.ones(3, np.float16)})
    else:
        theirs({"w": np.ones(3)}).step({"w": np.ones(3)})


# Files of tests over the registry, and what in them is known of fastlr's own classes by name, or needs a docstring.
OVER_THE_REGISTRY = ["accumulation", "bits", "checkpoint", "conventions", "mixed_precision", "optimizers", "rows", "rules",
                     "stages", "state", "storage", "threads"]
NAMED = "docstrings or downhill"


def test_the_tests_over_the_registry_pass_for_classes_of_others(stranger_rules, stranger_pointers, environment):
    path = os.pathsep.join([environment["PYTHONPATH"], str(HERE), str(stranger_rules), str(stranger_pointers)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "stranger_registry", "-W", "error",
               "-c", str(HERE.parent / "pyproject.toml"), "-k", f"(HeavyBall or Layerwise) and not ({NAMED})",
               *(str(HERE / f"test_{each}.py") for each in OVER_THE_REGISTRY)]
    done = subprocess.run(command, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 300
