"""Schedules as SVG: a line, its axes and their numbers; no other package is needed."""
from __future__ import annotations

from math import isfinite, log, sqrt
from typing import Any

import numpy as np

from fastlr._engine.compiled_schedule import CURVE_FIELDS, CompiledSchedule

LINE, INK, FAINT = "#1f6feb", "#57606a", "#d0d7de"


def horizon(schedule: CompiledSchedule) -> int:
    """How many updates to draw: to the end and a little further, or a few cycles."""
    nodes = schedule._nodes()

    def of(i: int) -> float:
        kind, left, right, curve, h = nodes[i]
        if kind == "curve":
            return length(dict(zip(CURVE_FIELDS[curve], h, strict=False)))
        if kind == "branch":
            return max(h[0], of(left), of(right))
        if kind == "product":
            return max(of(left), of(right))
        return of(left) * h[0] if kind == "every" else of(left) + h[0] if kind == "shift" else of(left)

    n = of(0)
    return int(min(max(n + 1 + n / 20, 2), 1e9)) if isfinite(n) else 100


def length(numbers: dict[str, float]) -> float:
    """About how many updates a curve with these numbers needs to reach its end, or to show its shape."""
    get = numbers.get
    if "up" in numbers:
        return 3 * (numbers["up"] + numbers["down"])
    if "amplitude_factor" in numbers or get("cycle"):
        return numbers["steps"] * (6 if "peak" in numbers else 4 if get("cycle_factor", 1) == 1 else 7)
    if "every" in numbers:
        return numbers["every"] * (5 / numbers["decay"] if get("decay") else 6)
    if "slope" in numbers:
        return max(numbers["middle"] + 8 / (abs(numbers["slope"]) or 1), 1)
    for keyword, factor in (("steps", 1), ("warmup_steps", 10), ("timescale", 20)):
        if keyword in numbers:
            return factor * numbers[keyword]
    if 0 < get("factor", 1) < 1:
        return -4 / log(numbers["factor"])
    if get("decay", 0) > 0:
        return sqrt(10 / numbers["decay"]) + 3 if len(numbers) == 2 and numbers["decay"] > 1 else 5 / numbers["decay"]
    return 100


def sampled(schedule: Any, n: int, most: int = 600) -> tuple[Any, Any]:
    """Times from 0 to n - 1 and the rates there, up to the first time that has none."""
    t = np.unique(np.linspace(0, n - 1, min(n, most)).round())
    try:
        return t, schedule(t)
    except ValueError:                         # past the end of a part, or too large for a number
        known = []
        for x in t:
            try:
                known.append(schedule(float(x)))
            except ValueError:
                break
        return t[: len(known)], np.array(known)


def thinned(x: Any, y: Any, within: float) -> list[int]:
    """The points that a line must have to pass all of them at a distance of at most `within` (Douglas and Peucker)."""
    keep, spans = {0, len(x) - 1}, [(0, len(x) - 1)]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        inner = slice(a + 1, b)
        off = abs(y[inner] - (y[a] + (y[b] - y[a]) * (x[inner] - x[a]) / (x[b] - x[a])))
        worst = a + 1 + int(off.argmax())
        if off.max() > within:
            keep.add(worst)
            spans += [(a, worst), (worst, b)]
    return sorted(keep)


def line(t: Any, rates: Any, box: tuple[float, float, float, float], top: float, last: float) -> str:
    """The polyline of some rates in a box (x, y, width, height) whose lower edge is the rate 0."""
    left, upper, width, height = box
    x = left + width * t / max(last, 1)
    y = upper + height * (1 - rates / (top or 1))
    points = " ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in thinned(x, y, 0.2))
    return f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="1.6" stroke-linejoin="round"/>'


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def short(x: float) -> str:
    """A number in few characters: 0.001, 1e-05, 10k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if x >= size:
            return f"{x / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{x:.3g}"


def svg(schedule: Any, n: int | None = None, width: int = 480, height: int = 200, title: str = "") -> str:
    """The first n rates as an SVG document; the highest, the lowest and the last time are written on its axes."""
    n = n or horizon(schedule)
    t, rates = sampled(schedule, n)
    top = float(rates.max()) if len(rates) else 1.0
    box = (60.0, 24.0, width - 76.0, height - 48.0)
    left, upper, wide, high = box
    right, lower = left + wide, upper + high
    text = f'font-family="sans-serif" font-size="11" fill="{INK}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        f'<path d="M{left:g},{upper:g}V{lower:g}H{right:g}M{left:g},{upper:g}H{right:g}" fill="none" stroke="{FAINT}"/>'
        f'<text x="{left - 6:g}" y="{upper + 4:g}" text-anchor="end" {text}>{short(top)}</text>'
        f'<text x="{left - 6:g}" y="{lower + 4:g}" text-anchor="end" {text}>0</text>'
        f'<text x="{left:g}" y="{lower + 16:g}" text-anchor="middle" {text}>0</text>'
        f'<text x="{right:g}" y="{lower + 16:g}" text-anchor="end" {text}>{short(n - 1)} updates</text>'
        + (f'<text x="{left:g}" y="{upper - 9:g}" {text}>{escaped(title)}</text>' if title else "")
        + (line(t, rates, box, top, n - 1) if len(t) else "") + "</svg>"
    )
