"""What errors of checkpoints, constraints, partitions and interchange advise is done here, as in test_advice.py."""
from functools import partial
from types import SimpleNamespace

import numpy as np
from test_advice import advises, ones

import fastlr
from fastlr import callbacks, constraints
from fastlr.interchange import from_torch


def params():
    return {"a": ones(2, 2), "b": ones(3)}


def test_what_a_run_can_hold(tmp_path):
    path = tmp_path / "run"
    lists = [[1]] * 100_000
    with advises("save such values as arrays, or in a file of their own"):
        fastlr.save(path, {"x": lists})
    fastlr.save(path, {"x": np.array(lists)})
    with advises("give optimizers, wrappers, LossScale, Plateau, History, schedules, random generators, arrays and JSON "
                 "values, or a dict or list of them"):
        fastlr.save(path, {"x": {1, 2}})
    fastlr.save(path, {"x": [1, 2]})
    with advises("save one of floats, integers or booleans of at most 64 bits"):
        fastlr.save(path, {"x": np.zeros(1, np.longdouble)})
    fastlr.save(path, {"x": np.zeros(1)})
    with advises("choose other keys"):
        fastlr.save(path, {"x": {"y": ones(1)}, "x/y": ones(1)})
    fastlr.save(path, {"x": {"y": ones(1)}, "z": ones(1)})


def test_files_of_one_and_of_several(tmp_path):
    path, opt = tmp_path / "run", fastlr.SGD(params())
    fastlr.save(path, {"opt": opt})
    with advises("load it into the same structure, as fastlr.load(path, {\"opt\": opt, ...})"):
        fastlr.load(path, opt)
    fastlr.load(path, {"opt": opt})
    fastlr.save(path, opt)
    with advises("load it into an optimizer"):
        fastlr.load(path, {"opt": opt})
    fastlr.load(path, opt)
    fastlr.save(path, {"x": [{"y": 1}, ones(1)]})
    with advises("keep it in a dict or a list"):
        fastlr.load(path, {"x": [1, ones(1)], "z": 1} | {"x": ({"y": 1}, ones(1))})
    fastlr.load(path, {"x": [{"y": 1}, ones(1)]})


def test_constraints_that_cannot_be_held():
    w = ones(4, 2)
    with advises("pass the transposed view of a parameter whose units are columns"):
        constraints.unit_norm(axis=1)
    fastlr.SGD(w.T, lr=0.0, constraint=constraints.unit_norm()).constrain()
    np.testing.assert_allclose((w**2).sum(axis=0), 1)
    narrow = np.zeros(3, np.float16)
    with advises("widen the box, or use a wider dtype"):
        fastlr.SGD(narrow, constraint=constraints.box(1.0001, 1.0002))
    fastlr.SGD(narrow, constraint=constraints.box(1, 1.1))
    fastlr.SGD(narrow.astype(np.float32), constraint=constraints.box(1.0001, 1.0002))
    with advises("use float32 parameters, or master='split'"):
        fastlr.SGD(np.zeros(2, np.uint16), dtype="bfloat16", constraint=constraints.simplex())
    fastlr.SGD(np.zeros(2, np.uint16), dtype="bfloat16", constraint=constraints.simplex(), master="split")
    with advises("use a larger one, or a wider dtype"):
        fastlr.SGD(ones(3, dtype=np.float32), constraint=constraints.simplex(1e-40))
    for total, dtype in ((1e-30, np.float32), (1e-40, np.float64)):
        x = ones(3, dtype=dtype)
        fastlr.SGD(x, constraint=constraints.simplex(total)).constrain()
        np.testing.assert_allclose(x.sum(), total, rtol=1e-6)


def test_frozen_and_dropped():
    opt = fastlr.Momentum([{"params": {"a": ones(2)}, "lr": 1}, {"params": {"b": ones(2)}, "lr": 2}])
    with advises("read opt.groups[i].current"):
        opt.current  # noqa: B018
    assert opt.groups[1].current["lr"] == 2
    opt.freeze("a")
    with advises("pass None for it, or call unfreeze('a')"):
        opt.step([{"a": ones(2)}, {"b": ones(2)}])
    opt.step([{"a": None}, {"b": ones(2)}])
    with advises("call unfreeze('a') first"):
        opt.step_rows("a", [0], ones(1))
    opt.unfreeze("a")
    opt.step_rows("a", [0], ones(1))
    opt.accumulate([{"a": ones(2)}, {"b": ones(2)}])
    with advises("take the step first"):
        opt.drop_group(0)
    opt.step([{"a": ones(2)}, {"b": ones(2)}])
    opt.drop_group(0)
    with advises("delete the optimizer instead"):
        opt.drop_group(0)
    del opt
    measured = fastlr.SGD(ones(2))
    with advises("call measure() first"):
        measured.measured  # noqa: B018
    measured.measure()
    assert measured.measured["0"].grad_norm == 0


def test_a_gradient_that_is_missing():
    opt = fastlr.SGD({"a": ones(2), "b": ones(2)}, lr=1.0)
    with advises("None leaves a parameter out"):
        opt.step({"a": ones(2)})
    opt.step({"a": ones(2), "b": None})
    assert (opt.params["a"].tolist(), opt.params["b"].tolist()) == ([0, 0], [1, 1])


def test_what_outlives_its_optimizer():
    group = fastlr.SGD(ones(2)).groups[0]
    for use in (lambda: group.params, lambda: group.current, lambda: setattr(group, "lr", 0.1)):
        with advises("this group's optimizer is gone; keep the optimizer as long as its groups", ReferenceError):
            use()
    assert repr(group) == "Group(its optimizer is gone, lr=0.001, weight_decay=0.0)"
    opt = fastlr.SGD(ones(2))
    group = opt.groups[0]
    group.lr = 0.5
    assert (group.params, group.current["lr"]) == (["0"], 0.5)

    opt.add_callback(after=lambda opt: None)
    step = opt.step
    del opt
    with advises("this step is of an optimizer that is gone; keep the optimizer, and call its step", ReferenceError):
        step([ones(2)])
    opt = fastlr.SGD(ones(2), lr=0.5)
    callback = opt.add_callback(after=lambda opt: None)
    opt.step(ones(2))
    assert opt.t == 1
    del opt
    callback.remove()


def test_what_stops_a_training():
    opt = SimpleNamespace(param_groups=[{"lr": 0.5}])
    with advises("stop counts the reductions of a plateau; give plateau=fastlr.Plateau(1.0, ...)", ValueError):
        callbacks.torch_loop(opt, stop=2)
    loop = callbacks.torch_loop(opt, plateau=fastlr.Plateau(1.0, factor=0.5, patience=1), stop=2)
    assert [loop.validation(1.0) for _ in range(5)][-1] and opt.param_groups[0]["lr"] == 0.25


def test_partitions():
    with advises("let a part be made with groups of its own, from the mapping that it is given"):
        fastlr.Partition([{"params": params()}], {"*": fastlr.SGD})
    opt = fastlr.Partition(params(), {"*": lambda q: fastlr.SGD([{"params": {"a": q["a"]}}, {"params": {"b": q["b"]}}])})
    opt.step({"a": ones(2, 2), "b": ones(3)})
    with advises("give it a part, as opt['*']"):
        fastlr.find_lr(opt, lambda batch: (1.0, params()), [0] * 30)
    assert opt["*"].groups == opt.groups
    with advises("end it with step, whose gradients may be None"):
        opt.step_rows("a", [0], ones(1, 2), ends_step=True)
    opt.step_rows("a", [0], ones(1, 2))
    opt.step({"a": None, "b": None})
    with advises("use GradientAccumulation around this"):
        opt.accumulate({"a": ones(2, 2), "b": ones(3)})
    fastlr.GradientAccumulation(opt).add({"a": ones(2, 2), "b": ones(3)})
    with advises("make a new one, and load the state of this with strict=False"):
        opt.add_group({"c": ones(1)})
    split = {"a": fastlr.SGD, "[bc]": fastlr.SGD}
    old, new = fastlr.Partition(params(), split), fastlr.Partition(params() | {"c": ones(1)}, split)
    with advises("make a new Partition, and load the state of this one with strict=False"):
        next(iter(old.parts.values())).add_group({"c": ones(1)})
    new.load_state_dict(old.state_dict(), strict=False)

    def named(what):
        def is_it(name, array):
            return name == what
        return is_it

    a, b = named("a"), named("b")
    with advises("give the functions different names"):
        fastlr.Partition(params(), {a: fastlr.SGD, b: fastlr.SGD})
    b.__name__ = "is_b"
    fastlr.Partition(params(), {a: fastlr.SGD, b: fastlr.SGD})
    with advises("let one of them match it"):
        fastlr.Partition(params(), {"*": fastlr.SGD, "a": fastlr.SGD})
    with advises("give rest= for those that match none"):
        fastlr.Partition(params(), {"a": fastlr.SGD})
    fastlr.Partition(params(), {"a": fastlr.SGD}, rest=fastlr.SGD)
    with advises("leave out rest"):
        fastlr.Partition(params(), {"*": fastlr.SGD}, rest=fastlr.SGD)
    with advises("put it around the Partition"):
        fastlr.Partition(params(), {"*": lambda q: fastlr.SAM(fastlr.SGD(q))})
    fastlr.SAM(fastlr.Partition(params(), {"*": fastlr.SGD}))
    with advises("give nonfinite to the Partition"):
        fastlr.Partition(params(), {"*": partial(fastlr.SGD, nonfinite="skip")})
    fastlr.Partition(params(), {"*": fastlr.SGD}, nonfinite="skip")


def test_interchange():
    opt = fastlr.Momentum(params())
    state = {"state": {}, "param_groups": [{"params": [0, 1], "param_names": ["x", "b"]}]}
    with advises("no parameter 'x'; give names="):
        from_torch(opt, state)
    from_torch(opt, state, names=["b", "a"])
    with advises("a name comes twice; give names="):
        from_torch(fastlr.Momentum({"a": ones(1)}), {"state": {}, "param_groups": [{"params": [0, 1]}]}, names=["a", "a"])
    with advises("give what is wrapped"):
        from_torch(fastlr.Lookahead(opt), state)
    from_torch(fastlr.Lookahead(opt).inner, state, names=["b", "a"])
    narrow = fastlr.Momentum({"a": ones(2).astype(np.float32)}, state_dtype="bfloat16")
    given = {"state": {0: {"momentum_buffer": np.float32([1, 2])}}, "param_groups": [{"params": [0]}]}
    with advises("make this optimizer with state_dtype='float32', and change the dtype by load_state_dict(..., "
                 "strict=False)"):
        from_torch(narrow, given)
    wide = fastlr.Momentum({"a": ones(2).astype(np.float32)}, state_dtype="float32")
    from_torch(wide, given)
    narrow.load_state_dict(wide.state_dict(), strict=False)
    assert narrow.state["a"].decoded()["m"].tolist() == [1, 2]
