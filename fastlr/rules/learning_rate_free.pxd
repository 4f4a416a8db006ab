# cython: language_level=3, cdivision=True
"""Update rules that estimate their own step size from sums over all tensors; simplest first (see reducing.pxd).

The estimate is shared by all tensors: `<rule>_finish_all` is given the sums over all of them. It is made for the
largest learning rate of a step, `now.max_lr`. A tensor with a smaller one is treated as if its elements were measured
in larger units, so that all learning rates are equal: by the factor `share` = lr / max_lr for rules whose step does not
depend on the scale of a gradient, by its root for the others.
"""
from libc.math cimport expm1, log, sqrt
from fastlr.rules.element cimport larger, magnitude, real, root, sign, square
from fastlr.rules.scalars cimport StepScalars, debias


cdef inline double share_of(const StepScalars* now) noexcept nogil:
    """A tensor's learning rate as a fraction of the largest."""
    return now.lr / now.max_lr if now.max_lr > 0 else 1

cdef inline double inverse(double x) noexcept nogil:
    return 1 / x if x > 0 else 0


# Polyak's step size -- Polyak 1969, doi:10.1016/0041-5553(69)90035-4; bounded: Loizou et al. 2021, arXiv:2002.10542
# traits of PolyakSGD: depends_on_param

cdef struct PolyakSGD:
    double f_min, eps

cdef struct PolyakSGDScalars:
    double share, rate

cdef struct PolyakSGDShared:
    double step_size

cdef struct PolyakSGDTerms:
    double grad_squares

cdef inline void polyaksgd_begin(PolyakSGD h, const StepScalars* now, PolyakSGDScalars* s) noexcept nogil:
    s.share = share_of(now)

cdef inline void polyaksgd_terms(PolyakSGD h, PolyakSGDScalars s, real g, PolyakSGDTerms* terms) noexcept nogil:
    terms.grad_squares = s.share * square(g)

cdef inline void polyaksgd_finish_all(PolyakSGD h, const StepScalars* now, PolyakSGDShared* shared,
                                      const PolyakSGDTerms* sums) noexcept nogil:
    cdef double gap = larger(now.loss - h.f_min, <double>0)
    shared.step_size = gap * inverse(sums.grad_squares + h.eps)
    if shared.step_size > now.max_lr:
        shared.step_size = now.max_lr

cdef inline void polyaksgd_finish(PolyakSGD h, PolyakSGDScalars* s, const PolyakSGDShared* shared) noexcept nogil:
    s.rate = s.share * shared.step_size

cdef inline void polyaksgd(PolyakSGD h, PolyakSGDScalars s, real* p, real g) noexcept nogil:
    p[0] = p[0] - <real>s.rate * g


# MoMo, momentum of a model of the loss -- Schaipp et al. 2024, arXiv:2305.07583
# traits of MoMo: depends_on_param, decay_inside_update
# MoMo-Adam, likewise
# traits of MoMoAdam: depends_on_param, decay_inside_update, nonnegative(v)

cdef struct MoMo:
    double beta, lower_bound, weight_decay

cdef struct MoMoAdam:
    double beta1, beta2, eps, lower_bound, weight_decay

ctypedef fused AnyMoMo:
    MoMo
    MoMoAdam

cdef struct MoMoScalars:
    double share, rate, debias2

cdef struct MoMoShared:
    double step_size, loss_mean, slope_mean, steps     # slopes: of <g, p>

cdef struct MoMoTerms:
    double slope, momentum_slope, momentum_squares     # <g, p>, <m, p>, <m, m / D>

cdef inline void momo_begin(AnyMoMo h, const StepScalars* now, MoMoScalars* s) noexcept nogil:
    s.share = share_of(now)
    if AnyMoMo is MoMoAdam:
        s.debias2 = sqrt(debias(h.beta2, now.t))

cdef inline void momo_finish(AnyMoMo h, MoMoScalars* s, const MoMoShared* shared) noexcept nogil:
    s.rate = s.share * shared.step_size

cdef inline void momo_terms(MoMo h, StepScalars now, MoMoScalars s, real p, real g, real* m,
                            MoMoTerms* terms) noexcept nogil:
    """The momentum begins at the first gradient."""
    cdef double keep = h.beta * (1 - now.first_update)
    m[0] = <real>keep * m[0] + <real>(1 - keep) * g
    terms.slope = <double>g * <double>p
    terms.momentum_slope = <double>m[0] * <double>p
    terms.momentum_squares = s.share * square(m[0])

cdef inline void update_model(double keep, double debias1, double lower_bound, const StepScalars* now,
                              MoMoShared* shared, const MoMoTerms* sums) noexcept nogil:
    """The step at whose end the model of the loss, a mean of its tangents, reaches the lower bound."""
    cdef double gap, stretch = 1 + now.max_lr * now.weight_decay
    shared.loss_mean = keep * shared.loss_mean + (1 - keep) * now.loss
    shared.slope_mean = keep * shared.slope_mean + (1 - keep) * sums.slope
    shared.steps = shared.steps + 1
    gap = stretch * (shared.loss_mean - lower_bound / debias1 - shared.slope_mean) + sums.momentum_slope
    shared.step_size = larger(gap, <double>0) * inverse(sums.momentum_squares)
    if shared.step_size > now.max_lr * debias1:
        shared.step_size = now.max_lr * debias1

cdef inline void momo_finish_all(MoMo h, const StepScalars* now, MoMoShared* shared,
                                 const MoMoTerms* sums) noexcept nogil:
    update_model(h.beta if shared.steps > 0 else 0, 1, h.lower_bound, now, shared, sums)

cdef inline void momo(MoMo h, StepScalars now, MoMoScalars s, real* p, real g, real m) noexcept nogil:
    p[0] = p[0] / <real>(1 + now.lr * now.weight_decay) - <real>s.rate * m

cdef inline void momoadam_terms(MoMoAdam h, MoMoScalars s, real p, real g, real* m, real* v,
                                MoMoTerms* terms) noexcept nogil:
    cdef real root_of_v
    m[0] = <real>h.beta1 * m[0] + <real>(1 - h.beta1) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    terms.slope = <double>g * <double>p
    terms.momentum_slope = <double>m[0] * <double>p
    root_of_v = larger(root(v[0]) * <real>s.debias2 + <real>h.eps, <real>1e-30)
    terms.momentum_squares = s.share * (<double>m[0] * <double>(m[0] / root_of_v))

cdef inline void momoadam_finish_all(MoMoAdam h, const StepScalars* now, MoMoShared* shared,
                                     const MoMoTerms* sums) noexcept nogil:
    update_model(h.beta1, -1 / expm1((shared.steps + 1) * log(h.beta1)), h.lower_bound, now, shared, sums)

cdef inline void momoadam(MoMoAdam h, StepScalars now, MoMoScalars s, real* p, real g, real m, real v) noexcept nogil:
    p[0] = p[0] / <real>(1 + now.lr * now.weight_decay) \
        - <real>s.rate * m / (root(v) * <real>s.debias2 + <real>h.eps)


# DoG, distance over gradients -- Ivgi, Hinder & Carmon 2023, arXiv:2302.12022
# DoWG, distance over weighted gradients -- Khaled, Mishchenko & Jin 2023, arXiv:2305.16284
# traits of DoG, DoWG: depends_on_param, decay_inside_update, position(x0)

cdef struct DoG:
    double reps_rel, eps, weight_decay

cdef struct DoWG:
    double eps, weight_decay

ctypedef fused AnyDoG:
    DoG
    DoWG

cdef struct DoGScalars:
    double share, inverse_share, rate

cdef struct DoGShared:
    double step_size, distance, squares

cdef struct DoWGShared:
    double step_size, square_distance, weighted_squares

cdef struct DoGTerms:
    double distance_squares, grad_squares, start_squares

cdef inline void dog_begin(AnyDoG h, const StepScalars* now, DoGScalars* s) noexcept nogil:
    s.share = share_of(now)
    s.inverse_share = inverse(s.share)

cdef inline void dog_terms(AnyDoG h, StepScalars now, DoGScalars s, real p, real g, real* x0,
                           DoGTerms* terms) noexcept nogil:
    cdef double distance
    x0[0] = p if now.first_update else x0[0]
    distance = <double>p - <double>x0[0]
    terms.distance_squares = s.inverse_share * (distance * distance)
    terms.grad_squares = s.share * square(g)
    terms.start_squares = s.inverse_share * square(x0[0])

cdef inline void dog_finish_all(DoG h, DoGShared* shared, const DoGTerms* sums) noexcept nogil:
    if shared.distance == 0:
        shared.distance = h.reps_rel * (1 + sqrt(sums.start_squares))
    shared.distance = larger(shared.distance, sqrt(sums.distance_squares))
    shared.squares = shared.squares + sums.grad_squares
    shared.step_size = shared.distance * inverse(sqrt(shared.squares + h.eps))

cdef inline void dowg_finish_all(DoWG h, DoWGShared* shared, const DoGTerms* sums) noexcept nogil:
    shared.square_distance = larger(shared.square_distance, sums.distance_squares)
    shared.weighted_squares = shared.weighted_squares + shared.square_distance * sums.grad_squares
    shared.step_size = shared.square_distance * inverse(sqrt(shared.weighted_squares) + h.eps)

cdef inline void dog_finish(DoG h, const StepScalars* now, DoGScalars* s, const DoGShared* shared) noexcept nogil:
    s.rate = now.lr * shared.step_size

cdef inline void dowg_finish(DoWG h, const StepScalars* now, DoGScalars* s, const DoWGShared* shared) noexcept nogil:
    s.rate = now.lr * shared.step_size

cdef inline void dog(AnyDoG h, StepScalars now, DoGScalars s, real* p, real g, real x0) noexcept nogil:
    p[0] = p[0] - <real>s.rate * (g + <real>now.weight_decay * p[0])


# D-Adaptation -- Defazio & Mishchenko 2023, arXiv:2301.07733, as the authors' code

cdef inline double started(double d, double d0) noexcept nogil:
    """The estimate, or its initial value before the first step."""
    return d if d > 0 else d0

cdef inline double one_less_root(double beta2) noexcept nogil:
    """1 - sqrt(beta2), without the cancellation, which at 0.99 costs 200 ulp."""
    return (1 - beta2) / (1 + sqrt(beta2))

# traits of DAdaptSGD: depends_on_param, decay_inside_update, position(x0)

cdef struct DAdaptSGD:
    double momentum, d0, weight_decay

cdef struct DAdaptSGDScalars:
    double share, inverse_share, d, rate

cdef struct DAdaptSGDShared:
    double d, numerator, g0_norm

cdef struct DAdaptSGDTerms:
    double slope, sum_squares, grad_squares            # <g, s>, <s, s>, <g, g>

cdef inline void dadaptsgd_begin(DAdaptSGD h, const StepScalars* now, DAdaptSGDScalars* scalars,
                                 const DAdaptSGDShared* shared) noexcept nogil:
    scalars.share = share_of(now)
    scalars.inverse_share = inverse(scalars.share)
    scalars.d = started(shared.d, h.d0)

cdef inline void dadaptsgd_terms(DAdaptSGD h, StepScalars now, DAdaptSGDScalars scalars, real p, real g, real s,
                                 DAdaptSGDTerms* terms) noexcept nogil:
    cdef real u = g + <real>now.weight_decay * p
    terms.slope = <double>u * <double>s
    terms.sum_squares = scalars.inverse_share * square(s)
    terms.grad_squares = scalars.share * square(u)

cdef inline void dadaptsgd_finish_all(DAdaptSGD h, const StepScalars* now, DAdaptSGDShared* shared,
                                      const DAdaptSGDTerms* sums) noexcept nogil:
    """(`s` is updated after this, as its first update needs the norm of all gradients.)"""
    cdef double rate, squares, d = started(shared.d, h.d0)
    shared.d = d
    if shared.g0_norm == 0:
        shared.g0_norm = sqrt(sums.grad_squares)
    rate = d * now.max_lr * inverse(shared.g0_norm)
    shared.numerator = shared.numerator + rate * sums.slope
    squares = sums.sum_squares + 2 * rate * sums.slope + rate * rate * sums.grad_squares
    if squares > 0 and now.max_lr > 0:
        shared.d = larger(2 * shared.numerator / sqrt(squares), d)

cdef inline void dadaptsgd_finish(DAdaptSGD h, const StepScalars* now, DAdaptSGDScalars* scalars,
                                  const DAdaptSGDShared* shared) noexcept nogil:
    scalars.rate = scalars.d * now.lr * inverse(shared.g0_norm)

cdef inline void dadaptsgd(DAdaptSGD h, StepScalars now, DAdaptSGDScalars scalars, real* p, real g, real* s,
                           real* x0) noexcept nogil:
    x0[0] = p[0] if now.first_update else x0[0]
    s[0] = s[0] + <real>scalars.rate * (g + <real>now.weight_decay * p[0])
    p[0] = <real>h.momentum * p[0] + <real>(1 - h.momentum) * (x0[0] - s[0])

# traits of DAdaptAdaGrad: depends_on_param, decay_inside_update, nonnegative(alpha), position(x0)

cdef struct DAdaptAdaGrad:
    double momentum, eps, d0, weight_decay

cdef struct DAdaptAdaGradScalars:
    double rate, share, inverse_share

cdef struct DAdaptAdaGradShared:
    double d, sum_squares, sum_norm, gradient_squares

cdef struct DAdaptAdaGradTerms:
    double sum_squares, sum_norm, gradient_squares     # the changes of the shared sums

cdef inline void dadaptadagrad_begin(DAdaptAdaGrad h, const StepScalars* now, DAdaptAdaGradScalars* scalars,
                                     const DAdaptAdaGradShared* shared) noexcept nogil:
    scalars.rate = started(shared.d, h.d0) * now.lr
    scalars.share = share_of(now)
    scalars.inverse_share = inverse(scalars.share)

cdef inline void dadaptadagrad_terms(DAdaptAdaGrad h, StepScalars now, DAdaptAdaGradScalars scalars, real p, real g,
                                     real* alpha, real* s, real* x0, DAdaptAdaGradTerms* terms) noexcept nogil:
    cdef real before = s[0], root_before = larger(root(alpha[0]) + <real>h.eps, <real>1e-30), root_now
    x0[0] = p if now.first_update else x0[0]
    alpha[0] = alpha[0] + g * g
    s[0] = s[0] + <real>scalars.rate * (g + <real>now.weight_decay * p)
    root_now = larger(root(alpha[0]) + <real>h.eps, <real>1e-30)
    terms.sum_squares = scalars.inverse_share * (square(s[0]) / <double>root_now - square(before) / <double>root_before)
    terms.sum_norm = <double>magnitude(s[0]) - <double>magnitude(before)
    terms.gradient_squares = scalars.share * (square(g) / <double>root_now)

cdef inline void dadaptadagrad_finish_all(DAdaptAdaGrad h, const StepScalars* now, DAdaptAdaGradShared* shared,
                                          const DAdaptAdaGradTerms* sums) noexcept nogil:
    cdef double d = started(shared.d, h.d0), rate = d * now.max_lr
    shared.d = d
    shared.sum_squares = shared.sum_squares + sums.sum_squares
    shared.sum_norm = shared.sum_norm + sums.sum_norm
    shared.gradient_squares = shared.gradient_squares + rate * rate * sums.gradient_squares
    if shared.sum_norm > 0 and now.max_lr > 0:
        shared.d = larger((shared.sum_squares - shared.gradient_squares) / shared.sum_norm, d)

cdef inline void dadaptadagrad(DAdaptAdaGrad h, real* p, real g, real alpha, real s, real x0) noexcept nogil:
    p[0] = <real>h.momentum * p[0] \
        + <real>(1 - h.momentum) * (x0 - s / larger(root(alpha) + <real>h.eps, <real>1e-30))

# Rules that estimate from running means, of weight sqrt(beta2): D-Adaptation's Adam and Lion, Prodigy

cdef struct EstimateShared:
    double d, numerator

cdef struct EstimateTerms:
    double slope, sum_norm             # of the gradient along s or along p - start; of |s|

cdef inline void update_estimate(double beta2, double rate, double d, const StepScalars* now, EstimateShared* shared,
                                 const EstimateTerms* sums) noexcept nogil:
    shared.d = d
    shared.numerator = sqrt(beta2) * shared.numerator + one_less_root(beta2) * rate * sums.slope
    if sums.sum_norm > 0 and now.max_lr > 0:
        shared.d = larger(shared.numerator / (one_less_root(beta2) * sums.sum_norm), d)

# traits of DAdaptAdam, DAdaptAdamDebiased: depends_on_param, decay_inside_update, nonnegative(v)

cdef struct DAdaptAdam:
    double beta1, beta2, eps, d0, weight_decay

cdef struct DAdaptAdamDebiased:
    double beta1, beta2, eps, d0, weight_decay

ctypedef fused AnyDAdaptAdam:
    DAdaptAdam
    DAdaptAdamDebiased

cdef struct DAdaptAdamScalars:
    double correction                  # sqrt(1 - beta2**t) / (1 - beta1**t), or 1
    double rate, root_beta2, rest      # rest: 1 - root_beta2

cdef inline void dadaptadam_begin(AnyDAdaptAdam h, const StepScalars* now, DAdaptAdamScalars* scalars,
                                  const EstimateShared* shared) noexcept nogil:
    scalars.correction = 1
    if AnyDAdaptAdam is DAdaptAdamDebiased:
        scalars.correction = debias(h.beta1, now.t) / sqrt(debias(h.beta2, now.t))
    scalars.rate = started(shared.d, h.d0) * now.lr * scalars.correction
    scalars.root_beta2, scalars.rest = sqrt(h.beta2), one_less_root(h.beta2)

cdef inline void dadaptadam_terms(AnyDAdaptAdam h, DAdaptAdamScalars scalars, real g, real* m, real* v, real* s,
                                  EstimateTerms* terms) noexcept nogil:
    terms.slope = <double>g * <double>(s[0] / larger(root(v[0]) + <real>h.eps, <real>1e-30))
    m[0] = <real>h.beta1 * m[0] + <real>(scalars.rate * (1 - h.beta1)) * g
    v[0] = <real>h.beta2 * v[0] + <real>(1 - h.beta2) * (g * g)
    s[0] = <real>scalars.root_beta2 * s[0] + <real>(scalars.rate * scalars.rest) * g
    terms.sum_norm = <double>magnitude(s[0])

cdef inline void dadaptadam_finish_all(AnyDAdaptAdam h, const StepScalars* now, DAdaptAdamScalars scalars,
                                       EstimateShared* shared, const EstimateTerms* sums) noexcept nogil:
    cdef double d = started(shared.d, h.d0)
    update_estimate(h.beta2, d * now.max_lr * scalars.correction, d, now, shared, sums)

cdef inline void dadaptadam(AnyDAdaptAdam h, StepScalars now, DAdaptAdamScalars scalars, real* p, real g, real m,
                            real v, real s) noexcept nogil:
    p[0] = p[0] - <real>(scalars.rate * now.weight_decay) * p[0] - m / (root(v) + <real>h.eps)

# traits of DAdaptLion: depends_on_param, decay_inside_update

cdef struct DAdaptLion:
    double beta1, beta2, d0, weight_decay

cdef struct DAdaptLionScalars:
    double rate, max_rate, root_beta2, rest

cdef inline void dadaptlion_begin(DAdaptLion h, const StepScalars* now, DAdaptLionScalars* scalars,
                                  const EstimateShared* shared) noexcept nogil:
    scalars.rate = started(shared.d, h.d0) * now.lr
    scalars.max_rate = started(shared.d, h.d0) * now.max_lr
    scalars.root_beta2, scalars.rest = sqrt(h.beta2), one_less_root(h.beta2)

cdef inline real dadaptlion_direction(DAdaptLion h, real g, real m) noexcept nogil:
    return sign(<real>h.beta1 * m + <real>(1 - h.beta1) * g)

cdef inline real dadaptlion_sum(DAdaptLionScalars scalars, real u, real s) noexcept nogil:
    return <real>scalars.root_beta2 * s + <real>(scalars.max_rate * scalars.rest) * u

cdef inline void dadaptlion_terms(DAdaptLion h, DAdaptLionScalars scalars, real g, real m, real s,
                                  EstimateTerms* terms) noexcept nogil:
    cdef real u = dadaptlion_direction(h, g, m)
    terms.slope = <double>u * <double>s
    terms.sum_norm = <double>magnitude(dadaptlion_sum(scalars, u, s))

cdef inline void dadaptlion_finish_all(DAdaptLion h, const StepScalars* now, EstimateShared* shared,
                                       const EstimateTerms* sums) noexcept nogil:
    cdef double d = started(shared.d, h.d0)
    update_estimate(h.beta2, d * now.max_lr, d, now, shared, sums)

cdef inline void dadaptlion(DAdaptLion h, StepScalars now, DAdaptLionScalars scalars, real* p, real g, real* m,
                            real* s) noexcept nogil:
    cdef real u = dadaptlion_direction(h, g, m[0])
    p[0] = p[0] - <real>(scalars.rate * now.weight_decay) * p[0] - <real>scalars.rate * u
    m[0] = <real>h.beta2 * m[0] + <real>(scalars.max_rate * (1 - h.beta2)) * g
    s[0] = dadaptlion_sum(scalars, u, s[0])


# Prodigy -- Mishchenko & Defazio 2024, arXiv:2306.06101, as the authors' code
# traits of Prodigy, ProdigyDebiased: depends_on_param, decay_inside_update, nonnegative(v), position(x0)

cdef struct Prodigy:
    double beta1, beta2, eps, d0, d_coef, weight_decay

cdef struct ProdigyDebiased:
    double beta1, beta2, eps, d0, d_coef, weight_decay

ctypedef fused AnyProdigy:
    Prodigy
    ProdigyDebiased

cdef struct ProdigyScalars:
    double correction, rate, d, root_beta2, eps        # correction as in D-Adaptation's Adam

cdef inline void prodigy_begin(AnyProdigy h, const StepScalars* now, ProdigyScalars* scalars,
                               const EstimateShared* shared) noexcept nogil:
    scalars.correction = 1
    if AnyProdigy is ProdigyDebiased:
        scalars.correction = debias(h.beta1, now.t) / sqrt(debias(h.beta2, now.t))
    scalars.d = started(shared.d, h.d0)
    scalars.rate = scalars.d * now.lr * scalars.correction
    scalars.root_beta2 = sqrt(h.beta2)

cdef inline void prodigy_terms(AnyProdigy h, StepScalars now, ProdigyScalars scalars, real p, real g, real* m, real* v,
                               real* s, real* x0, EstimateTerms* terms) noexcept nogil:
    x0[0] = p if now.first_update else x0[0]
    terms.slope = <double>g * (<double>x0[0] - <double>p)
    m[0] = <real>h.beta1 * m[0] + <real>(scalars.d * (1 - h.beta1)) * g
    v[0] = <real>h.beta2 * v[0] + <real>(scalars.d * scalars.d * (1 - h.beta2)) * (g * g)
    s[0] = <real>scalars.root_beta2 * s[0] + <real>(scalars.d / h.d0 * scalars.rate) * g
    terms.sum_norm = <double>magnitude(s[0])

cdef inline void prodigy_finish_all(AnyProdigy h, const StepScalars* now, ProdigyScalars scalars,
                                    EstimateShared* shared, const EstimateTerms* sums) noexcept nogil:
    cdef double d = started(shared.d, h.d0)
    shared.d = d
    shared.numerator = sqrt(h.beta2) * shared.numerator + d / h.d0 * (d * now.max_lr * scalars.correction) * sums.slope
    if sums.sum_norm > 0 and now.max_lr > 0:
        shared.d = larger(h.d_coef * shared.numerator / sums.sum_norm, d)

cdef inline void prodigy_finish(AnyProdigy h, ProdigyScalars* scalars, const EstimateShared* shared) noexcept nogil:
    scalars.eps = larger(shared.d * h.eps, <double>1.2e-38)        # (above what is flushed to zero, for an eps of 0)

cdef inline void prodigy(AnyProdigy h, StepScalars now, ProdigyScalars scalars, real* p, real g, real m, real v, real s,
                         real x0) noexcept nogil:
    p[0] = p[0] - <real>(scalars.rate * now.weight_decay) * p[0] \
        - <real>scalars.rate * m / (root(v) + <real>scalars.eps)
