# cython: language_level=3, cdivision=True
"""Sums over consecutive elements, piece by piece: of squares, of differences, of what is above a threshold."""
from libc.math cimport INFINITY
from fastlr._kernels.inlining cimport inlined
from fastlr._kernels.lanes cimport LANES, fold_lanes
from fastlr._kernels.scaled_sum cimport is_lost_sum
from fastlr.rules.element cimport real


# Pieces have 512 bytes, and are added in double. Of float32 a lane adds what it takes of a piece, at most eight
# numbers, in float32: a sum of squares is then within 5e-7 of itself, in a third of the time that doubles take.

cdef enum:
    PIECE_BYTES = 512
    WIDTH = 2 * LANES          # partial sums of what is compared (loops over 16, gcc unrolls before it makes vectors)

cdef inline Py_ssize_t piece_of(real* also_typed) noexcept nogil:
    """Elements of a piece, which is also what is stepped at a time: a core then loads the next from memory while it
    constrains these. (A box on pieces of 512 bytes costs nothing, on 1024 7 %, on 2048 28 %.)"""
    return PIECE_BYTES // sizeof(real)

cdef inline void clear_lanes(double* total) noexcept nogil:
    cdef int j
    for j in range(LANES):
        total[j] = 0

cdef inline void clear_total(double* total) noexcept nogil:
    clear_lanes(total)
    clear_lanes(total + LANES)

cdef inline double fold_total(double* total) noexcept nogil:
    """The sum of all partial sums."""
    cdef int j
    for j in range(LANES):
        total[j] = total[j] + total[j + LANES]
    return fold_lanes(total)

# (Each is inlined with a constant size for whole pieces, whose lanes are then kept in registers.)

cdef inline inlined add_squares_of_piece(double* restrict total, const real* restrict x,
                                         Py_ssize_t size) noexcept nogil:
    cdef real[LANES] lane
    cdef Py_ssize_t i, j
    for j in range(LANES):
        lane[j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            lane[j] = lane[j] + x[i * LANES + j] * x[i * LANES + j]
    for j in range(LANES):
        total[j] = total[j] + <double>lane[j]
    for j in range(size % LANES):
        i = size // LANES * LANES + j
        total[j] = total[j] + <double>(x[i] * x[i])

cdef inline inlined add_differences_of_piece(double* restrict total, const real* restrict x, const real* restrict y,
                                             Py_ssize_t size) noexcept nogil:
    cdef real[LANES] lane
    cdef Py_ssize_t i, j
    for j in range(LANES):
        lane[j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            lane[j] = lane[j] + (x[i * LANES + j] - y[i * LANES + j]) * (x[i * LANES + j] - y[i * LANES + j])
    for j in range(LANES):
        total[j] = total[j] + <double>lane[j]
    for j in range(size % LANES):
        i = size // LANES * LANES + j
        total[j] = total[j] + <double>((x[i] - y[i]) * (x[i] - y[i]))

cdef inline inlined add_positive_of_piece(double* restrict total, double* restrict count, const real* restrict x,
                                          Py_ssize_t size) noexcept nogil:
    cdef real[WIDTH] lane
    cdef real[WIDTH] counted
    cdef real one = 1, nothing = 0
    cdef Py_ssize_t i, j
    for j in range(WIDTH):
        lane[j] = counted[j] = 0
    for i in range(size // WIDTH):
        for j in range(WIDTH):
            lane[j] = lane[j] + (nothing if x[i * WIDTH + j] <= nothing else x[i * WIDTH + j])
            counted[j] = counted[j] + (nothing if x[i * WIDTH + j] <= nothing else one)
    for j in range(WIDTH):
        total[j] = total[j] + <double>lane[j]
        count[j] = count[j] + <double>counted[j]
    for j in range(size % WIDTH):
        i = size // WIDTH * WIDTH + j
        total[j] = total[j] + <double>(nothing if x[i] <= nothing else x[i])
        count[j] = count[j] + <double>(nothing if x[i] <= nothing else one)

cdef inline inlined lower_piece(double* restrict total, double* restrict count, real* restrict x, real by,
                                Py_ssize_t size) noexcept nogil:
    """max(x - by, 0) of each element, added up; NaN stays."""
    cdef real[WIDTH] lane
    cdef real[WIDTH] counted
    cdef real part, one = 1, nothing = 0
    cdef Py_ssize_t i, j
    for j in range(WIDTH):
        lane[j] = counted[j] = 0
    for i in range(size // WIDTH):
        for j in range(WIDTH):
            part = x[i * WIDTH + j] - by
            counted[j] = counted[j] + (nothing if part <= nothing else one)
            part = nothing if part <= nothing else part
            lane[j] = lane[j] + part
            x[i * WIDTH + j] = part
    for j in range(WIDTH):
        total[j] = total[j] + <double>lane[j]
        count[j] = count[j] + <double>counted[j]
    for j in range(size % WIDTH):
        i = size // WIDTH * WIDTH + j
        part = x[i] - by
        count[j] = count[j] + <double>(nothing if part <= nothing else one)
        part = nothing if part <= nothing else part
        total[j] = total[j] + <double>part
        x[i] = part

cdef inline void add_squares(double* total, const real* x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i = 0, piece = piece_of(<real*>NULL)
    while i + piece <= size:
        add_squares_of_piece(total, x + i, PIECE_BYTES // sizeof(real))
        i += piece
    if i < size:
        add_squares_of_piece(total, x + i, size - i)

cdef inline void add_differences(double* total, const real* x, const real* y, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i = 0, piece = piece_of(<real*>NULL)
    while i + piece <= size:
        add_differences_of_piece(total, x + i, y + i, PIECE_BYTES // sizeof(real))
        i += piece
    if i < size:
        add_differences_of_piece(total, x + i, y + i, size - i)

cdef inline void add_positive(double* total, double* count, const real* x, Py_ssize_t size) noexcept nogil:
    """The elements above 0, and how many those are. (NaN is taken for one.)"""
    cdef Py_ssize_t i = 0, piece = piece_of(<real*>NULL)
    while i + piece <= size:
        add_positive_of_piece(total, count, x + i, PIECE_BYTES // sizeof(real))
        i += piece
    if i < size:
        add_positive_of_piece(total, count, x + i, size - i)

cdef inline double largest_element(const real* restrict x, Py_ssize_t size) noexcept nogil:
    cdef real[WIDTH] lane
    cdef real most
    cdef Py_ssize_t i, j, whole = size // WIDTH * WIDTH
    if size < WIDTH:
        most = x[0]
        for i in range(1, size):
            most = x[i] if x[i] > most else most
        return <double>most
    for j in range(WIDTH):
        lane[j] = x[j]
    for i in range(1, size // WIDTH):
        for j in range(WIDTH):
            lane[j] = x[i * WIDTH + j] if x[i * WIDTH + j] > lane[j] else lane[j]
    most = lane[0]
    for j in range(1, WIDTH):
        most = lane[j] if lane[j] > most else most
    for i in range(whole, size):
        most = x[i] if x[i] > most else most
    return <double>most

cdef inline bint is_lost(double squares, Py_ssize_t size, real* also_typed) noexcept nogil:
    """Whether squares of so many finite numbers may have overflowed or vanished. (Kernels flush what is below 1.2e-38
    in float32 to zero.)"""
    if real is double:
        return is_lost_sum(squares)
    else:
        return squares < 1e-30 * size or squares == <double>INFINITY
