"""How the parameters of a torch optimizer become those of fastlr's: a plan for all groups that the same rule moves."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any
from weakref import WeakMethod

import torch

from .._engine.tensors import Tensor
from .._engine.torch_plan import TorchTensors
from .._engine.torch_tensors import array_over
from .._engine.torch_watch import GroupWatch, StateWatch
from ..constraints import Constraint
from ..optimizers.binding import BoundParameters
from ..optimizers.catching_up import checked_rows
from ..optimizers.spectral import Decomposing, Muon
from .arguments import Rule, rule_of, values_of
from .constraining import constraints_of
from .products import BFloat16Products, TorchProducts
from .state import adopt, completed, exposed, local_part, tensor_over

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)
#: Options by which what moves an element depends on others.
OVER_WHOLE_TENSORS = ("clip_norm", "clip_tensor_norm", "clip_zscore", "clip_adaptive", "nonfinite")
#: Bytes of a slot from which on state is in memory of torch's, not in one block. (Between gradients, as torch's own
#: state, it keeps the C library from giving back the memory of gradients in each step, which the next backward pass
#: would touch anew: 0 instead of 65,000 page faults in a step of 100 million parameters with in_backward.)
LARGE = 1 << 17
BOUND_CLASSES: dict[type[Any], type[Any]] = {}


class AdoptsState(BoundParameters, family=True):
    """A class of fastlr's that can begin with memory of torch's as its state."""

    _given: Sequence[Mapping[str, Any]]
    _used: list[list[str]]

    def _allocate(self, tensors: list[Tensor]) -> None:
        super()._allocate(tensors)
        owner, block = type(self).__name__, [list(tensor.state) for tensor in tensors]
        self._used = [adopt(self, owner, tensor, given, f"{owner}: state of parameter {tensor.name}")
                      for tensor, given in zip(tensors, self._given, strict=True)]
        if any(array.nbytes >= LARGE for arrays in block for array in arrays):
            for tensor, arrays in zip(tensors, block, strict=True):
                tensor.state[:] = [array_over(tensor_over(array).clone()) if array is own else array
                                   for array, own in zip(tensor.state, arrays, strict=True)]


def bound_class(cls: type[Any]) -> type[Any]:
    """The class of fastlr's with `AdoptsState`; it stands for no rule of its own."""
    if cls not in BOUND_CLASSES:
        bases: tuple[type[Any], ...] = (AdoptsState, cls)
        if issubclass(cls, Muon | Decomposing):
            bases = (AdoptsState, BFloat16Products if issubclass(cls, Muon) else TorchProducts, cls)
        BOUND_CLASSES[cls] = type(cls.__name__, bases, {"__module__": __name__}, family=True)
    return BOUND_CLASSES[cls]


def new(cls: type[Any]) -> Any:
    """An object of this class, to be given what it begins with before its constructor is called."""
    return object.__new__(cls)


# Parameters and gradients of other types

def local_of(param: torch.Tensor) -> torch.Tensor:
    """The strided tensor over a parameter's memory: of a DTensor the local part, of complex numbers their parts."""
    local = getattr(param, "_local_tensor", param)
    if local.is_complex():
        return torch.view_as_real(local.detach())
    return local


def local_gradient(owner: str, takes_rows: bool, param: torch.Tensor, gradient: torch.Tensor,
                   name: str) -> torch.Tensor:
    """A gradient as a strided tensor of real numbers, or a sparse one of rows.

    RuntimeError if it is on another device, or sparse where the rule moves an element by more than its own gradient.
    """
    gradient = getattr(gradient, "_local_tensor", gradient)
    if hasattr(gradient, "wait"):      # (a collective that is under way)
        gradient = gradient.wait()
    gradient = gradient.detach()
    if gradient.layout == torch.sparse_coo:
        if not takes_rows or gradient.is_complex():
            raise RuntimeError(f"{owner} does not support sparse gradients")
        return gradient
    if gradient.layout != torch.strided:
        gradient = gradient.to_dense()
    if gradient.device.type != "cpu":
        raise RuntimeError(f"{owner}: the gradient of parameter {name} is on {gradient.device}, fastlr.torch steps on "
                           f"the CPU")
    if type(gradient) is not torch.Tensor and type(gradient) is not torch.nn.Parameter:
        gradient = gradient.as_subclass(torch.Tensor)
    if gradient.is_complex():
        return torch.view_as_real(gradient.resolve_conj().resolve_neg())
    return gradient


def is_movable(param: torch.Tensor) -> bool:
    """Whether this is a strided tensor of floating-point numbers on the CPU."""
    local = getattr(param, "_local_tensor", param)
    return local.device.type == "cpu" and local.layout == torch.strided and local.dtype in (*FLOATS, *COMPLEX)


def why_not(param: torch.Tensor, owner: str, name: str, fused: bool | None = None) -> Exception:
    """What is wrong with a parameter that has a gradient but cannot be moved; with `fused`, in torch's words, too."""
    local = getattr(param, "_local_tensor", param)
    if local.device.type == "meta":
        what = "`fused=True` requires all the params to be floating point Tensors of supported devices; " * bool(fused)
        return RuntimeError(f"{what}{owner}: parameter {name} is on the meta device and has no memory; materialise it, "
                            f"with model.to_empty(device='cpu'), before the first step")
    if local.device.type != "cpu":
        return RuntimeError(f"{owner}: parameter {name} is on {local.device}, fastlr.torch steps on the CPU; move the "
                            f"model there, or use torch.optim")
    if local.layout != torch.strided:
        return RuntimeError(f"{owner}: parameter {name} has layout {local.layout}, a dense one is needed")
    return TypeError(f"{owner}: parameter {name}: expected float16, bfloat16, float32, float64 or complex, got "
                     f"{local.dtype}")


def refuse_parts(owner: str, cls: type[Any], common: Mapping[str, Any],
                 members: list[list[tuple[str, torch.Tensor]]]) -> None:
    """ValueError if a step needs more of a parameter than the part that this process has."""
    parts = [name for group in members for name, param in group
             if any(not placement.is_replicate() for placement in getattr(param, "placements", ()))]
    if not parts:
        return
    options = [f"{name}={common[name]!r}" for name in OVER_WHOLE_TENSORS
               if common.get(name, "propagate") != "propagate"]
    if cls.reduces or cls.shared:
        options.append(f"the rule {cls.__name__}")
    if options:
        cure = "clip with torch.nn.utils.clip_grad_norm_ before the step" if "norm" in options[0] else \
            "use a rule that moves each element by its own gradient" if "rule" in options[0] else "leave it out"
        raise ValueError(f"{owner}: parameter {parts[0]} is distributed, each process has a part of it, and "
                         f"{options[0]} needs all of it; {cure}")


# Units

class Unit:
    """The groups that one rule moves, as one plan: the parameters in it, and fastlr's optimizer of them."""

    __slots__ = ("__weakref__", "constraints", "counts", "groups", "inner", "keywords", "params", "rule", "state_watch",
                 "steps", "tensors", "without_state")

    def __init__(self, opt: Any, rule: Rule, groups: list[int], members: list[list[tuple[str, torch.Tensor]]],
                 common: Mapping[str, Any], constraints: Mapping[int, Constraint],
                 before: Mapping[int, float]) -> None:
        self.rule, self.groups = rule, groups
        # (the weight decay of a class of torch, which the keyword replaces; of fastlr's own, what a group says)
        self.keywords = {**rule.keywords, **common} if opt._peer is not None else {**common, **rule.keywords}
        self.params = [param for group in members for _, param in group]
        self.constraints = {name: constraints[id(param)] for group in members for name, param in group
                            if id(param) in constraints}
        owner = type(opt).__name__
        for group in members:
            for name, param in group:
                local = local_of(param)
                if local.is_neg():
                    raise ValueError(f"{owner}: parameter {name} is a negative view, whose memory has other values; "
                                     f"let your model use a copy of it, and pass that")
                if local.numel() and any(n > 1 and step == 0 for n, step in zip(local.shape, local.stride(),
                                                                                strict=True)):
                    raise ValueError(f"{owner}: elements of parameter {name} share memory (shape {tuple(local.shape)}, "
                                     f"strides {local.stride()}); let your model use a copy of it, and pass that")
        if rule.cls.kind == "matrix" and any(param.is_complex() for param in self.params):
            raise RuntimeError(f"{owner} does not support complex parameters")
        refuse_parts(owner, rule.cls, common, members)
        locals_ = [local_of(param) for param in self.params]
        given = [completed(rule.cls.__name__, opt.__dict__["state"].get(param) or {}, group)
                 for index, group in ((index, opt.param_groups[index]) for index in groups)
                 for _, param in members[groups.index(index)]]
        inner = self.inner = new(bound_class(rule.cls))
        inner._given, inner._measures = given, opt._measures
        arrays = iter([array_over(local) for local in locals_])
        inner.__init__([{"params": {name: next(arrays) for name, _ in group},
                         **values_of(owner, opt._peer, rule.cls, opt.param_groups[index])}
                        for index, group in zip(groups, members, strict=True)], **self.keywords,
                       constraint=self.constraints or None)
        inner._plan.watched = None     # (nobody else has the dictionaries of its arrays)
        if inner.kind == "matrix":
            for tensor, state in zip(inner._plan.tensors, given, strict=True):
                adopt(inner, rule.cls.__name__, tensor, state, f"{owner}: state of parameter {tensor.name}")
        self.counts = opt._peer is None or opt._peer.counts_steps or inner._stages.rounding == "stochastic"
        self.steps = torch.tensor([self._steps_of(param, state, before)
                                   for param, state in zip(self.params, given, strict=True)],
                                  dtype=torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32)
        plan = inner._plan
        plan.t = int(self.steps.max()) if len(self.params) else 0
        takes_rows = inner.kind == "elementwise" and not inner.depends_on_param and not inner.needs_curvature
        self.tensors = TorchTensors(plan, self.params, locals_, self.steps, local_of,
                                    partial(local_gradient, owner, takes_rows), WeakMethod(self.step_elements),
                                    inner.kind == "elementwise" and not inner.needs_curvature)
        self.state_watch = StateWatch()
        self.without_state: set[int] = set()
        for i, state in enumerate(given):
            if state:
                self.expose(opt, i)
            else:
                self.without_state.add(i)

    def _steps_of(self, param: torch.Tensor, state: Mapping[str, Any], before: Mapping[int, float]) -> float:
        """How many updates a parameter has had."""
        if "step" in state:
            return float(state["step"])
        if not self.inner._kept:
            return before.get(id(param), 0.0)
        present = any(value is not None for value in state.values())
        return max(1.0, before.get(id(param), 1.0)) if present else 0.0

    def expose(self, opt: Any, i: int) -> None:
        """Show a parameter's state in `opt.state`, as tensors over the memory that steps write."""
        param, tensor = self.params[i], self.inner._plan.tensors[i]
        shown = exposed(self.inner, self.rule.cls.__name__, tensor, param)
        if self.counts:
            shown = {"step": self.steps[i], **shown}
        if shown:
            present = opt.__dict__["state"][param]
            used = set(self.inner._used[i])
            present.update({name: value for name, value in shown.items()
                            if name not in used or name not in present})
            self.state_watch.add([local_part(value) for name, value in present.items()
                                  if name in shown and isinstance(value, torch.Tensor)])
        self.without_state.discard(i)

    def step_elements(self, i: int, gradient: torch.Tensor, grad_scale: float) -> None:
        """Move those elements of a parameter whose gradient a sparse tensor of several sparse axes has.

        They are gathered with their state, moved as a tensor of their own, and put back.
        """
        tensor, own = self.inner._plan.tensors[i], self.inner.groups[self.inner._plan.tensors[i].group]
        gradient = gradient.coalesce()
        lead = gradient.shape[:gradient.sparse_dim()]
        where = tuple(gradient.indices())
        arrays = [tensor_over(array) for array in (tensor.array, *tensor.state)]
        if any(scale is not None for scale in tensor.state_scales) or tensor.low_bits is not None:
            raise RuntimeError(f"{self.inner._plan.caller}: a sparse gradient of {len(lead)} sparse axes needs a state "
                               f"that is neither in 8 bits nor split; choose another state_dtype for this parameter")
        constraint = self.constraints.get(tensor.name)
        if constraint is not None and constraint.kind != "box":
            raise RuntimeError(f"{self.inner._plan.caller}: a sparse gradient of {len(lead)} sparse axes moves parts "
                               f"of rows, and {constraint!r} needs whole rows; use a box, or a dense gradient")
        gathered = [array[where].contiguous() for array in arrays]
        part = new(bound_class(self.rule.cls))
        part._given = [{}]
        part.__init__([{"params": {tensor.name: array_over(gathered[0])}, **own._values}], **self.keywords,
                      constraint=constraint)
        small = part._plan.tensors[0]
        for array, values in zip(small.state, gathered[1:], strict=True):
            tensor_over(array).copy_(values)
        small.memory[...] = tensor.memory
        part._plan.t = int(self.steps[i])
        part._plan.step([array_over(gradient.values().contiguous())], grad_scale, False)
        for array, values in zip(arrays, (gathered[0], *map(tensor_over, small.state)), strict=True):
            array[where] = values
        tensor.memory[...] = small.memory


#: Options that are over all gradients of a step, and so need more than one plan.
JOINT = {"clip_norm", "nonfinite", "clip_zscore"}


class Joint:
    """What is over all gradients of a step where several plans move them: their norm, and whether they are finite."""

    def __init__(self, owner: str, common: dict[str, Any]) -> None:
        if common.get("clip_zscore") is not None:
            raise ValueError(f"{owner}: clip_zscore needs groups that one rule moves; make an optimizer for each")
        self.owner, self.clip_norm = owner, common.pop("clip_norm", None)
        self.nonfinite, self.clip_value = common.pop("nonfinite", "propagate"), common.get("clip_value")
        self.norm: float | None = None
        self.clipped_by = 1.0          # by how much the latest step's scale is larger, as gradients are clipped
        self.skipped = 0

    def scale(self, groups: Sequence[Mapping[str, Any]], grad_scale: float) -> float | None:
        """By what gradients are to be divided, so that their norm is clipped; None if the step is to be skipped."""
        gradients = [param.grad for group in groups for param in group["params"] if param.grad is not None]
        bound = None if self.clip_value is None else self.clip_value * grad_scale
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(gradient if bound is None else gradient.clamp(-bound, bound),
                                              dtype=torch.promote_types(gradient.dtype, torch.float32)).double()
                     for gradient in (g.coalesce().values() if g.layout == torch.sparse_coo else g for g in gradients)]
            norm = float(torch.linalg.vector_norm(torch.stack(norms))) / grad_scale if norms else 0.0
        self.norm = norm
        if not isfinite(norm) and self.nonfinite == "skip":
            self.skipped += 1
            return None
        if not isfinite(norm) and self.nonfinite == "raise":
            raise FloatingPointError(f"{self.owner}: a gradient holds NaN or infinity; nothing was changed")
        scale = grad_scale
        if self.clip_norm is not None and not norm + 1e-6 <= self.clip_norm:
            scale = float(grad_scale * (norm + 1e-6) / self.clip_norm)
        self.clipped_by = scale / grad_scale
        return scale


class Binding:
    """The parameters of a torch optimizer, bound: the units, what is not moved, and what to watch for changes."""

    __slots__ = ("by_group", "joint", "rules", "unbound", "unit_of", "units", "watch")

    def __init__(self, opt: Any, before: Mapping[int, float]) -> None:
        groups = opt.param_groups
        names = names_of(groups)
        self.rules = [rule_of(opt._peer, opt._rule_class, group) for group in groups]
        self.unbound: list[torch.Tensor] = []
        together: list[tuple[Rule, list[int]]] = []
        for index, rule in enumerate(self.rules):
            same = next((indices for other, indices in together if other == rule), None)
            if same is None:
                together.append((rule, [index]))
            else:
                same.append(index)
        self.units = []
        common = {name: value for name, value in opt._common.items() if value is not None}
        constraints = constraints_of(type(opt).__name__, common.pop("constraint", None), groups, names)
        #: What each group had as its constraint.
        self.by_group = [group.get("constraint") for group in groups]
        self.joint = Joint(type(opt).__name__, common) if len(together) > 1 and JOINT & common.keys() else None
        seen: set[int] = set()
        for rule, indices in together:
            members = []
            for index in indices:
                movable = []
                for name, param in zip(names[index], groups[index]["params"], strict=True):
                    if id(param) in seen:
                        continue
                    seen.add(id(param))
                    idle = not param.requires_grad and param.grad is None and not opt.__dict__["state"].get(param)
                    if is_movable(param) and not idle:
                        movable.append((name, param))
                    elif param.grad is not None:
                        raise why_not(param, type(opt).__name__, name, groups[index].get("fused"))
                    else:
                        self.unbound.append(param)
                members.append(movable)
            parts = [(indices, members)] if any(members) else []
            if opt.in_backward:
                parts = [([index], [[member]]) for index, group in zip(indices, members, strict=True)
                         for member in group]
            self.units += [Unit(opt, rule, own, movable, self.common_of(common, movable, groups), constraints,
                                before)
                           for own, movable in parts]
        self.unit_of = {id(param): unit for unit in self.units for param in unit.params} if opt.in_backward else {}
        self.watch = GroupWatch(groups, opt.__dict__["state"])

    @staticmethod
    def common_of(common: dict[str, Any], members: list[list[tuple[str, torch.Tensor]]],
                  groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """fastlr's keywords for one unit: without ``master="split"`` where only others have a bfloat16 to split."""
        def has_bfloat16(params: Iterable[torch.Tensor]) -> bool:
            return any(param.dtype == torch.bfloat16 for param in params)

        if common.get("master") is None or has_bfloat16(param for group in members for _, param in group) \
                or not has_bfloat16(param for group in groups for param in group["params"]):
            return common
        return {name: value for name, value in common.items() if name != "master"}

    def remembered(self) -> tuple[Any, list[Any]]:
        """What is kept from step to step beside state: skipped steps, and norms."""
        joint = None if self.joint is None else (self.joint.skipped, self.joint.norm)
        plans = [(unit.rule, unit.inner._plan) for unit in self.units]
        return joint, [(rule, plan.skipped, plan.norms, plan.grad_norm) for rule, plan in plans]

    def remember(self, remembered: tuple[Any, list[Any]]) -> None:
        """Count on from another binding of the same parameters."""
        joint, units = remembered
        if self.joint is not None and joint is not None:
            self.joint.skipped, self.joint.norm = joint
        for unit, (rule, *values) in zip(self.units, units, strict=False):
            if unit.rule == rule:
                plan = unit.inner._plan
                plan.skipped, plan.norms, plan.grad_norm = values

    def set_values(self, opt: Any, changed: list[int]) -> bool:
        """Take on the values of these groups; False if one is now moved by another rule."""
        for index in changed:
            group = opt.param_groups[index]
            if rule_of(opt._peer, opt._rule_class, group) != self.rules[index] \
                    or group.get("constraint") is not self.by_group[index]:
                return False
        for index in changed:
            group = opt.param_groups[index]
            for unit in self.units:
                if index in unit.groups:
                    own = unit.inner.groups[unit.groups.index(index)]
                    for name, value in values_of(type(opt).__name__, opt._peer, unit.rule.cls, group).items():
                        if own._values[name] != value:
                            unit.inner._set_hyper([own], name, value)
            self.watch.take(index)
        return True

    def catch_up(self) -> list[torch.Tensor]:
        """Let every row have all updates; the parameters that had not."""
        return [param for unit in self.units for param in unit.tensors.catch_up()]

    def catch_up_rows(self, param: torch.Tensor, rows: Any, owner: str) -> list[torch.Tensor]:
        """Let some rows of a parameter have all updates; the parameter, if one had not."""
        for unit in self.units:
            for i, own in enumerate(unit.params):
                if own is param:
                    tensor = unit.inner._plan.tensors[i]
                    rows = torch.as_tensor(rows).detach().cpu().numpy()
                    rows = checked_rows(rows, tensor, f"{owner}: catch_up of parameter {tensor.name}")
                    return [param] if unit.tensors.catch_up_rows(i, rows) else []
        return []

    def forget_gradients(self) -> None:
        """Keep no gradient of a step that was not done."""
        for unit in self.units:
            unit.tensors.forget()

    def steps(self) -> dict[int, float]:
        """How many updates each parameter has had."""
        return {id(param): count for unit in self.units
                for param, count in zip(unit.params, unit.steps.tolist(), strict=True)}


def names_of(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The name of each parameter: as it was given, or its number."""
    given = [list(map(str, group["param_names"])) if "param_names" in group else None for group in groups]
    flat = [name for names in given if names is not None for name in names]
    if all(names is not None and len(names) == len(group["params"])
           for names, group in zip(given, groups, strict=True)) and len(set(flat)) == len(flat):
        return [names or [] for names in given]
    first, numbered = 0, []
    for group in groups:
        numbered.append([str(first + k) for k in range(len(group["params"]))])
        first += len(group["params"])
    return numbered
