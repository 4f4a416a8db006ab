/* What a C programmer would write by hand: the arithmetic of AdamW in fastlr/rules.pxd, and roofs, loops that move the
   same bytes as a rule with next to no arithmetic. compare.py compiles this for the machine at hand (-march=native). */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

enum { MOST = 6 };                    /* arrays of a rule: the gradient, the parameter, up to four slots */

typedef struct { float keep, beta1, one_beta1, beta2, one_beta2, rate, debias2, eps; } Scalars;

/* n elements of the arrays x[0] (the gradient, only read), x[1], ... */
typedef void (*Kernel)(long n, float **x, Scalars s);

static inline void adamw_elements(long n, const float *restrict g, float *restrict p, float *restrict m,
                                  float *restrict v, Scalars s) {
    for (long i = 0; i < n; i++) {
        m[i] = s.beta1 * m[i] + s.one_beta1 * g[i];
        v[i] = s.beta2 * v[i] + s.one_beta2 * (g[i] * g[i]);
        p[i] = s.keep * p[i] - s.rate * m[i] / (sqrtf(v[i]) * s.debias2 + s.eps);
    }
}

static void adamw_kernel(long n, float **x, Scalars s) { adamw_elements(n, x[0], x[1], x[2], x[3], s); }

/* Read g, read and write the others; as it is called (keep = 1, rate = 0) it leaves their values. */
#define STREAM(count, ...) \
    static void stream##count(long n, float **x, Scalars s) { \
        const float *g = x[0]; \
        float *a = x[1], *b = x[2], *c = x[3], *d = x[4], *e = x[5]; \
        (void)b, (void)c, (void)d, (void)e; \
        _Pragma("GCC ivdep") \
        for (long i = 0; i < n; i++) { \
            const float more = s.rate * g[i]; \
            __VA_ARGS__ \
        } \
    }
#define MOVE(a) a[i] = s.keep * a[i] + more;
STREAM(1, MOVE(a))
STREAM(2, MOVE(a) MOVE(b))
STREAM(3, MOVE(a) MOVE(b) MOVE(c))
STREAM(4, MOVE(a) MOVE(b) MOVE(c) MOVE(d))
STREAM(5, MOVE(a) MOVE(b) MOVE(c) MOVE(d) MOVE(e))

enum { CHUNK = 32768 };

typedef struct {
    Kernel kernel;
    long count, n, chunks;            /* chunks of each tensor */
    int arrays;
    float ***x;                       /* of each array, where each tensor's lies */
    Scalars s;
    atomic_long next;
} Job;

static void chunk(const Job *job, long k, long low) {
    float *x[MOST] = {0};
    long size = job->n - low < CHUNK ? job->n - low : CHUNK;
    for (int j = 0; j < job->arrays; j++)
        x[j] = job->x[j][k] + low;
    job->kernel(size, x, job->s);
}

static void *help(void *given) {
    Job *job = given;
    long claimed;
    while ((claimed = atomic_fetch_add(&job->next, 1)) < job->count * job->chunks)
        chunk(job, claimed / job->chunks, claimed % job->chunks * CHUNK);
    return 0;
}

/* `count` tensors of n elements each: whoever is awake takes the next chunk. */
static void each(Kernel kernel, long count, long n, int arrays, float ***x, Scalars s, int threads) {
    Job job = {kernel, count, n, (n + CHUNK - 1) / CHUNK, arrays, x, s, 0};
    pthread_t ids[64];
    if (threads == 1)
        for (long k = 0; k < count; k++)
            for (long low = 0; low < n; low += CHUNK)
                chunk(&job, k, low);
    for (int w = 1; w < threads && w < 64; w++)
        pthread_create(&ids[w], 0, help, &job);
    if (threads > 1)
        help(&job);
    for (int w = 1; w < threads && w < 64; w++)
        pthread_join(ids[w], 0);
}

/* x: gradients, parameters, m, v */
void adamw(long count, long n, float ***x, int threads, long t, double lr, double beta1, double beta2, double eps,
           double weight_decay) {
    Scalars s = {1 - lr * weight_decay, beta1, 1 - beta1, beta2, 1 - beta2,
                 lr / (1 - pow(beta1, t)), 1 / sqrt(1 - pow(beta2, t)), eps};
    each(adamw_kernel, count, n, 4, x, s, threads);
}

/* x: gradients, then `moved` arrays that are read and written */
void stream(long count, long n, float ***x, int threads, int moved) {
    static const Kernel kernels[MOST] = {0, stream1, stream2, stream3, stream4, stream5};
    Scalars s = {.keep = 1};
    each(kernels[moved], count, n, 1 + moved, x, s, threads);
}
