# cython: language_level=3
cimport cython
from fastlr._engine.arrays cimport ArrayView
from fastlr._engine.memory cimport Memory
from fastlr._kernels.structs cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, AfterStep, Chunk, Storage, StridedLayout, TensorView,
)

cdef enum:
    CHUNK = 32768              # elements of a chunk, at most: four float32 streams of it stay in a thread's cache

cdef struct MemoryRange:
    char* low
    char* high
    Py_ssize_t tensor          # which tensor it belongs to


@cython.final
cdef class Layout:
    cdef Memory memory
    cdef readonly str caller           # the optimizer's name, for errors
    cdef readonly list tensors
    cdef readonly Py_ssize_t count, elements
    cdef int slots
    # Per tensor.
    cdef TensorView* views
    cdef double** memories             # numbers that the rule remembers of the tensor as a whole
    cdef int* ndims
    cdef Py_ssize_t* first_axis        # where a tensor's entries of `axes` and `shapes` begin
    cdef bint* in_order                # whether the axes are traversed in their own order
    cdef Py_ssize_t all_axes           # of all tensors together; a number counts as one axis
    cdef int* axes                     # the order in which a tensor's axes are traversed
    cdef Py_ssize_t* shapes
    # What a step writes, by address: no gradient may overlap it.
    cdef MemoryRange* written
    cdef Py_ssize_t written_count
    cdef bint written_disjoint
    # How the tensors are cut: task k is chunks[task_starts[k]] .. chunks[task_starts[k + 1]].
    cdef Chunk* chunks
    cdef Py_ssize_t* task_starts
    cdef Py_ssize_t chunk_count, tasks
    cdef readonly bint constrains, measures    # whether something comes after the step of some tensor
    # The scales of gradients whose inverse is a normal number in the precision of every tensor.
    cdef double min_grad_scale, max_grad_scale

    cdef StridedLayout* strided_layouts(self, Memory memory) except NULL
    cdef StridedLayout* layout_of(self, const ArrayView* array_view, const int* axes) except? NULL
    cdef int reserve(self) except -1
    cdef int read_tensor(self, Py_ssize_t i, tensor) except -1
    cdef int add_written(self, Py_ssize_t i, const ArrayView* array_view) except -1
    cdef int sort_written(self) except -1
    cdef bint is_plain(self, const TensorView* view) noexcept nogil
    cdef void clear_norms(self) noexcept nogil
    cdef Py_ssize_t norms_of(self, Py_ssize_t i) noexcept nogil
    cdef int read_after(self, Py_ssize_t i, object tensor) except -1
    cdef Py_ssize_t chunk_size(self, Py_ssize_t i) noexcept nogil
    cdef int cut_chunks(self) except -1
    cdef object overlapped(self, object array, const ArrayView* array_view)

cdef void sort_by_address(MemoryRange* ranges, Py_ssize_t count) noexcept nogil

cdef inline bint same_precision(const TensorView* view, Storage stored) noexcept nogil:
    """Whether a gradient that is stored like this fits a parameter: float64 for float64, 16 or 32 bits for others."""
    if view.stored == FLOAT64 or stored == FLOAT64:
        return view.stored == stored
    return stored == FLOAT32 or stored == FLOAT16 or stored == BFLOAT16

cdef inline bint same_shape(Layout layout, Py_ssize_t i, const ArrayView* array_view) noexcept:
    """Whether an array has the shape of tensor i."""
    cdef int k
    cdef const Py_ssize_t* shape = layout.shapes + layout.first_axis[i]
    if layout.ndims[i] != array_view.ndim:
        return False
    for k in range(array_view.ndim):
        if shape[k] != array_view.shape[k]:
            return False
    return True
