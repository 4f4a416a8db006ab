"""One block of memory for the states of an optimizer's tensors.

It gets huge pages as a whole, where an array each would be too small, and its pages are first touched by the threads
that use them, in the first step. Beside arrays of their own that the constructor fills (AdamW, float32, Zen 4,
interleaved): constructor and first step together 0.87 to 1.98 times as fast, later steps the same within noise (0.97 to
1.01). Starting the arrays apart modulo 4 KiB, so that streams do not meet in the same sets of the cache, brought 1 to
3 % in cache and cost 6 to 8 % from memory: it is not done.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .arrays import BFloat16

Array = np.ndarray[Any, np.dtype[Any]]

LINE = 64              # bytes of a cache line: every array begins at one


class Arena:
    """Zeroed memory for arrays of these sizes in bytes; it is freed with the last of them."""

    def __init__(self, sizes: Iterable[int]) -> None:
        size = sum(size + -size % LINE for size in sizes)
        # (zeroed by the system, as it is touched; NumPy asks for huge pages from 4 MiB on)
        block = np.zeros(LINE + size, np.uint8)
        first = -int(block.ctypes.data) % LINE
        self._bytes: Array = block[first:first + size]
        self._next = 0
        self._whole: dict[str, tuple[Array, int]] = {}     # all of it as each type, and that type's size

    def take(self, count: int, stored: str = "uint8") -> Array:
        """The next `count` elements, of one axis; "bfloat16" as the bits of `BFloat16`."""
        if stored not in self._whole:
            whole = self._bytes.view(np.uint16).view(BFloat16) if stored == "bfloat16" else self._bytes.view(stored)
            self._whole[stored] = whole, whole.itemsize
        whole, itemsize = self._whole[stored]
        first = self._next // itemsize
        size = count * itemsize
        self._next += size + -size % LINE
        return whole[first:first + count]
