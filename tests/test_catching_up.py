"""Rows that catch up: what `step_rows` left out of them, they have later with the bits of whole steps with zeros."""
import ctypes
import re

import ml_dtypes
import numpy as np
import pytest
from registry import MATRIX, RULES, UNPLACED, arrays, bits, every_dtype, every_unplaced, everything_changed

import fastlr
from fastlr import constraints, schedules
from fastlr._c_api.description import Description, require_optimizer
from fastlr.optimizers.base import REGISTRY

ROWS, WIDTH = 24, 12


class Pair:
    """A table whose rows catch up, and one of the same values that takes whole steps."""

    def __init__(self, cls, table, limit=True, **hyper):
        self.table, self.whole = table, np.array(table, order="C")
        self.opt = cls({"table": self.table}, catch_up_rows=limit, **hyper)
        self.dense = cls({"table": self.whole}, **hyper)

    def step(self, rows, grads, **arguments):
        """One update of both; the rows that it touches are then the same."""
        self.opt.step_rows("table", rows, grads, **arguments)
        self.dense.step({"table": whole(rows, grads, self.whole)}, **arguments)
        assert bits([self.table[rows]]) == bits([self.whole[rows]])

    def state(self, opt):
        return bits(opt.state["table"].values())

    def same(self):
        assert bits([self.table]) == bits([self.whole])
        assert self.state(self.opt) == self.state(self.dense)
        assert self.opt.t == self.dense.t


def whole(rows, grads, table):
    """A gradient of the whole table."""
    full = np.zeros(table.shape, grads.dtype)
    for row, g in zip(rows, grads, strict=True):
        full[row] = full[row] + g
    return full


def touched(rng, table, most=5, dtype=None):
    """Some different rows, and their gradients."""
    rows = rng.choice(len(table), rng.integers(0, most + 1), replace=False)
    return rows, rng.normal(size=(len(rows), *table.shape[1:])).astype(dtype or table.dtype)


def run(pair, updates=14, seed=0, **arguments):
    rng = np.random.default_rng(seed)
    for _ in range(updates):
        pair.step(*touched(rng, pair.table), **arguments)
    return pair


# Bit for bit

@every_unplaced
@every_dtype
@pytest.mark.parametrize("width", [(), (5,), (2, 280)], ids=str)
@pytest.mark.parametrize("options", [
    {}, {"clip_value": 0.8, "maximize": True}, {"ema_decay": 0.75}, {"clip_tensor_norm": 0.5, "lr_scale": 0.5}], ids=str)
def test_every_rule_catches_up_with_whole_steps(cls, dtype, width, options):
    pair = Pair(cls, arrays(dtype, [(ROWS, *width)])[0], **everything_changed(cls), **options)
    run(pair, grad_scale=1.0 if width else 2.0)
    assert bits([pair.table]) != bits([pair.whole])        # (weight decay alone moves every row)
    pair.opt.catch_up()
    pair.same()
    run(pair, 3, seed=1)
    pair.opt.catch_up()
    pair.same()


@every_unplaced
def test_rules_as_they_are_by_default(cls):
    pair = run(Pair(cls, arrays(np.float32, [(ROWS, WIDTH)])[0]))
    pair.opt.catch_up()
    pair.same()


@pytest.mark.parametrize("decay", ["coupled", "decoupled", "independent", "corrected"])
@pytest.mark.parametrize("cls", [fastlr.SGD, fastlr.Momentum, fastlr.AdaGrad, fastlr.Adam, fastlr.NAdam],
                         ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("rates", [None, "rows"])
def test_decay_rates_and_schedules_are_those_of_their_time(cls, decay, rates):
    lr = schedules.cosine(0.1, steps=40).warmup(5)
    scale = None if rates is None else {"table": np.random.default_rng(5).uniform(size=(ROWS, WIDTH))}
    more = {"lr_max": 0.1} if decay == "corrected" else {}
    pair = run(Pair(cls, arrays(np.float32, [(ROWS, WIDTH)])[0], lr=lr, weight_decay=0.1, decay=decay, lr_scale=scale, **more))
    pair.opt.catch_up()
    pair.same()


def test_what_is_set_between_updates_holds_for_those_after_it():
    pair = Pair(fastlr.AdamW, arrays(np.float64, [(ROWS, WIDTH)])[0], lr=0.1, clip_tensor_norm=3.0, ema_decay=0.5)
    rng = np.random.default_rng(0)
    settings = [{"lr": 0.5}, {"beta1": 0.5}, {"weight_decay": 0.3}, {"clip_value": 0.25}, {"ema_decay": 0.9},
                {"clip_tensor_norm": 1.0}, {"eps": 0.1}, {"lr": schedules.linear(0.3, steps=20)}]
    for setting in settings:
        for opt in (pair.opt, pair.dense):
            for name, value in setting.items():
                setattr(opt, name, value)
        for scale in (1.0, 4.0):
            pair.step(*touched(rng, pair.table), grad_scale=scale)
    pair.opt.catch_up()
    pair.same()


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize(("state", "width"), [("float32", 33), ("float16", 3), ("bfloat16", 301), ("int8", 320)])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_any_storage(kind, state, width, rounding):
    table = arrays(np.float32, [(80, width)])[0].astype(kind)
    pair = run(Pair(fastlr.AdamW, table, state_dtype=state, rounding=rounding, seed=5, lr=0.05, ema_decay=0.5))
    pair.opt.catch_up()
    pair.same()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_and_layouts_do_not_matter(threads):
    fastlr.set_num_threads(threads)
    table, = arrays(np.float32, [(900, 30, 4)])
    wide = np.zeros((900, 30, 10), np.float32)
    wide[:, ::-1, 1:9:2] = table
    for given in (table, np.asfortranarray(table), wide[:, ::-1, 1:9:2], table[::-1].copy()[::-1]):
        pair = Pair(fastlr.Adam, given, lr=0.01)
        rng = np.random.default_rng(0)
        for _ in range(6):
            pair.step(*touched(rng, pair.table, 400))
        pair.opt.catch_up()
        pair.same()


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("cls", [fastlr.Adam, fastlr.Momentum], ids=lambda cls: cls.__name__)
def test_a_row_is_never_further_behind_than_was_said(cls, limit):
    pair = Pair(cls, arrays(np.float64, [(ROWS, WIDTH)])[0], {"table": limit}, lr=0.1)
    journal = pair.opt._plan.tensors[0].journal
    rng = np.random.default_rng(0)
    for t in range(12):
        pair.step(*touched(rng, pair.table, 3))
        assert journal.behind() == t % limit + 1
    assert journal.limit == limit
    pair.opt.catch_up()
    assert journal.behind() == 0
    pair.same()


def test_hundreds_of_missed_updates():
    """Moments underflow on the way; half of the table is never touched."""
    rng = np.random.default_rng(0)
    for cls, hyper in ((fastlr.Momentum, {"momentum": 0.5}), (fastlr.Adam, {"beta1": 0.5, "beta2": 0.6}), (fastlr.SGD, {}),
                       (fastlr.RMSprop, {"alpha": 0.5}), (fastlr.AdamW, {"beta1": 0.5})):
        pair = Pair(cls, arrays(np.float32, [(8, 300)])[0], lr=0.1, **hyper)
        pair.step(np.arange(4), rng.normal(size=(4, 300)).astype(np.float32))
        for _ in range(700):
            pair.step(np.array([0]), rng.normal(size=(1, 300)).astype(np.float32))
        pair.opt.catch_up()
        pair.same()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("maximize", [False, True])
def test_rows_that_were_never_touched_keep_or_lose_the_bits_that_whole_steps_leave(kind, maximize):
    """Zeros of both signs, numbers that are subnormal and are taken as 0, infinities."""
    tiny = float(np.finfo(np.float64 if kind is np.float64 else np.float32).tiny)
    odd = [0.0, -0.0, 1.0, tiny / 4, -tiny / 4, np.inf, -np.inf, tiny, 1e-7, -1e-7]
    for cls in (fastlr.SGD, fastlr.Momentum, fastlr.Adam, fastlr.AdaGrad, fastlr.Lion):
        for decay in (0.0, 0.1):
            table = np.tile(np.array(odd), (6, 1)).astype(kind)
            pair = Pair(cls, table, lr=0.1, weight_decay=decay, decay="decoupled", maximize=maximize)
            for _ in range(3):
                pair.step(np.array([1]), np.ones((1, len(odd)), kind))
            pair.opt.catch_up()
            pair.same()


def test_a_gradient_that_is_not_finite():
    """Its norm clips the zeros of the other rows to NaN, as in a whole step; where it is skipped, it is no update."""
    bad = np.full((1, WIDTH), np.nan)
    pair = run(Pair(fastlr.Adam, arrays(np.float64, [(ROWS, WIDTH)])[0], clip_tensor_norm=1.0))
    pair.step(np.array([3]), bad)
    pair.opt.catch_up()
    assert np.isnan(pair.table).all()
    np.testing.assert_array_equal(pair.table, pair.whole)
    pair = run(Pair(fastlr.Adam, arrays(np.float64, [(ROWS, WIDTH)])[0], nonfinite="skip"))
    pair.opt.step_rows("table", [3], bad)
    pair.dense.step({"table": whole([3], bad, pair.whole)})
    run(pair)
    assert pair.opt.skipped == pair.dense.skipped == 1
    pair.opt.catch_up()
    pair.same()


# Rules that say how moves fade, of which lost moves are not done

FADING = [(cls, convention) for cls in UNPLACED if cls.fades is not None for convention in (list(cls.conventions) or [None])]


@pytest.mark.parametrize(("cls", "convention"), [
    pytest.param(cls, convention, id=f"{cls.__name__}-{convention}") for cls, convention in FADING])
@every_dtype
@pytest.mark.parametrize("hyper", [
    {}, {"weight_decay": 0.05, "decay": "decoupled"}, {"weight_decay": 0.01, "maximize": True},
    {"lr": schedules.cosine_restarts(0.3, 60).warmup(9), "decay": "independent", "weight_decay": 1e-3}],
    ids=["plain", "decoupled", "coupled", "restarts"])
def test_moves_that_are_lost_need_not_be_done(cls, convention, dtype, hyper):
    """Values, gradients and rates of many sizes, hundreds of updates: from moves that count to state that vanishes."""
    rng = np.random.default_rng(0)
    width, few = 300, {"lr": 0.01} | hyper
    if "beta1" in cls.hypers:
        few["beta1"] = 0.7
    table = (rng.normal(size=(9, width)) * 10.0 ** rng.integers(-9, 4, size=(9, width))).astype(dtype)
    table[0, :5] = 0.0, -0.0, 1.0, 2.0, -4.0
    pair = Pair(cls, table, convention=convention, **few)
    sizes = 10.0 ** rng.integers(-12, 4, size=(400, 1))
    for t in range(400):
        rows = np.array([0]) if t < 5 else rng.choice(np.arange(1 + t // 50), 1)
        pair.step(rows, (rng.normal(size=(1, width)) * sizes[t]).astype(dtype), grad_scale=2.0 if t % 2 else 1.0)
    pair.opt.catch_up()
    pair.same()


@pytest.mark.parametrize("cls", [cls for cls in UNPLACED if cls.fades], ids=lambda cls: cls.__name__)
@every_dtype
@pytest.mark.parametrize("later", [{"lr": 10.0}, {"lr": schedules.linear(0.0, final=1e3, steps=90)}], ids=["set", "scheduled"])
def test_a_rate_that_rises_moves_again_what_had_come_to_rest(cls, dtype, later):
    pair = Pair(cls, arrays(dtype, [(3, WIDTH)])[0], lr=1e-20)
    pair.step(np.array([0]), arrays(dtype, [(1, WIDTH)])[0])
    for t in range(80):
        if t == 40:
            for opt in (pair.opt, pair.dense):
                opt.lr = later["lr"]
            before = pair.whole[0].copy()
        pair.step(np.array([1]), np.ones((1, WIDTH), dtype))
    assert (pair.whole[0] != before).all()
    pair.opt.catch_up()
    pair.same()


def test_only_rules_that_fade_are_spared_operations():
    """A rule that counts how often it is called; `fades` alone makes the difference."""
    before, calls = dict(REGISTRY), []

    @ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, ctypes.c_ssize_t)
    def step(hyper, now, p, g, slots, size):
        def over(address, n=size):
            return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_double)), (n,))

        m = over(ctypes.cast(slots, ctypes.POINTER(ctypes.c_void_p))[0])
        calls.append(size)
        m[...] = over(hyper, 1)[0] * m + over(g)
        over(p)[...] = over(now, 4)[3] * over(p) - over(now, 2)[1] * m

    rule = fastlr.rule_from_pointers("counting", slots=("m",), hypers=("momentum",), step_float32=None, step_float64=step)
    found = []
    try:
        for fades in (None, "m"):
            body = {"momentum": fastlr.within(0.5, 0, 1), "__annotations__": {"momentum": fastlr.Hyper}}
            cls = type(f"Counting{len(found)}", (fastlr.Optimizer,), body, rule=rule, fades=fades)
            pair = Pair(cls, np.ones((3, WIDTH)), lr=0.1)
            pair.step(np.array([0]), np.ones((1, WIDTH)))
            for _ in range(200):
                pair.step(np.array([1]), np.ones((1, WIDTH)))
            calls.clear()
            pair.opt.catch_up()
            found.append(calls.count(WIDTH))
            pair.same()
        with pytest.raises(TypeError, match=re.escape("Mistaken: fades='n' names no slot of its rule counting")):
            type("Mistaken", (fastlr.Optimizer,), body, rule=rule, fades="n")
    finally:
        REGISTRY.clear()
        REGISTRY.update(before)
    # (row 0 has missed 200 updates; row 2 was never touched, and updates that move nothing of state zero are not done)
    assert found[0] == 200
    assert 50 < found[1] < 90


# Before a batch reads rows

def test_training_on_rows_that_caught_up_is_training_on_the_whole_table():
    """The gradient is of where the rows are: they catch up before it is taken."""
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(ROWS, WIDTH))
    table, others = (np.zeros((ROWS, WIDTH)) for _ in range(2))
    opt, dense = fastlr.AdamW({"t": table}, lr=0.1, catch_up_rows=True), fastlr.AdamW({"t": others}, lr=0.1)
    for t in range(60):
        rows = rng.choice(ROWS, 4, replace=False)
        opt.catch_up("t", rows.reshape(2, 2) if t % 2 else rows)
        assert bits([table[rows]]) == bits([others[rows]])
        dense.step({"t": whole(rows, others[rows] - targets[rows], others)})
        opt.step_rows("t", rows, table[rows] - targets[rows])
    opt.catch_up("t", [])
    opt.catch_up()
    assert bits([table]) == bits([others])


def test_rows_that_cannot_catch_up_are_refused():
    opt = fastlr.SGD({"table": np.ones((4, 2))}, catch_up_rows=True)
    opt.step_rows("table", [1], np.ones((1, 2)))
    for name, rows, error, text in (
            ("tabel", [1], ValueError, "SGD: catch_up('tabel'): no parameter of this name; did you mean 'table'?"),
            ("table", [4], ValueError, "SGD: catch_up('table'): rows must be in [0, 4), got 4 to 4"),
            ("table", [-1, 2], ValueError, "SGD: catch_up('table'): rows must be in [0, 4), got -1 to 2"),
            ("table", [1.0], TypeError, "SGD: catch_up('table'): rows must be integers, got float64"),
            ("table", None, TypeError, "SGD: catch_up: give both a parameter's name and rows of it, or neither"),
            (None, [1], TypeError, "SGD: catch_up: give both a parameter's name and rows of it, or neither")):
        with pytest.raises(error, match=re.escape(text)):
            opt.catch_up(name, rows)


# By formulas

@every_dtype
def test_momentum_and_its_moves_are_geometric_sums(dtype):
    table, = arrays(dtype, [(3, 4)])
    start, missed, mu, lr = table[1].astype(np.float64), 50, 0.9, 0.1
    opt = fastlr.Momentum({"table": table}, lr=lr, momentum=mu, catch_up_rows=True)
    opt.step_rows("table", [1], np.full((1, 4), 2, dtype))
    for _ in range(missed):
        opt.step_rows("table", [0], np.ones((1, 4), dtype))
    opt.catch_up()
    # (51 roundings of m, and of p, each of half a unit of what it is at most)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(opt.state["table"]["m"][1], 2 * mu**missed, rtol=missed * eps)
    want = start - lr * 2 * (1 - mu ** (missed + 1)) / (1 - mu)
    np.testing.assert_allclose(table[1], want, rtol=0, atol=missed * eps * 3)


@every_dtype
def test_moments_of_adam_are_powers(dtype):
    table, = arrays(dtype, [(3, 4)])
    opt = fastlr.Adam({"table": table}, lr=0.01, beta1=0.8, beta2=0.95, catch_up_rows=True)
    opt.step_rows("table", [2], np.full((1, 4), 3, dtype))
    missed = 40
    place, want = table[2].astype(np.float64), 0.0
    for k in range(missed):
        opt.step_rows("table", [0], np.ones((1, 4), dtype))
        m, v, t = 0.2 * 3 * 0.8 ** (k + 1), 0.05 * 9 * 0.95 ** (k + 1), k + 2
        want += 0.01 * m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
    opt.catch_up()
    eps = np.finfo(dtype).eps
    # (a rounding or two of half a unit for each update)
    np.testing.assert_allclose(opt.state["table"]["m"][2], 0.2 * 3 * 0.8**missed, rtol=missed * eps)
    np.testing.assert_allclose(opt.state["table"]["v"][2], 0.05 * 9 * 0.95**missed, rtol=missed * eps)
    np.testing.assert_allclose(place - table[2], want, rtol=0, atol=missed * eps * np.abs(place).max())


# Around it

def model():
    return {"a": np.ones((8, 2)), "w": np.ones(3), "b": np.ones((5, 4))}


def test_models_of_several_tables_and_groups():
    params, others = model(), model()
    lr = schedules.inverse_time(0.1, decay=0.5)

    def groups(given):
        return [{"params": {"a": given["a"], "w": given["w"]}}, {"params": {"b": given["b"]}, "lr": 0.3}]

    opt = fastlr.NAdam(groups(params), lr, catch_up_rows={"a": True, "b": 7})
    dense = fastlr.NAdam(groups(others), lr)
    rng = np.random.default_rng(0)
    for t in range(20):
        w, full = rng.normal(size=3), {}
        for name in ("a", "b"):
            rows, g = touched(rng, params[name], 2)
            opt.step_rows(name, rows, g)
            full[name] = whole(rows, g, others[name])
        opt.step([{"a": None, "w": w}, {"b": None}])
        dense.step([{"a": full["a"], "w": w}, {"b": full["b"]}])
        if t == 11:
            opt.groups[1].lr = dense.groups[1].lr = 0.01
    opt.catch_up()
    assert bits(params.values()) == bits(others.values())
    for name in params:
        assert bits(opt.state[name].values()) == bits(dense.state[name].values())


def test_a_whole_gradient_needs_all_rows_first():
    for give in (lambda opt, g: opt.step({"table": g}), lambda opt, g: opt.accumulate({"table": g})):
        pair = run(Pair(fastlr.Adam, arrays(np.float64, [(ROWS, WIDTH)])[0]))
        g, = arrays(np.float64, [(ROWS, WIDTH)], 9)
        give(pair.opt, g)
        give(pair.dense, g)
        pair.same()


def test_a_step_without_the_table_lets_its_rows_be():
    params = model()
    opt = fastlr.Adam(params, catch_up_rows={"a": True})
    opt.step_rows("a", [1], np.ones((1, 2)))
    opt.step_rows("a", [2], np.ones((1, 2)))
    before = params["a"].copy()
    opt.step({"a": None, "w": np.ones(3), "b": None})
    assert bits([params["a"]]) == bits([before])
    opt.freeze("w")
    opt.step({"a": None, "w": None, "b": np.ones((5, 4))})
    with pytest.raises(ValueError, match="'w' is frozen"):
        opt.step({"a": None, "w": np.ones(3), "b": None})
    opt.step({"a": np.zeros((8, 2)), "w": None, "b": None})
    assert params["a"][1, 0] != before[1, 0]


def test_frozen_measured_and_joined_meanwhile():
    params, others = model(), model()
    opt, dense = fastlr.Adam(params, catch_up_rows={"a": True}), fastlr.Adam(others)
    rng = np.random.default_rng(0)

    def more():
        for _ in range(3):
            rows, g = touched(rng, params["a"], 2)
            opt.step_rows("a", rows, g, ends_step=True)
            rest = {"w": None, "b": None, "a": whole(rows, g, others["a"])}
            dense.step([rest, None] if len(dense.groups) > 1 else rest)

    more()
    opt.freeze("a")
    opt.measure()
    opt.clip_value = dense.clip_value = 0.5
    opt.unfreeze()
    more()
    opt.measure(False)
    for each in (opt, dense):
        each.add_group(np.ones(2))
    more()
    opt.catch_up()
    assert bits(params.values()) == bits(others.values())
    assert bits(opt.state["a"].values()) == bits(dense.state["a"].values())
    opt.drop_group(1)


def test_the_functions_of_partition(tmp_path):
    params, others = model(), model()

    def made(given, **more):
        return fastlr.Partition(given, {"w": lambda part: fastlr.SGD(part, lr=0.1)},
                                rest=lambda part: fastlr.Adam(part, **more))

    opt, dense = made(params, catch_up_rows=True), made(others)
    for row in (1, 2, 1):
        g = np.ones((1, 2))
        opt.step_rows("a", [row], g)
        opt.step({"a": None, "w": np.ones(3), "b": np.ones((5, 4))})
        dense.step({"a": whole([row], g, others["a"]), "w": np.ones(3), "b": np.ones((5, 4))})
    with pytest.raises(RuntimeError, match=r"rows of 'a' are up to 3 updates behind; call catch_up\(\)"):
        opt.state_dict()
    opt.catch_up()
    assert bits(params.values()) == bits(others.values())
    fastlr.save(tmp_path / "opt.safetensors", opt)


# State

def test_a_state_is_saved_when_all_rows_have_all_updates_and_goes_on_exactly(tmp_path):
    pair = run(Pair(fastlr.AdamW, arrays(np.float32, [(ROWS, WIDTH)])[0], lr=0.1))
    path = tmp_path / "opt.safetensors"
    for refused in (pair.opt.state_dict, lambda: fastlr.save(path, pair.opt), lambda: fastlr.save(path, {"opt": pair.opt}),
                    lambda: pair.opt.place_state({})):
        with pytest.raises(RuntimeError, match=re.escape("rows of 'table' are up to")):
            refused()
    pair.opt.catch_up()
    fastlr.save(path, pair.opt)
    table = pair.table.copy()
    other = fastlr.AdamW({"table": table}, lr=0.1, catch_up_rows=3)
    fastlr.load(path, other)
    run(pair, 8, 5)
    rng = np.random.default_rng(5)
    for _ in range(8):
        other.step_rows("table", *touched(rng, table))
    for opt in (other, pair.opt):
        opt.catch_up()
    pair.same()
    assert bits([table]) == bits([pair.table])
    with pytest.raises(fastlr.CheckpointError, match=re.escape("saved with catch_up_rows = {'table': True}, this optimizer")):
        fastlr.load(path, fastlr.AdamW({"table": table.copy()}))
    fastlr.load(path, fastlr.AdamW({"table": table.copy()}), strict=False)
    renamed = fastlr.AdamW({"words": table.copy()}, lr=0.1, catch_up_rows=True)
    fastlr.load(path, renamed, rename={"table": "words"})


def test_a_state_that_is_loaded_has_no_updates_to_catch_up_with():
    pair = run(Pair(fastlr.Adam, arrays(np.float32, [(ROWS, WIDTH)])[0]))
    pair.opt.catch_up()
    saved, table = pair.opt.state_dict(), pair.table.copy()
    rng = np.random.default_rng(3)
    for _ in range(3):
        pair.opt.step_rows("table", *touched(rng, table))
    with pytest.raises(RuntimeError, match=re.escape("load_state_dict(strict=False): rows of 'table' are up to")):
        pair.opt.load_state_dict(saved, strict=False)
    pair.opt.load_state_dict(saved)
    pair.table[...] = table
    pair.opt.catch_up()
    pair.same()
    run(pair)
    pair.opt.catch_up()
    pair.same()


def test_means_and_other_libraries_are_given_what_has_all_updates():
    table = np.ones((4, 2))
    opt = fastlr.Adam({"table": table}, ema_decay=0.5, catch_up_rows=True)
    mean = fastlr.EMA(opt)
    opt.step_rows("table", [1], np.ones((1, 2)))
    for call in (lambda: opt.swapped().__enter__(), mean.update,
                 lambda: fastlr.interchange.to_optax(opt, ())):
        with pytest.raises(RuntimeError, match=re.escape("call catch_up() first")):
            call()
    opt.catch_up()
    mean.update()
    with opt.swapped():
        assert bits([table]) == bits([opt.ema["table"]])


# What is refused

@pytest.mark.parametrize("cls", sorted({*RULES, *MATRIX} - set(UNPLACED), key=lambda cls: cls.__name__),
                         ids=lambda cls: cls.__name__)
def test_rules_that_cannot_say_so(cls):
    with pytest.raises(TypeError, match=f"{cls.__name__}: catch_up_rows: a step of this rule depends on more than an"):
        cls({"table": np.ones((4, 4))}, catch_up_rows=True)


def refused(error, text, call):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_what_cannot_be_is_refused():
    table = np.ones((4, 2), np.float32)
    for value in (0, -1, 2**31):
        refused(ValueError, f"SGD: catch_up_rows must be in [1, 2147483647], got {value}",
                lambda value=value: fastlr.SGD({"table": table}, catch_up_rows=value))
    for value in ("exact", 2.0):
        refused(TypeError, f"SGD: catch_up_rows must be True, False or a number of updates, got {value!r}",
                lambda value=value: fastlr.SGD({"table": table}, catch_up_rows=value))
    refused(ValueError, "SGD: catch_up_rows names no parameter: 'tabel'",
            lambda: fastlr.SGD({"table": table}, catch_up_rows={"tabel": True}))
    for apart in ({"constraint": constraints.box(0, 1)}, {"shadow": "bfloat16"}):
        refused(ValueError, f"SGD: catch_up_rows of 'table': needs a parameter without {next(iter(apart))}=",
                lambda apart=apart: fastlr.SGD({"table": table}, catch_up_rows=True, **apart))
    refused(ValueError, "SGD: catch_up_rows of 'table': needs a parameter without master=", lambda: fastlr.SGD(
        {"table": table.astype(ml_dtypes.bfloat16)}, catch_up_rows=True, master="split"))
    refused(ValueError, "SGD: the rows of 'table' catch up, and its gradient cannot be bound",
            lambda: fastlr.SGD({"table": table}, catch_up_rows=True, grads={"table": np.ones((4, 2), np.float32)}))
    opt = fastlr.SGD({"table": table}, catch_up_rows=True)
    for wrapper in (fastlr.Lookahead, fastlr.SAM, fastlr.GradientCentralization,
                    lambda opt: fastlr.GradientAccumulation(opt, 2)):
        refused(TypeError, "needs parameters that have all updates after each step; make SGD without catch_up_rows",
                lambda wrapper=wrapper: wrapper(opt))
    refused(ValueError, "SGD: catch_up_rows is for Python; give plan_step_rows gradients of zeros",
            lambda: Description("sgd").option(-1, "catch_up_rows", True))
    refused(TypeError, "plan_of: SGD has catch_up_rows, which plans do not have", lambda: require_optimizer(opt))
    refused(AttributeError, "catch_up_rows is for the constructor", lambda: setattr(opt, "catch_up_rows", True))


def test_a_step_that_is_refused_leaves_everything():
    pair = run(Pair(fastlr.Adam, arrays(np.float64, [(ROWS, WIDTH)])[0], nonfinite="raise"))
    before = pair.table.copy()
    for rows, g, error in (([99], np.ones((1, WIDTH)), ValueError), ([1], np.ones((2, WIDTH)), ValueError),
                           ([1], np.full((1, WIDTH), np.inf), FloatingPointError)):
        with pytest.raises(error):
            pair.opt.step_rows("table", rows, g)
    assert bits([pair.table]) == bits([before])
    run(pair)
    pair.opt.catch_up()
    pair.same()


def test_without_it_nothing_is_left_to_do():
    params = model()
    opt = fastlr.Adam(params, catch_up_rows={"a": False, "w": None})
    opt.step_rows("a", [1], np.ones((1, 2)))
    before = params["a"].copy()
    opt.catch_up()
    fastlr.Adam(params).catch_up()
    assert bits([params["a"]]) == bits([before])
    opt.state_dict()
    number = fastlr.SGD({"x": np.ones(()), "none": np.ones((0, 3)), "narrow": np.ones((3, 0))}, catch_up_rows=True)
    number.step_rows("none", np.zeros(0, np.int64), np.ones((0, 3)))
    number.step_rows("narrow", [1], np.ones((1, 0)))
    number.step_rows("narrow", [2], np.ones((1, 0)))
    number.catch_up()
    number.step({"x": np.ones(()), "none": np.ones((0, 3)), "narrow": np.ones((3, 0))})


# At random

@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_done_in_any_order(seed):
    """Steps over rows, whole steps, rates, options, resumes and catching up, of a random rule, storage and decay."""
    rng = np.random.default_rng(seed)

    def choose(values):
        return values[rng.integers(len(values))]

    cls, kind = choose(UNPLACED), choose([np.float64, np.float32, ml_dtypes.bfloat16, np.float16])
    width = choose([(1,), (7,), (64,), (3, 100)])
    hyper = everything_changed(cls) if rng.random() < 0.5 else {}
    hyper |= {"decay": choose(["coupled", "decoupled", "independent"]), "maximize": bool(rng.integers(2)), "seed": 3}
    hyper |= {"rounding": choose(["nearest", "stochastic"]), "clip_tensor_norm": choose([None, 2.0])}
    if kind is not np.float64:
        hyper["state_dtype"] = choose([None, "float64", "bfloat16", "float16", *["int8"] * (width == (64,))])
    if rng.random() < 0.3:
        hyper["ema_decay"] = 0.5
    rows = 70
    pair = Pair(cls, rng.normal(size=(rows, *width)).astype(kind), choose([True, 1, 3, 10]), **hyper)
    for _ in range(40):
        event = choose(["rows"] * 12 + ["step", "lr", "value", "catch up", "resume"])
        if event == "rows":
            if rng.random() < 0.3:
                some = rng.integers(0, rows, 9)
                pair.opt.catch_up("table", some)
                assert bits([pair.table[some]]) == bits([pair.whole[some]])
            pair.step(*touched(rng, pair.table, 6), grad_scale=choose([1.0, 1.0, 8.0]))
        elif event == "step":
            g = rng.normal(size=pair.table.shape).astype(kind)
            pair.opt.step({"table": g})
            pair.dense.step({"table": g})
            pair.same()
        elif event in ("lr", "value"):
            name, value = choose([("lr", 0.02), ("lr", schedules.cosine(0.1, steps=50)), ("clip_value", 0.5), ("clip_value", None)])
            setattr(pair.opt, name, value)
            setattr(pair.dense, name, value)
        else:
            pair.opt.catch_up()
            pair.same()
            if event == "resume":
                saved = pair.opt.state_dict()
                new = {name: getattr(pair.opt, name) for name in ("lr", "clip_value")}
                pair.opt = cls({"table": pair.table}, catch_up_rows=True, **hyper | new)
                pair.opt.load_state_dict(saved)
    pair.opt.catch_up()
    pair.same()
