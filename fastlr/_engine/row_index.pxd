# cython: language_level=3
cimport cython
from libc.stdint cimport int32_t, int64_t
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Workspace

cdef enum:
    MAX_ROWS = 1 << 30         # indices of one step
    NO_ROOM = -2

cdef str rows_caller(Layout layout, Py_ssize_t i)
cdef object rows_error(Layout layout, Py_ssize_t i, str what)


@cython.final
cdef class RowIndex:
    cdef readonly Py_ssize_t given, count, length
    cdef Workspace lists, hash_table, order
    cdef int64_t* indices              # as given
    cdef int64_t* row                  # the different ones, in the order in which they first come
    cdef int64_t* begin                # where the sources of each begin
    cdef int64_t* source               # which of those given they are
    cdef int32_t* position             # per index given: which of the different ones it is
    cdef int32_t* table                # of the hash: which of the different ones, or -1
    cdef int bits                      # it has 2**bits entries, at least half of which stay empty

    cdef int read(self, object rows, Layout layout, Py_ssize_t i, Py_ssize_t width) except -1
    cdef Py_ssize_t read_indices(self, const int64_t* rows, Py_ssize_t n, Py_ssize_t length,
                                 Py_ssize_t width) noexcept nogil
    cdef bint reserve(self, Py_ssize_t n) noexcept nogil
    cdef Py_ssize_t sort(self) noexcept nogil
    cdef const int64_t* sort_ascending(self) noexcept nogil
