from collections.abc import Callable, Sequence
from typing import Any

from .._engine.tensors import Tensor
from .matrix_rule import MatrixRule

class MatrixStep:
    def __init__(
        self,
        tensor_ops: object,
        tensors: list[Tensor],
        rules: Sequence[MatrixRule | None],
        names: tuple[str, ...],
        call: Callable[..., Any],
        options: dict[str, float | list[float]],
        constants: tuple[float, ...] = (),
    ) -> None: ...
