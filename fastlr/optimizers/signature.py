"""What a rule says of itself, and where its compiled functions are."""
from __future__ import annotations

from typing import Any

from .._engine.instruction_set import load
from ..rules import RuleSignature
from ..rules.signatures import SIGNATURES


def signature_of(rule: str) -> RuleSignature:
    """The signature of the rule of that name."""
    return SIGNATURES[rule]


def table_of(rule: str) -> Any:
    """The capsule of a rule's compiled functions; their module is loaded when it is first needed."""
    return load(SIGNATURES[rule].module).RULES[rule][0]
