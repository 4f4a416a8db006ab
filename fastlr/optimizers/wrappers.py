"""What goes around any optimizer: Lookahead, SAM, accumulation and centralisation of gradients."""
from __future__ import annotations

from collections.abc import Mapping
from math import inf, sqrt
from typing import Any

import numpy as np

from .._engine.blend import blend
from .._engine.tensors import Array, Tensor
from .base import Optimizer
from .linesearch import natural
from .quasi_newton import LBFGS
from .resumable import Act, Resumable, cast, checked, flat, give, innermost, tensors_of


class Wrapper(Resumable):
    """What all wrappers are: anything they do not have themselves (lr, groups, state, ...) is that of the optimizer
    inside, `inner`, and is read and set here as there. They nest, but for SAM inside another."""

    def __init__(self, opt: Any) -> None:
        if not isinstance(opt, Optimizer | Wrapper) and not (isinstance(opt, LBFGS) and isinstance(self, Lookahead)):
            raise TypeError(f"{type(self).__name__}: needs a fastlr optimizer that steps with gradients, "
                            f"got {type(opt).__name__}")
        if isinstance(opt, SAM):
            raise TypeError(f"{type(self).__name__}: SAM goes outermost, as its step has two parts; wrap what is in it")
        self.inner = opt
        self._own: dict[str, dict[str, Array]] = {}

    @property
    def t(self) -> int:
        """Updates done."""
        return int(self.inner.t)

    @property
    def _tensors(self) -> list[Tensor]:
        return tensors_of(self.inner)

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return self._own

    def _grow(self) -> None:
        """Room for what is remembered of parameters that are new."""

    def add_group(self, params: Any, **hyper: Any) -> Any:
        """Take more parameters, as the optimizer inside does."""
        group = self.inner.add_group(params, **hyper)
        self._grow()
        return group

    def step_rows(self, *_: Any, **__: Any) -> None:
        """Refused: a wrapper moves whole tensors."""
        raise TypeError(f"{type(self).__name__}: does not step over rows; use the optimizer inside, "
                        f"opt.inner.step_rows")

    def _gradients(self, grads: Any) -> list[Array | None]:
        if grads is None:
            raise TypeError(f"{type(self).__name__}: needs the gradients as an argument (those bound to the optimizer "
                            f"are its own)")
        tensors = self._tensors
        return [checked(tensor, g) for tensor, g in zip(tensors, innermost(self)._arranged(grads), strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self.inner is None:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or hasattr(type(self), name):
            object.__setattr__(self, name, value)
        elif isinstance(self.inner, Wrapper) or hasattr(type(self.inner), name):
            setattr(self.inner, name, value)
        else:
            raise AttributeError(f"{type(self).__name__} has no {name!r}, nor has {type(self.inner).__name__}")

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.inner)})

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={value!r}" for name, value in self._settings().items())
        return f"{type(self).__name__}({own}{', ' if own else ''}{self.inner!r})"

    def _settings(self) -> dict[str, Any]:
        return {}


class Lookahead(Wrapper):
    r"""Fast weights run ahead for k steps; then slow ones follow part of the way, and the fast go back to them.

    .. math:: \phi \leftarrow \phi + \alpha (p - \phi), \qquad p \leftarrow \phi \qquad \text{every } k \text{ steps}

    The slow weights begin at the parameters' values when this is made; `slow` has them by name (float32 for what is
    stored in 16 bits). A step that the optimizer skipped does not count. Its state stays at a pull. One more array of
    the parameters' size. Zhang et al. 2019, https://arxiv.org/abs/1907.08610. As ``optax.lookahead`` and
    pytorch-optimizer's (``pullback_momentum="none"``); timm's takes the first k steps without a pull, as its slow
    weights begin there.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.Lookahead(fastlr.SGD(p, lr=0.1), k=2, alpha=0.5)
    >>> for _ in range(2):
    ...     opt.step(np.array([1.0]))
    >>> p.round(12).tolist(), opt.lr
    ([0.9], 0.1)
    """

    def __init__(self, opt: Any, k: int = 6, alpha: float = 0.5) -> None:
        super().__init__(opt)
        if getattr(innermost(opt), "_master", None) is not None:
            raise ValueError("Lookahead: master='split' keeps half of each weight in the optimizer's state, out of its "
                             "reach; use float32 parameters, with shadow='bfloat16'")
        self.k, self.alpha = k, alpha
        self._fast = 0
        self._grow()

    @property
    def k(self) -> int:
        """Steps from one pull to the next."""
        return self._k

    @k.setter
    def k(self, value: int) -> None:
        self._k = natural(type(self).__name__, "k", value)

    @property
    def alpha(self) -> float:
        """Which part of the way the slow weights follow, in (0, 1]."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._alpha = positive(type(self).__name__, "alpha", value, 1.0)

    @property
    def slow(self) -> dict[str, Array]:
        """The slow weights by name, as views that cannot be written to."""
        return {name: shown(slots["slow"]) for name, slots in self._own.items()}

    def _grow(self) -> None:
        for tensor in self._tensors:
            if tensor.name not in self._own:
                self._own[tensor.name] = {"slow": flat(tensor.array).copy().reshape(tensor.array.shape)}

    def step(self, *arguments: Any, **keywords: Any) -> Any:
        """The optimizer's own step, and every k-th time a pull."""
        before = self.inner.t
        returned = self.inner.step(*arguments, **keywords)
        if self.inner.t > before:
            self._fast += 1
            if self._fast >= self._k:
                self._pull()
        return returned

    def _pull(self) -> None:
        arrays = [tensor.array for tensor in self._tensors]
        fast = [flat(array) for array in arrays]
        blend("pull", [flat(self._own[tensor.name]["slow"]) for tensor in self._tensors], fast, weight=self._alpha)
        for array, values in zip(arrays, fast, strict=True):
            give(array, values)
        self._fast = 0
        cast(self.inner)

    def _settings(self) -> dict[str, Any]:
        return {"k": self._k, "alpha": self._alpha}

    def _plain(self) -> dict[str, Any]:
        return {**self._settings(), "fast": self._fast}

    def _revived(self, d: Mapping[str, Any], who: str) -> Act:
        k, alpha = natural(who, "k", d["k"]), positive(who, "alpha", d["alpha"], 1.0)
        fast = natural(who, "fast", d["fast"], 0)

        def act() -> None:
            self._k, self._alpha, self._fast = k, alpha, fast

        return act


class SAM(Wrapper):
    r"""Sharpness-aware minimisation: the gradient is taken where a small step uphill leads, and used where one was.

    .. math:: \epsilon = \rho\, \frac{g}{\|g\| + 10^{-12}}, \qquad \epsilon = \rho\, \frac{T^2 g}{\|T g\| + 10^{-12}},
        \; T = |p| + \eta

    (the second where `adaptive`: ASAM), with the norm over all parameters together. Two explicit parts, as two
    gradients are needed::

        sam.ascend(grads)      # the gradients at p; the parameters are now p + epsilon
        sam.step(grads)        # the gradients there; back to p, and the optimizer's own step

    The way back is exact, bit for bit. `retreat` goes back without a step. If `step` raises, the parameters are where
    `ascend` left them. One more array of the parameters' size. Foret et al. 2021, https://arxiv.org/abs/2010.01412;
    Kwon et al. 2021, https://arxiv.org/abs/2102.11600 (with eta = 0.01). As pytorch-optimizer's, whose eta is 0, and as
    ``optax.contrib.sam`` with a normalised SGD as the adversary.

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

    def __init__(self, opt: Any, rho: float = 0.05, adaptive: bool = False, eta: float = 0.0) -> None:
        super().__init__(opt)
        if not 0 <= eta < inf:
            raise ValueError(f"SAM: eta must be finite and >= 0, got {eta}")
        self.rho = rho
        self._adaptive, self._eta = bool(adaptive), float(eta)
        self._kept: dict[str, Array] = {}
        self._moved: list[Tensor] | None = None

    @property
    def rho(self) -> float:
        """How far uphill."""
        return self._rho

    @rho.setter
    def rho(self, value: float) -> None:
        self._rho = positive(type(self).__name__, "rho", value)

    @property
    def adaptive(self) -> bool:
        """Whether each element goes uphill in proportion to its size (ASAM)."""
        return self._adaptive

    @property
    def eta(self) -> float:
        """What is added to that size."""
        return self._eta

    @property
    def ascended(self) -> bool:
        """Whether the parameters are uphill now."""
        return self._moved is not None

    def ascend(self, grads: Any) -> None:
        """Move the parameters uphill; those whose gradient is None stay. RuntimeError if they are uphill already."""
        if self._moved is not None:
            raise RuntimeError("SAM: the parameters are uphill already; call step(grads) or retreat() first")
        pairs = [(tensor, g) for tensor, g in zip(self._tensors, self._gradients(grads), strict=True) if g is not None]
        points, slopes = [flat(tensor.array) for tensor, _ in pairs], [flat(g) for _, g in pairs]
        norm = sqrt(blend("squares", points, slopes, eta=self._eta, adaptive=self._adaptive))
        kept = []
        for tensor, _ in pairs:
            array = np.asarray(tensor.array)
            if tensor.name not in self._kept or self._kept[tensor.name].shape != array.shape:
                self._kept[tensor.name] = np.empty(array.shape, array.dtype)
            kept.append(self._kept[tensor.name])
        thirds = []
        for (tensor, _), point, saved in zip(pairs, points, kept, strict=True):
            if np.may_share_memory(point, tensor.array):
                thirds.append(saved.reshape(-1))
            else:                      # (its numbers were copied to be computed with)
                saved[...] = np.asarray(tensor.array)
                thirds.append(np.empty_like(point))
        blend("ascend", points, slopes, thirds, weight=self._rho / (norm + 1e-12), eta=self._eta,
              adaptive=self._adaptive)
        for (tensor, _), point in zip(pairs, points, strict=True):
            give(tensor.array, point)
        self._moved = [tensor for tensor, _ in pairs]
        cast(self.inner)

    def retreat(self) -> None:
        """Go back to where `ascend` was called, without a step; nothing if the parameters are there."""
        if self._moved is not None:
            self._exchange(self._moved)
            self._moved = None
            cast(self.inner)

    def step(self, grads: Any, **keywords: Any) -> None:
        """Go back, and take the optimizer's step with these gradients. RuntimeError if `ascend` was not called."""
        if self._moved is None:
            raise RuntimeError("SAM: step(grads) takes the gradients uphill; call ascend(grads) first")
        if grads is None:
            self._gradients(grads)
        self._exchange(self._moved)
        try:
            self.inner.step(grads, **keywords)
        except BaseException:
            self._exchange(self._moved)
            raise
        self._moved = None

    def _exchange(self, tensors: list[Tensor]) -> None:
        """Swap the parameters and what is kept of them."""
        ours, theirs = [], []
        for tensor in tensors:
            array, kept = np.asarray(tensor.array), self._kept[tensor.name]
            if array.dtype in (np.float32, np.float64) and array.flags.c_contiguous and array.flags.aligned:
                ours.append(array.reshape(-1))
                theirs.append(kept.reshape(-1))
            else:
                here = array.copy()
                array[...] = kept
                kept[...] = here
        blend("swap", ours, theirs)

    def _settings(self) -> dict[str, Any]:
        return {"rho": self._rho} | ({"adaptive": True, "eta": self._eta} if self._adaptive else {})

    def _plain(self) -> dict[str, Any]:
        return {"rho": self._rho, "adaptive": self._adaptive, "eta": self._eta}

    def _settled(self, what: str) -> None:
        if self._moved is not None:
            raise RuntimeError(f"SAM.{what}: the parameters are uphill; call step(grads) or retreat() first")

    def _revived(self, d: Mapping[str, Any], who: str) -> Act:
        rho, eta = positive(who, "rho", d["rho"]), d["eta"]
        if not isinstance(d["adaptive"], bool) or type(eta) not in (int, float) or not 0 <= eta < inf:
            raise ValueError(f"{who}: adaptive must be a bool and eta finite and >= 0, got {d['adaptive']!r}, {eta!r}")

        def act() -> None:
            self._rho, self._adaptive, self._eta = rho, d["adaptive"], float(eta)

        return act


class GradientAccumulation(Wrapper):
    r"""One step with the mean of several batches' gradients.

    .. math:: g = \frac{\sum_i n_i g_i}{\sum_i n_i}

    where :math:`g_i` is the mean gradient of batch i, and :math:`n_i` its size: what one big batch would have given, to
    rounding, however uneven the parts. `add` takes a step every k batches (never by itself if k is None); `step`
    takes it with what there is, at the end of an epoch; `reset` drops it. Schedules count updates, not batches. A
    tensor whose gradient is None counts as zero there, and is skipped if it was None in every batch. One more array of
    the parameters' size, float32 or for float64 parameters float64.

    >>> import numpy as np, fastlr
    >>> p = np.zeros(1)
    >>> acc = fastlr.GradientAccumulation(fastlr.SGD(p, lr=1.0), k=2)
    >>> acc.add(np.array([1.0]), count=3), acc.add(np.array([5.0]), count=1), p.tolist()
    (False, True, [-2.0])
    """

    def __init__(self, opt: Any, k: int | None = None) -> None:
        super().__init__(opt)
        self.k = k
        self._batches, self._weight, self._given = 0, 0.0, set[str]()
        self._grow()

    @property
    def k(self) -> int | None:
        """Batches to a step; None: `step` says when."""
        return self._k

    @k.setter
    def k(self, value: int | None) -> None:
        self._k = None if value is None else natural(type(self).__name__, "k", value)

    @property
    def batches(self) -> int:
        """How many were added since the latest step."""
        return self._batches

    @property
    def count(self) -> float:
        """Their sizes together."""
        return self._weight

    def _grow(self) -> None:
        for tensor in self._tensors:
            if tensor.name not in self._own:
                dtype = np.float64 if tensor.array.dtype == np.float64 else np.float32
                self._own[tensor.name] = {"sum": np.zeros(tensor.array.shape, dtype)}

    def add(self, grads: Any, count: float = 1) -> bool:
        """Add a batch's mean gradients, of `count` examples; whether that made a step.

        Should the step raise, what was added stays: `step` tries again, `reset` drops it.
        """
        weight = positive(type(self).__name__, "count", count)
        given = self._gradients(grads)
        sums = [flat(self._own[tensor.name]["sum"]) for tensor in self._tensors]
        fresh = [tensor.name not in self._given for tensor in self._tensors]
        flats = [None if g is None else flat(g) for g in given]
        for act, wanted in (("put", True), ("add", False)):
            parts = [g if new == wanted else None for g, new in zip(flats, fresh, strict=True)]
            blend(act, sums, parts, weight=weight)
        self._given |= {tensor.name for tensor, g in zip(self._tensors, given, strict=True) if g is not None}
        self._batches, self._weight = self._batches + 1, self._weight + weight
        if self._k is None or self._batches < self._k:
            return False
        self.step()
        return True

    def step(self, **keywords: Any) -> None:
        """Take the optimizer's step, with its keywords, with the mean so far. RuntimeError if nothing was added."""
        if not self._batches:
            raise RuntimeError(f"{type(self).__name__}: nothing was added since the latest step; call add(grads) first")
        sums = [self._own[tensor.name]["sum"] if tensor.name in self._given else None for tensor in self._tensors]
        self.inner.step(innermost(self)._structure.arranged_back(sums), grad_scale=self._weight, **keywords)
        self.reset()

    def reset(self) -> None:
        """Forget what was added since the latest step."""
        self._batches, self._weight, self._given = 0, 0.0, set()

    def _settings(self) -> dict[str, Any]:
        return {"k": self._k}

    def _plain(self) -> dict[str, Any]:
        return {"k": self._k, "batches": self._batches, "count": self._weight, "given": sorted(self._given)}

    def _revived(self, d: Mapping[str, Any], who: str) -> Act:
        k = None if d["k"] is None else natural(who, "k", d["k"])
        batches, weight, given = natural(who, "batches", d["batches"], 0), d["count"], d["given"]
        if type(weight) not in (int, float) or not (0 < weight < inf if batches else weight == 0):
            raise ValueError(f"{who}: count must be positive where batches are, got {weight!r}")
        if not isinstance(given, list) or not all(isinstance(name, str) and name in self._own for name in given):
            raise ValueError(f"{who}: given must list names of parameters, got {given!r}")

        def act() -> None:
            self._k, self._batches, self._weight, self._given = k, batches, float(weight), set(given)

        return act


class GradientCentralization(Wrapper):
    r"""Each row of a gradient loses its mean before the step.

    .. math:: g_i \leftarrow g_i - \operatorname{mean}(g_i)

    for gradients of at least `min_dims` axes, the mean over all but `axis` (the first: that of the outputs in torch's
    layout; -1 for layouts that have it last). min_dims=4 leaves all but convolutions alone. The caller's gradients stay
    as they are; what is centred is kept in an array of their size. Yong et al. 2020, https://arxiv.org/abs/2004.01461.
    As ``optax.centralize`` and pytorch-optimizer's ``centralize_gradient``. What clips and decays comes after it, in
    the optimizer's pass.

    >>> import numpy as np, fastlr
    >>> p = np.zeros((2, 2))
    >>> fastlr.GradientCentralization(fastlr.SGD(p, lr=1.0)).step(np.array([[1.0, 3.0], [0.0, 0.0]]))
    >>> p.tolist()
    [[1.0, -1.0], [0.0, 0.0]]
    """

    def __init__(self, opt: Any, min_dims: int = 2, axis: int = 0) -> None:
        super().__init__(opt)
        self._min_dims = natural(type(self).__name__, "min_dims", min_dims, 2)
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"{type(self).__name__}: axis must be an integer, got {axis!r}")
        self._axis = axis
        self._centred: dict[str, Array] = {}
        self._grow()

    @property
    def min_dims(self) -> int:
        """How many axes a gradient must have to be centred."""
        return self._min_dims

    @property
    def axis(self) -> int:
        """The axis along which each entry has its own mean."""
        return self._axis

    def _grow(self) -> None:
        for tensor in self._tensors:
            dims = tensor.array.ndim
            if dims >= self._min_dims and not -dims <= self._axis < dims:
                raise ValueError(f"{type(self).__name__}: axis {self._axis} is none of the {dims} axes of "
                                 f"{tensor.name!r}")

    def step(self, grads: Any, **keywords: Any) -> None:
        """Centre the gradients, and take the optimizer's step with them and its keywords (but for `zero_grads`)."""
        if keywords.pop("zero_grads", False):
            raise ValueError("GradientCentralization: the optimizer sees copies; zero the gradients yourself")
        given = self._gradients(grads)
        places, centred, flats, columns = [], [], [], []
        for k, (tensor, g) in enumerate(zip(self._tensors, given, strict=True)):
            if g is None or g.ndim < self._min_dims or g.size == 0:
                continue
            rows = np.moveaxis(g, self._axis, 0)
            flats.append(flat(rows))
            if tensor.name not in self._centred:
                self._centred[tensor.name] = np.empty_like(flats[-1])
            centred.append(self._centred[tensor.name])
            columns.append(g.size // rows.shape[0])
            places.append((k, rows.shape))
        blend("centre", centred, flats, columns=columns)
        for (k, shape), array in zip(places, centred, strict=True):
            given[k] = np.moveaxis(array.reshape(shape), 0, self._axis)
        self.inner.step(innermost(self)._structure.arranged_back(given), **keywords)

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value, default in
                (("min_dims", self._min_dims, 2), ("axis", self._axis, 0)) if value != default}

    def _plain(self) -> dict[str, Any]:
        return {"min_dims": self._min_dims, "axis": self._axis}

    def _revived(self, d: Mapping[str, Any], who: str) -> Act:
        if (d["min_dims"], d["axis"]) != (self._min_dims, self._axis):
            raise ValueError(f"{who}: expected min_dims={self._min_dims} and axis={self._axis}, "
                             f"got {d['min_dims']!r} and {d['axis']!r}")
        return lambda: None


def positive(who: str, name: str, value: Any, most: float = inf) -> float:
    """A finite number in (0, most]."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < value <= most or value == inf:
        bound = "positive and finite" if most == inf else f"in (0, {most:g}]"
        raise (ValueError if number else TypeError)(f"{who}: {name} must be {bound}, got {value!r}")
    return float(value)


def shown(array: Array) -> Array:
    """A view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view
