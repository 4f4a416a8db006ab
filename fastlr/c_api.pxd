# cython: language_level=3
"""The C interface for Cython: `cimport` it, and compile with the folder of `fastlr.get_include()`.

    from fastlr.c_api cimport fastlr_api, fastlr_import
    cdef const fastlr_api* lr = fastlr_import()

What each entry does is in include/fastlr/fastlr.h.
"""
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from "fastlr/fastlr.h" nogil:
    enum: FASTLR_ABI_VERSION

    enum fastlr_dtype:
        FASTLR_FLOAT32
        FASTLR_FLOAT64
        FASTLR_FLOAT16
        FASTLR_BFLOAT16
        FASTLR_INT8
        FASTLR_UINT8
        FASTLR_INT16

    enum fastlr_error:
        FASTLR_OK
        FASTLR_NO_RULE
        FASTLR_BAD_DTYPE
        FASTLR_BAD_T
        FASTLR_BAD_HYPER
        FASTLR_BAD_SIZE
        FASTLR_BAD_POINTER
        FASTLR_OVERLAP
        FASTLR_NO_MEMORY
        FASTLR_NO_PLAN
        FASTLR_BUSY
        FASTLR_NOT_BUILT
        FASTLR_REFUSED
        FASTLR_NOT_FINITE
        FASTLR_NO_PYTHON
        FASTLR_BAD_NAME
        FASTLR_BAD_STRUCT

    ctypedef struct fastlr_rule:
        const char* name
        int slots
        int hypers
        const char** slot_names
        const char** hyper_names
        const double* defaults
        const double* low
        const double* high
        const double* starts
        int memories

    ctypedef struct fastlr_schedule:
        pass

    ctypedef struct fastlr_plan:
        pass

    ctypedef struct fastlr_tensor:
        uint32_t struct_size
        int32_t dtype
        void* data
        const char* name
        const int64_t* shape
        const int64_t* strides
        const int64_t* grad_strides
        int32_t ndim
        int32_t group
        int32_t grad_dtype

    ctypedef struct fastlr_step_options:
        uint32_t struct_size
        int32_t zero_grads
        double grad_scale
        double loss

    ctypedef struct fastlr_array:
        uint32_t struct_size
        int32_t dtype
        void* data
        const int64_t* shape
        const int64_t* strides
        int32_t ndim

    ctypedef struct fastlr_plan_info:
        uint32_t struct_size
        int32_t groups
        int64_t tensors
        int64_t elements
        int64_t t
        int64_t skipped
        double grad_norm

    ctypedef struct fastlr_api:
        uint32_t abi_version
        uint32_t struct_size
        const char* version
        const fastlr_rule* (*rule)(const char* name) noexcept nogil
        int (*step)(const fastlr_rule* rule, int dtype, int64_t t, double lr, const double* hyper, int64_t n,
                    void* p, const void* g, void* const* slots) noexcept nogil
        const char* (*message)(int error) noexcept nogil
        int (*start_threads)() except -1
        const fastlr_schedule* (*schedule)(PyObject* schedule) except NULL
        double (*rate)(const fastlr_schedule* schedule, double t) noexcept nogil
        const char* (*rule_name)(int64_t k) noexcept nogil
        fastlr_plan* (*plan_new)(const char* optimizer) noexcept nogil
        fastlr_plan* (*plan_of)(PyObject* optimizer) noexcept nogil
        int (*plan_option)(fastlr_plan* plan, int group, const char* name, const char* value) noexcept nogil
        int (*plan_set)(fastlr_plan* plan, int group, const char* name, double value) noexcept nogil
        int (*plan_schedule)(fastlr_plan* plan, int group, const char* name, PyObject* schedule) noexcept nogil
        int (*plan_add)(fastlr_plan* plan, const fastlr_tensor* tensor) noexcept nogil
        int (*plan_build)(fastlr_plan* plan) noexcept nogil
        int (*plan_step)(fastlr_plan* plan, const void* const* gradients,
                         const fastlr_step_options* options) noexcept nogil
        int (*plan_step_rows)(fastlr_plan* plan, int64_t tensor, int64_t n, const int64_t* rows, const void* gradients,
                              int ends_step, const fastlr_step_options* options) noexcept nogil
        int (*plan_info)(fastlr_plan* plan, fastlr_plan_info* info) noexcept nogil
        int (*plan_get)(fastlr_plan* plan, int group, const char* name, double* value) noexcept nogil
        const char* (*plan_slot)(fastlr_plan* plan, int64_t tensor, int64_t k) noexcept nogil
        int (*plan_state)(fastlr_plan* plan, int64_t tensor, const char* slot, fastlr_array* array) noexcept nogil
        int (*plan_clock)(fastlr_plan* plan, int64_t* t, int64_t* skipped_steps) noexcept nogil
        int (*plan_set_clock)(fastlr_plan* plan, int64_t t, const int64_t* skipped_steps) noexcept nogil
        int (*plan_save)(fastlr_plan* plan, const char* path) noexcept nogil
        int (*plan_load)(fastlr_plan* plan, const char* path) noexcept nogil
        const char* (*plan_message)(fastlr_plan* plan) noexcept nogil
        int (*plan_free)(fastlr_plan* plan) noexcept nogil
        int (*plan_accumulate)(fastlr_plan* plan, const void* const* gradients,
                               const fastlr_step_options* options) noexcept nogil
        int (*plan_step_curvature)(fastlr_plan* plan, const void* const* gradients, const void* const* curvature,
                                   const fastlr_step_options* options) noexcept nogil
        int (*plan_place_state)(fastlr_plan* plan, int64_t tensor, const char* slot, void* memory,
                                int take) noexcept nogil
        int (*plan_constrain)(fastlr_plan* plan) noexcept nogil

cdef extern from "fastlr/fastlr.h":
    const fastlr_api* fastlr_import() except NULL
