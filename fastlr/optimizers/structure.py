"""How parameters are nested: what they are named, and how gradients of the same structure are put in their order.

A structure is an array (a leaf) or a container: a mapping, a sequence, a named tuple or a dataclass, whose entries are
structures again. Names of nested parameters are joined by "/".
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any, Literal

import numpy as np

from .._engine.tensors import is_array
from .declaration import nearest

Path = tuple[Any, ...]


class Container:
    """A container of parameters: of what kind, with which keys, and what it holds (None stands for an array)."""

    __slots__ = ("children", "comparable", "count", "flat", "keys", "kind", "present", "source")

    def __init__(self, kind: Literal["mapping", "sequence", "attributes"], source: Any, keys: list[Any]) -> None:
        self.kind, self.source, self.keys = kind, source, keys
        self.children: list[Container | None] = []
        self.present: list[Any] = []       # the entries as they were when the optimizer took them
        self.comparable = False            # whether `==` of lists of the entries is true for the same objects alone
        self.count = 0                     # arrays in it, at any depth
        self.flat = True                   # whether all entries are arrays

    # Parameters

    def entries(self) -> list[Any]:
        """The entries as they are now; one that has gone is None."""
        if self.kind == "attributes":
            return [getattr(self.source, key, None) for key in self.keys]
        if self.kind == "mapping":
            return [self.source.get(key) for key in self.keys]
        size = len(self.source)
        return [self.source[key] if key < size else None for key in self.keys]

    def replaced(self) -> Any:
        """An entry that was replaced by another since the optimizer took it: its key, or None."""
        # (3 us for 500 arrays: lists compare the addresses of their entries first)
        now = list(self.source.values()) if self.kind == "mapping" else self.entries()
        try:
            if now == self.present if self.comparable else \
                    len(now) == len(self.present) and all(map(is_, now, self.present)):
                return None
        except ValueError:                 # (two arrays were compared)
            pass
        now = self.entries()
        for key, was, entry in zip(self.keys, self.present, now, strict=True):
            if entry is not was and entry is not None and not any(was is other for other in now):
                return key
        return None

    def replaced_by(self, key: Any) -> str:
        """What happened to that entry, and what to do."""
        return (f"params[{key!r}] was replaced by another array since this optimizer took it; write into it, "
                f"params[{key!r}][...] = x")

    # Gradients

    def arranged(self, grads: Any, owner: str, label: str) -> list[Any]:
        """Gradients of this structure in the order of its arrays; a container of None skips all that it holds."""
        # (the usual types come first: they cost 0.1 us)
        if self.kind == "sequence":
            entries = self._of_sequence(grads, owner, label)
        elif self.kind == "mapping" or isinstance(grads, Mapping):
            entries = self._of_mapping(grads, owner, label)
        else:
            entries = self._of_attributes(grads, owner, label)
        if self.flat:
            return entries
        flat: list[Any] = []
        for key, child, entry in zip(self.keys, self.children, entries, strict=True):
            if child is None:
                flat.append(entry)
            elif entry is None:
                flat += [None] * child.count
            else:
                flat += child.arranged(entry, owner, f"{label}[{key!r}]")
        return flat

    def _of_sequence(self, grads: Any, owner: str, label: str) -> list[Any]:
        if type(grads) is not list:
            if isinstance(grads, Mapping) or not isinstance(grads, Iterable):
                raise TypeError(f"{owner}: {label}: expected a sequence with one gradient per parameter, "
                                f"got {type(grads).__name__}")
            grads = list(grads)
        if len(grads) != len(self.keys):
            raise ValueError(f"{owner}: {label}: expected {len(self.keys)} gradients, one per parameter (None skips "
                             f"one), got {len(grads)}")
        entries: list[Any] = grads
        return entries

    def _of_mapping(self, grads: Any, owner: str, label: str) -> list[Any]:
        if type(grads) is not dict and not isinstance(grads, Mapping):
            raise TypeError(f"{owner}: {label}: expected a mapping by parameter name, got {type(grads).__name__}")
        if type(grads) is dict and list(grads) == self.keys:       # (12 us less for 500 keys than to look each up)
            return list(grads.values())
        try:
            entries = [grads[key] for key in self.keys]
        except KeyError:
            entries = []
        if len(entries) != len(grads):
            same_names(self.keys, grads, f"{owner}: {label}")
        return entries

    def _of_attributes(self, grads: Any, owner: str, label: str) -> list[Any]:
        absent = [key for key in self.keys if not hasattr(grads, key)]
        if absent:
            raise TypeError(f"{owner}: {label}: expected a {type(self.source).__name__} or a mapping with its fields, "
                            f"got {type(grads).__name__}, which has no {absent[0]!r}")
        return [getattr(grads, key) for key in self.keys]

    def arranged_back(self, gradients: Iterator[Any]) -> Any:
        """Gradients in the order of the arrays, as `arranged` takes them: in mappings by key, and in lists."""
        entries = [next(gradients) if child is None else child.arranged_back(gradients) for child in self.children]
        return entries if self.kind == "sequence" else dict(zip(self.keys, entries, strict=True))


def opened(params: Any, owner: str) -> tuple[Container | None, list[tuple[Path, Any]], list[Container]]:
    """The structure of some parameters, their arrays with the keys that lead to each, and the containers to watch.

    Those are mappings and dataclasses, where models keep their arrays; a list only passes them.
    """
    if is_array(params):
        return None, [((), params)], []
    container = read_container(params)
    if container is None:
        if not isinstance(params, Iterable) or isinstance(params, str):
            raise TypeError(f"{owner}: params: expected an array, a sequence or a mapping of arrays, or groups, "
                            f"got {type(params).__name__}")
        container = sequence(tuple(params))
    arrays: list[tuple[Path, Any]] = []
    watched: list[Container] = []
    fill(container, (), arrays, watched, set())
    return container, arrays, watched


def fill(container: Container, path: Path, arrays: list[tuple[Path, Any]], watched: list[Container],
         inside: set[int]) -> None:
    """Read a container's entries, and what they hold."""
    if id(container.source) in inside:
        raise ValueError(f"params: {'/'.join(map(str, path))} holds itself")
    inside.add(id(container.source))
    container.present = container.entries()
    if container.kind != "sequence" and not isinstance(container.source, tuple):
        watched.append(container)
        container.comparable = all(type(entry) is np.ndarray and entry.size != 1 for entry in container.present)
    for key, entry in zip(container.keys, container.present, strict=True):
        child = None if type(entry) is np.ndarray or is_array(entry) else read_container(entry)
        if child is None:
            arrays.append(((*path, key), entry))       # (what is no array is refused where its memory is read)
            container.count += 1
        else:
            fill(child, (*path, key), arrays, watched, inside)
            container.count += child.count
            container.flat = False
        container.children.append(child)
    inside.remove(id(container.source))


def read_container(x: Any) -> Container | None:
    """A container of what x holds, or None if x is none."""
    if type(x) is list or type(x) is tuple:
        return sequence(x)
    if isinstance(x, Mapping):
        return Container("mapping", x, list(x))
    if hasattr(type(x), "__dataclass_fields__"):
        from dataclasses import fields

        return Container("attributes", x, [field.name for field in fields(x)])
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return Container("attributes", x, list(x._fields))
    return sequence(x) if isinstance(x, Sequence) and not isinstance(x, str) else None


def sequence(x: Sequence[Any]) -> Container:
    """A container of a sequence."""
    return Container("sequence", x, list(range(len(x))))


class Structure:
    """How all parameters were given: one structure, or one for each group."""

    __slots__ = ("grouped", "parts", "watched")

    def __init__(self, grouped: bool, parts: tuple[Container | None, ...] = (),
                 watched: tuple[Container, ...] = ()) -> None:
        self.grouped, self.parts = grouped, parts
        self.watched = watched             # containers whose entries may be replaced

    @property
    def nested(self) -> bool:
        """Whether gradients need arranging: they are no list in the order of the tensors."""
        part = self.parts[0]
        return self.grouped or part is None or part.kind != "sequence" or not part.flat

    def prefix(self, index: int) -> str:
        """What errors call the gradients of a group."""
        return f"grads[{index}]" if self.grouped else "grads"

    def arranged(self, grads: Any, owner: str, label: str = "grads") -> list[Any]:
        """Gradients in the order of the tensors."""
        if not self.grouped:
            return arranged(self.parts[0], grads, owner, label)
        if not isinstance(grads, Sequence) or len(grads) != len(self.parts):
            raise ValueError(f"{owner}: {label}: expected a sequence with one entry for each of the "
                             f"{len(self.parts)} groups")
        flat: list[Any] = []
        for index, (part, given) in enumerate(zip(self.parts, grads, strict=True)):
            if (part is None or part.kind != "mapping") and isinstance(given, Mapping) and "params" in given:
                given = given["params"]
            flat += arranged(part, given, owner, f"{label}[{index}]")
        return flat

    def refuse_frozen(self, ordered: list[Any], owner: str, label: str = "grads") -> None:
        """ValueError where a frozen parameter has a gradient."""

    def arranged_back(self, gradients: list[Any]) -> Any:
        """A list in the order of the tensors, in the structure in which gradients come."""
        rest = iter(gradients)
        parts = [next(rest) if part is None else part.arranged_back(rest) for part in self.parts]
        return parts if self.grouped else parts[0]


def arranged(part: Container | None, grads: Any, owner: str, label: str) -> list[Any]:
    """The gradients of one structure in the order of its arrays."""
    return [grads] if part is None else part.arranged(grads, owner, label)


def same_names(expected: Any, given: Any, label: str) -> None:
    """ValueError unless both have the same names."""
    if type(given) is dict and isinstance(expected, dict) and given.keys() == expected.keys():
        return                         # (the usual case)
    if not isinstance(given, Mapping):
        raise ValueError(f"{label}: expected a mapping, got {type(given).__name__}")
    if expected and len(given) == len(expected) and all(name in given for name in expected):
        return
    absent = [name for name in expected if name not in given]
    if absent:
        raise ValueError(f"{label}: no entry {absent[0]!r}" + "; None leaves a parameter out" * (": grads" in label))
    extra = [name for name in given if name not in expected]
    if extra:
        raise ValueError(f"{label}: unknown entry {extra[0]!r}{nearest(str(extra[0]), map(str, expected))}")


class FrozenStructure(Structure):
    """A structure some of whose parameters must have no gradient."""

    __slots__ = ("labels",)

    def __init__(self, structure: Structure, labels: dict[int, str]) -> None:
        super().__init__(structure.grouped, structure.parts, structure.watched)
        self.labels = labels               # of the frozen tensors, by their index: the name

    @property
    def nested(self) -> bool:
        """Every list of gradients is looked at."""
        return True

    def arranged(self, grads: Any, owner: str, label: str = "grads") -> list[Any]:
        """Gradients in the order of the tensors; ValueError where a frozen parameter has one."""
        ordered = super().arranged(grads, owner, label)
        self.refuse_frozen(ordered, owner, label)
        return ordered

    def refuse_frozen(self, ordered: list[Any], owner: str, label: str = "grads") -> None:
        for k, name in self.labels.items():
            if ordered[k] is not None:
                raise ValueError(f"{owner}: {label}: the parameter {name!r} is frozen, and takes no gradient; pass "
                                 f"None for it, or call unfreeze({name!r})")
