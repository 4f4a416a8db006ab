# Storage and rule in one loop, for the rules of `Hot`: a block is decoded, moved and encoded while it is in registers,
# so that the divider, which bounds a rule, works beside the codecs rather than after them. What comes out are the bits
# that `tiles` makes, which takes what is left: other rules, layouts, mixtures, and the ends of pieces. Included by
# every door. (benchmarks/storage.py shows what it is worth.)

from fastlr.rules cimport Adam, AdamW
from fastlr._kernels.sweep cimport Fused

ctypedef fused Hot:
    Adam
    AdamW

ctypedef fused weight:         # parameter and gradient: float32, bfloat16
    float
    uint16_t

ctypedef fused moment:         # every slot: float32, bfloat16, 8 bits
    float
    uint16_t
    uint8_t

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define fastlr_soon(x) __builtin_prefetch(x, 1, 3)
    #elif defined(_M_X64)
    #define fastlr_soon(x) _mm_prefetch((const char *)(x), _MM_HINT_T0)
    #else
    #define fastlr_soon(x) ((void)(x))
    #endif
    """
    void soon "fastlr_soon"(const void* x) noexcept nogil

cdef enum:
    AHEAD = 1024               # elements asked for early: 16-bit states over 40 million take 17 ms, without it 20
    BLOCK = GROUP              # elements that are in registers at a time
    SLOTS = 2                  # of each of the rules

cdef inline void expect(const weight* x) noexcept nogil:
    # (past the end of an array, too: that asks for nothing that could fail)
    soon(x + AHEAD)
    soon(<const char*>(x + AHEAD) + 64)
    if weight is float:
        soon(<const char*>(x + AHEAD) + 128)
        soon(<const char*>(x + AHEAD) + 192)

cdef inline void load(float* restrict out, const weight* restrict x) noexcept nogil:
    cdef Py_ssize_t i
    if weight is float:
        for i in range(BLOCK):
            out[i] = x[i]
    else:
        decode_bfloat16(out, x, BLOCK)

cdef inline void unload(weight* restrict out, const float* restrict x, bint stochastic, const uint16_t* restrict table,
                        Dice dice) noexcept nogil:
    cdef Py_ssize_t i
    if weight is float:
        for i in range(BLOCK):
            out[i] = x[i]
    elif stochastic:
        toss_bfloat16(out, x, table, dice, BLOCK)
    else:
        encode_bfloat16(out, x, BLOCK)

cdef inline void load_slot(float* restrict out, const moment* restrict x, bint negative, float most) noexcept nogil:
    if moment is uint8_t:
        if negative:
            decode_signed8(out, <const int8_t*>x, most, BLOCK)
        else:
            decode_unsigned8(out, x, most, BLOCK)
    else:
        load(out, x)

cdef inline void advance(Hot h, Now now, float* restrict p, const float* restrict g, float* restrict a,
                         float* restrict b) noexcept nogil:
    cdef Py_ssize_t i
    cdef float pi, ai, bi, none = 0
    for i in range(BLOCK):
        pi, ai, bi = p[i], a[i], b[i]
        update(h, now, &pi, g[i], &ai, &bi, &none, &none)
        p[i], a[i], b[i] = pi, ai, bi

cdef void fuse(const Hot* hyper, const Job* job, const Span* s, const weight* gradient, const Instant* instant,
               Py_ssize_t start, Py_ssize_t size, moment* also_typed) noexcept nogil:
    """Whole HASHED elements from a multiple of HASHED on."""
    cdef Hot h = hyper[0]
    cdef Now now = instant.now
    cdef bint stochastic = job.stochastic
    cdef bint[SLOTS] negative
    cdef float[BLOCK] p
    cdef float[BLOCK] g
    cdef float[BLOCK] raw
    cdef float[BLOCK] a
    cdef float[BLOCK] b
    cdef float[HASHED] all_a
    cdef float[HASHED] all_b
    cdef weight* to
    cdef const weight* of
    cdef moment* slot_a
    cdef moment* slot_b
    cdef float* scale_a = NULL
    cdef float* scale_b = NULL
    cdef float most_a = 0, most_b = 0
    cdef Dice dice, dice_a, dice_b
    cdef const uint16_t* table
    cdef Py_ssize_t i, k, tile, block
    dice = dice_a = dice_b = Dice(1, 0, 0)
    negative[0], negative[1] = s.slot_stored[0] == SIGNED8, s.slot_stored[1] == SIGNED8
    for tile in range(size // HASHED):
        i = start + tile * HASHED
        if stochastic:
            if weight is uint16_t:
                dice = shaken(job.key + s.salt, i)
            if moment is uint16_t:
                dice_a, dice_b = shaken(job.key + s.salt + 1, i), shaken(job.key + s.salt + 2, i)
        if moment is uint8_t:
            scale_a, scale_b = s.slot_scale[0] + i // GROUP, s.slot_scale[1] + i // GROUP
        for block in range(HASHED // BLOCK):
            k = block * BLOCK
            to, of, table = <weight*>s.p + i + k, gradient + i + k, random_table + k
            slot_a, slot_b = <moment*>s.slot[0] + i + k, <moment*>s.slot[1] + i + k
            if moment is uint8_t:
                most_a, most_b = scale_a[k // GROUP], scale_b[k // GROUP]
            expect(to)
            expect(of)
            if moment is uint8_t:
                soon(slot_a + AHEAD)
                soon(slot_b + AHEAD)
            else:
                expect(slot_a)
                expect(slot_b)
            load(p, to)
            load_slot(a, slot_a, negative[0], most_a)
            load_slot(b, slot_b, negative[1], most_b)
            if instant.staged:
                load(raw, of)
                before(g, raw, p, instant, s.shrink, BLOCK)
            else:
                load(g, of)
            advance(h, now, p, g, a, b)
            unload(to, p, stochastic, table, dice)
            if moment is uint8_t:
                memcpy(all_a + k, a, sizeof(a))
                memcpy(all_b + k, b, sizeof(b))
            else:
                unload(slot_a, a, stochastic, table, dice_a)
                unload(slot_b, b, stochastic, table, dice_b)
        if moment is uint8_t:
            encode8(s.slot[0] + i, scale_a, all_a, negative[0], HASHED)
            encode8(s.slot[1] + i, scale_b, all_b, negative[1], HASHED)

cdef inline int fusible(const Job* job, const Span* s, const Gradient* gradient) noexcept nogil:
    """Which of `job.fused` serves, or -1."""
    cdef Storage first = s.slot_stored[0], second = s.slot_stored[1]
    cdef int k
    if job.fused == NULL or job.fused[0] == NULL or s.wide or s.walk != NULL or gradient.walk != NULL \
            or s.scale != NULL or s.ema != NULL or s.rest != NULL or s.shadow != NULL or s.unit != NULL \
            or s.stored != gradient.stored:
        return -1
    if s.stored != FLOAT32 and s.stored != BFLOAT16:
        return -1
    if first == FLOAT32 and second == FLOAT32:
        k = 0
    elif first == BFLOAT16 and second == BFLOAT16:
        k = 1
    elif (first == SIGNED8 or first == UNSIGNED8) and (second == SIGNED8 or second == UNSIGNED8):
        k = 2
    else:
        return -1
    return k if s.stored == FLOAT32 else k + 3
