"""Made bits.json: `python tests/trajectories/make_bits.py`. The bits that fastlr itself gives.

To run this again is to declare that a release may change them: do so on purpose, alone, and say it in the
CHANGELOG. The scalars of a step come from the C library's log and expm1; these are glibc's.
"""
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from registry import DTYPES, OPTIMIZERS, everything_changed  # noqa: E402
from trajectories.stream import beginning_and_gradients, written  # noqa: E402

import fastlr  # noqa: E402


def bits(optimizer, dtype, hyper):
    """The parameters after the last step, and a digest of parameters and state after every step."""
    parameters, gradients = beginning_and_gradients(dtype)
    opt = fastlr.create_optimizer(optimizer, parameters, **hyper)
    digest = hashlib.sha256()
    for step in gradients:
        opt.step(step)
        for array in (*parameters, *(array for slots in opt.state.values() for array in slots.values())):
            digest.update(written(array.ravel()).encode())
    return {"params": written(np.concatenate([p.ravel() for p in parameters])),
            "every_step": digest.hexdigest()[:32]}


def everything():
    """The file."""
    return [{"optimizer": cls.__name__.lower(), "dtype": dtype.__name__, "keywords": hyper}
            | bits(cls.__name__, dtype, hyper)
            for cls in OPTIMIZERS for hyper in ({}, everything_changed(cls)) for dtype in DTYPES]


if __name__ == "__main__":
    (HERE / "bits.json").write_text(json.dumps(everything(), indent=1) + "\n")
