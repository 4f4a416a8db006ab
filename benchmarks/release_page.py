"""The page of one run of `release.py`: a single HTML file that loads nothing, with every figure in text and as SVG.

    python benchmarks/release_page.py benchmarks/history/DATE-VERSION.json build/releases.html

Ratios are of speed: 2x is twice as fast. They are medians over attempts of the ratios within a round, and are compared
only within the run. Verdicts are those of `ab_verdict.py`, at a threshold of 3 %.
"""
from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ab_verdict import FASTER, SAME, SLOWER, UNSURE, summarise, verdict

THRESHOLD = 0.03
FEW = "few attempts"           # a ratio of too few attempts for a verdict
GROUPS = {
    "call": "Calls: AdamW over tensors of 64 float32, through each interface",
    "cache": "In cache: one tensor of 16,384 elements",
    "memory": "In memory: one tensor of 64 MB",
    "small": "Small tensors: 500 of 8 x 8 float32",
    "matrix": "Rules for matrices: one of 128 x 96, and a small transformer's layer of 1.3 million elements",
    "storage": "AdamW and NAdam stored in fewer bytes: 65,536 elements in cache, 16 million in memory",
    "rows": "Rows: 2,000 rows of a table of 20,000 x 32 float32",
    "stage": "Stages: AdamW over 64 tensors of 32 x 32 float32, with an option",
    "schedule": "Schedules: one value, and 10,000 values at once",
    "construct": "Constructors",
    "import": "Import, in processor time of a new process",
}


@dataclass
class Row:
    """One workload: the medians of all, and the newest release beside the one before and beside each peer."""

    name: str
    unit: str
    amount: float
    rates: dict[str, float]                         # units a second, of releases and peers
    spread: dict[str, tuple[float, float]]          # quartiles of the attempts
    bytes: float                                    # of the newest release
    speed: float | None                             # of the newest beside the one before
    quartiles: tuple[float, float] | None
    verdict: str
    peers: dict[str, float]                         # speed beside each peer
    counts: dict[str, float]
    lacks: dict[str, str]

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]

    @property
    def flags(self) -> list[str]:
        more = list(self.counts.values())[-2:]
        return [flag for flag, holds in (
            ("slower", self.verdict == SLOWER), ("faster", self.verdict == FASTER),
            ("behind", any(ratio < 1 - THRESHOLD for peer, ratio in self.peers.items() if peer != "roof")),
            ("more", len(more) == 2 and more[1] > 1.01 * more[0])) if holds]


def medians(attempts: list[list[float]]) -> list[float]:
    return [statistics.median(attempt) for attempt in attempts]


def ratios(one: list[list[float]], other: list[list[float]]) -> list[list[float]]:
    """Of the seconds of two members, by attempt and round."""
    return [[a / b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=False)]


def row_of(name: str, found: dict[str, Any], document: dict[str, Any]) -> Row:
    releases = [release["version"] for release in document["releases"]]
    seconds = {member: attempts for member, attempts in found["seconds"].items() if attempts}
    rates = {member: found["amount"] / statistics.median(medians(attempts)) for member, attempts in seconds.items()}
    spread = {}
    for member, attempts in seconds.items():
        each = medians(attempts)
        low, _, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
        spread[member] = (found["amount"] / high, found["amount"] / low)
    have = [version for version in releases if version in seconds]
    newest = have[-1] if have and have[-1] == releases[-1] else None
    speed, quartiles, said = None, None, ""
    if newest and len(have) > 1:
        judged = ratios(seconds[newest], seconds[have[-2]])
        summary = summarise(judged)
        speed, quartiles = 1 / summary.ratio, (1 / summary.upper_quartile, 1 / summary.lower_quartile)
        said = verdict(judged, THRESHOLD)
        if said == UNSURE and summary.attempts < 3:
            said = FEW
    peers = {peer: statistics.median(medians(ratios(seconds[peer], seconds[newest])))
             for peer in document["peers"] if newest and peer in seconds}
    counts = {version: document["counts"][version][name] / found["amount"] for version in releases
              if name in document["counts"].get(version, {})}
    return Row(name, found["unit"], found["amount"], rates, spread, found["bytes"].get(newest, 0.0) if newest else 0.0,
               speed, quartiles, said, peers, counts, found["lacks"])


def rows_of(document: dict[str, Any]) -> list[Row]:
    rows = [row_of(name, found, document) for name, found in document["workloads"].items()]
    return [row for row in rows if row.rates or row.counts]


# Numbers as text


def amount(value: float) -> str:
    """Three digits and a prefix."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}\u202f{prefix}"
    return f"{value:.3g}"


def seconds_of(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("\u00b5s", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g}\u202f{unit}"
    return f"{value * 1e9:.3g}\u202fns"


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


SIGN = {FASTER: "\u25b2 faster", SLOWER: "\u25bc slower", SAME: "= same", UNSURE: "~ unsure", FEW: "~ few attempts",
        "": ""}
CLASS = {FASTER: "win", SLOWER: "loss"}


# Pictures


def chart(row: Row, releases: list[str]) -> str:
    """Rates by release as a line from 0, quartiles as bars; peers as horizontal lines."""
    width, height, left, right = 170, 46, 6, 44
    have = [version for version in releases if version in row.rates]
    top = max(row.rates.values(), default=0.0) * 1.05
    if not have or not top:
        return ""

    def x(version: str) -> float:
        k = releases.index(version)
        return left + (width - left - right) * (k / (len(releases) - 1) if len(releases) > 1 else 0.5)

    def y(rate: float) -> float:
        return height - 3 - (height - 8) * rate / top

    parts = [f'<line class="axis" x1="0" x2="{width - right + 6}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>']
    taken: list[float] = []
    for peer in row.peers:
        rate = row.rates[peer]
        at = y(rate)
        parts.append(f'<line class="peer {peer.lower()}" x1="0" x2="{width - right + 6}" y1="{at:.1f}" y2="{at:.1f}">'
                     f"<title>{escape(peer)}: {amount(rate)} {escape(row.unit)}/s</title></line>")
        label = max(8.0, min(height - 2.0, at + 3))
        if all(abs(label - other) >= 8 for other in taken):
            taken.append(label)
            parts.append(f'<text class="{peer.lower()}" x="{width - right + 9}" y="{label:.1f}">{escape(peer)}</text>')
    points = " ".join(f"{x(version):.1f},{y(row.rates[version]):.1f}" for version in have)
    parts.append(f'<polyline points="{points}"/>')
    for version in have:
        low, high = row.spread[version]
        parts.append(f'<line class="spread" x1="{x(version):.1f}" x2="{x(version):.1f}" y1="{y(low):.1f}" '
                     f'y2="{y(high):.1f}"/><circle cx="{x(version):.1f}" cy="{y(row.rates[version]):.1f}" r="2.6">'
                     f"<title>{escape(version)}: {amount(row.rates[version])} {escape(row.unit)}/s</title></circle>")
    return (f'<svg class="line" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="{escape(chart_words(row, have))}">{"".join(parts)}</svg>')


def chart_words(row: Row, have: list[str]) -> str:
    return ", ".join(f"{member} {amount(row.rates[member])} {row.unit}/s" for member in [*have, *row.peers])


def apart(ticks: list[float], x: Callable[[float], float]) -> list[float]:
    """Those of the ticks whose labels do not touch, that of 1 before the others."""
    kept: list[float] = []
    for tick in sorted(ticks, key=lambda tick: (tick != 1, tick)):
        if all(abs(x(tick) - x(other)) >= 34 for other in kept):
            kept.append(tick)
    return kept


def strip(values: list[tuple[str, float]], what: str, lowest: float, highest: float) -> str:
    """Every workload as a dot on a logarithmic axis of speed: left of 1x is slower, right of it faster."""
    width, height, middle = 640, 58, 24
    low, high = math.log(lowest), math.log(highest)

    def x(ratio: float) -> float:
        return 10 + (width - 20) * (min(max(math.log(ratio), low), high) - low) / (high - low)

    known = (0.1, 0.5, 1, 2, 10, 100, 1000) if highest > 2 else (0.1, 0.2, 0.5, 0.8, 0.9, 1, 1.1, 1.25, 2)
    ticks = [tick for tick in known if lowest <= tick <= highest]
    parts = [f'<line class="axis" x1="10" x2="{width - 10}" y1="{middle + 14}" y2="{middle + 14}"/>']
    for tick in sorted(apart(ticks, x)):
        kind, top = ("one", 4) if tick == 1 else ("axis", 34)
        parts.append(f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{middle + 18}"/>'
                     f'<text x="{x(tick):.1f}" y="{height - 4}">{tick:g}x</text>')
    for k, (name, ratio) in enumerate(sorted(values, key=lambda value: value[1])):
        kind = "win" if ratio > 1 + THRESHOLD else "loss" if ratio < 1 - THRESHOLD else "same"
        parts.append(f'<circle class="{kind}" cx="{x(ratio):.1f}" cy="{8 + (k * 7) % 26}" r="2.6">'
                     f"<title>{escape(name)}: {times(ratio)}</title></circle>")
    return (f'<svg class="strip" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(what)}">'
            f'{"".join(parts)}</svg>')


# Parts of the page


def facts_table(document: dict[str, Any]) -> str:
    lines = []
    for release in document["releases"]:
        lines.append(
            f"<tr><th scope=row>{escape(release['version'])}</th><td>{escape(release['date'])}</td>"
            f"<td><code>{escape(release['hash'][:12])}</code></td><td>{release['build seconds']:.0f}\u202fs</td>"
            f"<td>{release['wheel bytes'] / 1e6:.2f}\u202fMB</td>"
            f"<td>{(release['installed bytes'] or 0) / 1e6:.2f}\u202fMB</td></tr>")
    return ("<div class=wide><table class=plain><thead><tr><th>release</th><th>date</th><th>commit</th><th>build</th>"
            f"<th>wheel</th><th>installed</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>")


def described(document: dict[str, Any]) -> str:
    tools = ", ".join(f"{name} {value}" for name, value in document["tools"].items())
    peers = ", ".join(f"{name} {value}" for name, value in document["peers"].items() if name not in ("C", "roof"))
    pairs = [("machine", document["machine"]), ("system", document["platform"]), ("with", tools),
             ("peers", peers or "none installed"), ("threads", "1, of each"),
             ("run", f"{document['date']}, {document['budget, minutes']:g} minutes of measuring, "
                     f"{document['attempts']} attempt{'s' * (document['attempts'] != 1)} at every workload, each in "
                     f"new processes")]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs) + "</dl>"


def by_ratio(values: Iterable[tuple[str, float]], slower: bool) -> list[tuple[str, float]]:
    kept = [(name, ratio) for name, ratio in values if (ratio < 1 - THRESHOLD if slower else ratio > 1 + THRESHOLD)]
    return sorted(kept, key=lambda value: value[1] if slower else -value[1])


def both_lists(values: list[tuple[str, float]], than: str) -> str:
    """Losses, then wins: all of both, in the same form."""
    made = []
    for slower, word in ((True, "slower"), (False, "faster")):
        found = by_ratio(values, slower)
        entries = "".join(f"<li>{escape(name)} <b class={'loss' if slower else 'win'}>{times(ratio)}</b></li>"
                          for name, ratio in found)
        made.append(f"<details><summary>{len(found)} {word} than {escape(than)}</summary>"
                    f"<ul class=many>{entries or '<li>none</li>'}</ul></details>")
    return f'<div class=two>{"".join(made)}</div>'


def summary(rows: list[Row], document: dict[str, Any]) -> str:
    releases = [release["version"] for release in document["releases"]]
    parts = []
    compared = [(row.name, row.speed) for row in rows if row.speed is not None]
    if compared:
        said = {word: sum(row.verdict == word for row in rows) for word in (SLOWER, FASTER, SAME, UNSURE, FEW)}
        unsure = said[UNSURE] + said[FEW]
        parts.append(
            f"<h2>{escape(releases[-1])} beside {escape(releases[-2])}</h2><p>Of {len(compared)} workloads, "
            f"<b class=loss>{said[SLOWER]} are slower</b> by more than 3 %, <b class=win>{said[FASTER]} faster</b>, "
            f"{said[SAME]} are not slower; of {unsure} this run's attempts do not decide it. The median "
            f"speed is {times(statistics.median(ratio for _, ratio in compared))}.</p>"
            + strip(compared, f"speed of {releases[-1]} beside {releases[-2]}", 0.5, 2)
            + both_lists(compared, f"{releases[-2]} (medians)"))
    counted = [(row.name, list(row.counts.values())[-2] / list(row.counts.values())[-1]) for row in rows
               if len(row.counts) > 1 and releases[-1] in row.counts]
    if counted:
        more, fewer = (sum(ratio < 1 / 1.01 for _, ratio in counted), sum(ratio > 1 / 0.99 for _, ratio in counted))
        parts.append(
            f"<h2>Instructions</h2><p>Callgrind's counts repeat to the digit, and do not see memory. Of {len(counted)} "
            f"workloads, <b class=loss>{more} execute over 1 % more</b> instructions, <b class=win>{fewer} over 1 % "
            "fewer</b>. (Below, 1.1x: a tenth fewer than before.)</p>"
            + strip(counted, "instructions beside the release before", 0.5, 2)
            + both_lists(counted, f"{releases[-2]} by instructions"))
    for peer in document["peers"]:
        beside = [(row.name, row.peers[peer]) for row in rows if peer in row.peers]
        if not beside:
            continue
        what = {"roof": "the roof: a loop that moves the same bytes", "C": "AdamW in hand-written C",
                "NumPy": "AdamW by NumPy's functions"}.get(peer, f"{peer} {document['peers'][peer]}")
        unsure = said[UNSURE] + said[FEW]
        parts.append(
            f"<h2>{escape(releases[-1])} beside {escape(what)}</h2><p>The median of {len(beside)} workloads is "
            f"{times(statistics.median(ratio for _, ratio in beside))}.</p>"
            + (strip(beside, f"speed beside {peer}", 0.1, 2) if peer in ("roof", "C")
               else strip(beside, f"speed beside {peer}", 0.1, 1000)) + both_lists(beside, peer))
    return "".join(parts)


def cells(row: Row, releases: list[str]) -> Iterator[tuple[str, str]]:
    newest = releases[-1]
    yield "by release", chart(row, releases)
    rate = row.rates.get(newest)
    if rate is None:
        yield "speed", escape(f"not in {newest}: {row.lacks.get(newest, '')}")
        return
    took = f"{seconds_of(row.amount / rate)} a step" if row.unit == "elements" else (
        f"{seconds_of(1 / rate)} a {row.unit.removesuffix('s')}")
    yield "speed", f"<b>{amount(rate)}</b> {escape(row.unit)}/s<br><small>{took}</small>"
    moved = f"{row.bytes * rate / row.amount / 1e9:.3g}\u202fGB/s" if row.bytes else ""
    if "roof" in row.peers:
        moved += f"<br><small>{100 * row.peers['roof']:.0f}\u202f% of the roof</small>"
    yield "bytes", moved
    if row.speed is None:
        yield "beside the release before", "<small>new</small>" if len(releases) > 1 else ""
    else:
        low, high = row.quartiles or (row.speed, row.speed)
        yield "beside the release before", (
            f'<span class="{CLASS.get(row.verdict, "")}">{times(row.speed)} {SIGN[row.verdict]}</span>'
            f"<br><small>{low:.2f} to {high:.2f}</small>")
    yield "beside peers", "<br>".join(
        f'{escape(peer)} <span class="{"win" if ratio > 1 + THRESHOLD else "loss" if ratio < 1 - THRESHOLD else ""}">'
        f"{times(ratio)}</span>" for peer, ratio in row.peers.items() if peer != "roof")
    counts = list(row.counts.values())
    text = f"{counts[-1]:,.4g}" if counts and counts[-1] < 1e4 else amount(counts[-1]) if counts else ""
    if len(counts) > 1:
        change = 100 * (counts[-1] / counts[-2] - 1)
        kind = "loss" if change > 1 else "win" if change < -1 else ""
        text += f'<br><small class="{kind}">{change:+.2f}\u202f%</small>'
    yield "instructions", text


def tables(rows: list[Row], releases: list[str]) -> str:
    made = []
    for group, title in GROUPS.items():
        own = [row for row in rows if row.group == group]
        if not own:
            continue
        unit = own[0].unit.removesuffix("s") or "call"
        heads = ("", "by release", "speed", "bytes", "beside the release before", "beside peers",
                 f"instructions per {unit}")
        lines = []
        for row in own:
            inside = "".join(f'<td data-label="{name}">{text and f"<div>{text}</div>"}</td>'
                             for name, text in cells(row, releases))
            lines.append(f'<tr data-name="{escape(row.name.lower())}" data-flags="{" ".join(row.flags)}">'
                         f"<th scope=row>{escape(row.name.partition('/')[2])}</th>{inside}</tr>")
        made.append(f'<section id="{group}"><h2>{escape(title)}</h2><table class=rows><thead><tr>'
                    + "".join(f"<th>{head}</th>" for head in heads)
                    + f"</tr></thead><tbody>{''.join(lines)}</tbody></table></section>")
    return "".join(made)


def state_table(document: dict[str, Any]) -> str:
    releases = [release["version"] for release in document["releases"]]
    known = {version: document["facts"].get(version, {}).get("state bytes", {}) for version in releases}
    rules = list(dict.fromkeys(rule for version in releases for rule in known[version]))
    if not rules:
        return ""
    lines = "".join(f'<tr data-name="state {escape(rule)}" data-flags=""><th scope=row>{escape(rule)}</th>' + "".join(
        f"<td data-label={version}>{known[version][rule]:.4g}</td>" if rule in known[version] else
        f"<td data-label={version}>-</td>" for version in releases) + "</tr>" for rule in rules)
    return ('<section id="state"><h2>State: bytes for each float32 parameter, of a tensor of 40 x 25</h2>'
            "<table class='rows narrow'><thead><tr><th></th>" + "".join(f"<th>{version}</th>" for version in releases)
            + f"</tr></thead><tbody>{lines}</tbody></table></section>")


def beside(suffix: str) -> str:
    """What is written into the page from the file of the same name with another suffix."""
    return Path(__file__).with_suffix(f".{suffix}").read_text(encoding="utf-8")


def page(document: dict[str, Any]) -> str:
    """The page of a run, from what `release.py` wrote."""
    releases = [release["version"] for release in document["releases"]]
    rows = rows_of(document)
    groups = [group for group in GROUPS if any(row.group == group for row in rows)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>fastlr: speed by release</title><style>{beside('css')}</style></head><body>"
        "<h1>fastlr: speed by release</h1>"
        f"<p>{', '.join(map(escape, releases))}, measured in one run with interleaved rounds, beside torch, optax, "
        "NumPy and C where they have the same rule. A ratio is of speed, 2x is twice as fast; ratios hold within this "
        "run, and are medians of the attempts, with their quartiles. Speed is drawn from 0, a point for each release; "
        "dashed lines are peers. "
        "The roof is a loop in C that moves the same bytes with next to no arithmetic.</p>"
        + described(document) + facts_table(document)
        + "<nav>" + "".join(f'<a href="#{group}">{group}</a>' for group in groups) + '<a href="#state">state</a></nav>'
        + summary(rows, document)
        + '<div class=find><input id=find type=search placeholder="Search: adamw float64" aria-label="search">'
        '<label><input type=checkbox value=slower> slower than before</label>'
        '<label><input type=checkbox value=faster> faster than before</label>'
        '<label><input type=checkbox value=more> more instructions</label>'
        '<label><input type=checkbox value=behind> slower than a peer</label><small id=said role=status></small></div>'
        f"<main>{tables(rows, releases)}{state_table(document)}</main>"
        f"<script>{beside('js')}</script></body></html>\n")


def write_page(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", metavar="RUN.json", help="what release.py wrote")
    parser.add_argument("page", metavar="PAGE.html")
    chosen = parser.parse_args()
    write_page(Path(chosen.run), Path(chosen.page))
