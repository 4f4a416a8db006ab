"""Optimizers that find their own step size: from the loss, from distances, or from an estimate of the way to go."""
from __future__ import annotations

import sys
from math import isfinite
from numbers import Real
from typing import Any

from .base import Optimizer
from .declaration import Hyper, initial_state, within
from .loss_scale import LossScale

LOWEST = -sys.float_info.max


class WithStepSize(Optimizer, family=True):
    """What those share that have one step size for all tensors."""

    @property
    def step_size(self) -> float:
        """What the latest step was long: multiplies gradient or momentum where the learning rate is largest."""
        return float(self._shared[0])


class WithLoss(WithStepSize, family=True):
    """What those share that need the loss of each step."""

    needs_loss = True

    def step(self, grads: Any = None, grad_scale: float | LossScale = 1.0,
             zero_grads: bool = False, *, loss: float | None = None) -> None:
        """Update every parameter in place, as `Optimizer.step`; `loss` is what is minimised, where `grads` were taken.

        With ``maximize=True`` it is what is maximised, and the lower bound is one of its negative.

        Raises
        ------
        TypeError
            If the loss is missing or no number.
        ValueError
            If it is NaN or infinite (nothing is changed), and as `Optimizer.step`.
        """
        who = type(self).__name__
        if loss is None:
            raise TypeError(f"{who}: step needs loss=, the value of what is minimised where the gradients were taken")
        if isinstance(loss, bool | str) or not (isinstance(loss, Real) or hasattr(loss, "__float__")):
            raise TypeError(f"{who}: loss must be a number, got {loss!r}")
        value = float(loss)
        if not isfinite(value):
            raise ValueError(f"{who}: loss must be finite, got {value}; leave such a step out")
        value = -value if self._stages.maximize else value
        grads = None if grads is None else self._arranged(grads)
        self._step_with(grads, grad_scale, zero_grads, value)


class PolyakSGD(WithLoss):
    r"""Gradient descent to where the tangent of the loss reaches its least value, at most lr far.

    .. math::
        p \leftarrow p - \min\left(\eta, \frac{\max(f - f_{\min}, 0)}{\|g\|^2 + \epsilon}\right) g

    where the norm is of all gradients together, and f is given: ``opt.step(grads, loss=f)``. No state but the latest
    `step_size`. Polyak 1969, https://doi.org/10.1016/0041-5553(69)90035-4, with the bound of Loizou et al. 2021,
    https://arxiv.org/abs/2002.10542. As ``optax.polyak_sgd(max_learning_rate=lr, variant="sps+")``; the variant that
    is default there ascends where the loss is below f_min. With groups of different learning rates, the largest is
    the bound, and gradients count and move in proportion to theirs.

    >>> import numpy as np, fastlr
    >>> p = np.array([4.0, 2.0])
    >>> opt = fastlr.PolyakSGD(p)
    >>> opt.step(p.copy(), loss=0.5 * (p @ p))
    >>> p, opt.step_size
    (array([2., 1.]), 0.5)
    """

    lr: Hyper = within(1.0)
    f_min: Hyper = within(0.0, LOWEST)
    eps: Hyper = within(0.0)


class MoMo(WithLoss, decay="decoupled"):
    r"""Momentum to where a running mean of the loss's tangents reaches a lower bound, at most lr far.

    .. math::
        m \leftarrow \beta m + (1 - \beta) g, \quad \bar f \leftarrow \beta \bar f + (1 - \beta) f, \quad
        \gamma \leftarrow \beta \gamma + (1 - \beta) \langle g, p \rangle, \\
        \tau = \min\left(\eta, \frac{\max((1 + \eta \lambda)(\bar f - f_* - \gamma) + \langle m, p \rangle, 0)}
        {\|m\|^2}\right), \quad p \leftarrow \frac{p}{1 + \eta \lambda} - \tau m

    where all means begin at their first values, products are over all tensors together, and f is given:
    ``opt.step(grads, loss=f)``. State `m`, and the numbers `loss_mean` and `slope_mean`. Schaipp et al. 2024,
    https://arxiv.org/abs/2305.07583. As ``optax.contrib.momo``. With groups of different learning rates, the largest
    is the bound, and the others move in proportion to theirs.

    >>> import numpy as np, fastlr
    >>> p = np.array([4.0, 2.0])
    >>> opt = fastlr.MoMo(p)
    >>> opt.step(p.copy(), loss=0.5 * (p @ p))
    >>> p, opt.step_size
    (array([2., 1.]), 0.5)
    """

    lr: Hyper = within(1.0)
    beta: Hyper = within(0.9, 0, 1)
    lower_bound: Hyper = within(0.0, LOWEST)


class MoMoAdam(WithLoss, decay="decoupled"):
    r"""Adam to where a running mean of the loss's tangents reaches a lower bound, at most lr far.

    .. math::
        D = \sqrt{v / (1 - \beta_2^t)} + \epsilon, \quad
        \tau = \min\left(\frac{\eta}{1 - \beta_1^t},
        \frac{\max((1 + \eta \lambda)(\bar f - (1 - \beta_1^t) f_* - \gamma)
        + \langle m, p \rangle, 0)}{\langle m, m / D \rangle}\right), \\
        p \leftarrow \frac{p}{1 + \eta \lambda} - \tau \frac{m}{D}

    with m and v as in Adam, the means of loss and slope as in `MoMo` but beginning at 0, and f given:
    ``opt.step(grads, loss=f)``. State `m` and `v`, and the numbers `loss_mean` and `slope_mean`. Schaipp et al. 2024,
    https://arxiv.org/abs/2305.07583. As ``optax.contrib.momo_adam``, with its default lr. Groups as in `MoMo`.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([4.0])
    >>> opt = fastlr.MoMoAdam(p, lr=1.0)
    >>> opt.step(p.copy(), loss=0.5 * (p @ p))
    >>> p.round(6)
    array([3.])
    """

    lr: Hyper = within(1e-2)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)
    lower_bound: Hyper = within(0.0, LOWEST)


class DoG(WithStepSize):
    r"""Gradient descent whose step is the farthest it has been from its start over the root of all squared gradients.

    .. math::
        \bar r = \max_{i \le t} \|p_i - p_0\|, \quad G = \sum_{i \le t} \|g_i\|^2, \quad
        p \leftarrow p - \eta \frac{\bar r}{\sqrt{G + \epsilon}} g

    where norms are over all tensors together, and :math:`\bar r` is at least reps_rel :math:`(1 + \|p_0\|)`. State: the
    start `x0`, and the numbers `distance` and `squares`. Ivgi, Hinder & Carmon 2023, https://arxiv.org/abs/2302.12022,
    who return a mean of the parameters: give ``ema_decay``. As ``optax.contrib.dog``. `lr` is a factor, best left 1.
    Groups of smaller learning rates count and move as if measured in units in which all are alike.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.DoG(p)
    >>> for _ in range(200):
    ...     opt.step(p - 3)
    >>> p.round(3)
    array([3.])
    """

    lr: Hyper = within(1.0)
    reps_rel: Hyper = within(1e-6, 1e-30)
    eps: Hyper = within(1e-8)


class DoWG(WithStepSize):
    r"""DoG with gradients that weigh as much as the distance then was: steps are longer.

    .. math::
        \bar r^2 = \max_{i \le t} \|p_i - p_0\|^2, \quad v \leftarrow v + \bar r^2 \|g\|^2, \quad
        p \leftarrow p - \eta \frac{\bar r^2}{\sqrt{v} + \epsilon} g

    where norms are over all tensors together, and :math:`\bar r^2` is at least `initial_square_distance`. State: the
    start `x0`, and the numbers `square_distance` and `weighted_squares`. Khaled, Mishchenko & Jin 2023,
    https://arxiv.org/abs/2305.16284. As ``optax.contrib.dowg``. `lr` is a factor, best left 1; groups as in `DoG`.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.DoWG(p)
    >>> for _ in range(200):
    ...     opt.step(p - 3)
    >>> p.round(3)
    array([3.])
    """

    lr: Hyper = within(1.0)
    eps: Hyper = within(1e-4)
    initial_square_distance: Hyper = initial_state("square_distance", 1e-4, 1e-300)


class WithDistanceEstimate(Optimizer, family=True):
    """What those share that estimate the distance to the solution."""

    @property
    def d(self) -> float:
        """The estimate of how far the solution is from the start: multiplies the learning rate."""
        begun: float = self._shared[0] or self.d0      # type: ignore[attr-defined]
        return float(begun)


class DAdaptSGD(WithDistanceEstimate):
    r"""Gradient descent, and a lower bound of the way to the solution as its step, which grows with what is learnt.

    .. math::
        \lambda = \frac{d \eta}{\|g_0\|}, \quad N \leftarrow N + \lambda \langle g, s \rangle, \quad
        s \leftarrow s + \lambda g, \quad d \leftarrow \max\left(d, \frac{2 N}{\|s\|}\right), \\
        p \leftarrow \mu p + (1 - \mu)(p_0 - s)

    where products and norms are over all tensors together, and :math:`g_0` is the first gradient that is not 0. State
    `s`, `x0` and the numbers `d`, `numerator`, `g0_norm`. Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733.
    As ``dadaptation.DAdaptSGD``, which keeps the difference of the two as well, divides by 0 where the first gradient
    is 0, and takes no two learning rates: here groups move as if measured in units in which all are alike. `lr` is a
    factor, best left 1; decoupled weight decay does what coupled does.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.DAdaptSGD(p)
    >>> for _ in range(200):
    ...     opt.step(p - 3)
    >>> abs(p - 3) < 0.1
    array([ True])
    """

    lr: Hyper = within(1.0)
    momentum: Hyper = within(0.0, 0, 1)
    d0: Hyper = within(1e-6, 1e-30)


class DAdaptAdaGrad(WithDistanceEstimate):
    r"""AdaGrad with a lower bound of the way to the solution as its learning rate.

    .. math::
        \alpha \leftarrow \alpha + g^2, \quad s \leftarrow s + d \eta g, \quad
        G \leftarrow G + (d \eta)^2 \sum \frac{g^2}{\sqrt{\alpha} + \epsilon}, \quad
        d \leftarrow \max\left(d, \frac{\sum s^2 / (\sqrt{\alpha} + \epsilon) - G}{\|s\|_1}\right), \\
        p \leftarrow \mu p + (1 - \mu)\left(p_0 - \frac{s}{\sqrt{\alpha} + \epsilon}\right)

    where sums are over all tensors together, the second G before d moves. State `alpha`, `s`, `x0` and the numbers of
    the sums. Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733. As ``dadaptation.DAdaptAdaGrad``. `lr` is a
    factor, best left 1; groups as in `DAdaptSGD`.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.DAdaptAdaGrad(p)
    >>> for _ in range(200):
    ...     opt.step(p - 3)
    >>> abs(p - 3) < 0.1
    array([ True])
    """

    lr: Hyper = within(1.0)
    momentum: Hyper = within(0.0, 0, 1)
    eps: Hyper = within(1e-6)
    d0: Hyper = within(1e-6, 1e-30)
    initial_accumulator_value: Hyper = initial_state("alpha", 1e-6)


class DAdaptAdam(WithDistanceEstimate, conventions={"dadaptation": "DAdaptAdam", "optax": "DAdaptAdamDebiased"}):
    r"""Adam with a lower bound of the way to the solution as its learning rate.

    .. math::
        N \leftarrow \sqrt{\beta_2} N + (1 - \sqrt{\beta_2}) d \eta \left\langle g, \frac{s}{\sqrt{v} + \epsilon}
        \right\rangle, \quad m \leftarrow \beta_1 m + (1 - \beta_1) d \eta g, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \\
        s \leftarrow \sqrt{\beta_2} s + (1 - \sqrt{\beta_2}) d \eta g, \quad
        d \leftarrow \max\left(d, \frac{N}{(1 - \sqrt{\beta_2}) \|s\|_1}\right), \quad
        p \leftarrow p - \frac{m}{\sqrt{v} + \epsilon}

    where product and norm are over all tensors together. State `m`, `v`, `s` and the numbers `d` and `numerator`.
    Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733. As ``dadaptation.DAdaptAdam``;
    ``convention="optax"`` multiplies lr by :math:`\sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`, as
    ``optax.contrib.dadapt_adamw`` and ``use_bias_correction`` do. Decoupled weight decay shrinks p by
    :math:`d \eta \lambda`. `lr` is a factor, best left 1. Groups of smaller learning rates count and move as with
    dadaptation's ``layer_scale``; there different rates are refused.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.DAdaptAdam(p)
    >>> for _ in range(1000):
    ...     opt.step(p - 3)
    >>> abs(p - 3) < 0.1
    array([ True])
    """

    lr: Hyper = within(1.0)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)
    d0: Hyper = within(1e-6, 1e-30)


class DAdaptLion(WithDistanceEstimate, decay="decoupled"):
    r"""Lion with a lower bound of the way to the solution as its learning rate.

    .. math::
        u = \operatorname{sign}(\beta_1 m + (1 - \beta_1) g), \quad
        m \leftarrow \beta_2 m + (1 - \beta_2) d \eta g, \quad
        N \leftarrow \sqrt{\beta_2} N + (1 - \sqrt{\beta_2}) d \eta \langle u, s \rangle, \\
        s \leftarrow \sqrt{\beta_2} s + (1 - \sqrt{\beta_2}) d \eta u, \quad
        p \leftarrow (1 - d \eta \lambda) p - d \eta u, \quad
        d \leftarrow \max\left(d, \frac{N}{(1 - \sqrt{\beta_2}) \|s\|_1}\right)

    where product and norm are over all tensors together, and p moves before d. State `m`, `s` and the numbers `d` and
    `numerator`. After Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733, who give no Lion; this is their
    code's. As ``dadaptation.DAdaptLion``, where m is in units of :math:`d \eta` and g is not, so that m weighs little
    while d is small. `lr` is a factor, best left 1; groups move in proportion to theirs.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.DAdaptLion(p)
    >>> for _ in range(1000):
    ...     opt.step(p - 3)
    >>> abs(p - 3) < 0.5
    array([ True])
    """

    lr: Hyper = within(1.0)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.99, 0, 1)
    d0: Hyper = within(1e-6, 1e-30)


class Prodigy(WithDistanceEstimate, decay="decoupled",
              conventions={"prodigyopt": "Prodigy", "optax": "ProdigyDebiased"}):
    r"""Adam with an estimate of the way to the solution as its learning rate, which grows as gradients point there.

    .. math::
        N \leftarrow \sqrt{\beta_2} N + \frac{d^2 \eta}{d_0} \langle g, p_0 - p \rangle, \quad
        m \leftarrow \beta_1 m + (1 - \beta_1) d g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) d^2 g^2, \\
        s \leftarrow \sqrt{\beta_2} s + \frac{d^2 \eta}{d_0} g, \quad
        d' = \max\left(d, c \frac{N}{\|s\|_1}\right), \quad
        p \leftarrow p - d \eta \left( \frac{m}{\sqrt{v} + d' \epsilon} + \lambda p \right), \quad d \leftarrow d'

    where product and norm are over all tensors together, and c = `d_coef`. State `m`, `v`, `s`, the start `x0`, and the
    numbers `d` and `numerator`. Mishchenko & Defazio 2024, https://arxiv.org/abs/2306.06101. As ``prodigyopt.Prodigy``;
    ``convention="optax"`` multiplies lr by :math:`\sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`, as ``optax.contrib.prodigy``
    and ``use_bias_correction`` do. `lr` is a factor, best left 1 or a schedule that ends at 0. Groups of smaller
    learning rates count and move as if measured in units in which all are alike; prodigyopt refuses them.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.Prodigy(p)
    >>> for _ in range(400):
    ...     opt.step(p - 3)
    >>> abs(p - 3) < 0.1
    array([ True])
    """

    lr: Hyper = within(1.0)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)
    d0: Hyper = within(1e-6, 1e-30)
    d_coef: Hyper = within(1.0)
