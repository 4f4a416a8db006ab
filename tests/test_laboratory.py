"""`fastlr study`, whole: its tables, its files, its page in a browser, and what a user can do wrong."""

import base64
import csv
import hashlib
import json
import math
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from cluster_trials import Deadly

from fastlr import cli, study
from fastlr.study import claims, laboratory, page, record, report
from fastlr.study.drawing import Scale, contrast
from fastlr.study.rates import rate
from fastlr.study.tables import tables

TINY = ["--quick", "--data", "wine", "--networks", "13-4-3-relu", "--lrs", "0.1", "--epochs", "2", "--seeds", "1"]


def fastlr(*arguments, environment, folder):
    return subprocess.run([sys.executable, "-m", "fastlr", *map(str, arguments)], cwd=folder, text=True,
                          env=environment | {"PYTHONUTF8": "1"}, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def quick(tmp_path_factory, environment):
    """One quick study by two processes, as a user runs it."""
    folder = tmp_path_factory.mktemp("quick")
    done = fastlr("study", "--quick", "--json", "--jobs", 2, environment=environment, folder=folder)
    assert done.returncode == 0, done.stderr
    return done, folder / "fastlr-study"


@pytest.fixture(scope="module")
def document(quick):
    return json.loads((quick[1] / "results.json").read_text())


def table(document, number):
    return document["tables"][number - 1]


# the whole


def test_a_quick_study_learns_digits(document):
    """The bar: 94 %. Nets of this size reach 97 %, with a standard error of 0.9 % on 359 test images.

    The bar stands three of these below; a wrong gradient or step does not come near it.
    """
    *rows, baseline = table(document, 1)["rows"]
    best = {row[0]["text"]: max(entry["mean"] for entry in row[1:] if "mean" in entry) for row in rows}
    assert baseline[0]["text"] == "most frequent class"
    assert list(best) == list(study.NETWORKS)
    assert min(best.values()) > 94
    assert {activation for name in best for activation in name.split("-")[-1:]} == {"relu", "tanh", "sigmoid"}


def test_it_has_all_twelve_tables_and_they_hold_what_they_say(document):
    assert (document["schema"], document["schema_version"], document["complete"]) == ("fastlr-study", 2, True)
    assert document["done"] == document["planned"] == sum(map(len, document["experiments"].values()))
    assert [t["number"] for t in document["tables"]] == list(range(1, 13))
    assert [len(t["rows"]) for t in document["tables"]] == [6, 5, 5, 5, 6, 3, 5, 6, 4, 6, 8, 3]
    for t in document["tables"]:
        assert t["finding"] and t["method"]
        assert {len(row) for row in t["rows"]} == {len(t["columns"])}
        for entry in (e for row in t["rows"] for e in row):
            assert entry["text"]
            assert entry.get("mean") is None or math.isfinite(entry["mean"])
    assert min(run["starts"] for run in document["experiments"]["escape"]) >= 1000
    assert all(run["seed"] == 0 or run["seed"] == 1 for run in document["experiments"]["grid"])
    assert {entry["n"] for row in table(document, 1)["rows"] for entry in row[1:3] if "n" in entry} == {2}


def test_an_entry_is_the_mean_and_the_spread_of_its_runs(document):
    runs = [r for r in document["experiments"]["grid"] if r["network"] == study.NETWORKS[2] and r["lr"] == 0.1]
    accuracies = [100 * r["test_accuracy"] for r in runs]
    entry = table(document, 1)["rows"][2][1 + document["settings"]["lrs"].index(0.1)]
    assert entry["mean"] == pytest.approx(np.mean(accuracies), rel=1e-12)
    assert entry["spread"] == pytest.approx(np.std(accuracies, ddof=1), rel=1e-12)
    assert entry["text"] == f"{np.mean(accuracies):.1f} ± {np.std(accuracies, ddof=1):.1f}"
    escape = document["experiments"]["escape"][2]
    entry = table(document, 7)["rows"][0][3]
    assert (entry["mean"], entry["n"]) == (100 * escape["escaped"], escape["starts"])


def test_json_on_stdout_is_the_document_and_the_tables_go_to_stderr(quick, document):
    done, folder = quick
    assert json.loads(done.stdout) == document
    assert all(t["title"] in done.stderr for t in document["tables"])
    assert "…" not in done.stderr
    assert re.search(r"^\[ *\d+/351\] ", done.stderr, re.MULTILINE)
    assert f"Written to {folder.name}" in done.stderr


def test_tables_and_page_follow_from_the_document_alone(quick, document):
    stored = {key: value for key, value in document.items() if key != "tables"}
    assert json.loads(json.dumps(tables(stored))) == document["tables"]
    assert page.render(document) == (quick[1] / "report.html").read_text()


def test_the_csv_files_say_the_same(quick, document):
    folder = quick[1]
    for t in document["tables"]:
        with (folder / f"table-{t['number']:02}-{t['name']}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row[t["columns"][0]] for row in rows] == [row[0]["text"] for row in t["rows"]]
        for read, row in zip(rows, t["rows"], strict=True):
            for column, entry in zip(t["columns"], row, strict=True):
                assert read[column] == entry["text"]
                if entry.get("mean") is not None:
                    assert float(read[f"{column} mean"]) == entry["mean"]
    with (folder / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    found = document["experiments"]
    assert len(runs) == len(found["grid"] + found["ladder"] + found["decay"] + found["strategies"])
    for read, run in zip(runs, found["grid"], strict=False):
        assert read["test_accuracy"] == ("" if run["test_accuracy"] is None else str(run["test_accuracy"]))
    assert len((folder / "curves.csv").read_text().splitlines()) == 1 + sum(
        len(run["curve"]["train_loss"]) for name in ("grid", "ladder", "decay", "strategies") for run in found[name])
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


# the same again


def decided(document):
    """All that a seed decides: without what the machine and the moment do."""
    kept = {name: value for name, value in document.items() if name != "environment"}
    kept["tables"] = [t for t in document["tables"] if not t["timed"]]
    kept["experiments"] = {name: [{k: v for k, v in run.items() if k != "machine"} for run in runs]
                           for name, runs in document["experiments"].items()}
    return kept


@pytest.fixture(scope="module")
def tiny_alone(tmp_path_factory):
    """The smallest study, by one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert cli.main(["study", *TINY, "--jobs", "1", "--out", str(folder)]) == 0
    return json.loads((folder / "results.json").read_text())


def test_the_same_settings_are_the_same_bits_by_one_process_or_two(tmp_path, tiny_alone, capsys):
    assert cli.main(["study", *TINY, "--jobs", "2", "--out", str(tmp_path)]) == 0
    assert decided(json.loads((tmp_path / "results.json").read_text())) == decided(tiny_alone)
    assert len(decided(tiny_alone)["tables"]) == 8
    capsys.readouterr()


def test_seeds_optimizer_and_schedule_are_the_given_ones(tmp_path, capsys):
    line = [*TINY, "--seeds", "2", "--jobs", "1", "--optimizer", "adam", "--schedule", "cosine(1, steps=updates)"]
    assert cli.main(["study", *line, "--batch-size", "10", "--target-loss", "1.5", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["experiments"]
    assert [(r["seed"], r["optimizer"], r["schedule"], r["batch_size"], r["target_loss"], r["updates"])
            for r in found["grid"]] == [(s, "adam", "cosine(1, steps=updates)", 10, 1.5, 20) for s in (0, 1)]
    assert found["grid"][0]["followed"] == "cosine(lr=1.0, steps=20, final=0.0, end='hold') * 0.1"
    assert found["grid"][0]["train_loss"] != found["grid"][1]["train_loss"]
    out = capsys.readouterr().out
    assert "adam by cosine(1, steps=updates), 2 epochs, batches of 10, seeds 0 to 1" in " ".join(out.split())


# cut short


def test_an_interrupt_leaves_what_is_finished(tmp_path, environment):
    """A real SIGINT to the whole process group, as a terminal sends it; and another one while files are written."""
    running = subprocess.Popen(
        [sys.executable, "-m", "fastlr", "study", "--jobs", "2", "--out", "here"], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        while "[" not in running.stderr.readline():
            pass
        time.sleep(0.5)
        os.killpg(running.pid, signal.SIGINT)
        time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=120)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    found = re.search(r"fastlr study: interrupted after (\d+) of 486 experiments", err)
    document = json.loads((tmp_path / "here" / "results.json").read_text())
    assert not document["complete"]
    assert document["done"] == int(found[1]) == sum(map(len, document["experiments"].values())) >= 1
    assert "Interrupted" in (tmp_path / "here" / "report.html").read_text()
    assert not [path for path in (tmp_path / "here").iterdir() if path.name.startswith(".")]
    with pytest.raises(ProcessLookupError):  # no worker is left
        for _ in range(100):
            os.killpg(running.pid, 0)
            time.sleep(0.1)


def test_a_budget_ends_a_study_with_what_is_done(tmp_path, capsys):
    assert cli.main(["study", *TINY, "--jobs", "1", "--budget", "1e-9", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert not document["complete"] and document["done"] == 1
    assert "fastlr study: 1 of " in capsys.readouterr().err
    assert cli.main(["study", *TINY, "--budget", "0"]) == 2
    assert capsys.readouterr().err == "fastlr study: --budget must be seconds above 0, got 0\n"


@pytest.mark.parametrize("kept", [0, 1, 2, 5, 13, 40, 150, 260])
def test_however_little_there_is_it_can_be_told(document, kept):
    part = json.loads(json.dumps(document)) | {"complete": False, "done": kept}
    left = kept
    for name in ("escape", "ladder", "strategies", "memory", "descent", "decay", "grid"):
        part["experiments"][name] = part["experiments"][name][:left]
        left -= len(part["experiments"][name])
    part["tables"] = tables(part)
    assert len(part["tables"]) == 12
    text = page.render(part)
    assert f"Interrupted: {kept} of 351 experiments" in text
    with open(os.devnull, "w") as nowhere:
        report.print_tables(part, nowhere)
    if not kept:
        assert {t["finding"] for t in part["tables"][:11]} == {"No run of it is finished."}
        assert {row[1]["text"] for row in part["tables"][11]["rows"]} == {"undecided"}


def test_a_diverged_run_is_told_as_that(tmp_path, capsys):
    """1e30 diverges within an epoch; everything is still told, in strict JSON."""
    line = [*TINY, "--lrs", "0.1", "1e30", "--jobs", "1", "--out", str(tmp_path)]
    assert cli.main(["study", *line]) == 0
    document = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    for number in (1, 2, 3, 4, 5, 10):
        assert table(document, number)["rows"][0][2]["text"] == "diverged"
    assert "'Diverged': the loss stopped being finite, or ended above where it began." in " ".join(
        capsys.readouterr().out.split())


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    record.write_whole(path, "first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~record.umask()

    def full(*_):
        raise OSError(28, "No space left on device")

    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, full)
            with pytest.raises(OSError, match="No space"):
                record.write_whole(path, "second")
        assert path.read_text() == "first"
        assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_is_one_line(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(laboratory, "run_tasks", lambda *_: [])
    monkeypatch.setattr(os, "replace", full)
    assert cli.main(["study", *TINY, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"fastlr study: --out {tmp_path}: No space left on device"
    assert list(tmp_path.iterdir()) == []


# what is no study


@pytest.mark.parametrize(("line", "message"), [
    ("--data irs", "data: one of digits, wine, breast_cancer, diabetes, or a .csv or .npz file, got 'irs'"),
    ("--data wime", "did you mean 'wine'?"),
    ("--data none.csv", "fastlr study: data: none.csv: No such file"),
    ("--data text.csv --target lable", "text.csv: no column is called 'lable'; did you mean 'label'?"),
    ("--data gap.csv", "gap.csv: 2 classes in 2 rows; each class needs 5 rows at least"),
    ("--data digits --target pixel", "data: --target names a column of a .csv file, and digits is none"),
    ("--data one.csv", "one.csv: labels must be of two classes at least, got 1"),
    ("--data many.csv", "many.csv: 30 classes in 30 rows"),
    ("--lrs nan", "fastlr study: a learning rate must be positive and finite, got nan"),
    ("--lrs 0.1 0", "fastlr study: a learning rate must be positive and finite, got 0.0"),
    ("--schedule cosine(1", "fastlr study: expression: '(' was never closed"),
    ("--schedule constant(0.1).every(0)", "fastlr study: "),
    ("--target-loss nan", "fastlr study: the target loss must be positive, got nan"),
    ("--batch-size 5000", "fastlr study: batch_size must be at most 1078, the training rows, got 5000"),
    ("--networks 64-99999999-10-relu", "fastlr study: a network is its widths and one of"),
    ("--jobs 0", "fastlr study: argument --jobs: must be a whole number from 1 up, got '0'"),
    ("--out text.csv", "fastlr study: --out text.csv: File exists"),
    ("--out text.csv/in", "fastlr study: --out text.csv/in: Not a directory"),
    ("--out /proc/nowhere/in", "fastlr study: --out /proc/nowhere/in: No such file or directory"),
])
def test_a_wrong_argument_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    rows = [f"{k},1,{'xy'[k % 2]}" for k in range(30)]
    for name, content in {
        "text": ["a,b,label", rows[0], "1,red,x"], "gap": ["a,b,label", rows[0], ",2,y"],
        "one": [f"{k},1,x" for k in range(30)], "many": [f"{k},1,a{k}" for k in range(30)],
    }.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(content))
    before = sorted(tmp_path.iterdir())
    assert cli.main(["study", *line.split(maxsplit=1)] if "schedule" in line else ["study", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_takes_no_files_is_refused_and_not_left_behind(tmp_path, monkeypatch, capsys):
    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(record.tempfile, "TemporaryFile", refused)
    assert cli.main(["study", *TINY, "--out", str(tmp_path / "a" / "b")]) == 2
    assert capsys.readouterr().err == f"fastlr study: --out {tmp_path / 'a' / 'b'}: Permission denied\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["rich.console", "jinja2", "contourpy", "sklearn.datasets", "threadpoolctl"])
def test_what_is_missing_is_said_before_the_first_experiment(tmp_path, environment, module):
    program = f"import sys; sys.modules[{module!r}] = None; from fastlr.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, "study", "--quick"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "pip install 'fastlr-core[lab]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_package_itself_needs_numpy_alone(environment):
    program = ("import sys; from fastlr import study; study.Cell(); "
               "print(sorted({'sklearn', 'rich', 'jinja2', 'matplotlib', 'contourpy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# the claims


def runs_of(losses, updates=None, network="a", **common):
    """Made-up runs: {rate: [a value a seed]}; None is a run that diverged, "dead" one that collapsed."""
    return [
        {"network": network, "lr": lr, "seed": seed, "diverged": loss is None, "collapsed": loss == "dead",
         "validation_loss": 2.3 if loss == "dead" else loss,
         "updates_to_target": None if updates is None else updates[lr][seed], "optimizer": "sgd", "schedule": None} | common
        for lr, values in losses.items() for seed, loss in enumerate(values)
    ]


def verdicts(**experiments):
    return [claim["verdict"] for claim in claims.claims(experiments)]


def test_the_sign_test_and_holms_correction_are_those_of_the_books():
    stats = pytest.importorskip("scipy.stats")
    for wins, pairs in ((9, 9), (8, 9), (3, 6), (0, 4)):
        assert claims.sign_test(wins, pairs) == pytest.approx(stats.binomtest(wins, pairs, alternative="greater").pvalue)
    assert claims.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert claims.holm([0.5, 0.9]) == [1.0, 1.0]


def test_a_true_claim_is_refuted_in_few_studies_however_much_is_compared():
    """Losses of noise alone: no rate is better than another. Twelve comparisons at 1/8 each would refute 4 of 5."""
    rng, refuted = np.random.default_rng(0), 0
    for _ in range(300):
        pairs = {k: [tuple(rng.random(2)) for _ in range(9)] for k in range(12)}
        refuted += claims.compare(pairs)[0] == "refuted"
    assert refuted < 0.05 * 300 + 3 * (300 * 0.05 * 0.95) ** 0.5


def three(make):
    """The runs of three networks, made by their number."""
    return [run for k in range(3) for run in make(k)]


@pytest.mark.parametrize(("high", "verdict"), [
    ([50, 40, 45], "held here"),
    ([150, 140, 145], "refuted"),
    ([None, None, None], "refuted"),          # never there is slower
    ([150, 40, 45], "undecided"),             # seeds contradict each other: 3 of 9
])
def test_the_verdict_on_higher_is_faster_follows_from_the_updates(high, verdict):
    runs = three(lambda k: runs_of({0.1: [1.0] * 3, 1.0: [1.0] * 3}, {0.1: [100, 90, 95], 1.0: high}, network=f"n{k}"))
    found = claims.claims({"ladder": runs})[0]
    assert found["verdict"] == verdict
    assert "1 pair of rates tested, by 9 pairs of runs each." in found["evidence"]
    if verdict == "refuted":
        assert found["evidence"][0] == ("At 1 the target took more updates than at 0.1, or was never reached, in 9 of 9 "
                                        "pairs of runs (p = 0.002).")
    assert verdicts(ladder=runs[:6])[0] == "undecided"                                         # 3 pairs are no test
    assert verdicts(ladder=[run | {"updates_to_target": None} for run in runs])[0] == "undecided"


def test_a_network_that_collapsed_did_not_converge():
    runs = three(lambda k: runs_of({0.1: [1.0] * 3, 1.0: ["dead"] * 3}, {0.1: [100] * 3, 1.0: [10] * 3}, network=f"n{k}"))
    assert verdicts(ladder=runs)[0] == "refuted"


@pytest.mark.parametrize(("losses", "verdict"), [
    ({0.01: [2.0, 2.1, 2.2], 0.1: [1.0, 1.1, 1.2], 1.0: [1.5, 1.6, 1.7]}, "refuted"),      # the higher mistake costs less
    ({0.01: [1.5, 1.6, 1.7], 0.1: [1.0, 1.1, 1.2], 1.0: [2.0, 2.1, 2.2]}, "held here"),
    ({0.01: [1.5, 1.6, 1.7], 0.1: [1.0, 1.1, 1.2], 1.0: [2.0, None, 2.2]}, "held here"),   # to diverge is to end worse
    ({0.01: [2.5, 2.6, 2.7], 0.1: [1.0, 1.1, 1.2], 1.0: ["dead"] * 3}, "held here"),       # and so is to collapse
    ({0.01: [2.0, 1.6, 1.7], 0.1: [1.0, 1.1, 1.2], 1.0: [1.5, 1.7, 1.8]}, "undecided"),    # 3 of 9
    ({0.01: [2.0, 2.1, 2.2], 0.1: [1.0, 1.1, 1.2]}, "undecided"),                          # nothing above the best
    ({0.001: [3.0] * 3, 0.01: [1.5, 1.6, 1.7], 0.1: [1.0, 1.1, 1.2], 1.0: [2.0, 2.1, 2.2], 10.0: [2.5] * 3}, "refuted"),
])
def test_the_verdict_on_low_is_safe_follows_from_mistakes_of_the_same_size(losses, verdict):
    runs = three(lambda k: runs_of(losses, network=f"n{k}"))
    found = claims.claims({"ladder": runs})[1]
    assert found["verdict"] == verdict
    if len(losses) == 5:
        assert found["evidence"][0] == ("2 rates of the ladder from the best rate the lower one ended with the higher "
                                        "validation loss in 9 of 9 pairs of runs (p = 0.0039 after correction for 2).")
        assert found["evidence"][1] == "2 distances tested, by 9 pairs of runs each."
        assert found["evidence"][2].startswith("Of all 18 pairs") and found["evidence"][2].endswith("validation loss in 9.")


def test_the_best_rate_is_chosen_by_other_seeds():
    """By the luck of seed 0 the mean of all is best at 0.1; for that seed itself the others choose 1."""
    losses = {0.01: [3.0] * 3, 0.1: [0.1, 1.3, 1.3], 1.0: [1.0] * 3, 10.0: [2.5] * 3}
    found = claims.claims({"ladder": three(lambda k: runs_of(losses, network=f"n{k}"))})[1]
    assert any(line.startswith("Of all 9 pairs") and line.endswith("validation loss in 6.") for line in found["evidence"])


@pytest.mark.parametrize(("decayed", "verdict"), [
    ([0.5, 0.6, 0.7], "refuted"),
    ([1.5, 1.6, 1.7], "held here"),
    ([0.5, 1.6, 1.7], "undecided"),
    ([None, None, None], "undecided"),           # no best rate that decays
])
def test_the_verdict_on_once_and_never_again_follows_from_schedules_alone(decayed, verdict):
    held = three(lambda k: runs_of({0.1: [1.0, 1.1, 1.2], 1.0: [1.2, 1.3, 1.4]}, network=f"n{k}"))
    decaying = three(lambda k: runs_of({0.1: decayed, 1.0: [9.0] * 3}, network=f"n{k}", schedule="cosine(1, steps=9)"))
    if decayed[0] is None:
        decaying = [run for run in decaying if run["lr"] == 0.1]
    found = claims.claims({"ladder": held, "decay": decaying})[2]
    assert found["verdict"] == verdict
    if verdict == "refuted":
        assert "lower validation loss than the best held rate in 9 of 9 pairs of runs (p = 0.002)" in found["evidence"][0]
    elif verdict == "held here":
        assert "in 0 of 9 pairs of runs (p = 0.002)" in found["evidence"][0]
    elif decayed[0]:
        assert "in 3 of 9 pairs of runs (p = 0.91)" in found["evidence"][0]
    # another network wants another rate: that alone refutes nothing
    apart = three(lambda k: runs_of({0.1: [1.0, 1.1, 1.2], 1.0: [0.1 if k else 9.0] * 3}, network=f"n{k}"))
    assert claims.claims({"ladder": apart})[2]["verdict"] == "undecided"


# the page


def test_a_name_from_outside_is_text_and_nothing_else(tmp_path, capsys):
    name = "<img src=x onerror=alert(1)> & 'so'.csv"
    (tmp_path / name).write_text("\n".join(f"{k},{k % 3},{'ab'[k % 2]}" for k in range(60)))
    line = ["--data", str(tmp_path / name), "--networks", "2-3-2-relu", "--jobs", "1", "--out", str(tmp_path / "out")]
    assert cli.main(["study", *TINY[:1], *TINY[5:], *line]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt; &amp; &#39;so&#39;.csv" in text
    capsys.readouterr()


def test_colours_stand_out_from_what_they_are_drawn_on():
    """WCAG 2.1: 4.5 for text, 3 for what is drawn."""
    for theme in (page.LIGHT, page.DARK):
        for ground in ("page", "card"):
            for text in ("text", "muted", "link", "good", "bad", "open"):
                assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        made = page.css_variables(theme, 5)
        for name in (f"{kind}{k}" for kind in "cr" for k in range(5)):
            assert contrast(made[name], theme["card"]) >= 3, (name, made[name])
    assert all(contrast(page.text_color(colour), colour) >= 4.5 for colour in page.HEAT)


@pytest.mark.parametrize(("low", "high", "log"), [(1e-4, 10, True), (0.02, 3, True), (0.9, 1.1, True), (0, 80, False),
                                                  (0, 0.003, False), (-0.2, 0.7, False), (1.1, 1.3, True), (3, 4.9, True), (2.1, 4.9, True), (5, 5, True), (5, 5, False)])
def test_ticks_are_round_few_and_on_the_axis(low, high, log):
    scale = Scale(low, high, 10, 300, log)
    ticks = scale.ticks(6)
    assert 2 <= len(ticks) <= 7             # (one number says nothing of a scale)
    slack = 1e-3 * max(abs(low), abs(high))
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)
    places = [scale(tick) for tick in ticks]
    assert places == sorted(places) and places[0] >= 10 and places[-1] <= 300
    assert [scale(scale.low), scale(scale.high)] == pytest.approx([10, 300])


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_in_a_browser_by_itself(browser, quick, document, scheme, width):
    """No request, no complaint, nothing wider than the screen, and colours that follow the reader's."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
    address = (quick[1] / "report.html").as_uri()
    browser.get_log("performance")
    browser.get(address)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {address}
    seen = browser.execute_script("""
        const shown = element => element.getClientRects().length > 0;
        const hex = colour => '#' + colour.match(/\\d+/g).slice(0, 3).map(n => (+n).toString(16).padStart(2, '0')).join('');
        return {
            wide: document.documentElement.scrollWidth, ground: hex(getComputedStyle(document.body).backgroundColor),
            text: hex(getComputedStyle(document.body).color), tables: document.querySelectorAll('table').length,
            links: [...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.getAttribute('href'))).length,
            outside: [...document.querySelectorAll('svg')].filter(shown).filter(svg => {
                const box = svg.getBoundingClientRect();
                return [...svg.querySelectorAll('text')].filter(shown).some(text => {
                    const own = text.getBoundingClientRect();
                    return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1; }); }).length,
            small: Math.min(...[...document.querySelectorAll('svg text')].filter(shown)
                .map(text => text.getBoundingClientRect().height)),
            titles: [...document.querySelectorAll('h2')].map(h => h.textContent.replace(/^\\d+/, '')),
            dots: [...document.querySelectorAll('.points')].filter(shown).length,
        };""")
    theme = page.LIGHT if scheme == "light" else page.DARK
    assert (seen["ground"], seen["text"]) == (theme["page"], theme["text"])
    assert seen["wide"] == width
    assert seen["titles"] == ["The loss by rate"] + [t["title"] for t in document["tables"]]
    assert (seen["tables"], seen["links"], seen["outside"], seen["dots"]) == (11, 0, 0, 5)
    assert seen["small"] >= 10  # pixels: the text of a picture is not shrunk with it


def test_another_rate_shows_other_points(browser, quick):
    browser.get((quick[1] / "report.html").as_uri())
    shown = "return [...document.querySelectorAll('.points')].filter(g => g.getClientRects().length).map(g => g.className.baseVal)"
    assert browser.execute_script(shown) == ["points p2"] * 5          # (0.1, at which most reach a global minimum)
    browser.execute_script("document.querySelector('label[for=rate-0]').click()")
    assert browser.execute_script(shown) == ["points p0"] * 5


STATE = """
    const lands = document.querySelector('.lands'), lines = [...lands.querySelectorAll('.points.p2 .trail')];
    return {
        moving: lands.classList.contains('moving'), told: lands.querySelector('output').textContent,
        button: lands.querySelector('.motion button').textContent, hidden: lands.querySelector('.motion').hidden,
        lines: lines.map(line => line.getAttribute('points')),
        shown: lines.filter(line => getComputedStyle(line).display !== 'none').length,
        heads: lines.map(line => [line.nextElementSibling.getAttribute('cx'), line.nextElementSibling.getAttribute('cy')].join()),
    };"""
LATER = """
    const done = arguments[arguments.length - 1], lands = document.querySelector('.lands');
    document.documentElement.style.scrollBehavior = 'auto';
    lands.querySelector('svg').scrollIntoView();
    let left = 30;                                      // pictures, of which the browser draws sixty a second
    const count = () => --left ? requestAnimationFrame(count) : done(lands.classList.contains('moving'));
    requestAnimationFrame(count);"""


def opened(browser, quick, motion):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "light"}, {"name": "prefers-reduced-motion", "value": motion}]})
    browser.get((quick[1] / "report.html").as_uri())
    return browser.execute_script(STATE)


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_the_landscapes_move_by_themselves_only_where_motion_is_wanted(browser, quick, motion, moves):
    before = opened(browser, quick, motion)
    assert (before["moving"], before["button"], before["hidden"], before["told"]) == (False, "Play", False, "after 1,000 updates")
    assert (len(before["lines"]), before["shown"]) == (25, 10)      # (still pictures, of two whole paths each)
    assert browser.execute_async_script(LATER) is moves
    after = browser.execute_script(STATE)
    assert (after["lines"] == before["lines"]) is not moves
    assert (after["button"], after["shown"]) == (("Stop", 25) if moves else ("Play", 10))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_motion_is_started_stopped_and_set_by_its_controls(browser, quick):
    whole = opened(browser, quick, "reduce")
    click = "document.querySelector('.motion button').click()"
    browser.execute_script(click)                                   # (asked for, it moves)
    assert browser.execute_async_script(LATER) is True
    browser.execute_script(click)
    stopped = browser.execute_script(STATE)
    assert stopped["button"] == "Play" and stopped["moving"] and stopped["told"].endswith(" of 1,000")
    assert stopped["lines"] != whole["lines"]
    browser.execute_async_script(LATER)
    assert browser.execute_script(STATE) == stopped
    browser.execute_script(click)                                   # (from where it was)
    browser.execute_async_script(LATER)
    went_on = browser.execute_script(STATE)["told"]
    number = [int(re.search(r"update ([\d,]+) of", told)[1].replace(",", "")) for told in (stopped["told"], went_on)]
    assert 0 < number[0] < number[1]
    put = """const slider = document.querySelector('.motion input');
             slider.value = arguments[0]; slider.dispatchEvent(new Event('input'))"""
    browser.execute_script(put, 0)
    first = browser.execute_script(STATE)
    assert (first["told"], first["button"]) == ("update 0 of 1,000", "Play")
    assert first["heads"] == [line.split()[0] for line in whole["lines"]] and len(set(first["heads"])) == 5
    browser.execute_script(put, 30)
    middle = browser.execute_script(STATE)
    assert middle["told"] == "update 250 of 1,000"                  # (half of the frames: a quarter of the updates)
    assert middle["heads"] == [line.split()[30] for line in whole["lines"]]
    browser.execute_script("document.querySelector('label[for=rate-0]').click()")
    assert browser.execute_script(STATE)["lines"] == whole["lines"]  # (another rate moves; this one is whole again)
    browser.execute_script(put, 60)
    ended = browser.execute_script(STATE)
    assert (ended["moving"], ended["told"]) == (False, "after 1,000 updates")


def test_the_page_admits_its_own_script_alone_and_is_still_without_it(quick):
    text = (quick[1] / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    assert '<div class="motion" hidden>' in text


def test_a_worker_that_is_killed_costs_nothing(tmp_path, monkeypatch, tiny_alone, capsys):
    """A real SIGKILL to a real worker at work, once: what it was at is done again, and the study is the same."""
    run_tasks, killed = laboratory.run_tasks, []

    def with_a_kill(planned, data, jobs, note):
        def noted(*outcome):
            note(*outcome)
            if not killed:
                killed.append(multiprocessing.active_children()[0])
                killed[0].kill()

        return run_tasks(planned, data, jobs, noted)

    monkeypatch.setattr(laboratory, "run_tasks", with_a_kill)
    assert cli.main(["study", *TINY, "--jobs", "2", "--out", str(tmp_path)]) == 0
    assert killed[0].exitcode == -signal.SIGKILL
    assert decided(json.loads((tmp_path / "results.json").read_text())) == decided(tiny_alone)
    capsys.readouterr()


def test_an_experiment_that_is_killed_twice_is_left_out():
    cells = [study.Cell("13-4-3-relu", lr, 0, "sgd", 1, 32) for lr in (0.1, 0.2)]
    found = {}
    missing = laboratory.run_tasks({"grid": [Deadly(), *cells]}, study.load("wine"), 2,
                                 lambda name, k, outcome: found.update({k: outcome.cell}))
    assert missing == [("grid", 0)] and found == {1: cells[0], 2: cells[1]}
    assert multiprocessing.active_children() == []


def test_a_study_whose_workers_all_die_ends():
    with pytest.raises(laboratory.BrokenExecutor, match="3 experiments were killed twice"):
        laboratory.run_tasks({"grid": [Deadly()] * 9}, study.load("wine"), 2, lambda *_: pytest.fail("nothing is done"))
    assert multiprocessing.active_children() == []


def test_what_is_left_out_is_named(tmp_path, monkeypatch, capsys):
    def run_tasks(planned, data, jobs, note):
        note("grid", 0, planned["grid"][0].execute(data))
        return [("grid", 1), ("memory", 0)]

    monkeypatch.setattr(laboratory, "run_tasks", run_tasks)
    assert cli.main(["study", *TINY, "--seeds", "2", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert ("fastlr study: 1 of 137 experiments; missing, as killed twice: "
            "grid, 13-4-3-relu lr 0.1 seed 1; memory, 13-4-3-relu sgd lr 0.1 memory\n") in err
    assert not json.loads((tmp_path / "results.json").read_text())["complete"] and "Written to" in out


def test_the_plan_is_the_five_networks_for_any_data():
    data = study.load("wine")
    networks = laboratory.default_networks(data)
    assert networks[0] == "13-32-3-relu" and len(set(networks)) == 5
    planned = laboratory.plan(replace(laboratory.Settings(), networks=networks), data)
    assert {name: len(tasks) for name, tasks in planned.items()} == {
        "grid": 125, "ladder": 99, "decay": 72, "strategies": 90, "descent": 45, "escape": 25, "memory": 30}
    assert {(task.starts, task.steps, task.noise, task.optimizer) for task in planned["escape"]} == {(2000, 2000, 2.0, "sgd")}
    odd = laboratory.plan(replace(laboratory.Settings(), networks=networks, starts=1200, steps=70), data)
    assert {(task.starts, task.steps) for task in odd["escape"]} == {(1200, 70)}
    quick = laboratory.plan(replace(laboratory.Settings(**laboratory.QUICK), networks=networks), data)
    assert {(task.starts, task.steps) for task in quick["escape"]} == {(1000, 1000)}
    ways = laboratory.strategies(laboratory.Settings(), 100)
    assert ways["sgd, halved 3 times"] == ("sgd", "step_decay(1, factor=0.5, every=25)")
    ends = {name: rate(1.0, way[1], 100) for name, way in ways.items() if way[1]}
    assert {name: round(float(made(99)), 3) for name, made in ends.items()} == {
        "sgd, halved 3 times": 0.125, "sgd, exponential to 5 %": 0.051, "sgd, cosine to 0": 0.0}
    assert {task.network.rpartition("-")[2] for task in planned["descent"]} == {"relu", "tanh", "sigmoid"}
    assert len({task.network for task in planned["memory"]}) == 2
