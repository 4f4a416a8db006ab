# Storage and rule in one loop, for the rules of `Hot`: a block is decoded, moved and encoded while it is in registers,
# so that the divider, which bounds a rule, works beside the codecs rather than after them. A processor looks ahead over
# a few hundred instructions, half of them where a neighbour shares its core: so all roots of a block are on their way
# before the first quotient, and packing goes between them (a sixth less time than a rule at a time). What comes out are
# the bits that `tiles` makes, which takes what is left: other rules, layouts, mixtures, and the ends of pieces.
# Included by every door. (benchmarks/storage.py shows what it is worth.)

from fastlr.rules cimport Adam, AdamW, adam_moments, adam_move, adamw_move, without_decay
from fastlr._kernels.structs cimport StorageLoop

ctypedef fused InStorageLoop:
    Adam
    AdamW

ctypedef fused weight:         # parameter and gradient: float32, bfloat16
    float
    uint16_t

ctypedef fused moment:         # every slot: float32, bfloat16, 8 bits
    float
    uint16_t
    uint8_t

cdef enum:
    AHEAD = 1024               # elements asked for early
    BLOCK = GROUP              # elements that are in registers at a time
    SLOTS = 2                  # of each of the rules

cdef inline void expect(const weight* x) noexcept nogil:
    # (past the end of an array, too: that asks for nothing that could fail)
    soon(x + AHEAD)
    soon(<const char*>(x + AHEAD) + 64)
    if weight is float:
        soon(<const char*>(x + AHEAD) + 128)
        soon(<const char*>(x + AHEAD) + 192)

cdef extern from *:
    """
    typedef struct { FASTLR_LINES float x[64]; } fastlr_block;
    typedef struct { FASTLR_LINES float x[512]; } fastlr_blocks;
    """
    ctypedef struct Block "fastlr_block":
        float[BLOCK] x
    ctypedef struct Blocks "fastlr_blocks":
        float[HASHED] x

cdef inline void load(float* restrict out, const weight* restrict x, bint pairs, Held h) noexcept nogil:
    cdef Py_ssize_t i
    if weight is float:
        for i in range(BLOCK):
            out[i] = x[i]
    elif WIDE:
        wide_load(out, x, pairs, h)
    else:
        decode_bfloat16(out, x, BLOCK)

cdef inline void unload(weight* restrict out, const float* restrict x, bint stochastic, RandomBits dice, bint pairs,
                        bint any_nan, Held h) noexcept nogil:
    cdef Py_ssize_t i
    if weight is float:
        for i in range(BLOCK):
            out[i] = x[i]
    elif WIDE:
        if stochastic:
            wide_toss(out, x, dice.a, dice.b, dice.c, pairs, any_nan, h)
        else:
            wide_round(out, x, pairs, any_nan, h)
    elif stochastic:
        toss_bfloat16(out, x, dice.a, dice.b, dice.c, BLOCK)
    else:
        encode_bfloat16(out, x, BLOCK)

cdef inline void load_slot(float* restrict out, const moment* restrict x, bint negative, const float* scale,
                           bint pairs, Held h) noexcept nogil:
    if moment is uint8_t:
        if WIDE:
            wide_decode8(out, x, scale, negative, pairs, h)
        elif negative:
            decode_signed8(out, <const int8_t*>x, scale[0], BLOCK)
        else:
            decode_unsigned8(out, x, scale[0], BLOCK)
    else:
        load(out, x, pairs, h)

cdef void in_order(float* restrict out, const float* restrict x) noexcept nogil:
    """Blocks of `pairs` as they were before, see codecs_avx512.pxi."""
    cdef Py_ssize_t k, i
    for k in range(HASHED // 32):
        for i in range(16):
            out[32 * k + 2 * i], out[32 * k + 2 * i + 1] = x[32 * k + i], x[32 * k + 16 + i]

cdef void repack(moment* out, float* scale, const Blocks* x, bint negative, bint pairs) noexcept nogil:
    """What `wide_pack` could not."""
    cdef Blocks ordered
    if pairs:
        in_order(ordered.x, x.x)
        x = &ordered
    encode8(<char*>out, scale, x.x, negative, HASHED)

cdef inline void moments(InStorageLoop h, const float* g, const float* old_a, const float* old_b, float* a, float* b,
                         float* root_of_b) noexcept nogil:
    """The first half of a rule, for a block."""
    cdef Py_ssize_t i
    cdef float ai, bi
    for i in range(BLOCK):
        ai, bi = old_a[i], old_b[i]
        if InStorageLoop is AdamW:
            root_of_b[i] = adam_moments(without_decay(h), g[i], &ai, &bi)
        else:
            root_of_b[i] = adam_moments(h, g[i], &ai, &bi)
        a[i], b[i] = ai, bi

cdef inline void move_block(InStorageLoop h, StepScalars now, float* restrict p, const float* restrict a,
                            const float* restrict root_of_b, Py_ssize_t start, Py_ssize_t behind) noexcept nogil:
    """The second, for a part of it."""
    cdef Py_ssize_t i
    cdef float pi
    for i in range(start, behind):
        pi = p[i]
        if InStorageLoop is AdamW:
            adamw_move(h, now, &pi, a[i], root_of_b[i])
        else:
            pi = <float>now.decay_factor * pi
            adam_move(h, now, &pi, a[i], root_of_b[i])
        p[i] = pi

cdef void fuse(const InStorageLoop* hyper, const StepJob* job, const TensorView* s, const weight* gradient, const ScalarGroup* scalar_group,
               Py_ssize_t start, Py_ssize_t size, moment* also_typed) noexcept nogil:
    """Whole HASHED elements from a multiple of HASHED on.

    Codes of 8 bits wait for the scales of their groups, and then for the next HASHED elements, between whose quotients
    and roots they are packed: so the divider is not idle meanwhile.
    """
    cdef InStorageLoop h = hyper[0]
    cdef StepScalars now = scalar_group.now
    cdef bint stochastic = job.stochastic
    cdef bint packs = WIDE and moment is uint8_t
    cdef bint pairs = weight is uint16_t and moment is not float       # (what is float32 stays in order)
    cdef bint any_nan = weight is float or moment is float     # whether NaN of any bits comes in
    cdef Block p, g, raw, a, b, root_of_b
    cdef Blocks[2] all_a
    cdef Blocks[2] all_b
    cdef Packing packing_a, packing_b
    cdef float* at_p = p.x                     # (where it lies, if that is as it is computed)
    cdef float* at_a = a.x
    cdef float* at_b = b.x
    cdef weight* all_p = <weight*>s.p
    cdef moment* first_a = <moment*>s.slot[0]
    cdef moment* first_b = <moment*>s.slot[1]
    cdef bint staged = scalar_group.staged
    cdef weight* to
    cdef const weight* of
    cdef moment* slot_a
    cdef moment* slot_b
    cdef float* scale_a = NULL
    cdef float* scale_b = NULL
    cdef float* unit_a = NULL
    cdef float* unit_b = NULL
    cdef Held held = wide_held()
    cdef RandomBits dice, dice_a, dice_b
    cdef Py_ssize_t i, k, tile, block, tiles_ = size // HASHED, this, last = 0
    dice = dice_a = dice_b = shaken(0, 0)          # (which nothing reads unless it is thrown)
    for tile in range(tiles_):
        i = start + tile * HASHED
        this, last = tile & 1, 1 - (tile & 1)
        if stochastic:
            if weight is uint16_t:
                dice = shaken(job.key + s.random_salt, i)
            if moment is uint16_t:
                dice_a, dice_b = shaken(job.key + s.random_salt + 1, i), shaken(job.key + s.random_salt + 2, i)
        if moment is uint8_t:
            scale_a, scale_b = s.slot_scale[0] + i // GROUP, s.slot_scale[1] + i // GROUP
        for block in range(HASHED // BLOCK):
            k = block * BLOCK
            to, of = all_p + i + k, gradient + i + k
            slot_a, slot_b = first_a + i + k, first_b + i + k
            if moment is uint8_t:
                unit_a, unit_b = scale_a + k // GROUP, scale_b + k // GROUP
                at_a, at_b = all_a[this].x + k, all_b[this].x + k
            expect(to)
            expect(of)
            if moment is uint8_t:
                soon(slot_a + AHEAD)
                soon(slot_b + AHEAD)
            else:
                expect(slot_a)
                expect(slot_b)
            if weight is float:
                at_p = <float*>to
            else:
                load(at_p, to, pairs, held)
            load_slot(a.x, slot_a, True, unit_a, pairs, held)
            load_slot(b.x, slot_b, False, unit_b, pairs, held)
            if staged:
                load(raw.x, of, pairs, held)
                before(g.x, raw.x, at_p, scalar_group, s.clip_factor, BLOCK)
                moments(h, g.x, a.x, b.x, at_a, at_b, root_of_b.x)
            elif weight is float:
                moments(h, <const float*>of, a.x, b.x, at_a, at_b, root_of_b.x)
            else:
                load(raw.x, of, pairs, held)
                moments(h, raw.x, a.x, b.x, at_a, at_b, root_of_b.x)
            if packs:
                wide_weigh(&packing_a, block, at_a, True)
                wide_weigh(&packing_b, block, at_b, False)
                if tile > 0:
                    wide_pack(&packing_a, block, slot_a - HASHED, all_a[last].x + k, True, pairs, held)
                move_block(h, now, at_p, at_a, root_of_b.x, 0, BLOCK // 2)
                if tile > 0:
                    wide_pack(&packing_b, block, slot_b - HASHED, all_b[last].x + k, False, pairs, held)
                move_block(h, now, at_p, at_a, root_of_b.x, BLOCK // 2, BLOCK)
            else:
                move_block(h, now, at_p, at_a, root_of_b.x, 0, BLOCK)
            if weight is not float:
                unload(to, at_p, stochastic, further(dice, k), pairs, any_nan, held)
            if moment is not uint8_t:
                unload(slot_a, at_a, stochastic, further(dice_a, k), pairs, any_nan, held)
                unload(slot_b, at_b, stochastic, further(dice_b, k), pairs, any_nan, held)
        if packs:
            if tile > 0:
                if not wide_packed(&packing_a):
                    repack(<moment*>s.slot[0] + i - HASHED, scale_a - HASHED // GROUP, &all_a[last], True, pairs)
                if not wide_packed(&packing_b):
                    repack(<moment*>s.slot[1] + i - HASHED, scale_b - HASHED // GROUP, &all_b[last], False, pairs)
            wide_scale(&packing_a, scale_a, True, HASHED // GROUP)
            wide_scale(&packing_b, scale_b, False, HASHED // GROUP)
        elif moment is uint8_t:
            encode8(s.slot[0] + i, scale_a, all_a[this].x, True, HASHED)
            encode8(s.slot[1] + i, scale_b, all_b[this].x, False, HASHED)
    if packs and tiles_ > 0:
        last = (tiles_ - 1) & 1
        i = start + (tiles_ - 1) * HASHED
        for block in range(HASHED // BLOCK):
            k = block * BLOCK
            wide_pack(&packing_a, block, <moment*>s.slot[0] + i + k, all_a[last].x + k, True, pairs, held)
            wide_pack(&packing_b, block, <moment*>s.slot[1] + i + k, all_b[last].x + k, False, pairs, held)
        if not wide_packed(&packing_a):
            repack(<moment*>s.slot[0] + i, scale_a, &all_a[last], True, pairs)
        if not wide_packed(&packing_b):
            repack(<moment*>s.slot[1] + i, scale_b, &all_b[last], False, pairs)

cdef inline int fusible(const StepJob* job, const TensorView* s, const GradientView* gradient) noexcept nogil:
    """Which of `job.fused` serves, or -1."""
    cdef Storage first = s.slot_stored[0], second = s.slot_stored[1]
    cdef int k
    if job.fused == NULL or job.fused[0] == NULL or s.is_double or s.layout != NULL or gradient.layout != NULL \
            or s.lr_factors != NULL or s.ema != NULL or s.low_bits != NULL or s.shadow != NULL or s.unit_factors != NULL \
            or s.stored != gradient.stored:
        return -1
    if s.stored != FLOAT32 and s.stored != BFLOAT16:
        return -1
    if first == FLOAT32 and second == FLOAT32:
        k = 0
    elif first == BFLOAT16 and second == BFLOAT16:
        k = 1
    elif first == SIGNED8 and second == UNSIGNED8:
        k = 2
    else:
        return -1
    return k if s.stored == FLOAT32 else k + 3
