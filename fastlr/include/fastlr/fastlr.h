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

/* The table. No entry that may be called without the GIL touches Python, and all may be called from any thread. */
typedef struct fastlr_api {
    uint32_t abi_version;          /* FASTLR_ABI_VERSION of the fastlr that runs */
    uint32_t struct_size;          /* bytes of its table */
    const char *version;           /* its release, "1.2.3" */

    /* The rule of a name, or NULL. Without the GIL. */
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
