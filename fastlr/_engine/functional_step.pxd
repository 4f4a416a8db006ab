# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._engine.step_scalars cimport MAX_VALUES, Decay, StepConstants
from fastlr._kernels.structs cimport TaskFunction

cdef struct RuleCall:
    # A rule and the values it takes: lr, then what else its class has, in the order of `cls._fields`.
    StepConstants constants
    Decay decay
    TaskFunction step_task
    int width
    double[MAX_VALUES] defaults, low, high     # low <= value < high

cdef int read_rule(RuleCall* call, object cls) except -1
cdef void update_tensor(const RuleCall* call, const double* values, int64_t t, bint is_double, Py_ssize_t size, void* p,
                        const void* g, void** slots) noexcept nogil
