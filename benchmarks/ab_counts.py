"""Instructions of workloads by callgrind: the same digits in every run, whatever else runs.

One process of each build runs the workloads between two calls of ctermid, a function of the C library that nobody
else calls and before each of which callgrind writes what it counted since the one before. FASTLR_ISA=v3, as valgrind
does not run AVX-512. What a count does not see is memory: a build that waits longer for it executes no more of them.
"""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ab_environments import Build

CHILD = Path(__file__).with_name("ab_child.py")
TOTAL = re.compile(rb"^(?:summary|totals): (\d+)", re.MULTILINE)


def available() -> bool:
    return shutil.which("valgrind") is not None


def counted(build: Build, names: list[str], module: str = "ab_workloads") -> dict[str, float]:
    """Instructions of one call of each workload of this module that this build has."""
    with tempfile.TemporaryDirectory(prefix="fastlr-ab-") as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--dump-before=ctermid", "--compress-pos=yes", "--compress-strings=yes",
             f"--callgrind-out-file={folder}/counted", str(build.python), str(CHILD), "--count", json.dumps(names),
             module], capture_output=True, text=True,
            env=build.environment(1) | {"FASTLR_ISA": "v3", "OPENBLAS_CORETYPE": "Haswell"})
        if done.returncode:
            raise SystemExit(f"ab.py: callgrind of {build.label} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        marks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        # The mark of index k made the dump k + 1, of what came before it: of the second mark's dump is a workload.
        spent = [(name, times, total(Path(folder) / f"counted.{first + 2}")) for first, name, times in marks]
    loop = {times: whole for name, times, whole in spent if not name}
    return {name: max(1.0, (whole - loop[times]) / times) for name, times, whole in spent if name}


def total(dump: Path) -> int:
    """The sum that callgrind writes at the end of a dump."""
    found = TOTAL.findall(dump.read_bytes())
    if not found:
        raise SystemExit(f"ab.py: callgrind wrote no total into {dump.name}")
    return int(found[-1])
