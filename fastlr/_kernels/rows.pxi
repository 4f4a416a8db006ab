# A step over some rows of a table: the same sweep, tiles and stages, a row at a time. Included by every door.
#
# Gradients of a row that came several times are added in the order in which they came, in the precision of the rule;
# rows are different, so threads never meet. Rows are asked for before their turn, into the second-level cache: the rows
# of a table lie where no pattern tells it, and of the lines on their way to the first level a core counts few (of a
# million rows of 64 float32, a loop in C that asks for the first level takes as long as one that does not ask, and one
# that asks for the second three quarters of it, from 8 rows ahead to 128).

from fastlr._kernels.rows cimport RowsJob, RowStream

cdef enum:
    AHEAD_ROWS = 32            # how early rows are asked for
    MOST_ASKED = 1024          # and how many bytes of each at most

cdef extern from *:
    """
    /* Each line that a row has part in. (Inlined before gcc judges it: a function that does nothing but ask is one
       without effects to gcc, and its calls go, as do those of a function around it.) */
    #if defined(__GNUC__)
    static inline __attribute__((always_inline)) void fastlr_ask_row(const char *row, Py_ssize_t bytes) {
    #else
    static void fastlr_ask_row(const char *row, Py_ssize_t bytes) {
    #endif
        const char *line = row - ((size_t)row & 63);
        for (; line < row + bytes; line += 64)
            fastlr_later(line);
    }
    """
    void ask_row "fastlr_ask_row"(const char* row, Py_ssize_t bytes) noexcept nogil

cdef struct PrefetchList:
    # What is asked for of every row: of the gradient, the parameter, the state and a number.
    const char* first[3 + MOST_SLOTS]
    Py_ssize_t pitch[3 + MOST_SLOTS]
    Py_ssize_t bytes[3 + MOST_SLOTS]
    int count

cdef void also_asked(PrefetchList* asked, const char* first, Py_ssize_t pitch, Py_ssize_t bytes) noexcept nogil:
    asked.first[asked.count], asked.pitch[asked.count] = first, pitch
    asked.bytes[asked.count] = bytes if bytes < MOST_ASKED else MOST_ASKED
    asked.count += 1

cdef void asked_of(PrefetchList* asked, const RowsJob* job) noexcept nogil:
    """(An array whose rows do not lie in one piece is asked for from where each begins: that reads nothing.)"""
    cdef Py_ssize_t number = 8 if job.is_double else 4
    cdef int j
    asked.count = 0
    also_asked(asked, job.g.first, job.g.pitch, job.width * bytes_of(job.g.stored))
    also_asked(asked, job.p.first, job.p.pitch, job.width * bytes_of(job.p.stored))
    for j in range(job.slots):
        also_asked(asked, job.slot[j].first, job.slot[j].pitch, job.width * bytes_of(job.slot[j].stored))
    if job.totals != NULL:
        also_asked(asked, job.totals, number, number)

cdef real* fetch_row(real* scratch, uint64_t* raw, const RowStream* stream, int64_t row, const float* scale,
                     Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    return fetch(scratch, raw, stream.first + row * stream.pitch, stream.layout, scale, stream.stored, start, size)

cdef const real* summed(real* restrict total, real* scratch, uint64_t* raw, const RowsJob* job, Py_ssize_t k,
                        Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """A tile of the gradient of the k-th row: where it lies, or in `total`."""
    cdef Py_ssize_t i, c
    cdef const real* more
    cdef const real* first = fetch_row(total, raw, &job.g, job.source[job.begin[k]], NULL, start, size)
    if job.begin[k + 1] - job.begin[k] == 1:
        return first
    if first != total:
        memcpy(total, first, size * sizeof(real))
    for c in range(job.begin[k] + 1, job.begin[k + 1]):
        if c + AHEAD_ROWS < job.begin[k + 1]:
            ask_row(job.g.first + job.source[c + AHEAD_ROWS] * job.g.pitch + start * bytes_of(job.g.stored),
                    size * bytes_of(job.g.stored))
        more = fetch_row(scratch, raw, &job.g, job.source[c], NULL, start, size)
        for i in range(size):
            total[i] = total[i] + more[i]
    return total

cdef const real* staged_row(real* out, real* scratch, const real* p, uint64_t* raw, const RowsJob* job, Py_ssize_t k,
                            Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """A tile of the gradient of the k-th row as the rule sees it."""
    cdef const real* g = summed(out, scratch, raw, job, k, start, size)
    if job.scalar_group.staged or job.clip_factor != 1:
        before(out, g, p, job.scalar_group, job.clip_factor, size)
        g = out
    return g

cdef real row_rate(const RowsJob* job, Py_ssize_t k, real* also_typed) noexcept nogil:
    """Add the k-th row's gradient to what is remembered of the row; what that makes of its learning rate."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef real[TILE] more
    cdef double squares = 0
    cdef const real* p = NULL
    cdef real* total = <real*>job.totals + job.row[k]
    cdef Py_ssize_t i = 0, n
    while i < job.width:
        n = job.width - i if job.width - i < TILE else TILE
        if job.scalar_group.l2 != 0:
            p = fetch_row(scratch_p, raw, &job.p, job.row[k], NULL, i, n)
        squares += squared(staged_row(scratch_g, more, p, raw, job, k, i, n), n)
        i += n
    total[0] = grown(total[0], squares, <double>job.width)
    return slowed(total[0], job.eps)

cdef void row_tiles(const RowsJob* job, Py_ssize_t k, real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef real[TILE] moved
    cdef real[MOST_SLOTS][TILE] scratch
    cdef void* slot[MOST_SLOTS]
    cdef float* scale[MOST_SLOTS]
    cdef real* p
    cdef real* mean
    cdef const real* g
    cdef const ScalarGroup* now = job.scalar_group
    cdef int64_t row = job.row[k]
    cdef int64_t element = row * job.width
    cdef Py_ssize_t i = 0, n
    cdef real rate = 1
    cdef int j
    if job.totals != NULL:
        rate = row_rate(job, k, also_typed)
    for j in range(MOST_SLOTS):
        slot[j] = scale[j] = NULL
    while i < job.width:
        n = job.width - i
        if n > TILE:
            n = TILE
        p = fetch_row(scratch_p, raw, &job.p, row, NULL, i, n)
        g = staged_row(scratch_g, moved, p, raw, job, k, i, n)
        for j in range(job.slots):
            if job.slot_scale[j] != NULL:
                scale[j] = job.slot_scale[j] + (row * job.width + i) // GROUP
            slot[j] = fetch_row(scratch[j], raw, &job.slot[j], row, scale[j], i, n)
        if job.totals != NULL:
            slowed_row(scratch_g, g, rate, n)
            g = scratch_g
        if job.scale.first != NULL:
            memset(moved, 0, n * sizeof(real))
            job.step(now.hyper, &now.now, moved, g, slot, n)
            # (the gradient's scratch is free now)
            after(p, moved, fetch_row(scratch_g, raw, &job.scale, row, NULL, i, n), now, n)
        else:
            job.step(now.hyper, &now.now, p, g, slot, n)
        for j in range(job.slots):
            put_row(<real*>slot[j], raw, &job.slot[j], row, scale[j], i, n, job, 1 + j, element)
        put_row(p, raw, &job.p, row, NULL, i, n, job, 0, element)
        if job.ema.first != NULL:
            if not native(job.p.stored, p):            # (the mean is of what is stored)
                p = fetch_row(scratch_p, raw, &job.p, row, NULL, i, n)
            mean = fetch_row(scratch_g, raw, &job.ema, row, NULL, i, n)
            average(mean, p, now.ema_decay, n)
            put_row(mean, raw, &job.ema, row, NULL, i, n, job, 0, 0)
        i += n

cdef void put_row(const real* tile, uint64_t* raw, const RowStream* stream, int64_t row, float* scale, Py_ssize_t start,
                  Py_ssize_t size, const RowsJob* job, uint64_t which, int64_t element) noexcept nogil:
    """What `fetch_row` put into scratch, back to where it lies."""
    cdef char* array = stream.first + row * stream.pitch
    cdef char* x = array + start * bytes_of(stream.stored)
    if native(stream.stored, <real*>tile):
        if stream.layout != NULL:
            carry_any(<void*>tile, array, stream.layout, start, size, stream.stored, True)
        return
    if stream.layout != NULL:
        x = <char*>raw
    encode(x, scale, tile, stream.stored, size, job.stochastic, job.key + job.random_salt + which, element + start)
    if stream.layout != NULL:
        carry_any(raw, array, stream.layout, start, size, stream.stored, True)

cdef inline bint straight(const RowsJob* job) noexcept nogil:
    """Whether the rule can go over rows where they lie."""
    cdef int j
    if job.totals != NULL or job.staged or job.scalar_group.staged or job.clip_factor != 1 or job.p.layout != NULL \
            or job.g.layout != NULL or job.scale.first != NULL or job.ema.first != NULL \
            or job.g.stored != (FLOAT64 if job.is_double else FLOAT32):
        return False
    for j in range(job.slots):
        if job.slot[j].layout != NULL:
            return False
    return True

cdef void step_rows(void* context, Py_ssize_t task) noexcept nogil:
    """One chunk of a step over rows."""
    cdef const RowsJob* job = <const RowsJob*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k, c, later, last, start = task * job.together, behind = start + job.together
    cdef bint once, plain = straight(job)
    cdef uint64_t[TILE] raw
    cdef double[TILE] total
    cdef double[TILE] scratch
    cdef const void* g
    cdef void* slot[MOST_SLOTS]
    cdef const ScalarGroup* now = job.scalar_group
    cdef PrefetchList asked
    cdef int j
    asked_of(&asked, job)
    for j in range(MOST_SLOTS):
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
                ask_row(asked.first[0] + job.source[c] * asked.pitch[0], asked.bytes[0])
            for j in range(1, asked.count):
                ask_row(asked.first[j] + job.row[later] * asked.pitch[j], asked.bytes[j])
        if k < start:
            continue
        once = job.begin[k + 1] - job.begin[k] == 1
        if plain and (once or job.width <= TILE):
            for j in range(job.slots):
                slot[j] = job.slot[j].first + job.row[k] * job.slot[j].pitch
            if once:
                g = job.g.first + job.source[job.begin[k]] * job.g.pitch
            elif job.is_double:
                g = summed(<double*>total, <double*>scratch, raw, job, k, 0, job.width)
            else:
                g = summed(<float*>total, <float*>scratch, raw, job, k, 0, job.width)
            job.step(now.hyper, &now.now, job.p.first + job.row[k] * job.p.pitch, g, slot, job.width)
        elif job.is_double:
            row_tiles(job, k, <double*>NULL)
        else:
            row_tiles(job, k, <float*>NULL)
    fastlr_leave(mode)

cdef void weigh_row(const RowsJob* job, Py_ssize_t k, Lanes* lanes, real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] total
    cdef real[TILE] scratch
    cdef Py_ssize_t i = 0, n
    while i < job.width:
        n = job.width - i
        if n > TILE:
            n = TILE
        weigh_tile(summed(total, scratch, raw, job, k, i, n), lanes, job.scalar_group, n)
        i += n

cdef void measure_rows(void* context, Py_ssize_t task) noexcept nogil:
    """Measure the gradients of one chunk of rows."""
    cdef const RowsJob* job = <const RowsJob*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k, start = task * job.together, behind = start + job.together
    cdef Lanes lanes
    weigh_nothing(&lanes)
    if behind > job.count:
        behind = job.count
    for k in range(start, behind):
        if job.is_double:
            weigh_row(job, k, &lanes, <double*>NULL)
        else:
            weigh_row(job, k, &lanes, <float*>NULL)
    weigh_total(&job.sums[task], &lanes)
    fastlr_leave(mode)


step_rows_task = PyCapsule_New(<void*>&step_rows, "fastlr.run", NULL)
measure_rows_task = PyCapsule_New(<void*>&measure_rows, "fastlr.run", NULL)
