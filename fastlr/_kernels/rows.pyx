# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A step over some rows of a table: the loops, tiles and stages of a whole step, a row at a time.

Where a row is given several times, its gradients are added in the order given, in the precision of the rule; the rows
of a job are different, so no two threads write the same row. Rows are prefetched into the second-level cache: their
addresses have no pattern, and a core limits the lines that it loads into the first level (over a million rows of 64
float32, a loop in C that prefetches into the first level takes as long as one that does not prefetch, and one that
prefetches into the second takes three quarters of that, from 8 rows ahead to 128).
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.codecs cimport bytes_of, encode
from fastlr._kernels.floating_point_mode cimport enter_kernel_mode, leave_kernel_mode
from fastlr._kernels.lanes cimport LANES, sum_of_squares
from fastlr._kernels.norms cimport NormLanes, clear_lanes, finish_lanes, measure_tile
from fastlr._kernels.prefetch cimport prefetch_row
from fastlr._kernels.random_bits cimport fill_random_table
from fastlr._kernels.rows cimport MeasuredChunk, RowsJob, RowStream
from fastlr._kernels.strided cimport copy_strided_any
from fastlr._kernels.structs cimport FLOAT32, FLOAT64, GROUP, MAX_SLOTS, TILE, ScalarGroup
from fastlr._kernels.tiles cimport apply_lr_factors, is_native, load_tile, preprocess, update_ema
from fastlr.rules.element cimport real

fill_random_table()

cdef enum:
    AHEAD_ROWS = 32            # how early rows are prefetched
    MAX_PREFETCH = 1024        # and how many bytes of each at most

cdef struct PrefetchList:
    # What is prefetched of every row: gradient, parameter, state, and the number that is kept of it.
    const char* first[3 + MAX_SLOTS]
    Py_ssize_t pitch[3 + MAX_SLOTS]
    Py_ssize_t bytes[3 + MAX_SLOTS]
    int count

cdef void add_prefetch(PrefetchList* ahead, const char* first, Py_ssize_t pitch, Py_ssize_t bytes) noexcept nogil:
    ahead.first[ahead.count], ahead.pitch[ahead.count] = first, pitch
    ahead.bytes[ahead.count] = bytes if bytes < MAX_PREFETCH else MAX_PREFETCH
    ahead.count += 1

cdef void prefetch_list_of(PrefetchList* ahead, const RowsJob* job) noexcept nogil:
    """(Where a row is not contiguous, the bytes after its first element are requested: a prefetch reads nothing.)"""
    cdef Py_ssize_t number = 8 if job.is_double else 4
    cdef int j
    ahead.count = 0
    add_prefetch(ahead, job.g.first, job.g.pitch, job.width * bytes_of(job.g.stored))
    add_prefetch(ahead, job.p.first, job.p.pitch, job.width * bytes_of(job.p.stored))
    for j in range(job.slots):
        add_prefetch(ahead, job.slot[j].first, job.slot[j].pitch, job.width * bytes_of(job.slot[j].stored))
    if job.row_state != NULL:
        add_prefetch(ahead, job.row_state, number, number)

cdef real* load_row(real* scratch, uint64_t* raw, const RowStream* stream, int64_t row, const float* scale,
                    Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    return load_tile(scratch, raw, stream.first + row * stream.pitch, stream.layout, scale, stream.stored, start, size)

cdef const real* summed_gradient(real* restrict total, real* scratch, uint64_t* raw, const RowsJob* job, Py_ssize_t k,
                                 Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """A tile of the gradient of the k-th row: a pointer into the gradient itself, or `total`."""
    cdef Py_ssize_t i, c
    cdef const real* more
    cdef const real* first = load_row(total, raw, &job.g, job.source[job.begin[k]], NULL, start, size)
    if job.begin[k + 1] - job.begin[k] == 1:
        return first
    if first != total:
        memcpy(total, first, size * sizeof(real))
    for c in range(job.begin[k] + 1, job.begin[k + 1]):
        if c + AHEAD_ROWS < job.begin[k + 1]:
            prefetch_row(job.g.first + job.source[c + AHEAD_ROWS] * job.g.pitch + start * bytes_of(job.g.stored),
                         size * bytes_of(job.g.stored))
        more = load_row(scratch, raw, &job.g, job.source[c], NULL, start, size)
        for i in range(size):
            total[i] = total[i] + more[i]
    return total

cdef const real* preprocessed_row(real* out, real* scratch, const real* p, uint64_t* raw, const RowsJob* job,
                                  Py_ssize_t k, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """A tile of the gradient of the k-th row, preprocessed for the rule."""
    cdef const real* g = summed_gradient(out, scratch, raw, job, k, start, size)
    if job.scalar_group.staged or job.clip_factor != 1:
        preprocess(out, g, p, job.scalar_group, job.clip_factor, size)
        g = out
    return g

cdef void scale_row(real* scaled, const real* g, real factor, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        scaled[i] = g[i] * factor

cdef real row_factor(const RowsJob* job, Py_ssize_t k, real* also_typed) noexcept nogil:
    """The factor of the k-th row's update, after the rule has added the row's gradient to its number of the row."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef real[TILE] more
    cdef double squares = 0
    cdef const real* p = NULL
    cdef Py_ssize_t i = 0, n
    while i < job.width:
        n = job.width - i if job.width - i < TILE else TILE
        if job.scalar_group.l2 != 0:
            p = load_row(scratch_p, raw, &job.p, job.row[k], NULL, i, n)
        squares += sum_of_squares(preprocessed_row(scratch_g, more, p, raw, job, k, i, n), n)
        i += n
    return <real>job.row_factor(job.row_scalars, <real*>job.row_state + job.row[k], squares, job.width)

cdef const real* scaled_direct_row(real* scaled, const real* g, const RowsJob* job, Py_ssize_t k) noexcept nogil:
    """The gradient of the k-th row times the factor of its update, as `row_factor` and `scale_row` in one tile."""
    scale_row(scaled, g, <real>job.row_factor(job.row_scalars, <real*>job.row_state + job.row[k],
                                              sum_of_squares(g, job.width), job.width), job.width)
    return scaled

cdef void step_row_tiles(const RowsJob* job, Py_ssize_t k, real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef real[TILE] moved
    cdef real[MAX_SLOTS][TILE] scratch
    cdef void* slot[MAX_SLOTS]
    cdef float* scale[MAX_SLOTS]
    cdef real* p
    cdef real* mean
    cdef const real* g
    cdef const ScalarGroup* group = job.scalar_group
    cdef int64_t row = job.row[k]
    cdef int64_t element = row * job.width
    cdef Py_ssize_t i = 0, n
    cdef real factor = 1
    cdef int j
    if job.row_state != NULL:
        factor = row_factor(job, k, also_typed)
    for j in range(MAX_SLOTS):
        slot[j] = scale[j] = NULL
    while i < job.width:
        n = job.width - i
        if n > TILE:
            n = TILE
        p = load_row(scratch_p, raw, &job.p, row, NULL, i, n)
        g = preprocessed_row(scratch_g, moved, p, raw, job, k, i, n)
        for j in range(job.slots):
            if job.slot_scale[j] != NULL:
                scale[j] = job.slot_scale[j] + (row * job.width + i) // GROUP
            slot[j] = load_row(scratch[j], raw, &job.slot[j], row, scale[j], i, n)
        if job.row_state != NULL:
            scale_row(scratch_g, g, factor, n)
            g = scratch_g
        if job.scale.first != NULL:
            memset(moved, 0, n * sizeof(real))
            job.step(group.hyper, &group.now, moved, g, slot, n)
            # (the scratch of the gradient is no longer needed)
            apply_lr_factors(p, moved, load_row(scratch_g, raw, &job.scale, row, NULL, i, n), group, n)
        else:
            job.step(group.hyper, &group.now, p, g, slot, n)
        for j in range(job.slots):
            store_row(<real*>slot[j], raw, &job.slot[j], row, scale[j], i, n, job, 1 + j, element)
        store_row(p, raw, &job.p, row, NULL, i, n, job, 0, element)
        if job.ema.first != NULL:
            if not is_native(job.p.stored, p):            # (the mean is of what is stored)
                p = load_row(scratch_p, raw, &job.p, row, NULL, i, n)
            mean = load_row(scratch_g, raw, &job.ema, row, NULL, i, n)
            update_ema(mean, p, group.ema_decay, n)
            store_row(mean, raw, &job.ema, row, NULL, i, n, job, 0, 0)
        i += n

cdef void store_row(const real* tile, uint64_t* raw, const RowStream* stream, int64_t row, float* scale,
                    Py_ssize_t start, Py_ssize_t size, const RowsJob* job, uint64_t which,
                    int64_t element) noexcept nogil:
    """Write back what `load_row` decoded or gathered into scratch."""
    cdef char* array = stream.first + row * stream.pitch
    cdef char* x = array + start * bytes_of(stream.stored)
    if is_native(stream.stored, <real*>tile):
        if stream.layout != NULL:
            copy_strided_any(<void*>tile, array, stream.layout, start, size, stream.stored, True)
        return
    if stream.layout != NULL:
        x = <char*>raw
    encode(x, scale, tile, stream.stored, size, job.stochastic, job.key + job.random_salt + which, element + start)
    if stream.layout != NULL:
        copy_strided_any(raw, array, stream.layout, start, size, stream.stored, True)

cdef inline bint is_direct_rows(const RowsJob* job) noexcept nogil:
    """Whether the rule's loop may read and write the rows in place."""
    cdef int j
    if job.staged or job.scalar_group.staged or job.clip_factor != 1 or job.p.layout != NULL or job.g.layout != NULL \
            or job.scale.first != NULL or job.ema.first != NULL \
            or job.g.stored != (FLOAT64 if job.is_double else FLOAT32):
        return False
    for j in range(job.slots):
        if job.slot[j].layout != NULL:
            return False
    return True

cdef void step_rows(void* context, Py_ssize_t task) noexcept nogil:
    """One chunk of a step over rows."""
    cdef const RowsJob* job = <const RowsJob*>context
    cdef unsigned int mode = enter_kernel_mode()
    cdef Py_ssize_t k, c, later, last, start = task * job.together, behind = start + job.together
    cdef bint once, direct = is_direct_rows(job), narrow = job.width <= TILE
    cdef uint64_t[TILE] raw
    cdef double[TILE] total
    cdef double[TILE] scratch
    cdef const void* g
    cdef void* slot[MAX_SLOTS]
    cdef const ScalarGroup* group = job.scalar_group
    cdef PrefetchList ahead
    cdef int j
    prefetch_list_of(&ahead, job)
    for j in range(MAX_SLOTS):
        slot[j] = NULL
    if behind > job.count:
        behind = job.count
    for k in range(start - AHEAD_ROWS, behind):
        later = k + AHEAD_ROWS
        if later < behind:
            last = job.begin[later] + AHEAD_ROWS
            if last > job.begin[later + 1]:
                last = job.begin[later + 1]
            for c in range(job.begin[later], last):
                prefetch_row(ahead.first[0] + job.source[c] * ahead.pitch[0], ahead.bytes[0])
            for j in range(1, ahead.count):
                prefetch_row(ahead.first[j] + job.row[later] * ahead.pitch[j], ahead.bytes[j])
        if k < start:
            continue
        once = job.begin[k + 1] - job.begin[k] == 1
        if direct and (narrow or once and job.row_state == NULL):
            for j in range(job.slots):
                slot[j] = job.slot[j].first + job.row[k] * job.slot[j].pitch
            if once:
                g = job.g.first + job.source[job.begin[k]] * job.g.pitch
            elif job.is_double:
                g = summed_gradient(<double*>total, <double*>scratch, raw, job, k, 0, job.width)
            else:
                g = summed_gradient(<float*>total, <float*>scratch, raw, job, k, 0, job.width)
            if job.row_state != NULL:
                if job.is_double:
                    g = scaled_direct_row(<double*>scratch, <const double*>g, job, k)
                else:
                    g = scaled_direct_row(<float*>scratch, <const float*>g, job, k)
            job.step(group.hyper, &group.now, job.p.first + job.row[k] * job.p.pitch, g, slot, job.width)
        elif job.is_double:
            step_row_tiles(job, k, <double*>NULL)
        else:
            step_row_tiles(job, k, <float*>NULL)
    leave_kernel_mode(mode)

cdef void measure_row(const RowsJob* job, Py_ssize_t k, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t lane,
                      NormLanes* lanes, real* also_typed) noexcept nogil:
    """Measure elements begin .. end of the k-th row, of which the first is added to this lane."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] total
    cdef real[TILE] scratch
    cdef real[LANES] padded            # with zeros, up to where a row begins among the lanes
    cdef const real* g
    cdef Py_ssize_t i = begin, n
    while i < end:
        n = end - i
        if n > (LANES - lane if lane else TILE):
            n = LANES - lane if lane else TILE
        g = summed_gradient(total, scratch, raw, job, k, i, n)
        if lane:
            memset(padded, 0, LANES * sizeof(real))
            memcpy(padded + lane, g, n * sizeof(real))
            measure_tile(<const real*>padded, lanes, job.scalar_group, lane + n)
        else:
            measure_tile(g, lanes, job.scalar_group, n)
        lane = 0
        i += n

cdef void measure_chunk(const RowsJob* job, const MeasuredChunk* chunk, NormLanes* lanes) noexcept nogil:
    """Measure the rows, and parts of rows, that are in this chunk, in the lanes of a whole step."""
    cdef Py_ssize_t k, n, begin, end
    cdef int64_t first                 # where a row begins, from the begin of the chunk
    for n in range(chunk.first_row, job.count):
        k = job.ascending[n] if job.ascending != NULL else n
        first = job.row[k] * job.width - chunk.start
        if first >= job.chunk_size:
            return
        begin = -first if first < 0 else 0
        end = job.chunk_size - first if job.chunk_size - first < job.width else job.width
        if job.is_double:
            measure_row(job, k, begin, end, (first + begin) % LANES, lanes, <double*>NULL)
        else:
            measure_row(job, k, begin, end, (first + begin) % LANES, lanes, <float*>NULL)

cdef void measure_rows(void* context, Py_ssize_t task) noexcept nogil:
    """Measure the gradients of some chunks."""
    cdef const RowsJob* job = <const RowsJob*>context
    cdef unsigned int mode = enter_kernel_mode()
    cdef Py_ssize_t k, start = task * job.measured_together, behind = start + job.measured_together
    cdef NormLanes lanes
    for k in range(start, behind if behind < job.measured_count else job.measured_count):
        clear_lanes(&lanes)
        measure_chunk(job, &job.measured[k], &lanes)
        finish_lanes(&job.sums[k], &lanes)
    leave_kernel_mode(mode)


step_rows_task = PyCapsule_New(<void*>&step_rows, "fastlr.task", NULL)
measure_rows_task = PyCapsule_New(<void*>&measure_rows, "fastlr.task", NULL)

build_id = FASTLR_LAYOUT.decode()
