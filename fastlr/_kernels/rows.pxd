# cython: language_level=3
"""The structs of a step over some rows of a table, which the engine fills and the kernels read: plain C."""
from libc.stdint cimport int64_t, uint64_t
from fastlr._kernels.rule_table cimport StepFunction
from fastlr._kernels.structs cimport MAX_SLOTS, ChunkSum, ScalarGroup, Storage, StridedLayout

cdef struct RowStream:
    # One array, row by row.
    char* first            # its row 0; NULL: there is no such array
    Storage stored
    Py_ssize_t pitch       # bytes from one row to the next
    StridedLayout* layout             # the order of a row's elements; NULL: contiguous, in order

cdef struct MeasuredChunk:
    # Consecutive elements of the whole table, which a whole step measures at a time: so norms have the same bits.
    int64_t start
    Py_ssize_t first_row   # the first of the job's rows, in ascending order, that reaches into it

cdef struct RowsJob:
    # Update `count` different rows, the k-th of them by the sum of the gradients source[begin[k]:begin[k + 1]].
    RowStream p, g, scale, ema
    RowStream slot[MAX_SLOTS]
    float* slot_scale[MAX_SLOTS]
    const int64_t* row
    const int64_t* begin
    const int64_t* source
    Py_ssize_t count, width            # elements of a row
    Py_ssize_t together                # rows of a chunk
    const ScalarGroup* scalar_group
    StepFunction step
    # Where gradients are measured: the chunks with rows in them, by `measured_together` a task, and the sums of each.
    const MeasuredChunk* measured
    const int64_t* ascending           # which row is the k-th in ascending order; NULL: the k-th
    ChunkSum* sums
    Py_ssize_t measured_count, measured_together
    Py_ssize_t chunk_size
    double clip_factor                      # by which clipping by norm multiplies the gradient
    int slots, is_double
    # A rule with a number per row, or NULL: those numbers, in its precision; what adds a row's gradient to one of them
    # and gives a factor of the row's update; and the scalars that this reads.
    char* row_state
    double (*row_factor)(const void* scalars, void* row_state, double squares, Py_ssize_t width) noexcept nogil
    const void* row_scalars
    bint staged                        # whether p or a slot is stored otherwise than it is computed
    bint stochastic
    uint64_t key, random_salt
