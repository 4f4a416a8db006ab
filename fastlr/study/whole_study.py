"""A whole study from Python: its experiments, and the folder that `fastlr study` writes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from . import laboratory
from .data import Dataset, digits
from .model_names import Make, given


def write_report(
    out: str | PathLike[str] = "fastlr-study",
    data: Dataset | None = None,
    *,
    model: Make | str | None = None,
    quick: bool = False,
    jobs: int = 1,
    progress: Callable[[Any], object] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run a study as `fastlr study` does, and write its page, results and tables to the folder `out`.

    Returned is the document of results.json.

    `model` is a function without arguments that returns a new torch.nn.Module, or its name, "module:function"; it takes
    the place of the default networks, see `run`. `settings` are options of the command: lrs, networks, seeds, epochs,
    optimizer, schedule, batch_size, target_loss, sweeps. `progress(outcome)` is called after each experiment. With more
    than one job, which run in processes of their own, a model is given by its name, and a program calls this under
    ``if __name__ == "__main__":``.

        document = study.write_report("mine", study.load("mine.csv"), quick=True, model=lambda: nn.Linear(4, 3))

    Raises `ValueError` for settings that cannot be run, before the first experiment; `OSError` for a folder that cannot
    be written.
    """
    from . import page, record  # (the page needs packages that `run` does not)

    if jobs < 1:
        raise ValueError(f"study: jobs must be at least 1, got {jobs}")
    if jobs > 1 and model is not None and not isinstance(model, str):
        raise ValueError("study: other processes find a model by its name alone: give 'module:function' or jobs=1")
    data = digits() if data is None else data
    folder = Path(out)
    with nullcontext(model) if model is None or isinstance(model, str) else given(model) as name:
        chosen = laboratory.settings_for(data, quick, name, **settings)
        laboratory.plan(chosen, data)
        if "target_loss" not in settings:
            with laboratory.single_threaded():
                chosen = replace(chosen, target_loss=laboratory.pilot_target(chosen, data))
        planned = laboratory.plan(chosen, data)
        record.check_folder(folder)
        results = record.Record(chosen, data, planned, jobs)

        def note(experiment: str, index: int, outcome: laboratory.Outcome) -> None:
            results.note(experiment, index, outcome)
            if progress is not None:
                progress(outcome)

        laboratory.run_tasks(planned, data, jobs, note)
        document = results.document()
    record.write_results(folder, document)
    record.write_tables(folder, document)
    record.write_whole(folder / "report.html", page.render(document))
    return document
