"""Small figures as SVG text: scales, axes, lines, bands and marks. Colors are CSS classes of the page.

Everything is drawn at the size at which it is shown, so that text has the size of the text around it: a figure is a
panel about 330 units wide, of which a page shows one, two or three side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, isfinite, log10

Point = tuple[float, float]


class Scale:
    """Maps values from `low` to `high` to coordinates from `start` to `end`, linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        if high <= low:
            low, high = (low / 1.5, low * 1.5) if log else (low - 0.5, low + 0.5)
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        """The coordinate of a value; values outside the range are clipped to it."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = log10(value / self.low) / log10(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6, whole: bool = False) -> list[float]:
        """Round values in the range, whole numbers if `whole`: two of them at least, and at most `most`."""
        if self.log:
            tens = [10.0**k for k in range(ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9) + 1)]
            if len(tens) < 3:
                tens = [
                    m * 10.0**k
                    for k in range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
                    for m in (1, 2, 5)
                    if self.low * 0.999 <= m * 10.0**k <= self.high * 1.001
                ]
            if len(tens) > 2:
                return tens[:: ceil(len(tens) / most)]
        # (also of a logarithmic scale that is less than a decade)
        step = 10.0 ** floor(log10((self.high - self.low) / most))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (m * step) <= most)
        step = max(step, 1.0) if whole else step
        return [k * step for k in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """The text of a value on an axis."""
    if value and (abs(value) < 9.9e-5 or abs(value) >= 1e5):
        mantissa, exponent = f"{value:.0e}".split("e")
        return ("" if mantissa == "1" else f"{mantissa}×") + f"10{superscript(int(exponent))}"
    return f"{value:,g}" if abs(value) < 1000 else f"{value:,.0f}"


def superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def place(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


class Panel:
    """One figure: axes, and the marks between them."""

    def __init__(
        self,
        title: str,
        description: str,
        width: int = 330,
        height: float = 230,
        left: int = 46,
        right: int = 12,
        top: int = 30,
        bottom: int = 40,
    ) -> None:
        self.width, self.height = width, height
        self.box = left, top, width - right, height - bottom
        self.parts: list[str] = []
        self.title, self.description = title, description
        if title:
            self.text(left, 17, title, "panel-title", "start")

    def axes(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        x_log: bool = False,
        y_log: bool = False,
        x_ticks: Sequence[float] | None = None,
        x_whole: bool = False,
    ) -> None:
        """Draw scales, grid lines and labels; after this `self.x` and `self.y` map values to coordinates."""
        left, top, right, bottom = self.box
        self.x, self.y = Scale(*x, left, right, x_log), Scale(*y, bottom, top, y_log)
        for value in self.y.ticks(5):
            self.line([(left, self.y(value)), (right, self.y(value))], "grid")
            self.text(left - 6, self.y(value) + 4, short(value), "tick", "end")
        for value in self.x.ticks(6, x_whole) if x_ticks is None else x_ticks:
            self.line([(self.x(value), bottom), (self.x(value), bottom + 4)], "axis")
            self.text(self.x(value), bottom + 17, short(value), "tick", "middle")
        self.line([(left, bottom), (right, bottom)], "axis")
        self.text((left + right) / 2, self.height - 6, x_label, "label", "middle")
        # above the axis, as text along it would be turned
        self.text(right, 17, y_label, "label", "end")

    def line(self, points: Iterable[Point], kind: str, hover: str = "") -> None:
        shown = " ".join(f"{place(x)},{place(y)}" for x, y in points)
        self.parts.append(f'<polyline class="{kind}" points="{shown}">{title(hover)}</polyline>')

    def level(self, y: float, hover: str) -> None:
        """A dashed line across, at one value."""
        self.line([(self.box[0], self.y(y)), (self.box[2], self.y(y))], "target", hover)

    def curve(self, xs: Sequence[float], ys: Sequence[float | None], kind: str, hover: str = "") -> None:
        """A line through values; a value that is None or not finite interrupts it."""
        run: list[Point] = []
        for x, y in [*zip(xs, ys, strict=True), (0.0, None)]:
            if y is not None and isfinite(y) and (y > 0 or not self.y.log):
                run.append((self.x(x), self.y(y)))
            elif run:
                self.line(run if len(run) > 1 else [run[0], run[0]], kind, hover)
                run = []

    def band(self, xs: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None], kind: str) -> None:
        """The area between two curves, over the first values that both have."""
        known = [(x, a, b) for x, a, b in zip(xs, lows, highs, strict=True) if a is not None and b is not None]
        if len(known) > 1:
            there = [(self.x(x), self.y(b)) for x, _, b in known]
            back = [(self.x(x), self.y(a)) for x, a, _ in reversed(known)]
            self.area([*there, *back], kind)

    def area(self, points: Iterable[Point], kind: str) -> None:
        self.parts.append(f'<polygon class="{kind}" points="{" ".join(f"{place(x)},{place(y)}" for x, y in points)}"/>')

    def dot(self, x: float, y: float, kind: str, hover: str = "", radius: float = 3.5) -> None:
        self.parts.append(
            f'<circle class="{kind}" cx="{place(x)}" cy="{place(y)}" r="{radius:g}">{title(hover)}</circle>'
        )

    def bar(self, x: float, y: float, width: float, height: float, kind: str, hover: str = "") -> None:
        self.parts.append(
            f'<rect class="{kind}" x="{place(x)}" y="{place(y)}" width="{place(max(width, 0))}" '
            f'height="{place(height)}">{title(hover)}</rect>'
        )

    def text(self, x: float, y: float, text: str, kind: str, anchor: str = "start") -> None:
        self.parts.append(
            f'<text class="{kind}" x="{place(x)}" y="{place(y)}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def path(self, d: str, kind: str) -> None:
        self.parts.append(f'<path class="{kind}" d="{d}"/>')

    def group(self, kind: str) -> None:
        self.parts.append(f'<g class="{kind}">')

    def end_group(self) -> None:
        self.parts.append("</g>")

    def svg(self) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height:g}" role="img" aria-label="{escape(self.description)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def title(hover: str) -> str:
    return f"<title>{escape(hover)}</title>" if hover else ""


def interpolated_color(stops: Sequence[str], share: float) -> str:
    """The color at the fraction `share` of the way from the first to the last of stops like "#a0b1c2"."""
    place_ = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    k = min(int(place_), len(stops) - 2)
    a, b = ([int(stops[j][i : i + 2], 16) for i in (1, 3, 5)] for j in (k, k + 1))
    return "#" + "".join(f"{round(u + (v - u) * (place_ - k)):02x}" for u, v in zip(a, b, strict=True))


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1], as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours, from 1 to 21, as WCAG 2 defines it."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
