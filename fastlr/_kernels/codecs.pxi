# How elements lie in memory when they are no floats that the rule computes in: decoded a tile at a time into float32,
# encoded back after. No rule knows of it, and it knows no rule. Included by every door.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline float fastlr_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
    static inline uint32_t fastlr_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
    """
    float as_float "fastlr_float"(uint32_t u) noexcept nogil
    uint32_t as_bits "fastlr_bits"(float x) noexcept nogil

cdef inline Py_ssize_t bytes_of(Storage stored) noexcept nogil:
    if stored == FLOAT64:
        return 8
    if stored == FLOAT32:
        return 4
    return 1 if stored == SIGNED8 or stored == ROOT8 else 2


# Random bits: a hash of key and element, sixteen bits an element, one hash for two. Nothing is remembered, so they are
# the same for any thread and any cut.

cdef inline uint32_t mixed(uint32_t x) noexcept nogil:
    # Wellons' lowbias32 (github.com/skeeto/hash-prospector): every input bit flips every output bit half of the time
    x = (x ^ (x >> 16)) * <uint32_t>0x7feb352d
    x = (x ^ (x >> 15)) * <uint32_t>0x846ca68b
    return x ^ (x >> 16)

cdef void toss(uint16_t* restrict out, uint64_t key, Py_ssize_t element, Py_ssize_t size) noexcept nogil:
    """Sixteen random bits for each of `size` <= TILE elements, from an even one on."""
    cdef Py_ssize_t i
    cdef uint32_t x
    cdef uint32_t first = <uint32_t>(element // 2)
    cdef uint32_t salt = mixed(<uint32_t>key ^ mixed(<uint32_t>(key >> 32) ^ <uint32_t>(<uint64_t>element >> 33)))
    for i in range((size + 1) // 2):
        x = mixed((first + <uint32_t>i) ^ salt)
        out[2 * i] = <uint16_t>x
        out[2 * i + 1] = <uint16_t>(x >> 16)


# bfloat16: the upper half of a float32

cdef void decode_bfloat16(float* restrict out, const uint16_t* restrict x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = as_float(<uint32_t>x[i] << 16)

cdef void encode_bfloat16(uint16_t* restrict out, const float* restrict x, Py_ssize_t size) noexcept nogil:
    """To nearest, ties to even; NaN stays NaN."""
    cdef Py_ssize_t i
    cdef uint32_t u, nearest, quiet
    for i in range(size):
        u = as_bits(x[i])
        nearest = (u + 0x7fff + ((u >> 16) & 1)) >> 16
        quiet = (u >> 16) | 0x40
        out[i] = <uint16_t>(quiet if (u & 0x7fffffff) > 0x7f800000 else nearest)

cdef void toss_bfloat16(uint16_t* restrict out, const float* restrict x, const uint16_t* restrict dice,
                        Py_ssize_t size) noexcept nogil:
    """Away from zero with the probability of what is cut off: the mean is x. What is not finite stays."""
    cdef Py_ssize_t i
    cdef uint32_t u, rounded, odd
    for i in range(size):
        u = as_bits(x[i])
        rounded = (u + dice[i]) >> 16
        odd = (u >> 16) | <uint32_t>(0x40 if (u & 0x7fffffff) > 0x7f800000 else 0)
        out[i] = <uint16_t>(odd if (u & 0x7f800000) == 0x7f800000 else rounded)


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


# 8 bits, companded (FlashOptim, arXiv:2602.23349, with other groups): a value over its group's largest goes through a
# function that spends codes where moments are. 0.5 ns an element where a table of 256 costs 4.5. Zero stays zero, and
# what is never negative is never coded 0 unless it is: a second moment of zero would divide by epsilon.

cdef void decode_signed8(float* restrict out, const int8_t* restrict q, const float* restrict scale,
                         Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i, k = 0, n
    cdef float y, a, two = 2, step = as_float(0x3c010204)       # 1 / 127
    cdef float s
    while k < size:
        n = size - k if size - k < GROUP else GROUP
        s = scale[k // GROUP]
        for i in range(k, k + n):
            y = <float>q[i] * step
            a = absolute(y)
            out[i] = s * (y / (two - a))
        k += n

cdef void encode_signed8(int8_t* restrict q, float* restrict scale, const float* restrict x,
                         Py_ssize_t size) noexcept nogil:
    """y = 2 x / (1 + |x|), x over the largest of its group, in 127 steps to either side."""
    cdef Py_ssize_t i, k = 0, n
    cdef float a, most, r, y, zero = 0, one = 1, codes = 127
    while k < size:
        n = size - k if size - k < GROUP else GROUP
        most = largest(x + k, n)
        scale[k // GROUP] = most
        r = one / most if most > zero else zero
        for i in range(k, k + n):
            y = x[i] * r
            a = absolute(y)
            y = (codes + codes) * y / (one + a)
            q[i] = <int8_t><int32_t>nearest_whole(y)
        k += n

cdef void decode_root8(float* restrict out, const uint8_t* restrict q, const float* restrict scale,
                       Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i, k = 0, n
    cdef float y, s, step = as_float(0x3b808081)                         # 1 / 255
    while k < size:
        n = size - k if size - k < GROUP else GROUP
        s = scale[k // GROUP]
        for i in range(k, k + n):
            y = <float>q[i] * step
            out[i] = s * (y * y)
        k += n

cdef void encode_root8(uint8_t* restrict q, float* restrict scale, const float* restrict x,
                       Py_ssize_t size) noexcept nogil:
    """y = sqrt(x), x over the largest of its group, in 255 steps."""
    cdef Py_ssize_t i, k = 0, n
    cdef float most, r, y, zero = 0, one = 1, codes = 255
    while k < size:
        n = size - k if size - k < GROUP else GROUP
        most = largest(x + k, n)
        scale[k // GROUP] = most
        r = one / most if most > zero else zero
        for i in range(k, k + n):
            y = nearest_whole(codes * root(x[i] * r))
            y = one if y < one and x[i] > zero else y
            q[i] = <uint8_t><int32_t>y
        k += n

cdef inline float absolute(float x) noexcept nogil:
    return as_float(as_bits(x) & 0x7fffffff)

cdef inline float nearest_whole(float x) noexcept nogil:
    # to even at ties, for |x| < 2**22: what is below 1 is lost by adding 3 * 2**22
    cdef float big = as_float(0x4b400000)
    x = (x + big) - big
    return x if x == x else 0

cdef inline float largest(const float* x, Py_ssize_t size) noexcept nogil:
    # by their bits, of which NaN has the largest: it reaches the whole group rather than get lost
    cdef Py_ssize_t i
    cdef uint32_t most = 0, u
    for i in range(size):
        u = as_bits(x[i]) & 0x7fffffff
        most = u if u > most else most
    return as_float(most)


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
    elif stored == SIGNED8:
        decode_signed8(to, <const int8_t*>x, scale, size)
    else:
        decode_root8(to, <const uint8_t*>x, scale, size)
    if real is double:
        for i in range(size):
            out[i] = narrow[i]

cdef void encode(char* out, float* scale, const real* restrict x, Storage stored, Py_ssize_t size, bint stochastic,
                 uint64_t key, Py_ssize_t element) noexcept nogil:
    cdef float[TILE] narrow
    cdef uint16_t[TILE + 2] dice
    cdef const float* of
    cdef Py_ssize_t i
    if real is float:
        of = x
    else:
        for i in range(size):
            narrow[i] = <float>x[i]
        of = narrow
    if stochastic and (stored == BFLOAT16 or stored == FLOAT16):
        toss(dice, key, element, size)
    if stored == FLOAT32:
        memcpy(out, of, size * 4)
    elif stored == BFLOAT16:
        if stochastic:
            toss_bfloat16(<uint16_t*>out, of, dice, size)
        else:
            encode_bfloat16(<uint16_t*>out, of, size)
    elif stored == FLOAT16:
        if stochastic:
            toss_float16(<uint16_t*>out, of, dice, size)
        else:
            encode_float16(<uint16_t*>out, of, size)
    elif stored == SIGNED8:
        encode_signed8(<int8_t*>out, scale, of, size)
    else:
        encode_root8(<uint8_t*>out, scale, of, size)
