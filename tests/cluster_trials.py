"""Trials for test_tune_lr.py (and one for test_laboratory.py), in a module of its own so that other processes can import them; and its clusters.

    python tests/cluster_trials.py dask
    mpiexec -n 3 python -m mpi4py.futures tests/cluster_trials.py mpi

print what `tune_lr` found there as one line of JSON, with the processes that trials ran in.
"""
import asyncio
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import fastlr


def smooth(lr, budget, seed):
    """A bowl with its least at 0.02, a little to the right of it for small budgets."""
    return (math.log10(lr) - math.log10(0.02) - 0.3 / budget) ** 2 + 1 / budget + 1e-3 * seed


def troubled(lr, budget, seed):
    """The same, but high rates diverge and the lowest raise."""
    if lr > 0.5:
        return math.inf
    if lr < 1e-4:
        raise ZeroDivisionError(f"nothing at {lr:.0e}")
    return smooth(lr, budget, seed)


def leaving(lr, budget, seed):
    """The same, but three rates end in an exception that is no Exception."""
    for least, error in ((0.5, SystemExit(3)), (0.1, asyncio.CancelledError()), (0.03, GeneratorExit("left"))):
        if lr > least:
            raise error
    return smooth(lr, budget, seed)


def deadly(lr, budget, seed):
    """The same, but one rate takes its process with it."""
    if 0.5 < lr < 2:
        os._exit(7)
    return smooth(lr, budget, seed)


def killed(lr, budget, seed):
    """The same, but one rate gets a SIGKILL, as of a system that has run out of memory."""
    if 0.5 < lr < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return smooth(lr, budget, seed)


class Deadly:
    """An experiment of a study that gets a SIGKILL, whoever carries it out."""

    def __str__(self):
        return "deadly"

    def execute(self, data):
        os.kill(os.getpid(), signal.SIGKILL)


class KilledOnce:
    """`smooth`, but the first process that comes to a rate below 1e-3 is killed: it was somebody else's fault."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, lr, budget, seed):
        if lr < 1e-3:
            try:
                (Path(self.folder) / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return smooth(lr, budget, seed)


class Hanging:
    """`smooth`, leaving a file named after its process; rates above 0.5 hang, above 2 also where an alarm is not heeded."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, lr, budget, seed):
        (Path(self.folder) / str(os.getpid())).touch()
        if lr > 2:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        while lr > 0.5:
            try:
                time.sleep(60)
            except Exception:
                pass
        return smooth(lr, budget, seed)


class Noted:
    """`troubled`, leaving a file named after the process that ran it."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, lr, budget, seed):
        (Path(self.folder) / str(os.getpid())).touch()
        return troubled(lr, budget, seed)


def tuned(executor, folder):
    found = fastlr.tune_lr(Noted(folder), 1e-5, 10, budget=27, seeds=2, executor=executor)
    trials = [(t.lr, t.budget, t.seed, t.round, t.status, t.score, t.reason) for t in found.trials]
    pids = sorted(int(path.name) for path in Path(folder).iterdir())
    return {"lr": found.lr, "score": found.score, "trials": trials, "pids": pids, "own": os.getpid()}


def main(where, folder):
    if where == "dask":
        from distributed import Client, LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, \
                Client(cluster) as client:
            print(json.dumps(tuned(client.get_executor(), folder)))
    else:
        from mpi4py.futures import MPIPoolExecutor

        with MPIPoolExecutor() as executor:
            print(json.dumps(tuned(executor, folder)))


if __name__ == "__main__":
    from cluster_trials import main  # (trials must be found under this name by the other processes)

    main(sys.argv[1], sys.argv[2])
