"""examples/: frameworks of others, each trained by fastlr; an example is left out where its framework is not installed."""
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hips_autograd():
    pytest.importorskip("autograd")
    losses = loaded("hips_autograd").main()
    assert losses[-1] < 1e-3 < 0.1 < losses[0]


def test_mlx():
    pytest.importorskip("mlx.core", exc_type=ImportError)
    losses = loaded("mlx_arrays").main()
    assert losses[-1] < losses[0] / 50


def test_tinygrad():
    """In a process of its own: the device is chosen when tinygrad is imported."""
    pytest.importorskip("tinygrad")
    device = os.environ | ({} if shutil.which("clang") else {"DEV": "PYTHON"})
    done = subprocess.run([sys.executable, str(FOLDER / "tinygrad_tensors.py")], env=device, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, first, _, last = done.stdout.split()
    assert float(last) < float(first) / 50


def test_mlp_classifier():
    pytest.importorskip("sklearn")
    score, classifier = loaded("sklearn_mlp").main()
    assert score > 0.95
    assert type(classifier._optimizer.opt).__name__ == "AdamW" and classifier._optimizer.opt.t == 20 * 22
