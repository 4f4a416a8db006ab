"""Experiments on learning rates: small networks, real data, one `Cell` per learning rate, network and seed.

    from fastlr import study
    results = study.run(study.grid(lrs=[0.01, 0.1], seeds=range(3), optimizer="adam"))

This package has experiments and reports of them; the engine never imports it. The data sets need scikit-learn, the
tables rich, the page jinja2 (`pip install 'fastlr-core[lab]'`), all imported when first used.
"""

from .data import Dataset, digits, load
from .experiment import LEARNING_RATES, NETWORKS, Cell, Result, grid, run, train
from .landscapes import LANDSCAPES, Escape, escape
from .networks import Network
from .whole_study import write_report

__all__ = [
    "LANDSCAPES",
    "LEARNING_RATES",
    "NETWORKS",
    "Cell",
    "Dataset",
    "Escape",
    "Network",
    "Result",
    "digits",
    "escape",
    "grid",
    "load",
    "run",
    "train",
    "write_report",
]
