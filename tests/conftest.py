"""Every test gives back the threads as it found them."""
import sys
from pathlib import Path

import pytest

import fastlr

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def same_threads():
    before = fastlr.get_num_threads()
    yield
    fastlr.set_num_threads(before)
