"""docs/rust.md: its project is built by cargo in an empty folder, without a crate, and has the bits of Python."""
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from registry import bits
from test_docs import files_of

import fastlr

if not shutil.which("cargo"):
    pytest.skip("cargo is not installed", allow_module_level=True)

PAGE = Path(__file__).parent.parent / "docs" / "rust.md"
FILES = {"Cargo.toml", "src/lib.rs", "load.py", "src/main.rs", "build.rs"}


@pytest.fixture(scope="module")
def project(tmp_path_factory, environment):
    """The folder, its library built, and what runs a command there."""
    folder, found = tmp_path_factory.mktemp("rust"), files_of(PAGE)
    assert {name for name in found if name} == FILES
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(found[name][0])
    paths = [environment["PYTHONPATH"], str(Path(np.__file__).parents[1])]
    env = environment | {"PYTHONPATH": os.pathsep.join([str(folder), *paths]), "PYTHON": sys.executable,
                         "RUSTFLAGS": "-D warnings"}

    def run(*command, **more):
        return subprocess.run(command, cwd=folder, env=env | more, capture_output=True, text=True)

    commands = re.findall(r"`(cargo [^`]*)`", PAGE.read_text())
    done = run(*commands[0].split())
    assert done.returncode == 0, done.stderr
    return run, commands


def test_python_loads_the_library(project):
    done = project[0](sys.executable, "load.py")
    assert done.returncode == 0, done.stderr
    rules = sum(fastlr.kernels.is_elementwise(cls) for cls in fastlr.optimizers.rule_class.REGISTRY.values())
    assert done.stdout == f"{rules} rules; [1. 2. 3.] [0.5]\n"


STEPS = """
import numpy as np
from load import fit
rng = np.random.default_rng(1)
w, b = fit({name!r}, {lr!r}, rng.standard_normal((10, 4)), rng.standard_normal(10), 25)
print(w.tobytes().hex(), b.tobytes().hex())
"""


@pytest.mark.parametrize("name", ["adamw", "lion", "lamb", "adafactor"])
def test_the_bits_are_those_of_python(project, name):
    lr = "cosine(0.1, steps=30).warmup(3)"
    done = project[0](sys.executable, "-c", STEPS.format(name=name, lr=lr))
    assert done.returncode == 0, done.stderr
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((10, 4)), rng.standard_normal(10)
    w, b = np.zeros(4), np.zeros(1)
    opt = fastlr.create_optimizer(name, [w, b], lr=fastlr.schedules.parse(lr))
    for _ in range(25):
        opt.step(gradients(w, b, x, y))
    assert done.stdout.split() == [part.hex() for part in bits([w, b])]


def gradients(w, b, x, y):
    """As the page's Rust adds them up."""
    g_w, g_b = np.zeros_like(w), np.zeros(1)
    for row, target in zip(x, y, strict=True):
        error = b[0] - target
        for k in range(len(w)):
            error += w[k] * row[k]
        for k in range(len(w)):
            g_w[k] += error * row[k]
        g_b[0] += error
    return [g_w, g_b]


def test_an_unknown_optimizer_is_said(project):
    done = project[0](sys.executable, "-c", STEPS.format(name="adamv", lr="0.1"))
    assert done.returncode == 1 and "no optimizer 'adamv'; did you mean 'adam'" in done.stderr
    done = project[0](sys.executable, "-c", STEPS.format(name="sgd", lr="cosine(0.1)"))
    assert done.returncode == 1 and "refused: plan_message says why: " in done.stderr and "cosine" in done.stderr


@pytest.mark.skipif(not sysconfig.get_config_var("Py_ENABLE_SHARED"), reason="this Python is no library")
def test_the_program_embeds_python(project):
    done = project[0](*project[1][1].split(), PYTHONHOME=sys.base_prefix)
    assert done.returncode == 0, done.stderr
    found = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", done.stdout)]
    np.testing.assert_allclose(found, [3, -1, 0.5], atol=0.1)
