"""The twelve tables of a study, and one for each sweep, computed from its measured runs alone.

A table is plain data, the same for the terminal, the CSV files and the page: a title, columns, rows of entries, the
method, and a finding, a sentence that is composed from the numbers. An entry has a text and, where it summarizes
several runs, their mean, spread (sample standard deviation) and number.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import fmean
from typing import Any

from .claims import Run, best_rate, claims, group, lost, mean_loss
from .entries import (
    Entry,
    Measure,
    Table,
    best_entry,
    by_network,
    kept,
    losses_text,
    measure_of,
    measured,
    number,
    over_trained,
    percent,
    plain,
    table,
    whole,
)
from .model_names import is_model
from .sweeps import experiment, sweep_table

OVERFIT = 1.05  # the final validation loss over its minimum, from which a run counts as overfitting
KEPT = 0.9  # of the best rate's gain on the baseline: what a rate "as good" keeps


def tables(document: dict[str, Any]) -> list[Table]:
    """All twelve tables, then those of sweeps; one whose experiment has no runs yet has no rows."""
    found = document["experiments"]
    settings = document["settings"]
    grid, ladder = found["grid"], found["ladder"]
    measure = measure_of(document)
    target = f"{settings['target_loss']:g} {measure.loss_unit}"
    origin = f"The baseline's training loss is {number(measure.baseline['train_loss'])} {measure.loss_unit}. "
    made = [
        accuracy(grid, measure),
        time_to_target(grid, target, origin, document["environment"]["jobs"]),
        updates_to_target(grid, target, origin),
        throughput(grid, document["environment"]["jobs"]),
        overfitting(grid, measure),
        descent(found["descent"], settings["target_norm"]),
        escape(found["escape"], settings["optimizer"]),
        memory(found["memory"]),
        activations(ladder, grid, measure),
        generalization_gap(grid, measure),
        strategies(grid, found["strategies"], document["strategies"], measure),
        common_claims(found, measure),
        *(sweep_table(name, sweep, found[experiment(name)], measure) for name, sweep in document["sweeps"].items()),
    ]
    return [{"number": k} | table for k, table in enumerate(made, start=1)]


def accuracy(grid: Sequence[Run], measure: Measure) -> Table:
    columns, rows = by_network(grid, lambda runs: over_trained(runs, measure.score, percent))
    best, finding = best_entry(columns, rows), ""
    baseline = f"{measure.baseline_score():.1f}"
    if best:
        means = {lr: fmean(map(measure.score, kept(runs))) for lr, runs in group(grid, "lr").items() if kept(runs)}
        low, high = min(means, key=lambda lr: means[lr]), max(means, key=lambda lr: means[lr])
        finding = (
            f"The highest is {best[2]['text']} %, {best[0]} at {best[1]}. Over all networks rate {high:g} gives "
            f"{means[high]:.1f} %, rate {low:g} {means[low]:.1f} %. "
        )
        finding += ("Always predicting the training mean is 0." if measure.regression else
                    f"Always saying the most frequent class is right on {baseline} %.")
    if rows:
        rows.append(measure.baseline_row(columns, baseline))
    how = (
        "The share of the squared error of always predicting the training mean that the network takes away, on the "
        "test split, seen by no part of training, after the last update: 100 % is a perfect prediction, below 0 a "
        "worse one than the mean."
        if measure.regression
        else "The share of rows of the test split, seen by no part of training, whose most likely class is the right "
        "one, after the last update."
    )
    return table("accuracy", f"Test {measure.score_name} by learning rate", "%", columns, rows, how, finding)


def time_to_target(grid: Sequence[Run], target: str, origin: str, jobs: int) -> Table:
    columns, rows = by_network(
        grid, lambda runs: over_trained(runs, lambda r: milliseconds(r["machine"]["seconds_to_target"]))
    )
    best = best_entry(columns, rows, lowest=True)
    short = sum("mean" not in entry for row in rows for entry in row[1:])
    finding = f"The shortest is {best[2]['text']} ms, {best[0]} at {best[1]}. " if best else ""
    finding += f"{short} of {sum(len(row) - 1 for row in rows)} combinations never got there."
    return table(
        "time-to-target",
        f"Training time to a training loss of {target}",
        "ms",
        columns,
        rows,
        "Wall time of batches, gradients and updates, without evaluation, until the training loss, averaged over the "
        f"latest epoch of updates, was at most the target. {origin}Measured with {jobs} "
        f"{'process' if jobs == 1 else 'processes'} at work; whatever else the machine does counts too.",
        finding,
        timed=True,
    )


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def updates_to_target(grid: Sequence[Run], target: str, origin: str) -> Table:
    columns, rows = by_network(grid, lambda runs: over_trained(runs, lambda r: r["updates_to_target"], whole))
    best, most = best_entry(columns, rows, lowest=True), max((run["updates"] for run in grid), default=0)
    finding = ""
    if best:
        ratios = []
        for row in rows:
            means = [entry["mean"] for entry in row[1:] if "mean" in entry]
            if len(means) > 1:
                ratios.append((max(means) / min(means), row[0]["text"]))
        finding = f"The fewest are {best[2]['text']}, {best[0]} at {best[1]}."
        if ratios:
            finding += (
                f" For {max(ratios)[1]} the slowest rate that got there took {max(ratios)[0]:.1f} times the fastest."
            )
    return table(
        "updates-to-convergence",
        f"Updates to convergence (training loss {target})",
        "updates",
        columns,
        rows,
        f"The first update at which the training loss, averaged over the latest epoch of updates, is at most {target}. "
        f"{origin}'Not reached': not in {most:,} updates; (k of n): in k of n seeds.",
        finding or (f"No combination got there in {most:,} updates." if rows else ""),
    )


def throughput(grid: Sequence[Run], jobs: int) -> Table:
    def thousands(run: Run) -> float | None:
        seconds = run["machine"]["train_seconds"]
        return run["updates"] * run["batch_size"] / seconds / 1000 if seconds else None

    columns, rows = by_network(grid, lambda runs: over_trained(runs, thousands))
    finding = ""
    if best := best_entry(columns, rows):
        means = [fmean(means) for row in rows if (means := [e["mean"] for e in row[1:] if "mean" in e])]
        within = [
            max(means) / min(means)
            for row in rows
            if (means_ := [e["mean"] for e in row[1:] if "mean" in e])
            for means in [means_]
        ]
        finding = (
            f"The fastest is {best[0]}, {best[2]['text']} thousand a second. Networks differ by a factor of "
            f"{max(means) / min(means):.1f}, rates within a network by {max(within):.2f} at most."
        )
    return table(
        "instances-per-second",
        "Training instances per second",
        "thousands",
        columns,
        rows,
        "Rows that went forward and backward through the network and into an update, by seconds of training, without "
        "evaluation. An update is the same arithmetic at any rate: what differs within a row is the clock's noise. "
        f"Measured with {jobs} {'process' if jobs == 1 else 'processes'} at work.",
        finding,
        timed=True,
    )


def rise(run: Run) -> float | None:
    """The final validation loss over its minimum during training."""
    losses = [loss for loss in (run["curve"] or {}).get("validation_loss", []) if loss is not None]
    return None if run["validation_loss"] is None or not losses or min(losses) <= 0 else losses[-1] / min(losses)


def gap(run: Run, measure: Measure) -> float:
    """Training minus test accuracy or R2, in points."""
    return measure.score(run, "train") - measure.score(run)


def overfits(run: Run, measure: Measure) -> bool:
    return (rise(run) or 0) > OVERFIT and gap(run, measure) > 0


def overfitting(grid: Sequence[Run], measure: Measure) -> Table:
    def entry(runs: Sequence[Run]) -> Entry:
        judged = [run for run in kept(runs) if run["learned"] and rise(run) is not None]
        if not judged:
            return plain(losses_text(runs) or "nothing learned") if runs else plain("-")
        shown = measured([float(rise(run) or 0) for run in judged])
        do = sum(overfits(run, measure) for run in judged)
        answer = "yes" if 2 * do > len(judged) else "no"
        apart = fmean(gap(run, measure) for run in judged)
        rest = losses_text(runs) if len(kept(runs)) < len(runs) else ""
        return shown | {
            "answer": answer,
            "overfitting": do,
            "gap": apart,
            "quality": fmean(run["validation_loss"] for run in judged),
            "text": f"{answer} ({do} of {len(judged)}): {100 * (shown['mean'] - 1):.0f} % above, {apart:+.1f}"
            + (f", {rest}" if rest else ""),
        }

    columns, rows = by_network(grid, entry)
    entries = [e for row in rows for e in row[1:] if "answer" in e]
    count = sum(e["answer"] == "yes" for e in entries)
    finding = f"{count or 'None'} of {len(entries)} combinations {'overfits' if count < 2 else 'overfit'}."
    if entries:
        worst = max(entries, key=lambda e: e["mean"])
        finding += (f" The furthest that a validation loss ended above its own minimum is "
                    f"{100 * (worst['mean'] - 1):.0f} %.")
        apart = measure.baseline_score("train") - measure.baseline_score()
        rows.append(measure.baseline_row(columns, f"no: 0 % above, {apart:+.1f}"))
    else:
        finding = "No network learned anything that it could overfit."
    return table(
        "overfitting",
        "Overfitting: yes or no, and the evidence",
        "validation loss above its minimum; gap in points",
        columns,
        rows,
        "Yes or no (seeds that do, of those that learned anything): how far the final validation loss ended above its "
        f"own minimum, then training minus test {measure.score_name} in points. A run overfits if the first is above "
        f"{100 * (OVERFIT - 1):.0f} % and the second positive; a combination, if most of its seeds do. Nothing "
        "learned: the training loss ended within 1 % of the baseline's, or above it.",
        finding,
    )


def generalization_gap(grid: Sequence[Run], measure: Measure) -> Table:
    def apart(run: Run) -> float:
        return float(run["test_loss"] - run["train_loss"])

    def entry(runs: Sequence[Run]) -> Entry:
        shown = over_trained(runs, apart, lambda value: f"{value:.3f}")
        return shown | {"quality": fmean(run["test_loss"] for run in kept(runs))} if "mean" in shown else shown

    columns, rows = by_network(grid, entry)
    means = {lr: fmean(map(apart, kept(runs))) for lr, runs in group(grid, "lr").items() if kept(runs)}
    finding = ""
    if means:
        finding = "Mean over networks: " + ", ".join(f"{means[lr]:.3f} at {lr:g}" for lr in sorted(means)) + "."
    if rows:
        baseline = measure.baseline["test_loss"] - measure.baseline["train_loss"]
        rows.append(measure.baseline_row(columns, f"{baseline:.3f}"))
    return table(
        "generalisation-gap",
        "Generalisation gap by learning rate",
        measure.loss_unit,
        columns,
        rows,
        "Test loss minus training loss after the last update. A network that has learned little has a small gap "
        f"too: read it beside the {measure.score_name}.",
        finding,
    )


# 6 to 8


def descent(runs: Sequence[Run], target: float) -> Table:
    def entry(of: Sequence[Run]) -> Entry:
        reached = [run for run in of if run["updates"] is not None]
        if not of:
            return plain("-")
        if not reached:
            ends = [run["norm"] / run["norms"][0] for run in of if run["norm"] is not None and run["norms"][0]]
            if any(run["collapsed"] for run in of):
                return plain(losses_text([run | {"diverged": run["norm"] is None} for run in of]))
            share = 100 * fmean(ends) if ends else 0.0
            return plain(f"not reached, {share:{'.0f' if share < 1e6 else '.0e'}} %" if ends else "diverged")
        shown = measured([1000 * run["machine"]["seconds"] for run in reached])
        few = f" ({len(reached)} of {len(of)})" if len(reached) < len(of) else ""
        shown["updates"] = fmean(run["updates"] for run in reached)
        shown["text"] += f"{few}; {shown['updates']:.0f} updates"
        return shown

    columns, rows = by_network(runs, entry)
    best = best_entry(columns, rows, lowest=True)
    limit = runs[0]["limit"] if runs else 0
    finding = "No rate got there."
    if best:
        row, column, least = best
        finding = f"The shortest is {number(least['mean'])} ms, {row} at {column}: {least['updates']:.0f} updates."
    return table(
        "full-batch-descent",
        f"Full-batch gradient descent: time to {100 * target:g} % of the first gradient's norm",
        "ms",
        columns,
        rows,
        "Wall time and updates until the Euclidean norm of the gradient of the whole training split, over all weights "
        f"and biases, is at most {100 * target:g} % of that at the start, and the loss halfway from the baseline's to "
        "the target of table 3: the gradient of dead units is small too. Plain descent. 'Not reached': not in "
        f"{limit:,} updates, with the share of the first norm where it ended. 'Collapsed': the network has learned "
        "nothing and gives nearly the same outputs for all rows.",
        finding,
        timed=True,
    )


def escape(runs: Sequence[Run], requested: str) -> Table:
    lrs = list(group(runs, "lr")) if runs else []
    cells = {(run["landscape"], run["lr"]): run for run in runs}

    def entry(run: Run | None) -> Entry:
        if run is None:
            return plain("-")
        if run["lost"] == 1:
            return plain("all lost")
        share = run["escaped"]
        error = 100 * sqrt(share * (1 - share) / run["starts"])
        gone = f", {100 * run['lost']:.1f} lost" if run["lost"] else ""
        local = 100 * (share - run["found"])
        return {
            "text": f"{100 * run['found']:.1f} + {local:.1f} ± {error:.1f}{gone}",
            "mean": 100 * share,
            "spread": error,
            "n": run["starts"],
            "found": 100 * run["found"],
            "quality": 100 * run["found"],
        }

    rows = [[plain(name), *(entry(cells.get((name, lr))) for lr in lrs)] for name in group(runs, "landscape")]
    finding, facts = "", ""
    if runs:
        def shares(name: str) -> str:
            means = {lr: 100 * fmean(run[name] for run in of) for lr, of in group(runs, "lr").items()}
            return ", ".join(f"{mean:.1f} % at {lr:g}" for lr, mean in means.items() if mean or name != "lost")

        finding = f"Mean over landscapes: {shares('escaped')}; of these, to a global minimum {shares('found')}."
        if any(run["lost"] for run in runs):
            finding += f" Lost, as numbers were no longer finite: {shares('lost')}."
        facts = (
            f"{runs[0]['starts']:,} starts in a local minimum, {runs[0]['steps']:,} updates by {runs[0]['optimizer']}, "
            "then descent without noise: the share of starts that is in the basin of a global minimum + the share in "
            "that of another local one ± the standard error of both together. The noise: a normal deviate "
            f"of standard deviation {runs[0]['noise']:g} on each of the two components of every gradient, where "
            "heights are divided by the curvature at the local minimum, which makes 2 the limit of stability."
        )
        if runs[0]["optimizer"] != requested:
            facts += f" Not by {requested}, which looks at more than one number: the starts would not be independent."

    return table(
        "escape-rate",
        "Escape from a local minimum",
        "% of starts",
        ["landscape", *(f"lr {lr:g}" for lr in lrs)],
        rows,
        facts,
        finding,
    )


def memory(runs: Sequence[Run]) -> Table:
    lrs = list(group(runs, "lr")) if runs else []
    rows, differ, peaks = [], 0, []
    for (network, optimizer), of in (group(runs, "network", "optimizer") if runs else {}).items():
        by_rate = {run["lr"]: run for run in of}
        fixed = of[0]["parameters"] + of[0]["gradients"]
        differ += len({run["state"] for run in of}) > 1
        own = [run["machine"]["peak"] for run in of if run["machine"]["peak"] is not None]
        if own:
            peaks.append(max(own) / min(own) - 1)
        entries = [
            {
                "text": kib(fixed + run["state"]) + peak_text(run),
                "mean": (fixed + run["state"]) / 1024,
                "spread": None,
                "n": 1,
            }
            if (run := by_rate.get(lr))
            else plain("-")
            for lr in lrs
        ]
        per = 4 * of[0]["state"] / of[0]["parameters"]
        rows.append([plain(network), plain(optimizer), plain(f"{per:.0f} B"), *entries])
    finding = ""
    if runs:
        same = "does not depend on the rate in any row" if not differ else f"depends on the rate in {differ} rows"
        finding = (
            f"The memory of weights, gradients and state {same}"
            + (f"; traced peaks differ between rates by at most {100 * max(peaks):.1f} %" if peaks else "")
            + ". It depends on the network, and on what the optimizer keeps per weight."
        )
    untraced = dict.fromkeys(run["network"] for run in runs if run["machine"]["peak"] is None)
    return table(
        "memory",
        "Memory by learning rate",
        "KiB",
        ["network", "optimizer", "state per weight", *(f"lr {lr:g}" for lr in lrs)],
        rows,
        "Weights, gradients and optimizer state after ten updates, in KiB; then the most that was allocated at once, "
        "traced by tracemalloc: activations and a shuffled copy of the training rows besides."
        + (f" Left out: the peak of {', '.join(untraced)}, as torch's memory is not traced." if untraced else ""),
        finding,
        timed=True,
    )


def peak_text(run: Run) -> str:
    peak = run["machine"]["peak"]
    return "" if peak is None else f"; peak {kib(peak)}"


def kib(size: float) -> str:
    return f"{size / 1024:,.1f}"


# 9, 11, 12


def activations(ladder: Sequence[Run], grid: Sequence[Run], measure: Measure) -> Table:
    rows, found = [], []
    baseline = measure.baseline["validation_loss"]
    for network, runs in (group(ladder, "network") if ladder else {}).items():
        rates = group(runs, "lr")
        best = best_rate(runs)
        activation = network.rpartition("-")[2]
        edge = [lr for lr, of in sorted(rates.items()) if any(map(lost, of))]
        of_grid = best_rate([run for run in grid if run["network"].rpartition("-")[2] == activation])
        if best is None:
            middle = [plain("none")] + [plain("-")] * 3
        else:
            worst = baseline - KEPT * max(baseline - mean_loss(rates[best]), 0.0)
            close = [lr for lr, of in sorted(rates.items()) if mean_loss(of) <= max(worst, mean_loss(rates[best]))]
            found.append(f"{activation}: {best:g}")
            middle = [
                {"text": f"{best:g}", "mean": best, "spread": None, "n": len(rates[best])},
                over_trained(rates[best], lambda r: r["validation_loss"], lambda value: f"{value:.3f}"),
                over_trained(rates[best], measure.score, percent),
                plain(f"{close[0]:g} to {close[-1]:g}"),
            ]
        rows.append([plain(activation), *middle, plain(f"{edge[0]:g}" if edge else "none"),
                     plain("-" if of_grid is None else f"{of_grid:g}")])
    if rows:
        rows.append([plain(measure.baseline_name), plain("-"), plain(f"{baseline:.3f}"),
                     plain(f"{measure.baseline_score():.1f}"), *[plain("-")] * 3])
    network = ladder[0]["network"] if ladder else ""
    of = (f"The model {network}, with the activation that it has" if is_model(network)
          else f"The same widths, {network.rpartition('-')[0]}, under each activation")
    return table(
        "best-rate",
        f"Best learning rate {'of the model' if is_model(network) else 'by activation function'}",
        "",
        [
            "model" if is_model(network) else "activation",
            "best rate",
            f"validation loss, {measure.loss_unit}",
            f"test {measure.score_name}, %",
            f"{100 * KEPT:.0f} % as good",
            "lost from",
            "best in the grid",
        ],
        rows,
        f"{of}, at {len(group(ladder, 'lr')) if ladder else 0} rates from "
        "1e-4 to 10, held; best is the lowest mean validation loss after "
        f"{ladder[0]['epochs'] if ladder else 0} epochs. {100 * KEPT:.0f} % as good: the rates that keep that share of "
        "what the best one gains on the baseline. Lost from: the lowest rate at which a seed diverged or collapsed. "
        "Last: the best rate of table 1's grid over all its networks of that activation.",
        f"Best rates: {', '.join(found)}." if found else "At every rate some seed was lost.",
    )


def strategies(grid: Sequence[Run], others: Sequence[Run], ways: dict[str, Any], measure: Measure) -> Table:
    seeds = {run["seed"] for run in others}
    network = others[0]["network"] if others else None
    pool = [run for run in grid if run["network"] == network and run["seed"] in seeds] + list(others)
    cells = group(pool, "optimizer", "schedule", "lr") if pool else {}
    lrs = list(group(pool, "lr")) if pool else []
    rows, best = [], []
    for k, (name, (optimizer, schedule)) in enumerate(ways.items() if pool else ()):
        kind = (
            "adaptive"
            if optimizer.startswith(("ada", "rms", "ams"))
            else "fixed"
            if k == 0 and not schedule
            else "decaying"
        )
        mine = {lr: cells.get((optimizer, schedule, lr), []) for lr in lrs}
        entries = [over_trained(mine[lr], measure.score, percent) for lr in lrs]
        rate = best_rate([run for runs in mine.values() for run in runs])
        rows.append([plain(name), plain(kind), *entries, plain("-" if rate is None else f"{rate:g}")])
        if rate is not None and isfinite(mean_loss(mine[rate])):
            best.append((mean_loss(mine[rate]), name, rate, entries[lrs.index(rate)]))
    finding = ""
    if best:
        loss, name, rate, entry = min(best, key=lambda found: found[0])
        spans = {
            row[0]["text"]: max(m) - min(m) for row in rows if len(m := [e["mean"] for e in row if "mean" in e]) > 1
        }
        finding = (f"The lowest validation loss, {loss:.3g} {measure.loss_unit}, is that of {name} at {rate:g} "
                   f"({measure.score_name} {entry['text']} %).")
        if spans:
            least, most = min(spans, key=lambda n: spans[n]), max(spans, key=lambda n: spans[n])
            finding += (
                f" Over the rates {measure.score_name} moves by {spans[least]:.1f} points for {least}, "
                f"by {spans[most]:.1f} for {most}."
            )
    if rows:
        rows.append([plain(measure.baseline_name), plain("baseline"),
                     *(plain(f"{measure.baseline_score():.1f}") for _ in lrs), plain("-")])
    return table(
        "strategies",
        f"Fixed, decaying and adaptive rates: test {measure.score_name}",
        "%",
        ["strategy", "kind", *(f"lr {lr:g}" for lr in lrs), "best rate"],
        rows,
        f"Network {network}, the same seeds in every row. The rate at the head of a column is the first one of a "
        "decaying strategy, and the optimizer's own rate of an adaptive one; the best rate has the lowest mean "
        "validation loss.",
        finding,
    )


def common_claims(found: dict[str, list[Run]], measure: Measure) -> Table:
    made = claims(found, measure.loss_unit)
    rows = [
        [
            plain(c["claim"]),
            {"text": c["verdict"], "rule": c["rule"]},
            {"text": " ".join(c["evidence"]), "evidence": c["evidence"]},
        ]
        for c in made
    ]
    return table(
        "claims",
        "Three common claims, put to the test",
        "",
        ["claim", "verdict", "evidence"],
        rows,
        "Each verdict is that of a sign test over pairs of runs; its rule is in results.json and on the page.",
        "; ".join(f"“{c['claim']}” {c['verdict']}" for c in made) + ".",
    )
