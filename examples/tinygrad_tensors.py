"""tinygrad: its gradients, and fastlr's steps of arrays from which its tensors take their values.

    python examples/tinygrad_tensors.py

The parameters are NumPy's arrays, which the optimizer moves in place; tensors of any device take their values by
`assign`. As tinygrad's own optimizers, `Optimizer` here has `params`, `zero_grad` and `step`. tinygrad's CPU device
calls clang; ``DEV=PYTHON`` needs no compiler.
"""
from __future__ import annotations

import numpy as np
from tinygrad import Tensor

import fastlr


class Optimizer:
    """An optimizer of fastlr for tensors of tinygrad: ``Optimizer(fastlr.AdamW, params, lr=0.01)``."""

    def __init__(self, cls, params, **keywords):
        self.params = params
        self.arrays = [np.array(p.numpy()) for p in params]
        self.opt = cls(self.arrays, **keywords)

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    def step(self):
        self.opt.step([None if p.grad is None else p.grad.numpy() for p in self.params])
        Tensor.realize(*[p.assign(Tensor(array, device=p.device)) for p, array in
                         zip(self.params, self.arrays, strict=True)])


def main(steps=40):
    """Fit a plane; the losses."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 3)).astype(np.float32)
    y = Tensor((x @ np.array([[1.0], [-2.0], [0.5]], np.float32)) + 1)
    x = Tensor(x)
    w, b = Tensor.zeros(3, 1).contiguous().realize(), Tensor.zeros(1).contiguous().realize()
    opt = Optimizer(fastlr.Adam, [w, b], lr=0.2)
    losses = []
    for _ in range(steps):
        opt.zero_grad()
        loss = (x @ w + b - y).square().mean()
        loss.backward()
        losses.append(loss.item())
        opt.step()
    return losses


if __name__ == "__main__":
    found = main()
    print(f"loss {found[0]:.3f} to {found[-1]:.2e}")
