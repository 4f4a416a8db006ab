"""fastlr for thinc and spaCy: an optimizer of thinc for every rule that moves one tensor at a time.

`fastlr.thinc.AdamW(0.001)`, or in a configuration of spaCy ``@optimizers = "fastlr.AdamW.v1"``. See docs/spacy.md.
Thinc is imported by this folder alone.
"""
from __future__ import annotations

from typing import Any

try:
    import thinc  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "thinc":
        raise
    raise ImportError("fastlr.thinc needs thinc, which comes with spaCy: pip install spacy") from None

from .classes import class_of, names
from .optimizer import Optimizer as Optimizer


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'fastlr.thinc' has no attribute {name!r}")
    return class_of(name)


def __dir__() -> list[str]:
    return sorted({"Optimizer", *names()})
