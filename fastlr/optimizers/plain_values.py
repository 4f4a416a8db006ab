"""Hyper-parameters as plain data that can be saved, and back."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._engine.compiled_schedule import CompiledSchedule


def as_plain(value: Any) -> Any:
    """A hyper-parameter as plain data."""
    if is_schedule(value):
        return value.to_dict()
    if not callable(value):
        return value
    described = {"callable": getattr(value, "__qualname__", type(value).__name__)}
    return described | {"state": value.state_dict()} if keeps_state(value) else described


def from_plain(saved: Any, present: Any, name: str, owner: str) -> Any:
    """What `as_plain` made plain; of a function, which is not saved, the one that is there, if its state fits."""
    if not isinstance(saved, Mapping):
        return saved
    if "callable" not in saved:
        from ..schedules import from_dict

        return from_dict(saved)
    if not callable(present) or is_schedule(present) or keeps_state(present) != ("state" in saved):
        raise ValueError(f"{owner}: {name} was a function ({saved['callable']}), which is not saved; "
                         f"set opt.{name} to it before loading")
    if keeps_state(present):
        from copy import deepcopy

        deepcopy(present).load_state_dict(saved["state"])
    return present


def is_schedule(value: Any) -> bool:
    """Whether this is one of `fastlr.schedules`; that module is not imported to know it."""
    return isinstance(value, CompiledSchedule)


def keeps_state(value: Any) -> bool:
    """Whether this is a callable that remembers something between its calls, as a Plateau does, and can save it."""
    return callable(value) and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
