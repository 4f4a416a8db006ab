# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which rows of a table a step touches, each once, and which gradients belong to each, in order of appearance."""
import numpy as np

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset
from fastlr._engine cimport thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.memory cimport Workspace

from fastlr._engine.arrays import as_array

build_id = FASTLR_LAYOUT.decode()

cdef object MAX_INDEX = 2**63 - 1


cdef class RowIndex:
    """Different rows, in the order in which they first come. Memory is kept from step to step, as steps are alike."""

    def __cinit__(self):
        self.lists, self.hash_table = Workspace(), Workspace()

    cdef int read(self, object rows, Py_ssize_t length, Py_ssize_t width, str caller) except -1:
        """Sort the indices of rows of a table, `length` times `width`; ValueError or TypeError if one is wrong.

        The threads that will do the rows are woken, and are awake when they are needed.
        """
        cdef const int64_t[::1] given
        cdef Py_ssize_t bad
        array = np.asarray(rows) if isinstance(rows, list | tuple) else as_array(rows, f"{caller}: rows")
        if array.ndim != 1:
            raise ValueError(f"{caller}: rows must have one dimension, got shape {array.shape}")
        if array.size and array.dtype == np.bool_:
            raise TypeError(f"{caller}: rows must be indices, got a mask of bool; pass np.flatnonzero(rows) and the "
                            f"gradients of those rows")
        if array.size and array.dtype.kind not in "iu":        # (no rows at all may come in any type)
            raise TypeError(f"{caller}: rows must be integers, got {array.dtype}; pass rows.astype('int64') if they "
                            f"are row numbers")
        if array.dtype == np.uint64 and array.size and array.max() > MAX_INDEX:
            raise ValueError(f"{caller}: rows must be in [0, {length}), got {array.max()} at position {array.argmax()}")
        given = np.ascontiguousarray(array, np.int64)
        self.reserve(given.shape[0], caller)
        self.given, self.length = given.shape[0], length
        if self.given:                             # (a copy, which no other thread changes)
            memcpy(self.indices, &given[0], self.given * sizeof(int64_t))
        if self.given * width >= thread_pool.MIN_THREADED:
            thread_pool.prepare()
            thread_pool.wake()
        with nogil:
            bad = self.sort()
        if bad >= 0:
            raise ValueError(f"{caller}: rows must be in [0, {length}), got {self.indices[bad]} at position {bad}")
        return 0

    cdef int reserve(self, Py_ssize_t n, str caller) except -1:
        """Let there be memory for n indices."""
        if n >= 1 << 30:
            raise ValueError(f"{caller}: rows must be fewer than 2**30, got {n}; step over them in parts")
        self.bits = 1
        while <int64_t>1 << self.bits < 2 * n:
            self.bits += 1
        n = <Py_ssize_t>1 << (self.bits - 1)       # (at least as many: steps of about the same size share it)
        self.indices = <int64_t*>self.lists.reserve((4 * n + 2) * sizeof(int64_t) + n * sizeof(int32_t))
        self.table = <int32_t*>self.hash_table.reserve(2 * n * sizeof(int32_t))
        self.row, self.source, self.begin = self.indices + n, self.indices + 2 * n, self.indices + 3 * n
        self.position = <int32_t*>(self.begin + n + 2)
        return 0

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
