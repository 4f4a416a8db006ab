"""An optimizer whose rule numba compiles; its elements are float32 alone."""
import numba
import numpy as np
from numba.types import CPointer, float32, float64, intp, void

import fastlr


@numba.cfunc(void(CPointer(float64), CPointer(float64)))
def scalars(hyper, now):
    """The weight of a gradient in the velocity: own[0] is the eighth number of `now`, first_update the sixth."""
    now[7] = 1 - hyper[1] * (1 - now[5])


@numba.cfunc(void(CPointer(float64), CPointer(float64), CPointer(float32), CPointer(float32),
                  CPointer(CPointer(float32)), intp))
def step_float32(hyper, now, p, g, slots, n):
    """lr is the second number of `now`, decay_factor the fourth."""
    m = slots[0]
    lr, decay_factor, momentum, weight = np.float32(now[1]), np.float32(now[3]), np.float32(hyper[0]), np.float32(now[7])
    for i in range(n):
        m[i] = momentum * m[i] + weight * g[i]
        p[i] = decay_factor * p[i] - lr * m[i]


RULE = fastlr.rule_from_pointers("heavyball", slots=("m",), hypers=("momentum", "dampening"), scalars=scalars,
                                 step_float32=step_float32)


class HeavyBallInNumba(fastlr.Optimizer, rule=RULE):
    """Gradients add up in a velocity `m`, and the parameter follows it."""

    momentum: fastlr.Hyper = fastlr.within(0.9, 0, 1)
    dampening: fastlr.Hyper = fastlr.within(0.0, 0, 1)
