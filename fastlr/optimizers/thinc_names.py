"""The entry points by which thinc and spaCy find optimizers, made from the declarations, in `pyproject.toml`.

`python -m fastlr.optimizers.thinc_names` writes them in the project's folder; a test holds them to the declarations.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

from .base import REGISTRY
from .rule_class import RuleClass

GROUP = "thinc_optimizers"
SECTION = re.compile(rf"(?<=\n)\[project\.entry-points\.{GROUP}\]\n(?:[^\n]+\n)*")


def moves_alone(cls: type[RuleClass]) -> bool:
    """Whether a rule moves one tensor by its gradient alone: thinc gives an optimizer these and nothing else."""
    return not (cls.needs_loss or cls.needs_curvature or cls.shared)


def entry_points() -> str:
    """The section of `pyproject.toml`."""
    classes = [cls.__name__ for cls in REGISTRY.values() if moves_alone(cls)]
    lines = [f'"fastlr.{name}.v1" = "fastlr.thinc:{name}"\n' for name in sorted(classes)]
    return f"[project.entry-points.{GROUP}]\n" + "".join(lines)


def write(path: Path) -> None:
    """Put the section in the place of the one that is there."""
    text, found = SECTION.subn(entry_points(), path.read_text(encoding="utf-8"))
    if found != 1:
        raise ValueError(f"{path}: expected one section [project.entry-points.{GROUP}], found {found}")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(*sys.argv[1:2] or ["pyproject.toml"]))
