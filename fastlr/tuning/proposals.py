"""Which rate, and which other value, `tune_lr` tries next: where a Gaussian process through all scores may be lowest.

Scores of trials with smaller budgets tell about those with larger ones: the process has an offset for every budget and
one shape for all, which changes a little from one budget to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Point = tuple[float, ...]

WIDTH = 3.0                    # of the range of what is searched beside the rate, in decades of the rate
LENGTHS = (0.3, 0.6, 1.2)      # decades over which scores are alike: the likeliest is taken
NOISES = (1e-4, 1e-2)          # variance of a score, in that of all scores: the likelier is taken
KEPT = 0.65                    # correlation of the shapes at a budget and at the next
OFFSET = 10.0                  # variance of the offsets
HOPE = 1.0                     # deviations below the mean that count as expected
CUT = 1.5                      # scores further above the best than so many medians of the first budget count as that
PLACES = 8                     # on a decade of the rate, and of the width
NEAR = 1 / 24                  # decades within which no second point is tried


class Axis(NamedTuple):
    """The range of one value; places are at even distances of its logarithm, or of itself where it begins at 0."""

    name: str
    low: float
    high: float

    @property
    def width(self) -> float:
        """In decades of the rate."""
        return math.log10(self.high / self.low) if self.name == "lr" else WIDTH

    def value(self, at: float) -> float:
        """Of a place from 0 to `width`."""
        share = at / self.width
        if self.low == 0:
            return self.high * share
        least, most = math.log10(self.low), math.log10(self.high)
        return min(max(10 ** (least + share * (most - least)), self.low), self.high)


def first_points(axes: Sequence[Axis], count: int) -> list[Point]:
    """Rates at even distances; the other value runs through its range by the golden ratio."""
    golden = (math.sqrt(5) - 1) / 2
    points = []
    for k in range(count):
        others = [axis.width * ((0.5 + golden * k) % 1.0) for axis in axes[1:]]
        points.append((axes[0].width * k / (count - 1), *others))
    return points


def next_points(axes: Sequence[Axis], scores: Sequence[Mapping[Point, float]], count: int) -> list[Point]:
    """So many points for the largest budget: `scores` has those of each budget, lower is better; inf for none."""
    x, rung, y = observed(scores)
    places = lattice(axes, scores)
    tried = np.array(list(scores[-1])).reshape(-1, len(axes))
    lengths, noise = likeliest(x, rung, y)
    chosen: list[Point] = []
    for _ in range(count):
        mean, deviation = predicted(x, rung, y, places, len(scores) - 1, lengths, noise)
        hoped = mean - HOPE * deviation
        for other in tried:
            hoped[np.abs(places - other).max(axis=1) < NEAR] = np.inf
        best = int(hoped.argmin())
        chosen.append(tuple(places[best].tolist()))
        tried = np.vstack([tried, places[best]])
        x, rung, y = np.vstack([x, places[best]]), np.append(rung, len(scores) - 1), np.append(y, mean[best])
    return chosen


def lattice(axes: Sequence[Axis], scores: Sequence[Mapping[Point, float]]) -> Floats:
    """Places all over the ranges, and those that were tried with smaller budgets."""
    steps = [np.linspace(0, axis.width, round(axis.width * PLACES) + 1) for axis in axes]
    everywhere = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, len(axes))
    return np.vstack([everywhere, [point for of_budget in scores for point in of_budget]])


def observed(scores: Sequence[Mapping[Point, float]]) -> tuple[Floats, Floats, Floats]:
    """All points, the numbers of their budgets, and their scores, cut where they are far above the best."""
    points = [point for of_budget in scores for point in of_budget]
    rung = np.array([k for k, of_budget in enumerate(scores) for _ in of_budget], float)
    y = np.array([score for of_budget in scores for score in of_budget.values()])
    finite = np.isfinite(y)
    if finite.any() and y[finite].min() > 0:
        y = np.log(y)                              # a loss: what matters is by how many percent it is above the best
    elif finite.any():
        y = y / (np.abs(y[finite]).max() or 1.0)   # (so that no difference overflows)
    least = np.array([y[finite & (rung == k)].min(initial=np.inf) for k in rung])
    least = np.where(np.isfinite(least), least, y[finite].min(initial=0.0))
    first = (y - least)[finite & (rung == 0)]
    span = float(np.median(first)) * CUT if len(first) else 1.0
    above = np.minimum(np.where(finite, y - least, np.inf), span or 1.0)
    scale = above.std() or 1.0
    return np.array(points), rung, (above - above.mean()) / scale


def covariance(x: Floats, rung: Floats, others: Floats, other_rung: Floats, lengths: Floats) -> Floats:
    squares = (((x[:, None] - others[None]) / lengths) ** 2).sum(axis=-1)
    apart = np.abs(rung[:, None] - other_rung[None])
    found: Floats = np.exp(-0.5 * squares) * KEPT**apart + OFFSET * (apart == 0)
    return found


def likeliest(x: Floats, rung: Floats, y: Floats) -> tuple[Floats, float]:
    """The lengths, one for each axis, and the noise that make the scores likeliest."""
    grids = np.meshgrid(*[LENGTHS] * x.shape[1], indexing="ij")
    settings = [(lengths, noise) for lengths in np.stack(grids, axis=-1).reshape(-1, x.shape[1]) for noise in NOISES]
    likelihoods = []
    for lengths, noise in settings:
        lower = factor(x, rung, lengths, noise)
        whitened = np.linalg.solve(lower, y)
        likelihoods.append(-0.5 * whitened @ whitened - np.log(np.diag(lower)).sum())
    return settings[int(np.argmax(likelihoods))]


def factor(x: Floats, rung: Floats, lengths: Floats, noise: float) -> Floats:
    return np.asarray(np.linalg.cholesky(covariance(x, rung, x, rung, lengths) + noise * np.eye(len(x))), np.float64)


def predicted(x: Floats, rung: Floats, y: Floats, places: Floats, at: int, lengths: Floats,
              noise: float) -> tuple[Floats, Floats]:
    """Mean and deviation of the score at places, at a budget."""
    lower = factor(x, rung, lengths, noise)
    cross = np.linalg.solve(lower, covariance(x, rung, places, np.full(len(places), float(at)), lengths))
    mean = cross.T @ np.linalg.solve(lower, y)
    return mean, np.sqrt(np.maximum(1 + OFFSET - (cross**2).sum(axis=0), 1e-12))
