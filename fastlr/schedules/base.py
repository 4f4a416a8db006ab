"""The base class of all schedules: made from its class body; composition, pictures, export, value semantics.

Composed schedules are looked up by name, as `from_dict` does: their classes derive from this one.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

import numpy as np

from fastlr._engine import compiled_schedule
from fastlr._engine.compiled_schedule import CURVE_FIELDS, CompiledSchedule

from .declaration import (
    Field,
    LazySignature,
    above,
    bind,
    boundaries,
    count,
    flag,
    integer,
    natural,
    nested,
    number,
    one_of,
    positive,
    rate,
    seed,
    several_rates,
    several_schedules,
    share,
    unknown,
    within,
)
from .registry import REGISTRY

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(
        rate, within, above, share, number, positive, natural, integer, seed, flag, one_of, nested,
        several_schedules, several_rates, boundaries,
    ),
)
class Schedule(CompiledSchedule):
    """A learning rate as a pure function of t, the number of updates already made.

    `s(t)` is a float for a number, a float64 array of the same shape for an array. A negative t is a
    ValueError. Schedules are immutable, comparable, hashable and picklable, and know nothing of any
    optimizer.

    Differs from torch, where a scheduler belongs to an optimizer and counts its own steps: a schedule is
    stateless, any t at any time.

    The class body of a schedule is its signature: one field per argument. Class keywords: `example`, an expression
    that shows it (`schedules.parse`); `abstract`, for a class that is only a base of others.
    """

    __slots__ = ("_values",)
    __array_ufunc__ = None             # so that NumPy leaves numpy_scalar * schedule to __rmul__
    __signature__ = LazySignature()
    _fields: ClassVar[Mapping[str, Field]] = {}
    _example: ClassVar[str | None] = None
    _values: tuple[Any, ...]

    def __init_subclass__(cls, abstract: bool = False, example: str | None = None) -> None:
        cls._example = example
        own = {field.keyword: field for field in vars(cls).values() if isinstance(field, Field)}
        cls._fields = {**cls._fields, **own}
        for position, field in enumerate(cls._fields.values()):
            field.position = position
        if not abstract:
            if cls.__name__ in REGISTRY:
                raise TypeError(f"there is a schedule named {cls.__name__!r} already")
            cls._prepare()
            REGISTRY[cls.__name__] = cls

    @classmethod
    def _prepare(cls) -> None:
        """Check the class before it is registered; TypeError."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Schedule:
        if REGISTRY.get(cls.__name__) is not cls:
            raise TypeError(f"{cls.__name__} is abstract: use one of list_schedules()")
        self: Schedule = super().__new__(cls)
        object.__setattr__(self, "_values", bind(cls.__name__, cls._fields, args, kwargs))
        self._set_nodes(self._compiled())
        return self

    def _compiled(self) -> CompiledSchedule:
        """The nodes that C evaluates."""
        raise NotImplementedError

    # composition

    def warmup(
        self, steps: int, start: float = 0.0, kind: Literal["linear", "exponential", "cosine"] = "linear",
        count_from_one: bool = False,
    ) -> Schedule:
        """Rise from `start` at t = 0 to this schedule's first rate at t = steps, then follow it."""
        return _made("warmup", self, steps, start, kind, count_from_one)

    def then(self, other: Schedule, at: int) -> Schedule:
        """This schedule before t = at; then the other one, which counts from its own 0."""
        return _made("join", (self, other), (at,))

    def __mul__(self, other: Schedule | float) -> Schedule:
        if isinstance(other, Schedule):
            return _made("product", self, other)
        if isinstance(other, Real):
            return _made("scale", self, other)
        return NotImplemented

    __rmul__ = __mul__

    def clip(self, lo: float, hi: float) -> Schedule:
        """This schedule, kept between `lo` and `hi`."""
        return _made("clip", self, lo, hi)

    def shift(self, n: int) -> Schedule:
        """This schedule n updates later, its first rate held until then; n < 0 skips its first -n updates."""
        return _made("shift", self, n)

    def every(self, k: int) -> Schedule:
        """This schedule with each rate held for k updates: epochs, or accumulated batches."""
        return _made("every", self, k)

    def k_decay(self, steps: int, k: float) -> Schedule:
        """This schedule of `steps` updates at the time steps * (t / steps)**k: slow first, fast later for k > 1."""
        return _made("k_decay", self, steps, k)

    def noise(self, amount: float, seed: int = 0) -> Schedule:
        """This schedule times random numbers of [1 - amount, 1 + amount), one per update."""
        return _made("noise", self, amount, seed)

    # pictures

    def sparkline(self, n: int, width: int = 60) -> str:
        """The first n rates as a line of text of at most `width` characters; a full block is the highest."""
        n, width = count("sparkline", "n", n), count("sparkline", "width", width)
        rates = self(np.linspace(0, n - 1, min(n, width)).round())
        levels = np.ceil(rates / (rates.max() or 1) * 8).clip(1, 8).astype(int)
        return "".join("▁▂▃▄▅▆▇█"[level - 1] for level in levels)

    def plot(self, n: int, ax: Axes | None = None) -> Axes:
        """Draw the first n rates; the matplotlib Axes. Needs matplotlib: `pip install fastlr-core[lab]`."""
        n = count("plot", "n", n)
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots()[1]
        t = np.unique(np.linspace(0, n - 1, min(n, 5000)).round())
        ax.plot(t, self(t), label=repr(self))
        ax.set_xlabel("update")
        ax.set_ylabel("rate")
        return ax

    def _repr_html_(self) -> str:
        """For notebooks: the curve and the expression."""
        from .picture import escaped, svg

        return f"{svg(self)}<br><code>{escaped(repr(self))}</code>"

    # other frameworks

    def to_torch(self, optimizer: Any, last_epoch: int = -1, momentum: Schedule | None = None) -> Any:
        """A torch LRScheduler that sets these rates, and a momentum, absolutely. See `export.to_torch`."""
        from .export import to_torch

        return to_torch(self, optimizer, last_epoch, momentum)

    def to_optax(self) -> Callable[[Any], Any]:
        """An optax schedule, traceable under jit. See `export.to_optax`."""
        from .export import to_optax

        return to_optax(self)

    def to_keras(self) -> Any:
        """A Keras LearningRateSchedule. See `export.to_keras`."""
        from .export import to_keras

        return to_keras(self)

    # value semantics

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._shown().items())})"

    def _shown(self) -> dict[str, Any]:
        """The arguments that repr and to_dict show: an option that came after 0.1 only where it is not the default."""
        given = zip(self._fields.items(), self._values, strict=True)
        return {k: value for (k, field), value in given if field.shown_by_default or value != field.default}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values == other._values

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._values))

    def __reduce__(self) -> tuple[type[Schedule], tuple[Any, ...]]:
        return type(self), self._values

    def __setattr__(self, name: str, value: object) -> None:
        who = type(self).__name__
        if name in self._fields or hasattr(type(self), name):
            raise AttributeError(f"{who} is immutable: make another one")
        raise AttributeError(f"{who} is immutable: {unknown('attribute', name, self._fields)}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def to_dict(self) -> dict[str, Any]:
        """Name and arguments, ready for JSON; `schedules.from_dict` makes the schedule again."""
        return {"name": type(self).__name__, **{k: _plain(v) for k, v in self._shown().items()}}


class Curve(Schedule, abstract=True):
    """A schedule with a function of its own in curves.pxd; its fields are the numbers of that function's struct."""

    _curve: ClassVar[str]              # the name of the function: the class's own, or that of the class it derives from

    @classmethod
    def _prepare(cls) -> None:
        names = [base.__name__ for base in cls.__mro__ if base.__name__ in CURVE_FIELDS]
        if not names:
            raise TypeError(f"{cls.__name__}: curves.pxd has no function {cls.__name__} with a struct of its own")
        cls._curve = names[0]
        declared = tuple(k for k, field in cls._fields.items() if field.in_struct)
        if declared != CURVE_FIELDS[cls._curve]:
            raise TypeError(f"{cls.__name__}: the class declares {list(declared)}, the struct of {cls._curve} in "
                            f"curves.pxd {list(CURVE_FIELDS[cls._curve])}")

    @staticmethod
    def _formula(h: Any, xp: Any, t: Any) -> Any:
        """The rate at t by the functions of the module `xp`, without a branch on t; h has the numbers as attributes."""
        raise NotImplementedError

    def _compiled(self) -> CompiledSchedule:
        arguments = self._numbers()
        made = compiled_schedule.curve(self._curve, arguments)
        return compiled_schedule.limit(made, arguments["steps"]) if arguments.get("end") == "error" else made

    def _numbers(self) -> dict[str, Any]:
        """The numbers of the struct (other entries are ignored)."""
        return dict(zip(self._fields, self._values, strict=True))


def _made(name: str, *arguments: Any) -> Schedule:
    made: Schedule = REGISTRY[name](*arguments)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_plain(x) for x in value] if isinstance(value, tuple) else value
