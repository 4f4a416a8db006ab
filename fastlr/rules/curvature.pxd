# cython: language_level=3, cdivision=True
"""Rules that divide by estimates of the curvature, which are passed to some steps with the gradients."""
from fastlr.rules.element cimport bounded, larger, real
from fastlr.rules.scalars cimport StepScalars, debias


# Sophia -- Liu et al. 2023, arXiv:2305.14342; the curvature `h` is updated before the step, where an estimate is
# given. `Added` is as the authors' code, `Debiased` corrects m for its start at zero

cdef struct Sophia:
    double beta1, beta2, rho, eps

cdef struct SophiaAdded:
    double beta1, beta2, rho, eps

cdef struct SophiaDebiased:
    double beta1, beta2, rho, eps

ctypedef fused AnySophia:
    Sophia
    SophiaAdded
    SophiaDebiased

cdef struct SophiaScalars:
    double debias1

cdef inline void sophia_scalars(AnySophia hyper, const StepScalars* now, SophiaScalars* s) noexcept nogil:
    s.debias1 = debias(hyper.beta1, now.t) if AnySophia is SophiaDebiased else 1

cdef inline void sophia(AnySophia hyper, StepScalars now, SophiaScalars s, real* p, real g, real* m,
                        real h) noexcept nogil:
    cdef real curvature
    m[0] = <real>hyper.beta1 * m[0] + <real>(1 - hyper.beta1) * g
    if AnySophia is SophiaAdded:
        curvature = <real>hyper.rho * larger(h, <real>0) + <real>hyper.eps
    else:
        curvature = larger(<real>hyper.rho * h, <real>hyper.eps)
    p[0] = p[0] - <real>now.lr * bounded(<real>s.debias1 * m[0] / curvature, <real>1)
