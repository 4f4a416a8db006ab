"""`fastlr find`, `diagnose`, `watch` and `bench` as a user meets them."""
import json
import re
import sys

import numpy as np
import pytest

import fastlr
from fastlr import cli

QUICK = ["--steps", "90", "--repeats", "2", "--trial-steps", "20"]


def test_find_prints_a_table_and_draws(capsys, tmp_path):
    pytest.importorskip("sklearn")
    picture = tmp_path / "found.png"
    line = ["find", "--data", "wine", "--network", "tanh", "--optimizer", "adamw", *QUICK, "--out", str(picture)]
    assert cli.main(line) == 0
    out, err = capsys.readouterr()
    assert out.startswith("wine, 13-32-3-tanh, adamw: ")
    assert "█" in out
    for rule in ("steepest", "valley", "slide", "minimum", "middle", "bracket"):
        assert f"\n  {rule} " in out
    assert "   range over 2 sweeps\n" in out
    assert " updates, model unchanged\n" in out and "\n  chosen: best short training\n" in out
    assert max(map(len, out.splitlines())) <= 79
    assert 1e-4 < float(out.splitlines()[-1].removeprefix("lr = ")) < 1
    assert err == ""
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_find_takes_a_table_and_its_target(capsys, tmp_path):
    rng = np.random.default_rng(0)
    table = tmp_path / "mine.csv"
    rows = [f"{area:.3f},{2 * area + rng.normal():.3f},{rng.normal():.3f}" for area in rng.uniform(1, 9, 200)]
    table.write_text("\n".join(["area,price,noise", *rows, ""]))
    for more in ["--target", "price"], []:             # (without it the last column, noise, which nothing predicts)
        assert cli.main(["find", "--data", str(table), *QUICK, *more, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["problem"] == "mine.csv, 2-32-1-relu, sgd"
        assert (min(trial["loss"] for trial in document["trials"]) < 0.2) == bool(more)
    assert cli.main(["find", "--data", str(table), "--target", "prise"]) == 2
    assert "no column is called 'prise'; did you mean 'price'?" in capsys.readouterr().err


def test_find_writes_json_the_same_each_time(capsys):
    pytest.importorskip("sklearn")
    documents = []
    for _ in range(2):
        assert cli.main(["find", "--network", "64-16-10-relu", *QUICK, "--json"]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1]
    assert documents[0]["problem"] == "digits, 64-16-10-relu, sgd"
    assert cli.main(["find", "--network", "64-16-10-relu", *QUICK, "--json", "--seed", "1", "--lr-max", "5"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["before"] != documents[0]["before"]
    assert other["lrs"][-1] == pytest.approx(5)
    assert len(documents[0]["lrs"]) == 90
    assert documents[0]["lr"] == documents[0]["suggestions"]["trials"]


def test_a_seed_decides_the_batches_too(capsys, monkeypatch):
    pytest.importorskip("sklearn")
    seen = []

    def caught(opt, loss_and_grad, batches, *rest, **more):
        seen.append(next(batches)[0].tobytes())
        raise ValueError("find_lr: enough")

    monkeypatch.setattr(fastlr, "find_lr", caught)
    for seed in ("0", "1", "0"):
        assert cli.main(["find", "--data", "wine", "--seed", seed]) == 2
    assert seen[0] == seen[2] != seen[1]
    assert capsys.readouterr().err == 3 * "fastlr find: enough\n"


def test_find_names_the_loss_of_a_regression(capsys):
    assert cli.main(["find", "--data", "diabetes", "--network", "tanh", *QUICK]) == 0
    out = capsys.readouterr().out
    assert out.startswith("diabetes, 10-32-1-tanh, sgd: tested ") and "nats" not in out
    assert re.search(r"; squared error [\d.]+ to [\d.]+ variances", out)


def test_find_may_validate(capsys):
    """The losses of its trials are then those of other rows: of as many, at the same rates."""
    pytest.importorskip("sklearn")
    line = ["find", "--data", "wine", "--optimizer", "momo", *QUICK, "--json"]
    documents = []
    for more in ([], ["--validate"]):
        assert cli.main([*line, *more]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    blind, seeing = documents
    assert blind["runs"] == seeing["runs"]
    first, other = ([(trial["lr"], trial["loss"]) for trial in document["trials"][:7]] for document in documents)
    assert [lr for lr, _ in first] == [lr for lr, _ in other]
    assert all(a != b for (_, a), (_, b) in zip(first, other, strict=True))


def test_bench_measures(capsys, monkeypatch):
    from fastlr.commands import bench

    monkeypatch.setattr(bench, "SIZES", (("1 x 64", 1, 64),))
    monkeypatch.setattr(bench, "SAMPLE", 1e-5)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert cli.main(["bench", "--optimizers", "adamw,sg*", "--rounds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    steps = {step["optimizer"]: step for step in document["steps"]}
    assert {"adamw", "sgd"} <= set(steps)
    assert steps["adamw"]["bytes"] == 7 * 4 * 64
    assert steps["sgd"]["bytes"] == 3 * 4 * 64
    assert all(step["seconds"] > 0 and step["torch"] is None for step in document["steps"])
    assert document["copy_bytes_per_second"] > 0
    assert cli.main(["bench", "--optimizers", "sgd,momo,sophia", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1 x 64         sgd " in shown and "1 x 64         momo " in shown
    assert "torch" not in shown
    n = fastlr.get_num_threads()
    assert f", {n} thread{'s' * (n > 1)}; median of 1 round\n" in shown


def test_progress_is_a_line_on_a_terminal_that_goes_away(capsys, monkeypatch):
    pytest.importorskip("sklearn")
    from fastlr.commands import bench

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["find", "--data", "wine", *QUICK]) == 0
    err = capsys.readouterr().err
    assert "\rrange test " in err and "updates at " in err and err.endswith("\r") and "\n" not in err
    monkeypatch.setattr(bench, "SIZES", (("1 x 64", 1, 64),))
    monkeypatch.setattr(bench, "SAMPLE", 1e-5)
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert cli.main(["bench", "--optimizers", "sgd", "--rounds", "1"]) == 0
    err = capsys.readouterr().err
    assert "\r1 of 1: sgd, 1 x 64 " in err and err.endswith("\r")


def log(folder, name, n=60, columns="loss,lr", text="{loss},{lr}"):
    path = folder / name
    rows = [text.format(t=t, loss=2 * 0.9999**t, lr=1e-4, val=1.0) for t in range(n)]
    path.write_text("\n".join([columns, *rows, ""]))
    return str(path)


def test_diagnose_reads_a_log(tmp_path, capsys):
    path = log(tmp_path, "run.csv")
    assert cli.main(["diagnose", path]) == 0
    out, err = capsys.readouterr()
    assert "too slow: " in out and "raise the rate, from 0.0001 to 0.003" in " ".join(out.split()) and err == ""
    assert "updates 1 to 60" in out and max(map(len, out.splitlines())) <= 79
    assert cli.main(["diagnose", path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["factor"]) for one in document] == [("too slow", 30.0)]
    history = fastlr.History()
    for t in range(60):
        history.record(loss=2 * 0.9999**t, lr=1e-4)
    history.to_jsonl(tmp_path / "run.jsonl")
    assert cli.main(["diagnose", str(tmp_path / "run.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


@pytest.mark.parametrize("text", ["", "loss\n", "\n"])
def test_an_empty_log_is_told_in_one_line(tmp_path, text, capsys):
    (tmp_path / "run.csv").write_text(text)
    assert cli.main(["diagnose", str(tmp_path / "run.csv")]) == 2
    assert "run.csv: the log is empty: it needs names in its first line and numbers below" in capsys.readouterr().err


def test_diagnose_finds_names_of_other_libraries_and_takes_a_rate(tmp_path, capsys):
    path = log(tmp_path, "other.csv", columns="cost,eval_loss", text="{loss},{val}")
    assert cli.main(["diagnose", path]) == 2
    assert "no losses called 'loss'; pass --loss NAME, one of cost, eval_loss" in capsys.readouterr().err
    assert cli.main(["diagnose", path, "--loss", "cost", "--lr", "1e-3"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "from 0.001 to 0.03" in out and "validation" in out
    short = log(tmp_path, "short.csv", n=5)
    assert cli.main(["diagnose", short]) == 0
    assert "fewer than 20 losses: too early to tell" in capsys.readouterr().out


def test_watch_looks_once_and_writes_a_page(tmp_path, capsys):
    path, page = log(tmp_path, "run.csv"), tmp_path / "page.html"
    assert cli.main(["watch", path, "--once", "--page", str(page)]) == 0
    assert "too slow: " in capsys.readouterr().out
    text = page.read_text()
    assert "<h2>too slow</h2>" in text and 'class="loss line"' in text and 'class="lr line"' in text
    assert "http-equiv" not in text and "src=" not in text and "href=" not in text       # (it needs nothing else)


def test_axes_of_a_watched_log_have_numbers_that_are_round_and_beside_the_axis(tmp_path, capsys):
    """Drawn for two widths at the size at which they are shown; a validation loss is at its own updates."""
    rows = ["t,loss,val_loss,lr"] + [f"{t},{3 * 0.97**t},{2 * 0.98**t if t % 40 == 0 else ''},0.01" for t in range(1, 121)]
    (tmp_path / "run.csv").write_text("\n".join(rows) + "\n")
    page = tmp_path / "page.html"
    assert cli.main(["watch", str(tmp_path / "run.csv"), "--once", "--page", str(page)]) == 0
    pictures = re.findall(r"<svg class=(wide|narrow) viewBox=\"0 0 (\d+) \d+\".*?</svg>", page.read_text())
    assert pictures == [("wide", "700"), ("narrow", "350")] * 2
    for svg in re.findall(r"<svg class=.*?</svg>", page.read_text()):
        named = [(float(x), anchor, text) for x, anchor, text in re.findall(
            r'<text class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([^<]*)</text>', svg)]
        beside = [text for x, anchor, text in named if anchor == "end" and x < 56]
        assert len(beside) >= 2 and all(len(text) <= 6 for text in beside), beside
        assert svg.count('class="label"') == 2
        width = int(re.search(r'viewBox="0 0 (\d+)', svg)[1])
        below = [x + 4 * len(text) for x, anchor, text in named if anchor == "middle"]     # (8 units a letter, at most)
        assert max(below) <= width
    first = re.findall(r"<svg class=wide.*?</svg>", page.read_text())[0]
    (line,) = re.findall(r'class="val_loss line" points="([^"]*)"', first)
    xs = [float(pair.split(",")[0]) for pair in line.split()]
    assert xs == pytest.approx([56 + (674 - 56) * (t - 1) / 119 for t in (40, 80, 120)], abs=0.06)


def test_watch_follows_a_log_until_interrupted(tmp_path, capsys, monkeypatch):
    from fastlr.commands import watch

    path, page = log(tmp_path, "run.csv", n=10), tmp_path / "page.html"
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            log(tmp_path, "run.csv", n=80)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", sleep)
    assert cli.main(["watch", path, "--every", "3", "--page", str(page)]) == 130
    out = capsys.readouterr().out
    assert out.count("too early to tell") == 1 and out.count("too slow: ") == 1 and waits == [3, 3, 3]
    assert "http-equiv=refresh content=3" in page.read_text()


@pytest.mark.parametrize("begun", ["", "loss,lr\n"])
def test_watch_waits_for_the_first_record(tmp_path, capsys, monkeypatch, begun):
    from fastlr.commands import watch

    (tmp_path / "run.csv").write_text(begun)
    assert cli.main(["watch", str(tmp_path / "run.csv"), "--once"]) == 2
    assert "run.csv: the log is empty" in capsys.readouterr().err
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            log(tmp_path, "run.csv", n=80)
        if len(waits) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", sleep)
    assert cli.main(["watch", str(tmp_path / "run.csv")]) == 130
    out, err = capsys.readouterr()
    assert out.count("too slow: ") == 1 and err == "" and len(waits) == 4


@pytest.mark.parametrize(("line", "message"), [
    ("diagnose none.csv", "fastlr diagnose: none.csv: No such file"),
    ("diagnose run.txt", "fastlr diagnose: run.txt: a log must be a .csv or a .jsonl file"),
    ("watch none.csv --once", "fastlr watch: none.csv: No such file"),
    ("watch none.csv --every 0", "fastlr watch: --every must be seconds above 0, got 0"),
    ("watch none.csv --page a.txt", "fastlr watch: --page must end in .html, got 'a.txt'"),
    ("find --data none.csv", "fastlr find: data: none.csv: No such file or directory"),
    ("find --optimizer sdg", "fastlr find: no optimizer is called 'sdg'; did you mean 'sgd'?"),
    ("find --network rleu", "fastlr find: a network is its widths and one of relu, tanh, sigmoid"),
    ("find --network 63-10-relu", "so a network must start with 64 and end with 10; got 63-10-relu"),
    ("find --data dgits", "fastlr find: data: "),
    ("find --data none.csv", "none.csv"),
    ("find --lr-min 0", "fastlr find: 0 < lr_min < lr_max < infinity must hold, got lr_min=0.0, lr_max=10.0"),
    ("find --steps 3", "fastlr find: steps must be at least 10, got 3"),
    ("find --steps none", "fastlr find: argument --steps: must be a whole number from 1 up, got 'none'"),
    ("find --budget 300", "fastlr find: budget must be at least 423 updates for 100 steps and 3 repeats, got 300"),
    ("find --trial-steps -1", "fastlr find: trial_steps must be at least 0, got -1"),
    ("find --lr-min 1e3 --lr-max 1e9", "lower lr_min, which is 1000"),
    ("find --seed -1", "fastlr find: seed must be at least 0, got -1"),
    ("find --out here.txt", "fastlr find: --out must end in .svg, .png or .pdf, got 'here.txt'"),
    ("find --out /no/such/folder/a.png", "fastlr find: --out: there is no folder '/no/such/folder'"),
    ("bench --optimizers adamv", "fastlr bench: no optimizer is called 'adamv'; did you mean 'adam"),
    ("bench --optimizers nope", "fastlr bench: no optimizer is called 'nope'; fastlr.list_optimizers() names them"),
    ("bench --rounds 0", "fastlr bench: argument --rounds: must be a whole number from 1 up, got '0'"),
])
def test_a_wrong_argument_is_one_line_and_status_2(line, message, capsys):
    pytest.importorskip("sklearn")
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
