"""Sweeps of a study: the cells that are asked for, tables and heat maps of their own runs, and nothing by default."""

import json
import re
import xml.etree.ElementTree as xml
from dataclasses import replace

import numpy as np
import pytest

from fastlr import cli, study
from fastlr.study import claims, figures, laboratory, page, report, sweeps
from fastlr.study.entries import measure_of
from fastlr.study.rates import rate


@pytest.fixture(scope="module")
def data():
    return study.load("wine")


def settings(**given):
    made = laboratory.Settings(**laboratory.QUICK)
    return replace(made, **{"networks": ("13-4-3-relu",), "seeds": 1, "further_seeds": 2, "ladder_epochs": 3} | given)


def test_a_default_study_has_no_sweep(data):
    assert list(laboratory.plan(settings(), data)) == list(laboratory.EXPERIMENTS)
    assert laboratory.sweeps_of(settings(), data) == {}


def test_the_cells_of_each_sweep(data):
    planned = laboratory.plan(settings(sweeps=sweeps.NAMES), data)
    rates = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)

    def cells(name):
        found = planned[f"sweep-{name}"]
        assert len(set(found)) == len(found)
        assert ({c.seed for c in found}, {c.epochs for c in found}) == ({0, 1}, {3})
        return found

    assert {(c.optimizer, c.momentum, c.lr) for c in cells("momentum")} == {
        ("momentum", m, lr) for m in (0.0, 0.5, 0.8, 0.9, 0.95, 0.99) for lr in rates}
    assert {(c.optimizer, c.batch_size, c.lr) for c in cells("batch-size")} == {
        ("sgd", size, lr) for size in (4, 8, 16, 32) for lr in rates}       # (of 107 rows: no batch is above half of them)
    updates = 107 // 32 * 3
    warmups = {c.schedule for c in cells("warmup")}
    assert warmups == {None, *(f"constant(1).warmup({n})" for n in (1, 2, 4))}      # (two shares of nine are none)
    assert float(rate(1.0, "constant(1).warmup(4)", updates)(2)) == 0.5
    pairs = {(c.optimizer, c.schedule) for c in cells("schedule")}
    assert {optimizer for optimizer, _ in pairs} == {"sgd", "momentum", "adam"} and len(pairs) == 3 * 6
    for _, text in pairs:
        rate(0.1, text, updates)


def test_given_rates_and_optimizer_are_those_of_sweeps(data):
    planned = laboratory.plan(settings(sweeps=("schedule", "warmup"), lrs=(0.1, 0.2), optimizer="lion"), data)
    assert {c.lr for c in planned["sweep-warmup"]} == {0.1, 0.2}
    assert {c.optimizer for c in planned["sweep-warmup"]} == {"lion"}
    assert {c.optimizer for c in planned["sweep-schedule"]} == {"sgd", "momentum", "adam", "lion"}


def test_momentum_is_that_of_the_cell(data):
    cells = [study.Cell("13-4-3-relu", 0.05, optimizer=name, epochs=3, momentum=m)
             for name, m in (("sgd", None), ("momentum", 0.0), ("momentum", 0.9), ("momentum", None), ("momentum", 0.5))]
    losses = [result.train_loss for result in study.run(cells, data)]
    assert losses[0] == losses[1] and losses[2] == losses[3]        # (0.9 is the default)
    assert len({*losses}) == 3
    for wrong, message in (({"optimizer": "adam", "momentum": 0.5}, "study: 'adam' has no momentum to set"),
                           ({"optimizer": "momentum", "momentum": 1.0}, r"study: momentum must be in \[0, 1\), got 1.0")):
        with pytest.raises(ValueError, match=message):
            study.Cell(**wrong)


def made_up(name="momentum", lost_at=3.0):
    """A sweep, and runs of it whose validation loss is lowest where rate / (1 - momentum) is 0.3."""
    sweep = sweeps.sweep(name, (0.01, 0.1, 0.3, 3.0), "sgd", 100, 500)
    runs = []
    for fields in sweep["rows"].values():
        for column in sweep["columns"].values():
            for lr in ([column["lr"]] if "lr" in column else (0.01, 0.1, 0.3, 3.0)):
                for seed in (0, 1):
                    run = {"network": "4-3-2-relu", "optimizer": "sgd", "schedule": None, "momentum": None, "batch_size": 32,
                           "epochs": 5, "lr": lr, "seed": seed} | fields | column
                    reach = run["lr"] / (1 - (run["momentum"] or 0)) / (2 if run["optimizer"] == "adam" else 1)
                    gone = run["lr"] >= lost_at and seed == 1
                    loss = 0.1 + abs(np.log10(reach / 0.3)) + 0.01 * seed
                    runs.append(run | {"validation_loss": None if gone else loss, "test_accuracy": None if gone else 1 - loss / 10,
                                       "diverged": gone, "collapsed": False})
    return sweep, runs


def measure():
    return measure_of({"data": {"regression": False, "baseline": {"validation_loss": 1.0, "test_accuracy": 0.25}}})


def test_an_entry_is_the_mean_of_its_runs_and_the_best_is_found():
    sweep, runs = made_up()
    made = sweeps.sweep_table("momentum", sweep, runs, measure())
    assert made["columns"] == ["momentum", "lr 0.01", "lr 0.1", "lr 0.3", "lr 3"]
    assert [entry["text"] for entry in made["rows"][-1]] == ["most frequent class", *["25.0"] * 4]
    for row in made["rows"][:-1]:
        for column, entry in zip(made["columns"][1:], row[1:], strict=True):
            of = [r for r in runs if f"{r['momentum']:g}" == row[0]["text"] and f"lr {r['lr']:g}" == column
                  and not r["diverged"]]
            scores = [100 * r["test_accuracy"] for r in of]
            assert entry["mean"] == pytest.approx(np.mean(scores))
            assert entry["quality"] == pytest.approx(min(1.0, np.mean([r["validation_loss"] for r in of])))
            assert entry["text"].endswith(", 1 of 2 lost") == (column == "lr 3")
    assert made["finding"] == ("The lowest validation loss, 0.105 nats, is that of momentum 0 and rate 0.3. The best rate by "
                               "momentum: 0: 0.3, 0.5: 0.1, 0.8: 0.1, 0.9: 0.01, 0.95: 0.01, 0.99: 0.01.")


def test_each_optimizer_and_schedule_is_shown_at_its_best_rate():
    sweep, runs = made_up("schedule")
    made = sweeps.sweep_table("schedule", sweep, runs, measure())
    assert made["columns"] == ["schedule", "sgd", "momentum", "adam"]
    for row in made["rows"][:-1]:
        assert [entry["text"].partition(" at ")[2] for entry in row[1:]] == ["0.3"] * 3
    assert made["finding"] == "The lowest validation loss, 0.105 nats, is that of sgd, held, at rate 0.3."
    none = [run | {"collapsed": True} for run in runs]
    dead = sweeps.sweep_table("schedule", sweep, none, measure())
    assert {entry["text"] for row in dead["rows"][:-1] for entry in row[1:]} == {"lost at 0.01"}
    assert dead["finding"] == "In every cell some seed was lost."
    assert figures.heat_map(sweep, none, 860, "nats", 1.0) is None
    assert sweeps.sweep_table("schedule", sweep, [], measure())["finding"] == "No run of it is finished."
    assert figures.heat_map(sweep, [], 860, "nats", 1.0) is None


@pytest.mark.parametrize("width", [860, 350])
def test_a_heat_map_is_brighter_where_the_loss_is_lower(width):
    sweep, runs = made_up()
    (panel,) = figures.heat_map(sweep, runs, width, "nats", 1.0)["panels"]
    cells = [e for e in xml.fromstring(panel).iter("rect") if e.get("class").startswith("cell")]
    assert len(cells) == 6 * 4
    by_place = sorted(cells, key=lambda e: (float(e.get("y")), float(e.get("x"))))
    tones = []
    for k, element in enumerate(by_place):
        row, column = list(sweep["rows"])[k // 4], list(sweep["columns"])[k % 4]
        loss = claims.mean_loss(sweeps.grid_of(runs, sweep)[row, column])
        if loss == float("inf"):
            assert element.get("class") == "cell gone" and "1 of 2 lost" in element[0].text
        else:
            tones.append((loss, int(element.get("class").split(" h")[1])))
            assert element[0].text == f"momentum {row}, {column}: {loss:.3g} nats, mean of 2"
    tones.sort()
    assert [tone for _, tone in tones] == sorted((tone for _, tone in tones), reverse=True)
    assert (tones[0][1], tones[-1][1]) == (19, 0)
    assert all(tone == 0 for loss, tone in tones if loss >= 1.0)   # (no better than the baseline)
    alike = [run | {"validation_loss": None if run["diverged"] else 0.5 + 0.001 * run["seed"]} for run in runs]
    (flat,) = figures.heat_map(sweep, alike, width, "nats", 1.0)["panels"]
    assert set(re.findall(r'class="cell (h\d+)"', flat)) <= {"h18", "h19"}    # (losses that hardly differ look alike)
    framed = [e for e in xml.fromstring(panel).iter("rect") if e.get("class") == "chosen in"]
    assert len(framed) == 6                                        # (the best rate of each row)
    right = max(float(e.get("x")) + float(e.get("width")) for e in cells)
    assert right <= width


def test_the_command_has_tables_pages_and_files_of_them(tmp_path, capsys):
    line = ["study", "--quick", "--data", "wine", "--networks", "13-4-3-relu", "--lrs", "0.1", "0.5", "--epochs", "2", "--seeds",
            "2", "--jobs", "1", "--out", str(tmp_path)]
    assert cli.main([*line, "--sweep", "momentum", "schedule"]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert [t["name"] for t in document["tables"][12:]] == ["sweep-momentum", "sweep-schedule"]
    assert [t["number"] for t in document["tables"][12:]] == [13, 14]
    assert len(document["experiments"]["sweep-momentum"]) == 2 * 6 * 2
    runs = (tmp_path / "runs.csv").read_text()
    assert runs.count("\nsweep-momentum,") == 24 and ",momentum," in runs.splitlines()[0]
    assert (tmp_path / "table-13-sweep-momentum.csv").exists()
    assert "13. Momentum by learning rate: test accuracy" in capsys.readouterr().out
    text = (tmp_path / "report.html").read_text()
    assert text == page.render(document)
    assert len(re.findall('aria-label="Momentum by learning rate: validation loss"', text)) == 2   # (wide and narrow)
    part = document | {"complete": False}
    part["experiments"] = {**document["experiments"], "sweep-momentum": document["experiments"]["sweep-momentum"][:1],
                           "sweep-schedule": []}
    part["tables"] = laboratory_tables(part)
    page.render(part)
    with open("/dev/null", "w") as nowhere:
        report.print_tables(part, nowhere)
    for wrong, message in (("momentun", "a sweep is one of schedule, batch-size, momentum, warmup or all, got 'momentun'; did you"),
                           ("rate", "got 'rate'")):
        assert cli.main([*line, "--sweep", wrong]) == 2
        assert message in capsys.readouterr().err
    assert sweeps.sweep_names(["all", "momentum"]) == sweeps.NAMES


def laboratory_tables(document):
    from fastlr.study.tables import tables

    return json.loads(json.dumps(tables(document)))
