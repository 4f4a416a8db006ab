"""Frozen trajectories: what torch gave (to 1e-12 at every step), and what fastlr itself gave (bit by bit).

The second is no statement on what is right, only that nothing changed: whoever finds it failing has changed
the bits that users get. If that was meant, `tests/trajectories/make_bits.py` freezes the new ones, in a
commit that does only that and says why, with a line in the CHANGELOG. Nobody may edit the files by hand.
"""
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from registry import BITWISE, DTYPES
from trajectories.apart import SAME, apart
from trajectories.make_bits import bits
from trajectories.stream import beginning_and_gradients, numbers, read

import fastlr

FOLDER = Path(__file__).parent / "trajectories"
TORCH = [{"optimizer": file.stem} | run for file in sorted((FOLDER / "torch").glob("*.json"))
         for run in json.loads(file.read_text())["runs"]]
BITS = [{"optimizer": file.stem} | run for file in sorted((FOLDER / "bits").glob("*.json"))
        for run in json.loads(file.read_text())]


def named(run):
    """A run's test id."""
    return "-".join([run["optimizer"], *run["keywords"]])


@pytest.mark.parametrize("frozen", TORCH, ids=named)
def test_every_step_is_as_torch_did_it(frozen):
    params, gradients = beginning_and_gradients()
    start = np.concatenate([p.ravel() for p in params])
    opt = fastlr.create_optimizer(frozen["optimizer"], params, **frozen["keywords"])
    trail = [start]
    for step in gradients:
        opt.step(step)
        trail.append(np.concatenate([p.ravel() for p in params]))
    assert apart(trail, [start, *read(frozen["params"])]) <= SAME


@pytest.mark.parametrize("frozen", BITS, ids=named)
def test_no_bit_has_changed(frozen):
    now = bits(frozen["optimizer"], np.dtype(frozen["dtype"]).type, frozen["keywords"])
    assert now["params"] == frozen["params"]
    assert now["every_step"] == frozen["every_step"]


def test_the_bits_of_every_optimizer_are_frozen():
    assert {(run["optimizer"], run["dtype"]) for run in BITS} == {
        (name, dtype.__name__) for name in (cls.__name__.lower() for cls in BITWISE) for dtype in DTYPES}


def test_the_stream_is_as_written():
    a, c = 6364136223846793005, 1442695040888963407
    first, second = itertools.islice(numbers(), 2)
    assert first == ((a + c) >> 40) / 2**23 - 1
    assert second == ((a * (a + c) + c) % 2**64 >> 40) / 2**23 - 1
    assert [len(step) for step in beginning_and_gradients(np.float32)[1]] == [2] * 40
