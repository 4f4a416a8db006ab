"""What steps tell of each tensor: the norms of its gradient, its update and its values; and functions around steps."""
from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

if TYPE_CHECKING:
    from .binding import BoundParameters

Before = Callable[[Any, Any], object]
After = Callable[[Any], object]


class Measured(NamedTuple):
    """One tensor in the latest step.

    `grad_norm` is of the gradient, unscaled, before anything is clipped; `update_norm` of what the rule added to the
    parameter, before a constraint; `param_norm` of the parameter before it; `ratio` is update_norm / param_norm;
    `clipped` the share of the tensor's steps, since measuring began or an option was set, whose gradient was clipped
    by a norm. Rows that `step_rows` moves are not measured: of their tensor the norms are NaN.
    """

    grad_norm: float
    update_norm: float
    param_norm: float
    ratio: float
    clipped: float


def measured(opt: BoundParameters) -> dict[str, Measured]:
    """See `Optimizer.measured`."""
    if not opt._measures:
        raise RuntimeError(f"{type(opt).__name__}: nothing is measured; call measure() first")
    found = {}
    for tensor, norms in zip(opt._plan.tensors, opt._plan.measured(), strict=True):
        g, moved, p = norms[:3]
        ratio = moved / p if p else inf if moved else 0.0
        found[tensor.name] = Measured(g, moved, p, ratio, norms[3] / max(norms[4], 1))
    return found


def measure(opt: BoundParameters, on: bool) -> None:
    """See `Optimizer.measure`."""
    tensors, before = opt._plan.tensors, opt._measures

    def change() -> None:
        try:
            for tensor in tensors:
                tensor.measured = on
            opt._measures = on
            opt._plan_again(opt._stages)
        except BaseException:
            for tensor in tensors:
                tensor.measured = before
            opt._measures = before
            raise

    if on != before:
        opt._plan.retire(change)


class Callbacks:
    """The functions around an optimizer's steps: they take the place of its method `step` while there are any.

    (The optimizer holds this, so this refers to it weakly.)
    """

    def __init__(self, opt: Any) -> None:
        self.reference = ref(opt)
        self.added: list[Callback] = []

    def step(self, grads: Any = None, *arguments: Any, **keywords: Any) -> Any:
        """The optimizer's step, with what comes before and after."""
        opt = self.reference()
        if opt is None:
            raise ReferenceError("this step is of an optimizer that is gone; keep the optimizer, and call its step")
        for before in [one._before for one in self.added if one._before is not None]:
            before(opt, grads)
        returned = type(opt).step(opt, grads, *arguments, **keywords)
        for after in [one._after for one in self.added if one._after is not None]:
            after(opt)
        return returned


class Callback:
    """What `add_callback` returned: `remove` takes the functions away."""

    def __init__(self, callbacks: Callbacks, before: Before | None, after: After | None) -> None:
        self._callbacks, self._before, self._after = callbacks, before, after

    def remove(self) -> None:
        """Call these functions no more; no effect the second time."""
        callbacks = self._callbacks
        if self not in callbacks.added:
            return
        callbacks.added.remove(self)
        opt = callbacks.reference()
        if opt is not None and not callbacks.added and "step" in vars(opt):
            object.__delattr__(opt, "step")


def add_callback(opt: BoundParameters, before: Before | None, after: After | None) -> Callback:
    """See `Optimizer.add_callback`."""
    for name, function in (("before", before), ("after", after)):
        if function is not None and not callable(function):
            raise TypeError(f"{type(opt).__name__}: add_callback: {name} must be a function, got {function!r}")
    if before is None and after is None:
        raise TypeError(f"{type(opt).__name__}: add_callback: give before=, after= or both")
    step = vars(opt).get("step")
    callbacks = Callbacks(opt) if step is None else step.__self__
    callback = Callback(callbacks, before, after)
    callbacks.added.append(callback)
    object.__setattr__(opt, "step", callbacks.step)
    return callback
