"""What every optimizer of `fastlr.torch` is: a `torch.optim.Optimizer` whose step is one of fastlr's plans."""
from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from itertools import chain
from typing import Any, ClassVar

import torch
from torch.optim import optimizer as base

from .._engine.torch_tensors import any_gradient, forget_gradients
from ..optimizers.rule_class import RuleClass
from ..optimizers.stages import SETTABLE, STAGES
from .arguments import Peer
from .binding import Binding, is_movable, why_not
from .state import as_in_torch

#: Keywords of fastlr's that every class takes beside its own.
COMMON = tuple(name for name in STAGES if name != "maximize") + (
    "state_dtype", "master", "decay", "decay_mask", "lr_scale", "lr_max", "convention")

profiler_is_on = torch._C._autograd._profiler_enabled
increment_version = getattr(torch._C, "_increment_version", torch.autograd.graph.increment_version)
before_all, after_all = base._global_optimizer_pre_hooks, base._global_optimizer_post_hooks


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer whose steps are fastlr's.

    `param_groups` and `state` are read at every step, as in torch: hyper-parameters, parameters and tensors of state may
    be set between steps. Tensors of `state` are the memory that steps write.
    """

    _step_supports_amp_scaling = True
    _rule_class: ClassVar[type[RuleClass] | None] = None       # of fastlr's; None where `_peer` has several
    _peer: ClassVar[Peer | None] = None                        # how torch's class is fastlr's rules; None: it has none
    _binding: Binding | None
    _common: dict[str, Any]

    def _take_common(self, given: dict[str, Any]) -> None:
        """Take fastlr's own keywords out of those that were given."""
        object.__setattr__(self, "_common", {name: given.pop(name) for name in COMMON if name in given})
        self.zero_grads = bool(given.pop("zero_grads", False))
        self.in_backward = bool(given.pop("in_backward", False))
        self._binding = None

    def _begin(self) -> None:
        """What is left to do when groups are there: refuse what fastlr's class refuses."""

    def _common_keywords(self, units: int) -> dict[str, Any]:
        """fastlr's keywords for each of so many plans."""
        return {name: value for name, value in self._common.items() if value is not None}

    # Stepping

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        closure
            Computes the loss again, and its gradients; called once, before the update. Its value is returned.
        """
        if before_all or after_all or self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks \
                or profiler_is_on():
            return hooked_step(self) if closure is None else hooked_step(self, closure)
        return plain_step(self, closure)

    step.hooked = True                 # type: ignore[attr-defined]  # (or torch wraps it in a profiler's context)

    def _move(self, loss: float | None = None) -> None:
        """One update of everything, by the gradients that there are."""
        own = self.__dict__
        scale = own.get("grad_scale")
        scale = 1.0 if scale is None else float(scale)
        found_inf = own.get("found_inf")
        if found_inf is not None and float(found_inf) != 0:
            if self.zero_grads:
                self.zero_grad(set_to_none=False)
            return
        binding = own["_binding"]
        if binding is None or not binding.watch.same_structure(self.param_groups, self.state):
            binding = self._bind()
        changed = binding.watch.changed_groups()
        if changed is not None and not binding.set_values(self, changed):
            binding = self._bind()
        for unit in binding.units:
            if unit.tensors.moved():
                binding = self._bind()
                break
        if binding.unbound and any_gradient(binding.unbound):
            binding = self._bind()
        self._step_units(binding, scale, loss)

    def _step_units(self, binding: Binding, scale: float, loss: float | None) -> None:
        units = binding.units
        try:
            present = [unit.tensors.read() for unit in units]
        except BaseException:
            for unit in units:
                unit.tensors.forget()
            raise
        for unit, gradients in zip(units, present, strict=True):
            if not gradients:
                continue
            moved = unit.tensors.step(scale, self.zero_grads) if loss is None else \
                unit.tensors.step(scale, self.zero_grads, loss)
            if moved:
                increment_version(moved)
                if unit.without_state:
                    self._show_new_state(binding, unit)

    def _show_new_state(self, binding: Binding, unit: Any) -> None:
        """Enter the state of parameters that were moved for the first time into `state`."""
        new = [i for i in unit.without_state if unit.tensors.has_gradient(i)]
        for i in new:
            unit.expose(self, i)
        if new:
            binding.watch.take_state(self.state)

    def _bind(self) -> Binding:
        """Plan the steps of what `param_groups` and `state` have now."""
        before = {} if self._binding is None else self._binding.steps()
        with torch.no_grad():
            self._binding = Binding(self, before)
        return self._binding

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
            for index, param in enumerate(added["params"]):
                if not is_movable(param) and param.device.type not in ("cpu", "meta"):
                    raise why_not(param, type(self).__name__, str(added.get("param_names", {index: index})[index]))
        except BaseException:
            self.param_groups.pop()
            raise

    # State

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """The state as a dictionary that torch's class of this name loads, too: see `torch.optim.Optimizer.state_dict`.
        """
        hooks, self._optimizer_state_dict_post_hooks = self._optimizer_state_dict_post_hooks, OrderedDict()
        try:
            d = super().state_dict()
        finally:
            self._optimizer_state_dict_post_hooks = hooks
        params = list(chain.from_iterable(group["params"] for group in self.param_groups))
        for packed, group in zip(d["param_groups"], self.param_groups, strict=True):
            for key in packed["params"]:
                if key in d["state"]:
                    d["state"][key] = as_in_torch(type(self).__name__, d["state"][key], params[key], group)
        for hook in hooks.values():
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
        present = {"state": self.state, "param_groups": self.param_groups}
        self.__setstate__({"state": state, "param_groups": saved_groups})
        binding, self._binding = self._binding, None
        try:
            self._bind()               # (what cannot be loaded is refused here, with nothing changed)
        except Exception:
            self.__dict__.update(present)
            self._binding = binding
            raise
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_common": self._common, "zero_grads": self.zero_grads,
                "in_backward": self.in_backward}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_common" in state:
            self._binding = None


def copied(value: Any) -> Any:
    """A copy of all tensors in a state."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return type(value)(copied(item) for item in value)     # type: ignore[call-arg]
    return value


def plain_step(opt: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    """A step without hooks."""
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    opt._move()
    return loss


hooked_step = torch.optim.Optimizer.profile_hook_step(plain_step)


def stage_property(name: str) -> property:
    """A stage as an attribute that can be set between steps."""
    def read(self: Optimizer) -> Any:
        return self._common.get(name)

    def write(self: Optimizer, value: Any) -> None:
        self._common[name] = value
        self._binding = None

    return property(read, write, doc=f"See `fastlr.Optimizer`: {name}.")


for stage in SETTABLE:
    setattr(Optimizer, stage, stage_property(stage))
