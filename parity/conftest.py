"""Side by side with torch and optax, where they are installed: `pytest parity`, no part of the plain suite.

The registry of tests/ is used here too: what is declared there is compared here.
"""
import sys
from pathlib import Path

import pytest

import fastlr

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]


try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)           # its tensors here are tiny, and its threads spin


@pytest.fixture(autouse=True)
def same_threads():
    before = fastlr.get_num_threads()
    yield
    fastlr.set_num_threads(before)
