"""The data of the benchmarks: normal random numbers (no zero, no subnormal), every page touched."""
import numpy as np


def normal(count, size, dtype="float32", seed=0):
    """`count` arrays of `size` normal random numbers."""
    random = np.random.default_rng(seed)
    return [random.standard_normal(size, dtype=np.dtype(dtype).type) for _ in range(count)]


def stepped(optimizer, count, size, dtype="float32", bound=True):
    """(optimizer after some steps, its gradients): moments are warm."""
    params, grads = normal(count, size, dtype, 1), normal(count, size, dtype, 2)
    opt = optimizer(params, lr=1e-6, grads=grads if bound else None)
    for _ in range(3):
        opt.step() if bound else opt.step(grads)
    return opt, grads
