# What goes into the state alone: gradients of micro-batches into the moments, and estimates of the curvature, which
# some steps bring beside the gradients, into the means that a rule divides by. Included by plan.pyx.

cdef inline uint64_t key_of_fold(Plan plan, uint64_t key) noexcept:
    """Random bits of their own for each gradient that is folded, and for the curvatures after them."""
    return key + <uint64_t>(plan.folded + 1) * <uint64_t>0x94d049bb133111eb


cdef dict values_of(Plan plan, const Kind* kind):
    """The hyper-parameters of a kind by name."""
    cdef int k
    return {name: plan.values[kind.group * plan.width + k] for k, name in enumerate(plan.names)}


def accumulate(Plan plan, list gradients, grad_scale, bint zero_grads, shares):
    """Fold one more gradient into the moments; `shares` says of a group's values and freshness what slot k takes."""
    cdef Job job
    cdef int k, kind, power
    cdef double share
    cdef Instant* now
    plan.begin()
    try:
        plan.ready(&job, gradients, plan.scale_of(grad_scale), zero_grads)
        for kind in range(plan.kind_count):
            now = &plan.instants[kind]
            now.couple = 0
            for k, (power, share) in enumerate(shares(values_of(plan, &plan.kinds[kind]),
                                                      plan.t == plan.kinds[kind].missed)):
                now.power[k], now.share[k], now.left[k] = power, share, 1
        job.key = key_of_fold(plan, job.key)
        if not measure(plan, &job):
            plan.skip(zero_grads, gradients is None)
            return
        plan.run(plan.fold_chunk, &job, plan.chunks)
        plan.folded += 1
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
            aim(plan, plan.curvatures, OF_CURVATURE, plan.held_curvatures, False)
        finally:
            plan.curving = False
    gradients = plan.bound_arrays if gradients is None else gradients
    for i in range(plan.count if gradients is not None and len(gradients) == plan.count else 0):
        if plan.missed[i] >= plan.t and gradients[i] is not None \
                and (curvatures is None or plan.held_curvatures[i] is None):
            raise ValueError(f"{plan.who}: {plan.tensors[i].name!r} has its first gradient in this step, and its "
                             f"curvature was never estimated; give step(grads, curvature=...)")
    return 0


cdef int of_curvatures(Plan plan, Job* job, const Job* step, Instant* instants) noexcept:
    """A job over estimates as they are given: neither unscaled nor clipped, nor decayed."""
    cdef Py_ssize_t i
    cdef int k
    for i in range(plan.count):
        instants[i] = step.instants[i]
        instants[i].scale, instants[i].clip, instants[i].couple, instants[i].staged = 1, INFINITY, 0, False
        for k in range(MOST_SLOTS):
            instants[i].power[k] = 0
    job[0] = step[0]
    job.gradients, job.instants, job.zero_grads = plan.curvatures, instants, False
    job.key = key_of_fold(plan, job.key)
    return 0


cdef bint finite_curvatures(Plan plan, const Job* step) except -1:
    """Whether all estimates are finite; False if the step is skipped for it."""
    cdef Job job
    cdef Py_ssize_t k
    cdef Instant* instants = <Instant*>calloc(plan.count + 1, sizeof(Instant))
    if instants == NULL:
        raise MemoryError
    try:
        of_curvatures(plan, &job, step, instants)
        plan.run(plan.weigh_chunk, &job, plan.chunks)
    finally:
        free(instants)
    for k in range(plan.edges[plan.chunks]):
        if plan.sums[k].zero != 0:
            if plan.nonfinite == "skip":
                return False
            plan.curving = True
            try:
                raise nonfinite(plan, plan.pieces[k].span)
            finally:
                plan.curving = False
    return True


cdef int bend(Plan plan, const Job* step, means) except -1:
    """Let the means of curvature move. `means` says of a group's values what slot k keeps of itself, or None."""
    cdef Job job
    cdef Py_ssize_t i
    cdef int k
    cdef double left
    cdef Kind* kind
    cdef Instant* instants = <Instant*>calloc(plan.count + 1, sizeof(Instant))
    if instants == NULL:
        raise MemoryError
    try:
        of_curvatures(plan, &job, step, instants)
        for i in range(plan.count if plan.each else plan.kind_count):
            kind = &plan.kinds[plan.kind_of[i] if plan.each else i]
            for k, kept in enumerate(means(values_of(plan, kind))):
                if kept is not None:
                    left = kept
                    instants[i].power[k], instants[i].left[k], instants[i].share[k] = 1, left, 1 - left
        plan.run(plan.fold_chunk, &job, plan.chunks)
    finally:
        free(instants)
    return 0
