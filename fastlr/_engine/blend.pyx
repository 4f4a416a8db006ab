# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What wrappers do to whole tensors, in one pass and with the same bits for any number of threads.

Operands are C-contiguous arrays of float32 or float64, matched by their places in the lists; an entry None skips a
tensor. Cuts depend on sizes alone.
"""
from cython cimport floating as real
from libc.math cimport fabs
from libc.stdlib cimport calloc, free

from fastlr._engine cimport thread_pool
from fastlr._engine.arrays cimport ArrayView, read_array
from fastlr._kernels.structs cimport FLOAT32, FLOAT64

cdef enum:
    CHUNK = 32768              # elements
    LANES = 16                 # of a sum

cdef enum Act:
    TOWARDS, PULL, PUT, ADD, ASCEND, SWAP, SQUARES, CENTRE

cdef struct Piece:
    char* a
    char* b
    char* c
    Py_ssize_t size
    Py_ssize_t columns         # CENTRE: elements of a row
    double sum
    bint wide

cdef struct Job:
    Act act
    double weight, eta
    bint adaptive
    Piece* pieces


cdef void towards(real* a, const real* b, Py_ssize_t n, double weight) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = <real>weight
    for i in range(n):
        a[i] = a[i] + w * (b[i] - a[i])


cdef void pull(real* a, real* b, Py_ssize_t n, double weight) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = <real>weight
    for i in range(n):
        a[i] = b[i] = a[i] + w * (b[i] - a[i])


cdef void put(real* a, const real* b, Py_ssize_t n, double weight) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = <real>weight
    for i in range(n):
        a[i] = w * b[i]


cdef void add(real* a, const real* b, Py_ssize_t n, double weight) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = <real>weight
    for i in range(n):
        a[i] = a[i] + w * b[i]


cdef void ascend(real* a, const real* b, real* c, Py_ssize_t n, double weight, double eta,
                 bint adaptive) noexcept nogil:
    """c keeps a; a moves by weight * b, or by weight * (|a| + eta)**2 * b."""
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


cdef double squares(const real* a, const real* b, Py_ssize_t n, double eta, bint adaptive) noexcept nogil:
    """The sum of b**2, or of ((|a| + eta) b)**2, in lanes that are folded in order."""
    cdef double[LANES] lane
    cdef double x, total = 0
    cdef Py_ssize_t i, whole = n - n % LANES
    cdef int k
    for k in range(LANES):
        lane[k] = 0
    i = 0
    while i < whole:
        for k in range(LANES):
            x = <double>b[i + k]
            if adaptive:
                x = x * (fabs(<double>a[i + k]) + eta)
            lane[k] += x * x
        i += LANES
    for i in range(whole, n):
        x = <double>b[i]
        if adaptive:
            x = x * (fabs(<double>a[i]) + eta)
        lane[i - whole] += x * x
    for k in range(LANES):
        total += lane[k]
    return total


cdef void centre(real* a, const real* b, Py_ssize_t n, Py_ssize_t columns) noexcept nogil:
    """a becomes b less the mean of its row."""
    cdef double[LANES] lane
    cdef double total
    cdef real mean
    cdef Py_ssize_t _row, i, whole = columns - columns % LANES
    cdef int k
    for _row in range(n // columns):
        for k in range(LANES):
            lane[k] = 0
        i = 0
        while i < whole:
            for k in range(LANES):
                lane[k] += <double>b[i + k]
            i += LANES
        for i in range(whole, columns):
            lane[i - whole] += <double>b[i]
        total = 0
        for k in range(LANES):
            total += lane[k]
        mean = <real>(total / columns)
        for i in range(columns):
            a[i] = b[i] - mean
        a += columns
        b += columns


cdef void act_on(const Job* job, Piece* piece, real* a, real* b, real* c) noexcept nogil:
    cdef Py_ssize_t n = piece.size
    if job.act == TOWARDS:
        towards(a, b, n, job.weight)
    elif job.act == PULL:
        pull(a, b, n, job.weight)
    elif job.act == PUT:
        put(a, b, n, job.weight)
    elif job.act == ADD:
        add(a, b, n, job.weight)
    elif job.act == ASCEND:
        ascend(a, b, c, n, job.weight, job.eta, job.adaptive)
    elif job.act == SWAP:
        swap(a, b, n)
    elif job.act == SQUARES:
        piece.sum = squares(a, b, n, job.eta, job.adaptive)
    else:
        centre(a, b, n, piece.columns)


cdef void work(void* context, Py_ssize_t k) noexcept nogil:
    cdef Job* job = <Job*>context
    cdef Piece* piece = &job.pieces[k]
    if piece.wide:
        act_on(job, piece, <double*>piece.a, <double*>piece.b, <double*>piece.c)
    else:
        act_on(job, piece, <float*>piece.a, <float*>piece.b, <float*>piece.c)


ACTS = {"towards": TOWARDS, "pull": PULL, "put": PUT, "add": ADD, "ascend": ASCEND, "swap": SWAP, "squares": SQUARES,
        "centre": CENTRE}


def blend(str act, list firsts, list seconds, list thirds=None, *, double weight=0, double eta=0, bint adaptive=False,
          list columns=None) -> float:
    """One act over lists of arrays; the sum that "squares" makes, else 0.

    towards: a += w (b - a). pull: the same, and b = a. put: a = w b. add: a += w b. ascend: c = a, a += w b, or where
    adaptive w (|a| + eta)**2 b. swap: a and b. squares: of b, or of (|a| + eta) b. centre: a = b less the mean of
    each row of `columns` elements.
    """
    cdef Py_ssize_t i, n, start, step, row, most = 0, count = 0
    cdef Piece* piece
    cdef ArrayView a, b, c
    cdef Job job = Job(ACTS[act], weight, eta, adaptive, NULL)
    cdef double total = 0
    for i in range(len(firsts)):
        if firsts[i] is not None and seconds[i] is not None:
            if not firsts[i].size == seconds[i].size or firsts[i].dtype != seconds[i].dtype:
                raise ValueError(f"blend: operands {i} differ in size or type")
            if job.act == ASCEND and (thirds is None or thirds[i].size != firsts[i].size
                                      or thirds[i].dtype != firsts[i].dtype):
                raise ValueError(f"blend: operands {i} differ in size or type")
            row = columns[i] if job.act == CENTRE else 1
            most += firsts[i].size // max(CHUNK // row * row, row) + 1
    job.pieces = <Piece*>calloc(most + 1, sizeof(Piece))
    if job.pieces == NULL:
        raise MemoryError
    try:
        for i in range(len(firsts)):
            if firsts[i] is None or seconds[i] is None or firsts[i].size == 0:
                continue
            read_array(firsts[i], &a)
            read_array(seconds[i], &b)
            c.data = NULL
            if thirds is not None:
                read_array(thirds[i], &c)
            if a.stored != FLOAT32 and a.stored != FLOAT64:
                raise TypeError("blend: operands must be float32 or float64")
            n, start = firsts[i].size, 0
            row = columns[i] if job.act == CENTRE else 1
            step = max(CHUNK // row * row, row)
            while start < n:
                piece = &job.pieces[count]
                piece.a = a.data + start * a.itemsize
                piece.b = b.data + start * a.itemsize
                piece.c = NULL
                if c.data != NULL:
                    piece.c = c.data + start * a.itemsize
                piece.size = min(step, n - start)
                piece.columns, piece.wide = row, a.stored == FLOAT64
                start += step
                count += 1
        thread_pool.prepare()
        with nogil:
            thread_pool.run(work, &job, count)
        for i in range(count):
            total += job.pieces[i].sum
    finally:
        free(job.pieces)
    return total
