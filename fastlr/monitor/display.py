"""Histories shown: a plot, a table that is updated in place, lines at intervals, TensorBoard."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFRESH = 0.25      # seconds between two drawings of the table


class Recorded(Protocol):
    """What is read of a `History`."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def latest(self) -> int: ...
    def __getitem__(self, name: str) -> NDArray[np.float64]: ...
    def __contains__(self, name: object) -> bool: ...
    def t(self, name: str | None = None) -> NDArray[np.int64]: ...
    def sparkline(self, name: str = ..., width: int = ...) -> str: ...
    def follow(self, follower: Callable[[int, dict[str, float]], None]) -> None: ...
    def unfollow(self, follower: Callable[[int, dict[str, float]], None]) -> None: ...


def plot(history: Recorded, ax: Axes | None, names: list[str] | None) -> Axes:
    chosen = [name for name in history.names if "loss" in name] if names is None else names
    if not chosen:
        raise ValueError(f"History.plot: nothing to draw: names=[...] of {', '.join(history.names) or 'nothing'}")
    drawn = [(name, history.t(name), history[name]) for name in chosen]
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1]      # (no label beyond the edge)
    for name, t, values in drawn:
        few = len(values) < len(drawn[0][2])
        ax.plot(t, np.where(np.isfinite(values), values, np.nan), label=name, marker="." if few else None,
                linewidth=1.5 if few or len(drawn) == 1 else 0.8)
    seen = np.concatenate([values[np.isfinite(values)] for _, _, values in drawn])
    if len(seen) and seen.min() > 0:
        ax.set_yscale("log")
        name_ticks(ax.yaxis, float(seen.min()), float(seen.max()))
    ax.set_xlabel("update")
    ax.set_ylabel(chosen[0] if len(chosen) == 1 else "loss" if names is None else "value")
    if names is None and "lr" in history:
        rate = ax.twinx()
        rate.plot(history.t("lr"), history["lr"], color="0.6", linewidth=0.8, linestyle="--", label="lr")
        rate.set_ylabel("learning rate")
        ax.plot([], [], color="0.6", linewidth=0.8, linestyle="--", label="lr")
    ax.legend(fontsize=8)
    return ax


def name_ticks(axis: Any, low: float, high: float) -> None:
    """Numbers on a logarithmic axis: its own name decades alone, and not even one in a range of less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if high < 3 * low:
        axis.set_major_locator(MaxNLocator(6))
    elif high < 1000 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axis.set_major_locator(LogLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


@contextmanager
def live(history: Recorded, every: float, file: Any) -> Iterator[None]:
    """Show the history while the block runs."""
    if not every >= 0:
        raise ValueError(f"History.live: every must be seconds from 0 up, got {every!r}")
    file = sys.stderr if file is None else file
    terminal = getattr(file, "isatty", lambda: False)() and os.environ.get("TERM") != "dumb"
    show = InPlace(history, file) if terminal else Lines(history, every, file)
    history.follow(show)
    try:
        yield
    finally:
        history.unfollow(show)
        show.close()


class Lines:
    """Writes a line every so many seconds, and one at the end for what was recorded since."""

    def __init__(self, history: Recorded, every: float, file: Any) -> None:
        self.history, self.every, self.file = history, every, file
        self.next, self.pending = time.monotonic(), False

    def __call__(self, t: int, row: dict[str, float]) -> None:
        self.pending = True
        if time.monotonic() >= self.next:
            self.write()
            self.next = time.monotonic() + self.every

    def write(self) -> None:
        numbers = "  ".join(f"{name} {self.history[name][-1]:.4g}" for name in self.history.names)
        print(f"update {self.history.latest}  {numbers}", file=self.file, flush=True)
        self.pending = False

    def close(self) -> None:
        if self.pending:
            self.write()


class InPlace:
    """A table of every name: latest, least and greatest value, and the curve so far."""

    def __init__(self, history: Recorded, file: Any) -> None:
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError as error:
            raise ImportError("History.live: needs rich, which is missing; pip install 'fastlr-core[lab]'") from error
        self.history, self.next = history, 0.0
        self.live = Live(self.table(), console=Console(file=file), auto_refresh=False)
        self.live.start()

    def __call__(self, t: int, row: dict[str, float]) -> None:
        if time.monotonic() >= self.next:
            self.live.update(self.table(), refresh=True)
            self.next = time.monotonic() + REFRESH

    def table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        latest = self.history.latest
        table = Table(title=Text(f"update {latest}" if latest >= 0 else "no update yet"), title_justify="left")
        for column in ("", "latest", "least", "greatest"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        table.add_column("so far", no_wrap=True)
        for name in self.history.names:
            values = self.history[name]
            finite = values[np.isfinite(values)]
            ends = [f"{x:.4g}" for x in (finite.min(), finite.max())] if len(finite) else ["", ""]
            table.add_row(Text(name), f"{values[-1]:.4g}", *ends, self.history.sparkline(name, 32))
        return table

    def close(self) -> None:
        self.live.update(self.table(), refresh=True)
        self.live.stop()


class TensorBoard:
    """Writes every record as scalars of TensorBoard, by tensorboardX or torch, whichever is installed."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.writer = open_writer(os.fspath(folder))

    def __call__(self, t: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, t)

    def close(self) -> None:
        self.writer.close()


def open_writer(folder: str) -> Any:
    try:
        from tensorboardX import SummaryWriter  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter  # type: ignore[no-redef,unused-ignore]
        except ImportError as error:
            raise ImportError("History.to_tensorboard: needs tensorboardX, or torch with tensorboard; "
                              "pip install tensorboardX") from error
    return SummaryWriter(folder)
