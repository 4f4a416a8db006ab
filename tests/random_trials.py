"""Random trials of every optimizer with every option, against the documentation and against itself.

    python tests/random_trials.py --seed 0 --trials 2000            # what fails is printed as steps to make it again
    python tests/random_trials.py --seed 0 --trials 2000 --only 17  # trial 17 alone, cut down to what still fails

A trial (`trials_programs`) is an optimizer, options, tensors, and events: steps with None, NaN, scaled and 16-bit
gradients, steps over rows, accumulated gradients, groups that join and groups that are refused, rates and schedules
that are set, states that are saved and loaded, interrupts, wrappers. Each event is compared with `reference_engine`, and
the trial is made again in other forms that must give the same bits: with other threads, other memory layouts, each tensor
alone, resumed in the middle, over all rows instead of a step. With --digest, a line for each trial says what came out, for
comparison between instruction sets (FASTLR_ISA).

The trials run in a child process; a crash of it is a failure of the trial that was running.
"""
import argparse
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import trials_programs as programs
from trials_programs import BORROWERS, CAN, TOGETHER, bits
from trials_runs import Run
from trials_storage import Wrong, wrong

# The same trial in other forms

def alone(trial, tensor):
    """The trial of one tensor alone."""
    name, options = tensor["name"], dict(trial["options"])
    for key in ("decay", "decay_mask", "lr_scale"):
        if isinstance(options.get(key), dict):
            options[key] = {name: options[key][name]}
    events = []
    for event in trial["events"]:
        if event["kind"] == "rows" and event["name"] != name:
            event = None
        elif event["kind"] == "step" and name in event.get("none", ()):
            event = event | {"none": [name]}
        elif event["kind"] == "step" and "none" in event:
            event = {k: v for k, v in event.items() if k != "none"}
        if event is not None:
            events.append(event)
    return trial | {"tensors": [tensor | {"group": 0}], "structure": "dict", "options": options, "events": events}


def forms(trial):
    """(name, whether and how) of other forms of this trial."""
    rng = np.random.default_rng([trial["seed"], trial["number"], 7])
    cls, options, events = trial["cls"], trial["options"], trial["events"]
    kinds = {event["kind"] for event in events}
    odd = any("odd" in event for event in events)
    large = max((int(np.prod(tensor["shape"])) for tensor in trial["tensors"]), default=0)
    found = []
    if cls not in BORROWERS and (large > 30_000 or rng.random() < 0.1):
        found.append("threads")
    if cls not in BORROWERS and rng.random() < 0.4:
        found.append("layout")
    if rng.random() < 0.4 and cls not in BORROWERS and "SAM" not in str(trial["wrapper"]):
        found.append("resume")
    if len(trial["tensors"]) > 1 and cls not in TOGETHER and cls not in BORROWERS and not (
            {"clip_norm", "clip_zscore"} & set(options)) and not (odd and options.get("nonfinite") in ("skip", "raise")) \
            and trial["structure"] != "groups" and kinds <= {"step", "set", "refuse", "rewind"} \
            and str(trial["wrapper"])[2:5] != "SAM" and rng.random() < 0.5:
        found.append("alone")
    if CAN[cls]["rows"] and cls != "Sophia" and not (
            {"clip_norm", "clip_zscore", "clip_adaptive"} & set(options)) and \
            trial["wrapper"] is None and not ({"shadow", "master"} & set(options)) and kinds <= {"step", "set", "refuse"} and not (odd and "nonfinite" in options) \
            and all(tensor["shape"] and tensor["shape"][0] and by_whole_groups(tensor, options)
                    for tensor in trial["tensors"]) and not any((event.get("none") and options.get("rounding") == "stochastic") or event.get("zero")
                            for event in events):
        found.append("rows")
    return found


def by_whole_groups(tensor, options):
    size = int(np.prod(tensor["shape"]))
    return options.get("state_dtype") != "int8" or size < 4096 or (size // tensor["shape"][0]) % 64 == 0


def again(trial, form, trace):
    """Make the trial again in that form: Wrong unless the bits are the same."""
    if form == "threads":
        other = Run(trial, threads=3, checked=False).run()
    elif form == "layout":
        other = Run(trial, layout=programs.LAYOUTS[trial["number"] % len(programs.LAYOUTS)]
                    if trial["number"] % 2 else "plain", checked=False).run()
    elif form == "rows":
        other = Run(trial, by_rows=True, checked=False).run()
    elif form == "resume":
        rng = np.random.default_rng([trial["seed"], trial["number"], 8])
        at = int(rng.integers(1, len(trial["events"]) + 1)) if len(trial["events"]) > 1 else 0
        run = Run(trial, resume=(at, ("dict", "file")[int(rng.integers(2))]), checked=False)
        other = run.run()
    else:
        whole = Run(trial, checked=False)
        whole.run()
        seen = whole.observed()
        for tensor in trial["tensors"]:
            part = Run(alone(trial, tensor), checked=False)
            part.run()
            one, two = seen["tensors"][tensor["name"]], part.observed()["tensors"][tensor["name"]]
            if bits(one["p"]) != bits(two["p"]) or any(bits(x) != bits(two["slots"][slot]) for slot, x in one["slots"].items()):
                wrong(f"{tensor['name']} moves otherwise alone than with the others")
        return
    if len(other) != len(trace):
        wrong(f"{form}: other events")
    for k, (one, two) in enumerate(zip(trace, other, strict=True)):
        if one != two:
            wrong(f"{form}: other bits after event {k - 1} {trial['events'][k - 1] if k else ''}")


def attempt(trial):
    """What is wrong with a trial, or None; and what it came to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trace = Run(trial).run()
            for form in forms(trial):
                again(trial, form, trace)
        except Wrong as error:
            return str(error), None
        except Exception as error:
            places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            return f"{type(error).__name__}: {error} ({' '.join(places[-4:])})", None
    return None, trace[-1]


# What is printed

def shrunk(trial, says, rounds=60):
    """The trial without what it fails without, in a few attempts."""
    def kind(text):
        return text and (text.split(":")[0] if "Error:" in text else text[:12] if text.startswith(("nothing", "resume"))
                         else "values")

    def fails(other):
        return kind(attempt(other)[0]) == kind(says)

    done = False
    while not done and rounds > 0:
        done = True
        candidates = [trial | {"events": trial["events"][:k] + trial["events"][k + 1:]}
                      for k in range(len(trial["events"]) - 1, -1, -1)]
        candidates += [trial | {"options": {k: v for k, v in trial["options"].items() if k != name}}
                       for name in trial["options"]]
        candidates += [trial | {"hyper": {k: v for k, v in trial["hyper"].items() if k != name}}
                       for name in trial["hyper"] if name != "lr"]
        if trial["wrapper"]:
            candidates.append(trial | {"wrapper": None})
        for other in candidates:
            rounds -= 1
            if rounds > 0 and fails(other):
                trial, done = other, False
                break
    return trial


def described(trial):
    """A trial as lines that say what to do."""
    lines = [f"  {tensor['name']}: {tensor['dtype']} {tensor['shape']} {tensor['layout']}"
             + (f" in group {tensor['group']}" if tensor["group"] else "") for tensor in trial["tensors"]]
    given = trial["hyper"] | trial["options"] | ({"convention": trial["convention"]} if trial["convention"] else {})
    lines.append(f"  opt = fastlr.{trial['cls']}({trial['structure']}, "
                 + ", ".join(f"{name}={value!r}" for name, value in given.items()) + ")")
    if trial["wrapper"]:
        lines.append(f"  opt = fastlr.{trial['wrapper'][0]}(opt, {trial['wrapper'][1]})")
    for event in trial["events"]:
        lines.append("  " + event["kind"] + " " + ", ".join(f"{k}={v!r}" for k, v in event.items() if k not in ("kind",)))
    return "\n".join(lines)


def child(seed, numbers, digest, shrink):
    """The trials of a child process."""
    failures = 0
    for k in numbers:
        print(f"@{k}", flush=True)
        if os.environ.get("RANDOM_TRIALS_CRASH") == str(k):        # (to see that it is reported)
            os.abort()
        trial = programs.make(seed, k)
        says, found = attempt(trial)
        if says is not None:
            failures += 1
            print(f"FAILED --seed {seed} --only {k}: {says}\n" + described(trial), flush=True)
            if shrink:
                trial = shrunk(trial, says)
                print(f"cut down: {attempt(trial)[0]}\n" + described(trial), flush=True)
        elif digest:
            print(f"{k} {found}", flush=True)
    return failures


def trials(seed, first, count, environment=None, digest=False, shrink=False):
    """Run trials in child processes; what failed, as texts, and the digests."""
    failures, digests, k, behind = [], {}, first, first + count
    environment = dict(os.environ if environment is None else environment)
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
    while k < behind:
        command = [sys.executable, "-X", "faulthandler", __file__, "--seed", str(seed), "--first", str(k), "--trials",
                   str(behind - k), "--child"] + ["--digest"] * digest + ["--shrink"] * shrink
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if "@" not in done.stdout:
            raise RuntimeError(f"random_trials: the child process did not begin:\n{done.stderr[-3000:]}")
        texts, running = [], k
        for line in done.stdout.splitlines():
            if line.startswith("@"):
                running = int(line[1:])
                texts.append("")
            elif digest and len(line.split()) == 2 and len(line.split()[1]) == 64:
                digests[int(line.split()[0])] = line.split()[1]
            elif texts:
                texts[-1] += line + "\n"
        failures += [text for text in texts if text]
        if done.returncode in (0, 1) and "Traceback" not in done.stderr:
            break
        failures.append(f"CRASHED --seed {seed} --only {running}: status {done.returncode}\n"
                        f"{described(programs.make(seed, running))}\n{done.stderr[-1500:]}")
        k = running + 1
    return failures, digests


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--only", type=int)
    parser.add_argument("--digest", action="store_true")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        sys.exit(bool(child(given.seed, range(given.first, given.first + given.trials), given.digest, given.shrink)))
    first, count = (given.first, given.trials) if given.only is None else (given.only, 1)
    failures, digests = trials(given.seed, first, count, digest=given.digest, shrink=given.shrink or given.only is not None)
    for number_of, found in digests.items():
        print(number_of, found)
    print("\n".join(failures))
    print(f"{len(failures)} of {count} trials failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
