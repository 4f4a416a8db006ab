# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The scalars of one step: all that does not depend on an element, computed once, in double."""
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from fastlr._kernels.sweep cimport Instant

DECAYS = {"coupled": COUPLED, "decoupled": DECOUPLED, "independent": INDEPENDENT, "corrected": CORRECTED}


cdef void fix(Instant* now, const Terms* terms, const double* values, double factor, Decay decay, double share,
              int64_t t, double grad_scale) noexcept nogil:
    """The scalars of a step, in double; `values` is lr and what else a group has, `share` how much of decay counts."""
    cdef int k
    cdef double lr = values[0] * factor
    cdef double weight_decay = values[terms.decay_at] * share
    for k in range(terms.rule.fields):
        now.hyper[k] = values[terms.hyper_at + k]
    terms.rule.at(now.hyper, lr, t, &now.now)
    now.now.keep, now.now.decay, now.own, now.couple = 1, 0, 0, 0
    if decay == COUPLED:
        now.couple = weight_decay
    elif decay != INDEPENDENT and terms.rule.inner:
        now.now.decay = weight_decay
    elif decay != INDEPENDENT:
        now.own = lr * weight_decay
        now.now.keep = 1 - now.own
    else:
        now.now.keep = 1 - weight_decay
    now.scale = (-1 if terms.maximize else 1) / grad_scale
    now.clip, now.ema = terms.clip, terms.ema
    now.staged = now.scale != 1 or now.clip < INFINITY or now.couple != 0


include "layout.pxi"
