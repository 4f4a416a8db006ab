# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Adafactor: Adam's denominator from mean squares of rows and columns; a vector has a mean square per element.

Of a matrix:

1. Sum the gradient's squares of rows and columns, and the parameter's squares. Then move the means, make factors of
   them, and set the learning rate by the parameter's size.
2. Sum the squares of the update. Then divide the learning rate by what the update's root mean square exceeds `clip`.
3. Apply the update.

Of a vector the first and second are one.
"""
from libc.float cimport DBL_MAX, FLT_MAX
from libc.math cimport pow, sqrt
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.rules.element cimport real, root
from fastlr._matrix.factors cimport factored_row, finish_means, move_mean_squares, sum_factored_squares, sum_squares
from fastlr._matrix.rule_table cimport (
    PER_COLUMN, PER_ELEMENT, PER_ROW, MatrixBlock, MatrixOperation, MatrixRuleTable, MatrixTensor, declared, larger,
    total_of_blocks,
)
from fastlr._matrix.scaled_norm cimport is_lost, scale_for_sum, scaled_sum_of_squares
from fastlr._kernels.lanes cimport sum_of_squares
from fastlr._matrix.updates cimport MakeRow, apply_rows, at_most

cdef struct AdafactorSettings:
    double beta2_decay, eps1, eps2, clip
    # options, 0 or 1: eps1 is added to squares, or bounds mean(R) and the root; lr is capped by 1 / sqrt(t); steps are
    # relative to the parameter's root mean square
    double adds_eps1, caps_lr, scales_by_param

cdef struct AdafactorScalars:
    double keep, add       # of the running means
    double eps             # what is added to squares
    double max_factor      # a bound of r * c
    double least_mean      # a bound of mean(R) from below
    bint scales_by_param

cdef enum:
    R, C                   # slots of a matrix
    V = 0                  # of a vector


cdef void layout(MatrixTensor* tensor) noexcept nogil:
    tensor.reads_param = (<const AdafactorSettings*>tensor.settings).scales_by_param != 0

cdef void begin(MatrixTensor* tensor) noexcept nogil:
    cdef const AdafactorSettings* h = <const AdafactorSettings*>tensor.settings
    cdef AdafactorScalars* now = <AdafactorScalars*>tensor.scalars
    now.add = pow(<double>tensor.t, -h.beta2_decay)
    now.keep, now.eps, now.least_mean, now.scales_by_param = 1 - now.add, 0, 0, h.scales_by_param != 0
    # (the largest number: no gradient and no mean square, 0 / 0, is no update)
    now.max_factor = DBL_MAX if tensor.is_double else FLT_MAX
    if h.adds_eps1 != 0:
        now.eps = h.eps1
        return
    now.max_factor = 1 / h.eps1
    if h.eps1 == 0:        # the machine epsilon
        now.max_factor = 1 / (2.220446049250313e-16 if tensor.is_double else 1.1920928955078125e-07)
    now.least_mean = 1 / now.max_factor

cdef double param_rms(MatrixTensor* tensor) noexcept nogil:
    cdef double total = total_of_blocks(tensor, 1), scale
    if tensor.is_double and is_lost(total):
        scale = scale_for_sum(total)
        return sqrt(scaled_sum_of_squares(<const double*>tensor.p, tensor.size, scale) / <double>tensor.size) / scale
    return sqrt(total / <double>tensor.size)

cdef void set_learning_rate(MatrixTensor* tensor) noexcept nogil:
    cdef const AdafactorSettings* h = <const AdafactorSettings*>tensor.settings
    cdef double lr = tensor.given.now.lr
    if h.caps_lr != 0 and lr > 1 / sqrt(<double>tensor.t):
        lr = 1 / sqrt(<double>tensor.t)
    if h.scales_by_param != 0:
        lr *= larger(param_rms(tensor), h.eps2)
    tensor.group.now.lr = lr

cdef void clip_update(MatrixTensor* tensor) noexcept nogil:
    cdef double rms = sqrt(total_of_blocks(tensor, 0) / <double>tensor.size)
    if rms != 0:
        tensor.group.now.lr /= larger(rms / (<const AdafactorSettings*>tensor.settings).clip, 1)

cdef void sum_param_squares(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef const real* p = <const real*>block.p
    cdef Py_ssize_t i
    block.sum[1] = 0
    if block.cols == block.stride:
        block.sum[1] = sum_of_squares(p, block.rows * block.cols)
        return
    for i in range(block.rows):
        block.sum[1] += sum_of_squares(p + i * block.stride, block.cols)


# A matrix

cdef void sum_both(real* also_typed, MatrixBlock* block) noexcept nogil:
    if (<const AdafactorScalars*>block.scalars).scales_by_param:
        sum_param_squares(also_typed, block)
    sum_squares(also_typed, block)

cdef void finish_squares(MatrixTensor* tensor) noexcept nogil:
    cdef const AdafactorScalars* now = <const AdafactorScalars*>tensor.scalars
    finish_means(tensor, <double*>tensor.slot[R], <double*>tensor.slot[C], now.keep, now.add, now.eps, now.least_mean)
    set_learning_rate(tensor)

cdef void sum_update(real* also_typed, MatrixBlock* block) noexcept nogil:
    sum_factored_squares(also_typed, block, (<const AdafactorScalars*>block.scalars).max_factor)

cdef void make_row(real* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil:
    factored_row(update, <const real*>block.g + row * block.stride + col, <const real*>block.col_factors + col,
                 (<const real*>block.row_factors)[row], <real>(<const AdafactorScalars*>block.scalars).max_factor, n)

cdef void move(real* also_typed, MatrixBlock* block) noexcept nogil:
    apply_rows(also_typed, block, <MakeRow>&make_row[real])


# A vector

cdef void move_squares(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef const AdafactorScalars* now = <const AdafactorScalars*>block.scalars
    if now.scales_by_param:
        sum_param_squares(also_typed, block)
    move_mean_squares(also_typed, block, block.slot[V], now.keep, now.add, now.eps, now.max_factor)

cdef void finish_vector(MatrixTensor* tensor) noexcept nogil:
    set_learning_rate(tensor)
    clip_update(tensor)

cdef void divided_row(real* restrict update, const real* restrict g, const real* restrict v, real bound,
                      Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        update[j] = g[j] * at_most(<real>1 / root(v[j]), bound)

cdef void make_vector_row(real* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col,
                          Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k = row * block.stride + col
    divided_row(update, <const real*>block.g + k, <const real*>block.slot[V] + k,
                <real>(<const AdafactorScalars*>block.scalars).max_factor, n)

cdef void move_vector(real* also_typed, MatrixBlock* block) noexcept nogil:
    apply_rows(also_typed, block, <MakeRow>&make_vector_row[real])


cdef MatrixRuleTable matrix_table, vector_table
cdef AdafactorSettings settings
memset(&matrix_table, 0, sizeof(matrix_table))
memset(&vector_table, 0, sizeof(vector_table))
memset(&settings, 0, sizeof(settings))

matrix_table.phases, matrix_table.row_terms, matrix_table.col_sums = 3, 1, True
matrix_table.row_factors, matrix_table.col_factors = True, True
matrix_table.layout, matrix_table.begin = &layout, &begin
matrix_table.finish[0], matrix_table.finish[1] = &finish_squares, &clip_update
matrix_table.operations[0] = [<MatrixOperation>&sum_both[float], <MatrixOperation>&sum_both[double]]
matrix_table.operations[1] = [<MatrixOperation>&sum_update[float], <MatrixOperation>&sum_update[double]]
matrix_table.operations[2] = [<MatrixOperation>&move[float], <MatrixOperation>&move[double]]

vector_table.phases, vector_table.layout, vector_table.begin = 2, &layout, &begin
vector_table.finish[0] = &finish_vector
vector_table.operations[0] = [<MatrixOperation>&move_squares[float], <MatrixOperation>&move_squares[double]]
vector_table.operations[1] = [<MatrixOperation>&move_vector[float], <MatrixOperation>&move_vector[double]]

rules = {
    "matrix": declared(&matrix_table, settings, [("R", PER_ROW), ("C", PER_COLUMN)], sizeof(AdafactorScalars)),
    "vector": declared(&vector_table, settings, [("v", PER_ELEMENT)], sizeof(AdafactorScalars)),
}

build_id = FASTLR_LAYOUT.decode()
