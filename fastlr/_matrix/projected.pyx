# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""AdamP and SGDP: an update without its part along the parameter, where the gradient is at right angles to that.

1. Move the moments, and sum g * g, p * p, g * p and p * u of each row, u being the update. Then decide whether the part
   of u along each row of the parameter, or along the whole of it, is taken from u; `row_factors` are that part as a
   multiple of p. The same decision changes weight decay.
2. Make the update again, take that from it, and apply it.
"""
from libc.math cimport sqrt
from libc.string cimport memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.rules.element cimport real, root
from fastlr.rules.moments cimport Adam, AdamScalars, adam_scalars
from fastlr._matrix.adam_update cimport adam_moments_row, adam_update, clear_undefined
from fastlr._matrix.rule_table cimport (
    PER_ELEMENT, MatrixBlock, MatrixFunction, MatrixOperation, MatrixRuleTable, MatrixTensor, declared, larger,
    put_row_factor,
)
from fastlr._matrix.scaled_norm cimport is_lost, largest_magnitude, scale_for_largest
from fastlr._kernels.lanes cimport LANES, fold_half, fold_lanes
from fastlr._matrix.updates cimport UPDATE_BUFFER, MakeRow, apply_rows, mean_row

cdef struct AdamPSettings:
    double eps, delta, wd_ratio        # as those of SGDP
    double beta1, beta2
    # options, 0 or 1: Nesterov's momentum; epsilon beside sqrt(v) before that is corrected for its start
    double nesterov, eps_inside

cdef struct SGDPSettings:
    double eps, delta, wd_ratio
    double momentum, dampening
    double nesterov

cdef struct ProjectionSettings:
    # What both begin with.
    double eps, delta, wd_ratio

cdef struct ProjectedScalars:
    Adam h                 # of SGDP beta1 alone, its momentum
    double add             # of SGDP: a gradient's share of m
    AdamScalars correction
    double eps
    bint nesterov
    bint projects          # whether the tensor can be projected; after the first phase: whether it is

cdef enum:
    GG, PP, GP, PU         # sums of each row
    TERMS
    M = 0                  # slots
    V = 1


# The sums of a row

cdef void add_alignment(double* sums, const real* restrict g, const real* restrict p, const real* restrict u,
                        Py_ssize_t size) noexcept nogil:
    """Add to the sums of g * g, p * p, g * p and p * u."""
    cdef double[TERMS][LANES] lane
    cdef double x, y, z
    cdef Py_ssize_t i, j, k, whole = size // LANES * LANES
    if size <= LANES // 2:                  # (the same sums, without the lanes that would stay empty)
        for j in range(size):
            x, y, z = <double>g[j], <double>p[j], <double>u[j]
            lane[0][j], lane[1][j], lane[2][j], lane[3][j] = x * x, y * y, x * y, y * z
        for k in range(TERMS):
            for j in range(size, LANES // 2):
                lane[k][j] = 0
            sums[k] += fold_half(lane[k])
        return
    for k in range(TERMS):
        for j in range(LANES):
            lane[k][j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            x, y, z = <double>g[i * LANES + j], <double>p[i * LANES + j], <double>u[i * LANES + j]
            lane[0][j] = lane[0][j] + x * x
            lane[1][j] = lane[1][j] + y * y
            lane[2][j] = lane[2][j] + x * y
            lane[3][j] = lane[3][j] + y * z
    for i in range(whole, size):
        x, y, z = <double>g[i], <double>p[i], <double>u[i]
        lane[0][i - whole] = lane[0][i - whole] + x * x
        lane[1][i - whole] = lane[1][i - whole] + y * y
        lane[2][i - whole] = lane[2][i - whole] + x * y
        lane[3][i - whole] = lane[3][i - whole] + y * z
    for k in range(TERMS):
        sums[k] += fold_lanes(lane[k])

cdef inline const double* sums_of_row(const MatrixTensor* tensor, Py_ssize_t row, double* total) noexcept nogil:
    """Where the sums of a row are; of several blocks they are added in `total`."""
    cdef const double* sums = tensor.row_sums + row * tensor.col_blocks * TERMS
    cdef Py_ssize_t k
    cdef int j
    if tensor.col_blocks == 1:
        return sums
    for j in range(TERMS):
        total[j] = 0
        for k in range(tensor.col_blocks):
            total[j] += sums[k * TERMS + j]
    return total

cdef struct Alignment:
    # The angle between a gradient and its parameter, and the share of the parameter in an update.
    double cosine          # of the angle between gradient and parameter, without its sign
    double along           # how much of the parameter is in the update

cdef inline double cosine_of(const double* sums, double eps) noexcept nogil:
    return abs(sums[GP]) / (larger(sqrt(sums[GG]), eps) * larger(sqrt(sums[PP]), eps))

cdef inline double along_of(const double* sums, double eps) noexcept nogil:
    cdef double length = sqrt(sums[PP]) + eps
    return sums[PU] / (length * length) if length > 0 else 0


# The update before it is projected

cdef void adam_row(real* restrict u, const real* restrict g, const real* restrict m, const real* restrict v, real beta,
                   real rest, real debias1, real debias2, real eps, bint nesterov, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    if nesterov:
        for j in range(n):
            u[j] = adam_update(beta * m[j] + rest * g[j], root(v[j]), debias1, debias2, eps)
    else:
        for j in range(n):
            u[j] = adam_update(m[j], root(v[j]), debias1, debias2, eps)

cdef void sgd_row(real* restrict u, const real* restrict g, const real* restrict m, real beta, bint nesterov,
                  Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    if nesterov:
        for j in range(n):
            u[j] = g[j] + beta * m[j]
    else:
        for j in range(n):
            u[j] = m[j]

cdef inline void move_moments(MatrixBlock* block, bint adam, Py_ssize_t k, Py_ssize_t n,
                              real* also_typed) noexcept nogil:
    cdef const ProjectedScalars* now = <const ProjectedScalars*>block.scalars
    cdef const real* g = <const real*>block.g + k
    if adam:
        adam_moments_row(now.h, g, <real*>block.slot[M] + k, <real*>block.slot[V] + k, n)
    else:
        mean_row(<real*>block.slot[M] + k, g, <real>now.h.beta1, <real>now.add, n)

cdef inline void update_row(real* u, MatrixBlock* block, bint adam, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    cdef const ProjectedScalars* now = <const ProjectedScalars*>block.scalars
    cdef const real* g = <const real*>block.g + k
    cdef const real* m = <const real*>block.slot[M] + k
    cdef real beta = <real>now.h.beta1
    if adam:
        adam_row(u, g, m, <const real*>block.slot[V] + k, beta, <real>(1 - now.h.beta1),
                 <real>now.correction.debias1, <real>now.correction.debias2, <real>now.eps, now.nesterov, n)
        if now.eps == 0:
            clear_undefined(u, <const real*>block.slot[V] + k, n)
    else:
        sgd_row(u, g, m, beta, now.nesterov, n)


# Sums that are no doubles

cdef inline bint any_lost(const double* sums) noexcept nogil:
    """Whether squares or products of float64 may have overflowed or vanished."""
    cdef double total = sums[GP] + sums[PU]
    return is_lost(sums[GG]) or is_lost(sums[PP]) or total - total != 0

cdef Alignment scaled_alignment(const MatrixTensor* tensor, Py_ssize_t first, Py_ssize_t size, bint adam,
                                const double* sums) noexcept nogil:
    """Of consecutive elements of a float64 tensor, scaled where their sums are lost."""
    cdef double eps = (<const ProjectionSettings*>tensor.settings).eps, g_scale, p_scale, u_scale, length
    cdef const double* g = <const double*>tensor.g + first
    cdef const double* p = <const double*>tensor.p + first
    cdef double[UPDATE_BUFFER] u
    cdef double[TERMS] scaled
    cdef double largest = 0
    cdef MatrixBlock block = tensor.block
    cdef Alignment found
    cdef Py_ssize_t i, k, n
    block.g, block.slot[M], block.slot[V] = tensor.g, tensor.slot[M], tensor.slot[V]
    k = 0
    while k < size:
        n = size - k if size - k < UPDATE_BUFFER else UPDATE_BUFFER
        update_row(<double*>u, &block, adam, first + k, n)
        length = largest_magnitude(u, n)
        largest = length if not length <= largest else largest
        k += n
    g_scale, p_scale = scale_for_largest(largest_magnitude(g, size)), scale_for_largest(largest_magnitude(p, size))
    u_scale = scale_for_largest(largest)
    if g_scale == 1 and p_scale == 1 and u_scale == 1:
        found.cosine, found.along = cosine_of(sums, eps), along_of(sums, eps)
        return found
    for k in range(TERMS):
        scaled[k] = 0
    k = 0
    while k < size:
        n = size - k if size - k < UPDATE_BUFFER else UPDATE_BUFFER
        update_row(<double*>u, &block, adam, first + k, n)
        for i in range(n):
            scaled[GG] += (g[k + i] * g_scale) * (g[k + i] * g_scale)
            scaled[PP] += (p[k + i] * p_scale) * (p[k + i] * p_scale)
            scaled[GP] += (g[k + i] * g_scale) * (p[k + i] * p_scale)
            scaled[PU] += (p[k + i] * p_scale) * (u[i] * u_scale)
        k += n
    length = sqrt(scaled[PP]) + eps * p_scale
    found.cosine = abs(scaled[GP]) / (larger(sqrt(scaled[GG]), eps * g_scale) * larger(sqrt(scaled[PP]), eps * p_scale))
    found.along = scaled[PU] / length / length * p_scale / u_scale if length > 0 else 0
    return found

cdef inline double cosine(const MatrixTensor* tensor, Py_ssize_t first, Py_ssize_t size, bint adam,
                          const double* sums) noexcept nogil:
    if tensor.is_double and any_lost(sums):
        return scaled_alignment(tensor, first, size, adam, sums).cosine
    return cosine_of(sums, (<const ProjectionSettings*>tensor.settings).eps)

cdef inline double part_along(const MatrixTensor* tensor, Py_ssize_t first, Py_ssize_t size, bint adam,
                              const double* sums) noexcept nogil:
    if tensor.is_double and any_lost(sums):
        return scaled_alignment(tensor, first, size, adam, sums).along
    return along_of(sums, (<const ProjectionSettings*>tensor.settings).eps)


# The first phase

cdef inline void sum_alignment(real* also_typed, MatrixBlock* block, bint adam) noexcept nogil:
    cdef bint projects = (<const ProjectedScalars*>block.scalars).projects
    cdef real[UPDATE_BUFFER] u
    cdef Py_ssize_t i = 0, j, k, n, row, together
    while i < block.rows:                   # (contiguous short rows: some at a time)
        together = UPDATE_BUFFER // block.cols if block.cols == block.stride else 1
        together = 1 if together < 1 else block.rows - i if together > block.rows - i else together
        for row in range(i, i + together):
            memset(block.row_sums + row * block.row_step, 0, TERMS * sizeof(double))
        j = 0
        while j < block.cols:
            n = block.cols - j if block.cols - j < UPDATE_BUFFER else UPDATE_BUFFER
            k = i * block.stride + j
            move_moments(block, adam, k, together * n, also_typed)
            if projects:
                update_row(u, block, adam, k, together * n)
                for row in range(together):
                    add_alignment(block.row_sums + (i + row) * block.row_step, <const real*>block.g + k + row * n,
                                  <const real*>block.p + k + row * n, <const real*>u + row * n, n)
            j += n
        i += together

cdef void sum_adam(real* also_typed, MatrixBlock* block) noexcept nogil:
    sum_alignment(also_typed, block, True)

cdef void sum_sgd(real* also_typed, MatrixBlock* block) noexcept nogil:
    sum_alignment(also_typed, block, False)

cdef double project(MatrixTensor* tensor, bint adam) noexcept nogil:
    """Find what is taken from the update; what is left of weight decay."""
    cdef const ProjectionSettings* h = <const ProjectionSettings*>tensor.settings
    cdef ProjectedScalars* now = <ProjectedScalars*>tensor.scalars
    cdef double[TERMS] total, layer
    cdef const double* row
    cdef double worst = 0, angle, along
    cdef Py_ssize_t i
    cdef int j
    cdef bint by_row
    if not now.projects:
        return 1
    for j in range(TERMS):
        layer[j] = 0
    for i in range(tensor.rows):
        row = sums_of_row(tensor, i, total)
        for j in range(TERMS):
            layer[j] += row[j]
        angle = cosine(tensor, i * tensor.cols, tensor.cols, adam, row)
        worst = angle if angle > worst or angle != angle else worst        # (NaN stays)
    by_row = worst < h.delta / sqrt(<double>tensor.cols)
    now.projects = by_row or cosine(tensor, 0, tensor.size, adam, layer) < h.delta / sqrt(<double>tensor.size)
    if not now.projects:
        return 1
    along = part_along(tensor, 0, tensor.size, adam, layer)
    for i in range(tensor.rows):
        if by_row:
            row = sums_of_row(tensor, i, total)
            along = part_along(tensor, i * tensor.cols, tensor.cols, adam, row)
        put_row_factor(tensor, i, along)
    return h.wd_ratio

cdef inline void scale_decay(MatrixTensor* tensor, double factor) noexcept nogil:
    tensor.group.decay_by_lr = tensor.given.decay_by_lr * factor
    if tensor.given.decay_by_lr != 0:
        tensor.group.now.decay_factor = 1 - tensor.group.decay_by_lr
    else:
        tensor.group.now.decay_factor = 1 - (1 - tensor.given.now.decay_factor) * factor

cdef void finish_adam(MatrixTensor* tensor) noexcept nogil:
    scale_decay(tensor, project(tensor, True))

cdef void finish_sgd(MatrixTensor* tensor) noexcept nogil:
    scale_decay(tensor, project(tensor, False) / (1 - (<const SGDPSettings*>tensor.settings).momentum))


# The second phase

cdef void project_row(real* restrict u, const real* restrict p, real factor, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = u[j] - factor * p[j]

cdef inline void make_row(real* u, MatrixBlock* block, bint adam, Py_ssize_t row, Py_ssize_t col,
                          Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k = row * block.stride + col
    update_row(u, block, adam, k, n)
    if (<const ProjectedScalars*>block.scalars).projects:
        project_row(u, <const real*>block.p + k, (<const real*>block.row_factors)[row], n)

cdef void make_adam_row(real* u, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil:
    make_row(u, block, True, row, col, n)

cdef void make_sgd_row(real* u, MatrixBlock* block, Py_ssize_t row, Py_ssize_t col, Py_ssize_t n) noexcept nogil:
    make_row(u, block, False, row, col, n)

cdef void move_adam(real* also_typed, MatrixBlock* block) noexcept nogil:
    apply_rows(also_typed, block, <MakeRow>&make_adam_row[real])

cdef void move_sgd(real* also_typed, MatrixBlock* block) noexcept nogil:
    apply_rows(also_typed, block, <MakeRow>&make_sgd_row[real])


# What is the same for all blocks

cdef void layout(MatrixTensor* tensor) noexcept nogil:
    """A vector is not projected."""
    tensor.reads_param = tensor.ndim > 1

cdef void begin_adam(MatrixTensor* tensor) noexcept nogil:
    cdef const AdamPSettings* h = <const AdamPSettings*>tensor.settings
    cdef ProjectedScalars* now = <ProjectedScalars*>tensor.scalars
    now.h.beta1, now.h.beta2, now.h.eps = h.beta1, h.beta2, h.eps
    adam_scalars(h.beta1, h.beta2, &tensor.given.now, &now.correction)
    now.eps = h.eps * now.correction.debias2 if h.eps_inside != 0 else h.eps
    now.nesterov, now.projects = h.nesterov != 0, tensor.reads_param

cdef void begin_sgd(MatrixTensor* tensor) noexcept nogil:
    cdef const SGDPSettings* h = <const SGDPSettings*>tensor.settings
    cdef ProjectedScalars* now = <ProjectedScalars*>tensor.scalars
    now.h.beta1, now.add = h.momentum, 1 - h.dampening
    now.nesterov, now.projects = h.nesterov != 0, tensor.reads_param

cdef void fill(MatrixRuleTable* table, MatrixFunction begin, MatrixFunction finish) noexcept:
    memset(table, 0, sizeof(MatrixRuleTable))
    table.phases, table.row_terms, table.row_factors, table.layout = 2, TERMS, True, &layout
    table.begin, table.finish[0] = begin, finish

cdef MatrixRuleTable adamp_table, sgdp_table
cdef AdamPSettings adamp_settings
cdef SGDPSettings sgdp_settings
memset(&adamp_settings, 0, sizeof(adamp_settings))
memset(&sgdp_settings, 0, sizeof(sgdp_settings))

fill(&adamp_table, &begin_adam, &finish_adam)
adamp_table.operations[0] = [<MatrixOperation>&sum_adam[float], <MatrixOperation>&sum_adam[double]]
adamp_table.operations[1] = [<MatrixOperation>&move_adam[float], <MatrixOperation>&move_adam[double]]

fill(&sgdp_table, &begin_sgd, &finish_sgd)
sgdp_table.operations[0] = [<MatrixOperation>&sum_sgd[float], <MatrixOperation>&sum_sgd[double]]
sgdp_table.operations[1] = [<MatrixOperation>&move_sgd[float], <MatrixOperation>&move_sgd[double]]

rules = {
    "adamp": declared(&adamp_table, adamp_settings, [("m", PER_ELEMENT), ("v", PER_ELEMENT)], sizeof(ProjectedScalars)),
    "sgdp": declared(&sgdp_table, sgdp_settings, [("m", PER_ELEMENT)], sizeof(ProjectedScalars)),
}

build_id = FASTLR_LAYOUT.decode()
