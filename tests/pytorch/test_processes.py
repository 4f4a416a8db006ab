"""Two processes over gloo: ZeroRedundancyOptimizer and FSDP2 are one process, bit for bit."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import STEPS

import fastlr

PROGRAM = Path(__file__).with_name("processes.py")
pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
                                reason="this torch has no gloo")

SAME = [("zero", "AdamW"), ("zero", "SGD"), ("fsdp", "AdamW"), ("fsdp", "Lion"), ("offload", "AdamW"), ("offload", "SGD")]
REFUSED = {
    "clipped": "AdamW: parameter 0 is distributed, each process has a part of it, and clip_norm=1.0 needs all of it; clip "
               "with torch.nn.utils.clip_grad_norm_ before the step",
    "LAMB": "LAMB: parameter 0 is distributed, each process has a part of it, and the rule LAMB needs all of it; use a "
            "rule that moves each element by its own gradient",
    "Muon": "Muon: parameter 0 is distributed, each process has a part of it, and the rule Muon needs all of it; use a "
            "rule that moves each element by its own gradient"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes saved, and one that trained alone: by case, all of them in one run.

    Products of matrices do not depend there on where matrices are in memory. (MKL adds in an order that depends on
    alignment, unless it is told not to.)
    """
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(fastlr.__file__).parents[1]), *sys.path]),
                                "MKL_CBWR": "COMPATIBLE"}
    together = [f"{way},{name}" for way, name in [*SAME, ("fsdp", "torch.AdamW"), *(("fsdp", name) for name in REFUSED)]]
    alone = [f"one,{name}" for name in dict.fromkeys(name for _, name in SAME)]
    started = [subprocess.Popen([sys.executable, str(PROGRAM), str(rank), str(size), str(folder), *cases],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
               for rank, size, cases in ((0, 2, together), (1, 2, together), (0, 1, alone))]
    try:
        said = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert [process.returncode for process in started] == [0, 0, 0], "\n".join(said)
    first, second, one = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("0 of 2", "1 of 2", "0 of 1"))
    return {case: [first[case], second[case]] for case in together} | one


def same(ours, theirs):
    assert len(ours["params"]) == len(theirs["params"]) == STEPS
    for t, (one, other) in enumerate(zip(ours["params"], theirs["params"], strict=True), 1):
        for k, (p, q) in enumerate(zip(one, other, strict=True)):
            assert torch.equal(p, q), f"update {t}, parameter {k}: {p} and {q}, {p - q} apart"


@pytest.mark.parametrize("way, name", SAME)
def test_two_processes_are_one(way, name, found):
    both, one = found[f"{way},{name}"], found[f"one,{name}"]
    for each in both:
        same(each, one)
    assert not torch.equal(one["params"][0][0], one["params"][-1][0])
    state = both[0]["state"]["state"]
    assert len(state) == 4
    for k, entries in one["state"]["state"].items():
        assert entries.keys() == state[k].keys()
        for key, value in entries.items():
            assert torch.equal(value, state[k][key]), f"{key} of parameter {k}: {value} and {state[k][key]}"


def test_this_comparison_sees_another_optimizer(found):
    theirs, _ = found["fsdp,torch.AdamW"]
    ours = found["one,AdamW"]
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(theirs["params"][-1], ours["params"][-1], strict=True))
    with pytest.raises(AssertionError):
        same(theirs, found["one,Lion"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_whole_parameters_is_refused(name, found):
    assert [each["error"] for each in found[f"fsdp,{name}"]] == [REFUSED[name]] * 2
