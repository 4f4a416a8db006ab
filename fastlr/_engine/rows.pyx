# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A step over some rows of one tensor."""
import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, ldexp, sqrt
from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.string cimport memset
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._engine.arrays cimport ALIGNED, ArrayView, read_array, strided_layout
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.clipping cimport (
    FACTOR_EXPONENT, GOES, NO_MEMORY, REFUSED, SKIPPED, Verdict, clip_factor, lost_squares, scale_exponent, scale_group,
    smallest_factor,
)
from fastlr._engine.gradients cimport overlap_error
from fastlr._engine.layout cimport Layout, same_precision, same_shape
from fastlr._engine.memory cimport Workspace
from fastlr._engine.plan cimport Plan
from fastlr._engine.row_index cimport RowIndex, rows_caller, rows_error
from fastlr._kernels.rows cimport CatchUpJob, MeasuredChunk, RowsJob, RowStream
from fastlr._kernels.structs cimport (
    BFLOAT16, BOX, FLOAT32, FLOAT64, GROUP, MAX_DIMENSIONS, NO_CONSTRAINT, UNKNOWN,
    ChunkSum, ScalarGroup, Storage, StridedLayout, TaskFunction, TensorView,
)

from fastlr._engine.arrays import BFloat16, as_array, stored_as
from fastlr._engine.instruction_set import kernels

build_id = FASTLR_LAYOUT.decode()

cdef enum:
    TASK_ELEMENTS = 16384      # elements of the rows that a thread takes at a time
    CATCH_UP_ELEMENTS = 1024   # ... of rows that catch up, which may have missed thousands of updates

cdef TaskFunction step_task = NULL     # found at the first step over rows, as few programs do one
cdef TaskFunction measure_task = NULL
cdef TaskFunction catch_up_task = NULL


def step_rows(Plan plan, Py_ssize_t i, rows, gradient, grad_scale, bint ends_step):
    """One update of some rows of tensor i by gradient[k] for rows[k]; all is checked before the first write."""
    cdef RowsJob job
    cdef RowLayouts layouts
    cdef RowArrays arrays
    cdef Layout layout = plan.layout
    cdef double scale = plan.checked_scale(grad_scale)
    cdef char[MAX_REASON] reason
    cdef Verdict verdict
    plan.begin()
    try:
        prepare_rows(plan)
        if rows_refused(plan, i, reason):
            raise rows_error(layout, i, reason.decode())
        read_arrays(layout, i, &arrays)
        lay_out_rows(plan, i, &job, &layouts, &arrays)
        plan.row_index.read(rows, layout, i, job.width)
        if plan.journals is not None:
            prepare_catch_up(plan, i)
        plan.given.arrays = [read_gradient(plan, i, &job.g, &layouts.gradient, gradient)]
        if plan.scalars.schedules:
            plan.scalars.evaluate(plan.t)
        if plan.torch_parameters is not None:
            plan.torch_parameters.mark_written()
        with nogil:
            verdict = move_rows(plan, i, &job, scale, ends_step)
        if verdict == REFUSED:
            raise plan.clipping.nonfinite_error(layout.tensors[i].label, plan.t)
        if verdict == NO_MEMORY:
            raise MemoryError
    finally:
        plan.release()


cdef int prepare_rows(Plan plan) except -1:
    """What steps over rows need of the interpreter: memory for them, and the tasks of threads."""
    global step_task, measure_task
    if plan.row_index is None:
        plan.row_index, plan.row_sums = RowIndex(), Workspace()
        measure_task = <TaskFunction>PyCapsule_GetPointer(kernels.measure_rows_task, "fastlr.task")
        step_task = <TaskFunction>PyCapsule_GetPointer(kernels.step_rows_task, "fastlr.task")
    return 0


def catch_up(Plan plan, Py_ssize_t i, rows=None):
    """Let these rows of tensor i, which are within it, or all have the updates that step_rows did; whether one had not.
    """
    cdef RowsJob job
    cdef RowLayouts layouts
    cdef RowArrays arrays
    cdef bint caught_up
    if not plan.journals[i].behind():
        plan.journals[i].discard()
        return False
    plan.begin()
    try:
        prepare_rows(plan)
        prepare_catch_up(plan, i)
        read_arrays(plan.layout, i, &arrays)
        lay_out_rows(plan, i, &job, &layouts, &arrays)
        if rows is not None:
            plan.row_index.read(rows, plan.layout, i, job.width)
        if plan.torch_parameters is not None:
            plan.torch_parameters.mark_written()
        with nogil:
            if rows is None:
                caught_up = catch_up_all(plan, &job)
            else:
                caught_up = catch_up_rows(plan, &job, plan.row_index.row, plan.row_index.count)
    finally:
        plan.release()
    return caught_up


cdef int prepare_catch_up(Plan plan, Py_ssize_t i) except -1:
    """What rows of tensor i need of the interpreter to catch up."""
    global catch_up_task
    plan.journal = plan.journals[i]
    if plan.journal is not None:
        catch_up_task = <TaskFunction>PyCapsule_GetPointer(kernels.catch_up_task, "fastlr.task")
        thread_pool.prepare()
    return 0


cdef bint catch_up_all(Plan plan, const RowsJob* job) noexcept nogil:
    """Let every row have all updates, and forget those."""
    cdef bint caught_up = catch_up_rows(plan, job, NULL, plan.journal.rows)
    plan.journal.restart()
    return caught_up


cdef bint catch_up_rows(Plan plan, const RowsJob* job, const int64_t* row, Py_ssize_t count) noexcept nogil:
    """Let these different rows (NULL: the first `count`) have all updates; whether one had not."""
    cdef CatchUpJob past
    cdef Py_ssize_t k, missed = 0
    for k in range(count):
        missed += plan.journal.count - plan.journal.done[row[k] if row != NULL else k]
    if missed == 0 or job.width == 0:
        return False
    past.rows = job[0]
    past.rows.row, past.rows.count, past.rows.random_salt = row, count, 0
    past.rows.g.first, past.rows.g.pitch, past.rows.g.layout = <char*>plan.journal.zeros, 0, NULL
    past.rows.g.stored = FLOAT64 if job.is_double else FLOAT32
    past.rows.together = max(1, CATCH_UP_ELEMENTS // job.width)
    past.updates, past.count, past.done = plan.journal.updates, plan.journal.count, plan.journal.done
    past.moving, past.scaling, past.rising = plan.journal.moving, plan.journal.scaling, plan.journal.rising
    past.log_decay, past.fades = plan.journal.log_decay, plan.journal.fades
    thread_pool.do_all(catch_up_task, &past, (count + past.rows.together - 1) // past.rows.together,
                       missed * job.width)
    return True


cdef Verdict move_rows(Plan plan, Py_ssize_t i, RowsJob* job, double grad_scale, bint ends_step) noexcept nogil:
    """The update, once its rows, gradients and values of schedules are read. (Call `prepare_for` of thread_pool
    before.)"""
    cdef ScalarGroup now
    cdef Py_ssize_t k, tasks
    cdef int64_t t = plan.t - plan.scalars.skipped_steps[i]
    cdef Verdict verdict
    plan.scalars.fill_tensor(i, &now, plan.t, grad_scale)
    if plan.matrix_step is not None:
        plan.matrix_step.prepare_rows(
            i, job, &now, plan.scalars.values + plan.scalars.tensor_keys[i].group * plan.scalars.width, t + 1)
    job.row, job.begin, job.source = plan.row_index.row, plan.row_index.begin, plan.row_index.source
    job.count, job.scalar_group, job.clip_factor = plan.row_index.count, &now, 1
    job.together = max(1, TASK_ELEMENTS // max(1, job.width))
    job.key = plan.random_key()
    tasks = (job.count + job.together - 1) // job.together if job.width else 0
    if plan.clipping.measures:
        verdict = measure(plan, i, job, &now)
        if verdict == SKIPPED:
            plan.skipped += 1
        if verdict != GOES:
            return verdict
    if plan.journal is not None and not plan.journal.reserve():
        return NO_MEMORY
    if plan.rule.begin != NULL:
        plan.rule.begin(now.hyper, &now.now, plan.layout.memories[i], plan.scalars.shared)
    if plan.journal is not None:
        if plan.journal.count == plan.journal.limit:
            catch_up_all(plan, job)
        else:
            catch_up_rows(plan, job, job.row, job.count)
    thread_pool.do_all(step_task, job, tasks, job.count * job.width)
    if plan.journal is not None:
        plan.journal.add(plan.rule, job.is_double, &now, job.clip_factor, job.key + job.random_salt)
        plan.journal.mark(job.row, job.count)
    if plan.layout.views[i].after != NULL and plan.layout.views[i].after.constraint != NO_CONSTRAINT:
        for k in range(job.count):
            plan.constrain_elements(&plan.job, &plan.layout.views[i], job.row[k] * job.width, job.width)
    plan.count_rows(i, ends_step)
    plan.scalars.skip(i, -1)           # (the step that ends later counts it as skipped)
    if ends_step:
        plan.t += 1
        for k in range(plan.layout.count):
            plan.scalars.skip(k, 1)
    return GOES


cdef Py_ssize_t row_width(Plan plan, Py_ssize_t i) noexcept nogil:
    """The elements of a row of tensor i."""
    cdef Py_ssize_t width = 1
    cdef int k
    for k in range(1, plan.layout.ndims[i]):
        width *= plan.layout.shapes[plan.layout.first_axis[i] + k]
    return width


cdef bint rows_refused(Plan plan, Py_ssize_t i, char* reason) noexcept nogil:
    """Whether rows of a tensor cannot be stepped, and why, in at most MAX_REASON bytes."""
    cdef const TensorView* view = &plan.layout.views[i]
    cdef Py_ssize_t width = row_width(plan, i)
    cdef int k
    if plan.layout.ndims[i] == 0:
        snprintf(reason, MAX_REASON, "the parameter must have rows, got one number; use step")
        return True
    if plan.accumulated > 0 and plan.holds != NULL and plan.holds[i]:
        snprintf(reason, MAX_REASON, "gradients were accumulated in the moments of all rows since the latest step; use "
                 "step, with zeros for rows that are not touched")
        return True
    if min(plan.clipping.clip_norm, plan.clipping.clip_zscore) < INFINITY:
        snprintf(reason, MAX_REASON, "%s is over all gradients of a step, and this sees one table's; use "
                 "clip_tensor_norm, or clip before",
                 <const char*>"clip_norm" if plan.clipping.clip_norm < INFINITY else <const char*>"clip_zscore")
        return True
    if view.unit_factors != NULL:
        snprintf(reason, MAX_REASON, "clip_adaptive measures whole parameters; use clip_tensor_norm, or clip before")
        return True
    if view.after != NULL and view.after.constraint != NO_CONSTRAINT and (
            view.ema != NULL or (view.after.constraint != BOX and view.after.row != width)):
        snprintf(reason, MAX_REASON, "%s needs whole steps; use step, or build the optimizer without it",
                 <const char*>"a running mean of a constrained parameter" if view.ema != NULL
                 else <const char*>"a constraint over more than a row")
        return True
    if view.low_bits != NULL or view.shadow != NULL:
        snprintf(reason, MAX_REASON, "%s needs whole steps; build the optimizer without %s=, or use step",
                 <const char*>"a split parameter" if view.low_bits != NULL else <const char*>"a shadow",
                 <const char*>"master" if view.low_bits != NULL else <const char*>"shadow")
        return True
    for k in range(plan.layout.slots):
        if view.slot_scale[k] != NULL and width % GROUP:
            snprintf(reason, MAX_REASON, "a state of 8 bits needs rows of a multiple of %d elements, which share a "
                     "scale, got %lld; choose another state_dtype for this table", <int>GROUP, <long long>width)
            return True
    return False


cdef int read_arrays(Layout layout, Py_ssize_t i, RowArrays* arrays) except -1:
    """Read where a tensor and its state are now."""
    cdef const TensorView* view = &layout.views[i]
    cdef int k
    tensor = layout.tensors[i]
    read_again(layout, i, tensor.array, &arrays.param, view.p, view.stored)
    for k in range(layout.slots):
        read_again(layout, i, tensor.state[k], &arrays.slot[k], view.slot[k], view.slot_stored[k])
    if view.ema != NULL:
        read_again(layout, i, tensor.state[layout.slots], &arrays.ema, view.ema, UNKNOWN)
    if view.lr_factors != NULL:
        read_again(layout, i, tensor.lr_scales, &arrays.lr_factors, view.lr_factors, UNKNOWN)
    return 0


cdef void lay_out_rows(Plan plan, Py_ssize_t i, RowsJob* job, RowLayouts* layouts,
                       const RowArrays* arrays) noexcept nogil:
    """Find where the rows of a tensor and of its state are."""
    cdef const TensorView* view = &plan.layout.views[i]
    cdef int k
    cdef StridedLayout* row_layouts = &layouts.param       # (and all others, which follow it)
    memset(job, 0, sizeof(RowsJob))
    for k in range(STREAMS):
        row_layouts[k].shape = layouts.lengths + 2 * MAX_DIMENSIONS * k
        row_layouts[k].stride = row_layouts[k].shape + MAX_DIMENSIONS
    job.width, job.slots, job.is_double = row_width(plan, i), plan.layout.slots, view.is_double
    job.staged = view.staged if view.after == NULL else view.after.staged
    job.chunk_size = plan.layout.chunk_size(i)
    job.stochastic, job.random_salt = plan.stochastic, view.random_salt
    job.step = plan.rule.step[view.is_double]
    lay_out_stream(&job.p, &layouts.param, &arrays.param)
    for k in range(plan.layout.slots):
        lay_out_stream(&job.slot[k], &layouts.slot[k], &arrays.slot[k])
        job.slot_scale[k] = view.slot_scale[k]
    if view.ema != NULL:
        lay_out_stream(&job.ema, &layouts.ema, &arrays.ema)
    if view.lr_factors != NULL:
        lay_out_stream(&job.scale, &layouts.lr_factors, &arrays.lr_factors)


cdef void lay_out_stream(RowStream* stream, StridedLayout* row_layout, const ArrayView* array_view) noexcept nogil:
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


cdef Py_ssize_t find_chunks(const RowsJob* job, MeasuredChunk* chunks) noexcept nogil:
    """The chunks of a whole step in which this has rows, or (`chunks` NULL) how many there are."""
    cdef Py_ssize_t n, count = 0
    cdef int64_t row, chunk, last, latest = -1
    for n in range(job.count if job.width else 0):
        row = job.row[job.ascending[n] if job.ascending != NULL else n]
        chunk, last = row * job.width // job.chunk_size, ((row + 1) * job.width - 1) // job.chunk_size
        chunk = latest + 1 if chunk == latest else chunk
        while chunk <= last:
            if chunks != NULL:
                chunks[count].start, chunks[count].first_row = chunk * job.chunk_size, n
            latest = chunk
            count += 1
            chunk += 1
    return count


cdef bint cut_chunks(Plan plan, RowsJob* job) noexcept nogil:
    """Find the chunks to be measured, and memory for their sums; False without memory."""
    cdef MeasuredChunk* chunks
    cdef Py_ssize_t n
    job.ascending = NULL
    for n in range(1, job.count):
        if job.row[n] < job.row[n - 1]:
            job.ascending = plan.row_index.sort_ascending()
            if job.ascending == NULL:
                return False
            break
    job.measured_count = find_chunks(job, NULL)
    job.measured_together = max(1, TASK_ELEMENTS * job.measured_count // max(1, job.count * job.width))
    job.sums = <ChunkSum*>plan.row_sums.grown(job.measured_count * (sizeof(ChunkSum) + sizeof(MeasuredChunk)))
    if job.sums == NULL:
        return False
    chunks = <MeasuredChunk*>(job.sums + job.measured_count)
    find_chunks(job, chunks)
    job.measured = chunks
    return True


cdef void add_squares(RowsJob* job, double* squares, double* nonfinite) noexcept nogil:
    """Measure the gradients of a step over rows."""
    cdef Py_ssize_t k
    cdef Py_ssize_t tasks = (job.measured_count + job.measured_together - 1) // job.measured_together
    squares[0] = nonfinite[0] = 0
    thread_pool.do_all(measure_task, job, tasks, job.count * job.width)
    for k in range(job.measured_count):
        squares[0] += job.sums[k].squares
        nonfinite[0] += job.sums[k].nonfinite


cdef Verdict measure(Plan plan, Py_ssize_t i, RowsJob* job, ScalarGroup* now) noexcept nogil:
    """Find the factor of the gradients of a step over rows."""
    cdef ScalarGroup scaled
    cdef double squares, nonfinite, ignored, norm
    cdef int lost, exponent = 0
    if not cut_chunks(plan, job):
        return NO_MEMORY
    add_squares(job, &squares, &nonfinite)
    if nonfinite != 0 and plan.clipping.refuses:
        return REFUSED
    lost = lost_squares(squares, nonfinite, job.is_double)
    if lost:
        scaled, exponent = now[0], scale_exponent(lost, now.grad_factor)
        scale_group(&scaled, exponent)
        job.scalar_group = &scaled
        add_squares(job, &squares, &ignored)
        job.scalar_group = now
    norm = sqrt(squares)
    plan.clipping.grad_norm = ldexp(norm, -exponent)
    if nonfinite != 0 and plan.clipping.skips:
        return SKIPPED
    if plan.clipping.clip_tensor_norm < INFINITY:
        job.clip_factor = clip_factor(plan.clipping.clip_tensor_norm, norm, ldexp(1, exponent))
    if job.clip_factor < smallest_factor():
        job.clip_factor = ldexp(job.clip_factor, FACTOR_EXPONENT)
        scale_group(now, -FACTOR_EXPONENT)
    return GOES
