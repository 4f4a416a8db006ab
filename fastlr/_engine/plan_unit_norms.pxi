# Adaptive clipping: the units of each tensor, and what is left of their gradients. Included by plan.pyx.

cdef int cut_units(Plan plan, int axis) except -1:
    """Find the units of each tensor along an axis, and cut them for measuring."""
    cdef Py_ssize_t i, n = 0, items = 0, shares = 0
    cdef TensorView* s
    for i in range(plan.count):                        # (how many there will be, and then which)
        s = &plan.views[i]
        s.unit_count, s.unit_length, s.staged = 1, s.size, True
        if plan.ndims[i] > 1 and s.size:
            s.unit_count = plan.shapes[plan.first_axis[i] + (0 if axis == 0 else plan.ndims[i] - 1)]
            s.unit_length = 1 if axis else s.size // s.unit_count
            if s.unit_count == 1:
                s.unit_length = s.size
        # (elements alone are columns of one row; a unit that is all of the tensor is a run)
        if s.unit_length == 1 and axis == 0:
            s.unit_count = s.size
        if not in_place(plan, s):
            items += units_of(s, NULL, 0, &shares)
    plan.units = <UnitRange*>plan.block(items, sizeof(UnitRange))
    plan.shares = <UnitSums*>plan.block(shares, sizeof(UnitSums))
    items = shares = 0
    for i in range(plan.count):
        n += plan.views[i].unit_count
    plan.left = <double*>plan.block(n, sizeof(double))
    n = 0
    for i in range(plan.count):
        s = &plan.views[i]
        s.unit_factors = plan.left + n
        n += s.unit_count
        if not in_place(plan, s):
            items += units_of(s, plan.units + items, <int>i, &shares)
    plan.unit_items = items
    return 0

cdef inline bint in_place(Plan plan, const TensorView* s) noexcept:
    """Whether a tensor's units are measured as it moves, while it is in cache: nothing else has to know of them."""
    return plan.units_alone and s.size <= CHUNK

cdef Py_ssize_t slice_of(const TensorView* s) noexcept:
    """How much of a unit is measured at a time: elements, or rows of a tile of columns."""
    return max(1, CHUNK // least_size(TILE, s.unit_count)) if s.unit_length == 1 else CHUNK

cdef Py_ssize_t units_of(const TensorView* s, UnitRange* out, int view, Py_ssize_t* shares) noexcept:
    """Cut one tensor's units into items of about CHUNK elements, or (`out` NULL) count those."""
    cdef Py_ssize_t items = 0, first, begin, together, length, slice_
    if s.size == 0:
        return 0
    length, slice_ = s.size // s.unit_count, slice_of(s)
    together = least_size(TILE, s.unit_count) if s.unit_length == 1 else max(1, CHUNK // s.unit_length)
    begin = 0
    while begin < length:                              # slices, and in each all units
        first = 0
        while first < s.unit_count:
            if out != NULL:
                out[items] = UnitRange(view, first, least_size(together, s.unit_count - first), begin,
                                   least_size(begin + slice_, length), shares[0] + first)
            items += 1
            first += together
        shares[0] += s.unit_count
        begin += slice_
    return items

cdef inline Py_ssize_t least_size(Py_ssize_t x, Py_ssize_t y) noexcept:
    return x if x < y else y

cdef int judge_units(Plan plan) except -1:
    """Fix what is left of each unit, and what that leaves of each tensor's squares (in `shrink`)."""
    cdef Py_ssize_t i, k, slices, unit, at_ = 0
    cdef double g, p, left
    cdef TensorView* s
    for i in range(plan.count):
        s = &plan.views[i]
        s.clip_factor, plan.zeros[i], slices = 0, 0, 0
        if s.size == 0:
            continue
        if in_place(plan, s):
            continue
        k = slice_of(s)
        slices = (s.size // s.unit_count + k - 1) // k
        for unit in range(s.unit_count):
            g = p = 0
            for k in range(slices):
                g += plan.shares[at_ + k * s.unit_count + unit].gradient
                p += plan.shares[at_ + k * s.unit_count + unit].parameter
                plan.zeros[i] += plan.shares[at_ + k * s.unit_count + unit].nonfinite
            left = unit_clip_factor(g, p, plan.clip_adaptive, plan.clip_adaptive_eps)
            s.unit_factors[unit] = left
            s.clip_factor += left * left * g
        at_ += slices * s.unit_count
    return 0


cdef int measure_units(Plan plan, StepJob* job) except -1:
    """Clip by units where nothing else is measured; those that are in place do that when they move."""
    cdef Py_ssize_t i
    if plan.unit_items:
        plan.run(plan.unit_norms_task, job, plan.unit_items)
    judge_units(plan)
    for i in range(plan.count):
        plan.unit_squares[i], plan.views[i].clip_factor = plan.views[i].clip_factor, 1
    job.unit_squares, job.unit_clip, job.unit_eps = plan.unit_squares, plan.clip_adaptive, plan.clip_adaptive_eps
    return 0

cdef double norm_of_units(Plan plan) noexcept:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(plan.count):
        total += plan.unit_squares[i]
    return sqrt(total)
