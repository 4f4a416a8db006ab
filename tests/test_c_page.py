"""docs/c.md: each of its files is compiled in an empty folder, and does what the page says."""
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import numpy as np
import pytest
from registry import bits
from test_docs import files_of

import fastlr
from fastlr.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "c.md"
SHARE = Path(fastlr.__file__).parent / "share"
has_library = pytest.mark.skipif(not sysconfig.get_config_var("Py_ENABLE_SHARED"), reason="this Python is no library")


@pytest.fixture(scope="module")
def files():
    found = files_of(PAGE)
    assert set(found) == {"program.c", "CMakeLists.txt", "program.cpp", "steps.pyx", "train.pyx", "setup.py", None}
    return {name: texts[0] for name, texts in found.items() if name}


@pytest.fixture
def run(tmp_path, environment):
    """Run a command in an empty folder, as the page says it, and return what it printed."""
    numpy = str(Path(np.__file__).parents[1])
    env = environment | {"PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], numpy]), "PYTHONHOME": sys.base_prefix}
    fastlr_command = f"{shlex.quote(sys.executable)} -m fastlr"
    config = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}-config")

    def run(command, **more):
        command = command.replace("$(fastlr", f"$(env -u PYTHONHOME {fastlr_command}")
        done = subprocess.run(command.replace("python3-config", str(config)), shell=True, cwd=tmp_path, env=env | more,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    return run


def in_python():
    """What the page's Python prints."""
    blocks = [text for text in files_of(PAGE)[None] if "opt.step" in text]
    done = subprocess.run([sys.executable, "-c", blocks[0]], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(Path(fastlr.__file__).parents[1])})
    return done.stdout


@has_library
def test_the_program_has_the_bits_of_the_python_beside_it(files, run, tmp_path, compiler, environment):
    (tmp_path / "program.c").write_text(files["program.c"])
    (command,) = (text for text in files_of(PAGE)[None] if text.startswith("cc "))
    run(command.replace("cc ", f"{shlex.join(compiler)} -Wall -Wextra -Werror ", 1))
    assert run("./program") == in_python() != ""
    (said,) = re.findall(r"`(100 steps, norm [\d.]+)\.\.\.`", PAGE.read_text())
    assert run("./program").startswith(said)
    done = subprocess.run(["./program"], cwd=tmp_path, capture_output=True, text=True,
                          env=environment | {"PYTHONPATH": "", "PYTHONHOME": sys.base_prefix, "PYTHONNOUSERSITE": "1"})
    assert done.returncode == 1 and done.stderr == "ModuleNotFoundError: No module named 'fastlr'\n"


@has_library
@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_the_program_in_cpp_has_the_bits_of_python(files, run, tmp_path):
    (tmp_path / "program.cpp").write_text(files["program.cpp"])
    (command,) = (text for text in files_of(PAGE)[None] if text.startswith("cc "))
    run(command.replace("cc program.c", "c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror program.cpp"))
    w, b = np.zeros(3, np.float32), np.zeros(1, np.float32)
    opt = fastlr.AdamW([{"params": {"0": w}}, {"params": {"1": b}, "weight_decay": 0}],
                       lr=fastlr.schedules.cosine(0.1, steps=100))
    for _ in range(100):
        opt.step([{"0": w - np.arange(3, dtype=np.float32)}, {"1": b + np.float32(1)}])
    overlap = "gradient 0 shares memory with a parameter or its state, which the step writes; pass a copy"
    assert run("./program").splitlines() == [f"{w[1]:.9g} {w[2]:.9g} {b[0]:.9g}", overlap]


@has_library
@pytest.mark.skipif(not shutil.which("cmake"), reason="needs CMake")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="CMake 3.25 takes an older Python that is there for this one")
def test_cmake_finds_the_header(files, run, tmp_path):
    for name in ("program.c", "CMakeLists.txt"):
        (tmp_path / name).write_text(files[name])
    run(f"cmake -S . -B build -DPython3_ROOT_DIR={sys.base_prefix} -Dfastlr_DIR=$(fastlr info --cmake)")
    run("cmake --build build")
    assert run("build/program") == in_python()


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs CMake")
@pytest.mark.parametrize(("wanted", "found"), [("0.1", True), ("99", False), ("1.0", False)])
def test_cmake_knows_the_version(run, tmp_path, wanted, found):
    (tmp_path / "CMakeLists.txt").write_text(f"cmake_minimum_required(VERSION 3.18)\nproject(x NONE)\n"
                                             f"find_package(fastlr {wanted} QUIET)\nmessage(\"found ${{fastlr_FOUND}}\")\n")
    assert f"found {int(found)}" in run("cmake -S . -B build -Dfastlr_DIR=$(fastlr info --cmake) 2>&1")


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="needs pkg-config")
def test_pkg_config_finds_the_header(run):
    (flag,) = run("PKG_CONFIG_PATH=$(fastlr info --pkgconfig) pkg-config --cflags fastlr").split()
    assert Path(flag.removeprefix("-I")).resolve() == Path(fastlr.get_include()).resolve()
    assert run("PKG_CONFIG_PATH=$(fastlr info --pkgconfig) pkg-config --modversion fastlr").strip() == fastlr.__version__


def test_info_prints_one_path_alone(capsys):
    for option, wanted in (("--cflags", f"-I{fastlr.get_include()}"), ("--cmake", str(SHARE / "cmake")),
                           ("--pkgconfig", str(SHARE / "pkgconfig"))):
        assert main(["info", option]) == 0
        assert capsys.readouterr().out == wanted + "\n"


def test_the_files_of_build_systems_say_the_version():
    for path in ("pkgconfig/fastlr.pc", "cmake/fastlrConfigVersion.cmake"):
        assert re.findall(r"\b\d+\.\d+\.\d+\b", (SHARE / path).read_text()) == [fastlr.__version__], path


@pytest.mark.parametrize(("group", "folder"), [("pkg_config", "pkgconfig"), ("cmake.prefix", "cmake")])
def test_entry_points_name_the_folders(group, folder):
    project = tomllib.loads((PAGE.parent.parent / "pyproject.toml").read_text())["project"]
    name = project["entry-points"][group]["fastlr"]
    (path,) = importlib.import_module(name).__path__           # (as build systems find it)
    assert Path(path) == SHARE / folder


def test_the_cython_of_the_page_steps(files, run, tmp_path):
    for name in ("steps.pyx", "train.pyx", "setup.py"):
        (tmp_path / name).write_text(files[name])
    run(f"env -u PYTHONHOME {shlex.quote(sys.executable)} setup.py -q build_ext -i", CFLAGS="-O0")     # (in less time)
    sys.path.insert(0, str(tmp_path))
    try:
        import steps
        import train
    finally:
        sys.path.remove(str(tmp_path))
    gradients = np.random.default_rng(0).normal(size=(5, 7))
    p, q = np.ones(7), np.ones(7)
    steps.steps(fastlr.AdamW([p], lr=0.1), gradients)
    opt = fastlr.AdamW([q], lr=0.1)
    for g in gradients:
        opt.step([g])
    assert bits([p]) == bits([q])
    single = gradients.astype(np.float32)
    p, q, m, v = (np.ones(7, np.float32), np.ones(7, np.float32), np.zeros(7, np.float32), np.zeros(7, np.float32))
    assert train.train(p, single, m, v, 0.1) == 0
    opt = fastlr.AdamW([q], lr=0.1)
    for g in single:
        opt.step([g])
    assert bits([p, m, v]) == bits([q, opt.state["0"]["m"], opt.state["0"]["v"]])
    p = np.ones(7)
    with pytest.raises(ValueError, match="shares memory with a parameter"):
        steps.steps(fastlr.AdamW([p], lr=0.1), p.reshape(1, 7))
    with pytest.raises(ValueError, match="expected an optimizer of fastlr"):
        steps.steps(3, gradients)
