"""What a step is, in plain NumPy and float64, written from the documentation: stages, decay, rates, skips and storage.

`Engine` is told what happens to an optimizer and what was observed before and after, and says what is wrong. It takes
each step from what was observed before it, so that errors do not add up and its bounds are those of one step:

- A rule computes in float32 (or float64): each value is compared to WITHIN units of its precision, relative to the largest
  of itself, what was there before and how far it moved. Where an expression cancels or jumps, that is too strict: such
  elements are computed again from inputs moved by a few units, and must be between the results.
- What is stored in fewer bits may differ by half a unit of these, or by one where rounding is stochastic. An 8-bit code may
  differ by half the distance to the next one.

What must not move is compared bit for bit.
"""
import numpy as np
import reference
import reference_matrix
from trials_programs import (
    BFLOAT16,
    CLASSES,
    ELEMENTWISE,
    MATRIX,
    TOGETHER,
    curvature_of,
    most_of,
    parameter,
    rates_of,
    value_at,
)
from trials_storage import centred, decoded, number, stored_bound, unit, with_groups, wrong

WITHIN = 24.0
#: Units of float32, and of float64 (of which this engine, too, loses a few bits: 1 - beta2**t takes ten of 53).
COARSE, FINE = 2.0**-23, 2.0**-46
MOVED = 8.0
TINY = 1e-30
#: By how much states of fewer bits may change a factor of a whole tensor.
ROUGH = {"int8": 1 / 16, "bfloat16": 2.0**-8, "float16": 2.0**-10, "float32": 2.0**-22}
#: Polynomials of singular values, whose slope at small ones is 3.4445**5, and what divides by small row means.
LOOSE = {"Muon": 2e4, "CAME": 100.0, "Adafactor": 20.0, "RAdam": 8.0, "RAdamW": 8.0, "ScheduleFreeRAdam": 8.0,
         "AdEMAMix": 16.0}
UNCHECKED = {"Shampoo", "SOAP"}           # (their bases are not unique; compared with themselves alone)
MUON = [(3.4445, -4.7750, 2.0315)] * 5


def going_on(compute, exact, got):
    """What a rule computes where it goes on with what was stored: each value before it was stored."""
    values = dict(enumerate(exact))

    def see(k, value):
        values[k] = value
        return value if k == 0 else got(k)

    values[0] = compute(see)[0]
    return [values[k] for k in range(len(exact))]


class Facts:
    """What is documented of a class, under a convention."""

    def __init__(self, trial):
        cls = CLASSES[trial["cls"]]
        self.name, self.cls = trial["cls"], cls
        whose = cls.conventions.get(trial["convention"] or next(iter(cls.conventions), None))
        self.rule = whose.rule if whose and self.name not in MATRIX else self.name
        self.decay = (whose.decay if whose else None) or cls.decay_mode
        self.defaults = {name: bound.default for name, bound in cls.hypers.items()}
        self.defaults |= {k: v for k, v in (whose.defaults if whose else {}).items() if k in self.defaults}


class Engine:
    """The state that no array holds, and what one event makes of what was observed."""

    def __init__(self, trial):
        self.trial, self.facts, self.options = trial, Facts(trial), trial["options"]
        self.tensors = {tensor["name"]: tensor for tensor in trial["tensors"]}
        self.groups = {}
        self.age = dict.fromkeys(self.tensors, 0)
        self.t = self.skipped = self.fast = 0
        self.folded = set()
        self.poisoned = False
        self.slow = {}
        for group in {tensor["group"] for tensor in trial["tensors"]} | {0}:
            self.groups[group] = self.facts.defaults | trial["hyper"] | trial.get("groups", {}).get(group, {})
        self.peaks = {group: most_of(values["lr"]) for group, values in self.groups.items()}

    # What is set

    def set(self, group, hyper):
        for index in self.groups if group is None else [group]:
            self.groups[index] |= hyper
            if "lr" in hyper:
                rate = hyper["lr"]
                self.peaks[index] = most_of(rate) if isinstance(rate, tuple) else max(rate, self.peaks[index])

    def join(self, tensors, hyper):
        for tensor in tensors:
            self.tensors[tensor["name"]] = tensor
            self.age[tensor["name"]] = 0
            self.groups[tensor["group"]] = self.facts.defaults | self.trial["hyper"] | hyper
            self.peaks[tensor["group"]] = most_of(self.groups[tensor["group"]]["lr"])

    def option(self, name, tensor, default=None):
        value = self.options.get(name, default)
        return value.get(tensor["name"], default) if isinstance(value, dict) else value

    def values(self, tensor):
        """Hyper-parameters of a tensor now, its mode of decay and its rate's factor."""
        group = self.groups[tensor["group"]]
        values = {name: value_at(value, self.t) for name, value in group.items()}
        mode = self.option("decay", tensor) or self.facts.decay
        if self.option("decay_mask", tensor, True) is False:
            values["weight_decay"] = 0.0
        scale = self.option("lr_scale", tensor, 1.0)
        if isinstance(scale, str):
            scale = rates_of(self.trial, tensor)
            scale = scale if scale.ndim else float(scale)
        peak = self.options.get("lr_max") or self.peaks[tensor["group"]]
        return values, mode, scale, peak

    def wide(self, tensor):
        state = self.options.get("state_dtype")
        return tensor["dtype"] == "float64" or (state["name"] if isinstance(state, dict) else state) == "float64"

    # Stages

    def preprocessed(self, given, scale, before):
        """Gradients after unscaling and clipping, the norm where it is measured; None for a skipped step."""
        options = self.options
        if self.trial["wrapper"] and self.trial["wrapper"][0] == "GradientCentralization":
            given = {name: centred(x) for name, x in given.items()}
        g = {name: x.astype(np.float64) / scale for name, x in given.items()}
        if options.get("maximize"):
            g = {name: -x for name, x in g.items()}
        if "clip_value" in options:
            g = {name: np.clip(x, -options["clip_value"], options["clip_value"]) for name, x in g.items()}
        if "clip_adaptive" in options:
            g = {name: self.adapted(x, self.place_of(before, name)) for name, x in g.items()}
        norm = float(np.sqrt(sum((x**2).sum() for x in g.values())))
        left, limit = 1.0, np.inf
        if "clip_zscore" in options:
            limit = self.usual(norm, before["norms"])
        if "clip_norm" in options:
            limit = min(limit, options["clip_norm"])
        if norm + 1e-6 > limit:
            left = min(1.0, limit / (norm + 1e-6))
        g = {name: x * left for name, x in g.items()}
        if "clip_tensor_norm" in options:
            g = {name: x * min(1.0, options["clip_tensor_norm"] / (np.sqrt((x**2).sum()) + 1e-6)) for name, x in g.items()}
        return g, norm

    def adapted(self, g, p):
        axis = self.options.get("clip_adaptive_axis", 0)
        axes = None if g.ndim < 2 else tuple(range(1, g.ndim)) if axis == 0 else tuple(range(g.ndim - 1))
        size = np.sqrt((g**2).sum(axis=axes, keepdims=True))
        most = self.options["clip_adaptive"] * np.maximum(np.sqrt((p**2).sum(axis=axes, keepdims=True)),
                                                          self.options["clip_adaptive_eps"])
        return g * np.where(size > most, most / np.where(size > 0, size, 1.0), 1.0)

    def usual(self, norm, norms):
        """The norm after ZClip."""
        if norms["count"] < self.options["clip_zscore_warmup"] or not np.isfinite(norm):
            return np.inf
        z = self.options["clip_zscore"]
        spread = np.sqrt(norms["variance"])
        score = (norm - norms["mean"]) / (spread + 1e-6)
        return norms["mean"] + z * z / score * spread if score > z else np.inf

    def place_of(self, observed, name):
        """A parameter as the rule sees it."""
        tensor = observed["tensors"][name]
        return tensor["master"].astype(np.float64) if tensor.get("master") is not None else number(tensor["p"])

    # A step

    def step(self, event, given, before, after, rows=None):
        """What a step makes: raises Wrong unless it is what was observed. `given`: the gradients that there are."""
        policy = self.options.get("nonfinite", "propagate")
        scale = event.get("scale", 1.0)
        finite = all(np.isfinite(g.astype(np.float64)).all() for g in given.values())
        if not finite and policy != "propagate":
            if policy == "skip":
                self.skipped += 1
            self.unmoved(before, after, f"a step with nonfinite={policy!r}", but=("skipped", "grad_norm"))
            return
        g, norm = self.preprocessed(given, scale, before)
        measured = [name for name in ("clip_norm", "clip_zscore", "clip_tensor_norm") if name in self.options]
        if measured and rows is None and finite and given:
            got = after["grad_norm"]
            if got is None or abs(got - norm) > 1e-6 * norm + TINY:
                wrong("grad_norm is", got, "and should be", norm)
        if "clip_zscore" in self.options and finite and rows is None and given:
            self.remembered(norm, before["norms"], after["norms"])
        if self.facts.name in TOGETHER:
            self.all_together(event, g, before, after)
        else:
            for name, tensor in self.tensors.items():
                if name in g:
                    self.one(event, tensor, g[name], before, after, rows)
        for name in self.tensors:
            if name not in g:
                self.still(before, after, name, "which has no gradient", pulled=self.pulls())
        for name in g:
            self.age[name] += 1
        self.folded.clear()
        self.t += rows is None or rows["ends"]
        self.clock(after)

    def remembered(self, norm, before, after):
        warm = self.options["clip_zscore_warmup"]
        count, mean, variance = before["count"], before["mean"], before["variance"]
        if count < warm:
            new_mean = (count * mean + norm) / (count + 1)
            variance = (count * (variance + (mean - new_mean) ** 2) + (norm - new_mean) ** 2) / (count + 1)
            count, mean = count + 1, new_mean
        else:
            kept, alpha = min(norm, self.usual(norm, before)), self.options["clip_zscore_alpha"]
            mean = alpha * mean + (1 - alpha) * kept
            variance = alpha * variance + (1 - alpha) * (kept - mean) ** 2
        for name, want in (("count", count), ("mean", mean), ("variance", variance)):
            if abs(after[name] - want) > 1e-5 * abs(want) + 1e-9 * (1 + norm**2):
                wrong(f"norms[{name!r}] is", after[name], "and should be", want)

    def one(self, event, tensor, g, before, after, rows):
        """One tensor's own update."""
        name = tensor["name"]
        old, new = before["tensors"][name], after["tensors"][name]
        values, mode, scale, peak = self.values(tensor)
        at = ... if rows is None else rows["rows"]
        if rows is not None:
            rest = np.setdiff1d(np.arange(tensor["shape"][0]), at)
            self.same_rows(old, new, rest, tensor)
        if isinstance(scale, np.ndarray):
            scale = scale[at]
        theta = self.place_of(before, name)[at]
        names = [slot for slot in old["slots"] if not slot.endswith("_scale") and slot not in ("ema", "remainder")]
        slots = [decoded(old["slots"], slot) for slot in names]
        shaped = [x.shape == tuple(tensor["shape"]) and (x.ndim > 0 or slot in self.facts.cls.slots)
                  for slot, x in zip(names, slots, strict=True)]
        if rows is not None:
            full = slots
            slots = [x[at] if like or (x.ndim and len(x) == tensor["shape"][0]) else x
                     for x, like in zip(slots, shaped, strict=True)]
        sizes = list(slots)
        if self.facts.name == "Sophia":
            h = names.index("h")
            sizes[h] = abs(slots[h]) + (abs(curvature_of(self.trial, event, tensor).astype(np.float64))
                                        if event.get("curvature") else 0.0)
            slots[h] = self.estimated(event, tensor, values, slots[h])
        eps = FINE if self.wide(tensor) and (tensor["dtype"] == "float64" or not self.trial["wrapper"]) and not (
            {"clip_norm", "clip_zscore"} & set(self.options) and not all(map(self.wide, self.tensors.values()))) else COARSE
        t = self.age[name] + 1

        def compute(theta, g, slots, see=reference.unseen):
            return self.rule(tensor, theta, g, t, dict(zip(names, slots, strict=True)), values, mode, scale, peak, see)

        def got(k):
            x = self.place_of(after, name) if k == 0 else decoded(new["slots"], names[k - 1])
            if rows is not None and (k == 0 or full[k - 1].ndim):
                x = x[at]
            return x

        with np.errstate(all="ignore"):
            exact = compute(theta, g, slots)
            if exact is None:
                return
            candidates, spread = [exact], None
            if self.facts.name not in ELEMENTWISE or self.facts.name == "Sophia":
                # (some store before they move, and move by what is stored, or sum that)
                candidates.append(going_on(lambda see: compute(theta, g, slots, see), exact, got))
                # (and where they sum what is computed and move by what is stored, a factor differs by rounding)
                spread = [0.0] + [stored_bound(np.asarray(exact[k], np.float64), new["slots"], slot, self.stochastic())
                                  for k, slot in enumerate(names, 1)] if rows is None else None
            bound = self.stored(tensor, new, self.pulled(exact[0], old, name), rows)
            if self.pulls():
                bound = bound + self.stored(tensor, new, exact[0], rows)
            state = self.options.get("state_dtype")
            if len(candidates) > 1 and state in ROUGH:
                bound = bound + (1 + self.stochastic()) * ROUGH[state] * abs(exact[0] - theta) + 4 * abs(exact[0] - candidates[1][0])
            size = abs(theta) + abs(old["slow"]) if self.pulls() else theta
            self.compare(name, "the parameter", size, [self.pulled(candidate[0], old, name) for candidate in candidates], got(0),
                         self.of_pull(eps), bound,
                         lambda: [self.pulled(x, old, name) for x in self.moved(compute, theta, g, slots, eps, 0, spread)],
                         np.isnan(g))
            for k, slot in enumerate(names, 1):
                kept = {key: (x[at] if rows is not None and full[k - 1].ndim and key == slot else x)
                        for key, x in new["slots"].items()}
                bound = stored_bound(np.asarray(exact[k], np.float64), kept, slot, self.stochastic()) \
                    if rows is None or slot + "_scale" not in kept else None
                if bound is None:
                    continue
                self.compare(name, f"the state {slot}", sizes[k - 1], [with_groups(candidate[k], kept, slot) for candidate in candidates],
                             got(k), eps, bound,
                             lambda k=k: self.moved(compute, theta, g, slots, eps, k), np.isnan(g))
            if not self.pulls():
                self.average(tensor, old, new, at, rows)
        self.shadowed(tensor, new)

    def stored(self, tensor, new, exact, rows):
        kept = new["p"] if new.get("master") is None else new["master"]
        return stored_bound(exact, {"p": kept}, "p", self.stochastic())

    def stochastic(self):
        return self.options.get("rounding") == "stochastic"

    def average(self, tensor, old, new, at, rows):
        decay = self.options.get("ema_decay")
        if decay is None:
            return
        p = new["master"].astype(np.float64) if new.get("master") is not None else number(new["p"])
        mean, got, eps = number(old["slots"]["ema"])[at], number(new["slots"]["ema"])[at], \
            FINE if self.wide(tensor) else COARSE
        exact = decay * mean + (1 - decay) * p[at]
        # (of the parameter before it was rounded to where it is stored)
        bound = (1 - decay) * self.stored(tensor, new, p[at], rows) * 1.01 + \
            stored_bound(exact, {"ema": new["slots"]["ema"]}, "ema", False)
        self.compare(tensor["name"], "the running mean", mean, [exact], got, eps, bound, None)

    def shadowed(self, tensor, new):
        copy = new.get("shadow")
        if copy is not None:
            x, kind = number(new["p"]), "bfloat16" if np.asarray(copy).dtype == np.uint16 else "float16"
            if (abs(number(copy) - x) > unit(x, kind) * (0.51 if tensor["dtype"] in ("float32", "float64", kind) else 1.1)).any():
                wrong(f"{tensor['name']}: the 16-bit copy is not the parameter rounded to nearest")

    def compare(self, name, what, before, candidates, got, eps, bound, moved, odd=None):
        """Raises Wrong unless each element is near one of the candidates, the results of different orders of computation."""
        loose = WITHIN * LOOSE.get(self.facts.name, 1.0) * (4.0 if self.facts.name in MATRIX else 1.0)
        off = np.ones(np.shape(got), bool)
        for exact in candidates:
            exact = np.broadcast_to(np.asarray(exact, np.float64), np.shape(got))
            size = abs(before) + abs(exact)
            if self.facts.name in MATRIX and np.size(size):
                size = size.max()
            off &= ~(abs(got - exact) <= loose * eps * size + bound + TINY) & ~np.isnan(exact)
        if odd is not None and np.shape(odd) == np.shape(got):
            off &= ~odd
        if not off.any():
            return
        if moved is not None:
            low, high, lows = moved()
            width = 0.5 * (high - low) + loose * eps * lows + bound + TINY
            off &= ~((got >= low - width) & (got <= high + width))
        if off.any():
            where = np.argwhere(off)[0] if np.ndim(got) else ()
            index = tuple(int(i) for i in where)
            wrong(f"{name}: {what} at {index} ({int(off.sum())} of {np.size(got)} elements): before",
                  np.broadcast_to(before, np.shape(got))[index], "got", got[index], "and should be",
                  np.broadcast_to(candidates[0], np.shape(got))[index])

    def pulls(self):
        """Whether Lookahead pulls at this step."""
        wrapper = self.trial["wrapper"]
        return bool(wrapper) and wrapper[0] == "Lookahead" and (self.t + 1) % wrapper[1]["k"] == 0

    def of_pull(self, eps):
        """A unit of a parameter after a step: Lookahead computes in float32 what is no float64."""
        return COARSE if self.pulls() else eps

    def pulled(self, x, old, name):
        return old["slow"] + 0.5 * (x - old["slow"]) if self.pulls() else x

    def moved(self, compute, theta, g, slots, eps, k, spread=None):
        """Between which results lie, and their size, where all inputs move by a few units, and stored ones by `spread`."""
        rng, found = np.random.default_rng(0), []

        def see(k, value):
            if k == 0 or spread is None or k >= len(spread):
                return value
            other = value + spread[k] * rng.choice([-1.0, 1.0], size=np.shape(value))
            return np.where(value >= 0, np.maximum(other, 0), other) if np.min(value, initial=0) >= 0 else other

        def near(x):
            return x * (1 + MOVED * eps * rng.choice([-1.0, 1.0], size=np.shape(x)))

        for _ in range(24):
            found.append(np.asarray(compute(near(theta), near(g), [near(x) for x in slots], see)[k], np.float64))
        return np.fmin.reduce(found), np.fmax.reduce(found), abs(found[0])

    # Rules

    def estimated(self, event, tensor, values, h):
        if not event.get("curvature"):
            return h
        estimate = curvature_of(self.trial, event, tensor).astype(np.float64)
        return values["beta2"] * h + (1 - values["beta2"]) * estimate

    def rule(self, tensor, theta, g, t, slots, values, mode, scale, peak, see):
        """(parameter, *slots) after one update."""
        values, lr = dict(values), values["lr"]
        values["lr"] = lr * scale
        decay = values["weight_decay"]
        if self.facts.name in MATRIX:
            return self.matrix_rule(tensor, theta, g, t, slots, values, mode, peak * scale)
        values["lr_max"] = peak * scale
        if mode != "corrected":
            del values["lr_max"]
        elif np.ndim(scale) == 0 and peak * scale == 0:
            values["lr_max"] = 1.0
        values["weight_decay"] = decay
        if self.facts.name == "MADGRAD" and values["lr"] == 0:
            values["lr"] = -values["eps"]          # (a rate of 0 adds nothing, and decays nothing that goes by it)
            values["weight_decay"] = decay if mode in ("coupled", "independent") else 0.0
        given = list(slots.values())
        if self.facts.name in ("Momentum", "SGDW") and tensor["name"] in self.folded and t == 1:
            t, values["dampening"] = 2, 0.0        # (what was accumulated is part of the first gradient)
        if isinstance(scale, np.ndarray) and "Inside" in self.facts.rule:
            # (rates of elements multiply how far they move, where a rate is part of the state)
            left = {"coupled": 0.0, "decoupled": values["lr"], "independent": 1.0,
                    "corrected": values["lr"] ** 2 / values.get("lr_max", 1.0)}[mode] * decay
            if mode == "coupled":
                g = g + decay * theta
            theta = theta * (1 - left)
            values = {k: v for k, v in values.items() if k != "lr_max"} | {"lr": lr, "weight_decay": 0.0}
            made = reference.step(self.facts.rule, "coupled", theta, g, t, given, values, see)
            return (theta + scale * (made[0] - theta), *made[1:])
        return reference.step(self.facts.rule, mode, theta, g, t, given, values, see)

    def matrix_rule(self, tensor, theta, g, t, slots, values, mode, peak):
        name = self.facts.name
        if name in UNCHECKED and theta.ndim > 1:
            return None
        values = dict(values)
        decay = values.pop("weight_decay")
        # (what is no matrix is moved by AdamW at fallback_scale times the rate)
        lr = values["lr"] * (values.get("fallback_scale", 1.0) if theta.ndim < 2 else 1.0)
        peak = peak * (values.get("fallback_scale", 1.0) if theta.ndim < 2 else 1.0)
        if mode == "coupled":
            g, left = g + decay * theta, 0.0
        else:
            left = decay * {"decoupled": lr, "independent": 1.0, "corrected": lr * lr / peak if peak else 0.0}[mode]
        shape = theta.shape
        if (name != "SM3" and theta.ndim > 1) or (name == "SM3" and theta.ndim == 0):
            theta, g = (x.reshape(shape[0], -1) if x.ndim else x.reshape(1) for x in (theta, g))
        memory = {slot: x.copy().reshape(theta.shape) if x.shape == shape else x.copy() for slot, x in slots.items()}
        if name in ("Muon", "Shampoo", "SOAP"):
            rows, cols = theta.shape if theta.ndim > 1 else (1, 1)
            values |= {"coefficients": MUON, "scale": 0.2 * max(rows, cols) ** 0.5} if name == "Muon" else {}
        first = theta
        if name in ("SGDP", "AdamP"):
            values["shrink"] = left
        elif name != "Adafactor":
            theta = theta * (1 - left)
        made = getattr(reference_matrix, name)(theta, g, t, memory, **values)
        if name == "Adafactor":
            made = made - left * first
        return [made.reshape(shape), *(np.reshape(memory[slot], x.shape) for slot, x in slots.items())]

    def all_together(self, event, g, before, after):
        """Rules with numbers of all tensors together: one long vector."""
        names = [name for name in self.tensors if name in g]
        if len(names) < len(self.tensors) or self.poisoned:
            return
        first = self.tensors[names[0]]
        values, mode, _, peak = self.values(first)
        shared = [np.float64(x) for x in before["shared"].values()]
        slot_names = [slot for slot in before["tensors"][names[0]]["slots"] if not slot.endswith("_scale")
                      and slot not in ("ema", "remainder")]

        def joined(observed, pick):
            return np.concatenate([np.ravel(pick(name)) for name in names])

        theta = joined(before, lambda name: self.place_of(before, name))
        gradient = joined(before, lambda name: g[name])
        slots = [joined(before, lambda name, slot=slot: decoded(before["tensors"][name]["slots"], slot))
                 for slot in slot_names]
        eps = FINE if all(self.wide(tensor) for tensor in self.tensors.values()) else COARSE
        if "loss" in event:
            values["loss"] = -event["loss"] if self.options.get("maximize") else event["loss"]
        if mode == "corrected":
            values["lr_max"] = peak
        t = self.t + 1
        cut = np.cumsum([np.size(g[name]) for name in names])[:-1]

        def compute(theta, gradient, memory, see=reference.unseen):
            return reference.step(self.facts.rule, mode, theta, gradient, t, memory, values, see)

        def got(k):
            if k > len(slots):
                return np.float64(list(after["shared"].values())[k - 1 - len(slots)])
            return joined(after, lambda name: self.place_of(after, name) if k == 0 else
                          decoded(after["tensors"][name]["slots"], slot_names[k - 1]))

        sizes = [theta, *slots, *shared]
        if self.pulls():
            sizes[0] = abs(theta) + joined(before, lambda name: abs(before["tensors"][name]["slow"]))
        with np.errstate(all="ignore"):
            exact = compute(theta, gradient, slots + shared)
            stored = going_on(lambda see: compute(theta, gradient, slots + shared, see), exact, got)
            for k in range(len(exact)):
                x = np.asarray(exact[k], np.float64)
                if k > len(slots):
                    bound = 1e-4 * abs(x)
                else:
                    parts = [part.reshape(np.shape(g[name])) for name, part in zip(names, np.split(x, cut), strict=True)]
                    bound = np.concatenate([np.broadcast_to(
                        self.stored(self.tensors[name], after["tensors"][name], part, None) +
                        (self.stored(self.tensors[name], after["tensors"][name],
                                     self.pulled(part, before["tensors"][name], name), None) if self.pulls() else 0.0)
                        if k == 0 else
                        stored_bound(part, after["tensors"][name]["slots"], slot_names[k - 1], self.stochastic()),
                        part.shape).ravel() for name, part in zip(names, parts, strict=True)])
                if k == 0 and self.options.get("state_dtype") in ROUGH:
                    bound = bound + ROUGH[self.options["state_dtype"]] * abs(x - theta) + 4 * abs(x - stored[0])

                def pull(x, k=k):
                    return np.concatenate([np.ravel(self.pulled(part.reshape(np.shape(g[name])), before["tensors"][name], name))
                                           for name, part in zip(names, np.split(x, cut), strict=True)]) if k == 0 else x

                self.compare("all", "the parameter" if k == 0 else ([*slot_names, *before["shared"]])[k - 1],
                             sizes[k], [pull(x), pull(stored[k])], got(k),
                             8 * (eps if k else self.of_pull(eps)), bound,
                             lambda k=k, pull=pull: [pull(y) for y in
                                                     self.moved(compute, theta, gradient, slots + shared, 8 * eps, k)])
            for name in names if not self.pulls() else ():
                self.average(self.tensors[name], before["tensors"][name], after["tensors"][name], ..., None)
                self.shadowed(self.tensors[name], after["tensors"][name])

    # Accumulated gradients

    def accumulate(self, event, given, before, after):
        """Gradients folded into the state: shares of each are added before the decay, divided by it."""
        policy = self.options.get("nonfinite", "propagate")
        if policy != "propagate" and not all(np.isfinite(g.astype(np.float64)).all() for g in given.values()):
            self.skipped += policy == "skip"
            self.unmoved(before, after, "accumulate", but=("skipped", "grad_norm"))
            return
        g, _ = self.preprocessed(given, event["scale"], before)
        for name, tensor in self.tensors.items():
            if name not in g:
                self.still(before, after, name, "which has no gradient")
                continue
            values = self.values(tensor)[0]
            old, new = before["tensors"][name], after["tensors"][name]
            eps = FINE if self.wide(tensor) else COARSE
            self.identical(old["p"], new["p"], f"{name}: accumulate moved the parameter")
            for slot in (slot for slot in old["slots"] if slot in ("m", "v")):
                if "beta1" in values:
                    beta = values["beta1" if slot == "m" else "beta2"]
                    share = (1 - beta) / beta
                else:
                    share = (1.0 if self.age[name] == 0 else 1 - values["dampening"]) / values["momentum"]
                x = decoded(old["slots"], slot)
                exact = x + share * g[name] ** (1 if slot == "m" else 2)
                self.compare(name, f"the state {slot} after accumulate", x, [exact], decoded(new["slots"], slot), eps,
                             stored_bound(exact, new["slots"], slot, self.stochastic()), None)
            self.folded.add(name)
        self.clock(after)

    # What must not move

    def identical(self, one, two, *says):
        if np.ascontiguousarray(one).tobytes() != np.ascontiguousarray(two).tobytes():
            wrong(*says)

    def still(self, before, after, name, why, pulled=False):
        old, new = before["tensors"][name], after["tensors"][name]
        if pulled:
            x = number(old["p"])
            exact = self.pulled(x, old, name)
            self.compare(name, "the parameter at a pull", x, [exact], number(new["p"]), COARSE,
                         stored_bound(exact, {"p": new["p"]}, "p", False), None)
        else:
            self.identical(old["p"], new["p"], f"{name}: {why}, but its parameter moved")
        for slot, x in old["slots"].items():
            self.identical(x, new["slots"][slot], f"{name}: {why}, but its state {slot} moved")

    def same_rows(self, old, new, rest, tensor):
        self.identical(old["p"][rest], new["p"][rest], f"{tensor['name']}: rows that were not touched moved")
        for slot, x in old["slots"].items():
            if x.shape[:1] == tuple(tensor["shape"][:1]) and x.ndim and not slot.endswith("_scale"):
                self.identical(x[rest], new["slots"][slot][rest],
                               f"{tensor['name']}: rows of {slot} that were not touched moved")

    def unmoved(self, before, after, what, but=()):
        for name in before["tensors"]:
            self.still(before, after, name, what)
        for key in before:
            if key not in ("tensors", *but) and repr(before[key]) != repr(after[key]):
                wrong(f"{what} changed {key} from", before[key], "to", after[key])
        self.clock(after)

    def clock(self, after):
        if after["t"] != self.t:
            wrong("t is", after["t"], "and should be", self.t)
        if after["skipped"] != self.skipped:
            wrong("skipped is", after["skipped"], "and should be", self.skipped)
        missed = {name: self.t - age for name, age in self.age.items() if self.t != age}
        if self.facts.name not in TOGETHER and after["missed"] != missed:
            wrong("missed updates are", after["missed"], "and should be", missed)

    def begun(self, observed):
        """What a new optimizer is."""
        for name, tensor in self.tensors.items():
            seen = observed["tensors"][name]
            self.identical(seen["p"] if np.asarray(seen["p"]).dtype != np.uint16 else np.asarray(seen["p"]).view(BFLOAT16),
                           parameter(self.trial, tensor), f"{name}: the constructor changed the parameter")
            if "ema_decay" in self.options:
                self.identical(number(seen["slots"]["ema"]), self.place_of(observed, name), f"{name}: ema is not the parameter")
            self.shadowed(tensor, seen)
        self.clock(observed)
