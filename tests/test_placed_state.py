"""State in the caller's own memory: `place_state`, with the bits of state that fastlr allocates."""
import numpy as np
import pytest
from registry import arrays, bits, every_bitwise

import fastlr


@every_bitwise
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_state_that_was_placed_has_the_same_bits(cls, dtype):
    found = []
    for placed in (False, True):
        params = dict(zip("ab", arrays(dtype, [(13, 7), (40,)]), strict=True))
        opt, own = cls(params, lr=0.01, ema_decay=0.9), {}
        for t in range(4):
            if placed and t == 2:
                own = {name: {slot: np.empty_like(array) for slot, array in slots.items() if array.ndim}
                       for name, slots in opt.state.items()}
                opt.place_state(own)
            opt.step(dict(zip("ab", arrays(dtype, [(13, 7), (40,)], 1 + t), strict=True)))
        for name, slots in own.items():
            for slot, array in slots.items():
                assert array.tobytes() == opt.state[name][slot].tobytes()
                assert np.shares_memory(array, opt.state[name][slot]) or not array.size
        found.append((opt.t, bits([*params.values(), *(x for slots in opt.state.values() for x in slots.values())])))
    assert found[0] == found[1]


def test_state_in_a_file_that_is_mapped_is_taken_up_by_another_optimizer(tmp_path):
    gradients = [arrays(np.float32, [(50, 4)], seed=t) for t in range(6)]
    whole, = arrays(np.float32, [(50, 4)])
    opt = fastlr.AdamW([whole])
    for g in gradients:
        opt.step(g)
    p, = arrays(np.float32, [(50, 4)])
    maps = {slot: np.memmap(tmp_path / slot, np.float32, "w+", shape=(50, 4)) for slot in "mv"}
    opt = fastlr.AdamW([p])
    opt.place_state({"0": maps})
    for g in gradients[:3]:
        opt.step(g)
    described = opt.state_dict()
    for mapped in maps.values():
        mapped.flush()
    del opt, maps
    opt = fastlr.AdamW([p])
    opt.load_state_dict(described | {"state": {"0": {slot: np.zeros((50, 4), np.float32) for slot in "mv"}}})
    opt.place_state({"0": {slot: np.memmap(tmp_path / slot, np.float32, "r+", shape=(50, 4)) for slot in "mv"}}, take=True)
    for g in gradients[3:]:
        opt.step(g)
    assert bits([p]) == bits([whole])


def test_state_in_16_and_8_bits_and_of_other_layouts_is_placed():
    for dtype in ("bfloat16", "float16", "int8"):
        found = []
        for placed in (False, True):
            p = np.asfortranarray(arrays(np.float32, [(70, 66)])[0])
            opt = fastlr.AdamW([p], state_dtype=dtype)
            opt.step([p.copy()])
            if placed:
                opt.place_state({"0": {slot: np.empty_like(opt.state["0"][slot]) for slot in "mv"}})
            opt.step([p.copy()])
            found.append(bits([p, *opt.state["0"].values()]))
        assert found[0] == found[1]


def test_bound_gradients_and_groups_stay_when_state_is_placed():
    params, grads = [np.ones(3), np.ones(2)], [np.ones(3), np.ones(2)]
    opt = fastlr.Momentum([{"params": params[:1], "lr": 0.5}, {"params": params[1:], "lr": 0.25}], grads=[grads[:1], grads[1:]])
    opt.step()
    opt.place_state({"1": {"m": np.empty(2)}})
    opt.step()
    opt.add_group([np.ones(4)], lr=1.0)
    assert params[0][0] == 1 - 0.5 - 0.5 * 1.9 and params[1][0] == 1 - 0.25 - 0.25 * 1.9 and opt.t == 2


@pytest.mark.parametrize(("arrays_of", "error", "says"), [
    (lambda p, other: {"x": {"m": other}}, ValueError, "AdamW: place_state: no parameter 'x'"),
    (lambda p, other: {"w": {"n": other}}, ValueError, "'n' of 'w': there is no such slot of arrays"),
    (lambda p, other: {"w": {"m": other[:2]}}, ValueError, r"expected float32 \(4, 3\), got float32 \(2, 3\)"),
    (lambda p, other: {"w": {"m": other.astype(np.float64)}}, ValueError, r"expected float32 \(4, 3\), got float64"),
    (lambda p, other: {"w": {"m": np.asfortranarray(other)}}, ValueError, r"of strides \(12, 4\), got \(4, 16\); make it"),
    (lambda p, other: {"w": {"m": "text"}}, TypeError, "'m' of 'w': expected an array"),
    (lambda p, other: {"w": {"m": p}}, ValueError, "the memory for 'm' of 'w' is also that of a parameter or another slot"),
    (lambda p, other: {"w": {"m": other, "v": other}}, ValueError, "the memory for 'v' of 'w' is also that of"),
    (lambda p, other: {"w": {"m": read_only(other)}}, ValueError, "expected a writable, aligned array"),
])
def test_memory_that_does_not_fit_is_refused_and_nothing_changes(arrays_of, error, says):
    p, other = np.ones((4, 3), np.float32), np.full((4, 3), 5, np.float32)
    opt = fastlr.AdamW({"w": p})
    opt.step({"w": p.copy()})
    before, slots = bits([p, *opt.state["w"].values()]), dict(opt.state["w"])
    with pytest.raises(error, match=says):
        opt.place_state(arrays_of(p, other))
    assert bits([p, *opt.state["w"].values()]) == before and (other == 5).all()
    assert all(opt.state["w"][slot] is array for slot, array in slots.items())


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array
