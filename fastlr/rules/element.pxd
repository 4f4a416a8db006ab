# cython: language_level=3, cdivision=True
"""What every rule is written with: the precision of an element, and functions of one element.

Only pure functions of a few elements that vectorise and give the same bits on every machine belong here.
"""
from libc.math cimport sqrt, sqrtf

cdef extern from *:
    """
    /* Cube roots and exponentials by additions, products, quotients and the bits of a float alone: they vectorise and
       give the same bits on every machine; libm's do neither. */
    #include <stdint.h>
    typedef union { float number; uint32_t bits; } fastlr_bits_of_float;
    typedef union { double number; uint64_t bits; } fastlr_bits_of_double;

    /* The cube root of x >= 0, within 1.3 ulp; subnormal x are returned as they are. Minus a third of the exponent
       gives the reciprocal root to within a ninth, a quadratic polynomial to within 3e-5, and 1 - root**3 / x corrects
       the last digits of the root. (No division, as rules use the divider. No product of many factors, so that none
       overflows.) */
    static inline float fastlr_cube_root_float(float x) {
        float r, c, y;
        fastlr_bits_of_float b;
        b.number = x;
        b.bits = 0x548e4000u - (uint32_t)(int32_t)((float)(int32_t)b.bits * 0.33333334f);
        r = b.number;
        c = (x * r) * (r * r);
        r = r * (1.7308432f - c * (1.1907524f - c * 0.46726695f));
        r = r * r;
        y = x * r;
        c = 1.0f - (y * y) * r;
        y = y + y * (c * 0.33333334f);
        return x >= 1.17549435e-38f && x <= 3.40282347e38f ? y : x;
    }
    static inline double fastlr_cube_root_double(double x) {
        double r, c, y;
        fastlr_bits_of_double b;
        b.number = x;
        b.bits = (0x553c72abu - ((b.bits >> 32) * 0x55555556u >> 32)) << 32;
        r = b.number;
        c = (x * r) * (r * r);
        r = r * (1.7308432 - c * (1.1907524 - c * 0.46726695));
        r = r * r;
        y = x * r;
        c = 1.0 - (y * y) * r;
        y = y + y * (c * (1.0 / 3 + c * (2.0 / 9 + c * (14.0 / 81 + c * (35.0 / 243)))));
        return x >= 2.2250738585072014e-308 && x <= 1.7976931348623157e308 ? y : x;
    }

    /* exp(-x) of x >= 0, within 1.2 ulp up to 64, and e**-64 above: 2**-n times a polynomial of n log 2 - x, by pairs
       of terms that do not depend on one another. Adding 1.5 * 2**23 (1.5 * 2**52) rounds to n and has n as its last
       bits. */
    static inline float fastlr_exp_of_minus_float(float x) {
        float n, z, q;
        fastlr_bits_of_float w;
        x = x < 64.0f ? x : 64.0f;
        w.number = x * 1.44269504f + 12582912.0f;
        n = w.number - 12582912.0f;
        z = n * 1.42860677e-06f - (x - n * 0.693145752f);
        w.bits = (127u << 23) - (w.bits << 23);
        q = z * z;
        return w.number * (1.0f + (z + q * ((1.0f / 2 + z * (1.0f / 6)) + q * ((1.0f / 24 + z * (1.0f / 120))
            + q * (1.0f / 720 + z * (1.0f / 5040))))));
    }
    static inline double fastlr_exp_of_minus_double(double x) {
        double n, z, q, qq, low, middle, high;
        fastlr_bits_of_double w;
        x = x < 64.0 ? x : 64.0;
        w.number = x * 1.4426950408889634 + 6755399441055744.0;
        n = w.number - 6755399441055744.0;
        z = n * 1.9082149292705877e-10 - (x - n * 0.6931471803691238);
        w.bits = ((uint64_t)1023 << 52) - (w.bits << 52);
        q = z * z;
        qq = q * q;
        low = (1.0 / 2 + z * (1.0 / 6)) + q * (1.0 / 24 + z * (1.0 / 120));
        middle = (1.0 / 720 + z * (1.0 / 5040)) + q * (1.0 / 40320 + z * (1.0 / 362880));
        high = (1.0 / 3628800 + z * (1.0 / 39916800)) + q * (1.0 / 479001600 + z * (1.0 / 6227020800.0));
        return w.number * (1.0 + (z + q * (low + qq * (middle + qq * high))));
    }
    """
    float fastlr_cube_root_float(float x) noexcept nogil
    double fastlr_cube_root_double(double x) noexcept nogil
    float fastlr_exp_of_minus_float(float x) noexcept nogil
    double fastlr_exp_of_minus_double(double x) noexcept nogil

ctypedef fused real:
    float
    double

cdef inline real root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)

cdef inline real larger(real x, real y) noexcept nogil:
    return x if x > y else y

cdef inline real smaller(real x, real y) noexcept nogil:
    return x if x < y else y

cdef inline real magnitude(real x) noexcept nogil:
    return x if x > <real>0 else -x

cdef inline real sign(real x) noexcept nogil:
    return <real>1 if x > <real>0 else <real>-1 if x < <real>0 else x      # (zero and NaN stay)

cdef inline real bounded(real x, real most) noexcept nogil:
    x = most if x > most else x
    return -most if x < -most else x                                       # (NaN stays)

cdef inline real cube_root(real x) noexcept nogil:
    if real is float:
        return fastlr_cube_root_float(x)
    else:
        return fastlr_cube_root_double(x)

cdef inline real exp_of_minus(real x) noexcept nogil:
    if real is float:
        return fastlr_exp_of_minus_float(x)
    else:
        return fastlr_exp_of_minus_double(x)

cdef inline double square(real x) noexcept nogil:
    """The square as a term of a sum: exact for float32."""
    return <double>x * <double>x

cdef inline bint same_sign(real x, real y) noexcept nogil:
    """Whether both are positive or both negative. (Their product would be flushed to zero where both are small.)"""
    return sign(x) * sign(y) > <real>0
