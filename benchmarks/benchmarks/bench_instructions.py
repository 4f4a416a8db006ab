"""Instructions that callgrind counts: the same digits in every run, whatever else runs.

The workloads are those of `release_workloads.py`, in the AVX2 variant, as valgrind does not run AVX-512. Another
compiler, Python or NumPy moves a count; noise does not. `gate.py` compares the same counts with the last release's.
"""
import sys
from pathlib import Path

import fastlr

from .arrays import ELEMENTWISE, MATRICES, REDUCING

sys.path.append(str(Path(__file__).parents[1]))

DTYPES = ["float32", "float64"]
CALLS = ["1 x 64 bound", "1 x 64 passed", "500 x 64 bound", "500 x 64 passed", "500 x 64 bind"]


def setup_cache():
    """Instructions of one call of every workload, counted once for all below; empty without valgrind."""
    import ab_counts
    from ab_environments import Build
    from release import count

    if not ab_counts.available():
        return {}
    return count(Build("this", Path(sys.executable), folder=str(Path(fastlr.__file__).parents[1])))


setup_cache.timeout = 600


class Instructions:
    """Of one step in cache over 16,384 elements; rules for matrices: over one of 128 x 96."""

    params = (ELEMENTWISE + REDUCING + MATRICES, DTYPES)
    param_names = ("optimizer", "dtype")
    unit = "instructions"
    timeout = 600

    def setup(self, cache, name, dtype):
        self.name = (f"matrix/{name.lower()} {dtype}, one matrix" if name in MATRICES else
                     f"cache/{name.lower()} {dtype}")
        if self.name not in cache:
            raise NotImplementedError("needs valgrind, and the optimizer")

    def track_instructions_per_step(self, cache, name, dtype):
        return cache[self.name]

    track_instructions_per_step.version = "2"


class Calls:
    """Of one call of AdamW over tensors of 64 float32."""

    params = CALLS
    param_names = ("call",)
    unit = "instructions"
    timeout = 600

    def setup(self, cache, call):
        if f"call/{call}" not in cache:
            raise NotImplementedError("needs valgrind")

    def track_instructions_per_call(self, cache, call):
        return cache[f"call/{call}"]

    track_instructions_per_call.version = "1"
