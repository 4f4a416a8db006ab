"""Limited-memory BFGS: a direction from the last few steps and changes of the gradient, and a line search along it."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, isfinite
from typing import Any, Literal

import numpy as np

from .._engine.tensors import Array, Tensor, values
from .bounds import read_bounds
from .declaration import Hyper, HyperParameter
from .linesearch import MOST_EVALUATIONS, Trial, all_finite, armijo, check_conditions, natural, number, strong_wolfe
from .plain_values import as_plain, from_plain, keeps_state
from .resumable import Assign, Resumable, bound_parameters, checked_gradient
from .structure import arranged

Closure = Callable[[], tuple[Any, Any]]

RATE = HyperParameter(1.0, 0.0, inf)
RATE.name = "lr"
COUNTS = ("t", "evaluations", "held", "newest")


class Setting:
    """A setting that is checked when it is set: `check` gets the class's name, the setting's and the value.

    (It has no `__get__`: so Python reads the value from the object's own attributes, a tenth of the time.)
    """

    def __init__(self, check: Callable[[str, str, Any], Any]) -> None:
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, opt: Any, value: Any) -> None:
        opt.__dict__[self.name] = self.check(type(opt).__name__, self.name, value)


def tolerance(who: str, name: str, value: Any) -> float:
    if not 0 <= value < inf:
        raise ValueError(f"{who}: {name} must be finite and >= 0, got {value}")
    return float(value)


def condition(who: str, name: str, value: Any) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{who}: {name} must be in (0, 1), got {value}")
    return float(value)


def search_kind(who: str, name: str, value: Any) -> Any:
    if value not in ("wolfe", "armijo", None):
        raise ValueError(f"{who}: {name} must be 'wolfe', 'armijo' or None, got {value!r}")
    return value


class LBFGS(Resumable):
    r"""Parameters move along a quasi-Newton direction, computed from the last few steps and changes of the gradient.

    .. math:: p \leftarrow p - t H g, \qquad s = p' - p, \quad y = g' - g

    with :math:`H` from the last `history` pairs (s, y) by the two-loop recursion, which starts with
    :math:`s^T y / y^T y` times the identity, and the step t from a line search. A pair is kept only where
    :math:`s^T y > \epsilon\, y^T y` (:math:`\epsilon` that of the dtype): other pairs, which a nonconvex function or
    rounding causes, could make the direction one of ascent. Should a direction be none of descent all the same, the
    pairs are dropped and the negative gradient is the direction.

    Parameters
    ----------
    params
        An array, a sequence or a mapping of arrays, float32 or float64, in any layout. They are updated in place.
    lr
        The first trial step of each search, 1 for the quasi-Newton step, or a schedule of `t`. In the first iteration
        it is at most lr / :math:`\|g\|_1`. Without a line search it is the step.
    history
        How many pairs are kept. They need 2 * history times the parameters' memory. (torch keeps 100; Nocedal & Wright
        advise 3 to 20.)
    max_iter, max_eval
        Iterations and evaluations of the closure in one `step`; max_eval is 1.25 * max_iter if not given.
    tolerance_grad
        A step ends when no element of the gradient is larger than this.
    tolerance_change
        A step also ends when no parameter moves, or the loss changes, by more than this.
    line_search
        "wolfe" (strong Wolfe conditions, see `line_search`), "armijo" (halving), or None (the step is `lr`).
    c1, c2
        The constants of its conditions.
    bounds
        A pair (low, high) for all parameters, or a mapping name -> pair; each a number, an array of the parameter's
        shape, or None. Parameters outside are first moved to their bounds. Elements at a bound that the negative
        gradient leads across stay, the direction is that of the others alone, and a search goes along the direction
        projected into the bounds, until the Armijo condition holds: "wolfe" is then "armijo". `tolerance_grad` is of
        the projected gradient.

    Where the loss or gradient is not finite, the trial step was too long; without a line search the parameters return
    to the values before the iteration, the pairs are dropped, and the step ends.

    Liu & Nocedal 1989, https://doi.org/10.1007/BF01589116; the condition on pairs is that of Byrd, Lu, Nocedal & Zhu
    1995, https://doi.org/10.1137/0916069; the search within bounds that of Bertsekas 1982,
    https://doi.org/10.1137/0320018. As ``torch.optim.LBFGS`` with ``line_search_fn="strong_wolfe"`` (here the
    default) or None, except for `history`, for the condition on pairs (there :math:`s^T y > 10^{-10}`, which depends on
    the unit of the loss), for directions that are none of descent, and where values are not finite. The dot products
    are NumPy's: their bits depend on the BLAS that it was built with.

    >>> import numpy as np, fastlr
    >>> p = np.array([-1.2, 1.0])
    >>> def closure():
    ...     x, off = p[0], p[1] - p[0] ** 2
    ...     return 100 * off**2 + (1 - x) ** 2, np.array([-400 * x * off - 2 * (1 - x), 200 * off])
    >>> opt = fastlr.LBFGS(p)
    >>> for _ in range(4):
    ...     loss = opt.step(closure)
    >>> p.round(5).tolist(), opt.reason
    ([1.0, 1.0], 'the slope is within tolerance_change')
    """

    def __init__(self, params: Any, lr: Hyper = 1.0, *, history: int = 10, max_iter: int = 20,
                 max_eval: int | None = None, tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9,
                 line_search: Literal["wolfe", "armijo"] | None = "wolfe", c1: float = 1e-4, c2: float = 0.9,
                 bounds: Any = None) -> None:
        who = type(self).__name__
        self._history = natural(who, "history", history)
        self.max_iter = max_iter
        self.max_eval = self.max_iter * 5 // 4 if max_eval is None else max_eval
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        self.line_search = line_search
        check_conditions(who, c1, c2)
        self.c1, self.c2 = c1, c2
        self.lr = lr
        self._kind, self._bound = bound_parameters(params, who, ("float32", "float64"),
                                                   cure="; let your model use float32 parameters")
        #: Where each parameter's elements are in a vector of all, and its shape.
        self._places: list[tuple[slice, tuple[int, ...]]] = []
        size = 0
        for tensor in self._bound:
            self._places.append((slice(size, size + tensor.array.size), tensor.array.shape))
            size += tensor.array.size
        wide = any(tensor.is_double for tensor in self._bound)
        self._dtype: Any = np.float64 if wide else np.float32
        self._bounds = read_bounds(bounds, self._bound, self._dtype, who)
        self._epsilon = float(np.finfo(self._dtype).eps)
        self._s: Array = np.zeros((self._history, size), self._dtype)
        self._y = np.zeros_like(self._s)
        self._d: Array = np.zeros(size, self._dtype)
        self._g = np.zeros_like(self._d)
        self._curves = [0.0] * self._history           # the products s.y of the pairs
        self._t = self._evaluations = self._held = self._newest = 0
        self._length = 0.0             # of the latest step, in units of _d; 0 where it gives no pair
        self._scale = 1.0              # the factor of the identity with which H starts
        self._errors: Any = None       # in a step, how the caller's NumPy treats errors
        self._reason: str | None = None

    max_iter: Any = Setting(natural)
    max_eval: Any = Setting(natural)
    tolerance_grad: Any = Setting(tolerance)
    tolerance_change: Any = Setting(tolerance)
    line_search: Any = Setting(search_kind)
    c1: Any = Setting(condition)
    c2: Any = Setting(condition)

    @property
    def history(self) -> int:
        """How many pairs are kept."""
        return self._history

    @property
    def reason(self) -> str | None:
        """Why the latest `step` ended."""
        return self._reason

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """The state of each parameter: ``opt.state[name][slot]``; the slots s and y have the pairs along axis 0."""
        return self._arrays()

    @property
    def lr(self) -> Hyper:
        """The first trial step of each search: a float or a schedule of t."""
        return self._lr

    @lr.setter
    def lr(self, value: Hyper) -> None:
        self._lr = RATE.checked(value, type(self).__name__)

    @property
    def t(self) -> int:
        """Iterations done."""
        return self._t

    @property
    def evaluations(self) -> int:
        """How often a closure was called, by all steps together."""
        return self._evaluations

    @property
    def _tensors(self) -> list[Tensor]:
        return self._bound

    # Stepping

    def step(self, closure: Closure) -> float:
        """Take up to `max_iter` iterations; the loss before the first of them.

        `closure()` computes (loss, gradients) at the current parameters, the gradients in the structure of the
        parameters (None: zero). Should it raise, the parameters return to their values after the last completed
        iteration.

        Raises
        ------
        TypeError, ValueError
            If the closure returns anything else. The parameters are as after the last completed iteration.
        FloatingPointError
            If the loss or its gradient is not finite at the given parameters. Nothing has changed.
        RuntimeError
            If this optimizer is stepping already.
        """
        who = type(self).__name__
        if not callable(closure):
            raise TypeError(f"{who}: step needs a closure that returns (loss, grads), got {type(closure).__name__}")
        check_conditions(who, self.c1, self.c2)
        if self._errors is not None:
            raise RuntimeError(f"{who}: this optimizer is stepping already")
        self._errors = np.geterr()
        try:
            # (trials whose values overflow are refused, and products that vanish are computed anew)
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                return self._step(closure)
        finally:
            self._errors = None

    def _step(self, closure: Closure) -> float:
        evaluations = self._evaluations
        if self._bounds is not None:
            self._scatter(self._bounds.project(self._gathered()))
        loss, g = self._evaluated(closure)
        if not (isfinite(loss) and all_finite(g)):
            self._evaluations = evaluations
            raise FloatingPointError(f"{type(self).__name__}: the loss and its gradient must be finite at the given "
                                     f"parameters, the loss is {loss}; nothing was changed")
        first = loss
        self._reason = self._converged(g)
        iterations = 0
        while self._reason is None:
            iterations += 1
            self._store_pair(g)
            iterate = self._iterated if self._bounds is None else self._iterated_within
            loss, g, unchanged = iterate(closure, loss, g, iterations == self.max_iter)
            if self._reason is None:
                self._reason = "max_iter iterations" if iterations == self.max_iter else \
                    "max_eval evaluations" if self._evaluations - evaluations >= self.max_eval else \
                    self._converged(g) or unchanged
        return first

    def _iterated(self, closure: Closure, loss: float, g: Array, last: bool) -> tuple[float, Array, str | None]:
        """One iteration: the loss and gradient after it, and which change was within tolerance_change."""
        d = self._direction(g)
        slope = float(np.dot(g, d))
        if not slope < 0 and self._held:
            self._held, self._scale = 0, 1.0
            d = -g
            slope = float(np.dot(g, d))
        lr = self._rate()
        step = min(1.0, 1.0 / absolute_sum(g)) * lr if self._t == 0 else lr
        if not slope <= -self.tolerance_change:
            self._reason = "the slope is within tolerance_change"
            return loss, g, None
        if step == 0:
            self._reason = "lr is 0"
            self._t += 1
            return loss, g, None
        x = self._gathered()
        reach = largest(d)

        def phi(t: float) -> Trial:
            self._scatter(x + d * t)
            value, gradient = self._evaluated(closure)
            return Trial(t, value, float(np.dot(gradient, d)), gradient)

        start = Trial(0.0, loss, slope, g)
        try:
            if self.line_search is None and last:
                end = Trial(step, loss, slope, g)      # (the next step evaluates the closure there)
            elif self.line_search is None:
                end = phi(step)
                if not (isfinite(end.value) and all_finite(end.gradient)):
                    self._reason, end = "the loss or its gradient is not finite after the step", start
            elif self.line_search == "armijo":
                end = armijo(phi, start, step, self.c1, 0.5, MOST_EVALUATIONS).trial
            else:
                end = strong_wolfe(phi, start, step, self.c1, self.c2, MOST_EVALUATIONS,
                                   self.tolerance_change / reach).trial
        except BaseException:
            self._scatter(x)
            raise
        self._scatter(x + d * end.step if end.step else x)
        if self._reason is not None:
            self._held, self._length, self._scale = 0, 0.0, 1.0
            return loss, g, None
        self._t += 1
        self._d[...], self._g[...], self._length = d, g, end.step
        unchanged = None
        if reach * end.step <= self.tolerance_change:
            unchanged = "the parameters moved by no more than tolerance_change"
        elif abs(end.value - loss) < self.tolerance_change:
            unchanged = "the loss changed by less than tolerance_change"
        return end.value, end.gradient, unchanged

    def _iterated_within(self, closure: Closure, loss: float, g: Array, last: bool) -> tuple[float, Array, str | None]:
        """One iteration within bounds: as `_iterated`, along a direction that is projected."""
        assert self._bounds is not None
        bounds, x = self._bounds, self._gathered()
        free = ~bounds.blocked(x, g)
        d = self._direction(g * free, free)
        if not float(np.dot(g, d)) < 0:
            d = -g * free
        if not float(np.dot(g, d)) <= -self.tolerance_change:
            self._reason = "the slope is within tolerance_change"
            return loss, g, None
        step = self._rate() * (min(1.0, 1.0 / absolute_sum(g)) if self._t == 0 else 1.0)
        if step == 0:
            self._reason = "lr is 0"
            self._t += 1
            return loss, g, None
        try:
            for _ in range(MOST_EVALUATIONS):
                there = bounds.project(x + d * step)
                moved = there - x
                self._scatter(there)
                if self.line_search is None and last:
                    value, gradient = loss, g          # (the next step evaluates the closure there)
                    break
                value, gradient = self._evaluated(closure)
                whole = isfinite(value) and all_finite(gradient)
                if whole and (self.line_search is None or value <= loss + self.c1 * float(np.dot(g, moved))):
                    break
                if self.line_search is None:
                    self._reason = "the loss or its gradient is not finite after the step"
                    break
                step /= 2
            else:
                self._reason = "no step was found that lowers the loss"
        except BaseException:
            self._scatter(x)
            raise
        if self._reason is not None:
            self._scatter(x)
            self._held, self._length, self._scale = 0, 0.0, 1.0
            return loss, g, None
        self._t += 1
        self._d[...], self._g[...], self._length = moved, g, 1.0
        unchanged = None
        if largest(moved) <= self.tolerance_change:
            unchanged = "the parameters moved by no more than tolerance_change"
        elif abs(value - loss) < self.tolerance_change:
            unchanged = "the loss changed by less than tolerance_change"
        return value, gradient, unchanged

    def _store_pair(self, g: Array) -> None:
        """Keep the latest step and the change of the gradient along it, where s.y > epsilon y.y."""
        if not self._length:
            return
        y: Array = g - self._g
        s: Array = self._d * self._length
        curve, scale = curvature(y, s)
        if scale > self._epsilon and abs(curve) >= np.finfo(self._dtype).tiny:
            self._newest = (self._newest + 1) % self._history if self._held else 0
            self._held = min(self._held + 1, self._history)
            self._s[self._newest], self._y[self._newest], self._curves[self._newest] = s, y, curve
            self._scale = scale
        self._length = 0.0

    def _direction(self, g: Array, free: Array | None = None) -> Array:
        """-H g by the two-loop recursion; where only some elements are free, of those alone."""
        rows = [(self._newest - k) % self._history for k in range(self._held)]
        if free is not None and not free.all():
            return self._direction_of(g[free], free, rows)
        q: Array = -g
        along: dict[int, float] = {}
        for k in rows:
            along[k] = float(np.dot(self._s[k], q)) / self._curves[k]
            q -= along[k] * self._y[k]
        q *= self._scale
        for k in reversed(rows):
            q += (along[k] - float(np.dot(self._y[k], q)) / self._curves[k]) * self._s[k]
        return q

    def _direction_of(self, g: Array, free: Array, rows: list[int]) -> Array:
        """The same of the free elements, with the pairs that are of positive curvature among them."""
        pairs = []
        for k in rows:
            s, y = self._s[k][free], self._y[k][free]
            curve, scale = curvature(y, s)
            if scale > self._epsilon and curve >= np.finfo(self._dtype).tiny:
                pairs.append((s, y, curve, scale))
        q: Array = -g
        along = []
        for s, y, curve, _ in pairs:
            along.append(float(np.dot(s, q)) / curve)
            q -= along[-1] * y
        q *= pairs[0][3] if pairs else 1.0
        for (s, y, curve, _), a in zip(reversed(pairs), reversed(along), strict=True):
            q += (a - float(np.dot(y, q)) / curve) * s
        d = np.zeros_like(self._d)
        d[free] = q
        return d

    def _converged(self, g: Array) -> str | None:
        if self._bounds is not None:
            x = self._gathered()
            g = x - self._bounds.project(x - g)
        within = largest(g) <= self.tolerance_grad
        return "the gradient is within tolerance_grad" if within else None

    def _rate(self) -> float:
        value = self._lr(self._t) if callable(self._lr) else self._lr
        if not 0 <= float(value) < inf:
            raise ValueError(f"LBFGS: lr must be in [0, inf), its schedule gave {value} at t = {self._t}")
        return float(value)

    # Parameters as one vector

    def _evaluated(self, closure: Closure) -> tuple[float, Array]:
        who = type(self).__name__
        self._evaluations += 1
        with np.errstate(**self._errors):
            returned = closure()
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise TypeError(f"{who}: the closure must return (loss, grads), it returned {type(returned).__name__}")
        loss = number(returned[0], who, "the closure")
        g = np.empty(self._g.shape, self._dtype)
        given = arranged(self._kind, returned[1], who, "grads")
        for part, tensor, gradient in zip(self._parts(g), self._bound, given, strict=True):
            checked = checked_gradient(tensor, gradient)
            part[...] = 0 if checked is None else values(checked)
        return loss, g

    def _gathered(self) -> Array:
        x = np.empty(self._g.shape, self._dtype)
        for part, tensor in zip(self._parts(x), self._bound, strict=True):
            part[...] = tensor.array
        return x

    def _scatter(self, x: Array) -> None:
        for part, tensor in zip(self._parts(x), self._bound, strict=True):
            tensor.array[...] = part
        self._parameters_written()

    def _parts(self, x: Array) -> list[Array]:
        """The last axis of an array split into the parameters' shapes, as views."""
        if x.ndim == 1:                # (several times in each iteration)
            return [x[place].reshape(shape) for place, shape in self._places]
        return [x[..., place].reshape((*x.shape[:-1], *shape)) for place, shape in self._places]

    # State

    def _arrays(self) -> dict[str, dict[str, Array]]:
        slots = {"d": self._d, "g": self._g, "s": self._s, "y": self._y}
        cut = {slot: self._parts(array) for slot, array in slots.items()}
        return {tensor.name: {slot: cut[slot][k] for slot in slots} for k, tensor in enumerate(self._bound)}

    def _plain_state(self) -> dict[str, Any]:
        return {"lr": as_plain(self._lr), "evaluations": self._evaluations, "held": self._held, "newest": self._newest,
                "length": self._length, "scale": self._scale, "curves": list(self._curves)}

    def _require_ready(self, what: str) -> None:
        if self._errors is not None:
            raise RuntimeError(f"{type(self).__name__}.{what}: this optimizer is stepping")

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        lr = RATE.checked(from_plain(d["lr"], self._lr, "lr", who), who)
        most = {"held": self.history, "newest": self.history - 1}
        for name in COUNTS:
            if type(d[name]) is not int or not 0 <= d[name] <= most.get(name, 2**62):
                raise ValueError(f"{who}: {name} must be a count up to {most.get(name, 2**62)}, got {d[name]!r}")
        curves = d["curves"]
        if not isinstance(curves, list) or len(curves) != self.history:
            raise ValueError(f"{who}: curves must be a list of {self.history} numbers, as many as history")
        for value in (d["length"], d["scale"], *curves):
            if type(value) not in (int, float) or not 0 <= value < inf:
                raise ValueError(f"{who}: length, scale and curves must be finite numbers >= 0, got {value!r}")
        if not all(curves[(d["newest"] - k) % self._history] for k in range(d["held"])):
            raise ValueError(f"{who}: the curves of the {d['held']} kept pairs must be positive")

        def assign() -> None:
            if keeps_state(lr):
                lr.load_state_dict(d["lr"]["state"])        # type: ignore[union-attr]
            self._lr = lr
            self._t, self._evaluations, self._held, self._newest = (d[name] for name in COUNTS)
            self._length, self._scale, self._curves = float(d["length"]), float(d["scale"]), [float(c) for c in curves]

        return assign

    def __repr__(self) -> str:
        lr = f"lr={self._lr!r}, " if self._lr != 1.0 else ""
        size, stored = self._g.size, sum(a.nbytes for a in (self._s, self._y, self._d, self._g))
        count = len(self._bound)
        return (f"LBFGS({lr}line_search={self.line_search!r}, history={self.history}; {count} "
                f"tensor{'s' * (count != 1)}, {size:,} elements, {stored:,} bytes of state, t={self._t})")


def largest(x: Array) -> float:
    """The largest absolute value; 0 if there is none. (`max` of an array calls this through Python code.)"""
    return float(np.maximum.reduce(np.abs(x), initial=0.0))


def absolute_sum(g: Array) -> float:
    """The sum of absolute values, at most the largest float."""
    total = float(np.abs(g).sum())
    return total if isfinite(total) else min(float(np.abs(g).sum(dtype=np.float64)), float(np.finfo(np.float64).max))


def curvature(y: Array, s: Array) -> tuple[float, float]:
    """s.y and s.y / y.y, also where y.y overflows or vanishes; zeros where they are not finite."""
    curve, square = float(np.dot(y, s)), float(np.dot(y, y))
    if not (0 < square < inf and isfinite(curve)):
        if not np.count_nonzero(y):    # (the gradient has not changed)
            return 0.0, 0.0
        size_y, size_s = largest(y), largest(s)
        if not (0 < size_y < inf and 0 < size_s < inf):
            return 0.0, 0.0
        unit_y, unit_s = np.float64(y) / size_y, np.float64(s) / size_s
        curve, square = float(np.dot(unit_y, unit_s)), float(np.dot(unit_y, unit_y))
        return finite(curve * size_s * size_y), finite(curve / square * size_s / size_y)
    return finite(curve), finite(curve / square)


def finite(x: float) -> float:
    return x if isfinite(x) else 0.0
