"""One picture of all schedules: `python -m fastlr.schedules.gallery docs/schedules.svg`."""
from __future__ import annotations

import hashlib
import sys
import textwrap
from pathlib import Path

import numpy as np

from .base import Schedule
from .expression import parse
from .picture import FAINT, INK, escaped, line
from .registry import REGISTRY

UPDATES = 100
#: The expression that shows each schedule, as its class declares it, and the schedule itself.
SHOWN: dict[str, str] = {name: cls._example for name, cls in REGISTRY.items() if cls._example}
EXAMPLES: dict[str, Schedule] = {name: parse(text) for name, text in SHOWN.items()}

COLUMNS, WIDTH, HEIGHT = 4, 290, 158


def digest(name: str) -> str:
    """What a schedule's panel shows, in 16 letters; the rates to nine digits, on which every platform's libm agrees."""
    rates = " ".join(f"{rate:.9e}" for rate in EXAMPLES[name](np.arange(UPDATES)))
    return hashlib.sha256(f"{name} {SHOWN[name]} {rates}".encode()).hexdigest()[:16]


def panel(name: str, x: float, y: float) -> str:
    """One schedule: its name, its curve, its expression."""
    t = np.linspace(0, UPDATES - 1, 20 * (UPDATES - 1) + 1)         # (so many that a jump is drawn as a jump)
    rates = EXAMPLES[name](t)
    box = (x + 12.0, y + 30.0, WIDTH - 36.0, HEIGHT - 74.0)
    left, upper, wide, high = box
    written = "".join(
        f'<text x="{left:g}" y="{upper + high + 15 + 12 * k:g}" font-size="10" font-family="monospace" '
        f'fill="{INK}">{escaped(part)}</text>'
        for k, part in enumerate(textwrap.wrap(SHOWN[name], 40, break_long_words=False))
    )
    return (
        f"<!-- {name} {digest(name)} -->"
        f'<text x="{left:g}" y="{y + 20:g}" font-size="13" font-weight="600" fill="#1f2328">{name}</text>'
        f'<path d="M{left:g},{upper + high:g}h{wide:g}" stroke="{FAINT}"/>'
        + line(t, rates, box, float(rates.max()), UPDATES - 1)
        + written
    )


def svg() -> str:
    """The picture, with the digest of each panel in a comment."""
    names = list(SHOWN)
    rows = -(-len(names) // COLUMNS)
    width, height = COLUMNS * WIDTH + 16, rows * HEIGHT + 56
    panels = [panel(name, 8 + k % COLUMNS * WIDTH, 44 + k // COLUMNS * HEIGHT) for k, name in enumerate(names)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="20" y="32" font-size="18" font-weight="600" fill="#1f2328">The {len(REGISTRY)} schedules of '
        f'fastlr.schedules</text><text x="{width - 20}" y="32" font-size="11" text-anchor="end" fill="{INK}">'
        f"rate from 0 to the highest, over {UPDATES} updates</text>",
        *panels,
        "</svg>\n",
    ])


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m fastlr.schedules.gallery FILE.svg")
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
