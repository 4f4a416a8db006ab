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

   Many tensors, with groups, schedules, clipping and storage, as a class of fastlr moves them, are a plan:

       fastlr_plan *plan = lr->plan_new("adamw");
       lr->plan_option(plan, -1, "clip_norm", "1.0");
       lr->plan_option(plan, -1, "lr", "cosine(1e-3, steps=1000).warmup(50)");
       lr->plan_add(plan, &tensor);                            // a fastlr_tensor; and so on
       if (lr->plan_build(plan) != FASTLR_OK) puts(lr->plan_message(plan));
       lr->plan_step(plan, gradients, NULL);                   // one pointer per tensor; without Python, without the GIL

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
    FASTLR_FLOAT64 = 0x0240,
    FASTLR_FLOAT16 = 0x0210,       /* this and those below: of plans */
    FASTLR_BFLOAT16 = 0x0410,
    FASTLR_INT8 = 0x0008,          /* a state of 8 bits, with scales beside it */
    FASTLR_UINT8 = 0x0108,         /* the same of numbers that are never negative */
    FASTLR_INT16 = 0x0010          /* the lower half of a float32 whose upper half the parameter is */
};

/* What step() and functions of plans return; `message`, or for a plan `plan_message`, says it in words. Unless it is
   FASTLR_OK, nothing was written. */
enum fastlr_error {
    FASTLR_OK = 0,
    FASTLR_NO_RULE = 1,            /* the rule is NULL */
    FASTLR_BAD_DTYPE = 2,          /* neither FASTLR_FLOAT32 nor FASTLR_FLOAT64 */
    FASTLR_BAD_T = 3,              /* t < 1 or t >= 2**62 */
    FASTLR_BAD_HYPER = 4,          /* lr or a hyper-parameter is not in [low, high) */
    FASTLR_BAD_SIZE = 5,           /* n < 0, or more bytes than there can be */
    FASTLR_BAD_POINTER = 6,        /* an array is NULL, or not aligned to its elements */
    FASTLR_OVERLAP = 7,            /* two arrays share memory */
    FASTLR_NO_MEMORY = 8,
    FASTLR_NO_PLAN = 9,            /* NULL, a plan that was freed, or a pointer that is no plan */
    FASTLR_BUSY = 10,              /* another thread is using the plan */
    FASTLR_NOT_BUILT = 11,         /* plan_build has not been called since the plan or its tensors came */
    FASTLR_REFUSED = 12,           /* what the Python class refuses, in its words */
    FASTLR_NOT_FINITE = 13,        /* a gradient has NaN or infinity, and nonfinite is "raise" */
    FASTLR_NO_PYTHON = 14,         /* the interpreter does not run (any more) */
    FASTLR_BAD_NAME = 15,          /* no hyper-parameter, slot or tensor is called so or has this number */
    FASTLR_BAD_STRUCT = 16         /* struct_size is none of a struct of this table or an older one; or a newer one's has
                                      members that are not known here, and not 0 */
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

/* Many tensors that one optimizer moves. No pointer to memory: plans are looked up, so that one that was freed, or never
   was one, is refused with FASTLR_NO_PLAN. */
typedef struct fastlr_plan fastlr_plan;

/* A parameter of a plan. Fill it with zeros, then what differs; set struct_size. Memory that it points to, but `data`, is
   read in plan_add and not kept. */
typedef struct fastlr_tensor {
    uint32_t struct_size;          /* sizeof(fastlr_tensor) */
    int32_t dtype;                 /* FASTLR_FLOAT16, FASTLR_BFLOAT16, FASTLR_FLOAT32 or FASTLR_FLOAT64 */
    void *data;                    /* its first element: updated in place, until plan_free */
    const char *name;              /* NULL: its number among the plan's tensors, "0", "1", ... */
    const int64_t *shape;          /* ndim lengths */
    const int64_t *strides;        /* ndim distances in bytes; NULL: contiguous, the last index fastest */
    const int64_t *grad_strides;   /* the same of its gradients */
    int32_t ndim;                  /* 0 to 64 */
    int32_t group;                 /* which group of hyper-parameters is its own: 0, 1, ... without gaps */
    int32_t grad_dtype;            /* of its gradients, 0: as `dtype`. float64 for float64 alone; else any other */
    int32_t padding;
} fastlr_tensor;

/* Settings of one step. NULL, or a member that struct_size leaves out, is the default. (Of a newer header's longer struct,
   here and in fastlr_tensor, members that the running fastlr does not know must be 0.) */
typedef struct fastlr_step_options {
    uint32_t struct_size;          /* sizeof(fastlr_step_options) */
    int32_t zero_grads;            /* 1: set gradients to zero in the same pass; 0, the default: only read them */
    double grad_scale;             /* divides gradients; 1, and 0 means 1 */
    double loss;                   /* of the optimizers that need one (Polyak, MoMo, ...); others do not read it */
} fastlr_step_options;

/* An array of a plan's state, in place: `data` may be read and written between steps. `shape` and `strides` (bytes)
   belong to the plan. All stay until plan_build after an added tensor, plan_load, or plan_free. */
typedef struct fastlr_array {
    uint32_t struct_size;          /* sizeof(fastlr_array), by the caller */
    int32_t dtype;                 /* enum fastlr_dtype */
    void *data;
    const int64_t *shape;
    const int64_t *strides;
    int32_t ndim;
    int32_t padding;
} fastlr_array;

/* What a plan is at. */
typedef struct fastlr_plan_info {
    uint32_t struct_size;          /* sizeof(fastlr_plan_info), by the caller */
    int32_t groups;
    int64_t tensors;
    int64_t elements;
    int64_t t;                     /* updates done */
    int64_t skipped;               /* steps that nonfinite="skip" did not take */
    double grad_norm;              /* of the latest step's gradients, NaN where nothing measured it */
} fastlr_plan_info;

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

    /* The name of rule k = 0, 1, ... that `rule` finds, in no order that is promised; NULL for k < 0 or one too many.
       Without the GIL. */
    const char *(*rule_name)(int64_t k);

    /* Plans. A plan moves its tensors as the class of fastlr of the same name, with all of that class's options, and
       with the same bits for any number of threads. Functions that say "takes the GIL" take it for themselves: call
       them with or without it, but not while another thread holds it and waits for yours. All others run without
       Python, so no thread of Python waits for them. One thread uses a plan at a time: a second one is refused with
       FASTLR_BUSY, and nothing of the first one's changes. Different plans can be used at the same time. */

    /* A new plan of an optimizer's name, as `fastlr.create_optimizer` takes it; NULL without memory or interpreter, or
       if there is no such optimizer: `plan_message(NULL)` says why. Free it. Takes the GIL. */
    fastlr_plan *(*plan_new)(const char *optimizer);

    /* A new plan that steps the tensors of an optimizer that was made in Python (an object of a class of fastlr, no
       wrapper), which it shares with Python: state, t and values are the same. It is built, and its gradients are
       contiguous, of the parameters' types. Build it again after `add_group` or after a stage such as `clip_norm` was
       set in Python; until then its steps are refused. A parameter that is frozen takes no gradient; functions of
       `add_callback` are not called. Where parameters were given in a mapping, or are tensors of PyTorch, each step
       takes the GIL, to refuse a parameter that was replaced and to tell PyTorch what is written. Takes the GIL. */
    fastlr_plan *(*plan_of)(struct _object *optimizer);

    /* Give an option by its name in Python and its value as text: "True", "0.1", "int8", "None", "{'b': False}", a
       schedule, "cosine(1e-3, steps=1000)", or for `constraint` calls of fastlr.constraints, "max_norm(3)" for all or
       "{'w': max_norm(3), 'b': nonnegative()}". group -1: an argument of the class's constructor, for all tensors; 0, 1, ...
       a hyper-parameter of that group. Before plan_build, everything that the constructor takes; after it, what can be
       set on the object: hyper-parameters and some stages. Takes the GIL. */
    int (*plan_option)(fastlr_plan *plan, int group, const char *name, const char *value);

    /* Give a hyper-parameter a number: of one group, or (-1) of all. Of a built plan without the GIL, unless decay is
       "corrected" or plan_of made it; else takes the GIL. */
    int (*plan_set)(fastlr_plan *plan, int group, const char *name, double value);

    /* Give a hyper-parameter a schedule of fastlr.schedules (a PyObject *), to which the plan keeps a reference. Takes
       the GIL. */
    int (*plan_schedule)(fastlr_plan *plan, int group, const char *name, struct _object *schedule);

    /* Add a tensor: its number is how many there were. Those of a group are moved in the order in which they come. After
       plan_build, new tensors are in new groups; build again before the next step. Takes the GIL. */
    int (*plan_add)(fastlr_plan *plan, const fastlr_tensor *tensor);

    /* Make the state of all tensors, zero or as the class begins it, and check everything that can be checked before a
       step. Starts the threads that `fastlr.set_num_threads` allows, if a step is large enough for them. Again after
       plan_add: what was there keeps its state. Takes the GIL. */
    int (*plan_build)(fastlr_plan *plan);

    /* One update of every tensor whose gradient is not NULL: gradients[k] is that of tensor k, of the type and strides
       that fastlr_tensor says, aligned, and apart from all that the step writes. All is checked before the first write.
       Without the GIL. */
    int (*plan_step)(fastlr_plan *plan, const void *const *gradients, const fastlr_step_options *options);

    /* One update of some rows of one tensor, as `step_rows` of the class: row rows[k] by the k-th of n rows at
       `gradients`, which are contiguous. `ends_step`: whether t moves. Without the GIL. */
    int (*plan_step_rows)(fastlr_plan *plan, int64_t tensor, int64_t n, const int64_t *rows, const void *gradients,
                          int ends_step, const fastlr_step_options *options);

    /* What the plan is at: fills `info` as far as its struct_size reaches. Without the GIL. */
    int (*plan_info)(fastlr_plan *plan, fastlr_plan_info *info);

    /* The value of a hyper-parameter: a number as it was set, of a schedule that of the latest step. Without the GIL. */
    int (*plan_get)(fastlr_plan *plan, int group, const char *name, double *value);

    /* The name of slot k = 0, 1, ... of a tensor's state, as in opt.state[name] ("m", "v", "v_scale", "ema", ...), then
       "shadow" if there is one; of tensor -1, of numbers for all tensors together. NULL for one too many (or for no
       plan). Valid as long as fastlr_array's members. Without the GIL. */
    const char *(*plan_slot)(fastlr_plan *plan, int64_t tensor, int64_t k);

    /* Where such a slot is. Without the GIL. */
    int (*plan_state)(fastlr_plan *plan, int64_t tensor, const char *slot, fastlr_array *array);

    /* Read t and, unless NULL, how many of those updates each tensor skipped. With the arrays of all slots, that is all
       the state there is, but for what clip_zscore remembers. Without the GIL. */
    int (*plan_clock)(fastlr_plan *plan, int64_t *t, int64_t *skipped_steps);

    /* Set them, as they were read; NULL: no tensor skipped any. Without the GIL. */
    int (*plan_set_clock)(fastlr_plan *plan, int64_t t, const int64_t *skipped_steps);

    /* Save parameters and everything else of a plan into a file, as `fastlr.save`, or load it as `fastlr.load`: whole,
       or not at all. Paths are UTF-8. Take the GIL. */
    int (*plan_save)(fastlr_plan *plan, const char *path);
    int (*plan_load)(fastlr_plan *plan, const char *path);

    /* What the latest error of this plan was about, until its next one; "" if it had none. Of NULL, of the latest plan
       that was not made. Of no plan, the words of FASTLR_NO_PLAN. Without the GIL. */
    const char *(*plan_message)(fastlr_plan *plan);

    /* Free a plan and its state; parameters stay. Takes the GIL. */
    int (*plan_free)(fastlr_plan *plan);

    /* Add the gradient of a micro-batch to the state, as `accumulate` of the class: parameters and t stay. Of n
       micro-batches, n - 1 come here and the last goes to plan_step, all with the same grad_scale. Takes the GIL. */
    int (*plan_accumulate)(fastlr_plan *plan, const void *const *gradients, const fastlr_step_options *options);

    /* A step with estimates of the curvature, of an optimizer that is given them (Sophia): curvature[k] is that of
       tensor k, of the type and strides of its gradient, NULL where there is none. A tensor's first gradient needs one;
       the steps between are plan_step's. Takes the GIL. */
    int (*plan_step_curvature)(fastlr_plan *plan, const void *const *gradients, const void *const *curvature,
                               const fastlr_step_options *options);

    /* Keep a slot of a tensor's state in the caller's memory from now on, which is shared, or mapped from a file: as many
       bytes as plan_state's array has, aligned to its elements, laid out as that one. What the slot holds is copied
       there; with `take` != 0, it becomes what is there. Takes the GIL. */
    int (*plan_place_state)(fastlr_plan *plan, int64_t tensor, const char *slot, void *memory, int take);

    /* Bring every parameter within its constraint now, without a step, as `constrain` of the class: for values that you
       set. (Each step does so for what it moved.) Takes the GIL. */
    int (*plan_constrain)(fastlr_plan *plan);
} fastlr_api;

#ifdef Py_PYTHON_H
/* Import fastlr and return its table, or NULL with an exception set. With the GIL. */
static inline const fastlr_api *fastlr_import(void)
{
    const fastlr_api *api;
    PyObject *module = PyImport_ImportModule("fastlr");       /* (the capsule's own error would not say why it failed) */

    if (module == NULL)
        return NULL;
    Py_DECREF(module);
    api = (const fastlr_api *)PyCapsule_Import("fastlr._C_API", 0);
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
