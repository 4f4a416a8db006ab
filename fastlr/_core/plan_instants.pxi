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
    if isinstance(source, CompiledSchedule):
        x = (<CompiledSchedule>source).at(<double>plan.t)
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


cdef int sort_into_kinds(Plan plan) except -1:
    """Find the tensors that share all scalars of a step."""
    cdef Py_ssize_t i
    cdef dict seen = {}
    for i, tensor in enumerate(plan.tensors):
        key = (tensor.group, tensor.decay, tensor.decays, tensor.factor, plan.missed[i])
        if key not in seen:
            plan.kinds[len(seen)] = Kind(tensor.group, <Decay>DECAYS[tensor.decay], tensor.decays, tensor.factor,
                                         plan.missed[i])
            seen[key] = len(seen)
        plan.kind_of[i] = seen[key]
        plan.spans[i].instant = <int>i if plan.each else plan.kind_of[i]
    plan.kind_count, plan.stale, plan.aged = <int>len(seen), False, False
    return 0


cdef bint misplaced(Plan plan, const Gradient* gradients) noexcept:
    """Whether a tensor that matters to this step is of another age than its kind's others."""
    cdef Py_ssize_t i
    cdef bint same = True
    for i in range(plan.count):
        if plan.missed[i] != plan.kinds[plan.kind_of[i]].missed:
            if gradients[i].g != NULL or plan.each:
                return True
            same = False
    plan.aged = not same
    return False


cdef void fix_instants(Plan plan, double grad_scale) noexcept:
    cdef int k
    cdef Kind* kind
    for k in range(plan.kind_count):
        kind = &plan.kinds[k]
        fix(&plan.alike[k], &plan.terms, plan.values + kind.group * plan.width, kind.factor, kind.decay,
            share_of(plan, kind.group, kind.decay, kind.decays), plan.t + 1 - kind.missed, grad_scale)


cdef void single_out(Plan plan, double loss) noexcept:
    """Begin with what each kind knows; its own copy for each tensor whose sums will add to it."""
    cdef Py_ssize_t i
    cdef double peak = 0
    for i in range(plan.kind_count):
        peak = max(peak, plan.alike[i].now.lr)
    for i in range(plan.kind_count):
        plan.alike[i].now.loss, plan.alike[i].now.peak = loss, peak
    for i in range(plan.count if plan.each else plan.kind_count):
        plan.instants[i] = plan.alike[plan.kind_of[i] if plan.each else i]
    for i in range(plan.count if plan.apart else 0):
        plan.spans[i].instant = plan.kind_of[i]
    plan.apart = False


cdef void recall(Plan plan, const Gradient* gradients) noexcept:
    """What instants take from those before them: once for all tensors of a kind that remember the same."""
    cdef Py_ssize_t i, first, size = plan.rule.memories * sizeof(double)
    cdef int k, own = plan.kind_count
    for k in range(plan.kind_count):
        plan.first_of[k] = -1
    for i in range(plan.count):
        if gradients[i].g == NULL:
            continue
        k = plan.kind_of[i]
        first = plan.first_of[k]
        if first >= 0 and memcmp(plan.before + k * plan.rule.memories, plan.memory[i], size) == 0:
            memcpy(plan.memory[i], plan.memory[first], size)
            if plan.each:
                plan.instants[i].now = plan.instants[first].now
            continue
        if first < 0:
            plan.first_of[k] = i
            memcpy(plan.before + k * plan.rule.memories, plan.memory[i], size)
        elif not plan.each:
            # (room for it is that of a tensor of its kind; the kind's own instant has changed already)
            plan.instants[own], plan.instants[own].now = plan.instants[k], plan.alike[k].now
            plan.spans[i].instant, plan.apart = own, True
            own += 1
        k = plan.spans[i].instant
        plan.rule.recall(plan.instants[k].hyper, &plan.instants[k].now, plan.memory[i], plan.shared)


cdef int gauge(Plan plan, Job* job) except -1:
    """A reducing rule's first go, and what it finds."""
    cdef Py_ssize_t i, k = 0, first = -1, size = 0
    cdef double[MOST_SUMS] own, totals
    cdef int j
    plan.run(plan.gauge_chunk, job, plan.chunks)
    for j in range(MOST_SUMS):
        totals[j] = 0
    while k < plan.edges[plan.chunks]:
        i = plan.pieces[k].span
        if job.gradients[i].g != NULL:
            first = i if first < 0 else first
            size += plan.pieces[k].size
            for j in range(plan.rule.sums):
                totals[j] += plan.gauged[k * MOST_SUMS + j]
        k += 1
    if first >= 0:
        plan.rule.conclude(plan.instants[first].hyper, &plan.instants[first].now, plan.shared, totals, <double>size)
    k = 0
    for i in range(plan.count):
        for j in range(MOST_SUMS):
            own[j] = 0
        while k < plan.edges[plan.chunks] and plan.pieces[k].span == i:
            for j in range(plan.rule.sums):
                own[j] += plan.gauged[k * MOST_SUMS + j]
            k += 1
        if job.gradients[i].g != NULL:
            plan.rule.settle(plan.instants[i].hyper, &plan.instants[i].now, plan.memory[i], plan.shared, own,
                             <double>plan.spans[i].size)
    return 0
