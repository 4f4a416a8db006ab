"""Each curve again, in as many digits as it takes and in the notation of its source.

A function has the name and the keywords of its curve; t and every number are mpmath's, exact images of the
doubles that the curve saw.
"""
import mpmath
from mpmath import cos, exp, floor, mpf, pi

mpmath.mp.prec = 250


def constant(t, lr):
    return lr


def exponential(t, lr, decay):
    return lr * exp(-decay * t)


def geometric(t, lr, factor):
    return lr * factor**t


def step_decay(t, lr, every, factor):
    return lr * factor ** floor(t / every)


def step_based(t, lr, drop, every):
    return lr * drop ** floor((1 + t) / every)


def inverse_time(t, lr, decay, every, staircase):
    return lr / (1 + decay * (floor(t / every) if staircase else t / every))


def linear(t, lr, steps, final):
    return lr + (final - lr) * min(t / steps, 1)


def log_linear(t, lr, steps, final):
    return lr * (final / lr) ** min(t / steps, 1)


def cosine(t, lr, steps, final):
    with mpmath.workprec(2500):        # 1 + cos cancels, and t may be the smallest double
        return final + (lr - final) * (1 + cos(pi * min(t / steps, 1))) / 2


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
