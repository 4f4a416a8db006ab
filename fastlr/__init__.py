"""fastlr: optimizers and learning-rate schedules as compiled kernels that update arrays in place."""
from importlib.metadata import version as _version

from . import schedules
from ._core.threads import get_num_threads, set_num_threads
from .configuration import get_include, show_config
from .optimizers import (
    SGD,
    AdaDelta,
    AdaGrad,
    Adam,
    AdamW,
    AMSGrad,
    Group,
    Momentum,
    Nesterov,
    Optimizer,
    RMSprop,
    RMSpropCentered,
    RMSpropCenteredMomentum,
    RMSpropMomentum,
    create_optimizer,
    list_optimizers,
)

from .schedules.plateau import Plateau

from . import kernels  # isort: skip  (it makes a function of every optimizer's rule)

__version__ = _version("fastlr-core")
