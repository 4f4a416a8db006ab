# cython: language_level=3
from fastlr._engine.torch_tensors cimport PyObject

cdef object grad_of(PyObject* parameter)
