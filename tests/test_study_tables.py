"""The tables of a study, its CSV files and its pictures, number by number, from made-up runs whose numbers are known."""

import csv
import io
import math
import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from fastlr.study import figures, page, record, report
from fastlr.study.entries import measure_of
from fastlr.study.tables import tables

NETWORKS, LRS, SEEDS = ("4-3-2-relu", "4-5-2-tanh"), (0.01, 0.1, 1.0), (0, 1, 2)
SPLITS = ("train", "validation", "test")
LADDER = (0.01, 0.1, 1.0, 10.0)
BASELINE = {"train_loss": 0.7, "validation_loss": 0.72, "test_loss": 0.75, "train_accuracy": 0.5,
            "validation_accuracy": 0.5, "test_accuracy": 0.4375}
WAYS = {"sgd, held": ["sgd", None], "sgd, cosine to 0": ["sgd", "cosine(1, steps=8)"], "adam": ["adam", None]}


def trained(rng, network, lr, seed, optimizer="sgd", schedule=None, lost=False, reached=True, collapsed=False,
            learned=True):
    """One run of four epochs, its losses and accuracies drawn; no two numbers are equal."""
    curve = {f"{split}_loss": sorted(rng.uniform(0.1, 2, 5).tolist(), reverse=True) for split in SPLITS}
    curve["validation_loss"][-1] = curve["validation_loss"][-2] * float(rng.uniform(0.9, 1.3))     # some overfit
    curve |= {f"{split}_accuracy": rng.uniform(0.5 - 0.1 * k, 1 - 0.1 * k, 5).tolist() for k, split in enumerate(SPLITS)}
    last = {name: None if lost else values[-1] for name, values in curve.items()}
    last |= {f"{split}_r2": None for split in SPLITS}
    updates = int(rng.integers(3, 9)) if reached and not lost else None
    return {"network": network, "lr": lr, "seed": seed, "optimizer": optimizer, "epochs": 4, "batch_size": 16,
            "target_loss": 0.2, "schedule": schedule, "momentum": None, "followed": "...", "diverged": lost, "updates": 8,
            "collapsed": collapsed, "learned": learned and not lost and not collapsed,
            "updates_to_target": updates, **last, "curve": curve,
            "machine": {"train_seconds": float(rng.uniform(1, 2)),
                        "seconds_to_target": None if updates is None else float(rng.uniform(0.1, 1))}}


@pytest.fixture(scope="module")
def document():
    rng = np.random.default_rng(3)
    grid = [trained(rng, network, lr, seed, lost=lr == 1.0 and network == NETWORKS[0] and seed != 1,
                    reached=(lr, seed) not in [(0.01, 0), (0.01, 1)] and (network, lr) != (NETWORKS[1], 0.1))
            for seed in SEEDS for network in NETWORKS for lr in LRS]
    ladder = [trained(rng, f"4-3-2-{activation}", lr, seed, lost=lr == 10.0 and seed == 0,
                      collapsed=lr == 1.0 and activation == "tanh")
              for seed in SEEDS for activation in ("relu", "tanh") for lr in LADDER]
    decay = [trained(rng, f"4-3-2-{activation}", lr, seed, schedule="cosine(1, steps=updates)")
             for seed in SEEDS for activation in ("relu", "tanh") for lr in LADDER[:2]]
    ways = [trained(rng, NETWORKS[0], lr, seed, *way, lost=(way[0], lr, seed) == ("adam", 1.0, 2))
            for seed in SEEDS for way in list(WAYS.values())[1:] for lr in LRS]
    descent = []
    for seed in SEEDS:
        for lr in LRS:
            norms = rng.uniform(0.2, 3, 6).tolist()
            reached = (lr, seed) != (0.01, 2) and lr != 1.0
            descent.append({"network": NETWORKS[0], "lr": lr, "seed": seed, "target_norm": 0.1, "limit": 500,
                            "updates": 10 * seed + 5 if reached else None, "norm": norms[-1], "train_loss": 1.0,
                            "norms": norms, "collapsed": False, "machine": {"seconds": 0.25 + seed if reached else None}})
    escape = [{"landscape": name, "lr": lr, "starts": 1000, "steps": 50, "noise": 2.0, "seed": 0, "optimizer": "sgd",
               "schedule": None, "escaped": float(rng.uniform(0.2, 0.9)), "found": float(rng.uniform(0, 0.2)),
               "lost": 0.125 if lr == 1.0 else 0.0, "points": [[0.1, 0.2], None],
               "paths": [[[1.0, 0.0], [0.5, 0.25], [-9.0, 1e30]], [[1.0, 0.0]]]}
              for name in ("double-well", "rastrigin") for lr in LRS]
    memory = [{"network": NETWORKS[0], "lr": lr, "optimizer": optimizer, "batch_size": 16, "parameters": 1000,
               "gradients": 1000, "state": state, "machine": {"peak": 50_000 + 100 * k}}
              for optimizer, state in (("sgd", 0), ("adam", 2000)) for k, lr in enumerate(LRS)]
    made = {
        "complete": True, "done": 90, "planned": 90,
        "settings": {"lrs": list(LRS), "networks": list(NETWORKS), "seeds": 3, "epochs": 4, "optimizer": "sgd",
                     "schedule": None, "batch_size": 16, "target_loss": 0.2, "target_norm": 0.1, "ladder_epochs": 4,
                     "ladder_seeds": 3, "further_seeds": 3, "steps": 50},
        "data": {"name": "made up", "features": 4, "classes": 2, "train": 32, "validation": 8, "test": 8,
                 "regression": False, "target": [0.0, 1.0], "baseline": BASELINE, "notes": []},
        "environment": {"fastlr": "0", "numpy": "0", "python": "3", "machine": "m", "system": "s", "jobs": 2},
        "strategies": WAYS, "sweeps": {},
        "experiments": {"grid": grid, "ladder": ladder, "decay": decay, "strategies": ways, "descent": descent, "escape": escape,
                        "memory": memory},
    }
    return made | {"tables": tables(made)}


def entry(document, number, row, column):
    table = document["tables"][number - 1]
    return next(r for r in table["rows"] if r[0]["text"] == row)[table["columns"].index(column)]


def kept(document, network, lr, experiment="grid"):
    return [r for r in document["experiments"][experiment]
            if (r["network"], r["lr"]) == (network, lr) and not r["diverged"] and not r["collapsed"]]


def check(found, values):
    """Mean, sample deviation and number."""
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert found["n"] == len(values)
    if len(values) > 1:
        assert found["spread"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    else:
        assert found["spread"] is None


@pytest.mark.parametrize(("number", "value"), [
    (1, lambda run: 100 * run["test_accuracy"]),
    (2, lambda run: run["machine"]["seconds_to_target"] and 1000 * run["machine"]["seconds_to_target"]),
    (3, lambda run: run["updates_to_target"]),
    (4, lambda run: 8 * 16 / run["machine"]["train_seconds"] / 1000),
    (5, lambda run: run["curve"]["validation_loss"][-1] / min(run["curve"]["validation_loss"])),
    (10, lambda run: run["test_loss"] - run["train_loss"]),
])
def test_an_entry_of_the_grid_is_that_of_its_own_runs(document, number, value):
    for network in NETWORKS:
        for lr in LRS:
            found = entry(document, number, network, f"lr {lr:g}")
            runs = kept(document, network, lr)
            values = [v for v in map(value, runs) if v is not None]
            if not values:
                assert found == {"text": "not reached"}
                continue
            check(found, values)
            assert (", 2 of 3 diverged" in found["text"]) == (len(runs) == 1)
            assert (f"({len(values)} of {len(runs)})" in found["text"]) == (number in (2, 3) and len(values) < len(runs))


def test_overfitting_is_a_risen_validation_loss_and_a_gap(document):
    yes = 0
    for network in NETWORKS:
        for lr in LRS:
            found, runs = entry(document, 5, network, f"lr {lr:g}"), kept(document, network, lr)
            rises = [r["curve"]["validation_loss"][-1] / min(r["curve"]["validation_loss"]) for r in runs]
            apart = [r["train_accuracy"] - r["test_accuracy"] for r in runs]
            do = sum(rise > 1.05 and gap > 0 for rise, gap in zip(rises, apart, strict=True))
            assert found["overfitting"] == do
            assert found["answer"] == ("yes" if do > len(runs) / 2 else "no")
            assert found["gap"] == pytest.approx(100 * np.mean(apart))
            assert f"{100 * np.mean(apart):+.1f}" in found["text"]
            yes += found["answer"] == "yes"
    assert 0 < yes < 6
    assert document["tables"][4]["finding"].startswith(f"{yes} of 6 combinations overfit")


def test_descent_counts_those_that_got_there(document):
    found = entry(document, 6, NETWORKS[0], "lr 0.01")
    check(found, [250.0, 1250.0])
    assert found["updates"] == 10 and "(2 of 3); 10 updates" in found["text"]
    shortest = entry(document, 6, NETWORKS[0], "lr 0.1")
    check(shortest, [250.0, 1250.0, 2250.0])
    assert document["tables"][5]["finding"] == f"The shortest is 750 ms, {NETWORKS[0]} at rate 0.01: 10 updates."
    lost = entry(document, 6, NETWORKS[0], "lr 1")
    ends = [r["norm"] / r["norms"][0] for r in document["experiments"]["descent"] if r["lr"] == 1.0]
    assert lost["text"] == f"not reached, {100 * np.mean(ends):.0f} %"


def test_a_descent_of_dead_units_has_not_got_there(document):
    runs = [dict(run) for run in document["experiments"]["descent"]]
    for run in runs:
        if run["lr"] == 1.0 and run["seed"] < 2:
            run |= {"norm": 0.0, "collapsed": True}
    changed = {**document, "experiments": document["experiments"] | {"descent": runs}}
    changed["tables"] = tables(changed)
    assert entry(changed, 6, NETWORKS[0], "lr 1")["text"] == "2 of 3 collapsed"
    assert "at rate 1:" not in changed["tables"][5]["finding"]


def test_a_norm_that_has_exploded_is_a_power_of_ten(document):
    runs = [run | {"norm": 1.5e18 * run["norms"][0]} if run["lr"] == 1.0 else run
            for run in document["experiments"]["descent"]]
    changed = {**document, "experiments": document["experiments"] | {"descent": runs}}
    changed["tables"] = tables(changed)
    assert entry(changed, 6, NETWORKS[0], "lr 1")["text"] == "not reached, 2e+20 %"


def test_escape_is_a_share_with_the_error_of_a_share(document):
    for run in document["experiments"]["escape"]:
        found = entry(document, 7, run["landscape"], f"lr {run['lr']:g}")
        p = run["escaped"]
        assert (found["mean"], found["found"], found["n"]) == (100 * p, 100 * run["found"], 1000)
        assert found["spread"] == pytest.approx(100 * math.sqrt(p * (1 - p) / 1000))
        local = 100 * (run["escaped"] - run["found"])
        assert found["text"].startswith(f"{100 * run['found']:.1f} + {local:.1f} ± ")
        assert ("12.5 lost" in found["text"]) == (run["lr"] == 1.0)
    mean = np.mean([100 * run["escaped"] for run in document["experiments"]["escape"] if run["lr"] == 0.1])
    assert f"{mean:.1f} % at 0.1" in document["tables"][6]["finding"]
    assert "Not by" not in document["tables"][6]["method"]
    asked = {**document, "settings": document["settings"] | {"optimizer": "lamb"}}
    assert "Not by lamb" in tables(asked)[6]["method"]


def test_memory_is_what_is_allocated(document):
    rows = document["tables"][7]["rows"]
    assert [row[2]["text"] for row in rows] == ["0 B", "8 B"]
    assert [e["mean"] for e in rows[1][3:]] == [4000 / 1024] * 3
    assert rows[1][4]["text"] == f"{4000 / 1024:,.1f}; peak {50_100 / 1024:,.1f}"
    assert "does not depend on the rate in any row" in document["tables"][7]["finding"]
    assert f"{100 * (50_200 / 50_000 - 1):.1f} %" in document["tables"][7]["finding"]


def test_the_best_rate_of_an_activation_has_the_least_validation_loss(document):
    for activation in ("relu", "tanh"):
        means = {}
        for lr in LADDER:
            runs = [r for r in document["experiments"]["ladder"] if (r["network"], r["lr"]) == (f"4-3-2-{activation}", lr)]
            lost = any(r["diverged"] or r["collapsed"] for r in runs)
            means[lr] = math.inf if lost else np.mean([r["validation_loss"] for r in runs])
        best = min(means, key=means.get)
        row = next(r for r in document["tables"][8]["rows"] if r[0]["text"] == activation)
        assert row[1]["mean"] == best
        check(row[2], [r["validation_loss"] for r in kept(document, f"4-3-2-{activation}", best, "ladder")])
        check(row[3], [100 * r["test_accuracy"] for r in kept(document, f"4-3-2-{activation}", best, "ladder")])
        worst = max(means[best], 0.72 - 0.9 * (0.72 - means[best]))         # (keeps nine tenths of the gain)
        close = [lr for lr in LADDER if means[lr] <= worst]
        assert row[4]["text"] == f"{close[0]:g} to {close[-1]:g}"
        assert row[5]["text"] == ("10" if activation == "relu" else "1")    # (tanh collapses there)


def test_every_table_of_networks_has_its_baseline(document):
    """43.75 % is the most frequent class's; the losses are those of the classes' frequencies."""
    for number, column, text in ((1, "lr 0.1", "43.8"), (5, "lr 0.1", "no: 0 % above, +6.2"), (10, "lr 0.1", "0.050"),
                                 (9, "validation loss, nats", "0.720"), (9, "test accuracy, %", "43.8"), (11, "lr 1", "43.8")):
        assert entry(document, number, "most frequent class", column) == {"text": text}
    for number in (2, 3):
        assert "The baseline's training loss is 0.700 nats." in document["tables"][number - 1]["method"]
    assert "right on 43.8% of these; knowing the classes' frequencies alone has a test loss of 0.750 nats" in (
        report.facts(document))


def test_what_has_learned_nothing_is_not_judged(document):
    runs = [dict(run) for run in document["experiments"]["grid"]]
    for run in runs:
        if (run["network"], run["lr"]) == (NETWORKS[1], 0.1):
            run["learned"] = False
        if (run["network"], run["lr"]) == (NETWORKS[1], 1.0):
            run |= {"learned": False, "collapsed": True}
    changed = {**document, "experiments": document["experiments"] | {"grid": runs}}
    changed["tables"] = tables(changed)
    assert entry(changed, 5, NETWORKS[1], "lr 0.1")["text"] == "nothing learned"
    for number in (1, 2, 3, 4, 5, 10):
        assert entry(changed, number, NETWORKS[1], "lr 1") == {"text": "collapsed"}
    assert "5 collapsed" not in str(page.headlines(document)) and "6 collapsed" in str(page.headlines(changed))


def test_a_regression_is_measured_by_r2_and_variances(document):
    other = {**document, "data": document["data"] | {
        "regression": True, "classes": 0, "target": [150.0, 77.0], "baseline": {
            "train_loss": 1.0, "validation_loss": 1.1, "test_loss": 0.9}}}
    other["experiments"] = {name: [dict(run) for run in runs] for name, runs in document["experiments"].items()}
    for name in record.TRAINED:
        for run in other["experiments"][name]:
            for split in SPLITS:
                run |= {f"{split}_accuracy": None, f"{split}_r2": run[f"{split}_accuracy"]}
                run["curve"] = {k.replace("accuracy", "r2"): v for k, v in run["curve"].items()}
    other["tables"] = tables(other)
    assert entry(other, 1, NETWORKS[1], "lr 0.1")["mean"] == entry(document, 1, NETWORKS[1], "lr 0.1")["mean"]
    assert entry(other, 1, "always the mean", "lr 0.1") == {"text": "0.0"}
    assert other["tables"][0]["title"] == "Test R² by learning rate"
    assert (other["tables"][9]["unit"], other["tables"][2]["title"]) == (
        "variances", "Updates to convergence (training loss 0.2 variances)")
    shown, facts = page.render(other), report.facts(other)
    assert "nats" not in shown and "accuracy" not in shown.replace('id="accuracy"', "").replace("#accuracy", "")
    assert "a number to predict" in facts and "always predicting the training mean, 150 (standard deviation 77)" in facts
    assert next(record.curves(other))[-3:] == ["train_r2", "validation_r2", "test_r2"]
    assert report.plain_signs(other["tables"][0]["title"], "+-") == "Test R2 by learning rate"


def test_strategies_are_compared_at_the_same_rates(document):
    pool = document["experiments"]["strategies"] + [r for r in document["experiments"]["grid"]
                                                    if r["network"] == NETWORKS[0]]
    for name, (optimizer, schedule) in WAYS.items():
        losses = {}
        for lr in LRS:
            runs = [r for r in pool if (r["optimizer"], r["schedule"], r["lr"]) == (optimizer, schedule, lr)]
            assert len(runs) == 3
            check(entry(document, 11, name, f"lr {lr:g}"), [100 * r["test_accuracy"] for r in runs if not r["diverged"]])
            losses[lr] = math.inf if any(r["diverged"] or r["collapsed"] for r in runs) else np.mean([r["validation_loss"] for r in runs])
        assert entry(document, 11, name, "best rate")["text"] == f"{min(losses, key=losses.get):g}"
    assert [row[1]["text"] for row in document["tables"][10]["rows"]] == ["fixed", "decaying", "adaptive", "baseline"]


def test_findings_tell_the_extremes(document):
    means = {(network, lr): np.mean([100 * r["test_accuracy"] for r in kept(document, network, lr)])
             for network in NETWORKS for lr in LRS}
    network, lr = max(means, key=means.get)
    finding = document["tables"][0]["finding"]
    assert finding.startswith(f"The highest is {means[network, lr]:.1f}") and f"{network} at rate {lr:g}." in finding
    fewest = {(network, lr): np.mean(of) for network in NETWORKS for lr in LRS
              if (of := [r["updates_to_target"] for r in kept(document, network, lr) if r["updates_to_target"]])}
    network, lr = min(fewest, key=fewest.get)
    assert f"{network} at rate {lr:g}." in document["tables"][2]["finding"]
    assert "1 of 6 combinations never got there" in document["tables"][1]["finding"]


# files


def test_csv_files_have_each_number_in_its_own_column(document, tmp_path):
    record.write_tables(tmp_path, document)
    with (tmp_path / "table-01-accuracy.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:5] == ["network", "lr 0.01", "lr 0.01 mean", "lr 0.01 spread", "lr 0.01 n"]
    values = [100 * r["test_accuracy"] for r in kept(document, NETWORKS[0], 0.01)]
    assert [float(x) for x in rows[0][2:5]] == pytest.approx([np.mean(values), np.std(values, ddof=1), 3])
    found = [r for name in ("grid", "ladder", "decay", "strategies") for r in document["experiments"][name]]
    with (tmp_path / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == len(found)
    for read, run in zip(runs, found, strict=True):
        for name in ("network", "lr", "seed", "optimizer", "schedule", "updates", "diverged", "validation_loss", "test_accuracy"):
            assert read[name] == ("" if run[name] is None else str(run[name])), name
        assert float(read["train_seconds"]) == run["machine"]["train_seconds"]
    with (tmp_path / "curves.csv").open(newline="") as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 5 * len(found)
    for k, row in enumerate(curves):
        run = found[k // 5]
        assert (row["network"], float(row["lr"]), int(row["seed"]), int(row["epoch"])) == (
            run["network"], run["lr"], run["seed"], k % 5)
        assert (row["optimizer"], row["schedule"]) == (run["optimizer"], run["schedule"] or "")
        for name, series in run["curve"].items():
            assert float(row[name]) == series[k % 5]


# pictures


def points(panel, kind):
    """The places of every line or circle of a class in an SVG."""
    found = []
    for element in xml.fromstring(panel).iter():
        if element.get("class") == kind:
            if element.get("points"):
                found.append([tuple(map(float, pair.split(","))) for pair in element.get("points").split()])
            else:
                found.append((float(element.get("cx")), float(element.get("cy"))))
    return found


def test_curves_are_drawn_where_their_numbers_are(document):
    grid = document["experiments"]["grid"]
    panel = figures.loss_by_epoch(grid, 0.2, "nats", 0.7)["panels"][1]
    for k, lr in enumerate(LRS):
        (line,) = points(panel, f"r{k} line")
        series = [r["curve"]["train_loss"] for r in kept(document, NETWORKS[1], lr)]
        mean = np.log10(np.mean(series, axis=0))
        assert [x for x, _ in line] == pytest.approx(np.linspace(46, 318, 5), abs=0.06)      # from epoch 0 on
        y = np.array([y for _, y in line])
        slope = np.diff(y) / np.diff(mean)
        assert slope == pytest.approx([slope[0]] * 4, rel=0.05) and slope[0] < 0             # straight in the logarithm
        (band,) = points(panel, f"r{k} band")
        assert len(band) == 10
        assert (np.array([y for _, y in band[:5]]) <= y + 0.06).all()                        # the greatest is above


def test_shades_put_the_better_at_the_bright_end(document):
    for table in document["tables"]:
        if table["name"] not in page.SHADED:
            continue
        less = page.SHADED[table["name"]][2]
        shown = [(e["raw"].get("quality", e["raw"]["mean"]), e["shade"])
                 for row in page.shaded(table, document) for e in row if "shade" in e]
        assert shown, table["name"]
        best, worst = (min, max) if less else (max, min)
        assert (best(shown, key=lambda s: s[0])[1], worst(shown, key=lambda s: s[0])[1]) == (19, 0)
        ends = page.shades(table, measure_of(document))
        assert ends[0] == "worst: " + page.number(worst(s[0] for s in shown))
        assert ends[1].startswith("best: " + page.number(best(s[0] for s in shown)))


def test_the_least_trained_is_not_the_brightest_of_the_gaps(document):
    """By the loss that goes with a gap, not by the gap, which nobody has who has learned nothing."""
    losses = {(network, lr): np.mean([r["test_loss"] for r in kept(document, network, lr)]) for network in NETWORKS for lr in LRS}
    shown = {(row[0]["raw"]["text"], lr): e["shade"] for row in page.shaded(document["tables"][9], document)[:-1]
             for lr, e in zip(LRS, row[1:], strict=True)}
    assert max(shown, key=shown.get) == min(losses, key=losses.get)
    assert min(shown, key=shown.get) == max(losses, key=losses.get)


def test_tiles_are_numbers_of_the_tables(document):
    tiles = dict(page.headlines(document))
    fewest = min((e["mean"], row[0]["text"]) for row in document["tables"][2]["rows"] for e in row if "mean" in e)
    assert f"{fewest[0]:,.0f}" in tiles and fewest[1] in tiles[f"{fewest[0]:,.0f}"]
    assert document["tables"][2]["finding"].startswith(f"The fewest are {fewest[0]:,.0f}")


def test_no_chart_is_drawn_without_a_number_and_no_caption_tells_of_lines_that_are_not_there(document):
    grid = [run | {"updates_to_target": None, "machine": run["machine"] | {"seconds_to_target": None}}
            for run in document["experiments"]["grid"]]
    assert figures.convergence(grid) is None
    assert figures.gap_by_epoch([run | {"learned": False} for run in grid], "nats") is None
    assert figures.loss_by_rate([run | {"collapsed": True} for run in grid], 860, "nats", 0.7) is None
    assert "Dashed" in figures.loss_by_epoch(grid, 0.2, "nats", 0.7)["caption"]
    assert "Dashed" not in figures.loss_by_epoch(grid, 9.0, "nats", 0.7)["caption"]
    ways = figures.strategies(document["experiments"]["grid"], document["experiments"]["strategies"],
                              {"sgd, held": ["sgd", None], "adam": ["adam", None]}, "nats", 0.7)
    assert [text for _, text in ways["legend"]] == ["as in table 1", "other optimizers"]
    changed = {**document, "experiments": document["experiments"] | {"grid": grid}}
    changed["tables"] = tables(changed)
    assert "Updates to the target, and the time" not in page.render(changed)
    assert changed["tables"][2]["finding"] == "No combination got there in 8 updates."


def test_a_heading_in_the_terminal_is_one_line_however_narrow_its_table(document, tmp_path):
    with (tmp_path / "out.txt").open("w") as file:
        report.print_tables(document, file)
    text = (tmp_path / "out.txt").read_text()
    for table in document["tables"]:
        assert re.search(rf"^{table['number']}\. {re.escape(table['title'])}", text, re.MULTILINE)
    assert "\x1b" not in text
    assert text.index("Data: made up, 4 features") < text.index("Mean ± standard deviation over seeds.")


def test_eighty_columns_are_enough_for_every_name_and_figure(document, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    shown = Terminal()
    report.print_tables(document, shown)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for table in document["tables"]:
        if table["name"] != "claims":
            for row in table["rows"]:
                assert any(line.startswith(f" {row[0]['text']} ") for line in lines), row[0]
            words = {word for line in lines for word in line.split()}
            assert set(" ".join(table["columns"]).split()) <= words, table["name"]               # (whole, each of them)
    assert "…" not in shown.getvalue()


def test_whatever_is_named_from_outside_is_text_in_the_page(document):
    """Data, schedules and optimizers are named by the user: nothing of it may become markup."""
    evil = "<b onclick='x'>&\"</b>"
    hostile = {**document, "data": document["data"] | {"name": evil},
               "strategies": {evil: ["sgd", None], "sgd, cosine to 0": ["sgd", "cosine(1, steps=8)"]}}
    hostile["experiments"] = {name: [dict(run) for run in runs] for name, runs in document["experiments"].items()}
    for run in hostile["experiments"]["grid"] + hostile["experiments"]["memory"]:
        run["network"] = run["network"].replace("4-3", evil)
    for run in hostile["experiments"]["memory"]:
        run["optimizer"] = evil
    hostile["tables"] = tables(hostile)
    text = page.render(hostile)
    assert "<b onclick" not in text
    assert "&lt;b onclick=" in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        xml.fromstring(svg)
