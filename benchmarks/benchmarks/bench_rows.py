"""A step over rows of a table."""
import numpy as np

import fastlr

from .arrays import normal


class Rows:
    """10,000 rows of a 1,000,000 x 64 float32 table, on one thread."""

    params = (["SGD", "AdaGrad", "Adam", "RowwiseAdaGrad"], ["uniform", "skewed"])
    param_names = ("optimizer", "indices")
    timeout = 120

    def setup(self, name, kind):
        fastlr.set_num_threads(1)
        random = np.random.default_rng(1)
        table, = normal(1, (1_000_000, 64))
        self.grads, = normal(1, (10_000, 64), seed=2)
        self.batches = [random.zipf(1.1, 10_000) * 48271 % 1_000_000 if kind == "skewed"
                        else random.integers(0, 1_000_000, 10_000) for _ in range(8)]
        self.opt = getattr(fastlr, name)({"table": table}, lr=1e-3)
        for rows in self.batches:                  # (the state's pages are touched)
            self.opt.step_rows("table", rows, self.grads)

    def time_eight_steps(self, name, kind):
        for rows in self.batches:
            self.opt.step_rows("table", rows, self.grads)

    time_eight_steps.version = "1"
