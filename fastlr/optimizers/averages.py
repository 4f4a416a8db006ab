"""Running means of weights: exponential (EMA) and equal (SWA)."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from .._engine.foreach import foreach
from .._engine.tensors import Array, Tensor
from .base import Optimizer
from .linesearch import natural
from .resumable import (
    Assign,
    Resumable,
    bound_parameters,
    flattened,
    parameters_written,
    refuse_replaced,
    rules_of,
    tensors_of,
    write_back,
)
from .wrappers import read_only


class WeightAverage(Resumable):
    """The base class of both means: `update` includes the current parameters, `params` has the means, and `swapped`
    sets the parameters to them for a while.

    Means are float32, or for float64 parameters float64, in memory of their own.
    """

    def __init__(self, params: Any, dtype: str | None) -> None:
        who = type(self).__name__
        self._opt = params if isinstance(params, Optimizer | Resumable) else None
        if self._opt is not None and dtype is not None:
            raise TypeError(f"{who}: the optimizer knows the dtype of its parameters; leave dtype out")
        own = bound_parameters(params, who, dtype=dtype)[1] if self._opt is None else tensors_of(params)
        self._members = list(own)
        self._means = {tensor.name: {"mean": flattened(tensor.array).copy().reshape(tensor.array.shape)}
                       for tensor in self._members}
        self._rows = [slots["mean"].reshape(-1) for slots in self._means.values()]
        #: Calls of `update`, and how many of them the mean includes.
        self._counts = [(0, 0)]
        self._before: list[Array] | None = None        # inside `swapped`: the values of the parameters before it

    @property
    def t(self) -> int:
        """How often `update` was called."""
        return self._counts[0][0]

    @property
    def _tensors(self) -> list[Tensor]:
        return self._members

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return self._means

    def _parameters_written(self) -> None:
        if self._opt is not None:
            parameters_written(self._opt)
        else:
            super()._parameters_written()

    @property
    def params(self) -> dict[str, Array]:
        """The means by name, as views that cannot be written to."""
        self._require_mean("params")
        return {name: read_only(slots["mean"]) for name, slots in self._means.items()}

    def _require_mean(self, what: str) -> None:
        """RuntimeError if there is no mean yet."""

    def _include(self, weight: float) -> None:
        """mean += weight * (parameter - mean), and count it."""
        t, included = self._counts[0]
        current = [flattened(tensor.array) for tensor in self._members]
        foreach("copy" if weight == 1 else "lerp", self._rows, current, weight=weight,
                record=self._counts, entry=(t + 1, included + 1))

    def _require_ready(self, what: str) -> None:
        if self._before is not None:
            raise RuntimeError(f"{type(self).__name__}.{what}: the parameters hold the means; leave the with block of "
                               f"swapped() first")
        if self._opt is not None and tensors_of(self._opt) != self._members:
            raise RuntimeError(f"{type(self).__name__}.{what}: the optimizer has other parameters than those of which "
                               f"this has means; make a new {type(self).__name__} after add_group or drop_group")
        refuse_replaced(self._opt)
        for rule in () if self._opt is None else rules_of(self._opt):
            rule._require_all_updates(f"{type(self).__name__}.{what}")

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """In this with block the parameters hold their means; after it their earlier values, bit for bit.

        Also after an exception. What is written to them in the block is lost. RuntimeError inside another such block.
        """
        self._require_ready("swapped")
        self._require_mean("swapped")
        before = [np.asarray(tensor.array).copy() for tensor in self._members]
        try:
            try:
                self._before = before
                for tensor, mean in zip(self._members, self._rows, strict=True):
                    write_back(tensor.array, mean)
                self._parameters_written()
                yield
            finally:
                self._restore()
        finally:
            self._restore()                # (in case that an interrupt stopped the first call)

    def _restore(self) -> None:
        """Give the parameters the values that they had before `swapped`; no effect if they have them."""
        if self._before is None:
            return
        for tensor, values in zip(self._members, self._before, strict=True):
            np.asarray(tensor.array)[...] = values
        self._parameters_written()
        self._before = None

    def __repr__(self) -> str:
        own = "".join(f"{name}={value!r}, " for name, value in self._plain_state().items())
        count, size = len(self._members), sum(tensor.array.size for tensor in self._members)
        return f"{type(self).__name__}({own}{count} tensor{'s' * (count != 1)}, {size:,} elements, t={self.t})"


class EMA(WeightAverage):
    r"""The exponential running mean of weights.

    .. math:: \bar p \leftarrow d_t \bar p + (1 - d_t) p, \qquad d_t = \min\Bigl(d, \frac{1 + t}{10 + t}\Bigr)

    at the t-th call of `update`, t = 0 being the first; without `warmup`, :math:`d_t = d`. The mean starts as the
    parameters' values when this is made (``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn`` starts
    with those of its first update, and has no warm-up). Polyak & Juditsky 1992, https://doi.org/10.1137/0330046; the
    warm-up is TensorFlow's. Every optimizer's ``ema_decay`` updates such a mean in
    the same pass as the step.

    Parameters
    ----------
    params
        An optimizer, whose names the means then have; or an array, a sequence or a mapping of arrays.
    decay
        d, in [0, 1).
    warmup
        Whether the first means use a smaller decay.
    dtype
        "bfloat16" says that uint16 arrays hold bfloat16 bits.

    >>> import numpy as np, fastlr
    >>> p = np.array([0.0])
    >>> ema = fastlr.EMA(p, decay=0.9, warmup=False)
    >>> p[0] = 1.0
    >>> ema.update()
    >>> with ema.swapped():
    ...     print(p.round(6))
    [0.1]
    >>> p
    array([1.])
    """

    def __init__(self, params: Any, decay: float = 0.999, warmup: bool = True, dtype: str | None = None) -> None:
        self._decay, self._warmup = fraction("EMA", decay), bool(warmup)
        super().__init__(params, dtype)

    @property
    def decay(self) -> float:
        """The share of the old mean."""
        return self._decay

    @decay.setter
    def decay(self, value: float) -> None:
        self._decay = fraction("EMA", value)

    @property
    def warmup(self) -> bool:
        """Whether the first means use a smaller decay."""
        return self._warmup

    def update(self) -> None:
        """Include the current parameters in the mean."""
        self._require_ready("update")
        decay = min(self._decay, (1 + self.t) / (10 + self.t)) if self._warmup else self._decay
        self._include(1 - decay)

    def _plain_state(self) -> dict[str, Any]:
        return {"decay": self._decay, "warmup": self._warmup}

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        decay, t = fraction(who, d["decay"]), natural(who, "t", d["t"], 0)
        if not isinstance(d["warmup"], bool):
            raise ValueError(f"{who}: warmup must be a bool, got {d['warmup']!r}")

        def assign() -> None:
            self._decay, self._warmup = decay, d["warmup"]
            self._counts[0] = t, t

        return assign


class SWA(WeightAverage):
    r"""The equal mean of weights along the way: stochastic weight averaging.

    .. math:: \bar p \leftarrow \bar p + \frac{p - \bar p}{n + 1}

    at the updates `start`, `start` + `every`, `start` + 2 `every`, ..., counted from 0; n, `averaged`, is how many
    values are in the mean. Before the first there is no mean. Izmailov et al. 2018, https://arxiv.org/abs/1803.05407.
    As ``torch.optim.swa_utils.AveragedModel``.

    Parameters
    ----------
    params, dtype
        As for `EMA`.
    start, every
        Which calls of `update` count.

    >>> import numpy as np, fastlr
    >>> p = np.array([0.0])
    >>> swa = fastlr.SWA(p, start=1, every=2)
    >>> for k in range(6):
    ...     p[0] = k
    ...     counted = swa.update()
    >>> swa.params["0"], swa.averaged
    (array([3.]), 3)
    """

    def __init__(self, params: Any, start: int = 0, every: int = 1, dtype: str | None = None) -> None:
        self._start, self._every = natural("SWA", "start", start, 0), natural("SWA", "every", every)
        super().__init__(params, dtype)

    @property
    def start(self) -> int:
        """The first update that counts."""
        return self._start

    @property
    def every(self) -> int:
        """How many updates there are from one that counts to the next."""
        return self._every

    @property
    def averaged(self) -> int:
        """How many values are in the mean."""
        return self._counts[0][1]

    def update(self) -> bool:
        """Include the current parameters in the mean if this update counts; return whether it does."""
        self._require_ready("update")
        t, averaged = self._counts[0]
        counts = t >= self._start and (t - self._start) % self._every == 0
        if counts:
            self._include(1 / (averaged + 1))
        else:
            self._counts[0] = t + 1, averaged
        return counts

    def _require_mean(self, what: str) -> None:
        if not self.averaged:
            raise RuntimeError(f"SWA.{what}: no update counted yet: {self.t} of at least {self._start + 1}")

    def _plain_state(self) -> dict[str, Any]:
        return {"start": self._start, "every": self._every, "averaged": self.averaged}

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        start, every = natural(who, "start", d["start"], 0), natural(who, "every", d["every"])
        t, averaged = natural(who, "t", d["t"], 0), natural(who, "averaged", d["averaged"], 0)
        if averaged > t:
            raise ValueError(f"{who}: averaged must be at most t, got {averaged} of {t}")

        def assign() -> None:
            self._start, self._every = start, every
            self._counts[0] = t, averaged

        return assign


def fraction(who: str, value: Any) -> float:
    """A decay in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < 1:
        raise ValueError(f"{who}: decay must be in [0, 1), got {value!r}")
    return float(value)
