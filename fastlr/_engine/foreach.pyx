# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One elementwise operation on each tensor of a list, in one pass over memory.

Operands are C-contiguous arrays of float32 or float64, matched by their index in the lists; None skips a tensor. The
result has the same bits for any number of threads, as the size of a chunk depends on the size of the tensor alone.
"""
from cython cimport floating as real
from libc.math cimport fabs
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cimport fastlr._engine.thread_pool as thread_pool
from fastlr._engine.arrays cimport ArrayView, read_array
from fastlr._kernels.structs cimport FLOAT32, FLOAT64

cdef enum:
    CHUNK = 32768              # elements
    LANES = 16                 # partial sums of one sum

cdef enum Operation:
    COPY, SCALE, ADD_SCALED, LERP, LERP_BOTH, SWAP, ASCEND, SUM_SQUARES, CENTER_ROWS

cdef struct Chunk:
    Operation operation
    char* a
    char* b
    char* c
    Py_ssize_t size
    Py_ssize_t columns         # CENTER_ROWS: elements of a row
    double sum
    bint is_double

cdef struct Job:
    double weight, eta
    bint adaptive
    Chunk* chunks


cdef void scale(real* a, const real* b, Py_ssize_t n, double weight) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = <real>weight
    for i in range(n):
        a[i] = w * b[i]


cdef void add_scaled(real* a, const real* b, Py_ssize_t n, double weight) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = <real>weight
    for i in range(n):
        a[i] = a[i] + w * b[i]


cdef void lerp(real* a, const real* b, Py_ssize_t n, double weight) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = <real>weight
    for i in range(n):
        a[i] = a[i] + w * (b[i] - a[i])


cdef void lerp_both(real* a, real* b, Py_ssize_t n, double weight) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = <real>weight
    for i in range(n):
        a[i] = b[i] = a[i] + w * (b[i] - a[i])


cdef void ascend(real* a, const real* b, real* c, Py_ssize_t n, double weight, double eta,
                 bint adaptive) noexcept nogil:
    """c = a; then a += weight * b, or where adaptive a += weight * (|a| + eta)**2 * b."""
    cdef Py_ssize_t i
    cdef real w = <real>weight, e = <real>eta, size
    if adaptive:
        for i in range(n):
            c[i] = a[i]
            size = (a[i] if a[i] > 0 else -a[i]) + e
            a[i] = a[i] + w * (size * size * b[i])
    else:
        for i in range(n):
            c[i] = a[i]
            a[i] = a[i] + w * b[i]


cdef void swap(real* a, real* b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef real x
    for i in range(n):
        x = a[i]
        a[i] = b[i]
        b[i] = x


cdef double sum_squares(const real* a, const real* b, Py_ssize_t n, double eta, bint adaptive) noexcept nogil:
    """The sum of b**2, or where adaptive of ((|a| + eta) b)**2: LANES partial sums, added in order."""
    cdef double[LANES] partial
    cdef double x, total = 0
    cdef Py_ssize_t i, whole = n - n % LANES
    cdef int k
    for k in range(LANES):
        partial[k] = 0
    i = 0
    while i < whole:
        for k in range(LANES):
            x = <double>b[i + k]
            if adaptive:
                x = x * (fabs(<double>a[i + k]) + eta)
            partial[k] += x * x
        i += LANES
    for i in range(whole, n):
        x = <double>b[i]
        if adaptive:
            x = x * (fabs(<double>a[i]) + eta)
        partial[i - whole] += x * x
    for k in range(LANES):
        total += partial[k]
    return total


cdef void center_rows(real* a, const real* b, Py_ssize_t n, Py_ssize_t columns) noexcept nogil:
    """Each row of a becomes that row of b minus its mean."""
    cdef double[LANES] partial
    cdef double total
    cdef real mean
    cdef Py_ssize_t _row, i, whole = columns - columns % LANES
    cdef int k
    for _row in range(n // columns):
        for k in range(LANES):
            partial[k] = 0
        i = 0
        while i < whole:
            for k in range(LANES):
                partial[k] += <double>b[i + k]
            i += LANES
        for i in range(whole, columns):
            partial[i - whole] += <double>b[i]
        total = 0
        for k in range(LANES):
            total += partial[k]
        mean = <real>(total / columns)
        for i in range(columns):
            a[i] = b[i] - mean
        a += columns
        b += columns


cdef void apply(const Job* job, Chunk* chunk, real* a, real* b, real* c) noexcept nogil:
    cdef Py_ssize_t n = chunk.size
    cdef Operation operation = chunk.operation
    if operation == COPY:
        memcpy(a, b, n * sizeof(real))
    elif operation == SCALE:
        scale(a, b, n, job.weight)
    elif operation == ADD_SCALED:
        add_scaled(a, b, n, job.weight)
    elif operation == LERP:
        lerp(a, b, n, job.weight)
    elif operation == LERP_BOTH:
        lerp_both(a, b, n, job.weight)
    elif operation == SWAP:
        swap(a, b, n)
    elif operation == ASCEND:
        ascend(a, b, c, n, job.weight, job.eta, job.adaptive)
    elif operation == SUM_SQUARES:
        chunk.sum = sum_squares(a, b, n, job.eta, job.adaptive)
    else:
        center_rows(a, b, n, chunk.columns)


cdef void apply_chunk(void* context, Py_ssize_t k) noexcept nogil:
    cdef Job* job = <Job*>context
    cdef Chunk* chunk = &job.chunks[k]
    if chunk.is_double:
        apply(job, chunk, <double*>chunk.a, <double*>chunk.b, <double*>chunk.c)
    else:
        apply(job, chunk, <float*>chunk.a, <float*>chunk.b, <float*>chunk.c)


OPERATIONS = {"copy": COPY, "scale": SCALE, "add_scaled": ADD_SCALED, "lerp": LERP, "lerp_both": LERP_BOTH,
              "swap": SWAP, "ascend": ASCEND, "sum_squares": SUM_SQUARES, "center_rows": CENTER_ROWS}


def foreach(object operation, list first, list second, list third=None, *, double weight=0, double eta=0,
            bint adaptive=False, list columns=None, list record=None, object entry=None) -> float:
    """Apply an operation to each pair of arrays; return the total of "sum_squares", else 0.

    copy: a = b. scale: a = w b. add_scaled: a += w b. lerp: a += w (b - a). lerp_both: a = b = a + w (b - a).
    swap: exchange a and b. ascend: c = a, then a += w b, or where adaptive a += w (|a| + eta)**2 b. sum_squares: the
    sum of b**2, or where adaptive of ((|a| + eta) b)**2. center_rows: a = b minus the mean of each row of `columns`
    elements. `operation` may also be a list with one name for each tensor.

    ``record[0] = entry`` is done after everything that can fail and before the first write, and nothing can interrupt
    between them. So the caller's record says whether the operation was done, even after an interrupt.
    """
    cdef Py_ssize_t i, n, start, step, row, most = 0, count = 0
    cdef Chunk* chunk
    cdef ArrayView a, b, c
    cdef Job job = Job(weight, eta, adaptive, NULL)
    cdef double total = 0
    cdef list operations = operation if isinstance(operation, list) else [operation] * len(first)
    for i in range(len(first)):
        if first[i] is not None and second[i] is not None:
            if not first[i].size == second[i].size or first[i].dtype != second[i].dtype:
                raise ValueError(f"foreach: operands {i} differ in size or type")
            if operations[i] == "ascend" and (third is None or third[i].size != first[i].size
                                              or third[i].dtype != first[i].dtype):
                raise ValueError(f"foreach: operands {i} differ in size or type")
            row = columns[i] if operations[i] == "center_rows" else 1
            most += first[i].size // max(CHUNK // row * row, row) + 1
    job.chunks = <Chunk*>calloc(most + 1, sizeof(Chunk))
    if job.chunks == NULL:
        raise MemoryError
    try:
        for i in range(len(first)):
            if first[i] is None or second[i] is None or first[i].size == 0:
                continue
            read_array(first[i], &a)
            read_array(second[i], &b)
            c.data = NULL
            if third is not None:
                read_array(third[i], &c)
            if a.stored != FLOAT32 and a.stored != FLOAT64:
                raise TypeError("foreach: operands must be float32 or float64")
            n, start = first[i].size, 0
            row = columns[i] if operations[i] == "center_rows" else 1
            step = max(CHUNK // row * row, row)
            while start < n:
                chunk = &job.chunks[count]
                chunk.operation = OPERATIONS[operations[i]]
                chunk.a = a.data + start * a.itemsize
                chunk.b = b.data + start * a.itemsize
                chunk.c = NULL
                if c.data != NULL:
                    chunk.c = c.data + start * a.itemsize
                chunk.size = min(step, n - start)
                chunk.columns, chunk.is_double = row, a.stored == FLOAT64
                start += step
                count += 1
        thread_pool.prepare()
        if record is not None:
            record[0] = entry
        with nogil:
            thread_pool.run(apply_chunk, &job, count)
        for i in range(count):
            total += job.chunks[i].sum
    finally:
        free(job.chunks)
    return total
