# cython: language_level=3, cdivision=True
"""Muon's iteration on a small matrix, in one thread's own memory.

NumPy's calls alone cost some 50 us a matrix of 8 x 8, this 2 (benchmarks/benchmarks/bench_matrix.py). A product's
element is the sum of its terms in their order, so that no bit depends on instruction sets. Rows are padded to a
multiple of 4, columns to one of PRODUCT_COLS.
"""
from libc.string cimport memcpy, memset
from fastlr.rules.element cimport real

cdef enum:
    PRODUCT_COLS = 16          # columns of a product of small matrices that are made at a time
    WORKSPACE = 32768          # elements that the iteration of one small matrix may take, with all that it makes


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    """The columns in which a small matrix is multiplied."""
    return (n + PRODUCT_COLS - 1) // PRODUCT_COLS * PRODUCT_COLS

cdef inline bint fits_workspace(Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    cdef Py_ssize_t n = rows if rows < cols else cols, m = cols if rows < cols else rows
    cdef Py_ssize_t wide = padded(m), side = padded(n), lines = (n + 3) // 4 * 4
    return 2 * lines * wide + m * side + 3 * lines * side <= WORKSPACE

# (gcc keeps four rows of sixteen sums in registers; of eight it does not.)

cdef inline void product(real* restrict out, const real* restrict a, const real* restrict b, Py_ssize_t rows,
                         Py_ssize_t inner, Py_ssize_t a_stride, Py_ssize_t cols) noexcept nogil:
    """out = a @ b: rows are a multiple of 4, columns of PRODUCT_COLS."""
    cdef real[PRODUCT_COLS] sum0
    cdef real[PRODUCT_COLS] sum1
    cdef real[PRODUCT_COLS] sum2
    cdef real[PRODUCT_COLS] sum3
    cdef Py_ssize_t i, k, first = 0
    cdef int j
    cdef real x0, x1, x2, x3
    cdef const real* a0
    cdef const real* a1
    cdef const real* a2
    cdef const real* a3
    cdef const real* row
    cdef real* to
    while first < cols:
        i = 0
        while i < rows:
            a0 = a + i * a_stride
            a1, a2, a3 = a0 + a_stride, a0 + 2 * a_stride, a0 + 3 * a_stride
            for j in range(PRODUCT_COLS):
                sum0[j] = 0
                sum1[j] = 0
                sum2[j] = 0
                sum3[j] = 0
            for k in range(inner):
                x0, x1, x2, x3 = a0[k], a1[k], a2[k], a3[k]
                row = b + k * cols + first
                for j in range(PRODUCT_COLS):
                    sum0[j] = sum0[j] + x0 * row[j]
                    sum1[j] = sum1[j] + x1 * row[j]
                    sum2[j] = sum2[j] + x2 * row[j]
                    sum3[j] = sum3[j] + x3 * row[j]
            to = out + i * cols + first
            for j in range(PRODUCT_COLS):
                to[j] = sum0[j]
                to[cols + j] = sum1[j]
                to[2 * cols + j] = sum2[j]
                to[3 * cols + j] = sum3[j]
            i += 4
        first += PRODUCT_COLS

cdef inline void transpose(real* restrict out, const real* restrict x, Py_ssize_t rows, Py_ssize_t cols,
                           Py_ssize_t x_stride, Py_ssize_t out_stride) noexcept nogil:
    cdef Py_ssize_t i, j
    for j in range(cols):
        for i in range(rows):
            out[j * out_stride + i] = x[i * x_stride + j]

cdef inline void polynomial(real* restrict out, const real* restrict gram, const real* restrict square, real b, real c,
                            Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = c * square[i] + b * gram[i]

cdef inline void scale(real* restrict x, real factor, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        x[i] = x[i] * factor

cdef inline void iterate(real* update, Py_ssize_t rows, Py_ssize_t cols, real factor, const double* coefficients,
                         int steps, real* workspace) noexcept nogil:
    """update <- what `steps` iterations make of factor * update; each has three coefficients a, b, c."""
    cdef bint tall = rows > cols
    cdef Py_ssize_t n = cols if tall else rows, m = rows if tall else cols, i
    cdef Py_ssize_t wide = padded(m), side = padded(n), lines = (n + 3) // 4 * 4
    cdef real* x = workspace
    cdef real* next_x = x + lines * wide
    cdef real* transposed = next_x + lines * wide
    cdef real* gram = transposed + m * side
    cdef real* square = gram + lines * side
    cdef real* step = square + lines * side
    cdef int k
    memset(x, 0, lines * wide * sizeof(real))
    memset(transposed, 0, m * side * sizeof(real))
    if tall:
        transpose(x, update, m, n, n, wide)
    else:
        for i in range(n):
            memcpy(x + i * wide, update + i * m, m * sizeof(real))
    scale(x, factor, lines * wide)
    for k in range(steps):
        transpose(transposed, x, n, m, wide, side)
        product(gram, x, transposed, lines, m, wide, side)
        product(square, gram, gram, lines, n, side, side)
        polynomial(step, gram, square, <real>coefficients[3 * k + 1], <real>coefficients[3 * k + 2], lines * side)
        for i in range(n):
            step[i * side + i] = step[i * side + i] + <real>coefficients[3 * k]
        product(next_x, step, x, lines, n, side, wide)
        x, next_x = next_x, x
    if tall:
        transpose(update, x, n, m, wide, n)
        return
    for i in range(n):
        memcpy(update + i * m, x + i * wide, m * sizeof(real))
