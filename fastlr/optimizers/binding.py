"""How an optimizer takes hold of parameters: what its constructor is given, its groups, its state, and its plan."""
from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .._engine.instruction_set import kernels
from .._engine.plan import Plan
from .._engine.tensor_versions import TorchParameters
from .._engine.tensors import (
    STORAGES,
    SlotKinds,
    Tensor,
    allocate,
    fixed_in_memory,
    named_dtype,
    per_tensor,
    refuse_shared,
    set_lr_scale,
    set_shadow,
    split,
)
from .._matrix.matrix_step import MatrixStep
from .declaration import ConstructorOnly, Convention, Hyper, nearest
from .groups import Group, are_groups, bound, checked_lr_max
from .rule_class import RuleClass
from .slots import Slots, State
from .stages import AS_USUAL, SETTABLE, STAGES, Stages
from .structure import FrozenStructure, Structure

DECAYS = ("coupled", "decoupled", "independent", "corrected")

#: What people write, and what it is called here.
OTHER_NAMES = {"learning_rate": "lr", "rate": "lr", "alpha": "lr", "lr_schedule": "lr", "lr_scheduler": "lr",
               "schedule": "lr", "betas": "beta1", "b1": "beta1", "b2": "beta2", "beta": "momentum", "mu": "momentum",
               "wd": "weight_decay", "l2": "weight_decay", "l2_penalty": "weight_decay", "epsilon": "eps",
               "max_norm": "clip_norm", "max_grad_norm": "clip_norm", "grad_clip": "clip_norm",
               "gradient_clip_val": "clip_norm", "global_clipnorm": "clip_norm", "clipnorm": "clip_tensor_norm",
               "clipvalue": "clip_value", "use_ema": "ema_decay", "ema_momentum": "ema_decay",
               "mu_dtype": "state_dtype", "weight_decay_mask": "decay_mask", "mask": "decay_mask",
               "decoupled_weight_decay": "decay", "weight_decouple": "decay", "loss_scale": "grad_scale",
               "bounds": "constraint", "constraints": "constraint", "parameters": "params",
               "param_groups": "groups"}

#: Switches of torch's classes that are classes here.
OTHER_CLASSES = {"SGD": {"momentum": "Momentum", "nesterov": "Nesterov"}, "Momentum": {"nesterov": "Nesterov"},
                 "Adam": {"amsgrad": "AMSGrad"},
                 "RMSprop": {"centered": "RMSpropCentered", "momentum": "RMSpropMomentum"}}


def check_words(owner: str, *, state_dtype: Any = None, decay: Any = None, master: Any = None) -> None:
    """ValueError for a storage, a kind of weight decay or a master copy that there is not; None is the usual one."""
    if state_dtype is not None and state_dtype not in STORAGES and state_dtype != "int8":
        raise ValueError(f"{owner}: state_dtype must be one of {', '.join(STORAGES)} or int8, got {state_dtype!r}")
    if decay is not None and (not isinstance(decay, str) or decay not in DECAYS):
        raise ValueError(f"{owner}: decay must be {', '.join(map(repr, DECAYS[:-1]))} or {DECAYS[-1]!r}, "
                         f"got {decay!r}{nearest(str(decay), DECAYS)}")
    if master not in (None, "split"):
        raise ValueError(f"{owner}: master must be 'split' or None, got {master!r}")


#: What an optimizer keeps of its groups, beside its plan: it changes where groups are added or dropped.
OF_GROUPS = ("_structure", "_groups", "_state", "_bound", "_frozen", "_matrix_rules", "_tensors")


class BoundParameters(RuleClass, family=True):
    """Parameters, their groups and state, and the plan of the steps that move them."""

    _convention: str | None
    _options: dict[str, Any]               # of the class: values for the constructor
    _stages: Stages
    _plan: Plan
    _structure: Structure
    _groups: tuple[Group, ...]
    _state: State
    _bound_fixed: list[Any]                # see `fixed_in_memory`
    _swapped_out = False                   # whether the parameters hold their running means
    _measures = False                      # whether each tensor is measured
    _frozen: frozenset[str] = frozenset()  # the parameters that take no gradient
    _bound: list[Any] | None               # gradients that steps read when they are given none
    _part: str | None = None               # which part of a Partition this is

    def __init__(self, params: Any = None, lr: Hyper | None = None, *, grads: Any = None, state_dtype: Any = None,
                 dtype: Literal["bfloat16"] | None = None, decay: Any = None, decay_mask: Any = None,
                 lr_scale: Any = None, shadow: Any = None, master: Literal["split"] | None = None,
                 constraint: Any = None, convention: str | None = None, lr_max: float | None = None,
                 catch_up_rows: Any = None, **hyper: Any) -> None:
        owner = type(self).__name__
        self._read_convention(convention)
        if lr is not None:
            hyper["lr"] = lr
        self._read_values(hyper)
        self._decay, self._lr_max = self._usual_decay if decay is None else decay, lr_max
        if dtype not in (None, "bfloat16"):
            raise ValueError(f"{owner}: dtype must be 'bfloat16', which says what uint16 arrays hold, got {dtype!r}")
        check_words(owner, master=master)
        state_dtype = named_dtype(state_dtype)
        self._state_dtype, self._dtype, self._shadow, self._master = state_dtype, dtype, shadow, master
        # (groups of 8-bit states, rows of a constraint and sums, too, belong to elements in the array's own order)
        self._permuted = self._stages.permuted and state_dtype in (None, *STORAGES) and not self.reduces \
            and constraint is None
        self._shared = np.array([self._initial.get(name, 0.0) for name in self.shared])
        self._kept = self.slots if self._stages.ema_decay is None else (*self.slots, "ema")
        self._decay_mask, self._lr_scale, self._constraint = decay_mask, lr_scale, constraint
        self._catch_up_rows = catch_up_rows
        self._structure = Structure(are_groups(params))
        self._bound = None
        tensors: list[Tensor] = []
        groups: list[Group] = []
        for group in params if self._structure.grouped else ({"params": params},):
            tensors += self._bound_group(group, groups, tensors)
        self._adopt(tensors, groups)
        if grads is not None:
            self.bind(grads)

    # What the constructor is given

    def _read_convention(self, convention: str | None) -> None:
        """Whose rule this is where peers differ; the first convention if none is given."""
        if convention is not None and convention not in self.conventions:
            known = ", ".join(map(repr, self.conventions)) or "nothing, as peers do not differ in this rule"
            raise ValueError(f"{type(self).__name__}: convention must be {known}, got {convention!r}"
                             f"{nearest(str(convention), self.conventions)}")
        self._convention = convention or next(iter(self.conventions), None)
        self._peer = self.conventions[self._convention] if self._convention else Convention(self._default_rule)
        self._usual_decay = self._peer.decay or self.decay_mode

    def _read_values(self, given: dict[str, Any]) -> None:
        """Stages, options, initial states and hyper-parameters, each as given, as the convention has it, or by default.
        """
        owner, usual = type(self).__name__, self._peer.defaults
        stages = {name: given.pop(name) for name in STAGES if name in given}
        self._stages = Stages(**stages) if stages else AS_USUAL
        declared: dict[str, ConstructorOnly] = {**self.options, **self.initial_states}
        self._options = {name: option.checked(given.pop(name, usual.get(name, option.default)), owner)
                         for name, option in declared.items()}
        #: What slots hold before the first update, where that is not zero.
        self._initial = {state.slot: self._options[name] for name, state in self.initial_states.items()}
        self._usual_values: dict[str, Hyper] = {name: hyper.default for name, hyper in self.hypers.items()}
        self._usual_values |= {name: value for name, value in usual.items() if name in self.hypers}
        self._defaults = self._usual_values | self._checked(given)
        if stages:
            self._stages.check(owner)

    def _checked(self, hyper: Mapping[str, Any]) -> dict[str, Hyper]:
        owner = type(self).__name__
        for name in hyper:
            if name not in self.hypers:
                other = OTHER_CLASSES.get(owner, {}).get(name)
                hint = f"; use fastlr.{other}" if other else self._nearest_keyword(name)
                raise TypeError(f"{owner}: unknown keyword {name!r}{hint}"
                                f" (hyper-parameters: {', '.join(self.hypers)})")
        return {name: self.hypers[name].checked(value, owner) for name, value in hyper.items()}

    @classmethod
    def _nearest_keyword(cls, name: str) -> str:
        """A hint at what this keyword or attribute is called here, or nothing."""
        known: Iterable[str] = cls.__signature__.parameters          # type: ignore[attr-defined]
        other = OTHER_NAMES.get(name, "")
        return f"; did you mean {other!r}?" if other in (*known, "groups") else nearest(name, known)

    # Parameters and groups

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of parameters; one where none were given. Their hyper-parameters are read and set on them."""
        return self._groups

    @property
    def state(self) -> State:
        """The state of each parameter: ``opt.state[name][slot]``, an array of the parameter's shape.

        Setting one, ``opt.state[name][slot] = x``, writes into that array. It has the layout of the parameter, and may
        not be C-contiguous: see `fastlr.save`.
        """
        return self._state

    @property
    def convention(self) -> str | None:
        """Whose rule this is where peers differ, or None."""
        return self._convention

    def _bound_group(self, given: Mapping[str, Any], groups: list[Group], before: list[Tensor]) -> list[Tensor]:
        """The tensors of one more group; it is appended to `groups`."""
        owner, index, structure = type(self).__name__, len(groups), self._structure
        values = self._defaults | self._checked({k: v for k, v in given.items() if k not in ("params", "lr_max")})
        lr_max = checked_lr_max(given.get("lr_max", self._lr_max), owner)
        container, tensors, watched = bound(given["params"], owner, index, structure.prefix(index), before,
                                            self._dtype, self._permuted)
        groups.append(Group(self, index, values, lr_max))
        self._structure = Structure(structure.grouped, (*structure.parts, container), (*structure.watched, *watched))
        return tensors

    def _equip(self, tensors: list[Tensor]) -> None:
        """Give each tensor what it needs: copies and low bits, what state is missing, its own rate and decay."""
        owner = type(self).__name__
        if self._shadow is not None:
            for tensor, shadow in zip(tensors, per_tensor(self._shadow, tensors, owner, "shadow"), strict=True):
                set_shadow(tensor, shadow, owner)
        refuse_shared(tensors, owner)
        if self._master == "split":
            split(tensors, owner)
        self._allocate(tensors)
        if self._lr_scale is not None:
            for tensor, scale in zip(tensors, per_tensor(self._lr_scale, tensors, owner, "lr_scale"), strict=True):
                set_lr_scale(tensor, scale, owner)
                if self.depends_on_param and tensor.lr_scales is not None:
                    raise ValueError(f"{owner}: lr_scale of {tensor.name!r}: must be a number, as a step of this rule "
                                     f"depends on more than an element's gradient, got an array")
        if self._constraint is not None:
            from ..constraints import set_constraint  # (imported where one is given, as few programs do)

            given = per_tensor(self._constraint, tensors, owner, "constraint")
            for tensor, constraint in zip(tensors, given, strict=True):
                set_constraint(tensor, constraint, owner)
        if self._catch_up_rows is not None:
            from .catching_up import set_journals  # (likewise)

            set_journals(self, tensors)
        if self._decay_mask is not None:
            for tensor, decays in zip(tensors, per_tensor(self._decay_mask, tensors, owner, "decay_mask"), strict=True):
                tensor.decays = decays is None or bool(decays)
        self._set_decay(tensors)
        if self._measures:
            for tensor in tensors:
                tensor.measured = True

    def _allocate(self, tensors: list[Tensor]) -> None:
        """Memory for the state of those tensors that have none."""
        owner, new = type(self).__name__, []
        for tensor, stored in zip(tensors, per_tensor(self._state_dtype, tensors, owner, "state_dtype"), strict=True):
            if stored is None:
                stored = "float64" if tensor.is_double else "float32"
            else:
                check_words(owner, state_dtype=stored)
            if not tensor.allocated:
                new.append((tensor, stored))
        rule = self._rules[self._peer.rule]
        kinds = SlotKinds(rule.signature.nonnegative, rule.signature.position)
        first = 0
        while first < len(new):                # (by group, so that the memory of each can be freed)
            group, end = new[first][0].group, len(new)
            while new[end - 1][0].group != group:
                end -= 1
            allocate(new[first:end] if end - first < len(new) else new, self._kept, self.memory, self._initial, kinds)
            first = end
        if not (rule.float32 and rule.float64):
            for tensor, _ in new:
                if not (rule.float64 if tensor.is_double else rule.float32):
                    raise TypeError(f"{owner}: params[{tensor.name!r}]: its rule {rule.name} computes in "
                                    f"{'float32' if rule.float32 else 'float64'} alone; pass arrays of that type")

    def _set_decay(self, tensors: list[Tensor]) -> None:
        """How weight decay works for each tensor."""
        owner = type(self).__name__
        for tensor, mode in zip(tensors, per_tensor(self._decay, tensors, owner, "decay"), strict=True):
            if mode is not None:
                check_words(owner, decay=mode)
            tensor.decay = self._usual_decay if mode is None else mode

    def _adopt(self, tensors: list[Tensor], groups: list[Group]) -> None:
        """Plan the steps of these tensors; all checks are done before anything is kept."""
        owner = type(self).__name__
        self._equip(tensors)
        corrected = {tensor.group for tensor in tensors if tensor.decay == "corrected"}
        largest = [group._lr_max_with(group._values["lr"]) if group._index in corrected else None for group in groups]
        if any(group._given_lr_max is not None and group._index not in corrected for group in groups):
            raise ValueError(f"{owner}: lr_max is what decay='corrected' goes by, and no parameter of the group has "
                             f"that")
        plan = self._planned(tensors, groups, self._stages)
        self._plan, self._groups = plan, tuple(groups)
        for group, lr_max in zip(groups, largest, strict=True):
            group._keep_lr_max(lr_max)
        self._watch()
        self._state = State({tensor.name: Slots(tensor.state_by_name(self._kept, self.memory)) for tensor in tensors})
        self.cast()

    def _watch(self) -> None:
        """Find what has to be looked at before each step."""
        tensors = self._plan.torch_parameters
        if self._catch_up_rows is not None:
            from .catching_up import CatchingUpStructure

            self._structure = CatchingUpStructure(self._structure, self)
        self._nested = self._structure.nested
        self._plan.watched = (*self._structure.watched, *(() if tensors is None else (tensors,))) or None

    def _planned(self, tensors: list[Tensor], groups: Sequence[Group], stages: Stages) -> Plan:
        """A plan of the steps of these tensors, with their groups' values."""
        bounds = [(self.hypers[name].low, self.hypers[name].high) for name in self._fields]
        plan = Plan(type(self).__name__, self._table(self._peer.rule), kernels, self._fields, bounds, tensors,
                    len(groups), self._shared, stages, self._matrix_step(tensors),
                    self._takes_eps_exactly(self._convention))
        if self._catch_up_rows is not None:
            journals = [tensor.journal for tensor in tensors]
            plan.journals = journals if any(journal is not None for journal in journals) else None
        for group in groups:
            for name, value in group._values.items():
                plan.assign(group._index, self._fields.index(name), value)
        if "torch" in sys.modules:
            sources = [(tensor.name, source) for tensor in tensors for source in tensor.sources()]
            plan.torch_parameters = TorchParameters(sources) if sources else None
        if self._frozen:
            plan.set_frozen({k for k, tensor in enumerate(tensors) if tensor.name in self._frozen})
        return plan

    def _matrix_step(self, tensors: list[Tensor]) -> MatrixStep | None:
        """What makes the updates of a rule that is not elementwise."""
        return None

    def _replan(self, plan: Plan, late: int = 0, stages: Stages | None = None) -> None:
        """Go on with another plan of the same tensors, to which `late` were added, where the present one is."""
        before = self._plan
        plan.set_clock(before.t, before.read_skipped_steps() + [before.t] * late)
        plan.skipped, plan.norms = before.skipped, before.norms
        plan.take_accumulated(before)
        plan.take_measured(before, list(range(before.count)), stages is None)
        # (in one statement, between whose parts no interrupt comes)
        self._plan, self._stages = plan, stages or self._stages

    def add_group(self, params: Any, **hyper: Any) -> Group:
        """Take more parameters, as a group of their own; what is not given is as in the constructor.

        Gradients then come as one entry per group. Bound gradients are forgotten: bind again.
        """
        self._require_own_values()
        self._refuse_as_part("add_group")
        plan, structure, groups = self._plan, self._structure, list(self._groups)
        present = {name: value for name, value in vars(self).items() if name in OF_GROUPS}
        # (the present plan holds the addresses of what its tensors have: a refused group must leave them that)
        before = [(tensor, tensor.snapshot()) for tensor in plan.tensors]

        def join() -> None:
            try:
                self._structure = Structure(True, structure.parts, structure.watched)
                added = self._bound_group({"params": params, **hyper}, groups, plan.tensors)
                self._adopt([*plan.tensors, *added], groups)
                new, self._plan = self._plan, plan
                for tensor in new.tensors:
                    tensor.prefix = self._structure.prefix(tensor.group)
                self._bound = None
                self._replan(new, len(added))
                if self._frozen:
                    self._set_frozen(self._frozen)
            except BaseException:
                self._plan = plan
                vars(self).update(present)
                for tensor, snapshot in before:
                    tensor.restore(snapshot)
                self._watch()
                raise

        plan.retire(join)
        return self._groups[-1]

    def cast(self) -> None:
        """Bring the 16-bit copies to what the parameters are, after somebody else changed those."""
        if self._shadow is not None:
            for tensor in self._plan.tensors:
                tensor.cast()

    # Values

    def _set_hyper(self, groups: Sequence[Group], name: str, value: Hyper) -> None:
        """Set a hyper-parameter of these groups: of all of them, or of none if one refuses."""
        owner = type(self).__name__
        if name not in self.hypers:
            raise AttributeError(f"{owner}: a group has no {name!r}{nearest(OTHER_NAMES.get(name, name), self.hypers)}")
        value = self.hypers[name].checked(value, owner)
        largest = [group._lr_max if name != "lr" or group._lr_max is None else group._lr_max_with(value)
                   for group in groups]
        for group, lr_max in zip(groups, largest, strict=True):
            self._plan.assign(group._index, self._fields.index(name), value)
            group._values[name] = value
            group._keep_lr_max(lr_max)

    def _set_stage(self, name: str, value: Any) -> None:
        """Set what happens round the rule, from the next step on."""
        owner = type(self).__name__
        if name not in SETTABLE:
            raise AttributeError(f"{owner}: {name} is for the constructor, it cannot be set later")
        stages = self._stages._replace(**{name: value})
        stages.check(owner)
        if name == "ema_decay" and (value is None) != (self._stages.ema_decay is None):
            raise AttributeError(f"{owner}: whether a running mean is kept is for the constructor, ema_decay cannot be "
                                 f"{'None' if value is None else 'a number'} later")
        plan = self._plan
        if plan.accumulated and stages.norms_needed:
            raise ValueError(f"{owner}: {stages.norms_needed} cannot be set between accumulate and step, as what is "
                             f"accumulated was not measured")

        plan.retire(lambda: self._plan_again(stages))

    def _plan_again(self, stages: Stages) -> None:
        """Go on with a plan of the same tensors and other stages."""
        plan = self._plan
        new = self._planned(plan.tensors, self._groups, stages)
        for group in self._groups:
            new.set_peak(group._index, group._lr_max or 0.0)
        if self._bound is not None:
            new.bind(self._without_frozen(self._bound))
        new.grad_norm, new.watched = plan.grad_norm, plan.watched
        self._replan(new, stages=stages)

    # Gradients

    def bind(self, grads: Any) -> None:
        """Read these gradient buffers in every `step()` that is given none: their memory must stay where it is."""
        arrays = Structure.arranged(self._structure, grads, type(self).__name__)
        if self._catch_up_rows is not None:
            from .catching_up import refuse_bound

            refuse_bound(self, arrays)
        if self._plan.bind(self._without_frozen(arrays)):
            self._bound_fixed = [fixed_in_memory(array) for array in arrays if isinstance(array, np.ndarray)]
        self._bound = arrays

    def _set_frozen(self, frozen: frozenset[str]) -> None:
        """Freeze these parameters and no others; nobody may step meanwhile."""
        structure = Structure(self._structure.grouped, self._structure.parts, self._structure.watched)
        labels = {k: tensor.name for k, tensor in enumerate(self._plan.tensors) if tensor.name in frozen}
        if self._bound is not None:
            self._plan.bind_arrays([None if k in labels else array for k, array in enumerate(self._bound)])
        self._plan.set_frozen(labels)
        self._frozen = frozen
        self._structure = FrozenStructure(structure, labels) if labels else structure
        self._watch()

    def _without_frozen(self, arrays: list[Any]) -> list[Any]:
        """Bound gradients, None for parameters that are frozen."""
        if not self._frozen:
            return arrays
        return [None if tensor.name in self._frozen else array
                for tensor, array in zip(self._plan.tensors, arrays, strict=True)]

    def _arranged(self, grads: Any, label: str = "grads") -> list[Any]:
        """Gradients in the order of the tensors."""
        return self._structure.arranged(grads, type(self).__name__, label)

    def _refuse_as_part(self, call: str) -> None:
        """TypeError if this is a part of a Partition, which knows the parameters of its parts."""
        if self._part is not None:
            raise TypeError(f"{type(self).__name__}: {call} cannot change the part {self._part!r} of a Partition; make "
                            f"a new Partition, and load the state of this one with strict=False")

    def _require_all_updates(self, what: str) -> None:
        """RuntimeError while rows have not had all updates."""
        if self._catch_up_rows is not None:
            from .catching_up import refuse_behind

            refuse_behind(self, what)

    def _require_own_values(self) -> None:
        """RuntimeError while the parameters hold their running means."""
        if self._swapped_out:
            self._plan.refuse_replaced()
