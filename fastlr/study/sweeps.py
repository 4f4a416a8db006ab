"""Sweeps: the first network at rates beside one more setting, each a table and a heat map. A study has those asked for.

Each trains as many epochs as the ladder. Its rates are those of the study, or, where these are the default ones, eight
from 0.001 to 3, so that the best one is known to within half a decade.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..optimizers.declaration import nearest
from .claims import Run, best_rate, group, lost, mean_loss
from .entries import Entry, Measure, Table, kept, measured, number, percent, plain, table

Fields = dict[str, Any]  # some fields of a `Cell`
Sweep = dict[str, Any]  # "title", "row", "rows", "columns", "method": plain data, a part of a study's document

NAMES = ("schedule", "batch-size", "momentum", "warmup")
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
WARMUPS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # of all updates
BATCHES = (4, 8, 16, 32, 64, 128, 256)
OPTIMIZERS = ("sgd", "momentum", "adam")


def sweep_names(given: Sequence[str]) -> tuple[str, ...]:
    """The names of sweeps, each once; "all" is all of them. Raises `ValueError` for a name that is none."""
    for name in given:
        if name not in ("all", *NAMES):
            raise ValueError(f"study: a sweep is one of {', '.join(NAMES)} or all, got {name!r}{nearest(name, NAMES)}")
    return NAMES if "all" in given else tuple(dict.fromkeys(given))


def experiment(name: str) -> str:
    """The name of a sweep's experiment."""
    return f"sweep-{name}"


def sweep(name: str, lrs: Sequence[float], optimizer: str, updates: int, rows: int) -> Sweep:
    """What a sweep varies: `rows` and `columns` map a label to fields of the cells there.

    `updates` are those of a run, `rows` those of the training split. The columns of "schedule" are optimizers, each at
    the best of `lrs`; those of the others are rates.
    """
    rates = {f"lr {lr:g}": {"lr": lr} for lr in lrs}
    if name == "momentum":
        made = {f"{m:g}": {"optimizer": "momentum", "momentum": m} for m in MOMENTA}
        return {"title": "Momentum by learning rate", "row": "momentum", "rows": made, "columns": rates,
                "method": "The heavy ball: with momentum m a gradient moves a weight by 1/(1-m) times the rate."}
    if name == "batch-size":
        made = {f"{size}": {"batch_size": size} for size in BATCHES if size <= rows // 2 or size == BATCHES[0]}
        return {"title": "Batch size by learning rate", "row": "batch size", "rows": made, "columns": rates,
                "method": "As many epochs for each batch size: twice the batch is half as many updates."}
    if name == "warmup":
        steps: dict[int, str] = {}  # (of a short run several shares may be the same number of updates)
        for share in WARMUPS:
            steps.setdefault(round(share * updates), f"{100 * share:g} %" if share else "none")
        made = {label: {"schedule": f"constant(1).warmup({n})" if n else None} for n, label in steps.items()}
        return {"title": "Warm-up by learning rate", "row": "warm-up", "rows": made, "columns": rates,
                "method": f"The rate rises from 0 in a line over that share of the {updates:,} updates, and is held."}
    early = max(1, updates // 10)
    schedules = {
        "held": None,
        "halved 3 times": f"step_decay(1, factor=0.5, every={max(1, updates // 4)})",
        "exponential to 5 %": f"exponential(1, decay=3/{updates})",
        "linear to 0": f"linear(1, steps={updates})",
        "cosine to 0": f"cosine(1, steps={updates})",
        "warm-up, cosine to 0": f"cosine(1, steps={max(1, updates - early)}).warmup({early})",
    }
    optimizers = dict.fromkeys((*OPTIMIZERS, optimizer))
    return {"title": "Optimizer and schedule", "row": "schedule",
            "rows": {label: {"schedule": text} for label, text in schedules.items()},
            "columns": {label: {"optimizer": label} for label in optimizers},
            "method": f"Each at the best of the first rates {', '.join(f'{lr:g}' for lr in lrs)}, which is told: that "
                      "with the lowest mean validation loss. The warm-up takes a tenth of the updates."}


def grid_of(runs: Sequence[Run], sweep: Sweep) -> dict[tuple[str, str], list[Run]]:
    """The runs of each row and column; where a column is no rate, those at the best rate."""
    found = {}
    for row, fields in sweep["rows"].items():
        for column, more in sweep["columns"].items():
            of = [run for run in runs if all(run[name] == value for name, value in (fields | more).items())]
            if "lr" not in more and of:
                best = best_rate(of)
                # (where some seed was lost at every rate: the rate at which the fewest were)
                rates = group(of, "lr")
                best = min(rates, key=lambda lr: sum(map(lost, rates[lr]))) if best is None else best
                of = rates[best]
            found[row, column] = of
    return found


def sweep_table(name: str, sweep: Sweep, runs: Sequence[Run], measure: Measure) -> Table:
    """Test scores by row and column, shaded by the mean validation loss; the baseline's is the darkest."""
    cells = grid_of(runs, sweep)
    rates = "lr" in next(iter(sweep["columns"].values()))

    def entry(of: Sequence[Run]) -> Entry:
        if not of:
            return plain("-")
        at = "" if rates else f" at {of[0]['lr']:g}"
        trained = kept(of)
        if not trained:
            return plain("lost" + at)
        made = measured([measure.score(run) for run in trained], percent)
        made["quality"] = min(fmean(run["validation_loss"] for run in trained), measure.baseline["validation_loss"])
        made["text"] += at + (f", {len(of) - len(trained)} of {len(of)} lost" if len(trained) < len(of) else "")
        return made

    shown = [row for row in sweep["rows"] if any(cells[row, column] for column in sweep["columns"])]
    rows = [[plain(row), *(entry(cells[row, column]) for column in sweep["columns"])] for row in shown]
    losses = {key: mean_loss(of) for key, of in cells.items() if of and mean_loss(of) < float("inf")}
    finding = "In every cell some seed was lost."
    if losses:
        row, column = min(losses, key=lambda key: losses[key])
        lr = cells[row, column][0]["lr"]
        of = f"{sweep['row']} {row} and rate {lr:g}" if rates else f"{column}, {row}, at rate {lr:g}"
        finding = f"The lowest validation loss, {number(losses[row, column])} {measure.loss_unit}, is that of {of}."
        if rates:
            best = {row: best_rate([run for column in sweep["columns"] for run in cells[row, column]]) for row in shown}
            finding += f" The best rate by {sweep['row']}: " + ", ".join(
                f"{row}: {'none' if lr is None else f'{lr:g}'}" for row, lr in best.items()) + "."
    one = runs[0] if runs else None
    by = "" if one is None or name in ("momentum", "schedule") else f", {one['optimizer']}"
    method = "" if one is None else (
        f"{one['network']}{by}, {one['epochs']} epochs, {len({run['seed'] for run in runs})} seeds. {sweep['method']} "
        f"Test {measure.score_name} in percent; lost: diverged or collapsed. Shaded by the validation loss.")
    columns = [sweep["row"], *sweep["columns"]]
    if rows:
        rows.append(measure.baseline_row(columns, f"{measure.baseline_score():.1f}"))
    made = table(experiment(name), f"{sweep['title']}: test {measure.score_name}", "%", columns, rows, method, finding)
    return made | {"worst": measure.baseline["validation_loss"]}
