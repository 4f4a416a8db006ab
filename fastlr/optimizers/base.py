"""What every optimizer shares: binding parameters, owning state, taking a step, saving and loading."""
from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from .._core.arena import Arena
from .._core.dispatch import door, isa
from .._core.matrix import Director
from .._core.plan import Plan, accumulate, step_rows
from .._core.tensors import (
    STORAGES,
    Tensor,
    bind,
    named,
    named_dtype,
    per_tensor,
    refuse_shared,
    set_scale,
    set_shadow,
    split,
)
from .._core.threads import get_num_threads
from ..schedules import Schedule, from_dict
from .declaration import DECLARED, Bounded, Choice, Hyper, Start, Theirs, nearest, within
from .loss_scale import LossScale
from .stages import STAGES, Stages

if TYPE_CHECKING:
    from inspect import Signature

#: From a group's values, and whether this is a tensor's first update: slot -> (power, share).
Folds = Callable[[dict[str, float], bool], dict[str, tuple[int, float]]]

REGISTRY: dict[str, type[Optimizer]] = {}
FORMAT = 1
DECAYS = ("coupled", "decoupled", "independent", "corrected")
MOST_STEPS = 2**62 - 1


class Group:
    """Parameters that share hyper-parameters; each is read and set as an attribute: `opt.groups[0].lr = 1e-4`."""

    __slots__ = ("_index", "_most", "_optimizer", "_peak", "_values")
    _optimizer: Optimizer
    _index: int
    _values: dict[str, Hyper]
    _most: float | None                # lr_max, if given
    _peak: float | None                # the largest learning rate, if decay is corrected by it

    def __init__(self, optimizer: Optimizer, index: int, values: dict[str, Hyper], most: float | None) -> None:
        for name, value in (("_optimizer", optimizer), ("_index", index), ("_values", values), ("_most", most),
                            ("_peak", None)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"{type(self._optimizer).__name__}: a group has no {name!r}") from None

    def __setattr__(self, name: str, value: Hyper) -> None:
        self._optimizer._assign(self, name, value)

    def __dir__(self) -> list[str]:
        return sorted(self._values)

    @property
    def params(self) -> list[str]:
        """The names of the group's parameters."""
        return [tensor.name for tensor in self._optimizer._plan.tensors if tensor.group == self._index]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"Group({len(self.params)} params, {values})"


class Optimizer:
    """What all optimizers are.

    Parameters
    ----------
    params
        An array, a sequence of arrays, a mapping name -> array, or a sequence of groups
        ``{"params": ..., "lr": ..., ...}``. An array is any writable CPU buffer (PEP 3118) or DLPack tensor of
        float16, bfloat16, float32 or float64, of any strides that do not overlap. It is updated in place.
    lr, weight_decay and what the class names
        A float, or a schedule: any callable ``t -> float``, t = 0 being the first update. All may be set between
        steps, ``opt.lr = 0.1``.
    grads
        Gradient buffers of the same structure, bound once: ``opt.step()`` then needs no argument.
    clip_value
        Bounds each (unscaled) gradient element to [-clip_value, clip_value].
    clip_adaptive, clip_adaptive_eps, clip_adaptive_axis
        Adaptive clipping (AGC, https://arxiv.org/abs/2102.06171), after clip_value: the gradient of each unit is
        scaled down where its norm reaches clip_adaptive * max(norm of the unit's parameters, clip_adaptive_eps), to
        that. Units lie along axis 0 (rows of a weight laid out as in torch; timm's ``adaptive_clip_grad``) or -1
        (columns, as in JAX; ``optax.adaptive_grad_clip``, which of three axes takes the last two together); an array
        of fewer than two axes is one. Costs one more read of parameters and gradients; the norms of `clip_norm` and of
        `opt.grad_norm` are then those it leaves.
    clip_norm
        Scales all gradients down together where their Euclidean norm is larger, by clip_norm / (norm + 1e-6), as
        torch's ``clip_grad_norm_``. Measured in one more read of the gradients; `opt.grad_norm` then has the norm.
    clip_zscore, clip_zscore_alpha, clip_zscore_warmup
        Scales all gradients down together where their norm stands out among those of past steps (ZClip,
        https://arxiv.org/abs/2504.02507). The first ``clip_zscore_warmup`` norms give a mean and a variance; then a
        norm with z = (norm - mean) / (std + 1e-6) above `clip_zscore` is brought to mean + clip_zscore**2 / z * std,
        and mean and variance follow with the factor `clip_zscore_alpha` the norm that was left. Where `clip_norm`
        is smaller, it bounds the step. A norm that is not finite is not remembered. `opt.norms` has what is.
    clip_tensor_norm
        The same as clip_norm for each tensor by its own norm (Keras' ``clipnorm``), after it.
    nonfinite
        What a step does when a gradient holds NaN or infinity: "propagate" takes it, "skip" leaves parameters, state
        and t as they are and counts it in `opt.skipped`, "raise" raises FloatingPointError with nothing changed.
    ema_decay
        Keep a running mean of the parameters, ``ema <- ema_decay * ema + (1 - ema_decay) * p`` after each step, which
        begins at the parameters' values; `opt.ema` has it, by name.
    state_dtype
        How the state is stored: "float32" (the default, for parameters of up to 32 bits), "float64", "bfloat16",
        "float16" or "int8" (companded, a scale for every 64 elements; tensors of fewer than 4,096 elements keep
        float32). One for all, or by name, or as lr_scale is given. Rules compute in float32, or in float64 where
        parameter or state is float64.
    rounding, seed
        "nearest", or "stochastic": 16-bit parameters and states are rounded up or down with the probability that keeps
        their mean, by random bits of (seed, t, name, element), the same for any thread count.
    shadow
        "bfloat16" or "float16": keep a copy of the parameters rounded to nearest, in the same pass; `opt.shadow` has
        it, by name. Or the arrays that are to hold it, given as lr_scale is (uint16 for bfloat16). It is no state:
        where you change a parameter yourself, `opt.cast()` brings the copy up to date.
    master
        "split": what moves is a float32 whose upper half, the nearest bfloat16, is the parameter, and whose lower
        half is kept as ``opt.state[name]["remainder"]`` (2 bytes an element). Training is bit for bit that of a float32
        parameter; `opt.master` has it. A parameter that you change between steps keeps its remainder: the float32 is
        within half a bfloat16 step of what you wrote (0 is 0); set the remainder to 0 for just that.
    dtype
        "bfloat16" says that uint16 arrays hold bfloat16 bits.
    decay
        How ``weight_decay`` works: "coupled" adds ``weight_decay * p`` to the gradient (L2, as in torch's SGD and
        Adam), "decoupled" shrinks p by ``lr * weight_decay`` (as in AdamW), "independent" shrinks p by
        ``weight_decay`` itself, "corrected" by ``lr**2 / lr_max * weight_decay`` (AdamC,
        https://arxiv.org/abs/2506.02285: for weights that a normalisation follows, whose gradients grow towards the
        end of a schedule otherwise). One for all, or as lr_scale is given; None is what the rule's name means.
    lr_max
        The largest learning rate, for "corrected" decay, of all groups or (as ``"lr_max"``) of one. If not given, it
        is the highest of a schedule's first 2**20 updates, and of numbers the largest that `lr` has been set to; so
        with a constant rate, corrected decay is decoupled. A function of one's own needs it.
    decay_mask
        Which parameters decay: a mapping name -> bool, a sequence, or a callable ``(name, array) -> bool``.
    lr_scale
        A learning-rate factor per tensor: a number or an array of the tensor's shape (a learning rate per element),
        given as a mapping by name, a sequence, a callable ``(name, array)``, or one number for all.
    maximize
        Ascend instead of descend.
    convention
        "torch", "optax", "keras", "paper" or whose else, where they differ: the rule as they have it, with their
        defaults of hyper-parameters and their mode of weight decay, unless you give others. The class says in what
        they differ and which is the default; a state knows its own, and loads into no other.

    Raises
    ------
    TypeError, ValueError
        They say who, what must hold, what came, and the cure; nothing has changed when one is raised.
    """

    kind: ClassVar[Literal["elementwise", "matrix"]] = "elementwise"
    slots: ClassVar[tuple[str, ...]] = ()
    memory: ClassVar[tuple[str, ...]] = ()     # what it remembers of a tensor as a whole
    shared: ClassVar[tuple[str, ...]] = ()     # ... and of all tensors together
    reduces: ClassVar[bool] = False            # whether it sums over a tensor before it moves it
    placed: ClassVar[bool] = False             # whether its step depends on where the parameter stands
    needs_loss: ClassVar[bool] = False         # whether a step is given the loss, too
    needs_curvature: ClassVar[bool] = False    # whether some steps are given estimates of the curvature, too
    #: Whose rule is which, where peers differ; the first is the default.
    conventions: ClassVar[dict[str, Theirs]] = {}
    #: What `accumulate` adds to each slot: its share of which power of a gradient; None where a rule needs the whole.
    folds: ClassVar[Folds | None] = None
    decay_mode: ClassVar[str] = "coupled"
    hypers: ClassVar[dict[str, Bounded]] = {}
    starts: ClassVar[dict[str, Start]] = {}
    choices: ClassVar[dict[str, Choice]] = {}
    __signature__: ClassVar[Any]
    _rules: ClassVar[dict[str, Any]]
    _rule: ClassVar[Any]
    _default_rule: ClassVar[str]
    _fields: ClassVar[tuple[str, ...]]

    lr: Hyper = within(1e-3)
    weight_decay: Hyper = within(0.0)

    def __init_subclass__(cls, slots: tuple[str, ...] = (), memory: tuple[str, ...] = (),
                          shared: tuple[str, ...] = (), decay: str = "coupled", rule: str | None = None,
                          conventions: Mapping[str, str | Theirs] | None = None, family: bool = False,
                          folds: Folds | None = None) -> None:
        cls.slots, cls.memory, cls.shared, cls.decay_mode = slots, memory, shared, decay
        cls.conventions = {name: Theirs(whose) if isinstance(whose, str) else whose
                           for name, whose in (conventions or {}).items()}
        cls.folds = folds
        if family:                     # (what optimizers derive from is none itself)
            return
        # (one look at each attribute, as there are seventy classes of a hundred at every import)
        every = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        declared = [(name, value) for name, value in every.items() if type(value) in DECLARED]
        cls.starts = {name: value for name, value in declared if type(value) is Start}
        cls.choices = {name: value for name, value in declared if type(value) is Choice}
        cls.hypers = {name: value for name, value in declared if type(value) is Bounded}
        # (the struct of the same name says which of them are its own, and in which order; `_` fills an empty one)
        named = [rule or cls.__name__, *(whose.rule for whose in cls.conventions.values())]
        cls._rules = {name: cls._opened(name) for name in named}
        cls._default_rule = named[0]
        cls._rule, fields, counts, cls.reduces, cls.placed = cls._rules[named[0]]
        numbers = len(slots), len(memory), len(shared)
        if any(rule[2] != numbers or list(rule[1]) != list(fields) for rule in cls._rules.values()):
            raise TypeError(f"{cls.__name__}: declares {numbers} slots, numbers of a tensor and of all; its rules have "
                            f"{counts}, or differ in their fields")
        declarations: dict[str, Bounded | Choice] = {**cls.hypers, **cls.starts, **cls.choices}
        for name, whose in cls.conventions.items():
            for key, value in whose.defaults.items():
                declarations[key].checked(value, f"{cls.__name__}, convention {name!r}")
        cls._fields = tuple(name for name in ("lr", "weight_decay") if name not in fields) + tuple(fields)
        order = {name: k for k, name in enumerate(("lr", *fields, "weight_decay"))}
        cls.hypers = dict(sorted(cls.hypers.items(), key=lambda item: order[item[0]]))
        cls.__signature__ = Declared()
        REGISTRY[cls.__name__.lower()] = cls

    @classmethod
    def _opened(cls, name: str) -> tuple[Any, ...]:
        """The compiled rule of that name, and what it says of itself."""
        opened: tuple[Any, ...] = door.rule[name]({**dict.fromkeys(cls.hypers, 0.0), "_": 0.0})
        return opened

    def _director(self, tensors: list[Tensor]) -> Director | None:
        """What makes the updates of a rule that is not elementwise."""
        return None

    def __init__(self, params: Any, lr: Hyper | None = None, *, grads: Any = None, state_dtype: Any = None,
                 dtype: Literal["bfloat16"] | None = None, decay: Any = None, decay_mask: Any = None,
                 lr_scale: Any = None, shadow: Any = None, master: Literal["split"] | None = None,
                 convention: str | None = None, lr_max: float | None = None, **hyper: Any) -> None:
        who = type(self).__name__
        if convention is not None and convention not in self.conventions:
            known = ", ".join(map(repr, self.conventions)) or "nothing, as peers do not differ in this rule"
            raise ValueError(f"{who}: convention must be {known}, got {convention!r}"
                             f"{nearest(str(convention), self.conventions)}")
        #: Whose rule this is where peers differ, or None.
        self.convention = convention or next(iter(self.conventions), None)
        self._whose = self.conventions[self.convention] if self.convention else Theirs(self._default_rule)
        self._usual_decay = self._whose.decay or self.decay_mode
        theirs = self._whose.defaults
        if lr is not None:
            hyper["lr"] = lr
        self._stages = Stages(**{name: hyper.pop(name) for name in STAGES if name in hyper})
        self._chosen = {name: choice.checked(hyper.pop(name, theirs.get(name, choice.default)), who)
                        for name, choice in self.choices.items()}
        starts = {name: slot.checked(hyper.pop(name, theirs.get(name, slot.default)), who)
                  for name, slot in self.starts.items()}
        self._start = {self.starts[name].slot: float(value) for name, value in starts.items()}  # type: ignore[arg-type]
        self._declared: dict[str, Hyper] = {name: bound.default for name, bound in self.hypers.items()}
        self._declared |= {name: value for name, value in theirs.items() if name in self.hypers}
        self._defaults = self._declared | self._checked(hyper)
        self._stages.check(who)
        self._decay, self._lr_max = self._usual_decay if decay is None else decay, lr_max
        if dtype not in (None, "bfloat16"):
            raise ValueError(f"{who}: dtype must be 'bfloat16', which says what uint16 arrays hold, got {dtype!r}")
        if master not in (None, "split"):
            raise ValueError(f"{who}: master must be 'split' or None, got {master!r}")
        state_dtype = named_dtype(state_dtype)
        self._state_dtype, self._dtype, self._shadow, self._master = state_dtype, dtype, shadow, master
        # (groups of 8-bit states, too, belong to elements in the array's own order, and so do sums)
        self._permuted = self._stages.permuted and state_dtype in (None, *STORAGES) and not self.reduces
        self._shared = np.array([self._start.get(name, 0.0) for name in self.shared])
        self._kept = self.slots if self._stages.ema_decay is None else (*self.slots, "ema")
        self._decay_mask, self._lr_scale = decay_mask, lr_scale
        self._shapes: list[tuple[str, list[Tensor]]] = []
        self._grouped = isinstance(params, Sequence) and len(params) > 0 and all(is_group(g) for g in params)
        self.groups: tuple[Group, ...] = ()
        tensors: list[Tensor] = []
        groups: list[Group] = []
        for group in params if self._grouped else ({"params": params},):
            tensors += self._bound_group(group, groups, tensors)
        self._adopt(tensors, groups)
        if grads is not None:
            self.bind(grads)

    # Parameters and groups

    def _bound_group(self, given: Mapping[str, Any], groups: list[Group], before: list[Tensor]) -> list[Tensor]:
        """The tensors of one more group; it is appended to `groups`."""
        who = type(self).__name__
        index = len(groups)
        values = self._defaults | self._checked({k: v for k, v in given.items() if k not in ("params", "lr_max")})
        most = most_of(given.get("lr_max", self._lr_max), who)
        members, kind = named(given["params"], len(before))
        prefix = f"grads[{index}]" if self._grouped else "grads"
        tensors = []
        taken = {tensor.name for tensor in before}
        for k, (name, x) in enumerate(members):
            if name in taken:
                raise ValueError(f"{who}: two parameters are named {name!r}")
            taken.add(name)
            label = prefix if kind == "one" else f"{prefix}[{name!r}]" if kind == "mapping" else f"{prefix}[{k}]"
            tensors.append(bind(name, x, index, who, label, self._dtype, self._permuted))
        groups.append(Group(self, index, values, most))
        self._shapes.append((kind, tensors))
        return tensors

    def _adopt(self, tensors: list[Tensor], groups: list[Group]) -> None:
        """Allocate what state is missing and plan the steps; all checks are done before anything is kept."""
        who = type(self).__name__
        for tensor, shadow in zip(tensors, per_tensor(self._shadow, tensors, who, "shadow"), strict=True):
            set_shadow(tensor, shadow, who)
        refuse_shared(tensors, who)
        if self._master == "split":
            split(tensors, who)
        new = []
        for tensor, stored in zip(tensors, per_tensor(self._state_dtype, tensors, who, "state_dtype"), strict=True):
            stored = stored or ("float64" if tensor.wide else "float32")
            if stored not in (*STORAGES, "int8"):
                raise ValueError(f"{who}: state_dtype must be one of {', '.join(STORAGES)} or int8, got {stored!r}")
            if not tensor.allocated:
                new.append((tensor, stored))
        arena = Arena(size for tensor, stored in new for size in tensor.sizes(self._kept, stored))
        for tensor, stored in new:
            tensor.allocate(self._kept, self.memory, self._start, stored, arena)
        for tensor, scale in zip(tensors, per_tensor(self._lr_scale, tensors, who, "lr_scale"), strict=True):
            set_scale(tensor, scale, who)
            if self.placed and tensor.scale is not None:
                raise ValueError(f"{who}: lr_scale of {tensor.name!r}: must be a number, as a step of this rule "
                                 f"depends on more than an element's gradient, got an array")
        for tensor, decays in zip(tensors, per_tensor(self._decay_mask, tensors, who, "decay_mask"), strict=True):
            tensor.decays = decays is None or bool(decays)
        for tensor, mode in zip(tensors, per_tensor(self._decay, tensors, who, "decay"), strict=True):
            tensor.decay = self._usual_decay if mode is None else mode
            if not isinstance(tensor.decay, str) or tensor.decay not in DECAYS:
                raise ValueError(f"{who}: decay must be {', '.join(map(repr, DECAYS[:-1]))} or {DECAYS[-1]!r}, "
                                 f"got {mode!r}{nearest(str(mode), DECAYS)}")
        corrected = {tensor.group for tensor in tensors if tensor.decay == "corrected"}
        peaks = [self._peak(group, group._values["lr"]) if group._index in corrected else None for group in groups]
        if any(group._most is not None and group._index not in corrected for group in groups):
            raise ValueError(f"{who}: lr_max is what decay='corrected' goes by, and no parameter of the group has that")
        bounds = [(0.0, inf) if name == "_" else (self.hypers[name].low, self.hypers[name].high)
                  for name in self._fields]
        plan = Plan(who, self._rules[self._whose.rule][0], door, self._fields, bounds, tensors, len(groups),
                    self._shared, self._stages, self._director(tensors))
        for group, peak in zip(groups, peaks, strict=True):
            for name, value in group._values.items():
                plan.assign(group._index, self._fields.index(name), value)
            plan.set_peak(group._index, peak or 0.0)
            object.__setattr__(group, "_peak", peak)
        self._plan, self.groups = plan, tuple(groups)
        self._nested = self._grouped or self._shapes[0][0] != "sequence"     # gradients need arranging
        #: The state of each parameter: ``opt.state[name][slot]``, an array of the parameter's shape.
        self.state = {tensor.name: tensor.shown(self._kept, self.memory) for tensor in tensors}
        self.cast()

    def _checked(self, hyper: Mapping[str, Any]) -> dict[str, Hyper]:
        who = type(self).__name__
        for name in hyper:
            if name not in self.hypers:
                raise TypeError(f"{who}: unknown keyword {name!r}{nearest(name, self.__signature__.parameters)}"
                                f" (hyper-parameters: {', '.join(self.hypers)})")
        return {name: self.hypers[name].checked(value, who) for name, value in hyper.items()}

    def _assign(self, group: Group, name: str, value: Hyper) -> None:
        if name not in self.hypers:
            raise AttributeError(f"{type(self).__name__}: a group has no {name!r}{nearest(name, self.hypers)}")
        value = self.hypers[name].checked(value, type(self).__name__)
        peak = group._peak if name != "lr" or group._peak is None else self._peak(group, value)
        self._plan.assign(group._index, self._fields.index(name), value)
        group._values[name] = value
        self._set_peak(group, peak)

    def _peak(self, group: Group, lr: Hyper) -> float:
        """The largest learning rate of a group, once this is its rate."""
        who = f"{type(self).__name__}: decay='corrected'"
        if group._most is None:
            from ..schedules.plateau import highest
            return highest(lr, who) if callable(lr) else max(lr, group._peak or 0.0)
        if not callable(lr) and lr > group._most:
            raise ValueError(f"{who}: lr must be at most lr_max = {group._most:g}, got {lr:g}")
        return group._most

    def _set_peak(self, group: Group, peak: float | None) -> None:
        self._plan.set_peak(group._index, peak or 0.0)
        object.__setattr__(group, "_peak", peak)

    def add_group(self, params: Any, **hyper: Any) -> Group:
        """Take more parameters, as a group of their own; what is not given is as in the constructor.

        Gradients then come as one entry per group. Bound gradients are forgotten: bind again.
        """
        plan, shapes, grouped = self._plan, list(self._shapes), self._grouped
        groups = list(self.groups)
        self._grouped = True
        plan.begin()                   # (for good, once there is a plan in its place)
        try:
            added = self._bound_group({"params": params, **hyper}, groups, plan.tensors)
            self._adopt([*plan.tensors, *added], groups)
        except BaseException:
            self._shapes, self._grouped = shapes, grouped
            plan.end()
            raise
        self._relabel()
        self._plan.set_clock(plan.t, plan.missed_steps() + [plan.t] * len(added))
        self._plan.skipped = plan.skipped
        self._plan.folded = plan.folded
        self._plan.norm_count, self._plan.norm_mean, self._plan.norm_variance = \
            plan.norm_count, plan.norm_mean, plan.norm_variance
        return self.groups[-1]

    def _relabel(self) -> None:
        for index, (kind, tensors) in enumerate(self._shapes):
            for k, tensor in enumerate(tensors):
                tensor.label = f"grads[{index}]" + {"one": "", "sequence": f"[{k}]"}.get(kind, f"[{tensor.name!r}]")

    # Stepping

    @property
    def t(self) -> int:
        """Updates done."""
        return self._plan.t

    @property
    def skipped(self) -> int:
        """Steps that ``nonfinite="skip"`` did not take."""
        return self._plan.skipped

    @property
    def grad_norm(self) -> float | None:
        """The norm of the latest step's gradients, unscaled and clipped by value; None where nothing measured it."""
        return self._plan.grad_norm

    @property
    def shadow(self) -> dict[str, Any]:
        """The 16-bit copy of each parameter that has one, by name."""
        return {tensor.name: tensor.shadow for tensor in self._plan.tensors if tensor.shadow is not None}

    @property
    def master(self) -> dict[str, Any]:
        """The numbers that move, by name, as new float32 (or float64) arrays: of a split parameter both halves."""
        return {tensor.name: tensor.master().copy() for tensor in self._plan.tensors}

    def cast(self) -> None:
        """Bring the 16-bit copies to what the parameters are, after somebody else changed those."""
        for tensor in self._plan.tensors:
            tensor.cast()

    @property
    def norms(self) -> dict[str, float]:
        """What clip_zscore knows of past norms: their mean and variance, and how many of its warm-up it has seen."""
        if self._stages.clip_zscore is None:
            raise AttributeError(f"{type(self).__name__}: no norms are remembered; give clip_zscore")
        plan = self._plan
        return {"count": plan.norm_count, "mean": plan.norm_mean, "variance": plan.norm_variance}

    @property
    def ema(self) -> dict[str, Any]:
        """The running mean of each parameter, by name: what `ema_decay` keeps."""
        if "ema" not in self._kept:
            raise AttributeError(f"{type(self).__name__}: no running mean is kept; give ema_decay")
        return {name: slots["ema"] for name, slots in self.state.items()}

    def step(self, grads: Any = None, grad_scale: float | LossScale = 1.0, zero_grads: bool = False) -> None:
        """Update every parameter in place.

        Parameters
        ----------
        grads
            Gradients in the structure of the parameters, of their shapes, in any layout; float64 for float64, any float
            of up to 32 bits for any other. `None` for a tensor skips it, and its own count of updates stays. Only read,
            unless `zero_grads`. Not given: those bound.
        grad_scale
            Divides the gradients (the factor by which a loss was scaled). A `fastlr.LossScale` moves with the step,
            and needs ``nonfinite="skip"``.
        zero_grads
            Set the gradients to zero in the same pass.

        Raises
        ------
        TypeError, ValueError
            Before anything is written.
        RuntimeError
            If this optimizer is stepping in another thread.
        """
        if grads is not None and (type(grads) is not list or self._nested or len(grads) != self._plan.count):
            grads = self._arranged(grads)
        if type(grad_scale) is not LossScale:
            self._plan.step(grads, grad_scale, zero_grads)      # type: ignore[arg-type]
            return
        self._step_scaled(grads, grad_scale, zero_grads)

    def _step_scaled(self, grads: Any, grad_scale: LossScale, zero_grads: bool, *more: Any) -> None:
        if self._stages.nonfinite != "skip":
            raise ValueError(f"{type(self).__name__}: a LossScale needs nonfinite='skip', "
                             f"got {self._stages.nonfinite!r}; give it to the constructor")
        skipped = self._plan.skipped
        self._plan.step(grads, grad_scale.value, zero_grads, *more)
        grad_scale.update(self._plan.skipped > skipped)

    def step_rows(self, name: str, rows: Any, grads: Any, grad_scale: float = 1.0, *,
                  ends_step: bool | None = None) -> None:
        """Update some rows of one parameter, as of an embedding table, and nothing else of it.

        Row ``rows[k]`` of the parameter (its first axis) moves by ``grads[k]``; of a row that comes several times, the
        gradients are first added in the order in which they come. A row moves exactly as `step` would move it, and the
        others stay, with their state: moments decay, weight decay shrinks and the running mean follows only where a
        row is touched ("lazily").

        This is the tensor's own update in the step under way: bias corrections count it at once, for all rows alike, as
        torch's SparseAdam, and schedules are at `t`. The step ends, and `t` moves, with the `step` that moves the rest
        (and takes None for this tensor):

        >>> import numpy as np, fastlr
        >>> params = {"table": np.zeros((1000, 2)), "w": np.zeros(3)}
        >>> opt = fastlr.SGD(params, lr=1.0)
        >>> opt.step_rows("table", np.array([7, 2, 7]), np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]))
        >>> opt.step({"table": None, "w": np.ones(3)})
        >>> params["table"][[2, 7]], opt.t
        (array([[ -3.,  -4.],
               [-11., -22.]]), 1)

        Parameters
        ----------
        name
            Whose rows: the parameter's name.
        rows
            int32 or int64 in [0, len(parameter)), one dimension. None at all: an update that moves nothing.
        grads
            A row for each of `rows`, ``(len(rows), *parameter.shape[1:])``, in any layout; types as in `step`.
        grad_scale
            Divides the gradients: a number (of a `LossScale`, its value; it moves with `step`).
        ends_step
            Whether the step ends here. By default where the optimizer holds this one tensor; say so with the last of
            several tables when no `step` follows.

        Raises
        ------
        TypeError, ValueError
            Before anything is written: for rows out of bounds, gradients of another shape, clip_norm and clip_zscore
            (which are over all gradients of a step: use clip_tensor_norm), or a state of 8 bits in rows of other than a
            multiple of 64 elements.
        """
        plan = self._plan
        if self.placed:
            raise TypeError(f"{type(self).__name__}: step_rows: a step of this rule depends on more than an element's "
                            f"gradient; use step")
        for i, tensor in enumerate(plan.tensors):
            if tensor.name == name:
                step_rows(plan, i, rows, grads, grad_scale, plan.count == 1 if ends_step is None else ends_step)
                return
        names = [tensor.name for tensor in plan.tensors]
        raise ValueError(f"{type(self).__name__}: step_rows: no parameter {name!r}{nearest(str(name), names)}")

    def accumulate(self, grads: Any = None, grad_scale: float = 1.0, zero_grads: bool = False) -> None:
        r"""Fold the gradient of a micro-batch into the state; parameters and t stay, and no buffer is needed.

        Of n micro-batches, give n - 1 to `accumulate` and the last to `step`, all with ``grad_scale=n`` for a mean:

        .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) \sum_i g_i, \quad
                  v \leftarrow \beta_2 v + (1 - \beta_2) \sum_i g_i^2

        (the share of each is added before the decay, divided by it). So m is that of the accumulated gradient, but v
        sums the squares of its parts, not the square of their sum: with n alike parts it is n times smaller, with
        unrelated ones the same. AdamA, Zhang et al. 2023, https://arxiv.org/abs/2305.19982. Momentum's m is exactly
        that of the sum. Coupled weight decay comes with the last gradient. What is accumulated is in the state, and
        saved with it; a tensor with a gradient here needs one in the step.

        Raises
        ------
        TypeError
            If the rule needs the gradient for more than its moments: accumulate gradients, not moments.
        ValueError
            If gradients are to be clipped by a norm, which is not known before the last, or a decay is 0.

        >>> import numpy as np, fastlr
        >>> p, q = np.zeros(2), np.zeros(2)
        >>> opt = fastlr.Momentum(p, lr=0.1)
        >>> opt.accumulate(np.array([1.0, 2.0]), grad_scale=2)
        >>> opt.step(np.array([3.0, 2.0]), grad_scale=2)
        >>> fastlr.Momentum(q, lr=0.1).step(np.array([2.0, 2.0]))
        >>> np.allclose(p, q, rtol=1e-15), opt.t
        (True, 1)
        """
        who = type(self).__name__
        folds = type(self).folds
        if folds is None or not self._whose.folds:
            known = ", ".join(cls.__name__ for cls in REGISTRY.values() if cls.folds is not None)
            raise TypeError(f"{who}: accumulate needs a rule that sees gradients through its moments alone ({known}); "
                            f"accumulate the gradients themselves")
        if self._stages.norms_needed:
            raise ValueError(f"{who}: accumulate cannot do {self._stages.norms_needed}, as the norm is known only with "
                             f"the last of a gradient's parts; use clip_value, or accumulate the gradients themselves")

        def shares(values: dict[str, float], fresh: bool) -> list[tuple[int, float]]:
            try:
                made = folds(values, fresh)
            except ZeroDivisionError:
                raise ValueError(f"{who}: accumulate needs decays above 0: a moment that is forgotten at the next step "
                                 f"holds nothing") from None
            return [made.get(slot, (0, 0.0)) for slot in self.slots]

        if grads is not None:
            grads = self._arranged(grads)
        accumulate(self._plan, grads, grad_scale, zero_grads, shares)

    def bind(self, grads: Any) -> None:
        """Read these gradient buffers in every `step()` that is given none: their memory must stay where it is."""
        self._plan.bind(self._arranged(grads))

    def _arranged(self, grads: Any, label: str = "grads") -> list[Any]:
        """Gradients in the order of the tensors."""
        if not self._grouped:
            kind, tensors = self._shapes[0]
            return arranged(kind, tensors, grads, type(self).__name__, label)
        if not isinstance(grads, Sequence) or len(grads) != len(self._shapes):
            raise ValueError(f"{type(self).__name__}: {label}: expected a sequence with one entry for each of the "
                             f"{len(self._shapes)} groups")
        flat: list[Any] = []
        for index, ((kind, tensors), part) in enumerate(zip(self._shapes, grads, strict=True)):
            inner = part["params"] if kind != "mapping" and isinstance(part, Mapping) and "params" in part else part
            flat += arranged(kind, tensors, inner, type(self).__name__, f"{label}[{index}]")
        return flat

    # State

    def state_dict(self) -> dict[str, Any]:
        """All that the coming steps depend on, by name, as copies: plain values, schedules as dicts, and arrays."""
        return self._described() | {"state": {name: {slot: array.copy() for slot, array in slots.items()}
                                              for name, slots in self.state.items()}}

    def _described(self) -> dict[str, Any]:
        """`state_dict` without its arrays."""
        missed = zip(self._plan.tensors, self._plan.missed_steps(), strict=True)
        described = {
            "format": FORMAT,
            "optimizer": type(self).__name__,
            "t": self.t,
            "missed": {tensor.name: steps for tensor, steps in missed if steps},
            "groups": [{"params": group.params} | {name: spelled(value) for name, value in group._values.items()}
                       for group in self.groups],
        }
        if self._stages.clip_zscore is not None:
            described["norms"] = self.norms
        if any(group._peak is not None for group in self.groups):
            described["lr_max"] = [group._peak for group in self.groups]
        if self.shared:
            described["shared"] = dict(zip(self.shared, self._shared.tolist(), strict=True))
        if self.conventions and self.convention != next(iter(self.conventions)):
            described["convention"] = self.convention
        if self._plan.folded:
            described["folded"] = self._plan.folded
        return described

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Become what `state_dict` described. Everything is checked first; the arrays are copied.

        A hyper-parameter whose schedule is a plain function was not saved: it keeps the function it has here. One
        that is a callable with a `state_dict`, as `fastlr.Plateau`, takes on the state that was saved.
        """
        who = f"{type(self).__name__}.load_state_dict"
        missing = {"format", "optimizer", "t", "groups", "state"} - d.keys()
        if missing:
            raise ValueError(f"{who}: no entry {min(missing)!r}")
        if d["format"] != FORMAT:
            raise ValueError(f"{who}: expected format {FORMAT}, got {d['format']!r}")
        if d["optimizer"] != type(self).__name__:
            raise ValueError(f"{who}: this is the state of {d['optimizer']}, load it into one")
        if self.conventions and d.get("convention", next(iter(self.conventions))) != self.convention:
            raise ValueError(f"{who}: expected convention {self.convention!r}, got {d.get('convention')!r}; make this "
                             f"optimizer with that")
        t = count(d["t"], who, "t")
        names = [tensor.name for tensor in self._plan.tensors]
        missed = d.get("missed", {})
        if not isinstance(missed, Mapping) or not set(missed) <= set(names):
            raise ValueError(f"{who}: missed must map names of parameters to counts, got {missed!r}")
        same_names(names, d["state"], f"{who}: state")
        # (less than 0 where rows have had more updates than steps have ended)
        ages = [count(missed.get(name, 0), who, f"missed[{name!r}]", t, t - MOST_STEPS) for name in names]
        if not isinstance(d["groups"], Sequence):
            raise ValueError(f"{who}: groups must be a sequence, got {d['groups']!r}")
        if len(d["groups"]) != len(self.groups):
            raise ValueError(f"{who}: expected {len(self.groups)} groups, got {len(d['groups'])}")
        shared = d.get("shared", {})
        same_names(self.shared, shared, f"{who}: shared")
        if not all(isinstance(value, float) for value in shared.values()):
            raise ValueError(f"{who}: shared must map names to numbers, got {shared!r}")
        values = [self._revived(group, saved, who) for group, saved in zip(self.groups, d["groups"], strict=True)]
        for name, slots in self.state.items():
            same_names(slots, d["state"][name], f"{who}: state[{name!r}]")
            for slot, array in slots.items():
                new = np.asarray(d["state"][name][slot])
                if new.shape != array.shape or new.dtype != array.dtype:
                    raise ValueError(f"{who}: state[{name!r}][{slot!r}]: expected {array.dtype} {array.shape}, "
                                     f"got {new.dtype} {new.shape}")
        norms = self._norms_of(d, who)
        peaks = self._peaks_of(d, values, who)
        folded = count(d.get("folded", 0), who, "folded")
        self._plan.begin()
        try:
            for name, slots in self.state.items():
                for slot, array in slots.items():
                    array[...] = d["state"][name][slot]
            for group, new_values, saved in zip(self.groups, values, d["groups"], strict=True):
                for name, value in new_values.items():
                    if keeps_state(value):
                        value.load_state_dict(saved[name]["state"])     # type: ignore[union-attr]
                    self._assign(group, name, value)
            for group, peak in zip(self.groups, peaks, strict=True):
                self._set_peak(group, peak)
            self._shared[...] = [shared[name] for name in self.shared]
            self._plan.set_clock(t, ages)
            self._plan.norm_count, self._plan.norm_mean, self._plan.norm_variance = norms
            self._plan.folded = folded
            self.cast()
        finally:
            self._plan.end()

    def _norms_of(self, d: Mapping[str, Any], who: str) -> tuple[int, float, float]:
        """What a state says of past norms."""
        if (self._stages.clip_zscore is not None) != ("norms" in d):
            raise ValueError(f"{who}: no entry 'norms', which clip_zscore needs" if "norms" not in d else
                             f"{who}: entry 'norms' is of an optimizer with clip_zscore, which this has not")
        norms = d.get("norms", {"count": 0, "mean": 0.0, "variance": 0.0})
        same_names(["count", "mean", "variance"], norms, f"{who}: norms")
        for name in ("mean", "variance"):
            if type(norms[name]) not in (float, int) or not 0 <= norms[name] < inf:
                raise ValueError(f"{who}: norms[{name!r}] must be finite and >= 0, got {norms[name]!r}")
        seen = count(norms["count"], who, "norms['count']")
        return seen, float(norms["mean"]), float(norms["variance"])

    def _peaks_of(self, d: Mapping[str, Any], values: list[dict[str, Hyper]], who: str) -> list[float | None]:
        """What a state says of the largest learning rates; where it says nothing, what its rates say."""
        saved = d.get("lr_max", [None] * len(self.groups))
        if not isinstance(saved, Sequence) or len(saved) != len(self.groups) or not all(
                peak is None or (type(peak) in (float, int) and 0 <= peak < inf) for peak in saved):
            raise ValueError(f"{who}: lr_max must have a finite number >= 0 or None for each group, got {saved!r}")
        found = [None if group._peak is None else self._peak(group, new["lr"])
                 for group, new in zip(self.groups, values, strict=True)]
        return [peak if at_present is None or peak is None or group._most is not None else float(at_present)
                for peak, at_present, group in zip(found, saved, self.groups, strict=True)]

    def _revived(self, group: Group, saved: Mapping[str, Any], who: str) -> dict[str, Hyper]:
        same_names(["params", *self.hypers], saved, f"{who}: groups[{group._index}]")
        if list(saved["params"]) != group.params:
            raise ValueError(f"{who}: groups[{group._index}]: expected the parameters {group.params}, "
                             f"got {list(saved['params'])}")
        values: dict[str, Hyper] = {}
        for name, bound in self.hypers.items():
            value = saved[name]
            if isinstance(value, Mapping) and "callable" in value:
                value = group._values[name]
                if not callable(value) or isinstance(value, Schedule) or keeps_state(value) != ("state" in saved[name]):
                    raise ValueError(f"{who}: {name} was a function ({saved[name]['callable']}), which is not saved; "
                                     f"set opt.{name} to it before loading")
                if keeps_state(value):
                    from copy import deepcopy

                    stateful: Any = deepcopy(value)
                    stateful.load_state_dict(saved[name]["state"])       # refuses before anything changes
            elif isinstance(value, Mapping):
                value = from_dict(value)
            values[name] = bound.checked(value, type(self).__name__)
        return values

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be pickled, as it points into its parameters' memory; "
                        f"save state_dict(), or use fastlr.save")

    def __repr__(self) -> str:
        plan = self._plan
        changed = [f"{name}={group._values[name]!r}" + (f" in groups[{group._index}]" if len(self.groups) > 1 else "")
                   for group in self.groups for name, default in self._declared.items()
                   if group._values[name] != default]
        if self.convention != next(iter(self.conventions), None):
            changed.append(f"convention={self.convention!r}")
        stored = sum(array.nbytes for slots in self.state.values() for array in slots.values())
        facts = [f"{plan.count} tensor{'s' * (plan.count != 1)}", f"{plan.elements:,} elements",
                 f"{stored:,} bytes of state", f"t={self.t}",
                 f"{get_num_threads()} thread{'s' * (get_num_threads() != 1)}", isa]
        return f"{type(self).__name__}({', '.join(changed)}{'; ' if changed else ''}{', '.join(facts)})"


class Declared:
    """The signature that a class body declares, made when somebody looks."""

    def __get__(self, optimizer: Any, owner: type[Optimizer]) -> Signature:
        from inspect import Parameter, Signature

        written = Signature.from_callable(Optimizer.__init__).parameters
        defaults = {name: hyper.default for name, hyper in owner.hypers.items()}
        defaults |= {name: slot.default for name, slot in owner.starts.items()}
        defaults |= {name: choice.default for name, choice in owner.choices.items()}
        lr = Parameter("lr", Parameter.POSITIONAL_OR_KEYWORD, default=owner.hypers["lr"].default, annotation=Hyper)
        own = [Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Hyper)
               for name, default in defaults.items() if name != "lr"]
        shared = [p for name, p in written.items() if p.kind is Parameter.KEYWORD_ONLY]
        stages = Signature.from_callable(Stages).parameters.values()
        around = [stage.replace(kind=Parameter.KEYWORD_ONLY) for stage in stages]
        return Signature([written["params"], lr, *own, *shared, *around])


def most_of(lr_max: Any, who: str) -> float | None:
    """The largest learning rate that was given, or None."""
    if lr_max is None:
        return None
    if isinstance(lr_max, bool | str) or not (isinstance(lr_max, Real) or hasattr(lr_max, "__float__")):
        raise TypeError(f"{who}: lr_max must be a number, got {lr_max!r}")
    if not 0 < float(lr_max) < inf:
        raise ValueError(f"{who}: lr_max must be positive and finite, got {lr_max}")
    return float(lr_max)


def is_group(x: Any) -> bool:
    """Whether this is a parameter group: a mapping with the key "params" whose value is not an array itself."""
    return isinstance(x, Mapping) and "params" in x


def arranged(kind: str, tensors: list[Tensor], grads: Any, who: str, label: str) -> list[Any]:
    """The gradients of one group in the order of its tensors. (The usual types go first: they cost 0.1 us.)"""
    if kind == "one":
        return [grads]
    if kind == "sequence":
        if type(grads) is not list:
            if isinstance(grads, Mapping) or not isinstance(grads, Iterable):
                raise TypeError(f"{who}: {label}: expected a sequence with one gradient per parameter, "
                                f"got {type(grads).__name__}")
            grads = list(grads)
        if len(grads) != len(tensors):
            raise ValueError(f"{who}: {label}: expected {len(tensors)} gradients, one per parameter (None skips one), "
                             f"got {len(grads)}")
        gradients: list[Any] = grads
        return gradients
    if type(grads) is not dict and not isinstance(grads, Mapping):
        raise TypeError(f"{who}: {label}: expected a mapping by parameter name, got {type(grads).__name__}")
    try:
        gradients = [grads[tensor.name] for tensor in tensors]
    except KeyError:
        gradients = []
    if len(gradients) != len(grads):
        same_names([tensor.name for tensor in tensors], grads, f"{who}: {label}")
    return gradients


def same_names(expected: Any, given: Any, what: str) -> None:
    """ValueError unless both have the same names."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}: expected a mapping, got {type(given).__name__}")
    if expected and len(given) == len(expected) and all(name in given for name in expected):
        return
    absent = [name for name in expected if name not in given]
    if absent:
        raise ValueError(f"{what}: no entry {absent[0]!r}")
    extra = [name for name in given if name not in expected]
    if extra:
        raise ValueError(f"{what}: unknown entry {extra[0]!r}{nearest(str(extra[0]), expected)}")


def count(value: Any, who: str, what: str, most: int = MOST_STEPS, least: int = 0) -> int:
    """A count of steps, up to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{who}: {what} must be a count from {least} to {most}, got {value!r}")
    return value


def spelled(value: Any) -> Any:
    """A hyper-parameter as plain data."""
    if isinstance(value, Schedule):
        return value.to_dict()
    if not callable(value):
        return value
    described = {"callable": getattr(value, "__qualname__", type(value).__name__)}
    return described | {"state": value.state_dict()} if keeps_state(value) else described


def keeps_state(value: Any) -> bool:
    """Whether this is a callable that remembers something between its calls, as a Plateau does, and can save it."""
    return callable(value) and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def list_optimizers(pattern: str = "*") -> list[str]:
    """The names of all optimizers that match a shell pattern, in lower case.

    `LBFGS` is not among them, as its step takes no gradients but a closure; `create_optimizer` makes it all the same.

    >>> import fastlr
    >>> fastlr.list_optimizers("adam*")
    ['adam', 'adamax', 'adammini', 'adamp', 'adamw']
    """
    return sorted(fnmatch.filter(REGISTRY, pattern.lower()))


def by_closure() -> dict[str, Any]:
    """Those whose step computes the gradients itself, by a closure; imported when they are asked for."""
    from .quasi_newton import LBFGS
    return {"lbfgs": LBFGS}


def create_optimizer(name: str, params: Any, **hyper: Any) -> Any:
    """An optimizer by its name (of any case), with the class's own arguments.

    >>> import numpy as np, fastlr
    >>> type(fastlr.create_optimizer("adamw", np.zeros(3), lr=0.1)).__name__
    'AdamW'
    """
    known: dict[str, Any] = REGISTRY if str(name).lower() in REGISTRY else REGISTRY | by_closure()
    if not isinstance(name, str) or name.lower() not in known:
        raise ValueError(f"create_optimizer: no optimizer {name!r}{nearest(str(name).lower(), known)}")
    return known[name.lower()](params, **hyper)
