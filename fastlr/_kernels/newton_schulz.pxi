# Muon: a momentum's look ahead, and the iteration that evens out its singular values. Included by matrix_blocks.pxi.
#
# A small matrix is evened out here, whole, in one thread's own memory: NumPy's calls alone cost some 50 us a matrix of
# 8 x 8, this 2 (benchmarks/benchmarks/bench_matrix.py). A product's element is the sum of its terms in their order,
# so that no bit depends on instruction sets. Rows are padded to a multiple of 4, columns to one of SIDE.

cdef void lean_row(real* restrict u, const real* restrict g, const real* restrict m, real beta, real rest, real share_m,
                   real share_g, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = share_m * (beta * m[j] + rest * g[j]) + share_g * g[j]

cdef void act_lean(real* typed, MatrixBlock* s) noexcept nogil:
    cdef Py_ssize_t i, k, n, run = s.cols, rows = s.rows
    s.sum[0] = 0
    if s.cols == s.stride:
        run, rows = s.rows * s.cols, 1
    for i in range(rows):
        k = 0
        while k < run:                 # (in pieces that are still in cache when they are squared)
            n = run - k if run - k < SPREAD else SPREAD
            lean_row(<real*>s.v + i * s.stride + k, <const real*>s.g + i * s.stride + k,
                     <const real*>s.m + i * s.stride + k, <real>s.beta, <real>(1 - s.beta), <real>s.share_m,
                     <real>s.share_g, n)
            s.sum[0] += sum_of_squares(<const real*>s.v + i * s.stride + k, n)
            k += n

cdef void scaled_row(real* restrict u, real by, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = u[j] * by

cdef void act_scaled(real* typed, MatrixBlock* s) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(s.rows):
        scaled_row(<real*>s.v + i * s.stride, <real>s.by, s.cols)

cdef void mean_of_row(real* restrict m, const real* restrict g, real beta, real rest, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * g[j]

cdef void act_moved(real* typed, MatrixBlock* s) noexcept nogil:
    cdef Py_ssize_t i, k, n, run = s.cols, rows = s.rows
    if s.cols == s.stride:
        run, rows = s.rows * s.cols, 1
    for i in range(rows):
        mean_of_row(<real*>s.m + i * s.stride, <const real*>s.g + i * s.stride, <real>s.beta, <real>(1 - s.beta), run)
        k = 0
        while k < run:
            n = run - k if run - k < SPREAD else SPREAD
            give(s, <real*>s.v + i * s.stride + k, s.start + i * s.stride + k, n, sizeof(real))
            k += n


# Small matrices. (gcc keeps four rows of sixteen sums in registers; of eight it does not.)

cdef void product(real* restrict out, const real* restrict a, const real* restrict b, Py_ssize_t rows, Py_ssize_t decay_inside_update,
                  Py_ssize_t from_row, Py_ssize_t cols) noexcept nogil:
    """out = a @ b: rows are a multiple of 4, columns of SIDE."""
    cdef real[SIDE] sum0
    cdef real[SIDE] sum1
    cdef real[SIDE] sum2
    cdef real[SIDE] sum3
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
            a0 = a + i * from_row
            a1, a2, a3 = a0 + from_row, a0 + 2 * from_row, a0 + 3 * from_row
            for j in range(SIDE):
                sum0[j] = 0
                sum1[j] = 0
                sum2[j] = 0
                sum3[j] = 0
            for k in range(decay_inside_update):
                x0, x1, x2, x3 = a0[k], a1[k], a2[k], a3[k]
                row = b + k * cols + first
                for j in range(SIDE):
                    sum0[j] = sum0[j] + x0 * row[j]
                    sum1[j] = sum1[j] + x1 * row[j]
                    sum2[j] = sum2[j] + x2 * row[j]
                    sum3[j] = sum3[j] + x3 * row[j]
            to = out + i * cols + first
            for j in range(SIDE):
                to[j] = sum0[j]
                to[cols + j] = sum1[j]
                to[2 * cols + j] = sum2[j]
                to[3 * cols + j] = sum3[j]
            i += 4
        first += SIDE

cdef void transposed(real* restrict out, const real* restrict x, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t from_row,
                     Py_ssize_t to_row) noexcept nogil:
    cdef Py_ssize_t i, j
    for j in range(cols):
        for i in range(rows):
            out[j * to_row + i] = x[i * from_row + j]

cdef void polynomial(real* restrict out, const real* restrict gram, const real* restrict square, real b, real c,
                     Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = c * square[i] + b * gram[i]

cdef void act_evened(real* typed, MatrixBlock* s) noexcept nogil:
    cdef bint tall = s.rows > s.cols
    cdef Py_ssize_t n = s.cols if tall else s.rows, m = s.rows if tall else s.cols, i, j
    cdef Py_ssize_t is_double = padded(m), side = padded(n), lines = (n + 3) // 4 * 4
    cdef real* x = <real*>s.room
    cdef real* next_x = x + lines * is_double
    cdef real* turned = next_x + lines * is_double
    cdef real* gram = turned + m * side
    cdef real* square = gram + lines * side
    cdef real* step = square + lines * side
    cdef real* u = <real*>s.v
    cdef real by = <real>s.by
    cdef int turn
    memset(x, 0, lines * is_double * sizeof(real))
    memset(turned, 0, m * side * sizeof(real))
    if tall:
        transposed(x, u, m, n, n, is_double)
    else:
        for i in range(n):
            memcpy(x + i * is_double, u + i * m, m * sizeof(real))
    scaled_row(x, by, lines * is_double)
    for turn in range(s.turn_count):
        transposed(turned, x, n, m, is_double, side)
        product(gram, x, turned, lines, m, is_double, side)
        product(square, gram, gram, lines, n, side, side)
        polynomial(step, gram, square, <real>s.turns[3 * turn + 1], <real>s.turns[3 * turn + 2], lines * side)
        for i in range(n):
            step[i * side + i] = step[i * side + i] + <real>s.turns[3 * turn]
        product(next_x, step, x, lines, n, side, is_double)
        x, next_x = next_x, x
    if tall:
        transposed(u, x, n, m, is_double, n)
        return
    for i in range(n):
        memcpy(u + i * m, x + i * is_double, m * sizeof(real))
