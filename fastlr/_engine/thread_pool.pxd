# cython: language_level=3
ctypedef void (*Work)(void* context, Py_ssize_t task) noexcept nogil

cdef enum:
    MIN_THREADED = 32768       # a step over fewer elements is done by the calling thread alone

cdef int prepare() except -1
cdef int prepare_for(Py_ssize_t elements) except -1
cdef int available() noexcept nogil
cdef void wake() noexcept nogil
cdef void run(Work work, void* context, Py_ssize_t tasks) noexcept nogil
cdef void do_all(Work work, void* context, Py_ssize_t tasks, Py_ssize_t elements) noexcept nogil
cdef int run_tasks(Work work, void* context, Py_ssize_t tasks, Py_ssize_t elements) except -1
