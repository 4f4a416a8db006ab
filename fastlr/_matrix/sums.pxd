# cython: language_level=3, cdivision=True
"""Sums of squares of rows and columns, with the same bits on every instruction set."""
from fastlr._kernels.lanes cimport sum_of_squares
from fastlr._kernels.structs cimport TILE
from fastlr.rules.element cimport real


cdef inline double sum_of_squares_by_tiles(const real* x, Py_ssize_t size) noexcept nogil:
    """As a step over rows adds them, which sees a row tile by tile."""
    cdef double total = 0
    cdef Py_ssize_t i = 0
    while i < size:
        total += sum_of_squares(x + i, size - i if size - i < TILE else TILE)
        i += TILE
    return total

cdef inline void add_squares_by_column(const real* restrict g, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t stride,
                                       double* restrict col_sums) noexcept nogil:
    """Row by row, in groups of four."""
    cdef Py_ssize_t i = 0, j
    cdef const real* restrict a
    cdef const real* restrict b
    cdef const real* restrict c
    cdef const real* restrict d
    while i + 4 <= rows:
        a, b, c, d = g + i * stride, g + (i + 1) * stride, g + (i + 2) * stride, g + (i + 3) * stride
        for j in range(cols):
            col_sums[j] = col_sums[j] + ((<double>a[j] * <double>a[j] + <double>b[j] * <double>b[j])
                                         + (<double>c[j] * <double>c[j] + <double>d[j] * <double>d[j]))
        i += 4
    while i < rows:
        a = g + i * stride
        for j in range(cols):
            col_sums[j] = col_sums[j] + <double>a[j] * <double>a[j]
        i += 1
