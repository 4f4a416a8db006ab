"""MLX: its gradients, and fastlr's steps in the memory of its arrays. `python examples/mlx_arrays.py`

An array of MLX (``pip install mlx[cpu]``) is a writable buffer on the CPU, so a tree of parameters is what an optimizer
takes, as it is. What the lazy graph has not computed has no memory yet: `mx.eval` comes before the optimizer is made
and before each step.
"""
from __future__ import annotations

import mlx.core as mx

import fastlr

mx.set_default_device(mx.cpu)


def loss_of(params, x, y):
    h = mx.maximum(x @ params["w1"] + params["b1"], 0)
    return mx.mean(mx.square(h @ params["w2"] - y))


def main(steps=300):
    """Fit the sum of four numbers; the losses."""
    mx.random.seed(0)
    x = mx.random.normal((128, 4))
    y = mx.sum(x, axis=1, keepdims=True)
    params = {"w1": mx.random.normal((4, 32)) * 0.5, "b1": mx.zeros((32,)), "w2": mx.random.normal((32, 1)) * 0.2}
    mx.eval(params, x, y)
    opt = fastlr.Lion(params, lr=fastlr.schedules.linear(0.003, steps=steps))
    loss_and_grad, losses = mx.value_and_grad(loss_of), []
    for _ in range(steps):
        loss, grads = loss_and_grad(params, x, y)
        mx.eval(loss, grads)
        opt.step(grads)
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    found = main()
    print(f"loss {found[0]:.3f} to {found[-1]:.2e}")
