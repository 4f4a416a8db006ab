# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""RowwiseAdaGrad: AdaGrad with one sum for each row, of the means of its gradients' squares.

A block is of whole rows, so its one phase moves a row's sum and applies the row's update. A step over rows does the
same by `row_factor`, bit for bit.
"""
from libc.math cimport sqrt
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.rules.element cimport real
from fastlr._kernels.structs cimport TILE
from fastlr._matrix.rule_table cimport (
    BLOCK_SIZE, PER_ROW_NARROW, MatrixBlock, MatrixOperation, MatrixRuleTable, MatrixTensor, RowFactor, declared,
)
from fastlr._matrix.sums cimport sum_of_squares_by_tiles
from fastlr._matrix.updates cimport UPDATE_BUFFER, MakeRow, apply, apply_rows

cdef struct RowwiseAdaGradSettings:
    double lr_decay, eps

cdef enum:
    S                      # slot


cdef void layout(MatrixTensor* tensor) noexcept nogil:
    tensor.block_cols = tensor.cols if tensor.cols > 0 else 1
    tensor.block_rows = BLOCK_SIZE // tensor.block_cols if BLOCK_SIZE > tensor.block_cols else 1

cdef void begin(MatrixTensor* tensor) noexcept nogil:
    cdef const RowwiseAdaGradSettings* h = <const RowwiseAdaGradSettings*>tensor.settings
    tensor.scalars[0] = h.eps
    tensor.group.now.lr /= 1 + <double>(tensor.t - 1) * h.lr_decay

cdef inline real moved_sum(real s, double squares, double size) noexcept nogil:
    return <real>(<double>s + squares / size)

cdef inline real factor_of(real s, double eps) noexcept nogil:
    cdef double denominator = sqrt(<double>s) + eps
    return <real>(1 / denominator if denominator != 0 else 0)      # (0 / 0 is no update)

cdef double row_factor(const void* scalars, real* s, double squares, Py_ssize_t width) noexcept nogil:
    s[0] = moved_sum(s[0], squares, <double>width)
    return factor_of(s[0], (<const double*>scalars)[0])

cdef void scaled_row(real* update, const real* g, real factor, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        update[j] = g[j] * factor

cdef void make_row(real* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil:
    cdef const real* g = <const real*>block.g + row * block.stride + col
    cdef real* s = <real*>block.slot[S] + row
    if col == 0:
        s[0] = moved_sum(s[0], sum_of_squares_by_tiles(g, block.cols), <double>block.cols)
    scaled_row(update, g, factor_of(s[0], (<const double*>block.scalars)[0]), n)

cdef void make_short_rows(real* restrict update, const real* restrict g, real* restrict s, double eps, Py_ssize_t rows,
                          Py_ssize_t cols) noexcept nogil:
    """Up to TILE rows of few elements, one behind another: each thing in a loop of its own, several roots at a time."""
    cdef double[TILE] squares
    cdef real[TILE] factor
    cdef Py_ssize_t i
    for i in range(rows):
        squares[i] = sum_of_squares_by_tiles(g + i * cols, cols)
    for i in range(rows):
        s[i] = moved_sum(s[i], squares[i], <double>cols)
        factor[i] = factor_of(s[i], eps)
    for i in range(rows):
        scaled_row(update + i * cols, g + i * cols, factor[i], cols)

cdef void make_rows_of_one(real* restrict update, const real* restrict g, real* restrict s, double eps,
                           Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        s[j] = moved_sum(s[j], <double>g[j] * <double>g[j], 1)
        update[j] = g[j] * factor_of(s[j], eps)

cdef void move(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef real[UPDATE_BUFFER] update
    cdef const real* g = <const real*>block.g
    cdef real* s = <real*>block.slot[S]
    cdef double eps = (<const double*>block.scalars)[0]
    cdef Py_ssize_t i = 0, n, most
    if block.cols != block.stride or block.cols > UPDATE_BUFFER // TILE:
        apply_rows(also_typed, block, <MakeRow>&make_row[real])
        return
    most = TILE if block.cols > 1 else UPDATE_BUFFER
    while i < block.rows:
        n = block.rows - i if block.rows - i < most else most
        if block.cols > 1:
            make_short_rows(update, g + i * block.cols, s + i, eps, n, block.cols)
        else:
            make_rows_of_one(update, g + i, s + i, eps, n)
        apply(block, update, block.start + i * block.cols, n * block.cols)
        i += n


cdef MatrixRuleTable table
cdef RowwiseAdaGradSettings settings
memset(&table, 0, sizeof(table))
memset(&settings, 0, sizeof(settings))
table.phases, table.layout, table.begin = 1, &layout, &begin
table.operations[0] = [<MatrixOperation>&move[float], <MatrixOperation>&move[double]]
table.row_factor = [<RowFactor>&row_factor[float], <RowFactor>&row_factor[double]]

rules = {"rowwise_adagrad": declared(&table, settings, [("s", PER_ROW_NARROW)], sizeof(double))}

build_id = FASTLR_LAYOUT.decode()
