"""Two processes over gloo: ZeroRedundancyOptimizer and FSDP2 are one process, bit for bit."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import STEPS, train

import fastlr

PROGRAM = Path(__file__).with_name("processes.py")
pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
                                reason="this torch has no gloo")


def run(way, name, folder, size=2):
    """What each process saved."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(fastlr.__file__).parents[1]), *sys.path])}
    processes = [subprocess.Popen([sys.executable, str(PROGRAM), way, name, str(rank), str(size), str(folder)],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
                 for rank in range(size)]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * size, "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def same(ours, theirs):
    assert len(ours["params"]) == len(theirs["params"]) == STEPS
    for one, other in zip(ours["params"], theirs["params"], strict=True):
        assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("way, name", [("zero", "AdamW"), ("zero", "SGD"), ("fsdp", "AdamW"), ("fsdp", "Lion"),
                                       ("offload", "AdamW"), ("offload", "SGD")])
def test_two_processes_are_one(way, name, tmp_path):
    found, one = run(way, name, tmp_path), train("one", name)
    for each in found:
        same(each, one)
    assert not torch.equal(one["params"][0][0], one["params"][-1][0])
    state = found[0]["state"]["state"]
    assert len(state) == 4
    for k, entries in one["state"]["state"].items():
        assert entries.keys() == state[k].keys()
        assert all(torch.equal(value, state[k][key]) for key, value in entries.items()), (k, name)


def test_this_comparison_sees_another_optimizer(tmp_path):
    found = run("fsdp", "torch.AdamW", tmp_path)
    assert all(torch.allclose(p, q, atol=1e-6)
               for p, q in zip(found[0]["params"][-1], train("one", "AdamW")["params"][-1], strict=True))
    with pytest.raises(AssertionError):
        same(found[0], train("one", "Lion"))


@pytest.mark.parametrize("name, message", [
    ("clipped", "AdamW: parameter 0 is distributed, each process has a part of it, and clip_norm=1.0 needs all of it; clip "
                "with torch.nn.utils.clip_grad_norm_ before the step"),
    ("LAMB", "LAMB: parameter 0 is distributed, each process has a part of it, and the rule LAMB needs all of it; use a "
             "rule that moves each element by its own gradient"),
    ("Muon", "Muon: parameter 0 is distributed, each process has a part of it, and the rule Muon needs all of it; use a "
             "rule that moves each element by its own gradient")])
def test_what_needs_whole_parameters_is_refused(name, message, tmp_path):
    assert [found["error"] for found in run("fsdp", name, tmp_path)] == [message] * 2
