"""Functions to minimise, each with its gradient, and where to begin."""
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problem:
    loss_and_grad: Any
    start: np.ndarray
    rate: float            # at which L-BFGS converges without a line search


def rosenbrock(x):
    """Its valley bends: 10 variables."""
    off, short = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    g = np.zeros_like(x)
    g[:-1] = -400 * x[:-1] * off - 2 * short
    g[1:] += 200 * off
    return float(100 * np.dot(off, off) + np.dot(short, short)), g


SCALES = np.logspace(-3, 3, 7)


def scaled_quadratic(x):
    """Condition number 1e6."""
    return float(0.5 * np.dot(SCALES, x * x)), SCALES * x


def breast_cancer():
    """Logistic regression with an L2 term on real data."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = np.c_[(x - x.mean(0)) / x.std(0), np.ones(len(x))]
    sign = 2.0 * y - 1

    def loss_and_grad(w):
        margin = sign * (x @ w)
        loss = np.logaddexp(0, -margin).mean() + 0.5e-2 * np.dot(w, w)
        return float(loss), -x.T @ (sign / (1 + np.exp(margin))) / len(x) + 1e-2 * w

    return loss_and_grad


PROBLEMS = {
    "rosenbrock": Problem(rosenbrock, np.tile([-1.2, 1.0], 5), 0.3),
    "scaled quadratic": Problem(scaled_quadratic, np.ones(7), 1.0),
    "breast cancer": Problem(breast_cancer(), np.zeros(31), 0.5),
}
