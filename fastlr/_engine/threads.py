"""How many threads a step may use."""
from __future__ import annotations

import os

from . import thread_pool


def usable_cores() -> int:
    """The cores this process may run on: its affinity, but no more than its container's share of CPU time."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


def from_environment() -> int:
    """FASTLR_NUM_THREADS, or else OMP_NUM_THREADS, or else the usable cores."""
    for name in ("FASTLR_NUM_THREADS", "OMP_NUM_THREADS"):
        asked = os.environ.get(name, "").split(",")[0].strip()
        if asked:
            if asked.isdecimal() and int(asked) > 0:
                return int(asked)
            if name == "FASTLR_NUM_THREADS":
                raise ImportError(f"{name}: expected a positive integer, got {asked!r}")
    return usable_cores()


def set_num_threads(n: int) -> None:
    """Let each step use at most n threads, the calling one included. Results do not depend on it.

    Raises ValueError unless n is a positive integer.

    >>> import fastlr
    >>> before = fastlr.get_num_threads()
    >>> fastlr.set_num_threads(2)
    >>> fastlr.get_num_threads()
    2
    >>> fastlr.set_num_threads(before)
    """
    global limit
    if isinstance(n, bool) or not hasattr(n, "__index__") or n.__index__() < 1:
        raise ValueError(f"set_num_threads: expected a positive integer, got {n!r}")
    limit = n.__index__()
    thread_pool.set_thread_limit(limit)       # (the pool has a limit of its own)


def get_num_threads() -> int:
    """How many threads a step may use, the calling one included."""
    return limit


limit = 1
set_num_threads(from_environment())
