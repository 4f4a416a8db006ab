# cython: language_level=3, cdivision=True
"""Random bits for stochastic rounding, keyed by (seed, step, element): there is no generator with a state."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

# Each element has sixteen random bits, a ^ b ^ c: a and b are entries of two fixed random tables, at offsets that are
# hashes of the key and of the block of BITS_BLOCK elements, and c is a hash of both. So all values are equally likely,
# any two elements are nearly independent, and the bits are the same for any number of threads and any chunks. One hash
# serves BITS_BLOCK elements. (A hash for each two elements takes eight times as long.)

cdef enum:
    BITS_BLOCK = 512

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__GNUC__)
    static uint16_t fastlr_random_table[2][1024] __attribute__((unused));
    #else
    static uint16_t fastlr_random_table[2][1024];
    #endif
    """
    uint16_t[2][1024] random_table "fastlr_random_table"       # of each module that draws bits

cdef inline uint32_t hash32(uint32_t x) noexcept nogil:
    # Wellons' lowbias32 (github.com/skeeto/hash-prospector): every input bit flips every output bit half of the time
    x = (x ^ (x >> 16)) * <uint32_t>0x7feb352d
    x = (x ^ (x >> 15)) * <uint32_t>0x846ca68b
    return x ^ (x >> 16)

cdef inline int fill_random_table() noexcept:
    """Every module that draws random bits calls this when it is imported."""
    cdef int i
    for i in range(2 * BITS_BLOCK):
        random_table[0][i] = <uint16_t>hash32(hash32(<uint32_t>i + <uint32_t>0x9e3779b9))
        random_table[1][i] = <uint16_t>hash32(hash32(<uint32_t>i + <uint32_t>0x3c6ef372))
    return 0

cdef struct RandomBits:
    const uint16_t* a
    const uint16_t* b
    uint16_t c

cdef inline RandomBits random_bits_at(uint64_t key, Py_ssize_t element) noexcept nogil:
    """For the elements from `element` on, up to the next multiple of BITS_BLOCK."""
    cdef uint64_t place = <uint64_t>element // BITS_BLOCK
    cdef uint32_t x = hash32(<uint32_t>key ^ hash32(<uint32_t>(key >> 32) ^ hash32(<uint32_t>(place >> 32))))
    cdef RandomBits random
    x = hash32(x ^ <uint32_t>place)
    random.c = <uint16_t>hash32(x + <uint32_t>0x9e3779b9)
    random.a = random_table[0] + x % BITS_BLOCK + element % BITS_BLOCK
    random.b = random_table[1] + (x // BITS_BLOCK) % BITS_BLOCK + element % BITS_BLOCK
    return random

cdef inline RandomBits advance(RandomBits random, Py_ssize_t k) noexcept nogil:
    random.a += k
    random.b += k
    return random

cdef inline void xor_bits(uint16_t* restrict out, const uint16_t* restrict a, const uint16_t* restrict b, uint16_t c,
                          Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = a[i] ^ b[i] ^ c

cdef inline void random_bits(uint16_t* restrict out, uint64_t key, Py_ssize_t element, Py_ssize_t size) noexcept nogil:
    """Sixteen random bits for each of `size` elements."""
    cdef Py_ssize_t k = 0, n
    cdef RandomBits random
    while k < size:
        n = BITS_BLOCK - (element + k) % BITS_BLOCK
        if n > size - k:
            n = size - k
        random = random_bits_at(key, element + k)
        xor_bits(out + k, random.a, random.b, random.c, n)
        k += n
