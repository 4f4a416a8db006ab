"""scikit-learn's MLPClassifier, trained by an optimizer of fastlr. `python examples/sklearn_mlp.py`

`partial_fit` uses the optimizer that a classifier has, an object with `update_params`; so a subclass that makes one of
fastlr's once the weights are there takes any rule and schedule. scikit-learn names neither as public: it is tested with
the version that is installed.
"""
from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import fastlr
from fastlr import schedules


class Updates:
    """What MLPClassifier calls an optimizer, over one of fastlr."""

    def __init__(self, opt):
        self.opt = opt
        self.learning_rate = None

    def update_params(self, params, grads):
        self.opt.step(grads)

    def iteration_ends(self, time_step):
        pass

    def trigger_stopping(self, message, verbose):
        return True


class FastMLPClassifier(MLPClassifier):
    """MLPClassifier with `make_optimizer`, a callable of the list of its parameters."""

    def __init__(self, make_optimizer=fastlr.AdamW, hidden_layer_sizes=(100,), batch_size=64, random_state=None):
        super().__init__(hidden_layer_sizes, batch_size=batch_size, random_state=random_state, solver="adam")
        self.make_optimizer = make_optimizer

    def _initialize(self, *arguments, **keywords):
        super()._initialize(*arguments, **keywords)
        self._optimizer = Updates(self.make_optimizer(self.coefs_ + self.intercepts_))


def main(epochs=20):
    """The accuracy on digits that it was not trained on."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split((x / 16).astype(np.float32), y, random_state=0)
    updates = epochs * -(-len(x_train) // 64)

    def make(params):
        return fastlr.AdamW(params, lr=schedules.cosine(0.01, steps=updates).warmup(20))

    classifier = FastMLPClassifier(make, random_state=0)
    for _ in range(epochs):
        classifier.partial_fit(x_train, y_train, classes=np.unique(y))
    return classifier.score(x_test, y_test), classifier


if __name__ == "__main__":
    print(f"{main()[0]:.1%} of unseen digits")
