# cython: language_level=3, cdivision=True
"""Second moments of rows and columns: what Adafactor and CAME have in common.

r_i c_j = 1 / sqrt(R_i C_j / mean(R)) from running means R of rows and C of columns, so that an element's update is
g_ij r_i c_j. A vector keeps a mean square per element instead.
"""
from libc.math cimport sqrt
from libc.string cimport memset
from fastlr.rules.element cimport real, root
from fastlr._matrix.rule_table cimport MatrixBlock, MatrixTensor, larger, total_of_row
from fastlr._kernels.lanes cimport sum_of_squares
from fastlr._matrix.sums cimport add_squares_by_column
from fastlr._matrix.updates cimport UPDATE_BUFFER, at_most


cdef inline void sum_squares(real* also_typed, MatrixBlock* block) noexcept nogil:
    """Sum the gradient's squares of each row and, where there are sums of columns, of each column."""
    # Four rows at a time, so that their second reading is from cache.
    cdef const real* g = <const real*>block.g
    cdef Py_ssize_t i, k, n
    if block.col_sums != NULL:
        memset(block.col_sums, 0, block.cols * sizeof(double))
    i = 0
    while i < block.rows:
        n = 4 if block.rows - i >= 4 else block.rows - i
        for k in range(n):
            block.row_sums[(i + k) * block.row_step] = sum_of_squares(g + (i + k) * block.stride, block.cols)
        if block.col_sums != NULL:
            add_squares_by_column(g + i * block.stride, n, block.cols, block.stride, block.col_sums)
        i += n

cdef inline void factored_row(real* restrict update, const real* restrict g, const real* restrict c, real r, real bound,
                              Py_ssize_t n) noexcept nogil:
    """g r c, where r c is at most `bound`."""
    cdef Py_ssize_t j
    for j in range(n):
        update[j] = g[j] * at_most(r * c[j], bound)

cdef inline void sum_factored_squares(real* also_typed, MatrixBlock* block, double bound) noexcept nogil:
    """Sum the squares of the block's update."""
    cdef real[UPDATE_BUFFER] update
    cdef Py_ssize_t i, j, n
    block.sum[0] = 0
    for i in range(block.rows):
        j = 0
        while j < block.cols:
            n = block.cols - j if block.cols - j < UPDATE_BUFFER else UPDATE_BUFFER
            factored_row(update, <const real*>block.g + i * block.stride + j, <const real*>block.col_factors + j,
                         (<const real*>block.row_factors)[i], <real>bound, n)
            block.sum[0] += sum_of_squares(update, n)
            j += n

cdef inline void row_factors_of(real* restrict factor, const double* restrict R, double mean, bint bounded,
                                Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        factor[i] = <real>(sqrt(mean / R[i]) if R[i] != 0 or bounded else <double>0)

cdef inline void col_factors_of(real* restrict factor, const double* restrict C, bint bounded,
                                Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        factor[j] = <real>(1 / sqrt(C[j]) if C[j] != 0 or bounded else <double>0)

cdef inline void move_means(double* restrict means, const double* restrict sums, double keep, double add, double size,
                            double eps, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        means[j] = keep * means[j] + add * (sums[j] / size + eps)

cdef inline void move_row_means(const MatrixTensor* tensor, double* means, Py_ssize_t row, double keep, double add,
                                double eps) noexcept nogil:
    """Move the means of the rows of one matrix, from this row of the tensor on, by the sums of a rule with one term."""
    cdef Py_ssize_t i
    if tensor.col_blocks == 1:
        move_means(means + row, tensor.row_sums + row, keep, add, <double>tensor.cols, eps, tensor.rows)
        return
    for i in range(row, row + tensor.rows):
        means[i] = keep * means[i] + add * (total_of_row(tensor, i) / <double>tensor.cols + eps)

cdef inline void finish_means(MatrixTensor* tensor, double* R, double* C, double keep, double add, double eps,
                              double least_mean) noexcept nogil:
    """Move the means of rows and columns by this step's sums, and make factors of them.

    A row or column without any gradient so far and without an epsilon gets the factor 0, as 0 / 0 is no update, unless
    the caller bounds factors itself (`least_mean` > 0).
    """
    # (quotients and roots in loops of their own vectorise: one by one they took an eighth of a step of 64 x 64)
    cdef Py_ssize_t b, i, j, k, row, col, first
    cdef double mean
    cdef double* sums
    cdef bint bounded = least_mean > 0
    for b in range(tensor.batch):
        row, col, mean = b * tensor.rows, b * tensor.cols, 0
        move_row_means(tensor, R, row, keep, add, eps)
        for i in range(row, row + tensor.rows):
            mean += R[i]
        mean = larger(mean / <double>tensor.rows, least_mean)
        sums = tensor.col_sums + b * tensor.row_blocks * tensor.cols
        for k in range(1, tensor.row_blocks):
            first = k * tensor.cols
            for j in range(tensor.cols):
                sums[j] += sums[first + j]
        move_means(C + col, sums, keep, add, <double>tensor.rows, eps, tensor.cols)
        if tensor.is_double:
            row_factors_of(<double*>tensor.row_factors + row, R + row, mean, bounded, tensor.rows)
            col_factors_of(<double*>tensor.col_factors + col, C + col, bounded, tensor.cols)
        else:
            row_factors_of(<float*>tensor.row_factors + row, R + row, mean, bounded, tensor.rows)
            col_factors_of(<float*>tensor.col_factors + col, C + col, bounded, tensor.cols)

cdef inline void mean_squares_row(const real* restrict g, real* restrict v, real* restrict update, real keep, real add,
                                  real eps, real bound, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        v[j] = keep * v[j] + add * (g[j] * g[j] + eps)
        update[j] = g[j] * at_most(<real>1 / root(v[j]), bound)

cdef inline void move_mean_squares(real* also_typed, MatrixBlock* block, void* v, double keep, double add, double eps,
                                   double bound) noexcept nogil:
    """A vector: move the mean squares, and sum the squares of the update g / sqrt(v)."""
    cdef real[UPDATE_BUFFER] update
    cdef Py_ssize_t i, j, n, k
    block.sum[0] = 0
    for i in range(block.rows):
        j = 0
        while j < block.cols:
            n = block.cols - j if block.cols - j < UPDATE_BUFFER else UPDATE_BUFFER
            k = i * block.stride + j
            mean_squares_row(<const real*>block.g + k, <real*>v + k, update, <real>keep, <real>add, <real>eps,
                             <real>bound, n)
            block.sum[0] += sum_of_squares(update, n)
            j += n
