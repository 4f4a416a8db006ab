"""The statistics of a run's losses that `diagnose` reads: levels, falls, noise, and when what was gained.

They have no unit: quotients, shares of the run's own gain, positions in the run.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCKS = 12                # parts of a run whose means are compared
FEWEST_VALIDATIONS = 6
FEWEST_OF_TAILS = 60       # losses of the later half, of which 5 are in each part
MOST_VALIDATIONS = 40      # more are averaged: such a series has the noise of its batches


class Measured(NamedTuple):
    """Of the losses. The second part has points; "over" is a quotient, "log" its logarithm."""

    start: float
    now: float                 # over start
    now_of_first: float        # over the first loss, which a run that blows up at once has alone below its start
    highest: float             # the highest median of 5 losses, less three deviations of the noise, over start, and
                               # over how far such medians rise in the later half by noise alone
    values: int                # different losses
    range: float               # of the losses, over the highest
    lost: float                # end over the least median of 5 losses of the first half, in deviations of the noise
    unsure: float              # standard error of the start, over start
    gained: float              # share of the start's loss
    rising: float              # share of changes in the later half that are rises
    swing: float               # 90 % range of the later half over its median
    points_of: dict[str, float]


def measure(losses: Floats, validation: Floats | None = None) -> Measured:
    """The statistics that rules and points read. (Losses that are not finite are left out.)"""
    y = comparable(losses)
    n, half = len(y), y[len(y) // 2:]
    first = y[: max(n // 40, 1)]
    start = float(first.mean()) or float(y[y > 0].min(initial=math.inf))
    start = start if math.isfinite(start) else 1.0                       # all are 0
    tiny = 1e-9 * start
    parts = min(BLOCKS, max(n // 2, 1))
    means = np.array([part.mean() for part in np.array_split(y, parts)])
    later = np.array([part.mean() for part in np.array_split(half, min(BLOCKS, len(half)))])
    i, j = np.triu_indices(len(later), 1)
    fall = -float(np.median((later[j] - later[i]) / (j - i))) * len(later) if len(i) else 0.0
    smooth = noise_of(half)
    changes = np.diff(half)
    noise = max(float(changes.std()) / math.sqrt(2) if len(changes) > 1 else 0.0, smooth)
    now, quarter, least = float(y[-max(n // 10, 1):].mean()), float(y[-max(n // 4, 1):].mean()), float(means.min())
    middle = float(y[int(0.45 * n): int(0.55 * n) + 1].mean())
    scale = max(start - least, tiny)
    error = noise * math.sqrt(12 / len(half)) + tiny                     # of a straight line's fall over its length
    width = 5 if n >= 40 else 3
    rest = y[len(first):] if n >= 2 * width + len(first) else y
    medians = np.median(np.lib.stride_tricks.sliding_window_view(rest, width), axis=1) if n >= width else y
    spread = changes.std() > tiny and len(changes) > 3
    points_of = {
        "end": log(now / start),
        "peak": log(max(float(medians.max()) - 2 * noise_of(y), 0.1 * start) / start),
        "peak in noise": log((float(y[1:].max(initial=0.0)) - start) / (noise + tiny) + 1e-3),
        "late share": float(np.clip((middle - now) / scale, -2, 2)),
        "noise": log(noise / max(quarter, tiny) + 1e-6),
        "noise of gain": log(noise / scale + 1e-6),
        "noise late": log((smooth + tiny) / (noise_of(y[: max(n // 4, 6)]) + tiny)),
        "nine tenths": float(np.argmax(means <= start - 0.9 * scale)) / parts,
        "half": float(np.argmax(means <= start - 0.5 * scale)) / parts,
        "gain": log(max(start - quarter, 0) / error + 1e-3),
        "fall": float(np.clip(fall / error, -20, 40)),
        "turning": float(np.corrcoef(changes[1:], changes[:-1])[0, 1]) if spread else 0.0,
    }
    most = float(np.argmax(means <= start - 0.8 * (start - quarter))) / parts if quarter < start else 1.0
    points_of |= {"most": most, "late fall": float(np.clip(fall / scale, -2, 2)),
                  "late drop": log(middle / max(now, tiny))}
    if validation is not None:
        known = losses[np.isfinite(losses)]
        points_of |= measure_validation(validation, float(known[: len(first)].mean()) if len(known) else math.nan)
    points_of = {name: value if math.isfinite(value) else 0.0 for name, value in points_of.items()}
    return Measured(
        float(losses[0]), now / start, now / max(float(y[0]), tiny),
        highest=max((float(medians.max()) - 3 * noise_of(y)) / start / rises_of_noise(half, later), 1.0),
        values=len(np.unique(y)),
        range=float(np.ptp(y)) / (float(y.max()) or 1.0),
        lost=(now - float(medians[: max(len(medians) // 2, 1)].min())) / (max(noise, noise_of(y)) + tiny),
        unsure=1.25 * noise_of(y[: max(n // 10, 6)]) / start / math.sqrt(len(first)),
        gained=1 - now / start,
        rising=float((changes > 0).mean()) if len(changes) else 0.0,
        swing=float(np.quantile(half, 0.95) - np.quantile(half, 0.05)) / (float(np.median(half)) or 1.0),
        points_of=points_of,
    )


def log(x: float) -> float:
    return float(np.clip(math.log(max(x, 1e-300)), -12, 12)) if math.isfinite(x) else 12.0


def noise_of(y: Floats) -> float:
    """The deviation of single values about a smooth course, from second differences: variance 6 of independent ones."""
    return 1.4826 * float(np.median(np.abs(y[2:] - 2 * y[1:-1] + y[:-2]))) / math.sqrt(6) if len(y) > 2 else 0.0


def rises_of_noise(half: Floats, means: Floats) -> float:
    """The highest median of 5 losses over the mean of its part of the later half: heavy tails rise without a high rate.
    """
    if len(half) < FEWEST_OF_TAILS:
        return 1.0
    level = np.repeat(means, [len(part) for part in np.array_split(half, len(means))])[2:-2]
    medians = np.median(np.lib.stride_tricks.sliding_window_view(half, 5), axis=1)
    return max(float((medians / np.maximum(level, 1e-300)).max()), 1.0)


def measure_validation(values: Floats, start: float = math.nan) -> dict[str, float]:
    """The statistics of a validation loss that have points; none of fewer than 6 finite values.

    It is the loss of the same rows each time. So it has no noise of batches: what moves it up and down is the weights,
    which a high rate moves too far. `start` is that of the training loss: a validation loss that begins lower was first
    taken after a part of the run, as by epochs.
    """
    finite = values[np.isfinite(values)]
    if len(finite) < FEWEST_VALIDATIONS:
        return {}
    v = comparable(values)
    if len(v) > MOST_VALIDATIONS:
        v = np.array([v[0], *(part.mean() for part in np.array_split(v[1:], MOST_VALIDATIONS // 2))])
    half = v[len(v) // 2:]
    tiny = 1e-9 * v.max() + 1e-300
    scale = max(float(v[0] - v.min()), tiny)
    rough = float(np.abs(half[2:] - 2 * half[1:-1] + half[:-2]).mean())
    later = start / float(finite[0]) if finite.min() > 0 and 0 < start < math.inf else 1.0
    first = float(v[0]) * min(max(later, 1e-6), 1e6)
    whole = max(first - float(v.min()), scale)
    return {
        "validation end": log(v[-1] / max(v[0], tiny)),
        "validation half": float(np.argmax(v <= v[0] - 0.5 * scale)) / (len(v) - 1),
        "validation late drop": log(half[0] / max(half[-1], tiny)),
        "validation noise": log(rough / max(float(half.mean()), tiny) + 1e-5),
        "validation noise of gain": log(rough / scale + 1e-5),
        "validation began": -log(later),
        "validation end of start": log(v[-1] / max(first, tiny)),
        "validation noise of start": log(rough / whole + 1e-5),
        "validation late share": float(np.clip((half[0] - half[-1]) / whole, -2, 2)),
    }


def comparable(values: Floats) -> Floats:
    """Those that are finite, scaled so that no sum overflows (no digit changes), and raised if any is negative."""
    y = values[np.isfinite(values)]
    y = np.ldexp(y, -int(np.frexp(np.abs(y).max(initial=0.0))[1]) - 1)
    least = y.min(initial=0.0)
    return y - least if least < 0 else y
