# cython: language_level=3, cdivision=True
"""Sums in lanes: the same bits for any alignment and instruction set.

Sixteen lanes of doubles, always added in the same order. Squares of float32 are exact in double.
"""
from fastlr.rules.element cimport real

cdef enum:
    LANES = 16

cdef inline double fold_half(double* lane) noexcept nogil:
    """The sum of the first half of the lanes."""
    cdef int j
    for j in range(LANES // 4):
        lane[j] = lane[j] + lane[j + LANES // 4]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])

cdef inline double fold_lanes(double* lane) noexcept nogil:
    """The sum of all lanes."""
    cdef int j
    for j in range(LANES // 2):
        lane[j] = lane[j] + lane[j + LANES // 2]
    return fold_half(lane)

cdef inline double sum_of_squares(const real* restrict x, Py_ssize_t size) noexcept nogil:
    cdef double[LANES] lane
    cdef double total = 0
    cdef Py_ssize_t i, j, whole = size // LANES * LANES
    if size < LANES:
        for i in range(size):
            total += <double>x[i] * <double>x[i]
        return total
    for j in range(LANES):             # (not set to 0 first, for which a compiler may call a slow function)
        lane[j] = <double>x[j] * <double>x[j]
    for i in range(1, size // LANES):
        for j in range(LANES):
            lane[j] = lane[j] + <double>x[i * LANES + j] * <double>x[i * LANES + j]
    for i in range(whole, size):
        lane[i - whole] = lane[i - whole] + <double>x[i] * <double>x[i]
    return fold_lanes(lane)
