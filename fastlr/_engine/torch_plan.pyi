from collections.abc import Callable
from typing import Any

from .plan import Plan

class TorchTensors:
    plan: Plan
    owners: list[Any]
    sparse: list[tuple[int, Any]]
    def __init__(
        self,
        plan: Plan,
        owners: list[Any],
        local_tensors: list[Any],
        steps: Any,
        of_special: Callable[[Any], Any],
        convert_gradient: Callable[[Any, Any, str], Any],
        step_elements: Callable[[], Callable[[int, Any, float], None] | None],
        may_be_native: bool,
    ) -> None: ...
    def read(self, as_objects: bool = ...) -> int: ...
    def step(
        self,
        grad_scale: float = ...,
        zero_grads: bool = ...,
        loss: float = ...,
        curvature: dict[int, Any] | None = ...,
        keeps: Callable[[dict[str, float]], list[float | None]] | None = ...,
    ) -> list[Any] | None: ...
    def catch_up(self, all_tensors: bool = ...) -> list[Any]: ...
    def catch_up_rows(self, i: int, rows: Any) -> bool: ...
    def behind(self) -> int: ...
    def forget(self) -> None: ...
    def has_gradient(self, i: int) -> bool: ...
