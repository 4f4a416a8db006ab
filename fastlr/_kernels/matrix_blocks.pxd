# cython: language_level=3
"""What a door computes for rules that see a tensor as a matrix: patches of rows and columns."""
from fastlr._kernels.structs cimport GradientView, ScalarGroup, StepJob, TensorOps, TensorView

cdef enum:
    TALL = 64              # the most blocks of rows a matrix is cut into: each keeps a sum per column
    ALIGNED = 4            # sums by row of ALIGN_ADAM and ALIGN_SGD
    SPREAD = 2048          # elements of an update that are made at a time, in cache, and then applied
    SIDE = 16              # columns of a product of small matrices that are made at a time
    FEW = 32768            # elements that the iteration of one small matrix may take, with all that it makes

cdef enum MatrixOperation:
    # What may be done to a patch.
    GATHER,                # the staged gradient, as it is computed, into `g`
    GATHER_P,              # the parameter likewise, into `p`
    WEIGH_P,               # sum[1] = squares of the parameter
    SQUARES,               # sums of the gradient's squares by row and column
    CLIPPED,               # sum[0] = squares of the update g * min(r * c, most)
    FACTORED,              # apply that update, times `by`
    SECOND,                # v <- keep * v + add * (g * g + eps); sum[0] = squares of g * min(1 / sqrt(v), most)
    ROOTED,                # apply g * min(1 / sqrt(v), most)
    CONFIDENCE,            # u = by * that update; m <- beta * m + (1 - beta) * u; sums of (u - m)**2 + eps
    CONFIDENT,             # apply m * r * c
    CONFIDENT_ROOTED,      # m likewise of the update with v; apply m
    COVERED,               # SM3: apply g / sqrt(least + g * g), or a mean of it; the largest by row and column
    ROWWISE,               # AdaGrad with a sum per row, r: r <- r + mean of squares; apply g / (sqrt(r) + eps)
    MINI,                  # m <- beta * m + (1 - beta) * g; apply m * r
    ADAM,                  # Adam's update: m, v, apply
    ALIGN_ADAM,            # m, v; sums by row of g * g, p * p, g * p and p * u, if u, Adam's update, may be projected
    ALIGN_SGD,             # m <- beta * m + add * g; likewise
    PROJECTED_ADAM,        # apply that update u, or u - r * p
    PROJECTED_SGD,
    LEAN,                  # v = share_m * (m as it will be) + share_g * g; sum[0] = squares of v
    SCALED,                # v <- v * by
    EVENED,                # v <- what the iteration makes of v * by, a whole matrix
    MOVED,                 # m <- beta * m + (1 - beta) * g; apply v
    TASKS

cdef struct MatrixBlock:
    # Rows and columns of one matrix of one tensor, and what a task needs; pointers are to the patch's first element.
    Py_ssize_t rows, cols, stride      # elements from row to row
    Py_ssize_t start                   # the patch's first element in its tensor
    void* g
    void* p
    void* m
    void* v
    void* r                            # a factor per row, a factor per column, in the precision of the rule
    void* c
    double* row                        # a sum per row, at every row_step-th place; a sum per column
    double* col
    Py_ssize_t row_step
    double keep, add, beta, eps, most, by, debias1, debias2, share_m, share_g
    bint nesterov, projects
    void* room                         # for FEW elements, where a small matrix is evened out
    const double* turns                # Muon's: a, b, c of each turn
    int turn_count
    double[2] sum
    const TensorView* view
    const GradientView* gradient
    const ScalarGroup* scalar_group
    const StepJob* job
    const TensorOps* ops

ctypedef void (*MatrixKernel)(void* nothing, MatrixBlock* patch) noexcept nogil     # (its first argument has a type, no value)

cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    """The columns in which a small matrix is multiplied."""
    return (n + SIDE - 1) // SIDE * SIDE

cdef inline bint is_few(Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """Whether the iteration of a matrix is made at once, in one thread's own memory."""
    cdef Py_ssize_t n = rows if rows < cols else cols, m = cols if rows < cols else rows
    cdef Py_ssize_t is_double = padded(m), square = padded(n), lines = (n + 3) // 4 * 4
    return 2 * lines * is_double + m * square + 3 * lines * square <= FEW


cdef struct MatrixKernels:
    MatrixKernel[2] operation[TASKS]     # [0] float32, [1] float64
