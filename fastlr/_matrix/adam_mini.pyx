# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""AdamMini: Adam with one mean square for each block of a parameter.

The tensor is seen as one matrix whose rows are those blocks.

1. Sum the gradient's squares of each row. Then move the mean square of each, and make a factor of it.
2. Move m, and apply m times its row's factor.
"""
from libc.math cimport sqrt
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.rules.element cimport real
from fastlr.rules.moments cimport AdamScalars, adam_scalars
from fastlr._matrix.factors cimport move_row_means, sum_squares
from fastlr._matrix.rule_table cimport (
    PER_ELEMENT, PER_ROW, MatrixBlock, MatrixOperation, MatrixRuleTable, MatrixTensor, declared,
)
from fastlr._matrix.updates cimport MakeRow, apply_rows

cdef struct AdamMiniSettings:
    double beta1, beta2, eps

cdef enum:
    M, V                   # slots


cdef void row_factors_of(real* restrict factor, const double* restrict v, AdamScalars now, double eps,
                         Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef double denominator
    for i in range(n):
        denominator = sqrt(v[i]) * now.debias2 + eps
        factor[i] = <real>(now.debias1 / denominator if denominator != 0 else <double>0)    # (0 / 0 is no update)

cdef void finish_squares(MatrixTensor* tensor) noexcept nogil:
    cdef const AdamMiniSettings* h = <const AdamMiniSettings*>tensor.settings
    cdef AdamScalars now
    cdef double* v = <double*>tensor.slot[V]
    adam_scalars(h.beta1, h.beta2, &tensor.given.now, &now)
    move_row_means(tensor, v, 0, h.beta2, 1 - h.beta2, 0)
    if tensor.is_double:
        row_factors_of(<double*>tensor.row_factors, v, now, h.eps, tensor.rows)
    else:
        row_factors_of(<float*>tensor.row_factors, v, now, h.eps, tensor.rows)

cdef void begin(MatrixTensor* tensor) noexcept nogil:
    tensor.scalars[0] = (<const AdamMiniSettings*>tensor.settings).beta1

cdef void scaled_mean_row(real* restrict update, const real* restrict g, real* restrict m, real beta, real rest,
                          real factor, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * g[j]
        update[j] = m[j] * factor

cdef void make_row(real* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil:
    cdef double beta = (<const double*>block.scalars)[0]
    cdef Py_ssize_t k = row * block.stride + col
    scaled_mean_row(update, <const real*>block.g + k, <real*>block.slot[M] + k, <real>beta, <real>(1 - beta),
                    (<const real*>block.row_factors)[row], n)

cdef void move(real* also_typed, MatrixBlock* block) noexcept nogil:
    apply_rows(also_typed, block, <MakeRow>&make_row[real])


cdef MatrixRuleTable table
cdef AdamMiniSettings settings
memset(&table, 0, sizeof(table))
memset(&settings, 0, sizeof(settings))
table.phases, table.row_terms, table.row_factors = 2, 1, True
table.begin, table.finish[0] = &begin, &finish_squares
table.operations[0] = [<MatrixOperation>&sum_squares[float], <MatrixOperation>&sum_squares[double]]
table.operations[1] = [<MatrixOperation>&move[float], <MatrixOperation>&move[double]]

rules = {"adam_mini": declared(&table, settings, [("m", PER_ELEMENT), ("v", PER_ROW)], sizeof(double))}

build_id = FASTLR_LAYOUT.decode()
