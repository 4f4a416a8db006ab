"""Whatever writes a tensor of PyTorch moves its version, so that PyTorch refuses a graph that was saved before."""
import numpy as np
import pytest
import torch

import fastlr


def through_graph(write):
    """The second derivative of w**3 at 2 through a graph that was saved before `write(w)`: refused."""
    w = torch.nn.Parameter(torch.tensor([2.0]))
    slope, = torch.autograd.grad((w**3).sum(), w, create_graph=True)
    write(w)
    return torch.autograd.grad(slope, w)


def swap(w):
    with fastlr.EMA([w]).swapped():
        pass


def ascend(w):
    fastlr.SAM(fastlr.SGD([w], lr=1.0)).ascend(G)


G = [torch.tensor([12.0])]
WRITES = {
    "step": lambda w: fastlr.SGD([w], lr=1.0).step(G),
    "detached": lambda w: fastlr.SGD([w.detach()], lr=1.0).step(G),
    "bound": lambda w: fastlr.SGD([w], lr=1.0, grads=G).step(),
    "rows": lambda w: fastlr.SGD({"w": w}, lr=1.0).step_rows("w", [0], np.ones(1, np.float32)),
    "matrix": lambda w: fastlr.Muon([w], lr=1.0, fallback="adamw").step(G),
    "lookahead": lambda w: fastlr.Lookahead(fastlr.SGD([w], lr=1.0), k=1).step(G),
    "ascend": ascend,
    "swapped": swap,
    "lbfgs": lambda w: fastlr.LBFGS([w]).step(lambda: (float(w.detach()[0]) ** 2, [2 * w.detach()])),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_graph_saved_before_is_refused(kind):
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        through_graph(WRITES[kind])


def test_a_graph_saved_before_a_refused_step_is_used():
    def refused(w):
        with pytest.raises(ValueError, match="like the parameter"):
            fastlr.SGD([w], lr=1.0).step([torch.ones(2)])

    assert through_graph(refused)[0].item() == 12


@pytest.mark.parametrize("replace", [lambda w: setattr(w, "data", torch.ones(3)), lambda w: w.data.resize_(10_000)])
def test_a_tensor_that_was_given_other_memory_is_noticed(replace):
    w = torch.nn.Parameter(torch.zeros(3))
    opt = fastlr.SGD([w], lr=1.0)
    opt.step([torch.ones(3)])
    w.data.copy_(torch.ones(3))                  # (what the error advises)
    opt.step([torch.ones(3)])
    assert w.tolist() == [0, 0, 0]
    replace(w)
    with pytest.raises(RuntimeError, match="SGD: params.'0'. was given other memory since this optimizer took it"):
        opt.step([torch.ones(3)])
