"""A study in a terminal: progress while it runs, then its tables.

Needs rich; `fastlr.study` does not import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

from .entries import measure_of, number
from .model_names import is_model

NARROWEST = 100  # characters of a line in a file
EVERY = 2.0  # seconds between two lines of progress, where there is no bar
OF_SENTENCES = ("claims", "settings", "verdicts")  # tables whose first column has sentences
VERDICTS = {"refuted": "bold red", "held here": "bold green", "undecided": "bold yellow"}


class Terminal(Console):
    """A console that raises BrokenPipeError when the reader closes the output (rich's ends the program)."""

    def on_broken_pipe(self) -> None:
        raise


def print_tables(document: dict[str, Any], file: TextIO) -> None:
    """Print every table that has rows, each with its finding and its method, then the settings."""
    print_all(document["tables"], facts(document), file)


def print_all(tables: Sequence[dict[str, Any]], last: str, file: TextIO) -> None:
    """Print tables that have rows, and a text after them."""
    console = Terminal(file=file, highlight=False)
    sign = "+-" if console.options.ascii_only else "±"
    tables = [table for table in tables if table["rows"]]
    drawn = [draw(table, sign, console.width if file.isatty() else None) for table in tables]
    if not file.isatty():  # lines are as long as the widest table needs; text is wrapped
        unlimited = console.options.update(max_width=10_000)
        widths = (
            console.measure(rich, options=unlimited).maximum
            for rich, table in zip(drawn, tables, strict=True)
            if table["name"] not in OF_SENTENCES
        )
        console.width = max(NARROWEST, *widths) if len(tables) > 1 else NARROWEST
    for rich, table in zip(drawn, tables, strict=True):
        console.print(Text(heading(table), style="bold"))
        console.print(rich)
        for line in (table["finding"], table["method"]):
            console.print(Text(plain_signs(line, sign), style="" if line is table["finding"] else "dim"))
        console.print()
    console.print(Text(plain_signs(last, sign)))


def draw(table: dict[str, Any], sign: str = "±", width: int | None = None) -> Table:
    """One table; in a narrow terminal entries are wrapped between words, inside them if there is no other way."""
    rich = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    named = table["name"] not in OF_SENTENCES  # whether the first column is not wrapped
    least = []
    for k, column in enumerate(table["columns"]):
        texts = [column, *(plain_signs(row[k]["text"], sign) for row in table["rows"])]
        least.append(max(len(text) if named and k == 0 else max(map(len, text.split())) for text in texts))
    fits = width is None or sum(least) + 2 * len(least) + 1 <= width  # (a space and a divider for each)
    for k, column in enumerate(table["columns"]):
        rich.add_column(Text(column), justify="right" if column.startswith("lr ") else "left", overflow="fold",
                        no_wrap=named and k == 0, min_width=least[k] if fits else None)
    for row in table["rows"]:
        rich.add_row(*(Text(plain_signs(entry["text"], sign), style=VERDICTS.get(entry["text"], "")) for entry in row))
    return rich


def heading(table: dict[str, Any]) -> str:
    unit = f", {table['unit']}" if table["unit"] else ""
    return f"{table['number']}. {table['title']}{unit}"


def plain_signs(text: str, sign: str) -> str:
    """The text, in ASCII where the terminal can show no more."""
    return text if sign == "±" else text.replace("±", sign).replace("“", '"').replace("”", '"').replace("²", "2")


def facts(document: dict[str, Any]) -> str:
    """The settings of the study, in a few sentences."""
    settings, data = document["settings"], document["data"]
    seeds = f"seeds 0 to {settings['seeds'] - 1}" if settings["seeds"] > 1 else "seed 0"
    schedule = f" by {settings['schedule']}" if settings["schedule"] else ""
    spread = "Mean ± standard deviation over seeds. " if settings["seeds"] > 1 else ""
    diverged = ""
    every = [run for runs in document["experiments"].values() for run in runs]
    if any(run.get("diverged") for run in every):
        diverged = "'Diverged': the loss stopped being finite, or ended above where it began. "
    if any(run.get("collapsed") for run in every):
        diverged += ("'Collapsed': it ended no better than the baseline, as the network had forgotten what it had "
                     "learned, or gives the same output for all rows. ")
    baseline, measure = data["baseline"], measure_of(document)
    test_loss = f"{number(baseline['test_loss'])} {measure.loss_unit}"
    if data["regression"]:
        mean, deviation = data["target"]
        learns, unit = "a number to predict", "Losses are squared errors in variances of the target. "
        chance = (f"always predicting the training mean, {mean:.5g} (standard deviation {deviation:.4g}), has a test "
                  f"loss of {test_loss}")
    else:
        learns, unit = f"{data['classes']} classes", "Losses are cross-entropies in nats. "
        chance = (f"always saying the most frequent class is right on {baseline['test_accuracy']:.1%} of these; "
                  f"knowing the classes' frequencies alone has a test loss of {test_loss}")
    models = list(filter(is_model, settings["networks"]))
    by_torch = (f" {' and '.join(models)}: made by torch {document['environment']['torch']}, trained by fastlr.torch "
                "with its defaults, which are torch's where torch has the class; landscapes have no part of it."
                if models else "")
    unfinished = "" if document["complete"] else "Interrupted: some experiments are missing. "
    return (
        f"{unfinished}Data: {data['name']}, {data['features']} features, {learns}, "
        f"{data['train']:,} rows to train, {data['validation']:,} to validate, {data['test']:,} to test; "
        f"the baseline, {chance}. {unit}"
        f"{''.join(f'{note}. ' for note in data['notes'])}Training: "
        f"{settings['optimizer']}{schedule}, {settings['epochs']} epochs, batches of {settings['batch_size']}, {seeds}"
        f".{by_torch} {spread}{diverged}"
    ).strip()


@contextmanager
def progress(total: int, file: TextIO) -> Iterator[Callable[[object], None]]:
    """A function to call with each outcome: it updates a bar where `file` is a terminal, else prints some lines.

    Errors of the output are ignored, so that the study continues.
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
