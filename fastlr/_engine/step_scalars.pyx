# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The scalars of one step: all that does not depend on an element, computed once, in double."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._engine.arrays cimport ArrayView, read_array
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory
from fastlr._engine.compiled_schedule cimport CompiledSchedule, rate
from fastlr._kernels.rule_table cimport MAX_SUMS, RuleTable
from fastlr._kernels.scaled_sum cimport is_lost_sum
from fastlr._kernels.structs cimport Chunk, GradientView, NormsFunction, ScalarGroup, StepJob, TaskFunction, TensorView
from fastlr.rules.scalars cimport step_scalars

build_id = FASTLR_LAYOUT.decode()

DECAYS = {"coupled": COUPLED, "decoupled": DECOUPLED, "independent": INDEPENDENT, "corrected": CORRECTED}


cdef void fill_scalar_group(ScalarGroup* now, const StepConstants* constants, const double* values, bint is_double,
                            double lr_factor, Decay decay, double decay_share, int64_t t,
                            double grad_scale) noexcept nogil:
    """The scalars of update `t`: `values` are a group's, `decay_share` is the share of weight decay that applies.

    An eps of 0 is passed as a number so small that no root of a mean square changes by it: so 0 / 0 moves nothing.
    """
    cdef int k
    cdef double lr = values[0] * lr_factor
    cdef double weight_decay = values[constants.weight_decay] * decay_share
    for k in range(constants.rule.hypers):
        now.hyper[k] = values[constants.first_hyper + k]
    if constants.eps >= 0 and now.hyper[constants.eps] == 0:
        now.hyper[constants.eps] = 1024 * (DBL_MIN if is_double else <double>FLT_MIN)
    now.now = step_scalars(lr, <double>t)
    now.decay_by_lr, now.l2 = 0, 0
    if decay == COUPLED:
        now.l2 = weight_decay
    elif decay != INDEPENDENT and constants.rule.decay_inside_update:
        now.now.weight_decay = weight_decay
    elif decay != INDEPENDENT:
        now.decay_by_lr = lr * weight_decay
        now.now.decay_factor = 1 - now.decay_by_lr
    else:
        now.now.decay_factor = 1 - weight_decay
    if constants.rule.scalars != NULL:
        constants.rule.scalars(now.hyper, &now.now)
    now.grad_factor = (-1 if constants.maximize else 1) / grad_scale
    now.clip_value, now.ema_decay = constants.clip_value, constants.ema_decay
    now.staged = now.grad_factor != 1 or now.clip_value < INFINITY or now.l2 != 0


cdef inline bint any_lost(const double* sums, int count) noexcept nogil:
    """Whether squares of one of these sums may have overflowed or vanished."""
    cdef int j
    for j in range(count):
        if is_lost_sum(sums[j]):
            return True
    return False


cdef class ScalarGroups:
    """The scalars of an optimizer's tensors, one set for all tensors that share them; values come by `assign`."""

    def __cinit__(self, Layout layout, rule, kernels, tuple names, list bounds, int groups, shared, stages,
                  bint exact_eps):
        cdef int k
        cdef Py_ssize_t i, n = layout.count
        cdef ArrayView array_view
        cdef Memory memory = Memory()
        self.memory, self.layout, self.names, self.schedules = memory, layout, names, {}
        self.width, self.group_count = <int>len(names), groups
        if self.width > MAX_VALUES:
            raise ValueError(f"{layout.caller}: more than {MAX_VALUES} hyper-parameters")
        for k in range(self.width):
            self.low[k], self.high[k] = bounds[k]
        self.constants.rule = <const RuleTable*>PyCapsule_GetPointer(rule, "fastlr.rule")
        self.constants.first_hyper = self.width - self.constants.rule.hypers
        self.constants.weight_decay = names.index("weight_decay")
        self.constants.eps = -1
        if "eps" in names and not exact_eps:
            self.constants.eps = <int>names.index("eps") - self.constants.first_hyper
        self.constants.maximize, self.constants.ema_decay = stages.maximize, stages.ema_decay or 0
        self.constants.clip_value = INFINITY if stages.clip_value is None else stages.clip_value
        self.values = <double*>memory.take(groups * self.width, sizeof(double))
        self.max_lrs = <double*>memory.take(groups, sizeof(double))
        self.nodes = <const Node**>memory.take(groups * self.width, sizeof(const Node*))
        self.skipped_steps = <int64_t*>memory.take(n, sizeof(int64_t))
        self.tensor_keys = <ScalarGroupKey*>memory.take(n, sizeof(ScalarGroupKey))
        self.keys = <ScalarGroupKey*>memory.take(n, sizeof(ScalarGroupKey))
        self.key_of = <int*>memory.take(n, sizeof(int))
        self.hash_mask = 1
        while <Py_ssize_t>self.hash_mask < 2 * n:
            self.hash_mask *= 2
        self.hash_table = <int*>memory.take(self.hash_mask, sizeof(int))
        self.hash_mask -= 1
        for i, tensor in enumerate(layout.tensors):
            self.tensor_keys[i] = ScalarGroupKey(tensor.group, <Decay>DECAYS[tensor.decay], tensor.decays,
                                                 tensor.is_double, tensor.lr_scale, 0)
        self.groups = self.shared_groups = <ScalarGroup*>memory.take(n, sizeof(ScalarGroup))
        self.per_tensor = self.constants.rule.sums > 0
        self.remembers = self.constants.rule.memories + self.constants.rule.shared > 0
        if self.per_tensor or self.remembers:
            self.shared_groups = <ScalarGroup*>memory.take(n, sizeof(ScalarGroup))
            self.first_with_key = <Py_ssize_t*>memory.take(n, sizeof(Py_ssize_t))
            self.memory_before = <double*>memory.take(n * self.constants.rule.memories, sizeof(double))
        if self.per_tensor:
            self.chunk_terms = <double*>memory.take(layout.chunk_count, MAX_SUMS * sizeof(double))
            self.terms_task = <TaskFunction>PyCapsule_GetPointer(kernels.terms_task, "fastlr.task")
            self.norms = <NormsFunction>PyCapsule_GetPointer(kernels.norms, "fastlr.norms")
        read_array(shared, &array_view)
        self.shared_array, self.shared = shared, <double*>array_view.data
        self.stale = True

    # Hyper-parameters

    cpdef assign(self, int group, int index, value):
        """Give a group's hyper-parameter a number, or a callable t -> number."""
        if self.evaluating:
            raise RuntimeError(f"{self.layout.caller}: a schedule is giving its value; set {self.names[index]} "
                               f"between steps")
        if callable(value):
            self.schedules[group, index] = value
        else:
            self.values[group * self.width + index] = self.bounded(index, value)
            self.schedules.pop((group, index), None)
        self.nodes[group * self.width + index] = \
            (<CompiledSchedule>value).nodes if isinstance(value, CompiledSchedule) else NULL
        self.callables = 0
        for schedule in self.schedules.values():
            self.callables += not isinstance(schedule, CompiledSchedule)

    cdef double bounded(self, int index, value) except? -1:
        cdef double x = value
        if not (self.low[index] <= x < self.high[index]):
            raise ValueError(f"{self.layout.caller}: {self.names[index]} must be in [{self.low[index]:g}, "
                             f"{self.high[index]:g}), got {value}")
        return x

    cdef int evaluate(self, int64_t t) except -1:
        """Set the values that schedules give at t."""
        cdef int group, index
        self.evaluating = True
        try:
            for (group, index), schedule in self.schedules.items():
                self.values[group * self.width + index] = self.value_at(index, schedule, t)
        finally:
            self.evaluating = False
        return 0

    cdef Py_ssize_t evaluate_nodes(self, int64_t t) noexcept nogil:
        """Set the values that schedules of fastlr give at t; where (group * width + index) one gives none, or -1."""
        cdef Py_ssize_t k
        cdef double x
        for k in range(self.group_count * self.width):
            if self.nodes[k] != NULL:
                x = rate(self.nodes[k], <double>t)
                if not self.low[k % self.width] <= x < self.high[k % self.width]:
                    self.nodes_gave = x
                    return k
                self.values[k] = x
        return -1

    cdef double value_at(self, int index, object schedule, int64_t t) except? -1:
        cdef double x
        if isinstance(schedule, CompiledSchedule):
            x = (<CompiledSchedule>schedule).at(<double>t)
            if x != x:
                schedule(t)            # raises the error that says why there is no value
        else:
            value = schedule(t)
            try:
                x = value
            except TypeError:
                raise TypeError(f"{self.layout.caller}: the schedule of {self.names[index]} must give a number, gave "
                                f"{value!r} at t = {t}") from None
        if not (self.low[index] <= x < self.high[index]):
            raise ValueError(f"{self.layout.caller}: {self.names[index]} must be in [{self.low[index]:g}, "
                             f"{self.high[index]:g}), its schedule gave {x} at t = {t}")
        return x

    cdef int refuse_rates(self, int64_t t) except -1:
        """ValueError if a learning rate is above the largest that was announced."""
        cdef int group = self.rate_above_peak()
        if group >= 0:
            raise ValueError(f"{self.layout.caller}: decay='corrected': lr is {self.values[group * self.width]:g} "
                             f"at t = {t}, above lr_max = {self.max_lrs[group]:g}; give the largest as lr_max")
        return 0

    cdef int rate_above_peak(self) noexcept nogil:
        """The first group whose learning rate is that large, or -1."""
        cdef int group
        for group in range(self.group_count):
            if 0 < self.max_lrs[group] * (1 + 1e-9) < self.values[group * self.width]:
                return group
        return -1

    cdef double decay_share(self, int group, int decay, bint decays) noexcept nogil:
        """The share of weight decay that applies."""
        if decays and decay == CORRECTED and self.max_lrs[group] > 0:
            return self.values[group * self.width] / self.max_lrs[group]
        return decays

    cdef dict values_by_name(self, int group):
        """The hyper-parameters of a group of parameters."""
        cdef int k
        return {name: self.values[group * self.width + k] for k, name in enumerate(self.names)}

    # Scalar groups

    cdef int prepare(self, const GradientView* gradients, int64_t t, double grad_scale) except -1:
        """Compute all scalars of the step at `t` that depend on no earlier step and no gradient."""
        if self.schedules:
            self.evaluate(t)
        if self.corrected:
            self.refuse_rates(t)
        self.fill_all(gradients, t, grad_scale)
        return 0

    cdef void fill_all(self, const GradientView* gradients, int64_t t, double grad_scale) noexcept nogil:
        """The same, once all values are known."""
        if self.stale or (self.skips_changed and self.keys_differ(gradients)):
            self.find_keys()
        self.fill(t, grad_scale)

    cdef void find_keys(self) noexcept nogil:
        """Find the tensors that share all scalars of a step."""
        cdef Py_ssize_t i
        cdef int at
        cdef ScalarGroupKey* key
        memset(self.hash_table, 0xff, (self.hash_mask + 1) * sizeof(int))
        self.key_count = 0
        for i in range(self.layout.count):
            key = &self.tensor_keys[i]
            key.skipped_steps = self.skipped_steps[i]
            at = self.entry(key)
            if self.hash_table[at] < 0:
                self.keys[self.key_count], self.hash_table[at] = key[0], self.key_count
                self.key_count += 1
            self.key_of[i] = self.hash_table[at]
            self.layout.views[i].scalar_group = <int>i if self.per_tensor else self.key_of[i]
        self.stale = self.skips_changed = False

    cdef int entry(self, const ScalarGroupKey* key) noexcept nogil:
        """The entry of the hash table that a key has, or gets."""
        cdef uint64_t hashed = 0
        cdef size_t at
        cdef const ScalarGroupKey* other
        memcpy(&hashed, &key.lr_factor, sizeof(double))
        hashed = (hashed ^ <uint64_t>key.skipped_steps * <uint64_t>0xbf58476d1ce4e5b9) * <uint64_t>0x9e3779b97f4a7c15
        hashed = (hashed ^ <uint64_t>(key.group * 16 + key.decay * 4 + key.decays * 2 + key.is_double)) \
            * <uint64_t>0x9e3779b97f4a7c15
        at = <size_t>(hashed >> 32) & self.hash_mask
        while self.hash_table[at] >= 0:
            other = &self.keys[self.hash_table[at]]
            if other.group == key.group and other.decay == key.decay and other.decays == key.decays \
                    and other.is_double == key.is_double and other.lr_factor == key.lr_factor \
                    and other.skipped_steps == key.skipped_steps:
                break
            at = (at + 1) & self.hash_mask
        return <int>at

    cdef bint keys_differ(self, const GradientView* gradients) noexcept nogil:
        """Whether a tensor that this step needs has skipped another number of steps than its key says."""
        cdef Py_ssize_t i
        cdef bint same = True
        for i in range(self.layout.count):
            if self.skipped_steps[i] != self.keys[self.key_of[i]].skipped_steps:
                if gradients[i].g != NULL or self.per_tensor:
                    return True
                same = False
        self.skips_changed = not same
        return False

    cdef void fill(self, int64_t t, double grad_scale) noexcept nogil:
        cdef int k
        cdef ScalarGroupKey* key
        for k in range(self.key_count):
            key = &self.keys[k]
            fill_scalar_group(&self.shared_groups[k], &self.constants, self.values + key.group * self.width,
                              key.is_double, key.lr_factor, key.decay,
                              self.decay_share(key.group, key.decay, key.decays), t + 1 - key.skipped_steps, grad_scale)

    cdef void fill_tensor(self, Py_ssize_t i, ScalarGroup* now, int64_t t, double grad_scale) noexcept nogil:
        """The scalars of tensor i alone."""
        cdef const ScalarGroupKey* key = &self.tensor_keys[i]
        fill_scalar_group(now, &self.constants, self.values + key.group * self.width, key.is_double,
                          key.lr_factor, key.decay, self.decay_share(key.group, key.decay, key.decays),
                          t + 1 - self.skipped_steps[i], grad_scale)

    cdef int count(self) noexcept nogil:
        """How many scalar groups a step begins with."""
        return <int>self.layout.count if self.per_tensor else self.key_count

    cdef const ScalarGroupKey* key(self, Py_ssize_t i) noexcept nogil:
        """What the tensors of one of those have in common."""
        return &self.keys[self.key_of[i] if self.per_tensor else i]

    cdef void stage_all(self) noexcept nogil:
        """Let every gradient be changed before the rule sees it."""
        cdef int k
        for k in range(self.count()):
            self.groups[k].staged = True

    # What a rule remembers or sums

    cdef void begin(self, double loss) noexcept nogil:
        """Start from what tensors with the same key share: a copy each, where their sums will add to it."""
        cdef Py_ssize_t i
        cdef double max_lr = 0
        for i in range(self.key_count):
            max_lr = max(max_lr, self.shared_groups[i].now.lr)
        for i in range(self.key_count):
            self.shared_groups[i].now.loss, self.shared_groups[i].now.max_lr = loss, max_lr
        for i in range(self.count()):
            self.groups[i] = self.shared_groups[self.key_of[i] if self.per_tensor else i]
        if self.split:
            for i in range(self.layout.count):
                self.layout.views[i].scalar_group = self.key_of[i]
        self.split = False

    cdef void begin_tensors(self, const GradientView* gradients) noexcept nogil:
        """Let the rule begin the step of each tensor: once for all with the same key and memory."""
        cdef Py_ssize_t i, first
        cdef const RuleTable* rule = self.constants.rule
        cdef size_t size = rule.memories * sizeof(double)
        cdef double** memories = self.layout.memories
        cdef int k, free_group = self.key_count
        for k in range(self.key_count):
            self.first_with_key[k] = -1
        for i in range(self.layout.count):
            if gradients[i].g == NULL:
                continue
            k = self.key_of[i]
            first = self.first_with_key[k]
            if first >= 0 and memcmp(self.memory_before + k * rule.memories, memories[i], size) == 0:
                memcpy(memories[i], memories[first], size)
                if self.per_tensor:
                    self.groups[i].now = self.groups[first].now
                continue
            if first < 0:
                self.first_with_key[k] = i
                memcpy(self.memory_before + k * rule.memories, memories[i], size)
            elif not self.per_tensor:
                # (there are as many groups as tensors; the scalars of the key's own group have changed already)
                self.groups[free_group], self.groups[free_group].now = self.groups[k], self.shared_groups[k].now
                self.layout.views[i].scalar_group, self.split = free_group, True
                free_group += 1
            k = self.layout.views[i].scalar_group
            if rule.begin != NULL:
                rule.begin(self.groups[k].hyper, &self.groups[k].now, memories[i], self.shared)

    cdef void reduce_terms(self, StepJob* job) noexcept nogil:
        """The first pass of a reducing rule over the tensors, and what follows from its sums; of squares, its norms.

        Norms are computed again where squares were lost. The threads have been made by `thread_pool.prepare_for`.
        """
        cdef const Chunk* chunks = self.layout.chunks
        cdef const TensorView* views = self.layout.views
        cdef const GradientView* gradients = job.gradients
        cdef Py_ssize_t chunk_count = self.layout.chunk_count
        cdef const RuleTable* rule = self.constants.rule
        cdef ScalarGroup* groups = self.groups
        cdef Py_ssize_t i, k, begin, chunk
        cdef double[MAX_SUMS] sums
        cdef double* terms = self.chunk_terms
        cdef double total
        cdef bint of_squares
        cdef int j, count = rule.sums
        thread_pool.do_all(self.terms_task, job, self.layout.tasks, self.layout.elements)
        if rule.finish_all != NULL:
            self.finish_all(gradients)
        if rule.finish == NULL:
            return
        k = 0
        for i in range(self.layout.count):
            begin = k
            while k < chunk_count and chunks[k].view == i:
                k += 1
            if gradients[i].g == NULL:
                continue
            of_squares = rule.normed != NULL and not views[i].is_double
            for j in range(count):             # (a sum stays in a register until its root is taken: half the time)
                total = 0
                for chunk in range(begin, k):
                    total += terms[chunk * MAX_SUMS + j]
                sums[j] = sqrt(total) if of_squares else total
            if rule.normed != NULL and not of_squares:
                if any_lost(sums, count):
                    self.norms(job, rule.normed, count, i, sums)
                else:
                    for j in range(count):
                        sums[j] = sqrt(sums[j])
            rule.finish(groups[i].hyper, &groups[i].now, self.layout.memories[i], self.shared, sums,
                        <double>views[i].size)

    cdef void finish_all(self, const GradientView* gradients) noexcept nogil:
        """What follows from the sums over all tensors together."""
        cdef const Chunk* chunks = self.layout.chunks
        cdef const RuleTable* rule = self.constants.rule
        cdef Py_ssize_t k, first = -1, size = 0
        cdef double[MAX_SUMS] totals
        cdef int j
        for j in range(MAX_SUMS):
            totals[j] = 0
        for k in range(self.layout.chunk_count):
            if gradients[chunks[k].view].g != NULL:
                first = chunks[k].view if first < 0 else first
                size += chunks[k].size
                for j in range(rule.sums):
                    totals[j] += self.chunk_terms[k * MAX_SUMS + j]
        if first >= 0:
            rule.finish_all(self.groups[first].hyper, &self.groups[first].now, self.shared, totals, <double>size)

    # Skipped steps

    cdef void count_step(self, const GradientView* gradients) noexcept nogil:
        """Count the step that was done for every tensor without a gradient."""
        cdef Py_ssize_t i, count = self.layout.count
        for i in range(count):
            if gradients[i].g == NULL:
                self.skip(i, 1)

    cdef void skip(self, Py_ssize_t i, int64_t steps) noexcept nogil:
        """Let tensor i have skipped so many steps more: its updates and their random bits are counted without them."""
        cdef TensorView* view = &self.layout.views[i]
        self.skipped_steps[i] += steps
        view.random_salt -= <uint64_t>steps * random_step()
        self.skips_changed = True
