# cython: language_level=3, cdivision=True
"""Every schedule, one instant at a time, in order of increasing complexity.

A curve is a struct of doubles and a function of the same name that gives the rate of update `t`
(t = 0 is the first). What may enter here: no memory, no Python, no arrays; `t` is finite and >= 0, and
the rate must then be a number for every such `t`, however large. Sums are of terms of one sign, so
that a rate is good to its last digits even where it has nearly vanished.
"""
from libc.math cimport ceil, exp, expm1, floor, fma, fmax, fmin, fmod, ldexp, log as ln, log1p, pow, sin, sqrt

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


# inverse_sqrt: lr / sqrt(1 + t / timescale)

cdef struct InverseSqrt:
    double lr, timescale

cdef inline double inverse_sqrt(InverseSqrt h, double t) noexcept nogil:
    return h.lr / sqrt(1 + t / h.timescale)


# inverse_power: lr * (1 + decay * t)**-power -- Caffe "inv"

cdef struct InversePower:
    double lr, decay, power

cdef inline double inverse_power(InversePower h, double t) noexcept nogil:
    # pow magnifies the rounding of its base `power` times: fma and the sum's remainder give it back
    cdef double x = h.decay * t, b = 1 + x, lost
    if not b < 1e300:
        return h.lr * pow(1e-300, h.power) * pow(1e-300 * h.decay * t, -h.power)
    lost = (1 - (b - x)) + (x - (b - (b - x))) + fma(h.decay, t, -x)
    return h.lr * pow(b, -h.power) * (1 - h.power * (lost / b))


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

cdef inline double log_linear(LogLinear h, double t) noexcept nogil:
    if t >= h.steps:
        return h.final
    if 1e-290 < h.lr < 1e290 and 1e-290 < h.final < 1e290 and 1e-290 < h.final / h.lr < 1e290:
        return h.lr * pow(h.final / h.lr, t / h.steps)
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
    w = pow((n - t) / n, h.power)
    if h.final == 0:
        return h.lr * w
    # (1 - w cancels where w is almost 1, which nobody sees unless the curve rises)
    return h.lr * w + h.final * (1 - w if w < 0.5 or h.final <= h.lr else -expm1(h.power * log1p(-t / n)))


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

cdef inline double logistic(double x) noexcept nogil:
    return 1 / (1 + exp(x)) if x < 700 else exp(-x) if x < 800 else 0

cdef inline double tanh(Tanh h, double t) noexcept nogil:
    cdef double x
    if t >= h.steps:
        return h.final
    x = 2 * (h.lower * ((h.steps - t) / h.steps) + h.upper * (t / h.steps))
    return h.lr * logistic(x) + h.final * logistic(-x)


# Cycles: a shape between 0 and 1 that repeats, an amplitude that may shrink with each cycle or each update.

cdef inline double amplitude(double per_cycle, double cycle, double per_update, double t) noexcept nogil:
    cdef double a = 1
    if per_cycle == 0.5:
        a = ldexp(1, <int>fmax(-cycle, -1100))     # a fifth of the time of pow
    elif per_cycle != 1:
        a = pow(per_cycle, cycle)
    return a if per_update == 1 else a * pow(per_update, t)

cdef inline double between(double low, double high, double w) noexcept nogil:
    return low * (1 - w) + high * w        # not low + (high - low) * w, which can fall below both


cdef inline double turn(double t, double period, double* cycle) noexcept nogil:
    # fmod and the quotient's floor, the two always of the same mind; fma makes the difference exact
    cdef double x
    cycle[0] = floor(t / period)
    if cycle[0] > 1e15:
        return fmod(t, period)
    x = fma(-cycle[0], period, t)
    if x < 0:                              # the division was rounded up to a whole number
        cycle[0] -= 1
        x += period
    return x


# triangular -- Smith 2017, arXiv:1506.01186

cdef struct Triangular:
    double lr, peak, up, down, amplitude_factor, update_factor

cdef inline double triangular(Triangular h, double t) noexcept nogil:
    cdef double cycle, period = h.up + h.down, x = turn(t, period, &cycle)
    cdef double w = x / h.up if x <= h.up else (period - x) / h.down
    return between(h.lr, h.peak, w * amplitude(h.amplitude_factor, cycle, h.update_factor, t))


# sine: the absolute value of a sine, `steps` updates up and as many down

cdef struct Sine:
    double lr, peak, steps, amplitude_factor, update_factor

cdef inline double sine(Sine h, double t) noexcept nogil:
    cdef double cycle, period = 2 * h.steps, x = turn(t, period, &cycle)
    cdef double w = sin(1.5707963267948966 * ((x if x <= h.steps else period - x) / h.steps))
    return between(h.lr, h.peak, w * amplitude(h.amplitude_factor, cycle, h.update_factor, t))


# cosine_wave: (1 - cos(pi t / steps)) / 2, without end

cdef struct CosineWave:
    double lr, peak, steps, amplitude_factor, update_factor

cdef inline double cosine_wave(CosineWave h, double t) noexcept nogil:
    cdef double cycle, period = 2 * h.steps, x = turn(t, period, &cycle)
    cdef double w = half_sine_squared((x if x <= h.steps else period - x) / h.steps)
    return between(h.lr, h.peak, w * amplitude(h.amplitude_factor, cycle, h.update_factor, t))


# saw: falls from lr to final, again and again

cdef struct Saw:
    double lr, steps, final, amplitude_factor, update_factor

cdef inline double saw(Saw h, double t) noexcept nogil:
    cdef double cycle, x = turn(t, h.steps, &cycle)
    cdef double w = (h.steps - x) / h.steps
    return between(h.final, h.lr, w * amplitude(h.amplitude_factor, cycle, h.update_factor, t))


# sine_saw: ... as a quarter of a sine

cdef struct SineSaw:
    double lr, steps, final, amplitude_factor, update_factor

cdef inline double sine_saw(SineSaw h, double t) noexcept nogil:
    cdef double cycle, x = turn(t, h.steps, &cycle)
    cdef double w = sin(1.5707963267948966 * ((h.steps - x) / h.steps))
    return between(h.final, h.lr, w * amplitude(h.amplitude_factor, cycle, h.update_factor, t))


# cosine_restarts -- arXiv:1608.03983; cycle i lasts steps * cycle_factor**i updates

cdef struct CosineRestarts:
    double lr, steps, final, cycle_factor, amplitude_factor, update_factor

cdef inline double cosine_restarts(CosineRestarts h, double t) noexcept nogil:
    cdef double cycle, n = h.steps, begin, x, w
    if h.cycle_factor == 1:
        x = turn(t, n, &cycle)
    else:
        t = fmin(t, 1e100)                 # beyond, lengths overflow
        # the logarithm may err by one at a boundary: the boundaries decide
        cycle = floor(log1p(t / h.steps * (h.cycle_factor - 1)) / ln(h.cycle_factor))
        n = h.steps * pow(h.cycle_factor, cycle)
        begin = (n - h.steps) / (h.cycle_factor - 1)
        if begin > t:
            cycle -= 1
            n = h.steps * pow(h.cycle_factor, cycle)
            begin = (n - h.steps) / (h.cycle_factor - 1)
        elif begin + n <= t:
            cycle += 1
            begin += n
            n *= h.cycle_factor
        x = fmin(fmax(t - begin, 0), n)
    w = half_sine_squared((n - x) / n) if x > n / 2 else 1 - half_sine_squared(x / n)
    return between(h.final, h.lr, w * amplitude(h.amplitude_factor, cycle, h.update_factor, t))


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
        return log_linear(h, t)
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
        return triangular(h, t)
    elif Curve is Sine:
        return sine(h, t)
    elif Curve is CosineWave:
        return cosine_wave(h, t)
    elif Curve is Saw:
        return saw(h, t)
    elif Curve is SineSaw:
        return sine_saw(h, t)
    elif Curve is CosineRestarts:
        return cosine_restarts(h, t)
    elif Curve is TimeBased:
        return time_based(h, t)
    else:
        value_has_no_branch_for(h)
