"""Finding a learning rate: `find_lr` by the training loss, in minutes; `tune_lr` by a validation score, at a told cost.

What may enter this room: ways to choose a rate for any optimizer. It imports no data and no network.
"""

from .range_test import RangeTest, find_lr
from .search import Trial, Tuned, tune_lr

__all__ = ["RangeTest", "Trial", "Tuned", "find_lr", "tune_lr"]
