"""The results of a study, told to a person: three tables, and a line for each cell while they are made.

Needs rich, and so is imported by whoever prints, not by `fastlr.study`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, stdev
from typing import NamedTuple, TextIO

try:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ImportError as error:
    raise ImportError(
        "study: the tables need rich, which is missing; pip install 'fastlr-core[lab]'"
    ) from error

from .experiment import Result


class Measure(NamedTuple):
    """One table: its title, what one entry says of the seeds of a cell, and how it was measured."""

    title: str
    entry: Callable[[Sequence[Result]], str]
    method: str


def accuracy(results: Sequence[Result]) -> str:
    return spread([100 * r.test_accuracy for r in results if r.test_accuracy is not None], ".1f")


def seconds(results: Sequence[Result]) -> str:
    return spread([r.train_seconds for r in results], ".3f")


def updates(results: Sequence[Result]) -> str:
    reached = [float(r.updates_to_target) for r in results if r.updates_to_target is not None]
    if not reached:
        return "not reached"
    some = f" ({len(reached)} of {len(results)})" if len(reached) < len(results) else ""
    return spread(reached, ".0f") + some


MEASURES = (
    Measure(
        "Test accuracy, %",
        accuracy,
        "Images of the test split, seen by no part of training, whose most likely class is the right one.",
    ),
    Measure(
        "Training time, s",
        seconds,
        "Wall time of batches, gradients and {updates} updates, without evaluation; whatever else the "
        "machine does counts too.",
    ),
    Measure(
        "Updates to convergence",
        updates,
        "The first update at which the training loss, averaged over the latest epoch of updates, is at most "
        "{target_loss} nats; 'not reached': not in {updates} updates.",
    ),
)


def print_tables(results: Sequence[Result], file: TextIO) -> None:
    """Three tables, network by learning rate: test accuracy, training time, updates to convergence.

    An entry is the mean over seeds and, from two seeds on, their sample standard deviation. Seeds that
    diverged are counted, not averaged; "-" is a cell that was not run. Prints nothing without results.
    """
    if not results:
        return
    console = Console(file=file, highlight=False)
    sign = "+-" if console.options.ascii_only else "±"
    facts = {
        name: ", ".join(dict.fromkeys(str(r.to_dict()[name]) for r in results))
        for name in ("optimizer", "epochs", "batch_size", "target_loss", "seed")
    }
    facts["updates"] = str(max(r.updates for r in results))
    tables = [table(measure, results, sign) for measure in MEASURES]
    if not file.isatty():  # a file has no width: let it be what the widest table needs
        boundless = console.options.update(max_width=10_000)
        console.width = max(console.width, *(console.measure(t, options=boundless).maximum for t in tables))
    for measure, drawn in zip(MEASURES, tables, strict=True):
        console.print(drawn)
        console.print(measure.method.format(**facts) + "\n")
    if any(result.diverged for result in results):
        console.print("'diverged': the loss stopped being finite, or ended above where it began.")
    averaged = f"Mean {sign} standard deviation over seeds" if "," in facts["seed"] else "Seed"
    console.print(
        f"{averaged} {facts['seed']}; optimizer {facts['optimizer']}, {facts['epochs']} epochs, "
        f"batches of {facts['batch_size']}."
    )


def table(measure: Measure, results: Sequence[Result], sign: str = "±") -> Table:
    """One measure, as rows of networks and columns of learning rates, both in the order they were run."""
    cells: dict[tuple[str, float], list[Result]] = {}
    for result in results:
        cells.setdefault((result.cell.network, result.cell.lr), []).append(result)
    lrs = list(dict.fromkeys(lr for _, lr in cells))
    drawn = Table(title=measure.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    # too narrow a terminal folds an entry; rich's default would cut figures off
    drawn.add_column("network", overflow="fold")
    for lr in lrs:
        drawn.add_column(f"lr {lr:g}", justify="right", overflow="fold")
    for network in dict.fromkeys(network for network, _ in cells):
        entries = (entry(measure, cells.get((network, lr), [])) for lr in lrs)
        drawn.add_row(network, *(text.replace("±", sign) for text in entries))
    return drawn


def entry(measure: Measure, results: Sequence[Result]) -> str:
    """What one measure says of the seeds of one network and rate."""
    if not results:
        return "-"
    trained = [r for r in results if not r.diverged]
    if not trained:
        return "diverged"
    lost = len(results) - len(trained)
    return measure.entry(trained) + (f", {lost} of {len(results)} diverged" if lost else "")


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± sample standard deviation; the mean alone for one value."""
    return f"{fmean(values):{form}}" + (f" ± {stdev(values):{form}}" if len(values) > 1 else "")


@contextmanager
def progress(total: int, file: TextIO) -> Iterator[Callable[[Result], None]]:
    """A callback for `study.run`: moves a bar where `file` is a terminal, else writes a line per cell."""
    if not file.isatty():
        width, done = len(str(total)), itertools.count(1)

        def line(result: Result) -> None:
            print(f"[{next(done):{width}}/{total}] {headline(result)}", file=file, flush=True)

        yield line
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=file), transient=True) as bar:
        task = bar.add_task("study", total=total)
        yield lambda result: bar.update(task, advance=1, description=headline(result))


def headline(result: Result) -> str:
    """One cell in one line."""
    cell = result.cell
    outcome = "diverged" if result.diverged else f"{accuracy([result])} %"
    return f"{cell.network} lr {cell.lr:g} seed {cell.seed}: {outcome}"
