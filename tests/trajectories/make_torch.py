"""Made torch.json: `python tests/trajectories/make_torch.py`, with torch, whose version is recorded.

One run for every pair of the table in parity/torch_twins.py with every hyper-parameter changed, and one for
every optimizer as declared. A run holds the 11 parameters after each of 40 steps, as `stream.written`.
"""
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "parity")]

import torch  # noqa: E402
from registry import everything_changed, full  # noqa: E402
from torch_twins import PLAIN, TORCH_HAS_NO, TWINS  # noqa: E402
from trajectories.stream import beginning_and_gradients, written  # noqa: E402


def run(twin, hyper):
    """What torch does, and the words for it on both sides."""
    parameters, gradients = beginning_and_gradients()
    tensors = [torch.from_numpy(p) for p in parameters]
    optimizer = twin.torch(tensors, hyper, foreach=False)
    trail = []
    for step in gradients:
        for tensor, g in zip(tensors, step, strict=True):
            tensor.grad = torch.from_numpy(g)
        optimizer.step()
        trail.append(written(np.concatenate([p.ravel() for p in parameters])))
    starts = {name: start.default for name, start in twin.ours.starts.items()}
    return {
        "optimizer": twin.ours.__name__.lower(),
        "keywords": twin.keywords | hyper,
        "torch": twin.theirs.__name__,
        "torch_keywords": twin.switches | twin.spoken(starts | full(twin.ours, hyper)),
        "params": trail,
    }


def everything():
    """The file."""
    runs = [run(twin, {}) for twin in PLAIN] + [run(twin, everything_changed(twin.ours)) for twin in TWINS]
    return {"torch": torch.__version__, "not_in_torch": TORCH_HAS_NO, "runs": runs}


if __name__ == "__main__":
    versions = {"numpy": np.__version__, "python": sys.version.split()[0]}
    (HERE / "torch.json").write_text(json.dumps(versions | everything(), indent=1) + "\n")
