# cython: language_level=3, cdivision=True
"""Every elementwise update rule, one element at a time, simplest first.

A rule is a struct of hyper-parameters and a function of the same name that moves one parameter `p` by one
gradient `g`, with what it remembers of that element (`m`, `v`, ... as in the paper; all begin at zero unless
said). This room knows nothing of arrays, threads or storage; whoever includes it writes the loop.

    cimport from here:  cdef Now now = at(AdamW(0.9, 0.999, 1e-8, 0.01), lr, t)     # once per step, in double
                        update(h, now, &p, g, &m, &v, NULL, NULL)                    # per element, in `real`

Hyper-parameters are double. What does not depend on the element is computed in double and then cast, because
`1 - beta` on a C float is a C double, which would drag a whole float32 loop into double precision.

Where another library has a rule otherwise, its form is a rule, too, of the same fields and slots (`AdamHat`: Keras'
Adam); both share their functions (of `AnyAdam`), and differ in the scalars that `at` and `recall` find.
"""
from libc.math cimport NAN, exp, expm1, expm1l, fmax, log, logl, pow, sqrt
from libc.stdint cimport int64_t
from fastlr.element cimport (
    MOST_EXTRA, StepScalars, bounded, cube_root, exp_of_minus, larger, magnitude, real, root, sign, smaller,
)
from fastlr.learning_rate_free cimport (
    DAdaptAdaGrad, DAdaptAdam, DAdaptAdamDebiased, DAdaptLion, DAdaptSGD, DoG, DoWG, MoMo, MoMoAdam, PolyakSGD, Prodigy,
    ProdigyDebiased,
    dadapt_adagrad, dadapt_adagrad_conclude, dadapt_adagrad_gauge, dadapt_adagrad_recall, dadapt_adam,
    dadapt_adam_conclude, dadapt_adam_gauge, dadapt_adam_recall, dadapt_lion, dadapt_lion_conclude, dadapt_lion_gauge,
    dadapt_lion_recall, dadapt_sgd, dadapt_sgd_conclude, dadapt_sgd_gauge, dadapt_sgd_recall, dadapt_sgd_settle,
    distance_gauge, distance_recall, distance_settle, distance_step, dog_conclude, dowg_conclude, momo, momo_adam,
    momo_adam_conclude, momo_adam_gauge, momo_conclude, momo_gauge, polyak, polyak_conclude, polyak_gauge,
    polyak_recall, polyak_settle, prodigy, prodigy_conclude, prodigy_gauge, prodigy_recall, prodigy_settle,
)
from fastlr.reducing cimport (
    LAMB, LAMBOutside, LAMBUncorrected, LARC, LARS, MARS, AnyLAMB,
    CautiousAdamW, CautiousAdamWMean, CautiousLion, CautiousLionMean, Fromage, MARSFromZero,
    NovoGrad, StableAdamW,
    cautious_adamw, cautious_adamw_gauge, cautious_lion, cautious_lion_gauge, cautious_settle, fromage, fromage_gauge,
    fromage_settle, lamb, lamb_gauge, lamb_settle, larc, larc_settle, lars, lars_settle, mars, mars_gauge, mars_settle,
    novograd, novograd_settle, squared, stable_adamw, stable_adamw_gauge, stable_adamw_settle,
)


cdef inline double debias(double beta, int64_t t) noexcept nogil:
    """1 / (1 - beta**t), without the cancellation, which at beta = 0.999, t = 2 costs 100 ulp."""
    return -1 / expm1(t * log(beta))


# SGD -- Robbins & Monro 1951, doi:10.1214/aoms/1177729586

cdef struct SGD:
    double _               # a struct needs a member; SGD has no hyper-parameter but the learning rate

cdef inline void sgd(SGD h, StepScalars now, real* p, real g) noexcept nogil:
    p[0] = p[0] - <real>now.lr * g


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


# Momentum, the heavy ball -- Polyak 1964, doi:10.1016/0041-5553(64)90137-5

cdef struct Momentum:
    double momentum, dampening

cdef struct MomentumInside:            # the learning rate in the velocity: Keras
    double momentum, dampening

ctypedef fused AnyMomentum:
    Momentum
    MomentumInside

cdef inline void momentum(AnyMomentum h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>(now.extra[0] * (1 - h.dampening * (1 - now.first_update))) * g
    p[0] = p[0] - <real>now.lr * m[0]


# Nesterov's momentum, in Sutskever's form -- Sutskever et al. 2013, proceedings.mlr.press/v28/sutskever13

cdef struct Nesterov:
    double momentum

cdef struct NesterovInside:            # Keras
    double momentum

ctypedef fused AnyNesterov:
    Nesterov
    NesterovInside

cdef inline void nesterov(AnyNesterov h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    if AnyNesterov is NesterovInside:
        g = <real>now.extra[0] * g
    m[0] = <real>h.momentum * m[0] + g
    p[0] = p[0] - <real>now.lr * (g + <real>h.momentum * m[0])


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

cdef struct ASGD:
    double lambd, alpha, t0

cdef inline void asgd_recall(ASGD h, StepScalars* now, double* averaging) noexcept nogil:
    """While the next update, too, will have the parameter itself for mean, there is none to keep: remembers whether."""
    now.extra[2] = now.t - h.t0 > 1
    now.extra[3] = averaging[0] if now.extra[2] == 1 else 0
    averaging[0] = now.extra[2]

cdef inline void asgd(ASGD h, StepScalars now, real* p, real g, real* ax) noexcept nogil:
    cdef real before = ax[0] if now.extra[3] == 1 else p[0]
    p[0] = <real>now.extra[0] * p[0] - <real>now.lr * g
    if now.extra[2] == 1:
        ax[0] = p[0] if now.extra[1] == 1 else before + <real>now.extra[1] * (p[0] - before)


# Rprop -- Riedmiller & Braun 1993, doi:10.1109/ICNN.1993.298623; without weight backtracking

cdef struct Rprop:
    double eta_minus, eta_plus, step_min, step_max

cdef inline void rprop(Rprop h, StepScalars now, real* p, real g, real* g_prev, real* s) noexcept nogil:
    cdef real turn = sign(g) * sign(g_prev[0])
    cdef real size = s[0] if now.first_update == 0 else <real>now.lr
    size = size * (<real>h.eta_plus if turn > <real>0 else <real>h.eta_minus if turn < <real>0 else <real>1)
    s[0] = smaller(larger(size, <real>h.step_min), <real>h.step_max)
    g_prev[0] = <real>0 if turn < <real>0 else g
    p[0] = p[0] - s[0] * sign(g_prev[0])

cdef struct RpropLate:                 # each step one update late: optax; g_prev is the step to come
    double eta_minus, eta_plus, step_min, step_max

cdef inline void rprop_late(RpropLate h, StepScalars now, real* p, real g, real* g_prev, real* s) noexcept nogil:
    cdef real turn = sign(g) * sign(g_prev[0])
    cdef real size = s[0] if now.first_update == 0 else <real>now.lr
    cdef real moved = size * (<real>h.eta_plus if turn > <real>0 else <real>h.eta_minus)
    moved = smaller(larger(moved, <real>h.step_min), <real>h.step_max)
    s[0] = moved if magnitude(turn) > <real>0 else size
    p[0] = p[0] - (<real>0 if turn < <real>0 else g_prev[0])
    g_prev[0] = <real>0 if turn < <real>0 else s[0] * sign(g)


# AdaGrad -- Duchi, Hazan & Singer 2011, jmlr.org/papers/v12/duchi11a

cdef struct AdaGrad:
    double lr_decay, eps

cdef struct AdaGradInside:             # epsilon inside the root: optax, Keras
    double lr_decay, eps

ctypedef fused AnyAdaGrad:
    AdaGrad
    AdaGradInside

cdef inline void adagrad(AnyAdaGrad h, StepScalars now, real* p, real g, real* s) noexcept nogil:
    cdef real below
    s[0] = s[0] + g * g
    if AnyAdaGrad is AdaGrad:
        p[0] = p[0] - <real>now.lr * g / (root(s[0]) + <real>h.eps)
    else:                              # (what has had no gradient stays, also without an epsilon)
        below = root(s[0] + <real>h.eps)
        p[0] = p[0] - <real>now.lr * g / (below if below > <real>0 else <real>1)


# FTRL-Proximal -- McMahan et al. 2013, doi:10.1145/2487575.2488200; 1 / rate is the one of its own update

cdef struct FTRL:
    double beta, l1, l2

cdef inline void ftrl_recall(FTRL h, StepScalars* now, double* lr_prev) noexcept nogil:
    """1 / lr, at this update and at the one before; no rate at all leaves the one before."""
    cdef double lr = now.lr if now.lr > 0 else 1 if now.first_update else lr_prev[0]
    now.extra[0] = 1 / lr
    now.extra[1] = now.extra[0] if now.first_update else 1 / lr_prev[0]
    now.extra[2] = now.lr > 0
    lr_prev[0] = lr

cdef inline void ftrl(FTRL h, StepScalars now, real* p, real g, real* z, real* n) noexcept nogil:
    cdef real r_prev = root(n[0])
    cdef real r, stiffer, stiffness, moved
    n[0] = n[0] + g * g
    r = root(n[0])
    # (What a difference of roots rounds off is of z's own last digit, as abs(z) >= stiffness * abs(p); and over many
    # updates the differences add up to the root that stiffness takes. A quotient would cost a quarter of the time.)
    stiffer = <real>now.extra[0] * (r - r_prev) + <real>(now.extra[0] - now.extra[1]) * (<real>h.beta + r_prev)
    if now.first_update == 1:                 # (z begins where the parameter stands: there it is at rest)
        stiffness = <real>now.extra[1] * (<real>h.beta + r_prev) + <real>h.l2
        z[0] = z[0] - (p[0] * stiffness + <real>h.l1 * sign(p[0]))
    z[0] = z[0] + (<real>now.extra[2] * g - stiffer * p[0])
    stiffness = <real>now.extra[0] * (<real>h.beta + r) + <real>h.l2
    moved = (bounded(z[0], <real>h.l1) - z[0]) / (stiffness if stiffness > <real>0 else <real>1)
    p[0] = moved if <real>now.extra[2] * stiffness > <real>0 else p[0] + <real>0 * stiffness


# MADGRAD -- Defazio & Jelassi 2021, arXiv:2101.11075

cdef struct MADGRAD:
    double momentum, eps

cdef inline void madgrad(MADGRAD h, StepScalars now, real* p, real g, real* s, real* v, real* x0) noexcept nogil:
    cdef real z
    x0[0] = p[0] if now.first_update == 1 else x0[0]
    s[0] = s[0] + <real>now.extra[0] * g
    v[0] = v[0] + <real>now.extra[0] * (g * g)
    z = x0[0] - s[0] / (cube_root(v[0]) + <real>h.eps)
    p[0] = p[0] + <real>(1 - h.momentum) * (z - p[0])


# AdaDelta -- Zeiler 2012, arXiv:1212.5701

cdef struct AdaDelta:
    double rho, eps

cdef inline void adadelta(AdaDelta h, StepScalars now, real* p, real g, real* v, real* u) noexcept nogil:
    cdef real d
    v[0] = <real>h.rho * v[0] + <real>(1 - h.rho) * (g * g)
    d = root((u[0] + <real>h.eps) / (v[0] + <real>h.eps)) * g
    u[0] = <real>h.rho * u[0] + <real>(1 - h.rho) * (d * d)
    p[0] = p[0] - <real>now.lr * d


# RMSprop -- Tieleman & Hinton 2012, Coursera lecture 6.5; centered and with momentum: Graves 2013, arXiv:1308.0850

# `Inside`: epsilon inside the root, and the learning rate in the velocity, as optax, Keras and TensorFlow

cdef struct RMSprop:
    double alpha, eps

cdef struct RMSpropInside:
    double alpha, eps

ctypedef fused AnyRMSprop:
    RMSprop
    RMSpropInside

cdef inline void rmsprop(AnyRMSprop h, StepScalars now, real* p, real g, real* v) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    p[0] = p[0] - <real>now.lr * g / root_beside(now, v[0])

cdef inline real root_beside(StepScalars now, real x) noexcept nogil:
    """With epsilon inside or outside."""
    return root(x + <real>now.extra[0]) + <real>now.extra[1]

cdef struct RMSpropCentered:
    double alpha, eps

cdef struct RMSpropCenteredInside:
    double alpha, eps

ctypedef fused AnyRMSpropCentered:
    RMSpropCentered
    RMSpropCenteredInside

cdef inline void rmsprop_centered(AnyRMSpropCentered h, StepScalars now, real* p, real g, real* v, real* a) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    a[0] = <real>h.alpha * a[0] + <real>(1 - h.alpha) * g
    p[0] = p[0] - <real>now.lr * g / root_beside(now, larger(v[0] - a[0] * a[0], <real>0))

cdef struct RMSpropMomentum:
    double alpha, eps, momentum

cdef struct RMSpropMomentumInside:
    double alpha, eps, momentum

ctypedef fused AnyRMSpropMomentum:
    RMSpropMomentum
    RMSpropMomentumInside

cdef inline void rmsprop_momentum(AnyRMSpropMomentum h, StepScalars now, real* p, real g, real* v, real* m) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    m[0] = <real>h.momentum * m[0] + <real>now.extra[2] * g / root_beside(now, v[0])
    p[0] = p[0] - <real>now.lr * m[0]

cdef struct RMSpropCenteredMomentum:
    double alpha, eps, momentum

cdef struct RMSpropCenteredMomentumInside:
    double alpha, eps, momentum

ctypedef fused AnyRMSpropCenteredMomentum:
    RMSpropCenteredMomentum
    RMSpropCenteredMomentumInside

ctypedef fused EveryRMSprop:
    RMSprop
    RMSpropInside
    RMSpropCentered
    RMSpropCenteredInside
    RMSpropMomentum
    RMSpropMomentumInside
    RMSpropCenteredMomentum
    RMSpropCenteredMomentumInside

ctypedef fused InsideRoot:
    RMSpropInside
    RMSpropCenteredInside
    RMSpropMomentumInside
    RMSpropCenteredMomentumInside

cdef inline void rmsprop_centered_momentum(AnyRMSpropCenteredMomentum h, StepScalars now, real* p, real g,
                                           real* v, real* a, real* m) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    a[0] = <real>h.alpha * a[0] + <real>(1 - h.alpha) * g
    m[0] = <real>h.momentum * m[0] + <real>now.extra[2] * g / root_beside(now, larger(v[0] - a[0] * a[0], <real>0))
    p[0] = p[0] - <real>now.lr * m[0]


# Adam -- Kingma & Ba 2015, arXiv:1412.6980

cdef struct Adam:
    double beta1, beta2, eps

cdef struct AdamHat:                   # epsilon beside the uncorrected root, "epsilon hat" in the paper: Keras
    double beta1, beta2, eps

ctypedef fused AnyAdam:
    Adam
    AdamHat

cdef inline real adam_moments(AnyAdam h, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    return root(v[0])

cdef inline void adam_move(AnyAdam h, StepScalars now, real* p, real m, real root_of_v) noexcept nogil:
    p[0] = p[0] - <real>(now.lr * now.debias1) * m / (root_of_v * <real>now.debias2 + <real>h.eps)

cdef inline void adam(AnyAdam h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    cdef real root_of_v = adam_moments(h, g, m, v)
    adam_move(h, now, p, m[0], root_of_v)


# AMSGrad -- Reddi, Kale & Kumar 2018, arXiv:1904.09237

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

cdef inline void amsgrad(AnyAMSGrad h, StepScalars now, real* p, real g, real* m, real* v, real* vmax) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    if AnyAMSGrad is AMSGradCorrected:
        vmax[0] = larger(vmax[0], <real>now.extra[0] * v[0])
    else:
        vmax[0] = larger(vmax[0], v[0])
    p[0] = p[0] - <real>(now.lr * now.debias1) * m[0] / (root(vmax[0]) * <real>now.debias2 + <real>h.eps)


# AdamW -- Loshchilov & Hutter 2019, arXiv:1711.05101

cdef struct AdamW:
    double beta1, beta2, eps, weight_decay

cdef struct AdamWHat:                  # Keras, as its Adam
    double beta1, beta2, eps, weight_decay

ctypedef fused AnyAdamW:
    AdamW
    AdamWHat

cdef inline Adam without_decay(AnyAdamW h) noexcept nogil:
    return Adam(h.beta1, h.beta2, h.eps)

cdef inline void adamw_move(AnyAdamW h, StepScalars now, real* p, real m, real root_of_v) noexcept nogil:
    p[0] = <real>now.decay_factor * p[0]
    adam_move(without_decay(h), now, p, m, root_of_v)

cdef inline void adamw(AnyAdamW h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    cdef real root_of_v = adam_moments(without_decay(h), g, m, v)
    adamw_move(h, now, p, m[0], root_of_v)


# AdaMax -- Kingma & Ba 2015, arXiv:1412.6980, section 7.1

cdef struct AdaMax:
    double beta1, beta2, eps

cdef struct AdaMaxOutside:             # epsilon beside the largest, no part of it: Keras
    double beta1, beta2, eps

ctypedef fused AnyAdaMax:
    AdaMax
    AdaMaxOutside

cdef inline void adamax(AnyAdaMax h, StepScalars now, real* p, real g, real* m, real* u) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    if AnyAdaMax is AdaMax:
        u[0] = larger(<real>h.beta2 * u[0], magnitude(g) + <real>h.eps)
        p[0] = p[0] - <real>(now.lr * now.debias1) * m[0] / u[0]
    else:
        u[0] = larger(<real>h.beta2 * u[0], magnitude(g))
        p[0] = p[0] - <real>(now.lr * now.debias1) * m[0] / (u[0] + <real>h.eps)


# LaProp -- Ziyin, Wang & Ueda 2020, arXiv:2002.04839

cdef struct LaProp:
    double beta1, beta2, eps

cdef inline void laprop(LaProp h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * (g / (root(v[0]) * <real>now.debias2 + <real>h.eps))
    p[0] = p[0] - <real>(now.lr * now.debias1) * m[0]


# QHAdam -- Ma & Yarats 2019, arXiv:1810.06801

cdef struct QHAdam:
    double beta1, beta2, nu1, nu2, eps

cdef inline void qhadam(QHAdam h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    cdef real squares
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    squares = <real>(1 - h.nu2) * (g * g) + <real>now.extra[1] * v[0]
    p[0] = p[0] - <real>now.lr * (<real>(1 - h.nu1) * g + <real>now.extra[0] * m[0]) / (root(squares) + <real>h.eps)


# RAdam -- Liu et al. 2020, arXiv:1908.03265; epsilon beside the uncorrected root, as torch

cdef struct RAdam:
    double beta1, beta2, eps

cdef struct RAdamCorrected:            # epsilon beside the corrected root: optax
    double beta1, beta2, eps

ctypedef fused AnyRAdam:
    RAdam
    RAdamCorrected

cdef inline double rectification(double beta2, int64_t t, double least) noexcept nogil:
    """The variance of an adaptive rate at update t against that of one long since started, or 0: not tractable."""
    # (long double, where there is one: the difference loses as many digits as 1 - beta2 has zeros)
    cdef long double endless = 2 / (1 - <long double>beta2) - 1
    cdef long double length = endless - 2 * t / expm1l(-t * logl(beta2))
    if length <= least:
        return 0
    return sqrt(<double>((length - 4) * (length - 2) * endless / ((endless - 4) * (endless - 2) * length)))

cdef inline void radam(AnyRAdam h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    p[0] = p[0] - <real>now.extra[0] * m[0] / (root(v[0]) + <real>now.extra[2] if now.extra[1] != 0 else <real>1)


# NAdam -- Dozat 2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ; mu grows as in torch

cdef struct NAdam:
    double beta1, beta2, eps, momentum_decay

cdef struct NAdamConstant:             # mu is beta1 from the start: optax
    double beta1, beta2, eps, momentum_decay

ctypedef fused AnyNAdam:
    NAdam
    NAdamConstant

cdef inline void nadam_recall(AnyNAdam h, StepScalars* now, double* mu_product) noexcept nogil:
    """The instant's two step sizes, of the gradient and of `m`; remembers the product of all mu up to t."""
    cdef double mu = h.beta1, coming = h.beta1
    if AnyNAdam is NAdam:
        mu = h.beta1 * (1 - 0.5 * pow(0.96, now.t * h.momentum_decay))
        coming = h.beta1 * (1 - 0.5 * pow(0.96, (now.t + 1) * h.momentum_decay))
    mu_product[0] = mu if now.first_update else mu_product[0] * mu
    now.extra[0] = now.lr * (1 - mu) / (1 - mu_product[0])
    now.extra[1] = now.lr * coming / (1 - mu_product[0] * coming)

cdef inline void nadam(AnyNAdam h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    p[0] = p[0] - (<real>now.extra[0] * g + <real>now.extra[1] * m[0]) \
        / (root(v[0]) * <real>now.debias2 + <real>h.eps)


# Adan -- Xie et al. 2023, arXiv:2208.06677; betas as in the authors' code, which are the paper's 1 - beta

cdef struct Adan:
    double beta1, beta2, beta3, eps, weight_decay

cdef struct AdanComplement:            # 1 - beta2 for beta2 as a factor, epsilon inside the root, too: optax
    double beta1, beta2, beta3, eps, weight_decay

ctypedef fused AnyAdan:
    Adan
    AdanComplement

cdef inline void adan(AnyAdan h, StepScalars now, real* p, real g, real* m, real* v, real* n, real* g_before) noexcept nogil:
    cdef real d = <real>(1 - now.first_update) * (g - g_before[0])
    cdef real u = g + <real>now.extra[2] * d
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * d
    n[0] = <real>h.beta3 * n[0] + <real>(1 - h.beta3) * (u * u)
    g_before[0] = g
    u = (<real>now.debias1 * m[0] + <real>now.extra[0] * v[0]) \
        / (root(n[0] + <real>now.extra[3]) * <real>now.extra[1] + <real>h.eps)
    p[0] = <real>(1 / (1 + now.lr * now.decay)) * (p[0] - <real>now.lr * u)


# AdaBelief -- Zhuang et al. 2020, arXiv:2010.07468

cdef struct AdaBelief:
    double beta1, beta2, eps

cdef inline void adabelief(AdaBelief h, StepScalars now, real* p, real g, real* m, real* s) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    s[0] = <real>h.beta2 * s[0] + <real>(1 - h.beta2) * ((g - m[0]) * (g - m[0])) + <real>h.eps
    p[0] = p[0] - <real>(now.lr * now.debias1) * m[0] / (root(s[0]) * <real>now.debias2 + <real>h.eps)


# Yogi -- Zaheer et al. 2018, papers.nips.cc/paper/8186; corrected for its start, as optax

cdef struct Yogi:
    double beta1, beta2, eps

cdef inline void yogi(Yogi h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = v[0] - <real>(1 - h.beta2) * (sign(v[0] - g * g) * (g * g))
    p[0] = p[0] - <real>(now.lr * now.debias1) * m[0] / (root(v[0]) * <real>now.debias2 + <real>h.eps)


# Grams -- Cao, Li & Song 2024, arXiv:2412.17107

cdef struct Grams:
    double beta1, beta2, eps

cdef inline void grams(Grams h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    p[0] = p[0] - <real>(now.lr * now.debias1) * (magnitude(m[0]) * sign(g)) \
        / (root(v[0]) * <real>now.debias2 + <real>h.eps)


# AdaBound -- Luo, Xiong, Liu & Sun 2019, arXiv:1902.09843; bounds in units of lr

cdef struct AdaBound:
    double beta1, beta2, final_scale, gamma, eps

cdef inline void adabound(AdaBound h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    cdef real rate
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    rate = <real>now.extra[0] / (root(v[0]) + <real>h.eps)
    p[0] = p[0] - smaller(larger(rate, <real>now.extra[1]), <real>now.extra[2]) * m[0]


# DiffGrad -- Dubey et al. 2020, arXiv:1909.11015

cdef struct DiffGrad:
    double beta1, beta2, eps

cdef inline void diffgrad(DiffGrad h, StepScalars now, real* p, real g, real* m, real* v, real* g_prev) noexcept nogil:
    cdef real slower = <real>1 + exp_of_minus(magnitude(g_prev[0] - g))         # (the paper's friction is 1 / slower)
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    g_prev[0] = g
    p[0] = p[0] - <real>(now.lr * now.debias1) * m[0] / (slower * (root(v[0]) * <real>now.debias2 + <real>h.eps))


# ADOPT -- Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2, whose update t is here t + 1

cdef struct ADOPT:
    double beta1, beta2, clip_exponent, eps

cdef struct ADOPTWider:                # clipped by the power of t, not of t - 1: pytorch_optimizer
    double beta1, beta2, clip_exponent, eps

ctypedef fused AnyADOPT:
    ADOPT
    ADOPTWider

cdef inline void adopt(AnyADOPT h, StepScalars now, real* p, real g, real* m, real* v) noexcept nogil:
    # (at the first update the bound is 0: nothing moves, and v is the square)
    cdef real step = bounded(g / larger(<real>h.eps, root(v[0])), <real>now.extra[0])
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * step
    v[0] = <real>now.extra[1] * v[0] + <real>now.extra[2] * (g * g)
    p[0] = p[0] - <real>now.lr * m[0]


# Sophia -- Liu et al. 2023, arXiv:2305.14342; the curvature moves where an estimate is given, before the step.
# `Added` is as the authors' code, `Debiased` corrects m for its start

cdef struct Sophia:
    double beta1, beta2, rho, eps

cdef struct SophiaAdded:
    double beta1, beta2, rho, eps

cdef struct SophiaDebiased:
    double beta1, beta2, rho, eps

ctypedef fused OfSophia:
    Sophia
    SophiaAdded
    SophiaDebiased

cdef inline void sophia(OfSophia h, StepScalars now, real* p, real g, real* m, real hess) noexcept nogil:
    cdef real curvature
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    if OfSophia is SophiaAdded:
        curvature = <real>h.rho * larger(hess, <real>0) + <real>h.eps
    else:
        curvature = larger(<real>h.rho * hess, <real>h.eps)
    p[0] = p[0] - <real>now.lr * bounded(<real>now.debias1 * m[0] / curvature, <real>1)


# AdEMAMix -- Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137

cdef struct AdEMAMix:
    double beta1, beta2, beta3, alpha, alpha_warmup, beta3_warmup, eps

cdef inline double grown(double begin, double end, double share) noexcept nogil:
    """The decay between two whose half-life has grown by that share."""
    return exp(1 / ((1 - share) / log(begin) + share / log(end)))

cdef inline void ademamix(AdEMAMix h, StepScalars now, real* p, real g, real* m, real* v, real* m2) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    m2[0] = <real>now.extra[1] * m2[0] + <real>(1 - now.extra[1]) * g
    p[0] = p[0] - <real>now.lr * (<real>now.debias1 * m[0] + <real>now.extra[0] * m2[0]) \
        / (root(v[0]) * <real>now.debias2 + <real>h.eps)


# Schedule-free -- Defazio et al. 2024, arXiv:2405.15682. The parameter is y, where gradients are taken; the mean x is
# (y - (1 - beta) z) / beta. Each weighs by the largest rate so far.

cdef inline void average_recall(StepScalars* now, double lr, double beta, double r, double power,
                                double* memory) noexcept nogil:
    """The instant's shares of z and of the step in y; remembers the sum of weights, the largest rate, and beta."""
    cdef double weight, share, before = beta if now.first_update else memory[2]
    memory[1] = lr if now.first_update or lr > memory[1] else memory[1]
    weight = pow(now.t, r) * pow(memory[1], power) if memory[1] > 0 else 0
    memory[0] = weight if now.first_update else memory[0] + weight
    memory[2] = beta
    share = weight / memory[0] if memory[0] > 0 else 0
    # (where beta has changed, x is kept rather than y)
    now.lr = lr
    now.extra[0] = (1 - beta / before) + beta / before * share
    now.extra[1] = lr * ((1 - beta) + beta * share)

cdef inline double warmed(double lr, double t, double steps) noexcept nogil:
    return lr * (t / steps) if t < steps else lr

cdef inline void descend(StepScalars now, real* y, real g, real* z) noexcept nogil:
    z[0] = y[0] if now.first_update == 1 else z[0]
    y[0] = y[0] + <real>now.extra[0] * (z[0] - y[0]) - <real>now.extra[1] * g
    z[0] = z[0] - <real>now.lr * g

cdef struct ScheduleFreeSGD:
    double momentum, warmup_steps, r, weight_lr_power, weight_decay

cdef inline void schedulefreesgd(ScheduleFreeSGD h, StepScalars now, real* p, real g, real* z) noexcept nogil:
    descend(now, p, g + <real>now.decay * p[0], z)

cdef struct ScheduleFreeAdamW:
    double beta1, beta2, eps, warmup_steps, r, weight_lr_power, weight_decay

cdef inline void schedulefreeadamw(ScheduleFreeAdamW h, StepScalars now, real* p, real g, real* z, real* v) noexcept nogil:
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    descend(now, p, g / (root(v[0]) * <real>now.debias2 + <real>h.eps) + <real>now.decay * p[0], z)

cdef struct ScheduleFreeRAdam:
    double beta1, beta2, eps, r, weight_lr_power, weight_decay

cdef inline void schedulefreeradam(ScheduleFreeRAdam h, StepScalars now, real* p, real g, real* z, real* v) noexcept nogil:
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    descend(now, p, g / (root(v[0]) * <real>now.debias2 + <real>h.eps) + <real>now.decay * p[0], z)


# The roll: a rule is chosen, at compile time, by the type of its hyper-parameters. A new rule is its struct and
# function above (or in reducing.pxd), its name in `Rule` and in what it is, below, and its line in `update`.

ctypedef fused Rule:
    SGD
    SignSGD
    Signum
    Lion
    Momentum
    MomentumInside
    Nesterov
    NesterovInside
    QHM
    AggMo
    ASGD
    Rprop
    RpropLate
    AdaGrad
    AdaGradInside
    FTRL
    MADGRAD
    AdaDelta
    RMSprop
    RMSpropInside
    RMSpropCentered
    RMSpropCenteredInside
    RMSpropMomentum
    RMSpropMomentumInside
    RMSpropCenteredMomentum
    RMSpropCenteredMomentumInside
    Adam
    AdamHat
    AMSGrad
    AMSGradHat
    AMSGradCorrected
    AMSGradPlain
    AdamW
    AdamWHat
    AdaMax
    AdaMaxOutside
    LaProp
    QHAdam
    RAdam
    RAdamCorrected
    NAdam
    NAdamConstant
    Adan
    AdanComplement
    Fromage
    LARS
    LARC
    NovoGrad
    CautiousLion
    CautiousLionMean
    CautiousAdamW
    CautiousAdamWMean
    MARS
    MARSFromZero
    StableAdamW
    AdaBelief
    Yogi
    Grams
    AdaBound
    DiffGrad
    ADOPT
    ADOPTWider
    AdEMAMix
    Sophia
    SophiaAdded
    SophiaDebiased
    ScheduleFreeSGD
    ScheduleFreeAdamW
    ScheduleFreeRAdam
    LAMB
    LAMBOutside
    LAMBUncorrected
    PolyakSGD
    MoMo
    MoMoAdam
    DoG
    DoWG
    DAdaptSGD
    DAdaptAdaGrad
    DAdaptAdam
    DAdaptAdamDebiased
    DAdaptLion
    Prodigy
    ProdigyDebiased

ctypedef fused NoSlot:
    Fromage
    PolyakSGD
    SGD
    SignSGD

ctypedef fused TwoSlots:
    Rprop
    RpropLate
    AdaMax
    AdaMaxOutside
    LaProp
    QHAdam
    RAdam
    RAdamCorrected
    AdaDelta
    RMSpropCentered
    RMSpropCenteredInside
    RMSpropMomentum
    RMSpropMomentumInside
    Adam
    AdamHat
    AdamW
    AdamWHat
    NAdam
    NAdamConstant
    CautiousAdamW
    CautiousAdamWMean
    StableAdamW
    FTRL
    AdaBelief
    Yogi
    Grams
    AdaBound
    ADOPT
    ADOPTWider
    Sophia
    SophiaAdded
    SophiaDebiased
    ScheduleFreeAdamW
    ScheduleFreeRAdam
    LAMB
    LAMBOutside
    LAMBUncorrected
    MoMoAdam
    DAdaptSGD
    DAdaptLion

ctypedef fused ThreeSlots:
    AggMo
    RMSpropCenteredMomentum
    RMSpropCenteredMomentumInside
    MARS
    MARSFromZero
    DAdaptAdaGrad
    DAdaptAdam
    DAdaptAdamDebiased
    AMSGrad
    AMSGradHat
    AMSGradCorrected
    AMSGradPlain
    MADGRAD
    DiffGrad
    AdEMAMix

ctypedef fused FourSlots:
    Adan
    AdanComplement
    Prodigy
    ProdigyDebiased

ctypedef fused Debiased:           # beta1 and beta2 are corrected for their start at zero
    AdaMax
    AdaMaxOutside
    LaProp
    QHAdam
    RAdam
    RAdamCorrected
    Adam
    AdamHat
    AMSGrad
    AMSGradHat
    AMSGradCorrected
    AdamW
    AdamWHat
    NAdam
    NAdamConstant
    CautiousAdamW
    CautiousAdamWMean
    MARS
    MARSFromZero
    StableAdamW
    AdaBelief
    Yogi
    Grams
    AdaBound
    DiffGrad
    AdEMAMix
    SophiaDebiased
    ScheduleFreeAdamW
    ScheduleFreeRAdam
    LAMB
    LAMBOutside
    LAMBUncorrected
    MoMoAdam
    DAdaptAdamDebiased
    ProdigyDebiased

ctypedef fused AppliesDecayFactor:           # multiplies what weight decay leaves itself; for the others `update` does
    CautiousLion
    CautiousLionMean
    CautiousAdamW
    CautiousAdamWMean
    MARS
    MARSFromZero
    AdamW
    AdamWHat

ctypedef fused DecayInsideUpdate:              # decoupled weight decay is a term of the step: now.decay
    Adan
    LARS
    LARC
    NovoGrad
    StableAdamW
    ScheduleFreeSGD
    ScheduleFreeAdamW
    ScheduleFreeRAdam
    LAMB
    MoMo
    MoMoAdam
    DoG
    DoWG
    DAdaptSGD
    DAdaptAdaGrad
    DAdaptAdam
    DAdaptAdamDebiased
    DAdaptLion
    Prodigy
    ProdigyDebiased

ctypedef fused DependsOnParam:             # the step depends on where the parameter stands, not on its gradient alone
    ASGD
    Rprop
    RpropLate
    Adan
    AdanComplement
    Fromage
    LARS
    LARC
    NovoGrad
    CautiousLion
    CautiousLionMean
    CautiousAdamW
    CautiousAdamWMean
    MARS
    MARSFromZero
    StableAdamW
    FTRL
    MADGRAD
    ScheduleFreeSGD
    ScheduleFreeAdamW
    ScheduleFreeRAdam
    LAMB
    LAMBOutside
    LAMBUncorrected
    PolyakSGD
    MoMo
    MoMoAdam
    DoG
    DoWG
    DAdaptSGD
    DAdaptAdaGrad
    DAdaptAdam
    DAdaptAdamDebiased
    DAdaptLion
    Prodigy
    ProdigyDebiased

ctypedef fused MaySkipState:            # leaves its slots as they are at some instants: see `rests`
    ASGD

ctypedef fused Prefetch:               # computes for so long that memory has to be asked early, see tiles.pxi
    FTRL
    MADGRAD
    DiffGrad

ctypedef fused Reducing:           # sums over a tensor before it moves (see reducing.pxd)
    Fromage
    LARS
    LARC
    NovoGrad
    CautiousLion
    CautiousLionMean
    CautiousAdamW
    CautiousAdamWMean
    MARS
    MARSFromZero
    StableAdamW
    LAMB
    LAMBOutside
    LAMBUncorrected
    PolyakSGD
    MoMo
    MoMoAdam
    DoG
    DoWG
    DAdaptSGD
    DAdaptAdaGrad
    DAdaptAdam
    DAdaptAdamDebiased
    DAdaptLion
    Prodigy
    ProdigyDebiased

ctypedef fused UpdatesStateWhileReducing:          # ... in that first pass its slots move, and no more in the second
    CautiousAdamW
    CautiousAdamWMean
    StableAdamW
    LAMB
    LAMBOutside
    LAMBUncorrected
    MoMo
    MoMoAdam
    DoG
    DoWG
    DAdaptAdaGrad
    DAdaptAdam
    DAdaptAdamDebiased
    Prodigy
    ProdigyDebiased


cdef inline void update(Rule h, StepScalars now, real* p, real g, real* a, real* b, real* c, real* d) noexcept nogil:
    """Move one element: what weight decay leaves of it, then the rule. Slots that a rule lacks may be NULL."""
    if not (Rule in AppliesDecayFactor):
        p[0] = <real>now.decay_factor * p[0]
    if Rule is SGD:
        sgd(h, now, p, g)
    elif Rule is SignSGD:
        signsgd(h, now, p, g)
    elif Rule is Signum:
        signum(h, now, p, g, a)
    elif Rule is QHM:
        qhm(h, now, p, g, a)
    elif Rule is AggMo:
        aggmo(h, now, p, g, a, b, c)
    elif Rule is ASGD:
        asgd(h, now, p, g, a)
    elif Rule is Rprop:
        rprop(h, now, p, g, a, b)
    elif Rule is RpropLate:
        rprop_late(h, now, p, g, a, b)
    elif Rule in AnyAdaMax:
        adamax(h, now, p, g, a, b)
    elif Rule is LaProp:
        laprop(h, now, p, g, a, b)
    elif Rule is QHAdam:
        qhadam(h, now, p, g, a, b)
    elif Rule in AnyRAdam:
        radam(h, now, p, g, a, b)
    elif Rule in AnyMomentum:
        momentum(h, now, p, g, a)
    elif Rule in AnyNesterov:
        nesterov(h, now, p, g, a)
    elif Rule in AnyAdaGrad:
        adagrad(h, now, p, g, a)
    elif Rule is AdaDelta:
        adadelta(h, now, p, g, a, b)
    elif Rule in AnyRMSprop:
        rmsprop(h, now, p, g, a)
    elif Rule in AnyRMSpropCentered:
        rmsprop_centered(h, now, p, g, a, b)
    elif Rule in AnyRMSpropMomentum:
        rmsprop_momentum(h, now, p, g, a, b)
    elif Rule in AnyRMSpropCenteredMomentum:
        rmsprop_centered_momentum(h, now, p, g, a, b, c)
    elif Rule in AnyAdam:
        adam(h, now, p, g, a, b)
    elif Rule in AnyAMSGrad:
        amsgrad(h, now, p, g, a, b, c)
    elif Rule in AnyAdamW:
        adamw(h, now, p, g, a, b)
    elif Rule in AnyNAdam:
        nadam(h, now, p, g, a, b)
    elif Rule in AnyAdan:
        adan(h, now, p, g, a, b, c, d)
    elif Rule is Fromage:
        fromage(now, p, g)
    elif Rule is LARS:
        lars(h, now, p, g, a)
    elif Rule is LARC:
        larc(h, now, p, g, a)
    elif Rule is NovoGrad:
        novograd(h, now, p, g, a)
    elif Rule is CautiousLion or Rule is CautiousLionMean:
        cautious_lion(h, now, p, g, a)
    elif Rule is CautiousAdamW or Rule is CautiousAdamWMean:
        cautious_adamw(h, now, p, g, a[0], b[0])
    elif Rule is MARS or Rule is MARSFromZero:
        mars(h, now, p, g, a, b, c)
    elif Rule is StableAdamW:
        stable_adamw(h, now, p, a[0], b[0])
    elif Rule is Lion:
        lion(h, now, p, g, a)
    elif Rule is FTRL:
        ftrl(h, now, p, g, a, b)
    elif Rule is MADGRAD:
        madgrad(h, now, p, g, a, b, c)
    elif Rule is AdaBelief:
        adabelief(h, now, p, g, a, b)
    elif Rule is Yogi:
        yogi(h, now, p, g, a, b)
    elif Rule is Grams:
        grams(h, now, p, g, a, b)
    elif Rule is AdaBound:
        adabound(h, now, p, g, a, b)
    elif Rule is DiffGrad:
        diffgrad(h, now, p, g, a, b, c)
    elif Rule in AnyADOPT:
        adopt(h, now, p, g, a, b)
    elif Rule is Sophia or Rule is SophiaAdded or Rule is SophiaDebiased:
        sophia(h, now, p, g, a, b[0])
    elif Rule is AdEMAMix:
        ademamix(h, now, p, g, a, b, c)
    elif Rule is ScheduleFreeSGD:
        schedulefreesgd(h, now, p, g, a)
    elif Rule is ScheduleFreeAdamW:
        schedulefreeadamw(h, now, p, g, a, b)
    elif Rule is ScheduleFreeRAdam:
        schedulefreeradam(h, now, p, g, a, b)
    elif Rule in AnyLAMB:
        lamb(h, now, p, a[0], b[0])
    elif Rule is PolyakSGD:
        polyak(now, p, g)
    elif Rule is MoMo:
        momo(now, p, a[0])
    elif Rule is MoMoAdam:
        momo_adam(h, now, p, a[0], b[0])
    elif Rule is DoG or Rule is DoWG:
        distance_step(now, p, g)
    elif Rule is DAdaptSGD:
        dadapt_sgd(h, now, p, g, a, b)
    elif Rule is DAdaptAdaGrad:
        dadapt_adagrad(h, p, a[0], b[0], c[0])
    elif Rule is DAdaptAdam or Rule is DAdaptAdamDebiased:
        dadapt_adam(h, now, p, a[0], b[0])
    elif Rule is DAdaptLion:
        dadapt_lion(h, now, p, g, a, b)
    elif Rule is Prodigy or Rule is ProdigyDebiased:
        prodigy(h, now, p, a[0], b[0])
    else:
        update_has_no_branch_for(h)


cdef inline bint skips_state(Rule h, StepScalars now) noexcept nogil:
    """Whether an update neither reads nor writes any slot."""
    if Rule is ASGD:
        return now.extra[2] == 0
    else:
        return False


cdef inline int slots(Rule h) noexcept nogil:
    """How many numbers the rule remembers of an element."""
    if Rule in NoSlot:
        return 0
    elif Rule in FourSlots:
        return 4
    elif Rule in ThreeSlots:
        return 3
    elif Rule in TwoSlots:
        return 2
    else:
        return 1


cdef inline StepScalars at(Rule h, double lr, int64_t t) noexcept nogil:
    """The instant of update t = 1, 2, ...: all that a step computes once, in double."""
    cdef StepScalars now
    cdef int k
    now.t, now.lr, now.decay_factor, now.decay, now.first_update, now.debias1, now.debias2, now.loss = t, lr, 1, 0, t == 1, 1, 1, NAN
    now.max_lr = lr
    for k in range(MOST_EXTRA):
        now.extra[k] = 0
    if Rule in Debiased:
        now.debias1, now.debias2 = debias(h.beta1, t), sqrt(debias(h.beta2, t))
    if Rule is AdamHat or Rule is AdamWHat or Rule is AMSGradHat:
        # (what corrects the root, above the line)
        now.debias1, now.debias2 = now.debias1 / now.debias2, 1
    if Rule is AMSGradCorrected:
        now.extra[0], now.debias2 = debias(h.beta2, t), 1
    if Rule in AnyAdan:
        now.debias1 = debias(h.beta1, t)
        now.extra[2] = h.beta2 if Rule is Adan else 1 - h.beta2
        now.extra[0], now.extra[1] = now.extra[2] * debias(h.beta2, t), sqrt(debias(h.beta3, t))
        now.extra[3] = 0 if Rule is Adan else h.eps / debias(h.beta3, t)
    if Rule in AnyMomentum or Rule in AnyNesterov:
        now.extra[0] = 1
    if Rule in EveryRMSprop:
        now.extra[0] = h.eps if Rule in InsideRoot else 0
        now.extra[1], now.extra[2] = h.eps - now.extra[0], 1
    if Rule is RMSpropMomentumInside or Rule is RMSpropCenteredMomentumInside:
        now.extra[2], now.lr = lr, 1
    if Rule is MomentumInside or Rule is NesterovInside:
        now.extra[0], now.lr = lr, 1
    if Rule is LAMBUncorrected:
        now.extra[1], now.debias1, now.debias2 = now.debias1, 1, 1
    if Rule is QHAdam:
        now.extra[0], now.extra[1] = h.nu1 * now.debias1, h.nu2 * debias(h.beta2, t)
    if Rule in AnyRAdam:
        now.extra[1] = rectification(h.beta2, t, 5)
        now.extra[2] = h.eps if Rule is RAdam else h.eps / now.debias2
        now.extra[0] = lr * now.debias1 * (now.extra[1] / now.debias2 if now.extra[1] != 0 else 1)
    if Rule is ASGD:
        now.lr = lr / pow(1 + h.lambd * lr * (t - 1), h.alpha)
        now.extra[0], now.extra[1] = 1 - h.lambd * now.lr, 1 / fmax(1, t - 1 - h.t0)
    if Rule is MADGRAD:
        now.extra[0] = (lr + h.eps if lr > 0 else 0) * sqrt(t)
    if Rule is AdaBound:
        now.extra[0] = lr * now.debias1 / now.debias2
        now.extra[1] = lr * h.final_scale / (1 + 1 / (h.gamma * t))
        now.extra[2] = lr * h.final_scale * (1 + 1 / (h.gamma * t))
    if Rule in AnyADOPT:
        now.extra[0] = pow(t - 1 if Rule is ADOPT else t, h.clip_exponent) if t > 1 else 0
        now.extra[1], now.extra[2] = h.beta2 if t > 1 else 0, 1 - h.beta2 if t > 1 else 1
    if Rule is AdEMAMix:
        now.extra[0] = h.alpha * (t / h.alpha_warmup if t < h.alpha_warmup else 1)
        now.extra[1] = grown(h.beta1, h.beta3, t / h.beta3_warmup) if t < h.beta3_warmup else h.beta3
    if Rule in AnyAdaGrad:
        now.lr = lr / (1 + (t - 1) * h.lr_decay)
    if Rule in AppliesDecayFactor or Rule is AdanComplement or Rule is LAMBOutside or Rule is LAMBUncorrected:
        now.decay_factor = 1 - lr * h.weight_decay
    if Rule in DecayInsideUpdate:
        now.decay = h.weight_decay
    return now


# What a rule remembers of a tensor beside its slots, and of all tensors together (`shared`): doubles that begin at 0
# unless the class says otherwise.

cdef inline int tensor_scalars(Rule h) noexcept nogil:
    """How many numbers of each tensor."""
    if Rule in AnyNAdam or Rule is NovoGrad or Rule is FTRL or Rule is ASGD:
        return 1
    elif Rule is ScheduleFreeSGD or Rule is ScheduleFreeAdamW or Rule is ScheduleFreeRAdam:
        return 3
    else:
        return 0

cdef inline int shared_scalars(Rule h) noexcept nogil:
    """How many numbers for all tensors."""
    if Rule is MoMo or Rule is MoMoAdam or Rule is DAdaptAdaGrad:
        return 4
    elif Rule is DoG or Rule is DoWG or Rule is DAdaptSGD:
        return 3
    elif Rule is PolyakSGD:
        return 1
    elif Rule is DAdaptAdam or Rule is DAdaptAdamDebiased or Rule is DAdaptLion or Rule is Prodigy \
            or Rule is ProdigyDebiased:
        return 2
    else:
        return 0

cdef inline void begin_step(Rule h, StepScalars* now, double* memory, const double* shared) noexcept nogil:
    """What an instant takes from those before it, ahead of any element."""
    cdef double rectified
    if Rule in AnyNAdam:
        nadam_recall(h, now, memory)
    elif Rule is PolyakSGD or Rule is MoMo or Rule is MoMoAdam:
        polyak_recall(now)
    elif Rule is DoG or Rule is DoWG:
        distance_recall(now)
    elif Rule is DAdaptSGD:
        dadapt_sgd_recall(h, now, shared)
    elif Rule is DAdaptAdaGrad:
        dadapt_adagrad_recall(h, now, shared)
    elif Rule is DAdaptAdam or Rule is DAdaptAdamDebiased:
        dadapt_adam_recall(h, now, shared)
    elif Rule is DAdaptLion:
        dadapt_lion_recall(h, now, shared)
    elif Rule is Prodigy or Rule is ProdigyDebiased:
        prodigy_recall(h, now, shared)
    elif Rule is FTRL:
        ftrl_recall(h, now, memory)
    elif Rule is ASGD:
        asgd_recall(h, now, memory)
    elif Rule is ScheduleFreeSGD:
        average_recall(now, warmed(now.lr, now.t, h.warmup_steps), h.momentum, h.r, h.weight_lr_power, memory)
    elif Rule is ScheduleFreeAdamW:
        average_recall(now, warmed(now.lr, now.t, h.warmup_steps), h.beta1, h.r, h.weight_lr_power, memory)
    elif Rule is ScheduleFreeRAdam:
        rectified = now.lr * rectification(h.beta2, <int64_t>now.t, 4)
        average_recall(now, rectified, h.beta1, h.r, h.weight_lr_power, memory)


# The first of a reducing rule's two goes over a tensor.

cdef inline int sums(Rule h) noexcept nogil:
    """How many terms of an element are summed."""
    if Rule is MoMo or Rule is MoMoAdam or Rule is DoG or Rule is DoWG or Rule is DAdaptSGD or Rule is DAdaptAdaGrad:
        return 3
    elif Rule in AnyLAMB or Rule is LARS or Rule is LARC or Rule is Fromage:
        return 2
    elif Rule is DAdaptAdam or Rule is DAdaptAdamDebiased or Rule is DAdaptLion or Rule is Prodigy \
            or Rule is ProdigyDebiased:
        return 2
    elif Rule in Reducing:
        return 1
    else:
        return 0

cdef inline void reduce_terms(Rule h, StepScalars now, real p, real g, real* a, real* b, real* c, real* d,
                       double* terms) noexcept nogil:
    """The terms of one element, and what the first go does to its slots."""
    if not (Rule in AppliesDecayFactor):
        p = <real>now.decay_factor * p
    if Rule is Fromage or Rule is LARS or Rule is LARC:
        fromage_gauge(p, g, terms)
    elif Rule is NovoGrad:
        terms[0] = squared(g)
    elif Rule is CautiousLion or Rule is CautiousLionMean:
        cautious_lion_gauge(h, g, a[0], terms)
    elif Rule is CautiousAdamW or Rule is CautiousAdamWMean:
        cautious_adamw_gauge(h, g, a, b, terms)
    elif Rule is MARS or Rule is MARSFromZero:
        mars_gauge(h, now, g, c[0], terms)
    elif Rule is StableAdamW:
        stable_adamw_gauge(h, now, g, a, b, terms)
    elif Rule in AnyLAMB:
        lamb_gauge(h, now, p, g, a, b, terms)
    elif Rule is PolyakSGD:
        polyak_gauge(now, g, terms)
    elif Rule is MoMo:
        momo_gauge(h, now, p, g, a, terms)
    elif Rule is MoMoAdam:
        momo_adam_gauge(h, now, p, g, a, b, terms)
    elif Rule is DoG or Rule is DoWG:
        distance_gauge(now, p, g, a, terms)
    elif Rule is DAdaptSGD:
        dadapt_sgd_gauge(now, p, g, a[0], terms)
    elif Rule is DAdaptAdaGrad:
        dadapt_adagrad_gauge(h, now, p, g, a, b, c, terms)
    elif Rule is DAdaptAdam or Rule is DAdaptAdamDebiased:
        dadapt_adam_gauge(h, now, g, a, b, c, terms)
    elif Rule is DAdaptLion:
        dadapt_lion_gauge(h, now, g, a[0], b[0], terms)
    elif Rule is Prodigy or Rule is ProdigyDebiased:
        prodigy_gauge(h, now, p, g, a, b, c, d, terms)

cdef inline void finish_all(Rule h, StepScalars now, double* shared, const double* totals, double size) noexcept nogil:
    """What the sums over all tensors, of `size` elements together, do to what they share."""
    if Rule is PolyakSGD:
        polyak_conclude(h, now, shared, totals)
    elif Rule is MoMo:
        momo_conclude(h, now, shared, totals)
    elif Rule is MoMoAdam:
        momo_adam_conclude(h, now, shared, totals)
    elif Rule is DoG:
        dog_conclude(h, shared, totals)
    elif Rule is DoWG:
        dowg_conclude(h, shared, totals)
    elif Rule is DAdaptSGD:
        dadapt_sgd_conclude(h, now, shared, totals)
    elif Rule is DAdaptAdaGrad:
        dadapt_adagrad_conclude(h, now, shared, totals)
    elif Rule is DAdaptAdam or Rule is DAdaptAdamDebiased:
        dadapt_adam_conclude(h, now, shared, totals)
    elif Rule is DAdaptLion:
        dadapt_lion_conclude(h, now, shared, totals)
    elif Rule is Prodigy or Rule is ProdigyDebiased:
        prodigy_conclude(h, now, shared, totals)

cdef inline void finish_tensor(Rule h, StepScalars* now, double* memory, const double* shared, const double* sums,
                        double size) noexcept nogil:
    """What the sums over a tensor of `size` elements say of the second go."""
    if Rule is Fromage:
        fromage_settle(now, sums)
    elif Rule is LARS:
        lars_settle(h, now, sums)
    elif Rule is LARC:
        larc_settle(h, now, sums)
    elif Rule is NovoGrad:
        novograd_settle(h, now, memory, sums)
    elif Rule is CautiousLion or Rule is CautiousLionMean or Rule is CautiousAdamW or Rule is CautiousAdamWMean:
        cautious_settle(h, now, sums, size)
    elif Rule is MARS or Rule is MARSFromZero:
        mars_settle(now, sums)
    elif Rule is StableAdamW:
        stable_adamw_settle(now, sums, size)
    elif Rule in AnyLAMB:
        lamb_settle(h, now, sums)
    elif Rule is PolyakSGD or Rule is MoMo or Rule is MoMoAdam:
        polyak_settle(now, shared)
    elif Rule is DoG or Rule is DoWG:
        distance_settle(now, shared)
    elif Rule is DAdaptSGD:
        dadapt_sgd_settle(now, shared)
    elif Rule is Prodigy or Rule is ProdigyDebiased:
        prodigy_settle(h, now, shared)
