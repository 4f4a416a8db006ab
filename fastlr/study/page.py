"""A study as one self-contained HTML page, made from its document alone.

The page loads nothing, and follows the browser's light or dark mode. Its one script, `motion.js.jinja`, moves the
starts of the landscapes, and is the only one that its policy admits, by its hash; without it, or where the reader wants
no motion, the picture is still. Needs jinja2 for its templates in this folder, `page.html.jinja` and what it includes,
and contourpy for the landscapes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

try:
    import contourpy  # noqa: F401  (figures.py needs it; an error before a study is better than one after it)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise ImportError(
        f"study: the page needs {error.name}, which is missing; pip install 'fastlr-core[lab]'"
    ) from error

from . import figures
from .claims import best_rate, group, mean_loss
from .drawing import contrast, interpolated_color
from .entries import Measure, best_entry, measure_of, number
from .landscapes import FRAMES
from .record import TRAINED
from .report import facts
from .sweeps import NAMES, experiment

TEMPLATES = Path(__file__).parent

# background, surface, text, muted text, lines; then colors of categories, and the end colors of ordered values
LIGHT = {
    "page": "#fbfaf7",
    "card": "#ffffff",
    "text": "#1d2230",
    "muted": "#5a6172",
    "rule": "#dcdad3",
    "link": "#0b5cad",
    "categories": ("#0072b2", "#c24e00", "#007a57", "#a3357a", "#57534e"),
    "ordered": ("#c46500", "#d1495b", "#8d2a8a", "#33106b"),
    "terrain": ("#7fb2d9", "#fdfdfb"),
    "good": "#0a6b3d",
    "bad": "#b3261e",
    "open": "#8a5a00",
}
DARK = {
    "page": "#10131a",
    "card": "#181c25",
    "text": "#e8eaf0",
    "muted": "#a3abbb",
    "rule": "#333a48",
    "link": "#7db8ff",
    "categories": ("#5ab6f0", "#f0a04b", "#3ccf9c", "#ec8cc4", "#c9c5bd"),
    "ordered": ("#7d6bf0", "#c76ad8", "#ff7d8a", "#ffd27a"),
    "terrain": ("#2f6a9c", "#171b24"),
    "good": "#5ed69a",
    "bad": "#ff8a80",
    "open": "#f2c063",
}
# cividis: even steps of lightness, also for most color-blind readers. doi:10.1371/journal.pone.0199239
HEAT = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")

# what an entry tells beside its figure, on the page in smaller letters below it
REMARK = r" (?=±)|; |: (?=\d+ % above)| (?=\(\d)|, (?=\d+ (?:of|%))"

# tables whose entries are shaded, the better the brighter: of what, scale, and whether less is better. An entry's
# "quality" is shaded where its own number does not say what is good: a network that has learned nothing has no gap. The
# scale "errors" is logarithmic in the distance from 100 %, as 97 and 98 % would look alike beside 40 % otherwise
SHADED = {
    "accuracy": ("%", "errors", False),
    "time-to-target": ("ms", "log", True),
    "updates-to-convergence": ("updates", "log", True),
    "overfitting": ("{unit}, validation loss", "log", True),
    "full-batch-descent": ("ms", "log", True),
    "escape-rate": ("% global", "linear", False),
    "generalisation-gap": ("{unit}, test loss", "log", True),
    "strategies": ("%", "errors", False),
    "scores": ("points, B minus A", "linear", False),
    **{experiment(name): ("{unit}, validation loss", "log", True) for name in NAMES},
}


def render(document: dict[str, Any]) -> str:
    """The page of a document, as `record.Record.document` returns it and `results.json` has it."""
    found = document["experiments"]
    lrs = list(document["settings"]["lrs"])
    measure = measure_of(document)
    script = (TEMPLATES / "motion.js.jinja").read_text(encoding="utf-8")
    return filled(
        "page.html.jinja",
        lrs,
        document=document,
        facts=facts(document),
        figures=as_markup(all_figures(document)),
        tables=[
            {**table, "rows": shaded(table, document), "shades": shades(table, measure)} for table in document["tables"]
        ],
        headlines=headlines(document),
        opening=opening(found["ladder"], measure),
        first=lrs.index(most_found(found["escape"], lrs)),
        frames=FRAMES,
        script=Markup(script),
        digest=f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}",
    )


def filled(name: str, lrs: Sequence[float], **content: Any) -> str:
    """The page of a template, with the styles for figures of so many rates."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(name).render(
        **content,
        ink=text_color,
        lrs=lrs,
        light=css_variables(LIGHT, len(lrs)),
        dark=css_variables(DARK, len(lrs)),
        heat=[interpolated_color(HEAT, k / 19) for k in range(20)],
    )


def all_figures(document: dict[str, Any]) -> dict[str, list[figures.Figure]]:
    """The figures of each table, by its name; and the first of the page, for wide screens and narrow ones."""
    found, settings, measure = document["experiments"], document["settings"], measure_of(document)
    grid, unit = found["grid"], measure.loss_unit
    train, validation = measure.baseline["train_loss"], measure.baseline["validation_loss"]
    made: dict[str, list[figures.Figure | None]] = {
        "opening": [figures.loss_by_rate(found["ladder"], width, unit, validation) for width in (860, 350)],
        "accuracy": [figures.loss_by_epoch(grid, settings["target_loss"], unit, train)],
        "updates-to-convergence": [figures.convergence(grid)],
        "overfitting": [figures.gap_by_epoch(grid, unit)],
        "full-batch-descent": [figures.gradient_norms(found["descent"], settings["target_norm"])],
        "escape-rate": [figures.escapes(found["escape"])],
        "memory": [figures.memory(found["memory"])],
        "strategies": [figures.strategies(grid, found["strategies"], document["strategies"], unit, validation)],
    }
    for name, sweep in document["sweeps"].items():
        runs = found[experiment(name)]
        made[experiment(name)] = [figures.heat_map(sweep, runs, width, unit, validation) for width in (860, 350)]
    return {name: [figure for figure in of if figure is not None] for name, of in made.items()}


def as_markup(named: dict[str, list[figures.Figure]]) -> dict[str, list[figures.Figure]]:
    """The figures with their SVG as markup, which the template does not escape; `figures` has escaped all texts."""
    return {
        name: [{**figure, "panels": [Markup(panel) for panel in figure["panels"]]} for figure in of]
        for name, of in named.items()
    }


def css_variables(theme: dict[str, Any], rates: int) -> dict[str, str]:
    """CSS variables of a theme."""
    made = {name: value for name, value in theme.items() if isinstance(value, str)}
    made |= {f"c{k}": colour for k, colour in enumerate(theme["categories"])}
    made |= {f"r{k}": interpolated_color(theme["ordered"], k / max(1, rates - 1)) for k in range(rates)}
    return made | {f"t{k}": interpolated_color(theme["terrain"], k / 8) for k in range(9)}


def shaded(table: dict[str, Any], document: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """A table's rows for the page: each entry split into figure and remark, with a shade in tables that have them."""
    _, scale, less = SHADED.get(table["name"], ("", "linear", False))
    values = qualities(table)
    rows = []
    for row in table["rows"]:
        made = []
        for entry in row:
            figure, *remark = re.split(REMARK, entry["text"], maxsplit=1)
            shown: dict[str, Any] = {"figure": figure, "remark": "".join(remark), "raw": entry, "picture": "",
                                     "strong": False}
            if table["name"] in SHADED and "mean" in entry:
                share = figures.shade(entry.get("quality", entry["mean"]), min(values), max(values), scale)
                shown["shade"] = round(19 * (1 - share if less else share))
            made.append(shown)
        if table["name"] == "strategies" and row[0]["text"] in document["strategies"]:
            data, settings = document["data"], document["settings"]
            updates = data["train"] // settings["batch_size"] * settings["epochs"]
            schedule = document["strategies"][row[0]["text"]][1]
            made[0]["picture"] = Markup(figures.sparkline(schedule, updates))
        rows.append(made)
    return rows


def qualities(table: dict[str, Any]) -> list[float]:
    """The numbers by which entries are shaded, and the worst one of a table that has one, which none need reach."""
    found = [e.get("quality", e["mean"]) for row in table["rows"] for e in row if "mean" in e]
    return [*found, table["worst"]] if found and "worst" in table else found


def shades(table: dict[str, Any], measure: Measure) -> tuple[str, str] | None:
    """The values of the darkest and the brightest shade of a table; None if it has no shades."""
    values = qualities(table)
    if table["name"] not in SHADED or not values:
        return None
    unit, _, less = SHADED[table["name"]]
    ends = [number(min(values)), number(max(values))][:: -1 if less else 1]
    worst = "the baseline, or worse" if "worst" in table else "worst"
    return f"{worst}: {ends[0]}", f"best: {ends[1]} {unit.format(unit=measure.loss_unit)}"


def most_found(escapes: list[dict[str, Any]], lrs: list[float]) -> float:
    """The rate at which most starts reached a global minimum: the one that is shown first."""
    found = {lr: sum(run["found"] for run in of) for lr, of in group(escapes, "lr").items()}
    return max(found, key=lambda lr: found[lr], default=lrs[-1])


def text_color(colour: str) -> str:
    """Black or white, whichever has more contrast on a color."""
    return max(("#000000", "#ffffff"), key=lambda text: contrast(text, colour))


def opening(ladder: list[dict[str, Any]], measure: Measure) -> str:
    """The numbers of the first figure, as text."""
    best: list[str] = []
    ends: dict[float, list[str]] = {}
    for network, runs in group(ladder, "network").items():
        rates, rate = group(runs, "lr"), best_rate(runs)
        if rate is None:
            continue
        best.append(f"{rate:g} for {network.rpartition('-')[2]} ({number(mean_loss(rates[rate]))} {measure.loss_unit})")
        for lr in (min(rates), max(rates)):
            loss = mean_loss(rates[lr])
            ends.setdefault(lr, []).append("lost" if loss == float("inf") else number(loss))
    if not best:
        return "At every rate some seed was lost." if ladder else "No run of it is finished."
    at_ends = "; ".join(f"at {lr:g}, {enumeration(losses)}" for lr, losses in ends.items())
    return (f"The best rate is {enumeration(best)}; the baseline is {number(measure.baseline['validation_loss'])} "
            f"{measure.loss_unit}. At the ends of the scale they come to: {at_ends}.")


def enumeration(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def headlines(document: dict[str, Any]) -> list[tuple[str, str]]:
    """A few numbers for the top of the page: (number, description). They are those of the tables."""
    made = []
    found, measure = document["experiments"], measure_of(document)
    tables = {table["name"]: table for table in document["tables"]}

    def best(name: str, lowest: bool = False) -> tuple[str, str, dict[str, Any]] | None:
        return best_entry(tables[name]["columns"], tables[name]["rows"], lowest)

    if top := best("accuracy"):
        network, rate, entry = top
        made.append((f"{entry['mean']:.1f} %", f"test {measure.score_name}, {network} at {rate}, mean of {entry['n']}; "
                                               f"the baseline: {measure.baseline_score():.1f} %"))
    if fewest := best("updates-to-convergence", lowest=True):
        network, rate, entry = fewest
        made.append((f"{entry['mean']:,.0f}", f"updates to the target, {network} at {rate}, mean of {entry['n']}"))
    runs = [run for name in TRAINED for run in found[name]]
    if runs:
        diverged = [run for run in runs if run["diverged"]]
        collapsed = [run for run in runs if run["collapsed"]]
        gone = diverged + collapsed
        from_ = f", all at rate {min(run['lr'] for run in gone):g} or above" if gone else ""
        made.append((f"{len(gone)} of {len(runs)}",
                     f"trainings lost: {len(diverged)} diverged, {len(collapsed)} collapsed{from_}"))
    if found["escape"]:
        starts = sum(run["starts"] for run in found["escape"])
        away = sum(run["starts"] * run["escaped"] for run in found["escape"])
        best_ = sum(run["starts"] * run["found"] for run in found["escape"])
        made.append((f"{100 * away / starts:.0f} %", f"of {starts:,} noisy starts left their local minimum, "
                                                      f"{100 * best_ / starts:.0f} % for a global one"))
    return made
