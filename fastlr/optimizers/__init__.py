"""Every optimizer: a class per rule, with its formula, its source and its bounded defaults.

Nothing here knows bytes, threads or instruction sets. A new optimizer is a rule in `fastlr/rules/*.pxd`, a class here
and a reference formula in the tests; lists, tests and tables follow. Modules import those before them alone:
`declaration` and `rule_lookup`, `rule_class`, `structure` and `groups`, `stages`, `binding`, `state`, `base`, then one
module for each family of rules. What goes round optimizers is in the modules that `LATER` names, imported when used.
"""
from typing import Any

from .adaptive import (
    FTRL,
    MADGRAD,
    AdaDelta,
    AdaGrad,
    RMSprop,
    RMSpropCentered,
    RMSpropCenteredMomentum,
    RMSpropMomentum,
)
from .base import Optimizer
from .curvature import Sophia
from .declaration import Hyper, within
from .factored import CAME, SM3, Adafactor, AdamMini, RowwiseAdaGrad
from .gradient_descent import ASGD, QHM, SGD, SGDW, AggMo, Momentum, Nesterov, Rprop
from .groups import Group
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
from .loss_scale import LossScale
from .moments import (
    ADOPT,
    AdaBelief,
    AdaBound,
    Adam,
    AdaMax,
    AdamW,
    Adan,
    AdEMAMix,
    AMSGrad,
    DiffGrad,
    Grams,
    LaProp,
    NAdam,
    NAdamW,
    QHAdam,
    RAdam,
    RAdamW,
    Yogi,
)
from .projected import SGDP, AdamP
from .reducing import LAMB, LARC, LARS, MARS, CautiousAdamW, CautiousLion, Fromage, NovoGrad, StableAdamW
from .registry import create_optimizer, list_optimizers
from .schedule_free import ScheduleFreeAdamW, ScheduleFreeRAdam, ScheduleFreeSGD
from .sign import Lion, SignSGD, Signum, Tiger
from .spectral import SOAP, Muon, Shampoo

__all__ = [
    "CAME",
    "ADOPT",
    "AdaBelief",
    "AdaBound",
    "AdEMAMix",
    "DiffGrad",
    "FTRL",
    "Grams",
    "Lion",
    "MADGRAD",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "Yogi",
    "SignSGD",
    "Signum",
    "Tiger",
    "SGDP",
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
    "AdamP",
    "AdamW",
    "Adan",
    "CautiousAdamW",
    "CautiousLion",
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptLion",
    "DAdaptSGD",
    "DoG",
    "DoWG",
    "Fromage",
    "Group",
    "Hyper",
    "LAMB",
    "LARC",
    "LARS",
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
    "RowwiseAdaGrad",
    "SM3",
    "SOAP",
    "Shampoo",
    "Sophia",
    "StableAdamW",
    "create_optimizer",
    "list_optimizers",
    "within",
]

LATER = {
    "EMA": "averages", "SWA": "averages", "WeightAverage": "averages",
    "LineSearch": "linesearch", "line_search": "linesearch",
    "LBFGS": "quasi_newton",
    "GradientCentralization": "wrappers", "Lookahead": "wrappers",
    "GradientAccumulation": "accumulation", "SAM": "sharpness",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module 'fastlr.optimizers' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"fastlr.optimizers.{LATER[name]}"), name)
