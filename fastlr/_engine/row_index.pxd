# cython: language_level=3
from libc.stdint cimport int32_t, int64_t

cdef class RowIndex:
    cdef readonly Py_ssize_t given, count, length
    cdef Py_ssize_t room               # indices that the memory below is for
    cdef int64_t* asked                # as given
    cdef int64_t* row                  # the different ones, as they first come
    cdef int64_t* begin                # where the sources of each begin
    cdef int64_t* source               # which of those given they are
    cdef int32_t* place                # per index given: which of the different ones it is
    cdef int32_t* table                # of the hash: which of the different ones, or -1
    cdef int bits                      # it has 2**bits places: half of them stay empty

    cdef int take(self, object rows, Py_ssize_t length, Py_ssize_t width, str who) except -1
    cdef int reserve(self, Py_ssize_t n) except -1
    cdef Py_ssize_t sort(self) noexcept nogil
