# cython: language_level=3
from cpython.object cimport PyObject
from fastlr._c_api.c_plan cimport CPlan
from fastlr.c_api cimport fastlr_tensor

cdef int option(CPlan plan, int group, const char* name, const char* value) noexcept with gil
cdef int schedule(CPlan plan, int group, const char* name, PyObject* schedule) noexcept with gil
cdef int number(CPlan plan, int group, const char* name, double value) noexcept nogil
cdef int value(CPlan plan, int group, const char* name, double* value) noexcept nogil
cdef int add(CPlan plan, const fastlr_tensor* tensor) noexcept with gil
cdef int build(CPlan plan) noexcept with gil
