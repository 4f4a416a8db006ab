"""The commands of `fastlr`, one a module, and what they share.

A command module has `LINE` (what `fastlr --help` says of it), `declare(parser)` (its arguments) and
`run(arguments)`, which does it and returns the exit status. It imports what it needs when it runs, so that
no command waits for what another one needs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import suppress


class Refusal(Exception):
    """A command that cannot be carried out: one line for the user, and the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status


def say(message: object) -> None:
    """One line on stderr, if anybody is there to read it."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def at_least_one(text: str) -> int:
    """An integer from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text!r}")
    return int(text)


def printable(value: object) -> str:
    """The text of a value from a file that nobody vouches for, with control characters escaped."""
    text = str(value)
    return text if text.isprintable() else ascii(text)


def print_json(document: object) -> None:
    """One JSON document on stdout that every reader takes: an infinity or NaN is the text "inf" or "nan"."""
    print(json.dumps(strict(document), indent=2, allow_nan=False, default=str))


def strict(value: object) -> object:
    if isinstance(value, dict):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
