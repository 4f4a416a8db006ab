"""Tensors of PyTorch as parameters: a write moves their version, and memory that was replaced is noticed.

PyTorch counts the writes to a tensor, and refuses to differentiate through a value that was written since. It cannot
see a write through a pointer. (It is not imported here: whoever passes a tensor has imported it.)
"""
from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def is_torch_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def mark_written(tensors: list[Any]) -> None:
    """Move the versions of tensors of PyTorch that were, or are about to be, written."""
    if tensors:
        sys.modules["torch"].autograd.graph.increment_version(tensors)


class TorchParameters:
    """The parameters of an optimizer that are tensors of PyTorch, by name."""

    def __init__(self, sources: Iterable[tuple[str, Any]]) -> None:
        self._sources = list(sources)
        self._tensors = [source for _, source in self._sources]
        self._addresses = [source.data_ptr() for source in self._tensors]

    def replaced(self) -> str | None:
        """The name of a tensor whose memory is another than when the optimizer took it, or None."""
        # (a tensor without elements has the address 0)
        if [source.data_ptr() for source in self._tensors] == self._addresses:
            return None
        return next(name for (name, source), address in zip(self._sources, self._addresses, strict=True)
                    if source.data_ptr() != address)

    def replaced_by(self, name: str) -> str:
        """What happened to that tensor, and what to do."""
        return (f"params[{name!r}] was given other memory since this optimizer took it, as by p.data = x; write into "
                f"the memory that it had, p.data.copy_(x)")

    def mark_written(self) -> None:
        """Move the versions of all of them."""
        mark_written(self._tensors)
