"""Neighbours of inputs that once went wrong, made by hypothesis: each test is of one kind of such inputs.

The inputs themselves are in the tests of what they are about. A failure here prints the smallest input that fails.
"""
import copy
import os
import resource
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from registry import bits

import fastlr
from fastlr import schedules
from fastlr._engine.threads import group_limits

few = settings(max_examples=40, deadline=None, derandomize=True,
               suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

DTYPES = [np.float16, np.float32, np.float64]
sizes = st.sampled_from([1, 2, 3, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1000, 4096, 5000, 33_000])
seeds = st.integers(0, 2**32 - 1)


def numbers(seed, shape, dtype=np.float64):
    return np.asarray(np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def loss_of(opt):
    return {"loss": 1.0} if getattr(opt, "needs_loss", False) else {}


# Norms

@few
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=30), st.sampled_from(["clip_norm", "clip_tensor_norm"]),
       st.integers(1, 3), st.integers(-60, 60), seeds)
def test_a_norm_of_any_finite_gradients(exponents, keyword, tensors, scale, seed):
    assume(max(exponents) - scale <= 1020)         # (else an unscaled gradient is infinite)
    g = np.ldexp(numbers(seed, len(exponents)), exponents)
    parts = np.array_split(g, tensors)
    exact = [sum(Fraction(float(x)) ** 2 for x in part) for part in parts]
    params = [np.zeros(len(part)) for part in parts]
    opt = fastlr.SGD(params, lr=1.0, nonfinite="raise", **{keyword: 1.0})
    opt.step([part.copy() for part in parts], grad_scale=2.0**scale)

    def root(square):
        """The root of a fraction, as a float, without overflow."""
        shift = (square.denominator.bit_length() - square.numerator.bit_length()) // 2 if square else 0
        return float(np.sqrt(float(square * Fraction(4) ** shift))), -shift

    mantissa, shift = root(sum(exact))
    want = np.ldexp(mantissa, shift - scale)
    assert opt.grad_norm == pytest.approx(want, rel=1e-13, abs=1e-300)
    for p, part, square in zip(params, parts, exact, strict=True):
        mantissa, shift = root(square if keyword == "clip_tensor_norm" else sum(exact))
        norm = np.ldexp(mantissa, shift - scale)
        left = np.ldexp(part, -scale) * min(1.0, 1 / (norm + 1e-6))
        np.testing.assert_allclose(p, -left, rtol=1e-9, atol=1e-290)


# Paths, layouts, decay

@few
@given(sizes, st.sampled_from(["Adam", "AdamW", "SGD", "Momentum", "Lion", "RMSprop", "NAdam", "LAMB"]),
       st.sampled_from(["coupled", "decoupled", "independent", "corrected"]), st.sampled_from(DTYPES),
       st.sampled_from([{}, {"clip_value": 0.5}, {"clip_norm": 1e9}, {"maximize": True}, {"nonfinite": "skip"}]),
       st.sampled_from([1.0, 2.0, 3.0]), st.booleans(), seeds)
def test_the_same_bits_on_every_path(size, name, decay, dtype, options, scale, step_twice, seed):
    start, g = numbers(seed, size, dtype), numbers(seed + 1, size, dtype)
    found = []
    for layout in ("contiguous", "strided", "misaligned", "reversed"):
        if layout == "contiguous":
            p = start.copy()
        elif layout == "strided":
            p = np.repeat(start, 2)[::2]
        elif layout == "misaligned":
            p = np.zeros(start.nbytes + 1, np.uint8)[1:].view(dtype)
        else:
            p = start[::-1].copy()[::-1]
        p[...] = start
        opt = getattr(fastlr, name)([p], lr=0.1, weight_decay=0.5, decay=decay, **options)
        for _ in range(1 + step_twice):
            opt.step([g], grad_scale=scale)
        found.append(np.ascontiguousarray(p).tobytes())
    assert len(set(found)) == 1


# Nested structures and names

leaf = st.integers(0, 3).map(lambda n: np.zeros(n))
key = st.one_of(st.text(max_size=3), st.integers(), st.booleans(), st.tuples(st.integers()))
trees = st.recursive(leaf, lambda inner: st.one_of(
    st.lists(inner, min_size=1, max_size=3), st.tuples(inner), st.tuples(inner, inner),
    st.dictionaries(key, inner, min_size=1, max_size=3)), max_leaves=8)


def mapped(tree, function):
    if isinstance(tree, np.ndarray):
        return function(tree)
    if isinstance(tree, dict):
        return {name: mapped(x, function) for name, x in tree.items()}
    return type(tree)(mapped(x, function) for x in tree)


def leaves(tree):
    if isinstance(tree, np.ndarray):
        return [tree]
    return [x for inner in (tree.values() if isinstance(tree, dict) else tree) for x in leaves(inner)]


@few
@given(trees)
def test_parameters_of_any_structure_take_gradients_of_the_same(tree):
    try:
        opt = fastlr.SGD(tree, lr=1.0)
    except ValueError as error:
        assert "are named" in str(error)                    # (keys that look alike: refused in words)
        return
    opt.step(mapped(tree, np.ones_like))
    assert all((x == -1).all() for x in leaves(tree))
    assert len(opt.state) == len(leaves(tree))
    assert sorted(opt.state_dict()["groups"][0]["params"]) == sorted(opt.state)


@few
@given(trees.filter(lambda tree: isinstance(tree, dict)), seeds)
def test_an_entry_of_a_mapping_that_was_replaced_is_noticed(tree, seed):
    try:
        opt = fastlr.SGD(tree, lr=1.0)
    except ValueError:
        return
    places = []

    def collect(inner):
        if isinstance(inner, dict):
            places.extend((inner, name) for name, x in inner.items() if isinstance(x, np.ndarray))
        for x in inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list | tuple) else ():
            collect(x)

    collect(tree)
    assume(places)
    container, name = places[seed % len(places)]
    grads = mapped(tree, np.ones_like)
    container[name] = container[name] + 1
    with pytest.raises(RuntimeError, match="was replaced by another array since this optimizer took it"):
        opt.step(grads)


# Options and attributes

OPTIONS = st.fixed_dictionaries({}, optional={
    "clip_norm": st.sampled_from([0.5, 2.0]), "clip_value": st.sampled_from([0.5, 2.0]), "maximize": st.booleans(),
    "lr_scale": st.sampled_from([1.0, 0.5]), "decay_mask": st.sampled_from([[True], [False]]),
    "nonfinite": st.sampled_from(["skip", "propagate"]), "decay": st.sampled_from(["coupled", "decoupled"]),
    "seed": st.integers(0, 2), "rounding": st.sampled_from(["nearest", "stochastic"])})


@few
@given(OPTIONS, OPTIONS, seeds)
def test_an_optimizer_that_loads_a_state_steps_as_the_saved_one_or_refuses(there, here, seed):
    def made(p, options):
        return fastlr.Adam([p], lr=0.1, weight_decay=0.5, **options)

    p, q = (numbers(seed, 40, np.float16) for _ in range(2))
    opt, other = made(p, there), made(q, here)
    opt.step([numbers(seed + 1, 40, np.float16)])
    state = opt.state_dict()
    q[...] = p
    try:
        other.load_state_dict(state)
    except ValueError as error:
        assert "strict=False" in str(error)
        q[...] = p
        assert other.load_state_dict(state, strict=False)
        return
    for t in range(3):
        g = 10 * numbers(seed + 2 + t, 40, np.float16)
        opt.step([g])
        other.step([g])
    assert bits([p]) == bits([q])


@few
@given(st.from_regex(r"[a-z][a-z_]{0,15}", fullmatch=True) | st.sampled_from(
    ["learning_rate", "beta1", "betas", "momentum", "nonfinite", "maximize", "decay_mask", "lr_schedule", "clip_norn"]))
def test_an_attribute_is_one_or_is_refused(name):
    opt = fastlr.SGD(np.zeros(2), lr=1.0)
    for thing in (opt, opt.groups[0], fastlr.Lookahead(opt), fastlr.EMA(opt), fastlr.LossScale(), fastlr.Plateau(1.0),
                  schedules.cosine(1.0, steps=3), fastlr.History()):
        if hasattr(thing, name):
            continue
        with pytest.raises(AttributeError):
            setattr(thing, name, 0.5)


@few
@given(st.dictionaries(st.sampled_from(["lr", "weight_decay", "momentum", "lr_max", "nonsense", "params"]),
                       st.sampled_from([-1.0, float("nan"), "x", None, 0.5]), min_size=1),
       st.sampled_from([np.ones(3), np.ones((0, 2)), [np.ones(2), np.ones(2)], {"a": np.ones(2)}, "text", None, []]))
def test_a_group_joins_or_nothing_has_changed(hyper, more):
    def fresh():
        p = np.ones(5)
        return p, fastlr.Momentum({"a": p}, lr=0.1, lr_scale={"a": np.full(5, 0.5)}, ema_decay=0.5)

    (p, opt), (q, twin) = fresh(), fresh()
    hyper = dict(hyper)
    params = hyper.pop("params", more)
    try:
        opt.add_group(copy.deepcopy(params), **hyper)
    except (TypeError, ValueError):
        junk = [np.full(5, 7.0) for _ in range(50)]          # (where the memory of a refused group was)
        for _ in range(2):
            opt.step({"a": np.ones(5)})
            twin.step({"a": np.ones(5)})
        assert bits([p, opt.ema["a"]]) == bits([q, twin.ema["a"]])
        assert len(junk) == 50
    else:
        assert len(opt.groups) == 2


@few
@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)), min_size=1, max_size=4), st.floats(0.0, 2.0))
def test_a_rate_is_set_for_all_groups_or_for_none(groups, rate):
    rates = [min(lr, most) for lr, most in groups]
    opt = fastlr.AdamW([{"params": [np.ones(2)], "lr": lr, "lr_max": most} for lr, (_, most) in
                        zip(rates, groups, strict=True)], decay="corrected", weight_decay=0.1)
    try:
        opt.lr = rate
    except ValueError:
        assert [group.lr for group in opt.groups] == rates
        assert any(rate > most for _, most in groups)
    else:
        assert [group.lr for group in opt.groups] == [rate] * len(groups)


# Rows

@few
@given(st.integers(1, 9), st.integers(1, 70), st.lists(st.integers(0, 8), max_size=12),
       st.sampled_from([np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]),
       st.sampled_from([{}, {"clip_tensor_norm": 0.5}, {"clip_value": 0.5}, {"rounding": "stochastic", "seed": 3}]),
       st.sampled_from(DTYPES), seeds)
def test_rows_are_a_step_with_zeros_elsewhere(length, width, rows, kind, options, dtype, seed):
    """Of SGD without momentum, whose other rows a gradient of zero leaves alone."""
    rows = np.array([row % length for row in rows], kind)
    g = numbers(seed, (len(rows), width), dtype)
    whole = np.zeros((length, width), np.float64 if dtype == np.float64 else np.float32)
    for row, one in zip(rows, g, strict=True):
        whole[row] += one
    # (a step takes the sum in 16 bits, and rows are added in more: so only rows that come once are compared there)
    assume(dtype != np.float16 or len(set(rows.tolist())) == len(rows))
    start, found = numbers(seed + 1, (length, width), dtype), []
    for by_rows in (False, True):
        table = start.copy()
        opt = fastlr.SGD({"table": table}, lr=0.1, **options)
        if by_rows:
            opt.step_rows("table", rows, g)
        else:
            opt.step({"table": whole.astype(dtype)})
        found.append(table)
    assert bits(found[:1]) == bits(found[1:])


@few
@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_a_mask_of_rows_is_refused(mask):
    table = np.ones((len(mask), 2))
    opt = fastlr.SGD({"table": table}, lr=1.0)
    with pytest.raises((TypeError, ValueError), match=r"pass np\.flatnonzero\(rows\)"):
        opt.step_rows("table", np.array(mask), np.ones((len(mask), 2)))
    assert (table == 1).all()


# States in 8 bits

@pytest.mark.parametrize("name", ["dadaptadagrad", "dadaptsgd", "dadaptadam", "dadaptlion", "prodigy", "madgrad", "adan",
                                  "ftrl", "momentum", "adam"])
@settings(few, max_examples=6)
@given(seeds)
def test_8_bits_keep_the_signs_of_a_state(name, seed):
    target = 3 * numbers(seed, 4096, np.float32)
    states = []
    for stored in ("float32", "int8"):
        w = np.zeros(4096, np.float32)
        opt = fastlr.create_optimizer(name, w, state_dtype=stored)
        opt.step(w - target)
        states.append(opt.state["0"])
    for slot, array in states[0].items():
        codes = states[1][slot]
        if array.shape and codes.dtype == np.uint8:
            assert (array >= 0).all(), slot
        if array.shape and codes.dtype == np.int8 and (array < 0).any():
            # (a sign and a magnitude: the highest bit is the sign)
            assert ((codes.view(np.uint8) > 127) == (array < 0))[abs(array) > abs(array).max() / 50].all(), slot


# Schedules

counts = st.integers(0, 5)


@few
@given(counts, counts, counts, st.sampled_from(["linear", "cosine", "1-sqrt", "square"]))
def test_phases_of_any_length(warmup, stable, decay, shape):
    s = schedules.wsd(1e-3, warmup_steps=warmup, stable_steps=stable, decay_steps=decay, shape=shape)
    rates = s(np.arange(30))
    assert np.isfinite(rates).all()
    assert ((rates >= 0) & (rates <= 1e-3)).all()
    if stable:
        assert (rates[warmup:warmup + stable] == 1e-3).all()
    s = schedules.cosine(1e-3, steps=10)
    assert (s.warmup(warmup)(np.arange(warmup, 30)) == s(np.arange(30 - warmup))).all()
    rates = s.warmup(warmup, count_from_one=True)(np.arange(warmup + 1))
    assert (rates > 0).all()


@few
@given(st.integers(1, 8), st.floats(0.0, 1.0), st.booleans())
def test_one_cycle_of_any_length(steps, pct_start, three_phase):
    try:
        s = schedules.one_cycle(0.1, steps=steps, pct_start=pct_start, three_phase=three_phase)
        rates = s(np.arange(steps + 3))
    except ValueError as error:
        assert "one_cycle" in str(error)
        return
    assert np.isfinite(rates).all()
    assert ((rates >= 0) & (rates <= 0.1 + 1e-12)).all()


# Loss scales, accumulation, skipped steps

@few
@given(st.lists(st.tuples(st.sampled_from([1.0, 3.0, float("inf")]), st.integers(1, 4)), min_size=1, max_size=8),
       st.integers(0, 20))
def test_a_loss_scale_with_accumulation_gives_the_mean(batches, exponent):
    p, q = np.ones(2), np.ones(2)
    scale = fastlr.LossScale(init=2.0**exponent)
    opt = fastlr.SGD(p, lr=0.5, nonfinite="skip")
    acc = fastlr.GradientAccumulation(opt)
    for value, count in batches:
        acc.add(np.full(2, value * scale.value), count=count)
    acc.step(grad_scale=scale)
    values, weights = zip(*batches, strict=True)
    if np.isfinite(values).all():
        fastlr.SGD(q, lr=0.5).step(np.full(2, np.average(values, weights=weights)))
        assert scale.value == 2.0**exponent
    else:
        assert scale.value == 2.0 ** (exponent - 1)
    np.testing.assert_allclose(p, q, rtol=1e-14)
    assert (opt.skipped, opt.t) == ((0, 1) if np.isfinite(values).all() else (1, 0))


# Restoring, files

things = st.recursive(st.sampled_from(["array", "generator", "legacy"]), lambda inner: st.one_of(
    st.lists(inner, min_size=1, max_size=3), st.dictionaries(st.text(max_size=2), inner, min_size=1, max_size=3)),
    max_leaves=5)


@settings(few, max_examples=15)
@given(things, seeds)
def test_find_lr_restores_structures_of_arrays_and_generators(thing, seed):
    made = {"array": lambda: np.full(2, 7.0), "generator": lambda: np.random.default_rng(seed),
            "legacy": lambda: np.random.RandomState(seed)}
    held = []

    def build(x):
        if isinstance(x, str):
            held.append(made[x]())
            return held[-1]
        return [build(y) for y in x] if isinstance(x, list) else {name: build(y) for name, y in x.items()}

    structure, w = build(thing), np.zeros(2)

    def draw(x):
        return x.sum() if isinstance(x, np.ndarray) else x.random(3).sum()

    def loss_and_grad(batch):
        for x in held:
            if isinstance(x, np.ndarray):
                x += 1
            else:
                draw(x)
        return float((w - batch) @ (w - batch)), 2 * (w - batch)

    want = [draw(copy.deepcopy(x)) for x in held]
    fastlr.find_lr(fastlr.SGD(w, lr=0.1), loss_and_grad, [np.ones(2)], also_restore=structure, steps=10, trial_steps=10)
    assert [draw(copy.deepcopy(x)) for x in held] == want


@few
@given(st.sampled_from([".jsonl", ".csv"]), st.integers(0, 60), st.integers(0, 3))
def test_a_disk_that_is_full_at_any_byte_ruins_no_history(tmp_path, kind, room, before):
    path = tmp_path / f"h{kind}"
    path.unlink(missing_ok=True)
    history = fastlr.History(path)
    for t in range(before):
        history.record(loss=0.125 + t, t=t)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = os.path.getsize(path) if path.exists() else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
    try:
        history.record(loss=0.98, t=10)
        written = True
    except OSError:
        written = False
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    history.record(loss=0.5, t=11)
    history.close()
    again = fastlr.History(path)
    assert list(again["loss"]) == [0.125 + t for t in range(before)] + [0.98] * written + [0.5]
    again.close()


@few
@given(st.sampled_from(["Prodigy", "DAdaptAdam", "DoG", "MoMo", "NAdam", "Adam"]),
       st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_what_is_not_finite_in_a_state_is_saved_as_it_is(tmp_path, name, bad):
    def fresh():
        return getattr(fastlr, name)(np.ones(3))

    opt, other = fresh(), fresh()
    with np.errstate(all="ignore"):
        opt.step(np.array([bad, 1.0, 1.0]))
    fastlr.save(tmp_path / "c", opt)
    fastlr.load(tmp_path / "c", other)
    assert repr(other.state_dict()) == repr(opt.state_dict())


@few
@given(st.sampled_from(["bfloat16", "float16"]), seeds, st.integers(1, 3))
def test_a_copy_follows_what_a_mean_loads(tmp_path, kind, seed, steps):
    p = numbers(seed, 20, np.float32)
    opt = fastlr.SGD([p], lr=0.1, shadow=kind)
    ema = fastlr.EMA(opt)
    fastlr.save(tmp_path / "c", ema)
    for _ in range(steps):
        opt.step([numbers(seed + 1, 20, np.float32)])
        ema.update()
    fastlr.load(tmp_path / "c", ema)
    before = np.array(opt.shadow["0"])
    opt.cast()
    assert bits([before]) == bits([np.array(opt.shadow["0"])])


# A save that is killed at any line of it: in a process of its own, as a fork of one with threads may stop

KILLED_SAVES = """
import os, signal, sys
import numpy as np, fastlr
from fastlr._engine import file_replacement

folder, named = sys.argv[1], sys.argv[2] == "named"
if named:
    file_replacement.UNNAMED = 0
fastlr.set_num_threads(1)
path = os.path.join(folder, "saved")
opt = fastlr.Adam({"w": np.zeros((3, 500)).T, "b": np.zeros(7)}, ema_decay=0.9)
for _ in range(2):
    opt.step({"w": np.ones((500, 3)), "b": np.ones(7)})
    if opt.t == 1:
        fastlr.save(path, opt)

def kill_at(line):
    seen = 0
    def trace(frame, event, arg):
        nonlocal seen
        if os.path.basename(frame.f_code.co_filename) not in ("checkpoint.py", "container.py", "file_replacement.py"):
            return None
        seen += event == "line"
        if seen == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    fastlr.save(path, opt)
    os._exit(0)

line, renamed, killed, whole = 0, 0, True, fastlr.checkpoint.read_header(path)["t"]
while killed:
    line += 1
    child = os.fork()
    if not child:
        kill_at(line)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    other = fastlr.Adam({"w": np.zeros((3, 500)).T, "b": np.zeros(7)}, ema_decay=0.9)
    fastlr.load(path, other)
    assert other.t >= whole, (line, other.t, whole)
    whole = other.t
    assert other.t == 1 or all(np.array_equal(other.state[n][s], opt.state[n][s]) for n in "wb" for s in ("m", "v"))
    left = [name for name in os.listdir(folder) if name != "saved"]
    assert len(left) <= killed, (line, left)
    if left and not named:             # (it got its name when it was whole, and replaces the old one)
        fastlr.load(os.path.join(folder, left[0]), other)
        renamed += 1
assert line > 40 and whole == 2 and renamed <= 5, (line, whole, renamed)
fastlr.save(path, opt)
assert os.listdir(folder) == ["saved"]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["unnamed", "named"])
def test_a_save_that_is_killed_at_any_line_leaves_whole_files(tmp_path, kind):
    done = subprocess.run([sys.executable, "-c", KILLED_SAVES, str(tmp_path), kind], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Limits of control groups

limits = st.none() | st.tuples(st.integers(1_000, 10**7), st.sampled_from([50_000, 100_000, 250_000]))


@few
@given(st.lists(st.tuples(st.text("abcxyz.-_", min_size=1, max_size=5).filter(lambda name: set(name) != {"."}), limits),
                max_size=4), limits, st.booleans())
def test_every_group_that_contains_a_process_limits_its_cores(tmp_path, path, at_root, second_version):
    home = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    folder = home / "mounted" / ("" if second_version else "cpu,cpuacct")
    allowed = []
    for name, limit in [("", at_root), *path]:
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        if second_version:
            folder.joinpath("cpu.max").write_text(f"{limit[0]} {limit[1]}\n" if limit else "max 100000\n")
        else:
            folder.joinpath("cpu.cfs_quota_us").write_text(f"{limit[0] if limit else -1}\n")
            folder.joinpath("cpu.cfs_period_us").write_text(f"{limit[1] if limit else 100_000}\n")
        if limit:
            allowed.append(max(1, int(Fraction(*limit))))
    number, controllers = ("0", "") if second_version else ("7", "cpu,cpuacct")
    home.joinpath("cgroup").write_text(f"3:memory:/else\n{number}:{controllers}:/{'/'.join(name for name, _ in path)}\n")
    assert list(group_limits(str(home / "cgroup"), str(home / "mounted"))) == allowed[::-1]
