"""fastlr: optimizers and learning-rate schedules as compiled kernels that update arrays in place."""
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from .monitor import History as History
    from .monitor import diagnose as diagnose
    from .tuning import find_lr as find_lr
    from .tuning import tune_lr as tune_lr

_LATER = {"find_lr": "tuning", "tune_lr": "tuning",      # imported at their first use
          "History": "monitor", "diagnose": "monitor"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # (it costs a third of NumPy's own import)

        globals()[name] = version("fastlr-core")
    elif name in _LATER:
        from importlib import import_module

        globals()[name] = getattr(import_module(f"fastlr.{_LATER[name]}"), name)
    else:
        raise AttributeError(f"module 'fastlr' has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
