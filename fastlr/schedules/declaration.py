"""The fields of a schedule's class body, one per argument.

    class cosine(Curve):
        lr: float = rate()
        steps: int = positive()
        final: float = rate(default=0.0)

is at once the signature, the bounds, the repr, the dict and the documentation. (Not `dataclasses`: it compiles source
text for each class, which takes half a millisecond of import per schedule.)
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, nan
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from fastlr._engine.compiled_schedule import CompiledSchedule

if TYPE_CHECKING:
    from inspect import Signature

REQUIRED: Any = object()


class Field:
    """One argument: its keyword, its default, and which values it takes. Read from an instance, its value."""

    __slots__ = ("convert", "default", "holds", "in_struct", "keyword", "position", "requirement", "shown_by_default")

    def __init__(
        self,
        requirement: str,
        convert: Callable[[Any], Any],
        holds: Callable[[Any], bool] = lambda value: True,
        *,
        default: Any = REQUIRED,
        alias: str | None = None,
        in_struct: bool = False,
        shown_by_default: bool = True,
    ) -> None:
        self.requirement, self.convert, self.holds = requirement, convert, holds
        self.default, self.keyword, self.in_struct = default, alias or "", in_struct
        self.shown_by_default = shown_by_default
        self.position = -1

    def __set_name__(self, owner: type, name: str) -> None:
        self.keyword = self.keyword or name

    def __get__(self, schedule: Any, owner: type) -> Any:
        return self if schedule is None else schedule._values[self.position]

    def accept(self, who: str, value: Any) -> Any:
        """The value as it is kept; TypeError or ValueError if it may not be."""
        kept = self.convert(value)
        if kept is NotImplemented:
            raise TypeError(f"{who}: {self.keyword} must be {self.requirement}, got {value!r}")
        if not self.holds(kept):
            raise ValueError(f"{who}: {self.keyword} must be {self.requirement}, got {value!r}")
        return kept


def _float(value: Any) -> Any:
    if type(value) is float:           # (the usual types first: the abstract classes take 1 us)
        return value + 0.0
    if not isinstance(value, Real) or isinstance(value, bool):
        return NotImplemented
    try:
        return float(value) + 0.0      # -0.0 becomes 0.0, so that equal schedules print alike
    except OverflowError:
        return inf


def _int(value: Any) -> Any:
    if type(value) is int:
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    number = _float(value)
    return number if number is NotImplemented else int(number) if number.is_integer() else nan


def rate(*, default: Any = REQUIRED) -> Any:
    """A rate: finite and not negative."""
    return Field("a finite number >= 0", _float, lambda x: 0 <= x < inf, default=default, in_struct=True)


def within(low: float, high: float, *, default: Any = REQUIRED) -> Any:
    """A number in [low, high)."""
    requirement = f"a finite number >= {low}" if high == inf else f"in [{low}, {high})"
    return Field(requirement, _float, lambda x: low <= x < high, default=default, in_struct=True)


def above(low: float, *, default: Any = REQUIRED) -> Any:
    """A finite number > low."""
    return Field(f"a finite number > {low}", _float, lambda x: low < x < inf, default=default, in_struct=True)


def share(*, default: Any = REQUIRED) -> Any:
    """A number in [0, 1]."""
    return Field("in [0, 1]", _float, lambda x: 0 <= x <= 1, default=default, in_struct=True)


def number(*, default: Any = REQUIRED) -> Any:
    """A finite number of either sign."""
    return Field("a finite number", _float, lambda x: -inf < x < inf, default=default, in_struct=True)


def positive(*, default: Any = REQUIRED, alias: str | None = None) -> Any:
    """A count: an integer from 1 to 2**53, beyond which a double cannot count; None if that is the default."""
    def convert(value: Any) -> Any:
        return None if value is default is None else _int(value)

    def holds(n: int | None) -> bool:
        return n is None or 1 <= n <= 2**53
    requirement = "a positive integer" + (" or None" if default is None else "")
    return Field(requirement, convert, holds, default=default, alias=alias, in_struct=True)


def natural(*, default: Any = REQUIRED) -> Any:
    """A count that may be 0."""
    return Field("an integer >= 0", _int, lambda n: 0 <= n <= 2**53, default=default)


def seed(*, default: Any = REQUIRED) -> Any:
    """The seed of random numbers: an integer of 64 bits."""
    return Field("an integer from 0 to 2**64 - 1", _int, lambda n: 0 <= n < 2**64, default=default)


def count(who: str, keyword: str, value: Any) -> int:
    """An argument of a method that must be a positive integer."""
    field: Field = positive(alias=keyword)
    kept: int = field.accept(who, value)
    return kept


def integer(*, default: Any = REQUIRED) -> Any:
    """An integer of either sign, up to 2**53."""
    return Field("an integer", _int, lambda n: -(2**53) <= n <= 2**53, default=default)


def flag(*, default: Any = REQUIRED, shown_by_default: bool = True) -> Any:
    """True or False."""
    def convert(value: Any) -> Any:
        return value if isinstance(value, bool) else NotImplemented
    return Field("True or False", convert, default=default, in_struct=True, shown_by_default=shown_by_default)


def one_of(*options: str, default: Any = REQUIRED) -> Any:
    """One of these words."""
    return Field(
        " or ".join(repr(option) for option in options),
        lambda word: word if isinstance(word, str) else NotImplemented,
        lambda word: word in options,
        default=default,
    )


def nested() -> Any:
    """Another schedule."""
    return Field("a schedule", lambda x: x if isinstance(x, CompiledSchedule) else NotImplemented)


def several_schedules() -> Any:
    """One schedule or more, in a sequence."""
    def convert(value: Any) -> Any:
        several = isinstance(value, Sequence) and all(isinstance(x, CompiledSchedule) for x in value)
        return tuple(value) if several else NotImplemented
    return Field("a sequence of schedules", convert, lambda several: len(several) > 0)


def several_rates() -> Any:
    """One rate or more, in a sequence."""
    def convert(value: Any) -> Any:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return NotImplemented
        several = tuple(_float(x) for x in value)
        return NotImplemented if NotImplemented in several else several

    def holds(several: tuple[float, ...]) -> bool:
        return len(several) > 0 and all(0 <= x < inf for x in several)
    return Field("a sequence of finite numbers >= 0", convert, holds)


def boundaries() -> Any:
    """Strictly increasing positive integers."""
    def convert(value: Any) -> Any:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return NotImplemented
        several = tuple(_int(n) for n in value)
        return NotImplemented if NotImplemented in several else several

    def holds(several: tuple[int, ...]) -> bool:
        return all(low < n <= 2**53 for low, n in zip((0, *several), several, strict=False))
    return Field("a strictly increasing sequence of positive integers", convert, holds)


def bind(
    who: str, fields: Mapping[str, Field], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The values of a call's arguments, in order."""
    if len(args) > len(fields):
        raise TypeError(f"{who}: takes at most {len(fields)} arguments, got {len(args)}")
    if not kwargs and len(args) == len(fields):        # (as methods such as `warmup` call it)
        return tuple([field.accept(who, value) for field, value in zip(fields.values(), args, strict=True)])
    given = dict(zip(fields, args, strict=False))
    for keyword, value in kwargs.items():
        if keyword not in fields:
            raise TypeError(f"{who}: {unknown('argument', keyword, fields)}")
        if keyword in given:
            raise TypeError(f"{who}: {keyword} was given twice")
        given[keyword] = value
    if len(given) < len(fields):
        missing = [k for k, field in fields.items() if k not in given and field.default is REQUIRED]
        if missing:
            raise TypeError(f"{who}: missing {', '.join(missing)}")
    return tuple([field.accept(who, given[k]) if k in given else field.default for k, field in fields.items()])


#: What people write, and what it is called here (the first of them that there is), or how it is done.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("T_max", "T_0", "total_steps", "total_iters", "decay_steps", "num_training_steps", "num_steps",
                     "max_steps", "transition_steps"), ("steps",)),
    **dict.fromkeys(("learning_rate", "base_lr", "max_lr", "peak_lr", "init_value", "initial_learning_rate", "init_lr",
                     "peak_value"), ("lr",)),
    **dict.fromkeys(("eta_min", "min_lr", "end_value", "end_learning_rate", "end_lr", "min_value"),
                    ("final", "min_scale")),
    **dict.fromkeys(("gamma", "decay_rate"), ("factor", "drop", "decay")),
    **dict.fromkeys(("step_size", "drop_every"), ("every", "interval")),
    **dict.fromkeys(("milestones", "boundaries"), ("at",)),
    **dict.fromkeys(("monitor", "metric"), ("mode",)),
}
WARMUP = ("warmup", "warmup_steps", "num_warmup_steps", "warmup_iters", "warmup_epochs", "warmup_target")


def unknown(what: str, word: Any, known: Mapping[str, Any]) -> str:
    """`unknown argument 'step' (did you mean 'steps'?)`"""
    from difflib import get_close_matches

    if word in WARMUP and what == "argument":
        return f"unknown {what} {word!r} (every schedule has it as a method: .warmup(steps))"
    for name in OTHER_NAMES.get(str(word), ()):
        if name in known:
            return f"unknown {what} {word!r} (did you mean {name!r}?)"
    near = get_close_matches(str(word), known, n=1, cutoff=0)
    return f"unknown {what} {word!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


class LazySignature:
    """`inspect.signature(cosine)`, made at the first use."""

    def __get__(self, instance: Any, owner: Any) -> Signature:
        from inspect import Parameter, Signature

        if instance is not None:
            return Signature([Parameter("t", Parameter.POSITIONAL_ONLY)])
        return Signature([
            Parameter(
                keyword,
                Parameter.POSITIONAL_OR_KEYWORD,
                default=Parameter.empty if field.default is REQUIRED else field.default,
            )
            for keyword, field in owner._fields.items()
        ])
