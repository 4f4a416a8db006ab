"""Rules that need no schedule: the mean of where they have been takes the place of a rate that falls.

The parameters are y, where gradients are to be taken; `averaged` has x, what is to be used. Nothing has to be switched
between training and evaluation, and nothing but `averaged` reads x.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from .._engine.tensors import Array, Tensor, values
from .base import Optimizer
from .declaration import Hyper, within


class ScheduleFree(Optimizer, family=True):
    """What the three share: `averaged`."""

    r: Hyper = within(0.0)
    weight_lr_power: Hyper = within(2.0)

    @property
    def averaged(self) -> dict[str, Any]:
        """The mean x of each parameter, by name, as new arrays in the precision of the rule: what training is for."""
        return {tensor.name: self._mean_of(tensor) for tensor in self._plan.tensors}

    def _mean_of(self, tensor: Tensor) -> Array:
        y = tensor.master()
        state = self.state[tensor.name]
        beta = float(state["beta"])
        wide = np.float64 if tensor.is_double else np.float32
        if beta == 0:                  # (before its first update)
            return np.array(y, wide)
        z = values(state["z"])
        return np.asarray(y + (1 - 1 / beta) * (z.astype(np.float64) - y), wide)


class ScheduleFreeSGD(ScheduleFree, decay="decoupled"):
    r"""Gradient descent z, its mean x, and gradients taken between the two, at y: no schedule of the learning rate.

    .. math::
        w = t^r \max_{i \le t} \eta_i^k, \quad c = w / \textstyle\sum w, \quad
        z \leftarrow z - \eta (g + \lambda y), \quad x \leftarrow (1 - c) x + c z, \quad
        y = (1 - \beta) z + \beta x

    with :math:`\beta` = `momentum`, k = `weight_lr_power`, and :math:`\eta` growing linearly over the first
    `warmup_steps` updates. The parameters are y; use ``opt.averaged`` for x, at any time. State `z`, and of each tensor
    `weight_sum`, `lr_max` and the latest `beta`. Defazio et al. 2024, https://arxiv.org/abs/2405.15682. As
    ``schedulefree.SGDScheduleFree``, without its train() and eval(), and as ``optax.contrib.schedule_free_sgd``. Where
    momentum is changed on the way, x is kept.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.ScheduleFreeSGD(p, lr=0.5)
    >>> for _ in range(2):
    ...     opt.step(p.copy())
    >>> p.round(4), opt.averaged["0"].round(4)
    (array([0.3625]), array([0.375]))
    """

    lr: Hyper = within(1.0)
    momentum: Hyper = within(0.9, 0.01, 1)
    warmup_steps: Hyper = within(0.0)


class ScheduleFreeAdamW(ScheduleFree, decay="decoupled"):
    r"""RMSprop's steps z, their mean x, and gradients taken between the two, at y: no schedule of the learning rate.

    .. math::
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        z \leftarrow z - \eta \left( \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda y \right), \quad
        x \leftarrow (1 - c) x + c z, \quad y = (1 - \beta_1) z + \beta_1 x

    with c and the warm-up as in ScheduleFreeSGD. The parameters are y; use ``opt.averaged`` for x, at any time. State
    `z`, `v`, and of each tensor `weight_sum`, `lr_max` and the latest `beta`. Defazio et al. 2024,
    https://arxiv.org/abs/2405.15682. As ``schedulefree.AdamWScheduleFree``, without its train() and eval(), and as
    ``optax.contrib.schedule_free_adamw``; Keras weighs all steps alike, and evaluates at y.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.ScheduleFreeAdamW(p, lr=0.1)
    >>> for _ in range(2):
    ...     opt.step(p.copy())
    >>> p.round(4), opt.averaged["0"].round(4)
    (array([0.848]), array([0.8527]))
    """

    lr: Hyper = within(2.5e-3)
    beta1: Hyper = within(0.9, 0.01, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)
    warmup_steps: Hyper = within(0.0)


class ScheduleFreeRAdam(ScheduleFree, decay="decoupled"):
    r"""ScheduleFreeAdamW that warms up by itself, as RAdam does.

    .. math::
        \eta_t = \eta \cdot \begin{cases}
        \sqrt{\frac{(\rho - 4)(\rho - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho}} & \rho > 4 \\
        0 & \text{else} \end{cases}

    with RAdam's :math:`\rho`, and with that rate as ScheduleFreeAdamW: where beta2 is 0.999, the first four updates
    only fill `v`. State `z`, `v`, and of each tensor
    `weight_sum`, `lr_max` and the latest `beta`. Defazio et al. 2024, https://arxiv.org/abs/2405.15682, with Liu et al.
    2020, https://arxiv.org/abs/1908.03265. As ``schedulefree.RAdamScheduleFree``, whose silent_sgd_phase is on by
    default too, without its train() and eval().

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.ScheduleFreeRAdam(p, lr=0.1)
    >>> for _ in range(5):
    ...     opt.step(p.copy())
    >>> p.round(4), opt.averaged["0"].round(4)
    (array([0.9983]), array([0.9983]))
    """

    lr: Hyper = within(2.5e-3)
    beta1: Hyper = within(0.9, 0.01, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)
