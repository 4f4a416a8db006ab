# cython: language_level=3, cdivision=True
"""Powers, floors and sines in a few nanoseconds, with the same bits on every machine.

libm's pow takes 24 ns a call, most of it for the logarithm of its base, and the base of a geometric decay is the same
at every update. So `Power` stores that logarithm in two doubles, and a power is one exponential: 6 ns, within 0.52 ulp
like the best of libm's. This file holds only pure functions of a few doubles that are short enough to be inlined.
"""
from libc.math cimport INFINITY, pow, sqrt
from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    /* 2**(i/32), rounded, and the error of that rounding */
    static const double FASTLR_ROOTS_OF_TWO[64] = {
        1.0, 0.0, 1.0218971486541166, 5.109225028973444e-17,
        1.0442737824274138, 8.551889705537965e-17, 1.0671404006768237, -7.899853966841582e-17,
        1.0905077326652577, -3.046782079812471e-17, 1.1143867425958924, 1.0410278456845571e-16,
        1.1387886347566916, 8.912812676025408e-17, 1.1637248587775775, 3.8292048369240935e-17,
        1.189207115002721, 3.982015231465646e-17, 1.215247359980469, -7.712630692681488e-17,
        1.241857812073484, 4.658027591836937e-17, 1.2690509571917332, 2.667932131342186e-18,
        1.2968395546510096, 2.5382502794888315e-17, 1.3252366431597413, -2.8587312100388614e-17,
        1.3542555469368927, 7.70094837980299e-17, 1.383909881963832, -6.770511658794786e-17,
        1.4142135623730951, -9.667293313452913e-17, 1.4451808069770467, -3.0237581349939873e-17,
        1.4768261459394993, -3.483994556892796e-17, 1.5091644275934228, -1.016455327754295e-16,
        1.5422108254079407, 7.949834809697621e-17, 1.5759808451078865, -1.0136916471278304e-17,
        1.6104903319492543, 2.4707192569797888e-17, 1.645755478153965, -1.0125679913674773e-16,
        1.681792830507429, 8.199010020581497e-17, 1.718619298122478, -1.851380418263111e-17,
        1.7562521603732995, 2.960140695448873e-17, 1.7947090750031072, 1.8227458427912087e-17,
        1.8340080864093424, 3.283107224245627e-17, 1.8741676341103, -6.122763413004143e-17,
        1.9152065613971474, -1.0619946056195963e-16, 1.9571441241754002, 8.960767791036668e-17,
    };
    """
    const double[64] ROOTS_OF_TWO "FASTLR_ROOTS_OF_TWO"

# A base and its binary logarithm, log2_high + log2_low. log2_high has at most 26 bits: its products do not round.

cdef struct Power:
    double base, log2_high, log2_low

cdef union Bits:
    uint64_t integer
    double number

cdef inline double power_of_two(int k) noexcept nogil:
    """For -1022 <= k <= 1023."""
    cdef Bits bits
    bits.integer = <uint64_t>(k + 1023) << 52
    return bits.number

cdef inline double scaled_power(Power p, double exponent, double factor) noexcept nogil:
    """factor * p.base**exponent, for exponent >= 0."""
    cdef double x, head, tail, n, r, z, grown
    cdef int k
    if p.base == 0:
        return factor if exponent == 0 else 0
    x = exponent * (p.log2_high + p.log2_low)
    if x == 0:
        return factor
    if not -1500 < x < 1100:
        return 0 if x < 0 or factor == 0 else INFINITY
    # x again, to 70 bits: the exponent's upper half times log2_high is exact
    head = exponent * 134217729.0
    head = head - (head - exponent)
    tail = exponent - head
    n = (x * 32 + 6755399441055744.0) - 6755399441055744.0         # to the nearest whole number
    r = (head * p.log2_high - n * 0.03125) + (tail * p.log2_high + exponent * p.log2_low)
    z = r * 0.6931471805599453
    z = z + z * z * (
        1.0 / 2 + z * (1.0 / 6 + z * (1.0 / 24 + z * (1.0 / 120 + z * (1.0 / 720 + z * (1.0 / 5040)))))
    )
    k = <int>n
    grown = ROOTS_OF_TWO[2 * (k & 31)]
    grown = factor * (grown + (ROOTS_OF_TWO[2 * (k & 31) + 1] + grown * z))
    k = k >> 5
    if -1000 < k < 1000:
        return grown * power_of_two(k)
    return grown * power_of_two(k // 2) * power_of_two(k - k // 2)


cdef inline double power_of(double x, double power) noexcept nogil:
    """x**power for a base that changes; the usual powers without libm's pow."""
    if power == 1:
        return x
    if power == 2:
        return x * x
    if power == 3:
        return x * x * x
    if power == 0.5:
        return sqrt(x)
    return pow(x, power)


cdef inline double floor_of(double x) noexcept nogil:
    """floor(x) for x >= 0, without a function call."""
    cdef double n = (x + 4503599627370496.0) - 4503599627370496.0
    n = n - 1 if n > x else n
    return n if x < 4503599627370496.0 else x


cdef inline double sin_half_pi_low(double p) noexcept nogil:
    """sin(pi p / 2) for 0 <= p <= 1/2, by the series of the sine."""
    cdef double y = p * p
    return p * (1.5707963267948966 + (6.123233995736766e-17 + y * (
        -0.64596409750624625366 + y * (0.079692626246167045121 + y * (-0.0046817541353186881007 + y * (
            0.00016044118478735982187 + y * (-3.5988432352120853405e-6 + y * (
                5.6921729219679268118e-8 + y * (-6.6880351098114672325e-10)))))))))


cdef inline double sin_half_pi(double p) noexcept nogil:
    """sin(pi p / 2) for 0 <= p <= 1; above 1/2 by the series of cos(pi (1 - p) / 2)."""
    cdef double z = (1 - p) * (1 - p)
    cdef double s = sin_half_pi_low(p)
    cdef double c = 1 - z * (1.2337005501361698274 - z * (
        0.25366950790104801364 - z * (0.020863480763352960873 - z * (0.00091926027483942658024 - z * (
            0.000025202042373060605481 - z * (4.7108747788181715037e-7 - z * (
                6.3866030837918522411e-9 - z * 6.5659631149794723622e-11)))))))
    return s if p < 0.5 else c
