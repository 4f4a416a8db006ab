"""Several optimizers as one: each moves the parameters whose names match its pattern."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf, isfinite
from typing import Any, Literal

import numpy as np

from .._engine.tensors import Array, Tensor
from .declaration import nearest
from .groups import Group, are_groups, name_of
from .loss_scale import LossScale
from .resumable import (
    Assign,
    Resumable,
    bound_parameters,
    checked_gradient,
    flattened,
    parameters_written,
    prepared,
    public_names,
    set_attribute,
    tensors_of,
    unwrapped,
)
from .sharpness import norm_of
from .state import Prepared, completed, count
from .structure import Structure, opened

#: Which parameters: a pattern of names with *, ? and [...], several of them, or a function (name, array) -> bool.
Pattern = str | tuple[str, ...] | Callable[[str, Any], bool]
Factory = Callable[[dict[str, Any]], Any]

REST = "rest"


class Partition(Resumable):
    """Several optimizers as one: each moves the parameters whose names match its pattern, all in one step.

    One state by name, one file, one norm of all gradients. Each optimizer steps as it would alone, bit for bit (where
    `clip_norm` or a loss scale does not change the gradients).

    Parameters
    ----------
    params
        An array, a sequence, a mapping or any nesting of these, as for every optimizer; no groups. Names of nested
        parameters are joined by "/".
    parts
        A mapping from patterns to what makes an optimizer of a mapping name -> array: a class, a
        ``functools.partial`` with its hyper-parameters, or any function; it may return a wrapper. A pattern is a text
        in which ``*`` matches any characters ("/" too), ``?`` one, ``[ab]`` one of some; a tuple of such; or a
        function ``(name, array) -> bool``.
    rest
        Makes the optimizer of the parameters that match no pattern. None: there must be none.
    clip_norm
        Scales all gradients down together where their Euclidean norm is larger, by clip_norm / (norm + 1e-6), over all
        parts. `opt.grad_norm` then has the norm. (``clip_norm`` given to one part is over its own gradients.)
    nonfinite
        "propagate", "skip" or "raise", over all parts, as `Optimizer` says. Parts cannot have one of their own.
    grads
        Gradient buffers, bound once: `step` then needs no argument.

    As ``optax.partition`` and torch's recipe of several optimizers in a list, which have no common clipping, skipping
    or file.

    Raises
    ------
    TypeError, ValueError
        For a pattern that matches nothing, and a parameter that matches none or several. A step that raises has
        changed nothing: the gradients of all parts are checked before the first part moves.

    >>> import numpy as np, fastlr
    >>> from functools import partial
    >>> params = {"layer": {"w": np.ones((4, 4)), "b": np.zeros(4)}, "embedding": np.ones((10, 4))}
    >>> opt = fastlr.Partition(params, {"layer/w": partial(fastlr.Muon, lr=0.02)},
    ...                        rest=partial(fastlr.AdamW, lr=fastlr.schedules.cosine(1e-3, steps=100)))
    >>> opt.step({"layer": {"w": np.ones((4, 4)), "b": np.ones(4)}, "embedding": np.ones((10, 4))})
    >>> opt.t, sorted(opt.state["layer/b"]), opt.parts["layer/w"].lr
    (1, ['m', 'v'], 0.02)
    >>> [(part, group["lr"]) for part, group in opt.current]
    [('layer/w', 0.02), ('rest', 0.0009997532801828658)]
    """

    _can_be_wrapped = True
    _optional = ("skipped",)

    def __init__(self, params: Any, parts: Mapping[Pattern, Factory], rest: Factory | None = None, *,
                 clip_norm: float | None = None, nonfinite: Literal["propagate", "skip", "raise"] = "propagate",
                 grads: Any = None) -> None:
        who = type(self).__name__
        if are_groups(params):
            raise TypeError(f"{who}: takes parameters by name, not groups; let a part be made with groups of its "
                            f"own, from the mapping that it is given")
        if not isinstance(parts, Mapping):
            raise TypeError(f"{who}: parts must map patterns to optimizers, got {type(parts).__name__}")
        container, arrays, watched = opened(params, who)
        self._structure = Structure(False, (container,), tuple(watched))
        self._paths = [path for path, _ in arrays]
        entries = {name_of(path, 0): array for path, array in arrays}
        if len(entries) != len(arrays):
            bound_parameters(params, who)          # (which says which name comes twice)
        self.clip_norm, self._nonfinite = clip_norm, checked_nonfinite(nonfinite)
        self._parts: dict[str, Any] = {}
        self._indices: list[list[int]] = []
        place = {name: k for k, name in enumerate(entries)}
        for label, (names, factory) in divided(entries, parts, rest, who).items():
            self._parts[label] = made(factory, {name: entries[name] for name in names}, label, who)
            self._indices.append([place[name] for name in names])
        if sum(unwrapped(part).needs_curvature for part in self._parts.values()) > 1:
            raise TypeError(f"{who}: one part alone can take estimates of the curvature, as its step may refuse them")
        self._in_order = self._sorted()
        self._skipped = 0
        self._grad_norm: float | None = None
        self._bound: list[Any] | None = None
        if grads is not None:
            self.bind(grads)
        for label, part in self._parts.items():
            unwrapped(part)._part = label

    def _sorted(self) -> list[Tensor]:
        """The tensors in the order of the parameters; errors call their gradients by where they are."""
        found: dict[int, Tensor] = {}
        for index, part in zip(self._indices, self._parts.values(), strict=True):
            found |= zip(index, tensors_of(part), strict=True)
        for k, path in enumerate(self._paths):
            found[k].prefix, found[k].path = "grads", path
        return [found[k] for k in range(len(self._paths))]

    # What there is

    @property
    def parts(self) -> dict[str, Any]:
        """The optimizers by the pattern of their parameters, "rest" for the rest; hyper-parameters are set on them."""
        return dict(self._parts)

    @property
    def t(self) -> int:
        """Updates done."""
        return int(next(iter(self._parts.values())).t)

    @property
    def skipped(self) -> int:
        """Steps that ``nonfinite="skip"`` did not take."""
        return self._skipped

    @property
    def grad_norm(self) -> float | None:
        """The norm of the latest step's gradients, unscaled; None where nothing measured it."""
        return self._grad_norm

    @property
    def clip_norm(self) -> float | None:
        """The largest norm of all gradients together."""
        return self._clip_norm

    @clip_norm.setter
    def clip_norm(self, value: float | None) -> None:
        if value is not None and (isinstance(value, bool | str) or not 0 < value < inf):
            raise ValueError(f"{type(self).__name__}: clip_norm must be positive and finite, got {value!r}")
        self._clip_norm = None if value is None else float(value)

    @property
    def nonfinite(self) -> str:
        """What a step does when a gradient holds NaN or infinity."""
        return self._nonfinite

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of all parts, in their order."""
        return tuple(group for part in self._parts.values() for group in part.groups)

    @property
    def state(self) -> dict[str, Any]:
        """The state of each parameter by name, of all parts: ``opt.state[name][slot]``."""
        return {name: slots for part in self._parts.values() for name, slots in part.state.items()}

    @property
    def params(self) -> dict[str, Array]:
        """The parameters by name."""
        return {tensor.name: tensor.array for tensor in self._in_order}

    @property
    def current(self) -> list[tuple[str, dict[str, float]]]:
        """The numbers that the next step will use: for each group, its part and its hyper-parameters."""
        return [(label, group.current) for label, part in self._parts.items() for group in part.groups]

    def measure(self, on: bool = True) -> None:
        """Measure each tensor in every step, as `Optimizer.measure`."""
        for part in self._parts.values():
            part.measure(on)

    @property
    def measures(self) -> bool:
        """Whether each tensor is measured."""
        return all(part.measures for part in self._parts.values())

    @property
    def measured(self) -> dict[str, Any]:
        """Norms of each tensor's gradient, update and values in the latest step, by name."""
        return {name: found for part in self._parts.values() for name, found in part.measured.items()}

    def freeze(self, *what: Any) -> None:
        """Let parameters stay as they are, as `Optimizer.freeze`."""
        self._set_frozen("freeze", what)

    def unfreeze(self, *what: Any) -> None:
        """Let frozen parameters move again; all of them if none are given."""
        self._set_frozen("unfreeze", what or ("*",))

    def _set_frozen(self, call: str, what: tuple[Any, ...]) -> None:
        names: list[str] = []
        known, groups = [tensor.name for tensor in self._in_order], self.groups
        for each in what:
            if isinstance(each, Group) and each not in groups:
                raise ValueError(f"{type(self).__name__}: {call}: this group is of another optimizer")
            found = list(each.params) if isinstance(each, Group) else [
                name for name in known if fnmatchcase(name, each)]
            if not found:
                raise ValueError(f"{type(self).__name__}: {call}: {each!r} matches no parameter"
                                 f"{nearest(str(each), known)}")
            names += found
        for part in self._parts.values():
            unwrapped(part)._require_own_values()
        for part in self._parts.values():
            own = [tensor.name for tensor in tensors_of(part) if tensor.name in names]
            if own:
                getattr(unwrapped(part), call)(*(literal(name) for name in own))

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the parameters that are frozen."""
        return tuple(name for part in self._parts.values() for name in unwrapped(part).frozen)

    @property
    def needs_loss(self) -> bool:
        """Whether a part's step is given the loss."""
        return any(unwrapped(part).needs_loss for part in self._parts.values())

    @property
    def _saved_parts(self) -> list[Any]:
        return list(self._parts.values())

    @property
    def _master(self) -> Any:
        return next((unwrapped(part)._master for part in self._parts.values() if unwrapped(part)._master), None)

    @property
    def _tensors(self) -> list[Tensor]:
        return self._in_order

    def _parameters_written(self) -> None:
        for part in self._parts.values():
            parameters_written(part)

    # Stepping

    def bind(self, grads: Any) -> None:
        """Read these gradient buffers in every `step()` that is given none: their memory must stay where it is."""
        self._bound = list(self._arranged(grads))

    def _arranged(self, grads: Any, label: str = "grads") -> list[Any]:
        """Gradients in the order of the tensors."""
        return self._structure.arranged(grads, type(self).__name__, label)

    def step(self, grads: Any = None, grad_scale: float | LossScale = 1.0, zero_grads: bool = False, *,
             loss: float | None = None, curvature: Any = None) -> None:
        """Update every parameter in place, as `Optimizer.step`.

        `loss` is passed to the parts whose rule needs it, `curvature` (in the structure of the gradients) to those
        that take estimates of it.
        """
        who = type(self).__name__
        for watched in self._structure.watched:
            key = watched.replaced()
            if key is not None:
                raise RuntimeError(f"{who}: {watched.replaced_by(key)}, or make a new optimizer")
        if grads is None and self._bound is None:
            raise TypeError(f"{who}: step() needs gradients: pass them, or bind them with grads= in the constructor")
        flat = self._bound_gradients() if grads is None else self._arranged(grads)
        scale = grad_scale.value if isinstance(grad_scale, LossScale) else grad_scale
        if isinstance(grad_scale, LossScale) and self._nonfinite != "skip":
            raise ValueError(f"{who}: a LossScale needs nonfinite='skip', got {self._nonfinite!r}; give it to the "
                             f"constructor")
        lists = [[flat[k] for k in index] for index in self._indices]
        rules = [unwrapped(part) for part in self._parts.values()]
        for rule, own in zip(rules, lists, strict=True):
            rule._structure.refuse_frozen(own, who)
            rule._plan.examine(own, scale, zero_grads)
        keywords = self._keywords(loss, curvature)
        goes, clipping = self._measured(flat, scale)
        if goes:
            for rule in rules:
                rule._plan.clipped_by = clipping / scale
            self._step_parts(lists, clipping, zero_grads, keywords)
        else:
            self._skipped += 1
            for g in flat if zero_grads else ():
                if g is not None:
                    np.asarray(g)[...] = 0
        if isinstance(grad_scale, LossScale):
            grad_scale.update(not goes)

    def _bound_gradients(self) -> list[Any]:
        """Bound gradients, None for parameters that are frozen."""
        bound, frozen = self._bound or [], self.frozen
        return [None if tensor.name in frozen else g for tensor, g in zip(self._in_order, bound, strict=True)] \
            if frozen else bound

    def _keywords(self, loss: float | None, curvature: Any) -> list[dict[str, Any]]:
        """What more the step of each part is given."""
        who = type(self).__name__
        if loss is not None and not self.needs_loss:
            raise TypeError(f"{who}: no part takes a loss; leave it out")
        if self.needs_loss:
            if loss is None or isinstance(loss, bool | str) or not hasattr(loss, "__float__"):
                raise TypeError(f"{who}: step needs loss=, a number, as a part takes it, got {loss!r}")
            if not isfinite(loss):
                raise ValueError(f"{who}: loss must be finite, got {loss}; leave such a step out")
        estimates = None if curvature is None else self._arranged(curvature, "curvature")
        found = []
        for part, index in zip(self._parts.values(), self._indices, strict=True):
            rule = unwrapped(part)
            more: dict[str, Any] = {}
            if rule.needs_loss:
                more["loss"] = loss
            if rule.needs_curvature and estimates is not None:
                more["curvature"] = rule._structure.arranged_back([estimates[k] for k in index])
            found.append(more)
        return found

    def _measured(self, flat: list[Any], scale: float) -> tuple[bool, float]:
        """Whether the step is done, and by what it divides the gradients."""
        if self._clip_norm is None and self._nonfinite == "propagate":
            return True, scale
        given = [(tensor, g) for tensor, g in zip(self._in_order, flat, strict=True) if g is not None]
        arrays = [flattened(checked_gradient(tensor, g)) for tensor, g in given]     # type: ignore[arg-type]
        norm = norm_of(arrays, arrays, 0.0, False) / scale
        if not isfinite(norm) and self._nonfinite == "raise":
            tensor = next((tensor for (tensor, _), g in zip(given, arrays, strict=True) if not np.isfinite(g).all()),
                          self._in_order[0])
            raise FloatingPointError(f"{tensor.label}: holds NaN or infinity at t = {self.t}; nothing was changed")
        if self._clip_norm is not None and self._clip_norm < norm + 1e-6 < inf:
            scale *= (norm + 1e-6) / self._clip_norm
            for part in self._parts.values():          # (before the first of them moves)
                unwrapped(part)._plan.checked_scale(scale)
        self._grad_norm = norm
        return isfinite(norm) or self._nonfinite != "skip", scale

    def _step_parts(self, lists: list[list[Any]], scale: float, zero_grads: bool,
                    keywords: list[dict[str, Any]]) -> None:
        """Step every part; an interrupt or a lack of memory between two of them does not leave one behind."""
        # (what may refuse its arguments comes first)
        parts = sorted(zip(self._parts.values(), lists, keywords, strict=True),
                       key=lambda each: not unwrapped(each[0]).needs_curvature)
        before = [part.t for part, *_ in parts]

        def step() -> None:
            for (part, own, more), t in zip(parts, before, strict=True):
                if part.t == t:
                    # (a wrapper may step with copies of the gradients)
                    zeroes = zero_grads and part.inner is None if isinstance(part, Resumable) else zero_grads
                    grads = unwrapped(part)._structure.arranged_back(own)
                    part.step(grads, grad_scale=scale, zero_grads=zeroes, **more)
                    for g in own if zero_grads and not zeroes else ():
                        if g is not None:
                            np.asarray(g)[...] = 0

        completed(step)

    def step_rows(self, name: str, rows: Any, grads: Any, grad_scale: float = 1.0, *, ends_step: bool = False) -> None:
        """Update some rows of one parameter, as `Optimizer.step_rows`; the step ends with the next `step`."""
        if ends_step:
            raise ValueError(f"{type(self).__name__}: step_rows cannot end the step of other parts; end it with step, "
                             f"whose gradients may be None")
        self._part_of(name).step_rows(name, rows, grads, grad_scale, ends_step=False)

    def catch_up(self, name: str | None = None, rows: Any = None) -> None:
        """Let rows have the updates that `step_rows` did without them, as `Optimizer.catch_up`."""
        for part in self._parts.values() if name is None else (self._part_of(name),):
            unwrapped(part).catch_up(name, rows)

    def _part_of(self, name: str) -> Any:
        for part in self._parts.values():
            if any(tensor.name == name for tensor in tensors_of(part)):
                return part
        raise ValueError(f"{type(self).__name__}: no parameter {name!r}"
                         f"{nearest(str(name), [tensor.name for tensor in self._in_order])}")

    def accumulate(self, grads: Any = None, grad_scale: float = 1.0, zero_grads: bool = False) -> None:
        """Refused: not every part sees gradients through its moments alone."""
        raise TypeError(f"{type(self).__name__}: accumulate is for one optimizer; use GradientAccumulation around this")

    def add_group(self, params: Any, **hyper: Any) -> Any:
        """Refused: which part is meant is not known."""
        raise TypeError(f"{type(self).__name__}: cannot take more parameters; make a new one, and load the state of "
                        f"this with strict=False")

    # State

    def _plain_state(self) -> dict[str, Any]:
        plain = {"parts": [description(part) for part in self._parts.values()], "labels": list(self._parts)}
        return plain | ({"skipped": self._skipped} if self._skipped else {})

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, by name, as copies: "parts" has the state of each optimizer."""
        d = self._described()
        return d | {"state": {}, "parts": [part.state_dict() for part in self._parts.values()]}

    def _prepared(self, d: Mapping[str, Any], strict: bool) -> Prepared:
        who = f"{type(self).__name__}.load_state_dict"
        parts = d.get("parts") if isinstance(d, Mapping) else None
        if not isinstance(parts, Sequence) or len(parts) != len(self._parts):
            raise ValueError(f"{who}: expected the states of {len(self._parts)} parts, got "
                             f"{len(parts) if isinstance(parts, Sequence) else parts!r}")
        own = super()._prepared({**d, "state": d.get("state", {})}, strict)
        inner = [prepared(part, saved, strict) for part, saved in zip(self._parts.values(), parts, strict=True)]

        def write() -> None:
            for each in inner:
                each.write()
            own.write()

        return Prepared([plan for each in inner for plan in each.plans], write,
                        own.differences + [text for each in inner for text in each.differences])

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        skipped = count(d.get("skipped", 0), who, "skipped")
        if d["labels"] != list(self._parts):
            raise ValueError(f"{who}: expected the parts {list(self._parts)}, got {d['labels']!r}")

        def assign() -> None:
            self._skipped = skipped

        return assign

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and any(name in unwrapped(part).hypers for part in self._parts.values()):
            raise AttributeError(f"{type(self).__name__} has no {name!r} of its own: each part has one, as "
                                 f"opt[{next(iter(self._parts))!r}].{name}")
        if name == "_plan":
            raise AttributeError(f"{type(self).__name__}: what was called takes one optimizer; give it a part, as "
                                 f"opt[{next(iter(self._parts))!r}]")
        raise AttributeError(f"{type(self).__name__} has no {name!r}{nearest(name, public_names(self))}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] != "_" and not hasattr(type(self), name):
            self.__getattr__(name)
        set_attribute(self, name, value)

    def __getitem__(self, label: str) -> Any:
        if label not in self._parts:
            raise KeyError(f"{type(self).__name__}: no part {label!r}{nearest(str(label), self._parts)}")
        return self._parts[label]

    def __repr__(self) -> str:
        inside = ", ".join(f"{label!r}: {part!r}" for label, part in self._parts.items())
        return f"{type(self).__name__}({inside})"


def literal(name: str) -> str:
    """A pattern that matches this name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def checked_nonfinite(value: Any) -> str:
    if value not in ("propagate", "skip", "raise"):
        raise ValueError(f"Partition: nonfinite must be 'propagate', 'skip' or 'raise', got {value!r}")
    return str(value)


def divided(entries: Mapping[str, Any], parts: Mapping[Pattern, Factory], rest: Factory | None,
            who: str) -> dict[str, tuple[list[str], Factory]]:
    """The names of each part, by its label; ValueError where a pattern matches nothing, or a name none or several."""
    found: dict[str, tuple[list[str], Factory]] = {}
    taken: dict[str, str] = {}
    for pattern, factory in parts.items():
        label = label_of(pattern, who)
        if label in found or label == REST:
            raise ValueError(f"{who}: two parts are named {label!r}; give the functions different names")
        names = [name for name, array in entries.items() if matches(pattern, name, array)]
        if not names:
            close = nearest(label, entries)
            raise ValueError(f"{who}: the pattern {label!r} matches no parameter{close}")
        for name in names:
            if name in taken:
                raise ValueError(f"{who}: the parameter {name!r} matches two patterns, {taken[name]!r} and {label!r}; "
                                 f"let one of them match it")
            taken[name] = label
        found[label] = names, factory
    left = [name for name in entries if name not in taken]
    if left and rest is None:
        raise ValueError(f"{who}: the parameter {left[0]!r} matches no pattern; give rest= for those that match none")
    if rest is not None and not left:
        raise ValueError(f"{who}: every parameter matches a pattern; leave out rest")
    return found | ({REST: (left, rest)} if rest is not None else {})


def label_of(pattern: Any, who: str) -> str:
    if isinstance(pattern, str):
        return pattern
    if isinstance(pattern, tuple) and pattern and all(isinstance(each, str) for each in pattern):
        return "|".join(pattern)
    if callable(pattern):
        return str(getattr(pattern, "__name__", type(pattern).__name__))
    raise TypeError(f"{who}: a pattern must be text, a tuple of texts or a function (name, array) -> bool, "
                    f"got {pattern!r}")


def matches(pattern: Pattern, name: str, array: Any) -> bool:
    if isinstance(pattern, str):
        return fnmatchcase(name, pattern)
    if isinstance(pattern, tuple):
        return any(fnmatchcase(name, each) for each in pattern)
    return bool(pattern(name, array))


def made(factory: Any, entries: dict[str, Any], label: str, who: str) -> Any:
    """The optimizer of one part; TypeError or ValueError if it is none that can be one."""
    from .base import Optimizer
    from .wrappers import Wrapper, accumulates

    if not callable(factory):
        raise TypeError(f"{who}: the part {label!r} must be an optimizer class or a function of the parameters, got "
                        f"{factory!r}")
    opt = factory(entries)
    if not isinstance(opt, Optimizer | Wrapper):
        raise TypeError(f"{who}: the part {label!r} must give a fastlr optimizer, gave {type(opt).__name__}")
    if isinstance(opt, Wrapper) and (opt._outermost or accumulates(opt)):
        raise TypeError(f"{who}: the part {label!r} is {type(opt).__name__}, whose step takes other arguments; put it "
                        f"around the {who}")
    if [tensor.name for tensor in tensors_of(opt)] != list(entries):
        raise ValueError(f"{who}: the part {label!r} must hold the parameters that it was given, by name and in order")
    if unwrapped(opt).nonfinite != "propagate":
        raise ValueError(f"{who}: the part {label!r} has nonfinite={unwrapped(opt).nonfinite!r}, which would leave it "
                         f"behind the others; give nonfinite to the {who}")
    return opt


def description(opt: Any) -> dict[str, Any]:
    """The state of an optimizer without its arrays (which `state_dict` copies)."""
    if not isinstance(opt, Resumable):
        described: dict[str, Any] = opt._described()
        return described
    opt._require_ready("save")
    return opt._described() if opt.inner is None else opt._described() | {"inner": description(opt.inner)}
