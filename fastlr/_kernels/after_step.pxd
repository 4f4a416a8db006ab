# cython: language_level=3, cdivision=True
"""What is done to elements after their step, while they are in the cache: constraints, and sums of what moved.

Constraints are of the parameter as it is stored. Sums are added piece by piece, in the order of the elements, so that
layout, storage and where a row is cut change no bit.
"""
from libc.math cimport INFINITY, fabs, ilogb, ldexp, sqrt
from libc.stdint cimport uint64_t
from fastlr._kernels.inlining cimport inlined
from fastlr._kernels.lanes cimport LANES, fold_lanes, sum_of_squares
from fastlr._kernels.piece_sums cimport (
    PIECE_BYTES, WIDTH, add_differences, add_positive, add_squares, add_squares_of_piece, clear_lanes, clear_total,
    fold_total, is_lost, largest_element, lower_piece, piece_of,
)
from fastlr._kernels.scaled_sum cimport ScaledSum, add_square, clear_sum, root_of_sum
from fastlr._kernels.structs cimport (
    BOX, MAX_NORM, MOVED_NORMS, SIMPLEX, TILE, AfterStep, GradientView, ScalarGroup, StepJob, TensorView,
)
from fastlr._kernels.tiles cimport is_native, load_param, load_tile, store_param, store_shadow, update_ema
from fastlr.rules.element cimport real


cdef enum:
    MAX_ROUNDS = 64            # of a threshold
    LINE = 64                  # bytes of a cache line


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

cdef inline void bound_elements(real* restrict p, real least, real most, Py_ssize_t size) noexcept nogil:
    """Each element to [least, most]; NaN stays."""
    cdef Py_ssize_t i
    cdef real x
    for i in range(size):
        x = least if p[i] < least else p[i]
        p[i] = most if x > most else x

cdef inline void bound_in_memory(real* p, real least, real most, Py_ssize_t size) noexcept nogil:
    """The same, where elements are not in the cache: tiles all of which is within are only read."""
    cdef Py_ssize_t i = 0
    cdef int beyond
    while i + TILE <= size:
        find_beyond(&beyond, <const real*>p + i, least, most)
        if beyond:
            bound_elements(p + i, least, most, TILE)
        i += TILE
    bound_elements(p + i, least, most, size - i)

cdef inline void scale_elements(real* restrict p, double factor, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real by = <real>factor
    for i in range(size):
        p[i] = p[i] * by

cdef struct RowSums:
    # What has been summed of a row.
    double[WIDTH] total                # squares, or of a simplex what is above 0
    double[WIDTH] count                # of a simplex: how many are above 0

cdef inline void begin_row(RowSums* sums, const AfterStep* after) noexcept nogil:
    clear_lanes(sums.total)
    if after.constraint == SIMPLEX:
        clear_total(sums.total)
        clear_total(sums.count)

cdef inline bint is_read_in_place(const TensorView* view, real* also_typed) noexcept nogil:
    """Whether elements are loaded by a pointer to them, of which nothing is copied."""
    return view.layout == NULL and view.low_bits == NULL and is_native(view.stored, also_typed)

cdef inline void add_to_row(RowSums* sums, const AfterStep* after, const TensorView* view, Py_ssize_t start,
                            Py_ssize_t size, real* also_typed) noexcept nogil:
    """Add consecutive elements of a row that were stepped: all of it, or whole pieces but for the last."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef Py_ssize_t i = start, n
    if after.constraint != SIMPLEX and is_read_in_place(view, also_typed):
        add_squares(sums.total, <const real*>view.p + start, size)
        return
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        if after.constraint == SIMPLEX:
            add_positive(sums.total, sums.count, load_param(scratch, raw, view, i, n), n)
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
    cdef double squares = fold_lanes(sums.total)
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

cdef inline bint is_normal(double factor, real* also_typed) noexcept nogil:
    """Whether a factor is a normal number of the dtype, and no larger than the largest power of two."""
    if real is float:
        return 1.1754943508222875e-38 <= factor <= 1.7014118346046923e38           # 2**-126, 2**127
    else:
        return 2.2250738585072014e-308 <= factor <= 8.98846567431158e307           # 2**-1022, 2**1023

cdef inline double factor_to(double wanted, double norm, int exponent, double* rest, real* also_typed) noexcept nogil:
    """wanted / (norm * 2**exponent); where that is no normal number of the dtype, a power of two, and the rest."""
    cdef double factor = wanted / (norm if exponent == 0 else ldexp(norm, exponent))
    cdef int power
    rest[0] = 1
    if is_normal(factor, also_typed) or not norm < <double>INFINITY:
        return factor
    factor = ldexp(wanted, -ilogb(wanted)) / ldexp(norm, -ilogb(norm))
    power = ilogb(wanted) - ilogb(norm) - exponent
    rest[0] = ldexp(factor, power - power // 2)
    return ldexp(1, power // 2)


# A row is constrained in pieces, between the pieces of the next row that are stepped: while it takes these from the
# cache, the core loads what is stepped next.

cdef struct RowWork:
    # What is still to be done of a row that was summed.
    Py_ssize_t start, next, end        # its elements; nothing is to be done where next == end
    bint lowers                        # whether elements are lowered to a simplex, or multiplied
    double number, rest                # by what; what is multiplied is so by the rest, too
    double total, unit                 # of a simplex: the sum that is wanted; a power of two, so that no sum overflows
    double count                       # ... how many elements were above 0 before
    int rounds
    bint exact                         # ... whether this round only corrects what was rounded
    RowSums sums                       # of what was lowered in this round

cdef inline void end_row(RowWork* work) noexcept nogil:
    work.next = work.end = 0

cdef inline void begin_norm(RowWork* work, const AfterStep* after, const TensorView* view, RowSums* sums,
                            real* also_typed) noexcept nogil:
    """Find the factor of a row."""
    cdef int exponent
    cdef double norm = row_norm(sums, view, work.start, work.end - work.start, &exponent, also_typed)
    if norm == 0 or after.constraint == MAX_NORM and not (
            (norm if exponent == 0 else ldexp(norm, exponent)) > after.high):
        end_row(work)
    else:
        work.number, work.lowers = factor_to(after.high, norm, exponent, &work.rest, also_typed), False

cdef inline double rounded_down(double number, real* also_typed) noexcept nogil:
    """A number of the dtype that is no higher."""
    if real is float:
        return <double><real>(number - fabs(number) * 1.2e-7)
    else:
        return number - fabs(number) * 4.5e-16

# The simplex. Newton's method for the threshold, on the sum of what is above it, which is convex: from anywhere, its
# first threshold is no higher than the one that is looked for, and then they rise (Michelot 1986,
# doi:10.1007/BF00938486, begins with all elements). As none is too high, elements are lowered at once, by what each
# round adds. It begins at 0, by sums that are known: a row that was on the simplex before its step is close to it, and
# mostly has one round. Where all elements stay above 0, a round leaves what was rounded of the number by which it
# lowers, as often as there are elements: one more takes that, too.
#
# A row far from it would lose digits, all of them where the sum is less than a unit in the last place of its elements.
# Such a row is first moved so that its largest element becomes the sum (no threshold is lower), by two subtractions:
# x - largest has no error that matters to elements that stay above 0.

cdef inline bint first_threshold(RowWork* work, double total, double above, double count,
                                 real* also_typed) noexcept nogil:
    """Find by what a row is lowered first; False if it is far from the simplex."""
    work.total, work.unit, work.rounds, work.lowers, work.exact = total, 1, 0, True, False
    work.number, work.count = rounded_down((above - total) / count, also_typed), count
    if real is float:
        work.unit = 5.960464477539063e-08 if total > 1e36 else 1                   # 2**-24
    else:
        work.unit = 5.421010862427522e-20 if total > 1e270 else 1                  # 2**-64
    return work.unit == 1 and count > 0 and above <= 2 * total

cdef inline bint next_threshold(RowWork* work, double above, double count, real* also_typed) noexcept nogil:
    """Find by what more a row is lowered; False if by nothing."""
    cdef double excess = above - work.total, enough = 1e-16 * work.total
    if real is float:
        enough = 6e-8 * work.total
    work.rounds += 1
    if count == 0 or work.exact or excess <= enough or work.rounds == MAX_ROUNDS:
        return False
    work.exact = count == work.count
    work.number, work.count = rounded_down(excess / count, also_typed), count
    return True

cdef inline void move_nearer(RowWork* work, const StepJob* job, const TensorView* view,
                             real* also_typed) noexcept nogil:
    """Subtract the largest element of a row from all, which are then lowered by the negative sum."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef real* p
    cdef real largest, unit = <real>work.unit
    cdef double above, most = <double>-INFINITY
    cdef Py_ssize_t i = work.start, k, n
    work.total = work.total * work.unit
    while i < work.end:
        n = work.end - i if work.end - i < TILE else TILE
        above = largest_element(load_param(scratch, raw, view, i, n), n)
        most = above if above > most else most
        i += n
    largest, i = <real>most * unit, work.start
    while i < work.end:
        n = work.end - i if work.end - i < TILE else TILE
        p = load_param(scratch, raw, view, i, n)
        for k in range(n):
            p[k] = p[k] * unit - largest
        store_param(p, raw, view, i, n, job)
        i += n
    work.number, work.count = -work.total, -1

cdef inline void begin_round(RowWork* work) noexcept nogil:
    work.next = work.start
    clear_total(work.sums.total)
    clear_total(work.sums.count)

cdef inline void end_round(RowWork* work, real* also_typed) noexcept nogil:
    """Begin the next round, where one is needed."""
    if next_threshold(work, fold_total(work.sums.total), fold_total(work.sums.count), also_typed):
        begin_round(work)
    elif work.unit != 1:
        work.next, work.lowers, work.number, work.rest = work.start, False, 1 / work.unit, 1

cdef inline void begin_work(RowWork* work, const StepJob* job, const AfterStep* after, const TensorView* view,
                            RowSums* sums, Py_ssize_t start, Py_ssize_t size, real* also_typed) noexcept nogil:
    """Find what is to be done to a row that was summed."""
    work.start, work.next, work.end = start, start, start + size
    if after.constraint == SIMPLEX:
        if not first_threshold(work, after.high, fold_total(sums.total), fold_total(sums.count), also_typed):
            move_nearer(work, job, view, also_typed)
        begin_round(work)
    else:
        begin_norm(work, after, view, sums, also_typed)

cdef inline Py_ssize_t to_next_line(const void* p) noexcept nogil:
    """How many bytes come before the next cache line. (NumPy's large arrays begin within a line: to write vectors that
    are in two lines takes twice as long.)"""
    return (LINE - <size_t>p % LINE) % LINE

cdef inline void do_piece(RowWork* work, const StepJob* job, const TensorView* view, real* also_typed) noexcept nogil:
    """The next piece of a row."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef real* p = <real*>view.p + work.next
    cdef Py_ssize_t n = piece_of(also_typed)
    cdef bint in_place = is_read_in_place(view, also_typed)
    if in_place and not work.lowers:
        n += to_next_line(p) // <Py_ssize_t>sizeof(real)
    n = work.end - work.next if work.end - work.next < n else n
    if not in_place:
        p = load_param(scratch, raw, view, work.next, n)
    if not work.lowers:
        scale_elements(p, work.number, n)
        if work.rest != 1:
            scale_elements(p, work.rest, n)
    elif n == PIECE_BYTES // sizeof(real):
        lower_piece(work.sums.total, work.sums.count, p, <real>work.number, PIECE_BYTES // sizeof(real))
    else:
        lower_piece(work.sums.total, work.sums.count, p, <real>work.number, n)
    if not in_place:
        store_param(p, raw, view, work.next, n, job)
    work.next += n
    if work.lowers and work.next == work.end:
        end_round(work, also_typed)

cdef inline void finish_work(RowWork* work, const StepJob* job, const TensorView* view,
                             real* also_typed) noexcept nogil:
    """All that is still to be done of a row."""
    while work.next < work.end:
        do_piece(work, job, view, also_typed)

cdef inline void constrain_row(const StepJob* job, const TensorView* view, const AfterStep* after, RowSums* sums,
                               Py_ssize_t start, Py_ssize_t size, real* also_typed) noexcept nogil:
    """One row that was summed."""
    cdef RowWork work
    begin_work(&work, job, after, view, sums, start, size, also_typed)
    finish_work(&work, job, view, also_typed)

cdef inline void bound_range(const StepJob* job, const TensorView* view, const AfterStep* after, Py_ssize_t start,
                             Py_ssize_t size, real* also_typed) noexcept nogil:
    """Consecutive elements, to a box."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef real* p
    cdef Py_ssize_t i = start, n
    if is_read_in_place(view, also_typed):
        bound_in_memory(<real*>view.p + start, <real>after.low, <real>after.high, size)
        return
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        p = load_param(scratch, raw, view, i, n)
        bound_elements(p, <real>after.low, <real>after.high, n)
        store_param(p, raw, view, i, n, job)
        i += n

cdef inline bint scale_short_row(const AfterStep* after, real* p) noexcept nogil:
    """Scale a row of at most a piece to its norm, as `constrain_row` does; False if that has more to do."""
    cdef double[LANES] total
    cdef double squares, factor
    cdef Py_ssize_t i, size = after.row
    cdef real by
    clear_lanes(total)
    add_squares_of_piece(total, <const real*>p, size)
    squares = fold_lanes(total)
    if is_lost(squares, size, p):
        return False
    if after.constraint == MAX_NORM and not sqrt(squares) > after.high:
        return True
    factor = after.high / sqrt(squares)
    if not is_normal(factor, p):
        return False
    by = <real>factor
    for i in range(size):
        p[i] = p[i] * by
    return True

cdef inline inlined sum_short_row(double* total, double* count, real* restrict x, real by, bint lowers,
                                  Py_ssize_t size) noexcept nogil:
    """Sum and count what is above 0 of a few times WIDTH elements, which are lowered first or not.

    (By `lower_piece`, which adds to sums in memory, a step with rows of 64 takes a tenth longer.)
    """
    cdef real[WIDTH] lane
    cdef real[WIDTH] counted
    cdef double[LANES] half
    cdef real part, one = 1, nothing = 0
    cdef Py_ssize_t i, j
    for j in range(WIDTH):
        lane[j] = counted[j] = 0
    for i in range(size // WIDTH):
        for j in range(WIDTH):
            part = x[i * WIDTH + j] - by if lowers else x[i * WIDTH + j]
            counted[j] = counted[j] + (nothing if part <= nothing else one)
            part = nothing if part <= nothing else part
            lane[j] = lane[j] + part
            if lowers:
                x[i * WIDTH + j] = part
    for j in range(LANES):
        half[j] = <double>lane[j] + <double>lane[j + LANES]
    total[0] = fold_lanes(half)
    for j in range(LANES):
        half[j] = <double>counted[j] + <double>counted[j + LANES]
    count[0] = fold_lanes(half)

cdef inline inlined lower_short_row(bint* done, real* p, double wanted, Py_ssize_t size) noexcept nogil:
    """Lower a row of a few times WIDTH elements to its simplex, as `constrain_row` does; not one far from it."""
    cdef RowWork work
    cdef double total, count
    sum_short_row(&total, &count, p, <real>0, False, size)
    done[0] = first_threshold(&work, wanted, total, count, p)
    if done[0]:
        sum_short_row(&total, &count, p, <real>work.number, True, size)
        while next_threshold(&work, total, count, p):
            sum_short_row(&total, &count, p, <real>work.number, True, size)

cdef inline bint constrain_short_row(const AfterStep* after, real* p) noexcept nogil:
    """Constrain a row of at most a piece, as `constrain_row` does; False where that has more to do."""
    cdef bint done = False
    if after.constraint != SIMPLEX:
        return scale_short_row(after, p)
    if after.row == 64:
        lower_short_row(&done, p, after.high, 64)
    elif after.row == 32:
        lower_short_row(&done, p, after.high, 32)
    elif after.row == 128:
        lower_short_row(&done, p, after.high, 128)
    return done

cdef inline void constrain_range(const StepJob* job, const TensorView* view, const AfterStep* after, Py_ssize_t start,
                                 Py_ssize_t size, real* also_typed) noexcept nogil:
    """Consecutive elements: whole rows, where a constraint is by row."""
    cdef RowSums sums
    cdef Py_ssize_t i = start
    if after.constraint == BOX:
        bound_range(job, view, after, start, size, also_typed)
        return
    while i < start + size:
        if after.row <= piece_of(also_typed) and is_read_in_place(view, also_typed) \
                and constrain_short_row(after, <real*>view.p + i):
            i += after.row
            continue
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
    # Squares of gradient, update and parameter, piece by piece.
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
    """Add the squares of at most a piece that overflow or vanish, of x or, where y is not NULL, of x - y."""
    cdef real[TILE] part
    cdef Py_ssize_t i
    for i in range(size):
        part[i] = x[i] if y == NULL else x[i] - y[i]
    if real is float:
        add_square(sum, sqrt(sum_of_squares(<const real*>part, size)))             # (exact squares, in double)
    else:
        for i in range(size):
            add_square(sum, part[i])

cdef inline void add_piece(Moved* sums, int k, double* total, const real* x, const real* y,
                           Py_ssize_t size) noexcept nogil:
    """Add the squares of a piece, whose partial sums are known."""
    cdef double squares = fold_lanes(total)
    if is_lost(squares, size, <real*>NULL):
        add_lost_squares(&sums.lost[k], x, y, size)
    else:
        sums.plain[k] += squares

cdef inline inlined copy_and_add_squares(double* restrict total, real* restrict copy, const real* restrict x,
                                         Py_ssize_t size) noexcept nogil:
    """Copy a piece for sums, to which the sign of zero is nothing. (With no sum in it this would be a call of `memcpy`,
    which waits for memory, for half of a step's time.)"""
    cdef real[LANES] lane
    cdef real one, nothing = 0
    cdef Py_ssize_t i, j
    for j in range(LANES):
        lane[j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            one = x[i * LANES + j] + nothing
            copy[i * LANES + j] = one
            lane[j] = lane[j] + one * one
    for j in range(LANES):
        total[j] = total[j] + <double>lane[j]
    for j in range(size % LANES):
        i = size // LANES * LANES + j
        copy[i] = x[i]
        total[j] = total[j] + <double>(x[i] * x[i])

cdef inline void keep_piece(real* kept, Moved* sums, const TensorView* view, Py_ssize_t start,
                            Py_ssize_t size) noexcept nogil:
    """Copy at most a piece before its step, and add its squares."""
    cdef uint64_t[TILE] raw
    cdef double[LANES] total
    cdef const real* p = load_param(kept, raw, view, start, size)
    clear_lanes(total)
    if p == kept:
        add_squares(total, p, size)
    elif size == PIECE_BYTES // sizeof(real):
        copy_and_add_squares(total, kept, p, PIECE_BYTES // sizeof(real))
    else:
        copy_and_add_squares(total, kept, p, size)
    add_piece(sums, 2, total, <const real*>kept, <const real*>NULL, size)

cdef inline void measure_piece(Moved* sums, const real* before, const TensorView* view, const GradientView* gradient,
                               Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """Add the squares of what was kept before its step, and moved."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef double[LANES] total
    cdef const real* x = load_tile(scratch, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, start, size)
    clear_lanes(total)
    add_squares(total, x, size)
    add_piece(sums, 0, total, x, <const real*>NULL, size)
    x = load_param(scratch, raw, view, start, size)
    clear_lanes(total)
    add_differences(total, x, before, size)
    add_piece(sums, 1, total, x, before, size)
