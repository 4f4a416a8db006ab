from collections.abc import Callable
from typing import Any

STORAGE_BYTES: int

def use_native(functions: dict[str, int], samples: list[tuple[Any, dict[str, Any]]],
               special: list[tuple[Any, int, int | None, bytes]], object_size: int,
               count: Callable[[list[Any]], None]) -> bool: ...
def count_writes(tensors: list[Any]) -> None: ...
