"""Facts about this installation, for bug reports and for programs that compile against it."""
from __future__ import annotations

import os
import platform
import sys
from typing import Any

import numpy as np

from ._engine.instruction_set import isa
from ._engine.threads import get_num_threads, usable_cores


def get_include() -> str:
    """The folder of fastlr's C headers, for a compiler's `-I`.

    >>> import fastlr, pathlib
    >>> (pathlib.Path(fastlr.get_include()) / "fastlr").is_dir()
    True
    """
    return os.path.join(os.path.dirname(__file__), "include")


def version() -> str:
    """The version of fastlr: of the installed distribution, else of the source tree around it, else "unknown"."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("fastlr-core")
    except PackageNotFoundError:
        pass
    import tomllib

    try:
        with open(os.path.join(os.path.dirname(__file__), os.pardir, "pyproject.toml"), "rb") as file:
            project = tomllib.load(file)["project"]
        return str(project["version"]) if project["name"] == "fastlr-core" else "unknown"
    except (OSError, KeyError, TypeError, ValueError):   # (no source tree, or that of another project)
        return "unknown"


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Print the versions, instruction set and threads of this process; with mode="dicts" return them.

    Raises ValueError for any other mode. (As `numpy.show_config`.)

    >>> import fastlr
    >>> fastlr.show_config(mode="dicts")["isa"] in ("baseline", "v3", "v4")
    True
    """
    from . import __version__

    found = {
        "fastlr": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "isa": isa,
        "threads": get_num_threads(),
        "cores": usable_cores(),
    }
    if mode == "dicts":
        return found
    if mode != "stdout":
        raise ValueError(f"show_config: mode must be 'stdout' or 'dicts', got {mode!r}")
    for name, value in found.items():
        print(f"{name}: {value}")
    return None
