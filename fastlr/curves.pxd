# cython: language_level=3, cdivision=True
"""Every schedule, one instant at a time, in order of increasing complexity.

A curve is a struct of doubles and a function of the same name that gives the rate of update `t`
(t = 0 is the first). What may enter here: no memory, no Python, no arrays; `t` is finite and >= 0, and
the rate must then be a number for every such `t`, however large. Sums are of terms of one sign, so
that a rate is good to its last digits even where it has nearly vanished.
"""
from libc.math cimport exp, floor, fma, fmin, log1p, pow, sin

# constant

cdef struct Constant:
    double lr

cdef inline double constant(Constant h, double t) noexcept nogil:
    return h.lr


# exponential: lr * exp(-decay * t)

cdef struct Exponential:
    double lr, decay

cdef inline double exponential(Exponential h, double t) noexcept nogil:
    cdef double x = h.decay * t
    # exp magnifies the rounding of its argument up to 700 times: fma gives that rounding back
    return h.lr * exp(-x) * (1 - fma(h.decay, t, -x)) if x < 800 else 0


# geometric: lr * factor**t -- torch ExponentialLR

cdef struct Geometric:
    double lr, factor

cdef inline double geometric(Geometric h, double t) noexcept nogil:
    return h.lr * pow(h.factor, t)


# step_decay: lr * factor**floor(t / every) -- torch StepLR

cdef struct StepDecay:
    double lr, every, factor

cdef inline double step_decay(StepDecay h, double t) noexcept nogil:
    return h.lr * pow(h.factor, floor(t / h.every))


# step_based: lr * drop**floor((1 + t) / every), one update earlier

cdef struct StepBased:
    double lr, drop, every

cdef inline double step_based(StepBased h, double t) noexcept nogil:
    return h.lr * pow(h.drop, floor((1 + t) / h.every))


# inverse_time: lr / (1 + decay * t / every) -- Keras InverseTimeDecay

cdef struct InverseTime:
    double lr, decay, every, staircase

cdef inline double inverse_time(InverseTime h, double t) noexcept nogil:
    cdef double p = t / h.every
    return h.lr / (1 + h.decay * (floor(p) if h.staircase else p))


# linear: from lr at 0 to final at steps

cdef struct Linear:
    double lr, steps, final

cdef inline double linear(Linear h, double t) noexcept nogil:
    if t >= h.steps:
        return h.final
    return h.lr * ((h.steps - t) / h.steps) + h.final * (t / h.steps)


# log_linear: from lr at 0 to final at steps, straight on a logarithmic scale

cdef struct LogLinear:
    double lr, steps, final

cdef inline double log_linear(LogLinear h, double t) noexcept nogil:
    if t >= h.steps:
        return h.final
    return pow(h.lr, (h.steps - t) / h.steps) * pow(h.final, t / h.steps)


# cosine -- Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts
# (1 + cos(pi p)) / 2 = 1 - sin(pi p / 2)**2 = sin(pi (1 - p) / 2)**2: each half by what does not cancel there

cdef struct Cosine:
    double lr, steps, final

cdef inline double half_sine_squared(double p) noexcept nogil:
    cdef double s = sin(1.5707963267948966 * p)
    return s * s

cdef inline double cosine(Cosine h, double t) noexcept nogil:
    cdef double w
    if t >= h.steps:
        return h.final
    if t < h.steps / 2:
        w = half_sine_squared(t / h.steps)
        return h.lr * (1 - w) + h.final * w
    w = half_sine_squared((h.steps - t) / h.steps)
    return h.lr * w + h.final * (1 - w)


# time_based: eta_{n+1} = eta_n / (1 + decay * n), so eta_n = lr / prod_{k<n} (1 + decay * k)
#
# In constant time. With x = 1/decay the product is Gamma(x + n) / (Gamma(x) x**n); by Stirling, with u = n/x,
#     ln prod = n mean - log1p(u)/2 + stirling(x + n) - stirling(x),   mean = (1 + 1/u) log1p(u) - 1.
# The leading parts of ln Gamma have cancelled on paper, where nothing is lost; lgamma would lose all digits
# of a small decay. Stirling needs x >= 16: below it, 16 factors are multiplied out first, and
# the rest starts at x + 16, its factors x + k = (x + 16 + k') divided by x instead of x + 16.

cdef struct TimeBased:
    double lr, decay

cdef inline double stirling(double x) noexcept nogil:
    cdef double r = 1 / x
    cdef double y = r * r
    return r * (1.0 / 12 - y * (1.0 / 360 - y * (1.0 / 1260 - y * (1.0 / 1680 - y * (1.0 / 1188)))))

cdef inline double log_series(double s) noexcept nogil:
    # y/3 + y**2/5 + y**3/7 + ... for y = s*s <= 1/9, the odd and the even powers side by side
    cdef double y = s * s
    cdef double z = y * y
    return y * (
        1.0 / 3 + z * (1.0 / 7 + z * (1.0 / 11 + z * (1.0 / 15 + z * (
            1.0 / 19 + z * (1.0 / 23 + z * (1.0 / 27 + z * (1.0 / 31)))))))
        + y * (1.0 / 5 + z * (1.0 / 9 + z * (1.0 / 13 + z * (1.0 / 17 + z * (
            1.0 / 21 + z * (1.0 / 25 + z * (1.0 / 29 + z * (1.0 / 33))))))))
    )

cdef inline double time_based(TimeBased h, double t) noexcept nogil:
    cdef double n = floor(t), x = 1 / h.decay, head = 1, skipped = 0, u, s, tail, log, mean
    cdef int k
    if n <= 16 or x < 16:
        for k in range(<int>fmin(n, 16)):
            head *= 1 + h.decay * k
        if n <= 16:
            return h.lr / head
        n -= 16
        x += 16
        skipped = n * log1p(16 * h.decay)
    u = n / x
    if u > 1:
        log = log1p(u)
        mean = (1 + 1 / u) * log - 1
    else:                              # where that cancels: the series of log1p in s has positive terms only
        s = u / (2 + u)
        tail = log_series(s)
        log = 2 * s * (1 + tail)
        mean = s + (1 + s) * tail
    return h.lr / head * exp(-(skipped + n * mean - log / 2 + (stirling(x + n) - stirling(x))))


# The roll: a curve is chosen, at compile time, by the type of its numbers.

ctypedef fused Curve:
    Constant
    Exponential
    Geometric
    StepDecay
    StepBased
    InverseTime
    Linear
    LogLinear
    Cosine
    TimeBased

cdef inline double value(Curve h, double t) noexcept nogil:
    if Curve is Constant:
        return constant(h, t)
    elif Curve is Exponential:
        return exponential(h, t)
    elif Curve is Geometric:
        return geometric(h, t)
    elif Curve is StepDecay:
        return step_decay(h, t)
    elif Curve is StepBased:
        return step_based(h, t)
    elif Curve is InverseTime:
        return inverse_time(h, t)
    elif Curve is Linear:
        return linear(h, t)
    elif Curve is LogLinear:
        return log_linear(h, t)
    elif Curve is Cosine:
        return cosine(h, t)
    elif Curve is TimeBased:
        return time_based(h, t)
    else:
        value_has_no_branch_for(h)
