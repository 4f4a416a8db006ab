# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Steps of a plan: without Python and without its lock, but for those that only the class can do."""
import numpy as np

from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.math cimport INFINITY, NAN
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uintptr_t
from libc.stdio cimport snprintf
from libc.string cimport memset
from fastlr._c_api.c_plan cimport CPlan
from fastlr._c_api.handles cimport MESSAGE_SIZE
from fastlr._c_api.pointer_gradients cimport MISALIGNED, NO_FAULT, OVERLAPS, SHARED, Fault
from fastlr._c_api.sized_structs cimport read_struct
from fastlr._engine.arrays cimport ALIGNED, C_CONTIGUOUS, ArrayView, memory_range
from fastlr._engine.clipping cimport NO_MEMORY, REFUSED, SKIPPED, Verdict
from fastlr._engine.plan cimport give_flag, take_flag
from fastlr._engine.row_index cimport MAX_ROWS, NO_ROOM
from fastlr._engine.rows cimport MAX_REASON, RowLayouts, lay_out_rows, lay_out_stream, move_rows, rows_refused
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.rows cimport RowsJob
from fastlr._kernels.structs cimport BFLOAT16, FLOAT16, FLOAT32, FLOAT64, MAX_DIMENSIONS, StepJob
from fastlr.c_api cimport (
    FASTLR_BAD_HYPER, FASTLR_BAD_NAME, FASTLR_BAD_POINTER, FASTLR_BAD_SIZE, FASTLR_BAD_STRUCT, FASTLR_NO_MEMORY,
    FASTLR_NOT_BUILT, FASTLR_NOT_FINITE, FASTLR_OK, FASTLR_OVERLAP, FASTLR_REFUSED, fastlr_step_options,
)

from fastlr._c_api.description import accumulate_in_order, step_with_curvature
from fastlr._engine.arrays import BFloat16
from fastlr._engine.instruction_set import one_build

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr._c_api.plan_steps", build_id)

cdef extern from *:
    enum: PyBUF_WRITE

cdef dict STORED_NAMES = {FLOAT32: "float32", FLOAT64: "float64", FLOAT16: "float16", BFLOAT16: "uint16"}


# Without Python

cdef int step(CPlan plan, const void* const* gradients, const fastlr_step_options* options) noexcept nogil:
    cdef int error
    cdef fastlr_step_options read
    if not plan.built:
        return plan.fail(FASTLR_NOT_BUILT, "plan_step: call plan_build first, and again after plan_add")
    if gradients == NULL:
        return plan.fail(FASTLR_BAD_POINTER, "plan_step: gradients must not be NULL; of a tensor without, its "
                                             "pointer is")
    error = read_options(plan, options, &read)
    if error != FASTLR_OK:
        return error
    if not take_flag(&plan.engine.stepping):
        return plan.busy()
    error = step_alone(plan, gradients, &read)
    give_flag(&plan.engine.stepping)
    return error


cdef int step_alone(CPlan plan, const void* const* gradients, const fastlr_step_options* options) noexcept nogil:
    cdef StepJob job = plan.engine.job
    cdef Py_ssize_t wrong = 0
    cdef Fault fault = plan.gradients.read(gradients, options.zero_grads, &wrong)
    cdef Verdict verdict
    cdef int error
    if fault != NO_FAULT:
        return bad_gradient(plan, "gradient", fault, wrong)
    error = refused(plan, gradients)
    if error != FASTLR_OK:
        return error
    for wrong in range(plan.gradients.count if plan.needs_curvature else 0):
        if gradients[wrong] != NULL and \
                plan.engine.scalars.skipped_steps[plan.gradients.place[wrong]] >= plan.engine.t:
            return no_curvature(plan, wrong)
    error = evaluate(plan)
    if error != FASTLR_OK:
        return error
    job.gradients, job.zero_grads = plan.gradients.views, options.zero_grads
    wrong = plan.engine.without_last(job.gradients)
    if wrong >= 0:
        return without_last(plan, wrong)
    verdict = plan.engine.advance(&job, options.grad_scale, options.loss)
    if verdict == REFUSED:
        return not_finite(plan, plan.engine.clipping.refused)
    if verdict == NO_MEMORY:
        return plan.fail(FASTLR_NO_MEMORY, "out of memory")
    if options.zero_grads and (verdict == SKIPPED or plan.engine.matrix_step is not None):
        plan.gradients.set_to_zero()
    if plan.engine.torch_parameters is not None and verdict != SKIPPED:
        return mark_written(plan)
    return FASTLR_OK


cdef int step_rows(CPlan plan, int64_t k, int64_t n, const int64_t* rows, const void* gradients, bint ends_step,
                   const fastlr_step_options* options) noexcept nogil:
    cdef int error
    cdef fastlr_step_options read
    if not plan.built:
        return plan.fail(FASTLR_NOT_BUILT, "plan_step_rows: call plan_build first, and again after plan_add")
    if not 0 <= k < plan.gradients.count:
        return plan.fail(FASTLR_BAD_NAME, "plan_step_rows: there is no tensor of this number")
    if not 0 <= n < MAX_ROWS:
        return plan.fail(FASTLR_BAD_SIZE, "plan_step_rows: n must be in [0, 2**30)")
    if n and (rows == NULL or gradients == NULL):
        return plan.fail(FASTLR_BAD_POINTER, "plan_step_rows: rows and gradients must not be NULL")
    error = read_options(plan, options, &read)
    if error != FASTLR_OK:
        return error
    if read.zero_grads or not plan.allows_rows:
        return plan.fail(FASTLR_REFUSED, "plan_step_rows: does not set gradients to zero" if read.zero_grads else
                         "plan_step_rows: a step of this rule depends on more than an element's gradient; use "
                         "plan_step")
    if not take_flag(&plan.engine.stepping):
        return plan.busy()
    error = step_rows_alone(plan, k, n, rows, gradients, ends_step, read.grad_scale)
    give_flag(&plan.engine.stepping)
    return error


cdef int step_rows_alone(CPlan plan, Py_ssize_t k, Py_ssize_t n, const int64_t* rows, const void* gradients,
                         bint ends_step, double grad_scale) noexcept nogil:
    cdef RowsJob job
    cdef RowLayouts layouts
    cdef Py_ssize_t i = plan.gradients.place[k]
    cdef ArrayView view = plan.gradients.arrays[i]
    cdef Py_ssize_t[MAX_DIMENSIONS] shape
    cdef Py_ssize_t[MAX_DIMENSIONS] strides
    cdef char[MAX_REASON] reason
    cdef Py_ssize_t bad, length = view.itemsize
    cdef Verdict verdict
    cdef int axis, error
    if rows_refused(plan.engine, i, reason):
        return plan.fail(FASTLR_REFUSED, reason)
    if plan.engine.frozen != NULL and plan.engine.frozen[i]:
        return frozen(plan, k)
    if plan.description is None and plan.engine.watched is not None and look(plan) != FASTLR_OK:
        return FASTLR_REFUSED
    if plan.needs_curvature and plan.engine.scalars.skipped_steps[i] >= plan.engine.t:
        return plan.fail(FASTLR_REFUSED, "plan_step_rows: the tensor's curvature was never estimated; begin with "
                                         "plan_step_curvature, with zeros for rows that are not touched")
    lay_out_rows(plan.engine, i, &job, &layouts, &plan.row_arrays[i])
    if job.width and n > (<Py_ssize_t>1 << 60) // job.width:
        return plan.fail(FASTLR_BAD_SIZE, "plan_step_rows: there cannot be as many gradients")
    bad = plan.engine.row_index.read_indices(rows, n, view.shape[0], job.width)
    if bad >= 0:
        snprintf(plan.message, MESSAGE_SIZE, "rows must be in [0, %lld), got %lld at position %lld",
                 <long long>view.shape[0], <long long>plan.engine.row_index.indices[bad], <long long>bad)
        return FASTLR_BAD_SIZE
    if bad == NO_ROOM:
        return plan.fail(FASTLR_NO_MEMORY, "out of memory")
    for axis in range(view.ndim - 1, -1, -1):          # (a row for each of n, contiguous)
        shape[axis], strides[axis] = view.shape[axis] if axis else n, length
        length *= shape[axis]
    view.data, view.shape, view.strides, view.flags = <char*>gradients, shape, strides, ALIGNED | C_CONTIGUOUS
    if <uintptr_t>gradients % <size_t>view.itemsize:
        return plan.fail(FASTLR_BAD_POINTER, "plan_step_rows: gradients must be aligned to their elements")
    if plan.gradients.overlapping(&view):
        return plan.fail(FASTLR_OVERLAP, "plan_step_rows: gradients share memory with a parameter or its state, "
                                         "which the step writes; pass a copy")
    lay_out_stream(&job.g, &layouts.gradient, &view)
    error = evaluate(plan)
    if error != FASTLR_OK:
        return error
    verdict = move_rows(plan.engine, i, &job, grad_scale, ends_step)
    if verdict == REFUSED:
        return not_finite(plan, i)
    if verdict == NO_MEMORY:
        return plan.fail(FASTLR_NO_MEMORY, "out of memory")
    return mark_written(plan) if plan.engine.torch_parameters is not None and verdict != SKIPPED else FASTLR_OK


# By means of the class, with Python

cdef int accumulate(CPlan plan, const void* const* gradients, const fastlr_step_options* options) noexcept with gil:
    cdef fastlr_step_options read
    cdef int error
    try:
        error = read_step(plan, "plan_accumulate", gradients, options, &read)
        if error == FASTLR_OK:
            accumulate_in_order(plan.optimizer, arrays_at(plan, gradients), read.grad_scale, read.zero_grads != 0)
        return error
    except BaseException as failure:
        return plan.failed(failure)


cdef int step_curvature(CPlan plan, const void* const* gradients, const void* const* curvature,
                        const fastlr_step_options* options) noexcept with gil:
    cdef fastlr_step_options read
    cdef Py_ssize_t wrong = 0
    cdef Fault fault
    cdef int error
    try:
        error = read_step(plan, "plan_step_curvature", gradients, options, &read)
        if error != FASTLR_OK:
            return error
        if not plan.needs_curvature:
            return plan.fail(FASTLR_REFUSED, "plan_step_curvature: this optimizer is given no estimates of the "
                                             "curvature; use plan_step")
        if curvature == NULL:
            return plan.fail(FASTLR_BAD_POINTER, "plan_step_curvature: curvature must not be NULL; use plan_step "
                                                 "where no tensor has an estimate")
        fault = plan.gradients.read(curvature, False, &wrong)
        if fault != NO_FAULT:
            return bad_gradient(plan, "curvature", fault, wrong)
        step_with_curvature(plan.optimizer, arrays_at(plan, gradients), arrays_at(plan, curvature), read.grad_scale,
                            read.zero_grads != 0)
        return FASTLR_OK
    except BaseException as failure:
        return plan.failed(failure)


cdef int read_step(CPlan plan, str function, const void* const* gradients, const fastlr_step_options* options,
                   fastlr_step_options* read) except -1:
    """Check what a step by means of the class is given, and let Python see the present numbers."""
    cdef Py_ssize_t wrong = 0
    cdef Fault fault
    cdef int error
    if not plan.built:
        return plan.fail(FASTLR_NOT_BUILT, f"{function}: call plan_build first, and again after plan_add".encode())
    if gradients == NULL:
        return plan.fail(FASTLR_BAD_POINTER, f"{function}: gradients must not be NULL; of a tensor without, its "
                                             f"pointer is".encode())
    error = read_options(plan, options, read)
    if error != FASTLR_OK:
        return error
    if not take_flag(&plan.engine.stepping):             # (the class would raise; this is the number of it)
        return plan.busy()
    fault = plan.gradients.read(gradients, read.zero_grads != 0, &wrong)
    if fault == NO_FAULT:
        error = refused(plan, gradients)
    give_flag(&plan.engine.stepping)
    if fault != NO_FAULT:
        return bad_gradient(plan, "gradient", fault, wrong)
    if error != FASTLR_OK:
        return error
    plan.synchronize()
    return FASTLR_OK


cdef list arrays_at(CPlan plan, const void* const* pointers):
    """Arrays over the memory of gradients, or None, in the order of the layout's tensors."""
    cdef Py_ssize_t k, i
    cdef int axis
    cdef char* low
    cdef char* high
    cdef ArrayView view
    cdef list found = [None] * plan.gradients.count
    for k in range(plan.gradients.count):
        if pointers[k] == NULL:
            continue
        i = plan.gradients.place[k]
        view = plan.gradients.arrays[i]
        view.data = <char*>pointers[k]
        memory_range(&view, &low, &high)
        dtype = STORED_NAMES[view.stored]
        shape = tuple([view.shape[axis] for axis in range(view.ndim)])
        strides = tuple([view.strides[axis] for axis in range(view.ndim)])
        if low == high:
            array = np.empty(shape, dtype)
        else:
            memory = PyMemoryView_FromMemory(low, high - low, PyBUF_WRITE)
            array = np.ndarray(shape, dtype, memory, view.data - low, strides)
        found[i] = array.view(BFloat16) if view.stored == BFLOAT16 else array
    return found


# What both check, without Python

cdef int read_options(CPlan plan, const fastlr_step_options* options, fastlr_step_options* read) noexcept nogil:
    """Read the options of a step, or an error."""
    memset(read, 0, sizeof(fastlr_step_options))
    read.loss = NAN
    if options != NULL and not read_struct(options, sizeof(fastlr_step_options), read):
        return plan.fail(FASTLR_BAD_STRUCT, "options must have struct_size = sizeof(fastlr_step_options), and zeros "
                                            "in members that this fastlr does not know")
    if read.grad_scale == 0:
        read.grad_scale = 1
    if not plan.engine.layout.min_grad_scale <= read.grad_scale <= plan.engine.layout.max_grad_scale \
            or not read.grad_scale < INFINITY:
        snprintf(plan.message, MESSAGE_SIZE, "grad_scale must be in [%.3g, %.3g], where its inverse is a normal "
                 "number, got %g", plan.engine.layout.min_grad_scale, plan.engine.layout.max_grad_scale,
                 read.grad_scale)
        return FASTLR_BAD_HYPER
    if plan.needs_loss and not -INFINITY < read.loss < INFINITY:
        return plan.fail(FASTLR_BAD_HYPER, "a step of this optimizer needs options with the loss where the "
                                           "gradients were taken, a finite number")
    return FASTLR_OK


cdef int refused(CPlan plan, const void* const* gradients) noexcept nogil:
    """An error if Python did something to its optimizer that a step must not pass over; the caller has the flag."""
    cdef Py_ssize_t k
    for k in range(plan.gradients.count if plan.engine.frozen != NULL else 0):
        if gradients[k] != NULL and plan.engine.frozen[plan.gradients.place[k]]:
            return frozen(plan, k)
    return look(plan) if plan.description is None and plan.engine.watched is not None else FASTLR_OK


cdef int look(CPlan plan) noexcept with gil:
    """Look whether parameters were replaced, as the class does before a step."""
    try:
        plan.engine.refuse_replaced()
        return FASTLR_OK
    except BaseException as error:
        return plan.failed(error)


cdef int mark_written(CPlan plan) noexcept with gil:
    """Tell PyTorch that its tensors were written, so that it refuses a graph that was saved before."""
    try:
        plan.engine.torch_parameters.mark_written()
        return FASTLR_OK
    except BaseException as error:
        return plan.failed(error)


cdef int evaluate(CPlan plan) noexcept nogil:
    """Set the values of all schedules, or an error."""
    cdef Py_ssize_t k
    if plan.engine.scalars.callables:
        return plan.fail(FASTLR_REFUSED, "a hyper-parameter was given a function of Python, which C does not call; "
                                         "use a schedule of fastlr.schedules, or set a number before each step")
    k = plan.engine.scalars.evaluate_nodes(plan.engine.t)
    if k >= 0:
        return plan.bad_value(<int>(k % plan.engine.scalars.width), plan.engine.scalars.nodes_gave, "its schedule gave")
    if plan.engine.scalars.corrected:
        k = plan.engine.scalars.rate_above_peak()
        if k >= 0:
            snprintf(plan.message, MESSAGE_SIZE, "decay='corrected': lr of group %d is %g at t = %lld, above "
                     "lr_max = %g; give the largest as lr_max", <int>k,
                     plan.engine.scalars.values[k * plan.engine.scalars.width], <long long>plan.engine.t,
                     plan.engine.scalars.max_lrs[k])
            return FASTLR_BAD_HYPER
    return FASTLR_OK


# Errors

cdef int not_finite(CPlan plan, Py_ssize_t i) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(plan.gradients.count):
        if plan.gradients.place[k] == i:
            snprintf(plan.message, MESSAGE_SIZE, "gradient %lld holds NaN or infinity at t = %lld; nothing was "
                     "changed", <long long>k, <long long>plan.engine.t)
    return FASTLR_NOT_FINITE


cdef int frozen(CPlan plan, Py_ssize_t k) noexcept nogil:
    snprintf(plan.message, MESSAGE_SIZE, "tensor %lld is frozen, and takes no gradient; pass NULL for it, or call "
             "unfreeze in Python", <long long>k)
    return FASTLR_REFUSED


cdef int without_last(CPlan plan, Py_ssize_t i) noexcept nogil:
    cdef Py_ssize_t k = 0
    while plan.gradients.place[k] != i:
        k += 1
    snprintf(plan.message, MESSAGE_SIZE, "tensor %lld must have a gradient, as some were accumulated in its moments "
             "since the latest step; pass zeros where the last batch has none", <long long>k)
    return FASTLR_REFUSED


cdef int no_curvature(CPlan plan, Py_ssize_t k) noexcept nogil:
    snprintf(plan.message, MESSAGE_SIZE, "tensor %lld has its first gradient in this step, and its curvature was "
             "never estimated; use plan_step_curvature", <long long>k)
    return FASTLR_REFUSED


cdef int bad_gradient(CPlan plan, const char* noun, Fault fault, Py_ssize_t k) noexcept nogil:
    cdef const char* what
    if fault == MISALIGNED:
        what = "is not aligned to its elements"
    elif fault == OVERLAPS:
        what = "shares memory with a parameter or its state, which the step writes; pass a copy"
    elif fault == SHARED:
        what = "shares memory with another one, and zero_grads would set it to zero before it is read"
    else:
        what = "has elements that share memory, and zero_grads would set them to zero before they are read"
    snprintf(plan.message, MESSAGE_SIZE, "%s %lld %s", noun, <long long>k, what)
    return FASTLR_BAD_POINTER if fault == MISALIGNED else FASTLR_OVERLAP
