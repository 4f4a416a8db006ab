# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._engine.memory cimport Memory, Workspace
from fastlr._kernels.rows cimport RowsJob
from fastlr._kernels.structs cimport ScalarGroup, StepJob, TensorOps
from fastlr._matrix.rule_table cimport MatrixTensor

cdef class MatrixStep:
    cdef object call                       # makes updates in Python
    cdef list given_tensors
    cdef tuple names
    cdef int* groups                       # of parameters: that of each tensor
    cdef Py_ssize_t count
    cdef MatrixTensor* tensors
    cdef Py_ssize_t* order                 # whole tensors, and where each task of them ends
    cdef Py_ssize_t* task_ends
    cdef Py_ssize_t whole_tasks, whole_elements
    cdef Memory memory
    cdef Workspace scratch                 # a large tensor's gradient and parameter, where they must be loaded
    cdef Workspace updates                 # made by Python, of large tensors, until all are made
    cdef Workspace workspaces              # one part for each thread that goes through whole tensors
    cdef bint calls_python                 # whether a step needs the interpreter lock
    cdef const TensorOps* ops
    cdef size_t slot_address(self, tensor, str slot) except? 0
    cdef int lay_out(self, MatrixTensor* tensor, given, rule, dict options, Py_ssize_t i) except -1
    cdef int connect(self, MatrixTensor* tensor, given, rule, dict options, Py_ssize_t i) except -1
    cdef int move(self, StepJob* job, const double* values, int width, const int64_t* skipped_steps,
                  int64_t t) except -1
    cdef bint move_alone(self, StepJob* job, const double* values, int width, const int64_t* skipped_steps,
                         int64_t t) noexcept nogil
    cdef void prepare_rows(self, Py_ssize_t i, RowsJob* job, ScalarGroup* group, const double* values,
                           int64_t t) noexcept nogil
