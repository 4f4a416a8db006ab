"""Rules that torch itself has not, beside pytorch_optimizer and optax: 200 float64 steps.

A row is ours, with its keywords and hyper-parameters, and the maker of theirs. Other files may hold tables of their
own; the last test here wants each optimizer in one of them whose docstring names a peer's.
"""
import ast
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peers = pytest.importorskip("pytorch_optimizer")

from registry import arrays  # noqa: E402

import fastlr  # noqa: E402
from fastlr.optimizers.base import REGISTRY  # noqa: E402

SHAPES = [(13,), (2, 3), (), (1,)]
STEPS = 200
SAME = 1e-10

# Files about what surrounds an optimizer, not about its rule.
OF_ANY_OPTIMIZER = {"test_wrappers.py", "test_stages.py", "test_rows_torch.py", "test_storage.py"}


class QHAdam(peers.QHAdam):
    """Theirs keeps the weights of its two means in float32, whatever the parameters: 1e-8 of each is lost."""

    def init_group(self, group, **how):
        super().init_group(group, **how)
        for p in group["params"]:
            for weight in ("beta1_weight", "beta2_weight"):
                self.state[p][weight] = self.state[p][weight].double()


class LaProp(peers.LaProp):
    """Theirs adds 1e-15 inside the root, and its epsilon before the correction of the start; the paper's code after."""

    def apply_ams_bound(self, ams_bound, exp_avg_sq, max_exp_avg_sq, eps):
        group, = self.param_groups
        return exp_avg_sq.sqrt().add_(eps * (1 - group["betas"][1] ** group["step"]) ** 0.5)


def betas(h, *names):
    return tuple(h[name] for name in names)


# Ours; what is changed from our defaults, one run each; theirs, given all hyper-parameters of ours.
PEERS = [
    (fastlr.SignSGD, [{}, {"lr": 0.02}, {"weight_decay": 0.1}], lambda params, h: peers.SignSGD(
        params, h["lr"], momentum=0.0, weight_decay=h["weight_decay"], weight_decouple=False, foreach=False)),
    (fastlr.Signum, [{}, {"momentum": 0.6}, {"weight_decay": 0.1, "lr": 0.02}], lambda params, h: peers.SignSGD(
        params, h["lr"], momentum=h["momentum"], weight_decay=h["weight_decay"], weight_decouple=False, foreach=False)),
    (fastlr.Tiger, [{}, {"momentum": 0.6}, {"weight_decay": 0.1, "lr": 0.02}], lambda params, h: peers.Tiger(
        params, h["lr"], beta=h["momentum"], weight_decay=h["weight_decay"], foreach=False)),
    (fastlr.SGDW, [{}, {"momentum": 0.6}, {"dampening": 0.3}, {"weight_decay": 0.1, "lr": 0.02}],
     lambda params, h: peers.SGDW(params, h["lr"], momentum=h["momentum"], weight_decay=h["weight_decay"],
                                  dampening=h["dampening"], foreach=False)),
    (fastlr.QHM, [{}, {"momentum": 0.6}, {"nu": 0.3}, {"nu": 1.0}, {"weight_decay": 0.1, "lr": 0.02}],
     lambda params, h: peers.QHM(params, h["lr"], momentum=h["momentum"], nu=h["nu"],
                                 weight_decay=h["weight_decay"], foreach=False)),
    (fastlr.AggMo, [{}, {"beta1": 0.2, "beta2": 0.5, "beta3": 0.8}, {"weight_decay": 0.1, "lr": 0.02}],
     lambda params, h: peers.AggMo(params, h["lr"], betas=betas(h, "beta1", "beta2", "beta3"),
                                   weight_decay=h["weight_decay"], foreach=False)),
    (fastlr.QHAdam, [{}, {"beta1": 0.6}, {"beta2": 0.9}, {"nu1": 0.3, "nu2": 0.8}, {"eps": 0.03},
                     {"weight_decay": 0.1, "lr": 0.02}],
     lambda params, h: QHAdam(params, h["lr"], betas=betas(h, "beta1", "beta2"), nus=betas(h, "nu1", "nu2"),
                              eps=h["eps"], weight_decay=h["weight_decay"], foreach=False)),
    (fastlr.Adan, [{}, {"beta1": 0.6}, {"beta2": 0.5}, {"beta3": 0.9}, {"eps": 0.03}, {"weight_decay": 0.1, "lr": 0.02}],
     lambda params, h: peers.Adan(params, h["lr"], betas=betas(h, "beta1", "beta2", "beta3"), eps=h["eps"],
                                  weight_decay=h["weight_decay"], foreach=False)),
    # (theirs decays after the step)
    (fastlr.LaProp, [{}, {"beta1": 0.6}, {"beta2": 0.9}, {"eps": 0.03}, {"lr": 0.02}],
     lambda params, h: LaProp(params, h["lr"], betas=betas(h, "beta1", "beta2"), eps=h["eps"],
                              weight_decay=h["weight_decay"], foreach=False)),
]


def gradients(t):
    rng = np.random.default_rng(1000 + t)
    return [np.array(g * 10.0 ** rng.uniform(-3, 1, size=g.shape)) for g in arrays(np.float64, SHAPES, seed=t)]


def flat(tensors):
    return np.concatenate([np.asarray(x).ravel() for x in tensors])


def apart(cls, hyper, make):
    """The largest difference ever, relative to the largest parameter there has been so far."""
    mine = [np.array(p) for p in arrays(np.float64, SHAPES, seed=77)]
    there = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in mine]
    ours = cls(mine, **hyper)
    theirs = make(there, {name: bound.default for name, bound in cls.hypers.items()} | hyper)
    worst, scale = 0.0, 0.0
    for t in range(STEPS):
        given = gradients(t)
        ours.step(given)
        for p, g in zip(there, given, strict=True):
            p.grad = torch.from_numpy(g.copy())
        theirs.step()
        x, y = flat(mine), flat([p.detach().numpy() for p in there])
        scale = max(scale, abs(y).max())
        worst = max(worst, abs(x - y).max() / scale)
    return worst


@pytest.mark.parametrize(("cls", "hyper", "make"), [
    pytest.param(cls, hyper, make, id=f"{cls.__name__}-{'-'.join(hyper) or 'as declared'}")
    for cls, hypers, make in PEERS for hyper in hypers])
def test_moves_as_its_peer(cls, hyper, make):
    assert apart(cls, hyper, make) <= SAME


@pytest.mark.parametrize(("cls", "make"), [pytest.param(cls, make, id=cls.__name__) for cls, _, make in PEERS])
def test_every_hyper_parameter_is_compared(cls, make):
    changed = set(itertools.chain.from_iterable(row for row_cls, hypers, _ in PEERS if row_cls is cls for row in hypers))
    assert changed == set(cls.hypers) - ({"weight_decay"} if cls is fastlr.LaProp else set())


def named_where_it_matters(file):
    """The names X of all `fastlr.X`, and keys of tables, in a file's tables and in those of its tests that assert."""
    for part in ast.parse(file.read_text()).body:
        asserts = isinstance(part, ast.FunctionDef) and part.name.startswith("test_") and any(
            isinstance(node, ast.Assert) for node in ast.walk(part))
        if asserts or isinstance(part, ast.Assign):
            yield from (node.attr for node in ast.walk(part) if isinstance(node, ast.Attribute)
                        and isinstance(node.value, ast.Name) and node.value.id == "fastlr")
        if isinstance(part, ast.Assign) and isinstance(part.value, ast.Dict):
            yield from (key.value for key in part.value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def test_what_a_docstring_says_of_a_peer_is_compared_with_it():
    """An optimizer whose docstring names no peer's is held to its paper alone, by `tests/reference.py`."""
    here = Path(__file__).parent
    files = [file for file in (*here.glob("test_*.py"), here / "torch_twins.py") if file.name not in OF_ANY_OPTIMIZER]
    compared = {name.lower() for file in files for name in named_where_it_matters(file)}
    told = {name for name, cls in REGISTRY.items() if re.search(r"``(\w+\.)+\w+", cls.__doc__ or "")}
    assert len(told) > 60
    assert sorted(told - compared) == []
