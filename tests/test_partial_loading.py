"""Loading what fits of a state: other names, other types of state, grown tables, other groups; and a text for the rest."""
import numpy as np
import pytest
from registry import every_optimizer

import fastlr
from fastlr import CheckpointError
from fastlr._engine.stored_numbers import decoded, encoded8

STORED = ["float32", "bfloat16", "float16", "int8"]


def stepped(opt, shape, steps=3, name="w", scale=1.0):
    rng = np.random.default_rng(5)
    for _ in range(steps):
        opt.step({name: np.float32(rng.normal(size=shape) * scale)})
    return opt


# The codecs

@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e18, 1e-3])
def test_codes_are_those_of_the_kernels(scale):
    g = np.float32(np.random.default_rng(0).normal(size=5000) * scale)
    if scale == 1.0:
        g[70], g[200], g[300:330] = np.nan, np.inf, 0
    opt = fastlr.Adam(np.zeros(5000, np.float32), beta1=0.0, beta2=0.0, state_dtype="int8")
    opt.step(g)
    slots = opt.state["0"]
    with np.errstate(all="ignore"):
        for slot, kind, x in (("m", "int8", g), ("v", "uint8", g * g)):
            codes, scales = encoded8(x, kind)
            assert codes.tobytes() == slots[slot].tobytes()
            assert scales.tobytes() == slots[f"{slot}_scale"].tobytes()


@pytest.mark.parametrize("stored", STORED)
def test_decoded_state_is_what_a_step_reads(stored):
    """Where a decay is near 1 and the gradient 0, the next state in float32 is the decoded one."""
    opt = stepped(fastlr.Adam({"w": np.zeros((70, 70), np.float32)}, state_dtype=stored), (70, 70))
    slots = opt.state["w"]
    numbers = {slot: decoded(slots[slot], slots.get(f"{slot}_scale")) for slot in ("m", "v")}
    wide = fastlr.Adam({"w": np.zeros((70, 70), np.float32)})
    report = wide.load_state_dict(opt.state_dict(), strict=False)
    assert len(report) == (0 if stored == "float32" else 2)
    for slot, x in numbers.items():
        assert wide.state["w"][slot].tobytes() == x.tobytes() and x.any()


# Other types of state

@pytest.mark.parametrize("there", STORED)
@pytest.mark.parametrize("here", STORED)
def test_a_state_of_another_type_is_rounded_to_nearest(tmp_path, there, here):
    old = stepped(fastlr.Adam({"w": np.zeros((70, 70), np.float32)}, state_dtype=there), (70, 70))
    new = fastlr.Adam({"w": np.zeros((70, 70), np.float32)}, state_dtype=here)
    fastlr.save(tmp_path / "run", old)
    if there != here:
        with pytest.raises(CheckpointError):
            fastlr.load(tmp_path / "run", new)
        assert new.t == 0
    report = fastlr.load(tmp_path / "run", new, strict=False)
    assert report == ([] if there == here else [f"state['w'][{slot!r}]: saved as {code}, kept as {own}" for slot, code, own in (
        ("m", there, here), ("v", there.replace("int8", "uint8"), here.replace("int8", "uint8")))])
    if there == here:
        assert repr(new.state_dict()) == repr(old.state_dict())
    fine = {"float32": 1e-7, "bfloat16": 2.0**-8, "float16": 2.0**-10, "int8": 2.0**-6}
    for slot in ("m", "v"):
        numbers = [decoded(opt.state["w"][slot], opt.state["w"].get(f"{slot}_scale")) for opt in (old, new)]
        np.testing.assert_allclose(numbers[1], numbers[0], rtol=fine[here], atol=fine[here] * np.abs(numbers[0]).max())
    assert new.t == 3


# Other names

def test_names_are_changed_everywhere(tmp_path):
    groups = [{"params": {"a": np.ones(2), "b": np.ones(2)}}, {"params": {"c": np.ones(2)}}]
    old = fastlr.Lookahead(fastlr.Adam(groups, lr_scale={"b": 0.5}, decay_mask={"c": False}), k=3)
    old.step([{"a": np.ones(2), "b": None}, {"c": np.ones(2)}])
    fastlr.save(tmp_path / "run", old)

    def other(seed):
        first, second = {"x.a": np.zeros(2), "x.b": np.zeros(2)}, {"x.c": np.zeros(2)}
        return fastlr.Lookahead(fastlr.Adam([{"params": first}, {"params": second}], lr_scale={"x.b": 0.5},
                                            decay_mask={"x.c": False}), k=3)

    by_function, by_mapping = other(1), other(2)
    assert fastlr.load(tmp_path / "run", by_function, rename=lambda name: f"x.{name}") is None
    by_mapping.load_state_dict(old.state_dict(), rename={"a": "x.a", "b": "x.b", "c": "x.c"})
    assert by_function.params["x.a"].tobytes() == old.params["a"].tobytes()
    for opt in (by_function, by_mapping):
        assert opt.state["x.a"]["m"].tobytes() == old.state["a"]["m"].tobytes()
        assert opt.slow["x.c"].tobytes() == old.slow["c"].tobytes()
        assert opt.inner._plan.read_skipped_steps() == [0, 1, 0]


@pytest.mark.parametrize(("rename", "error", "reason"), [
    ({"a": "c", "b": "c"}, ValueError, "rename: 'a' and 'b' would both be named 'c'"),
    ({"a": "b"}, ValueError, "rename: 'a' and 'b' would both be named 'b'"),
    ({"aa": "b"}, ValueError, "rename: no parameter 'aa' was saved; did you mean 'a'"),
    ({"a": 3}, TypeError, "the new name of 'a' must be text, got 3"),
    ("a", TypeError, "rename must map old names to new"),
])
def test_names_that_collide_are_refused(tmp_path, rename, error, reason):
    opt = fastlr.Adam({"a": np.ones(2), "b": np.ones(2)})
    opt.step({"a": np.ones(2), "b": np.ones(2)})
    fastlr.save(tmp_path / "run", opt)
    new = fastlr.Adam({"a": np.zeros(2), "b": np.zeros(2)})
    with pytest.raises(error, match=reason):
        new.load_state_dict(opt.state_dict(), rename=rename)
    with pytest.raises(CheckpointError, match=reason):
        fastlr.load(tmp_path / "run", new, rename=rename, strict=False)
    assert new.t == 0 and not new.params["a"].any()


# Other shapes, parameters and groups

@every_optimizer
def test_a_grown_table_keeps_what_was_learned(tmp_path, cls):
    small, large = np.ones((6, 4)), np.full((9, 4), 5.0)
    old, new = cls({"table": small, "w": np.ones(3)}), cls({"table": large, "w": np.zeros(3)})
    old.step({"table": np.full((6, 4), 0.5), "w": np.ones(3)})
    fastlr.save(tmp_path / "run", old)
    report = fastlr.load(tmp_path / "run", new, strict=False)
    assert "params['table']: 6 of 9 rows were saved, the others keep their values" in report
    assert large[:6].tobytes() == small.tobytes() and (large[6:] == 5).all()
    for slot, array in new.state["table"].items():
        if array.shape == (9, 4):
            assert array[:6].tobytes() == old.state["table"][slot].tobytes()
    for slot, array in new.state["w"].items():
        assert array.tobytes() == old.state["w"][slot].tobytes()
    new.step({"table": np.ones((9, 4)), "w": np.ones(3)})
    assert new.t == 2


@pytest.mark.parametrize("stored", ["int8", "bfloat16"])
def test_a_grown_table_of_narrow_state(stored):
    old = stepped(fastlr.Adam({"w": np.zeros((100, 50), np.float32)}, state_dtype=stored), (100, 50))
    new = fastlr.Adam({"w": np.zeros((120, 50), np.float32)}, state_dtype=stored)
    new.load_state_dict(old.state_dict(), strict=False)
    for slot in ("m", "v"):
        was, now = (decoded(opt.state["w"][slot], opt.state["w"].get(f"{slot}_scale")) for opt in (old, new))
        np.testing.assert_allclose(now[:100], was, rtol=2**-6, atol=2**-7 * np.abs(was).max())
        assert not now[101:].any()


def test_what_was_not_saved_keeps_its_state_and_its_own_count(tmp_path):
    old = fastlr.Adam({"body": np.ones(2), "head": np.ones(2)})
    for _ in range(5):
        old.step({"body": np.ones(2), "head": np.ones(2)})
    fastlr.save(tmp_path / "run", old)
    new = fastlr.Adam({"body": np.zeros(2), "extra": np.zeros(2)})
    new.step({"body": np.ones(2), "extra": np.ones(2)})
    kept = new.state["extra"]["m"].tobytes()
    assert fastlr.load(tmp_path / "run", new, strict=False) == [
        "'head' was saved, and there is no such parameter", "'extra' was not saved: it keeps its state",
        "'head' was saved, and there is no such parameter", "'extra' was not saved: it keeps its values"]
    assert new.t == 5 and new._plan.read_skipped_steps() == [0, 4] and new.state["extra"]["m"].tobytes() == kept
    fresh = {"body": new.params["body"].copy(), "extra": new.params["extra"].copy()}
    twin = fastlr.Adam({"extra": fresh["extra"]})
    twin.load_state_dict({**twin.state_dict(), "t": 1, "state": {"extra": dict(new.state["extra"])}})
    new.step({"body": np.ones(2), "extra": np.ones(2)})
    twin.step({"extra": np.ones(2)})
    assert new.params["extra"].tobytes() == fresh["extra"].tobytes()


@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_a_parameter_whose_state_does_not_fit_begins_as_a_new_one(stored):
    """As a layer with another number of outputs: with the saved count its first steps would be several times too long.
    """
    def ones(outputs):
        return {"body": np.ones(2, np.float32), "head": np.ones(outputs, np.float32)}

    old = fastlr.Adam(ones(5000), state_dtype=stored)
    for _ in range(9):
        old.step(ones(5000))
    params, fresh = ones(4500), ones(4500)
    opt, other = (fastlr.Adam(given, state_dtype=stored) for given in (params, fresh))
    assert len(opt.load_state_dict(old.state_dict(), strict=False)) == 2
    assert opt.t == 9 and opt._plan.read_skipped_steps() == [0, 9]
    for each in (opt, other):
        each.step({"body": None, "head": ones(4500)["head"] * 2})
    assert params["head"].tobytes() == fresh["head"].tobytes()
    wider = fastlr.Adam(ones(5500), state_dtype=stored)    # (rows of it fit: it goes on)
    wider.load_state_dict(old.state_dict(), strict=False)
    assert wider._plan.read_skipped_steps() == [0, 0]


def test_what_was_not_saved_stays_frozen():
    old = fastlr.Adam({"body": np.ones(2), "neck": np.ones(2)})
    old.freeze("body")
    new = fastlr.Adam({"body": np.ones(2), "neck": np.ones(2), "head": np.ones(2)})
    new.freeze("neck", "head")
    new.load_state_dict(old.state_dict(), strict=False)
    assert new.frozen == ("body", "head")
    old.unfreeze()
    new.load_state_dict(old.state_dict(), strict=False)
    assert new.frozen == ("head",)


def test_groups_with_other_boundaries():
    def params():
        return {name: np.ones(2) for name in "abcd"}

    p = params()
    old = fastlr.SGD([{"params": {k: p[k] for k in "ab"}, "lr": 0.1}, {"params": {k: p[k] for k in "cd"}, "lr": 0.2}])
    q = params()
    new = fastlr.SGD([{"params": {"a": q["a"]}, "lr": 1}, {"params": {"b": q["b"], "c": q["c"]}, "lr": 2},
                      {"params": {"d": q["d"]}, "lr": 3}])
    with pytest.raises(ValueError, match="expected 3 groups, got 2"):
        new.load_state_dict(old.state_dict())
    assert new.load_state_dict(old.state_dict(), strict=False) == [
        "groups[1]: its parameters were in 2 groups, 0, 1: it keeps its hyper-parameters"]
    assert [group.lr for group in new.groups] == [0.1, 2, 0.2]


def test_another_shape_and_other_slots_are_told():
    old = stepped(fastlr.Adam({"w": np.zeros((3, 4), np.float32)}, ema_decay=0.9), (3, 4))
    new = fastlr.Adam({"w": np.zeros((4, 3), np.float32)})
    report = new.load_state_dict(old.state_dict(), strict=False)
    assert report[0].startswith("state['w']: 'ema' was saved, and there is no such slot")
    assert report[1] == "state['w']['m']: shape (3, 4) was saved, and here it is (4, 3): it keeps its values"
    assert any("ema_decay" in text for text in report)
    assert not new.state["w"]["m"].any()


def test_another_class_is_refused_all_the_same():
    with pytest.raises(ValueError, match="this is the state of Adam, load it into one"):
        fastlr.SGD(np.zeros(1)).load_state_dict(fastlr.Adam(np.zeros(1)).state_dict(), strict=False)


def test_a_part_of_an_averages_parameters():
    old = fastlr.EMA({"a": np.ones(2), "b": np.ones((2, 2))})
    new = fastlr.EMA({"a": np.zeros(2), "b": np.zeros((3, 2))})
    assert new.load_state_dict(old.state_dict(), strict=False) == [
        "state['b']['mean']: 2 of 3 rows were saved, the others keep their values"]
    assert new.params["b"].tolist() == [[1, 1], [1, 1], [0, 0]]
