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

WIDTHS = 700, 350      # of pictures for wide screens and narrow ones, each drawn at the size at which it is shown
STYLE = """:root{color-scheme:light dark}body{font:16px/1.5 system-ui;max-width:46rem;margin:2rem auto;padding:0 1rem}
figure{margin:1.5rem 0}svg{width:100%;height:auto}.narrow{display:none}td{padding-right:1.5rem}
@media (max-width:640px){.wide{display:none}.narrow{display:block}}
polyline{fill:none;stroke:currentColor}.grid{opacity:.2}.axis{opacity:.6}.line{stroke-width:1.8;stroke-linejoin:round}
.loss.line{stroke:#2a6fdb}.val_loss.line{stroke:#d9822b;stroke-dasharray:6 3}.lr.line{stroke:#888}
text{font:13px system-ui;fill:currentColor}figcaption span{margin-right:1.5rem}
i{display:inline-block;width:1.8rem;margin-right:.4rem;border-top:3px solid #2a6fdb;vertical-align:middle}
i.val_loss{border-top:3px dashed #d9822b}"""


def declare(options: argparse.ArgumentParser) -> None:
    log_of.declare(options)
    options.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between two looks; default: 2")
    options.add_argument("--once", action="store_true", help="look once, and end")
    options.add_argument("--page", type=Path, metavar="FILE",
                         help="also write a page to FILE, which ends in .html, at each look")


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
    parts.append(drawn(history, {"loss": "training", "val_loss": "validation"}, "loss"))
    parts.append(drawn(history, {"lr": "rate"}, "learning rate"))
    return "\n".join(parts) + "\n</html>\n"


def drawn(history: dict[str, Any], labels: dict[str, str], what: str) -> str:
    """Curves over the whole run, on a logarithmic scale where values range far, for wide screens and narrow ones."""
    import numpy as np

    from ..study.drawing import Panel

    series = {name: np.asarray(history[name], float) for name in labels if name in history and len(history[name])}
    finite = [values[np.isfinite(values)] for values in series.values()]
    seen = np.concatenate(finite) if finite else np.empty(0)
    if not len(seen):
        return ""
    low, high = float(seen.min()), float(np.quantile(seen, 0.995))      # (one blow-up does not flatten the rest)
    log, first = low > 0 and high > 3 * low, next(iter(series))
    legend = "".join(f"<span><i class={name}></i>{label}</span>" for name, label in labels.items() if name in series)
    pictures = []
    for kind, width in (("wide", WIDTHS[0]), ("narrow", WIDTHS[1])):
        panel = Panel("", f"{what} by update", width, 260, left=56, right=26, top=30)
        times = {name: np.asarray(history.get(f"t/{name}", range(1, len(series[name]) + 1))) for name in series}
        ends = [t for of in times.values() for t in (int(of[0]), int(of[-1]))]
        panel.axes((min(ends), max(ends)), (low, high), "update", what, y_log=log, x_whole=True)
        for name, values in series.items():
            keep = np.unique(np.linspace(0, len(values) - 1, min(len(values), 600)).astype(int))
            panel.curve([float(t) for t in times[name][keep]], [float(v) for v in values[keep]], f"{name} line")
        pictures.append(panel.svg().replace("<svg ", f"<svg class={kind} ", 1))
    return (f"<figure>{''.join(pictures)}" + (f"<figcaption>{legend}</figcaption>" if first != "lr" else "")
            + "</figure>")
