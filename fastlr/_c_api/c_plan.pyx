# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A plan as C has it: set up by means of the Python class, then stepped without Python and without its lock."""
import numpy as np

from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from libc.math cimport INFINITY, NAN
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset, strcmp
from fastlr._c_api.handles cimport MESSAGE_SIZE
from fastlr._c_api.pointer_gradients cimport (
    MISALIGNED, NO_FAULT, OVERLAPS, SHARED, Fault, PointerGradients,
)
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._engine.arrays cimport ALIGNED, C_CONTIGUOUS, ArrayView, memory_range, read_array
from fastlr._engine.clipping cimport NO_MEMORY, REFUSED, SKIPPED, Verdict, not_measured
from fastlr._engine.compiled_schedule cimport CompiledSchedule
from fastlr._engine.memory cimport Memory
from fastlr._engine.plan cimport Plan, give_flag, take_flag
from fastlr._engine.row_index cimport MAX_ROWS, NO_ROOM
from fastlr._engine.rows cimport (
    MAX_REASON, RowArrays, RowLayouts, lay_out_rows, lay_out_stream, move_rows, prepare_rows, rows_refused,
)
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.rows cimport RowsJob
from fastlr._kernels.structs cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, MAX_DIMENSIONS, StepJob,
)
from fastlr.c_api cimport (
    FASTLR_BAD_DTYPE, FASTLR_BAD_HYPER, FASTLR_BAD_NAME, FASTLR_BAD_POINTER, FASTLR_BAD_SIZE, FASTLR_BAD_STRUCT,
    FASTLR_BAD_T, FASTLR_BFLOAT16, FASTLR_BUSY, FASTLR_FLOAT16, FASTLR_FLOAT32, FASTLR_FLOAT64, FASTLR_INT8,
    FASTLR_INT16, FASTLR_NO_MEMORY, FASTLR_NOT_BUILT, FASTLR_NOT_FINITE, FASTLR_OK, FASTLR_OVERLAP, FASTLR_REFUSED,
    FASTLR_UINT8, fastlr_array, fastlr_plan_info, fastlr_step_options, fastlr_tensor,
)

from fastlr import checkpoint
from fastlr._c_api.description import (
    Description, accumulate_in_order, allows_rows, read_value, require_optimizer, set_option, slots_of,
    step_with_curvature,
)
from fastlr._engine.arrays import BFloat16, stored_as
from fastlr._engine.instruction_set import one_build

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr._c_api.c_plan", build_id)

cdef extern from *:
    enum: PyBUF_WRITE

cdef int64_t MAX_STEPS = <int64_t>1 << 62
cdef dict DTYPES = {FASTLR_FLOAT32: "float32", FASTLR_FLOAT64: "float64", FASTLR_FLOAT16: "float16",
                    FASTLR_BFLOAT16: "bfloat16"}
cdef dict STORED_NAMES = {FLOAT32: "float32", FLOAT64: "float64", FLOAT16: "float16", BFLOAT16: "uint16"}
cdef dict CODES = {name: code for code, name in DTYPES.items()} | {
    "int8": FASTLR_INT8, "uint8": FASTLR_UINT8, "int16": FASTLR_INT16}


cdef class CPlan:
    """The plan of an optimizer's name, or of an optimizer that was made in Python."""

    def __init__(self, given):
        self.grad_dtypes, self.grad_strides, self.memory = [], [], Memory()
        if isinstance(given, str):
            self.description = Description(given)
            return
        require_optimizer(given)
        self.optimizer = given
        self.refresh()

    # Errors

    cdef int fail(self, int error, const char* text) noexcept nogil:
        snprintf(self.message, MESSAGE_SIZE, "%s", text)
        return error

    cdef int failed(self, object error):
        """Keep what Python says of an error; its number."""
        cdef bytes text = (str(error) or type(error).__name__).encode("utf-8", "replace")
        return self.fail(FASTLR_NO_MEMORY if isinstance(error, MemoryError) else
                         FASTLR_NOT_FINITE if isinstance(error, FloatingPointError) else FASTLR_REFUSED, text)

    # Before it steps, with Python

    cdef int option(self, int group, const char* name, const char* value) noexcept with gil:
        if name == NULL or value == NULL:
            return self.fail(FASTLR_BAD_POINTER, "plan_option: name and value must not be NULL")
        try:
            return self.set_in_python(group, name, read_value(value.decode()))
        except BaseException as error:
            return self.failed(error)

    cdef int set_in_python(self, int group, const char* name, object value):
        cdef str called = name.decode()
        if group < -1 or group >= 1 << 20:
            return self.fail(FASTLR_BAD_NAME, "group must be -1 for all, or the number of a group")
        if self.optimizer is not None and group >= <int>len(self.optimizer.groups) and self.description is None:
            return self.fail(FASTLR_BAD_NAME, "the optimizer has no group of this number")
        if self.optimizer is not None:
            self.synchronize()
        if self.description is not None:
            self.description.option(group, called, value)
        else:
            set_option(self.optimizer, group, called, value)
        if self.built:
            self.refresh()             # (there is another plan where a stage was set)
        return FASTLR_OK

    cdef int number_with_gil(self, int group, const char* name, double value) noexcept with gil:
        try:
            return self.set_in_python(group, name, value)
        except BaseException as error:
            return self.failed(error)

    cdef int schedule(self, int group, const char* name, PyObject* schedule) noexcept with gil:
        if name == NULL or schedule == NULL:
            return self.fail(FASTLR_BAD_POINTER, "plan_schedule: name and schedule must not be NULL")
        try:
            given = <object>schedule
            if not isinstance(given, CompiledSchedule) or (<CompiledSchedule>given).nodes == NULL:
                raise TypeError(f"plan_schedule: expected a schedule of fastlr.schedules, got {given!r}")
            return self.set_in_python(group, name, given)
        except BaseException as error:
            return self.failed(error)

    cdef int add(self, const fastlr_tensor* tensor) noexcept with gil:
        cdef fastlr_tensor given
        try:
            self.synchronize()
            if self.description is None:
                return self.fail(FASTLR_REFUSED, "plan_add: this plan's optimizer was made in Python; call its "
                                                 "add_group, then plan_build")
            if tensor == NULL or not read_struct(tensor, sizeof(fastlr_tensor), &given):
                return self.fail(FASTLR_BAD_STRUCT if tensor != NULL else FASTLR_BAD_POINTER,
                                 "plan_add: tensor must not be NULL, and have struct_size = sizeof(fastlr_tensor)")
            if given.dtype not in DTYPES or given.grad_dtype != 0 and given.grad_dtype not in DTYPES:
                return self.fail(FASTLR_BAD_DTYPE, "plan_add: dtype must be FASTLR_FLOAT16, _BFLOAT16, _FLOAT32 or "
                                                   "_FLOAT64, grad_dtype one of these or 0")
            if not 0 <= given.ndim <= MAX_DIMENSIONS or given.group < 0 or given.group >= 1 << 20:
                return self.fail(FASTLR_BAD_SIZE, "plan_add: ndim must be in [0, 64], and group >= 0")
            if given.ndim and given.shape == NULL:
                return self.fail(FASTLR_BAD_POINTER, "plan_add: shape must not be NULL")
            return self.add_array(&given)
        except BaseException as error:
            return self.failed(error)

    cdef int build(self) noexcept with gil:
        try:
            if self.description is not None:
                if self.optimizer is not None:
                    self.synchronize()
                self.optimizer = self.description.build()
            self.refresh()
            return FASTLR_OK
        except BaseException as error:
            return self.failed(error)

    cdef int save(self, const char* path) noexcept with gil:
        try:
            if self.optimizer is None:
                return self.fail(FASTLR_NOT_BUILT, "plan_save: call plan_build first")
            if path == NULL:
                return self.fail(FASTLR_BAD_POINTER, "plan_save: path must not be NULL")
            self.synchronize()
            checkpoint.save(path.decode(), self.optimizer)
            return FASTLR_OK
        except BaseException as error:
            return self.failed(error)

    cdef int place_state(self, int64_t k, const char* slot, void* memory, bint take) noexcept with gil:
        cdef int itemsize
        try:
            if slot == NULL or memory == NULL:
                return self.fail(FASTLR_BAD_POINTER, "plan_place_state: slot and memory must not be NULL")
            if not self.built:
                return self.fail(FASTLR_NOT_BUILT, "plan_place_state: call plan_build first, and again after plan_add")
            if not 0 <= k < self.gradients.count:
                return self.fail(FASTLR_BAD_NAME, "plan_place_state: there is no tensor of this number")
            tensor = self.plan.layout.tensors[self.gradients.place[k]].name
            called = slot.decode()
            present = self.optimizer.state[tensor].get(called)
            if present is None:
                return self.fail(FASTLR_BAD_NAME, "plan_place_state: the tensor has no slot of this name; plan_slot "
                                                  "has all")
            itemsize = present.itemsize
            if <uintptr_t>memory % <size_t>itemsize:
                return self.fail(FASTLR_BAD_POINTER, "plan_place_state: memory must be aligned to the slot's elements")
            self.synchronize()
            if present.size:
                bytes = PyMemoryView_FromMemory(<char*>memory, <Py_ssize_t>present.nbytes, PyBUF_WRITE)
                array = np.ndarray(present.shape, present.dtype, bytes, 0, present.strides)
                self.optimizer.place_state({tensor: {called: array}}, take=take)
                self.refresh()
            return FASTLR_OK
        except BaseException as error:
            return self.failed(error)

    cdef int load(self, const char* path) noexcept with gil:
        try:
            if self.optimizer is None:
                return self.fail(FASTLR_NOT_BUILT, "plan_load: call plan_build first")
            if path == NULL:
                return self.fail(FASTLR_BAD_POINTER, "plan_load: path must not be NULL")
            self.synchronize()
            checkpoint.load(path.decode(), self.optimizer)
            self.refresh()
            return FASTLR_OK
        except BaseException as error:
            return self.failed(error)

    cdef int refresh(self) except -1:
        """Read all that steps need of the optimizer as it is now."""
        cdef Plan plan = self.optimizer._plan
        cdef Py_ssize_t k
        self.built = False
        self.kept, self.memory = [], Memory()
        if plan.matrix_step is not None and plan.matrix_step.calls_python:
            raise ValueError(f"{plan.layout.caller}: an update of these tensors needs products of matrices that are "
                             f"made in Python; step it from Python")
        order = list(range(plan.layout.count))
        if self.description is not None:
            numbers = {tensor.name: i for i, tensor in enumerate(plan.layout.tensors)}
            order = [numbers[name] for name, _, _ in self.description.tensors]
        dtypes = [dtype or stored_as(plan.layout.tensors[i].array)
                  for i, dtype in zip(order, self.grad_dtypes or [None] * len(order), strict=True)]
        self.gradients = PointerGradients(plan.layout, order, dtypes, self.grad_strides or [None] * len(order))
        self.plan = plan
        self.needs_loss, self.needs_curvature = self.optimizer.needs_loss, self.optimizer.needs_curvature
        self.names = <const char**>self.memory.take(plan.scalars.width, sizeof(char*))
        for k, name in enumerate(plan.scalars.names):
            self.names[k] = self.text(name)
        self.changed = <bint*>self.memory.take(plan.scalars.group_count * plan.scalars.width, sizeof(bint))
        self.read_slots()
        self.allows_rows = allows_rows(self.optimizer)
        if self.allows_rows:
            self.read_rows()
        plan.clipping.find_task()
        thread_pool.prepare_for(plan.layout.elements)
        self.built = True
        return 0

    cdef int read_slots(self) except -1:
        """Read where the state is."""
        cdef Py_ssize_t i, k, next = 0
        cdef Slot* slot
        cdef ArrayView view
        cdef list found = slots_of(self.optimizer)
        cdef Py_ssize_t count = self.gradients.count
        self.first_slot = <Py_ssize_t*>self.memory.take(count + 2, sizeof(Py_ssize_t))
        self.slots = <Slot*>self.memory.take(sum(map(len, found)), sizeof(Slot))
        for k in range(count + 1):
            i = self.gradients.place[k] if k < count else count
            for name, array in found[i].items():
                read_array(array, &view)
                slot = &self.slots[next]
                slot.name = self.text(name)
                slot.array.dtype, slot.array.data, slot.array.ndim = CODES[stored_as(array)], view.data, view.ndim
                slot.array.shape = self.numbers(array.shape)
                slot.array.strides = self.numbers(array.strides)
                self.kept.append(array)
                next += 1
            self.first_slot[k + 1] = next
        return 0

    cdef int read_rows(self) except -1:
        """Read where rows are."""
        cdef Plan plan = self.plan
        cdef Py_ssize_t i
        cdef int k
        prepare_rows(plan)
        self.row_arrays = <RowArrays*>self.memory.take(plan.layout.count, sizeof(RowArrays))
        for i, tensor in enumerate(plan.layout.tensors):
            read_array(tensor.array, &self.row_arrays[i].param)
            for k in range(plan.layout.slots):
                read_array(tensor.state[k], &self.row_arrays[i].slot[k])
            if plan.layout.views[i].ema != NULL:
                read_array(tensor.state[plan.layout.slots], &self.row_arrays[i].ema)
            if tensor.lr_scales is not None:
                read_array(tensor.lr_scales, &self.row_arrays[i].lr_factors)
        return 0

    cdef int synchronize(self) except -1:
        """Let Python see the numbers that were set without it."""
        cdef Py_ssize_t group, k, width
        if not self.built:
            return 0
        width = self.plan.scalars.width
        for group in range(self.plan.scalars.group_count):
            for k in range(width):
                if self.changed[group * width + k]:
                    self.plan.scalars.schedules.pop((group, k), None)
                    self.optimizer.groups[group]._values[self.plan.scalars.names[k]] = \
                        self.plan.scalars.values[group * width + k]
                    self.changed[group * width + k] = False
        return 0

    cdef const char* text(self, str given) except NULL:
        """UTF-8 that stays as long as what was read."""
        cdef bytes encoded = given.encode("utf-8", "replace")
        self.kept.append(encoded)
        return encoded

    cdef const int64_t* numbers(self, given) except NULL:
        cdef int64_t* copy = <int64_t*>self.memory.take(len(given) + 1, sizeof(int64_t))
        cdef Py_ssize_t k
        for k, n in enumerate(given):
            copy[k] = n
        return copy

    cdef int add_array(self, const fastlr_tensor* tensor) except -1:
        """Keep a tensor, as an array over the caller's memory, and how its gradients are laid out."""
        cdef str dtype = DTYPES[tensor.dtype], grad_dtype = DTYPES.get(tensor.grad_dtype, dtype)
        cdef int itemsize = np.dtype(dtype if dtype != "bfloat16" else "uint16").itemsize
        cdef int grad_itemsize = np.dtype(grad_dtype if grad_dtype != "bfloat16" else "uint16").itemsize
        cdef str name = tensor.name.decode() if tensor.name != NULL else None
        cdef size_t below = 0, extent = itemsize
        shape = [tensor.shape[k] for k in range(tensor.ndim)]
        if any([n < 0 for n in shape]):
            return self.fail(FASTLR_BAD_SIZE, "plan_add: shape must be >= 0")
        strides = read_strides(tensor.strides, shape, itemsize)
        grad_strides = read_strides(tensor.grad_strides, shape, grad_itemsize)
        size, span, grad_span = 1, itemsize, grad_itemsize
        for n, step, grad_step in zip(shape, strides, grad_strides, strict=True):
            if step % itemsize or grad_step % grad_itemsize:
                return self.fail(FASTLR_BAD_SIZE, "plan_add: strides are in bytes, and multiples of an element's size")
            size *= n
            span += abs(step) * max(n - 1, 0)
            grad_span += abs(grad_step) * max(n - 1, 0)
        if max(span, grad_span, size * 8) >= 1 << 62:
            return self.fail(FASTLR_BAD_SIZE, "plan_add: the tensor reaches over more bytes than there can be")
        if size and tensor.data == NULL or <uintptr_t>tensor.data % <size_t>itemsize:
            return self.fail(FASTLR_BAD_POINTER, "plan_add: data must not be NULL, and be aligned to its elements")
        stored = "uint16" if dtype == "bfloat16" else dtype
        if size:
            below = sum([-step * (n - 1) for n, step in zip(shape, strides, strict=True) if step < 0])
            extent = span
            if <uintptr_t>tensor.data < below or <uintptr_t>tensor.data - below > <uintptr_t>(-1) - extent:
                return self.fail(FASTLR_BAD_SIZE, "plan_add: the tensor reaches over more bytes than there can be")
            memory = PyMemoryView_FromMemory(<char*>tensor.data - below, <Py_ssize_t>extent, PyBUF_WRITE)
            array = np.ndarray(shape, stored, memory, below, strides)
        else:
            array = np.empty(shape, stored)
        self.description.add(name, array.view(BFloat16) if dtype == "bfloat16" else array, tensor.group)
        self.grad_dtypes.append(grad_dtype)
        self.grad_strides.append(grad_strides if tensor.grad_strides != NULL else None)
        self.built = False
        return FASTLR_OK

    # Steps, without Python

    cdef int step(self, const void* const* gradients, const fastlr_step_options* options) noexcept nogil:
        cdef int error
        cdef fastlr_step_options read
        if not self.built:
            return self.fail(FASTLR_NOT_BUILT, "plan_step: call plan_build first, and again after plan_add")
        if gradients == NULL:
            return self.fail(FASTLR_BAD_POINTER, "plan_step: gradients must not be NULL; of a tensor without, its "
                                                 "pointer is")
        error = self.read_options(options, &read)
        if error != FASTLR_OK:
            return error
        if not take_flag(&self.plan.stepping):
            return self.busy()
        error = self.step_alone(gradients, &read)
        give_flag(&self.plan.stepping)
        return error

    cdef int busy(self) noexcept nogil:
        return self.fail(FASTLR_BUSY, "the optimizer is stepping in Python, or a stage or a group of it was set there: "
                                      "then call plan_build")

    cdef int step_alone(self, const void* const* gradients, const fastlr_step_options* options) noexcept nogil:
        cdef StepJob job = self.plan.job
        cdef Py_ssize_t wrong = 0
        cdef Fault fault = self.gradients.read(gradients, options.zero_grads, &wrong)
        cdef Verdict verdict
        cdef int error
        if fault != NO_FAULT:
            return self.bad_gradient("gradient", fault, wrong)
        for wrong in range(self.gradients.count if self.needs_curvature else 0):
            if gradients[wrong] != NULL and \
                    self.plan.scalars.skipped_steps[self.gradients.place[wrong]] >= self.plan.t:
                return self.no_curvature(wrong)
        error = self.evaluate()
        if error != FASTLR_OK:
            return error
        job.gradients, job.zero_grads = self.gradients.views, options.zero_grads
        verdict = self.plan.advance(&job, options.grad_scale, options.loss)
        if verdict == REFUSED:
            return self.not_finite(self.plan.clipping.refused)
        if verdict == NO_MEMORY:
            return self.fail(FASTLR_NO_MEMORY, "out of memory")
        if options.zero_grads and (verdict == SKIPPED or self.plan.matrix_step is not None):
            self.gradients.set_to_zero()
        return FASTLR_OK

    cdef int not_finite(self, Py_ssize_t i) noexcept nogil:
        cdef Py_ssize_t k
        for k in range(self.gradients.count):
            if self.gradients.place[k] == i:
                snprintf(self.message, MESSAGE_SIZE, "gradient %lld holds NaN or infinity at t = %lld; nothing was "
                         "changed", <long long>k, <long long>self.plan.t)
        return FASTLR_NOT_FINITE

    cdef int no_curvature(self, Py_ssize_t k) noexcept nogil:
        snprintf(self.message, MESSAGE_SIZE, "tensor %lld has its first gradient in this step, and its curvature was "
                 "never estimated; use plan_step_curvature", <long long>k)
        return FASTLR_REFUSED

    cdef int bad_gradient(self, const char* noun, Fault fault, Py_ssize_t k) noexcept nogil:
        cdef const char* what
        if fault == MISALIGNED:
            what = "is not aligned to its elements"
        elif fault == OVERLAPS:
            what = "shares memory with a parameter or its state, which the step writes; pass a copy"
        elif fault == SHARED:
            what = "shares memory with another one, and zero_grads would set it to zero before it is read"
        else:
            what = "has elements that share memory, and zero_grads would set them to zero before they are read"
        snprintf(self.message, MESSAGE_SIZE, "%s %lld %s", noun, <long long>k, what)
        return FASTLR_BAD_POINTER if fault == MISALIGNED else FASTLR_OVERLAP

    cdef int read_options(self, const fastlr_step_options* options, fastlr_step_options* read) noexcept nogil:
        """Read the options of a step, or an error."""
        memset(read, 0, sizeof(fastlr_step_options))
        read.loss = NAN
        if options != NULL and not read_struct(options, sizeof(fastlr_step_options), read):
            return self.fail(FASTLR_BAD_STRUCT, "options must have struct_size = sizeof(fastlr_step_options)")
        if read.grad_scale == 0:
            read.grad_scale = 1
        if not self.plan.layout.min_grad_scale <= read.grad_scale <= self.plan.layout.max_grad_scale \
                or not read.grad_scale < INFINITY:
            snprintf(self.message, MESSAGE_SIZE, "grad_scale must be in [%.3g, %.3g], where its inverse is a normal "
                     "number, got %g", self.plan.layout.min_grad_scale, self.plan.layout.max_grad_scale,
                     read.grad_scale)
            return FASTLR_BAD_HYPER
        if self.needs_loss and not -INFINITY < read.loss < INFINITY:
            return self.fail(FASTLR_BAD_HYPER, "a step of this optimizer needs options with the loss where the "
                                               "gradients were taken, a finite number")
        return FASTLR_OK

    cdef int evaluate(self) noexcept nogil:
        """Set the values of all schedules, or an error."""
        cdef Py_ssize_t k
        if self.plan.scalars.callables:
            return self.fail(FASTLR_REFUSED, "a hyper-parameter was given a function of Python, which C does not call; "
                                             "use a schedule of fastlr.schedules, or set a number before each step")
        k = self.plan.scalars.evaluate_nodes(self.plan.t)
        if k >= 0:
            return self.bad_value(<int>(k % self.plan.scalars.width), self.plan.scalars.nodes_gave, "its schedule gave")
        if self.plan.scalars.corrected:
            k = self.plan.scalars.rate_above_peak()
            if k >= 0:
                snprintf(self.message, MESSAGE_SIZE, "decay='corrected': lr of group %d is %g at t = %lld, above "
                         "lr_max = %g; give the largest as lr_max", <int>k,
                         self.plan.scalars.values[k * self.plan.scalars.width], <long long>self.plan.t,
                         self.plan.scalars.max_lrs[k])
                return FASTLR_BAD_HYPER
        return FASTLR_OK

    cdef int bad_value(self, int index, double value, const char* how) noexcept nogil:
        snprintf(self.message, MESSAGE_SIZE, "%s must be in [%g, %g), %s %g", self.names[index],
                 self.plan.scalars.low[index], self.plan.scalars.high[index], how, value)
        return FASTLR_BAD_HYPER

    cdef int step_rows(self, int64_t k, int64_t n, const int64_t* rows, const void* gradients, bint ends_step,
                       const fastlr_step_options* options) noexcept nogil:
        cdef int error
        cdef fastlr_step_options read
        if not self.built:
            return self.fail(FASTLR_NOT_BUILT, "plan_step_rows: call plan_build first, and again after plan_add")
        if not 0 <= k < self.gradients.count:
            return self.fail(FASTLR_BAD_NAME, "plan_step_rows: there is no tensor of this number")
        if not 0 <= n < MAX_ROWS:
            return self.fail(FASTLR_BAD_SIZE, "plan_step_rows: n must be in [0, 2**30)")
        if n and (rows == NULL or gradients == NULL):
            return self.fail(FASTLR_BAD_POINTER, "plan_step_rows: rows and gradients must not be NULL")
        error = self.read_options(options, &read)
        if error != FASTLR_OK:
            return error
        if read.zero_grads or not self.allows_rows:
            return self.fail(FASTLR_REFUSED, "plan_step_rows: does not set gradients to zero" if read.zero_grads else
                             "plan_step_rows: a step of this rule depends on more than an element's gradient; use "
                             "plan_step")
        if not take_flag(&self.plan.stepping):
            return self.busy()
        error = self.step_rows_alone(self.gradients.place[k], n, rows, gradients, ends_step, read.grad_scale)
        give_flag(&self.plan.stepping)
        return error

    cdef int step_rows_alone(self, Py_ssize_t i, Py_ssize_t n, const int64_t* rows, const void* gradients,
                             bint ends_step, double grad_scale) noexcept nogil:
        cdef RowsJob job
        cdef RowLayouts layouts
        cdef ArrayView view = self.gradients.arrays[i]
        cdef Py_ssize_t[MAX_DIMENSIONS] shape
        cdef Py_ssize_t[MAX_DIMENSIONS] strides
        cdef char[MAX_REASON] reason
        cdef Py_ssize_t bad, length = view.itemsize
        cdef Verdict verdict
        cdef int axis, error
        if rows_refused(self.plan, i, reason):
            return self.fail(FASTLR_REFUSED, reason)
        if self.needs_curvature and self.plan.scalars.skipped_steps[i] >= self.plan.t:
            return self.fail(FASTLR_REFUSED, "plan_step_rows: the tensor's curvature was never estimated; begin with "
                                             "plan_step_curvature, with zeros for rows that are not touched")
        lay_out_rows(self.plan, i, &job, &layouts, &self.row_arrays[i])
        if job.width and n > (<Py_ssize_t>1 << 60) // job.width:
            return self.fail(FASTLR_BAD_SIZE, "plan_step_rows: there cannot be as many gradients")
        bad = self.plan.row_index.read_indices(rows, n, view.shape[0], job.width)
        if bad >= 0:
            snprintf(self.message, MESSAGE_SIZE, "rows must be in [0, %lld), got %lld at position %lld",
                     <long long>view.shape[0], <long long>self.plan.row_index.indices[bad], <long long>bad)
            return FASTLR_BAD_SIZE
        if bad == NO_ROOM:
            return self.fail(FASTLR_NO_MEMORY, "out of memory")
        for axis in range(view.ndim - 1, -1, -1):          # (a row for each of n, contiguous)
            shape[axis], strides[axis] = view.shape[axis] if axis else n, length
            length *= shape[axis]
        view.data, view.shape, view.strides, view.flags = <char*>gradients, shape, strides, ALIGNED | C_CONTIGUOUS
        if <uintptr_t>gradients % <size_t>view.itemsize:
            return self.fail(FASTLR_BAD_POINTER, "plan_step_rows: gradients must be aligned to their elements")
        if self.gradients.overlapping(&view):
            return self.fail(FASTLR_OVERLAP, "plan_step_rows: gradients share memory with a parameter or its state, "
                                             "which the step writes; pass a copy")
        lay_out_stream(&job.g, &layouts.gradient, &view)
        error = self.evaluate()
        if error != FASTLR_OK:
            return error
        verdict = move_rows(self.plan, i, &job, grad_scale, ends_step)
        if verdict == REFUSED:
            return self.not_finite(i)
        return FASTLR_OK if verdict != NO_MEMORY else self.fail(FASTLR_NO_MEMORY, "out of memory")

    # Steps by means of the class, with Python

    cdef int accumulate(self, const void* const* gradients, const fastlr_step_options* options) noexcept with gil:
        cdef fastlr_step_options read
        cdef int error
        try:
            error = self.read_step("plan_accumulate", gradients, options, &read)
            if error == FASTLR_OK:
                accumulate_in_order(self.optimizer, self.arrays_at(gradients), read.grad_scale, read.zero_grads != 0)
            return error
        except BaseException as failure:
            return self.failed(failure)

    cdef int step_curvature(self, const void* const* gradients, const void* const* curvature,
                            const fastlr_step_options* options) noexcept with gil:
        cdef fastlr_step_options read
        cdef Py_ssize_t wrong = 0
        cdef Fault fault
        cdef int error
        try:
            error = self.read_step("plan_step_curvature", gradients, options, &read)
            if error != FASTLR_OK:
                return error
            if not self.needs_curvature:
                return self.fail(FASTLR_REFUSED, "plan_step_curvature: this optimizer is given no estimates of the "
                                                 "curvature; use plan_step")
            if curvature == NULL:
                return self.fail(FASTLR_BAD_POINTER, "plan_step_curvature: curvature must not be NULL; use plan_step "
                                                     "where no tensor has an estimate")
            fault = self.gradients.read(curvature, False, &wrong)
            if fault != NO_FAULT:
                return self.bad_gradient("curvature", fault, wrong)
            step_with_curvature(self.optimizer, self.arrays_at(gradients), self.arrays_at(curvature), read.grad_scale,
                                read.zero_grads != 0)
            return FASTLR_OK
        except BaseException as failure:
            return self.failed(failure)

    cdef int read_step(self, str function, const void* const* gradients, const fastlr_step_options* options,
                       fastlr_step_options* read) except -1:
        """Check what a step by means of the class is given, and let Python see the present numbers."""
        cdef Py_ssize_t wrong = 0
        cdef Fault fault
        cdef int error
        if not self.built:
            return self.fail(FASTLR_NOT_BUILT, f"{function}: call plan_build first, and again after plan_add".encode())
        if gradients == NULL:
            return self.fail(FASTLR_BAD_POINTER, f"{function}: gradients must not be NULL; of a tensor without, its "
                                                 f"pointer is".encode())
        error = self.read_options(options, read)
        if error != FASTLR_OK:
            return error
        if not take_flag(&self.plan.stepping):             # (the class would raise; this is the number of it)
            return self.busy()
        fault = self.gradients.read(gradients, read.zero_grads != 0, &wrong)
        give_flag(&self.plan.stepping)
        if fault != NO_FAULT:
            return self.bad_gradient("gradient", fault, wrong)
        self.synchronize()
        return FASTLR_OK

    cdef list arrays_at(self, const void* const* pointers):
        """Arrays over the memory of gradients, or None, in the order of the layout's tensors."""
        cdef Py_ssize_t k, i
        cdef int axis
        cdef char* low
        cdef char* high
        cdef ArrayView view
        cdef list found = [None] * self.gradients.count
        for k in range(self.gradients.count):
            if pointers[k] == NULL:
                continue
            i = self.gradients.place[k]
            view = self.gradients.arrays[i]
            view.data = <char*>pointers[k]
            memory_range(&view, &low, &high)
            dtype = STORED_NAMES[view.stored]
            shape = tuple([view.shape[axis] for axis in range(view.ndim)])
            strides = tuple([view.strides[axis] for axis in range(view.ndim)])
            if low == high:
                array = np.empty(shape, dtype)
            else:
                memory = PyMemoryView_FromMemory(low, high - low, PyBUF_WRITE)
                array = np.ndarray(shape, dtype, memory, view.data - low, strides)
            found[i] = array.view(BFloat16) if view.stored == BFLOAT16 else array
        return found

    # Numbers, without Python

    cdef int index(self, const char* name) noexcept nogil:
        """Which of a group's values has this name, or -1."""
        cdef int k
        for k in range(self.plan.scalars.width):
            if strcmp(self.names[k], name) == 0:
                return k
        return -1

    cdef int number(self, int group, const char* name, double value) noexcept nogil:
        cdef int k, g
        cdef Py_ssize_t place
        if name == NULL:
            return self.fail(FASTLR_BAD_POINTER, "plan_set: name must not be NULL")
        k = self.index(name) if self.built else -1
        if k < 0 or self.description is None or self.plan.scalars.corrected:
            return self.number_with_gil(group, name, value)
        if not -1 <= group < self.plan.scalars.group_count:
            return self.fail(FASTLR_BAD_NAME, "plan_set: there is no group of this number")
        if not self.plan.scalars.low[k] <= value < self.plan.scalars.high[k]:
            return self.bad_value(k, value, "got")
        for g in range(self.plan.scalars.group_count):
            if group == -1 or g == group:
                place = g * self.plan.scalars.width + k
                self.plan.scalars.values[place], self.plan.scalars.nodes[place], self.changed[place] = value, NULL, True
        return FASTLR_OK

    cdef int value(self, int group, const char* name, double* value) noexcept nogil:
        cdef int k
        if name == NULL or value == NULL:
            return self.fail(FASTLR_BAD_POINTER, "plan_get: name and value must not be NULL")
        if not self.built:
            return self.fail(FASTLR_NOT_BUILT, "plan_get: call plan_build first")
        k = self.index(name)
        if k < 0 or not 0 <= group < self.plan.scalars.group_count:
            return self.fail(FASTLR_BAD_NAME, "plan_get: there is no such hyper-parameter, or no group of this number")
        value[0] = self.plan.scalars.values[group * self.plan.scalars.width + k]
        return FASTLR_OK

    cdef int info(self, fastlr_plan_info* info) noexcept nogil:
        cdef fastlr_plan_info known
        if info == NULL:
            return self.fail(FASTLR_BAD_POINTER, "plan_info: info must not be NULL")
        if not sized(info.struct_size, sizeof(fastlr_plan_info)):
            return self.fail(FASTLR_BAD_STRUCT, "plan_info: info must have struct_size = sizeof(fastlr_plan_info)")
        if not self.built:
            return self.fail(FASTLR_NOT_BUILT, "plan_info: call plan_build first, and again after plan_add")
        memset(&known, 0, sizeof(known))
        known.struct_size, known.groups = info.struct_size, self.plan.scalars.group_count
        known.tensors, known.elements = self.plan.layout.count, self.plan.layout.elements
        known.t, known.skipped, known.grad_norm = self.plan.t, self.plan.skipped, self.plan.clipping.grad_norm
        if known.grad_norm == not_measured():
            known.grad_norm = NAN
        memcpy(info, &known, min(<size_t>info.struct_size, sizeof(known)))
        return FASTLR_OK

    # State, without Python

    cdef const char* slot_name(self, int64_t k, int64_t j) noexcept nogil:
        if not self.built or not -1 <= k < self.gradients.count:
            return NULL
        k = self.gradients.count if k < 0 else k
        if not 0 <= j < self.first_slot[k + 1] - self.first_slot[k]:
            return NULL
        return self.slots[self.first_slot[k] + j].name

    cdef int state(self, int64_t k, const char* name, fastlr_array* array) noexcept nogil:
        cdef Py_ssize_t j
        cdef fastlr_array found
        if array == NULL or name == NULL:
            return self.fail(FASTLR_BAD_POINTER, "plan_state: slot and array must not be NULL")
        if not sized(array.struct_size, sizeof(fastlr_array)):
            return self.fail(FASTLR_BAD_STRUCT, "plan_state: array must have struct_size = sizeof(fastlr_array)")
        if not self.built:
            return self.fail(FASTLR_NOT_BUILT, "plan_state: call plan_build first, and again after plan_add")
        if not -1 <= k < self.gradients.count:
            return self.fail(FASTLR_BAD_NAME, "plan_state: there is no tensor of this number")
        k = self.gradients.count if k < 0 else k
        for j in range(self.first_slot[k], self.first_slot[k + 1]):
            if strcmp(self.slots[j].name, name) == 0:
                found = self.slots[j].array
                found.struct_size = array.struct_size
                memcpy(array, &found, min(<size_t>array.struct_size, sizeof(found)))
                return FASTLR_OK
        return self.fail(FASTLR_BAD_NAME, "plan_state: the tensor has no slot of this name; plan_slot has all")

    cdef int clock(self, int64_t* t, int64_t* skipped_steps) noexcept nogil:
        cdef Py_ssize_t k
        if t == NULL:
            return self.fail(FASTLR_BAD_POINTER, "plan_clock: t must not be NULL")
        if not self.built:
            return self.fail(FASTLR_NOT_BUILT, "plan_clock: call plan_build first")
        t[0] = self.plan.t
        if skipped_steps != NULL:
            for k in range(self.gradients.count):
                skipped_steps[k] = self.plan.scalars.skipped_steps[self.gradients.place[k]]
        return FASTLR_OK

    cdef int set_clock(self, int64_t t, const int64_t* skipped_steps) noexcept nogil:
        cdef Py_ssize_t k, i
        cdef int64_t skipped
        if not self.built:
            return self.fail(FASTLR_NOT_BUILT, "plan_set_clock: call plan_build first")
        if not 0 <= t < MAX_STEPS:
            return self.fail(FASTLR_BAD_T, "plan_set_clock: t must be in [0, 2**62)")
        for k in range(self.gradients.count):
            if skipped_steps != NULL and not 0 <= skipped_steps[k] <= t:
                return self.fail(FASTLR_BAD_T, "plan_set_clock: each of skipped_steps must be in [0, t]")
        if not take_flag(&self.plan.stepping):
            return self.busy()
        self.plan.t = t
        for k in range(self.gradients.count):
            i, skipped = self.gradients.place[k], skipped_steps[k] if skipped_steps != NULL else 0
            self.plan.scalars.skip(i, skipped - self.plan.scalars.skipped_steps[i])
        self.plan.scalars.stale = True
        give_flag(&self.plan.stepping)
        return FASTLR_OK


cdef bint sized(uint32_t size, size_t own) noexcept nogil:
    """Whether a struct has its size, as some version of this table has it: at least its first member and a half."""
    return 8 <= size and (size <= own or size < 4096) and size % 4 == 0


cdef bint read_struct(const void* given, size_t size, void* into) noexcept nogil:
    """Read a struct that begins with its own size, as far as it has what is known here; False if it cannot be one."""
    cdef uint32_t own = (<const uint32_t*>given)[0]
    if not sized(own, size):
        return False
    memcpy(into, given, min(<size_t>own, size))
    return True


cdef list read_strides(const int64_t* given, list shape, int itemsize):
    """Strides in bytes; of a contiguous array if none are given."""
    cdef Py_ssize_t k
    strides = [0] * len(shape)
    length = itemsize
    for k in range(len(shape) - 1, -1, -1):
        strides[k] = length if given == NULL else given[k]
        length *= shape[k]
    return strides
