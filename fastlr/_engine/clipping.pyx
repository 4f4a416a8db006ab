# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The norms of gradients: the factor by which clipping multiplies each, and whether a step is done at all."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t
from fastlr._engine cimport thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory
from fastlr._engine.step_scalars cimport ScalarGroups
from fastlr._engine.unit_norms cimport UnitNorms
from fastlr._kernels.structs cimport ChunkSum, StepJob, TaskFunction

build_id = FASTLR_LAYOUT.decode()


cdef inline double bound(value) except? -1:
    """The bound that a stage was given, infinity if none."""
    return INFINITY if value is None else value


cdef class Clipping:
    """What an optimizer's stages (see stages.py) do by norms; `reads_all`: the rule reads all gradients before it steps."""

    def __cinit__(self, Layout layout, kernels, stages, bint reads_all):
        cdef double adaptive = bound(stages.clip_adaptive)
        self.memory, self.layout = Memory(), layout
        self.clip_norm, self.clip_tensor_norm = bound(stages.clip_norm), bound(stages.clip_tensor_norm)
        self.clip_zscore, self.clip_zscore_alpha = bound(stages.clip_zscore), stages.clip_zscore_alpha
        self.clip_zscore_warmup, self.nonfinite = stages.clip_zscore_warmup, stages.nonfinite
        self.measures = min(self.clip_norm, self.clip_tensor_norm, self.clip_zscore) < INFINITY \
            or self.nonfinite != "propagate"
        self.kernels = kernels
        self.squares = <double*>self.memory.take(layout.count, sizeof(double))
        self.sums = <ChunkSum*>self.memory.take(layout.chunk_count, sizeof(ChunkSum))
        if adaptive < INFINITY:
            self.units = UnitNorms(layout, kernels, stages.clip_adaptive_axis, adaptive, stages.clip_adaptive_eps,
                                   not (self.measures or reads_all))

    cdef bint measure(self, StepJob* job, ScalarGroups scalars, int64_t t) except -1:
        """Read the gradients once if a stage needs their norms; False if the step is skipped."""
        self.grad_norm_before, self.norms_before = self.grad_norm, self.norms
        if self.units is not None:
            if self.units.alone:
                self.units.measure_alone(job)
                return True
            self.units.measure(job)
        elif self.measures:
            self.measure_chunks(job)
        else:
            return True
        return self.add_up(job, scalars, t)

    cdef int measure_chunks(self, StepJob* job) except -1:
        if self.measure_task == NULL:
            self.measure_task = <TaskFunction>PyCapsule_GetPointer(self.kernels.measure_task, "fastlr.task")
        job.sums = self.sums
        thread_pool.run_tasks(self.measure_task, job, self.layout.tasks, self.layout.elements)
        return 0

    cdef bint add_up(self, const StepJob* job, ScalarGroups scalars, int64_t t) except -1:
        """Add up what was measured, and find each gradient's factor; False if the step is skipped."""
        cdef Layout layout = self.layout
        cdef Py_ssize_t k = 0, i
        cdef double total = 0, nonfinite = 0, norm, factor, limit = self.clip_norm
        for i in range(layout.count):
            if self.units is not None:
                self.squares[i] = self.units.squares[i]
                nonfinite += self.units.nonfinite[i]
            else:
                self.squares[i] = 0
                while k < layout.chunk_count and layout.chunks[k].view == i:
                    self.squares[i] += self.sums[k].squares
                    nonfinite += self.sums[k].nonfinite
                    k += 1
            total += self.squares[i]
            if nonfinite != 0 and self.nonfinite == "raise":
                raise self.nonfinite_error(layout.tensors[i].label, t)
        norm = sqrt(total)
        self.grad_norm = norm
        if nonfinite != 0 and self.nonfinite == "skip":
            return False
        if self.clip_zscore < INFINITY:
            limit = smaller(limit, self.zscore_limit(norm))
        factor = smaller(1, limit / (norm + 1e-6)) if limit < INFINITY else 1
        for i in range(layout.count):
            layout.views[i].clip_factor = factor
            if self.clip_tensor_norm < INFINITY:
                layout.views[i].clip_factor *= smaller(
                    1, self.clip_tensor_norm / (factor * sqrt(self.squares[i]) + 1e-6))
        if factor != 1 or self.clip_tensor_norm < INFINITY:
            scalars.stage_all()
        return True

    cdef void forget_latest(self) noexcept:
        """Remember what was known before the latest step, which failed after it was measured."""
        self.grad_norm, self.norms = self.grad_norm_before, self.norms_before

    cdef double zscore_limit(self, double norm) noexcept:
        """How large a norm may be, judged by those of past steps; from then on it is one of them."""
        cdef double distance, deviation, limit = INFINITY
        if norm != norm:
            return INFINITY
        if self.norms.count < self.clip_zscore_warmup:
            if norm < INFINITY:
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
