"""What `tune_lr` returns: the values that it found, and all its trials."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..optimizers.declaration import KnownAttributes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Mode = Literal["min", "max"]
Status = Literal["done", "diverged", "failed"]
Values = tuple[tuple[str, float], ...]       # names and values of what is searched beside the rate


@dataclass(frozen=True)
class Trial:
    """One call of `train`: its arguments, and its score, or the reason why it has none.

    `also` has the values of what is searched beside the rate; `params` has them and the rate. `status` is "done",
    "diverged" (the score is not finite) or "failed" (an exception, or a worker that died). `seconds` is wall time where
    it ran, NaN if it never returned. `round` counts the rungs, then refinements.
    """

    lr: float
    budget: float
    seed: int
    round: int
    status: Status
    score: float
    seconds: float
    reason: str = ""
    also: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def params(self) -> dict[str, float]:
        return {"lr": self.lr} | self.also


@dataclass
class Tuned(KnownAttributes):
    """What `tune_lr` found.

    `lr` is the best rate at the full budget; `params` has it and the values found beside it; `score` is the mean over
    the seeds. `bracket` has the nearest rates on either side that were tried and were not better, or an end of the
    range. `cost` is the sum of the budgets of all trials, also of failed ones; `seconds` is the sum of their times,
    where known. `trials` are in the order in which they were submitted, whatever the order in which they finished.
    """

    lr: float
    score: float
    bracket: tuple[float, float]
    mode: Mode
    budget: float
    trials: list[Trial] = field(repr=False)
    also: dict[str, float] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, float]:
        return {"lr": self.lr} | self.also

    @property
    def cost(self) -> float:
        return sum(trial.budget for trial in self.trials)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials if math.isfinite(trial.seconds))

    def table(self) -> str:
        """All trials as text, one line each."""
        width = {name: max(len(name), 10) for name in self.also}
        lines = [f"{'round':>5} {'lr':>10} {''.join(f'{name:>{width[name]}} ' for name in self.also)}{'budget':>8} "
                 f"{'seed':>6} {'score':>12} {'seconds':>8}  status"]
        for t in self.trials:
            values = "".join(f"{t.also[name]:{width[name]}.4g} " for name in self.also)
            lines.append(f"{t.round:5} {t.lr:10.4g} {values}{t.budget:8g} {t.seed:6} {t.score:12.6g} {t.seconds:8.3g}  "
                         f"{t.status}" + (f": {t.reason}" if t.reason else ""))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All attributes as plain data, which JSON can hold except for infinities and NaN."""
        return {"lr": self.lr, "params": self.params, "score": self.score, "bracket": list(self.bracket),
                "mode": self.mode, "budget": self.budget, "cost": self.cost, "seconds": self.seconds,
                "trials": [asdict(trial) for trial in self.trials]}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw scores by rate, a color per budget; return the matplotlib Axes. Needs `pip install fastlr-core[lab]`.

        Where a second value was searched, it is the height, and the color is the score at the full budget.
        """
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots()[1]
        ax.set_xscale("log")
        better = "lower" if self.mode == "min" else "higher"
        if self.also:
            self.draw_two(ax, f"validation score ({better} is better)")
        else:
            self.draw_one(ax)
            ax.set_ylabel(f"validation score ({better} is better)")
        ax.axvline(self.lr, color="C3", linewidth=0.8, label=f"lr {self.lr:.3g}")
        ax.set_xlabel("learning rate")
        ax.legend(fontsize=8)
        return ax

    def draw_one(self, ax: Axes) -> None:
        for k, budget in enumerate(sorted({trial.budget for trial in self.trials})):
            done = sorted((t.lr, t.score) for t in self.trials if t.budget == budget and t.status == "done")
            if done:
                ax.plot(*zip(*done, strict=True), "o-", color=f"C{k}", markersize=4, linewidth=0.8,
                        label=f"budget {budget:g}")
        lost = [t.lr for t in self.trials if t.status != "done"]
        if lost:
            ax.plot(lost, [0.02] * len(lost), "x", color="C3", transform=ax.get_xaxis_transform(),
                    label="diverged or failed")
        ax.axvspan(*self.bracket, color="0.5", alpha=0.1)

    def draw_two(self, ax: Axes, of_color: str) -> None:
        name, value = next(iter(self.also.items()))
        if min(trial.also[name] for trial in self.trials) > 0:
            ax.set_yscale("log")
        early = [(t.lr, t.also[name]) for t in self.trials if t.status == "done" and t.budget < self.budget]
        full = [(t.lr, t.also[name], t.score) for t in self.trials if t.status == "done" and t.budget == self.budget]
        lost = [(t.lr, t.also[name]) for t in self.trials if t.status != "done"]
        if early:
            ax.plot(*zip(*early, strict=True), "o", color="0.7", markersize=3, label="smaller budgets")
        if lost:
            ax.plot(*zip(*lost, strict=True), "x", color="C3", label="diverged or failed")
        lrs, values, scores = zip(*full, strict=True)
        shown = ax.scatter(lrs, values, c=scores, s=36, zorder=3)
        ax.get_figure(root=True).colorbar(shown, ax=ax, label=of_color)  # type: ignore[union-attr]
        ax.axhline(value, color="C3", linewidth=0.8)
        ax.set_ylabel(name)
