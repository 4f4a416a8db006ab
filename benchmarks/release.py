"""Every release of fastlr, measured in one run beside its peers: python benchmarks/release.py [--help].

The releases are those of `releases.txt` (a hash a line), and the commit that is checked out, unless it is one of them.
Each is built from a worktree of its own into a wheel, which is installed into an environment of its own (kept under
build/releases, so that a second run builds nothing). Then a process of each release and of each peer that is installed
(torch, optax; NumPy, a loop in C and the bytes-only roof always) runs a workload for some milliseconds when it is asked
to, in rounds of first, second, ..., last, last, ..., first; five such rounds are an attempt. All workloads are measured
once, and again in new processes as long as the budget lasts; then those that look slower than in the release before,
until that can be said. Last, callgrind counts each release's instructions.

Raw figures go to benchmarks/history/DATE-VERSION.json, and the page that shows them to build/releases.html.
"""
from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any
from zlib import crc32

import ab_counts
from ab import IMPORTS, SAMPLE, Child, Lost, machine
from ab_child import batched
from ab_environments import Build, pinned, prepared
from ab_verdict import suspect
from release_page import THRESHOLD, ratios, write_page
from release_peers import PEERS

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("releases.txt")
HISTORY = Path(__file__).with_name("history")
BUILT = ROOT / "build" / "releases"
ROUNDS = 5
IMPORT_CODE = """from time import process_time as now; a = now(); import numpy; b = now(); {0}
print(b - a, now() - b)"""
#: What is counted: all but what is too large for callgrind, is another size of what is counted, or is LAPACK's work.
UNCOUNTED = ("memory/*", "storage/*, memory", "call/*C interface", "call/*torch*", "schedule/*, 10,000",
             "matrix/*, a layer", "*/shampoo*", "*/soap*")


@dataclass
class Release:
    """A commit, what its own pyproject.toml calls it, and what building it gave."""

    version: str
    hash: str
    date: str
    build: Build
    build_seconds: float
    about: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        assert self.build.wheel is not None
        return {"version": self.version, "hash": self.hash, "date": self.date, "build seconds": self.build_seconds,
                "wheel bytes": self.build.wheel.stat().st_size, "installed bytes": self.about.get("size")}


def git(*arguments: str) -> str:
    return subprocess.check_output(["git", "-C", str(ROOT), *arguments], text=True).strip()


def released() -> list[str]:
    """The hashes of releases.txt, the oldest first."""
    return [line.strip() for line in LIST.read_text().splitlines() if line.strip()]


def version_of(commit: str) -> str:
    return str(tomllib.loads(git("show", f"{commit}:pyproject.toml"))["project"]["version"])


def built(commit: str, again: bool = False) -> Release:
    """The release of a commit in an environment of its own; built only where it is not there yet."""
    commit = git("rev-parse", commit)
    folder = BUILT / commit
    facts = folder / "build.json"
    env = folder / f"{crc32(sys.prefix.encode()):08x}"       # (it shares the NumPy of the Python that runs this)
    if again or not facts.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="fastlr-release-") as temporary:
            source = Path(temporary) / "source"
            git("worktree", "add", "--detach", str(source), commit)
            try:
                print(f"building {version_of(commit)} ({commit[:9]}) ...", file=sys.stderr, flush=True)
                begin = monotonic()
                wheel(source, folder)
                seconds = monotonic() - begin
            finally:
                git("worktree", "remove", "--force", str(source))
        found, = folder.glob("*.whl")
        facts.write_text(json.dumps({"seconds": seconds, "wheel": found.name}))
    told = json.loads(facts.read_text())
    if not (env / "bin" / "python").exists():
        prepared(str(folder / told["wheel"]), env.name, folder)
    label = version_of(commit)
    return Release(label, commit, git("show", "-s", "--format=%cs", commit),
                   Build(label, env / "bin" / "python", folder / told["wheel"]), told["seconds"])


def wheel(source: Path, folder: Path) -> None:
    """The wheel of a source folder, built with the Cython and setuptools of this Python where it has them."""
    isolated = any(missing(name) for name in ("cython", "setuptools"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps",
                    *([] if isolated else ["--no-build-isolation"]), "-w", str(folder), str(source)], check=True)


def missing(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return True
    return False


# Measuring


@dataclass
class Result:
    """Of one workload: what a call does, and seconds a call of each round of each attempt, by release or peer."""

    unit: str = ""
    amount: float = 1.0
    bytes: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[list[float]]] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)


def in_rounds(sample: Any, members: list[str]) -> dict[str, list[float]]:
    """Mean seconds of each member in each round of first, ..., last, last, ..., first, in which a drift cancels."""
    times: dict[str, list[float]] = {member: [] for member in members}
    for _ in range(ROUNDS):
        found = {member: sample(member) for member in members}
        for member in reversed(members):
            times[member].append((found[member] + sample(member)) / 2)
    return times


def attempt(children: dict[str, Child], name: str, result: Result) -> None:
    """Measure a workload once, in the processes of those who have it."""
    ready: dict[str, float] = {}
    for member, child in children.items():
        made = child.ask("make", name)
        if "lacks" in made:
            result.lacks[member] = made["lacks"]
            continue
        ready[member] = made["seconds"]
        result.unit, result.amount = made.get("unit", result.unit), made.get("amount", result.amount)
        if "bytes" in made:
            result.bytes[member] = made["bytes"]
    sizes = {member: batched(seconds, SAMPLE) for member, seconds in ready.items()}

    def sample(member: str) -> float:
        return float(children[member].ask("sample", *sizes[member]))

    for member in ready:                                 # (dropped: caches and predictors are another's)
        sample(member)
    for member, times in in_rounds(sample, list(ready)).items():
        result.seconds.setdefault(member, []).append([significant(seconds) for seconds in times])


def significant(seconds: float) -> float:
    return float(f"{seconds:.4g}")


def imported(releases: list[Release], name: str, result: Result) -> None:
    """Seconds of processor time that importing takes, each time in a new process."""
    pythons = {release.version: release.build.python for release in releases}

    def sample(member: str) -> float:
        code = IMPORT_CODE.format(IMPORTS[name] or "pass")
        taken = subprocess.check_output([str(pythons[member]), "-c", code], env=pinned(1), text=True)
        return float(taken.split()[1 if IMPORTS[name] else 0])

    result.unit = "imports"
    for member in pythons:
        sample(member)
    for member, times in in_rounds(sample, list(pythons)).items():
        result.seconds.setdefault(member, []).append([significant(seconds) for seconds in times])


class Run:
    """One interleaved run over all releases and peers."""

    def __init__(self, releases: list[Release], chosen: argparse.Namespace) -> None:
        self.releases, self.chosen = releases, chosen
        self.begin = monotonic()
        self.peers: dict[str, str] = {}
        self.results: dict[str, Result] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.listed: dict[str, set[str]] = {}

    def children(self, stack: ExitStack, number: int) -> dict[str, Child]:
        """A process of each release and of each peer; which is started and asked first changes with the attempt."""
        wanted = [(release.build, ("release_workloads",)) for release in self.releases]
        newest = self.releases[-1].build
        wanted += [(Build(peer, newest.python), ("release_peers", peer)) for peer in self.peers]
        if number % 2:
            wanted.reverse()
        children = {}
        for build, module in wanted:
            child = Child(build, 1, number, module)
            stack.callback(child.end)
            children[build.label] = child
        return children

    def find_peers(self) -> None:
        """The peers whose workloads can be listed; a missing one is named and left out."""
        for peer in PEERS if not self.chosen.no_peers else ():
            child = Child(Build(peer, self.releases[-1].build.python), 1, 0, ("release_peers", peer))
            try:
                self.listed[peer] = set(child.ask("list"))
                self.peers[peer] = distribution_of(peer)
            except Lost:
                print(f"{peer} is not installed beside this Python: left out", file=sys.stderr)
            finally:
                child.end()

    def measure(self) -> int:
        """Attempts while the budget lasts; how many were made of every workload."""
        self.find_peers()
        attempts = 0
        while self.left() > 0:
            with ExitStack() as stack:
                children = self.children(stack, attempts)
                if not attempts:
                    self.describe(children)
                for k, name in enumerate(self.results):
                    if self.left() <= 0:
                        break
                    if sys.stderr.isatty():
                        print(f"\r{attempts + 1}: {k + 1} of {len(self.results)} {name:50s}", end="", file=sys.stderr,
                              flush=True)
                    self.attempt(children, name)
                else:
                    attempts += 1
        self.decide(attempts)
        return attempts

    def attempt(self, children: dict[str, Child], name: str) -> None:
        """Measure one workload once more."""
        result = self.results[name]
        if name in IMPORTS:
            imported(self.releases, name, result)
        else:
            attempt({who: child for who, child in children.items() if name in self.listed[who]
                     and who not in result.lacks}, name, result)

    def decide(self, number: int) -> None:
        """Measure again what looks slower than in the release before, until that can be said: whatever the budget."""
        members = [release.version for release in self.releases[-2:]]

        def looks_slower(result: Result) -> bool:
            before, now = (result.seconds.get(member, []) for member in members)
            return bool(before and now) and suspect(ratios(now, before), THRESHOLD)

        while len(members) == 2 and (names := [name for name, found in self.results.items() if looks_slower(found)]):
            with ExitStack() as stack:
                children = self.children(stack, number)
                for name in names:
                    self.attempt(children, name)
            number += 1

    def left(self) -> float:
        return self.begin + 60 * float(self.chosen.budget) - monotonic()

    def describe(self, children: dict[str, Child]) -> None:
        """What each release is and has."""
        names: dict[str, None] = dict.fromkeys(IMPORTS)
        for release in self.releases:
            child = children[release.version]
            release.about, self.facts[release.version] = child.ask("about"), child.ask("facts")
            listed = child.ask("list")
            self.listed[release.version] = set(listed)
            names |= dict.fromkeys(listed)
        self.results = {name: Result() for name in names if chosen_name(name, self.chosen.only)}


def chosen_name(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split(","))


def distribution_of(peer: str) -> str:
    if peer in ("C", "roof"):
        return compiler()
    return version(peer.lower())


def compiler() -> str:
    try:
        return subprocess.check_output(["cc", "--version"], text=True).splitlines()[0]
    except OSError:
        return "none"


# Counting


def counted(name: str) -> bool:
    """Whether a workload's instructions are counted."""
    return not any(fnmatchcase(name, pattern) for pattern in UNCOUNTED) and name not in IMPORTS


def count(build: Build, only: str = "*") -> dict[str, float]:
    """Instructions of one call of each workload that is counted, by name.

    In two processes side by side; in which of them a workload is depends on its name alone.
    """
    child = Child(build, 1, 0, ("release_workloads",))
    try:
        names = [name for name in child.ask("list") if counted(name) and chosen_name(name, only)]
    finally:
        child.end()
    parts = [part for k in (0, 1) if (part := [name for name in names if crc32(name.encode()) % 2 == k])]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda part: ab_counts.counted(build, part, "release_workloads"), parts)
    together = {name: instructions for part in found for name, instructions in part.items()}
    return {name: together[name] for name in names if name in together}


def tools() -> dict[str, str]:
    """What counts of instructions depend on besides fastlr."""
    found = {"python": platform.python_version(), "libc": " ".join(platform.libc_ver()), "compiler": compiler(),
             "machine": platform.machine()}
    for package in ("numpy", "cython"):
        found[package] = "none" if missing(package) else version(package)
    if ab_counts.available():
        found["valgrind"] = subprocess.check_output(["valgrind", "--version"], text=True).strip()
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--budget", type=float, default=20.0, metavar="MINUTES",
                        help="how long to measure (default 20); building and counting come on top")
    parser.add_argument("--only", default="*", metavar="PATTERN",
                        help="workloads of these names, as 'call/*,cache/adam*'")
    parser.add_argument("--no-peers", action="store_true", help="releases alone")
    parser.add_argument("--no-counts", action="store_true", help="no counts of instructions")
    parser.add_argument("--rebuild", action="store_true", help="build all again")
    parser.add_argument("--json", metavar="FILE", help="instead of benchmarks/history/DATE-VERSION.json")
    parser.add_argument("--page", metavar="FILE", default=str(ROOT / "build" / "releases.html"),
                        help="default: build/releases.html")
    chosen = parser.parse_args()
    if chosen.budget <= 0:
        parser.error("--budget must be above 0")
    return chosen


def main() -> int:
    chosen = arguments()
    commits = list(dict.fromkeys([*(git("rev-parse", commit) for commit in released()), git("rev-parse", "HEAD")]))
    if git("status", "--porcelain", "--untracked-files=no"):
        print("the checked-out commit is measured, without what was changed since", file=sys.stderr)
    releases = [built(commit, chosen.rebuild) for commit in commits]
    labels = [release.version for release in releases]
    if len(set(labels)) < len(labels):
        raise SystemExit(f"release.py: two of the commits have one version ({', '.join(labels)}): raise that of "
                         f"pyproject.toml after a release, or remove a line of {LIST.name}")
    run = Run(releases, chosen)
    try:
        attempts = run.measure()
    except Lost as lost:
        print(lost, file=sys.stderr)
        return 1
    counts: dict[str, dict[str, float]] = {}
    if not chosen.no_counts and ab_counts.available():
        for release in releases:
            print(f"counting instructions of {release.version} ...", file=sys.stderr, flush=True)
            counts[release.version] = count(release.build, chosen.only)
    document = {
        "date": date.today().isoformat(), "command": " ".join(["release.py", *sys.argv[1:]]),
        "budget, minutes": chosen.budget, "attempts": attempts, "threads": 1,
        "machine": machine(), "platform": platform.platform(), "tools": tools(), "peers": run.peers,
        "releases": [release.facts() | {"python": release.about.get("python"), "numpy": release.about.get("numpy")}
                     for release in releases],
        "facts": run.facts, "counts": counts,
        "workloads": {name: asdict(result) for name, result in run.results.items()},
    }
    path = Path(chosen.json) if chosen.json else HISTORY / f"{document['date']}-{labels[-1]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    write_page(path, Path(chosen.page))
    print(f"{len(releases)} releases, {len(run.results)} workloads, {attempts} attempts at all of them\n{path}\n"
          f"{chosen.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
