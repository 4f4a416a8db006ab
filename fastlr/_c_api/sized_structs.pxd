# cython: language_level=3
"""Structs that begin with their own size: those of a program with an older or a newer header are shorter or longer."""
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t
from libc.string cimport memcpy


cdef inline bint sized(uint32_t size, size_t own) noexcept nogil:
    """Whether a struct has its size, as some version of this table has it: at least its first member and a half."""
    return 8 <= size and (size <= own or size < 4096) and size % 4 == 0


cdef inline bint read_struct(const void* given, size_t size, void* into) noexcept nogil:
    """Read a struct that begins with its own size, as far as it has what is known here; False if it cannot be one."""
    cdef uint32_t own = (<const uint32_t*>given)[0]
    if not sized(own, size):
        return False
    memcpy(into, given, min(<size_t>own, size))
    return True
