# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One update of one tensor that keeps nothing: what `fastlr.kernels` and the C interface share."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.layout cimport CHUNK
from fastlr._engine.step_scalars cimport COUPLED, DECOUPLED, fill_scalar_group
from fastlr._kernels.rule_table cimport RuleTable
from fastlr._kernels.structs cimport (
    FLOAT32, FLOAT64, Chunk, GradientView, ScalarGroup, StepJob, TaskFunction, TensorView,
)

from fastlr._engine.instruction_set import kernels, one_build

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr._engine.functional_step", build_id)

cdef struct TensorStep:
    StepJob job
    TaskFunction step_task


cdef int read_rule(RuleCall* call, object cls) except -1:
    """Read what a class declares of its rule."""
    cdef int k
    fields = cls._fields
    memset(call, 0, sizeof(RuleCall))
    call.constants.rule = <const RuleTable*>PyCapsule_GetPointer(cls._table(cls._default_rule), "fastlr.rule")
    call.constants.first_hyper = <int>len(fields) - call.constants.rule.hypers
    call.constants.weight_decay = fields.index("weight_decay")
    call.constants.eps = -1
    if "eps" in fields and not cls._takes_eps_exactly(next(iter(cls.conventions), None)):
        call.constants.eps = <int>fields.index("eps") - call.constants.first_hyper
    call.constants.clip_value = INFINITY
    call.decay = DECOUPLED if cls.decay_mode == "decoupled" else COUPLED
    call.step_task = <TaskFunction>PyCapsule_GetPointer(kernels.step_task, "fastlr.task")
    call.width = <int>len(fields)
    for k in range(call.width):
        hyper = cls.hypers[fields[k]]
        call.defaults[k], call.low[k], call.high[k] = hyper.default, hyper.low, hyper.high
    return 0


cdef void step_chunk(void* context, Py_ssize_t task) noexcept nogil:
    """One chunk of the tensor, as a step of its own."""
    cdef TensorStep* step = <TensorStep*>context
    cdef StepJob job = step.job
    cdef Chunk chunk
    cdef Py_ssize_t[2] task_starts
    cdef Py_ssize_t left = job.views.size - task * CHUNK
    task_starts[0], task_starts[1] = 0, 1
    chunk.start, chunk.size, chunk.view = task * CHUNK, CHUNK if left > CHUNK else left, 0
    job.chunks, job.task_starts = &chunk, task_starts
    step.step_task(&job, 0)


cdef void update_tensor(const RuleCall* call, const double* values, int64_t t, bint is_double, Py_ssize_t size, void* p,
                        const void* g, void** slots) noexcept nogil:
    """Update `t` of contiguous, checked arrays, by the threads that have been started."""
    cdef TensorView view
    cdef GradientView gradient
    cdef ScalarGroup now
    cdef TensorStep step
    cdef int k
    memset(&view, 0, sizeof(view))             # (contiguous, without factors or running mean; likewise below)
    memset(&gradient, 0, sizeof(gradient))
    memset(&step, 0, sizeof(step))
    view.p, view.size, view.is_double, view.clip_factor = <char*>p, size, is_double, 1
    view.stored = gradient.stored = FLOAT64 if is_double else FLOAT32
    for k in range(call.constants.rule.slots):
        view.slot[k], view.slot_stored[k] = <char*>slots[k], view.stored
    gradient.g = <const char*>g
    fill_scalar_group(&now, &call.constants, values, is_double, 1, call.decay, 1, t, 1)
    if call.constants.rule.memories and call.constants.rule.begin != NULL:
        call.constants.rule.begin(now.hyper, &now.now, <double*>slots[call.constants.rule.slots], NULL)
    step.job.views, step.job.gradients, step.job.scalar_groups = &view, &gradient, &now
    step.job.step[0], step.job.step[1] = call.constants.rule.step[0], call.constants.rule.step[1]
    step.job.slots = call.constants.rule.slots
    step.step_task = call.step_task
    thread_pool.run(step_chunk, &step, (size + CHUNK - 1) // CHUNK)
