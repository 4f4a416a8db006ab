"""Each curve again, in as many digits as it takes and in the notation of its source.

A function has the name and the keywords of its curve; t and every number are mpmath's, exact images of the
doubles that the curve saw.
"""
import mpmath
from mpmath import ceil, cos, exp, floor, mpf, pi, sin, sqrt

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
    return final + (lr - final) * (1 + cos(pi * min(t / steps, 1))) / 2


def inverse_sqrt(t, lr, timescale):
    return lr / sqrt(1 + t / timescale)


def inverse_power(t, lr, decay, power):
    return lr * (1 + decay * t) ** -power


def noam(t, d_model, warmup_steps, factor):
    n = t + 1
    return factor * d_model ** mpf("-0.5") * min(n ** mpf("-0.5"), n * warmup_steps ** mpf("-1.5"))


def sigmoid(t, lr, slope, middle):
    return lr / (1 + exp(-slope * (t - middle)))


def polynomial(t, lr, steps, power, final, cycle):
    n = steps * max(ceil(t / steps), 1) if cycle else steps
    return final + (lr - final) * (1 - min(t / n, 1)) ** power


def one_minus_sqrt(t, lr, steps, final):
    return final + (lr - final) * (1 - sqrt(min(t / steps, 1)))


def one_minus_square(t, lr, steps, final):
    return final + (lr - final) * (1 - min(t / steps, 1) ** 2)


def rex(t, lr, steps, final):
    p = min(t / steps, 1)
    return final + (lr - final) * (1 - p) / (1 - p / 2)


def tanh(t, lr, steps, final, lower, upper):
    p = t / steps
    if p >= 1:
        return final
    return final + (lr - final) * (1 - mpmath.tanh(lower * (1 - p) + upper * p)) / 2


def triangular(t, lr, peak, up, down, amplitude_factor, update_factor):
    cycle, x = floor(t / (up + down)), t % (up + down)
    w = x / up if x <= up else (up + down - x) / down
    return lr + (peak - lr) * w * amplitude_factor**cycle * update_factor**t


def sine(t, lr, peak, steps, amplitude_factor, update_factor):
    w = abs(sin(pi * t / (2 * steps))) if t % (2 * steps) else 0
    return lr + (peak - lr) * w * amplitude_factor ** floor(t / (2 * steps)) * update_factor**t


def cosine_wave(t, lr, peak, steps, amplitude_factor, update_factor):
    w = (1 - cos(pi * (t % (2 * steps)) / steps)) / 2
    return lr + (peak - lr) * w * amplitude_factor ** floor(t / (2 * steps)) * update_factor**t


def saw(t, lr, steps, final, amplitude_factor, update_factor):
    w = 1 - (t % steps) / steps
    return final + (lr - final) * w * amplitude_factor ** floor(t / steps) * update_factor**t


def sine_saw(t, lr, steps, final, amplitude_factor, update_factor):
    w = sin(pi / 2 * (1 - (t % steps) / steps))
    return final + (lr - final) * w * amplitude_factor ** floor(t / steps) * update_factor**t


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
