# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The steps of rules that see a tensor as a matrix, or as blocks: measure, fold, measure again, apply.

The plan checks, measures and clips gradients, as for every rule; then a director makes each tensor's update and gives
it to the same sweep that applies gradients. Tensors are cut into patches by their shape alone; sums of patches are
added in order: no bit depends on threads. Small tensors go through all phases in one thread, several threads at a
time; a large one phase by phase, its patches shared out. What needs products of large matrices calls back ("call",
"muon") and leaves them to NumPy's BLAS, whose bits are its own affair.

What calls back may fail: memory, an interrupt, a decomposition that does not converge. So all updates that are made
there are made, and held, before the first of them is written; what is written after that cannot fail.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.math cimport INFINITY, expm1, log, pow, sqrt
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.matrix_blocks cimport (
    ADAM, ALIGNED, ALIGN_ADAM, ALIGN_SGD, CLIPPED, CONFIDENCE, CONFIDENT, CONFIDENT_ROOTED, COVERED, EVENED, FACTORED,
    FEW, GATHER, GATHER_P, LEAN, MINI, MOVED, PROJECTED_ADAM, PROJECTED_SGD, ROOTED, ROWWISE, SCALED, SECOND, SQUARES,
    TALL, WEIGH_P, MatrixKernels, MatrixBlock, MatrixOperation, is_few,
)
from fastlr._kernels.rows cimport RowsJob
from fastlr._kernels.structs cimport (
    FLOAT32, FLOAT64, Chunk, GradientView, ScalarGroup, StepJob, TaskFunction, TensorOps, TensorView,
)
from fastlr._engine cimport thread_pool
from fastlr._engine.arrays cimport ArrayView, read_array
from fastlr._engine.layout cimport CHUNK

import numpy as np

cdef extern from *:
    """
    #include <stdatomic.h>
    /* The first of some places that nobody has. (There are as many as threads that come at a time.) */
    static int fastlr_take(atomic_int *taken, int places) {
        for (int k = 0;; k = k + 1 < places ? k + 1 : 0)
            if (!atomic_exchange(&taken[k], 1))
                return k;
    }
    """
    ctypedef int flag "atomic_int"
    int take "fastlr_take"(flag* taken, int places) nogil
    void store "atomic_store"(flag* taken, int value) nogil
    enum: PyBUF_READ, PyBUF_WRITE

cdef enum:
    WHOLE = 4096               # tensors of so many elements go through all phases in one thread
    LONG = 4096                # columns of a patch, at most; a vector's has CHUNK
    TOGETHER = 16384           # small tensors of fewer elements wake nobody
    MOST_ROOMS = 256           # threads that go through small tensors at a time; a thread's own stack may be small
    LINE = 64                  # bytes
    MOST_PHASES = 4

cdef enum Route:
    ADAFACTOR, ADAFACTOR_VECTOR, CAME, CAME_VECTOR, SM3,       # (these sum by column, too)
    ADAM_MINI, BY_ROW, ADAMW, ADAMP, SGDP, MUON, CALL

ROUTES = {"adafactor": ADAFACTOR, "adafactor_vector": ADAFACTOR_VECTOR, "came": CAME, "came_vector": CAME_VECTOR,
          "sm3": SM3, "adammini": ADAM_MINI, "by_row": BY_ROW, "adamw": ADAMW, "adamp": ADAMP, "sgdp": SGDP,
          "muon": MUON, "call": CALL}

cdef enum Name:
    BETA2_DECAY, BETA1, BETA2, BETA3, EPS, EPS1, EPS2, CLIP, MOMENTUM, FALLBACK_SCALE, DAMPENING, DELTA, WD_RATIO
    LR_DECAY, NORM_EPS, NAMES

NAMED = ["beta2_decay", "beta1", "beta2", "beta3", "eps", "eps1", "eps2", "clip", "momentum", "fallback_scale",
         "dampening", "delta", "wd_ratio", "lr_decay", "norm_eps"]

cdef struct MatrixLayout:
    # One tensor as matrices.
    Route route
    Py_ssize_t size, batch, rows, cols
    Py_ssize_t block_rows, blocks, piece_cols, chunks, units
    int is_double, phases, axes, terms      # (sums by row)
    MatrixOperation[MOST_PHASES] operation
    double* R                  # running means: by row, by column; those of CAME's instability; SM3's, an axis each
    double* C
    double* R2
    double* C2
    double** axis
    Py_ssize_t* axis_size
    char* m
    char* v
    double* row                # sums of this step: by row and piece, by block and column, by patch
    double* col
    double* sums
    char* r                    # factors of this step (doubles for SM3, else in the precision of the rule)
    char* c
    double adjust              # of Muon's learning rate
    bint small, calls, weighs_p, projects
    # this step's
    bint active, staged_g, staged_p
    char* g
    char* p
    ScalarGroup given, scalar_group     # as the plan has it; with the learning rate of the update
    MatrixBlock patch                # what is the same for all patches
    const double* values
    int64_t t

cdef struct MatrixContext:
    const MatrixKernels* kernel_table
    const TensorOps* ops
    const StepJob* job
    MatrixLayout* matrix_layouts
    const int* at
    Py_ssize_t* order
    Py_ssize_t* ends
    MatrixLayout* one                 # the large tensor and its phase
    int phase
    char* rooms                # where small tensors are gathered, one for each thread
    size_t room_size
    flag[MOST_ROOMS] taken     # of them
    int room_count
    bint added, capped, scaled, nesterov, uncorrected, debiased


cdef inline double hyper(const MatrixContext* x, const MatrixLayout* s, Name name) noexcept nogil:
    return s.values[x.at[<int>name]]

cdef inline double larger(double x, double y) noexcept nogil:
    return y if x < y else x           # (NaN stays)

cdef inline double debias(double beta, int64_t t) noexcept nogil:
    """1 / (1 - beta**t)"""
    return -1 / expm1(<double>t * log(beta)) if beta > 0 else 1

cdef inline void put(const MatrixLayout* s, char* factors, Py_ssize_t k, double x) noexcept nogil:
    if s.is_double:
        (<double*>factors)[k] = x
    else:
        (<float*>factors)[k] = <float>x


cdef void cut(MatrixLayout* s, Py_ssize_t u, MatrixBlock* patch) noexcept nogil:
    """Patch `u` of a tensor."""
    cdef Py_ssize_t item = 8 if s.is_double else 4, factor = 8 if s.route == SM3 else item
    cdef Py_ssize_t chunk = u % s.chunks, block = u // s.chunks % s.blocks, b = u // (s.chunks * s.blocks)
    cdef Py_ssize_t first_row = block * s.block_rows, first_col = chunk * s.piece_cols, start
    patch[0] = s.patch
    patch.rows = s.rows - first_row if s.rows - first_row < s.block_rows else s.block_rows
    patch.cols = s.cols - first_col if s.cols - first_col < s.piece_cols else s.piece_cols
    patch.stride = s.cols
    start = (b * s.rows + first_row) * s.cols + first_col
    patch.start = start
    patch.g, patch.p = s.g + start * item, s.p + start * item
    patch.m = s.m + start * item if s.m != NULL else NULL
    patch.v = s.v + start * item if s.v != NULL else NULL
    patch.r = s.r + (b * s.rows + first_row) * factor if s.r != NULL else NULL
    patch.c = s.c + (b * s.cols + first_col) * factor if s.c != NULL else NULL
    patch.row = s.row + ((b * s.rows + first_row) * s.chunks + chunk) * s.terms if s.row != NULL else NULL
    patch.row_step = s.chunks * s.terms
    patch.col = s.col + (b * s.blocks + block) * s.cols + first_col if s.col != NULL else NULL
    patch.sum[0] = patch.sum[1] = 0

cdef void gather(const MatrixContext* x, MatrixLayout* s, MatrixBlock* patch) noexcept nogil:
    patch.scalar_group = &s.given
    if s.staged_p:
        x.kernel_table.operation[<int>GATHER_P][s.is_double](NULL, patch)
    if s.staged_g:
        x.kernel_table.operation[<int>GATHER][s.is_double](NULL, patch)

cdef void unit(const MatrixContext* x, MatrixLayout* s, int phase, Py_ssize_t u) noexcept nogil:
    """One phase of one patch."""
    cdef MatrixBlock patch
    cut(s, u, &patch)
    if phase == 0:
        gather(x, s, &patch)
        if s.weighs_p:
            x.kernel_table.operation[<int>WEIGH_P][s.is_double](NULL, &patch)
    patch.scalar_group = &s.scalar_group
    x.kernel_table.operation[<int>s.operation[phase]][s.is_double](NULL, &patch)
    s.sums[2 * u], s.sums[2 * u + 1] = patch.sum[0], patch.sum[1]


# Folding: what a tensor's sums say, in the order of its patches

cdef double total(const MatrixLayout* s, int which) noexcept nogil:
    cdef double sum = 0
    cdef Py_ssize_t u
    for u in range(s.units):
        sum += s.sums[2 * u + which]
    return sum

cdef double row_sum(const MatrixLayout* s, Py_ssize_t i) noexcept nogil:
    cdef double sum = 0
    cdef Py_ssize_t k
    for k in range(s.chunks):
        sum += s.row[i * s.chunks + k]
    return sum

cdef void add_blocks(const MatrixLayout* s, Py_ssize_t b) noexcept nogil:
    """The sums by column of one matrix, into those of its first block."""
    cdef Py_ssize_t k, j
    cdef double* into = s.col + b * s.blocks * s.cols
    cdef const double* block
    for k in range(1, s.blocks):
        block = into + k * s.cols
        for j in range(s.cols):
            into[j] += block[j]

cdef void factor(MatrixLayout* s, double* R, double* C, double keep, double add, double eps, double floor) noexcept nogil:
    """Running means by row and column, and what they make of an element: r * c = 1 / sqrt(R C / mean(R))."""
    cdef Py_ssize_t b, i, j, k
    cdef double mean
    cdef double* sums
    for b in range(s.batch):
        mean = 0
        for i in range(s.rows):
            k = b * s.rows + i
            R[k] = keep * R[k] + add * (row_sum(s, k) / <double>s.cols + eps)
            mean += R[k]
        mean = larger(mean / <double>s.rows, floor)
        for i in range(s.rows):
            k = b * s.rows + i
            put(s, s.r, k, sqrt(mean / R[k]))
        add_blocks(s, b)
        sums = s.col + b * s.blocks * s.cols
        for j in range(s.cols):
            k = b * s.cols + j
            C[k] = keep * C[k] + add * (sums[j] / <double>s.rows + eps)
            put(s, s.c, k, 1 / sqrt(C[k]))

cdef void fold_sm3(MatrixLayout* s) noexcept nogil:
    cdef Py_ssize_t i, j, k, left
    cdef int a
    cdef double x
    cdef double* last = s.axis[s.axes - 1]
    for j in range(s.cols):
        last[j] = 0
        for k in range(s.blocks):
            x = s.col[k * s.cols + j]
            last[j] = x if x > last[j] or x != x else last[j]
    for a in range(s.axes - 1):
        memset(s.axis[a], 0, s.axis_size[a] * sizeof(double))
    for i in range(s.rows if s.axes > 1 else 0):
        x = s.row[i * s.chunks]
        for k in range(1, s.chunks):
            x = s.row[i * s.chunks + k] if s.row[i * s.chunks + k] > x else x
        left = i
        for a in range(s.axes - 2, -1, -1):
            k = left % s.axis_size[a]
            left = left // s.axis_size[a]
            s.axis[a][k] = x if x > s.axis[a][k] or x != x else s.axis[a][k]

cdef void least_of_rows(MatrixLayout* s) noexcept nogil:
    """The least of what SM3 remembers of a row: of all axes but the last."""
    cdef Py_ssize_t i, left, k
    cdef int a
    cdef double x
    for i in range(s.rows):
        x = INFINITY
        left = i
        for a in range(s.axes - 2, -1, -1):
            k = left % s.axis_size[a]
            left = left // s.axis_size[a]
            x = s.axis[a][k] if s.axis[a][k] < x else x
        (<double*>s.r)[i] = x

cdef inline double cosine(const double* sums, double eps) noexcept nogil:
    return abs(sums[2]) / (larger(sqrt(sums[0]), eps) * larger(sqrt(sums[1]), eps))

cdef inline double radial(const double* sums, double eps) noexcept nogil:
    """What an update has of the parameter."""
    cdef double length = sqrt(sums[1]) + eps
    return sums[3] / (length * length) if length > 0 else 0

cdef inline void row_sums(const MatrixLayout* s, Py_ssize_t i, double* sums) noexcept nogil:
    cdef Py_ssize_t k
    cdef int j
    for j in range(ALIGNED):
        sums[j] = 0
        for k in range(s.chunks):
            sums[j] += s.row[(i * s.chunks + k) * ALIGNED + j]

cdef void project(const MatrixContext* x, MatrixLayout* s) noexcept nogil:
    """Find what goes of an update: where gradients stand at right angles to all rows, or to the tensor, what lies
    along those; and what is left of weight decay."""
    cdef double[ALIGNED] row, layer
    cdef double eps = hyper(x, s, EPS), delta = hyper(x, s, DELTA), worst = 0, angle, clip_factor = 1, along = 0
    cdef Py_ssize_t i
    cdef int j
    cdef bint rows = False
    if s.projects:
        for j in range(ALIGNED):
            layer[j] = 0
        for i in range(s.rows):
            row_sums(s, i, row)
            for j in range(ALIGNED):
                layer[j] += row[j]
            angle = cosine(row, eps)
            worst = angle if angle > worst or angle != angle else worst        # (NaN stays)
        rows = worst < delta / sqrt(<double>s.cols)
        s.patch.projects = rows or cosine(layer, eps) < delta / sqrt(<double>s.size)
        along = radial(layer, eps)
    if s.patch.projects:
        clip_factor = hyper(x, s, WD_RATIO)
        for i in range(s.rows):
            if rows:
                row_sums(s, i, row)
                along = radial(row, eps)
            put(s, s.r, i, along)
    if s.route == SGDP:
        clip_factor /= 1 - hyper(x, s, MOMENTUM)
    s.scalar_group.decay_by_lr = s.given.decay_by_lr * clip_factor
    s.scalar_group.now.decay_factor = 1 - (s.scalar_group.decay_by_lr if s.given.decay_by_lr != 0 else (1 - s.given.now.decay_factor) * clip_factor)

cdef void fold(const MatrixContext* x, MatrixLayout* s, int phase) noexcept nogil:
    cdef double weight, rms
    cdef Py_ssize_t i
    if s.route == ADAFACTOR and phase == 0:
        weight = pow(<double>s.t, -hyper(x, s, BETA2_DECAY))
        factor(s, s.R, s.C, 1 - weight, weight, hyper(x, s, EPS1) if x.added else 0, 0 if x.added else 1 / s.patch.most)
    if (s.route == ADAFACTOR or s.route == ADAFACTOR_VECTOR) and phase == 0:
        s.scalar_group.now.lr = s.given.now.lr
        if x.capped and s.scalar_group.now.lr > 1 / sqrt(<double>s.t):
            s.scalar_group.now.lr = 1 / sqrt(<double>s.t)
        if x.scaled:
            s.scalar_group.now.lr *= larger(sqrt(total(s, 1) / <double>s.size), hyper(x, s, EPS2))
    if (s.route == ADAFACTOR and phase == 1) or (s.route == ADAFACTOR_VECTOR and phase == 0):
        rms = sqrt(total(s, 0) / <double>s.size)
        s.scalar_group.now.lr /= larger(rms / hyper(x, s, CLIP), 1)
    if s.route == CAME and phase == 0:
        factor(s, s.R, s.C, hyper(x, s, BETA2), 1 - hyper(x, s, BETA2), hyper(x, s, EPS1), 0)
    if (s.route == CAME and phase == 1) or (s.route == CAME_VECTOR and phase == 0):
        rms = sqrt(total(s, 0) / <double>s.size)
        s.patch.by = 1 / larger(rms / hyper(x, s, CLIP), 1)
    if s.route == CAME and phase == 2:
        factor(s, s.R2, s.C2, hyper(x, s, BETA3), 1 - hyper(x, s, BETA3), hyper(x, s, EPS2), 0)
    if s.route == SM3:
        fold_sm3(s)
    if s.route == ADAM_MINI and phase == 0:
        weight = hyper(x, s, BETA2)
        for i in range(s.rows):
            s.R[i] = weight * s.R[i] + (1 - weight) * (row_sum(s, i) / <double>s.cols)
            put(s, s.r, i, s.patch.debias1 / (sqrt(s.R[i]) * s.patch.debias2 + hyper(x, s, EPS)))
    if (s.route == ADAMP or s.route == SGDP) and phase == 0:
        project(x, s)
    if s.route == MUON and phase == 0:
        rms = sqrt(total(s, 0))
        s.patch.by = 1 / (rms + hyper(x, s, NORM_EPS) if x.debiased else larger(rms, hyper(x, s, NORM_EPS)))

cdef void prime(const MatrixContext* x, MatrixLayout* s) noexcept nogil:
    """The scalars of a tensor's step."""
    cdef double weight
    cdef MatrixBlock* patch = &s.patch
    patch.most = INFINITY
    if s.route == ADAFACTOR or s.route == ADAFACTOR_VECTOR:
        weight = pow(<double>s.t, -hyper(x, s, BETA2_DECAY))
        patch.keep, patch.add, patch.eps = 1 - weight, weight, hyper(x, s, EPS1) if x.added else 0
        if not x.added:
            weight = hyper(x, s, EPS1)
            patch.most = 1 / (weight if weight > 0 else 2.220446049250313e-16 if s.is_double else 1.1920928955078125e-07)
    elif s.route == CAME or s.route == CAME_VECTOR:
        patch.keep, patch.add, patch.eps = hyper(x, s, BETA2), 1 - hyper(x, s, BETA2), hyper(x, s, EPS1)
        patch.beta = hyper(x, s, BETA1)
    elif s.route == SM3:
        patch.beta, patch.eps = hyper(x, s, MOMENTUM), hyper(x, s, EPS)
        s.c = <char*>s.axis[s.axes - 1]
        least_of_rows(s)
    elif s.route == SGDP:
        patch.beta, patch.add = hyper(x, s, MOMENTUM), 1 - hyper(x, s, DAMPENING)
    elif s.route == MUON:
        patch.beta = hyper(x, s, MOMENTUM)
        patch.share_m = patch.beta if x.nesterov else 1
        patch.share_g = 1 - patch.beta if x.nesterov else 0
        if x.debiased:
            patch.share_m *= debias(patch.beta, s.t + x.nesterov)
            patch.share_g *= debias(patch.beta, s.t)
        s.scalar_group.now.lr = s.given.now.lr * s.adjust
    elif s.route == BY_ROW:
        patch.eps = hyper(x, s, EPS)
        s.scalar_group.now.lr /= 1 + <double>(s.t - 1) * hyper(x, s, LR_DECAY)
    else:
        patch.beta, patch.keep, patch.add = hyper(x, s, BETA1), hyper(x, s, BETA2), 1 - hyper(x, s, BETA2)
        patch.eps = hyper(x, s, EPS)
        patch.debias1 = debias(patch.beta, s.t)
        patch.debias2 = sqrt(debias(patch.keep, s.t))
        if x.uncorrected:
            patch.eps *= patch.debias2
    patch.nesterov, patch.projects = x.nesterov, s.projects
    if s.route == ADAMW:
        s.scalar_group.now.lr *= hyper(x, s, FALLBACK_SCALE)
        s.scalar_group.decay_by_lr *= hyper(x, s, FALLBACK_SCALE)
        if s.scalar_group.decay_by_lr != 0:
            s.scalar_group.now.decay_factor = 1 - s.scalar_group.decay_by_lr

cdef void whole(void* context, Py_ssize_t task) noexcept nogil:
    """All phases of some small tensors."""
    cdef MatrixContext* x = <MatrixContext*>context
    cdef Py_ssize_t k, u
    cdef int phase, place_ = take(x.taken, x.room_count)
    cdef MatrixLayout* s
    cdef char* room = x.rooms + place_ * x.room_size
    cdef unsigned int mode = x.ops.enter()
    for k in range(x.ends[task], x.ends[task + 1]):
        s = &x.matrix_layouts[x.order[k]]
        if not s.active or s.size == 0:
            continue
        if s.staged_g:
            s.g = room
        if s.staged_p:
            s.p = room + WHOLE * sizeof(double)
        if s.route == MUON:
            s.v, s.patch.room = room + 2 * WHOLE * sizeof(double), room + 3 * WHOLE * sizeof(double)
        prime(x, s)
        for phase in range(s.phases):
            for u in range(s.units):
                unit(x, s, phase, u)
            fold(x, s, phase)
    x.ops.leave(mode)
    store(&x.taken[place_], 0)

cdef void part(void* context, Py_ssize_t u) noexcept nogil:
    """One patch of a large tensor's phase."""
    cdef const MatrixContext* x = <const MatrixContext*>context
    cdef unsigned int mode = x.ops.enter()
    unit(x, x.one, x.phase, u)
    x.ops.leave(mode)

cdef void gather_part(void* context, Py_ssize_t u) noexcept nogil:
    """The gradient of one patch of a tensor whose update is made elsewhere."""
    cdef const MatrixContext* x = <const MatrixContext*>context
    cdef MatrixBlock patch
    cut(x.one, u, &patch)
    gather(x, x.one, &patch)


cdef void place(MatrixLayout* s, char* scratch) noexcept nogil:
    """Where a large tensor's gathered gradient and parameter go."""
    if s.staged_g:
        s.g = scratch
        scratch += s.size * (8 if s.is_double else 4)
    if s.staged_p:
        s.p = scratch


cdef int grow(void** memory, size_t* size, size_t need) except -1:
    """Let memory be of at least that size; what it held is lost."""
    if need > size[0]:
        free(memory[0])
        size[0] = 0
        memory[0] = malloc(need)
        if memory[0] == NULL:
            raise MemoryError
        size[0] = need
    return 0


cdef class MatrixStep:
    """Makes the updates of `tensors`, each by its route.

    `call(i, g, hyper, t)` makes those of route "call": an array, a factor of the learning rate, and what is to be
    remembered, by slot; it changes nothing itself. Large matrices of route "muon": `call(u, into)`, where `into` is
    an array for what is made of u. `turns` are the coefficients of Muon's iteration, `adjust` its factor of the
    learning rate, per tensor.
    """

    def __cinit__(self, matrix_kernels, tensor_ops, list tensors, list routes, tuple names, call=None, *, bint added=False,
                  bint capped=False, bint scaled=False, bint nesterov=False, bint uncorrected=False,
                  bint debiased=False, turns=(), adjust=()):
        cdef Py_ssize_t i, most = 0, partial = 0, filled = 0, tasks = 0, smalls = 0
        cdef MatrixLayout* s
        cdef double* shared
        cdef int n
        self.blocks, self.tensors, self.names, self.routes, self.call = [], tensors, names, routes, call
        self.kernel_table = PyCapsule_GetPointer(matrix_kernels, "fastlr.acts")
        self.ops = <const TensorOps*>PyCapsule_GetPointer(tensor_ops, "fastlr.tensor_ops")
        self.added, self.capped, self.scaled = added, capped, scaled
        self.nesterov, self.uncorrected, self.debiased = nesterov, uncorrected, debiased
        self.turns, self.turn_count = <double*><size_t>self.room(3 * len(turns), 8), <int>len(turns)
        for i, triple in enumerate(turns):
            self.turns[3 * i], self.turns[3 * i + 1], self.turns[3 * i + 2] = triple
        self.count = len(tensors)
        for n in range(<int>NAMES):
            self.at[n] = names.index(NAMED[n]) if NAMED[n] in names else -1
        self.matrix_layouts = <MatrixLayout*>calloc(self.count + 1, sizeof(MatrixLayout))
        self.order = <Py_ssize_t*>calloc(self.count + 1, sizeof(Py_ssize_t))
        self.ends = <Py_ssize_t*>calloc(self.count + 2, sizeof(Py_ssize_t))
        if self.matrix_layouts == NULL or self.order == NULL or self.ends == NULL:
            raise MemoryError
        for i, tensor in enumerate(tensors):
            s = &self.matrix_layouts[i]
            self.lay_out(s, tensor, ROUTES[routes[i]])
            s.adjust = adjust[i] if adjust else 1
            self.calls |= s.calls
            most = max(most, s.size)
            if not s.small and s.col == NULL and s.route < ADAM_MINI:
                partial = max(partial, s.batch * s.blocks * s.cols)
        shared = <double*><size_t>self.room(partial, 8)
        for i in range(self.count):
            s = &self.matrix_layouts[i]
            if s.col == NULL and s.route < ADAM_MINI:
                s.col = shared
            if s.small and not s.calls:
                self.order[smalls] = i
                smalls += 1
                filled += s.size
                self.whole_elements += s.size
                if filled >= WHOLE:
                    tasks += 1
                    self.ends[tasks], filled = smalls, 0
        if smalls > self.ends[tasks]:
            tasks += 1
            self.ends[tasks] = smalls
        self.whole_chunks = tasks
        self.chunks = <void*><size_t>self.room(most // CHUNK + 2, sizeof(Chunk) + sizeof(Py_ssize_t))

    def __dealloc__(self):
        free(self.matrix_layouts)
        free(self.order)
        free(self.ends)
        free(self.scratch)
        free(self.updates)
        free(self.rooms)

    cdef size_t room(self, Py_ssize_t number, Py_ssize_t size) except? 0:
        """Memory that lives as long as this, zeroed."""
        cdef ArrayView array_view
        array = np.zeros(number * size // 8 + 1)
        self.blocks.append(array)
        read_array(array, &array_view)
        return <size_t>array_view.data

    cdef size_t held(self, tensor, slot) except? 0:
        """The address of one of a tensor's slots, 0 without it."""
        cdef ArrayView array_view
        if slot not in tensor.matrices:
            return 0
        read_array(tensor.matrices[slot], &array_view)
        return <size_t>array_view.data

    cdef int lay_out(self, MatrixLayout* s, tensor, int route) except -1:
        cdef Py_ssize_t k, item = 8 if tensor.is_double else 4
        cdef tuple shape = tensor.matrix_shape
        s.route, s.is_double, s.size = <Route>route, tensor.is_double, tensor.array.size
        s.batch, s.rows, s.cols = shape
        s.small = s.size <= WHOLE and (route != MUON or is_few(s.rows, s.cols))
        s.calls = route == CALL or (route == MUON and not s.small)
        s.piece_cols = min(s.cols, <Py_ssize_t>(CHUNK if s.rows == 1 else LONG))
        s.piece_cols = max(s.piece_cols, 1)
        s.chunks = max((s.cols + s.piece_cols - 1) // s.piece_cols, 1)
        s.block_rows = max(CHUNK // s.piece_cols, 16, (s.rows + TALL - 1) // TALL)
        if route == BY_ROW:                        # (whole rows, in order)
            s.piece_cols, s.chunks = max(s.cols, 1), 1
            s.block_rows = max(CHUNK // s.piece_cols, 1)
        s.blocks = max((s.rows + s.block_rows - 1) // s.block_rows, 1)
        s.units, s.terms = s.batch * s.blocks * s.chunks, 1
        s.sums = <double*><size_t>self.room(2 * s.units, 8)
        s.m, s.v = <char*>self.held(tensor, "m"), <char*>self.held(tensor, "v")
        if route == ADAFACTOR or route == CAME:
            s.R, s.C = <double*>self.held(tensor, "R"), <double*>self.held(tensor, "C")
            s.R2, s.C2 = <double*>self.held(tensor, "RU"), <double*>self.held(tensor, "CU")
            s.row = <double*><size_t>self.room(s.batch * s.rows * s.chunks, 8)
            s.r = <char*><size_t>self.room(s.batch * s.rows, item)
            s.c = <char*><size_t>self.room(s.batch * s.cols, item)
            s.operation = [SQUARES, CLIPPED, CONFIDENCE, CONFIDENT]
            s.phases = 4
            if route == ADAFACTOR:
                s.operation[2], s.phases = FACTORED, 3
        elif route == ADAFACTOR_VECTOR or route == CAME_VECTOR:
            s.operation = [SECOND, ROOTED, ADAM, ADAM]
            s.phases = 2
            if route == CAME_VECTOR:
                s.operation[1] = CONFIDENT_ROOTED
        elif route == SM3:
            s.operation, s.phases = [COVERED, ADAM, ADAM, ADAM], 1
            s.axes = <int>max(tensor.array.ndim, 1)
            s.axis = <double**><size_t>self.room(s.axes, sizeof(double*))
            s.axis_size = <Py_ssize_t*><size_t>self.room(s.axes, sizeof(Py_ssize_t))
            for k in range(s.axes):
                s.axis[k] = <double*>self.held(tensor, f"mu{k}")
                s.axis_size[k] = tensor.array.shape[k] if tensor.array.ndim else 1
            s.row = <double*><size_t>self.room(s.rows * s.chunks, 8)
            s.r = <char*><size_t>self.room(s.rows, 8)
        elif route == ADAM_MINI:
            s.R = <double*>self.held(tensor, "v")
            s.v = NULL
            s.row = <double*><size_t>self.room(s.rows * s.chunks, 8)
            s.r = <char*><size_t>self.room(s.rows, item)
            s.operation, s.phases = [SQUARES, MINI, ADAM, ADAM], 2
        elif route == ADAMP or route == SGDP:
            s.projects, s.terms = tensor.array.ndim > 1, ALIGNED
            s.row = <double*><size_t>self.room(s.rows * s.chunks * ALIGNED, 8)
            s.r = <char*><size_t>self.room(s.rows, item)
            s.operation, s.phases = [ALIGN_ADAM, PROJECTED_ADAM, ADAM, ADAM], 2
            if route == SGDP:
                s.operation[0], s.operation[1] = ALIGN_SGD, PROJECTED_SGD
        elif route == MUON:
            s.operation, s.phases = [LEAN, EVENED if s.small else SCALED, MOVED, MOVED], 3
        elif route == BY_ROW:
            s.r = <char*>self.held(tensor, "s")
            s.operation, s.phases = [ROWWISE, ADAM, ADAM, ADAM], 1
        else:
            s.operation, s.phases = [ADAM, ADAM, ADAM, ADAM], 1
        s.weighs_p = self.scaled and (route == ADAFACTOR or route == ADAFACTOR_VECTOR)
        if s.small and (route == ADAFACTOR or route == CAME or route == SM3):
            s.col = <double*><size_t>self.room(s.batch * s.blocks * s.cols, 8)
        return 0

    cdef int move(self, StepJob* job, TaskFunction step_task, const double* values, int width, const int64_t* skipped_steps,
                  int64_t t) except -1:
        """Move every tensor that has a gradient. All memory is there before the first moves."""
        cdef MatrixContext x
        cdef MatrixLayout* s
        cdef TensorView* view
        cdef GradientView* gradient
        cdef Py_ssize_t i, k
        cdef size_t item, need, most = 0, held = 0, room = 0
        cdef int phase, helpers
        cdef unsigned int mode
        cdef list made = []
        x.ops = self.ops
        x.kernel_table, x.job, x.matrix_layouts, x.at = <const MatrixKernels*>self.kernel_table, job, self.matrix_layouts, self.at
        x.order, x.ends, x.added, x.capped, x.scaled = self.order, self.ends, self.added, self.capped, self.scaled
        x.nesterov, x.uncorrected, x.debiased = self.nesterov, self.uncorrected, self.debiased
        for i in range(self.count):
            s, view, gradient = &x.matrix_layouts[i], &job.views[i], &job.gradients[i]
            s.active = gradient.g != NULL
            if not s.active:
                continue
            item = 8 if s.is_double else 4
            s.given = job.scalar_groups[view.scalar_group]
            s.scalar_group = s.given
            s.scalar_group.grad_factor, s.scalar_group.clip_value, s.scalar_group.l2, s.scalar_group.staged = 1, INFINITY, 0, False
            s.values, s.t = values + <int>self.tensors[i].group * width, t + 1 - skipped_steps[i]
            s.staged_g = s.given.staged or view.clip_factor != 1 or gradient.layout != NULL or view.unit_factors != NULL \
                or gradient.stored != (FLOAT64 if s.is_double else FLOAT32)
            s.staged_p = (s.weighs_p or s.projects or s.given.l2 != 0) \
                and (view.layout != NULL or view.stored != (FLOAT64 if s.is_double else FLOAT32))
            s.g, s.p = <char*>gradient.g, view.p
            s.patch.view, s.patch.gradient, s.patch.job = view, gradient, job
            s.patch.ops = self.ops
            s.patch.turns, s.patch.turn_count = self.turns, self.turn_count
            if s.route == MUON and not s.calls:
                room = (3 * WHOLE + FEW) * sizeof(double)
            elif s.small and (s.staged_g or s.staged_p):
                room = max(room, <size_t>(2 * WHOLE * sizeof(double)))
            if not s.small or s.calls:
                need = <size_t>s.size * item
                most = max(most, need * (<size_t>s.staged_g + <size_t>s.staged_p + <size_t>(s.route == MUON)))
                held += need if s.route == MUON else 0
        grow(&self.scratch, &self.scratch_size, most)
        grow(&self.updates, &self.updates_size, held)
        helpers = thread_pool.prepare()
        x.room_count, x.room_size = <int>max(1, min(helpers + 1, self.whole_chunks)), room
        grow(&self.rooms, &self.rooms_size, x.room_count * room + LINE)
        x.rooms = <char*>self.rooms + (-<size_t>self.rooms) % LINE
        memset(x.taken, 0, sizeof(x.taken))
        if self.calls:
            held = 0
            with np.errstate(all="ignore"):
                for i in range(self.count):
                    s = &x.matrix_layouts[i]
                    if s.calls and s.active and s.size:
                        s.v = <char*>self.updates + held if s.route == MUON else NULL
                        held += <size_t>s.size * (8 if s.is_double else 4) if s.route == MUON else 0
                        made.append(self.evened(&x, s) if s.route == MUON else self.called(&x, i, values, width))
        # From here on, nothing fails.
        k = 0
        for i in range(self.count):
            s = &x.matrix_layouts[i]
            if s.calls and s.active and s.size:
                if s.route == CALL:
                    self.taken(s, made[k], job, step_task)
                k += 1
        with nogil:
            if self.whole_elements < TOGETHER:
                for k in range(self.whole_chunks):
                    whole(&x, k)
            else:
                thread_pool.run(whole, &x, self.whole_chunks)
            for i in range(self.count):
                s = &x.matrix_layouts[i]
                if s.small or not s.active or s.route == CALL or s.size == 0:
                    continue
                place(s, <char*>self.scratch)
                mode = x.ops.enter()
                x.one = s
                if s.route == MUON:
                    if s.staged_g:
                        thread_pool.run(gather_part, &x, s.units)
                    x.phase = 2
                    thread_pool.run(part, &x, s.units)
                else:
                    prime(&x, s)
                    for phase in range(s.phases):
                        x.phase = phase
                        thread_pool.run(part, &x, s.units)
                        fold(&x, s, phase)
                x.ops.leave(mode)
        return 0

    cdef object evened(self, void* context, MatrixLayout* s):
        """Make the update of one large matrix of Muon's; it is held where the tensor's `v` is."""
        cdef MatrixContext* x = <MatrixContext*>context
        cdef char* into = s.v
        cdef Py_ssize_t size = s.size * (8 if s.is_double else 4)
        cdef int phase
        cdef unsigned int mode
        place(s, <char*>self.scratch)
        s.v = <char*>self.scratch + size * (<Py_ssize_t>s.staged_g + <Py_ssize_t>s.staged_p)
        mode = x.ops.enter()
        x.one = s
        with nogil:
            prime(x, s)
            for phase in range(2):
                x.phase = phase
                thread_pool.run(part, x, s.units)
                fold(x, s, phase)
        x.ops.leave(mode)
        shape, dtype = (s.rows, s.cols), np.float64 if s.is_double else np.float32
        u = np.frombuffer(PyMemoryView_FromMemory(s.v, size, PyBUF_WRITE), dtype).reshape(shape)
        out = np.frombuffer(PyMemoryView_FromMemory(into, size, PyBUF_WRITE), dtype).reshape(shape)
        s.v = into
        self.call(u, out)
        return None

    cdef int aim_rows(self, Py_ssize_t i, RowsJob* job, ScalarGroup* now, const double* values, int64_t t) except -1:
        """What a step over rows of tensor i needs beside gradients, at its update t."""
        job.totals, job.eps = self.matrix_layouts[i].r, values[self.at[<int>EPS]]
        now.now.lr /= 1 + <double>(t - 1) * values[self.at[<int>LR_DECAY]]
        return 0

    cdef object called(self, void* context, Py_ssize_t i, const double* values, int width):
        """The update of one tensor, made elsewhere, and what is to be remembered: addresses, and who owns them."""
        cdef MatrixContext* x = <MatrixContext*>context
        cdef MatrixLayout* s = &self.matrix_layouts[i]
        cdef ArrayView array_view, into
        cdef Py_ssize_t k
        tensor = self.tensors[i]
        dtype = np.float64 if s.is_double else np.float32
        place(s, <char*>self.scratch)
        if s.staged_g:
            x.one = s
            with nogil:
                thread_pool.run(gather_part, x, s.units)
        g = np.frombuffer(PyMemoryView_FromMemory(s.g, s.size * (8 if s.is_double else 4), PyBUF_READ), dtype)
        given = {name: values[<int>tensor.group * width + k] for k, name in enumerate(self.names)}
        update, by, memory = self.call(i, g.reshape(tensor.matrix_shape[1:]), given, s.t)
        if s.staged_g and np.may_share_memory(update, g):      # (the next tensor's is gathered where this one's is)
            update = update.copy()
        owners, moves = [np.ascontiguousarray(update, dtype)], []
        read_array(owners[0], &array_view)
        s.v = array_view.data
        s.scalar_group.now.lr = s.given.now.lr * <double>by
        for slot, array in memory.items():
            owners.append(np.ascontiguousarray(array, tensor.matrices[slot].dtype).reshape(tensor.matrices[slot].shape))
            read_array(owners[len(owners) - 1], &array_view)
            read_array(tensor.matrices[slot], &into)
            moves.append((<size_t>into.data, <size_t>array_view.data, <size_t>tensor.matrices[slot].nbytes))
        return owners, moves

    cdef int taken(self, MatrixLayout* s, object made, StepJob* job, TaskFunction step_task) except -1:
        """Let one tensor remember and move by what was made elsewhere."""
        cdef StepJob own = job[0]
        cdef GradientView gradient
        cdef TensorView view = s.patch.view[0]
        cdef Chunk* chunks = <Chunk*>self.chunks
        cdef Py_ssize_t* task_starts = <Py_ssize_t*>(chunks + s.size // CHUNK + 2)
        cdef Py_ssize_t k = 0, start = 0
        cdef size_t to, source, size
        for to, source, size in made[1]:
            memcpy(<void*>to, <const void*>source, size)
        while start < s.size:
            chunks[k] = Chunk(start, min(<Py_ssize_t>CHUNK, s.size - start), 0)
            start += chunks[k].size
            task_starts[k] = k
            k += 1
        task_starts[k] = k
        gradient.g, gradient.stored, gradient.layout, gradient.measured_layout = s.v, FLOAT64 if s.is_double else FLOAT32, NULL, NULL
        view.clip_factor, view.scalar_group, view.unit_factors = 1, 0, NULL
        own.views, own.gradients, own.scalar_groups, own.chunks, own.task_starts = &view, &gradient, &s.scalar_group, chunks, task_starts
        own.zero_grads = False
        with nogil:
            thread_pool.run(step_task, &own, k)
        return 0

build_id = FASTLR_LAYOUT.decode()
