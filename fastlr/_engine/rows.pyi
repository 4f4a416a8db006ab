from typing import Any

from .plan import Plan

def step_rows(plan: Plan, i: int, rows: Any, gradient: Any, grad_scale: float, ends_step: bool) -> None: ...
