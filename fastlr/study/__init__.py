"""Experiments on learning rates: small networks, real images, one cell per learning rate, network and seed.

    from fastlr import study
    results = study.run(study.grid(lrs=[0.01, 0.1], seeds=range(3), optimizer="adam"))

What may enter this room: experiments, and how they are told. The engine never imports it. The images need
scikit-learn and the tables need rich (`pip install 'fastlr-core[lab]'`), both imported when first used.
"""

from .data import Dataset, digits
from .experiment import LEARNING_RATES, NETWORKS, Cell, Result, grid, run, train
from .networks import Network

__all__ = [
    "LEARNING_RATES",
    "NETWORKS",
    "Cell",
    "Dataset",
    "Network",
    "Result",
    "digits",
    "grid",
    "run",
    "train",
]
