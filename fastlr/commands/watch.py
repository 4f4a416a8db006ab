"""`fastlr watch`: a log that is being written, in the terminal or as a page: curves, rate, diagnosis, what to do."""

from __future__ import annotations

import argparse
import html
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import Refusal, print_json
from . import diagnose as log_of

LINE = "Follow a log while it is written: curves, rate, diagnosis and what to do."

STYLE = """:root{color-scheme:light dark}body{font:16px/1.5 system-ui;max-width:46rem;margin:2rem auto;padding:0 1rem}
svg{width:100%;height:auto}path{fill:none;stroke-width:1.5}.loss{stroke:#2a6fdb}.val_loss{stroke:#d9822b}.lr{stroke:#888}
text{font:12px system-ui;fill:currentColor}line{stroke:currentColor;opacity:.3}td{padding-right:1.5rem}"""


def declare(options: argparse.ArgumentParser) -> None:
    log_of.declare(options)
    options.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between two looks; default: 2")
    options.add_argument("--once", action="store_true", help="look once, and end")
    options.add_argument("--page", type=Path, metavar="PAGE", help="also write a page, PAGE.html, at each look")


def run(arguments: argparse.Namespace) -> int:
    """Look at the log every so many seconds, until interrupted."""
    if not arguments.every > 0:
        raise Refusal(f"fastlr watch: --every must be seconds above 0, got {arguments.every:g}", 2)
    if arguments.page is not None and arguments.page.suffix.lower() not in (".html", ".htm"):
        raise Refusal(f"fastlr watch: --page must end in .html, got {str(arguments.page)!r}", 2)
    in_place = sys.stdout.isatty() and not arguments.once and not arguments.json
    seen: tuple[int, int] | None = None
    while True:
        now = size_and_time(arguments.log)
        if now != seen or arguments.once:
            seen = now
            try:
                history, findings = log_of.read(arguments, "fastlr watch")
            except log_of.EmptyLog:                # (the run has just begun)
                if arguments.once:
                    raise
                time.sleep(arguments.every)
                continue
            if arguments.page is not None:
                every = None if arguments.once else arguments.every
                write(arguments.page, page(str(arguments.log), history, findings, every))
            if arguments.json:
                print_json([asdict(finding) for finding in findings])
            else:
                print(("\x1b[H\x1b[2J" if in_place else "") + "\n".join(
                    [str(arguments.log), *log_of.curves(history), *log_of.told(findings)]), flush=True)
        if arguments.once:
            return 0
        time.sleep(arguments.every)


def size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise Refusal(f"fastlr watch: {path}: {error.strerror or error}", 2) from error
    return found.st_size, found.st_mtime_ns


def write(path: Path, text: str) -> None:
    from ..monitor.files import replace

    try:
        replace(path, [text])
    except OSError as error:
        raise Refusal(f"fastlr watch: --page {path}: {error.strerror or error}", 2) from error


def page(title: str, history: dict[str, Any], findings: list[Any], every: float | None) -> str:
    """A page that needs nothing else; it loads itself again while the log is written."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>",
             '<meta name=viewport content="width=device-width">',
             "" if every is None else f"<meta http-equiv=refresh content={max(every, 1):g}>",
             f"<style>{STYLE}</style><h1>{html.escape(Path(title).name)}</h1>"]
    for finding in findings:
        rows = "".join(f"<tr><td>{html.escape(name)}<td>{value:.3g}" for name, value in finding.evidence.items())
        parts.append(f"<h2>{html.escape(finding.kind)}</h2><p>{html.escape(finding.advice)}</p><table>{rows}</table>")
    if not findings:
        parts.append(f"<p>{html.escape(log_of.told(findings)[0])}</p>")
    parts.append(drawn(history, ("loss", "val_loss"), "loss (blue), validation loss (orange), by update"))
    if "lr" in history:
        parts.append(drawn(history, ("lr",), "learning rate, by update"))
    return "\n".join(parts) + "\n</html>\n"


def drawn(history: dict[str, Any], names: tuple[str, ...], caption: str) -> str:
    """Curves over the whole run, on a logarithmic scale where all values are above 0."""
    import numpy as np

    series = {name: np.asarray(history[name], float) for name in names if name in history and len(history[name])}
    finite = [values[np.isfinite(values)] for values in series.values()]
    seen = np.concatenate(finite) if finite else np.empty(0)
    if not len(seen):
        return ""
    scale = np.log if seen.min() > 0 else np.asarray
    low, high = float(seen.min()), float(np.quantile(seen, 0.995))
    bottom, top = float(scale(low)), float(scale(high))
    lines = []
    for name, values in series.items():
        keep = np.linspace(0, len(values) - 1, min(len(values), 600)).astype(int)
        x, y = 60 + 630 * keep / max(len(values) - 1, 1), values[keep]
        known = np.isfinite(y)
        heights = 200 - 180 * np.clip((scale(y[known]) - bottom) / ((top - bottom) or 1), 0, 1.05)
        points = " L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[known], heights, strict=True))
        lines.append(f'<path class="{name}" d="M{points}"/>' if points else "")
    first, last = (history["t"][0], history["t"][-1]) if len(history["t"]) else (0, 0)
    return (f'<figure><svg viewBox="0 0 700 230" role=img aria-label="{caption}"><line x1=60 x2=690 y1=200 y2=200 />'
            f'<line x1=60 x2=60 y1=20 y2=200 /><text x=4 y=204>{low:.3g}</text><text x=4 y=24>{high:.3g}</text>'
            f'<text x=60 y=220>{first}</text><text x=690 y=220 text-anchor=end>{last}</text>{"".join(lines)}</svg>'
            f"<figcaption>{caption}</figcaption></figure>")
