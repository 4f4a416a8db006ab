"""What `tune_lr` shows while it runs: a table that is updated in place on a terminal, else a line for each trial."""

from __future__ import annotations

import math
import os
import shutil
import sys
from time import monotonic
from typing import Any

from .tuned import Mode, Trial

REFRESH = 0.1        # seconds between two drawings
ROWS = 8


def shown(verbose: bool | None, mode: Mode, budget: float, planned: float) -> Table | Lines | None:
    """What shows the trials: nothing, unless stderr is a terminal or `verbose` is True."""
    file = sys.stderr
    terminal = file is not None and file.isatty() and os.environ.get("TERM") != "dumb"
    if file is None or verbose is False or (verbose is None and not terminal):
        return None
    return Table(file, mode, budget, planned) if terminal else Lines(file)


class Lines:
    """A line for each trial."""

    def __init__(self, file: Any) -> None:
        self.file, self.count = file, 0

    def __call__(self, trial: Trial) -> None:
        self.count += 1
        values = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
        score = f"score {trial.score:.6g}" if trial.status == "done" else f"{trial.status}: {trial.reason}"
        print(f"tune_lr: trial {self.count}, round {trial.round}: {values}, budget {trial.budget:g}, seed "
              f"{trial.seed}: {score}", file=self.file, flush=True)

    def close(self) -> None:
        """There is nothing to complete."""


class Table:
    """The best trials of the largest budget up to now, under a line that says how far the search is."""

    def __init__(self, file: Any, mode: Mode, budget: float, planned: float) -> None:
        self.file, self.mode, self.budget, self.planned = file, mode, budget, planned
        self.trials: list[Trial] = []
        self.start, self.next, self.lines = monotonic(), 0.0, 0

    def __call__(self, trial: Trial) -> None:
        self.trials.append(trial)
        if monotonic() >= self.next:
            self.draw()
            self.next = monotonic() + REFRESH

    def text(self) -> list[str]:
        latest = self.trials[-1]
        cost = sum(trial.budget for trial in self.trials) / self.budget
        lost = sum(trial.status != "done" for trial in self.trials)
        seconds = monotonic() - self.start
        count = len(self.trials)
        lines = [f"tune_lr: {count} trial{'' if count == 1 else 's'}, {cost:.1f} of about {self.planned:.1f} full "
                 f"trainings, {seconds:.0f} s" + (f", {lost} without a score" if lost else "")]
        names = list(latest.params)
        lines.append("".join(f"{name:>14}" for name in (*names, "budget", "seed", "score")))
        largest = max((t.budget for t in self.trials if t.status == "done"), default=math.nan)
        best = sorted((t for t in self.trials if t.status == "done" and t.budget == largest),
                      key=lambda t: (t.score if self.mode == "min" else -t.score, t.lr))
        for t in best[:ROWS]:
            lines.append("".join(f"{t.params[name]:14.4g}" for name in names)
                         + f"{t.budget:14g}{t.seed:14}{t.score:14.6g}")
        return lines

    def draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        lines = [line[:width] for line in self.text()]
        up = f"\x1b[{self.lines}F" if self.lines else ""
        self.file.write(f"{up}\x1b[J" + "\n".join(lines) + "\n")
        self.file.flush()
        self.lines = len(lines)

    def close(self) -> None:
        if self.trials:
            self.draw()
