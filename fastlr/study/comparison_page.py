"""A comparison of two studies as one self-contained HTML page."""

from __future__ import annotations

from typing import Any

import fastlr

from . import figures, page
from .comparison import Document, facts
from .entries import measure_of


def render(comparison: Document, a: Document, b: Document) -> str:
    """The page of a comparison, with the losses of the two documents that it compares."""
    measure = measure_of(a)
    grids = a["experiments"]["grid"], b["experiments"]["grid"]
    drawn = figures.two_losses_by_rate(*grids, measure.loss_unit, measure.baseline["validation_loss"])
    tables = [{**of, "rows": marked(of), "shades": page.shades(of, measure)} for of in comparison["tables"]]
    return page.filled(
        "comparison.html.jinja",
        a["settings"]["lrs"] or [1.0],
        comparison=comparison,
        facts=facts(comparison),
        figure=None if drawn is None else page.as_markup({"": [drawn]})[""][0],
        tables=tables,
        version=fastlr.__version__,
    )


def marked(table: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """A table's rows for the page; what changed is in bold letters."""
    rows = page.shaded(table, {})
    for row in rows:
        for entry in row:
            entry["strong"] = bool(entry["raw"].get("changed"))
    return rows
