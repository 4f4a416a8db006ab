# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One update of one tensor, nothing kept: what the functional door and the C door share."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from fastlr._kernels.rule_table cimport RuleTable
from fastlr._kernels.structs cimport FLOAT32, FLOAT64, GradientView, ScalarGroup, StepJob, Chunk, TaskFunction, TensorView
from fastlr._engine cimport thread_pool
from fastlr._engine.step_scalars cimport COUPLED, DECOUPLED, fill_scalar_group
from fastlr._engine.plan cimport CHUNK

from fastlr._engine.instruction_set import kernels, one_build

include "build_id.pxi"

one_build("fastlr._engine.functional_step", build_id)


cdef int learn(RuleCall* known, object rule) except -1:
    """What a class declares of its rule."""
    cdef int k
    fields = rule._fields
    memset(known, 0, sizeof(RuleCall))
    known.terms.rule = <const RuleTable*>PyCapsule_GetPointer(rule._table(rule._default_rule), "fastlr.rule")
    known.terms.hyper_at = <int>len(fields) - known.terms.rule.hypers
    known.terms.decay_at = fields.index("weight_decay")
    known.decay = DECOUPLED if rule.decay_mode == "decoupled" else COUPLED
    known.terms.clip = INFINITY
    known.step_task = <TaskFunction>PyCapsule_GetPointer(kernels.step_task, "fastlr.task")
    known.width = <int>len(fields)
    for k in range(known.width):
        hyper = rule.hypers[fields[k]]
        known.defaults[k], known.low[k], known.high[k] = hyper.default, hyper.low, hyper.high
    return 0


cdef bint move(const RuleCall* known, const double* values, int64_t t, int is_double, Py_ssize_t size, void* p,
               const void* g, void** slots) noexcept nogil:
    """Update `t` of contiguous, checked arrays, by the threads that there are; False if memory is short."""
    cdef TensorView view
    cdef GradientView gradient
    cdef ScalarGroup now
    cdef StepJob job
    cdef Py_ssize_t k, tasks = (size + CHUNK - 1) // CHUNK
    cdef Chunk* chunks = <Chunk*>malloc((tasks + 1) * sizeof(Chunk))
    cdef Py_ssize_t* task_starts = <Py_ssize_t*>malloc((tasks + 1) * sizeof(Py_ssize_t))
    if chunks == NULL or task_starts == NULL:
        free(chunks)
        free(task_starts)
        return False
    memset(&view, 0, sizeof(view))             # (no walk, no factors, no mean; nor below)
    memset(&gradient, 0, sizeof(gradient))
    memset(&job, 0, sizeof(job))
    view.p, view.size, view.is_double, view.clip_factor = <char*>p, size, is_double, 1
    view.stored = gradient.stored = FLOAT64 if is_double else FLOAT32
    for k in range(known.terms.rule.slots):
        view.slot[k], view.slot_stored[k] = <char*>slots[k], view.stored
    gradient.g = <const char*>g
    fill_scalar_group(&now, &known.terms, values, 1, known.decay, 1, t, 1)
    if known.terms.rule.memories and known.terms.rule.begin != NULL:
        known.terms.rule.begin(now.hyper, &now.now, <double*>slots[known.terms.rule.slots], NULL)
    task_starts[0] = 0
    for k in range(tasks):
        chunks[k].start, chunks[k].view = k * CHUNK, 0
        chunks[k].size = size - k * CHUNK if k == tasks - 1 else CHUNK
        task_starts[k + 1] = k + 1
    job.views, job.gradients, job.scalar_groups, job.chunks, job.task_starts = &view, &gradient, &now, chunks, task_starts
    job.step[0], job.step[1] = known.terms.rule.step[0], known.terms.rule.step[1]
    job.slots = known.terms.rule.slots
    thread_pool.run(known.step_task, &job, tasks)
    free(chunks)
    free(task_starts)
    return True
