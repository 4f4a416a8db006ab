# cython: language_level=3
"""Structs that begin with their own size: those of a program with an older or a newer header are shorter or longer."""
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset


cdef inline bint sized(uint32_t size, size_t own) noexcept nogil:
    """Whether a struct has its size, as some version of this table has it: at least its first member and a half."""
    return 8 <= size and (size <= own or size < 4096) and size % 4 == 0


cdef inline bint read_struct(const void* given, size_t size, void* into) noexcept nogil:
    """Read what it has of what is known here; False if it cannot be one, or says something that is not known here."""
    cdef uint32_t own = (<const uint32_t*>given)[0]
    cdef size_t k
    if not sized(own, size):
        return False
    for k in range(size, own):
        if (<const char*>given)[k] != 0:
            return False
    memcpy(into, given, min(<size_t>own, size))
    return True


cdef inline void write_struct(void* into, const void* known, size_t size) noexcept nogil:
    """Write what is known here, as far as the caller's struct reaches, and zeros beyond; its size stays."""
    cdef uint32_t own = (<const uint32_t*>into)[0]
    memcpy(<char*>into + sizeof(own), <const char*>known + sizeof(own), min(<size_t>own, size) - sizeof(own))
    if own > size:
        memset(<char*>into + size, 0, own - size)
