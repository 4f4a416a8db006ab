# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A step over some rows of one tensor."""
import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, ldexp, sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset
from fastlr._engine cimport thread_pool
from fastlr._engine.arrays cimport ALIGNED, ArrayView, read_array, strided_layout
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.clipping cimport (
    FACTOR_EXPONENT, Clipping, clip_factor, lost_squares, scale_exponent, scale_group, smallest_factor,
)
from fastlr._engine.gradients cimport overlap_error
from fastlr._engine.layout cimport Layout, same_precision, same_shape
from fastlr._engine.memory cimport Workspace
from fastlr._engine.plan cimport Plan
from fastlr._engine.row_index cimport RowIndex, rows_caller, rows_error
from fastlr._engine.step_scalars cimport ScalarGroups
from fastlr._kernels.rows cimport RowsJob, RowStream
from fastlr._kernels.structs cimport (
    BFLOAT16, GROUP, MAX_DIMENSIONS, MAX_SLOTS, UNKNOWN, ChunkSum, ScalarGroup, Storage, StridedLayout, TaskFunction,
    TensorView,
)

from fastlr._engine.arrays import BFloat16, as_array, stored_as
from fastlr._engine.instruction_set import kernels

build_id = FASTLR_LAYOUT.decode()

cdef enum:
    TASK_ELEMENTS = 16384      # elements of the rows that a thread takes at a time
    STREAMS = MAX_SLOTS + 4   # parameter, gradient, running mean, learning-rate factors, slots

cdef TaskFunction step_task = NULL     # found at the first step over rows, as few programs do one
cdef TaskFunction measure_task = NULL


cdef struct RowLayouts:
    # How the rows of each array are traversed.
    StridedLayout param, gradient, ema, lr_factors
    StridedLayout[MAX_SLOTS] slot
    Py_ssize_t[STREAMS * 2 * MAX_DIMENSIONS] lengths


def step_rows(Plan plan, Py_ssize_t i, rows, gradient, grad_scale, bint ends_step):
    """One update of some rows of tensor i by gradient[k] for rows[k]; all is checked before the first write."""
    cdef RowsJob job
    cdef RowLayouts layouts
    cdef ScalarGroup now
    cdef Layout layout = plan.layout
    cdef ScalarGroups scalars = plan.scalars
    cdef double scale = plan.checked_scale(grad_scale)
    cdef Py_ssize_t k, tasks
    cdef int64_t t
    cdef int group
    plan.begin()
    try:
        if plan.row_index is None:
            plan.row_index, plan.row_sums = RowIndex(), Workspace()
            find_tasks()
        lay_out_rows(plan, i, &job, &layouts)
        plan.row_index.read(rows, layout, i, job.width)
        plan.given.arrays = [read_gradient(plan, i, &job.g, &layouts.gradient, gradient)]
        if scalars.schedules:
            scalars.evaluate(plan.t)
        t = plan.t - scalars.skipped_steps[i]
        scalars.fill_tensor(i, &now, plan.t, scale)
        if plan.matrix_step is not None:
            group = layout.tensors[i].group
            plan.matrix_step.prepare_rows(i, &job, &now, scalars.values + group * scalars.width, t + 1)
        job.row, job.begin, job.source = plan.row_index.row, plan.row_index.begin, plan.row_index.source
        job.count, job.scalar_group, job.clip_factor = plan.row_index.count, &now, 1
        job.together = max(1, TASK_ELEMENTS // max(1, job.width))
        job.key = plan.random_key()
        tasks = (job.count + job.together - 1) // job.together if job.width else 0
        if plan.clipping.measures:
            if not measure(plan, i, &job, &now, tasks):
                plan.skipped += 1
                return
        if plan.rule.begin != NULL:
            plan.rule.begin(now.hyper, &now.now, layout.memories[i], scalars.shared)
        if plan.torch_parameters is not None:
            plan.torch_parameters.mark_written()
        thread_pool.run_tasks(step_task, &job, tasks, job.count * job.width)
        scalars.skip(i, -1)            # (the step that ends later counts it as skipped)
        if ends_step:
            plan.t += 1
            for k in range(layout.count):
                scalars.skip(k, 1)
    finally:
        plan.release()


cdef int find_tasks() except -1:
    global step_task, measure_task
    measure_task = <TaskFunction>PyCapsule_GetPointer(kernels.measure_rows_task, "fastlr.task")
    step_task = <TaskFunction>PyCapsule_GetPointer(kernels.step_rows_task, "fastlr.task")
    return 0


cdef int lay_out_rows(Plan plan, Py_ssize_t i, RowsJob* job, RowLayouts* layouts) except -1:
    """Find where the rows of a tensor and of its state are."""
    cdef Layout layout = plan.layout
    cdef const TensorView* view = &layout.views[i]
    cdef Clipping clipping = plan.clipping
    cdef Py_ssize_t width = 1
    cdef int k
    cdef ArrayView array_view
    cdef StridedLayout* row_layouts = &layouts.param       # (and all others, which follow it)
    tensor = layout.tensors[i]
    memset(job, 0, sizeof(RowsJob))
    for k in range(STREAMS):
        row_layouts[k].shape = layouts.lengths + 2 * MAX_DIMENSIONS * k
        row_layouts[k].stride = row_layouts[k].shape + MAX_DIMENSIONS
    if layout.ndims[i] == 0:
        raise rows_error(layout, i, "the parameter must have rows, got one number; use step")
    if min(clipping.clip_norm, clipping.clip_zscore) < INFINITY:
        raise rows_error(layout, i, f"{'clip_norm' if clipping.clip_norm < INFINITY else 'clip_zscore'} is over all "
                                    f"gradients of a step, and this sees one table's; use clip_tensor_norm, or clip "
                                    f"before")
    if view.unit_factors != NULL:
        raise rows_error(layout, i, "clip_adaptive measures whole parameters; use clip_tensor_norm, or clip before")
    if view.low_bits != NULL or view.shadow != NULL:
        split = view.low_bits != NULL
        raise rows_error(layout, i, f"{'a split parameter' if split else 'a shadow'} needs whole steps; build the "
                                    f"optimizer without {'master' if split else 'shadow'}=, or use step")
    for k in range(1, layout.ndims[i]):
        width *= layout.shapes[layout.first_axis[i] + k]
    job.width, job.slots, job.is_double, job.staged = width, layout.slots, view.is_double, view.staged
    job.stochastic, job.random_salt = plan.stochastic, view.random_salt
    job.step = plan.rule.step[view.is_double]
    read_again(layout, i, tensor.array, &array_view, view.p, view.stored)
    lay_out_stream(&job.p, &layouts.param, &array_view)
    for k in range(layout.slots):
        read_again(layout, i, tensor.state[k], &array_view, view.slot[k], view.slot_stored[k])
        lay_out_stream(&job.slot[k], &layouts.slot[k], &array_view)
        job.slot_scale[k] = view.slot_scale[k]
        if view.slot_scale[k] != NULL and width % GROUP:
            raise rows_error(layout, i, f"a state of 8 bits needs rows of a multiple of {GROUP} elements, which share "
                                        f"a scale, got {width}; choose another state_dtype for this table")
    if view.ema != NULL:
        read_again(layout, i, tensor.state[layout.slots], &array_view, view.ema, UNKNOWN)
        lay_out_stream(&job.ema, &layouts.ema, &array_view)
    if view.lr_factors != NULL:
        read_again(layout, i, tensor.lr_scales, &array_view, view.lr_factors, UNKNOWN)
        lay_out_stream(&job.scale, &layouts.lr_factors, &array_view)
    return 0


cdef void lay_out_stream(RowStream* stream, StridedLayout* row_layout, const ArrayView* array_view) noexcept:
    """Find where the rows of an array are, and how each is traversed."""
    cdef ArrayView row = array_view[0]
    stream.first, stream.stored, stream.layout = array_view.data, array_view.stored, NULL
    stream.pitch = array_view.strides[0]
    row.ndim, row.shape, row.strides = array_view.ndim - 1, array_view.shape + 1, array_view.strides + 1
    if strided_layout(row_layout, &row, NULL) or not array_view.flags & ALIGNED:
        stream.layout = row_layout


cdef int read_again(Layout layout, Py_ssize_t i, object array, ArrayView* array_view, const char* data,
                    Storage stored) except -1:
    """Read an array of a tensor as it is now; ValueError unless it is what it was when the optimizer was built."""
    # (its owner can give it another shape or type in place, and its rows would reach beyond it)
    cdef Py_ssize_t itemsize = 8 if layout.views[i].is_double else 4
    if not read_array(array, array_view) or array_view.data != data or not same_shape(layout, i, array_view) \
            or (array_view.stored != stored if stored != UNKNOWN else array_view.itemsize != itemsize):
        raise rows_error(layout, i, "the parameter or its state was given another shape, type or memory in place since "
                                    "it was bound; give it back its own")
    return 0


cdef object read_gradient(Plan plan, Py_ssize_t i, RowStream* stream, StridedLayout* row_layout, object gradient):
    """Check the gradient of a step over rows, and find where it is; returns what keeps it alive."""
    cdef Layout layout = plan.layout
    cdef ArrayView array_view
    cdef Py_ssize_t given = plan.row_index.given
    cdef int k
    cdef bint fits
    parameter = layout.tensors[i].array
    if not read_array(gradient, &array_view):
        gradient = as_array(gradient, f"{rows_caller(layout, i)}: grads")
        if gradient.dtype == np.uint16 and layout.views[i].stored == BFLOAT16:
            gradient = gradient.view(BFloat16)
    fits = read_array(gradient, &array_view) and same_precision(&layout.views[i], array_view.stored) \
        and array_view.ndim == layout.ndims[i] and array_view.shape[0] == given
    for k in range(1, layout.ndims[i] if fits else 0):
        fits = fits and array_view.shape[k] == layout.shapes[layout.first_axis[i] + k]
    if not fits:
        raise rows_error(layout, i, f"grads: expected {stored_as(parameter)} {(given, *parameter.shape[1:])}, a row "
                                    f"for each of rows, got {stored_as(gradient) or gradient.dtype} {gradient.shape}")
    lay_out_stream(stream, row_layout, &array_view)
    tensor = layout.overlapped(gradient, &array_view)
    if tensor is not None:
        raise overlap_error(layout.tensors[i].label, tensor)
    return gradient


cdef int add_squares(RowsJob* job, Py_ssize_t tasks, double* squares, double* nonfinite) except -1:
    """Measure the gradients of a step over rows."""
    cdef Py_ssize_t k
    squares[0] = nonfinite[0] = 0
    thread_pool.run_tasks(measure_task, job, tasks, job.count * job.width)
    for k in range(tasks):
        squares[0] += job.sums[k].squares
        nonfinite[0] += job.sums[k].nonfinite
    return 0


cdef bint measure(Plan plan, Py_ssize_t i, RowsJob* job, ScalarGroup* now, Py_ssize_t tasks) except -1:
    """Find the factor of the gradients of a step over rows; False if the step is skipped."""
    cdef Clipping clipping = plan.clipping
    cdef ScalarGroup scaled
    cdef double squares, nonfinite, ignored, norm
    cdef int lost, exponent = 0
    job.sums = <ChunkSum*>plan.row_sums.reserve(tasks * sizeof(ChunkSum))
    add_squares(job, tasks, &squares, &nonfinite)
    if nonfinite != 0 and clipping.nonfinite == "raise":
        raise clipping.nonfinite_error(plan.layout.tensors[i].label, plan.t)
    lost = lost_squares(squares, nonfinite, job.is_double)
    if lost:
        scaled, exponent = now[0], scale_exponent(lost, now.grad_factor)
        scale_group(&scaled, exponent)
        job.scalar_group = &scaled
        add_squares(job, tasks, &squares, &ignored)
        job.scalar_group = now
    norm = sqrt(squares)
    clipping.grad_norm = ldexp(norm, -exponent)
    if nonfinite != 0 and clipping.nonfinite == "skip":
        return False
    if clipping.clip_tensor_norm < INFINITY:
        job.clip_factor = clip_factor(clipping.clip_tensor_norm, norm, ldexp(1, exponent))
    if job.clip_factor < smallest_factor():
        job.clip_factor = ldexp(job.clip_factor, FACTOR_EXPONENT)
        scale_group(now, -FACTOR_EXPONENT)
    return True
