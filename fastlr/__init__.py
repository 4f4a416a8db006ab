"""fastlr: optimizers and learning-rate schedules as compiled kernels that update arrays in place."""
from . import schedules as schedules
from ._core.threads import get_num_threads as get_num_threads
from ._core.threads import set_num_threads as set_num_threads
from .checkpoint import CheckpointError as CheckpointError
from .checkpoint import load as load
from .checkpoint import save as save
from .configuration import get_include as get_include
from .configuration import show_config as show_config
from .optimizers import *
from .schedules.plateau import Plateau as Plateau

from . import kernels as kernels  # isort: skip  (it makes a function of every optimizer's rule)
from ._core.capi import _C_API as _C_API  # isort: skip  (the table of include/fastlr/fastlr.h, which has those rules)


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # (it costs a third of NumPy's own import)

        globals()[name] = version("fastlr-core")
        return str(globals()[name])
    raise AttributeError(f"module 'fastlr' has no attribute {name!r}")
