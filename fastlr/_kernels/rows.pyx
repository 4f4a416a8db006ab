# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A step over some rows of a table: the loops, tiles and stages of a whole step, a row at a time.

Where a row is given several times, its gradients are added in the order given, in the precision of the rule; the rows
of a job are different, so no two threads write the same row. Rows are prefetched into the second-level cache: their
addresses have no pattern, and a core limits the lines that it loads into the first level (over a million rows of 64
float32, a loop in C that prefetches into the first level takes as long as one that does not prefetch, and one that
prefetches into the second takes three quarters of that, from 8 rows ahead to 128).
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.codecs cimport as_bits, bytes_of, encode
from fastlr._kernels.floating_point_mode cimport enter_kernel_mode, leave_kernel_mode
from fastlr._kernels.lanes cimport LANES, sum_of_squares
from fastlr._kernels.norms cimport NormLanes, clear_lanes, finish_lanes, measure_tile
from fastlr._kernels.prefetch cimport prefetch_row
from fastlr._kernels.random_bits cimport fill_random_table
from fastlr._kernels.rows cimport STAYS, CatchUpJob, MeasuredChunk, PastUpdate, RowsJob, RowStream
from fastlr._kernels.strided cimport copy_strided_any
from fastlr._kernels.structs cimport (
    BFLOAT16, FLOAT32, FLOAT64, GROUP, MAX_SLOTS, TILE, ScalarGroup, Storage,
)
from fastlr._kernels.tiles cimport apply_lr_factors, is_native, load_tile, preprocess, update_ema
from fastlr.rules.element cimport bounded, real

fill_random_table()

cdef enum:
    AHEAD_ROWS = 32            # how early rows are prefetched
    MAX_PREFETCH = 1024        # and how many bytes of each at most
    LOOK_EVERY = 64            # updates after which it is seen again whether the state of a row is zero
    COMPARE_EVERY = 8          # ... whether an update added anything to it

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

# Rows that catch up with the updates that they missed.

cdef bint is_zero(const char* x, Py_ssize_t bytes) noexcept nogil:
    """Whether no bit is set."""
    cdef Py_ssize_t i
    cdef int bits = 0
    for i in range(bytes):
        bits |= x[i]
    return bits == 0

cdef bint has_subnormal(const char* x, Storage stored, Py_ssize_t size) noexcept nogil:
    """Whether an element is subnormal in the precision of its rule, which takes it as 0."""
    cdef Py_ssize_t i
    cdef bint found = False
    cdef uint64_t u
    if stored == FLOAT32:
        for i in range(size):
            found |= (as_bits((<const float*>x)[i]) & <uint32_t>0x7fffffff) - 1 < <uint32_t>0x7fffff
    elif stored == BFLOAT16:
        for i in range(size):
            found |= ((<const uint16_t*>x)[i] & <uint32_t>0x7fff) - 1 < <uint32_t>0x7f
    elif stored == FLOAT64:
        for i in range(size):
            memcpy(&u, x + 8 * i, 8)
            found |= (u & <uint64_t>0x7fffffffffffffff) - 1 < <uint64_t>0xfffffffffffff
    return found

cdef bint is_at_rest(const RowsJob* job, int64_t row, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """Whether updates that move no element whose state is zero leave a part of this row as it is, to the bit."""
    cdef Py_ssize_t bytes
    cdef int j
    if job.ema.first != NULL or job.scale.first != NULL or job.p.layout != NULL:
        return False
    for j in range(job.slots):
        bytes = bytes_of(job.slot[j].stored)
        if job.slot[j].layout != NULL or job.slot_scale[j] != NULL \
                or not is_zero(job.slot[j].first + row * job.slot[j].pitch + start * bytes, size * bytes):
            return False
    return not has_subnormal(job.p.first + row * job.p.pitch + start * bytes_of(job.p.stored), job.p.stored, size)

cdef const real* zero_gradient(real* zeros, real* g, const real* p, const PastUpdate* update,
                               Py_ssize_t size) noexcept nogil:
    """What `preprocess` makes of a gradient of zeros; `zeros` are all alike, and stay from call to call."""
    cdef Py_ssize_t i
    cdef real zero = bounded(<real>0 * <real>update.group.grad_factor, <real>update.group.clip_value) \
        * <real>update.clip_factor
    cdef real l2 = <real>update.group.l2
    if update.group.l2 != 0:
        for i in range(size):
            g[i] = zero + l2 * p[i]
        return g
    if memcmp(zeros, &zero, sizeof(real)) != 0:
        for i in range(size):
            zeros[i] = zero
    return zeros

# A rule that says so (`fades`) multiplies every slot by a factor of the update, and moves an element by c * m / (a *
# root(v) + b), v being other slots. An update that adds nothing to a parameter, because that is less than half a unit
# in its last place, is followed by none that does, if each moves less than the one before: `rising` has what is known
# of that for any state. Half a unit is 2**-25 to 2**-24 of a float32, so that a move must have fallen by more than a
# factor of 2 beside the parameter since one was seen to add nothing. What is left is to multiply.

cdef void multiply(const CatchUpJob* past, real* p, void** slot, Py_ssize_t first, Py_ssize_t size) noexcept nogil:
    """Do the updates from `first` on, none of which adds anything to the parameter."""
    cdef const PastUpdate* update
    cdef real* x
    cdef real factor, zero
    cdef Py_ssize_t u, i
    cdef int j
    if first >= past.count or past.updates[first].scaling == past.scaling:
        return
    for u in range(first, past.count):
        update = &past.updates[u]
        if update.group.now.decay_factor != 1:
            factor = <real>update.group.now.decay_factor
            for i in range(size):
                p[i] = factor * p[i]
        for j in range(past.rows.slots):
            x, factor, zero = <real*>slot[j], <real>update.factor[j], <real>update.zero[j]
            for i in range(size):
                x[i] = factor * x[i] + zero

cdef bint stayed(const real* p, const real* before, const PastUpdate* update, Py_ssize_t size) noexcept nogil:
    """Whether an update multiplied a parameter by its decay, and added nothing to it."""
    cdef Py_ssize_t i
    cdef real[TILE] decayed
    cdef real factor = <real>update.group.now.decay_factor
    for i in range(size):
        decayed[i] = factor * before[i]
    return memcmp(p, decayed, size * sizeof(real)) == 0

cdef bint only_multiplies(const CatchUpJob* past, const PastUpdate* update, const real* p,
                          Py_ssize_t size) noexcept nogil:
    """Whether parameters that decay stay far above what is flushed to zero, after this update."""
    cdef Py_ssize_t i
    cdef bint small = False
    cdef real x
    if past.log_decay == update.log_decay:
        return True
    for i in range(size):
        x = p[i] if p[i] > <real>0 else -p[i]
        small |= <real>0 < x and x < <real>1e-25
    return not small and update.log_decay - past.log_decay < 20

cdef void catch_up_tile(const CatchUpJob* past, int64_t row, Py_ssize_t start, Py_ssize_t size,
                        real* also_typed) noexcept nogil:
    """Do the updates that a part of a row has not had, in place."""
    cdef const RowsJob* job = &past.rows
    cdef const PastUpdate* update
    cdef real* p = <real*>(job.p.first + row * job.p.pitch) + start
    cdef const real* gradient
    cdef real[TILE] zeros
    cdef real[TILE] g
    cdef real[TILE] before
    cdef void* slot[MAX_SLOTS]
    cdef Py_ssize_t u, first = past.done[row], seen = -1
    cdef bint look
    cdef int j
    for j in range(MAX_SLOTS):
        slot[j] = <real*>(job.slot[j].first + row * job.slot[j].pitch) + start if j < job.slots else NULL
    memset(zeros, 0xff, sizeof(zeros))
    for u in range(first, past.count):
        update = &past.updates[u]
        if (u - first) % LOOK_EVERY == 0 and update.moving == past.moving and is_at_rest(job, row, start, size):
            return
        look = past.fades >= 0 and update.rising == past.rising and (u - first) % COMPARE_EVERY == COMPARE_EVERY - 1
        if look:
            memcpy(before, p, size * sizeof(real))
        gradient = zero_gradient(<real*>zeros, <real*>g, p, update, size)
        job.step(update.group.hyper, &update.group.now, p, gradient, slot, size)
        if past.fades == STAYS and update.rising == past.rising and only_multiplies(past, update, p, size):
            multiply(past, p, slot, u + 1, size)
            return
        if look and not stayed(p, <const real*>before, update, size):
            seen = -1
        elif look and seen < 0:
            seen = u
        elif look and past.updates[seen].log_gain - update.log_gain > 0.8 and only_multiplies(past, update, p, size):
            multiply(past, p, slot, u + 1, size)
            return

cdef bint is_plain(const RowsJob* job) noexcept nogil:
    """Whether parameter and state are as the rule's loop reads and writes them, and nothing follows it."""
    cdef int j
    if job.staged or job.p.layout != NULL or job.scale.first != NULL or job.ema.first != NULL:
        return False
    for j in range(job.slots):
        if job.slot[j].layout != NULL:
            return False
    return True

cdef void catch_up_row(const CatchUpJob* past, RowsJob* job, int64_t row) noexcept nogil:
    """Do the updates that a row has not had, each as it was done, with a gradient of zero."""
    cdef Py_ssize_t u, n, start = 0, first = past.done[row]
    cdef const PastUpdate* update
    if is_plain(&past.rows):
        while start < job.width:
            n = job.width - start if job.width - start < TILE else TILE
            if job.is_double:
                catch_up_tile(past, row, start, n, <double*>NULL)
            else:
                catch_up_tile(past, row, start, n, <float*>NULL)
            start += n
        first = past.count
    for u in range(first, past.count):
        update = &past.updates[u]
        if (u - first) % LOOK_EVERY == 0 and update.moving == past.moving and is_at_rest(job, row, 0, job.width):
            break
        job.scalar_group, job.clip_factor, job.key = &update.group, update.clip_factor, update.random_key
        if job.is_double:
            step_row_tiles(job, 0, <double*>NULL)
        else:
            step_row_tiles(job, 0, <float*>NULL)
    past.done[row] = <int32_t>past.count

cdef void catch_up_rows(void* context, Py_ssize_t task) noexcept nogil:
    """Bring some rows up to date."""
    cdef const CatchUpJob* past = <const CatchUpJob*>context
    cdef RowsJob job = past.rows       # (of one row, whose scalars change)
    cdef unsigned int mode = enter_kernel_mode()
    cdef Py_ssize_t k, start = task * job.together, behind = start + job.together
    cdef int64_t row, source = 0
    cdef int64_t[2] begin
    cdef PrefetchList ahead
    cdef int j
    begin[0], begin[1] = 0, 1
    job.row, job.begin, job.source = &row, begin, &source
    if behind > job.count:
        behind = job.count
    prefetch_list_of(&ahead, &job)
    for k in range(start, behind if past.rows.row != NULL else start):
        if past.done[past.rows.row[k]] < past.count:
            for j in range(1, ahead.count):
                prefetch_row(ahead.first[j] + past.rows.row[k] * ahead.pitch[j], ahead.bytes[j])
    for k in range(start, behind):
        row = past.rows.row[k] if past.rows.row != NULL else k
        if past.done[row] < past.count:
            catch_up_row(past, &job, row)
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
catch_up_task = PyCapsule_New(<void*>&catch_up_rows, "fastlr.task", NULL)
measure_rows_task = PyCapsule_New(<void*>&measure_rows, "fastlr.task", NULL)

build_id = FASTLR_LAYOUT.decode()
