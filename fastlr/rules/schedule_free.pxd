# cython: language_level=3, cdivision=True
"""Schedule-free rules -- Defazio et al. 2024, arXiv:2405.15682.

The parameter is y, where gradients are taken; the mean x is (y - (1 - beta) z) / beta. Each update has a weight by the
largest learning rate so far.
"""
from libc.math cimport pow, sqrt
from fastlr.rules.element cimport real, root
from fastlr.rules.moments cimport rectification
from fastlr.rules.scalars cimport StepScalars, debias


cdef struct ScheduleFreeScalars:
    double rate, share_z, rate_y       # of z; of z in y; of the gradient in y
    double debias2

cdef struct ScheduleFreeMemory:
    double weight_sum, lr_max, beta    # of all updates; the largest rate; the beta of the latest

cdef inline void average(const StepScalars* now, double lr, double beta, double r, double power,
                         ScheduleFreeScalars* s, ScheduleFreeMemory* memory) noexcept nogil:
    cdef double weight, share, before = beta if now.first_update else memory.beta
    memory.lr_max = lr if now.first_update or lr > memory.lr_max else memory.lr_max
    weight = pow(now.t, r) * pow(memory.lr_max, power) if memory.lr_max > 0 else 0
    memory.weight_sum = weight if now.first_update else memory.weight_sum + weight
    memory.beta = beta
    share = weight / memory.weight_sum if memory.weight_sum > 0 else 0
    # (where beta has changed, x is kept rather than y)
    s.rate = lr
    s.share_z = (1 - beta / before) + beta / before * share
    s.rate_y = lr * ((1 - beta) + beta * share)

cdef inline double warmed(double lr, double t, double steps) noexcept nogil:
    return lr * (t / steps) if t < steps else lr

cdef inline void descend(StepScalars now, ScheduleFreeScalars s, real* y, real g, real* z) noexcept nogil:
    z[0] = y[0] if now.first_update == 1 else z[0]
    y[0] = y[0] + <real>s.share_z * (z[0] - y[0]) - <real>s.rate_y * g
    z[0] = z[0] - <real>s.rate * g

# traits of ScheduleFreeSGD: depends_on_param, decay_inside_update, position(z)
# traits of ScheduleFreeAdamW, ScheduleFreeRAdam: depends_on_param, decay_inside_update, nonnegative(v), position(z)

cdef struct ScheduleFreeSGD:
    double momentum, warmup_steps, r, weight_lr_power, weight_decay

cdef inline void schedulefreesgd_begin(ScheduleFreeSGD h, const StepScalars* now, ScheduleFreeScalars* s,
                                       ScheduleFreeMemory* memory) noexcept nogil:
    average(now, warmed(now.lr, now.t, h.warmup_steps), h.momentum, h.r, h.weight_lr_power, s, memory)

cdef inline void schedulefreesgd(ScheduleFreeSGD h, StepScalars now, ScheduleFreeScalars s, real* p, real g,
                                 real* z) noexcept nogil:
    descend(now, s, p, g + <real>now.weight_decay * p[0], z)

cdef struct ScheduleFreeAdamW:
    double beta1, beta2, eps, warmup_steps, r, weight_lr_power, weight_decay

cdef struct ScheduleFreeRAdam:
    double beta1, beta2, eps, r, weight_lr_power, weight_decay

ctypedef fused AnyScheduleFreeAdam:
    ScheduleFreeAdamW
    ScheduleFreeRAdam

cdef inline void schedulefreeadamw_begin(AnyScheduleFreeAdam h, const StepScalars* now, ScheduleFreeScalars* s,
                                         ScheduleFreeMemory* memory) noexcept nogil:
    s.debias2 = sqrt(debias(h.beta2, now.t))
    if AnyScheduleFreeAdam is ScheduleFreeAdamW:
        average(now, warmed(now.lr, now.t, h.warmup_steps), h.beta1, h.r, h.weight_lr_power, s, memory)
    else:
        average(now, now.lr * rectification(h.beta2, now.t, 4), h.beta1, h.r, h.weight_lr_power, s, memory)

cdef inline void schedulefreeadamw(AnyScheduleFreeAdam h, StepScalars now, ScheduleFreeScalars s, real* p, real g,
                                   real* z, real* v) noexcept nogil:
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    descend(now, s, p, g / (root(v[0]) * <real>s.debias2 + <real>h.eps) + <real>now.weight_decay * p[0], z)
