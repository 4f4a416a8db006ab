# What goes into the state alone: gradients of micro-batches into the moments, and estimates of the curvature, which
# some steps bring beside the gradients, into the means that a rule divides by. Included by plan.pyx.

cdef inline uint64_t key_of_fold(Plan plan, uint64_t key) noexcept:
    """Random bits of their own for each gradient that is folded, and for the curvatures after them."""
    return key + <uint64_t>(plan.accumulated + 1) * <uint64_t>0x94d049bb133111eb


cdef dict values_of(Plan plan, const ScalarGroupKey* key):
    """The hyper-parameters of a kind by name."""
    cdef int k
    return {name: plan.values[key.group * plan.width + k] for k, name in enumerate(plan.names)}


def accumulate(Plan plan, list gradients, grad_scale, bint zero_grads, shares):
    """Fold one more gradient into the moments; `shares` says of a group's values and freshness what slot k takes."""
    cdef StepJob job
    cdef int k, key, power
    cdef double share
    cdef ScalarGroup* now
    plan.begin()
    try:
        plan.ready(&job, gradients, plan.scale_of(grad_scale), zero_grads)
        for key in range(plan.group_count):
            now = &plan.scalar_groups[key]
            now.l2 = 0
            for k, (power, share) in enumerate(shares(values_of(plan, &plan.group_keys[key]),
                                                      plan.t == plan.group_keys[key].skipped_steps)):
                now.grad_power[k], now.grad_share[k], now.slot_keep[k] = power, share, 1
        job.key = key_of_fold(plan, job.key)
        if not measure(plan, &job):
            plan.skip(zero_grads, gradients is None)
            return
        plan.run(plan.accumulate_task, &job, plan.tasks)
        plan.accumulated += 1
    finally:
        plan.held = None
        plan.end()


cdef int aim_curvatures(Plan plan, list gradients, list curvatures) except -1:
    """Read where estimates lie. Everything is checked here but whether they are finite."""
    cdef Py_ssize_t i
    if curvatures is not None:
        plan.held_curvatures = counted(plan, curvatures)
        plan.curving = True
        try:
            read_gradients(plan, plan.curvatures, OF_CURVATURE, plan.held_curvatures, False)
        finally:
            plan.curving = False
    gradients = plan.bound_arrays if gradients is None else gradients
    for i in range(plan.count if gradients is not None and len(gradients) == plan.count else 0):
        if plan.skipped_steps[i] >= plan.t and gradients[i] is not None \
                and (curvatures is None or plan.held_curvatures[i] is None):
            raise ValueError(f"{plan.who}: {plan.tensors[i].name!r} has its first gradient in this step, and its "
                             f"curvature was never estimated; give step(grads, curvature=...)")
    return 0


cdef int of_curvatures(Plan plan, StepJob* job, const StepJob* step, ScalarGroup* scalar_groups) noexcept:
    """A job over estimates as they are given: neither unscaled nor clipped, nor decayed."""
    cdef Py_ssize_t i
    cdef int k
    for i in range(plan.count):
        scalar_groups[i] = step.scalar_groups[i]
        scalar_groups[i].grad_factor, scalar_groups[i].clip_value, scalar_groups[i].l2, scalar_groups[i].staged = 1, INFINITY, 0, False
        for k in range(MAX_SLOTS):
            scalar_groups[i].grad_power[k] = 0
    job[0] = step[0]
    job.gradients, job.scalar_groups, job.zero_grads = plan.curvatures, scalar_groups, False
    job.key = key_of_fold(plan, job.key)
    return 0


cdef bint finite_curvatures(Plan plan, const StepJob* step) except -1:
    """Whether all estimates are finite; False if the step is skipped for it."""
    cdef StepJob job
    cdef Py_ssize_t k
    cdef ScalarGroup* scalar_groups = <ScalarGroup*>calloc(plan.count + 1, sizeof(ScalarGroup))
    if scalar_groups == NULL:
        raise MemoryError
    try:
        of_curvatures(plan, &job, step, scalar_groups)
        plan.run(plan.measure_task, &job, plan.tasks)
    finally:
        free(scalar_groups)
    for k in range(plan.task_starts[plan.tasks]):
        if plan.sums[k].nonfinite != 0:
            if plan.nonfinite == "skip":
                return False
            plan.curving = True
            try:
                raise nonfinite(plan, plan.chunks[k].view)
            finally:
                plan.curving = False
    return True


cdef int update_curvature(Plan plan, const StepJob* step, means) except -1:
    """Let the means of curvature move. `means` says of a group's values what slot k keeps of itself, or None."""
    cdef StepJob job
    cdef Py_ssize_t i
    cdef int k
    cdef double left
    cdef ScalarGroupKey* key
    cdef ScalarGroup* scalar_groups = <ScalarGroup*>calloc(plan.count + 1, sizeof(ScalarGroup))
    if scalar_groups == NULL:
        raise MemoryError
    try:
        of_curvatures(plan, &job, step, scalar_groups)
        for i in range(plan.count if plan.each else plan.group_count):
            key = &plan.group_keys[plan.group_of[i] if plan.each else i]
            for k, kept in enumerate(means(values_of(plan, key))):
                if kept is not None:
                    left = kept
                    scalar_groups[i].grad_power[k], scalar_groups[i].slot_keep[k], scalar_groups[i].grad_share[k] = 1, left, 1 - left
        plan.run(plan.accumulate_task, &job, plan.tasks)
    finally:
        free(scalar_groups)
    return 0
