# cython: language_level=3
cimport cython


@cython.final
cdef class Memory:
    cdef void** blocks
    cdef Py_ssize_t count, capacity
    cdef void* take(self, Py_ssize_t count, Py_ssize_t size) except NULL


@cython.final
cdef class Workspace:
    cdef void* block
    cdef char* data
    cdef size_t size
    cdef char* reserve(self, size_t size) except NULL
    cdef char* grown(self, size_t size) noexcept nogil
