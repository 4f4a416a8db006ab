"""Random trials as plain data: which optimizer, which options, which tensors, which events.

A trial is a dictionary of plain values, so that it can be printed, cut down and run again. Arrays are not in it: each is
drawn from (seed, number of the trial, its key), so that an event keeps its gradients when another event is left out.
"""
import math
import random
import zlib

import ml_dtypes
import numpy as np

import fastlr
from fastlr import schedules

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64), "float16": np.dtype(np.float16),
          "bfloat16": BFLOAT16}
CLASSES = {cls.__name__: cls for cls in vars(fastlr).values()
           if isinstance(cls, type) and issubclass(cls, fastlr.Optimizer)
           and cls.__name__.lower() in fastlr.list_optimizers()}
#: Rules that multiply matrices by NumPy's BLAS, whose bits are its own, and rules with numbers of all tensors together.
BORROWERS = {"Muon", "Shampoo", "SOAP"}
TOGETHER = {"PolyakSGD", "MoMo", "MoMoAdam", "DoG", "DoWG", "DAdaptSGD", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptLion",
            "Prodigy"}
NEED_LOSS = {"PolyakSGD", "MoMo", "MoMoAdam"}
MATRIX = {"Adafactor", "CAME", "SM3", "AdamMini", "SGDP", "AdamP", "RowwiseAdaGrad"} | BORROWERS
#: Chosen more often, as more code is written for them.
FAVOURED = ("Adam", "AdamW", "Adam", "AdamW", "SGD", "Momentum", "Lion", "AdaGrad", "AMSGrad")
DECAYS = ("coupled", "decoupled", "independent", "corrected")

#: What trials leave out of what is documented, each with the reason.
KNOWN = {
    "eps of AdamP and SGDP": "it is added to the norms of the cosine too, as in the authors' code; the docstrings do not say so",
}

SMALL = [(), (1,), (3,), (17,), (65,), (7, 5), (1, 9), (6, 1), (4, 3, 2), (2, 64), (16, 16), (128,)]
BLOCKS = [(511,), (512,), (513,), (700,), (1024,), (1300,), (11, 64), (40, 30), (5, 7, 19), (2, 512)]
CODED = [(4096,), (4097,), (5000,), (64, 64), (65, 80), (4, 1280)]
ROOM = [(40_000,), (130, 301), (34_000,)]
LAYOUTS = ("plain", "plain", "plain", "strided", "turned", "backwards", "odd")


def probed(name):
    """What the public interface says a class can do: by rows, a rate for each element, accumulated gradients."""
    def can(act):
        try:
            act()
        except (TypeError, ValueError):
            return False
        return True

    cls, p, g = CLASSES[name], np.ones((4, 2)), np.ones((4, 2))
    first = {"curvature": [g]} if name == "Sophia" else {}

    def rows():
        opt = cls({"p": p.copy()})
        opt.step({"p": g}, **({"curvature": {"p": g}} if first else {"loss": 1.0} if name in NEED_LOSS else {}))
        opt.step_rows("p", np.array([1]), g[:1])

    return {"rows": can(rows), "rates": can(lambda: cls([p.copy()], lr_scale=[np.ones((4, 2))])),
            "accumulates": can(lambda: cls([p.copy()]).accumulate([g]))}


CAN = {name: probed(name) for name in CLASSES}
ELEMENTWISE = {name for name in CLASSES if CAN[name]["rates"] and name not in MATRIX}


# Arrays

def numbers(trial, *key):
    """A generator of random numbers of this trial, for this key alone."""
    return np.random.default_rng([trial["seed"], trial["number"], zlib.crc32(repr(key).encode())])


def place(values, layout):
    """The same values somewhere else in memory."""
    if layout == "plain" or not values.ndim or not values.size:
        return values.copy()
    if layout == "strided":
        out = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)[..., ::2]
    elif layout == "turned":
        out = np.zeros(values.shape[::-1], values.dtype).T
    elif layout == "backwards":
        out = np.zeros(values.shape, values.dtype)[::-1]
    else:
        raw = np.zeros(values.nbytes + 1, np.uint8)
        out = raw[1:].view(values.dtype).reshape(values.shape)
    out[...] = values
    return out


def parameter(trial, tensor):
    values = numbers(trial, "p", tensor["name"]).normal(size=tensor["shape"]) * tensor.get("size", 1.0)
    return np.asarray(values).astype(DTYPES[tensor["dtype"]])


def gradient(trial, event, tensor, part=0, count=None):
    """The gradient of one tensor in an event; of `count` rows where that is given."""
    shape = tensor["shape"] if count is None else (count, *tensor["shape"][1:])
    rng = numbers(trial, "g", event["key"], tensor["name"], part)
    values = np.asarray(rng.normal(size=shape)) * event.get("size", 1.0)
    if event.get("sparse"):
        values = np.where(rng.random(size=shape) < 0.5, 0.0, values)
    dtype = event.get("dtype") or tensor["dtype"]
    if tensor["dtype"] == "float64":
        dtype = "float64"
    values = np.asarray(values).astype(DTYPES[dtype])
    odd = event.get("odd")
    if odd and odd[0] == tensor["name"] and values.size:
        values.reshape(-1)[odd[1] % values.size] = float(odd[2])
    return values


def rates_of(trial, tensor):
    """A learning-rate factor for each element."""
    return numbers(trial, "rates", tensor["name"]).choice([0.25, 0.5, 1.0, 2.0], size=tensor["shape"])


def curvature_of(trial, event, tensor):
    values = 1 + 3 * np.asarray(numbers(trial, "h", event["key"], tensor["name"]).normal(size=tensor["shape"]))
    return np.asarray(values).astype(np.float64 if tensor["dtype"] == "float64" else np.float32)


def bits(x):
    """As bytes. Every NaN counts as the same: its sign comes from the order in which a compiler took two operands."""
    x = np.ascontiguousarray(x)
    nan = np.isnan(x) if x.dtype.kind in "fV" else False           # (V: bfloat16)
    return np.where(nan, x.dtype.type(np.nan), x).tobytes() if np.any(nan) else x.tobytes()


# Schedules: how they are made, and what they are

def scheduled(spec):
    """A hyper-parameter as fastlr takes it."""
    if not isinstance(spec, tuple):
        return spec
    kind, *given = spec
    if kind == "linear":
        return schedules.linear(given[0], steps=given[1])
    if kind == "cosine":
        return schedules.cosine(given[0], steps=given[1])
    if kind == "function":
        return Function(*given)
    return schedules.exponential(given[0], given[1])


class Function:
    """A schedule of one's own."""

    def __init__(self, first, share):
        self.first, self.share = first, share

    def __call__(self, t):
        return self.first * (1 + self.share * (t % 3))


def value_at(spec, t):
    """The same, as its documentation defines it."""
    if not isinstance(spec, tuple):
        return spec
    kind, first, second = spec
    if kind == "linear":
        return first * (1 - min(t, second) / second)
    if kind == "cosine":
        return first * (1 + math.cos(math.pi * min(t, second) / second)) / 2
    if kind == "function":
        return first * (1 + second * (t % 3))
    return first * math.exp(-second * t)


def most_of(spec):
    """The largest value of a rate."""
    return max(value_at(spec, t) for t in range(200)) if isinstance(spec, tuple) else spec


# Trials

#: Ranges in which a hyper-parameter is drawn, by name; what is not here is left as it is.
BETAS = ("beta", "beta1", "beta2", "beta3", "momentum", "alpha", "rho", "dampening", "shampoo_beta")
RANGES = {
    "eps": (1e-8, 1e-3, 0.03), "lambd": (1e-4, 0.1), "t0": (1e6, 2.0), "nu": (0.7, 0.3), "nu1": (0.7, 0.3),
    "nu2": (1.0, 0.5), "lr_decay": (0.0, 0.2), "l1": (0.0, 0.05), "l2": (0.0, 0.1), "gamma": (0.025, 0.2),
    "trust_coefficient": (0.02, 0.5), "warmup_steps": (0.0, 3.0), "r": (0.0, 1.0), "weight_lr_power": (2.0, 1.0),
    "clip": (1.0, 0.4), "delta": (0.1, 2.0), "wd_ratio": (0.1, 0.5), "momentum_decay": (0.004, 0.5),
    "d0": (1e-6, 0.01), "alpha_warmup": (0.0, 4.0), "beta3_warmup": (0.0, 4.0), "beta2_decay": (0.8, 0.5),
    "f_min": (0.0, 0.2), "lower_bound": (0.0, 0.2), "clip_exponent": (0.25, 0.5), "final_scale": (100.0, 2.0),
    "step_max": (50.0, 0.05), "fallback_scale": (1.0, 0.5), "matrix_eps": (1e-2, 1e-3),
}
#: What these names mean in these classes is no mean's factor.
OWN_RANGES = {("AdEMAMix", "alpha"): (5.0, 1.0), ("ASGD", "alpha"): (0.75, 0.5), ("FTRL", "beta"): (0.0, 1.0),
              ("Sophia", "rho"): (0.3, 2.0), ("AdaBound", "gamma"): (1e-3, 0.1), ("Lion", "eps"): (1e-8,)}


class Maker:
    """Draws one trial."""

    def __init__(self, seed, number):
        self.seed, self.number = seed, number
        self.random = random.Random(f"{seed} {number}")
        self.maybe = lambda share: self.random.random() < share
        self.choose = self.random.choice
        self.keys = 0

    def make(self):
        choose, maybe = self.choose, self.maybe
        name = choose(FAVOURED) if maybe(0.35) else choose(sorted(CLASSES))
        cls = CLASSES[name]
        self.name, self.matrix, self.together = name, name in MATRIX, name in TOGETHER
        trial = {"seed": self.seed, "number": self.number, "cls": name, "convention": None, "options": {}}
        if len(cls.conventions) > 1 and not self.matrix and maybe(0.35):
            trial["convention"] = choose(list(cls.conventions)[1:])
        self.convention = trial["convention"]
        options = trial["options"]
        self.state = None
        if maybe(0.5):
            self.state = choose(("float32", "float64") if self.matrix else
                                ("float32", "float64", "bfloat16", "float16", "int8", "int8", "bfloat16"))
            options["state_dtype"] = self.state
        self.master = not self.matrix and maybe(0.05)
        trial["tensors"], trial["structure"] = self.tensors()
        trial["hyper"] = self.hyper(cls, whole=True)
        if trial["structure"] == "groups" and not self.together and self.maybe(0.7):
            # (what the second group has of its own)
            trial["groups"] = {1: {name: value for name, value in self.hyper(cls).items()
                                   if not isinstance(value, tuple) or value[0] != "function"}}
        self.stages(options, trial)
        trial["wrapper"] = self.wrapper(trial)
        trial["events"] = self.events(trial)
        return trial

    def tensors(self):
        structure = self.choose(("one", "list", "list", "tuple", "dict", "dict", "groups", "groups"))
        count = 1 if structure == "one" else self.choose((1, 2, 2, 3))
        dtype = "bfloat16" if self.master else self.choose(("float32", "float32", "float32", "float64", "float16", "bfloat16"))
        if self.state in ("int8", "bfloat16", "float16") and not self.master:
            dtype = self.choose(("float32", "float32", dtype))
        mixed = not self.master and not self.together and self.maybe(0.15)
        made = []
        for k in range(count):
            made.append(self.tensor("wb"[k % 2] + str(k) if structure == "dict" else str(k),
                                    self.choose(list(DTYPES)) if mixed else dtype, k))
            made[-1]["group"] = 0 if structure != "groups" or k == 0 else self.random.randrange(2)
        if structure == "groups":
            made.sort(key=lambda tensor: tensor["group"])
            for k, tensor in enumerate(made):
                tensor["name"] = str(k)
        return made, structure

    def tensor(self, name, dtype, k):
        large = self.state == "int8" and k == 0 and self.maybe(0.85)
        if large:
            shape = self.choose(CODED)
        elif self.matrix:
            shape = self.choose([shape for shape in SMALL + BLOCKS[6:] if len(shape) < 3])
        else:
            shape = self.choose(ROOM if self.maybe(0.01) else CODED if self.maybe(0.03) else
                                BLOCKS if self.maybe(0.4) else SMALL)
        return {"name": name, "shape": shape, "dtype": dtype, "layout": self.choose(LAYOUTS), "group": 0}

    def hyper(self, cls, whole=False):
        """Some hyper-parameters of a class."""
        given, maybe, choose = {}, self.maybe, self.choose
        for name in cls.hypers:
            values = OWN_RANGES.get((self.name, name)) or RANGES.get(name)
            if name == "lr":
                if whole or maybe(0.5):
                    given["lr"] = self.rate()
            elif name == "weight_decay":
                if maybe(0.75 if whole else 0.3):
                    given[name] = choose((0.0, 0.1, 0.3))
            elif values:
                if name == "eps" and self.name in ("AdamP", "SGDP"):
                    continue                       # (KNOWN)
                if name == "eps" and (self.state == "float16" or self.name in ("AdaBelief", "LaProp")):
                    given[name] = 0.03
                elif maybe(0.3):
                    given[name] = choose(values)
            elif name in BETAS and maybe(0.4):
                low = {"beta2": 0.9, "beta3": 0.9}.get(name, 0.3)
                given[name] = round(low + (0.999 - low) * self.random.random(), 4)
        return given

    def rate(self):
        rate = self.choose((0.01, 0.05, 0.1)) * (1.0 if self.name not in TOGETHER else 5.0)
        kind = self.random.random()
        if self.name == "FTRL" and kind > 0.6:         # (whose formula divides by the rate)
            return ("exponential", rate, 0.2)
        if kind < 0.6 or self.together:
            return rate
        return self.choose((("linear", rate, self.choose((3, 8))), ("cosine", rate, self.choose((4, 9))),
                            ("exponential", rate, 0.2), ("function", rate, 0.25)))

    def stages(self, options, trial):
        maybe, choose, tensors = self.maybe, self.choose, trial["tensors"]
        names = [tensor["name"] for tensor in tensors]
        together = self.together
        if maybe(0.45):
            options["decay"] = choose(DECAYS)
            if not together and trial["structure"] == "dict" and maybe(0.3):
                options["decay"] = {name: choose(DECAYS) for name in names}
        if maybe(0.25) and not together:
            options["decay_mask"] = {name: maybe(0.5) for name in names}
        if maybe(0.3) and not together:
            scale = {name: choose((0.5, 2.0, 1.0, 0.1)) for name in names}
            if CAN[self.name]["rates"] and not self.matrix and maybe(0.6):
                scale[choose(names)] = "array"
            options["lr_scale"] = scale
        # (each may be given as a mapping, a sequence or a function; with a sequence, no group can join)
        trial["forms"] = {name: choose(("mapping", "mapping", "sequence", "function"))
                          for name in ("decay", "decay_mask", "lr_scale") if isinstance(options.get(name), dict)}
        for name, values, share in (("clip_value", (0.5, 1.5), 0.15), ("clip_norm", (0.5, 3.0, 100.0), 0.2),
                                    ("clip_tensor_norm", (0.5, 2.0), 0.1), ("clip_adaptive", (0.02, 0.3), 0.07),
                                    ("clip_zscore", (1.0, 2.0), 0.07), ("ema_decay", (0.5, 0.9), 0.2),
                                    ("maximize", (True,), 0.15), ("nonfinite", ("skip", "skip", "raise"), 0.2)):
            if maybe(share):
                options[name] = choose(values)
        if "clip_adaptive" in options:
            options["clip_adaptive_eps"] = choose((1e-3, 0.1))
            if maybe(0.4) and all(len(tensor["shape"]) < 3 for tensor in tensors):
                options["clip_adaptive_axis"] = -1
        if "clip_zscore" in options:
            options["clip_zscore_warmup"], options["clip_zscore_alpha"] = choose((1, 2)), choose((0.97, 0.5))
        if self.master:
            options["master"] = "split"
        low = any(tensor["dtype"] in ("float16", "bfloat16") for tensor in tensors)
        if not self.master and maybe(0.35 if low or self.state in ("bfloat16", "float16") else 0.03):
            options["rounding"] = "stochastic"
            options["seed"] = self.random.randrange(100)
        if not self.master and maybe(0.12):
            options["shadow"] = choose(("bfloat16", "float16"))
        decay = options.get("decay")
        if decay == "corrected" or (isinstance(decay, dict) and "corrected" in decay.values()):
            rate = trial["hyper"]["lr"]
            if decay != "corrected" or (isinstance(rate, tuple) and rate[0] == "function") or maybe(0.3):
                if decay == "corrected":
                    options["lr_max"] = 2 * most_of(rate)
                else:
                    options["decay"] = "corrected"
                    options["lr_max"] = 2 * most_of(rate)
        if "lr_max" in options:
            trial.get("groups", {}).get(1, {}).pop("lr", None)

        trial["forms"] = {name: form for name, form in trial["forms"].items() if isinstance(options[name], dict)}

    def wrapper(self, trial):
        if trial["structure"] == "groups" or not self.maybe(0.12):
            return None
        kinds = ["GradientCentralization"] * (self.name not in ("AdamP", "SGDP")) + ["SAM"] + ["Lookahead"] * (not self.master) \
            + ["GradientAccumulation"] * (self.name not in NEED_LOSS and self.name != "Sophia")
        kind = self.choose(kinds)
        return {"Lookahead": ("Lookahead", {"k": 2, "alpha": 0.5}), "SAM": ("SAM", {"rho": 0.25}),
                "GradientCentralization": ("GradientCentralization", {}),
                "GradientAccumulation": ("GradientAccumulation", {"k": 2})}[kind]

    # Events

    def event(self, kind, **more):
        self.keys += 1
        return {"kind": kind, "key": self.keys, **more}

    def step(self, trial, whole=False, **more):
        maybe, choose, names = self.maybe, self.choose, [tensor["name"] for tensor in self.now]
        event = self.event("step", **more)
        if maybe(0.25):
            event["scale"] = choose((2.0, 1024.0, 0.5, 3.0))
        size = choose((1e-3, 0.1, 1.0, 1.0, 1.0, 8.0)) if self.state != "float16" else 1.0
        # (what GradientAccumulation is given has no scale of its own)
        kind = trial["wrapper"] and trial["wrapper"][0]
        event["size"] = size * (1.0 if kind == "GradientAccumulation" else event.get("scale", 1.0))
        if maybe(0.2) and trial["wrapper"] is None:
            event["zero"] = True
        if maybe(0.1) and self.name not in ("AdamP", "SGDP"):      # (the cosine of a row of zeros is 0/0)
            event["sparse"] = True
        if maybe(0.2) and len(names) > 1 and not self.together and not whole:
            event["none"] = [choose(names)]
        if maybe(0.15):
            event["dtype"] = choose(("float32", "float16", "bfloat16"))
            if event["dtype"] == "float16":
                event["size"] = min(event["size"], 100.0)
        if "float16" in (tensor["dtype"] for tensor in self.now):
            event["size"] = min(event["size"], 100.0)
        if maybe(0.3):
            event["layout"] = choose(LAYOUTS)
        if self.name in NEED_LOSS:
            event["loss"] = choose((1.5, 0.7, 3.0))
        if self.name == "Sophia":
            event["curvature"] = whole or not self.given or maybe(0.3)
        policy = trial["options"].get("nonfinite", "propagate")
        if maybe(0.15) and (policy != "propagate" or (self.name in ELEMENTWISE and not self.normed)):
            target = choose([name for name in names if name not in event.get("none", ())])
            event["odd"] = (target, self.random.randrange(6000), choose(("nan", "inf", "-inf") if policy != "propagate"
                                                                        else ("nan",)))
        # (Sophia needs an estimate with each tensor's first gradient)
        self.given = self.given or not ("none" in event or "odd" in event)
        return event

    def events(self, trial):
        maybe, choose, options = self.maybe, self.choose, trial["options"]
        self.now, self.given = list(trial["tensors"]), False
        self.normed = any(name in options for name in ("clip_norm", "clip_zscore", "clip_tensor_norm", "clip_adaptive"))
        plain = trial["wrapper"] is None
        kind = trial["wrapper"] and trial["wrapper"][0]
        can, events = CAN[self.name], [self.step(trial, whole=True)]
        for _ in range(self.random.randint(2, 5)):
            if plain and can["rows"] and not self.normed and maybe(0.15) and self.name != "Sophia" \
                    and "shadow" not in options and not self.master:
                tables = [tensor for tensor in self.now if tensor["shape"] and tensor["shape"][0]
                          and (self.coded_by_rows(tensor))]
                if tables:
                    table = choose(tables)
                    events.append(self.event("rows", name=table["name"], count=choose((1, 3, 8)),
                                             scale=choose((1.0, 2.0)), ends=maybe(0.5),
                                             size=choose((0.1, 1.0))))
            if plain and self.accumulates(trial) and maybe(0.3):
                parts = choose((1, 2))
                for _ in range(parts):
                    events.append(self.event("accumulate", scale=parts + 1.0, size=1.0))
                last = self.step(trial, whole=True)
                last["scale"], last["size"] = parts + 1.0, 1.0
                last.pop("odd", None)
                last.pop("dtype", None)
                events.append(last)
            if maybe(0.25):
                events.append(self.setting(trial))
            if maybe(0.12) and not self.together:
                events.append(self.event("refuse", how=choose(("group", "group", "group", "step", "load"))))
                if events[-1]["how"] == "group":
                    events[-1]["why"] = choose(("dtype", "name", "hyper", "shared"))
                    if "sequence" in trial["forms"].values() and maybe(0.8):
                        events[-1]["why"] = "sequence"
            if maybe(0.08) and not self.together and self.joinable(trial):
                events.append(self.joining(trial))
            if maybe(0.08) and kind != "SAM":
                events.append(self.event("rewind", by=choose(("dict", "file"))))
            if maybe(0.06):
                events.append(self.event("interrupt"))
            events.append(self.step(trial))
        return events

    def coded_by_rows(self, tensor):
        return not (self.state == "int8" and math.prod(tensor["shape"]) >= 4096
                    and (len(tensor["shape"]) < 2 or math.prod(tensor["shape"][1:]) % 64))

    def accumulates(self, trial):
        return CAN[self.name]["accumulates"] and not self.normed and not (
            trial["convention"] == "keras" and self.name == "Momentum")

    def setting(self, trial):
        cls = CLASSES[self.name]
        hyper = self.hyper(cls) or {"weight_decay": self.choose((0.0, 0.2))}
        hyper.pop("d0", None)
        if trial["wrapper"]:
            for name in ("rho", "alpha"):
                hyper.pop(name, None)              # (SAM and Lookahead have their own, which hide those inside)
        if "lr" in hyper and "lr_max" in trial["options"]:
            del hyper["lr"]
        if "lr" in hyper and isinstance(hyper["lr"], tuple) and hyper["lr"][0] == "function":
            hyper["lr"] = 0.02
        if self.name.startswith(("ScheduleFree", "NAdam")) or self.name in ("ASGD", "SM3"):
            for name in ("beta1", "momentum", "warmup_steps", "t0"):
                hyper.pop(name, None)       # (of which these keep products or means that the reference makes anew)
        hyper = hyper or {"weight_decay": 0.2}
        return self.event("set", group=None if self.together else self.choose((None, 0)), hyper=hyper)

    def joinable(self, trial):
        return trial["wrapper"] is None and "sequence" not in trial["forms"].values()

    def joining(self, trial):
        group = 1 + max(tensor["group"] for tensor in self.now)
        tensors = [self.tensor(str(len(self.now)), self.now[0]["dtype"], 1)]
        tensors[0]["group"] = group
        self.now += tensors
        self.given = False
        hyper = self.hyper(CLASSES[self.name])
        if isinstance(hyper.get("lr"), tuple) and hyper["lr"][0] == "function":
            hyper["lr"] = 0.02
        if "lr_max" in trial["options"]:
            hyper.pop("lr", None)
        return self.event("join", tensors=tensors, hyper=hyper)


def make(seed, number):
    return Maker(seed, number).make()
