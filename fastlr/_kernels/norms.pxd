# cython: language_level=3, cdivision=True
"""Squares of gradients, by chunk and by unit (the weights of one output), unscaled and clipped by value.

Tiles are summed in their order; where they begin and end depends on shapes alone. Elements are in the array's
own order, where element e is of unit (e // unit_length) % unit_count.
"""
from libc.math cimport INFINITY, ldexp
from libc.stdint cimport uint64_t
from libc.string cimport memset
from fastlr._kernels.inlining cimport inlined
from fastlr._kernels.lanes cimport LANES, fold_lanes
from fastlr._kernels.prefetch cimport prefetch_read
from fastlr._kernels.scaled_sum cimport ScaledSum, add_square, clear_sum, root_of_sum, smallest_squares
from fastlr._kernels.structs cimport (
    TILE, Chunk, ChunkSum, GradientView, ScalarGroup, StepJob, TensorView, UnitRange, UnitSums, factor_of_norms,
    is_unit_lost, unit_clip_factor,
)
from fastlr._kernels.tiles cimport load_param, load_tile
from fastlr.rules.element cimport bounded, real

cdef enum:
    STREAM_AHEAD = 4096        # bytes: prefetching 64 cache lines ahead halves the time of a sum, which memory limits

cdef struct NormLanes:
    # A sum in progress: squares, and a sum that is NaN if an element is not finite.
    double[LANES] square
    double[LANES] nonfinite
    bint squares_tell      # whether the sum of squares shows that, too

cdef inline void clear_lanes(NormLanes* lanes) noexcept nogil:
    memset(lanes, 0, sizeof(NormLanes))

cdef inline void finish_lanes(ChunkSum* out, NormLanes* lanes) noexcept nogil:
    out.squares = fold_lanes(lanes.square)
    out.nonfinite = fold_lanes(lanes.nonfinite)
    if lanes.squares_tell:     # (squares of float32 do not overflow: NaN comes from NaN and infinity alone)
        out.nonfinite = out.squares - out.squares

cdef inline void measure_tile(const real* restrict g, NormLanes* lanes, const ScalarGroup* group,
                              Py_ssize_t size) noexcept nogil:
    """Add the squares of up to TILE elements as they are scaled and clipped."""
    if real is float:
        if group.clip_value == <double>INFINITY:
            lanes.squares_tell = True
            measure_floats(g, lanes.square, <float>group.grad_factor, size)
            return
    measure_clipped(g, lanes.square, lanes.nonfinite, <real>group.grad_factor, <real>group.clip_value, size)

cdef inline void measure_floats(const float* restrict g, double* restrict into, float scale,
                                Py_ssize_t size) noexcept nogil:
    cdef double[LANES] lane
    cdef Py_ssize_t i, j, whole = size // LANES * LANES
    cdef float x
    for j in range(LANES):
        lane[j] = into[j]
    for i in range(size // LANES):
        prefetch_read(<const char*>(g + i * LANES) + STREAM_AHEAD)
        for j in range(LANES):
            x = g[i * LANES + j] * scale
            lane[j] = lane[j] + <double>x * <double>x
    for j in range(LANES):
        into[j] = lane[j]
    for i in range(whole, size):
        x = g[i] * scale
        into[i - whole] = into[i - whole] + <double>x * <double>x

cdef inline void measure_clipped(const real* restrict g, double* restrict into, double* restrict odd, real scale,
                                 real most, Py_ssize_t size) noexcept nogil:
    cdef double[LANES] lane
    cdef double[LANES] strange
    cdef Py_ssize_t i, j, whole = size // LANES * LANES
    cdef real x
    for j in range(LANES):
        lane[j], strange[j] = into[j], odd[j]
    for i in range(size // LANES):
        for j in range(LANES):
            x = g[i * LANES + j] * scale
            strange[j] = strange[j] + <double>(x - x)      # 0, or NaN from NaN and infinity
            x = bounded(x, most)
            lane[j] = lane[j] + <double>x * <double>x
    for j in range(LANES):
        into[j], odd[j] = lane[j], strange[j]
    for i in range(whole, size):
        x = g[i] * scale
        odd[i - whole] = odd[i - whole] + <double>(x - x)
        x = bounded(x, most)
        into[i - whole] = into[i - whole] + <double>x * <double>x

cdef enum:
    SHORT_LANES = 8

cdef inline void measure_columns(double* restrict sum_g, double* restrict sum_p, double* restrict odd,
                                 const real* restrict g, const real* restrict p, const ScalarGroup* group,
                                 Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real x, scale = <real>group.grad_factor, most = <real>group.clip_value
    for i in range(size):
        x = g[i] * scale
        odd[i] = odd[i] + <double>(x - x)
        x = bounded(x, most)
        sum_g[i] = sum_g[i] + <double>x * <double>x
        sum_p[i] = sum_p[i] + <double>p[i] * <double>p[i]

cdef inline double fold_short(double* lane) noexcept nogil:
    cdef int j
    for j in range(SHORT_LANES // 2):
        lane[j] = lane[j] + lane[j + SHORT_LANES // 2]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])

# (Called, it takes 5 % of a step with adaptive clipping of rows of 32.)
cdef inline inlined short_squares(double* out, const real* restrict g, real scale, Py_ssize_t size) noexcept nogil:
    """The squares of at most a tile, in few lanes: for short units, folding lanes takes most of the time."""
    cdef double[SHORT_LANES] lane
    cdef Py_ssize_t i, j, whole = size // SHORT_LANES * SHORT_LANES
    cdef real x
    cdef double rest = 0                           # (an index into lanes would keep them out of registers)
    for j in range(SHORT_LANES):
        lane[j] = 0
    for i in range(size // SHORT_LANES):
        for j in range(SHORT_LANES):
            x = g[i * SHORT_LANES + j] * scale
            lane[j] = lane[j] + <double>x * <double>x
    for i in range(whole, size):
        x = g[i] * scale
        rest = rest + <double>x * <double>x
    out[0] = fold_short(lane) + rest

cdef inline void measure_short_units(UnitSums* out, const UnitRange* u, const TensorView* view,
                                     const GradientView* gradient, const ScalarGroup* group,
                                     real* also_typed) noexcept nogil:
    """Units of at most a tile."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef const real* x
    cdef double zero
    cdef Py_ssize_t k, i, start = u.first * view.unit_length
    cdef real scale = <real>group.grad_factor, most = <real>group.clip_value
    for k in range(u.count):
        x = load_tile(scratch, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored,
                      start + k * view.unit_length, view.unit_length)
        if real is float and group.clip_value == <double>INFINITY:
            short_squares(&out[k].gradient, x, scale, view.unit_length)
            out[k].nonfinite = out[k].gradient - out[k].gradient
        else:
            zero = 0
            for i in range(view.unit_length):
                zero += <double>(x[i] * scale - x[i] * scale)
                scratch[i] = bounded(x[i] * scale, most)
            short_squares(&out[k].gradient, <const real*>scratch, <real>1, view.unit_length)
            out[k].nonfinite = zero
    for k in range(u.count):
        x = load_param(scratch, raw, view, start + k * view.unit_length, view.unit_length)
        short_squares(&out[k].parameter, x, <real>1, view.unit_length)

cdef inline void measure_units(UnitSums* out, const UnitRange* u, const TensorView* view, const GradientView* gradient,
                               const ScalarGroup* group, real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef double[TILE] sum_g
    cdef double[TILE] sum_p
    cdef double[TILE] odd
    cdef const real* g
    cdef const real* p
    cdef ChunkSum total_g, total_p
    cdef NormLanes of_g, of_p
    cdef ScalarGroup plain
    cdef Py_ssize_t k, i, n, start
    if view.unit_length == 1:                                 # a tile of columns, row by row
        for k in range(u.count):
            sum_g[k] = sum_p[k] = odd[k] = 0
        for i in range(u.begin, u.end):
            start = i * view.unit_count + u.first
            g = load_tile(scratch_g, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored, start,
                          u.count)
            p = load_param(scratch_p, raw, view, start, u.count)
            measure_columns(sum_g, sum_p, odd, g, p, group, u.count)
        for k in range(u.count):
            out[k].gradient, out[k].parameter, out[k].nonfinite = sum_g[k], sum_p[k], odd[k]
        return
    if view.unit_length <= TILE:
        measure_short_units(out, u, view, gradient, group, also_typed)
        return
    memset(&plain, 0, sizeof(plain))
    plain.grad_factor, plain.clip_value = 1, INFINITY
    for k in range(u.count):
        clear_lanes(&of_g)
        clear_lanes(&of_p)
        i = u.begin
        while i < u.end:
            n = u.end - i if u.end - i < TILE else TILE
            start = (u.first + k) * view.unit_length + i
            g = load_tile(scratch_g, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored, start, n)
            measure_tile(g, &of_g, group, n)
            p = load_param(scratch_p, raw, view, start, n)
            measure_tile(p, &of_p, &plain, n)
            i += n
        finish_lanes(&total_g, &of_g)
        finish_lanes(&total_p, &of_p)
        out[k].gradient, out[k].parameter, out[k].nonfinite = total_g.squares, total_p.squares, total_g.nonfinite

cdef inline double norm_of_unit(const TensorView* view, const GradientView* gradient, const ScalarGroup* group,
                                Py_ssize_t unit) noexcept nogil:
    """The norm of one unit of a float64 tensor, of its gradient or, where that is NULL, of its parameters."""
    cdef uint64_t[TILE] raw
    cdef double[TILE] scratch
    cdef const double* x
    cdef ScaledSum total
    cdef Py_ssize_t length = view.size // view.unit_count, k = 0, i, n, start
    clear_sum(&total)
    while k < length:
        n = length - k if length - k < TILE else TILE
        start = unit * length + k
        if view.unit_length == 1:
            n, start = 1, k * view.unit_count + unit
        if gradient == NULL:
            x = load_param(scratch, raw, view, start, n)
        else:
            x = load_tile(scratch, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored, start, n)
        for i in range(n):
            add_square(&total, x[i] if gradient == NULL else bounded(x[i] * group.grad_factor, group.clip_value))
        k += n
    return root_of_sum(&total)

cdef inline double scaled_unit_factor(const StepJob* job, Py_ssize_t i, Py_ssize_t unit, double clip,
                                      double eps) noexcept nogil:
    """`unit_clip_factor` of one unit of tensor i, from elements that are scaled before they are squared."""
    cdef const TensorView* view = &job.views[i]
    return factor_of_norms(norm_of_unit(view, &job.gradients[i], &job.scalar_groups[view.scalar_group], unit),
                           norm_of_unit(view, NULL, NULL, unit), clip, eps)

cdef inline int scaled_unit_squares(const StepJob* job, Py_ssize_t i, double* squares) noexcept nogil:
    """The squares of what clipping leaves of tensor i, times a power of two where they overflow or vanish.

    That is 2**(2 * exponent); the exponent is returned.
    """
    cdef const TensorView* view = &job.views[i]
    cdef const ScalarGroup* group = &job.scalar_groups[view.scalar_group]
    cdef Py_ssize_t unit
    cdef ScaledSum left
    cdef double norm
    cdef int exponent = 0
    clear_sum(&left)
    for unit in range(view.unit_count):
        add_square(&left, view.unit_factors[unit] * norm_of_unit(view, &job.gradients[i], group, unit))
    norm = root_of_sum(&left)
    if left.exponent > 450:
        exponent = -540
    elif left.exponent < -450:
        exponent = 600
    norm = ldexp(norm, exponent)
    squares[0] = norm * norm
    return exponent

cdef inline void measure_units_of_chunk(const StepJob* job, const Chunk* chunk,
                                        const ScalarGroup* group) noexcept nogil:
    """Measure the units of a tensor that is one chunk, just before its step, and set their clipping factors."""
    cdef const TensorView* view = &job.views[chunk.view]
    cdef UnitSums[TILE] shares
    cdef UnitRange u
    cdef Py_ssize_t k
    cdef double squares = 0, nonfinite = 0
    cdef double* factors = view.unit_factors
    u.view, u.first, u.begin, u.end = chunk.view, 0, 0, view.size // view.unit_count
    while u.first < view.unit_count:
        u.count = view.unit_count - u.first if view.unit_count - u.first < TILE else TILE
        if view.is_double:
            measure_units(shares, &u, view, &job.gradients[chunk.view], group, <double*>NULL)
        else:
            measure_units(shares, &u, view, &job.gradients[chunk.view], group, <float*>NULL)
        for k in range(u.count):
            factors[u.first + k] = unit_clip_factor(shares[k].gradient, shares[k].parameter, job.unit_clip,
                                                    job.unit_eps)
        for k in range(u.count if view.is_double else 0):
            nonfinite += shares[k].nonfinite
            if is_unit_lost(&shares[k], job.unit_eps):
                factors[u.first + k] = scaled_unit_factor(job, chunk.view, u.first + k, job.unit_clip, job.unit_eps)
        for k in range(u.count):
            squares += factors[u.first + k] * factors[u.first + k] * shares[k].gradient
        u.first += u.count
    job.unit_exponents[chunk.view] = 0
    if view.is_double and nonfinite == 0 and (not squares < <double>INFINITY or squares < smallest_squares()):
        job.unit_exponents[chunk.view] = scaled_unit_squares(job, chunk.view, &squares)
    job.unit_squares[chunk.view] = squares
