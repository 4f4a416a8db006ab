"""Entries of a study's tables: numbers as text, means with their spread, and what a loss is measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from .claims import Run, group, lost

Entry = dict[str, Any]
Table = dict[str, Any]

@dataclass(frozen=True)
class Measure:
    """What a study's networks are measured by: classes by nats and accuracy, numbers by squared errors and R2."""

    regression: bool
    baseline: dict[str, float]

    @property
    def score_name(self) -> str:
        return "R²" if self.regression else "accuracy"

    @property
    def loss_unit(self) -> str:
        return "variances" if self.regression else "nats"

    @property
    def loss_name(self) -> str:
        return "squared error" if self.regression else "cross-entropy"

    @property
    def baseline_name(self) -> str:
        return "always the mean" if self.regression else "most frequent class"

    def score(self, run: Run, split: str = "test") -> float:
        """Accuracy or R2 after the last update, in percent."""
        return 100 * float(run[f"{split}_{'r2' if self.regression else 'accuracy'}"])

    def baseline_score(self, split: str = "test") -> float:
        return 0.0 if self.regression else 100 * self.baseline[f"{split}_accuracy"]

    def baseline_row(self, columns: list[str], text: str) -> list[Entry]:
        """A row of what a prediction that does not look at the features comes to, at any rate."""
        return [plain(self.baseline_name), *(plain(text) for _ in columns[1:])]


def measure_of(document: dict[str, Any]) -> Measure:
    return Measure(document["data"]["regression"], document["data"]["baseline"])


def table(
    name: str,
    title: str,
    unit: str,
    columns: list[str],
    rows: list[list[Entry]],
    method: str,
    finding: str,
    timed: bool = False,
) -> Table:
    """`timed`: its numbers differ between machines and runs."""
    return {
        "name": name,
        "title": title,
        "unit": unit,
        "timed": timed,
        "columns": columns,
        "rows": rows,
        "method": method,
        "finding": finding if rows else "No run of it is finished.",
    }


def plain(text: str) -> Entry:
    return {"text": text}


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def measured(values: Sequence[float], form: Callable[[float], str] = number) -> Entry:
    """Mean ± sample standard deviation; the mean alone for one value."""
    entry: Entry = {"mean": fmean(values), "spread": stdev(values) if len(values) > 1 else None, "n": len(values)}
    spread = "" if entry["spread"] is None else f" ± {form(entry['spread'])}"
    return {"text": form(entry["mean"]) + spread} | entry


def over_trained(
    runs: Sequence[Run],
    value: Callable[[Run], float | None],
    form: Callable[[float], str] = number,
    missing: str = "not reached",
) -> Entry:
    """An entry over the runs that neither diverged nor collapsed; those, and runs without a value, are counted."""
    if not runs:
        return plain("-")
    trained = kept(runs)
    if not trained:
        return plain(losses_text(runs))
    values = [v for v in map(value, trained) if v is not None]
    entry = measured(values, form) if values else plain(missing)
    if values and len(values) < len(trained):
        entry["text"] += f" ({len(values)} of {len(trained)})"
    if len(trained) < len(runs):
        entry["text"] += f", {losses_text(runs)}"
    return entry


def kept(runs: Sequence[Run]) -> list[Run]:
    """The runs that neither diverged nor collapsed."""
    return [run for run in runs if not lost(run)]


def losses_text(runs: Sequence[Run]) -> str:
    """How many runs diverged and collapsed: "diverged" for all of them, else "1 of 3 diverged, 1 of 3 collapsed"."""
    counts = {name: sum(bool(run[name]) for run in runs) for name in ("diverged", "collapsed")}
    return ", ".join(name if count == len(runs) else f"{count} of {len(runs)} {name}"
                     for name, count in counts.items() if count)


def by_network(runs: Sequence[Run], entry: Callable[[Sequence[Run]], Entry]) -> tuple[list[str], list[list[Entry]]]:
    """Columns and rows: a row for each network, a column for each rate, both in the order of the runs."""
    lrs = list(group(runs, "lr")) if runs else []
    cells = group(runs, "network", "lr")
    rows = [
        [plain(network), *(entry(cells.get((network, lr), [])) for lr in lrs)] for network in group(runs, "network")
    ]
    return ["network", *(f"lr {lr:g}" for lr in lrs)], rows


def best_entry(columns: list[str], rows: list[list[Entry]], lowest: bool = False) -> tuple[str, str, Entry] | None:
    """(row, column, entry) of the highest mean, or the lowest."""
    entries = [
        (entry["mean"], row[0]["text"], column, entry)
        for row in rows
        for column, entry in zip(columns, row, strict=True)
        if "mean" in entry
    ]
    if not entries:
        return None
    _, row, column, entry = (min if lowest else max)(entries, key=lambda found: found[0])
    return row, column.replace("lr ", "rate "), entry


def percent(value: float) -> str:
    return f"{value:.1f}"


def whole(value: float) -> str:
    return f"{value:,.0f}"


# 1 to 5, 10: the grid
