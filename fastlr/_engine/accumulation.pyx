# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Gradients of micro-batches, added to the moments: parameters stay, and no buffer is needed."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport NAN
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.plan cimport Plan
from fastlr._engine.step_scalars cimport ScalarGroupKey, ScalarGroups
from fastlr._kernels.structs cimport ScalarGroup, StepJob, TaskFunction

build_id = FASTLR_LAYOUT.decode()


def accumulate(Plan plan, list gradients, grad_scale, bint zero_grads, shares):
    """Add one more gradient to the moments.

    `shares` gives, for a group's values and whether its tensors have had no update, the power of the gradient and the
    share of it that each slot takes.
    """
    cdef StepJob job = plan.job
    cdef Py_ssize_t i
    cdef int k, power
    cdef double share, scale
    cdef ScalarGroup* now
    cdef const ScalarGroupKey* key
    cdef TaskFunction task
    cdef ScalarGroups scalars = plan.scalars
    plan.begin()
    try:
        scale = plan.checked_scale(grad_scale)
        plan.read_gradients(&job, gradients, zero_grads, "accumulate")
        plan.compute_scalars(&job, scale, NAN)
        for i in range(scalars.count()):
            now, key = &scalars.groups[i], scalars.key(i)
            now.l2 = 0
            for k, (power, share) in enumerate(shares(scalars.values_by_name(key.group), plan.t == key.skipped_steps)):
                now.grad_power[k], now.grad_share[k], now.slot_keep[k] = power, share, 1
        job.key = plan.accumulation_key()
        if not plan.clipping.measure(&job, scalars, plan.t):
            plan.skip(&job)
            return
        plan.reserve_holds()
        task = <TaskFunction>PyCapsule_GetPointer(plan.kernels.accumulate_task, "fastlr.task")
        thread_pool.run_tasks(task, &job, plan.layout.tasks, plan.layout.elements)
        plan.count_accumulated(job.gradients)
    finally:
        plan.release()
