"""The command line: `fastlr study`, `find`, `plot`, `bench`, `info` and `inspect`.

Exit status: 0 done; 1 something that the command needs is not installed, or its output could not be written; 2 a
wrong argument, told in one line on stderr; 130 interrupted; 141 whoever read the output went away, as `| head` does:
not a word is said of it, and files that a command writes are written. With `--json`, stdout holds one JSON document
and nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import fastlr

from .commands import Refusal, bench, find, info, inspect, plot, say, study

COMMANDS = {"study": study, "find": find, "plot": plot, "bench": bench, "info": info, "inspect": inspect}


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{self.prog}: {message}", 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. `argv` is `sys.argv[1:]` if not given."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (for as long as the process lives)
    try:
        status = carried_out(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        silence()
        return 141
    except OSError as error:
        if error.filename is not None:  # not of the output: a file that no command has caught
            raise
        silence()
        say(f"fastlr: the output cannot be written: {error.strerror or error}")
        return 1


def carried_out(argv: Sequence[str] | None) -> int:
    try:
        arguments = build_parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except Refusal as refusal:
        say(refusal)
        return refusal.status
    except KeyboardInterrupt:
        return 130
    except SystemExit as done:  # how argparse ends --help and --version
        return int(done.code or 0)


def silence() -> None:
    """Let what is still in the buffer of stdout go nowhere, or Python complains of it when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="fastlr",
        description="Learning rates: optimizers, schedules and experiments.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastlr {fastlr.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        options = commands.add_parser(name, help=command.LINE, description=command.LINE, allow_abbrev=False)
        options.add_argument("--json", action="store_true", help="write one JSON document to stdout")
        command.declare(options)
        options.set_defaults(run=command.run)
    return parser
