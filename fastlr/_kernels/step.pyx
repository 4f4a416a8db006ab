# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The writing pass: every chunk of a step, straight over memory or tile by tile.

Where the operands of a chunk are contiguous floats and no stage comes before or after the rule, the rule's loop runs
over memory itself; where the rule has a loop over stored elements, that one runs; else the chunk is done tile by tile.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset
from fastlr._kernels.after_step cimport (
    LINE, Moved, RowSums, RowWork, add_to_row, begin_row, begin_work, bound_elements, clear_moved, constrain_range,
    do_piece, end_row, finish_work, follow_range, keep_piece, measure_piece, norm_moved,
)
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.codecs cimport bytes_of
from fastlr._kernels.floating_point_mode cimport enter_kernel_mode, leave_kernel_mode
from fastlr._kernels.norms cimport measure_units_of_chunk
from fastlr._kernels.piece_sums cimport piece_of
from fastlr._kernels.random_bits cimport BITS_BLOCK, fill_random_table
from fastlr._kernels.rule_table cimport TermsFunction
from fastlr._kernels.scaled_sum cimport ScaledSum, add_square, clear_sum, root_of_sum
from fastlr._kernels.strided cimport zero_strided
from fastlr._kernels.structs cimport (
    BFLOAT16, BOX, FLOAT32, FLOAT64, GROUP, MAX_SLOTS, MAX_SUMS, MOVED_NORMS, NO_CONSTRAINT, SIGNED8,
    TILE, UNSIGNED8, AfterStep, Chunk, ChunkOperands, GradientView,
    ScalarGroup, StepJob, Storage, TensorOps, TensorView, find_operands,
)
from fastlr._kernels.tiles cimport (
    apply_lr_factors, is_native, load_param, load_tile, preprocess, preprocess_units, store_param, store_shadow,
    store_tile, update_ema,
)
from fastlr.rules.element cimport real

fill_random_table()


cdef void step_tiles(const StepJob* job, const TensorView* view, const GradientView* gradient, const ScalarGroup* group,
                     Py_ssize_t start, Py_ssize_t size, double* totals, real* also_typed) noexcept nogil:
    """One pass over consecutive elements: the step, or where `totals` is given, the terms of a reducing rule."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef real[TILE] moved
    cdef real[MAX_SLOTS][TILE] scratch
    cdef void* slot[MAX_SLOTS]
    cdef float* scale[MAX_SLOTS]
    cdef real* p
    cdef const real* g
    cdef Py_ssize_t i = start, n
    cdef int k
    for k in range(MAX_SLOTS):
        slot[k] = scale[k] = NULL
    while i < start + size:
        n = start + size - i
        if n > TILE:
            n = TILE
        p = load_param(scratch_p, raw, view, i, n)
        g = load_tile(scratch_g, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, i, n)
        for k in range(job.slots):
            if view.slot_scale[k] != NULL:
                scale[k] = view.slot_scale[k] + i // GROUP
            slot[k] = load_tile(scratch[k], raw, view.slot[k], NULL, scale[k], view.slot_stored[k], i, n)
        if view.unit_factors != NULL:
            preprocess_units(scratch_g, g, p, group, view, i, n)
            g = scratch_g
        elif group.staged:
            preprocess(scratch_g, g, p, group, view.clip_factor, n)
            g = scratch_g
        if totals != NULL:
            job.reduce_terms[view.is_double](group.hyper, &group.now, p, g, slot, totals, n)
        elif view.lr_factors != NULL:
            memset(moved, 0, n * sizeof(real))
            job.step[view.is_double](group.hyper, &group.now, moved, g, slot, n)
            apply_lr_factors(p, moved, <const real*>view.lr_factors + i, group, n)
        else:
            job.step[view.is_double](group.hyper, &group.now, p, g, slot, n)
        for k in range(job.slots if job.updates_state_while_reducing == (totals != NULL) else 0):
            store_tile(<real*>slot[k], raw, view.slot[k], NULL, scale[k], view.slot_stored[k], i, n, job,
                       view.random_salt + 1 + k)
        if totals != NULL:
            i += n
            continue
        store_param(p, raw, view, i, n, job)
        if view.ema != NULL or view.shadow != NULL:
            if not is_native(view.stored, p):            # (mean and copy are of what is stored)
                p = load_param(scratch_p, raw, view, i, n)
            if view.ema != NULL:
                update_ema(<real*>view.ema + i, p, group.ema_decay, n)
            if view.shadow != NULL:
                store_shadow(view, p, raw, i, n)
        i += n


cdef inline bint is_in_place(const TensorView* view, const GradientView* gradient) noexcept nogil:
    """Whether the rule's loop may read and write the operands in place, but for the stages before it."""
    return not view.staged and view.layout == NULL and gradient.layout == NULL and view.lr_factors == NULL \
        and view.ema == NULL and gradient.stored == (FLOAT64 if view.is_double else FLOAT32)


cdef inline bint is_direct(const TensorView* view, const GradientView* gradient,
                           const ScalarGroup* group) noexcept nogil:
    """Whether the rule's loop may read and write the operands in place."""
    return not group.staged and is_in_place(view, gradient)


cdef inline int storage_loop_index(const StepJob* job, const TensorView* view,
                                   const GradientView* gradient) noexcept nogil:
    """Which entry of `job.storage_loop` serves, or -1."""
    cdef Storage first = view.slot_stored[0], second = view.slot_stored[1]
    cdef int k
    if job.storage_loop == NULL or view.is_double or view.layout != NULL or gradient.layout != NULL \
            or view.lr_factors != NULL or view.ema != NULL or view.low_bits != NULL or view.shadow != NULL \
            or view.unit_factors != NULL or view.stored != gradient.stored:
        return -1
    if view.stored != FLOAT32 and view.stored != BFLOAT16:
        return -1
    if first == FLOAT32 and second == FLOAT32:
        k = 0
    elif first == BFLOAT16 and second == BFLOAT16:
        k = 1
    elif first == SIGNED8 and second == UNSIGNED8:
        k = 2
    else:
        return -1
    return k if view.stored == FLOAT32 else k + 3


cdef void zero_gradient(const GradientView* gradient, const Chunk* chunk) noexcept nogil:
    cdef Py_ssize_t bytes = bytes_of(gradient.stored)
    if gradient.layout == NULL:
        memset(<char*>gradient.g + chunk.start * bytes, 0, chunk.size * bytes)
    else:
        zero_strided(<char*>gradient.g, gradient.layout, chunk.start, chunk.size, gradient.stored)


cdef void step_staged(const StepJob* job, const TensorView* view, const GradientView* gradient,
                      const ScalarGroup* group, Py_ssize_t start, Py_ssize_t size, real* also_typed) noexcept nogil:
    """The rule's own loop over parameter and state in place, and over tiles of the gradient, which stages change first.
    """
    cdef real[TILE] staged
    cdef void* slot[MAX_SLOTS]
    cdef real* p = <real*>view.p + start
    cdef const real* g = <const real*>gradient.g + start
    cdef Py_ssize_t n
    cdef int k
    for k in range(MAX_SLOTS):
        slot[k] = <real*>view.slot[k] + start if k < job.slots else NULL
    while size > 0:
        n = size if size < TILE else TILE
        preprocess(staged, g, p, group, view.clip_factor, n)
        job.step[view.is_double](group.hyper, &group.now, p, staged, slot, n)
        p, g, size = p + n, g + n, size - n
        for k in range(job.slots):
            slot[k] = <real*>slot[k] + n


cdef inline void step_indirect(const StepJob* job, const TensorView* view, const GradientView* gradient,
                               const ScalarGroup* group, Py_ssize_t start, Py_ssize_t size,
                               real* also_typed) noexcept nogil:
    """The rule's loop over copies of what it cannot read or write in place."""
    if is_in_place(view, gradient):
        step_staged(job, view, gradient, group, start, size, also_typed)
    else:
        step_tiles(job, view, gradient, group, start, size, NULL, also_typed)


cdef inline void step_direct(const StepJob* job, const TensorView* view, const GradientView* gradient,
                             const ScalarGroup* group, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """The rule's own loop straight over memory."""
    cdef void* slot[MAX_SLOTS]
    cdef Py_ssize_t bytes = start * (8 if view.is_double else 4)
    cdef int i
    for i in range(MAX_SLOTS):
        slot[i] = view.slot[i] + bytes if i < job.slots else NULL
    job.step[view.is_double](group.hyper, &group.now, view.p + bytes, gradient.g + bytes, slot, size)

cdef void step_range(const StepJob* job, const TensorView* view, const GradientView* gradient, const ScalarGroup* group,
                     Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """Step consecutive elements of one tensor."""
    cdef int i
    if view.after != NULL:
        if view.is_double:
            step_blocks(job, view, gradient, group, start, size, <double*>NULL)
        else:
            step_blocks(job, view, gradient, group, start, size, <float*>NULL)
    elif is_direct(view, gradient, group):
        step_direct(job, view, gradient, group, start, size)
    elif view.is_double:
        step_indirect(job, view, gradient, group, start, size, <double*>NULL)
    else:
        i = storage_loop_index(job, view, gradient) if size >= BITS_BLOCK else -1
        if i >= 0:
            job.storage_loop[i](group.hyper, job, view, gradient.g, group, start, size // BITS_BLOCK * BITS_BLOCK, NULL)
            start, size = start + size // BITS_BLOCK * BITS_BLOCK, size % BITS_BLOCK
        step_indirect(job, view, gradient, group, start, size, <float*>NULL)

cdef void without_after(TensorView* plain, const TensorView* view) noexcept nogil:
    """A view of the step alone: what follows a constrained parameter comes after the constraint."""
    plain[0] = view[0]
    plain.after, plain.staged = NULL, view.after.staged or view.unit_count > 0
    if view.after.constraint != NO_CONSTRAINT:
        plain.ema = plain.shadow = NULL

cdef void step_blocks(const StepJob* job, const TensorView* view, const GradientView* gradient,
                      const ScalarGroup* group, Py_ssize_t start, Py_ssize_t size, real* also_typed) noexcept nogil:
    """Step the elements of a chunk, a piece at a time, and do what comes after while they are in the cache.

    So few, as a core then loads the next from memory meanwhile; to request them here takes more time. A row of more is
    summed as it is stepped, and constrained between the pieces of the next row.
    """
    cdef TensorView plain
    cdef const AfterStep* after = view.after
    cdef real[BITS_BLOCK] before
    cdef Moved sums
    cdef RowSums row
    cdef RowWork work
    cdef Py_ssize_t i = start, due = start, due_end, k, n, m, j, together = after.block, piece = piece_of(also_typed)
    cdef bint measured = after.norms != NULL, constrained = after.constraint != NO_CONSTRAINT
    cdef bint follows = view.ema != NULL or view.shadow != NULL, direct
    cdef bint long_row = after.constraint > BOX and after.row == after.block and after.row > piece
    without_after(&plain, view)
    direct = is_direct(&plain, gradient, group)
    if after.constraint == BOX and direct and not (measured or follows):
        step_box(job, &plain, gradient, group, after, start, size, also_typed)
        return
    if measured:
        clear_moved(&sums)
    if measured or long_row:
        together = piece if direct else BITS_BLOCK  # (of which loops over other storage are)
    end_row(&work)
    while i < start + size:
        n = start + size - i if start + size - i < after.block else after.block
        if long_row:
            begin_row(&row, after)
        k = i
        while k < i + n:
            m = i + n - k if i + n - k < together else together
            j = 0
            while measured and j < m:
                keep_piece(before + j, &sums, &plain, k + j, m - j if m - j < piece else piece)
                j += piece
            if direct:
                step_direct(job, &plain, gradient, group, k, m)
            else:
                step_range(job, &plain, gradient, group, k, m)
            j = 0
            while measured and j < m:
                measure_piece(&sums, before + j, &plain, gradient, k + j, m - j if m - j < piece else piece)
                j += piece
            if long_row:
                if k > i:
                    add_to_row(&row, after, &plain, k - together, together, also_typed)
                if work.next < work.end:
                    do_piece(&work, job, &plain, also_typed)
            k += m
        if long_row:
            add_to_row(&row, after, &plain, k - m, m, also_typed)
            finish_work(&work, job, &plain, also_typed)            # (of the row before)
            begin_work(&work, job, after, &plain, &row, i, n, also_typed)
            if follows:
                finish_work(&work, job, &plain, also_typed)
        elif constrained:
            # (where it can be, the block before: vectors that were just written across two cache lines cannot be read
            # for a while)
            due_end = i if direct and not follows else i + n
            constrain_range(job, &plain, after, due, due_end - due, also_typed)
            due = due_end
        if constrained and follows:
            follow_range(view, group, i, n, also_typed)
        i += n
    if long_row:
        finish_work(&work, job, &plain, also_typed)
    elif constrained:
        constrain_range(job, &plain, after, due, i - due, also_typed)
    for k in range(MOVED_NORMS if measured else 0):
        after.norms[MOVED_NORMS * (start // after.chunk) + k] = norm_moved(&sums, <int>k)

cdef inline void step_box(const StepJob* job, const TensorView* view, const GradientView* gradient,
                          const ScalarGroup* group, const AfterStep* after, Py_ssize_t start, Py_ssize_t size,
                          real* also_typed) noexcept nogil:
    """Step elements in place, and keep each within bounds: what was stepped, up to the last whole cache line."""
    cdef Py_ssize_t piece = piece_of(also_typed), k = start, bounded = start, end = start + size, before, n
    cdef real* p = <real*>view.p
    cdef real least = <real>after.low, most = <real>after.high
    while k < end:
        n = end - k if end - k < piece else piece
        step_direct(job, view, gradient, group, k, n)
        before = k - <Py_ssize_t>(<size_t>(p + k) % LINE // sizeof(real))
        if before > bounded:
            bound_elements(p + bounded, least, most, before - bounded)
            bounded = before
        k += n
    bound_elements(p + bounded, least, most, end - bounded)

cdef void constrain_elements(const StepJob* job, const TensorView* view, Py_ssize_t start,
                             Py_ssize_t size) noexcept nogil:
    """Constrain some rows of a tensor, or of a box any consecutive elements."""
    cdef unsigned int mode = enter_kernel_mode()
    if view.is_double:
        constrain_range(job, view, view.after, start, size, <double*>NULL)
    else:
        constrain_range(job, view, view.after, start, size, <float*>NULL)
    leave_kernel_mode(mode)

cdef void finish_chunks(void* context, Py_ssize_t task) noexcept nogil:
    """One task of what comes after a step that another loop did: constraints, and what follows parameters."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = enter_kernel_mode()
    cdef Py_ssize_t k
    cdef ChunkOperands x
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        if not find_operands(&x, job, k) or x.view.after == NULL or x.view.after.constraint == NO_CONSTRAINT:
            continue
        if x.view.is_double:
            constrain_range(job, x.view, x.view.after, x.chunk.start, x.chunk.size, <double*>NULL)
            follow_range(x.view, x.group, x.chunk.start, x.chunk.size, <double*>NULL)
        else:
            constrain_range(job, x.view, x.view.after, x.chunk.start, x.chunk.size, <float*>NULL)
            follow_range(x.view, x.group, x.chunk.start, x.chunk.size, <float*>NULL)
    leave_kernel_mode(mode)

cdef void step_chunks(void* context, Py_ssize_t task) noexcept nogil:
    """One task of a step: the chunks that a thread does at a time."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = enter_kernel_mode()
    cdef Py_ssize_t k
    cdef ChunkOperands x
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        if not find_operands(&x, job, k):
            continue
        if job.unit_squares != NULL and x.chunk.size == x.view.size:
            measure_units_of_chunk(job, x.chunk, x.group)
        if is_direct(x.view, x.gradient, x.group):     # (here, not in a call, which would cost small tensors 1.3 ns)
            step_direct(job, x.view, x.gradient, x.group, x.chunk.start, x.chunk.size)
        else:
            step_range(job, x.view, x.gradient, x.group, x.chunk.start, x.chunk.size)
        # (gradients are zeroed here, while their lines are in cache)
        if job.zero_grads:
            zero_gradient(x.gradient, x.chunk)
    leave_kernel_mode(mode)


cdef void reduce_chunk(const StepJob* job, const TensorView* view, const GradientView* gradient,
                       const ScalarGroup* group, const Chunk* chunk, double* totals) noexcept nogil:
    """The terms of a reducing rule, summed over one chunk."""
    cdef void* slot[MAX_SLOTS]
    cdef Py_ssize_t i = chunk.start, n, itemsize = 8 if view.is_double else 4
    cdef int k
    for k in range(MAX_SUMS):
        totals[k] = 0
    if not is_direct(view, gradient, group):
        if view.is_double:
            step_tiles(job, view, gradient, group, i, chunk.size, totals, <double*>NULL)
        else:
            step_tiles(job, view, gradient, group, i, chunk.size, totals, <float*>NULL)
        return
    while i < chunk.start + chunk.size:
        n = chunk.start + chunk.size - i
        if n > TILE:
            n = TILE
        for k in range(MAX_SLOTS):
            slot[k] = view.slot[k] + i * itemsize if k < job.slots else NULL
        job.reduce_terms[view.is_double](group.hyper, &group.now, view.p + i * itemsize, gradient.g + i * itemsize,
                                         slot, totals, n)
        i += n

cdef void reduce_chunks(void* context, Py_ssize_t task) noexcept nogil:
    """One task of a reducing rule's first pass: the terms of some chunks."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = enter_kernel_mode()
    cdef Py_ssize_t k
    cdef ChunkOperands x
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        if find_operands(&x, job, k):
            reduce_chunk(job, x.view, x.gradient, x.group, x.chunk, job.terms + k * MAX_SUMS)
    leave_kernel_mode(mode)


cdef void norms_of(const StepJob* job, TermsFunction normed, int sums, Py_ssize_t i, double* norms) noexcept nogil:
    """The norms of what a reducing rule sums the squares of, from elements that are scaled before they are squared.

    After the pass that sums, in which slots may have moved.
    """
    cdef unsigned int mode = enter_kernel_mode()
    cdef const TensorView* view = &job.views[i]
    cdef const GradientView* gradient = &job.gradients[i]
    cdef const ScalarGroup* group = &job.scalar_groups[view.scalar_group]
    cdef uint64_t[TILE] raw
    cdef double[TILE] scratch_p
    cdef double[TILE] scratch_g
    cdef double[MAX_SLOTS][TILE] scratch
    cdef double[MAX_SUMS][TILE] elements
    cdef ScaledSum[MAX_SUMS] total
    cdef void* slot[MAX_SLOTS]
    cdef float* scale
    cdef double* p
    cdef const double* g
    cdef Py_ssize_t start = 0, n, e
    cdef int k
    for k in range(sums):
        clear_sum(&total[k])
    while start < view.size:
        n = view.size - start if view.size - start < TILE else TILE
        p = load_param(scratch_p, raw, view, start, n)
        g = load_tile(scratch_g, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, start, n)
        for k in range(job.slots):
            scale = view.slot_scale[k] + start // GROUP if view.slot_scale[k] != NULL else NULL
            slot[k] = load_tile(scratch[k], raw, view.slot[k], NULL, scale, view.slot_stored[k], start, n)
        if view.unit_factors != NULL:
            preprocess_units(scratch_g, g, p, group, view, start, n)
            g = scratch_g
        elif group.staged:
            preprocess(scratch_g, g, p, group, view.clip_factor, n)
            g = scratch_g
        normed(group.hyper, &group.now, p, g, slot, &elements[0][0], n)
        for k in range(sums):
            for e in range(n):
                add_square(&total[k], elements[k][e])
        start += n
    for k in range(sums):
        norms[k] = root_of_sum(&total[k])
    leave_kernel_mode(mode)


cdef void add_to_slot(real* restrict slot, const real* restrict g, double keep, double share, int power,
                      Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real part = <real>share, left = <real>keep
    if power == 1:
        for i in range(size):
            slot[i] = left * slot[i] + part * g[i]
    else:
        for i in range(size):
            slot[i] = left * slot[i] + part * (g[i] * g[i])

cdef void accumulate_tiles(const StepJob* job, const TensorView* view, const GradientView* gradient,
                           const ScalarGroup* group, Py_ssize_t start, Py_ssize_t size,
                           real* also_typed) noexcept nogil:
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
        g = load_tile(scratch_g, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, i, n)
        if group.staged:
            preprocess(scratch_g, g, g, group, 1, n)
            g = scratch_g
        for k in range(job.slots):
            if group.grad_power[k] != 0:
                scale = view.slot_scale[k] + i // GROUP if view.slot_scale[k] != NULL else NULL
                slot = load_tile(scratch, raw, view.slot[k], NULL, scale, view.slot_stored[k], i, n)
                add_to_slot(slot, g, group.slot_keep[k], group.grad_share[k], group.grad_power[k], n)
                store_tile(slot, raw, view.slot[k], NULL, scale, view.slot_stored[k], i, n, job,
                           view.random_salt + 1 + k)
        i += n

cdef void accumulate_in_place(const StepJob* job, const TensorView* view, const GradientView* gradient,
                              const ScalarGroup* group, Py_ssize_t start, Py_ssize_t size,
                              real* also_typed) noexcept nogil:
    cdef real[TILE] staged
    cdef const real* g
    cdef Py_ssize_t i = start, n
    cdef int k
    while i < start + size:
        n = start + size - i if start + size - i < TILE else TILE
        g = <const real*>gradient.g + i
        if group.staged:
            preprocess(staged, g, g, group, 1, n)
            g = staged
        for k in range(job.slots):
            if group.grad_power[k] != 0:
                add_to_slot(<real*>view.slot[k] + i, g, group.slot_keep[k], group.grad_share[k], group.grad_power[k], n)
        i += n

cdef void accumulate_chunk(const StepJob* job, const ChunkOperands* x, real* also_typed) noexcept nogil:
    if is_in_place(x.view, x.gradient):
        accumulate_in_place(job, x.view, x.gradient, x.group, x.chunk.start, x.chunk.size, also_typed)
    else:
        accumulate_tiles(job, x.view, x.gradient, x.group, x.chunk.start, x.chunk.size, also_typed)

cdef void accumulate_chunks(void* context, Py_ssize_t task) noexcept nogil:
    """One task of accumulation without a buffer: a gradient is added to the state, and the parameter stays as it is."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = enter_kernel_mode()
    cdef Py_ssize_t k
    cdef ChunkOperands x
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        if not find_operands(&x, job, k):
            continue
        if x.view.is_double:
            accumulate_chunk(job, &x, <double*>NULL)
        else:
            accumulate_chunk(job, &x, <float*>NULL)
        if job.zero_grads:
            zero_gradient(x.gradient, x.chunk)
    leave_kernel_mode(mode)


# What rules for matrices use

cdef void load_gradient_tiles(const TensorView* view, const GradientView* gradient, const ScalarGroup* group,
                              real* restrict into, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef real[TILE] preprocessed
    cdef const real* g
    cdef Py_ssize_t i = 0, k, n
    while i < size:
        n = size - i if size - i < TILE else TILE
        g = load_tile(scratch, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, start + i, n)
        if view.unit_factors != NULL:
            preprocess_units(preprocessed, g, NULL, group, view, start + i, n)
            g = preprocessed
        elif group.staged:
            preprocess(preprocessed, g, NULL, group, view.clip_factor, n)
            g = preprocessed
        for k in range(n):
            into[i + k] = g[k] + <real>0           # (minus zero becomes zero, as by a step on zeros)
        i += n

cdef void load_gradient(const StepJob* job, const TensorView* view, const GradientView* gradient,
                        const ScalarGroup* group, void* into, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    cdef ScalarGroup without_l2 = group[0]
    without_l2.l2 = 0
    if view.is_double:
        load_gradient_tiles(view, gradient, &without_l2, <double*>into, start, size)
    else:
        load_gradient_tiles(view, gradient, &without_l2, <float*>into, start, size)

cdef void load_param_tiles(const TensorView* view, real* into, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef Py_ssize_t i = 0, n
    while i < size:
        n = size - i if size - i < TILE else TILE
        memcpy(into + i, load_param(scratch, raw, view, start + i, n), n * sizeof(real))
        i += n

cdef void load_param_range(const TensorView* view, void* into, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    if view.is_double:
        load_param_tiles(view, <double*>into, start, size)
    else:
        load_param_tiles(view, <float*>into, start, size)

cdef void apply_update(const StepJob* job, const TensorView* view, const ScalarGroup* group, const void* update,
                       Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    cdef TensorView plain
    cdef GradientView gradient
    cdef void* slot[MAX_SLOTS]
    cdef Py_ssize_t itemsize = 8 if view.is_double else 4
    cdef int i
    gradient.g = <const char*>update - start * itemsize
    gradient.stored, gradient.layout, gradient.measured_layout = FLOAT64 if view.is_double else FLOAT32, NULL, NULL
    if is_direct(view, &gradient, group):
        for i in range(MAX_SLOTS):
            slot[i] = NULL
        job.step[view.is_double](group.hyper, &group.now, view.p + start * itemsize, update, slot, size)
        return
    if view.after != NULL:                         # (`finish_chunks` comes after all of the tensor)
        without_after(&plain, view)
    else:
        plain = view[0]
    plain.unit_factors = NULL                      # (adaptive clipping was of the gradient)
    step_range(job, &plain, &gradient, group, start, size)

cdef TensorOps operations
operations.load_gradient, operations.load_param, operations.apply_update = load_gradient, load_param_range, apply_update
operations.enter, operations.leave = enter_kernel_mode, leave_kernel_mode

step_task = PyCapsule_New(<void*>&step_chunks, "fastlr.task", NULL)
finish_task = PyCapsule_New(<void*>&finish_chunks, "fastlr.task", NULL)
terms_task = PyCapsule_New(<void*>&reduce_chunks, "fastlr.task", NULL)
constrain = PyCapsule_New(<void*>&constrain_elements, "fastlr.constrain", NULL)
norms = PyCapsule_New(<void*>&norms_of, "fastlr.norms", NULL)
accumulate_task = PyCapsule_New(<void*>&accumulate_chunks, "fastlr.task", NULL)
tensor_ops = PyCapsule_New(&operations, "fastlr.tensor_ops", NULL)

build_id = FASTLR_LAYOUT.decode()
