# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._kernels.rows cimport RowsJob
from fastlr._kernels.structs cimport ScalarGroup, StepJob, TaskFunction, TensorOps

cdef struct MatrixLayout

cdef class MatrixStep:
    cdef object routes, call               # per tensor: how its update is made; what makes those of route "call"
    cdef list tensors
    cdef tuple names
    cdef Py_ssize_t count, whole_chunks, whole_elements
    cdef MatrixLayout* matrix_layouts                     # per tensor
    cdef void* chunks                      # of the largest tensor
    cdef Py_ssize_t* order                 # small tensors, then where their chunks end
    cdef Py_ssize_t* ends
    cdef list blocks                       # all other memory
    cdef void* scratch                     # a large tensor's gradient and parameter, where they must be gathered
    cdef size_t scratch_size
    cdef void* updates                     # Muon's, of large matrices, until all are made
    cdef size_t updates_size
    cdef void* rooms                       # what each thread gathers small tensors in
    cdef size_t rooms_size
    cdef const void* kernel_table
    cdef const TensorOps* ops
    cdef int[16] at                        # where hyper-parameters stand in a group's values
    cdef bint added, capped, scaled        # Adafactor: epsilon added to squares; lr capped; times the parameter's RMS
    cdef bint nesterov, uncorrected        # of AdamP, SGDP and Muon; AdamP: epsilon beside sqrt(v) itself
    cdef bint calls                        # whether any tensor does
    cdef bint debiased                     # Muon
    cdef double* turns
    cdef int turn_count
    cdef size_t room(self, Py_ssize_t number, Py_ssize_t size) except? 0
    cdef size_t held(self, tensor, slot) except? 0
    cdef int lay_out(self, MatrixLayout* s, tensor, int route) except -1
    cdef int move(self, StepJob* job, TaskFunction step_task, const double* values, int width, const int64_t* skipped_steps,
                  int64_t t) except -1
    cdef object evened(self, void* context, MatrixLayout* s)
    cdef int aim_rows(self, Py_ssize_t i, RowsJob* job, ScalarGroup* now, const double* values, int64_t t) except -1
    cdef object called(self, void* context, Py_ssize_t i, const double* values, int width)
    cdef int taken(self, MatrixLayout* s, object made, StepJob* job, TaskFunction step_task) except -1
