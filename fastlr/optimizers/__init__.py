"""Every optimizer: a class per rule, with its formula, its source and its bounded defaults.

Nothing here knows bytes, threads or instruction sets. A new optimizer is a rule in `rules.pxd`, a class here and a
reference formula in the tests; lists, tests and tables follow.
"""
from .adaptive import AdaDelta, AdaGrad, RMSprop, RMSpropCentered, RMSpropCenteredMomentum, RMSpropMomentum
from .averages import EMA, SWA, WeightAverage
from .base import Group, Optimizer, create_optimizer, list_optimizers
from .factored import CAME, SM3, Adafactor, AdamMini
from .gradient_descent import ASGD, QHM, SGD, SGDW, AggMo, Momentum, Nesterov, Rprop
from .learning_rate_free import (
    DAdaptAdaGrad,
    DAdaptAdam,
    DAdaptLion,
    DAdaptSGD,
    DoG,
    DoWG,
    MoMo,
    MoMoAdam,
    PolyakSGD,
    Prodigy,
)
from .line_search import LineSearch, line_search
from .loss_scale import LossScale
from .moments import Adam, AdaMax, AdamW, Adan, AMSGrad, LaProp, NAdam, NAdamW, QHAdam, RAdam, RAdamW
from .quasi_newton import LBFGS
from .reducing import LAMB, LARC, LARS, MARS, CautiousAdamW, CautiousLion, Fromage, NovoGrad, StableAdamW
from .sign import SignSGD, Signum, Tiger
from .spectral import SOAP, Muon, Shampoo
from .wrappers import SAM, GradientAccumulation, GradientCentralization, Lookahead

__all__ = [
    "SignSGD",
    "Signum",
    "Tiger",
    "SGDW",
    "QHM",
    "AggMo",
    "ASGD",
    "Rprop",
    "NAdamW",
    "AdaMax",
    "LaProp",
    "QHAdam",
    "RAdam",
    "RAdamW",
    "SGD",
    "AMSGrad",
    "AdaDelta",
    "AdaGrad",
    "Adafactor",
    "Adam",
    "AdamMini",
    "AdamW",
    "Adan",
    "CAME",
    "CautiousAdamW",
    "CautiousLion",
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptLion",
    "DAdaptSGD",
    "DoG",
    "DoWG",
    "EMA",
    "Fromage",
    "GradientAccumulation",
    "GradientCentralization",
    "Group",
    "LAMB",
    "LARC",
    "LARS",
    "LBFGS",
    "LineSearch",
    "Lookahead",
    "LossScale",
    "MARS",
    "MoMo",
    "MoMoAdam",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "NovoGrad",
    "Optimizer",
    "PolyakSGD",
    "Prodigy",
    "RMSprop",
    "RMSpropCentered",
    "RMSpropCenteredMomentum",
    "RMSpropMomentum",
    "SAM",
    "SM3",
    "SOAP",
    "SWA",
    "Shampoo",
    "StableAdamW",
    "WeightAverage",
    "create_optimizer",
    "line_search",
    "list_optimizers",
]
