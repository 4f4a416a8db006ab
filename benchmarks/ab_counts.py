"""Instructions of workloads by callgrind: the same digits in every run, whatever else runs.

Processes of each build run the workloads between two calls of ctermid, a function of the C library that nobody
else calls and before each of which callgrind writes what it counted since the one before. FASTLR_ISA=v3, as valgrind
does not run AVX-512. What a count does not see is memory: a build that waits longer for it executes no more of them.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ab_environments import Build, fixed

CHILD = Path(__file__).with_name("ab_child.py")
KEPT = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")                 # of the variables
TOTAL = re.compile(rb"^(?:summary|totals): (\d+)", re.MULTILINE)


def available() -> bool:
    return shutil.which("valgrind") is not None


def counted(build: Build, names: list[str], module: str = "ab_workloads") -> dict[str, float]:
    """Instructions of one call of each workload of this module that this build has."""
    with tempfile.TemporaryDirectory(prefix="fastlr-ab-") as folder:
        python, packages = plain(build, Path(folder) / "packages")
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--dump-before=ctermid", "--compress-pos=yes", "--compress-strings=yes",
             f"--callgrind-out-file={folder}/counted.%p", python, "-S", str(CHILD), "--count", json.dumps(names),
             module], capture_output=True, text=True,
            env={name: os.environ[name] for name in KEPT if name in os.environ} | fixed(1)
            | {"FASTLR_ISA": "v3", "OPENBLAS_CORETYPE": "Haswell", "PYTHONPATH": str(packages)})
        if done.returncode:
            raise SystemExit(f"ab.py: callgrind of {build.label} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        marks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        # The mark of index k made the dump k + 1, of what came before it: of the second mark's dump is a workload.
        spent = [(name, times, total(Path(folder) / f"counted.{process}.{first + 2}"))
                 for process, first, name, times in marks]
    loop = {times: whole for name, times, whole in spent if not name}
    return {name: max(1.0, (whole - loop[times]) / times) for name, times, whole in spent if name}


def plain(build: Build, packages: Path) -> tuple[str, Path]:
    """The Python below an environment, and a folder of links to fastlr and NumPy and nothing else.

    The length of a path, what else an environment imports and the size of the variables move objects, and with them the
    counts of short calls: all builds are counted with the same.
    """
    code = "import os, fastlr, numpy; print(*(os.path.dirname(m.__file__) for m in (fastlr, numpy)), sep='\\n')"
    found = subprocess.check_output([str(build.python), "-c", code], env=build.environment(1), text=True).splitlines()
    packages.mkdir()
    for folder in (*map(Path, found), Path(found[1] + ".libs")):
        if folder.is_dir():
            (packages / folder.name).symlink_to(folder, target_is_directory=True)
    return os.path.realpath(build.python), packages


def total(dump: Path) -> int:
    """The sum that callgrind writes at the end of a dump."""
    found = TOTAL.findall(dump.read_bytes())
    if not found:
        raise SystemExit(f"ab.py: callgrind wrote no total into {dump.name}")
    return int(found[-1])
