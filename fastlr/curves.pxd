# cython: language_level=3, cdivision=True
"""The formula of every curve, one rate at a time, in order of increasing complexity.

A curve is a struct of doubles and a function of the same name in lower case: its rate at update `t`, 0 being the first.
`fastlr/build_schedules.py` reads this file when fastlr is built and writes the code that calls the functions: no other
list of them is kept. A signature is

    cdef inline double NAME(STRUCT h, [const Power* X, ...] [Cycle* cache,] double t) noexcept nogil

`X` is the Power of h.X, made once; where the struct has no X, that of NAME_X(h), a function of this file. `cache` is a
Cycle that the calls of one array share.

`t` is finite and >= 0, and the rate must be a number for every such t, however large. No memory, no Python and no
arrays here. Sums have terms of one sign, so that a rate keeps its last digits where it has almost vanished.
"""
from libc.math cimport exp, expm1, fma, fmod, log as ln, log1p, pow, sqrt

from fastlr.powers cimport (
    Power, floor_of, power_of, power_of_two, scaled_power, sin_half_pi, sin_half_pi_low,
)


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
    # exp magnifies the rounding error of its argument up to 700 times: fma computes that error, to correct for it
    return h.lr * exp(-x) * (1 - fma(h.decay, t, -x)) if x < 800 else 0


# geometric: lr * factor**t -- torch ExponentialLR

cdef struct Geometric:
    double lr, factor

cdef inline double geometric(Geometric h, const Power* factor, double t) noexcept nogil:
    return scaled_power(factor[0], t, h.lr)


# step_decay: lr * factor**floor(t / every) -- torch StepLR

cdef struct StepDecay:
    double lr, every, factor

cdef inline double step_decay(StepDecay h, const Power* factor, double t) noexcept nogil:
    return scaled_power(factor[0], floor_of(t / h.every), h.lr)


# step_based: lr * drop**floor((1 + t) / every), one update earlier

cdef struct StepBased:
    double lr, drop, every

cdef inline double step_based(StepBased h, const Power* drop, double t) noexcept nogil:
    return scaled_power(drop[0], floor_of((1 + t) / h.every), h.lr)


# inverse_time: lr / (1 + decay * t / every) -- Keras InverseTimeDecay

cdef struct InverseTime:
    double lr, decay, every, staircase

cdef inline double inverse_time(InverseTime h, double t) noexcept nogil:
    cdef double p = t / h.every
    return h.lr / (1 + h.decay * (floor_of(p) if h.staircase else p))


# inverse_sqrt: lr / sqrt(1 + t / timescale)

cdef struct InverseSqrt:
    double lr, timescale

cdef inline double inverse_sqrt(InverseSqrt h, double t) noexcept nogil:
    return h.lr / sqrt(1 + t / h.timescale)


# inverse_power: lr * (1 + decay * t)**-power -- Caffe "inv"

cdef struct InversePower:
    double lr, decay, power

cdef inline double inverse_power(InversePower h, double t) noexcept nogil:
    # a power above 1 magnifies the rounding error of its base: fma and the sum's remainder compute that error
    cdef double x = h.decay * t, b = 1 + x, lost, y
    if not b < 1e300:
        y = h.lr * pow(1e-300, h.power)
        return y * pow(1e-300 * h.decay * t, -h.power) if y > 0 else 0
    y = h.lr / power_of(b, h.power)
    if h.power <= 1:
        return y
    lost = (1 - (b - x)) + (x - (b - (b - x))) + fma(h.decay, t, -x)
    x = h.power * (lost / b)
    if -1e-8 < x < 1e-8:                   # (1 - x is exp(-x) to the last digit)
        return y * (1 - x)
    return y * exp(-x) if y > 0 else 0


# noam: factor / sqrt(d_model) * min(n**-0.5, n * warmup_steps**-1.5), n = t + 1 -- arXiv:1706.03762

cdef struct Noam:
    double d_model, warmup_steps, factor

cdef inline double noam(Noam h, double t) noexcept nogil:
    cdef double n = t + 1
    if n < h.warmup_steps:
        return h.factor * (n / h.warmup_steps) / (sqrt(h.d_model) * sqrt(h.warmup_steps))
    return h.factor / (sqrt(h.d_model) * sqrt(n))


# sigmoid: lr / (1 + exp(-slope * (t - middle)))

cdef struct Sigmoid:
    double lr, slope, middle

cdef inline double sigmoid(Sigmoid h, double t) noexcept nogil:
    cdef double x = h.slope * (h.middle - t)
    if x > 700:                            # before the exponential overflows
        return h.lr * exp(-x) if x < 800 else 0
    return h.lr / (1 + exp(x))


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

cdef inline double log_linear_ratio(LogLinear h) noexcept nogil:
    return h.final / h.lr

cdef inline double log_linear(LogLinear h, const Power* ratio, double t) noexcept nogil:
    if t >= h.steps:
        return h.final
    if 1e-290 < h.lr < 1e290 and 1e-290 < h.final < 1e290 and 1e-290 < h.final / h.lr < 1e290:
        return scaled_power(ratio[0], t / h.steps, h.lr)
    return pow(h.lr, (h.steps - t) / h.steps) * pow(h.final, t / h.steps)


# cosine -- Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts
# (1 + cos(pi p)) / 2 = 1 - sin(pi p / 2)**2 = sin(pi (1 - p) / 2)**2: each half by the form that does not cancel there

cdef struct Cosine:
    double lr, steps, final

cdef inline double half_sine_squared(double p) noexcept nogil:
    """sin(pi p / 2)**2 for 0 <= p <= 1/2."""
    cdef double s = sin_half_pi_low(p)
    return s * s

cdef inline double cosine(Cosine h, double t) noexcept nogil:
    cdef bint late = t >= h.steps / 2
    cdef double w = half_sine_squared((h.steps - t if late else t) / h.steps)
    cdef double y = h.lr * (w if late else 1 - w) + h.final * (1 - w if late else w)
    return h.final if t >= h.steps else y


# cosine_power: ... as (order**c - 1) / (order - 1), c that cosine -- Hundt et al. 2019, arXiv:1903.09900
# and 1 minus that as (order - order**c) / (order - 1): each by expm1, which does not cancel, or from the smaller other

cdef struct CosinePower:
    double lr, steps, final, order

cdef inline double cosine_power(CosinePower h, const Power* order, double t) noexcept nogil:
    cdef bint late = t >= h.steps / 2
    cdef double w = half_sine_squared((h.steps - t if late else t) / h.steps)
    cdef double c = w if late else 1 - w, rest = 1 - w if late else w
    cdef double logarithm = 0.6931471805599453 * (order.log2_high + order.log2_low)
    if t >= h.steps:
        return h.final
    if h.order > 1:
        rest = -expm1(-rest * logarithm) * (h.order / (h.order - 1))
        c = 1 - rest if rest < 0.5 else expm1(c * logarithm) / (h.order - 1)
    return h.lr * c + h.final * rest


# polynomial: final + (lr - final) * (1 - t / steps)**power; with cycle, of the multiple of steps >= t

cdef struct Polynomial:
    double lr, steps, power, final, cycle

cdef inline double polynomial(Polynomial h, double t) noexcept nogil:
    cdef double n = h.steps, left = n - t, cycle, w
    if t >= n:
        if not h.cycle:
            return h.final
        left = n - time_in_cycle(t, n, &cycle)     # (the end of a cycle, less t, would be rounded for t near 2**53)
        n *= cycle + 1
        if left == h.steps or not n <= 1e300:      # at the end of a cycle; or where doubles end
            return h.final
    w = power_of(left / n, h.power)
    if h.final == 0:
        return h.lr * w
    # where w is almost 1, 1 - w cancels, which matters only where the curve rises
    if w < 0.5 or h.final <= h.lr:
        return h.lr * w + h.final * (1 - w)
    return h.lr * w - h.final * expm1(h.power * (log1p(-t / n) if t < n / 2 else ln(left / n)))


# one_minus_sqrt: lr at 0 to final at steps as 1 - sqrt(p) = (1 - p) / (1 + sqrt(p))

cdef struct OneMinusSqrt:
    double lr, steps, final

cdef inline double one_minus_sqrt(OneMinusSqrt h, double t) noexcept nogil:
    cdef double root
    if t >= h.steps:
        return h.final
    root = sqrt(t / h.steps)
    return h.lr * ((h.steps - t) / h.steps / (1 + root)) + h.final * root


# one_minus_square: ... as 1 - p**2 = (1 - p) * (1 + p)

cdef struct OneMinusSquare:
    double lr, steps, final

cdef inline double one_minus_square(OneMinusSquare h, double t) noexcept nogil:
    cdef double p = t / h.steps
    if t >= h.steps:
        return h.final
    return h.lr * ((h.steps - t) / h.steps * (1 + p)) + h.final * (p * p)


# rex: ... as (1 - p) / (1 - p / 2) -- Chen et al. 2021, arXiv:2107.04197

cdef struct Rex:
    double lr, steps, final

cdef inline double rex(Rex h, double t) noexcept nogil:
    cdef double d = h.steps - t / 2
    if t >= h.steps:
        return h.final
    return h.lr * ((h.steps - t) / d) + h.final * (t / 2 / d)


# tanh: ... as (1 - tanh(x)) / 2 = 1 / (1 + exp(2 x)), x from lower at 0 to upper at steps -- arXiv:1806.01593

cdef struct Tanh:
    double lr, steps, final, lower, upper

cdef inline double tanh(Tanh h, double t) noexcept nogil:
    cdef double x = 2 * (h.lower * ((h.steps - t) / h.steps) + h.upper * (t / h.steps))
    cdef double e, large, small
    if t >= h.steps:
        return h.final
    e = exp(-x if x > 0 else x)
    large, small = 1 / (1 + e), e / (1 + e)
    return h.lr * (small if x > 0 else large) + h.final * (large if x > 0 else small)


# Cycles: a shape between 0 and 1 that repeats, times an amplitude that may shrink with each cycle or each update.

cdef inline double amplitude(const Power* per_cycle, double cycle, const Power* per_update, double t) noexcept nogil:
    cdef double a = 1
    if per_cycle.base == 0.5 and cycle < 1000:
        a = power_of_two(-<int>cycle)        # the usual factor, at a tenth of the cost
    elif per_cycle.base != 1:
        a = scaled_power(per_cycle[0], cycle, 1)
    return a if per_update.base == 1 else scaled_power(per_update[0], t, a)

cdef inline double interpolate(double low, double high, double w) noexcept nogil:
    return low * (1 - w) + high * w        # not low + (high - low) * w, which can fall below both


cdef inline double time_in_cycle(double t, double period, double* cycle) noexcept nogil:
    # t mod period, and the number of the cycle; the two always agree, as fma makes the difference exact
    cdef double x
    cycle[0] = floor_of(t / period)
    if t < 4503599627370496.0:             # a whole number of whole periods is exact
        x = t - cycle[0] * period
    elif cycle[0] > 1e15:
        return fmod(t, period)
    else:
        x = fma(-cycle[0], period, t)
    if x < 0:                              # the division was rounded up to a whole number
        cycle[0] -= 1
        x += period
    return x


# triangular -- Smith 2017, arXiv:1506.01186

cdef struct Triangular:
    double lr, peak, up, down, amplitude_factor, update_factor

cdef inline double triangular(
    Triangular h, const Power* amplitude_factor, const Power* update_factor, double t
) noexcept nogil:
    cdef double cycle, period = h.up + h.down, x = time_in_cycle(t, period, &cycle)
    cdef double w = x / h.up if x <= h.up else (period - x) / h.down
    return interpolate(h.lr, h.peak, w * amplitude(amplitude_factor, cycle, update_factor, t))


# sine: the absolute value of a sine, `steps` updates up and as many down

cdef struct Sine:
    double lr, peak, steps, amplitude_factor, update_factor

cdef inline double sine(
    Sine h, const Power* amplitude_factor, const Power* update_factor, double t
) noexcept nogil:
    cdef double cycle, period = 2 * h.steps, x = time_in_cycle(t, period, &cycle)
    cdef double w = sin_half_pi(((x if x <= h.steps else period - x) / h.steps))
    return interpolate(h.lr, h.peak, w * amplitude(amplitude_factor, cycle, update_factor, t))


# cosine_wave: (1 - cos(pi t / steps)) / 2, without end

cdef struct CosineWave:
    double lr, peak, steps, amplitude_factor, update_factor

cdef inline double cosine_wave(
    CosineWave h, const Power* amplitude_factor, const Power* update_factor, double t
) noexcept nogil:
    cdef double cycle, period = 2 * h.steps, x = time_in_cycle(t, period, &cycle)
    cdef double p = (x if x <= h.steps else period - x) / h.steps
    cdef double w = half_sine_squared(p) if p < 0.5 else 1 - half_sine_squared(1 - p)
    return interpolate(h.lr, h.peak, w * amplitude(amplitude_factor, cycle, update_factor, t))


# saw: falls from lr to final, again and again

cdef struct Saw:
    double lr, steps, final, amplitude_factor, update_factor

cdef inline double saw(
    Saw h, const Power* amplitude_factor, const Power* update_factor, double t
) noexcept nogil:
    cdef double cycle, x = time_in_cycle(t, h.steps, &cycle)
    cdef double w = (h.steps - x) / h.steps
    return interpolate(h.final, h.lr, w * amplitude(amplitude_factor, cycle, update_factor, t))


# sine_saw: ... as a quarter of a sine

cdef struct SineSaw:
    double lr, steps, final, amplitude_factor, update_factor

cdef inline double sine_saw(
    SineSaw h, const Power* amplitude_factor, const Power* update_factor, double t
) noexcept nogil:
    cdef double cycle, x = time_in_cycle(t, h.steps, &cycle)
    cdef double w = sin_half_pi(((h.steps - x) / h.steps))
    return interpolate(h.final, h.lr, w * amplitude(amplitude_factor, cycle, update_factor, t))


# cosine_restarts -- arXiv:1608.03983; cycle i lasts steps * cycle_factor**i updates

cdef struct CosineRestarts:
    double lr, steps, final, cycle_factor, amplitude_factor, update_factor

cdef struct Cycle:
    double number, begin, end          # begin <= t < end

cdef inline double cycle_begin(double cycle, CosineRestarts h, const Power* cycle_factor) noexcept nogil:
    return (scaled_power(cycle_factor[0], cycle, h.steps) - h.steps) / (h.cycle_factor - 1)

cdef inline double cosine_restarts(
    CosineRestarts h, const Power* amplitude_factor, const Power* update_factor, const Power* cycle_factor,
    Cycle* cache, double t
) noexcept nogil:
    # the cycle of the previous t is mostly that of this t too, which saves three powers and a logarithm
    cdef double cycle, n = h.steps, x, w
    if h.cycle_factor == 1:
        x = time_in_cycle(t, n, &cycle)
    else:
        t = t if t < 1e100 else 1e100      # beyond, lengths overflow
        if not cache.begin <= t < cache.end:
            # the logarithm may err by one at a boundary: the boundaries decide
            cycle = floor_of(
                1.4426950408889634 * ln(1 + t / h.steps * (h.cycle_factor - 1))
                / (cycle_factor.log2_high + cycle_factor.log2_low)
            )
            if cycle < 1e15:               # of more, doubles cannot tell the begins apart
                while cycle > 0 and cycle_begin(cycle, h, cycle_factor) > t:
                    cycle -= 1
                while cycle_begin(cycle + 1, h, cycle_factor) <= t:
                    cycle += 1
            cache.number, cache.begin = cycle, cycle_begin(cycle, h, cycle_factor)
            cache.end = cycle_begin(cycle + 1, h, cycle_factor)
        cycle, n, x = cache.number, cache.end - cache.begin, t - cache.begin
        if not 0 <= x < n:
            x, n = 0, 1
    w = half_sine_squared((n - x) / n) if x > n / 2 else 1 - half_sine_squared(x / n)
    return interpolate(h.final, h.lr, w * amplitude(amplitude_factor, cycle, update_factor, t))


# time_based: eta_{n+1} = eta_n / (1 + decay * n), so eta_n = lr / prod_{k<n} (1 + decay * k)
#
# In constant time. With x = 1/decay the product is Gamma(x + n) / (Gamma(x) x**n); by Stirling, with u = n/x,
#     ln prod = n mean - log1p(u)/2 + stirling(x + n) - stirling(x),   mean = (1 + 1/u) log1p(u) - 1.
# The leading terms of ln Gamma have been cancelled in the formula, where no digit is lost; lgamma would lose all digits
# of a small decay. Stirling's series needs x >= 16: below it, 16 factors are multiplied first, and the remaining ones
# start at x + 16: factors x + k = x + 16 + k', divided by x instead of x + 16.

cdef struct TimeBased:
    double lr, decay

cdef inline double stirling(double x) noexcept nogil:
    cdef double r = 1 / x
    cdef double y = r * r
    return r * (1.0 / 12 - y * (1.0 / 360 - y * (1.0 / 1260 - y * (1.0 / 1680 - y * (1.0 / 1188)))))

cdef inline double log1p_series(double s) noexcept nogil:
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
    cdef double n = floor_of(t), x = 1 / h.decay, head = 1, skipped = 0, u, s, tail, log, mean
    cdef bint early = x < 16
    cdef double begin = stirling(x + 16 if early else x)
    cdef int k
    if n <= 16 or early:
        for k in range(<int>n if n < 16 else 16):
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
        tail = log1p_series(s)
        log = 2 * s * (1 + tail)
        mean = s + (1 + s) * tail
    return h.lr / head * exp(-(skipped + n * mean - log / 2 + (stirling(x + n) - begin)))
