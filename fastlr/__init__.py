"""fastlr: optimizers and learning-rate schedules as compiled kernels that update arrays in place."""
from importlib.metadata import version as _version

from . import schedules
from ._core.threads import get_num_threads, set_num_threads
from .checkpoint import CheckpointError, load, save
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

__version__ = _version("fastlr-core")
