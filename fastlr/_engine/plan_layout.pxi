# Where parameters and state lie, how they are walked, and how the whole is cut: found once. Included by plan.pyx.

cdef int reserve(Plan plan, int groups) except -1:
    """Room for all that a plan knows of each tensor and group."""
    cdef Py_ssize_t i, axes, n = plan.count, a = 0
    cdef int k
    cdef Py_ssize_t* lengths
    cdef Py_ssize_t all_axes = sum([max(tensor.array.ndim, 1) for tensor in plan.tensors])
    plan.views = <TensorView*>plan.block(n, sizeof(TensorView))
    plan.gradients = <GradientView*>plan.block(n, sizeof(GradientView))
    plan.bound = <GradientView*>plan.block(n, sizeof(GradientView))
    plan.curvatures = <GradientView*>plan.block(n, sizeof(GradientView))
    plan.layouts = <StridedLayout*>plan.block(WALKS * n, sizeof(StridedLayout))
    lengths = <Py_ssize_t*>plan.block(2 * WALKS * all_axes, sizeof(Py_ssize_t))
    plan.axes = <int*>plan.block(all_axes, sizeof(int))
    plan.shapes = <Py_ssize_t*>plan.block(all_axes, sizeof(Py_ssize_t))
    plan.ndims = <int*>plan.block(n, sizeof(int))
    plan.first_axis = <Py_ssize_t*>plan.block(n, sizeof(Py_ssize_t))
    plan.in_order = <bint*>plan.block(n, sizeof(bint))
    plan.clean = <char**>plan.block(n, sizeof(char*))
    plan.scalar_groups = <ScalarGroup*>plan.block(n, sizeof(ScalarGroup))
    plan.shared_groups = plan.scalar_groups
    if plan.each or plan.remembers:
        plan.shared_groups = <ScalarGroup*>plan.block(n, sizeof(ScalarGroup))
    plan.first_of = <Py_ssize_t*>plan.block(n, sizeof(Py_ssize_t))
    plan.before = <double*>plan.block(n * plan.rule.memories, sizeof(double))
    plan.group_of = <int*>plan.block(n, sizeof(int))
    plan.memory = <double**>plan.block(n, sizeof(double*))
    plan.group_keys = <ScalarGroupKey*>plan.block(n, sizeof(ScalarGroupKey))
    plan.skipped_steps = <int64_t*>plan.block(n, sizeof(int64_t))
    plan.zeroed = <MemoryRange*>plan.block(n, sizeof(MemoryRange))
    plan.values = <double*>plan.block(groups * plan.width, sizeof(double))
    plan.peaks, plan.groups = <double*>plan.block(groups, sizeof(double)), groups
    for i, tensor in enumerate(plan.tensors):
        plan.first_axis[i], plan.ndims[i] = a, tensor.array.ndim
        axes = max(plan.ndims[i], 1)
        for k in range(WALKS):
            plan.layouts[k * n + i].shape = lengths + 2 * (k * all_axes + a)
            plan.layouts[k * n + i].stride = plan.layouts[k * n + i].shape + axes
        a += axes
    return 0


cdef int lay_out(Plan plan) except -1:
    """Read every address of parameters and state, and how to walk them."""
    cdef Py_ssize_t i
    cdef ArrayView array_view
    plan.least_scale, plan.most_scale = 1 / DBL_MAX, 1 / DBL_MIN
    for i, tensor in enumerate(plan.tensors):
        place(plan, i, tensor)
        plan.elements += plan.views[i].size
        if not plan.views[i].is_double:
            plan.least_scale, plan.most_scale = 1 / <double>FLT_MAX, 1 / <double>FLT_MIN
    read_array(plan.shared_array, &array_view)
    plan.shared = <double*>array_view.data
    return 0


cdef int place(Plan plan, Py_ssize_t i, tensor) except -1:
    """Where one tensor lies, with all that moves beside it."""
    cdef int k
    cdef ArrayView array_view
    cdef TensorView* s = &plan.views[i]
    cdef int* axes = plan.axes + plan.first_axis[i]
    read_array(tensor.array, &array_view)
    s.p, s.stored, s.is_double, s.size = array_view.data, array_view.stored, tensor.is_double, tensor.array.size
    s.staged = s.stored != (FLOAT64 if s.is_double else FLOAT32)
    s.random_salt = <uint64_t>crc32(tensor.name.encode("utf-8", "surrogatepass")) * 8
    for k in range(array_view.ndim):
        axes[k], plan.shapes[plan.first_axis[i] + k] = tensor.axes[k], array_view.shape[k]
    plan.in_order[i] = tensor.axes == tuple(range(array_view.ndim))
    if strided_layout(&plan.layouts[i], &array_view, axes):
        s.layout = &plan.layouts[i]
    for k in range(plan.rule.slots):
        read_array(tensor.state[k], &array_view)
        s.slot[k], s.slot_stored[k] = array_view.data, array_view.stored
        s.staged |= s.slot_stored[k] != (FLOAT64 if s.is_double else FLOAT32)
        if tensor.state_scales[k] is not None:
            read_array(tensor.state_scales[k], &array_view)
            s.slot_scale[k] = <float*>array_view.data
    s.clip_factor = 1
    if len(tensor.state) > plan.rule.slots:
        read_array(tensor.state[plan.rule.slots], &array_view)
        s.ema = array_view.data
    if tensor.lr_scales is not None:
        read_array(tensor.lr_scales, &array_view)
        s.lr_factors = array_view.data
    if tensor.low_bits is not None:
        read_array(tensor.low_bits, &array_view)
        s.low_bits = array_view.data
    if tensor.shadow is not None:
        read_array(tensor.shadow, &array_view)
        s.shadow, s.shadow_stored, s.staged = array_view.data, array_view.stored, True
        if strided_layout(&plan.layouts[OF_SHADOW * plan.count + i], &array_view, axes):
            s.shadow_layout = &plan.layouts[OF_SHADOW * plan.count + i]
    read_array(tensor.memory, &array_view)
    plan.memory[i] = <double*>array_view.data
    return 0


cdef int mark_memory_ranges(Plan plan) except -1:
    """Sort what no gradient may overlap by address."""
    cdef Py_ssize_t i, e = 0
    cdef ArrayView array_view
    plan.memory_ranges = <MemoryRange*>plan.block(sum([len(tensor.written()) for tensor in plan.tensors]), sizeof(MemoryRange))
    for i, tensor in enumerate(plan.tensors):
        for array in tensor.written():
            read_array(array, &array_view)
            memory_range(&array_view, &plan.memory_ranges[e].low, &plan.memory_ranges[e].high)
            plan.memory_ranges[e].owner = i
            e += plan.memory_ranges[e].low < plan.memory_ranges[e].high
    qsort(plan.memory_ranges, e, sizeof(MemoryRange), by_address)
    plan.extent_count, plan.disjoint = e, True
    for i in range(e - 1):
        if plan.memory_ranges[i].high > plan.memory_ranges[i + 1].low:
            plan.disjoint = False
    return 0


cdef int cut_chunks(Plan plan) except -1:
    """Cut the tensors into pieces, and gather pieces into chunks."""
    cdef Py_ssize_t i, start, filled = 0, k = 0
    cdef Py_ssize_t most = sum([tensor.array.size // CHUNK + 1 for tensor in plan.tensors])
    plan.chunks = <Chunk*>plan.block(most, sizeof(Chunk))
    plan.task_starts = <Py_ssize_t*>plan.block(most + 1, sizeof(Py_ssize_t))
    plan.sums = <ChunkSum*>plan.block(most, sizeof(ChunkSum))
    plan.chunk_terms = <double*>plan.block(most if plan.rule.sums else 0, MAX_SUMS * sizeof(double))
    for i in range(plan.count):
        start = 0
        while start < plan.views[i].size:
            plan.chunks[k] = Chunk(start, min(<Py_ssize_t>CHUNK, plan.views[i].size - start), <int>i)
            filled += plan.chunks[k].size
            start += plan.chunks[k].size
            k += 1
            if filled >= CHUNK:
                plan.tasks += 1
                plan.task_starts[plan.tasks], filled = k, 0
    if filled:
        plan.tasks += 1
        plan.task_starts[plan.tasks] = k
    return 0
