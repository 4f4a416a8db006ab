# cython: language_level=3
cimport cython
from libc.stdint cimport int64_t
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory
from fastlr._engine.step_scalars cimport ScalarGroups
from fastlr._engine.unit_norms cimport UnitNorms
from fastlr._kernels.structs cimport ChunkSum, StepJob, TaskFunction

cdef inline double smaller(double x, double y) noexcept nogil:
    return y if not x < y else x       # (y if one is NaN)

cdef struct NormRecord:
    # What clip_zscore knows of past norms.
    int64_t count              # of those that its warm-up has seen
    double mean, variance

@cython.final
cdef class Clipping:
    cdef Memory memory
    cdef Layout layout
    cdef object kernels
    cdef TaskFunction measure_task     # found when it is first needed
    cdef readonly double clip_norm, clip_tensor_norm, clip_zscore
    cdef double clip_zscore_alpha
    cdef int64_t clip_zscore_warmup
    cdef str nonfinite                 # what a step does with gradients that are not finite
    cdef bint measures                 # whether some stage needs the gradients' norms
    cdef UnitNorms units               # of adaptive clipping, or None
    cdef ChunkSum* sums                # of each chunk of this step's gradients
    cdef double* squares               # per tensor: what its gradient's squares add up to
    cdef object grad_norm              # of the latest step that measured it
    cdef NormRecord norms
    cdef object grad_norm_before       # ... and these two before the latest step
    cdef NormRecord norms_before

    cdef bint measure(self, StepJob* job, ScalarGroups scalars, int64_t t) except -1
    cdef bint add_up(self, const StepJob* job, ScalarGroups scalars, int64_t t) except -1
    cdef void forget_latest(self) noexcept
    cdef double zscore_limit(self, double norm) noexcept
    cdef int measure_chunks(self, StepJob* job) except -1
    cdef object nonfinite_error(self, str label, int64_t t)
