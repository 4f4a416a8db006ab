"""What torch's own libraries and its users do with optimizers: checkpoints of torch.distributed, forks, frozen steps."""
import copy
import os
import pickle

import pytest
import torch
from peers import DENSE, label, network, trained
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import fastlr.torch

NOTHING_BY_ZEROS = [case for case in DENSE if case[0] != "ASGD" and not case[1].get("weight_decay")
                    and case[0] not in ("AdamW", "Adafactor", "Muon")]


def gradients(params, t):
    generator = torch.Generator().manual_seed(t)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


def steps(params, opt, which):
    for t in which:
        gradients(params, t)
        opt.step()


@pytest.mark.parametrize("case", DENSE, ids=label)
@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "begun"])
def test_distributed_checkpoints_make_state_and_change_nothing(case, begun):
    """They make state by a step of zero gradients with lr 0, and load by names of the model's parameters."""
    name, keywords = case
    net, other = (network(only_matrices=name == "Muon") for _ in range(2))
    params, others = trained(net), trained(other)
    opt, twin = getattr(fastlr.torch, name)(params, **keywords), getattr(fastlr.torch, name)(others, **keywords)
    if begun:
        steps(params, opt, range(3))
        steps(others, twin, range(3))
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = None
    saved = copy.deepcopy(get_optimizer_state_dict(net, opt))
    assert all(torch.equal(param, value) for param, value in zip(params, before, strict=True))
    assert opt.param_groups[0]["lr"] == keywords["lr"] and all(param.grad is None for param in params)
    assert set(saved["state"]) <= {key for key, _ in net.named_parameters()}
    if begun:
        loaded = getattr(fastlr.torch, name)(params, **keywords)
        set_optimizer_state_dict(net, loaded, saved)
        assert all(torch.equal(param, value) for param, value in zip(params, before, strict=True))
        steps(params, loaded, range(3, 5))
        steps(others, twin, range(3, 5))
        assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("case", NOTHING_BY_ZEROS, ids=label)
def test_gradients_of_zeros_move_nothing(case):
    name, keywords = case
    params = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(()))]
    opt = getattr(fastlr.torch, name)(params, **keywords)
    for _ in range(3):
        for param in params:
            param.grad = torch.zeros_like(param)
        opt.step()
    assert all(torch.equal(param, torch.ones_like(param)) for param in params)


@pytest.mark.parametrize("case", DENSE, ids=label)
def test_state_dictionaries_are_in_the_same_order(case):
    name, keywords = case
    said = []
    for order in (1, -1):
        params = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(5)]
        opt = getattr(fastlr.torch, name)(params, **keywords)
        for param in params[::order]:              # (whichever gradient comes first)
            param.grad = torch.ones(2, 2)
        opt.step()
        said.append(pickle.dumps([(k, [(key, str(value)) for key, value in state.items()])
                                  for k, state in opt.state_dict()["state"].items()]))
    assert said[0] == said[1]


def test_hooks_that_are_put_first():
    param = torch.nn.Parameter(torch.ones(2))
    opt, called = fastlr.torch.AdamW([param]), []
    for way in ("state_dict_pre", "load_state_dict_pre", "load_state_dict_post"):
        register = getattr(opt, f"register_{way}_hook")
        register(lambda *_, way=way: called.append((way, "second")))
        register(lambda *_, way=way: called.append((way, "first")), prepend=True)
    opt.load_state_dict(opt.state_dict())
    assert called == [(way, which) for way in ("state_dict_pre", "load_state_dict_pre", "load_state_dict_post")
                      for which in ("first", "second")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")        # (of JAX, where another test has imported it)
def test_a_forked_process_steps_on_its_own():
    params, others = ([torch.nn.Parameter(torch.ones(300_000))] for _ in range(2))
    opt, twin = fastlr.torch.AdamW(params, lr=0.1), fastlr.torch.AdamW(others, lr=0.1)
    steps(params, opt, range(2))
    steps(others, twin, range(3))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            steps(params, opt, [2])
            os.write(write, pickle.dumps((float(params[0].detach()[7]), float(opt.state[params[0]]["step"]))))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    os.close(write)
    with os.fdopen(read, "rb") as said:
        assert pickle.loads(said.read()) == (float(others[0].detach()[7]), 3.0)
    assert float(opt.state[params[0]]["step"]) == 2.0
    steps(params, opt, [2])
    assert torch.equal(params[0], others[0])


def test_new_gradients_are_read_wherever_they_are():
    param, other = (torch.nn.Parameter(torch.ones(100)) for _ in range(2))
    opt, twin = fastlr.torch.SGD([param], lr=0.1), torch.optim.SGD([other], lr=0.1)
    held = []
    for t in range(20):
        for each, mine in ((param, opt), (other, twin)):
            mine.zero_grad(set_to_none=True)
            (each * t).sum().backward()
            mine.step()
        held.append(param.grad)                    # (so that the next gradient has another address)
    assert len({gradient.data_ptr() for gradient in held}) == 20
    torch.testing.assert_close(param, other, rtol=1e-6, atol=1e-6)
