# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""AdamW for tensors that are no matrix, or are said to be none: the fallback of rules for matrices alone.

`fallback_scale` multiplies the learning rate. Decoupled weight decay follows that rate; independent decay does not.
"""
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.rules.element cimport real
from fastlr.rules.moments cimport Adam, AdamScalars, adam_moments, adam_scalars
from fastlr._matrix.adam_update cimport adam_update, clear_undefined
from fastlr._matrix.rule_table cimport (
    PER_ELEMENT, MatrixBlock, MatrixOperation, MatrixRuleTable, MatrixTensor, declared,
)
from fastlr._matrix.updates cimport MakeRow, apply_rows

cdef struct AdamWSettings:
    double beta1, beta2, eps, fallback_scale

cdef struct AdamWScalars:
    Adam h
    AdamScalars correction

cdef enum:
    M, V                   # slots


cdef void begin(MatrixTensor* tensor) noexcept nogil:
    cdef const AdamWSettings* h = <const AdamWSettings*>tensor.settings
    cdef AdamWScalars* now = <AdamWScalars*>tensor.scalars
    now.h.beta1, now.h.beta2, now.h.eps = h.beta1, h.beta2, h.eps
    adam_scalars(h.beta1, h.beta2, &tensor.given.now, &now.correction)
    tensor.group.now.lr *= h.fallback_scale
    tensor.group.decay_by_lr *= h.fallback_scale
    if tensor.group.decay_by_lr != 0:
        tensor.group.now.decay_factor = 1 - tensor.group.decay_by_lr

cdef void adam_row(real* restrict update, const real* restrict g, real* restrict m, real* restrict v, Adam h,
                   real debias1, real debias2, real eps, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    cdef real mj, vj, root_of_v
    for j in range(n):
        mj, vj = m[j], v[j]
        root_of_v = adam_moments(h, g[j], &mj, &vj)
        m[j], v[j] = mj, vj
        update[j] = adam_update(mj, root_of_v, debias1, debias2, eps)

cdef void make_row(real* update, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil:
    cdef const AdamWScalars* now = <const AdamWScalars*>block.scalars
    cdef Py_ssize_t k = row * block.stride + col
    adam_row(update, <const real*>block.g + k, <real*>block.slot[M] + k, <real*>block.slot[V] + k, now.h,
             <real>now.correction.debias1, <real>now.correction.debias2, <real>now.h.eps, n)
    if now.h.eps == 0:
        clear_undefined(update, <const real*>block.slot[V] + k, n)

cdef void move(real* also_typed, MatrixBlock* block) noexcept nogil:
    apply_rows(also_typed, block, <MakeRow>&make_row[real])


cdef MatrixRuleTable table
cdef AdamWSettings settings
memset(&table, 0, sizeof(table))
memset(&settings, 0, sizeof(settings))
table.phases, table.begin = 1, &begin
table.operations[0] = [<MatrixOperation>&move[float], <MatrixOperation>&move[double]]

rules = {"adamw": declared(&table, settings, [("m", PER_ELEMENT), ("v", PER_ELEMENT)], sizeof(AdamWScalars))}

build_id = FASTLR_LAYOUT.decode()
