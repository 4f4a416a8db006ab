"""Every optimizer gets somewhere: a badly scaled quadratic, Rosenbrock's valley, logistic regression on real data."""
import inspect
from math import isfinite

import numpy as np
import pytest
from problems import PROBLEMS
from registry import every_optimizer

# Updates, and what part of the first loss may be left. (The logistic regression's optimum is at 0.10 of it.)
GOALS = {"scaled quadratic": (1500, 1e-2), "rosenbrock": (1500, 1e-2), "breast cancer": (200, 0.25)}

# Learning rates where the default is not good for all three; three where none is: what has the gradient's own size
# must not exceed 2 / 1000 on the quadratic, and RAdam's first steps are of that kind.
SIZED = {"scaled quadratic": 1e-3, "rosenbrock": 1e-3, "breast cancer": 0.1}
RATES = {
    "SGD": SIZED | {"breast cancer": 1.0}, "ASGD": SIZED | {"breast cancer": 1.0}, "QHM": SIZED | {"breast cancer": 1.0},
    "Momentum": SIZED, "SGDW": SIZED, "Nesterov": SIZED, "AggMo": SIZED, "LARC": SIZED, "RAdam": SIZED, "RAdamW": SIZED,
    "AdaBound": {"scaled quadratic": 1e-5, "rosenbrock": 1e-5, "breast cancer": 0.01},     # (in the end 100 times that)
    "AdaGrad": 1.0, "Adafactor": 1.0, "LARS": 1.0,
    "Adam": 0.1, "AdamW": 0.1, "AMSGrad": 0.1, "NAdam": 0.1, "NAdamW": 0.1, "AdaMax": 0.1, "LaProp": 0.1, "QHAdam": 0.1,
    "Adan": 0.1, "LAMB": 0.1, "CautiousAdamW": 0.1, "StableAdamW": 0.1, "Fromage": 0.1, "Shampoo": 0.1, "CAME": 0.1,
    "AdamMini": 0.1,
    "SignSGD": 0.01, "Signum": 0.01, "Tiger": 0.01, "CautiousLion": 0.01, "NovoGrad": 0.01, "MARS": 0.01, "Muon": 0.01,
}
# ... and where none is told here, the default or one of these has to be.
OTHERS = (0.1, 0.01, 1e-3, 1.0)


def left(cls, problem, steps, rate):
    """The loss after those updates, as a part of the first one."""
    x = problem.start.copy()
    opt = cls([x], lr=rate, weight_decay=0.0)
    asks = "loss" in inspect.signature(opt.step).parameters
    first, _ = problem.loss_and_grad(x)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            loss, g = problem.loss_and_grad(x)
            if not isfinite(loss) or loss > 1e6 * first:
                return np.inf
            opt.step([g], **({"loss": loss} if asks else {}))
        return problem.loss_and_grad(x)[0] / first


@every_optimizer
@pytest.mark.parametrize("name", GOALS)
def test_converges(cls, name):
    steps, goal = GOALS[name]
    rate = RATES.get(cls.__name__)
    rates = (cls.hypers["lr"].default, *OTHERS) if rate is None else (rate[name] if isinstance(rate, dict) else rate,)
    assert any(left(cls, PROBLEMS[name], steps, rate) <= goal for rate in rates)
