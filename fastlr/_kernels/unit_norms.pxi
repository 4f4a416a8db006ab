# Adaptive clipping: a gradient's units (the weights of one output) are bounded by the norm of the parameter's.
# Included by every door.
#
# A unit's sum of squares is that of the tiles it is measured in, in their order: cuts depend on shapes alone. Elements
# are in the array's own order, where element e is of unit (e // run) % units.

cdef enum:
    SHORT_LANES = 8

cdef void weigh_columns(double* restrict sum_g, double* restrict sum_p, double* restrict odd, const real* restrict g,
                        const real* restrict p, const ScalarGroup* now, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real x, scale = <real>now.grad_factor, most = <real>now.clip_value
    for i in range(size):
        x = g[i] * scale
        odd[i] = odd[i] + <double>(x - x)
        x = clipped(x, most)
        sum_g[i] = sum_g[i] + <double>x * <double>x
        sum_p[i] = sum_p[i] + <double>p[i] * <double>p[i]

cdef inline double folded_few(double* lane) noexcept nogil:
    cdef int j
    for j in range(SHORT_LANES // 2):
        lane[j] = lane[j] + lane[j + SHORT_LANES // 2]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])

cdef inline double squares_of(const real* restrict g, real scale, Py_ssize_t size) noexcept nogil:
    """The squares of no more than a tile, added in few lanes: of short units, folding is what costs."""
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
    return folded_few(lane) + rest

cdef void weigh_short(UnitSums* out, const UnitRange* u, const TensorView* s, const GradientView* gradient, const ScalarGroup* now,
                      real* also_typed) noexcept nogil:
    """Units of no more than a tile."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef const real* x
    cdef double zero
    cdef Py_ssize_t k, i, start = u.first * s.unit_length
    cdef real scale = <real>now.grad_factor, most = <real>now.clip_value
    for k in range(u.count):
        x = fetch(scratch, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored, start + k * s.unit_length, s.unit_length)
        if real is float and now.clip_value == <double>INFINITY:
            out[k].gradient = squares_of(x, scale, s.unit_length)
            out[k].nonfinite = out[k].gradient - out[k].gradient
        else:
            zero = 0
            for i in range(s.unit_length):
                zero += <double>(x[i] * scale - x[i] * scale)
                scratch[i] = clipped(x[i] * scale, most)
            out[k].gradient, out[k].nonfinite = squares_of(<const real*>scratch, <real>1, s.unit_length), zero
    for k in range(u.count):
        x = fetch_parameter(scratch, raw, s, start + k * s.unit_length, s.unit_length)
        out[k].parameter = squares_of(x, <real>1, s.unit_length)

cdef void weigh_some(UnitSums* out, const UnitRange* u, const TensorView* s, const GradientView* gradient, const ScalarGroup* now,
                     real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef double[TILE] sum_g
    cdef double[TILE] sum_p
    cdef double[TILE] odd
    cdef const real* g
    cdef const real* p
    cdef ChunkSum total_g, total_p
    cdef Lanes of_g, of_p
    cdef ScalarGroup plain
    cdef Py_ssize_t k, i, n, start
    if s.unit_length == 1:                                 # a tile of columns, row by row
        for k in range(u.count):
            sum_g[k] = sum_p[k] = odd[k] = 0
        for i in range(u.begin, u.end):
            start = i * s.unit_count + u.first
            g = fetch(scratch_g, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored, start, u.count)
            p = fetch_parameter(scratch_p, raw, s, start, u.count)
            weigh_columns(sum_g, sum_p, odd, g, p, now, u.count)
        for k in range(u.count):
            out[k].gradient, out[k].parameter, out[k].nonfinite = sum_g[k], sum_p[k], odd[k]
        return
    if s.unit_length <= TILE:
        weigh_short(out, u, s, gradient, now, also_typed)
        return
    memset(&plain, 0, sizeof(plain))
    plain.grad_factor, plain.clip_value = 1, INFINITY
    for k in range(u.count):
        weigh_nothing(&of_g)
        weigh_nothing(&of_p)
        i = u.begin
        while i < u.end:
            n = u.end - i if u.end - i < TILE else TILE
            start = (u.first + k) * s.unit_length + i
            g = fetch(scratch_g, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored, start, n)
            weigh_tile(g, &of_g, now, n)
            p = fetch_parameter(scratch_p, raw, s, start, n)
            weigh_tile(p, &of_p, &plain, n)
            i += n
        weigh_total(&total_g, &of_g)
        weigh_total(&total_p, &of_p)
        out[k].gradient, out[k].parameter, out[k].nonfinite = total_g.squares, total_p.squares, total_g.nonfinite

cdef void weigh_units(void* context, Py_ssize_t task) noexcept nogil:
    """Measure some units of one tensor."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = fastlr_enter()
    cdef const UnitRange* u = &job.units[task]
    cdef const TensorView* s = &job.views[u.view]
    cdef const GradientView* gradient = &job.gradients[u.view]
    cdef UnitSums* out = job.shares + u.out
    if gradient.g == NULL:
        memset(out, 0, u.count * sizeof(UnitSums))
    elif s.is_double:
        weigh_some(out, u, s, gradient, &job.scalar_groups[s.scalar_group], <double*>NULL)
    else:
        weigh_some(out, u, s, gradient, &job.scalar_groups[s.scalar_group], <float*>NULL)
    fastlr_leave(mode)

cdef void weigh_alone(const StepJob* job, const Chunk* chunk, const ScalarGroup* now) noexcept nogil:
    """Measure the units of a tensor that is one piece, just before it moves, and fix what is left of them."""
    cdef const TensorView* s = &job.views[chunk.view]
    cdef UnitSums[TILE] shares
    cdef UnitRange u
    cdef Py_ssize_t k
    cdef double squares = 0
    u.view, u.first, u.begin, u.end = chunk.view, 0, 0, s.size // s.unit_count
    while u.first < s.unit_count:
        u.count = s.unit_count - u.first if s.unit_count - u.first < TILE else TILE
        if s.is_double:
            weigh_some(shares, &u, s, &job.gradients[chunk.view], now, <double*>NULL)
        else:
            weigh_some(shares, &u, s, &job.gradients[chunk.view], now, <float*>NULL)
        for k in range(u.count):
            s.unit_factors[u.first + k] = left_of(shares[k].gradient, shares[k].parameter, job.unit_clip, job.unit_eps)
        for k in range(u.count):
            squares += s.unit_factors[u.first + k] * s.unit_factors[u.first + k] * shares[k].gradient
        u.first += u.count
    job.unit_squares[chunk.view] = squares

cdef void before_units(real* restrict out, const real* restrict g, const real* restrict p, const ScalarGroup* now,
                       const TensorView* s, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """`before`, with what is left of each unit behind the clip by value."""
    cdef Py_ssize_t i, k = 0, n, unit = start // s.unit_length % s.unit_count, inside = start % s.unit_length
    cdef real[TILE] by
    cdef real scale = <real>now.grad_factor, most = <real>now.clip_value, l2 = <real>now.l2, left = <real>s.clip_factor, own
    while k < size:                                # (columns: up to the row's end; runs: up to the unit's)
        n = s.unit_count - unit if s.unit_length == 1 else s.unit_length - inside
        if n > size - k:
            n = size - k
        if s.unit_length == 1:
            for i in range(n):
                by[k + i] = <real>s.unit_factors[unit + i]
        else:
            own = <real>s.unit_factors[unit]
            for i in range(n):
                by[k + i] = own
        k += n
        unit = 0 if s.unit_length == 1 or unit + 1 == s.unit_count else unit + 1
        inside = 0
    for i in range(size):
        out[i] = clipped(g[i] * scale, most) * by[i] * left
    if now.l2 != 0:
        for i in range(size):
            out[i] = out[i] + l2 * p[i]
