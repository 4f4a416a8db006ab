# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._kernels.sweep cimport MOST_FIELDS, Run
from fastlr._core.instant cimport Decay, Terms

cdef enum:
    MOST_HYPERS = MOST_FIELDS + 2      # lr and weight decay, which a rule's own fields may lack

cdef struct Known:
    # A rule and the values it takes: lr, then what else its class has, in the order of `rule._fields`.
    Terms terms
    Decay decay
    Run run_chunk
    int width
    double[MOST_HYPERS] defaults, low, high    # low <= value < high

cdef int learn(Known* known, object rule) except -1
cdef bint move(const Known* known, const double* values, int64_t t, int wide, Py_ssize_t size, void* p,
               const void* g, void** slots) noexcept nogil
