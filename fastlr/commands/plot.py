"""`fastlr plot`: draw a schedule from an expression."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import Refusal, at_least_one, block_characters, print_json

LINE = "Draw a schedule: as text, or to an SVG or PNG file."


def declare(options: argparse.ArgumentParser) -> None:
    options.add_argument("expression", metavar="EXPR", help='like "cosine(1e-3, steps=1000).warmup(50)"')
    options.add_argument("--steps", type=at_least_one, metavar="N",
                         help="updates shown; default: until the schedule ends, or a few of its cycles")
    options.add_argument("--out", type=Path, metavar="FILE", help="write FILE, .svg or .png (that needs matplotlib)")


def run(arguments: argparse.Namespace) -> int:
    """Draw a schedule from an expression."""
    from ..schedules.expression import parse
    from ..schedules.picture import horizon, sampled, short, svg

    out: Path | None = arguments.out
    if out is not None and out.suffix.lower() not in (".svg", ".png"):
        raise Refusal(f"fastlr plot: --out must end in .svg or .png, got {str(out)!r}", 2)
    try:
        schedule = parse(arguments.expression)
    except ValueError as error:
        raise Refusal(f"fastlr plot: {error}", 2) from error
    n = min(arguments.steps or horizon(schedule), 2**53)
    t, rates = sampled(schedule, n)
    if not len(rates):
        raise Refusal(f"fastlr plot: {first_error(schedule)}", 2)
    try:
        if out is not None and out.suffix.lower() == ".svg":
            out.write_text(svg(schedule, n, 720, 300, arguments.expression), encoding="utf-8")
        elif out is not None:
            try:
                from matplotlib.figure import Figure
            except ImportError as error:
                raise Refusal(f"fastlr plot: {error}; a .svg file needs no matplotlib", 1) from error
            figure = Figure(figsize=(7.2, 3), layout="constrained")
            axes = figure.add_subplot(xlabel="update", ylabel="rate", title=arguments.expression)
            try:
                axes.plot(t, rates)
                figure.savefig(out, dpi=150)
            except (ValueError, OverflowError, RuntimeWarning) as error:     # (rates near the largest float)
                why = f"matplotlib cannot draw these rates ({error}); use a .svg file"
                raise Refusal(f"fastlr plot: {why}", 1) from error
    except OSError as error:
        raise Refusal(f"fastlr plot: --out {out}: {error.strerror or error}", 2) from error
    if arguments.json:
        print_json({"schedule": schedule.to_dict(), "steps": n, "t": t.tolist(), "rates": rates.tolist()})
    elif out is None:
        print(schedule)
        for row in blocks(rates):
            print(f"  {row}")
        print(f"  0 to {n - 1} updates; first {short(rates[0])}, highest {short(rates.max())}, last {short(rates[-1])}")
    return 0


def first_error(schedule: Any) -> str:
    """Why a schedule has no value at t = 0."""
    try:
        schedule(0)
    except ValueError as error:
        return str(error)
    return "the schedule has no values"


def blocks(rates: Any, width: int = 72, height: int = 8) -> list[str]:
    """Rates as rows of text, the highest first, in eighths of a character."""
    characters = block_characters()
    columns = [rates[k * len(rates) // min(width, len(rates))] for k in range(min(width, len(rates)))]
    eighths = [round(8 * height * (float(rate) / (float(rates.max()) or 1))) for rate in columns]
    return ["".join(characters[min(max(level - 8 * row, 0), 8)] for level in eighths).rstrip()
            for row in reversed(range(height))]
