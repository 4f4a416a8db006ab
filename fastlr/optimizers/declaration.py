"""How an optimizer's class body declares its hyper-parameters."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

Hyper = float | Callable[[int], float]


class Bounded:
    """A hyper-parameter in [low, high): read and set on the optimizer for all groups, on a group for that one."""

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
        value = self.checked(value, type(optimizer).__name__)
        for group in optimizer.groups:
            setattr(group, self.name, value)

    def checked(self, value: Any, who: str) -> Hyper:
        """The value as a float, or the schedule that gives it; ValueError out of bounds, TypeError if neither."""
        if callable(value):
            schedule: Callable[[int], float] = value
            return schedule
        if isinstance(value, bool) or not (isinstance(value, Real) or hasattr(value, "__float__")) \
                or isinstance(value, str):
            raise TypeError(f"{who}: {self.name} must be a number or a schedule, got {value!r}")
        number = float(value)
        if not self.low <= number < self.high:
            raise ValueError(f"{who}: {self.name} must be in [{self.low:g}, {self.high:g}), got {value}")
        return number


class Start(Bounded):
    """What a slot holds before the first update: a number in [low, high), for the constructor only."""

    __slots__ = ("slot",)

    def __init__(self, slot: str, default: float, low: float, high: float) -> None:
        super().__init__(default, low, high)
        self.slot = slot


class Theirs:
    """A rule as somebody else has it: which one moves, how it decays, and the defaults that are not the class's."""

    __slots__ = ("decay", "defaults", "folds", "rule")

    def __init__(self, rule: str, decay: str | None = None, folds: bool = True,
                 defaults: dict[str, Any] | None = None) -> None:
        self.rule, self.decay, self.folds, self.defaults = rule, decay, folds, defaults or {}


class Choice:
    """What an optimizer is told once, when it is made: one of `given`, or what `check` takes and gives back."""

    __slots__ = ("check", "default", "given", "name")

    def __init__(self, default: Any, given: tuple[Any, ...], check: Callable[[Any], Any] | None = None) -> None:
        self.default, self.given, self.check = default, given, check
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self.default if optimizer is None else optimizer._chosen[self.name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        raise AttributeError(f"{type(optimizer).__name__}: {self.name} is for the constructor, it cannot be set later")

    def checked(self, value: Any, who: str) -> Any:
        """The value; ValueError if it is none of those there are."""
        if isinstance(value, str | bool | int | None) and any(value is x or (value == x and type(value) is type(x))
                                                              for x in self.given):
            return value
        if self.check is not None:
            try:
                return self.check(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{who}: {self.name} {error}, got {value!r}") from None
        close = nearest(value, [x for x in self.given if isinstance(x, str)]) if isinstance(value, str) else ""
        raise ValueError(f"{who}: {self.name} must be one of {', '.join(map(repr, self.given))}, got {value!r}{close}")


class Declared:
    """The signature that a class body declares, made when somebody looks; `shared` and `stages` say what all have."""

    __slots__ = ("shared", "stages")

    def __init__(self, shared: Callable[..., Any], stages: Callable[..., Any]) -> None:
        self.shared, self.stages = shared, stages

    def __get__(self, optimizer: Any, owner: Any) -> Signature:
        from inspect import Parameter, Signature

        written = Signature.from_callable(self.shared).parameters
        defaults = {name: declared.default for each in (owner.hypers, owner.starts, owner.choices)
                    for name, declared in each.items()}
        lr = Parameter("lr", Parameter.POSITIONAL_OR_KEYWORD, default=defaults.pop("lr"), annotation=Hyper)
        own = [Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Hyper)
               for name, default in defaults.items()]
        shared = [p for p in written.values() if p.kind is Parameter.KEYWORD_ONLY]
        stages = Signature.from_callable(self.stages).parameters.values()
        around = [stage.replace(kind=Parameter.KEYWORD_ONLY) for stage in stages]
        return Signature([written["params"], lr, *own, *shared, *around])


#: What stands in a class body.
DECLARED = frozenset({Bounded, Start, Choice})


def theirs(rule: str, decay: str | None = None, folds: bool = True, **defaults: Any) -> Theirs:
    """Declare a convention: its rule, and what it has by default otherwise than the class.

    Not `folds`: where the class's shares of an accumulated gradient are not this rule's.
    """
    return Theirs(rule, decay, folds, defaults)


def one_of(*given: Any, check: Callable[[Any], Any] | None = None) -> Any:
    """Declare what is chosen once: the first is the default."""
    return Choice(given[0], given, check)


def within(default: float, low: float = 0.0, high: float = inf) -> Any:
    """Declare a hyper-parameter with a default, required to lie in [low, high)."""
    return Bounded(default, low, high)


def start(slot: str, default: float, low: float = 0.0, high: float = inf) -> Any:
    """Declare the value with which a slot begins."""
    return Start(slot, default, low, high)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the closest known name, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
