"""A learning rate per element, from the gradients it has had."""
from __future__ import annotations

from .base import Optimizer
from .declaration import Convention, Hyper, initial_state, within


class AdaGrad(Optimizer, fades="", conventions={
        "torch": "AdaGrad", "optax": Convention("AdaGradInside", eps=1e-7, initial_accumulator_value=0.1),
        "keras": Convention("AdaGradInside", "decoupled", lr=1e-3, eps=1e-7, initial_accumulator_value=0.1)}):
    r"""Gradients over the root of the sum of all their squares: what moved much moves less.

    .. math::
        s \leftarrow s + g^2, \quad
        p \leftarrow p - \frac{\eta}{1 + (t - 1) \delta} \frac{g}{\sqrt{s} + \epsilon}

    with `lr_decay` :math:`\delta`, t = 1 at the first update. State `s`, which begins at `initial_accumulator_value`.
    Duchi, Hazan & Singer 2011, https://jmlr.org/papers/v12/duchi11a.html. As ``torch.optim.Adagrad``, where a step
    cannot be longer than lr.

    ``convention="optax"`` and ``"keras"``: epsilon is inside the root, :math:`g / \sqrt{s + \epsilon}`, and 1e-7; `s`
    begins at 0.1. With Keras, lr is 0.001 and weight decay decoupled.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 1.0])
    >>> fastlr.AdaGrad(p, lr=0.1).step(np.array([3.0, -0.5]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    lr: Hyper = within(1e-2)
    lr_decay: Hyper = within(0.0)
    eps: Hyper = within(1e-10)
    initial_accumulator_value: float = initial_state("s", 0.0)


class AdaDelta(Optimizer, conventions={
        "torch": "AdaDelta", "optax": "AdaDelta",
        "keras": Convention("AdaDelta", "decoupled", lr=1e-3, rho=0.95, eps=1e-7)}):
    r"""Steps in the units of the parameter: the root mean square of past steps over that of gradients.

    .. math::
        v \leftarrow \rho v + (1 - \rho) g^2, \quad
        d = \frac{\sqrt{u + \epsilon}}{\sqrt{v + \epsilon}} g, \quad
        u \leftarrow \rho u + (1 - \rho) d^2, \quad p \leftarrow p - \eta d

    State `v` (gradients) and `u` (steps). Zeiler 2012, https://arxiv.org/abs/1212.5701, where :math:`\eta = 1`. As
    ``torch.optim.Adadelta`` and ``optax.adadelta`` (which ascends if it is given no rate); ``convention="keras"`` has
    other defaults: lr 0.001, rho 0.95, eps 1e-7, and decoupled weight decay.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.AdaDelta(p).step(np.array([1.0]))
    >>> round(float(p[0]), 6)
    0.996838
    """

    lr: Hyper = within(1.0)
    rho: Hyper = within(0.9, 0, 1)
    eps: Hyper = within(1e-6)


class RMSprop(Optimizer, fades="", conventions={
        "torch": "RMSprop", "optax": Convention("RMSpropInside", alpha=0.9),
        "keras": Convention("RMSpropInside", "decoupled", lr=1e-3, alpha=0.9, eps=1e-7),
        "timm": Convention("RMSpropInside", alpha=0.9, eps=1e-10, initial_scale=1.0)}):
    r"""Gradients over their running root mean square.

    .. math:: v \leftarrow \alpha v + (1 - \alpha) g^2, \qquad p \leftarrow p - \eta \frac{g}{\sqrt{v} + \epsilon}

    State `v`, which begins at `initial_scale`. Tieleman & Hinton 2012, Coursera lecture 6.5. As
    ``torch.optim.RMSprop``, epsilon outside the root.

    The other conventions have it inside, :math:`g / \sqrt{v + \epsilon}`, and alpha 0.9. ``"optax"``: as
    ``optax.rmsprop`` unless ``eps_in_sqrt=False``. ``"keras"``: lr 0.001, eps 1e-7, and weight decay is decoupled.
    ``"timm"``: as its ``RMSpropTF``, TensorFlow 1's, where eps is 1e-10 and `v` begins at 1.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.RMSprop(p, lr=0.01, alpha=0.99).step(np.array([2.0]))
    >>> round(float(p[0]), 6)
    0.9
    """

    lr: Hyper = within(1e-2)
    alpha: Hyper = within(0.99, 0, 1)
    eps: Hyper = within(1e-8)
    initial_scale: Hyper = initial_state("v", 0.0)


class RMSpropCentered(RMSprop, fades="", conventions={
        "torch": "RMSpropCentered", "optax": Convention("RMSpropCenteredInside", alpha=0.9),
        "keras": Convention("RMSpropCenteredInside", "decoupled", lr=1e-3, alpha=0.9, eps=1e-7),
        "timm": Convention("RMSpropCenteredInside", alpha=0.9, eps=1e-10, initial_scale=1.0)}):
    r"""RMSprop over the running standard deviation: the mean gradient is taken out of the mean square.

    .. math::
        v \leftarrow \alpha v + (1 - \alpha) g^2, \quad a \leftarrow \alpha a + (1 - \alpha) g, \quad
        p \leftarrow p - \eta \frac{g}{\sqrt{\max(v - a^2, 0)} + \epsilon}

    State `v` and `a`. Graves 2013, https://arxiv.org/abs/1308.0850. As ``torch.optim.RMSprop(centered=True)``, but
    where rounding makes v - a^2 negative, torch gets NaN and this gets 0. Conventions as in `RMSprop`:
    :math:`g / \sqrt{\max(v - a^2, 0) + \epsilon}`.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.RMSpropCentered(p, lr=0.01, alpha=0.5).step(np.array([2.0]))
    >>> round(float(p[0]), 6)
    0.98
    """


class RMSpropMomentum(RMSprop, fades="m", conventions={
        "torch": "RMSpropMomentum", "optax": Convention("RMSpropMomentumInside", alpha=0.9),
        "keras": Convention("RMSpropMomentumInside", "decoupled", lr=1e-3, alpha=0.9, eps=1e-7),
        "timm": Convention("RMSpropMomentumInside", alpha=0.9, eps=1e-10, initial_scale=1.0)}):
    r"""RMSprop whose steps add up in a velocity.

    .. math::
        v \leftarrow \alpha v + (1 - \alpha) g^2, \quad m \leftarrow \mu m + \frac{g}{\sqrt{v} + \epsilon}, \quad
        p \leftarrow p - \eta m

    State `v` and `m`. Graves 2013, https://arxiv.org/abs/1308.0850. As ``torch.optim.RMSprop(momentum=)``: the
    learning rate is outside the velocity.

    Conventions as in `RMSprop`, each with the learning rate inside the velocity, too:
    :math:`m \leftarrow \mu m + \eta g / \sqrt{v + \epsilon}` and :math:`p \leftarrow p - m`.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.RMSpropMomentum(p, lr=0.01, alpha=0.0, momentum=0.5)
    >>> for _ in range(2):
    ...     opt.step(np.array([2.0]))
    >>> round(float(p[0]), 6)
    0.975
    """

    momentum: Hyper = within(0.9, 0, 1)


class RMSpropCenteredMomentum(RMSpropMomentum, conventions={
        "torch": "RMSpropCenteredMomentum", "optax": Convention("RMSpropCenteredMomentumInside", alpha=0.9),
        "keras": Convention("RMSpropCenteredMomentumInside", "decoupled", lr=1e-3, alpha=0.9, eps=1e-7),
        "timm": Convention("RMSpropCenteredMomentumInside", alpha=0.9, eps=1e-10, initial_scale=1.0)}):
    r"""Centered RMSprop whose steps add up in a velocity.

    .. math::
        v \leftarrow \alpha v + (1 - \alpha) g^2, \quad a \leftarrow \alpha a + (1 - \alpha) g, \quad
        m \leftarrow \mu m + \frac{g}{\sqrt{\max(v - a^2, 0)} + \epsilon}, \quad p \leftarrow p - \eta m

    State `v`, `a` and `m`. Graves 2013, https://arxiv.org/abs/1308.0850, equations 38-45 without the learning rate
    in the velocity. As ``torch.optim.RMSprop(centered=True, momentum=)``. Conventions as in `RMSpropMomentum`,
    which have the learning rate in the velocity, as the paper.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.RMSpropCenteredMomentum(p, lr=0.01, alpha=0.5).step(np.array([2.0]))
    >>> round(float(p[0]), 6)
    0.98
    """


class FTRL(Optimizer):
    r"""Follow the leader: each parameter to where all gradients so far, and what holds it near 0, are in balance.

    .. math::
        n \leftarrow n + g^2, \quad D = (\beta + \sqrt{n}) / \eta, \quad
        z \leftarrow z + g - (D - D_{t-1}) p, \quad
        p \leftarrow \begin{cases} 0 & |z| \le \lambda_1 \\
        (\operatorname{sign}(z) \lambda_1 - z) / (D + \lambda_2) & \text{else} \end{cases}

    with :math:`\lambda_1` = `l1` and :math:`\lambda_2` = `l2`: as AdaGrad, but with exact zeros. State `z`, and `n`,
    which begins at `initial_accumulator_value`; of each tensor the learning rate before, `lr_prev`. McMahan et al.
    2013, https://doi.org/10.1145/2487575.2488200. As ``pytorch_optimizer.FTRL`` and Keras' with power -1/2,
    apart from two things: `z` begins so that a parameter stays where it is (there at 0, so that what has no gradient
    becomes 0 at once), and a learning rate that changes moves nothing by itself (there all of p is scaled by it).

    >>> import numpy as np, fastlr
    >>> p = np.zeros(2)
    >>> opt = fastlr.FTRL(p, lr=0.5, l1=1.0)
    >>> for _ in range(4):
    ...     opt.step(np.array([2.0, 0.2]))
    >>> p.round(4)
    array([-1.1422,  0.    ])
    """

    beta: Hyper = within(0.0)
    l1: Hyper = within(0.0)
    l2: Hyper = within(0.0)
    initial_accumulator_value: Hyper = initial_state("n", 0.0)


class MADGRAD(Optimizer):
    r"""Dual averaging: from where it began, by the sum of gradients over the cube root of the sum of squares.

    .. math::
        \lambda = (\eta + \epsilon) \sqrt{t}, \quad s \leftarrow s + \lambda g, \quad v \leftarrow v + \lambda g^2, \\
        p \leftarrow \mu p + (1 - \mu) \left( x_0 - \frac{s}{\sqrt[3]{v} + \epsilon} \right)

    State `s`, `v`, and where the parameter began, `x0`. It wants less weight decay than other rules, often none.
    Defazio & Jelassi 2021, https://arxiv.org/abs/2101.11075. As ``optax.contrib.madgrad`` and
    ``pytorch_optimizer.MADGRAD``; a learning rate of 0 adds nothing, there epsilon. The lr is timm's.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.MADGRAD(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.963159
    """

    lr: Hyper = within(1e-2)
    momentum: Hyper = within(0.9, 0, 1)
    eps: Hyper = within(1e-6)
