/* A C extension that reaches fastlr through its header alone. Steps run in a thread that Python knows nothing of. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <fastlr/fastlr.h>
#include <pthread.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MOST 8

static const fastlr_api *lr_api;

struct call {
    const fastlr_rule *rule;
    int dtype, error;
    int64_t t, steps, n;
    double lr;
    const double *hyper;
    void *array[MOST];
};

static void *foreign(void *context)
{
    struct call *c = context;
    for (int64_t t = c->t; t < c->t + c->steps && c->error == FASTLR_OK; t++)
        c->error = lr_api->step(c->rule, c->dtype, t, c->lr, c->hyper, c->n, c->array[0], c->array[1], c->array + 2);
    return NULL;
}

/* steps(name, dtype, t, steps, lr, hyper or None, (p, g, slots ...)) -> error */
static PyObject *steps(PyObject *self, PyObject *args)
{
    struct call c = {0};
    Py_buffer seen[MOST], hyper;
    PyObject *arrays, *given;
    const char *name;
    long long t, count;
    int k = 0;
    pthread_t thread;
    if (!PyArg_ParseTuple(args, "siLLdOO!", &name, &c.dtype, &t, &count, &c.lr, &given, &PyTuple_Type, &arrays))
        return NULL;
    c.t = t;
    c.steps = count;
    c.rule = lr_api->rule(name);
    if (PyTuple_GET_SIZE(arrays) > MOST)
        return PyErr_Format(PyExc_ValueError, "too many arrays");
    if (given != Py_None) {
        if (PyObject_GetBuffer(given, &hyper, PyBUF_SIMPLE) < 0)
            return NULL;
        c.hyper = hyper.buf;
    }
    for (; k < PyTuple_GET_SIZE(arrays); k++) {
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(arrays, k), &seen[k], PyBUF_ND) < 0)
            goto done;
        c.array[k] = seen[k].buf;
        if (k == 0)                    /* (what a rule remembers of the whole comes last, and is short) */
            c.n = seen[k].len / seen[k].itemsize;
    }
    Py_BEGIN_ALLOW_THREADS
    if (pthread_create(&thread, NULL, foreign, &c) == 0)
        pthread_join(thread, NULL);
    else
        c.error = -1;
    Py_END_ALLOW_THREADS
done:
    while (k-- > 0)
        PyBuffer_Release(&seen[k]);
    if (given != Py_None)
        PyBuffer_Release(&hyper);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(c.error);
}

/* describe(name) -> (name, slot names, hyper names, defaults, low, high, starts), or None */
static PyObject *describe(PyObject *self, PyObject *arg)
{
    const char *name = PyUnicode_AsUTF8(arg);
    const fastlr_rule *rule = name ? lr_api->rule(name) : NULL;
    PyObject *slots = PyList_New(0), *hypers = PyList_New(0), *starts = PyList_New(0);
    if (rule == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    for (int k = 0; k < rule->slots; k++) {
        PyList_Append(slots, PyUnicode_FromString(rule->slot_names[k]));
        PyList_Append(starts, PyFloat_FromDouble(rule->starts[k]));
    }
    for (int k = 0; k < rule->hypers; k++)
        PyList_Append(hypers, Py_BuildValue("sddd", rule->hyper_names[k], rule->defaults[k], rule->low[k],
                                            rule->high[k]));
    return Py_BuildValue("sNNN", rule->name, slots, starts, hypers);
}

/* rates(schedule, steps) -> what a loop without the GIL sees */
static PyObject *rates(PyObject *self, PyObject *args)
{
    PyObject *given, *list;
    const fastlr_schedule *schedule;
    double *rate;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "On", &given, &count))
        return NULL;
    schedule = lr_api->schedule(given);
    if (schedule == NULL)
        return NULL;
    rate = PyMem_Calloc(count, sizeof(double));
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t t = 0; t < count; t++)
        rate[t] = lr_api->rate(schedule, (double)t);
    Py_END_ALLOW_THREADS
    list = PyList_New(count);
    for (Py_ssize_t t = 0; t < count; t++)
        PyList_SET_ITEM(list, t, PyFloat_FromDouble(rate[t]));
    PyMem_Free(rate);
    return list;
}

static PyObject *message(PyObject *self, PyObject *code)
{
    return PyUnicode_FromString(lr_api->message((int)PyLong_AsLong(code)));
}

static PyObject *start_threads(PyObject *self, PyObject *nothing)
{
    int started = lr_api->start_threads();
    return started < 0 ? NULL : PyLong_FromLong(started);
}

static PyObject *table(PyObject *self, PyObject *nothing)
{
    return Py_BuildValue("IIs", lr_api->abi_version, lr_api->struct_size, lr_api->version);
}

/* What fastlr_import() makes of a table that is older (fewer bytes) or newer (another version) than this module. */
static PyObject *import_again(PyObject *self, PyObject *nothing)
{
    return fastlr_import() == NULL ? NULL : Py_NewRef(Py_None);
}

/* The floating-point mode of the calling thread, without its sticky exception flags. */
static PyObject *floating_point_mode(PyObject *self, PyObject *nothing)
{
#if defined(__x86_64__)
    return PyLong_FromUnsignedLong(_mm_getcsr() & ~0x3fu);
#elif defined(__aarch64__)
    unsigned long mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    return PyLong_FromUnsignedLong(mode);
#else
    return PyLong_FromLong(0);
#endif
}

/* Choose it. */
static PyObject *set_floating_point_mode(PyObject *self, PyObject *arg)
{
    unsigned long mode = PyLong_AsUnsignedLong(arg);
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ __volatile__("msr fpcr, %0" : : "r"(mode));
#endif
    (void)mode;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"steps", steps, METH_VARARGS, NULL},
    {"describe", describe, METH_O, NULL},
    {"rates", rates, METH_VARARGS, NULL},
    {"message", message, METH_O, NULL},
    {"start_threads", start_threads, METH_NOARGS, NULL},
    {"table", table, METH_NOARGS, NULL},
    {"import_again", import_again, METH_NOARGS, NULL},
    {"floating_point_mode", floating_point_mode, METH_NOARGS, NULL},
    {"set_floating_point_mode", set_floating_point_mode, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "own_extension", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_own_extension(void)
{
    lr_api = fastlr_import();
    return lr_api == NULL ? NULL : PyModule_Create(&module);
}
