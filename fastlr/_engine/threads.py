"""How many threads a step may use."""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from . import thread_pool


def usable_cores() -> int:
    """The cores this process may run on: its affinity, but no more than the CPU time of its control groups allows."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *group_limits()]))


def group_limits(process: str = "/proc/self/cgroup", mounted: str = "/sys/fs/cgroup") -> Iterator[int]:
    """The whole cores that limited control groups leave to this process: its own group and all that contain it."""
    try:
        with open(process) as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return
    for number, controllers, path in groups:
        if number == "0":                      # version 2
            root, names = mounted, ["cpu.max"]
        elif "cpu" in controllers.split(","):  # version 1
            root, names = f"{mounted}/{controllers}", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            if not os.path.isdir(root):
                root = f"{mounted}/cpu"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):        # (in a container, only some of these may be visible)
            quota, period = read_numbers([os.path.join(root, *parts[:depth], name) for name in names])
            if quota > 0 and period > 0:
                yield max(1, quota // period)


def read_numbers(paths: Iterable[str]) -> tuple[int, int]:
    """The two numbers that files hold; (0, 0) where they are missing or say "max"."""
    words: list[str] = []
    try:
        for path in paths:
            with open(path) as file:
                words += file.read().split()
        quota, period = words
        return int(quota), int(period)
    except (OSError, ValueError):
        return 0, 0


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
