"""Side by side with torch and optax, where they are installed: `pytest parity`, no part of the plain suite.

The registry of tests/ is used here too: what is declared there is compared here.
"""
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import fastlr

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]


try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)           # its tensors here are tiny, and its threads spin


# `import timm` brings all its models and with them torchvision, `import torchrec` FBGEMM for one CUDA; their schedulers and
# optimizers need torch alone: packages without their __init__.py are enough (installed with `pip install --no-deps`).
for package, needs, names in (("timm", "torchvision", ("timm", "timm.optim", "timm.utils")),
                              ("torchrec", "fbgemm_gpu", ("torchrec", "torchrec.optim"))):
    found = find_spec(package)
    if found and find_spec(needs) is None:
        for name in names:
            bare = ModuleType(name)
            bare.__path__ = [path + name[len(package):].replace(".", "/") for path in found.submodule_search_locations]
            bare.__spec__ = ModuleSpec(name, None, is_package=True)
            sys.modules.setdefault(name, bare)


@pytest.fixture(autouse=True)
def same_threads():
    before = fastlr.get_num_threads()
    yield
    fastlr.set_num_threads(before)
