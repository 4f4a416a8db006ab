# What the compiler makes badly of the codecs' loops, in AVX-512: a block of floats to and from 16 and 8 bits. The bits
# are those of codecs.pxi, which serves where this is not compiled (WIDE is 0). Included by codecs.pxi.
#
# A block lies in one of two orders, and whoever takes it out must say the one it was put in. `pairs`: as 16-bit halves
# of 32-bit lanes are taken apart, even places before odd ones, 32 at a time: a shuffle or a mask is all it costs. Else:
# in their own order, as float32 parameters have it.
#
# Bytes are moved by shuffles rather than by shifts where both would do: shifts have the port that the divider has, too.

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
    #define FASTLR_BYTES(...) _mm512_broadcast_i32x4(_mm_setr_epi8(__VA_ARGS__))
    #define FASTLR_LOWER 0x3333333333333333      /* bytes of 32-bit lanes */
    #define FASTLR_UPPER 0xcccccccccccccccc
    #define FASTLR_UP FASTLR_BYTES(0, 0, 0, 1, 4, 4, 4, 5, 8, 8, 8, 9, 12, 12, 12, 13)
    #define FASTLR_DOWN FASTLR_BYTES(2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15)

    /* 16 bits */

    FASTLR_INLINE void fastlr_wide_load(float *out, const uint16_t *x, int pairs) {
        for (int y = 0; y < 64; y += 32) {
            if (pairs) {
                __m512i w = _mm512_loadu_si512(x + y);
                _mm512_storeu_si512(out + y, _mm512_maskz_shuffle_epi8(FASTLR_UPPER, w, FASTLR_UP));
                _mm512_storeu_si512(out + y + 16, _mm512_and_si512(w, FASTLR_INT(0xffff0000)));
            } else {
                for (int h = y; h < y + 32; h += 16)
                    _mm512_storeu_si512(out + h, _mm512_slli_epi32(
                        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + h))), 16));
            }
        }
    }
    FASTLR_INLINE __m512i fastlr_wide_halves(__m512i a, __m512i b, int pairs) {   /* the upper ones */
        if (pairs)
            return _mm512_mask_shuffle_epi8(b, FASTLR_LOWER, a, FASTLR_DOWN);
        return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi32(
            _mm512_srli_epi32(a, 16), _mm512_srli_epi32(b, 16)));
    }
    /* (NaN comes from arithmetic, which makes it quiet: cut, it stays NaN) */
    FASTLR_INLINE void fastlr_wide_toss(uint16_t *out, const float *x, const uint16_t *a, const uint16_t *b,
                                        uint16_t c, int pairs) {
        for (int y = 0; y < 64; y += 32) {
            __m512i dice = _mm512_ternarylogic_epi32(_mm512_loadu_si512(a + y), _mm512_loadu_si512(b + y),
                                                     _mm512_set1_epi16((short)c), 0x96), d0, d1;
            __m512 x0 = _mm512_loadu_ps(x + y), x1 = _mm512_loadu_ps(x + y + 16);
            __m512i u0 = _mm512_castps_si512(x0), u1 = _mm512_castps_si512(x1);
            if (pairs) {
                d0 = _mm512_and_si512(dice, FASTLR_INT(0xffff));
                d1 = _mm512_maskz_shuffle_epi8(FASTLR_LOWER, dice, FASTLR_DOWN);
            } else {
                d0 = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(dice));
                d1 = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(dice, 1));
            }
            u0 = _mm512_mask_add_epi32(u0, _mm512_cmp_ps_mask(x0, x0, _CMP_ORD_Q), u0, d0);
            u1 = _mm512_mask_add_epi32(u1, _mm512_cmp_ps_mask(x1, x1, _CMP_ORD_Q), u1, d1);
            _mm512_storeu_si512(out + y, fastlr_wide_halves(u0, u1, pairs));
        }
    }
    FASTLR_INLINE __m512i fastlr_wide_nearest(__m512 x) {
        __m512i u = _mm512_castps_si512(x);
        __m512i up = _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(u, 16), FASTLR_INT(1)), FASTLR_INT(0x7fff));
        return _mm512_mask_add_epi32(u, _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), u, up);
    }
    FASTLR_INLINE void fastlr_wide_round(uint16_t *out, const float *x, int pairs) {
        for (int y = 0; y < 64; y += 32)
            _mm512_storeu_si512(out + y, fastlr_wide_halves(fastlr_wide_nearest(_mm512_loadu_ps(x + y)),
                                                            fastlr_wide_nearest(_mm512_loadu_ps(x + y + 16)), pairs));
    }

    /* 8 bits: of each 32-bit lane, byte z is the code of lane z of four vectors */

    FASTLR_INLINE __m512i fastlr_wide_bytes(const void *q, int pairs) {
        __m512i x = _mm512_loadu_si512(q);
        if (pairs)
            return _mm512_shuffle_epi8(
                _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), x),
                FASTLR_BYTES(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
        return _mm512_shuffle_epi8(
            _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x),
            FASTLR_BYTES(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    }
    FASTLR_INLINE void fastlr_wide_put_bytes(void *q, __m512i x, int pairs) {
        if (pairs)
            x = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_shuffle_epi8(
                x, FASTLR_BYTES(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
        else
            x = _mm512_permutexvar_epi32(
                _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), _mm512_shuffle_epi8(
                x, FASTLR_BYTES(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
        _mm512_storeu_si512(q, x);
    }
    /* (a product with a power of two is exact, so to contract it with the sum changes nothing) */
    FASTLR_INLINE void fastlr_wide_signed8(float *out, __m512i y, __m512 unit, int field, uint32_t shift) {
        __m512 less = _mm512_mul_ps(unit, FASTLR_FLOAT(shift));
        for (int z = 0; z < 4; z++) {
            __m512i t = z == 0 ? _mm512_slli_epi32(y, 24) : z == 1 ? _mm512_slli_epi32(y, 16)
                : z == 2 ? _mm512_slli_epi32(y, 8) : y;
            __m512i f = _mm512_ternarylogic_epi32(_mm512_srli_epi32(t, 6), FASTLR_INT(field), FASTLR_INT(shift),
                                                  FASTLR_MASKED_OR);
            f = _mm512_castps_si512(_mm512_fmsub_ps(_mm512_castsi512_ps(f), unit, less));
            f = _mm512_ternarylogic_epi32(f, t, FASTLR_INT(0x80000000), FASTLR_OR_MASKED);
            _mm512_storeu_si512(out + 16 * z, f);
        }
    }
    FASTLR_INLINE void fastlr_wide_unsigned8(float *out, __m512i y, __m512 unit, int field, uint32_t shift) {
        __m512 less = _mm512_mul_ps(unit, FASTLR_FLOAT(shift));
        for (int z = 0; z < 4; z++) {
            __m512i t = z == 0 ? _mm512_slli_epi32(y, 19) : z == 1 ? _mm512_slli_epi32(y, 11)
                : z == 2 ? _mm512_slli_epi32(y, 3) : _mm512_srli_epi32(y, 5);
            __m512i f = _mm512_ternarylogic_epi32(t, FASTLR_INT(field), FASTLR_INT(shift), FASTLR_MASKED_OR);
            _mm512_storeu_ps(out + 16 * z, _mm512_fmsub_ps(_mm512_castsi512_ps(f), unit, less));
        }
    }
    FASTLR_INLINE void fastlr_wide_decode8(float *out, const void *q, float scale, int negative, int pairs) {
        __m512i y = fastlr_wide_bytes(q, pairs);
        if (negative)
            fastlr_wide_signed8(out, y, _mm512_set1_ps(scale), 0x01fc0000, 0x3e000000);
        else
            fastlr_wide_unsigned8(out, y, _mm512_set1_ps(scale), 0x07f80000, 0x38000000);
    }

    /* the largest magnitude of each of eight groups, which lie in as many vectors (NaN may get lost) */
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
    /* two vectors of floats whose fields are codes, as words: of lanes, the first is the lower half */
    FASTLR_INLINE __m512i fastlr_wide_words(__m512 a, __m512 b, int half_code) {
        return _mm512_add_epi16(fastlr_wide_halves(_mm512_castps_si512(a), _mm512_castps_si512(b), 1),
                                _mm512_set1_epi16((short)half_code));
    }
    FASTLR_INLINE __m512i fastlr_wide_encode_signed8(void *q, const float *x, __m512 r, int pairs) {
        __m512i w[2];
        __m512 y[4];
        for (int z = 0; z < 4; z++) {
            __m512 v = _mm512_loadu_ps(x + 16 * z);
            y[z] = _mm512_fmadd_ps(v, r, _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
                _mm512_castps_si512(v), FASTLR_INT(0x80000000), FASTLR_INT(0x3e000000), FASTLR_MASKED_OR)));
        }
        w[0] = fastlr_wide_words(y[0], y[2], 2);
        w[1] = fastlr_wide_words(y[1], y[3], 2);
        for (int k = 0; k < 2; k++)              /* code and sign to the upper byte */
            y[k] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi16((short)0x8000), w[k],
                                                                 _mm512_slli_epi16(w[k], 6), FASTLR_EITHER));
        fastlr_wide_put_bytes(q, _mm512_mask_shuffle_epi8(
            _mm512_castps_si512(y[1]), 0x5555555555555555, _mm512_castps_si512(y[0]),
            FASTLR_BYTES(1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15)), pairs);
        return _mm512_or_si512(w[0], w[1]);
    }
    FASTLR_INLINE __m512i fastlr_wide_encode_unsigned8(void *q, const float *x, __m512 r, int pairs) {
        __m512i w[2];
        __m512 y[4];
        for (int z = 0; z < 4; z++) {
            __m512 v = _mm512_loadu_ps(x + 16 * z);
            __m512i u = _mm512_castps_si512(v);
            y[z] = _mm512_fmadd_ps(v, r, FASTLR_FLOAT(0x38000000));
            /* (NaN, as the second, wins) */
            y[z] = _mm512_mask_max_ps(y[z], _mm512_test_epi32_mask(u, u), FASTLR_FLOAT(0x38080000), y[z]);
        }
        w[0] = fastlr_wide_words(y[0], y[2], 4);
        w[1] = fastlr_wide_words(y[1], y[3], 4);
        fastlr_wide_put_bytes(q, _mm512_ternarylogic_epi32(
            _mm512_set1_epi16(0xff), _mm512_srli_epi16(w[0], 3), _mm512_slli_epi16(w[1], 5), FASTLR_EITHER), pairs);
        return _mm512_or_si512(w[0], w[1]);
    }
    /* Up to eight groups: what is largest in each, then their scales, then the codes of each, then whether all went
       well. It has not (0) where something is not finite or too large: then they must be encoded otherwise. */
    typedef struct {
        __m512 largest[8];
        FASTLR_LINES float r[8];
        __m512i words;
        int fine;
    } fastlr_packing;
    FASTLR_INLINE void fastlr_wide_weigh(fastlr_packing *s, int k, const float *x, int negative) {
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
    FASTLR_INLINE void fastlr_wide_pack(fastlr_packing *s, int k, void *q, const float *x, int negative, int pairs) {
        __m512 r = _mm512_set1_ps(s->r[k]);
        s->words = _mm512_or_si512(s->words, negative ? fastlr_wide_encode_signed8(q, x, r, pairs)
                                                      : fastlr_wide_encode_unsigned8(q, x, r, pairs));
    }
    FASTLR_INLINE int fastlr_wide_packed(const fastlr_packing *s) {
        return s->fine && _mm512_test_epi16_mask(s->words, _mm512_set1_epi16(0x4000)) == 0;
    }
    FASTLR_INLINE int fastlr_wide_encode8(void *q, float *scale, const float *x, int negative, int groups) {
        fastlr_packing s;
        for (int k = 0; k < 8; k++)
            if (k < groups)
                fastlr_wide_weigh(&s, k, x + 64 * k, negative);
            else
                s.largest[k] = _mm512_setzero_ps();
        fastlr_wide_scale(&s, scale, negative, groups);
        for (int k = 0; k < groups; k++)
            fastlr_wide_pack(&s, k, (char *)q + 64 * k, x + 64 * k, negative, 0);
        return fastlr_wide_packed(&s);
    }
    #else
    #define FASTLR_WIDE 0
    #define fastlr_wide_load(out, x, pairs) ((void)0)
    #define fastlr_wide_toss(out, x, a, b, c, pairs) ((void)0)
    #define fastlr_wide_round(out, x, pairs) ((void)0)
    #define fastlr_wide_decode8(out, q, scale, negative, pairs) ((void)0)
    #define fastlr_wide_weigh(s, k, x, negative) ((void)(s))
    #define fastlr_wide_scale(s, scale, negative, groups) ((void)(s))
    #define fastlr_wide_pack(s, k, q, x, negative, pairs) ((void)(s))
    #define fastlr_wide_packed(s) ((void)(s), 0)
    #define fastlr_wide_encode8(q, scale, x, negative, groups) 0
    typedef int fastlr_packing;
    #endif
    """
    enum: WIDE "FASTLR_WIDE"
    ctypedef struct Packing "fastlr_packing":
        pass
    void wide_load "fastlr_wide_load"(float* out, const uint16_t* x, bint pairs) noexcept nogil
    void wide_toss "fastlr_wide_toss"(uint16_t* out, const float* x, const uint16_t* a, const uint16_t* b, uint16_t c,
                                      bint pairs) noexcept nogil
    void wide_round "fastlr_wide_round"(uint16_t* out, const float* x, bint pairs) noexcept nogil
    void wide_decode8 "fastlr_wide_decode8"(float* out, const void* q, float scale, bint negative,
                                            bint pairs) noexcept nogil
    void wide_weigh "fastlr_wide_weigh"(Packing* s, Py_ssize_t k, const float* x, bint negative) noexcept nogil
    void wide_scale "fastlr_wide_scale"(Packing* s, float* scale, bint negative, int groups) noexcept nogil
    void wide_pack "fastlr_wide_pack"(Packing* s, Py_ssize_t k, void* q, const float* x, bint negative,
                                      bint pairs) noexcept nogil
    bint wide_packed "fastlr_wide_packed"(const Packing* s) noexcept nogil
    bint wide_encode8 "fastlr_wide_encode8"(void* q, float* scale, const float* x, bint negative,
                                            int groups) noexcept nogil
