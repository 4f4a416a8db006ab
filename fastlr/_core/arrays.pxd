# cython: language_level=3
from fastlr._kernels.sweep cimport Storage, Walk

cdef struct Seen:
    # What an array shows of itself.
    char* data
    int ndim
    Storage stored
    Py_ssize_t itemsize
    int flags                  # NumPy's
    const Py_ssize_t* shape
    const Py_ssize_t* strides

cdef enum:
    C_CONTIGUOUS = 0x0001
    ALIGNED = 0x0100
    WRITEABLE = 0x0400

cdef bint look(object array, Seen* seen) except -1
cdef bint lay(Walk* walk, const Seen* seen, const int* axes) noexcept
cdef void extent(const Seen* seen, char** low, char** high) noexcept
