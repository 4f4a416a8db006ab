# What a parameter has beside it: the lower half of a float32 of which it is the upper, and a 16-bit copy. Included by
# every door.

# Split float32: the parameter is the nearest bfloat16, ties away from zero; the remainder what is missing, in units of
# the float32's last place. One is signed, so together they are that float32 again, whatever a parameter was rounded to.

cdef void join(real* restrict out, const uint16_t* restrict upper, const int16_t* restrict rest,
               Py_ssize_t size) noexcept nogil:
    """The float32s of bfloat16s and remainders. Pairs that `split` never makes come from a caller who changed the
    parameter: 0 is then 0, and an infinity no NaN."""
    cdef Py_ssize_t i
    cdef float[TILE] narrow
    cdef uint32_t u, own
    cdef int32_t r
    for i in range(size):
        u = <uint32_t>upper[i] << 16
        r = rest[i]
        own = u & 0x7fffffff
        r = 0 if own == 0 else r
        r = 0 if own == 0x7f800000 and r > 0 else r
        narrow[i] = as_float(u + <uint32_t>r)
    for i in range(size):
        out[i] = narrow[i]

cdef void split(uint16_t* restrict upper, int16_t* restrict rest, const real* restrict x,
                Py_ssize_t size) noexcept nogil:
    """A NaN keeps its sign only."""
    cdef Py_ssize_t i
    cdef float[TILE] narrow
    cdef uint32_t u, sign = <uint32_t>0x80000000
    for i in range(size):
        narrow[i] = <float>x[i]
    for i in range(size):
        u = as_bits(narrow[i])
        u = (u & sign) | 0x7fc00000 if (u & 0x7fffffff) > 0x7f800000 else u
        upper[i] = <uint16_t>((u + 0x8000) >> 16)
        rest[i] = <int16_t>(u & 0xffff)

cdef real* fetch_parameter(real* scratch, uint64_t* raw, const TensorView* s, Py_ssize_t start,
                           Py_ssize_t size) noexcept nogil:
    cdef char* x = s.p + 2 * start
    if s.low_bits == NULL:
        return fetch(scratch, raw, s.p, s.layout, NULL, s.stored, start, size)
    if s.layout != NULL:
        carry_any(raw, s.p, s.layout, start, size, s.stored, False)
        x = <char*>raw
    join(scratch, <const uint16_t*>x, <const int16_t*>s.low_bits + start, size)
    return scratch

cdef void put_back_parameter(const real* tile, uint64_t* raw, const TensorView* s, Py_ssize_t start, Py_ssize_t size,
                             const StepJob* job) noexcept nogil:
    cdef char* x = s.p + 2 * start
    if s.low_bits == NULL:
        put_back(tile, raw, s.p, s.layout, NULL, s.stored, start, size, job, s.random_salt)
        return
    if s.layout != NULL:
        x = <char*>raw
    split(<uint16_t*>x, <int16_t*>s.low_bits + start, tile, size)
    if s.layout != NULL:
        carry_any(raw, s.p, s.layout, start, size, s.stored, True)


# A copy, to nearest, ties to even.

cdef inline float toward_odd(double x) noexcept nogil:
    # A float32 from which rounding to 16 bits gives what rounding x itself would: cut off, with what was lost in its
    # last bit.
    cdef float y = <float>x
    cdef uint32_t u = as_bits(y)
    cdef double back = y
    u -= 1 if (back > x and x > 0) or (back < x and x < 0) else 0
    u |= 1 if back != x and x == x else 0
    return as_float(u)

cdef void cast(const TensorView* s, const real* p, uint64_t* raw, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """A tile of a parameter into its copy."""
    cdef float[TILE] narrow
    cdef const float* x
    cdef char* to = <char*>raw if s.shadow_walk != NULL else s.shadow + 2 * start
    cdef Py_ssize_t i
    if real is float:
        x = p
    else:
        for i in range(size):
            narrow[i] = toward_odd(p[i])
        x = narrow
    if s.shadow_stored == BFLOAT16:
        encode_bfloat16(<uint16_t*>to, x, size)
    else:
        encode_float16(<uint16_t*>to, x, size)
    if s.shadow_walk != NULL:
        carry_any(raw, s.shadow, s.shadow_walk, start, size, s.shadow_stored, True)
