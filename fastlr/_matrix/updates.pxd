# cython: language_level=3, cdivision=True
"""Make a block's update row by row, in a buffer that stays in cache, and apply it to the parameter."""
from fastlr.rules.element cimport real
from fastlr._matrix.rule_table cimport MatrixBlock

cdef enum:
    UPDATE_BUFFER = 2048       # elements of an update that are made at a time

# Makes the update of elements col .. col + n of a row; `update` points to the precision of the rule.
ctypedef void (*MakeRow)(void* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil


cdef inline void apply(MatrixBlock* block, const void* update, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Move the parameter's elements start .. start + n by an update."""
    block.ops.apply_update(block.job, block.view, block.group, update, start, n)

cdef inline void apply_rows(real* also_typed, MatrixBlock* block, MakeRow make_row) noexcept nogil:
    """Make the update of every row, and apply it as often as the buffer is full or the run of elements ends."""
    cdef real[UPDATE_BUFFER] update
    cdef Py_ssize_t i, j, n, filled = 0, start = block.start
    for i in range(block.rows):
        j = 0
        if block.cols != block.stride and filled:
            apply(block, update, start, filled)
            filled = 0
        if filled == 0:
            start = block.start + i * block.stride
        while j < block.cols:
            n = block.cols - j
            if n > UPDATE_BUFFER - filled:
                n = UPDATE_BUFFER - filled
            make_row(update + filled, block, i, j, n)
            filled += n
            j += n
            if filled == UPDATE_BUFFER:
                apply(block, update, start, filled)
                start, filled = start + filled, 0
    if filled:
        apply(block, update, start, filled)

cdef inline real at_most(real x, real bound) noexcept nogil:
    return bound if x > bound else x          # (NaN stays)

cdef inline void mean_row(real* restrict m, const real* restrict g, real beta, real rest, Py_ssize_t n) noexcept nogil:
    """m <- beta * m + rest * g"""
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * g[j]
