# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The reading pass: squares of gradients, and whether all is finite, by chunk or by unit."""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.floating_point_mode cimport enter_kernel_mode, leave_kernel_mode
from fastlr._kernels.norms cimport (
    NormLanes, clear_lanes, finish_lanes, measure_tile, measure_units, scaled_unit_factor, scaled_unit_squares,
)
from fastlr._kernels.structs cimport (
    TILE, ChunkOperands, ChunkSum, GradientView, ScalarGroup, StepJob, TensorView, UnitRange, UnitSums, find_operands,
)
from fastlr._kernels.tiles cimport load_tile
from fastlr.rules.element cimport real


cdef void measure_chunk(ChunkSum* total, const GradientView* gradient, const ScalarGroup* group, Py_ssize_t start,
                        Py_ssize_t size, real* also_typed) noexcept nogil:
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch
    cdef const real* g
    cdef NormLanes lanes
    cdef Py_ssize_t i = start, n
    clear_lanes(&lanes)
    while i < start + size:
        n = start + size - i
        if n > TILE:
            n = TILE
        g = load_tile(scratch, raw, <char*>gradient.g, gradient.measured_layout, NULL, gradient.stored, i, n)
        measure_tile(g, &lanes, group, n)
        i += n
    finish_lanes(total, &lanes)

cdef void measure_chunks(void* context, Py_ssize_t task) noexcept nogil:
    """Measure the gradients of one chunk."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = enter_kernel_mode()
    cdef Py_ssize_t k
    cdef ChunkOperands x
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        if not find_operands(&x, job, k):
            job.sums[k].squares, job.sums[k].nonfinite = 0, 0
        elif x.view.is_double:
            measure_chunk(&job.sums[k], x.gradient, x.group, x.chunk.start, x.chunk.size, <double*>NULL)
        else:
            measure_chunk(&job.sums[k], x.gradient, x.group, x.chunk.start, x.chunk.size, <float*>NULL)
    leave_kernel_mode(mode)


cdef void measure_unit_range(void* context, Py_ssize_t task) noexcept nogil:
    """Measure some units of one tensor."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = enter_kernel_mode()
    cdef const UnitRange* u = &job.units[task]
    cdef const TensorView* view = &job.views[u.view]
    cdef const GradientView* gradient = &job.gradients[u.view]
    cdef UnitSums* out = job.shares + u.out
    if gradient.g == NULL:
        memset(out, 0, u.count * sizeof(UnitSums))
    elif view.is_double:
        measure_units(out, u, view, gradient, &job.scalar_groups[view.scalar_group], <double*>NULL)
    else:
        measure_units(out, u, view, gradient, &job.scalar_groups[view.scalar_group], <float*>NULL)
    leave_kernel_mode(mode)


cdef double unit_factor_of(const StepJob* job, Py_ssize_t i, Py_ssize_t unit, double clip, double eps) noexcept nogil:
    cdef unsigned int mode = enter_kernel_mode()
    cdef double factor = scaled_unit_factor(job, i, unit, clip, eps)
    leave_kernel_mode(mode)
    return factor

cdef int unit_squares_of(const StepJob* job, Py_ssize_t i, double* squares) noexcept nogil:
    cdef unsigned int mode = enter_kernel_mode()
    cdef int exponent = scaled_unit_squares(job, i, squares)
    leave_kernel_mode(mode)
    return exponent


measure_task = PyCapsule_New(<void*>&measure_chunks, "fastlr.task", NULL)
unit_norms_task = PyCapsule_New(<void*>&measure_unit_range, "fastlr.task", NULL)
unit_factor = PyCapsule_New(<void*>&unit_factor_of, "fastlr.unit_factor", NULL)
unit_squares = PyCapsule_New(<void*>&unit_squares_of, "fastlr.unit_squares", NULL)

build_id = FASTLR_LAYOUT.decode()
