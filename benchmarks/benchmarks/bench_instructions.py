"""Instructions that valgrind counts inside a sweep: the same digits in every run, whatever else runs.

Elementwise rules only: others call theirs tile by tile, after a sum. Only what is inside the compiled rule is counted
(`--toggle-collect` on its symbol, a dump after each call), and two numbers of elements are subtracted, so neither the
interpreter nor a call's own cost is in the figure.
It is the AVX2 door's, as valgrind does not run AVX-512. Another compiler or flag moves it; noise does not.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fastlr

from .arrays import ELEMENTWISE

NAMES = [name for name in ELEMENTWISE if hasattr(fastlr, name)]        # (of the commit that is measured)
DTYPES = ["float32", "float64"]
SMALL, LARGE = 8192, 24576                        # each is one call of the rule
MOVE = "*_kernels_2v3_move"

CODE = f"""
import numpy as np, fastlr
for name in {NAMES}:
    for dtype in {DTYPES}:
        for size in ({SMALL}, {LARGE}):
            p, g = (np.linspace(1, 2, size, dtype=dtype) for _ in range(2))
            getattr(fastlr, name)(p, lr=1e-6, grads=g).step(**{{"curvature": g}} if name == "Sophia" else {{}})
"""


def counts():
    """Instructions per element of every (optimizer, dtype)."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--collect-atstart=no", f"--toggle-collect={MOVE}",
             f"--dump-after={MOVE}", f"--callgrind-out-file={folder}/counted", sys.executable, "-c", CODE],
            env=os.environ | {"FASTLR_ISA": "v3", "FASTLR_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                              "PYTHONPATH": str(Path(fastlr.__file__).parents[1])},    # the one measured
            capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-1000:])
        dumps = [Path(folder) / f"counted.{k + 1}" for k in range(2 * len(NAMES) * len(DTYPES))]
        calls = [int(re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.M)[1]) for dump in dumps]
    pairs = zip(calls[::2], calls[1::2], strict=True)
    keys = [(name, dtype) for name in NAMES for dtype in DTYPES]
    return {key: (large - small) / (LARGE - SMALL) for key, (small, large) in zip(keys, pairs, strict=True)}


class Instructions:
    params = (ELEMENTWISE, DTYPES)
    param_names = ("optimizer", "dtype")
    unit = "instructions"
    timeout = 300

    def setup_cache(self):
        return counts() if shutil.which("valgrind") else {}

    setup_cache.timeout = 300

    def setup(self, cache, name, dtype):
        if (name, dtype) not in cache:
            raise NotImplementedError("needs valgrind, and the optimizer")

    def track_instructions_per_element(self, cache, name, dtype):
        return cache[name, dtype]

    track_instructions_per_element.version = "1"
