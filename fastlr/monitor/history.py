"""The numbers of a training run by update: in memory, in a file that survives a crash, and shown."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
Row = dict[str, float]
Follower = Callable[[int, Row], None]

BLOCKS = "▁▂▃▄▅▆▇█"


class Series:
    """One name's values and the updates t at which they were recorded, t rising; at most `limit` of them, if not None.

    Full, it drops every second value and from then on keeps every second, then every fourth, ... of those that come:
    always the first, always the latest, and between them evenly spaced ones, none of them averaged.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit, self.stride, self.seen, self.n, self.latest = limit, 1, 0, 0, -1
        self.t = np.empty(64, np.int64)
        self.values = np.empty(64)

    def append(self, t: int, value: float) -> None:
        if self.n and (self.seen - 1) % self.stride:     # the last value was kept only as the latest
            self.n -= 1
        if self.n == self.limit:
            kept = (self.n + 1) // 2
            for array in (self.t, self.values):
                array[:kept] = array[: self.n : 2].copy()
            self.n, self.stride = kept, 2 * self.stride
        if self.n == len(self.t):
            self.t, self.values = np.resize(self.t, 2 * self.n), np.resize(self.values, 2 * self.n)
        self.t[self.n], self.values[self.n] = t, value
        self.n += 1
        self.seen += 1
        self.latest = t

    def rewind(self, t: int) -> None:
        """Forget what was recorded at t and after it."""
        kept = int(np.searchsorted(self.t[: self.n], t))
        if kept < self.n:
            # every value but the latest is one of each `stride`: so the next one comes a stride later
            self.n, self.seen = kept, (kept - 1) * self.stride + 1 if kept else 0
            self.latest = int(self.t[kept - 1]) if kept else -1


class History:
    """Keeps the loss, the learning rate and any other numbers of a training run, by update.

    Each name has a series of its own: record what there is when it is there, a validation loss at every hundredth
    update. ``history["loss"]`` are the values of one name and ``history.t("loss")`` the updates they belong to.
    Losses may be NaN or infinite: they are recorded as they are.

    Parameters
    ----------
    path
        A ``.jsonl`` or ``.csv`` file to which every record is appended at once, one line each, so that a run that
        crashes or is killed leaves all its records. What is in it already is read first, and the run goes on from
        there; a last line that a crash has torn is dropped, from the file too.
    limit
        The most values to keep in memory for each name, from 16 up; None keeps all, 16 bytes a value. At the limit
        every second value is dropped, and from then on every second one that comes (then every fourth, ...): the first
        and the latest value are always there, and those between them evenly spaced, none averaged. The file has all.

    >>> import fastlr, numpy as np
    >>> w = np.array([3.0, -2.0])
    >>> opt = fastlr.SGD(w, lr=0.1)
    >>> history = fastlr.History()
    >>> for _ in range(40):
    ...     loss = float(w @ w)
    ...     opt.step(2 * w)
    ...     history.record(loss=loss, opt=opt)
    >>> history["loss"][:3].round(2), history.t("loss")[:3], history["lr"][-1]
    (array([13.  ,  8.32,  5.32]), array([1, 2, 3]), np.float64(0.1))
    >>> history
    History(40 updates; loss 13 -> 3.59e-07 █▄▂▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁; lr 0.1)

    Differs from Keras' History: by update and not by epoch, not every name at every update, and in a file at once.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, limit: int | None = None) -> None:
        if limit is not None:
            if isinstance(limit, bool) or not isinstance(limit, int | np.integer):
                raise TypeError(f"History: limit must be an integer or None, got {limit!r}")
            if limit < 16:
                raise ValueError(f"History: limit must be at least 16, got {limit}")
        self._limit = None if limit is None else int(limit)
        self._series: dict[str, Series] = {}
        self._latest = -1
        self._followers: list[Any] = []
        self._file: Any = None         # a LogFile, or None
        if path is not None:
            from .files import LogFile

            file = LogFile(path)
            for t, row, _ in file.read():
                self._put(t, row, rewinding=True)
            file.open()
            self._file = file

    def __setattr__(self, name: str, value: object) -> None:
        if name[0] != "_" and type(self) is History:
            from difflib import get_close_matches

            near = get_close_matches(name, [word for word in dir(History) if word[0] != "_"], n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise AttributeError(f"History: unknown attribute {name!r}{hint}; numbers are recorded by "
                                 f"history.record({name}=...)")
        object.__setattr__(self, name, value)

    # recording

    def record(
        self, values: Mapping[str, Any] | None = None, /, *, t: int | None = None, opt: Any = None, **named: Any
    ) -> None:
        """Record numbers of one update.

        Parameters
        ----------
        values, **named
            Names and their numbers: ``loss=0.3``, or ``{"loss/train": 0.3}`` for what is no identifier. Anything that
            is one number will do: a float, a 0-d array or tensor, NaN. `diagnose` looks for ``loss``, ``lr``,
            ``grad_norm`` and ``val_loss``.
        t
            Updates done when these were taken; must not fall. Default: ``opt.t``; without an optimizer the latest t if
            it has none of these names yet, else the next one; the first is 1.
        opt
            The optimizer that made the update: its t, its ``lr`` (a schedule's at the update that is done; of further
            groups ``lr.1``, ``lr.2``, ...) and, where it was measured, its ``grad_norm`` are recorded too; where
            each tensor is measured (`Optimizer.measure`), ``grad_norm/NAME``, ``update_norm/NAME``,
            ``update_ratio/NAME`` (the update's norm by the parameter's) and ``clipped/NAME`` (a share). Of an
            optimizer of torch, t is the ``step`` in its state, where that has one, and ``lr`` is what its groups have:
            record before the scheduler's step.

        Raises
        ------
        TypeError, ValueError
            For a name or a number that is none, or a t that falls or has this name already; nothing is recorded then.
        OSError
            If the file cannot be written, as on a full disk; nothing is recorded then, in memory or in the file.
        """
        if values is not None and not isinstance(values, Mapping):
            raise TypeError(f"History.record: numbers need names, as in record(loss=0.3) or a dict, got "
                            f"{type(values).__name__}")
        series = self._series
        row = {name if name in series else checked_name(name): value if type(value) is float else number(name, value)
               for name, value in ({**values, **named} if values else named).items()}
        if opt is not None:
            at, own = read_optimizer(opt)
            t = at if t is None else t
            row = row | {name: value for name, value in own.items() if name not in row}
        if not row:
            raise ValueError("History.record: nothing to record: give names and numbers, as in record(loss=0.3)")
        if t is None:
            taken = any(name in series and series[name].latest == self._latest for name in row)
            t = max(self._latest + taken, 1) if self._latest >= 0 else 1
        elif type(t) is not int:
            if isinstance(t, bool) or not hasattr(t, "__index__"):
                raise TypeError(f"History.record: t must be an integer, got {t!r}")
            t = operator.index(t)
        self._put(t, row, file=self._file)
        for follower in self._followers:
            follower(t, row)

    def _put(self, t: int, row: Row, rewinding: bool = False, file: Any = None) -> None:
        if t < 0:
            raise ValueError(f"History.record: t must be from 0 up, got {t}")
        if t >= 2**63:
            raise ValueError(f"History.record: t must be from 0 to 2**63 - 1, got {t}")
        series = self._series
        late = [name for name in row if name in series and series[name].latest >= t]
        if rewinding and (late or t < self._latest):
            self._forget(t)
        elif late or t < self._latest:
            what = f"t must not fall, got t={t} after t={self._latest} was recorded"
            if late:
                what = f"t must be above {series[late[0]].latest}, where {late[0]} was recorded last, got t={t}"
            raise ValueError(f"History.record: {what}; "
                             f"history.rewind({t}) forgets what was recorded from t={t} on")
        if file is not None:
            file.record(t, row)
        for name, value in row.items():
            if name not in series:
                series[name] = Series(self._limit)
            series[name].append(t, value)
        self._latest = t

    def rewind(self, t: int) -> None:
        """Forget everything from update t on, as after a checkpoint of an earlier update was loaded.

        To go on after an optimizer's checkpoint: ``history.rewind(opt.t + 1)``. The file is written anew without those
        rows; if that fails, nothing is forgotten. Other followers, as TensorBoard's, keep what they have.
        """
        t = operator.index(t)
        if self._file is not None:
            self._file.rewind(t)
        self._forget(t)

    def _forget(self, t: int) -> None:
        for series in self._series.values():
            series.rewind(t)
        self._series = {name: series for name, series in self._series.items() if series.n}
        self._latest = max((series.latest for series in self._series.values()), default=-1)

    def _saved(self) -> list[tuple[str, dict[str, NDArray[Any]]]]:
        """The values of every name, for a checkpoint."""
        return [(name, {"t": s.t[: s.n], "values": s.values[: s.n]}) for name, s in self._series.items()]

    def _saved_counts(self) -> list[list[int]]:
        """Of every name: how many of the values that came are kept, and how many came."""
        return [[s.stride, s.seen] for s in self._series.values()]

    def _loading(self, rows: list[tuple[str, dict[str, NDArray[Any]]]], counts: list[list[int]]) -> Callable[[], None]:
        """Check what those two returned; the function that takes it on, and rewinds the file to it."""
        made: dict[str, Series] = {}
        for (name, arrays), numbers in zip(rows, counts, strict=True):
            t, values = arrays["t"], arrays["values"]
            stride, seen = numbers
            fits = t.dtype == np.int64 and values.dtype == np.float64 and t.shape == values.shape == (t.size,)
            if not fits or not t.size or (np.diff(t) <= 0).any() or t[0] < 0 or not 0 < stride <= seen >= t.size:
                raise ValueError(f"History: the values of {name!r} are none of a history")
            series = made[checked_name(name)] = Series(self._limit)
            series.t, series.values, series.n = t.copy(), values.copy(), len(t)
            series.stride, series.seen, series.latest = stride, seen, int(t[-1])
        latest = max((series.latest for series in made.values()), default=-1)

        def take_on() -> None:
            if self._file is not None:
                self._file.rewind(latest + 1)
            self._series, self._latest = made, latest

        return take_on

    def follow(self, follower: Follower) -> None:
        """Call ``follower(t, row)`` at every record from now on; if it has a `close`, at the end too."""
        if not callable(follower):
            raise TypeError(f"History.follow: expected a function of t and a dict, got {type(follower).__name__}")
        self._followers.append(follower)

    def unfollow(self, follower: Follower) -> None:
        """No longer call a follower; it is not closed."""
        self._followers.remove(follower)

    def close(self) -> None:
        """Close the file and what else follows; the numbers stay. Also the end of a ``with`` block."""
        followers, self._followers = [*([self._file] if self._file is not None else []), *self._followers], []
        self._file = None
        for follower in followers:
            if hasattr(follower, "close"):
                follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # reading

    @property
    def names(self) -> tuple[str, ...]:
        """What was recorded, in the order in which it first was."""
        return tuple(self._series)

    @property
    def latest(self) -> int:
        """The t of the latest record; -1 before the first."""
        return self._latest

    def __getitem__(self, name: str) -> Floats:
        """The values of a name: (n,) float64, read-only, a view."""
        series = self._of(name)
        return frozen(series.values[: series.n])

    def t(self, name: str | None = None) -> NDArray[np.int64]:
        """The updates at which a name was recorded, or any name: (n,) int64, rising, read-only."""
        if name is None:
            every = [series.t[: series.n] for series in self._series.values()]
            return frozen(np.unique(np.concatenate(every)) if every else np.empty(0, np.int64))
        series = self._of(name)
        return frozen(series.t[: series.n])

    def _of(self, name: str) -> Series:
        try:
            return self._series[name]
        except KeyError:
            known = ", ".join(self._series) or "nothing"
            raise KeyError(f"History: no {name!r} was recorded, but {known}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._series

    def __len__(self) -> int:
        """How many updates have anything recorded (and kept)."""
        return len(self.t())

    def rows(self) -> Iterator[dict[str, Any]]:
        """A dict for each update, t first, then what was recorded at it."""
        columns = [(name, iter(zip(s.t[: s.n].tolist(), s.values[: s.n].tolist(), strict=True)))
                   for name, s in self._series.items()]
        ahead = [(name, next(pairs, None), pairs) for name, pairs in columns]
        while times := [pair[0] for _, pair, _ in ahead if pair is not None]:
            t = min(times)
            row: dict[str, Any] = {"t": t}
            for k, (name, pair, pairs) in enumerate(ahead):
                if pair is not None and pair[0] == t:
                    row[name] = pair[1]
                    ahead[k] = name, next(pairs, None), pairs
            yield row

    # files

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], *, limit: int | None = None) -> Self:
        """A history of dicts that have a "t" (else they are counted from 1); a t that falls is a `rewind`."""
        history = cls(limit=limit)
        for k, row in enumerate(rows, start=1):
            numbers = {checked_name(name): number(name, value) for name, value in row.items() if name != "t"}
            history._put(operator.index(row.get("t", k)), numbers, rewinding=True)
        return history

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write t and every name as columns, a line for each update; empty where nothing was recorded.

        Numbers are read back to the bit; ``nan``, ``inf`` and ``-inf`` are what they say. The new file takes the place
        of an old one only when it is whole.
        """
        from .files import write_csv

        write_csv(path, self.names, self.rows())

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON object for each update, one a line; the new file takes an old one's place only when whole.

        Numbers are read back to the bit. JSON has no number that is not finite: those are the strings "NaN",
        "Infinity" and "-Infinity", which any reader of JSON takes.
        """
        from .files import write_jsonl

        write_jsonl(path, self.rows())

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], *, limit: int | None = None) -> Self:
        """Read what `to_csv` or ``History("run.csv")`` wrote, or any CSV of numbers with names in its first line.

        Rows without a column t are counted from 1. A last line that does not end is dropped: its last number may be
        torn. Raises `ValueError` with the line for anything else that cannot be read.
        """
        from .files import read_csv

        return cls._read(read_csv(path), limit)

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], *, limit: int | None = None) -> Self:
        """Read what `to_jsonl` or ``History("run.jsonl")`` wrote; a last line that is torn is dropped.

        Raises `ValueError` with the line for anything else that cannot be read.
        """
        from .files import read_jsonl

        return cls._read(read_jsonl(path), limit)

    @classmethod
    def _read(cls, rows: Iterable[tuple[int, Row, str]], limit: int | None) -> Self:
        history = cls(limit=limit)
        for t, row, _ in rows:
            history._put(t, row, rewinding=True)
        return history

    # showing

    def sparkline(self, name: str = "loss", width: int = 60) -> str:
        """A name's values as a line of at most `width` characters, medians of equal parts; × is not finite."""
        return sparkline(self[name], width)

    def plot(self, ax: Axes | None = None, *, names: Iterable[str] | None = None) -> Axes:
        """Draw losses, by default every name with "loss" in it, and the rate on an axis of its own.

        The matplotlib Axes of the losses; logarithmic where all are positive. Needs `pip install fastlr-core[lab]`.
        """
        from .display import plot

        return plot(self, ax, None if names is None else list(names))

    def live(self, every: float = 10.0, *, file: Any = None) -> AbstractContextManager[None]:
        """While in a ``with history.live():`` block, show a table that changes in place: latest, best, a curve.

        Where `file` (default: standard error) is no terminal, a line is written every `every` seconds instead, and one
        at the end. A terminal needs `pip install fastlr-core[lab]`.
        """
        from .display import live

        return live(self, every, file)

    def to_tensorboard(self, folder: str | os.PathLike[str]) -> None:
        """Write what was recorded, and from now on every record, as TensorBoard scalars; `close` ends it.

        Needs tensorboardX, or torch with tensorboard, which are imported here and nowhere else.
        """
        from .display import TensorBoard

        writer = TensorBoard(folder)
        for row in self.rows():
            writer(row.pop("t"), row)
        self.follow(writer)

    def __repr__(self) -> str:
        def shown(name: str) -> str:
            values = self[name]
            if (values == values[0]).all():
                return f"{name} {values[0]:.3g}"
            return f"{name} {values[0]:.3g} -> {values[-1]:.3g} {sparkline(values, 20)}"

        parts = [f"{len(self)} updates", *map(shown, self.names)]
        return f"History({'; '.join(parts)})"


def read_optimizer(opt: Any) -> tuple[int | None, Row]:
    """Updates done, the rates of the latest update, and the norm of its gradients if it was measured."""
    t: int | None
    try:
        if hasattr(opt, "param_groups"):
            t, rates = updates_in_torch(opt), [group["lr"] for group in opt.param_groups]
        else:
            t, rates = int(opt.t), [group.lr for group in opt.groups]
    except (AttributeError, TypeError, KeyError):
        raise TypeError(f"History.record: opt must be an optimizer of fastlr or torch, got "
                        f"{type(opt).__name__}") from None
    row = {}
    for k, lr in enumerate(rates):
        row["lr" if k == 0 else f"lr.{k}"] = float(lr(max((t or 0) - 1, 0)) if callable(lr) else lr)
    if getattr(opt, "measures", False):
        for name, of in opt.measured.items():
            if math.isnan(of.grad_norm) and math.isnan(of.param_norm):       # (rows of it moved, which is not measured)
                continue
            row |= {f"grad_norm/{name}": of.grad_norm, f"update_norm/{name}": of.update_norm,
                    f"update_ratio/{name}": of.ratio, f"clipped/{name}": of.clipped}
    norm = getattr(opt, "grad_norm", None)
    if norm is not None:
        row["grad_norm"] = float(norm)
    return t, row


def updates_in_torch(opt: Any) -> int | None:
    """Updates that a torch optimizer has done, as the first state that counts them says; None if none does."""
    for state in vars(opt).get("state", {}).values():      # (of fastlr.torch's, without showing it to anybody)
        if isinstance(state, dict) and "step" in state:
            return int(state["step"])
    return None


def checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"History.record: a name must be text, got {name!r}")
    if not name or name == "t" or any(not c.isprintable() for c in name):
        raise ValueError(f"History.record: a name must be printable text other than 't', got {name!r}")
    return name


def number(name: object, value: Any) -> float:
    """One number as a float; TypeError for what is none."""
    size = math.prod(getattr(value, "shape", ()))
    if size == 1 and not isinstance(value, str | bytes | bytearray):
        try:
            return float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, OverflowError):
            pass
    got = f"shape {tuple(value.shape)}" if size != 1 else repr(value)[:60]
    raise TypeError(f"History.record: {name} must be one number, got {got}")


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def sparkline(values: Floats, width: int) -> str:
    """Medians of up to `width` equal parts as blocks from the least to the greatest; × where none is finite."""
    if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
        raise ValueError(f"sparkline: width must be an integer from 1 up, got {width!r}")
    line = []
    for part in np.array_split(values, min(width, len(values)) or 1):
        finite = part[np.isfinite(part)]
        middle = (len(finite) - 1) // 2
        line.append(float(np.partition(finite, middle)[middle]) if len(finite) else math.nan)
    known = [x for x in line if math.isfinite(x)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    reach = high / 8 - low / 8 or 1.0        # (halves of floats do not overflow)
    return "".join(BLOCKS[min(int((x / 8 - low / 8) / reach * 7.999), 7)] if math.isfinite(x) else "×" for x in line)
