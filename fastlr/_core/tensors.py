"""The tensors of an optimizer: parameters as arrays over the caller's memory, with their state and exceptions."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import as_array, overlaps_itself

Array = np.ndarray[Any, np.dtype[Any]]


class Tensor:
    """One parameter: where it lies, how it is walked, and what differs for it alone."""

    __slots__ = ("array", "axes", "decays", "factor", "group", "label", "name", "scale", "state")

    def __init__(self, name: str, array: Array, group: int, label: str, axes: tuple[int, ...]) -> None:
        self.name, self.array, self.group, self.label, self.axes = name, array, group, label, axes
        self.factor, self.decays = 1.0, True
        self.scale: Array | None = None
        self.state: list[Array] = []

    def alike(self, fill: float = 0.0) -> Array:
        """A new array like the parameter, laid out in memory in the order in which it is walked."""
        laid = np.zeros([self.array.shape[axis] for axis in self.axes], self.array.dtype)
        if fill:
            laid[...] = fill
        return laid.transpose(np.argsort(self.axes)) if self.axes else laid

    def walked(self, values: Array) -> Array:
        """A copy of `values`, of the parameter's shape and dtype, in the order in which it is walked."""
        copy = self.alike()
        copy[...] = values
        return copy


def named(params: Any, first: int) -> tuple[list[tuple[str, Any]], str]:
    """Names and arrays of one group, and how its gradients will come: "one", "sequence" or "mapping"."""
    if isinstance(params, Mapping):
        return [(str(name), array) for name, array in params.items()], "mapping"
    if is_array(params):
        return [(str(first), params)], "one"
    if isinstance(params, Iterable) and not isinstance(params, str):
        return [(str(first + k), array) for k, array in enumerate(params)], "sequence"
    raise TypeError(f"params: expected an array, a sequence or a mapping of arrays, or groups, "
                    f"got {type(params).__name__}")


def is_array(x: Any) -> bool:
    """Whether x is one tensor rather than several."""
    return isinstance(x, np.ndarray | memoryview | bytearray | bytes) or (
        hasattr(x, "__dlpack__") or hasattr(x, "typecode")
    )


def bind(name: str, x: Any, group: int, who: str, label: str) -> Tensor:
    """A parameter over the caller's memory, refused unless it can be updated in place."""
    spoken = f"{who}: params[{name!r}]" if not name.isdecimal() else f"{who}: params[{name}]"
    array = as_array(x, spoken)
    if array.dtype not in (np.float32, np.float64):
        cure = "; cast its memoryview, e.g. memoryview(buffer).cast('f')" if isinstance(x, bytearray) else ""
        raise TypeError(f"{spoken}: expected float32 or float64, got {array.dtype}{cure}")
    if not array.flags.writeable:
        raise ValueError(f"{spoken}: must be writable, got a read-only array")
    if array.size and overlaps_itself(array):
        raise ValueError(f"{spoken}: elements overlap in memory (shape {array.shape}, strides {array.strides}); "
                         f"pass a copy")
    axes = tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
    if array.flags.c_contiguous:
        axes = tuple(range(array.ndim))
    return Tensor(name, array, group, label, axes)


def refuse_shared(tensors: Sequence[Tensor], who: str) -> None:
    """No two parameters may share memory: an element would move twice."""
    spans = sorted(((*np.lib.array_utils.byte_bounds(t.array), k) for k, t in enumerate(tensors) if t.array.size))
    open_spans: list[tuple[int, int]] = []
    for low, high, k in spans:
        open_spans = [(end, other) for end, other in open_spans if end > low]
        for _, other in open_spans:
            if np.shares_memory(tensors[other].array, tensors[k].array):
                raise ValueError(f"{who}: parameters {tensors[other].name!r} and {tensors[k].name!r} share memory; "
                                 f"pass each once")
        open_spans.append((high, k))


def per_tensor(value: Any, tensors: Sequence[Tensor], who: str, what: str) -> list[Any]:
    """One entry of `value` per tensor: a mapping by name, a sequence, a callable (name, array), or one for all."""
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in {t.name for t in tensors}]
        if unknown:
            raise ValueError(f"{who}: {what} names no parameter: {unknown[0]!r}")
        return [value.get(t.name) for t in tensors]
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return [value(t.name, t.array) for t in tensors]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != len(tensors):
            raise ValueError(f"{who}: {what}: expected {len(tensors)} entries, one per parameter, got {len(value)}")
        return list(value)
    return [value] * len(tensors)


def set_scale(tensor: Tensor, value: Any, who: str) -> None:
    """A learning-rate factor: a number, or an array of the parameter's shape."""
    if value is None:
        return
    factors = np.asarray(value, dtype=np.float64)
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise ValueError(f"{who}: lr_scale of {tensor.name!r} must be finite and >= 0")
    if factors.ndim == 0:
        tensor.factor = float(factors)
    elif factors.shape == tensor.array.shape:
        tensor.scale = tensor.walked(factors)
    else:
        raise ValueError(f"{who}: lr_scale of {tensor.name!r}: expected a number or shape {tensor.array.shape}, "
                         f"got shape {factors.shape}")
