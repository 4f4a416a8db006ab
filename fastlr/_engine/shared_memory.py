"""Whether arrays that an optimizer writes share memory: each element must move once."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .arrays import dimensions

Array = np.ndarray[Any, np.dtype[Any]]
Interval = tuple[int, int, int]            # first byte, the byte behind the last, which array
Layout = tuple[int, tuple[int, ...], tuple[int, ...], int]         # address, shape, strides and bytes of an element


def find_shared(arrays: Sequence[Array]) -> tuple[int, int] | None:
    """Two of these arrays that share memory, or None.

    Ranges of memory are sorted; where several overlap, as those of a matrix's columns do, the arrays are told apart by
    their place within a row first. So n arrays take n log n comparisons, unless they are laid out irregularly.

    >>> import numpy as np
    >>> x = np.zeros((3, 4))
    >>> find_shared([x[:, 0], x[:, 1:3], x[:, 3]]), find_shared([x[0], x[:, 3]])
    (None, (0, 1))
    """
    ranges = sorted([(*memory_range(array), k) for k, array in enumerate(arrays) if array.size])
    for cluster in overlapping(ranges):
        layouts = {k: layout_of(arrays[k]) for _, _, k in cluster}
        rows = row_size(list(layouts.values()))
        places = sorted(place for k, layout in layouts.items() for place in within_row(layout, rows, k))
        for one, other in meeting(places):
            if np.shares_memory(arrays[one], arrays[other]):
                return min(one, other), max(one, other)
    return None


def memory_range(array: Array) -> tuple[int, int]:
    """The first byte of an array, and the byte behind its last."""
    if array.flags.c_contiguous:
        address: int = dimensions(array)[0]        # type: ignore[index]
        return address, address + array.nbytes
    return span(layout_of(array))


def layout_of(array: Array) -> Layout:
    address, shape, strides, *_ = dimensions(array)        # type: ignore[misc]
    return address, shape, strides, array.itemsize


def span(layout: Layout) -> tuple[int, int]:
    """The first byte of what is laid out so, and the byte behind its last."""
    low, shape, strides, itemsize = layout
    high = low + itemsize
    for size, stride in zip(shape, strides, strict=True):
        if stride > 0:
            high += (size - 1) * stride
        else:
            low += (size - 1) * stride
    return low, high


def overlapping(ranges: Sequence[Interval]) -> Iterator[list[Interval]]:
    """Runs of two or more sorted ranges of which each overlaps one before it."""
    run: list[Interval] = []
    end = 0
    for interval in ranges:
        if run and interval[0] >= end:
            if len(run) > 1:
                yield run
            run = []
        end = max(end, interval[1]) if run else interval[1]
        run.append(interval)
    if len(run) > 1:
        yield run


def row_size(layouts: Sequence[Layout]) -> int:
    """The commonest largest stride in bytes, or 0: what is probably a row of the array that these are views of."""
    largest = [max((abs(stride) for size, stride in zip(shape, strides, strict=True) if size > 1), default=0)
               for _, shape, strides, _ in layouts]
    return Counter(largest).most_common(1)[0][0]


def within_row(layout: Layout, rows: int, owner: int) -> list[Interval]:
    """The bytes of a row in which an array's elements may be, modulo the size of a row: one interval, or two.

    All of the row, where the array is not made of pieces of rows.
    """
    address, shape, strides, itemsize = layout
    inner = [(size, stride) for size, stride in zip(shape, strides, strict=True)
             if size > 1 and (rows == 0 or stride % rows)]
    low, high = span((address, tuple(size for size, _ in inner), tuple(stride for _, stride in inner), itemsize))
    if rows == 0:
        return [(0, 1, owner)]
    first = low % rows
    last = first + high - low
    return [(first, last, owner)] if last <= rows else [(first, rows, owner), (0, last - rows, owner)]


def meeting(intervals: Sequence[Interval]) -> Iterator[tuple[int, int]]:
    """Pairs of sorted intervals that overlap."""
    open_: list[tuple[int, int]] = []
    for low, high, owner in intervals:
        open_ = [(end, other) for end, other in open_ if end > low]
        for _, other in open_:
            if other != owner:
                yield other, owner
        open_.append((high, owner))


