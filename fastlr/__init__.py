"""fastlr: optimizers and learning-rate schedules as compiled kernels that update arrays in place."""
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

try:
    from . import optimizers
except ModuleNotFoundError as error:
    from pathlib import Path

    source = Path(__file__).parents[1]
    if not (error.name or "").startswith("fastlr.") or not (source / "setup.py").exists():
        raise
    raise ImportError(f"fastlr: {source} is the source folder, where {error.name} is not compiled; to import "
                      "an installed fastlr, start Python in another folder or set PYTHONSAFEPATH=1; to compile the "
                      "source, run `pip install -e .` there") from None

from ._engine.threads import get_num_threads as get_num_threads
from ._engine.threads import set_num_threads as set_num_threads
from .configuration import get_include as get_include
from .configuration import show_config as show_config
from .optimizers import *

if TYPE_CHECKING:
    from . import callbacks as callbacks
    from . import constraints as constraints
    from . import interchange as interchange
    from . import kernels as kernels
    from . import schedules as schedules
    from .checkpoint import CheckpointError as CheckpointError
    from .checkpoint import load as load
    from .checkpoint import save as save
    from .monitor import History as History
    from .monitor import diagnose as diagnose
    from .optimizers.accumulation import GradientAccumulation as GradientAccumulation
    from .optimizers.averages import EMA as EMA
    from .optimizers.averages import SWA as SWA
    from .optimizers.averages import WeightAverage as WeightAverage
    from .optimizers.linesearch import LineSearch as LineSearch
    from .optimizers.linesearch import line_search as line_search
    from .optimizers.partition import Partition as Partition
    from .optimizers.quasi_newton import LBFGS as LBFGS
    from .optimizers.sharpness import SAM as SAM
    from .optimizers.wrappers import GradientCentralization as GradientCentralization
    from .optimizers.wrappers import Lookahead as Lookahead
    from .rules.pointers import rule_from_pointers as rule_from_pointers
    from .schedules.plateau import Plateau as Plateau
    from .tuning import find_lr as find_lr
    from .tuning import tune_lr as tune_lr

#: What is imported when it is first asked for, as most programs never ask: the module of each name.
_LATER = {
    "CheckpointError": "checkpoint", "load": "checkpoint", "save": "checkpoint",
    "History": "monitor", "diagnose": "monitor",
    "Plateau": "schedules.plateau",
    "find_lr": "tuning", "tune_lr": "tuning",
    "callbacks": "callbacks", "constraints": "constraints",
    "interchange": "interchange", "kernels": "kernels", "schedules": "schedules",
    "rule_from_pointers": "rules.pointers",
    "_C_API": "_engine.c_api",            # the table of include/fastlr/fastlr.h
    **{name: f"optimizers.{module}" for name, module in optimizers.LATER.items()},
}


def overview() -> str:
    """What there is, for ``help(fastlr)``."""
    def lines(names: Iterable[str]) -> str:
        names = list(names)
        return "\n".join("    " + ", ".join(names[k:k + 8]) for k in range(0, len(names), 8))

    listed: dict[str, Iterable[str]] = {
        "Optimizers (`help(fastlr.AdamW)`; what all have in common: `help(fastlr.Optimizer)`)":
            [name for name in optimizers.__all__ if getattr(getattr(optimizers, name), "hypers", None)],
        "Several optimizers as one, wrappers, averages of weights, and what needs a closure":
            sorted(name for name in optimizers.LATER if name[0].isupper()),
        "Schedules (`help(fastlr.schedules)`)": ["schedules", "Plateau"],
        "Constraints after a step, and state from and to torch and optax": ["constraints", "interchange"],
        "Looking for a learning rate": ["find_lr", "tune_lr", "line_search", "History", "diagnose", "callbacks"],
        "Files, and loss scaling": ["save", "load", "CheckpointError", "LossScale"],
        "For frameworks and rules of your own": ["kernels", "get_include", "rule_from_pointers", "Optimizer", "Hyper",
                                                 "within", "Group"],
        "Settings and lists": ["set_num_threads", "get_num_threads", "show_config", "list_optimizers",
                               "create_optimizer"],
    }
    return "".join(f"\n\n{title}:\n{lines(names)}" for title, names in listed.items())


__doc__ += overview() + "\n\nFor torch: `from fastlr.torch import AdamW`. Docs: README.md, docs/.\n"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .configuration import version  # (it costs a third of NumPy's own import)

        globals()[name] = version()
    elif name in _LATER:
        from importlib import import_module

        module = import_module(f"fastlr.{_LATER[name]}")
        globals()[name] = module if name == _LATER[name] else getattr(module, name)
    else:
        raise AttributeError(f"module 'fastlr' has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
