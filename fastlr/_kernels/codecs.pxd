# cython: language_level=3, cdivision=True
"""Codecs of elements that are stored in another precision than the rule computes in.

A tile at a time is decoded into float32 before the step and encoded after it. Rules do not know the storage, and codecs
do not know the rule.
"""
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from fastlr._kernels.codecs_avx512 cimport AVX512, avx512_constants, avx512_decode8, avx512_encode8
from fastlr._kernels.random_bits cimport BITS_BLOCK, RandomBits, random_bits, random_bits_at
from fastlr._kernels.structs cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, GROUP, SIGNED8, TILE, UNSIGNED8, Storage,
)
from fastlr.rules.element cimport bounded, real

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline float fastlr_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
    static inline uint32_t fastlr_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
    #if defined(__GNUC__)
    typedef uint16_t __attribute__((may_alias)) fastlr_either;
    #else
    typedef uint16_t fastlr_either;
    #endif
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define FASTLR_LOW 1
    #else
    #define FASTLR_LOW 0
    #endif
    """
    ctypedef uint16_t either "fastlr_either"       # half of a float
    enum: LOW "FASTLR_LOW"                         # which of the two is the lower
    float as_float "fastlr_float"(uint32_t u) noexcept nogil
    uint32_t as_bits "fastlr_bits"(float x) noexcept nogil

cdef inline Py_ssize_t bytes_of(Storage stored) noexcept nogil:
    if stored == FLOAT64:
        return 8
    if stored == FLOAT32:
        return 4
    return 1 if stored == SIGNED8 or stored == UNSIGNED8 else 2


# bfloat16: the upper half of a float32

cdef inline void decode_bfloat16(float* restrict out, const uint16_t* restrict x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = as_float(<uint32_t>x[i] << 16)

cdef inline void encode_bfloat16(uint16_t* restrict out, const float* restrict x, Py_ssize_t size) noexcept nogil:
    """To nearest, ties to even; NaN stays NaN."""
    cdef Py_ssize_t i
    cdef uint32_t u, nearest
    for i in range(size):
        u = as_bits(x[i])
        nearest = u + 0x7fff + ((u >> 16) & 1)
        out[i] = <uint16_t>((nearest if x[i] == x[i] else u | 0x400000) >> 16)

cdef inline void encode_bfloat16_by_bits(uint16_t* restrict out, const float* restrict x, const uint16_t* restrict a,
                                         const uint16_t* restrict b, uint16_t c, Py_ssize_t size) noexcept nogil:
    """Rounded away from zero with the probability that the cut-off bits give: the mean is x. Infinity and NaN stay."""
    # (by 16-bit halves, of which a vector has twice as many: the carry of the lower half rounds up)
    cdef Py_ssize_t i
    cdef const either* half_of = <const either*>x
    cdef uint16_t low, high, most, up, odd
    for i in range(size):
        low, high = half_of[2 * i + LOW], half_of[2 * i + 1 - LOW]
        most = 0xffff - (a[i] ^ b[i] ^ c)
        up = <uint16_t>(high + <uint16_t>(low > most))
        odd = high | <uint16_t>(0x40 if low != 0 else 0)
        out[i] = odd if <uint16_t>(high & 0x7f80) == 0x7f80 else up


cdef inline void encode_bfloat16_stochastic(uint16_t* restrict out, const float* restrict x, uint64_t key,
                                            Py_ssize_t element, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t k = 0, n
    cdef RandomBits random
    while k < size:
        n = BITS_BLOCK - (element + k) % BITS_BLOCK
        if n > size - k:
            n = size - k
        random = random_bits_at(key, element + k)
        encode_bfloat16_by_bits(out + k, x + k, random.a, random.b, random.c, n)
        k += n

# float16. Subnormal float32 are flushed inside a kernel, so subnormal float16 are converted as integers.

cdef inline void decode_float16(float* restrict out, const uint16_t* restrict x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u, normal, small
    cdef float unit = as_float(0x33800000)         # 2**-24
    for i in range(size):
        u = x[i] & 0x7fff
        normal = (u << 13) + <uint32_t>(0x70000000 if u >= 0x7c00 else 0x38000000)
        small = as_bits(<float><int32_t>u * unit)
        out[i] = as_float((small if u < 0x400 else normal) | (<uint32_t>(x[i] & 0x8000) << 16))

cdef inline uint16_t half_bits(uint32_t u, uint32_t normal, uint32_t small) noexcept nogil:
    # u: a float32 without its sign; normal, small: u rounded as a normal and as a subnormal float16
    cdef uint32_t finite = small if u < 0x38800000 else normal
    if finite > 0x7c00:
        finite = 0x7c00
    return <uint16_t>(0x7e00 if u > 0x7f800000 else 0x7c00 if u == 0x7f800000 else finite)

cdef inline void encode_float16(uint16_t* restrict out, const float* restrict x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u, sign, normal, small
    cdef float shift = as_float(0x3f000000)        # 0.5: its last bit is 2**-24, so adding it rounds to that
    for i in range(size):
        u = as_bits(x[i]) & 0x7fffffff
        sign = (as_bits(x[i]) >> 16) & 0x8000
        normal = u if u < 0x48000000 else <uint32_t>0x48000000
        normal = (normal - <uint32_t>0x38000000 + 0xfff + ((u >> 13) & 1)) >> 13
        small = as_bits(as_float(u if u < 0x38800000 else <uint32_t>0) + shift) - <uint32_t>0x3f000000
        out[i] = <uint16_t>(half_bits(u, normal, small) | sign)

cdef inline void encode_float16_by_bits(uint16_t* restrict out, const float* restrict x,
                                        const uint16_t* restrict random, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u, sign, normal, small
    cdef float up = as_float(0x4b800000)           # 2**24
    cdef float part = as_float(0x37800000)         # 2**-16
    for i in range(size):
        u = as_bits(x[i]) & 0x7fffffff
        sign = (as_bits(x[i]) >> 16) & 0x8000
        normal = ((u if u < 0x48000000 else <uint32_t>0x48000000) - <uint32_t>0x38000000 + (random[i] >> 3)) >> 13
        small = <uint32_t><int32_t>(as_float(u if u < 0x38800000 else <uint32_t>0) * up + <float>random[i] * part)
        out[i] = <uint16_t>(half_bits(u, normal, small) | sign)


# 8 bits with companding, as in telephony (G.711): a value divided by its group's scale, plus a shift away from zero, is
# a float whose upper bits are the code. Codes are linear near zero and logarithmic above, and neither encoding nor
# decoding takes a root or a division. A scale is a power of two, so that products with it are exact: a value that is
# decoded and not changed gets the same code again. Zero stays zero, and a nonnegative value that is not zero never gets
# code 0: a second moment of zero would divide by epsilon.
#
#   signed    sign, 2 bits of exponent, 5 of mantissa:   |x| = scale ((1 + mantissa / 32) 2**exponent - 1) / 8
#   unsigned  4 bits of exponent, 4 of mantissa:          x = scale ((1 + mantissa / 16) 2**exponent - 1) / 32768
#
# Errors: half a code, at most (|x| + scale / 8) / 64, (x + scale / 32768) / 32. The largest magnitude of a group is
# 0.92 to 1.84 (0.95 to 1.91) times its scale: from half of what the largest code means, where rounding is upwards, to
# what it means, so that encoding a decoded group never changes its scale. The shift is a power of two in whose exponent
# the lower bits are 0, so that the code is a bit field of the float.

cdef extern from *:
    enum:
        SIGNED_SPAN "FASTLR_SIGNED_SPAN"           # just below 2 / 1.84375: a group's largest, times this, has
        UNSIGNED_SPAN "FASTLR_UNSIGNED_SPAN"       # its scale's exponent; just below 2 / (1.90625 - 2**-14)

cdef enum:
    SIGNED_SHIFT = 0x3e000000          # 2**-3
    SIGNED_MAX = 0x3fec0000           # 1.84375
    UNSIGNED_SHIFT = 0x38000000        # 2**-15
    UNSIGNED_MAX = 0x3ff00000         # 1.875
    LARGEST_SCALE = 0x7e800000         # 2**126: one whose reciprocal is a float, too; what is larger is cut

cdef inline void decode_signed8(float* restrict out, const int8_t* restrict q, float scale,
                                Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u
    cdef float less = scale * as_float(SIGNED_SHIFT)
    for i in range(size):
        u = <uint32_t><int32_t>q[i] << 18
        out[i] = as_float((u & <uint32_t>0x81fc0000) | SIGNED_SHIFT) * scale \
            - as_float(as_bits(less) | (u & <uint32_t>0x80000000))

cdef inline void encode_signed8(int8_t* restrict q, const float* restrict x, float scale,
                                Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u
    cdef float r = reciprocal(scale)
    for i in range(size):
        u = as_bits(x[i] * r + as_float((as_bits(x[i]) & <uint32_t>0x80000000) | SIGNED_SHIFT)) + 0x20000
        q[i] = <int8_t><uint8_t>(((u >> 24) & 0x80) | ((u >> 18) & 0x7f))

cdef inline void decode_unsigned8(float* restrict out, const uint8_t* restrict q, float scale,
                                  Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef float less = scale * as_float(UNSIGNED_SHIFT)
    for i in range(size):
        out[i] = as_float((<uint32_t>q[i] << 19) | UNSIGNED_SHIFT) * scale - less

cdef inline void encode_unsigned8(uint8_t* restrict q, const float* restrict x, float scale,
                                  Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u, least
    cdef float r = reciprocal(scale), shift = as_float(UNSIGNED_SHIFT)
    for i in range(size):
        u = as_bits(x[i] * r + shift) + 0x40000
        least = UNSIGNED_SHIFT + 0x80000 if as_bits(x[i]) != 0 else <uint32_t>0      # code 1
        q[i] = <uint8_t>((u if u > least else least) >> 19)

cdef inline float reciprocal(float scale) noexcept nogil:
    # (where all is zero and there is no scale: any finite number)
    return as_float(<uint32_t>0x7f000000 - as_bits(scale))

cdef inline float scale_of(float most, bint negative) noexcept nogil:
    """The scale of a group whose largest magnitude is `most`; above LARGEST_SCALE where no scale is possible."""
    return as_float(as_bits(most * as_float(SIGNED_SPAN if negative else UNSIGNED_SPAN)) & 0x7f800000)

cdef inline float largest(const float* x, Py_ssize_t size) noexcept nogil:
    # by their bits, of which those of NaN are the largest: so a NaN is not lost, but makes the whole group NaN
    cdef Py_ssize_t i
    cdef uint32_t most = 0, u
    for i in range(size):
        u = as_bits(x[i]) & 0x7fffffff
        most = u if u > most else most
    return as_float(most)

cdef inline void decode_group(float* restrict out, const char* q, float scale, bint negative,
                              Py_ssize_t size) noexcept nogil:
    if AVX512 and size == GROUP:
        avx512_decode8(out, q, &scale, negative, False, avx512_constants())
    elif negative:
        decode_signed8(out, <const int8_t*>q, scale, size)
    else:
        decode_unsigned8(out, <const uint8_t*>q, scale, size)

cdef inline void decode8(float* restrict out, const char* q, const float* scale, bint negative,
                         Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t k = 0
    while size - k >= GROUP:
        decode_group(out + k, q + k, scale[k // GROUP], negative, GROUP)
        k += GROUP
    if k < size:
        decode_group(out + k, q + k, scale[k // GROUP], negative, size - k)

cdef inline void fold_pairs(uint32_t* restrict out, const uint32_t* restrict x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = x[2 * i] if x[2 * i] > x[2 * i + 1] else x[2 * i + 1]

cdef enum:
    GROUPS_TOGETHER = 8               # groups at a time: alone, each would wait for its own maximum

cdef inline void largest_of_groups(float* restrict out, const float* restrict x) noexcept nogil:
    """`largest`, of GROUPS_TOGETHER groups."""
    cdef uint32_t[GROUPS_TOGETHER * GROUP] a
    cdef uint32_t[GROUPS_TOGETHER * GROUP] b
    cdef uint32_t u, v
    cdef Py_ssize_t i, k
    for k in range(GROUPS_TOGETHER):
        for i in range(GROUP // 2):
            u, v = as_bits(x[k * GROUP + i]) & 0x7fffffff, as_bits(x[k * GROUP + GROUP // 2 + i]) & 0x7fffffff
            a[k * (GROUP // 2) + i] = u if u > v else v
    fold_pairs(b, a, GROUPS_TOGETHER * GROUP // 4)
    fold_pairs(a, b, GROUPS_TOGETHER * GROUP // 8)
    fold_pairs(b, a, GROUPS_TOGETHER * GROUP // 16)
    fold_pairs(a, b, GROUPS_TOGETHER * GROUP // 32)
    fold_pairs(b, a, GROUPS_TOGETHER * GROUP // 64)
    memcpy(out, b, GROUPS_TOGETHER * 4)

cdef inline void encode_group(char* q, float* scale, const float* restrict x, float most, bint negative,
                              Py_ssize_t size) noexcept nogil:
    """Encode a group whose largest magnitude is `most`."""
    cdef float[GROUP] bounded_x
    cdef Py_ssize_t i
    scale[0] = scale_of(most, negative)
    if as_bits(scale[0]) > LARGEST_SCALE:
        if most != most:
            scale[0] = as_float(0x7fc00000)
            memset(q, 0, size)
            return
        scale[0] = as_float(LARGEST_SCALE)
        for i in range(size):
            bounded_x[i] = bounded(x[i], scale[0] * as_float(SIGNED_MAX if negative else UNSIGNED_MAX))
        x = bounded_x
    if negative:
        encode_signed8(<int8_t*>q, x, scale[0], size)
    else:
        encode_unsigned8(<uint8_t*>q, x, scale[0], size)

cdef inline void encode8(char* q, float* scale, const float* restrict x, bint negative, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t k = 0, j
    cdef float[GROUPS_TOGETHER] most
    if AVX512 and size == 4 * GROUP:
        if avx512_encode8(q, scale, x, negative, 4):
            return
    while size - k >= GROUPS_TOGETHER * GROUP:
        if not (AVX512 and avx512_encode8(q + k, scale + k // GROUP, x + k, negative, GROUPS_TOGETHER)):
            largest_of_groups(most, x + k)
            for j in range(GROUPS_TOGETHER):
                encode_group(q + k + j * GROUP, scale + k // GROUP + j, x + k + j * GROUP, most[j], negative, GROUP)
        k += GROUPS_TOGETHER * GROUP
    while k < size:
        j = GROUP if size - k > GROUP else size - k
        encode_group(q + k, scale + k // GROUP, x + k, largest(x + k, j), negative, j)
        k += j


# Every storage, to and from the precision of the rule.

cdef inline void decode(real* restrict out, const char* x, const float* scale, Storage stored,
                        Py_ssize_t size) noexcept nogil:
    cdef float[TILE] narrow
    cdef float* to
    cdef Py_ssize_t i
    if real is float:
        to = out
    else:
        to = narrow
    if stored == FLOAT32:
        memcpy(to, x, size * 4)
    elif stored == BFLOAT16:
        decode_bfloat16(to, <const uint16_t*>x, size)
    elif stored == FLOAT16:
        decode_float16(to, <const uint16_t*>x, size)
    else:
        decode8(to, x, scale, stored == SIGNED8, size)
    if real is double:
        for i in range(size):
            out[i] = narrow[i]

cdef inline void encode(char* out, float* scale, const real* restrict x, Storage stored, Py_ssize_t size,
                        bint stochastic, uint64_t key, Py_ssize_t element) noexcept nogil:
    cdef float[TILE] narrow
    cdef uint16_t[TILE] random
    cdef const float* of
    cdef Py_ssize_t i
    if real is float:
        of = x
    else:
        for i in range(size):
            narrow[i] = <float>x[i]
        of = narrow
    if stored == FLOAT32:
        memcpy(out, of, size * 4)
    elif stored == BFLOAT16:
        if stochastic:
            encode_bfloat16_stochastic(<uint16_t*>out, of, key, element, size)
        else:
            encode_bfloat16(<uint16_t*>out, of, size)
    elif stored == FLOAT16:
        if stochastic:
            random_bits(random, key, element, size)
            encode_float16_by_bits(<uint16_t*>out, of, random, size)
        else:
            encode_float16(<uint16_t*>out, of, size)
    else:
        encode8(out, scale, of, stored == SIGNED8, size)
