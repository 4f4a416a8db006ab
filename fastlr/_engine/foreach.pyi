from typing import Any

def foreach(
    operation: str | list[str],
    first: list[Any],
    second: list[Any],
    third: list[Any] | None = None,
    *,
    weight: float = 0,
    eta: float = 0,
    adaptive: bool = False,
    columns: list[int] | None = None,
    record: list[Any] | None = None,
    entry: object = None,
) -> float: ...
