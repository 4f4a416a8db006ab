"""Constraints of parameters of torch: by keyword for all, by name, or by a group's entry `constraint` for its own."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import constraints
from .._engine.tensors import listed
from ..constraints import Constraint


def checked(owner: str, what: str, given: Any) -> Constraint | None:
    """One constraint, or none."""
    if given is not None and not isinstance(given, Constraint):
        raise TypeError(f"{owner}: {what}: must be one of fastlr.constraints, got {given!r}")
    return given


def of_group(owner: str, group: Mapping[str, Any]) -> Constraint | None:
    """What a group has for its own parameters."""
    return checked(owner, "constraint of a group", group.get("constraint"))


def by_name(owner: str, given: Any, members: Sequence[tuple[str, torch.Tensor]]) -> list[Constraint | None]:
    """What the keyword has for each parameter: one for all, a mapping, a sequence, or a function (name, parameter)."""
    each: Sequence[Any] = [given] * len(members)
    if isinstance(given, Mapping):
        names = {name for name, _ in members}
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"{owner}: constraint names no parameter: {unknown[0]!r}; "
                             f"{listed([name for name, _ in members])}")
        each = [given.get(name) for name, _ in members]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) != len(members):
            raise ValueError(f"{owner}: constraint: expected {len(members)} entries, one per parameter, got "
                             f"{len(given)}")
        each = given
    elif callable(given):
        each = [given(name, param) for name, param in members]
    return [checked(owner, f"constraint of parameter {name}", one)
            for (name, _), one in zip(members, each, strict=True)]


def constraints_of(owner: str, given: Any, groups: Sequence[Mapping[str, Any]],
                   names: Sequence[Sequence[str]]) -> dict[int, Constraint]:
    """The constraint of each parameter that has one, by the parameter's id."""
    if given is None and not any("constraint" in group for group in groups):
        return {}
    members = [(name, param) for own, group in zip(names, groups, strict=True)
               for name, param in zip(own, group["params"], strict=True)]
    usual = iter(by_name(owner, given, members))
    found = {}
    for own, group in zip(names, groups, strict=True):
        for name, param in zip(own, group["params"], strict=True):
            one = next(usual)
            constraint = of_group(owner, group) if "constraint" in group else one
            if constraint is not None:
                refuse_param(owner, name, param, constraint)
                found[id(param)] = constraint
    return found


def refuse_param(owner: str, name: str, param: torch.Tensor, constraint: Constraint) -> None:
    """ValueError if a parameter is complex, or distributed so that a process has parts of rows."""
    if param.is_complex():
        raise ValueError(f"{owner}: parameter {name} is complex, and {constraint!r} is of real numbers; give it none")
    for placement in getattr(param, "placements", ()):
        whole = placement.is_replicate() or constraint.kind == "box" or (
            constraint.axis == 0 and param.ndim > 1 and placement.is_shard(0))
        if not whole:
            raise ValueError(f"{owner}: parameter {name} is distributed, each process has a part of it, and "
                             f"{constraint!r} needs whole rows; shard its first axis, or use a box")


def as_saved(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group for a state dictionary: its constraint as numbers and words, which torch loads with weights_only."""
    constraint = group.get("constraint")
    if not isinstance(constraint, Constraint):
        return dict(group)
    numbers = {name: getattr(constraint, name) for name in ("kind", "low", "high", "axis")}
    return {**group, "constraint": numbers}


def from_saved(owner: str, saved: Any) -> Constraint | None:
    """The constraint that `as_saved` made these of."""
    if saved is None or isinstance(saved, Constraint):
        return saved
    try:
        kind, low, high, axis = (saved[name] for name in ("kind", "low", "high", "axis"))
        if kind == "box":
            return constraints.box(low, high)
        if kind == "unit_norm":
            return constraints.unit_norm(axis, high)
        if kind == "simplex":
            return constraints.simplex(high, axis)
        if kind == "max_norm":
            return constraints.max_norm(high, axis)
        raise ValueError(f"kind must be box, max_norm, unit_norm or simplex, got {kind!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{owner}: constraint in the loaded state dict: {error}") from None
