"""A trial as it happens: an optimizer is made, and each event is done and compared with the reference engine."""
import functools
import hashlib
import os
import tempfile

import numpy as np
import trials_programs as programs
from reference_engine import Engine
from trials_programs import (
    CLASSES,
    DTYPES,
    NEED_LOSS,
    bits,
    curvature_of,
    gradient,
    place,
    rates_of,
    scheduled,
)
from trials_storage import number, summed, unit, wrong

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
            # (also of a tensor without a gradient, whose estimate is not read)
            keywords["curvature"] = self.structured({tensor["name"]: curvature_of(self.trial, event, tensor)
                                                     for tensor in self.tensors})
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
            # (added one after another, as they come, in the precision of the rule)
            wide = g.astype(np.float64 if self.engine.wide(tensor) else np.float32)
            total = np.stack([functools.reduce(np.add, wide[rows == row]) for row in touched])
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
