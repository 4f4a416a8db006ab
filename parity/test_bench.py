"""`fastlr bench` beside torch: every row that has a torch class shows its time, and the two take the same step."""
import json

import numpy as np
import pytest

import fastlr
from fastlr import cli
from fastlr.commands import bench

torch = pytest.importorskip("torch")


def test_torch_has_its_column(monkeypatch, capsys):
    monkeypatch.setitem(vars(fastlr), "__version__", "")      # (also where it is imported from its sources)
    monkeypatch.setattr(bench, "SIZES", (("3 x 64", 3, 64),))
    monkeypatch.setattr(bench, "SAMPLE", 1e-5)
    assert cli.main(["bench", "--rounds", "1", "--optimizers", "sgd,momentum,adam,adamw,rmsprop,adagrad,lion", "--json"]) == 0
    steps = {step["optimizer"]: step for step in json.loads(capsys.readouterr().out)["steps"]}
    assert {name for name, step in steps.items() if step["torch"]} == set(bench.TORCH) == {*steps} - {"lion"}
    assert cli.main(["bench", "--rounds", "1", "--optimizers", "adamw,lion"]) == 0
    shown = capsys.readouterr().out
    head, adamw, lion = shown.splitlines()[1:4]
    assert "torch, fused where it is" in head
    assert "torch's threads" in shown
    assert adamw.endswith("x)") and not lion.rstrip().endswith("x)")


@pytest.mark.parametrize("name", bench.TORCH)
def test_what_races_is_a_step_of_the_same_rule(name):
    """Of the same gradients: both move every parameter, all the way that a rate of 1e-6 lets them."""
    made = []

    def arrays():
        made.append([np.full(8, 0.5, np.float32), np.full(3, -2.0, np.float32)])
        return made[-1]

    step = bench.torch_step(name, arrays)
    before = [array.copy() for array in made[0]]
    for _ in range(1000):
        step()
    for array, old in zip(made[0], before, strict=True):
        assert (np.sign(old - array) == np.sign(old)).all()      # (gradients are as the parameters)
        assert np.abs(array - old).max() > 1e-5
