# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# Made by `python -m fastlr.optimizers.stubs` from the declarations; do not edit.
"""The functions of elementwise rules for Cython: one update of one tensor by typed memoryviews, no GIL.

    from fastlr.kernels cimport adamw
    error = adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay)

First the parameter, its gradient and the state in the order of the class's slots: contiguous, of one length, all float
or all double; a rule that remembers numbers of the tensor as a whole takes them last, as doubles. Then t (1 at first
and all hyper-parameters, in the order of the class. What is returned is FASTLR_OK or another `fastlr_error` of
c_api.pxd: then nothing was written. The bits are those of the optimizer of that name. The first call of a function, and
the first one with a large tensor, take the GIL for a moment: to load the rule, and to start threads. Compile with the
folder of `fastlr.get_include()`.
"""
from libc.stdint cimport int64_t
from fastlr.c_api cimport FASTLR_BAD_SIZE, FASTLR_OK, fastlr_rule
from fastlr.rules.element cimport real

cdef int step_typed(const fastlr_rule** rule, const char* name, bint is_double, int64_t t, double lr,
                    const double* hyper, int64_t n, void* p, const void* g, void** slots) noexcept nogil

# What each function has found by its name.
cdef const fastlr_rule* adabelief_rule
cdef const fastlr_rule* adabound_rule
cdef const fastlr_rule* adadelta_rule
cdef const fastlr_rule* adagrad_rule
cdef const fastlr_rule* adam_rule
cdef const fastlr_rule* adamax_rule
cdef const fastlr_rule* adams_rule
cdef const fastlr_rule* adamw_rule
cdef const fastlr_rule* adan_rule
cdef const fastlr_rule* ademamix_rule
cdef const fastlr_rule* adopt_rule
cdef const fastlr_rule* aggmo_rule
cdef const fastlr_rule* amsgrad_rule
cdef const fastlr_rule* asgd_rule
cdef const fastlr_rule* diffgrad_rule
cdef const fastlr_rule* ftrl_rule
cdef const fastlr_rule* grams_rule
cdef const fastlr_rule* laprop_rule
cdef const fastlr_rule* lion_rule
cdef const fastlr_rule* madgrad_rule
cdef const fastlr_rule* momentum_rule
cdef const fastlr_rule* nadam_rule
cdef const fastlr_rule* nadamw_rule
cdef const fastlr_rule* nesterov_rule
cdef const fastlr_rule* qhadam_rule
cdef const fastlr_rule* qhm_rule
cdef const fastlr_rule* radam_rule
cdef const fastlr_rule* radamw_rule
cdef const fastlr_rule* rmsprop_rule
cdef const fastlr_rule* rmspropcentered_rule
cdef const fastlr_rule* rmspropcenteredmomentum_rule
cdef const fastlr_rule* rmspropmomentum_rule
cdef const fastlr_rule* rprop_rule
cdef const fastlr_rule* schedulefreeadamw_rule
cdef const fastlr_rule* schedulefreeradam_rule
cdef const fastlr_rule* schedulefreesgd_rule
cdef const fastlr_rule* sgd_rule
cdef const fastlr_rule* sgdw_rule
cdef const fastlr_rule* signsgd_rule
cdef const fastlr_rule* signum_rule
cdef const fastlr_rule* sophia_rule
cdef const fastlr_rule* tiger_rule
cdef const fastlr_rule* yogi_rule

cdef inline int adabelief(real[::1] p, const real[::1] g, real[::1] m, real[::1] s, int64_t t, double lr, double beta1,
                          double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or s.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &s[0]
    return step_typed(&adabelief_rule, "adabelief", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0],
                      &g[0], slots)

cdef inline int adabound(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                         double beta2, double final_scale, double gamma, double eps,
                         double weight_decay) noexcept nogil:
    cdef double[6] hyper = [beta1, beta2, final_scale, gamma, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&adabound_rule, "adabound", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0],
                      &g[0], slots)

cdef inline int adadelta(real[::1] p, const real[::1] g, real[::1] v, real[::1] u, int64_t t, double lr, double rho,
                         double eps, double weight_decay) noexcept nogil:
    cdef double[3] hyper = [rho, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or u.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &v[0]
    slots[1] = &u[0]
    return step_typed(&adadelta_rule, "adadelta", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0],
                      &g[0], slots)

cdef inline int adagrad(real[::1] p, const real[::1] g, real[::1] s, int64_t t, double lr, double lr_decay, double eps,
                        double weight_decay) noexcept nogil:
    cdef double[3] hyper = [lr_decay, eps, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or s.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &s[0]
    return step_typed(&adagrad_rule, "adagrad", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int adam(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                     double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&adam_rule, "adam", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int adamax(real[::1] p, const real[::1] g, real[::1] m, real[::1] u, int64_t t, double lr, double beta1,
                       double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or u.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &u[0]
    return step_typed(&adamax_rule, "adamax", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int adams(real[::1] p, const real[::1] g, real[::1] m, int64_t t, double lr, double beta1, double beta2,
                      double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    return step_typed(&adams_rule, "adams", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int adamw(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                      double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&adamw_rule, "adamw", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int adan(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, real[::1] n, real[::1] g_prev, int64_t t,
                     double lr, double beta1, double beta2, double beta3, double eps,
                     double weight_decay) noexcept nogil:
    cdef double[5] hyper = [beta1, beta2, beta3, eps, weight_decay]
    cdef void* slots[4]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or n.shape[0] != p.shape[0] \
            or g_prev.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    slots[2] = &n[0]
    slots[3] = &g_prev[0]
    return step_typed(&adan_rule, "adan", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int ademamix(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, real[::1] m2, int64_t t, double lr,
                         double beta1, double beta2, double beta3, double alpha, double alpha_warmup,
                         double beta3_warmup, double eps, double weight_decay) noexcept nogil:
    cdef double[8] hyper = [beta1, beta2, beta3, alpha, alpha_warmup, beta3_warmup, eps, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or m2.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    slots[2] = &m2[0]
    return step_typed(&ademamix_rule, "ademamix", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0],
                      &g[0], slots)

cdef inline int adopt(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                      double beta2, double clip_exponent, double eps, double weight_decay) noexcept nogil:
    cdef double[5] hyper = [beta1, beta2, clip_exponent, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&adopt_rule, "adopt", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int aggmo(real[::1] p, const real[::1] g, real[::1] m1, real[::1] m2, real[::1] m3, int64_t t, double lr,
                      double beta1, double beta2, double beta3, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, beta3, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or m1.shape[0] != p.shape[0] or m2.shape[0] != p.shape[0] \
            or m3.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m1[0]
    slots[1] = &m2[0]
    slots[2] = &m3[0]
    return step_typed(&aggmo_rule, "aggmo", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int amsgrad(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, real[::1] vmax, int64_t t, double lr,
                        double beta1, double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] \
            or vmax.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    slots[2] = &vmax[0]
    return step_typed(&amsgrad_rule, "amsgrad", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int asgd(real[::1] p, const real[::1] g, real[::1] ax, double[::1] memory, int64_t t, double lr,
                     double lambd, double alpha, double t0, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [lambd, alpha, t0, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or ax.shape[0] != p.shape[0] or memory.shape[0] != 1:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &ax[0]
    slots[1] = &memory[0]
    return step_typed(&asgd_rule, "asgd", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int diffgrad(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, real[::1] g_prev, int64_t t,
                         double lr, double beta1, double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] \
            or g_prev.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    slots[2] = &g_prev[0]
    return step_typed(&diffgrad_rule, "diffgrad", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0],
                      &g[0], slots)

cdef inline int ftrl(real[::1] p, const real[::1] g, real[::1] z, real[::1] n, double[::1] memory, int64_t t, double lr,
                     double beta, double l1, double l2, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta, l1, l2, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or z.shape[0] != p.shape[0] or n.shape[0] != p.shape[0] or memory.shape[0] != 1:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &z[0]
    slots[1] = &n[0]
    slots[2] = &memory[0]
    return step_typed(&ftrl_rule, "ftrl", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int grams(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                      double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&grams_rule, "grams", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int laprop(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                       double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&laprop_rule, "laprop", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int lion(real[::1] p, const real[::1] g, real[::1] m, int64_t t, double lr, double beta1, double beta2,
                     double weight_decay) noexcept nogil:
    cdef double[3] hyper = [beta1, beta2, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    return step_typed(&lion_rule, "lion", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int madgrad(real[::1] p, const real[::1] g, real[::1] s, real[::1] v, real[::1] x0, int64_t t, double lr,
                        double momentum, double eps, double weight_decay) noexcept nogil:
    cdef double[3] hyper = [momentum, eps, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or s.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or x0.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &s[0]
    slots[1] = &v[0]
    slots[2] = &x0[0]
    return step_typed(&madgrad_rule, "madgrad", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int momentum(real[::1] p, const real[::1] g, real[::1] m, int64_t t, double lr, double momentum,
                         double dampening, double weight_decay) noexcept nogil:
    cdef double[3] hyper = [momentum, dampening, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    return step_typed(&momentum_rule, "momentum", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0],
                      &g[0], slots)

cdef inline int nadam(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, double[::1] memory, int64_t t,
                      double lr, double beta1, double beta2, double eps, double momentum_decay,
                      double weight_decay) noexcept nogil:
    cdef double[5] hyper = [beta1, beta2, eps, momentum_decay, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or memory.shape[0] != 1:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    slots[2] = &memory[0]
    return step_typed(&nadam_rule, "nadam", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int nadamw(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, double[::1] memory, int64_t t,
                       double lr, double beta1, double beta2, double eps, double momentum_decay,
                       double weight_decay) noexcept nogil:
    cdef double[5] hyper = [beta1, beta2, eps, momentum_decay, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or memory.shape[0] != 1:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    slots[2] = &memory[0]
    return step_typed(&nadamw_rule, "nadamw", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int nesterov(real[::1] p, const real[::1] g, real[::1] m, int64_t t, double lr, double momentum,
                         double weight_decay) noexcept nogil:
    cdef double[2] hyper = [momentum, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    return step_typed(&nesterov_rule, "nesterov", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0],
                      &g[0], slots)

cdef inline int qhadam(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                       double beta2, double nu1, double nu2, double eps, double weight_decay) noexcept nogil:
    cdef double[6] hyper = [beta1, beta2, nu1, nu2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&qhadam_rule, "qhadam", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int qhm(real[::1] p, const real[::1] g, real[::1] m, int64_t t, double lr, double momentum, double nu,
                    double weight_decay) noexcept nogil:
    cdef double[3] hyper = [momentum, nu, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    return step_typed(&qhm_rule, "qhm", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int radam(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                      double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&radam_rule, "radam", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int radamw(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                       double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&radamw_rule, "radamw", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int rmsprop(real[::1] p, const real[::1] g, real[::1] v, int64_t t, double lr, double alpha, double eps,
                        double weight_decay) noexcept nogil:
    cdef double[3] hyper = [alpha, eps, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &v[0]
    return step_typed(&rmsprop_rule, "rmsprop", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int rmspropcentered(real[::1] p, const real[::1] g, real[::1] v, real[::1] a, int64_t t, double lr,
                                double alpha, double eps, double weight_decay) noexcept nogil:
    cdef double[3] hyper = [alpha, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or a.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &v[0]
    slots[1] = &a[0]
    return step_typed(&rmspropcentered_rule, "rmspropcentered", sizeof(real) == sizeof(double), t, lr, hyper,
                      p.shape[0], &p[0], &g[0], slots)

cdef inline int rmspropcenteredmomentum(real[::1] p, const real[::1] g, real[::1] v, real[::1] a, real[::1] m,
                                        int64_t t, double lr, double alpha, double eps, double momentum,
                                        double weight_decay) noexcept nogil:
    cdef double[4] hyper = [alpha, eps, momentum, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or a.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &v[0]
    slots[1] = &a[0]
    slots[2] = &m[0]
    return step_typed(&rmspropcenteredmomentum_rule, "rmspropcenteredmomentum", sizeof(real) == sizeof(double), t, lr,
                      hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int rmspropmomentum(real[::1] p, const real[::1] g, real[::1] v, real[::1] m, int64_t t, double lr,
                                double alpha, double eps, double momentum, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [alpha, eps, momentum, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &v[0]
    slots[1] = &m[0]
    return step_typed(&rmspropmomentum_rule, "rmspropmomentum", sizeof(real) == sizeof(double), t, lr, hyper,
                      p.shape[0], &p[0], &g[0], slots)

cdef inline int rprop(real[::1] p, const real[::1] g, real[::1] g_prev, real[::1] s, int64_t t, double lr,
                      double eta_minus, double eta_plus, double step_min, double step_max,
                      double weight_decay) noexcept nogil:
    cdef double[5] hyper = [eta_minus, eta_plus, step_min, step_max, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or g_prev.shape[0] != p.shape[0] or s.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &g_prev[0]
    slots[1] = &s[0]
    return step_typed(&rprop_rule, "rprop", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int schedulefreeadamw(real[::1] p, const real[::1] g, real[::1] z, real[::1] v, double[::1] memory,
                                  int64_t t, double lr, double beta1, double beta2, double eps, double warmup_steps,
                                  double r, double weight_lr_power, double weight_decay) noexcept nogil:
    cdef double[7] hyper = [beta1, beta2, eps, warmup_steps, r, weight_lr_power, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or z.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or memory.shape[0] != 3:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &z[0]
    slots[1] = &v[0]
    slots[2] = &memory[0]
    return step_typed(&schedulefreeadamw_rule, "schedulefreeadamw", sizeof(real) == sizeof(double), t, lr, hyper,
                      p.shape[0], &p[0], &g[0], slots)

cdef inline int schedulefreeradam(real[::1] p, const real[::1] g, real[::1] z, real[::1] v, double[::1] memory,
                                  int64_t t, double lr, double beta1, double beta2, double eps, double r,
                                  double weight_lr_power, double weight_decay) noexcept nogil:
    cdef double[6] hyper = [beta1, beta2, eps, r, weight_lr_power, weight_decay]
    cdef void* slots[3]
    if g.shape[0] != p.shape[0] or z.shape[0] != p.shape[0] or v.shape[0] != p.shape[0] or memory.shape[0] != 3:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &z[0]
    slots[1] = &v[0]
    slots[2] = &memory[0]
    return step_typed(&schedulefreeradam_rule, "schedulefreeradam", sizeof(real) == sizeof(double), t, lr, hyper,
                      p.shape[0], &p[0], &g[0], slots)

cdef inline int schedulefreesgd(real[::1] p, const real[::1] g, real[::1] z, double[::1] memory, int64_t t, double lr,
                                double momentum, double warmup_steps, double r, double weight_lr_power,
                                double weight_decay) noexcept nogil:
    cdef double[5] hyper = [momentum, warmup_steps, r, weight_lr_power, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or z.shape[0] != p.shape[0] or memory.shape[0] != 3:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &z[0]
    slots[1] = &memory[0]
    return step_typed(&schedulefreesgd_rule, "schedulefreesgd", sizeof(real) == sizeof(double), t, lr, hyper,
                      p.shape[0], &p[0], &g[0], slots)

cdef inline int sgd(real[::1] p, const real[::1] g, int64_t t, double lr, double weight_decay) noexcept nogil:
    cdef double[1] hyper = [weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = NULL
    return step_typed(&sgd_rule, "sgd", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int sgdw(real[::1] p, const real[::1] g, real[::1] m, int64_t t, double lr, double momentum,
                     double dampening, double weight_decay) noexcept nogil:
    cdef double[3] hyper = [momentum, dampening, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    return step_typed(&sgdw_rule, "sgdw", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)

cdef inline int signsgd(real[::1] p, const real[::1] g, int64_t t, double lr, double weight_decay) noexcept nogil:
    cdef double[1] hyper = [weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = NULL
    return step_typed(&signsgd_rule, "signsgd", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int signum(real[::1] p, const real[::1] g, real[::1] m, int64_t t, double lr, double momentum,
                       double weight_decay) noexcept nogil:
    cdef double[2] hyper = [momentum, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    return step_typed(&signum_rule, "signum", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int sophia(real[::1] p, const real[::1] g, real[::1] m, real[::1] h, int64_t t, double lr, double beta1,
                       double beta2, double rho, double eps, double weight_decay) noexcept nogil:
    cdef double[5] hyper = [beta1, beta2, rho, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or h.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &h[0]
    return step_typed(&sophia_rule, "sophia", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int tiger(real[::1] p, const real[::1] g, real[::1] m, int64_t t, double lr, double momentum,
                      double weight_decay) noexcept nogil:
    cdef double[2] hyper = [momentum, weight_decay]
    cdef void* slots[1]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    return step_typed(&tiger_rule, "tiger", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0],
                      slots)

cdef inline int yogi(real[::1] p, const real[::1] g, real[::1] m, real[::1] v, int64_t t, double lr, double beta1,
                     double beta2, double eps, double weight_decay) noexcept nogil:
    cdef double[4] hyper = [beta1, beta2, eps, weight_decay]
    cdef void* slots[2]
    if g.shape[0] != p.shape[0] or m.shape[0] != p.shape[0] or v.shape[0] != p.shape[0]:
        return FASTLR_BAD_SIZE
    if p.shape[0] == 0:
        return FASTLR_OK
    slots[0] = &m[0]
    slots[1] = &v[0]
    return step_typed(&yogi_rule, "yogi", sizeof(real) == sizeof(double), t, lr, hyper, p.shape[0], &p[0], &g[0], slots)
