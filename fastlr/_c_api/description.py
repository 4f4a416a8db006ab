"""What a C program says of a plan before it is built, and the optimizer that is made of it."""
from __future__ import annotations

from typing import Any

from .._engine.arrays import overlaps_itself
from .._engine.tensors import Array
from ..optimizers.base import REGISTRY, Optimizer
from ..optimizers.curvature import decays
from ..optimizers.declaration import nearest
from ..optimizers.matrix import Matrix
from ..optimizers.stages import STAGES

#: What tensors are added by, not options.
NOT_OPTIONS = ("params", "grads", "dtype")


class Description:
    """The options and tensors of a plan, and the optimizer once it is built."""

    optimizer: Optimizer | None

    def __init__(self, name: str) -> None:
        cls: Any = REGISTRY.get(name.lower())
        if cls is None:
            raise ValueError(f"plan_new: no optimizer {name!r}{nearest(name.lower(), REGISTRY)}")
        self.cls: type[Optimizer] = cls
        self.optimizer = None
        self.options: dict[str, Any] = {}
        self.group_options: dict[int, dict[str, Any]] = {}
        self.tensors: list[tuple[str, Array, int]] = []
        self.names: set[str] = set()
        self.placed = 0                # how many of the tensors the optimizer has

    def option(self, group: int, name: str, value: Any) -> None:
        """Keep an option for the constructor, or set it on the optimizer."""
        owner = self.cls.__name__
        if name in NOT_OPTIONS:
            raise ValueError(f"{owner}: {name} is no option of a plan; add tensors by plan_add")
        if name == "catch_up_rows":
            raise ValueError(f"{owner}: catch_up_rows is for Python; give plan_step_rows gradients of zeros for rows "
                             f"that are to have an update, or step the whole table")
        if self.optimizer is not None and group < len(self.optimizer.groups):
            set_option(self.optimizer, group, name, value)
        elif group < 0:
            self.options[name] = value
        else:
            self.group_options.setdefault(group, {})[name] = value

    def add(self, name: str | None, array: Array, group: int) -> None:
        """Keep one more tensor."""
        name = str(len(self.tensors)) if name is None else name
        label = f"{self.cls.__name__}: params[{name!r}]"
        if name in self.names:
            raise ValueError(f"{label}: another tensor has this name")
        if array.size and overlaps_itself(array):
            raise ValueError(f"{label}: elements overlap in memory (shape {array.shape}, strides {array.strides})")
        present = 0 if self.optimizer is None else len(self.optimizer.groups)
        if group < present:
            raise ValueError(f"{label}: group {group} is built; a tensor that is added later is of a new group, "
                             f"{present} or more")
        self.tensors.append((name, array, group))
        self.names.add(name)

    def build(self) -> Optimizer:
        """The optimizer of all tensors."""
        before = 0 if self.optimizer is None else len(self.optimizer.groups)
        groups: dict[int, dict[str, Array]] = {}
        for name, array, group in self.tensors[self.placed:]:
            groups.setdefault(group, {})[name] = array
        numbers = range(before, before + len(groups))
        absent = [number for number in numbers if number not in groups]
        absent += [number for number in self.group_options if number >= numbers.stop]
        if absent:
            raise ValueError(f"{self.cls.__name__}: group {min(absent)} has no tensor; number groups 0, 1, ... without "
                             f"gaps")
        if self.optimizer is None:
            if not groups:
                raise ValueError(f"{self.cls.__name__}: no tensors; call plan_add")
            alone = len(groups) == 1 and not self.group_options
            params: Any = groups[0] if alone else [
                {"params": groups[number], **self.group_options.get(number, {})} for number in numbers]
            self.optimizer = self.cls(params, **self.options)
            self.placed = len(self.tensors)
        else:
            self.add_groups(self.optimizer, {number: groups[number] for number in numbers})
        self.group_options = {}
        return self.optimizer

    def add_groups(self, optimizer: Optimizer, groups: dict[int, dict[str, Array]]) -> None:
        """Add these groups, or none of them."""
        added = []
        try:
            for number, arrays in groups.items():
                added.append(optimizer.add_group(arrays, **self.group_options.get(number, {})))
        except BaseException:
            for group in reversed(added):
                optimizer.drop_group(group)
            raise
        self.placed = len(self.tensors)


def set_option(optimizer: Optimizer, group: int, name: str, value: Any) -> None:
    """Set what can be set on an optimizer, or (group >= 0) on one of its groups."""
    if name not in optimizer.hypers and name not in STAGES:
        raise ValueError(f"{type(optimizer).__name__}: {name} cannot be set once the plan is built"
                         f"{nearest(name, (*optimizer.hypers, *STAGES))}")
    setattr(optimizer if group < 0 else optimizer.groups[group], name, value)


def allows_rows(optimizer: Optimizer) -> bool:
    """Whether this optimizer can step rows."""
    return not optimizer.depends_on_param and type(optimizer).step_rows is not Matrix.step_rows


def require_optimizer(optimizer: Any) -> None:
    """TypeError unless this is an optimizer that a plan can step."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"plan_of: expected an optimizer of fastlr, and none that wraps another, got "
                        f"{type(optimizer).__name__}")
    if any(tensor.journal is not None for tensor in optimizer._plan.tensors):
        raise TypeError(f"plan_of: {type(optimizer).__name__} has catch_up_rows, which plans do not have; make it "
                        f"without")


def accumulate_in_order(optimizer: Optimizer, grads: list[Any], grad_scale: float, zero_grads: bool) -> None:
    """Add gradients, in the order of the plan's tensors, to the state."""
    optimizer._accumulate(grads, grad_scale, zero_grads)


def step_with_curvature(optimizer: Optimizer, grads: list[Any], estimates: list[Any], grad_scale: float,
                        zero_grads: bool) -> None:
    """A step with estimates of the curvature, both in the order of the plan's tensors."""
    optimizer._step_with(grads, grad_scale, zero_grads, 0.0, estimates, decays)


def slots_of(optimizer: Optimizer) -> list[dict[str, Array]]:
    """The arrays of each tensor's state by name, and at last the numbers for all tensors together."""
    found = [dict(optimizer.state[tensor.name]) for tensor in optimizer._plan.tensors]
    for slots, tensor in zip(found, optimizer._plan.tensors, strict=True):
        if tensor.shadow is not None:
            slots["shadow"] = tensor.shadow
    together = {name: optimizer._shared[k:k + 1].reshape(()) for k, name in enumerate(optimizer.shared)}
    return [*found, together]
