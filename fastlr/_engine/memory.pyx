# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The engine's memory outside Python: every block has one owner, and is freed with it.

All of it begins at a cache line, so that no two threads write to the same one because of where a block begins.
"""
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc

cdef enum:
    CACHE_LINE = 64            # bytes
    FIRST_CAPACITY = 32        # blocks

cdef Py_ssize_t MAX_BYTES = <Py_ssize_t>((<size_t>-1) >> 1) - CACHE_LINE


cdef inline char* aligned(void* block) noexcept nogil:
    """The first cache line that begins in a block."""
    return <char*>block + (-<uintptr_t>block) % CACHE_LINE


cdef class Memory:
    """Blocks that live as long as this object."""

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.count):
            free(self.blocks[k])
        free(self.blocks)

    cdef void* take(self, Py_ssize_t count, Py_ssize_t size) except NULL:
        """One more block, for `count` elements of `size` bytes, all zero."""
        cdef void* block
        cdef void* blocks
        if size > 0 and count > MAX_BYTES // size:
            raise MemoryError
        if self.count == self.capacity:
            blocks = realloc(self.blocks, (self.capacity + FIRST_CAPACITY) * 2 * sizeof(void*))
            if blocks == NULL:
                raise MemoryError
            self.blocks, self.capacity = <void**>blocks, (self.capacity + FIRST_CAPACITY) * 2
        block = calloc(count * size + CACHE_LINE, 1)
        if block == NULL:
            raise MemoryError
        self.blocks[self.count] = block
        self.count += 1
        return aligned(block)


cdef class Workspace:
    """One block that is kept from step to step and grows when a step needs more."""

    def __dealloc__(self):
        free(self.block)

    cdef char* reserve(self, size_t size) except NULL:
        """At least `size` bytes, with arbitrary contents; those of an earlier call are lost if it grows."""
        if self.grown(size) == NULL:
            raise MemoryError
        return self.data

    cdef char* grown(self, size_t size) noexcept nogil:
        """The same, or NULL if there is no memory."""
        if self.data == NULL or size > self.size:
            if size > <size_t>MAX_BYTES:
                return NULL
            free(self.block)
            self.data, self.size = NULL, 0
            self.block = malloc(size + CACHE_LINE)
            if self.block == NULL:
                return NULL
            self.data, self.size = aligned(self.block), size
        return self.data
