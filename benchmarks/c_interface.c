/* Steps through fastlr's C interface, `calls` times over `count` tensors of n floats: release_workloads.py compiles this
   with each release's own header. x: the tensors of p, then of g, then of each slot. */
#include <fastlr/fastlr.h>

int steps(const fastlr_api *lr, const char *name, long calls, long count, long n, float **x) {
    const fastlr_rule *rule = lr->rule(name);
    int error = FASTLR_OK;
    for (long t = 1; t <= calls && error == FASTLR_OK; t++)
        for (long k = 0; k < count && error == FASTLR_OK; k++) {
            void *slots[4] = {0};
            for (int j = 0; rule && j < rule->slots && j < 4; j++)
                slots[j] = x[(2 + j) * count + k];
            error = lr->step(rule, FASTLR_FLOAT32, t, 1e-6, 0, n, x[k], x[count + k], slots);
        }
    return error;
}
