# cython: language_level=3, cdivision=True
"""Update rules that sum over a tensor before they move it, simplest first.

Such a rule reads a tensor twice. First `<rule>_terms` computes the terms of each element that are summed; where it
takes slots as pointers, they are updated in that pass and only read in the second. Then `<rule>_finish` is given the
sums over the tensor and fills the scalars of this step, in double. Last, the rule itself moves each element. Sums are
doubles, added in an order that depends on sizes alone.

A rule that needs norms gives in `<rule>_normed` the elements whose squares are summed, and is given the norms.
"""
from libc.math cimport sqrt
from fastlr.rules.element cimport larger, real, root, same_sign, sign, smaller, square
from fastlr.rules.scalars cimport StepScalars, debias


# Rules that compare the norms of parameter and gradient: Fromage, LARS, LARC

cdef struct NormTerms:                 # norms
    double param, grad

# Fromage -- Bernstein et al. 2020, arXiv:2002.03432
# traits of Fromage: depends_on_param

cdef struct Fromage:
    double _

# LARS -- You, Gitman & Ginsburg 2017, arXiv:1708.03888
# LARC, LARS whose rate is at most the learning rate -- as in NVIDIA's apex
# traits of LARS, LARC: depends_on_param, decay_inside_update

cdef struct LARS:
    double momentum, trust_coefficient, eps, weight_decay

cdef struct LARC:
    double momentum, trust_coefficient, eps, weight_decay

ctypedef fused ComparesNorms:
    Fromage
    LARS
    LARC

cdef inline void fromage_normed(ComparesNorms h, real p, real g, NormTerms* x) noexcept nogil:
    x.param, x.grad = p, g

cdef struct FromageScalars:
    double rate, factor                # a step of lr times the tensor's norm; keeps the norm

cdef inline void fromage_finish(Fromage h, const StepScalars* now, FromageScalars* s,
                                const NormTerms* norms) noexcept nogil:
    s.rate = now.lr * (norms.param / norms.grad if norms.param > 0 and norms.grad > 0 else 1)
    s.factor = 1 / sqrt(1 + now.lr * now.lr)

cdef inline void fromage(Fromage h, FromageScalars s, real* p, real g) noexcept nogil:
    p[0] = (p[0] - <real>s.rate * g) * <real>s.factor

cdef struct LARSScalars:
    double rate                        # of the gradient in the velocity

cdef inline double trust(double coefficient, double eps, double decay, const NormTerms* norms) noexcept nogil:
    """The tensor's own learning rate; 1 where a norm is 0."""
    cdef double length = norms.grad + decay * norms.param
    return coefficient * norms.param / (length + eps) if norms.param > 0 and length > 0 else 1

cdef inline void lars_finish(LARS h, const StepScalars* now, LARSScalars* s, const NormTerms* norms) noexcept nogil:
    s.rate = now.lr * trust(h.trust_coefficient, h.eps, now.weight_decay, norms)

cdef inline void lars(LARS h, StepScalars now, LARSScalars s, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>s.rate * (g + <real>now.weight_decay * p[0])
    p[0] = p[0] - m[0]

cdef inline void larc_finish(LARC h, const StepScalars* now, LARSScalars* s, const NormTerms* norms) noexcept nogil:
    cdef double own = trust(h.trust_coefficient, h.eps, now.weight_decay, norms)
    s.rate = own / now.lr if own < now.lr else 1

cdef inline void larc(LARC h, StepScalars now, LARSScalars s, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>s.rate * (g + <real>now.weight_decay * p[0])
    p[0] = p[0] - <real>now.lr * m[0]


# NovoGrad -- Ginsburg et al. 2019, arXiv:1905.11286
# traits of NovoGrad: depends_on_param, decay_inside_update

cdef struct NovoGrad:
    double beta1, beta2, eps, weight_decay

cdef struct NovoGradScalars:
    double grad_factor                 # 1 / the root of the tensor's second moment

cdef struct NovoGradMemory:
    double v

cdef struct NovoGradTerms:
    double grad_squares

cdef inline void novograd_terms(NovoGrad h, real g, NovoGradTerms* terms) noexcept nogil:
    terms.grad_squares = square(g)

cdef inline void novograd_finish(NovoGrad h, const StepScalars* now, NovoGradScalars* s, NovoGradMemory* memory,
                                 const NovoGradTerms* sums) noexcept nogil:
    """Update the tensor's second moment."""
    cdef double length
    memory.v = sums.grad_squares if now.first_update else h.beta2 * memory.v + (1 - h.beta2) * sums.grad_squares
    length = sqrt(memory.v) + h.eps
    s.grad_factor = 1 / length if length > 0 else 0

cdef inline void novograd(NovoGrad h, StepScalars now, NovoGradScalars s, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + (<real>s.grad_factor * g + <real>now.weight_decay * p[0])
    p[0] = p[0] - <real>now.lr * m[0]


# Cautious AdamW and Lion -- Liang et al. 2024, arXiv:2411.16085; `Mean` divides by the mean of the mask, as timm
# traits of CautiousLion, CautiousLionMean: depends_on_param
# traits of CautiousAdamW, CautiousAdamWMean: depends_on_param, nonnegative(v)

cdef struct CautiousLion:
    double beta1, beta2, weight_decay

cdef struct CautiousLionMean:
    double beta1, beta2, weight_decay

cdef struct CautiousAdamW:
    double beta1, beta2, eps, weight_decay

cdef struct CautiousAdamWMean:
    double beta1, beta2, eps, weight_decay

ctypedef fused AnyCautiousLion:
    CautiousLion
    CautiousLionMean

ctypedef fused AnyCautiousAdamW:
    CautiousAdamW
    CautiousAdamWMean

ctypedef fused AnyCautious:
    CautiousLion
    CautiousLionMean
    CautiousAdamW
    CautiousAdamWMean

cdef struct CautiousScalars:
    double debias1, debias2, rate

cdef struct CautiousTerms:
    double moved                       # 1 for an element that moves

cdef inline void cautiousadamw_scalars(AnyCautiousAdamW h, const StepScalars* now, CautiousScalars* s) noexcept nogil:
    s.debias1, s.debias2 = debias(h.beta1, now.t), sqrt(debias(h.beta2, now.t))

cdef inline void cautiouslion_finish(AnyCautious h, const StepScalars* now, CautiousScalars* s,
                                     const CautiousTerms* sums, double size) noexcept nogil:
    """What makes up for the elements that stay."""
    cdef double share = sums.moved / size
    if AnyCautious is CautiousLionMean or AnyCautious is CautiousAdamWMean:
        s.rate = now.lr / (share if share > 1e-3 else 1e-3)
    else:
        s.rate = now.lr * size / (sums.moved + 1)

cdef inline real cautious_direction(AnyCautiousLion h, real g, real m) noexcept nogil:
    return sign(<real>h.beta1 * m + <real>(1 - h.beta1) * g)

cdef inline void cautiouslion_terms(AnyCautiousLion h, real g, real m, CautiousTerms* terms) noexcept nogil:
    terms.moved = same_sign(cautious_direction(h, g, m), g)

cdef inline void cautiouslion(AnyCautiousLion h, StepScalars now, CautiousScalars s, real* p, real g,
                              real* m) noexcept nogil:
    cdef real u = cautious_direction(h, g, m[0])
    p[0] = p[0] - (<real>s.rate * u if same_sign(u, g) else <real>0)
    m[0] = <real>h.beta2 * m[0] + <real>(1 - h.beta2) * g

cdef inline void cautiousadamw_terms(AnyCautiousAdamW h, real g, real* m, real* v, CautiousTerms* terms) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    terms.moved = same_sign(m[0], g)

cdef inline void cautiousadamw(AnyCautiousAdamW h, CautiousScalars s, real* p, real g, real m, real v) noexcept nogil:
    cdef real u = <real>(s.rate * s.debias1) * m / (root(v) * <real>s.debias2 + <real>h.eps)
    p[0] = p[0] - (u if same_sign(m, g) else <real>0)


# MARS, with AdamW -- Yuan et al. 2024, arXiv:2411.10438; `FromZero`: the gradient before the first is 0
# traits of MARS, MARSFromZero: depends_on_param, nonnegative(v)

cdef struct MARS:
    double beta1, beta2, gamma, eps, weight_decay

cdef struct MARSFromZero:
    double beta1, beta2, gamma, eps, weight_decay

ctypedef fused AnyMARS:
    MARS
    MARSFromZero

cdef struct MARSScalars:
    double debias1, debias2
    double difference                  # the weight of g - g_prev in the corrected gradient
    double norm_factor                 # by which the corrected gradient has a norm of at most 1

cdef struct MARSTerms:
    double corrected                   # the norm of the corrected gradient

cdef inline void mars_scalars(AnyMARS h, const StepScalars* now, MARSScalars* s) noexcept nogil:
    s.debias1, s.debias2 = debias(h.beta1, now.t), sqrt(debias(h.beta2, now.t))
    s.difference = h.gamma * h.beta1 / (1 - h.beta1)
    if AnyMARS is MARS:
        s.difference = s.difference * (1 - now.first_update)

cdef inline real mars_corrected(MARSScalars s, real g, real g_prev) noexcept nogil:
    return g + <real>s.difference * (g - g_prev)

cdef inline void mars_normed(AnyMARS h, MARSScalars s, real g, real g_prev, MARSTerms* x) noexcept nogil:
    x.corrected = mars_corrected(s, g, g_prev)

cdef inline void mars_finish(AnyMARS h, MARSScalars* s, const MARSTerms* norms) noexcept nogil:
    s.norm_factor = 1 / norms.corrected if norms.corrected > 1 else 1

cdef inline void mars(AnyMARS h, StepScalars now, MARSScalars s, real* p, real g, real* m, real* v,
                      real* g_prev) noexcept nogil:
    cdef real c = <real>s.norm_factor * mars_corrected(s, g, g_prev[0])
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * c
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (c * c)
    g_prev[0] = g
    p[0] = p[0] - <real>(now.lr * s.debias1) * m[0] / (root(v[0]) * <real>s.debias2 + <real>h.eps)


# StableAdamW -- Wortsman et al. 2023, arXiv:2304.13013
# traits of StableAdamW: depends_on_param, decay_inside_update, nonnegative(v)

cdef struct StableAdamW:
    double beta1, beta2, eps, weight_decay

cdef struct StableAdamWScalars:
    double debias1, debias2, rate

cdef struct StableAdamWTerms:
    double ratio_squares               # of the gradient over its root mean square

cdef inline void stableadamw_scalars(StableAdamW h, const StepScalars* now, StableAdamWScalars* s) noexcept nogil:
    s.debias1, s.debias2 = debias(h.beta1, now.t), sqrt(debias(h.beta2, now.t))

cdef inline void stableadamw_terms(StableAdamW h, StableAdamWScalars s, real g, real* m, real* v,
                                   StableAdamWTerms* terms) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    terms.ratio_squares = square(g / larger(root(v[0]) * <real>s.debias2, <real>larger(h.eps, 1e-30)))

cdef inline void stableadamw_finish(StableAdamW h, const StepScalars* now, StableAdamWScalars* s,
                                    const StableAdamWTerms* sums, double size) noexcept nogil:
    cdef double rms = sqrt(sums.ratio_squares / size)
    s.rate = now.lr / rms if rms > 1 else now.lr

cdef inline void stableadamw(StableAdamW h, StepScalars now, StableAdamWScalars s, real* p, real g, real m,
                             real v) noexcept nogil:
    p[0] = p[0] - <real>s.rate * (<real>now.weight_decay * p[0]
                                  + <real>s.debias1 * m / (root(v) * <real>s.debias2 + <real>h.eps))


# LAMB -- You et al. 2020, arXiv:1904.00962, with phi the identity
# traits of LAMB: depends_on_param, decay_inside_update, nonnegative(v)
# traits of LAMBOutside, LAMBUncorrected: depends_on_param, nonnegative(v)

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

cdef struct LAMBScalars:
    double debias1, debias2
    double ratio_factor                # of the trust ratio
    double rate

cdef struct LAMBTerms:                 # norms
    double param, step

cdef inline void lamb_scalars(AnyLAMB h, const StepScalars* now, LAMBScalars* s) noexcept nogil:
    s.debias1, s.debias2, s.ratio_factor = debias(h.beta1, now.t), sqrt(debias(h.beta2, now.t)), 1
    if AnyLAMB is LAMBUncorrected:
        s.ratio_factor, s.debias1, s.debias2 = s.debias1, 1, 1

cdef inline real lamb_step(AnyLAMB h, StepScalars now, LAMBScalars s, real p, real m, real v) noexcept nogil:
    return <real>s.debias1 * m / (root(v) * <real>s.debias2 + <real>h.eps) + <real>now.weight_decay * p

cdef inline void lamb_terms(AnyLAMB h, StepScalars now, LAMBScalars s, real p, real g, real* m, real* v,
                            LAMBTerms* terms) noexcept nogil:
    cdef real r
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    r = lamb_step(h, now, s, p, m[0], v[0])
    terms.param = square(p)
    terms.step = square(r)

cdef inline void lamb_normed(AnyLAMB h, StepScalars now, LAMBScalars s, real p, real m, real v,
                             LAMBTerms* x) noexcept nogil:
    x.param, x.step = p, lamb_step(h, now, s, p, m, v)

cdef inline void lamb_finish(AnyLAMB h, const StepScalars* now, LAMBScalars* s, const LAMBTerms* norms) noexcept nogil:
    """The trust ratio; 1 where a norm is 0."""
    cdef bint both = norms.param > 0 and norms.step > 0
    cdef double ratio = norms.param / norms.step if both else 1
    if AnyLAMB is LAMBUncorrected:
        if both:
            ratio = smaller(norms.param, <double>10) / (norms.step + h.eps)
        ratio = ratio * s.ratio_factor
    s.rate = now.lr * ratio

cdef inline void lamb(AnyLAMB h, StepScalars now, LAMBScalars s, real* p, real g, real m, real v) noexcept nogil:
    p[0] = p[0] - <real>s.rate * lamb_step(h, now, s, p[0], m, v)
