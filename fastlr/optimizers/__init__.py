"""Every optimizer: a class per rule, with its formula, its source and its bounded defaults.

Nothing here knows bytes, threads or instruction sets. A new optimizer is a rule in `rules.pxd`, a class here and a
reference formula in the tests; lists, tests and tables follow.
"""
from .adaptive import AdaDelta, AdaGrad, RMSprop, RMSpropCentered, RMSpropCenteredMomentum, RMSpropMomentum
from .averages import EMA, SWA, WeightAverage
from .base import Group, Optimizer, create_optimizer, list_optimizers
from .factored import CAME, SM3, Adafactor, AdamMini
from .gradient_descent import SGD, Momentum, Nesterov
from .line_search import LineSearch, line_search
from .loss_scale import LossScale
from .moments import Adam, AdamW, Adan, AMSGrad, NAdam
from .quasi_newton import LBFGS
from .reducing import LAMB, LARC, LARS, MARS, CautiousAdamW, CautiousLion, Fromage, NovoGrad, StableAdamW
from .spectral import SOAP, Muon, Shampoo
from .wrappers import SAM, GradientAccumulation, GradientCentralization, Lookahead

__all__ = [
    "StableAdamW",
    "NovoGrad",
    "Fromage",
    "CautiousLion",
    "CautiousAdamW",
    "MARS",
    "LARS",
    "LARC",
    "CAME",
    "EMA",
    "LBFGS",
    "SAM",
    "SGD",
    "SM3",
    "SOAP",
    "SWA",
    "AMSGrad",
    "AdaDelta",
    "AdaGrad",
    "Adafactor",
    "Adam",
    "AdamMini",
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
    "Muon",
    "NAdam",
    "Nesterov",
    "Optimizer",
    "RMSprop",
    "RMSpropCentered",
    "RMSpropCenteredMomentum",
    "RMSpropMomentum",
    "Shampoo",
    "WeightAverage",
    "create_optimizer",
    "line_search",
    "list_optimizers",
]
