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

Array = np.ndarray[Any, np.dtype[Any]]

LINE = 64              # bytes of a cache line: every array begins at one


class Arena:
    """Zeroed memory for arrays of these sizes in bytes; it is freed with the last of them."""

    def __init__(self, sizes: Iterable[int]) -> None:
        # (zeroed by the system, as it is touched; NumPy asks for huge pages from 4 MiB on)
        self._block: Array = np.zeros(LINE + sum(size + -size % LINE for size in sizes), np.uint8)
        self._next = -int(self._block.ctypes.data) % LINE

    def take(self, size: int) -> Array:
        """The next `size` bytes."""
        first = self._next
        self._next += size + -size % LINE
        return self._block[first:first + size]
