# The scalars of a step: what schedules give, which tensors share them, and what a rule remembers or sums.
# Included by plan.pyx.

cdef double bounded(Plan plan, int index, value) except? -1:
    cdef double x = value
    if not (plan.low[index] <= x < plan.high[index]):
        raise ValueError(f"{plan.who}: {plan.names[index]} must be in [{plan.low[index]:g}, "
                         f"{plan.high[index]:g}), got {value}")
    return x


cdef int evaluate(Plan plan) except -1:
    """Take on what schedules give at this instant."""
    cdef int group, index
    if not plan.sources:
        return 0
    plan.evaluating = True
    try:
        for (group, index), source in plan.sources.items():
            plan.values[group * plan.width + index] = value_at(plan, index, source)
    finally:
        plan.evaluating = False
    return 0


cdef double value_at(Plan plan, int index, source) except? -1:
    cdef double x
    if isinstance(source, Program):
        x = (<Program>source).at(<double>plan.t)
        if x != x:
            source(plan.t)                 # says why there is no value
    else:
        value = source(plan.t)
        try:
            x = value
        except TypeError:
            raise TypeError(f"{plan.who}: the schedule of {plan.names[index]} must give a number, gave "
                            f"{value!r} at t = {plan.t}") from None
    if not (plan.low[index] <= x < plan.high[index]):
        raise ValueError(f"{plan.who}: {plan.names[index]} must be in [{plan.low[index]:g}, "
                         f"{plan.high[index]:g}), its schedule gave {x} at t = {plan.t}")
    return x


cdef int refuse_rates(Plan plan) except -1:
    """No rate may be above what was said to be the largest."""
    cdef int group
    for group in range(plan.groups):
        if 0 < plan.peaks[group] * (1 + 1e-9) < plan.values[group * plan.width]:
            raise ValueError(f"{plan.who}: decay='corrected': lr is {plan.values[group * plan.width]:g} at "
                             f"t = {plan.t}, above lr_max = {plan.peaks[group]:g}; give the largest as lr_max")
    return 0


cdef double share_of(Plan plan, int group, int decay, bint decays) noexcept:
    """How much of weight decay counts."""
    if decays and decay == CORRECTED and plan.peaks[group] > 0:
        return plan.values[group * plan.width] / plan.peaks[group]
    return decays


cdef int assign_scalar_groups(Plan plan) except -1:
    """Find the tensors that share all scalars of a step."""
    cdef Py_ssize_t i
    cdef dict array_view = {}
    for i, tensor in enumerate(plan.tensors):
        key = (tensor.group, tensor.decay, tensor.decays, tensor.lr_scale, plan.skipped_steps[i])
        if key not in array_view:
            plan.group_keys[len(array_view)] = ScalarGroupKey(tensor.group, <Decay>DECAYS[tensor.decay], tensor.decays, tensor.lr_scale,
                                         plan.skipped_steps[i])
            array_view[key] = len(array_view)
        plan.group_of[i] = array_view[key]
        plan.views[i].scalar_group = <int>i if plan.each else plan.group_of[i]
    plan.group_count, plan.stale, plan.aged = <int>len(array_view), False, False
    return 0


cdef bint misplaced(Plan plan, const GradientView* gradients) noexcept:
    """Whether a tensor that matters to this step is of another age than its kind's others."""
    cdef Py_ssize_t i
    cdef bint same = True
    for i in range(plan.count):
        if plan.skipped_steps[i] != plan.group_keys[plan.group_of[i]].skipped_steps:
            if gradients[i].g != NULL or plan.each:
                return True
            same = False
    plan.aged = not same
    return False


cdef void fill_scalar_groups(Plan plan, double grad_scale) noexcept:
    cdef int k
    cdef ScalarGroupKey* key
    for k in range(plan.group_count):
        key = &plan.group_keys[k]
        fill_scalar_group(&plan.shared_groups[k], &plan.terms, plan.values + key.group * plan.width, key.factor, key.decay,
            share_of(plan, key.group, key.decay, key.decays), plan.t + 1 - key.skipped_steps, grad_scale)


cdef void copy_shared_groups(Plan plan, double loss) noexcept:
    """Begin with what each kind knows; its own copy for each tensor whose sums will add to it."""
    cdef Py_ssize_t i
    cdef double max_lr = 0
    for i in range(plan.group_count):
        max_lr = max(max_lr, plan.shared_groups[i].now.lr)
    for i in range(plan.group_count):
        plan.shared_groups[i].now.loss, plan.shared_groups[i].now.max_lr = loss, max_lr
    for i in range(plan.count if plan.each else plan.group_count):
        plan.scalar_groups[i] = plan.shared_groups[plan.group_of[i] if plan.each else i]
    for i in range(plan.count if plan.apart else 0):
        plan.views[i].scalar_group = plan.group_of[i]
    plan.apart = False


cdef void begin_step(Plan plan, const GradientView* gradients) noexcept:
    """What instants take from those before them: once for all tensors of a kind that remember the same."""
    cdef Py_ssize_t i, first, size = plan.rule.memories * sizeof(double)
    cdef int k, own = plan.group_count
    for k in range(plan.group_count):
        plan.first_of[k] = -1
    for i in range(plan.count):
        if gradients[i].g == NULL:
            continue
        k = plan.group_of[i]
        first = plan.first_of[k]
        if first >= 0 and memcmp(plan.before + k * plan.rule.memories, plan.memory[i], size) == 0:
            memcpy(plan.memory[i], plan.memory[first], size)
            if plan.each:
                plan.scalar_groups[i].now = plan.scalar_groups[first].now
            continue
        if first < 0:
            plan.first_of[k] = i
            memcpy(plan.before + k * plan.rule.memories, plan.memory[i], size)
        elif not plan.each:
            # (room for it is that of a tensor of its kind; the kind's own instant has changed already)
            plan.scalar_groups[own], plan.scalar_groups[own].now = plan.scalar_groups[k], plan.shared_groups[k].now
            plan.views[i].scalar_group, plan.apart = own, True
            own += 1
        k = plan.views[i].scalar_group
        if plan.rule.begin != NULL:
            plan.rule.begin(plan.scalar_groups[k].hyper, &plan.scalar_groups[k].now, plan.memory[i], plan.shared)


cdef int reduce_terms(Plan plan, StepJob* job) except -1:
    """A reducing rule's first go, and what it finds."""
    cdef Py_ssize_t i, k = 0, first = -1, size = 0
    cdef double[MAX_SUMS] own, totals
    cdef int j
    plan.run(plan.terms_task, job, plan.tasks)
    for j in range(MAX_SUMS):
        totals[j] = 0
    while k < plan.task_starts[plan.tasks]:
        i = plan.chunks[k].view
        if job.gradients[i].g != NULL:
            first = i if first < 0 else first
            size += plan.chunks[k].size
            for j in range(plan.rule.sums):
                totals[j] += plan.chunk_terms[k * MAX_SUMS + j]
        k += 1
    if first >= 0 and plan.rule.finish_all != NULL:
        plan.rule.finish_all(plan.scalar_groups[first].hyper, &plan.scalar_groups[first].now, plan.shared, totals, <double>size)
    k = 0
    for i in range(plan.count):
        for j in range(MAX_SUMS):
            own[j] = 0
        while k < plan.task_starts[plan.tasks] and plan.chunks[k].view == i:
            for j in range(plan.rule.sums):
                own[j] += plan.chunk_terms[k * MAX_SUMS + j]
            k += 1
        if job.gradients[i].g != NULL and plan.rule.finish != NULL:
            plan.rule.finish(plan.scalar_groups[i].hyper, &plan.scalar_groups[i].now, plan.memory[i], plan.shared, own,
                             <double>plan.views[i].size)
    return 0
