"""The formula of each curve in mpmath, as its source prints it, and how far the curve may be from it.

A function has the name and the keywords of its curve; t and every number are mpmath's, exact images of the doubles that
the curve got. `@accurate(ulps)`: the curve's error in units of its rate's last place; each operation rounds once, pow and
exp err by less than one, and the condition of the formula magnifies the errors before it. `of_the_larger=True`: of the
last place of the larger of the curve's two rates, as the smaller one's digits are of no use in a cycle.
"""
from typing import NamedTuple

import mpmath
from mpmath import ceil, cos, exp, floor, mpf, pi, sin, sqrt

mpmath.mp.prec = 250


class Reference(NamedTuple):
    formula: object
    ulps: float
    of_the_larger: bool


CURVES: dict[str, Reference] = {}


def accurate(ulps, of_the_larger=False):
    def add(formula):
        CURVES[formula.__name__] = Reference(formula, ulps, of_the_larger)
        return formula
    return add


@accurate(0)
def constant(t, lr):
    return lr


@accurate(3)      # (the rounding error of the argument is corrected)
def exponential(t, lr, decay):
    return lr * exp(-decay * t)


@accurate(2)
def geometric(t, lr, factor):
    return lr * factor**t


@accurate(2)
def step_decay(t, lr, every, factor):
    return lr * factor ** floor(t / every)


@accurate(2)
def step_based(t, lr, drop, every):
    return lr * drop ** floor((1 + t) / every)


@accurate(4)      # four roundings
def inverse_time(t, lr, decay, every, staircase):
    return lr / (1 + decay * (floor(t / every) if staircase else t / every))


@accurate(3)
def linear(t, lr, steps, final):
    return lr + (final - lr) * min(t / steps, 1)


@accurate(50)     # p errs by 1e-16, and ln(100 / 1e-8) = 23 magnifies that, twice
def log_linear(t, lr, steps, final):
    return lr * (final / lr) ** min(t / steps, 1)


@accurate(6)      # the sine's argument has three roundings, the square doubles them
def cosine(t, lr, steps, final):
    return final + (lr - final) * (1 + cos(pi * min(t / steps, 1))) / 2


@accurate(16)     # as the cosine, magnified by ln(order) up to 7 in an exponent
def cosine_power(t, lr, steps, final, order):
    c = (1 + cos(pi * min(t / steps, 1))) / 2
    w = (order**c - 1) / (order - 1) if order > 1 else c
    return final + (lr - final) * w


@accurate(3)
def inverse_sqrt(t, lr, timescale):
    return lr / sqrt(1 + t / timescale)


@accurate(4)      # (the rounding error of the base is corrected)
def inverse_power(t, lr, decay, power):
    return lr * (1 + decay * t) ** -power


@accurate(4)
def noam(t, d_model, warmup_steps, factor):
    n = t + 1
    return factor * d_model ** mpf("-0.5") * min(n ** mpf("-0.5"), n * warmup_steps ** mpf("-1.5"))


@accurate(3)      # and what the rounding of the exponent costs, see the test
def sigmoid(t, lr, slope, middle):
    return lr / (1 + exp(-slope * (t - middle)))


@accurate(16)     # the base has two roundings, up to 5 times magnified, and again for 1 - w
def polynomial(t, lr, steps, power, final, cycle):
    n = steps * max(ceil(t / steps), 1) if cycle else steps
    return final + (lr - final) * (1 - min(t / n, 1)) ** power


@accurate(6)
def one_minus_sqrt(t, lr, steps, final):
    return final + (lr - final) * (1 - sqrt(min(t / steps, 1)))


@accurate(6)
def one_minus_square(t, lr, steps, final):
    return final + (lr - final) * (1 - min(t / steps, 1) ** 2)


@accurate(5)
def rex(t, lr, steps, final):
    p = min(t / steps, 1)
    return final + (lr - final) * (1 - p) / (1 - p / 2)


@accurate(120)    # an exponent of up to 40 with three roundings
def tanh(t, lr, steps, final, lower, upper):
    p = t / steps
    if p >= 1:
        return final
    return final + (lr - final) * (1 - mpmath.tanh(lower * (1 - p) + upper * p)) / 2


@accurate(6, of_the_larger=True)
def triangular(t, lr, peak, up, down, amplitude_factor, update_factor):
    cycle, x = floor(t / (up + down)), t % (up + down)
    w = x / up if x <= up else (up + down - x) / down
    return lr + (peak - lr) * w * amplitude_factor**cycle * update_factor**t


@accurate(7, of_the_larger=True)
def sine(t, lr, peak, steps, amplitude_factor, update_factor):
    w = abs(sin(pi * t / (2 * steps))) if t % (2 * steps) else 0
    return lr + (peak - lr) * w * amplitude_factor ** floor(t / (2 * steps)) * update_factor**t


@accurate(8, of_the_larger=True)
def cosine_wave(t, lr, peak, steps, amplitude_factor, update_factor):
    w = (1 - cos(pi * (t % (2 * steps)) / steps)) / 2
    return lr + (peak - lr) * w * amplitude_factor ** floor(t / (2 * steps)) * update_factor**t


@accurate(6, of_the_larger=True)
def saw(t, lr, steps, final, amplitude_factor, update_factor):
    w = 1 - (t % steps) / steps
    return final + (lr - final) * w * amplitude_factor ** floor(t / steps) * update_factor**t


@accurate(7, of_the_larger=True)
def sine_saw(t, lr, steps, final, amplitude_factor, update_factor):
    w = sin(pi / 2 * (1 - (t % steps) / steps))
    return final + (lr - final) * w * amplitude_factor ** floor(t / steps) * update_factor**t


@accurate(40, of_the_larger=True)    # where a cycle begins is a sum of powers
def cosine_restarts(t, lr, steps, final, cycle_factor, amplitude_factor, update_factor):
    cycle, begin, n = 0, mpf(0), mpf(steps)
    if cycle_factor == 1:
        cycle = floor(t / n)
        begin = n * cycle
    else:
        while begin + n <= t:
            cycle, begin, n = cycle + 1, begin + n, n * cycle_factor
    w = (1 + cos(pi * (t - begin) / n)) / 2
    return final + (lr - final) * w * amplitude_factor**cycle * update_factor**t


@accurate(1e-12 / 2**-53)
def time_based(t, lr, decay):
    """The recursion where it is short, elsewhere the gamma functions, in more digits than they cancel."""
    n = int(floor(t))
    if n <= 2000 or decay == 0:
        eta = mpf(lr)
        for k in range(n if decay else 0):
            eta /= 1 + decay * k
        return eta
    x = 1 / decay
    with mpmath.workprec(400 + 2 * max(0, int(mpmath.log(x, 2)))):
        return lr * exp(mpmath.loggamma(x) + n * mpmath.log(x) - mpmath.loggamma(x + n))
