# cython: language_level=3
"""What crosses the wall between the plan (compiled once) and a door (compiled per instruction set): plain C."""
from libc.math cimport sqrt
from libc.stdint cimport int64_t, uint64_t
from fastlr.element cimport StepScalars

cdef enum:
    MOST_SLOTS = 4
    MOST_SUMS = 4          # sums of a reducing rule
    MOST_DIMENSIONS = 64   # NumPy's own bound
    MOST_FIELDS = 12       # hyper-parameters of a rule
    GROUP = 64             # elements of an 8-bit state that share a scale; a tile holds whole groups
    TILE = 256             # elements staged at a time; a tile of each operand stays in the first-level cache

ctypedef void (*ScalarsFunction)(const double* hyper, double lr, int64_t t, StepScalars* now) noexcept nogil
ctypedef void (*StepFunction)(const double* hyper, const StepScalars* now, void* p, const void* g, void** slots,
                       Py_ssize_t size) noexcept nogil
# (see rules.pxd for what these four are)
ctypedef void (*TermsFunction)(const double* hyper, const StepScalars* now, const void* p, const void* g, void** slots, double* totals,
                       Py_ssize_t size) noexcept nogil
ctypedef void (*BeginFunction)(const double* hyper, StepScalars* now, double* memory, const double* shared) noexcept nogil
ctypedef void (*FinishAllFunction)(const double* hyper, const StepScalars* now, double* shared, const double* totals,
                          double size) noexcept nogil
ctypedef void (*FinishFunction)(const double* hyper, StepScalars* now, double* memory, const double* shared, const double* sums,
                        double size) noexcept nogil
ctypedef void (*StorageLoop)(const double* hyper, const void* job, const void* view, const void* g, const void* scalar_group,
                       Py_ssize_t start, Py_ssize_t size, void* also_typed) noexcept nogil

cdef enum Storage:
    # How elements lie in memory.
    FLOAT32, FLOAT64, FLOAT16, BFLOAT16,
    SIGNED8,               # int8, companded, a float32 scale per group
    UNSIGNED8,             # uint8 for what is never negative, likewise
    REST16,                # int16: what a bfloat16 leaves of a float32
    UNKNOWN

cdef struct RuleTable:
    # One rule, ready to be called: its instant, and its sweep over float32 and float64.
    ScalarsFunction at
    StepFunction[2] step         # [0] float32, [1] float64
    TermsFunction[2] reduce_terms         # of a reducing rule: the go over its tensors before that
    BeginFunction begin_step
    FinishAllFunction finish_all
    FinishFunction finish_tensor
    StorageLoop[6] fused         # storage and rule in one loop, see storage_loop.pxi; NULL: this rule has none
    int slots
    int fields
    int tensor_scalars           # numbers remembered of a tensor beside its slots
    int shared             # ... and of all tensors together
    int sums               # what a reducing rule sums, or 0
    bint updates_state_while_reducing           # whether its slots move in its first go (else in the second)
    bint decay_inside_update             # whether decoupled weight decay is a term of its step

cdef struct StridedLayout:
    # The way through an array that is not one contiguous run, in the order of the parameter's walk.
    int ndim
    Py_ssize_t* shape
    Py_ssize_t* stride     # bytes

cdef struct TensorView:
    # One tensor.
    char* p
    Storage stored         # of the parameter
    char* slot[MOST_SLOTS]
    Storage slot_stored[MOST_SLOTS]
    float* slot_scale[MOST_SLOTS]      # of 8-bit slots
    char* lr_factors       # a learning-rate factor per element, or NULL
    char* ema              # a running mean of the parameter, or NULL
    double* unit_factors   # what adaptive clipping leaves of each unit's gradient, or NULL
    Py_ssize_t unit_count, unit_length  # of them; element e is of unit (e // run) % units
    char* low_bits         # what a bfloat16 parameter leaves of the float32 that moves, or NULL
    char* shadow           # a 16-bit copy of the parameter, or NULL
    Storage shadow_stored
    StridedLayout* shadow_walk      # NULL: contiguous
    double clip_factor          # what clipping by norm leaves of this step's gradient: a factor
    StridedLayout* layout             # NULL: contiguous
    Py_ssize_t size
    int scalar_group            # which Instant holds for it
    int is_double               # computed in 0 float32, 1 float64
    bint staged            # whether parameter or state is stored otherwise than it is computed
    uint64_t random_salt          # what tells its random bits from another tensor's

cdef struct ScalarGroup:
    # What one step does alike to all tensors of a kind (same group, learning-rate factor, age).
    StepScalars now
    double[MOST_FIELDS] hyper
    double grad_factor     # multiplies each gradient: 1 / grad_scale, negative to maximize
    double clip_value      # bounds each scaled gradient to [-clip, clip]
    double l2          # coupled weight decay: added to each gradient, times the parameter
    double ema_decay       # what a step leaves of the running mean
    double decay_by_lr     # the part of 1 - now.keep that scales with an element's learning-rate factor
    double[MOST_SLOTS] slot_keep    # what a gradient that is folded into a slot leaves of it
    double[MOST_SLOTS] grad_share   # of a gradient to be folded into each slot, at a power (0: not at all)
    int[MOST_SLOTS] grad_power
    bint staged            # whether scale, clip or couple do anything, or a shrink may

cdef struct Chunk:
    # Consecutive elements of one tensor.
    Py_ssize_t start, size
    int view

cdef struct GradientView:
    const char* g          # NULL: this tensor is skipped
    Storage stored
    StridedLayout* layout             # NULL: contiguous
    StridedLayout* measured_layout         # the way in which it is measured: in the order of its elements; NULL: contiguous

cdef struct ChunkSum:
    # What a piece of a gradient adds up to.
    double squares         # of its elements, unscaled and clipped
    double nonfinite       # 0, or NaN if one of them is not finite

cdef struct UnitRange:
    # Some units of one tensor to be measured at a time: of each its elements (or, where run is 1, rows) begin .. end.
    int view
    Py_ssize_t first, count
    Py_ssize_t begin, end
    Py_ssize_t out         # where their shares stand

cdef struct UnitSums:
    # What a part of a unit adds up to.
    double gradient, parameter     # squares
    double nonfinite               # 0, or NaN if an element of the gradient is not finite

cdef struct StepJob:
    TensorView* views
    GradientView* gradients
    ScalarGroup* scalar_groups
    Chunk* chunks
    Py_ssize_t* task_starts      # chunk k is pieces[edges[k]] .. pieces[edges[k + 1]]
    StepFunction[2] step
    const StorageLoop* fused     # NULL, or none
    int slots
    TermsFunction[2] reduce_terms
    double* terms          # MOST_SUMS per piece
    bint updates_state_while_reducing
    bint zero_grads
    bint stochastic        # whether 16-bit values are rounded by random bits
    uint64_t key           # of this step's random bits
    ChunkSum* sums              # per piece
    UnitRange* units           # to be measured, one a chunk
    UnitSums* shares
    double* unit_squares   # what units leave of each tensor's squares, where they are measured as it moves; or NULL
    double unit_clip, unit_eps       # the clip_adaptive of those, and its epsilon

cdef inline double left_of(double gradient, double parameter, double most, double least) noexcept nogil:
    # What adaptive clipping leaves of a unit, by the squares of its gradient and parameter: most * max(|p|, least) /
    # max(|g|, 1e-6), if that is less than 1. (NaN stays.)
    cdef double left
    parameter = least * least if least * least > parameter else parameter
    left = most * sqrt(parameter / (1e-12 if 1e-12 > gradient else gradient))
    return 1 if left >= 1 else left

ctypedef void (*TaskFunction)(void* job, Py_ssize_t task) noexcept nogil
