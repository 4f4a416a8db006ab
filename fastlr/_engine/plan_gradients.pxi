# Where gradients lie, and all that is checked of them before the first write. Included by plan.pyx.

cdef list counted(Plan plan, list arrays):
    """A copy of a list that another thread may be changing."""
    arrays = list(arrays)
    if len(arrays) != plan.count:
        raise ValueError(f"{plan.who}: expected {plan.count} gradients, got {len(arrays)}")
    return arrays


cdef int read_gradients(Plan plan, GradientView* aims, int whose, list arrays, bint writable) except -1:
    """Read where gradients lie; `arrays` holds what keeps them alive. Everything is checked here."""
    cdef StridedLayout* layouts = plan.layouts + whose * plan.count
    cdef StridedLayout* measured_layout = plan.layouts + (whose + OF_STEP_MEASURED - OF_STEP) * plan.count
    cdef Py_ssize_t i
    cdef ArrayView array_view
    for i in range(plan.count):
        array = arrays[i]
        if array is None:
            aims[i].g = NULL
            continue
        if not read_array(array, &array_view):
            arrays[i] = array = converted(plan, i, array)
            read_array(array, &array_view)
        if not same_kind(plan, i, array_view.stored) or not same_shape(plan, i, &array_view):
            raise mismatch(plan, i, array)
        aims[i].stored = array_view.stored
        if writable and not array_view.flags & WRITEABLE:
            raise ValueError(f"{label(plan, i)}: zero_grads needs gradients that may be written, this is read-only")
        aims[i].g, aims[i].layout, aims[i].measured_layout = array_view.data, NULL, NULL
        if array_view.flags & C_CONTIGUOUS and array_view.flags & ALIGNED and plan.in_order[i]:
            if array_view.data == plan.clean[i]:
                continue
        elif strided_layout(&layouts[i], &array_view, plan.axes + plan.first_axis[i]):
            aims[i].layout = &layouts[i]
        if plan.in_order[i]:
            aims[i].measured_layout = aims[i].layout
        elif strided_layout(&measured_layout[i], &array_view, AS_THEY_STAND):
            aims[i].measured_layout = &measured_layout[i]
        refuse_overlap(plan, i, array, &array_view)
        # (known for the widest type that may come: from that address on, others reach no further)
        plan.clean[i] = NULL
        if aims[i].layout == NULL and plan.in_order[i] and array_view.itemsize >= 4:
            plan.clean[i] = array_view.data
    if writable:
        refuse_shared(plan, aims, arrays)
    return 0


cdef bint same_kind(Plan plan, Py_ssize_t i, Storage stored) noexcept:
    """Whether a gradient stored so serves a parameter: as it is, or any float of up to 32 bits for another such."""
    if plan.views[i].stored == FLOAT64 or stored == FLOAT64:
        return plan.views[i].stored == stored
    return stored == FLOAT32 or stored == FLOAT16 or stored == BFLOAT16


cdef bint same_shape(Plan plan, Py_ssize_t i, const ArrayView* array_view) noexcept:
    cdef int k
    cdef const Py_ssize_t* shape = plan.shapes + plan.first_axis[i]
    if plan.ndims[i] != array_view.ndim:
        return False
    for k in range(array_view.ndim):
        if shape[k] != array_view.shape[k]:
            return False
    return True


cdef int refuse_overlap(Plan plan, Py_ssize_t i, object array, const ArrayView* array_view) except -1:
    cdef char* low
    cdef char* high
    cdef Py_ssize_t first = 0, behind = plan.extent_count, middle
    memory_range(array_view, &low, &high)
    if low == high:
        return 0
    if plan.disjoint:          # only the last extent that begins before this one's end can reach into it ...
        while first < behind:
            middle = (first + behind) // 2
            if plan.memory_ranges[middle].low < high:
                first = middle + 1
            else:
                behind = middle
        behind = first
        while first > 0 and plan.memory_ranges[first - 1].high > low:      # (... and those that it spans)
            first -= 1
    for middle in range(first, behind):
        if plan.memory_ranges[middle].low < high and plan.memory_ranges[middle].high > low:
            tensor = plan.tensors[plan.memory_ranges[middle].owner]
            for own in tensor.written():
                if np.shares_memory(own, array):
                    raise ValueError(f"{label(plan, i)}: shares memory with parameter {tensor.name!r} or its "
                                     f"state, which the step writes; pass a copy")
    return 0


cdef int refuse_shared(Plan plan, const GradientView* aims, list arrays) except -1:
    """Gradients that are zeroed once read may share no memory, or one would be zero before it is read."""
    cdef Py_ssize_t i, k, e = 0
    cdef ArrayView array_view
    cdef char* reach = NULL
    for i in range(plan.count):
        if aims[i].g != NULL:
            if aims[i].layout != NULL and overlaps_itself(arrays[i]):
                raise ValueError(f"{label(plan, i)}: zero_grads needs a gradient whose elements do not share "
                                 f"memory")
            read_array(arrays[i], &array_view)
            memory_range(&array_view, &plan.zeroed[e].low, &plan.zeroed[e].high)
            plan.zeroed[e].owner = i
            e += plan.zeroed[e].low < plan.zeroed[e].high
    qsort(plan.zeroed, e, sizeof(MemoryRange), by_address)
    for i in range(e):
        for k in range(i if plan.zeroed[i].low < reach else 0):
            if np.shares_memory(arrays[plan.zeroed[k].owner], arrays[plan.zeroed[i].owner]):
                raise ValueError(f"{label(plan, plan.zeroed[i].owner)}: zero_grads needs gradients of their own, "
                                 f"this shares memory with {label(plan, plan.zeroed[k].owner)}")
        reach = max(reach, plan.zeroed[i].high)
    return 0


cdef object converted(Plan plan, Py_ssize_t i, object array):
    cdef ArrayView array_view
    array = as_array(array, label(plan, i))
    if array.dtype == np.uint16 and plan.views[i].stored == BFLOAT16:
        array = array.view(BFloat16)
    if not read_array(array, &array_view):
        raise mismatch(plan, i, array)
    return array


cdef object mismatch(Plan plan, Py_ssize_t i, object array):
    own = plan.tensors[i].array
    return ValueError(f"{label(plan, i)}: expected {stored_as(own)} {own.shape} like the parameter, "
                      f"got {stored_as(array) or array.dtype} {array.shape}")


cdef str label(Plan plan, Py_ssize_t i):
    """What errors call a gradient, or the estimate of a curvature while those are read."""
    called = plan.tensors[i].label
    return called.replace("grads", "curvature", 1) if plan.curving else called
