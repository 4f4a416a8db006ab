"""What every optimizer shares: binding parameters, owning state, taking a step."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from .._engine.accumulation import accumulate
from .._engine.arena import Arena
from .._engine.instruction_set import isa, kernels, load
from .._engine.plan import Plan
from .._engine.rows import step_rows
from .._engine.tensors import (
    STORAGES,
    Tensor,
    named_dtype,
    per_tensor,
    refuse_shared,
    set_scale,
    set_shadow,
    split,
)
from .._engine.threads import get_num_threads
from .._matrix.matrix_step import MatrixStep
from ..rules import RuleSignature
from ..rules.signatures import SIGNATURES
from .declaration import DECLARED, Bounded, Choice, Declared, Hyper, Start, Theirs, nearest, within
from .groups import Group, Structure, are_groups, bound, most_of
from .loss_scale import LossScale
from .stages import STAGES, Stages

#: From a group's values, and whether this is a tensor's first update: slot -> (power, share).
Folds = Callable[[dict[str, float], bool], dict[str, tuple[int, float]]]

REGISTRY: dict[str, type[Optimizer]] = {}
DECAYS = ("coupled", "decoupled", "independent", "corrected")


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
    signed: ClassVar[tuple[str, ...]] = ()     # slots that hold negative numbers, though others of the name never do
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
    _signatures: ClassVar[dict[str, RuleSignature]]
    _default_rule: ClassVar[str]
    _fields: ClassVar[tuple[str, ...]]

    lr: Hyper = within(1e-3)
    weight_decay: Hyper = within(0.0)

    def __init_subclass__(cls, slots: tuple[str, ...] = (), memory: tuple[str, ...] = (),
                          shared: tuple[str, ...] = (), signed: tuple[str, ...] = (), decay: str = "coupled",
                          rule: str | None = None,
                          conventions: Mapping[str, str | Theirs] | None = None, family: bool = False,
                          folds: Folds | None = None) -> None:
        cls.slots, cls.memory, cls.shared, cls.signed, cls.decay_mode = slots, memory, shared, signed, decay
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
        # (the struct of the same name says which of them are its own, and in which order)
        named = [rule or cls.__name__, *(whose.rule for whose in cls.conventions.values())]
        cls._signatures = {name: cls._signature_of(name) for name in named}
        cls._default_rule = named[0]
        own = cls._signatures[named[0]]
        fields, cls.placed = own.hypers, own.depends_on_param
        cls.reduces = bool(own.sums) or cls.kind == "matrix"
        if any((rule.slots, rule.memory, rule.shared) != (slots, memory, shared) or set(fields) - set(cls.hypers)
               for rule in cls._signatures.values()):
            raise TypeError(f"{cls.__name__}: declares slots {slots}, memory {memory}, shared {shared} and "
                            f"{', '.join(cls.hypers)}; its rules say {list(cls._signatures.values())}")
        declarations: dict[str, Bounded | Choice] = {**cls.hypers, **cls.starts, **cls.choices}
        for name, whose in cls.conventions.items():
            for key, value in whose.defaults.items():
                declarations[key].checked(value, f"{cls.__name__}, convention {name!r}")
        cls._fields = tuple(name for name in ("lr", "weight_decay") if name not in fields) + tuple(fields)
        order = {name: k for k, name in enumerate(("lr", *fields, "weight_decay"))}
        cls.hypers = dict(sorted(cls.hypers.items(), key=lambda item: order[item[0]]))
        cls.__signature__ = Declared(Optimizer.__init__, Stages)
        REGISTRY[cls.__name__.lower()] = cls

    @classmethod
    def _signature_of(cls, name: str) -> RuleSignature:
        """What is known of the rule of that name."""
        return SIGNATURES[name]

    @classmethod
    def _table(cls, name: str) -> Any:
        """The compiled table of one of the class's rules; its module is loaded when it is first needed."""
        return load(cls._signatures[name].module).RULES[name][0]

    def _matrix_step(self, tensors: list[Tensor]) -> MatrixStep | None:
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
        self._structure = Structure(are_groups(params))
        self.groups: tuple[Group, ...] = ()
        tensors: list[Tensor] = []
        groups: list[Group] = []
        for group in params if self._structure.grouped else ({"params": params},):
            tensors += self._bound_group(group, groups, tensors)
        self._adopt(tensors, groups)
        if grads is not None:
            self.bind(grads)

    # Parameters and groups

    def _bound_group(self, given: Mapping[str, Any], groups: list[Group], before: list[Tensor]) -> list[Tensor]:
        """The tensors of one more group; it is appended to `groups`."""
        who, index, structure = type(self).__name__, len(groups), self._structure
        values = self._defaults | self._checked({k: v for k, v in given.items() if k not in ("params", "lr_max")})
        most = most_of(given.get("lr_max", self._lr_max), who)
        part = bound(given["params"], who, index, structure.prefix(index), before, self._dtype, self._permuted)
        groups.append(Group(self, index, values, most))
        self._structure = Structure(structure.grouped, (*structure.parts, part))
        return part[1]

    def _equip(self, tensors: list[Tensor]) -> None:
        """Give each tensor what it needs: copies and remainder, what state is missing, its own rate and decay."""
        who = type(self).__name__
        for tensor, shadow in zip(tensors, per_tensor(self._shadow, tensors, who, "shadow"), strict=True):
            set_shadow(tensor, shadow, who)
        refuse_shared(tensors, who)
        if self._master == "split":
            split(tensors, who)
        new = []
        for tensor, stored in zip(tensors, per_tensor(self._state_dtype, tensors, who, "state_dtype"), strict=True):
            stored = stored or ("float64" if tensor.is_double else "float32")
            if stored not in (*STORAGES, "int8"):
                raise ValueError(f"{who}: state_dtype must be one of {', '.join(STORAGES)} or int8, got {stored!r}")
            if not tensor.allocated:
                new.append((tensor, stored))
        arena = Arena(size for tensor, stored in new for size in tensor.sizes(self._kept, stored, self.signed))
        for tensor, stored in new:
            tensor.allocate(self._kept, self.memory, self._start, stored, self.signed, arena)
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

    def _adopt(self, tensors: list[Tensor], groups: list[Group]) -> None:
        """Plan the steps of these tensors; all checks are done before anything is kept."""
        who = type(self).__name__
        self._equip(tensors)
        corrected = {tensor.group for tensor in tensors if tensor.decay == "corrected"}
        peaks = [group._peak_at(group._values["lr"]) if group._index in corrected else None for group in groups]
        if any(group._most is not None and group._index not in corrected for group in groups):
            raise ValueError(f"{who}: lr_max is what decay='corrected' goes by, and no parameter of the group has that")
        bounds = [(self.hypers[name].low, self.hypers[name].high) for name in self._fields]
        plan = Plan(who, self._table(self._whose.rule), kernels, self._fields, bounds, tensors, len(groups),
                    self._shared, self._stages, self._matrix_step(tensors))
        for group, peak in zip(groups, peaks, strict=True):
            for name, value in group._values.items():
                plan.assign(group._index, self._fields.index(name), value)
            plan.set_peak(group._index, peak or 0.0)
            object.__setattr__(group, "_peak", peak)
        self._plan, self.groups = plan, tuple(groups)
        self._nested = self._structure.nested
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
        peak = group._peak if name != "lr" or group._peak is None else group._peak_at(value)
        self._plan.assign(group._index, self._fields.index(name), value)
        group._values[name] = value
        self._set_peak(group, peak)

    def _set_peak(self, group: Group, peak: float | None) -> None:
        self._plan.set_peak(group._index, peak or 0.0)
        object.__setattr__(group, "_peak", peak)

    def add_group(self, params: Any, **hyper: Any) -> Group:
        """Take more parameters, as a group of their own; what is not given is as in the constructor.

        Gradients then come as one entry per group. Bound gradients are forgotten: bind again.
        """
        plan, structure = self._plan, self._structure
        groups = list(self.groups)
        # (the present plan holds the addresses of what its tensors have: a refused group must leave them that)
        before = [(tensor, tensor.snapshot()) for tensor in plan.tensors]
        self._structure = Structure(True, structure.parts)
        plan.begin()                   # (for good, once there is a plan in its place)
        try:
            added = self._bound_group({"params": params, **hyper}, groups, plan.tensors)
            self._adopt([*plan.tensors, *added], groups)
        except BaseException:
            self._structure = structure
            for tensor, snapshot in before:
                tensor.restore(snapshot)
            plan.end()
            raise
        self._structure.relabel()
        self._plan.set_clock(plan.t, plan.read_skipped_steps() + [plan.t] * len(added))
        self._plan.skipped = plan.skipped
        self._plan.accumulated = plan.accumulated
        self._plan.norms = plan.norms
        return self.groups[-1]

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
        return dict(zip(("count", "mean", "variance"), self._plan.norms, strict=True))

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
            grads = self._structure.arranged(grads, type(self).__name__)
        if not isinstance(grad_scale, LossScale):
            self._plan.step(grads, grad_scale, zero_grads)
        else:
            self._step_with(grads, grad_scale, zero_grads)

    def _step_with(self, grads: Any, grad_scale: float | LossScale, zero_grads: bool, *more: Any) -> None:
        """A step of gradients in the order of the tensors, with what more this rule is given."""
        if not isinstance(grad_scale, LossScale):
            self._plan.step(grads, grad_scale, zero_grads, *more)
            return
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
        return self._structure.arranged(grads, type(self).__name__, label)

    # State

    def state_dict(self) -> dict[str, Any]:
        """All that the coming steps depend on, by name, as copies: plain values, schedules as dicts, and arrays."""
        from .state import copies

        return self._described() | {"state": copies(self.state)}

    def _described(self) -> dict[str, Any]:
        """`state_dict` without its arrays."""
        from .state import described

        return described(self)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Become what `state_dict` described. Everything is checked first; the arrays are copied.

        A hyper-parameter whose schedule is a plain function was not saved: it keeps the function it has here. One
        that is a callable with a `state_dict`, as `fastlr.Plateau`, takes on the state that was saved.
        """
        from .state import load

        load(self, d)

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
