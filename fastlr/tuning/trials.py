"""Trials of constant rates from the same start and on the same batches: short ones, of which the best are continued."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .._engine.tensor_versions import mark_written
from ..optimizers.resumable import tensors_of, unwrapped
from ..optimizers.state import completed
from .batches import size_of
from .restoring import Restore, random_state, saved

LossAndGrad = Callable[[Any], tuple[float, Any]]
Validation = Callable[[], float]

MOST_NONFINITE = 3                     # batches in a row whose loss is not finite mean divergence
RATES_PER_DECADE = 2
RATES = 7                              # below the rate at which the sweep diverged
ROUNDS = ((20 / 112, 4), (1 / 2, 3), (1.0, 1))     # fraction of `trial_steps`, and how many rates are continued
VALIDATE_EVERY = 4                     # updates
SMALLEST = 10                          # updates of the longest trial


class Trial(NamedTuple):
    """A trial that may be continued."""

    restore: Restore | None            # None where its copy was given up, or has never been made
    losses: list[float]
    validated: list[float]
    nonfinite: int                     # batches in a row whose loss was not finite, at the end
    made: int                          # updates


START = Trial(None, [], [], 0, 0)


class Start:
    """An optimizer, and all else that training changes, at the start of trials."""

    def __init__(self, opt: Any, also_restore: Any) -> None:
        self.opt = opt
        self.needed: int | None = None
        self.others = list(also_restore) if isinstance(also_restore, Iterator) else also_restore
        others, generators = saved(self.others, "find_lr: also_restore"), random_state()
        own = opt.saved() if hasattr(opt, "saved") else saved_optimizer(opt)

        def write() -> None:
            own()
            others()
            generators()

        self.write = write

    def restore(self) -> None:
        completed(self.write)

    def snapshot(self) -> Restore:
        """The function that restores what there is now."""
        others, generators = saved(self.others, "find_lr: also_restore"), random_state()
        own = self.opt.snapshot() if hasattr(self.opt, "snapshot") else saved_optimizer(self.opt)

        def restore() -> None:
            own()
            others()
            generators()

        return restore

    def bytes(self) -> int:
        """What a copy of parameters and state needs, as it is when this is first asked: after a step."""
        if self.needed is None:
            self.needed = self.opt.bytes() if hasattr(self.opt, "bytes") else bytes_of(self.opt)
            self.needed += size_of(self.others)
        return self.needed


@contextmanager
def restored(opt: Any, also_restore: Any) -> Iterator[Start]:
    """Yields the start, which is restored at the end in any case."""
    start = Start(opt, also_restore)
    try:
        yield start
    finally:
        start.restore()


def saved_optimizer(opt: Any) -> Restore:
    """Save an optimizer of fastlr and its parameters; return the function that restores them."""
    state = opt.state_dict()
    plan = unwrapped(opt)._plan
    tensors = tensors_of(opt)
    arrays = [tensor.array for tensor in tensors]
    arrays += [tensor.shadow for tensor in tensors if tensor.shadow is not None]
    copies = [array.copy() for array in arrays]
    values = [dict(group._values) for group in opt.groups]
    skipped, norm = plan.skipped, plan.grad_norm

    def set_hypers() -> None:
        for group, before in zip(opt.groups, values, strict=True):
            for name, value in before.items():
                if getattr(group, name) is not value:
                    setattr(group, name, value)

    def write() -> None:
        set_hypers()                   # (functions, whose name alone is in a state_dict)
        opt.load_state_dict(state)
        set_hypers()                   # (the same objects, where loading made equal ones)
        for array, copy in zip(arrays, copies, strict=True):
            array[...] = copy
        mark_written([source for tensor in tensors for source in tensor.sources()])
        plan.skipped, plan.grad_norm = skipped, norm

    return write


def bytes_of(opt: Any) -> int:
    """What a copy of an optimizer of fastlr needs, with its parameters."""
    arrays = [array for tensor in tensors_of(opt) for array in (tensor.array, tensor.shadow) if array is not None]
    return sum(array.nbytes for array in arrays) + size_of(opt.state_dict())


def set_rates(opt: Any, lr: float, ratios: list[float]) -> None:
    for group, ratio in zip(opt.groups, ratios, strict=True):
        group.lr = float(lr) * ratio


def take_step(opt: Any, loss: float, grads: Any) -> None:
    if unwrapped(opt).needs_loss:
        opt.step(grads, loss=loss)
    else:
        opt.step(grads)


class Trials:
    """Trials of one list of batches; a trial that was trained before is continued where its copy was kept.

    `most_bytes` limits the copies: of the trials that may be continued, as many as fit are copied, the best first; the
    others begin anew.
    """

    def __init__(self, start: Start, loss_and_grad: LossAndGrad, batches: list[Any], ratios: list[float],
                 validation: Validation | None, most_bytes: float) -> None:
        self.start, self.loss_and_grad, self.batches = start, loss_and_grad, batches
        self.ratios, self.validation, self.most_bytes = ratios, validation, most_bytes
        self.kept: dict[float, Trial] = {}
        self.lost: set[float] = set()      # trials that would be continued, had there been memory for their copies
        self.begun_anew = 0

    def train(self, lr: float, updates: int) -> tuple[float, int]:
        """The loss of a trial that is so long, infinite if it diverged; and how many updates that took now."""
        trial = self.kept.pop(lr, START)
        if trial.restore is None:
            self.begun_anew += lr in self.lost
            trial = START
            self.start.restore()
            set_rates(self.start.opt, lr, self.ratios)
        else:
            completed(trial.restore)
        after, diverged = self.updates(trial, updates)
        if diverged:
            self.start.restore()
            return math.inf, after.made - trial.made
        self.kept[lr] = after._replace(restore=self.start.snapshot() if self.copies_fit() > 0 else None)
        return self.loss(after), after.made - trial.made

    def needs(self, lr: float, updates: int) -> int:
        """How many updates a trial of this length takes now."""
        trial = self.kept.get(lr, START)
        return updates - (trial.made if trial.restore is not None else 0)

    def keep(self, best: Sequence[float]) -> None:
        """Give up the copies of all trials but these, and of the last of them where memory does not suffice."""
        fit = self.copies_fit()
        copied, self.lost = set(best[:fit]), set(best[fit:])
        self.kept = {lr: trial if lr in copied else trial._replace(restore=None)
                     for lr, trial in self.kept.items()}

    def copies_fit(self) -> int:
        """How many copies the memory suffices for."""
        return int(min(self.most_bytes // max(self.start.bytes(), 1), 1000))

    def updates(self, trial: Trial, updates: int) -> tuple[Trial, bool]:
        """Continue a trial; whether it diverged."""
        losses, validated, nonfinite = list(trial.losses), list(trial.validated), trial.nonfinite
        opt = self.start.opt
        for k in range(trial.made + 1, updates + 1):
            try:
                loss, grads = self.loss_and_grad(self.batches[(k - 1) % len(self.batches)])
                number = float(loss)
                if math.isfinite(number):
                    take_step(opt, number, grads)
                    losses.append(number)
                    nonfinite = 0
                else:
                    nonfinite += 1
                if self.validation is not None and (k % VALIDATE_EVERY == 0 or k == updates):
                    validated.append(float(self.validation()))
            except ArithmeticError:
                return Trial(None, losses, validated, nonfinite, k), True
            if nonfinite == MOST_NONFINITE:
                return Trial(None, losses, validated, nonfinite, k), True
        return Trial(None, losses, validated, nonfinite, updates), nonfinite > 0

    def loss(self, trial: Trial) -> float:
        """The mean loss of the last third of a trial, or of the least quarter of the validation losses."""
        if self.validation is None:
            later = trial.losses[2 * len(trial.losses) // 3:]
        else:
            finite = sorted(filter(math.isfinite, trial.validated))
            later = finite[:max(len(trial.validated) // 4, 1)]
        mean = sum(later) / len(later) if later else math.inf
        return mean if math.isfinite(mean) else math.inf


def lengths(trial_steps: int) -> list[int]:
    """Updates of the trials of each round."""
    return [max(round(fraction * trial_steps), 2) for fraction, _ in ROUNDS]


def planned(trial_steps: int, after: int = -1) -> int:
    """Updates of all trials of one repeat in the rounds after that, where no lower rates are tried and copies fit."""
    counts, ends = [RATES, *(count for _, count in ROUNDS)], [0, *lengths(trial_steps)]
    return sum(counts[k] * (ends[k + 1] - ends[k]) for k in range(after + 1, len(ROUNDS)))


class Ranked(NamedTuple):
    """What `run_rounds` found: rates from best to worst, with the loss of the longest trial of each."""

    lr: float | None                   # None where every trial diverged
    rows: list[dict[str, Any]]
    bracket: tuple[float, float] | None
    notes: list[str]


def run_rounds(all_trials: Sequence[Trials], lrs: tuple[float, float], diverged_at: float | None, trial_steps: int,
               before: float, budget: float = math.inf,
               on_trial: Callable[[dict[str, Any]], object] | None = None) -> Ranked:
    """Short trials at the rates below that at which the sweep diverged; the best are continued, and so on.

    Rates are two a decade, counted from the highest. Where the lowest one of a round is the best, lower ones are tried,
    down to the lowest of all. `all_trials` are the repeats, whose losses are averaged; `before` is the loss at
    their start; `budget` counts the updates of all.
    """
    step = 10 ** (1 / RATES_PER_DECADE)
    lowest, highest = lrs
    top = math.inf if diverged_at is None else diverged_at * (1 - 1e-9)
    lattice = [highest / step**k for k in range(1 + math.floor(math.log(highest / lowest, step) + 1e-9))]
    below = [lr for lr in lattice if lr < top] or [lowest]
    rates = below[:RATES]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    best: float | None = None
    spent = 0
    for k, updates in enumerate(lengths(trial_steps)):
        count, later = ROUNDS[k][1], planned(trial_steps, k) * len(all_trials)
        scores: dict[float, float] = {}
        queue = sorted(rates, reverse=True)
        for lr in queue:
            if spent + sum(trials.needs(lr, updates) for trials in all_trials) > budget:
                break
            losses, made = zip(*(trials.train(lr, updates) for trials in all_trials), strict=True)
            scores[lr] = float(np.mean(losses))
            spent += sum(made)
            rows.append({"lr": lr, "updates": updates, "new": sum(made), "loss": scores[lr]})
            order = sorted(scores, key=lambda lr: (scores[lr], lr))
            for trials in all_trials:
                trials.keep([*(one for one in queue if one not in scores), *order[:count]])
            if on_trial is not None:
                on_trial(rows[-1])
            lower = lr == queue[-1] == order[0] and scores[lr] < math.inf and lr / step >= lowest * (1 - 1e-9)
            if lower and spent + len(all_trials) * updates + later <= budget:
                queue.append(lr / step)
        if not scores.keys() >= set(rates):
            notes.append("budget did not suffice for the longest trials")
            break
        rates = [lr for lr in order[:count] if scores[lr] < math.inf]
        best = rates[0] if rates else None
        if best is None:
            break
    if best is None:
        return Ranked(None, rows, None, ["every trial diverged: lower lr_min"])
    if (again := sum(trials.begun_anew for trials in all_trials)):
        notes.append(f"{again} trials were begun anew, as a copy of parameters and state needs "
                     f"{all_trials[0].start.bytes():,} bytes, and copy_bytes is {all_trials[0].most_bytes:,.0f}")
    if len({row["loss"] for row in rows if row["updates"] == rows[0]["updates"]}) == 1 < len(rows):
        notes.append("every rate gave the same loss: does loss_and_grad read the parameters that opt updates?")
    return Ranked(best, rows, bracket_of(best, rows, before), notes)


def bracket_of(best: float, rows: list[dict[str, Any]], before: float) -> tuple[float, float]:
    """Halfway, by the logarithm, to the first rate on either side that fell less than nine tenths as far as the best.

    Falls from `before` are compared among trials of equal length.
    """
    good = {best: True}
    for updates in sorted({row["updates"] for row in rows}):
        losses = {row["lr"]: row["loss"] for row in rows if row["updates"] == updates}
        least = min(losses.values())
        good |= {lr: loss <= least + max(before - least, 0) / 10 for lr, loss in losses.items()}
    good[best] = True

    def end(rates: list[float], other: float) -> float:
        last = best
        for lr in rates:
            if not good[lr]:
                break
            last = lr
        return last * other

    half = 10 ** (0.5 / RATES_PER_DECADE)
    rates = sorted(good)
    return (end([lr for lr in reversed(rates) if lr < best], 1 / half), end([lr for lr in rates if lr > best], half))
