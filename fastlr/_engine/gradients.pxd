# cython: language_level=3
cimport cython
from fastlr._engine.arrays cimport ArrayView
from fastlr._engine.layout cimport Layout, MemoryRange
from fastlr._engine.memory cimport Memory
from fastlr._kernels.structs cimport GradientView, StridedLayout

cdef object overlap_error(str label, object tensor)


@cython.final
cdef class Gradients:
    cdef Memory memory
    cdef Layout layout
    cdef str noun                      # what errors call them: "grads" or "curvature"
    cdef GradientView* views           # per tensor
    cdef list arrays                   # what keeps them alive, or None
    cdef list torch_tensors            # those of them that came as tensors of PyTorch, or None
    cdef StridedLayout* layouts        # per tensor: in the order in which the parameter is traversed
    cdef StridedLayout* measured_layouts       # ... and in the order of the gradient's own axes
    cdef char** checked                # per tensor: a gradient's address that was found to overlap nothing
    cdef void** objects                # per tensor: the object that was given; NULL where nobody asks for that
    cdef bint other_objects            # whether one of them is another than before
    cdef MemoryRange* zeroed           # the gradients that a step sets to zero, by address
    cdef bint read_elsewhere           # whether `views` are of tensors that another module reads and checks

    cdef int read(self, list arrays, bint writable) except -1
    cdef int read_strided(self, Py_ssize_t i, const ArrayView* array_view) except -1
    cdef int refuse_shared(self, list arrays) except -1
    cdef object converted(self, Py_ssize_t i, object array, bint writable)
    cdef object mismatch(self, Py_ssize_t i, object array)
    cdef str label(self, Py_ssize_t i)
    cdef int set_to_zero(self) except -1
