"""Does a change execute more instructions than the last release? python benchmarks/gate.py [BUILD]

BUILD is a Python that has fastlr, a wheel or a source folder; without it, this Python, with the fastlr of this checkout
where that is built in place. Callgrind counts the instructions of the workloads of `release_workloads.py`: rules of
elements, sums and matrices, storage, rows, stages, schedules, constructors, and the call itself. They are compared with
those of the last release in `releases.txt` (benchmarks/history/counts-VERSION.json).

A workload that executes over 1 % more fails, unless the part of CHANGELOG.md for the version at hand has a line for it
below "**Slower**", with the names in backquotes and the most that is allowed:

    **Slower**
    - `call/*`, `small/adam`: up to 4 % more instructions, because ...

Counts repeat to the digit with the same compiler, Python, NumPy, C library, valgrind and processor; between processors
they differ by up to 0.3 %, as the C library and NumPy choose functions by them, so a line stays below "**Slower**"
while a workload is that close to 1 %. Where one of these but the processor is another than in the file of the last
release, that release is built and counted here first, which takes minutes more.
"""
from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import ab_counts
import release
from ab_environments import Build, prepared

LIMIT = 0.01
MACHINES = 0.003                            # counts of one build differ by this between processors
CHANGELOG = release.ROOT / "CHANGELOG.md"
ALLOWED = re.compile(r"up to ([\d.]+) % more instructions")


def path_of(version: str) -> Path:
    return release.HISTORY / f"counts-{version}.json"


def write(path: Path, version: str, commit: str, counts: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": version, "hash": commit, "tools": release.tools(), "counts": counts},
                               indent=0) + "\n")


def last_release() -> dict[str, Any]:
    """The counts of the last release, as this machine's tools give them."""
    commit = release.released()[-1]
    kept = [json.loads(path.read_text()) for path in release.HISTORY.glob("counts-*.json")]
    found: dict[str, Any] = next((each for each in kept if each["hash"] == commit), {"tools": {}})
    differing = [f"{what} {found['tools'].get(what, 'none')} -> {now}" for what, now in release.tools().items()
                 if found["tools"].get(what) != now]
    if not differing:
        return found
    version = release.version_of(commit)
    print(f"the counts of {version} were made with other tools ({', '.join(differing)}): it is built and counted here",
          file=sys.stderr)
    local = release.BUILT / commit / "counts.json"
    if not local.exists() or json.loads(local.read_text())["tools"] != release.tools():
        write(local, version, commit, release.count(release.built(commit).build))
    again: dict[str, Any] = json.loads(local.read_text())
    return again


def section(text: str) -> str:
    """The newest version's part of a CHANGELOG."""
    parts = re.split(r"^## ", text, flags=re.M)
    return parts[1] if len(parts) > 1 else ""


def allowed(text: str) -> dict[str, float]:
    """What the lines below "**Slower**" allow: {pattern: rise}."""
    found = {}
    block = re.search(r"^\*\*Slower\*\*[^\n]*\n(.*?)(?=^\*\*|^#|\Z)", section(text), flags=re.M | re.S)
    for entry in re.split(r"^- ", block[1], flags=re.M)[1:] if block else ():
        limit = ALLOWED.search(" ".join(entry.split()))
        if limit is None:
            raise SystemExit(f"gate.py: CHANGELOG.md, Slower: {entry.splitlines()[0]!r} must say `up to N % more "
                             f"instructions`")
        for pattern in re.findall(r"`([^`]+)`", entry.split(":")[0]):
            found[pattern] = float(limit[1]) / 100
    return found


def rises(old: dict[str, float], new: dict[str, float], accepted: dict[str, float]) -> dict[str, tuple[float, float]]:
    """The workloads that execute more than is allowed: {name: (rise, what is allowed)}."""
    found = {}
    for name in old.keys() & new.keys():
        limit = max([LIMIT, *(rise for pattern, rise in accepted.items() if fnmatchcase(name, pattern))])
        if new[name] > old[name] * (1 + limit):
            found[name] = (new[name] / old[name] - 1, limit)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def judge(old: dict[str, float], new: dict[str, float], changelog: str) -> tuple[list[str], bool]:
    """What there is to say, and whether the gate holds."""
    accepted = allowed(changelog)
    found = rises(old, new, accepted)
    ratios = {name: new[name] / old[name] for name in old.keys() & new.keys()}
    lines = [f"FAIL {name}: {old[name]:,.0f} -> {new[name]:,.0f} instructions, + {100 * rise:.2f} %, allowed "
             f"{100 * limit:g} %" for name, (rise, limit) in found.items()]
    gone = [name for name in old if name not in new]
    lines += [f"FAIL {name}: is no longer there" for name in gone]
    unused = [pattern for pattern in accepted if not any(
        fnmatchcase(name, pattern) and ratio > 1 + LIMIT - MACHINES for name, ratio in ratios.items())]
    lines += [f"FAIL CHANGELOG.md, Slower: `{pattern}` names nothing that executes more" for pattern in unused]
    more = sum(ratio > 1 + LIMIT for ratio in ratios.values())
    fewer = sum(ratio < 1 - LIMIT for ratio in ratios.values())
    lines.append(f"{len(ratios)} workloads: {fewer} execute over 1 % fewer instructions, {more} over 1 % more "
                 f"({more - len(found)} of them allowed), {len(new.keys() - old.keys())} are new")
    return lines, not (found or gone or unused)


def build_of(given: str | None, folder: Path) -> Build:
    if given:
        return prepared(given, "new", folder)
    if any((release.ROOT / "fastlr" / "_engine").glob("*.so")):
        return Build("this checkout", Path(sys.executable), folder=str(release.ROOT))
    return Build("this Python", Path(sys.executable))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("build", nargs="?", metavar="BUILD", help="a Python executable, a wheel or a source folder")
    parser.add_argument("--make", metavar="HASH", help="build a release and write its file; no comparison")
    parser.add_argument("--json", metavar="FILE", help="write what was counted")
    chosen = parser.parse_args()
    if not ab_counts.available():
        parser.error("valgrind is not installed")
    if chosen.make:
        made = release.built(chosen.make)
        write(path_of(made.version), made.version, made.hash, release.count(made.build))
        print(path_of(made.version))
        return 0
    old = last_release()
    with tempfile.TemporaryDirectory(prefix="fastlr-gate-") as folder:
        new = release.count(build_of(chosen.build, Path(folder)))
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(new, indent=0))
    lines, holds = judge(old["counts"], new, CHANGELOG.read_text(encoding="utf-8"))
    print("\n".join(lines))
    print(f"against {old['version']}: " + ("no kernel and no call executes more" if holds else "FAILED"))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
