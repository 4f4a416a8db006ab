"""The same bits, whatever the threads, the cuts, the layout, the alignment, the batch or the instruction set."""
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import arrays, bits, every_bitwise, every_dtype, every_separate, run

import fastlr

CHUNK = 32768          # elements a thread takes at a time (fastlr/_engine/layout.pxd); below it no helper is woken

EDGES = [0, 1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 255, 256, 257, CHUNK - 1, CHUNK, CHUNK + 1,
         2 * CHUNK + 5]


def whole(cls, dtype, sizes, **hyper):
    """Parameters and state after three undivided steps: one tensor per optimizer, one thread."""
    params, states = [], []
    grads = [arrays(dtype, sizes, seed) for seed in (1, 2, 3)]
    for k, p in enumerate(arrays(dtype, sizes)):
        opt = cls([p], **hyper)
        for g in grads:
            opt.step([g[k]])
        params += bits([p])
        states += bits(opt.state["0"].values())
    return params, states


@every_separate
@every_dtype
def test_threads_and_cuts_and_batching_do_not_matter(cls, dtype):
    want = whole(cls, dtype, EDGES)
    for threads in (1, 3) if dtype is np.float32 else (2, 5):
        assert run(cls, arrays(dtype, EDGES), threads=threads) == want


@every_separate
def test_tensors_that_skipped_different_steps_are_independent(cls):
    """At the last steps all are of one age, and the state of each is from other rates."""
    hyper = {"lr": fastlr.schedules.exponential(0.01, 0.3), "clip_tensor_norm": 0.5}
    gaps = [{1}, {7}, {2}, {1}, {5}, {0}, set()]
    grads = [arrays(np.float32, [(8, 8)] * len(gaps), seed) for seed in range(10)]
    params = arrays(np.float32, [(8, 8)] * len(gaps), 10)
    alone = [p.copy() for p in params]
    together = cls(params, **hyper)
    for t, g in enumerate(grads):
        together.step([None if t in gap else x for gap, x in zip(gaps, g, strict=True)])
    for k, (p, gap) in enumerate(zip(alone, gaps, strict=True)):
        opt = cls([p], **hyper)
        for t, g in enumerate(grads):
            opt.step([None if t in gap else g[k]])
        assert bits([p]) == bits([params[k]])
        assert bits(opt.state["0"].values()) == bits(together.state[str(k)].values())


@every_bitwise
@every_dtype
def test_alignment_does_not_matter(cls, dtype):
    n = 331
    values, *grads = (arrays(dtype, [n], seed)[0] for seed in range(4))
    results = set()
    for offset in range(16):
        buffer = np.zeros(n + 16, dtype)
        p = buffer[offset:offset + n]
        p[...] = values
        opt = cls([p])
        for shift, g in enumerate(grads):
            shifted = np.zeros(n + 16, dtype)[(offset * 3 + shift) % 16:][:n]
            shifted[...] = g
            opt.step([shifted])
        results.add((*bits([p]), *bits(opt.state["0"].values())))
    assert len(results) == 1


def layouts(shape, dtype):
    """Arrays of one shape in different memory layouts."""
    reach = tuple(3 * n + 1 for n in shape)
    yield "contiguous", np.zeros(shape, dtype)
    yield "transposed", np.zeros(shape[::-1], dtype).T
    yield "every third", np.zeros(reach, dtype)[tuple(slice(1, 3 * n, 3) for n in shape)]
    yield "backwards", np.zeros(shape, dtype)[tuple(slice(None, None, -1) for _ in shape)]
    yield "rows apart", np.zeros((*shape[:-1], shape[-1] + 5), dtype)[..., :shape[-1]]
    yield "rolled axes", np.moveaxis(np.zeros((shape[-1], *shape[:-1]), dtype), 0, -1)
    buffer = np.zeros(int(np.prod(shape)) * np.dtype(dtype).itemsize + 1, np.uint8)
    yield "unaligned", buffer[1:].view(dtype).reshape(shape)


LAYOUTS = [name for name, _ in layouts((2, 3), np.float32)]


@every_bitwise
@every_dtype
@pytest.mark.parametrize("shape", [(7,), (5, 77), (3, 40, 9)], ids=str)
def test_layout_does_not_matter(cls, dtype, shape):
    values, *grads = (arrays(dtype, [shape], seed)[0] for seed in range(4))
    wanted = None
    for where, (_, p) in enumerate(layouts(shape, dtype)):
        p[...] = values
        opt = cls([p])
        for t, g in enumerate(grads):
            laid = list(layouts(shape, dtype))[(where + t) % len(LAYOUTS)][1]
            laid[...] = g
            opt.step([laid])
        result = bits([p]) + bits(opt.state["0"].values())
        wanted = wanted or result
        assert result == wanted


@every_dtype
@pytest.mark.parametrize("where", range(len(LAYOUTS)), ids=LAYOUTS)
def test_large_strided_tensors_are_cut_like_contiguous_ones(dtype, where):
    shape = (211, 401)
    values, g = (arrays(dtype, [shape], seed)[0] for seed in range(2))
    plain = values.copy()
    fastlr.AdamW([plain]).step([g])
    p = list(layouts(shape, dtype))[where][1]
    p[...] = values
    fastlr.set_num_threads(2)
    fastlr.AdamW([p]).step([g])
    assert bits([p]) == bits([plain])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.data())
def test_any_view_steps_like_its_copy(shape, data):
    strides = [data.draw(st.integers(-3, 3).filter(bool)) for _ in shape]
    buffer = np.zeros([max(1, n) * abs(step) for n, step in zip(shape, strides, strict=True)], np.float64)
    view = buffer[tuple(slice(None, None, step) for step in strides)][tuple(slice(0, n) for n in shape)]
    view = view.transpose(data.draw(st.permutations(range(view.ndim))))
    view[...] = np.random.default_rng(0).normal(size=view.shape)
    untouched = buffer.copy()
    copy = view.copy()
    g = np.random.default_rng(1).normal(size=view.shape)
    fastlr.AdamW([view]).step([g])
    fastlr.AdamW([copy]).step([g])
    assert (view == copy).all()
    view[...] = 0
    untouched_view = untouched[tuple(slice(None, None, step) for step in strides)]
    untouched_view[tuple(slice(0, n) for n in shape)] = 0
    assert (buffer == untouched).all()          # nothing beside the view was written


def test_stages_before_the_rule_are_the_same_operations_one_after_another():
    p, g = arrays(np.float32, [(40, 13)] * 2)
    alone, staged = p.copy(), p.copy()
    stepped = (np.clip(g * np.float32(1 / 8), np.float32(-0.1), np.float32(0.1)) + np.float32(0.25) * p)
    fastlr.Momentum([alone]).step([stepped])
    fastlr.Momentum([staged], weight_decay=0.25, clip_value=0.1).step([g], grad_scale=8.0)
    assert bits([alone]) == bits([staged])


def digest():
    """A hash over every optimizer, dtype, layout and size for which kernels have another path."""
    found = hashlib.sha256()
    for name in fastlr.list_optimizers():
        for dtype in (np.float32, np.float64):
            params = arrays(dtype, [*EDGES[:16], CHUNK + 1]) + [np.asfortranarray(a) for a in arrays(dtype, [(9, 33), (70, 21)])]
            for shape in [a.shape for a in params]:
                assert len(shape) < 3
            opt = fastlr.create_optimizer(name, params, weight_decay=0.01, clip_value=1.5,
                                          lr=fastlr.schedules.cosine(0.1, steps=7))
            for t in range(5):
                opt.step(arrays(dtype, [p.shape for p in params], t), grad_scale=3.0)
            for a in (*params, *(a for slots in opt.state.values() for a in slots.values())):
                found.update(np.ascontiguousarray(a).tobytes())
    return found.hexdigest()


def test_the_instruction_set_does_not_matter(digests):
    assert len(digests["test_bits"]) == 1


@pytest.mark.parametrize(("asked", "says"), [
    ("avx512", "FASTLR_ISA: expected one of baseline, v3, v4, got 'avx512'"),
    ("V3", "FASTLR_ISA: expected one of baseline, v3, v4, got 'V3'"),
])
def test_an_unknown_instruction_set_is_refused(asked, says):
    out = subprocess.run([sys.executable, "-c", "import fastlr"], capture_output=True, text=True,
                         env={**os.environ, "FASTLR_ISA": asked})
    assert out.returncode == 1
    assert f"ImportError: {says}" in out.stderr


def test_an_instruction_set_that_the_cpu_lacks_is_refused(monkeypatch):
    from fastlr._engine import instruction_set
    monkeypatch.setattr(instruction_set, "supports", lambda level: level == "baseline")
    with pytest.raises(ImportError, match=r"FASTLR_ISA: this CPU lacks v4; unset FASTLR_ISA"):
        instruction_set.choose("v4")
    assert instruction_set.choose("") == "baseline"
    monkeypatch.setattr(instruction_set, "VARIANTS", ())
    with pytest.raises(ImportError, match=r"v3 was not built for this platform; built: baseline"):
        instruction_set.choose("v3")
