# cython: language_level=3, cdivision=True
"""The codecs' loops in AVX-512 intrinsics, where compilers vectorise badly: floats to and from 16 and 8 bits.

The bits are those of codecs.pxd, which is used where this is not compiled (AVX512 is 0).
"""
from libc.stdint cimport uint16_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(_MSC_VER) && !defined(__clang__)
    #define FASTLR_LINES __declspec(align(64))
    #else
    #define FASTLR_LINES __attribute__((aligned(64)))
    #endif
    #define FASTLR_SIGNED_SPAN 0x3f8ad8f0
    #define FASTLR_UNSIGNED_SPAN 0x3f864ca2
    """

# A block has one of two orders, and is stored in the order in which it was loaded. `pairs`: of each 32 elements,
# those at even indices before those at odd ones: one shuffle or mask separates the 16-bit halves of 32-bit lanes. Else:
# the order in memory, as float32 parameters have it.
#
# Bytes are moved by shuffles rather than by shifts where both are possible: shifts use the execution port of the
# divider. Vector arithmetic has two ports, which limit these loops, and a constant that gcc computes again uses one of
# them: so masks are kept in registers and patterns in memory, hidden from the compiler's optimizer.

cdef extern from *:
    """
    #if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
    #include <immintrin.h>
    #define FASTLR_WIDE 1
    #if defined(_MSC_VER) && !defined(__clang__)
    #define FASTLR_INLINE static __forceinline
    #else
    #define FASTLR_INLINE static inline __attribute__((always_inline, unused))
    #endif
    #define FASTLR_INT(x) _mm512_set1_epi32((int)(x))
    #define FASTLR_FLOAT(x) _mm512_castsi512_ps(FASTLR_INT(x))
    #define FASTLR_EITHER 0xca                   /* of three: the second where the first has bits, else the third */
    #define FASTLR_MASKED_OR 0xea                /* (first and second) or third */
    #define FASTLR_OR_MASKED 0xf8                /* first or (second and third) */
    #if defined(__GNUC__)
    static inline __attribute__((always_inline, unused)) const void *fastlr_opaque(const void *x) {
        __asm__("" : "+r"(x));
        return x;
    }
    #define FASTLR_HIDE_MASK(x) __asm__("" : "+Yk"(x))
    #define FASTLR_HIDE(x) __asm__("" : "+v"(x))
    #else
    #define fastlr_opaque(x) (x)
    #define FASTLR_HIDE_MASK(x) ((void)0)
    #define FASTLR_HIDE(x) ((void)0)
    #endif
    /* Masks: of 32-bit lanes the lower and the upper two bytes, of 16-bit lanes the lower byte. Shuffle patterns: 16
       bytes each, repeated. */
    enum { FASTLR_UP, FASTLR_DOWN, FASTLR_BYTES_DOWN, FASTLR_BY_LANE, FASTLR_PAIRS_BY_LANE, FASTLR_PAIRS_BACK,
           FASTLR_HALF_SIGNED, FASTLR_HALF_UNSIGNED, FASTLR_LOWER_BYTES, FASTLR_PATTERNS };
    static const unsigned char fastlr_patterns[FASTLR_PATTERNS][16] = {
        {0, 0, 0, 1, 4, 4, 4, 5, 8, 8, 8, 9, 12, 12, 12, 13},             /* lower halves up */
        {2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15},         /* upper halves down */
        {1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15},           /* upper bytes down */
        {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15},           /* bytes by lane, and back */
        {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15},           /* pairs of them by lane */
        {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15},           /* and back */
        {2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0},                 /* half a signed code in each word */
        {4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0},                 /* half an unsigned one */
        {255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0}, /* the lower byte of each word */
    };
    typedef struct { __mmask64 lower, upper, even; __m512i pattern[FASTLR_PATTERNS]; } fastlr_constants;
    FASTLR_INLINE fastlr_constants fastlr_wide_constants(void) {
        fastlr_constants h;
        h.lower = 0x3333333333333333;
        h.upper = 0xcccccccccccccccc;
        h.even = 0x5555555555555555;
        FASTLR_HIDE_MASK(h.lower);
        FASTLR_HIDE_MASK(h.upper);
        FASTLR_HIDE_MASK(h.even);
        for (int k = 0; k < FASTLR_PATTERNS; k++)
            h.pattern[k] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)fastlr_opaque(fastlr_patterns[k])));
        return h;
    }

    /* 16 bits */

    FASTLR_INLINE void fastlr_wide_load(float *out, const uint16_t *x, int pairs, fastlr_constants h) {
        for (int y = 0; y < 64; y += 32) {
            if (pairs) {
                __m512i w = _mm512_loadu_si512(x + y);
                _mm512_storeu_si512(out + y, _mm512_maskz_shuffle_epi8(h.upper, w, h.pattern[FASTLR_UP]));
                _mm512_storeu_si512(out + y + 16, _mm512_and_si512(w, FASTLR_INT(0xffff0000)));
            } else {
                for (int k = y; k < y + 32; k += 16)
                    _mm512_storeu_si512(out + k, _mm512_slli_epi32(
                        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + k))), 16));
            }
        }
    }
    /* the upper halves */
    FASTLR_INLINE __m512i fastlr_wide_halves(__m512i a, __m512i b, int pairs, fastlr_constants h) {
        if (pairs)
            return _mm512_mask_shuffle_epi8(b, h.lower, a, h.pattern[FASTLR_DOWN]);
        return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi32(
            _mm512_srli_epi32(a, 16), _mm512_srli_epi32(b, 16)));
    }
    /* x plus less than one unit of its upper half. A NaN from arithmetic on values stored in 16 bits or fewer has an
       empty lower half, so that it stays NaN when that is cut off; for NaN with any bits: any_nan */
    FASTLR_INLINE __m512i fastlr_wide_more(__m512 x, __m512i more, int any_nan) {
        __m512i u = _mm512_castps_si512(x);
        if (any_nan)
            return _mm512_mask_add_epi32(u, _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), u, more);
        return _mm512_add_epi32(u, more);
    }
    FASTLR_INLINE void fastlr_wide_store_stochastic(uint16_t *out, const float *x, const uint16_t *a, const uint16_t *b,
                                                    uint16_t c, int pairs, int any_nan, fastlr_constants h) {
        for (int y = 0; y < 64; y += 32) {
            __m512i bits = _mm512_ternarylogic_epi32(_mm512_loadu_si512(a + y), _mm512_loadu_si512(b + y),
                                                     _mm512_set1_epi16((short)c), 0x96), d0, d1;
            if (pairs) {
                d0 = _mm512_and_si512(bits, FASTLR_INT(0xffff));
                d1 = _mm512_maskz_shuffle_epi8(h.lower, bits, h.pattern[FASTLR_DOWN]);
            } else {
                d0 = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(bits));
                d1 = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bits, 1));
            }
            d0 = fastlr_wide_more(_mm512_loadu_ps(x + y), d0, any_nan);
            d1 = fastlr_wide_more(_mm512_loadu_ps(x + y + 16), d1, any_nan);
            _mm512_storeu_si512(out + y, fastlr_wide_halves(d0, d1, pairs, h));
        }
    }
    FASTLR_INLINE __m512i fastlr_wide_nearest(__m512 x, int any_nan) {
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(_mm512_castps_si512(x), 16), FASTLR_INT(1));
        return fastlr_wide_more(x, _mm512_add_epi32(odd, FASTLR_INT(0x7fff)), any_nan);
    }
    FASTLR_INLINE void fastlr_wide_store(uint16_t *out, const float *x, int pairs, int any_nan, fastlr_constants h) {
        for (int y = 0; y < 64; y += 32)
            _mm512_storeu_si512(out + y, fastlr_wide_halves(
                fastlr_wide_nearest(_mm512_loadu_ps(x + y), any_nan),
                fastlr_wide_nearest(_mm512_loadu_ps(x + y + 16), any_nan), pairs, h));
    }

    /* 8 bits: of each 32-bit lane, byte z is the code of lane z of four vectors */

    FASTLR_INLINE __m512i fastlr_wide_bytes(const void *q, int pairs, fastlr_constants h) {
        __m512i x = _mm512_loadu_si512(q);
        if (pairs)
            return _mm512_shuffle_epi8(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), x),
                                       h.pattern[FASTLR_PAIRS_BY_LANE]);
        return _mm512_shuffle_epi8(
            _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x),
            h.pattern[FASTLR_BY_LANE]);
    }
    FASTLR_INLINE void fastlr_wide_store_bytes(void *q, __m512i x, int pairs, fastlr_constants h) {
        if (pairs)
            x = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7),
                                         _mm512_shuffle_epi8(x, h.pattern[FASTLR_PAIRS_BACK]));
        else
            x = _mm512_permutexvar_epi32(
                _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                _mm512_shuffle_epi8(x, h.pattern[FASTLR_BY_LANE]));
        _mm512_storeu_si512(q, x);
    }
    /* (a product with a power of two is exact, so a fused multiply-add gives the same bits) */
    FASTLR_INLINE __m512i fastlr_wide_signed(__m512i f, __m512 unit, __m512 less) {
        __m512i signed_less = _mm512_ternarylogic_epi32(_mm512_castps_si512(less), f, FASTLR_INT(0x80000000),
                                                        FASTLR_OR_MASKED);
        return _mm512_castps_si512(_mm512_fmsub_ps(_mm512_castsi512_ps(f), unit, _mm512_castsi512_ps(signed_less)));
    }
    FASTLR_INLINE void fastlr_wide_signed8(float *out, const void *q, __m512 unit, int pairs, fastlr_constants h) {
        __m512 less = _mm512_mul_ps(unit, FASTLR_FLOAT(0x3e000000));
        if (pairs) {
            for (int k = 0; k < 64; k += 32) {
                __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)((const char *)q + k)));
                w = _mm512_ternarylogic_epi32(_mm512_slli_epi16(w, 2), FASTLR_INT(0x81fc81fc), FASTLR_INT(0x3e003e00),
                                              FASTLR_MASKED_OR);
                _mm512_storeu_si512(out + k, fastlr_wide_signed(
                    _mm512_maskz_shuffle_epi8(h.upper, w, h.pattern[FASTLR_UP]), unit, less));
                _mm512_storeu_si512(out + k + 16, fastlr_wide_signed(
                    _mm512_and_si512(w, FASTLR_INT(0xffff0000)), unit, less));
            }
        } else {
            __m512i y = fastlr_wide_bytes(q, 0, h);
            for (int z = 0; z < 4; z++) {
                __m512i t = z == 0 ? _mm512_slli_epi32(y, 24) : z == 1 ? _mm512_slli_epi32(y, 16)
                    : z == 2 ? _mm512_slli_epi32(y, 8) : y;
                t = _mm512_ternarylogic_epi32(_mm512_srai_epi32(t, 6), FASTLR_INT(0x81fc0000), FASTLR_INT(0x3e000000),
                                              FASTLR_MASKED_OR);
                _mm512_storeu_si512(out + 16 * z, fastlr_wide_signed(t, unit, less));
            }
        }
    }
    FASTLR_INLINE void fastlr_wide_unsigned8(float *out, const void *q, __m512 unit, int pairs, fastlr_constants h) {
        __m512 less = _mm512_mul_ps(unit, FASTLR_FLOAT(0x38000000));
        __m512i y = fastlr_wide_bytes(q, pairs, h);
        for (int z = 0; z < 4; z++) {
            __m512i t = z == 0 ? _mm512_slli_epi32(y, 19) : z == 1 ? _mm512_slli_epi32(y, 11)
                : z == 2 ? _mm512_slli_epi32(y, 3) : _mm512_srli_epi32(y, 5);
            __m512i f = _mm512_ternarylogic_epi32(t, FASTLR_INT(0x07f80000), FASTLR_INT(0x38000000),
                                                  FASTLR_MASKED_OR);
            _mm512_storeu_ps(out + 16 * z, _mm512_fmsub_ps(_mm512_castsi512_ps(f), unit, less));
        }
    }
    FASTLR_INLINE void fastlr_wide_decode8(float *out, const void *q, const float *scale, int negative, int pairs,
                                           fastlr_constants h) {
        __m512 unit = _mm512_set1_ps(*scale);
        FASTLR_HIDE(unit);
        if (negative)
            fastlr_wide_signed8(out, q, unit, pairs, h);
        else
            fastlr_wide_unsigned8(out, q, unit, pairs, h);
    }

    /* the largest magnitude of each of eight groups, in one vector each (NaN may get lost) */
    FASTLR_INLINE __m512 fastlr_wide_largest(const float *x, int negative) {
        __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
        __m512 c = _mm512_loadu_ps(x + 32), d = _mm512_loadu_ps(x + 48);
        if (negative)
            return _mm512_range_ps(_mm512_range_ps(a, b, 0x0b), _mm512_range_ps(c, d, 0x0b), 0x0b);
        return _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
    }
    FASTLR_INLINE __m512 fastlr_wide_fold4(__m512 a, __m512 b) {
        return _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    FASTLR_INLINE __m512 fastlr_wide_fold8(__m512 x, __m512 y) {
        __m512d a = _mm512_castps_pd(x), b = _mm512_castps_pd(y);
        return _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    FASTLR_INLINE __m256 fastlr_wide_fold(const __m512 *t) {
        __m512 a = fastlr_wide_fold8(fastlr_wide_fold4(t[0], t[1]), fastlr_wide_fold4(t[2], t[3]));
        __m512 b = fastlr_wide_fold8(fastlr_wide_fold4(t[4], t[5]), fastlr_wide_fold4(t[6], t[7]));
        a = _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
        return _mm256_max_ps(_mm512_castps512_ps256(_mm512_shuffle_f32x4(a, a, 0x08)),
                             _mm512_castps512_ps256(_mm512_shuffle_f32x4(a, a, 0x0d)));
    }
    /* two vectors of floats whose bit fields are codes, as 16-bit words: the first has the lower halves */
    FASTLR_INLINE __m512i fastlr_wide_words(__m512 a, __m512 b, int half_code, fastlr_constants h) {
        return _mm512_add_epi16(fastlr_wide_halves(_mm512_castps_si512(a), _mm512_castps_si512(b), 1, h),
                                h.pattern[half_code]);
    }
    FASTLR_INLINE __m512i fastlr_wide_encode_signed8(void *q, const float *x, __m512 r, int pairs, fastlr_constants h) {
        __m512i w[2], c[2];
        __m512 y[4];
        const float *again = (const float *)fastlr_opaque(x);      /* (else gcc changes types by a store and a load) */
        for (int z = 0; z < 4; z++)
            y[z] = _mm512_fmadd_ps(_mm512_loadu_ps(x + 16 * z), r, _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
                _mm512_loadu_si512(again + 16 * z), FASTLR_INT(0x80000000), FASTLR_INT(0x3e000000),
                FASTLR_MASKED_OR)));
        w[0] = fastlr_wide_words(y[0], y[2], FASTLR_HALF_SIGNED, h);
        w[1] = fastlr_wide_words(y[1], y[3], FASTLR_HALF_SIGNED, h);
        for (int k = 0; k < 2; k++)              /* code and sign to the upper byte */
            c[k] = _mm512_ternarylogic_epi32(FASTLR_INT(0x80008000), w[k], _mm512_slli_epi16(w[k], 6), FASTLR_EITHER);
        fastlr_wide_store_bytes(q, _mm512_mask_shuffle_epi8(c[1], h.even, c[0], h.pattern[FASTLR_BYTES_DOWN]),
                              pairs, h);
        return _mm512_or_si512(w[0], w[1]);
    }
    /* Codes with 1 in place of 0 for every element that is not zero. */
    FASTLR_INLINE __m512i fastlr_wide_not_zero(__m512i codes, const float *x) {
        __m512i least = _mm512_setzero_si512();
        for (int z = 0; z < 4; z++) {
            __m512i u = _mm512_loadu_si512(x + 16 * z);
            least = _mm512_mask_or_epi32(least, _mm512_test_epi32_mask(u, u), least, FASTLR_INT(1u << 8 * z));
        }
        return _mm512_max_epu8(codes, least);
    }
    FASTLR_INLINE __m512i fastlr_wide_encode_unsigned8(void *q, const float *x, __m512 r, int pairs,
                                                       fastlr_constants h) {
        __m512i w[2], c;
        __m512 y[4];
        for (int z = 0; z < 4; z++)
            y[z] = _mm512_fmadd_ps(_mm512_loadu_ps(x + 16 * z), r, FASTLR_FLOAT(0x38000000));
        w[0] = fastlr_wide_words(y[0], y[2], FASTLR_HALF_UNSIGNED, h);
        w[1] = fastlr_wide_words(y[1], y[3], FASTLR_HALF_UNSIGNED, h);
        c = _mm512_ternarylogic_epi32(h.pattern[FASTLR_LOWER_BYTES], _mm512_srli_epi16(w[0], 3),
                                      _mm512_slli_epi16(w[1], 5), FASTLR_EITHER);
        if (_mm512_testn_epi8_mask(c, c))
            c = fastlr_wide_not_zero(c, x);
        fastlr_wide_store_bytes(q, c, pairs, h);
        return _mm512_or_si512(w[0], w[1]);
    }
    /* Encoding of up to eight groups: the largest magnitude of each, then their scales, then the codes of each, then
       whether all could be encoded. If not (0), an element is not finite or too large, and codecs.pxd must do it. */
    typedef struct {
        __m512 largest[8];
        FASTLR_LINES float r[8];
        __m512i words;
        int fine;
    } fastlr_packing;
    FASTLR_INLINE void fastlr_wide_group_largest(fastlr_packing *s, int k, const float *x, int negative) {
        s->largest[k] = fastlr_wide_largest(x, negative);
    }
    FASTLR_INLINE void fastlr_wide_scale(fastlr_packing *s, float *scale, int negative, int groups) {
        __m256 span = _mm256_castsi256_ps(_mm256_set1_epi32(negative ? FASTLR_SIGNED_SPAN : FASTLR_UNSIGNED_SPAN));
        __m256 x = _mm256_mul_ps(fastlr_wide_fold(s->largest), span);
        s->fine = _mm256_cmp_ps_mask(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f000000)), _CMP_LT_OQ) == 0xff;
        x = _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000)));
        _mm256_mask_storeu_ps(scale, (__mmask8)((1 << groups) - 1), x);
        _mm256_storeu_si256((__m256i *)s->r, _mm256_sub_epi32(_mm256_set1_epi32(0x7f000000), _mm256_castps_si256(x)));
        s->words = _mm512_setzero_si512();
    }
    FASTLR_INLINE void fastlr_wide_pack(fastlr_packing *s, int k, void *q, const float *x, int negative, int pairs,
                                        fastlr_constants h) {
        __m512 r = _mm512_set1_ps(s->r[k]);
        s->words = _mm512_or_si512(s->words, negative ? fastlr_wide_encode_signed8(q, x, r, pairs, h)
                                                      : fastlr_wide_encode_unsigned8(q, x, r, pairs, h));
    }
    FASTLR_INLINE int fastlr_wide_packed(const fastlr_packing *s) {
        return s->fine && _mm512_test_epi16_mask(s->words, _mm512_set1_epi16(0x4000)) == 0;
    }
    FASTLR_INLINE int fastlr_wide_encode8(void *q, float *scale, const float *x, int negative, int groups) {
        fastlr_constants h = fastlr_wide_constants();
        fastlr_packing s;
        for (int k = 0; k < 8; k++)
            if (k < groups)
                fastlr_wide_group_largest(&s, k, x + 64 * k, negative);
            else
                s.largest[k] = _mm512_setzero_ps();
        fastlr_wide_scale(&s, scale, negative, groups);
        for (int k = 0; k < groups; k++)
            fastlr_wide_pack(&s, k, (char *)q + 64 * k, x + 64 * k, negative, 0, h);
        return fastlr_wide_packed(&s);
    }
    #else
    #define FASTLR_WIDE 0
    #define fastlr_wide_constants() 0
    #define fastlr_wide_load(out, x, pairs, h) ((void)(h))
    #define fastlr_wide_store_stochastic(out, x, a, b, c, pairs, any_nan, h) ((void)(h))
    #define fastlr_wide_store(out, x, pairs, any_nan, h) ((void)(h))
    #define fastlr_wide_decode8(out, q, scale, negative, pairs, h) ((void)(h))
    #define fastlr_wide_group_largest(s, k, x, negative) ((void)(s))
    #define fastlr_wide_scale(s, scale, negative, groups) ((void)(s))
    #define fastlr_wide_pack(s, k, q, x, negative, pairs, h) ((void)(s), (void)(h))
    #define fastlr_wide_packed(s) ((void)(s), 0)
    #define fastlr_wide_encode8(q, scale, x, negative, groups) 0
    typedef int fastlr_packing;
    typedef int fastlr_constants;
    #endif
    """
    enum: AVX512 "FASTLR_WIDE"
    ctypedef struct Packing "fastlr_packing":
        pass
    ctypedef struct Avx512Constants "fastlr_constants":
        pass
    Avx512Constants avx512_constants "fastlr_wide_constants"() noexcept nogil
    void avx512_load "fastlr_wide_load"(float* out, const uint16_t* x, bint pairs, Avx512Constants h) noexcept nogil
    void avx512_store_stochastic "fastlr_wide_store_stochastic"(uint16_t* out, const float* x, const uint16_t* a,
                                                                const uint16_t* b, uint16_t c, bint pairs,
                                                                bint any_nan, Avx512Constants h) noexcept nogil
    void avx512_store "fastlr_wide_store"(uint16_t* out, const float* x, bint pairs, bint any_nan,
                                          Avx512Constants h) noexcept nogil
    void avx512_decode8 "fastlr_wide_decode8"(float* out, const void* q, const float* scale, bint negative, bint pairs,
                                              Avx512Constants h) noexcept nogil
    void avx512_largest "fastlr_wide_group_largest"(Packing* s, Py_ssize_t k, const float* x,
                                                    bint negative) noexcept nogil
    void avx512_scale "fastlr_wide_scale"(Packing* s, float* scale, bint negative, int groups) noexcept nogil
    void avx512_pack "fastlr_wide_pack"(Packing* s, Py_ssize_t k, void* q, const float* x, bint negative, bint pairs,
                                        Avx512Constants h) noexcept nogil
    bint avx512_packed "fastlr_wide_packed"(const Packing* s) noexcept nogil
    bint avx512_encode8 "fastlr_wide_encode8"(void* q, float* scale, const float* x, bint negative,
                                              int groups) noexcept nogil
