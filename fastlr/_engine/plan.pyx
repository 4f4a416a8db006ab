# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The plan of a step: every address read once, every scalar computed once, one pass over memory.

A plan is made when parameters are bound. It knows, per tensor, where parameter and state lie and how to walk them;
per kind of tensor (same group, learning-rate factor, weight decay, age) the scalars of the coming step; and how the
whole is cut into chunks. Cuts depend on sizes alone, never on threads. A step reads the gradients' addresses,
checks everything, and only then writes.
"""
from zlib import crc32

import numpy as np

from cython cimport final
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, qsort
from libc.float cimport DBL_MAX, DBL_MIN, FLT_MAX, FLT_MIN
from libc.math cimport INFINITY, NAN, sqrt
from libc.string cimport memcmp, memcpy, memset
from fastlr._kernels.structs cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, GROUP, MAX_DIMENSIONS, MAX_HYPERS, MAX_SLOTS, GradientView, ScalarGroup,
    StepJob, Chunk, TaskFunction, UnitSums, TensorView, Storage, ChunkSum, TILE, UNKNOWN, UnitRange, StridedLayout, unit_clip_factor,
)
from fastlr._kernels.rows cimport RowsJob, RowStream
from fastlr._kernels.rule_table cimport MAX_SUMS, RuleTable
from fastlr._engine cimport thread_pool
from fastlr._engine.arrays cimport ALIGNED, C_CONTIGUOUS, WRITEABLE, ArrayView, memory_range, strided_layout, read_array
from fastlr._engine.arrays import BFloat16, as_array, overlaps_itself, stored_as
from fastlr._engine.step_scalars cimport CORRECTED, Decay, StepConstants, fill_scalar_group
from fastlr._engine.matrix_step cimport MatrixStep
from fastlr._engine.compiled_schedule cimport CompiledSchedule
from fastlr._engine.row_index cimport RowIndex
from fastlr._engine.step_scalars import DECAYS

cdef enum:
    MOST_VALUES = MAX_HYPERS + 2
    MOST_BLOCKS = 48
    ROWS_CHUNK = 16384         # elements of the rows that a thread takes at a time

cdef struct ScalarGroupKey:
    # Tensors that share their Instant.
    int group
    Decay decay
    bint decays
    double factor              # of the learning rate
    int64_t skipped_steps             # steps without a gradient

cdef struct MemoryRange:
    char* low
    char* high
    Py_ssize_t owner           # which tensor

cdef enum:
    # Whose walks: parameters', this step's gradients', bound gradients', this step's curvatures', those three's to be
    # measured, and copies'.
    OF_PARAMS, OF_STEP, OF_BOUND, OF_CURVATURE, OF_STEP_MEASURED, OF_BOUND_MEASURED, OF_CURVATURE_MEASURED, OF_SHADOW,
    WALKS

cdef int[MAX_DIMENSIONS] AS_THEY_STAND
for axis in range(MAX_DIMENSIONS):
    AS_THEY_STAND[axis] = axis

cdef int by_address(const void* a, const void* b) noexcept nogil:
    return (<MemoryRange*>a).low > (<MemoryRange*>b).low or -((<MemoryRange*>a).low < (<MemoryRange*>b).low)


cdef inline double least(double x, double y) noexcept nogil:
    return y if not x < y else x       # (NaN stays)


cdef inline double at_most(value) except? -1:
    return INFINITY if value is None else value


@final
cdef class Plan:
    """How the tensors of one optimizer take a step (`tensors`: see tensors.py); values come by `assign`."""
    cdef const RuleTable* rule
    cdef TaskFunction step_task, measure_task, terms_task, step_rows_task, measure_rows_task
    cdef void* blocks[MOST_BLOCKS]     # all memory of the plan
    cdef int block_count
    cdef TensorView* views
    cdef GradientView* gradients           # of this step
    cdef GradientView* bound               # of every step that is given none
    cdef GradientView* curvatures          # estimates that this step is given
    cdef bint curving                  # whether those are being aimed at
    cdef StridedLayout* layouts                   # WALKS sets, one after another
    cdef int* axes                     # each tensor's axes in the order they are walked
    cdef Py_ssize_t* shapes            # their shapes, one after another
    cdef int* ndims
    cdef Py_ssize_t* first_axis        # where a tensor's axes and shape begin
    cdef bint* in_order                # whether they are walked as they stand
    cdef MemoryRange* memory_ranges               # what a gradient must not overlap: parameters and state, by address
    cdef Py_ssize_t extent_count
    cdef bint disjoint                 # whether the extents are
    cdef MemoryRange* zeroed                # gradients that this step zeroes, by address
    cdef char** clean                  # per tensor: a gradient address that was found to overlap nothing
    cdef ScalarGroup* scalar_groups             # per kind; per tensor where the rule has scalars of its own for each
    cdef ScalarGroup* shared_groups                # per kind, before a rule adds what it remembers or sums
    cdef int* group_of                  # of each tensor
    cdef Py_ssize_t* first_of          # of each kind: the first tensor in this step
    cdef double* before                # ... and what it remembered before
    cdef ScalarGroupKey* group_keys
    cdef int group_count
    cdef Chunk* chunks
    cdef ChunkSum* sums                     # what each piece of this step's gradients adds up to
    cdef double* chunk_terms                # MAX_SUMS per piece: what a reducing rule sums
    cdef double** memory               # what the rule remembers of each tensor beside its slots
    cdef double* shared                # ... and of all of them
    cdef object shared_array
    cdef bint each                     # whether every tensor has scalars of its own, from its sums
    cdef bint remembers                # whether an instant takes something from those before it
    cdef bint apart                    # whether in the latest step tensors of a kind remembered different things
    cdef Py_ssize_t* task_starts
    cdef Py_ssize_t tasks
    cdef int64_t* skipped_steps               # per tensor
    cdef double* values                # per group, as `names` says
    cdef double* peaks                 # per group: the largest learning rate, where decay is corrected by it, or 0
    cdef int groups
    cdef double[MOST_VALUES] low, high  # low <= value < high
    cdef int width
    cdef StepConstants terms
    cdef TaskFunction unit_norms_task, accumulate_task
    cdef UnitRange* units                  # to be measured, if clipping is adaptive
    cdef UnitSums* shares
    cdef double* left                  # of each unit's gradient
    cdef double* zeros                 # per tensor: 0, or NaN if its gradient is not finite
    cdef double* unit_squares          # per tensor: what they leave of its squares
    cdef Py_ssize_t unit_items
    cdef bint units_alone              # whether no other stage needs to know what they leave
    cdef double clip_norm, clip_tensor_norm, clip_zscore, clip_zscore_alpha, clip_adaptive, clip_adaptive_eps
    cdef int64_t clip_zscore_warmup
    cdef str nonfinite
    cdef bint measures, stochastic
    cdef uint64_t seed
    cdef bint stale, aged, stepping, evaluating    # aged: since the sorting, some tensor's missed steps changed
    cdef dict sources                  # (group, index) -> schedule or callable
    cdef list held                     # this step's gradients
    cdef list held_curvatures
    cdef list bound_arrays
    cdef RowIndex row_index               # the rows of the latest step over rows
    cdef MatrixStep matrix_step             # makes the updates of a rule that is not elementwise, or None
    cdef readonly str who
    cdef readonly tuple names
    cdef readonly list tensors
    cdef readonly Py_ssize_t count, elements
    cdef double least_scale, most_scale    # of gradients: their inverses are in the precision of every rule
    cdef public object grad_norm       # of the latest step, where it was measured
    cdef public int64_t t, skipped
    cdef public int64_t accumulated         # gradients into the moments since the latest step
    cdef int64_t norm_count            # of past norms that clip_zscore has taken for its warm-up
    cdef double norm_mean, norm_variance

    def __cinit__(self, str who, rule, kernels, tuple names, list bounds, list tensors, int groups, shared, stages,
                  MatrixStep matrix_step=None):
        cdef int k
        if len(names) > MOST_VALUES:
            raise ValueError(f"{who}: more than {MOST_VALUES} hyper-parameters")
        self.rule = <const RuleTable*>PyCapsule_GetPointer(rule, "fastlr.rule")
        self.step_task = <TaskFunction>PyCapsule_GetPointer(kernels.step_task, "fastlr.task")
        self.measure_task = <TaskFunction>PyCapsule_GetPointer(kernels.measure_task, "fastlr.task")
        self.terms_task = <TaskFunction>PyCapsule_GetPointer(kernels.terms_task, "fastlr.task")
        self.step_rows_task = <TaskFunction>PyCapsule_GetPointer(kernels.step_rows_task, "fastlr.task")
        self.measure_rows_task = <TaskFunction>PyCapsule_GetPointer(kernels.measure_rows_task, "fastlr.task")
        self.each, self.remembers = self.rule.sums > 0, self.rule.memories + self.rule.shared > 0
        self.shared_array = shared     # (float64, the rule's own numbers for all tensors)
        self.who, self.names, self.width = who, names, <int>len(names)
        self.terms = StepConstants(self.rule, self.width - self.rule.hypers, names.index("weight_decay"),
                           stages.maximize, at_most(stages.clip_value), stages.ema_decay or 0)
        self.clip_norm, self.clip_tensor_norm = at_most(stages.clip_norm), at_most(stages.clip_tensor_norm)
        self.clip_zscore, self.clip_zscore_alpha = at_most(stages.clip_zscore), stages.clip_zscore_alpha
        self.clip_zscore_warmup, self.nonfinite = stages.clip_zscore_warmup, stages.nonfinite
        self.stochastic, self.seed = stages.rounding == "stochastic", stages.seed
        self.unit_norms_task = <TaskFunction>PyCapsule_GetPointer(kernels.unit_norms_task, "fastlr.task")
        self.accumulate_task = <TaskFunction>PyCapsule_GetPointer(kernels.accumulate_task, "fastlr.task")
        self.clip_adaptive, self.clip_adaptive_eps = at_most(stages.clip_adaptive), stages.clip_adaptive_eps
        self.measures = min(self.clip_norm, self.clip_tensor_norm, self.clip_zscore, self.clip_adaptive) < INFINITY \
            or self.nonfinite != "propagate"
        for k in range(self.width):
            self.low[k], self.high[k] = bounds[k]
        self.sources, self.tensors, self.count, self.matrix_step = {}, tensors, len(tensors), matrix_step
        reserve(self, groups)
        lay_out(self)
        mark_memory_ranges(self)
        cut_chunks(self)
        self.zeros = <double*>self.block(self.count, sizeof(double))
        self.units_alone = min(self.clip_norm, self.clip_tensor_norm, self.clip_zscore) == INFINITY \
            and self.nonfinite == "propagate" and not self.rule.sums and matrix_step is None
        self.unit_squares = <double*>self.block(self.count, sizeof(double))
        if self.clip_adaptive < INFINITY:
            cut_units(self, stages.clip_adaptive_axis)
        self.stale = True

    def __dealloc__(self):
        cdef int k
        for k in range(self.block_count):
            free(self.blocks[k])

    cdef void* block(self, Py_ssize_t number, Py_ssize_t size) except NULL:
        cdef void* memory
        if self.block_count == MOST_BLOCKS:
            raise SystemError("fastlr: MOST_BLOCKS is too small")
        memory = calloc(number + 1, size)
        if memory == NULL:
            raise MemoryError
        self.blocks[self.block_count] = memory
        self.block_count += 1
        return memory

    # Values

    def assign(self, int group, int index, value):
        """Give a group's hyper-parameter a number, or a callable t -> number."""
        if self.evaluating:
            raise RuntimeError(f"{self.who}: a schedule is giving its value; set {self.names[index]} "
                               f"between steps")
        if callable(value):
            self.sources[group, index] = value
        else:
            self.sources.pop((group, index), None)
            self.values[group * self.width + index] = bounded(self, index, value)

    def set_peak(self, int group, double max_lr):
        """The largest learning rate of a group, by which `corrected` decay goes; 0 where it does not."""
        self.peaks[group] = max_lr

    # Gradients

    def bind(self, list arrays):
        """Aim at these gradients in every step that is given none."""
        self.begin()
        try:
            arrays = counted(self, arrays)
            read_gradients(self, self.gradients, OF_STEP, arrays, False)     # (refuses before anything changes)
            read_gradients(self, self.bound, OF_BOUND, arrays, False)
            self.bound_arrays = arrays
        finally:
            self.end()

    # Stepping

    cpdef int begin(self) except -1:
        """Let nobody else step or change what a step reads, until `end()`; RuntimeError if somebody does already."""
        if self.stepping:
            raise RuntimeError(f"{self.who}: this optimizer is already stepping")
        self.stepping = True
        return 0

    cpdef int end(self) except -1:
        """Let others step again."""
        self.stepping = False
        return 0

    def exclusively(self, call):
        """Call this while nobody else can step. (An interrupt cannot come between `begin` and the `try` here.)"""
        self.begin()
        try:
            call()
        finally:
            self.end()

    cdef double scale_of(self, grad_scale) except? -1:
        cdef double x
        if isinstance(grad_scale, bool):
            raise TypeError(f"{self.who}: grad_scale must be a number, got {grad_scale}")
        try:
            x = grad_scale
        except TypeError:
            raise TypeError(f"{self.who}: grad_scale must be a number, got {grad_scale!r}") from None
        if not 0 < x < INFINITY:
            raise ValueError(f"{self.who}: grad_scale must be positive and finite, got {x}")
        if not self.least_scale <= x <= self.most_scale:
            raise ValueError(f"{self.who}: grad_scale must be in [{self.least_scale:.3g}, {self.most_scale:.3g}], "
                             f"where its inverse is a normal number, got {x}")
        return x

    def step(self, list gradients, grad_scale, bint zero_grads, double loss=NAN, list curvatures=None, means=None):
        """One update of everything; `gradients` in the order of the tensors, or None for those bound.

        Rules with `means` take estimates of the curvature, too: see `bend`.
        """
        cdef StepJob job
        cdef Py_ssize_t i
        self.begin()
        try:
            if means is not None:
                aim_curvatures(self, gradients, curvatures)
            self.ready(&job, gradients, self.scale_of(grad_scale), zero_grads)
            if curvatures is not None and not finite_curvatures(self, &job):
                self.skip(zero_grads, gradients is None)
                return
            if self.each or self.remembers:
                copy_shared_groups(self, loss)
            if self.matrix_step is not None:              # (which may fail)
                norm, norms = self.grad_norm, self.norms
            if not measure(self, &job):
                self.skip(zero_grads, gradients is None)
                return
            if curvatures is not None:
                update_curvature(self, &job, means)
            if self.remembers:
                begin_step(self, job.gradients)
            if self.rule.sums:
                reduce_terms(self, &job)
            if self.matrix_step is None:
                self.run(self.step_task, &job, self.tasks)
            else:
                try:
                    self.matrix_step.move(&job, self.step_task, self.values, self.width, self.skipped_steps, self.t)
                except BaseException:
                    self.grad_norm, self.norms = norm, norms
                    raise
                if zero_grads:
                    self.zero(gradients is None)
            if job.unit_squares != NULL:
                self.grad_norm = norm_of_units(self)
            self.t += 1
            self.accumulated = 0
            for i in range(self.count):
                if job.gradients[i].g == NULL:
                    self.skipped_steps[i] += 1
                    self.aged = True
        finally:
            self.held = self.held_curvatures = None
            self.end()

    cdef int ready(self, StepJob* job, list gradients, double grad_scale, bint zero_grads) except -1:
        """All of a step that comes before its first pass over memory."""
        if gradients is not None:
            self.held = counted(self, gradients)
            read_gradients(self, self.gradients, OF_STEP, self.held, zero_grads)
            job.gradients = self.gradients
        elif self.bound_arrays is None:
            raise TypeError(f"{self.who}: step() needs gradients: pass them, or bind them with grads= in the "
                            f"constructor")
        else:
            if zero_grads:
                read_gradients(self, self.bound, OF_BOUND, self.bound_arrays, True)
            job.gradients = self.bound
        evaluate(self)
        refuse_rates(self)
        if self.stale or (self.aged and misplaced(self, job.gradients)):
            assign_scalar_groups(self)
        fill_scalar_groups(self, grad_scale)
        job.views, job.scalar_groups, job.chunks, job.task_starts = self.views, self.scalar_groups, self.chunks, self.task_starts
        job.step[0], job.step[1], job.slots = self.rule.step[0], self.rule.step[1], self.rule.slots
        job.reduce_terms[0], job.reduce_terms[1], job.terms = self.rule.terms[0], self.rule.terms[1], self.chunk_terms
        job.updates_state_while_reducing = self.rule.updates_state_while_reducing
        job.storage_loop = self.rule.storage_loop if self.rule.storage_loop[0] != NULL else NULL
        job.unit_squares = NULL
        job.zero_grads, job.units, job.shares = zero_grads, self.units, self.shares
        job.sums, job.stochastic = self.sums, self.stochastic
        job.key = key_of(self, self.t)
        return 0

    cdef int run(self, TaskFunction work, StepJob* job, Py_ssize_t tasks) except -1:
        cdef Py_ssize_t k
        if self.elements < ALONE:
            with nogil:
                for k in range(tasks):
                    work(job, k)
        else:
            thread_pool.prepare()
            with nogil:
                thread_pool.run(work, job, tasks)
        return 0

    cdef int skip(self, bint zero_grads, bint bound) except -1:
        """Count a step that is not taken. Its gradients are zeroed all the same, or what is wrong with them stayed."""
        self.skipped += 1
        return self.zero(bound) if zero_grads else 0

    cdef int zero(self, bint bound) except -1:
        """Zero the gradients that were given, or those bound."""
        for array in (self.bound_arrays if bound else self.held):
            if array is not None:
                array[...] = 0
        return 0

    @property
    def norms(self) -> tuple:
        """What clip_zscore knows of past norms: how many of its warm-up it has seen, their mean and variance."""
        return self.norm_count, self.norm_mean, self.norm_variance

    @norms.setter
    def norms(self, tuple known):
        self.norm_count, self.norm_mean, self.norm_variance = known

    def set_clock(self, int64_t t, list skipped_steps):
        """Where the optimizer stands: updates done, and how many of them each tensor missed."""
        cdef Py_ssize_t i
        self.t = t
        for i in range(self.count):
            self.skipped_steps[i] = skipped_steps[i]
        self.stale = True

    def read_skipped_steps(self) -> list:
        """How many steps each tensor had no gradient in."""
        cdef Py_ssize_t i
        return [self.skipped_steps[i] for i in range(self.count)]


cdef inline uint64_t key_of(Plan plan, int64_t t) noexcept:
    """What the random bits of an update depend on, beside name and element."""
    return (plan.seed + 1) * <uint64_t>0x9e3779b97f4a7c15 + <uint64_t>t * <uint64_t>0xbf58476d1ce4e5b9


include "plan_layout.pxi"
include "plan_gradients.pxi"
include "plan_scalars.pxi"
include "plan_clipping.pxi"
include "plan_unit_norms.pxi"
include "plan_accumulate.pxi"
include "plan_rows.pxi"

include "build_id.pxi"
