# The norms of gradients: what clipping by them leaves, and whether a step is taken at all. Included by plan.pyx.

cdef bint measure(Plan plan, StepJob* job) except -1:
    """One read of the gradients where a stage needs their norms; False if the step is skipped."""
    if plan.clip_adaptive < INFINITY and plan.units_alone:
        measure_units(plan, job)
    elif plan.clip_adaptive < INFINITY:
        plan.run(plan.unit_norms_task, job, plan.unit_items)
        return weigh(plan, job)
    elif plan.measures:
        plan.run(plan.measure_task, job, plan.tasks)
        return weigh(plan, job)
    return True


cdef bint weigh(Plan plan, const StepJob* job) except -1:
    """Add up what the pieces weigh, fix what clipping leaves of each gradient; False if the step is skipped."""
    cdef Py_ssize_t k = 0, i
    cdef double squares, total = 0, zero = 0, norm, left, share, most = plan.clip_norm
    if plan.clip_adaptive < INFINITY:
        judge_units(plan)
    for i in range(plan.count):
        squares = 0
        if plan.clip_adaptive < INFINITY:
            squares = plan.views[i].clip_factor
            zero += plan.zeros[i]
        while plan.clip_adaptive == INFINITY and k < plan.task_starts[plan.tasks] and plan.chunks[k].view == i:
            squares += plan.sums[k].squares
            zero += plan.sums[k].nonfinite
            k += 1
        total += squares
        plan.views[i].clip_factor = squares
        if zero != 0 and plan.nonfinite == "raise":
            raise nonfinite(plan, i)
    norm = sqrt(total)
    plan.grad_norm = norm
    if zero != 0 and plan.nonfinite == "skip":
        return False
    if plan.clip_zscore < INFINITY:
        most = least(most, zscore_limit(plan, norm))
    left = least(1, most / (norm + 1e-6)) if most < INFINITY else 1
    for i in range(plan.count):
        share = 1
        if plan.clip_tensor_norm < INFINITY:
            share = least(1, plan.clip_tensor_norm / (left * sqrt(plan.views[i].clip_factor) + 1e-6))
        plan.views[i].clip_factor = left * share
    if left != 1 or plan.clip_tensor_norm < INFINITY:
        for i in range(plan.count if plan.each else plan.group_count):
            plan.scalar_groups[i].staged = True
    return True


cdef double zscore_limit(Plan plan, double norm) noexcept:
    """How large a norm may be among those of past steps, of which it then is one."""
    cdef double far, deviation, most = INFINITY
    if norm != norm:
        return INFINITY
    if plan.norm_count < plan.clip_zscore_warmup:
        if norm < INFINITY:
            plan.norm_count += 1
            far = norm - plan.norm_mean
            plan.norm_mean += far / plan.norm_count
            plan.norm_variance += (far * (norm - plan.norm_mean) - plan.norm_variance) / plan.norm_count
        return INFINITY
    deviation = sqrt(plan.norm_variance)
    far = (norm - plan.norm_mean) / (deviation + 1e-6)
    if far > plan.clip_zscore:
        most = norm = plan.norm_mean + plan.clip_zscore * deviation / (far / plan.clip_zscore)
    plan.norm_mean = plan.clip_zscore_alpha * plan.norm_mean + (1 - plan.clip_zscore_alpha) * norm
    far = norm - plan.norm_mean
    plan.norm_variance = plan.clip_zscore_alpha * plan.norm_variance + (1 - plan.clip_zscore_alpha) * (far * far)
    return most


cdef object nonfinite(Plan plan, Py_ssize_t i):
    return FloatingPointError(f"{label(plan, i)}: holds NaN or infinity at t = {plan.t}; nothing was changed")
