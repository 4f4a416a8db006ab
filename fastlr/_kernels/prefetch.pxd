# cython: language_level=3, cdivision=True
"""Requests for memory ahead of its use: every prefetch of the kernels."""
from fastlr.rules.element cimport real

cdef extern from *:
    """
    /* What is written: into the first-level cache. What is read: into the first-level cache (a stream), or the second
       (rows of a table, at addresses without a pattern: a core limits the lines that it loads into the first level). */
    #if defined(__GNUC__) || defined(__clang__)
    #define fastlr_prefetch_write(x) __builtin_prefetch(x, 1, 3)
    #define fastlr_prefetch_read(x) __builtin_prefetch(x, 0, 3)
    #define fastlr_prefetch_l2(x) __builtin_prefetch(x, 0, 2)
    #elif defined(_M_X64)
    #include <immintrin.h>
    #define fastlr_prefetch_write(x) _mm_prefetch((const char *)(x), _MM_HINT_T0)
    #define fastlr_prefetch_read(x) _mm_prefetch((const char *)(x), _MM_HINT_T0)
    #define fastlr_prefetch_l2(x) _mm_prefetch((const char *)(x), _MM_HINT_T1)
    #else
    #define fastlr_prefetch_write(x) ((void)(x))
    #define fastlr_prefetch_read(x) ((void)(x))
    #define fastlr_prefetch_l2(x) ((void)(x))
    #endif

    /* Each cache line that holds a part of a row. (Always inlined: gcc takes a function that only prefetches for one
       without effects and removes its calls, and those of a function that calls it.) */
    #if defined(__GNUC__)
    static inline __attribute__((always_inline)) void fastlr_prefetch_row(const char *row, Py_ssize_t bytes) {
    #else
    static inline void fastlr_prefetch_row(const char *row, Py_ssize_t bytes) {
    #endif
        const char *line = row - ((size_t)row & 63);
        for (; line < row + bytes; line += 64)
            fastlr_prefetch_l2(line);
    }
    """
    void prefetch_write "fastlr_prefetch_write"(const void* x) noexcept nogil
    void prefetch_read "fastlr_prefetch_read"(const void* x) noexcept nogil
    void prefetch_row "fastlr_prefetch_row"(const char* row, Py_ssize_t bytes) noexcept nogil

cdef enum:
    STRIDE = 64                # elements between two requests of a loop
    EARLY = 512                # elements that a rule with much arithmetic requests ahead (compare.py --tables roof)

cdef inline void prefetch_ahead(const real* x) noexcept nogil:
    """STRIDE elements, EARLY elements ahead."""
    cdef int k
    for k in range(<int>(STRIDE * sizeof(real)) // 64):
        prefetch_write(<const char*>(x + EARLY) + 64 * k)
