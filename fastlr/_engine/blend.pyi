from typing import Any

def blend(
    act: str,
    firsts: list[Any],
    seconds: list[Any],
    thirds: list[Any] | None = None,
    *,
    weight: float = 0,
    eta: float = 0,
    adaptive: bool = False,
    columns: list[int] | None = None,
) -> float: ...
