"""Checkpoints: a resumed run ends at the same bits; a damaged, hostile or foreign file changes nothing."""
import copy
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import registry  # noqa: F401  (it gives steps the loss or the curvature that some rules need)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastlr
from fastlr import CheckpointError, checkpoint, schedules
from fastlr._engine import file_replacement
from fastlr._engine import safetensors as container
from fastlr._engine.compiled_schedule import DEPTH

with warnings.catch_warnings():
    warnings.simplefilter("ignore")         # the extension modules of safetensors are not our concern
    safetensors = pytest.importorskip("safetensors")
    numpy_side = pytest.importorskip("safetensors.numpy")

STEPS = 12
DTYPES = [np.float32, np.float64]
everything = pytest.mark.parametrize("name", fastlr.list_optimizers())
fuzz = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# What is tested with: every layout of a parameter, in two groups with a schedule in each

def parameters(dtype, seed=None):
    def values(*shape):
        if seed is None:
            return np.zeros(shape, dtype)
        return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)

    return [
        {"plain": values(3, 4), "fortran": np.asfortranarray(values(4, 3, 2)), "scalar": values()},
        {"strided": np.repeat(values(6, 5), 2, axis=1)[::2, ::2],
         "turned": values(2, 3, 4).transpose(1, 2, 0), "backwards": values(7)[::-1], "empty": values(0),
         "a/m": values(1)},
    ]


def build(name, dtype, seed=None, rate=0.05):
    first, second = parameters(dtype, seed)
    lr = schedules.cosine(rate, steps=9).warmup(3, start=0.01)
    groups = [{"params": first, "lr": lr}, {"params": second, "weight_decay": 0.1}]
    return fastlr.create_optimizer(name, groups, lr=rate / 3)


def gradients(dtype, k):
    """Of update k; now one tensor has none, now a whole group."""
    grads = parameters(dtype, 100 + k)
    if k % 3 == 1:
        grads[0]["fortran"] = None
    if k % 5 == 2:
        grads[1] = dict.fromkeys(grads[1])
    return grads


def snapshot(opt):
    """All of it, to the bit."""
    arrays = checkpoint.arrays_of(opt, True)
    return ({name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}, opt.t,
            opt._plan.read_skipped_steps(), [repr(group) for group in opt.groups])


def small(lr=0.1, t=2):
    """A file of a few hundred bytes with all kinds of entries."""
    params = {"w": np.arange(3.0), "b": np.ones(1, np.float32)}
    opt = fastlr.Momentum(params, lr=schedules.linear(lr, steps=5))
    for k in range(t):
        opt.step({"w": np.full(3, k + 1.0), "b": None if k else np.ones(1, np.float32)})
    return opt


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.fixture
def untouched(path):
    """An optimizer with a past of its own, which must stay as it is; and a check of it."""
    opt = small(lr=0.3, t=4)
    before = snapshot(opt)

    def check(reason=None):
        with pytest.raises(CheckpointError, match=reason) as caught:
            fastlr.load(path, opt)
        assert str(caught.value).startswith(f"{path}: ")
        assert snapshot(opt) == before

    check.opt, check.before = opt, before
    return check


def content(path):
    return [entry.name for entry in path.parent.iterdir()]


# Exact resume

# (one dtype for each, in turns: test_state.py resumes each in both, and the bytes of a file are compared in both below)
@pytest.mark.parametrize(("name", "dtype"), [(name, DTYPES[k % 2]) for k, name in enumerate(fastlr.list_optimizers())])
def test_resuming_at_any_step_ends_at_the_same_bits(tmp_path, name, dtype):
    opt, ends = build(name, dtype, seed=1), []
    for k in range(STEPS + 1):
        fastlr.save(tmp_path / str(k), opt)
        ends.append(snapshot(opt))
        if k < STEPS:
            opt.step(gradients(dtype, k))
    assert np.isfinite(opt._plan.tensors[0].array).all()
    for k in range(STEPS + 1):
        resumed = build(name, dtype, rate=0.7)
        fastlr.load(tmp_path / str(k), resumed, params=True)
        assert resumed.t == k
        for j in range(k, STEPS if k % 4 == 1 else min(k + 1, STEPS)):       # (the next file has all that its step leaves)
            resumed.step(gradients(dtype, j))
        assert snapshot(resumed) == ends[resumed.t], f"resumed at {k}"


@everything
def test_saving_without_parameters_leaves_them_to_the_framework(path, name):
    opt = build(name, np.float64, seed=1)
    for k in range(3):
        opt.step(gradients(np.float64, k))
    fastlr.save(path, opt, params=False)
    assert not any(entry.startswith("param/") for entry in checkpoint.read_header(path)["tensors"])
    resumed = build(name, np.float64, seed=2)
    mine = copy.deepcopy([t.array for t in resumed._plan.tensors])
    with pytest.raises(CheckpointError, match="expected parameters, it was saved with params=False"):
        fastlr.load(path, resumed, params=True)
    for params in (None, False):
        fastlr.load(path, resumed, params=params)
        assert all(np.array_equal(t.array, p) for t, p in zip(resumed._plan.tensors, mine, strict=True))
        assert {n: b for n, b in snapshot(resumed)[0].items() if n.startswith("state/")} == {
            n: b for n, b in snapshot(opt)[0].items() if n.startswith("state/")}
        assert snapshot(resumed)[1:] == snapshot(opt)[1:]


def test_parameters_in_the_file_can_be_ignored(path):
    opt, other = small(), small(lr=0.3, t=4)
    fastlr.save(path, opt)
    mine = other._plan.tensors[0].array.copy()
    fastlr.load(path, other, params=False)
    assert np.array_equal(other._plan.tensors[0].array, mine) and other.t == 2
    fastlr.load(path, other)
    assert snapshot(other) == snapshot(opt)


def test_parameters_are_written_in_place(path):
    opt = small()
    fastlr.save(path, opt)
    memory = np.zeros(6)
    bias = bytearray(4)
    other = fastlr.Momentum({"w": memory[::2], "b": memoryview(bias).cast("f")})
    fastlr.load(path, other)
    assert memory[::2].tolist() == opt._plan.tensors[0].array.tolist() and not memory[1::2].any()
    assert np.frombuffer(bias, np.float32).tolist() == opt._plan.tensors[1].array.tolist()


def test_the_loaded_state_is_a_copy(path):
    opt, other = small(), small()
    fastlr.save(path, opt)
    slots = other.state["w"]["m"]
    fastlr.load(path, other)
    assert other.state["w"]["m"] is slots
    other.step({"w": np.ones(3), "b": None})
    assert snapshot(opt) != snapshot(other)


@everything
def test_a_file_says_what_state_dict_says(path, name):
    opt = build(name, np.float32, seed=1)
    for k in range(4):
        opt.step(gradients(np.float32, k))
    described = opt.state_dict()
    state = described.pop("state")
    assert opt._described() == described
    assert checkpoint.arrays_of(opt, False).keys() == {
        f"state/{tensor}/{slot}" for tensor, slots in state.items() for slot in slots}


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 1e22, 0.0, 123456789.0])
def test_hyper_parameters_come_back_exactly(path, value):
    fastlr.save(path, fastlr.SGD(np.zeros(2), lr=value))
    other = fastlr.SGD(np.zeros(2))
    fastlr.load(path, other)
    assert other.lr.hex() == value.hex()


@pytest.mark.parametrize("nest", [lambda s: s.shift(1), lambda s: schedules.join([s, s], at=[3])])
def test_deeply_nested_schedules_come_back(path, nest):
    s, deepest = schedules.constant(0.1), None
    for _ in range(12 if nest(s).to_dict()["name"] == "join" else DEPTH):
        try:
            s = nest(s)
            schedules.from_dict(s.to_dict())
        except ValueError:
            break
        deepest = s
    fastlr.save(path, fastlr.SGD(np.zeros(2), lr=deepest))
    other = fastlr.SGD(np.zeros(2))
    fastlr.load(path, other)
    assert other.lr == deepest


def test_a_function_is_kept_not_saved(path):
    def rate(t):
        return 0.1 / (1 + t)

    fastlr.save(path, fastlr.SGD(np.zeros(2), lr=rate))
    other = fastlr.SGD(np.ones(2), lr=rate)
    fastlr.load(path, other)
    assert other.lr is rate
    plain = fastlr.SGD(np.ones(2), lr=0.5)
    before = snapshot(plain)
    with pytest.raises(CheckpointError, match=r"lr was a function .*set opt\.lr to it before loading"):
        fastlr.load(path, plain)
    assert snapshot(plain) == before


def test_an_optimizer_of_nothing(path):
    for opt in (fastlr.SGD([]), fastlr.Adam({"none": np.zeros(0)})):
        fastlr.save(path, opt)
        fastlr.load(path, opt)


# One format with everybody else

@everything
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_safetensors_package_reads_our_files(path, name, dtype):
    opt = build(name, dtype, seed=1)
    for k in range(3):
        opt.step(gradients(dtype, k))
    fastlr.save(path, opt)
    theirs = numpy_side.load_file(path)
    ours = checkpoint.arrays_of(opt, True)
    assert theirs.keys() == ours.keys()
    for entry, array in ours.items():
        assert (theirs[entry].dtype, theirs[entry].shape) == (array.dtype, array.shape)
        assert theirs[entry].tobytes() == array.tobytes(), entry
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["fastlr"])["state"]["optimizer"] == type(opt).__name__
    header = checkpoint.read_header(path)
    assert (header["optimizer"], header["t"]) == (type(opt).__name__, 3)
    assert header["metadata"]["groups"][0]["lr"]["name"] == "warmup"
    size = np.dtype(dtype).itemsize
    assert header["tensors"]["param/fortran"] == {
        "dtype": f"F{8 * size}", "shape": (4, 3, 2), "bytes": 24 * size}


@pytest.mark.parametrize("opt", [small(), fastlr.SGD({"b": np.ones(1, np.float32), "w": np.arange(3.0)})])
def test_the_layout_of_a_file(path, opt):
    fastlr.save(path, opt)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0 and raw[8:9] == b"{"
    header = json.loads(raw[8:8 + length])
    assert all(isinstance(text, str) for text in header.pop("__metadata__").values())
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == len(raw) - 8 - length
    for entry in header.values():
        assert entry["data_offsets"][0] % {"F64": 8, "F32": 4}[entry["dtype"]] == 0
    begin, end = header["param/w"]["data_offsets"]
    values = checkpoint.arrays_of(opt, True)["param/w"]
    assert raw[8 + length + begin:8 + length + end] == values.astype("<f8").tobytes()


def test_read_header_reads_the_safetensors_package(path):
    arrays = {"a": np.zeros((2, 3), np.float16), "b": np.zeros((), np.int64),
              "c": np.zeros((1000000, 0), bool), "d": np.zeros(3, np.uint16),
              "é\n": np.zeros(1, np.complex64)}
    numpy_side.save_file(arrays, path, metadata={"who": "somebody"})
    header = checkpoint.read_header(path)
    assert (header["optimizer"], header["t"], header["metadata"]) == (None, None, {"who": "somebody"})
    assert {n: (t["shape"], t["bytes"]) for n, t in header["tensors"].items()} == {
        n: (a.shape, a.nbytes) for n, a in arrays.items()}
    assert {t["dtype"] for t in header["tensors"].values()} == {"F16", "I64", "BOOL", "U16", "C64"}
    numpy_side.save_file(arrays, path)
    assert checkpoint.read_header(path)["metadata"] == {}


def test_a_foreign_file_is_not_loaded(path, untouched):
    numpy_side.save_file(checkpoint.arrays_of(small(), True), path)
    untouched("expected a checkpoint of fastlr, this is a safetensors file of another program")
    fastlr.save(path, small())
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    ours = path.read_bytes()
    numpy_side.save_file(numpy_side.load_file(path), path, metadata=metadata)
    if path.read_bytes() != ours:          # (its order of entries differs from run to run)
        untouched()


@given(st.lists(st.text(), min_size=1, max_size=4, unique=True))
@settings(fuzz, max_examples=30)
def test_any_name_comes_back(tmp_path, names):
    path = tmp_path / "names"

    def over(values):
        return fastlr.Momentum({name: np.full(1, float(x)) for name, x in zip(names, values, strict=True)})

    opt = over(range(len(names)))
    opt.step({name: np.ones(1) for name in names})
    fastlr.save(path, opt)
    other = over([7] * len(names))
    fastlr.load(path, other)
    assert snapshot(other) == snapshot(opt)
    assert numpy_side.load_file(path).keys() == checkpoint.arrays_of(opt, True).keys()


def test_a_name_that_is_no_text_is_refused_before_anything_is_written(path):
    opt = fastlr.SGD({"w\udc80": np.zeros(1)})
    with pytest.raises(ValueError, match=r"save: names must be Unicode text, got '\\udc80' in one; rename"):
        fastlr.save(path, opt)
    assert content(path) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint8", "float32"])
def test_arrays_of_every_kind_of_state_are_written_in_c_order(tmp_path, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    values = (np.arange(600_000) % 120).astype(kind).reshape(2, 300_000)
    for array in (values, values.T, values[:, ::3], values[::-1], np.asfortranarray(values)):
        with open(tmp_path / "raw", "w+b") as file:
            total = container.written(file, array)
            file.seek(0)
            back = np.empty(array.shape, kind)
            assert container.fetched(file, array.nbytes, back) == total
        assert back.tobytes() == array.tobytes() == (tmp_path / "raw").read_bytes()


# Damage

def test_a_file_cut_anywhere_is_refused(path, untouched):
    fastlr.save(path, small())
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        untouched()
        with pytest.raises(CheckpointError):
            checkpoint.read_header(path)
    for longer in (raw + b"\0", raw + raw, raw[:8] + b" " + raw[8:]):
        path.write_bytes(longer)
        untouched()


def test_every_flipped_bit_is_noticed(path, untouched):
    fastlr.save(path, small())
    raw = bytearray(path.read_bytes())
    with open(path, "r+b", buffering=0) as file:
        for position in range(len(raw)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([raw[position] ^ 1 << bit]), position)
                with pytest.raises(CheckpointError):
                    fastlr.load(path, untouched.opt)
            os.pwrite(file.fileno(), raw[position:position + 1], position)
            assert snapshot(untouched.opt) == untouched.before, position
    fastlr.load(path, untouched.opt)


def test_a_flipped_bit_is_noticed_in_parameters_that_are_ignored(path, untouched):
    fastlr.save(path, small())
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    begin = json.loads(raw[8:8 + length])["param/w"]["data_offsets"][0]
    raw[8 + length + begin] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="the bytes of 'param/w' are not those that were saved"):
        fastlr.load(path, untouched.opt, params=False)
    assert snapshot(untouched.opt) == untouched.before


@given(st.data())
@fuzz
def test_any_other_damage_is_noticed(tmp_path, data):
    path = tmp_path / "damaged"
    fastlr.save(path, small())
    raw = path.read_bytes()
    begin = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(begin, len(raw)))
    between = data.draw(st.binary(max_size=40) | st.just(raw[end:]) | st.just(raw[:begin]))
    damaged = raw[:begin] + between + raw[end:]
    path.write_bytes(damaged)
    opt = small(lr=0.3, t=4)
    before = snapshot(opt)
    if damaged == raw:
        fastlr.load(path, opt)
    else:
        with pytest.raises(CheckpointError):
            fastlr.load(path, opt)
        assert snapshot(opt) == before


# Hostility

def framed(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype="F64", shape=(1,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


HOSTILE = {
    "nothing": (b"", "expected a safetensors file, got 0 bytes"),
    "too short": (b"\x02\0\0", "expected a safetensors file, got 3 bytes"),
    "length 2**63": ((2**63).to_bytes(8, "little") + b"{}", "expected a safetensors file"),
    "length 2**64 - 1": (b"\xff" * 8 + b"{}", "expected a safetensors file"),
    "length over the limit": ((10**8 + 1).to_bytes(8, "little") + b"{}", "expected a safetensors file"),
    "length past the end": ((10**8).to_bytes(8, "little") + b"{}", "a safetensors file, got 10 bytes"),
    "length 0": (b"\0" * 8, "expected a safetensors file"),
    "one byte missing": ((3).to_bytes(8, "little") + b"{}", "expected a safetensors file"),
    "no JSON": (framed(b"{not json}"), "its header is malformed"),
    "an array": (framed(b"[]"), "is no JSON object"),
    "space first": (framed(b" {}"), "is no JSON object"),
    "not UTF-8": (framed(b'{"\xff":1}'), "its header is malformed: .*utf-8"),
    "lone surrogate": (framed(b'{"\\ud800":{}}'), "its header is malformed: .*surrogates"),
    "byte order mark": (framed(b'\xef\xbb\xbf{}'), "its header is malformed"),
    "deep arrays": (framed(b'{"a":' + b"[" * 10**6), "nested more than 4 deep"),
    "deep objects": (framed(b'{"a":' * 10**5), "nested more than 4 deep"),
    "deep behind a quote": (framed(rb'{"\"]]":' + b"[" * 10**6), "nested more than 4 deep"),
    "deep behind a backslash": (framed(rb'{"\\":' + b"[" * 10**6), "nested more than 4 deep"),
    "duplicate tensor": (framed(json.dumps({"a": entry(), "b": entry()}).replace("b",
                         "a").encode(), bytes(8)),
                         "a key appears twice"),
    "duplicate key": (framed(b'{"a":{"dtype":"F64","dtype":"F64","shape":[1]}}'),
                      "a key appears twice"),
    "duplicate metadata": (framed(b'{"__metadata__":{},"__metadata__":{}}'), "a key appears twice"),
    "huge integer": (framed(b'{"a":' + b"9" * 5000 + b"}"), "an integer is too large"),
    "integer past 64 bits": (framed({"a": entry(shape=[0, 2**64], offsets=(0, 0))}),
                             "an integer is too large"),
    "NaN": (framed(b'{"a":NaN}'), "'NaN' is no finite number"),
    "Infinity": (framed(b'{"a":-Infinity}'), "'-Infinity' is no finite number"),
    "1e999": (framed(b'{"a":1e999}'), "'1e999' is no finite number"),
    "overlap": (framed({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
                "'b' begins at byte 4 .*ends at 8"),
    "same bytes": (framed({"a": entry(), "b": entry()}, bytes(8)), "begins at byte 0 .*ends at 8"),
    "gap": (framed({"a": entry(), "b": entry(offsets=(16, 24))}, bytes(24)),
            "'b' begins at byte 16 .*ends at 8"),
    "gap at the start": (framed({"a": entry(offsets=(8, 16))}, bytes(16)), "'a' begins at byte 8"),
    "trailing bytes": (framed({"a": entry()}, bytes(9)), "was it cut off"),
    "missing bytes": (framed({"a": entry()}, bytes(7)), "was it cut off"),
    "negative shape": (framed({"a": entry(shape=[-1])}, bytes(8)), "shape must be a list of counts"),
    "two negative": (framed({"a": entry(shape=[-1, -1])}, bytes(8)), "shape must be a list of counts"),
    "shape is true": (framed({"a": entry(shape=[True])}, bytes(8)), "shape must be a list of counts"),
    "shape is 1.0": (framed({"a": entry(shape=[1.0])}, bytes(8)), "shape must be a list of counts"),
    "shape is null": (framed({"a": {**entry(), "shape": None}}, bytes(8)), "shape must be a list of counts"),
    "shape too big": (framed({"a": entry(shape=[2])}, bytes(8)), "does not fill the bytes"),
    "product wraps to 1": (framed({"a": entry(shape=[2**32, 2**32, 1])}, bytes(8)),
                           "does not fill the bytes"),
    "product wraps to 0": (framed({"a": entry(shape=[2**63, 2, 0], offsets=(0, 0))}),
                           "does not fill the bytes"),
    "product of a million": (framed({"a": entry(shape=[2**62] * 10**5)}, bytes(8)),
                             "does not fill the bytes"),
    "negative offsets": (framed({"a": entry(offsets=[-8, 0])}, bytes(8)), "data_offsets must be two counts"),
    "reversed offsets": (framed({"a": entry(offsets=[8, 0])}, bytes(8)), "does not fill the bytes"),
    "three offsets": (framed({"a": entry(offsets=[0, 8, 8])}, bytes(8)), "data_offsets must be two counts"),
    "huge offsets": (framed({"a": entry(shape=[2**60], offsets=[0, 2**63])}, bytes(8)), "was it cut off"),
    "half a byte": (framed({"a": entry("F4", shape=[3], offsets=[0, 1])}, bytes(1)),
                    "does not fill the bytes"),
    "unknown dtype": (framed({"a": entry("F63")}, bytes(8)), "unknown dtype 'F63'"),
    "object dtype": (framed({"a": entry("O")}, bytes(8)), "unknown dtype 'O'"),
    "dtype is a list": (framed({"a": entry([])}, bytes(8)), r"unknown dtype \[\]"),
    "entry is a list": (framed({"a": []}), "expected dtype, shape and data_offsets"),
    "no shape": (framed({"a": {"dtype": "F64", "data_offsets": [0, 8]}}, bytes(8)),
                 "expected dtype, shape and"),
    "more keys": (framed({"a": entry(strides=[8])}, bytes(8)), "expected dtype, shape and data_offsets"),
    "metadata is a list": (framed({"__metadata__": []}), "__metadata__ must map names to texts"),
    "metadata is null": (framed({"__metadata__": None}), "__metadata__ must map names to texts"),
    "metadata of numbers": (framed({"__metadata__": {"a": 1}}), "__metadata__ must map names to texts"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused(path, untouched, case):
    raw, reason = HOSTILE[case]
    path.write_bytes(raw)
    untouched(reason)
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoint.read_header(path)
    assert len(str(caught.value)) < 600 + len(str(path))


def test_hostile_headers_cost_no_more_than_their_size(path, untouched):
    """A header of megabytes takes tens of megabytes; a length, shape or file size takes nothing."""
    quotes = framed(b'{"' + b'\\"' * 10**6)
    for raw in (*(raw for raw, _ in HOSTILE.values()), quotes, framed(b'{"' * 10**6), framed(b"[]" * 10**6)):
        path.write_bytes(raw)
        tracemalloc.start()
        untouched()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000 + 40 * len(raw)


def forged():
    """Headers whose JSON takes as much memory as it can, with as many bytes of text."""
    n = 500_000
    def many(text):
        return text * (n // len(text))
    yield "lists", b'{"a":{"shape":[' + many(b"[],") + b"0]}}"
    yield "objects", b'{"a":{"shape":[' + many(b"{},") + b"0]}}"
    yield "objects of one", b'{"a":{"shape":[' + many(b'{"a":1},') + b"0]}}"
    yield "numbers", b'{"a":{"shape":[' + many(b"0.1,") + b"0]}}"
    yield "integers", b'{"a":{"shape":[' + many(b"999,") + b"0]}}"
    yield "texts", b'{"a":{"shape":[' + many(b'"ab",') + b"0]}}"
    yield "keys", b"{" + b",".join(b'"%x":0' % k for k in range(n // 8)) + b"}"
    yield "metadata", b'{"__metadata__":{' + b",".join(b'"%x":"ab"' % k for k in range(n // 10)) + b"}}"
    yield "wide", b'{"__metadata__":{"\xf0\x9f\x98\x80":"' + b"a" * n + b'"}}'
    tensors = b",".join(b'"%x":{"dtype":"F4","shape":[],"data_offsets":[0,0]}' % k for k in range(n // 50))
    yield "tensors", b"{" + tensors + b"}"
    for name, text in (("notes of lists", '[[],' * 1 + "[]," * (n // 3) + "0]"), ("notes of objects", "[" + '{"a":1},' * (n // 8) + "0]"),
                       ("notes of keys", json.dumps({f"{k:x}": 0 for k in range(n // 8)}))):
        header = json.dumps({"__metadata__": {"crc32": "0" * 8, "fastlr": text}}, separators=(",", ":")).encode()
        raw = bytearray(framed(header))
        raw[checkpoint.DIGITS] = checkpoint.header_sum(raw)
        yield name, bytes(raw[8:])


@pytest.mark.parametrize(("name", "header"), list(forged()))
def test_a_forged_header_costs_no_more_than_its_size_times_20(path, name, header):
    """Was: 51 times."""
    path.write_bytes(framed(header))
    tracemalloc.start()
    try:
        checkpoint.read_header(path)
    except CheckpointError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000 + 20 * len(header), f"{peak / len(header):.1f}"


def test_numbers_that_json_lacks_are_saved_to_the_bit(path):
    """Prodigy after a NaN gradient."""
    opt = fastlr.Prodigy({"w": np.ones(3)})
    opt.step({"w": np.array([np.nan, 1.0, 1.0])})
    assert any(np.isnan(x) for x in opt.state_dict()["shared"].values())
    fastlr.save(path, opt)
    other = fastlr.Prodigy({"w": np.ones(3)})
    fastlr.load(path, other)
    assert opt._shared.tobytes() == other._shared.tobytes() and other.t == opt.t
    for value in (np.inf, -np.inf, np.nan, 1.5, {"float64 bits": "x"}, {"float64 bits": "3ff0000000000000"}, [1, (2.0, -np.inf)]):
        assert repr(checkpoint.decoded(json.loads(json.dumps(checkpoint.encoded(value), allow_nan=False)))) == \
            repr(value).replace("(2.0, -inf)", "[2.0, -inf]")


def test_a_vast_tensor_is_not_allocated(path, untouched):
    """A sparse file can claim, truly, to be of any size."""
    fastlr.save(path, small())
    raw = path.read_bytes()
    size = 1 << 36
    huge = rewritten(raw, lambda header: header["param/w"].update(shape=[size // 8], data_offsets=[0, size]))
    length = int.from_bytes(huge[:8], "little")
    header = json.loads(huge[8:8 + length])
    end = size
    for name in sorted(header.keys() - {"__metadata__", "param/w"}):
        n = 8 * 3 if name == "state/w/m" else 4
        header[name]["data_offsets"], end = [end, end + n], end + n
    path.write_bytes(sealed(header))
    os.truncate(path, 8 + int.from_bytes(path.read_bytes()[:8], "little") + end)
    tracemalloc.start()
    untouched(r"'param/w': expected F64 \(3,\) as in this Momentum, got F64 \(8589934592,\); build")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_only_regular_files_are_read(tmp_path, untouched):
    os.mkfifo(tmp_path / "run.safetensors")
    untouched("expected a regular file")
    with pytest.raises(CheckpointError, match="expected a regular file"):
        fastlr.load("/dev/zero", untouched.opt)
    with pytest.raises(IsADirectoryError):
        fastlr.load(tmp_path, untouched.opt)
    with pytest.raises(FileNotFoundError):
        fastlr.load(tmp_path / "missing", untouched.opt)
    with pytest.raises(FileNotFoundError):
        checkpoint.read_header(tmp_path / "missing")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2**64, 2**65) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["F64", "F32", "F4", "BOOL", "__metadata__"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8)
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F64", "U8", "F4", "BF16"]) | json_values,
     "shape": st.lists(st.integers(0, 3) | st.sampled_from([2**32, 2**63]), max_size=3) | json_values,
     "data_offsets": st.tuples(st.integers(0, 24), st.integers(0, 24)) | json_values})


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), entries | json_values, max_size=3),
       st.integers(0, 24))
@settings(fuzz, max_examples=200)
def test_what_read_header_accepts_the_safetensors_package_accepts(tmp_path, header, size):
    path = tmp_path / "fuzzed"
    path.write_bytes(framed(header, bytes(size)))
    try:
        ours = checkpoint.read_header(path)
    except CheckpointError:
        return
    with safetensors.safe_open(path, "np") as theirs:
        assert set(theirs.keys()) == ours["tensors"].keys()


@given(st.integers(0, 3), st.data())
@settings(fuzz, max_examples=200)
def test_sound_headers_are_accepted(tmp_path, count, data):
    path, header, end = tmp_path / "sound", {}, 0
    for k in range(count):
        shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
        dtype, size = data.draw(st.sampled_from([("F64", 8), ("F16", 2), ("BF16", 2), ("F8_E4M3", 1)]))
        begin, end = end, end + size * int(np.prod(shape))
        header[f"t{k}"] = entry(dtype, shape, (begin, end))
    path.write_bytes(framed(header, bytes(end)))
    assert checkpoint.read_header(path)["tensors"] == {
        name: {"dtype": e["dtype"], "shape": tuple(e["shape"]), "bytes": -np.subtract(*e["data_offsets"])}
        for name, e in header.items()}
    with safetensors.safe_open(path, "np") as theirs:
        assert set(theirs.keys()) == header.keys()


@given(st.binary(max_size=200), st.binary(max_size=20))
@fuzz
def test_random_bytes_are_refused(tmp_path, header, data):
    path = tmp_path / "random"
    opt = small()
    before = snapshot(opt)
    for raw in (header, framed(header, data), framed(b"{" + header, data)):
        path.write_bytes(raw)
        with pytest.raises(CheckpointError):
            fastlr.load(path, opt)
    assert snapshot(opt) == before


# Forgery: files whose sums are right

def sealed(header, data=b""):
    """A file with this header, and the right sum in it."""
    metadata = {"crc32": "0" * 8, **{k: v for k, v in header["__metadata__"].items() if k != "crc32"}}
    body = json.dumps({"__metadata__": metadata, **{k: v for k, v in header.items() if k != "__metadata__"}},
                      separators=(",", ":")).encode()
    raw = bytearray(framed(body, b""))
    raw[checkpoint.DIGITS] = checkpoint.header_sum(raw)
    return bytes(raw) + data


def rewritten(raw, change=lambda header: None, note=lambda note: None):
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + length])
    change(header)
    inner = json.loads(header["__metadata__"]["fastlr"])
    inner = note(inner) or inner
    header["__metadata__"]["fastlr"] = inner if isinstance(inner, str) else json.dumps(inner)
    return sealed(header, raw[8 + length:])


def state(**changes):
    return lambda note: note["state"].update(changes)


def first_group(**changes):
    return lambda note: note["state"]["groups"][0].update(changes)


FORGED = {
    "nothing": (lambda note: "null", "expected checkpoint format 1 or 2, got None"),
    "not JSON": (lambda note: "{", "its header is malformed"),
    "deep": (lambda note: "[" * 10**5, "nested more than"),
    "duplicate key": (lambda note: '{"format":1,"format":1}', "a key appears twice"),
    "newer format": (lambda note: note.update(format=3),
                     "expected checkpoint format 1 or 2, got 3; a newer fastlr may"),
    "the format of a run": (lambda note: note.update(format=2), "expected the entries of checkpoint format 2"),
    "more entries": (lambda note: note.update(extra=1), "expected the entries of checkpoint format 1"),
    "no sum": (lambda note: note.update(crc32={}), "its tensors are not those that were saved"),
    "sums are a list": (lambda note: note.update(crc32=[]), "its tensors are not those that were saved"),
    "sum is a number": (lambda note: note["crc32"].update({"param/w": 1}),
                        "the bytes of 'param/w' are not those"),
    "state is a list": (lambda note: note.update(state=[]), "expected the state of an optimizer"),
    "state lacks t": (lambda note: note.update(state={"format": 1}), "expected the state of an optimizer"),
    "t is negative": (state(t=-1), "expected the state of an optimizer"),
    "t is true": (state(t=True), "expected the state of an optimizer"),
    "t is 2.0": (state(t=2.0), "expected the state of an optimizer"),
    "t is 2**62": (state(t=2**62), "t must be a count"),
    "optimizer is a list": (state(optimizer=["Momentum"]), "expected the state of an optimizer"),
    "another optimizer": (state(optimizer="SGD"),
                          "this is the state of 'SGD', got an optimizer of class Momentum"),
    "newer state": (state(format=2), "expected format 1, got 2"),
    "missed is a list": (state(missed=[1]), "expected the state of an optimizer"),
    "missed by nobody": (state(missed={"x": 1}), "expected the state of an optimizer"),
    "missed more than there were": (state(missed={"w": 3}), "expected the state of an optimizer"),
    "missed less than any": (state(missed={"w": -2**62}), "must be a count from -"),
    "missed a half": (state(missed={"w": 0.5}), "expected the state of an optimizer"),
    "groups are a dict": (state(groups={}), "expected the state of an optimizer"),
    "no groups": (state(groups=[], missed={}), "expected 1 groups, got 0"),
    "a group is a number": (state(groups=[1]), "expected the state of an optimizer"),
    "params are a number": (first_group(params=1), "expected the state of an optimizer"),
    "params are numbers": (first_group(params=[1, 2]), "expected the state of an optimizer"),
    "params in another order": (first_group(params=["b", "w"]), r"expected the parameters \['w', 'b'\]"),
    "lr is a text": (first_group(lr="0.1"), "lr must be a number or a schedule, got '0.1'"),
    "lr is null": (first_group(lr=None), "lr must be a number or a schedule, got None"),
    "lr is negative": (first_group(lr=-1), "lr must be in"),
    "lr is an unknown schedule": (first_group(lr={"name": "os.system"}), "unknown schedule 'os.system'"),
    "lr is a schedule of a list": (first_group(lr={"name": ["cosine"]}), "unknown schedule"),
    "lr is a schedule of nonsense": (first_group(lr={"name": "linear", "lr": [], "steps": {}}),
                                     "lr must be|schedule"),
    "a hyper-parameter more": (first_group(beta=1), "unknown entry 'beta'"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_description_is_refused(path, untouched, case):
    change, reason = FORGED[case]
    fastlr.save(path, small())
    path.write_bytes(rewritten(path.read_bytes(), note=change))
    untouched(reason)


def test_the_forger_forges_well(path):
    """Without a change, what `rewritten` makes is loaded: so what the other tests see is their own change."""
    opt, other = small(), small(lr=0.3, t=4)
    fastlr.save(path, opt)
    path.write_bytes(rewritten(path.read_bytes()))
    fastlr.load(path, other)
    assert snapshot(other) == snapshot(opt)


def places(value, at=()):
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


@given(st.data(), json_values)
@settings(fuzz, max_examples=200)
def test_any_forged_value_is_refused_or_makes_sense(tmp_path, data, value):
    path, opt = tmp_path / "forged", small(lr=0.3, t=4)
    before = snapshot(opt)
    fastlr.save(path, small())

    def change(note):
        *way, last = data.draw(st.sampled_from([place for place in places(note) if place]))
        for key in way:
            note = note[key]
        note[last] = value

    path.write_bytes(rewritten(path.read_bytes(), note=change))
    try:
        fastlr.load(path, opt)
    except CheckpointError:
        assert snapshot(opt) == before
    else:
        fastlr.save(path, opt)
        fastlr.load(path, opt)


def test_nothing_in_a_file_is_run(path, untouched, tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Trap(), protocol))
        untouched("expected a safetensors file")
    assert content(path) == ["run.safetensors"]
    for module in (checkpoint, container):
        source = Path(module.__file__).read_text(encoding="utf-8")
        for word in ("pickle", "marshal", "eval(", "exec(", "__import__", "np.load"):
            assert word not in source


# What does not fit

def fits(**changes):
    params = {"w": np.zeros(3), "b": np.zeros(1, np.float32)} | changes
    return {name: array for name, array in params.items() if array is not None}


@pytest.mark.parametrize(("build", "reason"), [
    (lambda: fastlr.Nesterov(fits()),
     "this is the state of 'Momentum', got an optimizer of class Nesterov; load it"),
    (lambda: fastlr.Momentum(fits(x=np.zeros(1))),
     "Momentum needs 'param/x', which is not in the file; build the"),
    (lambda: fastlr.Momentum(fits(b=None)),
     "'param/b' is in the file, and this Momentum has none of that name.*; build"),
    (lambda: fastlr.Momentum(fits(w=np.zeros((3, 1)))),
     r"'param/w': expected F64 \(3, 1\) as in this Momentum, got F64 \(3,\)"),
    (lambda: fastlr.Momentum(fits(w=np.zeros(3, np.float32))),
     r"'param/w': expected F32 \(3,\) .*got F64 \(3,\); build"),
    (lambda: fastlr.Momentum([{"params": fits(b=None)}, {"params": fits(w=None)}]),
     "expected 2 groups, got 1"),
    (lambda: fastlr.Momentum(dict(reversed(fits().items()))),
     r"expected the parameters \['b', 'w'\], got \['w', 'b'\]"),
])
def test_a_file_that_does_not_fit_says_why(path, build, reason):
    fastlr.save(path, small())
    opt = build()
    before = snapshot(opt)
    with pytest.raises(CheckpointError, match=reason):
        fastlr.load(path, opt)
    assert snapshot(opt) == before


def test_an_extra_tensor_names_the_nearest(path):
    fastlr.save(path, fastlr.SGD({"fc1.weight": np.zeros(1), "fc1.bias": np.zeros(1)}))
    opt = fastlr.SGD({"fc1.weight": np.zeros(1)})
    reason = (r"'param/fc1.bias' is in the file, and this SGD has none of that name; did you mean "
              r"'param/fc1.weight'\?; build the optimizer over the parameters that were saved")
    with pytest.raises(CheckpointError, match=reason):
        fastlr.load(path, opt)


def test_a_parameter_that_became_read_only_is_refused(path, untouched):
    fastlr.save(path, small())
    for tensor in untouched.opt._plan.tensors:
        tensor.array.flags.writeable = False
    untouched("'param/.': must be writable, but the array is read-only now")


def test_the_arguments_of_torch_are_told_apart(path):
    opt = small()
    with pytest.raises(TypeError, match=r"save\(path, opt\): opt must be a fastlr optimizer, or a dict.*, got PosixPath"):
        fastlr.save(opt, path)
    with pytest.raises(TypeError, match=r"load\(path, opt\): opt must be a fastlr optimizer, or a dict.*, got set"):
        fastlr.load(path, set())


def test_all_or_nothing_when_the_state_is_refused_last(path, untouched, monkeypatch):
    """Parameters are copied only after the optimizer has taken its state."""
    fastlr.save(path, small())

    def refuse(self, d):
        raise ValueError("not today")

    monkeypatch.setattr(fastlr.Optimizer, "load_state_dict", refuse)
    untouched("not today")


# Failures while saving

@pytest.fixture
def old(path):
    """A file that is there already, with its bytes."""
    fastlr.save(path, small(t=1))
    return path.read_bytes()


def failing(number, code=errno.EIO):
    """Fails at the call of this number, counted from 1, and works otherwise."""
    calls = []

    def wrap(real):
        def call(*args, **kwargs):
            calls.append(args)
            if len(calls) == number:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)
        return call
    return wrap


@pytest.mark.parametrize("function", ["fsync", "replace", "fchmod"])
def test_a_failure_leaves_the_old_file(path, old, monkeypatch, function):
    with monkeypatch.context() as patched:
        patched.setattr(os, function, failing(1)(getattr(os, function)))
        with pytest.raises(OSError, match="Input/output error"):
            fastlr.save(path, small())
    assert path.read_bytes() == old and content(path) == [path.name]


def test_an_interrupt_leaves_the_old_file(path, old, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fastlr.save(path, small())
    assert path.read_bytes() == old and content(path) == [path.name]


def test_a_failure_to_record_the_exchange_is_told_and_the_new_file_is_whole(path, old, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(2)(os.fsync))
        with pytest.raises(OSError, match="Input/output error"):
            fastlr.save(path, small())
    opt = small(lr=0.3, t=4)
    fastlr.load(path, opt)
    assert snapshot(opt) == snapshot(small()) and content(path) == [path.name]


def test_everything_is_on_the_disk_before_the_exchange(path, old, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("directory" if directory else Path(f"/proc/self/fd/{descriptor}").read_bytes())
        real_fsync(descriptor)

    def replace(source, target):
        assert Path(source).parent == Path(target).parent
        calls.append("exchange")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    fastlr.save(path, small())
    assert calls == [path.read_bytes(), "exchange", "directory"]       # (and nothing was left in a buffer)


@pytest.mark.parametrize("limit", [0, 1, 300, 900, 100_000, 1_500_000])
def test_a_full_device_leaves_the_old_file(path, old, limit):
    resource = pytest.importorskip("resource")
    opt = fastlr.Momentum({"w": np.zeros((2, 100_000)).T})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(OSError, match="File too large"):
            fastlr.save(path, opt)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == old and content(path) == [path.name]


def test_a_directory_that_may_not_be_written(old, path):
    folder = Path(tempfile.mkdtemp())
    nobody = 65534
    try:
        (folder / "run").write_bytes(old)
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(nobody)
        try:
            opt = small()
            before = snapshot(opt)
            for name in ("run", "new"):
                with pytest.raises(PermissionError):
                    fastlr.save(folder / name, opt)
            assert snapshot(opt) == before
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
        assert (folder / "run").read_bytes() == old and [f.name for f in folder.iterdir()] == ["run"]
    finally:
        folder.chmod(0o755)
        (folder / "run").unlink()
        folder.rmdir()


def test_only_regular_files_are_replaced(tmp_path):
    with pytest.raises(IsADirectoryError):
        fastlr.save(tmp_path, small())
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", "/dev/full"):
        with pytest.raises(OSError, match="not a regular file"):
            fastlr.save(special, small())
    assert [f.name for f in tmp_path.iterdir()] == ["pipe"] and stat.S_ISCHR(os.stat("/dev/full").st_mode)
    with pytest.raises(FileNotFoundError):
        fastlr.save(tmp_path / "no" / "such", small())


def test_the_mode_is_kept_and_a_new_file_obeys_the_umask(path):
    before = os.umask(0o027)
    try:
        fastlr.save(path, small())
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o600, 0o664, 0o444):
            path.chmod(mode)
            fastlr.save(path, small())
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_private_file_is_never_open_to_others(path, monkeypatch):
    fastlr.save(path, small())
    path.chmod(0o600)
    modes = []

    def spy(name, flags, mode=0o777, real=os.open, **more):
        if flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE:
            assert flags & os.O_EXCL or not flags & os.O_CREAT
            modes.append(mode)
        return real(name, flags, mode, **more)

    monkeypatch.setattr(os, "open", spy)
    fastlr.save(path, small())
    assert modes == [0o600]


def test_a_link_is_followed(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    fastlr.save(tmp_path / "store" / "real", small(t=1))
    (tmp_path / "link").symlink_to("store/real")
    (tmp_path / "ahead").symlink_to("store/coming")
    monkeypatch.chdir(tmp_path)
    for link, target in (("link", "real"), ("ahead", "coming")):
        fastlr.save(link, small())
        assert (tmp_path / link).is_symlink() and not (tmp_path / "store" / target).is_symlink()
        assert checkpoint.read_header(tmp_path / "store" / target)["t"] == 2
    assert sorted(f.name for f in (tmp_path / "store").iterdir()) == ["coming", "real"]


def test_paths_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("text", b"bytes", Path("path"), "n" * 255):
        fastlr.save(name, small())
        opt = small(t=4)
        fastlr.load(name, opt)
        assert checkpoint.read_header(name)["t"] == opt.t == 2
    with pytest.raises(CheckpointError, match="/nobody"):
        Path("nobody").write_bytes(b"")
        fastlr.load(tmp_path / "nobody", opt)


def test_saving_makes_no_second_copy(path):
    opt = fastlr.Adam({"w": np.zeros((4, 1 << 18)).T, "v": np.zeros(1 << 20)})
    total = sum(array.nbytes for array in checkpoint.arrays_of(opt, True).values())
    tracemalloc.start()
    fastlr.save(path, opt)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 48_000_000 and peak < 4 * container.BLOCK


# Death while saving

CHILD = """
import os, signal, sys
import numpy as np, fastlr
from fastlr import checkpoint
from fastlr._engine import file_replacement

path, moment, *named = sys.argv[1:]
if named:
    file_replacement.UNNAMED = 0
params = {"w": np.zeros((3, 50_000)).T, "b": np.zeros(7)}
opt = fastlr.Momentum(params, lr=1.0, momentum=0.0)
grads = {name: -np.ones(p.shape) for name, p in params.items()}

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

for k in range(3 if moment != "any" else 10**9):
    opt.step(grads)
    if k == 2:
        if moment == "while writing":
            real, calls = checkpoint.written, []
            def written(file, array):
                calls.append(array)
                total = real(file, array)
                file.flush()
                return total if len(calls) < 3 else die()
            checkpoint.written = written
        elif moment == "before the exchange":
            os.replace = die
        elif moment == "after the exchange":
            real_replace = os.replace
            def replace(*args):
                real_replace(*args)
                die()
            os.replace = replace
        elif moment == "before the file is on the disk":
            os.fsync = die
    fastlr.save(path, opt)
    print(opt.t, flush=True)
"""


def run_and_die(path, moment, *named):
    """Start the child, which says each t that it has saved."""
    command = [sys.executable, "-c", CHILD, str(path), moment, *named]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def whole(path):
    """The t of a file, in which every number is t."""
    params = {"w": np.zeros((3, 50_000)).T, "b": np.zeros(7)}
    opt = fastlr.Momentum(params)
    fastlr.load(path, opt, params=True)
    assert all((p == opt.t).all() for p in params.values())
    assert all((slots["m"] == -1).all() for slots in opt.state.values())
    return opt.t


@pytest.mark.parametrize(("moment", "t"), [
    ("while writing", 2), ("before the file is on the disk", 2), ("before the exchange", 2),
    ("after the exchange", 3)])
@pytest.mark.parametrize("named", [(), ("named",)], ids=["unnamed", "named"])
def test_death_leaves_the_old_file_or_the_new_one(path, moment, t, named):
    if not named and file_replacement.unnamed_file(path.parent, 0o600) is None:
        pytest.skip("no unnamed files here")
    with run_and_die(path, moment, *named) as child:
        said = child.stdout.read().split()
        assert child.wait() == -signal.SIGKILL
    assert said == ["1", "2"] and whole(path) == t
    assert [name for name in content(path) if name != path.name and not name.startswith(".fastlr-")] == []
    named_at = {"before the exchange"} if not named else {"while writing", "before the file is on the disk",
                                                          "before the exchange"}
    assert len(content(path)) == (2 if moment in named_at else 1)
    other = path.with_name(f".fastlr-00000000-{'0' * 16}.tmp")
    other.write_bytes(b"")
    fastlr.save(path, small())
    assert sorted(content(path)) == [other.name, path.name]        # (that of another target is not ours)


def test_a_file_that_is_being_written_is_not_removed(path, monkeypatch):
    """Two savers at once, each of which has its file under a temporary name."""
    monkeypatch.setattr(file_replacement, "UNNAMED", 0)
    with file_replacement.replacing(str(path)) as first:
        first.write(b"first")
        with file_replacement.replacing(str(path)) as second:
            second.write(b"second")
            assert len(content(path)) == 2
        assert path.read_bytes() == b"second" and len(content(path)) == 2
    assert path.read_bytes() == b"first" and content(path) == [path.name]


def test_death_at_any_moment_leaves_a_whole_file(path):
    for delay in (1, 2, 4, 7, 11):                # saves after which the blow may fall anywhere in the next
        with run_and_die(path, "any") as child:
            for _ in range(delay):
                last = int(child.stdout.readline())
            child.kill()
            last = int(([last, *child.stdout.read().split()])[-1])
            child.wait()
        assert whole(path) in (last, last + 1)


def test_a_reader_sees_the_old_file_or_the_new_one(path):
    params = {"w": np.zeros((3, 50_000)).T, "b": np.zeros(7)}
    opt = fastlr.Momentum(params, lr=1.0, momentum=0.0)
    grads = {name: -np.ones(p.shape) for name, p in params.items()}
    opt.step(grads)
    fastlr.save(path, opt)
    failures = []

    def write():
        try:
            for _ in range(30):
                opt.step(grads)
                fastlr.save(path, opt)
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    seen = [whole(path)]
    while writer.is_alive():
        seen.append(whole(path))
    writer.join()
    assert not failures and seen == sorted(seen) and whole(path) == 31
