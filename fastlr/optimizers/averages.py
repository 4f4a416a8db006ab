"""Running means of weights: exponential (EMA) and equal (SWA)."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from .._engine.blend import blend
from .._engine.tensors import Array, Tensor
from .base import Optimizer
from .linesearch import natural
from .resumable import Act, Resumable, cast, flat, give, held, tensors_of
from .wrappers import shown


class WeightAverage(Resumable):
    """What both means are: `update` takes the parameters in, `params` has the means, `swapped` lends them.

    Means are float32, or for float64 parameters float64, in memory of their own.
    """

    def __init__(self, params: Any, dtype: str | None) -> None:
        who = type(self).__name__
        self._opt = params if isinstance(params, Optimizer | Resumable) else None
        if self._opt is not None and dtype is not None:
            raise TypeError(f"{who}: the optimizer says what its parameters hold; leave dtype out")
        self._members = tensors_of(params) if self._opt is not None else held(params, who, dtype=dtype)[1]
        self._means = {tensor.name: {"mean": flat(tensor.array).copy().reshape(tensor.array.shape)}
                       for tensor in self._members}
        self._t = 0
        self._lent = False

    @property
    def t(self) -> int:
        """How often `update` was called."""
        return self._t

    @property
    def _tensors(self) -> list[Tensor]:
        return self._members

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return self._means

    @property
    def params(self) -> dict[str, Array]:
        """The means by name, as views that cannot be written to."""
        self._ready("params")
        return {name: shown(slots["mean"]) for name, slots in self._means.items()}

    def _ready(self, what: str) -> None:
        """RuntimeError if there is no mean yet."""

    def _take(self, weight: float) -> None:
        """mean += weight * (parameter - mean)"""
        means = [slots["mean"].reshape(-1) for slots in self._means.values()]
        now = [flat(tensor.array) for tensor in self._members]
        if weight == 1:
            blend("put", means, now, weight=1.0)
        else:
            blend("towards", means, now, weight=weight)

    def _may_update(self) -> None:
        self._settled("update")
        if self._opt is not None and len(tensors_of(self._opt)) != len(self._members):
            raise RuntimeError(f"{type(self).__name__}: the optimizer has parameters that this mean has not; make a "
                               f"new one after add_group")

    def _settled(self, what: str) -> None:
        if self._lent:
            raise RuntimeError(f"{type(self).__name__}.{what}: the means are swapped in; leave the with block first")

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The parameters hold their means in this with block, and afterwards what they held before, bit for bit.

        Also after an exception. What is written to them inside is lost. RuntimeError inside another such block.
        """
        self._settled("swapped")
        self._ready("swapped")
        arrays = [np.asarray(tensor.array) for tensor in self._members]
        before = [array.copy() for array in arrays]
        self._lent = True
        try:
            for tensor in self._members:
                give(tensor.array, self._means[tensor.name]["mean"].reshape(-1))
            cast(self._opt)
            yield
        finally:
            for array, values in zip(arrays, before, strict=True):
                array[...] = values
            cast(self._opt)
            self._lent = False

    def __repr__(self) -> str:
        own = "".join(f"{name}={value!r}, " for name, value in self._plain().items())
        count, size = len(self._members), sum(tensor.array.size for tensor in self._members)
        return f"{type(self).__name__}({own}{count} tensor{'s' * (count != 1)}, {size:,} elements, t={self._t})"


class EMA(WeightAverage):
    r"""The exponential running mean of weights.

    .. math:: \bar p \leftarrow d_t \bar p + (1 - d_t) p, \qquad d_t = \min\Bigl(d, \frac{1 + t}{10 + t}\Bigr)

    at the t-th call of `update`, t = 0 being the first; without `warmup`, :math:`d_t = d`. The mean begins at the
    parameters' values when this is made (``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn`` begins
    at those of its first update, and has no warm-up). Polyak & Juditsky 1992, https://doi.org/10.1137/0330046; the
    warm-up is TensorFlow's. To keep the mean in the pass of the step itself, there is every optimizer's ``ema_decay``.

    Parameters
    ----------
    params
        An optimizer, whose names the means then have; or an array, a sequence or a mapping of arrays.
    decay
        d, in [0, 1).
    warmup
        Whether the first means forget faster.
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
        """Whether the first means forget faster."""
        return self._warmup

    def update(self) -> None:
        """Take the parameters in as they are now."""
        self._may_update()
        decay = min(self._decay, (1 + self._t) / (10 + self._t)) if self._warmup else self._decay
        self._take(1 - decay)
        self._t += 1

    def _plain(self) -> dict[str, Any]:
        return {"decay": self._decay, "warmup": self._warmup}

    def _revived(self, d: Mapping[str, Any], who: str) -> Act:
        decay, t = fraction(who, d["decay"]), natural(who, "t", d["t"], 0)
        if not isinstance(d["warmup"], bool):
            raise ValueError(f"{who}: warmup must be a bool, got {d['warmup']!r}")

        def act() -> None:
            self._decay, self._warmup, self._t = decay, d["warmup"], t

        return act


class SWA(WeightAverage):
    r"""The equal mean of weights along the way: stochastic weight averaging.

    .. math:: \bar p \leftarrow \bar p + \frac{p - \bar p}{n + 1}

    at the updates `start`, `start` + `every`, `start` + 2 `every`, ..., counted from 0; n, `averaged`, is how many are
    in it. Before the first there is no mean to be had. Izmailov et al. 2018, https://arxiv.org/abs/1803.05407. As
    ``torch.optim.swa_utils.AveragedModel``.

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
        self._averaged = 0
        super().__init__(params, dtype)

    @property
    def start(self) -> int:
        """The first update that counts."""
        return self._start

    @property
    def every(self) -> int:
        """How many updates lie from one that counts to the next."""
        return self._every

    @property
    def averaged(self) -> int:
        """How many are in the mean."""
        return self._averaged

    def update(self) -> bool:
        """Take the parameters in if it is their turn; whether it was."""
        self._may_update()
        due = self._t >= self._start and (self._t - self._start) % self._every == 0
        if due:
            self._take(1 / (self._averaged + 1))
            self._averaged += 1
        self._t += 1
        return due

    def _ready(self, what: str) -> None:
        if not self._averaged:
            raise RuntimeError(f"SWA.{what}: no update counted yet: {self._t} of at least {self._start + 1}")

    def _plain(self) -> dict[str, Any]:
        return {"start": self._start, "every": self._every, "averaged": self._averaged}

    def _revived(self, d: Mapping[str, Any], who: str) -> Act:
        start, every = natural(who, "start", d["start"], 0), natural(who, "every", d["every"])
        t, averaged = natural(who, "t", d["t"], 0), natural(who, "averaged", d["averaged"], 0)
        if averaged > t:
            raise ValueError(f"{who}: averaged must be at most t, got {averaged} of {t}")

        def act() -> None:
            self._start, self._every, self._t, self._averaged = start, every, t, averaged

        return act


def fraction(who: str, value: Any) -> float:
    """A decay in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < 1:
        raise ValueError(f"{who}: decay must be in [0, 1), got {value!r}")
    return float(value)
