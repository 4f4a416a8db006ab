"""The rates of schedules, over the registry: against mpmath, at every time, in arrays, by the traced formulas."""
import math
import threading

import mpmath
import numpy as np
import pytest
import reference_schedules as reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mpmath import mpf
from schedule_examples import (
    CURVES,
    EXAMPLES,
    LAST,
    bits,
    counts,
    drawn,
    each,
    each_curve,
    edges,
    exact,
    s,
    times,
    ulps,
)

from fastlr import schedules
from fastlr._engine import compiled_schedule
from fastlr.schedules import (
    constant,
    cosine,
    geometric,
    inverse_time,
    linear,
    step_based,
    step_decay,
    time_based,
)
from fastlr.schedules.traced import traced

FINITE = {name for name, cls in CURVES.items() if cls.__module__ == "fastlr.schedules.finite"}


class TestValues:
    @each_curve
    @settings(max_examples=120, deadline=None)
    @given(data=st.data())
    def test_follows_the_reference(self, name, data):
        curve, t = drawn(data, name), data.draw(times, label="t")
        limit, of_the_larger = reference.CURVES[name][1:]
        if of_the_larger:
            high = max(curve.lr, curve.peak if "peak" in curve._fields else curve.final)
            assert abs(mpf(curve(t)) - exact(curve, t)) <= limit * math.ulp(high) + mpf(1e-300)
            return
        if name == "time_based":
            t = min(t, 10**6)
        want, got = exact(curve, t), curve(t)
        if want < 1e-290:
            assert got < 1.001e-290          # where digits are lost to underflow
        else:
            if name == "sigmoid":
                limit += 3 * abs(curve.slope * (t - curve.middle))
            assert ulps(got, want) <= limit

    def test_a_rising_polynomial_keeps_its_digits_to_the_end_of_a_cycle(self):
        curve = schedules.polynomial(0.0, steps=58, power=0.1015625, final=0.001, cycle=True)
        for t in (27493, 27516, 27549):
            assert ulps(curve(t), exact(curve, t)) <= reference.CURVES["polynomial"].ulps

    @pytest.mark.parametrize(("lr", "final"), [(0.0, 0.001), (0.1, 0.0)])
    def test_a_polynomial_keeps_its_digits_where_the_end_of_a_cycle_is_no_double(self, lr, final):
        curve = schedules.polynomial(lr, steps=362881, power=0.5, final=final, cycle=True)
        for t in (2**53 - 248795, 2**53 - 3, 3 * 2**53 - 4):
            assert ulps(curve(t), exact(curve, t)) <= reference.CURVES["polynomial"].ulps

    @pytest.mark.parametrize(("steps", "cycle"), [(17, 562949953421313), (1001, 17592186044417)])
    def test_a_quotient_that_is_rounded_up_begins_no_cycle(self, steps, cycle):
        curve, t = schedules.saw(1.0, steps=steps), cycle * steps - 1
        assert t / steps == cycle and float(t) == t
        assert curve(t) == curve(steps - 1) == 1 / steps

    @each_curve
    def test_every_argument_matters(self, name):
        curve = EXAMPLES[name]
        for k, field in type(curve)._fields.items():
            if not field.in_struct:
                continue
            given = curve.to_dict()
            x = given[k]
            given[k] = not x if isinstance(x, bool) else next(
                y for y in (x + 3 if x >= 1 else x / 2, x + 1, x / 2) if y != x and field.holds(y))
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

    @pytest.mark.parametrize("name", sorted(FINITE - {"tanh"}))            # (whose tangent is cut off)
    @settings(max_examples=100, deadline=None)
    @given(lr=st.floats(1e-8, 100), final=st.floats(1e-8, 100), steps=counts)
    def test_finite_curves_begin_and_end_exactly(self, name, lr, final, steps):
        more = {"power": 1.5} if name == "polynomial" else {}
        curve = CURVES[name](lr, steps=steps, final=final, **more)
        assert curve(0) == lr
        after = (steps, steps + 1, 2 * steps, 1e9 + steps, LAST, 1e300, math.inf)
        assert {curve(t) for t in after} == {final}
        near = curve(steps - 1)
        assert min(lr, final) * (1 - 1e-14) <= near <= max(lr, final) * (1 + 1e-14)

    @pytest.mark.parametrize("cls", [linear, cosine])
    def test_the_last_rates_keep_their_digits(self, cls):
        curve = cls(0.1, steps=10**6)
        for t in range(10**6 - 20, 10**6):
            assert ulps(curve(t), exact(curve, t)) <= reference.CURVES[cls.__name__].ulps

    def test_whole_floats_and_numpy_scalars_are_numbers(self):
        want = cosine(0.5, steps=10)
        assert cosine(np.float32(0.5), steps=np.int16(10)) == want == cosine(0.5, steps=1e1)
        for t in (3, 3.0, np.int64(3), np.float32(3), np.uint8(3), np.float64(3), np.float16(3)):
            assert want(t) == want(3.0)
            assert type(want(t)) is float


class TestPowers:
    """The power of powers.pxd: half an ulp for the result, a thirtieth for its exponential and logarithm."""

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
    def test_errs_by_little_more_than_half_an_ulp(self, base, part, is_whole):
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
    def test_the_logarithm_of_a_base(self, x):
        high, low = compiled_schedule.binary_logarithm(x)
        want = mpmath.log(mpf(x), 2)
        assert abs(mpf(high) + mpf(low) - want) <= abs(want) * mpf(2) ** -76
        assert high == 0 or math.frexp(high)[0] * 2**26 % 1 == 0

    @pytest.mark.parametrize("power, limit", [(1.0, 2), (2.0, 3), (3.0, 4), (0.5, 2), (0.75, 2), (1.7, 3)])
    def test_powers_of_a_base_that_changes(self, power, limit):
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
    @example(exponent=math.log10(1 / 3), part=1.0)
    @example(exponent=6.0, part=1.0)
    def test_is_good_to_one_part_in_1e12(self, exponent, part):
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
    def test_at_the_borders_of_its_cases(self, decay):
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
    def test_blocks_of_every_length_and_order(self, name):
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
        """The cycle does not depend on the times before; every cycle begins at the highest rate."""
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
    def test_long_arrays_give_the_same_bits_on_any_number_of_threads(self, threads):
        import fastlr

        fastlr.set_num_threads(threads)
        for name, schedule in EXAMPLES.items():
            t = np.arange(70_001) % 97
            once = schedule(np.arange(97.0))
            assert bits(schedule(t)) == bits(once[t]), name

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("where", [[0], [16_383], [16_384], [99_999], [60_000, 20_000, 99_999]])
    def test_the_error_names_the_first_bad_time_of_a_long_array(self, where, threads):
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


class TestTraced:
    """The formulas for frameworks that trace, here with NumPy in double: exp(t log factor) stands for pow."""

    @each
    def test_gives_the_schedule(self, name):
        schedule, t = EXAMPLES[name], np.arange(300.0)
        with np.errstate(all="ignore"):
            assert np.abs(traced(schedule, np)(t) - schedule(t)).max() <= 1e-12 * schedule(t).max()

    @each_curve
    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_with_any_numbers(self, name, data):
        curve, t = drawn(data, name), np.arange(200.0)
        rates = curve(t)
        with np.errstate(all="ignore"):
            got = traced(curve, np)(t)
        given = curve.to_dict()
        # (the rounding error of an argument of exp, slope * (t - middle) or lower to upper, is magnified by its size)
        size = 1 + abs(given.get("slope", 0)) * (200 + abs(given.get("middle", 0))) + max(
            abs(given.get(k, 0)) for k in ("lower", "upper"))
        largest = max(rates.max(), 1e-300, *(given.get(k, 0) for k in ("lr", "final", "peak")))
        assert np.abs(got - rates).max() <= 1e-11 * size * largest, (got, rates)


def test_every_curve_has_a_reference():
    assert set(reference.CURVES) == set(CURVES) == set(compiled_schedule.CURVE_FIELDS)


@settings(max_examples=200, deadline=None)
@given(power=st.floats(1e3, 1e300) | st.sampled_from([1e16, 1e17, 1e18]),
       decay=st.floats(1e-300, 1e300) | st.floats(1e-20, 1e3), t=times)
@example(power=1e16, decay=1.0, t=3)
@example(power=1e17, decay=1e-17, t=7)
def test_a_large_power_gives_no_negative_rate(power, decay, t):
    """Was: 1 - power * (rounding error of the base), which is negative from powers of 1e16 on."""
    rate = schedules.inverse_power(1.0, decay, power)(t)
    with mpmath.workprec(4000):            # 1 + 1e-300 * 1e-280
        want = (1 + mpf(decay) * t) ** -mpf(power)
    assert 0 <= rate <= 1
    assert abs(rate - want) <= 1e-9 * want + mpf(1e-300)
