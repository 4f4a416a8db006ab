# cython: language_level=3
cimport cython
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory
from fastlr._kernels.structs cimport (
    StepJob, TaskFunction, TensorView, UnitFactorFunction, UnitRange, UnitSquaresFunction, UnitSums,
)


@cython.final
cdef class UnitNorms:
    cdef Memory memory
    cdef Layout layout
    cdef TaskFunction task
    cdef UnitFactorFunction scaled_factor
    cdef UnitSquaresFunction scaled_squares
    cdef double clip, eps
    cdef bint alone                    # whether no other stage needs to know what units leave of the gradients
    cdef UnitRange* ranges             # what is measured at a time
    cdef Py_ssize_t range_count
    cdef UnitSums* sums
    cdef double* factors               # of each unit's gradient
    cdef double* squares               # per tensor: the sum of its gradient's squares, clipped,
    cdef int* exponents                # ... times 2**(2 * exponent), 0 unless they would overflow or vanish
    cdef double* nonfinite             # per tensor: 0, or NaN if its gradient is not finite

    cdef int cut(self, int axis) except -1
    cdef bint measured_in_step(self, const TensorView* view) noexcept nogil
    cdef void measure(self, StepJob* job) noexcept nogil
    cdef void measure_alone(self, StepJob* job) noexcept nogil
    cdef int exponent(self) noexcept nogil
    cdef double norm(self) noexcept nogil
