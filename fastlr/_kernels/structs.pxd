# cython: language_level=3
"""The structs that the engine (compiled once) and the kernels (compiled per instruction set) share: plain C."""
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t, uint64_t
from fastlr._kernels.rule_table cimport MAX_SUMS, StepFunction, StorageLoop, TermsFunction
from fastlr._kernels.scaled_sum cimport smallest_squares
from fastlr.rules.scalars cimport StepScalars

cdef enum:
    MAX_SLOTS = 4          # of a rule
    MAX_DIMENSIONS = 64   # as NumPy has at most
    MAX_HYPERS = 12        # hyper-parameters of a rule
    GROUP = 64             # elements of an 8-bit state that share a scale; a tile holds whole groups
    MOVED_NORMS = 3        # what is measured of a tensor: the norms of gradient, update and parameter
    TILE = 256             # elements processed at a time; a tile of each operand stays in the first-level cache

cdef enum Storage:
    # How elements are stored.
    FLOAT32, FLOAT64, FLOAT16, BFLOAT16,
    SIGNED8,               # int8, companded, a float32 scale per group
    UNSIGNED8,             # uint8 for slots that are never negative, likewise
    REST16,                # int16: the remainder of a float32 whose upper half is a bfloat16
    UNKNOWN

cdef struct StridedLayout:
    # An array that is not contiguous: its axes in the order in which the parameter is traversed.
    int ndim
    Py_ssize_t* shape
    Py_ssize_t* stride                 # bytes

cdef enum Constraint:
    # Where a step leaves a parameter.
    NO_CONSTRAINT,
    BOX,                   # low <= element <= high
    MAX_NORM,              # the norm of a row is at most high
    UNIT_NORM,             # ... is high
    SIMPLEX                # the elements of a row are not negative, and their sum is high

cdef struct AfterStep:
    # What is done to a tensor's elements after their step, while they are in the cache.
    Constraint constraint
    double low, high
    Py_ssize_t row                     # elements of a row
    Py_ssize_t block                   # elements that are stepped at a time: whole rows
    Py_ssize_t chunk                   # elements of the tensor's chunks: whole rows
    bint staged                        # the view's own `staged` without this
    double* norms                      # MOVED_NORMS per chunk of a tensor that is measured, or NULL

cdef struct TensorView:
    # One parameter, with everything else of it that a step reads and writes.
    char* p
    Storage stored                     # of the parameter
    char* slot[MAX_SLOTS]
    Storage slot_stored[MAX_SLOTS]
    float* slot_scale[MAX_SLOTS]       # of 8-bit slots
    char* lr_factors                   # a learning-rate factor per element, or NULL
    char* ema                          # a running mean of the parameter, or NULL
    double* unit_factors               # by which adaptive clipping multiplies each unit's gradient, or NULL
    Py_ssize_t unit_count, unit_length     # element e is of unit (e // unit_length) % unit_count
    char* low_bits                     # the lower half of a float32 whose upper half the parameter is, or NULL
    char* shadow                       # a 16-bit copy of the parameter, or NULL
    Storage shadow_stored
    StridedLayout* shadow_layout       # NULL: contiguous
    double clip_factor                 # by which clipping by norm multiplies this step's gradient
    StridedLayout* layout              # NULL: contiguous
    Py_ssize_t size
    int scalar_group                   # which of the job's ScalarGroups is this tensor's
    int is_double                      # the rule computes in float32 (0) or float64 (1)
    bint staged                        # whether parameter or state is stored otherwise than it is computed
    uint64_t random_salt               # makes its random bits differ from another tensor's
    AfterStep* after                   # what comes after the step; NULL: nothing. Where it is there, `staged` is set

cdef struct ScalarGroup:
    # The scalars of one step that tensors of the same group, learning-rate factor and age share.
    StepScalars now
    double[MAX_HYPERS] hyper
    double grad_factor                 # multiplies each gradient: 1 / grad_scale, negative to maximize
    double clip_value                  # bounds each scaled gradient to [-clip_value, clip_value]
    double l2                          # coupled weight decay: added to each gradient, times the parameter
    double ema_decay                   # the decay of the running mean
    double decay_by_lr                 # the part of 1 - decay_factor that scales with an element's learning-rate factor
    double[MAX_SLOTS] slot_keep        # accumulation: the factor of each slot,
    double[MAX_SLOTS] grad_share       # ... the factor of the gradient that is added to it,
    int[MAX_SLOTS] grad_power          # ... at this power of the gradient (0: none)
    bint staged                        # whether grad_factor, clip_value, l2 or any clip_factor changes the gradient

cdef struct Chunk:
    # Consecutive elements of one tensor.
    Py_ssize_t start, size
    int view                           # which tensor

cdef struct GradientView:
    const char* g                      # NULL: this tensor is skipped
    Storage stored
    StridedLayout* layout              # in the order in which the parameter is traversed; NULL: contiguous
    StridedLayout* measured_layout     # in the order of its own elements, in which it is measured; NULL: contiguous

cdef struct ChunkSum:
    double squares                     # of the elements of a chunk of a gradient, unscaled and clipped by value
    double nonfinite                   # 0, or NaN if one of them is not finite

cdef struct UnitRange:
    # Some units of one tensor to be measured at a time: of each, its elements (or, where unit_length is 1, rows)
    # begin .. end.
    int view
    Py_ssize_t first, count
    Py_ssize_t begin, end
    Py_ssize_t out                     # the index of their sums

cdef struct UnitSums:
    double gradient, parameter         # squares of a part of a unit
    double nonfinite                   # 0, or NaN if an element of the gradient is not finite

cdef struct StepJob:
    # One pass over all tensors. Task k is chunks[task_starts[k]] .. chunks[task_starts[k + 1]].
    TensorView* views
    GradientView* gradients
    ScalarGroup* scalar_groups
    Chunk* chunks
    Py_ssize_t* task_starts
    StepFunction[2] step               # of the rule: [0] float32, [1] float64
    TermsFunction[2] reduce_terms      # of a reducing rule
    const StorageLoop* storage_loop    # six entries of the rule, or NULL
    int slots
    double* terms                      # MAX_SUMS per chunk
    bint updates_state_while_reducing
    bint zero_grads
    bint stochastic                    # whether 16-bit values are rounded by random bits
    uint64_t key                       # of this step's random bits
    ChunkSum* sums                     # per chunk
    UnitRange* units                   # to be measured, one per task
    UnitSums* shares
    double* unit_squares               # where units are measured as they move: clipped squares per tensor, or NULL,
    int* unit_exponents                # ... times 2**(2 * exponent), 0 unless they would overflow or vanish
    double unit_clip, unit_eps         # clip_adaptive and its epsilon, there

cdef struct ChunkOperands:
    # A chunk, and what a pass over it reads and writes.
    const Chunk* chunk
    const TensorView* view
    const GradientView* gradient
    const ScalarGroup* group

cdef inline bint find_operands(ChunkOperands* x, const StepJob* job, Py_ssize_t k) noexcept nogil:
    """The operands of the k-th chunk; False if its tensor is skipped."""
    x.chunk = &job.chunks[k]
    x.view = &job.views[x.chunk.view]
    x.gradient = &job.gradients[x.chunk.view]
    x.group = &job.scalar_groups[x.view.scalar_group]
    return x.gradient.g != NULL

cdef struct TensorOps:
    # The operations on a tensor that matrix rules use, for any layout, storage and stages.
    # The preprocessed gradient (unscaled, clipped, without l2) of elements start .. start + size, into contiguous
    # floats:
    void (*load_gradient)(const StepJob* job, const TensorView* view, const GradientView* gradient,
                          const ScalarGroup* group, void* into, Py_ssize_t start, Py_ssize_t size) noexcept nogil
    void (*load_param)(const TensorView* view, void* into, Py_ssize_t start, Py_ssize_t size) noexcept nogil
    # p <- decay_factor * p - lr * update by job.step, through lr_factors, storage, running mean and shadow:
    void (*apply_update)(const StepJob* job, const TensorView* view, const ScalarGroup* group, const void* update,
                         Py_ssize_t start, Py_ssize_t size) noexcept nogil
    unsigned int (*enter)() noexcept nogil             # the floating-point mode in which kernels compute
    void (*leave)(unsigned int mode) noexcept nogil

cdef inline double unit_clip_factor(double gradient, double parameter, double clip, double eps) noexcept nogil:
    """What adaptive clipping multiplies a unit by, from the squares of its gradient and parameter:
    clip * max(|p|, eps) / max(|g|, 1e-6), if that is less than 1. (NaN stays.)"""
    cdef double factor
    parameter = eps * eps if eps * eps > parameter else parameter
    factor = clip * sqrt(parameter / (1e-12 if 1e-12 > gradient else gradient))
    return 1 if factor >= 1 else factor

cdef inline bint is_unit_lost(const UnitSums* sums, double eps) noexcept nogil:
    """Whether squares of a float64 unit overflowed, or of its parameters vanished, where that matters for its factor.
    """
    return sums.nonfinite == 0 and (
        sums.gradient == <double>INFINITY or sums.parameter == <double>INFINITY
        or (sums.parameter < smallest_squares() and eps * eps < smallest_squares()))

cdef inline double factor_of_norms(double gradient, double parameter, double clip, double eps) noexcept nogil:
    """The same, from the norms."""
    cdef double factor
    parameter = eps if eps > parameter else parameter
    factor = clip * (parameter / (1e-6 if 1e-6 > gradient else gradient))
    return 1 if factor >= 1 else factor

# What adaptive clipping does where squares of a unit, or of all units of a tensor, overflow or vanish; see norms.pxd.
ctypedef double (*UnitFactorFunction)(const StepJob* job, Py_ssize_t i, Py_ssize_t unit, double clip,
                                      double eps) noexcept nogil
ctypedef int (*UnitSquaresFunction)(const StepJob* job, Py_ssize_t i, double* squares) noexcept nogil
# The norms of what a reducing rule sums the squares of, in tensor i, of float64.
ctypedef void (*NormsFunction)(const StepJob* job, TermsFunction normed, int sums, Py_ssize_t i,
                               double* norms) noexcept nogil

# Constrains some rows of a tensor, or of a box any consecutive elements.
ctypedef void (*ConstrainFunction)(const StepJob* job, const TensorView* view, Py_ssize_t start,
                                   Py_ssize_t size) noexcept nogil

ctypedef void (*TaskFunction)(void* job, Py_ssize_t task) noexcept nogil
