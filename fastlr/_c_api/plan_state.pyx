# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a plan is at: counts, the clock, its state in place, in the caller's memory and in files."""
import numpy as np

from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.math cimport NAN
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset, strcmp
from fastlr._c_api.c_plan cimport CPlan
from fastlr._c_api.sized_structs cimport sized, write_struct
from fastlr._engine.clipping cimport not_measured
from fastlr._engine.plan cimport give_flag, take_flag
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.c_api cimport (
    FASTLR_BAD_NAME, FASTLR_BAD_POINTER, FASTLR_BAD_STRUCT, FASTLR_BAD_T, FASTLR_NOT_BUILT, FASTLR_OK, fastlr_array,
    fastlr_plan_info,
)

from fastlr import checkpoint
from fastlr._engine.instruction_set import one_build

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr._c_api.plan_state", build_id)

cdef extern from *:
    enum: PyBUF_WRITE

cdef int64_t MAX_STEPS = <int64_t>1 << 62


# Without Python

cdef int info(CPlan plan, fastlr_plan_info* info) noexcept nogil:
    cdef fastlr_plan_info known
    if info == NULL:
        return plan.fail(FASTLR_BAD_POINTER, "plan_info: info must not be NULL")
    if not sized(info.struct_size, sizeof(fastlr_plan_info)):
        return plan.fail(FASTLR_BAD_STRUCT, "plan_info: info must have struct_size = sizeof(fastlr_plan_info)")
    if not plan.built:
        return plan.fail(FASTLR_NOT_BUILT, "plan_info: call plan_build first, and again after plan_add")
    memset(&known, 0, sizeof(known))
    known.groups = plan.engine.scalars.group_count
    known.tensors, known.elements = plan.engine.layout.count, plan.engine.layout.elements
    known.t, known.skipped, known.grad_norm = plan.engine.t, plan.engine.skipped, plan.engine.clipping.grad_norm
    if known.grad_norm == not_measured():
        known.grad_norm = NAN
    write_struct(info, &known, sizeof(known))
    return FASTLR_OK


cdef const char* slot_name(CPlan plan, int64_t k, int64_t j) noexcept nogil:
    if not plan.built or not -1 <= k < plan.gradients.count:
        return NULL
    k = plan.gradients.count if k < 0 else k
    if not 0 <= j < plan.first_slot[k + 1] - plan.first_slot[k]:
        return NULL
    return plan.slots[plan.first_slot[k] + j].name


cdef int state(CPlan plan, int64_t k, const char* name, fastlr_array* array) noexcept nogil:
    cdef Py_ssize_t j
    if array == NULL or name == NULL:
        return plan.fail(FASTLR_BAD_POINTER, "plan_state: slot and array must not be NULL")
    if not sized(array.struct_size, sizeof(fastlr_array)):
        return plan.fail(FASTLR_BAD_STRUCT, "plan_state: array must have struct_size = sizeof(fastlr_array)")
    if not plan.built:
        return plan.fail(FASTLR_NOT_BUILT, "plan_state: call plan_build first, and again after plan_add")
    if not -1 <= k < plan.gradients.count:
        return plan.fail(FASTLR_BAD_NAME, "plan_state: there is no tensor of this number")
    k = plan.gradients.count if k < 0 else k
    for j in range(plan.first_slot[k], plan.first_slot[k + 1]):
        if strcmp(plan.slots[j].name, name) == 0:
            write_struct(array, &plan.slots[j].array, sizeof(fastlr_array))
            return FASTLR_OK
    return plan.fail(FASTLR_BAD_NAME, "plan_state: the tensor has no slot of this name; plan_slot has all")


cdef int clock(CPlan plan, int64_t* t, int64_t* skipped_steps) noexcept nogil:
    cdef Py_ssize_t k
    if t == NULL:
        return plan.fail(FASTLR_BAD_POINTER, "plan_clock: t must not be NULL")
    if not plan.built:
        return plan.fail(FASTLR_NOT_BUILT, "plan_clock: call plan_build first")
    t[0] = plan.engine.t
    if skipped_steps != NULL:
        for k in range(plan.gradients.count):
            skipped_steps[k] = plan.engine.scalars.skipped_steps[plan.gradients.place[k]]
    return FASTLR_OK


cdef int set_clock(CPlan plan, int64_t t, const int64_t* skipped_steps) noexcept nogil:
    cdef Py_ssize_t k, i
    cdef int64_t skipped
    if not plan.built:
        return plan.fail(FASTLR_NOT_BUILT, "plan_set_clock: call plan_build first")
    if not 0 <= t < MAX_STEPS:
        return plan.fail(FASTLR_BAD_T, "plan_set_clock: t must be in [0, 2**62)")
    for k in range(plan.gradients.count):
        if skipped_steps != NULL and not 0 <= skipped_steps[k] <= t:
            return plan.fail(FASTLR_BAD_T, "plan_set_clock: each of skipped_steps must be in [0, t]")
    if not take_flag(&plan.engine.stepping):
        return plan.busy()
    plan.engine.t = t
    for k in range(plan.gradients.count):
        i, skipped = plan.gradients.place[k], skipped_steps[k] if skipped_steps != NULL else 0
        plan.engine.scalars.skip(i, skipped - plan.engine.scalars.skipped_steps[i])
    plan.engine.scalars.stale = True
    give_flag(&plan.engine.stepping)
    return FASTLR_OK


# With Python

cdef int place_state(CPlan plan, int64_t k, const char* slot, void* memory, bint take) noexcept with gil:
    cdef int itemsize
    try:
        if slot == NULL or memory == NULL:
            return plan.fail(FASTLR_BAD_POINTER, "plan_place_state: slot and memory must not be NULL")
        if not plan.built:
            return plan.fail(FASTLR_NOT_BUILT, "plan_place_state: call plan_build first, and again after plan_add")
        if not 0 <= k < plan.gradients.count:
            return plan.fail(FASTLR_BAD_NAME, "plan_place_state: there is no tensor of this number")
        tensor = plan.engine.layout.tensors[plan.gradients.place[k]].name
        called = slot.decode()
        present = plan.optimizer.state[tensor].get(called)
        if present is None:
            return plan.fail(FASTLR_BAD_NAME, "plan_place_state: the tensor has no slot of this name; plan_slot "
                                              "has all")
        itemsize = present.itemsize
        if <uintptr_t>memory % <size_t>itemsize:
            return plan.fail(FASTLR_BAD_POINTER, "plan_place_state: memory must be aligned to the slot's elements")
        plan.synchronize()
        if present.size:
            bytes = PyMemoryView_FromMemory(<char*>memory, <Py_ssize_t>present.nbytes, PyBUF_WRITE)
            array = np.ndarray(present.shape, present.dtype, bytes, 0, present.strides)
            plan.optimizer.place_state({tensor: {called: array}}, take=take)
            plan.refresh()
        return FASTLR_OK
    except BaseException as error:
        return plan.failed(error)


cdef int save(CPlan plan, const char* path) noexcept with gil:
    return with_file(plan, path, b"plan_save", loads=False)


cdef int load(CPlan plan, const char* path) noexcept with gil:
    return with_file(plan, path, b"plan_load", loads=True)


cdef int with_file(CPlan plan, const char* path, bytes owner, bint loads) noexcept:
    """Save a plan into a file, or load it from one."""
    cdef bytes refused
    try:
        if plan.optimizer is None:
            refused = owner + b": call plan_build first"
            return plan.fail(FASTLR_NOT_BUILT, refused)
        if path == NULL:
            refused = owner + b": path must not be NULL"
            return plan.fail(FASTLR_BAD_POINTER, refused)
        plan.synchronize()
        if loads:
            checkpoint.load(path.decode(), plan.optimizer)
            plan.refresh()
        else:
            checkpoint.save(path.decode(), plan.optimizer)
        return FASTLR_OK
    except BaseException as error:
        return plan.failed(error)


cdef int constrain(CPlan plan) noexcept with gil:
    try:
        if not plan.built:
            return plan.fail(FASTLR_NOT_BUILT, "plan_constrain: call plan_build first, and again after plan_add")
        if not take_flag(&plan.engine.stepping):           # (the class would raise; this is the number of it)
            return plan.busy()
        give_flag(&plan.engine.stepping)
        plan.optimizer.constrain()
        return FASTLR_OK
    except BaseException as error:
        return plan.failed(error)
