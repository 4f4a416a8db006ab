# cython: language_level=3, cdivision=True
"""Norms of doubles whose squares overflow or vanish: sums of squares of scaled elements.

Squares of float32 are always doubles. Of float64 a plain sum is right unless it is infinite or so small that squares
may have been lost; then its elements are scaled by a power of two, which is exact, and added again. That is rare, and
done in one thread.
"""
from libc.math cimport INFINITY, fabs

cdef extern from *:
    """
    #define FASTLR_SCALE_UP 0x1p600
    #define FASTLR_SCALE_DOWN 0x1p-600
    #define FASTLR_LEAST_SAFE_SUM 0x1p-900
    #define FASTLR_LEAST_SAFE_ELEMENT 0x1p-450
    #define FASTLR_LARGEST_SAFE_ELEMENT 0x1p450
    """
    const double SCALE_UP "FASTLR_SCALE_UP"
    const double SCALE_DOWN "FASTLR_SCALE_DOWN"
    const double LEAST_SAFE_SUM "FASTLR_LEAST_SAFE_SUM"
    const double LEAST_SAFE_ELEMENT "FASTLR_LEAST_SAFE_ELEMENT"
    const double LARGEST_SAFE_ELEMENT "FASTLR_LARGEST_SAFE_ELEMENT"


cdef inline bint is_lost(double sum_of_squares) noexcept nogil:
    """Whether squares may have overflowed or vanished."""
    return sum_of_squares == <double>INFINITY or sum_of_squares < LEAST_SAFE_SUM

cdef inline double scale_for_sum(double sum_of_squares) noexcept nogil:
    """A factor of the elements of a sum that is lost."""
    return SCALE_UP if sum_of_squares < LEAST_SAFE_SUM else SCALE_DOWN

cdef inline double scale_for_largest(double largest) noexcept nogil:
    """A factor of elements of which that is the largest; 1 where they need none, are zero or not finite."""
    if largest == 0 or not largest < <double>INFINITY:
        return 1
    return SCALE_DOWN if largest > LARGEST_SAFE_ELEMENT else SCALE_UP if largest < LEAST_SAFE_ELEMENT else 1

cdef inline double scaled_sum_of_squares(const double* x, Py_ssize_t size, double scale) noexcept nogil:
    cdef double total = 0, y
    cdef Py_ssize_t i
    for i in range(size):
        y = x[i] * scale
        total += y * y
    return total

cdef inline double largest_magnitude(const double* x, Py_ssize_t size) noexcept nogil:
    """NaN if there is one."""
    cdef double largest = 0
    cdef Py_ssize_t i
    for i in range(size):
        if not fabs(x[i]) <= largest:
            largest = fabs(x[i])
            if largest != largest:
                return largest
    return largest
