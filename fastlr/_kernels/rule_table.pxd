# cython: language_level=3, cdivision=True
"""How a rule reaches the engine: a table of function pointers in a capsule named "fastlr.rule".

fastlr's own rules and those of other packages have the same form; `fastlr/build_loops.py` writes the functions. The
struct is append-only: `version` changes when it does, and a table of another version is refused.
"""
from libc.stdint cimport int64_t, uint32_t
from fastlr.rules.scalars cimport StepScalars

cdef enum:
    TABLE_VERSION = 1
    MAX_SUMS = 4               # of a reducing rule

# Contiguous elements are given as pointers to float ([0] of each pair) or double ([1]); hyper: the rule's own struct.
ctypedef void (*ScalarsFunction)(const double* hyper, StepScalars* now) noexcept nogil
ctypedef void (*BeginFunction)(const double* hyper, StepScalars* now, double* memory,
                               const double* shared) noexcept nogil
ctypedef void (*StepFunction)(const double* hyper, const StepScalars* now, void* p, const void* g, void** slots,
                              Py_ssize_t size) noexcept nogil
ctypedef void (*TermsFunction)(const double* hyper, const StepScalars* now, const void* p, const void* g, void** slots,
                               double* totals, Py_ssize_t size) noexcept nogil
ctypedef void (*FinishAllFunction)(const double* hyper, const StepScalars* now, double* shared, const double* totals,
                                   double size) noexcept nogil
ctypedef void (*FinishFunction)(const double* hyper, StepScalars* now, double* memory, const double* shared,
                                const double* totals, double size) noexcept nogil
ctypedef void (*StorageLoop)(const double* hyper, const void* job, const void* view, const void* g, const void* group,
                             Py_ssize_t start, Py_ssize_t size, void* also_typed) noexcept nogil

cdef struct RuleTable:
    uint32_t version, size     # TABLE_VERSION, sizeof(RuleTable)
    ScalarsFunction scalars    # fills the rule's own scalars, once per group and age; NULL: it has none to fill
    BeginFunction begin        # from the numbers kept of a tensor, once per tensor, before any element; or NULL
    StepFunction[2] step       # moves elements
    TermsFunction[2] terms     # of a reducing rule, before that: adds up to TILE elements to the totals; or NULL
    FinishAllFunction finish_all       # what the sums over all tensors decide; or NULL
    FinishFunction finish      # what the sums over a tensor decide; or NULL
    StorageLoop[6] storage_loop        # storage and rule in one loop (storage_loop.pxi); or NULL
    int hypers, slots
    int memories, shared       # numbers kept of a tensor, and of all tensors together
    int sums                   # terms of a reducing rule, or 0
    int updates_state_while_reducing   # whether slots are updated with the terms, and only read in the step
    int decay_inside_update    # whether decoupled weight decay is a term of the step
    # Of doubles, the elements whose squares are summed, those of one sum TILE after those of another; or NULL. Where
    # it is there, `finish` is given the roots of the sums.
    TermsFunction normed
