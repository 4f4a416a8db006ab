"""HIPS autograd: gradients of functions of NumPy, steps of fastlr. `python examples/hips_autograd.py`

autograd returns gradients in the structure of the parameters, which is how an optimizer of fastlr takes them.
"""
from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd import value_and_grad

import fastlr
from fastlr import schedules


def model(params, x):
    for layer in params["layers"]:
        x = anp.tanh(x @ layer["w"] + layer["b"])
    return x @ params["out"]


def main(steps=500):
    """Fit a sine; the losses."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (256, 1))
    y = np.sin(x)
    params = {"layers": [{"w": rng.standard_normal((n, m)) / np.sqrt(n), "b": np.zeros(m)}
                         for n, m in ((1, 32), (32, 32))],
              "out": rng.standard_normal((32, 1)) / np.sqrt(32)}
    opt = fastlr.AdamW(params, lr=schedules.cosine(0.01, steps=steps).warmup(20), clip_norm=1.0)
    loss_and_grad = value_and_grad(lambda params: anp.mean((model(params, x) - y)**2))
    losses = []
    for _ in range(steps):
        loss, grads = loss_and_grad(params)
        opt.step(grads)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    found = main()
    print(f"loss {found[0]:.3f} to {found[-1]:.2e}")
