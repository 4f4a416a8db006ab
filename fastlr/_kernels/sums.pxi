# Sums over a tensor: of its gradient's squares (for clipping, and whether it is finite), and of the terms of a reducing
# rule. They are the same for any cut and layout: sixteen lanes of doubles, folded in one order after each tile (terms)
# or piece (squares), pieces in order, over the elements as they stand in the array's own order. Squares of float32 are
# exact in double, and each is rounded at most 2048 times on its way through a piece of 32768: of 40 million, their norm
# is within 2e-13 of the true one at the worst, and usually within 1e-15. Included by every door.

cdef enum:
    LANES = 16

cdef void gauge_tile(const Rule* h, const StepScalars* now, const real* p, const real* g, void** slot, double* totals,
                     Py_ssize_t size) noexcept nogil:
    """Let a reducing rule see up to TILE elements; adds to `totals`."""
    if Rule in Reducing:
        gauge_elements(h[0], now[0], p, g, <real*>slot[0], <real*>slot[1], <real*>slot[2], <real*>slot[3], totals, size)

cdef void gauge_elements(Rule h, StepScalars now, const real* restrict p, const real* restrict g, real* restrict a,
                         real* restrict b, real* restrict c, real* restrict d, double* totals,
                         Py_ssize_t size) noexcept nogil:
    cdef double[MOST_SUMS][TILE] term
    cdef double[MOST_SUMS] terms
    cdef double[LANES] lane
    cdef Py_ssize_t i, j, whole = (size + LANES - 1) // LANES * LANES
    cdef real ai = 0, bi = 0, ci = 0, di = 0
    cdef int k
    for i in range(size):
        if not (Rule in NoSlot):
            ai = a[i]
        if Rule in TwoSlots or Rule in ThreeSlots or Rule in FourSlots:
            bi = b[i]
        if Rule in ThreeSlots or Rule in FourSlots:
            ci = c[i]
        if Rule in FourSlots:
            di = d[i]
        reduce_terms(h, now, p[i], g[i], &ai, &bi, &ci, &di, terms)
        for k in range(sums(h)):
            term[k][i] = terms[k]
        if Rule in UpdatesStateWhileReducing and not (Rule in NoSlot):
            a[i] = ai
        if Rule in UpdatesStateWhileReducing and (Rule in TwoSlots or Rule in ThreeSlots or Rule in FourSlots):
            b[i] = bi
        if Rule in UpdatesStateWhileReducing and (Rule in ThreeSlots or Rule in FourSlots):
            c[i] = ci
        if Rule in UpdatesStateWhileReducing and Rule in FourSlots:
            d[i] = di
    for k in range(sums(h)):
        for i in range(size, whole):
            term[k][i] = 0
        for j in range(LANES):
            lane[j] = 0
        for i in range(whole // LANES):
            for j in range(LANES):
                lane[j] = lane[j] + term[k][i * LANES + j]
        totals[k] += accumulated(lane)

cdef inline double accumulated(double* lane) noexcept nogil:
    cdef int j
    for j in range(LANES // 2):
        lane[j] = lane[j] + lane[j + LANES // 2]
    return folded_half(lane)

cdef inline double folded_half(double* lane) noexcept nogil:
    cdef int j
    for j in range(LANES // 4):
        lane[j] = lane[j] + lane[j + LANES // 4]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])


cdef void gauge_piece(const StepJob* job, const TensorView* s, const GradientView* gradient, const ScalarGroup* now, const Chunk* chunk,
                      double* totals) noexcept nogil:
    """A reducing rule's first go over one piece."""
    cdef void* slot[MOST_SLOTS]
    cdef Py_ssize_t i = chunk.start, n, itemsize = 8 if s.is_double else 4
    cdef int k
    for k in range(MOST_SUMS):
        totals[k] = 0
    if not direct(s, gradient, now):
        if s.is_double:
            tiles(job, s, gradient, now, i, chunk.size, totals, <double*>NULL)
        else:
            tiles(job, s, gradient, now, i, chunk.size, totals, <float*>NULL)
        return
    while i < chunk.start + chunk.size:
        n = chunk.start + chunk.size - i
        if n > TILE:
            n = TILE
        for k in range(MOST_SLOTS):
            slot[k] = s.slot[k] + i * itemsize if k < job.slots else NULL
        job.reduce_terms[s.is_double](now.hyper, &now.now, s.p + i * itemsize, gradient.g + i * itemsize, slot, totals, n)
        i += n

cdef void gauge_pieces(void* context, Py_ssize_t task) noexcept nogil:
    """A reducing rule's first go over one chunk."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k
    cdef const Chunk* chunk
    cdef const TensorView* s
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        chunk = &job.chunks[k]
        s = &job.views[chunk.view]
        if job.gradients[chunk.view].g != NULL:
            gauge_piece(job, s, &job.gradients[chunk.view], &job.scalar_groups[s.scalar_group], chunk, job.terms + k * MOST_SUMS)
    fastlr_leave(mode)


# Gradients alone

cdef extern from *:
    """
    /* Sums read one stream and wait for it: asked for 64 lines ahead it comes twice as fast. */
    #if defined(__GNUC__) || defined(__clang__)
    #define fastlr_coming(x) __builtin_prefetch(x, 0, 3)
    #elif defined(_M_X64)
    #define fastlr_coming(x) _mm_prefetch((const char *)(x), _MM_HINT_T0)
    #else
    #define fastlr_coming(x) ((void)0)
    #endif
    """
    void fastlr_coming(const void* x) noexcept nogil

cdef enum:
    COMING = 4096          # bytes

cdef struct Lanes:
    # A sum under way: squares, and what tells whether all is finite.
    double[LANES] square
    double[LANES] odd
    bint single            # squares tell

cdef inline void weigh_nothing(Lanes* lanes) noexcept nogil:
    memset(lanes, 0, sizeof(Lanes))

cdef inline void weigh_total(ChunkSum* out, Lanes* lanes) noexcept nogil:
    out.squares = accumulated(lanes.square)
    out.nonfinite = accumulated(lanes.odd)
    if lanes.single:                   # (squares of float32 do not overflow: NaN comes from NaN and infinity alone)
        out.nonfinite = out.squares - out.squares

cdef void weigh_tile(const real* restrict g, Lanes* lanes, const ScalarGroup* now, Py_ssize_t size) noexcept nogil:
    """Add the squares of up to TILE elements as they are scaled and clipped."""
    if real is float:
        if now.clip_value == <double>INFINITY:
            lanes.single = True
            weigh_floats(g, lanes.square, <float>now.grad_factor, size)
            return
    weigh_clipped(g, lanes.square, lanes.odd, <real>now.grad_factor, <real>now.clip_value, size)

cdef void weigh_floats(const float* restrict g, double* restrict into, float scale, Py_ssize_t size) noexcept nogil:
    cdef double[LANES] lane
    cdef Py_ssize_t i, j, whole = size // LANES * LANES
    cdef float x
    for j in range(LANES):
        lane[j] = into[j]
    for i in range(size // LANES):
        fastlr_coming(<const char*>(g + i * LANES) + COMING)
        for j in range(LANES):
            x = g[i * LANES + j] * scale
            lane[j] = lane[j] + <double>x * <double>x
    for j in range(LANES):
        into[j] = lane[j]
    for i in range(whole, size):
        x = g[i] * scale
        into[i - whole] = into[i - whole] + <double>x * <double>x

cdef void weigh_clipped(const real* restrict g, double* restrict into, double* restrict odd, real scale, real most,
                        Py_ssize_t size) noexcept nogil:
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
            x = clipped(x, most)
            lane[j] = lane[j] + <double>x * <double>x
    for j in range(LANES):
        into[j], odd[j] = lane[j], strange[j]
    for i in range(whole, size):
        x = g[i] * scale
        odd[i - whole] = odd[i - whole] + <double>(x - x)
        x = clipped(x, most)
        into[i - whole] = into[i - whole] + <double>x * <double>x

cdef void weigh_piece(ChunkSum* total, const GradientView* gradient, const ScalarGroup* now, Py_ssize_t start, Py_ssize_t size,
                      real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef const real* g
    cdef Lanes lanes
    cdef Py_ssize_t i = start, n
    weigh_nothing(&lanes)
    while i < start + size:
        n = start + size - i
        if n > TILE:
            n = TILE
        g = fetch(scratch, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored, i, n)
        weigh_tile(g, &lanes, now, n)
        i += n
    weigh_total(total, &lanes)

cdef void weigh(void* context, Py_ssize_t task) noexcept nogil:
    """Measure the gradients of one chunk."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k
    cdef const Chunk* chunk
    cdef const TensorView* s
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        chunk = &job.chunks[k]
        s = &job.views[chunk.view]
        job.sums[k].squares, job.sums[k].nonfinite = 0, 0
        if job.gradients[chunk.view].g == NULL:
            continue
        if s.is_double:
            weigh_piece(&job.sums[k], &job.gradients[chunk.view], &job.scalar_groups[s.scalar_group], chunk.start, chunk.size,
                        <double*>NULL)
        else:
            weigh_piece(&job.sums[k], &job.gradients[chunk.view], &job.scalar_groups[s.scalar_group], chunk.start, chunk.size,
                        <float*>NULL)
    fastlr_leave(mode)
