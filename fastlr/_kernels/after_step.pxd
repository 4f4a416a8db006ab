# cython: language_level=3, cdivision=True
"""What is done to elements after their step, while they are in the cache: constraints, and sums of what moved.

Constraints are of the parameter as it is stored. Sums are added tile by tile, in the order of the elements, so that
layout, storage and where a row is cut change no bit.
"""
from libc.math cimport INFINITY, NAN, fabs, ilogb, ldexp, sqrt
from libc.stdint cimport uint64_t
from fastlr._kernels.inlining cimport inlined
from fastlr._kernels.lanes cimport LANES, fold_lanes, sum_of_squares
from fastlr._kernels.scaled_sum cimport ScaledSum, add_square, clear_sum, is_lost_sum, root_of_sum
from fastlr._kernels.structs cimport (
    BOX, MAX_NORM, MOVED_NORMS, SIMPLEX, TILE, AfterStep, GradientView, ScalarGroup, StepJob, TensorView,
)
from fastlr._kernels.tiles cimport is_native, load_param, load_tile, store_param, store_shadow, update_ema
from fastlr.rules.element cimport real


# Sums. Of float32 a lane adds what it takes of a tile, at most eight numbers, in float32, and tiles are added in
# double: a sum of squares is then within 5e-7 of itself, in a third of the time that doubles take.

cdef enum:
    WIDTH = 2 * LANES          # partial sums
    MAX_ROUNDS = 64            # of a threshold
    LINE = 64                  # bytes of a cache line

cdef inline void clear_wide(double* total) noexcept nogil:
    cdef int j
    for j in range(WIDTH):
        total[j] = 0

cdef inline double fold_wide(double* total) noexcept nogil:
    """The sum of all partial sums."""
    cdef int j
    for j in range(LANES):
        total[j] = total[j] + total[j + LANES]
    return fold_lanes(total)

# (Each is inlined with a constant size for whole tiles, whose lanes are then kept in registers.)

cdef inline inlined add_squares_of_tile(double* restrict total, const real* restrict x, Py_ssize_t size) noexcept nogil:
    cdef real[WIDTH] lane
    cdef Py_ssize_t i, j
    for j in range(WIDTH):
        lane[j] = 0
    for i in range(size // WIDTH):
        for j in range(WIDTH):
            lane[j] = lane[j] + x[i * WIDTH + j] * x[i * WIDTH + j]
    for j in range(WIDTH):
        total[j] = total[j] + <double>lane[j]
    for j in range(size % WIDTH):
        i = size // WIDTH * WIDTH + j
        total[j] = total[j] + <double>(x[i] * x[i])

cdef inline inlined add_differences_of_tile(double* restrict total, const real* restrict x, const real* restrict y,
                                            Py_ssize_t size) noexcept nogil:
    cdef real[WIDTH] lane
    cdef Py_ssize_t i, j
    for j in range(WIDTH):
        lane[j] = 0
    for i in range(size // WIDTH):
        for j in range(WIDTH):
            lane[j] = lane[j] + (x[i * WIDTH + j] - y[i * WIDTH + j]) * (x[i * WIDTH + j] - y[i * WIDTH + j])
    for j in range(WIDTH):
        total[j] = total[j] + <double>lane[j]
    for j in range(size % WIDTH):
        i = size // WIDTH * WIDTH + j
        total[j] = total[j] + <double>((x[i] - y[i]) * (x[i] - y[i]))

cdef inline inlined add_above_of_tile(double* restrict total, double* restrict count, const real* restrict x,
                                      real bound, Py_ssize_t size) noexcept nogil:
    cdef real[WIDTH] lane
    cdef real[WIDTH] counted
    cdef real part, one = 1, nothing = 0
    cdef Py_ssize_t i, j
    for j in range(WIDTH):
        lane[j] = counted[j] = 0
    for i in range(size // WIDTH):
        for j in range(WIDTH):
            part = x[i * WIDTH + j] - bound
            lane[j] = lane[j] + (nothing if part <= nothing else part)
            counted[j] = counted[j] + (nothing if part <= nothing else one)
    for j in range(WIDTH):
        total[j] = total[j] + <double>lane[j]
        count[j] = count[j] + <double>counted[j]
    for j in range(size % WIDTH):
        part = x[size // WIDTH * WIDTH + j] - bound
        total[j] = total[j] + <double>(nothing if part <= nothing else part)
        count[j] = count[j] + <double>(nothing if part <= nothing else one)

cdef inline void add_squares(double* total, const real* x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i = 0
    if size == TILE:
        add_squares_of_tile(total, x, TILE)
        return
    while i + TILE <= size:
        add_squares_of_tile(total, x + i, TILE)
        i += TILE
    if i < size:
        add_squares_of_tile(total, x + i, size - i)

cdef inline void add_above(double* total, double* count, const real* x, real bound, Py_ssize_t size) noexcept nogil:
    """x - bound of the elements above a bound, and how many those are. (NaN is taken for one.)"""
    cdef Py_ssize_t i = 0
    while i + TILE <= size:
        add_above_of_tile(total, count, x + i, bound, TILE)
        i += TILE
    if i < size:
        add_above_of_tile(total, count, x + i, bound, size - i)

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


# Constraints

cdef inline inlined find_beyond(int* beyond, const real* restrict p, real least, real most) noexcept nogil:
    """Whether an element of a tile is below the least or above the most."""
    cdef real[WIDTH] low
    cdef real[WIDTH] high
    cdef Py_ssize_t i, j
    cdef int found = 0
    for j in range(WIDTH):
        low[j], high[j] = least, most
    for i in range(TILE // WIDTH):
        for j in range(WIDTH):
            low[j] = p[i * WIDTH + j] if p[i * WIDTH + j] < low[j] else low[j]
            high[j] = p[i * WIDTH + j] if p[i * WIDTH + j] > high[j] else high[j]
    for j in range(WIDTH):
        found |= (low[j] < least) | (high[j] > most)
    beyond[0] = found

cdef inline void bound_elements(real* restrict p, double low, double high, Py_ssize_t size) noexcept nogil:
    """Each element to [low, high]; NaN stays. Tiles all of which is within are only read."""
    cdef Py_ssize_t i = 0, j, n
    cdef real least = <real>low, most = <real>high
    cdef real x
    cdef int beyond
    while i < size:
        n, beyond = size - i if size - i < TILE else TILE, True
        if n == TILE:
            find_beyond(&beyond, <const real*>p + i, least, most)
        for j in range(n if beyond else 0):
            x = least if p[i + j] < least else p[i + j]
            p[i + j] = most if x > most else x
        i += n

cdef inline void scale_elements(real* restrict p, double factor, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real by = <real>factor
    for i in range(size):
        p[i] = p[i] * by

cdef inline void lower_elements(real* restrict p, real by, Py_ssize_t size) noexcept nogil:
    """max(p - by, 0) of each element; NaN stays."""
    cdef Py_ssize_t i
    cdef real nothing = 0
    for i in range(size):
        p[i] = nothing if p[i] <= by else p[i] - by

cdef struct RowSums:
    # What has been summed of the row that is being stepped.
    double[WIDTH] total                # squares, or of a simplex what is above 0
    double[WIDTH] count                # of a simplex: how many are above 0

cdef inline void begin_row(RowSums* sums, const AfterStep* after) noexcept nogil:
    clear_wide(sums.total)
    if after.constraint == SIMPLEX:
        clear_wide(sums.count)

cdef inline bint is_read_in_place(const TensorView* view, real* also_typed) noexcept nogil:
    """Whether loading a parameter copies nothing. (One of float32 whose state is float64 is computed in double.)"""
    return view.layout == NULL and view.low_bits == NULL and is_native(view.stored, also_typed)

cdef inline Py_ssize_t loaded_together(const TensorView* view, Py_ssize_t size, real* also_typed) noexcept nogil:
    """How many elements are loaded at a time: a tile, or all where loading copies nothing."""
    if size <= TILE or is_read_in_place(view, also_typed):
        return size
    return TILE

cdef inline void add_to_row(RowSums* sums, const AfterStep* after, const TensorView* view, Py_ssize_t start,
                            Py_ssize_t size, real* also_typed) noexcept nogil:
    """Add consecutive elements of a row that were stepped: all of it, or whole tiles but for the last."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef Py_ssize_t i = start, n, together = loaded_together(view, size, also_typed)
    if after.constraint != SIMPLEX and is_read_in_place(view, also_typed):
        add_squares(sums.total, <const real*>view.p + start, size)
        return
    while i < start + size:
        n = start + size - i if start + size - i < together else together
        if after.constraint == SIMPLEX:
            add_above(sums.total, sums.count, load_param(scratch, raw, view, i, n), <real>0, n)
        else:
            add_squares(sums.total, load_param(scratch, raw, view, i, n), n)
        i += n

cdef inline double row_norm(RowSums* sums, const TensorView* view, Py_ssize_t start, Py_ssize_t size, int* exponent,
                            real* also_typed) noexcept nogil:
    """The norm of a row, times 2**-exponent, also where squares or the norm overflow or vanish."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef ScaledSum total
    cdef real* p
    cdef double squares = fold_wide(sums.total)
    cdef Py_ssize_t i = start, k, n
    exponent[0] = 0
    if not is_lost(squares, size, also_typed):
        return sqrt(squares)
    clear_sum(&total)
    squares = 0
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        p = load_param(scratch, raw, view, i, n)
        if real is float:
            squares += sum_of_squares(p, n)        # (exact squares, in double)
        else:
            for k in range(n):
                add_square(&total, p[k])
        i += n
    if real is float:
        return sqrt(squares)
    else:
        exponent[0] = total.exponent
        return sqrt(total.sum)

cdef inline double factor_to(double wanted, double norm, int exponent, double* rest, real* also_typed) noexcept nogil:
    """wanted / (norm * 2**exponent); where that is no normal number of the dtype, a power of two, and the rest."""
    cdef double factor = wanted / (norm if exponent == 0 else ldexp(norm, exponent))
    cdef double least = 2.2250738585072014e-308, most = 8.98846567431158e307       # 2**-1022, 2**1023
    cdef int power
    if real is float:
        least, most = 1.1754943508222875e-38, 1.7014118346046923e38                # 2**-126, 2**127
    rest[0] = 1
    if least <= factor <= most or not norm < <double>INFINITY:
        return factor
    factor = ldexp(wanted, -ilogb(wanted)) / ldexp(norm, -ilogb(norm))
    power = ilogb(wanted) - ilogb(norm) - exponent
    rest[0] = ldexp(factor, power - power // 2)
    return ldexp(1, power // 2)

cdef inline double simplex_threshold(RowSums* sums, const TensorView* view, Py_ssize_t start, Py_ssize_t size,
                                     double total, real* also_typed) noexcept nogil:
    """By how much elements are lowered so that those above 0 have this sum; NaN if some are not finite.

    Newton's method on the sum of what is above a bound, which is convex: from anywhere, its first bound is no higher
    than the threshold, and then they rise (Michelot 1986, doi:10.1007/BF00938486, begins with all elements). It begins
    at 0, by sums that are known: a row that was on the simplex before its step is close to it. No threshold is below
    the largest element less the sum; that serves where the first bound is lower.
    """
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef double count = fold_wide(sums.count), above, excess, bound = -INFINITY, least = -INFINITY
    cdef double enough = 1e-16 * total
    cdef real by
    cdef Py_ssize_t i, n, together = loaded_together(view, size, also_typed)
    cdef int _k
    if real is float:
        enough = 6e-8 * total
    excess = fold_wide(sums.total) - total
    if count > 0:
        bound = excess / count
    if count == 0 or excess > total:               # (far from the simplex)
        i = start
        while i < start + size:
            n = start + size - i if start + size - i < together else together
            above = largest_element(load_param(scratch, raw, view, i, n), n)
            least = above if above > least else least
            i += n
        # (a little less: the largest itself is above it, whatever is rounded)
        least = least - total - fabs(least) * 1e-6
        if least > bound or bound == <double>INFINITY:
            bound, count = least, -1
    for _k in range(MAX_ROUNDS):
        by, i = <real>bound, start
        clear_wide(sums.total)
        clear_wide(sums.count)
        while i < start + size:
            n = start + size - i if start + size - i < together else together
            add_above(sums.total, sums.count, load_param(scratch, raw, view, i, n), by, n)
            i += n
        above, excess = fold_wide(sums.count), fold_wide(sums.total) - total
        if above == 0:
            break
        bound = <double>by + excess / above
        if above == count or fabs(excess) <= enough:
            break
        count = above
    return bound if bound - bound == 0 else NAN

cdef inline Py_ssize_t to_next_line(const real* p, Py_ssize_t size) noexcept nogil:
    """How many elements come before the next cache line; none of few. (NumPy's large arrays begin within a line: to
    write vectors that are in two lines takes twice as long.)"""
    return 0 if size < TILE else (LINE - <size_t>p % LINE) % LINE // <Py_ssize_t>sizeof(real)

cdef inline void constrain_row(const StepJob* job, const TensorView* view, const AfterStep* after, RowSums* sums,
                               Py_ssize_t start, Py_ssize_t size, real* also_typed) noexcept nogil:
    """One row that was summed, or of a box any consecutive elements."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef real* p
    cdef double number = 1, rest = 1
    cdef int exponent
    cdef Py_ssize_t i = start, n, together = loaded_together(view, size, also_typed)
    if after.constraint == SIMPLEX:
        number = simplex_threshold(sums, view, start, size, after.high, also_typed)
    elif after.constraint != BOX:
        number = row_norm(sums, view, start, size, &exponent, also_typed)
        if number == 0 or after.constraint == MAX_NORM and not (
                (number if exponent == 0 else ldexp(number, exponent)) > after.high):
            return
        number = factor_to(after.high, number, exponent, &rest, also_typed)
    while i < start + size:
        n = start + size - i if start + size - i < together else together
        if i == start and together == size:
            n = to_next_line(load_param(scratch, raw, view, i, n), n)
            n = n if n > 0 else size
        p = load_param(scratch, raw, view, i, n)
        if after.constraint == BOX:
            bound_elements(p, after.low, after.high, n)
        elif after.constraint == SIMPLEX:
            lower_elements(p, <real>number, n)
        else:
            scale_elements(p, number, n)
            if rest != 1:
                scale_elements(p, rest, n)
        store_param(p, raw, view, i, n, job)
        i += n

cdef inline void constrain_range(const StepJob* job, const TensorView* view, const AfterStep* after, Py_ssize_t start,
                                 Py_ssize_t size, real* also_typed) noexcept nogil:
    """Consecutive elements: whole rows, where a constraint is by row."""
    cdef RowSums sums
    cdef Py_ssize_t i = start
    if after.constraint == BOX:
        if is_read_in_place(view, also_typed):
            bound_elements(<real*>view.p + start, after.low, after.high, size)
        else:
            constrain_row(job, view, after, NULL, start, size, also_typed)
        return
    while i < start + size:
        begin_row(&sums, after)
        add_to_row(&sums, after, view, i, after.row, also_typed)
        constrain_row(job, view, after, &sums, i, after.row, also_typed)
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

cdef struct Moved:
    # Squares of gradient, update and parameter, tile by tile.
    double[MOVED_NORMS] plain
    ScaledSum[MOVED_NORMS] lost        # what overflows or vanishes

cdef inline void clear_moved(Moved* sums) noexcept nogil:
    cdef int k
    for k in range(MOVED_NORMS):
        sums.plain[k] = 0
        clear_sum(&sums.lost[k])

cdef inline double norm_moved(Moved* sums, int k) noexcept nogil:
    """The norm of one of them."""
    if not sums.lost[k].begun:
        return sqrt(sums.plain[k])
    add_square(&sums.lost[k], sqrt(sums.plain[k]))
    return root_of_sum(&sums.lost[k])

cdef inline void add_lost_squares(ScaledSum* sum, const real* x, const real* y, Py_ssize_t size) noexcept nogil:
    """Add the squares of at most a tile that overflow or vanish, of x or, where y is not NULL, of x - y."""
    cdef real[TILE] part
    cdef Py_ssize_t i
    for i in range(size):
        part[i] = x[i] if y == NULL else x[i] - y[i]
    if real is float:
        add_square(sum, sqrt(sum_of_squares(<const real*>part, size)))             # (exact squares, in double)
    else:
        for i in range(size):
            add_square(sum, part[i])

cdef inline void add_tile(Moved* sums, int k, double* total, const real* x, const real* y,
                          Py_ssize_t size) noexcept nogil:
    """Add the squares of a tile, whose partial sums are known."""
    cdef double squares = fold_wide(total)
    if is_lost(squares, size, <real*>NULL):
        add_lost_squares(&sums.lost[k], x, y, size)
    else:
        sums.plain[k] += squares

cdef inline inlined copy_and_add_squares(double* restrict total, real* restrict copy, const real* restrict x,
                                         Py_ssize_t size) noexcept nogil:
    """Copy a tile for sums, to which the sign of zero is nothing. (With no sum in it this would be a call of `memcpy`,
    which waits for memory, for half of a step's time.)"""
    cdef real[WIDTH] lane
    cdef real one, nothing = 0
    cdef Py_ssize_t i, j
    for j in range(WIDTH):
        lane[j] = 0
    for i in range(size // WIDTH):
        for j in range(WIDTH):
            one = x[i * WIDTH + j] + nothing
            copy[i * WIDTH + j] = one
            lane[j] = lane[j] + one * one
    for j in range(WIDTH):
        total[j] = total[j] + <double>lane[j]
    for j in range(size % WIDTH):
        i = size // WIDTH * WIDTH + j
        copy[i] = x[i]
        total[j] = total[j] + <double>(x[i] * x[i])

cdef inline void keep_tile(real* kept, Moved* sums, const TensorView* view, Py_ssize_t start,
                           Py_ssize_t size) noexcept nogil:
    """Copy at most a tile before its step, and add its squares."""
    cdef uint64_t[TILE] raw
    cdef double[WIDTH] total
    cdef const real* p = load_param(kept, raw, view, start, size)
    clear_wide(total)
    if p == kept:
        add_squares(total, p, size)
    elif size == TILE:
        copy_and_add_squares(total, kept, p, TILE)
    else:
        copy_and_add_squares(total, kept, p, size)
    add_tile(sums, 2, total, <const real*>kept, <const real*>NULL, size)

cdef inline void measure_tile(Moved* sums, const real* before, const TensorView* view, const GradientView* gradient,
                              Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """Add the squares of what was kept before its step, and moved."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef double[WIDTH] total
    cdef const real* x = load_tile(scratch, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, start, size)
    clear_wide(total)
    add_squares(total, x, size)
    add_tile(sums, 0, total, x, <const real*>NULL, size)
    x = load_param(scratch, raw, view, start, size)
    clear_wide(total)
    if size == TILE:
        add_differences_of_tile(total, x, before, TILE)
    else:
        add_differences_of_tile(total, x, before, size)
    add_tile(sums, 1, total, x, before, size)
