"""What type checkers and editors know of constructors: the stubs are those of the declarations, and mypy uses them."""
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
from registry import OPTIMIZERS, every_optimizer

import fastlr
from fastlr.optimizers import stubs

PACKAGE = Path(fastlr.__file__).parent

CALLS = """
import numpy as np
import fastlr

p = np.zeros(3)
fastlr.AdamW(p, 0.1, beta1=0.9, eps=fastlr.schedules.constant(1e-8), clip_norm=1.0, weight_decay=lambda t: 0.1)
fastlr.Muon(p, adjust="spectral", fallback=None, decay="decoupled", nonfinite="skip")
fastlr.Muon(p, fallback={"embedding": True}, coefficients=(3.4, -4.8, 2.0))
fastlr.Muon(p, fallback=lambda name, array: "bias" in name, coefficients=[(3.4, -4.8, 2.0), (2.9, -4.1, 1.7)])
fastlr.Sophia(p).step(p, curvature=p)
adam: fastlr.Adam = fastlr.AMSGrad(p)
adam.clip_norm = 1.0
adam.step(p, grad_scale=fastlr.LossScale())


class Mine(fastlr.AdamW):
    lr: fastlr.Hyper = fastlr.within(0.5)


Mine(p, beta2=0.5)
fastlr.AdamW(p, beta_1=0.9)
fastlr.AdamW(p, betas=(0.9, 0.999))
fastlr.SGD(p, beta1=0.9)
fastlr.Muon(p, adjust="nothing")
fastlr.SGD(p, nonfinite="ignore")
fastlr.Muon(p, fallback="adam")
fastlr.Muon(p, coefficients="fifth")
fastlr.Muon(p, nesterov="yes")
fastlr.Adam(p, lr="0.1")
fastlr.AdamW()
Mine(p, beta_1=0.5)
"""
REFUSED = [
    'Unexpected keyword argument "beta_1" for "AdamW"; did you mean "beta1"?',
    'Unexpected keyword argument "betas" for "AdamW"',
    'Unexpected keyword argument "beta1" for "SGD"',
    'Argument "adjust" to "Muon" has incompatible type',
    'Argument "nonfinite" to "SGD" has incompatible type',
    'Argument "fallback" to "Muon" has incompatible type',
    'Argument "coefficients" to "Muon" has incompatible type',
    'Argument "nesterov" to "Muon" has incompatible type',
    'Argument "lr" to "Adam" has incompatible type',
    'Missing positional argument "params" in call to "AdamW"',
    'Unexpected keyword argument "beta_1" for "Mine"; did you mean "beta1"?',
]


@pytest.mark.parametrize("name", stubs.STUBS)
def test_stubs_are_made_from_the_declarations(name):
    """python -m fastlr.optimizers.stubs"""
    assert (PACKAGE / name).read_text(encoding="utf-8") == stubs.STUBS[name]()


def test_mypy_takes_what_is_right_and_refuses_what_is_wrong(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "calls.py").write_text(CALLS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "--no-error-summary",
         f"--cache-dir={tmp_path / 'cache'}", "--no-color-output", "calls.py"], cwd=tmp_path, capture_output=True,
        text=True, env=os.environ | {"MYPYPATH": str(PACKAGE.parent)})
    errors = [(int(line), message) for line, message in re.findall(r"^calls\.py:(\d+): error: (.*)$", done.stdout, re.M)]
    first = CALLS.splitlines().index("fastlr.AdamW(p, beta_1=0.9)") + 1
    assert [line for line, _ in errors] == list(range(first, first + len(REFUSED))), done.stdout
    for (_, message), refused in zip(errors, REFUSED, strict=True):
        assert message.startswith(refused)


@every_optimizer
def test_signatures_tell_the_truth(cls):
    parameters = inspect.signature(cls).parameters
    for name, option in cls.options.items():
        annotation = parameters[name].annotation
        if option.check is None and set(option.choices) != {True, False}:
            assert annotation == Literal[option.choices]
            for choice in get_args(annotation):
                assert getattr(cls(np.ones((2, 2)), **{name: choice}), name) == choice
        else:
            assert annotation is not fastlr.Hyper
        assert parameters[name].default == option.default
    for name in cls.hypers:
        assert parameters[name].annotation == fastlr.Hyper
    for name in cls.initial_states:
        assert parameters[name].annotation is float


def test_every_keyword_of_a_stub_is_one_of_the_constructor():
    text = stubs.optimizers_stub()
    common = set(re.findall(r"^    (\w+):", text.split("class _Common")[1].split("\nclass ")[0], re.M))
    for cls in OPTIMIZERS:
        body = text.split(f"\nclass {cls.__name__}(")[1].split(") -> None")[0].split("__init__")[1]
        assert set(re.findall(r"(\w+): ", body)) - {"common"} | common == set(inspect.signature(cls).parameters), cls
