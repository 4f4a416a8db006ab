# The part of a plan that steps over some rows of one tensor. Included by plan.pyx.


cdef void by_rows(RowStream* stream, StridedLayout* layout, const ArrayView* array_view) noexcept:
    """Where the rows of an array lie, and how to walk each."""
    cdef ArrayView row = array_view[0]
    stream.first, stream.stored, stream.pitch, stream.layout = array_view.data, array_view.stored, array_view.strides[0], NULL
    row.ndim, row.shape, row.strides = array_view.ndim - 1, array_view.shape + 1, array_view.strides + 1
    if strided_layout(layout, &row, AS_THEY_STAND) or not array_view.flags & ALIGNED:
        stream.layout = layout


def step_rows(Plan plan, Py_ssize_t i, rows, gradient, grad_scale, bint ends_step):
    """One update of some rows of tensor i by gradient[k] for rows[k]; all is checked before the first write."""
    cdef RowsJob job
    cdef ScalarGroup now
    cdef StridedLayout[4 + MAX_SLOTS] layouts
    cdef Py_ssize_t[(4 + MAX_SLOTS) * 2 * MAX_DIMENSIONS] lengths
    cdef Py_ssize_t k, tasks
    cdef int64_t age
    cdef double scale = plan.scale_of(grad_scale)
    cdef ChunkSum* sums = NULL
    cdef str spoken = f"{plan.who}: step_rows({plan.tensors[i].name!r})"
    plan.begin()
    try:
        for k in range(4 + MAX_SLOTS):
            layouts[k].shape = lengths + 2 * MAX_DIMENSIONS * k
            layouts[k].stride = layouts[k].shape + MAX_DIMENSIONS
        if plan.row_index is None:
            plan.row_index = RowIndex()
        lay_rows(plan, i, &job, layouts, spoken)
        plan.row_index.take(rows, plan.shapes[plan.first_axis[i]], job.width, spoken)
        plan.held = [aim_rows(plan, i, &job.g, &layouts[1], gradient, spoken)]
        evaluate(plan)
        tensor = plan.tensors[i]
        age = plan.t - plan.skipped_steps[i]
        fill_scalar_group(&now, &plan.terms, plan.values + <int>tensor.group * plan.width, tensor.lr_scale,
            <Decay>DECAYS[tensor.decay], share_of(plan, tensor.group, DECAYS[tensor.decay], tensor.decays), age + 1,
            scale)
        if plan.matrix_step is not None:
            plan.matrix_step.aim_rows(i, &job, &now, plan.values + <int>tensor.group * plan.width, age + 1)
        job.row, job.begin, job.source = plan.row_index.row, plan.row_index.begin, plan.row_index.source
        job.count, job.scalar_group, job.clip_factor = plan.row_index.count, &now, 1
        job.together = max(1, ROWS_CHUNK // max(1, job.width))
        job.key = key_of(plan, age)
        tasks = (job.count + job.together - 1) // job.together if job.width else 0
        if plan.measures:
            sums = job.sums = <ChunkSum*>calloc(tasks + 1, sizeof(ChunkSum))
            if sums == NULL:
                raise MemoryError
            run_rows(plan.measure_rows_task, &job, tasks)
            if not weigh_sums(plan, i, &job, tasks):
                plan.skipped += 1
                return
        if plan.rule.begin != NULL:
            plan.rule.begin(now.hyper, &now.now, plan.memory[i], plan.shared)
        run_rows(plan.step_rows_task, &job, tasks)
        plan.skipped_steps[i] -= 1
        if ends_step:
            plan.t += 1
            for k in range(plan.count):
                plan.skipped_steps[k] += 1
        plan.aged = True
    finally:
        free(sums)
        plan.held = None
        plan.end()


cdef int run_rows(TaskFunction work, RowsJob* job, Py_ssize_t tasks) except -1:
    cdef Py_ssize_t k
    if job.count * job.width < ALONE:
        with nogil:
            for k in range(tasks):
                work(job, k)
    else:
        thread_pool.prepare()
        with nogil:
            thread_pool.run(work, job, tasks)
    return 0


cdef int lay_rows(Plan plan, Py_ssize_t i, RowsJob* job, StridedLayout* layouts, str spoken) except -1:
    """Where the rows of a tensor and of its state lie."""
    cdef const TensorView* s = &plan.views[i]
    cdef Py_ssize_t width = 1
    cdef int k
    cdef ArrayView array_view
    tensor = plan.tensors[i]
    memset(job, 0, sizeof(RowsJob))
    if plan.ndims[i] == 0:
        raise ValueError(f"{spoken}: the parameter must have rows, got one number; use step")
    if min(plan.clip_norm, plan.clip_zscore) < INFINITY:
        raise ValueError(f"{spoken}: {'clip_norm' if plan.clip_norm < INFINITY else 'clip_zscore'} is over all "
                         f"gradients of a step, and this sees one table's; use clip_tensor_norm, or clip before")
    if s.unit_factors != NULL:
        raise ValueError(f"{spoken}: clip_adaptive measures whole parameters; use clip_tensor_norm, or clip before")
    if s.low_bits != NULL or s.shadow != NULL:
        raise ValueError(f"{spoken}: {'a split parameter' if s.low_bits != NULL else 'a shadow'} moves in whole steps; "
                         f"build the optimizer without {'master' if s.low_bits != NULL else 'shadow'}=, or use step")
    for k in range(1, plan.ndims[i]):
        width *= plan.shapes[plan.first_axis[i] + k]
    job.width, job.slots, job.is_double, job.staged = width, plan.rule.slots, s.is_double, s.staged
    job.stochastic, job.random_salt = plan.stochastic, s.random_salt
    job.step = plan.rule.step[s.is_double]
    see(plan, i, tensor.array, &array_view, s.p, s.stored, spoken)
    by_rows(&job.p, &layouts[0], &array_view)
    for k in range(plan.rule.slots):
        see(plan, i, tensor.state[k], &array_view, s.slot[k], s.slot_stored[k], spoken)
        by_rows(&job.slot[k], &layouts[4 + k], &array_view)
        job.slot_scale[k] = s.slot_scale[k]
        if s.slot_scale[k] != NULL and width % GROUP:
            raise ValueError(f"{spoken}: a state of 8 bits needs rows of a multiple of {GROUP} elements, which share "
                             f"a scale, got {width}; choose another state_dtype for this table")
    if s.ema != NULL:
        see(plan, i, tensor.state[plan.rule.slots], &array_view, s.ema, UNKNOWN, spoken)
        by_rows(&job.ema, &layouts[2], &array_view)
    if s.lr_factors != NULL:
        see(plan, i, tensor.lr_scales, &array_view, s.lr_factors, UNKNOWN, spoken)
        by_rows(&job.scale, &layouts[3], &array_view)
    return 0


cdef int see(Plan plan, Py_ssize_t i, object array, ArrayView* array_view, const char* data, Storage stored,
             str spoken) except -1:
    """See an array of a tensor as it is now; ValueError unless it is what it was when the plan was made."""
    # (its owner can give it another shape or type in place, and its rows would reach beyond it)
    if not read_array(array, array_view) or array_view.data != data or not same_shape(plan, i, array_view) \
            or (array_view.stored != stored if stored != UNKNOWN else array_view.itemsize != (8 if plan.views[i].is_double else 4)):
        raise ValueError(f"{spoken}: the parameter or its state was given another shape, type or memory in place "
                         f"since it was bound; give it back its own")
    return 0


cdef object aim_rows(Plan plan, Py_ssize_t i, RowStream* g, StridedLayout* layout, object gradient, str spoken):
    """Check the gradient of a step over rows, and read where it lies; what keeps it alive."""
    cdef ArrayView array_view
    cdef int k
    cdef bint right
    own = plan.tensors[i].array
    if not read_array(gradient, &array_view):
        gradient = as_array(gradient, f"{spoken}: grads")
        if gradient.dtype == np.uint16 and plan.views[i].stored == BFLOAT16:
            gradient = gradient.view(BFloat16)
    right = read_array(gradient, &array_view) and same_kind(plan, i, array_view.stored) and array_view.ndim == plan.ndims[i] \
        and array_view.shape[0] == plan.row_index.given
    for k in range(1, plan.ndims[i] if right else 0):
        right = right and array_view.shape[k] == plan.shapes[plan.first_axis[i] + k]
    if not right:
        raise ValueError(f"{spoken}: grads: expected {stored_as(own)} {(plan.row_index.given, *own.shape[1:])}, a row "
                         f"for each of rows, got {stored_as(gradient) or gradient.dtype} {gradient.shape}")
    by_rows(g, layout, &array_view)
    refuse_overlap(plan, i, gradient, &array_view)
    return gradient


cdef bint weigh_sums(Plan plan, Py_ssize_t i, RowsJob* job, Py_ssize_t tasks) except -1:
    """What clipping by norm leaves of the gradients of a step over rows; False if it is skipped."""
    cdef Py_ssize_t k
    cdef double squares = 0, zero = 0, norm
    for k in range(tasks):
        squares += job.sums[k].squares
        zero += job.sums[k].nonfinite
    if zero != 0 and plan.nonfinite == "raise":
        raise nonfinite(plan, i)
    norm = sqrt(squares)
    plan.grad_norm = norm
    if zero != 0 and plan.nonfinite == "skip":
        return False
    if plan.clip_tensor_norm < INFINITY:
        job.clip_factor = least(1, plan.clip_tensor_norm / (norm + 1e-6))
    return True
