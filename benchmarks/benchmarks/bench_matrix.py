"""Rules that see whole matrices: at a transformer's shapes scaled down, and over many small matrices."""
import numpy as np

import fastlr

# A layer of width 256, with an embedding: 1.3 million elements.
LAYER = [(2000, 256), (768, 256), (768,), (256, 256), (256,), (1024, 256), (1024,), (256, 1024), (256,), (256,), (256,)]
SHAPES = {"transformer": LAYER, "500 x 64": [(8, 8)] * 500}


def made(name, shapes, dtype="float32"):
    random = np.random.default_rng(0)
    params, grads = ([random.standard_normal(shape, dtype=dtype) for shape in shapes] for _ in range(2))
    opt = getattr(fastlr, name)(params, lr=1e-6, grads=grads)
    for _ in range(2):
        opt.step()
    return opt


class Matrices:
    """One update, gradients bound, float32, on one thread."""

    params = (["Adafactor", "CAME", "SM3", "AdamMini", "Muon", "Shampoo", "SOAP"], list(SHAPES))
    param_names = ("optimizer", "tensors")
    timeout = 240

    def setup(self, name, tensors):
        if name in ("Shampoo", "SOAP") and tensors == "transformer":
            raise NotImplementedError("eigenvectors of 2000 x 2000: LAPACK's time")
        fastlr.set_num_threads(1)
        self.opt = made(name, SHAPES[tensors])

    def time_step(self, name, tensors):
        self.opt.step()

    time_step.version = "1"


class SmallMatrices:
    """Muon over 100 square matrices of so many rows: compiled up to 64, NumPy's BLAS above."""

    params = ([4, 8, 16, 32, 48, 64, 72, 96], ["float32", "float64"])
    param_names = ("rows", "dtype")

    def setup(self, rows, dtype):
        fastlr.set_num_threads(1)
        self.opt = made("Muon", [(rows, rows)] * 100, dtype)

    def time_step(self, rows, dtype):
        self.opt.step()

    time_step.version = "1"
