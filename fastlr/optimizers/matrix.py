"""What rules share that see a tensor as a matrix: the shapes of their state, and AdamW for what is no matrix."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Literal
from weakref import WeakMethod

import numpy as np

from .._engine.instruction_set import kernels
from .._engine.tensors import Tensor, named_dtype, per_tensor
from .._matrix.matrix_rule import MatrixRule, matrix_rule
from .._matrix.matrix_step import MatrixStep
from ..rules.signatures import SIGNATURES
from .base import Optimizer
from .declaration import Hyper, one_of
from .groups import Group
from .rule_lookup import FoundRule

Slots = Mapping[str, "tuple[tuple[int, ...], bool]"]          # slot -> shape, and whether it is kept in double
MatrixShape = tuple[tuple[int, ...], int, int]         # the axes that count matrices, and their rows and columns
ADAMW = "fastlr._matrix.adamw:adamw"


class Matrix(Optimizer, family=True):
    """An optimizer whose update of one element depends on others of its row, column or block.

    All keywords of every optimizer, with these differences: `state_dtype` may be "float32" or "float64" alone; a
    gradient that is not contiguous, or that is clipped, scaled or decayed (coupled), is copied first; NaN in one
    element reaches others.
    """

    kind: ClassVar[Literal["elementwise", "matrix"]] = "matrix"
    #: The compiled rule, "module:rule"; "" if updates are made in Python, by `_update`.
    matrix_rule: ClassVar[str] = ""

    @classmethod
    def _find_rule(cls, rule: Any, beside: str = "") -> FoundRule:
        """SGD, which applies the updates, under the name of this rule and behind its hyper-parameters."""
        own = tuple(name for name in cls.hypers if name not in ("lr", "weight_decay"))
        return FoundRule(rule, SIGNATURES["SGD"].with_hypers(own))

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
        self._matrix_rules = [matrix_rule(name) if name else None for name in self._rule_names(tensors)]
        super()._adopt(tensors, groups)

    def _matrix_step(self, tensors: list[Tensor]) -> MatrixStep:
        for tensor, rule in zip(tensors, self._matrix_rules, strict=True):
            if not tensor.matrices:
                lead, rows, cols = self._matrix_shape(tensor)
                tensor.matrix_shape = prod(lead), rows, cols
                narrow = "float64" if tensor.is_double else "float32"
                for slot, (shape, double) in self._slots(tensor, rule).items():
                    array = tensor.matrices[slot] = np.zeros(shape, "float64" if double else narrow)
                    if slot in self._initial:
                        array[...] = self._initial[slot]
        self._tensors = tensors
        return MatrixStep(kernels.tensor_ops, tensors, self._matrix_rules, self._fields, WeakMethod(self._update),
                          self._rule_options(), self._rule_constants())

    def step_rows(self, name: str, rows: Any, grads: Any, grad_scale: float = 1.0, *,
                  ends_step: bool | None = None) -> None:
        """Refused: what an element moves by depends on rows that are not touched."""
        raise TypeError(f"{type(self).__name__}: step_rows is for elementwise rules, this sees whole "
                        f"matrices; use step")

    # What a rule says of itself

    def _rule_names(self, tensors: list[Tensor]) -> list[str]:
        """The compiled rule of each tensor, "" if its update is made in Python."""
        return [self.matrix_rule] * len(tensors)

    def _matrix_shape(self, tensor: Tensor) -> MatrixShape:
        """A tensor as matrices."""
        return as_matrix(tensor.array.shape)

    def _slots(self, tensor: Tensor, rule: MatrixRule | None) -> Slots:
        """The arrays of a tensor's state."""
        if rule is None:
            raise NotImplementedError
        return rule.shapes(tensor.array.shape, *self._matrix_shape(tensor))

    def _rule_options(self) -> dict[str, float | list[float]]:
        """Settings of the compiled rule that are no hyper-parameters: of all tensors, or of each."""
        return {}

    def _rule_constants(self) -> tuple[float, ...]:
        """Numbers that the compiled rule reads beside its settings."""
        return ()

    def _update(self, *given: Any) -> Any:
        """Make an update in Python; see `MatrixStep`."""
        raise NotImplementedError


def enumerate_dtypes(state_dtype: Any) -> list[tuple[str, Any]]:
    """Every storage that `state_dtype` names, and where; those that a callable gives are checked by it."""
    if isinstance(state_dtype, Mapping):
        return [(f"[{name!r}]", dtype) for name, dtype in state_dtype.items()]
    if isinstance(state_dtype, list | tuple):
        return [(f"[{k}]", dtype) for k, dtype in enumerate(state_dtype)]
    return [] if callable(state_dtype) else [("", state_dtype)]


def as_matrix(shape: tuple[int, ...]) -> MatrixShape:
    """One matrix of the first axis by all others; a vector is one row."""
    if len(shape) < 2:
        return (), 1, prod(shape)
    return (), shape[0], prod(shape[1:])


def as_batch(shape: tuple[int, ...]) -> MatrixShape:
    """Matrices of the last two axes."""
    if len(shape) < 2:
        return (), 1, prod(shape)
    return shape[:-2], shape[-2], shape[-1]


def refuse_other_names(fallback: Any) -> Any:
    """What says which parameters fall back, unless it is the name of an optimizer that is none."""
    if isinstance(fallback, str):
        raise ValueError("must be 'adamw', None, or say which parameters AdamW moves")
    return fallback


class WithFallback(Matrix, family=True):
    """A rule for matrices alone: of two axes or more, the first by all others. AdamW moves what is none."""

    fallback: Any = one_of("adamw", None, check=refuse_other_names,
                           takes=Mapping[str, bool] | Sequence[bool] | Callable[[str, Any], bool])

    def _rule_names(self, tensors: list[Tensor]) -> list[str]:
        who = type(self).__name__
        chosen = [None] * len(tensors) if isinstance(self.fallback, str | None) \
            else per_tensor(self.fallback, tensors, who, "fallback")
        names = []
        for tensor, falls in zip(tensors, chosen, strict=True):
            if tensor.array.ndim < 2 and self.fallback is None:
                raise ValueError(f"{who}: parameter {tensor.name!r} has {count_of_axes(tensor.array.ndim)}, {who} "
                                 f"needs 2 or more; pass fallback='adamw' to update it with AdamW")
            names.append(ADAMW if falls or tensor.array.ndim < 2 else self.matrix_rule)
        return names


def count_of_axes(ndim: int) -> str:
    """A number of dimensions in words."""
    return f"{ndim} dimension" if ndim == 1 else f"{ndim} dimensions"
