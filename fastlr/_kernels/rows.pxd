# cython: language_level=3
"""What crosses the wall for a step over some rows of a table: plain C."""
from libc.stdint cimport int64_t, uint64_t
from fastlr._kernels.sweep cimport MOST_SLOTS, Instant, Storage, Sum, Sweep, Walk

cdef struct Stream:
    # One array, row by row.
    char* first            # its row 0; NULL: there is no such array
    Storage stored
    Py_ssize_t pitch       # bytes from one row to the next
    Walk* walk             # the way through a row; NULL: contiguous, in order

cdef struct Rows:
    # Update `count` different rows, the k-th of them by the sum of the gradients source[begin[k]:begin[k + 1]].
    Stream p, g, scale, ema
    Stream slot[MOST_SLOTS]
    float* slot_scale[MOST_SLOTS]
    const int64_t* row
    const int64_t* begin
    const int64_t* source
    Py_ssize_t count, width            # elements of a row
    Py_ssize_t together                # rows of a chunk
    const Instant* instant
    Sweep sweep
    Sum* sums                          # of each chunk, where gradients are measured
    double shrink                      # what clipping by norm leaves
    int slots, wide
    char* totals           # a rule with a number per row: the sums of squares' means, in its precision; or NULL
    double eps             # ... and its epsilon
    bint staged                        # whether p or a slot is stored otherwise than it is computed
    bint stochastic
    uint64_t key, salt
