"""Norms of each tensor in a step, and functions around steps: exact, without a bit of the step changed, nothing when off."""
import numpy as np
import pytest
import registry  # noqa: F401  (it gives steps the loss or the curvature that some rules need)
from registry import every_optimizer

import fastlr
from fastlr.constraints import max_norm

SHAPES = {"w": (40, 30), "long": (70_001,), "one": ()}


def normal(seed, dtype=np.float64, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


@every_optimizer
def test_what_is_measured_is_what_moved_and_no_bit_changes(cls):
    shapes = {"w": (40, 30), "v": (30,)}
    p, q = normal(0, shapes=shapes), normal(0, shapes=shapes)
    opt, other = cls(p), cls(q)
    opt.measure()
    for k in range(3):
        g = normal(1 + k, shapes=shapes)
        g["v"] = None if k == 1 else g["v"]
        before = {name: x.copy() for name, x in p.items()}
        opt.step(g, grad_scale=2.0)
        other.step(g, grad_scale=2.0)
        for name, found in opt.measured.items():
            if g[name] is None:
                assert found[:4] == (0, 0, 0, 0)
                continue
            moved = np.linalg.norm(p[name] - before[name])
            assert found.grad_norm == pytest.approx(np.linalg.norm(g[name]) / 2, rel=1e-12)
            assert found.update_norm == pytest.approx(moved, rel=1e-9, abs=1e-300)
            assert found.param_norm == pytest.approx(np.linalg.norm(before[name]), rel=1e-12)
            assert found.ratio == found.update_norm / found.param_norm and found.clipped == 0
    assert [x.tobytes() for x in p.values()] == [x.tobytes() for x in q.values()]
    assert repr(opt.state_dict()) == repr(other.state_dict())


@pytest.mark.parametrize("options", [
    {}, {"state_dtype": "int8"}, {"state_dtype": "bfloat16", "rounding": "stochastic"}, {"ema_decay": 0.9}, {"lr_scale": 0.3},
    {"shadow": "float16"}, {"clip_adaptive": 0.1}, {"constraint": max_norm(3.0)}], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_no_option_changes_a_bit_when_measured(options, dtype):
    if dtype == np.float16 and "constraint" in options:
        return
    found = []
    for on in (False, True):
        p = normal(0, dtype)
        opt = fastlr.Adam(p, lr=0.1, **options)
        opt.measure(on)
        for k in range(2):
            opt.step(normal(5 + k, np.float32))
        found.append([x.tobytes() for x in p.values()] + [
            x.tobytes() for slots in opt.state.values() for x in slots.values()])
    assert found[0] == found[1] and opt.measured["long"].update_norm > 0


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e25), (np.float32, 1e-25), (np.float64, 1e200),
                                             (np.float64, 1e-200), (np.float32, 0.0)])
@pytest.mark.parametrize("cls", [fastlr.SGD, fastlr.Muon])
def test_squares_that_overflow_or_vanish_are_measured(cls, dtype, size):
    """Beside ordinary ones, too: half of a tensor has each size."""
    w = np.random.default_rng(0).normal(size=(2, 3000)).astype(dtype)
    p, g = w * dtype([[size], [1]]), w[::-1] * dtype([[1], [size]])
    before = p.copy()
    opt = cls(p, lr=1e-3)
    opt.measure()
    opt.step(g)
    found, tolerance = opt.measured["0"], 1e-6 if dtype == np.float32 else 1e-12

    def norm(x):
        largest = np.abs(x).max()
        return float(largest * np.linalg.norm(np.float64(x) / np.float64(largest)))

    assert found.grad_norm == pytest.approx(norm(g), rel=tolerance) and 0 < found.grad_norm < np.inf
    assert found.param_norm == pytest.approx(norm(before), rel=tolerance)
    assert found.update_norm == pytest.approx(norm(np.float64(p) - before), rel=tolerance)
    opt.clip_norm = 1e-3
    opt.step(g)
    assert opt.measured["0"].grad_norm == pytest.approx(norm(g), rel=tolerance) and opt.measured["0"].clipped == 1
    if cls is fastlr.SGD:
        q = np.full((2, 3000), size, dtype)
        opt = cls(q, lr=0.0)
        opt.measure()
        opt.step(np.full_like(q, size))
        assert opt.measured["0"][:3] == pytest.approx((norm(q), 0, norm(q)) if size else (0, 0, 0), rel=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_layout_changes_no_bit_of_what_is_measured(dtype):
    shapes = {"w": (37, 300), "long": (9000,)}
    p = normal(0, dtype, shapes)
    q = {name: np.repeat(x, 2, axis=-1)[..., ::2] for name, x in p.items()}
    found = set()
    for params, every in ((p, 1), (q, 3)):
        opt = fastlr.Adam(params, lr=0.1)
        opt.measure()
        opt.step({name: np.repeat(g, every, axis=-1)[..., ::every] for name, g in normal(1, np.float32, shapes).items()})
        found.add(repr(opt.measured))
    assert len(found) == 1


def test_threads_change_no_bit_of_what_is_measured():
    found = set()
    before = fastlr.get_num_threads()
    for threads in (1, 2):
        fastlr.set_num_threads(threads)
        opt = fastlr.Adam(normal(0))
        opt.measure()
        opt.step(normal(1))
        found.add(repr(opt.measured))
    fastlr.set_num_threads(before)
    assert len(found) == 1


def test_the_share_of_clipped_steps_and_turning_it_off():
    p = {"w": np.zeros(4), "v": np.zeros(4)}
    opt = fastlr.SGD(p, clip_tensor_norm=1.0)
    with pytest.raises(RuntimeError, match=r"nothing is measured; call measure\(\) first"):
        opt.measured  # noqa: B018
    opt.measure()
    for k in range(4):
        opt.step({"w": np.full(4, 1.0 if k else 0.1), "v": None if k == 3 else np.full(4, 0.1)})
    assert opt.measured["w"].clipped == 0.75 and opt.measured["v"].clipped == 0
    assert opt.measured["w"].grad_norm == 2.0 and opt.measured["w"].update_norm == pytest.approx(1e-3, rel=1e-5)
    assert opt.measures
    opt.measure(False)
    assert not opt.measures
    opt.step({"w": np.ones(4), "v": np.ones(4)})


def test_what_changes_between_steps_keeps_what_the_latest_measured():
    params = {"w": np.ones(4), "v": np.ones(3)}
    opt = fastlr.SGD([{"params": {"w": params["w"]}}, {"params": {"v": params["v"]}}], lr=0.5, clip_norm=1.0)
    opt.measure()
    opt.step([{"w": np.ones(4)}, {"v": np.ones(3)}], grad_scale=2.0)
    of = opt.measured
    opt.add_group({"late": np.ones(2)})
    assert {name: opt.measured[name] for name in of} == of and opt.measured["late"] == (0, 0, 0, 0, 0)
    opt.drop_group(0)
    assert opt.measured["v"] == of["v"] and list(opt.measured) == ["v", "late"]
    opt.clip_norm = 2.0
    assert opt.measured["v"] == of["v"]._replace(clipped=0.0)


def test_rows_are_not_measured_and_say_so():
    """NaN, which History and diagnose leave out: zeros would read as a gradient that vanishes."""
    params = {"table": np.ones((4, 2)), "w": np.ones(2)}
    opt = fastlr.Momentum(params, lr=0.5)
    opt.measure()
    row, history = np.ones((1, 2)), fastlr.History()
    for _ in range(60):
        opt.step_rows("table", [1], row)
        opt.step({"table": None, "w": np.full(2, 1e-3)})
        assert np.isnan(opt.measured["table"][:4]).all() and opt.measured["w"].update_norm > 0
        history.record(loss=1.0, opt=opt)
    assert "table" not in str(fastlr.diagnose(history))
    opt.step({"table": np.ones((4, 2)), "w": np.ones(2)})
    assert opt.measured["table"].grad_norm == np.sqrt(8)
    opt.step_rows("table", [1], row, ends_step=True)
    assert np.isnan(opt.measured["table"].ratio) and opt.measured["w"] == (0, 0, 0, 0, 0)
    opt.step({"table": None, "w": np.ones(2)})
    assert opt.measured["table"] == (0, 0, 0, 0, 0)


def test_groups_added_later_and_partitions_are_measured_and_history_records_it():
    opt = fastlr.SGD({"a": np.ones(2)}, lr=0.5)
    opt.measure()
    opt.add_group({"b": np.ones(2)})
    opt.step([{"a": np.ones(2)}, {"b": np.zeros(2)}])
    history = fastlr.History()
    history.record(loss=1.0, opt=fastlr.Lookahead(opt))
    assert history["update_ratio/a"].tolist() == [0.5] and history["update_norm/b"].tolist() == [0]
    assert history["grad_norm/a"][0] == np.sqrt(2) and history["clipped/a"].tolist() == [0]
    both = fastlr.Partition({"a": np.ones(2), "b": np.ones((2, 2))}, {"b": fastlr.Muon}, rest=fastlr.SGD)
    both.measure()
    both.step({"a": np.ones(2), "b": np.ones((2, 2))})
    assert set(both.measured) == {"a", "b"} and both.measured["b"].update_norm > 0
    both.clip_norm = 0.1
    both.step({"a": np.ones(2), "b": np.ones((2, 2))})
    assert both.measured["a"].grad_norm == pytest.approx(np.sqrt(2), rel=1e-12) and both.measured["b"].clipped == 0.5
    assert "grad_norm/b" in fastlr.History.from_rows([]).names or both.measures


def test_callbacks_come_around_each_step():
    p, said = {"w": np.zeros(1)}, []
    opt = fastlr.SGD(p, lr=1.0)
    plain = opt.step
    first = opt.add_callback(before=lambda opt, grads: said.append(("before", opt.t, float(grads["w"][0]))),
                             after=lambda opt: said.append(("after", opt.t)))
    second = opt.add_callback(after=lambda opt: said.append("second"))
    fastlr.Lookahead(opt, k=5).step({"w": np.ones(1)})
    assert said == [("before", 0, 1.0), ("after", 1), "second"]
    first.remove()
    first.remove()
    opt.step({"w": np.ones(1)}, zero_grads=True)
    assert said[3:] == ["second"]
    second.remove()
    assert opt.step == plain and "step" not in vars(opt)
    opt.step({"w": np.ones(1)})
    assert len(said) == 4 and p["w"][0] == -3


def test_a_function_that_was_added_twice_is_removed_once_by_each_callback():
    said = []
    opt = fastlr.SGD(np.zeros(1), lr=1.0)

    def a(opt):
        said.append("a")

    added = [opt.add_callback(after=function) for function in (a, lambda opt: said.append("b"), a)]
    added[2].remove()
    added[2].remove()
    opt.step(np.ones(1))
    assert said == ["a", "b"]                              # the first of the two stays, in its place
    added[0].remove()
    opt.step(np.ones(1))
    assert said == ["a", "b", "b"]


def test_a_callback_that_raises_before_a_step_prevents_it():
    opt = fastlr.SGD(np.zeros(1))

    def refuse(opt, grads):
        raise KeyError("no")

    opt.add_callback(before=refuse)
    with pytest.raises(KeyError):
        opt.step(np.ones(1))
    assert opt.t == 0
    for keywords, reason in (({}, "give before=, after= or both"), ({"after": 3}, "after must be a function, got 3")):
        with pytest.raises(TypeError, match=reason):
            opt.add_callback(**keywords)


def test_a_refused_plan_leaves_measuring_as_it_was(monkeypatch):
    opt = fastlr.SGD(np.zeros(1))
    monkeypatch.setattr(fastlr.Optimizer, "_planned", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        opt.measure()
    monkeypatch.undo()
    assert not opt.measures and not opt._plan.tensors[0].measured
    opt.step(np.ones(1))
