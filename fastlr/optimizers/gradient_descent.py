"""Gradient descent, and gradient descent with a momentum."""
from __future__ import annotations

from .base import Optimizer
from .declaration import Hyper, within


class SGD(Optimizer):
    r"""Each parameter moves against its gradient.

    .. math:: p \leftarrow p - \eta g

    No state. Robbins & Monro 1951, https://doi.org/10.1214/aoms/1177729586. As ``torch.optim.SGD`` without
    momentum, ``optax.sgd`` and ``keras.optimizers.SGD``.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 2.0])
    >>> opt = fastlr.SGD(p, lr=0.5)
    >>> opt.step(np.array([1.0, -1.0]))
    >>> p
    array([0.5, 2.5])
    """


def of_sum(h: dict[str, float], fresh: bool) -> dict[str, tuple[int, float]]:
    """What a velocity takes of one more gradient, before it decays."""
    return {"m": (1, (1 if fresh else 1 - h["dampening"]) / h["momentum"])}


class Momentum(Optimizer, slots=("m",), folds=of_sum):
    r"""The heavy ball: gradients add up in a velocity, and the parameter follows it.

    .. math:: m \leftarrow \mu m + (1 - d) g, \qquad p \leftarrow p - \eta m

    with momentum :math:`\mu` and dampening :math:`d`, which the first gradient of a parameter escapes. State `m`.
    Polyak 1964, https://doi.org/10.1016/0041-5553(64)90137-5. As ``torch.optim.SGD(momentum=, dampening=)`` and, at
    dampening 0, ``optax.sgd(momentum=)``. The learning rate is outside the velocity; Keras has it inside, which
    differs as soon as the learning rate changes.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.Momentum(p, lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     opt.step(np.array([1.0]))
    >>> round(float(p[0]), 12)
    0.71
    """

    momentum: Hyper = within(0.9, 0, 1)
    dampening: Hyper = within(0.0, 0, 1)


class Nesterov(Optimizer, slots=("m",)):
    r"""The heavy ball, looking ahead: the parameter moves by the velocity it will have next.

    .. math:: m \leftarrow \mu m + g, \qquad p \leftarrow p - \eta (g + \mu m)

    State `m`. Nesterov 1983, in the form of Sutskever et al. 2013,
    https://proceedings.mlr.press/v28/sutskever13.html. As ``torch.optim.SGD(nesterov=True)`` and
    ``optax.sgd(nesterov=True)``; Keras has the learning rate inside the velocity.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.Nesterov(p, lr=0.1, momentum=0.9).step(np.array([1.0]))
    >>> round(float(p[0]), 12)
    0.81
    """

    momentum: Hyper = within(0.9, 0, 1)
