# cython: language_level=3
cimport cython
from fastlr._engine.arrays cimport ArrayView
from fastlr._engine.layout cimport Layout, MemoryRange
from fastlr._engine.memory cimport Memory
from fastlr._kernels.structs cimport GradientView

cdef struct ByteSet:
    # The bytes of an array whose elements do not overlap: axes from the longest distance to the shortest.
    Py_ssize_t low, high       # of addresses, or of offsets from the first element
    Py_ssize_t itemsize
    int ndim
    Py_ssize_t* size
    Py_ssize_t* step           # bytes, positive
    Py_ssize_t tensor          # whose it is

cdef enum Fault:
    NO_FAULT, MISALIGNED, OVERLAPS, SHARED, OVERLAPS_ITSELF


@cython.final
cdef class PointerGradients:
    cdef Memory memory
    cdef Layout layout
    cdef Py_ssize_t count
    cdef Py_ssize_t* place             # which tensor of the layout gradient k is of
    cdef GradientView* views           # the rest is by tensor of the layout
    cdef ArrayView* arrays             # type, shape and strides; `data` is NULL
    cdef const char** checked          # the address of a gradient that was found to overlap nothing
    cdef ByteSet* bytes                # of each gradient, from its first element
    cdef bint* repeats                 # whether its elements share memory
    cdef MemoryRange* zeroed           # gradients that a step sets to zero, by address
    cdef ByteSet* written              # what a step writes
    cdef Py_ssize_t written_count

    cdef int describe(self, Py_ssize_t i, str dtype, list strides) except -1
    cdef int add_written(self) except -1
    cdef Fault read(self, const void* const* pointers, bint zero_grads, Py_ssize_t* wrong) noexcept nogil
    cdef Fault refuse_shared(self, Py_ssize_t* wrong) noexcept nogil
    cdef bint overlapping(self, const ArrayView* view) noexcept nogil
    cdef void set_to_zero(self) noexcept nogil
