from collections.abc import Callable, Sequence
from typing import Any

from .tensors import Tensor

class MatrixStep:
    def __init__(
        self,
        acting: object,
        tensors: list[Tensor],
        routes: list[str],
        names: tuple[str, ...],
        call: Callable[..., Any] | None = None,
        *,
        added: bool = False,
        capped: bool = False,
        scaled: bool = False,
        nesterov: bool = False,
        uncorrected: bool = False,
        debiased: bool = False,
        turns: Sequence[tuple[float, float, float]] = (),
        adjust: Sequence[float] = (),
    ) -> None: ...
