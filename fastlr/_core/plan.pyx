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
from fastlr._kernels.sweep cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, GROUP, MOST_DIMENSIONS, MOST_FIELDS, MOST_SLOTS, MOST_SUMS, Gradient, Instant,
    Job, Opened, Piece, Run, Share, Span, Storage, Sum, TILE, Units, Walk, left_of,
)
from fastlr._kernels.rows cimport Rows, Stream
from fastlr._core cimport pool
from fastlr._core.arrays cimport ALIGNED, C_CONTIGUOUS, WRITEABLE, Seen, extent, lay, look
from fastlr._core.arrays import BFloat16, as_array, overlaps_itself, stored_as
from fastlr._core.instant cimport CORRECTED, Decay, Terms, fix
from fastlr._core.matrix cimport Director
from fastlr._core.program cimport Program
from fastlr._core.rows cimport Touched
from fastlr._core.instant import DECAYS

cdef enum:
    MOST_VALUES = MOST_FIELDS + 2
    MOST_BLOCKS = 48
    ROWS_CHUNK = 16384         # elements of the rows that a thread takes at a time

cdef struct Kind:
    # Tensors that share their Instant.
    int group
    Decay decay
    bint decays
    double factor              # of the learning rate
    int64_t missed             # steps without a gradient

cdef struct Extent:
    char* low
    char* high
    Py_ssize_t owner           # which tensor

cdef enum:
    # Whose walks: parameters', this step's gradients', bound gradients', this step's curvatures', those three's to be
    # measured, and copies'.
    OF_PARAMS, OF_STEP, OF_BOUND, OF_CURVATURE, OF_STEP_MEASURED, OF_BOUND_MEASURED, OF_CURVATURE_MEASURED, OF_SHADOW,
    WALKS

cdef int[MOST_DIMENSIONS] AS_THEY_STAND
for axis in range(MOST_DIMENSIONS):
    AS_THEY_STAND[axis] = axis

cdef int by_address(const void* a, const void* b) noexcept nogil:
    return (<Extent*>a).low > (<Extent*>b).low or -((<Extent*>a).low < (<Extent*>b).low)


cdef inline double least(double x, double y) noexcept nogil:
    return y if not x < y else x       # (NaN stays)


cdef inline double at_most(value) except? -1:
    return INFINITY if value is None else value


@final
cdef class Plan:
    """How the tensors of one optimizer take a step (`tensors`: see tensors.py); values come by `assign`."""
    cdef const Opened* rule
    cdef Run run_chunk, weigh_chunk, gauge_chunk, touch_chunk, weigh_touched
    cdef void* blocks[MOST_BLOCKS]     # all memory of the plan
    cdef int block_count
    cdef Span* spans
    cdef Gradient* gradients           # of this step
    cdef Gradient* bound               # of every step that is given none
    cdef Gradient* curvatures          # estimates that this step is given
    cdef bint curving                  # whether those are being aimed at
    cdef Walk* walks                   # WALKS sets, one after another
    cdef int* axes                     # each tensor's axes in the order they are walked
    cdef Py_ssize_t* shapes            # their shapes, one after another
    cdef int* ndims
    cdef Py_ssize_t* first_axis        # where a tensor's axes and shape begin
    cdef bint* in_order                # whether they are walked as they stand
    cdef Extent* extents               # what a gradient must not overlap: parameters and state, by address
    cdef Py_ssize_t extent_count
    cdef bint disjoint                 # whether the extents are
    cdef Extent* zeroed                # gradients that this step zeroes, by address
    cdef char** clean                  # per tensor: a gradient address that was found to overlap nothing
    cdef Instant* instants             # per kind; per tensor where the rule has scalars of its own for each
    cdef Instant* alike                # per kind, before a rule adds what it remembers or sums
    cdef int* kind_of                  # of each tensor
    cdef Py_ssize_t* first_of          # of each kind: the first tensor in this step
    cdef double* before                # ... and what it remembered before
    cdef Kind* kinds
    cdef int kind_count
    cdef Piece* pieces
    cdef Sum* sums                     # what each piece of this step's gradients adds up to
    cdef double* gauged                # MOST_SUMS per piece: what a reducing rule sums
    cdef double** memory               # what the rule remembers of each tensor beside its slots
    cdef double* shared                # ... and of all of them
    cdef object shared_array
    cdef bint each                     # whether every tensor has scalars of its own, from its sums
    cdef bint remembers                # whether an instant takes something from those before it
    cdef bint apart                    # whether in the latest step tensors of a kind remembered different things
    cdef Py_ssize_t* edges
    cdef Py_ssize_t chunks
    cdef int64_t* missed               # per tensor
    cdef double* values                # per group, as `names` says
    cdef double* peaks                 # per group: the largest learning rate, where decay is corrected by it, or 0
    cdef int groups
    cdef double[MOST_VALUES] low, high  # low <= value < high
    cdef int width
    cdef Terms terms
    cdef Run units_chunk, fold_chunk
    cdef Units* units                  # to be measured, if clipping is adaptive
    cdef Share* shares
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
    cdef Touched touched               # the rows of the latest step over rows
    cdef Director director             # makes the updates of a rule that is not elementwise, or None
    cdef readonly str who
    cdef readonly tuple names
    cdef readonly list tensors
    cdef readonly Py_ssize_t count, elements
    cdef double least_scale, most_scale    # of gradients: their inverses are in the precision of every rule
    cdef public object grad_norm       # of the latest step, where it was measured
    cdef public int64_t t, skipped
    cdef public int64_t folded         # gradients into the moments since the latest step
    cdef public int64_t norm_count     # of past norms that clip_zscore has taken for its warm-up
    cdef public double norm_mean, norm_variance

    def __cinit__(self, str who, rule, door, tuple names, list bounds, list tensors, int groups, shared, stages,
                  Director director=None):
        cdef int k
        if len(names) > MOST_VALUES:
            raise ValueError(f"{who}: more than {MOST_VALUES} hyper-parameters")
        self.rule = <const Opened*>PyCapsule_GetPointer(rule, "fastlr.rule")
        self.run_chunk = <Run>PyCapsule_GetPointer(door.runner, "fastlr.run")
        self.weigh_chunk = <Run>PyCapsule_GetPointer(door.weigher, "fastlr.run")
        self.gauge_chunk = <Run>PyCapsule_GetPointer(door.gauger, "fastlr.run")
        self.touch_chunk = <Run>PyCapsule_GetPointer(door.toucher, "fastlr.run")
        self.weigh_touched = <Run>PyCapsule_GetPointer(door.row_weigher, "fastlr.run")
        self.each, self.remembers = self.rule.sums > 0, self.rule.memories + self.rule.shared > 0
        self.shared_array = shared     # (float64, the rule's own numbers for all tensors)
        self.who, self.names, self.width = who, names, <int>len(names)
        self.terms = Terms(self.rule, self.width - self.rule.fields, names.index("weight_decay"),
                           stages.maximize, at_most(stages.clip_value), stages.ema_decay or 0)
        self.clip_norm, self.clip_tensor_norm = at_most(stages.clip_norm), at_most(stages.clip_tensor_norm)
        self.clip_zscore, self.clip_zscore_alpha = at_most(stages.clip_zscore), stages.clip_zscore_alpha
        self.clip_zscore_warmup, self.nonfinite = stages.clip_zscore_warmup, stages.nonfinite
        self.stochastic, self.seed = stages.rounding == "stochastic", stages.seed
        self.units_chunk = <Run>PyCapsule_GetPointer(door.unit_weigher, "fastlr.run")
        self.fold_chunk = <Run>PyCapsule_GetPointer(door.folder, "fastlr.run")
        self.clip_adaptive, self.clip_adaptive_eps = at_most(stages.clip_adaptive), stages.clip_adaptive_eps
        self.measures = min(self.clip_norm, self.clip_tensor_norm, self.clip_zscore, self.clip_adaptive) < INFINITY \
            or self.nonfinite != "propagate"
        for k in range(self.width):
            self.low[k], self.high[k] = bounds[k]
        self.sources, self.tensors, self.count, self.director = {}, tensors, len(tensors), director
        self.lay_out(groups)
        self.mark_extents()
        self.cut()
        self.zeros = <double*>self.block(self.count, sizeof(double))
        self.units_alone = min(self.clip_norm, self.clip_tensor_norm, self.clip_zscore) == INFINITY \
            and self.nonfinite == "propagate" and not self.rule.sums and director is None
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

    cdef int lay_out(self, int groups) except -1:
        """Read every address of parameters and state, and how to walk them."""
        cdef Py_ssize_t i, n = self.count, a = 0
        cdef int k
        cdef Seen seen
        cdef Span* s
        cdef Py_ssize_t* lengths
        cdef Py_ssize_t all_axes = sum([max(tensor.array.ndim, 1) for tensor in self.tensors])
        self.least_scale, self.most_scale = 1 / DBL_MAX, 1 / DBL_MIN
        self.spans = <Span*>self.block(n, sizeof(Span))
        self.gradients = <Gradient*>self.block(n, sizeof(Gradient))
        self.bound = <Gradient*>self.block(n, sizeof(Gradient))
        self.curvatures = <Gradient*>self.block(n, sizeof(Gradient))
        self.walks = <Walk*>self.block(WALKS * n, sizeof(Walk))
        lengths = <Py_ssize_t*>self.block(2 * WALKS * all_axes, sizeof(Py_ssize_t))
        self.axes = <int*>self.block(all_axes, sizeof(int))
        self.shapes = <Py_ssize_t*>self.block(all_axes, sizeof(Py_ssize_t))
        self.ndims = <int*>self.block(n, sizeof(int))
        self.first_axis = <Py_ssize_t*>self.block(n, sizeof(Py_ssize_t))
        self.in_order = <bint*>self.block(n, sizeof(bint))
        self.clean = <char**>self.block(n, sizeof(char*))
        self.instants = <Instant*>self.block(n, sizeof(Instant))
        self.alike = self.instants
        if self.each or self.remembers:
            self.alike = <Instant*>self.block(n, sizeof(Instant))
        self.first_of = <Py_ssize_t*>self.block(n, sizeof(Py_ssize_t))
        self.before = <double*>self.block(n * self.rule.memories, sizeof(double))
        self.kind_of = <int*>self.block(n, sizeof(int))
        self.memory = <double**>self.block(n, sizeof(double*))
        self.kinds = <Kind*>self.block(n, sizeof(Kind))
        self.missed = <int64_t*>self.block(n, sizeof(int64_t))
        self.zeroed = <Extent*>self.block(n, sizeof(Extent))
        self.values = <double*>self.block(groups * self.width, sizeof(double))
        self.peaks, self.groups = <double*>self.block(groups, sizeof(double)), groups
        for i, tensor in enumerate(self.tensors):
            s = &self.spans[i]
            look(tensor.array, &seen)
            s.p, s.stored, s.wide, s.size = seen.data, seen.stored, tensor.wide, tensor.array.size
            s.staged = s.stored != (FLOAT64 if s.wide else FLOAT32)
            s.salt = <uint64_t>crc32(tensor.name.encode("utf-8", "surrogatepass")) * 8
            self.elements += s.size
            if not s.wide:
                self.least_scale, self.most_scale = 1 / <double>FLT_MAX, 1 / <double>FLT_MIN
            self.first_axis[i], self.ndims[i] = a, seen.ndim
            for k in range(seen.ndim):
                self.axes[a + k], self.shapes[a + k] = tensor.axes[k], seen.shape[k]
            self.in_order[i] = tensor.axes == tuple(range(seen.ndim))
            for k in range(WALKS):
                self.walks[k * n + i].shape = lengths + 2 * (k * all_axes + a)
                self.walks[k * n + i].stride = lengths + 2 * (k * all_axes + a) + max(seen.ndim, 1)
            a += max(seen.ndim, 1)
            if lay(&self.walks[i], &seen, self.axes + self.first_axis[i]):
                s.walk = &self.walks[i]
            for k in range(self.rule.slots):
                look(tensor.state[k], &seen)
                s.slot[k], s.slot_stored[k] = seen.data, seen.stored
                s.staged |= s.slot_stored[k] != (FLOAT64 if s.wide else FLOAT32)
                if tensor.scales[k] is not None:
                    look(tensor.scales[k], &seen)
                    s.slot_scale[k] = <float*>seen.data
            s.shrink = 1
            if len(tensor.state) > self.rule.slots:
                look(tensor.state[self.rule.slots], &seen)
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
                if lay(&self.walks[OF_SHADOW * n + i], &seen, self.axes + self.first_axis[i]):
                    s.shadow_walk = &self.walks[OF_SHADOW * n + i]
            look(tensor.memory, &seen)
            self.memory[i] = <double*>seen.data
        look(self.shared_array, &seen)
        self.shared = <double*>seen.data
        return 0

    cdef int mark_extents(self) except -1:
        """Sort what no gradient may overlap by address."""
        cdef Py_ssize_t i, e = 0
        cdef Seen seen
        self.extents = <Extent*>self.block(sum([len(tensor.written()) for tensor in self.tensors]), sizeof(Extent))
        for i, tensor in enumerate(self.tensors):
            for array in tensor.written():
                look(array, &seen)
                extent(&seen, &self.extents[e].low, &self.extents[e].high)
                self.extents[e].owner = i
                e += self.extents[e].low < self.extents[e].high
        qsort(self.extents, e, sizeof(Extent), by_address)
        self.extent_count, self.disjoint = e, True
        for i in range(e - 1):
            if self.extents[i].high > self.extents[i + 1].low:
                self.disjoint = False
        return 0

    cdef int cut(self) except -1:
        """Cut the tensors into pieces, and gather pieces into chunks."""
        cdef Py_ssize_t i, start, filled = 0, k = 0
        cdef Py_ssize_t most = sum([tensor.array.size // CHUNK + 1 for tensor in self.tensors])
        self.pieces = <Piece*>self.block(most, sizeof(Piece))
        self.edges = <Py_ssize_t*>self.block(most + 1, sizeof(Py_ssize_t))
        self.sums = <Sum*>self.block(most, sizeof(Sum))
        self.gauged = <double*>self.block(most if self.rule.sums else 0, MOST_SUMS * sizeof(double))
        for i in range(self.count):
            start = 0
            while start < self.spans[i].size:
                self.pieces[k] = Piece(start, min(<Py_ssize_t>CHUNK, self.spans[i].size - start), <int>i)
                filled += self.pieces[k].size
                start += self.pieces[k].size
                k += 1
                if filled >= CHUNK:
                    self.chunks += 1
                    self.edges[self.chunks], filled = k, 0
        if filled:
            self.chunks += 1
            self.edges[self.chunks] = k
        return 0

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
            self.values[group * self.width + index] = self.bounded(index, value)

    def set_peak(self, int group, double peak):
        """The largest learning rate of a group, by which `corrected` decay goes; 0 where it does not."""
        self.peaks[group] = peak

    cdef double share_of(self, int group, int decay, bint decays) noexcept:
        """How much of weight decay counts."""
        if decays and decay == CORRECTED and self.peaks[group] > 0:
            return self.values[group * self.width] / self.peaks[group]
        return decays

    cdef int refuse_rates(self) except -1:
        """No rate may be above what was said to be the largest."""
        cdef int group
        for group in range(self.groups):
            if 0 < self.peaks[group] * (1 + 1e-9) < self.values[group * self.width]:
                raise ValueError(f"{self.who}: decay='corrected': lr is {self.values[group * self.width]:g} at "
                                 f"t = {self.t}, above lr_max = {self.peaks[group]:g}; give the largest as lr_max")
        return 0

    cdef double bounded(self, int index, value) except? -1:
        cdef double x = value
        if not (self.low[index] <= x < self.high[index]):
            raise ValueError(f"{self.who}: {self.names[index]} must be in [{self.low[index]:g}, "
                             f"{self.high[index]:g}), got {value}")
        return x

    cdef int evaluate(self) except -1:
        """What schedules give at this instant."""
        cdef int group, index
        cdef double x
        for (group, index), source in self.sources.items():
            if isinstance(source, Program):
                x = (<Program>source).at(<double>self.t)
                if x != x:
                    source(self.t)                 # says why there is no value
            else:
                value = source(self.t)
                try:
                    x = value
                except TypeError:
                    raise TypeError(f"{self.who}: the schedule of {self.names[index]} must give a number, gave "
                                    f"{value!r} at t = {self.t}") from None
            if not (self.low[index] <= x < self.high[index]):
                raise ValueError(f"{self.who}: {self.names[index]} must be in [{self.low[index]:g}, "
                                 f"{self.high[index]:g}), its schedule gave {x} at t = {self.t}")
            self.values[group * self.width + index] = x
        return 0

    cdef int sort_into_kinds(self) except -1:
        """Find the tensors that share all scalars of a step."""
        cdef Py_ssize_t i
        cdef dict seen = {}
        for i, tensor in enumerate(self.tensors):
            key = (tensor.group, tensor.decay, tensor.decays, tensor.factor, self.missed[i])
            if key not in seen:
                self.kinds[len(seen)] = Kind(tensor.group, <Decay>DECAYS[tensor.decay], tensor.decays, tensor.factor,
                                             self.missed[i])
                seen[key] = len(seen)
            self.kind_of[i] = seen[key]
            self.spans[i].instant = <int>i if self.each else self.kind_of[i]
        self.kind_count, self.stale, self.aged = <int>len(seen), False, False
        return 0

    cdef bint misplaced(self, const Gradient* gradients) noexcept:
        """Whether a tensor that matters to this step is of another age than its kind's others."""
        cdef Py_ssize_t i
        cdef bint same = True
        for i in range(self.count):
            if self.missed[i] != self.kinds[self.kind_of[i]].missed:
                if gradients[i].g != NULL or self.each:
                    return True
                same = False
        self.aged = not same
        return False

    cdef void fix_instants(self, double grad_scale) noexcept:
        cdef int k
        cdef Kind* kind
        for k in range(self.kind_count):
            kind = &self.kinds[k]
            fix(&self.alike[k], &self.terms, self.values + kind.group * self.width, kind.factor, kind.decay,
                self.share_of(kind.group, kind.decay, kind.decays), self.t + 1 - kind.missed, grad_scale)

    cdef void single_out(self, double loss) noexcept:
        """Begin with what each kind knows; its own copy for each tensor whose sums will add to it."""
        cdef Py_ssize_t i
        cdef double peak = 0
        for i in range(self.kind_count):
            peak = max(peak, self.alike[i].now.lr)
        for i in range(self.kind_count):
            self.alike[i].now.loss, self.alike[i].now.peak = loss, peak
        for i in range(self.count if self.each else self.kind_count):
            self.instants[i] = self.alike[self.kind_of[i] if self.each else i]
        for i in range(self.count if self.apart else 0):
            self.spans[i].instant = self.kind_of[i]
        self.apart = False

    cdef void recall(self, const Gradient* gradients) noexcept:
        """What instants take from those before them: once for all tensors of a kind that remember the same."""
        cdef Py_ssize_t i, first, size = self.rule.memories * sizeof(double)
        cdef int k, own = self.kind_count
        for k in range(self.kind_count):
            self.first_of[k] = -1
        for i in range(self.count):
            if gradients[i].g == NULL:
                continue
            k = self.kind_of[i]
            first = self.first_of[k]
            if first >= 0 and memcmp(self.before + k * self.rule.memories, self.memory[i], size) == 0:
                memcpy(self.memory[i], self.memory[first], size)
                if self.each:
                    self.instants[i].now = self.instants[first].now
                continue
            if first < 0:
                self.first_of[k] = i
                memcpy(self.before + k * self.rule.memories, self.memory[i], size)
            elif not self.each:
                # (room for it is that of a tensor of its kind; the kind's own instant has changed already)
                self.instants[own], self.instants[own].now = self.instants[k], self.alike[k].now
                self.spans[i].instant, self.apart = own, True
                own += 1
            k = self.spans[i].instant
            self.rule.recall(self.instants[k].hyper, &self.instants[k].now, self.memory[i], self.shared)

    cdef int gauge(self, Job* job) except -1:
        """A reducing rule's first go, and what it finds."""
        cdef Py_ssize_t i, k = 0, first = -1, size = 0
        cdef double[MOST_SUMS] own, totals
        cdef int j
        self.run(self.gauge_chunk, job, self.chunks)
        for j in range(MOST_SUMS):
            totals[j] = 0
        while k < self.edges[self.chunks]:
            i = self.pieces[k].span
            if job.gradients[i].g != NULL:
                first = i if first < 0 else first
                size += self.pieces[k].size
                for j in range(self.rule.sums):
                    totals[j] += self.gauged[k * MOST_SUMS + j]
            k += 1
        if first >= 0:
            self.rule.conclude(self.instants[first].hyper, &self.instants[first].now, self.shared, totals, <double>size)
        k = 0
        for i in range(self.count):
            for j in range(MOST_SUMS):
                own[j] = 0
            while k < self.edges[self.chunks] and self.pieces[k].span == i:
                for j in range(self.rule.sums):
                    own[j] += self.gauged[k * MOST_SUMS + j]
                k += 1
            if job.gradients[i].g != NULL:
                self.rule.settle(self.instants[i].hyper, &self.instants[i].now, self.memory[i], self.shared, own,
                                 <double>self.spans[i].size)
        return 0

    # Gradients

    cdef int aim(self, Gradient* aims, int whose, list arrays, bint writable) except -1:
        """Read where gradients lie; `arrays` holds what keeps them alive. Everything is checked here."""
        cdef Walk* walks = self.walks + whose * self.count
        cdef Walk* measured = self.walks + (whose + OF_STEP_MEASURED - OF_STEP) * self.count
        cdef Py_ssize_t i
        cdef Seen seen
        for i in range(self.count):
            array = arrays[i]
            if array is None:
                aims[i].g = NULL
                continue
            if not look(array, &seen):
                arrays[i] = array = self.converted(i, array)
                look(array, &seen)
            if not self.same_kind(i, seen.stored) or not self.same_shape(i, &seen):
                raise self.mismatch(i, array)
            aims[i].stored = seen.stored
            if writable and not seen.flags & WRITEABLE:
                raise ValueError(f"{self.label(i)}: zero_grads needs gradients that may be written, this is read-only")
            aims[i].g, aims[i].walk, aims[i].measured = seen.data, NULL, NULL
            if seen.flags & C_CONTIGUOUS and seen.flags & ALIGNED and self.in_order[i]:
                if seen.data == self.clean[i]:
                    continue
            elif lay(&walks[i], &seen, self.axes + self.first_axis[i]):
                aims[i].walk = &walks[i]
            if self.in_order[i]:
                aims[i].measured = aims[i].walk
            elif lay(&measured[i], &seen, AS_THEY_STAND):
                aims[i].measured = &measured[i]
            self.refuse_overlap(i, array, &seen)
            # (known for the widest type that may come: from that address on, others reach no further)
            self.clean[i] = NULL
            if aims[i].walk == NULL and self.in_order[i] and seen.itemsize >= 4:
                self.clean[i] = seen.data
        if writable:
            self.refuse_shared(aims, arrays)
        return 0

    cdef int refuse_shared(self, const Gradient* aims, list arrays) except -1:
        """Gradients that are zeroed once read may share no memory, or one would be zero before it is read."""
        cdef Py_ssize_t i, k, e = 0
        cdef Seen seen
        cdef char* reach = NULL
        for i in range(self.count):
            if aims[i].g != NULL:
                if aims[i].walk != NULL and overlaps_itself(arrays[i]):
                    raise ValueError(f"{self.label(i)}: zero_grads needs a gradient whose elements do not share "
                                     f"memory")
                look(arrays[i], &seen)
                extent(&seen, &self.zeroed[e].low, &self.zeroed[e].high)
                self.zeroed[e].owner = i
                e += self.zeroed[e].low < self.zeroed[e].high
        qsort(self.zeroed, e, sizeof(Extent), by_address)
        for i in range(e):
            for k in range(i if self.zeroed[i].low < reach else 0):
                if np.shares_memory(arrays[self.zeroed[k].owner], arrays[self.zeroed[i].owner]):
                    raise ValueError(f"{self.label(self.zeroed[i].owner)}: zero_grads needs gradients of their own, "
                                     f"this shares memory with {self.label(self.zeroed[k].owner)}")
            reach = max(reach, self.zeroed[i].high)
        return 0

    cdef bint same_kind(self, Py_ssize_t i, Storage stored) noexcept:
        """Whether a gradient stored so serves a parameter: as it is, or any float of up to 32 bits for another such."""
        if self.spans[i].stored == FLOAT64 or stored == FLOAT64:
            return self.spans[i].stored == stored
        return stored == FLOAT32 or stored == FLOAT16 or stored == BFLOAT16

    cdef bint same_shape(self, Py_ssize_t i, const Seen* seen) noexcept:
        cdef int k
        cdef const Py_ssize_t* shape = self.shapes + self.first_axis[i]
        if self.ndims[i] != seen.ndim:
            return False
        for k in range(seen.ndim):
            if shape[k] != seen.shape[k]:
                return False
        return True

    cdef int refuse_overlap(self, Py_ssize_t i, object array, const Seen* seen) except -1:
        cdef char* low
        cdef char* high
        cdef Py_ssize_t first = 0, behind = self.extent_count, middle
        extent(seen, &low, &high)
        if low == high:
            return 0
        if self.disjoint:          # only the last extent that begins before this one's end can reach into it ...
            while first < behind:
                middle = (first + behind) // 2
                if self.extents[middle].low < high:
                    first = middle + 1
                else:
                    behind = middle
            behind = first
            while first > 0 and self.extents[first - 1].high > low:      # (... and those that it spans)
                first -= 1
        for middle in range(first, behind):
            if self.extents[middle].low < high and self.extents[middle].high > low:
                tensor = self.tensors[self.extents[middle].owner]
                for own in tensor.written():
                    if np.shares_memory(own, array):
                        raise ValueError(f"{self.label(i)}: shares memory with parameter {tensor.name!r} or its "
                                         f"state, which the step writes; pass a copy")
        return 0

    cdef object converted(self, Py_ssize_t i, object array):
        cdef Seen seen
        array = as_array(array, self.label(i))
        if array.dtype == np.uint16 and self.spans[i].stored == BFLOAT16:
            array = array.view(BFloat16)
        if not look(array, &seen):
            raise self.mismatch(i, array)
        return array

    cdef object mismatch(self, Py_ssize_t i, object array):
        own = self.tensors[i].array
        return ValueError(f"{self.label(i)}: expected {stored_as(own)} {own.shape} like the parameter, "
                          f"got {stored_as(array) or array.dtype} {array.shape}")

    cdef str label(self, Py_ssize_t i):
        label = self.tensors[i].label
        return label.replace("grads", "curvature", 1) if self.curving else label

    cdef list counted(self, list arrays):
        """A copy of a list that another thread may be changing."""
        arrays = list(arrays)
        if len(arrays) != self.count:
            raise ValueError(f"{self.who}: expected {self.count} gradients, got {len(arrays)}")
        return arrays

    def bind(self, list arrays):
        """Aim at these gradients in every step that is given none."""
        self.begin()
        try:
            arrays = self.counted(arrays)
            self.aim(self.gradients, OF_STEP, arrays, False)     # (refuses before anything changes)
            self.aim(self.bound, OF_BOUND, arrays, False)
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
        cdef Job job
        cdef Py_ssize_t i
        self.begin()
        try:
            if means is not None:
                aim_curvatures(self, gradients, curvatures)
            self.ready(&job, gradients, self.scale_of(grad_scale), zero_grads)
            if curvatures is not None and not finite_curvatures(self, &job):
                self.skipped += 1
                if zero_grads:
                    self.zero(gradients is None)
                return
            if self.each or self.remembers:
                self.single_out(loss)
            if self.director is not None:              # (which may fail)
                norms = self.grad_norm, self.norm_count, self.norm_mean, self.norm_variance
            if self.clip_adaptive < INFINITY and self.units_alone:
                measure_units(self, &job)
            elif self.measures:
                if self.clip_adaptive < INFINITY:
                    self.run(self.units_chunk, &job, self.unit_items)
                else:
                    self.run(self.weigh_chunk, &job, self.chunks)
                if not self.weigh(&job):
                    self.skipped += 1
                    if zero_grads:
                        self.zero(gradients is None)
                    return
            if curvatures is not None:
                bend(self, &job, means)
            if self.remembers:
                self.recall(job.gradients)
            if self.rule.sums:
                self.gauge(&job)
            if self.director is None:
                self.run(self.run_chunk, &job, self.chunks)
            else:
                try:
                    self.director.move(&job, self.run_chunk, self.values, self.width, self.missed, self.t)
                except BaseException:
                    self.grad_norm, self.norm_count, self.norm_mean, self.norm_variance = norms
                    raise
                if zero_grads:
                    self.zero(gradients is None)
            if job.unit_squares != NULL:
                self.grad_norm = norm_of_units(self)
            self.t += 1
            self.folded = 0
            for i in range(self.count):
                if job.gradients[i].g == NULL:
                    self.missed[i] += 1
                    self.aged = True
        finally:
            self.held = self.held_curvatures = None
            self.end()

    cdef int ready(self, Job* job, list gradients, double grad_scale, bint zero_grads) except -1:
        """All of a step that comes before its first pass over memory."""
        if gradients is not None:
            self.held = self.counted(gradients)
            self.aim(self.gradients, OF_STEP, self.held, zero_grads)
            job.gradients = self.gradients
        elif self.bound_arrays is None:
            raise TypeError(f"{self.who}: step() needs gradients: pass them, or bind them with grads= in the "
                            f"constructor")
        else:
            if zero_grads:
                self.aim(self.bound, OF_BOUND, self.bound_arrays, True)
            job.gradients = self.bound
        if self.sources:
            self.evaluating = True
            try:
                self.evaluate()
            finally:
                self.evaluating = False
        self.refuse_rates()
        if self.stale or (self.aged and self.misplaced(job.gradients)):
            self.sort_into_kinds()
        self.fix_instants(grad_scale)
        job.spans, job.instants, job.pieces, job.edges = self.spans, self.instants, self.pieces, self.edges
        job.sweep[0], job.sweep[1], job.slots = self.rule.sweep[0], self.rule.sweep[1], self.rule.slots
        job.gauge[0], job.gauge[1], job.terms = self.rule.gauge[0], self.rule.gauge[1], self.gauged
        job.gathers = self.rule.gathers
        job.fused = &self.rule.fused[0]
        job.unit_squares = NULL
        job.zero_grads, job.units, job.shares = zero_grads, self.units, self.shares
        job.sums, job.stochastic = self.sums, self.stochastic
        job.key = (self.seed + 1) * <uint64_t>0x9e3779b97f4a7c15 + <uint64_t>self.t * <uint64_t>0xbf58476d1ce4e5b9
        return 0

    cdef int run(self, Run work, Job* job, Py_ssize_t chunks) except -1:
        cdef Py_ssize_t k
        if self.elements < ALONE:
            with nogil:
                for k in range(chunks):
                    work(job, k)
        else:
            pool.prepare()
            with nogil:
                pool.run(work, job, chunks)
        return 0

    cdef bint weigh(self, const Job* job) except -1:
        """Add up what the pieces weigh, fix what clipping leaves of each gradient; False if the step is skipped."""
        cdef Py_ssize_t k = 0, i
        cdef double squares, total = 0, zero = 0, norm, left, share, most = self.clip_norm
        if self.clip_adaptive < INFINITY:
            judge_units(self)
        for i in range(self.count):
            squares = 0
            if self.clip_adaptive < INFINITY:
                squares = self.spans[i].shrink
                zero += self.zeros[i]
            while self.clip_adaptive == INFINITY and k < self.edges[self.chunks] and self.pieces[k].span == i:
                squares += self.sums[k].squares
                zero += self.sums[k].zero
                k += 1
            total += squares
            self.spans[i].shrink = squares
            if zero != 0 and self.nonfinite == "raise":
                raise FloatingPointError(f"{self.label(i)}: holds NaN or infinity at t = {self.t}; nothing was changed")
        norm = sqrt(total)
        self.grad_norm = norm
        if zero != 0 and self.nonfinite == "skip":
            return False
        if self.clip_zscore < INFINITY:
            most = least(most, self.ordinary(norm))
        left = least(1, most / (norm + 1e-6)) if most < INFINITY else 1
        for i in range(self.count):
            share = 1
            if self.clip_tensor_norm < INFINITY:
                share = least(1, self.clip_tensor_norm / (left * sqrt(self.spans[i].shrink) + 1e-6))
            self.spans[i].shrink = left * share
        if left != 1 or self.clip_tensor_norm < INFINITY:
            for i in range(self.count if self.each else self.kind_count):
                self.instants[i].staged = True
        return True

    cdef double ordinary(self, double norm) noexcept:
        """How large a norm may be among those of past steps, of which it then is one."""
        cdef double far, deviation, most = INFINITY
        if norm != norm:
            return INFINITY
        if self.norm_count < self.clip_zscore_warmup:
            if norm < INFINITY:
                self.norm_count += 1
                far = norm - self.norm_mean
                self.norm_mean += far / self.norm_count
                self.norm_variance += (far * (norm - self.norm_mean) - self.norm_variance) / self.norm_count
            return INFINITY
        deviation = sqrt(self.norm_variance)
        far = (norm - self.norm_mean) / (deviation + 1e-6)
        if far > self.clip_zscore:
            most = norm = self.norm_mean + self.clip_zscore * deviation / (far / self.clip_zscore)
        self.norm_mean = self.clip_zscore_alpha * self.norm_mean + (1 - self.clip_zscore_alpha) * norm
        far = norm - self.norm_mean
        self.norm_variance = self.clip_zscore_alpha * self.norm_variance + (1 - self.clip_zscore_alpha) * (far * far)
        return most

    cdef int zero(self, bint bound) except -1:
        """A skipped step zeroes the gradients all the same, or what is wrong with them would stay."""
        for array in (self.bound_arrays if bound else self.held):
            if array is not None:
                array[...] = 0
        return 0

    def set_clock(self, int64_t t, list missed):
        """Where the optimizer stands: updates done, and how many of them each tensor missed."""
        cdef Py_ssize_t i
        self.t = t
        for i in range(self.count):
            self.missed[i] = missed[i]
        self.stale = True

    def missed_steps(self) -> list:
        """How many steps each tensor had no gradient in."""
        cdef Py_ssize_t i
        return [self.missed[i] for i in range(self.count)]


include "plan_units.pxi"
include "plan_curvature.pxi"
include "plan_rows.pxi"
