# cython: language_level=3, cdivision=True
"""Tiles: a part of each operand as contiguous floats, the stages before and after the rule, and storing it back.

The scratch of a tile stays in the first-level cache. So strides, storage and stages need no more loops per rule, and
the same operations are applied to an element in the same order whatever its layout.
"""
from libc.stdint cimport int16_t, int32_t, uint16_t, uint32_t, uint64_t
from fastlr._kernels.codecs cimport as_bits, as_float, bytes_of, decode, encode, encode_bfloat16, encode_float16
from fastlr._kernels.strided cimport copy_strided_any
from fastlr._kernels.structs cimport (
    BFLOAT16, FLOAT32, FLOAT64, TILE, ScalarGroup, StepJob, Storage, StridedLayout, TensorView,
)
from fastlr.rules.element cimport bounded, real

cdef inline bint is_native(Storage stored, real* also_typed) noexcept nogil:
    if real is float:
        return stored == FLOAT32
    else:
        return stored == FLOAT64

cdef inline real* load_tile(real* scratch, uint64_t* raw, char* array, const StridedLayout* layout, const float* scale,
                            Storage stored, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """A tile of an array as floats: a pointer into the array if it is stored contiguously so, else the scratch."""
    cdef char* x = array + start * bytes_of(stored)
    if layout != NULL:
        if is_native(stored, scratch):
            copy_strided_any(scratch, array, layout, start, size, stored, False)
            return scratch
        copy_strided_any(raw, array, layout, start, size, stored, False)
        x = <char*>raw
    elif is_native(stored, scratch):
        return <real*>x
    decode(scratch, x, scale, stored, size)
    return scratch

cdef inline void store_tile(const real* tile, uint64_t* raw, char* array, const StridedLayout* layout, float* scale,
                            Storage stored, Py_ssize_t start, Py_ssize_t size, const StepJob* job,
                            uint64_t random_salt) noexcept nogil:
    """Write back what `load_tile` decoded or gathered into scratch."""
    cdef char* x = array + start * bytes_of(stored)
    if is_native(stored, <real*>tile):
        if layout != NULL:
            copy_strided_any(<void*>tile, array, layout, start, size, stored, True)
        return
    if layout != NULL:
        x = <char*>raw
    encode(x, scale, tile, stored, size, job.stochastic, job.key + random_salt, start)
    if layout != NULL:
        copy_strided_any(raw, array, layout, start, size, stored, True)


# Split float32: the parameter is the nearest bfloat16, ties away from zero; the remainder is the difference, in units
# in the last place of the float32. The remainder is signed, so both together are that float32 again, whether the
# parameter was rounded up or down.

cdef inline void join_master(real* restrict out, const uint16_t* restrict upper, const int16_t* restrict rest,
                             Py_ssize_t size) noexcept nogil:
    """The float32s of bfloat16s and remainders. Pairs that `split_master` never makes occur where a caller changed
    the parameter: a parameter of 0 is then 0, and an infinity does not become NaN."""
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

cdef inline void split_master(uint16_t* restrict upper, int16_t* restrict rest, const real* restrict x,
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

cdef inline real* load_param(real* scratch, uint64_t* raw, const TensorView* view, Py_ssize_t start,
                             Py_ssize_t size) noexcept nogil:
    cdef char* x = view.p + 2 * start
    if view.low_bits == NULL:
        return load_tile(scratch, raw, view.p, view.layout, NULL, view.stored, start, size)
    if view.layout != NULL:
        copy_strided_any(raw, view.p, view.layout, start, size, view.stored, False)
        x = <char*>raw
    join_master(scratch, <const uint16_t*>x, <const int16_t*>view.low_bits + start, size)
    return scratch

cdef inline void store_param(const real* tile, uint64_t* raw, const TensorView* view, Py_ssize_t start, Py_ssize_t size,
                             const StepJob* job) noexcept nogil:
    cdef char* x = view.p + 2 * start
    if view.low_bits == NULL:
        store_tile(tile, raw, view.p, view.layout, NULL, view.stored, start, size, job, view.random_salt)
        return
    if view.layout != NULL:
        x = <char*>raw
    split_master(<uint16_t*>x, <int16_t*>view.low_bits + start, tile, size)
    if view.layout != NULL:
        copy_strided_any(raw, view.p, view.layout, start, size, view.stored, True)


# The low-precision copy: rounded to nearest, ties to even.

cdef inline float round_to_odd(double x) noexcept nogil:
    # A float32 that rounds to the 16 bits to which x itself rounds: truncated, with its last bit set if that was not
    # exact.
    cdef float y = <float>x
    cdef uint32_t u = as_bits(y)
    cdef double back = y
    u -= 1 if (back > x and x > 0) or (back < x and x < 0) else 0
    u |= 1 if back != x and x == x else 0
    return as_float(u)

cdef inline void store_shadow(const TensorView* view, const real* p, uint64_t* raw, Py_ssize_t start,
                              Py_ssize_t size) noexcept nogil:
    """Write a tile of a parameter into its low-precision copy."""
    cdef float[TILE] narrow
    cdef const float* x
    cdef char* to = <char*>raw if view.shadow_layout != NULL else view.shadow + 2 * start
    cdef Py_ssize_t i
    if real is float:
        x = p
    else:
        for i in range(size):
            narrow[i] = round_to_odd(p[i])
        x = narrow
    if view.shadow_stored == BFLOAT16:
        encode_bfloat16(<uint16_t*>to, x, size)
    else:
        encode_float16(<uint16_t*>to, x, size)
    if view.shadow_layout != NULL:
        copy_strided_any(raw, view.shadow, view.shadow_layout, start, size, view.shadow_stored, True)

cdef inline void preprocess(real* restrict out, const real* restrict g, const real* restrict p,
                            const ScalarGroup* group, double clip_factor, Py_ssize_t size) noexcept nogil:
    """The stages before the rule: unscale, clip by value, clip by norm, coupled decay."""
    cdef Py_ssize_t i
    cdef real scale = <real>group.grad_factor, most = <real>group.clip_value, l2 = <real>group.l2
    cdef real left = <real>clip_factor
    for i in range(size):
        out[i] = bounded(g[i] * scale, most) * left
    if group.l2 != 0:
        for i in range(size):
            out[i] = out[i] + l2 * p[i]

cdef inline void update_ema(real* restrict ema, const real* restrict p, double decay, Py_ssize_t size) noexcept nogil:
    """Update the running mean of a parameter, after its step."""
    cdef Py_ssize_t i
    cdef real keep = <real>decay, take = <real>(1 - decay)
    for i in range(size):
        ema[i] = keep * ema[i] + take * p[i]

cdef inline void apply_lr_factors(real* restrict p, const real* restrict moved, const real* restrict factor,
                                  const ScalarGroup* group, Py_ssize_t size) noexcept nogil:
    """A learning rate per element: the rule stepped a parameter of zeros; that step is scaled, decay is applied to p,
    and both are added."""
    cdef Py_ssize_t i
    cdef real keep = <real>group.now.decay_factor, own = <real>group.decay_by_lr, one = 1
    for i in range(size):
        p[i] = (keep + own * (one - factor[i])) * p[i] + factor[i] * moved[i]


cdef inline void preprocess_units(real* restrict out, const real* restrict g, const real* restrict p,
                                  const ScalarGroup* group, const TensorView* view, Py_ssize_t start,
                                  Py_ssize_t size) noexcept nogil:
    """`preprocess`, with each unit's factor of adaptive clipping after the clip by value."""
    cdef Py_ssize_t i, k = 0, n, unit = start // view.unit_length % view.unit_count, inside = start % view.unit_length
    cdef real[TILE] by
    cdef real scale = <real>group.grad_factor, most = <real>group.clip_value, l2 = <real>group.l2
    cdef real left = <real>view.clip_factor, own
    while k < size:                                # (columns: to the end of the row; else: to the end of the unit)
        n = view.unit_count - unit if view.unit_length == 1 else view.unit_length - inside
        if n > size - k:
            n = size - k
        if view.unit_length == 1:
            for i in range(n):
                by[k + i] = <real>view.unit_factors[unit + i]
        else:
            own = <real>view.unit_factors[unit]
            for i in range(n):
                by[k + i] = own
        k += n
        unit = 0 if view.unit_length == 1 or unit + 1 == view.unit_count else unit + 1
        inside = 0
    for i in range(size):
        out[i] = bounded(g[i] * scale, most) * by[i] * left
    if group.l2 != 0:
        for i in range(size):
            out[i] = out[i] + l2 * p[i]
