"""Search for a learning rate: `find_lr` by the training loss, in minutes; `tune_lr` by a validation score.

These work with any optimizer and model; this package imports no data and no networks.
"""

from .range_test import RangeTest, find_lr
from .search import tune_lr
from .tuned import Trial, Tuned

__all__ = ["RangeTest", "Trial", "Tuned", "find_lr", "tune_lr"]
