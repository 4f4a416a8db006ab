# cython: language_level=3, cdivision=True
"""Gradient descent and momentum, one element at a time, simplest first.

A rule is a struct of hyper-parameters and a function of its name in lower case that moves one parameter `p` by one
gradient `g`, with the state of that element (`m`, `v`, ... as in the paper; zero at the start unless said).
Decoupled weight decay was applied before: p <- decay_factor * p. Nothing here depends on arrays, threads or storage;
`fastlr/build_loops.py` writes the loops, `build_rules.py` says what else a rule may have.

Hyper-parameters are double. What does not depend on the element is computed in double and then cast, because `1 - beta`
on a C float is a C double, which would make a whole float32 loop compute in double precision.

Where another library has a different form of a rule, that form is a rule, too, with the same fields and slots; both
share their functions through a `ctypedef fused` type of the two structs.
"""
from libc.math cimport fmax, pow
from fastlr.rules.element cimport larger, magnitude, real, sign, smaller
from fastlr.rules.scalars cimport StepScalars


# SGD -- Robbins & Monro 1951, doi:10.1214/aoms/1177729586

cdef struct SGD:
    double _               # a struct needs a member; SGD has no hyper-parameter beside the learning rate

cdef inline void sgd(SGD h, StepScalars now, real* p, real g) noexcept nogil:
    p[0] = p[0] - <real>now.lr * g


# Momentum, the heavy ball -- Polyak 1964, doi:10.1016/0041-5553(64)90137-5

cdef struct Momentum:
    double momentum, dampening

cdef struct MomentumInside:            # the learning rate in the velocity: Keras
    double momentum, dampening

ctypedef fused AnyMomentum:
    Momentum
    MomentumInside

cdef struct MomentumScalars:
    double grad_weight, rate           # of a gradient in the velocity, of the velocity in the step

cdef inline void momentum_scalars(AnyMomentum h, const StepScalars* now, MomentumScalars* s) noexcept nogil:
    if AnyMomentum is MomentumInside:
        s.grad_weight, s.rate = now.lr, 1
    else:
        s.grad_weight, s.rate = 1, now.lr

cdef inline void momentum(AnyMomentum h, StepScalars now, MomentumScalars s, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>(s.grad_weight * (1 - h.dampening * (1 - now.first_update))) * g
    p[0] = p[0] - <real>s.rate * m[0]


# Nesterov's momentum, in Sutskever's form -- Sutskever et al. 2013, proceedings.mlr.press/v28/sutskever13

cdef struct Nesterov:
    double momentum

cdef struct NesterovInside:            # Keras
    double momentum

ctypedef fused AnyNesterov:
    Nesterov
    NesterovInside

cdef inline void nesterov_scalars(AnyNesterov h, const StepScalars* now, MomentumScalars* s) noexcept nogil:
    if AnyNesterov is NesterovInside:
        s.grad_weight, s.rate = now.lr, 1
    else:
        s.grad_weight, s.rate = 1, now.lr

cdef inline void nesterov(AnyNesterov h, MomentumScalars s, real* p, real g, real* m) noexcept nogil:
    if AnyNesterov is NesterovInside:
        g = <real>s.grad_weight * g
    m[0] = <real>h.momentum * m[0] + g
    p[0] = p[0] - <real>s.rate * (g + <real>h.momentum * m[0])


# QHM, quasi-hyperbolic momentum -- Ma & Yarats 2019, arXiv:1810.06801

cdef struct QHM:
    double momentum, nu

cdef inline void qhm(QHM h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>(1 - h.momentum) * g
    p[0] = p[0] - <real>now.lr * (<real>(1 - h.nu) * g + <real>h.nu * m[0])


# AggMo, aggregated momentum -- Lucas, Sun, Zemel & Grosse 2019, arXiv:1804.00325; three velocities

cdef struct AggMo:
    double beta1, beta2, beta3

cdef inline void aggmo(AggMo h, StepScalars now, real* p, real g, real* m1, real* m2, real* m3) noexcept nogil:
    m1[0] = <real>h.beta1 * m1[0] + g
    m2[0] = <real>h.beta2 * m2[0] + g
    m3[0] = <real>h.beta3 * m3[0] + g
    p[0] = p[0] - <real>(now.lr / 3) * (m1[0] + m2[0] + m3[0])


# ASGD, averaged -- Polyak & Juditsky 1992, doi:10.1137/0330046; its rates and its start as in torch
# traits of ASGD: depends_on_param, position(ax)

cdef struct ASGD:
    double lambd, alpha, t0

cdef struct ASGDScalars:
    double rate, param_factor          # of the gradient; by which lambd multiplies a parameter
    double mean_share                  # the weight of the new parameter in the mean
    double averaging, was_averaging    # 1 where the mean differs from the parameter: after this update, before it

cdef struct ASGDMemory:
    double averaging

cdef inline void asgd_scalars(ASGD h, const StepScalars* now, ASGDScalars* s) noexcept nogil:
    s.rate = now.lr / pow(1 + h.lambd * now.lr * (now.t - 1), h.alpha)
    s.param_factor, s.mean_share = 1 - h.lambd * s.rate, 1 / fmax(1, now.t - 1 - h.t0)

cdef inline void asgd_begin(ASGD h, const StepScalars* now, ASGDScalars* s, ASGDMemory* memory) noexcept nogil:
    """No mean is kept until the update after which the mean differs from the parameter."""
    s.averaging = now.t - h.t0 > 1
    s.was_averaging = memory.averaging if s.averaging == 1 else 0
    memory.averaging = s.averaging

cdef inline bint asgd_skips_state(ASGD h, ASGDScalars s) noexcept nogil:
    return s.averaging == 0

cdef inline void asgd(ASGD h, ASGDScalars s, real* p, real g, real* ax) noexcept nogil:
    cdef real before = ax[0] if s.was_averaging == 1 else p[0]
    p[0] = <real>s.param_factor * p[0] - <real>s.rate * g
    if s.averaging == 1:
        ax[0] = p[0] if s.mean_share == 1 else before + <real>s.mean_share * (p[0] - before)


# Rprop -- Riedmiller & Braun 1993, doi:10.1109/ICNN.1993.298623; without weight backtracking
# traits of Rprop, RpropLate: depends_on_param, nonnegative(s)

cdef struct Rprop:
    double eta_minus, eta_plus, step_min, step_max

cdef inline void rprop(Rprop h, StepScalars now, real* p, real g, real* g_prev, real* s) noexcept nogil:
    cdef real turn = sign(g) * sign(g_prev[0])
    cdef real size = s[0] if now.first_update == 0 else <real>now.lr
    size = size * (<real>h.eta_plus if turn > <real>0 else <real>h.eta_minus if turn < <real>0 else <real>1)
    s[0] = smaller(larger(size, <real>h.step_min), <real>h.step_max)
    g_prev[0] = <real>0 if turn < <real>0 else g
    p[0] = p[0] - s[0] * sign(g_prev[0])

cdef struct RpropLate:                 # each step is applied one update late: optax; g_prev is the next step
    double eta_minus, eta_plus, step_min, step_max

cdef inline void rproplate(RpropLate h, StepScalars now, real* p, real g, real* g_prev, real* s) noexcept nogil:
    cdef real turn = sign(g) * sign(g_prev[0])
    cdef real size = s[0] if now.first_update == 0 else <real>now.lr
    cdef real moved = size * (<real>h.eta_plus if turn > <real>0 else <real>h.eta_minus)
    moved = smaller(larger(moved, <real>h.step_min), <real>h.step_max)
    s[0] = moved if magnitude(turn) > <real>0 else size
    p[0] = p[0] - (<real>0 if turn < <real>0 else g_prev[0])
    g_prev[0] = <real>0 if turn < <real>0 else s[0] * sign(g)
