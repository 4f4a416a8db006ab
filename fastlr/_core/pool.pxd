# cython: language_level=3
ctypedef void (*Work)(void* context, Py_ssize_t chunk) noexcept nogil

cdef bint prepare()
cdef void run(Work work, void* context, Py_ssize_t chunks) noexcept nogil
