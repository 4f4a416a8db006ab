# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._kernels.rule_table cimport RuleTable
from fastlr._kernels.structs cimport ScalarGroup

cdef enum Decay:
    COUPLED, DECOUPLED, INDEPENDENT, CORRECTED

cdef struct StepConstants:
    # What holds for all steps and tensors of an optimizer.
    const RuleTable* rule
    int hyper_at               # where the rule's own fields stand among a group's values
    int decay_at               # where weight decay stands
    bint maximize
    double clip                # of each element
    double ema                 # what a step leaves of the running mean of a parameter

cdef void fill_scalar_group(ScalarGroup* now, const StepConstants* terms, const double* values, double factor, Decay decay, double share,
              int64_t t, double grad_scale) noexcept nogil
