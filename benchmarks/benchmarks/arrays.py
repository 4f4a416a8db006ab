"""The data of the benchmarks: normal random numbers (no zero, no subnormal), every page touched; and all optimizers."""
import ast
import re
import sys
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np


def declared():
    """The names of all optimizers: of elements, of rules that sum over a tensor, and of rules for matrices.

    From the sources beside this file, not from the fastlr that is imported: asv hands a benchmark its parameters by
    number, also where it measures a commit whose optimizers are others.
    """
    package = Path(__file__).parents[2] / "fastlr"
    spec = spec_from_file_location("fastlr_build_rules", package / "build_rules.py")
    build = sys.modules["fastlr_build_rules"] = module_from_spec(spec)
    spec.loader.exec_module(build)
    rules = {rule.name: rule for path in sorted((package / "rules").glob("*.pxd"))
             for rule in build.read_rules(path.read_text(encoding="utf-8"))}
    classes = {node.name: next((ast.literal_eval(k.value) for k in node.keywords if k.arg == "rule"), node.name)
               for path in sorted((package / "optimizers").glob("*.py"))
               for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)}
    kinds = ([], [], [])
    for name in re.findall(r"^class (\w+)\(_", (package / "optimizers" / "__init__.pyi").read_text("utf-8"), re.M):
        rule = rules.get(classes[name])
        kinds[2 if rule is None else bool(build.signature(rule)["sums"])].append(name)
    return kinds


ELEMENTWISE, REDUCING, MATRICES = declared()
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
