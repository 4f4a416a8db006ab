/* The time of one step of a plan of AdamW in a C program, on one thread: 500 tensors of 64 floats, and others.

   `python benchmarks/c_plan.py` compiles and runs it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <fastlr/fastlr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 201 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(const fastlr_api *lr, fastlr_plan *plan, int error)
{
    if (error != FASTLR_OK) {
        fprintf(stderr, "%s: %s\n", lr->message(error), lr->plan_message(plan));
        exit(1);
    }
}

/* Microseconds of a step: the median of rounds, and the least. */
static void measure(const fastlr_api *lr, int64_t tensors, int64_t size, const char *option, const char *value)
{
    fastlr_plan *plan = lr->plan_new("adamw");
    const void **gradients = calloc(tensors, sizeof(void *));
    float *p = calloc(tensors * size, sizeof(float)), *g = calloc(tensors * size, sizeof(float));
    double rounds[ROUNDS];
    int steps = (int)(2000000 / (tensors * (size + 20))) + 1;
    PyThreadState *python;
    if (plan == NULL) {
        fprintf(stderr, "%s\n", lr->plan_message(NULL));
        exit(1);
    }
    if (option != NULL)
        check(lr, plan, lr->plan_option(plan, -1, option, value));
    for (int64_t k = 0; k < tensors; k++) {
        fastlr_tensor tensor = {.struct_size = sizeof(tensor), .dtype = FASTLR_FLOAT32, .data = p + k * size,
                                .shape = &size, .ndim = 1};
        gradients[k] = g + k * size;
        check(lr, plan, lr->plan_add(plan, &tensor));
    }
    for (int64_t k = 0; k < tensors * size; k++) {
        p[k] = (float)rand() / RAND_MAX - 0.5f;
        g[k] = (float)rand() / RAND_MAX - 0.5f;
    }
    check(lr, plan, lr->plan_build(plan));
    python = PyEval_SaveThread();      /* from here on, without the GIL */
    for (int k = 0; k < ROUNDS; k++) {
        double start = now();
        for (int t = 0; t < steps; t++)
            check(lr, plan, lr->plan_step(plan, gradients, NULL));
        rounds[k] = (now() - start) / steps;
    }
    PyEval_RestoreThread(python);
    qsort(rounds, ROUNDS, sizeof(double), compare);
    printf("%6lld x %-8lld %-24s median %8.2f us   min %8.2f us\n", (long long)tensors, (long long)size,
           option ? option : "", rounds[ROUNDS / 2], rounds[0]);
    check(lr, plan, lr->plan_free(plan));
    free(gradients);
    free(p);
    free(g);
}

int main(void)
{
    const fastlr_api *lr;
    Py_Initialize();
    lr = fastlr_import();
    if (lr == NULL) {
        PyErr_Print();
        return 1;
    }
    measure(lr, 1, 64, NULL, NULL);
    measure(lr, 500, 64, NULL, NULL);
    measure(lr, 500, 64, "clip_norm", "1.0");
    measure(lr, 500, 64, "lr", "cosine(1e-3, steps=100000).warmup(100)");
    measure(lr, 100, 1000, NULL, NULL);
    return 0;
}
