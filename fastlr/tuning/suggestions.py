"""Rules that suggest a rate from the learning rates of a range test and the losses after each.

Each takes rates that rise geometrically and smoothed, finite losses of the same length, and returns a rate. The first
four are fastai's (`fastai.callback.schedule`), in terms of d loss / d log(rate), so that the spacing does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def smoothed(losses: Any, beta: float, before: float | None = None) -> Floats:
    r"""The debiased exponential mean of each row of losses.

    .. math:: s_i = \frac{(1 - \beta) \sum_{j \le i} \beta^{i - j} l_j}{1 - \beta^{i + 1}}

    `before` is the loss before the first of them. After a loss that is not finite, the means are not finite either.
    """
    rows = np.atleast_2d(np.asarray(losses, np.float64))
    mean, weight = (0.0, 0.0) if before is None else ((1 - beta) * before, 1 - beta)
    sums, out = np.full(len(rows), mean), np.empty_like(rows)
    for i in range(rows.shape[1]):
        sums = beta * sums + (1 - beta) * rows[:, i]
        weight = beta * weight + (1 - beta)
        out[:, i] = sums / weight
    return out.reshape(np.shape(losses))


def steepest(lrs: Floats, losses: Floats) -> float:
    """Where the loss falls fastest: the rate at the most negative difference quotient by log(rate)."""
    return float(lrs[np.argmin(np.diff(losses) / np.diff(np.log(lrs)))])


def valley(lrs: Floats, losses: Floats) -> float:
    """The middle of the longest falling run, a run being a strictly decreasing subsequence, as fastai counts it."""
    n = len(losses)
    length = np.ones(n, np.int64)
    for i in range(1, n):
        higher = length[:i][losses[:i] > losses[i]]
        if len(higher):
            length[i] = 1 + higher.max()
    end = int(length.argmax())
    longest = int(length[end])
    third = longest / 3
    return float(lrs[max(end - longest + int(third) + int(third / 2), 0)])


def slide(lrs: Floats, losses: Floats, interval: int = 15, threshold: float = 0.005) -> float:
    """From the highest rate downwards: the first rate where slopes `interval` points apart differ little."""
    slope = np.gradient(losses)
    right = len(losses) - 1
    left = max(right - interval, 0)
    found = left
    while left >= 0 and abs(slope[right] - slope[left]) > threshold:
        found, right, left = left, right - 1, left - 1
    return float(lrs[found])


def minimum(lrs: Floats, losses: Floats) -> float:
    """A tenth of the rate of the least loss."""
    return float(lrs[np.argmin(losses)]) / 10


def middle(lrs: Floats, losses: Floats) -> float:
    """The geometric mean of the valley and the rate of the least loss. (No other library has this rule.)"""
    return float(np.sqrt(valley(lrs, losses) * lrs[np.argmin(losses)]))


RULES = {"steepest": steepest, "valley": valley, "slide": slide, "minimum": minimum, "middle": middle}


def suggest(lrs: Floats, losses: Floats) -> dict[str, float]:
    """The rate that each rule suggests, from the losses up to the first that is not finite.

    As in fastai, the first tenth of the sweep and the last five points before that loss are left out, unless fewer than
    five points remain.
    """
    broken = ~np.isfinite(losses)
    end = int(broken.argmax()) if broken.any() else len(lrs)
    first, last = len(lrs) // 10, end - 5
    seen = slice(first, last) if last - first >= 5 else slice(0, end)
    return {name: rule(lrs[seen], losses[seen]) for name, rule in RULES.items()}


def median(rows: Floats) -> Floats:
    """The median of each column, NaN counting as infinite; NaN where that is not finite."""
    middle = np.median(np.where(np.isfinite(rows), rows, np.inf), axis=0)
    out: Floats = np.where(np.isfinite(middle), middle, np.nan)
    return out
