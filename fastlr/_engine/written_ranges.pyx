# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
import numpy as np

from fastlr._engine.layout cimport Layout, MemoryRange
from fastlr._engine.memory cimport Memory
from fastlr._kernels.build_id cimport FASTLR_LAYOUT

build_id = FASTLR_LAYOUT.decode()


cdef int merge_written(WrittenRanges* ranges, Layout layout, Memory memory) except -1:
    """Merge what a step writes: ranges that nearly touch are one."""
    cdef const MemoryRange* written = layout.written
    cdef Py_ssize_t k, count = layout.written_count
    ranges.low = <char**>memory.take(count + 1, sizeof(char*))
    ranges.high = <char**>memory.take(count + 1, sizeof(char*))
    ranges.count = 0
    for k in range(count):
        if ranges.count > 0 and written[k].low <= ranges.high[ranges.count - 1] + 64:
            if written[k].high > ranges.high[ranges.count - 1]:
                ranges.high[ranges.count - 1] = written[k].high
        else:
            ranges.low[ranges.count], ranges.high[ranges.count] = written[k].low, written[k].high
            ranges.count += 1
    return 0


cdef int refuse_overlap(Layout layout, Py_ssize_t i, object array, const char* begin, const char* end) except -1:
    """ValueError if a step writes where the gradient of parameter i is, an array in this range."""
    cdef const MemoryRange* written = layout.written
    cdef Py_ssize_t k
    for k in range(layout.written_count):
        if written[k].low < end and written[k].high > begin:
            tensor = layout.tensors[written[k].tensor]
            for other in tensor.written():
                if np.shares_memory(other, array):
                    raise ValueError(f"{layout.caller}: the gradient of parameter {layout.tensors[i].name} shares "
                                     f"memory with parameter {tensor.name} or its state, which the step writes; "
                                     f"pass a copy")
    return 0
