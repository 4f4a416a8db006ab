"""Plans of the C table: the bits of the Python class, without Python; and what is wrong is refused in words."""
import ctypes
import json
import re
import threading
from math import inf, nan
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from registry import BITWISE, BY_ROWS, LOSS, arrays, bits, other_value
from test_embedding import HEADER, declared

import fastlr
from fastlr import constraints, schedules
from fastlr._c_api.option_text import read_option
from fastlr.constraints import box, max_norm, nonnegative, simplex, unit_norm
from fastlr.optimizers.curvature import Sophia
from fastlr.optimizers.learning_rate_free import WithLoss
from fastlr.schedules.expression import parse

ERRORS = json.loads(Path(__file__).with_name("c_api.json").read_text())["enums"]["fastlr_error"]
CODES = {"float32": 0x0220, "float64": 0x0240, "float16": 0x0210, "bfloat16": 0x0410, "int8": 0x0008, "uint8": 0x0108,
         "int16": 0x0010}
LARGE = 70_001                         # elements that two threads share
SHAPES = [(LARGE,), (13, 37), (), (0,), (64, 64)]
NAMES = ("a", "b", "c", "d", "e")
PLANNED = [cls for cls in BITWISE if cls is not Sophia]

every_planned = pytest.mark.parametrize("cls", PLANNED, ids=lambda cls: cls.__name__)
every_planned_by_rows = pytest.mark.parametrize("cls", [cls for cls in BY_ROWS if cls is not Sophia],
                                                ids=lambda cls: cls.__name__)


# The table, by ctypes: every call is made without the GIL

def struct(**fields):
    """A struct of the header, whose size is its first member."""
    return type("Struct", (ctypes.Structure,), {"_fields_": [("struct_size", ctypes.c_uint32), *fields.items()]})


POINTER, INT32, INT64, DOUBLE, TEXT = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_double,
                                       ctypes.c_char_p)
Tensor = struct(dtype=INT32, data=POINTER, name=TEXT, shape=POINTER, strides=POINTER, grad_strides=POINTER,
                ndim=INT32, group=INT32, grad_dtype=INT32, padding=INT32)
Options = struct(zero_grads=INT32, grad_scale=DOUBLE, loss=DOUBLE)
Array = struct(dtype=INT32, data=POINTER, shape=ctypes.POINTER(INT64), strides=ctypes.POINTER(INT64),
               ndim=INT32, padding=INT32)
Info = struct(groups=INT32, tensors=INT64, elements=INT64, t=INT64, skipped=INT64, grad_norm=DOUBLE)

FUNCTIONS = {
    "rule_name": (TEXT, INT64), "plan_new": (POINTER, TEXT), "plan_of": (POINTER, POINTER),
    "plan_option": (ctypes.c_int, POINTER, ctypes.c_int, TEXT, TEXT),
    "plan_set": (ctypes.c_int, POINTER, ctypes.c_int, TEXT, DOUBLE),
    "plan_schedule": (ctypes.c_int, POINTER, ctypes.c_int, TEXT, POINTER),
    "plan_add": (ctypes.c_int, POINTER, POINTER), "plan_build": (ctypes.c_int, POINTER),
    "plan_step": (ctypes.c_int, POINTER, POINTER, POINTER),
    "plan_step_rows": (ctypes.c_int, POINTER, INT64, INT64, POINTER, POINTER, ctypes.c_int, POINTER),
    "plan_info": (ctypes.c_int, POINTER, POINTER),
    "plan_get": (ctypes.c_int, POINTER, ctypes.c_int, TEXT, POINTER),
    "plan_slot": (TEXT, POINTER, INT64, INT64), "plan_state": (ctypes.c_int, POINTER, INT64, TEXT, POINTER),
    "plan_clock": (ctypes.c_int, POINTER, POINTER, POINTER),
    "plan_set_clock": (ctypes.c_int, POINTER, INT64, POINTER),
    "plan_save": (ctypes.c_int, POINTER, TEXT), "plan_load": (ctypes.c_int, POINTER, TEXT),
    "plan_accumulate": (ctypes.c_int, POINTER, POINTER, POINTER),
    "plan_step_curvature": (ctypes.c_int, POINTER, POINTER, POINTER, POINTER),
    "plan_place_state": (ctypes.c_int, POINTER, INT64, TEXT, POINTER, ctypes.c_int),
    "plan_constrain": (ctypes.c_int, POINTER),
    "plan_message": (TEXT, POINTER), "plan_free": (ctypes.c_int, POINTER), "message": (TEXT, ctypes.c_int),
}


class Table:
    """The entries of the table, found by their place in the header."""

    def __init__(self):
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = POINTER, [ctypes.py_object, TEXT]
        address = get(fastlr._C_API, b"fastlr._C_API")
        entries = [re.search(r"\(\*(\w+)\)", field) for field in declared(HEADER.read_text())["structs"]["fastlr_api"]]
        pointers = ctypes.cast(address, ctypes.POINTER(POINTER))
        first = next(k for k, entry in enumerate(entries) if entry)
        for k, entry in enumerate(entries):
            if entry and entry[1] in FUNCTIONS:
                result, *given = FUNCTIONS[entry[1]]
                # (two 32-bit numbers and a pointer come first)
                setattr(self, entry[1], ctypes.CFUNCTYPE(result, *given)(pointers[k - first + 2]))


lr = Table()


class Plan:
    """A plan as C has it; calls return errors."""

    def __init__(self, optimizer, params=(), grads=None, group_of=(), **options):
        self.handle = lr.plan_new(optimizer.encode())
        assert self.handle, lr.plan_message(None)
        self.kept = []
        for name, value in options.items():
            self.done(lr.plan_option(self.handle, -1, name.encode(), str(value).encode()))
        names = list(params) if isinstance(params, dict) else [None] * len(params)
        values = list(params.values()) if isinstance(params, dict) else params
        for k, (name, array) in enumerate(zip(names, values, strict=True)):
            self.done(self.add(array, name, group_of[k] if group_of else 0, grads[k] if grads else None))
        if len(values):
            self.done(lr.plan_build(self.handle))

    def __del__(self):
        if self.handle:
            lr.plan_free(self.handle)

    def done(self, error):
        assert error == 0, self.message
        return self

    @property
    def message(self):
        return lr.plan_message(self.handle).decode()

    def tensor(self, array, name=None, group=0, gradient=None, **changed):
        numbers = [(INT64 * 65)(*given) for given in (array.shape, array.strides)]
        given = Tensor(ctypes.sizeof(Tensor), CODES[array.dtype.name], array.ctypes.data, name and name.encode(),
                       ctypes.addressof(numbers[0]), ctypes.addressof(numbers[1]), None, array.ndim, group)
        if gradient is not None:
            numbers.append((INT64 * 65)(*gradient.strides))
            given.grad_dtype, given.grad_strides = CODES[gradient.dtype.name], ctypes.addressof(numbers[2])
        for field, value in changed.items():
            setattr(given, field, value)
        self.kept += [array, numbers]
        return given

    def add(self, array, *how, **changed):
        return lr.plan_add(self.handle, ctypes.byref(self.tensor(array, *how, **changed)))

    def step(self, grads, function="plan_step", curvature=None, **options):
        pointers = [(POINTER * (len(arrays) + 1))(*(None if x is None else x.ctypes.data for x in arrays))
                    for arrays in (grads, curvature) if arrays is not None]
        self.kept = [*self.kept[:1000], grads, curvature]
        given = Options(ctypes.sizeof(Options), 0, 1.0, LOSS)
        for field, value in options.items():
            setattr(given, field, value)
        function = "plan_step_curvature" if curvature is not None else function
        return getattr(lr, function)(self.handle, *pointers, ctypes.byref(given))

    def step_rows(self, k, rows, grads, ends_step=1):
        rows = np.asarray(rows, np.int64)
        given = Options(ctypes.sizeof(Options), 0, 1.0, LOSS)
        return lr.plan_step_rows(self.handle, k, len(rows), rows.ctypes.data, grads.ctypes.data, ends_step,
                                 ctypes.byref(given))

    @property
    def info(self):
        info = Info(ctypes.sizeof(Info))
        self.done(lr.plan_info(self.handle, ctypes.byref(info)))
        return info

    def get(self, group, name):
        value = DOUBLE(nan)
        self.done(lr.plan_get(self.handle, group, name.encode(), ctypes.byref(value)))
        return value.value

    def slots(self, k):
        names = []
        while (name := lr.plan_slot(self.handle, k, len(names))) is not None:
            names.append(name.decode())
        return names

    def state(self, k, slot):
        """The array of a slot, over the plan's memory."""
        found = Array(ctypes.sizeof(Array))
        self.done(lr.plan_state(self.handle, k, slot.encode(), ctypes.byref(found)))
        name = next(name for name, code in CODES.items() if code == found.dtype)
        dtype = np.dtype("uint16" if name == "bfloat16" else name)
        shape, strides = found.shape[:found.ndim], found.strides[:found.ndim]
        size = dtype.itemsize + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.ndarray(shape, dtype, (ctypes.c_char * size).from_address(found.data), 0, strides)

    def clock(self):
        t, skipped = INT64(), (INT64 * 100)()
        self.done(lr.plan_clock(self.handle, ctypes.byref(t), skipped))
        return t.value, list(skipped[:self.info.tensors])


def states(plan, opt):
    """The state of both, as bytes by tensor and slot."""
    ours = [{slot: bits([plan.state(k, slot)]) for slot in plan.slots(k)} for k in range(plan.info.tensors)]
    theirs = [{slot: bits([array]) for slot, array in slots.items()} for slots in opt.state.values()]
    for slots, shadow in zip(theirs, opt.shadow.values(), strict=False):
        slots["shadow"] = bits([shadow])
    return ours, theirs


def same(plan, opt, ours, theirs):
    """Whether parameters, state and clock are the same, bit for bit."""
    assert bits(ours) == bits(theirs)
    found, wanted = states(plan, opt)
    assert found == wanted
    assert plan.clock() == (opt.t, opt._plan.read_skipped_steps())
    assert plan.info.skipped == opt.skipped
    assert repr(plan.info.grad_norm) == repr(nan if opt.grad_norm is None else opt.grad_norm)


# The bits of the class

@every_planned
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_a_plan_has_the_bits_of_the_class(cls, dtype):
    ours = dict(zip(NAMES, arrays(dtype, SHAPES), strict=True))
    theirs = {name: array.copy() for name, array in ours.items()}
    plan, opt = Plan(cls.__name__, ours, lr=0.01), cls(theirs, lr=0.01)
    for t in range(4):
        grads = arrays(dtype, SHAPES, seed=10 + t)
        if t == 1:
            grads[1] = None
        opt.step(dict(zip(NAMES, grads, strict=True)))
        plan.done(plan.step(grads))
    same(plan, opt, ours.values(), theirs.values())
    assert [plan.state(-1, name) for name in plan.slots(-1)] == opt._shared.tolist()


@every_planned
def test_every_hyper_parameter_is_set_by_its_name(cls):
    for name, bound in cls.hypers.items():
        ours, theirs = arrays(np.float64, [(40,)]), arrays(np.float64, [(40,)])
        plan, opt = Plan(cls.__name__, ours), cls(theirs)
        value = other_value(bound)
        setattr(opt, name, value)
        plan.done(lr.plan_set(plan.handle, -1, name.encode(), value))
        assert plan.get(0, name) == value
        for t in range(2):
            (gradient,) = arrays(np.float64, [(40,)], seed=t)
            opt.step([gradient])
            plan.done(plan.step([gradient]))
        same(plan, opt, ours, theirs)


PARAMETERS = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16,
              "split": ml_dtypes.bfloat16, "shadow": np.float32}
BESIDE = {"split": {"master": "split"}, "shadow": {"shadow": "bfloat16"}}
STORAGES = {"as computed": {}, "float64": {"state_dtype": "float64"}, "float16": {"state_dtype": "float16"},
            "bfloat16": {"state_dtype": "bfloat16"}, "int8": {"state_dtype": "int8"},
            "stochastic": {"state_dtype": "bfloat16", "rounding": "stochastic", "seed": 7}}
STAGES = {
    "plain": {}, "clip_value": {"clip_value": 0.5}, "clip_norm": {"clip_norm": 1.0},
    "clip_tensor_norm": {"clip_tensor_norm": 1.0}, "clip_adaptive": {"clip_adaptive": 0.1},
    "clip_zscore": {"clip_zscore": 0.5, "clip_zscore_warmup": 2}, "maximize": {"maximize": True},
    "ema": {"ema_decay": 0.9}, "nonfinite": {"nonfinite": "skip"},
    "coupled": {"decay": "coupled", "weight_decay": 0.1}, "independent": {"decay": "independent", "weight_decay": 0.01},
    "corrected": {"decay": "corrected", "weight_decay": 0.1, "lr_max": 0.2},
    "mask": {"weight_decay": 0.1, "decay_mask": {"a": True, "b": False}}, "factor": {"lr_scale": {"a": 0.5, "b": 2.0}},
    "schedules": {"lr": "cosine(0.1, steps=20).warmup(3)"},
    "all": {"clip_value": 2.0, "clip_norm": 50.0, "maximize": True, "ema_decay": 0.5, "nonfinite": "skip",
            "lr": "exponential(0.1, 0.1)"},
}
LAYOUTS = {"rows": np.ascontiguousarray, "columns": np.asfortranarray,
           "strided": lambda array: np.repeat(array[..., None], 2, -1)[..., 0]}
# (an adaptive clipping and a momentum beside the others: a rule that reads once, one that sums, one of matrices)
TRAINED = ("adamw", "lars", "sm3")


def laid(values, dtype, layout):
    array = values.astype(dtype)
    return LAYOUTS[layout](array) if array.ndim else array


def seen(array):
    """An array as the extension reads it."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def option_value(value):
    if isinstance(value, str) and "(" in value:
        return parse(value)
    return value


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", PARAMETERS)
@pytest.mark.parametrize("name", TRAINED)
def test_c_trains_with_the_bits_of_python(stranger, name, kind, storage, threads):
    fastlr.set_num_threads(threads)
    for number, stage in enumerate(STAGES):
        layout = list(LAYOUTS)[number % 3]
        options = {"lr": 0.1} | BESIDE.get(kind, {}) | STORAGES[storage] | STAGES[stage]
        values = arrays(np.float64, SHAPES)
        theirs = {key: laid(x, PARAMETERS[kind], layout) for key, x in zip(NAMES, values, strict=True)}
        ours = {key: laid(x, PARAMETERS[kind], layout) for key, x in zip(NAMES, values, strict=True)}
        grad_dtype = np.float64 if kind == "float64" else ml_dtypes.bfloat16 if number % 4 == 1 else np.float32
        steps = [[laid(x, grad_dtype, layout) for x in arrays(np.float64, SHAPES, 10 + t)] for t in range(3)]
        if stage in ("nonfinite", "all"):
            steps[1][1][3, 5] = np.inf
        steps[2][4] = None
        texts = [(-1, key, str(value)) for key, value in options.items()]
        try:
            opt = fastlr.create_optimizer(name, theirs, **{key: option_value(value) for key, value in options.items()})
        except (TypeError, ValueError) as error:
            with pytest.raises(RuntimeError, match=re.escape(str(error))):
                stranger.plans.plan(name, texts, [(key, seen(x), 0) for key, x in ours.items()],
                                    [seen(x) for x in steps[0]])
            continue
        handle = stranger.plans.plan(name, texts, [(key, seen(x), 0) for key, x in ours.items()],
                                     [seen(x) for x in steps[0]])
        error = stranger.plans.train(handle, [[None if x is None else seen(x) for x in grads] for grads in steps], 0, 2.0)
        plan = Plan.__new__(Plan)
        plan.handle, plan.kept = handle, []
        plan.done(error)
        for grads in steps:
            opt.step(dict(zip(NAMES, grads, strict=True)), grad_scale=2.0)
        same(plan, opt, ours.values(), theirs.values())


@every_planned_by_rows
@pytest.mark.parametrize("stage", ["plain", "clip_tensor_norm", "ema", "nonfinite"])
def test_rows_have_the_bits_of_the_class(cls, stage):
    ours, theirs = (arrays(np.float32, [(30, 64), (5,)]) for _ in range(2))
    plan, opt = Plan(cls.__name__, ours, lr=0.01, **STAGES[stage]), cls(theirs, lr=0.01, **STAGES[stage])
    start = arrays(np.float32, [(30, 64), (5,)], seed=3)
    opt.step(start)
    plan.done(plan.step(start))
    for t in range(3):
        rows = np.random.default_rng(t).integers(0, 30, 40)
        (grads,) = arrays(np.float32, [(40, 64)], seed=t)
        if stage == "nonfinite" and t == 1:
            grads[3, 3] = nan
        opt.step_rows("0", rows, grads, ends_step=t % 2 == 1)
        plan.done(plan.step_rows(0, rows, grads, ends_step=t % 2))
        if t % 2 == 0:
            (other,) = arrays(np.float32, [(5,)], seed=20 + t)
            opt.step([None, other])
            plan.done(plan.step([None, other]))
    same(plan, opt, ours, theirs)


@pytest.mark.parametrize("name", ["adamw", "adammini", "came", "lamb"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_set_to_zero(name, layout):
    ours, theirs = (arrays(np.float32, [(200, 300), (7,)]) for _ in range(2))
    grads = [laid(x, np.float32, layout) for x in arrays(np.float32, [(200, 300), (7,)], seed=1)]
    plan = Plan(name, ours, grads, nonfinite="skip")
    opt = fastlr.create_optimizer(name, theirs, nonfinite="skip")
    for bad in (False, True):
        given = [x.copy() for x in grads]
        if bad:
            given[1][2] = grads[1][2] = nan
        opt.step(given)
        plan.done(plan.step(grads, zero_grads=1))
        assert not any(x.any() for x in grads)
    same(plan, opt, ours, theirs)


def test_groups_schedules_and_their_order():
    ours, theirs = arrays(np.float64, [(10,), (20,), (30,)]), arrays(np.float64, [(10,), (20,), (30,)])
    plan = Plan("adamw", clip_norm=1.0)
    for group, name, value in ((0, "lr", "linear(0.1, steps=5)"), (1, "lr", "0.01"), (1, "beta1", "0.5")):
        plan.done(lr.plan_option(plan.handle, group, name.encode(), value.encode()))
    for array, group in zip(ours, (1, 0, 1), strict=True):     # (not in the order of groups)
        plan.done(plan.add(array, None, group))
    plan.done(lr.plan_build(plan.handle))
    opt = fastlr.AdamW([{"params": {"1": theirs[1]}, "lr": schedules.linear(0.1, steps=5)},
                        {"params": {"0": theirs[0], "2": theirs[2]}, "lr": 0.01, "beta1": 0.5}], clip_norm=1.0)

    def both(times, seed):
        for t in range(times):
            a, b, c = arrays(np.float64, [(10,), (20,), (30,)], seed=seed + t)
            opt.step([{"1": b}, {"0": a, "2": c}])
            plan.done(plan.step([a, b, c]))
        assert bits(ours) == bits(theirs)

    both(3, 0)
    assert plan.get(0, "lr") == schedules.linear(0.1, steps=5)(2)
    opt.groups[0].lr = 0.3
    opt.groups[1].weight_decay = 0.2
    plan.done(lr.plan_set(plan.handle, 0, b"lr", 0.3))
    plan.done(lr.plan_set(plan.handle, 1, b"weight_decay", 0.2))
    both(2, 10)
    opt.clip_norm = 0.5
    plan.done(lr.plan_option(plan.handle, -1, b"clip_norm", b"0.5"))
    assert plan.get(0, "lr") == 0.3                            # (what C had set stays)
    rate = schedules.cosine(0.1, steps=9)
    opt.lr = rate
    plan.done(lr.plan_schedule(plan.handle, -1, b"lr", id(rate)))
    both(2, 20)
    assert plan.info.groups == 2


def test_a_tensor_that_is_added_later_is_a_new_group():
    ours, theirs = arrays(np.float64, [(10,), (20,), (3,)]), arrays(np.float64, [(10,), (20,), (3,)])
    plan, opt = Plan("adam", ours[:2], lr=0.1), fastlr.Adam(theirs[:2], lr=0.1)
    first = arrays(np.float64, [(10,), (20,)], seed=1)
    opt.step(first)
    plan.done(plan.step(first))
    plan.done(lr.plan_set(plan.handle, 0, b"beta1", 0.5))
    opt.groups[0].beta1 = 0.5
    assert plan.add(ours[2], None, 0) == ERRORS["FASTLR_REFUSED"]
    assert "group 0 is built; a tensor that is added later is of a new group, 1 or more" in plan.message
    plan.done(lr.plan_option(plan.handle, 1, b"lr", b"0.01"))
    plan.done(plan.add(ours[2], "2", 1))
    assert plan.step(first) == ERRORS["FASTLR_NOT_BUILT"]
    plan.done(lr.plan_build(plan.handle))
    opt.add_group({"2": theirs[2]}, lr=0.01)
    for t in range(2):
        a, b, c = arrays(np.float64, [(10,), (20,), (3,)], seed=5 + t)
        opt.step([[a, b], {"2": c}])
        plan.done(plan.step([a, b, c]))
    same(plan, opt, ours, theirs)


# A state that goes on elsewhere

def test_a_saved_plan_goes_on_with_the_same_bits(tmp_path):
    path = str(tmp_path / "plan.safetensors").encode()
    ours, again, theirs = (arrays(np.float32, SHAPES) for _ in range(3))
    plan, opt = Plan("nadam", ours), fastlr.NAdam(theirs)
    plan.done(lr.plan_set(plan.handle, -1, b"lr", 0.02))
    opt.lr = 0.02
    steps = [arrays(np.float32, SHAPES, seed=t) for t in range(4)]
    for grads in steps[:2]:
        opt.step(grads)
        plan.done(plan.step(grads))
    plan.done(lr.plan_save(plan.handle, path))
    other = Plan("nadam", again)
    other.done(lr.plan_load(other.handle, path))
    for grads in steps[2:]:
        opt.step(grads)
        other.done(other.step(grads))
    same(other, opt, again, theirs)
    assert other.get(0, "lr") == 0.02
    fastlr.load(path.decode(), opt)                            # (the file is that of Python)
    assert opt.t == 2
    torn = tmp_path / "torn"
    torn.write_bytes((tmp_path / "plan.safetensors").read_bytes()[:-9])
    assert lr.plan_load(other.handle, str(torn).encode()) == ERRORS["FASTLR_REFUSED"]
    assert other.info.t == 4
    assert lr.plan_load(other.handle, str(tmp_path / "absent").encode()) == ERRORS["FASTLR_REFUSED"]
    assert "No such file" in other.message


@pytest.mark.parametrize("name", ["adamw", "nadam", "prodigy", "came", "lars"])
def test_the_arrays_and_the_clock_are_the_whole_state(name):
    ours, again = arrays(np.float32, SHAPES), arrays(np.float32, SHAPES)
    options = {"state_dtype": "int8"} if name == "adamw" else {}
    plan, other = Plan(name, ours, **options), Plan(name, again, **options)
    steps = [arrays(np.float32, SHAPES, seed=t) for t in range(4)]
    steps[1][1] = None
    for grads in steps[:2]:
        plan.done(plan.step(grads))
    for k in range(-1, len(SHAPES)):
        assert plan.slots(k) == other.slots(k)
        for slot in plan.slots(k):
            other.state(k, slot)[...] = plan.state(k, slot)
    for new, old in zip(again, ours, strict=True):
        new[...] = old
    t, skipped = plan.clock()
    assert (t, skipped) == (2, [0, 1, 0, 0, 0])
    other.done(lr.plan_set_clock(other.handle, t, (INT64 * 5)(*skipped)))
    for grads in steps[2:]:
        plan.done(plan.step(grads))
        other.done(other.step(grads))
    assert bits(ours) == bits(again)
    assert plan.clock() == other.clock()


# An optimizer that Python made

def test_c_and_python_step_one_optimizer():
    ours, theirs = arrays(np.float64, [(10,), (20,)]), arrays(np.float64, [(10,), (20,)])
    shared, opt = fastlr.AdamW(ours), fastlr.AdamW(theirs)
    plan = Plan.__new__(Plan)
    plan.handle, plan.kept = lr.plan_of(id(shared)), []
    steps = [arrays(np.float64, [(10,), (20,)], seed=t) for t in range(8)]
    for t, grads in enumerate(steps[:4]):
        opt.step(grads)
        if t % 2:
            shared.step(grads)
        else:
            plan.done(plan.step(grads))
    assert (shared.t, plan.info.t) == (4, 4)
    plan.done(lr.plan_set(plan.handle, 0, b"lr", 0.25))
    opt.lr = 0.25
    assert shared.lr == 0.25
    shared.lr = opt.lr = schedules.linear(0.1, steps=20)       # (C follows what Python sets)
    shared.step(steps[4])
    plan.done(plan.step(steps[5]))
    opt.step(steps[4])
    opt.step(steps[5])
    shared.lr = lambda t: 0.1
    assert plan.step(steps[6]) == ERRORS["FASTLR_REFUSED"]
    assert "a function of Python, which C does not call" in plan.message
    shared.lr = opt.lr = 0.1
    shared.clip_norm = opt.clip_norm = 1.0
    assert plan.step(steps[6]) == ERRORS["FASTLR_BUSY"]
    assert "then call plan_build" in plan.message
    plan.done(lr.plan_build(plan.handle))
    plan.done(plan.step(steps[6]))
    opt.step(steps[6])
    assert bits(ours) == bits(theirs)
    refused(plan, "REFUSED", "call its add_group", plan.add(np.zeros(3)))
    refused(plan, "REFUSED", "_plan cannot be set", lr.plan_set(plan.handle, -1, b"_plan", 1.0))
    refused(plan, "BAD_NAME", "has no group of this number", lr.plan_set(plan.handle, 1, b"lr", 1.0))


def made(opt):
    plan = Plan.__new__(Plan)
    plan.handle, plan.kept = lr.plan_of(id(opt)), []
    assert plan.handle, lr.plan_message(None)
    return plan


@pytest.mark.parametrize("name", ["adamw", "sm3"])
def test_what_is_frozen_in_python_takes_no_gradient_in_c(name):
    params = arrays(np.float64, [(6, 4), (5, 4)])
    opt = fastlr.create_optimizer(name, params, lr=0.1)
    plan, before = made(opt), bits(params)
    grads = arrays(np.float64, [(6, 4), (5, 4)], seed=1)
    opt.freeze("1")
    for again in (False, True):
        if again:
            opt.clip_value = 1.0                   # (there is another plan)
            plan.done(lr.plan_build(plan.handle))
        for function in ("plan_step", "plan_accumulate") if name == "adamw" else ("plan_step",):
            refused(plan, "REFUSED", "tensor 1 is frozen, and takes no gradient; pass NULL for it, or call unfreeze",
                    plan.step(grads, function))
        if name == "adamw":
            refused(plan, "REFUSED", "tensor 1 is frozen", plan.step_rows(1, [2], grads[1][:1]))
    assert bits(params) == before and opt.t == 0
    plan.done(plan.step([grads[0], None]))
    opt.unfreeze()
    plan.done(plan.step(grads))
    assert opt.t == 2 and bits(params)[1] != before[1]


def test_a_parameter_that_was_replaced_or_holds_its_mean_is_refused():
    params = {"a": np.ones(3), "b": np.ones((4, 2))}
    opt = fastlr.AdamW(params, lr=0.1, ema_decay=0.5)
    plan, grads = made(opt), [np.ones(3), np.ones((4, 2))]
    plan.done(plan.step(grads))
    with opt.swapped():
        means = bits(params.values())
        for code in (plan.step(grads), plan.step(grads, "plan_accumulate"), plan.step_rows(1, [2], np.ones((1, 2))),
                     lr.plan_constrain(plan.handle), lr.plan_build(plan.handle)):
            refused(plan, "REFUSED", "the parameters hold the means; leave the with block of swapped() first", code)
        assert bits(params.values()) == means and lr.plan_of(id(opt)) is None
    plan.done(lr.plan_build(plan.handle)).done(plan.step(grads))
    before, params["b"] = params["b"], np.ones((4, 2))
    old = bits([before])
    for code in (plan.step(grads), plan.step_rows(1, [2], np.ones((1, 2)))):
        refused(plan, "REFUSED", "params['b'] was replaced", code)
    assert bits([before]) == old and opt.t == 2
    params["b"] = before
    plan.done(plan.step(grads))


def test_steps_are_measured_as_in_python_or_refused():
    ours, theirs = arrays(np.float32, [(6, 4), (5,)]), arrays(np.float32, [(6, 4), (5,)])
    shared, opt = fastlr.AdamW(ours, lr=0.1, clip_tensor_norm=0.5), fastlr.AdamW(theirs, lr=0.1, clip_tensor_norm=0.5)
    shared.measure()
    opt.measure()
    plan = made(shared)
    for t in range(3):
        grads = arrays(np.float32, [(6, 4), (5,)], seed=t)
        plan.done(plan.step(grads))
        opt.step(grads)
        assert shared.measured == opt.measured and opt.measured["0"].grad_norm > 0
    matrices = fastlr.SM3(arrays(np.float32, [(6, 4)]))
    plan = made(matrices)
    matrices.measure()
    refused(plan, "BUSY", "then call plan_build", plan.step(grads[:1]))
    refused(plan, "REFUSED", "SM3: a step from C does not measure an update of matrices", lr.plan_build(plan.handle))
    refused(plan, "NOT_BUILT", "call plan_build first", plan.step(grads[:1]))
    matrices.measure(False)
    plan.done(lr.plan_build(plan.handle)).done(plan.step(grads[:1]))


@pytest.mark.parametrize("wrong", [3, None, "wrapped"])
def test_a_plan_is_of_an_optimizer(wrong):
    given = fastlr.Lookahead(fastlr.SGD([np.zeros(3)])) if wrong == "wrapped" else wrong
    assert lr.plan_of(id(given)) is None
    assert b"expected an optimizer of fastlr, and none that wraps another" in lr.plan_message(None)


def test_an_optimizer_that_calls_python_is_refused():
    plan = Plan("muon")
    plan.done(plan.add(np.zeros((600, 600), np.float32)))
    assert lr.plan_build(plan.handle) == ERRORS["FASTLR_REFUSED"]
    assert "products of matrices that are made in Python; step it from Python" in plan.message


# Gradients in parts, estimates of the curvature, state in the caller's memory

@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "columns"])
@pytest.mark.parametrize("name", ["adamw", "momentum", "sophia"])
def test_micro_batches_are_accumulated_with_the_bits_of_the_class(name, kind):
    dtype = {"bfloat16": ml_dtypes.bfloat16, "float64": np.float64}.get(kind, np.float32)
    laid = np.asfortranarray if kind == "columns" else np.asarray
    ours = [laid(x.astype(dtype)) for x in arrays(np.float64, SHAPES)]
    theirs = [x.copy(order="K") for x in ours]
    grads = [[laid(x.astype(dtype)) for x in arrays(np.float64, SHAPES, 20 + t)] for t in range(6)]
    lr_of = "cosine(0.1, steps=10)"
    plan, opt = Plan(name, ours, grads=grads[0], lr=lr_of), fastlr.create_optimizer(name, theirs, lr=parse(lr_of))
    for t in range(0, 6, 3):
        more = {"curvature": grads[t]} if name == "sophia" else {}
        for part in grads[t:t + 2]:
            plan.done(plan.step(part, "plan_accumulate", grad_scale=3.0))
            opt.accumulate(part, grad_scale=3.0)
        plan.done(plan.step(grads[t + 2], grad_scale=3.0, **more))
        opt.step(grads[t + 2], grad_scale=3.0, **more)
        plan.done(lr.plan_set(plan.handle, 0, b"weight_decay", 0.25))          # (what C sets, the class sees)
        opt.weight_decay = 0.25
    same(plan, opt, ours, theirs)


def test_accumulated_gradients_are_set_to_zero():
    plan, _ = small()
    grads = arrays(np.float64, [(6, 4), (5,)], seed=1)
    plan.done(plan.step(grads, "plan_accumulate", zero_grads=1))
    assert not any(g.any() for g in grads)


def test_a_tensor_whose_last_gradient_is_missing_is_refused():
    plan, params = small()
    grads = arrays(np.float64, [(6, 4), (5,)], seed=1)
    plan.done(plan.step([None, grads[1]], "plan_accumulate"))
    before = bits(params)
    refused(plan, "REFUSED", "tensor 1 must have a gradient, as some were accumulated", plan.step([grads[0], None]))
    refused(plan, "REFUSED", "gradients were accumulated in the moments of all rows",
            plan.step_rows(1, [2], np.ones((1,))))
    assert bits(params) == before and plan.info.t == 0
    plan.done(plan.step([None, grads[1]]))
    plan.done(plan.step([grads[0], None]))


def test_what_cannot_be_accumulated_is_refused():
    for name, options, text in (("lion", {}, "accumulate needs a rule that sees gradients through its moments alone"),
                                ("adamw", {"clip_norm": 1.0}, "accumulate cannot do clip_norm")):
        params = arrays(np.float64, [(6, 4), (5,)])
        plan, before = Plan(name, params, **options), bits(params)
        refused(plan, "REFUSED", text, plan.step(arrays(np.float64, [(6, 4), (5,)]), "plan_accumulate"))
        assert bits(params) == before and plan.info.t == 0
    plan, params = small()
    refused(plan, "BAD_POINTER", "gradients must not be NULL", lr.plan_accumulate(plan.handle, None, None))
    refused(plan, "OVERLAP", "gradient 1 shares memory",
            plan.step([arrays(np.float64, [(6, 4)])[0], params[1]], "plan_accumulate"))
    refused(plan, "BAD_HYPER", "grad_scale must be", plan.step(params, "plan_accumulate", grad_scale=-1.0))
    plan.done(plan.add(np.zeros(3), "late", 1))
    refused(plan, "NOT_BUILT", "plan_accumulate: call plan_build first", plan.step([None] * 3, "plan_accumulate"))


def test_sophia_takes_estimates_in_some_steps_and_none_in_others():
    shapes = [(13, 7), (5,), (LARGE,)]
    ours = arrays(np.float32, shapes)
    theirs = [x.copy() for x in ours]
    plan, opt = Plan("sophia", ours, lr=0.01), fastlr.Sophia(theirs, lr=0.01)
    for t in range(7):
        grads = arrays(np.float32, shapes, seed=t)
        estimates = [abs(x) for x in arrays(np.float32, shapes, seed=50 + t)] if t % 3 == 0 else None
        if t == 3:
            estimates[1] = grads[2] = None
        plan.done(plan.step(grads, curvature=estimates))
        opt.step(grads, curvature=estimates)
        rows, gradients = np.array([3, 1]), arrays(np.float32, [(2, 7)], seed=t)[0]
        plan.done(plan.step_rows(0, rows, gradients, 0))
        opt.step_rows("0", rows, gradients, ends_step=False)
    same(plan, opt, ours, theirs)
    made = lr.plan_of(id(opt))
    assert made and lr.plan_free(made) == 0


def test_wrong_estimates_are_refused_and_nothing_changes():
    params = arrays(np.float64, [(6, 4), (5,)])
    plan, before = Plan("sophia", params), bits(params)
    grads = arrays(np.float64, [(6, 4), (5,)], seed=1)
    refused(plan, "REFUSED", "tensor 0 has its first gradient in this step, and its curvature was never estimated; use "
            "plan_step_curvature", plan.step(grads))
    refused(plan, "REFUSED", "tensor's curvature was never estimated", plan.step_rows(0, [1], np.zeros((1, 4))))
    refused(plan, "REFUSED", "was never estimated", plan.step(grads, curvature=[None, grads[1]]))
    refused(plan, "OVERLAP", "curvature 1 shares memory", plan.step(grads, curvature=[grads[0], params[1]]))
    refused(plan, "BAD_POINTER", "curvature must not be NULL",
            lr.plan_step_curvature(plan.handle, (POINTER * 2)(*(g.ctypes.data for g in grads)), None, None))
    refused(plan, "NOT_FINITE", "curvature", plan.step(grads, curvature=[grads[0], np.full(5, nan)]))
    assert bits(params) == before and plan.info.t == 0
    plan.done(plan.step([grads[0], None], curvature=[grads[0], None]))
    refused(plan, "REFUSED", "tensor 1 has its first gradient", plan.step(grads))
    other, _ = small()
    refused(other, "REFUSED", "given no estimates", other.step(grads, curvature=grads))


@pytest.mark.parametrize("name", ["adamw", "adafactor", "nadam"])
def test_a_slot_is_kept_in_the_callers_memory(name):
    ours, theirs = (arrays(np.float32, [(30, 20), (70,)]) for _ in range(2))
    plan, opt = Plan(name, ours, lr=0.01, ema_decay=0.9), fastlr.create_optimizer(name, theirs, lr=0.01, ema_decay=0.9)
    own = {}
    for t in range(6):
        grads = arrays(np.float32, [(30, 20), (70,)], seed=t)
        if t in (2, 4):
            for k, slots in enumerate(opt.state.values()):
                for slot, array in slots.items():
                    if array.ndim == 0:
                        continue       # (numbers of the tensor as a whole stay)
                    memory = np.full(array.shape, 7, array.dtype)
                    if t == 4:         # (the state that is taken is another)
                        memory[...] = array
                        own[k, slot][...] = 9
                    plan.done(lr.plan_place_state(plan.handle, k, slot.encode(), memory.ctypes.data, t == 4))
                    own[k, slot] = memory
        plan.done(plan.step(grads))
        opt.step(grads)
    same(plan, opt, ours, theirs)
    assert all(bits([memory]) == bits([opt.state[str(k)][slot]]) for (k, slot), memory in own.items())
    assert own and all(plan.state(k, slot).ctypes.data == memory.ctypes.data for (k, slot), memory in own.items())


def test_wrong_memory_is_refused_and_nothing_changes():
    plan, params = small()
    m, place = np.zeros((6, 4)), lr.plan_place_state
    refused(plan, "BAD_NAME", "no tensor of this number", place(plan.handle, 2, b"m", m.ctypes.data, 0))
    refused(plan, "BAD_NAME", "no slot of this name", place(plan.handle, 0, b"w", m.ctypes.data, 0))
    refused(plan, "BAD_POINTER", "must not be NULL", place(plan.handle, 0, b"m", None, 0))
    refused(plan, "BAD_POINTER", "aligned", place(plan.handle, 0, b"m", m.ctypes.data + 1, 0))
    refused(plan, "REFUSED", "is also that of a parameter", place(plan.handle, 0, b"m", params[0].ctypes.data, 0))
    late = Plan("adamw")
    late.done(late.add(np.zeros(3)))
    refused(late, "NOT_BUILT", "call plan_build first", place(late.handle, 0, b"m", m.ctypes.data, 0))
    plan.done(plan.step(arrays(np.float64, [(6, 4), (5,)])))
    assert not m.any()


# Constraints

CONSTRAINTS = {
    "box(-0.5, 0.5)": box(-0.5, 0.5), "box(high=0.25)": box(high=0.25), "nonnegative()": nonnegative(),
    "max_norm(1.5)": max_norm(1.5), "max_norm(3, axis=None)": max_norm(3, axis=None), "unit_norm()": unit_norm(),
    "unit_norm(None, norm=2.0)": unit_norm(None, norm=2.0), "simplex()": simplex(), "simplex(2.5, None)": simplex(2.5, None),
    "{'a': box(-inf, 0.5), 'b': unit_norm(), 'e': None}": {"a": box(-inf, 0.5), "b": unit_norm(), "e": None},
    "[nonnegative(), max_norm(2), None, None, simplex()]": [nonnegative(), max_norm(2), None, None, simplex()],
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["float32", "float64", "split", "shadow"])
@pytest.mark.parametrize("name", TRAINED)
def test_constraints_have_the_bits_of_the_class(name, kind, threads):
    fastlr.set_num_threads(threads)
    for number, (text, constraint) in enumerate(CONSTRAINTS.items()):
        layout = list(LAYOUTS)[number % 3]
        options = {"lr": 0.1, "ema_decay": 0.5} | BESIDE.get(kind, {})
        values = arrays(np.float64, SHAPES)
        ours, theirs = ({key: laid(x, PARAMETERS[kind], layout) for key, x in zip(NAMES, values, strict=True)}
                        for _ in range(2))
        plan = Plan(name, ours, constraint=text, **options)
        opt = fastlr.create_optimizer(name, theirs, constraint=constraint, **options)
        for t in range(3):
            grads = [laid(x, PARAMETERS[kind], "rows") for x in arrays(np.float64, SHAPES, 10 + t)]
            if t == 1:
                grads[1] = None
            plan.done(plan.step(grads))
            opt.step(dict(zip(NAMES, grads, strict=True)))
        same(plan, opt, ours.values(), theirs.values())
        unconstrained = {key: x.astype(PARAMETERS[kind]) for key, x in zip(NAMES, values, strict=True)}
        assert bits(unconstrained.values()) != bits(ours.values())


def test_constraints_hold_in_16_bits_over_rows_and_without_a_step():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        ours, theirs = ([x.astype(dtype) for x in arrays(np.float64, [(30, 8), (40,)])] for _ in range(2))
        plan = Plan("adamw", ours, constraint="box(-0.125, 0.3)", lr=0.1)
        opt = fastlr.AdamW(theirs, constraint=box(-0.125, 0.3), lr=0.1)
        opt.constrain()
        plan.done(lr.plan_constrain(plan.handle))
        assert bits(ours) == bits(theirs) and all(np.abs(x.astype(float)).max() <= 0.301 for x in ours)
    ours, theirs = (arrays(np.float32, [(30, 8), (40,)]) for _ in range(2))
    plan, opt = Plan("adamw", ours, constraint="max_norm(1)", lr=0.1), fastlr.AdamW(theirs, constraint=max_norm(1), lr=0.1)
    for t in range(3):
        rows, (grads,) = np.array([3, 29, 3, 0]), arrays(np.float32, [(4, 8)], seed=t)
        plan.done(plan.step_rows(0, rows, grads, t % 2))
        opt.step_rows("0", rows, grads, ends_step=bool(t % 2))
    same(plan, opt, ours, theirs)
    assert np.linalg.norm(ours[0][3]) <= 1 + 1e-6 < np.linalg.norm(ours[0][4])
    plan.done(lr.plan_constrain(plan.handle))
    opt.constrain()
    same(plan, opt, ours, theirs)
    assert np.linalg.norm(ours[0], axis=1).max() <= 1 + 1e-6
    whole = Plan("adamw", ours, constraint="max_norm(1, axis=None)")
    refused(whole, "REFUSED", "a constraint over more than a row needs whole steps", whole.step_rows(0, [1], np.ones((1, 8), np.float32)))


def test_a_constraint_is_saved_with_a_plan_and_kept_when_tensors_come(tmp_path):
    path = str(tmp_path / "plan.safetensors").encode()
    ours, theirs = arrays(np.float64, [(7, 5), (6, 4)]), arrays(np.float64, [(7, 5), (6, 4)])
    plan = Plan("momentum", ours[:1], constraint="unit_norm()", lr=0.1)
    opt = fastlr.Momentum(theirs[:1], constraint=unit_norm(), lr=0.1)
    plan.done(plan.add(ours[1], "late", 1)).done(lr.plan_build(plan.handle))
    opt.add_group({"late": theirs[1]})
    for t in range(2):
        grads = arrays(np.float64, [(7, 5), (6, 4)], seed=t)
        plan.done(plan.step(grads))
        opt.step([[grads[0]], {"late": grads[1]}])
        plan.done(lr.plan_save(plan.handle, path))
        plan.done(lr.plan_load(plan.handle, path))
    same(plan, opt, ours, theirs)
    assert abs(np.linalg.norm(ours[1], axis=1) - 1).max() < 1e-12


@pytest.mark.parametrize(("group", "text", "error", "words"), [
    (-1, "box", "REFUSED", "constraint: expected a call such as max_norm(3.0), got box"),
    (-1, "0.5", "REFUSED", "expected a call such as max_norm(3.0), got 0.5"),
    (-1, "max_nrom(3)", "REFUSED", "no constraint 'max_nrom'; did you mean 'max_norm'"),
    (-1, "max_norm(-1)", "REFUSED", "max_norm: limit must be positive and finite, got -1.0"),
    (-1, "max_norm()", "REFUSED", "missing 1 required positional argument: 'limit'"),
    (-1, "max_norm(x)", "REFUSED", "constraint: expected a literal, got x"),
    (-1, "max_norm(*[1])", "REFUSED", "constraint: expected a literal, got *[1]"),
    (-1, "box(**{})", "REFUSED", "constraint: ** before arguments is not allowed"),
    (-1, "simplex(axis=1)", "REFUSED", "axis must be 0 (rows) or None"),
    (-1, "box(2, 1)", "REFUSED", "box: low must be at most high"),
    (-1, "__import__('os')", "REFUSED", "no constraint '__import__'"),
    (-1, "os.system('x')", "REFUSED", "expected a call such as max_norm(3.0), got os.system('x')"),
    (-1, "{'x': box(0)}", "REFUSED", "constraint names no parameter: 'x'"),
    (-1, "{**box(0)}", "REFUSED", "constraint: expected a literal, got **"),
    (-1, "[box(0), box(1)]", "REFUSED", "constraint: expected 1 entries, one per parameter, got 2"),
    (-1, "box(" * 300, "REFUSED", "expected a call such as"), (-1, " " * 20000, "REFUSED", "at most 10000 characters"),
    (0, "box(0)", "REFUSED", "unknown keyword 'constraint'"),
])
def test_a_wrong_constraint_is_refused(group, text, error, words):
    plan = Plan("adamw")
    plan.done(plan.add(np.zeros(3)))
    code = lr.plan_option(plan.handle, group, b"constraint", text.encode()) or lr.plan_build(plan.handle)
    refused(plan, error, words, code)


def test_a_constraint_comes_before_the_plan_is_built():
    plan, _ = small()
    refused(plan, "REFUSED", "constraint cannot be set once the plan is built",
            lr.plan_option(plan.handle, -1, b"constraint", b"nonnegative()"))
    late = Plan("adamw")
    late.done(late.add(np.zeros(3)))
    refused(late, "NOT_BUILT", "plan_constrain: call plan_build first", lr.plan_constrain(late.handle))


def test_every_constraint_can_be_written():
    for made in (box(-2, 3), nonnegative(), max_norm(3), unit_norm(None), simplex(2.5), box(high=1.5)):
        assert read_option("constraint", repr(made)) == made
    assert {text.partition("(")[0] for text in CONSTRAINTS if text[0] not in "{["} == {*constraints.__all__} - {"Constraint"}


# What is wrong is refused, and nothing changes

def small(**options):
    params = arrays(np.float64, [(6, 4), (5,)])
    return Plan("adamw", params, **options), params


def refused(plan, error, text, code):
    assert code == ERRORS[f"FASTLR_{error}"], plan.message
    assert text in plan.message


@pytest.mark.parametrize("handle", [None, 1, 64, 0xdeadbeef, (1 << 18) | (64 * 2048), (7 << 18) | 1, 2**64 - 1])
def test_no_plan_is_refused_by_every_function(handle):
    keep = (ctypes.c_char * 4096)()
    array = ctypes.addressof(keep)
    name = b"lr"
    calls = {
        "plan_option": (0, name, name), "plan_set": (0, name, 1.0), "plan_schedule": (0, name, array),
        "plan_add": (array,), "plan_build": (), "plan_step": (array, None),
        "plan_step_rows": (0, 0, array, array, 1, None), "plan_info": (array,), "plan_get": (0, name, array),
        "plan_state": (0, name, array), "plan_clock": (array, array), "plan_set_clock": (0, None), "plan_save": (name,),
        "plan_load": (name,), "plan_free": (), "plan_accumulate": (array, None), "plan_step_curvature": (array, array, None),
        "plan_place_state": (0, name, array, 0), "plan_constrain": (),
    }
    assert set(calls) == {n for n in FUNCTIONS if n.startswith("plan")} - {"plan_new", "plan_of", "plan_message", "plan_slot"}
    for function, given in calls.items():
        assert getattr(lr, function)(handle, *given) == ERRORS["FASTLR_NO_PLAN"], function
    assert lr.plan_slot(handle, 0, 0) is None
    if handle is not None:
        assert lr.plan_message(handle) == lr.message(ERRORS["FASTLR_NO_PLAN"])


@pytest.mark.parametrize(("function", "given", "text"), [
    ("plan_option", (-1, None, b"1"), "plan_option: name and value must not be NULL"),
    ("plan_option", (-1, b"lr", None), "plan_option: name and value must not be NULL"),
    ("plan_set", (-1, None, 1.0), "plan_set: name must not be NULL"),
    ("plan_schedule", (-1, None, id(None)), "plan_schedule: name and schedule must not be NULL"),
    ("plan_schedule", (-1, b"lr", None), "plan_schedule: name and schedule must not be NULL"),
    ("plan_add", (None,), "plan_add: tensor must not be NULL"),
    ("plan_step", (None, None), "plan_step: gradients must not be NULL; of a tensor without, its pointer is"),
    ("plan_step_rows", (0, 1, None, 8, 1, None), "plan_step_rows: rows and gradients must not be NULL"),
    ("plan_step_rows", (0, 1, 8, None, 1, None), "plan_step_rows: rows and gradients must not be NULL"),
    ("plan_accumulate", (None, None), "plan_accumulate: gradients must not be NULL"),
    ("plan_step_curvature", (None, None, None), "plan_step_curvature: gradients must not be NULL"),
    ("plan_info", (None,), "plan_info: info must not be NULL"), ("plan_get", (0, None, 8), "plan_get: name and value must"),
    ("plan_get", (0, b"lr", None), "plan_get: name and value must not be NULL"),
    ("plan_state", (0, None, 8), "plan_state: slot and array must not be NULL"),
    ("plan_state", (0, b"m", None), "plan_state: slot and array must not be NULL"),
    ("plan_clock", (None, None), "plan_clock: t must not be NULL"),
    ("plan_save", (None,), "plan_save: path must not be NULL"), ("plan_load", (None,), "plan_load: path must not be NULL"),
    ("plan_place_state", (0, None, 8, 0), "plan_place_state: slot and memory must not be NULL"),
    ("plan_place_state", (0, b"m", None, 0), "plan_place_state: slot and memory must not be NULL"),
])
def test_null_is_refused_in_words(function, given, text):
    plan, params = small()
    before = bits(params)
    refused(plan, "BAD_POINTER", text, getattr(lr, function)(plan.handle, *given))
    assert (bits(params), plan.info.t) == (before, 0)


def test_null_of_what_makes_plans():
    assert lr.plan_new(None) is None and lr.plan_message(None) == b"plan_new: the optimizer's name must not be NULL"
    assert lr.plan_of(None) is None and lr.plan_message(None) == b"plan_of: the optimizer must not be NULL"


NOT_BUILT = {
    "plan_step": (8, None), "plan_step_rows": (0, 0, None, None, 1, None), "plan_accumulate": (8, None),
    "plan_step_curvature": (8, 8, None), "plan_info": ((INT64 * 20)(56),), "plan_get": (0, b"lr", (INT64 * 1)()),
    "plan_state": (0, b"m", (INT64 * 20)(48)), "plan_clock": ((INT64 * 1)(), None), "plan_set_clock": (0, None),
    "plan_save": (b"x",), "plan_load": (b"x",), "plan_place_state": (0, b"m", 8, 0), "plan_constrain": (),
}


@pytest.mark.parametrize("function", NOT_BUILT)
def test_a_plan_that_is_not_built_is_refused_in_words(function):
    plan = Plan("adamw")
    plan.done(plan.add(np.zeros(3)))
    refused(plan, "NOT_BUILT", f"{function}: call plan_build first", getattr(lr, function)(plan.handle, *NOT_BUILT[function]))
    assert lr.plan_slot(plan.handle, 0, 0) is None


@pytest.mark.parametrize(("function", "given"), [
    ("plan_option", (-1, b"\xff", b"1")), ("plan_option", (-1, b"lr", b"\xff")), ("plan_set", (-1, b"\xff", 1.0)),
    ("plan_save", (b"/no/\xff",)), ("plan_load", (b"/no/\xff",)), ("plan_place_state", (0, b"\xff", 8, 0)),
])
def test_what_is_no_text_is_refused(function, given):
    plan, _ = small()
    refused(plan, "REFUSED", "'utf-8' codec can't decode byte 0xff", getattr(lr, function)(plan.handle, *given))


def test_a_freed_plan_is_refused_also_when_its_place_serves_another():
    plan, params = small()
    before, old = bits(params), plan.handle
    assert lr.plan_free(old) == 0
    assert plan.step(arrays(np.float64, [(6, 4), (5,)])) == ERRORS["FASTLR_NO_PLAN"]
    other, _ = small()
    assert other.handle != old
    assert lr.plan_free(old) == ERRORS["FASTLR_NO_PLAN"]
    assert plan.step(arrays(np.float64, [(6, 4), (5,)])) == ERRORS["FASTLR_NO_PLAN"]
    assert bits(params) == before
    other.done(other.step(arrays(np.float64, [(6, 4), (5,)])))
    plan.handle = None


def test_many_plans_live_at_a_time_and_their_memory_is_reused():
    plans = [Plan("sgd", [np.zeros(3)]) for _ in range(200)]
    assert len({plan.handle for plan in plans}) == 200
    numbers = {plan.handle & (2**18 - 1) for plan in plans}
    del plans
    again = [Plan("sgd", [np.zeros(3)]) for _ in range(200)]
    assert {plan.handle & (2**18 - 1) for plan in again} == numbers


@pytest.mark.parametrize(("name", "text"), [
    (b"adamv", b"no optimizer 'adamv'; did you mean 'adam"), (b"", b"no optimizer ''"), (b"\xff", b"no optimizer"),
    (None, b"must not be NULL"), (b"lbfgs", b"no optimizer 'lbfgs'"),
])
def test_no_such_optimizer(name, text):
    assert lr.plan_new(name) is None
    assert text in lr.plan_message(None)


@pytest.mark.parametrize(("changed", "error", "text"), [
    ({"dtype": 0}, "BAD_DTYPE", "dtype must be FASTLR_FLOAT16"), ({"dtype": 0x0008}, "BAD_DTYPE", "dtype must be"),
    ({"grad_dtype": 5}, "BAD_DTYPE", "grad_dtype"), ({"ndim": -1}, "BAD_SIZE", "ndim must be in [0, 64]"),
    ({"ndim": 65}, "BAD_SIZE", "ndim must be in [0, 64]"), ({"group": -1}, "BAD_SIZE", "group >= 0"),
    ({"shape": None}, "BAD_POINTER", "shape must not be NULL"), ({"data": None}, "BAD_POINTER", "must not be NULL"),
    ({"struct_size": 0}, "BAD_STRUCT", "struct_size"), ({"struct_size": 7}, "BAD_STRUCT", "struct_size"),
    ({"struct_size": 2**31}, "BAD_STRUCT", "struct_size"),
])
def test_a_wrong_tensor_is_refused(changed, error, text):
    plan = Plan("adamw")
    refused(plan, error, text, plan.add(np.zeros((3, 4)), **changed))
    refused(plan, "REFUSED", "no tensors", lr.plan_build(plan.handle))


@pytest.mark.parametrize(("shape", "strides", "grad_strides", "error", "text"), [
    ((3, 4), (32, 7), None, "BAD_SIZE", "multiples of an element's size"),
    ((3, 4), (32, 8), (32, 3), "BAD_SIZE", "multiples of an element's size"),
    ((3, 4), (8, 8), None, "REFUSED", "elements overlap in memory"), ((3, 4), (0, 8), None, "REFUSED", "overlap"),
    ((-1, 4), (32, 8), None, "BAD_SIZE", "shape must be >= 0"),
    ((2**62, 4), (32, 8), None, "BAD_SIZE", "more bytes than there can be"),
    ((3, 4), (2**61, 8), None, "BAD_SIZE", "more bytes than there can be"),
    ((3, 4), (-2**60, 8), None, "BAD_SIZE", "more bytes than there can be"),
])
def test_wrong_strides_are_refused(shape, strides, grad_strides, error, text):
    plan = Plan("adamw")
    numbers = [(INT64 * 65)(*(given or ())) for given in (shape, strides, grad_strides)]
    at = [ctypes.addressof(each) for each in numbers]
    memory = np.zeros(100)
    refused(plan, error, text, plan.add(memory, ndim=2, shape=at[0], strides=at[1],
                                        grad_strides=at[2] if grad_strides else None))


def test_tensors_that_share_memory_or_a_name_are_refused():
    memory = np.zeros(20)
    plan = Plan("adamw")
    plan.done(plan.add(memory[:10], "a"))
    refused(plan, "REFUSED", "another tensor has this name", plan.add(memory[10:], "a"))
    plan.done(plan.add(memory[9:], "b"))
    refused(plan, "REFUSED", "parameter 'a' and parameter 'b' share memory; pass each once", lr.plan_build(plan.handle))
    refused(plan, "NOT_BUILT", "plan_build", plan.step([memory, memory]))


@pytest.mark.parametrize(("group", "name", "value", "error", "text"), [
    (-1, "beta3", "0.1", "REFUSED", "unknown keyword 'beta3'; did you mean"), (-1, "lr", "-1", "REFUSED", "AdamW: lr must be"),
    (-1, "params", "[]", "REFUSED", "params is no option of a plan"), (-1, "_plan", "0", "REFUSED", "unknown keyword"),
    (-1, "lr", "cosin(1)", "REFUSED", "cosin"), (-1, "state_dtype", "int7", "REFUSED", "state_dtype must be one of"),
    (-2, "lr", "1", "BAD_NAME", "group must be -1"), (3, "lr", "1", "REFUSED", "group 3 has no tensor"),
    (-1, "lr", "(" * 500, "REFUSED", "expression"), (0, "clip_norm", "1", "REFUSED", "unknown keyword 'clip_norm'"),
])
def test_a_wrong_option_is_refused(group, name, value, error, text):
    plan = Plan("adamw")
    plan.done(plan.add(np.zeros(3)))
    code = lr.plan_option(plan.handle, group, name.encode(), value.encode()) or lr.plan_build(plan.handle)
    refused(plan, error, text, code)


@pytest.mark.parametrize(("group", "name", "value", "error", "text"), [
    (-1, "beta1", 1.0, "BAD_HYPER", "beta1 must be in [0, 1), got 1"), (0, "lr", nan, "BAD_HYPER", "lr must be in"),
    (0, "lr", inf, "BAD_HYPER", "lr must be in"), (1, "lr", 0.1, "BAD_NAME", "no group of this number"),
    (-2, "lr", 0.1, "BAD_NAME", "no group of this number"), (-1, "_plan", 1.0, "REFUSED", "_plan cannot be set once"),
    (-1, "state_dtype", 1.0, "REFUSED", "state_dtype cannot be set once the plan is built"),
    (-1, "clip_norm", -1.0, "REFUSED", "clip_norm must be"), (0, "clip_norm", 1.0, "REFUSED", "has no 'clip_norm'"),
    (-1, "step", 1.0, "REFUSED", "step cannot be set once"),
])
def test_a_wrong_number_is_refused_and_changes_nothing(group, name, value, error, text):
    plan, params = small()
    other, again = small()
    refused(plan, error, text, lr.plan_set(plan.handle, group, name.encode(), value))
    grads = arrays(np.float64, [(6, 4), (5,)], seed=1)
    plan.done(plan.step(grads))
    other.done(other.step(grads))
    assert bits(params) == bits(again)


def test_wrong_gradients_are_refused_and_nothing_changes():
    plan, params = small()
    before = bits(params)
    a, b = arrays(np.float64, [(6, 4), (5,)], seed=1)
    state = plan.state(0, "m")
    refused(plan, "OVERLAP", "gradient 0 shares memory with a parameter or its state", plan.step([params[0], b]))
    refused(plan, "OVERLAP", "gradient 1 shares memory", plan.step([a, state.ravel()[19:]]))
    refused(plan, "BAD_POINTER", "gradient 1 is not aligned", plan.step([a, np.zeros(25).view(np.uint8)[4:]]))
    refused(plan, "BAD_POINTER", "gradients must not be NULL", lr.plan_step(plan.handle, None, None))
    memory = np.zeros(28)
    refused(plan, "OVERLAP", "zero_grads would set it to zero before", plan.step([memory[:24], memory[23:]], zero_grads=1))
    for wrong in (-1.0, nan, inf, 1e-310):
        refused(plan, "BAD_HYPER", "grad_scale must be in", plan.step([a, b], grad_scale=wrong))
    for size in (0, 3, 2**31):
        refused(plan, "BAD_STRUCT", "struct_size", plan.step([a, b], struct_size=size))
    assert (bits(params), plan.info.t) == (before, 0)
    plan.done(plan.step([memory[:24], memory[:5]]))            # (gradients that are only read may share memory)


def test_a_gradient_whose_elements_share_memory_can_be_read_but_not_set_to_zero():
    params, memory = [np.zeros((3, 4))], np.ones(4)
    plan = Plan("sgd", params, [np.broadcast_to(memory, (3, 4))], lr=1.0)
    plan.done(plan.step([memory]))
    assert (params[0] == -1).all()
    refused(plan, "OVERLAP", "gradient 0 has elements that share memory, and zero_grads would set them to zero before",
            plan.step([memory], zero_grads=1))
    assert (params[0] == -1).all() and memory.all()


def test_a_gradient_between_a_parameters_elements_is_none_of_them():
    memory = np.arange(40.0)
    pairs = memory.reshape(20, 2)
    plan = Plan("sgd", [pairs[:, 0]], [pairs[:, 1]], lr=1.0)
    plan.done(plan.step([pairs[:, 1]]))
    assert memory[::2].tolist() == [-1.0] * 20
    refused(plan, "OVERLAP", "gradient 0 shares memory", plan.step([pairs[:, 0]]))
    threes = np.zeros(60)
    plan = Plan("sgd", [threes[::3]], [threes[1::2][:20]], lr=1.0)
    refused(plan, "OVERLAP", "gradient 0 shares memory", plan.step([threes[1::2]]))


def test_a_nonfinite_gradient_is_refused_or_skipped():
    plan, params = small(nonfinite="raise")
    before = bits(params)
    a, b = arrays(np.float64, [(6, 4), (5,)], seed=1)
    b[3] = nan
    refused(plan, "NOT_FINITE", "gradient 1 holds NaN or infinity at t = 0; nothing was changed", plan.step([a, b]))
    plan, _ = small(nonfinite="skip")
    plan.done(plan.step([a, b]))
    assert (bits(params), plan.info.t, plan.info.skipped) == (before, 0, 1)


def test_a_schedule_that_gives_nothing_is_refused():
    plan, params = small(lr="linear(0.1, steps=2, end='error')")
    grads = arrays(np.float64, [(6, 4), (5,)], seed=1)
    for _ in range(3):
        plan.done(plan.step(grads))
    before = bits(params)
    refused(plan, "BAD_HYPER", "lr must be in [0, inf), its schedule gave", plan.step(grads))
    assert (bits(params), plan.info.t) == (before, 3)
    refused(plan, "REFUSED", "expected a schedule of fastlr.schedules, got 0.1",
            lr.plan_schedule(plan.handle, 0, b"lr", id(0.1)))
    plan, _ = small(decay="corrected", weight_decay=0.1, lr_max=0.5, lr=0.1)
    refused(plan, "REFUSED", "lr must be at most lr_max = 0.5, got 1", lr.plan_set(plan.handle, 0, b"lr", 1.0))


def test_a_step_that_needs_a_loss_is_refused_without():
    plan = Plan("polyak" if "polyak" in fastlr.list_optimizers() else WithLoss.__subclasses__()[0].__name__,
                arrays(np.float64, [(5,)]))
    grads = arrays(np.float64, [(5,)], seed=1)
    for loss in (nan, inf):
        refused(plan, "BAD_HYPER", "needs options with the loss", plan.step(grads, loss=loss))
    pointers = (POINTER * 1)(grads[0].ctypes.data)
    refused(plan, "BAD_HYPER", "needs options with the loss", lr.plan_step(plan.handle, pointers, None))
    short = Options(8, 0)              # (an older header, which ends before the loss)
    refused(plan, "BAD_HYPER", "needs options with the loss", lr.plan_step(plan.handle, pointers, ctypes.byref(short)))


@pytest.mark.parametrize(("k", "rows", "width", "options", "error", "text"), [
    (0, [6], 4, {}, "BAD_SIZE", "rows must be in [0, 6), got 6 at position 0"),
    (0, [0, -1], 4, {}, "BAD_SIZE", "got -1 at position 1"), (2, [0], 4, {}, "BAD_NAME", "no tensor of this number"),
    (-1, [0], 4, {}, "BAD_NAME", "no tensor of this number"),
    (0, [0], 4, {"clip_norm": 1.0}, "REFUSED", "clip_norm is over all gradients of a step"),
])
def test_wrong_rows_are_refused_and_change_nothing(k, rows, width, options, error, text):
    plan, params = small(**options)
    before = bits(params)
    refused(plan, error, text, plan.step_rows(k, rows, np.ones((len(rows), width))))
    assert (bits(params), plan.info.t) == (before, 0)


def test_rows_of_what_is_no_table_or_overlaps_are_refused():
    plan, params = small()
    refused(plan, "OVERLAP", "share memory", plan.step_rows(0, [1], params[0][1:]))
    refused(plan, "BAD_POINTER", "must not be NULL", lr.plan_step_rows(plan.handle, 0, 1, None, None, 1, None))
    refused(plan, "BAD_SIZE", "n must be in", lr.plan_step_rows(plan.handle, 0, -1, None, None, 1, None))
    refused(plan, "BAD_SIZE", "n must be in", lr.plan_step_rows(plan.handle, 0, 2**31, None, None, 1, None))
    plan = Plan("lars", [np.ones((4, 4))])
    refused(plan, "REFUSED", "depends on more than an element's gradient", plan.step_rows(0, [1], np.ones((1, 4))))
    plan = Plan("sgd", [np.ones(())])
    refused(plan, "REFUSED", "must have rows", plan.step_rows(0, [1], np.ones((1, 4))))


def test_names_and_clocks_that_do_not_exist():
    plan, _ = small()
    array, value = Array(ctypes.sizeof(Array)), DOUBLE()
    refused(plan, "BAD_NAME", "plan_slot has all", lr.plan_state(plan.handle, 0, b"x", ctypes.byref(array)))
    refused(plan, "BAD_NAME", "no tensor", lr.plan_state(plan.handle, 2, b"m", ctypes.byref(array)))
    refused(plan, "BAD_POINTER", "must not be NULL", lr.plan_state(plan.handle, 0, None, ctypes.byref(array)))
    refused(plan, "BAD_STRUCT", "struct_size", lr.plan_state(plan.handle, 0, b"m", ctypes.byref(Array(1))))
    refused(plan, "BAD_STRUCT", "struct_size", lr.plan_info(plan.handle, ctypes.byref(Info(2))))
    refused(plan, "BAD_NAME", "no such hyper", lr.plan_get(plan.handle, 0, b"x", ctypes.byref(value)))
    refused(plan, "BAD_NAME", "no such hyper", lr.plan_get(plan.handle, 1, b"lr", ctypes.byref(value)))
    refused(plan, "BAD_T", "t must be in", lr.plan_set_clock(plan.handle, -1, None))
    refused(plan, "BAD_T", "skipped_steps must be in", lr.plan_set_clock(plan.handle, 3, (INT64 * 2)(0, 4)))
    assert [plan.slots(0), plan.slots(-1), plan.slots(9)] == [["m", "v"], [], []]


def test_an_older_header_has_shorter_structs():
    plan, _ = small()
    info = Info(16)                    # (ends after `tensors`)
    plan.done(lr.plan_info(plan.handle, ctypes.byref(info)))
    assert (info.groups, info.tensors, info.elements) == (1, 2, 0)
    long = (ctypes.c_char * 4000)()    # (a newer one's are longer)
    ctypes.cast(long, ctypes.POINTER(ctypes.c_uint32))[0] = 4000
    plan.done(lr.plan_info(plan.handle, long))
    assert Info.from_buffer(long).elements == 29


def test_members_of_a_newer_header_are_read_as_zero_and_refused_if_they_are_set():
    plan, params = small()
    before = bits(params)
    names = [(Info, "plan_info", ()), (Array, "plan_state", (0, b"m"))]
    for kind, function, given in names:                        # (what is not known here is filled with zeros)
        long = (ctypes.c_char * 256)(*[7] * 256)
        ctypes.cast(long, ctypes.POINTER(ctypes.c_uint32))[0] = 200
        plan.done(getattr(lr, function)(plan.handle, *given, long))
        assert kind.from_buffer(long).struct_size == 200
        assert long.raw[ctypes.sizeof(kind):] == bytes(200 - ctypes.sizeof(kind)) + bytes([7] * 56)
    grads = arrays(np.float64, [(6, 4), (5,)], seed=1)
    pointers = (POINTER * 2)(*(g.ctypes.data for g in grads))
    Longer = struct(zero_grads=INT32, grad_scale=DOUBLE, loss=DOUBLE, unknown=DOUBLE)
    refused(plan, "BAD_STRUCT", "zeros in members that this fastlr does not know", lr.plan_step(
        plan.handle, pointers, ctypes.byref(Longer(ctypes.sizeof(Longer), 0, 1.0, nan, 1e-300))))
    assert bits(params) == before
    plan.done(lr.plan_step(plan.handle, pointers, ctypes.byref(Longer(ctypes.sizeof(Longer), 0, 1.0, nan, 0.0))))
    Wider = type("Wider", (ctypes.Structure,), {"_fields_": [("known", Tensor), ("unknown", INT64)]})
    late, memory = Plan("adamw"), np.zeros(3)
    for unknown in (1, 0):
        given = Wider(late.tensor(memory), unknown)
        given.known.struct_size = ctypes.sizeof(Wider)
        code = lr.plan_add(late.handle, ctypes.cast(ctypes.pointer(given), POINTER))
        if unknown:
            refused(late, "BAD_STRUCT", "zeros in members that this fastlr does not know", code)
        else:
            late.done(code)
    late.done(lr.plan_build(late.handle))
    assert late.info.tensors == 1


def test_of_several_groups_that_come_later_all_are_built_or_none(tmp_path):
    plan, _ = small()
    state = tmp_path / "before.safetensors"
    plan.done(plan.step(arrays(np.float64, [(6, 4), (5,)], seed=1)))
    plan.done(lr.plan_save(plan.handle, str(state).encode()))
    good, memory = np.zeros(3), np.zeros(8)
    plan.done(plan.add(good, "good", 1)).done(plan.add(memory[:5], "x", 2)).done(plan.add(memory[4:], "y", 2))
    for _ in range(2):
        refused(plan, "REFUSED", "parameter 'x' and parameter 'y' share memory", lr.plan_build(plan.handle))
    plan.done(lr.plan_save(plan.handle, str(tmp_path / "after.safetensors").encode()))
    assert (tmp_path / "after.safetensors").read_bytes() == state.read_bytes()


def test_a_plan_that_another_thread_uses_is_busy(monkeypatch, tmp_path):
    plan, params = small()
    codes = []
    grads = arrays(np.float64, [(6, 4), (5,)], seed=1)

    def meanwhile(path, opt):
        def other():
            codes.append(plan.step(grads))
            codes.append(plan.add(np.zeros(3)))
            codes.append(lr.plan_free(plan.handle))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    monkeypatch.setattr(fastlr.checkpoint, "save", meanwhile)
    before = bits(params)
    plan.done(lr.plan_save(plan.handle, str(tmp_path / "x").encode()))
    assert codes == [ERRORS["FASTLR_BUSY"]] * 3
    assert bits(params) == before
    plan.done(plan.step(grads))


def test_plans_step_in_many_threads_at_a_time():
    results = []

    def train():
        params = arrays(np.float32, [(LARGE,), (100,)])
        plan = Plan("adamw", params)
        for t in range(20):
            plan.done(plan.step(arrays(np.float32, [(LARGE,), (100,)], seed=t)))
        results.append(bits(params))
    threads = [threading.Thread(target=train) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(each == results[0] for each in results)


def test_rules_are_listed():
    names = []
    while (name := lr.rule_name(len(names))) is not None:
        names.append(name.decode())
    assert {cls.__name__.lower() for cls in fastlr.optimizers.base.REGISTRY.values() if fastlr.kernels.is_elementwise(cls)
            } <= set(names)
    assert len(names) == len(set(names))
    assert lr.rule_name(-1) is None
