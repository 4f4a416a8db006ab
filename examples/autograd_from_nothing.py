"""A framework from nothing: reverse-mode differentiation over NumPy, trained by any optimizer of fastlr.

    python examples/autograd_from_nothing.py --optimizer adamw --lr "cosine(0.01, steps=400).warmup(20)"
    python examples/autograd_from_nothing.py --optimizer lion --lr find

A network learns scikit-learn's digits. An optimizer needs two things from a framework: arrays of the parameters, and
arrays of the same structure for their gradients. Here both are allocated once, and given to the constructor: `step()`
then takes no argument.
"""
from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np

import fastlr
from fastlr import schedules

# The engine


class Tensor:
    """An array that remembers how it was computed.

    `backward` is called with the gradient of the result, and adds to the gradients of the operands.
    """

    def __init__(self, value, operands=(), backward=None, grad=None):
        self.value = np.asarray(value, np.float32)
        self.operands, self.backward_of, self.grad = operands, backward, grad

    @classmethod
    def parameter(cls, value):
        """What is trained: its gradient is allocated once."""
        value = np.array(value, np.float32)
        return cls(value, grad=np.zeros_like(value))

    def add_to_grad(self, gradient):
        """Add a gradient, summed over the axes along which this was broadcast."""
        extra = gradient.ndim - self.value.ndim
        gradient = gradient.sum(axis=tuple(range(extra))) if extra else gradient
        repeated = tuple(k for k, n in enumerate(self.value.shape) if n == 1 != gradient.shape[k])
        gradient = gradient.sum(axis=repeated, keepdims=True) if repeated else gradient
        if self.grad is None:
            self.grad = np.zeros_like(self.value)
        self.grad += gradient

    def backward(self):
        """Compute the gradients of all that this number was computed from."""
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            tensor, done = stack.pop()
            if done:
                order.append(tensor)
            elif id(tensor) not in seen:
                seen.add(id(tensor))
                stack.append((tensor, True))
                stack += [(operand, False) for operand in tensor.operands]
        self.add_to_grad(np.ones_like(self.value))
        for tensor in reversed(order):
            if tensor.backward_of is not None:
                tensor.backward_of(tensor.grad)
                tensor.grad = None             # (it is needed no more, and a second backward pass begins anew)

    # Operations

    def __add__(self, other):
        other = as_tensor(other)

        def backward(g):
            self.add_to_grad(g)
            other.add_to_grad(g)

        return Tensor(self.value + other.value, (self, other), backward)

    def __mul__(self, other):
        other = as_tensor(other)

        def backward(g):
            self.add_to_grad(g * other.value)
            other.add_to_grad(g * self.value)

        return Tensor(self.value * other.value, (self, other), backward)

    def __matmul__(self, other):
        def backward(g):
            self.add_to_grad(g @ other.value.T)
            other.add_to_grad(self.value.T @ g)

        return Tensor(self.value @ other.value, (self, other), backward)

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -as_tensor(other)

    def relu(self):
        return Tensor(np.maximum(self.value, 0), (self,), lambda g: self.add_to_grad(g * (self.value > 0)))

    def tanh(self):
        value = np.tanh(self.value)
        return Tensor(value, (self,), lambda g: self.add_to_grad(g * (1 - value * value)))

    def exp(self):
        value = np.exp(self.value)
        return Tensor(value, (self,), lambda g: self.add_to_grad(g * value))

    def log(self):
        return Tensor(np.log(self.value), (self,), lambda g: self.add_to_grad(g / self.value))

    def sum(self):
        return Tensor(self.value.sum(), (self,), lambda g: self.add_to_grad(np.broadcast_to(g, self.value.shape)))

    def mean(self):
        return self.sum() * (1 / self.value.size)

    def cross_entropy(self, labels):
        """The mean of -log softmax at the labels: of rows of logits."""
        shifted = self.value - self.value.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        rows, probabilities = np.arange(len(labels)), np.exp(shifted - log_sum)

        def backward(g):
            gradient = probabilities.copy()
            gradient[rows, labels] -= 1
            self.add_to_grad(gradient * (g / len(labels)))

        return Tensor((log_sum[:, 0] - shifted[rows, labels]).mean(), (self,), backward)


def as_tensor(x):
    return x if isinstance(x, Tensor) else Tensor(x)


# A network over it, and all that fastlr is told of it


class Network:
    """Fully connected layers with relu between them."""

    def __init__(self, widths, seed=0):
        rng = np.random.default_rng(seed)
        self.layers = [{"weight": Tensor.parameter(rng.standard_normal((n, m)) * np.sqrt(2 / n)),
                        "bias": Tensor.parameter(np.zeros(m))} for n, m in pairwise(widths)]
        self.params = [{name: x.value for name, x in layer.items()} for layer in self.layers]
        self.grads = [{name: x.grad for name, x in layer.items()} for layer in self.layers]

    def __call__(self, x):
        x = as_tensor(x)
        for k, layer in enumerate(self.layers):
            x = (x.relu() if k else x) @ layer["weight"] + layer["bias"]
        return x

    def loss_and_grad(self, batch):
        """The loss, and no gradients, as those are in `grads`, which steps read: what `fastlr.find_lr` takes."""
        x, labels = batch
        for layer in self.grads:
            for grad in layer.values():
                grad[...] = 0
        loss = self(x).cross_entropy(labels)
        loss.backward()
        return float(loss.value), None

    def accuracy(self, x, labels):
        return float((self(x).value.argmax(axis=1) == labels).mean())


def digits():
    """Scikit-learn's 1,797 digits of 8 x 8: four fifths to train on, and the rest."""
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    x = (x / 16 - 0.5).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    train, held = order[:1437], order[1437:]
    return (x[train], labels[train]), (x[held], labels[held])


def batches(data, size=64, seed=0):
    """The data in batches, in another order each time they are gone through."""
    x, labels = data
    order = np.random.default_rng(seed).permutation(len(x))
    return [(x[part], labels[part]) for part in np.array_split(order, len(x) // size)]


def train(optimizer="adamw", lr="cosine(0.01, steps=400).warmup(20)", epochs=20, seed=0):
    """Train the network; the accuracy on digits that it was not trained on, and the losses."""
    data, held = digits()
    net = Network((64, 48, 10), seed)
    opt = fastlr.create_optimizer(optimizer, net.params, grads=net.grads)
    if lr == "find":
        lr = fastlr.find_lr(opt, net.loss_and_grad, batches(data), trial_steps=60).lr
        print(f"found lr = {lr:.3g}")
        lr = schedules.cosine(lr, steps=epochs * len(batches(data)))
    opt.lr = schedules.parse(lr) if isinstance(lr, str) else lr
    losses = []
    for epoch in range(epochs):
        for batch in batches(data, seed=epoch):
            losses.append(net.loss_and_grad(batch)[0])
            opt.step()
    return net.accuracy(*held), losses


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--optimizer", default="adamw", help="a name of fastlr.list_optimizers()")
    arguments.add_argument("--lr", default="cosine(0.01, steps=400).warmup(20)", help="a schedule, a number, or find")
    arguments.add_argument("--epochs", type=int, default=20)
    given = arguments.parse_args()
    lr = given.lr
    try:
        lr = float(lr)
    except ValueError:
        pass
    accuracy, losses = train(given.optimizer, lr, given.epochs)
    print(f"{given.optimizer}: loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} updates, "
          f"{accuracy:.1%} of unseen digits")


if __name__ == "__main__":
    main()
