"""examples/autograd_from_nothing.py: its gradients are those of differences, and any optimizer, schedule and find_lr train it.

The other examples need other libraries: parity/test_examples.py.
"""
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlr
from fastlr import schedules
from fastlr.optimizers.rule_class import REGISTRY

pytest.importorskip("sklearn")

PROGRAM = Path(__file__).parent.parent / "examples" / "autograd_from_nothing.py"
spec = importlib.util.spec_from_file_location("autograd_from_nothing", PROGRAM)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
Tensor = example.Tensor

ORDINARY = [cls.__name__ for cls in REGISTRY.values() if not (cls.needs_loss or cls.needs_curvature)]


def value(seed, *shape):
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


OPERATIONS = {
    "+": lambda a, b: (a + b).sum(), "* of a row": lambda a, b: (a * Tensor(value(7, 1, 4)) * b).mean(),
    "+ broadcast": lambda a, b: (a + (b * b).sum()).sum(), "-": lambda a, b: (a - b * b).sum(),
    "@": lambda a, b: (a @ Tensor(value(5, 4, 2)) @ Tensor(value(6, 2, 4)) * b).sum(),
    "relu": lambda a, b: ((a - 1.0).relu() * b).sum(), "tanh": lambda a, b: (a.tanh() * b).sum(),
    "exp": lambda a, b: ((a * 0.5).exp() * b).sum(), "log": lambda a, b: (a.log() * b.log()).sum(),
    "used twice": lambda a, b: (a * a * a + b * a).sum(),
    "cross_entropy": lambda a, b: (a * b).cross_entropy(np.array([1, 3, 0])),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_those_of_differences(name):
    """In float32: differences of 1e-2 of functions of about 10 are good to 1e-3 or so, gradients are about 1."""
    values = [value(1, 3, 4), value(2, 3, 4)]
    a, b = (Tensor.parameter(x) for x in values)
    OPERATIONS[name](a, b).backward()
    for tensor, x in zip((a, b), values, strict=True):
        for at in ((0, 0), (1, 2), (2, 3)):
            found = []
            for step in (1e-2, -1e-2):
                moved = x.copy()
                moved[at] += step
                pair = [Tensor(moved if y is x else y) for y in values]
                found.append(float(OPERATIONS[name](*pair).value))
            assert tensor.grad[at] == pytest.approx((found[0] - found[1]) / 2e-2, abs=5e-3)


def test_a_row_is_broadcast_and_its_gradient_summed():
    row = Tensor.parameter(value(3, 4))
    (Tensor(value(4, 3, 4)) * row).sum().backward()
    np.testing.assert_allclose(row.grad, value(4, 3, 4).sum(axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", ORDINARY)
def test_any_optimizer_trains_the_digits(name):
    _, losses = example.train(name.lower(), REGISTRY[name.lower()].hypers["lr"].default, epochs=3)
    assert len(losses) == 66 and np.mean(losses[-10:]) < np.mean(losses[:10])


def test_the_page_is_so():
    """docs/frameworks.md"""
    page = (PROGRAM.parents[1] / "docs" / "frameworks.md").read_text()
    block, = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(compile(block, "frameworks.md", "exec"), names)
    assert names["opt"].t == 1 and (names["params"]["out"] < 0.95).all()
    linked = re.findall(r"\]\(\.\./(examples/\w+\.py)\)", page)
    assert sorted(linked) == sorted(f"examples/{path.name}" for path in PROGRAM.parent.glob("*.py"))


def test_schedules_and_find_lr_train_the_digits(capsys):
    assert example.train("adamw", "cosine(0.01, steps=400).warmup(20)")[0] > 0.95
    assert example.train("momentum", schedules.exponential(0.1, 0.01), epochs=10)[0] > 0.9
    assert example.train("adamw", "find", epochs=8)[0] > 0.95
    assert capsys.readouterr().out.startswith("found lr = ")


def test_the_program_says_what_it_did():
    done = subprocess.run([sys.executable, str(PROGRAM), "--optimizer", "lion", "--lr", "0.001", "--epochs", "2"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("lion: loss ") and done.stdout.endswith("% of unseen digits\n")
    assert fastlr.list_optimizers("lion")
