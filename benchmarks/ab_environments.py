"""Environments of the two builds that `ab.py` compares: given as a Python, or made from a wheel or a source folder."""
from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from site import getsitepackages


@dataclass(frozen=True)
class Build:
    """A Python that imports one build of fastlr, from `folder` unless that is empty; its wheel, where it has one."""

    label: str
    python: Path
    wheel: Path | None = None
    folder: str = ""

    def environment(self, threads: int) -> dict[str, str]:
        """The variables of its processes."""
        return pinned(threads) | ({"PYTHONPATH": self.folder} if self.folder else {})


def fixed(threads: int) -> dict[str, str]:
    """The variables that must be the same: threads and hash seeds; nothing is imported from a script's folder."""
    return {"PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "FASTLR_NUM_THREADS": str(threads)} | dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def pinned(threads: int) -> dict[str, str]:
    """The variables of both processes: those that must be the same, and the caller's that import nothing."""
    dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONSTARTUP")
    return {name: value for name, value in os.environ.items() if name not in dropped} | fixed(threads)


def prepared(given: str, label: str, folder: Path) -> Build:
    """The build that a command-line argument names. A wheel or source folder is installed below `folder`."""
    path = Path(given)
    if path.is_file() and path.suffix == ".whl":
        return Build(label, installed(path, folder / label), path)
    if path.is_dir() and (path / "pyproject.toml").is_file():
        return Build(label, installed(path, folder / label))
    if path.is_file() and os.access(path, os.X_OK):
        return Build(label, renamed(path.absolute(), folder / label))
    raise SystemExit(f"ab.py: {label} must be a Python executable, a wheel or a source folder, got {given!r}")


def renamed(python: Path, link: Path) -> Path:
    """The same Python under a path as long as that of the other build.

    One character more in the paths of its modules moves every object of a process, and made calls of 0.4 us 5 % slower.
    """
    environment = python.parent.parent
    if not (environment / "pyvenv.cfg").is_file():      # (any other Python knows its folder in spite of a link)
        return python
    link.symlink_to(environment, target_is_directory=True)
    return link / python.parent.name / python.name


def installed(source: Path, folder: Path) -> Path:
    """The Python of a new environment with this wheel or source, without its dependencies, and NumPy.

    NumPy, for sources Cython and setuptools, and peers such as torch are those of the Python that runs this, where it
    has them; NumPy that it lacks comes through pip.
    """
    print(f"installing {source} ...", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = subprocess.check_output(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    found = importlib.util.find_spec("numpy")
    if found is not None and found.origin:
        shared = dict.fromkeys([str(Path(found.origin).parents[1]), *getsitepackages()])
        (Path(site) / "ab-shared.pth").write_text("\n".join(shared) + "\n")
    else:
        pip(python, "numpy")
    isolated = any(importlib.util.find_spec(name) is None for name in ("Cython", "setuptools"))
    pip(python, "--no-deps", "--force-reinstall", *([] if isolated else ["--no-build-isolation"]), str(source))
    return python


def pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments], check=True)
