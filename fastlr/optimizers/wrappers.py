"""The base class of wrappers around any optimizer; Lookahead and GradientCentralization."""
from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from .._engine.foreach import foreach
from .._engine.tensors import Array, Tensor
from .base import Optimizer
from .declaration import nearest
from .linesearch import natural
from .quasi_newton import LBFGS
from .resumable import (
    Assign,
    Resumable,
    checked_gradient,
    flattened,
    is_plain,
    parameters_written,
    public_names,
    rules_of,
    set_attribute,
    tensors_of,
    unwrapped,
    write_back,
)

PULLED = -1            # an entry of Lookahead's progress


class Wrapper(Resumable):
    """The base class of wrappers. Attributes that a wrapper does not define (lr, groups, state, ...) are read from and
    written to the wrapped optimizer, `inner`; one that both have is the wrapper's. Wrappers nest, except that SAM must
    be the outermost."""

    _outermost = False             # whether no other wrapper can be around it
    _accumulates = False           # whether `add` takes the gradients, and `step` takes none
    _needs_gradients = False       # whether it can only wrap what steps with gradients
    #: What can be done in place of `step_rows`, as its error says.
    _instead_of_rows = "use opt.inner.step_rows before a step to which this tensor's gradient is None"

    def __init__(self, opt: Any) -> None:
        who = type(self).__name__
        if not isinstance(opt, Optimizer | Wrapper) and not getattr(opt, "_can_be_wrapped", False) \
                and not (isinstance(opt, LBFGS) and isinstance(self, Lookahead)):
            raise TypeError(f"{who}: needs a fastlr optimizer that steps with gradients, got {type(opt).__name__}")
        if isinstance(opt, Wrapper) and opt._outermost:
            raise TypeError(f"{who}: {type(opt).__name__} must be the outermost wrapper, as its step has two parts: "
                            f"wrap its optimizer in {who} first, then that in {type(opt).__name__}")
        if accumulates(opt) and self._needs_gradients:
            raise TypeError(f"{who}: cannot wrap GradientAccumulation, whose step takes no gradients; average the "
                            f"gradients of the batches first and pass the mean to {who}")
        if any(tensor.journal is not None for tensor in tensors_of(opt)):
            raise TypeError(f"{who}: needs parameters that have all updates after each step; make "
                            f"{type(unwrapped(opt)).__name__} without catch_up_rows")
        self.inner = opt
        self._own: dict[str, dict[str, Array]] = {}
        self._members: list[Tensor] = []               # the parameters whose state `_own` has

    @property
    def t(self) -> int:
        """Updates done."""
        return int(self.inner.t)

    @property
    def _tensors(self) -> list[Tensor]:
        return tensors_of(self.inner)

    def _arrays(self) -> dict[str, dict[str, Array]]:
        self._allocate()
        return self._own

    def _allocate(self) -> None:
        """Allocate state for parameters that were added since the last call, here or to the wrapped optimizer; let go
        of that of parameters that were dropped."""
        tensors = self._tensors
        if tensors == self._members:           # (in all but a few of the steps that call this)
            return
        present = set(map(id, tensors))
        for tensor in self._members:
            if id(tensor) not in present:
                self._forget(tensor)
        for tensor in tensors:
            if tensor.name not in self._own:
                own = self._initial(tensor)
                if own:
                    self._own[tensor.name] = own
        self._members = list(tensors)

    def _initial(self, tensor: Tensor) -> dict[str, Array]:
        """What is kept of a parameter, before the first step."""
        return {}

    def _forget(self, tensor: Tensor) -> None:
        """Let go of what is kept of a parameter that was dropped."""
        self._own.pop(tensor.name, None)

    def add_group(self, params: Any, **hyper: Any) -> Any:
        """Add parameters, as `add_group` of the wrapped optimizer."""
        group = self.inner.add_group(params, **hyper)
        self._allocate()
        return group

    def drop_group(self, group: Any) -> None:
        """Let go of a group of parameters, as `drop_group` of the wrapped optimizer, and of what is kept of them."""
        self.inner.drop_group(group)
        self._allocate()

    def step_rows(self, *_: Any, **__: Any) -> None:
        """Refused: a wrapper updates whole tensors."""
        raise TypeError(f"{type(self).__name__}: updates whole tensors, not rows; {self._instead_of_rows}")

    def _gradients(self, grads: Any) -> list[Array | None]:
        if grads is None:
            raise TypeError(f"{type(self).__name__}: needs the gradients as an argument (it cannot read buffers that "
                            f"are bound to the optimizer)")
        tensors = self._tensors
        ordered = unwrapped(self)._arranged(grads)
        return [checked_gradient(tensor, g) for tensor, g in zip(tensors, ordered, strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self.inner is None:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] == "_" or hasattr(type(self), name):
            set_attribute(self, name, value)
        elif hasattr(self.inner, name):
            setattr(self.inner, name, value)
        else:
            known = {*public_names(self), *public_names(unwrapped(self))}
            raise AttributeError(f"{type(self).__name__} has no {name!r}, nor has {type(unwrapped(self)).__name__}"
                                 f"{nearest(name, sorted(known))}")

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.inner)})

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={value!r}" for name, value in self._settings().items())
        return f"{type(self).__name__}({own}{', ' if own else ''}{self.inner!r})"

    def _settings(self) -> dict[str, Any]:
        return {}


class Lookahead(Wrapper):
    r"""Every k steps, slow weights move part of the way to the parameters, and the parameters are set to them.

    .. math:: \phi \leftarrow \phi + \alpha (p - \phi), \qquad p \leftarrow \phi \qquad \text{every } k \text{ steps}

    The slow weights start as the parameters' values when this is made; `slow` has them by name (float32 for parameters
    of 16 bits). A step that the optimizer skipped does not count. The optimizer's state is not changed at such an
    update. Where the optimizer has a `constraint`, the parameters are brought within it after such an update, the slow
    weights not. Needs one more array of the parameters' size. Zhang et al. 2019, https://arxiv.org/abs/1907.08610. As
    ``optax.lookahead`` and pytorch-optimizer's (``pullback_momentum="none"``); timm's does not move the parameters
    after the first k steps, as its slow weights start there.

    `alpha` and `k` are Lookahead's own, also around what has an alpha (RMSprop, ASGD, AdEMAMix) or a k
    (GradientAccumulation): that is ``opt.inner.alpha`` or ``opt.inner.k``.

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
        if getattr(unwrapped(opt), "_master", None) is not None:
            raise ValueError("Lookahead: master='split' keeps half of each weight in the optimizer's state, which this "
                             "cannot read; use float32 parameters, with shadow='bfloat16'")
        self.k, self.alpha = k, alpha
        #: The steps since the last update of the slow weights; PULLED while that update is under way.
        self._progress = [0]
        self._allocate()

    @property
    def k(self) -> int:
        """Steps between two updates of the slow weights."""
        return self._k

    @k.setter
    def k(self, value: int) -> None:
        self._k = natural(type(self).__name__, "k", value)

    @property
    def alpha(self) -> float:
        """The fraction of the way that the slow weights move, in (0, 1]."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._alpha = positive(type(self).__name__, "alpha", value, 1.0)

    @property
    def slow(self) -> dict[str, Array]:
        """The slow weights by name, as views that cannot be written to."""
        return {name: read_only(slots["slow"]) for name, slots in self._arrays().items()}

    def _initial(self, tensor: Tensor) -> dict[str, Array]:
        return {"slow": flattened(tensor.array).copy().reshape(tensor.array.shape)}

    def step(self, *arguments: Any, **keywords: Any) -> Any:
        """The optimizer's own step; every k-th time the slow weights are updated, too."""
        return self._counted(self.inner.step, arguments, keywords)

    def add(self, *arguments: Any, **keywords: Any) -> Any:
        """`add` of the GradientAccumulation inside; the step that it may take counts as `step` does."""
        return self._counted(self.inner.add, arguments, keywords)

    def _counted(self, call: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        self._allocate()
        if self._progress[0] == PULLED:        # (an interrupt stopped the latest update before it was done)
            self._set_parameters()
        elif self._progress[0] >= self._k:     # (... or before it began)
            self._pull()
        before = self.inner.t
        try:
            returned = call(*arguments, **keywords)
        finally:
            if self.inner.t > before:
                self._progress[0] += 1
        if self._progress[0] >= self._k:
            self._pull()
        return returned

    def _pull(self) -> None:
        """Move the slow weights, and set the parameters to them."""
        slow = [flattened(self._own[tensor.name]["slow"]) for tensor in self._tensors]
        fast = [flattened(tensor.array) for tensor in self._tensors]
        try:
            foreach("lerp_both", slow, fast, weight=self._alpha, record=self._progress, entry=PULLED)
            self._set_parameters()
        except BaseException:
            if self._progress[0] == PULLED:
                self._set_parameters()
            raise

    def _set_parameters(self) -> None:
        """Set the parameters to the slow weights, where that was not done in place."""
        for tensor in self._tensors:
            if not is_plain(tensor.array):
                write_back(tensor.array, flattened(self._own[tensor.name]["slow"]))
        for rule in rules_of(self.inner):
            if rule._constraint is not None:
                rule.constrain()
        parameters_written(self.inner)
        self._progress[0] = 0

    def _settings(self) -> dict[str, Any]:
        return {"k": self._k, "alpha": self._alpha}

    def _plain_state(self) -> dict[str, Any]:
        return {**self._settings(), "fast": self._progress[0]}

    def _require_ready(self, what: str) -> None:
        if self._progress[0] == PULLED:
            self._set_parameters()

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        k, alpha = natural(who, "k", d["k"]), positive(who, "alpha", d["alpha"], 1.0)
        fast = natural(who, "fast", d["fast"], 0)

        def assign() -> None:
            self._k, self._alpha = k, alpha
            self._progress[0] = fast

        return assign


class GradientCentralization(Wrapper):
    r"""The mean of each row of a gradient is subtracted before the step.

    .. math:: g_i \leftarrow g_i - \operatorname{mean}(g_i)

    for gradients of at least `min_dims` axes, the mean over all but `axis` (the first: that of the outputs in torch's
    layout; -1 for layouts where it is the last). min_dims=4 centers convolutions only. The caller's gradients are only
    read; the centered ones are written to an array of their size. Yong et al. 2020, https://arxiv.org/abs/2004.01461.
    As ``optax.centralize`` and pytorch-optimizer's ``centralize_gradient``. Clipping and weight decay follow, in the
    optimizer's step.

    >>> import numpy as np, fastlr
    >>> p = np.zeros((2, 2))
    >>> fastlr.GradientCentralization(fastlr.SGD(p, lr=1.0)).step(np.array([[1.0, 3.0], [0.0, 0.0]]))
    >>> p.tolist()
    [[1.0, -1.0], [0.0, 0.0]]
    """

    _instead_of_rows = ("subtract the rows' means yourself and use opt.inner.step_rows, before a step to which this "
                        "tensor's gradient is None")

    def __init__(self, opt: Any, min_dims: int = 2, axis: int = 0) -> None:
        super().__init__(opt)
        self._min_dims = natural(type(self).__name__, "min_dims", min_dims, 2)
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"{type(self).__name__}: axis must be an integer, got {axis!r}")
        self._axis = axis
        self._buffers: dict[str, Array] = {}
        self._allocate()

    @property
    def min_dims(self) -> int:
        """How many axes a gradient must have to be centered."""
        return self._min_dims

    @property
    def axis(self) -> int:
        """The axis along which each entry has its own mean."""
        return self._axis

    def _initial(self, tensor: Tensor) -> dict[str, Array]:
        dims = tensor.array.ndim
        if dims >= self._min_dims and not -dims <= self._axis < dims:
            raise ValueError(f"{type(self).__name__}: axis {self._axis} is none of the {dims} axes of "
                             f"{tensor.name!r}")
        return {}

    def _forget(self, tensor: Tensor) -> None:
        self._buffers.pop(tensor.name, None)

    def step(self, grads: Any = None, **keywords: Any) -> Any:
        """Center the gradients, and take the optimizer's step with them and its keywords (except `zero_grads`).

        Around a GradientAccumulation, `add` takes the gradients, and this takes none.
        """
        if accumulates(self.inner):
            if grads is not None:
                raise TypeError("GradientCentralization: a step of GradientAccumulation takes no gradients; pass them "
                                "to add(grads)")
            return self.inner.step(**keywords)
        return self.inner.step(self._centered(grads, keywords), **keywords)

    def add(self, grads: Any, *arguments: Any, **keywords: Any) -> Any:
        """Center the gradients, and add them to the GradientAccumulation inside."""
        return self.inner.add(self._centered(grads, keywords), *arguments, **keywords)

    def accumulate(self, grads: Any = None, grad_scale: float = 1.0, zero_grads: bool = False) -> None:
        """Center the gradients, and pass them to `accumulate` of the optimizer."""
        self.inner.accumulate(self._centered(grads, {"zero_grads": zero_grads}), grad_scale)

    def _centered(self, grads: Any, keywords: dict[str, Any]) -> Any:
        """The gradients less the mean of each row, in the structure in which they came."""
        if keywords.pop("zero_grads", False):
            raise ValueError("GradientCentralization: the optimizer gets copies of the gradients; zero the gradients "
                             "yourself")
        self._allocate()
        gradients = self._gradients(grads)
        shapes, buffers, flat, columns = [], [], [], []
        for k, (tensor, g) in enumerate(zip(self._tensors, gradients, strict=True)):
            if g is None or g.ndim < self._min_dims or g.size == 0:
                continue
            rows = np.moveaxis(g, self._axis, 0)
            flat.append(flattened(rows))
            if tensor.name not in self._buffers:
                self._buffers[tensor.name] = np.empty_like(flat[-1])
            buffers.append(self._buffers[tensor.name])
            columns.append(g.size // rows.shape[0])
            shapes.append((k, rows.shape))
        foreach("center_rows", buffers, flat, columns=columns)
        for (k, shape), buffer in zip(shapes, buffers, strict=True):
            gradients[k] = np.moveaxis(buffer.reshape(shape), 0, self._axis)
        return unwrapped(self)._structure.arranged_back(gradients)

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value, default in
                (("min_dims", self._min_dims, 2), ("axis", self._axis, 0)) if value != default}

    def _plain_state(self) -> dict[str, Any]:
        return {"min_dims": self._min_dims, "axis": self._axis}

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        if (d["min_dims"], d["axis"]) != (self._min_dims, self._axis):
            raise ValueError(f"{who}: expected min_dims={self._min_dims} and axis={self._axis}, "
                             f"got {d['min_dims']!r} and {d['axis']!r}")
        return lambda: None


def accumulates(opt: Any) -> bool:
    """Whether an optimizer is, or wraps, a GradientAccumulation."""
    while opt is not None:
        if isinstance(opt, Wrapper) and opt._accumulates:
            return True
        opt = getattr(opt, "inner", None)
    return False


def positive(who: str, name: str, value: Any, most: float = inf) -> float:
    """A finite number in (0, most]."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < value <= most or value == inf:
        bound = "positive and finite" if most == inf else f"in (0, {most:g}]"
        raise (ValueError if number else TypeError)(f"{who}: {name} must be {bound}, got {value!r}")
    return float(value)


def read_only(array: Array) -> Array:
    """A view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view
