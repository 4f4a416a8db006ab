"""fastlr.interchange: torch's state comes over bit for bit, and back; both then train on alike."""
import numpy as np
import pytest
import torch

import fastlr
from fastlr.interchange import from_torch, to_torch

CASES = {
    "Adam": ({}, lambda p: torch.optim.Adam(p, lr=0.01)),
    "AMSGrad": ({}, lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True)),
    "AdamW": ({}, lambda p: torch.optim.AdamW(p, lr=0.01)),
    "NAdam": ({}, lambda p: torch.optim.NAdam(p, lr=0.01)),
    "RAdam": ({}, lambda p: torch.optim.RAdam(p, lr=0.01)),
    "AdaMax": ({}, lambda p: torch.optim.Adamax(p, lr=0.01)),
    "Momentum": ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    "Nesterov": ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
    "RMSprop": ({}, lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "RMSpropCenteredMomentum": ({}, lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9)),
    "AdaGrad": ({}, lambda p: torch.optim.Adagrad(p, lr=0.01)),
    "AdaDelta": ({}, lambda p: torch.optim.Adadelta(p, lr=0.01)),
    "Rprop": ({}, lambda p: torch.optim.Rprop(p, lr=0.01)),
}
NAMES = ["layer.w", "layer.b", "unused"]


def tensors():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=g, dtype=torch.float64, requires_grad=True),
            torch.randn(5, generator=g, dtype=torch.float64, requires_grad=True),
            torch.zeros(2, dtype=torch.float64, requires_grad=True)]


def give_grads(params, k):
    g = torch.Generator().manual_seed(100 + k)
    for p in params[:2]:
        p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_torchs_state_comes_over_and_goes_back_bit_for_bit(name):
    options, make = CASES[name]
    params = tensors()
    theirs = make(params)
    for k in range(4):
        give_grads(params, k)
        theirs.step()
    arrays = dict(zip(NAMES, (p.detach().numpy().copy() for p in params), strict=True))
    ours = getattr(fastlr, name)(arrays, lr=0.01, convention="torch", **options)
    from_torch(ours, theirs.state_dict(), names=NAMES)
    again = to_torch(ours, theirs.state_dict(), names=NAMES)
    saved = theirs.state_dict()["state"]
    assert again["state"].keys() == {index for index, state in saved.items() if state}
    for index, state in again["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(saved[index][key], dtype=value.dtype), value), key
        assert {key for key, value in saved[index].items() if value is not None} == state.keys()
    copies = [p.detach().clone().requires_grad_() for p in params]
    back = make(copies)
    back.load_state_dict(again)
    for k in range(4, 8):
        for opt, own in ((theirs, params), (back, copies)):
            give_grads(own, k)
            opt.step()
        ours.step({**{n: p.grad.numpy() for n, p in zip(NAMES, params[:2], strict=False)}, "unused": None})
    for name_, p, q in zip(NAMES, params, copies, strict=True):
        # (torch itself loads NAdam's float32 product as the parameter's dtype)
        assert torch.equal(p, q) if name != "NAdam" else torch.allclose(p, q, rtol=1e-7)
        np.testing.assert_allclose(arrays[name_], p.detach().numpy(), rtol=1e-12 if name != "NAdam" else 1e-7, atol=1e-14)


def test_names_that_torch_saved_are_used():
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    theirs = torch.optim.Adam([("x", a), ("y", b)], lr=0.1)
    a.grad = torch.full((2,), 0.5)
    theirs.step()
    ours = fastlr.Adam({"y": np.ones(2, np.float32), "x": np.ones(2, np.float32)})
    from_torch(ours, theirs.state_dict())
    assert ours.state["x"]["m"].any() and not ours.state["y"]["m"].any() and ours._plan.read_skipped_steps() == [1, 0]


@pytest.mark.parametrize(("build", "change", "error", "reason"), [
    (lambda: fastlr.Lion({"w": np.zeros(2, np.float32)}), lambda d: d, TypeError, "Lion has no state in torch"),
    (lambda: fastlr.Adam({"w": np.zeros(2, np.float32)}), lambda d: 3, TypeError, r"expected what state_dict\(\) of a torch"),
    (lambda: fastlr.Adam({"w": np.zeros(3, np.float32)}), lambda d: d, ValueError, r"'w': 'm': expected shape \(3,\), got \(2,\)"),
    (lambda: fastlr.AMSGrad({"w": np.zeros(2, np.float32)}), lambda d: d, ValueError, "has no 'max_exp_avg_sq', which AMSGrad"),
    (lambda: fastlr.Adam({"w": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}), lambda d: d, ValueError,
     "torch has 1 parameters, got 2 names"),
])
def test_what_does_not_fit_is_refused_and_nothing_changes(build, change, error, reason):
    p = torch.ones(2, requires_grad=True)
    theirs = torch.optim.Adam([p])
    p.grad = torch.ones(2)
    theirs.step()
    ours = build()
    before = repr(ours.state_dict())
    with pytest.raises(error, match=reason):
        from_torch(ours, change(theirs.state_dict()))
    assert repr(ours.state_dict()) == before
