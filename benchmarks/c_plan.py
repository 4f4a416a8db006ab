"""The time of a step of a plan in a C program, beside that of the bound Python optimizer."""
import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

import fastlr


def embedding_flags():
    """How a C program that runs Python is compiled and linked."""
    library = sysconfig.get_config_var("LIBDIR")
    name = "python" + sysconfig.get_config_var("LDVERSION")
    libraries = (sysconfig.get_config_var("LIBS") + " " + sysconfig.get_config_var("SYSLIBS")).split()
    return ([f"-I{fastlr.get_include()}", f"-I{sysconfig.get_path('include')}"],
            [f"-L{library}", f"-Wl,-rpath,{library}", f"-l{name}", *libraries])


def bound_step(tensors, size):
    """Microseconds of a step in Python whose gradients are bound: the median of rounds, and the least."""
    rng = np.random.default_rng(0)
    params = [rng.normal(size=size).astype(np.float32) for _ in range(tensors)]
    opt = fastlr.AdamW(params, grads=[rng.normal(size=size).astype(np.float32) for _ in range(tensors)])
    steps, rounds = 2_000_000 // (tensors * (size + 20)) + 1, []
    for _ in range(201):
        start = time.perf_counter()
        for _ in range(steps):
            opt.step()
        rounds.append((time.perf_counter() - start) / steps * 1e6)
    return statistics.median(rounds), min(rounds)


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    compile_flags, link_flags = embedding_flags()
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "c_plan")
        source = str(Path(__file__).with_name("c_plan.c"))
        subprocess.run(["cc", "-O2", *compile_flags, source, "-o", program, *link_flags], check=True)
        path = os.pathsep.join([str(Path(fastlr.__file__).parents[1]), *filter(None, sys.path)])
        subprocess.run([program], check=True, env=os.environ | {"PYTHONPATH": path, "FASTLR_NUM_THREADS": "1"})
    fastlr.set_num_threads(1)
    for shape in ((1, 64), (500, 64), (100, 1000)):
        median, least = bound_step(*shape)
        print(f"{shape[0]:6} x {shape[1]:<8} {'bound, in Python':24} median {median:8.2f} us   min {least:8.2f} us")


if __name__ == "__main__":
    main()
