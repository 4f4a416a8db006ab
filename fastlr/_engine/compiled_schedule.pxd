# cython: language_level=3, cdivision=True
"""A schedule as C evaluates it: `at(t)` needs neither Python nor the GIL, and is NaN where there is no rate."""

from fastlr.powers cimport Power

ctypedef double (*CurveFunction)(const double* h, const Power* powers, double t) noexcept nogil
ctypedef void (*CurveBlockFunction)(
    const double* h, const Power* powers, const double* t, double* y, int n
) noexcept nogil

cdef enum NodeKind:
    CURVE                  # a function of curves.pxd and its numbers
    LIMIT                  # no rate after h[0]
    BRANCH                 # before h[0] the left child, then the right one
    SHIFT                  # h[0] updates later; until then the first rate
    EVERY                  # each rate for h[0] updates
    K_DECAY                # the child at h[0] (t / h[0])**h[1]: of its h[0] updates the first few pass slowly
    SCALE                  # h[0] times the child
    CLIP                   # not below h[0], not above h[1]
    PRODUCT                # left child times right child
    NOISE                  # times a random number of [1 - h[0], 1 + h[0]), one per update, seed h[1], h[2]

cdef struct Node:
    NodeKind kind
    int left, right        # the children's positions in the same array
    int which              # of a curve: its position in the table of curves
    CurveFunction curve
    CurveBlockFunction block
    double[8] h            # the numbers of a curve, in the order of its struct, or those of another kind
    Power[3] powers        # of those numbers that the curve raises to powers

cdef class CompiledSchedule:
    cdef Node* nodes       # the root first; filled once, never changed
    cdef readonly int size
    cdef readonly int depth
    cdef readonly bint has_end
    cdef double at(self, double t) noexcept nogil
    cdef Node* allocate(self, int size, int depth) except NULL
    cdef int copy_nodes(self, CompiledSchedule child, int position) except -1
    cdef int branch_tree(self, int low, int high, int* free_slot, list at) except -1

cdef double rate(const Node* nodes, double t) noexcept nogil
