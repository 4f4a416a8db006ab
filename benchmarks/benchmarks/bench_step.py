"""One update: optimizers, dtypes and shapes of model."""
import os

import fastlr

from .arrays import ELEMENTWISE, MATRICES, NAMES, REDUCING, stepped, stepping

SHAPES = {"1 x 64": (1, 64), "500 x 64": (500, 64), "500 x 1024": (500, 1024), "100 x 16384": (100, 16384),
          "1 x 200000": (1, 200_000), "1 x 10000000": (1, 10_000_000)}


class Shapes:
    """AdamW, gradients bound, on one thread."""

    params = (["1 x 64", "500 x 64", "500 x 1024", "100 x 16384", "1 x 200000", "1 x 10000000"],
              ["float32", "float64"])
    param_names = ("tensors", "dtype")
    timeout = 120

    def setup(self, shape, dtype):
        fastlr.set_num_threads(1)
        self.opt, self.grads = stepped(fastlr.AdamW, *SHAPES[shape], dtype)

    def time_step(self, shape, dtype):
        self.opt.step()

    time_step.version = "1"


class Optimizers:
    """Every rule that goes by elements, 200,000 float32, gradients bound, on one thread."""

    params = ELEMENTWISE + REDUCING
    param_names = ("optimizer",)

    def setup(self, name):
        fastlr.set_num_threads(1)
        self.step = stepping(name, 1, 200_000)

    def time_step(self, name):
        self.step()

    time_step.version = "1"


class Matrices:
    """Those that see whole matrices: eight of 128 x 128 float32, on one thread."""

    params = MATRICES
    param_names = ("optimizer",)
    timeout = 120

    def setup(self, name):
        fastlr.set_num_threads(1)
        self.step = stepping(name, 8, (128, 128))

    def time_step(self, name):
        self.step()

    time_step.version = "1"


class Small:
    """Every optimizer over 500 tensors of 8 x 8 float32: what a tensor costs beside its elements."""

    params = NAMES
    param_names = ("optimizer",)
    timeout = 120

    def setup(self, name):
        fastlr.set_num_threads(1)
        self.step = stepping(name, 500, (8, 8))

    def time_step(self, name):
        self.step()

    time_step.version = "1"


class Threads:
    """AdamW over 10 million float32."""

    params = [1, 2, 4]
    param_names = ("threads",)
    timeout = 120

    def setup(self, threads):
        if threads > (os.cpu_count() or 1):
            raise NotImplementedError("fewer cores")
        fastlr.set_num_threads(threads)
        self.opt, self.grads = stepped(fastlr.AdamW, 1, 10_000_000)

    def time_step(self, threads):
        self.opt.step()

    time_step.version = "1"


class Features:
    """What the common keywords add to AdamW over 200,000 float32, on one thread."""

    params = ["plain", "schedule", "clip_value", "coupled", "lr_scale", "strided gradient", "zero_grads"]
    param_names = ("feature",)

    def setup(self, feature):
        fastlr.set_num_threads(1)
        keywords = {"schedule": {"lr": fastlr.schedules.cosine(1e-6, steps=1_000_000)},
                    "clip_value": {"clip_value": 1.0},
                    "coupled": {"decay": "coupled"},
                    "lr_scale": {"lr_scale": [[0.5] * 200_000]}}.get(feature, {})
        self.zero = feature == "zero_grads"

        def made(params, lr, grads):
            return fastlr.AdamW(params, **{"lr": lr, **keywords}, grads=grads)

        self.opt, self.grads = stepped(made, 1, 200_000)
        if feature == "strided gradient":
            self.opt.bind([self.grads[0].repeat(2)[::2]])

    def time_step(self, feature):
        self.opt.step(zero_grads=self.zero)

    time_step.version = "1"
