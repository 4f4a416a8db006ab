"""What a training run's losses say about its learning rate: rules, and points for statistics, with their evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from .history import History
from .measured import Floats, Measured, measure, noise_of
from .points import CARDS
from .tensors import of_tensors

KINDS = ("diverging", "no gradient", "unmoved", "decayed too early", "collapsed", "oscillating", "overfitting",
         "too slow", "not sure", "plateaued", "healthy")
FEWEST = 20


class Threshold(NamedTuple):
    value: float
    reason: str


# Numbers without a unit, so that neither the size of the losses nor the number of updates matters. "Start" is the mean
# of the first fortieth of the losses, "now" of the last tenth.
THRESHOLDS = {
    "sure": Threshold(0.45, "probability of a direction, the rate or a validation loss known: the most right at under "
                            "1 % opposite"),
    "sure without a rate": Threshold(0.6, "the same where neither is known"),
    "sure of swings": Threshold(0.45, "probability of a lower rate where the loss swings for several updates in one "
                                      "direction: noise of batches does not"),
    "rise": Threshold(1.02, "now over start: more than rounding; noise adds five standard errors"),
    "blown up": Threshold(3.0, "highest median of 5 losses over start: sampling does not triple it"),
    "risen": Threshold(1.5, "highest over start, of a loss that then stops: half as much again is more than sampling"),
    "little is left": Threshold(0.75, "now over start, after it rose: most of what was learned is lost"),
    "lost": Threshold(0.9, "now over start, after it blew up: all that was learned is lost"),
    "learned": Threshold(1e-3, "now over start: of so low a loss neither swings nor a standstill matter"),
    "still": Threshold(1e-9, "range of the losses over the highest: rounding of doubles"),
    "rounded": Threshold(2.0, "different losses in the whole run, whose log has few digits: it moved by the last one"),
    "moved": Threshold(3.0, "gain over its standard error: noise alone exceeds it in one of a thousand runs"),
    "clear gain": Threshold(20.0, "gain over its standard error of a run that then stopped: of such, no share of the "
                                  "loss is too small to have been its gain"),
    "lost again": Threshold(4.0, "deviations of the noise from the least median of 5 losses to the end: sampling alone "
                                 "leaves two"),
    "falling": Threshold(2.0, "fall of the later half over its standard error: below, nothing is seen to fall"),
    "standstill": Threshold(0.05, "fall of the later half, of the gain and of the log-loss: less of both is no fall"),
    "early": Threshold(0.35, "share of the run in which four fifths were gained: later, it did not stop early"),
    "steady": Threshold(1.15, "highest over start: without a rise beyond noise only the rate tells that it is high"),
    "swing": Threshold(0.2, "90 % range of the later half over its median: less is noise about a minimum"),
    "rising share": Threshold(0.2, "share of the later half that raises the loss; descent at a good rate has few"),
    "in runs": Threshold(-0.2, "correlation of one change with the next; sampling noise has -1/2, slow swings above 0"),
    "in turns": Threshold(-0.75, "the same; below this the loss alternates from update to update"),
    "low for certain": Threshold(0.75, "probability of a gain at a higher rate: above, a low rate stopped it early"),
    "low for certain by validation": Threshold(0.55, "the same where a validation loss is known: it is seldom wrong"),
    "noiseless": Threshold(0.02, "noise over the level: below, a lower rate has no noise to remove"),
    "dead": Threshold(1e-3, "gradient norm now over start, of a loss that is not low: the gradients are gone"),
    "decayed": Threshold(0.1, "rate now over its highest: a schedule has brought it down"),
    "cut": Threshold(0.05, "fall in the quarter of the run before the rate was down, over what was gained by then: it "
                           "was not done"),
    "gap": Threshold(1.075, "validation loss now over its least; its noise adds three deviations"),
    "worse than nothing": Threshold(5.0, "validation loss now over its first: weights that are worse than the first "
                                         "come of the rate, not of learning by heart"),
    "little": Threshold(0.2, "share of the start's loss gained: less, and the rate is raised tenfold, not threefold"),
    "steadily": Threshold(0.35, "share of the gain made in the later half: a straight line has one half"),
}


@dataclass(frozen=True)
class Finding:
    """One finding of `diagnose`.

    `kind` is one of ``fastlr.monitor.diagnosis.KINDS``, or of ``fastlr.monitor.tensors.KINDS``; `evidence` the numbers
    that led to it; `factor` what to multiply the learning rate by, 1 for "leave it"; `advice` a sentence or two.
    """

    kind: str
    evidence: dict[str, float] = field(hash=False)
    factor: float
    advice: str

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in self.evidence.items())
        return f"{self.kind}: {self.advice} ({numbers})"


def diagnose(history: Any, *, loss: str = "loss", validation: str = "val_loss") -> list[Finding]:
    """Say what a run's losses mean for its learning rate: the most serious finding first, "healthy" if it is alone.

    Parameters
    ----------
    history
        A `History`, a mapping of names to sequences (Keras' ``history.history``), or the losses alone, one an update
        (or one every so many, or means over epochs), from the first on; 20 at least, unless they end in a loss that is
        not finite. Give the validation loss, as "val_loss", 6 values at least: it is of the same rows each time, so it
        has no noise of batches, and its swings are those of the weights. Give the rate, as "lr", where you have it.
        "grad_norm", and "grad_norm/NAME" of single tensors, tell gradients that are gone.
    loss, validation
        The names of the training loss and, if there is one, of the validation loss.

    The findings:

    =================  ================================================  ==============================================
    kind               what is seen                                      advised
    =================  ================================================  ==============================================
    diverging          a loss is not finite, or above the first          a tenth of the rate
    no gradient        the gradients are gone, the loss is not           look at the weights and activations
    unmoved            the loss is the same all along                    10 times the rate, or a look at the gradients
    decayed too early  it fell until a schedule cut the rate             the rate of before
    collapsed          it rose, and what it learned before is lost       a tenth of the rate, begun anew
    oscillating        it swings, and a lower rate would end lower       a third of the rate
    overfitting        the validation loss is above its least            stop there, or regularize
    too slow           a higher rate would have gained more              3 to 30 times the rate, by what was gained
    not sure           the losses do not tell                            two short trials, at a third and at three times
    plateaued          it fell, and no longer falls                      a third of the rate where noise holds it; else
                                                                         changing the rate will not fix this
    healthy            it falls                                          nothing
    =================  ================================================  ==============================================

    Whether another rate would end lower is read from a few statistics, each of which has points for "lower" and "raise"
    (``fastlr.monitor.points``); the points were fitted to runs of known grids of rates. Levels are means over parts of
    the run, falls are compared with their noise and with what the run itself gained, so that neither the unit of the
    loss nor a loss that cannot reach 0 matters. All thresholds, each with its reason:
    ``fastlr.monitor.diagnosis.THRESHOLDS``.

    Where a `History` recorded an optimizer that measures each tensor (`Optimizer.measure`), findings about single
    tensors come last, with their names: "large updates" (over a tenth of a tensor's norm), "vanishing gradients" beside
    those of other tensors, "lost updates" (16 bits do not hold them), "clipped" (in nearly every step). "not finite"
    comes first, in place of "healthy": a norm or a ratio that is NaN or infinite from some step on. A NaN that numbers
    follow is a step that was not measured. Their thresholds: ``fastlr.monitor.tensors``.

    Raises `TypeError` for anything else than a history, `ValueError` for fewer than 20 losses that are all finite.

    >>> import fastlr
    >>> fastlr.diagnose([0.999 ** (t / 10) for t in range(100)])[0].kind
    'too slow'
    >>> found = fastlr.diagnose({"loss": [2.0, 1.0] + [3.0 ** t for t in range(30)], "lr": [0.5] * 32})
    >>> found[0].kind, found[0].factor
    ('diverging', 0.1)
    >>> print(found[0].advice)
    The loss ended above where it began: lower the rate, from 0.5 to 0.05.
    """
    series = columns(history)
    if loss not in series:
        raise ValueError(f"diagnose: no losses called {loss!r} in the history, which has "
                         f"{', '.join(series) or 'nothing'}; pass loss=NAME")
    losses = series[loss][1]
    if len(losses) < FEWEST and np.isfinite(losses[-1:]).all():
        raise ValueError(f"diagnose: needs {FEWEST} losses at least, got {len(losses)}")
    with np.errstate(all="ignore"):
        advised = Advice(series.get("lr"))
        if not np.isfinite(losses[-max(len(losses) // 20, 1):]).all():
            unknown = float(1 - np.isfinite(losses).mean())
            evidence = {"share of losses that are not finite": unknown, "first loss": float(losses[0])}
            found = Finding("diverging", evidence, 0.1, advised.change("The loss is no longer finite", 0.1))
            return [found, *(Finding(*one) for one in of_tensors(series, validation) if one.kind == "not finite")]
        run = measure(losses, series[validation][1] if validation in series else None)
        norms = {name: values for name, (_, values) in series.items() if name.split("/")[0] == "grad_norm"}
        overfit = overfitting(series[loss], series[validation], advised) if validation in series else None
        found = (unmoved(run, advised, norms) or gone(run, norms) or decayed(losses, series.get("lr"))
                 or by_points(run, advised))
        findings = [found]
        if overfit is not None:
            both = found.factor < 1 <= overfit.factor
            findings = [found, overfit] if both else [found if found.factor < min(overfit.factor, 1) else overfit]
        norm = norms.get("grad_norm")
        if norm is not None and len(norm) >= FEWEST:
            early, late = np.median(norm[: len(norm) // 10 + 1]), np.median(norm[-len(norm) // 10:])
            if 0 < early < math.inf and math.isfinite(late):
                findings[0].evidence["gradient norm now over start"] = float(late / early)
        of_each = [Finding(*one) for one in of_tensors(series, validation)]
        if found.kind == "no gradient":
            of_each = [one for one in of_each if "largest gradient norm" not in one.evidence]
        worst = [one for one in of_each if one.kind == "not finite"]
        findings = [one for one in findings if not worst or one.kind != "healthy"]
        return worst + findings + of_each[len(worst):]


def columns(history: Any) -> dict[str, tuple[Floats, Floats]]:
    """Updates and values of each name."""
    if isinstance(history, History):
        return {name: (history.t(name).astype(np.float64), history[name]) for name in history.names}
    named = history if isinstance(history, Mapping) else {"loss": history}
    found = {}
    for name, values in named.items():
        try:
            array = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            array = np.empty((0, 0))
        if array.ndim != 1:
            what = type(history).__name__ if named is not history else f"{name!r}: {type(values).__name__}"
            cure = "; read a file by fastlr.History.from_csv(path) or from_jsonl(path)" \
                if isinstance(history, str | PathLike) else ""
            raise TypeError(f"diagnose: expected a History, a mapping of names to numbers, or losses, got {what}{cure}")
        found[str(name)] = np.arange(len(array), dtype=np.float64), array
    # of different lengths in one run: spread over the same time (a validation every so often)
    most = max(map(len, (values for _, values in found.values())), default=0)
    if not isinstance(history, History):
        found = {name: (t * (most / max(len(t), 1)), values) for name, (t, values) in found.items()}
    return found


def direction(run: Measured, lr: float | None) -> dict[str, float]:
    """The probabilities that a lower rate, this one and a higher one would have ended lowest, by points."""
    card = CARDS[lr is not None, "validation end" in run.points_of]
    statistics = run.points_of if lr is None else run.points_of | {"rate": math.log10(lr)}
    lower, higher = card.base
    for name, (edges, points) in card.statistics.items():
        of_bin = points[int(np.searchsorted(edges, statistics[name], side="right"))]
        lower, higher = lower + of_bin[0], higher + of_bin[1]
    odds = np.exp(np.array([lower, 0.0, higher]) - max(lower, higher, 0.0))
    shares = odds / odds.sum()
    return {"lower": float(shares[0]), "leave": float(shares[1]), "raise": float(shares[2])}


class Advice:
    """Sentences that advise a rate, with numbers where the rate is known."""

    def __init__(self, lr: tuple[Floats, Floats] | None) -> None:
        known = lr is not None and len(lr[1]) and math.isfinite(lr[1][-1]) and lr[1][-1] > 0
        self.lr = float(lr[1][-1]) if lr is not None and known else None
        self.highest = float(np.nanmax(lr[1])) if lr is not None and known else None
        self.zero = lr is not None and len(lr[1]) > 0 and not lr[1].any()

    @property
    def decayed(self) -> bool:
        """Whether a schedule has brought the rate down to a tenth or less."""
        return self.lr is not None and self.highest is not None and self.lr <= self.highest * limit("decayed")

    def change(self, what: str, factor: float, more: str = "") -> str:
        word = "raise" if factor > 1 else "lower"
        rate = self.highest if self.decayed else self.lr
        whole = "the whole schedule" if self.decayed else "the rate"
        if rate is None:
            return f"{what}: {word} {whole}, to {factor:g} times what it is{more}."
        return f"{what}: {word} {whole}, from {rate:.3g} to {rate * factor:.3g}{more}."

    def trials(self, what: str) -> str:
        """Advise two short trials."""
        rate = self.highest if self.decayed else self.lr
        which = "a third of the rate and three times it" if rate is None else f"{rate * 0.3:.3g} and {rate * 3:.3g}"
        return (f"{what}, and the losses do not tell whether another rate would do better: train a tenth as long from "
                f"the same start at {which}, and compare the last losses (fastlr.find_lr does).")


def limit(name: str) -> float:
    return THRESHOLDS[name].value


def unmoved(run: Measured, advised: Advice, norms: dict[str, Floats]) -> Finding | None:
    evidence = {"different losses": float(run.values), "range over highest": run.range}
    if run.range <= limit("still") or (run.values <= limit("rounded") and run.range < 0.01):
        if any((norm == 0).any() and not (norm != 0)[~np.isnan(norm)].any() for norm in norms.values()):
            return None
        if advised.lr is None and advised.zero:
            return Finding("unmoved", evidence | {"rate": 0.0}, 10.0, "The loss has not moved, and the rate is 0 all "
                           "along: set one (fastlr.find_lr finds it).")
        return Finding("unmoved", evidence, 10.0, advised.change("The loss has not moved", 10, (
            ", and look at the gradients: if they are 0, it is the weights or the data, not the rate")))
    return None


def gone(run: Measured, norms: dict[str, Floats]) -> Finding | None:
    """Gradients that are 0 or have vanished, of the whole or of a tensor, where the loss is not low or moving."""
    if run.now < 0.5 or (run.points_of["late fall"] > limit("standstill") and run.points_of["fall"] > 5):
        return None
    for name, values in norms.items():
        finite = values[np.isfinite(values)]
        if len(finite) < 6:
            continue
        early, late = float(np.median(finite[: len(finite) // 10 + 1])), float(np.median(finite[-len(finite) // 4:]))
        whole = name == "grad_norm"
        if late <= limit("dead") * early or late == 0:
            tensor = "The gradients" if whole else f"The gradients of {name.split('/', 1)[1]}"
            evidence = {"gradient norm now": late, "at the start": early, "now over start": run.now}
            return Finding("no gradient", evidence, 1.0,
                           f"{tensor} are {'0' if late == 0 else 'nearly 0'} while the loss is not low: look for "
                           "weights that began at 0, saturated or dead units, or a graph that is cut. If they were "
                           "alive at the start, begin anew with a lower rate; training on will not help.")
    return None


def decayed(losses: Floats, lr: tuple[Floats, Floats] | None) -> Finding | None:
    """A schedule that cut the rate to a hundredth while the loss was falling, after which it stood still."""
    if lr is None or len(lr[1]) < FEWEST:
        return None
    rates = lr[1]
    highest, now = float(np.fmax.reduce(rates)), float(rates[-1])
    if not 0 < now <= highest * limit("decayed") ** 2:
        return None
    after_peak = int(np.nanargmax(rates))
    cut = after_peak + int(np.argmax(rates[after_peak:] <= highest * limit("decayed")))
    at = cut * len(losses) // len(rates)
    y = losses[np.isfinite(losses)]
    if not 8 <= at < 0.6 * len(y):
        return None
    before, after = y[:at], y[at:]
    start, reached = float(before[: max(at // 20, 1)].mean()), float(before[-max(at // 10, 1):].mean())
    quarter = float(before[: 3 * at // 4][-max(at // 10, 1):].mean())
    noise = max(noise_of(before[at // 2:]), float(np.diff(before[at // 2:]).std()) / math.sqrt(2))
    error = noise * math.sqrt(2 / max(at // 10, 1))
    was_falling = quarter - reached > limit("cut") * (start - reached) and quarter - reached > 3 * error
    stopped = reached - float(after[-max(len(after) // 10, 1):].mean()) < 0.3 * (start - reached)
    if not (was_falling and stopped):
        return None
    factor = highest / now
    return Finding("decayed too early", {"rate now over its highest": now / highest, "down at t": float(at)}, factor,
                   f"The loss was falling until the schedule cut the rate to a tenth, at t={at}, and has hardly fallen "
                   f"since: keep the rate at {highest:.3g} for longer, and let it fall to a hundredth at the end.")


def by_points(run: Measured, advised: Advice) -> Finding:
    """The direction that the points tell, and what to call it."""
    p = run.points_of
    validated = "validation end" in p
    enough = limit("sure") if validated or advised.lr is not None else limit("sure without a rate")
    shares = direction(run, advised.highest if advised.decayed else advised.lr)
    sure = {f"points for {name}": share for name, share in shares.items()}
    stopped = p["fall"] < limit("falling") or max(p["late fall"], p["late drop"]) < limit("standstill")
    moved = p["gain"] > math.log(limit("moved"))
    if run.now > limit("rise") + 5 * run.unsure and shares["lower"] > shares["raise"]:
        return Finding("diverging", {"now over start": run.now, "highest over start": run.highest}, 0.1,
                       advised.change("The loss ended above where it began", 0.1))
    if run.highest > limit("blown up") and run.now > limit("lost"):
        return Finding("diverging", {"now over start": run.now, "highest over start": run.highest}, 0.1,
                       advised.change("The loss blew up and did not come back", 0.1))
    if stopped and run.highest > limit("risen") and run.now > limit("little is left"):
        return Finding("collapsed", sure | {"now over start": run.now, "highest over start": run.highest}, 0.1,
                       advised.change("The loss rose early on, and then stopped", 0.1,
                                      ", and begin anew: units that died do not come back"))
    if max(run.now, run.now_of_first) < limit("learned"):
        return Finding("healthy", {"now over start": run.now}, 1.0, "Leave the rate as it is: little is left to gain.")
    in_runs = not limit("in turns") < p["turning"] < limit("in runs")
    swings = in_runs and run.swing > limit("swing") and run.rising > limit("rising share")
    if swings:
        enough = min(enough, limit("sure of swings"))
    steady = run.highest <= limit("steady") and not swings and advised.lr is None and not validated
    if shares["lower"] >= enough and not steady:
        if stopped and run.highest > 1.2 and p["late share"] < limit("standstill"):
            return Finding("collapsed", sure | {"now over start": run.now, "highest over start": run.highest}, 0.1,
                           advised.change("The loss rose early on, and then stopped", 0.1,
                                          ", and begin anew: units that died do not come back"))
        if stopped and advised.decayed:
            return Finding("plateaued", sure, 1.0, "The loss no longer falls, and the schedule is near its end: stop.")
        if stopped and not swings and run.highest <= limit("steady"):
            return Finding("plateaued", sure | {"fall of the later half over the gain": p["late fall"]}, 0.3,
                           advised.change("The loss is stuck at the noise floor of this rate", 0.3, (
                               "; begin anew with it, or go on with it if time is short")))
        return Finding("oscillating", sure | {"highest over start": run.highest, "share of rises": run.rising}, 0.3,
                       advised.change("The loss swings at this rate, and would end lower at a lower one", 0.3))
    if stopped and run.lost > limit("lost again") and shares["raise"] == max(shares.values()):
        return Finding("collapsed", sure | {"end over the least before, in deviations of the noise": run.lost}, 0.1,
                       advised.change("The loss fell early on, rose again, and then stopped", 0.1,
                                      ", and begin anew: units that died do not come back"))
    if not moved and stopped and shares["raise"] > 0.5:
        return Finding("too slow", {"gain over its standard error": math.exp(p["gain"])}, 30.0,
                       advised.change("The loss has not moved beyond its noise", 30))
    hardly = max(p["late share"] / 3, p["late drop"]) < limit("standstill")
    certain = limit("low for certain by validation") if validated else limit("low for certain")
    for_good = p["fall"] < limit("falling") and p["late fall"] < limit("standstill")
    clear = for_good and p["gain"] > math.log(limit("clear gain"))
    low_for_certain = (advised.lr is not None or validated) and shares["raise"] > certain and not clear
    early = moved and (stopped or hardly) and p["most"] < limit("early") and not low_for_certain
    steadily = p["late share"] > limit("steadily") and p["fall"] > 5 and run.gained < 0.5
    if shares["raise"] >= (min(enough, 0.5) if steadily else enough) and not early:
        factor = 3.0 if run.gained > limit("little") else 10.0 if run.gained > 0.02 else 30.0
        what = "The loss has hardly fallen" if factor > 3 else "The loss falls, and would fall further at a higher rate"
        return Finding("too slow", sure | {"share gained": run.gained}, factor, advised.change(what, factor))
    noiseless = early and p["noise"] < math.log(limit("noiseless"))
    if stopped and (noiseless or shares["leave"] == max(shares.values())):
        return Finding("plateaued", sure | {"fall of the later half over the gain": p["late fall"]}, 1.0,
                       "The loss no longer falls: changing the rate will not fix this. Stop here, lower the rate for "
                       "the last updates if the loss is noisy, or change the model.")
    if shares["leave"] == max(shares.values()):
        return Finding("healthy", sure | {"now over start": run.now}, 1.0, "Leave the rate as it is.")
    return Finding("not sure", sure, 1.0, advised.trials("The loss has stopped" if stopped else "The loss falls"))


def overfitting(
    training: tuple[Floats, Floats], validating: tuple[Floats, Floats], advised: Advice
) -> Finding | None:
    t, values = validating
    known = np.isfinite(values)
    t, values = t[known], values[known]
    if len(values) < 6:
        return None
    if values.min() < 0:
        return None                                    # (no ratios of what may have any zero)
    smooth = np.convolve(values, np.ones(3) / 3, "valid")
    least = int(smooth.argmin())
    gap = float(smooth[-1] / smooth[least]) if smooth[least] > 0 else math.inf
    noise = noise_of(values) / math.sqrt(3) / (float(smooth[least]) or 1.0)
    at = float(t[least + 1])
    losses = training[1][np.isfinite(training[1])]
    when = training[0][np.isfinite(training[1])]
    width = max(len(losses) // 20, 1)
    middle = int(np.searchsorted(when, at))
    before = float(losses[max(middle - width, 0): middle + width].mean())
    now = float(losses[-2 * width:].mean())
    if values[-1] > limit("worse than nothing") * values[0] and smooth[-1] > limit("worse than nothing") * values[0]:
        evidence = {"validation now over its first": float(values[-1] / values[0])}
        return Finding("diverging", evidence, 0.1, advised.change(
            "The validation loss is far above where it began, whatever the training loss does", 0.1))
    if smooth[-1] == smooth[least] or gap <= limit("gap") + 3 * min(noise, 0.1) or not now < before:
        return None
    fell = now / before if before > 0 else math.nan
    evidence = {"validation now over least": gap, "least at t": at, "training now over then": fell}
    return Finding("overfitting", evidence, 1.0, f"The validation loss has risen since t={at:g} while the training "
                   "loss fell: go back to the weights of then, or regularize; another rate would not help.")
