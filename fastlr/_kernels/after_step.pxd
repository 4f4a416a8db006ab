# cython: language_level=3, cdivision=True
"""What is done to elements after their step, while they are in the cache: constraints, and sums of what moved.

Constraints are of the parameter as it is stored; those by row take the whole row, which is in one chunk.
"""
from libc.math cimport INFINITY, fabs, sqrt
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from fastlr._kernels.lanes cimport LANES, fold_lanes, sum_of_squares
from fastlr._kernels.scaled_sum cimport ScaledSum, add_square, clear_sum, is_lost_sum, root_of_sum
from fastlr._kernels.structs cimport (
    BOX, MAX_NORM, MEASURED_TOGETHER, MOVED_SUMS, SIMPLEX, TILE, AfterStep, GradientView, ScalarGroup, StepJob,
    TensorView,
)
from fastlr._kernels.tiles cimport is_native, load_param, load_tile, store_param, store_shadow, update_ema
from fastlr.rules.element cimport real


cdef enum:
    NARROW_LANES = 64          # partial sums of a tile of float32

cdef inline double fold_narrow(const float* lane) noexcept nogil:
    """The sum of NARROW_LANES lanes of float32."""
    cdef double[LANES] total
    cdef int j
    for j in range(LANES):
        total[j] = (<double>lane[j] + <double>lane[j + LANES]) \
            + (<double>lane[j + 2 * LANES] + <double>lane[j + 3 * LANES])
    return fold_lanes(total)

cdef inline double squares_of_tile(const real* restrict x, Py_ssize_t size) noexcept nogil:
    """The sum of squares of at most TILE elements.

    Of float32 in float32: each lane adds four squares, so that the sum is within 2e-7 of itself, in a third of the time
    that doubles take.
    """
    cdef float[NARROW_LANES] lane
    cdef Py_ssize_t i, j, whole = size // NARROW_LANES * NARROW_LANES
    if real is double:
        return sum_of_squares(x, size)
    else:
        for j in range(NARROW_LANES):
            lane[j] = 0
        for i in range(size // NARROW_LANES):
            for j in range(NARROW_LANES):
                lane[j] = lane[j] + x[i * NARROW_LANES + j] * x[i * NARROW_LANES + j]
        for i in range(whole, size):
            lane[i - whole] = lane[i - whole] + x[i] * x[i]
        return fold_narrow(lane)

cdef inline double squares_of_difference(const real* restrict x, const real* restrict y,
                                         Py_ssize_t size) noexcept nogil:
    """The same of x - y."""
    cdef float[NARROW_LANES] lane
    cdef double[TILE] wide
    cdef Py_ssize_t i, j, whole = size // NARROW_LANES * NARROW_LANES
    if real is double:
        for i in range(size):
            wide[i] = x[i] - y[i]
        return sum_of_squares(&wide[0], size)
    else:
        for j in range(NARROW_LANES):
            lane[j] = 0
        for i in range(size // NARROW_LANES):
            for j in range(NARROW_LANES):
                lane[j] = lane[j] + (x[i * NARROW_LANES + j] - y[i * NARROW_LANES + j]) \
                    * (x[i * NARROW_LANES + j] - y[i * NARROW_LANES + j])
        for i in range(whole, size):
            lane[i - whole] = lane[i - whole] + (x[i] - y[i]) * (x[i] - y[i])
        return fold_narrow(lane)

cdef inline void bound_elements(real* restrict p, double low, double high, Py_ssize_t size) noexcept nogil:
    """Each element to [low, high]; NaN stays."""
    cdef Py_ssize_t i
    cdef real least = <real>low, most = <real>high
    cdef real x
    for i in range(size):
        x = least if p[i] < least else p[i]
        p[i] = most if x > most else x

cdef inline void scale_elements(real* restrict p, double factor, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real by = <real>factor
    for i in range(size):
        p[i] = p[i] * by

cdef inline void lower_elements(real* restrict p, double by, Py_ssize_t size) noexcept nogil:
    """max(p - by, 0) of each element."""
    cdef Py_ssize_t i
    cdef real less = <real>by, nothing = 0
    for i in range(size):
        p[i] = p[i] - less if p[i] > less else nothing

cdef inline double row_norm(const TensorView* view, Py_ssize_t start, Py_ssize_t size,
                            real* also_typed) noexcept nogil:
    """The norm of consecutive elements, also where squares overflow or vanish."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef ScaledSum total
    cdef real* p
    cdef double squares = 0
    cdef Py_ssize_t i = start, k, n
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        squares += squares_of_tile(load_param(scratch, raw, view, i, n), n)
        i += n
    if not (is_lost_sum(squares) if view.is_double else squares < 1e-30 or squares == <double>INFINITY):
        return sqrt(squares)
    clear_sum(&total)
    i = start
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        p = load_param(scratch, raw, view, i, n)
        for k in range(n):
            add_square(&total, p[k])
        i += n
    return root_of_sum(&total)

cdef inline double largest_element(const real* restrict p, double most, Py_ssize_t size) noexcept nogil:
    """The largest of `most` and the elements."""
    cdef real[LANES] lane
    cdef Py_ssize_t i, j
    for j in range(LANES):
        lane[j] = <real>most
    for i in range(size // LANES):
        for j in range(LANES):
            lane[j] = p[i * LANES + j] if p[i * LANES + j] > lane[j] else lane[j]
    for i in range(size // LANES * LANES, size):
        lane[0] = p[i] if p[i] > lane[0] else lane[0]
    for j in range(LANES):
        most = <double>lane[j] if <double>lane[j] > most else most
    return most

cdef inline double sum_above(const real* restrict p, double bound, Py_ssize_t size) noexcept nogil:
    """The sum of p - bound of the elements above a bound."""
    cdef double[LANES] lane
    cdef Py_ssize_t i, j, whole = size // LANES * LANES
    for j in range(LANES):
        lane[j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            lane[j] = lane[j] + (<double>p[i * LANES + j] - bound if <double>p[i * LANES + j] > bound else 0.0)
    for i in range(whole, size):
        lane[i - whole] = lane[i - whole] + (<double>p[i] - bound if <double>p[i] > bound else 0.0)
    return fold_lanes(lane)

cdef inline double count_above(const real* restrict p, double bound, Py_ssize_t size) noexcept nogil:
    """How many elements are above a bound."""
    cdef double[LANES] lane
    cdef Py_ssize_t i, j, whole = size // LANES * LANES
    for j in range(LANES):
        lane[j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            lane[j] = lane[j] + (1.0 if <double>p[i * LANES + j] > bound else 0.0)
    for i in range(whole, size):
        lane[i - whole] = lane[i - whole] + (1.0 if <double>p[i] > bound else 0.0)
    return fold_lanes(lane)

cdef inline double simplex_threshold(const TensorView* view, Py_ssize_t start, Py_ssize_t size, double total,
                                     real* also_typed) noexcept nogil:
    """By how much elements are lowered so that those above 0 have this sum (Michelot 1986, doi:10.1007/BF00938486).

    At least the largest less the sum. Those that are above a bound give the next, which is no lower; it stays when the
    same elements are above it.
    """
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef const real* p
    cdef double bound = -INFINITY, sums, count = -1, above = 0
    cdef Py_ssize_t i = start, n
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        bound = largest_element(load_param(scratch, raw, view, i, n), bound, n)
        i += n
    # (a little less: the largest itself is above it, whatever is rounded)
    bound = bound - total - fabs(bound) * 1e-6
    while above != count and bound > -<double>INFINITY:
        count, above, sums, i = above, 0, 0, start
        while i < start + size:
            n = start + size - i if start + size - i < TILE else TILE
            p = load_param(scratch, raw, view, i, n)
            sums += sum_above(p, bound, n)
            above += count_above(p, bound, n)
            i += n
        if above == 0:
            break                      # (of what is not finite)
        bound = bound + (sums - total) / above
    return bound

cdef inline void constrain_row(const StepJob* job, const TensorView* view, const AfterStep* after, Py_ssize_t start,
                               Py_ssize_t size, real* also_typed) noexcept nogil:
    """One row, or of a box any consecutive elements."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef real* p
    cdef double number = 1
    cdef Py_ssize_t i = start, n
    if after.constraint == SIMPLEX:
        number = simplex_threshold(view, start, size, after.high, also_typed)
    elif after.constraint != BOX:
        number = row_norm(view, start, size, also_typed)
        if after.constraint == MAX_NORM and not number > after.high or number == 0:
            return
        number = after.high / number
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        p = load_param(scratch, raw, view, i, n)
        if after.constraint == BOX:
            bound_elements(p, after.low, after.high, n)
        elif after.constraint == SIMPLEX:
            lower_elements(p, number, n)
        else:
            scale_elements(p, number, n)
        store_param(p, raw, view, i, n, job)
        i += n

cdef inline void constrain_range(const StepJob* job, const TensorView* view, const AfterStep* after, Py_ssize_t start,
                                 Py_ssize_t size, real* also_typed) noexcept nogil:
    """Consecutive elements: whole rows, where a constraint is by row."""
    cdef Py_ssize_t i = start
    if after.constraint == BOX:
        if view.layout == NULL and view.low_bits == NULL and is_native(view.stored, also_typed):
            bound_elements(<real*>view.p + start, after.low, after.high, size)
        else:
            constrain_row(job, view, after, start, size, also_typed)
        return
    while i < start + size:
        constrain_row(job, view, after, i, after.row, also_typed)
        i += after.row

cdef inline void follow_range(const TensorView* view, const ScalarGroup* group, Py_ssize_t start, Py_ssize_t size,
                              real* also_typed) noexcept nogil:
    """Let running mean and low-precision copy follow consecutive elements."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef real* p
    cdef Py_ssize_t i = start, n
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        p = load_param(scratch, raw, view, i, n)
        if view.ema != NULL:
            update_ema(<real*>view.ema + i, p, group.ema_decay, n)
        if view.shadow != NULL:
            store_shadow(view, p, raw, i, n)
        i += n


# What moved

cdef inline void keep_elements(real* restrict kept, const TensorView* view, Py_ssize_t start, Py_ssize_t size,
                               real* also_typed) noexcept nogil:
    """A copy of at most MEASURED_TOGETHER elements."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef Py_ssize_t i = 0, n
    while i < size:
        n = size - i if size - i < TILE else TILE
        memcpy(kept + i, load_param(scratch, raw, view, start + i, n), n * sizeof(real))
        i += n

cdef inline void measure_moved(double* sums, const real* before, const TensorView* view, const GradientView* gradient,
                               Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """Add the squares of consecutive elements that were kept before their step."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef const real* p
    cdef const real* g
    cdef Py_ssize_t i = 0, n
    while i < size:
        n = size - i if size - i < TILE else TILE
        p = load_param(scratch_p, raw, view, start + i, n)
        g = load_tile(scratch_g, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, start + i, n)
        sums[0] += squares_of_tile(g, n)
        sums[1] += squares_of_difference(p, before + i, n)
        sums[2] += squares_of_tile(before + i, n)
        i += n
