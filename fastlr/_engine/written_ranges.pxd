# cython: language_level=3
"""What a step writes, by address, as few ranges: whether one gradient overlaps it is asked often."""
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory

cdef struct WrittenRanges:
    char** low
    char** high
    Py_ssize_t count

cdef int merge_written(WrittenRanges* ranges, Layout layout, Memory memory) except -1
cdef int refuse_overlap(Layout layout, Py_ssize_t i, object array, const char* begin, const char* end) except -1

cdef inline bint may_be_written(const WrittenRanges* ranges, const char* begin, const char* end) noexcept:
    """Whether a step may write in this range."""
    cdef Py_ssize_t half, n = ranges.count
    cdef char** low = <char**>ranges.low
    if n == 0:
        return False
    while n > 1:                   # (without a branch that depends on addresses, which are hard to predict)
        half = n >> 1
        low = low + half if low[half] < end else low
        n -= half
    return low[0] < end and ranges.high[low - ranges.low] > begin
