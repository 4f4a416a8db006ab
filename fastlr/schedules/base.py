"""What every schedule shares: being built from its class body, and being combined, shown and stored."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

import numpy as np

from fastlr._engine import program
from fastlr._engine.program import Program

from .declaration import (
    REQUIRED,
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REGISTRY: dict[str, type[Schedule]] = {}


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(
        rate, within, above, share, number, positive, natural, integer, seed, flag, one_of, nested,
        several_schedules, several_rates, boundaries,
    ),
)
class Schedule(Program):
    """A learning rate as a pure function of t, the number of updates already made.

    `s(t)` is a float for a number, a float64 array of the same shape for an array. A negative t is a
    ValueError. Schedules are immutable, comparable, hashable and picklable, and know nothing of any
    optimizer.

    Differs from torch, where a scheduler belongs to an optimizer and counts its own steps: here any t may
    be asked for at any time.
    """

    __slots__ = ("_values",)
    __array_ufunc__ = None             # numpy_scalar * schedule is ours to compute
    __signature__ = LazySignature()
    _fields: ClassVar[Mapping[str, Field]] = {}
    _values: tuple[Any, ...]

    def __init_subclass__(cls, abstract: bool = False) -> None:
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
        """What a class needs before it may be listed."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Schedule:
        if REGISTRY.get(cls.__name__) is not cls:
            raise TypeError(f"{cls.__name__} is abstract: use one of list_schedules()")
        self = super().__new__(cls)
        object.__setattr__(self, "_values", bind(cls.__name__, cls._fields, args, kwargs))
        self._become(self._program())
        return self

    def _program(self) -> Program:
        """What C evaluates."""
        raise NotImplementedError

    # composition

    def warmup(
        self, steps: int, start: float = 0.0, kind: Literal["linear", "exponential", "cosine"] = "linear"
    ) -> Schedule:
        """Rise from `start` at t = 0 to this schedule's first rate at t = steps, then follow it."""
        return REGISTRY["warmup"](self, steps, start, kind)

    def then(self, other: Schedule, at: int) -> Schedule:
        """This schedule before t = at; then the other one, which counts from its own 0."""
        return REGISTRY["join"]((self, other), (at,))

    def __mul__(self, other: Schedule | float) -> Schedule:
        if isinstance(other, Schedule):
            return REGISTRY["product"](self, other)
        if isinstance(other, Real):
            return REGISTRY["scale"](self, other)
        return NotImplemented

    __rmul__ = __mul__

    def clip(self, lo: float, hi: float) -> Schedule:
        """This schedule, kept between `lo` and `hi`."""
        return REGISTRY["clip"](self, lo, hi)

    def shift(self, n: int) -> Schedule:
        """This schedule n updates later, its first rate held until then; n < 0 skips its first -n updates."""
        return REGISTRY["shift"](self, n)

    def every(self, k: int) -> Schedule:
        """This schedule with each rate held for k updates: epochs, or accumulated batches."""
        return REGISTRY["every"](self, k)

    def k_decay(self, steps: int, k: float) -> Schedule:
        """This schedule of `steps` updates with its time bent: slow first and fast later for k > 1."""
        return REGISTRY["k_decay"](self, steps, k)

    def noise(self, amount: float, seed: int = 0) -> Schedule:
        """This schedule times random numbers of [1 - amount, 1 + amount), one per update."""
        return REGISTRY["noise"](self, amount, seed)

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
        """What a notebook shows: the curve, and how it is written."""
        from .picture import escaped, svg

        return f"{svg(self)}<br><code>{escaped(repr(self))}</code>"

    # other frameworks

    def to_torch(self, optimizer: Any, last_epoch: int = -1, momentum: Schedule | None = None) -> Any:
        """A torch LRScheduler that sets these rates, and a momentum, absolutely. See `interchange.to_torch`."""
        from . import interchange

        return interchange.to_torch(self, optimizer, last_epoch, momentum)

    def to_optax(self) -> Callable[[Any], Any]:
        """An optax schedule, traceable under jit. See `interchange.to_optax`."""
        from . import interchange

        return interchange.to_optax(self)

    def to_keras(self) -> Any:
        """A Keras LearningRateSchedule. See `interchange.to_keras`."""
        from . import interchange

        return interchange.to_keras(self)

    # a value like any other

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in zip(self._fields, self._values, strict=True))
        return f"{type(self).__name__}({given})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values == other._values

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._values))

    def __reduce__(self) -> tuple[type[Schedule], tuple[Any, ...]]:
        return type(self), self._values

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def to_dict(self) -> dict[str, Any]:
        """Name and arguments, ready for JSON; `schedules.from_dict` is the way back."""
        given = zip(self._fields, self._values, strict=True)
        return {"name": type(self).__name__, **{k: _plain(v) for k, v in given}}


class Curve(Schedule, abstract=True):
    """A schedule with a function of its own in curves.pxd."""

    _compile: ClassVar[Any] = None     # the program of a mapping of numbers, made at the first use

    @classmethod
    def _prepare(cls) -> None:
        if cls._struct() not in program.curve.__signatures__:
            raise TypeError(f"{cls.__name__}: curves.pxd has no struct {cls._struct()} in its roll")

    @classmethod
    def _struct(cls) -> str:
        return "".join(word.capitalize() for word in cls.__name__.split("_"))

    @classmethod
    def _fitted(cls) -> Any:
        """What makes programs of this curve, once the class is seen to declare what the struct holds."""
        declared = [k for k, field in cls._fields.items() if field.in_struct]
        in_c = list(program.numbers[cls._struct()](dict.fromkeys(declared, 0.0)))
        if declared != in_c:
            structs = f"the struct {cls._struct()} {in_c}"
            raise TypeError(f"{cls.__name__}: the class declares {declared}, {structs}")
        cls._compile = staticmethod(program.curve[cls._struct()])
        return cls._compile

    def _program(self) -> Program:
        arguments = self._numbers()
        made: Program = (self._compile or self._fitted())(arguments)
        return program.limit(made, arguments["steps"]) if arguments.get("end") == "error" else made

    def _numbers(self) -> dict[str, Any]:
        """What the struct is filled with (its other entries are ignored)."""
        return dict(zip(self._fields, self._values, strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_plain(x) for x in value] if isinstance(value, tuple) else value


def from_dict(d: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_dict` described; ValueError for an unknown name, or unknown or missing keys.

    >>> schedules.from_dict({"name": "linear", "lr": 0.1, "steps": 100})
    linear(lr=0.1, steps=100, final=0.0, end='hold')
    """
    return _schedule(d, program.DEPTH)


def _schedule(d: Any, depth: int) -> Schedule:
    if not isinstance(d, Mapping):
        raise ValueError(f"a schedule must be a dict as to_dict() makes it, got {d!r}")
    if depth == 0:
        raise ValueError(f"a schedule can be nested at most {program.DEPTH} deep")
    if "name" not in d:
        raise ValueError(f"a schedule needs a 'name', got {dict(d)!r}")
    cls = _named(d["name"])
    fields = cls._fields
    wrong = [unknown("key", k, fields) for k in d if k != "name" and k not in fields]
    wrong += [f"missing key {k!r}" for k, field in fields.items() if field.default is REQUIRED and k not in d]
    if wrong:
        raise ValueError(f"{cls.__name__}: {'; '.join(wrong)}")

    def value(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return tuple(value(y) if isinstance(y, Mapping) else y for y in x)
        return _schedule(x, depth - 1) if isinstance(x, Mapping) else x

    return cls(**{k: value(x) for k, x in d.items() if k != "name"})


def _named(name: Any) -> type[Schedule]:
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(unknown("schedule", name, REGISTRY))
    return REGISTRY[name]


def create_schedule(name: str, **arguments: Any) -> Schedule:
    """A schedule by its name.

    >>> schedules.create_schedule("cosine", lr=1e-3, steps=1000) == schedules.cosine(1e-3, steps=1000)
    True
    """
    return _named(name)(**arguments)


def list_schedules(pattern: str = "*") -> list[str]:
    """The names that match a pattern, in order.

    >>> schedules.list_schedules("*linear")
    ['linear', 'log_linear', 'piecewise_linear']
    """
    return sorted(name for name in REGISTRY if fnmatchcase(name, pattern))

