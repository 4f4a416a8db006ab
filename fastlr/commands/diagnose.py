"""`fastlr diagnose`: what the losses in a log say about the learning rate."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import Refusal, block_characters, print_json, printable

LINE = "Say what the losses in a log (CSV or JSON lines) mean for the learning rate, and what to do."

class EmptyLog(Refusal):
    """The log has no name of a series yet."""


WIDTH = 72              # characters of a curve and of a line of advice
LOSSES = ("loss", "train_loss", "training_loss", "train/loss")
VALIDATIONS = ("val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "val/loss", "eval/loss")
RATES = ("lr", "learning_rate", "learn_rate", "train/learning_rate")


def declare(options: argparse.ArgumentParser) -> None:
    add = options.add_argument
    add("log", type=Path, metavar="FILE", help="a .csv with names in its first line, or .jsonl, as History writes them")
    add("--loss", metavar="NAME", help=f"name of the training loss; default: the first of {', '.join(LOSSES)}")
    add("--validation", metavar="NAME", help=f"name of the validation loss; default: the first of "
        f"{', '.join(VALIDATIONS)}")
    add("--lr", metavar="NAME|NUMBER", help=f"name of the rate, or a constant rate; default: the first of "
        f"{', '.join(RATES)}")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings, or their JSON."""
    history, findings = read(arguments, "fastlr diagnose")
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
        return 0
    print("\n".join([*curves(history), *told(findings)]))
    return 0


def read(arguments: argparse.Namespace, who: str) -> tuple[dict[str, Any], list[Any]]:
    """The series of a log by their standard names, and what `diagnose` says: nothing while there are too few losses.

    "t/loss" has the updates of "loss", and so on.
    """
    import fastlr

    path: Path = arguments.log
    made: dict[str, Callable[[Path], fastlr.History]] = {
        ".csv": fastlr.History.from_csv, ".jsonl": fastlr.History.from_jsonl, ".ndjson": fastlr.History.from_jsonl}
    if path.suffix.lower() not in made:
        raise Refusal(f"{who}: {path}: a log must be a .csv or a .jsonl file", 2)
    try:
        history = made[path.suffix.lower()](path)
    except OSError as error:
        raise Refusal(f"{who}: {path}: {error.strerror or error}", 2) from error
    except ValueError as error:
        raise Refusal(f"{who}: {printable(error).removeprefix('History: ')}", 2) from error
    names = history.names
    loss = named(arguments.loss, LOSSES, names)
    if loss is None and not names:
        raise EmptyLog(f"{who}: {path}: the log is empty: it needs names in its first line and numbers below, "
                       f"or lines of JSON", 2)
    if loss is None:
        raise Refusal(f"{who}: {path}: no losses called {arguments.loss or 'loss'!r}; pass --loss NAME, one of "
                      f"{printable(', '.join(names))}", 2)
    found: dict[str, Any] = {"loss": history[loss], "t/loss": history.t(loss)}
    if (validation := named(arguments.validation, VALIDATIONS, names)) is not None:
        found |= {"val_loss": history[validation], "t/val_loss": history.t(validation)}
    elif arguments.validation:
        raise Refusal(f"{who}: {path}: no losses called {arguments.validation!r}; the log has "
                      f"{printable(', '.join(names))}", 2)
    found |= {name: history[name] for name in names if name.split("/")[0] == "grad_norm"}
    rate = named(arguments.lr, RATES, names)
    if rate is not None:
        found |= {"lr": history[rate], "t/lr": history.t(rate)}
    elif arguments.lr:
        try:
            found["lr"] = [float(arguments.lr)] * len(found["loss"])
        except ValueError:
            raise Refusal(f"{who}: --lr must be a name of the log or a number, got {arguments.lr!r}", 2) from None
    try:
        return found, fastlr.diagnose({name: series for name, series in found.items() if name.split("/")[0] != "t"})
    except ValueError as error:
        if "losses at least" not in str(error):
            raise Refusal(f"{who}: {error}".replace("diagnose: diagnose: ", "diagnose: "), 2) from error
        return found, []


def named(asked: str | None, standard: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    """The name that was asked for, or the first standard one; None if the log has it not."""
    return next((name for name in ((asked,) if asked else standard) if name in names), None)


def curves(history: dict[str, Any]) -> list[str]:
    """A line of blocks for each curve, with its first and latest value."""
    import numpy as np

    lines = []
    for name, label in (("loss", "loss"), ("val_loss", "validation"), ("lr", "rate")):
        if name not in history or not len(history[name]):
            continue
        values = np.asarray(history[name], float)
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        # (scaled to what is usual: one loss of a blow-up does not flatten the rest)
        low, high = float(finite.min()), float(np.quantile(finite, 0.98))
        shown = [part[np.isfinite(part)] for part in np.array_split(values, min(WIDTH - 12, len(values)))]
        blocks = block_characters()
        text = "".join(blocks[min(1 + int(7 * (part.mean() - low) / ((high - low) or 1)), 8)] if len(part) else "!"
                       for part in shown)
        lines.append(f"{label:11} {text}")
        lines.append(f"{'':11} from {values[0]:.4g} to {values[-1]:.4g}" + (
            f"; updates {history['t/loss'][0]} to {history['t/loss'][-1]}" if name == "loss" else ""))
    return lines


def told(findings: list[Any]) -> list[str]:
    """Findings as lines of text."""
    import textwrap

    if not findings:
        from ..monitor.diagnosis import FEWEST

        return [f"fewer than {FEWEST} losses: too early to tell"]
    lines = []
    for finding in findings:
        lines += textwrap.wrap(f"{finding.kind}: {finding.advice}", WIDTH)
        lines += [f"  {name}: {value:.3g}" for name, value in finding.evidence.items()]
    return lines
