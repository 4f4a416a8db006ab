# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which rows of a table a step touches, each once, and which gradients belong to each, in order of appearance."""
import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Workspace

from fastlr._engine.arrays import as_array

build_id = FASTLR_LAYOUT.decode()

cdef object MAX_INDEX = 2**63 - 1
cdef object ndarray = np.ndarray
cdef object int64 = np.dtype(np.int64)
cdef object asarray = np.asarray
cdef object ascontiguousarray = np.ascontiguousarray


cdef str rows_caller(Layout layout, Py_ssize_t i):
    """How errors name a step over rows of tensor i. (Made where there is one: it takes 0.1 us.)"""
    return f"{layout.caller}: step_rows({layout.tensors[i].name!r})"


cdef object rows_error(Layout layout, Py_ssize_t i, str what):
    return ValueError(f"{rows_caller(layout, i)}: {what}")


cdef int check_indices(object array, Py_ssize_t length, Layout layout, Py_ssize_t i) except -1:
    """ValueError or TypeError unless these are integers of one dimension, which int64 holds."""
    cdef str kind = array.dtype.kind
    if array.ndim == 1 and kind == "i":
        return 0
    if array.ndim != 1:
        raise rows_error(layout, i, f"rows must have one dimension, got shape {array.shape}")
    if array.size == 0:                        # (no rows at all may come in any type)
        return 0
    if kind == "b":
        raise TypeError(f"{rows_caller(layout, i)}: rows must be indices, got a mask of bool; pass "
                        f"np.flatnonzero(rows) and the gradients of those rows")
    if kind != "u":
        raise TypeError(f"{rows_caller(layout, i)}: rows must be integers, got {array.dtype}; pass "
                        f"rows.astype('int64') if they are row numbers")
    if array.max() > MAX_INDEX:
        raise rows_error(layout, i, f"rows must be in [0, {length}), got {array.max()} at position {array.argmax()}")
    return 0


cdef struct RowPlace:
    int64_t row, place


cdef int compare_rows(const void* a, const void* b) noexcept nogil:
    cdef int64_t first = (<const RowPlace*>a).row, second = (<const RowPlace*>b).row
    return (first > second) - (first < second)


cdef class RowIndex:
    """Different rows, in the order in which they first come. Memory is kept from step to step, as steps are alike."""

    def __cinit__(self):
        self.lists, self.hash_table, self.order = Workspace(), Workspace(), Workspace()

    cdef int read(self, object rows, Layout layout, Py_ssize_t i, Py_ssize_t width) except -1:
        """Sort the indices of rows of tensor i, of `width` elements each; ValueError or TypeError if one is wrong.

        The threads that will do the rows are woken, and are awake when they are needed.
        """
        cdef Py_buffer given
        cdef Py_ssize_t n, bad, length = layout.shapes[layout.first_axis[i]]
        if not isinstance(rows, ndarray):
            rows = asarray(rows) if isinstance(rows, list | tuple) else \
                as_array(rows, f"{rows_caller(layout, i)}: rows")
        check_indices(rows, length, layout, i)
        PyObject_GetBuffer(ascontiguousarray(rows, int64), &given, PyBUF_SIMPLE)
        try:
            n = given.len // <Py_ssize_t>sizeof(int64_t)
            if n >= MAX_ROWS:
                raise rows_error(layout, i, f"rows must be fewer than 2**30, got {n}; step over them in parts")
            thread_pool.prepare_for(n * width)
            with nogil:
                bad = self.read_indices(<const int64_t*>given.buf, n, length, width)
        finally:
            PyBuffer_Release(&given)
        if bad == NO_ROOM:
            raise MemoryError
        if bad >= 0:
            raise rows_error(layout, i, f"rows must be in [0, {length}), got {self.indices[bad]} at position {bad}")
        return 0

    cdef Py_ssize_t read_indices(self, const int64_t* rows, Py_ssize_t n, Py_ssize_t length,
                                 Py_ssize_t width) noexcept nogil:
        """The same for n < MAX_ROWS indices, without the interpreter lock: the position of one out of bounds, or -1, or
        NO_ROOM without memory. (Call `prepare_for` of thread_pool before.)"""
        if not self.reserve(n):
            return NO_ROOM
        self.given, self.length = n, length
        if n:                                      # (a copy, which no other thread changes)
            memcpy(self.indices, rows, n * sizeof(int64_t))
        if n * width >= thread_pool.MIN_THREADED:
            thread_pool.wake()
        return self.sort()

    cdef bint reserve(self, Py_ssize_t n) noexcept nogil:
        """Let there be memory for n indices; False if there is none."""
        cdef int64_t* indices
        self.bits = 1
        while <int64_t>1 << self.bits < 2 * n:
            self.bits += 1
        n = <Py_ssize_t>1 << (self.bits - 1)       # (at least as many: steps of about the same size share it)
        indices = <int64_t*>self.lists.grown((4 * n + 2) * sizeof(int64_t) + n * sizeof(int32_t))
        self.table = <int32_t*>self.hash_table.grown(2 * n * sizeof(int32_t))
        if indices == NULL or self.table == NULL:
            return False
        self.indices, self.row, self.source, self.begin = indices, indices + n, indices + 2 * n, indices + 3 * n
        self.position = <int32_t*>(self.begin + n + 2)
        return True

    cdef Py_ssize_t sort(self) noexcept nogil:
        """The position of the first index out of bounds, or -1. Half of the table stays empty: O(n)."""
        # (No branch depends on whether a row is new, `found` being -1, which no processor can predict; that an entry is
        # taken by another row is rare.)
        cdef Py_ssize_t k, n = self.given
        cdef int64_t row, u, found, next = 0
        cdef int64_t* different = self.row
        cdef int64_t* begin = self.begin
        cdef int32_t* position = self.position
        cdef int32_t* table = self.table
        cdef int shift = 64 - self.bits
        cdef uint64_t at, outside = 0, mask = (<uint64_t>1 << self.bits) - 1
        for k in range(n):                         # (one that is negative or too large leaves the uppermost bit)
            outside |= <uint64_t>self.indices[k] | (<uint64_t>(self.length - 1) - <uint64_t>self.indices[k])
        self.count = 0
        if outside >> 63:
            for k in range(n):
                if not 0 <= self.indices[k] < self.length:
                    return k
        if n == 0:
            return -1
        memset(table, 0xff, (mask + 1) * sizeof(int32_t))
        for k in range(n):
            row = self.indices[k]
            at = (<uint64_t>row * <uint64_t>0x9e3779b97f4a7c15) >> shift
            different[next] = row                  # (an empty entry becomes this one's)
            found = table[at]
            u = found ^ ((found ^ next) & (found >> 63))
            while different[u] != row:
                at = (at + 1) & mask
                found = table[at]
                u = found ^ ((found ^ next) & (found >> 63))
            table[at] = position[k] = <int32_t>u
            next -= found >> 63
        self.count = next
        # how many there are of each, two entries later; from that, one entry later, where they begin; then in their own
        memset(begin, 0, (next + 2) * sizeof(int64_t))
        for k in range(n):
            begin[position[k] + 2] += 1
        for k in range(2, next + 1):
            begin[k] += begin[k - 1]
        for k in range(n):
            u = position[k] + 1
            self.source[begin[u]] = k
            begin[u] += 1
        return -1

    cdef const int64_t* sort_ascending(self) noexcept nogil:
        """Which of the different rows is the k-th in ascending order; NULL without memory."""
        cdef RowPlace* places = <RowPlace*>self.order.grown(self.count * sizeof(RowPlace))
        cdef int64_t* order = <int64_t*>places
        cdef Py_ssize_t k
        if places == NULL:
            return NULL
        for k in range(self.count):
            places[k].row, places[k].place = self.row[k], k
        qsort(places, self.count, sizeof(RowPlace), compare_rows)
        for k in range(self.count):                # (over those that are read already)
            order[k] = places[k].place
        return order
