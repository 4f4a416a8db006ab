"""What stands in an optimizer's class body: hyper-parameters, initial states, options, and the conventions of peers."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from inspect import Parameter, Signature

Hyper = float | Callable[[int], float]


class HyperParameter:
    """A number or schedule in [low, high): read and set on the optimizer for all groups, on a group for that one."""

    __slots__ = ("default", "high", "low", "name")

    def __init__(self, default: float, low: float, high: float) -> None:
        self.default, self.low, self.high = default, low, high
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self.default
        first, *rest = (getattr(group, self.name) for group in optimizer.groups)
        if any(value is not first and value != first for value in rest):
            raise ValueError(f"{owner.__name__}: {self.name} differs between groups; read opt.groups[i].{self.name}")
        return first

    def __set__(self, optimizer: Any, value: Hyper) -> None:
        optimizer._set_hyper(optimizer.groups, self.name, value)

    def checked(self, value: Any, owner: str) -> Hyper:
        """The value as a float, or the schedule that gives it; ValueError out of bounds, TypeError if neither."""
        if callable(value) and not isinstance(value, type):
            schedule: Callable[[int], float] = value
            return schedule
        if isinstance(value, bool) or not (isinstance(value, Real) or hasattr(value, "__float__")) \
                or isinstance(value, str | type):
            cure = "; a schedule in words is read by fastlr.schedules.parse" if isinstance(value, str) else \
                f"; call it: {value.__name__}(...)" if isinstance(value, type) else ""
            got = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
            raise TypeError(f"{owner}: {self.name} must be a number or a schedule, got {got}{cure}")
        number = float(value)
        if not self.low <= number < self.high:
            raise ValueError(f"{owner}: {self.name} must be in [{self.low:g}, {self.high:g}), got {value}")
        return number


class ConstructorOnly:
    """What an optimizer is given once, when it is made, and can be read afterwards."""

    __slots__ = ("default", "name")

    def __init__(self, default: Any) -> None:
        self.default, self.name = default, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self.default if optimizer is None else optimizer._options[self.name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        raise AttributeError(f"{type(optimizer).__name__}: {self.name} is for the constructor, it cannot be set later")

    def checked(self, value: Any, owner: str) -> Any:
        """The value; TypeError or ValueError if it is none that may be given."""
        raise NotImplementedError


class InitialState(ConstructorOnly):
    """What a slot holds before the first update: a number in [low, high)."""

    __slots__ = ("high", "low", "slot")

    def __init__(self, slot: str, default: float, low: float, high: float) -> None:
        super().__init__(default)
        self.slot, self.low, self.high = slot, low, high

    def checked(self, value: Any, owner: str) -> float:
        """The value as a float; ValueError out of bounds, TypeError if it is no number."""
        bounds = HyperParameter(self.default, self.low, self.high)
        bounds.name = self.name
        if callable(value):
            raise TypeError(f"{owner}: {self.name} must be a number, as it is used once, got {value!r}")
        return float(bounds.checked(value, owner))     # type: ignore[arg-type]


class Option(ConstructorOnly):
    """One of `choices`, or what `check` takes and gives back; `takes` is the type of that."""

    __slots__ = ("check", "choices", "takes")

    def __init__(self, default: Any, choices: tuple[Any, ...], check: Callable[[Any], Any] | None = None,
                 takes: Any = None) -> None:
        super().__init__(default)
        self.choices, self.check, self.takes = choices, check, takes

    def annotation(self, declared: Any) -> Any:
        """The type of the option: its choices, and where there is a check, what the class body declares besides."""
        if {*map(type, self.choices)} == {bool}:
            return bool
        if self.check is None:
            return Literal[self.choices]
        if all(type(choice) in (int, float) for choice in self.choices) or self.choices == (None,):
            return declared                # (defaults rather than choices)
        return Literal[self.choices] | (declared if self.takes is None else self.takes)

    def checked(self, value: Any, owner: str) -> Any:
        """The value; ValueError if it is none of those there are."""
        if isinstance(value, str | bool | int | None) and any(value is x or (value == x and type(value) is type(x))
                                                              for x in self.choices):
            return value
        if self.check is not None:
            try:
                return self.check(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{owner}: {self.name} {error}, got {value!r}") from None
        close = nearest(value, [x for x in self.choices if isinstance(x, str)]) if isinstance(value, str) else ""
        raise ValueError(f"{owner}: {self.name} must be one of {', '.join(map(repr, self.choices))}, "
                         f"got {value!r}{close}")


class Convention:
    """A rule as a peer has it: its name, how it decays, and the defaults that are not the class's.

    Not `accumulates`: the class's shares of an accumulated gradient (see `Optimizer.accumulate`) are not this rule's.
    """

    __slots__ = ("accumulates", "decay", "defaults", "rule")

    def __init__(self, rule: str, decay: str | None = None, accumulates: bool = True, **defaults: Any) -> None:
        self.rule, self.decay, self.accumulates, self.defaults = rule, decay, accumulates, defaults


class SignatureOfClass:
    """The signature that a class body declares, made when it is first read; `common` says what all optimizers take."""

    __slots__ = ("common", "stages")

    def __init__(self, common: Callable[..., Any], stages: Callable[..., Any]) -> None:
        self.common, self.stages = common, stages

    def __get__(self, optimizer: Any, owner: Any) -> Signature:
        from inspect import Parameter, Signature, get_annotations

        annotations = {name: type_ for base in reversed(owner.__mro__) for name, type_ in get_annotations(base).items()}
        written = Signature.from_callable(self.common).parameters
        params = written["params"].replace(default=Parameter.empty)  # (the constructor reports its absence)
        if not owner.hypers:           # (a class that stands for no rule)
            return Signature([params, *list(written.values())[2:]])
        lr = Parameter("lr", Parameter.POSITIONAL_OR_KEYWORD, default=owner.hypers["lr"].default, annotation=Hyper)
        own = [Parameter(name, Parameter.KEYWORD_ONLY, default=hyper.default, annotation=Hyper)
               for name, hyper in owner.hypers.items() if name != "lr"]
        own += [Parameter(name, Parameter.KEYWORD_ONLY, default=state.default, annotation=float)
                for name, state in owner.initial_states.items()]
        own += [Parameter(name, Parameter.KEYWORD_ONLY, default=option.default,
                          annotation=option.annotation(type_of(annotations.get(name, "Any"))))
                for name, option in owner.options.items()]
        common = [p for p in written.values() if p.kind is Parameter.KEYWORD_ONLY]
        stages = Signature.from_callable(self.stages).parameters.values()
        around = [stage.replace(kind=Parameter.KEYWORD_ONLY) for stage in stages]
        return Signature([params, lr, *own, *common, *around])


def own_arguments(declared: Mapping[str, Any], called: Callable[[str], str] = str) -> list[Parameter]:
    """What a class made of a rule's declarations takes: the rate first, by place or name, the rest by name alone."""
    from inspect import Parameter

    return [Parameter(called(name), Parameter.POSITIONAL_OR_KEYWORD if name == "lr" else Parameter.KEYWORD_ONLY,
                      default=declared[name].default) for name in sorted(declared, key=lambda name: name != "lr")]


#: What every optimizer takes beside its hyper-parameters, in a line each; `Optimizer` has the whole of it.
COMMON = {
    "params": "an array, a sequence, a mapping, any nesting of these, or groups {'params': ..., 'lr': ...}",
    "grads": "gradient buffers that are bound once; step() then takes none",
    "clip_value": "bounds each gradient element to [-clip_value, clip_value]",
    "clip_norm": "the largest norm of all gradients together",
    "clip_tensor_norm": "the largest norm of each gradient",
    "clip_adaptive": "adaptive clipping (AGC) of each unit; also clip_adaptive_eps, clip_adaptive_axis",
    "clip_zscore": "clips norms that stand out among past ones; also clip_zscore_alpha, clip_zscore_warmup",
    "nonfinite": "'propagate', 'skip' or 'raise', where a gradient holds NaN or infinity",
    "ema_decay": "keeps a running mean of the parameters, opt.ema",
    "decay": "how weight_decay works: 'coupled', 'decoupled', 'independent' or 'corrected' (then also lr_max)",
    "decay_mask": "which parameters decay",
    "lr_scale": "a factor of the learning rate for each tensor or element",
    "catch_up_rows": "rows that step_rows did not touch have those updates later, at the latest in catch_up()",
    "constraint": "where steps leave parameters: one of fastlr.constraints",
    "state_dtype": "how the state is stored: 'float32', 'float64', 'bfloat16', 'float16' or 'int8'",
    "rounding": "'nearest' or 'stochastic', of 16-bit values; also seed",
    "shadow": "keeps a 16-bit copy of the parameters, opt.shadow",
    "master": "'split': bfloat16 parameters that train as float32",
    "dtype": "'bfloat16' says that uint16 arrays hold its bits",
    "maximize": "ascend instead of descend",
    "convention": "'torch', 'optax', 'keras', ...: the rule as they have it, where they differ",
}


def common_keywords() -> str:
    """A paragraph for the docstring of each optimizer."""
    lines = "\n".join(f"        {name}: {text}." for name, text in COMMON.items())
    return f"\n    Keywords of every optimizer, which `fastlr.Optimizer` describes::\n\n{lines}\n    "


def type_of(annotation: Any) -> Any:
    """The type that a class body names: those that options have."""
    return {"int": int, "bool": bool, "float": float, "str": str}.get(annotation, Any)


def within(default: float, low: float = 0.0, high: float = inf) -> Any:
    """Declare a hyper-parameter with a default, required to lie in [low, high).

    >>> import fastlr
    >>> fastlr.within(0.9, 0, 1).checked(0.5, "Momentum")
    0.5
    """
    return HyperParameter(default, low, high)


def initial_state(slot: str, default: float, low: float = 0.0, high: float = inf) -> Any:
    """Declare the value that a slot holds before the first update."""
    return InitialState(slot, default, low, high)


def one_of(*choices: Any, check: Callable[[Any], Any] | None = None, takes: Any = None) -> Any:
    """Declare what is chosen once: the first is the default."""
    return Option(choices[0], choices, check, takes)


class KnownAttributes:
    """A result, whose attributes are those that its class declares: setting another would do nothing."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = type(self).__annotations__
        if name not in known:
            raise AttributeError(f"{type(self).__name__} has no {name!r}{nearest(name, known)}")
        object.__setattr__(self, name, value)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the closest known name, or nothing."""
    from difflib import get_close_matches

    folded = {each.lower(): each for each in known}
    close = get_close_matches(name.lower(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""
