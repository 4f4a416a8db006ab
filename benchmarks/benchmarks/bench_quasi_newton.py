"""L-BFGS: what it adds to the evaluations of the loss."""
import numpy as np

import fastlr


class Iterations:
    """Twenty iterations with full histories on a quadratic, whose own evaluation is two products."""

    params = ([100, 100_000], [10, 100])
    param_names = ("parameters", "history")

    def setup(self, size, history):
        self.p = np.ones(size)
        curvature = np.logspace(-3, 3, size)

        def closure():
            g = curvature * self.p
            return 0.5 * float(g @ self.p), g

        self.closure = closure
        self.opt = fastlr.LBFGS(self.p, history=history, tolerance_grad=0.0, tolerance_change=0.0, max_iter=history)
        self.opt.step(closure)
        self.opt.max_iter = 20

    def time_step(self, size, history):
        self.opt.step(self.closure)

    time_step.version = "1"
