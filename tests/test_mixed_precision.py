"""Mixed precision: a 16-bit copy that follows a parameter, or the lower half of its float32."""
import re

import ml_dtypes
import numpy as np
import pytest
from registry import OPTIMIZERS, RULES, arrays, bits, every_dtype, every_optimizer, every_rule, snapshot

import fastlr
from fastlr._engine.arrays import BFloat16

BF16 = ml_dtypes.bfloat16
SHAPES = [(3, 4), (), (0,), (700,), (33_001,)]
LAYOUTS = {"rows": np.ascontiguousarray, "columns": np.asfortranarray,
           "strided": lambda a: np.repeat(a, 2, axis=0)[::2], "reversed": lambda a: a[::-1].copy()[::-1]}
every_layout = pytest.mark.parametrize("laid", LAYOUTS.values(), ids=LAYOUTS)
every_16 = pytest.mark.parametrize("kind", ["bfloat16", "float16"])


def rounded(p, kind):
    """p cast to 16 bits, to nearest, ties to even, by NumPy and ml_dtypes."""
    if p.dtype == np.float64 and kind == "bfloat16":
        part, exponent = np.frexp(p)                 # (ml_dtypes converts to float32 first, which rounds twice)
        p = np.ldexp(np.rint(part * 2**8), exponent - 8)
    return np.asarray(p).astype(BF16 if kind == "bfloat16" else np.float16)


# Copies

@every_optimizer
@every_dtype
@every_16
def test_a_shadow_is_the_parameter_cast_afterwards(cls, dtype, kind):
    params, others = arrays(dtype, SHAPES), arrays(dtype, SHAPES)
    params[0] = np.asfortranarray(params[0])
    opt, other = cls(params, shadow=kind, clip_norm=3.0, ema_decay=0.5), cls(others, clip_norm=3.0)
    assert list(opt.shadow) == ["0", "1", "2", "3", "4"]
    assert bits(opt.shadow.values()) == bits(rounded(p, kind) for p in params)
    for t in range(3):
        grads = arrays(dtype, SHAPES, t + 1)
        grads[t] = None
        opt.step(grads)
        other.step(grads)
        assert bits(opt.shadow.values()) == bits(rounded(p, kind) for p in params)
    assert bits(params) == bits(others)


@every_16
@every_layout
@pytest.mark.parametrize("threads", [1, 3])
def test_a_shadow_may_be_the_callers_of_any_layout(kind, laid, threads):
    fastlr.set_num_threads(threads)
    p = np.asfortranarray(arrays(np.float32, [(301, 223)])[0])
    given = laid(np.zeros(p.shape, np.uint16 if kind == "bfloat16" else np.float16))
    opt = fastlr.AdamW({"w": p}, shadow={"w": given})
    assert np.shares_memory(opt.shadow["w"], given)
    for t in range(2):
        opt.step({"w": arrays(np.float32, [p.shape], t)[0]})
        assert bits([given]) == bits([rounded(p, kind)])
    typed = np.zeros(p.shape, BF16)
    fastlr.SGD([p], shadow=[typed]).step([np.ones_like(p)])
    assert bits([typed]) == bits([p.astype(BF16)])


@every_16
def test_a_float64_is_rounded_once(kind):
    last = 2.0**-7 if kind == "bfloat16" else 2.0**-10
    tie = 1 + last / 2
    # (by way of float32 all of these would be ties; `tie + last` rounds to even upward)
    x = np.array([tie + 2.0**-40, tie - 2.0**-40, tie, tie + last + 2.0**-40, tie + last - 2.0**-40, -tie - 2.0**-40, 1e300,
                  -1e300, np.inf, -0.0, np.nan])
    want = np.array([1 + last, 1, 1, 1 + 2 * last, 1 + last, -1 - last, np.inf, -np.inf, np.inf, -0.0, np.nan])
    opt = fastlr.SGD([x], lr=1.0, shadow=kind)

    def seen():
        shadow = opt.shadow["0"]
        return (shadow.view(np.uint16).astype(np.uint32) << 16).view(np.float32) if kind == "bfloat16" else shadow
    np.testing.assert_array_equal(seen(), want)
    opt.shadow["0"][...] = 0
    opt.step([np.zeros_like(x)])
    np.testing.assert_array_equal(seen(), want)
    assert np.signbit(seen()[9])


def test_a_16_bit_or_split_parameter_has_a_shadow_of_what_it_stores():
    for keywords in ({}, {"master": "split"}):
        p = arrays(np.float32, [(500,)])[0].astype(BF16)
        opt = fastlr.AdamW([p], lr=0.1, shadow="float16", rounding="stochastic", **keywords)
        opt.step(arrays(np.float32, [(500,)], 1))
        assert bits(opt.shadow.values()) == bits([opt.master["0"].astype(np.float16)])


def test_a_shadow_follows_what_is_loaded(tmp_path):
    def fresh(seed):
        p = arrays(np.float32, [(40,)], seed)[0]
        return fastlr.Momentum({"w": p}, shadow="bfloat16"), p
    opt, p = fresh(0)
    opt.step({"w": np.ones(40, np.float32)})
    fastlr.save(tmp_path / "run", opt)
    other, q = fresh(1)
    fastlr.load(tmp_path / "run", other)
    assert bits(other.shadow.values()) == bits([p.astype(BF16)])
    q[...] = 3
    other.load_state_dict(opt.state_dict())
    assert bits(other.shadow.values()) == bits([q.astype(BF16)])
    q[...] = 5
    other.cast()
    assert bits(other.shadow.values()) == bits([q.astype(BF16)])
    assert set(opt.state["w"]) == {"m"}


def test_a_shadow_is_left_by_a_skipped_step_and_guarded():
    p = np.ones(3)
    opt = fastlr.SGD({"w": p}, shadow="bfloat16", nonfinite="skip")
    before = bits(opt.shadow.values())
    opt.step({"w": np.full(3, np.nan)})
    assert bits(opt.shadow.values()) == before
    small = np.ones(6, np.float32)
    shadow = np.zeros(6, np.float16)
    opt = fastlr.SGD({"w": small}, shadow={"w": shadow})
    with pytest.raises(ValueError, match="shares memory with parameter 'w' or its state, which the step writes"):
        opt.step({"w": shadow})
    opt.add_group({"b": np.ones(2)})
    assert set(opt.shadow) == {"w"}
    assert opt.shadow["w"] is shadow


@pytest.mark.parametrize(("shadow", "error", "says"), [
    ("int8", ValueError, "SGD: shadow must be 'bfloat16', 'float16' or 16-bit arrays, got 'int8'"),
    ({"w": np.zeros(6, np.float32)}, TypeError, "SGD: shadow of 'w': expected bfloat16 or float16, got float32"),
    ({"w": np.zeros(5, np.float16)}, ValueError, "SGD: shadow of 'w': expected shape (6,) like the parameter, got (5,)"),
    ({"v": "float16"}, ValueError, "SGD: shadow names no parameter: 'v'"),
    ({"w": np.broadcast_to(np.float16(1), 6)}, ValueError, "SGD: shadow of 'w': must be writable and its elements apart"),
    ({"w": np.lib.stride_tricks.as_strided(np.zeros(6, np.float16), (6,), (0,))}, ValueError, "its elements apart in memory"),
    ({"w": 3}, TypeError, "SGD: shadow of 'w': expected an array (NumPy, buffer protocol or DLPack), got int"),
])
def test_what_holds_no_shadow_is_refused(shadow, error, says):
    with pytest.raises(error, match=re.escape(says)):
        fastlr.SGD({"w": np.zeros(6, np.float32)}, shadow=shadow)


def test_shadows_and_parameters_share_no_memory():
    p = np.zeros(6, np.float32)
    with pytest.raises(ValueError, match="parameter 'w' and the shadow of 'w' share memory"):
        fastlr.SGD({"w": p}, shadow={"w": p.view(np.float16)[:6]})
    one = np.zeros(6, np.float16)
    with pytest.raises(ValueError, match="share memory; pass each once"):
        fastlr.SGD([p, p.copy()], shadow=[one, one])


# Split parameters

def halves_of(x):
    """The nearest bfloat16 of a float32, ties away from zero."""
    u = x.view(np.uint32)
    return np.where(np.isnan(x), (u >> 16 & 0x8000) | 0x7fc0, (u.astype(np.uint64) + 0x8000) >> 16).astype(np.uint16)


@every_rule
@every_layout
@pytest.mark.parametrize("keywords", [{}, {"state_dtype": "bfloat16", "clip_norm": 2.0, "ema_decay": 0.9},
                                      {"state_dtype": "float64", "weight_decay": 0.1}], ids=["plain", "stages", "is_double"])
def test_training_is_that_of_a_float32(cls, laid, keywords):
    p = laid(arrays(np.float32, [(211, 97)])[0].astype(BF16))
    q = np.asarray(p).astype(np.float32)
    small = np.float32([1, 2, 3])
    other_small = small.copy()
    opt, other = cls([p, small], master="split", **keywords), cls([q, other_small], **keywords)
    fastlr.set_num_threads(2)
    for t in range(6):                 # (one of them first moves at its fifth update)
        grads = [g.astype(BF16) for g in arrays(np.float32, [(211, 97), (3,)], t + 1)]
        opt.step(grads)
        other.step(grads)
        assert bits(opt.master.values()) == bits([q, other_small])
        assert bits([p]) == bits([halves_of(q)])
    assert (q.view(np.uint32) & 0xffff).any()
    for slot in cls.slots + (("ema",) if "ema_decay" in keywords else ()):
        assert bits([opt.state["0"][slot]]) == bits([other.state["0"][slot]])
    assert opt.state["0"]["remainder"].nbytes == 2 * p.size
    assert "remainder" not in opt.state["1"]


@pytest.mark.parametrize("cls", sorted(set(OPTIMIZERS) - set(RULES), key=lambda cls: cls.__name__))
def test_a_matrix_moves_as_a_float32(cls):
    p = arrays(np.float32, [(21, 17)])[0].astype(BF16)
    q = p.astype(np.float32)
    keywords = {"lr": 1e-3} | ({"matrix_eps": 0.1} if "matrix_eps" in cls.hypers else {})
    opt, other = cls([p], master="split", **keywords), cls([q], **keywords)
    for t in range(3):
        grads = arrays(np.float32, [(21, 17)], t + 1)
        opt.step(grads)
        other.step(grads)
        assert bits(opt.master.values()) == bits([q])
        assert bits([p]) == bits([halves_of(q)])


def test_every_float32_is_two_halves():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, 1 << 18, dtype=np.uint32).view(np.float32)
    edges = np.uint32([0, 1 << 31, 0x7f800000, 0xff800000, 0x7f7fffff, 0x7f7f8000, 0x7f7f7fff, 0x3f808000, 0x3f818000,
                       0x3f807fff, 0x00800000, 0x007fffff, 0x7f800001, 0x7fffffff, 0xffffffff])
    x = np.concatenate([x, edges.view(np.float32)])
    want = np.where(abs(x) < np.finfo(np.float32).tiny, 0, x)          # (kernels flush subnormal numbers)
    p = np.zeros(x.size, BF16)
    opt = fastlr.SGD([p], lr=1.0, master="split")
    opt.step([-x])
    got = opt.master["0"]
    assert ((got == want) | (np.isnan(got) & np.isnan(want))).all()
    assert bits([p]) == bits([halves_of(got)])
    before = bits([p, opt.state["0"]["remainder"]])
    opt.step([np.zeros_like(x)])
    assert bits([p, opt.state["0"]["remainder"]]) == before


def test_a_parameter_that_is_changed_keeps_its_remainder():
    p = np.zeros(70_000, BF16)
    opt = fastlr.SGD([p], lr=1.0, master="split")
    opt.step([-arrays(np.float32, [(70_000,)])[0]])
    rest = opt.state["0"]["remainder"].copy()
    p[...] = arrays(np.float32, [(70_000,)], 1)[0]
    p[::5], p[1::5], p[2::500] = 0, -0.0, np.inf
    want = np.asarray(p).astype(np.float32)
    for _ in range(2):
        got = opt.master["0"]
        finite = np.isfinite(want)
        assert (got[want == 0] == 0).all()
        assert (abs(got[~finite]) >= np.uint32(0x7f7f8000).view(np.float32)).all()     # what rounds to infinity
        assert (abs(got[finite] - want[finite]) <= abs(want[finite]) * 2.0**-8).all()
        opt.step([np.zeros(70_000, np.float32)])
    assert (opt.state["0"]["remainder"] == np.where(want == 0, 0, rest))[finite].all()
    opt.state["0"]["remainder"][...] = 0
    assert (opt.master["0"] == want).all()


@pytest.mark.parametrize("way", ["dict", "file"])
def test_split_parameters_are_saved_and_resumed_exactly(way, tmp_path):
    def fresh():
        p = arrays(np.float32, [(30, 7)])[0].astype(BF16)
        return fastlr.AdamW({"w": p}, lr=0.01, master="split"), p

    def steps(opt, first, last):
        for t in range(first, last):
            opt.step({"w": arrays(np.float32, [(30, 7)], t)[0]})
    opt, p = fresh()
    steps(opt, 0, 6)
    want = snapshot(opt, [p])
    for k in range(6):
        opt, p = fresh()
        steps(opt, 0, k)
        other, q = fresh()
        q[...] = 0
        if way == "file":
            fastlr.save(tmp_path / "run", opt)
            fastlr.load(tmp_path / "run", other)
        else:
            q[...] = p
            other.load_state_dict(opt.state_dict())
        assert bits(other.master.values()) == bits(opt.master.values())
        steps(other, k, 6)
        assert snapshot(other, [q]) == want
    with pytest.raises(ValueError, match=re.escape("state['w']: unknown entry 'remainder'")):
        fastlr.AdamW({"w": q}).load_state_dict(other.state_dict())


def test_the_type_of_a_split_parameters_array_does_not_matter():
    p = arrays(np.float32, [(50,)])[0].astype(BF16)
    others = [p.view(np.uint16).copy().view(BFloat16), p.view(np.uint16).copy(), p]
    made = [fastlr.AdamW([x], master="split", dtype="bfloat16") for x in others]
    for opt in made:
        opt.step(arrays(np.float32, [(50,)], 1))
    assert bits(others[:1]) == bits(others[1:2]) == bits(others[2:])
    assert len({opt.master["0"].tobytes() for opt in made}) == 1


@pytest.mark.parametrize(("params", "keywords", "says"), [
    ([np.zeros(3, np.float32)], {"master": "split"}, "master='split' needs bfloat16 parameters (wider ones beside them "
                                                     "stay whole), got float32"),
    ([np.zeros(3, BF16), np.zeros(3, np.float16)], {"master": "split"}, "got float16, which is no half of a float32"),
    ([np.zeros(3, BF16)], {"master": "float32"}, "SGD: master must be 'split' or None, got 'float32'"),
])
def test_what_cannot_be_split_is_refused(params, keywords, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        fastlr.SGD(params, **keywords)
