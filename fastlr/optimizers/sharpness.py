"""Sharpness-aware minimization: a wrapper whose step needs two gradients."""
from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np

from .._engine.foreach import foreach
from .._engine.tensors import Array, Tensor
from .resumable import Assign, flattened, is_plain, parameters_written, refuse_replaced, write_back
from .wrappers import Wrapper, positive

ORIGIN, PERTURBED, RETURNED = "origin", "perturbed", "returned"    # where the parameters are


class SAM(Wrapper):
    r"""Sharpness-aware minimization: a step with the gradient at a point to which a small step of ascent leads.

    .. math:: \epsilon = \rho\, \frac{g}{\|g\| + 10^{-12}}, \qquad \epsilon = \rho\, \frac{T^2 g}{\|T g\| + 10^{-12}},
        \; T = |p| + \eta

    (the second where `adaptive`: ASAM), with the norm over all parameters together. A step has two parts, as two
    gradients are needed::

        sam.ascend(grads)      # the gradients at p; the parameters are now p + epsilon
        sam.step(grads)        # the gradients there; the parameters return to p, then the optimizer steps

    The return to p is exact, bit for bit. `retreat` returns without a step. If `step` raises, the parameters are
    p + epsilon, as `ascend` left them. Needs one more array of the parameters' size, and during a step one more of
    each parameter that is not contiguous float32 or float64. Foret et al. 2021, https://arxiv.org/abs/2010.01412;
    Kwon et al. 2021, https://arxiv.org/abs/2102.11600 (with eta = 0.01). As pytorch-optimizer's, whose eta is 0, and as
    ``optax.contrib.sam`` with a normalized SGD as the adversary.

    `rho` is SAM's own, also around an optimizer that has one (AdaDelta, Sophia), which is ``sam.inner.rho``.

    >>> import numpy as np, fastlr
    >>> p = np.array([3.0, 4.0])
    >>> sam = fastlr.SAM(fastlr.SGD(p, lr=0.5), rho=1.0)
    >>> sam.ascend(p.copy())
    >>> p.round(6).tolist()
    [3.6, 4.8]
    >>> sam.step(p.copy())
    >>> p.round(6).tolist()
    [1.2, 1.6]
    """

    _outermost = _needs_gradients = True
    _instead_of_rows = ("use sam.inner.step_rows, for a tensor whose gradient is None in ascend and in step (rows of a "
                        "perturbed one would be lost)")

    def __init__(self, opt: Any, rho: float = 0.05, adaptive: bool = False, eta: float = 0.0) -> None:
        super().__init__(opt)
        if not 0 <= eta < inf:
            raise ValueError(f"SAM: eta must be finite and >= 0, got {eta}")
        self.rho = rho
        self._adaptive, self._eta = bool(adaptive), float(eta)
        #: ORIGIN, PERTURBED, or RETURNED: at the origin for the optimizer's step, the perturbed values in `_other`.
        self._place = [ORIGIN]
        #: Of the plain tensors that `ascend` moved: their elements, and those of `_other`.
        self._rows: tuple[list[Array], list[Array]] = [], []
        self._copied: list[Tensor] = []                # the other tensors that `ascend` moved
        #: The values at the origin by name; where RETURNED and the parameter is plain, the perturbed values.
        self._other: dict[str, Array] = {}
        self._perturbed: dict[str, Array] = {}         # in a step, the perturbed values of the other parameters
        self._t_before = 0                             # t when the latest step began

    @property
    def rho(self) -> float:
        """The length of the step of ascent."""
        return self._rho

    @rho.setter
    def rho(self, value: float) -> None:
        self._rho = positive(type(self).__name__, "rho", value)

    @property
    def adaptive(self) -> bool:
        """Whether each element moves in proportion to its size (ASAM)."""
        return self._adaptive

    @property
    def eta(self) -> float:
        """The number that is added to that size."""
        return self._eta

    @property
    def ascended(self) -> bool:
        """Whether the parameters are perturbed: `ascend` was called, and neither `step` nor `retreat` since."""
        # (an interrupt may come when the optimizer's step is done and RETURNED is still recorded: t tells)
        return self._place[0] == PERTURBED or (self._place[0] == RETURNED and self.inner.t == self._t_before)

    def ascend(self, grads: Any) -> None:
        """Perturb the parameters; those whose gradient is None stay. RuntimeError if they are perturbed already."""
        if self.ascended:
            raise RuntimeError("SAM: the parameters are perturbed already; call step(grads) or retreat() first")
        refuse_replaced(self)
        pairs = [(tensor, g) for tensor, g in zip(self._tensors, self._gradients(grads), strict=True) if g is not None]
        points, slopes = [flattened(tensor.array) for tensor, _ in pairs], [flattened(g) for _, g in pairs]
        norm = norm_of(points, slopes, self._eta, self._adaptive)
        origins: list[Array] = []
        plain: tuple[list[Array], list[Array]] = [], []
        copied: list[tuple[Tensor, Array]] = []
        for (tensor, _), point in zip(pairs, points, strict=True):
            array = np.asarray(tensor.array)
            origin = self._other.get(tensor.name)
            if origin is None or origin.shape != array.shape or origin.dtype != array.dtype:
                origin = self._other[tensor.name] = np.empty(array.shape, array.dtype)
            if is_plain(tensor.array):
                origins.append(origin.reshape(-1))     # (written in the pass that moves the parameter)
                plain[0].append(point)
                plain[1].append(origins[-1])
            else:
                origin[...] = array
                origins.append(np.empty_like(point))
                copied.append((tensor, point))
        self._place[0] = ORIGIN
        self._rows, self._copied = plain, [tensor for tensor, _ in copied]
        try:
            foreach("ascend", points, slopes, origins, weight=self._rho / (norm + 1e-12), eta=self._eta,
                    adaptive=self._adaptive, record=self._place, entry=PERTURBED)
            for tensor, point in copied:
                write_back(tensor.array, point)
            parameters_written(self.inner)
        except BaseException:
            self.retreat()
            raise

    def retreat(self) -> None:
        """Return the parameters to their values before `ascend`, without a step; no effect if they have those."""
        if not self.ascended:
            return
        if self._place[0] == PERTURBED:
            foreach("copy", *self._rows)
        for tensor in self._copied:
            np.asarray(tensor.array)[...] = self._other[tensor.name]
        parameters_written(self.inner)
        self._place[0] = ORIGIN

    def step(self, grads: Any, **keywords: Any) -> None:
        """Return, and take the optimizer's step with these gradients. RuntimeError if `ascend` was not called."""
        if not self.ascended:
            raise RuntimeError("SAM: step(grads) takes the gradients at the perturbed parameters; call ascend(grads) "
                               "first")
        if grads is None:
            self._gradients(grads)
        self._t_before = self.inner.t
        try:
            self._return()
            self.inner.step(grads, **keywords)
            self._place[0] = ORIGIN
        except BaseException:
            if self.ascended:
                self._perturb_again()
            raise

    def _return(self) -> None:
        """Set the parameters to their values before `ascend`, and keep the perturbed values."""
        self._perturbed = {}
        for tensor in self._copied:
            array = np.asarray(tensor.array)
            self._perturbed[tensor.name] = array.copy()
            array[...] = self._other[tensor.name]
        if self._place[0] == PERTURBED:
            foreach("swap", *self._rows, record=self._place, entry=RETURNED)
        parameters_written(self.inner)

    def _perturb_again(self) -> None:
        """Undo `_return`, wherever it was stopped."""
        if self._place[0] == RETURNED:
            foreach("swap", *self._rows, record=self._place, entry=PERTURBED)
        for tensor in self._copied:
            if tensor.name in self._perturbed:
                np.asarray(tensor.array)[...] = self._perturbed[tensor.name]
        parameters_written(self.inner)

    def add(self, *_: Any, **__: Any) -> None:
        """Refused: SAM needs the whole gradient at two points."""
        raise TypeError("SAM: cannot add up the gradients of batches; average them first and pass the mean to ascend "
                        "and to step")

    def accumulate(self, grads: Any = None, **keywords: Any) -> None:
        """`accumulate` of the optimizer, with gradients at the perturbed parameters. RuntimeError elsewhere."""
        if not self.ascended:
            raise RuntimeError("SAM: accumulate(grads) takes gradients at the perturbed parameters; call ascend(grads) "
                               "first")
        self.inner.accumulate(grads, **keywords)

    def _settings(self) -> dict[str, Any]:
        return {"rho": self._rho} | ({"adaptive": True, "eta": self._eta} if self._adaptive else {})

    def _plain_state(self) -> dict[str, Any]:
        return {"rho": self._rho, "adaptive": self._adaptive, "eta": self._eta}

    def _require_ready(self, what: str) -> None:
        if self.ascended:
            raise RuntimeError(f"SAM.{what}: the parameters are perturbed; call step(grads) or retreat() first")

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        rho, eta = positive(who, "rho", d["rho"]), d["eta"]
        if not isinstance(d["adaptive"], bool) or type(eta) not in (int, float) or not 0 <= eta < inf:
            raise ValueError(f"{who}: adaptive must be a bool and eta finite and >= 0, got {d['adaptive']!r}, {eta!r}")

        def assign() -> None:
            self._rho, self._adaptive, self._eta = rho, d["adaptive"], float(eta)

        return assign


def norm_of(points: list[Array], slopes: list[Array], eta: float, adaptive: bool) -> float:
    """The norm of the gradients, or where adaptive of (|p| + eta) g; also where their squares overflow or vanish."""
    total = foreach("sum_squares", points, slopes, eta=eta, adaptive=adaptive)
    if 1e-280 < total < inf or not slopes:
        return sqrt(total)
    with np.errstate(all="ignore"):
        terms = [(np.abs(p) + eta) * np.float64(g) if adaptive else np.float64(g)
                 for p, g in zip(points, slopes, strict=True)]
        largest = max(float(np.abs(term).max(initial=0.0)) for term in terms)
        if largest == 0 or not isfinite(largest):
            return sqrt(total)
        return largest * sqrt(sum(float(np.square(term / largest).sum()) for term in terms))
