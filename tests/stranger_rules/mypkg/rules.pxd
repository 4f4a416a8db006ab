# cython: language_level=3, cdivision=True
"""Rules that a package outside fastlr states: of the formulas of Momentum and LARS, so that tests know the bits."""
from libc.math cimport sqrt
from fastlr.rules.element cimport real, square
from fastlr.rules.scalars cimport StepScalars


# Of each element by itself

cdef struct HeavyBall:
    double momentum, dampening

cdef struct HeavyBallScalars:
    double grad_weight                 # of a gradient in the velocity: all of the first, later without what is dampened

cdef inline void heavyball_scalars(HeavyBall h, const StepScalars* now, HeavyBallScalars* s) noexcept nogil:
    s.grad_weight = 1 - h.dampening * (1 - now.first_update)

cdef inline void heavyball(HeavyBall h, StepScalars now, HeavyBallScalars s, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>s.grad_weight * g
    p[0] = p[0] - <real>now.lr * m[0]


# By the norms of a tensor and its gradient
# traits of Layerwise: depends_on_param, decay_inside_update

cdef struct Layerwise:
    double momentum, trust_coefficient, eps, weight_decay

cdef struct LayerwiseTerms:
    double param_squares, grad_squares

cdef struct LayerwiseScalars:
    double rate

cdef inline void layerwise_terms(Layerwise h, real p, real g, LayerwiseTerms* terms) noexcept nogil:
    terms.param_squares, terms.grad_squares = square(p), square(g)

cdef inline void layerwise_finish(Layerwise h, const StepScalars* now, LayerwiseScalars* s,
                                  const LayerwiseTerms* sums) noexcept nogil:
    cdef double size = sqrt(sums.param_squares), length = sqrt(sums.grad_squares) + now.weight_decay * size
    s.rate = now.lr * (h.trust_coefficient * size / (length + h.eps) if size > 0 and length > 0 else 1)

cdef inline void layerwise(Layerwise h, StepScalars now, LayerwiseScalars s, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>s.rate * (g + <real>now.weight_decay * p[0])
    p[0] = p[0] - m[0]
