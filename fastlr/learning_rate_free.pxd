# cython: language_level=3, cdivision=True
"""Update rules that find their own step size, from sums over all tensors; simplest first (see reducing.pxd).

What they find is shared by all tensors. The largest learning rate of a step, `now.peak`, is that of the whole; a tensor
with a smaller one moves as if it were measured in larger units, in which all learning rates are alike: by the
factor `share` = lr / peak for rules whose step does not depend on the scale of a gradient, by its root for the others.
"""
from libc.math cimport expm1, log, sqrt
from fastlr.element cimport StepScalars, larger, magnitude, real, root, sign
from fastlr.reducing cimport squared


cdef inline double share(const StepScalars* now) noexcept nogil:
    """A tensor's learning rate, as a part of the largest."""
    return now.lr / now.max_lr if now.max_lr > 0 else 1

cdef inline double inverse(double x) noexcept nogil:
    return 1 / x if x > 0 else 0


# Polyak's step size -- Polyak 1969, doi:10.1016/0041-5553(69)90035-4; bounded: Loizou et al. 2021, arXiv:2002.10542
# shared: step_size

cdef struct PolyakSGD:
    double f_min, eps

cdef inline void polyak_recall(StepScalars* now) noexcept nogil:
    now.extra[0] = share(now)

cdef inline void polyak_gauge(StepScalars now, real g, double* terms) noexcept nogil:
    terms[0] = now.extra[0] * squared(g)

cdef inline void polyak_conclude(PolyakSGD h, StepScalars now, double* shared, const double* totals) noexcept nogil:
    cdef double gap = larger(now.loss - h.f_min, <double>0)
    shared[0] = gap * inverse(totals[0] + h.eps)
    if shared[0] > now.max_lr:
        shared[0] = now.max_lr

cdef inline void polyak_settle(StepScalars* now, const double* shared) noexcept nogil:
    now.extra[1] = now.extra[0] * shared[0]

cdef inline void polyak(StepScalars now, real* p, real g) noexcept nogil:
    p[0] = p[0] - <real>now.extra[1] * g


# MoMo, momentum of a model of the loss -- Schaipp et al. 2024, arXiv:2305.07583
# shared: step_size, loss_mean, slope_mean (of <g, p>), steps

cdef struct MoMo:
    double beta, lower_bound, weight_decay

cdef inline void momo_gauge(MoMo h, StepScalars now, real p, real g, real* m, double* terms) noexcept nogil:
    """The momentum moves; it begins at the first gradient."""
    cdef double keep = h.beta * (1 - now.first_update)
    m[0] = <real>keep * m[0] + <real>(1 - keep) * g
    terms[0] = <double>g * <double>p
    terms[1] = <double>m[0] * <double>p
    terms[2] = now.extra[0] * squared(m[0])

cdef inline void model(double keep, double debias, double lower_bound, StepScalars now, double* shared,
                       const double* totals) noexcept nogil:
    """The step to where the model of the loss, a mean of its tangents, reaches its lower bound."""
    cdef double gap, stretch = 1 + now.max_lr * now.decay
    shared[1] = keep * shared[1] + (1 - keep) * now.loss
    shared[2] = keep * shared[2] + (1 - keep) * totals[0]
    shared[3] = shared[3] + 1
    gap = stretch * (shared[1] - lower_bound / debias - shared[2]) + totals[1]
    shared[0] = larger(gap, <double>0) * inverse(totals[2])
    if shared[0] > now.max_lr * debias:
        shared[0] = now.max_lr * debias

cdef inline void momo_conclude(MoMo h, StepScalars now, double* shared, const double* totals) noexcept nogil:
    model(h.beta if shared[3] > 0 else 0, 1, h.lower_bound, now, shared, totals)

cdef inline void momo(StepScalars now, real* p, real m) noexcept nogil:
    p[0] = p[0] / <real>(1 + now.lr * now.decay) - <real>now.extra[1] * m


# MoMo-Adam, likewise

cdef struct MoMoAdam:
    double beta1, beta2, eps, lower_bound, weight_decay

cdef inline void momo_adam_gauge(MoMoAdam h, StepScalars now, real p, real g, real* m, real* v, double* terms) noexcept nogil:
    """Moments move."""
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    terms[0] = <double>g * <double>p
    terms[1] = <double>m[0] * <double>p
    terms[2] = now.extra[0] * (<double>m[0] * <double>(m[0] / larger(root(v[0]) * <real>now.debias2 + <real>h.eps,
                                                                     <real>1e-30)))

cdef inline void momo_adam_conclude(MoMoAdam h, StepScalars now, double* shared, const double* totals) noexcept nogil:
    model(h.beta1, -1 / expm1((shared[3] + 1) * log(h.beta1)), h.lower_bound, now, shared, totals)

cdef inline void momo_adam(MoMoAdam h, StepScalars now, real* p, real m, real v) noexcept nogil:
    p[0] = p[0] / <real>(1 + now.lr * now.decay) \
        - <real>now.extra[1] * m / (root(v) * <real>now.debias2 + <real>h.eps)


# DoG, distance over gradients -- Ivgi, Hinder & Carmon 2023, arXiv:2302.12022
# shared: step_size, distance, squares

cdef struct DoG:
    double reps_rel, eps, weight_decay

# DoWG, distance over weighted gradients -- Khaled, Mishchenko & Jin 2023, arXiv:2305.16284
# shared: step_size, square_distance, weighted_squares

cdef struct DoWG:
    double eps, weight_decay

cdef inline void distance_recall(StepScalars* now) noexcept nogil:
    now.extra[0] = share(now)
    now.extra[1] = inverse(now.extra[0])

cdef inline void distance_gauge(StepScalars now, real p, real g, real* x0, double* terms) noexcept nogil:
    """Squares of the distance, of the gradient and of the start."""
    cdef double far
    x0[0] = p if now.first_update else x0[0]
    far = <double>p - <double>x0[0]
    terms[0] = now.extra[1] * (far * far)
    terms[1] = now.extra[0] * squared(g)
    terms[2] = now.extra[1] * squared(x0[0])

cdef inline void dog_conclude(DoG h, double* shared, const double* totals) noexcept nogil:
    if shared[1] == 0:
        shared[1] = h.reps_rel * (1 + sqrt(totals[2]))
    shared[1] = larger(shared[1], sqrt(totals[0]))
    shared[2] = shared[2] + totals[1]
    shared[0] = shared[1] * inverse(sqrt(shared[2] + h.eps))

cdef inline void dowg_conclude(DoWG h, double* shared, const double* totals) noexcept nogil:
    shared[1] = larger(shared[1], totals[0])
    shared[2] = shared[2] + shared[1] * totals[1]
    shared[0] = shared[1] * inverse(sqrt(shared[2]) + h.eps)

cdef inline void distance_settle(StepScalars* now, const double* shared) noexcept nogil:
    now.extra[2] = now.lr * shared[0]

cdef inline void distance_step(StepScalars now, real* p, real g) noexcept nogil:
    p[0] = p[0] - <real>now.extra[2] * (g + <real>now.decay * p[0])


# D-Adaptation -- Defazio & Mishchenko 2023, arXiv:2301.07733, as the authors' code
# shared: d, numerator; of SGD and AdaGrad also what they sum up

cdef struct DAdaptSGD:
    double momentum, d0, weight_decay

cdef struct DAdaptAdaGrad:
    double momentum, eps, d0, weight_decay

cdef struct DAdaptAdam:
    double beta1, beta2, eps, d0, weight_decay

cdef struct DAdaptAdamDebiased:
    double beta1, beta2, eps, d0, weight_decay

cdef struct DAdaptLion:
    double beta1, beta2, d0, weight_decay

ctypedef fused OfDAdaptAdam:
    DAdaptAdam
    DAdaptAdamDebiased

cdef inline double started(double d, double d0) noexcept nogil:
    """The estimate; what it begins with, before the first step."""
    return d if d > 0 else d0

cdef inline void dadapt_sgd_recall(DAdaptSGD h, StepScalars* now, const double* shared) noexcept nogil:
    now.extra[0] = share(now)
    now.extra[1] = inverse(now.extra[0])
    now.extra[2] = started(shared[0], h.d0)

cdef inline void dadapt_sgd_gauge(StepScalars now, real p, real g, real s, double* terms) noexcept nogil:
    g = g + <real>now.decay * p
    terms[0] = <double>g * <double>s
    terms[1] = now.extra[1] * squared(s)
    terms[2] = now.extra[0] * squared(g)

cdef inline void dadapt_sgd_conclude(DAdaptSGD h, StepScalars now, double* shared, const double* totals) noexcept nogil:
    """(`s` moves only then, as its first move needs the norm of all gradients.)"""
    cdef double rate, squares, d = started(shared[0], h.d0)
    shared[0] = d
    if shared[2] == 0:
        shared[2] = sqrt(totals[2])
    rate = d * now.max_lr * inverse(shared[2])
    shared[1] = shared[1] + rate * totals[0]
    squares = totals[1] + 2 * rate * totals[0] + rate * rate * totals[2]
    if squares > 0 and now.max_lr > 0:
        shared[0] = larger(2 * shared[1] / sqrt(squares), d)

cdef inline void dadapt_sgd_settle(StepScalars* now, const double* shared) noexcept nogil:
    now.extra[3] = now.extra[2] * now.lr * inverse(shared[2])

cdef inline void dadapt_sgd(DAdaptSGD h, StepScalars now, real* p, real g, real* s, real* x0) noexcept nogil:
    x0[0] = p[0] if now.first_update else x0[0]
    s[0] = s[0] + <real>now.extra[3] * (g + <real>now.decay * p[0])
    p[0] = <real>h.momentum * p[0] + <real>(1 - h.momentum) * (x0[0] - s[0])

cdef inline void dadapt_adagrad_recall(DAdaptAdaGrad h, StepScalars* now, const double* shared) noexcept nogil:
    now.extra[0] = started(shared[0], h.d0) * now.lr
    now.extra[1] = share(now)
    now.extra[2] = inverse(now.extra[1])

cdef inline void dadapt_adagrad_gauge(DAdaptAdaGrad h, StepScalars now, real p, real g, real* alpha, real* s, real* x0,
                                      double* terms) noexcept nogil:
    """All move but the parameter; the changes of what is summed up."""
    cdef real before = s[0], root_before = larger(root(alpha[0]) + <real>h.eps, <real>1e-30), root_now
    x0[0] = p if now.first_update else x0[0]
    alpha[0] = alpha[0] + g * g
    s[0] = s[0] + <real>now.extra[0] * (g + <real>now.decay * p)
    root_now = larger(root(alpha[0]) + <real>h.eps, <real>1e-30)
    terms[0] = now.extra[2] * (squared(s[0]) / <double>root_now - squared(before) / <double>root_before)
    terms[1] = <double>magnitude(s[0]) - <double>magnitude(before)
    terms[2] = now.extra[1] * (squared(g) / <double>root_now)

cdef inline void dadapt_adagrad_conclude(DAdaptAdaGrad h, StepScalars now, double* shared, const double* totals) noexcept nogil:
    cdef double d = started(shared[0], h.d0), rate = d * now.max_lr
    shared[0] = d
    shared[1] = shared[1] + totals[0]
    shared[2] = shared[2] + totals[1]
    shared[3] = shared[3] + rate * rate * totals[2]
    if shared[2] > 0 and now.max_lr > 0:
        shared[0] = larger((shared[1] - shared[3]) / shared[2], d)

cdef inline void dadapt_adagrad(DAdaptAdaGrad h, real* p, real alpha, real s, real x0) noexcept nogil:
    p[0] = <real>h.momentum * p[0] \
        + <real>(1 - h.momentum) * (x0 - s / larger(root(alpha) + <real>h.eps, <real>1e-30))

cdef inline double corrected(const StepScalars* now) noexcept nogil:
    """sqrt(1 - beta2**t) / (1 - beta1**t); 1 for rules that are not debiased."""
    return now.debias1 / now.debias2

cdef inline double rest(double beta2) noexcept nogil:
    """1 - sqrt(beta2), without the cancellation, which at 0.99 costs 200 ulp."""
    return (1 - beta2) / (1 + sqrt(beta2))

cdef inline void estimate(double beta2, double rate, double d, const StepScalars* now, double* shared,
                          const double* totals) noexcept nogil:
    """D-Adaptation's d, from running means, of weight sqrt(beta2)."""
    shared[0] = d
    shared[1] = sqrt(beta2) * shared[1] + rest(beta2) * rate * totals[0]
    if totals[1] > 0 and now.max_lr > 0:
        shared[0] = larger(shared[1] / (rest(beta2) * totals[1]), d)

cdef inline void dadapt_adam_recall(OfDAdaptAdam h, StepScalars* now, const double* shared) noexcept nogil:
    now.extra[0] = started(shared[0], h.d0) * now.lr * corrected(now)
    now.extra[1], now.extra[2] = sqrt(h.beta2), rest(h.beta2)

cdef inline void dadapt_adam_gauge(OfDAdaptAdam h, StepScalars now, real g, real* m, real* v, real* s,
                                   double* terms) noexcept nogil:
    """All move but the parameter."""
    terms[0] = <double>g * <double>(s[0] / larger(root(v[0]) + <real>h.eps, <real>1e-30))
    m[0] = <real>h.beta1 * m[0] + <real>(now.extra[0] * (1 - h.beta1)) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    s[0] = <real>now.extra[1] * s[0] + <real>(now.extra[0] * now.extra[2]) * g
    terms[1] = <double>magnitude(s[0])

cdef inline void dadapt_adam_conclude(OfDAdaptAdam h, StepScalars now, double* shared, const double* totals) noexcept nogil:
    cdef double d = started(shared[0], h.d0)
    estimate(h.beta2, d * now.max_lr * corrected(&now), d, &now, shared, totals)

cdef inline void dadapt_adam(OfDAdaptAdam h, StepScalars now, real* p, real m, real v) noexcept nogil:
    p[0] = p[0] - <real>(now.extra[0] * now.decay) * p[0] - m / (root(v) + <real>h.eps)

cdef inline void dadapt_lion_recall(DAdaptLion h, StepScalars* now, const double* shared) noexcept nogil:
    now.extra[0] = started(shared[0], h.d0) * now.lr
    now.extra[1] = started(shared[0], h.d0) * now.max_lr
    now.extra[2], now.extra[3] = sqrt(h.beta2), rest(h.beta2)

cdef inline real dadapt_lion_way(DAdaptLion h, real g, real m) noexcept nogil:
    return sign(<real>h.beta1 * m + <real>(1 - h.beta1) * g)

cdef inline real dadapt_lion_sum(StepScalars now, real u, real s) noexcept nogil:
    return <real>now.extra[2] * s + <real>(now.extra[1] * now.extra[3]) * u

cdef inline void dadapt_lion_gauge(DAdaptLion h, StepScalars now, real g, real m, real s, double* terms) noexcept nogil:
    cdef real u = dadapt_lion_way(h, g, m)
    terms[0] = <double>u * <double>s
    terms[1] = <double>magnitude(dadapt_lion_sum(now, u, s))

cdef inline void dadapt_lion_conclude(DAdaptLion h, StepScalars now, double* shared, const double* totals) noexcept nogil:
    cdef double d = started(shared[0], h.d0)
    estimate(h.beta2, d * now.max_lr, d, &now, shared, totals)

cdef inline void dadapt_lion(DAdaptLion h, StepScalars now, real* p, real g, real* m, real* s) noexcept nogil:
    cdef real u = dadapt_lion_way(h, g, m[0])
    p[0] = p[0] - <real>(now.extra[0] * now.decay) * p[0] - <real>now.extra[0] * u
    m[0] = <real>h.beta2 * m[0] + <real>(now.extra[1] * (1 - h.beta2)) * g
    s[0] = dadapt_lion_sum(now, u, s[0])


# Prodigy -- Mishchenko & Defazio 2024, arXiv:2306.06101, as the authors' code
# shared: d, numerator

cdef struct Prodigy:
    double beta1, beta2, eps, d0, d_coef, weight_decay

cdef struct ProdigyDebiased:
    double beta1, beta2, eps, d0, d_coef, weight_decay

ctypedef fused OfProdigy:
    Prodigy
    ProdigyDebiased

cdef inline void prodigy_recall(OfProdigy h, StepScalars* now, const double* shared) noexcept nogil:
    now.extra[1] = started(shared[0], h.d0)
    now.extra[0] = now.extra[1] * now.lr * corrected(now)
    now.extra[2] = sqrt(h.beta2)

cdef inline void prodigy_gauge(OfProdigy h, StepScalars now, real p, real g, real* m, real* v, real* s, real* x0,
                               double* terms) noexcept nogil:
    """All move but the parameter."""
    x0[0] = p if now.first_update else x0[0]
    terms[0] = <double>g * (<double>x0[0] - <double>p)
    m[0] = <real>h.beta1 * m[0] + <real>(now.extra[1] * (1 - h.beta1)) * g
    v[0] = <real>h.beta2 * v[0] + <real>(now.extra[1] * now.extra[1] * (1 - h.beta2)) * (g * g)
    s[0] = <real>now.extra[2] * s[0] + <real>(now.extra[1] / h.d0 * now.extra[0]) * g
    terms[1] = <double>magnitude(s[0])

cdef inline void prodigy_conclude(OfProdigy h, StepScalars now, double* shared, const double* totals) noexcept nogil:
    cdef double d = started(shared[0], h.d0)
    shared[0] = d
    shared[1] = sqrt(h.beta2) * shared[1] + d / h.d0 * (d * now.max_lr * corrected(&now)) * totals[0]
    if totals[1] > 0 and now.max_lr > 0:
        shared[0] = larger(h.d_coef * shared[1] / totals[1], d)

cdef inline void prodigy_settle(OfProdigy h, StepScalars* now, const double* shared) noexcept nogil:
    now.extra[3] = shared[0] * h.eps

cdef inline void prodigy(OfProdigy h, StepScalars now, real* p, real m, real v) noexcept nogil:
    p[0] = p[0] - <real>(now.extra[0] * now.decay) * p[0] - <real>now.extra[0] * m / (root(v) + <real>now.extra[3])
