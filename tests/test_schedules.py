"""Schedules: over the registry, against mpmath."""
import copy
import doctest
import inspect
import json
import math
import pickle
import subprocess
import sys
import threading

import mpmath
import numpy as np
import pytest
import reference_schedules as reference
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from mpmath import mpf

from fastlr import schedules
from fastlr._engine import program
from fastlr.schedules.base import REGISTRY, Curve, Schedule
from fastlr.schedules.curves import (
    constant,
    cosine,
    exponential,
    geometric,
    inverse_time,
    linear,
    log_linear,
    step_based,
    step_decay,
    time_based,
)

CURVES = {name: cls for name, cls in REGISTRY.items() if issubclass(cls, Curve)}
LAST = 2**53

# The numbers of a curve, by the name of its argument.
rates = st.sampled_from([0.0, 1e-3, 0.1, 1.0]) | st.floats(1e-8, 100)
counts = st.integers(1, 20) | st.integers(1, 10**6) | st.just(LAST)
numbers = {
    "lr": rates,
    "final": rates,
    "decay": st.just(0.0) | st.floats(1e-12, 10),
    "drop": st.floats(0, 1),
    "factor": st.floats(0, 1) | st.floats(0.999, 1),
    "steps": counts,
    "every": counts,
    "staircase": st.booleans(),
    "cycle": st.booleans(),
    "timescale": st.floats(1e-3, 1e9),
    "power": st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0.1, 5),
    "slope": st.floats(-10, 10),
    "middle": st.floats(-1e6, 1e6),
    "d_model": st.integers(1, 10_000) | st.floats(1, 1e4),
    "warmup_steps": counts,
    "lower": st.floats(-20, 20),
    "upper": st.floats(-20, 20),
    "peak": rates,
    "up": counts,
    "down": counts,
    "cycle_factor": st.sampled_from([1.0, 2.0, 3.0]),
    "amplitude_factor": st.sampled_from([1.0, 0.5]) | st.floats(0, 1),
    "update_factor": st.just(1.0) | st.floats(0.9, 1),
    "end": st.just("hold"),
}
# (a fraction of an update so small that t / steps underflows has no digits to ask for)
times = st.integers(0, 40) | st.integers(0, 10**6) | st.integers(0, LAST) | st.floats(1e-280, 1e6)
edges = [0, 1, 2, 15, 16, 17, 10**9, LAST, 1e300, math.inf, 10**400]

# One of each, and of each composition.
s, r = cosine(0.1, steps=100, final=0.01), linear(0.5, steps=30)
EXAMPLES = {
    "constant": constant(0.1),
    "exponential": exponential(0.1, decay=1e-2),
    "geometric": geometric(0.1, factor=0.99),
    "step_decay": step_decay(0.1, every=10),
    "step_based": step_based(0.1, drop=0.5, every=10),
    "inverse_time": inverse_time(0.1, decay=0.5, every=7, staircase=True),
    "linear": r,
    "log_linear": log_linear(1e-5, steps=50, final=1.0),
    "cosine": s,
    "time_based": time_based(0.1, decay=1e-3),
    "inverse_sqrt": schedules.inverse_sqrt(0.1, timescale=20),
    "inverse_power": schedules.inverse_power(0.1, decay=0.1, power=0.75),
    "noam": schedules.noam(512, warmup_steps=12),
    "sigmoid": schedules.sigmoid(0.1, slope=-0.2, middle=15),
    "polynomial": schedules.polynomial(0.1, steps=20, power=2.0, final=0.01, cycle=True),
    "one_minus_sqrt": schedules.one_minus_sqrt(0.1, steps=50, final=0.01),
    "one_minus_square": schedules.one_minus_square(0.1, steps=50, final=0.01),
    "rex": schedules.rex(0.1, steps=50, final=0.01),
    "tanh": schedules.tanh(0.1, steps=50, final=0.01, lower=-4),
    "triangular": schedules.triangular(0.01, peak=0.1, up=3, down=5, amplitude_factor=0.7,
                                      update_factor=0.99),
    "triangular2": schedules.triangular2(0.01, peak=0.1, up=5),
    "triangular_exp": schedules.triangular_exp(0.01, peak=0.1, up=5, factor=0.9),
    "sine": schedules.sine(0.01, peak=0.1, steps=6, amplitude_factor=0.7, update_factor=0.99),
    "sine2": schedules.sine2(0.01, peak=0.1, steps=6),
    "sine_exp": schedules.sine_exp(0.01, peak=0.1, steps=6, factor=0.9),
    "cosine_wave": schedules.cosine_wave(0.01, peak=0.1, steps=6, amplitude_factor=0.7, update_factor=0.99),
    "cosine_wave2": schedules.cosine_wave2(0.01, peak=0.1, steps=6),
    "cosine_wave_exp": schedules.cosine_wave_exp(0.01, peak=0.1, steps=6, factor=0.9),
    "saw": schedules.saw(0.1, steps=9, final=0.01, amplitude_factor=0.7, update_factor=0.99),
    "saw2": schedules.saw2(0.1, steps=9, final=0.01),
    "saw_exp": schedules.saw_exp(0.1, steps=9, factor=0.9, final=0.01),
    "sine_saw": schedules.sine_saw(0.1, steps=9, final=0.01, amplitude_factor=0.7, update_factor=0.99),
    "sine_saw2": schedules.sine_saw2(0.1, steps=9, final=0.01),
    "sine_saw_exp": schedules.sine_saw_exp(0.1, steps=9, factor=0.9, final=0.01),
    "cosine_restarts": schedules.cosine_restarts(0.1, 4, 0.01, cycle_factor=2, amplitude_factor=0.7,
                                                 update_factor=0.99),
    "piecewise_constant": schedules.piecewise_constant([0.1, 0.2, 0.01], at=[5, 9]),
    "piecewise_linear": schedules.piecewise_linear([0.1, 0.2, 0.01], at=[5, 9]),
    "wsd": schedules.wsd(0.1, 5, 10, 20, final=0.01, shape="exponential"),
    "knee": schedules.knee(0.1, 10, 20, warmup_steps=3),
    "robbins_monro": schedules.robbins_monro(0.1, power=0.75, timescale=10),
    "range_test": schedules.range_test(1e-5, final=1.0, steps=40),
    "one_cycle": schedules.one_cycle(0.1, steps=50, three_phase=True),
    "one_cycle_momentum": schedules.one_cycle_momentum(50, three_phase=True),
    "k_decay": s.k_decay(100, k=2),
    "noise": s.noise(0.5, seed=2**64 - 1),
    "join": schedules.join([s, r, s], at=[10, 20]),
    "warmup": (s * r).warmup(10, start=0.001, kind="exponential"),
    "shift": s.shift(-5),
    "every": (s * 2.0).every(4),
    "clip": s.clip(0.02, 0.09),
    "scale": s * 0.5,
    "product": s * (r * s),
}
each = pytest.mark.parametrize("name", sorted(REGISTRY))
each_curve = pytest.mark.parametrize("name", sorted(CURVES))


CYCLES = {"triangular", "sine", "cosine_wave", "saw", "sine_saw", "cosine_restarts"}


def drawn(data, name):
    """A curve with any numbers it may have."""
    cls = CURVES[name]
    arguments = {k: data.draw(numbers[k], label=k) for k in cls._fields}
    if name == "log_linear":
        arguments["lr"], arguments["final"] = arguments["lr"] or 0.5, arguments["final"] or 0.5
    return cls(**arguments)


def arguments_of(schedule):
    return dict(zip(type(schedule)._fields, schedule._values, strict=True))


def exact(schedule, t):
    arguments = {k: v for k, v in arguments_of(schedule).items() if k != "end"}
    with mpmath.workprec(2500 if t < 1e-30 else 250):      # 1 - t / steps
        return getattr(reference, type(schedule).__name__)(
            mpf(t), **{k: v if isinstance(v, bool) else mpf(v) for k, v in arguments.items()}
        )


def ulps(got, want):
    return float(abs(mpf(got) - want) / math.ulp(float(want)))


def bits(array):
    return np.asarray(array, dtype=float).view(np.int64).tolist()


class TestValues:
    # In ulps of the rate: each operation rounds once, pow and exp err by less than one, and the condition of
    # the formula magnifies what came before.
    LIMITS = {
        "constant": 0,
        "exponential": 3,         # the argument's rounding is given back
        "geometric": 2,
        "step_decay": 2,
        "step_based": 2,
        "inverse_time": 4,        # four roundings
        "linear": 3,
        "log_linear": 50,         # p errs by 1e-16, and ln(100 / 1e-8) = 23 magnifies that, twice
        "cosine": 6,              # the sine's argument has three roundings, the square doubles them
        "time_based": 1e-12 / 2**-53,
        "inverse_sqrt": 3,
        "inverse_power": 4,       # the base's rounding is given back
        "noam": 4,
        "sigmoid": 3,             # plus what the rounding of the exponent costs, below
        "polynomial": 16,         # the base has two roundings, up to 5 times magnified, and again for 1 - w
        "one_minus_sqrt": 6,
        "one_minus_square": 6,
        "rex": 5,
        "tanh": 120,              # an exponent of up to 40 with three roundings
    }

    # The cycles promise that of the larger of their two rates: there the smaller one's digits are of no use.
    OF_THE_LARGER = {
        "triangular": 6, "sine": 7, "cosine_wave": 8, "saw": 6, "sine_saw": 7,
        "cosine_restarts": 40,    # where a cycle begins is a sum of powers
    }

    @pytest.mark.parametrize("name", sorted(CYCLES))
    @settings(max_examples=120, deadline=None)
    @given(data=st.data())
    def test_cycles_follow_the_reference(self, name, data):
        curve, t = drawn(data, name), data.draw(times, label="t")
        high = max(curve.lr, curve.peak if "peak" in curve._fields else curve.final)
        error = abs(mpf(curve(t)) - exact(curve, t))
        assert error <= self.OF_THE_LARGER[name] * math.ulp(high) + mpf(1e-300)

    @pytest.mark.parametrize("name", sorted(set(CURVES) - CYCLES))
    @settings(max_examples=120, deadline=None)
    @given(data=st.data())
    def test_follows_the_reference(self, name, data):
        curve, t = drawn(data, name), data.draw(times, label="t")
        if name == "time_based":
            t = min(t, 10**6)
        want, got = exact(curve, t), curve(t)
        if want < 1e-290:
            assert got < 1.001e-290          # where digits are lost to underflow
        else:
            limit = self.LIMITS[name]
            if name == "sigmoid":
                limit += 3 * abs(curve.slope * (t - curve.middle))
            assert ulps(got, want) <= limit

    def test_a_rising_polynomial_keeps_its_digits_to_the_end_of_a_cycle(self):
        curve = schedules.polynomial(0.0, steps=58, power=0.1015625, final=0.001, cycle=True)
        for t in (27493, 27516, 27549):
            assert ulps(curve(t), exact(curve, t)) <= self.LIMITS["polynomial"]

    @staticmethod
    def other(x):
        return x + 3 if x >= 1 else x / 2 if x > 0 else x + 1

    @each_curve
    def test_every_argument_matters(self, name):
        curve = EXAMPLES[name]
        for k, field in type(curve)._fields.items():
            if not field.in_struct:
                continue
            given = curve.to_dict()
            given[k] = not given[k] if isinstance(given[k], bool) else self.other(given[k])
            assert (schedules.from_dict(given)(np.arange(25)) != curve(np.arange(25))).any(), k

    @each_curve
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_is_a_rate_at_every_time(self, name, data):
        curve = drawn(data, name)
        for t in edges:
            assert 0 <= curve(t) < math.inf

    def test_the_three_formulas_of_the_literature(self):
        lr, d, drop, every = 0.1, 0.01, 0.5, 10
        eta = lr
        for n in range(300):
            assert schedules.time_based(lr, d)(n) == pytest.approx(eta, rel=1e-13)
            eta = eta / (1 + d * n)
            assert schedules.step_based(lr, drop, every)(n) == lr * drop ** math.floor((1 + n) / every)
            assert schedules.exponential(lr, d)(n) == pytest.approx(lr * math.exp(-d * n), rel=1e-15)

    def test_where_the_step_formulas_differ(self):
        assert [step_based(1.0, 0.5, 3)(n) for n in range(7)] == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
        assert [step_decay(1.0, 3, 0.5)(n) for n in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]

    def test_staircase_is_every(self):
        t = np.arange(100)
        stairs = inverse_time(0.1, 0.3, every=7, staircase=True)
        assert bits(stairs(t)) == bits(inverse_time(0.1, 0.3).every(7)(t))

    @pytest.mark.parametrize("cls", [
        linear, log_linear, cosine, schedules.polynomial, schedules.one_minus_sqrt, schedules.one_minus_square,
        schedules.rex,
    ])
    @settings(max_examples=100, deadline=None)
    @given(lr=st.floats(1e-8, 100), final=st.floats(1e-8, 100), steps=counts)
    def test_finite_curves_begin_and_end_exactly(self, cls, lr, final, steps):
        more = {"power": 1.5} if cls is schedules.polynomial else {}
        curve = cls(lr, steps=steps, final=final, **more)
        assert curve(0) == lr
        after = (steps, steps + 1, 2 * steps, 1e9 + steps, LAST, 1e300, math.inf)
        assert {curve(t) for t in after} == {final}
        near = curve(steps - 1)
        assert min(lr, final) * (1 - 1e-14) <= near <= max(lr, final) * (1 + 1e-14)

    @pytest.mark.parametrize("cls", [linear, cosine])
    def test_the_last_rates_keep_their_digits(self, cls):
        curve = cls(0.1, steps=10**6)
        for t in range(10**6 - 20, 10**6):
            assert ulps(curve(t), exact(curve, t)) <= TestValues.LIMITS[cls.__name__]

    def test_whole_floats_and_numpy_scalars_are_numbers(self):
        want = cosine(0.5, steps=10)
        assert cosine(np.float32(0.5), steps=np.int16(10)) == want == cosine(0.5, steps=1e1)
        for t in (3, 3.0, np.int64(3), np.float32(3), np.uint8(3), np.float64(3), np.float16(3)):
            assert want(t) == want(3.0)
            assert type(want(t)) is float


class TestPowers:
    """The core's own power: half an ulp, and a thirtieth for its exponential and the logarithm's end."""

    @staticmethod
    def power(base, exponent):
        return geometric(1.0, factor=base)(exponent)

    @settings(max_examples=400, deadline=None)
    @given(
        base=st.floats(1e-300, 1) | st.floats(1, 1e300) | st.floats(-40, -1).map(lambda x: 1 - 2**x)
        | st.floats(-40, 0).map(lambda x: 1 + 2**x),
        part=st.floats(0, 1),
        is_whole=st.booleans(),
    )
    @example(base=math.nextafter(1, 0), part=1.0, is_whole=True)
    @example(base=math.nextafter(1, 2), part=1.0, is_whole=False)
    @example(base=0.5, part=1.0, is_whole=True)
    def test_is_as_good_as_the_best(self, base, part, is_whole):
        last = 1000 / abs(math.log2(base)) if base != 1 else 1e9
        exponent = float(math.floor(part * last)) if is_whole else part * last
        assert ulps(self.power(base, exponent), mpf(base) ** mpf(exponent)) < 0.54

    def test_every_entry_of_the_table(self):
        for k in range(-320, 320):
            assert ulps(self.power(2.0, k / 32) if k > 0 else self.power(0.5, -k / 32), mpf(2) ** (mpf(k) / 32)) < 0.51

    def test_exact_where_a_double_can_be(self):
        for base, last in ((0.5, 1074), (2.0, 1023), (3.0, 33), (10.0, 22), (0.25, 537), (1.0, 10**9), (7.0, 18)):
            assert [self.power(base, k) for k in range(min(last + 1, 2000))] == [
                base**k for k in range(min(last + 1, 2000))
            ]
        assert self.power(1.5, 0) == 1 and self.power(0.0, 0) == 1 and self.power(0.0, 1e-300) == 0
        assert self.power(1.0, 1e308) == 1 and self.power(math.nextafter(1, 0), 1e308) == 0
        assert self.power(5e-324, 1.0) == 5e-324 and self.power(5e-324, 0.5) == 2.0**-537

    def test_falls_into_the_subnormal_numbers(self):
        for t in (1022.5, 1050.3, 1073.9):
            assert abs(mpf(self.power(0.5, t)) - mpf(0.5) ** mpf(t)) <= mpf(5e-324)
        assert self.power(0.5, 1076) == 0

    @settings(max_examples=300, deadline=None)
    @given(x=st.floats(5e-324, 1.7e308) | st.floats(-52, -1).map(lambda e: 1 + 2.0**e))
    def test_the_logarithm_that_is_kept(self, x):
        high, low = program.binary_logarithm(x)
        want = mpmath.log(mpf(x), 2)
        assert abs(mpf(high) + mpf(low) - want) <= abs(want) * mpf(2) ** -76
        assert high == 0 or math.frexp(high)[0] * 2**26 % 1 == 0

    @pytest.mark.parametrize("power, limit", [(1.0, 2), (2.0, 3), (3.0, 4), (0.5, 2), (0.75, 2), (1.7, 3)])
    def test_powers_of_what_changes(self, power, limit):
        curve = schedules.inverse_power(1.0, decay=0.25, power=power)           # whose base is exact here
        for t in range(0, 4000, 7):
            assert ulps(curve(t), exact(curve, t)) <= limit


class TestTimeBased:
    def relative_error(self, decay, n):
        curve = time_based(0.1, decay)
        want = exact(curve, n)
        assert want > 1e-300
        return float(abs(mpf(curve(n)) - want) / want)

    @settings(max_examples=500, deadline=None)
    @given(
        exponent=st.floats(-14, 6) | st.floats(-300, -14),
        part=st.floats(0, 1),
    )
    @example(exponent=-12.0, part=1.0)
    @example(exponent=-300.0, part=1.0)
    @example(exponent=math.log10(1 / 16), part=1.0)
    @example(exponent=6.0, part=1.0)
    def test_one_part_in_a_million_million(self, exponent, part):
        decay = 10.0**exponent
        # up to t = 1e6, or to where the rate is about 1e-290
        last = min(10**6, 1 + math.sqrt(1330 / decay) if decay < 1e-4 else self.last(decay))
        assert self.relative_error(decay, int(part * last)) < 1e-12

    @staticmethod
    def last(decay):
        n, log = 0, 0.0
        while log < 660:
            log += math.log1p(decay * n)
            n += 1
        return n - 1

    @pytest.mark.parametrize("decay", [1 / 16, math.nextafter(1 / 16, 0), math.nextafter(1 / 16, 1), 1, 1e6])
    def test_where_its_cases_meet(self, decay):
        for n in range(min(40, self.last(decay))):
            assert self.relative_error(decay, n) < 1e-13          # of a logarithm of up to 660

    def test_the_first_two_rates_are_lr(self):
        for decay in (0.0, 5e-324, 1e-300, 1e-12, 0.1, 1.0, 1e6, 1e308):
            assert time_based(0.3, decay)([0, 1, 1.5]).tolist() == [0.3, 0.3, 0.3]

    def test_no_decay_is_constant_and_a_large_one_vanishes(self):
        t = [0, 1, 17, 1e6, LAST, 1e300, math.inf]
        assert time_based(0.3, 0.0)(t).tolist() == [0.3] * 7
        assert time_based(0.3, 5e-324)(t[:5]).tolist() == [0.3] * 5
        for decay in (1e-3, 1.0, 1e6, 1e308):
            assert time_based(0.3, decay)(t)[4:].tolist() == [0, 0, 0]

    def test_never_rises(self):
        for decay in (1e-12, 1e-6, 1e-3, 1 / 16, 0.07, 1.0):
            falls = time_based(1.0, decay)(np.arange(5000))
            assert (np.diff(falls) <= 1e-13 * falls[:-1]).all()


class TestArrays:
    @each
    @settings(max_examples=25, deadline=None)
    @given(t=st.lists(times, min_size=1, max_size=30))
    def test_an_array_gives_what_its_numbers_give(self, name, t):
        schedule = EXAMPLES[name]
        assert bits(schedule(np.array(t, dtype=float))) == bits([schedule(float(x)) for x in t])

    @each_curve
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_with_any_numbers(self, name, data):
        curve, t = drawn(data, name), data.draw(st.lists(times, min_size=1, max_size=30))
        assert bits(curve(np.array(t, dtype=float))) == bits([curve(float(x)) for x in t])

    @pytest.mark.parametrize("name", sorted(EXAMPLES))
    def test_stretches_of_every_length_and_order(self, name):
        """Through the blocks of 64, over joins in both directions, with times that no double can count."""
        schedule, rng = EXAMPLES[name], np.random.default_rng(0)
        t = np.concatenate([
            np.arange(150.0), np.arange(150.0)[::-1], rng.uniform(0, 60, 97), 10.0 ** rng.uniform(0, 308, 40),
            [math.inf, 0.0, 2.0**52, 2.0**52 + 1, 2.0**53, 1e300], rng.permutation(np.arange(64.0) / 4),
        ])
        want = bits([schedule(x) for x in t])
        for begin, end in ((0, len(t)), (0, 1), (1, 64), (1, 65), (1, 66), (63, 64 + 63), (3, 300)):
            assert bits(schedule(t[begin:end])) == want[begin:end]

    @pytest.mark.parametrize("factor", [
        math.nextafter(1, 2), 1 + 1e-14, 1 + 1e-9, 1.01, 1.1, 1.5, 2.0, 3.0, 999.0,
    ])
    def test_restarts_that_grow(self, factor):
        """Which cycle it is does not depend on what was asked before; every cycle begins at the top."""
        curve = schedules.cosine_restarts(1.0, steps=5, cycle_factor=factor)
        t = np.concatenate([np.arange(500.0), np.arange(500.0)[::-1], 10.0 ** np.arange(309), [math.inf]])
        rates = curve(t)
        assert bits(rates) == bits([curve(x) for x in t])
        assert ((rates >= 0) & (rates <= 1)).all() and curve(0) == 1
        if factor == int(factor):
            begins = [5 * (int(factor) ** c - 1) // (int(factor) - 1) for c in range(12)]
            assert curve(np.array([b for b in begins if b < 2**50])).tolist() == [1.0] * sum(b < 2**50 for b in begins)

    def test_shape_dtype_and_order_of_memory_do_not_matter(self):
        t = np.arange(24).reshape(2, 3, 4)
        want = np.array([s(int(x)) for x in t.ravel()]).reshape(t.shape)
        readonly = t.astype(float)
        readonly.flags.writeable = False
        dtypes = [t.astype(dtype) for dtype in ("f2", "f4", ">f8", "u1", "i8")]
        for form in (t, t.tolist(), *dtypes, np.asfortranarray(t), readonly):
            got = s(form)
            assert got.dtype == np.float64
            assert got.tolist() == want.tolist()
        assert s(t[:, ::-2, ::3]).tolist() == want[:, ::-2, ::3].tolist()
        assert s(range(3)).tolist() == want.ravel()[:3].tolist()
        assert s([]).shape == (0,)
        assert s(np.zeros((3, 0), int)).shape == (3, 0)
        assert s(np.array(7)).shape == () and s(np.array(7)) == s(7)

    def test_the_argument_is_not_changed_and_not_returned(self):
        t = np.arange(5.0)
        got = constant(1.0)(t)
        assert t.tolist() == [0, 1, 2, 3, 4] and not np.shares_memory(got, t)

    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_long_arrays_are_shared_out_and_give_the_same_bits(self, threads):
        import fastlr

        fastlr.set_num_threads(threads)
        for name, schedule in EXAMPLES.items():
            t = np.arange(70_001) % 97
            once = schedule(np.arange(97.0))
            assert bits(schedule(t)) == bits(once[t]), name

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("where", [[0], [16_383], [16_384], [99_999], [60_000, 20_000, 99_999]])
    def test_the_first_refusal_of_a_long_array_is_the_one_that_is_told(self, where, threads):
        import fastlr

        fastlr.set_num_threads(threads)
        t = np.arange(100_000.0)
        t[where] = -5
        with pytest.raises(ValueError, match=rf"^cosine: t must be >= 0, got -5.0 at t\[{min(where)}\]$"):
            s(t)

    def test_threads_may_share_one(self):
        t, results = np.arange(100_000.0), [None] * 4
        def work(i):
            results[i] = s(t)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(bits(result) == bits(results[0]) for result in results)


class TestValueSemantics:
    @each
    def test_there_is_an_example_of_every_schedule(self, name):
        assert type(EXAMPLES[name]).__name__ == name

    @each
    def test_round_trips(self, name):
        schedule, t = EXAMPLES[name], np.arange(150)
        namespace = {k: getattr(schedules, k) for k in schedules.__all__}
        for back in (
            eval(repr(schedule), namespace),
            schedules.from_dict(schedule.to_dict()),
            schedules.from_dict(json.loads(json.dumps(schedule.to_dict(), allow_nan=False))),
            schedules.create_schedule(name, **arguments_of(schedule)),
            *(pickle.loads(pickle.dumps(schedule, k)) for k in range(pickle.HIGHEST_PROTOCOL + 1)),
            copy.copy(schedule),
            copy.deepcopy(schedule),
        ):
            assert back == schedule and hash(back) == hash(schedule) and repr(back) == repr(schedule)
            assert bits(back(t)) == bits(schedule(t))

    @each_curve
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_curves_with_any_numbers_round_trip(self, name, data):
        curve = drawn(data, name)
        assert eval(repr(curve), vars(schedules)) == curve == schedules.from_dict(curve.to_dict())

    def test_the_repr_is_the_call(self):
        assert repr(cosine(1e-3, 10_000)) == "cosine(lr=0.001, steps=10000, final=0.0, end='hold')"
        assert repr(constant(1).warmup(5)) == "constant(lr=1.0).warmup(steps=5, start=0.0, kind='linear')"
        assert repr(constant(1) * (constant(2) * 3)) == "constant(lr=1.0) * (constant(lr=2.0) * 3.0)"
        assert repr((constant(1) * 3).clip(0, 1)) == "(constant(lr=1.0) * 3.0).clip(lo=0.0, hi=1.0)"

    def test_equal_is_same_class_and_same_arguments(self):
        everything = list(EXAMPLES.values())
        assert len(set(everything)) == len(everything)
        assert all((a == b) == (a is b) for a in everything for b in everything)
        assert constant(0.0) == constant(-0.0) and repr(constant(-0.0)) == repr(constant(0.0))
        assert constant(1.0) != 1.0 and cosine(1, 5) != linear(1, 5)

    @each
    def test_cannot_be_changed(self, name):
        schedule = EXAMPLES[name]
        before = repr(schedule), bits(schedule(np.arange(20)))
        for attribute in [*type(schedule)._fields, "_values", "new"]:
            with pytest.raises(AttributeError, match=f"{name} is immutable"):
                setattr(schedule, attribute, 1)
            with pytest.raises(AttributeError, match=f"{name} is immutable"):
                delattr(schedule, attribute)
        schedule.__init__(1, 2, 3)
        with pytest.raises(TypeError, match=f"{name} is immutable"):
            schedule._become(constant(1.0))
        assert before == (repr(schedule), bits(schedule(np.arange(20))))

    @each
    def test_the_signature_is_the_class_body(self, name):
        cls = REGISTRY[name]
        assert list(inspect.signature(cls).parameters) == list(cls._fields)
        assert list(inspect.signature(EXAMPLES[name]).parameters) == ["t"]
        for k, p in inspect.signature(cls).parameters.items():
            assert f"\n    {k}: " in inspect.getdoc(cls)
            if p.default is not p.empty:
                assert cls._fields[k].default == p.default

    def test_the_attribute_beside_a_method_of_the_same_name(self):
        assert step_decay(1.0, every=3).interval == 3
        assert bits(step_decay(1.0, every=3).every(2)(range(20))) == bits(step_decay(1.0, every=6)(range(20)))

    @each
    def test_its_example_runs(self, name):
        finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
        tests = finder.find(REGISTRY[name], name, globs={"schedules": schedules})
        assert sum(len(test.examples) for test in tests) > 0
        for test in tests:
            assert runner.run(test).failed == 0

    def test_the_examples_of_the_functions_run(self):
        finder = doctest.DocTestFinder(recurse=False)
        for thing in (schedules, schedules.from_dict, schedules.create_schedule, schedules.list_schedules):
            for test in finder.find(thing, "it", globs={"schedules": schedules}):
                assert test.examples and doctest.DocTestRunner().run(test).failed == 0


class TestRegistry:
    def test_every_struct_of_the_roll_is_a_class_and_every_curve_a_struct(self):
        structs = {"".join(word.capitalize() for word in name.split("_")) for name in CURVES}
        assert structs == set(program.curve.__signatures__)

    def test_every_curve_has_a_reference_and_a_limit(self):
        assert set(TestValues.LIMITS) | set(TestValues.OF_THE_LARGER) == set(CURVES)
        assert all(callable(getattr(reference, name)) for name in CURVES)

    @each
    def test_is_public(self, name):
        assert getattr(schedules, name) is REGISTRY[name]
        assert name in schedules.__all__ and name in dir(schedules) and name in schedules.list_schedules()

    def test_patterns(self):
        assert schedules.list_schedules("step_*") == ["step_based", "step_decay"]
        assert schedules.list_schedules("no such") == []

    def test_a_class_that_its_struct_does_not_fit(self):
        from fastlr.schedules.declaration import rate

        with pytest.raises(TypeError, match="there is a schedule named 'cosine' already"):
            type("cosine", (Curve,), {})
        with pytest.raises(TypeError, match=r"nowhere: curves.pxd has no struct Nowhere in its roll"):
            type("nowhere", (Curve,), {})
        saved = REGISTRY.pop("constant")
        try:
            with pytest.raises(TypeError, match=r"declares \['lr', 'more'\], the struct Constant \['lr'\]"):
                type("constant", (Curve,), {"lr": rate(), "more": rate()})(1, 1)
            with pytest.raises(ValueError, match="'lr'"):
                del REGISTRY["constant"]
                type("constant", (Curve,), {})()
        finally:
            REGISTRY["constant"] = saved
        assert "nowhere" not in REGISTRY

    def test_the_abstract_ones_cannot_be_made(self):
        for cls in (Schedule, Curve):
            with pytest.raises(TypeError, match="is abstract"):
                cls()

    def test_importing_does_not_bring_the_heavy_ones(self):
        heavy = "{'inspect', 'difflib', 'matplotlib', 'ast', 'torch', 'fastlr.schedules.interchange'}"
        code = (
            "import sys, numpy; before = set(sys.modules); import fastlr.schedules; "
            f"print(sorted({heavy} & (set(sys.modules) - before)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestComposition:
    t = np.arange(300)

    def test_join_follows_its_pieces(self):
        pieces, at = [s, r, constant(0.3), s], [5, 6, 100]
        whole = schedules.join(pieces, at=at)
        for t in self.t:
            i = sum(t >= b for b in at)
            assert whole(t) == pieces[i](t - ([0, *at][i]))

    @settings(max_examples=100, deadline=None)
    @given(lengths=st.lists(st.integers(1, 9), max_size=40))
    def test_join_of_any_number(self, lengths):
        at = np.cumsum(lengths, dtype=int).tolist()
        pieces = [linear(i + 1.0, steps=9) for i in range(len(at) + 1)]
        want = [pieces[i](t - start) for i, start in enumerate([0, *at]) for t in range(start, [*at, 400][i])]
        assert schedules.join(pieces, at=at)(range(400)).tolist() == want

    def test_then_is_join(self):
        assert s.then(r, at=10) == schedules.join([s, r], at=[10])
        assert s.then(r, at=10).then(s, at=20) == schedules.join([s, r, s], at=[10, 20])
        nested = s.then(r, at=10).then(s, at=7)
        assert nested(self.t).tolist() == s.then(s, at=7)(self.t).tolist()
        again = s.then(r, at=10).then(s, at=10)
        assert again(self.t).tolist() == s.then(s, at=10)(self.t).tolist()

    @pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
    def test_warmup_rises_then_follows(self, kind):
        warm = s.warmup(20, start=0.001, kind=kind)
        assert warm(0) == 0.001 and warm(20) == s(0)
        assert (np.diff(warm(range(21))) > 0).all()
        assert warm(self.t)[20:].tolist() == s(self.t)[:-20].tolist()
        middle = {"linear": (0.1 + 0.001) / 2, "cosine": (0.1 + 0.001) / 2, "exponential": 1e-2}
        assert warm(10) == pytest.approx(middle[kind], rel=1e-14)

    def test_warmup_from_nothing_is_the_default(self):
        assert s.warmup(4) == s.warmup(4, start=0.0, kind="linear")
        assert s.warmup(4)(range(5)).tolist() == [0, 0.025, 0.05, pytest.approx(0.075), 0.1]
        assert s.warmup(1)(range(2)).tolist() == [0, 0.1]

    def test_as_optax_counts_the_warmup_in(self):
        peak, warm, total = 1.0, 10, 50
        got = cosine(peak, steps=total - warm).warmup(warm)
        for t in range(total + 5):
            p = min((t - warm) / (total - warm), 1)
            want = t / warm if t < warm else (1 + math.cos(math.pi * p)) / 2
            assert got(t) == pytest.approx(want, abs=1e-15)

    def test_product_and_scale(self):
        assert bits((s * r)(self.t)) == bits(s(self.t) * r(self.t)) == bits((r * s)(self.t))
        assert bits((s * 0.5)(self.t)) == bits(0.5 * s(self.t))
        assert s * 0.5 == 0.5 * s == np.float64(0.5) * s == s * np.float32(0.5)

    def test_clip(self):
        assert bits(s.clip(0.02, 0.09)(self.t)) == bits(s(self.t).clip(0.02, 0.09))
        assert geometric(1e-6, factor=2.0).clip(0, 1)(1e300) == 1

    def test_shift(self):
        assert s.shift(7)(self.t).tolist() == [s(max(t - 7, 0)) for t in self.t]
        assert s.shift(-7)(self.t).tolist() == s(self.t + 7).tolist()
        assert s.shift(0)(self.t).tolist() == s(self.t).tolist()

    def test_every(self):
        assert s.every(3)(self.t).tolist() == s(self.t // 3).tolist()
        assert s.every(3)(5.9) == s(1)

    def test_end_is_an_error_only_where_it_is_asked(self):
        strict = cosine(0.1, steps=10, end="error")
        assert strict(10) == 0
        where = r"t=11 is past the end of a schedule with end=\"error\""
        with pytest.raises(ValueError, match="^cosine: " + where):
            strict(11)
        with pytest.raises(ValueError, match=r'^cosine: t=11.5 at t\[1\] is past the end'):
            strict([0, 11.5])
        assert strict.then(s, at=11)(11) == s(0)
        with pytest.raises(ValueError, match=r"^warmup: t=16 is past the end"):
            strict.warmup(5)(16)
        product, again = strict * s, s * strict
        for made in (strict * 0.0, product, again, strict.clip(0, 1), strict.shift(0), strict.every(1)):
            assert made(10) == 0
            with pytest.raises(ValueError, match=where):
                made(11)
        assert strict.shift(5)(15) == 0 and strict.every(5)(54) == 0

    def test_nesting_is_deep_enough_and_bounded(self):
        deep = s
        for _ in range(program.DEPTH - 1):
            deep = deep.clip(0.0, 1.0)
        assert deep.depth == program.DEPTH
        assert deep(3) == s(3)
        assert pickle.loads(pickle.dumps(deep)) == deep == eval(repr(deep), vars(schedules))
        assert schedules.from_dict(json.loads(json.dumps(deep.to_dict()))) == deep
        deeper = (lambda: deep * 1.0, lambda: deep.then(s, at=1), lambda: deep.warmup(1), lambda: s * deep)
        for too_much in deeper:
            with pytest.raises(ValueError, match="nested at most 100 deep"):
                too_much()
        hostile = s.to_dict()
        for _ in range(500):
            hostile = {"name": "scale", "schedule": hostile, "factor": 1.0}
        with pytest.raises(ValueError, match="nested at most 100 deep"):
            schedules.from_dict(hostile)

    def test_parts_are_bounded(self):
        big = s
        with pytest.raises(ValueError, match="at most 65536 parts, got 131071"):
            for _ in range(40):
                big = big * big
        chain = s
        for i in range(1, 500):
            chain = chain.then(r, at=i)
        assert chain.depth == 2 and chain(498.5) == r(0.5) and chain(520) == r(21)


class TestErrors:
    WRONG = {
        lambda: cosine(1, 0): "ValueError cosine: steps must be a positive integer, got 0",
        lambda: cosine(1, 2.5): "ValueError cosine: steps must be a positive integer, got 2.5",
        lambda: cosine(1, math.nan): "ValueError cosine: steps must be a positive integer, got nan",
        lambda: cosine(1, 2**53 + 1): f"ValueError cosine: steps must be a positive integer, got {2**53 + 1}",
        lambda: cosine(1, True): "TypeError cosine: steps must be a positive integer, got True",
        lambda: cosine(1, "10"): "TypeError cosine: steps must be a positive integer, got '10'",
        lambda: cosine(-1, 1): "ValueError cosine: lr must be a finite number >= 0, got -1",
        lambda: cosine(math.nan, 1): "ValueError cosine: lr must be a finite number >= 0, got nan",
        lambda: cosine(1, 1, math.inf): "ValueError cosine: final must be a finite number >= 0, got inf",
        lambda: cosine(None, 1): "TypeError cosine: lr must be a finite number >= 0, got None",
        lambda: cosine(True, 1): "TypeError cosine: lr must be a finite number >= 0, got True",
        lambda: cosine(np.True_, 1): "TypeError cosine: lr must be a finite number >= 0, got np.True_",
        lambda: cosine(1j, 1): "TypeError cosine: lr must be a finite number >= 0, got 1j",
        lambda: cosine(1, 1, end="stop"): "ValueError cosine: end must be 'hold' or 'error', got 'stop'",
        lambda: cosine(1, 1, end=1): "TypeError cosine: end must be 'hold' or 'error', got 1",
        lambda: cosine(1): "TypeError cosine: missing steps",
        lambda: cosine(): "TypeError cosine: missing lr, steps",
        lambda: cosine(1, 1, 1, "hold", 5): "TypeError cosine: takes at most 4 arguments, got 5",
        lambda: cosine(1, 1, lr=1): "TypeError cosine: lr was given twice",
        lambda: cosine(1, stepz=1): "TypeError cosine: unknown argument 'stepz' (did you mean 'steps'?)",
        lambda: time_based(1, -1e-9): "ValueError time_based: decay must be a finite number >= 0, got -1e-09",
        lambda: log_linear(0, 5, 1): "ValueError log_linear: lr must be a finite number > 0, got 0",
        lambda: inverse_time(1, 1, 1, 1): "TypeError inverse_time: staircase must be True or False, got 1",
        lambda: s.shift(0.5): "ValueError shift: n must be an integer, got 0.5",
        lambda: s.every(0): "ValueError every: k must be a positive integer, got 0",
        lambda: s.clip(2, 1): "ValueError clip: lo must be <= hi, got lo=2.0, hi=1.0",
        lambda: s * -1: "ValueError scale: factor must be a finite number >= 0, got -1",
        lambda: s * None: "TypeError unsupported operand type(s) for *: 'cosine' and 'NoneType'",
        lambda: s.warmup(0): "ValueError warmup: steps must be a positive integer, got 0",
        lambda: s.warmup(1, -1): "ValueError warmup: start must be a finite number >= 0, got -1",
        lambda: s.warmup(1, 0, "quick"):
            "ValueError warmup: kind must be 'linear' or 'exponential' or 'cosine', got 'quick'",
        lambda: s.warmup(1, kind="exponential"):
            "ValueError warmup: start must be > 0 for kind='exponential', got 0.0",
        lambda: constant(0).warmup(1, 1, "exponential"):
            "ValueError warmup: the schedule's first rate must be > 0 for kind='exponential', got 0.0",
        lambda: schedules.warmup(0.1, 5): "TypeError warmup: schedule must be a schedule, got 0.1",
        lambda: s.then(0.1, at=1):
            f"TypeError join: schedules must be a sequence of schedules, got ({s!r}, 0.1)",
        lambda: schedules.join([], at=[]):
            "ValueError join: schedules must be a sequence of schedules, got []",
        lambda: schedules.join([s], at=[1]):
            "ValueError join: at must have one entry fewer than schedules, got 1 for 1",
        lambda: schedules.join([s, s, s], at=[2, 2]):
            "ValueError join: at must be a strictly increasing sequence of positive integers, got [2, 2]",
        lambda: s.then(s, at=0):
            "ValueError join: at must be a strictly increasing sequence of positive integers, got (0,)",
        lambda: s.then(s, at="1"):
            "TypeError join: at must be a strictly increasing sequence of positive integers, got ('1',)",
        lambda: s(-1): "ValueError cosine: t must be >= 0, got -1",
        lambda: s(-1e-300): "ValueError cosine: t must be >= 0, got -1e-300",
        lambda: s(-(10**400)): f"ValueError cosine: t must be >= 0, got -1{'0' * 400}",
        lambda: s(math.nan): "ValueError cosine: t must be >= 0, got nan",
        lambda: s(np.int8(-3)): "ValueError cosine: t must be >= 0, got -3",
        lambda: s.warmup(5)(-1): "ValueError warmup: t must be >= 0, got -1",
        lambda: s([[0, 1], [2, -3]]): "ValueError cosine: t must be >= 0, got -3 at t[1, 1]",
        lambda: s([0, math.nan]): "ValueError cosine: t must be >= 0, got nan at t[1]",
        lambda: s(np.array(-1)): "ValueError cosine: t must be >= 0, got -1",
        lambda: s(True): "TypeError cosine: t must be a number or an array of numbers, got True",
        lambda: s(np.True_): "TypeError cosine: t must be a number or an array of numbers, got np.True_",
        lambda: s("3"): "TypeError cosine: t must be a number or an array of numbers, got '3'",
        lambda: s(None): "TypeError cosine: t must be a number or an array of numbers, got None",
        lambda: s(["3"]): "TypeError cosine: t must be a number or an array of numbers, got ['3']",
        lambda: s(np.array([True])):
            "TypeError cosine: t must be a number or an array of numbers, got an array of bool",
        lambda: s(np.array([1j])):
            "TypeError cosine: t must be a number or an array of numbers, got an array of complex128",
        lambda: geometric(1, 2)(2000): "ValueError geometric: the rate at t=2000 is not a finite number",
        lambda: geometric(1, 2)([0, 2000]):
            "ValueError geometric: the rate at t=2000 at t[1] is not a finite number",
        lambda: schedules.from_dict(3): "ValueError a schedule must be a dict as to_dict() makes it, got 3",
        lambda: schedules.from_dict({}): "ValueError a schedule needs a 'name', got {}",
        lambda: schedules.from_dict({"name": "cosin"}):
            "ValueError unknown schedule 'cosin' (did you mean 'cosine'?)",
        lambda: schedules.from_dict({"name": "cosine", "stepz": 1, "lr": 1}):
            "ValueError cosine: unknown key 'stepz' (did you mean 'steps'?); missing key 'steps'",
        lambda: schedules.from_dict({"name": "cosine", "lr": {"name": "constant", "lr": 1}, "steps": 1}):
            "TypeError cosine: lr must be a finite number >= 0, got constant(lr=1.0)",
        lambda: schedules.create_schedule("liner"):
            "ValueError unknown schedule 'liner' (did you mean 'linear'?)",
    }

    @pytest.mark.parametrize("call, message", WRONG.items(), ids=WRONG.values())
    def test_message(self, call, message):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        assert f"{caught.type.__name__} {caught.value}" == message

    @each_curve
    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_every_bound_of_every_curve(self, name, data):
        cls = CURVES[name]
        k = data.draw(st.sampled_from(list(cls._fields)))
        wrong = data.draw(st.sampled_from([-1, -1e-300, math.nan, math.inf, -math.inf, "1", None, [1], b"1"]))
        allowed = {"a finite number": (-1, -1e-300), "a positive integer or None": (None,)}
        assume(wrong not in allowed.get(cls._fields[k].requirement, ()))
        with pytest.raises((TypeError, ValueError), match=f"^{name}: {k} must be "):
            schedules.create_schedule(name, **{**arguments_of(EXAMPLES[name]), k: wrong})

    def test_a_bare_program_has_no_rate(self):
        with pytest.raises(ValueError, match="not a finite number"):
            program.Program()(0)
        for build in (program.clip, program.limit):
            with pytest.raises(TypeError, match="expected a schedule"):
                build(program.Program(), *(0.0, 1.0)[: 2 if build is program.clip else 1])
        with pytest.raises(TypeError):
            program.product(None, s)


class TestPictures:
    def test_sparkline(self):
        assert linear(1.0, steps=7).sparkline(8) == "█▇▆▅▄▃▂▁"
        assert constant(0.1).sparkline(1000, width=5) == "█████"
        assert constant(0.0).sparkline(3) == "▁▁▁"
        assert len(s.sparkline(10_000)) == 60
        with pytest.raises(ValueError, match="sparkline: n must be a positive integer, got 0"):
            s.sparkline(0)
        with pytest.raises(ValueError, match="sparkline: width must be a positive integer, got 0"):
            s.sparkline(5, width=0)

    def test_plot(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("agg")
        from matplotlib import pyplot

        ax = s.plot(100)
        assert r.plot(50, ax=ax) is ax
        first, second = ax.get_lines()
        assert first.get_ydata().tolist() == s(range(100)).tolist()
        assert second.get_label() == repr(r)
        assert len(s.plot(10**7, ax=ax).get_lines()[-1].get_xdata()) == 5000
        with pytest.raises(ValueError, match="plot: n must be a positive integer, got -1"):
            s.plot(-1)
        pyplot.close("all")
