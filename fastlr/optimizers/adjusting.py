"""What a user does with a bound optimizer between its steps: freezes, drops, measures, calls back, constrains."""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .binding import BoundParameters
from .groups import Group

if TYPE_CHECKING:
    from .measuring import Callback, Measured


class Adjustable(BoundParameters, family=True):
    """Bound parameters, and what may be done to them between steps; each method imports the module that does it."""

    def freeze(self, *what: str | Group) -> None:
        """Let parameters stay as they are, until `unfreeze`: names, patterns of names (``"layers/0/*"``) or groups.

        A step must have None for a frozen parameter's gradient: so a gradient that was meant to move it is an error
        rather than lost. Of gradients that are bound, those of frozen parameters are not read. State and count of
        updates stay.

        >>> import numpy as np, fastlr
        >>> params = {"body": np.ones(2), "head": np.ones(2)}
        >>> opt = fastlr.SGD(params, lr=0.5)
        >>> opt.freeze("body")
        >>> opt.step({"body": None, "head": np.ones(2)})
        >>> opt.unfreeze()
        >>> params["body"], params["head"]
        (array([1., 1.]), array([0.5, 0.5]))
        """
        from .changing import chosen

        self._require_own_values()
        frozen = self._frozen | chosen(self, what, "freeze")
        self._plan.exclusively(lambda: self._set_frozen(frozen))

    def unfreeze(self, *what: str | Group) -> None:
        """Let frozen parameters move again: names, patterns or groups; all of them if none are given."""
        from .changing import chosen

        self._require_own_values()
        frozen = self._frozen - chosen(self, what, "unfreeze") if what else frozenset()
        self._plan.exclusively(lambda: self._set_frozen(frozen))

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the parameters that are frozen."""
        return tuple(tensor.name for tensor in self._plan.tensors if tensor.name in self._frozen)

    def drop_group(self, group: Group | int) -> None:
        """Let go of a group of parameters, and free the memory of its state; the others keep theirs, and their names.

        Gradients then come without an entry for it. ValueError for the only group; nothing is changed then.

        >>> import numpy as np, fastlr
        >>> opt = fastlr.Adam([{"params": {"a": np.ones(2)}}, {"params": {"b": np.ones(2)}}])
        >>> opt.drop_group(0)
        >>> list(opt.state), len(opt.groups)
        (['b'], 1)
        """
        from .changing import drop_group

        drop_group(self, group)

    def measure(self, on: bool = True) -> None:
        """Measure each tensor in every step, in the same pass: `opt.measured` has it, and `History.record` keeps it.

        Costs nothing when off, as by default, and no bit of a step depends on it. (A rule for matrices copies its
        parameters in each step that is measured.)

        >>> import numpy as np, fastlr
        >>> opt = fastlr.SGD({"w": np.full(4, 2.0)}, lr=0.5)
        >>> opt.measure()
        >>> opt.step({"w": np.full(4, 1.0)})
        >>> opt.measured["w"]
        Measured(grad_norm=2.0, update_norm=1.0, param_norm=4.0, ratio=0.25, clipped=0.0)
        """
        from .measuring import measure

        measure(self, bool(on))

    @property
    def measures(self) -> bool:
        """Whether each tensor is measured."""
        return self._measures

    @property
    def measured(self) -> dict[str, Measured]:
        """Norms of each tensor's gradient, update and values in the latest step, by name; 0 where it had no gradient,
        NaN where `step_rows` moved rows of it.

        RuntimeError if nothing is measured: see `measure`.
        """
        from .measuring import measured

        return measured(self)

    def add_callback(self, *, before: Callable[[Any, Any], object] | None = None,
                     after: Callable[[Any], object] | None = None) -> Callback:
        """Call ``before(opt, grads)`` before each step and ``after(opt)`` after it, until ``.remove()`` of what this
        returns. Without any, a step costs what it costs.

        >>> import numpy as np, fastlr
        >>> opt = fastlr.SGD(np.ones(1), lr=0.5)
        >>> callback = opt.add_callback(after=lambda opt: print("t is", opt.t))
        >>> opt.step(np.ones(1))
        t is 1
        >>> callback.remove()
        """
        from .measuring import add_callback

        return add_callback(self, before, after)

    def constrain(self) -> None:
        """Bring every parameter within its constraint now, without a step: for values that were set."""
        self._plan.refuse_replaced()
        self._plan.constrain()
        self.cast()
