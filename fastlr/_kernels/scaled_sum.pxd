# cython: language_level=3, cdivision=True
"""Sums of squares of doubles that may overflow or vanish: kept as a sum and a power of two, as BLAS does in `nrm2`.

Only where a plain sum was lost. A sum has the same bits for any threads, as it is added in the order of the elements.
"""
from libc.math cimport INFINITY, fabs, ilogb, ldexp, sqrt

cdef struct ScaledSum:
    double sum             # of squares, times 2**(-2 * exponent)
    int exponent
    bint begun             # whether something other than 0 was added

cdef inline double smallest_squares() noexcept nogil:
    """Below this, a sum may have lost terms that matter: 2**-900."""
    return 1.1830521861667747e-271

cdef inline bint is_lost_sum(double squares) noexcept nogil:
    """Whether squares of finite numbers may have overflowed or vanished."""
    return squares == <double>INFINITY or squares < smallest_squares()

cdef inline void clear_sum(ScaledSum* s) noexcept nogil:
    s.sum, s.exponent, s.begun = 0, 0, False

cdef inline void add_square(ScaledSum* s, double x) noexcept nogil:
    """Add the square of a number; NaN and infinity stay what they are."""
    cdef int exponent
    if x == 0:
        return
    if not fabs(x) < <double>INFINITY:
        s.sum = s.sum + fabs(x)
        return
    exponent = ilogb(x)
    if not s.begun:
        s.exponent, s.begun = exponent, True
    elif exponent > s.exponent:
        s.sum, s.exponent = ldexp(s.sum, 2 * (s.exponent - exponent)), exponent
    x = ldexp(x, -s.exponent)
    s.sum = s.sum + x * x

cdef inline double root_of_sum(const ScaledSum* s) noexcept nogil:
    """The norm."""
    return ldexp(sqrt(s.sum), s.exponent)
