"""The command line: `fastlr study`, `find`, `diagnose`, `watch`, `plot`, `bench`, `info` and `inspect`.

Exit status: 0 done; 1 a package that the command needs is not installed, or its output could not be written; 2 a
wrong argument, explained in one line on stderr; 130 interrupted; 141 the reader of the output closed it, as `| head`
does: no message is printed then, and files that a command writes are written. With `--json`, stdout gets one JSON
document and nothing else. Characters that stdout or stderr cannot encode are escaped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import fastlr

from .commands import Refusal, bench, diagnose, find, info, inspect, plot, say, study, watch

COMMANDS = {"study": study, "find": find, "diagnose": diagnose, "watch": watch, "plot": plot, "bench": bench,
            "info": info, "inspect": inspect}


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose error message is one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{self.prog}: {message}", 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. `argv` is `sys.argv[1:]` if not given."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (until the process ends)
        elif hasattr(stream, "reconfigure") and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = execute(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        discard_output()
        return 141
    except OSError as error:
        if error.filename is not None:  # not the output, but a file whose error no command has handled
            raise
        discard_output()
        say(f"fastlr: the output cannot be written: {error.strerror or error}")
        return 1


def execute(argv: Sequence[str] | None) -> int:
    """Run the command and return its exit status; a refusal is printed."""
    try:
        arguments = build_parser().parse_args(argv)
        if "run" not in arguments:
            raise Refusal(f"fastlr: give a command: {', '.join(COMMANDS)}; `fastlr --help` says what each does", 2)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except Refusal as refusal:
        say(refusal)
        return refusal.status
    except KeyboardInterrupt:
        return 130
    except SystemExit as done:  # how argparse ends --help and --version
        return int(done.code or 0)


def discard_output() -> None:
    """Discard the buffer of stdout; Python would report an error when it flushes that at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="fastlr",
        description="Learning rates: optimizers, schedules and experiments.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastlr {fastlr.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        options = commands.add_parser(name, help=command.LINE, description=command.LINE, allow_abbrev=False)
        options.add_argument("--json", action="store_true", help="write one JSON document to stdout")
        command.declare(options)
        options.set_defaults(run=command.run)
    return parser
