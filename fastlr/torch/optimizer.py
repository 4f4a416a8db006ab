"""What every optimizer of `fastlr.torch` is: a `torch.optim.Optimizer` whose step is one of fastlr's plans."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.optim import optimizer as base

from .._engine.torch_grad import any_gradient, forget_gradients
from .._engine.torch_native import count_writes
from ..optimizers.binding import check_words
from ..optimizers.rule_class import RuleClass
from ..optimizers.stages import SETTABLE, STAGES, Stages
from .arguments import Peer
from .backward import step_in_backward
from .binding import Binding, is_movable, names_of, why_not
from .constraining import as_saved, constraints_of, from_saved, of_group
from .state import as_in_torch

if TYPE_CHECKING:
    from ..optimizers.measuring import Measured

#: Keywords of fastlr's that every class takes beside its own.
COMMON = tuple(name for name in STAGES if name != "maximize") + (
    "state_dtype", "master", "decay", "decay_mask", "lr_scale", "lr_max", "constraint", "catch_up_rows", "convention")

profiler_is_on = torch._C._autograd._profiler_enabled
before_all, after_all = base._global_optimizer_pre_hooks, base._global_optimizer_post_hooks


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer whose steps are fastlr's.

    `param_groups` and `state` are read at every step, as in torch: hyper-parameters, parameters and tensors of state
    may be set between steps. Tensors of `state` are the memory that steps write.
    """

    _step_supports_amp_scaling = True
    _rule_class: ClassVar[type[RuleClass] | None] = None       # of fastlr's; None where `_peer` has several
    _peer: ClassVar[Peer | None] = None                        # how torch's class is fastlr's rules; None: it has none
    _step_of_torch: ClassVar[Any] = None        # what torch's class does, without hooks
    _needs_more: ClassVar[bool] = False        # whether a step is given more than gradients
    _binding: Binding | None
    _common: dict[str, Any]
    _norms: tuple[int, float, float] | None = None     # what clip_zscore remembers, where there is no binding
    _state_shown = False
    _measures = False                  # whether each parameter is measured
    _checked = False                   # in_backward: whether groups and state were looked at in this backward pass

    def _take_common(self, given: dict[str, Any]) -> None:
        """Take fastlr's own keywords out of those that were given."""
        self._common = {name: given.pop(name) for name in COMMON if name in given}
        stored = self._common.get("state_dtype")
        if isinstance(stored, torch.dtype):
            self._common["state_dtype"] = str(stored).removeprefix("torch.")
        self.zero_grads = bool(given.pop("zero_grads", False))
        self.in_backward = bool(given.pop("in_backward", False))
        self._binding = None

    def _begin(self) -> None:
        """What is left to do when the groups are there."""
        self._state_shown = False
        owner = type(self).__name__
        Stages(**{name: value for name, value in self._common.items() if name in STAGES}).check(owner)
        check_words(owner, **{name: value for name, value in self._common.items()
                              if name in ("state_dtype", "decay", "master") and isinstance(value, str)})
        constraints_of(owner, self._common.get("constraint"), self.param_groups, names_of(self.param_groups))
        if self._differentiable():     # (torch's own step takes gradients that a GradScaler has divided)
            self._refuse_constraints(self.param_groups)
            self._step_supports_amp_scaling = False
        if self.in_backward:
            step_in_backward(self)

    def __repr__(self) -> str:
        given = {**self._common, **{name: True for name in ("zero_grads", "in_backward") if getattr(self, name)}}
        said = ", ".join(f"{name}={value!r}" for name, value in given.items())
        groups: str = super().__repr__()
        return groups + f" with {said}" * bool(said)

    # Stepping

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        closure
            Computes the loss again, and its gradients; called once, before the update. Its value is returned.
        """
        if self._has_hooks():
            return hooked_step(self) if closure is None else hooked_step(self, closure)
        return plain_step(self, closure)

    step.hooked = True                 # type: ignore[attr-defined]  # (or torch wraps it in a profiler's context)

    def _has_hooks(self) -> bool:
        """Whether somebody wants to know of a step. (Of a subclass's `step`, torch's wrapper of that tells them.)"""
        return bool(before_all or after_all or self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
                    or profiler_is_on()) and not hasattr(type(self).step, "__wrapped__")

    def _differentiable(self) -> bool:
        """Whether autograd follows the steps, which are torch's own then."""
        return bool(self.defaults.get("differentiable"))

    def _refuse_constraints(self, groups: Iterable[dict[str, Any]]) -> None:
        """ValueError if groups have one beside differentiable=True."""
        refuse_beside_differentiable(type(self).__name__, ["constraint"] * any(
            group.get("constraint") is not None for group in groups))

    def _move(self, **more: Any) -> None:
        """One update of everything, by the gradients that there are; `more`: what else the rule is given."""
        own = self.__dict__
        binding = own["_binding"]
        if binding is None and self._differentiable():
            self._refuse_constraints(self.param_groups)
            with torch.enable_grad():
                self._step_of_torch(self)
            return
        own["_checked"] = False
        scale = own.get("grad_scale")
        scale = 1.0 if scale is None else float(scale)
        found_inf = own.get("found_inf")
        if found_inf is not None and float(found_inf) != 0:
            if self.zero_grads:
                self.zero_grad(set_to_none=False)
            return
        if binding is None or not binding.watch.same_params(self.param_groups) \
                or (self._state_shown and self._state_changed(binding)):
            binding = self._bind()
        changed = binding.watch.changed_groups()
        if changed is not None and not binding.set_values(self, changed):
            binding = self._bind()
        if binding.unbound and any_gradient(binding.unbound):
            binding = self._bind()
        if self._peer is not None and self._peer.only_sparse:
            refuse_dense(self)
        while True:
            try:
                present = [unit.tensors.read(self.zero_grads) for unit in binding.units]
            except BaseException:
                binding.forget_gradients()
                raise
            if -1 not in present:
                break
            binding = self._bind()     # (a parameter's `data` is another)
        if binding.joint is not None:
            scale = binding.joint.scale(self.param_groups, scale)
            if scale is None:          # (a gradient is not finite)
                binding.forget_gradients()
                if self.zero_grads:
                    self.zero_grad(set_to_none=False)
                return
            for unit in binding.units:
                unit.inner._plan.clipped_by = binding.joint.clipped_by
        for unit, gradients in zip(binding.units, present, strict=True):
            if gradients:
                moved = unit.tensors.step(scale, self.zero_grads, **more)
                if moved:
                    count_writes(moved)
                    if unit.without_state:
                        self._show_new_state(binding, unit)

    def _move_one(self, param: torch.Tensor) -> None:
        """One update of one parameter, whose gradient is complete, inside the backward pass."""
        if self.__dict__.get("grad_scale") is not None:
            raise RuntimeError(f"{type(self).__name__}: in_backward=True moves parameters before a GradScaler knows "
                               f"whether gradients are finite; use one of them")
        binding = self._binding
        if binding is None or not self._checked:           # (once in each backward pass)
            if binding is None or not binding.watch.same_params(self.param_groups) \
                    or (self._state_shown and self._state_changed(binding)):
                binding = self._bind()
            self._checked = True
        changed = binding.watch.changed_groups()
        if (changed is not None and not binding.set_values(self, changed)) or id(param) not in binding.unit_of:
            binding = self._bind()
        unit = binding.unit_of[id(param)]
        if unit.tensors.read() < 0:
            binding = self._bind()
            unit = binding.unit_of[id(param)]
            unit.tensors.read()
        moved = unit.tensors.step()
        if moved:
            count_writes(moved)
            if unit.without_state:
                self._show_new_state(binding, unit)
        param.grad = None

    def _given(self, loss: Any, **more: Any) -> dict[str, Any]:
        """What else a plan is given."""
        raise TypeError(f"{type(self).__name__}: step() takes a closure, got {', '.join(more)}")

    def _state_changed(self, binding: Binding) -> bool:
        """Whether somebody entered another tensor into `state`, or gave one other memory."""
        return not binding.watch.same_state(self.__dict__["state"]) \
            or any(unit.state_watch.moved() for unit in binding.units)

    def _show_new_state(self, binding: Binding, unit: Any) -> None:
        """Enter the state of parameters that were moved for the first time into `state`."""
        new = [i for i in unit.without_state if unit.tensors.has_gradient(i)]
        for i in new:
            unit.expose(self, i)
        if new:
            binding.watch.take_state(self.__dict__["state"])

    def _bind(self) -> Binding:
        """Plan the steps of what `param_groups` and `state` have now."""
        before = {} if self._binding is None else self._binding.steps()
        if self._binding is not None and self._common.get("catch_up_rows") is not None:
            self.catch_up()
        with torch.no_grad():
            new = Binding(self, before)
        if self._binding is not None:
            new.remember(self._binding.remembered())
        elif self._norms is not None and new.units:
            new.units[0].inner._plan.norms = self._norms
        self._binding = new
        return new

    def _past_norms(self) -> tuple[int, float, float] | None:
        """What clip_zscore remembers of past norms; None without it."""
        if self._common.get("clip_zscore") is None:
            return None
        if self._binding is None or not self._binding.units:
            return self._norms
        norms: tuple[int, float, float] = self._binding.units[0].inner._plan.norms
        return norms

    # Rows that catch up

    def catch_up(self, param: torch.Tensor | None = None, rows: Any = None) -> None:
        """Let rows have the updates that steps with sparse gradients did without them: see `fastlr.Optimizer.catch_up`.

        With ``catch_up_rows=True``, call ``opt.catch_up(embedding.weight, words)`` before a batch reads those rows, and
        ``opt.catch_up()`` before you evaluate or save.
        """
        if (param is None) != (rows is None):
            raise TypeError(f"{type(self).__name__}: catch_up: give both a parameter and rows of it, or neither")
        if self._binding is None:
            return
        moved = self._binding.catch_up() if param is None else self._binding.catch_up_rows(
            param, rows, type(self).__name__)
        if moved:
            count_writes(moved)

    def _require_all_updates(self, what: str) -> None:
        """RuntimeError while rows have not had all updates."""
        units = [] if self._binding is None else self._binding.units
        missed = max((unit.tensors.behind() for unit in units), default=0)
        if missed:
            raise RuntimeError(f"{type(self).__name__}: {what}: rows are up to {missed} updates behind; call "
                               f"catch_up() first, before parameters or state are read")

    # What a step leaves

    @property
    def grad_norm(self) -> float | None:
        """The norm of the latest step's gradients, where `clip_norm` or `nonfinite` measured it."""
        if self._binding is None:
            return None
        if self._binding.joint is not None:
            return self._binding.joint.norm
        norm: float | None = self._binding.units[0].inner.grad_norm if self._binding.units else None
        return norm

    @property
    def skipped(self) -> int:
        """Steps that ``nonfinite="skip"`` did not take."""
        if self._binding is None:
            return 0
        return self._binding.joint.skipped if self._binding.joint is not None else \
            sum(unit.inner.skipped for unit in self._binding.units)

    def constrain(self) -> None:
        """Bring every parameter that steps move within its constraint now, without a step: for values that were set."""
        for unit in self._bind().units:
            if unit.constraints:
                unit.inner._plan.constrain()
                count_writes(unit.params)

    def measure(self, on: bool = True) -> None:
        """Measure each parameter in every step, in the same pass: see `fastlr.Optimizer.measure`."""
        if on and self._differentiable():
            refuse_beside_differentiable(type(self).__name__, ["measure()"])
        before, self._measures = self._measures, bool(on)
        if self._binding is not None and before != self._measures:
            try:
                self._bind()
            except BaseException:
                self._measures = before
                raise

    @property
    def measures(self) -> bool:
        """Whether each parameter is measured."""
        return self._measures

    @property
    def measured(self) -> dict[str, Measured]:
        """Norms of each parameter's gradient, update and values in the latest step: see `fastlr.Optimizer.measured`.

        By the names that the parameters were given with (`model.named_parameters()`), or their numbers.
        """
        if not self._measures:
            raise RuntimeError(f"{type(self).__name__}: nothing is measured; call measure() first")
        units = [] if self._binding is None else self._binding.units
        return {name: found for unit in units for name, found in unit.inner.measured.items()}

    # State

    @property
    def state(self) -> Any:
        """The state of each parameter, by torch's names: tensors over the memory that steps write.

        Once somebody has read it, each step looks whether a tensor in it is another.
        """
        self._state_shown = True
        return self.__dict__["state"]

    @state.setter
    def state(self, state: Any) -> None:
        self._norms = self._past_norms()
        self.__dict__["state"], self._binding = state, None

    # Gradients

    @torch._disable_dynamo
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zero: see `torch.optim.Optimizer.zero_grad`."""
        if not set_to_none or profiler_is_on():
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            forget_gradients(group["params"])

    # Groups

    @torch._disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters: see `torch.optim.Optimizer.add_param_group`."""
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        try:
            of_group(type(self).__name__, added)
            if self._differentiable():
                self._refuse_constraints([added])
            for index, param in enumerate(added["params"]):
                if not is_movable(param) and param.device.type not in ("cpu", "meta"):
                    raise why_not(param, type(self).__name__, str(added.get("param_names", {index: index})[index]))
        except BaseException:
            self.param_groups.pop()
            raise
        if self.__dict__.get("_handles") is not None:
            step_in_backward(self, added["params"])

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """The state as a dictionary that torch's class of this name loads, too: see `torch.optim.Optimizer.state_dict`.

        With `clip_zscore` it has an entry more, `norms`: the count, mean and variance of the norms that were seen.
        """
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        self._require_all_updates("state_dict")
        numbers: dict[int, int] = {}
        groups = []
        first = 0
        for group in self.param_groups:
            for number, param in enumerate(group["params"], first):
                numbers.setdefault(id(param), number)
            first += len(group["params"])
            packed = {name: value for name, value in group.items() if name != "params"}
            groups.append({**as_saved(packed), "params": [numbers[id(param)] for param in group["params"]]})
        group_of = {id(param): group for group in self.param_groups for param in group["params"]}
        state = {}
        for key, value in self.__dict__["state"].items():
            if isinstance(key, torch.Tensor):
                # (other tensors over the same memory: whoever has them cannot give those of `state` another)
                state[numbers[id(key)]] = as_in_torch(type(self).__name__, {
                    name: item.detach() if isinstance(item, torch.Tensor) else item for name, item in value.items()},
                    key, group_of[id(key)])
            else:
                state[key] = value
        d: dict[str, Any] = {"state": state, "param_groups": groups}
        norms = self._past_norms()
        if norms is not None:
            d["norms"] = dict(zip(("count", "mean", "variance"), norms, strict=True))
        for hook in self._optimizer_state_dict_post_hooks.values():
            replaced = hook(self, d)
            if replaced is not None:
                d = replaced
        return d

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned, here or in torch's class of this name.

        All tensors are copied, as they are: torch casts them to the type of the parameter, here state keeps its own.
        """
        state_dict = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = pre_hook(self, state_dict)
            if replaced is not None:
                state_dict = replaced
        groups, saved_groups = self.param_groups, deepcopy(state_dict["param_groups"])
        if len(groups) != len(saved_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(group["params"]) != len(saved["params"]) for group, saved in zip(groups, saved_groups, strict=True)):
            raise ValueError("loaded state dict contains a parameter group that doesn't match the size of "
                             "optimizer's group")
        param_of = dict(zip(chain.from_iterable(saved["params"] for saved in saved_groups),
                            chain.from_iterable(group["params"] for group in groups), strict=True))
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            if key in param_of:
                state[param_of[key]] = copied(value)
            else:
                state[key] = value
        for group, saved in zip(groups, saved_groups, strict=True):
            saved["params"] = group["params"]
            if "param_names" in group and "param_names" not in saved:
                saved["param_names"] = group["param_names"]
            if "constraint" in saved:
                saved["constraint"] = from_saved(type(self).__name__, saved["constraint"])
            elif "constraint" in group:
                saved["constraint"] = group["constraint"]
        norms = state_dict.get("norms")
        present, binding = {"state": self.__dict__["state"], "param_groups": self.param_groups,
                            "_norms": self._norms}, self._binding
        self.__setstate__({"state": state, "param_groups": saved_groups, "_norms": None if norms is None else
                           (int(norms["count"]), float(norms["mean"]), float(norms["variance"]))})
        try:
            if self._differentiable():
                self._refuse_constraints(saved_groups)
            else:
                self._bind()           # (what cannot be loaded is refused here, with nothing changed)
        except Exception:
            self.__dict__.update(present)
            self._binding = binding
            raise
        self._state_shown = False
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        self._require_all_updates("a copy")
        name, state = type(self).__name__, self.__dict__["state"]
        if name == "ASGD":             # (torch's constructor of a copy looks for all of it)
            state = defaultdict(dict, {param: as_in_torch(name, state[param], param, group)
                                       for group in self.param_groups for param in group["params"] if param in state})
        return {"defaults": self.defaults, "state": state, "param_groups": self.param_groups,
                "_common": self._common, "_measures": self._measures, "_norms": self._past_norms(),
                "zero_grads": self.zero_grads, "in_backward": self.in_backward}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)    # (torch's classes enter what older dictionaries lack)
        if self._peer is None:
            for group in self.param_groups:
                for name, value in self.defaults.items():
                    group.setdefault(name, value)
        self._binding = None
        if "_common" in state:         # (a copy: nobody has seen its state, and its parameters have no hooks)
            self._begin()


def refuse_beside_differentiable(owner: str, given: Sequence[str]) -> None:
    """ValueError if something is given that torch's own steps, which autograd follows, do not have."""
    if given:
        raise ValueError(f"{owner}: differentiable=True takes torch's own steps, which have no {', '.join(given)}; "
                         f"leave one of them out")


def copied(value: Any) -> Any:
    """A copy of all tensors in a state."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return type(value)(copied(item) for item in value)     # type: ignore[call-arg]
    return value


def refuse_dense(opt: Optimizer) -> None:
    """RuntimeError, torch's, if a gradient is dense."""
    for group in opt.param_groups:
        for param in group["params"]:
            if param.grad is not None and not param.grad.is_sparse:
                raise RuntimeError(f"{type(opt).__name__} does not support dense gradients, please consider Adam "
                                   f"instead")


def plain_step(opt: Optimizer, closure: Callable[[], Any] | None = None, **more: Any) -> Any:
    """A step without hooks."""
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    opt._move(**(opt._given(loss, **more) if more or opt._needs_more else more))
    return loss


hooked_step = torch.optim.Optimizer.profile_hook_step(plain_step)


def stage_property(name: str) -> property:
    """A stage as an attribute that can be set between steps."""
    def read(self: Optimizer) -> Any:
        return self._common.get(name)

    def write(self: Optimizer, value: Any) -> None:
        self.catch_up()
        norms = self._past_norms()
        self._common[name] = value
        self._binding, self._norms = None, norms

    return property(read, write, doc=f"See `fastlr.Optimizer`: {name}.")


for stage in SETTABLE:
    setattr(Optimizer, stage, stage_property(stage))
