"""A study, told in a terminal: progress while it runs, then its tables.

Needs rich, and so is imported by whoever prints, not by `fastlr.study`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, TextIO

try:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise ImportError("study: the tables need rich, which is missing; pip install 'fastlr-core[lab]'") from error

NARROWEST = 100  # characters of a line in a file, which has no width of its own
EVERY = 2.0  # seconds between two lines of progress, where no bar can be drawn
VERDICTS = {"refuted": "bold red", "held here": "bold green", "undecided": "bold yellow"}


class Terminal(Console):
    """A console that does not decide what becomes of a program whose reader went away (rich's would end it)."""

    def on_broken_pipe(self) -> None:
        raise


def print_tables(document: dict[str, Any], file: TextIO) -> None:
    """Every table that has rows, each with its finding and its method, then what was run."""
    console = Terminal(file=file, highlight=False)
    sign = "+-" if console.options.ascii_only else "±"
    tables = [table for table in document["tables"] if table["rows"]]
    drawn = [draw(table, sign) for table in tables]
    if not file.isatty():  # let a line be what the widest table needs; prose is folded
        boundless = console.options.update(max_width=10_000)
        widths = (
            console.measure(rich, options=boundless).maximum
            for rich, table in zip(drawn, tables, strict=True)
            if table["name"] != "claims"
        )
        console.width = max(NARROWEST, *widths) if len(tables) > 1 else NARROWEST
    for rich, table in zip(drawn, tables, strict=True):
        console.print(Text(heading(table), style="bold"))
        console.print(rich)
        for line in (table["finding"], table["method"]):
            console.print(Text(plain_signs(line, sign), style="" if line is table["finding"] else "dim"))
        console.print()
    console.print(Text(plain_signs(facts(document), sign)))


def draw(table: dict[str, Any], sign: str = "±") -> Table:
    """One table, in words and figures; too narrow a terminal folds an entry, and never cuts a figure off."""
    rich = Table(box=SIMPLE_HEAD)
    for k, column in enumerate(table["columns"]):
        figures, named = column.startswith("lr "), k == 0 and table["name"] != "claims"
        rich.add_column(Text(column), justify="right" if figures else "left", overflow="fold", no_wrap=named)
    for row in table["rows"]:
        rich.add_row(*(Text(plain_signs(entry["text"], sign), style=VERDICTS.get(entry["text"], "")) for entry in row))
    return rich


def heading(table: dict[str, Any]) -> str:
    unit = f", {table['unit']}" if table["unit"] else ""
    return f"{table['number']}. {table['title']}{unit}"


def plain_signs(text: str, sign: str) -> str:
    """The text, for a terminal that may know no more than ASCII."""
    return text if sign == "±" else text.replace("±", sign).replace("“", '"').replace("”", '"')


def facts(document: dict[str, Any]) -> str:
    """What was run, in a sentence or two."""
    settings, data = document["settings"], document["data"]
    seeds = f"seeds 0 to {settings['seeds'] - 1}" if settings["seeds"] > 1 else "seed 0"
    schedule = f" by {settings['schedule']}" if settings["schedule"] else ""
    spread = "Mean ± standard deviation over seeds. " if settings["seeds"] > 1 else ""
    diverged = ""
    if any(run.get("diverged") for runs in document["experiments"].values() for run in runs):
        diverged = "'diverged': the loss stopped being finite, or ended above where it began. "
    unfinished = "" if document["complete"] else "Interrupted: some experiments are missing. "
    return (
        f"{unfinished}Data: {data['name']}, {data['features']} features, {data['classes']} classes, "
        f"{data['train']:,} rows to train, {data['validation']:,} to validate, {data['test']:,} to test. Training: "
        f"{settings['optimizer']}{schedule}, {settings['epochs']} epochs, batches of {settings['batch_size']}, {seeds}"
        f". {spread}{diverged}"
    ).strip()


@contextmanager
def progress(total: int, file: TextIO) -> Iterator[Callable[[object], None]]:
    """A function to call with each outcome: moves a bar where `file` is a terminal, else writes a line now and then.

    What cannot be written is left out: a study goes on when nobody looks.
    """
    done = 0
    if not file.isatty():
        last = float("-inf")

        def line(outcome: object) -> None:
            nonlocal done, last
            done += 1
            if monotonic() - last >= EVERY or done == total:
                last = monotonic()
                with suppress(OSError):
                    print(f"[{done:{len(str(total))}}/{total}] {outcome}", file=file, flush=True)

        yield line
        return
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Terminal(file=file), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda outcome: bar.update(task, advance=1, description=str(outcome))
