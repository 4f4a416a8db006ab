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

cdef void fold_tiles(const StepJob* job, const TensorView* s, const GradientView* gradient, const ScalarGroup* now, Py_ssize_t start,
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
        g = fetch(scratch_g, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, i, n)
        if now.staged:
            before(scratch_g, g, g, now, 1, n)
            g = scratch_g
        for k in range(job.slots):
            if now.grad_power[k] != 0:
                scale = s.slot_scale[k] + i // GROUP if s.slot_scale[k] != NULL else NULL
                slot = fetch(scratch, raw, s.slot[k], NULL, scale, s.slot_stored[k], i, n)
                pile(slot, g, now.slot_keep[k], now.grad_share[k], now.grad_power[k], n)
                put_back(slot, raw, s.slot[k], NULL, scale, s.slot_stored[k], i, n, job, s.random_salt + 1 + k)
        i += n

cdef void fold_pieces(void* context, Py_ssize_t task) noexcept nogil:
    """One chunk of a gradient into the moments."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k
    cdef const Chunk* chunk
    cdef const TensorView* s
    cdef const GradientView* gradient
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        chunk = &job.chunks[k]
        s = &job.views[chunk.view]
        gradient = &job.gradients[chunk.view]
        if gradient.g == NULL:
            continue
        if s.is_double:
            fold_tiles(job, s, gradient, &job.scalar_groups[s.scalar_group], chunk.start, chunk.size, <double*>NULL)
        else:
            fold_tiles(job, s, gradient, &job.scalar_groups[s.scalar_group], chunk.start, chunk.size, <float*>NULL)
        if job.zero_grads:
            forget(gradient, chunk)
    fastlr_leave(mode)
