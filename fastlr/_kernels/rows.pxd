# cython: language_level=3
"""The structs of a step over some rows of a table, which the engine fills and the kernels read: plain C."""
from libc.stdint cimport int32_t, int64_t, uint64_t
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

cdef enum:
    UNKNOWN_RULE = -2          # of a rule that does not say what a gradient of zero does
    STAYS = -1                 # ... of one whose parameter it leaves as it is

cdef struct PastUpdate:
    # What an update does to a row whose gradient is zero. Of the numbers over all updates of a journal, each has that
    # before it (`rising`, `log_gain`: with itself).
    ScalarGroup group
    double clip_factor
    uint64_t random_key                # of its random bits, the tensor's own salt included
    int64_t moving                     # how many move an element whose state is zero
    # Where the rule says which slot a move fades with:
    double[MAX_SLOTS] factor, zero     # each slot becomes factor * slot + zero
    int64_t scaling                    # how many multiply a slot or the parameter by other than 1
    int64_t rising                     # how many may move an element further, beside its size, than the one before
    double log_gain                    # the log of how far others move it at most, beside the first
    double log_decay                   # ... of what they leave of a parameter

cdef struct CatchUpJob:
    # Bring rows up to date: `rows` as in a step, whose gradient is zero; its `row` may be NULL for all of the table.
    RowsJob rows
    const PastUpdate* updates
    Py_ssize_t count                   # of updates
    int64_t moving, scaling, rising    # of all of them
    double log_decay
    int fades                          # the slot with which a move fades, or UNKNOWN_RULE or STAYS
    int32_t* done                      # how many of them each row has had
