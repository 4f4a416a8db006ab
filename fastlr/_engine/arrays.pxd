# cython: language_level=3
from fastlr._kernels.structs cimport Storage, StridedLayout

cdef struct ArrayView:
    # What is read of an array.
    char* data
    int ndim
    Storage stored
    Py_ssize_t itemsize
    int flags                  # NumPy's own
    const Py_ssize_t* shape
    const Py_ssize_t* strides

cdef enum:
    C_CONTIGUOUS = 0x0001
    ALIGNED = 0x0100
    WRITEABLE = 0x0400

cdef bint read_array(object array, ArrayView* array_view) except -1
cdef bint strided_layout(StridedLayout* layout, const ArrayView* array_view, const int* axes) noexcept nogil
cdef void memory_range(const ArrayView* array_view, char** low, char** high) noexcept nogil
