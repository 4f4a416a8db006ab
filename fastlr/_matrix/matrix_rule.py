"""A compiled matrix rule, as Python sees it."""
from __future__ import annotations

from functools import cache
from typing import Any

from .._engine.instruction_set import load, one_build

#: Shapes of slots, by their number in `MatrixSlot` of rule_table.pxd.
SLOT_KINDS = ("element", "row", "column", "row", "axis")
#: Those that are kept in float64 whatever the rule's precision.
DOUBLE_KINDS = (False, True, True, False, True)


class MatrixRule:
    """The table of a rule, and the names that it gives to what it reads and keeps."""

    __slots__ = ("name", "settings", "slots", "table")

    def __init__(self, name: str, table: Any, settings: tuple[str, ...], slots: dict[str, int]) -> None:
        self.name = name
        self.table = table             # a capsule
        self.settings = settings
        self.slots = slots             # name -> its `MatrixSlot`

    def shapes(self, shape: tuple[int, ...], lead: tuple[int, ...], rows: int,
               cols: int) -> dict[str, tuple[tuple[int, ...], bool]]:
        """Slot -> shape, and whether it is kept in double: of a tensor of `shape`, seen as matrices."""
        found: dict[str, tuple[tuple[int, ...], bool]] = {}
        for name, kind in self.slots.items():
            double = DOUBLE_KINDS[kind]
            if SLOT_KINDS[kind] == "axis":
                found |= {f"{name}{axis}": ((n,), double) for axis, n in enumerate(shape or (1,))}
            else:
                own = {"element": shape, "row": (*lead, rows), "column": (*lead, cols)}
                found[name] = own[SLOT_KINDS[kind]], double
        return found


@cache
def matrix_rule(name: str) -> MatrixRule:
    """A rule by "module:rule"; its module is loaded when it is first used."""
    path, _, rule = name.partition(":")
    module = load(path)
    one_build(path, module.build_id)
    return MatrixRule(name, *module.rules[rule])
