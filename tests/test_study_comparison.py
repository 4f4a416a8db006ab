"""Two studies compared: what changed is shown by a test that counts its comparisons, and what cannot be compared is said."""

import io
import json
import math
import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest
from test_study_tables import LRS, NETWORKS, SEEDS, WAYS, document  # noqa: F401  (a fixture)

from fastlr import cli
from fastlr.study import comparison, comparison_page, record, report
from fastlr.study.comparison import compare_studies, read_study, two_sided


def whole(made):
    return json.loads(json.dumps({"schema": record.SCHEMA, "schema_version": record.VERSION, **made}))


@pytest.fixture
def one(document):  # noqa: F811
    return whole(document)


@pytest.fixture
def other(document):  # noqa: F811
    return whole(document)


def changed(of, factor, chosen, experiments=("grid",)):
    """The validation losses of chosen runs, times a factor."""
    for name in experiments:
        for run in of["experiments"][name]:
            if run["validation_loss"] is not None and chosen(run):
                run["validation_loss"] *= factor
    return of


def rows(found, name):
    (of,) = (t for t in found["tables"] if t["name"] == name)
    return {row[0]["text"]: dict(zip(of["columns"][1:], (e["text"] for e in row[1:]), strict=True)) for row in of["rows"]}


def test_a_study_is_the_same_as_itself(one, other):
    found = compare_studies(one, other)
    for name in ("rates", "optimizers"):
        assert {row["result"] for row in rows(found, name).values()} == {"the same"}
        assert {row["p"] for row in rows(found, name).values()} == {"-"}
    assert set(rows(found, "rates")) == {"best of each", *(f"{lr:g}" for lr in LRS)}
    assert set(rows(found, "optimizers")) == {"sgd, held", "sgd, cosine to 0", "adam, held"} and len(WAYS) == 3
    assert {row["changed"] for row in rows(found, "best-rates").values()} == {"no"}
    assert found["tables"][3]["finding"] == "No verdict changed."
    assert (found["tested"], found["differences"]) == (0, [])
    assert found["tables"][0]["finding"] == "Every pair of runs ended with the same loss."
    assert "Their settings and versions are the same." in comparison.facts(found)


def test_one_rate_that_changed_is_found_and_the_others_are_not(one, other):
    """Six pairs that all fall on one side: p = 2 / 2^6."""
    found = compare_studies(one, changed(other, 0.999, lambda run: run["lr"] == 0.01))
    assert found["tested"] == 1
    assert rows(found, "rates")["0.01"] == {
        "pairs": "6", "A lower": "0", "B lower": "6", "median change": "-0.1 %", "lost: A, B": "0, 0", "p": "0.031",
        "result": "B lower"}
    assert rows(found, "rates")["0.1"]["result"] == "the same"
    assert rows(found, "optimizers")["sgd, held"] | {"median change": ""} == {
        "pairs": "9", "A lower": "0", "B lower": "3", "median change": "", "lost: A, B": "2, 2", "p": "-",
        "result": "too few pairs"}
    assert found["tables"][0]["finding"] == "B ended lower at rate 0.01."
    back = compare_studies(changed(one, 0.9, lambda run: run["lr"] == 0.01), other)
    assert back["tables"][0]["finding"] == "A ended lower at rate 0.01."


def test_p_is_corrected_for_the_number_of_comparisons(one, other):
    """Of two rates with six pairs each and a strategy with nine: 3, 2 and 1 times p; none is below 0.05 by itself."""
    found = compare_studies(one, changed(other, 0.5, lambda run: run["lr"] < 1))
    p = {name: row["p"] for name, row in rows(found, "rates").items()}
    own = rows(found, "optimizers")["sgd, held"]
    tested = [found["tables"][k]["rows"] for k in (0, 1)]
    raw = sorted(2 * 0.5 ** int(row[3]["text"]) for of in tested for row in of if row[-1]["p"] is not None)
    assert found["tested"] == len(raw) == 4                      # (the best of each is one of them)
    assert p["0.1"] == p["0.01"] == f"{max(4 * raw[0], 3 * raw[1]):.2g}" and own["result"] == "not shown"
    assert {rows(found, "rates")[name]["result"] for name in ("0.1", "0.01")} == {"not shown"}
    assert found["tables"][0]["finding"] == "No difference is shown."
    assert f"for all {found['tested']} comparisons" in found["tables"][0]["method"]


@pytest.mark.parametrize(("first", "pairs"), [(0, 6), (1, 9), (5, 10), (10, 10), (13, 20)])
def test_p_is_the_share_of_splits_at_least_as_uneven(first, pairs):
    splits = [bin(k).count("1") for k in range(2**min(pairs, 16))] if pairs <= 16 else None
    uneven = max(first, pairs - first)
    if splits:
        expected = sum(max(wins, pairs - wins) >= uneven for wins in splits) / 2**pairs
    else:
        expected = 2 * sum(math.comb(pairs, k) for k in range(uneven, pairs + 1)) / 2**pairs
    assert two_sided(first, pairs) == pytest.approx(min(1, expected))


def test_a_test_of_nothing_finds_something_in_few_studies():
    """Two sets of losses from one distribution: over 400 comparisons of 8 each, 5 % at most are found, within chance."""
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(400):
        made = []
        for _ in range(8):
            pairs = rng.normal(size=(15, 2)) ** 2
            runs = [tuple({"validation_loss": float(v), "diverged": False, "collapsed": False} for v in pair) for pair in pairs]
            made.append(comparison.Comparison("x", runs))
        comparison.corrected(made)
        wrong += any(found.verdict in ("A lower", "B lower") for found in made)
    assert wrong <= 400 * 0.05 + 2 * math.sqrt(400 * 0.05 * 0.95)


def test_a_network_that_was_lost_ended_worst(one, other):
    for run in other["experiments"]["grid"]:
        if run["lr"] == 0.01:
            run |= {"collapsed": True}
    found = rows(compare_studies(one, other), "rates")["0.01"]
    assert (found["A lower"], found["B lower"], found["lost: A, B"], found["median change"]) == ("6", "0", "0, 6", "-")


def test_each_at_its_best_rate_is_chosen_by_the_other_seeds(one, other):
    """B learns at a tenth of A's rates: at the same rates all differs, at the best of each nothing does."""
    for run in other["experiments"]["grid"] + other["experiments"]["strategies"]:
        run["lr"] *= 10
    found = compare_studies(one, other)
    assert set(rows(found, "rates")) == {"best of each", "0.1", "1"}
    assert rows(found, "rates")["best of each"]["result"] == "the same"
    best = [[e["text"] for e in row] for row in found["tables"][2]["rows"] if row[1]["text"] == "table 1"]
    assert [row[0] for row in best] == list(NETWORKS)
    for row in best:
        assert float(row[3]) == 10 * float(row[2]) and row[-1] == "yes"


def test_optimizers_that_are_not_the_same_are_compared_as_each_studys_own(one, other):
    other["settings"]["optimizer"] = "lion"
    other["strategies"] = {"lion, held": ["lion", None], "lion, cosine to 0": ["lion", "cosine(1, steps=8)"],
                           "adam": ["adam", None]}
    for run in other["experiments"]["grid"] + other["experiments"]["strategies"]:
        run["optimizer"] = run["optimizer"].replace("sgd", "lion")
    found = compare_studies(one, changed(other, 2, lambda run: run["optimizer"] == "lion", ("grid", "strategies")))
    assert list(rows(found, "optimizers")) == ["own, held", "own, cosine to 0", "adam, held"]
    assert rows(found, "optimizers")["own, cosine to 0"]["result"] == "A lower"
    assert rows(found, "optimizers")["adam, held"]["result"] == "the same"
    assert "“Own” is sgd in A and lion in B." in found["tables"][1]["finding"]
    assert ["optimizer", "sgd", "lion"] in found["differences"]


def test_a_verdict_that_changed_is_told(one, other):
    found = compare_studies(one, changed(other, 100, lambda run: True, ("decay",)))
    table = found["tables"][3]
    now = rows(found, "verdicts")["It can be set once and never adjusted."]
    assert now == {"A": "undecided", "B": "held here", "changed": "yes"}
    assert table["finding"] == "“It can be set once and never adjusted.” undecided in A, held here in B."


def test_scores_are_differences_of_the_same_seeds(one, other):
    for run in other["experiments"]["grid"]:
        if run["test_accuracy"] is not None:
            run["test_accuracy"] -= 0.01 * (1 + run["seed"])
    found = next(t for t in compare_studies(one, other)["tables"] if t["name"] == "scores")
    entry = found["rows"][1][1]
    assert entry["mean"] == pytest.approx(-2) and entry["spread"] == pytest.approx(1 / math.sqrt(3)) and entry["n"] == len(SEEDS)
    assert entry["text"] == "-2.0 ± 0.6"
    assert found["rows"][0][3]["text"] == "-2.0 (1 of 3)"          # (two were lost in both)


@pytest.mark.parametrize(("change", "message"), [
    ({"features": 5}, "of different tables, made up and made up: 4 and 5 features; their runs cannot be paired"),
    ({"train": 33}, "32 and 33 rows to train"),
    ({"regression": True}, "one has classes, the other a number to predict"),
    ({"name": "b.csv", "baseline": {"train_loss": 0.6}}, "made up and b.csv: as many rows, but other numbers in them"),
    ({"moments": [3.0, 4.0]}, "as many rows, but other numbers in them"),
])
def test_studies_of_different_tables_are_refused(one, other, change, message):
    one["data"]["moments"] = other["data"]["moments"] = [1.0, 4.0]
    baseline = other["data"]["baseline"] | change.pop("baseline", {})
    other["data"] |= change | {"baseline": baseline}
    with pytest.raises(ValueError, match=re.escape(message)):
        compare_studies(one, other)


def test_a_table_that_was_renamed_is_the_same(one, other):
    other["data"]["name"] = "renamed.csv"
    other["data"]["baseline"]["train_loss"] *= 1 + 1e-9             # (another machine's rounding)
    assert compare_studies(one, other)["tested"] == 0


def test_studies_without_a_run_in_common_are_refused(one, other):
    for name in ("grid", "strategies"):
        for run in other["experiments"][name]:
            run["network"] += "-x"
    with pytest.raises(ValueError, match="no network, rate and seed in common"):
        compare_studies(one, other)


def remove(of, *path):
    *outer, last = path
    for name in outer:
        of = of[name]
    del of[last]


@pytest.mark.parametrize(("change", "message"), [
    (lambda of: of.update(schema_version=1), "has version 1 of the format of studies, and fastlr .* reads version 2; run that"),
    (lambda of: of.update(schema_version=3), "version 3 .* update fastlr"),
    (lambda of: of.update(schema_version=None), "has version None .* run that study again"),
    (lambda of: of.update(schema="other"), "is not the results.json of a study, whose \"schema\" is 'fastlr-study'"),
    (lambda of: remove(of, "experiments"), "is damaged: it has no 'experiments'"),
    (lambda of: remove(of, "experiments", "decay"), "is damaged: it has no experiments 'decay'"),
    (lambda of: remove(of, "settings", "optimizer"), "is damaged: its settings have no rates or no optimizer"),
    (lambda of: remove(of, "data", "baseline"), "is damaged: it does not say which data it is about"),
    (lambda of: remove(of, "experiments", "grid", 3, "seed"), "is damaged: run 3 of 'grid' has no 'seed' that is one"),
    (lambda of: of["experiments"]["grid"].append(5), "is damaged: run 18 of 'grid' has no 'network' that is one"),
    (lambda of: of["experiments"]["grid"][0].update(lr=-1), "is damaged: run 0 of 'grid' has the rate -1"),
    (lambda of: of["experiments"]["grid"][1].update(validation_loss=None), "run 1 of 'grid' has no losses, and has not"),
    (lambda of: of["experiments"]["grid"][1].update(validation_loss=math.nan), "it has the number NaN"),
    (lambda of: of["experiments"]["escape"][1].update(escaped="some"), "run 1 of 'escape' has no rate or no share"),
])
def test_a_file_that_is_no_study_of_this_version_says_so(one, tmp_path, change, message):
    change(one)
    (tmp_path / "results.json").write_text(json.dumps(one))
    with pytest.raises(ValueError, match=message) as raised:
        read_study(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("content", "message"), [
    ("{", "is not the results.json of a study"), ("[]", "is not the results.json"), ("\xff", "is not the results.json"),
    ("[" * 100_000, "is not the results.json"),
])
def test_what_is_no_json_is_no_study(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        read_study(path)


def test_the_command_writes_a_page_and_prints_the_tables(one, other, tmp_path, capsys):
    for name, of in (("a", one), ("b", changed(other, 0.999, lambda run: run["lr"] == 0.01))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(of))
    line = ["study", "--compare", str(tmp_path / "a"), str(tmp_path / "b" / "results.json"), "--out", str(tmp_path / "c")]
    assert cli.main(line) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1. The same rates in both studies" in out and "B ended lower at rate 0.01." in out and "4. Verdicts" in out
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["comparison.html", "comparison.json"]
    assert cli.main([*line, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert "B ended lower" in shown.err
    for wrong, message in (
        (["--quick"], "--compare reads two studies and trains nothing; leave --quick out"),
        (["--batch-size", "3"], "leave --batch-size out"),
        (["--compare", str(tmp_path), str(tmp_path / "a")], f"--compare: {tmp_path} has no results.json"),
        (["--compare", str(tmp_path / "a"), str(tmp_path / "d")], f"--compare: {tmp_path / 'd'}: No such file or directory"),
        (["--compare", str(tmp_path / "a")], "argument --compare: expected 2 arguments"),
    ):
        assert cli.main([*line, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_the_page_is_by_itself_and_names_are_text(one, other):
    evil = "<b onclick='x'>&\"</b>"
    for of in (one, other):
        of["data"]["name"] = evil
        for run in of["experiments"]["grid"]:
            run["network"] = run["network"].replace("4-3", evil)
    other["settings"]["schedule"] = evil
    found = compare_studies(one, other, (evil, "b"))
    text = comparison_page.render(found, one, other)
    assert "<b onclick" not in text and "<script" not in text and "http:" not in text and "https:" not in text
    assert text.count("&lt;b onclick=") > 5
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len([svg for svg in svgs if "Validation loss by learning rate in two studies" in svg]) == len(NETWORKS)
    for svg in svgs:
        xml.fromstring(svg)


def test_eighty_columns_are_enough_for_every_word(one, other, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    other["settings"]["optimizer"] = "lion"
    found = compare_studies(one, changed(other, 1000, lambda run: run["lr"] < 1, ("grid", "strategies")))
    shown = Terminal()
    report.print_all(found["tables"], comparison.facts(found), shown)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = {word for line in lines for word in line.split()}
    for table in found["tables"]:
        assert set(" ".join([*table["columns"], *(e["text"] for row in table["rows"] for e in row)]).split()) <= words
