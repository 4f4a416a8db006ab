"""`fastlr study`: the effects of learning rates, measured on small networks and real data."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import Refusal, at_least_one, print_json, progress, say

if TYPE_CHECKING:
    from ..study.laboratory import Outcome, Task
    from ..study.record import Record

LINE = "Train small networks at several learning rates, and compare them: twelve tables and a page of figures."
COMPARED = ("compare", "out", "json", "run")  # what a comparison of studies takes
SAVED_EVERY = 20.0  # seconds between two writes of results.json


def declare(options: argparse.ArgumentParser) -> None:
    add = options.add_argument
    add("--data", default="digits", metavar="DATA",
        help="digits (default), wine, breast_cancer, diabetes, a .csv or a .npz file")
    add("--target", metavar="COLUMN", help="column of a .csv to learn; default: label, target, class, y or the last")
    add("--lrs", type=float, nargs="+", metavar="LR", help="default: 0.001 0.01 0.1 1 3")
    add("--networks", nargs="+", metavar="NET", help="like 64-32-10-relu; default: five that fit the data")
    add("--model", metavar="MODULE:FUNCTION",
        help="train your own model of torch instead of the default networks: the function takes no argument and "
             "returns a new torch.nn.Module, from (rows, features) to (rows, classes) scores, or (rows, 1) numbers")
    add("--seeds", type=at_least_one, metavar="N", help="seeds 0 to N-1; default: 5")
    add("--epochs", type=at_least_one, metavar="N", help="passes over the training rows; default: 80")
    add("--optimizer", metavar="NAME", help="one of fastlr.list_optimizers(); default: sgd")
    add("--schedule", metavar="EXPR", help='multiplies the rate, like "cosine(1, steps=updates).warmup(20)"')
    add("--batch-size", type=at_least_one, metavar="N", help="rows per update; default: 32")
    add("--target-loss", type=float, metavar="L",
        help="training loss that counts as converged; default: nine tenths of what short trainings gain")
    add("--jobs", type=at_least_one, metavar="N", help="processes; default: one per processor")
    add("--budget", type=float, metavar="S", help="stop after so many seconds, with what is done; default: no limit")
    add("--out", type=Path, default=Path("fastlr-study"), metavar="DIR", help="folder; default: fastlr-study")
    add("--sweep", nargs="+", metavar="NAME",
        help="one more table and heat map each: schedule (of each optimizer), batch-size, momentum or warmup, by rate; "
             "all: every one, which takes about as long as the study")
    add("--compare", nargs=2, type=Path, metavar=("A", "B"),
        help="train nothing: compare two studies of the same table, folders or results.json, and write comparison.html")
    add("--quick", action="store_true", help="two seeds, 20 epochs: seconds instead of a minute")


def run(arguments: argparse.Namespace) -> int:
    """Run the study and write its results; after an interrupt those that are finished."""
    if arguments.compare is not None:
        return compare(arguments)
    try:
        from ..study import laboratory, page, record, report
        from ..study.data import load
    except ImportError as error:
        raise refusal(error, 1) from error
    if arguments.model is not None and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # (as python does; the processes of the experiments have the same path)
    try:
        data = load(arguments.data, target=arguments.target)
        settings = settings_of(arguments, data)
        laboratory.plan(settings, data)            # (refuses what cannot be run before anything is trained)
        if arguments.target_loss is None:
            progress("three short trainings, to choose the target")
            with laboratory.single_threaded():
                settings = replace(settings, target_loss=laboratory.pilot_target(settings, data))
            progress("")
        planned = laboratory.plan(settings, data)
    except ImportError as error:
        raise refusal(error, 1) from error
    except ValueError as error:
        raise refusal(error, 2) from error
    except OSError as error:
        raise Refusal(f"fastlr study: data: {arguments.data}: {error.strerror or error}", 2) from error
    if arguments.budget is not None and not arguments.budget > 0:
        raise Refusal(f"fastlr study: --budget must be seconds above 0, got {arguments.budget:g}", 2)
    folder: Path = arguments.out
    jobs = min(arguments.jobs or laboratory.processors(), sum(map(len, planned.values())))
    try:
        record.check_folder(folder)
    except OSError as error:
        raise Refusal(f"fastlr study: --out {folder}: {error.strerror or error}", 2) from error

    for note in data.notes:
        say(f"{data.name}: {note}")
    results = record.Record(settings, data, planned, jobs)
    with laboratory.one_interrupt():
        status = run_experiments(results, planned, jobs, folder, arguments.budget)
        document = results.document()
        try:
            with laboratory.interrupts_blocked():  # (an interrupt waits until the files are whole)
                record.write_results(folder, document)
                record.write_tables(folder, document)
                record.write_whole(folder / "report.html", page.render(document))
        except OSError as error:
            raise Refusal(f"fastlr study: --out {folder}: {error.strerror or error}", 2) from error
    written = f"Written to {folder}: report.html, results.json, tables as CSV."
    if arguments.json:
        with suppress(OSError):  # (stderr may be closed)
            report.print_tables(document, sys.stderr)
        say(written)
        print_json(document)
    else:
        report.print_tables(document, sys.stdout)
        print(written)
    return status


def compare(arguments: argparse.Namespace) -> int:
    """Compare two studies, and write a page and a document of it."""
    given = [name for name, value in vars(arguments).items()
             if name not in COMPARED and value not in (None, False, "digits")]
    if given:
        option = given[0].replace("_", "-")
        raise Refusal(f"fastlr study: --compare reads two studies and trains nothing; leave --{option} out", 2)
    try:
        from ..study import comparison, comparison_page, record, report
    except ImportError as error:
        raise refusal(error, 1) from error
    first, second = arguments.compare
    a, b = read(first), read(second)
    try:
        found = comparison.compare_studies(a, b, names=(str(first), str(second)))
    except ValueError as error:
        raise Refusal(f"fastlr study: --compare: {error}", 2) from error
    folder: Path = arguments.out
    try:
        record.check_folder(folder)
        record.write_whole(folder / "comparison.json", json.dumps(found, allow_nan=False, default=str) + "\n")
        record.write_whole(folder / "comparison.html", comparison_page.render(found, a, b))
    except OSError as error:
        raise Refusal(f"fastlr study: --out {folder}: {error.strerror or error}", 2) from error
    written = f"Written to {folder}: comparison.html, comparison.json."
    shown = sys.stderr if arguments.json else sys.stdout
    with suppress(OSError) if arguments.json else nullcontext():
        report.print_all(found["tables"], comparison.facts(found), shown)
    if arguments.json:
        say(written)
        print_json(found)
    else:
        print(written)
    return 0


def read(path: Path) -> dict[str, Any]:
    """The document of a study."""
    from ..study.comparison import read_study

    try:
        return read_study(path)
    except ValueError as error:
        raise Refusal(f"fastlr study: --compare: {error}", 2) from error
    except OSError as error:
        raise Refusal(f"fastlr study: --compare: {path}: {error.strerror or error}", 2) from error


def refusal(error: Exception, status: int) -> Refusal:
    return Refusal("fastlr study: " + str(error).removeprefix("study: "), status)


class OutOfTime(Exception):
    """The budget is spent."""


def run_experiments(
    results: Record, planned: dict[str, list[Task]], jobs: int, folder: Path, budget: float | None
) -> int:
    """Run the planned experiments, with progress on stderr and files from time to time; the exit status."""
    from ..study import laboratory, record, report

    begun = saved = monotonic()
    try:
        with report.progress(results.total, sys.stderr) as advance:

            def note(experiment: str, index: int, outcome: Outcome) -> None:
                nonlocal saved
                results.note(experiment, index, outcome)
                advance(outcome)
                if monotonic() - saved > SAVED_EVERY:
                    record.write_results(folder, results.document())
                    saved = monotonic()
                if budget is not None and monotonic() - begun > budget and results.done < results.total:
                    raise OutOfTime

            missing = laboratory.run_tasks(planned, results.data, jobs, note)
    except OutOfTime:
        say(f"fastlr study: {results.done} of {results.total} experiments in {budget:g} s")
        return 0
    except KeyboardInterrupt:
        say(f"fastlr study: interrupted after {results.done} of {results.total} experiments")
        return 130
    except (laboratory.BrokenExecutor, MemoryError) as error:
        why = str(error) or type(error).__name__
        say(f"fastlr study: stopped after {results.done} of {results.total} experiments: {why}")
        return 1
    except OSError as error:
        raise Refusal(f"fastlr study: --out {folder}: {error.strerror or error}", 2) from error
    if missing:
        which = "; ".join(f"{name}, {planned[name][k]}" for name, k in missing)
        say(f"fastlr study: {results.done} of {results.total} experiments; missing, as killed twice: {which}")
        return 1
    return 0


def settings_of(arguments: argparse.Namespace, data: Any) -> Any:
    """The settings of the arguments; those not given have the defaults, or the values of --quick."""
    from ..study.laboratory import settings_for

    names = "lrs", "networks", "seeds", "epochs", "optimizer", "schedule", "batch_size", "target_loss"
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return settings_for(data, arguments.quick, arguments.model, sweeps=arguments.sweep or (), **given)
