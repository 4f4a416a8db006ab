# Storage and rule in one loop, for rules of two moments.
#
# A block is decoded, stepped and encoded while it is in registers, so that the divider, which limits the rule, works at
# the same time as the codecs and not after them. A processor executes out of order within a few hundred instructions,
# half of that where two threads share a core: so all roots of a block are started before the first quotient, and 8-bit
# codes are packed between them (a sixth less time than applying the rule to one element after another). The bits are
# those of `step_tiles`, which does everything else: other layouts, other combinations of storage, and the ends of
# chunks. (benchmarks/storage.py measures the gain.)
#
# The template of fastlr/build_loops.py: {moments} and {apply} are the two halves of the rules' function, InStorageLoop
# the rules.

from libc.stdint cimport int8_t, uint8_t, uint16_t
from fastlr._kernels.codecs cimport (
    decode_bfloat16, decode_signed8, decode_unsigned8, encode8, encode_bfloat16, encode_bfloat16_by_bits,
)
from fastlr._kernels.codecs_avx512 cimport (
    AVX512, Avx512Constants, Packing, avx512_constants, avx512_decode8, avx512_largest, avx512_load, avx512_pack,
    avx512_packed, avx512_scale, avx512_store, avx512_store_stochastic,
)
from fastlr._kernels.inlining cimport rare
from fastlr._kernels.prefetch cimport prefetch_write
from fastlr._kernels.random_bits cimport BITS_BLOCK, RandomBits, advance, fill_random_table, random_bits_at
from fastlr._kernels.structs cimport GROUP, ScalarGroup, StepJob, TensorView
from fastlr._kernels.tiles cimport preprocess

fill_random_table()

ctypedef fused weight:         # parameter and gradient: float32, bfloat16
    float
    uint16_t

ctypedef fused moment:         # every slot: float32, bfloat16, 8 bits
    float
    uint16_t
    uint8_t

cdef enum:
    STORED_AHEAD = 1024        # elements prefetched
    BLOCK = GROUP              # elements that are in registers at a time

cdef inline void prefetch_block(const weight* x) noexcept nogil:
    # (past the end of an array, too: a prefetch of any address is valid)
    prefetch_write(x + STORED_AHEAD)
    prefetch_write(<const char*>(x + STORED_AHEAD) + 64)
    if weight is float:
        prefetch_write(<const char*>(x + STORED_AHEAD) + 128)
        prefetch_write(<const char*>(x + STORED_AHEAD) + 192)

cdef extern from *:
    """
    typedef struct { FASTLR_LINES float x[64]; } fastlr_block;
    typedef struct { FASTLR_LINES float x[512]; } fastlr_blocks;
    """
    ctypedef struct Block "fastlr_block":
        float[BLOCK] x
    ctypedef struct Blocks "fastlr_blocks":
        float[BITS_BLOCK] x

cdef inline void load_block(float* restrict out, const weight* restrict x, bint pairs,
                            Avx512Constants h) noexcept nogil:
    cdef Py_ssize_t i
    if weight is float:
        for i in range(BLOCK):
            out[i] = x[i]
    elif AVX512:
        avx512_load(out, x, pairs, h)
    else:
        decode_bfloat16(out, x, BLOCK)

cdef inline void store_block(weight* restrict out, const float* restrict x, bint stochastic, RandomBits random,
                             bint pairs, bint any_nan, Avx512Constants h) noexcept nogil:
    cdef Py_ssize_t i
    if weight is float:
        for i in range(BLOCK):
            out[i] = x[i]
    elif AVX512:
        if stochastic:
            avx512_store_stochastic(out, x, random.a, random.b, random.c, pairs, any_nan, h)
        else:
            avx512_store(out, x, pairs, any_nan, h)
    elif stochastic:
        encode_bfloat16_by_bits(out, x, random.a, random.b, random.c, BLOCK)
    else:
        encode_bfloat16(out, x, BLOCK)

cdef inline void load_slot_block(float* restrict out, const moment* restrict x, bint negative, const float* scale,
                                 bint pairs, Avx512Constants h) noexcept nogil:
    if moment is uint8_t:
        if AVX512:
            avx512_decode8(out, x, scale, negative, pairs, h)
        elif negative:
            decode_signed8(out, <const int8_t*>x, scale[0], BLOCK)
        else:
            decode_unsigned8(out, x, scale[0], BLOCK)
    else:
        load_block(out, x, pairs, h)

cdef void unpair(float* restrict out, const float* restrict x) noexcept nogil:
    """Blocks in the order `pairs`, put back into the order of memory; see codecs_avx512.pxd."""
    cdef Py_ssize_t k, i
    for k in range(BITS_BLOCK // 32):
        for i in range(16):
            out[32 * k + 2 * i], out[32 * k + 2 * i + 1] = x[32 * k + i], x[32 * k + 16 + i]

# (Inlined, it takes registers from the loop: AdamW of bfloat16 with 8-bit states took 22 % longer.)
cdef rare encode_again(moment* out, float* scale, const Blocks* x, bint negative, bint pairs) noexcept nogil:
    """Encode what `avx512_pack` could not: elements that are not finite or too large."""
    cdef Blocks ordered
    if pairs:
        unpair(ordered.x, x.x)
        x = &ordered
    encode8(<char*>out, scale, x.x, negative, BITS_BLOCK)

cdef inline void moments_of_block(InStorageLoop h, const float* g, const float* old_m, const float* old_v, float* m,
                                  float* v, float* root_of_v) noexcept nogil:
    """The first half of the rule, for a block: the moments."""
    cdef Py_ssize_t i
    cdef float m_i, v_i
    for i in range(BLOCK):
        m_i, v_i = old_m[i], old_v[i]
        root_of_v[i] = {moments}(h, g[i], &m_i, &v_i)
        m[i], v[i] = m_i, v_i

cdef inline void apply_block(InStorageLoop h, StepScalars now, {scalars} s, float* restrict p, const float* restrict m,
                             const float* restrict root_of_v, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """The second half, for a part of a block: the parameter."""
    cdef Py_ssize_t i
    cdef float p_i
    for i in range(start, end):
        p_i = <float>now.decay_factor * p[i]
        {apply}(h, now, s, &p_i, m[i], root_of_v[i])
        p[i] = p_i

cdef void step_stored(const InStorageLoop* hyper, const StepJob* job, const TensorView* view, const weight* gradient,
                      const ScalarGroup* group, Py_ssize_t start, Py_ssize_t size, moment* also_typed) noexcept nogil:
    """Multiples of BITS_BLOCK elements, from a multiple of BITS_BLOCK on.

    8-bit codes need the scales of their groups first; they are then packed between the quotients and roots of the
    next BITS_BLOCK elements, so that the divider is not idle.
    """
    cdef InStorageLoop h = hyper[0]
    cdef StepScalars now = group.now
    cdef {scalars} s = (<const {scalars}*>group.now.own)[0]
    cdef bint stochastic = job.stochastic
    cdef bint packs = AVX512 and moment is uint8_t
    cdef bint pairs = weight is uint16_t and moment is not float       # (float32 elements keep the order of memory)
    cdef bint any_nan = weight is float or moment is float     # whether a NaN of any bits is possible
    cdef Block p, g, raw, m, v, root_of_v
    cdef Blocks[2] all_m
    cdef Blocks[2] all_v
    cdef Packing packing_m, packing_v
    cdef float* at_p = p.x                     # (or into the parameter itself, where that is float32)
    cdef float* at_m = m.x
    cdef float* at_v = v.x
    cdef weight* all_p = <weight*>view.p
    cdef moment* first_m = <moment*>view.slot[0]
    cdef moment* first_v = <moment*>view.slot[1]
    cdef bint staged = group.staged
    cdef weight* to
    cdef const weight* of
    cdef moment* slot_m
    cdef moment* slot_v
    cdef float* scale_m = NULL
    cdef float* scale_v = NULL
    cdef float* unit_m = NULL
    cdef float* unit_v = NULL
    cdef Avx512Constants constants = avx512_constants()
    cdef RandomBits random, random_m, random_v
    cdef Py_ssize_t i, k, tile, block, tile_count = size // BITS_BLOCK, this, last = 0
    random = random_m = random_v = random_bits_at(0, 0)          # (read only for stochastic rounding)
    for tile in range(tile_count):
        i = start + tile * BITS_BLOCK
        this, last = tile & 1, 1 - (tile & 1)
        if stochastic:
            if weight is uint16_t:
                random = random_bits_at(job.key + view.random_salt, i)
            if moment is uint16_t:
                random_m, random_v = random_bits_at(job.key + view.random_salt + 1,
                                                    i), random_bits_at(job.key + view.random_salt + 2, i)
        if moment is uint8_t:
            scale_m, scale_v = view.slot_scale[0] + i // GROUP, view.slot_scale[1] + i // GROUP
        for block in range(BITS_BLOCK // BLOCK):
            k = block * BLOCK
            to, of = all_p + i + k, gradient + i + k
            slot_m, slot_v = first_m + i + k, first_v + i + k
            if moment is uint8_t:
                unit_m, unit_v = scale_m + k // GROUP, scale_v + k // GROUP
                at_m, at_v = all_m[this].x + k, all_v[this].x + k
            prefetch_block(to)
            prefetch_block(of)
            if moment is uint8_t:
                prefetch_write(slot_m + STORED_AHEAD)
                prefetch_write(slot_v + STORED_AHEAD)
            else:
                prefetch_block(slot_m)
                prefetch_block(slot_v)
            if weight is float:
                at_p = <float*>to
            else:
                load_block(at_p, to, pairs, constants)
            load_slot_block(m.x, slot_m, True, unit_m, pairs, constants)
            load_slot_block(v.x, slot_v, False, unit_v, pairs, constants)
            if staged:
                load_block(raw.x, of, pairs, constants)
                preprocess(g.x, raw.x, at_p, group, view.clip_factor, BLOCK)
                moments_of_block(h, g.x, m.x, v.x, at_m, at_v, root_of_v.x)
            elif weight is float:
                moments_of_block(h, <const float*>of, m.x, v.x, at_m, at_v, root_of_v.x)
            else:
                load_block(raw.x, of, pairs, constants)
                moments_of_block(h, raw.x, m.x, v.x, at_m, at_v, root_of_v.x)
            if packs:
                avx512_largest(&packing_m, block, at_m, True)
                avx512_largest(&packing_v, block, at_v, False)
                if tile > 0:
                    avx512_pack(&packing_m, block, slot_m - BITS_BLOCK, all_m[last].x + k, True, pairs, constants)
                apply_block(h, now, s, at_p, at_m, root_of_v.x, 0, BLOCK // 2)
                if tile > 0:
                    avx512_pack(&packing_v, block, slot_v - BITS_BLOCK, all_v[last].x + k, False, pairs, constants)
                apply_block(h, now, s, at_p, at_m, root_of_v.x, BLOCK // 2, BLOCK)
            else:
                apply_block(h, now, s, at_p, at_m, root_of_v.x, 0, BLOCK)
            if weight is not float:
                store_block(to, at_p, stochastic, advance(random, k), pairs, any_nan, constants)
            if moment is not uint8_t:
                store_block(slot_m, at_m, stochastic, advance(random_m, k), pairs, any_nan, constants)
                store_block(slot_v, at_v, stochastic, advance(random_v, k), pairs, any_nan, constants)
        if packs:
            if tile > 0:
                if not avx512_packed(&packing_m):
                    encode_again(<moment*>view.slot[0] + i - BITS_BLOCK, scale_m - BITS_BLOCK // GROUP, &all_m[last],
                                 True, pairs)
                if not avx512_packed(&packing_v):
                    encode_again(<moment*>view.slot[1] + i - BITS_BLOCK, scale_v - BITS_BLOCK // GROUP, &all_v[last],
                                 False, pairs)
            avx512_scale(&packing_m, scale_m, True, BITS_BLOCK // GROUP)
            avx512_scale(&packing_v, scale_v, False, BITS_BLOCK // GROUP)
        elif moment is uint8_t:
            encode8(view.slot[0] + i, scale_m, all_m[this].x, True, BITS_BLOCK)
            encode8(view.slot[1] + i, scale_v, all_v[this].x, False, BITS_BLOCK)
    if packs and tile_count > 0:
        last = (tile_count - 1) & 1
        i = start + (tile_count - 1) * BITS_BLOCK
        for block in range(BITS_BLOCK // BLOCK):
            k = block * BLOCK
            avx512_pack(&packing_m, block, <moment*>view.slot[0] + i + k, all_m[last].x + k, True, pairs, constants)
            avx512_pack(&packing_v, block, <moment*>view.slot[1] + i + k, all_v[last].x + k, False, pairs, constants)
        if not avx512_packed(&packing_m):
            encode_again(<moment*>view.slot[0] + i, scale_m, &all_m[last], True, pairs)
        if not avx512_packed(&packing_v):
            encode_again(<moment*>view.slot[1] + i, scale_v, &all_v[last], False, pairs)
