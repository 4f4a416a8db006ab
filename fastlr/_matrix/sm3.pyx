# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""SM3: AdaGrad that keeps, of each index of each axis, the largest sum of squares that any of its elements can have.

The tensor is one matrix of its last axis by all others. Its one phase makes and applies the update, and finds the
largest sums of rows and columns; then the arrays of all axes are made of those.
"""
from libc.math cimport INFINITY, sqrt
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.rules.element cimport real
from fastlr._matrix.rule_table cimport (
    PER_AXIS, PER_ELEMENT, MatrixBlock, MatrixOperation, MatrixRuleTable, MatrixTensor, declared,
)
from fastlr._kernels.lanes cimport LANES
from fastlr._matrix.updates cimport UPDATE_BUFFER, MakeRow, apply_rows

cdef struct SM3Settings:
    double momentum, eps

cdef enum:
    M                      # slot; NULL without a momentum


cdef inline Py_ssize_t last_axis(const MatrixTensor* tensor) noexcept nogil:
    return tensor.ndim - 1 if tensor.ndim else 0

cdef void begin(MatrixTensor* tensor) noexcept nogil:
    """The least of what is kept of a row, of all axes but the last, is its factor; of a column that of the last."""
    cdef Py_ssize_t i, k, rest, axis
    cdef double x
    (<SM3Settings*>tensor.scalars)[0] = (<const SM3Settings*>tensor.settings)[0]
    tensor.col_factors = <char*>tensor.axis_slot[last_axis(tensor)]
    for i in range(tensor.rows):
        x = INFINITY
        rest = i
        for axis in range(last_axis(tensor) - 1, -1, -1):
            k = rest % tensor.shape[axis]
            rest = rest // tensor.shape[axis]
            x = tensor.axis_slot[axis][k] if tensor.axis_slot[axis][k] < x else x
        (<double*>tensor.row_factors)[i] = x

cdef inline double larger_or_nan(double x, double bound) noexcept nogil:
    return x if (x > bound) | (x != x) else bound        # (no branch: several at a time)

cdef void covered_row(real* restrict update, const real* restrict g, const double* restrict old, double* restrict new,
                      double row, double* largest, double eps, Py_ssize_t n) noexcept nogil:
    """g / sqrt(nu + eps), and the largest nu of the row and of each column."""
    # (a loop each, or the search for the largest keeps roots from being taken several at a time)
    cdef double[UPDATE_BUFFER] nu
    cdef double[LANES] lane
    cdef Py_ssize_t i, j, whole = n // LANES * LANES
    for j in range(n):
        nu[j] = (row if row < old[j] else old[j]) + <double>g[j] * <double>g[j]
    for j in range(n):
        update[j] = <real>(<double>g[j] / sqrt(nu[j] + eps)) if nu[j] != 0 else <real>0
    for j in range(n):
        new[j] = larger_or_nan(nu[j], new[j])
    if whole:
        for j in range(LANES):
            lane[j] = 0
        for i in range(n // LANES):
            for j in range(LANES):
                lane[j] = larger_or_nan(nu[i * LANES + j], lane[j])
        for j in range(LANES):
            largest[0] = larger_or_nan(lane[j], largest[0])
    for j in range(whole, n):
        largest[0] = larger_or_nan(nu[j], largest[0])

cdef void smooth_row(real* restrict update, real* restrict m, real beta, real rest, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * update[j]
        update[j] = m[j]

cdef void make_row(real* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil:
    cdef const SM3Settings* h = <const SM3Settings*>block.scalars
    cdef Py_ssize_t k = row * block.stride + col
    covered_row(update, <const real*>block.g + k, <const double*>block.col_factors + col, block.col_sums + col,
                (<const double*>block.row_factors)[row], &block.row_sums[row * block.row_step], h.eps, n)
    if block.slot[M] != NULL:
        smooth_row(update, <real*>block.slot[M] + k, <real>h.momentum, <real>(1 - h.momentum), n)

cdef void move(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef Py_ssize_t i
    memset(block.col_sums, 0, block.cols * sizeof(double))
    for i in range(block.rows):
        block.row_sums[i * block.row_step] = 0
    apply_rows(also_typed, block, <MakeRow>&make_row[real])

cdef void finish(MatrixTensor* tensor) noexcept nogil:
    cdef Py_ssize_t i, j, k, rest, axis, last = last_axis(tensor)
    cdef double x
    cdef double* mu = tensor.axis_slot[last]
    for j in range(tensor.cols):
        mu[j] = 0
        for k in range(tensor.row_blocks):
            x = tensor.col_sums[k * tensor.cols + j]
            mu[j] = x if x > mu[j] or x != x else mu[j]
    for axis in range(last):
        memset(tensor.axis_slot[axis], 0, tensor.shape[axis] * sizeof(double))
    for i in range(tensor.rows if last else 0):
        x = tensor.row_sums[i * tensor.col_blocks]
        for k in range(1, tensor.col_blocks):
            x = tensor.row_sums[i * tensor.col_blocks + k] if tensor.row_sums[i * tensor.col_blocks + k] > x else x
        rest = i
        for axis in range(last - 1, -1, -1):
            k = rest % tensor.shape[axis]
            rest = rest // tensor.shape[axis]
            mu = tensor.axis_slot[axis]
            mu[k] = x if x > mu[k] or x != x else mu[k]


cdef MatrixRuleTable table
cdef SM3Settings settings
memset(&table, 0, sizeof(table))
memset(&settings, 0, sizeof(settings))
table.phases, table.row_terms, table.col_sums = 1, 1, True
table.row_factors, table.double_factors = True, True
table.begin, table.finish[0] = &begin, &finish
table.operations[0] = [<MatrixOperation>&move[float], <MatrixOperation>&move[double]]

rules = {"sm3": declared(&table, settings, [("m", PER_ELEMENT), ("mu", PER_AXIS)], sizeof(SM3Settings))}

build_id = FASTLR_LAYOUT.decode()
