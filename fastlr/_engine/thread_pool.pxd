# cython: language_level=3
ctypedef void (*Work)(void* context, Py_ssize_t task) noexcept nogil

cdef int prepare() except -1
cdef void wake() noexcept nogil
cdef void run(Work work, void* context, Py_ssize_t tasks) noexcept nogil
