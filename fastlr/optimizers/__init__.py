"""Every optimizer: a class per rule, with its formula, its source and its bounded defaults.

Nothing here knows bytes, threads or instruction sets. A new optimizer is a rule in `rules.pxd`, a class here and a
reference formula in the tests; lists, tests and tables follow.
"""
from .adaptive import AdaDelta, AdaGrad, RMSprop, RMSpropCentered, RMSpropCenteredMomentum, RMSpropMomentum
from .averages import EMA, SWA, WeightAverage
from .base import Group, Optimizer, create_optimizer, list_optimizers
from .gradient_descent import SGD, Momentum, Nesterov
from .line_search import LineSearch, line_search
from .loss_scale import LossScale
from .moments import Adam, AdamW, Adan, AMSGrad, NAdam
from .quasi_newton import LBFGS
from .reducing import LAMB
from .wrappers import SAM, GradientAccumulation, GradientCentralization, Lookahead

__all__ = [
    "EMA",
    "LBFGS",
    "SAM",
    "SGD",
    "SWA",
    "AMSGrad",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Adan",
    "GradientAccumulation",
    "GradientCentralization",
    "Group",
    "LAMB",
    "LineSearch",
    "Lookahead",
    "LossScale",
    "Momentum",
    "NAdam",
    "Nesterov",
    "Optimizer",
    "RMSprop",
    "RMSpropCentered",
    "RMSpropCenteredMomentum",
    "RMSpropMomentum",
    "WeightAverage",
    "create_optimizer",
    "line_search",
    "list_optimizers",
]
