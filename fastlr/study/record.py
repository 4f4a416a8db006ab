"""The results of a study: one document, and files, each of which is written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import fastlr

from .data import Dataset
from .laboratory import Outcome, Settings, Task, strategies, sweeps_of
from .model_names import is_model
from .sweeps import experiment
from .tables import tables

SCHEMA, VERSION = "fastlr-study", 2
TRAINED = "grid", "ladder", "decay", "strategies"  # experiments whose runs have curves, beside sweeps


class Record:
    """The outcomes of a study up to now, in the order of the plan."""

    def __init__(self, settings: Settings, data: Dataset, planned: dict[str, list[Task]], jobs: int) -> None:
        self.settings, self.data, self.jobs = settings, data, jobs
        self.planned = {name: len(tasks) for name, tasks in planned.items()}
        self.outcomes: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in planned}

    @property
    def done(self) -> int:
        return sum(map(len, self.outcomes.values()))

    @property
    def total(self) -> int:
        return sum(self.planned.values())

    def note(self, experiment: str, index: int, outcome: Outcome) -> None:
        self.outcomes[experiment][index] = outcome.to_dict()

    def document(self) -> dict[str, Any]:
        """Everything that tables and page show, as plain data.

        Two studies with the same settings have the same bits on one machine, except for "environment", each run's
        "machine", and the tables that are "timed".
        """
        data = self.data
        updates = len(data.train[1]) // self.settings.batch_size * self.settings.epochs
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "schema_version": VERSION,
            "complete": self.done == self.total,
            "done": self.done,
            "planned": self.total,
            "settings": json.loads(json.dumps(asdict(self.settings))),
            "data": {
                "name": data.name,
                "features": data.features,
                "classes": len(data.classes),
                "train": len(data.train[1]),
                "validation": len(data.validation[1]),
                "test": len(data.test[1]),
                "regression": data.regression,
                "target": list(data.target),
                "baseline": data.baseline,
                "moments": [float(np.linalg.norm(np.atleast_1d(part))) for part in (data.mean, data.scale)],
                "notes": list(data.notes),
            },
            "environment": {
                "fastlr": fastlr.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "machine": platform.machine(),
                "system": platform.system(),
                "jobs": self.jobs,
                "fastlr_config": fastlr.show_config(mode="dicts"),
            }
            | ({"torch": metadata.version("torch")} if any(map(is_model, self.settings.networks)) else {}),
            "strategies": {name: list(way) for name, way in strategies(self.settings, updates).items()},
            "sweeps": sweeps_of(self.settings, data),
            "experiments": {name: [found[k] for k in sorted(found)] for name, found in self.outcomes.items()},
        }
        document["tables"] = tables(document)
        return document


def check_folder(folder: Path) -> None:
    """Create the folder and check that files can be created in it; `OSError` if not."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        for path in made:
            if path.is_dir():
                path.rmdir()
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, then rename it: `path` has the whole new file or the old one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_results(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "results.json"
    write_whole(path, json.dumps(document, allow_nan=False, default=str, separators=(",", ":")) + "\n")
    return path


def write_tables(folder: Path, document: dict[str, Any]) -> None:
    """A CSV file for each table, one of all training runs, and one of their curves."""
    for table in document["tables"]:
        write_whole(folder / f"table-{table['number']:02}-{table['name']}.csv", csv_text(table_rows(table)))
    write_whole(folder / "runs.csv", csv_text(runs(document)))
    write_whole(folder / "curves.csv", csv_text(curves(document)))


def csv_text(rows: Iterator[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def table_rows(table: dict[str, Any]) -> Iterator[list[Any]]:
    """The rows of a table; measured entries have their mean, spread and number in further columns."""
    measured_columns = [any("mean" in row[k] for row in table["rows"]) for k in range(len(table["columns"]))]
    head: list[Any] = []
    for column, measured in zip(table["columns"], measured_columns, strict=True):
        head += [column, f"{column} mean", f"{column} spread", f"{column} n"] if measured else [column]
    yield head
    for row in table["rows"]:
        line: list[Any] = []
        for entry, measured in zip(row, measured_columns, strict=True):
            line.append(entry["text"])
            if measured:
                line += [entry.get("mean"), entry.get("spread"), entry.get("n")]
        yield line


def trained(document: dict[str, Any]) -> list[str]:
    """The experiments whose runs have curves."""
    return [*TRAINED, *map(experiment, document["sweeps"])]


def runs(document: dict[str, Any]) -> Iterator[list[Any]]:
    """A row for each network that was trained."""
    names: list[str] = []
    for kind in trained(document):
        for run in document["experiments"][kind]:
            own = {name: value for name, value in run.items() if name not in ("curve", "machine")} | run["machine"]
            if not names:
                names = list(own)
                yield ["experiment", *names]
            yield [kind, *(own[name] for name in names)]


def curves(document: dict[str, Any]) -> Iterator[list[Any]]:
    """A row for each epoch of each training run, and one for the state before the first."""
    score = "r2" if document["data"]["regression"] else "accuracy"
    names = [f"{split}_{what}" for what in ("loss", score) for split in ("train", "validation", "test")]
    keys = "network", "lr", "seed", "optimizer", "schedule", "batch_size", "momentum"
    yield ["experiment", *keys, "epoch", *names]
    for kind in trained(document):
        for run in document["experiments"][kind]:
            series = zip(*(run["curve"][name] for name in names), strict=True)
            for epoch, values in enumerate(series):
                yield [kind, *(run[key] for key in keys), epoch, *values]
