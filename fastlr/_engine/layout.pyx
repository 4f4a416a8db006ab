# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Where parameters and state are, how they are traversed and how they are cut: found once, when an optimizer is built.

Cuts depend on the tensors' sizes alone, never on threads.
"""
from zlib import crc32

import numpy as np

from libc.float cimport DBL_MAX, DBL_MIN, FLT_MAX, FLT_MIN
from libc.stdint cimport uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memset
from fastlr._engine.arrays cimport ArrayView, memory_range, read_array, strided_layout
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.memory cimport Memory
from fastlr._kernels.structs cimport (
    BOX, FLOAT32, FLOAT64, MAX_DIMENSIONS, MAX_NORM, MOVED_NORMS, SIMPLEX, TILE, UNIT_NORM, AfterStep, Chunk,
    Constraint, StridedLayout, TensorView,
)

build_id = FASTLR_LAYOUT.decode()

CONSTRAINTS = {"box": BOX, "max_norm": MAX_NORM, "unit_norm": UNIT_NORM, "simplex": SIMPLEX}

cdef enum:
    # How much is stepped before its constraint; see `step_blocks`.
    PLAIN_BLOCK = 512          # bytes
    STORED_BLOCK = 2048        # elements of other storage
    TOGETHER = 8               # long rows of a chunk, where there are SHARES times as many
    SHARES = 16


cdef int compare_addresses(const void* a, const void* b) noexcept nogil:
    return (<MemoryRange*>a).low > (<MemoryRange*>b).low or -((<MemoryRange*>a).low < (<MemoryRange*>b).low)


cdef void sort_by_address(MemoryRange* ranges, Py_ssize_t count) noexcept nogil:
    qsort(ranges, count, sizeof(MemoryRange), compare_addresses)


cdef class Layout:
    """The memory of one optimizer's tensors (see tensors.py); each has `slots` state arrays of the rule."""

    def __cinit__(self, str caller, list tensors, int slots):
        cdef Py_ssize_t i
        self.memory = Memory()
        self.caller, self.tensors, self.count, self.slots = caller, tensors, len(tensors), slots
        self.min_grad_scale, self.max_grad_scale = 1 / DBL_MAX, 1 / DBL_MIN
        self.reserve()
        for i, tensor in enumerate(tensors):
            self.read_tensor(i, tensor)
        self.sort_written()
        self.cut_chunks()

    cdef int reserve(self) except -1:
        """Take the memory for what is known of each tensor."""
        cdef Py_ssize_t i, arrays = 0, n = self.count
        cdef ArrayView array_view
        cdef Memory memory = self.memory
        self.views = <TensorView*>memory.take(n, sizeof(TensorView))
        self.memories = <double**>memory.take(n, sizeof(double*))
        self.ndims = <int*>memory.take(n, sizeof(int))
        self.first_axis = <Py_ssize_t*>memory.take(n, sizeof(Py_ssize_t))
        self.in_order = <bint*>memory.take(n, sizeof(bint))
        for i, tensor in enumerate(self.tensors):
            read_array(tensor.array, &array_view)
            self.ndims[i], self.first_axis[i] = array_view.ndim, self.all_axes
            self.all_axes += max(array_view.ndim, 1)
            arrays += 3 + len(tensor.state) + len(tensor.matrices)     # (and a remainder, and a 16-bit copy)
        self.axes = <int*>memory.take(self.all_axes, sizeof(int))
        self.shapes = <Py_ssize_t*>memory.take(self.all_axes, sizeof(Py_ssize_t))
        self.written = <MemoryRange*>memory.take(arrays, sizeof(MemoryRange))
        return 0

    cdef int read_tensor(self, Py_ssize_t i, tensor) except -1:
        """Read where one tensor is, and its state, its factors and its copies."""
        cdef int k
        cdef ArrayView array_view
        cdef TensorView* view = &self.views[i]
        cdef int* axes = self.axes + self.first_axis[i]
        cdef list state = tensor.state, scales = tensor.state_scales
        cdef tuple order = tensor.axes
        read_array(tensor.array, &array_view)
        self.add_written(i, &array_view)
        view.p, view.stored, view.is_double, view.size = array_view.data, array_view.stored, tensor.is_double, 1
        view.staged = view.stored != (FLOAT64 if view.is_double else FLOAT32)
        view.random_salt = <uint64_t>crc32(tensor.name.encode("utf-8", "surrogatepass")) * 8
        view.clip_factor = 1
        self.in_order[i] = True
        for k in range(array_view.ndim):
            axes[k], self.shapes[self.first_axis[i] + k] = order[k], array_view.shape[k]
            view.size *= array_view.shape[k]
            self.in_order[i] = self.in_order[i] and axes[k] == k
        view.layout = self.layout_of(&array_view, axes)
        for k in range(<int>len(state)):
            read_array(state[k], &array_view)
            self.add_written(i, &array_view)
            if k >= self.slots:
                view.ema = array_view.data         # (the running mean comes after the rule's own slots)
                continue
            view.slot[k], view.slot_stored[k] = array_view.data, array_view.stored
            view.staged |= view.slot_stored[k] != (FLOAT64 if view.is_double else FLOAT32)
            if scales[k] is not None:
                read_array(scales[k], &array_view)
                view.slot_scale[k] = <float*>array_view.data
        if tensor.matrices:
            for array in tensor.matrices.values():
                read_array(array, &array_view)
                self.add_written(i, &array_view)
        if tensor.lr_scales is not None:
            read_array(tensor.lr_scales, &array_view)
            view.lr_factors = array_view.data
        if tensor.low_bits is not None:
            read_array(tensor.low_bits, &array_view)
            self.add_written(i, &array_view)
            view.low_bits = array_view.data
        if tensor.shadow is not None:
            read_array(tensor.shadow, &array_view)
            self.add_written(i, &array_view)
            view.shadow, view.shadow_stored, view.staged = array_view.data, array_view.stored, True
            view.shadow_layout = self.layout_of(&array_view, axes)
        if tensor.constraint is not None or tensor.measured:
            self.read_after(i, tensor)
        read_array(tensor.memory, &array_view)
        self.memories[i] = <double*>array_view.data
        self.elements += view.size
        if not view.is_double:
            self.min_grad_scale, self.max_grad_scale = 1 / <double>FLT_MAX, 1 / <double>FLT_MIN
        return 0

    cdef int read_after(self, Py_ssize_t i, object tensor) except -1:
        """What comes after the step of one tensor."""
        cdef TensorView* view = &self.views[i]
        cdef AfterStep* after = <AfterStep*>self.memory.take(1, sizeof(AfterStep))
        cdef bint plain = self.is_plain(view), by_row = tensor.constraint is not None and tensor.constraint[0] != "box"
        cdef Py_ssize_t rows = 1, count
        cdef Py_ssize_t block = PLAIN_BLOCK // (8 if view.is_double else 4) if plain else STORED_BLOCK
        after.row, after.block, after.chunk, after.staged = 1, block, CHUNK, view.staged
        if tensor.constraint is not None:
            kind, after.low, after.high, row = tensor.constraint
            after.constraint, self.constrains = <Constraint>CONSTRAINTS[kind], True
            after.staged = not plain           # (mean and copy follow the constraint, not the step)
        if by_row:
            after.row = max(<Py_ssize_t>row, 1)
            while not plain and rows * after.row % TILE:       # (8-bit groups and random bits begin with a tile)
                rows *= 2
            after.block = max(block // (rows * after.row), 1) * rows * after.row
            # (more long rows than one, as all but the last of a chunk are constrained while the next is stepped)
            count = max(CHUNK // (rows * after.row), min(view.size // after.row // SHARES, TOGETHER), 1)
            after.chunk = count * rows * after.row
        view.after, view.staged = after, True
        if tensor.measured:
            after.norms = <double*>self.memory.take(view.size // after.chunk + 1, MOVED_NORMS * sizeof(double))
            self.measures = True
        return 0

    cdef bint is_plain(self, const TensorView* view) noexcept nogil:
        """Whether parameter and state are stored as they are computed."""
        cdef int k
        cdef bint plain = view.stored == (FLOAT64 if view.is_double else FLOAT32)
        for k in range(self.slots):
            plain = plain and view.slot_stored[k] == (FLOAT64 if view.is_double else FLOAT32)
        return plain

    cdef StridedLayout* layout_of(self, const ArrayView* array_view, const int* axes) except? NULL:
        """How to traverse an array, axis by axis; NULL if its elements follow one another in that order."""
        cdef StridedLayout found
        cdef StridedLayout* result
        cdef Py_ssize_t[2 * MAX_DIMENSIONS] lengths
        cdef int k
        found.shape, found.stride = lengths, lengths + MAX_DIMENSIONS
        if not strided_layout(&found, array_view, axes):
            return NULL
        result = <StridedLayout*>self.memory.take(1, sizeof(StridedLayout) + 2 * found.ndim * sizeof(Py_ssize_t))
        result.ndim, result.shape = found.ndim, <Py_ssize_t*>(result + 1)
        result.stride = result.shape + found.ndim
        for k in range(found.ndim):
            result.shape[k], result.stride[k] = found.shape[k], found.stride[k]
        return result

    cdef StridedLayout* strided_layouts(self, Memory memory) except NULL:
        """One per tensor, still to be filled, for as many dimensions as the tensor has axes."""
        cdef Py_ssize_t i, axes
        cdef StridedLayout* layouts = <StridedLayout*>memory.take(self.count, sizeof(StridedLayout))
        cdef Py_ssize_t* lengths = <Py_ssize_t*>memory.take(2 * self.all_axes, sizeof(Py_ssize_t))
        for i in range(self.count):
            axes = max(self.ndims[i], 1)
            layouts[i].shape, layouts[i].stride = lengths, lengths + axes
            lengths += 2 * axes
        return layouts

    # What a step writes

    cdef int add_written(self, Py_ssize_t i, const ArrayView* array_view) except -1:
        cdef MemoryRange* written = &self.written[self.written_count]
        memory_range(array_view, &written.low, &written.high)
        written.tensor = i
        self.written_count += written.low < written.high
        return 0

    cdef int sort_written(self) except -1:
        cdef Py_ssize_t k
        sort_by_address(self.written, self.written_count)
        self.written_disjoint = True
        for k in range(self.written_count - 1):
            if self.written[k].high > self.written[k + 1].low:
                self.written_disjoint = False
        return 0

    cdef object overlapped(self, object array, const ArrayView* array_view):
        """The tensor that a step writes where this array is, or None."""
        cdef char* low
        cdef char* high
        cdef Py_ssize_t first = 0, end = self.written_count, k
        memory_range(array_view, &low, &high)
        if low == high:
            return None
        if self.written_disjoint:      # only the last range that begins before this one ends can reach into it ...
            while first < end:
                k = (first + end) // 2
                if self.written[k].low < high:
                    first = k + 1
                else:
                    end = k
            end = first
            while first > 0 and self.written[first - 1].high > low:        # (... and those that this one contains)
                first -= 1
        for k in range(first, end):
            if self.written[k].low < high and self.written[k].high > low:
                tensor = self.tensors[self.written[k].tensor]
                for written in tensor.written():
                    if np.shares_memory(written, array):
                        return tensor
        return None

    # Cuts

    cdef Py_ssize_t chunk_size(self, Py_ssize_t i) noexcept nogil:
        """How many elements a tensor's chunks have, but for the last."""
        return CHUNK if self.views[i].after == NULL else self.views[i].after.chunk

    cdef void clear_norms(self) noexcept nogil:
        """Forget what moved in the latest step."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.views[i].after != NULL and self.views[i].after.norms != NULL:
                memset(self.views[i].after.norms, 0, self.norms_of(i) * MOVED_NORMS * sizeof(double))

    cdef Py_ssize_t norms_of(self, Py_ssize_t i) noexcept nogil:
        """How many chunks of tensor i are measured."""
        cdef const AfterStep* after = self.views[i].after
        return 0 if after == NULL or after.norms == NULL else self.views[i].size // after.chunk + 1

    cdef int cut_chunks(self) except -1:
        """Cut tensors into chunks, and collect chunks of small tensors into tasks."""
        cdef Py_ssize_t i, start, filled = 0, k = 0, max_chunks = 0
        for i in range(self.count):
            max_chunks += self.views[i].size // self.chunk_size(i) + 1
        self.chunks = <Chunk*>self.memory.take(max_chunks, sizeof(Chunk))
        self.task_starts = <Py_ssize_t*>self.memory.take(max_chunks + 1, sizeof(Py_ssize_t))
        for i in range(self.count):
            start = 0
            while start < self.views[i].size:
                self.chunks[k] = Chunk(start, min(self.chunk_size(i), self.views[i].size - start), <int>i)
                filled += self.chunks[k].size
                start += self.chunks[k].size
                k += 1
                if filled >= CHUNK:
                    self.tasks += 1
                    self.task_starts[self.tasks], filled = k, 0
        if filled:
            self.tasks += 1
            self.task_starts[self.tasks] = k
        self.chunk_count = k
        return 0
