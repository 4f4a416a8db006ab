"""Two installed builds of fastlr, measured in turns: the ratio of each workload, and whether it is slower.

OLD and NEW are each the Python executable of an environment, a wheel or a source folder (installed into an environment
of its own). A process of each build runs one workload for some milliseconds when it is asked to, in rounds of old, new,
new, old; a round's ratio is the time of new over that of old. All is measured in three pairs of processes or more, what
is unsure or looks slower in more of them; what stays unsure is decided by callgrind's count of instructions, where
valgrind is installed.
The exit status is 1 if a workload is SLOWER, else 0.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from time import monotonic
from typing import Any

import ab_counts
from ab_child import batched
from ab_environments import Build, pinned, prepared
from ab_verdict import FASTER, SAME, SLOWER, UNSURE, summarise, suspect, verdict, verdict_of_counts

CHILD = Path(__file__).with_name("ab_child.py")
ROUNDS = 5                       # of an attempt
MOST_ATTEMPTS = 15               # what fifteen pairs of processes leave unsure, a sixteenth will
NO_TIME = "no time was left; give a larger --budget"
SAMPLE = 4e-3                    # seconds, about
NUMPY = "import/numpy"           # how long the other import takes: NumPy is the same in both, and not counted
IMPORTS = {NUMPY: "", "import/fastlr after numpy": "import fastlr"}
IMPORT_CODE = """from time import process_time as now; a = now(); import numpy; b = now(); {0}
print(b - a, now() - b)"""


class Lost(Exception):
    """A process ended where an answer was expected."""


class Child:
    """A process of one build, which measures when it is asked to."""

    def __init__(self, build: Build, threads: int, number: int = 0, module: Sequence[str] = ()) -> None:
        self.label = build.label
        self.process = subprocess.Popen([str(build.python), str(CHILD), str(number), *module], text=True,
                                        env=build.environment(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, what: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps([what, *arguments]), file=self.process.stdin, flush=True)
            reply = self.process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            raise Lost(f"ab.py: the process of {self.label} ended with {self.end()} in {what} "
                       f"{' '.join(map(str, arguments))}")
        return json.loads(reply)

    def end(self) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()
        return self.process.wait()


class Pair:
    """A process of each build. Which is started and asked first alternates from one pair to the next."""

    def __init__(self, builds: tuple[Build, Build], threads: int, number: int = 0) -> None:
        self.first = first = number % 2
        started = {which: Child(builds[which], threads, number) for which in (first, 1 - first)}
        self.children = (started[0], started[1])

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.end()

    def both(self, what: str, *arguments: Any) -> list[Any]:
        answers = {which: self.children[which].ask(what, *arguments) for which in (self.first, 1 - self.first)}
        return [answers[0], answers[1]]


@dataclass
class Result:
    """What was found of one workload: seconds a call of each round by attempt, and what lacks it."""

    name: str
    old: list[list[float]] = field(default_factory=list)
    new: list[list[float]] = field(default_factory=list)
    lacks: dict[str, str] = field(default_factory=dict)
    counts: tuple[float, float] | None = None

    @property
    def attempts(self) -> list[list[float]]:
        return [[n / o for o, n in zip(*rounds, strict=True)] for rounds in zip(self.old, self.new, strict=True)]

    def verdict(self, threshold: float) -> str:
        timed = verdict(self.attempts, threshold) if self.old else UNSURE
        return verdict_of_counts(*self.counts, threshold) if timed == UNSURE and self.counts else timed


def rounds_of(sample: Callable[[int], float], first: int) -> tuple[list[float], list[float]]:
    """Mean seconds of old and of new in each round of first, other, other, first, in which a drift cancels.

    `sample(0)` measures old, `sample(1)` new.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        a, b, c, d = (sample(which) for which in (first, 1 - first, 1 - first, first))
        times[first].append((a + d) / 2)
        times[1 - first].append((b + c) / 2)
    return times


def attempt(pair: Pair, result: Result) -> None:
    """Measure one workload in this pair of processes."""
    made = pair.both("make", result.name)
    result.lacks = {child.label: answer["lacks"] for child, answer in zip(pair.children, made, strict=True)
                    if "lacks" in answer}
    if result.lacks:
        return
    calls, batches = batched(max(answer["seconds"] for answer in made), SAMPLE)
    pair.both("sample", calls, batches)                  # (dropped: caches and predictors are the other's)
    old, new = rounds_of(lambda which: pair.children[which].ask("sample", calls, batches), pair.first)
    result.old.append(old)
    result.new.append(new)


def imported(builds: tuple[Build, Build], result: Result, threads: int, first: int) -> None:
    """Seconds of processor time that importing takes, each time in a new process."""
    def sample(which: int) -> float:
        code = IMPORT_CODE.format(IMPORTS[result.name] or "pass")
        taken = subprocess.check_output([str(builds[which].python), "-c", code], env=pinned(threads), text=True)
        return float(taken.split()[1 if IMPORTS[result.name] else 0])

    for which in (0, 1):
        sample(which)                                    # (writes bytecode, reads files)
    old, new = rounds_of(sample, first)
    result.old.append(old)
    result.new.append(new)


def measure(builds: tuple[Build, Build], results: Iterable[Result], threads: int, number: int,
            due: Callable[[Result], bool], say: Callable[[Result], None]) -> None:
    """One attempt at each of these workloads for which there is time, in one pair of processes."""
    with Pair(builds, threads, number) as pair:
        for result in results:
            if not due(result) or result.lacks:
                continue
            if result.name in IMPORTS:
                imported(builds, result, threads, pair.first)
            else:
                attempt(pair, result)
            say(result)


# The report


def told(seconds: float) -> str:
    for unit, scale in (("s ", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:8.2f} {unit}"
    return f"{seconds * 1e9:8.1f} ns"


def line(result: Result, threshold: float) -> str:
    said = result.verdict(threshold)
    row = f"{result.name:38s}"
    if result.old:
        found = summarise(result.attempts)
        old, new = (min(map(min, times)) for times in (result.old, result.new))
        row += f" {told(old)} {told(new)}  {found.ratio:6.3f}  {found.lower_quartile:.3f}-{found.upper_quartile:.3f}" \
               f" {found.attempts:3d}  {said}"
    if result.counts:
        old_count, new_count = result.counts
        row += f"  instructions {old_count:,.0f} -> {new_count:,.0f}, {new_count / old_count:.6f}" \
               + ("" if result.old else f"  {said}")
    return row


HEAD = f"{'workload':38s} {'old, least':>11s} {'new, least':>11s}   ratio  quartiles   pairs verdict"


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}"


def sizes(builds: tuple[Build, Build], abouts: list[dict[str, Any]]) -> dict[str, list[int | None]]:
    wheels = [build.wheel.stat().st_size if build.wheel else None for build in builds]
    return {"installed, bytes": [about["size"] for about in abouts], "wheel, bytes": wheels}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="a Python executable, a wheel or a source folder")
    parser.add_argument("new", metavar="NEW", help="the same of the build that is to be no slower")
    parser.add_argument("--budget", type=float, default=5.0, metavar="MINUTES",
                        help="about how long to measure (default 5); counting comes on top")
    parser.add_argument("--only", default="*", metavar="PATTERN",
                        help="workloads of these names, as 'cache/*' or 'cache/*,call/*'")
    parser.add_argument("--threshold", type=float, default=3.0, metavar="PERCENT", help="default 3")
    parser.add_argument("--threads", type=int, default=1, metavar="N",
                        help="threads of both (default 1: timed by the process's own clock)")
    parser.add_argument("--counts", action="store_true",
                        help="no timing: count the instructions of every workload by callgrind")
    parser.add_argument("--no-counts", action="store_true", help="leave unsure what is unsure")
    parser.add_argument("--json", metavar="FILE", help="write every round's figure")
    chosen = parser.parse_args()
    if chosen.threads < 1 or chosen.budget <= 0 or chosen.threshold <= 0:
        parser.error("--threads, --budget and --threshold must be above 0")
    if chosen.counts and not ab_counts.available():
        parser.error("--counts needs valgrind, which is not installed")
    return chosen


def main() -> int:
    chosen = arguments()
    with tempfile.TemporaryDirectory(prefix="fastlr-ab-") as folder:
        builds = (prepared(chosen.old, "old", Path(folder)), prepared(chosen.new, "new", Path(folder)))
        try:
            return compare(builds, chosen)
        except Lost as lost:
            print(lost, file=sys.stderr)
            return 1


def compare(builds: tuple[Build, Build], chosen: argparse.Namespace) -> int:
    threshold, begin = chosen.threshold / 100, monotonic()
    with Pair(builds, chosen.threads) as pair:
        abouts, lists = pair.both("about"), pair.both("list")
    print(f"machine  {machine()}")
    for build, about in zip(builds, abouts, strict=True):
        print(f"{build.label:8s} {', '.join(f'{key} {value}' for key, value in about.items() if key != 'size')}")
    patterns = chosen.only.split(",")
    names = [*dict.fromkeys([*IMPORTS, *lists[0], *lists[1]])]
    results = [Result(name) for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)
               and not (chosen.counts and name == NUMPY)]
    for result in results:
        result.lacks = {build.label: "not listed" for build, known in zip(builds, lists, strict=True)
                        if result.name not in IMPORTS and result.name not in known}
    wanted = [result for result in results if not result.lacks]
    if not chosen.counts:
        timed(builds, wanted, chosen, threshold, begin)
    if ab_counts.available() and not chosen.no_counts:
        unsure = [result for result in wanted if not result.lacks and result.verdict(threshold) == UNSURE
                  and result.name != NUMPY]
        count(builds, unsure)
    return report(builds, abouts, results, chosen, threshold)


def timed(builds: tuple[Build, Build], results: list[Result], chosen: argparse.Namespace, threshold: float,
          begin: float) -> None:
    """Measure all, and again what is unsure, while the budget lasts: each time in new processes, the slowest first.

    What looks slower is measured as often as the verdict needs, whatever the budget.
    """
    def due(result: Result) -> bool:
        return monotonic() < begin + 60 * chosen.budget or (
            bool(result.old) and suspect(result.attempts, threshold))

    def say(result: Result) -> None:
        if sys.stderr.isatty():
            print(f"\r{result.name:40s}\r", end="", file=sys.stderr, flush=True)

    measured, number = results, 0
    while any(due(result) for result in measured):
        measure(builds, measured, chosen.threads, number, due, say)
        number += 1
        measured = [result for result in results if result.old and result.verdict(threshold) == UNSURE
                    and len(result.old) < MOST_ATTEMPTS]
        measured.sort(key=lambda result: -summarise(result.attempts).ratio)
    for result in results:
        if not result.old and not result.lacks:
            result.lacks = dict.fromkeys(("old", "new"), NO_TIME)


def count(builds: tuple[Build, Build], results: list[Result]) -> None:
    if not results:
        return
    print(f"counting the instructions of {len(results)} workloads ...", file=sys.stderr, flush=True)
    names = [result.name for result in results]
    old, new = (ab_counts.counted(build, names) for build in builds)
    for result in results:
        if result.name in old and result.name in new:
            result.counts = (old[result.name], new[result.name])
        elif not result.old:
            result.lacks = {label: "raises" for label, found in (("old", old), ("new", new))
                            if result.name not in found}


def left_out(lacking: list[Result]) -> Iterator[str]:
    """One line for each workload that one build has; what neither has, and what was not reached, by group."""
    groups: dict[str, dict[str, list[str]]] = {}
    for result in lacking:
        if set(result.lacks.values()) == {NO_TIME}:
            why = f"not measured, {NO_TIME}"
        elif len(result.lacks) == 2:
            why = "left out, as neither build has it"
        else:
            yield f"left out: {result.name}: {'; '.join(f'{who}: {reason}' for who, reason in result.lacks.items())}"
            continue
        group, _, rest = result.name.partition("/")
        groups.setdefault(why, {}).setdefault(group, []).append(rest)
    for why, found in groups.items():
        for group, rest in found.items():
            yield f"{why}: {group}/ {', '.join(rest)}"


def report(builds: tuple[Build, Build], abouts: list[dict[str, Any]], results: list[Result],
           chosen: argparse.Namespace, threshold: float) -> int:
    shown = [result for result in results if not result.lacks]
    if shown and not chosen.counts:
        print(HEAD)
    for result in shown:
        print(line(result, threshold))
    for left in left_out([result for result in results if result.lacks]):
        print(left)
    for what, (old, new) in sizes(builds, abouts).items():
        known = f"{old:,} -> {new:,} ({new / old:.3f})" if old and new else "known only of a wheel that was given"
        print(f"{what}: {known}")
    said = {verdict_: [r.name for r in shown if r.verdict(threshold) == verdict_]
            for verdict_ in (FASTER, SAME, UNSURE, SLOWER)}
    print(f"{len(shown)} workloads, threshold {chosen.threshold:g} %: "
          + ", ".join(f"{len(found)} {verdict_}" for verdict_, found in said.items()))
    for verdict_ in (UNSURE, SLOWER):
        if said[verdict_]:
            print(f"{verdict_}: {', '.join(said[verdict_])}")
    if chosen.json:
        document = {"machine": machine(), "old": abouts[0], "new": abouts[1], "threshold": threshold,
                    "sizes": sizes(builds, abouts),
                    "workloads": [asdict(r) | ({} if r.lacks else {"verdict": r.verdict(threshold)}
                                               | ({"summary": asdict(summarise(r.attempts))} if r.old else {}))
                                  for r in results]}
        Path(chosen.json).write_text(json.dumps(document, indent=1))
    return 1 if said[SLOWER] else 0


if __name__ == "__main__":
    sys.exit(main())
