# cython: language_level=3
"""What crosses the wall between the plan (compiled once) and a door (compiled per instruction set): plain C."""
from libc.math cimport sqrt
from libc.stdint cimport int64_t, uint64_t
from fastlr.element cimport Now

cdef enum:
    MOST_SLOTS = 4
    MOST_SUMS = 4          # sums of a reducing rule
    MOST_DIMENSIONS = 64   # NumPy's own bound
    MOST_FIELDS = 12       # hyper-parameters of a rule
    GROUP = 64             # elements of an 8-bit state that share a scale; a tile holds whole groups
    TILE = 256             # elements staged at a time; a tile of each operand stays in the first-level cache

ctypedef void (*At)(const double* hyper, double lr, int64_t t, Now* now) noexcept nogil
ctypedef void (*Sweep)(const double* hyper, const Now* now, void* p, const void* g, void** slots,
                       Py_ssize_t size) noexcept nogil
# (see rules.pxd for what these four are)
ctypedef void (*Gauge)(const double* hyper, const Now* now, const void* p, const void* g, void** slots, double* totals,
                       Py_ssize_t size) noexcept nogil
ctypedef void (*Recall)(const double* hyper, Now* now, double* memory, const double* shared) noexcept nogil
ctypedef void (*Conclude)(const double* hyper, const Now* now, double* shared, const double* totals,
                          double size) noexcept nogil
ctypedef void (*Settle)(const double* hyper, Now* now, double* memory, const double* shared, const double* sums,
                        double size) noexcept nogil
ctypedef void (*Fused)(const double* hyper, const void* job, const void* span, const void* g, const void* instant,
                       Py_ssize_t start, Py_ssize_t size, void* also_typed) noexcept nogil

cdef enum Storage:
    # How elements lie in memory.
    FLOAT32, FLOAT64, FLOAT16, BFLOAT16,
    SIGNED8,               # int8, companded, a float32 scale per group
    UNSIGNED8,             # uint8 for what is never negative, likewise
    REST16,                # int16: what a bfloat16 leaves of a float32
    UNKNOWN

cdef struct Opened:
    # One rule, ready to be called: its instant, and its sweep over float32 and float64.
    At at
    Sweep[2] sweep         # [0] float32, [1] float64
    Gauge[2] gauge         # of a reducing rule: the go over its tensors before that
    Recall recall
    Conclude conclude
    Settle settle
    Fused[6] fused         # storage and rule in one loop, see fused.pxi; NULL: this rule has none
    int slots
    int fields
    int memories           # numbers remembered of a tensor beside its slots
    int shared             # ... and of all tensors together
    int sums               # what a reducing rule sums, or 0
    bint gathers           # whether its slots move in its first go (else in the second)
    bint inner             # whether decoupled weight decay is a term of its step

cdef struct Walk:
    # The way through an array that is not one contiguous run, in the order of the parameter's walk.
    int ndim
    Py_ssize_t* shape
    Py_ssize_t* stride     # bytes

cdef struct Span:
    # One tensor.
    char* p
    Storage stored         # of the parameter
    char* slot[MOST_SLOTS]
    Storage slot_stored[MOST_SLOTS]
    float* slot_scale[MOST_SLOTS]      # of 8-bit slots
    char* scale            # a learning-rate factor per element, or NULL
    char* ema              # a running mean of the parameter, or NULL
    double* unit           # what adaptive clipping leaves of each unit's gradient, or NULL
    Py_ssize_t units, run  # of them; element e is of unit (e // run) % units
    char* rest             # what a bfloat16 parameter leaves of the float32 that moves, or NULL
    char* shadow           # a 16-bit copy of the parameter, or NULL
    Storage shadow_stored
    Walk* shadow_walk      # NULL: contiguous
    double shrink          # what clipping by norm leaves of this step's gradient: a factor
    Walk* walk             # NULL: contiguous
    Py_ssize_t size
    int instant            # which Instant holds for it
    int wide               # computed in 0 float32, 1 float64
    bint staged            # whether parameter or state is stored otherwise than it is computed
    uint64_t salt          # what tells its random bits from another tensor's

cdef struct Instant:
    # What one step does alike to all tensors of a kind (same group, learning-rate factor, age).
    Now now
    double[MOST_FIELDS] hyper
    double scale           # multiplies each gradient: 1 / grad_scale, negative to maximize
    double clip            # bounds each scaled gradient to [-clip, clip]
    double couple          # coupled weight decay: added to each gradient, times the parameter
    double ema             # what a step leaves of the running mean
    double own             # the part of 1 - now.keep that scales with an element's learning-rate factor
    double[MOST_SLOTS] left    # what a gradient that is folded into a slot leaves of it
    double[MOST_SLOTS] share   # of a gradient to be folded into each slot, at a power (0: not at all)
    int[MOST_SLOTS] power
    bint staged            # whether scale, clip or couple do anything, or a shrink may

cdef struct Piece:
    # Consecutive elements of one tensor.
    Py_ssize_t start, size
    int span

cdef struct Gradient:
    const char* g          # NULL: this tensor is skipped
    Storage stored
    Walk* walk             # NULL: contiguous
    Walk* measured         # the way in which it is measured: in the order of its elements; NULL: contiguous

cdef struct Sum:
    # What a piece of a gradient adds up to.
    double squares         # of its elements, unscaled and clipped
    double zero            # 0, or NaN if one of them is not finite

cdef struct Units:
    # Some units of one tensor to be measured at a time: of each its elements (or, where run is 1, rows) begin .. end.
    int span
    Py_ssize_t first, count
    Py_ssize_t begin, end
    Py_ssize_t out         # where their shares stand

cdef struct Share:
    # What a part of a unit adds up to.
    double gradient, parameter     # squares
    double zero                    # 0, or NaN if an element of the gradient is not finite

cdef struct Job:
    Span* spans
    Gradient* gradients
    Instant* instants
    Piece* pieces
    Py_ssize_t* edges      # chunk k is pieces[edges[k]] .. pieces[edges[k + 1]]
    Sweep[2] sweep
    const Fused* fused     # NULL, or none
    int slots
    Gauge[2] gauge
    double* terms          # MOST_SUMS per piece
    bint gathers
    bint zero_grads
    bint stochastic        # whether 16-bit values are rounded by random bits
    uint64_t key           # of this step's random bits
    Sum* sums              # per piece
    Units* units           # to be measured, one a chunk
    Share* shares
    double* unit_squares   # what units leave of each tensor's squares, where they are measured as it moves; or NULL
    double unit_most, unit_least       # the clip_adaptive of those, and its epsilon

cdef inline double left_of(double gradient, double parameter, double most, double least) noexcept nogil:
    # What adaptive clipping leaves of a unit, by the squares of its gradient and parameter: most * max(|p|, least) /
    # max(|g|, 1e-6), if that is less than 1. (NaN stays.)
    cdef double left
    parameter = least * least if least * least > parameter else parameter
    left = most * sqrt(parameter / (1e-12 if 1e-12 > gradient else gradient))
    return 1 if left >= 1 else left

ctypedef void (*Run)(void* job, Py_ssize_t chunk) noexcept nogil
