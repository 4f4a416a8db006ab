"""A loop of one's own over the rule of AdamW, compiled with different flags: its time, and whether it keeps the bits.

    python benchmarks/loop_flags.py [elements]

It compiles `tests/stranger/own_loop.pyx`, which calls the rule for each element, and needs Cython and a C compiler.
Rounds are interleaved, and the fastest counts; a step is of 65,536 float32 elements (in cache) unless told otherwise.
The bits are compared with those of `fastlr.AdamW`.
"""
import argparse
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

import fastlr
from fastlr.build import compile_flags

SOURCE = Path(__file__).parents[1] / "tests" / "stranger" / "own_loop.pyx"
ROUNDS, STEPS = 15, 20
FAST = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
FLAGS = {
    "setuptools' own": [],
    "compile_flags()": compile_flags(),
    "... without -fno-math-errno": [flag for flag in compile_flags() if flag != "-fno-math-errno"],
    "... and -march=native": [*compile_flags(), "-march=native"],
    "-march=native, no -ffp-contract": [*FAST, "-march=native"],
}


def modules(folder):
    """The loop compiled with each of the sets of flags."""
    subprocess.run([sys.executable, "-m", "cython", "-3", str(SOURCE), "-o", str(folder / "own_loop.c"),
                    "-I", str(Path(fastlr.__file__).parents[1])], check=True)
    usual = shlex.split(sysconfig.get_config_var("CC") or "cc") + shlex.split(sysconfig.get_config_var("CFLAGS") or "")
    for k, (name, flags) in enumerate(FLAGS.items()):
        target = folder / str(k) / ("own_loop" + sysconfig.get_config_var("EXT_SUFFIX"))
        target.parent.mkdir()
        subprocess.run([*usual, *flags, "-w", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}",
                        str(folder / "own_loop.c"), "-o", str(target)], check=True)
        spec = spec_from_file_location("own_loop", target)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        yield name, module


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("elements", nargs="?", type=int, default=65_536)
    size = parser.parse_args().elements
    rng = np.random.default_rng(0)
    start, gradients = (rng.standard_normal(shape, dtype=np.float32) for shape in (size, (STEPS, size)))
    p = start.copy()
    opt = fastlr.AdamW([p], lr=1e-3, weight_decay=0.01)
    for g in gradients:
        opt.step([g])
    best, same = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        loops = list(modules(Path(folder)))
        for _ in range(ROUNDS):
            for name, module in loops:
                q, m, v = start.copy(), *np.zeros((2, size), np.float32)
                begun = time.perf_counter()
                module.train(q, gradients, m, v, 1e-3, 0.9, 0.999, 1e-8, 0.01)
                best[name] = min(best.get(name, np.inf), (time.perf_counter() - begun) / STEPS)
                same[name] = q.tobytes() == p.tobytes()
    print(f"{'flags':34} {'ns an element':>14}   bits of fastlr.AdamW")
    for name, seconds in best.items():
        print(f"{name:34} {seconds / size * 1e9:14.2f}   {'yes' if same[name] else 'no'}")


if __name__ == "__main__":
    main()
