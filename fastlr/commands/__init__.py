"""The commands of `fastlr`, one module each, and functions that they share.

A command module has `LINE` (its description in `fastlr --help`), `declare(parser)`, which adds its arguments, and
`run(arguments)`, which executes it and returns the exit status. Modules that only one command needs are imported when
it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import suppress

BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"       # levels from 0 to 8


class Refusal(Exception):
    """A command that cannot be executed: one line for the user, and the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status


def say(message: object) -> None:
    """Print one line to stderr; it may be closed."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Show what is being done, in a line on a terminal that the next one replaces; an empty text takes it away."""
    if sys.stderr is not None and sys.stderr.isatty():
        with suppress(OSError):
            print(f"\r{text[:78]:78}" + ("" if text else "\r"), end="", file=sys.stderr, flush=True)


def at_least_one(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text!r}")
    return int(text)


def printable(value: object) -> str:
    """The text of a value from an untrusted file, with control characters escaped."""
    text = str(value)
    return text if text.isprintable() else ascii(text)


def block_characters() -> str:
    """Characters of nine levels, from empty to full, that stdout can show."""
    try:
        BLOCKS.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return ASCII_BLOCKS
    return BLOCKS


def print_json(document: object) -> None:
    """Print one JSON document to stdout, in which infinities and NaN are the texts "inf" and "nan"."""
    print(json.dumps(strict(document), indent=2, allow_nan=False, default=str))


def strict(value: object) -> object:
    if isinstance(value, dict):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
