# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One step of an optimizer: everything is checked before the first write, then one pass over memory.

A plan is made when parameters are bound. What does not change between steps is found then: see layout.pyx. A step reads
the gradients' addresses (gradients.pyx), computes the scalars (step_scalars.pyx), reads the gradients once more if a
stage or the rule needs sums of them (clipping.pyx), and lets threads do the tasks (thread_pool.pyx).
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.arrays cimport ArrayView, read_array
from fastlr._engine.clipping cimport GOES, NO_MEMORY, SKIPPED, Clipping, Verdict, not_measured
from fastlr._engine.curvature cimport Curvature
from fastlr._engine.gradients cimport Gradients
from fastlr._engine.layout cimport Layout
from fastlr._engine.step_scalars cimport ScalarGroups, random_step
from fastlr._kernels.rule_table cimport RuleTable, StorageLoop
from fastlr._kernels.scaled_sum cimport ScaledSum, add_square, clear_sum, root_of_sum
from fastlr._kernels.structs cimport (
    MOVED_NORMS, NO_CONSTRAINT, ConstrainFunction, GradientView, ScalarGroup, StepJob, TaskFunction, TensorView,
)
from fastlr._matrix.matrix_step cimport MatrixStep

import numpy as np

from fastlr._engine.tensor_versions import mark_written

build_id = FASTLR_LAYOUT.decode()


cdef double as_number(grad_scale, str caller) except? -1:
    if isinstance(grad_scale, bool):
        raise TypeError(f"{caller}: grad_scale must be a number, got {grad_scale}")
    try:
        return grad_scale
    except TypeError:
        raise TypeError(f"{caller}: grad_scale must be a number, got {grad_scale!r}") from None


def norm_of(array):
    """The norm of an array of doubles, also where squares overflow or vanish."""
    largest = np.max(np.abs(array), initial=0)
    if not 0 < largest < np.inf:
        return float(largest)
    exponent = np.frexp(largest)[1]
    return float(np.ldexp(np.sqrt(np.sum(np.square(np.ldexp(array, -exponent)))), exponent))


cdef double norm_of_chunks(Layout layout, Py_ssize_t i, int which) noexcept nogil:
    """One of the norms that are measured of tensor i, from those of its chunks."""
    cdef ScaledSum total
    cdef Py_ssize_t k
    clear_sum(&total)
    for k in range(layout.norms_of(i)):
        add_square(&total, layout.views[i].after.norms[MOVED_NORMS * k + which])
    return root_of_sum(&total)


cdef class Plan:
    """How the tensors of one optimizer are stepped (`tensors`: see tensors.py); values come by `assign`."""

    def __cinit__(self, str caller, rule, kernels, tuple names, list bounds, list tensors, int groups, shared, stages,
                  MatrixStep matrix_step=None, bint exact_eps=False):
        self.rule = <const RuleTable*>PyCapsule_GetPointer(rule, "fastlr.rule")
        self.step_task = <TaskFunction>PyCapsule_GetPointer(kernels.step_task, "fastlr.task")
        self.kernels, self.matrix_step = kernels, matrix_step
        self.stochastic, self.seed = stages.rounding == "stochastic", stages.seed
        self.layout = Layout(caller, tensors, self.rule.slots)
        self.given = Gradients(self.layout)
        self.scalars = ScalarGroups(self.layout, rule, kernels, names, bounds, groups, shared, stages, exact_eps)
        self.clipping = Clipping(self.layout, kernels, stages, self.rule.sums > 0 or matrix_step is not None)
        memset(&self.job, 0, sizeof(StepJob))
        self.job.views, self.job.scalar_groups = self.layout.views, self.scalars.groups
        self.job.chunks, self.job.task_starts = self.layout.chunks, self.layout.task_starts
        self.job.step[0], self.job.step[1], self.job.slots = self.rule.step[0], self.rule.step[1], self.rule.slots
        self.job.reduce_terms[0], self.job.reduce_terms[1] = self.rule.terms[0], self.rule.terms[1]
        self.job.terms = self.scalars.chunk_terms
        self.job.updates_state_while_reducing = self.rule.updates_state_while_reducing
        if self.rule.storage_loop[0] != NULL:
            self.job.storage_loop = <const StorageLoop*>self.rule.storage_loop
        self.job.stochastic = self.stochastic
        if self.layout.constrains:
            self.finish_task = <TaskFunction>PyCapsule_GetPointer(kernels.finish_task, "fastlr.task")
            self.constrain_elements = <ConstrainFunction>PyCapsule_GetPointer(kernels.constrain, "fastlr.constrain")
        self.clipped_by = self.measured_scale = 1
        if self.layout.measures:
            self.clipped = <int64_t*>self.layout.memory.take(2 * self.layout.count, sizeof(int64_t))
            self.moved_by_rows = <bint*>self.layout.memory.take(self.layout.count, sizeof(bint))

    # Hyper-parameters and gradients, between steps

    def assign(self, int group, int index, value):
        """Give a group's hyper-parameter a number, or a callable t -> number."""
        before = self.scalars.schedules.get((group, index))
        self.scalars.assign(group, index, value)
        if before is not None:
            self.replaced = [before, *(self.replaced or ())] if is_taken(&self.stepping) else None

    def set_peak(self, int group, double max_lr):
        """The largest learning rate of a group, by which `corrected` decay is divided; 0 for another decay."""
        self.scalars.max_lrs[group] = max_lr
        self.scalars.corrected |= max_lr > 0

    def set_frozen(self, indices):
        """Which tensors take no gradient. (The class refuses one by name; this is for steps that come from C.)"""
        cdef Py_ssize_t k
        if indices and self.frozen == NULL:
            self.frozen = <bint*>self.layout.memory.take(self.layout.count, sizeof(bint))
        for k in range(self.layout.count if self.frozen != NULL else 0):
            self.frozen[k] = k in indices

    def set_ema_decay(self, double decay):
        """What the coming steps leave of the running mean of each parameter."""
        self.scalars.constants.ema_decay = decay

    def bind(self, list arrays):
        """Read these gradients in every step that is given none. Returns whether one is another object than before."""
        self.begin()
        try:
            return self.bind_arrays(arrays)
        finally:
            self.end()

    def bind_arrays(self, list arrays):
        """The same for a caller who keeps others from stepping."""
        cdef Gradients bound = Gradients(self.layout)
        bound.objects = <void**>bound.memory.take(self.layout.count, sizeof(void*))
        if self.bound is not None:             # (an address overlaps nothing, whoever bound it)
            memcpy(bound.checked, self.bound.checked, self.layout.count * sizeof(char*))
            if self.bound.objects != NULL:
                memcpy(bound.objects, self.bound.objects, self.layout.count * sizeof(void*))
        bound.read(arrays, False)
        self.bound = bound
        return bound.other_objects

    # One step

    cpdef int begin(self) except -1:
        """Keep others from stepping or changing what a step reads, until `end()`; RuntimeError if one is stepping."""
        if not take_flag(&self.stepping):
            raise RuntimeError(f"{self.layout.caller}: this optimizer is already stepping")
        return 0

    cpdef int end(self) except -1:
        """Let others step again."""
        give_flag(&self.stepping)
        if self.replaced is not None:          # (nobody reads them any more)
            self.replaced = None
        return 0

    def exclusively(self, call):
        """Call this while nobody else can step. (No interrupt comes between `begin` and the `try` here.)"""
        self.begin()
        try:
            call()
        finally:
            self.end()

    def retire(self, call):
        """Call this, which puts another plan in this one's place; then nobody can step this one any more.

        (No interrupt comes between `begin` and the `try` here.)
        """
        self.begin()
        try:
            call()
        except BaseException:
            self.end()
            raise

    def step(self, list gradients, grad_scale, bint zero_grads, double loss=NAN, list curvatures=None, keeps=None):
        """One update of everything; `gradients` in the order of the tensors, or None for those bound.

        A rule with `keeps` (see `Curvature.update`) is given estimates of the curvature, too.
        """
        cdef StepJob job = self.job
        cdef double scale
        if self.watched is not None:
            self.refuse_replaced()
        self.begin()
        try:
            if keeps is not None:
                self.read_curvature(gradients, curvatures)
            scale = self.checked_scale(grad_scale)
            self.read_gradients(&job, gradients, zero_grads, "step")
            if self.accumulated:
                self.refuse_without_last(job.gradients)
            self.compute_scalars(&job, scale, loss)
            if curvatures is not None and not self.curvature.all_finite(&job, self.clipping, self.t) \
                    or not self.clipping.measure(&job, self.scalars, self.t):
                self.skip(&job)
                return
            if curvatures is not None:
                self.curvature.update(&job, self.accumulation_key(), keeps)
            if self.scalars.remembers:
                self.scalars.begin_tensors(job.gradients)
            if self.scalars.per_tensor:
                thread_pool.prepare_for(self.layout.elements)
                with nogil:
                    self.scalars.reduce_terms(&job)
            self.run_tasks(&job)
            self.count_update(&job)
        finally:
            self.release()

    cpdef int refuse_replaced(self) except -1:
        """RuntimeError if a parameter is another array, or in other memory, than the one that this plan moves."""
        for watched in self.watched or ():
            key = watched.replaced()
            if key is not None:
                raise RuntimeError(f"{self.layout.caller}: {watched.replaced_by(key)}, or make a new optimizer")
        return 0

    def examine(self, list gradients, grad_scale, bint zero_grads):
        """Check all that `step` would, and change nothing: for steps of several plans, of which all go or none."""
        self.refuse_replaced()
        self.begin()
        try:
            self.checked_scale(grad_scale)
            self.given.read(gradients, zero_grads)
            if self.accumulated:
                self.refuse_without_last(self.given.views)
            if self.scalars.schedules:
                self.scalars.evaluate(self.t)
            if self.scalars.corrected:
                self.scalars.refuse_rates(self.t)
        finally:
            self.release()

    cdef int read_curvature(self, list gradients, list estimates) except -1:
        if gradients is None and self.bound is not None:
            gradients = self.bound.arrays
        if self.curvature is None:
            self.curvature = Curvature(self.layout, self.scalars, self.kernels)
        return self.curvature.read(estimates, gradients, self.t)

    cpdef double checked_scale(self, grad_scale) except? -1:
        """A number by which gradients of these parameters can be divided; ValueError for any other."""
        cdef Layout layout = self.layout
        cdef double scale = grad_scale if type(grad_scale) is float else as_number(grad_scale, layout.caller)
        if not 0 < scale < INFINITY:
            raise ValueError(f"{layout.caller}: grad_scale must be positive and finite, got {scale}")
        if not layout.min_grad_scale <= scale <= layout.max_grad_scale:
            raise ValueError(f"{layout.caller}: grad_scale must be in [{layout.min_grad_scale:.3g}, "
                             f"{layout.max_grad_scale:.3g}], where its inverse is a normal number, got {scale}")
        return scale

    cdef int read_gradients(self, StepJob* job, list gradients, bint zero_grads, str call) except -1:
        """Read where this step's gradients are; all that is checked of them is checked here. `call`: who needs them."""
        cdef Gradients source = self.given
        if gradients is not None:
            source.read(gradients, zero_grads)
        elif self.bound is None:
            raise TypeError(f"{self.layout.caller}: {call}() needs gradients: pass them, or bind them with grads= in "
                            f"the constructor")
        else:
            source = self.bound
            if zero_grads and not source.read_elsewhere:
                source.read(source.arrays, True)
        if zero_grads and source.torch_tensors is not None:
            mark_written(source.torch_tensors)
        self.current = source
        job.gradients, job.zero_grads = source.views, zero_grads
        return 0

    cdef int reserve_holds(self) except -1:
        if self.holds == NULL:
            self.holds = <bint*>self.layout.memory.take(self.layout.count, sizeof(bint))
        return 0

    cdef void count_accumulated(self, const GradientView* gradients) noexcept nogil:
        """Count gradients that were accumulated; `reserve_holds` comes before."""
        cdef Py_ssize_t i
        for i in range(self.layout.count):
            self.holds[i] = gradients[i].g != NULL or (self.accumulated > 0 and self.holds[i])
        self.accumulated += 1

    cdef Py_ssize_t without_last(self, const GradientView* gradients) noexcept nogil:
        """The first tensor whose moments hold what was accumulated, and that has no gradient in the step; or -1.

        (Its moments were divided by their decays, and would stay so. After a load it is not known which hold some.)
        """
        cdef Py_ssize_t i
        for i in range(self.layout.count if self.accumulated > 0 and self.holds != NULL else 0):
            if self.holds[i] and gradients[i].g == NULL:
                return i
        return -1

    cdef int refuse_without_last(self, const GradientView* gradients) except -1:
        cdef Py_ssize_t i = self.without_last(gradients)
        if i >= 0:
            raise ValueError(f"{self.layout.tensors[i].label}: expected a gradient, as some were accumulated in its "
                             f"moments since the latest step; pass zeros where the last batch has none")
        return 0

    def take_accumulated(self, Plan before):
        """What was accumulated in the moments of a plan whose tensors this one begins with."""
        cdef Py_ssize_t i
        self.accumulated = before.accumulated
        if before.holds != NULL:
            self.reserve_holds()
            for i in range(before.layout.count):
                self.holds[i] = before.holds[i]

    cdef int compute_scalars(self, StepJob* job, double grad_scale, double loss) except -1:
        """Compute all scalars that do not depend on the gradients."""
        self.scalars.prepare(job.gradients, self.t, grad_scale)
        if self.layout.measures:
            self.begin_measuring(grad_scale)
        if self.scalars.per_tensor or self.scalars.remembers:
            self.scalars.begin(loss)
        job.key = self.random_key()
        return 0

    cdef int run_tasks(self, StepJob* job) except -1:
        """Write: update every tensor that has a gradient."""
        if self.torch_parameters is not None:
            self.torch_parameters.mark_written()
        if self.matrix_step is None:
            return thread_pool.run_tasks(self.step_task, job, self.layout.tasks, self.layout.elements)
        before = self.measure_before(job) if self.layout.measures else None
        try:                           # (the updates of matrices may fail, before the first of them is written)
            self.matrix_step.move(job, self.scalars.values, self.scalars.width, self.scalars.skipped_steps, self.t)
        except BaseException:
            self.clipping.forget_latest()
            raise
        if before is not None:
            self.measure_after(before)
        if self.finish_task != NULL:
            thread_pool.run_tasks(self.finish_task, job, self.layout.tasks, self.layout.elements)
        return self.current.set_to_zero() if job.zero_grads else 0

    cdef void begin_measuring(self, double grad_scale) noexcept nogil:
        """Forget what the latest step moved."""
        self.forget_measured()
        self.measured_scale = grad_scale / self.clipped_by

    cdef void forget_measured(self) noexcept nogil:
        """No tensor has been measured; of one that rows moved in the step under way, it is not known how far."""
        cdef Py_ssize_t i
        cdef int k
        self.layout.clear_norms()
        for i in range(self.layout.count):
            for k in range(MOVED_NORMS if self.moved_by_rows[i] and self.layout.norms_of(i) else 0):
                self.layout.views[i].after.norms[k] = NAN

    cdef void count_rows(self, Py_ssize_t i, bint ends_step) noexcept nogil:
        """Count rows of a tensor that moved."""
        if self.layout.measures:
            self.moved_by_rows[i] = True
            self.forget_measured()
            if ends_step:
                memset(self.moved_by_rows, 0, self.layout.count * sizeof(bint))

    def take_measured(self, Plan before, list kept, bint counts):
        """What the latest step measured, of another plan: here its tensors of these indices come first. `counts`:
        and how many steps were clipped."""
        cdef Py_ssize_t k, i, j
        if not (self.layout.measures and before.layout.measures):
            return
        self.measured_scale = before.measured_scale
        for k, i in enumerate(kept):
            for j in range(MOVED_NORMS * min(self.layout.norms_of(k), before.layout.norms_of(i))):
                self.layout.views[k].after.norms[j] = before.layout.views[i].after.norms[j]
            self.moved_by_rows[k] = before.moved_by_rows[i]
            for j in range(2 if counts else 0):
                self.clipped[2 * k + j] = before.clipped[2 * i + j]

    cdef list measure_before(self, const StepJob* job):
        """Measure the gradients of a step of matrices; copies of the parameters that it moves."""
        cdef Py_ssize_t i
        cdef list before = []
        for i, tensor in enumerate(self.layout.tensors):
            before.append(None)
            if job.gradients[i].g != NULL and self.layout.norms_of(i):
                self.layout.views[i].after.norms[0] = norm_of(np.asarray(self.given_gradient(job, i), np.float64))
                before[i] = np.array(tensor.master(), np.float64)
        return before

    cdef object given_gradient(self, const StepJob* job, Py_ssize_t i):
        """A copy of tensor i's gradient before any stage, in one dimension: from where it is, as torch's or C's it is
        no array of NumPy's."""
        cdef TensorView view = self.layout.views[i]
        cdef ScalarGroup plain = job.scalar_groups[view.scalar_group]
        cdef ArrayView found
        copy = np.empty(view.size, np.float64 if view.is_double else np.float32)
        read_array(copy, &found)
        plain.staged, view.unit_factors = False, NULL
        self.matrix_step.ops.load_gradient(job, &view, &job.gradients[i], &plain, found.data, 0, view.size)
        return copy

    cdef int measure_after(self, list before) except -1:
        """What a step of matrices moved."""
        cdef Py_ssize_t i
        cdef double* norms
        for i, tensor in enumerate(self.layout.tensors):
            if before[i] is not None:
                norms = self.layout.views[i].after.norms
                norms[1], norms[2] = norm_of(tensor.master() - before[i]), norm_of(before[i])
        return 0

    cdef Verdict advance(self, StepJob* job, double grad_scale, double loss) noexcept nogil:
        """A step like that of `step` for a caller without the interpreter lock, all of whose schedules are evaluated.

        The caller has `begin` called and, with the lock, `find_task` of clipping and `prepare_for` of thread_pool; sets
        gradients of matrices to zero, and those of a step that is skipped; and calls `end`.
        """
        cdef Verdict verdict
        self.scalars.fill_all(job.gradients, self.t, grad_scale)
        if self.layout.measures:
            self.begin_measuring(grad_scale)
        if self.scalars.per_tensor or self.scalars.remembers:
            self.scalars.begin(loss)
        job.key = self.random_key()
        verdict = self.clipping.judge(job, self.scalars)
        if verdict == SKIPPED:
            self.skipped += 1
        if verdict != GOES:
            return verdict
        if self.scalars.remembers:
            self.scalars.begin_tensors(job.gradients)
        if self.scalars.per_tensor:
            self.scalars.reduce_terms(job)
        if self.matrix_step is None:
            thread_pool.do_all(self.step_task, job, self.layout.tasks, self.layout.elements)
        elif not self.matrix_step.move_alone(job, self.scalars.values, self.scalars.width, self.scalars.skipped_steps,
                                             self.t):
            self.clipping.forget_latest()
            return NO_MEMORY
        elif self.finish_task != NULL:
            thread_pool.do_all(self.finish_task, job, self.layout.tasks, self.layout.elements)
        self.count_update(job)
        return GOES

    cdef void count_update(self, StepJob* job) noexcept nogil:
        """Count the step that was done."""
        if job.unit_squares != NULL:
            self.clipping.grad_norm = self.clipping.units.norm()
        if self.layout.measures:
            self.count_clipped(job)
            memset(self.moved_by_rows, 0, self.layout.count * sizeof(bint))
        self.scalars.count_step(job.gradients)
        self.t += 1
        self.accumulated = 0

    cdef void count_clipped(self, const StepJob* job) noexcept nogil:
        """Count the tensors whose gradient this step clipped by a norm."""
        cdef Py_ssize_t i
        for i in range(self.layout.count):
            if job.gradients[i].g != NULL:
                self.clipped[2 * i] += self.layout.views[i].clip_factor != 1 or self.clipped_by != 1
                self.clipped[2 * i + 1] += 1
        self.clipped_by = 1

    cdef int skip(self, StepJob* job) except -1:
        """Count a step that is not done. Its gradients are set to zero all the same, or they would stay as they are."""
        self.skipped += 1
        return self.current.set_to_zero() if job.zero_grads else 0

    cdef int release(self) except -1:
        """Keep no array that was given for one step, and let others step."""
        self.given.arrays = self.given.torch_tensors = self.current = None
        if self.curvature is not None:
            self.curvature.estimates.arrays = None
        return self.end()

    cdef uint64_t random_key(self) noexcept nogil:
        """What random bits of this step depend on, beside the tensor's name, its skipped steps and the element."""
        return (self.seed + 1) * <uint64_t>0x9e3779b97f4a7c15 + <uint64_t>self.t * random_step()

    cdef uint64_t accumulation_key(self) noexcept nogil:
        """The same for a gradient that is added to the moments, and for the curvature after all of those."""
        return self.random_key() + <uint64_t>(self.accumulated + 1) * <uint64_t>0x94d049bb133111eb

    def constrain(self):
        """Bring every parameter within its constraint, without a step."""
        cdef StepJob job = self.job
        cdef Py_ssize_t i
        cdef const TensorView* view
        self.begin()
        try:
            if self.torch_parameters is not None:
                self.torch_parameters.mark_written()
            with nogil:
                for i in range(self.layout.count):
                    view = &self.layout.views[i]
                    if view.after != NULL and view.after.constraint != NO_CONSTRAINT and view.size:
                        self.constrain_elements(&job, view, 0, view.size)
        finally:
            self.end()

    def measured(self) -> list:
        """Of each tensor the norms of its gradient (unscaled), of its update and of the parameter before it, in the
        latest step; and how many of its steps were clipped by a norm, of how many."""
        cdef Py_ssize_t i
        cdef int64_t clipped = 0, steps = 0
        found = []
        for i in range(self.layout.count):
            if self.clipped != NULL:
                clipped, steps = self.clipped[2 * i], self.clipped[2 * i + 1]
            found.append((norm_of_chunks(self.layout, i, 0) / self.measured_scale, norm_of_chunks(self.layout, i, 1),
                          norm_of_chunks(self.layout, i, 2), clipped, steps))
        return found

    # What an optimizer shows and saves

    @property
    def caller(self) -> str:
        return self.layout.caller

    @property
    def names(self) -> tuple:
        return self.scalars.names

    @property
    def tensors(self) -> list:
        return self.layout.tensors

    @property
    def count(self) -> int:
        return self.layout.count

    @property
    def elements(self) -> int:
        return self.layout.elements

    @property
    def grad_norm(self):
        """The norm of the latest step's gradients, or None where it was not measured."""
        return None if self.clipping.grad_norm == not_measured() else self.clipping.grad_norm

    @grad_norm.setter
    def grad_norm(self, norm):
        self.clipping.grad_norm = not_measured() if norm is None else norm

    @property
    def norms(self) -> tuple:
        """What clip_zscore knows of past norms: how many of its warm-up it has seen, their mean and variance."""
        return self.clipping.norms.count, self.clipping.norms.mean, self.clipping.norms.variance

    @norms.setter
    def norms(self, tuple known):
        self.clipping.norms.count, self.clipping.norms.mean, self.clipping.norms.variance = known

    def set_clock(self, int64_t t, list skipped_steps):
        """Set how many updates were done, and how many of them each tensor skipped."""
        cdef Py_ssize_t i
        self.t = t
        if self.holds != NULL:
            memset(self.holds, 0, self.layout.count * sizeof(bint))
        for i in range(self.layout.count):
            self.scalars.skip(i, <int64_t>skipped_steps[i] - self.scalars.skipped_steps[i])
        self.scalars.stale = True

    def read_skipped_steps(self) -> list:
        """How many steps each tensor had no gradient in."""
        cdef Py_ssize_t i
        return [self.scalars.skipped_steps[i] for i in range(self.layout.count)]
