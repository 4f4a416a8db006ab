"""Optimizers that sum over a tensor before they move it."""
from __future__ import annotations

from .base import Optimizer
from .declaration import Convention, Hyper, within
from .moments import Adam, AdamW


class Fromage(Optimizer):
    r"""A step as long as the learning rate times the tensor, and a tensor that does not grow by it.

    .. math:: p \leftarrow \frac{1}{\sqrt{1 + \eta^2}} \left( p - \eta \frac{\|p\|}{\|g\|} g \right)

    with 1 for the ratio where a norm is 0. No state. Bernstein et al. 2020, https://arxiv.org/abs/2002.03432. As
    ``pytorch_optimizer.Fromage``, the authors' code; ``optax.fromage`` takes a norm of at least 1e-6 for its ratio.

    >>> import numpy as np, fastlr
    >>> p = np.array([3.0, 4.0])
    >>> fastlr.Fromage(p, lr=0.75).step(np.array([2.0, 0.0]))
    >>> p.round(6)
    array([-0.6,  3.2])
    """

    lr: Hyper = within(1e-2)


class LARS(Optimizer, decay="decoupled"):
    r"""Momentum with a learning rate for each tensor, in proportion to its norm over that of its gradient.

    .. math::
        \rho = \tau \frac{\|p\|}{\|g\| + \lambda \|p\| + \epsilon}, \quad
        m \leftarrow \mu m + \eta \rho (g + \lambda p), \quad p \leftarrow p - m

    with :math:`\tau` = `trust_coefficient`, and :math:`\rho = 1` where a norm is 0. State `m`. You, Gitman &
    Ginsburg 2017, https://arxiv.org/abs/1708.03888: lr is inside the momentum. As ``pytorch_optimizer.LARS`` and
    ``timm.optim.Lars(always_adapt=True)`` while lr, outside there, is constant; the former leaves vectors alone.
    ``optax.lars`` has the norm of the sum, :math:`\|g + \lambda p\|`, which here is ``decay="coupled"``.

    >>> import numpy as np, fastlr
    >>> p = np.array([3.0, 4.0])
    >>> fastlr.LARS(p, lr=1.0, trust_coefficient=0.1).step(np.array([2.0, 0.0]))
    >>> p
    array([2.5, 4. ])
    """

    momentum: Hyper = within(0.9, 0, 1)
    trust_coefficient: Hyper = within(1e-3)
    eps: Hyper = within(0.0)


class LARC(Optimizer, decay="decoupled"):
    r"""Momentum whose learning rate each tensor may lower, in proportion to its norm over that of its gradient.

    .. math::
        \rho = \min\left(1, \frac{\tau}{\eta} \frac{\|p\|}{\|g\| + \lambda \|p\| + \epsilon}\right), \quad
        m \leftarrow \mu m + \rho (g + \lambda p), \quad p \leftarrow p - \eta m

    with :math:`\tau` = `trust_coefficient`, and :math:`\rho = 1` where a norm is 0. State `m`. LARS with a
    ceiling: NVIDIA's apex, with its defaults, which cites You, Gitman & Ginsburg 2017,
    https://arxiv.org/abs/1708.03888. As ``timm.optim.Lars(trust_clip=True, always_adapt=True)``, whose default trust
    is 0.001.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([3.0, 4.0])
    >>> fastlr.LARC(p, lr=0.1, trust_coefficient=0.02).step(np.array([2.0, 0.0]))
    >>> p.round(6)
    array([2.9, 4. ])
    """

    momentum: Hyper = within(0.9, 0, 1)
    trust_coefficient: Hyper = within(0.02)
    eps: Hyper = within(1e-8)


class NovoGrad(Optimizer, decay="decoupled", conventions={
        "pytorch-optimizer": "NovoGrad", "optax": Convention("NovoGrad", beta1=0.9, beta2=0.25, eps=1e-6)}):
    r"""Momentum of gradients that are divided by the root mean square of their tensor's norm.

    .. math::
        v \leftarrow \beta_2 v + (1 - \beta_2) \|g\|^2, \quad
        m \leftarrow \beta_1 m + \frac{g}{\sqrt{v} + \epsilon} + \lambda p, \quad p \leftarrow p - \eta m

    where :math:`v = \|g\|^2` at the first step. State `m`, and of each tensor the number `v`. Ginsburg et al. 2019,
    https://arxiv.org/abs/1905.11286, with its betas. As ``pytorch_optimizer.NovoGrad`` and ``optax.novograd``; with
    ``convention="optax"`` beta1 is 0.9, beta2 0.25 and eps 1e-6.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([3.0, 4.0])
    >>> fastlr.NovoGrad(p, lr=0.1).step(np.array([3.0, -4.0]))
    >>> p.round(6)
    array([2.94, 4.08])
    """

    beta1: Hyper = within(0.95, 0, 1)
    beta2: Hyper = within(0.98, 0, 1)
    eps: Hyper = within(1e-8)


class CautiousLion(Optimizer, decay="decoupled",
                   conventions={"pytorch-optimizer": "CautiousLion", "timm": "CautiousLionMean"}):
    r"""Lion, but an element moves only where the step and its gradient agree.

    .. math::
        u = \operatorname{sign}(\beta_1 m + (1 - \beta_1) g), \quad m \leftarrow \beta_2 m + (1 - \beta_2) g, \quad
        p \leftarrow (1 - \eta \lambda) p - \eta \frac{n}{k + 1} u \, [u g > 0]

    where k of the tensor's n elements move. State `m`. Liang et al. 2024, https://arxiv.org/abs/2411.16085, with
    the betas of Chen et al. 2023, https://arxiv.org/abs/2302.06675. As ``pytorch_optimizer.Lion(cautious=True)``; with
    ``convention="timm"`` the factor is 1 / max(k / n, 0.001), as in timm's ``clion``.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 1.0, 1.0])
    >>> fastlr.CautiousLion(p, lr=0.1).step(np.array([5.0, -0.01, 0.0]))
    >>> p.round(6)
    array([0.9, 1.1, 1. ])
    """

    lr: Hyper = within(1e-4)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.99, 0, 1)


class CautiousAdamW(AdamW, decay="decoupled",
                    conventions={"pytorch-optimizer": "CautiousAdamW", "timm": "CautiousAdamWMean"}):
    r"""AdamW, but an element moves only where its mean gradient and its gradient agree.

    .. math::
        p \leftarrow (1 - \eta \lambda) p - \eta \frac{n}{k + 1}
        \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} [m g > 0]

    where k of the tensor's n elements move; m and v as in Adam. State `m` and `v`. Liang et al. 2024,
    https://arxiv.org/abs/2411.16085. As ``pytorch_optimizer.AdamP(cautious=True)`` of vectors; with
    ``convention="timm"`` the factor is 1 / max(k / n, 0.001), as in timm's ``cadamw`` and the authors' code. Where the
    product m g is too small for a float, the signs decide here.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 1.0, 1.0])
    >>> fastlr.CautiousAdamW(p, lr=0.1, weight_decay=0.0).step(np.array([5.0, -0.01, 0.0]))
    >>> p.round(6)
    array([0.9, 1.1, 1. ])
    """


class MARS(AdamW, decay="decoupled",
           conventions={"timm": "MARS", "pytorch-optimizer": "MARSFromZero"}):
    r"""AdamW of gradients that are corrected by their own change, which lowers their variance.

    .. math::
        c = g + \gamma \frac{\beta_1}{1 - \beta_1} (g - g_{t-1}), \quad c \leftarrow c / \max(1, \|c\|), \quad
        \text{then AdamW with } c

    where the change is 0 at the first step; with ``convention="pytorch-optimizer"``, as in the authors' code, the
    gradient before the first is 0. State `m`, `v` and the gradient before, `g_prev`. Yuan et al. 2024,
    https://arxiv.org/abs/2411.10438, in its approximate form. As ``timm.optim.Mars``, whose default beta1 is 0.9;
    ``pytorch_optimizer.MARS`` has epsilon beside the uncorrected root. Both leave vectors to AdamW unless told.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.MARS(p, lr=0.1, weight_decay=0.0).step(np.array([5.0]))
    >>> p.round(6)
    array([0.9])
    """

    lr: Hyper = within(3e-3)
    beta1: Hyper = within(0.95, 0, 1)
    beta2: Hyper = within(0.99, 0, 1)
    gamma: Hyper = within(0.025)
    weight_decay: Hyper = within(0.0)


class StableAdamW(Adam, decay="decoupled"):
    r"""AdamW that slows a tensor down whose gradient is larger than its past would have it.

    .. math::
        \eta' = \eta / \max\left(1, \sqrt{\operatorname{mean}
        \frac{g^2}{\max(\hat v, \epsilon^2)}}\right), \quad
        p \leftarrow p - \eta' \left( \frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda p \right)

    with :math:`\hat m = m / (1 - \beta_1^t)`, :math:`\hat v = v / (1 - \beta_2^t)`. State `m` and `v`. Wortsman et al.
    2023, https://arxiv.org/abs/2304.13013, algorithm 2, which stores the corrected means. As
    ``pytorch_optimizer.StableAdamW``, with its defaults.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.StableAdamW(p, lr=0.1, weight_decay=0.5).step(np.array([2.0]))
    >>> p.round(6)
    array([0.85])
    """

    beta2: Hyper = within(0.99, 0, 1)
    weight_decay: Hyper = within(0.01)


class LAMB(Adam, decay="decoupled", conventions={
        "paper": "LAMB", "optax": Convention("LAMB", eps=1e-6), "keras": Convention("LAMBOutside", eps=1e-7),
        "pytorch-optimizer": Convention("LAMBUncorrected", eps=1e-6)}):
    r"""AdamW's step, of each tensor as long as the learning rate times the tensor itself.

    .. math::
        r = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda p, \quad
        p \leftarrow p - \eta \frac{\|p\|}{\|r\|} r

    with m and v as in Adam, and 1 for the ratio where a norm is 0. State `m` and `v`. You et al. 2020,
    https://arxiv.org/abs/1904.00962, with phi the identity. As ``optax.lamb``; with ``convention="optax"`` eps is 1e-6.

    ``"keras"``: weight decay is no part of r, but as in `AdamW`; eps is 1e-7. ``"pytorch-optimizer"``: the same decay,
    eps 1e-6, and r of uncorrected moments, whose ratio :math:`\min(\|p\|, 10) / (\|r\| + \epsilon)` is then divided by
    :math:`1 - \beta_1^t`, which makes the first step :math:`1 / (1 - \beta_1)` times as long.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([3.0, 4.0])
    >>> fastlr.LAMB(p, lr=0.1).step(np.array([1.0, 0.0]))
    >>> p.round(6)
    array([2.5, 4. ])
    """
