"""Made torch/*.json: `python tests/trajectories/make_torch.py`, with torch, whose version is recorded.

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
from registry import full  # noqa: E402
from torch_twins import PLAIN, TWINS, all_changed  # noqa: E402
from trajectories.stream import beginning_and_gradients, written  # noqa: E402

torch.set_default_dtype(torch.float64)      # in which it keeps some scalars of its state


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
    starts = {name: start.default for name, start in twin.ours.initial_states.items()}
    return {
        "keywords": twin.keywords | hyper,
        "torch": twin.theirs.__name__,
        "torch_keywords": twin.switches | twin.spoken(starts | full(twin.ours, hyper)),
        "params": trail,
    }


def runs(cls):
    """The file of one optimizer of ours."""
    twins = [run(twin, {}) for twin in PLAIN if twin.ours is cls]
    twins += [run(twin, all_changed(twin.ours)) for twin in TWINS if twin.ours is cls]
    return {"numpy": np.__version__, "python": sys.version.split()[0], "torch": torch.__version__, "runs": twins}


if __name__ == "__main__":
    for cls in {twin.ours for twin in TWINS}:
        (HERE / "torch" / f"{cls.__name__.lower()}.json").write_text(json.dumps(runs(cls), indent=1) + "\n")
