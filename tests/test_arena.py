"""The states of an optimizer: ordinary arrays in one block, each in its own cache lines."""
import gc
import itertools
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
from registry import arrays, every_rule

import fastlr
from fastlr._engine.arena import Arena

SHAPES = [(3, 5), (), (0, 4), (100, 300), (7,), (70_001,)]


def states(opt):
    return [array for slots in opt.state.values() for array in slots.values()]


def block_of(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@every_rule
@pytest.mark.parametrize("stored", [None, "float64", "bfloat16", "int8"])
def test_states_share_a_block_and_no_line(cls, stored):
    opt = cls(arrays(np.float32, SHAPES), state_dtype=stored, ema_decay=0.5)
    found = [array for tensor in opt._plan.tensors for array in tensor.state]
    assert len({id(block_of(array)) for array in found}) == 1
    extents = sorted((array.ctypes.data, array.nbytes) for array in found if array.size)
    assert all(begin % 64 == 0 for begin, _ in extents)
    for (begin, size), (after, _) in itertools.pairwise(extents):
        assert begin + size <= after
    block = block_of(found[0])
    assert extents[-1][0] + extents[-1][1] <= block.ctypes.data + block.nbytes
    assert all(array.flags.writeable and array.flags.aligned for array in found)


def test_the_block_holds_any_sizes():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = [int(size) for size in rng.choice([0, 1, 63, 64, 65, 16_383], 12)]
        arena = Arena(sizes)
        assert [arena.take(size).nbytes for size in sizes] == sizes


@pytest.mark.skipif(not os.path.exists("/proc/self/pagemap"), reason="needs Linux's page map")
def test_what_begins_at_zero_is_touched_first_in_the_first_step(environment):
    """In a process of its own: memory that earlier tests freed and the allocator kept would have to be cleared."""
    code = """
import resource
import numpy as np
import fastlr

def present(array):
    "The share of the array's own pages that hold memory: bit 63 of the page map."
    page = resource.getpagesize()
    first, last = -(-array.ctypes.data // page), (array.ctypes.data + array.nbytes) // page
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(8 * first)
        return float((np.frombuffer(file.read(8 * (last - first)), np.uint64) >> np.uint64(63)).mean())

p = np.ones(4_000_000, np.float32)
opt = fastlr.Adam([p])
shares = [present(array) for array in opt.state["0"].values()]
opt.step([p.copy()])
print(*shares, *(present(array) for array in opt.state["0"].values()))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    *before, m, v = map(float, done.stdout.split())
    assert len(before) == 2 and max(before) < 0.2       # (a huge page may reach into a neighbour's)
    assert m == v == 1


@pytest.mark.parametrize("kept", [False, True], ids=["all", "but one array"])
def test_the_block_is_freed_with_the_optimizer_and_its_arrays(kept):
    opt = fastlr.Adam(arrays(np.float32, SHAPES))
    block = weakref.ref(block_of(states(opt)[0]))
    opt.step(arrays(np.float32, SHAPES))
    held = opt.state["1"]["m"] if kept else None
    del opt
    gc.collect()
    assert (block() is not None) == kept
    del held
    gc.collect()
    assert block() is None


def test_a_group_that_comes_later_leaves_states_where_they_are():
    opt = fastlr.Adam({"a": np.ones(10)})
    opt.step({"a": np.ones(10)})
    begin, m = opt.state["a"]["m"].ctypes.data, opt.state["a"]["m"].copy()
    opt.add_group({"b": np.ones(20_000)})
    assert opt.state["a"]["m"].ctypes.data == begin
    opt.step([{"a": None}, {"b": np.ones(20_000)}])
    np.testing.assert_array_equal(opt.state["a"]["m"], m)
