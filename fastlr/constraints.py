"""Where steps leave parameters: within bounds, with norms that are bounded or fixed, or on a simplex.

Give one to an optimizer as ``constraint=``: one for all parameters, a mapping by name, a sequence, or a function
``(name, array)``. Each step projects what it has moved, in the same pass over memory.

>>> import numpy as np, fastlr
>>> from fastlr import constraints
>>> params = {"w": np.ones((2, 3)), "rate": np.ones(1)}
>>> opt = fastlr.SGD(params, lr=1.0, constraint={"w": constraints.max_norm(1.0), "rate": constraints.nonnegative()})
>>> opt.step({"w": np.ones((2, 3)) * [[0.0], [0.9]], "rate": np.full(1, 5.0)})
>>> params["w"].round(3), params["rate"]
(array([[0.577, 0.577, 0.577],
       [0.1  , 0.1  , 0.1  ]]), array([0.]))
"""
from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, prod
from typing import Any, Literal

import numpy as np

from ._engine.arrays import BFloat16, stored_as
from ._engine.tensors import Tensor, bfloat16_bits

__all__ = ["Constraint", "box", "max_norm", "nonnegative", "simplex", "unit_norm"]

Kind = Literal["box", "max_norm", "unit_norm", "simplex"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """Where a step leaves a parameter; made by the functions of this module.

    `low` and `high` are bounds of a box, `high` the norm or sum otherwise; `axis` is 0 for each row of its own, or None
    for the whole parameter.
    """

    kind: Kind
    low: float
    high: float
    axis: int | None = None

    def __repr__(self) -> str:
        given = f"{self.low:g}, {self.high:g}" if self.kind == "box" else \
            f"axis={self.axis}, norm={self.high:g}" if self.kind == "unit_norm" else f"{self.high:g}, axis={self.axis}"
        return f"{self.kind}({given})"


def box(low: float = -inf, high: float = inf) -> Constraint:
    r"""Every element lies in [low, high].

    .. math:: p \leftarrow \min(\max(p, \text{low}), \text{high})

    Bounds are rounded to the nearest number of the parameter's dtype. NaN stays. As
    ``optax.projections.projection_box``.

    >>> import numpy as np, fastlr
    >>> p = np.zeros(2)
    >>> fastlr.SGD(p, lr=1.0, constraint=fastlr.constraints.box(-1, 1)).step(np.array([-3.0, 0.5]))
    >>> p
    array([ 1. , -0.5])
    """
    low, high = number("box", "low", low), number("box", "high", high)
    if not low <= high:
        raise ValueError(f"box: low must be at most high, got {low} and {high}")
    if low == inf or high == -inf:
        raise ValueError(f"box: a finite number must lie between low and high, got {low} and {high}")
    return Constraint("box", low, high)


def nonnegative() -> Constraint:
    """Every element is 0 or more: ``box(0)``.

    As ``optax.keep_params_nonnegative`` and Keras' ``NonNeg``.
    """
    return box(0.0)


def max_norm(limit: float, axis: Literal[0] | None = 0) -> Constraint:
    r"""Each row's Euclidean norm is at most `limit`: longer rows are scaled down to it.

    .. math:: p_i \leftarrow p_i \min(1, \text{limit} / \|p_i\|)

    A row is all that has one index of the first axis, as the weights of one output in torch's layout; a parameter of
    fewer than two axes is one row. ``axis=None``: the whole parameter is one. For layouts in which outputs are columns
    (Keras, JAX) pass the transposed view ``w.T`` as the parameter. As ``optax.projections.projection_l2_ball``, row by
    row; Keras' ``MaxNorm(limit, axis=0)`` of a transposed kernel, which divides by the norm + 1e-7.
    """
    return by_row("max_norm", "limit", limit, axis)


def unit_norm(axis: Literal[0] | None = 0, norm: float = 1.0) -> Constraint:
    r"""Each row's Euclidean norm is `norm`; a row of zeros stays.

    .. math:: p_i \leftarrow p_i \, \text{norm} / \|p_i\|

    Rows: see `max_norm`. As ``optax.projections.projection_l2_sphere`` and Keras' ``UnitNorm``.
    """
    return by_row("unit_norm", "norm", norm, axis)


def simplex(total: float = 1.0, axis: Literal[0] | None = 0) -> Constraint:
    r"""The elements of each row are not negative, and their sum is `total`: the nearest such row.

    .. math:: p_i \leftarrow \max(p_i - \tau_i, 0), \qquad \textstyle\sum \max(p_i - \tau_i, 0) = \text{total}

    Rows: see `max_norm`. Elements that are far larger than `total` lose no digits by it: what they have in common is
    subtracted first. A row with NaN or infinity becomes NaN; negative infinity becomes 0. As
    ``optax.projections.projection_simplex``. Michelot 1986, https://doi.org/10.1007/BF00938486.
    """
    return by_row("simplex", "total", total, axis)


def by_row(kind: Kind, what: str, value: Any, axis: Any) -> Constraint:
    value = number(kind, what, value)
    if not 0 < value < inf:
        raise ValueError(f"{kind}: {what} must be positive and finite, got {value}")
    if isinstance(axis, bool) or axis not in (0, None):
        raise ValueError(f"{kind}: axis must be 0 (rows) or None (the whole parameter), got {axis!r}; pass the "
                         f"transposed view of a parameter whose units are columns")
    return Constraint(kind, 0.0, value, axis)


def number(who: str, what: str, value: Any) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{who}: {what} must be a number, got {value!r}")
    if float(value) != float(value):
        raise ValueError(f"{who}: {what} must not be NaN")
    return float(value)


def set_constraint(tensor: Tensor, constraint: Any, owner: str) -> None:
    """Give a tensor its constraint; TypeError or ValueError for one that its dtype cannot hold."""
    if constraint is None:
        return
    label = f"{owner}: constraint of {tensor.name!r}"
    if not isinstance(constraint, Constraint):
        raise TypeError(f"{label}: must be one of fastlr.constraints, got {constraint!r}")
    stored = "float32" if tensor.low_bits is not None else str(stored_as(tensor.array))
    shape = tensor.array.shape
    if constraint.kind == "box":
        low, high = (rounded(bound, stored) for bound in (constraint.low, constraint.high))
        near = [rounded(x, stored) for x in (constraint.low, constraint.high, constraint.low / 2 + constraint.high / 2)]
        bounded = isfinite(constraint.low) and isfinite(constraint.high)
        if low == inf or high == -inf or (bounded and not any(constraint.low <= x <= constraint.high for x in near)):
            raise ValueError(f"{label}: no {stored} lies in [{constraint.low:g}, {constraint.high:g}]; widen the box, "
                             f"or use a wider dtype")
        tensor.constraint = "box", low, high, 1
        return
    if stored in ("float16", "bfloat16"):
        raise ValueError(f"{label}: {constraint.kind} needs float32 or float64, as norms and sums of {stored} are only "
                         f"rough; use float32 parameters, or master='split'")
    row = prod(shape[1:]) if constraint.axis == 0 and len(shape) > 1 else prod(shape)
    if constraint.kind in ("simplex", "unit_norm") and not isfinite(rounded(constraint.high, stored)):
        raise ValueError(f"{label}: {constraint!r} is beyond {stored}")
    least = float(np.finfo(stored).smallest_normal)
    if constraint.kind in ("simplex", "unit_norm") and constraint.high < least:
        raise ValueError(f"{label}: {constraint!r} is below the normal numbers of {stored}, from {least:g} on, which "
                         f"steps take for 0; use a larger one, or a wider dtype")
    tensor.constraint = constraint.kind, constraint.low, constraint.high, row


def rounded(bound: float, stored: str) -> float:
    """The nearest number of a dtype."""
    with np.errstate(over="ignore"):
        if stored == "bfloat16":
            bits = bfloat16_bits(np.float64(bound)).reshape(1).view(BFloat16)
            return float((np.asarray(bits).view(np.uint16).astype(np.uint32) << 16).view(np.float32)[0])
        return float(np.dtype(stored).type(bound))
