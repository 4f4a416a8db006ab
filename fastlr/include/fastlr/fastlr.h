/* fastlr for C and C++: its update rules and its schedules, without Python in the loop.

   Compile with -I of `python -c "import fastlr; print(fastlr.get_include())"`; there is nothing to link. Fetch the
   table once, holding the GIL, and keep it: it and the rules in it stay where they are until the process ends.

       #include <Python.h>
       #include <fastlr/fastlr.h>

       const fastlr_api *lr = fastlr_import();                 // NULL: a Python exception is set
       const fastlr_rule *adam = lr->rule("adam");
       void *state[2] = {m, v};                                // in the order of adam->slot_names, zeros at first
       for (int64_t t = 1; t <= steps; t++)
           if (lr->step(adam, FASTLR_FLOAT32, t, 1e-3, NULL, n, p, g, state) != FASTLR_OK) ...

   Without Python.h there are the declarations alone, for those who get the pointer of the capsule `fastlr._C_API`
   in another way (ctypes, cffi). */
#ifndef FASTLR_H
#define FASTLR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when something below changes its meaning or place. Entries are only ever appended: `struct_size` tells. */
#define FASTLR_ABI_VERSION 1u

/* What arrays hold: DLPack's type code (2 is float) in the upper byte, bits in the lower. */
enum fastlr_dtype {
    FASTLR_FLOAT32 = 0x0220,
    FASTLR_FLOAT64 = 0x0240
};

/* What step() returns; `message` says it in words. Unless it is FASTLR_OK, nothing was written. */
enum fastlr_error {
    FASTLR_OK = 0,
    FASTLR_NO_RULE = 1,            /* the rule is NULL */
    FASTLR_BAD_DTYPE = 2,          /* neither FASTLR_FLOAT32 nor FASTLR_FLOAT64 */
    FASTLR_BAD_T = 3,              /* t < 1 or t >= 2**62 */
    FASTLR_BAD_HYPER = 4,          /* lr or a hyper-parameter is not in [low, high) */
    FASTLR_BAD_SIZE = 5,           /* n < 0, or more bytes than there can be */
    FASTLR_BAD_POINTER = 6,        /* an array is NULL, or not aligned to its elements */
    FASTLR_OVERLAP = 7,            /* two arrays share memory */
    FASTLR_NO_MEMORY = 8
};

/* One elementwise update rule. Only ever appended to, and only fastlr makes one. */
typedef struct fastlr_rule {
    const char *name;              /* lower case, as in fastlr.kernels: "adamw" */
    int slots;                     /* arrays of state per parameter, each of its size and dtype */
    int hypers;                    /* hyper-parameters besides the learning rate */
    const char *const *slot_names;
    const char *const *hyper_names;
    const double *defaults;        /* of the hyper-parameters, as in the Python class */
    const double *low;             /* low[k] <= hyper[k] < high[k] */
    const double *high;
    const double *starts;          /* what each slot holds before the first update */
    int memories;                  /* numbers remembered of the tensor as a whole, usually none */
} fastlr_rule;

struct _object;                    /* Python's PyObject */

/* A schedule, as `schedule` gives it. */
typedef struct fastlr_schedule fastlr_schedule;

/* A rule of your own, for `fastlr.rule_from_pointers` (docs/rules.md). What is the same for all elements of a tensor in
   one step, computed in double. fastlr fills it but for `own`, before it calls `scalars`. */
#define FASTLR_OWN_SCALARS 8
typedef struct fastlr_step_scalars {
    double t;                      /* which update of the tensor this is: 1, 2, ... */
    double lr;                     /* the learning rate of this step */
    double max_lr;                 /* the largest learning rate of any tensor in this step */
    double decay_factor;           /* what decoupled weight decay leaves of a parameter; 1 without it */
    double weight_decay;           /* decoupled weight decay that the rule adds itself, or 0 (decay_inside_update) */
    double first_update;           /* 1 at the tensor's first update, 0 after */
    double loss;                   /* NaN: only fastlr's own classes are given one */
    double own[FASTLR_OWN_SCALARS];        /* the rule's own, 0 at first: `scalars`, `begin` and `finish` fill them */
} fastlr_step_scalars;

/* The types of the functions of a rule. `hyper` has the rule's hyper-parameters in the order of their names; elements
   (void) are float or double, n of them contiguous: p, g and each of slots. They are called without the GIL, from
   several threads, and must depend on their arguments alone. Declare yours by these, and the compiler checks them:

       static fastlr_step_function step_float32;
       static void step_float32(const double *hyper, const fastlr_step_scalars *now, void *p, const void *g,
                                void *const *slots, ptrdiff_t n) ... */

/* Fills now->own, once per group and age of a tensor. */
typedef void fastlr_scalars_function(const double *hyper, fastlr_step_scalars *now);

/* Changes now->own by what is remembered of the tensor (`memory`) and of all tensors (`shared`), once per tensor,
   before any element. */
typedef void fastlr_begin_function(const double *hyper, fastlr_step_scalars *now, double *memory,
                                   const double *shared);

/* Moves n elements, after it multiplied each parameter by now->decay_factor. */
typedef void fastlr_step_function(const double *hyper, const fastlr_step_scalars *now, void *p, const void *g,
                                  void *const *slots, ptrdiff_t n);

/* Adds what n <= 256 elements contribute to each sum over the tensor to totals[k], in one order. */
typedef void fastlr_terms_function(const double *hyper, const fastlr_step_scalars *now, const void *p, const void *g,
                                   void *const *slots, double *totals, ptrdiff_t n);

/* What the sums over all tensors, `size` elements, do to `shared`. */
typedef void fastlr_finish_all_function(const double *hyper, const fastlr_step_scalars *now, double *shared,
                                        const double *totals, double size);

/* What the sums over a tensor of `size` elements do to now->own and `memory`, before step. */
typedef void fastlr_finish_function(const double *hyper, fastlr_step_scalars *now, double *memory,
                                    const double *shared, const double *totals, double size);

/* The table. No entry that may be called without the GIL touches Python, and all may be called from any thread. */
typedef struct fastlr_api {
    uint32_t abi_version;          /* FASTLR_ABI_VERSION of the fastlr that runs */
    uint32_t struct_size;          /* bytes of its table */
    const char *version;           /* its release, "1.2.3" */

    /* The rule of a name, or NULL: one of fastlr's, or of a class of another package. Without the GIL. */
    const fastlr_rule *(*rule)(const char *name);

    /* Update t = 1, 2, ... of one tensor, in place: n elements of p by the gradient g, which is only read, with
       slots[0] ... slots[rule->slots - 1] (may be NULL if there are none), and, where rule->memories > 0, in
       slots[rule->slots] that many doubles, 0 at first. Arrays are contiguous and apart from each
       other. `hyper` holds rule->hypers numbers in the order of rule->hyper_names; NULL takes the defaults. Returns
       an enum fastlr_error. The bits are those of `fastlr.kernels`, with any number of threads. Without the GIL.
       Large tensors use the threads that `start_threads`, or a large step in Python, has started; several steps at
       a time are safe if they write different arrays. */
    int (*step)(const fastlr_rule *rule, int dtype, int64_t t, double lr, const double *hyper, int64_t n, void *p,
                const void *g, void *const *slots);

    /* What an error of step() means. Without the GIL. */
    const char *(*message)(int error);

    /* Start the threads that `fastlr.set_num_threads` allows and that do not run yet: once is enough, and again in
       a forked child. Returns how many run besides the caller, or -1 and a Python exception. WITH the GIL. */
    int (*start_threads)(void);

    /* What evaluates a schedule of fastlr.schedules (a PyObject *), or NULL and a TypeError. It is borrowed: keep a
       reference to the object for as long as it is used. WITH the GIL. */
    const fastlr_schedule *(*schedule)(struct _object *schedule);

    /* The rate of update t = 0, 1, ...: what Python's schedule(t) gives, or NaN where that raises. Without the GIL.
       (A schedule's t is the number of updates done, so it is one less than that of step.) */
    double (*rate)(const fastlr_schedule *schedule, double t);
} fastlr_api;

#ifdef Py_PYTHON_H
/* Import fastlr and return its table, or NULL with an exception set. With the GIL. */
static inline const fastlr_api *fastlr_import(void)
{
    const fastlr_api *api = (const fastlr_api *)PyCapsule_Import("fastlr._C_API", 0);
    if (api != NULL && (api->abi_version != FASTLR_ABI_VERSION || api->struct_size < sizeof(fastlr_api))) {
        PyErr_Format(PyExc_ImportError, "fastlr %s has table %u of %u bytes, this module was compiled for table %u of "
                     "%u bytes: compile it again, or install a newer fastlr", api->version, (unsigned)api->abi_version,
                     (unsigned)api->struct_size, (unsigned)FASTLR_ABI_VERSION, (unsigned)sizeof(fastlr_api));
        api = NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif
#endif
