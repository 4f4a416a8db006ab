"""Two studies of the same table, compared: which rates, optimizers and verdicts changed, by one test for all of it.

A comparison is plain data, made from two documents (`results.json`) alone, with tables like those of a study. Its test
is a sign test over pairs of runs of the same network, rate and seed, one of each study, on two sides, corrected by
Holm's method for the number of comparisons.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from math import inf, isclose, sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import fastlr

from .claims import (
    FEWEST,
    LEVEL,
    Pair,
    Run,
    best_rate,
    claims,
    group,
    holm,
    loss_of,
    lost,
    mean_loss,
    sign_test,
    without_seed,
)
from .entries import Entry, Measure, Table, measure_of, number, plain, table
from .record import SCHEMA, TRAINED, VERSION

Document = dict[str, Any]
Key = tuple[Any, ...]

NUMBER = (int, float)
LOSSES = ("validation_loss", "train_loss", "test_loss")
# what is read of each training run, and of which types it is
FIELDS: dict[str, tuple[type, ...]] = {
    "network": (str,), "optimizer": (str,), "schedule": (str, type(None)), "lr": NUMBER, "seed": (int,),
    "diverged": (bool,), "collapsed": (bool,), "updates_to_target": (int, type(None)),
    **dict.fromkeys((*LOSSES, "test_accuracy", "test_r2"), (*NUMBER, type(None))),
}  # fmt: skip


def read_study(path: Path) -> Document:
    """The document of a study: a folder that `fastlr study` wrote, or its results.json.

    Raises `ValueError`, one line, for a file that is none, is damaged or has another version; `OSError` for one that
    cannot be read.
    """
    if path.is_dir():
        if not (path / "results.json").exists():
            raise ValueError(f"{path} has no results.json, which `fastlr study --out {path}` writes")
        path = path / "results.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not the results.json of a study: {str(error)[:80]}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not the results.json of a study, whose \"schema\" is {SCHEMA!r}")
    version = document.get("schema_version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        cure = "update fastlr" if newer else "run that study again"
        raise ValueError(f"{path} has version {version!r:.20} of the format of studies, and fastlr "
                         f"{fastlr.__version__} reads version {VERSION}; {cure}")
    if damage := next(damages(document), None):
        raise ValueError(f"{path} is damaged: {damage}")
    return document


def no_constant(text: str) -> None:
    raise ValueError(f"it has the number {text}")


def damages(document: Document) -> Iterator[str]:
    """What is missing or of another type, of that which a comparison reads."""
    parts = {name: document.get(name) for name in ("settings", "data", "environment", "strategies", "experiments")}
    for name, part in parts.items():
        if not isinstance(part, dict):
            yield f"it has no {name!r}"
            return
    settings, data, experiments = parts["settings"], parts["data"], parts["experiments"]
    assert settings is not None and data is not None and experiments is not None
    if not isinstance(settings.get("lrs"), list) or not isinstance(settings.get("optimizer"), str):
        yield "its settings have no rates or no optimizer"
    fields = ("train_loss", "validation_loss", "test_loss", *(() if data.get("regression") else ("test_accuracy",)))
    known = {"name": str, "features": int, "classes": int, "train": int, "validation": int, "test": int,
             "regression": bool, "baseline": dict}
    if not all(isinstance(data.get(name), kind) for name, kind in known.items()) or not all(
            isinstance(data["baseline"].get(name), NUMBER) for name in fields):
        yield "it does not say which data it is about"
    for name in (*TRAINED, "escape"):
        if not isinstance(experiments.get(name), list):
            yield f"it has no experiments {name!r}"
            return
    for name in TRAINED:
        for k, run in enumerate(experiments[name]):
            wrong = [field for field, kinds in FIELDS.items()
                     if not isinstance(run, dict) or field not in run or not isinstance(run[field], kinds)]
            if wrong:
                yield f"run {k} of {name!r} has no {wrong[0]!r} that is one"
            elif not 0 < run["lr"] < inf:
                yield f"run {k} of {name!r} has the rate {run['lr']}"
            elif not lost(run) and None in (run[field] for field in LOSSES):
                yield f"run {k} of {name!r} has no losses, and has not diverged"
    for k, run in enumerate(experiments["escape"]):
        if not isinstance(run, dict) or not all(isinstance(run.get(field), NUMBER) for field in ("lr", "escaped")):
            yield f"run {k} of 'escape' has no rate or no share"


def check_same_table(a: Document, b: Document) -> None:
    """Raise `ValueError` unless both studies are about the same rows, split in the same way."""
    one, other = a["data"], b["data"]
    if one["regression"] != other["regression"]:
        raise different(one, other, "one has classes, the other a number to predict")
    counts = {"features": "features", "classes": "classes", "train": "rows to train", "validation": "rows to validate",
              "test": "rows to test"}
    for name, what in counts.items():
        if one[name] != other[name]:
            raise different(one, other, f"{one[name]:,} and {other[name]:,} {what}")
    pairs = [(one["baseline"][name], other["baseline"].get(name)) for name in one["baseline"]]
    pairs += list(zip(one.get("moments", ()), other.get("moments", ()), strict=False))
    for u, v in pairs:
        if not (isinstance(u, NUMBER) and isinstance(v, NUMBER) and isclose(u, v, rel_tol=1e-5)):
            raise different(one, other, "as many rows, but other numbers in them")


def different(one: dict[str, Any], other: dict[str, Any], why: str) -> ValueError:
    return ValueError(f"the studies are of different tables, {one['name']} and {other['name']}: {why}; their runs "
                      f"cannot be paired")


# the test


def two_sided(first: int, pairs: int) -> float:
    """The probability of a split at least as uneven as this one, of pairs that fall on either side alike."""
    return min(1.0, 2 * sign_test(max(first, pairs - first), pairs)) if pairs else 1.0


def paired_runs(a: Sequence[Run], b: Sequence[Run], key: Callable[[Run], Key]) -> list[tuple[Run, Run]]:
    """Runs of the same key, one of each study."""
    others = {key(run): run for run in b}
    return [(run, others[key(run)]) for run in a if key(run) in others]


class Comparison:
    """Pairs of validation losses, of A and of B: which of them is lower more often than chance allows."""

    def __init__(self, name: str, runs: Sequence[tuple[Run, Run]]) -> None:
        self.name, self.runs = name, runs
        self.pairs: list[Pair] = [(loss_of(a), loss_of(b)) for a, b in runs]
        self.b_lower = sum(b < a for a, b in self.pairs)
        self.a_lower = sum(a < b for a, b in self.pairs)
        self.different = self.a_lower + self.b_lower
        self.enough = self.different > FEWEST  # (of five pairs not even all on one side are below the level)
        self.p = two_sided(self.b_lower, self.different)
        self.corrected: float | None = None

    @property
    def verdict(self) -> str:
        if not self.pairs:
            return "no pairs"
        if not self.different:
            return "the same"
        if self.corrected is None:
            return "too few pairs"
        if self.corrected >= LEVEL:
            return "not shown"
        return "B lower" if self.b_lower > self.a_lower else "A lower"

    def row(self) -> list[Entry]:
        ratios = [b / a for a, b in self.pairs if 0 < a < inf and b < inf]
        change = f"{100 * (median(ratios) - 1):+.1f} %" if ratios else "-"
        gone = [sum(pair[k] == inf for pair in self.pairs) for k in (0, 1)]
        return [
            plain(self.name), plain(str(len(self.pairs))), plain(str(self.a_lower)), plain(str(self.b_lower)),
            plain(change), plain(f"{gone[0]}, {gone[1]}"),
            plain("-" if self.corrected is None else "< 0.001" if self.corrected < 0.001 else f"{self.corrected:.2g}"),
            {"text": self.verdict, "p": self.corrected, "changed": self.verdict in ("A lower", "B lower")},
        ]  # fmt: skip


def corrected(comparisons: Sequence[Comparison]) -> int:
    """Correct the p-values of all comparisons with enough pairs for their number, which is returned."""
    tested = [found for found in comparisons if found.enough]
    for found, p in zip(tested, holm([found.p for found in tested]), strict=True):
        found.corrected = p
    return len(tested)


# the tables


def compare_studies(a: Document, b: Document, names: tuple[str, str] = ("A", "B")) -> Document:
    """A comparison of two documents, as `read_study` returns them; `names` say where they are from.

    Raises `ValueError` for studies of different tables, or of which no two runs can be paired.
    """
    check_same_table(a, b)
    measure = measure_of(a)
    by_rate, by_strategy = [at_best(a, b), *of_rates(a, b)], of_strategies(a, b)
    if not any(found.pairs for found in by_rate + by_strategy):
        raise ValueError("the studies have no network, rate and seed in common: no run of one can be paired with one "
                         "of the other")
    tested = corrected(by_rate + by_strategy)
    made = [
        rates(by_rate, tested, measure),
        strategies(by_strategy, tested, a, b),
        best_rates(a, b, measure),
        verdicts(a, b, measure),
        scores(a, b, measure),
    ]
    return {
        "schema": f"{SCHEMA}-comparison",
        "schema_version": 1,
        "studies": [
            {"name": name, "complete": bool(of.get("complete")), "settings": of["settings"],
             "environment": {key: of["environment"].get(key) for key in ("fastlr", "numpy", "python", "machine")}}
            for name, of in zip(names, (a, b), strict=True)
        ],
        "data": a["data"],
        "tested": tested,
        "differences": differences(a, b),
        "tables": [{"number": k} | of for k, of in enumerate(made, start=1)],
    }  # fmt: skip


def differences(a: Document, b: Document) -> list[list[str]]:
    """Settings and versions that are not the same: name, that of A, that of B."""
    found = []
    for part in ("settings", "environment"):
        names = [name for name in dict.fromkeys((*a[part], *b[part])) if name not in ("fastlr_config", "jobs")]
        found += [[name.replace("_", " "), shown(a[part].get(name)), shown(b[part].get(name))]
                  for name in names if a[part].get(name) != b[part].get(name)]
    return found


def shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(shown(entry) for entry in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def of_rates(a: Document, b: Document) -> list[Comparison]:
    """A comparison for each rate that both grids have: pairs of the same network and seed."""
    ones, others = (group(of["experiments"]["grid"], "lr") for of in (a, b))
    return [Comparison(f"{lr:g}", paired_runs(ones[lr], others[lr], lambda run: (run["network"], run["seed"])))
            for lr in ones if lr in others]


def at_best(a: Document, b: Document) -> Comparison:
    """Pairs of the same network and seed of the grids, each at the rate that is the best one of its study.

    It is chosen by the other seeds, so that a loss takes no part in the choice of what it is compared for.
    """
    ones, others = (group(of["experiments"]["grid"], "network") for of in (a, b))
    pairs = []
    for network in (network for network in ones if network in others):
        of_seed: list[dict[int, Run]] = []
        for runs in (ones[network], others[network]):
            chosen = {seed: best_rate(without_seed(runs, seed)) for seed in group(runs, "seed")}
            of_seed.append({run["seed"]: run for run in runs if run["lr"] == chosen[run["seed"]]})
        pairs += [(of_seed[0][seed], of_seed[1][seed]) for seed in of_seed[0] if seed in of_seed[1]]
    return Comparison("best of each", pairs)


def strategies_of(document: Document, other: Document) -> dict[str, list[Run]]:
    """The runs of each strategy of table 11, by its optimizer and the name of its schedule.

    Where the optimizers of the two studies are not the same, those of each are named as its own.
    """
    own_optimizer, theirs = document["settings"]["optimizer"], other["settings"]["optimizer"]
    others = document["experiments"]["strategies"]
    networks, seeds = {run["network"] for run in others}, {run["seed"] for run in others}
    own = [run for run in document["experiments"]["grid"] if run["network"] in networks and run["seed"] in seeds]
    cells = group([*own, *others], "optimizer", "schedule")
    made = {}
    for name, way in document["strategies"].items():
        optimizer, _, kind = name.partition(", ")
        if isinstance(way, list) and len(way) == 2 and tuple(way) in cells:
            who = optimizer if own_optimizer == theirs or optimizer != own_optimizer else "own"
            made[f"{who}, {kind or 'held'}"] = cells[tuple(way)]
    return made


def of_strategies(a: Document, b: Document) -> list[Comparison]:
    """A comparison for each optimizer and schedule that both have: pairs of the same network, rate and seed."""
    ones, others = strategies_of(a, b), strategies_of(b, a)
    def key(run: Run) -> Key:
        return run["network"], run["lr"], run["seed"]

    return [Comparison(name, paired_runs(ones[name], others[name], key)) for name in ones if name in others]


COLUMNS = ["pairs", "A lower", "B lower", "median change", "lost: A, B", "p", "result"]


def told_changes(comparisons: Sequence[Comparison], what: str) -> str:
    """Which of them changed, in a sentence."""
    made = []
    for verdict, text in (("A lower", "A ended lower at"), ("B lower", "B ended lower at")):
        if names := [found.name for found in comparisons if found.verdict == verdict]:
            made.append(f"{text} {what} {'; '.join(names)}")
    if not made:
        if comparisons and all(found.verdict == "the same" for found in comparisons):
            return "Every pair of runs ended with the same loss."
        few = sum(found.verdict == "too few pairs" for found in comparisons)
        return "No difference is shown" + (f"; {few} of {len(comparisons)} comparisons have too few pairs that differ: "
                                           f"more seeds would help." if few else ".")
    return ". ".join(made) + "."


def rule(tested: int, pairs: str) -> str:
    return (f"Pairs of runs of the same {pairs}, one of each study, by the validation loss after the last update; a "
            f"network that diverged or collapsed ended worst, and pairs of equal losses count for nothing. Two-sided "
            f"sign test, p after Holm's correction for all {tested} comparisons of tables 1 and 2 that have "
            f"{FEWEST + 1} pairs at least that differ; a difference is shown where p < {LEVEL:g}. The median change is "
            f"that of B's loss from A's, of pairs of which neither was lost.")


def rates(comparisons: Sequence[Comparison], tested: int, measure: Measure) -> Table:
    return table("rates", "The same rates in both studies", measure.loss_name, ["rate", *COLUMNS],
                 [found.row() for found in comparisons], rule(tested, "network, rate and seed") + " Best of each: runs "
                 "of the same network and seed, each at the rate that was best in its own study, by the other seeds.",
                 told_changes(comparisons, "rate"))


def strategies(comparisons: Sequence[Comparison], tested: int, a: Document, b: Document) -> Table:
    only = [f"Only in {name}: {'; '.join(left)}." for name, left in (
        ("A", [x for x in strategies_of(a, b) if x not in strategies_of(b, a)]),
        ("B", [x for x in strategies_of(b, a) if x not in strategies_of(a, b)])) if left]
    optimizers = [of["settings"]["optimizer"] for of in (a, b)]
    if optimizers[0] != optimizers[1]:
        only.append(f"“Own” is {optimizers[0]} in A and {optimizers[1]} in B.")
    return table("optimizers", "The same optimizers and schedules in both studies", "", ["strategy", *COLUMNS],
                 [found.row() for found in comparisons],
                 rule(tested, "strategy, network, rate and seed") + " Runs of a seed at several rates begin with the "
                 "same weights: they are less independent than those of several seeds.",
                 " ".join([told_changes(comparisons, "strategy"), *only]))


def best_rates(a: Document, b: Document, measure: Measure) -> Table:
    """The best rate of each network of both studies, in the grid and in the ladder."""
    rows, changed, total = [], [], 0
    for experiment in ("grid", "ladder"):
        ones, others = (group(of["experiments"][experiment], "network") for of in (a, b))
        for network in (network for network in ones if network in others):
            best = [best_rate(runs[network]) for runs in (ones, others)]
            losses = ["-" if lr is None else number(mean_loss(group(runs[network], "lr")[lr]))
                      for lr, runs in zip(best, (ones, others), strict=True)]
            total += 1
            moved = best[0] != best[1]
            if moved:
                changed.append(network)
            rows.append([plain(network), plain("table 1" if experiment == "grid" else "table 9"),
                         *(plain("none" if lr is None else f"{lr:g}") for lr in best), *map(plain, losses),
                         {"text": "yes" if moved else "no", "changed": moved}])
    count = f"{len(changed)} of {total} best rates {'is' if len(changed) == 1 else 'are'} not the same"
    return table("best-rates", "Best rates", measure.loss_unit,
                 ["network", "of", "best in A", "best in B", "loss A", "loss B", "changed"], rows,
                 "The rate with the lowest mean validation loss, and that loss. No test: where two rates are nearly as "
                 "good, chance decides which one is the best.",
                 count + (f": {', '.join(dict.fromkeys(changed))}." if changed else "."))


def verdicts(a: Document, b: Document, measure: Measure) -> Table:
    rows, changed = [], []
    for one, other in zip(*(claims(of["experiments"], measure.loss_unit) for of in (a, b)), strict=True):
        moved = one["verdict"] != other["verdict"]
        if moved:
            changed.append(f"“{one['claim']}” {one['verdict']} in A, {other['verdict']} in B")
        rows.append([plain(one["claim"]), {"text": one["verdict"], "evidence": one["evidence"]},
                     {"text": other["verdict"], "evidence": other["evidence"]},
                     {"text": "yes" if moved else "no", "changed": moved}])
    return table("verdicts", "Verdicts on the three claims", "", ["claim", "A", "B", "changed"], rows,
                 "Each verdict is that of a sign test within its own study, its table 12; “undecided” beside another "
                 "verdict is no contradiction: there were fewer pairs, or a weaker effect.",
                 "; ".join(changed) + "." if changed else "No verdict changed.")


def scores(a: Document, b: Document, measure: Measure) -> Table:
    """B's test score minus A's, of each network and rate that both grids have."""
    def score(run: Run) -> float | None:
        there = not lost(run) and run["test_r2" if measure.regression else "test_accuracy"] is not None
        return measure.score(run) if there else None

    ones, others = (group(of["experiments"]["grid"], "network", "lr") for of in (a, b))
    keys = [key for key in ones if key in others]
    networks, lrs = dict.fromkeys(key[0] for key in keys), dict.fromkeys(key[1] for key in keys)
    rows, best = [], []
    for network in networks:
        row = [plain(network)]
        for lr in lrs:
            pairs = paired_runs(ones.get((network, lr), []), others.get((network, lr), []), lambda run: (run["seed"],))
            known = [(score(one), score(other)) for one, other in pairs]
            points = [v - u for u, v in known if u is not None and v is not None]
            if not points:
                row.append(plain("lost" if pairs else "-"))
                continue
            entry: Entry = {"text": f"{fmean(points):+.1f}", "mean": fmean(points), "n": len(points),
                            "spread": stdev(points) / sqrt(len(points)) if len(points) > 1 else None}
            if entry["spread"] is not None:
                entry["text"] += f" ± {entry['spread']:.1f}"
            if len(points) < len(pairs):
                entry["text"] += f" ({len(points)} of {len(pairs)})"
            best.append((entry["mean"], network, lr, entry["text"]))
            row.append(entry)
        rows.append(row)
    finding = ""
    if best:
        low, high = min(best), max(best)
        finding = (f"The largest gain is {high[3]} points, {high[1]} at rate {high[2]:g}; the largest loss {low[3]}, "
                   f"{low[1]} at rate {low[2]:g}." if low[0] < 0 < high[0] else
                   f"From {low[3]} points ({low[1]} at rate {low[2]:g}) to {high[3]} ({high[1]} at rate {high[2]:g}).")
    return table("scores", f"Test {measure.score_name}: B minus A", "points",
                 ["network", *(f"lr {lr:g}" for lr in lrs)], rows,
                 "Mean over pairs of the same seed ± its standard error, of pairs of which neither was lost; (k of n): "
                 "k of n pairs are. Not part of the test.", finding)


def facts(comparison: Document) -> str:
    """What was compared, in a few sentences."""
    a, b = comparison["studies"]
    unfinished = "".join(f"{name} is not complete. " for name, study in (("A", a), ("B", b)) if not study["complete"])
    apart = "; ".join(f"{name} {one} in A, {other} in B" for name, one, other in comparison["differences"])
    data = comparison["data"]
    return (f"A: {a['name']}. B: {b['name']}. {unfinished}Data: {data['name']}, {data['train']:,} rows to train. "
            + (f"What differs: {apart}." if apart else "Their settings and versions are the same."))
