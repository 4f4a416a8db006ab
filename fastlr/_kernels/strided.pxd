# cython: language_level=3, cdivision=True
"""Copies between strided arrays and contiguous scratch."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from fastlr._kernels.structs cimport FLOAT32, FLOAT64, MAX_DIMENSIONS, TILE, Storage, StridedLayout

ctypedef fused bits:
    uint16_t
    uint32_t
    uint64_t

cdef inline void first_offset(const StridedLayout* w, Py_ssize_t element, Py_ssize_t* index,
                              Py_ssize_t* offset) noexcept nogil:
    cdef int d
    offset[0] = 0
    for d in range(w.ndim - 1, -1, -1):
        index[d] = element % w.shape[d]
        element = element // w.shape[d]
        offset[0] += index[d] * w.stride[d]

cdef inline Py_ssize_t next_row_offset(const StridedLayout* w, Py_ssize_t* index) noexcept nogil:
    # The offset of the next innermost row, from the start of the array.
    cdef int d = w.ndim - 2
    cdef Py_ssize_t offset = 0
    index[w.ndim - 1] = 0
    while d >= 0:
        index[d] += 1
        if index[d] < w.shape[d]:
            break
        index[d] = 0
        d -= 1
    for d in range(w.ndim - 1):
        offset += index[d] * w.stride[d]
    return offset

cdef inline void copy_strided(bits* scratch, char* array, const StridedLayout* w, Py_ssize_t start, Py_ssize_t size,
                              bint out) noexcept nogil:
    """Gather `size` elements of a strided array, from element `start`, into scratch; or (`out`) scatter them back."""
    cdef Py_ssize_t[MAX_DIMENSIONS] index
    cdef Py_ssize_t offset, step_chunks, i, k = 0, stride = w.stride[w.ndim - 1]
    cdef char* at_
    first_offset(w, start, index, &offset)
    while k < size:
        step_chunks = w.shape[w.ndim - 1] - index[w.ndim - 1]
        if step_chunks > size - k:
            step_chunks = size - k
        at_ = array + offset
        if out:
            for i in range(step_chunks):
                memcpy(at_ + i * stride, &scratch[k + i], sizeof(bits))
        else:
            for i in range(step_chunks):
                memcpy(&scratch[k + i], at_ + i * stride, sizeof(bits))
        k += step_chunks
        if k < size:
            offset = next_row_offset(w, index)

cdef inline void copy_strided_any(void* scratch, char* array, const StridedLayout* w, Py_ssize_t start, Py_ssize_t size,
                                  Storage stored, bint out) noexcept nogil:
    if stored == FLOAT64:
        copy_strided(<uint64_t*>scratch, array, w, start, size, out)
    elif stored == FLOAT32:
        copy_strided(<uint32_t*>scratch, array, w, start, size, out)
    else:
        copy_strided(<uint16_t*>scratch, array, w, start, size, out)

cdef inline void zero_strided(char* array, const StridedLayout* w, Py_ssize_t start, Py_ssize_t size,
                              Storage stored) noexcept nogil:
    cdef uint64_t[TILE] nothing
    cdef Py_ssize_t i = start, n
    memset(nothing, 0, sizeof(nothing))
    while i < start + size:
        n = start + size - i
        if n > TILE:
            n = TILE
        copy_strided_any(nothing, array, w, i, n, stored, True)
        i += n
