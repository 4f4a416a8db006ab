# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The driver of matrix rules: it takes each tensor's rule through its phases, and knows none of them by name.

The plan reads, checks and clips gradients, as for every rule. A rule comes as a `MatrixRuleTable` (rule_table.pxd):
what it does to a block, and what it decides between two phases. Small tensors go through all phases in one thread,
several threads at a time; a large one phase by phase, its blocks shared out. A rule without a table is a Python
function that makes the update of a whole tensor; a table may leave a part of its large tensors' updates to that
function.

What Python does may fail: no memory, an interrupt, a decomposition that does not converge. So all updates that need it
are made, and kept, before the first of them is written; what is written after that cannot fail.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._engine.arrays cimport ArrayView, read_array
from fastlr._engine.memory cimport Memory, Workspace
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.rows cimport RowsJob
from fastlr._kernels.structs cimport FLOAT32, FLOAT64, GradientView, ScalarGroup, StepJob, TensorOps, TensorView
from fastlr._matrix.rule_table cimport (
    BLOCK_SIZE, LONGEST_ROW, MATRIX_TABLE_VERSION, MAX_PHASES, MAX_ROW_BLOCKS, MAX_SETTINGS, PER_AXIS, PER_COLUMN,
    PER_ELEMENT, PER_ROW, PER_ROW_NARROW, WHOLE_SIZE, MatrixBlock, MatrixRuleTable, MatrixTensor,
)

import numpy as np

build_id = FASTLR_LAYOUT.decode()

cdef extern from *:
    """
    #include <stdatomic.h>
    /* The first of some workspaces that no thread uses. (There are as many as threads that come at a time.) */
    static int fastlr_claim_workspace(atomic_int *in_use, int count) {
        for (int k = 0;; k = k + 1 < count ? k + 1 : 0)
            if (!atomic_exchange(&in_use[k], 1))
                return k;
    }
    """
    ctypedef int flag "atomic_int"
    int claim_workspace "fastlr_claim_workspace"(flag* in_use, int count) nogil
    void store "atomic_store"(flag* in_use, int value) nogil
    enum: PyBUF_READ, PyBUF_WRITE

cdef enum:
    SERIAL_SIZE = 16384        # small tensors of fewer elements wake no thread
    MAX_WORKSPACES = 256       # threads that go through whole tensors at a time; a thread's own stack may be small

cdef struct MatrixContext:
    # What the tasks of one step share.
    const TensorOps* ops
    MatrixTensor* tensors
    const Py_ssize_t* order
    const Py_ssize_t* task_ends
    MatrixTensor* current      # the large tensor whose phase it is
    int phase
    char* workspaces
    size_t workspace_size
    int workspace_count
    flag[MAX_WORKSPACES] in_use
    size_t scratch_size, updates_size      # bytes that the step's large tensors need


cdef inline Py_ssize_t item_size(const MatrixTensor* tensor) noexcept nogil:
    return 8 if tensor.is_double else 4


# Blocks

cdef void aim_block(const MatrixTensor* tensor, Py_ssize_t k, MatrixBlock* block) noexcept nogil:
    """Where block k of a tensor is, and its part of everything."""
    cdef Py_ssize_t item = item_size(tensor)
    cdef Py_ssize_t factor = 8 if tensor.rule != NULL and tensor.rule.double_factors else item
    cdef Py_ssize_t col_block = k % tensor.col_blocks, row_block = k // tensor.col_blocks % tensor.row_blocks
    cdef Py_ssize_t matrix = k // (tensor.col_blocks * tensor.row_blocks)
    cdef Py_ssize_t row = row_block * tensor.block_rows, col = col_block * tensor.block_cols
    cdef Py_ssize_t start = (matrix * tensor.rows + row) * tensor.cols + col
    cdef Py_ssize_t nth_row = matrix * tensor.rows + row, nth_col = matrix * tensor.cols + col
    cdef int j, terms
    block[0] = tensor.block
    block.rows = tensor.rows - row if tensor.rows - row < tensor.block_rows else tensor.block_rows
    block.cols = tensor.cols - col if tensor.cols - col < tensor.block_cols else tensor.block_cols
    block.stride, block.start = tensor.cols, start
    block.g, block.p = tensor.g + start * item, tensor.p + start * item
    block.update = tensor.update + start * item if tensor.update != NULL else NULL
    block.sum[0] = block.sum[1] = 0
    if tensor.rule == NULL:
        return
    for j in range(tensor.rule.slots):
        if tensor.slot[j] == NULL:
            block.slot[j] = NULL
        elif tensor.rule.slot_kind[j] == PER_ELEMENT:
            block.slot[j] = tensor.slot[j] + start * item
        elif tensor.rule.slot_kind[j] == PER_ROW:
            block.slot[j] = tensor.slot[j] + nth_row * sizeof(double)
        elif tensor.rule.slot_kind[j] == PER_ROW_NARROW:
            block.slot[j] = tensor.slot[j] + nth_row * item
        elif tensor.rule.slot_kind[j] == PER_COLUMN:
            block.slot[j] = tensor.slot[j] + nth_col * sizeof(double)
    block.row_factors = tensor.row_factors + nth_row * factor if tensor.row_factors != NULL else NULL
    block.col_factors = tensor.col_factors + nth_col * factor if tensor.col_factors != NULL else NULL
    terms = tensor.rule.row_terms
    block.row_step = tensor.col_blocks * terms
    block.row_sums = tensor.row_sums + (nth_row * tensor.col_blocks + col_block) * terms if terms else NULL
    block.col_sums = tensor.col_sums + (matrix * tensor.row_blocks + row_block) * tensor.cols + col \
        if tensor.rule.col_sums else NULL

cdef void add_param(float* g_float, const float* p_float, double* g_double, const double* p_double, double l2,
                    Py_ssize_t n) noexcept nogil:
    """Coupled weight decay of a loaded gradient."""
    cdef Py_ssize_t i
    cdef float l2_float = <float>l2
    if g_float != NULL:
        for i in range(n):
            g_float[i] = g_float[i] + l2_float * p_float[i]
    else:
        for i in range(n):
            g_double[i] = g_double[i] + l2 * p_double[i]

cdef void load(const MatrixContext* x, const MatrixTensor* tensor, const MatrixBlock* block) noexcept nogil:
    """The gradient and the parameter of a block, where they are not in memory as a rule reads them."""
    cdef Py_ssize_t i, runs = block.rows, length = block.cols, offset, start
    cdef char* g
    cdef char* p
    if block.cols == block.stride:
        runs, length = 1, block.rows * block.cols
    if not (tensor.copies_param or tensor.copies_gradient):
        return
    for i in range(runs):
        offset, start = i * block.stride * item_size(tensor), block.start + i * block.stride
        g, p = <char*>block.g + offset, <char*>block.p + offset
        if tensor.copies_param:
            x.ops.load_param(block.view, p, start, length)
        if tensor.copies_gradient:
            x.ops.load_gradient(block.job, block.view, block.gradient, &tensor.given, g, start, length)
            if tensor.given.l2 != 0 and tensor.is_double:
                add_param(NULL, NULL, <double*>g, <double*>p, tensor.given.l2, length)
            elif tensor.given.l2 != 0:
                add_param(<float*>g, <float*>p, NULL, NULL, tensor.given.l2, length)

cdef inline void run_aimed(MatrixTensor* tensor, int phase, Py_ssize_t k, MatrixBlock* block) noexcept nogil:
    """One phase of block k."""
    block.sum[0] = block.sum[1] = 0
    tensor.rule.operations[phase][tensor.is_double](NULL, block)
    tensor.block_sums[2 * k], tensor.block_sums[2 * k + 1] = block.sum[0], block.sum[1]

cdef void run_block(const MatrixContext* x, MatrixTensor* tensor, int phase, Py_ssize_t k) noexcept nogil:
    cdef MatrixBlock block
    aim_block(tensor, k, &block)
    if phase == 0:
        load(x, tensor, &block)
    run_aimed(tensor, phase, k, &block)


# Tasks of threads

cdef void run_whole(void* context, Py_ssize_t task) noexcept nogil:
    """All phases of some small tensors."""
    cdef MatrixContext* x = <MatrixContext*>context
    cdef int phase, place = claim_workspace(x.in_use, x.workspace_count)
    cdef char* workspace = x.workspaces + place * x.workspace_size
    cdef unsigned int mode = x.ops.enter()
    cdef MatrixTensor* tensor
    cdef MatrixBlock block
    cdef bint alone
    cdef Py_ssize_t i, k
    for i in range(x.task_ends[task], x.task_ends[task + 1]):
        tensor = &x.tensors[x.order[i]]
        if not tensor.active or tensor.size == 0:
            continue
        if tensor.copies_gradient:
            tensor.g = workspace
        if tensor.copies_param:
            tensor.p = workspace + WHOLE_SIZE * sizeof(double)
        if tensor.rule.keeps_update:
            tensor.update = workspace + 2 * WHOLE_SIZE * sizeof(double)
        if tensor.rule.workspace:
            tensor.block.workspace = workspace + 3 * WHOLE_SIZE * sizeof(double)
        if tensor.rule.begin != NULL:
            tensor.rule.begin(tensor)
        alone = tensor.blocks == 1         # (then the block is the same in all phases)
        if alone:
            aim_block(tensor, 0, &block)
            load(x, tensor, &block)
        for phase in range(tensor.rule.phases):
            if alone:
                run_aimed(tensor, phase, 0, &block)
            for k in range(0 if alone else tensor.blocks):
                run_block(x, tensor, phase, k)
            if tensor.rule.finish[phase] != NULL:
                tensor.rule.finish[phase](tensor)
    x.ops.leave(mode)
    store(&x.in_use[place], 0)

cdef void run_part(void* context, Py_ssize_t k) noexcept nogil:
    """One block of a large tensor's phase."""
    cdef const MatrixContext* x = <const MatrixContext*>context
    cdef unsigned int mode = x.ops.enter()
    run_block(x, x.current, x.phase, k)
    x.ops.leave(mode)

cdef void load_part(void* context, Py_ssize_t k) noexcept nogil:
    """The gradient of one block of a tensor whose update is made in Python."""
    cdef const MatrixContext* x = <const MatrixContext*>context
    cdef unsigned int mode = x.ops.enter()
    cdef MatrixBlock block
    aim_block(x.current, k, &block)
    load(x, x.current, &block)
    x.ops.leave(mode)

cdef void apply_part(void* context, Py_ssize_t k) noexcept nogil:
    """Apply one block of an update that was made in Python."""
    cdef const MatrixContext* x = <const MatrixContext*>context
    cdef unsigned int mode = x.ops.enter()
    cdef const MatrixTensor* tensor = x.current
    cdef MatrixBlock block
    cdef Py_ssize_t i
    aim_block(tensor, k, &block)
    if block.cols == block.stride:
        x.ops.apply_update(block.job, block.view, block.group, block.update, block.start, block.rows * block.cols)
    else:
        for i in range(block.rows):
            x.ops.apply_update(block.job, block.view, block.group,
                               <char*>block.update + i * block.stride * item_size(tensor),
                               block.start + i * block.stride, block.cols)
    x.ops.leave(mode)

cdef void run_phases(MatrixContext* x, MatrixTensor* tensor, int first, int behind) noexcept nogil:
    """Some phases of a large tensor."""
    cdef unsigned int mode = x.ops.enter()
    cdef int phase
    x.current = tensor
    if first == 0 and tensor.rule.begin != NULL:
        tensor.rule.begin(tensor)
    for phase in range(first, behind):
        x.phase = phase
        thread_pool.run(run_part, x, tensor.blocks)
        if tensor.rule.finish[phase] != NULL:
            tensor.rule.finish[phase](tensor)
    x.ops.leave(mode)


# Memory

cdef void place(MatrixTensor* tensor, char* scratch) noexcept nogil:
    """Where a large tensor's gradient and parameter are loaded."""
    if tensor.copies_gradient:
        tensor.g = scratch
        scratch += tensor.size * item_size(tensor)
    if tensor.copies_param:
        tensor.p = scratch

cdef inline bint updated_in_python(const MatrixTensor* tensor) noexcept nogil:
    return tensor.rule == NULL or (tensor.rule.python_phase and not tensor.whole)


cdef class MatrixStep:
    """Moves `tensors`, each by its rule: a `MatrixRule`, or None for one whose update is made in Python.

    `names` are those of a group's values; `options` the other settings that rules name: a number for all tensors, or
    a list of one for each. `constants` are numbers that a rule reads beside settings, e.g. coefficients.

    `call` is a weak reference to a function. With `(i, g, hyper, t)` it makes updates of tensors without a rule: an
    array, a factor of the learning rate, and what the state becomes, by slot; it changes nothing itself. Where a rule
    leaves its large tensors' updates to Python, it is given `(update, into)`: an array for what is made of the update.
    """

    def __cinit__(self, tensor_ops, list tensors, list rules, tuple names, call, dict options, tuple constants=()):
        cdef Py_ssize_t i, col_sums = 0, filled = 0, wholes = 0
        cdef MatrixTensor* tensor
        cdef double* shared
        self.given_tensors, self.names, self.call = tensors, names, call
        self.memory, self.scratch, self.updates, self.workspaces = Memory(), Workspace(), Workspace(), Workspace()
        self.ops = <const TensorOps*>PyCapsule_GetPointer(tensor_ops, "fastlr.tensor_ops")
        self.count = len(tensors)
        self.tensors = <MatrixTensor*>self.memory.take(self.count, sizeof(MatrixTensor))
        self.order = <Py_ssize_t*>self.memory.take(self.count, sizeof(Py_ssize_t))
        self.task_ends = <Py_ssize_t*>self.memory.take(self.count + 1, sizeof(Py_ssize_t))
        self.groups = <int*>self.memory.take(self.count, sizeof(int))
        shared = <double*>self.memory.take(len(constants), sizeof(double))
        for i in range(<Py_ssize_t>len(constants)):
            shared[i] = constants[i]
        for i in range(self.count):
            tensor = &self.tensors[i]
            self.groups[i] = tensors[i].group
            tensor.block.constants, tensor.block.constant_count = shared, <int>len(constants)
            self.lay_out(tensor, tensors[i], rules[i], options, i)
            self.calls_python |= updated_in_python(tensor)
            if tensor.rule != NULL and tensor.rule.col_sums and not tensor.whole:
                col_sums = max(col_sums, tensor.batch * tensor.row_blocks * tensor.cols)
        shared = <double*>self.memory.take(col_sums, sizeof(double))      # (large tensors come one after another)
        for i in range(self.count):
            tensor = &self.tensors[i]
            if tensor.col_sums == NULL:
                tensor.col_sums = shared
            if tensor.whole:
                self.order[wholes] = i
                wholes += 1
                filled += tensor.size
                self.whole_elements += tensor.size
                if filled >= WHOLE_SIZE:
                    self.whole_tasks += 1
                    self.task_ends[self.whole_tasks], filled = wholes, 0
        if wholes > self.task_ends[self.whole_tasks]:
            self.whole_tasks += 1
            self.task_ends[self.whole_tasks] = wholes

    cdef size_t slot_address(self, given, str slot) except? 0:
        """The address of one of a tensor's slots, 0 without it."""
        cdef ArrayView view
        if slot not in given.matrices:
            return 0
        read_array(given.matrices[slot], &view)
        return <size_t>view.data

    cdef int lay_out(self, MatrixTensor* tensor, given, rule, dict options, Py_ssize_t i) except -1:
        """Cut one tensor, and give it the memory that its rule needs."""
        cdef Py_ssize_t rows, cols, k
        tensor.batch, tensor.rows, tensor.cols = given.matrix_shape
        tensor.is_double, tensor.size, tensor.ndim = given.is_double, given.array.size, given.array.ndim
        tensor.shape = <Py_ssize_t*>self.memory.take(tensor.ndim + 1, sizeof(Py_ssize_t))
        tensor.shape[0] = 1
        for k in range(tensor.ndim):
            tensor.shape[k] = given.array.shape[k]
        rows, cols = tensor.rows, tensor.cols
        tensor.block_cols = max(min(cols, <Py_ssize_t>(BLOCK_SIZE if rows == 1 else LONGEST_ROW)), 1)
        tensor.block_rows = max(BLOCK_SIZE // tensor.block_cols, 16, (rows + MAX_ROW_BLOCKS - 1) // MAX_ROW_BLOCKS)
        tensor.whole = tensor.size <= WHOLE_SIZE and rule is not None
        if rule is not None:
            self.connect(tensor, given, rule, options, i)
            if tensor.rule.layout != NULL:
                tensor.rule.layout(tensor)
        tensor.col_blocks = max((cols + tensor.block_cols - 1) // tensor.block_cols, 1)
        tensor.row_blocks = max((rows + tensor.block_rows - 1) // tensor.block_rows, 1)
        tensor.blocks = tensor.batch * tensor.row_blocks * tensor.col_blocks
        tensor.block_sums = <double*>self.memory.take(2 * tensor.blocks, sizeof(double))
        tensor.block.whole = tensor.whole
        tensor.block.scalars, tensor.block.group, tensor.block.ops = tensor.scalars, &tensor.group, self.ops
        if rule is None:
            return 0
        k = 8 if tensor.rule.double_factors else item_size(tensor)
        if tensor.rule.row_terms:
            tensor.row_sums = <double*>self.memory.take(
                tensor.batch * rows * tensor.col_blocks * tensor.rule.row_terms, sizeof(double))
        if tensor.rule.row_factors:
            tensor.row_factors = <char*>self.memory.take(tensor.batch * rows, k)
        if tensor.rule.col_factors:
            tensor.col_factors = <char*>self.memory.take(tensor.batch * cols, k)
        if tensor.rule.col_sums and tensor.whole:
            tensor.col_sums = <double*>self.memory.take(tensor.batch * tensor.row_blocks * cols, sizeof(double))
        return 0

    cdef int connect(self, MatrixTensor* tensor, given, rule, dict options, Py_ssize_t i) except -1:
        """Find a rule's table, what its settings are called here, and its slots."""
        cdef const MatrixRuleTable* table
        cdef int* places
        cdef int k
        cdef Py_ssize_t axis
        table = <const MatrixRuleTable*>PyCapsule_GetPointer(rule.table, "fastlr.matrix_rule")
        if table.version != MATRIX_TABLE_VERSION or table.size != sizeof(MatrixRuleTable):
            raise ImportError(f"fastlr: the matrix rule {rule.name} has a table of version {table.version}, expected "
                              f"{MATRIX_TABLE_VERSION}; build its module anew")
        if table.settings != len(rule.settings) or table.slots != len(rule.slots):
            raise ImportError(f"fastlr: the matrix rule {rule.name} names {len(rule.settings)} settings and "
                              f"{len(rule.slots)} slots, its table has {table.settings} and {table.slots}; make it "
                              f"by `declared` of rule_table.pxd")
        if not 0 < table.phases <= MAX_PHASES or not 0 <= table.python_phase <= table.phases:
            raise ImportError(f"fastlr: the matrix rule {rule.name} must have 1 to {MAX_PHASES} phases, Python's being "
                              f"one of them, got {table.phases} and {table.python_phase}")
        for k in range(table.phases):
            if table.operations[k][tensor.is_double] == NULL:
                raise ImportError(f"fastlr: the matrix rule {rule.name} has no operation of phase {k} for "
                                  f"{'float64' if tensor.is_double else 'float32'}")
        tensor.rule = table
        places = <int*>self.memory.take(MAX_SETTINGS, sizeof(int))
        for k, name in enumerate(rule.settings):
            places[k] = self.names.index(name) if name in self.names else -1
            if places[k] < 0:
                if name not in options:
                    raise TypeError(f"fastlr: the matrix rule {rule.name} reads {name!r}, which is neither a "
                                    f"hyper-parameter nor an option of its optimizer")
                option = options[name]
                tensor.settings[k] = option[i] if isinstance(option, list) else option
        tensor.setting_places = places
        for k, (slot, kind) in enumerate(rule.slots.items()):
            if table.slot_kind[k] != PER_AXIS:
                tensor.slot[k] = <char*><size_t>self.slot_address(given, slot)
                continue
            tensor.axis_slot = <double**>self.memory.take(max(tensor.ndim, 1), sizeof(double*))
            for axis in range(max(tensor.ndim, 1)):
                tensor.axis_slot[axis] = <double*><size_t>self.slot_address(given, f"{slot}{axis}")
        return 0

    cdef int move(self, StepJob* job, const double* values, int width, const int64_t* skipped_steps,
                  int64_t t) except -1:
        """Move every tensor that has a gradient. All memory is there, and all of Python's part done, before the first
        moves."""
        cdef MatrixContext x
        cdef MatrixTensor* tensor
        cdef Py_ssize_t i
        cdef size_t kept = 0, to, source, size
        cdef list made = []
        thread_pool.prepare()
        if not set_up(self, &x, job, values, width, skipped_steps, t):
            raise MemoryError
        if self.calls_python:
            with np.errstate(all="ignore"):
                for i in range(self.count):
                    tensor = &self.tensors[i]
                    if not updated_in_python(tensor) or not tensor.active or not tensor.size:
                        continue
                    if tensor.rule == NULL:
                        made.append(update_in_python(self, &x, i, values, width))
                    else:
                        update_phases(self, &x, tensor, self.updates.data + kept)
                        kept += <size_t>tensor.size * item_size(tensor)
        # From here on, nothing fails.
        for _, moves in made:
            for to, source, size in moves:
                memcpy(<void*>to, <const void*>source, size)
        with nogil:
            move_all(self, &x)
        return 0

    cdef bint move_alone(self, StepJob* job, const double* values, int width, const int64_t* skipped_steps,
                         int64_t t) noexcept nogil:
        """The same without the interpreter lock, where no update is made in Python; False, and nothing has moved,
        without memory."""
        cdef MatrixContext x
        if not set_up(self, &x, job, values, width, skipped_steps, t):
            return False
        move_all(self, &x)
        return True

    cdef void prepare_rows(self, Py_ssize_t i, RowsJob* job, ScalarGroup* group, const double* values,
                           int64_t t) noexcept nogil:
        """What a step over rows of tensor i needs beside gradients, at its update t."""
        cdef MatrixTensor* tensor = &self.tensors[i]
        cdef int k
        tensor.given = tensor.group = group[0]
        tensor.t = t
        for k in range(tensor.rule.settings):
            if tensor.setting_places[k] >= 0:
                tensor.settings[k] = values[tensor.setting_places[k]]
        if tensor.rule.begin != NULL:
            tensor.rule.begin(tensor)
        job.row_state, job.row_scalars = tensor.slot[0], tensor.scalars
        job.row_factor = tensor.rule.row_factor[tensor.is_double]
        group.now.lr = tensor.group.now.lr


# One step

cdef void move_all(MatrixStep driver, MatrixContext* x) noexcept nogil:
    """Move every tensor that has a gradient; what Python makes of them is made."""
    cdef MatrixTensor* tensor
    cdef Py_ssize_t i, k
    if driver.whole_elements < SERIAL_SIZE:
        for k in range(driver.whole_tasks):
            run_whole(x, k)
    else:
        thread_pool.run(run_whole, x, driver.whole_tasks)
    for i in range(driver.count):
        tensor = &driver.tensors[i]
        if tensor.whole or not tensor.active or tensor.size == 0:
            continue
        x.current = tensor
        if tensor.rule == NULL:
            thread_pool.run(apply_part, x, tensor.blocks)
            continue
        place(tensor, driver.scratch.data)
        if tensor.rule.python_phase:
            if tensor.copies_gradient:
                thread_pool.run(load_part, x, tensor.blocks)
            run_phases(x, tensor, tensor.rule.python_phase, tensor.rule.phases)
        else:
            run_phases(x, tensor, 0, tensor.rule.phases)


cdef bint set_up(MatrixStep driver, MatrixContext* x, StepJob* job, const double* values, int width,
                 const int64_t* skipped_steps, int64_t t) noexcept nogil:
    """All of a step that is known before its first phase, and all memory that it needs; False if there is none."""
    cdef MatrixTensor* tensor
    cdef TensorView* view
    cdef GradientView* gradient
    cdef Py_ssize_t i
    cdef size_t need, copies, workspace = 0
    cdef int k, native
    cdef const double* own
    memset(x, 0, sizeof(MatrixContext))
    x.ops, x.tensors, x.order, x.task_ends = driver.ops, driver.tensors, driver.order, driver.task_ends
    for i in range(driver.count):
        tensor, view, gradient = &driver.tensors[i], &job.views[i], &job.gradients[i]
        tensor.active = gradient.g != NULL
        if not tensor.active:
            continue
        tensor.given = tensor.group = job.scalar_groups[view.scalar_group]
        tensor.group.grad_factor, tensor.group.clip_value = 1, INFINITY
        tensor.group.l2, tensor.group.staged = 0, False
        tensor.t = t + 1 - skipped_steps[i]
        if tensor.rule != NULL:
            own = values + driver.groups[i] * width
            for k in range(tensor.rule.settings):
                if tensor.setting_places[k] >= 0:
                    tensor.settings[k] = own[tensor.setting_places[k]]
        native = FLOAT64 if tensor.is_double else FLOAT32
        tensor.copies_gradient = tensor.given.staged or view.clip_factor != 1 or gradient.layout != NULL \
            or view.unit_factors != NULL or gradient.stored != native
        tensor.copies_param = (tensor.reads_param or tensor.given.l2 != 0) \
            and (view.layout != NULL or view.stored != native)
        tensor.g, tensor.p = <char*>gradient.g, view.p
        tensor.block.view, tensor.block.gradient, tensor.block.job = view, gradient, job
        if tensor.whole and (tensor.rule.keeps_update or tensor.rule.workspace):
            workspace = max(workspace, <size_t>((3 * WHOLE_SIZE + tensor.rule.workspace) * sizeof(double)))
        elif tensor.whole and (tensor.copies_gradient or tensor.copies_param):
            workspace = max(workspace, <size_t>(2 * WHOLE_SIZE * sizeof(double)))
        if not tensor.whole:
            need = <size_t>tensor.size * item_size(tensor)
            copies = <size_t>tensor.copies_gradient + <size_t>tensor.copies_param
            if tensor.rule != NULL and tensor.rule.keeps_update:
                copies += 1
                x.updates_size += need
            x.scratch_size = max(x.scratch_size, need * copies)
    x.workspace_count = <int>max(1, min(thread_pool.available() + 1, driver.whole_tasks))
    x.workspace_size = workspace
    x.workspaces = driver.workspaces.grown(x.workspace_count * workspace)
    return x.workspaces != NULL and driver.scratch.grown(x.scratch_size) != NULL \
        and driver.updates.grown(x.updates_size) != NULL


cdef object update_phases(MatrixStep driver, MatrixContext* x, MatrixTensor* tensor, char* into):
    """Make the update of a large tensor up to Python's phase, and let Python make of it what is put `into`."""
    cdef Py_ssize_t size = tensor.size * item_size(tensor)
    place(tensor, driver.scratch.data)
    tensor.update = driver.scratch.data + size * (<int>tensor.copies_gradient + <int>tensor.copies_param)
    with nogil:
        run_phases(x, tensor, 0, tensor.rule.python_phase)
    shape, dtype = (tensor.rows, tensor.cols), np.float64 if tensor.is_double else np.float32
    update = np.frombuffer(PyMemoryView_FromMemory(tensor.update, size, PyBUF_WRITE), dtype).reshape(shape)
    out = np.frombuffer(PyMemoryView_FromMemory(into, size, PyBUF_WRITE), dtype).reshape(shape)
    tensor.update = into
    driver.call()(update, out)


cdef object update_in_python(MatrixStep driver, MatrixContext* x, Py_ssize_t i, const double* values, int width):
    """Make one tensor's update in Python, and what its state becomes: their owners, and what is to be copied."""
    cdef MatrixTensor* tensor = &driver.tensors[i]
    cdef ArrayView view, into
    cdef Py_ssize_t k
    given = driver.given_tensors[i]
    dtype = np.float64 if tensor.is_double else np.float32
    place(tensor, driver.scratch.data)
    if tensor.copies_gradient:
        x.current = tensor
        with nogil:
            thread_pool.run(load_part, x, tensor.blocks)
    g = np.frombuffer(PyMemoryView_FromMemory(tensor.g, tensor.size * item_size(tensor), PyBUF_READ), dtype)
    hyper = {name: values[<int>given.group * width + k] for k, name in enumerate(driver.names)}
    update, lr_factor, memory = driver.call()(i, g.reshape(given.matrix_shape[1:]), hyper, tensor.t)
    if tensor.copies_gradient and np.may_share_memory(update, g):      # (the next tensor's will be loaded there)
        update = update.copy()
    owners, moves = [np.ascontiguousarray(update, dtype)], []
    read_array(owners[0], &view)
    tensor.update = view.data
    tensor.group.now.lr = tensor.given.now.lr * <double>lr_factor
    for slot, array in memory.items():
        owners.append(np.ascontiguousarray(array, given.matrices[slot].dtype).reshape(given.matrices[slot].shape))
        read_array(owners[len(owners) - 1], &view)
        read_array(given.matrices[slot], &into)
        moves.append((<size_t>into.data, <size_t>view.data, <size_t>given.matrices[slot].nbytes))
    return owners, moves
