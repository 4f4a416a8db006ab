"""Optimizers whose step has the same length for every element: only signs tell them apart."""
from __future__ import annotations

from .base import Optimizer
from .declaration import Convention, Hyper, within


class SignSGD(Optimizer):
    r"""Each parameter moves by the learning rate, against the sign of its gradient.

    .. math:: p \leftarrow p - \eta \operatorname{sign}(g)

    with sign(0) = 0. No state. Bernstein et al. 2018, https://arxiv.org/abs/1802.04434, algorithm 1. As
    ``optax.sign_sgd`` and ``pytorch_optimizer.SignSGD(momentum=0)``.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 1.0, 1.0])
    >>> fastlr.SignSGD(p, lr=0.5).step(np.array([3.0, -0.01, 0.0]))
    >>> p
    array([0.5, 1.5, 1. ])
    """


class Signum(Optimizer):
    r"""SignSGD by a running mean of gradients.

    .. math:: m \leftarrow \mu m + (1 - \mu) g, \quad p \leftarrow p - \eta \operatorname{sign}(m)

    State `m`. Bernstein et al. 2018, https://arxiv.org/abs/1802.04434, algorithm 2. As ``optax.signum`` and
    ``pytorch_optimizer.SignSGD(momentum=)``. At the first step it is SignSGD.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.Signum(p, lr=0.5)
    >>> for g in (4.0, -1.0):
    ...     opt.step(np.array([g]))
    >>> p
    array([0.])
    """

    momentum: Hyper = within(0.9, 0, 1)


class Tiger(Signum, decay="decoupled", rule="Signum"):
    r"""Signum with decoupled weight decay: of all that remember something, the one that remembers least.

    .. math:: p \leftarrow (1 - \eta \lambda) p, \quad \text{then Signum}

    State `m`. Su 2023, https://github.com/bojone/tiger, which also makes the learning rate relative to a tensor's
    size: give that as `lr_scale`. As ``pytorch_optimizer.Tiger``.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.Tiger(p, lr=0.5, weight_decay=0.5).step(np.array([4.0]))
    >>> p
    array([0.25])
    """

    momentum: Hyper = within(0.965, 0, 1)
    weight_decay: Hyper = within(0.01)


class Lion(Optimizer, decay="decoupled", conventions={
        "paper": "Lion", "optax": Convention("Lion", weight_decay=1e-3), "keras": Convention("Lion", lr=1e-3)}):
    r"""The sign of momentum that remembers longer than it is looked at.

    .. math::
        p \leftarrow p - \eta \operatorname{sign}(\beta_1 m + (1 - \beta_1) g), \quad
        m \leftarrow \beta_2 m + (1 - \beta_2) g

    with sign(0) = 0. State `m`. Chen et al. 2023, https://arxiv.org/abs/2302.06675, algorithm 2, with its default lr
    1e-4, a tenth of Adam's; weight decay then wants to be ten times as strong. As ``pytorch_optimizer.Lion``,
    ``optax.lion`` (``convention="optax"``: weight_decay 1e-3) and Keras (``"keras"``: lr 1e-3). DeepSpeed's moves an
    element by lr even where momentum and gradient are 0.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 1.0, 1.0])
    >>> fastlr.Lion(p, lr=0.5).step(np.array([3.0, -0.01, 0.0]))
    >>> p
    array([0.5, 1.5, 1. ])
    """

    lr: Hyper = within(1e-4)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.99, 0, 1)
