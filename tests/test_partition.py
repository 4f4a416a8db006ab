"""Several optimizers as one: each moves as it would alone; one step, one norm, one state, one file; all parts or none."""
from functools import partial

import numpy as np
import pytest
import registry  # noqa: F401  (it gives steps the loss or the curvature that some rules need)
from registry import every_optimizer

import fastlr
from fastlr import schedules

SHAPES = {"layer": {"w": (8, 6), "b": (8,)}, "table": (10, 4)}


def normal(seed, shapes=SHAPES, dtype=np.float64):
    rng = np.random.default_rng(seed)

    def filled(x):
        return {k: filled(v) for k, v in x.items()} if isinstance(x, dict) else rng.normal(size=x).astype(dtype)

    return filled(shapes)


def flat(params):
    return {"layer/w": params["layer"]["w"], "layer/b": params["layer"]["b"], "table": params["table"]}


PARTS = {"layer/w": partial(fastlr.Adafactor, lr=0.1), "tab*": lambda q: fastlr.Lookahead(fastlr.Momentum(q, lr=0.1), k=2)}
REST = partial(fastlr.AdamW, lr=schedules.cosine(0.1, steps=20))


def build(params, **keywords):
    return fastlr.Partition(params, PARTS, rest=REST, **keywords)


def as_bits(params):
    return {name: array.tobytes() for name, array in flat(params).items()}


def test_each_part_moves_as_it_would_alone():
    one, other = normal(0), normal(0)
    opt = build(one)
    named = flat(other)
    alone = {"layer/w": PARTS["layer/w"]({"layer/w": named["layer/w"]}), "table": PARTS["tab*"]({"table": named["table"]}),
             "layer/b": REST({"layer/b": named["layer/b"]})}
    for k in range(7):
        grads = normal(10 + k)
        opt.step(grads, grad_scale=2.0)
        for name, part in alone.items():
            part.step({name: flat(grads)[name]}, grad_scale=2.0)
    assert as_bits(one) == as_bits(other)
    assert opt.t == 7 and list(opt.parts) == ["layer/w", "tab*", "rest"]
    assert set(opt.state) == set(opt.params) == {"layer/w", "layer/b", "table"}
    assert [part for part, _ in opt.current] == ["layer/w", "tab*", "rest"]
    assert opt.current[2][1]["lr"] == REST.keywords["lr"](7) == opt["rest"].current["lr"]
    opt["rest"].lr = 0.5
    assert opt.groups[2].lr == 0.5


@every_optimizer
def test_every_optimizer_can_be_a_part_and_is_resumed_exactly(tmp_path, cls):
    def made(seed):
        params = normal(seed)
        return params, fastlr.Partition(params, {("layer/w", "table"): cls}, rest=fastlr.SGD)

    def step(opt, k):
        grads = normal(20 + k)
        opt.step(grads, **({"loss": 1.5} if cls.needs_loss else {}),
                 **({"curvature": grads} if cls.needs_curvature and k == 0 else {}))

    params, opt = made(1)
    for k in range(3):
        step(opt, k)
    fastlr.save(tmp_path / "run", opt)
    again, other = made(2)
    fastlr.load(tmp_path / "run", other)
    for k in range(3, 6):
        step(opt, k)
        step(other, k)
    assert as_bits(again) == as_bits(params)


@pytest.mark.parametrize("wrapper", [
    lambda opt: fastlr.Lookahead(opt, k=2), fastlr.GradientCentralization, lambda opt: fastlr.GradientAccumulation(opt, 2)])
def test_wrappers_around_it_and_their_files(tmp_path, wrapper):
    def step(opt, k):
        (opt.add if isinstance(opt, fastlr.GradientAccumulation) else opt.step)(normal(30 + k))

    params, again = normal(1), normal(2)
    opt, other = wrapper(build(params, clip_norm=3.0)), wrapper(build(again, clip_norm=3.0))
    for k in range(3):
        step(opt, k)
    fastlr.save(tmp_path / "run", opt)
    fastlr.load(tmp_path / "run", other)
    for k in range(3, 7):
        step(opt, k)
        step(other, k)
    assert as_bits(again) == as_bits(params)


def test_averages_and_sam_around_it():
    params = normal(1)
    opt = build(params)
    ema, sam = fastlr.EMA(opt), fastlr.SAM(opt)
    sam.ascend(normal(2))
    sam.step(normal(3))
    ema.update()
    with ema.swapped():
        pass
    assert ema.params["layer/b"].shape == (8,)


def test_clipping_is_over_all_parts_as_in_one_optimizer():
    one, other = normal(0), normal(0)
    split = fastlr.Partition(one, {"layer/*": partial(fastlr.SGD, lr=0.1)}, rest=partial(fastlr.SGD, lr=0.1), clip_norm=0.7)
    whole = fastlr.SGD(other, lr=0.1, clip_norm=0.7)
    for k in range(3):
        split.step(normal(k), grad_scale=4.0)
        whole.step(normal(k), grad_scale=4.0)
        assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-14)
    for name, array in flat(one).items():
        np.testing.assert_allclose(array, flat(other)[name], rtol=1e-13)
    split.clip_norm = None
    assert split.clip_norm is None


def test_a_gradient_that_is_not_finite_skips_all_parts_or_none():
    params = normal(0)
    opt, scale = build(params, nonfinite="skip"), fastlr.LossScale(init=8.0)
    before, grads = as_bits(params), normal(1)
    grads["table"][3, 1] = np.inf
    opt.step(grads, grad_scale=scale, zero_grads=True)
    assert as_bits(params) == before and (opt.t, opt.skipped, scale.value) == (0, 1, 4.0)
    assert not any(array.any() for array in flat(grads).values())
    opt.step(normal(2), grad_scale=scale)
    assert opt.t == 1 and opt.state_dict()["skipped"] == 1
    refusing = build(params, nonfinite="raise")
    before = as_bits(params)
    with pytest.raises(FloatingPointError, match=r"grads\['table'\]: holds NaN or infinity at t = 0"):
        refusing.step({**normal(3), "table": np.full((10, 4), np.nan)})
    assert as_bits(params) == before


def test_a_step_that_is_refused_by_any_part_changes_nothing():
    params = normal(0)
    opt = build(params)
    opt.step(normal(1))
    before, state = as_bits(params), repr(opt.state_dict())
    good = normal(2)
    for grads, keywords, error, reason in (
            ({**good, "table": np.zeros((10, 5))}, {}, ValueError, r"grads\['table'\]: expected float64 \(10, 4\)"),
            ({**good, "layer": {"w": good["layer"]["w"], "b": np.zeros(8, int)}}, {}, TypeError,
             r"|grads\['layer'\]\['b'\]"),
            (good, {"grad_scale": -1.0}, ValueError, "grad_scale must be positive"),
            (good, {"loss": 1.0}, TypeError, "no part takes a loss"),
            ({"layer": good["layer"]}, {}, ValueError, "no entry 'table'"),
            (None, {}, TypeError, r"step\(\) needs gradients"),
            (good, {"grad_scale": fastlr.LossScale()}, ValueError, "a LossScale needs nonfinite='skip'")):
        with pytest.raises((error, ValueError), match=reason):
            opt.step(grads, **keywords)
        assert as_bits(params) == before and repr(opt.state_dict()) == state
    opt["rest"].lr = lambda t: -1.0
    with pytest.raises(ValueError, match="lr must be in"):
        opt.step(good)
    assert as_bits(params) == before


def test_an_interrupt_between_two_parts_leaves_none_behind(monkeypatch):
    params, plain = normal(0), normal(0)
    opt, expected = build(params), build(plain)
    part, calls = opt.parts["rest"], []

    def interrupted(self, *arguments, **keywords):
        if self is part and not calls:
            calls.append(1)
            raise KeyboardInterrupt
        return step(self, *arguments, **keywords)

    step = fastlr.AdamW.step
    expected.step(normal(1))
    monkeypatch.setattr(fastlr.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opt.step(normal(1))
    assert as_bits(params) == as_bits(plain) and {part.t for part in opt.parts.values()} == {1}


def test_gradients_are_skipped_bound_and_set_to_zero():
    params, plain = normal(0), normal(0)
    grads = normal(1)
    opt, other = build(params, grads=grads), build(plain)
    opt.step()
    other.step(grads)
    opt.step({"layer": None, "table": grads["table"]})
    other.step({"layer": {"w": None, "b": None}, "table": grads["table"]}, zero_grads=True)
    assert as_bits(params) == as_bits(plain)
    assert not grads["table"].any() and grads["layer"]["w"].any()


def test_rows_of_a_table():
    params, plain = normal(0), normal(0)
    opt = fastlr.Partition(params, {"table": partial(fastlr.SGD, lr=0.1)}, rest=REST)
    opt.step_rows("table", [1, 3], np.ones((2, 4)))
    opt.step({"layer": None, "table": None})
    whole = np.zeros((10, 4))
    whole[[1, 3]] = 1
    fastlr.SGD(plain["table"], lr=0.1).step(whole)
    assert params["table"].tobytes() == plain["table"].tobytes() and opt.t == 1
    with pytest.raises(ValueError, match="no parameter 'tabel'; did you mean 'table'"):
        opt.step_rows("tabel", [1], np.ones((1, 4)))


def test_a_replaced_parameter_is_noticed():
    params = normal(0)
    opt = build(params)
    params["table"] = np.zeros((10, 4))
    with pytest.raises(RuntimeError, match=r"Partition: params\['table'\] was replaced"):
        opt.step(normal(1))


def nothing(name, array):
    return array.ndim == 7


@pytest.mark.parametrize(("parts", "keywords", "error", "reason"), [
    ({"layers/*": fastlr.SGD}, {"rest": fastlr.SGD}, ValueError, "the pattern 'layers/.' matches no parameter; did you mean"),
    ({nothing: fastlr.SGD}, {"rest": fastlr.SGD}, ValueError, "the pattern 'nothing' matches no parameter"),
    ({"layer/*": fastlr.SGD, "*/w": fastlr.Muon}, {"rest": fastlr.SGD}, ValueError,
     "the parameter 'layer/w' matches two patterns, 'layer/.' and './w'"),
    ({"layer/*": fastlr.SGD}, {}, ValueError, "the parameter 'table' matches no pattern; give rest="),
    ({"*": fastlr.SGD}, {"rest": fastlr.SGD}, ValueError, "every parameter matches a pattern; leave out rest"),
    ({3: fastlr.SGD}, {}, TypeError, "a pattern must be text"),
    ([fastlr.SGD], {}, TypeError, "parts must map patterns to optimizers, got list"),
    ({"*": "sgd"}, {}, TypeError, "the part '.' must be an optimizer class or a function"),
    ({"*": lambda q: 3}, {}, TypeError, "the part '.' must give a fastlr optimizer, gave int"),
    ({"*": lambda q: fastlr.SAM(fastlr.SGD(q))}, {}, TypeError, "the part '.' is SAM, whose step takes other"),
    ({"*": lambda q: fastlr.SGD(list(q.values()))}, {}, ValueError, "must hold the parameters that it was given"),
    ({"*": partial(fastlr.SGD, nonfinite="skip")}, {}, ValueError, "has nonfinite='skip'.*give nonfinite to the Partition"),
    ({"*": fastlr.SGD}, {"clip_norm": 0}, ValueError, "clip_norm must be positive and finite, got 0"),
    ({"*": fastlr.SGD}, {"nonfinite": "ignore"}, ValueError, "nonfinite must be"),
])
def test_bad_parts_are_refused(parts, keywords, error, reason):
    with pytest.raises(error, match=reason):
        fastlr.Partition(normal(0), parts, **keywords)


def test_hyper_parameters_are_of_the_parts():
    opt = build(normal(0))
    for call in (lambda: opt.lr, lambda: setattr(opt, "lr", 1.0)):
        with pytest.raises(AttributeError, match=r"Partition has no 'lr' of its own: each part has one, as opt\['layer/w'\].lr"):
            call()
    with pytest.raises(AttributeError, match="Partition has no 'clip_nrm'; did you mean 'clip_norm'"):
        opt.clip_nrm = 1.0
    with pytest.raises(AttributeError, match=r"takes one optimizer; give it a part, as opt\['layer/w'\]"):
        fastlr.find_lr(opt, lambda batch: (1.0, normal(1)), [0] * 30)
    opt["layer/w"].lr = 0.5
    assert opt.current[0][1]["lr"] == 0.5


def test_a_gradient_for_a_frozen_parameter_moves_no_part():
    p = normal(0)
    opt = build(p)
    opt.freeze("table")
    opt.freeze("table")
    before, state = as_bits(p), repr(opt.state_dict())
    with pytest.raises(ValueError, match="Partition: grads: the parameter 'table' is frozen, and takes no gradient"):
        opt.step(normal(1))
    assert as_bits(p) == before and repr(opt.state_dict()) == state
    with pytest.raises(ValueError, match="Partition: freeze: this group is of another optimizer"):
        opt.freeze(opt.groups[0], fastlr.SGD(np.zeros(1)).groups[0])
    assert opt.frozen == ("table",)


def test_bound_gradients_of_frozen_parameters_are_neither_read_nor_measured():
    p, q, g = normal(0), normal(0), normal(1)
    g["table"][:] = np.nan
    opt, other = build(p, grads=g, clip_norm=0.5, nonfinite="raise"), build(q, clip_norm=0.5)
    opt.freeze("table")
    for _ in range(2):
        opt.step()
        other.step(g | {"table": None})
    assert as_bits(p) == as_bits(q) and opt.grad_norm == other.grad_norm
    opt.step(zero_grads=True)
    assert np.isnan(g["table"]).all() and not g["layer"]["w"].any()
    g["table"][:] = 1
    opt.unfreeze()
    opt.step()
    assert (p["table"] != q["table"]).any()


def test_a_norm_beyond_one_part_s_range_moves_no_part():
    p = {"a": np.ones(3), "b": np.ones(3, np.float32)}
    opt = fastlr.Partition(p, {"a": fastlr.SGD, "b": fastlr.SGD}, clip_norm=1e-3)
    opt.step({"a": np.ones(3), "b": np.ones(3, np.float32)})
    a, norm = p["a"].copy(), opt.grad_norm
    with pytest.raises(ValueError, match="grad_scale must be in"):
        opt.step({"a": np.full(3, 1e38), "b": np.ones(3, np.float32)})
    assert (p["a"] == a).all() and [part.t for part in opt.parts.values()] == [1, 1] and opt.grad_norm == norm


def test_groups_are_refused():
    with pytest.raises(TypeError, match="takes parameters by name, not groups"):
        fastlr.Partition([{"params": normal(0)}], {"*": fastlr.SGD})


def test_a_part_takes_and_drops_no_group():
    params = normal(0)
    opt = build(params)
    opt.step(normal(1))
    before, state = as_bits(params), repr(opt.state_dict())
    part, group = opt["rest"], opt["rest"].groups[0]
    for call, change in (("add_group", lambda: part.add_group({"late": np.zeros(3)})),
                         ("drop_group", lambda: part.drop_group(group))):
        with pytest.raises(TypeError, match=f"AdamW: {call} cannot change the part 'rest' of a Partition; make a new "
                                            f"Partition, and load the state of this one with strict=False"):
            change()
        assert as_bits(params) == before and repr(opt.state_dict()) == state and len(part.groups) == 1
    wrapped = fastlr.Partition({"a": np.ones(3)}, {"a": lambda p: fastlr.Lookahead(fastlr.SGD(p, lr=0.1))})
    with pytest.raises(TypeError, match="SGD: add_group cannot change the part 'a' of a Partition"):
        wrapped["a"].add_group({"late": np.zeros(3)})
    alone = fastlr.SGD({"a": np.ones(3)})
    alone.add_group({"late": np.zeros(3)})
    assert len(alone.groups) == 2


def test_another_partition_is_refused_and_changes_nothing():
    one, other = normal(0), normal(1)
    opt = build(one)
    opt.step(normal(2))
    split = fastlr.Partition(other, {"layer/*": fastlr.AdamW, "tab*": fastlr.Momentum}, rest=None)
    before = repr(split.state_dict())
    with pytest.raises(ValueError, match="expected the states of 2 parts, got 3"):
        split.load_state_dict(opt.state_dict())
    three = fastlr.Partition(other, {"layer/w": fastlr.AdamW, "layer/b": fastlr.SGD, "tab*": fastlr.SGD})
    with pytest.raises(ValueError, match=r"expected the parts \['layer/w', 'layer/b', 'tab\*'\]"):
        three.load_state_dict(opt.state_dict())
    assert repr(split.state_dict()) == before
    # (the last part refuses: the first has not moved)
    d, same = opt.state_dict(), build(other)
    d["parts"][2]["state"]["layer/b"]["m"] = np.zeros(3)
    before = repr(same.state_dict())
    with pytest.raises(ValueError, match="expected float64"):
        same.load_state_dict(d)
    assert repr(same.state_dict()) == before
