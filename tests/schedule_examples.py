"""One schedule of each kind, the numbers that a curve may have, and what the tests of schedules share."""
import math

import mpmath
import numpy as np
import pytest
import reference_schedules as reference
from hypothesis import strategies as st
from mpmath import mpf

from fastlr import schedules
from fastlr.schedules import (
    constant,
    cosine,
    exponential,
    geometric,
    inverse_time,
    linear,
    log_linear,
    parse,
    step_based,
    step_decay,
    time_based,
)
from fastlr.schedules.base import Curve
from fastlr.schedules.registry import REGISTRY

CURVES = {name: cls for name, cls in REGISTRY.items() if issubclass(cls, Curve)}
LAST = 2**53

# The numbers of a curve, by the name of its argument; for other names any that its field takes.
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
# (a fraction of an update so small that t / steps underflows has no digits to compare)
times = st.integers(0, 40) | st.integers(0, 10**6) | st.integers(0, LAST) | st.floats(1e-280, 1e6)
edges = [0, 1, 2, 15, 16, 17, 10**9, LAST, 1e300, math.inf, 10**400]

# One of each: as its class declares it, or with all arguments other than by default.
s, r = cosine(0.1, steps=100, final=0.01), linear(0.5, steps=30)
EXAMPLES = {name: parse(cls._example) for name, cls in REGISTRY.items()} | {
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


def drawn(data, name):
    """A curve with any numbers it may have."""
    cls = CURVES[name]
    arguments = {k: data.draw(numbers[k] if k in numbers else any_number(field), k) for k, field in cls._fields.items()}
    if name == "log_linear":
        arguments["lr"], arguments["final"] = arguments["lr"] or 0.5, arguments["final"] or 0.5
    return cls(**arguments)


def any_number(field):
    return (counts if "integer" in field.requirement else st.floats(0, 100)).filter(field.holds)


def arguments_of(schedule):
    return dict(zip(type(schedule)._fields, schedule._values, strict=True))


def exact(schedule, t):
    arguments = {k: v for k, v in arguments_of(schedule).items() if k != "end"}
    with mpmath.workprec(2500 if t < 1e-10 else 250):      # 1 - (t / steps)**2, steps to 2**53
        return reference.CURVES[type(schedule).__name__].formula(
            mpf(t), **{k: v if isinstance(v, bool) else mpf(v) for k, v in arguments.items()}
        )


def ulps(got, want):
    return float(abs(mpf(got) - want) / math.ulp(float(want)))


def bits(array):
    return np.asarray(array, dtype=float).view(np.int64).tolist()
