# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The norms of gradients: the factor by which clipping multiplies each, and whether a step is done at all."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, ilogb, ldexp, sqrt
from libc.stdint cimport int64_t
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory, Workspace
from fastlr._engine.step_scalars cimport ScalarGroups
from fastlr._engine.unit_norms cimport UnitNorms
from fastlr._kernels.scaled_sum cimport smallest_squares
from fastlr._kernels.structs cimport ChunkSum, GradientView, ScalarGroup, StepJob, TaskFunction, TensorView

build_id = FASTLR_LAYOUT.decode()


# Squares of float64 may overflow, or vanish, where the numbers are ordinary ones. Then they are measured again, times a
# power of two, as BLAS does in `nrm2`; no bit of a norm depends on that, as such products are exact.

cdef double LARGEST_NORM = ldexp(1, 511)           # whose square is finite


cdef int lost_squares(double squares, double nonfinite, bint any_double) noexcept nogil:
    """Whether a sum of squares of finite numbers overflowed or vanished, or 0."""
    if nonfinite != 0:
        return 0
    if squares == INFINITY:
        return OVERFLOWED
    return VANISHED if any_double and squares < smallest_squares() else 0


cdef int scale_exponent(int lost, double grad_factor) noexcept nogil:
    """The power of two by which gradients are measured again, so that the factor, too, stays a normal number."""
    cdef int exponent = ilogb(grad_factor)
    return -540 - min(0, exponent) if lost == OVERFLOWED else 600 - max(0, exponent)


cdef void scale_group(ScalarGroup* group, int exponent) noexcept nogil:
    group.grad_factor, group.clip_value = ldexp(group.grad_factor, exponent), ldexp(group.clip_value, exponent)


cdef inline double bound(value) except? -1:
    """The bound that a stage was given, infinity if none."""
    return INFINITY if value is None else value


cdef class Clipping:
    """What an optimizer's stages (see stages.py) do by norms.

    `reads_all`: the rule itself reads all gradients before it writes.
    """

    def __cinit__(self, Layout layout, kernels, stages, bint reads_all):
        cdef double adaptive = bound(stages.clip_adaptive)
        cdef Py_ssize_t i
        self.memory, self.layout = Memory(), layout
        self.clip_norm, self.clip_tensor_norm = bound(stages.clip_norm), bound(stages.clip_tensor_norm)
        self.clip_zscore, self.clip_zscore_alpha = bound(stages.clip_zscore), stages.clip_zscore_alpha
        self.clip_zscore_warmup, self.nonfinite = stages.clip_zscore_warmup, stages.nonfinite
        self.skips, self.refuses = stages.nonfinite == "skip", stages.nonfinite == "raise"
        self.grad_norm = self.grad_norm_before = not_measured()
        self.measures = min(self.clip_norm, self.clip_tensor_norm, self.clip_zscore) < INFINITY \
            or self.nonfinite != "propagate"
        self.kernels = kernels
        self.squares = <double*>self.memory.take(layout.count, sizeof(double))
        self.exponents, self.scaled = <int*>self.memory.take(layout.count, sizeof(int)), Workspace()
        for i in range(layout.count):
            self.any_double |= layout.views[i].is_double
        self.sums = <ChunkSum*>self.memory.take(layout.chunk_count, sizeof(ChunkSum))
        if adaptive < INFINITY:
            self.units = UnitNorms(layout, kernels, stages.clip_adaptive_axis, adaptive, stages.clip_adaptive_eps,
                                   not (self.measures or reads_all))

    cdef bint measure(self, StepJob* job, ScalarGroups scalars, int64_t t) except -1:
        """Read the gradients once if a stage needs their norms; False if the step is skipped."""
        cdef Verdict verdict
        if self.units is None and not self.measures:
            return True
        self.find_task()
        thread_pool.prepare_for(self.layout.elements)
        with nogil:
            verdict = self.judge(job, scalars)
        if verdict == REFUSED:
            raise self.nonfinite_error(self.layout.tensors[self.refused].label, t)
        if verdict == NO_MEMORY:
            raise MemoryError
        return verdict == GOES

    cdef Verdict judge(self, StepJob* job, ScalarGroups scalars) noexcept nogil:
        """The same for a caller without the interpreter lock, who has found the task and prepared the threads with it.
        """
        if self.units is None:
            if not self.measures:
                return GOES
            self.measure_chunks(job)
        elif self.units.alone:
            self.units.measure_alone(job)
            return GOES
        else:
            self.units.measure(job)
        self.grad_norm_before, self.norms_before = self.grad_norm, self.norms
        return self.add_up(job, scalars)

    cdef int find_task(self) except -1:
        """Load what measures gradients."""
        if self.measure_task == NULL:
            self.measure_task = <TaskFunction>PyCapsule_GetPointer(self.kernels.measure_task, "fastlr.task")
        return 0

    cdef void measure_chunks(self, StepJob* job) noexcept nogil:
        job.sums = self.sums
        thread_pool.do_all(self.measure_task, job, self.layout.tasks, self.layout.elements)

    cdef double sum_chunks(self, Py_ssize_t i, Py_ssize_t* k, double* nonfinite) noexcept nogil:
        """The squares of tensor i, whose chunks begin with number k; then k is the first of the next tensor."""
        cdef double squares = 0
        nonfinite[0] = 0
        while k[0] < self.layout.chunk_count and self.layout.chunks[k[0]].view == i:
            squares += self.sums[k[0]].squares
            nonfinite[0] += self.sums[k[0]].nonfinite
            k[0] += 1
        return squares

    cdef Verdict add_up(self, const StepJob* job, ScalarGroups scalars) noexcept nogil:
        """Add up what was measured, and find each gradient's factor."""
        cdef Py_ssize_t k = 0, i, count = self.layout.count
        cdef TensorView* views = self.layout.views
        cdef double* squares = self.squares
        cdef bint by_unit = self.units is not None
        cdef bint by_tensor = self.clip_tensor_norm < INFINITY
        cdef double total = 0, nonfinite = 0, own, norm, factor, smallest = 1, scale = 1
        cdef double limit = self.clip_norm
        cdef int lost = 0, exponent = 0
        for i in range(count):
            if by_unit:
                squares[i], own = self.units.squares[i], self.units.nonfinite[i]
            else:
                squares[i] = self.sum_chunks(i, &k, &own)
                if squares[i] == INFINITY and own == 0:
                    lost = OVERFLOWED
            total += squares[i]
            nonfinite += own
            if self.refuses and nonfinite != 0:
                self.refused = i
                return REFUSED
        if by_unit:
            exponent = self.units.exponent()
            lost = exponent != 0
            for i in range(count):
                self.exponents[i] = self.units.exponents[i]
        else:
            lost = lost or lost_squares(total, nonfinite, self.any_double)
            if lost and not self.measure_again(job, scalars, lost, &exponent):
                return NO_MEMORY
        if lost:
            scale, total = ldexp(1, exponent), 0
            for i in range(count):
                total += ldexp(squares[i], 2 * (exponent - self.exponents[i]))
        norm = sqrt(total)
        self.grad_norm = ldexp(norm, -exponent)
        if nonfinite != 0 and self.skips:
            return SKIPPED
        if self.clip_zscore < INFINITY:
            limit = smaller(limit, self.zscore_limit(self.grad_norm))
        factor = clip_factor(limit, norm, scale) if limit < INFINITY else 1
        for i in range(count):
            views[i].clip_factor = factor
            if by_tensor:
                scale = ldexp(1, self.exponents[i]) if lost else 1
                views[i].clip_factor *= clip_factor(self.clip_tensor_norm, factor * sqrt(squares[i]), scale)
            smallest = min(smallest, views[i].clip_factor)
        if smallest < smallest_factor():
            for i in range(count):
                views[i].clip_factor = ldexp(views[i].clip_factor, FACTOR_EXPONENT)
            for i in range(scalars.count()):
                scale_group(&scalars.groups[i], -FACTOR_EXPONENT)
        if factor != 1 or by_tensor:
            scalars.stage_all()
        return GOES

    cdef bint measure_again(self, const StepJob* job, ScalarGroups scalars, int lost, int* exponent) noexcept nogil:
        """Measure the gradients whose squares overflowed or vanished times a power of two; False without memory."""
        cdef StepJob again = job[0]
        cdef Py_ssize_t i, k = 0
        cdef size_t size = self.layout.count * sizeof(GradientView)
        cdef double squares, nonfinite
        again.gradients = <GradientView*>self.scaled.grown(size + scalars.count() * sizeof(ScalarGroup))
        if again.gradients == NULL:
            return False
        exponent[0] = scale_exponent(lost, scalars.groups[0].grad_factor)
        again.scalar_groups = <ScalarGroup*>(<char*>again.gradients + size)
        for i in range(scalars.count()):
            again.scalar_groups[i] = scalars.groups[i]
            scale_group(&again.scalar_groups[i], exponent[0])
        for i in range(self.layout.count):
            again.gradients[i] = job.gradients[i]
            if self.layout.views[i].is_double and (lost == VANISHED or self.squares[i] == INFINITY):
                self.exponents[i] = exponent[0]
            else:
                self.exponents[i], again.gradients[i].g = 0, NULL
        thread_pool.do_all(self.measure_task, &again, self.layout.tasks, self.layout.elements)
        for i in range(self.layout.count):
            squares = self.sum_chunks(i, &k, &nonfinite)
            if self.exponents[i] != 0:
                self.squares[i] = squares
        return True

    cdef void forget_latest(self) noexcept nogil:
        """Remember what was known before the latest step, which failed after its gradients were measured."""
        if self.measures or self.units is not None:
            self.grad_norm, self.norms = self.grad_norm_before, self.norms_before

    cdef double zscore_limit(self, double norm) noexcept nogil:
        """How large a norm may be, judged by those of past steps; from then on it is one of them."""
        cdef double distance, deviation, limit = INFINITY
        if norm != norm:
            return INFINITY
        if self.norms.count < self.clip_zscore_warmup:
            if norm < LARGEST_NORM:
                self.norms.count += 1
                distance = norm - self.norms.mean
                self.norms.mean += distance / self.norms.count
                self.norms.variance += (distance * (norm - self.norms.mean) - self.norms.variance) / self.norms.count
            return INFINITY
        deviation = sqrt(self.norms.variance)
        distance = (norm - self.norms.mean) / (deviation + 1e-6)
        if distance > self.clip_zscore:
            limit = norm = self.norms.mean + self.clip_zscore * deviation / (distance / self.clip_zscore)
        self.norms.mean = self.clip_zscore_alpha * self.norms.mean + (1 - self.clip_zscore_alpha) * norm
        distance = norm - self.norms.mean
        self.norms.variance = self.clip_zscore_alpha * self.norms.variance \
            + (1 - self.clip_zscore_alpha) * (distance * distance)
        return limit

    cdef object nonfinite_error(self, str label, int64_t t):
        return FloatingPointError(f"{label}: holds NaN or infinity at t = {t}; nothing was changed")
