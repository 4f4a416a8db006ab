"""Limited-memory BFGS: a direction from the last few changes of the gradient, and a search along it."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, isfinite
from typing import Any, Literal

import numpy as np

from .._engine.tensors import Array, Tensor, values
from .declaration import Hyper, HyperParameter
from .linesearch import MOST_EVALUATIONS, Trial, armijo, check_conditions, natural, number, strong_wolfe
from .resumable import Act, Resumable, gradients, held
from .state import as_plain, from_plain, keeps_state

Closure = Callable[[], tuple[Any, Any]]

RATE = HyperParameter(1.0, 0.0, inf)
RATE.name = "lr"
COUNTS = ("t", "evaluations", "held", "newest")


class LBFGS(Resumable):
    r"""Parameters move along a quasi-Newton direction made of the last few steps and what they did to the gradient.

    .. math:: p \leftarrow p - t H g, \qquad s = p' - p, \quad y = g' - g

    with :math:`H` from the last `history` pairs (s, y) by the two-loop recursion, which begins at
    :math:`s^T y / y^T y`, and the step t from a line search. A pair is taken only where
    :math:`s^T y > \epsilon\, y^T y` (:math:`\epsilon` that of the dtype): what a nonconvex function or rounding makes
    of the others would turn the direction uphill. Should a direction not point downhill all the same, the pairs are
    forgotten and the gradient's is taken.

    Parameters
    ----------
    params
        An array, a sequence or a mapping of arrays, float32 or float64, in any layout. They are updated in place.
    lr
        The first trial of each search, 1 for Newton's own step, or a schedule of `t`. The very first is at most
        lr / :math:`\|g\|_1`. Without a line search it is the step.
    history
        How many pairs are kept. They take 2 * history times the parameters' memory. (torch keeps 100; Nocedal & Wright
        advise 3 to 20.)
    max_iter, max_eval
        Iterations and evaluations of the closure in one `step`; max_eval is 1.25 * max_iter if not given.
    tolerance_grad
        A step ends when no element of the gradient is larger,
    tolerance_change
        and when no parameter moves, or the loss changes, by more than this.
    line_search
        "wolfe" (strong Wolfe conditions, see `line_search`), "armijo" (halving), or None (steps of `lr`).
    c1, c2
        The constants of its conditions.

    A loss or gradient that is not finite makes a trial too long; without a line search the parameters go back, the
    pairs are forgotten, and the step ends.

    Liu & Nocedal 1989, https://doi.org/10.1007/BF01589116; the guard is that of Byrd, Lu, Nocedal & Zhu 1995,
    https://doi.org/10.1137/0916069. As ``torch.optim.LBFGS`` with ``line_search_fn="strong_wolfe"`` (here the default)
    or None, except for `history`, for the guard (there :math:`s^T y > 10^{-10}`, which depends on the loss's unit), for
    directions that do not point downhill, and for what is not finite. The dot products are NumPy's: their bits depend
    on the BLAS that it was built with.

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
                 line_search: Literal["wolfe", "armijo"] | None = "wolfe", c1: float = 1e-4, c2: float = 0.9) -> None:
        who = type(self).__name__
        self.history = natural(who, "history", history)
        self.max_iter = natural(who, "max_iter", max_iter)
        self.max_eval = self.max_iter * 5 // 4 if max_eval is None else natural(who, "max_eval", max_eval)
        for name, tolerance in (("tolerance_grad", tolerance_grad), ("tolerance_change", tolerance_change)):
            if not 0 <= tolerance < inf:
                raise ValueError(f"{who}: {name} must be finite and >= 0, got {tolerance}")
        self.tolerance_grad, self.tolerance_change = float(tolerance_grad), float(tolerance_change)
        if line_search not in ("wolfe", "armijo", None):
            raise ValueError(f"{who}: line_search must be 'wolfe', 'armijo' or None, got {line_search!r}")
        check_conditions(who, c1, c2)
        self.line_search, self.c1, self.c2 = line_search, float(c1), float(c2)
        self.lr = lr
        self._kind, self._bound = held(params, who, ("float32", "float64"), cure="; give it a float32 copy")
        size = sum(tensor.array.size for tensor in self._bound)
        wide = any(tensor.is_double for tensor in self._bound)
        self._dtype: Any = np.float64 if wide else np.float32
        self._guard = float(np.finfo(self._dtype).eps)
        self._s: Array = np.zeros((self.history, size), self._dtype)
        self._y = np.zeros_like(self._s)
        self._d: Array = np.zeros(size, self._dtype)
        self._g = np.zeros_like(self._d)
        self._curves = [0.0] * self.history
        self._t = self._evaluations = self._held = self._newest = 0
        self._length = 0.0             # of the latest step, in units of _d; 0 where it makes no pair
        self._scale = 1.0
        self._stepping = False
        #: Why the latest `step` ended.
        self.reason: str | None = None
        #: The state of each parameter: ``opt.state[name][slot]``; the slots s and y have the pairs along a first axis.
        self.state = self._arrays()

    @property
    def lr(self) -> Hyper:
        """The first trial of each search: a float or a schedule of t."""
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

        `closure()` computes (loss, gradients) at the parameters as they are then, the gradients in the structure of the
        parameters (None: zero). Should it raise, the parameters go back to the last iteration that was completed.

        Raises
        ------
        TypeError, ValueError
            If the closure returns anything else. The parameters are those of the last completed iteration.
        FloatingPointError
            If the loss or its gradient is not finite at the parameters as they were given. Nothing has changed.
        RuntimeError
            If this optimizer is stepping already.
        """
        who = type(self).__name__
        if not callable(closure):
            raise TypeError(f"{who}: step needs a closure that returns (loss, grads), got {type(closure).__name__}")
        if self._stepping:
            raise RuntimeError(f"{who}: this optimizer is stepping already")
        self._stepping, self._errors = True, np.geterr()
        try:
            with np.errstate(over="ignore", invalid="ignore"):       # (what overflows is refused as a trial)
                return self._step(closure)
        finally:
            self._stepping = False

    def _step(self, closure: Closure) -> float:
        evaluations = self._evaluations
        loss, g = self._evaluated(closure)
        if not (isfinite(loss) and np.isfinite(g).all()):
            self._evaluations = evaluations
            raise FloatingPointError(f"{type(self).__name__}: the loss and its gradient must be finite to begin with, "
                                     f"the loss is {loss}; nothing was changed")
        first = loss
        self.reason = self._flat(g)
        iterations = 0
        while self.reason is None:
            iterations += 1
            self._remember(g)
            loss, g, still = self._iterated(closure, loss, g, iterations == self.max_iter)
            if self.reason is None:
                self.reason = "max_iter iterations" if iterations == self.max_iter else \
                    "max_eval evaluations" if self._evaluations - evaluations >= self.max_eval else \
                    self._flat(g) or still
        return first

    def _iterated(self, closure: Closure, loss: float, g: Array, last: bool) -> tuple[float, Array, str | None]:
        """One iteration: the loss and gradient where it ends, and what stood still in it."""
        d = self._direction(g)
        slope = float(np.dot(g, d))
        if not slope < 0 and self._held:
            self._held, self._scale = 0, 1.0
            d = -g
            slope = float(np.dot(g, d))
        lr = self._rate()
        step = min(1.0, 1.0 / float(np.abs(g).sum())) * lr if self._t == 0 else lr
        if not slope <= -self.tolerance_change:
            self.reason = "the slope is within tolerance_change"
            return loss, g, None
        if step == 0:
            self.reason = "lr is 0"
            self._t += 1
            return loss, g, None
        x = self._gathered()
        reach = float(np.abs(d).max())

        def phi(t: float) -> Trial:
            self._scatter(x + d * t)
            value, gradient = self._evaluated(closure)
            return Trial(t, value, float(np.dot(gradient, d)), gradient)

        start = Trial(0.0, loss, slope, g)
        try:
            if self.line_search is None and last:
                end = Trial(step, loss, slope, g)      # (what is there, the next step will ask first)
            elif self.line_search is None:
                end = phi(step)
                if not (isfinite(end.value) and np.isfinite(end.gradient).all()):
                    self.reason, end = "the loss or its gradient is not finite there", start
            elif self.line_search == "armijo":
                end = armijo(phi, start, step, self.c1, 0.5, MOST_EVALUATIONS).trial
            else:
                end = strong_wolfe(phi, start, step, self.c1, self.c2, MOST_EVALUATIONS,
                                   self.tolerance_change / reach).trial
        except BaseException:
            self._scatter(x)
            raise
        self._scatter(x + d * end.step if end.step else x)
        if self.reason is not None:
            self._held, self._length, self._scale = 0, 0.0, 1.0
            return loss, g, None
        self._t += 1
        self._d[...], self._g[...], self._length = d, g, end.step
        still = "the parameters stand still" if reach * end.step <= self.tolerance_change else \
            "the loss stands still" if abs(end.value - loss) < self.tolerance_change else None
        return end.value, end.gradient, still

    def _remember(self, g: Array) -> None:
        """Keep what the latest step and the change of the gradient along it say of the curvature, if that is sound."""
        if not self._length:
            return
        y: Array = g - self._g
        s: Array = self._d * self._length
        curve, square = float(np.dot(y, s)), float(np.dot(y, y))
        if curve > self._guard * square and isfinite(1 / curve) and isfinite(square):
            self._newest = (self._newest + 1) % self.history if self._held else 0
            self._held = min(self._held + 1, self.history)
            self._s[self._newest], self._y[self._newest], self._curves[self._newest] = s, y, curve
            self._scale = curve / square
        self._length = 0.0

    def _direction(self, g: Array) -> Array:
        """-H g by the two-loop recursion."""
        rows = [(self._newest - k) % self.history for k in range(self._held)]
        q: Array = -g
        along: dict[int, float] = {}
        for k in rows:
            along[k] = float(np.dot(self._s[k], q)) / self._curves[k]
            q -= along[k] * self._y[k]
        q *= self._scale
        for k in reversed(rows):
            q += (along[k] - float(np.dot(self._y[k], q)) / self._curves[k]) * self._s[k]
        return q

    def _flat(self, g: Array) -> str | None:
        within = float(np.abs(g).max(initial=0.0)) <= self.tolerance_grad
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
        g = np.zeros(self._g.shape, self._dtype)
        for part, gradient in zip(self._parts(g), gradients(self._bound, self._kind, returned[1], who), strict=True):
            if gradient is not None:
                part[...] = values(gradient)
        return loss, g

    def _gathered(self) -> Array:
        x = np.empty(self._g.shape, self._dtype)
        for part, tensor in zip(self._parts(x), self._bound, strict=True):
            part[...] = tensor.array
        return x

    def _scatter(self, x: Array) -> None:
        for part, tensor in zip(self._parts(x), self._bound, strict=True):
            tensor.array[...] = part

    def _parts(self, x: Array) -> list[Array]:
        """The last axis of an array cut into the parameters' shapes, as views."""
        parts, begin = [], 0
        for tensor in self._bound:
            size, shape = tensor.array.size, tensor.array.shape
            parts.append(x[..., begin:begin + size].reshape((*x.shape[:-1], *shape)))
            begin += size
        return parts

    # State

    def _arrays(self) -> dict[str, dict[str, Array]]:
        slots = {"d": self._d, "g": self._g, "s": self._s, "y": self._y}
        cut = {slot: self._parts(array) for slot, array in slots.items()}
        return {tensor.name: {slot: cut[slot][k] for slot in slots} for k, tensor in enumerate(self._bound)}

    def _plain(self) -> dict[str, Any]:
        return {"lr": as_plain(self._lr), "evaluations": self._evaluations, "held": self._held, "newest": self._newest,
                "length": self._length, "scale": self._scale, "curves": list(self._curves)}

    def _settled(self, what: str) -> None:
        if self._stepping:
            raise RuntimeError(f"{type(self).__name__}.{what}: this optimizer is stepping")

    def _revived(self, d: Mapping[str, Any], who: str) -> Act:
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
        if not all(curves[(d["newest"] - k) % self.history] for k in range(d["held"])):
            raise ValueError(f"{who}: the curves of the pairs that are held must be positive")

        def act() -> None:
            if keeps_state(lr):
                lr.load_state_dict(d["lr"]["state"])        # type: ignore[union-attr]
            self._lr = lr
            self._t, self._evaluations, self._held, self._newest = (d[name] for name in COUNTS)
            self._length, self._scale, self._curves = float(d["length"]), float(d["scale"]), [float(c) for c in curves]

        return act

    def __repr__(self) -> str:
        lr = f"lr={self._lr!r}, " if self._lr != 1.0 else ""
        size, stored = self._g.size, sum(a.nbytes for a in (self._s, self._y, self._d, self._g))
        count = len(self._bound)
        return (f"LBFGS({lr}line_search={self.line_search!r}, history={self.history}; {count} "
                f"tensor{'s' * (count != 1)}, {size:,} elements, {stored:,} bytes of state, t={self._t})")
