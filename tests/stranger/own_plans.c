/* A C extension that trains by plans. Its steps run in a thread that Python knows nothing of, while this one holds the
   GIL: a step that needed it would never end. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <fastlr/fastlr.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define MOST 64

static const fastlr_api *lr;

struct run {
    fastlr_plan *plan;
    const void *const *gradients;      /* of all steps, one after another */
    Py_ssize_t tensors, steps;
    fastlr_step_options options;
    int error;
    atomic_int done;
};

static void *train_alone(void *context)
{
    struct run *run = context;
    for (Py_ssize_t t = 0; t < run->steps && run->error == FASTLR_OK; t++)
        run->error = lr->plan_step(run->plan, run->gradients + t * run->tensors, &run->options);
    atomic_store(&run->done, 1);
    return NULL;
}

/* The dtype code, 0 if an array is of none; `view` is released by the caller. */
static int32_t dtype_of(const Py_buffer *view)
{
    char kind = view->format[strlen(view->format) - 1];
    if (view->itemsize == 2 && kind != 'e')
        return FASTLR_BFLOAT16;        /* (as uint16) */
    return view->itemsize == 2 ? FASTLR_FLOAT16 : view->itemsize == 4 ? FASTLR_FLOAT32 : FASTLR_FLOAT64;
}

static int add_tensor(fastlr_plan *plan, PyObject *item, PyObject *gradient)
{
    fastlr_tensor tensor = {.struct_size = sizeof(fastlr_tensor)};
    Py_buffer view, grad;
    int64_t shape[MOST], strides[MOST], grad_strides[MOST];
    PyObject *array;
    int error;
    if (!PyArg_ParseTuple(item, "sOi", &tensor.name, &array, &tensor.group)
            || PyObject_GetBuffer(array, &view, PyBUF_RECORDS) < 0)
        return -1;
    if (gradient != Py_None && PyObject_GetBuffer(gradient, &grad, PyBUF_RECORDS_RO) < 0)
        return -1;
    tensor.dtype = dtype_of(&view);
    tensor.data = view.buf;
    tensor.ndim = view.ndim;
    for (int k = 0; k < view.ndim; k++) {
        shape[k] = view.shape[k];
        strides[k] = view.strides[k];
        if (gradient != Py_None)
            grad_strides[k] = grad.strides[k];
    }
    tensor.shape = shape;
    tensor.strides = strides;
    if (gradient != Py_None) {
        tensor.grad_strides = grad_strides;
        tensor.grad_dtype = dtype_of(&grad);
        PyBuffer_Release(&grad);
    }
    error = lr->plan_add(plan, &tensor);
    PyBuffer_Release(&view);
    return error;
}

/* train(plan, gradients: [[array or None] of each step], zero_grads, grad_scale) -> error */
static PyObject *train(PyObject *self, PyObject *args)
{
    struct run run = {0};
    PyObject *steps;
    const void **gradients;
    pthread_t thread;
    unsigned long long handle;
    struct timespec pause = {0, 1000000};
    if (!PyArg_ParseTuple(args, "KO!id", &handle, &PyList_Type, &steps, &run.options.zero_grads,
                          &run.options.grad_scale))
        return NULL;
    run.plan = (fastlr_plan *)(uintptr_t)handle;
    run.options.struct_size = sizeof(run.options);
    run.options.loss = 1;
    run.steps = PyList_GET_SIZE(steps);
    run.tensors = run.steps ? PyList_GET_SIZE(PyList_GET_ITEM(steps, 0)) : 0;
    run.gradients = gradients = calloc(run.steps * run.tensors + 1, sizeof(void *));
    for (Py_ssize_t k = 0; k < run.steps * run.tensors; k++) {
        PyObject *array = PyList_GET_ITEM(PyList_GET_ITEM(steps, k / run.tensors), k % run.tensors);
        Py_buffer view;
        if (array == Py_None)
            continue;
        if (PyObject_GetBuffer(array, &view, PyBUF_RECORDS_RO) < 0) {
            free(gradients);
            return NULL;
        }
        gradients[k] = view.buf;
        PyBuffer_Release(&view);       /* (the caller's list keeps it) */
    }
    if (pthread_create(&thread, NULL, train_alone, &run)) {
        free(gradients);
        return PyErr_NoMemory();
    }
    for (int waited = 0; !atomic_load(&run.done) && waited < 60000; waited++)
        nanosleep(&pause, NULL);       /* with the GIL */
    if (!atomic_load(&run.done)) {
        PyErr_SetString(PyExc_RuntimeError, "the steps need the GIL");
        return NULL;                   /* (the thread still reads what it was given) */
    }
    pthread_join(thread, NULL);
    free(gradients);
    return PyLong_FromLong(run.error);
}

/* plan(optimizer, [(group, name, value)], [(name, array, group)], [gradient or None]) -> handle, or RuntimeError */
static PyObject *plan(PyObject *self, PyObject *args)
{
    const char *optimizer;
    PyObject *options, *tensors, *gradients;
    fastlr_plan *made;
    if (!PyArg_ParseTuple(args, "sO!O!O!", &optimizer, &PyList_Type, &options, &PyList_Type, &tensors, &PyList_Type,
                          &gradients))
        return NULL;
    made = lr->plan_new(optimizer);
    if (made == NULL)
        return PyErr_Format(PyExc_RuntimeError, "%s", lr->plan_message(NULL));
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(options); k++) {
        int group;
        const char *name, *value;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(options, k), "iss", &group, &name, &value))
            return NULL;
        if (lr->plan_option(made, group, name, value) != FASTLR_OK)
            goto failed;
    }
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(tensors); k++)
        if (add_tensor(made, PyList_GET_ITEM(tensors, k), PyList_GET_ITEM(gradients, k)) != FASTLR_OK)
            goto failed;
    if (lr->plan_build(made) != FASTLR_OK)
        goto failed;
    return PyLong_FromUnsignedLongLong((uintptr_t)made);
failed:
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, lr->plan_message(made));
    lr->plan_free(made);
    return NULL;
}

static PyMethodDef methods[] = {{"plan", plan, METH_VARARGS, NULL}, {"train", train, METH_VARARGS, NULL}, {NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "own_plans", NULL, -1, methods};

PyMODINIT_FUNC PyInit_own_plans(void)
{
    lr = fastlr_import();
    return lr == NULL ? NULL : PyModule_Create(&module);
}
