# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A plan as C has it: its optimizer, what steps read of that without Python, and the words of its latest error."""
from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.string cimport strcmp
from fastlr._c_api.handles cimport MESSAGE_SIZE
from fastlr._c_api.pointer_gradients cimport PointerGradients
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._engine.arrays cimport ArrayView, read_array
from fastlr._engine.memory cimport Memory
from fastlr._engine.plan cimport Plan
from fastlr._engine.rows cimport RowArrays, prepare_rows
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.c_api cimport (
    FASTLR_BAD_HYPER, FASTLR_BFLOAT16, FASTLR_BUSY, FASTLR_FLOAT16, FASTLR_FLOAT32, FASTLR_FLOAT64, FASTLR_INT8,
    FASTLR_INT16, FASTLR_NO_MEMORY, FASTLR_NOT_FINITE, FASTLR_REFUSED, FASTLR_UINT8,
)

from fastlr._c_api.description import Description, allows_rows, require_optimizer, slots_of
from fastlr._engine.arrays import stored_as
from fastlr._engine.instruction_set import one_build

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr._c_api.c_plan", build_id)

#: What C calls the types of parameters and gradients, and of all that a state consists of.
DTYPES = {FASTLR_FLOAT32: "float32", FASTLR_FLOAT64: "float64", FASTLR_FLOAT16: "float16", FASTLR_BFLOAT16: "bfloat16"}
CODES = {name: code for code, name in DTYPES.items()} | {
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

    cdef int busy(self) noexcept nogil:
        return self.fail(FASTLR_BUSY, "the optimizer is stepping in Python, or a stage or a group of it was set there: "
                                      "then call plan_build")

    cdef int bad_value(self, int index, double value, const char* how) noexcept nogil:
        snprintf(self.message, MESSAGE_SIZE, "%s must be in [%g, %g), %s %g", self.names[index],
                 self.engine.scalars.low[index], self.engine.scalars.high[index], how, value)
        return FASTLR_BAD_HYPER

    # What is read of the optimizer

    cdef int refresh(self) except -1:
        """Read all that steps need of the optimizer as it is now."""
        cdef Plan plan = self.optimizer._plan
        cdef Py_ssize_t k
        self.built = False
        self.kept, self.memory = [], Memory()
        if plan.matrix_step is not None and plan.matrix_step.calls_python:
            raise ValueError(f"{plan.layout.caller}: an update of these tensors needs products of matrices that are "
                             f"made in Python; step it from Python")
        if plan.matrix_step is not None and plan.layout.measures:
            raise ValueError(f"{plan.layout.caller}: a step from C does not measure an update of matrices; call "
                             f"measure(False), or step it from Python")
        plan.refuse_replaced()
        order = list(range(plan.layout.count))
        if self.description is not None:
            numbers = {tensor.name: i for i, tensor in enumerate(plan.layout.tensors)}
            order = [numbers[name] for name, _, _ in self.description.tensors]
        dtypes = [dtype or stored_as(plan.layout.tensors[i].array)
                  for i, dtype in zip(order, self.grad_dtypes or [None] * len(order), strict=True)]
        self.gradients = PointerGradients(plan.layout, order, dtypes, self.grad_strides or [None] * len(order))
        self.engine = plan
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
        cdef Plan plan = self.engine
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

    cdef int index(self, const char* name) noexcept nogil:
        """Which of a group's values has this name, or -1."""
        cdef int k
        for k in range(self.engine.scalars.width):
            if strcmp(self.names[k], name) == 0:
                return k
        return -1

    # What is written back

    cdef int synchronize(self) except -1:
        """Let Python see the numbers that were set without it."""
        cdef Py_ssize_t group, k, width
        if not self.built:
            return 0
        width = self.engine.scalars.width
        for group in range(self.engine.scalars.group_count):
            for k in range(width):
                if self.changed[group * width + k]:
                    self.engine.scalars.schedules.pop((group, k), None)
                    self.optimizer.groups[group]._values[self.engine.scalars.names[k]] = \
                        self.engine.scalars.values[group * width + k]
                    self.changed[group * width + k] = False
        return 0
