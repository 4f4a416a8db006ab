"""What a training run's losses say about its learning rate: rules on robust statistics, each with its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .history import History

Floats = NDArray[np.float64]

KINDS = ("diverging", "oscillating", "overfitting", "too slow", "plateaued", "healthy")
FEWEST = 20
BLOCKS = 12


class Threshold(NamedTuple):
    value: float
    reason: str


# Numbers without a unit, so that neither the size of the losses nor the number of updates matters. "Start" is the loss
# before the first update, "now" the mean over the last quarter.
THRESHOLDS = {
    "rise": Threshold(1.02, "now over start: more than rounding; a noisy start adds three standard errors"),
    "blown up": Threshold(3.0, "highest loss over start: sampling alone does not triple a mean over a batch"),
    "lost": Threshold(0.9, "now over start, after it blew up: all that was learned is lost"),
    "learned": Threshold(1e-3, "now over start: of so low a loss neither swings nor a standstill matter"),
    "lasting": Threshold(0.1, "now over start, after it blew up: the rise is not made up for"),
    "rising share": Threshold(0.2, "share of the later half that raises the loss; descent at a good rate has few"),
    "swing": Threshold(0.2, "90 % range of the later half over its median: less is noise about a minimum"),
    "in runs": Threshold(-0.2, "correlation of one change with the next; sampling noise has -1/2, slow swings above 0"),
    "in turns": Threshold(-0.75, "the same; below this the loss alternates from update to update"),
    "above its best": Threshold(1.05, "now over the lowest level (of 12) so far; noise adds its standard error"),
    "worth a change": Threshold(0.02, "now over start: below it, noise near a minimum looks like swings"),
    "standstill": Threshold(0.15, "fall of the log-loss over the later half at which swings are not on the way down"),
    "gap": Threshold(1.075, "validation loss now over its least; its noise adds three deviations"),
    "little": Threshold(0.5, "share of the start's loss gained so far: more, and the rate was not far too low"),
    "steady": Threshold(0.18, "share of the gain made in the later half: an exponential approach that has three time "
                              "constants behind it makes 0.18"),
    "flat": Threshold(0.05, "fall of the log-loss over the later half: 5 % in half of all updates; noise adds a "
                            "quarter of its standard error"),
}


@dataclass(frozen=True)
class Finding:
    """One finding of `diagnose`.

    `kind` is one of "diverging", "oscillating", "overfitting", "too slow", "plateaued" and "healthy"; `evidence` the
    numbers that led to it; `factor` what to multiply the learning rate by, 1 for "leave it"; `advice` a sentence.
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
        (or one every so many), from the first on; 20 at least. Names "lr" and "grad_norm" add to evidence and advice.
    loss, validation
        The names of the training loss and, if there is one, of the validation loss.

    The findings:

    ============  ====================================================  ==============================================
    kind          what is seen                                          advised
    ============  ====================================================  ==============================================
    diverging     a loss is not finite, or above the first              a tenth of the rate
    oscillating   it swings, or was lower, and no longer falls          a third of the rate
    overfitting   the validation loss is above its least                stop there, or regularize
    too slow      little was gained, and steadily                       3 to 30 times the rate, by how little it was
    plateaued     it fell, and no longer falls                          a third of the rate if noise holds it, else none
    healthy       none of these                                         nothing
    ============  ====================================================  ==============================================

    Levels are means over quarters or twelfths of the run, noise the median of second differences, trends the median
    slope between levels (Theil 1950, Sen 1968, doi:10.1080/01621459.1968.10480934), so that single outliers do not
    matter. Nothing depends on the unit of the loss. Losses below 0 are measured from the least one. All thresholds,
    each with its reason: ``fastlr.monitor.diagnosis.THRESHOLDS``.

    Of 620 real runs with labels by facts (``benchmarks/diagnosis.py``) it is right on 94 %, as on the 239 of them whose
    data had no part in choosing the thresholds; the advised rate ended lower in 93 % of the runs it was advised for. It
    is weakest on oscillating runs, of which it takes a third for something else: mostly for diverging or overfitting.

    Raises `TypeError` for anything else than a history, `ValueError` for fewer than 20 losses.

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
    if len(losses) < FEWEST:
        raise ValueError(f"diagnose: needs {FEWEST} losses at least, got {len(losses)}")
    with np.errstate(all="ignore"):
        run = measure(losses)
        advised = Advice(series.get("lr"))
        found = [finding for rule in (diverging, oscillating) if (finding := rule(run, advised))][:1]
        if not found or found[0].kind != "diverging":
            overfit = overfitting(series[loss], series[validation], advised) if validation in series else None
            found += [overfit] if overfit else []
        found = found or [finding for rule in (too_slow, plateaued) if (finding := rule(run, advised))][:1]
        found = found or [healthy(run, advised)]
        norm = series.get("grad_norm")
        if norm is not None and len(norm[1]) >= FEWEST:
            early, late = np.median(norm[1][: len(norm[1]) // 10 + 1]), np.median(norm[1][-len(norm[1]) // 10:])
            found[0].evidence["gradient norm now over start"] = float(late / early)
    return found


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
            raise TypeError(f"diagnose: expected a History, a mapping of names to numbers, or losses, got {what}")
        found[str(name)] = np.arange(len(array), dtype=np.float64), array
    # of different lengths in one run: spread over the same time (a validation every so often)
    most = max(map(len, (values for _, values in found.values())), default=0)
    if not isinstance(history, History):
        found = {name: (t * (most / max(len(t), 1)), values) for name, (t, values) in found.items()}
    return found


class Measured(NamedTuple):
    """Of the losses: all but the first two are ratios."""

    start: float
    now: float                 # mean of the last quarter
    unknown: float             # share of losses that are not finite
    ends_unknown: bool         # a loss of the last twentieth is not finite
    highest: float             # over start
    level: float               # now over start
    median: float              # median of the last tenth over start
    unsure: float              # standard error of the start, over start
    noise: float               # deviation of one loss in the later half about its course, over its level
    rising: float              # share of changes in the later half that are rises
    turning: float             # correlation of one change with the next
    swing: float               # 90 % range of the later half over its median
    above_best: float          # now over the lowest of 12 levels
    fall: float                # of the log-loss over the later half, by the median slope between 12 levels
    fall_unsure: float         # its standard error
    gained: float              # share of the start's loss
    late_share: float          # share of the gain that was made in the later half


def measure(losses: Floats) -> Measured:
    """The statistics that the rules compare with thresholds."""
    finite = np.isfinite(losses)
    y, n = losses[finite], len(losses)
    unknown, ends_unknown = 1 - finite.mean(), not finite[-max(n // 20, 1):].all()
    if len(y) < FEWEST or ends_unknown:
        start = float(y[0]) if len(y) else math.nan
        return Measured(start, math.nan, unknown, True, *[math.nan] * 13)
    y = np.ldexp(y, -int(np.frexp(np.abs(y).max())[1]) - 1)      # so that no sum overflows; no digit changes
    if y.min() < 0:
        y = y - y.min()
    n = len(y)
    half = y[n // 2:]
    first = y[: max(n // 20, 1)]
    start = float(y[0]) or float(y[y > 0].min(initial=math.inf))
    start = start if math.isfinite(start) else 1.0                       # all are 0
    first_noise = noise_of(y[: max(n // 10, 6)]) / start
    jump = abs(math.log(max(float(np.median(first)), 1e-300) / start))
    if first_noise > 0.02 and jump < max(0.4, 2 * min(first_noise, 0.35)):      # else it fell at once, or blew up
        start = float(first.mean())
    unsure = 1.25 * min(first_noise, 0.35) / math.sqrt(len(first))
    noise = noise_of(half) / (half.mean() or 1.0)
    changes = np.diff(half)
    spread = changes.std()
    turning = float(np.corrcoef(changes[1:], changes[:-1])[0, 1]) if spread > 0 else 0.0
    swing = float(np.quantile(half, 0.95) - np.quantile(half, 0.05)) / (float(np.median(half)) or 1.0)
    levels = np.array([block.mean() for block in np.array_split(y, BLOCKS)])
    now = float(y[-(n // 4):].mean())
    pieces = min(BLOCKS, len(half))
    later = np.log(np.maximum(np.array([block.mean() for block in np.array_split(half, pieces)]), 1e-300))
    i, j = np.triu_indices(pieces, 1)
    slopes = (later[j] - later[i]) / (j - i)
    fall = -float(np.median(slopes)) * pieces
    middle, end = float(y[int(0.45 * n): int(0.55 * n) + 1].mean()), float(y[-max(n // 10, 1):].mean())
    return Measured(
        start, now, unknown, False,
        highest=float(y[1:].max()) / start,
        level=now / start,
        median=float(np.median(y[-max(n // 10, 1):])) / start,
        unsure=unsure,
        noise=noise,
        rising=float((changes > 0).mean()),
        turning=turning if math.isfinite(turning) else 0.0,
        swing=swing,
        above_best=now / float(levels.min() or now or 1.0),
        fall=fall,
        fall_unsure=min(noise, 1.0) * math.sqrt(12 / len(half)),     # of a straight line's fall over its length
        gained=1 - end / start,
        late_share=(middle - end) / (start - end) if start > end else 0.0,
    )


def noise_of(y: Floats) -> float:
    """The deviation of single values about a smooth course, from second differences: variance 6 of independent ones."""
    return 1.4826 * float(np.median(np.abs(y[2:] - 2 * y[1:-1] + y[:-2]))) / math.sqrt(6) if len(y) > 2 else 0.0


class Advice:
    """Sentences that advise a rate, with numbers where the rate is known."""

    def __init__(self, lr: tuple[Floats, Floats] | None) -> None:
        known = lr is not None and len(lr[1]) and math.isfinite(lr[1][-1]) and lr[1][-1] > 0
        self.lr = float(lr[1][-1]) if lr is not None and known else None
        self.highest = float(np.nanmax(lr[1])) if lr is not None and known else None

    @property
    def decayed(self) -> bool:
        """Whether a schedule has brought the rate down to a tenth or less."""
        return self.lr is not None and self.highest is not None and self.lr <= self.highest / 10

    def change(self, what: str, factor: float) -> str:
        word = "raise" if factor > 1 else "lower"
        rate = self.highest if self.decayed else self.lr
        whole = "the whole schedule" if self.decayed else "the rate"
        if rate is None:
            return f"{what}: {word} {whole}, to {factor:g} times what it is."
        return f"{what}: {word} {whole}, from {rate:.3g} to {rate * factor:.3g}."


def limit(name: str) -> float:
    return THRESHOLDS[name].value


def diverging(run: Measured, advised: Advice) -> Finding | None:
    if run.ends_unknown:
        evidence = {"share of losses that are not finite": run.unknown, "first loss": run.start}
        return Finding("diverging", evidence, 0.1, advised.change("The loss is no longer finite", 0.1))
    evidence = {"now over start": run.level, "highest over start": run.highest}
    if min(run.level, max(run.median, run.level / 2)) > limit("rise") + 3 * run.unsure:
        return Finding("diverging", evidence, 0.1, advised.change("The loss ended above where it began", 0.1))
    if run.highest > limit("blown up") and run.level > limit("lost"):
        return Finding("diverging", evidence, 0.1, advised.change("The loss blew up and did not come back", 0.1))
    return None


def oscillating(run: Measured, advised: Advice) -> Finding | None:
    evidence = {"rising share": run.rising, "swing": run.swing, "correlation of changes": run.turning,
                "now over lowest level": run.above_best, "noise": run.noise}
    if run.highest > limit("blown up") and run.level > limit("lasting"):
        evidence["highest over start"] = run.highest
        return Finding("oscillating", evidence, 0.3,
                       advised.change("The loss blew up at first and has not come back down", 0.3))
    if run.level < limit("learned") or run.fall > limit("standstill"):
        return None
    swings = run.rising > limit("rising share") and run.swing > limit("swing")
    if swings and (run.turning > limit("in runs") or run.turning < limit("in turns")):
        return Finding("oscillating", evidence, 0.3, advised.change("The loss swings instead of falling", 0.3))
    margin = min(run.noise, 1.0) * math.sqrt(BLOCKS / 120)
    if (run.rising > limit("rising share") and run.level > limit("worth a change")
            and run.above_best > limit("above its best") + margin and run.gained > 3 * run.unsure):
        return Finding("oscillating", evidence, 0.3, advised.change("The loss varies above its lowest level", 0.3))
    return None


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
    if least == len(smooth) - 1 or gap <= limit("gap") + 3 * min(noise, 0.1) or not now < before:
        return None
    fell = now / before if before > 0 else math.nan
    evidence = {"validation now over least": gap, "least at t": at, "training now over then": fell}
    return Finding("overfitting", evidence, 1.0, f"The validation loss has risen since t={at:g} while the training "
                   "loss fell: go back to the weights of then, or regularize; another rate would not help.")


def too_slow(run: Measured, advised: Advice) -> Finding | None:
    evidence = {"share gained": run.gained, "share of the gain made in the later half": run.late_share}
    unmoved = run.gained < 3 * run.unsure and run.fall < 0.1
    steady = run.late_share > limit("steady") and run.fall > run.fall_unsure
    if run.level < limit("learned") or run.gained > limit("little") or not (unmoved or steady):
        return None
    factor = 3.0 if run.gained > 0.2 else 10.0 if run.gained > 0.02 else 30.0
    return Finding("too slow", evidence, factor, advised.change("The loss has hardly fallen" if factor > 3 else
                   "The loss falls, but steadily and slowly", factor))


def plateaued(run: Measured, advised: Advice) -> Finding | None:
    if run.level < limit("learned") or run.fall > limit("flat") + run.fall_unsure / 4:
        return None
    evidence = {"fall of the log-loss over the later half": run.fall, "noise": run.noise, "share gained": run.gained}
    if advised.decayed:
        return Finding("plateaued", evidence, 1.0, "The loss no longer falls, and the schedule is near its end: stop.")
    if run.noise > 0.02:
        return Finding("plateaued", evidence, 0.3, advised.change("The loss no longer falls below its noise", 0.3))
    return Finding("plateaued", evidence, 1.0, "The loss no longer falls, and not for noise: stop, or change the "
                   "model; a lower rate would not help.")


def healthy(run: Measured, advised: Advice) -> Finding:
    evidence = {"now over start": run.level, "fall of the log-loss over the later half": run.fall, "noise": run.noise}
    return Finding("healthy", evidence, 1.0, "Leave the rate as it is.")
