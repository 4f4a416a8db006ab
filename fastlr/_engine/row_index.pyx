# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which rows of a table a step touches, each once, and which gradients belong to each, in order of appearance."""
import numpy as np

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastlr._engine cimport thread_pool
from fastlr._engine.arrays import as_array
from fastlr._engine.plan cimport ALONE


cdef class RowIndex:
    """Different rows by first appearance. The memory is kept from step to step, as steps are alike."""

    def __dealloc__(self):
        free(self.asked)
        free(self.table)

    cdef int take(self, object rows, Py_ssize_t length, Py_ssize_t width, str who) except -1:
        """Sort the indices of rows of a table, `length` times `width`; ValueError or TypeError if one is wrong.

        Threads that will go over the rows are woken, and are awake when they are needed.
        """
        cdef const int64_t[::1] given
        cdef Py_ssize_t bad
        array = np.asarray(rows, None if len(rows) else np.int64) if isinstance(rows, list | tuple) else \
            as_array(rows, f"{who}: rows")
        if array.ndim != 1:
            raise ValueError(f"{who}: rows must have one dimension, got shape {array.shape}")
        if array.dtype not in (np.int32, np.int64):
            raise TypeError(f"{who}: rows must be int32 or int64, got {array.dtype}; convert them with "
                            f"rows.astype('int64')")
        given = np.ascontiguousarray(array, np.int64)
        self.reserve(given.shape[0])
        self.given, self.length = given.shape[0], length
        self.bits = 1
        while <int64_t>1 << self.bits < 2 * self.given:
            self.bits += 1
        if self.given:                             # (a copy, which nobody changes meanwhile)
            memcpy(self.asked, &given[0], self.given * sizeof(int64_t))
        if self.given * width >= ALONE:
            thread_pool.prepare()
            thread_pool.wake()
        with nogil:
            bad = self.sort()
        if bad >= 0:
            raise ValueError(f"{who}: rows must be in [0, {length}), got {self.asked[bad]} at position {bad}")
        return 0

    cdef int reserve(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t room = 1
        cdef char* block
        if n <= self.room:
            return 0
        if n >= 1 << 30:
            raise ValueError("fastlr: more than 2**30 rows in one step; take them in parts")
        while room < n:
            room *= 2
        free(self.asked)
        free(self.table)
        self.asked, self.table, self.room = NULL, NULL, 0
        block = <char*>malloc(room * (4 * sizeof(int64_t) + sizeof(int32_t)) + 2 * sizeof(int64_t))
        self.table = <int32_t*>malloc(2 * room * sizeof(int32_t))
        self.asked = <int64_t*>block
        if self.asked == NULL or self.table == NULL:
            raise MemoryError
        self.row, self.source, self.begin = self.asked + room, self.asked + 2 * room, self.asked + 3 * room
        self.place = <int32_t*>(self.begin + room + 2)
        self.room = room
        return 0

    cdef Py_ssize_t sort(self) noexcept nogil:
        """The position of the first index out of bounds, or -1. Half of the table stays empty: O(n)."""
        # (No branch asks whether a row is new, `found` being -1, which no processor can guess; that a place is taken by
        # another is rare.)
        cdef Py_ssize_t k, n = self.given
        cdef int64_t row, u, found, next = 0
        cdef int64_t* different = self.row
        cdef int64_t* begin = self.begin
        cdef int32_t* place = self.place
        cdef int32_t* table = self.table
        cdef int shift = 64 - self.bits
        cdef uint64_t at, outside = 0, mask = (<uint64_t>1 << self.bits) - 1
        for k in range(n):                         # (one that is negative or too large leaves the uppermost bit)
            outside |= <uint64_t>self.asked[k] | (<uint64_t>(self.length - 1) - <uint64_t>self.asked[k])
        self.count = 0
        if outside >> 63:
            for k in range(n):
                if not 0 <= self.asked[k] < self.length:
                    return k
        if n == 0:
            return -1
        memset(table, 0xff, (mask + 1) * sizeof(int32_t))
        for k in range(n):
            row = self.asked[k]
            at = (<uint64_t>row * <uint64_t>0x9e3779b97f4a7c15) >> shift
            different[next] = row                  # (an empty place is taken by this one)
            found = table[at]
            u = found ^ ((found ^ next) & (found >> 63))
            while different[u] != row:
                at = (at + 1) & mask
                found = table[at]
                u = found ^ ((found ^ next) & (found >> 63))
            table[at] = place[k] = <int32_t>u
            next -= found >> 63
        self.count = next
        # how many there are of each, two places on; from that, one place on, where they begin; then, in their own, too
        memset(begin, 0, (next + 2) * sizeof(int64_t))
        for k in range(n):
            begin[place[k] + 2] += 1
        for k in range(2, next + 1):
            begin[k] += begin[k - 1]
        for k in range(n):
            u = place[k] + 1
            self.source[begin[u]] = k
            begin[u] += 1
        return -1
