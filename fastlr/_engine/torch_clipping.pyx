# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Clipping of gradients of torch by their norm, in place: `clip_grad_norm_` of many small ones."""
from libc.float cimport DBL_MAX
from libc.math cimport sqrt
from fastlr._engine.dlpack cimport DL_CPU, DLTensor, storage_of
from fastlr._engine.memory cimport Memory
from fastlr._engine.torch_grad cimport grad_of
from fastlr._engine.torch_tensors cimport (
    Py_TYPE, PyList_GetItem, PyList_Size, PyObject, describe, tensor_type,
)
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.lanes cimport sum_of_squares
from fastlr._kernels.structs cimport FLOAT32, FLOAT64, Storage

build_id = FASTLR_LAYOUT.decode()


cdef struct ContiguousGradient:
    void* data
    Py_ssize_t size
    bint is_double


def clip_gradients(list params, double max_norm, Py_ssize_t most):
    """Scale gradients to a norm of at most `max_norm`: (norm, gradients that were written, whether all are float64).

    None, with nothing done, where one is not contiguous, of another type or device, or all have more than `most`
    elements: for torch's own function.
    """
    cdef Memory memory = Memory()
    cdef Py_ssize_t k, i, count = 0, total = 0, length, given = PyList_Size(params)
    cdef ContiguousGradient* found = <ContiguousGradient*>memory.take(given + 1, sizeof(ContiguousGradient))
    cdef DLTensor tensor
    cdef Storage stored
    cdef int axis
    cdef double squares = 0, norm, factor
    cdef float factor32
    cdef list gradients = []
    cdef bint doubles = False, singles = False
    for k in range(given):
        gradient = grad_of(PyList_GetItem(params, k))
        if gradient is None:
            continue
        if Py_TYPE(<PyObject*>gradient) != tensor_type:
            return None
        try:
            describe(<PyObject*>gradient, &tensor)
        except (BufferError, RuntimeError):
            return None
        stored, length = storage_of(&tensor), 1
        if tensor.device.device_type != DL_CPU or stored not in (FLOAT32, FLOAT64):
            return None
        for axis in range(tensor.ndim - 1, -1, -1):
            if tensor.shape[axis] != 1 and tensor.strides[axis] != length:
                return None
            length *= tensor.shape[axis]
        if length == 1 and gradient.is_neg():
            return None
        found[count].data, found[count].size = <char*>tensor.data + tensor.byte_offset, length
        found[count].is_double = stored == FLOAT64
        doubles, singles = doubles or stored == FLOAT64, singles or stored == FLOAT32
        total += length
        if total > most or (length and tensor.data == NULL):
            return None
        gradients.append(gradient)
        count += 1
    for k in range(count):
        if found[k].is_double:
            squares += sum_of_squares(<double*>found[k].data, found[k].size)
        else:
            squares += sum_of_squares(<float*>found[k].data, found[k].size)
    norm = sqrt(squares)
    if not norm <= DBL_MAX:
        return None
    if norm + 1e-6 <= max_norm:
        return norm, [], doubles and not singles
    factor = max_norm / (norm + 1e-6)
    factor32 = <float>factor
    for k in range(count):
        for i in range(found[k].size):
            if found[k].is_double:
                (<double*>found[k].data)[i] *= factor
            else:
                (<float*>found[k].data)[i] *= factor32
    return norm, gradients, doubles and not singles
