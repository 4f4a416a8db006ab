# cython: language_level=3
from fastlr._engine.dlpack cimport DLTensor, DLTensorFromPyObject

cdef extern from "Python.h":
    # (with pointers: nothing here counts references to tensors that groups hold)
    ctypedef struct PyObject
    ctypedef struct PyTypeObject
    PyTypeObject* Py_TYPE(PyObject*)
    PyObject* PyList_GetItem(object, Py_ssize_t) except NULL
    Py_ssize_t PyList_Size(object)

cdef DLTensorFromPyObject export       # fills a DLTensor of a tensor of torch; NULL: torch has none
cdef PyTypeObject* tensor_type         # torch.Tensor
cdef PyTypeObject* parameter_type      # torch.nn.Parameter

cdef int describe_by_methods(PyObject* tensor, DLTensor* out) except -1
cdef bint says_the_same(const DLTensor* found, object tensor) except -1
cpdef object array_over(tensor)
cpdef object address_of(tensor)

cdef inline int describe(PyObject* tensor, DLTensor* out) except -1:
    """Where a tensor is: RuntimeError or BufferError where it has no memory."""
    if export != NULL:
        return export(tensor, out)
    return describe_by_methods(tensor, out)
