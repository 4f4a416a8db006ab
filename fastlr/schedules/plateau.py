"""A factor that falls when a metric stops improving: the only schedule with a state."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, isfinite, nan
from typing import Any, Literal

from fastlr._engine import compiled_schedule

from .base import Schedule
from .declaration import Field, bind, natural, one_of, positive, unknown, within
from .endless import constant
from .registry import from_dict

Mode = Literal["min", "max"]
Measure = Literal["relative", "absolute"]
Convention = Literal["torch", "optax", "keras"]

SETTINGS: dict[str, Field] = {
    "factor": within(0, 1, default=0.1),
    "patience": natural(default=10),
    "threshold": within(0, inf, default=1e-4),
    "cooldown": natural(default=0),
    "min_scale": within(0, 1, default=0.0),
    "mode": one_of("min", "max", default="min"),
    "threshold_mode": one_of("relative", "absolute", default="relative"),
    "convention": one_of("torch", "optax", "keras", default="torch"),
    "accumulation_size": positive(default=1),
    "smoothing": within(0, 1, default=0.0),
    "window": positive(default=1),
}
for _keyword, _field in SETTINGS.items():
    _field.keyword = _keyword
STATE = ("scale", "best", "bad", "cooling", "total", "count", "smoothed", "recent")
ATTRIBUTES = dict.fromkeys([*SETTINGS, *STATE, "schedule"])


class Plateau:
    """Multiplies any schedule by a factor that `observe(metric)` lowers when the metric has not improved for long.

        eta_t = schedule(t) * scale,   scale *= factor after `patience` observations without improvement

    Give it to an optimizer as any hyper-parameter, `opt.lr = plateau`, and call `plateau.observe(metric)` once per
    validation. Its state is explicit, and the optimizer's `state_dict` saves it.

    Args:
        schedule: a callable t -> float: a schedule, another Plateau, or a number.
        factor: of each reduction, in [0, 1).
        patience: how many observations without improvement do not lower it; see `convention`.
        threshold: an improvement is a metric better than the best by more than this.
        cooldown: observations after a reduction during which none is counted as bad.
        min_scale: the scale does not fall below this.
        mode: "min" if a lower metric is better, "max" if a higher one is.
        threshold_mode: "relative" to the size of the best metric, or "absolute".
        convention: when to reduce, where the frameworks differ.
            "torch": when there were more than `patience` bad ones in a row, that is at the (patience + 1)st.
            "optax", "keras": at the patience-th. In Keras the last observation of a cooldown counts already.
        accumulation_size: the mean of so many metrics, one call of `observe` each, makes one observation: for the noisy
            metrics of single batches.
        smoothing: in [0, 1): what is compared is the mean smoothing * mean + (1 - smoothing) * metric, which begins at
            the first metric. 0.9 keeps one low value by chance from being the best for long.
        window: what is compared (and smoothed) is the mean of the last `window` metrics, or of those there are.

    All but the schedule are attributes that can be set at any time.

    >>> plateau = fastlr.Plateau(schedules.constant(1.0), factor=0.5, patience=1)
    >>> for loss in [1.0, 0.9, 0.9, 0.9]:
    ...     plateau.observe(loss)
    False
    False
    False
    True
    >>> plateau(7)
    0.5

    A metric that is not finite is no improvement and does not enter the smoothed mean, nor does a mean of
    `accumulation_size` metrics with one in it. Differs from torch ReduceLROnPlateau, Keras ReduceLROnPlateau and optax
    reduce_on_plateau: a relative threshold is one of the best metric's absolute value, so that negative metrics improve
    downwards too; and a Plateau composes with warmup, with cosine, with another Plateau.
    """

    __slots__ = ("_settings", "bad", "best", "cooling", "count", "recent", "scale", "schedule", "smoothed",
                 "total")

    def __init__(
        self,
        schedule: Callable[[Any], Any] | float,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        min_scale: float = 0.0,
        mode: Mode = "min",
        threshold_mode: Measure = "relative",
        convention: Convention = "torch",
        accumulation_size: int = 1,
        smoothing: float = 0.0,
        window: int = 1,
    ) -> None:
        given = (
            factor, patience, threshold, cooldown, min_scale, mode, threshold_mode, convention, accumulation_size,
            smoothing, window,
        )
        self._settings = settings(dict(zip(SETTINGS, given, strict=True)))
        if isinstance(schedule, type):
            raise TypeError(f"Plateau: schedule must be a number or a schedule, got the class {schedule.__name__}; "
                            f"call it: {schedule.__name__}(...)")
        self.schedule = schedule if callable(schedule) else constant(schedule)
        self.reset()

    def reset(self) -> None:
        """Forget every observation."""
        #: The factor by which the schedule is multiplied now.
        self.scale: float = 1.0
        #: The best metric so far.
        self.best: float | None = None
        #: Observations since the best, or since the last reduction.
        self.bad: int = 0
        #: Observations for which the cooldown still lasts.
        self.cooling: int = 0
        #: The sum of the metrics since the last observation, None if it is not finite; and how many they are.
        self.total: float | None = 0.0
        self.count: int = 0
        #: The smoothed metric, None before the first; without smoothing the latest metric.
        self.smoothed: float | None = None
        #: The last metrics, at most `window` of them.
        self.recent: list[float] = []

    def __call__(self, t: Any) -> Any:
        return self.schedule(t) * self.scale

    def __getattr__(self, name: str) -> Any:
        if name in SETTINGS:
            return self._settings[name]
        if name.startswith("_"):       # (a protocol's name, as copy and NumPy look them up)
            raise AttributeError(name)
        raise AttributeError(f"Plateau: {unknown('attribute', name, ATTRIBUTES)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS:
            self._settings = {**self._settings, name: SETTINGS[name].accept("Plateau", value)}
        elif name in Plateau.__slots__ or type(self) is not Plateau:
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(f"Plateau: {unknown('attribute', name, ATTRIBUTES)}")

    def observe(self, metric: float) -> bool:
        """Count a metric; whether the scale was lowered."""
        try:
            metric = float(metric)
        except (TypeError, ValueError):
            raise TypeError(f"Plateau.observe: metric must be a number, got {metric!r}") from None
        self.count += 1
        metric = nan if self.total is None else self.total + metric
        if self.count < self.accumulation_size:
            self.total = metric if isfinite(metric) else None
            return False
        metric, self.total, self.count = metric / self.accumulation_size, 0.0, 0
        if isfinite(metric):
            if self.window > 1:
                self.recent = [*self.recent, metric][-self.window:]
                metric = sum(self.recent) / len(self.recent)
            before = metric if self.smoothed is None or self.smoothing == 0 else self.smoothed
            metric = self.smoothed = metric + self.smoothing * (before - metric)
        improved = self._improved(metric)
        if improved:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling -= 1
            if self.convention != "keras" or self.cooling > 0 or improved:
                self.bad = 0
                return False
            self.bad = 1
        if self.bad < self.patience + (self.convention == "torch") or self.bad == 0:
            return False
        self.bad, self.cooling, scale = 0, self.cooldown, self.scale
        self.scale = max(scale * self.factor, self.min_scale)
        return self.scale < scale

    def follow(self, history: Any, name: str = "val_loss") -> Callable[[int, Mapping[str, float]], None]:
        """Observe every value of a name that a `History` records from now on; `history.unfollow` of what this returns
        ends it.

        >>> plateau, history = fastlr.Plateau(1.0, factor=0.5, patience=0), fastlr.History()
        >>> follower = plateau.follow(history)
        >>> for loss in [2.0, 1.0, 1.5]:
        ...     history.record(val_loss=loss)
        >>> plateau.scale
        0.5
        """
        if not isinstance(name, str):
            raise TypeError(f"Plateau.follow: name must be text, got {name!r}")

        def follower(t: int, row: Mapping[str, float]) -> None:
            if name in row:
                self.observe(row[name])

        history.follow(follower)
        return follower

    def to_torch(self, optimizer: Any, last_epoch: int = -1) -> Any:
        """A torch LRScheduler that sets the rate of every group to this plateau's, absolutely.

        ``scheduler.step()`` counts an update, ``scheduler.observe(metric)`` a metric, and lowers the rates at once.
        ``scheduler.step(metric)`` does both, as torch's ReduceLROnPlateau takes a metric once per epoch. A group with
        an entry "lr_scale" gets that multiple of the rate. The scheduler's `state_dict` has the plateau's.

            plateau = fastlr.Plateau(schedules.cosine(1e-3, steps=10_000), factor=0.5)
            scheduler = plateau.to_torch(torch.optim.AdamW(model.parameters()))

        Differs from torch's ReduceLROnPlateau, which multiplies what is in `lr`: the rate is the schedule's at the
        count of steps, times the scale, whatever was in `lr`, so that it follows any schedule of fastlr.
        """
        from .export import plateau_to_torch

        return plateau_to_torch(self, optimizer, last_epoch)

    def _improved(self, metric: float) -> bool:
        if self.best is None or not isfinite(metric):
            return isfinite(metric)
        margin: float = self.threshold * (abs(self.best) if self.threshold_mode == "relative" else 1.0)
        return metric < self.best - margin if self.mode == "min" else metric > self.best + margin

    def state_dict(self) -> dict[str, Any]:
        """All that later rates depend on, as plain data; the schedule as a dict, if it is no plain function."""
        state = {name: getattr(self, name) for name in STATE}
        return {**state, **self._settings, "schedule": plain(self.schedule)}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Take over the state that `state_dict` described; ValueError, and nothing has changed, if it does not fit.

        A schedule that is a plain function was not saved: this one's stays.
        """
        who = "Plateau.load_state_dict"
        if isinstance(d, Mapping):
            # (which states saved by earlier versions do not have)
            d = {"smoothing": 0.0, "smoothed": None, "window": 1, "recent": [], **d}
        expected = {*STATE, *SETTINGS, "schedule"}
        if not isinstance(d, Mapping) or set(d) != expected:
            odd = sorted(map(str, expected ^ set(d))) if isinstance(d, Mapping) else type(d).__name__
            raise ValueError(f"{who}: expected the entries {', '.join(sorted(expected))}; differs in {odd}")
        new = settings({name: d[name] for name in SETTINGS})
        for name, low in (("scale", 0.0), ("bad", 0), ("cooling", 0), ("count", 0)):
            if isinstance(d[name], bool) or not isinstance(d[name], type(low) | int) or not low <= d[name] < inf:
                raise ValueError(f"{who}: {name} must be a finite number >= 0, got {d[name]!r}")
        for name in ("best", "total", "smoothed"):
            if not (d[name] is None or (isinstance(d[name], float | int) and isfinite(d[name]))):
                raise ValueError(f"{who}: {name} must be a finite number or None, got {d[name]!r}")
        recent = d["recent"]
        if not isinstance(recent, list) or len(recent) > new["window"] or not all(
                isinstance(x, float | int) and isfinite(x) for x in recent):
            raise ValueError(f"{who}: recent must list at most {new['window']} finite numbers, got {recent!r}")
        if d["count"] >= new["accumulation_size"]:
            raise ValueError(f"{who}: count must be < accumulation_size, got {d['count']}")
        saved = d["schedule"]
        if isinstance(saved, Mapping) and "name" in saved:
            self.schedule = from_dict(saved)
        elif hasattr(self.schedule, "load_state_dict"):
            self.schedule.load_state_dict(saved)
        elif not (isinstance(saved, Mapping) and "callable" in saved) or isinstance(self.schedule, Schedule):
            raise ValueError(f"{who}: the schedule was not saved ({saved!r}); make the Plateau with it before loading")
        self._settings = new
        for name in STATE:
            setattr(self, name, d[name])

    def __repr__(self) -> str:
        changed = [f"{name}={value!r}" for name, value in self._settings.items() if value != SETTINGS[name].default]
        return f"Plateau({', '.join([repr(self.schedule), *changed])}; scale={self.scale:g})"

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (self.schedule, self._settings, {name: getattr(self, name) for name in STATE})


def settings(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, checked."""
    return dict(zip(SETTINGS, bind("Plateau", SETTINGS, (), given), strict=True))


def plain(schedule: Any) -> Any:
    """A schedule as plain data."""
    if isinstance(schedule, Schedule):
        return schedule.to_dict()
    if hasattr(schedule, "state_dict"):
        return schedule.state_dict()
    return {"callable": getattr(schedule, "__qualname__", type(schedule).__name__)}


def restored(schedule: Any, arguments: dict[str, Any], state: dict[str, Any]) -> Plateau:
    """A copy, for pickle."""
    made = Plateau(schedule, **arguments)
    for name, value in state.items():
        setattr(made, name, value)
    return made


def highest(lr: Any, who: str) -> float:
    """The largest rate of a schedule's first 2**20 updates, a plateau's scale taken as 1; ValueError for a function."""
    while isinstance(lr, Plateau):
        lr = lr.schedule
    if not callable(lr):
        return float(lr)
    most = compiled_schedule.highest(lr, 2**20) if isinstance(lr, Schedule) else nan
    if not 0 <= most < inf:
        raise ValueError(f"{who}: the largest value of lr is not known, as it is a function of your own; give lr_max"
                         if not isinstance(lr, Schedule) else f"{who}: {lr!r} has no largest rate; give lr_max")
    return most
