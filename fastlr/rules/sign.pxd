# cython: language_level=3, cdivision=True
"""Rules that move every element by the same length, along a sign."""
from fastlr.rules.element cimport real, sign
from fastlr.rules.scalars cimport StepScalars


# SignSGD -- Bernstein et al. 2018, arXiv:1802.04434; with momentum: Signum, and with decoupled decay: Tiger

cdef struct SignSGD:
    double _

cdef inline void signsgd(SignSGD h, StepScalars now, real* p, real g) noexcept nogil:
    p[0] = p[0] - <real>now.lr * sign(g)

cdef struct Signum:
    double momentum

cdef inline void signum(Signum h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>(1 - h.momentum) * g
    p[0] = p[0] - <real>now.lr * sign(m[0])


# Lion -- Chen et al. 2023, arXiv:2302.06675

cdef struct Lion:
    double beta1, beta2

cdef inline void lion(Lion h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    p[0] = p[0] - <real>now.lr * sign(<real>h.beta1 * m[0] + <real>(1 - h.beta1) * g)
    m[0] = <real>h.beta2 * m[0] + <real>(1 - h.beta2) * g
