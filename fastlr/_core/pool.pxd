# cython: language_level=3
ctypedef void (*Work)(void* context, Py_ssize_t chunk) noexcept nogil

cdef int prepare() except -1
cdef void rouse() noexcept nogil
cdef void run(Work work, void* context, Py_ssize_t chunks) noexcept nogil
