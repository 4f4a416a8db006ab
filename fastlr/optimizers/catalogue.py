"""The table of docs/optimizers.md, made from the declarations: `python -m fastlr.optimizers.catalogue`."""
from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .base import REGISTRY
from .registry import by_closure
from .rule_class import RuleClass

HEAD = """# Every optimizer

Made by `python -m fastlr.optimizers.catalogue`; a test holds it to the declarations. State is what an element costs in
float32; what is marked with + is kept once for each tensor, with * once for all. Formulas and the places where peers
differ are in each class's docstring: `help(fastlr.AdamW)`.

| optimizer | source | state | bytes per parameter | weight decay | conventions |
|---|---|---|---|---|---|
"""
CONVENTIONS = """
## Conventions

Where libraries differ, `convention=` has the rule as each of them has it: by another formula, by other defaults, or by
another mode of weight decay. The first of a row above is the class as it is; these are the others.

| optimizer | what differs | defaults | weight decay |
|---|---|---|---|
"""
BY_A_CLOSURE = """
## With a closure

Their step takes a function that computes loss and gradients, `opt.step(closure)`, and calls it as often as it needs;
`fastlr.create_optimizer` knows them, `fastlr.list_optimizers`, of those whose step takes gradients, does not.

| optimizer | source | state |
|---|---|---|
"""
NAME = r"[A-Z][\w'-]+"
AUTHORS = re.compile(rf"({NAME}(?:(?:, {NAME})* & {NAME}| et al\.)? (?:19|20)\d\d)")
ADDRESS = re.compile(r"https?://\S+")


def source(cls: type[Any]) -> str:
    """Who published the rule, and where, as the docstring says."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    address = ADDRESS.search(text)
    authors = AUTHORS.findall(text[:address.start()] if address else text)
    said = authors[-1] if authors else ""
    return f"[{said}](<{address[0].rstrip('.,;:')}>)" if address and said else said


def row(cls: type[RuleClass]) -> str:
    """The line of one optimizer."""
    state = [*cls.slots, *(f"{name}+" for name in cls.memory), *(f"{name}*" for name in cls.shared)]
    each = "see its docstring" if getattr(cls, "kind", "elementwise") == "matrix" else str(4 * len(cls.slots))
    return "| " + " | ".join([f"`{cls.__name__}`", source(cls), ", ".join(state), each, cls.decay_mode,
                              ", ".join(cls.conventions)]) + " |"


def differences(cls: type[RuleClass]) -> Iterator[str]:
    """A line for each convention that is not the class's own."""
    for name in list(cls.conventions)[1:]:
        convention = cls.conventions[name]
        defaults = ", ".join(f"{key} {value:g}" for key, value in convention.defaults.items())
        matrix = getattr(cls, "kind", "elementwise") == "matrix"
        same = not matrix and convention.rule == cls._default_rule
        differs = [what for what, does in (("formula", not same), ("defaults", same and defaults)) if does]
        yield "| " + " | ".join([f'`{cls.__name__}(convention="{name}")`', ", ".join(differs) or "nothing", defaults,
                                 convention.decay or cls.decay_mode]) + " |"


def catalogue() -> str:
    """The whole page."""
    classes = [REGISTRY[name] for name in sorted(REGISTRY)]
    closures = [f"| `{cls.__name__}` | {source(cls)} | see its docstring |" for cls in by_closure().values()]
    return HEAD + "\n".join(map(row, classes)) + "\n" + CONVENTIONS \
        + "\n".join(line for cls in classes for line in differences(cls)) + "\n" + BY_A_CLOSURE \
        + "\n".join(closures) + "\n"


if __name__ == "__main__":
    to = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/optimizers.md")
    to.write_text(catalogue(), encoding="utf-8")
