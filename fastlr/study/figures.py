"""The figures of a study's page, drawn from the measured runs in its document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite, log10
from statistics import fmean
from typing import Any

import numpy as np

from ..schedules import Schedule
from .claims import Run, best_rate, group, lost, mean_loss
from .drawing import Panel, place, short
from .landscapes import FRAMES, LANDSCAPES
from .rates import rate
from .sweeps import grid_of

Figure = dict[str, Any]

MARKS = 5  # classes c0 to c4: a color and a dash pattern each
STILL = 2  # paths that a picture of a landscape shows where it does not move


def figure(panels: Iterable[Panel], caption: str, legend: Iterable[tuple[str, str]] = (), wide: bool = False) -> Figure:
    """Panels in a row, with a caption below. `legend` has (class, text) of each kind of line."""
    return {"panels": [panel.svg() for panel in panels], "caption": caption, "legend": list(legend), "wide": wide}


def rates_legend(lrs: Sequence[float]) -> list[tuple[str, str]]:
    return [(f"r{k} line", f"rate {lr:g}") for k, lr in enumerate(lrs)]


def averaged(runs: Sequence[Run], name: str) -> tuple[list[float | None], list[float | None], list[float | None]]:
    """Mean, least and most over runs of one series of their curves, where all of them have it."""
    series = [run["curve"][name] for run in runs if run["curve"]]
    if not series:
        return [], [], []
    columns = list(zip(*series, strict=False))
    whole = [None not in column for column in columns]
    made = [
        [fold(column) if ok else None for column, ok in zip(columns, whole, strict=True)] for fold in (fmean, min, max)
    ]
    return made[0], made[1], made[2]


def span(values: Iterable[float | None], fallback: tuple[float, float], log: bool = False) -> tuple[float, float]:
    """Least and most of the values that are finite and, for a logarithmic scale, positive."""
    known = [v for v in values if v is not None and isfinite(v) and (v > 0 or not log)]
    return (min(known), max(known)) if known else fallback


def loss_by_rate(ladder: Sequence[Run], width: int, unit: str, baseline: float) -> Figure | None:
    """Validation loss over five decades of rates, a line for each activation; None without a loss to draw."""
    losses = [run["validation_loss"] for run in ladder if not lost(run)]
    if not losses:
        return None
    networks, lrs = group(ladder, "network"), sorted(group(ladder, "lr"))
    panel = Panel(
        "",
        "Validation loss by learning rate, for " + (
            "three activation functions" if len(networks) > 1 else next(iter(networks))),
        width,
        360 if width > 500 else 300,
        left=44,
        right=14,
        top=44,
    )
    low, high = span([*losses, baseline], (0.1, 3.0), log=True)
    top = high * (high / low) ** 0.16 * 1.05  # above it: marks of lost runs
    bottom = low / (high / low) ** 0.14 / 1.05  # below it: the best rates
    panel.axes(
        (lrs[0], lrs[-1]),
        (bottom, top),
        "learning rate",
        f"validation loss, {unit}",
        x_log=True,
        y_log=True,
    )
    panel.level(baseline, f"baseline {baseline:.3g}")
    legend, marked = [], dict[float, float]()
    for k, (network, runs) in enumerate(networks.items()):
        activation = network.rpartition("-")[2]
        legend.append((f"c{k} line", activation))
        rates = group(runs, "lr")
        known = [lr for lr in sorted(rates) if isfinite(mean_loss(rates[lr]))]
        means = [mean_loss(rates[lr]) for lr in known]
        panel.band(
            known,
            [min(r["validation_loss"] for r in rates[lr]) for lr in known],
            [max(r["validation_loss"] for r in rates[lr]) for lr in known],
            f"c{k} band",
        )
        panel.curve(known, means, f"c{k} line")
        best = best_rate(runs)
        for lr, mean in zip(known, means, strict=True):
            hover = f"{activation}, rate {lr:g}: {mean:.3g} {unit}, mean of {len(rates[lr])}"
            panel.dot(lr_x := panel.x(lr), panel.y(mean), f"c{k} dot", hover, 6 if lr == best else 3)
            if lr == best:
                # (texts of networks with the same best rate are placed below each other)
                marked[lr] = max(panel.y(mean) + 20, marked.get(lr, 0) + 15)
                panel.text(lr_x, marked[lr], f"{lr:g}", f"c{k} mark", "middle")
        for lr in (lr for lr in sorted(rates) if any(map(lost, rates[lr]))):
            counts = {name: sum(run[name] for run in rates[lr]) for name in ("diverged", "collapsed")}
            x, y = panel.x(lr), panel.box[1] + 6 + 9 * k
            hover = f"{activation}, rate {lr:g}, of {len(rates[lr])}: " + ", ".join(
                f"{count} {name}" for name, count in counts.items() if count)
            draw = cross if counts["diverged"] else ring
            panel.parts.append(draw(x, y, f"c{k} cross", hover))
    marks = {"× a seed diverged": any(run["diverged"] for run in ladder),
             "○ a seed collapsed": any(run["collapsed"] for run in ladder)}
    if any(marks.values()):
        told = "   ".join(text for text, there in marks.items() if there)
        panel.text(panel.box[0] + 6, panel.box[1] + 10, told, "tick")
    legend.append(("target line", "the baseline"))
    return figure([panel], "", legend, wide=True)


def ring(x: float, y: float, kind: str, hover: str, size: float = 3.5) -> str:
    return f'<circle class="{kind}" cx="{place(x)}" cy="{place(y)}" r="{size:g}"><title>{hover}</title></circle>'


def cross(x: float, y: float, kind: str, hover: str, size: float = 3.5) -> str:
    a, b, c, d = place(x - size), place(x + size), place(y - size), place(y + size)
    return f'<path class="{kind}" d="M{a} {c}L{b} {d}M{a} {d}L{b} {c}"><title>{hover}</title></path>'


def loss_by_epoch(grid: Sequence[Run], target: float, unit: str, baseline: float) -> Figure:
    """Training loss by epoch, a panel for each network, a line for each rate."""
    lrs = list(group(grid, "lr")) if grid else []
    low, high = span((v for run in grid for v in (run["curve"] or {}).get("train_loss", ())), (0.01, 3), log=True)
    high = min(high, 4 * baseline)
    low = min(low, target / 1.2)
    panels, drawn = [], False
    for network, runs in (group(grid, "network") if grid else {}).items():
        panel = Panel(network, f"Training loss by epoch, {network}")
        epochs = max(len(run["curve"]["train_loss"]) for run in runs) - 1
        panel.axes((0, max(1, epochs)), (low, high), "epoch", f"loss, {unit}", y_log=True, x_whole=True)
        drawn = low < target < high
        if drawn:
            panel.level(target, f"target {target:g}")
        for k, lr in enumerate(lrs):
            of = [run for run in runs if run["lr"] == lr]
            mean, least, most = averaged(of, "train_loss")
            xs = [float(x) for x in range(len(mean))]
            panel.band(xs, least, most, f"r{k} band")
            end = mean[-1] if mean else None
            panel.curve(xs, mean, f"r{k} line", f"rate {lr:g}" + ("" if end is None else f": ends at {end:.3g}"))
        panels.append(panel)
    return figure(
        panels,
        "Training loss after each epoch: mean over seeds, and the range of all seeds as a shade; a line ends where a "
        f"seed's loss stopped being finite, and its losses above {short(round(high, 1))} are drawn at the top. "
        + (f"Dashed: the target of {target:g} {unit} that tables 2 and 3 measure the way to. " if drawn else "")
        + "On this scale a straight line down is a loss that falls by the same factor in every epoch.",
        rates_legend(lrs),
    )


def lines_by_rate(runs: Sequence[Run], value: Callable[[Run], float | None], titles: tuple[str, str]) -> Panel | None:
    """One panel: a measure by rate, with logarithmic axes and a line for each network; None without a value."""
    known = [run for run in runs if not lost(run) and value(run) is not None]
    if not known:
        return None
    panel = Panel(titles[0], f"{titles[0]} by learning rate", height=260)
    lrs = sorted(group(runs, "lr"))
    low, high = span(map(value, known), (1, 10), log=True)
    x = (lrs[0] / 1.25, lrs[-1] * 1.25)
    panel.axes(x, (low * 0.8, high * 1.25), "learning rate", titles[1], x_log=True, y_log=True, x_ticks=lrs)
    for k, (network, of) in enumerate(group(runs, "network").items() if runs else ()):
        points = []
        for lr in lrs:
            values = [v for run in of if run["lr"] == lr and not lost(run) and (v := value(run)) is not None]
            if values:
                points.append((lr, fmean(values), len(values)))
        kind = f"c{k % MARKS}"
        panel.curve([p[0] for p in points], [p[1] for p in points], f"{kind} line", network)
        for lr, mean, n in points:
            panel.dot(panel.x(lr), panel.y(mean), f"{kind} dot", f"{network}, rate {lr:g}: {mean:,.4g}, mean of {n}")
    return panel


def two_losses_by_rate(ones: Sequence[Run], others: Sequence[Run], unit: str, baseline: float) -> Figure | None:
    """Validation loss by rate in two studies, a panel for each network that both have; None where there is none."""
    both = group(ones, "network"), group(others, "network")
    panels = []
    for network in (network for network in both[0] if network in both[1]):
        kept = [[run for run in of[network] if not lost(run)] for of in both]
        values = [run["validation_loss"] for of in kept for run in of]
        lrs = sorted({run["lr"] for of in both for run in of[network]})
        if not values:
            continue
        panel = Panel(network, f"Validation loss by learning rate in two studies, {network}", height=260)
        low, high = span([*values, baseline], (0.1, 3), log=True)
        panel.axes((lrs[0] / 1.25, lrs[-1] * 1.25), (low * 0.9, high * 1.2), "learning rate", f"loss, {unit}",
                   x_log=True, y_log=True, x_ticks=lrs if len(lrs) <= 6 else None)
        panel.level(baseline, f"baseline {baseline:.3g}")
        for k, (name, runs) in enumerate(zip("AB", kept, strict=True)):
            rates = group(runs, "lr") if runs else {}
            known = sorted(rates)
            losses = [[run["validation_loss"] for run in rates[lr]] for lr in known]
            panel.band(known, [min(of) for of in losses], [max(of) for of in losses], f"c{k} band")
            panel.curve(known, [fmean(of) for of in losses], f"c{k} line", name)
            for lr, of in zip(known, losses, strict=True):
                panel.dot(panel.x(lr), panel.y(fmean(of)), f"c{k} dot",
                          f"{name}, rate {lr:g}: {fmean(of):.3g} {unit}, mean of {len(of)}")
        panels.append(panel)
    if not panels:
        return None
    return figure(
        panels,
        "Validation loss after the last update: mean and range of each study's seeds that were not lost. A rate at "
        "which all were lost has no point.",
        [("c0 line", "A"), ("c1 line", "B"), ("target line", "the baseline")],
    )


def heat_map(sweep: dict[str, Any], runs: Sequence[Run], width: int, unit: str, baseline: float) -> Figure | None:
    """The mean validation loss of each row and column of a sweep, the brighter the lower; None without one to draw.

    The darkest is the baseline's, so that losses which hardly differ have colours which hardly differ.
    """
    cells = grid_of(runs, sweep)
    losses = {key: mean_loss(of) for key, of in cells.items()}
    known = [loss for loss in losses.values() if isfinite(loss)]
    if not known:
        return None
    rows, columns = list(sweep["rows"]), list(sweep["columns"])
    left = 16 + round(6.6 * max(map(len, rows)))
    size = (width - left - 8) / len(columns), 34
    panel = Panel("", f"{sweep['title']}: validation loss", width, 44 + size[1] * len(rows) + 8, left=left)
    panel.text(8, 17, sweep["row"], "label")
    rates = columns[0].startswith("lr ")
    across = "learning rate" if rates else "optimizer"
    panel.text(width - 8, 17, f"validation loss, {unit}, by {across}", "label", "end")
    best = {row: min((losses[row, c], c) for c in columns)[1] for row in rows
            if any(isfinite(losses[row, c]) for c in columns)}
    for j, column in enumerate(columns):
        panel.text(left + (j + 0.5) * size[0], 36, column.removeprefix("lr "), "tick", "middle")
    for i, row in enumerate(rows):
        y = 44 + i * size[1]
        panel.text(left - 8, y + size[1] / 2 + 4, row, "tick", "end")
        for j, column in enumerate(columns):
            x, loss, of = left + j * size[0], losses[row, column], cells[row, column]
            at = "" if rates or not of else f", rate {of[0]['lr']:g}"
            where = f"{sweep['row']} {row}, {column}{at}"
            if not isfinite(loss):
                gone = sum(map(lost, of))
                panel.bar(x, y, *size, "cell gone", f"{where}: {gone} of {len(of)} lost")
                panel.text(x + size[0] / 2, y + size[1] / 2 + 4, "×" if of else "", "tick", "middle")
                continue
            share = shade(min(loss, baseline), min(*known, baseline), baseline, "log")
            tone = f"h{round(19 * (1 - share))}"
            panel.bar(x, y, *size, f"cell {tone}", f"{where}: {loss:.3g} {unit}, mean of {len(of)}")
            digits = 3 if size[0] > 60 else 2
            text = f"{loss:.{digits}f}" if loss < 10 else f"{loss:.0f}" if loss < 1e4 else f"{loss:.0e}"
            panel.text(x + size[0] / 2, y + size[1] / 2 + 4, text, f"value {tone}", "middle")
    for row, column in best.items() if rates else [min((losses[row, c], (row, c)) for row, c in best.items())[1]]:
        x, y = left + columns.index(column) * size[0] + 4, 44 + rows.index(row) * size[1] + 4
        for kind in ("chosen", "chosen in"):
            panel.bar(x, y, size[0] - 8, size[1] - 8, kind)
    what = "each row's lowest" if rates else "the lowest of all"
    return figure(
        [panel],
        f"Mean validation loss over seeds, on a logarithmic scale of colours from the baseline's {baseline:.3g} {unit} "
        f"and worse (dark) to {min(known):.3g} (bright). Framed: {what}. ×: a seed diverged or collapsed.",
        wide=True,
    )


def networks_legend(runs: Sequence[Run]) -> list[tuple[str, str]]:
    return [(f"c{k % MARKS} line", network) for k, network in enumerate(group(runs, "network") if runs else ())]


def convergence(grid: Sequence[Run]) -> Figure | None:
    """Updates and time to the target by rate; None where no network got there."""
    def time(run: Run) -> float | None:
        seconds = run["machine"]["seconds_to_target"]
        return None if seconds is None else 1000 * float(seconds)

    panels = [
        lines_by_rate(grid, lambda run: run["updates_to_target"], ("Updates to the target", "updates")),
        lines_by_rate(grid, time, ("Time to the target", "ms")),
    ]
    if None in panels:
        return None
    return figure(
        [panel for panel in panels if panel is not None],
        "Updates to the target, and the time they took. A rate at which a network never got there has no point. A line "
        "that falls as steeply as the rate rises says that ten times the rate takes a tenth of the updates.",
        networks_legend(grid),
    )


def gap_by_epoch(grid: Sequence[Run], unit: str) -> Figure | None:
    """Training and validation loss by epoch, at each network's best rate; None where nothing was learned."""
    panels = []
    for network, runs in (group(grid, "network") if grid else {}).items():
        rates, lr = group(runs, "lr"), best_rate(runs)
        if lr is None or not any(run["learned"] for run in rates[lr]):
            continue
        train, validation = averaged(rates[lr], "train_loss")[0], averaged(rates[lr], "validation_loss")[0]
        panel = Panel(network, f"Training and validation loss, {network} at rate {lr:g}")
        low, high = span([*train, *validation], (0.01, 3), log=True)
        epochs = max(1, len(train) - 1)
        panel.axes((0, epochs), (low, high), "epoch", f"rate {lr:g}", y_log=True, x_whole=True)
        xs = [float(x) for x in range(len(train))]
        panel.band(xs, train, validation, "gap")
        panel.curve(xs, train, "c0 line", "training loss")
        panel.curve(xs, validation, "c1 line", "validation loss")
        known = [(v, k) for k, v in enumerate(validation) if v is not None]
        if known:
            least, epoch = min(known)
            panel.dot(panel.x(epoch), panel.y(least), "c1 dot", f"least validation loss: {least:.3g}, epoch {epoch}", 5)
        panels.append(panel)
    if not panels:
        return None
    return figure(
        panels,
        f"Training and validation loss in {unit}, at each network's best rate, mean over seeds; the shade is the gap, "
        "the dot the least validation loss. Overfitting is a validation loss that climbs away from its dot.",
        [("c0 line", "training"), ("c1 line", "validation")],
    )


def gradient_norms(descent: Sequence[Run], target: float) -> Figure:
    lrs = list(group(descent, "lr")) if descent else []
    shares = {id(run): [None if v is None or not run["norms"][0] else 100 * v / run["norms"][0] for v in run["norms"]]
              for run in descent}
    low, high = span((v for of in shares.values() for v in of), (10, 100), log=True)
    high = min(high, 1000.0)
    low, target = max(low, 50 * target), 100 * target
    panels = []
    for network, runs in (group(descent, "network") if descent else {}).items():
        panel = Panel(network, f"Gradient norm by update, {network}")
        longest = max(len(run["norms"]) for run in runs)
        panel.axes(
            (1, max(2, longest)),
            (min(low, target) * 0.8, high * 1.2),
            "update",
            "% of the first norm",
            x_log=True,
            y_log=True,
        )
        panel.level(target, f"target {target:g} %")
        for k, lr in enumerate(lrs):
            for run in (run for run in runs if run["lr"] == lr):
                # (as many points as can be seen)
                count = len(run["norms"])
                picked = np.unique(np.geomspace(1, count, 90).round().astype(int)) - 1
                end = "reached" if run["updates"] is not None else "collapsed" if run["collapsed"] else "not reached"
                panel.curve(
                    [float(p + 1) for p in picked],
                    [shares[id(run)][p] for p in picked],
                    f"r{k} line thin",
                    f"rate {lr:g}, seed {run['seed']}: {end} after {count - 1} updates",
                )
        panels.append(panel)
    return figure(
        panels,
        "The norm of the whole split's gradient before each update, a line for each seed, both axes logarithmic. "
        f"Dashed: the {target:g} % of the first norm that end a descent.",
        rates_legend(lrs),
    )


def escapes(runs: Sequence[Run]) -> Figure:
    """Contours of the landscapes, with the end points of each rate in a group."""
    from contourpy import FillType, contour_generator

    panels = []
    for name, of in (group(runs, "landscape") if runs else {}).items():
        land = LANDSCAPES[name]
        left, right, bottom, top = land.view
        panel = Panel(land.title, f"{land.title} from above, and where noisy starts ended", 330, 270, 4, 4, 28, 4)
        x0, y0, x1, y1 = panel.box
        panel.parts.append(f'<clipPath id="clip-{name}"><rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}"/>'
                           "</clipPath>")
        xs, ys = np.linspace(left, right, 89), np.linspace(bottom, top, 67)
        heights = land.height(np.stack(np.meshgrid(xs, ys), -1))
        floor_ = heights.min()
        depth = np.sqrt((heights - floor_) / (np.quantile(heights, 0.9) - floor_))  # (so that minima are visible)
        filled = contour_generator(xs, ys, depth, fill_type=FillType.OuterCode)

        edges = [*np.linspace(0, 1, 9), float(depth.max()) + 1]
        for k in range(9):
            d = []
            for points, codes in zip(*filled.filled(edges[k], edges[k + 1]), strict=True):
                for point, code in zip(points, codes, strict=True):
                    x, y = coordinates(point, land.view, panel.box)
                    d.append("Z" if code == 79 else f"{'M' if code == 1 else 'L'}{place(x)} {place(y)}")
            if d:
                panel.path("".join(d), f"t{k}")
        for k, run in enumerate(of):
            inside = [
                coordinates(point, land.view, panel.box)
                for point in run["points"]
                if point is not None and left < point[0] < right and bottom < point[1] < top
            ]
            panel.group(f"points p{k}")
            for j, path in enumerate(run["paths"]):
                trail(panel, land.view, path, f"clip-{name}", "trail" if j < STILL else "trail more")
            for x, y in inside:
                panel.dot(x, y, "end", radius=2.2)
            panel.text(
                x1 - 6,
                y1 - 8,
                f"{100 * run['found']:.1f} % global, {100 * (run['escaped'] - run['found']):.1f} % local",
                "note",
                "end",
            )
            panel.end_group()
        x, y = coordinates(land.start, land.view, panel.box)
        panel.dot(x, y, "start", "where all of them start: a local minimum", 7)
        for best in land.best:
            x, y = coordinates(best, land.view, panel.box)
            panel.path(star(x, y), "best")
        panel.parts.append(f'<rect class="frame" x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}"/>')
        panels.append(panel)
    panels.append(escape_shares(runs, "To a global minimum", lambda run: run["found"]))
    panels.append(escape_shares(runs, "To another local minimum", lambda run: run["escaped"] - run["found"]))
    return figure(
        panels,
        "Five landscapes from above, the bluer the lower. Ring: the local minimum where every start begins. Star: a "
        f"global minimum. Dots: where the first {len(runs[0]['points']) if runs else 0} of the starts were when the "
        f"noise stopped, those that the picture reaches. Lines: the first {STILL} of them at {FRAMES} times, close to "
        "each other at first and further apart later. In motion each dot is one of the first starts, with the end of "
        "its way behind it. The rate is chosen above. Last: the shares that ended in the basin of a global minimum and "
        "of another local one, by rate, a line for each landscape.",
        [(f"c{k} line", LANDSCAPES[name].title) for k, name in enumerate(group(runs, "landscape") if runs else ())],
    )


def trail(panel: Panel, view: Sequence[float], path: Sequence[Sequence[float]], clip: str, kind: str) -> None:
    """The line of a path, and a dot at its end, which a script of the page moves along it; both within the picture."""
    width, height = view[1] - view[0], view[3] - view[2]
    near = [  # (what is far outside of the picture is drawn a picture's width outside)
        (min(max(x, view[0] - width), view[1] + width), min(max(y, view[2] - height), view[3] + height))
        for x, y in path
    ]
    drawn = [coordinates(point, view, panel.box) for point in near]
    points = " ".join(f"{place(x)},{place(y)}" for x, y in drawn)
    x, y = drawn[-1]
    panel.parts.append(f'<polyline class="{kind}" clip-path="url(#{clip})" points="{points}"/>'
                       f'<circle class="head" clip-path="url(#{clip})" cx="{place(x)}" cy="{place(y)}" r="4"/>')


def coordinates(point: Sequence[float], view: Sequence[float], box: Sequence[float]) -> tuple[float, float]:
    """The coordinates of a point of a landscape in a panel that shows `view` in `box`."""
    left, right, bottom, top = view
    x, y = (point[0] - left) / (right - left), (point[1] - bottom) / (top - bottom)
    return box[0] + x * (box[2] - box[0]), box[3] - y * (box[3] - box[1])


def star(x: float, y: float, size: float = 8) -> str:
    angles = np.pi * (np.arange(10) / 5 - 0.5)
    radii = size * np.where(np.arange(10) % 2, 0.42, 1.0)
    return (
        "M"
        + "L".join(f"{place(x + r * np.cos(a))} {place(y + r * np.sin(a))}" for a, r in zip(angles, radii, strict=True))
        + "Z"
    )


def escape_shares(runs: Sequence[Run], title: str, share: Callable[[Run], float]) -> Panel:
    lrs = sorted(group(runs, "lr")) if runs else [0.01, 0.1]
    panel = Panel(title, f"{title}: share of starts by learning rate", 330, 270)
    panel.axes((lrs[0] / 1.25, lrs[-1] * 1.25), (0, 100), "learning rate", "% of starts", x_log=True, x_ticks=lrs)
    for k, (name, of) in enumerate(group(runs, "landscape").items() if runs else ()):
        of = sorted(of, key=lambda run: run["lr"])
        panel.curve([run["lr"] for run in of], [100 * share(run) for run in of], f"c{k} line", name)
        for run in of:
            hover = f"{LANDSCAPES[name].title}, rate {run['lr']:g}: {100 * share(run):.1f} % of {run['starts']:,}"
            panel.dot(panel.x(run["lr"]), panel.y(100 * share(run)), f"c{k} dot", hover)
    return panel


def memory(runs: Sequence[Run]) -> Figure:
    """Bars of bytes for each optimizer and rate."""
    panels = []
    most = max((run["parameters"] + run["gradients"] + run["state"] for run in runs), default=1) / 1024
    for network, of in (group(runs, "network") if runs else {}).items():
        optimizers = group(of, "optimizer")
        height = 13 * sum(len(runs_) for runs_ in optimizers.values()) + 29 * len(optimizers) + 70
        panel = Panel(network, f"Memory by optimizer and rate, {network}", height=height, left=58)
        left, top = panel.box[:2]
        panel.axes((0, most * 1.05), (0, 1), "KiB", "")
        panel.parts = panel.parts[:1] + [part for part in panel.parts[1:] if "grid" not in part and 'end">' not in part]
        y = top + 4
        for optimizer, runs_ in optimizers.items():
            panel.text(left, y + 10, optimizer, "label", "start")
            y += 17
            for run in runs_:
                x = float(left)
                for k, part in enumerate(("parameters", "gradients", "state")):
                    width = panel.x(run[part] / 1024) - left
                    hover = f"{network}, {optimizer}, rate {run['lr']:g}: {part} {run[part] / 1024:,.1f} KiB"
                    panel.bar(x, y, width, 10, f"c{k} fill", hover)
                    x += width
                panel.text(left - 6, y + 9, f"{run['lr']:g}", "tick", "end")
                y += 13
            y += 12
        panels.append(panel)
    return figure(
        panels,
        "A bar for each rate: what training keeps between updates. Bars of "
        "one optimizer that are equally long say that the rate does not matter to it.",
        [("c0 fill", "weights"), ("c1 fill", "gradients"), ("c2 fill", "optimizer state")],
    )


def strategies(
    grid: Sequence[Run], others: Sequence[Run], named: dict[str, Any], unit: str, baseline: float
) -> Figure | None:
    """Validation loss by epoch of each strategy, at its own best rate; None where each was lost in some seed."""
    seeds = {run["seed"] for run in others}
    network = others[0]["network"] if others else None
    pool = [run for run in grid if run["network"] == network and run["seed"] in seeds] + list(others)
    cells = group(pool, "optimizer", "schedule") if pool else {}
    panels, kinds = [], set[str]()
    low, high = span((v for run in pool for v in run["curve"]["validation_loss"]), (0.05, 3), log=True)
    high = min(high, 4 * baseline)
    for k, (name, (optimizer, schedule)) in enumerate(named.items()):
        of = cells.get((optimizer, schedule), [])
        best = best_rate(of)
        if best is None:
            continue
        panel = Panel(name, f"Validation loss by epoch, {name} at its best rate", height=200)
        epochs = max(len(run["curve"]["validation_loss"]) for run in of) - 1
        panel.axes((0, max(1, epochs)), (low, high), "epoch", f"rate {best:g}", y_log=True, x_whole=True)
        for lr, runs in group(of, "lr").items():
            if lr != best:
                mean = averaged(runs, "validation_loss")[0]
                panel.curve([float(x) for x in range(len(mean))], mean, "ghost line", f"rate {lr:g}")
        mean, least, most = averaged([run for run in of if run["lr"] == best], "validation_loss")
        xs = [float(x) for x in range(len(mean))]
        kind = "c0" if k == 0 else "c1" if optimizer == next(iter(named.values()))[0] else "c2"
        kinds.add(f"{kind} line")
        panel.band(xs, least, most, f"{kind} band")
        panel.curve(xs, mean, f"{kind} line", f"rate {best:g}: ends at {mean[-1]:.3g}" if mean and mean[-1] else name)
        panels.append(panel)
    if not panels:
        return None
    several = len(group(pool, "lr")) > 1
    legend = [("c0 line", "as in table 1"), ("c1 line", "decaying"), ("c2 line", "other optimizers")]
    return figure(
        panels,
        f"Validation loss in {unit} of each strategy at the rate that was best for it, mean and range of the seeds"
        + ("; thin, at the other rates." if several else "."),
        [entry for entry in legend if entry[0] in kinds],
    )


def sparkline(schedule: str | None, updates: int) -> str:
    """The rate of a strategy over time, as a figure of the size of a word."""
    made = rate(1.0, schedule, updates)
    t = np.linspace(0, updates - 1, 40).astype(int)
    values = made(t) if isinstance(made, Schedule) else np.ones(len(t))
    most = max(float(values.max()), 1e-30)
    points = " ".join(f"{place(2 + 56 * k / 39)},{place(16 - 13 * float(v) / most)}" for k, v in enumerate(values))
    label = "held" if schedule is None else schedule
    return (
        f'<svg class="spark" viewBox="0 0 60 18" role="img" aria-label="shape of the rate">'
        f'<title>{label.replace("<", "&lt;")}</title><polyline class="c1 line" points="{points}"/></svg>'
    )


def shade(value: float, low: float, high: float, scale: str) -> float:
    """The position of a value between the least and the most of its table, in [0, 1]."""
    if scale == "log" and low > 0:
        value, low, high = log10(value), log10(low), log10(high)
    if scale == "errors":
        value, low, high = (-log10(max(100 - v, 0.1)) for v in (value, low, high))
    return 0.5 if high <= low else (value - low) / (high - low)


__all__ = [
    "gap_by_epoch",
    "convergence",
    "escape_shares",
    "escapes",
    "loss_by_epoch",
    "memory",
    "gradient_norms",
    "shade",
    "short",
    "sparkline",
    "heat_map",
    "loss_by_rate",
    "two_losses_by_rate",
    "strategies",
]
