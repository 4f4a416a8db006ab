# Adaptive clipping: a gradient's units (the weights of one output) are bounded by the norm of the parameter's.
# Included by every door.
#
# A unit's sum of squares is that of the tiles it is measured in, in their order: cuts depend on shapes alone. Elements
# are in the array's own order, where element e is of unit (e // run) % units.

cdef void weigh_columns(double* restrict sum_g, double* restrict sum_p, double* restrict odd, const real* restrict g,
                        const real* restrict p, const Instant* now, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real[TILE] x
    cdef real scale = <real>now.scale, most = <real>now.clip
    for i in range(size):
        x[i] = g[i] * scale
    for i in range(size):
        odd[i] = odd[i] + <double>(x[i] - x[i])
    for i in range(size):
        x[i] = clipped(x[i], most)
    for i in range(size):
        sum_g[i] = sum_g[i] + <double>x[i] * <double>x[i]
    for i in range(size):
        sum_p[i] = sum_p[i] + <double>p[i] * <double>p[i]

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
    cdef Sum of_g, of_p
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
    memset(&plain, 0, sizeof(plain))
    plain.scale, plain.clip = 1, INFINITY
    for k in range(u.count):
        of_g.squares = of_g.zero = of_p.squares = of_p.zero = 0
        i = u.begin
        while i < u.end:
            n = u.end - i if u.end - i < TILE else TILE
            start = (u.first + k) * s.run + i
            g = fetch(scratch_g, raw, <char*>gradient.g, gradient.measured, NULL, gradient.stored, start, n)
            weigh_tile(g, &of_g, now, n)
            p = fetch_parameter(scratch_p, raw, s, start, n)
            weigh_tile(p, &of_p, &plain, n)
            i += n
        out[k].gradient, out[k].parameter, out[k].zero = of_g.squares, of_p.squares, of_g.zero

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

cdef void before_units(real* restrict out, const real* restrict g, const real* restrict p, const Instant* now,
                       const Span* s, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """`before`, with what is left of each unit behind the clip by value."""
    cdef Py_ssize_t i, k = 0, n, unit, at_ = start
    cdef real scale = <real>now.scale, most = <real>now.clip, couple = <real>now.couple, left = <real>s.shrink, own
    for i in range(size):
        out[i] = clipped(g[i] * scale, most)
    while k < size:
        unit = (at_ // s.run) % s.units
        if s.run == 1:
            n = s.units - unit
        else:
            n = s.run - at_ % s.run
        if n > size - k:
            n = size - k
        if s.run == 1:
            for i in range(n):
                out[k + i] = out[k + i] * <real>s.unit[unit + i]
        else:
            own = <real>s.unit[unit]
            for i in range(n):
                out[k + i] = out[k + i] * own
        k += n
        at_ += n
    for i in range(size):
        out[i] = out[i] * left
    if now.couple != 0:
        for i in range(size):
            out[i] = out[i] + couple * p[i]
