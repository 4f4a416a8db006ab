"""Gradient descent, and gradient descent with a momentum."""
from __future__ import annotations

from typing import Any

import numpy as np

from .._engine.tensors import values
from .base import Optimizer
from .declaration import Convention, Hyper, within


class SGD(Optimizer, fades="", conventions={
        "torch": "SGD", "optax": "SGD", "keras": Convention("SGD", "decoupled", lr=0.01)}):
    r"""Each parameter moves against its gradient.

    .. math:: p \leftarrow p - \eta g

    No state. Robbins & Monro 1951, https://doi.org/10.1214/aoms/1177729586. As ``torch.optim.SGD`` without
    momentum, ``optax.sgd`` and ``keras.optimizers.SGD``; ``convention="keras"``: lr 0.01, weight decay decoupled.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 2.0])
    >>> opt = fastlr.SGD(p, lr=0.5)
    >>> opt.step(np.array([1.0, -1.0]))
    >>> p
    array([0.5, 2.5])
    """


def share_of_velocity(h: dict[str, float], first_update: bool) -> dict[str, tuple[int, float]]:
    """What a velocity takes of one more gradient, before it decays."""
    return {"m": (1, (1 if first_update else 1 - h["dampening"]) / h["momentum"])}


class Momentum(Optimizer, fades="m", accumulation=share_of_velocity, conventions={
        "torch": "Momentum", "optax": "Momentum",
        "keras": Convention("MomentumInside", "decoupled", accumulates=False, lr=0.01)}):
    r"""The heavy ball: gradients add up in a velocity, and the parameter follows it.

    .. math:: m \leftarrow \mu m + (1 - d) g, \qquad p \leftarrow p - \eta m

    with momentum :math:`\mu` and dampening :math:`d`, which the first gradient of a parameter escapes. State `m`.
    Polyak 1964, https://doi.org/10.1016/0041-5553(64)90137-5. As ``torch.optim.SGD(momentum=, dampening=)`` and, at
    dampening 0, ``optax.sgd(momentum=)``: a learning rate that changes acts on the whole velocity at once.

    ``convention="keras"``: the learning rate is inside the velocity, :math:`m \leftarrow \mu m + \eta (1 - d) g` and
    :math:`p \leftarrow p - m`, so that past gradients keep the rate of their time; lr is 0.01, weight decay decoupled.

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


class Nesterov(Optimizer, fades="m", conventions={
        "torch": "Nesterov", "optax": "Nesterov", "keras": Convention("NesterovInside", "decoupled", lr=0.01)}):
    r"""The heavy ball, looking ahead: the parameter moves by the velocity it will have next.

    .. math:: m \leftarrow \mu m + g, \qquad p \leftarrow p - \eta (g + \mu m)

    State `m`. Nesterov 1983, in the form of Sutskever et al. 2013,
    https://proceedings.mlr.press/v28/sutskever13.html. As ``torch.optim.SGD(nesterov=True)`` and
    ``optax.sgd(nesterov=True)``.

    ``convention="keras"``: the learning rate is inside the velocity, :math:`m \leftarrow \mu m + \eta g` and
    :math:`p \leftarrow p - (\eta g + \mu m)`; lr is 0.01 and weight decay decoupled.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.Nesterov(p, lr=0.1, momentum=0.9).step(np.array([1.0]))
    >>> round(float(p[0]), 12)
    0.81
    """

    momentum: Hyper = within(0.9, 0, 1)


class SGDW(Momentum, decay="decoupled", rule="Momentum"):
    r"""The heavy ball, and apart from it each parameter shrinks by lr * weight_decay.

    .. math:: p \leftarrow (1 - \eta \lambda) p, \quad \text{then Momentum}

    State `m`. Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 1, with their schedule multiplier
    inside :math:`\eta`. As ``pytorch_optimizer.SGDW`` and timm's, whose weight decay is off by default too.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.SGDW(p, lr=0.5, weight_decay=0.5).step(np.array([1.0]))
    >>> p
    array([0.25])
    """


class QHM(Optimizer, fades="m"):
    r"""Quasi-hyperbolic momentum: a step between the gradient's and its running mean's.

    .. math:: m \leftarrow \mu m + (1 - \mu) g, \quad p \leftarrow p - \eta \left( (1 - \nu) g + \nu m \right)

    State `m`. Ma & Yarats 2019, https://arxiv.org/abs/1810.06801, with the defaults that they recommend. As
    ``pytorch_optimizer.QHM``, whose own defaults (momentum 0, nu 1) are plain gradient descent.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.QHM(p, lr=0.5, momentum=0.5, nu=0.5).step(np.array([1.0]))
    >>> p
    array([0.625])
    """

    momentum: Hyper = within(0.999, 0, 1)
    nu: Hyper = within(0.7, 0, 1 + 2**-52)


class AggMo(Optimizer):
    r"""Aggregated momentum: the mean step of three heavy balls of different inertia.

    .. math:: m_i \leftarrow \beta_i m_i + g, \quad p \leftarrow p - \frac{\eta}{3} (m_1 + m_2 + m_3)

    State `m1`, `m2` and `m3`. Lucas, Sun, Zemel & Grosse 2019, https://arxiv.org/abs/1804.00325. As
    ``pytorch_optimizer.AggMo`` with its three default betas.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.AggMo(p, lr=0.5).step(np.array([1.0]))
    >>> p
    array([0.5])
    """

    beta1: Hyper = within(0.0, 0, 1)
    beta2: Hyper = within(0.9, 0, 1)
    beta3: Hyper = within(0.99, 0, 1)


class ASGD(Optimizer):
    r"""Gradient descent whose mean of parameters is the answer.

    .. math::
        \eta_t = \frac{\eta}{(1 + \lambda \eta (t - 1))^\alpha}, \quad
        p \leftarrow (1 - \lambda \eta_t) p - \eta_t g, \quad
        a \leftarrow a + \mu_t (p - a), \quad \mu_t = \frac{1}{\max(1, t - 1 - t_0)}

    The mean a is the parameter itself up to update t0, which is 1,000,000 by default, and from then on the mean since;
    ``opt.averaged`` has it at any time. State `ax`, the mean once `averaging` is 1, which the update before the first
    mean does: until then no update touches `ax` (0, or what it was before t0 was raised), and a step moves no more
    bytes than SGD's. Polyak & Juditsky 1992, https://doi.org/10.1137/0330046. As ``torch.optim.ASGD``, which writes the
    parameter to `ax` at every update before t0, except that a learning rate that changes acts at once; torch's acts one
    update later.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.ASGD(p, lr=0.5, lambd=0.0, t0=0.0)
    >>> for _ in range(3):
    ...     opt.step(p.copy())
    >>> p, opt.averaged["0"]
    (array([0.125]), array([0.1875]))
    """

    lr: Hyper = within(1e-2)
    lambd: Hyper = within(1e-4)
    alpha: Hyper = within(0.75)
    t0: Hyper = within(1e6)

    @property
    def averaged(self) -> dict[str, Any]:
        """The mean of each parameter, by name, as new arrays in the precision of the rule."""
        return {tensor.name: np.array(values(self.state[tensor.name]["ax"]) if self.state[tensor.name]["averaging"]
                                      else tensor.master(), np.float64 if tensor.is_double else np.float32)
                for tensor in self._plan.tensors}


class Rprop(Optimizer, conventions={"torch": "Rprop", "optax": "RpropLate"}):
    r"""Each element has a step of its own, which grows while its gradient keeps its sign and shrinks where it turns.

    .. math::
        s \leftarrow \operatorname{clip}(s \cdot \eta^{\pm}, s_{\min}, s_{\max}), \quad
        p \leftarrow p - s \operatorname{sign}(g)

    with :math:`\eta^+` where :math:`g g_{t-1} > 0` and :math:`\eta^-` where it is negative: there the element stays for
    one update. State `g_prev` and `s`, which begins at the learning rate; later the learning rate plays no part.
    For full batches. Riedmiller & Braun 1993, https://doi.org/10.1109/ICNN.1993.298623. As ``torch.optim.Rprop``.

    ``convention="optax"``: each step is applied one update late, and not at all if the sign turns until then; the first
    moves nothing. `g_prev` is then the step to come. That is what ``optax.rprop`` does; no paper has it.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.Rprop(p, lr=0.5)
    >>> for g in (3.0, 0.1, -2.0, -2.0):
    ...     opt.step(np.array([g]))
    ...     print(round(float(p[0]), 6))
    0.5
    -0.1
    -0.1
    0.2
    """

    lr: Hyper = within(1e-2)
    eta_minus: Hyper = within(0.5, 0, 1)
    eta_plus: Hyper = within(1.2, 1)
    step_min: Hyper = within(1e-6)
    step_max: Hyper = within(50.0)
