# A gradient into the moments, where the parameter stays: what accumulates without a buffer. Included by every door.

cdef void pile(real* restrict slot, const real* restrict g, double keep, double share, int power,
               Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real part = <real>share, left = <real>keep
    if power == 1:
        for i in range(size):
            slot[i] = left * slot[i] + part * g[i]
    else:
        for i in range(size):
            slot[i] = left * slot[i] + part * (g[i] * g[i])

cdef void fold_tiles(const Job* job, const Span* s, const Gradient* gradient, const Instant* now, Py_ssize_t start,
                     Py_ssize_t size, real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef real[TILE] scratch_g
    cdef real* slot
    cdef float* scale
    cdef const real* g
    cdef Py_ssize_t i = start, n
    cdef int k
    while i < start + size:
        n = start + size - i
        if n > TILE:
            n = TILE
        g = fetch(scratch_g, raw, <char*>gradient.g, gradient.walk, NULL, gradient.stored, i, n)
        if now.staged:
            before(scratch_g, g, g, now, 1, n)
            g = scratch_g
        for k in range(job.slots):
            if now.power[k] != 0:
                scale = s.slot_scale[k] + i // GROUP if s.slot_scale[k] != NULL else NULL
                slot = fetch(scratch, raw, s.slot[k], NULL, scale, s.slot_stored[k], i, n)
                pile(slot, g, now.left[k], now.share[k], now.power[k], n)
                put_back(slot, raw, s.slot[k], NULL, scale, s.slot_stored[k], i, n, job, s.salt + 1 + k)
        i += n

cdef void fold_pieces(void* context, Py_ssize_t chunk) noexcept nogil:
    """One chunk of a gradient into the moments."""
    cdef const Job* job = <const Job*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k
    cdef const Piece* piece
    cdef const Span* s
    cdef const Gradient* gradient
    for k in range(job.edges[chunk], job.edges[chunk + 1]):
        piece = &job.pieces[k]
        s = &job.spans[piece.span]
        gradient = &job.gradients[piece.span]
        if gradient.g == NULL:
            continue
        if s.wide:
            fold_tiles(job, s, gradient, &job.instants[s.instant], piece.start, piece.size, <double*>NULL)
        else:
            fold_tiles(job, s, gradient, &job.instants[s.instant], piece.start, piece.size, <float*>NULL)
        if job.zero_grads:
            forget(gradient, piece)
    fastlr_leave(mode)
