# How elements lie in memory when they are no floats that the rule computes in: decoded a tile at a time into float32,
# encoded back after. No rule knows of it, and it knows no rule. Included by every door.

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


# Random bits: sixteen for each element, b + a (r ^ c), where r is of a fixed random table and a (odd), b and c are a
# hash of key and place, one for HASHED elements. So each is as likely as any other, any two of them are as good as
# independent, nothing is remembered, and they are the same for any thread and any cut. (A hash for each two elements
# costs four times as much.)

cdef enum:
    HASHED = 512

cdef uint16_t[HASHED] random_table

cdef inline uint32_t mixed(uint32_t x) noexcept nogil:
    # Wellons' lowbias32 (github.com/skeeto/hash-prospector): every input bit flips every output bit half of the time
    x = (x ^ (x >> 16)) * <uint32_t>0x7feb352d
    x = (x ^ (x >> 15)) * <uint32_t>0x846ca68b
    return x ^ (x >> 16)

cdef int fill_random_table() noexcept:
    cdef int i
    for i in range(HASHED):
        random_table[i] = <uint16_t>mixed(mixed(<uint32_t>i + <uint32_t>0x9e3779b9))
    return 0

fill_random_table()

cdef struct Dice:
    uint16_t a, b, c

cdef inline Dice shaken(uint64_t key, Py_ssize_t element) noexcept nogil:
    """For the HASHED elements from a multiple of it on."""
    cdef uint64_t place = <uint64_t>element // HASHED
    cdef uint32_t x = mixed(<uint32_t>key ^ mixed(<uint32_t>(key >> 32) ^ mixed(<uint32_t>(place >> 32))))
    cdef uint32_t y
    cdef Dice dice
    x = mixed(x ^ <uint32_t>place)
    y = mixed(x + <uint32_t>0x9e3779b9)
    dice.a, dice.b, dice.c = <uint16_t>x | 1, <uint16_t>(x >> 16), <uint16_t>y
    return dice

cdef inline void throw(uint16_t* restrict out, const uint16_t* restrict table, Dice dice,
                       Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = <uint16_t>(<uint32_t>dice.a * <uint16_t>(table[i] ^ dice.c) + dice.b)

cdef void toss(uint16_t* restrict out, uint64_t key, Py_ssize_t element, Py_ssize_t size) noexcept nogil:
    """Sixteen random bits for each of `size` elements."""
    cdef Py_ssize_t k = 0, n
    while k < size:
        n = HASHED - (element + k) % HASHED
        if n > size - k:
            n = size - k
        throw(out + k, random_table + (element + k) % HASHED, shaken(key, element + k), n)
        k += n


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

cdef inline void toss_bfloat16(uint16_t* restrict out, const float* restrict x, const uint16_t* restrict table,
                               Dice dice, Py_ssize_t size) noexcept nogil:
    """Away from zero with the probability of what is cut off: the mean is x. What is not finite stays."""
    # (in halves, of which a vector holds twice as many: their carry is what rounds up)
    cdef Py_ssize_t i
    cdef const either* half_of = <const either*>x
    cdef uint16_t low, high, die, most, up, odd
    for i in range(size):
        low, high = half_of[2 * i + LOW], half_of[2 * i + 1 - LOW]
        die = <uint16_t>(<uint32_t>dice.a * <uint16_t>(table[i] ^ dice.c) + dice.b)
        most = 0xffff - die
        up = <uint16_t>(high + <uint16_t>(low > most))
        odd = high | <uint16_t>(0x40 if low != 0 else 0)
        out[i] = odd if <uint16_t>(high & 0x7f80) == 0x7f80 else up


cdef void toss_bfloat16s(uint16_t* restrict out, const float* restrict x, uint64_t key, Py_ssize_t element,
                         Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t k = 0, n
    while k < size:
        n = HASHED - (element + k) % HASHED
        if n > size - k:
            n = size - k
        toss_bfloat16(out + k, x + k, random_table + (element + k) % HASHED, shaken(key, element + k), n)
        k += n

# float16. Subnormal float32 are flushed inside a kernel, so its subnormals go by way of integers.

cdef void decode_float16(float* restrict out, const uint16_t* restrict x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u, normal, small
    cdef float unit = as_float(0x33800000)         # 2**-24
    for i in range(size):
        u = x[i] & 0x7fff
        normal = (u << 13) + <uint32_t>(0x70000000 if u >= 0x7c00 else 0x38000000)
        small = as_bits(<float><int32_t>u * unit)
        out[i] = as_float((small if u < 0x400 else normal) | (<uint32_t>(x[i] & 0x8000) << 16))

cdef inline uint16_t half(uint32_t u, uint32_t normal, uint32_t small) noexcept nogil:
    # u: a float32 without its sign; normal, small: it rounded, as one kind or the other
    cdef uint32_t finite = small if u < 0x38800000 else normal
    if finite > 0x7c00:
        finite = 0x7c00
    return <uint16_t>(0x7e00 if u > 0x7f800000 else 0x7c00 if u == 0x7f800000 else finite)

cdef void encode_float16(uint16_t* restrict out, const float* restrict x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u, sign, normal, small
    cdef float shift = as_float(0x3f000000)        # 0.5: its last bit is 2**-24, so adding it rounds to that
    for i in range(size):
        u = as_bits(x[i]) & 0x7fffffff
        sign = (as_bits(x[i]) >> 16) & 0x8000
        normal = u if u < 0x48000000 else <uint32_t>0x48000000
        normal = (normal - <uint32_t>0x38000000 + 0xfff + ((u >> 13) & 1)) >> 13
        small = as_bits(as_float(u if u < 0x38800000 else <uint32_t>0) + shift) - <uint32_t>0x3f000000
        out[i] = <uint16_t>(half(u, normal, small) | sign)

cdef void toss_float16(uint16_t* restrict out, const float* restrict x, const uint16_t* restrict dice,
                       Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u, sign, normal, small
    cdef float up = as_float(0x4b800000)           # 2**24
    cdef float part = as_float(0x37800000)         # 2**-16
    for i in range(size):
        u = as_bits(x[i]) & 0x7fffffff
        sign = (as_bits(x[i]) >> 16) & 0x8000
        normal = ((u if u < 0x48000000 else <uint32_t>0x48000000) - <uint32_t>0x38000000 + (dice[i] >> 3)) >> 13
        small = <uint32_t><int32_t>(as_float(u if u < 0x38800000 else <uint32_t>0) * up + <float>dice[i] * part)
        out[i] = <uint16_t>(half(u, normal, small) | sign)


# 8 bits, companded as the telephone does (G.711): a value over its group's largest, moved away from zero a bit, has
# the upper bits of that float as its code. Codes are linear near zero and logarithmic above, and neither way takes a
# root or a division an element. Zero stays zero, the largest stays itself (so what does not move stays, for ever), and
# what is never negative is never coded 0 unless it is: a second moment of zero would divide by epsilon.
#
#   signed    sign, 2 bits of exponent, 5 of mantissa:   |x| = largest / 12 ((1 + mantissa / 32) 2**exponent - 1)
#   unsigned  4 bits of exponent, 4 of mantissa:          x = largest / 49151 ((1 + mantissa / 16) 2**exponent - 1)
#
# Errors: half a code, at most (|x| + largest / 12) / 64, (x + largest / 49151) / 32. In the float, the shift is a power
# of two whose lower bits of exponent are 0, so that a code is a field of it, and the largest falls on a code.

cdef enum:
    SIGNED_SHIFT = 0x3e000000          # 2**-3
    SIGNED_LARGEST = 0x3fc00000        # 1.5, which is 12 of them
    SIGNED_UNIT = 0x3f2aaab0           # (1 + 2**-21) / 1.5: never too small; what gets too large is cut
    UNSIGNED_SHIFT = 0x38000000        # 2**-15
    UNSIGNED_LARGEST = 0x3fbfff00      # 1.5 - 2**-15, 49151 of them
    UNSIGNED_UNIT = 0x3f2aab94

cdef inline void decode_signed8(float* restrict out, const int8_t* restrict q, float most,
                                Py_ssize_t size) noexcept nogil:
    """Of one group; most: its largest."""
    cdef Py_ssize_t i
    cdef uint32_t u
    cdef float x, shift = as_float(SIGNED_SHIFT), unit = most * as_float(SIGNED_UNIT)
    for i in range(size):
        u = <uint32_t><int32_t>q[i] << 18
        x = (as_float((u & 0x01fc0000) + SIGNED_SHIFT) - shift) * unit
        x = x if x < most else most
        out[i] = as_float(as_bits(x) | (u & <uint32_t>0x80000000))

cdef inline void encode_signed8(int8_t* restrict q, const float* restrict x, float r,
                                Py_ssize_t size) noexcept nogil:
    """Of one group; r: what its largest is times."""
    cdef Py_ssize_t i
    cdef uint32_t u
    for i in range(size):
        u = as_bits(x[i] * r + as_float((as_bits(x[i]) & <uint32_t>0x80000000) | SIGNED_SHIFT)) + 0x20000
        q[i] = <int8_t><uint8_t>(((u >> 24) & 0x80) | ((u >> 18) & 0x7f))

cdef inline void decode_unsigned8(float* restrict out, const uint8_t* restrict q, float most,
                                  Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef float x, shift = as_float(UNSIGNED_SHIFT), unit = most * as_float(UNSIGNED_UNIT)
    for i in range(size):
        x = (as_float((<uint32_t>q[i] << 19) + UNSIGNED_SHIFT) - shift) * unit
        out[i] = x if x < most else most

cdef inline void encode_unsigned8(uint8_t* restrict q, const float* restrict x, float r,
                                  Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t u, least, one = 0x80000
    cdef float shift = as_float(UNSIGNED_SHIFT)
    for i in range(size):
        u = as_bits(x[i] * r + shift) + 0x40000
        least = as_bits(x[i])
        least = UNSIGNED_SHIFT + (least if least < one else one)      # code 1, of 0: code 0
        q[i] = <uint8_t>((u if u > least else least) >> 19)

cdef inline float over(uint32_t largest_, float most) noexcept nogil:
    cdef float r = as_float(largest_) / most, zero = 0
    return r if most > zero else zero

cdef inline float largest(const float* x, Py_ssize_t size) noexcept nogil:
    # by their bits, of which NaN has the largest: it reaches the whole group rather than get lost
    cdef Py_ssize_t i
    cdef uint32_t most = 0, u
    for i in range(size):
        u = as_bits(x[i]) & 0x7fffffff
        most = u if u > most else most
    return as_float(most)

cdef void decode8(float* restrict out, const char* q, const float* scale, bint negative,
                  Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t k = 0
    while size - k >= GROUP:
        if negative:
            decode_signed8(out + k, <const int8_t*>q + k, scale[k // GROUP], GROUP)
        else:
            decode_unsigned8(out + k, <const uint8_t*>q + k, scale[k // GROUP], GROUP)
        k += GROUP
    if k < size:
        if negative:
            decode_signed8(out + k, <const int8_t*>q + k, scale[k // GROUP], size - k)
        else:
            decode_unsigned8(out + k, <const uint8_t*>q + k, scale[k // GROUP], size - k)

cdef inline void fold(uint32_t* restrict out, const uint32_t* restrict x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = x[2 * i] if x[2 * i] > x[2 * i + 1] else x[2 * i + 1]

cdef enum:
    TOGETHER = 8               # groups: one after another, each waits for its own maximum and quotient

cdef inline void largest_of_each(float* restrict out, const float* restrict x) noexcept nogil:
    """`largest`, of TOGETHER groups."""
    cdef uint32_t[TOGETHER * GROUP] a
    cdef uint32_t[TOGETHER * GROUP] b
    cdef uint32_t u, v
    cdef Py_ssize_t i, k
    for k in range(TOGETHER):
        for i in range(GROUP // 2):
            u, v = as_bits(x[k * GROUP + i]) & 0x7fffffff, as_bits(x[k * GROUP + GROUP // 2 + i]) & 0x7fffffff
            a[k * (GROUP // 2) + i] = u if u > v else v
    fold(b, a, TOGETHER * GROUP // 4)
    fold(a, b, TOGETHER * GROUP // 8)
    fold(b, a, TOGETHER * GROUP // 16)
    fold(a, b, TOGETHER * GROUP // 32)
    fold(b, a, TOGETHER * GROUP // 64)
    memcpy(out, b, TOGETHER * 4)

cdef void encode8(char* q, float* scale, const float* restrict x, bint negative, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t k = 0, j
    cdef float most
    cdef float[TOGETHER] r
    cdef uint32_t top = SIGNED_LARGEST if negative else UNSIGNED_LARGEST
    while size - k >= TOGETHER * GROUP:
        largest_of_each(scale + k // GROUP, x + k)
        for j in range(TOGETHER):
            r[j] = over(top, scale[k // GROUP + j])
        if negative:
            for j in range(TOGETHER):
                encode_signed8(<int8_t*>q + k + j * GROUP, x + k + j * GROUP, r[j], GROUP)
        else:
            for j in range(TOGETHER):
                encode_unsigned8(<uint8_t*>q + k + j * GROUP, x + k + j * GROUP, r[j], GROUP)
        k += TOGETHER * GROUP
    while k < size:
        j = GROUP if size - k > GROUP else size - k
        most = largest(x + k, j)
        scale[k // GROUP] = most
        if negative:
            encode_signed8(<int8_t*>q + k, x + k, over(top, most), j)
        else:
            encode_unsigned8(<uint8_t*>q + k, x + k, over(top, most), j)
        k += GROUP


# Any of them, to and from the precision of the rule.

cdef void decode(real* restrict out, const char* x, const float* scale, Storage stored, Py_ssize_t size) noexcept nogil:
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

cdef void encode(char* out, float* scale, const real* restrict x, Storage stored, Py_ssize_t size, bint stochastic,
                 uint64_t key, Py_ssize_t element) noexcept nogil:
    cdef float[TILE] narrow
    cdef uint16_t[TILE] dice
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
            toss_bfloat16s(<uint16_t*>out, of, key, element, size)
        else:
            encode_bfloat16(<uint16_t*>out, of, size)
    elif stored == FLOAT16:
        if stochastic:
            toss(dice, key, element, size)
            toss_float16(<uint16_t*>out, of, dice, size)
        else:
            encode_float16(<uint16_t*>out, of, size)
    else:
        encode8(out, scale, of, stored == SIGNED8, size)
