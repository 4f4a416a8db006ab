"""One picture of all schedules: `python -m fastlr.schedules.gallery docs/schedules.svg`."""
from __future__ import annotations

import hashlib
import sys
import textwrap
from pathlib import Path

import numpy as np

from .base import REGISTRY, Schedule
from .expression import parse
from .picture import FAINT, INK, escaped, line

# How each is written, and how many updates are shown.
SHOWN: dict[str, tuple[str, int]] = {
    "constant": ("constant(0.8)", 100),
    "linear": ("linear(1, steps=90)", 100),
    "polynomial": ("polynomial(1, steps=90, power=3)", 100),
    "cosine": ("cosine(1, steps=90)", 100),
    "rex": ("rex(1, steps=90)", 100),
    "one_minus_sqrt": ("one_minus_sqrt(1, steps=90)", 100),
    "one_minus_square": ("one_minus_square(1, steps=90)", 100),
    "tanh": ("tanh(1, steps=90)", 100),
    "sigmoid": ("sigmoid(1, slope=-0.12, middle=50)", 100),
    "log_linear": ("log_linear(0.01, steps=90, final=1)", 100),
    "exponential": ("exponential(1, decay=0.04)", 100),
    "geometric": ("geometric(1, factor=0.97)", 100),
    "time_based": ("time_based(1, decay=0.001)", 100),
    "inverse_time": ("inverse_time(1, decay=0.1)", 100),
    "inverse_sqrt": ("inverse_sqrt(1, timescale=4)", 100),
    "inverse_power": ("inverse_power(1, decay=0.1, power=2)", 100),
    "robbins_monro": ("robbins_monro(1, power=0.75, timescale=4)", 100),
    "noam": ("noam(512, warmup_steps=20)", 100),
    "step_decay": ("step_decay(1, every=25, factor=0.5)", 100),
    "step_based": ("step_based(1, drop=0.5, every=25)", 100),
    "piecewise_constant": ("piecewise_constant([1, 0.3, 0.6], at=[30, 60])", 100),
    "piecewise_linear": ("piecewise_linear([0, 1, 0.2, 0], at=[20, 60, 90])", 100),
    "wsd": ("wsd(1, 10, 50, 30, shape='1-sqrt')", 100),
    "knee": ("knee(1, explore_steps=50, exploit_steps=40)", 100),
    "one_cycle": ("one_cycle(1, steps=90)", 100),
    "one_cycle_momentum": ("one_cycle(1, steps=90).momentum()", 100),
    "range_test": ("range_test(0.01, final=1, steps=90)", 100),
    "triangular": ("triangular(0.1, peak=1, up=10, down=20)", 100),
    "triangular2": ("triangular2(0.1, peak=1, up=12)", 100),
    "triangular_exp": ("triangular_exp(0.1, peak=1, up=12, factor=0.98)", 100),
    "sine": ("sine(0.1, peak=1, steps=12)", 100),
    "sine2": ("sine2(0.1, peak=1, steps=12)", 100),
    "sine_exp": ("sine_exp(0.1, peak=1, steps=12, factor=0.98)", 100),
    "cosine_wave": ("cosine_wave(0.1, peak=1, steps=12)", 100),
    "cosine_wave2": ("cosine_wave2(0.1, peak=1, steps=12)", 100),
    "cosine_wave_exp": ("cosine_wave_exp(0.1, peak=1, steps=12, factor=0.98)", 100),
    "saw": ("saw(1, steps=24, final=0.1)", 100),
    "saw2": ("saw2(1, steps=24, final=0.1)", 100),
    "saw_exp": ("saw_exp(1, steps=24, factor=0.98)", 100),
    "sine_saw": ("sine_saw(1, steps=24, final=0.1)", 100),
    "sine_saw2": ("sine_saw2(1, steps=24, final=0.1)", 100),
    "sine_saw_exp": ("sine_saw_exp(1, steps=24, factor=0.98)", 100),
    "cosine_restarts": ("cosine_restarts(1, 14, cycle_factor=2, amplitude_factor=0.8)", 100),
    "warmup": ("cosine(1, steps=80).warmup(15)", 100),
    "join": ("linear(1, steps=40).then(cosine(0.6, steps=50), at=40)", 100),
    "product": ("cosine(1, steps=90) * sine(0.5, 1, steps=6)", 100),
    "scale": ("0.5 * linear(1, steps=90)", 100),
    "clip": ("cosine(1, steps=90).clip(0.2, 0.8)", 100),
    "shift": ("linear(1, steps=50).shift(25)", 100),
    "every": ("cosine(1, steps=9).every(10)", 100),
    "k_decay": ("cosine(1, steps=90).k_decay(90, k=2)", 100),
    "noise": ("cosine(1, steps=90).noise(0.3)", 100),
}
EXAMPLES: dict[str, tuple[Schedule, int]] = {name: (parse(text), n) for name, (text, n) in SHOWN.items()}

COLUMNS, WIDTH, HEIGHT = 4, 290, 158


def digest() -> str:
    """What the picture shows, in 16 letters; the rates to nine digits, which every platform's libm agrees on."""
    seen = hashlib.sha256()
    for name, (text, n) in sorted(SHOWN.items()):
        rates = EXAMPLES[name][0](np.arange(n))
        seen.update(f"{name} {text} {' '.join(f'{rate:.9e}' for rate in rates)}\n".encode())
    return seen.hexdigest()[:16]


def panel(name: str, x: float, y: float) -> str:
    """One schedule: its name, its curve, how it is written."""
    schedule, n = EXAMPLES[name]
    t = np.linspace(0, n - 1, 20 * (n - 1) + 1)         # so fine that a jump looks like one
    rates = schedule(t)
    box = (x + 12.0, y + 30.0, WIDTH - 36.0, HEIGHT - 74.0)
    left, upper, wide, high = box
    written = "".join(
        f'<text x="{left:g}" y="{upper + high + 15 + 12 * k:g}" font-size="10" font-family="monospace" '
        f'fill="{INK}">{escaped(part)}</text>'
        for k, part in enumerate(textwrap.wrap(SHOWN[name][0], 40, break_long_words=False))
    )
    return (
        f'<text x="{left:g}" y="{y + 20:g}" font-size="13" font-weight="600" fill="#1f2328">{name}</text>'
        f'<path d="M{left:g},{upper + high:g}h{wide:g}" stroke="{FAINT}"/>'
        + line(t, rates, box, float(rates.max()), n - 1)
        + written
    )


def svg() -> str:
    """The picture, with the digest of what it shows in a comment."""
    names = list(SHOWN)
    rows = -(-len(names) // COLUMNS)
    width, height = COLUMNS * WIDTH + 16, rows * HEIGHT + 56
    panels = [panel(name, 8 + k % COLUMNS * WIDTH, 44 + k // COLUMNS * HEIGHT) for k, name in enumerate(names)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f"<!-- {digest()} -->",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="20" y="32" font-size="18" font-weight="600" fill="#1f2328">The {len(REGISTRY)} schedules of '
        f'fastlr.schedules</text><text x="{width - 20}" y="32" font-size="11" text-anchor="end" fill="{INK}">'
        f"rate from 0 to the highest, over 100 updates</text>",
        *panels,
        "</svg>\n",
    ])


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m fastlr.schedules.gallery FILE.svg")
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
