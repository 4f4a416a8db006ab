# cython: language_level=3, cdivision=True
"""Update rules that sum over a tensor before they move it, simplest first.

Such a rule goes twice over a tensor. `<rule>_gauge` sees each element first and gives the terms to be summed; what it
does to the slots stays. `<rule>_settle` then has the sums of the whole tensor and finds the scalars of this instant,
in double; `<rule>_conclude` has those of all tensors together, for what they share. Last, the rule itself moves each
element. Sums are made in doubles, in an order that depends on sizes alone.
"""
from libc.math cimport sqrt
from fastlr.element cimport Now, real, root


# LAMB -- You et al. 2020, arXiv:1904.00962, with phi the identity

cdef struct LAMB:
    double beta1, beta2, eps, weight_decay

cdef inline real lamb_step(LAMB h, Now now, real p, real m, real v) noexcept nogil:
    return <real>now.debias1 * m / (root(v) * <real>now.debias2 + <real>h.eps) + <real>now.decay * p

cdef inline void lamb_gauge(LAMB h, Now now, real p, real g, real* m, real* v, double* terms) noexcept nogil:
    """Moments move; the squares of the parameter and of its step."""
    cdef real r
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    r = lamb_step(h, now, p, m[0], v[0])
    terms[0] = <double>p * <double>p
    terms[1] = <double>r * <double>r

cdef inline void lamb_settle(LAMB h, Now* now, const double* sums) noexcept nogil:
    """The trust ratio; 1 where a norm is 0."""
    cdef double ratio = sqrt(sums[0]) / sqrt(sums[1]) if sums[0] > 0 and sums[1] > 0 else 1
    now.extra[0] = now.lr * ratio

cdef inline void lamb(LAMB h, Now now, real* p, real m, real v) noexcept nogil:
    p[0] = p[0] - <real>now.extra[0] * lamb_step(h, now, p[0], m, v)
