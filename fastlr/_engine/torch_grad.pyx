# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The attribute `grad` of parameters, by the getter and the setter that torch's type has: found once."""
from fastlr._engine.torch_tensors cimport (
    Py_TYPE, PyList_GetItem, PyList_Size, PyObject, PyTypeObject, parameter_type, tensor_type,
)
from fastlr._kernels.build_id cimport FASTLR_LAYOUT

build_id = FASTLR_LAYOUT.decode()

cdef extern from "Python.h":
    ctypedef PyObject* (*descrgetfunc)(PyObject*, PyObject*, PyObject*)
    ctypedef int (*descrsetfunc)(PyObject*, PyObject*, PyObject*) except -1
    int Py_tp_descr_get
    int Py_tp_descr_set
    void* PyType_GetSlot(PyTypeObject*, int) except? NULL
    PyObject* PyObject_GetAttr(PyObject*, PyObject*)
    int PyObject_SetAttr(PyObject*, PyObject*, PyObject*) except -1
    void Py_DECREF(PyObject*)
    PyObject* Py_None

cdef descrgetfunc get_grad = NULL              # the getter of `Tensor.grad`, or NULL
cdef descrsetfunc set_grad = NULL              # the setter, or NULL
cdef PyObject* grad_attribute = NULL
cdef object grad_name = "grad"
cdef list kept_alive = []


def use_grad(tensor):
    """Learn how `torch.Tensor` gets and sets `grad`; before, `use_torch` has learned the type itself."""
    global get_grad, set_grad, grad_attribute
    get_grad, set_grad = NULL, NULL
    attribute = next((vars(base)["grad"] for base in tensor.__mro__ if "grad" in vars(base)), None)
    if type(attribute).__name__ == "getset_descriptor":        # (found once, not in each step for each parameter)
        get_grad = <descrgetfunc>PyType_GetSlot(Py_TYPE(<PyObject*>attribute), Py_tp_descr_get)
        set_grad = <descrsetfunc>PyType_GetSlot(Py_TYPE(<PyObject*>attribute), Py_tp_descr_set)
        kept_alive[:] = [attribute]
        grad_attribute = <PyObject*>attribute


cdef object grad_of(PyObject* parameter):
    """A parameter's gradient."""
    cdef PyTypeObject* kind = Py_TYPE(parameter)
    cdef PyObject* found
    if get_grad != NULL and (kind == parameter_type or kind == tensor_type):
        found = get_grad(grad_attribute, parameter, <PyObject*>kind)
    else:
        found = PyObject_GetAttr(parameter, <PyObject*>grad_name)
    if found == NULL:
        raise
    result = <object>found
    Py_DECREF(found)
    return result


def any_gradient(list params):
    """Whether a parameter has a gradient."""
    cdef Py_ssize_t k
    for k in range(PyList_Size(params)):
        if grad_of(PyList_GetItem(params, k)) is not None:
            return True
    return False


def forget_gradients(list params):
    """Set `grad` of parameters to None."""
    cdef Py_ssize_t k
    cdef PyObject* param
    for k in range(PyList_Size(params)):
        param = PyList_GetItem(params, k)
        if set_grad != NULL and (Py_TYPE(param) == parameter_type or Py_TYPE(param) == tensor_type):
            set_grad(grad_attribute, param, Py_None)
        else:
            PyObject_SetAttr(param, <PyObject*>grad_name, Py_None)
