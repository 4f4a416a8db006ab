"""Monitoring a training run: `History` keeps its numbers, `diagnose` says what they mean for the learning rate.

These modules read the numbers of a run and change nothing; they import no data, no network and no optimizer.
"""

from .diagnosis import Finding, diagnose
from .history import History

__all__ = ["Finding", "History", "diagnose"]
