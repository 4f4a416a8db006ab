"""Where a class's rule is: in fastlr, in a module of another package, or made from function pointers."""
from __future__ import annotations

from typing import Any

from .._engine.instruction_set import load
from ..rules import RuleSignature
from ..rules.signatures import SIGNATURES
from .declaration import nearest


class FoundRule:
    """A rule's name, what its signature says, and its table, or None while that is not loaded."""

    __slots__ = ("float32", "float64", "name", "signature", "table")

    def __init__(self, name: str, signature: RuleSignature, table: Any = None, float32: bool = True,
                 float64: bool = True) -> None:
        self.name, self.signature, self.table = name, signature, table
        self.float32, self.float64 = float32, float64          # whether it moves parameters of that precision

    def loaded(self) -> Any:
        """The capsule of the rule's compiled functions; fastlr's own are loaded when they are first needed."""
        return load(self.signature.module).RULES[self.name][0] if self.table is None else self.table


def find_rule(rule: Any, owner: str, beside: str = "") -> FoundRule:
    """The rule that a class statement names.

    `rule` is the name of a rule of fastlr; a module whose RULES has one of the name `owner`, or ``"module:Name"``; or
    what `fastlr.rule_from_pointers` made. A plain name is first looked up in the module `beside`.
    """
    if hasattr(rule, "table") and hasattr(rule, "signature"):
        return checked(rule.name, rule.signature, rule.table, f"{owner}: rule {rule.name!r}")
    if not isinstance(rule, str):
        raise TypeError(f"{owner}: rule must be the name of a rule, a module of rules, or what rule_from_pointers "
                        f"made, got {rule!r}")
    module, colon, name = rule.partition(":")
    if colon or "." in rule:
        return rule_of_module(module, name if colon else owner, owner)
    if beside and rule in rules_of(beside, owner):
        return rule_of_module(beside, rule, owner)
    if rule not in SIGNATURES:
        raise TypeError(f"{owner}: fastlr has no rule {rule!r}{nearest(rule, SIGNATURES)}; name one of your own by its "
                        f"module, rule='mypkg._rules' or rule='mypkg._rules:{rule}'")
    return FoundRule(rule, SIGNATURES[rule])


def rules_of(module: str, owner: str) -> dict[str, Any]:
    """The RULES of a module."""
    try:
        rules = getattr(load(module), "RULES", None)
    except ImportError as error:
        raise ImportError(f"{owner}: rule={module!r} cannot be imported: {error}") from error
    if not isinstance(rules, dict):
        raise TypeError(f"{owner}: rule={module!r}: the module has no RULES; build it with "
                        f"fastlr.build.rules_extension")
    return rules


def rule_of_module(module: str, name: str, owner: str) -> FoundRule:
    """A rule that another package built."""
    rules, label = rules_of(module, owner), f"{owner}: rule {name!r} of {module}"
    if name not in rules:
        raise TypeError(f"{owner}: rule={module!r}: it has no rule {name!r}{nearest(name, rules)}; name one of "
                        f"{', '.join(map(repr, sorted(rules)))} as rule='{module}:Name'")
    try:
        table, description = rules[name]
        signature = RuleSignature(module=module, **description)
    except (TypeError, ValueError):
        raise ImportError(f"{label}: this fastlr cannot read its description, which another version wrote; build it "
                          f"again with this fastlr") from None
    return checked(name, signature, table, label)


def checked(name: str, signature: RuleSignature, table: Any, label: str) -> FoundRule:
    """A rule from outside; ImportError unless its table is one that this fastlr reads."""
    from .._engine.pointer_rule import check_table

    counts = {what: len(getattr(signature, what)) for what in ("hypers", "slots", "memory", "shared", "sums")}
    return FoundRule(name, signature, table, *check_table(table, counts, label))
