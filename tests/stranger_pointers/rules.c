/* Rules in C, of Momentum's formula and of LARS's, so that tests know the right bits; compiled into a shared library. */
#include <math.h>

#include <fastlr/fastlr.h>

#ifdef _WIN32
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED
#endif

/* What tests hold against the rules' side of fastlr. */
EXPORTED int step_scalars_size(void) { return (int)sizeof(fastlr_step_scalars); }
EXPORTED int own_scalars(void) { return FASTLR_OWN_SCALARS; }


/* Of each element by itself. hyper: momentum, dampening; own: the weight of a gradient in the velocity. */

EXPORTED fastlr_scalars_function heavyball_scalars;
EXPORTED fastlr_step_function heavyball_float, heavyball_double;

void heavyball_scalars(const double *hyper, fastlr_step_scalars *now)
{
    now->own[0] = 1 - hyper[1] * (1 - now->first_update);
}

#define HEAVYBALL(T)                                                                                                 \
    void heavyball_##T(const double *hyper, const fastlr_step_scalars *now, void *params, const void *gradients,     \
                       void *const *slots, ptrdiff_t n)                                                              \
    {                                                                                                                \
        const T decay_factor = (T)now->decay_factor, momentum = (T)hyper[0], weight = (T)now->own[0];                \
        const T lr = (T)now->lr;                                                                                     \
        T *restrict p = params, *restrict m = slots[0];                                                              \
        const T *restrict g = gradients;                                                                             \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                          \
            m[i] = momentum * m[i] + weight * g[i];                                                                  \
            p[i] = decay_factor * p[i] - lr * m[i];                                                                  \
        }                                                                                                            \
    }
HEAVYBALL(float)
HEAVYBALL(double)


/* By the norms of a tensor and its gradient. hyper: momentum, trust_coefficient, eps, weight_decay; own: the rate. */

enum { LANES = 16, TILE = 256 };

EXPORTED fastlr_terms_function layerwise_terms_float, layerwise_terms_double;
EXPORTED fastlr_finish_function layerwise_finish;
EXPORTED fastlr_step_function layerwise_float, layerwise_double;

/* The sum of at most TILE terms in the order of fastlr's own rules: sixteen lanes, folded in halves. Any other order
   that depends on n alone keeps the promises, too. */
static double sum(double *term, ptrdiff_t n)
{
    double lane[LANES] = {0};
    for (ptrdiff_t i = 0; i < n; i++)
        lane[i % LANES] += term[i];
    for (int width = LANES / 2; width > 2; width /= 2)
        for (int j = 0; j < width; j++)
            lane[j] += lane[j + width];
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

#define LAYERWISE(T)                                                                                                 \
    void layerwise_terms_##T(const double *hyper, const fastlr_step_scalars *now, const void *params,                \
                             const void *gradients, void *const *slots, double *totals, ptrdiff_t n)                 \
    {                                                                                                                \
        const T decay_factor = (T)now->decay_factor, *p = params, *g = gradients;                                    \
        double param_squares[TILE], grad_squares[TILE];                                                              \
        (void)hyper, (void)slots;                                                                                    \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                          \
            const double x = decay_factor * p[i], y = g[i];                                                          \
            param_squares[i] = x * x;                                                                                \
            grad_squares[i] = y * y;                                                                                 \
        }                                                                                                            \
        totals[0] += sum(param_squares, n);                                                                          \
        totals[1] += sum(grad_squares, n);                                                                           \
    }                                                                                                                \
                                                                                                                     \
    void layerwise_##T(const double *hyper, const fastlr_step_scalars *now, void *params, const void *gradients,     \
                       void *const *slots, ptrdiff_t n)                                                              \
    {                                                                                                                \
        const T decay_factor = (T)now->decay_factor, momentum = (T)hyper[0], rate = (T)now->own[0];                  \
        const T weight_decay = (T)now->weight_decay;                                                                 \
        T *restrict p = params, *restrict m = slots[0];                                                              \
        const T *restrict g = gradients;                                                                             \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                          \
            const T x = decay_factor * p[i];                                                                         \
            m[i] = momentum * m[i] + rate * (g[i] + weight_decay * x);                                               \
            p[i] = x - m[i];                                                                                         \
        }                                                                                                            \
    }
LAYERWISE(float)
LAYERWISE(double)

void layerwise_finish(const double *hyper, fastlr_step_scalars *now, double *memory, const double *shared,
                      const double *totals, double size)
{
    const double norm = sqrt(totals[0]), length = sqrt(totals[1]) + now->weight_decay * norm;
    (void)memory, (void)shared, (void)size;
    now->own[0] = now->lr * (norm > 0 && length > 0 ? hyper[1] * norm / (length + hyper[2]) : 1);
}
