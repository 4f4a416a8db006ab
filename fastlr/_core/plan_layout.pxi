# Where parameters and state lie, how they are walked, and how the whole is cut: found once. Included by plan.pyx.

cdef int reserve(Plan plan, int groups) except -1:
    """Room for all that a plan knows of each tensor and group."""
    cdef Py_ssize_t i, axes, n = plan.count, a = 0
    cdef int k
    cdef Py_ssize_t* lengths
    cdef Py_ssize_t all_axes = sum([max(tensor.array.ndim, 1) for tensor in plan.tensors])
    plan.spans = <Span*>plan.block(n, sizeof(Span))
    plan.gradients = <Gradient*>plan.block(n, sizeof(Gradient))
    plan.bound = <Gradient*>plan.block(n, sizeof(Gradient))
    plan.curvatures = <Gradient*>plan.block(n, sizeof(Gradient))
    plan.walks = <Walk*>plan.block(WALKS * n, sizeof(Walk))
    lengths = <Py_ssize_t*>plan.block(2 * WALKS * all_axes, sizeof(Py_ssize_t))
    plan.axes = <int*>plan.block(all_axes, sizeof(int))
    plan.shapes = <Py_ssize_t*>plan.block(all_axes, sizeof(Py_ssize_t))
    plan.ndims = <int*>plan.block(n, sizeof(int))
    plan.first_axis = <Py_ssize_t*>plan.block(n, sizeof(Py_ssize_t))
    plan.in_order = <bint*>plan.block(n, sizeof(bint))
    plan.clean = <char**>plan.block(n, sizeof(char*))
    plan.instants = <Instant*>plan.block(n, sizeof(Instant))
    plan.alike = plan.instants
    if plan.each or plan.remembers:
        plan.alike = <Instant*>plan.block(n, sizeof(Instant))
    plan.first_of = <Py_ssize_t*>plan.block(n, sizeof(Py_ssize_t))
    plan.before = <double*>plan.block(n * plan.rule.memories, sizeof(double))
    plan.kind_of = <int*>plan.block(n, sizeof(int))
    plan.memory = <double**>plan.block(n, sizeof(double*))
    plan.kinds = <Kind*>plan.block(n, sizeof(Kind))
    plan.missed = <int64_t*>plan.block(n, sizeof(int64_t))
    plan.zeroed = <Extent*>plan.block(n, sizeof(Extent))
    plan.values = <double*>plan.block(groups * plan.width, sizeof(double))
    plan.peaks, plan.groups = <double*>plan.block(groups, sizeof(double)), groups
    for i, tensor in enumerate(plan.tensors):
        plan.first_axis[i], plan.ndims[i] = a, tensor.array.ndim
        axes = max(plan.ndims[i], 1)
        for k in range(WALKS):
            plan.walks[k * n + i].shape = lengths + 2 * (k * all_axes + a)
            plan.walks[k * n + i].stride = plan.walks[k * n + i].shape + axes
        a += axes
    return 0


cdef int lay_out(Plan plan) except -1:
    """Read every address of parameters and state, and how to walk them."""
    cdef Py_ssize_t i
    cdef Seen seen
    plan.least_scale, plan.most_scale = 1 / DBL_MAX, 1 / DBL_MIN
    for i, tensor in enumerate(plan.tensors):
        place(plan, i, tensor)
        plan.elements += plan.spans[i].size
        if not plan.spans[i].wide:
            plan.least_scale, plan.most_scale = 1 / <double>FLT_MAX, 1 / <double>FLT_MIN
    look(plan.shared_array, &seen)
    plan.shared = <double*>seen.data
    return 0


cdef int place(Plan plan, Py_ssize_t i, tensor) except -1:
    """Where one tensor lies, with all that moves beside it."""
    cdef int k
    cdef Seen seen
    cdef Span* s = &plan.spans[i]
    cdef int* axes = plan.axes + plan.first_axis[i]
    look(tensor.array, &seen)
    s.p, s.stored, s.wide, s.size = seen.data, seen.stored, tensor.wide, tensor.array.size
    s.staged = s.stored != (FLOAT64 if s.wide else FLOAT32)
    s.salt = <uint64_t>crc32(tensor.name.encode("utf-8", "surrogatepass")) * 8
    for k in range(seen.ndim):
        axes[k], plan.shapes[plan.first_axis[i] + k] = tensor.axes[k], seen.shape[k]
    plan.in_order[i] = tensor.axes == tuple(range(seen.ndim))
    if lay(&plan.walks[i], &seen, axes):
        s.walk = &plan.walks[i]
    for k in range(plan.rule.slots):
        look(tensor.state[k], &seen)
        s.slot[k], s.slot_stored[k] = seen.data, seen.stored
        s.staged |= s.slot_stored[k] != (FLOAT64 if s.wide else FLOAT32)
        if tensor.scales[k] is not None:
            look(tensor.scales[k], &seen)
            s.slot_scale[k] = <float*>seen.data
    s.shrink = 1
    if len(tensor.state) > plan.rule.slots:
        look(tensor.state[plan.rule.slots], &seen)
        s.ema = seen.data
    if tensor.scale is not None:
        look(tensor.scale, &seen)
        s.scale = seen.data
    if tensor.rest is not None:
        look(tensor.rest, &seen)
        s.rest = seen.data
    if tensor.shadow is not None:
        look(tensor.shadow, &seen)
        s.shadow, s.shadow_stored, s.staged = seen.data, seen.stored, True
        if lay(&plan.walks[OF_SHADOW * plan.count + i], &seen, axes):
            s.shadow_walk = &plan.walks[OF_SHADOW * plan.count + i]
    look(tensor.memory, &seen)
    plan.memory[i] = <double*>seen.data
    return 0


cdef int mark_extents(Plan plan) except -1:
    """Sort what no gradient may overlap by address."""
    cdef Py_ssize_t i, e = 0
    cdef Seen seen
    plan.extents = <Extent*>plan.block(sum([len(tensor.written()) for tensor in plan.tensors]), sizeof(Extent))
    for i, tensor in enumerate(plan.tensors):
        for array in tensor.written():
            look(array, &seen)
            extent(&seen, &plan.extents[e].low, &plan.extents[e].high)
            plan.extents[e].owner = i
            e += plan.extents[e].low < plan.extents[e].high
    qsort(plan.extents, e, sizeof(Extent), by_address)
    plan.extent_count, plan.disjoint = e, True
    for i in range(e - 1):
        if plan.extents[i].high > plan.extents[i + 1].low:
            plan.disjoint = False
    return 0


cdef int cut_pieces(Plan plan) except -1:
    """Cut the tensors into pieces, and gather pieces into chunks."""
    cdef Py_ssize_t i, start, filled = 0, k = 0
    cdef Py_ssize_t most = sum([tensor.array.size // CHUNK + 1 for tensor in plan.tensors])
    plan.pieces = <Piece*>plan.block(most, sizeof(Piece))
    plan.edges = <Py_ssize_t*>plan.block(most + 1, sizeof(Py_ssize_t))
    plan.sums = <Sum*>plan.block(most, sizeof(Sum))
    plan.gauged = <double*>plan.block(most if plan.rule.sums else 0, MOST_SUMS * sizeof(double))
    for i in range(plan.count):
        start = 0
        while start < plan.spans[i].size:
            plan.pieces[k] = Piece(start, min(<Py_ssize_t>CHUNK, plan.spans[i].size - start), <int>i)
            filled += plan.pieces[k].size
            start += plan.pieces[k].size
            k += 1
            if filled >= CHUNK:
                plan.chunks += 1
                plan.edges[plan.chunks], filled = k, 0
    if filled:
        plan.chunks += 1
        plan.edges[plan.chunks] = k
    return 0
