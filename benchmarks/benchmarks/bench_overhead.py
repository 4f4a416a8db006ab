"""What a step costs beside its arithmetic: per call, per tensor, per gradient."""
import ctypes

import numpy as np

import fastlr

from .arrays import normal, stepped


class Tensors:
    """AdamW over tensors of 64 float32, gradients bound or passed to each step."""

    params = ([1, 10, 100, 1000], ["bound", "passed"])
    param_names = ("tensors", "gradients")

    def setup(self, tensors, gradients):
        fastlr.set_num_threads(1)
        self.opt, grads = stepped(fastlr.AdamW, tensors, 64, bound=gradients == "bound")
        self.arguments = () if gradients == "bound" else (grads,)

    def time_step(self, tensors, gradients):
        self.opt.step(*self.arguments)

    time_step.version = "1"


class Reading:
    """Learning where 1000 gradients lie: fastlr reads NumPy's own struct, others ask the buffer protocol."""

    def setup(self):
        fastlr.set_num_threads(1)
        self.grads = normal(1000, 64, seed=2)
        self.opt = fastlr.AdamW(normal(1000, 64, seed=1), lr=1e-6)
        self.view = (ctypes.c_char * 256)()                       # room for a Py_buffer
        self.get, self.release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
        self.get.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
        self.release.argtypes, self.release.restype = [ctypes.c_void_p], None

    def time_bind(self):
        """Read, check shape, dtype and overlap: all of "passed" but the update itself."""
        self.opt.bind(self.grads)

    def time_memoryview(self):
        """One PyObject_GetBuffer each, as memoryview() does it."""
        for g in self.grads:
            memoryview(g)

    def time_same_loop(self):
        """The loop of time_memoryview around a call that reads nothing."""
        for g in self.grads:
            id(g)

    time_bind.version = time_memoryview.version = time_same_loop.version = "1"


class FirstStep:
    """Making an optimizer, over 100 tensors of 64."""

    def setup(self):
        self.params, self.grads = normal(100, 64, seed=1), normal(100, 64, seed=2)

    def time_construct(self):
        fastlr.AdamW(self.params, grads=self.grads)

    time_construct.version = "1"


def track_passed_minus_bound_per_tensor():
    """Nanoseconds that reading and checking one gradient takes, from steps over 1000 tensors of 64."""
    from timeit import timeit

    fastlr.set_num_threads(1)
    grads, params = normal(1000, 64, seed=2), normal(1000, 64, seed=1)
    bound = fastlr.AdamW(params, lr=1e-6, grads=grads)
    passed = fastlr.AdamW([p.copy() for p in params], lr=1e-6)
    more = [timeit(lambda: passed.step(grads), number=50) - timeit(bound.step, number=50) for _ in range(20)]
    return float(np.median(more)) / 50 / 1000 * 1e9


track_passed_minus_bound_per_tensor.unit = "ns"
track_passed_minus_bound_per_tensor.version = "1"
