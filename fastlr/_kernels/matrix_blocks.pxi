from libc.math cimport INFINITY, sqrt
from fastlr._kernels.matrix_blocks cimport (
    ADAM, ALIGNED, ALIGN_ADAM, ALIGN_SGD, CLIPPED, CONFIDENCE, CONFIDENT, CONFIDENT_ROOTED, COVERED, EVENED, FACTORED,
    FEW, GATHER, GATHER_P, LEAN, MINI, MOVED, PROJECTED_ADAM, PROJECTED_SGD, ROOTED, ROWWISE, SCALED, SECOND, SIDE,
    SPREAD, SQUARES, WEIGH_P, MatrixKernel, MatrixKernels, MatrixBlock, padded,
)

cdef void lie(double* sums, const real* restrict g, const real* restrict p, const real* restrict u,
              Py_ssize_t size) noexcept nogil:
    """Add to the sums of g * g, p * p, g * p and p * u."""
    cdef double[ALIGNED][LANES] lane
    cdef double x, y, z
    cdef Py_ssize_t i, j, k, whole = size // LANES * LANES
    if size <= LANES // 2:                  # (the same sums, without the lanes that would stay empty)
        for j in range(size):
            x, y, z = <double>g[j], <double>p[j], <double>u[j]
            lane[0][j], lane[1][j], lane[2][j], lane[3][j] = x * x, y * y, x * y, y * z
        for k in range(ALIGNED):
            for j in range(size, LANES // 2):
                lane[k][j] = 0
            sums[k] += fold_half(lane[k])
        return
    for k in range(ALIGNED):
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
    for k in range(ALIGNED):
        sums[k] += fold_lanes(lane[k])

cdef inline real least(real x, real most) noexcept nogil:
    return most if x > most else x          # (NaN stays)


cdef void add_columns(const real* restrict g, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t stride,
                      double* restrict col) noexcept nogil:
    cdef Py_ssize_t i = 0, j
    cdef const real* restrict a
    cdef const real* restrict b
    cdef const real* restrict c
    cdef const real* restrict d
    while i + 4 <= rows:
        a, b, c, d = g + i * stride, g + (i + 1) * stride, g + (i + 2) * stride, g + (i + 3) * stride
        for j in range(cols):
            col[j] = col[j] + ((<double>a[j] * <double>a[j] + <double>b[j] * <double>b[j])
                               + (<double>c[j] * <double>c[j] + <double>d[j] * <double>d[j]))
        i += 4
    while i < rows:
        a = g + i * stride
        for j in range(cols):
            col[j] = col[j] + <double>a[j] * <double>a[j]
        i += 1

cdef void act_squares(real* typed, MatrixBlock* s) noexcept nogil:
    # Four rows at a time, so that their second reading is from cache.
    cdef const real* g = <const real*>s.g
    cdef Py_ssize_t i, k, n
    if s.col != NULL:
        memset(s.col, 0, s.cols * sizeof(double))
    i = 0
    while i < s.rows:
        n = 4 if s.rows - i >= 4 else s.rows - i
        for k in range(n):
            s.row[(i + k) * s.row_step] = sum_of_squares(g + (i + k) * s.stride, s.cols)
        if s.col != NULL:
            add_columns(g + i * s.stride, n, s.cols, s.stride, s.col)
        i += n

cdef void factored_row(real* restrict u, const real* restrict g, const real* restrict c, real r, real most,
                       Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = g[j] * least(r * c[j], most)

cdef void act_clipped(real* typed, MatrixBlock* s) noexcept nogil:
    cdef real[SPREAD] u
    cdef Py_ssize_t i, j, n
    s.sum[0] = 0
    for i in range(s.rows):
        j = 0
        while j < s.cols:
            n = s.cols - j if s.cols - j < SPREAD else SPREAD
            factored_row(u, <const real*>s.g + i * s.stride + j, <const real*>s.c + j, (<const real*>s.r)[i],
                         <real>s.most, n)
            s.sum[0] += sum_of_squares(u, n)
            j += n

cdef void act_weigh_p(real* typed, MatrixBlock* s) noexcept nogil:
    cdef Py_ssize_t i
    s.sum[1] = 0
    if s.cols == s.stride:
        s.sum[1] = sum_of_squares(<const real*>s.p, s.rows * s.cols)
        return
    for i in range(s.rows):
        s.sum[1] += sum_of_squares(<const real*>s.p + i * s.stride, s.cols)


# Applying

cdef void give(MatrixBlock* s, const void* u, Py_ssize_t start, Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """Apply the update `u` to `n` elements of the parameter from `start` on."""
    s.ops.apply_update(s.job, s.view, s.scalar_group, u, start, n)

cdef enum UpdateKind:
    # How the update of a row comes about.
    BY_FACTORS, BY_ROOT, BY_MEAN, BY_ROOTED_MEAN, BY_COVER, BY_BLOCK, BY_ROW, BY_ADAM, BY_ADAM_PROJECTED,
    BY_SGD_PROJECTED

cdef void rooted_row(real* restrict u, const real* restrict g, const real* restrict v, real most,
                     Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = g[j] * least(<real>1 / root(v[j]), most)

cdef void mean_row(real* restrict u, const real* restrict m, const real* restrict c, real r,
                   Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = m[j] * (r * c[j])

cdef void rooted_mean_row(real* restrict u, const real* restrict g, const real* restrict v, real* restrict m, real by,
                          real beta, real rest, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * (g[j] / root(v[j]) * by)
        u[j] = m[j]

cdef inline double larger_or_nan(double x, double most) noexcept nogil:
    return x if (x > most) | (x != x) else most        # (no branch: several at a time)

cdef void covered_row(real* restrict u, const real* restrict g, const double* restrict old, double* restrict new,
                      double row, double* largest, double eps, Py_ssize_t n) noexcept nogil:
    # (a loop each, or the search for the largest keeps roots from being taken several at a time)
    cdef double[SPREAD] nu
    cdef double[LANES] lane
    cdef Py_ssize_t i, j, whole = n // LANES * LANES
    for j in range(n):
        nu[j] = (row if row < old[j] else old[j]) + <double>g[j] * <double>g[j]
    for j in range(n):
        u[j] = <real>(<double>g[j] / sqrt(nu[j] + eps)) if nu[j] != 0 else <real>0
    for j in range(n):
        new[j] = larger_or_nan(nu[j], new[j])
    if whole:
        for j in range(LANES):
            lane[j] = 0
        for i in range(n // LANES):
            for j in range(LANES):
                lane[j] = larger_or_nan(nu[i * LANES + j], lane[j])
        for j in range(LANES):
            largest[0] = larger_or_nan(lane[j], largest[0])
    for j in range(whole, n):
        largest[0] = larger_or_nan(nu[j], largest[0])

cdef void smooth_row(real* restrict u, real* restrict m, real beta, real rest, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * u[j]
        u[j] = m[j]

cdef void block_row(real* restrict u, const real* restrict g, real* restrict m, real beta, real rest, real r,
                    Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * g[j]
        u[j] = m[j] * r

cdef double squared_row(const real* g, Py_ssize_t size) noexcept nogil:
    # (as `row_rate` meets it: tile by tile)
    cdef double total = 0
    cdef Py_ssize_t i = 0
    while i < size:
        total += sum_of_squares(g + i, size - i if size - i < TILE else TILE)
        i += TILE
    return total

cdef void slowed_rows_of_one(real* restrict u, const real* restrict g, real* restrict total, double eps,
                             Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        total[j] = grown_total(total[j], <double>g[j] * <double>g[j], 1)
        u[j] = g[j] * rate_of_total(total[j], eps)

cdef void adam_row(real* restrict u, const real* restrict g, real* restrict m, real* restrict v, real beta, real rest,
                   real keep, real add, real debias1, real debias2, real eps, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * g[j]
        v[j] = keep * v[j] + add * (g[j] * g[j])
        u[j] = m[j] * debias1 / (root(v[j]) * debias2 + eps)

cdef void adam_way_row(real* restrict u, const real* restrict g, const real* restrict m, const real* restrict v,
                       real beta, real rest, real debias1, real debias2, real eps, bint nesterov,
                       Py_ssize_t n) noexcept nogil:
    """Adam's update of moments that have moved."""
    cdef Py_ssize_t j
    if nesterov:
        for j in range(n):
            u[j] = (beta * m[j] + rest * g[j]) * debias1 / (root(v[j]) * debias2 + eps)
    else:
        for j in range(n):
            u[j] = m[j] * debias1 / (root(v[j]) * debias2 + eps)

cdef void sgd_way_row(real* restrict u, const real* restrict g, const real* restrict m, real beta, bint nesterov,
                      Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    if nesterov:
        for j in range(n):
            u[j] = g[j] + beta * m[j]
    else:
        for j in range(n):
            u[j] = m[j]

cdef void way_row(real* u, MatrixBlock* s, bint adam, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """The update of `n` elements from `k` on, before any projection."""
    cdef const real* g = <const real*>s.g + k
    cdef const real* m = <const real*>s.m + k
    if adam:
        adam_way_row(u, g, m, <const real*>s.v + k, <real>s.beta, <real>(1 - s.beta), <real>s.debias1, <real>s.debias2,
                     <real>s.eps, s.nesterov, n)
    else:
        sgd_way_row(u, g, m, <real>s.beta, s.nesterov, n)

cdef void tangential_row(real* restrict u, const real* restrict p, real r, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = u[j] - r * p[j]

cdef void made_row(real* u, MatrixBlock* s, UpdateKind how, Py_ssize_t i, Py_ssize_t j, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k = i * s.stride + j
    cdef const real* g = <const real*>s.g + k
    if how == BY_FACTORS:
        factored_row(u, g, <const real*>s.c + j, (<const real*>s.r)[i], <real>s.most, n)
    elif how == BY_ROOT:
        rooted_row(u, g, <const real*>s.v + k, <real>s.most, n)
    elif how == BY_MEAN:
        mean_row(u, <const real*>s.m + k, <const real*>s.c + j, (<const real*>s.r)[i], n)
    elif how == BY_ROOTED_MEAN:
        rooted_mean_row(u, g, <const real*>s.v + k, <real*>s.m + k, <real>s.by, <real>s.beta, <real>(1 - s.beta), n)
    elif how == BY_COVER:
        # (r, c: doubles here, what the rows and columns were; row, col: what they become)
        covered_row(u, g, <const double*>s.c + j, s.col + j, (<const double*>s.r)[i], &s.row[i * s.row_step], s.eps, n)
        if s.m != NULL:
            smooth_row(u, <real*>s.m + k, <real>s.beta, <real>(1 - s.beta), n)
    elif how == BY_BLOCK:
        block_row(u, g, <real*>s.m + k, <real>s.beta, <real>(1 - s.beta), (<const real*>s.r)[i], n)
    elif how == BY_ADAM_PROJECTED or how == BY_SGD_PROJECTED:
        way_row(u, s, how == BY_ADAM_PROJECTED, k, n)
        if s.projects:
            tangential_row(u, <const real*>s.p + k, (<const real*>s.r)[i], n)
    elif how == BY_ROW:
        if j == 0:
            (<real*>s.r)[i] = grown_total((<real*>s.r)[i], squared_row(g, s.cols), <double>s.cols)
        scale_row(u, g, rate_of_total((<real*>s.r)[i], s.eps), n)
    else:
        adam_row(u, g, <real*>s.m + k, <real*>s.v + k, <real>s.beta, <real>(1 - s.beta), <real>s.keep, <real>s.add,
                 <real>s.debias1, <real>s.debias2, <real>s.eps, n)

cdef void apply(real* typed, MatrixBlock* s, UpdateKind how) noexcept nogil:
    """Make the update of every row, and give it as often as the buffer is full or the run of elements ends."""
    cdef real[SPREAD] u
    cdef Py_ssize_t i, j, n, held = 0, start = s.start
    for i in range(s.rows):
        j = 0
        if s.cols != s.stride and held:
            give(s, u, start, held, sizeof(real))
            held = 0
        if held == 0:
            start = s.start + i * s.stride
        while j < s.cols:
            n = s.cols - j
            if n > SPREAD - held:
                n = SPREAD - held
            made_row(u + held, s, how, i, j, n)
            held += n
            j += n
            if held == SPREAD:
                give(s, u, start, held, sizeof(real))
                start, held = start + held, 0
    if held:
        give(s, u, start, held, sizeof(real))

cdef void act_factored(real* typed, MatrixBlock* s) noexcept nogil:
    apply(typed, s, BY_FACTORS)

cdef void act_rooted(real* typed, MatrixBlock* s) noexcept nogil:
    apply(typed, s, BY_ROOT)

cdef void act_confident(real* typed, MatrixBlock* s) noexcept nogil:
    apply(typed, s, BY_MEAN)

cdef void act_confident_rooted(real* typed, MatrixBlock* s) noexcept nogil:
    apply(typed, s, BY_ROOTED_MEAN)

cdef void act_covered(real* typed, MatrixBlock* s) noexcept nogil:
    cdef Py_ssize_t i
    memset(s.col, 0, s.cols * sizeof(double))
    for i in range(s.rows):
        s.row[i * s.row_step] = 0
    apply(typed, s, BY_COVER)

cdef void act_mini(real* typed, MatrixBlock* s) noexcept nogil:
    apply(typed, s, BY_BLOCK)

cdef void short_rows(real* restrict u, const real* restrict g, real* restrict total, double eps, Py_ssize_t rows,
                     Py_ssize_t cols) noexcept nogil:
    """Up to TILE rows of few elements, one behind another: each thing in a loop of its own, several roots at a time."""
    cdef double[TILE] squares
    cdef real[TILE] rate
    cdef Py_ssize_t i
    for i in range(rows):
        squares[i] = squared_row(g + i * cols, cols)
    for i in range(rows):
        total[i] = grown_total(total[i], squares[i], <double>cols)
        rate[i] = rate_of_total(total[i], eps)
    for i in range(rows):
        scale_row(u + i * cols, g + i * cols, rate[i], cols)

cdef void act_rowwise(real* typed, MatrixBlock* s) noexcept nogil:
    cdef real[SPREAD] u
    cdef const real* g = <const real*>s.g
    cdef Py_ssize_t i = 0, n, most
    if s.cols != s.stride or s.cols > SPREAD // TILE:
        apply(typed, s, BY_ROW)
        return
    most = TILE if s.cols > 1 else SPREAD
    while i < s.rows:
        n = s.rows - i if s.rows - i < most else most
        if s.cols > 1:
            short_rows(u, g + i * s.cols, <real*>s.r + i, s.eps, n, s.cols)
        else:                                      # (a vector: rows of one element)
            slowed_rows_of_one(u, g + i, <real*>s.r + i, s.eps, n)
        give(s, u, s.start + i * s.cols, n * s.cols, sizeof(real))
        i += n

cdef void act_adam(real* typed, MatrixBlock* s) noexcept nogil:
    apply(typed, s, BY_ADAM)

cdef void act_projected_adam(real* typed, MatrixBlock* s) noexcept nogil:
    apply(typed, s, BY_ADAM_PROJECTED)

cdef void act_projected_sgd(real* typed, MatrixBlock* s) noexcept nogil:
    apply(typed, s, BY_SGD_PROJECTED)


# Moments that need a look at all elements before any moves

cdef void second_row(const real* restrict g, real* restrict v, real* restrict u, real keep, real add, real eps,
                     real most, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        v[j] = keep * v[j] + add * (g[j] * g[j] + eps)
        u[j] = g[j] * least(<real>1 / root(v[j]), most)

cdef void act_second(real* typed, MatrixBlock* s) noexcept nogil:
    cdef real[SPREAD] u
    cdef Py_ssize_t i, j, n, k
    s.sum[0] = 0
    for i in range(s.rows):
        j = 0
        while j < s.cols:
            n = s.cols - j if s.cols - j < SPREAD else SPREAD
            k = i * s.stride + j
            second_row(<const real*>s.g + k, <real*>s.v + k, u, <real>s.keep, <real>s.add, <real>s.eps, <real>s.most, n)
            s.sum[0] += sum_of_squares(u, n)
            j += n

cdef void confidence_row(const real* restrict g, real* restrict m, const real* restrict c, real* restrict rest_of,
                         real r, real by, real beta, real rest, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    cdef real u
    for j in range(n):
        u = g[j] * (r * c[j]) * by
        m[j] = beta * m[j] + rest * u
        rest_of[j] = u - m[j]

cdef void act_confidence(real* typed, MatrixBlock* s) noexcept nogil:
    cdef real[SPREAD] left
    cdef Py_ssize_t i, j, n, k
    memset(s.col, 0, s.cols * sizeof(double))
    for i in range(s.rows):
        s.row[i * s.row_step] = 0
        j = 0
        while j < s.cols:
            n = s.cols - j if s.cols - j < SPREAD else SPREAD
            k = i * s.stride + j
            confidence_row(<const real*>s.g + k, <real*>s.m + k, <const real*>s.c + j, left, (<const real*>s.r)[i],
                           <real>s.by, <real>s.beta, <real>(1 - s.beta), n)
            s.row[i * s.row_step] += sum_of_squares(left, n)
            add_columns(left, 1, n, n, s.col + j)
            j += n

cdef void adam_moments_row(const real* restrict g, real* restrict m, real* restrict v, real beta, real rest, real keep,
                           real add, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + rest * g[j]
        v[j] = keep * v[j] + add * (g[j] * g[j])

cdef void sgd_moment_row(const real* restrict g, real* restrict m, real beta, real add, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = beta * m[j] + add * g[j]

cdef inline void move_moments(MatrixBlock* s, bint adam, Py_ssize_t k, Py_ssize_t n, real* also_typed) noexcept nogil:
    cdef const real* g = <const real*>s.g + k
    if adam:
        adam_moments_row(g, <real*>s.m + k, <real*>s.v + k, <real>s.beta, <real>(1 - s.beta), <real>s.keep,
                         <real>s.add, n)
    else:
        sgd_moment_row(g, <real*>s.m + k, <real>s.beta, <real>s.add, n)

cdef void align(real* typed, MatrixBlock* s, bint adam) noexcept nogil:
    """Let moments move, and say how gradient and update lie to the parameter, row by row."""
    cdef real[SPREAD] u
    cdef Py_ssize_t i = 0, j, k, n, row, together
    while i < s.rows:                       # (short rows that lie one behind another: some at a time)
        together = SPREAD // s.cols if s.cols == s.stride else 1
        together = 1 if together < 1 else s.rows - i if together > s.rows - i else together
        for row in range(i, i + together):
            memset(s.row + row * s.row_step, 0, ALIGNED * sizeof(double))
        j = 0
        while j < s.cols:
            n = s.cols - j if s.cols - j < SPREAD else SPREAD
            k = i * s.stride + j
            move_moments(s, adam, k, together * n, typed)
            if s.projects:
                way_row(u, s, adam, k, together * n)
                for row in range(together):
                    lie(s.row + (i + row) * s.row_step, <const real*>s.g + k + row * n,
                        <const real*>s.p + k + row * n, <const real*>u + row * n, n)
            j += n
        i += together

cdef void act_align_adam(real* typed, MatrixBlock* s) noexcept nogil:
    align(typed, s, True)

cdef void act_align_sgd(real* typed, MatrixBlock* s) noexcept nogil:
    align(typed, s, False)


include "newton_schulz.pxi"


# Gathering: what does not lie in memory as it is computed

cdef void bring(real* typed, MatrixBlock* s, void* into) noexcept nogil:
    """The preprocessed gradient of a block."""
    cdef Py_ssize_t i
    if s.cols == s.stride:
        s.ops.load_gradient(s.job, s.view, s.gradient, s.scalar_group, into, s.start, s.rows * s.cols)
        return
    for i in range(s.rows):
        s.ops.load_gradient(s.job, s.view, s.gradient, s.scalar_group, <real*>into + i * s.stride, s.start + i * s.stride,
                            s.cols)

cdef void couple_row(real* restrict g, const real* restrict p, real l2, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        g[j] = g[j] + l2 * p[j]

cdef void act_gather(real* typed, MatrixBlock* s) noexcept nogil:
    cdef Py_ssize_t i
    bring(typed, s, s.g)
    if s.scalar_group.l2 != 0:
        for i in range(s.rows):
            couple_row(<real*>s.g + i * s.stride, <const real*>s.p + i * s.stride, <real>s.scalar_group.l2, s.cols)

cdef void act_gather_p(real* typed, MatrixBlock* s) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(s.rows):
        s.ops.load_param(s.view, <real*>s.p + i * s.stride, s.start + i * s.stride, s.cols)


cdef MatrixKernels kernel_table

kernel_table.operation[<int>GATHER] = [<MatrixKernel>&act_gather[float], <MatrixKernel>&act_gather[double]]
kernel_table.operation[<int>GATHER_P] = [<MatrixKernel>&act_gather_p[float], <MatrixKernel>&act_gather_p[double]]
kernel_table.operation[<int>WEIGH_P] = [<MatrixKernel>&act_weigh_p[float], <MatrixKernel>&act_weigh_p[double]]
kernel_table.operation[<int>SQUARES] = [<MatrixKernel>&act_squares[float], <MatrixKernel>&act_squares[double]]
kernel_table.operation[<int>CLIPPED] = [<MatrixKernel>&act_clipped[float], <MatrixKernel>&act_clipped[double]]
kernel_table.operation[<int>FACTORED] = [<MatrixKernel>&act_factored[float], <MatrixKernel>&act_factored[double]]
kernel_table.operation[<int>SECOND] = [<MatrixKernel>&act_second[float], <MatrixKernel>&act_second[double]]
kernel_table.operation[<int>ROOTED] = [<MatrixKernel>&act_rooted[float], <MatrixKernel>&act_rooted[double]]
kernel_table.operation[<int>CONFIDENCE] = [<MatrixKernel>&act_confidence[float], <MatrixKernel>&act_confidence[double]]
kernel_table.operation[<int>CONFIDENT] = [<MatrixKernel>&act_confident[float], <MatrixKernel>&act_confident[double]]
kernel_table.operation[<int>CONFIDENT_ROOTED] = [<MatrixKernel>&act_confident_rooted[float], <MatrixKernel>&act_confident_rooted[double]]
kernel_table.operation[<int>COVERED] = [<MatrixKernel>&act_covered[float], <MatrixKernel>&act_covered[double]]
kernel_table.operation[<int>ROWWISE] = [<MatrixKernel>&act_rowwise[float], <MatrixKernel>&act_rowwise[double]]
kernel_table.operation[<int>MINI] = [<MatrixKernel>&act_mini[float], <MatrixKernel>&act_mini[double]]
kernel_table.operation[<int>ADAM] = [<MatrixKernel>&act_adam[float], <MatrixKernel>&act_adam[double]]
kernel_table.operation[<int>ALIGN_ADAM] = [<MatrixKernel>&act_align_adam[float], <MatrixKernel>&act_align_adam[double]]
kernel_table.operation[<int>ALIGN_SGD] = [<MatrixKernel>&act_align_sgd[float], <MatrixKernel>&act_align_sgd[double]]
kernel_table.operation[<int>PROJECTED_ADAM] = [<MatrixKernel>&act_projected_adam[float], <MatrixKernel>&act_projected_adam[double]]
kernel_table.operation[<int>PROJECTED_SGD] = [<MatrixKernel>&act_projected_sgd[float], <MatrixKernel>&act_projected_sgd[double]]
kernel_table.operation[<int>LEAN] = [<MatrixKernel>&act_lean[float], <MatrixKernel>&act_lean[double]]
kernel_table.operation[<int>SCALED] = [<MatrixKernel>&act_scaled[float], <MatrixKernel>&act_scaled[double]]
kernel_table.operation[<int>EVENED] = [<MatrixKernel>&act_evened[float], <MatrixKernel>&act_evened[double]]
kernel_table.operation[<int>MOVED] = [<MatrixKernel>&act_moved[float], <MatrixKernel>&act_moved[double]]

matrix_kernels = PyCapsule_New(&kernel_table, "fastlr.acts", NULL)
