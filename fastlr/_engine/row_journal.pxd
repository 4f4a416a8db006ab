# cython: language_level=3
cimport cython
from libc.stdint cimport int32_t, int64_t, uint64_t
from fastlr._kernels.rows cimport PastUpdate
from fastlr._kernels.rule_table cimport RuleTable
from fastlr._kernels.structs cimport ScalarGroup

cdef struct Fading:
    # What an update does to an element whose gradient is zero and whose slot `fades` is 1: how far it moves it where
    # the other slots are 0, and where they are large; and by what it multiplies that slot, and the others at least.
    double from_zero, from_large
    double own, others


@cython.final
cdef class RowJournal:
    cdef PastUpdate* updates
    cdef Py_ssize_t count, capacity    # of updates
    cdef readonly Py_ssize_t limit     # ... and how many there may be
    cdef int fades                     # the slot with which a move fades, or UNKNOWN_RULE or STAYS
    cdef int64_t moving, scaling, rising           # of all updates: see PastUpdate
    cdef double log_gain, log_decay
    cdef Fading latest                 # of the latest update
    cdef int32_t* done                 # how many of them each row has had; NULL before the first
    cdef Py_ssize_t rows, width
    cdef void* zeros                   # a row of them

    cdef bint reserve(self) noexcept nogil
    cdef void add(self, const RuleTable* rule, bint is_double, const ScalarGroup* group, double clip_factor,
                  uint64_t random_key) noexcept nogil
    cdef void add_fading(self, const RuleTable* rule, bint is_double, PastUpdate* update) noexcept nogil
    cdef void mark(self, const int64_t* row, Py_ssize_t count) noexcept nogil
    cdef void restart(self) noexcept nogil
