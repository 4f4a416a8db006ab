# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Updates the running means of the curvature, which a rule divides by, from estimates given beside the gradients."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.clipping cimport Clipping
from fastlr._engine.gradients cimport Gradients
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory
from fastlr._engine.step_scalars cimport ScalarGroups
from fastlr._kernels.structs cimport MAX_SLOTS, ScalarGroup, StepJob, TaskFunction

build_id = FASTLR_LAYOUT.decode()


cdef class Curvature:
    """The estimates that an optimizer's steps are given."""

    def __cinit__(self, Layout layout, ScalarGroups scalars, kernels):
        self.memory, self.layout, self.scalars = Memory(), layout, scalars
        self.estimates = Gradients(layout, "curvature")
        self.groups = <ScalarGroup*>self.memory.take(layout.count, sizeof(ScalarGroup))
        self.accumulate_task = <TaskFunction>PyCapsule_GetPointer(kernels.accumulate_task, "fastlr.task")

    cdef int read(self, list estimates, list gradients, int64_t t) except -1:
        """Read where estimates are, if there are any. All is checked here but whether they are finite."""
        cdef Layout layout = self.layout
        cdef Py_ssize_t i
        cdef const int64_t* skipped = self.scalars.skipped_steps
        cdef bint first = False
        if estimates is not None:
            self.estimates.read(estimates, False)
        for i in range(layout.count):
            first |= skipped[i] >= t
        if not first or gradients is None or len(gradients) != layout.count:
            return 0                   # (a wrong number is refused when the gradients are read)
        for i in range(layout.count):
            if skipped[i] >= t and gradients[i] is not None \
                    and (estimates is None or self.estimates.arrays[i] is None):
                raise ValueError(f"{layout.caller}: {layout.tensors[i].name!r} has its first gradient in this step, "
                                 f"and its curvature was never estimated; give step(grads, curvature=...)")
        return 0

    cdef void fill_job(self, StepJob* job, const StepJob* step, uint64_t key) noexcept:
        """A job over estimates as they are given: neither unscaled nor clipped, without weight decay.

        Of a tensor that has no gradient in this step, the estimate is not read.
        """
        cdef Py_ssize_t i
        cdef int k
        cdef ScalarGroup* now
        for i in range(self.scalars.count()):
            now = &self.groups[i]
            now[0] = step.scalar_groups[i]
            now.grad_factor, now.clip_value, now.l2, now.staged = 1, INFINITY, 0, False
            for k in range(MAX_SLOTS):
                now.grad_power[k] = 0
        for i in range(self.layout.count):
            if step.gradients[i].g == NULL:
                self.estimates.views[i].g = NULL
        job[0] = step[0]
        job.gradients, job.scalar_groups, job.zero_grads, job.key = self.estimates.views, self.groups, False, key

    cdef bint all_finite(self, const StepJob* step, Clipping clipping, int64_t t) except -1:
        """Whether all estimates are finite; False if the step is skipped because one is not."""
        cdef StepJob job
        cdef Py_ssize_t k
        self.fill_job(&job, step, 0)
        clipping.find_task()
        thread_pool.prepare_for(self.layout.elements)
        with nogil:
            clipping.measure_chunks(&job)
        for k in range(self.layout.chunk_count):
            if clipping.sums[k].nonfinite != 0:
                if clipping.skips:
                    return False
                raise clipping.nonfinite_error(self.estimates.label(self.layout.chunks[k].view), t)
        return True

    cdef int update(self, const StepJob* step, uint64_t key, keeps) except -1:
        """Update the means: `keeps` says, of a group's values, the share of itself that slot k keeps, or None."""
        cdef StepJob job
        cdef Py_ssize_t i
        cdef int k
        cdef double keep
        cdef ScalarGroup* now
        self.fill_job(&job, step, key)
        for i in range(self.scalars.count()):
            now = &self.groups[i]
            for k, kept in enumerate(keeps(self.scalars.values_by_name(self.scalars.key(i).group))):
                if kept is not None:
                    keep = kept
                    now.grad_power[k], now.slot_keep[k], now.grad_share[k] = 1, keep, 1 - keep
        thread_pool.run_tasks(self.accumulate_task, &job, self.layout.tasks, self.layout.elements)
        return 0
