"""The data of the benchmarks: normal random numbers (no zero, no subnormal), every page touched; and all optimizers."""
from functools import partial

import numpy as np

# Written out, and only appended to: asv hands a benchmark its parameters by number, also where it measures a commit
# whose registry is another one. tests/test_docs.py sees that nobody is missing.
ELEMENTWISE = [
    "SGD", "Momentum", "Nesterov", "AdaGrad", "AdaDelta", "RMSprop", "Adam", "AMSGrad", "AdamW", "RMSpropCentered",
    "RMSpropMomentum", "RMSpropCenteredMomentum", "FTRL", "MADGRAD", "SGDW", "QHM", "AggMo", "ASGD", "Rprop", "NAdam",
    "Adan", "NAdamW", "AdaMax", "LaProp", "QHAdam", "RAdam", "RAdamW", "AdaBelief", "Yogi", "Grams", "AdaBound",
    "DiffGrad", "ADOPT", "AdEMAMix", "ScheduleFreeSGD", "ScheduleFreeAdamW", "ScheduleFreeRAdam", "SignSGD", "Signum",
    "Tiger", "Lion", "Sophia",
]
REDUCING = [
    "PolyakSGD", "MoMo", "MoMoAdam", "DoG", "DoWG", "DAdaptSGD", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptLion",
    "Prodigy", "Fromage", "LARS", "LARC", "NovoGrad", "CautiousLion", "CautiousAdamW", "MARS", "StableAdamW", "LAMB",
]
MATRICES = [
    "Adafactor", "CAME", "SM3", "AdamMini", "SGDP", "AdamP", "Muon", "Shampoo", "SOAP", "RowwiseAdaGrad",
]
NAMES = ELEMENTWISE + REDUCING + MATRICES


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


def named(name):
    """An optimizer's class; one that this commit has not is left out."""
    import fastlr

    if not hasattr(fastlr, name):
        raise NotImplementedError(f"{name} came later")
    return getattr(fastlr, name)


def stepping(name, count, size):
    """One step of an optimizer, warm: with a loss where it takes one, after a curvature where it needs that."""
    params, grads = normal(count, size, seed=1), normal(count, size, seed=2)
    opt = named(name)(params, lr=1e-6, grads=grads)
    if name == "Sophia":
        opt.step(curvature=[g * g for g in grads])

    step = partial(opt.step, loss=1.0) if getattr(opt, "needs_loss", False) else opt.step
    for _ in range(3):
        step()
    return step
