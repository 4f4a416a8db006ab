# cython: language_level=3
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from fastlr._c_api.pointer_gradients cimport Fault, PointerGradients
from fastlr._engine.arrays cimport ArrayView
from fastlr._engine.memory cimport Memory
from fastlr._engine.plan cimport Plan
from fastlr._engine.rows cimport RowArrays
from fastlr.c_api cimport (
    fastlr_array, fastlr_plan, fastlr_plan_info, fastlr_step_options, fastlr_tensor,
)

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
    # What is read of the optimizer's plan.
    cdef Plan plan
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
    cdef const char* text(self, str given) except NULL
    cdef const int64_t* numbers(self, given) except NULL
    cdef int add_array(self, const fastlr_tensor* tensor) except -1
    cdef int busy(self) noexcept nogil
    cdef int step_alone(self, const void* const* gradients, const fastlr_step_options* options) noexcept nogil
    cdef int not_finite(self, Py_ssize_t i) noexcept nogil
    cdef int bad_gradient(self, const char* noun, Fault fault, Py_ssize_t k) noexcept nogil
    cdef int no_curvature(self, Py_ssize_t k) noexcept nogil
    cdef int accumulate(self, const void* const* gradients, const fastlr_step_options* options) noexcept with gil
    cdef int step_curvature(self, const void* const* gradients, const void* const* curvature,
                            const fastlr_step_options* options) noexcept with gil
    cdef int read_step(self, str function, const void* const* gradients, const fastlr_step_options* options,
                       fastlr_step_options* read) except -1
    cdef int place_state(self, int64_t k, const char* slot, void* memory, bint take) noexcept with gil
    cdef list arrays_at(self, const void* const* pointers)
    cdef int step_rows_alone(self, Py_ssize_t i, Py_ssize_t n, const int64_t* rows, const void* gradients,
                             bint ends_step, double grad_scale) noexcept nogil
    cdef int failed(self, object error)
    cdef int refresh(self) except -1
    cdef int read_slots(self) except -1
    cdef int read_rows(self) except -1
    cdef int synchronize(self) except -1

    cdef int option(self, int group, const char* name, const char* value) noexcept with gil
    cdef int set_in_python(self, int group, const char* name, object value)
    cdef int number(self, int group, const char* name, double value) noexcept nogil
    cdef int number_with_gil(self, int group, const char* name, double value) noexcept with gil
    cdef int schedule(self, int group, const char* name, PyObject* schedule) noexcept with gil
    cdef int add(self, const fastlr_tensor* tensor) noexcept with gil
    cdef int build(self) noexcept with gil
    cdef int save(self, const char* path) noexcept with gil
    cdef int load(self, const char* path) noexcept with gil

    cdef int step(self, const void* const* gradients, const fastlr_step_options* options) noexcept nogil
    cdef int step_rows(self, int64_t k, int64_t n, const int64_t* rows, const void* gradients, bint ends_step,
                       const fastlr_step_options* options) noexcept nogil
    cdef int read_options(self, const fastlr_step_options* options, fastlr_step_options* read) noexcept nogil
    cdef int evaluate(self) noexcept nogil
    cdef int index(self, const char* name) noexcept nogil
    cdef int bad_value(self, int index, double value, const char* how) noexcept nogil
    cdef int info(self, fastlr_plan_info* info) noexcept nogil
    cdef int value(self, int group, const char* name, double* value) noexcept nogil
    cdef const char* slot_name(self, int64_t k, int64_t j) noexcept nogil
    cdef int state(self, int64_t k, const char* name, fastlr_array* array) noexcept nogil
    cdef int clock(self, int64_t* t, int64_t* skipped_steps) noexcept nogil
    cdef int set_clock(self, int64_t t, const int64_t* skipped_steps) noexcept nogil
