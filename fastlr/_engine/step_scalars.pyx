# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The scalars of one step: all that does not depend on an element, computed once, in double."""
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from fastlr._kernels.structs cimport ScalarGroup
from fastlr.rules.scalars cimport step_scalars

DECAYS = {"coupled": COUPLED, "decoupled": DECOUPLED, "independent": INDEPENDENT, "corrected": CORRECTED}


cdef void fill_scalar_group(ScalarGroup* now, const StepConstants* terms, const double* values, double factor, Decay decay, double share,
              int64_t t, double grad_scale) noexcept nogil:
    """The scalars of a step, in double; `values` is lr and what else a group has, `share` how much of decay counts."""
    cdef int k
    cdef double lr = values[0] * factor
    cdef double weight_decay = values[terms.decay_at] * share
    for k in range(terms.rule.hypers):
        now.hyper[k] = values[terms.hyper_at + k]
    now.now = step_scalars(lr, <double>t)
    now.decay_by_lr, now.l2 = 0, 0
    if decay == COUPLED:
        now.l2 = weight_decay
    elif decay != INDEPENDENT and terms.rule.decay_inside_update:
        now.now.weight_decay = weight_decay
    elif decay != INDEPENDENT:
        now.decay_by_lr = lr * weight_decay
        now.now.decay_factor = 1 - now.decay_by_lr
    else:
        now.now.decay_factor = 1 - weight_decay
    if terms.rule.scalars != NULL:
        terms.rule.scalars(now.hyper, &now.now)
    now.grad_factor = (-1 if terms.maximize else 1) / grad_scale
    now.clip_value, now.ema_decay = terms.clip, terms.ema
    now.staged = now.grad_factor != 1 or now.clip_value < INFINITY or now.l2 != 0


include "build_id.pxi"
