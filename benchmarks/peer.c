/* What a C programmer would write by hand: the arithmetic of AdamW in fastlr/rules.pxd, and the roof, a loop that moves
   the same bytes with next to no arithmetic. compare.py compiles this for the machine at hand (-march=native). */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

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

enum { CHUNK = 32768 };

typedef struct {
    Kernel kernel;
    long count, n, chunks;            /* chunks of each tensor */
    float **p, **g, **m, **v;
    Scalars s;
    atomic_long next;
} Job;

static void *help(void *given) {
    Job *job = given;
    long claimed;
    while ((claimed = atomic_fetch_add(&job->next, 1)) < job->count * job->chunks) {
        long k = claimed / job->chunks, low = claimed % job->chunks * CHUNK;
        long size = job->n - low < CHUNK ? job->n - low : CHUNK;
        job->kernel(size, job->p[k] + low, job->g[k] + low, job->m[k] + low, job->v[k] + low, job->s);
    }
    return 0;
}

/* `count` tensors of n elements each: whoever is awake takes the next chunk. */
static void each(Kernel kernel, long count, long n, float **p, float **g, float **m, float **v, Scalars s, int threads) {
    Job job = {kernel, count, n, (n + CHUNK - 1) / CHUNK, p, g, m, v, s, 0};
    pthread_t ids[64];
    if (threads == 1)
        for (long k = 0; k < count; k++)
            kernel(n, p[k], g[k], m[k], v[k], s);
    for (int w = 1; w < threads && w < 64; w++)
        pthread_create(&ids[w], 0, help, &job);
    if (threads > 1)
        help(&job);
    for (int w = 1; w < threads && w < 64; w++)
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
