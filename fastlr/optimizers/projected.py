"""Rules that take out of an update what only makes a weight longer, where its length does not matter."""
from __future__ import annotations

from .declaration import Hyper, one_of, within
from .matrix import Matrix


class SGDP(Matrix, decay="decoupled"):
    r"""Momentum without its part along the parameter, for weights that a normalisation follows.

    .. math::
        m \leftarrow \mu m + (1 - d) g, \quad u = m \;(\text{nesterov: } g + \mu m), \quad
        p \leftarrow (1 - \eta \lambda \rho) p - \eta \Pi(u)

    Weights that a normalisation follows get gradients at right angles to them, and momentum would lengthen them with
    every step. A tensor of two axes or more is seen as rows, the first axis by all others. Where
    :math:`|\cos(g, p)| < \delta / \sqrt n` in every row of n elements, :math:`\Pi` takes from each row of u what lies
    along it, :math:`p\,\langle p, u \rangle / (\|p\| + \epsilon)^2`; else where it holds for the tensor as one row of
    all its elements, of the whole; and then :math:`\rho` = `wd_ratio` / (1 - :math:`\mu`). Else, and for vectors,
    :math:`\Pi(u) = u` and :math:`\rho = 1 / (1 - \mu)`. g is the gradient as it is staged: clipped, with coupled decay.

    :math:`\epsilon` is the authors' code's, not the paper's: a norm in the cosine counts as at least
    :math:`\epsilon` (as in ``torch.nn.functional.cosine_similarity``), and it is added to the norm in :math:`\Pi`, so
    little is taken along a row much shorter than that. Rows of weights far longer than `eps` do not depend on it.

    With `momentum` :math:`\mu`, `dampening` d, `delta` :math:`\delta`. State `m`. Heo et al. 2021,
    https://arxiv.org/abs/2006.08217. As ``timm.optim.SGDP``, which is the authors' code, and
    ``pytorch_optimizer.SGDP``; momentum is 0 there if not given. The latter does not decay at all where its decay is
    coupled. torch, optax and Keras have none. Cosines and projections are right for every finite g and p, also where
    squares of float64 overflow or vanish.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([[3.0, 4.0]])
    >>> opt = fastlr.SGDP(p, lr=1.0)
    >>> opt.step(np.array([[-0.8, 0.6]]))                      # at right angles: all of it is taken
    >>> p.round(6)
    array([[3.8, 3.4]])
    """

    matrix_rule = "fastlr._matrix.projected:sgdp"

    momentum: Hyper = within(0.9, 0, 1)
    dampening: Hyper = within(0.0, 0, 1)
    eps: Hyper = within(1e-8)
    delta: Hyper = within(0.1)
    wd_ratio: Hyper = within(0.1)
    nesterov: bool = one_of(False, True)

    def _rule_options(self) -> dict[str, float | list[float]]:
        return {"nesterov": self.nesterov}


class AdamP(Matrix, decay="decoupled", conventions=dict.fromkeys(("paper", "pytorch-optimizer"), "AdamP")):
    r"""AdamW without its part along the parameter, for weights that a normalisation follows.

    .. math::
        u = \frac{\hat m}{\sqrt{\hat v} + \epsilon}, \quad p \leftarrow (1 - \eta \lambda \rho) p - \eta \Pi(u)

    with :math:`\hat m` and :math:`\hat v` of Adam (nesterov: :math:`\beta_1 \hat m + (1 - \beta_1) g / (1 - \beta_1^t)`
    in place of :math:`\hat m`), and with :math:`\Pi` of `SGDP`: what lies along the rows of the parameter, or along
    the whole of it, is taken from u where the gradient stands at right angles to those, :math:`|\cos(g, p)| < \delta /
    \sqrt n`; there :math:`\rho` = `wd_ratio`, else 1. One `eps` is added to :math:`\sqrt{\hat v}` and to the norms of
    :math:`\Pi`, as in the authors' code; in the paper the latter have none.

    With `delta` :math:`\delta`. State `m` and `v`. Heo et al. 2021, https://arxiv.org/abs/2006.08217, with the
    defaults of the authors' code. As ``timm.optim.AdamP``, which is that code. ``pytorch_optimizer.AdamP``, here
    ``convention="pytorch-optimizer"``, adds :math:`\epsilon` to :math:`\sqrt v` before that is corrected for its
    start, and does not decay at all where its decay is coupled. torch, optax and Keras have none. With ``eps=0``, 0 / 0
    moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([[3.0, 4.0]])
    >>> opt = fastlr.AdamP(p, lr=0.1)
    >>> opt.step(np.array([[-4.0, 3.0]]))                      # Adam would leave a length of 4.982
    >>> p.round(4), float(np.linalg.norm(p).round(4))
    (array([[3.112, 3.916]]), 5.002)
    """

    matrix_rule = "fastlr._matrix.projected:adamp"

    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)
    delta: Hyper = within(0.1)
    wd_ratio: Hyper = within(0.1)
    nesterov: bool = one_of(False, True)

    def _rule_options(self) -> dict[str, float | list[float]]:
        return {"nesterov": self.nesterov, "eps_inside": self.convention == "pytorch-optimizer"}
