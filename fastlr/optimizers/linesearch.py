"""Line searches: Armijo backtracking, and the strong Wolfe conditions."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from typing import Any, Literal, NamedTuple

import numpy as np

from .._engine.arrays import as_array
from .._engine.tensors import Array

MOST_EVALUATIONS = 25


@dataclass(frozen=True)
class LineSearch:
    """The result of a line search.

    `step` is the length in units of the direction, `x` the point there, `value` and `gradient` those of f there (the
    gradient None if f returned none), `evaluations` how often f was called. `success` says whether the conditions of
    `kind` hold; if not, this is the lowest point found that satisfies the Armijo condition, or x itself with step 0,
    and `reason` says why the search ended.
    """

    step: float
    x: Array = field(repr=False)
    value: float
    gradient: Array | None = field(repr=False)
    evaluations: int
    success: bool
    reason: str


class Trial(NamedTuple):
    """A point on the line: its step, f there, the slope along the line, and the gradient."""

    step: float
    value: float
    slope: float
    gradient: Any


class Found(NamedTuple):
    """The end of a search."""

    trial: Trial
    evaluations: int
    success: bool
    reason: str


Phi = Callable[[float], Trial]


def line_search(f: Callable[[Array], Any], x: Any, direction: Any, kind: Literal["armijo", "wolfe"] = "armijo", *,
                step: float = 1.0, c1: float = 1e-4, c2: float = 0.9, shrink: float = 0.5,
                max_evaluations: int = MOST_EVALUATIONS, tolerance: float = 1e-9) -> LineSearch:
    r"""Find a step along a direction that lowers f enough.

    .. math:: f(x + t d) \le f(x) + c_1 t\, g^T d, \qquad |g(x + t d)^T d| \le c_2 |g^T d|

    "armijo" needs the first and tries :math:`t = t_0, s t_0, s^2 t_0, \ldots` with the factor `shrink`. "wolfe"
    needs both (the strong Wolfe conditions): steps grow until one is too long, then the bracket is narrowed by cubic
    interpolation, where a trial nearer than a tenth of the bracket to its end is moved inwards.

    Parameters
    ----------
    f
        A function of an array like x that returns the value, or (value, gradient). Each call gets a new array. "wolfe"
        needs the gradient. "armijo" without it needs :math:`f(x + t d) \le f(x) - c_1 t^2 \|d\|^2` instead.
    x, direction
        Arrays of one shape, float32 or float64 (anything else becomes float64). Neither is written to.
    step
        The first trial, in units of the direction.
    c1, c2
        Of the conditions, 0 < c1 < c2 < 1.
    shrink
        The factor of "armijo" from one trial to the next.
    max_evaluations
        f is called at most this often (and once more at x).
    tolerance
        "wolfe" stops at a bracket in which no element of x changes by more than this.

    A value or gradient that is NaN or infinite counts as too high a value: such a step is too long.

    Raises
    ------
    TypeError, ValueError
        For invalid arguments, and if f or its gradient is not finite at x itself. A direction that is none of descent
        is no error: `success` is False.

    Armijo 1966, https://doi.org/10.2140/pjm.1966.16.1; Nocedal & Wright, Numerical Optimization, 2nd ed., algorithms
    3.1, 3.5 and 3.6; without the gradient, Lucidi & Sciandrone 2002, https://doi.org/10.1023/A:1013735414984. The
    strong Wolfe search is that of ``torch.optim.LBFGS`` with three exceptions: its second trial is also compared with
    the first, the lower end of the bracket always satisfies the Armijo condition (both as in the book), and values need
    not be finite.

    >>> import numpy as np, fastlr
    >>> def f(x):
    ...     return float(x @ x), 2 * x
    >>> found = fastlr.line_search(f, np.array([3.0, 4.0]), np.array([-6.0, -8.0]), kind="wolfe")
    >>> found.step, found.value, found.success
    (0.5, 0.0, True)
    """
    who = "line_search"
    if kind not in ("armijo", "wolfe"):
        raise ValueError(f"{who}: kind must be 'armijo' or 'wolfe', got {kind!r}")
    if not callable(f):
        raise TypeError(f"{who}: f must be a function of x, got {type(f).__name__}")
    check_conditions(who, c1, c2)
    for name, number in (("step", step), ("tolerance", tolerance), ("shrink", shrink)):
        if not (0 < number < (1 if name == "shrink" else inf) or (name == "tolerance" and number == 0)):
            bound = "in (0, 1)" if name == "shrink" else "positive and finite"
            raise ValueError(f"{who}: {name} must be {bound}, got {number}")
    natural(who, "max_evaluations", max_evaluations)
    x, direction = floats(who, "x", x), floats(who, "direction", direction)
    if x.shape != direction.shape:
        raise ValueError(f"{who}: direction must have the shape of x, {x.shape}, got {direction.shape}")
    d = direction.astype(np.float64).reshape(-1)

    def at(t: float) -> Array:
        point: Array = x + (t * direction).astype(x.dtype, copy=False)
        return point

    def phi(t: float) -> Trial:
        value, gradient = evaluated(f(at(t)), x, who)
        slope = np.nan if gradient is None else float(np.dot(gradient.astype(np.float64).reshape(-1), d))
        return Trial(t, value, slope, gradient)

    start = phi(0.0)
    if not isfinite(start.value) or (start.gradient is not None and not all_finite(start.gradient)):
        raise ValueError(f"{who}: f and its gradient must be finite at x, where the value is {start.value}")
    if kind == "wolfe" and start.gradient is None:
        raise TypeError(f"{who}: kind='wolfe' needs f to return (value, gradient), it returned a value alone; "
                        f"use kind='armijo'")
    if not (d.any() if start.gradient is None else start.slope < 0):
        found = Found(start, 0, False, "the direction is no direction of descent")
    elif kind == "wolfe":
        reach = float(np.abs(d).max(initial=0.0))
        found = strong_wolfe(phi, start, step, c1, c2, max_evaluations, tolerance / reach)
    else:
        curve = 0.0
        if start.gradient is None:
            curve, start = float(np.dot(d, d)), start._replace(slope=0.0)
        found = armijo(phi, start, step, c1, shrink, max_evaluations, curve)
    end = found.trial
    evaluations = found.evaluations + 1
    return LineSearch(end.step, at(end.step), end.value, end.gradient, evaluations, found.success, found.reason)


def armijo(phi: Phi, start: Trial, step: float, c1: float, shrink: float, most: int, curve: float = 0.0) -> Found:
    """Shorten the step until f is at most f(x) + c1 t slope - c1 t**2 curve."""
    for k in range(most):
        trial = phi(step)
        if trial.value <= start.value + c1 * step * (start.slope - step * curve) and is_finite(trial, start):
            return Found(trial, k + 1, True, "the Armijo condition holds")
        step *= shrink
    return Found(start, most, False, f"no step satisfied the Armijo condition in {most} evaluations")


def strong_wolfe(phi: Phi, start: Trial, step: float, c1: float, c2: float, most: int, shortest: float) -> Found:
    """Bracket a step that satisfies the strong Wolfe conditions (algorithm 3.5), then zoom in on it (3.6)."""
    def low_enough(trial: Trial) -> bool:
        return trial.value <= start.value + c1 * trial.step * start.slope

    def flat_enough(trial: Trial) -> bool:
        return abs(trial.slope) <= -c2 * start.slope

    def tried(t: float) -> Trial:
        trial = phi(t)
        return trial if is_finite(trial, start) else trial._replace(value=inf, slope=np.nan)

    before, trial, evaluations = start, tried(step), 1
    while low_enough(trial) and not (evaluations > 1 and trial.value >= before.value):
        if flat_enough(trial):
            return Found(trial, evaluations, True, "the strong Wolfe conditions hold")
        if trial.slope >= 0:
            break
        if evaluations == most:
            return Found(trial, evaluations, False, f"still falling steeply after {most} evaluations")
        t = trial.step
        longer = cubic(before, trial, t + 0.01 * (t - before.step), 10 * t)
        before, trial = trial, tried(longer)
        evaluations += 1

    low, high = (trial, before) if low_enough(trial) and trial.value < before.value else (before, trial)
    close = False                      # whether the latest trial was near an end of the bracket
    while evaluations < most:
        left, right = min(low.step, high.step), max(low.step, high.step)
        if right - left <= shortest:
            return Found(low, evaluations, False, "the bracket became too small to move x")
        if isfinite(high.value):
            t, margin = cubic(low, high, left, right), 0.1 * (right - left)
            near = min(right - t, t - left) < margin
            if near and (close or not left < t < right):
                t, near = (right - margin if right - t < t - left else left + margin), False
            close = near
        else:                          # (interpolation needs finite values)
            t = low.step + (0.1 if low is start else 0.5) * (high.step - low.step)
        trial = tried(t)
        evaluations += 1
        if not low_enough(trial) or trial.value >= low.value:
            high = trial
        else:
            if flat_enough(trial):
                return Found(trial, evaluations, True, "the strong Wolfe conditions hold")
            if trial.slope * (high.step - low.step) >= 0:
                high = low
            low = trial
    return Found(low, evaluations, False, f"no step satisfied the strong Wolfe conditions in {most} evaluations")


def is_finite(trial: Trial, start: Trial) -> bool:
    """Whether the value at a point is finite, and the gradient where there is one."""
    return isfinite(trial.value) and (start.gradient is None or (
        isfinite(trial.slope) and all_finite(trial.gradient)))


def all_finite(x: Any) -> bool:
    """Whether every element is finite. (`all` of an array calls this through Python code.)"""
    return bool(np.logical_and.reduce(np.isfinite(x), axis=None))


def cubic(a: Trial, b: Trial, low: float, high: float) -> float:
    """The minimum of the cubic through two points and their slopes, in [low, high]; the middle if there is none."""
    if a.step > b.step:
        a, b = b, a
    bend = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    square = bend * bend - a.slope * b.slope
    if square >= 0:
        root = sqrt(square)
        below = b.slope - a.slope + 2 * root
        if below != 0:
            t = b.step - (b.step - a.step) * ((b.slope + root - bend) / below)
            if isfinite(t):
                return min(max(t, low), high)
    return (low + high) / 2


# Arguments

def check_conditions(who: str, c1: float, c2: float) -> None:
    """ValueError unless a step that satisfies both conditions exists for these constants."""
    if not 0 < c1 < c2 < 1:
        raise ValueError(f"{who}: c1 and c2 must satisfy 0 < c1 < c2 < 1, got c1={c1}, c2={c2}")


def natural(who: str, name: str, value: Any, least: int = 1) -> int:
    """A count of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise ValueError(f"{who}: {name} must be an integer >= {least}, got {value!r}")
    return int(value.__index__())


def floats(who: str, name: str, x: Any) -> Array:
    """An argument as an array of floats, all of them finite."""
    array = np.asarray(x) if isinstance(x, float | int | list | tuple | np.generic) else as_array(x, f"{who}: {name}")
    if array.dtype not in (np.float32, np.float64):
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{who}: {name} must hold real numbers, got {array.dtype}")
        array = array.astype(np.float64)
    if not all_finite(array):
        raise ValueError(f"{who}: {name} must be finite")
    return array


def evaluated(returned: Any, x: Array, who: str) -> tuple[float, Array | None]:
    """The value and the gradient that a function returned."""
    gradient = None
    if isinstance(returned, tuple | list):
        if len(returned) != 2:
            raise TypeError(f"{who}: f must return a value or (value, gradient), it returned {len(returned)} things")
        returned, gradient = returned
        gradient = np.asarray(gradient) if isinstance(gradient, float | int | list | tuple | np.generic) else \
            as_array(gradient, f"{who}: the gradient")
        if gradient.shape != x.shape:
            raise ValueError(f"{who}: the gradient must have the shape of x, {x.shape}, got {gradient.shape}")
        gradient = gradient.astype(x.dtype)        # (a copy, as f may write to its array again)
    return number(returned, who, "f"), gradient


def number(value: Any, who: str, what: str) -> float:
    """A loss as a float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{who}: {what} must return a number as its value, got {type(value).__name__}") from None
