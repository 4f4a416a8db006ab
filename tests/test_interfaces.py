"""Interfaces to memory: what is taken without a copy, what is refused and how, and what is given back."""
import array
import gc
import itertools
import re
import sys
import tracemalloc
from inspect import Parameter

import numpy as np
import pytest
from registry import ELEMENTWISE, arrays, bits, every_dtype, every_elementwise, full, operands, other_value, snapshot

import fastlr
from fastlr._engine.arrays import dlpack_array

SIZE = 60
TYPECODE = {np.float32: "f", np.float64: "d"}


class OnlyDLPack:
    """What offers DLPack and nothing else, as the tensors of other frameworks do."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **asked):
        return self.x.__dlpack__(**asked)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class OldDLPack(OnlyDLPack):
    """... before it could say that memory is read-only, so that NumPy takes all of it to be."""

    def __dlpack__(self, stream=None):
        return self.x.__dlpack__()


class Elsewhere(OnlyDLPack):
    """... in the memory of a GPU."""

    def __dlpack__(self, **asked):
        raise BufferError("it is on another device")

    def __dlpack_device__(self):
        return (2, 0)


class Labelled(np.ndarray):
    """A subclass that gets in the way of whoever goes through Python."""

    def __getitem__(self, key):
        raise AssertionError("an element was read through Python")

    def __array_finalize__(self, other):
        self.label = "kept"


def buffers(dtype, folder):
    """Interfaces to memory: how to make one of `SIZE` elements for a parameter, and how to read it back."""
    code, itemsize = TYPECODE[dtype], np.dtype(dtype).itemsize

    def same(x):
        return x, lambda: np.array(x)

    def unaligned():
        x = np.frombuffer(bytearray(SIZE * itemsize + 1), dtype, offset=1)
        assert not x.flags.aligned
        return same(x)

    def mapped():
        return same(np.memmap(folder / f"weights-{next(COUNT)}", dtype, "w+", shape=SIZE))

    def through(wrapper):
        x = np.zeros(SIZE, dtype)
        return wrapper(x), lambda: x.copy()

    def of_bytes():
        memory = bytearray(SIZE * itemsize)
        return memoryview(memory).cast(code), lambda: np.frombuffer(memory, dtype).copy()

    def of_array():
        x = array.array(code, bytes(SIZE * itemsize))
        return x, lambda: np.frombuffer(x, dtype).copy()

    def field():
        return same(np.zeros(SIZE, [("before", np.uint8), ("x", dtype), ("after", dtype)])["x"])

    def far():
        return same(np.zeros((SIZE, 4099), dtype)[:, 7])

    def backwards():
        return same(np.zeros(3 * SIZE, dtype)[::-3])

    def subclass():
        x = np.zeros(SIZE, dtype)
        return x.view(Labelled), lambda: x.copy()

    def other_dtype_object():
        x = np.zeros(SIZE, np.dtype(np.dtype(dtype).str, metadata={"of": "mine"}))
        assert x.dtype is not np.dtype(dtype)
        return same(x)

    return {
        "ndarray": lambda: same(np.zeros(SIZE, dtype)), "array.array": of_array, "memoryview": of_bytes,
        "memmap": mapped, "subclass": subclass, "unaligned": unaligned, "field of a record": field,
        "large stride": far, "negative stride": backwards, "DLPack": lambda: through(OnlyDLPack),
        "another dtype object": other_dtype_object,
    }


COUNT = itertools.count()
INTERFACES = list(buffers(np.float32, None))


# What is taken

@pytest.mark.parametrize("interface", INTERFACES)
@every_dtype
def test_a_parameter_is_updated_in_place(tmp_path, interface, dtype):
    gradients = [arrays(dtype, [SIZE], seed)[0] for seed in range(3)]
    want = np.zeros(SIZE, dtype)
    x, read = buffers(dtype, tmp_path)[interface]()
    opt, other = fastlr.AdamW([x], lr=0.1), fastlr.AdamW([want], lr=0.1)
    for g in gradients:
        opt.step([g])
        other.step([g])
    assert bits([read()]) == bits([want])
    assert bits(opt.state["0"].values()) == bits(other.state["0"].values())


@pytest.mark.parametrize("interface", [*INTERFACES, "old DLPack", "read-only", "bytes"])
@pytest.mark.parametrize("bound", [False, True], ids=["passed", "bound"])
@every_dtype
def test_a_gradient_is_read_in_place(tmp_path, interface, bound, dtype):
    values = arrays(dtype, [SIZE], seed=5)[0]
    if interface == "bytes":
        g = memoryview(values.tobytes()).cast(TYPECODE[dtype])
    elif interface == "old DLPack":
        g = OldDLPack(values)
    elif interface == "read-only":
        g = values.copy()
        g.flags.writeable = False
    else:
        g = buffers(dtype, tmp_path)[interface]()[0]
        np.asarray(g.x if interface == "DLPack" else g, copy=False)[...] = values
    p, want = np.zeros(SIZE, dtype), np.zeros(SIZE, dtype)
    opt, other = fastlr.Momentum([p], grads=[g] if bound else None), fastlr.Momentum([want])
    for _ in range(3):
        opt.step(None if bound else [g])
        other.step([values])
    assert bits([p]) == bits([want])


def test_a_memmap_is_written_to_its_file(tmp_path):
    x = np.memmap(tmp_path / "weights", np.float32, "w+", shape=SIZE)
    fastlr.SGD([x], lr=1.0).step([np.full(SIZE, -3, np.float32)])
    x.flush()
    assert (np.fromfile(tmp_path / "weights", np.float32) == 3).all()


# What is refused

@pytest.mark.parametrize("dtype", [
    np.int32, np.int64, np.uint8, np.bool_, np.longdouble, np.complex64, object, ">f4", ">f8",
    "S4", "datetime64[s]", [("x", np.float32)],
])
def test_other_dtypes_are_refused_by_name(dtype):
    x = np.zeros(3, dtype)
    says = re.escape(f"expected float32, float64, float16 or bfloat16, got {x.dtype}")
    with pytest.raises(TypeError, match=r"^SGD: params\[0\]: " + says):
        fastlr.SGD([x])
    with pytest.raises(TypeError, match=r"^SGD: params\['w'\]: " + says):
        fastlr.SGD({"w": x})
    p = np.zeros(3)
    opt = fastlr.SGD({"w": p})
    says = re.escape(f"grads['w']: expected float64 (3,) like the parameter, got {x.dtype} (3,)")
    bound = lambda: fastlr.SGD({"w": p}, grads={"w": x})  # noqa: E731
    for refused in (lambda: opt.step({"w": x}), lambda: opt.bind({"w": x}), bound):
        with pytest.raises(ValueError, match=f"^{says}$"):
            refused()
    says = re.escape(f"sgd: p: expected float32 or float64, got {x.dtype}")
    with pytest.raises(TypeError, match=f"^{says}$"):
        fastlr.kernels.sgd(x, p, t=1, lr=0.1)
    assert (p == 0).all()


class Versioned:
    """A tensor whose capsule says whether it may be written, as those of DLPack 1.0 do."""

    def __init__(self, array, **less):
        self.array, self.less = array, less

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how, **self.less)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[::-1, 1::2], lambda x: x.T, lambda x: x[:0], lambda x: x[1, 1:2].reshape(())])
def test_a_capsule_is_read_without_numpy_as_with_it(dtype, view):
    """Before NumPy 2.2.5, whose own reader gives read-only arrays."""
    x = view(np.arange(30, dtype=dtype).reshape(5, 6))
    mine = dlpack_array(Versioned(x))
    assert (mine.dtype, mine.shape, mine.tolist()) == (x.dtype, x.shape, x.tolist())
    assert mine.flags.writeable
    if not x.size:
        return
    mine[...] = -1
    assert (x == -1).all()
    frozen = x.copy()
    frozen.flags.writeable = False
    assert not dlpack_array(Versioned(frozen)).flags.writeable
    assert not dlpack_array(OldDLPack(x)).flags.writeable             # (which does not say)


def test_a_parameter_is_read_without_numpy_where_numpy_gives_it_read_only(monkeypatch):
    x = np.zeros((2, 3), np.float32)

    def as_before(tensor):
        array = np.asarray(tensor.array).view()
        array.flags.writeable = False
        return array

    monkeypatch.setattr(np, "from_dlpack", as_before)
    fastlr.SGD([Versioned(x)], lr=1.0).step([Versioned(np.ones((2, 3), np.float32))])
    assert (x == -1).all()
    g = Versioned(np.ones((2, 3), np.float32))
    fastlr.SGD([Versioned(x)], lr=1.0).step([g], zero_grads=True)
    assert (g.array == 0).all()


@pytest.mark.parametrize(("given", "error", "says"), [
    (memoryview(bytes(16)).cast("f"), ValueError, "must be writable, got a read-only array"),
    (np.frombuffer(bytes(16), np.float32), ValueError, "must be writable, got a read-only array"),
    (OldDLPack(np.zeros(4)), ValueError, "must be writable, got a read-only array"),
    (Elsewhere(np.zeros(4)), TypeError,
     "this Elsewhere gives no CPU memory (it is on another device); it must be dense, on the CPU, and float16"),
    (memoryview(bytearray(16)), TypeError, "expected float32, float64, float16 or bfloat16, got uint8"),
    ("text", TypeError, "expected an array (NumPy, buffer protocol or DLPack), got str"),
    ({1.0}, TypeError, "expected an array (NumPy, buffer protocol or DLPack), got set"),
    (None, TypeError, "expected an array (NumPy, buffer protocol or DLPack), got NoneType"),
])
def test_what_cannot_be_written_is_refused(given, error, says):
    with pytest.raises(error, match=re.escape(f"SGD: params[0]: {says}")):
        fastlr.SGD([given])
    says = says.replace("float32, float64, float16 or bfloat16", "float32 or float64")
    with pytest.raises(error, match=re.escape(f"sgd: p: {says}")):
        fastlr.kernels.sgd(given, np.zeros(4), t=1, lr=0.1)


# What is given back

def test_a_buffer_is_free_again_when_the_optimizer_is_gone():
    memory, gradient = bytearray(40), bytearray(40)
    opt = fastlr.Adam([memoryview(memory).cast("f")], grads=[memoryview(gradient).cast("f")])
    opt.step()
    for held in (memory, gradient):
        with pytest.raises(BufferError):
            held.append(0)
    del opt
    gc.collect()
    memory.append(0)
    gradient.append(0)


def test_a_passed_gradient_is_free_again_after_the_step():
    opt = fastlr.Adam([np.zeros(10, np.float32)])
    gradient = bytearray(40)
    opt.step([memoryview(gradient).cast("f")])
    gradient.append(0)
    wrong = bytearray(44)
    with pytest.raises(ValueError, match="grads"):
        opt.step([memoryview(wrong).cast("f")])
    wrong.append(0)
    m, v = np.zeros(11, np.float32), np.zeros(11, np.float32)
    p = bytearray(44)
    fastlr.kernels.adam(memoryview(p).cast("f"), np.ones(11, np.float32), m, v, t=1, lr=0.1)
    p.append(0)


@pytest.mark.parametrize("refused", [
    lambda x: fastlr.Adam([x, np.zeros(3, int)]),
    lambda x: fastlr.Adam([x], lr=-1.0),
    lambda x: fastlr.Adam([x, x]),
    lambda x: fastlr.Adam([x], grads=[np.zeros(3)]),
    lambda x: fastlr.Adam([x], lr_scale=[1.0, 2.0]),
    lambda x: fastlr.Adam([np.zeros(9, np.float32)], grads=[x]),
    lambda x: fastlr.Adam([np.zeros(2, np.float32)]).add_group([x, None]),
    lambda x: fastlr.kernels.adam(x, x, x, x, t=1, lr=0.1),
    lambda x: fastlr.kernels.adam(x, np.zeros(2), x, x, t=1, lr=0.1),
])
def test_a_buffer_is_free_again_after_a_refusal(refused):
    memory = bytearray(40)
    view = memoryview(memory).cast("f")
    with pytest.raises((TypeError, ValueError)):
        refused(view)
    del view
    gc.collect()
    memory.append(0)


def test_bound_gradients_are_given_back_when_others_are_bound():
    p = np.zeros(10, np.float32)
    first, second = bytearray(40), bytearray(40)
    opt = fastlr.SGD([p], grads=[memoryview(first).cast("f")])
    opt.bind([memoryview(second).cast("f")])
    first.append(0)
    with pytest.raises(BufferError):
        second.append(0)


def test_a_refused_bind_leaves_what_was_bound():
    p = [np.zeros(4), np.zeros(4)]
    opt = fastlr.SGD(p, lr=1.0, grads=[np.full(4, -1.0), np.full(4, -2.0)])
    for _ in range(3):
        with pytest.raises(ValueError, match=r"grads\[1\]: expected float64 \(4,\) like the parameter"):
            opt.bind([np.full(4, 7.0), np.zeros(3)])
        gc.collect()
        np.full(4, 9.0)                # (takes the memory that a refused gradient left)
    opt.step()
    assert (p[0] == 1).all()
    assert (p[1] == 2).all()
    fresh = fastlr.SGD(p)
    with pytest.raises(ValueError, match=r"grads\[1\]"):
        fresh.bind([np.full(4, 7.0), np.zeros(3)])
    with pytest.raises(TypeError, match="needs gradients"):
        fresh.step()


@pytest.mark.parametrize("how", [
    "passed", "bound", "converted", "DLPack", "refused", "kernel", "refused kernel",
])
def test_two_thousand_steps_keep_nothing(how):
    p, g = np.zeros(16, np.float32), np.zeros(16, np.float32)
    m, wrong, lr = np.zeros(16, np.float32), np.zeros(15, np.float32), 0.1
    view, tensor = memoryview(g), OnlyDLPack(g)
    grads, objects = [g], (p, g, m, wrong, view, tensor, np.dtype(np.float32), lr)
    opt = fastlr.Momentum([p], lr=lr, grads=[g])

    def refused(call):
        try:
            call()
        except ValueError:
            return
        raise AssertionError("a wrong call was taken")

    step = {
        "passed": lambda: opt.step(grads),
        "bound": opt.step,
        "converted": lambda: opt.step([view]),
        "DLPack": lambda: opt.step([tensor]),
        "refused": lambda: refused(lambda: opt.step([wrong])),
        "kernel": lambda: fastlr.kernels.momentum(p, view, m, t=3, lr=lr),
        "refused kernel": lambda: refused(lambda: fastlr.kernels.momentum(p, wrong, m, t=3, lr=lr)),
    }[how]
    for _ in range(100):
        step()
    gc.collect()
    before = [sys.getrefcount(x) for x in objects]
    tracemalloc.start()
    try:
        for _ in range(100):
            step()
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        for _ in range(2_000):
            step()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - size
    finally:
        tracemalloc.stop()
    assert [sys.getrefcount(x) for x in objects] == before
    assert grown < 20_000              # less a step than any object takes


def test_optimizers_that_are_gone_leave_nothing():
    def live():
        params, grads = [np.zeros(100), np.zeros((3, 4)).T], [np.ones(100), None]
        opt = fastlr.AMSGrad(params, lr=lambda t: 0.1, grads=grads)
        opt.step()
        opt.add_group([np.zeros(5)])
        try:
            fastlr.AMSGrad([np.zeros(5), np.zeros(5, int)])
        except TypeError:
            pass

    def left():
        gc.collect()
        data = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
        kept = tracemalloc.take_snapshot().filter_traces([data])
        ours = sum(str(type(x).__module__).startswith("fastlr") for x in gc.get_objects())
        return sum(trace.size for trace in kept.traces), ours

    tracemalloc.start()
    try:
        live()
        before = left()
        for _ in range(100):
            live()
        assert left() == before        # bytes of arrays, and objects of fastlr's own types
    finally:
        tracemalloc.stop()


# Gradients that are zeroed

STRIDED = np.lib.stride_tricks.as_strided


@pytest.mark.parametrize(("shape", "make", "says"), [
    ([(4,), (4,)], lambda x: [x[:4], x[:4]], "shares memory with grads[0]"),
    ([(4,), (4,)], lambda x: [x[:4], x[3:7]], "grads[1]: zero_grads needs gradients of their own"),
    ([(4,), (4,)], lambda x: [x[3:7], x[:4]], "grads[0]: zero_grads needs gradients of their own"),
    ([(9,), (2,), (2,)], lambda x: [x[:9], x[7:9], x[20:22]], "grads[1]: zero_grads needs gradients of"),
    ([(4, 4)], lambda x: [STRIDED(x, (4, 4), (0, 8))], "whose elements do not share memory"),
    ([(4, 4)], lambda x: [STRIDED(x, (4, 4), (8, 8))], "whose elements do not share memory"),
])
def test_gradients_that_share_memory_are_not_zeroed_before_they_are_read(shape, make, says):
    memory, params = np.arange(30.0), arrays(np.float64, shape)
    grads = make(memory)
    for opt, args in ((fastlr.SGD(params), (grads,)), (fastlr.SGD(params, grads=grads), ())):
        before, was = snapshot(opt, params), memory.copy()
        with pytest.raises(ValueError, match=re.escape(says)):
            opt.step(*args, zero_grads=True)
        assert snapshot(opt, params) == before
        assert (memory == was).all()
        opt.step(*args)                # (they may be read)


def test_interleaved_gradients_do_not_share_memory():
    memory = np.ones((5, 2, 3))
    params = [np.zeros((5, 3)), np.zeros((5, 3)), np.zeros(0)]
    fastlr.SGD(params, lr=1.0).step([memory[:, 0], memory[:, 1], np.zeros(0)], zero_grads=True)
    assert all((p == -1).all() for p in params)
    assert (memory == 0).all()


# The functional interface

def kernel_call(cls, dtype, size=33, hyper=None):
    """A kernel of a rule, its arrays and its keywords."""
    p, g = arrays(dtype, [size, size])
    opt = cls([p.copy()])
    keywords = {"t": 1} | full(cls, hyper or {})
    return getattr(fastlr.kernels, cls.__name__.lower()), [p, g, *operands(opt)], keywords


@every_elementwise
@every_dtype
def test_a_kernel_gives_the_optimizers_bits(cls, dtype):
    hyper = {name: other_value(bound) for name, bound in cls.hypers.items()}
    for size in (1, 33, 100_003):
        kernel, given, keywords = kernel_call(cls, dtype, size, hyper)
        q = given[0].copy()
        opt = cls([q], **hyper)
        for t in range(1, 6):
            given[1][...] = arrays(dtype, [size], seed=t)[0]
            assert kernel(*given, **keywords | {"t": t}) is None
            opt.step([given[1]])
        assert bits([given[0], *given[2:]]) == bits([q, *operands(opt)]), size


@every_elementwise
def test_a_kernel_has_the_defaults_of_its_class(cls):
    kernel, given, keywords = kernel_call(cls, np.float64)
    other = [x.copy() for x in given]
    kernel(*given, **keywords)
    kernel(*other, t=1, lr=keywords["lr"])
    assert bits(given) == bits(other)


@every_elementwise
def test_a_kernels_signature_is_its_declaration(cls):
    kernel = getattr(fastlr.kernels, cls.__name__.lower())
    parameters = kernel.__signature__.parameters
    positional = [name for name, p in parameters.items() if p.kind is Parameter.POSITIONAL_ONLY]
    assert positional == ["p", "g", *cls.slots, *(["memory"] if cls.memory else [])]
    given = {name: p.default for name, p in parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
    assert list(given)[:2] == ["t", "lr"]
    assert given.pop("t") is given.pop("lr") is Parameter.empty
    assert given == {name: bound.default for name, bound in cls.hypers.items() if name != "lr"}
    assert kernel.__name__ == cls.__name__.lower()
    assert repr(kernel) == f"<fastlr.kernels.{kernel.__name__}{kernel.__signature__}>"
    assert f"`fastlr.{cls.__name__}`" in kernel.__doc__


def test_there_is_a_kernel_of_every_elementwise_rule():
    assert fastlr.kernels.__all__ == sorted(cls.__name__.lower() for cls in ELEMENTWISE)


@pytest.mark.parametrize("memory", [np.zeros(2), np.zeros(()), np.zeros(1, np.float32), np.zeros((1, 1))], ids=str)
def test_a_kernel_refuses_another_memory(memory):
    p, g, m, v = (np.ones(3) for _ in range(4))
    with pytest.raises(ValueError, match=r"nadam: memory: expected a contiguous, writable float64 array of shape \(1,\)"):
        fastlr.kernels.nadam(p, g, m, v, memory, t=1, lr=0.1)
    assert (p == 1).all()


@pytest.mark.parametrize("interface", [
    "array.array", "memoryview", "memmap", "subclass", "DLPack", "another dtype object",
])
@every_dtype
def test_a_kernel_takes_any_contiguous_memory(tmp_path, interface, dtype):
    g = arrays(dtype, [SIZE])[0]
    p, read = buffers(dtype, tmp_path)[interface]()
    m = buffers(dtype, tmp_path)[interface]()[0]
    want = np.zeros(SIZE, dtype)
    fastlr.kernels.momentum(p, g, m, t=1, lr=0.1)
    fastlr.kernels.momentum(want, g, np.zeros(SIZE, dtype), t=1, lr=0.1)
    assert bits([read()]) == bits([want])


@pytest.mark.parametrize("shape", [(), (0,), (1, 1), (2, 3, 4), (0, 3)])
def test_a_kernel_takes_any_shape(shape):
    p = np.zeros(shape)
    fastlr.kernels.sgd(p, np.full(shape, -2.0), t=1, lr=0.5)
    assert (p == 1).all()


def test_typed_memoryviews_of_another_module_are_taken(stranger):
    size = 1003
    g, m, v = arrays(np.float32, [size, size, size])
    v = abs(v)
    weights, want, state = stranger.loop.Weights(size), np.zeros(size, np.float32), [m.copy(), v.copy()]
    for t in (1, 2, 3):
        weights.step(fastlr.kernels.adam, g, m, v, t, 0.1)
        fastlr.kernels.adam(want, g, *state, t=t, lr=0.1)
    assert bits([np.asarray(weights.view()), m, v]) == bits([want, *state])
    fastlr.SGD([weights.view()], lr=1.0).step([memoryview(want)])
    assert (np.asarray(weights.view()) == 0).all()


def kernel_refusals():
    """Wrong calls of adam: what differs from a right one, and the words."""
    n, f4 = 8, np.float32
    ones = [np.ones(n) for _ in range(4)]
    one, two, three = ones[:3]
    memory = np.ones(2 * n)
    read_only = np.ones(n)
    read_only.flags.writeable = False
    unaligned = np.frombuffer(bytearray(8 * n + 1), np.float64, offset=1)
    no_array = "expected an array (NumPy, buffer protocol or DLPack), got"
    contiguous = "must be contiguous and aligned; use an optimizer, which takes any strides"

    def operands(k, x):
        return {"operands": [*ones[:k], x, *ones[k + 1:]]}

    def like_p(k, x):
        names = ("p", "g", "m", "v")
        return operands(k, x), ValueError, (f"adam: {names[k]}: expected float64 (8,) like p, "
                                            f"got {x.dtype} {x.shape}")

    return [
        ({"operands": ones[:3]}, TypeError, "adam: expected 4 arrays (p, g, m, v), got 3"),
        ({"operands": [*ones, ones[0]]}, TypeError, "adam: expected 4 arrays (p, g, m, v), got 5"),
        ({"operands": []}, TypeError, "adam: expected 4 arrays (p, g, m, v), got 0"),
        (operands(2, "m"), TypeError, f"adam: m: {no_array} str"),
        (operands(1, None), TypeError, f"adam: g: {no_array} NoneType"),
        (operands(3, np.ones(n, int)), TypeError, "adam: v: expected float32 or float64, got int64"),
        (operands(1, np.ones(n, np.float16)), TypeError, "adam: g: expected float32 or float64, got float16"),
        like_p(1, np.ones(n, f4)), like_p(2, np.ones(n, f4)),
        like_p(1, np.ones(n + 1)), like_p(3, np.ones((n, 1))), like_p(2, np.ones(())),
        (operands(0, np.ones(2 * n)[::2]), ValueError, f"adam: p: {contiguous}"),
        (operands(1, np.ones(2 * n)[::2]), ValueError, f"adam: g: {contiguous.replace('use an', 'pass a copy, or use an')}"),
        (operands(2, np.ones(n)[::-1]), ValueError, f"adam: m: {contiguous}"),
        (operands(3, unaligned), ValueError, f"adam: v: {contiguous}"),
        (operands(0, read_only), ValueError, "adam: p: must be writable, got a read-only array"),
        (operands(3, read_only), ValueError, "adam: v: must be writable, got a read-only array"),
        (operands(1, one), ValueError, "adam: g: shares memory with p"),
        (operands(3, three), ValueError, "adam: v: shares memory with m"),
        (operands(2, two), ValueError, "adam: m: shares memory with g"),
        ({"operands": [memory[:n], one, two, memory[n - 1:-1]]}, ValueError, "adam: v: shares memory with p"),
        ({"t": None}, TypeError, "adam: t must be given, by keyword"),
        ({"lr": None}, TypeError, "adam: lr must be given, by keyword"),
        *(({"t": t}, ValueError, f"adam: t must be a positive integer, 1 at the first update, got {t!r}")
          for t in (0, -1, 1.0, "1", True, 2**62, 2**70, np.int64(0))),
        ({"beta3": 1.0}, TypeError, "adam: unknown keyword 'beta3'; did you mean 'beta2'?"),
        ({"_": 1.0}, TypeError, "adam: unknown keyword '_'"),
        ({"lr": lambda t: 0.1}, TypeError, "adam: lr must be a number, got <function"),
        ({"eps": fastlr.schedules.constant(0.1)}, TypeError, "call the schedule with t - 1"),
        ({"lr": -1.0}, ValueError, "adam: lr must be in [0, inf), got -1.0"),
        ({"lr": float("nan")}, ValueError, "adam: lr must be in [0, inf), got nan"),
        ({"beta1": 1}, ValueError, "adam: beta1 must be in [0, 1), got 1"),
        ({"beta2": "x"}, TypeError, "adam: beta2 must be a number or a schedule, got 'x'"),
        ({"weight_decay": True}, TypeError, "adam: weight_decay must be a number or a schedule, got True"),
    ]


@pytest.mark.parametrize(("wrong", "error", "says"), kernel_refusals())
def test_a_wrong_call_of_a_kernel_is_refused_and_writes_nothing(wrong, error, says):
    operands = wrong.get("operands", [np.ones(8) for _ in range(4)])
    keywords = {"t": 1, "lr": 0.1} | {name: value for name, value in wrong.items() if name != "operands"}
    keywords = {name: value for name, value in keywords.items() if value is not None}
    before = bits([x for x in operands if isinstance(x, np.ndarray)])
    with pytest.raises(error, match=f"^(?:{re.escape(says)}|.*{re.escape(says)})"):
        fastlr.kernels.adam(*operands, **keywords)
    assert bits([x for x in operands if isinstance(x, np.ndarray)]) == before


def test_a_kernel_takes_numbers_of_other_types():
    p, want = np.ones(4), np.ones(4)
    fastlr.kernels.sgd(p, np.ones(4), t=np.int64(3), lr=np.float32(0.5), weight_decay=0)
    fastlr.kernels.sgd(want, np.ones(4), t=3, lr=0.5)
    assert (p == want).all()
