"""What the measurements of single tensors say, as `Optimizer.measure` makes them and a `History` keeps them.

The names of the series are "grad_norm/NAME", "update_norm/NAME", "update_ratio/NAME" and "clipped/NAME".
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KINDS = ("not finite", "large updates", "vanishing gradients", "lost updates", "clipped")
FEWEST = 6
SHOWN = 5

#: Each a number without a unit, of medians over the last quarter of what was recorded.
LARGE = 0.1            # update norm over the tensor's: about 1e-3 is usual; a tenth replaces a tensor in ten steps
NEAR_ZERO = 0.05       # norm over that of the largest tensor: of less (biases) the ratio is large at any rate
VANISHING = 1e-5       # gradient norm over the largest of a tensor: shapes alone make differences of 1e-3
CLIPPED = 0.9          # share of steps that a norm clipped: the bound, not the gradient, tells how long steps are
MOST = 0.5             # share of the tensors from which on the rate of all is advised, not that of some
#: Of what is not finite:
OFTEN = 0.1            # share of infinities: a scale of the loss that is too high meets far fewer
GREW = 100.0           # norms before the first one that is not finite, over the first: the steps were too long

#: The series, each a cause of what comes after it.
MEASURED = ("grad_norm", "update_norm", "update_ratio", "clipped")
CAUSES = (*MEASURED, "validation")
ALL = "all tensors"

#: Of what is not finite: its name, what it is, and the cure.
WORDS = {
    "grad_norm": ("gradient norm", "is NaN or infinite", (
        "look for a division by 0, a logarithm or root of 0, or an overflow of 16 bits in the loss, and for data that "
        "are not finite (np.isfinite); leave such steps out (nonfinite='skip'), and begin anew from weights that are "
        "finite.")),
    "update_norm": ("update norm", "is NaN or infinite", (
        "the gradient does not tell of it, so look at the optimizer's state: raise eps, keep the state in float32, and "
        "begin anew from weights that are finite.")),
    "update_ratio": ("update ratio", "is NaN", (
        "the norm of the tensor, or of its update, is not finite or not known: check that the weights are finite "
        "(np.isfinite), begin anew from the last that are, with a lower rate, or measure these tensors.")),
    "values of 0": ("update ratio", "is infinite", (
        "the tensor is 0 before each of these steps, or the update overflows. Weights need a random start, as zeros "
        "behind zeros learn nothing; look for what sets them back to 0, and lower the rate if they are not 0.")),
    "clipped": ("clipped share", "is NaN or infinite", "measure it anew, by Optimizer.measure."),
    "validation": ("validation loss", "is NaN or infinite", (
        "of rows that are not trained on, so look for rows that are not finite, a logarithm of 0, or an average over "
        "no rows; where the training loss is high, too, lower the rate.")),
}


class OfTensors(NamedTuple):
    """A finding about some tensors: what `diagnosis.Finding` is made of."""

    kind: str
    evidence: dict[str, float]
    factor: float
    advice: str


def of_tensors(series: Mapping[str, tuple[Floats, Floats]], validation: str = "val_loss") -> list[OfTensors]:
    """What is to be said of single tensors, by the updates and values of each series; nothing where none was measured.

    First what is not finite, the validation loss too.
    """
    of_each = {what: {name.split("/", 1)[1]: values for name, values in series.items() if name.startswith(f"{what}/")}
               for what in MEASURED}
    measured = {what: {name: late(values) for name, (_, values) in named.items()
                       if np.isfinite(values).sum() >= FEWEST} for what, named in of_each.items()}
    gradients, updates, ratios = measured["grad_norm"], measured["update_norm"], measured["update_ratio"]
    alive = late(series["lr"][1]) > 0 if "lr" in series else True
    whole = {ALL: series["grad_norm"]} if "grad_norm" in series else {}
    causes = of_each | {"grad_norm": of_each["grad_norm"] | whole}
    causes["validation"] = {"all rows": series[validation]} if validation in series else {}
    found = [*not_finite(causes), large(ratios, updates),
             vanishing(gradients or {name: late(values) for name, (_, values) in whole.items() if (values == 0).all()}),
             lost(gradients, ratios | updates) if alive else None, clipped(measured["clipped"])]
    return [finding for finding in found if finding is not None]


def late(values: Floats) -> float:
    """The median of the last quarter of the finite values, NaN of none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite[-max(len(finite) // 4, 1):])) if len(finite) else float("nan")


def since(values: Floats) -> int | None:
    """Where numbers begin that are no longer finite, or infinities that come often; None if all is well.

    NaN that numbers follow is a step without a measurement, or one that was not taken; so is a last NaN where as many
    came before. (Infinity is never a step without a measurement.)
    """
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return 0 if len(values) else None
    last = int(finite[-1]) + 1
    gap = int(np.diff(finite, prepend=-1).max()) - 1
    if last < len(values) and (len(values) - last > 2 * gap or np.isinf(values[last:]).any()):
        return last
    infinite = np.isinf(values)
    return int(infinite.argmax()) if infinite.sum() > OFTEN * len(values) else None


def not_finite(of_each: Mapping[str, Mapping[str, tuple[Floats, Floats]]]) -> list[OfTensors]:
    """Tensors whose measurements are NaN or infinite: of each the first cause, the gradient before the update."""
    tensors: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for named in of_each.values() for name in named):
        bad = {what: at for what, named in of_each.items()
               if name in named and (at := since(named[name][1])) is not None}
        if bad:
            what = min(bad, key=CAUSES.index)
            infinite = what == "update_ratio" and bool(np.isinf(of_each[what][name][1][bad[what]:]).any())
            tensors.setdefault("values of 0" if infinite else what, []).append(name)
    if len(tensors.get("grad_norm", ())) > 1:
        tensors["grad_norm"] = [name for name in tensors["grad_norm"] if name != ALL]
    return [of_cause(cause, names, of_each["update_ratio" if cause == "values of 0" else cause])
            for cause, names in tensors.items()]


def of_cause(cause: str, names: list[str], measured: Mapping[str, tuple[Floats, Floats]]) -> OfTensors:
    """What is to be done about tensors whose measurements are not finite."""
    first: dict[str, float] = {}
    grew = False
    for name in names:
        t, values = measured[name]
        at = since(values)
        assert at is not None
        first[name] = float(t[at])
        finite = values[:at][np.isfinite(values[:at])]
        grew |= len(finite) >= FEWEST and finite[-1] > GREW * finite[0] > 0
    names = sorted(names, key=first.__getitem__)
    evidence = {f"{WORDS[cause][0]} not finite from t, of {name}": first[name] for name in names[:SHOWN]}
    noun, what, cure = WORDS[cause]
    advice = f"The {noun} of {listed(names)} {what} from t={min(first.values()):g} on: {cure}"
    if grew:
        return OfTensors("not finite", evidence, 0.1, f"{advice} It grew over a hundredfold before: lower the rate to "
                         "a tenth, or clip the norm of the gradient (clip_norm=1.0).")
    return OfTensors("not finite", evidence, 1.0, advice)


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
    if not names:
        return None
    if largest == 0:
        return OfTensors("vanishing gradients", {"largest gradient norm": 0.0}, 1.0,
                         f"The gradients of {listed(names)} are 0, and no others were recorded: record before "
                         "gradients are set to 0 (zero_grad) and after they are made, and look for a graph that is "
                         "cut, dead units, or weights that began at 0.")
    evidence = {f"gradient norm of {name} over the largest": gradients[name] / largest for name in names[:SHOWN]}
    nothing = all(gradients[name] == 0 for name in names)
    return OfTensors("vanishing gradients", evidence, 1.0,
                     f"The gradients of {listed(names)} are {'0' if nothing else 'nearly 0'} beside those of other "
                     "tensors: look for saturated or dead units before them, a graph that is cut, or parameters that "
                     "the loss does not use; normalisation or residual connections keep gradients alive.")


def lost(gradients: Mapping[str, float], updates: Mapping[str, float]) -> OfTensors | None:
    """Tensors that do not move, by the norms of their updates or the ratios, and whose gradients are not known to be 0.
    """
    still = [name for name, norm in updates.items() if norm == 0]
    unknown = [name for name in still if name not in gradients]
    names = [name for name in still if gradients.get(name, 0.0) > 0]
    if unknown:
        return OfTensors("lost updates", {f"update of {name}": 0.0 for name in unknown[:SHOWN]}, 1.0,
                         f"{listed(unknown)} {'do' if len(unknown) > 1 else 'does'} not move: record the gradients' "
                         "norms, too. If they are 0, the tensor is frozen, unused, or its graph is cut; if not, the "
                         "rate is 0, or 16 bits round the updates away (master='split', rounding='stochastic', or "
                         "float32).")
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
