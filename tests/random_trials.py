"""Random trials of every optimizer with every option, against the documentation and against itself.

    python tests/random_trials.py --seed 0 --trials 2000            # what fails is printed as steps to make it again
    python tests/random_trials.py --seed 0 --trials 2000 --only 17  # trial 17 alone, cut down to what still fails

A trial (`trials_programs`) is an optimizer, options, tensors, and events: steps with None, NaN, scaled and 16-bit
gradients, steps over rows, accumulated gradients, groups that join and groups that are refused, rates and schedules
that are set, states that are saved and loaded, interrupts, wrappers. Each event is compared with `reference_engine`, and
the trial is made again in other ways that must give the same bits: with other threads, other memory layouts, each tensor
alone, resumed in the middle, over all rows instead of a step. With --digest, a line for each trial says what came out, for
comparison between instruction sets (FASTLR_ISA).

The trials run in a child process; a crash of it is a failure of the trial that was running.
"""
import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import trials_programs as programs
from reference_engine import Engine, Wrong, curvature_of, number, rates_of, unit, wrong
from trials_programs import BORROWERS, CAN, CLASSES, DTYPES, MATRIX, NEED_LOSS, TOGETHER, gradient, place, scheduled

import fastlr

FILES = tempfile.TemporaryDirectory()


class Interrupted(Exception):
    """What a schedule raises in the middle of a step."""


class Run:
    """A trial as it happens, in one of the ways in which it may."""

    def __init__(self, trial, threads=1, layout=None, resume=None, by_rows=False, checked=True):
        self.trial, self.threads, self.layout, self.by_rows = trial, threads, layout, by_rows
        self.resume, self.engine, self.trace = resume, Engine(trial) if checked else None, []
        self.tensors = list(trial["tensors"])
        self.grouped = trial["structure"] == "groups"
        self.arrays = {tensor["name"]: self.placed(tensor) for tensor in self.tensors}

    def placed(self, tensor):
        layout = tensor["layout"] if self.layout is None else self.layout
        return place(programs.parameter(self.trial, tensor), layout)

    # The optimizer

    def structured(self, arrays, groups=None):
        """Arrays (or gradients) by name as the optimizer takes them."""
        kind, names = self.trial["structure"], [tensor["name"] for tensor in self.tensors]
        if not self.grouped:
            return self.part(kind, names, arrays)
        parts = []
        for index in sorted({tensor["group"] for tensor in self.tensors}):
            members = [tensor["name"] for tensor in self.tensors if tensor["group"] == index]
            parts.append(self.part(kind if index == 0 and kind != "groups" else "list", members, arrays))
        return parts

    def part(self, kind, names, arrays):
        if kind == "one":
            return arrays[names[0]]
        made = {name: arrays[name] for name in names}
        return made if kind == "dict" else tuple(made.values()) if kind == "tuple" else list(made.values())

    def options(self):
        trial, options = self.trial, dict(self.trial["options"])
        if "lr_scale" in options:
            options["lr_scale"] = {name: rates_of(trial, tensor) if scale == "array" else scale for name, scale in
                                   options["lr_scale"].items() for tensor in self.tensors if tensor["name"] == name}
        for name, form in trial["forms"].items():
            given = options.get(name)
            if form != "mapping" and isinstance(given, dict):
                options[name] = [given[tensor["name"]] for tensor in self.tensors] if form == "sequence" else \
                    (lambda name, array, given=given: given.get(name))
        if trial["convention"]:
            options["convention"] = trial["convention"]
        return options | {name: scheduled(value) for name, value in trial["hyper"].items()}

    def made(self):
        params = self.structured(self.arrays)
        if self.grouped and self.trial["structure"] == "groups":
            indices = sorted({tensor["group"] for tensor in self.tensors})
            overrides = self.trial.get("groups", {})
            params = [{"params": part, **{k: scheduled(v) for k, v in overrides.get(index, {}).items()}}
                      for index, part in zip(indices, params, strict=True)]
        self.inner = CLASSES[self.trial["cls"]](params, **self.options())
        for hyper in self.joined:
            self.inner.add_group(*hyper)
        self.opt = self.inner
        if self.trial["wrapper"]:
            kind, given = self.trial["wrapper"]
            self.opt = getattr(fastlr, kind)(self.inner, **given)

    joined = ()

    # What is seen

    def observed(self):
        d = self.inner.state_dict()
        seen = {"t": self.inner.t, "skipped": self.inner.skipped, "grad_norm": self.inner.grad_norm,
                "missed": dict(d["missed"]), "shared": d.get("shared", {}), "norms": d.get("norms"), "tensors": {}}
        master = self.inner.master if "master" in self.trial["options"] else {}
        shadow = self.inner.shadow if "shadow" in self.trial["options"] else {}
        slow = self.opt.slow if self.opt is not self.inner and self.trial["wrapper"][0] == "Lookahead" else {}
        for tensor in self.tensors:
            name = tensor["name"]
            seen["tensors"][name] = {
                "p": self.arrays[name].copy(), "slots": d["state"][name], "master": master.get(name),
                "shadow": None if name not in shadow else np.array(shadow[name]),
                "slow": None if name not in slow else np.array(slow[name], np.float64)}
        return seen

    def fingerprint(self, seen):
        """What must be the same in any way."""
        found = hashlib.sha256()
        found.update(repr((seen["t"], seen["missed"], seen["shared"], seen["norms"])).encode())
        for name in sorted(seen["tensors"]):
            tensor = seen["tensors"][name]
            found.update(bits(tensor["p"]))
            for slot in sorted(tensor["slots"]):
                found.update(bits(tensor["slots"][slot]))
            if tensor["shadow"] is not None:
                found.update(bits(tensor["shadow"]))
        return found.hexdigest()

    # Events

    def run(self):
        """All events; `trace` then has what was seen after each."""
        before = fastlr.get_num_threads()
        fastlr.set_num_threads(self.threads)
        try:
            self.made()
            seen = self.observed()
            if self.engine:
                self.engine.begun(seen)
            self.trace.append(self.fingerprint(seen))
            for k, event in enumerate(self.trial["events"]):
                if self.resume is not None and self.resume[0] == k:
                    self.resumed(self.resume[1])
                self.event = event
                getattr(self, "on_" + event["kind"])(event)
                self.trace.append(self.fingerprint(self.observed()))
        finally:
            fastlr.set_num_threads(before)
        return self.trace

    def gradients(self, event, part=0):
        layout = event.get("layout") if self.layout is None else self.layout
        return {tensor["name"]: None if tensor["name"] in event.get("none", ()) else
                place(gradient(self.trial, event, tensor, part), layout or "plain") for tensor in self.tensors}

    def on_step(self, event):
        before = self.observed() if self.engine else None
        grads = self.gradients(event)
        kept = {name: g.copy() for name, g in grads.items() if g is not None}
        keywords = self.keywords(event)
        kind = self.trial["wrapper"] and self.trial["wrapper"][0]
        if self.by_rows:
            self.rows_for_step(event, grads)
            return
        try:
            if kind == "SAM":
                self.uphill(event)
                keywords.pop("zero_grads", None)
                self.opt.step(self.structured(grads), **keywords)
            elif kind == "GradientAccumulation":
                second = self.gradients(event, 1)
                self.opt.add(self.structured(grads), count=1)
                self.opt.add(self.structured(second), count=3)
                kept = {name: summed(g, second[name]) for name, g in kept.items()}
                event = event | {"scale": 4.0}
            else:
                self.opt.step(self.structured(grads), **keywords)
        except FloatingPointError:
            if self.trial["options"].get("nonfinite") != "raise" or "odd" not in event:
                raise
            if kind in ("SAM", "GradientAccumulation"):
                self.opt.retreat() if kind == "SAM" else self.opt.reset()
        if event.get("zero") and kind is None and "odd" not in event and any(
                g is not None and (g.astype(np.float64) != 0).any() for g in grads.values()):
            wrong("zero_grads left gradients")
        if event.get("zero") and kind is None and self.trial["options"].get("nonfinite") == "skip" and any(
                g is not None and (g.astype(np.float64) != 0).any() for g in grads.values()):
            wrong("zero_grads left gradients of a step that was skipped")
        if not event.get("zero") and kind != "GradientAccumulation":
            for name, g in kept.items():
                if bits(g) != bits(grads[name]):
                    wrong(f"the gradient of {name} was written to")
        if self.engine:
            self.engine.step(event, kept, before, self.observed())

    def keywords(self, event):
        keywords = {}
        if "scale" in event:
            keywords["grad_scale"] = event["scale"]
        if event.get("zero"):
            keywords["zero_grads"] = True
        if "loss" in event:
            keywords["loss"] = event["loss"]
        if event.get("curvature"):
            keywords["curvature"] = self.structured({
                tensor["name"]: None if tensor["name"] in event.get("none", ()) else
                curvature_of(self.trial, event, tensor) for tensor in self.tensors})
        return keywords

    def uphill(self, event):
        first = self.gradients(event | {"none": event.get("none", ())}, 1)
        before = {name: number(x) for name, x in self.arrays.items()}
        self.opt.ascend(self.structured(first))
        with np.errstate(all="ignore"):
            norm = np.sqrt(sum((number(g) ** 2).sum() for g in first.values() if g is not None))
            for tensor in self.tensors:
                name = tensor["name"]
                if first[name] is None or not np.isfinite(norm):
                    continue
                want, got = before[name] + 0.25 * number(first[name]) / (norm + 1e-12), number(self.arrays[name])
                near = unit(want, tensor["dtype"]) * 4 + 1e-5 * abs(want - before[name])
                if (abs(got - want) > near).any():
                    wrong(f"{name}: SAM went uphill to", got, "and should be at", want)

    def rows_for_step(self, event, grads):
        """A step as steps over all rows of each tensor, in any order."""
        given = [tensor for tensor in self.tensors if grads[tensor["name"]] is not None]
        for k, tensor in enumerate(given):
            order = programs.numbers(self.trial, "order", event["key"]).permutation(tensor["shape"][0])
            self.inner.step_rows(tensor["name"], order, grads[tensor["name"]][order], event.get("scale", 1.0),
                                 ends_step=k + 1 == len(given))

    def on_rows(self, event):
        before = self.observed() if self.engine else None
        tensor = next(tensor for tensor in self.tensors if tensor["name"] == event["name"])
        rng = programs.numbers(self.trial, "rows", event["key"])
        rows = rng.integers(0, tensor["shape"][0], event["count"])
        g = gradient(self.trial, event, tensor, count=event["count"])
        ends = event["ends"]
        self.inner.step_rows(event["name"], rows, g, event["scale"], ends_step=ends)
        if self.engine:
            touched = np.array(sorted(set(rows.tolist())))
            total = np.stack([g.astype(np.float64)[rows == row].sum(axis=0) for row in touched])
            self.engine.step(event, {event["name"]: total}, before, self.observed(), {"rows": touched, "ends": ends})

    def on_accumulate(self, event):
        before = self.observed() if self.engine else None
        grads = self.gradients(event)
        self.inner.accumulate(self.structured(grads), grad_scale=event["scale"])
        if self.engine:
            self.engine.accumulate(event, {name: g for name, g in grads.items() if g is not None}, before, self.observed())

    def on_set(self, event):
        before = self.observed() if self.engine else None
        for name, value in event["hyper"].items():
            setattr(self.opt if event["group"] is None else self.inner.groups[0], name, scheduled(value))
        if self.engine:
            self.engine.unmoved(before, self.observed(), "setting a hyper-parameter")
            self.engine.set(event["group"], event["hyper"])

    def on_join(self, event):
        before = self.observed() if self.engine else None
        if not all(tensor["name"] in self.arrays for tensor in event["tensors"]):
            self.arrays |= {tensor["name"]: self.placed(tensor) for tensor in event["tensors"]}
        params = [self.arrays[tensor["name"]] for tensor in event["tensors"]]
        self.inner.add_group(params, **{name: scheduled(value) for name, value in event["hyper"].items()})
        self.tensors += event["tensors"]
        self.grouped = True
        self.joined = [*self.joined, event]
        if self.engine:
            self.engine.join(event["tensors"], event["hyper"])
            after = self.observed()
            for name in before["tensors"]:
                self.engine.still(before, after, name, "a group joined")
            for tensor in event["tensors"]:
                self.engine.identical(after["tensors"][tensor["name"]]["p"], programs.parameter(self.trial, tensor),
                                      tensor["name"], ": joining changed the parameter")
            # (one that joins has missed all updates before)
            self.engine.clock(after)

    def on_refuse(self, event):
        """Something is refused, and nothing has changed."""
        before = self.observed()
        fresh, odd = np.ones((3, 2), DTYPES[self.tensors[0]["dtype"]]), {"lr": -1.0}
        params = [fresh]
        why = event.get("why")
        if event["how"] == "group":
            if why == "shared":
                params = [fresh, self.arrays[self.tensors[0]["name"]]]
            elif why == "name":
                params = {"new": fresh, self.tensors[0]["name"]: fresh.copy()}
            elif why == "dtype":
                params = [fresh, np.ones(3, np.int32)]
        act = {
            "group": lambda: self.inner.add_group(params, **(odd if why == "hyper" else {})),
            "step": lambda: self.inner.step(self.structured({tensor["name"]: np.ones((9, 9, 9)) for tensor in self.tensors}),
                                            **{k: v for k, v in (("loss", 1.0),) if self.trial["cls"] in NEED_LOSS}),
            "load": lambda: self.inner.load_state_dict(self.inner.state_dict() | {"t": -5}),
        }[event["how"]]
        try:
            act()
        except (TypeError, ValueError):
            pass
        else:
            if why == "shared" and not self.arrays[self.tensors[0]["name"]].size:
                return
            wrong("nothing refused", event)
        after = self.observed()
        if self.engine:
            self.engine.unmoved(before, after, f"a refused {event['how']}")

    def on_interrupt(self, event):
        """A schedule that raises in the middle of a step."""
        before, kept = self.observed(), [group.lr for group in self.inner.groups]

        def raising(t):
            raise Interrupted

        if "corrected" in str(self.trial["options"].get("decay")):
            return
        self.inner.groups[-1].lr = raising
        try:
            step = self.on_step.__func__
            plain = {"kind": "step", "key": event["key"], "loss": 1.5} if self.trial["cls"] in NEED_LOSS else \
                {"kind": "step", "key": event["key"], "curvature": True} if self.trial["cls"] == "Sophia" else \
                {"kind": "step", "key": event["key"]}
            engine, self.engine = self.engine, None
            step(self, plain)
        except Interrupted:
            pass
        else:
            wrong("a schedule that raised was not heard")
        finally:
            self.engine = engine
            for group, lr in zip(self.inner.groups, kept, strict=True):
                group.lr = lr
        kind = self.trial["wrapper"] and self.trial["wrapper"][0]
        if kind == "SAM":
            self.opt.retreat()
        elif kind == "GradientAccumulation":
            self.opt.reset()
        if self.engine:
            self.engine.unmoved(before, self.observed(), "an interrupted step")

    def on_rewind(self, event):
        """Save, go on, and come back."""
        before = self.observed()
        path = os.path.join(FILES.name, "rewound")
        if event["by"] == "file":
            fastlr.save(path, self.opt)
        else:
            saved, params = self.opt.state_dict(), {name: x.copy() for name, x in self.arrays.items()}
        engine, self.engine = self.engine, None
        plain = {"kind": "step", "key": event["key"], "loss": 1.5} if self.trial["cls"] in NEED_LOSS else \
            {"kind": "step", "key": event["key"], "curvature": True} if self.trial["cls"] == "Sophia" else \
            {"kind": "step", "key": event["key"]}
        self.on_step(plain)
        self.engine = engine
        if event["by"] == "file":
            fastlr.load(path, self.opt)
        else:
            for name, x in params.items():
                self.arrays[name][...] = x
            self.opt.load_state_dict(saved)
        if self.engine:
            after = self.observed()
            after["grad_norm"] = before["grad_norm"]
            self.engine.unmoved(before, after, "saving, stepping and loading")

    def resumed(self, by):
        """From here on, another optimizer over other arrays, that has loaded what this one saved."""
        path = os.path.join(FILES.name, "resumed")
        if by == "file":
            fastlr.save(path, self.opt)
        else:
            saved = self.opt.state_dict()
        skipped = self.inner.skipped
        old = self.arrays
        self.arrays = {name: np.zeros(x.shape, x.dtype) if by == "file" else x.copy() for name, x in old.items()}
        tensors, joined, self.joined = self.tensors, self.joined, ()
        self.tensors, self.grouped = list(self.trial["tensors"]), self.trial["structure"] == "groups"
        self.made()
        checked, self.engine = self.engine, None
        for event in joined:
            self.on_join(event)
        self.engine = checked
        assert [t["name"] for t in tensors] == [t["name"] for t in self.tensors]
        if by == "file":
            fastlr.load(path, self.opt)
        else:
            self.opt.load_state_dict(saved)
        self.lost = skipped


def summed(g, h):
    """What GradientAccumulation keeps of two gradients, the second of three examples: in float32 or float64."""
    wide = np.float64 if g.dtype == np.float64 else np.float32
    return g.astype(wide) + wide(3) * h.astype(wide)


def bits(x):
    return np.ascontiguousarray(x).tobytes()


# The same trial in other ways

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


def ways(trial):
    """(name, whether and how) of other ways to make this trial."""
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
            {"clip_norm", "clip_zscore", "clip_adaptive", "clip_tensor_norm"} & set(options)) and \
            trial["wrapper"] is None and not ({"shadow", "master"} & set(options)) and kinds <= {"step", "set", "refuse"} and not (odd and "nonfinite" in options) \
            and all(tensor["shape"] and tensor["shape"][0] and by_whole_groups(tensor, options)
                    for tensor in trial["tensors"]) and not any(event.get("none") or event.get("zero") for event in events):
        found.append("rows")
    return found


def by_whole_groups(tensor, options):
    size = int(np.prod(tensor["shape"]))
    return options.get("state_dtype") != "int8" or size < 4096 or (size // tensor["shape"][0]) % 64 == 0


def again(trial, way, trace):
    """Make the trial again in that way: Wrong unless the bits are the same."""
    if way == "threads":
        other = Run(trial, threads=3, checked=False).run()
    elif way == "layout":
        other = Run(trial, layout=programs.LAYOUTS[trial["number"] % len(programs.LAYOUTS)]
                    if trial["number"] % 2 else "plain", checked=False).run()
    elif way == "rows":
        other = Run(trial, by_rows=True, checked=False).run()
    elif way == "resume":
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
        wrong(f"{way}: other events")
    for k, (one, two) in enumerate(zip(trace, other, strict=True)):
        if one != two:
            wrong(f"{way}: other bits after event {k - 1} {trial['events'][k - 1] if k else ''}")


def attempt(trial):
    """What is wrong with a trial, or None; and what it came to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trace = Run(trial).run()
            for way in ways(trial):
                again(trial, way, trace)
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
    while k < behind:
        command = [sys.executable, "-X", "faulthandler", __file__, "--seed", str(seed), "--first", str(k), "--trials",
                   str(behind - k), "--child"] + ["--digest"] * digest + ["--shrink"] * shrink
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
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
