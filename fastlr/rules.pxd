# cython: language_level=3, cdivision=True
"""Every elementwise update rule, one element at a time, simplest first.

A rule is a struct of hyper-parameters and a function of the same name that moves one parameter `p` by one
gradient `g`, with what it remembers of that element (`m`, `v`, ... as in the paper; all begin at zero unless
said). This room knows nothing of arrays, threads or storage; whoever includes it writes the loop.

    cimport from here:  cdef Now now = at(AdamW(0.9, 0.999, 1e-8, 0.01), lr, t)     # once per step, in double
                        update(h, now, &p, g, &m, &v, NULL)                          # per element, in `real`

Hyper-parameters are double. What does not depend on the element is computed in double and then cast, because
`1 - beta` on a C float is a C double, which would drag a whole float32 loop into double precision.
"""
from libc.math cimport expm1, log, sqrt, sqrtf
from libc.stdint cimport int64_t

ctypedef fused real:
    float
    double


cdef struct Now:
    # What a rule may know of the instant: scalars of one step, the same for all elements of a tensor.
    double lr              # the learning rate of this step
    double keep            # what decoupled weight decay leaves of a parameter: 1 - lr * weight_decay, or 1
    double fresh           # 1 at a tensor's first update, 0 after
    double debias1         # 1 / (1 - beta1**t)
    double debias2         # 1 / sqrt(1 - beta2**t)


cdef inline real root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)

cdef inline real larger(real x, real y) noexcept nogil:
    return x if x > y else y


# SGD -- Robbins & Monro 1951, doi:10.1214/aoms/1177729586

cdef struct SGD:
    double _               # a struct needs a member; SGD has no hyper-parameter but the learning rate

cdef inline void sgd(SGD h, Now now, real* p, real g) noexcept nogil:
    p[0] = p[0] - <real>now.lr * g


# Momentum, the heavy ball -- Polyak 1964, doi:10.1016/0041-5553(64)90137-5

cdef struct Momentum:
    double momentum, dampening

cdef inline void momentum(Momentum h, Now now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + <real>(1 - h.dampening * (1 - now.fresh)) * g
    p[0] = p[0] - <real>now.lr * m[0]


# Nesterov's momentum, in Sutskever's form -- Sutskever et al. 2013, proceedings.mlr.press/v28/sutskever13

cdef struct Nesterov:
    double momentum

cdef inline void nesterov(Nesterov h, Now now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.momentum * m[0] + g
    p[0] = p[0] - <real>now.lr * (g + <real>h.momentum * m[0])


# AdaGrad -- Duchi, Hazan & Singer 2011, jmlr.org/papers/v12/duchi11a

cdef struct AdaGrad:
    double lr_decay, eps

cdef inline void adagrad(AdaGrad h, Now now, real* p, real g, real* s) noexcept nogil:
    s[0] = s[0] + g * g
    p[0] = p[0] - <real>now.lr * g / (root(s[0]) + <real>h.eps)


# AdaDelta -- Zeiler 2012, arXiv:1212.5701

cdef struct AdaDelta:
    double rho, eps

cdef inline void adadelta(AdaDelta h, Now now, real* p, real g, real* v, real* u) noexcept nogil:
    cdef real d
    v[0] = <real>h.rho * v[0] + <real>(1 - h.rho) * (g * g)
    d = root((u[0] + <real>h.eps) / (v[0] + <real>h.eps)) * g
    u[0] = <real>h.rho * u[0] + <real>(1 - h.rho) * (d * d)
    p[0] = p[0] - <real>now.lr * d


# RMSprop -- Tieleman & Hinton 2012, Coursera lecture 6.5; centered and with momentum: Graves 2013, arXiv:1308.0850

cdef struct RMSprop:
    double alpha, eps

cdef inline void rmsprop(RMSprop h, Now now, real* p, real g, real* v) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    p[0] = p[0] - <real>now.lr * g / (root(v[0]) + <real>h.eps)

cdef struct RMSpropCentered:
    double alpha, eps

cdef inline void rmsprop_centered(RMSpropCentered h, Now now, real* p, real g, real* v, real* a) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    a[0] = <real>h.alpha * a[0] + <real>(1 - h.alpha) * g
    p[0] = p[0] - <real>now.lr * g / (root(larger(v[0] - a[0] * a[0], <real>0)) + <real>h.eps)

cdef struct RMSpropMomentum:
    double alpha, eps, momentum

cdef inline void rmsprop_momentum(RMSpropMomentum h, Now now, real* p, real g, real* v, real* m) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    m[0] = <real>h.momentum * m[0] + g / (root(v[0]) + <real>h.eps)
    p[0] = p[0] - <real>now.lr * m[0]

cdef struct RMSpropCenteredMomentum:
    double alpha, eps, momentum

cdef inline void rmsprop_centered_momentum(RMSpropCenteredMomentum h, Now now, real* p, real g,
                                           real* v, real* a, real* m) noexcept nogil:
    v[0] = <real>h.alpha * v[0] + <real>(1 - h.alpha) * (g * g)
    a[0] = <real>h.alpha * a[0] + <real>(1 - h.alpha) * g
    m[0] = <real>h.momentum * m[0] + g / (root(larger(v[0] - a[0] * a[0], <real>0)) + <real>h.eps)
    p[0] = p[0] - <real>now.lr * m[0]


# Adam -- Kingma & Ba 2015, arXiv:1412.6980

cdef struct Adam:
    double beta1, beta2, eps

cdef inline void adam(Adam h, Now now, real* p, real g, real* m, real* v) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    p[0] = p[0] - <real>(now.lr * now.debias1) * m[0] / (root(v[0]) * <real>now.debias2 + <real>h.eps)


# AMSGrad -- Reddi, Kale & Kumar 2018, arXiv:1904.09237

cdef struct AMSGrad:
    double beta1, beta2, eps

cdef inline void amsgrad(AMSGrad h, Now now, real* p, real g, real* m, real* v, real* vmax) noexcept nogil:
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    vmax[0] = larger(vmax[0], v[0])
    p[0] = p[0] - <real>(now.lr * now.debias1) * m[0] / (root(vmax[0]) * <real>now.debias2 + <real>h.eps)


# AdamW -- Loshchilov & Hutter 2019, arXiv:1711.05101

cdef struct AdamW:
    double beta1, beta2, eps, weight_decay

cdef inline void adamw(AdamW h, Now now, real* p, real g, real* m, real* v) noexcept nogil:
    p[0] = <real>now.keep * p[0]
    adam(Adam(h.beta1, h.beta2, h.eps), now, p, g, m, v)


# The roll: a rule is chosen, at compile time, by the type of its hyper-parameters. A new rule is its struct and
# function above, its name in `Rule` (and in what it is, below), and its line in `update`.

ctypedef fused Rule:
    SGD
    Momentum
    Nesterov
    AdaGrad
    AdaDelta
    RMSprop
    RMSpropCentered
    RMSpropMomentum
    RMSpropCenteredMomentum
    Adam
    AMSGrad
    AdamW

ctypedef fused NoSlot:
    SGD

ctypedef fused TwoSlots:
    AdaDelta
    RMSpropCentered
    RMSpropMomentum
    Adam
    AdamW

ctypedef fused ThreeSlots:
    RMSpropCenteredMomentum
    AMSGrad

ctypedef fused Debiased:           # beta1 and beta2 are corrected for their start at zero
    Adam
    AMSGrad
    AdamW

ctypedef fused Decaying:           # weight decay is part of the rule
    AdamW


cdef inline void update(Rule h, Now now, real* p, real g, real* a, real* b, real* c) noexcept nogil:
    """Move one element: what weight decay leaves of it, then the rule. Slots that a rule lacks may be NULL."""
    if not (Rule in Decaying):
        p[0] = <real>now.keep * p[0]
    if Rule is SGD:
        sgd(h, now, p, g)
    elif Rule is Momentum:
        momentum(h, now, p, g, a)
    elif Rule is Nesterov:
        nesterov(h, now, p, g, a)
    elif Rule is AdaGrad:
        adagrad(h, now, p, g, a)
    elif Rule is AdaDelta:
        adadelta(h, now, p, g, a, b)
    elif Rule is RMSprop:
        rmsprop(h, now, p, g, a)
    elif Rule is RMSpropCentered:
        rmsprop_centered(h, now, p, g, a, b)
    elif Rule is RMSpropMomentum:
        rmsprop_momentum(h, now, p, g, a, b)
    elif Rule is RMSpropCenteredMomentum:
        rmsprop_centered_momentum(h, now, p, g, a, b, c)
    elif Rule is Adam:
        adam(h, now, p, g, a, b)
    elif Rule is AMSGrad:
        amsgrad(h, now, p, g, a, b, c)
    elif Rule is AdamW:
        adamw(h, now, p, g, a, b)
    else:
        update_has_no_branch_for(h)


cdef inline int slots(Rule h) noexcept nogil:
    """How many numbers the rule remembers of an element."""
    if Rule in NoSlot:
        return 0
    elif Rule in ThreeSlots:
        return 3
    elif Rule in TwoSlots:
        return 2
    else:
        return 1


cdef inline Now at(Rule h, double lr, int64_t t) noexcept nogil:
    """The instant of update t = 1, 2, ...: all that a step computes once, in double."""
    cdef Now now = Now(lr, 1, t == 1, 1, 1)
    if Rule in Debiased:
        # (1 - beta**t without the cancellation, which at beta = 0.999, t = 2 costs 100 ulp)
        now.debias1 = -1 / expm1(t * log(h.beta1))
        now.debias2 = sqrt(-1 / expm1(t * log(h.beta2)))
    if Rule is AdaGrad:
        now.lr = lr / (1 + (t - 1) * h.lr_decay)
    if Rule in Decaying:
        now.keep = 1 - lr * h.weight_decay
    return now
