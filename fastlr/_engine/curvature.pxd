# cython: language_level=3
cimport cython
from libc.stdint cimport int64_t, uint64_t
from fastlr._engine.clipping cimport Clipping
from fastlr._engine.gradients cimport Gradients
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory
from fastlr._engine.step_scalars cimport ScalarGroups
from fastlr._kernels.structs cimport ScalarGroup, StepJob, TaskFunction


@cython.final
cdef class Curvature:
    cdef Memory memory
    cdef Layout layout
    cdef ScalarGroups scalars
    cdef Gradients estimates           # of this step
    cdef ScalarGroup* groups           # one for each scalar group of a step
    cdef TaskFunction accumulate_task

    cdef int read(self, list estimates, list gradients, int64_t t) except -1
    cdef void fill_job(self, StepJob* job, const StepJob* step, uint64_t key) noexcept
    cdef bint all_finite(self, const StepJob* step, Clipping clipping, int64_t t) except -1
    cdef int update(self, const StepJob* step, uint64_t key, keeps) except -1
