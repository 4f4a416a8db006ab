"""Offload: parameters elsewhere, state and steps on the CPU. "Elsewhere" is the CPU here, with copies that come late."""
import copy

import pytest
import torch

import fastlr.torch
from fastlr.torch import offloading

SHAPES = [(40, 30), (7,), (), (3, 0), (65, 64), (5, 4, 3)]


class LateLane(offloading.Lane):
    """Copies that are done when somebody waits for them, as those of a device may be."""

    said = []

    def __init__(self, device):
        super().__init__(device)
        self.begun = []

    def copy(self, into, source):
        self.said.append(("copy", self))
        self.begun.append((into, source))
        torch.autograd.graph.increment_version([into])

    def done(self):
        for into, source in self.begun:
            into.data.copy_(source)
        self.begun.clear()

    def follow_device(self):
        self.said.append(("follow", self))

    def lead_device(self):
        self.said.append(("lead", self))
        self.done()

    def mark(self):
        def wait():
            self.said.append(("wait", self))
            for into, source in self.begun[:count]:
                into.data.copy_(source)
            del self.begun[:count]

        count = len(self.begun)
        return wait


@pytest.fixture(params=[False, True], ids=["at once", "late"])
def late(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(offloading, "Lane", LateLane)
        monkeypatch.setattr(LateLane, "said", [])
    return request.param


def parameters(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give(params, t, without=None):
    generator = torch.Generator().manual_seed(100 + t)
    for k, param in enumerate(params):
        gradient = torch.randn(param.shape, generator=generator).to(param.dtype)
        param.grad = None if k == without else gradient


def same(params, others):
    for k, (p, q) in enumerate(zip(params, others, strict=True)):
        assert p.dtype == q.dtype and torch.equal(p, q), k


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 1 << 25])
@pytest.mark.parametrize("name, keywords", [
    ("AdamW", {"lr": 0.01, "amsgrad": True}), ("SGD", {"lr": 0.1, "momentum": 0.9}), ("Lion", {"lr": 0.01}),
    ("LAMB", {"lr": 0.01}), ("AdamW", {"state_dtype": "int8"}), ("Adam", {"clip_value": 0.5, "ema_decay": 0.9})],
    ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_offloaded_parameters_move_as_those_on_the_cpu(name, keywords, dtype, chunk_bytes, late):
    cls = getattr(fastlr.torch, name)
    params, others = parameters(dtype), parameters(dtype)
    opt, other = fastlr.torch.offload(params, cls, chunk_bytes=chunk_bytes, **keywords), cls(others, **keywords)
    for t in range(4):
        give(params, t, without=t)
        give(others, t, without=t)
        before = [param.grad if param.grad is None else param.grad.clone() for param in params]
        versions = [param._version for param in params]
        opt.step()
        other.step()
        same(params, others)
        for param, gradient, version in zip(params, before, versions, strict=True):
            assert (param.grad is None) == (gradient is None) == (param._version == version)
            assert gradient is None or torch.equal(param.grad, gradient)
    for param, twin in zip(params, others, strict=True):
        assert opt.state[param].keys() == other.state[twin].keys()
        assert all(torch.equal(value, other.state[twin][key]) for key, value in opt.state[param].items())


def test_bfloat16_trains_as_float32(late):
    params, others = parameters(torch.bfloat16), parameters(torch.bfloat16)
    params[1], others[1] = (torch.nn.Parameter(torch.ones(7)) for _ in range(2))         # (a wider one beside them)
    opt = fastlr.torch.offload(params, fastlr.torch.AdamW, chunk_bytes=4000, lr=1e-4)
    whole = [torch.nn.Parameter(param.detach().float()) for param in others]
    other = fastlr.torch.AdamW(whole, lr=1e-4)
    for t in range(6):
        give(params, t)
        for param, twin in zip(params, whole, strict=True):
            twin.grad = param.grad.float()
        opt.step()
        other.step()
        same(params, [twin.detach().to(param.dtype) for param, twin in zip(params, whole, strict=True)])
    assert opt.state[params[0]]["remainder"].dtype == torch.int16 and "remainder" not in opt.state[params[1]]


def test_float16_has_a_master_in_float32(late):
    params = parameters(torch.float16)
    opt = fastlr.torch.offload(params, fastlr.torch.AdamW, chunk_bytes=4000, lr=1e-4)
    whole = [torch.nn.Parameter(param.detach().float()) for param in params]
    other = fastlr.torch.AdamW(whole, lr=1e-4)
    for t in range(6):
        give(params, t)
        for param, twin in zip(params, whole, strict=True):
            twin.grad = param.grad.float()
        opt.step()
        other.step()
        same(params, [twin.detach().half() for twin in whole])
    masters = opt.state_dict()["state"]
    same([masters[k]["master"] for k in range(len(whole))], [twin.detach() for twin in whole])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("saved", ["after", "before"])
def test_saved_and_loaded_training_goes_on_with_the_same_bits(dtype, saved, late):
    """Whether the model is loaded before its optimizer, or after it."""
    def trained(params, opt, steps):
        for t in steps:
            give(params, t)
            opt.step()

    params = parameters(dtype)
    opt = fastlr.torch.offload(params, fastlr.torch.AdamW, lr=1e-4)
    trained(params, opt, range(3))
    d, values = copy.deepcopy(opt.state_dict()), [param.detach().clone() for param in params]
    others = parameters(dtype)
    other = fastlr.torch.offload(others, fastlr.torch.AdamW, lr=1.0)
    trained(others, other, range(50, 52))
    if saved == "after":
        other.load_state_dict(d)
    with torch.no_grad():
        for param, value in zip(others, values, strict=True):
            param.copy_(value)
    if saved == "before":
        other.load_state_dict(d)
    trained(params, opt, range(3, 6))
    trained(others, other, range(3, 6))
    same(params, others)
    assert other.param_groups[0]["lr"] == 1e-4


def test_what_is_written_to_a_parameter_is_noticed(late):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        params = parameters(dtype)
        opt = fastlr.torch.offload(params, fastlr.torch.SGD, lr=1.0)
        give(params, 0)
        opt.step()
        with torch.no_grad():
            params[0].fill_(3.0)
        params[0].grad = torch.ones_like(params[0])
        opt.step()
        assert torch.allclose(params[0].float(), torch.tensor(2.0), atol=0.02)


def test_a_dictionary_of_torch_is_loaded():
    params, theirs = parameters(), parameters()
    opt = fastlr.torch.offload(params, fastlr.torch.AdamW, lr=0.01)
    other = torch.optim.AdamW(theirs, lr=0.02)
    give(theirs, 0)
    other.step()
    opt.load_state_dict(other.state_dict())
    with torch.no_grad():
        for param, twin in zip(params, theirs, strict=True):
            param.copy_(twin)
    give(params, 1)
    give(theirs, 1)
    opt.step()
    other.step()
    for param, twin in zip(params, theirs, strict=True):
        torch.testing.assert_close(param, twin, rtol=1e-5, atol=1e-6)


def test_groups_schedulers_hooks_and_closures():
    params, others = parameters(), parameters()
    called = []
    opts = [fastlr.torch.offload([{"params": params[:2], "lr": 0.1}, {"params": params[2:5]}], fastlr.torch.AdamW),
            fastlr.torch.AdamW([{"params": others[:2], "lr": 0.1}, {"params": others[2:5]}])]
    opts[0].register_step_pre_hook(lambda *_: called.append("before"))
    opts[0].register_step_post_hook(lambda *_: called.append("after"))
    for opt, mine in zip(opts, (params, others), strict=True):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
        for t in range(4):
            if t == 2:
                opt.add_param_group({"params": mine[5:], "lr": 0.3})
                scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)

            def closure(t=t, mine=mine):
                assert torch.is_grad_enabled()
                give(mine, t)
                return t

            assert opt.step(closure) == t
            torch.nn.utils.clip_grad_norm_(mine, 1.0)
            scheduler.step()
    same(params, others)
    assert called == ["before", "after"] * 4
    opts[0].zero_grad()
    assert all(param.grad is None for param in params)


def test_one_chunk_moves_while_the_next_is_copied(monkeypatch):
    monkeypatch.setattr(offloading, "Lane", LateLane)
    monkeypatch.setattr(LateLane, "said", [])
    params = parameters(shapes=[(8,), (8,), (8,)])
    opt = fastlr.torch.offload(params, fastlr.torch.SGD, chunk_bytes=1, lr=0.1)
    give(params, 0)
    opt.step()
    (down, _up), = opt._lanes.values()
    assert [(what, "down" if lane is down else "up") for what, lane in LateLane.said] == [
        ("follow", "down"), ("copy", "down"), ("copy", "down"), ("wait", "down"), ("copy", "up"),
        ("copy", "down"), ("wait", "down"), ("copy", "up"), ("wait", "down"), ("copy", "up"), ("lead", "up")]
    assert [buffer.numel() for buffer in opt._buffers] == [64, 64]


@pytest.mark.parametrize("make, message", [
    (lambda p: fastlr.torch.offload(p, torch.optim.AdamW), "offload: optimizer_class must be one of fastlr.torch, got AdamW"),
    (lambda p: fastlr.torch.offload(p, fastlr.torch.AdamW, clip_norm=1.0),
     "AdamW: offload moves one chunk of parameters while the gradients of the next are copied, and clip_norm=1.0 needs "
     "all gradients first; leave it out, or clip on the device before the step"),
    (lambda p: fastlr.torch.offload(p, fastlr.torch.Prodigy),
     "Prodigy: offload moves one chunk of parameters while the gradients of the next are copied, and the rule Prodigy "
     "needs all gradients first; leave it out, or clip on the device before the step"),
    (lambda p: fastlr.torch.offload(p, fastlr.torch.AdamW, zero_grads=True),
     "AdamW: zero_grads=True needs gradients on the CPU; leave it out with offload"),
    (lambda p: fastlr.torch.offload(p, fastlr.torch.AdamW, chunk_bytes=0),
     "offload: chunk_bytes must be a positive integer, got 0"),
    (lambda p: fastlr.torch.offload([torch.nn.Parameter(torch.ones(2, device="meta"))], fastlr.torch.AdamW),
     "AdamW: parameter 0 is on the meta device and has no memory; materialise it first"),
    (lambda p: fastlr.torch.offload(p, fastlr.torch.AdamW, lr=-1.0), "Invalid learning rate: -1.0"),
    (lambda p: fastlr.torch.offload([], fastlr.torch.AdamW), "optimizer got an empty parameter list"),
    (lambda p: copy.deepcopy(fastlr.torch.offload(p, fastlr.torch.AdamW)),
     "AdamW: what offload makes has streams and pinned memory and cannot be copied; use state_dict"),
])
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
        make(parameters())
    assert str(error.value) == message


def test_a_gradient_that_cannot_be_used_moves_nothing():
    params = parameters()
    opt = fastlr.torch.offload(params, fastlr.torch.SGD, lr=0.1)
    give(params, 0)
    params[4].grad = params[4].grad.to_sparse()
    before = [param.detach().clone() for param in params]
    with pytest.raises(RuntimeError, match="SGD: offload does not support sparse gradients"):
        opt.step()
    same([param.detach() for param in params], before)


def test_in_backward_splits_what_can_be_split():
    """A float32 beside bfloat16 parameters has a plan of its own, and nothing to split."""
    params = [torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), torch.nn.Parameter(torch.ones(3))]
    opt = fastlr.torch.AdamW(params, lr=1e-3, master="split", in_backward=True)
    others = [torch.nn.Parameter(param.detach().clone()) for param in params]
    other = fastlr.torch.AdamW(others, lr=1e-3, master="split")
    for _ in range(3):
        sum(param.float().square().sum() for param in params).backward()
        sum(param.float().square().sum() for param in others).backward()
        other.step()
        other.zero_grad()
    same(params, others)
    assert "remainder" in opt.state[params[0]] and "remainder" not in opt.state[params[1]]
