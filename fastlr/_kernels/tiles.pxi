# The one loop, and the tiles around it. Included by a door per instruction set (baseline, v3, v4);
# only what must be compiled once for each belongs here.
#
# A whole piece goes straight through `sweep` when its operands are contiguous and nothing stands before the
# rule. Otherwise it goes tile by tile: what is not in native form is gathered into scratch that stays in the
# first-level cache, the same sweep runs over the scratch, and what moved is scattered back. So neither strides
# nor stages multiply the rules, and an element meets the same operations in the same order either way.

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.math cimport INFINITY
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset
from fastlr.element cimport StepScalars, real, root
from fastlr.rules cimport (
    Rule, Prefetch, FourSlots, UpdatesStateWhileReducing, DecayInsideUpdate, NoSlot, DependsOnParam, Reducing, MaySkipState, ThreeSlots, TwoSlots,
    at, finish_all, reduce_terms, tensor_scalars, begin_step, skips_state, finish_tensor, shared_scalars, slots, sums, update,
)
from fastlr._kernels.structs cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, GROUP, MOST_DIMENSIONS, MOST_SLOTS, MOST_SUMS, SIGNED8, TILE, UNSIGNED8,
    Storage, ScalarsFunction, FinishAllFunction, TermsFunction, BeginFunction, FinishFunction, StepFunction, RuleTable, StridedLayout, TensorView, ScalarGroup, Chunk, GradientView, ChunkSum, UnitRange,
    UnitSums, StepJob, left_of,
)

include "../_engine/build_id.pxi"

cdef extern from *:
    """
    /* Moments that decay towards zero become subnormal, which costs 2 to 100 times as much per element: they are
       flushed to zero while a kernel runs, and the host's own floating-point mode comes back after it. Of that mode
       nothing is kept inside: threads may differ in it, and the bits must not depend on who takes which chunk. */
    #if defined(__x86_64__) || defined(_M_X64)
    #include <immintrin.h>
    static unsigned int fastlr_enter(void) {
        unsigned int before = _mm_getcsr();
        _mm_setcsr(0x9fc0);                       /* to nearest, flush to zero, denormals are zero, no traps */
        return before;
    }
    static void fastlr_leave(unsigned int before) { _mm_setcsr(before); }
    #elif defined(__aarch64__)
    static unsigned int fastlr_enter(void) {
        unsigned long before, inside = 1ul << 24;  /* the same */
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(before));
        __asm__ __volatile__("msr fpcr, %0" : : "r"(inside));
        return (unsigned int)before;
    }
    static void fastlr_leave(unsigned int before) {
        unsigned long back = before;
        __asm__ __volatile__("msr fpcr, %0" : : "r"(back));
    }
    #else
    static unsigned int fastlr_enter(void) { return 0; }
    static void fastlr_leave(unsigned int before) { (void)before; }
    #endif
    """
    unsigned int fastlr_enter() noexcept nogil
    void fastlr_leave(unsigned int before) noexcept nogil


cdef extern from *:
    """
    /* asked for into the first-level cache, and into the second */
    #if defined(__GNUC__)
    #define fastlr_soon(x) __builtin_prefetch(x, 1, 3)
    #define fastlr_later(x) __builtin_prefetch(x, 0, 2)
    #elif defined(_M_X64)
    #define fastlr_soon(x) _mm_prefetch((const char *)(x), _MM_HINT_T0)
    #define fastlr_later(x) _mm_prefetch((const char *)(x), _MM_HINT_T1)
    #else
    #define fastlr_soon(x) ((void)(x))
    #define fastlr_later(x) ((void)(x))
    #endif
    """
    void soon "fastlr_soon"(const void* x) noexcept nogil

cdef enum:
    STRIDE = 64                # elements between two requests for what comes
    EARLY = 512                # elements that a busy rule asks ahead (benchmarks/compare.py --tables roof)


cdef inline void through(Rule h, StepScalars now, real* restrict p, const real* restrict g, real* restrict a,
                         real* restrict b, real* restrict c, real* restrict d, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef real pi, ai = 0, bi = 0, ci = 0, di = 0
    for i in range(size):
        pi = p[i]
        if not (Rule in NoSlot):
            ai = a[i]
        if Rule in TwoSlots or Rule in ThreeSlots or Rule in FourSlots:
            bi = b[i]
        if Rule in ThreeSlots or Rule in FourSlots:
            ci = c[i]
        if Rule in FourSlots:
            di = d[i]
        update(h, now, &pi, g[i], &ai, &bi, &ci, &di)
        p[i] = pi
        if not (Rule in NoSlot or Rule in UpdatesStateWhileReducing):
            a[i] = ai
        if (Rule in TwoSlots or Rule in ThreeSlots or Rule in FourSlots) and not (Rule in UpdatesStateWhileReducing):
            b[i] = bi
        if (Rule in ThreeSlots or Rule in FourSlots) and not (Rule in UpdatesStateWhileReducing):
            c[i] = ci
        if Rule in FourSlots and not (Rule in UpdatesStateWhileReducing):
            d[i] = di

cdef inline void ask(const real* x) noexcept nogil:
    cdef int k
    for k in range(<int>(STRIDE * sizeof(real)) // 64):
        soon(<const char*>x + 64 * k)

cdef void step(Rule h, StepScalars now, real* restrict p, const real* restrict g, real* restrict a, real* restrict b,
                real* restrict c, real* restrict d, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef real pi, none = 0
    if Rule in MaySkipState:
        if skips_state(h, now):              # (of 20 bytes an element 8 stay where they are)
            for i in range(size):
                pi = p[i]
                update(h, now, &pi, g[i], &none, &none, &none, &none)
                p[i] = pi
            return
    if Rule in Prefetch:
        while i + STRIDE + EARLY <= size:
            ask(p + i + EARLY)
            ask(g + i + EARLY)
            ask(a + i + EARLY)
            ask(b + i + EARLY)
            if Rule in ThreeSlots:
                ask(c + i + EARLY)
                through(h, now, p + i, g + i, a + i, b + i, c + i, NULL, STRIDE)
            else:
                through(h, now, p + i, g + i, a + i, b + i, NULL, NULL, STRIDE)
            i += STRIDE
        p, g, a, b, size = p + i, g + i, a + i, b + i, size - i
        if Rule in ThreeSlots:
            c = c + i
    through(h, now, p, g, a, b, c, d, size)


cdef void move(const Rule* h, const StepScalars* now, real* p, const real* g, void** slot, Py_ssize_t size) noexcept nogil:
    step(h[0], now[0], p, g, <real*>slot[0], <real*>slot[1], <real*>slot[2], <real*>slot[3], size)

cdef void scalar_group(const Rule* h, double lr, int64_t t, StepScalars* now) noexcept nogil:
    now[0] = at(h[0], lr, t)

cdef void remember(const Rule* h, StepScalars* now, double* memory, const double* shared) noexcept nogil:
    begin_step(h[0], now, memory, shared)

cdef void sum_up(const Rule* h, const StepScalars* now, double* shared, const double* totals, double size) noexcept nogil:
    finish_all(h[0], now[0], shared, totals, size)

cdef void decide(const Rule* h, StepScalars* now, double* memory, const double* shared, const double* sums_,
                 double size) noexcept nogil:
    finish_tensor(h[0], now, memory, shared, sums_, size)


def rule(Rule h):
    """The rule of a struct's name, as a capsule, and its fields: `rule["AdamW"](dict_of_fields)`.

    Then how many slots it has, and numbers of a tensor, and of all tensors; whether it reduces, and is placed.
    """
    cdef RuleTable* opened = <RuleTable*>malloc(sizeof(RuleTable))     # lives as long as the process
    if opened == NULL:
        raise MemoryError
    # Pointers to a rule's own struct and element are called as pointers to double and void.
    opened.at = <ScalarsFunction>&scalar_group[Rule]
    opened.step[0] = <StepFunction>&move[Rule, float]
    opened.step[1] = <StepFunction>&move[Rule, double]
    opened.reduce_terms[0] = <TermsFunction>&gauge_tile[Rule, float]
    opened.reduce_terms[1] = <TermsFunction>&gauge_tile[Rule, double]
    opened.begin_step = <BeginFunction>&remember[Rule]
    opened.finish_all = <FinishAllFunction>&sum_up[Rule]
    opened.finish_tensor = <FinishFunction>&decide[Rule]
    memset(opened.fused, 0, sizeof(opened.fused))
    if Rule in InStorageLoop:
        opened.fused[0] = <StorageLoop>&fuse[Rule, float, float]
        opened.fused[1] = <StorageLoop>&fuse[Rule, float, uint16_t]
        opened.fused[2] = <StorageLoop>&fuse[Rule, float, uint8_t]
        opened.fused[3] = <StorageLoop>&fuse[Rule, uint16_t, float]
        opened.fused[4] = <StorageLoop>&fuse[Rule, uint16_t, uint16_t]
        opened.fused[5] = <StorageLoop>&fuse[Rule, uint16_t, uint8_t]
    opened.slots = slots(h)
    opened.tensor_scalars, opened.shared, opened.sums = tensor_scalars(h), shared_scalars(h), sums(h)
    opened.updates_state_while_reducing, opened.decay_inside_update = Rule in UpdatesStateWhileReducing, Rule in DecayInsideUpdate
    opened.fields = sizeof(Rule) // sizeof(double)
    counts = opened.slots, opened.tensor_scalars, opened.shared
    return PyCapsule_New(opened, "fastlr.rule", NULL), h, counts, Rule in Reducing, Rule in DependsOnParam


include "codecs.pxi"

# Tiles

ctypedef fused bits:
    uint16_t
    uint32_t
    uint64_t

cdef inline void start_at(const StridedLayout* w, Py_ssize_t element, Py_ssize_t* index, Py_ssize_t* offset) noexcept nogil:
    cdef int d
    offset[0] = 0
    for d in range(w.ndim - 1, -1, -1):
        index[d] = element % w.shape[d]
        element = element // w.shape[d]
        offset[0] += index[d] * w.stride[d]

cdef inline Py_ssize_t next_row(const StridedLayout* w, Py_ssize_t* index) noexcept nogil:
    # The offset of the next innermost row, from the start of the array.
    cdef int d = w.ndim - 2
    cdef Py_ssize_t offset = 0
    index[w.ndim - 1] = 0
    while d >= 0:
        index[d] += 1
        if index[d] < w.shape[d]:
            break
        index[d] = 0
        d -= 1
    for d in range(w.ndim - 1):
        offset += index[d] * w.stride[d]
    return offset

cdef void carry(bits* scratch, char* array, const StridedLayout* w, Py_ssize_t start, Py_ssize_t size, bint out) noexcept nogil:
    """Gather `size` elements of a walk from `start` on into scratch, or (`out`) scatter them back."""
    cdef Py_ssize_t[MOST_DIMENSIONS] index
    cdef Py_ssize_t offset, run, i, k = 0, stride = w.stride[w.ndim - 1]
    cdef char* at_
    start_at(w, start, index, &offset)
    while k < size:
        run = w.shape[w.ndim - 1] - index[w.ndim - 1]
        if run > size - k:
            run = size - k
        at_ = array + offset
        if out:
            for i in range(run):
                memcpy(at_ + i * stride, &scratch[k + i], sizeof(bits))
        else:
            for i in range(run):
                memcpy(&scratch[k + i], at_ + i * stride, sizeof(bits))
        k += run
        if k < size:
            offset = next_row(w, index)

cdef inline real clipped(real x, real most) noexcept nogil:
    x = most if x > most else x
    return -most if x < -most else x

cdef void before(real* restrict out, const real* restrict g, const real* restrict p, const ScalarGroup* now,
                 double clip_factor, Py_ssize_t size) noexcept nogil:
    """What happens to a gradient before the rule sees it: unscale, clip by value, clip by norm, coupled decay."""
    cdef Py_ssize_t i
    cdef real scale = <real>now.grad_factor, most = <real>now.clip_value, l2 = <real>now.l2, left = <real>clip_factor
    for i in range(size):
        out[i] = clipped(g[i] * scale, most) * left
    if now.l2 != 0:
        for i in range(size):
            out[i] = out[i] + l2 * p[i]

cdef void average(real* restrict ema, const real* restrict p, double decay, Py_ssize_t size) noexcept nogil:
    """The running mean of a parameter, after it moved."""
    cdef Py_ssize_t i
    cdef real keep = <real>decay, take = <real>(1 - decay)
    for i in range(size):
        ema[i] = keep * ema[i] + take * p[i]

cdef void after(real* restrict p, const real* restrict moved, const real* restrict factor, const ScalarGroup* now,
                Py_ssize_t size) noexcept nogil:
    """A learning rate per element: the rule moved a zero, its move is scaled and added to what decay leaves."""
    cdef Py_ssize_t i
    cdef real keep = <real>now.now.decay_factor, own = <real>now.decay_by_lr, one = 1
    for i in range(size):
        p[i] = (keep + own * (one - factor[i])) * p[i] + factor[i] * moved[i]


cdef void carry_any(void* scratch, char* array, const StridedLayout* w, Py_ssize_t start, Py_ssize_t size, Storage stored,
                    bint out) noexcept nogil:
    if stored == FLOAT64:
        carry(<uint64_t*>scratch, array, w, start, size, out)
    elif stored == FLOAT32:
        carry(<uint32_t*>scratch, array, w, start, size, out)
    else:
        carry(<uint16_t*>scratch, array, w, start, size, out)

cdef inline bint native(Storage stored, real* also_typed) noexcept nogil:
    if real is float:
        return stored == FLOAT32
    else:
        return stored == FLOAT64

cdef real* fetch(real* scratch, uint64_t* raw, char* array, const StridedLayout* layout, const float* scale, Storage stored,
                 Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """A tile of an array as floats: where it lies if it lies so, else in scratch."""
    cdef char* x = array + start * bytes_of(stored)
    if layout != NULL:
        if native(stored, scratch):
            carry_any(scratch, array, layout, start, size, stored, False)
            return scratch
        carry_any(raw, array, layout, start, size, stored, False)
        x = <char*>raw
    elif native(stored, scratch):
        return <real*>x
    decode(scratch, x, scale, stored, size)
    return scratch

cdef void put_back(const real* tile, uint64_t* raw, char* array, const StridedLayout* layout, float* scale, Storage stored,
                   Py_ssize_t start, Py_ssize_t size, const StepJob* job, uint64_t random_salt) noexcept nogil:
    """What `fetch` put into scratch, back to where it lies."""
    cdef char* x = array + start * bytes_of(stored)
    if native(stored, <real*>tile):
        if layout != NULL:
            carry_any(<void*>tile, array, layout, start, size, stored, True)
        return
    if layout != NULL:
        x = <char*>raw
    encode(x, scale, tile, stored, size, job.stochastic, job.key + random_salt, start)
    if layout != NULL:
        carry_any(raw, array, layout, start, size, stored, True)


include "mixed_precision.pxi"


cdef void tiles(const StepJob* job, const TensorView* s, const GradientView* gradient, const ScalarGroup* now, Py_ssize_t start,
                Py_ssize_t size, double* totals, real* also_typed) noexcept nogil:
    """One go over consecutive elements: a reducing rule's first one if there are `totals` to add to."""
    cdef uint64_t[TILE] raw
    cdef real[TILE] scratch_p
    cdef real[TILE] scratch_g
    cdef real[TILE] moved
    cdef real[MOST_SLOTS][TILE] scratch
    cdef void* slot[MOST_SLOTS]
    cdef float* scale[MOST_SLOTS]
    cdef real* p
    cdef const real* g
    cdef Py_ssize_t i = start, n
    cdef int k
    for k in range(MOST_SLOTS):
        slot[k] = scale[k] = NULL
    while i < start + size:
        n = start + size - i
        if n > TILE:
            n = TILE
        p = fetch_parameter(scratch_p, raw, s, i, n)
        g = fetch(scratch_g, raw, <char*>gradient.g, gradient.layout, NULL, gradient.stored, i, n)
        for k in range(job.slots):
            if s.slot_scale[k] != NULL:
                scale[k] = s.slot_scale[k] + i // GROUP
            slot[k] = fetch(scratch[k], raw, s.slot[k], NULL, scale[k], s.slot_stored[k], i, n)
        if s.unit_factors != NULL:
            before_units(scratch_g, g, p, now, s, i, n)
            g = scratch_g
        elif now.staged:
            before(scratch_g, g, p, now, s.clip_factor, n)
            g = scratch_g
        if totals != NULL:
            job.reduce_terms[s.is_double](now.hyper, &now.now, p, g, slot, totals, n)
        elif s.lr_factors != NULL:
            memset(moved, 0, n * sizeof(real))
            job.step[s.is_double](now.hyper, &now.now, moved, g, slot, n)
            after(p, moved, <const real*>s.lr_factors + i, now, n)
        else:
            job.step[s.is_double](now.hyper, &now.now, p, g, slot, n)
        for k in range(job.slots if job.updates_state_while_reducing == (totals != NULL) else 0):
            put_back(<real*>slot[k], raw, s.slot[k], NULL, scale[k], s.slot_stored[k], i, n, job, s.random_salt + 1 + k)
        if totals != NULL:
            i += n
            continue
        put_back_parameter(p, raw, s, i, n, job)
        if s.ema != NULL or s.shadow != NULL:
            if not native(s.stored, p):            # (mean and copy are of what is stored)
                p = fetch_parameter(scratch_p, raw, s, i, n)
            if s.ema != NULL:
                average(<real*>s.ema + i, p, now.ema_decay, n)
            if s.shadow != NULL:
                cast(s, p, raw, i, n)
        i += n


cdef inline bint direct(const TensorView* s, const GradientView* gradient, const ScalarGroup* now) noexcept nogil:
    """Whether the rule may go straight over memory."""
    return not (s.staged or now.staged) and s.layout == NULL and gradient.layout == NULL and s.lr_factors == NULL \
        and s.ema == NULL and gradient.stored == (FLOAT64 if s.is_double else FLOAT32)


include "storage_loop.pxi"


cdef void forget(const GradientView* gradient, const Chunk* chunk) noexcept nogil:
    cdef Py_ssize_t bytes = bytes_of(gradient.stored)
    if gradient.layout == NULL:
        memset(<char*>gradient.g + chunk.start * bytes, 0, chunk.size * bytes)
    else:
        zero(<char*>gradient.g, gradient.layout, chunk.start, chunk.size, gradient.stored)


cdef void run(void* context, Py_ssize_t task) noexcept nogil:
    """One chunk of a step: the job of whichever thread takes it."""
    cdef const StepJob* job = <const StepJob*>context
    cdef unsigned int mode = fastlr_enter()
    cdef Py_ssize_t k, bytes
    cdef const Chunk* chunk
    cdef const TensorView* s
    cdef const GradientView* gradient
    cdef const ScalarGroup* now
    cdef void* slot[MOST_SLOTS]
    cdef Py_ssize_t begin, size
    cdef int i
    for k in range(job.task_starts[task], job.task_starts[task + 1]):
        chunk = &job.chunks[k]
        s = &job.views[chunk.view]
        gradient = &job.gradients[chunk.view]
        if gradient.g == NULL:
            continue
        now = &job.scalar_groups[s.scalar_group]
        if job.unit_squares != NULL and chunk.size == s.size:
            weigh_alone(job, chunk, now)
        if direct(s, gradient, now):
            bytes = chunk.start * (8 if s.is_double else 4)
            for i in range(MOST_SLOTS):
                slot[i] = s.slot[i] + bytes if i < job.slots else NULL
            job.step[s.is_double](now.hyper, &now.now, s.p + bytes, gradient.g + bytes, slot, chunk.size)
        elif s.is_double:
            tiles(job, s, gradient, now, chunk.start, chunk.size, NULL, <double*>NULL)
        else:
            begin, size, i = chunk.start, chunk.size, fusible(job, s, gradient)
            if i >= 0 and size >= HASHED:
                job.fused[i](now.hyper, job, s, gradient.g, now, begin, size // HASHED * HASHED, NULL)
                begin, size = begin + size // HASHED * HASHED, size % HASHED
            tiles(job, s, gradient, now, begin, size, NULL, <float*>NULL)
        # (gradients are zeroed here, while their lines are in cache)
        if job.zero_grads:
            forget(gradient, chunk)
    fastlr_leave(mode)


include "sums.pxi"


cdef void zero(char* array, const StridedLayout* w, Py_ssize_t start, Py_ssize_t size, Storage stored) noexcept nogil:
    cdef uint64_t[TILE] nothing
    cdef Py_ssize_t i = start, n
    memset(nothing, 0, sizeof(nothing))
    while i < start + size:
        n = start + size - i
        if n > TILE:
            n = TILE
        carry_any(nothing, array, w, i, n, stored, True)
        i += n


include "unit_norms.pxi"
include "accumulate.pxi"

step_task = PyCapsule_New(<void*>&run, "fastlr.run", NULL)
measure_task = PyCapsule_New(<void*>&weigh, "fastlr.run", NULL)
terms_task = PyCapsule_New(<void*>&gauge_pieces, "fastlr.run", NULL)
unit_norms_task = PyCapsule_New(<void*>&weigh_units, "fastlr.run", NULL)
accumulate_task = PyCapsule_New(<void*>&fold_pieces, "fastlr.run", NULL)

include "rows.pxi"
include "matrix_blocks.pxi"
