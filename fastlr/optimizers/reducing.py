"""Optimizers that sum over a tensor before they move it."""
from __future__ import annotations

from .moments import Adam


class LAMB(Adam, slots=("m", "v"), decay="decoupled"):
    r"""AdamW's step, of each tensor as long as the learning rate times the tensor itself.

    .. math::
        r = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda p, \quad
        p \leftarrow p - \eta \frac{\|p\|}{\|r\|} r

    with m and v as in Adam, and 1 for the ratio where a norm is 0. State `m` and `v`. You et al. 2020,
    https://arxiv.org/abs/1904.00962, with phi the identity. As ``optax.lamb`` but for its default eps 1e-6; Keras
    leaves weight decay out of r; pytorch-optimizer corrects the moments after the ratio, so that its first step is 10
    times as long.

    >>> import numpy as np, fastlr
    >>> p = np.array([3.0, 4.0])
    >>> fastlr.LAMB(p, lr=0.1).step(np.array([1.0, 0.0]))
    >>> p.round(6)
    array([2.5, 4. ])
    """
