"""Optimizers whose rules fastlr does not have."""
from .optimizers import HeavyBall, Layerwise

__all__ = ["HeavyBall", "Layerwise"]
