# cython: language_level=3, cdivision=True
"""Adam and its variants: a running mean of gradients over the root of a running mean of their squares."""
from libc.math cimport exp, expm1l, log, logl, pow, sqrt
from fastlr.rules.element cimport bounded, exp_of_minus, larger, magnitude, real, root, sign, smaller
from fastlr.rules.scalars cimport StepScalars, debias


# The factors that correct both means for their start at zero; `adam_scalars` fills them for every rule that takes
# AdamScalars.

cdef struct AdamScalars:
    double debias1, debias2            # 1 / (1 - beta1**t); the root of 1 / (1 - beta2**t)

cdef inline void adam_scalars(double beta1, double beta2, const StepScalars* now, AdamScalars* s) noexcept nogil:
    s.debias1, s.debias2 = debias(beta1, now.t), sqrt(debias(beta2, now.t))

cdef inline void hat_scalars(double beta1, double beta2, const StepScalars* now, AdamScalars* s) noexcept nogil:
    """The correction of the root moved into the numerator: epsilon is added to the uncorrected root."""
    adam_scalars(beta1, beta2, now, s)
    s.debias1, s.debias2 = s.debias1 / s.debias2, 1


# Adam -- Kingma & Ba 2015, arXiv:1412.6980; `Hat`: epsilon beside the uncorrected root, "epsilon hat" (paper, Keras)
# AdamW -- Loshchilov & Hutter 2019, arXiv:1711.05101: the same function, as decoupled decay is applied before it
# traits of Adam, AdamW: storage_loop, nonnegative(v)
# traits of AdamHat, AdamWHat: nonnegative(v)

cdef struct Adam:
    double beta1, beta2, eps

cdef struct AdamHat:
    double beta1, beta2, eps

cdef struct AdamW:
    double beta1, beta2, eps, weight_decay

cdef struct AdamWHat:
    double beta1, beta2, eps, weight_decay

ctypedef fused AnyAdam:
    Adam
    AdamHat
    AdamW
    AdamWHat

cdef inline void adamhat_scalars(double beta1, double beta2, const StepScalars* now, AdamScalars* s) noexcept nogil:
    hat_scalars(beta1, beta2, now, s)

cdef inline void adamwhat_scalars(double beta1, double beta2, const StepScalars* now, AdamScalars* s) noexcept nogil:
    hat_scalars(beta1, beta2, now, s)

cdef inline real adam_moments(AnyAdam h, real g, real* m, real* v) noexcept nogil:
    """The first half: the moments. Loops over stored elements do it for a whole block before the second half."""
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    return root(v[0])

cdef inline void adam_apply(AnyAdam h, StepScalars now, AdamScalars s, real* p, real m, real root_of_v) noexcept nogil:
    """The second half: the parameter."""
    p[0] = p[0] - <real>(now.lr * s.debias1) * m / (root_of_v * <real>s.debias2 + <real>h.eps)

cdef inline void adam(AnyAdam h, StepScalars now, AdamScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    cdef real root_of_v = adam_moments(h, g, m, v)
    adam_apply(h, now, s, p, m[0], root_of_v)


# AMSGrad -- Reddi, Kale & Kumar 2018, arXiv:1904.09237
# traits of AMSGrad, AMSGradHat, AMSGradCorrected, AMSGradPlain: nonnegative(v, vmax)

cdef struct AMSGrad:
    double beta1, beta2, eps

cdef struct AMSGradHat:                # Keras, as its Adam
    double beta1, beta2, eps

cdef struct AMSGradCorrected:          # the largest of the corrected mean squares: optax
    double beta1, beta2, eps

cdef struct AMSGradPlain:              # nothing is corrected: the paper
    double beta1, beta2, eps

ctypedef fused AnyAMSGrad:
    AMSGrad
    AMSGradHat
    AMSGradCorrected
    AMSGradPlain

cdef struct AMSGradScalars:
    double debias1, debias2, debias_square     # the last: of v, before its largest is taken

cdef inline void amsgrad_scalars(AnyAMSGrad h, const StepScalars* now, AMSGradScalars* s) noexcept nogil:
    s.debias1, s.debias2, s.debias_square = debias(h.beta1, now.t), sqrt(debias(h.beta2, now.t)), 1
    if AnyAMSGrad is AMSGradHat:
        s.debias1, s.debias2 = s.debias1 / s.debias2, 1
    elif AnyAMSGrad is AMSGradCorrected:
        s.debias_square, s.debias2 = debias(h.beta2, now.t), 1
    elif AnyAMSGrad is AMSGradPlain:
        s.debias1, s.debias2 = 1, 1

cdef inline void amsgrad(AnyAMSGrad h, StepScalars now, AMSGradScalars s, real* p, real g, real* m, real* v,
                         real* vmax) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    if AnyAMSGrad is AMSGradCorrected:
        vmax[0] = larger(vmax[0], <real>s.debias_square * v[0])
    else:
        vmax[0] = larger(vmax[0], v[0])
    p[0] = p[0] - <real>(now.lr * s.debias1) * m[0] / (root(vmax[0]) * <real>s.debias2 + <real>h.eps)


# AdaMax -- Kingma & Ba 2015, arXiv:1412.6980, section 7.1
# traits of AdaMax, AdaMaxOutside: nonnegative(u)

cdef struct AdaMax:
    double beta1, beta2, eps

cdef struct AdaMaxOutside:             # epsilon added to the largest, not part of it: Keras
    double beta1, beta2, eps

ctypedef fused AnyAdaMax:
    AdaMax
    AdaMaxOutside

cdef inline void adamax(AnyAdaMax h, StepScalars now, AdamScalars s, real* p, real g, real* m, real* u) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    if AnyAdaMax is AdaMax:
        u[0] = larger(<real>h.beta2 * u[0], magnitude(g) + <real>h.eps)
        p[0] = p[0] - <real>(now.lr * s.debias1) * m[0] / u[0]
    else:
        u[0] = larger(<real>h.beta2 * u[0], magnitude(g))
        p[0] = p[0] - <real>(now.lr * s.debias1) * m[0] / (u[0] + <real>h.eps)


# LaProp -- Ziyin, Wang & Ueda 2020, arXiv:2002.04839
# traits of LaProp: nonnegative(v)

cdef struct LaProp:
    double beta1, beta2, eps

cdef inline void laprop(LaProp h, StepScalars now, AdamScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * (g / (root(v[0]) * <real>s.debias2 + <real>h.eps))
    p[0] = p[0] - <real>(now.lr * s.debias1) * m[0]


# QHAdam -- Ma & Yarats 2019, arXiv:1810.06801
# traits of QHAdam: nonnegative(v)

cdef struct QHAdam:
    double beta1, beta2, nu1, nu2, eps

cdef struct QHAdamScalars:
    double share_m, share_v            # nu1 and nu2 times what corrects m and v

cdef inline void qhadam_scalars(QHAdam h, const StepScalars* now, QHAdamScalars* s) noexcept nogil:
    s.share_m, s.share_v = h.nu1 * debias(h.beta1, now.t), h.nu2 * debias(h.beta2, now.t)

cdef inline void qhadam(QHAdam h, StepScalars now, QHAdamScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    cdef real squares
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    squares = <real>(1 - h.nu2) * (g * g) + <real>s.share_v * v[0]
    p[0] = p[0] - <real>now.lr * (<real>(1 - h.nu1) * g + <real>s.share_m * m[0]) / (root(squares) + <real>h.eps)


# RAdam -- Liu et al. 2020, arXiv:1908.03265; epsilon beside the uncorrected root, as torch
# traits of RAdam, RAdamCorrected: nonnegative(v)

cdef struct RAdam:
    double beta1, beta2, eps

cdef struct RAdamCorrected:            # epsilon beside the corrected root: optax
    double beta1, beta2, eps

ctypedef fused AnyRAdam:
    RAdam
    RAdamCorrected

cdef struct RAdamScalars:
    double rate, rectification, eps    # rectification 0: the variance is not tractable, and nothing divides

cdef inline double rectification(double beta2, double t, double least) noexcept nogil:
    """RAdam's r at update t, the root of a ratio of variances; 0 where the variance is not tractable."""
    # (long double, where the platform has it: the difference loses as many digits as 1 - beta2 has zeros)
    cdef long double endless = 2 / (1 - <long double>beta2) - 1
    cdef long double length = endless - 2 * t / expm1l(-t * logl(beta2))
    if length <= least:
        return 0
    return sqrt(<double>((length - 4) * (length - 2) * endless / ((endless - 4) * (endless - 2) * length)))

cdef inline void radam_scalars(AnyRAdam h, const StepScalars* now, RAdamScalars* s) noexcept nogil:
    cdef double debias2 = sqrt(debias(h.beta2, now.t))
    s.rectification = rectification(h.beta2, now.t, 5)
    s.eps = h.eps if AnyRAdam is RAdam else h.eps / debias2
    s.rate = now.lr * debias(h.beta1, now.t) * (s.rectification / debias2 if s.rectification != 0 else 1)

cdef inline void radam(AnyRAdam h, RAdamScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    p[0] = p[0] - <real>s.rate * m[0] / (root(v[0]) + <real>s.eps if s.rectification != 0 else <real>1)


# NAdam -- Dozat 2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ; mu grows as in torch
# traits of NAdam, NAdamConstant: nonnegative(v)

cdef struct NAdam:
    double beta1, beta2, eps, momentum_decay

cdef struct NAdamConstant:             # mu is beta1 from the start: optax
    double beta1, beta2, eps, momentum_decay

ctypedef fused AnyNAdam:
    NAdam
    NAdamConstant

cdef struct NAdamScalars:
    double rate_g, rate_m, debias2     # step sizes of the gradient and of `m`

cdef struct NAdamMemory:
    double mu_product                  # of all mu up to t

cdef inline void nadam_begin(AnyNAdam h, const StepScalars* now, NAdamScalars* s, NAdamMemory* memory) noexcept nogil:
    cdef double mu = h.beta1, next_mu = h.beta1
    if AnyNAdam is NAdam:
        mu = h.beta1 * (1 - 0.5 * pow(0.96, now.t * h.momentum_decay))
        next_mu = h.beta1 * (1 - 0.5 * pow(0.96, (now.t + 1) * h.momentum_decay))
    memory.mu_product = mu if now.first_update else memory.mu_product * mu
    s.rate_g = now.lr * (1 - mu) / (1 - memory.mu_product)
    s.rate_m = now.lr * next_mu / (1 - memory.mu_product * next_mu)
    s.debias2 = sqrt(debias(h.beta2, now.t))

cdef inline void nadam(AnyNAdam h, NAdamScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    p[0] = p[0] - (<real>s.rate_g * g + <real>s.rate_m * m[0]) / (root(v[0]) * <real>s.debias2 + <real>h.eps)


# Adan -- Xie et al. 2023, arXiv:2208.06677; betas as in the authors' code, which are the paper's 1 - beta
# traits of Adan: depends_on_param, decay_inside_update, nonnegative(n)
# traits of AdanComplement: depends_on_param, nonnegative(n)

cdef struct Adan:
    double beta1, beta2, beta3, eps, weight_decay

cdef struct AdanComplement:            # 1 - beta2 for beta2 as a factor, epsilon inside the root, too: optax
    double beta1, beta2, beta3, eps, weight_decay

ctypedef fused AnyAdan:
    Adan
    AdanComplement

cdef struct AdanScalars:
    double debias1                     # of m
    double difference                  # the factor of g - g_prev
    double share_v, root_n             # the factors of v and of the root of n
    double eps_inside

cdef inline void adan_scalars(AnyAdan h, const StepScalars* now, AdanScalars* s) noexcept nogil:
    s.debias1 = debias(h.beta1, now.t)
    s.difference = h.beta2 if AnyAdan is Adan else 1 - h.beta2
    s.share_v, s.root_n = s.difference * debias(h.beta2, now.t), sqrt(debias(h.beta3, now.t))
    s.eps_inside = 0 if AnyAdan is Adan else h.eps / debias(h.beta3, now.t)

cdef inline void adan(AnyAdan h, StepScalars now, AdanScalars s, real* p, real g, real* m, real* v, real* n,
                      real* g_prev) noexcept nogil:
    cdef real d = <real>(1 - now.first_update) * (g - g_prev[0])
    cdef real u = g + <real>s.difference * d
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * d
    n[0] = <real>h.beta3 * n[0] + <real>(1 - h.beta3) * (u * u)
    g_prev[0] = g
    u = (<real>s.debias1 * m[0] + <real>s.share_v * v[0]) \
        / (root(n[0] + <real>s.eps_inside) * <real>s.root_n + <real>h.eps)
    p[0] = <real>(1 / (1 + now.lr * now.weight_decay)) * (p[0] - <real>now.lr * u)


# AdaBelief -- Zhuang et al. 2020, arXiv:2010.07468
# traits of AdaBelief: nonnegative(s)

cdef struct AdaBelief:
    double beta1, beta2, eps

cdef inline void adabelief(AdaBelief h, StepScalars now, AdamScalars c, real* p, real g, real* m,
                           real* s) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    s[0] = <real>h.beta2 * s[0] + <real>(1 - h.beta2) * ((g - m[0]) * (g - m[0])) + <real>h.eps
    p[0] = p[0] - <real>(now.lr * c.debias1) * m[0] / (root(s[0]) * <real>c.debias2 + <real>h.eps)


# Yogi -- Zaheer et al. 2018, papers.nips.cc/paper/8186; corrected for its start, as optax
# traits of Yogi: nonnegative(v)

cdef struct Yogi:
    double beta1, beta2, eps

cdef inline void yogi(Yogi h, StepScalars now, AdamScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = v[0] - <real>(1 - h.beta2) * (sign(v[0] - g * g) * (g * g))
    p[0] = p[0] - <real>(now.lr * s.debias1) * m[0] / (root(v[0]) * <real>s.debias2 + <real>h.eps)


# Grams -- Cao, Li & Song 2024, arXiv:2412.17107
# traits of Grams: nonnegative(v)

cdef struct Grams:
    double beta1, beta2, eps

cdef inline void grams(Grams h, StepScalars now, AdamScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    p[0] = p[0] - <real>(now.lr * s.debias1) * (magnitude(m[0]) * sign(g)) \
        / (root(v[0]) * <real>s.debias2 + <real>h.eps)


# AdaBound -- Luo, Xiong, Liu & Sun 2019, arXiv:1902.09843; bounds in units of lr
# traits of AdaBound: nonnegative(v)

cdef struct AdaBound:
    double beta1, beta2, final_scale, gamma, eps

cdef struct AdaBoundScalars:
    double rate, lowest, highest       # of an element's rate

cdef inline void adabound_scalars(AdaBound h, const StepScalars* now, AdaBoundScalars* s) noexcept nogil:
    s.rate = now.lr * debias(h.beta1, now.t) / sqrt(debias(h.beta2, now.t))
    s.lowest = now.lr * h.final_scale / (1 + 1 / (h.gamma * now.t))
    s.highest = now.lr * h.final_scale * (1 + 1 / (h.gamma * now.t))

cdef inline void adabound(AdaBound h, AdaBoundScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    cdef real rate
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    rate = <real>s.rate / (root(v[0]) + <real>h.eps)
    p[0] = p[0] - smaller(larger(rate, <real>s.lowest), <real>s.highest) * m[0]


# DiffGrad -- Dubey et al. 2020, arXiv:1909.11015
# traits of DiffGrad: prefetch, nonnegative(v)

cdef struct DiffGrad:
    double beta1, beta2, eps

cdef inline void diffgrad(DiffGrad h, StepScalars now, AdamScalars s, real* p, real g, real* m, real* v,
                          real* g_prev) noexcept nogil:
    cdef real slower = <real>1 + exp_of_minus(magnitude(g_prev[0] - g))         # (the paper's friction is 1 / slower)
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    g_prev[0] = g
    p[0] = p[0] - <real>(now.lr * s.debias1) * m[0] / (slower * (root(v[0]) * <real>s.debias2 + <real>h.eps))


# ADOPT -- Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2, whose update t is here t + 1
# traits of ADOPT, ADOPTWider: nonnegative(v)

cdef struct ADOPT:
    double beta1, beta2, clip_exponent, eps

cdef struct ADOPTWider:                # clipped by the power of t, not of t - 1: pytorch_optimizer
    double beta1, beta2, clip_exponent, eps

ctypedef fused AnyADOPT:
    ADOPT
    ADOPTWider

cdef struct ADOPTScalars:
    double bound                       # of the quotient; 0 at the first update: p stays, and v is the square
    double keep_v, add_v

cdef inline void adopt_scalars(AnyADOPT h, const StepScalars* now, ADOPTScalars* s) noexcept nogil:
    s.bound = pow(now.t - 1 if AnyADOPT is ADOPT else now.t, h.clip_exponent) if now.t > 1 else 0
    s.keep_v, s.add_v = h.beta2 if now.t > 1 else 0, 1 - h.beta2 if now.t > 1 else 1

cdef inline void adopt(AnyADOPT h, StepScalars now, ADOPTScalars s, real* p, real g, real* m, real* v) noexcept nogil:
    cdef real quotient = bounded(g / larger(<real>h.eps, root(v[0])), <real>s.bound)
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * quotient
    v[0] = <real>s.keep_v * v[0] + <real>s.add_v * (g * g)
    p[0] = p[0] - <real>now.lr * m[0]


# AdEMAMix -- Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137
# traits of AdEMAMix: nonnegative(v)

cdef struct AdEMAMix:
    double beta1, beta2, beta3, alpha, alpha_warmup, beta3_warmup, eps

cdef struct AdEMAMixScalars:
    double debias1, debias2, alpha, beta3      # the last two of this step

cdef inline double warmed_beta(double begin, double end, double share) noexcept nogil:
    """The decay whose half-life is interpolated between those of two decays."""
    return exp(1 / ((1 - share) / log(begin) + share / log(end)))

cdef inline void ademamix_scalars(AdEMAMix h, const StepScalars* now, AdEMAMixScalars* s) noexcept nogil:
    s.debias1, s.debias2 = debias(h.beta1, now.t), sqrt(debias(h.beta2, now.t))
    s.alpha = h.alpha * (now.t / h.alpha_warmup if now.t < h.alpha_warmup else 1)
    s.beta3 = warmed_beta(h.beta1, h.beta3, now.t / h.beta3_warmup) if now.t < h.beta3_warmup else h.beta3

cdef inline void ademamix(AdEMAMix h, StepScalars now, AdEMAMixScalars s, real* p, real g, real* m, real* v,
                          real* m2) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    m2[0] = <real>s.beta3 * m2[0] + <real>(1 - s.beta3) * g
    p[0] = p[0] - <real>now.lr * (<real>s.debias1 * m[0] + <real>s.alpha * m2[0]) \
        / (root(v[0]) * <real>s.debias2 + <real>h.eps)


# AdamS, normalised by the mean that it keeps -- Zhang, Wang & Chen 2025, arXiv:2505.16363

cdef struct AdamS:
    double beta1, beta2, eps

cdef inline void adams(AdamS h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    cdef real squares = <real>h.beta2 * (m[0] * m[0]) + <real>(1 - h.beta2) * (g * g)
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    p[0] = p[0] - <real>now.lr * m[0] / (root(squares) + <real>h.eps)
