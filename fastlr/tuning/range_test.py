"""`find_lr`: a sweep over rising rates until the loss diverges, then trials at constant rates below that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..optimizers.declaration import KnownAttributes
from ..optimizers.sharpness import SAM
from ..optimizers.wrappers import accumulates
from .batches import Batches
from .suggestions import Floats, median, smoothed, suggest
from .trials import (
    MOST_NONFINITE,
    SMALLEST,
    LossAndGrad,
    Trials,
    Validation,
    planned,
    restored,
    run_rounds,
    set_rates,
    take_step,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCH_BYTES = 2**30
COPY_BYTES = 2**30
TRIAL_STEPS = 112
NOISE_BATCHES = 20                     # that are looked at where a sweep stops at once


class RangeTest(KnownAttributes):
    """What `find_lr` found.

    Attributes
    ----------
    lr : float
        The recommended rate: that of the best trial, or without trials ``suggestions["middle"]``.
    lrs, losses, smoothed : (n,) float64 arrays
        The rates of the sweep, the loss *after* a step at each, and its debiased exponential mean; medians over the
        repeats. NaN where half of the repeats had diverged.
    low, high : (n,) float64 arrays
        The least and the greatest smoothed loss of the repeats: with r repeats, a band that holds the median of a
        repeat with confidence 1 - 2**(1 - r), whatever its distribution. NaN where a repeat had diverged.
    suggestions : dict of str to float
        One rate per rule, from `smoothed`: see `fastlr.tuning.suggestions`.
    spread : dict of str to (float, float)
        The least and the greatest suggestion of the repeats taken one by one.
    bracket : (float, float)
        For rates that change, as in `schedules.one_cycle`; `lr` lies between them. Of the trials: on either side the
        rate halfway, by the logarithm, to the first that fell less than nine tenths as far as the best of equal length.
        Without trials: from the rate after which a tenth of the fall of the smoothed loss was never lost again, to the
        rate of the least loss, and wider where `lr` is not between them.
    trials : list of dict
        ``lr``, ``updates`` (its length), ``new`` (the updates that were made for it now: it continues a shorter one),
        ``loss`` (mean of the last third of the trial, or of the least quarter of its validation losses; infinite if it
        diverged), in the order in which they ran.
    diverged_at : float or None
        The rate at which the sweep stopped, the median over repeats; None if it reached its end.
    ratios : list of float
        Each group's rate in units of `lr`: ``group.lr = result.lr * ratio``.
    before : float
        The loss before the first step.
    updates : int
        How many steps were taken (and then undone).
    notes : list of str
        Reasons to doubt the result; empty if there are none.
    """

    lr: float
    lrs: Floats
    losses: Floats
    smoothed: Floats
    low: Floats
    high: Floats
    suggestions: dict[str, float]
    spread: dict[str, tuple[float, float]]
    bracket: tuple[float, float]
    trials: list[dict[str, Any]]
    diverged_at: float | None
    ratios: list[float]
    before: float
    updates: int
    notes: list[str]
    runs: Floats                       # the losses of each repeat
    smoothing: float

    def __init__(self, lrs: Floats, sweeps: Sequence[Sweep], smoothing: float, ratios: list[float]) -> None:
        self.lrs, self.ratios, self.smoothing = lrs, ratios, smoothing
        self.before = float(np.median([one.before for one in sweeps]))
        self.updates = sum(one.updates for one in sweeps)
        self.runs = np.array([one.losses for one in sweeps])
        means = np.array([smoothed(one.losses, smoothing, one.before) for one in sweeps])
        self.losses, self.smoothed = median(self.runs), median(means)
        self.low, self.high = means.min(axis=0), means.max(axis=0)
        ends = sorted(len(lrs) if one.stopped is None else one.stopped for one in sweeps)
        end = ends[len(ends) // 2]
        self.diverged_at = float(lrs[end]) if end < len(lrs) else None
        self.suggestions = suggest(lrs, self.smoothed)
        alone = [suggest(lrs, mean) for mean in means]
        self.spread = {name: (min(one[name] for one in alone), max(one[name] for one in alone))
                       for name in self.suggestions}
        self.lr = self.suggestions["middle"]
        self.trials, self.notes = [], []
        finite = self.smoothed[np.isfinite(self.smoothed)]
        least = int(finite.argmin())
        fall = self.before - finite[least]
        above = np.flatnonzero(finite[: least + 1] > self.before - fall / 10)    # (noise may cross it several times)
        first = int(above[-1]) + 1 if len(above) else 0
        self.bracket = (min(float(lrs[min(first, least)]), self.lr), max(float(lrs[least]), self.lr))
        noise = float(np.nanmedian(np.abs(np.diff(self.losses)))) / math.sqrt(2) if len(finite) > 2 else 0.0
        if fall <= 2 * noise + 1e-9 * abs(self.before):
            self.notes.append("the loss never fell by more than its noise: look at the gradients, raise lr_max, "
                              "or take more steps or repeats")
        elif end == len(lrs) and least >= len(lrs) - 2:
            self.notes.append(f"the loss was still falling at the highest rate, {lrs[-1]:g}: raise lr_max")
        elif first == 0:
            self.notes.append(f"the loss was falling at the lowest rate already, {lrs[0]:g}: lower lr_min")

    def to_dict(self) -> dict[str, Any]:
        """All attributes as plain data, which JSON can hold except for infinities and NaN."""
        arrays = {name: getattr(self, name).tolist() for name in ("lrs", "losses", "smoothed", "low", "high")}
        plain = {name: getattr(self, name)
                 for name in ("before", "diverged_at", "trials", "ratios", "updates", "notes", "smoothing")}
        return {"lr": self.lr, "suggestions": dict(self.suggestions),
                "spread": {name: list(pair) for name, pair in self.spread.items()},
                "bracket": list(self.bracket), **plain, **arrays, "runs": self.runs.tolist()}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw losses, band, trials and suggestions; return the matplotlib Axes (of `pip install fastlr-core[lab]`)."""
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots()[1]
        ax.set_xscale("log")
        ax.plot(self.lrs, self.losses, ".", color="0.75", markersize=3, label="loss after a step")
        line = ax.plot(self.lrs, self.smoothed, label="smoothed")[0]
        if len(self.runs) > 1:
            ax.fill_between(self.lrs, self.low, self.high, color=line.get_color(), alpha=0.2, linewidth=0,
                            label=f"{len(self.runs)} repeats")
        most = max((trial["updates"] for trial in self.trials), default=0)
        final = [trial for trial in self.trials if trial["updates"] >= most / 2 and math.isfinite(trial["loss"])]
        if final:
            ax.plot([trial["lr"] for trial in final], [trial["loss"] for trial in final], "x", color="C2",
                    label="trials")
        ax.axvspan(*self.bracket, color="0.5", alpha=0.08, label="bracket")
        ax.axvline(self.lr, color="C3", label=f"lr {self.lr:.2g}")
        for name in ("steepest", "valley", "slide", "minimum"):
            ax.axvline(self.suggestions[name], color="0.5", linewidth=0.7, linestyle=":")
            ax.annotate(name, (self.suggestions[name], 0.99), xycoords=("data", "axes fraction"), rotation=90,
                        ha="right", va="top", fontsize=7, color="0.4")
        seen = self.smoothed[np.isfinite(self.smoothed)]
        reach = max(self.before, float(np.median(seen))) - min(float(seen.min()), self.before)
        ax.set_ylim(seen.min() - 0.1 * reach, max(self.before, float(np.median(seen))) + 0.5 * reach or None)
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        ax.legend(fontsize=8)
        return ax

    def __repr__(self) -> str:
        rates = ", ".join(f"{name}={rate:.3g}" for name, rate in self.suggestions.items())
        notes = f"; {'; '.join(self.notes)}" if self.notes else ""
        return (f"RangeTest(lr={self.lr:.3g}; {rates}; bracket {self.bracket[0]:.3g} to {self.bracket[1]:.3g}; "
                f"{self.updates} updates{notes})")


def find_lr(
    opt: Any,
    loss_and_grad: LossAndGrad,
    batches: Iterable[Any],
    lr_min: float = 1e-7,
    lr_max: float = 10.0,
    steps: int = 100,
    repeats: int = 1,
    *,
    trial_steps: int = TRIAL_STEPS,
    smoothing: float = 0.9,
    divergence: float = 8.0,
    validation: Validation | None = None,
    also_restore: Any = (),
    batch_bytes: int = BATCH_BYTES,
    copy_bytes: int = COPY_BYTES,
    budget: int | None = None,
    on_trial: Callable[[dict[str, Any]], object] | None = None,
) -> RangeTest:
    r"""Find a learning rate for an optimizer, its parameters and data; the optimizer and parameters are restored.

    First the range test of Smith 2015 (arXiv:1506.01186): one step at each of `steps` rates that rise geometrically,

    .. math:: \eta_i = \eta_{min} (\eta_{max} / \eta_{min})^{i / (n - 1)},

    until the loss diverges. Then trials at constant rates, all from the same parameters and on the same batches: at
    first 7 rates below that at which the sweep diverged, two a decade, and lower ones where the lowest is the best. The
    best 4 are continued to half of `trial_steps` updates, the best 3 of those to all of them (successive halving,
    Jamieson & Talwalkar 2016, arXiv:1502.07943), and the one with the least mean loss in its last third is `.lr`. That
    costs 4 times `trial_steps` updates besides the sweep. A sweep alone is not enough, and four rates a decade are no
    better than two: ``python benchmarks/suggested_rates.py``.

    Parameters
    ----------
    opt
        Any optimizer whose step takes gradients, also in Lookahead or GradientCentralization. Its groups keep the
        ratios of their rates; a schedule counts as its highest rate from the current t on.
    loss_and_grad
        ``loss_and_grad(batch) -> (loss, grads)``, the loss a number, the gradients as `opt.step` takes them, None if
        they are bound. It reads the parameters that `opt` updates.
    batches
        A sequence or any other iterable, started again at its end. Of anything but a list, tuple or array, batches that
        are used again are copied: those of trials, and the latest of an iterator, which cannot be started again. So a
        loader may reuse its memory, and an iterator may be endless.
    lr_min, lr_max
        The ends of the sweep. With several groups, they and all rates of the result are those of the highest group.
    steps
        Rates in a sweep, one update each.
    repeats
        Sweeps, each from the same parameters on other batches: for `low`, `high` and `spread`. Trials are repeated
        as often, and their losses are averaged.
    trial_steps
        Updates of the longest trials. 0 for none.
    smoothing
        The beta of the debiased exponential mean of the losses, to which the rules are applied, in [0, 1).
    divergence
        A sweep stops where the smoothed loss is above its least value by more than `divergence` - 1 times the size of
        that value, or times the fall of the loss so far if this is larger (fastai and Lightning: 4 times a positive
        loss).
    validation
        ``validation() -> loss`` of data that are not trained on, at the current parameters. It is called after every
        4th update of a trial, and trials are compared by the mean of the least quarter of these losses.
    also_restore
        What else `loss_and_grad` and `validation` change, as running statistics of a batch normalization: arrays,
        random generators, objects with `state_dict` and `load_state_dict`, and mappings, sequences and dataclasses of
        them, nested as you like. TypeError for anything that cannot be restored.
    batch_bytes
        The most memory that copies of batches may need, by default 1 GiB (or one batch for each repeat, if that is
        more). Where more would be needed, trials repeat fewer batches, and `notes` tells so.
    copy_bytes
        The most memory that copies of parameters, state and `also_restore` may need, by default 1 GiB, besides the one
        that is restored at the end: 5 copies at most for each repeat. Trials whose copies do not fit are begun anew,
        not continued, which costs up to half as many updates again, and `notes` tells so.
    budget
        The most updates in all. Trials are shortened to fit.
    on_trial
        Called with each entry of `trials` when it is there: to show progress.

    Returns a `RangeTest`. Parameters and their 16-bit copies, state, t, rates, schedules and the other attributes of
    the optimizer, and the generators that Python and NumPy share, are restored bit for bit, also after an exception.
    Gradient buffers hold the gradients of the last batch.

    Raises
    ------
    TypeError, ValueError
        Before anything is written; ValueError also, with everything restored, if a loss is not finite before the
        first step, or if the sweep diverged within three rates. Where a later loss is not finite, the next batches are
        tried; the third such loss in a row means divergence, which is a result and no error. Exceptions of
        `loss_and_grad` are passed on, except for ArithmeticError after the first step, which means divergence too.

    >>> import numpy as np, fastlr
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(64, 5)); y = x @ np.arange(5.0)
    >>> w = np.zeros(5)
    >>> def loss_and_grad(rows):
    ...     error = x[rows] @ w - y[rows]
    ...     return float(error @ error) / len(rows), 2 * x[rows].T @ error / len(rows)
    >>> opt = fastlr.SGD(w, lr=0.01)
    >>> found = fastlr.find_lr(opt, loss_and_grad, rng.integers(0, 64, (10, 16)))
    >>> 0.1 < found.lr < 1, opt.t, opt.lr, w.any()
    (True, 0, 0.01, np.False_)

    Differs from fastai, Lightning and torch-lr-finder: the loss reported for a rate is that after the step at that
    rate, not before it; slopes are taken by log(rate) (Lightning since 2.5.3: by the rate); the mean is
    debiased; t and hyper-parameters are restored as well; and the recommended rate is one that has been tried.
    """
    lrs = checked_rates(opt, lr_min, lr_max, steps, repeats, trial_steps, smoothing, divergence)
    if validation is not None and not callable(validation):
        raise TypeError(f"find_lr: validation must be callable as validation() -> loss, got {validation!r}")
    for name, size in (("batch_bytes", batch_bytes), ("copy_bytes", copy_bytes)):
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
            raise ValueError(f"find_lr: {name} must be a number of bytes, got {size!r}")
    check_budget(budget, steps, repeats, trial_steps)
    ratios, source = rate_ratios(opt), Batches(batches, int(batch_bytes))
    with restored(opt, also_restore) as start, np.errstate(all="ignore"):
        sweeps = []
        for _ in range(repeats):
            swept = sweep(opt, loss_and_grad, source, lrs, ratios, smoothing, divergence)
            start.restore()
            if swept.stopped is not None and swept.stopped < 3:                # divergence, or noise?
                ceiling = 3 * max(finite_loss(loss_and_grad, source)[0] for _ in range(NOISE_BATCHES))
                start.restore()
                again = sweep(opt, loss_and_grad, source, lrs, ratios, smoothing, divergence, ceiling)
                start.restore()
                swept = again._replace(updates=swept.updates + again.updates)
            sweeps.append(swept)
            if swept.stopped is not None and swept.stopped < 3:
                raise ValueError(f"find_lr: the loss diverged at the rate {lrs[sweeps[-1].stopped]:.3g}, after "
                                 f"{sweeps[-1].updates} updates: lower lr_min, which is {lr_min:g}")
        result = RangeTest(lrs, sweeps, smoothing, ratios)
        if trial_steps:
            left = math.inf if budget is None else budget - result.updates
            length = next(n for n in range(trial_steps, 0, -1) if repeats * planned(n) <= left or n == SMALLEST)
            trials = [Trials(start, loss_and_grad, source.take(length, repeats), ratios, validation,
                             copy_bytes / repeats) for _ in range(repeats)]
            before = result.before if validation is None else float(validation())
            found = run_rounds(trials, (float(lrs[0]), float(lrs[-1])), result.diverged_at, length, before, left,
                               on_trial)
            result.trials, result.notes = found.rows, result.notes + found.notes
            result.updates += sum(row["new"] for row in found.rows)
            if found.lr is not None and found.bracket is not None:
                result.lr = result.suggestions["trials"] = found.lr
                result.bracket = found.bracket
        result.notes += source.notes
    return result


def check_budget(budget: Any, steps: int, repeats: int, trial_steps: int) -> None:
    if budget is None:
        return
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise TypeError(f"find_lr: budget must be an integer, the most updates in all, or None, got {budget!r}")
    least = repeats * (steps + (planned(SMALLEST) if trial_steps else 0))
    if budget < least:
        raise ValueError(f"find_lr: budget must be at least {least} updates for {steps} steps and {repeats} repeats, "
                         f"got {budget}: give fewer steps or repeats")


def checked_rates(opt: Any, lr_min: float, lr_max: float, steps: int, repeats: int, trial_steps: int, smoothing: float,
                  divergence: float) -> Floats:
    """The rates of a sweep; TypeError or ValueError if an argument is none that `find_lr` can use."""
    if not hasattr(opt, "groups") or not hasattr(opt, "state_dict") or isinstance(opt, SAM) or accumulates(opt):
        cure = "; of torch: fastlr.torch.find_lr(model, optimizer, loss_fn, loader)" \
            if hasattr(opt, "param_groups") or hasattr(opt, "parameters") else ""
        raise TypeError(f"find_lr: opt must be a fastlr optimizer whose step takes gradients, got {type(opt).__name__}"
                        f"{cure}")
    for name, count, least in (("steps", steps, 10), ("repeats", repeats, 1), ("trial_steps", trial_steps, 0)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise TypeError(f"find_lr: {name} must be an integer, got {count!r}")
        if count < least:
            raise ValueError(f"find_lr: {name} must be at least {least}, got {count}")
    if 0 < trial_steps < 10:
        raise ValueError(f"find_lr: trial_steps must be 0 or at least 10, got {trial_steps}")
    if not (0 < lr_min < lr_max < math.inf):
        raise ValueError(f"find_lr: 0 < lr_min < lr_max < infinity must hold, got lr_min={lr_min}, lr_max={lr_max}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"find_lr: smoothing must be in [0, 1), got {smoothing}")
    if not divergence > 1:
        raise ValueError(f"find_lr: divergence must be above 1, got {divergence}")
    return np.geomspace(lr_min, lr_max, steps)


def rate_ratios(opt: Any) -> list[float]:
    """Each group's rate over the highest one; a schedule counts as its highest rate from the current t on."""
    def highest(lr: Any) -> float:
        if not callable(lr):
            return float(lr)
        ahead = []
        for n in (0, *(2**k for k in range(20))):
            try:
                ahead.append(float(lr(opt.t + n)))
            except ValueError:         # (the schedule has ended)
                break
        return max(ahead, default=0.0)
    rates = [highest(group.lr) for group in opt.groups]
    top = max(rates)
    return [rate / top for rate in rates] if 0 < top < math.inf else [1.0] * len(rates)


def finite_loss(loss_and_grad: LossAndGrad, batches: Iterator[Any]) -> tuple[float, Any]:
    """Loss and gradients of the next batch, or of one of the two after it if its loss is not finite."""
    loss, grads = math.nan, None
    for _ in range(MOST_NONFINITE):
        returned = loss_and_grad(next(batches))
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise TypeError(f"find_lr: loss_and_grad must return the loss and the gradients, got "
                            f"{type(returned).__name__}")
        loss, grads = returned
        if np.ndim(loss) and np.size(loss) != 1:
            raise TypeError(f"find_lr: loss_and_grad must return the loss, one number, and then the gradients; the "
                            f"first that it returned is an array of shape {np.shape(loss)}")
        if math.isfinite(float(loss)):
            break
    return float(loss), grads


class Sweep(NamedTuple):
    """One sweep: the loss before it, the loss after each step, NaN from index `stopped` on."""

    before: float
    losses: Floats
    stopped: int | None
    updates: int = 0


def sweep(opt: Any, loss_and_grad: LossAndGrad, batches: Iterator[Any], lrs: Floats, ratios: list[float],
          smoothing: float, divergence: float, ceiling: float = -math.inf) -> Sweep:
    """One step at each rate, until the loss diverges: above what noise makes of it, `ceiling`, where that is known."""
    losses = np.full(len(lrs), math.nan)
    first, grads = finite_loss(loss_and_grad, batches)
    if not math.isfinite(first):
        raise ValueError(f"find_lr: the loss must be finite before the first step, got {first} on {MOST_NONFINITE} "
                         f"batches; check the parameters and the batches")
    mean = weight = 1 - smoothing
    mean *= first
    best = loss = first
    for i, lr in enumerate(lrs):
        set_rates(opt, lr, ratios)
        try:
            take_step(opt, loss, grads)
            loss, grads = finite_loss(loss_and_grad, batches)
        except ArithmeticError:
            loss = math.nan
        mean, weight = smoothing * mean + (1 - smoothing) * loss, smoothing * weight + 1 - smoothing
        smooth = mean / weight
        if not smooth <= max(best + (divergence - 1) * max(abs(best), first - best), ceiling):    # (NaN is not)
            return Sweep(first, losses, i, i + 1)
        losses[i], best = loss, min(best, smooth)
    return Sweep(first, losses, None, len(lrs))
