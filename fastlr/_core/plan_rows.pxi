# The part of a plan that steps over some rows of one tensor. Included by plan.pyx.


cdef void by_rows(Stream* stream, Walk* walk, const Seen* seen) noexcept:
    """Where the rows of an array lie, and how to walk each."""
    cdef Seen row = seen[0]
    stream.first, stream.stored, stream.pitch, stream.walk = seen.data, seen.stored, seen.strides[0], NULL
    row.ndim, row.shape, row.strides = seen.ndim - 1, seen.shape + 1, seen.strides + 1
    if lay(walk, &row, AS_THEY_STAND) or not seen.flags & ALIGNED:
        stream.walk = walk


def step_rows(Plan plan, Py_ssize_t i, rows, gradient, grad_scale, bint ends_step):
    """One update of some rows of tensor i by gradient[k] for rows[k]; all is checked before the first write."""
    cdef Rows job
    cdef Instant now
    cdef Walk[4 + MOST_SLOTS] walks
    cdef Py_ssize_t[(4 + MOST_SLOTS) * 2 * MOST_DIMENSIONS] lengths
    cdef Py_ssize_t k, chunks
    cdef int64_t age
    cdef double scale = plan.scale_of(grad_scale)
    cdef Sum* sums = NULL
    cdef str spoken = f"{plan.who}: step_rows({plan.tensors[i].name!r})"
    plan.begin()
    try:
        for k in range(4 + MOST_SLOTS):
            walks[k].shape = lengths + 2 * MOST_DIMENSIONS * k
            walks[k].stride = walks[k].shape + MOST_DIMENSIONS
        if plan.touched is None:
            plan.touched = Touched()
        lay_rows(plan, i, &job, walks, spoken)
        plan.touched.take(rows, plan.shapes[plan.first_axis[i]], job.width, spoken)
        plan.held = [aim_rows(plan, i, &job.g, &walks[1], gradient, spoken)]
        evaluate(plan)
        tensor = plan.tensors[i]
        age = plan.t - plan.missed[i]
        fix(&now, &plan.terms, plan.values + <int>tensor.group * plan.width, tensor.factor,
            <Decay>DECAYS[tensor.decay], share_of(plan, tensor.group, DECAYS[tensor.decay], tensor.decays), age + 1,
            scale)
        if plan.director is not None:
            plan.director.aim_rows(i, &job, &now, plan.values + <int>tensor.group * plan.width, age + 1)
        job.row, job.begin, job.source = plan.touched.row, plan.touched.begin, plan.touched.source
        job.count, job.instant, job.shrink = plan.touched.count, &now, 1
        job.together = max(1, ROWS_CHUNK // max(1, job.width))
        job.key = key_of(plan, age)
        chunks = (job.count + job.together - 1) // job.together if job.width else 0
        if plan.measures:
            sums = job.sums = <Sum*>calloc(chunks + 1, sizeof(Sum))
            if sums == NULL:
                raise MemoryError
            run_rows(plan.weigh_touched, &job, chunks)
            if not weigh_sums(plan, i, &job, chunks):
                plan.skipped += 1
                return
        plan.rule.recall(now.hyper, &now.now, plan.memory[i], plan.shared)
        run_rows(plan.touch_chunk, &job, chunks)
        plan.missed[i] -= 1
        if ends_step:
            plan.t += 1
            for k in range(plan.count):
                plan.missed[k] += 1
        plan.aged = True
    finally:
        free(sums)
        plan.held = None
        plan.end()


cdef int run_rows(Run work, Rows* job, Py_ssize_t chunks) except -1:
    cdef Py_ssize_t k
    if job.count * job.width < ALONE:
        with nogil:
            for k in range(chunks):
                work(job, k)
    else:
        pool.prepare()
        with nogil:
            pool.run(work, job, chunks)
    return 0


cdef int lay_rows(Plan plan, Py_ssize_t i, Rows* job, Walk* walks, str spoken) except -1:
    """Where the rows of a tensor and of its state lie."""
    cdef const Span* s = &plan.spans[i]
    cdef Py_ssize_t width = 1
    cdef int k
    cdef Seen seen
    tensor = plan.tensors[i]
    memset(job, 0, sizeof(Rows))
    if plan.ndims[i] == 0:
        raise ValueError(f"{spoken}: the parameter must have rows, got one number; use step")
    if min(plan.clip_norm, plan.clip_zscore) < INFINITY:
        raise ValueError(f"{spoken}: {'clip_norm' if plan.clip_norm < INFINITY else 'clip_zscore'} is over all "
                         f"gradients of a step, and this sees one table's; use clip_tensor_norm, or clip before")
    if s.unit != NULL:
        raise ValueError(f"{spoken}: clip_adaptive measures whole parameters; use clip_tensor_norm, or clip before")
    if s.rest != NULL or s.shadow != NULL:
        raise ValueError(f"{spoken}: {'a split parameter' if s.rest != NULL else 'a shadow'} moves in whole steps; "
                         f"build the optimizer without {'master' if s.rest != NULL else 'shadow'}=, or use step")
    for k in range(1, plan.ndims[i]):
        width *= plan.shapes[plan.first_axis[i] + k]
    job.width, job.slots, job.wide, job.staged = width, plan.rule.slots, s.wide, s.staged
    job.stochastic, job.salt = plan.stochastic, s.salt
    job.sweep = plan.rule.sweep[s.wide]
    see(plan, i, tensor.array, &seen, s.p, s.stored, spoken)
    by_rows(&job.p, &walks[0], &seen)
    for k in range(plan.rule.slots):
        see(plan, i, tensor.state[k], &seen, s.slot[k], s.slot_stored[k], spoken)
        by_rows(&job.slot[k], &walks[4 + k], &seen)
        job.slot_scale[k] = s.slot_scale[k]
        if s.slot_scale[k] != NULL and width % GROUP:
            raise ValueError(f"{spoken}: a state of 8 bits needs rows of a multiple of {GROUP} elements, which share "
                             f"a scale, got {width}; choose another state_dtype for this table")
    if s.ema != NULL:
        see(plan, i, tensor.state[plan.rule.slots], &seen, s.ema, UNKNOWN, spoken)
        by_rows(&job.ema, &walks[2], &seen)
    if s.scale != NULL:
        see(plan, i, tensor.scale, &seen, s.scale, UNKNOWN, spoken)
        by_rows(&job.scale, &walks[3], &seen)
    return 0


cdef int see(Plan plan, Py_ssize_t i, object array, Seen* seen, const char* data, Storage stored,
             str spoken) except -1:
    """See an array of a tensor as it is now; ValueError unless it is what it was when the plan was made."""
    # (its owner can give it another shape or type in place, and its rows would reach beyond it)
    if not look(array, seen) or seen.data != data or not same_shape(plan, i, seen) \
            or (seen.stored != stored if stored != UNKNOWN else seen.itemsize != (8 if plan.spans[i].wide else 4)):
        raise ValueError(f"{spoken}: the parameter or its state was given another shape, type or memory in place "
                         f"since it was bound; give it back its own")
    return 0


cdef object aim_rows(Plan plan, Py_ssize_t i, Stream* g, Walk* walk, object gradient, str spoken):
    """Check the gradient of a step over rows, and read where it lies; what keeps it alive."""
    cdef Seen seen
    cdef int k
    cdef bint right
    own = plan.tensors[i].array
    if not look(gradient, &seen):
        gradient = as_array(gradient, f"{spoken}: grads")
        if gradient.dtype == np.uint16 and plan.spans[i].stored == BFLOAT16:
            gradient = gradient.view(BFloat16)
    right = look(gradient, &seen) and same_kind(plan, i, seen.stored) and seen.ndim == plan.ndims[i] \
        and seen.shape[0] == plan.touched.given
    for k in range(1, plan.ndims[i] if right else 0):
        right = right and seen.shape[k] == plan.shapes[plan.first_axis[i] + k]
    if not right:
        raise ValueError(f"{spoken}: grads: expected {stored_as(own)} {(plan.touched.given, *own.shape[1:])}, a row "
                         f"for each of rows, got {stored_as(gradient) or gradient.dtype} {gradient.shape}")
    by_rows(g, walk, &seen)
    refuse_overlap(plan, i, gradient, &seen)
    return gradient


cdef bint weigh_sums(Plan plan, Py_ssize_t i, Rows* job, Py_ssize_t chunks) except -1:
    """What clipping by norm leaves of the gradients of a step over rows; False if it is skipped."""
    cdef Py_ssize_t k
    cdef double squares = 0, zero = 0, norm
    for k in range(chunks):
        squares += job.sums[k].squares
        zero += job.sums[k].zero
    if zero != 0 and plan.nonfinite == "raise":
        raise nonfinite(plan, i)
    norm = sqrt(squares)
    plan.grad_norm = norm
    if zero != 0 and plan.nonfinite == "skip":
        return False
    if plan.clip_tensor_norm < INFINITY:
        job.shrink = least(1, plan.clip_tensor_norm / (norm + 1e-6))
    return True
