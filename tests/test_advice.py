"""What errors advise is done here, and helps: each test provokes errors, and then does what they say.

The last test collects the errors of the public interfaces from the source: advice that no test follows is a failure.
"""
import ast
import ctypes
import importlib
import re
import sys
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import fastlr
from fastlr import schedules
from fastlr.optimizers.base import REGISTRY

FASTLR = Path(fastlr.__file__).parent


@contextmanager
def advises(text, error=Exception):
    """An error whose message has this text."""
    with pytest.raises(error) as raised:
        yield
    assert text in str(raised.value), str(raised.value)


def ones(*shape, dtype=np.float64):
    return np.ones(shape, dtype)


# Parameters and gradients

def test_parameters_that_cannot_be_moved_where_they_are():
    frozen = np.frombuffer(bytes(24))
    with advises("got a read-only array; let your model use a writable copy of it, and pass that"):
        fastlr.SGD(frozen)
    model = SimpleNamespace(w=frozen.copy())
    fastlr.SGD(model.w, lr=1.0).step(ones(3))
    assert model.w.tolist() == [-1, -1, -1]

    model.w = np.lib.stride_tricks.as_strided(np.zeros(4), (3, 2), (8, 8))
    with advises("let your model use a copy of it, and pass that"):
        fastlr.SGD(model.w)
    model.w = model.w.copy()
    fastlr.SGD(model.w, lr=1.0).step(ones(3, 2))
    assert (model.w == -1).all()

    shared = ones(4)
    with advises("share memory; pass each once"):
        fastlr.SGD([shared, shared[:2]])
    fastlr.SGD([shared], lr=1.0).step([ones(4)])
    assert (shared == 0).all()

    with advises("must be writable and its elements apart in memory; pass a new array"):
        fastlr.SGD([ones(3)], shadow=[np.broadcast_to(np.float16(0), 3)])
    shadow = np.zeros(3, np.float16)
    fastlr.SGD([ones(3)], lr=0.5, shadow=[shadow]).step([ones(3)])
    assert (shadow == 0.5).all()


def test_parameters_of_types_that_are_not_known():
    buffer = bytearray(np.float32([1, 2]).tobytes())
    with advises("cast its memoryview, e.g. memoryview(buffer).cast('f')"):
        fastlr.SGD(buffer)
    fastlr.SGD(memoryview(buffer).cast("f"), lr=1.0).step(np.float32([1, 1]))
    assert np.frombuffer(buffer, np.float32).tolist() == [0, 1]

    halves = (np.float32([1, 2]).view(np.uint32) >> 16).astype(np.uint16)
    with advises("say dtype='bfloat16' if they are its bits"):
        fastlr.SGD(halves)
    fastlr.SGD(halves, dtype="bfloat16", lr=1.0).step(np.float32([1, 1]))
    assert (halves.astype(np.uint32) << 16).view(np.float32).tolist() == [0, 1]

    narrow = ones(2, dtype=np.float16)
    with advises("let your model use float32 parameters"):
        fastlr.LBFGS([narrow])
    model = SimpleNamespace(w=narrow.astype(np.float32))
    fastlr.LBFGS([model.w]).step(lambda: (float(model.w @ model.w), [2 * model.w]))
    assert abs(model.w).max() < 1e-3

    class Elsewhere:
        def __dlpack__(self, **how):
            raise BufferError("it is on another device")

        def __dlpack_device__(self):
            return 2, 0

    with advises("it must be dense, on the CPU, and float16, bfloat16, float32 or float64 (of a parameter the model's"):
        fastlr.SGD(Elsewhere())

    with advises("SGD: params: expected an array, a sequence or a mapping of arrays, or groups, got NoneType"):
        fastlr.SGD(None)


def test_gradients_that_were_accumulated():
    params = {"table": ones(2, 1), "w": ones(2)}
    opt = fastlr.Momentum(params, lr=1.0, momentum=0.5)
    opt.accumulate({"table": ones(2, 1), "w": ones(2)})
    with advises("pass zeros where the last batch has none"):
        opt.step({"table": ones(2, 1), "w": None})
    with advises("use step, with zeros for rows that are not touched"):
        opt.step_rows("table", [1], ones(1, 1))
    opt.step({"table": np.array([[0.0], [1.0]]), "w": 0 * ones(2)})
    assert params["w"].tolist() == [0, 0] and params["table"].ravel().tolist() == [0, -1]

    for begin in ("unfreeze", "reset"):
        p = {"a": ones(1), "b": ones(1)}
        wrapped = fastlr.GradientAccumulation(fastlr.SGD(p, lr=1.0))
        wrapped.add({"a": ones(1), "b": ones(1)})
        wrapped.freeze("a")
        with advises("call unfreeze('a') before this step, or reset() to drop what was added"):
            wrapped.step()
        if begin == "unfreeze":
            wrapped.unfreeze("a")
        else:
            wrapped.reset()
            wrapped.add({"a": None, "b": ones(1)})
        wrapped.step()
        assert p["b"] == 0 and p["a"] == (0 if begin == "unfreeze" else 1)


def test_a_parameter_that_was_replaced():
    params = {"w": ones(2)}
    opt = fastlr.SGD(params, lr=1.0)
    params["w"] = 5 * ones(2)
    with advises("write into it, params['w'][...] = x, or make a new optimizer"):
        opt.step({"w": ones(2)})
    fastlr.SGD(params, lr=1.0).step({"w": ones(2)})
    assert params["w"].tolist() == [4, 4]
    params["w"] = ones(2)
    opt = fastlr.SGD(params, lr=1.0)
    params["w"][...] = 3.0
    opt.step({"w": ones(2)})
    assert params["w"].tolist() == [2, 2]


def test_gradients_that_the_step_would_write():
    p = ones(4)
    opt = fastlr.SGD([p], lr=1.0)
    with advises("which the step writes; pass a copy"):
        opt.step([p[::-1]])
    opt.step([p[::-1].copy()])
    assert (p == 0).all()
    with advises("step() needs gradients: pass them, or bind them with grads= in the constructor"):
        opt.step()
    g = ones(4)
    fastlr.SGD([p], lr=1.0, grads=[g]).step()
    assert (p == -1).all()


def test_names_that_nearly_fit():
    with advises("did you mean 'weight_decay'?"):
        fastlr.AdamW(ones(2), weight_decy=0.1)
    opt = fastlr.AdamW(ones(2), weight_decay=0.1)
    for wrong, meant, value in (("learning_rate", "lr", 0.5), ("beta_1", "beta1", 0.5), ("clipnorm", "clip_tensor_norm", 1)):
        with advises(f"did you mean {meant!r}?"):
            setattr(opt, wrong, value)
        setattr(opt, meant, value)
        assert getattr(opt, meant) == value


# Options, settings, rows, accumulation

def test_what_an_optimizer_was_not_made_for():
    opt = fastlr.SGD(ones(2), lr=1.0)
    with advises("no norms are remembered; give clip_zscore"):
        opt.norms  # noqa: B018
    opt.clip_zscore = 2.0
    assert opt.norms["count"] == 0
    with advises("no running mean is kept; give ema_decay"):
        opt.ema  # noqa: B018
    assert fastlr.SGD(ones(2), ema_decay=0.5).ema["0"].tolist() == [1, 1]
    scale = fastlr.LossScale()
    with advises("a LossScale needs nonfinite='skip', got 'propagate'; give it to the constructor"):
        opt.step(ones(2), grad_scale=scale)
    fastlr.SGD(ones(2), nonfinite="skip").step(ones(2), grad_scale=scale)
    with advises("lr differs between groups; read opt.groups[i].lr"):
        fastlr.SGD([{"params": [ones(1)], "lr": 1.0}, {"params": [ones(1)], "lr": 2.0}]).lr  # noqa: B018
    assert [g.lr for g in fastlr.SGD([{"params": [ones(1)], "lr": 1.0}, {"params": [ones(1)], "lr": 2.0}]).groups] == [1, 2]
    sm3 = fastlr.SM3(ones(2, 2), momentum=0.0)
    with advises("keeps no mean; make it with a momentum"):
        sm3.momentum = 0.9
    assert fastlr.SM3(ones(2, 2), momentum=0.9).momentum == 0.9
    with advises("pass fallback='adamw' to update it with AdamW"):
        fastlr.Shampoo({"b": ones(2)}, fallback=None)
    fastlr.Shampoo({"b": ones(2)}, fallback="adamw").step({"b": ones(2)})
    with advises("above lr_max = 0.1; give the largest as lr_max"):
        fastlr.AdamW(ones(2), lr=lambda t: 0.5, decay="corrected", lr_max=0.1).step(ones(2))
    fastlr.AdamW(ones(2), lr=lambda t: 0.5, decay="corrected", lr_max=0.5).step(ones(2))
    with advises("as it is a function of your own; give lr_max"):
        fastlr.AdamW(ones(2), lr=lambda t: 0.5, decay="corrected")

    def meddling(t):
        opt.lr = 0.5
        return 0.1

    opt = fastlr.SGD(ones(2), lr=meddling)
    with advises("a schedule is giving its value; set lr between steps"):
        opt.step(ones(2))
    opt.lr = 0.5
    opt.step(ones(2))


def test_what_cannot_be_copied_or_pickled():
    import pickle

    opt = fastlr.Adam(ones(2))
    for thing in (opt, fastlr.Lookahead(opt)):
        with advises("save state_dict(), or use fastlr.save"):
            pickle.dumps(thing)
        thing.load_state_dict(pickle.loads(pickle.dumps(thing.state_dict())))
    with advises("read its hyper-parameters, or save state_dict()"):
        pickle.dumps(opt.groups[0])
    assert opt.groups[0].lr == opt.state_dict()["groups"][0]["lr"]


def test_rows_that_catch_up():
    table = ones(4, 2)
    with advises("a step of this rule depends on more than an element's gradient, and rows cannot be stepped; leave it out"):
        fastlr.LAMB({"table": table}, catch_up_rows=True)
    fastlr.LAMB({"table": table}).step({"table": ones(4, 2)})
    with advises("needs a parameter without shadow=, which is for whole steps; leave one of them out"):
        fastlr.SGD({"table": table}, catch_up_rows=True, shadow="float16")
    opt = fastlr.Momentum({"table": table}, catch_up_rows=True)
    with advises("its gradient cannot be bound; bind None, and give it to step_rows or step"):
        opt.bind({"table": ones(4, 2)})
    opt.bind({"table": None})
    opt.step({"table": ones(4, 2)})
    opt.step_rows("table", [1], ones(1, 2))
    with advises("rows of 'table' are up to 1 updates behind; call catch_up() first, before parameters or state are read"):
        opt.state_dict()
    opt.catch_up()
    assert opt.state_dict()["state"]["table"]["m"][0, 0] == np.float64(0.9)
    with advises("needs parameters that have all updates after each step; make Momentum without catch_up_rows"):
        fastlr.Lookahead(opt)
    fastlr.Lookahead(fastlr.Momentum({"table": table})).step({"table": ones(4, 2)})


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")      # (from NumPy 2.5 on)
def test_rows():
    table = ones(4, 2)
    opt = fastlr.SGD({"table": table}, lr=1.0)
    mask = np.array([False, True, False, True])
    with advises("got a mask of bool; pass np.flatnonzero(rows) and the gradients of those rows"):
        opt.step_rows("table", mask, ones(4, 2))
    opt.step_rows("table", np.flatnonzero(mask), ones(4, 2)[mask])
    assert table[:, 0].tolist() == [1, 0, 1, 0]
    rows = np.array([0.0, 2.0])
    with advises("rows must be integers, got float64; pass rows.astype('int64') if they are row numbers"):
        opt.step_rows("table", rows, ones(2, 2))
    opt.step_rows("table", rows.astype("int64"), ones(2, 2))
    assert (table == 0).all()
    one = fastlr.SGD({"x": np.array(1.0)}, lr=1.0)
    with advises("the parameter must have rows, got one number; use step"):
        one.step_rows("x", [0], ones(1))
    one.step({"x": np.array(1.0)})
    for option in ({"clip_norm": 1.0}, {"clip_zscore": 1.0}, {"clip_adaptive": 1.0}):
        with advises("use clip_tensor_norm, or clip before"):
            fastlr.SGD({"table": table}, **option).step_rows("table", [0], ones(1, 2))
    fastlr.SGD({"table": table}, lr=1.0, clip_tensor_norm=1.0).step_rows("table", [0], 30 * ones(1, 2))
    np.testing.assert_allclose(table[0], -(0.5**0.5), rtol=1e-6)
    with advises("a shadow needs whole steps; build the optimizer without shadow=, or use step"):
        fastlr.SGD({"table": table}, shadow="float16").step_rows("table", [0], ones(1, 2))
    fastlr.SGD({"table": table}, shadow="float16").step({"table": ones(4, 2)})
    big = ones(5000, 3, dtype=np.float32)
    with advises("choose another state_dtype for this table"):
        fastlr.Adam({"table": big}, state_dtype="int8").step_rows("table", [0], ones(1, 3, dtype=np.float32))
    fastlr.Adam({"table": big}, state_dtype={"table": "bfloat16"}).step_rows("table", [0], ones(1, 3, dtype=np.float32))
    lamb = fastlr.LAMB({"table": table})
    with advises("a step of this rule depends on more than an element's gradient; use step"):
        lamb.step_rows("table", [0], ones(1, 2))
    lamb.step({"table": ones(4, 2)})
    muon = fastlr.Muon({"table": table})
    with advises("step_rows is for elementwise rules, this sees whole matrices; use step"):
        muon.step_rows("table", [0], ones(1, 2))
    muon.step({"table": ones(4, 2)})
    table.shape = 2, 4
    with advises("was given another shape, type or memory in place since it was bound; give it back its own"):
        opt.step_rows("table", [0], ones(1, 2))
    table.shape = 4, 2
    opt.step_rows("table", [0], ones(1, 2))


def test_accumulation():
    with advises("sees gradients through its moments alone (", TypeError):
        fastlr.RMSprop(ones(2)).accumulate(ones(2))
    with advises("accumulate the gradients themselves"):
        fastlr.RMSprop(ones(2)).accumulate(ones(2))
    acc = fastlr.GradientAccumulation(fastlr.RMSprop(ones(2)))
    acc.add(ones(2))
    acc.step()
    clipped = fastlr.Adam(ones(2), clip_norm=1.0)
    with advises("use clip_value, or accumulate the gradients themselves"):
        clipped.accumulate(ones(2))
    fastlr.Adam(ones(2), clip_value=1.0).accumulate(ones(2))
    acc = fastlr.GradientAccumulation(clipped)
    acc.add(ones(2))
    acc.step()
    with advises("use add(grads), which adds up gradients; accumulate adds to the moments of the optimizer and needs no"):
        acc.accumulate(ones(2))
    with advises("nothing was added since the latest step; call add(grads) first"):
        acc.step()
    acc.add(ones(2))
    g = ones(2)
    with advises("as a step reads the sums; zero the gradients after add"):
        acc.step(zero_grads=True)
    g[:] = 0
    acc.step()
    with advises("a step of Adam takes no loss; leave it out"):
        acc.add(ones(2), loss=1.0)
    acc.add(ones(2))
    with advises("average the gradients of the batches first and pass the mean to SAM"):
        fastlr.SAM(acc)
    sam = fastlr.SAM(fastlr.SGD(ones(2)))
    with advises("cannot add up the gradients of batches; average them first and pass the mean to ascend and to step"):
        sam.add(ones(2))
    mean = (ones(2) + 3 * ones(2)) / 2
    sam.ascend(mean)
    sam.step(mean)


def test_rules_that_are_given_more():
    opt = fastlr.Sophia({"t": ones(4, 2)}, lr=0.1)
    step, rows = (getattr(fastlr.Sophia, name) for name in ("step", "step_rows"))
    step, rows = getattr(step, "__wrapped__", step), getattr(rows, "__wrapped__", rows)
    with advises("and its curvature was never estimated; give step(grads, curvature=...)"):
        step(opt, {"t": ones(4, 2)})
    with advises("begin with step(grads, curvature=...), with zeros for rows that are not touched"):
        rows(opt, "t", [0], ones(1, 2))
    estimate = ones(4, 2) * np.array([[1.0], [0], [0], [0]])
    step(opt, {"t": ones(4, 2)}, curvature={"t": estimate})
    rows(opt, "t", [0], ones(1, 2))
    p = ones(2)
    momo = fastlr.MoMo(p)
    step = getattr(fastlr.MoMo.step, "__wrapped__", fastlr.MoMo.step)
    with advises("loss must be finite, got nan; leave such a step out"):
        step(momo, ones(2), loss=float("nan"))
    with advises("step needs loss=, the value of what is minimised where the gradients were taken"):
        step(momo, ones(2))
    step(momo, ones(2), loss=1.0)
    assert (p < 1).all()


# Wrappers and means

def test_wrappers():
    params = {"table": ones(3, 2), "w": ones(2)}
    given = {"table": None, "w": ones(2)}

    def fresh():
        return fastlr.SGD(params, lr=1.0)

    for wrapper in (fastlr.Lookahead, fastlr.GradientAccumulation):
        opt = wrapper(fresh())
        with advises("use opt.inner.step_rows before a step to which this tensor's gradient is None"):
            opt.step_rows("table", [0], ones(1, 2))
        opt.inner.step_rows("table", [0], ones(1, 2))
        if wrapper is fastlr.GradientAccumulation:
            opt.add(given)
            opt.step()
        else:
            opt.step(given)
    assert params["table"].tolist() == [[-1, -1], [1, 1], [1, 1]]
    centered = fastlr.GradientCentralization(fresh())
    with advises("subtract the rows' means yourself and use opt.inner.step_rows, before a step to which this tensor's"):
        centered.step_rows("table", [1], ones(1, 2))
    rows = np.array([[1.0, 3.0]])
    centered.inner.step_rows("table", [1], rows - rows.mean(axis=1, keepdims=True))
    centered.step(given)
    assert params["table"][1].tolist() == [2, 0]
    sam = fastlr.SAM(fresh())
    with advises("use sam.inner.step_rows, for a tensor whose gradient is None in ascend and in step (rows of a perturbed"):
        sam.step_rows("table", [2], ones(1, 2))
    sam.ascend(given)
    sam.inner.step_rows("table", [2], ones(1, 2))
    sam.step(given)
    assert params["table"][2].tolist() == [0, 0]

    with advises("call ascend(grads) first"):
        sam.step(given)
    with advises("call ascend(grads) first"):
        sam.accumulate(given)
    sam.ascend(given)
    with advises("the parameters are perturbed already; call step(grads) or retreat() first"):
        sam.ascend(given)
    with advises("the parameters are perturbed; call step(grads) or retreat() first"):
        sam.state_dict()
    sam.retreat()
    sam.state_dict()
    sam.ascend(given)
    sam.step(given)
    with advises("needs the gradients as an argument (it cannot read buffers that are bound to the optimizer)"):
        sam.ascend(None)

    g = ones(2, 2)
    centered = fastlr.GradientCentralization(fastlr.SGD([ones(2, 2)]))
    with advises("the optimizer gets copies of the gradients; zero the gradients yourself"):
        centered.step([g], zero_grads=True)
    centered.step([g])
    g[...] = 0
    centered = fastlr.GradientCentralization(fastlr.GradientAccumulation(fastlr.SGD([ones(2, 2)])))
    with advises("a step of GradientAccumulation takes no gradients; pass them to add(grads)"):
        centered.step([g])
    centered.add([g])
    centered.step()
    bits = np.zeros(2, np.uint16)
    with advises("use float32 parameters, with shadow='bfloat16'"):
        fastlr.Lookahead(fastlr.SGD([bits], dtype="bfloat16", master="split"))
    fastlr.Lookahead(fastlr.SGD([ones(2, dtype=np.float32)], shadow="bfloat16")).step([ones(2, dtype=np.float32)])
    inner = fastlr.SGD(ones(2))
    with advises("wrap its optimizer in Lookahead first, then that in SAM"):
        fastlr.Lookahead(fastlr.SAM(inner))
    fastlr.SAM(fastlr.Lookahead(inner)).ascend(ones(2))


def test_means():
    opt = fastlr.SGD([ones(2)])
    with advises("the optimizer knows the dtype of its parameters; leave dtype out"):
        fastlr.EMA(opt, dtype="bfloat16")
    ema = fastlr.EMA(opt)
    with ema.swapped(), advises("the parameters hold the means; leave the with block of swapped() first"):
        ema.update()
    ema.update()
    opt.add_group([ones(3)])
    with advises("make a new EMA after add_group or drop_group"):
        ema.update()
    ema = fastlr.EMA(opt)
    ema.update()
    opt.drop_group(1)
    with advises("make a new EMA after add_group or drop_group"):
        ema.update()
    fastlr.EMA(opt).update()
    with advises("takes parameters, not groups, as it has no hyper-parameters per group; pass an array, a sequence or a "
                 "mapping"):
        fastlr.EMA([{"params": [ones(2)]}])
    for params in (ones(2), [ones(2)], {"w": ones(2)}):
        fastlr.EMA(params).update()


# States, saving and loading

def test_states_that_are_replaced():
    opt = fastlr.Adam(ones(2))
    with advises("what there is cannot be changed; write into the arrays, state[name][slot][...] = x"):
        opt.state["0"] = {"m": ones(2)}
    with advises("what there is cannot be changed; write into the arrays, [name][...] = x"):
        opt.state["0"].update(m=ones(2))
    opt.state["0"]["m"][...] = 5.0
    assert opt.state_dict()["state"]["0"]["m"].tolist() == [5, 5]


def test_memory_of_a_state():
    opt, memory = fastlr.AdamW({"w": np.asfortranarray(np.ones((3, 2)))}), np.empty((3, 2))
    with pytest.raises(ValueError, match=r"make it like np\.empty_like\(opt\.state\['w'\]\['m'\]\)"):
        opt.place_state({"w": {"m": memory}})
    memory = np.empty_like(opt.state["w"]["m"])
    with pytest.raises(ValueError, match=r"parameter or another slot; give each memory of its own"):
        opt.place_state({"w": {"m": memory, "v": memory}})
    opt.place_state({"w": {"m": memory, "v": np.empty_like(memory)}})
    opt.step({"w": np.ones((3, 2))})
    assert memory.all()


def test_states_of_others(tmp_path):
    p, path = ones(2), tmp_path / "c"
    opt = fastlr.SGD([p], lr=1.0, clip_norm=1.0)
    fastlr.save(path, opt)
    other = fastlr.SGD([ones(2)], lr=1.0)
    advice = "make it with that, or give strict=False to go on with its own"
    with advises(advice, fastlr.CheckpointError):
        fastlr.load(path, other)
    with advises(advice, ValueError):
        other.load_state_dict(opt.state_dict())
    differs = ["saved with clip_norm = 1.0, this optimizer has None"]
    assert fastlr.load(path, other, strict=False) == other.load_state_dict(opt.state_dict(), strict=False) == differs
    wrapped, there = fastlr.Lookahead(other), fastlr.Lookahead(opt)
    fastlr.save(path, there)
    with advises(advice, fastlr.CheckpointError):
        fastlr.load(path, wrapped)
    assert fastlr.load(path, wrapped, strict=False) == wrapped.load_state_dict(there.state_dict(), strict=False) == differs
    assert fastlr.load(path, fastlr.Lookahead(fastlr.SGD([p], clip_norm=1.0)), strict=False) == []
    assert fastlr.load(path, fastlr.Lookahead(fastlr.SGD([p], clip_norm=1.0))) is None

    fastlr.save(path, opt, params=False)
    with advises("load it into one of the class saved"):
        fastlr.load(path, fastlr.Momentum([p]))
    with advises("it was saved with params=False; load them from where they were saved, and this with params=False"):
        fastlr.load(path, opt, params=True)
    fastlr.load(path, opt, params=False)
    with advises("which is not in the file; build the optimizer over the parameters that were saved"):
        fastlr.load(adam_file(tmp_path), fastlr.Adam([p, ones(3)]))
    fastlr.load(adam_file(tmp_path), fastlr.Adam([p]))
    with advises("make this optimizer with that"):
        fastlr.Adam([p], convention="optax").load_state_dict(fastlr.Adam([p]).state_dict())
    fastlr.Adam([p]).load_state_dict(fastlr.Adam([p]).state_dict())
    with advises("load it into one"):
        fastlr.Adam([p]).load_state_dict(opt.state_dict())
    with advises("load it into an object of that class"):
        fastlr.EMA([p]).load_state_dict(fastlr.SWA([p]).state_dict())
    fastlr.SWA([p]).load_state_dict(fastlr.SWA([p]).state_dict())

    rate = fastlr.SGD([p], lr=lambda t: 0.5)
    state = rate.state_dict()
    again = fastlr.SGD([p])
    with advises("lr was a function (", ValueError):
        again.load_state_dict(state)
    with advises("which is not saved; set opt.lr to it before loading", ValueError):
        again.load_state_dict(state)
    again.lr = lambda t: 0.5
    again.load_state_dict(state)

    plateau = fastlr.Plateau(lambda t: 0.5)
    fresh = fastlr.Plateau(schedules.constant(1.0))
    with advises("make the Plateau with it before loading"):
        fresh.load_state_dict(plateau.state_dict())
    fastlr.Plateau(lambda t: 0.5).load_state_dict(plateau.state_dict())


def adam_file(folder):
    fastlr.save(folder / "adam", fastlr.Adam([ones(2)]))
    return folder / "adam"


def test_files(tmp_path, monkeypatch):
    p, good, bad = ones(2), tmp_path / "good", tmp_path / "bad"
    opt = fastlr.Momentum([p])
    fastlr.save(good, opt)
    whole = good.read_bytes()
    bad.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with advises("are not those that were saved; take an older copy"):
        fastlr.load(bad, opt)
    at = whole.index(b"Momentum")
    bad.write_bytes(whole[:at] + b"N" + whole[at + 1:])
    with advises("the header is not the one that was saved; take an older copy"):
        fastlr.load(bad, opt)
    fastlr.load(good, opt)
    with advises("rename that parameter"):
        fastlr.save(bad, fastlr.SGD({"\ud800": p}))
    fastlr.save(bad, fastlr.SGD({"renamed": p}))
    several = {f"{k}" * 50: ones(2) for k in range(9)}
    monkeypatch.setattr(fastlr.checkpoint, "LARGEST_HEADER", 1800)
    with advises("save fewer tensors at a time"):
        fastlr.save(bad, fastlr.SGD(several))
    fastlr.save(bad, fastlr.SGD(dict(list(several.items())[:2])))


# Learning rates, histories, line searches

def test_schedules():
    with advises("must be in (0.5, 1], got 2.0; for others: inverse_power"):
        schedules.robbins_monro(1.0, power=2.0)
    assert schedules.inverse_power(1.0, decay=1.0, power=2.0)(1) == 0.25
    with advises("missing steps"):
        schedules.cosine(1.0)
    assert schedules.cosine(1.0, steps=5)(0) == 1
    with advises("did you mean 'steps'?"):
        schedules.cosine(1.0, step=5)


def test_line_searches():
    x, d = ones(2), -ones(2)
    with advises("it returned a value alone; use kind='armijo'"):
        fastlr.line_search(lambda x: float(x @ x), x, d, kind="wolfe")
    assert fastlr.line_search(lambda x: (float(x @ x), 2 * x), x, d, kind="armijo").success
    p = ones(2)
    lbfgs = fastlr.LBFGS([p])
    with advises("the loss is nan; nothing was changed", FloatingPointError):
        lbfgs.step(lambda: (float("nan"), [ones(2)]))
    assert p.tolist() == [1, 1]


def test_histories(tmp_path):
    history = fastlr.History()
    with advises("numbers are recorded by history.record(loss=...)"):
        history.loss = 0.5
    history.record(loss=0.5, t=5)
    with advises("history.rewind(3) forgets what was recorded from t=3 on"):
        history.record(loss=0.4, t=3)
    history.rewind(3)
    history.record(loss=0.4, t=3)
    assert list(history["loss"]) == [0.4]
    with advises("pass loss=NAME"):
        fastlr.diagnose({"cost": [1.0] * 99})
    fastlr.diagnose({"cost": [1.0] * 99}, loss="cost")


def test_finding_rates(tmp_path):
    p = ones(2)

    def loss_and_grad(batch):
        return float(p @ p), 2 * p

    opt, few = fastlr.SGD(p, lr=0.1), {"steps": 10, "trial_steps": 10}
    with advises("a variable is bound to another one; keep it in a mapping or an array, and pass that"):
        fastlr.find_lr(opt, loss_and_grad, [ones(2)], also_restore=3, **few)
    kept = {"n": 3}

    def counting(batch):
        kept["n"] += 1
        return loss_and_grad(batch)

    fastlr.find_lr(opt, counting, [ones(2)], also_restore=kept, **few)
    assert kept == {"n": 3}
    with advises("pass arrays, random generators, objects with state_dict and load_state_dict, or mappings, sequences and "
                 "dataclasses of them"):
        fastlr.find_lr(opt, loss_and_grad, [ones(2)], also_restore=[object()], **few)
    rng = np.random.default_rng(0)
    fastlr.find_lr(opt, loss_and_grad, [ones(2)], also_restore=[rng, ones(1), {"a": [ones(1)]}], **few)

    class Batch:
        def __deepcopy__(self, memo):
            raise RuntimeError("no")

    batches = [Batch() for _ in range(3)]
    with advises("which is needed to use it again; pass a list of batches"):
        fastlr.find_lr(opt, loss_and_grad, iter(batches), **few)
    fastlr.find_lr(opt, loss_and_grad, batches, **few)
    p[:] = np.inf
    with advises("check the parameters and the batches"):
        fastlr.find_lr(opt, loss_and_grad, [ones(2)], **few)
    p[:] = 1
    fastlr.find_lr(opt, loss_and_grad, [ones(2)], **few)

    class Broken(Executor):
        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenExecutor())
            return future

    with advises("the executor (Broken) broke; pass a function that makes executors, and a new one replaces it"):
        fastlr.tune_lr(quadratic, 1e-3, 1.0, budget=4, executor=Broken())
    executors = iter([Broken(), Broken(), *(ThreadPoolExecutor(1) for _ in range(50))])
    fastlr.tune_lr(quadratic, 1e-3, 1.0, budget=4, executor=lambda: next(executors))
    (tmp_path / "other.csv").write_text("lr,score\n")
    with advises("give another file"):
        fastlr.tune_lr(quadratic, 1e-3, 1.0, budget=4, journal=tmp_path / "other.csv")
    fastlr.tune_lr(quadratic, 1e-3, 1.0, budget=4, journal=tmp_path / "another.jsonl")
    with advises("give fewer steps or repeats"):
        fastlr.find_lr(opt, loss_and_grad, [ones(2)], budget=60)
    assert fastlr.find_lr(opt, loss_and_grad, [ones(2)], steps=10, budget=60).updates <= 60


def quadratic(lr, budget, seed):
    return (np.log10(lr) + 1) ** 2


# Rules of one's own

STEP = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, ctypes.c_ssize_t)


@pytest.fixture
def same_registry():
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def test_rules(same_registry, monkeypatch):
    step = STEP(lambda *given: None)

    def rule(**names):
        return fastlr.rule_from_pointers("mine", step_float64=step, step_float32=None, **names)

    with advises("got 'm'; write ('m',)"):
        rule(slots="m")
    with advises("nonnegative names no slot: 'v'; slots are ('m',)"):
        rule(slots=("m",), nonnegative=("v",))
    made = rule(slots=("m",), nonnegative=("m",), hypers=("beta",))
    with advises("add beta: Hyper = within(default, low, high)"):
        type("Mine", (fastlr.Optimizer,), {}, rule=made)
    mine = type("Mine", (fastlr.Optimizer,), {"beta": fastlr.within(0.5, 0, 1)}, rule=made)
    with advises("pass arrays of that type"):
        mine([ones(2, dtype=np.float32)])
    mine([ones(2)]).step([ones(2)])
    with advises("which every optimizer has; leave it out of the rule and take now.lr"):
        type("Other", (fastlr.Optimizer,), {}, rule=rule(hypers=("lr",)))
    type("Other", (fastlr.Optimizer,), {}, rule=rule())
    with advises("fastlr has an optimizer of this name; choose another"):
        type("AdamW", (fastlr.Optimizer,), {}, rule=rule())
    type("AnotherAdamW", (fastlr.Optimizer,), {}, rule=rule())
    with advises("stands for no rule; name it with rule=, or derive from an optimizer that has one"):
        type("Nothing", (fastlr.Optimizer,), {})
    type("Something", (fastlr.AdamW,), {})([ones(2)]).step([ones(2)])
    with advises("would hide what lr declares; write lr = within(0.5), or give it to the constructor"):
        type("Fast", (fastlr.AdamW,), {"lr": 0.5})
    assert type("Fast", (fastlr.AdamW,), {"lr": fastlr.within(0.5)})([ones(2)]).lr == 0.5
    module = ModuleType("own_rules_module")
    module.__spec__ = importlib.machinery.ModuleSpec("own_rules_module", None)
    module.RULES = {"Named": importlib.import_module("fastlr.rules._gradient_descent").RULES["SGD"]}
    monkeypatch.setitem(sys.modules, "own_rules_module", module)
    with advises("name one of your own by its module, rule='mypkg._rules' or rule='mypkg._rules:Named'"):
        type("Outside", (fastlr.Optimizer,), {}, rule="Named")
    with advises("name one of 'Named' as rule='own_rules_module:Name'"):
        type("Outside", (fastlr.Optimizer,), {}, rule="own_rules_module:Nobody")
    p = ones(2)
    type("Outside", (fastlr.Optimizer,), {}, rule="own_rules_module:Named")([p], lr=1.0).step([ones(2)])
    assert p.tolist() == [0, 0]


def test_functions_of_kernels():
    p, g = ones(4), ones(8)[::2]
    with advises("must be contiguous and aligned; pass a copy, or use an optimizer, which takes any strides"):
        fastlr.kernels.sgd(p, g, t=1, lr=1.0)
    fastlr.kernels.sgd(p, g.copy(), t=1, lr=1.0)
    fastlr.SGD(p, lr=1.0).step(g)
    assert p.tolist() == [-1] * 4
    schedule = schedules.linear(1.0, steps=4)
    with advises("call the schedule with t - 1"):
        fastlr.kernels.sgd(p, g.copy(), t=1, lr=schedule)
    fastlr.kernels.sgd(p, g.copy(), t=1, lr=schedule(1 - 1))
    assert p.tolist() == [-2] * 4


def test_a_journal_of_something_else(tmp_path):
    def train(lr, budget, seed):
        return abs(np.log(lr / 1e-3))

    (tmp_path / "notes").write_text("bought milk\n")
    with advises("journal notes: line 1: expected a trial as tune_lr writes it, got 'bought milk'; give another file"):
        fastlr.tune_lr(train, 1e-4, 1e-2, budget=3, journal=tmp_path / "notes")
    fastlr.tune_lr(train, 1e-4, 1e-2, budget=3, journal=tmp_path / "trials")
    assert (tmp_path / "trials").read_text().count("\n") > 1 and (tmp_path / "notes").read_text() == "bought milk\n"


def test_a_command_line_without_a_command(capsys):
    from fastlr import cli

    assert cli.execute([]) == 2
    assert "`fastlr --help` says what each does" in capsys.readouterr().err
    assert cli.execute(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and command.LINE in " ".join(shown.split()) for name, command in cli.COMMANDS.items())


# All advice there is

#: Parts of messages whose advice is followed elsewhere, or cannot be followed in a test.
NOT_HERE = {
    "to import an installed fastlr, start Python in another folder": "test_import.py",
    "unset FASTLR_ISA to use what it has": "test_bits.py",
    "built: ": "no advice",
    "build all of it anew": "about the build",
    "build its module anew": "about the build",
    "build it again": "about the build",
    "build it with fastlr.build.rules_extension": "test_strangers.py",
    "make it ": "about the build: by `declared` of rule_table.pxd",
    "please report this with NumPy's version": "of a NumPy that there is not",
    "a newer fastlr may read it": "there is none",
    "was it cut off?": "no advice",
    "pip install ": "what is missing is installed here",
    "leave it out": "to_torch, parity/test_schedules_torch.py",
    "convert a scheduler that was only stepped": "parity/test_schedules_torch.py",
    "step the ": "parity/test_schedules_torch.py",
    "write into the memory that it had": "parity/test_tensor_versions.py",
    "their updates are lost": "tests/pytorch/test_catching_up.py",
    "differs in ": "no advice",
    " failed or diverged, the first with: ": "no advice",
    " they end at t=": "no advice",
    "step over them in parts": "needs 8 GB",
    "has no largest rate": "of an abstract schedule",
    "or give it to the constructor": "test_rules",
    "save it by torch.save": "test_docs, tests/pytorch",
    "the first that it returned is": "no advice",
    "None leaves a parameter out": "test_advice_state",
    "call it: ": "test_docs, of an optimizer's rate and of a plateau's",
}


LITERAL = re.compile(r"[rf]?(\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')")


def literals_of_call(text, start):
    """The string literals of a call whose bracket opens just before `start`, joined."""
    depth, pieces = 1, []
    while depth:
        if found := LITERAL.match(text, start):
            pieces.append(ast.literal_eval(found[1]))
            start = found.end()
        else:
            depth += {"(": 1, ")": -1}.get(text[start], 0)
            start += 1
    return "".join(pieces)


def advice_in(text):
    """The constant parts of the advice of each message in a source file: what comes after its first semicolon."""
    for raised in re.finditer(r"\braise \w+\(", text):
        message = re.sub(r"\{(?:[^{}]|\{[^{}]*\})*\}", "\0", literals_of_call(text, raised.end()))
        if ";" in message:
            yield [part for part in message.split(";", 1)[1].strip().split("\0") if part.strip()]


def test_every_advice_is_followed():
    here = Path(__file__).read_text(encoding="utf-8")
    # (texts that go over two lines are joined)
    also = Path(__file__).with_name("test_advice_state.py").read_text(encoding="utf-8")
    followed = re.sub(r"[\"']\s*\n\s*[\"']", "", here[:here.index("# All advice there is")] + also)
    # (what other tests, or other environments, do)
    left_out = ("study", "commands", "torch", "thinc", "jax", "_c_api", "build.py", "build_loops.py", "build_rules.py",
                "build_schedules.py", "gallery.py", "catalogue.py", "stubs.py", "foreach.pyx", "compiled_schedule.pyx",
                "callbacks.py")
    found = 0
    for path in sorted([*FASTLR.rglob("*.py"), *FASTLR.rglob("*.pyx")]):
        if any(part in path.parts or path.name == part for part in left_out):
            continue
        for parts in advice_in(path.read_text(encoding="utf-8")):
            longest = max(parts, key=len, default="")
            found += 1
            assert not longest or longest.strip()[:60] in followed or any(longest.startswith(known) or known in longest
                                                                          for known in NOT_HERE), (path.name, parts)
    assert found > 90
