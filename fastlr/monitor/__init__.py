"""Watching a training run: `History` keeps its numbers, `diagnose` says what they mean for the learning rate.

What may enter this room: what looks at numbers that a run has left, and moves nothing. It imports no data, no network
and no optimizer.
"""

from .diagnosis import Finding, diagnose
from .history import History

__all__ = ["Finding", "History", "diagnose"]
