"""Batches in a row without end, of which some are kept to be used again."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import numpy as np


class Batches:
    """The batches of any iterable, started again at its end.

    A list, tuple or array holds its batches itself. Of any other iterable, copies are kept where batches are needed
    again (a loader may write the next batch into the memory of the last): of the latest batches of an iterator, which
    cannot be started again, in half of `most_bytes`, and of those that `take` returns, in the other half. One batch is
    kept in any case. `notes` tells where that is less than what was asked for.
    """

    def __init__(self, batches: Iterable[Any], most_bytes: int) -> None:
        self.source, self.half = batches, most_bytes / 2
        self.iterator = iter(batches)
        self.once = self.iterator is batches                   # whether it cannot be started again
        self.stable = isinstance(batches, list | tuple | np.ndarray)
        self.kept: deque[tuple[int, Any]] = deque()            # size and copy, while copies are kept
        self.bytes = self.drawn = 0
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.following(keep=self.once)

    def following(self, keep: bool) -> Any:
        """The next batch; ValueError if there is none at all."""
        try:
            batch = next(self.iterator)
        except StopIteration:
            if self.once:
                self.source = [copy for _, copy in self.kept]
                if len(self.source) < self.drawn:
                    self.notes.append(f"the iterator ended after {self.drawn} batches, and the last {len(self.source)} "
                                      f"were used again, as copies of more need over batch_bytes / 2")
                self.once, self.stable = False, True           # (these copies stay as they are)
                self.kept.clear()
            self.iterator = iter(self.source)
            try:
                batch = next(self.iterator)
            except StopIteration:
                raise ValueError("find_lr: batches must not be empty") from None
        self.drawn += 1
        if keep and not self.stable:
            self.keep(batch)
        return batch

    def keep(self, batch: Any) -> None:
        try:
            copy = deepcopy(batch)
        except Exception as error:
            raise TypeError(f"find_lr: a batch of type {type(batch).__name__} cannot be copied "
                            f"({type(error).__name__}: {error}), which is needed to use it again; pass a list of "
                            f"batches") from error
        size = size_of(copy)
        self.kept.append((size, copy))
        self.bytes += size
        while self.bytes > self.half and len(self.kept) > 1:
            self.bytes -= self.kept.popleft()[0]

    def take(self, count: int, shares: int = 1) -> list[Any]:
        """The next `count` batches, to be used again; fewer, but one at least, where they need too much memory.

        `shares`: how many such lists have to share the memory.
        """
        taken: list[Any] = []
        needed = 0
        while len(taken) < count:
            batch = self.following(keep=True)
            if not self.stable:
                size, batch = self.kept[-1]
                if taken and needed + size > self.half / shares:
                    self.notes.append(f"trials repeat {len(taken)} batches, not {count}, as copies of more need over "
                                      f"batch_bytes / 2")
                    break
                needed += size
            taken.append(batch)
        if not self.once:
            self.kept.clear()                                  # (the list holds them now)
            self.bytes = 0
        return taken


def repeated(batches: list[Any], count: int) -> Iterator[Any]:
    """So many batches, from the first again after the last."""
    return itertools.islice(itertools.cycle(batches), count)


def size_of(batch: Any) -> int:
    """The bytes of the arrays in a batch, and about those of anything else."""
    if isinstance(batch, Mapping):
        return sum(map(size_of, batch.values()))
    if isinstance(batch, list | tuple):
        return sum(map(size_of, batch))
    size = getattr(batch, "nbytes", None)
    return size if isinstance(size, int) else sys.getsizeof(batch)
