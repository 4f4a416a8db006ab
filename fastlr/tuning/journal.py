"""The file from which a search that was killed goes on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from .tuned import Trial
from .workers import Outcome, Request


class Journal:
    """The trials of a search in a file, a line each: written when they are done, and read when it begins anew."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.known: dict[Request, Outcome] = {}
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]              # (a kill may have torn the last line)
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                trial = Trial(**entry | {"score": float(entry["score"]), "seconds": float(entry["seconds"])})
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"tune_lr: journal {self.path.name}: line {number}: expected a trial as tune_lr "
                                 f"writes it, got {line[:40].decode(errors='replace')!r}; give another file") from error
            if trial.status == "done":
                request = Request(trial.lr, trial.budget, trial.seed, tuple(trial.also.items()))
                self.known[request] = "done", trial.score, trial.seconds, ""
        if whole != data:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def write(self, trial: Trial) -> None:
        entry = asdict(trial) | {"score": str(trial.score), "seconds": str(trial.seconds)}   # (JSON has no NaN)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
