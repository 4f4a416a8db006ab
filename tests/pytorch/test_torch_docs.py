"""The examples of docs/torch.md, docs/callbacks.md, README and the modules run where torch is."""
import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("docs/torch.md", 9), ("docs/callbacks.md", 1)])
def test_examples_of_pages_run(page, count):
    """Those of Lightning and Keras run in parity/."""
    blocks = [block for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
              if {"torch"} == {"torch", "lightning", "keras"} & {*re.findall(r"^import (\w+)", block, re.M)}]
    assert len(blocks) == count
    for block in blocks:
        exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("name", ["clipping", "optimizer", "binding"])
def test_examples_of_modules_run(name):
    assert doctest.testmod(importlib.import_module(f"fastlr.torch.{name}")).failed == 0
