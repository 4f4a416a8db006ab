from collections.abc import Callable
from typing import Any

from .._matrix.matrix_step import MatrixStep
from .tensor_versions import TorchParameters
from .tensors import Tensor

class Plan:
    t: int
    skipped: int
    accumulated: int
    norms: tuple[int, float, float]
    grad_norm: float | None
    torch_parameters: TorchParameters | None
    watched: tuple[Any, ...] | None
    @property
    def caller(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def tensors(self) -> list[Tensor]: ...
    @property
    def count(self) -> int: ...
    @property
    def elements(self) -> int: ...
    def __init__(
        self,
        caller: str,
        rule: object,
        kernels: Any,
        names: tuple[str, ...],
        bounds: list[tuple[float, float]],
        tensors: list[Tensor],
        groups: int,
        shared: Any,
        stages: Any,
        matrix_step: MatrixStep | None = None,
        exact_eps: bool = False,
    ) -> None: ...
    def assign(self, group: int, index: int, value: Any) -> None: ...
    def bind(self, arrays: list[Any]) -> bool: ...
    def refuse_replaced(self) -> int: ...
    def begin(self) -> int: ...
    def end(self) -> int: ...
    def exclusively(self, call: Callable[[], None]) -> None: ...
    def retire(self, call: Callable[[], None]) -> None: ...
    def step(
        self,
        gradients: list[Any] | None,
        grad_scale: float,
        zero_grads: bool,
        loss: float = ...,
        curvatures: list[Any] | None = ...,
        keeps: Callable[[dict[str, float]], list[float | None]] | None = ...,
    ) -> None: ...
    def set_peak(self, group: int, max_lr: float) -> None: ...
    def set_clock(self, t: int, skipped_steps: list[int]) -> None: ...
    def read_skipped_steps(self) -> list[int]: ...
