/* What a C programmer would write by hand: the arithmetic of AdamW in fastlr/rules.pxd, and the roof, a loop that moves
   the same bytes with next to no arithmetic. compare.py compiles this for the machine at hand (-march=native). */
#include <math.h>
#include <pthread.h>

typedef struct { float keep, beta1, one_beta1, beta2, one_beta2, rate, debias2, eps; } Scalars;

typedef void (*Kernel)(long n, float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
                       Scalars s);

static void adamw_kernel(long n, float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
                         Scalars s) {
    for (long i = 0; i < n; i++) {
        m[i] = s.beta1 * m[i] + s.one_beta1 * g[i];
        v[i] = s.beta2 * v[i] + s.one_beta2 * (g[i] * g[i]);
        p[i] = s.keep * p[i] - s.rate * m[i] / (sqrtf(v[i]) * s.debias2 + s.eps);
    }
}

static void stream_kernel(long n, float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
                          Scalars s) {
    for (long i = 0; i < n; i++) {
        p[i] = s.keep * p[i] + g[i];
        m[i] = s.beta1 * m[i] + g[i];
        v[i] = s.beta2 * v[i] + g[i];
    }
}

typedef struct {
    Kernel kernel;
    long count, low, high;            /* of all tensors, or of the one */
    float **p, **g, **m, **v;
    Scalars s;
} Part;

static void *part(void *given) {
    Part *x = given;
    for (long k = 0; k < x->count; k++)
        x->kernel(x->high - x->low, x->p[k] + x->low, x->g[k] + x->low, x->m[k] + x->low, x->v[k] + x->low, x->s);
    return 0;
}

/* `count` tensors of n elements: each thread takes its share of the tensors, or of the only one. */
static void each(Kernel kernel, long count, long n, float **p, float **g, float **m, float **v, Scalars s, int threads) {
    Part parts[64];
    pthread_t ids[64];
    threads = threads < 64 ? threads : 64;
    long whole = count > 1 ? count : n, share = ((whole + threads - 1) / threads + 15) / 16 * 16;
    for (int w = threads - 1; w >= 0; w--) {
        long low = w * share, high = low + share < whole ? low + share : whole;
        parts[w] = count > 1 ? (Part){kernel, high - low, 0, n, p + low, g + low, m + low, v + low, s}
                             : (Part){kernel, 1, low, high, p, g, m, v, s};
        if (w > 0)
            pthread_create(&ids[w], 0, part, &parts[w]);
        else
            part(&parts[0]);
    }
    for (int w = 1; w < threads; w++)
        pthread_join(ids[w], 0);
}

void adamw(long count, long n, float **p, float **g, float **m, float **v, int threads, long t, double lr, double beta1,
           double beta2, double eps, double weight_decay) {
    Scalars s = {1 - lr * weight_decay, beta1, 1 - beta1, beta2, 1 - beta2,
                 lr / (1 - pow(beta1, t)), 1 / sqrt(1 - pow(beta2, t)), eps};
    each(adamw_kernel, count, n, p, g, m, v, s, threads);
}

void stream(long count, long n, float **p, float **g, float **m, float **v, int threads) {
    Scalars s = {.keep = 0.5f, .beta1 = 0.5f, .beta2 = 0.5f};
    each(stream_kernel, count, n, p, g, m, v, s, threads);
}
