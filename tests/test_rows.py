"""A step over some rows of a table: each touched row as `step` would move it, the others not at all."""
import re

import ml_dtypes
import numpy as np
import pytest
import reference
import reference_matrix
from registry import (
    BEGINS,
    GIVEN,
    arrays,
    bits,
    every_by_rows,
    every_dtype,
    every_unplaced,
    everything_changed,
    full,
    snapshot,
)

import fastlr
from fastlr import schedules

ROWS, WIDTH = 40, 12


def stepped(cls, table, batches, threads=1, **hyper):
    """Table and state after some steps over rows, as bytes."""
    fastlr.set_num_threads(threads)
    opt = cls({"table": table}, **hyper)
    for rows, grads in batches:
        opt.step_rows("table", rows, grads)
    return bits([table]), bits(opt.state["table"].values())


def batches(dtype=np.float64, count=3, rows=ROWS, shape=(WIDTH,), given=70, seed=0):
    """Indices with many duplicates, and their gradients."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, rows, given), rng.normal(size=(given, *shape)).astype(dtype)) for _ in range(count)]


def summed(rows, grads):
    """(different rows, their gradients added one after another as they come)."""
    total = {}
    for row, g in zip(rows, grads, strict=True):
        total[int(row)] = total[int(row)] + g if int(row) in total else g.copy()
    return np.array(list(total)), np.stack(list(total.values()))


# What moves

@every_by_rows
@every_dtype
@pytest.mark.parametrize("width", [(), (1,), (5,), (4, 3), (300,), (2, 280)])
def test_all_rows_in_any_order_are_a_step(cls, dtype, width):
    table, = arrays(dtype, [(9, *width)])
    other = table.copy()
    common = everything_changed(cls) | {"clip_value": 0.8, "ema_decay": 0.75, "lr_scale": 0.5, "maximize": True}
    opt, dense = cls({"table": table}, **common), cls({"table": other}, **common)
    for t in range(3):
        g, = arrays(dtype, [table.shape], 10 + t)
        rows = np.random.default_rng(t).permutation(9)
        opt.step_rows("table", rows, g[rows], grad_scale=2.0)
        dense.step({"table": g}, grad_scale=2.0)
        assert bits([table]) == bits([other])
        assert bits(opt.state["table"].values()) == bits(dense.state["table"].values())


@every_unplaced
def test_touched_rows_move_lazily_by_the_sum_of_their_gradients(cls):
    table, = arrays(np.float64, [(ROWS, WIDTH)])
    hyper = everything_changed(cls)
    starts = {name: hyper[name] for name in cls.initial_states}
    wanted = [table.copy(), *(np.full_like(table, starts.get(next(
        (name for name, start in cls.initial_states.items() if start.slot == slot), ""), 0.0)) for slot in cls.slots)]
    opt = cls({"table": table}, **hyper)
    given = {name: value for name, value in full(cls, hyper).items() if name not in cls.initial_states}
    memory = []
    for t, (rows, grads) in enumerate(batches(given=9), 1):
        before = [array.copy() for array in (table, *(opt.state["table"][slot] for slot in cls.slots))]
        opt.step_rows("table", rows, grads)
        touched, g = summed(rows, grads)
        new = reference.step(cls.__name__, opt._decay, wanted[0][touched], g, t,
                             [slot[touched] for slot in wanted[1:]] + memory, given)
        memory = list(new[len(wanted):])
        for array, values in zip(wanted, new, strict=False):
            array[touched] = values
        untouched = np.setdiff1d(np.arange(ROWS), touched)
        assert untouched.size
        for ours, array, old, slot in zip([table, *(opt.state["table"][slot] for slot in cls.slots)], wanted, before,
                                          ("", *cls.slots), strict=True):
            # (a few operations of 2**-53 each, some on differences: as for `step`)
            np.testing.assert_allclose(ours, array, rtol=1e-12, atol=1e-13)
            assert np.abs(array[touched] - old[touched]).max() > 1e-6 or t < BEGINS.get(cls.__name__, 1) \
                or slot == GIVEN.get(cls)
            np.testing.assert_array_equal(ours[untouched], old[untouched])
    assert opt.t == 3


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1), (ROWS, WIDTH), (ROWS, 3, 301)], ids=str)
def test_a_sum_for_each_row_grows_where_it_is_touched(shape):
    table, = arrays(np.float64, [shape])
    want, sums = table.copy(), np.full(ROWS, 0.125)
    opt = fastlr.RowwiseAdaGrad({"table": table}, lr=0.1, lr_decay=0.5, eps=0.03, initial_accumulator_value=0.125)
    for t, (rows, grads) in enumerate(batches(given=30, shape=shape[1:]), 1):
        opt.step_rows("table", rows, grads)
        touched, g = summed(rows, grads)
        memory = {"s": sums[touched]}
        want[touched] = reference_matrix.RowwiseAdaGrad(want[touched], g, t, memory, lr=0.1, lr_decay=0.5, eps=0.03)
        sums[touched] = memory["s"]
        # (a few operations of 2**-53 each; sums of squares are of positive numbers)
        np.testing.assert_allclose(table, want, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(opt.state["table"]["s"], sums, rtol=1e-13)
        assert (opt.state["table"]["s"] == 0.125).sum() == ROWS - np.unique(np.concatenate(
            [rows for rows, _ in batches(given=30, shape=shape[1:])[:t]])).size


@pytest.mark.parametrize("width", [8, 301])
def test_duplicates_are_added_in_the_order_in_which_they_come(width):
    rng = np.random.default_rng(3)
    grads = (rng.normal(size=(90, width)) * 10.0 ** rng.integers(-4, 5, size=(90, 1))).astype(np.float32)
    rows = rng.integers(0, 4, 90)
    tables = [np.zeros((4, width), np.float32) for _ in range(2)]
    fastlr.SGD({"table": tables[0]}, lr=1.0).step_rows("table", rows, grads)
    touched, total = summed(rows, grads)
    assert bits([tables[0][touched]]) == bits([-total])
    fastlr.SGD({"table": tables[1]}, lr=1.0).step_rows("table", rows[::-1], grads[::-1])
    assert bits([tables[0]]) != bits([tables[1]])


@every_by_rows
def test_the_bits_are_the_same_for_any_threads_and_layout(cls):
    shape = (30, 24)
    given = batches(np.float32, rows=600, shape=shape, given=400)
    table, = arrays(np.float32, [(600, *shape)])
    hyper = everything_changed(cls) | {"ema_decay": 0.75}
    wanted = stepped(cls, table.copy(), given, **hyper)
    for threads in (2, 5):
        assert stepped(cls, table.copy(), given, threads, **hyper) == wanted
    wide = np.zeros((600, 30, 50), np.float32)
    wide[:, ::-1, 1:49:2] = table
    for strange in (table.transpose(2, 0, 1).copy().transpose(1, 2, 0), wide[:, ::-1, 1:49:2], table[::-1].copy()[::-1]):
        assert stepped(cls, strange, given, 2, **hyper) == wanted
    spaced = [(rows.astype(np.int32).repeat(2)[::2], np.asfortranarray(g)) for rows, g in given]
    assert stepped(cls, table.copy(), spaced, 2, **hyper) == wanted


def test_unaligned_gradients_and_broadcast_ones():
    table, other = np.zeros((5, 3), np.float32), np.zeros((5, 3), np.float32)
    rows = np.array([4, 1])
    g, = arrays(np.float32, [(2, 3)])
    packed = np.zeros(2, [("_", "u1"), ("g", "f4", (3,))])
    packed["g"] = g
    opt = fastlr.SGD({"table": table}, lr=1.0)
    opt.step_rows("table", rows, packed["g"])
    opt.step_rows("table", rows, np.broadcast_to(np.float32(2), (2, 3)))
    other[rows] = other[rows] - g - 2
    assert bits([table]) == bits([other])


def test_many_rows_that_collide():
    rows = np.arange(5000)[::-1] * 2**40 // 5000 * 5000 % 60_000      # (multiples of 5,000, and each of 12 often)
    rows = np.concatenate([rows, np.arange(59_999, -1, -7)])
    table = np.zeros(60_000)
    fastlr.SGD({"table": table}, lr=1.0).step_rows("table", rows, np.ones(rows.size))
    np.testing.assert_array_equal(-table, np.bincount(rows, minlength=60_000))


# Storage

@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize(("state", "width"), [("float32", 33), ("float16", 3), ("bfloat16", 301), ("int8", 320)])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_all_rows_are_a_step_in_any_storage(kind, state, width, rounding):
    table = arrays(np.float32, [(80, width)])[0].astype(kind)
    other = table.copy()
    common = {"state_dtype": state, "rounding": rounding, "seed": 5, "ema_decay": 0.5}
    opt, dense = fastlr.AdamW({"table": table}, **common), fastlr.AdamW({"table": other}, **common)
    for t in range(3):
        g = arrays(np.float32, [table.shape], 10 + t)[0].astype(kind)
        rows = np.random.default_rng(t).permutation(80)
        opt.step_rows("table", rows, g[rows])
        dense.step({"table": g})
    assert bits([table]) == bits([other])
    assert bits(opt.state["table"].values()) == bits(dense.state["table"].values())


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_rows_with_a_sum_each_are_a_step_in_16_bits(kind, decay):
    table = arrays(np.float32, [(80, 301)])[0].astype(kind)
    other = table.copy()
    common = {"rounding": "stochastic", "seed": 5, "weight_decay": 0.1, "decay": decay, "lr": 0.1}
    opt, dense = (fastlr.RowwiseAdaGrad({"table": x}, **common) for x in (table, other))
    for t in range(3):
        g = arrays(np.float32, [table.shape], 10 + t)[0].astype(kind)
        rows = np.random.default_rng(t).permutation(80)
        opt.step_rows("table", rows, g[rows])
        dense.step({"table": g})
    assert bits([table, opt.state["table"]["s"]]) == bits([other, dense.state["table"]["s"]])


def test_sums_of_16_bit_gradients_are_not_16_bit_sums():
    table = np.zeros((2, 1), np.float32)
    fastlr.SGD({"table": table}, lr=1.0).step_rows("table", np.zeros(3000, np.int64), np.ones((3000, 1), np.float16))
    assert table[0, 0] == -3000


def test_an_8_bit_state_needs_whole_groups_in_a_row():
    opt = fastlr.Adam({"table": np.zeros((200, 50), np.float32)}, state_dtype="int8")
    with pytest.raises(ValueError, match=re.escape("a state of 8 bits needs rows of a multiple of 64 elements")):
        opt.step_rows("table", np.array([1]), np.ones((1, 50), np.float32))


# Stages

@every_dtype
def test_a_table_is_clipped_by_the_norm_of_its_summed_gradient(dtype):
    (rows, grads), = batches(dtype, 1)
    table, other = (np.zeros((ROWS, WIDTH), dtype) for _ in range(2))
    opt = fastlr.SGD({"table": table}, lr=1.0, clip_tensor_norm=0.5)
    opt.step_rows("table", rows, grads)
    touched, total = summed(rows, grads)
    assert opt.grad_norm == pytest.approx(np.linalg.norm(total.astype(np.float64)), rel=1e-13)
    other[touched] = -total * dtype(0.5 / (opt.grad_norm + 1e-6))
    assert bits([table]) == bits([other])


@every_dtype
@pytest.mark.parametrize("clip_value", [None, 0.7])
@pytest.mark.parametrize("width", [1, 17, 256, 700])
def test_the_norm_is_of_all_elements(dtype, clip_value, width):
    (rows, grads), = batches(dtype, 1, shape=(width,))
    table, = arrays(dtype, [(ROWS, width)])
    opt = fastlr.SGD({"table": table}, clip_tensor_norm=1e30, clip_value=clip_value)
    opt.step_rows("table", rows, grads, grad_scale=4.0)
    total = summed(rows, grads)[1].astype(np.float64) / 4
    if clip_value is not None:
        total = total.clip(-clip_value, clip_value)
    # (at most 40 x 700 / 16 additions in a lane, and the value that is clipped is a float32)
    assert opt.grad_norm == pytest.approx(np.linalg.norm(total), rel=1e-12 if clip_value is None else 1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("width", [1, 3, 15, 16, 17, 64, 1000, 33_000, 70_001])
@pytest.mark.parametrize("options", [{}, {"clip_value": 0.5}], ids=["plain", "clip_value"])
def test_the_norm_of_rows_has_the_bits_of_the_norm_of_a_step(dtype, width, options):
    """All rows or some, in any order, once or twice: as a step whose other rows are zeros."""
    rng = np.random.default_rng(width)
    count = max(5, min(40_000, 200_000 // width))
    dense = rng.normal(size=(count, width)).astype(dtype)
    for rows in (np.arange(count), rng.permutation(count), rng.choice(count, count // 3, replace=False),
                 np.sort(rng.choice(count, count // 2, replace=False)), np.array([count - 1])):
        grads, whole = dense[rows], np.zeros_like(dense)
        whole[rows] = grads
        if len(rows) == 1:                         # (a row that comes twice is added first)
            rows, grads = np.repeat(rows, 2), np.concatenate([grads, grads])
            whole *= dtype(2)
        found = []
        for by_rows in (False, True):
            table = np.ones((count, width), dtype)
            opt = fastlr.SGD({"table": table}, lr=1.0, clip_tensor_norm=2.0, **options)
            if by_rows:
                opt.step_rows("table", rows, grads, grad_scale=3.0)
            else:
                opt.step({"table": whole}, grad_scale=3.0)
            found.append((opt.grad_norm, bits([table])))
        assert found[0] == found[1]


def test_the_norm_has_the_same_bits_for_any_threads():
    (rows, grads), = batches(np.float32, 1, 2000, (64,), 5000)
    norms = set()
    for threads in (1, 2, 5):
        fastlr.set_num_threads(threads)
        opt = fastlr.SGD({"table": np.zeros((2000, 64), np.float32)}, clip_tensor_norm=0.5)
        opt.step_rows("table", rows, grads)
        norms.add(opt.grad_norm)
    assert len(norms) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_skipped_or_refused(bad):
    (rows, grads), = batches(count=1)
    grads[33, 5] = bad
    table = np.ones((ROWS, WIDTH))
    opt = fastlr.Adam({"table": table}, nonfinite="skip")
    before = snapshot(opt, [table])
    opt.step_rows("table", rows, grads)
    assert snapshot(opt, [table]) == before
    assert opt.skipped == 1
    opt = fastlr.Adam({"table": table}, nonfinite="raise")
    with pytest.raises(FloatingPointError, match=re.escape("grads['table']: holds NaN or infinity at t = 0")):
        opt.step_rows("table", rows, grads)
    assert snapshot(opt, [table]) == before


def test_a_learning_rate_per_element():
    (rows, grads), = batches(count=1)
    factors = np.random.default_rng(8).uniform(size=(ROWS, WIDTH))
    table = np.zeros((ROWS, WIDTH))
    fastlr.SGD({"table": table}, lr=1.0, lr_scale={"table": factors}).step_rows("table", rows, grads)
    touched, total = summed(rows, grads)
    np.testing.assert_array_equal(table[touched], factors[touched] * -total)


# Clocks

def model():
    return {"a": np.ones((8, 2)), "w": np.ones(3), "b": np.ones((5, 4))}


def test_one_step_of_a_model_with_tables_is_one_step():
    params, others = model(), model()
    lr = schedules.inverse_time(0.1, decay=0.5)
    opt, dense = fastlr.Adam(params, lr), fastlr.Adam(others, lr)
    rng = np.random.default_rng(0)
    for t in range(4):
        grads = {name: rng.normal(size=p.shape) for name, p in params.items()}
        dense.step(grads)
        for name in ("a", "b"):
            opt.step_rows(name, np.arange(len(params[name])), grads[name])
            assert opt.t == t
        opt.step({"a": None, "w": grads["w"], "b": None})
        assert opt.t == t + 1
        assert bits(params.values()) == bits(others.values())
    assert opt._plan.read_skipped_steps() == [0, 0, 0]


def test_tables_alone_end_their_step_when_told():
    params, others = model(), model()
    opt, dense = fastlr.Adam(params, lambda t: 0.1 / (1 + t)), fastlr.Adam(others, lambda t: 0.1 / (1 + t))
    for t in range(3):
        g = np.full((1, 2), 1.0 + t), np.full((1, 4), 2.0 - t)
        opt.step_rows("a", [3], g[0])
        opt.step_rows("b", [2], g[1], ends_step=True)
        dense.step({"a": np.repeat(g[0], 8, 0), "w": None, "b": np.repeat(g[1], 5, 0)})
        assert opt.t == dense.t == t + 1
        assert bits([params["a"][3], params["b"][2]]) == bits([others["a"][3], others["b"][2]])
    assert opt._plan.read_skipped_steps() == dense._plan.read_skipped_steps() == [0, 3, 0]


@every_by_rows
@pytest.mark.parametrize("kind", [np.float64, ml_dtypes.bfloat16], ids=["float64", "bfloat16"])
def test_updates_within_a_step_are_as_those_of_a_table_alone(cls, kind):
    """Each counts for bias correction and has random bits of its own."""
    params = {"a": np.ones((8, 3), kind), "w": np.ones(3)}
    alone = {"a": np.ones((8, 3), kind)}
    common = everything_changed(cls) | {"rounding": "stochastic"}
    opt, other = cls(params, **common), cls(alone, **common)
    rng = np.random.default_rng(2)
    for _ in range(3):
        for _ in range(3):
            rows, grads = rng.integers(0, 8, 5), rng.normal(size=(5, 3)).astype(kind)
            opt.step_rows("a", rows, grads)
            other.step_rows("a", rows, grads)
        opt.step({"a": None, "w": np.ones(3)})
        assert bits([params["a"], *opt.state["a"].values()]) == bits([alone["a"], *other.state["a"].values()])
    assert opt.t == 3
    assert other.t == 9


@pytest.mark.parametrize("cls", [fastlr.Adam, fastlr.NAdam, fastlr.RowwiseAdaGrad], ids=lambda cls: cls.__name__)
def test_who_is_how_old_in_any_order_of_steps(cls):
    """Rows ahead of the step, gradients left out and given again: as if ages were found anew for each step."""
    params, others = model(), model()
    rng = np.random.default_rng(4)
    hyper = {"lr_decay": 0.3} if "lr_decay" in cls.hypers else {}
    opt, anew = cls(params, 0.1, **hyper), cls(others, 0.1, **hyper)
    for _ in range(60):
        for name in ("a", "b"):
            for _ in range(rng.integers(0, 3)):
                g = rng.normal(size=(1, *params[name].shape[1:]))
                row = [int(rng.integers(0, len(params[name])))]
                opt.step_rows(name, row, g)
                anew.step_rows(name, row, g)
        grads = {name: rng.normal(size=p.shape) if rng.random() < 0.5 else None for name, p in params.items()}
        anew._plan.set_clock(anew.t, anew._plan.read_skipped_steps())
        opt.step(grads)
        anew.step(grads)
        assert bits(params.values()) == bits(others.values())
        assert opt._plan.read_skipped_steps() == anew._plan.read_skipped_steps()


def test_a_skipped_step_does_not_hide_who_is_how_old():
    params, others = model(), model()
    opt, anew = fastlr.Adam(params, 0.1, nonfinite="skip"), fastlr.Adam(others, 0.1, nonfinite="skip")
    full, bad = {name: np.full(p.shape, 0.5) for name, p in params.items()}, np.full(3, np.nan)
    for grads in (full, full | {"a": None}, full | {"a": None, "w": bad}, full):
        anew._plan.set_clock(anew.t, anew._plan.read_skipped_steps())
        opt.step(grads)
        anew.step(grads)
        assert bits(params.values()) == bits(others.values())
    assert (opt.t, opt.skipped) == (3, 1)


def test_an_update_of_no_row_is_an_update():
    table, other = np.ones((4, 2)), np.ones((4, 2))
    opt, dense = fastlr.Adam({"table": table}, 0.1), fastlr.Adam({"table": other}, 0.1)
    opt.step_rows("table", [], np.zeros((0, 2)))
    dense.step({"table": np.zeros((4, 2))})
    opt.step_rows("table", [1], np.ones((1, 2)))
    dense.step({"table": np.ones((4, 2))})
    assert opt.t == 2
    assert bits([table[1]]) == bits([other[1]])
    assert bits([table[[0, 2, 3]]]) == bits([np.ones((3, 2))])


@every_by_rows
@pytest.mark.parametrize("within", [False, True], ids=["between steps", "within a step"])
@pytest.mark.parametrize("how", ["state_dict", "file"])
def test_resuming_is_exact(cls, within, how, tmp_path):
    def run(opt, first, last):
        for t in range(first, last):
            rows, grads = batches(count=1, rows=8, shape=(2,), given=5, seed=t)[0]
            opt.step_rows("a", rows, grads)
            opt.step_rows("a", rows[:2], grads[:2])        # (twice: ahead of the steps)
            if not (within and t == last - 1):
                opt.step({"a": None, "w": np.full(3, 1.0 + t), "b": None})
        return opt

    hyper = everything_changed(cls) | {"lr": schedules.cosine(0.1, steps=20)}
    through, half = model(), model()
    first = run(cls(half, **hyper), 0, 3)
    after = model()
    second = cls(after, **hyper)
    if how == "file":
        fastlr.save(tmp_path / "half.safetensors", first)
        fastlr.load(tmp_path / "half.safetensors", second)
    else:
        second.load_state_dict(first.state_dict())
        for name, p in half.items():
            after[name][...] = p
    whole = run(run(cls(through, **hyper), 0, 3), 3, 6)
    run(second, 3, 6)
    assert snapshot(second, after.values())[:4] == snapshot(whole, through.values())[:4]
    assert min(second._plan.read_skipped_steps()) < 0


# What rows may be, and what is refused

ONE = np.ones((2, WIDTH))
LAP = np.zeros((ROWS + 4, WIDTH))


@pytest.mark.parametrize(("rows", "grads", "error", "says"), [
    ([3, ROWS], ONE, ValueError, "Adam: step_rows('table'): rows must be in [0, 40), got 40 at position 1"),
    ([-1, 3], ONE, ValueError, "rows must be in [0, 40), got -1 at position 0"),
    (np.array([3, 2**62]), ONE, ValueError, "got 4611686018427387904 at position 1"),
    (np.array([1, 2**64 - 1], np.uint64), ONE, ValueError, "got 18446744073709551615 at position 1"),
    (np.array([1.0, 2.0]), ONE, TypeError, "rows must be integers, got float64; pass rows.astype('int64') if"),
    ([True, False], ONE, TypeError, "rows must be indices, got a mask of bool; pass np.flatnonzero(rows) and the"),
    ([[1, 2]], ONE, ValueError, "rows must have one dimension, got shape (1, 2)"),
    (3, ONE, TypeError, "step_rows('table'): rows: expected an array"),
    ([1, 2, 3], ONE, ValueError, "grads: expected float64 (3, 12), a row for each of rows, got float64 (2, 12)"),
    ([1, 2], ONE[:, :5], ValueError, "expected float64 (2, 12), a row for each of rows, got float64 (2, 5)"),
    ([1, 2], ONE[0], ValueError, "expected float64 (2, 12), a row for each of rows, got float64 (12,)"),
    ([1, 2], ONE.astype(np.float32), ValueError, "got float32 (2, 12)"),
    ([1, 2], ONE.astype(int), ValueError, "got int64 (2, 12)"),
    ([1, 2], None, TypeError, "step_rows('table'): grads: expected an array"),
    ([1, 2], LAP[1:3], ValueError, "shares memory with parameter 'table' or its state"),
])
def test_bad_rows_and_gradients_change_nothing(rows, grads, error, says):
    table = LAP[:ROWS]
    opt = fastlr.Adam({"table": table})
    opt.step_rows("table", [1, 2], ONE)
    before = snapshot(opt, [table])
    with pytest.raises(error, match=re.escape(says)):
        opt.step_rows("table", rows, grads)
    assert snapshot(opt, [table]) == before
    opt.step_rows("table", [1, 2], ONE)
    assert opt.t == 2


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_rows_may_be_integers_of_any_type(kind):
    table, other = np.zeros((ROWS, WIDTH)), np.zeros((ROWS, WIDTH))
    fastlr.SGD({"table": table}, lr=1.0).step_rows("table", np.array([3, 39], kind), -ONE)
    fastlr.SGD({"table": other}, lr=1.0).step_rows("table", [3, 39], -ONE)
    assert np.flatnonzero(table[:, 0]).tolist() == [3, 39]
    assert bits([table]) == bits([other])


@pytest.mark.parametrize("rows", [[], (), np.array([]), np.unique([]), np.array([], bool), np.array([], np.uint16)])
def test_no_rows_may_come_in_any_type(rows):
    table = np.ones((ROWS, WIDTH))
    opt = fastlr.SGD({"table": table}, lr=1.0)
    opt.step_rows("table", rows, ONE[:0])
    assert (table == 1).all()
    assert opt.t == 1


def test_a_mask_is_refused_with_advice_that_works():
    mask, grads = np.isin(np.arange(ROWS), [4, 7]), -np.ones((ROWS, WIDTH))
    table = np.zeros((ROWS, WIDTH))
    opt = fastlr.SGD({"table": table}, lr=1.0)
    with pytest.raises(TypeError, match=r"pass np.flatnonzero\(rows\) and the gradients of those rows"):
        opt.step_rows("table", mask, grads)
    opt.step_rows("table", np.flatnonzero(mask), grads[mask])
    assert np.flatnonzero(table[:, 0]).tolist() == [4, 7]


@pytest.mark.parametrize("skipped", [0, 2])
def test_rows_draw_the_random_bits_of_the_step_they_are(skipped):
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=(ROWS, WIDTH)).astype(np.float16) for _ in range(3)]

    def trained(by_rows, save_at=None):
        params = {"table": np.ones((ROWS, WIDTH), np.float16), "b": np.ones(3, np.float16)}
        opt = fastlr.SGD(params, lr=1e-4, rounding="stochastic", seed=5)
        for _ in range(skipped):
            opt.step({"table": None, "b": np.ones(3, np.float16)})
        for t, g in enumerate(grads):
            if t == save_at:
                saved, opt = opt.state_dict(), fastlr.SGD(params, lr=1e-4, rounding="stochastic", seed=5)
                opt.load_state_dict(saved)
            if by_rows:
                opt.step_rows("table", np.arange(ROWS), g)
            opt.step({"table": None if by_rows else g, "b": np.ones(3, np.float16)})
        return params["table"].tobytes()

    assert trained(True) == trained(False) == trained(True, save_at=1) == trained(False, save_at=2)


def test_two_updates_of_the_same_rows_in_one_step_draw_different_random_bits():
    table = np.ones((ROWS, WIDTH), np.float16)
    opt = fastlr.SGD({"table": table, "b": np.ones(3)}, lr=1e-4, rounding="stochastic")
    moved = []
    for _ in range(2):
        table[...] = 1
        opt.step_rows("table", np.arange(ROWS), np.ones((ROWS, WIDTH), np.float16))
        moved.append((table != 1).tobytes())
    assert 0 < (table != 1).mean() < 1
    assert moved[0] != moved[1]


def test_what_has_no_rows_and_what_spans_all_gradients_is_refused():
    with pytest.raises(ValueError, match=re.escape("step_rows('x'): the parameter must have rows, got one number")):
        fastlr.SGD({"x": np.array(1.0)}).step_rows("x", [0], np.ones(1))
    for clip in ("clip_norm", "clip_zscore"):
        with pytest.raises(ValueError, match=f"{clip} is over all gradients of a step"):
            fastlr.SGD({"x": np.ones(4)}, **{clip: 1.0}).step_rows("x", [0], np.ones(1))
    with pytest.raises(ValueError, match=r"step_rows\('x'\): a shadow needs whole steps; build .* without shadow="):
        fastlr.SGD({"x": np.ones(4)}, shadow="float16").step_rows("x", [0], np.ones(1))
    split = fastlr.SGD({"x": np.ones(4, np.uint16)}, dtype="bfloat16", master="split")
    with pytest.raises(ValueError, match=r"step_rows\('x'\): a split parameter needs whole steps; build"):
        split.step_rows("x", [0], np.ones(1, np.float32))
    with pytest.raises(ValueError, match=re.escape("SGD: step_rows: no parameter 'tabel'; did you mean 'table'?")):
        fastlr.SGD({"table": np.ones(4)}).step_rows("tabel", [0], np.ones(1))
    with pytest.raises(ValueError, match="grad_scale must be positive and finite, got 0"):
        fastlr.SGD({"table": np.ones(4)}).step_rows("table", [0], np.ones(1), grad_scale=0)


def test_a_step_within_a_step_is_refused():
    def lr(t):
        opt.step_rows("x", [0], np.ones(1))
        return 1.0

    opt = fastlr.SGD({"x": np.ones(4)}, lr)
    with pytest.raises(RuntimeError, match="already stepping"):
        opt.step_rows("x", [0], np.ones(1))


def test_a_rule_that_depends_on_more_than_a_gradient_is_refused():
    table = np.ones((5, 2))
    for cls in (fastlr.LAMB, fastlr.Adan):
        with pytest.raises(TypeError, match=f"{cls.__name__}: step_rows: a step of this rule depends on more than"):
            cls({"table": table}).step_rows("table", np.array([1]), np.ones((1, 2)))
    assert (table == 1).all()
