"""What the measurements of single tensors say, as `Optimizer.measure` makes them and a `History` keeps them.

The names of the series are "grad_norm/NAME", "update_norm/NAME", "update_ratio/NAME" and "clipped/NAME".
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KINDS = ("large updates", "vanishing gradients", "lost updates", "clipped")
FEWEST = 6
SHOWN = 5

#: Each a number without a unit, of medians over the last quarter of what was recorded.
LARGE = 0.1            # update norm over the tensor's: about 1e-3 is usual; a tenth replaces a tensor in ten steps
NEAR_ZERO = 0.05       # norm over that of the largest tensor: of less (biases) the ratio is large at any rate
VANISHING = 1e-5       # gradient norm over the largest of a tensor: shapes alone make differences of 1e-3
CLIPPED = 0.9          # share of steps that a norm clipped: the bound, not the gradient, tells how long steps are
MOST = 0.5             # share of the tensors from which on the rate of all is advised, not that of some


class OfTensors(NamedTuple):
    """A finding about some tensors: what `diagnosis.Finding` is made of."""

    kind: str
    evidence: dict[str, float]
    factor: float
    advice: str


def of_tensors(series: Mapping[str, tuple[Floats, Floats]]) -> list[OfTensors]:
    """What is to be said of single tensors, by the updates and values of each series; nothing where none was measured.
    """
    measured = {what: {name.split("/", 1)[1]: late(values) for name, (_, values) in series.items()
                       if name.startswith(f"{what}/") and np.isfinite(values).sum() >= FEWEST}
                for what in ("grad_norm", "update_norm", "update_ratio", "clipped")}
    gradients, updates = measured["grad_norm"], measured["update_norm"]
    alive = late(series["lr"][1]) > 0 if "lr" in series else True
    found = [large(measured["update_ratio"], updates), vanishing(gradients),
             lost(gradients, updates) if alive else None, clipped(measured["clipped"])]
    return [finding for finding in found if finding is not None]


def late(values: Floats) -> float:
    """The median of the last quarter of the finite values, NaN of none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite[-max(len(finite) // 4, 1):])) if len(finite) else float("nan")


def listed(names: list[str]) -> str:
    """Names in a sentence: a few, and how many more."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def large(ratios: Mapping[str, float], updates: Mapping[str, float]) -> OfTensors | None:
    """Tensors of which each update is a large part."""
    norms = {name: updates.get(name, 0.0) / ratio for name, ratio in ratios.items() if ratio > 0}
    largest = max(norms.values(), default=0.0)
    judged = [name for name, norm in norms.items() if norm > NEAR_ZERO * largest]
    names = sorted((name for name in judged if ratios[name] > LARGE), key=lambda name: -ratios[name])
    if not names:
        return None
    evidence = {f"update over norm of {name}": ratios[name] for name in names[:SHOWN]}
    what = f"Each update is over a tenth of the norm of {listed(names)}, where about a thousandth is usual: "
    if len(names) > MOST * len(judged):
        return OfTensors("large updates", evidence, 0.1, f"{what}lower the rate to a tenth.")
    return OfTensors("large updates", evidence, 1.0, f"{what}lower the rate of these alone, as by lr_scale={{"
                     f"{', '.join(f'{name!r}: 0.1' for name in names[:SHOWN])}}}.")


def vanishing(gradients: Mapping[str, float]) -> OfTensors | None:
    """Tensors whose gradients are gone, or so small that others decide the direction."""
    largest = max(gradients.values(), default=0.0)
    names = [name for name, norm in gradients.items() if norm <= VANISHING * largest]
    if not names or largest == 0:
        return None
    evidence = {f"gradient norm of {name} over the largest": gradients[name] / largest for name in names[:SHOWN]}
    nothing = all(gradients[name] == 0 for name in names)
    return OfTensors("vanishing gradients", evidence, 1.0,
                     f"The gradients of {listed(names)} are {'0' if nothing else 'nearly 0'} beside those of other "
                     "tensors: look for saturated or dead units before them, a graph that is cut, or parameters that "
                     "the loss does not use; normalisation or residual connections keep gradients alive.")


def lost(gradients: Mapping[str, float], updates: Mapping[str, float]) -> OfTensors | None:
    """Tensors that have gradients and do not move: 16 bits hold no number so close to the present one."""
    names = [name for name, norm in updates.items() if norm == 0 and gradients.get(name, 0.0) > 0]
    if not names:
        return None
    evidence = {f"gradient norm of {name}": gradients[name] for name in names[:SHOWN]}
    return OfTensors("lost updates", evidence, 1.0,
                     f"{listed(names)} {'do' if len(names) > 1 else 'does'} not move, though the gradients are not 0: "
                     "in 16 bits, updates this small are rounded away. Keep the lower bits (master='split'), round by "
                     "rounding='stochastic', or train in float32.")


def clipped(shares: Mapping[str, float]) -> OfTensors | None:
    """Tensors whose gradients are clipped in nearly every step."""
    names = [name for name, share in shares.items() if share >= CLIPPED]
    if not names:
        return None
    evidence = {f"share of clipped steps of {name}": shares[name] for name in names[:SHOWN]}
    return OfTensors("clipped", evidence, 1.0,
                     f"The gradients of {listed(names) if len(names) < len(shares) else 'all tensors'} are clipped in "
                     "nearly every step, so the bound, not the gradient, tells how far a step goes: raise the bound "
                     "to what norms usually are, or lower the rate if the loss is not steady.")
