# cython: language_level=3, cdivision=True
"""A schedule as C sees it: `at(t)` needs neither Python nor the GIL, and is NaN where there is no rate."""

from fastlr.powers cimport Power

ctypedef double (*Evaluate)(const double* h, const Power* powers, double t) noexcept nogil
ctypedef void (*Sweep)(const double* h, const Power* powers, const double* t, double* y, int n) noexcept nogil

cdef enum Kind:
    CURVE                  # a function of curves.pxd and its numbers
    LIMIT                  # no rate after h[0]
    BRANCH                 # before h[0] the left one, then the right one
    SHIFT                  # h[0] later; until then the first rate
    EVERY                  # each rate for h[0] updates
    K_DECAY                # h[0] updates, of which the first few pass slowly: at h[0] (t / h[0])**h[1]
    SCALE                  # h[0] times
    CLIP                   # not below h[0], not above h[1]
    PRODUCT                # left times right
    NOISE                  # times a random number of [1 - h[0], 1 + h[0]), one per update, seed h[1], h[2]

cdef struct Node:
    Kind kind
    int left, right        # where the children stand in the same array
    Evaluate curve
    Sweep sweep            # the curve at several times
    double[8] h
    Power[3] powers        # of those numbers that the curve raises to powers

cdef class Program:
    cdef Node* nodes       # the root first; filled once, never changed
    cdef readonly int size
    cdef readonly int depth
    cdef readonly bint ends
    cdef double at(self, double t) noexcept nogil
    cdef Node* grow(self, int size, int depth) except NULL
    cdef int graft(self, Program child, int position) except -1
    cdef int split(self, int low, int high, int* free_slot, list at) except -1

cdef double rate(const Node* nodes, double t) noexcept nogil
