# Sums over a tensor: of its gradient's squares (for clipping, and whether it is finite), and of the terms of a reducing
# rule. They are the same for any cut and layout: sixteen lanes of doubles a tile, folded in one order, tiles in order,
# pieces in order, over the elements as they stand in the array's own order. Included by every door.

cdef enum:
    LANES = 16

cdef void gauge_tile(const Rule* h, const Now* now, const real* p, const real* g, void** slot, double* totals,
                     Py_ssize_t size) noexcept nogil:
    """Let a reducing rule see up to TILE elements; adds to `totals`."""
    if Rule in Reducing:
        gauge_elements(h[0], now[0], p, g, <real*>slot[0], <real*>slot[1], <real*>slot[2], <real*>slot[3], totals, size)

cdef void gauge_elements(Rule h, Now now, const real* restrict p, const real* restrict g, real* restrict a,
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
        gauge(h, now, p[i], g[i], &ai, &bi, &ci, &di, terms)
        for k in range(sums(h)):
            term[k][i] = terms[k]
        if Rule in Gathering and not (Rule in NoSlot):
            a[i] = ai
        if Rule in Gathering and (Rule in TwoSlots or Rule in ThreeSlots or Rule in FourSlots):
            b[i] = bi
        if Rule in Gathering and (Rule in ThreeSlots or Rule in FourSlots):
            c[i] = ci
        if Rule in Gathering and Rule in FourSlots:
            d[i] = di
    for k in range(sums(h)):
        for i in range(size, whole):
            term[k][i] = 0
        for j in range(LANES):
            lane[j] = 0
        for i in range(whole // LANES):
            for j in range(LANES):
                lane[j] = lane[j] + term[k][i * LANES + j]
        totals[k] += folded(lane)

cdef inline double folded(double* lane) noexcept nogil:
    cdef Py_ssize_t i, j = LANES // 2
    while j > 0:
        for i in range(j):
            lane[i] += lane[i + j]
        j //= 2
    return lane[0]


cdef void gauge_piece(const Job* job, const Span* s, const Gradient* gradient, const Instant* now, const Piece* piece,
                      double* totals) noexcept nogil:
    """A reducing rule's first go over one piece."""
    cdef void* slot[MOST_SLOTS]
    cdef Py_ssize_t i = piece.start, n, itemsize = 8 if s.wide else 4
    cdef int k
    for k in range(MOST_SUMS):
        totals[k] = 0
    if not direct(s, gradient, now):
        if s.wide:
            tiles(job, s, gradient, now, i, piece.size, totals, <double*>NULL)
        else:
            tiles(job, s, gradient, now, i, piece.size, totals, <float*>NULL)
        return
    while i < piece.start + piece.size:
        n = piece.start + piece.size - i
        if n > TILE:
            n = TILE
        for k in range(MOST_SLOTS):
            slot[k] = s.slot[k] + i * itemsize if k < job.slots else NULL
        job.gauge[s.wide](now.hyper, &now.now, s.p + i * itemsize, gradient.g + i * itemsize, slot, totals, n)
        i += n

cdef void gauge_pieces(void* context, Py_ssize_t chunk) noexcept nogil:
    """A reducing rule's first go over one chunk."""
    cdef const Job* job = <const Job*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k
    cdef const Piece* piece
    cdef const Span* s
    for k in range(job.edges[chunk], job.edges[chunk + 1]):
        piece = &job.pieces[k]
        s = &job.spans[piece.span]
        if job.gradients[piece.span].g != NULL:
            gauge_piece(job, s, &job.gradients[piece.span], &job.instants[s.instant], piece, job.terms + k * MOST_SUMS)
    fastlr_leave(mode)


# Gradients alone

cdef void weigh_tile(const real* restrict g, Sum* total, const Instant* now, Py_ssize_t size) noexcept nogil:
    cdef real[TILE] x
    cdef real[LANES] odd
    cdef double[TILE] square
    cdef double[LANES] lane
    cdef Py_ssize_t i, j, whole = (size + LANES - 1) // LANES * LANES
    cdef real scale = <real>now.scale, most = <real>now.clip
    for i in range(size):
        x[i] = g[i] * scale
    for i in range(size, whole):
        x[i] = 0
    for j in range(LANES):
        odd[j], lane[j] = 0, 0
    for i in range(whole // LANES):
        for j in range(LANES):
            odd[j] = odd[j] + (x[i * LANES + j] - x[i * LANES + j])    # 0, or NaN from NaN and infinity
    for i in range(whole):
        x[i] = clipped(x[i], most)
    for i in range(whole):
        square[i] = <double>x[i] * <double>x[i]
    for i in range(whole // LANES):
        for j in range(LANES):
            lane[j] = lane[j] + square[i * LANES + j]
    j = LANES // 2
    while j > 0:
        for i in range(j):
            lane[i] += lane[i + j]
            odd[i] = odd[i] + odd[i + j]
        j //= 2
    total.squares += lane[0]
    total.zero += <double>odd[0]

cdef void weigh_piece(Sum* total, const Gradient* gradient, const Instant* now, Py_ssize_t start, Py_ssize_t size,
                      real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef const real* g
    cdef Py_ssize_t i = start, n
    while i < start + size:
        n = start + size - i
        if n > TILE:
            n = TILE
        g = fetch(scratch, raw, <char*>gradient.g, gradient.measured, NULL, gradient.stored, i, n)
        weigh_tile(g, total, now, n)
        i += n

cdef void weigh(void* context, Py_ssize_t chunk) noexcept nogil:
    """Measure the gradients of one chunk."""
    cdef const Job* job = <const Job*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k
    cdef const Piece* piece
    cdef const Span* s
    for k in range(job.edges[chunk], job.edges[chunk + 1]):
        piece = &job.pieces[k]
        s = &job.spans[piece.span]
        job.sums[k].squares, job.sums[k].zero = 0, 0
        if job.gradients[piece.span].g == NULL:
            continue
        if s.wide:
            weigh_piece(&job.sums[k], &job.gradients[piece.span], &job.instants[s.instant], piece.start, piece.size,
                        <double*>NULL)
        else:
            weigh_piece(&job.sums[k], &job.gradients[piece.span], &job.instants[s.instant], piece.start, piece.size,
                        <float*>NULL)
    fastlr_leave(mode)
