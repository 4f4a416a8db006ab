"""Groups of parameters: their hyper-parameters, and the tensors that are read from what was given."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any
from weakref import ref

from .._engine.plan import Plan
from .._engine.tensors import Tensor, bind
from .declaration import Hyper
from .structure import Container, Path, opened

if TYPE_CHECKING:
    from typing import Protocol

    class GroupOwner(Protocol):
        """The optimizer of a group, as far as the group knows it."""

        _plan: Plan

        def _set_hyper(self, groups: Sequence[Group], name: str, value: Hyper) -> None: ...


class Group:
    """Parameters that share hyper-parameters; each is read and set as an attribute: `opt.groups[0].lr = 1e-4`.

    (It does not keep its optimizer alive: that and its arrays are freed with their last name, without a collection.)
    """

    __slots__ = ("_given_lr_max", "_index", "_lr_max", "_owner", "_values")
    _owner: Callable[[], GroupOwner | None]
    _index: int
    _values: dict[str, Hyper]
    _given_lr_max: float | None
    _lr_max: float | None              # the largest learning rate, if decay is corrected by it

    def __init__(self, optimizer: GroupOwner, index: int, values: dict[str, Hyper], lr_max: float | None) -> None:
        for name, value in (("_owner", ref(optimizer)), ("_index", index), ("_values", values),
                            ("_given_lr_max", lr_max), ("_lr_max", None)):
            object.__setattr__(self, name, value)

    @property
    def _optimizer(self) -> GroupOwner:
        optimizer = self._owner()
        if optimizer is None:
            raise ReferenceError("this group's optimizer is gone; keep the optimizer as long as its groups")
        return optimizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):       # (of a group that is not made yet)
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        raise AttributeError(f"{type(self._optimizer).__name__}: a group has no {name!r}")

    def __setattr__(self, name: str, value: Hyper) -> None:
        self._optimizer._set_hyper([self], name, value)

    def __dir__(self) -> list[str]:
        return sorted([*self._values, "current", "params"])

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self._optimizer).__name__}: a group cannot be copied or pickled, as it is part of its "
                        f"optimizer; read its hyper-parameters, or save state_dict()")

    @property
    def params(self) -> list[str]:
        """The names of the group's parameters."""
        index = self._index
        return [tensor.name for tensor in self._optimizer._plan.tensors if tensor.group == index]

    @property
    def current(self) -> dict[str, float]:
        """The numbers that the next step will use: every hyper-parameter, a schedule's value at `t`."""
        t = self._optimizer._plan.t
        return {name: float(value(t) if callable(value) else value) for name, value in self._values.items()}

    def _lr_max_with(self, lr: Hyper) -> float:
        """The largest learning rate, once this is the rate."""
        owner = f"{type(self._optimizer).__name__}: decay='corrected'"
        if self._given_lr_max is None:
            if not callable(lr):
                return max(lr, self._lr_max or 0.0)
            from ..schedules.plateau import highest  # (imported where a schedule decays so, as few do)

            return highest(lr, owner)
        if not callable(lr) and lr > self._given_lr_max:
            raise ValueError(f"{owner}: lr must be at most lr_max = {self._given_lr_max:g}, got {lr:g}")
        return self._given_lr_max

    def _keep_lr_max(self, lr_max: float | None) -> None:
        """Take on a largest learning rate, here and in the plan."""
        self._optimizer._plan.set_peak(self._index, lr_max or 0.0)
        object.__setattr__(self, "_lr_max", lr_max)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        what = "its optimizer is gone" if self._owner() is None else f"{len(self.params)} params"
        return f"Group({what}, {values})"


def checked_lr_max(lr_max: Any, owner: str) -> float | None:
    """The largest learning rate that was given, or None."""
    if lr_max is None:
        return None
    if isinstance(lr_max, bool | str) or not (isinstance(lr_max, Real) or hasattr(lr_max, "__float__")):
        raise TypeError(f"{owner}: lr_max must be a number, got {lr_max!r}")
    if not 0 < float(lr_max) < inf:
        raise ValueError(f"{owner}: lr_max must be positive and finite, got {lr_max}")
    return float(lr_max)


def are_groups(params: Any) -> bool:
    """Whether these are parameter groups: mappings with the key "params", and not one mapping of arrays."""
    return isinstance(params, Sequence) and len(params) > 0 and all(
        isinstance(x, Mapping) and "params" in x for x in params)


def bound(params: Any, owner: str, index: int = 0, prefix: str = "grads", before: Iterable[Tensor] = (),
          dtype: str | None = None, permuted: bool = False) -> tuple[Container | None, list[Tensor], list[Container]]:
    """The structure of one group of parameters, its tensors, and the containers whose entries may be replaced."""
    taken = {tensor.name for tensor in before}
    first = len(taken)
    if str(first) in taken or any(name.isdecimal() and int(name) >= first for name in taken):  # (a group was dropped)
        first = max(int(name) for name in taken if name.isdecimal()) + 1
    container, arrays, watched = opened(params, owner)
    counted = container is None or container.kind == "sequence"
    tensors = []
    for path, x in arrays:
        name = name_of(path, first if counted else 0)
        if name in taken:
            raise ValueError(f"{owner}: two parameters are named {name!r}")
        taken.add(name)
        tensors.append(bind(name, x, group=index, owner=owner, prefix=prefix, path=path, dtype=dtype,
                            permuted=permuted))
    return container, tensors, watched


def name_of(path: Path, first: int) -> str:
    """The name of the array to which these keys lead; the outermost of a sequence is counted from `first`."""
    if len(path) == 1:
        key = path[0]
        return key if type(key) is str else str(key + first if first else key)
    if not path:
        return str(first)
    return "/".join(map(str, (path[0] + first if first else path[0], *path[1:])))
