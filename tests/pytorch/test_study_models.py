"""A model of torch in the study: trained as torch trains it, by a seed alone, and refused in words where it cannot be."""
import json

import numpy as np
import pytest
import torch
from torch import nn

import fastlr.torch
from fastlr import study
from fastlr.study import laboratory
from fastlr.study.data import split, split_numbers
from fastlr.study.descent import Descent, Memory, descend, measure_memory
from fastlr.study.experiment import batches
from fastlr.study.model_names import find_model
from fastlr.study.models import built

MODULE = """
import torch
from torch import nn
def small(): return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
def narrow(): return nn.Linear(4, 2)
def line(): return nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))
def inward(): return nn.Linear(5, 3)
def frozen(): return nn.Linear(4, 3).requires_grad_(False)
def text(): return "a model"
def broken(): raise RuntimeError("no\\nmodel")
def needs(width): return nn.Linear(4, width)
made = nn.Linear(4, 3)
def again(): return made
number = 5
class Own(nn.Linear):
    def __init__(self): super().__init__(4, 3)
"""


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 4)), np.arange(150) % 3
    return split("made", x + 1.5 * y[:, None], y, 0)


@pytest.fixture(scope="module")
def numbers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 4))
    return split_numbers("made", x, x.sum(axis=1) + 0.1 * rng.normal(size=150), 0)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """The module above, in the current folder, which is on the path as in `python -m`."""
    (tmp_path / "some_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "some_nets", raising=False)
    return tmp_path


def small():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def decided(result):
    return {name: value for name, value in result.to_dict().items() if name != "machine"}


def test_a_model_is_trained_as_torch_does_it(data):
    """The same loop, written out; the same bits. Dropout draws from the seed's generator, evaluation does not drop."""
    cell = study.Cell("made:small", 0.01, seed=3, optimizer="adam", epochs=2, batch_size=16)
    (result,) = study.run([cell], data, model=small)
    torch.manual_seed(3)
    net = small()
    opt = fastlr.torch.Adam(net.parameters(), lr=0.01)
    for x, y in batches(data.train, cell):
        opt.zero_grad()
        nn.functional.cross_entropy(net.train()(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        opt.step()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(net.eval()(torch.tensor(data.test[0])), torch.tensor(data.test[1]))
    assert result.updates == 2 * (len(data.train[1]) // 16)
    assert result.test_loss == pytest.approx(float(loss), rel=1e-6)
    assert result.test_accuracy == pytest.approx(
        float((net(torch.tensor(data.test[0])).argmax(1).numpy() == data.test[1]).mean()))


def test_a_seed_decides_a_model_and_the_callers_generator_goes_on(data):
    cells = study.grid([0.1], seeds=[0, 1], epochs=2)
    before = torch.random.get_rng_state()
    first, other = study.run(cells, data, model=small)
    assert (torch.random.get_rng_state() == before).all()
    assert decided(study.run(cells, data, model=small)[0]) == decided(first)
    assert first.train_loss != other.train_loss
    assert first.cell.network == "test_study_models:small"         # (five networks are one model)


def test_a_schedule_drives_the_rate_of_a_model(data):
    held, same, half, quarter = (
        study.run([study.Cell(lr=lr, epochs=2, schedule=text)], data, model=small)[0] for lr, text in (
        (0.1, None), (0.1, "constant(1)"), (0.1, "constant(0.5)"), (0.05, None)))
    assert same.train_loss == held.train_loss and half.train_loss == quarter.train_loss != held.train_loss


def test_a_regression_has_one_output_and_a_lambda_is_a_model(numbers):
    (result,) = study.run([study.Cell(lr=0.1, epochs=20)], numbers, model=lambda: nn.Linear(4, 1))
    assert result.test_r2 > 0.95 and result.test_accuracy is None and result.learned
    assert result.cell.network.endswith(":test_a_regression_has_one_output_and_a_lambda_is_a_model.<locals>.<lambda>")


def normalized():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3, bias=False))


def test_a_normalized_model_at_a_low_rate_has_not_diverged(data):
    """In evaluation mode it begins with other statistics than it ends with, and with another loss."""
    low = study.run(study.grid([1e-7], seeds=range(6), epochs=10, batch_size=16), data, model=normalized)
    assert any(result.train_loss > result.curve["train_loss"][0] for result in low)
    assert not any(result.diverged for result in low)
    (high,) = study.run([study.Cell(lr=1e6, epochs=5, optimizer="momentum")], data, model=normalized)
    assert high.diverged


def test_the_first_loss_changes_nothing(data, nets):
    with built("some_nets:small", 0, data) as net:
        before = torch.random.get_rng_state(), [p.clone() for p in net.module.state_dict().values()], net.module.training
        first = net.first_loss(data.train)
        assert (torch.random.get_rng_state() == before[0]).all() and net.module.training is before[2]
        assert all((p == q).all() for p, q in zip(net.module.state_dict().values(), before[1], strict=True))
        assert first == net.first_loss(data.train) != net.row_losses(net.logits(data.train[0]), data.train[1]).mean()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "rmsprop", "lion", "momo", "lamb"])
def test_optimizers_of_the_study_train_models(data, optimizer):
    (result,) = study.run([study.Cell(lr=0.01, optimizer=optimizer, epochs=1)], data, model=small)
    assert result.updates == len(data.train[1]) // 32 and result.train_loss != result.curve["train_loss"][0]


def test_full_batch_descent_and_memory_of_a_model(data, nets):
    found = descend(Descent("some_nets:Own", 0.1, target_norm=0.5), data)
    with built("some_nets:Own", 0, data) as net:
        _, grads = net.loss_and_grad(data.train)
        assert found.norms[0] == pytest.approx(np.sqrt(sum(float((g.double() ** 2).sum()) for g in grads)), rel=1e-6)
    assert found.updates > 0 and found.norm <= 0.5 * found.norms[0]
    memory = measure_memory(Memory("some_nets:Own", 0.1, "momentum", 16), data)
    assert (memory.parameters, memory.gradients, memory.state, memory.peak) == (60, 60, 68, None)            # (a count of steps for each)


@pytest.mark.parametrize(("name", "message"), [
    ("some_nets:narrow", r"some_nets:narrow must return \(2, 3\) for 2 rows, the score of each class .*; got \(2, 2\)"),
    ("some_nets:line", r"must return \(2, 3\) for 2 rows, .* got \(6,\)"),
    ("some_nets:inward", "some_nets:inward fails on 2 rows of 4 features: RuntimeError: mat1 and mat2"),
    ("some_nets:frozen", "some_nets:frozen.. returns a model without weights to train"),
    ("some_nets:text", "some_nets:text.. must return a torch.nn.Module, got str"),
    ("some_nets:broken", "some_nets:broken.. fails: RuntimeError: no model"),
    ("some_nets:needs", "some_nets:needs.. fails: TypeError: needs.. missing 1 required positional argument"),
    ("some_nets:made", "some_nets:made is a module, of which all trainings would change the same weights"),
    ("some_nets:again", "some_nets:again.. returns weights that it has returned before"),
    ("some_nets:number", "some_nets:number is not callable: .* got int"),
    ("some_nets:smal", "there is no 'smal' in some_nets; did you mean 'small'?"),
    ("no_nets:small", "no_nets:small: there is no module 'no_nets' in the current folder"),
    ("bad_nets:small", "bad_nets cannot be imported: SyntaxError"),
    ("poor_nets:small", "poor_nets needs no_such_package, which is missing"),
])
def test_what_is_no_model_says_why_in_one_line(data, nets, name, message):
    (nets / "bad_nets.py").write_text("def small(: pass\n")
    (nets / "poor_nets.py").write_text("import no_such_package\n")
    with pytest.raises(ValueError, match=message) as raised:
        study.run(study.grid([0.1], [name], epochs=1), data, progress=lambda _: pytest.fail("trained"))
    assert "\n" not in str(raised.value)


def test_what_is_no_function_is_refused(data):
    with pytest.raises(TypeError, match="study: model must be a function that returns a new torch.nn.Module, got 5"):
        study.run([study.Cell()], data, model=5)
    with pytest.raises(ValueError, match="cannot be trained by muon in batches of 32: ValueError: Muon only supports 2D"):
        study.run([study.Cell(optimizer="muon")], data, model=small)


def test_the_plan_of_a_model_is_the_model_as_it_is(data, nets):
    settings = laboratory.Settings(networks=("some_nets:small",), seeds=2, ladder_seeds=9)
    planned = laboratory.plan(settings, data)
    assert {len({task.network for task in planned[name]}) for name in planned if name != "escape"} == {1}
    assert len(planned["ladder"]) == 9 * len(laboratory.LADDER)


def test_the_report_of_a_model_is_the_whole_report(nets, data, capsys):
    """Through the command line, in processes of their own: its tables and its page, and what is left out, in words."""
    pytest.importorskip("contourpy")
    pytest.importorskip("rich")
    pytest.importorskip("threadpoolctl")
    from fastlr import cli

    rows = np.column_stack([np.concatenate([data.train[0], data.test[0]]), np.concatenate([data.train[1], data.test[1]])])
    np.savetxt("some.csv", rows, delimiter=",")
    line = ["study", "--quick", "--data", "some.csv", "--model", "some_nets:small", "--lrs", "0.1", "--epochs", "2",
            "--seeds", "2", "--jobs", "2"]
    assert cli.main([*line, "--out", "two"]) == 0
    document = json.loads((nets / "two" / "results.json").read_text())
    assert document["complete"] and document["environment"]["torch"] == torch.__version__
    assert {run["network"] for run in document["experiments"]["grid"]} == {"some_nets:small"}
    assert [len(t["rows"]) for t in document["tables"]] == [2, 1, 1, 1, 2, 1, 5, 3, 2, 2, 8, 3]
    assert document["tables"][8]["title"] == "Best learning rate of the model"
    assert "Left out: the peak of some_nets:small, as torch's memory is not traced." in document["tables"][7]["method"]
    page = (nets / "two" / "report.html").read_text()
    assert "some_nets:small" in page and "The model as it is: its activation is not exchanged" in page
    out = " ".join(capsys.readouterr().out.split())
    assert "some_nets:small: made by torch" in out and "landscapes have no part of it" in out
    assert cli.main([*line, "--jobs", "1", "--out", "one"]) == 0
    alone = json.loads((nets / "one" / "results.json").read_text())
    strip = [[{k: v for k, v in run.items() if k != "machine"} for run in found["experiments"]["strategies"]]
             for found in (document, alone)]
    assert strip[0] == strip[1]                                    # (the same bits by one process or two)
    capsys.readouterr()
    for wrong, message in (("some_nets", "a model must be MODULE:FUNCTION, like nets:small, got 'some_nets'"),
                           ("some_nets:narrow", "some_nets:narrow must return (2, 3)")):
        assert cli.main(["study", "--data", "some.csv", "--model", wrong, "--out", "no"]) == 2
        assert capsys.readouterr().err.startswith(f"fastlr study: {message}")
    assert not (nets / "no").exists()


def test_a_report_from_python_is_that_of_the_command(nets, data, capsys):
    """Of a function that no other process could import; the numbers are those of the same function by its name."""
    pytest.importorskip("contourpy")
    pytest.importorskip("rich")
    pytest.importorskip("threadpoolctl")
    few = {"quick": True, "lrs": [0.1], "epochs": 2, "seeds": 1, "sweeps": ["momentum"]}
    seen = []
    find = find_model("some_nets:small")
    document = study.write_report("mine", data, model=lambda: find(), progress=seen.append, **few)
    assert document["complete"] and len(seen) == document["planned"]
    written = json.loads((nets / "mine" / "results.json").read_text())
    assert written == json.loads(json.dumps(document, default=str))
    (name,) = {run["network"] for run in document["experiments"]["grid"]}
    assert name.endswith("<lambda>") and name.replace("<", "&lt;").replace(">", "&gt;") in (nets / "mine" / "report.html").read_text()
    again = study.write_report("again", data, model="some_nets:small", **few)
    for kind in ("grid", "strategies", "sweep-momentum"):
        assert [run["train_loss"] for run in again["experiments"][kind]] == [
            run["train_loss"] for run in document["experiments"][kind]]
    for wrong, message in (({"jobs": 2, "model": lambda: find()}, "other processes find a model by its name alone"),
                           ({"jobs": 0}, "jobs must be at least 1, got 0"), ({"lr": 0.1}, "no setting is called 'lr'; did you mean 'lrs'"),
                           ({"model": "small"}, "a model must be MODULE:FUNCTION, like nets:small, got 'small'"),
                           ({"sweeps": ["rate"]}, "a sweep is one of")):
        with pytest.raises(ValueError, match=message):
            study.write_report("no", data, **wrong)
    assert not (nets / "no").exists()
    assert capsys.readouterr().out == ""


def test_a_function_is_found_in_what_a_module_holds(nets):
    assert find_model("some_nets:Own").__name__ == "Own"
    assert find_model("torch.nn:Sequential") is nn.Sequential
