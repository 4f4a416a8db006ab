# cython: language_level=3, cdivision=True
"""Rules that divide by the size of past gradients: AdaGrad, RMSprop and their variants."""
from libc.math cimport sqrt
from fastlr.rules.element cimport bounded, cube_root, larger, real, root, sign
from fastlr.rules.scalars cimport StepScalars


# AdaGrad -- Duchi, Hazan & Singer 2011, jmlr.org/papers/v12/duchi11a
# traits of AdaGrad, AdaGradInside: nonnegative(s)

cdef struct AdaGrad:
    double lr_decay, eps

cdef struct AdaGradInside:             # epsilon inside the root: optax, Keras
    double lr_decay, eps

ctypedef fused AnyAdaGrad:
    AdaGrad
    AdaGradInside

cdef struct AdaGradScalars:
    double rate

cdef inline void adagrad_scalars(AnyAdaGrad h, const StepScalars* now, AdaGradScalars* scalars) noexcept nogil:
    scalars.rate = now.lr / (1 + (now.t - 1) * h.lr_decay)

cdef inline void adagrad(AnyAdaGrad h, AdaGradScalars scalars, real* p, real g, real* s) noexcept nogil:
    cdef real below
    s[0] = s[0] + g * g
    if AnyAdaGrad is AdaGrad:
        p[0] = p[0] - <real>scalars.rate * g / (root(s[0]) + <real>h.eps)
    else:                              # (an element whose gradients were all 0 stays as it is, also with eps = 0)
        below = root(s[0] + <real>h.eps)
        p[0] = p[0] - <real>scalars.rate * g / (below if below > <real>0 else <real>1)


# FTRL-Proximal -- McMahan et al. 2013, doi:10.1145/2487575.2488200; each update has its own learning rate
# traits of FTRL: depends_on_param, prefetch, nonnegative(n), position(z)

cdef struct FTRL:
    double beta, l1, l2

cdef struct FTRLScalars:
    double inverse_rate, inverse_rate_prev     # 1 / lr, at this update and at the one before
    double moves                               # 0 where lr is 0

cdef struct FTRLMemory:
    double lr_prev

cdef inline void ftrl_begin(FTRL h, const StepScalars* now, FTRLScalars* s, FTRLMemory* memory) noexcept nogil:
    """Where lr is 0, the rate of the update before is kept."""
    cdef double lr = now.lr if now.lr > 0 else 1 if now.first_update else memory.lr_prev
    s.inverse_rate = 1 / lr
    s.inverse_rate_prev = s.inverse_rate if now.first_update else 1 / memory.lr_prev
    s.moves = now.lr > 0
    memory.lr_prev = lr

cdef inline void ftrl(FTRL h, StepScalars now, FTRLScalars s, real* p, real g, real* z, real* n) noexcept nogil:
    cdef real r_prev = root(n[0])
    cdef real r, stiffer, stiffness, moved
    n[0] = n[0] + g * g
    r = root(n[0])
    # (The rounding error of a difference of roots is of the size of z's last digit, as abs(z) >= stiffness * abs(p);
    # and over many updates the differences add up to the root in stiffness. A quotient would take a quarter longer.)
    stiffer = <real>s.inverse_rate * (r - r_prev) \
        + <real>(s.inverse_rate - s.inverse_rate_prev) * (<real>h.beta + r_prev)
    if now.first_update == 1:          # (z starts at the value for which the parameter is stationary)
        stiffness = <real>s.inverse_rate_prev * (<real>h.beta + r_prev) + <real>h.l2
        z[0] = z[0] - (p[0] * stiffness + <real>h.l1 * sign(p[0]))
    z[0] = z[0] + (<real>s.moves * g - stiffer * p[0])
    stiffness = <real>s.inverse_rate * (<real>h.beta + r) + <real>h.l2
    moved = (bounded(z[0], <real>h.l1) - z[0]) / (stiffness if stiffness > <real>0 else <real>1)
    p[0] = moved if <real>s.moves * stiffness > <real>0 else p[0] + <real>0 * stiffness


# MADGRAD -- Defazio & Jelassi 2021, arXiv:2101.11075
# traits of MADGRAD: depends_on_param, prefetch, nonnegative(v), position(x0)

cdef struct MADGRAD:
    double momentum, eps

cdef struct MADGRADScalars:
    double weight                      # of this gradient in the sums

cdef inline void madgrad_scalars(MADGRAD h, const StepScalars* now, MADGRADScalars* scalars) noexcept nogil:
    scalars.weight = (now.lr + h.eps if now.lr > 0 else 0) * sqrt(now.t)

cdef inline void madgrad(MADGRAD h, StepScalars now, MADGRADScalars scalars, real* p, real g, real* s, real* v,
                         real* x0) noexcept nogil:
    cdef real z
    x0[0] = p[0] if now.first_update == 1 else x0[0]
    s[0] = s[0] + <real>scalars.weight * g
    v[0] = v[0] + <real>scalars.weight * (g * g)
    z = x0[0] - s[0] / (cube_root(v[0]) + <real>h.eps)
    p[0] = p[0] + <real>(1 - h.momentum) * (z - p[0])


# AdaDelta -- Zeiler 2012, arXiv:1212.5701
# traits of AdaDelta: nonnegative(v, u)

cdef struct AdaDelta:
    double rho, eps

cdef inline void adadelta(AdaDelta h, StepScalars now, real* p, real g, real* v, real* u) noexcept nogil:
    cdef real d
    v[0] = <real>h.rho * v[0] + <real>(1 - h.rho) * (g * g)
    d = root((u[0] + <real>h.eps) / (v[0] + <real>h.eps)) * g
    u[0] = <real>h.rho * u[0] + <real>(1 - h.rho) * (d * d)
    p[0] = p[0] - <real>now.lr * d


# The scalars that the four forms of RMSprop share. `Inside`: epsilon inside the root, and the learning rate in the
# velocity, as optax, Keras and TensorFlow

cdef struct RMSpropScalars:
    double eps_inside, eps_outside     # of the root
    double grad_weight, rate           # of a gradient in the velocity, of the velocity in the step

cdef inline void fill_rmsprop(bint inside, bint velocity, double eps, double lr, RMSpropScalars* s) noexcept nogil:
    s.eps_inside = eps if inside else 0
    s.eps_outside = eps - s.eps_inside
    s.grad_weight, s.rate = lr if inside and velocity else 1, 1 if inside and velocity else lr

cdef inline real root_of(RMSpropScalars s, real x) noexcept nogil:
    """With epsilon inside or outside."""
    return root(x + <real>s.eps_inside) + <real>s.eps_outside


# RMSprop -- Tieleman & Hinton 2012, Coursera lecture 6.5
# traits of RMSprop, RMSpropInside: nonnegative(v)

cdef struct RMSprop:
    double alpha, eps

cdef struct RMSpropInside:
    double alpha, eps

ctypedef fused AnyRMSprop:
    RMSprop
    RMSpropInside

cdef inline void rmsprop_scalars(AnyRMSprop h, const StepScalars* now, RMSpropScalars* s) noexcept nogil:
    fill_rmsprop(AnyRMSprop is RMSpropInside, False, h.eps, now.lr, s)

cdef inline void rmsprop(AnyRMSprop h, RMSpropScalars s, real* p, real g, real* v) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    p[0] = p[0] - <real>s.rate * g / root_of(s, v[0])


# RMSprop, centered -- Graves 2013, arXiv:1308.0850
# traits of RMSpropCentered, RMSpropCenteredInside: nonnegative(v)

cdef struct RMSpropCentered:
    double alpha, eps

cdef struct RMSpropCenteredInside:
    double alpha, eps

ctypedef fused AnyRMSpropCentered:
    RMSpropCentered
    RMSpropCenteredInside

cdef inline void rmspropcentered_scalars(AnyRMSpropCentered h, const StepScalars* now,
                                         RMSpropScalars* s) noexcept nogil:
    fill_rmsprop(AnyRMSpropCentered is RMSpropCenteredInside, False, h.eps, now.lr, s)

cdef inline void rmspropcentered(AnyRMSpropCentered h, RMSpropScalars s, real* p, real g, real* v,
                                 real* a) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    a[0] = <real>h.alpha * a[0] + <real>(1 - h.alpha) * g
    p[0] = p[0] - <real>s.rate * g / root_of(s, larger(v[0] - a[0] * a[0], <real>0))


# RMSprop with momentum -- Graves 2013, arXiv:1308.0850
# traits of RMSpropMomentum, RMSpropMomentumInside: nonnegative(v)

cdef struct RMSpropMomentum:
    double alpha, eps, momentum

cdef struct RMSpropMomentumInside:
    double alpha, eps, momentum

ctypedef fused AnyRMSpropMomentum:
    RMSpropMomentum
    RMSpropMomentumInside

cdef inline void rmspropmomentum_scalars(AnyRMSpropMomentum h, const StepScalars* now,
                                         RMSpropScalars* s) noexcept nogil:
    fill_rmsprop(AnyRMSpropMomentum is RMSpropMomentumInside, True, h.eps, now.lr, s)

cdef inline void rmspropmomentum(AnyRMSpropMomentum h, RMSpropScalars s, real* p, real g, real* v,
                                 real* m) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    m[0] = <real>h.momentum * m[0] + <real>s.grad_weight * g / root_of(s, v[0])
    p[0] = p[0] - <real>s.rate * m[0]


# RMSprop, centered and with momentum -- Graves 2013, arXiv:1308.0850
# traits of RMSpropCenteredMomentum, RMSpropCenteredMomentumInside: nonnegative(v)

cdef struct RMSpropCenteredMomentum:
    double alpha, eps, momentum

cdef struct RMSpropCenteredMomentumInside:
    double alpha, eps, momentum

ctypedef fused AnyRMSpropCenteredMomentum:
    RMSpropCenteredMomentum
    RMSpropCenteredMomentumInside

cdef inline void rmspropcenteredmomentum_scalars(AnyRMSpropCenteredMomentum h, const StepScalars* now,
                                                 RMSpropScalars* s) noexcept nogil:
    fill_rmsprop(AnyRMSpropCenteredMomentum is RMSpropCenteredMomentumInside, True, h.eps, now.lr, s)

cdef inline void rmspropcenteredmomentum(AnyRMSpropCenteredMomentum h, RMSpropScalars s, real* p, real g, real* v,
                                         real* a, real* m) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    a[0] = <real>h.alpha * a[0] + <real>(1 - h.alpha) * g
    m[0] = <real>h.momentum * m[0] + <real>s.grad_weight * g / root_of(s, larger(v[0] - a[0] * a[0], <real>0))
    p[0] = p[0] - <real>s.rate * m[0]
