# cython: language_level=3
cimport cython
from libc.stdint cimport int64_t
from fastlr._c_api.pointer_gradients cimport PointerGradients
from fastlr._engine.memory cimport Memory
from fastlr._engine.plan cimport Plan
from fastlr._engine.rows cimport RowArrays
from fastlr.c_api cimport fastlr_array

cdef struct Slot:
    # One array of the state.
    const char* name
    fastlr_array array


@cython.final
cdef class CPlan:
    cdef char* message                 # of the latest error, MESSAGE_SIZE bytes
    cdef object description            # what C has said of it, or None if Python made the optimizer
    cdef object optimizer              # None until it is built
    cdef list grad_dtypes, grad_strides        # as said of each tensor
    cdef bint built                    # whether it can step
    # What is read of the optimizer.
    cdef Plan engine                   # its plan, which steps
    cdef PointerGradients gradients
    cdef Memory memory
    cdef list kept                     # objects that the memory points to
    cdef bint needs_loss, needs_curvature, allows_rows
    cdef const char** names            # of a group's values
    cdef bint* changed                 # which values were set without Python
    cdef Py_ssize_t* first_slot        # of tensor k, in the order in which they were added; then those for all together
    cdef Slot* slots
    cdef RowArrays* row_arrays         # per tensor of the plan

    cdef int fail(self, int error, const char* text) noexcept nogil
    cdef int failed(self, object error)
    cdef int busy(self) noexcept nogil
    cdef int bad_value(self, int index, double value, const char* how) noexcept nogil
    cdef int refresh(self) except -1
    cdef int read_slots(self) except -1
    cdef int read_rows(self) except -1
    cdef const char* text(self, str given) except NULL
    cdef const int64_t* numbers(self, given) except NULL
    cdef int index(self, const char* name) noexcept nogil
    cdef int synchronize(self) except -1
