"""Escape from a local minimum: five functions with known global minima, thousands of noisy descents at once.

Every descent is a row of one array, which one fastlr optimizer updates: an elementwise rule treats each element
independently. Each function is divided by the largest curvature at its local minimum, so that learning rates are
comparable: gradient descent is stable there below 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import fastlr

from .data import Dataset
from .networks import Array
from .rates import rate

NEAR = 1e-2  # within this distance a point counts as at a minimum; no two minima are closer than 0.99
SHOWN = 150  # end points in a result, for the figure
FOLLOWED = 5  # starts whose paths are in a result
FRAMES = 60  # of a path, after the start
NOISELESS_STEPS = 600  # of descent, after which a point is near the minimum of its basin


@dataclass(frozen=True)
class Landscape:
    """f(x, y) and its gradient over rows of points; the start of all descents, and every global minimum.

    `start` is a local minimum, not a global one; `curvature` is the largest eigenvalue of the Hessian there.
    `view` is the part that a figure shows: (left, right, bottom, top).
    """

    title: str
    height: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    start: tuple[float, float]
    curvature: float
    best: tuple[tuple[float, float], ...]
    view: tuple[float, float, float, float]


def columns(p: Array) -> tuple[Array, Array]:
    return p[..., 0], p[..., 1]


def double_well(p: Array) -> Array:
    x, y = columns(p)
    heights: Array = (x * x - 1) ** 2 + 0.3 * x + 2 * y * y
    return heights


def double_well_slope(p: Array) -> Array:
    x, y = columns(p)
    return np.stack([4 * (x * x - 1) * x + 0.3, 4 * y], -1)


def three_hump(p: Array) -> Array:
    x, y = columns(p)
    xx = x * x  # a power of an array takes as long as ten products
    heights: Array = (2 - (1.05 - xx / 6) * xx) * xx + (x + y) * y
    return heights


def three_hump_slope(p: Array) -> Array:
    x, y = columns(p)
    xx = x * x
    return np.stack([(4 - (4.2 - xx) * xx) * x + y, x + 2 * y], -1)


def six_hump(p: Array) -> Array:
    x, y = columns(p)
    xx, yy = x * x, y * y
    heights: Array = (4 - (2.1 - xx / 3) * xx) * xx + x * y + 4 * (yy - 1) * yy
    return heights


def six_hump_slope(p: Array) -> Array:
    x, y = columns(p)
    xx = x * x
    return np.stack([(8 - (8.4 - 2 * xx) * xx) * x + y, x + (16 * y * y - 8) * y], -1)


def styblinski_tang(p: Array) -> Array:
    heights: Array = 0.5 * (((p * p - 16) * p + 5) * p).sum(-1)
    return heights


def styblinski_tang_slope(p: Array) -> Array:
    return (2 * p * p - 16) * p + 2.5


def rastrigin(p: Array) -> Array:
    heights: Array = 20 + (p * p - 10 * np.cos(2 * np.pi * p)).sum(-1)
    return heights


def rastrigin_slope(p: Array) -> Array:
    return 2 * p + 20 * np.pi * np.sin(2 * np.pi * p)


# minima by Newton's method, started at the published ones; tests/test_study.py searches for them on a lattice
LANDSCAPES = {
    "double-well": Landscape(
        "Tilted double well", double_well, double_well_slope,
        (0.9601495555191055, 0.0), 7.0626460, ((-1.0355787140888537, 0.0),), (-2.0, 2.0, -1.5, 1.5)),
    "three-hump": Landscape(
        "Three-hump camel", three_hump, three_hump_slope,
        (1.747552345830289, -0.8737761729151445), 12.2506441, ((0.0, 0.0),), (-2.6, 2.6, -1.95, 1.95)),
    "six-hump": Landscape(
        "Six-hump camel", six_hump, six_hump_slope,
        (-1.7036067149699807, 0.7960835686726251), 22.6975150,
        ((0.08984201310031806, -0.7126564030207396), (-0.08984201310031806, 0.7126564030207396)),
        (-2.2, 2.2, -1.65, 1.65)),
    "styblinski-tang": Landscape(
        "Styblinski-Tang", styblinski_tang, styblinski_tang_slope,
        (2.746802770990837, 2.746802770990837), 29.2695528,
        ((-2.9035340277711772, -2.9035340277711772),), (-5.2, 5.2, -3.9, 3.9)),
    "rastrigin": Landscape(
        "Rastrigin", rastrigin, rastrigin_slope,
        (0.9949586376523348, 0.9949586376523348), 396.5861376, ((0.0, 0.0),), (-3.4, 3.4, -2.55, 2.55)),
}  # fmt: skip


@dataclass(frozen=True)
class Escape:
    """One experiment: `starts` descents of `steps` steps from the local minimum of a landscape, with noise.

    A normal deviate of standard deviation `noise` is added to each component of each gradient.
    """

    landscape: str
    lr: float
    starts: int = 2000
    steps: int = 2000
    noise: float = 2.0
    seed: int = 0
    optimizer: str = "sgd"
    schedule: str | None = None

    def __str__(self) -> str:
        return f"{self.landscape} lr {self.lr:g}"

    def execute(self, data: Dataset) -> EscapeResult:
        return escape(self)


@dataclass(frozen=True)
class EscapeResult:
    """Where the descents ended, as fractions of their number.

    `escaped`: outside the basin of the local minimum. `found`: in the basin of a global minimum, which is a part of
    `escaped`. `lost`: not finite, counted in neither. The basin of a point is that to which descent without noise
    leads. `points` are the first end points, before that descent; None for one that is not finite. `paths` are the
    first starts' points at `frames(steps)` updates, with three decimals, until one is not finite.
    """

    task: Escape
    escaped: float
    found: float
    lost: float
    points: tuple[tuple[float, float] | None, ...]
    paths: tuple[tuple[tuple[float, float], ...], ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self.task) | {
            "escaped": self.escaped, "found": self.found, "lost": self.lost,
            "points": [point and list(point) for point in self.points],
            "paths": [[list(point) for point in path] for path in self.paths],
        }  # fmt: skip

    def __str__(self) -> str:
        return f"{self.task}: {100 * self.escaped:.1f} % escaped"


def frames(steps: int) -> list[int]:
    """The numbers of updates after which paths have a point, from 0 on: close at first, as squares are."""
    return [round(k * k * steps / FRAMES**2) for k in range(FRAMES + 1)]


def paths_of(seen: list[Array]) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The path of each start, from the points (starts, 2) of all of them at each frame."""
    made = []
    for path in np.stack(seen, axis=1):
        finite = np.isfinite(path).all(axis=1)
        count = len(path) if finite.all() else int(finite.argmin())
        made.append(tuple((round(float(x), 3), round(float(y), 3)) for x, y in path[:count]))
    return tuple(made)


def escape(task: Escape) -> EscapeResult:
    """Run all descents of one landscape together, then find the basin of each end point."""
    land = LANDSCAPES[task.landscape]
    start = np.array(land.start)
    x = np.repeat(start[None], task.starts, axis=0)
    rng = np.random.default_rng((task.seed, 2))
    with np.errstate(all="ignore"):
        opt = fastlr.create_optimizer(task.optimizer, x, lr=rate(task.lr, task.schedule, task.steps))
        times = frames(task.steps)
        seen = [x[:FOLLOWED].copy() for time in times if time == 0]
        for update in range(1, task.steps + 1):
            opt.step(land.slope(x) / land.curvature + task.noise * rng.standard_normal(x.shape))
            seen += [x[:FOLLOWED].copy()] * times.count(update)
        points = tuple((float(a), float(b)) if np.isfinite(a + b) else None for a, b in x[:SHOWN])
        noiseless = fastlr.SGD(x, lr=0.2, clip_value=1.0)  # (clipped, as gradients far away are too large)
        for _ in range(NOISELESS_STEPS):
            noiseless.step(land.slope(x) / land.curvature)
    finite = np.isfinite(x).all(axis=1)
    away = np.hypot(*(x - start).T) > NEAR
    at_global = np.zeros(task.starts, bool)
    for best in land.best:
        at_global |= np.hypot(*(x - np.array(best)).T) < NEAR
    escaped, found, lost = (float(where.mean()) for where in (finite & away, finite & at_global, ~finite))
    return EscapeResult(task, escaped, found, lost, points, paths_of(seen))
