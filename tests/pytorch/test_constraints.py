"""Constraints and measurements of parameters of torch: the bits of fastlr's own optimizers, in every way of stepping."""
import copy
import io
import pickle

import numpy as np
import pytest
import torch

import fastlr
import fastlr.torch
from fastlr.constraints import box, max_norm, nonnegative, simplex, unit_norm

SHAPES = {"w": (6, 40), "v": (30,)}


def made(seed, names=tuple(SHAPES)):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: arrays[name] for name in names}


def parameters(seed):
    return {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in made(seed).items()}


def give(params, seed):
    for param, grad in zip(params.values(), made(seed).values(), strict=True):
        param.grad = torch.from_numpy(grad)


def bits(params):
    return [param.detach().numpy().tobytes() for param in params.values()]


@pytest.mark.parametrize("constraint", [
    box(-0.5, 0.4), max_norm(1.5), simplex(), {"w": unit_norm(), "v": None}, [None, nonnegative()],
    lambda name, array: max_norm(2.0) if array.ndim > 1 else box(-1, 1)], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion", "Adafactor"])
def test_the_bits_are_those_of_fastlrs_own(name, constraint):
    params, arrays = parameters(0), made(0)
    ours = getattr(fastlr.torch, name)(params.items(), lr=0.1, constraint=constraint)
    convention = {"convention": "torch"} if name == "Adafactor" else {}
    values = {"beta2_decay": 0.8, "eps1": 0.0, "eps2": 1e-3, "clip": 1.0} if name == "Adafactor" else {}
    weight_decay = {"weight_decay": 0.0} if name in ("SGD", "Adafactor") else {}
    own = getattr(fastlr, name)(arrays, lr=0.1, constraint=constraint, **convention, **values, **weight_decay)
    for k in range(3):
        give(params, 10 + k)
        ours.step()
        own.step(made(10 + k))
    assert bits(params) == [array.tobytes() for array in arrays.values()]


def test_a_group_has_its_own_and_may_change_it():
    params = parameters(0)
    opt = fastlr.torch.AdamW([{"params": [("w", params["w"])], "constraint": max_norm(1.0)},
                              {"params": [("v", params["v"])]}], lr=0.5, constraint=box(-0.25, 0.25))
    give(params, 1)
    opt.step()
    assert params["w"].norm(dim=1).max() < 1 + 1e-6 and params["w"].abs().max() > 0.25
    assert params["v"].abs().max() == 0.25
    opt.param_groups[0]["constraint"] = unit_norm(norm=2.0)
    opt.param_groups[1]["constraint"] = None
    before = opt.state[params["w"]]["exp_avg"]
    for _ in range(3):
        give(params, 2)
        opt.step()
    torch.testing.assert_close(params["w"].norm(dim=1), torch.full((6,), 2.0))
    assert params["v"].abs().max() > 0.25 and float(opt.state[params["w"]]["step"]) == 4
    assert opt.state[params["w"]]["exp_avg"] is before
    opt.add_param_group({"params": [("u", torch.nn.Parameter(torch.ones(3)))], "constraint": nonnegative()})
    opt.param_groups[2]["params"][0].grad = torch.full((3,), 1e3)
    for _ in range(9):
        opt.step()
    assert opt.param_groups[2]["params"][0].tolist() == [0, 0, 0]


def test_steps_in_the_backward_pass_are_the_same():
    found = []
    for inside in (False, True):
        params = parameters(0)
        opt = fastlr.torch.Adam(params.items(), lr=0.3, in_backward=inside, constraint={"w": simplex(), "v": box(0, 1)})
        opt.measure()
        for _ in range(3):
            (params["w"].sin().sum() * params["v"].square().sum()).backward()
            if not inside:
                opt.step()
                opt.zero_grad()
        found.append([bits(params), opt.measured])
    assert found[0] == found[1]
    torch.testing.assert_close(params["w"].sum(dim=1), torch.ones(6))


def test_a_state_dictionary_has_a_groups_constraint_as_numbers():
    def new(seed, **keywords):
        params = parameters(seed)
        return params, fastlr.torch.AdamW([{"params": [params["w"]], **keywords}, {"params": [params["v"]]}], lr=0.1)

    params, opt = new(0, constraint=unit_norm(norm=3.0))
    give(params, 1)
    opt.step()
    file = io.BytesIO()
    torch.save({"opt": opt.state_dict(), **params}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    others, other = new(0)
    for name, param in others.items():
        param.data.copy_(saved[name].detach())
    other.load_state_dict(saved["opt"])
    assert other.param_groups[0]["constraint"] == unit_norm(norm=3.0) and "constraint" not in other.param_groups[1]
    for pair in ((params, opt), (others, other)):
        give(pair[0], 2)
        pair[1].step()
    assert bits(params) == bits(others)
    theirs = torch.optim.AdamW([{"params": [params["w"]]}, {"params": [params["v"]]}])
    theirs.load_state_dict(opt.state_dict())
    _, third = new(0, constraint=box(0, 1))
    third.load_state_dict(torch.optim.AdamW([{"params": [params["w"]]}, {"params": [params["v"]]}]).state_dict())
    assert third.param_groups[0]["constraint"] == box(0, 1)        # (torch's class says nothing of it)
    saved["opt"]["param_groups"][0]["constraint"]["kind"] = "ball"
    with pytest.raises(ValueError, match="AdamW: constraint in the loaded state dict: kind must be .*, got 'ball'"):
        other.load_state_dict(saved["opt"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_keep_it(copied):
    params = parameters(0)
    opt = fastlr.torch.SGD([{"params": [params["w"]], "constraint": max_norm(1.0)}], lr=0.1, constraint=box(0, 1))
    opt.measure()
    (own, other) = copied((params, opt))
    give(own, 1)
    other.step()
    assert own["w"].norm(dim=1).max() < 1 + 1e-6 and own["w"].min() < 0 and other.measured["0"].update_norm > 0


def test_constrain_without_a_step_and_graphs_notice():
    params = parameters(0)
    opt = fastlr.torch.SGD(params.items(), lr=0.1, constraint={"w": nonnegative()})
    version = params["w"]._version
    loss = params["w"].square().sum()
    opt.constrain()
    assert params["w"].min() == 0 and params["v"].min() < 0 and params["w"]._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_sparse_rows_and_16_bits():
    table = torch.nn.Parameter(torch.full((5, 4), 3.0))
    opt = fastlr.torch.SparseAdam([table], lr=0.1, constraint=max_norm(1.0))
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1, 3]]), torch.ones(2, 4), (5, 4), check_invariants=True)
    opt.step()
    torch.testing.assert_close(table.norm(dim=1), torch.tensor([6.0, 1, 6, 1, 6]))
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1], [2]]), torch.ones(1), (5, 4), check_invariants=True)
    with pytest.raises(RuntimeError, match=r"a sparse gradient of 2 sparse axes moves parts of rows, and max_norm\(1, axis=0\) needs whole rows"):
        opt.step()
    half = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    opt = fastlr.torch.AdamW([half], lr=0.1, master="split", constraint=unit_norm())
    half.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    opt.step()
    torch.testing.assert_close(half.float().norm(dim=1), torch.ones(4), rtol=0, atol=4e-3)


def test_measuring_changes_no_bit_and_has_the_norms():
    found = []
    for on in (False, True):
        params = parameters(0)
        opt = fastlr.torch.AdamW(params.items(), lr=0.1, clip_norm=1.0)
        for k in range(4):
            if on and k == 2:
                opt.measure()
            before = {name: param.detach().clone() for name, param in params.items()}
            give(params, 20 + k)
            opt.step()
        found.append(bits(params))
        if not on:
            with pytest.raises(RuntimeError, match=r"AdamW: nothing is measured; call measure\(\) first"):
                opt.measured  # noqa: B018
    assert found[0] == found[1] and opt.measures
    for name, param in params.items():
        of = opt.measured[name]
        assert of.grad_norm == pytest.approx(float(param.grad.norm()), rel=1e-6) and of.clipped == 1
        assert of.update_norm == pytest.approx(float((param.detach() - before[name]).norm()), rel=1e-5)
    history = fastlr.History()
    history.record(loss=1.0, opt=opt)
    assert history["update_ratio/w"][0] == opt.measured["w"].ratio
    opt.measure(False)
    assert not opt.measures


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["Muon", "Adafactor", "AdamMini", "SOAP"])
def test_a_step_of_matrices_is_measured_whatever_layout_a_gradient_has(name, dtype):
    found = []
    for on in (False, True):
        generator = torch.Generator().manual_seed(0)
        w = torch.nn.Parameter(torch.randn(6, 40, generator=generator).to(dtype))
        opt = getattr(fastlr.torch, name)([("w", w)], lr=0.1)
        opt.measure(on)
        for k in range(2):
            before = w.detach().clone()
            g = torch.randn(6, 40, generator=generator).to(dtype)
            w.grad = g.t().contiguous().t() if k else g
            opt.step()
        found.append(w.detach().double().numpy().tobytes())
    assert found[0] == found[1]
    of = opt.measured["w"]
    assert of.grad_norm == pytest.approx(float(g.double().norm()), rel=1e-6)
    assert of.update_norm == pytest.approx(float((w.detach().double() - before.double()).norm()), rel=1e-5)
    assert of.param_norm == pytest.approx(float(before.double().norm()), rel=1e-6)


def test_gradients_that_a_norm_over_several_plans_clips_are_measured_before_it():
    params = parameters(0)
    opt = fastlr.torch.SGD([{"params": [("w", params["w"])]}, {"params": [("v", params["v"])], "momentum": 0.9}],
                           lr=0.1, clip_norm=1.0)
    opt.measure()
    give(params, 1)
    opt.step()
    for name, param in params.items():
        assert opt.measured[name].grad_norm == pytest.approx(float(param.grad.norm()), rel=1e-6)
        assert opt.measured[name].clipped == 1
    for param in params.values():
        param.grad *= 1e-3
    opt.step()
    assert {of.clipped for of in opt.measured.values()} == {0.5}


def test_a_table_with_sparse_gradients_is_not_measured_and_the_others_are():
    table, w = torch.nn.Parameter(torch.ones(5, 4)), torch.nn.Parameter(torch.ones(3))
    opt = fastlr.torch.SGD([("table", table), ("w", w)], lr=0.1, momentum=0.9)
    opt.measure()
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1, 3]]), torch.ones(2, 4), (5, 4), check_invariants=True)
    w.grad = torch.ones(3)
    opt.step()
    assert np.isnan(opt.measured["table"].grad_norm) and opt.measured["w"].grad_norm == pytest.approx(3**0.5)


def test_offloaded_parameters_are_constrained_and_measured():
    params = parameters(0)
    opt = fastlr.torch.offload(params.items(), fastlr.torch.SGD, lr=0.1, constraint={"w": max_norm(1.0)})
    opt.measure()
    give(params, 1)
    opt.step()
    assert params["w"].norm(dim=1).max() < 1 + 1e-6 and opt.measures and set(opt.measured) == {"w", "v"}


@pytest.mark.parametrize(("make", "error", "reason"), [
    (lambda p: fastlr.torch.SGD(p.items(), constraint="nonneg"), TypeError,
     "SGD: constraint of parameter w: must be one of fastlr.constraints, got 'nonneg'"),
    (lambda p: fastlr.torch.SGD(p.items(), constraint={"x": box(0)}), ValueError, "SGD: constraint names no parameter: 'x'"),
    (lambda p: fastlr.torch.Lion(p.items(), constraint=[box(0)]), ValueError, "Lion: constraint: expected 2 entries"),
    (lambda p: fastlr.torch.SGD([{"params": [p["w"]], "constraint": 1.0}]), TypeError,
     "SGD: constraint of a group: must be one of fastlr.constraints, got 1.0"),
    (lambda p: fastlr.torch.SGD([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))], constraint=box(0)), ValueError,
     "SGD: parameter 0 is complex"),
])
def test_what_is_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make(parameters(0))
