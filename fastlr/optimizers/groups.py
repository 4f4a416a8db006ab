"""Groups of parameters: their values, their members, and the structure in which their gradients come."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any

from .._engine.tensors import Tensor, bind, named
from .declaration import Hyper, nearest

if TYPE_CHECKING:
    from .base import Optimizer


class Group:
    """Parameters that share hyper-parameters; each is read and set as an attribute: `opt.groups[0].lr = 1e-4`."""

    __slots__ = ("_index", "_most", "_optimizer", "_peak", "_values")
    _optimizer: Optimizer
    _index: int
    _values: dict[str, Hyper]
    _most: float | None                # lr_max, if given
    _peak: float | None                # the largest learning rate, if decay is corrected by it

    def __init__(self, optimizer: Optimizer, index: int, values: dict[str, Hyper], most: float | None) -> None:
        for name, value in (("_optimizer", optimizer), ("_index", index), ("_values", values), ("_most", most),
                            ("_peak", None)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"{type(self._optimizer).__name__}: a group has no {name!r}") from None

    def __setattr__(self, name: str, value: Hyper) -> None:
        self._optimizer._assign(self, name, value)

    def __dir__(self) -> list[str]:
        return sorted(self._values)

    @property
    def params(self) -> list[str]:
        """The names of the group's parameters."""
        return [tensor.name for tensor in self._optimizer._plan.tensors if tensor.group == self._index]

    def _peak_at(self, lr: Hyper) -> float:
        """The largest learning rate, once this is the rate."""
        who = f"{type(self._optimizer).__name__}: decay='corrected'"
        if self._most is None:
            from ..schedules.plateau import highest
            return highest(lr, who) if callable(lr) else max(lr, self._peak or 0.0)
        if not callable(lr) and lr > self._most:
            raise ValueError(f"{who}: lr must be at most lr_max = {self._most:g}, got {lr:g}")
        return self._most

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"Group({len(self.params)} params, {values})"


def most_of(lr_max: Any, who: str) -> float | None:
    """The largest learning rate that was given, or None."""
    if lr_max is None:
        return None
    if isinstance(lr_max, bool | str) or not (isinstance(lr_max, Real) or hasattr(lr_max, "__float__")):
        raise TypeError(f"{who}: lr_max must be a number, got {lr_max!r}")
    if not 0 < float(lr_max) < inf:
        raise ValueError(f"{who}: lr_max must be positive and finite, got {lr_max}")
    return float(lr_max)


def are_groups(params: Any) -> bool:
    """Whether these are parameter groups: mappings with the key "params", and not one mapping of arrays."""
    return isinstance(params, Sequence) and len(params) > 0 and all(
        isinstance(x, Mapping) and "params" in x for x in params)


def bound(params: Any, who: str, index: int = 0, prefix: str = "grads", before: Iterable[Tensor] = (),
          dtype: str | None = None, permuted: bool = False) -> tuple[str, list[Tensor]]:
    """How the gradients of one group of parameters will come, "one", "sequence" or "mapping", and its tensors."""
    taken = {tensor.name for tensor in before}
    members, kind = named(params, len(taken))
    tensors = []
    for k, (name, x) in enumerate(members):
        if name in taken:
            raise ValueError(f"{who}: two parameters are named {name!r}")
        taken.add(name)
        tensors.append(bind(name, x, index, who, label(kind, prefix, k, name), dtype, permuted))
    return kind, tensors


def label(kind: str, prefix: str, k: int, name: str) -> str:
    """What errors call the gradient of the k-th parameter of a group."""
    return prefix if kind == "one" else f"{prefix}[{name!r}]" if kind == "mapping" else f"{prefix}[{k}]"


class Structure:
    """How parameters were given, which is how gradients come: of each group its kind (see `bound`) and tensors."""

    __slots__ = ("grouped", "parts")

    def __init__(self, grouped: bool, parts: tuple[tuple[str, list[Tensor]], ...] = ()) -> None:
        self.grouped, self.parts = grouped, parts

    @property
    def nested(self) -> bool:
        """Whether gradients need arranging: they are no list in the order of the tensors."""
        return self.grouped or self.parts[0][0] != "sequence"

    def prefix(self, index: int) -> str:
        """What errors call the gradients of a group."""
        return f"grads[{index}]" if self.grouped else "grads"

    def relabel(self) -> None:
        """Let tensors know what their gradients are called, after the first group was joined by others."""
        for index, (kind, tensors) in enumerate(self.parts):
            for k, tensor in enumerate(tensors):
                tensor.label = label(kind, self.prefix(index), k, tensor.name)

    def arranged(self, grads: Any, who: str, what: str = "grads") -> list[Any]:
        """Gradients in the order of the tensors."""
        if not self.grouped:
            kind, tensors = self.parts[0]
            return arranged(kind, tensors, grads, who, what)
        if not isinstance(grads, Sequence) or len(grads) != len(self.parts):
            raise ValueError(f"{who}: {what}: expected a sequence with one entry for each of the "
                             f"{len(self.parts)} groups")
        flat: list[Any] = []
        for index, ((kind, tensors), part) in enumerate(zip(self.parts, grads, strict=True)):
            inner = part["params"] if kind != "mapping" and isinstance(part, Mapping) and "params" in part else part
            flat += arranged(kind, tensors, inner, who, f"{what}[{index}]")
        return flat

    def arranged_back(self, gradients: list[Any]) -> Any:
        """A list in the order of the tensors, in the structure in which gradients come."""
        parts: list[Any] = []
        rest = iter(gradients)
        for kind, tensors in self.parts:
            part = {tensor.name: next(rest) for tensor in tensors}
            parts.append(part if kind == "mapping" else [*part.values()] if kind == "sequence" else
                         next(iter(part.values())))
        return parts if self.grouped else parts[0]


def arranged(kind: str, tensors: list[Tensor], grads: Any, who: str, what: str) -> list[Any]:
    """The gradients of one group in the order of its tensors. (The usual types go first: they cost 0.1 us.)"""
    if kind == "one":
        return [grads]
    if kind == "sequence":
        if type(grads) is not list:
            if isinstance(grads, Mapping) or not isinstance(grads, Iterable):
                raise TypeError(f"{who}: {what}: expected a sequence with one gradient per parameter, "
                                f"got {type(grads).__name__}")
            grads = list(grads)
        if len(grads) != len(tensors):
            raise ValueError(f"{who}: {what}: expected {len(tensors)} gradients, one per parameter (None skips one), "
                             f"got {len(grads)}")
        gradients: list[Any] = grads
        return gradients
    if type(grads) is not dict and not isinstance(grads, Mapping):
        raise TypeError(f"{who}: {what}: expected a mapping by parameter name, got {type(grads).__name__}")
    try:
        gradients = [grads[tensor.name] for tensor in tensors]
    except KeyError:
        gradients = []
    if len(gradients) != len(grads):
        same_names([tensor.name for tensor in tensors], grads, f"{who}: {what}")
    return gradients


def same_names(expected: Any, given: Any, what: str) -> None:
    """ValueError unless both have the same names."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}: expected a mapping, got {type(given).__name__}")
    if expected and len(given) == len(expected) and all(name in given for name in expected):
        return
    absent = [name for name in expected if name not in given]
    if absent:
        raise ValueError(f"{what}: no entry {absent[0]!r}")
    extra = [name for name in given if name not in expected]
    if extra:
        raise ValueError(f"{what}: unknown entry {extra[0]!r}{nearest(str(extra[0]), expected)}")
