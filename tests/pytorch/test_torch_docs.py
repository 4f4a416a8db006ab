"""The examples of docs/torch.md, of README and of the modules run where torch is."""
import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/torch.md"])
def test_examples_of_pages_run(page):
    blocks = [block for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
              if "fastlr.torch" in block]
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("name", ["clipping", "optimizer", "binding"])
def test_examples_of_modules_run(name):
    assert doctest.testmod(importlib.import_module(f"fastlr.torch.{name}")).failed == 0
