"""Parameters that share memory are found, whatever their layout, and many of one array without comparing all pairs."""
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastlr
from fastlr._engine import shared_memory
from fastlr._engine.shared_memory import find_shared


@st.composite
def views(draw):
    """Some views of one array: rows, columns, blocks, steps, reversed, of one number."""
    base = np.zeros((6, 8), draw(st.sampled_from([np.float32, np.float64])))
    if draw(st.booleans()):
        base = np.asfortranarray(base)

    def part(size):
        low = draw(st.integers(0, size - 1))
        return slice(low, draw(st.integers(low + 1, size)), draw(st.integers(1, 3)))

    found = []
    for _ in range(draw(st.integers(1, 12))):
        view = base[part(6), part(8)]
        view = view[::draw(st.sampled_from([1, -1])), ::draw(st.sampled_from([1, -1]))]
        found.append(view.T if draw(st.booleans()) else view)
    return found


@given(views())
@settings(max_examples=500, deadline=None)
def test_two_are_found_where_two_share_memory(arrays):
    pairs = {(i, k) for i, k in itertools.combinations(range(len(arrays)), 2)
             if np.shares_memory(arrays[i], arrays[k])}
    found = find_shared(arrays)
    assert found in pairs if pairs else found is None


@pytest.mark.parametrize("cut", [
    lambda x: [x[:, k] for k in range(x.shape[1])],
    lambda x: [x[k] for k in range(x.shape[0])],
    lambda x: [x[i:i + 10, k:k + 10] for i in range(0, 400, 10) for k in range(0, 400, 10)],
    lambda x: [x[::-1, k] for k in range(x.shape[1])],
    lambda x: [x[:, k:k + 2][:, ::-1].T for k in range(0, x.shape[1], 2)],
], ids=["columns", "rows", "blocks", "reversed", "pairs"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_parts_of_one_array_are_told_apart_without_comparing_all(cut, order, monkeypatch):
    x = np.zeros((400, 400), order=order)
    compared = []
    shares = np.shares_memory
    monkeypatch.setattr(shared_memory.np, "shares_memory", lambda a, b: compared.append(1) or shares(a, b))
    parts = cut(x)
    assert find_shared(parts) is None and len(compared) <= len(parts)
    assert find_shared([*parts, x[7:8, 9:10]]) is not None


def test_columns_of_one_array_are_an_optimizers_parameters():
    x = np.zeros((3, 2000))
    opt = fastlr.SGD([x[:, k] for k in range(2000)], lr=1.0)
    opt.step([np.ones(3)] * 2000)
    assert (x == -1).all()
    with pytest.raises(ValueError, match="SGD: parameter '1' and parameter '3' share memory; pass each once"):
        fastlr.SGD([x[:, 0], x[:, 1], x[:, 2], x[1:, 1]])
