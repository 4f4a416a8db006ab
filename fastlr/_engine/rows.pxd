# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._engine.arrays cimport ArrayView
from fastlr._engine.clipping cimport Verdict
from fastlr._engine.plan cimport Plan
from fastlr._kernels.rows cimport RowsJob, RowStream
from fastlr._kernels.structs cimport MAX_DIMENSIONS, MAX_SLOTS, StridedLayout

cdef enum:
    STREAMS = MAX_SLOTS + 4   # parameter, gradient, running mean, learning-rate factors, slots
    MAX_REASON = 200           # bytes of why rows are refused

cdef struct RowLayouts:
    # How the rows of each array are traversed.
    StridedLayout param, gradient, ema, lr_factors
    StridedLayout[MAX_SLOTS] slot
    Py_ssize_t[STREAMS * 2 * MAX_DIMENSIONS] lengths

cdef struct RowArrays:
    # The arrays of one tensor.
    ArrayView param, ema, lr_factors
    ArrayView[MAX_SLOTS] slot

cdef int prepare_rows(Plan plan) except -1
cdef bint rows_refused(Plan plan, Py_ssize_t i, char* reason) noexcept nogil
cdef void lay_out_rows(Plan plan, Py_ssize_t i, RowsJob* job, RowLayouts* layouts,
                       const RowArrays* arrays) noexcept nogil
cdef void lay_out_stream(RowStream* stream, StridedLayout* row_layout, const ArrayView* array_view) noexcept nogil
cdef Verdict move_rows(Plan plan, Py_ssize_t i, RowsJob* job, double grad_scale, bint ends_step) noexcept nogil
