# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The tensors of torch that one plan moves: their gradients, read and checked before the first write, and their steps.

As gradients.pyx does for arrays. Gradients are new in each step: what is done for each of them counts.
"""
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from fastlr._engine.arrays cimport ArrayView, memory_range
from fastlr._engine.dlpack cimport DL_CPU, DLTensor, storage_of
from fastlr._engine.gradients cimport Gradients
from fastlr._engine.layout cimport Layout, MemoryRange, same_precision, same_shape, sort_by_address
from fastlr._engine.memory cimport Memory
from fastlr._engine.plan cimport Plan
from fastlr._engine.torch_grad cimport grad_of
from fastlr._engine.torch_native cimport (
    NATIVE_AXES, NATIVE_STORAGE, STORAGE_WORDS, at, dtype_of, gradient_of, has_layout, has_native, is_plain_storage,
    native, pointer_at, same_storage, word_at,
)
from fastlr._engine.torch_tensors cimport (
    Py_TYPE, PyObject, array_over, describe, parameter_type, tensor_type,
)
from fastlr._engine.written_ranges cimport WrittenRanges, may_be_written, merge_written, refuse_overlap
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.prefetch cimport prefetch_read, prefetch_row
from fastlr._kernels.structs cimport MAX_DIMENSIONS, UNKNOWN, GradientView, Storage

from fastlr._engine.arrays import stored_as
from fastlr._engine.rows import catch_up, step_rows

build_id = FASTLR_LAYOUT.decode()

cdef enum:
    AHEAD = 512                # bytes of a gradient, and of a parameter, that are requested before all are read


cdef struct SeenTensor:
    # A parameter as it was when the plan was made.
    char* data
    int ndim
    bint special               # its gradient and memory are found by Python: complex, or of a type of its own
    bint plain                 # contiguous in C order
    bint native                # it and its gradient may be read without Python objects
    int dtype                  # torch's number of its type, there
    uint64_t first             # ... and where it was in its storage,
    uint64_t[STORAGE_WORDS] storage            # ... and what that said of its memory
    Storage stored
    Py_ssize_t size, bytes
    int64_t* shape
    int64_t* strides


cdef class TorchTensors:
    """The tensors of torch that one plan moves, their gradients, and how many updates each has had.

    `owners` are the parameters, as groups have them; `locals` the strided tensors over the same memory that the plan
    was made with; `steps` has the count of updates of each, as torch keeps it; `of_special` gives, for an owner that is
    complex or of a type of its own, its local tensor; `convert_gradient` makes a strided tensor on the CPU, or a sparse
    one, of a gradient that is neither. `step_elements` is a weak reference to what moves some elements of a parameter.
    """

    cdef readonly Plan plan
    cdef readonly list owners
    cdef list locals
    cdef object of_special
    cdef object convert_gradient
    cdef object step_elements
    cdef Gradients source
    cdef Memory memory
    cdef SeenTensor* seen
    cdef PyObject** owner
    cdef Py_ssize_t count
    cdef object steps_array
    cdef float* steps32
    cdef double* steps64
    cdef WrittenRanges written
    cdef bint native                   # whether gradients may be read without Python objects
    cdef void** found                  # ... the `TensorImpl` of each that was,
    cdef void*** held                  # ... and the handle that keeps it until the step is done
    # Gradients of the step in progress that are Python objects. (The list is made once: after a backward pass, a block
    # of memory of its size takes the C library up to 0.1 ms, as it joins the small blocks that were freed.)
    cdef list gradients
    cdef bint keeps_objects            # whether there are any
    cdef readonly list sparse          # ... of those, (index, gradient) of sparse ones

    def __init__(self, Plan plan, list owners, list local_tensors, steps, of_special, convert_gradient,
                 step_elements, bint may_be_native):
        cdef Py_ssize_t i
        cdef int k
        cdef DLTensor found
        cdef SeenTensor* seen
        cdef int64_t length
        cdef int64_t* shapes
        cdef Py_ssize_t lengths = 0
        self.plan, self.owners, self.locals = plan, owners, local_tensors
        self.of_special, self.convert_gradient, self.step_elements = of_special, convert_gradient, step_elements
        self.memory, self.count, self.native = Memory(), len(owners), may_be_native
        self.found = <void**>self.memory.take(self.count, sizeof(void*))
        self.held = <void***>self.memory.take(self.count, sizeof(void**))
        self.seen = <SeenTensor*>self.memory.take(self.count, sizeof(SeenTensor))
        self.owner = <PyObject**>self.memory.take(self.count, sizeof(PyObject*))
        self.source = Gradients(plan.layout)
        self.source.read_elsewhere = True
        self.gradients, self.sparse = [None] * self.count, []
        self.take_steps(steps)
        merge_written(&self.written, plan.layout, self.memory)
        for i in range(self.count):
            describe(<PyObject*>local_tensors[i], &found)
            lengths += 2 * found.ndim
        shapes = <int64_t*>self.memory.take(lengths + 1, sizeof(int64_t))
        for i in range(self.count):
            seen = &self.seen[i]
            self.owner[i] = <PyObject*>owners[i]
            describe(<PyObject*>local_tensors[i], &found)
            seen.data, seen.ndim = <char*>found.data + found.byte_offset, found.ndim
            seen.special = owners[i] is not local_tensors[i]
            seen.stored = storage_of(&found)
            seen.shape, seen.strides = shapes, shapes + found.ndim
            shapes += 2 * found.ndim
            seen.size, seen.plain, length = 1, True, 1
            for k in range(found.ndim):
                seen.shape[k], seen.strides[k] = found.shape[k], found.strides[k]
                seen.size *= found.shape[k]
            for k in range(found.ndim - 1, -1, -1):
                if found.shape[k] != 1 and found.strides[k] != length:
                    seen.plain = False
                length *= found.shape[k]
            seen.plain = seen.plain or seen.size == 0
            seen.bytes = seen.size * found.dtype.bits // 8
            # (an alias of a gradient of one element may have any strides)
            seen.native = may_be_native and not seen.special and seen.plain and seen.size > 1 and \
                seen.ndim <= NATIVE_AXES and Py_TYPE(self.owner[i]) in (tensor_type, parameter_type)
            self.note_storage(i)

    cdef int take_steps(self, steps) except -1:
        """`steps`: a tensor of one float32 or float64 for each parameter."""
        cdef DLTensor found
        describe(<PyObject*>steps, &found)
        self.steps_array = steps
        self.steps32 = self.steps64 = NULL
        if found.dtype.bits == 32:
            self.steps32 = <float*>found.data
        else:
            self.steps64 = <double*>found.data
        return 0

    # Reading

    cdef bint is_as_seen(self, Py_ssize_t i, const DLTensor* tensor) noexcept:
        """Whether a tensor has the parameter's shape and strides."""
        cdef const SeenTensor* seen = &self.seen[i]
        cdef int k
        if tensor.ndim != seen.ndim:
            return False
        for k in range(seen.ndim):
            if tensor.shape[k] != seen.shape[k] or (tensor.strides[k] != seen.strides[k] and seen.shape[k] != 1):
                return False
        return True

    cdef bint is_moved(self, Py_ssize_t i) except -1:
        """Whether a parameter is in other memory, or of another shape, than when the plan was made."""
        cdef DLTensor found
        cdef object tensor
        if self.seen[i].special:
            tensor = self.of_special(<object>self.owner[i])
            return tensor is not self.locals[i] and not self.same_memory(i, tensor)
        describe(self.owner[i], &found)
        if <char*>found.data + found.byte_offset != self.seen[i].data or not self.is_as_seen(i, &found):
            return True
        self.note_storage(i)
        return False

    cdef void note_storage(self, Py_ssize_t i) noexcept:
        """Remember what a parameter's storage says of its memory now."""
        cdef SeenTensor* seen = &self.seen[i]
        cdef void* impl
        if has_native and seen.native:
            impl = pointer_at(self.owner[i], at.impl)
            if word_at(impl, at.keys) != at.plain_keys:
                seen.dtype = -1        # (no type: it will be looked at closer each time)
                return
            seen.dtype, seen.first = dtype_of(impl), word_at(impl, at.first)
            memcpy(seen.storage, <char*>pointer_at(impl, at.storage) + at.data, at.storage_words * sizeof(uint64_t))

    cdef bint same_memory(self, Py_ssize_t i, object tensor) except -1:
        cdef DLTensor found
        describe(<PyObject*>tensor, &found)
        return <char*>found.data + found.byte_offset == self.seen[i].data and self.is_as_seen(i, &found)

    def read(self, bint as_objects=False):
        """Read where the gradients are; TypeError or ValueError unless all of them can be used as they are.

        Returns how many there are, -1 where a parameter is in other memory than the plan's. Sparse ones are put aside,
        in `sparse`. `as_objects`: as Python objects, as is needed to set all of them to zero.
        """
        cdef DLTensor found
        cdef GradientView* view
        cdef const SeenTensor* seen
        cdef Layout layout = self.plan.layout
        cdef Py_ssize_t i, present = 0
        cdef int found_native
        cdef Storage stored
        cdef object gradient
        self.forget()
        if has_native and self.native and not as_objects:
            self.load_all()
        for i in range(self.count):
            view, seen = &self.source.views[i], &self.seen[i]
            view.g = NULL
            if has_native and seen.native and not as_objects:
                found_native = self.read_native(i)
                if found_native >= 0:
                    present += found_native
                    continue
            if self.is_moved(i):
                self.forget()
                return -1
            gradient = grad_of(self.owner[i])
            if gradient is None:
                continue
            present += 1
            if seen.special or Py_TYPE(<PyObject*>gradient) != tensor_type:
                gradient = self.converted(i, gradient)
                if gradient is None:
                    continue
            self.gradients[i], self.keeps_objects = gradient, True
            try:
                describe(<PyObject*>gradient, &found)
            except (BufferError, RuntimeError):            # (no strides: sparse, or no memory: of another device)
                self.gradients[i] = gradient = self.converted(i, gradient)
                if gradient is None:
                    continue
                describe(<PyObject*>gradient, &found)
            stored = storage_of(&found)
            if found.device.device_type == DL_CPU and seen.plain and seen.size != 1 and found.data != NULL \
                    and self.is_as_seen(i, &found) and same_precision(&layout.views[i], stored) \
                    and not gradient.is_neg():
                view.g, view.stored = <char*>found.data + found.byte_offset, stored
                view.layout = view.measured_layout = NULL
                if may_be_written(&self.written, view.g, view.g + seen.bytes):
                    refuse_overlap(layout, i, array_over(gradient), view.g, view.g + seen.bytes)
            else:
                self.read_other(i, gradient)
        if has_native and self.native and not as_objects:
            self.hold()
        return present

    cdef void load_all(self) noexcept:
        """Bring what is read of parameters and gradients into the caches.

        (A pass of its own: with few instructions for each, the core waits for the memory of many of them at a time.)
        """
        cdef Py_ssize_t i
        cdef const SeenTensor* seen
        cdef const char* impl
        cdef const char* gradient
        cdef const char* storage
        for i in range(self.count):
            seen = &self.seen[i]
            if not seen.native:
                continue
            impl = <const char*>pointer_at(self.owner[i], at.impl)
            prefetch_read(impl + at.keys)
            prefetch_read(pointer_at(impl, at.version))
            prefetch_read(<const char*>pointer_at(impl, at.storage) + at.data)
            prefetch_row(seen.data, seen.bytes if seen.bytes < AHEAD else AHEAD)
            gradient = <const char*>gradient_of(impl)
            if gradient == NULL:
                continue
            prefetch_read(gradient + at.keys)
            storage = <const char*>pointer_at(gradient, at.storage)
            if storage != NULL:
                prefetch_read(storage + NATIVE_STORAGE)
                prefetch_row(<const char*>pointer_at(storage, at.data), seen.bytes if seen.bytes < AHEAD else AHEAD)

    cdef int read_native(self, Py_ssize_t i) noexcept:
        """Read a gradient of the parameter's own layout: 1, 0 if there is none, -1 if one of both needs a closer look.
        """
        cdef GradientView* view = &self.source.views[i]
        cdef const SeenTensor* seen = &self.seen[i]
        cdef const void* impl = pointer_at(self.owner[i], at.impl)
        cdef void* gradient
        cdef void* storage
        cdef char* data
        if not has_layout(impl, seen.ndim, seen.shape, seen.strides) or dtype_of(impl) != seen.dtype \
                or word_at(impl, at.first) != seen.first \
                or not same_storage(pointer_at(impl, at.storage), seen.storage):
            return -1
        gradient = gradient_of(impl)
        if gradient == NULL:
            return 0
        if not has_layout(gradient, seen.ndim, seen.shape, seen.strides) or dtype_of(gradient) != seen.dtype:
            return -1
        storage = pointer_at(gradient, at.storage)
        data = <char*>pointer_at(storage, at.data)
        if data == NULL or not is_plain_storage(storage):
            return -1
        data += word_at(gradient, at.first) * <uint64_t>(seen.bytes // seen.size)
        if may_be_written(&self.written, data, data + seen.bytes):
            return -1
        self.found[i] = gradient
        view.g, view.stored, view.layout, view.measured_layout = data, seen.stored, NULL, NULL
        return 1

    cdef int hold(self) except -1:
        """Keep the gradients that were read, whatever happens to the parameters, until the step is done."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.found[i] == NULL:
                continue
            if (self.held[i] == NULL and native.new_handle(&self.held[i]) != 0) \
                    or native.assign(&self.found[i], self.held[i]) != 0:
                self.forget()
                raise MemoryError
        return 0

    cdef void release_held(self) noexcept:
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.found[i] != NULL:
                self.found[i] = NULL
                if self.held[i] != NULL:
                    native.assign(&at.no_tensor, self.held[i])

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.held != NULL and self.memory is not None:
            for i in range(self.count):
                if self.held[i] != NULL:
                    native.delete_handle(self.held[i])

    cdef object converted(self, Py_ssize_t i, object gradient):
        """A gradient of another type, layout or device as a strided tensor on the CPU; None if it is sparse."""
        gradient = self.convert_gradient(<object>self.owner[i], gradient, self.plan.layout.tensors[i].name)
        if gradient is not None and gradient.is_sparse:
            self.sparse.append((i, gradient))
            return None
        return gradient

    cdef int read_other(self, Py_ssize_t i, object gradient) except -1:
        """Read a gradient whose layout is not the parameter's own."""
        cdef DLTensor found
        cdef ArrayView array_view
        cdef Py_ssize_t[2 * MAX_DIMENSIONS] lengths
        cdef Layout layout = self.plan.layout
        cdef GradientView* view = &self.source.views[i]
        cdef char* low
        cdef char* high
        cdef int k
        cdef bint contiguous = True
        cdef Py_ssize_t length
        if gradient.is_neg() or (gradient.numel() and not gradient.data_ptr()):
            self.gradients[i] = gradient = gradient.resolve_neg().clone()
        describe(<PyObject*>gradient, &found)
        array_view.stored, array_view.ndim = storage_of(&found), found.ndim
        array_view.itemsize = found.dtype.bits // 8
        array_view.data, array_view.flags = <char*>found.data + found.byte_offset, 0
        array_view.shape, array_view.strides = lengths, lengths + MAX_DIMENSIONS
        length = array_view.itemsize
        for k in range(found.ndim - 1, -1, -1):
            lengths[k], lengths[MAX_DIMENSIONS + k] = found.shape[k], found.strides[k] * array_view.itemsize
            contiguous = contiguous and (found.shape[k] == 1 or lengths[MAX_DIMENSIONS + k] == length)
            length *= found.shape[k]
        if array_view.stored == UNKNOWN or not same_precision(&layout.views[i], array_view.stored) \
                or not same_shape(layout, i, &array_view):
            raise ValueError(f"{layout.caller}: the gradient of parameter {layout.tensors[i].name}: expected "
                             f"{stored_as(layout.tensors[i].array)} {tuple(layout.tensors[i].array.shape)} like the "
                             f"parameter, got {str(gradient.dtype).removeprefix('torch.')} {tuple(gradient.shape)}")
        view.stored, view.layout, view.measured_layout = array_view.stored, NULL, NULL
        # (an empty tensor has no address, and NULL would skip it)
        view.g = array_view.data if array_view.data != NULL else <char*>self.seen
        if not (contiguous and layout.in_order[i] and <uintptr_t>array_view.data % array_view.itemsize == 0):
            self.source.read_strided(i, &array_view)
        memory_range(&array_view, &low, &high)
        if low < high and may_be_written(&self.written, low, high):
            refuse_overlap(layout, i, array_over(gradient), low, high)
        return 0

    # Stepping

    cdef void match_steps(self) noexcept:
        """Take on the counts of updates, which may have been set."""
        cdef Py_ssize_t i
        cdef int64_t present, t = self.plan.t
        cdef double counted
        for i in range(self.count):
            present = t - self.plan.scalars.skipped_steps[i]
            if self.steps32 != NULL:
                if self.steps32[i] == <float>present:
                    continue
                counted = self.steps32[i]
            else:
                counted = self.steps64[i]
            if counted != <double>present and 0 <= counted < 2.0**53:
                self.plan.scalars.skip(i, present - <int64_t>counted)

    cdef inline void count_update(self, Py_ssize_t i) noexcept:
        if self.steps32 != NULL:
            self.steps32[i] += 1
        else:
            self.steps64[i] += 1

    def step(self, grad_scale=1.0, bint zero_grads=False, double loss=NAN, dict curvature=None, keeps=None):
        """Move what has a gradient, as `read` found it. Returns the parameters that moved; None if none did.

        For a rule with `keeps` (see `Plan.step`), `curvature` has an array for some owners, by their id.
        """
        cdef Plan plan = self.plan
        cdef Py_ssize_t i, moved = 0
        cdef int64_t skipped = plan.skipped
        self.match_steps()
        if plan.journals is not None:
            for i, gradient in self.sparse:
                if plan.journals[i] is not None and gradient.sparse_dim() != 1:
                    raise RuntimeError(f"{plan.layout.caller}: the rows of parameter {plan.layout.tensors[i].name} "
                                       f"catch up, and its gradient must be sparse by rows, got one of "
                                       f"{gradient.sparse_dim()} sparse axes")
            self.catch_up(False)
        for i, gradient in self.sparse:
            if gradient.sparse_dim() == 1:
                rows, values = gradient._indices()[0].contiguous(), gradient._values()
                step_rows(plan, i, array_over(rows), array_over(values), grad_scale, False)
            else:
                self.step_elements()(i, gradient, grad_scale)
                plan.scalars.skip(i, -1)           # (the step that ends below counts it as skipped)
        self.source.arrays = self.gradients
        plan.bound = self.source
        if zero_grads:
            self.refuse_shared_gradients()
        try:
            plan.step(None, grad_scale, zero_grads, loss, None if curvature is None else
                      [curvature.get(id(owner)) for owner in self.owners], keeps)
        finally:
            self.source.arrays = None
            self.release()
        if plan.skipped != skipped:
            return None
        for i in range(self.count):
            if self.source.views[i].g != NULL:
                self.count_update(i)
                moved += 1
        for i, _ in self.sparse:
            self.count_update(i)
        if moved == self.count:
            return self.owners
        sparse = {i for i, _ in self.sparse}
        return [owner for i, owner in enumerate(self.owners) if self.source.views[i].g != NULL or i in sparse]

    def catch_up(self, bint all_tensors=True):
        """Let every row have all updates: of all parameters, or of those with a strided gradient. Returns those that
        were behind."""
        cdef Py_ssize_t i
        found = []
        for i, journal in enumerate(self.plan.journals or ()):
            if journal is not None and (all_tensors or self.source.views[i].g != NULL) and journal.behind():
                self.require_memory(i)
                catch_up(self.plan, i)
                found.append(self.owners[i])
        return found

    cdef int require_memory(self, Py_ssize_t i) except -1:
        """RuntimeError if a parameter is no longer in the memory in which rows of it are behind, which may be freed."""
        cdef Layout layout = self.plan.layout
        if self.is_moved(i):
            self.plan.journals[i].discard()
            raise RuntimeError(f"{layout.caller}: parameter {layout.tensors[i].name} was given other memory while rows "
                               f"of it were behind; their updates are lost; call catch_up() before that")
        return 0

    def catch_up_rows(self, Py_ssize_t i, rows):
        """Let these rows of a parameter have all updates; whether one had not."""
        if self.plan.journals is None or self.plan.journals[i] is None or not self.plan.journals[i].behind():
            return False
        self.require_memory(i)
        return catch_up(self.plan, i, rows)

    def behind(self) -> int:
        """The largest number of updates that a row of a parameter has not had."""
        return max([journal.behind() for journal in self.plan.journals or () if journal is not None], default=0)

    def forget(self):
        """Keep no gradient that was read for a step which was not done."""
        if self.sparse:
            self.sparse = []
        self.release()

    cdef void release(self):
        """Keep no gradient that is not sparse."""
        cdef Py_ssize_t i
        if self.native:
            self.release_held()
        if self.keeps_objects:
            self.keeps_objects = False
            for i in range(self.count):
                self.gradients[i] = None

    cdef int refuse_shared_gradients(self) except -1:
        """ValueError if gradients that are set to zero share memory: one would be zero before it is read."""
        cdef Memory memory = Memory()
        cdef MemoryRange* ranges = <MemoryRange*>memory.take(self.count, sizeof(MemoryRange))
        cdef Py_ssize_t i, count = 0
        for i in range(self.count):
            if self.source.views[i].g != NULL:
                if self.source.views[i].layout != NULL:
                    gradient = self.gradients[i]
                    if any([n > 1 and step == 0 for n, step in zip(gradient.shape, gradient.stride())]):
                        raise ValueError(f"{self.plan.layout.caller}: zero_grads needs gradients whose elements do "
                                         f"not share memory")
                ranges[count].low = <char*>self.source.views[i].g
                ranges[count].high = ranges[count].low + (self.seen[i].bytes if self.seen[i].plain else 1)
                count += ranges[count].low < ranges[count].high
        sort_by_address(ranges, count)
        for i in range(count - 1):
            if ranges[i].high > ranges[i + 1].low:
                raise ValueError(f"{self.plan.layout.caller}: zero_grads needs gradients that do not share memory")
        return 0

    def has_gradient(self, Py_ssize_t i):
        """Whether the latest `read` found a gradient of this parameter."""
        return self.source.views[i].g != NULL or any([k == i for k, _ in self.sparse])
