"""The schedules that are made of others, k-decay and noise; and the sine, triangular and saw families as printed."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlr import schedules as s

RATE = st.floats(1e-6, 10)
LENGTH = st.integers(1, 1000)
FALLS = ["linear", "cosine", "1-sqrt", "square", "exponential"]


class TestWsd:
    @pytest.mark.parametrize("shape", FALLS)
    @settings(max_examples=60, deadline=None)
    @given(lr=RATE, up=st.integers(0, 50), stay=st.integers(0, 50), down=st.integers(1, 200), part=st.floats(0, 1))
    def test_rises_stays_falls_and_never_jumps(self, shape, lr, up, stay, down, part):
        final = lr * part if shape != "exponential" else lr * max(part, 1e-3)
        whole = s.wsd(lr, up, stay, down, final, shape)
        rates = whole(range(up + stay + down + 10))
        assert rates[0] == (0 if up else lr)
        assert (rates[up : up + stay + 1] == lr).all() and (rates[up + stay + down :] == final).all()
        assert (np.diff(rates[: up + 1]) > 0).all()
        falling = rates[up + stay : up + stay + down + 1]
        assert (np.diff(falling) <= 1e-15 * lr).all() and falling.min() >= final * (1 - 1e-14)

    def test_the_shapes_as_printed(self):
        lr, final, n = 0.3, 0.03, 40
        p = np.arange(n + 1) / n
        printed = {
            "linear": 1 - p, "cosine": (1 + np.cos(np.pi * p)) / 2, "1-sqrt": 1 - np.sqrt(p), "square": 1 - p**2,
        }
        for shape, w in printed.items():
            got = s.wsd(lr, 0, 0, n, final, shape)(range(n + 1))
            assert got == pytest.approx(final + (lr - final) * w, rel=1e-14)
        assert s.wsd(lr, 0, 0, n, final, "exponential")(range(n + 1)) == pytest.approx(lr * (final / lr) ** p)

    def test_no_jump_to_the_last_rate(self):
        """pytorch_optimizer falls to 0 in some shapes and then jumps up to its min_lr_ratio."""
        for shape in FALLS:
            rates = s.wsd(1.0, 0, 10, 100, final=0.1, shape=shape)(range(130))
            assert rates.min() == 0.1 and (np.diff(rates) <= 0).all()

    def test_a_longer_plateau_changes_nothing_before_it(self):
        short, long = s.wsd(1.0, 5, 20, 10), s.wsd(1.0, 5, 200, 10)
        assert (short(range(25)) == long(range(25))).all()

    def test_knee_is_wsd(self):
        assert (s.knee(0.1, 10, 20, 5, 0.01)(range(50)) == s.wsd(0.1, 5, 10, 20, 0.01)(range(50))).all()


class TestOneCycle:
    @settings(max_examples=60, deadline=None)
    @given(steps=st.integers(12, 5000), pct=st.floats(0.2, 0.45), three=st.booleans(),
           shape=st.sampled_from(["cosine", "linear"]), convention=st.sampled_from(["torch", "optax"]))
    def test_bounds_ends_and_pieces(self, steps, pct, three, shape, convention):
        rate = s.one_cycle(0.5, steps, pct, 10.0, 100.0, shape, three, convention)
        last = steps - (convention == "torch")
        rates = rate(range(last + 3))
        assert rates[0] == 0.05 and rates[-1] == rates[last] == rates[last + 1] == 0.05 / 100
        assert rates.max() <= 0.5 * (1 + 1e-15) and rates.min() >= 0.05 / 100 * (1 - 1e-12)
        top = rates.argmax()
        assert (np.diff(rates[: top + 1]) >= 0).all() and (np.diff(rates[top:]) <= 0).all()
        assert abs(np.diff(rates)).max() < 0.5 * 10 / min(pct * steps, steps * (1 - 2 * pct))      # continuous

    @pytest.mark.parametrize(("convention", "three", "ends"), [
        ("torch", False, [14, 49]), ("torch", True, [14, 28, 49]),
        ("optax", False, [15, 50]), ("optax", True, [15, 30, 50])])
    def test_its_pieces_end_where_the_convention_says(self, convention, three, ends):
        rate = s.one_cycle(1.0, 50, 0.3, 10.0, 100.0, "linear", three, convention)
        want = np.interp(np.arange(60), [0, *ends], [0.1, 1.0, *[0.1] * three, 0.001])
        assert rate(range(60)) == pytest.approx(want, rel=1e-12)

    @pytest.mark.parametrize("three", [False, True])
    @pytest.mark.parametrize("shape", ["cosine", "linear"])
    def test_the_momentum_is_low_where_the_rate_is_high(self, three, shape):
        rate = s.one_cycle(1.0, 101, 0.4, shape=shape, three_phase=three)
        momentum = rate.momentum(high=0.9, low=0.8)
        t = np.arange(120)
        assert momentum(0) == 0.9 and momentum(t).min() >= 0.8 and momentum(10**9) == 0.9
        assert abs(rate(t).argmax() - momentum(t).argmin()) <= 1
        against = np.diff(momentum(t)) * np.diff(rate(t))
        assert np.delete(against, rate(t).argmax() + np.array([-1, 0])).max() <= 1e-18     # (the top is between two)


class TestPhasesOfNoLength:
    t = np.arange(300)

    @pytest.mark.parametrize("shape", FALLS)
    def test_wsd_without_a_fall_is_constant_for_ever(self, shape):
        whole = s.wsd(0.1, warmup_steps=10, stable_steps=90, decay_steps=0, shape=shape)
        assert (whole(self.t) == s.constant(0.1).warmup(10)(self.t)).all() and whole(1e300) == 0.1
        assert (s.wsd(0.1, 0, 0, 0, shape=shape)(self.t) == 0.1).all()

    def test_knee_without_a_fall(self):
        assert (s.knee(0.1, 5, 0, warmup_steps=3)(self.t) == s.constant(0.1).warmup(3)(self.t)).all()

    @pytest.mark.parametrize("three", [False, True])
    @pytest.mark.parametrize("convention", ["torch", "optax"])
    @pytest.mark.parametrize("steps", range(1, 12))
    def test_a_one_cycle_of_few_updates_leaves_out_the_phases_before_the_first(self, steps, convention, three):
        for shape in ("cosine", "linear"):
            rate = s.one_cycle(0.1, steps, shape=shape, three_phase=three, convention=convention)
            rates = rate(self.t[:20])
            last = 0.1 / 25 / 1e4
            assert ((rates >= last * (1 - 1e-12)) & (rates <= 0.1)).all()
            assert (rates[steps - (convention == "torch"):] == last).all()
            momentum = rate.momentum()(self.t[:20])
            assert ((momentum >= 0.85) & (momentum <= 0.95 + 1e-15)).all() and momentum[-1] == 0.95
            assert s.from_dict(rate.to_dict()) == rate

    def test_as_torch_computes_it(self):
        """Three updates: the rise ended at t = -0.1, so the fall is a part of the way already at the first update."""
        part = (np.array([0, 1, 2]) + 0.1) / 2.1
        low = 0.1 / 25 / 1e4
        want = low + (0.1 - low) / 2 * (1 + np.cos(np.pi * part))
        assert s.one_cycle(0.1, 3)(range(3)) == pytest.approx(want, rel=1e-12)
        assert s.one_cycle(0.1, 50, pct_start=0.0)(0) < 0.1 and s.one_cycle(0.1, 4, pct_start=0.25)(0) == 0.1


class TestPieces:
    @settings(max_examples=60, deadline=None)
    @given(values=st.lists(RATE, min_size=2, max_size=20), data=st.data())
    def test_through_every_point(self, values, data):
        lengths = data.draw(st.lists(LENGTH, min_size=len(values) - 1, max_size=len(values) - 1))
        at = np.cumsum(lengths).tolist()
        steps, lines = s.piecewise_constant(values, at), s.piecewise_linear(values, at)
        t = np.arange(at[-1] + 5)
        assert lines([0, *at]).tolist() == values
        assert (steps(t) == np.array(values)[np.searchsorted(at, t, side="right")]).all()
        assert lines(t) == pytest.approx(np.interp(t, [0, *at], values), rel=1e-12)

    def test_kerass_boundaries_are_one_later(self):
        keras = [0.1 if t <= 5 else 0.01 for t in range(10)]                  # its own `step <= boundary`
        assert s.piecewise_constant([0.1, 0.01], at=[5 + 1])(range(10)).tolist() == keras

    def test_range_test_tries_both_ends(self):
        for kind in ("exponential", "linear"):
            tried = s.range_test(1e-5, final=2.0, steps=50, kind=kind)(range(50))
            assert tried[0] == 1e-5 and tried[49] == 2.0 and (np.diff(tried) > 0).all()
        assert s.range_test(1e-4, 1.0, 5)(range(5)) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])

    def test_robbins_monro(self):
        t = np.arange(10**5)
        rates = s.robbins_monro(0.3, power=0.6)(t)
        assert rates == pytest.approx(0.3 * (1 + t) ** -0.6, rel=1e-13)
        assert (s.robbins_monro(0.3)(t) == s.inverse_power(0.3, 1.0, 1.0)(t)).all()


class TestKDecay:
    @settings(max_examples=60, deadline=None)
    @given(k=st.floats(0.3, 4), steps=st.integers(2, 10**6))
    def test_the_ends_stay_and_it_still_falls(self, k, steps):
        bent = s.cosine(0.5, steps, 0.1).k_decay(steps, k)
        t = np.unique(np.linspace(0, steps, 300).round())
        assert bent(0) == 0.5 and bent([steps, 2 * steps, 1e300]) == pytest.approx([0.1] * 3, rel=1e-15)
        assert (np.diff(bent(t)) <= 1e-15).all()

    def test_as_printed(self):
        t = np.arange(100)
        assert s.linear(1.0, 100).k_decay(100, 2.0)(t) == pytest.approx(1 - t**2 / 100**2, rel=1e-13)
        assert 0 <= s.saw(1.0, 10).k_decay(10, 3)(1e300) <= 1              # whose time is no double
        assert (s.cosine(1.0, 64).k_decay(64, 1)(t) == s.cosine(1.0, 64)(t)).all()


class TestNoise:
    def test_is_a_pure_function_of_seed_and_update(self):
        noisy = s.constant(1.0).noise(0.5, seed=7)
        t = np.arange(1000)
        assert noisy(t).tolist() == [noisy(k) for k in range(1000)]
        assert noisy(t)[::-1].tolist() == noisy(t[::-1]).tolist()
        assert noisy(3.7) == noisy(3)
        others = [s.constant(1.0).noise(0.5, seed=seed)(t) for seed in (7, 8, 7 + 2**32, 2**64 - 1)]
        assert (others[0] == noisy(t)).all()
        for i in range(4):
            for k in range(i):
                assert abs(np.corrcoef(others[i], others[k])[0, 1]) < 0.15

    def test_the_random_numbers_are_frozen(self):
        got = s.constant(1.0).noise(1.0, seed=1)([0, 1, 2, 2**32, 2**53, 1e300])
        assert got.tolist() == [self.hashed(t) for t in (0, 1, 2, 2**32, 2**53, int(1e300))]

    @staticmethod
    def hashed(t, seed=1):
        def mix(x):
            x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
            x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
            return x ^ x >> 16
        x = mix((seed + 0x9E3779B9) % 2**32)
        for word in (seed >> 32, t >> 32 & 0xFFFFFFFF, t & 0xFFFFFFFF):
            x = mix(x ^ word)
        return 1 + (x / 2**31 - 1)

    def test_is_uniform_within_its_bounds(self):
        rates = s.constant(1.0).noise(0.25)(np.arange(200_000))
        assert rates.min() >= 0.75 and rates.max() < 1.25
        # Standard deviations for 200,000 independent uniform numbers: mean 3.2e-4, deviation 0.1 %, correlation 2.2e-3, one
        # of 50 bins 1.6 %, the chi-square of all of them 9.9 about 49. Three of each is allowed, of the bins' largest four.
        assert rates.mean() == pytest.approx(1, abs=9.7e-4) and rates.std() == pytest.approx(0.5 / 12**0.5, rel=3e-3)
        assert abs(np.corrcoef(rates[1:], rates[:-1])[0, 1]) < 6.7e-3
        bins = np.histogram(rates, 50, (0.75, 1.25))[0]
        assert bins == pytest.approx(4000, rel=0.063) and 49 - 30 < ((bins - 4000) ** 2 / 4000).sum() < 49 + 30

    def test_no_noise_and_noise_from_some_update_on(self):
        r = s.cosine(0.1, 50)
        assert (r.noise(0.0)(range(60)) == r(range(60))).all()
        late = r.then(r.shift(-20).noise(0.5), at=20)
        assert (late(range(20)) == r(range(20))).all() and (late(range(20, 50)) != r(range(20, 50))).all()


class TestLRBench:
    """All 34 policies of Wu et al. 2019 as their formulas are printed, each by the expression that stands for it."""

    k0, k1, gamma, n, p = 0.1, 0.9, 0.97, 7, 1.5
    t = np.arange(40)

    def printed(self):
        k0, k1, g, n, t, pi = self.k0, self.k1, self.gamma, self.n, self.t, np.pi
        tri = lambda x: 2 / pi * abs(np.arcsin(np.sin(pi * x / (2 * n))))  # noqa: E731
        sin = lambda x: abs(np.sin(pi * x / (2 * n)))  # noqa: E731
        cos = lambda x: (1 + np.cos(pi * x / n)) / 2  # noqa: E731
        tooth = -t / n - np.floor(-t / n)
        for name, wave in (("TRI", tri), ("SIN", sin)):
            for start, x in (("", t), ("D", t + n)):
                yield f"{start}{name}", (k1 - k0) * wave(x) + k0
                yield f"{start}{name}2", (k1 - k0) * wave(x) / 2 ** (x // (2 * n)) + k0
                yield f"{start}{name}EXP", (k1 - k0) * wave(x) * g**t + k0
        for start, x in (("", t), ("UP", t + n)):
            halved = 2 ** ((t + n) // (2 * n) if not start else t // (2 * n))
            yield f"{start}COS", (k1 - k0) * cos(x) + k0
            yield f"{start}COS2", (k1 - k0) * cos(x) / halved + k0
            yield f"{start}COSEXP", (k1 - k0) * cos(x) * g**t + k0
        shapes = {"RSW": tooth, "SINRSW": np.sin(pi / 2 * tooth), "COSRSW": (1 - np.cos(pi * tooth)) / 2}
        for name, w in shapes.items():
            yield name, (k1 - k0) * w + k0
            yield f"{name}2", (k1 - k0) * w / 2 ** (t // n) + k0
            yield f"{name}EXP", (k1 - k0) * w * g**t + k0
        yield "FIX", np.full(40, k0)
        yield "STEP", k0 * g ** (t // n)
        yield "NSTEP", k0 * g ** np.searchsorted([5, 20], t, side="right")
        yield "EXP", k0 * g**t
        yield "INV", k0 * (1 + g * t) ** -self.p
        yield "POLY", np.where(t < 30, (k1 - k0) * (1 - np.minimum(t, 30) / 30) ** self.p + k0, k0)
        yield "SIG", k0 / (1 + np.exp(-g * (t - n)))

    def ours(self):
        k0, k1, g, n = self.k0, self.k1, self.gamma, self.n
        higher = k0 + (k1 - k0) / g**n
        yield from {
            "TRI": s.triangular(k0, k1, n), "TRI2": s.triangular2(k0, k1, n), "TRIEXP": s.triangular_exp(k0, k1, n, g),
            "DTRI": s.triangular(k0, k1, n).shift(-n), "DTRI2": s.triangular2(k0, k1, n).shift(-n),
            "DTRIEXP": s.triangular_exp(k0, higher, n, g).shift(-n),
            "SIN": s.sine(k0, k1, n), "SIN2": s.sine2(k0, k1, n), "SINEXP": s.sine_exp(k0, k1, n, g),
            "DSIN": s.sine(k0, k1, n).shift(-n), "DSIN2": s.sine2(k0, k1, n).shift(-n),
            "DSINEXP": s.sine_exp(k0, higher, n, g).shift(-n),
            "UPCOS": s.cosine_wave(k0, k1, n), "UPCOS2": s.cosine_wave2(k0, k1, n),
            "UPCOSEXP": s.cosine_wave_exp(k0, k1, n, g),
            "COS": s.cosine_wave(k0, k1, n).shift(-n), "COS2": s.cosine_wave2(k0, k1, n).shift(-n),
            "COSEXP": s.cosine_wave_exp(k0, higher, n, g).shift(-n),
            "RSW": s.saw(k1, n, k0), "RSW2": s.saw2(k1, n, k0), "RSWEXP": s.saw_exp(k1, n, g, k0),
            "SINRSW": s.sine_saw(k1, n, k0), "SINRSW2": s.sine_saw2(k1, n, k0),
            "SINRSWEXP": s.sine_saw_exp(k1, n, g, k0),
            "COSRSW": s.cosine_restarts(k1, n, k0), "COSRSW2": s.cosine_restarts(k1, n, k0, amplitude_factor=0.5),
            "COSRSWEXP": s.cosine_restarts(k1, n, k0, update_factor=g),
            "FIX": s.constant(k0), "STEP": s.step_decay(k0, n, g), "EXP": s.geometric(k0, g),
            "NSTEP": s.piecewise_constant([k0, k0 * g, k0 * g**2], [5, 20]), "INV": s.inverse_power(k0, g, self.p),
            "POLY": s.polynomial(k1, 30, self.p, k0), "SIG": s.sigmoid(k0, g, n),
        }.items()

    def test_all_policies(self):
        ours, printed = dict(self.ours()), dict(self.printed())
        assert ours.keys() == printed.keys() and len(ours) == 34
        for name, want in printed.items():
            got = ours[name](self.t)
            # (the saws give k0 at the jumps themselves, where ours begin anew)
            where = self.t % self.n != 0 if "RSW" in name else slice(None)
            assert got[where] == pytest.approx(want[where], rel=1e-12), name


class TestErrors:
    WRONG = {
        lambda: s.piecewise_constant([], []):
            "ValueError piecewise_constant: values must be a sequence of finite numbers >= 0, got []",
        lambda: s.piecewise_constant([1, -1], [2]):
            "ValueError piecewise_constant: values must be a sequence of finite numbers >= 0, got [1, -1]",
        lambda: s.piecewise_constant([1, "x"], [2]):
            "TypeError piecewise_constant: values must be a sequence of finite numbers >= 0, got [1, 'x']",
        lambda: s.piecewise_constant([1, 2], []):
            "ValueError piecewise_constant: at must have one entry fewer than values, got 0 for 2",
        lambda: s.piecewise_linear([1], []):
            "ValueError piecewise_linear: at must have one entry fewer than values, and one, got 0 for 1",
        lambda: s.wsd(1, -1, 0, 5): "ValueError wsd: warmup_steps must be an integer >= 0, got -1",
        lambda: s.wsd(1, 0, 0, -1): "ValueError wsd: decay_steps must be an integer >= 0, got -1",
        lambda: s.knee(1, 0, -1): "ValueError knee: exploit_steps must be an integer >= 0, got -1",
        lambda: s.wsd(1, 1, 1, 1, shape="exponential"):
            "ValueError wsd: lr and final must be > 0 for shape='exponential', got lr=1.0, final=0.0",
        lambda: s.wsd(1, 1, 1, 1, shape="sqrt"):
            "ValueError wsd: shape must be 'linear' or 'cosine' or '1-sqrt' or 'square' or 'exponential', got 'sqrt'",
        lambda: s.robbins_monro(1, power=0.5):
            "ValueError robbins_monro: power must be in (0.5, 1], got 0.5; for others: inverse_power",
        lambda: s.range_test(steps=1): "ValueError range_test: steps must be 2 or more, got 1",
        lambda: s.one_cycle(1, 0): "ValueError one_cycle: steps must be a positive integer, got 0",
        lambda: s.one_cycle(1, 100, pct_start=0.6, three_phase=True):
            "ValueError one_cycle: every phase must take some time; with steps=100, pct_start=0.6, three_phase=True "
            "they end at t=[59.0, 118.0, 99]",
        lambda: s.one_cycle_momentum(9, high=1.0): "ValueError one_cycle_momentum: high must be in [0, 1), got 1.0",
        lambda: s.polynomial(1, 5, 2, cycle=True, end="error"):
            "ValueError polynomial: with cycle=True there is no end: end must be 'hold', got 'error'",
        lambda: s.triangular(1, 2, 3, 0): "ValueError triangular: down must be a positive integer or None, got 0",
        lambda: s.sine(1, 2, 3, 1.5): "ValueError sine: amplitude_factor must be in [0, 1], got 1.5",
        lambda: s.cosine_restarts(1, 2, 0, 0.5): "ValueError cosine_restarts: cycle_factor must be in [1, 1000), got 0.5",
        lambda: s.constant(1).noise(1.5): "ValueError noise: amount must be in [0, 1], got 1.5",
        lambda: s.constant(1).noise(0.5, seed=-1):
            "ValueError noise: seed must be an integer from 0 to 2**64 - 1, got -1",
        lambda: s.constant(1).k_decay(5, 0): "ValueError k_decay: k must be a finite number > 0, got 0",
        lambda: s.layerwise(["a"], 0): "ValueError layerwise: decay must be a finite number > 0, got 0",
    }

    @pytest.mark.parametrize("call, message", WRONG.items(), ids=[m[:50] for m in WRONG.values()])
    def test_message(self, call, message):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        assert f"{caught.type.__name__} {caught.value}" == message


class TestDefectsOfOthers:
    def test_warmup_reaches_its_peak(self):
        """timm's default drops onto the running cosine and never sees the base rate."""
        rates = s.cosine(1.0, 20).warmup(5)(range(30))
        assert rates.max() == rates[5] == 1.0

    def test_polynomial_falls(self):
        """pytorch_optimizer's PolyScheduler rises without bound."""
        rates = s.polynomial(1.0, 30, 0.5, 0.1)([0, 1, 10, 29, 30, 31, 10**9])
        assert (np.diff(rates) <= 0).all() and rates[-1] == 0.1

    def test_polynomial_stays_real_after_its_end(self):
        """LRBench's POLY is complex there."""
        assert s.polynomial(1.0, 10, 1.5)(1e9) == 0.0

    def test_updates_not_batches(self):
        """Keras runs a schedule once per batch, five times too fast with five accumulated ones."""
        updates = s.linear(1.0, steps=2)
        assert updates.every(5)(range(12)).tolist() == [1.0] * 5 + [0.5] * 5 + [0.0] * 2

    def test_piecewise_constant_changes_at_its_boundary(self):
        """timm's MultiStep changes one epoch early."""
        assert s.piecewise_constant([1.0, 0.1], at=[3])(range(5)).tolist() == [1, 1, 1, 0.1, 0.1]

    def test_two_of_one_kind_do_not_share_anything(self):
        """LRBench's NSTEP counts on its function: two of them advance one another."""
        a, b = s.piecewise_constant([1.0, 0.1], at=[3]), s.piecewise_constant([1.0, 0.1], at=[5])
        assert a(10) == 0.1 and b(4) == 1.0 and a(2) == 1.0

    def test_giant_times(self):
        for t in (2**53, 1e18, 1e300, math.inf):
            assert s.one_cycle(1.0, 10)(t) == pytest.approx(4e-6) and s.wsd(1, 1, 1, 1)(t) == 0
            assert 0 <= s.cosine_restarts(1.0, 10, cycle_factor=2)(t) <= 1
