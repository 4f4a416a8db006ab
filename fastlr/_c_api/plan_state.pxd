# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._c_api.c_plan cimport CPlan
from fastlr.c_api cimport fastlr_array, fastlr_plan_info

cdef int info(CPlan plan, fastlr_plan_info* info) noexcept nogil
cdef const char* slot_name(CPlan plan, int64_t k, int64_t j) noexcept nogil
cdef int state(CPlan plan, int64_t k, const char* name, fastlr_array* array) noexcept nogil
cdef int clock(CPlan plan, int64_t* t, int64_t* skipped_steps) noexcept nogil
cdef int set_clock(CPlan plan, int64_t t, const int64_t* skipped_steps) noexcept nogil
cdef int place_state(CPlan plan, int64_t k, const char* slot, void* memory, bint take) noexcept with gil
cdef int save(CPlan plan, const char* path) noexcept with gil
cdef int load(CPlan plan, const char* path) noexcept with gil
cdef int constrain(CPlan plan) noexcept with gil
