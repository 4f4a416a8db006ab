"""A checkpoint of a whole run: every kind of object comes back, exactly, all or none; what does not fit says why."""
import json
import random
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry import to_the_bit  # (it also gives steps the loss or the curvature that some rules need)
from test_checkpoint import json_values, places, rewritten

import fastlr
from fastlr import CheckpointError, schedules


def weights(seed=None):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(4, 3)) if seed is not None else np.zeros((4, 3)),
            "b": np.float32(rng.normal(size=5)) if seed is not None else np.zeros(5, np.float32)}


def run_of(seed=None):
    """One of everything, all of whose state differs by the seed."""
    params = weights(seed)
    plateau = fastlr.Plateau(schedules.cosine(0.1, steps=50), patience=1)
    opt = fastlr.Lookahead(fastlr.AdamW(params, lr=plateau, nonfinite="skip"), k=3)
    second = {"table": np.zeros((6, 2), np.float32)}
    run = {
        "opt": opt, "second": fastlr.Partition(second, {"table": partial(fastlr.RowwiseAdaGrad, lr=0.1)}),
        "ema": fastlr.EMA(opt, decay=0.9), "swa": fastlr.SWA(opt), "scale": fastlr.LossScale(interval=3),
        "plateau": fastlr.Plateau(0.1, patience=0), "history": fastlr.History(),
        "lbfgs": fastlr.LBFGS([np.full(3, float(seed or 0))]),
        "rng": np.random.default_rng(seed), "old": np.random.RandomState(seed), "python": random.Random(seed),
        "philox": np.random.Generator(np.random.Philox(seed)), "bits": np.random.MT19937(seed),
        "seen": np.zeros(3, np.int64), "mask": np.zeros(2, bool), "schedule": schedules.constant(float(seed or 0)),
        "epoch": seed, "config": {"name": f"run {seed}", "sizes": [1, 2]}, "nested": [{"best": None}, np.zeros(1)],
    }
    return run, params, second


def trained(run, params, second, steps):
    """Train with everything: each step draws from each generator and moves each object."""
    opt = run["opt"]
    for _ in range(steps):
        scale = run["scale"].value
        noise = run["rng"].normal() + run["old"].normal() + run["python"].random() + run["philox"].random()
        grads = {name: np.asarray(scale * (p + noise), p.dtype) for name, p in params.items()}
        opt.step(grads, grad_scale=run["scale"])
        run["second"].step({"table": np.float32(second["table"] + noise)})
        run["ema"].update()
        run["swa"].update()
        loss = float(sum((p**2).sum() for p in params.values()))
        run["plateau"].observe(loss)
        run["opt"].lr.observe(loss)
        run["history"].record(loss=loss, opt=opt)
        x = run["lbfgs"]._tensors[0].array
        run["lbfgs"].step(lambda x=x: (float(np.cosh(x - 1).sum()), [np.sinh(x - 1)]))
        run["seen"] += 1
        run["epoch"] = (run["epoch"] or 0) + 1


def everything(run, params, second):
    """All numbers of a run, to the bit."""
    rows = [(name, run["history"][name].tobytes(), run["history"].t(name).tobytes()) for name in run["history"].names]
    state = [repr(run[name].state_dict()) for name in ("opt", "second", "ema", "swa", "lbfgs", "scale", "plateau")]
    return ([p.tobytes() for p in (*params.values(), *second.values())], rows, state, run["rng"].random(),
            run["old"].random(), run["python"].random(), run["philox"].random(), run["bits"].random_raw(),
            run["seen"].tolist(), run["mask"].tolist(), run["epoch"], run["config"], run["nested"][0],
            run["schedule"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def test_a_run_that_is_resumed_ends_at_the_same_bits(path):
    first = run_of(1)
    trained(*first, 5)
    fastlr.save(path, first[0])
    again = run_of()
    trained(*again, 2)
    assert fastlr.load(path, again[0]) is None
    trained(*first, 6)
    trained(*again, 6)
    assert everything(*again) == everything(*first)


def test_parameters_of_an_average_are_written_once(path):
    run, *_ = run_of(1)
    fastlr.save(path, run)
    names = fastlr.checkpoint.read_header(path)["tensors"]
    assert [name for name in names if "/param/w" in name] == ["opt/param/w"]
    fastlr.load(path, run, params=True)
    fastlr.save(path, run, params=False)
    assert not [name for name in fastlr.checkpoint.read_header(path)["tensors"] if "/param/" in name]
    with pytest.raises(CheckpointError, match="expected parameters"):
        fastlr.load(path, run, params=True)


def test_an_array_of_every_type_comes_back(path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {dtype: np.array([0, 1, 0, 1]).astype(dtype) for dtype in (
        "f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ml_dtypes.bfloat16)}
    arrays = {str(name): array for name, array in arrays.items()} | {"swapped": np.arange(3, dtype=">f8"),
                                                                     "strided": np.arange(6.0)[::2]}
    fastlr.save(path, arrays)
    loaded = {name: np.zeros_like(array) for name, array in arrays.items()}
    fastlr.load(path, loaded)
    for name, array in arrays.items():
        assert loaded[name].tobytes() == array.tobytes() or (loaded[name] == array).all()
    with pytest.raises(TypeError, match=r"save: x: cannot save an array of complex128"):
        fastlr.save(path, {"x": np.zeros(1, complex)})


def test_a_history_rewinds_its_file(tmp_path, path):
    with fastlr.History(tmp_path / "log.jsonl") as history:
        for k in range(5):
            history.record(loss=float(k))
        fastlr.save(path, {"history": history})
        for k in range(5, 9):
            history.record(loss=float(k))
        fastlr.load(path, {"history": history})
        assert history["loss"].tolist() == [0, 1, 2, 3, 4]
        assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 5
        history.record(loss=7.0)
    assert fastlr.History.from_jsonl(tmp_path / "log.jsonl")["loss"].tolist() == [0, 1, 2, 3, 4, 7]


CASES = {
    "an optimizer alone": (lambda run: fastlr.SGD(np.zeros(1)), "this is a run of several objects, got one optimizer"),
    "an entry less": (lambda run: {k: v for k, v in run.items() if k != "epoch"},
                      "'epoch' is in the file, and there is no such entry"),
    "an entry more": (lambda run: {**run, "epochs": 1}, "'epochs' is not in the file; did you mean 'epoch'"),
    "another kind": (lambda run: {**run, "scale": fastlr.Plateau(1.0)},
                     "'scale': a loss scale was saved, got a plateau; load it into one of the kind saved"),
    "a value for an object": (lambda run: {**run, "rng": 3}, "'rng': a generator was saved, got a value"),
    "another class": (lambda run: {**run, "opt": fastlr.SGD(weights())}, "this is the state of 'Lookahead'"),
    "another generator": (lambda run: {**run, "rng": np.random.Generator(np.random.SFC64())},
                          "'rng': a generator 'PCG64' was saved, got SFC64"),
    "another shape": (lambda run: {**run, "seen": np.zeros(4, np.int64)}, r"'seen': expected int64 \(4,\), got"),
    "another dtype": (lambda run: {**run, "seen": np.zeros(3, np.int32)}, "'seen': expected int32"),
    "a value in a tuple": (lambda run: {**run, "nested": ({"best": 1}, np.zeros(1))},
                           "'nested/0': a value cannot be replaced in a tuple"),
    "a parameter of another shape": (
        lambda run: {**run, "opt": fastlr.Lookahead(fastlr.AdamW({**weights(), "b": np.zeros(2, np.float32)}))},
        "'opt': .*'b'.*expected float32"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_says_why_and_changes_nothing(path, case):
    change, reason = CASES[case]
    fastlr.save(path, run_of(1)[0])
    run, *rest = run_of(2)
    trained(run, *rest, 2)
    expected = run_of(2)
    trained(*expected, 2)
    given_run = change(run)
    with pytest.raises(CheckpointError, match=reason):
        fastlr.load(path, given_run)
    assert everything(run, *rest) == everything(*expected)


def test_an_optimizers_file_is_no_run(path):
    fastlr.save(path, fastlr.SGD(np.zeros(1)))
    with pytest.raises(CheckpointError, match="this is the state of one 'SGD', got a run"):
        fastlr.load(path, {"opt": fastlr.SGD(np.zeros(1))})


@pytest.mark.parametrize(("run", "error", "reason"), [
    ({"x": object()}, TypeError, "save: x: cannot save a object"),
    ({"x": {"y": {1: np.zeros(1)}}}, TypeError, "save: x/y: keys must be text, got 1"),
    ({"x": 2**70}, TypeError, "save: x: cannot save a int"),
    ({"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)}, ValueError, "two arrays would be named 'a/b'"),
    ({"x": [[]] * 100_000}, ValueError, "save such values as arrays"),
])
def test_what_cannot_be_saved_is_refused_before_a_file_is_written(path, run, error, reason):
    with pytest.raises(error, match=reason):
        fastlr.save(path, run)
    assert not path.exists()


def test_not_strict_loads_what_fits_and_says_what_does_not(path):
    first, *_ = run_of(1)
    fastlr.save(path, first)
    run, *_ = run_of()
    del run["epoch"]
    run |= {"scale": 1, "more": 2, "seen": np.zeros(2, np.int64)}
    report = fastlr.load(path, run, strict=False)
    assert report == ["'epoch' is in the file, and there is no such entry", "'scale': a loss scale was saved, got a value; "
                      "load it into one of the kind saved", "seen: expected int64 (2,), got int64 (3,)",
                      "'more' is not in the file"]
    assert run["config"]["name"] == "run 1" and run["more"] == 2
    assert run["opt"].state_dict()["inner"]["state"]["w"]["m"].shape == (4, 3)


def test_names_are_changed_in_all_optimizers(path):
    fastlr.save(path, {"one": fastlr.Adam({"a": np.ones(2)}), "two": fastlr.Adam({"b": np.ones(2)})})
    run = {"one": fastlr.Adam({"x": np.zeros(2)}), "two": fastlr.Adam({"y": np.zeros(2)})}
    with pytest.raises(CheckpointError, match="rename: no parameter 'c' was saved"):
        fastlr.load(path, run, rename={"a": "x", "b": "y", "c": "z"})
    fastlr.load(path, run, rename={"a": "x", "b": "y"})
    assert run["one"].params["x"].tolist() == run["two"].params["y"].tolist() == [1, 1]


@cache
def saved_run(folder):
    """What is saved of a run."""
    fastlr.save(folder / "saved", run_of(1)[0])
    return (folder / "saved").read_bytes()


@given(st.data(), json_values)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_forged_value_is_refused_or_makes_sense(tmp_path, data, value):
    path, run = tmp_path / "forged", run_of(2)[0]

    def held():
        return [to_the_bit(run[name].state_dict()) for name in ("opt", "second", "scale", "lbfgs")]

    before = held()

    def change(note):
        *way, last = data.draw(st.sampled_from([place for place in places(note) if place]))
        for key in way:
            note = note[key]
        note[last] = value

    path.write_bytes(rewritten(saved_run(tmp_path), note=change))
    try:
        fastlr.load(path, run)
    except CheckpointError:
        assert held() == before
    else:
        fastlr.save(path, run)
        fastlr.load(path, run)


def test_inspect_shows_a_run(path, capsys):
    from fastlr.cli import main
    fastlr.save(path, {"opt": fastlr.SGD(np.zeros(1)), "epoch": 3})
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.startswith("A run\n  opt = SGD, 0 updates done\n  epoch = 3\n1 tensors, 8 bytes")
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["run"]["entries"]["epoch"]["value"] == 3
