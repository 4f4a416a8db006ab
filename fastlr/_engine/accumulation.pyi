from collections.abc import Callable
from typing import Any

from .plan import Plan

def accumulate(
    plan: Plan,
    gradients: list[Any] | None,
    grad_scale: float,
    zero_grads: bool,
    shares: Callable[[dict[str, float], bool], list[tuple[int, float]]],
) -> None: ...
