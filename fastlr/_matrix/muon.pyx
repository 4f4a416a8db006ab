# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Muon: momentum whose singular values are all made about one.

1. Make the update from the momentum as it will be, and sum its squares. Then find the factor that makes its norm one.
2. Scale the update. A small matrix goes through the iteration here; a large one is left to Python, which makes
   products of large matrices by NumPy's BLAS.
3. Move the momentum, and apply the update.

Until the third phase nothing is written to parameter or state, so a step may fail before it.
"""
from libc.math cimport sqrt
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.rules.element cimport real
from fastlr.rules.scalars cimport debias
from fastlr._matrix.newton_schulz cimport WORKSPACE, fits_workspace, iterate, scale
from fastlr._matrix.rule_table cimport (
    PER_ELEMENT, MatrixBlock, MatrixOperation, MatrixRuleTable, MatrixTensor, declared, larger, total_of_blocks,
)
from fastlr._matrix.scaled_norm cimport is_lost, scale_for_sum, scaled_sum_of_squares
from fastlr._kernels.lanes cimport sum_of_squares
from fastlr._matrix.updates cimport UPDATE_BUFFER, apply, mean_row

cdef struct MuonSettings:
    double momentum, norm_eps
    # options: Nesterov's momentum, 0 or 1; moments corrected for their start, and norm_eps added, 0 or 1; a factor of
    # the learning rate, which depends on the matrix' shape
    double nesterov, corrects_bias, lr_factor

cdef struct MuonScalars:
    double momentum
    double m_share, g_share        # of the update, of the momentum as it will be and of the gradient
    double norm_factor             # makes the update's norm one

cdef enum:
    M                      # slot


cdef void layout(MatrixTensor* tensor) noexcept nogil:
    tensor.whole = tensor.whole and fits_workspace(tensor.rows, tensor.cols)

cdef void begin(MatrixTensor* tensor) noexcept nogil:
    cdef const MuonSettings* h = <const MuonSettings*>tensor.settings
    cdef MuonScalars* now = <MuonScalars*>tensor.scalars
    cdef bint nesterov = h.nesterov != 0
    now.momentum = h.momentum
    now.m_share = h.momentum if nesterov else 1
    now.g_share = 1 - h.momentum if nesterov else 0
    if h.corrects_bias != 0:
        now.m_share *= debias(h.momentum, tensor.t + nesterov)
        now.g_share *= debias(h.momentum, tensor.t)
    tensor.group.now.lr = tensor.given.now.lr * h.lr_factor

cdef void finish_norm(MatrixTensor* tensor) noexcept nogil:
    cdef const MuonSettings* h = <const MuonSettings*>tensor.settings
    cdef double total = total_of_blocks(tensor, 0), eps = h.norm_eps, factor, norm
    if tensor.is_double and is_lost(total):        # (the update is scaled for good: its norm may be no double)
        factor = scale_for_sum(total)
        total = scaled_sum_of_squares(<double*>tensor.update, tensor.size, factor)
        scale(<double*>tensor.update, factor, tensor.size)
        eps *= factor
    norm = sqrt(total)
    norm = norm + eps if h.corrects_bias != 0 else larger(norm, eps)
    (<MuonScalars*>tensor.scalars).norm_factor = 1 / norm if norm != 0 else 0      # (an update of zeros stays one)

cdef inline Py_ssize_t runs(const MatrixBlock* block, Py_ssize_t* length) noexcept nogil:
    """How many runs of consecutive elements a block has, and how long they are."""
    if block.cols == block.stride:
        length[0] = block.rows * block.cols
        return 1
    length[0] = block.cols
    return block.rows

cdef void momentum_row(real* restrict update, const real* restrict g, const real* restrict m, real beta, real rest,
                       real m_share, real g_share, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        update[j] = m_share * (beta * m[j] + rest * g[j]) + g_share * g[j]

cdef void make_update(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef const MuonScalars* now = <const MuonScalars*>block.scalars
    cdef Py_ssize_t i, k, n, length, first
    block.sum[0] = 0
    for i in range(runs(block, &length)):
        k = 0
        while k < length:              # (in parts that are still in cache when they are squared)
            n = length - k if length - k < UPDATE_BUFFER else UPDATE_BUFFER
            first = i * block.stride + k
            momentum_row(<real*>block.update + first, <const real*>block.g + first, <const real*>block.slot[M] + first,
                         <real>now.momentum, <real>(1 - now.momentum), <real>now.m_share, <real>now.g_share, n)
            block.sum[0] += sum_of_squares(<real*>block.update + first, n)
            k += n

cdef void orthogonalize(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef real factor = <real>(<const MuonScalars*>block.scalars).norm_factor
    cdef Py_ssize_t i
    if block.whole:
        iterate(<real*>block.update, block.rows, block.cols, factor, block.constants, block.constant_count // 3,
                <real*>block.workspace)
        return
    for i in range(block.rows):
        scale(<real*>block.update + i * block.stride, factor, block.cols)

cdef void move(real* also_typed, MatrixBlock* block) noexcept nogil:
    cdef double momentum = (<const MuonScalars*>block.scalars).momentum
    cdef Py_ssize_t i, k, n, length, first
    for i in range(runs(block, &length)):
        first = i * block.stride
        mean_row(<real*>block.slot[M] + first, <const real*>block.g + first, <real>momentum, <real>(1 - momentum),
                 length)
        k = 0
        while k < length:
            n = length - k if length - k < UPDATE_BUFFER else UPDATE_BUFFER
            apply(block, <real*>block.update + first + k, block.start + first + k, n)
            k += n


cdef MatrixRuleTable table
cdef MuonSettings settings
memset(&table, 0, sizeof(table))
memset(&settings, 0, sizeof(settings))
table.phases, table.python_phase, table.keeps_update, table.workspace = 3, 2, True, WORKSPACE
table.layout, table.begin, table.finish[0] = &layout, &begin, &finish_norm
table.operations[0] = [<MatrixOperation>&make_update[float], <MatrixOperation>&make_update[double]]
table.operations[1] = [<MatrixOperation>&orthogonalize[float], <MatrixOperation>&orthogonalize[double]]
table.operations[2] = [<MatrixOperation>&move[float], <MatrixOperation>&move[double]]

rules = {"muon": declared(&table, settings, [("m", PER_ELEMENT)], sizeof(MuonScalars))}

build_id = FASTLR_LAYOUT.decode()
