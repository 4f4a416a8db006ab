# Adaptive clipping: a gradient's units (the weights of one output) are bounded by the norm of the parameter's.
# Included by every door.
#
# A unit's sum of squares is that of the tiles it is measured in, in their order: cuts depend on shapes alone. Elements
# are in the array's own order, where element e is of unit (e // run) % units.

cdef enum:
    SHORT_LANES = 8

cdef void weigh_columns(double* restrict sum_g, double* restrict sum_p, double* restrict odd, const real* restrict g,
                        const real* restrict p, const Instant* now, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real x, scale = <real>now.scale, most = <real>now.clip
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

cdef void weigh_short(Share* out, const Units* u, const Span* s, const Gradient* gradient, const Instant* now,
                      real* also_typed) noexcept nogil:
    """Units of no more than a tile."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef const real* x
    cdef double zero
    cdef Py_ssize_t k, i, start = u.first * s.run
    cdef real scale = <real>now.scale, most = <real>now.clip
    for k in range(u.count):
        x = fetch(scratch, raw, <char*>gradient.g, gradient.measured, NULL, gradient.stored, start + k * s.run, s.run)
        if real is float and now.clip == <double>INFINITY:
            out[k].gradient = squares_of(x, scale, s.run)
            out[k].zero = out[k].gradient - out[k].gradient
        else:
            zero = 0
            for i in range(s.run):
                zero += <double>(x[i] * scale - x[i] * scale)
                scratch[i] = clipped(x[i] * scale, most)
            out[k].gradient, out[k].zero = squares_of(<const real*>scratch, <real>1, s.run), zero
    for k in range(u.count):
        x = fetch_parameter(scratch, raw, s, start + k * s.run, s.run)
        out[k].parameter = squares_of(x, <real>1, s.run)

cdef void weigh_some(Share* out, const Units* u, const Span* s, const Gradient* gradient, const Instant* now,
                     real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef double[TILE] sum_g
    cdef double[TILE] sum_p
    cdef double[TILE] odd
    cdef const real* g
    cdef const real* p
    cdef Sum total_g, total_p
    cdef Lanes of_g, of_p
    cdef Instant plain
    cdef Py_ssize_t k, i, n, start
    if s.run == 1:                                 # a tile of columns, row by row
        for k in range(u.count):
            sum_g[k] = sum_p[k] = odd[k] = 0
        for i in range(u.begin, u.end):
            start = i * s.units + u.first
            g = fetch(scratch_g, raw, <char*>gradient.g, gradient.measured, NULL, gradient.stored, start, u.count)
            p = fetch_parameter(scratch_p, raw, s, start, u.count)
            weigh_columns(sum_g, sum_p, odd, g, p, now, u.count)
        for k in range(u.count):
            out[k].gradient, out[k].parameter, out[k].zero = sum_g[k], sum_p[k], odd[k]
        return
    if s.run <= TILE:
        weigh_short(out, u, s, gradient, now, also_typed)
        return
    memset(&plain, 0, sizeof(plain))
    plain.scale, plain.clip = 1, INFINITY
    for k in range(u.count):
        weigh_nothing(&of_g)
        weigh_nothing(&of_p)
        i = u.begin
        while i < u.end:
            n = u.end - i if u.end - i < TILE else TILE
            start = (u.first + k) * s.run + i
            g = fetch(scratch_g, raw, <char*>gradient.g, gradient.measured, NULL, gradient.stored, start, n)
            weigh_tile(g, &of_g, now, n)
            p = fetch_parameter(scratch_p, raw, s, start, n)
            weigh_tile(p, &of_p, &plain, n)
            i += n
        weigh_total(&total_g, &of_g)
        weigh_total(&total_p, &of_p)
        out[k].gradient, out[k].parameter, out[k].zero = total_g.squares, total_p.squares, total_g.zero

cdef void weigh_units(void* context, Py_ssize_t chunk) noexcept nogil:
    """Measure some units of one tensor."""
    cdef const Job* job = <const Job*>context
    cdef unsigned int mode = fastlr_enter()
    cdef const Units* u = &job.units[chunk]
    cdef const Span* s = &job.spans[u.span]
    cdef const Gradient* gradient = &job.gradients[u.span]
    cdef Share* out = job.shares + u.out
    if gradient.g == NULL:
        memset(out, 0, u.count * sizeof(Share))
    elif s.wide:
        weigh_some(out, u, s, gradient, &job.instants[s.instant], <double*>NULL)
    else:
        weigh_some(out, u, s, gradient, &job.instants[s.instant], <float*>NULL)
    fastlr_leave(mode)

cdef void weigh_alone(const Job* job, const Piece* piece, const Instant* now) noexcept nogil:
    """Measure the units of a tensor that is one piece, just before it moves, and fix what is left of them."""
    cdef const Span* s = &job.spans[piece.span]
    cdef Share[TILE] shares
    cdef Units u
    cdef Py_ssize_t k
    cdef double squares = 0
    u.span, u.first, u.begin, u.end = piece.span, 0, 0, s.size // s.units
    while u.first < s.units:
        u.count = s.units - u.first if s.units - u.first < TILE else TILE
        if s.wide:
            weigh_some(shares, &u, s, &job.gradients[piece.span], now, <double*>NULL)
        else:
            weigh_some(shares, &u, s, &job.gradients[piece.span], now, <float*>NULL)
        for k in range(u.count):
            s.unit[u.first + k] = left_of(shares[k].gradient, shares[k].parameter, job.unit_most, job.unit_least)
        for k in range(u.count):
            squares += s.unit[u.first + k] * s.unit[u.first + k] * shares[k].gradient
        u.first += u.count
    job.unit_squares[piece.span] = squares

cdef void before_units(real* restrict out, const real* restrict g, const real* restrict p, const Instant* now,
                       const Span* s, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """`before`, with what is left of each unit behind the clip by value."""
    cdef Py_ssize_t i, k = 0, n, unit = start // s.run % s.units, inside = start % s.run
    cdef real[TILE] by
    cdef real scale = <real>now.scale, most = <real>now.clip, couple = <real>now.couple, left = <real>s.shrink, own
    while k < size:                                # (columns: up to the row's end; runs: up to the unit's)
        n = s.units - unit if s.run == 1 else s.run - inside
        if n > size - k:
            n = size - k
        if s.run == 1:
            for i in range(n):
                by[k + i] = <real>s.unit[unit + i]
        else:
            own = <real>s.unit[unit]
            for i in range(n):
                by[k + i] = own
        k += n
        unit = 0 if s.run == 1 or unit + 1 == s.units else unit + 1
        inside = 0
    for i in range(size):
        out[i] = clipped(g[i] * scale, most) * by[i] * left
    if now.couple != 0:
        for i in range(size):
            out[i] = out[i] + couple * p[i]
