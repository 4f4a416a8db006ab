# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._c_api.c_plan cimport CPlan
from fastlr.c_api cimport fastlr_step_options

cdef int step(CPlan plan, const void* const* gradients, const fastlr_step_options* options) noexcept nogil
cdef int step_rows(CPlan plan, int64_t k, int64_t n, const int64_t* rows, const void* gradients, bint ends_step,
                   const fastlr_step_options* options) noexcept nogil
cdef int accumulate(CPlan plan, const void* const* gradients, const fastlr_step_options* options) noexcept with gil
cdef int step_curvature(CPlan plan, const void* const* gradients, const void* const* curvature,
                        const fastlr_step_options* options) noexcept with gil
