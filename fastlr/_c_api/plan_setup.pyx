# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a plan is told: its options, hyper-parameters and tensors, and that it has them all."""
import numpy as np

from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uintptr_t
from fastlr._c_api.c_plan cimport CPlan
from fastlr._c_api.sized_structs cimport read_struct
from fastlr._engine.compiled_schedule cimport CompiledSchedule
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.structs cimport MAX_DIMENSIONS
from fastlr.c_api cimport (
    FASTLR_BAD_DTYPE, FASTLR_BAD_NAME, FASTLR_BAD_POINTER, FASTLR_BAD_SIZE, FASTLR_BAD_STRUCT, FASTLR_NOT_BUILT,
    FASTLR_OK, FASTLR_REFUSED, fastlr_tensor,
)

from fastlr._c_api.c_plan import DTYPES
from fastlr._c_api.description import set_option
from fastlr._c_api.option_text import read_option
from fastlr._engine.arrays import BFloat16
from fastlr._engine.instruction_set import one_build

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr._c_api.plan_setup", build_id)

cdef extern from *:
    enum: PyBUF_WRITE


# Options and hyper-parameters

cdef int option(CPlan plan, int group, const char* name, const char* value) noexcept with gil:
    if name == NULL or value == NULL:
        return plan.fail(FASTLR_BAD_POINTER, "plan_option: name and value must not be NULL")
    try:
        return set_in_python(plan, group, name, read_option(name.decode(), value.decode()))
    except BaseException as error:
        return plan.failed(error)


cdef int number_with_gil(CPlan plan, int group, const char* name, double value) noexcept with gil:
    try:
        return set_in_python(plan, group, name, value)
    except BaseException as error:
        return plan.failed(error)


cdef int schedule(CPlan plan, int group, const char* name, PyObject* schedule) noexcept with gil:
    if name == NULL or schedule == NULL:
        return plan.fail(FASTLR_BAD_POINTER, "plan_schedule: name and schedule must not be NULL")
    try:
        given = <object>schedule
        if not isinstance(given, CompiledSchedule) or (<CompiledSchedule>given).nodes == NULL:
            raise TypeError(f"plan_schedule: expected a schedule of fastlr.schedules, got {given!r}")
        return set_in_python(plan, group, name, given)
    except BaseException as error:
        return plan.failed(error)


cdef int set_in_python(CPlan plan, int group, const char* name, object value):
    cdef str called = name.decode()
    if group < -1 or group >= 1 << 20:
        return plan.fail(FASTLR_BAD_NAME, "group must be -1 for all, or the number of a group")
    if plan.optimizer is not None and group >= <int>len(plan.optimizer.groups) and plan.description is None:
        return plan.fail(FASTLR_BAD_NAME, "the optimizer has no group of this number")
    if plan.optimizer is not None:
        plan.synchronize()
    if plan.description is not None:
        plan.description.option(group, called, value)
    else:
        set_option(plan.optimizer, group, called, value)
    if plan.built:
        plan.refresh()             # (there is another plan where a stage was set)
    return FASTLR_OK


cdef int number(CPlan plan, int group, const char* name, double value) noexcept nogil:
    cdef int k, g
    cdef Py_ssize_t place
    if name == NULL:
        return plan.fail(FASTLR_BAD_POINTER, "plan_set: name must not be NULL")
    k = plan.index(name) if plan.built else -1
    if k < 0 or plan.description is None or plan.engine.scalars.corrected:
        return number_with_gil(plan, group, name, value)
    if not -1 <= group < plan.engine.scalars.group_count:
        return plan.fail(FASTLR_BAD_NAME, "plan_set: there is no group of this number")
    if not plan.engine.scalars.low[k] <= value < plan.engine.scalars.high[k]:
        return plan.bad_value(k, value, "got")
    for g in range(plan.engine.scalars.group_count):
        if group == -1 or g == group:
            place = g * plan.engine.scalars.width + k
            plan.engine.scalars.values[place], plan.engine.scalars.nodes[place], plan.changed[place] = value, NULL, True
    return FASTLR_OK


cdef int value(CPlan plan, int group, const char* name, double* value) noexcept nogil:
    cdef int k
    if name == NULL or value == NULL:
        return plan.fail(FASTLR_BAD_POINTER, "plan_get: name and value must not be NULL")
    if not plan.built:
        return plan.fail(FASTLR_NOT_BUILT, "plan_get: call plan_build first")
    k = plan.index(name)
    if k < 0 or not 0 <= group < plan.engine.scalars.group_count:
        return plan.fail(FASTLR_BAD_NAME, "plan_get: there is no such hyper-parameter, or no group of this number")
    value[0] = plan.engine.scalars.values[group * plan.engine.scalars.width + k]
    return FASTLR_OK


# Tensors

cdef int add(CPlan plan, const fastlr_tensor* tensor) noexcept with gil:
    cdef fastlr_tensor given
    try:
        plan.synchronize()
        if plan.description is None:
            return plan.fail(FASTLR_REFUSED, "plan_add: this plan's optimizer was made in Python; call its "
                                             "add_group, then plan_build")
        if tensor == NULL or not read_struct(tensor, sizeof(fastlr_tensor), &given):
            return plan.fail(FASTLR_BAD_STRUCT if tensor != NULL else FASTLR_BAD_POINTER,
                             "plan_add: tensor must not be NULL, and have struct_size = sizeof(fastlr_tensor), and "
                             "zeros in members that this fastlr does not know")
        if given.dtype not in DTYPES or given.grad_dtype != 0 and given.grad_dtype not in DTYPES:
            return plan.fail(FASTLR_BAD_DTYPE, "plan_add: dtype must be FASTLR_FLOAT16, _BFLOAT16, _FLOAT32 or "
                                               "_FLOAT64, grad_dtype one of these or 0")
        if not 0 <= given.ndim <= MAX_DIMENSIONS or given.group < 0 or given.group >= 1 << 20:
            return plan.fail(FASTLR_BAD_SIZE, "plan_add: ndim must be in [0, 64], and group >= 0")
        if given.ndim and given.shape == NULL:
            return plan.fail(FASTLR_BAD_POINTER, "plan_add: shape must not be NULL")
        return add_array(plan, &given)
    except BaseException as error:
        return plan.failed(error)


cdef int add_array(CPlan plan, const fastlr_tensor* tensor) except -1:
    """Keep a tensor, as an array over the caller's memory, and how its gradients are laid out."""
    cdef str dtype = DTYPES[tensor.dtype], grad_dtype = DTYPES.get(tensor.grad_dtype, dtype)
    cdef int itemsize = np.dtype(dtype if dtype != "bfloat16" else "uint16").itemsize
    cdef int grad_itemsize = np.dtype(grad_dtype if grad_dtype != "bfloat16" else "uint16").itemsize
    cdef str name = tensor.name.decode() if tensor.name != NULL else None
    cdef size_t below = 0, extent = itemsize
    shape = [tensor.shape[k] for k in range(tensor.ndim)]
    if any([n < 0 for n in shape]):
        return plan.fail(FASTLR_BAD_SIZE, "plan_add: shape must be >= 0")
    strides = read_strides(tensor.strides, shape, itemsize)
    grad_strides = read_strides(tensor.grad_strides, shape, grad_itemsize)
    size, span, grad_span = 1, itemsize, grad_itemsize
    for n, step, grad_step in zip(shape, strides, grad_strides, strict=True):
        if step % itemsize or grad_step % grad_itemsize:
            return plan.fail(FASTLR_BAD_SIZE, "plan_add: strides are in bytes, and multiples of an element's size")
        size *= n
        span += abs(step) * max(n - 1, 0)
        grad_span += abs(grad_step) * max(n - 1, 0)
    if max(span, grad_span, size * 8) >= 1 << 62:
        return plan.fail(FASTLR_BAD_SIZE, "plan_add: the tensor reaches over more bytes than there can be")
    if size and tensor.data == NULL or <uintptr_t>tensor.data % <size_t>itemsize:
        return plan.fail(FASTLR_BAD_POINTER, "plan_add: data must not be NULL, and be aligned to its elements")
    stored = "uint16" if dtype == "bfloat16" else dtype
    if size:
        below = sum([-step * (n - 1) for n, step in zip(shape, strides, strict=True) if step < 0])
        extent = span
        if <uintptr_t>tensor.data < below or <uintptr_t>tensor.data - below > <uintptr_t>(-1) - extent:
            return plan.fail(FASTLR_BAD_SIZE, "plan_add: the tensor reaches over more bytes than there can be")
        memory = PyMemoryView_FromMemory(<char*>tensor.data - below, <Py_ssize_t>extent, PyBUF_WRITE)
        array = np.ndarray(shape, stored, memory, below, strides)
    else:
        array = np.empty(shape, stored)
    plan.description.add(name, array.view(BFloat16) if dtype == "bfloat16" else array, tensor.group)
    plan.grad_dtypes.append(grad_dtype)
    plan.grad_strides.append(grad_strides if tensor.grad_strides != NULL else None)
    plan.built = False
    return FASTLR_OK


cdef list read_strides(const int64_t* given, list shape, int itemsize):
    """Strides in bytes; of a contiguous array if none are given."""
    cdef Py_ssize_t k
    strides = [0] * len(shape)
    length = itemsize
    for k in range(len(shape) - 1, -1, -1):
        strides[k] = length if given == NULL else given[k]
        length *= shape[k]
    return strides


cdef int build(CPlan plan) noexcept with gil:
    try:
        if plan.description is not None:
            if plan.optimizer is not None:
                plan.synchronize()
            plan.optimizer = plan.description.build()
        plan.refresh()
        return FASTLR_OK
    except BaseException as error:
        return plan.failed(error)
