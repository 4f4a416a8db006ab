# cython: language_level=3, cdivision=True
"""Update rules that sum over a tensor before they move it, simplest first.

Such a rule goes twice over a tensor. `<rule>_gauge` sees each element first and gives the terms to be summed; what it
does to the slots stays. `<rule>_settle` then has the sums of the whole tensor and finds the scalars of this instant,
in double; `<rule>_conclude` has those of all tensors together, for what they share. Last, the rule itself moves each
element. Sums are made in doubles, in an order that depends on sizes alone.
"""
from libc.math cimport sqrt
from fastlr.element cimport StepScalars, larger, real, root, sign, smaller


cdef inline double squared(real x) noexcept nogil:
    """As a term of a sum: of floats, exact."""
    return <double>x * <double>x

cdef inline bint agree(real x, real y) noexcept nogil:
    """Whether both go the same way. (Their product would be flushed to zero where both are small.)"""
    return sign(x) * sign(y) > <real>0


# Fromage -- Bernstein et al. 2020, arXiv:2002.03432

cdef struct Fromage:
    double _

cdef inline void fromage_gauge(real p, real g, double* terms) noexcept nogil:
    """The squares of parameter and gradient."""
    terms[0], terms[1] = squared(p), squared(g)

cdef inline void fromage_settle(StepScalars* now, const double* sums) noexcept nogil:
    """A step as long as the learning rate times the tensor; what brings its norm back."""
    now.extra[0] = now.lr * (sqrt(sums[0]) / sqrt(sums[1]) if sums[0] > 0 and sums[1] > 0 else 1)
    now.extra[1] = 1 / sqrt(1 + now.lr * now.lr)

cdef inline void fromage(StepScalars now, real* p, real g) noexcept nogil:
    p[0] = (p[0] - <real>now.extra[0] * g) * <real>now.extra[1]


# LARS -- You, Gitman & Ginsburg 2017, arXiv:1708.03888

cdef struct LARS:
    double momentum, trust_coefficient, eps, weight_decay

cdef inline double trust(double coefficient, double eps, double decay, const double* sums) noexcept nogil:
    """The tensor's own learning rate, from the squares of parameter and gradient; 1 where a norm is 0."""
    cdef double size = sqrt(sums[0]), length = sqrt(sums[1]) + decay * size
    return coefficient * size / (length + eps) if size > 0 and length > 0 else 1

cdef inline void lars_settle(LARS h, StepScalars* now, const double* sums) noexcept nogil:
    now.extra[0] = now.lr * trust(h.trust_coefficient, h.eps, now.decay, sums)

cdef inline void lars(LARS h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>now.extra[0] * (g + <real>now.decay * p[0])
    p[0] = p[0] - m[0]


# LARC, LARS that never goes faster than the learning rate -- as in NVIDIA's apex

cdef struct LARC:
    double momentum, trust_coefficient, eps, weight_decay

cdef inline void larc_settle(LARC h, StepScalars* now, const double* sums) noexcept nogil:
    cdef double own = trust(h.trust_coefficient, h.eps, now.decay, sums)
    now.extra[0] = own / now.lr if own < now.lr else 1

cdef inline void larc(LARC h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>now.extra[0] * (g + <real>now.decay * p[0])
    p[0] = p[0] - <real>now.lr * m[0]


# NovoGrad -- Ginsburg et al. 2019, arXiv:1905.11286

cdef struct NovoGrad:
    double beta1, beta2, eps, weight_decay

cdef inline void novograd_settle(NovoGrad h, StepScalars* now, double* v, const double* sums) noexcept nogil:
    """The tensor's second moment moves; what its gradient is multiplied by."""
    cdef double length
    v[0] = sums[0] if now.first_update else h.beta2 * v[0] + (1 - h.beta2) * sums[0]
    length = sqrt(v[0]) + h.eps
    now.extra[0] = 1 / length if length > 0 else 0

cdef inline void novograd(NovoGrad h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + (<real>now.extra[0] * g + <real>now.decay * p[0])
    p[0] = p[0] - <real>now.lr * m[0]


# Cautious AdamW and Lion -- Liang et al. 2024, arXiv:2411.16085; `Mean` divides by the mean of the mask, as timm

cdef struct CautiousLion:
    double beta1, beta2, weight_decay

cdef struct CautiousLionMean:
    double beta1, beta2, weight_decay

cdef struct CautiousAdamW:
    double beta1, beta2, eps, weight_decay

cdef struct CautiousAdamWMean:
    double beta1, beta2, eps, weight_decay

ctypedef fused OfLion:
    CautiousLion
    CautiousLionMean

ctypedef fused OfAdamW:
    CautiousAdamW
    CautiousAdamWMean

ctypedef fused Cautious:
    CautiousLion
    CautiousLionMean
    CautiousAdamW
    CautiousAdamWMean

cdef inline void cautious_settle(Cautious h, StepScalars* now, const double* sums, double size) noexcept nogil:
    """What makes up for the elements that stay: `sums` counts those that move."""
    cdef double share = sums[0] / size
    if Cautious is CautiousLionMean or Cautious is CautiousAdamWMean:
        now.extra[0] = now.lr / (share if share > 1e-3 else 1e-3)
    else:
        now.extra[0] = now.lr * size / (sums[0] + 1)

cdef inline real lion_way(OfLion h, real g, real m) noexcept nogil:
    return sign(<real>h.beta1 * m + <real>(1 - h.beta1) * g)

cdef inline void cautious_lion_gauge(OfLion h, real g, real m, double* terms) noexcept nogil:
    terms[0] = agree(lion_way(h, g, m), g)

cdef inline void cautious_lion(OfLion h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    cdef real u = lion_way(h, g, m[0])
    p[0] = <real>now.decay_factor * p[0] - (<real>now.extra[0] * u if agree(u, g) else <real>0)
    m[0] = <real>h.beta2 * m[0] + <real>(1 - h.beta2) * g

cdef inline void cautious_adamw_gauge(OfAdamW h, real g, real* m, real* v, double* terms) noexcept nogil:
    """Moments move."""
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    terms[0] = agree(m[0], g)

cdef inline void cautious_adamw(OfAdamW h, StepScalars now, real* p, real g, real m, real v) noexcept nogil:
    cdef real u = <real>(now.extra[0] * now.debias1) * m / (root(v) * <real>now.debias2 + <real>h.eps)
    p[0] = <real>now.decay_factor * p[0] - (u if agree(m, g) else <real>0)


# MARS, with AdamW -- Yuan et al. 2024, arXiv:2411.10438; `FromZero` takes the gradient before the first one for 0

cdef struct MARS:
    double beta1, beta2, gamma, eps, weight_decay

cdef struct MARSFromZero:
    double beta1, beta2, gamma, eps, weight_decay

ctypedef fused OfMARS:
    MARS
    MARSFromZero

cdef inline real mars_corrected(OfMARS h, StepScalars now, real g, real g_before) noexcept nogil:
    cdef double weight = h.gamma * h.beta1 / (1 - h.beta1)
    if OfMARS is MARS:
        weight = weight * (1 - now.first_update)
    return g + <real>weight * (g - g_before)

cdef inline void mars_gauge(OfMARS h, StepScalars now, real g, real g_before, double* terms) noexcept nogil:
    terms[0] = squared(mars_corrected(h, now, g, g_before))

cdef inline void mars_settle(StepScalars* now, const double* sums) noexcept nogil:
    """What brings the corrected gradient to a norm of at most 1."""
    now.extra[0] = 1 / sqrt(sums[0]) if sums[0] > 1 else 1

cdef inline void mars(OfMARS h, StepScalars now, real* p, real g, real* m, real* v, real* g_before) noexcept nogil:
    cdef real c = <real>now.extra[0] * mars_corrected(h, now, g, g_before[0])
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * c
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (c * c)
    g_before[0] = g
    p[0] = <real>now.decay_factor * p[0] - <real>(now.lr * now.debias1) * m[0] / (root(v[0]) * <real>now.debias2 + <real>h.eps)


# StableAdamW -- Wortsman et al. 2023, arXiv:2304.13013

cdef struct StableAdamW:
    double beta1, beta2, eps, weight_decay

cdef inline void stable_adamw_gauge(StableAdamW h, StepScalars now, real g, real* m, real* v, double* terms) noexcept nogil:
    """Moments move; the square of the gradient over its root mean square."""
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    terms[0] = squared(g / larger(root(v[0]) * <real>now.debias2, <real>larger(h.eps, 1e-30)))

cdef inline void stable_adamw_settle(StepScalars* now, const double* sums, double size) noexcept nogil:
    cdef double rms = sqrt(sums[0] / size)
    now.extra[0] = now.lr / rms if rms > 1 else now.lr

cdef inline void stable_adamw(StableAdamW h, StepScalars now, real* p, real m, real v) noexcept nogil:
    p[0] = p[0] - <real>now.extra[0] * (<real>now.decay * p[0]
                                        + <real>now.debias1 * m / (root(v) * <real>now.debias2 + <real>h.eps))


# LAMB -- You et al. 2020, arXiv:1904.00962, with phi the identity

cdef struct LAMB:
    double beta1, beta2, eps, weight_decay

cdef struct LAMBOutside:               # weight decay is no part of r: Keras
    double beta1, beta2, eps, weight_decay

cdef struct LAMBUncorrected:           # r of uncorrected means, its ratio bounded and then corrected: pytorch_optimizer
    double beta1, beta2, eps, weight_decay

ctypedef fused AnyLAMB:
    LAMB
    LAMBOutside
    LAMBUncorrected

cdef inline real lamb_step(AnyLAMB h, StepScalars now, real p, real m, real v) noexcept nogil:
    return <real>now.debias1 * m / (root(v) * <real>now.debias2 + <real>h.eps) + <real>now.decay * p

cdef inline void lamb_gauge(AnyLAMB h, StepScalars now, real p, real g, real* m, real* v, double* terms) noexcept nogil:
    """Moments move; the squares of the parameter and of its step."""
    cdef real r
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    r = lamb_step(h, now, p, m[0], v[0])
    terms[0] = <double>p * <double>p
    terms[1] = <double>r * <double>r

cdef inline void lamb_settle(AnyLAMB h, StepScalars* now, const double* sums) noexcept nogil:
    """The trust ratio; 1 where a norm is 0."""
    cdef double ratio = sqrt(sums[0]) / sqrt(sums[1]) if sums[0] > 0 and sums[1] > 0 else 1
    if AnyLAMB is LAMBUncorrected:
        if sums[0] > 0 and sums[1] > 0:
            ratio = smaller(sqrt(sums[0]), 10) / (sqrt(sums[1]) + h.eps)
        ratio = ratio * now.extra[1]
    now.extra[0] = now.lr * ratio

cdef inline void lamb(AnyLAMB h, StepScalars now, real* p, real m, real v) noexcept nogil:
    p[0] = p[0] - <real>now.extra[0] * lamb_step(h, now, p[0], m, v)
