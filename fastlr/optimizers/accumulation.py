"""Accumulation of gradients over several batches, for one step with their mean."""
from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from .._engine.foreach import foreach
from .._engine.tensors import Array, Tensor
from .linesearch import natural
from .loss_scale import LossScale
from .resumable import Assign, flattened, rules_of, unwrapped
from .wrappers import Wrapper, positive

NOTHING: tuple[int, float, frozenset[str], float | None] = (0, 0.0, frozenset(), None)


class GradientAccumulation(Wrapper):
    r"""One step with the mean of several batches' gradients.

    .. math:: g = \frac{\sum_i n_i g_i}{\sum_i n_i}

    where :math:`g_i` is the mean gradient of batch i, and :math:`n_i` its size: what one big batch would have given, to
    rounding, however different the sizes. `add` takes a step every k batches (never if k is None); `step` takes one
    with the batches so far, at the end of an epoch; `reset` drops them. Schedules count updates, not batches. A
    gradient that is None counts as zero; a tensor whose gradient was None in every batch is skipped. With a
    `LossScale`, multiply each batch's loss by ``scale.value`` and pass the scale to `step`, or to each `add` where
    these take the step. Needs one more array of the parameters' size, float32 or for float64 parameters float64.

    >>> import numpy as np, fastlr
    >>> p = np.zeros(1)
    >>> acc = fastlr.GradientAccumulation(fastlr.SGD(p, lr=1.0), k=2)
    >>> acc.add(np.array([1.0]), count=3), acc.add(np.array([5.0]), count=1), p.tolist()
    (False, True, [-2.0])
    """

    _accumulates = _needs_gradients = True
    _optional = ("loss_sum",)

    def __init__(self, opt: Any, k: int | None = None) -> None:
        super().__init__(opt)
        self.k = k
        #: Batches added, their sizes together, the tensors that had a gradient, and the sum of sizes times losses.
        self._progress: list[tuple[int, float, frozenset[str], float | None]] = [NOTHING]
        self._t_before: int | None = None      # t when the latest step began, until `reset`
        self._allocate()

    @property
    def k(self) -> int | None:
        """Batches per step; None: only `step` takes steps."""
        return self._k

    @k.setter
    def k(self, value: int | None) -> None:
        self._k = None if value is None else natural(type(self).__name__, "k", value)

    @property
    def batches(self) -> int:
        """How many batches were added since the latest step."""
        return self._added()[0]

    @property
    def count(self) -> float:
        """The sizes of these batches together."""
        return self._added()[1]

    def _initial(self, tensor: Tensor) -> dict[str, Array]:
        dtype = np.float64 if tensor.array.dtype == np.float64 else np.float32
        return {"sum": np.zeros(tensor.array.shape, dtype)}

    def _forget(self, tensor: Tensor) -> None:
        super()._forget(tensor)
        batches, total, given, loss_sum = self._progress[0]
        self._progress[0] = batches, total, given - {tensor.name}, loss_sum

    def _added(self) -> tuple[int, float, frozenset[str], float | None]:
        """What was added since the latest step."""
        self._allocate()                       # (which takes out what was dropped)
        if self._t_before is not None and self.inner.t > self._t_before:
            self.reset()                       # (an interrupt came between the optimizer's step and the reset)
        return self._progress[0]

    def add(self, grads: Any, count: float = 1, *, loss: float | None = None, **keywords: Any) -> bool:
        """Add a batch's mean gradients, of `count` examples; return whether that took a step.

        `loss` is the batch's mean loss, for rules whose step needs the loss: it is then given with every batch, and the
        step has the mean. Other keywords are those of `step`, for the case that this takes one. Should the step raise,
        the batch stays added: `step` tries again, `reset` drops all.
        """
        who = type(self).__name__
        weight = positive(who, "count", count)
        batches, total, given, loss_sum = self._added()
        if loss is not None and not unwrapped(self).needs_loss:
            raise TypeError(f"{who}: a step of {type(unwrapped(self)).__name__} takes no loss; leave it out")
        if batches and (loss is None) != (loss_sum is None):
            raise ValueError(f"{who}: loss must be given with every batch of a step or with none")
        if loss is not None:
            loss_sum = (loss_sum or 0.0) + weight * float(loss)
        arrays = self._gradients(grads)
        sums = [flattened(slots["sum"]) for slots in self._in_order()]
        flat = [None if g is None else flattened(g) for g in arrays]
        operations = ["add_scaled" if tensor.name in given else "scale" for tensor in self._tensors]
        names = {tensor.name for tensor, g in zip(self._tensors, arrays, strict=True) if g is not None}
        foreach(operations, sums, flat, weight=weight, record=self._progress,
                entry=(batches + 1, total + weight, given | names, loss_sum))
        if self._k is None or batches + 1 < self._k:
            return False
        self.step(**keywords)
        return True

    def step(self, *, grad_scale: float | LossScale = 1.0, **keywords: Any) -> None:
        """Take the optimizer's step, with its keywords, with the mean so far. RuntimeError if nothing was added."""
        who = type(self).__name__
        batches, total, given, loss_sum = self._added()
        if not batches:
            raise RuntimeError(f"{who}: nothing was added since the latest step; call add(grads) first")
        for rule in rules_of(self):
            for name in rule._frozen & given:
                raise ValueError(f"{who}: the parameter {name!r} was frozen after a gradient of it was added; call "
                                 f"unfreeze({name!r}) before this step, or reset() to drop what was added")
        if keywords.pop("zero_grads", False):
            raise ValueError(f"{who}: zero_grads has no effect, as a step reads the sums; zero the gradients after add")
        if loss_sum is not None:
            keywords.setdefault("loss", loss_sum / total)
        names = [tensor.name for tensor in self._tensors]
        sums = [slots["sum"] if name in given else None for name, slots in zip(names, self._in_order(), strict=True)]
        scale: Any = SummedScale(grad_scale, total) if isinstance(grad_scale, LossScale) else grad_scale * total
        self._t_before = self.inner.t
        try:
            self.inner.step(unwrapped(self)._structure.arranged_back(sums), grad_scale=scale, **keywords)
        except BaseException:
            self._added()
            self._t_before = None
            raise
        self.reset()

    def _in_order(self) -> list[dict[str, Array]]:
        arrays = self._arrays()
        return [arrays[tensor.name] for tensor in self._tensors]

    def accumulate(self, *_: Any, **__: Any) -> None:
        """Refused: `accumulate` of the optimizer adds to its moments, beside the sums kept here."""
        raise TypeError(f"{type(self).__name__}: use add(grads), which adds up gradients; accumulate adds to the "
                        f"moments of the optimizer and needs no GradientAccumulation")

    def reset(self) -> None:
        """Drop what was added since the latest step."""
        self._progress[0] = NOTHING
        self._t_before = None

    def _settings(self) -> dict[str, Any]:
        return {"k": self._k}

    def _plain_state(self) -> dict[str, Any]:
        batches, total, given, loss_sum = self._added()
        plain = {"k": self._k, "batches": batches, "count": total, "given": sorted(given & self._own.keys())}
        return plain if loss_sum is None else plain | {"loss_sum": loss_sum}

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        k = None if d["k"] is None else natural(who, "k", d["k"])
        batches, total, given = natural(who, "batches", d["batches"], 0), d["count"], d["given"]
        loss_sum = d.get("loss_sum")
        if type(total) not in (int, float) or not (0 < total < inf if batches else total == 0):
            raise ValueError(f"{who}: count must be positive where batches are, got {total!r}")
        if not isinstance(given, list) or not all(isinstance(name, str) and name in self._own for name in given):
            raise ValueError(f"{who}: given must list names of parameters, got {given!r}")
        if not (loss_sum is None or type(loss_sum) in (int, float)):
            raise ValueError(f"{who}: loss_sum must be a number, got {loss_sum!r}")

        def assign() -> None:
            self._k, self._t_before = k, None
            self._progress[0] = batches, float(total), frozenset(given), None if loss_sum is None else float(loss_sum)

        return assign


class SummedScale(LossScale):
    """A loss scale for the sum of gradients, whose divisor is the scale times the sum of the batches' sizes."""

    __slots__ = ("scale", "total")

    def __init__(self, scale: LossScale, total: float) -> None:
        self.scale, self.total = scale, total

    @property
    def value(self) -> float:  # type: ignore[override]
        return self.scale.value * self.total

    def update(self, overflow: bool) -> None:
        self.scale.update(overflow)
