"""The schedules by name: made by keyword arguments, or from the dict that `to_dict` gives."""
from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from fastlr._engine.compiled_schedule import DEPTH

from .declaration import REQUIRED, unknown

#: The class of each schedule; a class adds itself where it is defined.
REGISTRY: dict[str, Any] = {}


def class_of(name: Any) -> Any:
    """The class of a schedule; ValueError for a name that there is not."""
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(unknown("schedule", name, REGISTRY))
    return REGISTRY[name]


def create_schedule(name: str, **arguments: Any) -> Any:
    """A schedule by its name.

    >>> schedules.create_schedule("cosine", lr=1e-3, steps=1000) == schedules.cosine(1e-3, steps=1000)
    True
    """
    return class_of(name)(**arguments)


def list_schedules(pattern: str = "*") -> list[str]:
    """The names that match a pattern, in order.

    >>> schedules.list_schedules("*linear")
    ['linear', 'log_linear', 'piecewise_linear']
    """
    return sorted(name for name in REGISTRY if fnmatchcase(name, pattern))


def from_dict(d: Mapping[str, Any]) -> Any:
    """The schedule that `to_dict` described; ValueError for an unknown name, or unknown or missing keys.

    >>> schedules.from_dict({"name": "linear", "lr": 0.1, "steps": 100})
    linear(lr=0.1, steps=100, final=0.0, end='hold')
    """
    return _from_dict(d, DEPTH)


def _from_dict(d: Any, depth: int) -> Any:
    if not isinstance(d, Mapping):
        raise ValueError(f"a schedule must be a dict as to_dict() makes it, got {d!r}")
    if depth == 0:
        raise ValueError(f"a schedule can be nested at most {DEPTH} deep")
    if "name" not in d:
        raise ValueError(f"a schedule needs a 'name', got {dict(d)!r}")
    cls = class_of(d["name"])
    fields = cls._fields
    wrong = [unknown("key", k, fields) for k in d if k != "name" and k not in fields]
    wrong += [f"missing key {k!r}" for k, field in fields.items() if field.default is REQUIRED and k not in d]
    if wrong:
        raise ValueError(f"{cls.__name__}: {'; '.join(wrong)}")

    def value(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return tuple(value(y) if isinstance(y, Mapping) else y for y in x)
        return _from_dict(x, depth - 1) if isinstance(x, Mapping) else x

    return cls(**{k: value(x) for k, x in d.items() if k != "name"})
