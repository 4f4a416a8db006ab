# cython: language_level=3, cdivision=True
"""Every schedule, one instant at a time, in order of increasing complexity.

A curve is a struct of doubles and a function of the same name that gives the rate of update `t`
(t = 0 is the first). What may enter here: no memory, no Python, no arrays; `t` is finite and >= 0, and
the rate must then be a number for every such `t`, however large. Sums are of terms of one sign, so
that a rate is good to its last digits even where it has nearly vanished. A curve that raises one of its numbers to
a power of the time says so in `bases`, at the end, and is given that number's `Power`, made once.
"""
from libc.math cimport ceil, exp, expm1, fma, fmod, log as ln, log1p, pow, sqrt

from fastlr.powers cimport Power, eighth_sine, quarter_sine, raised, to_the, two_to_the, whole

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

cdef inline double geometric(Geometric h, const Power* factor, double t) noexcept nogil:
    return raised(factor[0], t, h.lr)


# step_decay: lr * factor**floor(t / every) -- torch StepLR

cdef struct StepDecay:
    double lr, every, factor

cdef inline double step_decay(StepDecay h, const Power* factor, double t) noexcept nogil:
    return raised(factor[0], whole(t / h.every), h.lr)


# step_based: lr * drop**floor((1 + t) / every), one update earlier

cdef struct StepBased:
    double lr, drop, every

cdef inline double step_based(StepBased h, const Power* drop, double t) noexcept nogil:
    return raised(drop[0], whole((1 + t) / h.every), h.lr)


# inverse_time: lr / (1 + decay * t / every) -- Keras InverseTimeDecay

cdef struct InverseTime:
    double lr, decay, every, staircase

cdef inline double inverse_time(InverseTime h, double t) noexcept nogil:
    cdef double p = t / h.every
    return h.lr / (1 + h.decay * (whole(p) if h.staircase else p))


# inverse_sqrt: lr / sqrt(1 + t / timescale)

cdef struct InverseSqrt:
    double lr, timescale

cdef inline double inverse_sqrt(InverseSqrt h, double t) noexcept nogil:
    return h.lr / sqrt(1 + t / h.timescale)


# inverse_power: lr * (1 + decay * t)**-power -- Caffe "inv"

cdef struct InversePower:
    double lr, decay, power

cdef inline double inverse_power(InversePower h, double t) noexcept nogil:
    # a power above 1 magnifies the rounding of its base: fma and the sum's remainder give it back
    cdef double x = h.decay * t, b = 1 + x, lost
    if not b < 1e300:
        return h.lr * pow(1e-300, h.power) * pow(1e-300 * h.decay * t, -h.power)
    if h.power <= 1:
        return h.lr / to_the(b, h.power)
    lost = (1 - (b - x)) + (x - (b - (b - x))) + fma(h.decay, t, -x)
    return h.lr / to_the(b, h.power) * (1 - h.power * (lost / b))


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

cdef inline double log_linear(LogLinear h, const Power* ratio, double t) noexcept nogil:
    if t >= h.steps:
        return h.final
    if 1e-290 < h.lr < 1e290 and 1e-290 < h.final < 1e290 and 1e-290 < h.final / h.lr < 1e290:
        return raised(ratio[0], t / h.steps, h.lr)
    return pow(h.lr, (h.steps - t) / h.steps) * pow(h.final, t / h.steps)


# cosine -- Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts
# (1 + cos(pi p)) / 2 = 1 - sin(pi p / 2)**2 = sin(pi (1 - p) / 2)**2: each half by what does not cancel there

cdef struct Cosine:
    double lr, steps, final

cdef inline double half_sine_squared(double p) noexcept nogil:
    """sin(pi p / 2)**2 for 0 <= p <= 1/2."""
    cdef double s = eighth_sine(p)
    return s * s

cdef inline double cosine(Cosine h, double t) noexcept nogil:
    cdef bint late = t >= h.steps / 2
    cdef double w = half_sine_squared((h.steps - t if late else t) / h.steps)
    cdef double y = h.lr * (w if late else 1 - w) + h.final * (1 - w if late else w)
    return h.final if t >= h.steps else y


# polynomial: final + (lr - final) * (1 - t / steps)**power; with cycle, of the multiple of steps >= t

cdef struct Polynomial:
    double lr, steps, power, final, cycle

cdef inline double polynomial(Polynomial h, double t) noexcept nogil:
    cdef double n = h.steps, w
    if t >= n:
        if not h.cycle:
            return h.final
        n *= ceil(t / n)
        if not t < n <= 1e300:             # at the end of a cycle; or where doubles end
            return h.final
    w = to_the((n - t) / n, h.power)
    if h.final == 0:
        return h.lr * w
    # (1 - w cancels where w is almost 1, which nobody sees unless the curve rises)
    if w < 0.5 or h.final <= h.lr:
        return h.lr * w + h.final * (1 - w)
    return h.lr * w - h.final * expm1(h.power * (log1p(-t / n) if t < n / 2 else ln((n - t) / n)))


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


# Cycles: a shape between 0 and 1 that repeats, an amplitude that may shrink with each cycle or each update.

cdef inline double amplitude(const Power* per_cycle, double cycle, const Power* per_update, double t) noexcept nogil:
    cdef double a = 1
    if per_cycle.base == 0.5 and cycle < 1000:
        a = two_to_the(-<int>cycle)        # the usual one, at a tenth of the cost
    elif per_cycle.base != 1:
        a = raised(per_cycle[0], cycle, 1)
    return a if per_update.base == 1 else raised(per_update[0], t, a)

cdef inline double between(double low, double high, double w) noexcept nogil:
    return low * (1 - w) + high * w        # not low + (high - low) * w, which can fall below both


cdef inline double turn(double t, double period, double* cycle) noexcept nogil:
    # fmod and the quotient's floor, the two always of the same mind; fma makes the difference exact
    cdef double x
    cycle[0] = whole(t / period)
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

cdef inline double triangular(Triangular h, const Power* factors, double t) noexcept nogil:
    cdef double cycle, period = h.up + h.down, x = turn(t, period, &cycle)
    cdef double w = x / h.up if x <= h.up else (period - x) / h.down
    return between(h.lr, h.peak, w * amplitude(factors, cycle, factors + 1, t))


# sine: the absolute value of a sine, `steps` updates up and as many down

cdef struct Sine:
    double lr, peak, steps, amplitude_factor, update_factor

cdef inline double sine(Sine h, const Power* factors, double t) noexcept nogil:
    cdef double cycle, period = 2 * h.steps, x = turn(t, period, &cycle)
    cdef double w = quarter_sine(((x if x <= h.steps else period - x) / h.steps))
    return between(h.lr, h.peak, w * amplitude(factors, cycle, factors + 1, t))


# cosine_wave: (1 - cos(pi t / steps)) / 2, without end

cdef struct CosineWave:
    double lr, peak, steps, amplitude_factor, update_factor

cdef inline double cosine_wave(CosineWave h, const Power* factors, double t) noexcept nogil:
    cdef double cycle, period = 2 * h.steps, x = turn(t, period, &cycle)
    cdef double p = (x if x <= h.steps else period - x) / h.steps
    cdef double w = half_sine_squared(p) if p < 0.5 else 1 - half_sine_squared(1 - p)
    return between(h.lr, h.peak, w * amplitude(factors, cycle, factors + 1, t))


# saw: falls from lr to final, again and again

cdef struct Saw:
    double lr, steps, final, amplitude_factor, update_factor

cdef inline double saw(Saw h, const Power* factors, double t) noexcept nogil:
    cdef double cycle, x = turn(t, h.steps, &cycle)
    cdef double w = (h.steps - x) / h.steps
    return between(h.final, h.lr, w * amplitude(factors, cycle, factors + 1, t))


# sine_saw: ... as a quarter of a sine

cdef struct SineSaw:
    double lr, steps, final, amplitude_factor, update_factor

cdef inline double sine_saw(SineSaw h, const Power* factors, double t) noexcept nogil:
    cdef double cycle, x = turn(t, h.steps, &cycle)
    cdef double w = quarter_sine(((h.steps - x) / h.steps))
    return between(h.final, h.lr, w * amplitude(factors, cycle, factors + 1, t))


# cosine_restarts -- arXiv:1608.03983; cycle i lasts steps * cycle_factor**i updates

cdef struct CosineRestarts:
    double lr, steps, final, cycle_factor, amplitude_factor, update_factor

cdef struct Cycle:
    double number, begin, end          # not before the one, before the other

cdef inline double begin_of(double cycle, CosineRestarts h, const Power* factors) noexcept nogil:
    return (raised(factors[2], cycle, h.steps) - h.steps) / (h.cycle_factor - 1)

cdef inline double cosine_restarts(CosineRestarts h, const Power* factors, Cycle* last, double t) noexcept nogil:
    # `last` is the cycle of the time asked for before: mostly it is this one's, which spares powers and a logarithm
    cdef double cycle, n = h.steps, x, w
    if h.cycle_factor == 1:
        x = turn(t, n, &cycle)
    else:
        t = t if t < 1e100 else 1e100      # beyond, lengths overflow
        if not last.begin <= t < last.end:
            # the logarithm may err by one at a boundary: the boundaries decide
            cycle = whole(
                1.4426950408889634 * ln(1 + t / h.steps * (h.cycle_factor - 1)) / (factors[2].high + factors[2].low)
            )
            if cycle < 1e15:               # of more, the begins are not told apart
                while cycle > 0 and begin_of(cycle, h, factors) > t:
                    cycle -= 1
                while begin_of(cycle + 1, h, factors) <= t:
                    cycle += 1
            last.number, last.begin = cycle, begin_of(cycle, h, factors)
            last.end = begin_of(cycle + 1, h, factors)
        cycle, n, x = last.number, last.end - last.begin, t - last.begin
        if not 0 <= x < n:
            x, n = 0, 1
    w = half_sine_squared((n - x) / n) if x > n / 2 else 1 - half_sine_squared(x / n)
    return between(h.final, h.lr, w * amplitude(factors, cycle, factors + 1, t))


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
    cdef double n = whole(t), x = 1 / h.decay, head = 1, skipped = 0, u, s, tail, log, mean
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
        tail = log_series(s)
        log = 2 * s * (1 + tail)
        mean = s + (1 + s) * tail
    return h.lr / head * exp(-(skipped + n * mean - log / 2 + (stirling(x + n) - begin)))


# The roll: a curve is chosen, at compile time, by the type of its numbers.

ctypedef fused Curve:
    Constant
    Exponential
    Geometric
    StepDecay
    StepBased
    InverseTime
    InverseSqrt
    InversePower
    Noam
    Sigmoid
    Linear
    LogLinear
    Cosine
    Polynomial
    OneMinusSqrt
    OneMinusSquare
    Rex
    Tanh
    Triangular
    Sine
    CosineWave
    Saw
    SineSaw
    CosineRestarts
    TimeBased

cdef inline void bases(Curve h, double* base) noexcept nogil:
    """What the curve raises to powers: at most three numbers."""
    if Curve is Geometric or Curve is StepDecay:
        base[0] = h.factor
    elif Curve is StepBased:
        base[0] = h.drop
    elif Curve is LogLinear:
        base[0] = h.final / h.lr
    elif Curve is Triangular or Curve is Sine or Curve is CosineWave or Curve is Saw or Curve is SineSaw:
        base[0], base[1] = h.amplitude_factor, h.update_factor
    elif Curve is CosineRestarts:
        base[0], base[1], base[2] = h.amplitude_factor, h.update_factor, h.cycle_factor

cdef inline double value(Curve h, const Power* powers, Cycle* last, double t) noexcept nogil:
    """The rate; `last` is a cycle without end, {0, 1, 0}, for the first time and then left alone."""
    if Curve is Constant:
        return constant(h, t)
    elif Curve is Exponential:
        return exponential(h, t)
    elif Curve is Geometric:
        return geometric(h, powers, t)
    elif Curve is StepDecay:
        return step_decay(h, powers, t)
    elif Curve is StepBased:
        return step_based(h, powers, t)
    elif Curve is InverseTime:
        return inverse_time(h, t)
    elif Curve is InverseSqrt:
        return inverse_sqrt(h, t)
    elif Curve is InversePower:
        return inverse_power(h, t)
    elif Curve is Noam:
        return noam(h, t)
    elif Curve is Sigmoid:
        return sigmoid(h, t)
    elif Curve is Linear:
        return linear(h, t)
    elif Curve is LogLinear:
        return log_linear(h, powers, t)
    elif Curve is Cosine:
        return cosine(h, t)
    elif Curve is Polynomial:
        return polynomial(h, t)
    elif Curve is OneMinusSqrt:
        return one_minus_sqrt(h, t)
    elif Curve is OneMinusSquare:
        return one_minus_square(h, t)
    elif Curve is Rex:
        return rex(h, t)
    elif Curve is Tanh:
        return tanh(h, t)
    elif Curve is Triangular:
        return triangular(h, powers, t)
    elif Curve is Sine:
        return sine(h, powers, t)
    elif Curve is CosineWave:
        return cosine_wave(h, powers, t)
    elif Curve is Saw:
        return saw(h, powers, t)
    elif Curve is SineSaw:
        return sine_saw(h, powers, t)
    elif Curve is CosineRestarts:
        return cosine_restarts(h, powers, last, t)
    elif Curve is TimeBased:
        return time_based(h, t)
    else:
        value_has_no_branch_for(h)
