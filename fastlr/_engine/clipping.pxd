# cython: language_level=3
cimport cython
from libc.stdint cimport int64_t
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory, Workspace
from fastlr._engine.step_scalars cimport ScalarGroups
from fastlr._engine.unit_norms cimport UnitNorms
from fastlr._kernels.structs cimport ChunkSum, ScalarGroup, StepJob, TaskFunction

cdef enum:
    OVERFLOWED = -1
    VANISHED = 1
    FACTOR_EXPONENT = 64

cdef enum Verdict:
    # What measuring gradients decides about a step.
    GOES, SKIPPED, REFUSED, NO_MEMORY

# A smaller factor could count as zero: it is multiplied by 2**FACTOR_EXPONENT, and the scaled gradient divided by it.
cdef inline double smallest_factor() noexcept nogil:
    return 1e-300


cdef inline double not_measured() noexcept nogil:
    return -1

cdef inline double smaller(double x, double y) noexcept nogil:
    return y if not x < y else x       # (y if one is NaN)

cdef inline double clip_factor(double limit, double norm, double scale) noexcept nogil:
    """What clipping to a norm of `limit` multiplies a gradient by, whose norm times `scale` is given."""
    return smaller(1, limit * scale / (norm + 1e-6 * scale))

cdef int lost_squares(double squares, double nonfinite, bint any_double) noexcept nogil
cdef int scale_exponent(int lost, double grad_factor) noexcept nogil
cdef void scale_group(ScalarGroup* group, int exponent) noexcept nogil

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
    cdef str nonfinite                 # what a step does with gradients that are not finite,
    cdef bint skips, refuses           # ... namely one of these, or neither
    cdef Py_ssize_t refused            # the tensor whose gradient was refused
    cdef bint measures                 # whether some stage needs the gradients' norms
    cdef UnitNorms units               # of adaptive clipping, or None
    cdef ChunkSum* sums                # of each chunk of this step's gradients
    cdef double* squares               # per tensor: what its gradient's squares add up to,
    cdef int* exponents                # ... times 2**(2 * exponent), 0 unless they would overflow or vanish
    cdef Workspace scaled              # what a second measurement needs
    cdef bint any_double               # whether some tensor is computed in float64
    cdef double grad_norm              # of the latest step that measured it, or not_measured()
    cdef NormRecord norms
    cdef double grad_norm_before       # ... and these two before the latest step
    cdef NormRecord norms_before

    cdef bint measure(self, StepJob* job, ScalarGroups scalars, int64_t t) except -1
    cdef Verdict judge(self, StepJob* job, ScalarGroups scalars) noexcept nogil
    cdef Verdict add_up(self, const StepJob* job, ScalarGroups scalars) noexcept nogil
    cdef double sum_chunks(self, Py_ssize_t i, Py_ssize_t* k, double* nonfinite) noexcept nogil
    cdef bint measure_again(self, const StepJob* job, ScalarGroups scalars, int lost, int* exponent) noexcept nogil
    cdef void forget_latest(self) noexcept nogil
    cdef double zscore_limit(self, double norm) noexcept nogil
    cdef int find_task(self) except -1
    cdef void measure_chunks(self, StepJob* job) noexcept nogil
    cdef object nonfinite_error(self, str label, int64_t t)
