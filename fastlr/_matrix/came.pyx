# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""CAME: Adafactor with a momentum, which moves less where it and the update disagree.

Of a matrix:

1. Sum the gradient's squares of rows and columns. Then move their means R and C, and make factors of them.
2. Sum the squares of the update. Then find by how much its root mean square exceeds `clip`.
3. Move m, and sum the squares of what it differs from the update, by row and column. Then move their means RU and CU,
   and make factors of those.
4. Apply m times those factors.

A vector: move v and sum the squares of the update; then move m, and apply it.
"""
from libc.float cimport DBL_MAX, FLT_MAX, FLT_MIN
from libc.math cimport sqrt
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.rules.element cimport real, root
from fastlr._matrix.factors cimport finish_means, move_mean_squares, sum_factored_squares, sum_squares
from fastlr._matrix.rule_table cimport (
    PER_COLUMN, PER_ELEMENT, PER_ROW, MatrixBlock, MatrixOperation, MatrixRuleTable, MatrixTensor, declared, larger,
    total_of_blocks,
)
from fastlr._kernels.lanes cimport sum_of_squares
from fastlr._matrix.sums cimport add_squares_by_column
from fastlr._matrix.updates cimport UPDATE_BUFFER, MakeRow, apply_rows

cdef struct CAMESettings:
    double beta1, beta2, beta3, eps1, eps2, clip

cdef struct CAMEScalars:
    double beta1, beta2, eps1
    double max_factor      # the largest number: no gradient and no mean square, 0 / 0, is no update
    double clip_factor     # of the update

cdef enum:
    M, R, C, RU, CU        # slots of a matrix
    V = 1                  # of a vector, beside m


cdef void begin(MatrixTensor* tensor) noexcept nogil:
    cdef const CAMESettings* h = <const CAMESettings*>tensor.settings
    cdef CAMEScalars* now = <CAMEScalars*>tensor.scalars
    now.beta1, now.beta2, now.eps1 = h.beta1, h.beta2, h.eps1
    now.max_factor = DBL_MAX if tensor.is_double else FLT_MAX

cdef void clip_update(MatrixTensor* tensor) noexcept nogil:
    cdef CAMEScalars* now = <CAMEScalars*>tensor.scalars
    cdef double rms = sqrt(total_of_blocks(tensor, 0) / <double>tensor.size)
    now.clip_factor = 1
    if rms != 0:
        now.clip_factor = 1 / larger(rms / (<const CAMESettings*>tensor.settings).clip, 1)


# A matrix

cdef void finish_squares(MatrixTensor* tensor) noexcept nogil:
    cdef const CAMESettings* h = <const CAMESettings*>tensor.settings
    finish_means(tensor, <double*>tensor.slot[R], <double*>tensor.slot[C], h.beta2, 1 - h.beta2, h.eps1, 0)

cdef void sum_update(real* also_typed, MatrixBlock* block) noexcept nogil:
    sum_factored_squares(also_typed, block, (<const CAMEScalars*>block.scalars).max_factor)

cdef void instability_row(const real* restrict g, real* restrict m, const real* restrict c, real* restrict difference,
                          real r, real clip_factor, real beta, real rest, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    cdef real update
    for j in range(n):
        update = g[j] * (r * c[j]) * clip_factor
        m[j] = beta * m[j] + rest * update
        difference[j] = update - m[j]

cdef void sum_instability(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef const CAMEScalars* now = <const CAMEScalars*>block.scalars
    cdef real[UPDATE_BUFFER] difference
    cdef Py_ssize_t i, j, n, k
    memset(block.col_sums, 0, block.cols * sizeof(double))
    for i in range(block.rows):
        block.row_sums[i * block.row_step] = 0
        j = 0
        while j < block.cols:
            n = block.cols - j if block.cols - j < UPDATE_BUFFER else UPDATE_BUFFER
            k = i * block.stride + j
            instability_row(<const real*>block.g + k, <real*>block.slot[M] + k, <const real*>block.col_factors + j,
                            difference, (<const real*>block.row_factors)[i], <real>now.clip_factor, <real>now.beta1,
                            <real>(1 - now.beta1), n)
            block.row_sums[i * block.row_step] += sum_of_squares(difference, n)
            add_squares_by_column(difference, 1, n, n, block.col_sums + j)
            j += n

cdef void finish_instability(MatrixTensor* tensor) noexcept nogil:
    cdef const CAMESettings* h = <const CAMESettings*>tensor.settings
    finish_means(tensor, <double*>tensor.slot[RU], <double*>tensor.slot[CU], h.beta3, 1 - h.beta3, h.eps2, 0)

cdef void scaled_mean_row(real* restrict update, const real* restrict m, const real* restrict c, real r,
                          Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        update[j] = m[j] * (r * c[j])

cdef void make_row(real* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil:
    scaled_mean_row(update, <const real*>block.slot[M] + row * block.stride + col, <const real*>block.col_factors + col,
                    (<const real*>block.row_factors)[row], n)

cdef void move(real* also_typed, MatrixBlock* block) noexcept nogil:
    apply_rows(also_typed, block, <MakeRow>&make_row[real])


# A vector

cdef void move_squares(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef const CAMEScalars* now = <const CAMEScalars*>block.scalars
    move_mean_squares(also_typed, block, block.slot[V], now.beta2, 1 - now.beta2, now.eps1, now.max_factor)

cdef void divided_mean_row(real* restrict update, const real* restrict g, const real* restrict v, real* restrict m,
                           real clip_factor, real beta, real rest, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    cdef real root_of_v, zero = 0, least = <real>FLT_MIN       # (below the root of any number: 0 / 0 is 0)
    for j in range(n):
        root_of_v = root(v[j])
        root_of_v = root_of_v if root_of_v != zero else least
        m[j] = beta * m[j] + rest * (g[j] / root_of_v * clip_factor)
        update[j] = m[j]

cdef void make_vector_row(real* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col,
                          Py_ssize_t n) noexcept nogil:
    cdef const CAMEScalars* now = <const CAMEScalars*>block.scalars
    cdef Py_ssize_t k = row * block.stride + col
    divided_mean_row(update, <const real*>block.g + k, <const real*>block.slot[V] + k, <real*>block.slot[M] + k,
                     <real>now.clip_factor, <real>now.beta1, <real>(1 - now.beta1), n)

cdef void move_vector(real* also_typed, MatrixBlock* block) noexcept nogil:
    apply_rows(also_typed, block, <MakeRow>&make_vector_row[real])


cdef MatrixRuleTable matrix_table, vector_table
cdef CAMESettings settings
memset(&matrix_table, 0, sizeof(matrix_table))
memset(&vector_table, 0, sizeof(vector_table))
memset(&settings, 0, sizeof(settings))

matrix_table.phases, matrix_table.row_terms, matrix_table.col_sums = 4, 1, True
matrix_table.row_factors, matrix_table.col_factors, matrix_table.begin = True, True, &begin
matrix_table.finish = [&finish_squares, &clip_update, &finish_instability, NULL]
matrix_table.operations[0] = [<MatrixOperation>&sum_squares[float], <MatrixOperation>&sum_squares[double]]
matrix_table.operations[1] = [<MatrixOperation>&sum_update[float], <MatrixOperation>&sum_update[double]]
matrix_table.operations[2] = [<MatrixOperation>&sum_instability[float], <MatrixOperation>&sum_instability[double]]
matrix_table.operations[3] = [<MatrixOperation>&move[float], <MatrixOperation>&move[double]]

vector_table.phases, vector_table.begin, vector_table.finish[0] = 2, &begin, &clip_update
vector_table.operations[0] = [<MatrixOperation>&move_squares[float], <MatrixOperation>&move_squares[double]]
vector_table.operations[1] = [<MatrixOperation>&move_vector[float], <MatrixOperation>&move_vector[double]]

rules = {
    "matrix": declared(&matrix_table, settings, [("m", PER_ELEMENT), ("R", PER_ROW), ("C", PER_COLUMN),
                                                 ("RU", PER_ROW), ("CU", PER_COLUMN)], sizeof(CAMEScalars)),
    "vector": declared(&vector_table, settings, [("m", PER_ELEMENT), ("v", PER_ELEMENT)], sizeof(CAMEScalars)),
}

build_id = FASTLR_LAYOUT.decode()
