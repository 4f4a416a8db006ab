# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Gradients that are given as pointers: their layout is said once, so a step checks addresses alone, without Python."""
from libc.stdint cimport uintptr_t
from libc.string cimport memset
from fastlr._engine.arrays cimport ALIGNED, C_CONTIGUOUS, WRITEABLE, ArrayView, memory_range, read_array, strided_layout
from fastlr._engine.layout cimport Layout, MemoryRange, same_precision, sort_by_address
from fastlr._engine.memory cimport Memory
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.structs cimport BFLOAT16, FLOAT16, FLOAT32, FLOAT64, MAX_DIMENSIONS, GradientView, StridedLayout

build_id = FASTLR_LAYOUT.decode()

cdef dict STORED = {"float32": (FLOAT32, 4), "float64": (FLOAT64, 8), "float16": (FLOAT16, 2),
                    "bfloat16": (BFLOAT16, 2)}


cdef class PointerGradients:
    """Those of a layout's tensors. `places[k]` is the tensor of pointer k; `dtypes` and `strides` (in bytes, None: C
    order) are of the gradients of pointer k."""

    def __cinit__(self, Layout layout, list places, list dtypes, list strides):
        cdef Py_ssize_t k, n = len(places)
        self.memory, self.layout, self.count = Memory(), layout, n
        self.place = <Py_ssize_t*>self.memory.take(n, sizeof(Py_ssize_t))
        self.views = <GradientView*>self.memory.take(n, sizeof(GradientView))
        self.arrays = <ArrayView*>self.memory.take(n, sizeof(ArrayView))
        self.checked = <const char**>self.memory.take(n, sizeof(char*))
        self.bytes = <ByteSet*>self.memory.take(n, sizeof(ByteSet))
        self.repeats = <bint*>self.memory.take(n, sizeof(bint))
        self.zeroed = <MemoryRange*>self.memory.take(n, sizeof(MemoryRange))
        for k in range(n):
            self.place[k] = places[k]
            self.describe(places[k], dtypes[k], strides[k])
        self.add_written()

    cdef int describe(self, Py_ssize_t i, str dtype, list strides) except -1:
        """Lay out the gradients of tensor i."""
        cdef Layout layout = self.layout
        cdef ArrayView* view = &self.arrays[i]
        cdef Py_ssize_t* own = <Py_ssize_t*>self.memory.take(max(layout.ndims[i], 1), sizeof(Py_ssize_t))
        cdef Py_ssize_t length
        cdef int k
        view.stored, view.itemsize = STORED[dtype]
        if not same_precision(&layout.views[i], view.stored):
            raise ValueError(f"{layout.tensors[i].label}: a gradient of {dtype} does not fit its parameter; float64 is "
                             f"for float64 alone, and for that nothing else")
        view.ndim, view.shape, view.strides = layout.ndims[i], layout.shapes + layout.first_axis[i], own
        view.flags = WRITEABLE | ALIGNED | (C_CONTIGUOUS if strides is None else 0)
        length = view.itemsize
        for k in range(view.ndim - 1, -1, -1):
            own[k] = length if strides is None else strides[k]
            length *= view.shape[k]
        self.views[i].stored = view.stored
        self.views[i].layout = laid_out(self.memory, view, layout.axes + layout.first_axis[i])
        self.views[i].measured_layout = laid_out(self.memory, view, NULL)
        self.repeats[i] = not fill_bytes(self.memory, &self.bytes[i], view, i)
        return 0

    cdef int add_written(self) except -1:
        """Find all that a step writes."""
        cdef Py_ssize_t i
        cdef ArrayView view
        cdef Layout layout = self.layout
        self.written = <ByteSet*>self.memory.take(layout.written_count, sizeof(ByteSet))
        for i, tensor in enumerate(layout.tensors):
            for array in tensor.written():
                read_array(array, &view)
                if array.size:
                    fill_bytes(self.memory, &self.written[self.written_count], &view, i)
                    self.written_count += 1
        return 0

    cdef Fault read(self, const void* const* pointers, bint zero_grads, Py_ssize_t* wrong) noexcept nogil:
        """Read where gradients are, NULL for none; all that is checked of them. `wrong`: which one."""
        cdef Py_ssize_t i, k
        cdef const char* g
        cdef ArrayView view
        for k in range(self.count):
            i, g = self.place[k], <const char*>pointers[k]
            self.views[i].g = g
            if g == self.checked[i] or g == NULL:
                continue
            wrong[0] = k
            view = self.arrays[i]
            view.data = <char*>g
            if <uintptr_t>g % <size_t>view.itemsize:
                return MISALIGNED
            if self.overlapping(&view):
                return OVERLAPS
            self.checked[i] = g
        return self.refuse_shared(wrong) if zero_grads else NO_FAULT

    cdef Fault refuse_shared(self, Py_ssize_t* wrong) noexcept nogil:
        """Refuse gradients that share memory and are to be set to zero: one would be zero before it is read."""
        cdef Py_ssize_t i, k, other, count = 0
        cdef ArrayView view
        cdef char* end = NULL
        for k in range(self.count):
            i = self.place[k]
            if self.views[i].g == NULL:
                continue
            if self.repeats[i]:
                wrong[0] = k
                return OVERLAPS_ITSELF
            view = self.arrays[i]
            view.data = <char*>self.views[i].g
            memory_range(&view, &self.zeroed[count].low, &self.zeroed[count].high)
            self.zeroed[count].tensor = k
            count += self.zeroed[count].low < self.zeroed[count].high
        sort_by_address(self.zeroed, count)
        for k in range(count):
            i = self.place[self.zeroed[k].tensor]
            view = self.arrays[i]
            view.data = <char*>self.views[i].g
            for other in range(k if self.zeroed[k].low < end else 0):
                i = self.place[self.zeroed[other].tensor]
                if shares_bytes(&view, &self.bytes[i], <Py_ssize_t><uintptr_t>self.views[i].g):
                    wrong[0] = self.zeroed[k].tensor
                    return SHARED
            if self.zeroed[k].high > end:
                end = self.zeroed[k].high
        return NO_FAULT

    cdef bint overlapping(self, const ArrayView* view) noexcept nogil:
        """Whether an array shares memory with what a step writes."""
        cdef char* low
        cdef char* high
        cdef Py_ssize_t first = 0, end = self.layout.written_count, k
        cdef const MemoryRange* ranges = self.layout.written
        memory_range(view, &low, &high)
        if low == high:
            return False
        if self.layout.written_disjoint:           # (only the last that begins before this one ends can reach into it)
            while first < end:
                k = (first + end) // 2
                if ranges[k].low < high:
                    first = k + 1
                else:
                    end = k
            if first == 0 or ranges[first - 1].high <= low:
                return False
        for k in range(self.written_count):
            if shares_bytes(view, &self.written[k], 0):
                return True
        return False

    cdef void set_to_zero(self) noexcept nogil:
        cdef Py_ssize_t i
        cdef ArrayView view
        for i in range(self.count):
            if self.views[i].g != NULL:
                view = self.arrays[i]
                view.data = <char*>self.views[i].g
                set_elements_to_zero(&view)


cdef StridedLayout* laid_out(Memory memory, const ArrayView* view, const int* axes) except? NULL:
    """How to traverse gradients, axis by axis; NULL if their elements follow one another in that order."""
    cdef StridedLayout* found = <StridedLayout*>memory.take(1, sizeof(StridedLayout))
    found.shape = <Py_ssize_t*>memory.take(2 * max(view.ndim, 1), sizeof(Py_ssize_t))
    found.stride = found.shape + max(view.ndim, 1)
    return found if strided_layout(found, view, axes) else NULL


cdef bint fill_bytes(Memory memory, ByteSet* out, const ArrayView* view, Py_ssize_t tensor) except -1:
    """Describe which bytes an array has; False if its elements overlap."""
    cdef int k, j
    cdef char* low
    cdef char* high
    cdef Py_ssize_t step, size, extent = view.itemsize
    memory_range(view, &low, &high)
    out.low, out.high, out.itemsize, out.tensor = <Py_ssize_t>low, <Py_ssize_t>high, view.itemsize, tensor
    out.size = <Py_ssize_t*>memory.take(2 * max(view.ndim, 1), sizeof(Py_ssize_t))
    out.step = out.size + max(view.ndim, 1)
    for k in range(view.ndim):
        size, step = view.shape[k], view.strides[k] if view.strides[k] > 0 else -view.strides[k]
        if size == 1:
            continue
        j = out.ndim
        while j > 0 and out.step[j - 1] < step:
            out.size[j], out.step[j] = out.size[j - 1], out.step[j - 1]
            j -= 1
        out.size[j], out.step[j] = size, step
        out.ndim += 1
    if low == high:
        return True
    for k in range(out.ndim - 1, -1, -1):
        if out.step[k] < extent:
            return False
        extent += out.step[k] * (out.size[k] - 1)
    return True


cdef inline bint has_byte(const ByteSet* bytes, Py_ssize_t offset) noexcept nogil:
    """Whether an array has the byte at this distance from its lowest one."""
    cdef int k
    cdef Py_ssize_t i
    if offset < 0:
        return False
    for k in range(bytes.ndim):
        i = offset // bytes.step[k]
        offset -= (i if i < bytes.size[k] else bytes.size[k] - 1) * bytes.step[k]
    return offset < bytes.itemsize


cdef bint shares_bytes(const ArrayView* view, const ByteSet* bytes, Py_ssize_t base) noexcept nogil:
    """Whether an array shares memory with another one, whose addresses are from `base`."""
    cdef char* low
    cdef char* high
    cdef Py_ssize_t[MAX_DIMENSIONS] index
    cdef Py_ssize_t at, k, begin = base + bytes.low
    cdef int axis
    memory_range(view, &low, &high)
    if low == high or bytes.low == bytes.high or <Py_ssize_t>low >= base + bytes.high or begin >= <Py_ssize_t>high:
        return False
    memset(index, 0, sizeof(index))
    at = <Py_ssize_t><uintptr_t>view.data - begin
    while True:
        for k in range(view.itemsize):             # (all of them: an element of the other may be the shorter one)
            if has_byte(bytes, at + k):
                return True
        axis = view.ndim - 1
        while axis >= 0:                           # the next element
            index[axis] += 1
            at += view.strides[axis]
            if view.strides[axis] != 0 and index[axis] < view.shape[axis]:
                break
            at -= index[axis] * view.strides[axis]
            index[axis] = 0
            axis -= 1
        if axis < 0:
            return False


cdef void set_elements_to_zero(const ArrayView* view) noexcept nogil:
    cdef Py_ssize_t[MAX_DIMENSIONS] index
    cdef char* at = view.data
    cdef char* low
    cdef char* high
    cdef int axis
    memory_range(view, &low, &high)
    if low == high:
        return
    if view.flags & C_CONTIGUOUS:
        memset(low, 0, high - low)
        return
    memset(index, 0, sizeof(index))
    while True:
        memset(at, 0, view.itemsize)
        axis = view.ndim - 1
        while axis >= 0:
            index[axis] += 1
            at += view.strides[axis]
            if index[axis] < view.shape[axis]:
                break
            at -= index[axis] * view.strides[axis]
            index[axis] = 0
            axis -= 1
        if axis < 0:
            return
