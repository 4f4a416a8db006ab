"""Rules that divide by an estimate of the curvature, which some steps are given beside the gradients."""
from __future__ import annotations

from typing import Any

from .base import Optimizer
from .declaration import Hyper, within
from .loss_scale import LossScale


def share_of_mean(h: dict[str, float], first_update: bool) -> dict[str, tuple[int, float]]:
    """What a running mean of gradients takes of one more gradient, before it decays."""
    return {"m": (1, (1 - h["beta1"]) / h["beta1"])}


def decays(values: dict[str, float]) -> list[float | None]:
    """How much of m and of h stays where a new estimate comes; None: m is not moved by it."""
    return [None, values["beta2"]]


class Sophia(Optimizer, decay="decoupled", accumulation=share_of_mean,
             conventions={"paper": "Sophia", "authors": "SophiaAdded", "optax": "SophiaDebiased"}):
    r"""The mean of past gradients over the curvature along each axis, and where that is small, at most lr far.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        h \leftarrow \beta_2 h + (1 - \beta_2) \hat h \;\text{ where } \hat h \text{ is given}, \quad
        p \leftarrow (1 - \eta \lambda) p - \eta \operatorname{clip}\left(\frac{m}{\max(\rho h, \epsilon)}, 1\right)

    where :math:`\hat h` estimates the diagonal of the Hessian: ``opt.step(grads, curvature=estimates)`` every ten steps
    or so, and always with a parameter's first gradient; h moves before the step. Two estimates of it, both without
    bias, cost about one gradient more:

    - *Hutchinson* (Sophia-H): u * (H u) for a random u of signs or normal numbers, where H u is a product of the
      Hessian and a vector: ``jax.jvp(jax.grad(loss), (p,), (u,))[1]``, torch's
      ``autograd.grad(grads, params, grad_outputs=u)``, or, without either, the difference quotient
      (grad(p + s u) - grad(p - s u)) / (2 s). Elements may be negative; those of h that are, move by the sign of m.
    - *Gauss-Newton-Bartlett* (Sophia-G, for a cross entropy): draw labels from the model's own predictions, and take
      B * g * g of the gradient g of the mean loss over those B labels.

    Estimates are taken as they are: of the loss itself where that is scaled or accumulated, and of what is minimised
    where ``maximize`` is set. One that is not finite is a FloatingPointError, or skips the step with
    ``nonfinite="skip"``.

    State `m` and `h`. Liu et al. 2023, https://arxiv.org/abs/2305.14342, algorithm 3, with the defaults of the authors'
    code for lr, betas and weight_decay; :math:`\rho` is called gamma in later versions of the paper. As
    ``pytorch_optimizer.SophiaH(p=...)``, which is the paper's first version: its lr is ours / :math:`\rho`, its p is
    our :math:`\rho`, and its eps ours / :math:`\rho`. ``convention="authors"``: the authors' code divides by
    :math:`\rho \max(h, 0) + \epsilon` (its rho times its bs is ours, its epsilon 1e-15). ``convention="optax"``:
    ``optax.contrib.sophia`` corrects m for its start, and moves h only after the step: give it the estimate of the
    step before. torch and Keras have none.

    With ``eps=0``, 0 / 0 moves nothing.

    A quadratic whose curvatures are 1000 and 1, with Hutchinson's estimate:

    >>> import numpy as np, fastlr
    >>> rng = np.random.default_rng(0)
    >>> H = np.array([[1000.0, 1.0], [1.0, 1.0]])
    >>> p = np.array([1.0, 1.0])
    >>> rate = fastlr.schedules.linear(0.05, steps=200)
    >>> opt = fastlr.Sophia(p, lr=rate, beta2=0.9, rho=0.5, weight_decay=0.0)
    >>> for t in range(200):
    ...     u = rng.choice([-1.0, 1.0], size=2)
    ...     opt.step(H @ p, curvature=u * (H @ u) if t % 10 == 0 else None)
    >>> bool(np.abs(p).max() < 0.1), opt.state["0"]["h"].round(1)
    (True, array([878.5,   1. ]))

    Labels drawn from a logistic regression's own predictions (Gauss-Newton-Bartlett), here for its first step:

    >>> x, y, w = rng.normal(size=(64, 3)), rng.integers(0, 2, 64), np.zeros(3)
    >>> chance = 1 / (1 + np.exp(-x @ w))
    >>> drawn = rng.random(64) < chance
    >>> g = x.T @ (chance - drawn) / 64
    >>> fastlr.Sophia(w).step(x.T @ (chance - y) / 64, curvature=64 * g * g)
    """

    needs_curvature = True

    lr: Hyper = within(1e-4)
    beta1: Hyper = within(0.965, 0, 1)
    beta2: Hyper = within(0.99, 0, 1)
    rho: Hyper = within(0.01)
    eps: Hyper = within(1e-12)
    weight_decay: Hyper = within(0.1)

    def step(self, grads: Any = None, grad_scale: float | LossScale = 1.0, zero_grads: bool = False, *,
             curvature: Any = None) -> None:
        """Update every parameter in place, as `Optimizer.step`.

        `curvature` is given on some steps, in the structure and of the types of the gradients, None for parameters
        whose estimate stays: h takes it before the step. It is only read; of a parameter whose gradient is None, which
        the step skips, it is not.

        Raises
        ------
        TypeError, ValueError
            Before anything is written; also where a parameter's first gradient comes without an estimate.
        FloatingPointError
            If an estimate is not finite: nothing has changed.
        """
        grads = None if grads is None else self._arranged(grads)
        estimates = None if curvature is None else self._arranged(curvature, "curvature")
        self._step_with(grads, grad_scale, zero_grads, 0.0, estimates, decays)

    def step_rows(self, name: str, rows: Any, grads: Any, grad_scale: float = 1.0, *,
                  ends_step: bool | None = None) -> None:
        """As `Optimizer.step_rows`, once the curvature was estimated: ValueError before the first `step`."""
        names = [tensor.name for tensor in self._plan.tensors]
        if name in names and self._plan.read_skipped_steps()[names.index(name)] == self.t:
            raise ValueError(f"Sophia: the curvature of {name!r} was never estimated; begin with step(grads, "
                             f"curvature=...), with zeros for rows that are not touched")
        super().step_rows(name, rows, grads, grad_scale, ends_step=ends_step)
