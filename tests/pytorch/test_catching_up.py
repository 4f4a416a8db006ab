"""Sparse gradients with `catch_up_rows`: the bits of dense gradients with zeros for the other rows."""
import copy
import pickle
import re

import pytest
import torch

import fastlr.torch

WORDS, WIDTH = 30, 6


def model(sparse):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(WORDS, WIDTH, sparse=sparse), torch.nn.Linear(WIDTH, 1))


def batch(rng):
    """Different words, whose gradients are not summed."""
    return torch.randperm(WORDS, generator=rng)[:4]


def backward(net, words):
    net.zero_grad()
    net(words).square().sum().backward()


def same(net, whole):
    for p, q in zip(net.parameters(), whole.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "NAdam", "Adagrad", "Lion"])
@pytest.mark.parametrize("common", [{}, {"state_dtype": "bfloat16"}, {"clip_tensor_norm": 0.1}], ids=str)
def test_sparse_gradients_train_as_dense_ones(name, common):
    cls = getattr(fastlr.torch, name)
    own = {"momentum": 0.9} if name == "SGD" else {}
    nets = model(True), model(False)
    opts = (cls(nets[0].parameters(), lr=0.1, catch_up_rows=True, **own, **common),
            cls(nets[1].parameters(), lr=0.1, **own, **common))
    scheduler = [torch.optim.lr_scheduler.ExponentialLR(opt, 0.95) for opt in opts]
    rng = torch.Generator().manual_seed(1)
    for t in range(25):
        words = batch(rng)
        opts[0].catch_up(nets[0][0].weight, words)
        for net, opt in zip(nets, opts, strict=True):
            backward(net, words)
            opt.step()
        assert torch.equal(nets[0][0].weight[words], nets[1][0].weight[words])
        for each in scheduler:
            each.step()
        if t == 12:
            opts[0].clip_value = opts[1].clip_value = 0.5
    opts[0].catch_up()
    same(*nets)
    for param, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        for key, value in opts[1].state[other].items():
            assert torch.equal(opts[0].state[param][key], value), key


def test_a_dense_gradient_needs_all_rows_first():
    nets = model(True), model(False)
    opts = (fastlr.torch.Adam(nets[0].parameters(), lr=0.1, catch_up_rows=True),
            fastlr.torch.Adam(nets[1].parameters(), lr=0.1))
    rng = torch.Generator().manual_seed(1)
    for t in range(12):
        words = batch(rng)
        opts[0].catch_up(nets[0][0].weight, words)
        for net, opt in zip(nets, opts, strict=True):
            backward(net, words)
            if t % 5 == 4:
                net[0].weight.grad = net[0].weight.grad.to_dense()
            opt.step()
        if t % 5 == 4:
            same(*nets)


def test_graphs_that_were_saved_before_rows_caught_up_are_refused():
    net = model(True)
    opt = fastlr.torch.Adam(net.parameters(), lr=0.1, catch_up_rows=True)
    for words in ([1, 2], [3, 4]):
        backward(net, torch.tensor(words))
        opt.step()
    loss = net[0].weight.square().sum()
    opt.catch_up()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_reads_the_state_needs_all_rows_first():
    net = model(True)
    opt = fastlr.torch.Adam(net.parameters(), lr=0.1, catch_up_rows=True)
    for words in ([1, 2], [3, 4]):
        backward(net, torch.tensor(words))
        opt.step()
    for read in (opt.state_dict, lambda: pickle.dumps(opt), lambda: copy.deepcopy(opt)):
        with pytest.raises(RuntimeError, match=re.escape("rows are up to 2 updates behind; call catch_up() first")):
            read()
    opt.catch_up()
    saved, weights = copy.deepcopy(opt.state_dict()), copy.deepcopy(net.state_dict())
    backward(net, torch.tensor([5]))
    opt.step()
    backward(net, torch.tensor([6]))
    opt.step()
    opt.load_state_dict(saved)             # (what rows missed belongs to the state that was there)
    net.load_state_dict(weights)
    opt.catch_up()
    assert torch.equal(net[0].weight, weights["0.weight"])
    backward(net, torch.tensor([5]))
    opt.step()
    backward(net, torch.tensor([6]))
    opt.step()
    net[0].weight.data = net[0].weight.data.clone()
    backward(net, torch.tensor([6]))
    lost = re.escape("was given other memory while rows of it were behind; their updates are lost; call catch_up() before")
    with pytest.raises(RuntimeError, match=lost):
        opt.step()
    opt.catch_up()
    opt.step()
    opt.step()
    net[0].weight.data = net[0].weight.data.clone()
    with pytest.raises(RuntimeError, match=lost):
        opt.catch_up()
    opt.catch_up()
    opt.step()


def test_what_cannot_catch_up_says_so():
    net = model(True)
    backward(net, torch.tensor([1]))
    with pytest.raises(TypeError, match="Rprop: catch_up_rows: a step of this rule depends on more than"):
        fastlr.torch.Rprop(net.parameters(), catch_up_rows=True).step()
    with pytest.raises(ValueError, match="catch_up_rows needs parameters on the CPU; leave it out with offload"):
        fastlr.torch.offload(net.parameters(), fastlr.torch.Adam, catch_up_rows=True)
    w = torch.nn.Parameter(torch.ones(4, 3))
    opt = fastlr.torch.Adam([w], catch_up_rows=True)
    w.grad = torch.eye(4, 3).to_sparse()
    with pytest.raises(RuntimeError, match="its gradient must be sparse by rows, got one of 2 sparse axes"):
        opt.step()
    assert torch.equal(w, torch.ones(4, 3))


def test_steps_inside_the_backward_pass():
    nets = model(True), model(False)
    opts = (fastlr.torch.Adam(nets[0].parameters(), lr=0.1, catch_up_rows=True, in_backward=True),
            fastlr.torch.Adam(nets[1].parameters(), lr=0.1, in_backward=True))
    rng = torch.Generator().manual_seed(1)
    for _ in range(8):
        words = batch(rng)
        opts[0].catch_up(nets[0][0].weight, words.reshape(2, 2))
        for net in nets:
            net(words).square().sum().backward()
    opts[0].catch_up()
    same(*nets)
    with pytest.raises(ValueError, match=re.escape("Adam: catch_up of parameter 0: rows must be in [0, 30), got 30 to 30")):
        opts[0].catch_up(nets[0][0].weight, [30])
    with pytest.raises(TypeError, match="Adam: catch_up: give both a parameter and rows of it, or neither"):
        opts[0].catch_up(nets[0][0].weight)
    assert opts[1].param_groups
