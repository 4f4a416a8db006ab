# cython: language_level=3, cdivision=True
"""Adam's moments and update for rules that look at it before they apply it; the moments are those of the rule Adam."""
from fastlr.rules.element cimport real
from fastlr.rules.moments cimport Adam, adam_moments


cdef inline void adam_moments_row(Adam h, const real* restrict g, real* restrict m, real* restrict v,
                                  Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    cdef real mj, vj
    for j in range(n):
        mj, vj = m[j], v[j]
        adam_moments(h, g[j], &mj, &vj)
        m[j], v[j] = mj, vj

cdef inline real adam_update(real m, real root_of_v, real debias1, real debias2, real eps) noexcept nogil:
    """m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps), both corrections being factors"""
    return m * debias1 / (root_of_v * debias2 + eps)

cdef inline void clear_undefined(real* restrict update, const real* restrict v, Py_ssize_t n) noexcept nogil:
    """Without an epsilon: no update where there is no gradient so far, 0 / 0."""
    cdef Py_ssize_t j
    cdef real zero = 0
    for j in range(n):
        update[j] = zero if v[j] == zero else update[j]
