# cython: language_level=3
from fastlr.c_api cimport fastlr_api

cdef int fill_plans(fastlr_api* api) except -1
