"""The command line, as a user meets it: tables and JSON, and one line for a wrong argument."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import fastlr
from fastlr import cli, configuration
from fastlr.commands import info


def python(*arguments, cwd):
    """A fresh interpreter that imports the same fastlr, from a directory that holds nothing."""
    path = os.pathsep.join([str(Path(fastlr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


# wrong arguments


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "fastlr: give a command: study, find, diagnose, watch, plot, bench, info, inspect; `fastlr --help`"),
        ("stduy", "fastlr: argument COMMAND: invalid choice: 'stduy'"),
        ("study --lrs", "fastlr study: argument --lrs: expected at least one argument"),
        ("study --lrs fast", "fastlr study: argument --lrs: invalid float value: 'fast'"),
        ("study --lrs -0.1", "fastlr study: a learning rate must be positive and finite, got -0.1"),
        ("study --lrs inf", "fastlr study: a learning rate must be positive and finite, got inf"),
        ("study --seeds 0", "fastlr study: argument --seeds: must be a whole number from 1 up, got '0'"),
        ("study --epochs 0", "fastlr study: argument --epochs: must be a whole number from 1 up, got '0'"),
        ("study --optimizer sdg", "fastlr study: no optimizer is called 'sdg'; did you mean 'sgd'?"),
        ("study --networks 64", "fastlr study: a network is its widths and one of relu, tanh, sigmoid"),
        ("study --networks 63-10-relu", "must start with 64 and end with 10; got 63-10-relu"),
        ("study --quik", "fastlr: unrecognized arguments: --quik"),
        ("inspect", "fastlr inspect: the following arguments are required: CHECKPOINT"),
        ("inspect /no/such/file", "fastlr inspect: /no/such/file: No such file"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(line, message, capsys):
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--json"], ["--out", "x.svg"]], ids=["text", "json", "svg"])
def test_rates_near_the_largest_float_are_plotted_or_refused_in_one_line(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plot", "constant(1e308)", *options]) == 0
    capsys.readouterr()
    assert cli.main(["plot", "linear(1e308,steps=3)*10", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "fastlr plot: scale: the rate at t=0 is not a finite number\n"


@pytest.mark.parametrize("line", ["plot cosine(1,steps=9)", "find --trial-steps 0 --repeats 1", "plot cosine(\xe9)"])
def test_no_traceback_where_the_terminal_is_ascii(line, tmp_path):
    path = os.pathsep.join([str(Path(fastlr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-m", "fastlr", *line.split()], cwd=tmp_path, capture_output=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == (2 if "\xe9" in line else 0) and b"Traceback" not in done.stderr
    assert (done.stdout + done.stderr).isascii()


def test_a_missing_extra_is_one_line_and_status_1(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert cli.main(["study", "--quick"]) == 1
    err = capsys.readouterr().err
    assert "pip install 'fastlr-core[lab]'" in err
    assert err.count("\n") == 1


def test_the_status_reaches_the_shell(tmp_path):
    done = python("-m", "fastlr", "study", "--optimizer", "sdg", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("line", ["--help", "--version", "study --help", "info --help", "inspect --help"])
def test_help_and_version(line, capsys):
    assert cli.main(line.split()) == 0
    assert "fastlr" in capsys.readouterr().out


# who reads


def unread(arguments, cwd, *also):
    """The status and stderr of a command whose stdout (and stderr, if `also` says so) nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    path = os.pathsep.join([str(Path(fastlr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run([sys.executable, "-m", "fastlr", *arguments], cwd=cwd, env=os.environ | {"PYTHONPATH": path},
                              stdout=writer, stderr=writer if also else subprocess.PIPE, text=True, timeout=300)
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("line", ["info", "plot cosine(1,steps=9) --json",
                                  "find --data wine --steps 10 --repeats 1 --trial-steps 10"])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(line, tmp_path):
    assert unread(line.split(), tmp_path) == (141, "")


@pytest.mark.parametrize(("options", "also"), [([], []), (["--json"], ["stderr"])])
def test_a_study_is_whole_on_disk_though_nobody_reads(tmp_path, options, also):
    line = ["study", "--quick", "--data", "wine", "--networks", "13-4-3-relu", "--lrs", "0.1", "--epochs", "1",
            "--seeds", "1", "--jobs", "1", *options]
    status, err = unread(line, tmp_path, *also)
    assert status == 141
    assert also or "Traceback" not in err
    assert json.loads((tmp_path / "fastlr-study" / "results.json").read_text())["complete"]
    assert len(list((tmp_path / "fastlr-study").glob("*.csv"))) == 14
    assert (tmp_path / "fastlr-study" / "report.html").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line(tmp_path):
    path = os.pathsep.join([str(Path(fastlr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "fastlr", "info"], cwd=tmp_path, stdout=full, timeout=300,
                              env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "fastlr: the output cannot be written: No space left on device\n")


def test_closed_streams_are_no_error(tmp_path):
    path = os.pathsep.join([str(Path(fastlr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", "import os; os.close(1); os.close(2); "
               "os.execv(__import__('sys').executable, ['python', '-m', 'fastlr', 'plot', 'cosine(1,steps=9)'])"]
    assert subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, timeout=300).returncode == 0


# info


def test_info_shows_the_configuration_and_imports_nothing_heavy(tmp_path):
    program = (
        "import sys, fastlr.cli; status = fastlr.cli.main(['info']); "
        "print(sorted({'sklearn', 'rich', 'matplotlib'} & set(sys.modules))); sys.exit(status)"
    )
    done = python("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *shown, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert any(fastlr.__version__ in line for line in shown)
    assert any("installed by" in line for line in shown)


@pytest.mark.parametrize(("beside", "version"), [
    ('[project]\nname = "fastlr-core"\nversion = "7.8.9"\n', "7.8.9"),         # a source tree
    ('[project]\nname = "another"\nversion = "7.8.9"\n', "unknown"), ("[tool]\n", "unknown"), ("][", "unknown"),
    (None, "unknown"),
])
def test_a_version_without_an_installed_distribution(tmp_path, monkeypatch, capsys, beside, version):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    if beside is not None:
        (tmp_path / "pyproject.toml").write_text(beside)
    (tmp_path / "fastlr").mkdir()
    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(configuration, "__file__", str(tmp_path / "fastlr" / "configuration.py"))
    monkeypatch.delitem(vars(fastlr), "__version__", raising=False)
    try:
        assert cli.main(["--version"]) == 0
        assert capsys.readouterr().out == f"fastlr {version}\n"
        assert fastlr.show_config(mode="dicts")["fastlr"] == fastlr.__version__ == version
    finally:
        vars(fastlr).pop("__version__", None)        # the next to ask finds the real one


def test_info_as_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"config", "distributions"}


def test_info_warns_of_two_owners_of_the_import_name(monkeypatch, capsys):
    owners = {"fastlr": ["fastlr-core", "fastlr", "fastlr-core"]}
    monkeypatch.setattr(info, "packages_distributions", lambda: owners)
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert "installed by fastlr, fastlr-core\n" in out
    assert "warning: these distributions overwrite each other's files" in out
    monkeypatch.setattr(info, "packages_distributions", lambda: {"fastlr": ["fastlr-core"]})
    assert cli.main(["info"]) == 0
    assert "warning" not in capsys.readouterr().out


# inspect


def test_inspect_shows_what_a_checkpoint_holds(tmp_path, capsys):
    params = {"fc1.weight": np.zeros((64, 10), np.float32), "fc1.bias": np.zeros(10, np.float32)}
    opt = fastlr.AdamW(params, lr=0.01)
    opt.step({name: np.ones_like(p) for name, p in params.items()})
    path = tmp_path / "adamw.safetensors"
    fastlr.save(path, opt)
    assert cli.main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "adamw, 1 updates done" in out.lower()
    weights = [line for line in out.splitlines() if "/fc1.weight" in line]
    assert weights and all("(64, 10)" in line and "2,560 bytes" in line for line in weights)
    assert cli.main(["inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["t"] == 1
    assert sum(tensor["bytes"] for tensor in document["tensors"].values()) >= 2 * (640 + 10) * 4


def test_inspect_refuses_what_is_no_checkpoint_in_one_line(tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("not a checkpoint at all\n")
    assert cli.main(["inspect", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("fastlr inspect: ")


def test_inspect_escapes_what_could_drive_a_terminal(monkeypatch, capsys):
    header = {
        "optimizer": "SGD\x1b[2J",
        "t": 3,
        "metadata": {"lr\n": "0.1\x07"},
        "tensors": {"\x1b]0;title\x07": {"dtype": "float32", "shape": (2,), "bytes": 8}},
    }
    from fastlr import checkpoint

    monkeypatch.setattr(checkpoint, "read_header", lambda path: header)
    assert cli.main(["inspect", "any"]) == 0
    out = capsys.readouterr().out
    assert all(character == "\n" or character.isprintable() for character in out)
    assert len(out.splitlines()) == 4


def test_inspect_writes_strict_json_for_any_hyper_parameter(monkeypatch, capsys):
    header = {"optimizer": "SGD", "t": 3, "metadata": {"clip_norm": float("inf")}, "tensors": {}}
    from fastlr import checkpoint

    monkeypatch.setattr(checkpoint, "read_header", lambda path: header)
    assert cli.main(["inspect", "any", "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert document["metadata"] == {"clip_norm": "inf"}
    assert cli.main(["inspect", "any"]) == 0
    assert "0 tensors, 0 bytes" in capsys.readouterr().out
