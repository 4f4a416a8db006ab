"""Pictures of the site, as SVG inside of its pages: the path of an optimizer, and the curve of a schedule.

Colours are those of the page, light or dark (static/site.css). An optimizer is shown in a bent valley,

    f(x, y) = (1 - x)^2 + 10 (y - x^2)^2

from (-1.2, 1) on, in float64 and without weight decay: 100 updates at the one of the rates in RATES whose highest loss
in the last 20 updates is lowest. Rules that find their step size are shown at their own rate. A matrix rule sees the
two numbers as a row.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np
from contourpy import contour_generator

from fastlr.schedules.picture import escaped, horizon, sampled, short, thinned

UPDATES = 100
RATES = tuple(float(f"{10 ** (k / 4):.2g}") for k in range(-16, 5))
START = (-1.2, 1.0)
LEVELS = (0.1, 0.5, 1.5, 4, 9, 18, 35)
LEFT, RIGHT, LOWER, UPPER = -1.8, 1.8, -0.8, 2.2           # what is shown of the plane
WIDE, HIGH = 336, 280                                       # of that, in pixels


def value(p: Any) -> float:
    x, y = p.flat
    return float((1 - x) ** 2 + 10 * (y - x * x) ** 2)


def gradient(p: Any) -> Any:
    x, y = p.flat
    return np.array([-2 * (1 - x) - 40 * x * (y - x * x), 20 * (y - x * x)]).reshape(p.shape)


def curvature(p: Any) -> Any:
    """The diagonal of the Hessian, what Gauss and Newton leave of it: never negative."""
    x = p.flat[0]
    return np.array([2 + 80 * x * x, 20.0]).reshape(p.shape)


def path(cls: Any, lr: float) -> tuple[Any, Any]:
    """Where an optimizer passes, and the loss there, up to the first that is not finite."""
    p = np.array(START).reshape((1, 2) if getattr(cls, "kind", "") == "matrix" else (2,))
    opt = cls(p, lr=lr, weight_decay=0.0)
    places, losses = [p.ravel().copy()], [value(p)]
    for _ in range(UPDATES):
        more = {"loss": value(p)} if cls.needs_loss else {"curvature": curvature(p)} if cls.needs_curvature else {}
        with np.errstate(all="ignore"):
            opt.step(gradient(p), **more)
            loss = value(p)
        if not (math.isfinite(loss) and loss < 1e6):
            break
        places.append(p.ravel().copy())
        losses.append(loss)
    return np.array(places), np.array(losses)


def best_path(cls: Any) -> tuple[float, Any, Any]:
    """The rate that stays lowest at the end, and its path."""
    own = cls.hypers["lr"].default
    finds_its_step = cls.__module__.endswith("learning_rate_free")
    paths = [(lr, *path(cls, lr)) for lr in ((own,) if finds_its_step else RATES)]
    whole = [one for one in paths if len(one[2]) == UPDATES + 1]
    return min(whole, key=lambda one: one[2][-20:].max()) if whole else max(paths, key=lambda one: len(one[2]))


def points(x: Any, y: Any) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def in_plane(places: Any) -> tuple[Any, Any]:
    """Places of the plane, in pixels."""
    return (places[:, 0] - LEFT) / (RIGHT - LEFT) * WIDE, (UPPER - places[:, 1]) / (UPPER - LOWER) * HIGH


def contours() -> str:
    x, y = np.meshgrid(np.linspace(LEFT, RIGHT, 121), np.linspace(LOWER, UPPER, 121))
    made = contour_generator(x=x, y=y, z=(1 - x) ** 2 + 10 * (y - x * x) ** 2)
    lines = []
    for level in LEVELS:
        for line in made.lines(level):
            x_, y_ = in_plane(line)
            keep = thinned(np.arange(len(x_), dtype=float), np.hypot(x_, y_), 0.15)
            lines.append(f'<polyline class="contour" points="{points(x_[keep], y_[keep])}"/>')
    return "".join(lines)


CONTOURS = contours()


def optimizer(cls: Any) -> str:
    """The path through the valley, and beside it (below it on a narrow screen) the loss by update."""
    lr, places, losses = best_path(cls)
    x, y = in_plane(places)
    end = in_plane(np.array([[1.0, 1.0]]))
    dots = "".join(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="1.8"/>' for a, b in zip(x, y, strict=True)
                   if -5 < a < WIDE + 5 and -5 < b < HIGH + 5)
    said = (f"{cls.__name__}: {UPDATES} updates at a learning rate of {lr:g}; the loss goes from {losses[0]:.3g} to "
            f"{losses[-1]:.2g}")
    valley = (f'<svg class="picture" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{said}">{CONTOURS}'
              f'<circle class="end" cx="{end[0][0]:.1f}" cy="{end[1][0]:.1f}" r="5"/>'
              f'<polyline class="line" points="{points(x.clip(-900, 900), y.clip(-900, 900))}"/>{dots}</svg>')
    lowest = math.floor(math.log10(max(losses.min(), 1e-16)))
    highest = math.ceil(math.log10(losses.max()))
    scale = np.log10(losses.clip(10.0 ** lowest)) - lowest
    height = max(highest - lowest, 1)
    box = (58.0, 12.0, 262.0, 232.0)
    steps = sorted({lowest, (lowest + highest) // 2, highest})
    text = "".join(f'<text x="{box[0] - 6:g}" y="{box[1] + box[3] * (1 - (k - lowest) / height) + 4:.0f}" '
                   f'text-anchor="end">1e{k}</text>' for k in steps)
    curve = points(box[0] + box[2] * np.arange(len(losses)) / UPDATES, box[1] + box[3] * (1 - scale / height))
    loss = (f'<svg class="picture" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="the loss by update">'
            f'{axes(box)}{text}<text x="{box[0]:g}" y="262" text-anchor="middle">0</text>'
            f'<text x="{box[0] + box[2]:g}" y="262" text-anchor="end">{UPDATES} updates</text>'
            f'<text x="{box[0] + box[2]:g}" y="{box[1] + 10:g}" text-anchor="end">loss</text>'
            f'<polyline class="line" points="{curve}"/></svg>')
    return f'<figure class="pictures"><div>{valley}{loss}</div><figcaption>{said}.</figcaption></figure>'


def axes(box: tuple[float, float, float, float]) -> str:
    left, upper, wide, high = box
    return f'<path class="axis" d="M{left:g},{upper:g}V{upper + high:g}H{left + wide:g}"/>'


def curve(schedule: Any, expression: str) -> str:
    """The rates of a schedule from its beginning to its end and a little further."""
    n = horizon(schedule)
    t, rates = sampled(schedule, n, 1200)
    top = float(rates.max()) or 1.0
    box = (46.0, 12.0, 604.0, 190.0)
    left, upper, wide, high = box
    x, y = left + wide * t / max(n - 1, 1), upper + high * (1 - rates / top)
    keep = thinned(x, y, 0.2)
    return (f'<figure class="pictures"><div><svg class="picture wide" viewBox="0 0 660 230" role="img" '
            f'aria-label="{escaped(expression)} by update">{axes(box)}'
            f'<text x="{left - 6:g}" y="{upper + 4:g}" text-anchor="end">{short(top)}</text>'
            f'<text x="{left - 6:g}" y="{upper + high + 4:g}" text-anchor="end">0</text>'
            f'<text x="{left + wide:g}" y="222" text-anchor="end">{short(n - 1)} updates</text>'
            f'<polyline class="line" points="{points(x[keep], y[keep])}"/></svg></div>'
            f'<figcaption><code>{escaped(expression)}</code></figcaption></figure>')
