"""One of several processes that train the same networks: `python processes.py RANK SIZE FOLDER WAY,OPTIMIZER ...`.

It saves the parameters after each update, and the state dictionary at the end. The way "one" needs no other process:
the others are compared with it.
"""
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import fastlr.torch

STEPS = 5
MAKE = {
    "AdamW": (fastlr.torch.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    "SGD": (fastlr.torch.SGD, {"lr": 1e-2, "momentum": 0.9}),
    "Lion": (fastlr.torch.Lion, {"lr": 1e-3}),
    "clipped": (fastlr.torch.AdamW, {"lr": 1e-2, "clip_norm": 1.0}),
    "LAMB": (fastlr.torch.LAMB, {"lr": 1e-2}),
    "Muon": (fastlr.torch.Muon, {"lr": 1e-2}),
    "torch.AdamW": (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))


def whole(param):
    """A parameter in full, on every process."""
    return param.full_tensor().detach().clone() if hasattr(param, "full_tensor") else param.detach().clone()


def train(way, name, mesh=None):
    cls, keywords = MAKE[name]
    model = network()
    if name == "Muon":
        model = torch.nn.Sequential(torch.nn.Linear(6, 8, bias=False), torch.nn.Tanh(), torch.nn.Linear(8, 4, bias=False))
    if way == "zero":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        opt = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=cls, **keywords)
    else:
        if way in ("fsdp", "offload"):
            from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

            more = {"offload_policy": CPUOffloadPolicy(pin_memory=False)} if way == "offload" else {}
            for layer in (model[0], model[2]):
                fully_shard(layer, mesh=mesh, **more)
            fully_shard(model, mesh=mesh, **more)
        opt = cls(model.parameters(), **keywords)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    found = []
    for _ in range(STEPS - 1):
        opt.zero_grad()
        model(x).square().mean().backward()    # (the same rows everywhere: the mean of two equal gradients is exact)
        opt.step()
        found.append([whole(param) for param in model.parameters()])
    if way == "zero":
        model(x).square().mean().backward()
        opt.step()
        found.append([whole(param) for param in model.parameters()])
        opt.consolidate_state_dict(to=0)
        state = opt.state_dict() if not dist.is_initialized() or dist.get_rank() == 0 else None
    else:
        state = opt.state_dict()
        opt.load_state_dict(state)             # (parts, as they are)
        model(x).square().mean().backward()
        opt.step()
        found.append([whole(param) for param in model.parameters()])
        state = opt.state_dict()
        state["state"] = {k: {key: whole(value) for key, value in entries.items()}
                          for k, entries in state["state"].items()}
    return {"params": found, "state": state}


def main(rank, size, folder, *cases):
    torch.set_num_threads(1)
    mesh = None
    if int(size) > 1:
        from torch.distributed.device_mesh import init_device_mesh

        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=int(size),
                                timeout=timedelta(minutes=10))
        mesh = init_device_mesh("cpu", (int(size),))
    found = {}
    for case in cases:
        way, name = case.split(",")
        try:
            found[case] = train(way, name, mesh)
        except ValueError as error:
            found[case] = {"error": str(error)}
    torch.save(found, Path(folder) / f"{rank} of {size}.pt")
    if mesh is not None:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
