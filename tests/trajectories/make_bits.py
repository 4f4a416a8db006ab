"""Made bits/*.json: `python tests/trajectories/make_bits.py [NAME ...]`. The bits that fastlr itself gives.

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

from registry import BITWISE, DTYPES, everything_changed  # noqa: E402
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


def runs(cls):
    """The file of one optimizer: as declared, with everything changed, and by each other convention."""
    keywords = [{}, everything_changed(cls), *({"convention": name} for name in list(cls.conventions)[1:])]
    return [{"dtype": dtype.__name__, "keywords": given} | bits(cls.__name__, dtype, given)
            for given in keywords for dtype in DTYPES]


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for cls in BITWISE:
        name = cls.__name__.lower()
        if not chosen or name in chosen:
            (HERE / "bits" / f"{name}.json").write_text(json.dumps(runs(cls), indent=1) + "\n")
