# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._kernels.structs cimport MAX_HYPERS, TaskFunction
from fastlr._engine.step_scalars cimport Decay, StepConstants

cdef enum:
    MOST_HYPERS = MAX_HYPERS + 2      # lr and weight decay, which a rule's own fields may lack

cdef struct RuleCall:
    # A rule and the values it takes: lr, then what else its class has, in the order of `rule._fields`.
    StepConstants terms
    Decay decay
    TaskFunction step_task
    int width
    double[MOST_HYPERS] defaults, low, high    # low <= value < high

cdef int learn(RuleCall* known, object rule) except -1
cdef bint move(const RuleCall* known, const double* values, int64_t t, int is_double, Py_ssize_t size, void* p,
               const void* g, void** slots) noexcept nogil
