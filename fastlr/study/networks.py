"""Small fully connected networks in plain NumPy, an example of a framework that uses fastlr as its optimizer.

    net = Network((64, 32, 10), "relu", seed=0)
    opt = fastlr.SGD(net.params, grads=net.grads, lr=0.1)
    for batch in batches:
        loss, _ = net.loss_and_grad(batch)
        opt.step()

An optimizer needs two things from a framework: arrays of the parameters, and arrays of the same names and shapes for
their gradients. It reads both addresses once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Batch = tuple[Array, Array]


class Activation(NamedTuple):
    """An activation a = f(z) and its derivative, written in terms of a, so that z is not stored."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    gain: Callable[[int, int], float]


def he(fan_in: int, fan_out: int) -> float:
    """Standard deviation sqrt(2 / fan_in): keeps the variance of rectified layers. arXiv:1502.01852."""
    return float(np.sqrt(2.0 / fan_in))


def glorot(fan_in: int, fan_out: int) -> float:
    """Standard deviation sqrt(2 / (fan_in + fan_out)). Glorot & Bengio 2010, AISTATS 9:249-256."""
    return float(np.sqrt(2.0 / (fan_in + fan_out)))


ACTIVATIONS = {
    "relu": Activation(lambda z: np.maximum(z, 0), lambda a: a > 0, he),
    "tanh": Activation(np.tanh, lambda a: 1 - a * a, glorot),
    # the logistic function by tanh, in which no exponential overflows
    "sigmoid": Activation(lambda z: 0.5 + 0.5 * np.tanh(0.5 * z), lambda a: a * (1 - a), glorot),
}


class Network:
    """Layers h_k = f(h_{k-1} W_k + b_k), the last without f, under softmax cross-entropy or a squared error.

    `layers` are the widths from input to classes; `params` and `grads` map "fc1.weight" (in, out),
    "fc1.bias" (out,), "fc2.weight", ... to arrays of `dtype`. Both are allocated once, in the constructor, and
    every later call writes to the same memory. Weights start as normal deviates of `seed`, scaled by He's rule for
    relu and Glorot's for tanh and sigmoid; biases start at zero. The same arguments give the same bits.
    With `regression` the network has one output, which predicts a number, and the loss is the mean squared error.

    Raises `ValueError` for fewer than two layers, a width below 1, an unknown activation, or a regression with other
    than one output.
    """

    def __init__(
        self,
        layers: Sequence[int] = (64, 32, 10),
        activation: str = "relu",
        seed: int = 0,
        dtype: DTypeLike = np.float32,
        regression: bool = False,
    ) -> None:
        if len(layers) < 2 or min(layers) < 1:
            raise ValueError(f"Network: layers must be two or more widths of at least 1, got {tuple(layers)}")
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"Network: activation must be one of {known}, got {activation!r}")
        if regression and layers[-1] != 1:
            raise ValueError(f"Network: a regression has one output, so the last width must be 1, got {layers[-1]}")
        self.activation, self.regression = ACTIVATIONS[activation], regression
        self.depth = len(layers) - 1
        self.params: dict[str, Array] = {}
        rng = np.random.default_rng(seed)
        for k, (fan_in, fan_out) in enumerate(pairwise(layers), start=1):
            weight = rng.standard_normal((fan_in, fan_out)) * self.activation.gain(fan_in, fan_out)
            self.params[f"fc{k}.weight"] = weight.astype(dtype)
            self.params[f"fc{k}.bias"] = np.zeros(fan_out, dtype)
        self.grads = {name: np.zeros_like(p) for name, p in self.params.items()}

    def loss_and_grad(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        """The mean cross-entropy of a batch (x, y), in nats, and its gradient, written into `grads`.

        x is (n, inputs) of the network's dtype, y is (n,) integer labels. With p the softmax of the logits,
        the gradient at the logits is (p - onehot(y)) / n; the chain rule gives that of each layer, from the last.
        In a regression y is (n,) numbers, the loss the mean of (output - y)^2, its gradient 2 (output - y) / n.
        """
        x, y = batch
        h = self._forward(x)
        if self.regression:
            error = h[-1][:, 0] - y
            loss = float(np.square(error).mean())
            delta = (error * (2 / len(y)))[:, None].astype(h[-1].dtype)
        else:
            log_p = log_softmax(h[-1])
            correct = np.arange(len(y)), y
            loss = -float(log_p[correct].mean())
            delta = np.exp(log_p)
            delta[correct] -= 1
            delta /= len(y)
        for k in range(self.depth, 0, -1):
            np.matmul(h[k - 1].T, delta, out=self.grads[f"fc{k}.weight"])
            np.sum(delta, axis=0, out=self.grads[f"fc{k}.bias"])
            if k > 1:
                delta = delta @ self.params[f"fc{k}.weight"].T * self.activation.slope(h[k - 1])
        return loss, self.grads

    def loss(self, batch: Batch) -> float:
        """The mean cross-entropy of a batch, in nats, or its mean squared error, without gradients."""
        x, y = batch
        return float(self.row_losses(self._forward(x)[-1], y).mean())

    def row_losses(self, outputs: Array, y: Array) -> Array:
        """The loss of each row, by the outputs of the last layer: (n,)."""
        return row_losses(outputs, y, self.regression)

    def grad_norm(self) -> float:
        """The Euclidean norm of the latest gradient, over all weights and biases."""
        return math.sqrt(sum(float(np.vdot(g, g)) for g in self.grads.values()))

    def logits(self, x: Array) -> Array:
        """The last layer's outputs for each row of x, scores of the classes before the softmax: (n, classes)."""
        return self._forward(x)[-1]

    def predict(self, x: Array) -> Array:
        """The most likely class of each row of x: (n,) integers; in a regression the predicted number."""
        outputs = self._forward(x)[-1]
        predicted: Array = outputs[:, 0] if self.regression else outputs.argmax(axis=1)
        return predicted

    def accuracy(self, x: Array, y: Array) -> float:
        """The fraction of rows of x whose predicted class is y, in [0, 1]."""
        return float((self.predict(x) == y).mean())

    def _forward(self, x: Array) -> list[Array]:
        """[x, h_1, ..., logits]."""
        h = [x]
        for k in range(1, self.depth + 1):
            z = h[-1] @ self.params[f"fc{k}.weight"] + self.params[f"fc{k}.bias"]
            h.append(self.activation.value(z) if k < self.depth else z)
        return h


def row_losses(outputs: Array, y: Array, regression: bool) -> Array:
    """The loss of each row: the cross-entropy of (n, classes) scores, or the squared error of (n, 1) numbers."""
    if regression:
        squares: Array = np.square(outputs[:, 0] - y)
        return squares
    return -log_softmax(outputs)[np.arange(len(y)), y]


def parse_network(text: str) -> tuple[tuple[int, ...], str]:
    """("64-32-10-relu") -> ((64, 32, 10), "relu"). Raises `ValueError` for any other form."""
    *widths, activation = text.split("-")
    whole = all(width.isascii() and width.isdecimal() and len(width) < 7 and int(width) > 0 for width in widths)
    if len(widths) < 2 or not whole or activation not in ACTIVATIONS:
        raise ValueError(
            f"study: a network is its widths and one of {', '.join(ACTIVATIONS)}, like 64-32-10-relu; got {text!r}"
        )
    return tuple(map(int, widths)), activation


def log_softmax(z: Array) -> Array:
    """z - log(sum(exp(z))) along the last axis, shifted by the maximum so that no exponential overflows."""
    shifted: Array = z - z.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
