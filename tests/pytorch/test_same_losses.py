"""Each class that torch has trains a small network to the same losses as torch's."""
import pytest
import torch
from peers import DENSE, label, network, train, trained
from torch.optim.lr_scheduler import CosineAnnealingLR

import fastlr.torch

#: torch keeps ASGD's eta and NAdam's product of momenta in float32, whatever the parameters are.
ROUGH = {"ASGD": 1e-7, "NAdam": 1e-7, "Adafactor": 1e-9}


@pytest.mark.parametrize("case", DENSE, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_losses_of_500_steps_are_those_of_torch(case, dtype):
    name, keywords = case
    losses = []
    for module in (fastlr.torch, torch.optim):
        net = network(dtype, only_matrices=name == "Muon")
        losses.append(train(net, getattr(module, name)(trained(net), **keywords), 500, dtype))
    ours, theirs = torch.tensor(losses, dtype=torch.float64)
    assert theirs[-1] < theirs[0]
    wanted = 1e-6 if dtype == torch.float32 else ROUGH.get(name, 1e-12)
    if name == "Muon":
        wanted = 2e-2          # (products in bfloat16, whose order is another)
    assert (ours - theirs).abs().max() < wanted * theirs.max()


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_losses_are_torchs_with_a_scheduler_and_two_groups(name):
    losses = []
    for module in (fastlr.torch, torch.optim):
        net = network()
        opt = getattr(module, name)([{"params": net.conv.parameters(), "lr": 1e-4},
                                     {"params": [*net.one.parameters(), *net.two.parameters()]}], lr=1e-3)
        scheduler = CosineAnnealingLR(opt, 50)
        losses.append(train(net, opt, 100, each=lambda t, scheduler=scheduler: scheduler.step() if t else None))
    assert torch.allclose(*torch.tensor(losses), rtol=1e-5)
