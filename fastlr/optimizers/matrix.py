"""What rules share that see a tensor as a matrix: their state's shapes, and AdamW for what is no matrix."""
from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np

from .._engine.instruction_set import kernels
from .._engine.matrix_step import MatrixStep
from .._engine.tensors import Tensor, named_dtype, per_tensor
from ..rules.signatures import SIGNATURES
from .base import Optimizer
from .declaration import Hyper, one_of
from .groups import Group
from .rule_lookup import FoundRule

Slots = Mapping[str, "tuple[tuple[int, ...], bool]"]          # slot -> shape, and whether it is kept in double


class Matrix(Optimizer, family=True):
    """An optimizer whose update of one element depends on others of its row, column or block.

    All keywords of every optimizer, with these differences: `state_dtype` may be "float32" or "float64" alone; a
    gradient that is not contiguous, or that is clipped, scaled or decayed (coupled), is gathered first; NaN in one
    element reaches others.
    """

    kind: ClassVar[Literal["elementwise", "matrix"]] = "matrix"
    route: ClassVar[str] = "call"

    @classmethod
    def _find_rule(cls, rule: Any, beside: str = "") -> FoundRule:
        """SGD, which applies the updates, under the name of this rule and behind its hyper-parameters."""
        own = tuple(name for name in cls.hypers if name not in ("lr", "weight_decay"))
        return FoundRule(rule, SIGNATURES["SGD"]._replace(hypers=own))

    @classmethod
    def _table(cls, rule: str) -> Any:
        return FoundRule("SGD", SIGNATURES["SGD"]).loaded()

    def __init__(self, params: Any, lr: Hyper | None = None, **keywords: Any) -> None:
        who = type(self).__name__
        for name, dtype in enumerate_dtypes(named_dtype(keywords.get("state_dtype"))):
            if dtype not in (None, "float32", "float64"):
                raise ValueError(f"{who}: state_dtype{name} must be 'float32' or 'float64', as sums over rows and "
                                 f"columns need, got {dtype!r}")
        super().__init__(params, lr, **keywords)

    def _adopt(self, tensors: list[Tensor], groups: list[Group]) -> None:
        self._kept = tuple(slot for slot in self._kept if slot == "ema")
        self._routes = self._routed(tensors)
        super()._adopt(tensors, groups)

    def _matrix_step(self, tensors: list[Tensor]) -> MatrixStep:
        for tensor, route in zip(tensors, self._routes, strict=True):
            if not tensor.matrices:
                tensor.matrix_shape = self._matrix_shape(tensor, route)
                wide = "float64" if tensor.is_double else "float32"
                for slot, (shape, double) in self._slots(tensor, route).items():
                    tensor.matrices[slot] = np.zeros(shape, "float64" if double else wide)
                self._begin(tensor, route)
        self._tensors = tensors
        return MatrixStep(kernels.matrix_kernels, kernels.tensor_ops, tensors, self._routes, self._fields, self._update,
                          **self._flags())

    def step_rows(self, name: str, rows: Any, grads: Any, grad_scale: float = 1.0, *,
                  ends_step: bool | None = None) -> None:
        """Refused: what an element moves by depends on rows that are not touched."""
        raise TypeError(f"{type(self).__name__}: step_rows is for elementwise rules, this sees whole "
                        f"matrices; use step")

    # What a rule says of itself

    def _routed(self, tensors: list[Tensor]) -> list[str]:
        """How each tensor's update is made: a route of the director's."""
        return [self.route] * len(tensors)

    def _matrix_shape(self, tensor: Tensor, route: str) -> tuple[int, int, int]:
        """A tensor as matrices: how many, their rows and columns."""
        return as_matrix(tensor.array.shape)

    def _slots(self, tensor: Tensor, route: str) -> Slots:
        """What is remembered of a tensor."""
        raise NotImplementedError

    def _begin(self, tensor: Tensor, route: str) -> None:
        """Fill what does not begin at zero."""

    def _flags(self) -> dict[str, Any]:
        return {}

    def _update(self, *given: Any) -> Any:
        """What the director calls for routes "call" and "muon"; see there."""
        raise NotImplementedError


def enumerate_dtypes(state_dtype: Any) -> list[tuple[str, Any]]:
    """Every storage that `state_dtype` names, and where; those that a callable gives are checked by it."""
    if isinstance(state_dtype, Mapping):
        return [(f"[{name!r}]", dtype) for name, dtype in state_dtype.items()]
    if isinstance(state_dtype, list | tuple):
        return [(f"[{k}]", dtype) for k, dtype in enumerate(state_dtype)]
    return [] if callable(state_dtype) else [("", state_dtype)]


def alike(tensor: Tensor, *slots: str) -> Slots:
    """Slots of a tensor's own shape."""
    return dict.fromkeys(slots, (tensor.array.shape, False))


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """One matrix of the first axis by all others; a vector is one row."""
    if len(shape) < 2:
        return 1, 1, prod(shape)
    return 1, shape[0], prod(shape[1:])


def as_batch(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Matrices of the last two axes."""
    if len(shape) < 2:
        return 1, 1, prod(shape)
    return prod(shape[:-2]), shape[-2], shape[-1]


def refuse_other_names(fallback: Any) -> Any:
    """What says which parameters fall back, unless it is the name of an optimizer that is none."""
    if isinstance(fallback, str):
        raise ValueError("must be 'adamw', None, or say which parameters AdamW moves")
    return fallback


class WithFallback(Matrix, family=True):
    """A rule for matrices alone: of two axes or more, the first by the others. AdamW moves what is none."""

    fallback: Any = one_of("adamw", None, check=refuse_other_names)

    def _routed(self, tensors: list[Tensor]) -> list[str]:
        who = type(self).__name__
        chosen = [None] * len(tensors) if isinstance(self.fallback, str | None) \
            else per_tensor(self.fallback, tensors, who, "fallback")
        routes = []
        for tensor, falls in zip(tensors, chosen, strict=True):
            if tensor.array.ndim < 2 and self.fallback is None:
                raise ValueError(f"{who}: {tensor.name!r} has shape {tensor.array.shape}, and this moves matrices; "
                                 f"leave fallback='adamw' for AdamW to move it")
            routes.append("adamw" if falls or tensor.array.ndim < 2 else self.route)
        return routes

    def _slots(self, tensor: Tensor, route: str) -> Slots:
        return alike(tensor, "m", "v") if route == "adamw" else self._matrix_slots(tensor)

    def _matrix_slots(self, tensor: Tensor) -> Slots:
        raise NotImplementedError
